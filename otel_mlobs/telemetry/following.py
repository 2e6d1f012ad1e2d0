"""What a monitor does so that a later label finds its prediction, and what it counts when one does.

The store is known by what it does, not by what it is: where predictions wait is :mod:`otel_mlobs.stores`' matter.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from otel_mlobs.core.performance import Outcome, payloads_of, valid_label
from otel_mlobs.core.records import (
    NO_CURRENCY,
    Label,
    Prediction,
    plain,
    stream_of,
    valid_amount,
    valid_currency,
)
from otel_mlobs.telemetry import guard, instruments, prediction_ids, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_mlobs.core.performance import Encoded, Performance
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.core.records import Joined, Record, Unlabelled


_CLAIMED_AT_ONCE = 1_000
_LONGEST_VARIANT = 256


class Store(Protocol):
    """Where predictions wait for their labels; :class:`otel_mlobs.OutcomeStore` is one."""

    @property
    def kind(self) -> str:
        """``memory``, ``redis`` or ``sql``."""

    def register(self, prediction: Prediction) -> None:
        """Keep a prediction; never waits."""

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several."""

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join a label, now or soon, and tell ``done`` what became of it."""

    def flush(self, timeout: float) -> bool:
        """Write and join what waits; false where that took longer."""

    def claim(self, stream: str, now: float, limit: int) -> list[Record]:
        """Predictions that are mature at ``now``; each is given out once, in whatever process."""


class Following:
    """Registers a monitor's predictions with a store, takes their labels, and counts the ones that are mature."""

    def __init__(
        self,
        profile: Profile,
        performance: Performance,
        store: Store,
        *,
        maturity: float | None,
        unlabelled: Unlabelled,
        clock: Callable[[], float],
        fold: Callable[[], None],
    ) -> None:
        """``fold`` counts what is queued where it is much."""
        self._performance = performance
        self._store = store
        self._maturity = maturity
        self._negative = unlabelled == "negative"
        self._clock = clock
        self._stream = stream_of(profile.model, profile.version, profile.id)
        self._labels = instruments.model_labels(profile.model, profile.version, profile.id)
        self._fold = fold
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked child no thread is counting what is mature."""
        self._sweeping = self._finishing = False
        self._thread: threading.Thread | None = None

    def predicted(self, encoded: Encoded, prediction_id: Any, variant: str | None) -> None:
        """Register one prediction or a batch of them, by the caller's ids or ours."""
        now = self._clock()
        due = None if self._maturity is None else now + self._maturity
        if variant is not None:
            variant = readings.encodable(str(variant))[:_LONGEST_VARIANT]
        if isinstance(encoded, bytes):
            if prediction_id is None:
                prediction_id = prediction_ids.new()
            elif type(prediction_id) is not str or not 0 < len(prediction_id) <= prediction_ids.LONGEST:
                (prediction_id,) = self._ids(prediction_id, 1)
            self._store.register(Prediction(prediction_id, self._stream, now, encoded, due, variant))
            return
        payloads = payloads_of(encoded)
        ids = self._ids(prediction_id, len(payloads))
        self._store.register_many(
            [
                Prediction(one, self._stream, now, payload, due, variant)
                for one, payload in zip(ids, payloads, strict=True)
            ]
        )

    def _ids(self, given: Any, rows: int) -> list[str]:
        """The caller's ids, one a row; ours where they are none, so that the predictions are not lost."""
        try:
            return prediction_ids.of_rows(given, rows)
        except (TypeError, ValueError) as error:
            guard.report("prediction_id", error)
            return prediction_ids.of_rows(None, rows)

    def submit(
        self, prediction_id: str, value: Any, amount: float | None, currency: str | None, time: float | None
    ) -> None:
        """Send a label, as :func:`otel_mlobs.core.records.plain` gives it, to its prediction."""
        when = self._clock() if time is None else time
        label = Label(prediction_id, "", value, when, amount, currency, uuid.uuid4().hex)
        self._store.submit(label, self.joined)

    def joined(self, joined: Joined) -> None:
        """Count what became of a label; called by the store, on whichever thread did the work."""
        try:
            label, found, prediction = joined
            result: str = found
            performance = self._performance
            if prediction is not None and prediction.stream != self._stream:
                performance.add_result("other_profile")
                return
            if result in ("joined", "late") and not valid_label(performance, label.value):
                result = "invalid"  # joined by a job that does not know the model's classes
            performance.add_result(result)
            if prediction is None or result not in ("joined", "late"):
                return
            if label.time is not None:
                instruments.outcome_delay().record(max(0.0, label.time - prediction.time), self._labels)
            if prediction.due is None and result == "joined":  # else whoever claims it when it is mature counts it
                self._count(prediction, label)
        except Exception as error:  # noqa: BLE001 - the store's thread has other labels to join
            guard.report("outcomes", error)

    def _count(self, prediction: Prediction, label: Label) -> None:
        self._performance.add_outcome(
            Outcome(prediction.payload, label.value, label.amount, label.currency, prediction.variant)
        )

    @property
    def store(self) -> Store:
        """Where predictions wait."""
        return self._store

    def stop_claiming(self, timeout: float) -> None:
        """Claim no more, and wait until what was claimed is counted: nobody else will be given it."""
        self._finishing = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def finish(self, timeout: float) -> None:
        """Let the store write what it was given, and join the labels."""
        try:
            self._store.flush(timeout)
        except Exception as error:  # noqa: BLE001 - the process ends all the same
            guard.report("outcomes", error)

    def count_mature(self, now: float) -> None:
        """Count what is mature at ``now``: here where that is quick, else in a thread of its own."""
        if self._maturity is None or self._sweeping or self._finishing:
            return
        self._sweeping = True
        if self._store.kind == "memory":
            self._sweep(now)
            return
        try:
            self._thread = threading.Thread(target=self._sweep, args=(now,), name="otel_mlobs-mature", daemon=True)
            self._thread.start()
        except RuntimeError:  # no thread can be started now: the next pane's end tries again
            self._sweeping = False

    def _sweep(self, now: float) -> None:
        try:
            while True:
                records = self._store.claim(self._stream, now, _CLAIMED_AT_ONCE)
                for record in records:
                    self._count_record(record)
                self._fold()
                if len(records) < _CLAIMED_AT_ONCE or self._finishing:
                    return
        except Exception as error:  # noqa: BLE001 - a store that does not answer is asked again at the next pane's end
            guard.report("outcomes", error)
        finally:
            self._sweeping = False

    def _count_record(self, record: Record) -> None:
        label = next((one for one in record.labels if not one.key), None)
        if label is not None and not valid_label(self._performance, label.value):
            self._performance.add_result("invalid")
            self._performance.add_missing()
        elif label is not None:
            self._count(record.prediction, label)
        elif self._negative:
            prediction = record.prediction
            self._performance.add_outcome(Outcome(prediction.payload, None, None, None, prediction.variant))
        else:
            self._performance.add_missing()


def check_ttl(store: Store, maturity: float | None) -> None:
    """Raise ValueError where the store forgets predictions before they are mature."""
    ttl = getattr(store, "ttl", None)
    if maturity is not None and ttl is not None and maturity >= ttl:
        raise ValueError(
            f"maturity must be shorter than the store keeps predictions, {ttl:g} s, got {maturity:g} s: "
            'give it more, as OutcomeStore(url, ttl="60d")'
        )


def checked_label(label: Any) -> Any:
    """A label as text, a number or a boolean.

    Raises:
        ValueError: it is missing.
        TypeError: it is something else.
    """
    value = plain(label)
    if value is None:
        raise ValueError("a label must not be missing: a prediction without one needs no call")
    return value


def checked_amount(value: Any, currency: Any) -> tuple[float | None, str | None]:
    """What a label is worth, and in which currency.

    Raises:
        ValueError: the value is negative or not finite, or the currency no code of three capitals.
        TypeError: the value is no number.
    """
    if value is None:
        if currency is not None:
            raise ValueError(f"currency={currency!r} needs a value")
        return None, None
    return valid_amount(value), NO_CURRENCY if currency is None else valid_currency(currency)
