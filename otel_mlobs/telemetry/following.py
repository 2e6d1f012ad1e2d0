"""What a monitor does so that a later label finds its prediction, and what it counts when one does.

The store is known by what it does, not by what it is: where predictions wait is :mod:`otel_mlobs.stores`' matter.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

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
from otel_mlobs.telemetry.claiming import Claiming

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.core.performance import Encoded, Performance
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.core.records import Joined, Record, Unlabelled
    from otel_mlobs.telemetry.claiming import Store


_LONGEST_VARIANT = 256


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
        self.claiming = Claiming(store, self._stream, self._count_record, fold)

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

    def count_mature(self, now: float) -> None:
        """Count what is mature at ``now``."""
        if self._maturity is not None:
            self.claiming.claim(now)

    def _count_record(self, record: Record, _now: float) -> None:
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
