"""``OutcomeStore``: where predictions wait for their labels, in whatever process these come."""

from __future__ import annotations

import operator
import os
import time
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from otel_mlobs.core.records import stream_of
from otel_mlobs.settings.checks import number, redacted
from otel_mlobs.settings.times import seconds
from otel_mlobs.stores import batches, urls
from otel_mlobs.stores.memory import Memory
from otel_mlobs.stores.moments import DAY_S, moment
from otel_mlobs.stores.series import series
from otel_mlobs.stores.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from otel_mlobs.core.profile import Outputs, Profile
    from otel_mlobs.core.records import Joined, Label, Prediction, Record, Unlabelled
    from otel_mlobs.stores.batches import JoinReport
    from otel_mlobs.stores.figures import LabelCheck, RealizedPerformance

_JOINED_AT_ONCE = 500
_FLUSH_TIMEOUT_S = 10.0
_JOIN_TIMEOUT_S = 30.0
_MOST_CLAIMED = 10_000


class Way(Protocol):
    """How a store keeps its records: in this process, or behind a thread in a server."""

    kind: str

    @property
    def dropped(self) -> Mapping[str, int]:
        """What no store will ever know, by reason."""

    @property
    def pending(self) -> int:
        """How many predictions and labels wait to be written."""

    def register(self, prediction: Prediction) -> None:
        """Keep a prediction."""

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several."""

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join a label, now or soon."""

    def join(self, labels: Sequence[Label], timeout: float) -> Sequence[Joined | None]:
        """Join labels now; None for one that the server refuses."""

    def claim(self, stream: str, now: float, limit: int) -> list[Record]:
        """Give out what is mature, each record once."""

    def records(self, stream: str, start: float, end: float) -> Iterator[Record]:
        """Records by prediction time."""

    def streams(self) -> list[str]:
        """The streams that have records."""

    def forget(self, prediction_id: str) -> bool:
        """Remove a prediction and its labels."""

    def flush(self, timeout: float) -> bool:
        """Write what waits."""

    def finish(self, timeout: float) -> bool:
        """Write what waits for the last time, and let connections go."""

    def retire(self) -> None:
        """The same without waiting for it."""

    def start_afresh(self) -> None:
        """Begin anew in a forked child."""


class OutcomeStore:
    """Keeps predictions until their labels come, each for ``ttl``, and joins every prediction once.

    However often a label comes, in whatever process, and however often writing it has to be tried again: the first
    value of a prediction stays, and is counted once. Registering a prediction waits for nothing: a store in a server is
    written by a thread, in batches; while the server is away, ``spill`` predictions and as many labels wait here, and
    what comes on top replaces the oldest, which is counted in :attr:`dropped`.

    Args:
        url: ``"memory:"``, ``"redis://host:6379/0"``, ``"rediss://…"``, ``"postgresql://user@host/name"``,
            ``"sqlite:///path"``, or what else SQLAlchemy takes. A password that the URL lacks is read from
            ``MLOBS_STORE_PASSWORD``.
        ttl: how long a prediction is kept, in seconds or as ``"30d"``.
        capacity: the most predictions that are kept in memory; the oldest goes first.
        spill: the most predictions, and the most labels, that wait to be written.
        grace: for how many seconds a label is tried again whose prediction is not there yet.
        namespace: the beginning of all keys, or of the tables' names.
        clock: seconds since the epoch; ``time.time`` unless given.

    Raises:
        ValueError: an argument has an impossible value; nothing is connected to yet, so a server may be down.
        MissingExtraError: the library that the URL needs is not installed.
    """

    def __init__(
        self,
        url: str = "memory:",
        *,
        ttl: float | str = "30d",
        capacity: int = 1_000_000,
        spill: int = 100_000,
        grace: float = 10.0,
        namespace: str = "mlobs",
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f'url must be text, as "redis://localhost:6379/0", got a {type(url).__name__}')
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable that gives seconds, got {clock!r}")
        self._arguments: dict[str, Any] = {
            "url": url,
            "ttl": seconds("ttl", ttl),
            "capacity": _whole("capacity", capacity),
            "spill": _whole("spill", spill),
            "grace": number("grace", grace, at_least=0.0),
            "namespace": namespace,
            "clock": clock,
        }
        self.ttl: float = self._arguments["ttl"]
        self._clock = time.time if clock is None else clock
        self._way: Way = self._chosen()
        self._retire = weakref.finalize(self, self._way.retire)
        self._retire.atexit = False
        self._closed = False
        _stores.add(self)
        series.add(self, self._way.dropped)

    def _chosen(self) -> Way:
        arguments = self._arguments
        if urls.is_memory(arguments["url"]):
            return Memory(arguments["capacity"], self.ttl, self._clock)
        backend, trouble = urls.backend_of(arguments["url"], arguments["namespace"], self.ttl, self._clock)
        return Writer(backend, trouble, spill=arguments["spill"], grace=arguments["grace"], ttl=self.ttl)

    def __repr__(self) -> str:
        return f"OutcomeStore({redacted(self._arguments['url'])!r}, ttl={self.ttl:g})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._arguments,)

    @property
    def kind(self) -> str:
        """``"memory"``, ``"redis"`` or ``"sql"``."""
        return self._way.kind

    @property
    def pending(self) -> int:
        """How many predictions and labels wait to be written."""
        return self._way.pending

    @property
    def dropped(self) -> Mapping[str, int]:
        """What no store will ever know, by reason.

        ``"evicted"``: memory was full; ``"overflow"``: too many waited for a server; ``"refused"``: the server cannot
        keep it; ``"repeated"``: another prediction has its id.
        """
        return dict(self._way.dropped)

    def register(self, prediction: Prediction) -> None:
        """Keep ``prediction`` until its label comes; returns at once and never raises for a store that is down."""
        if not self._closed:
            self._way.register(prediction)

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several predictions."""
        if not self._closed:
            self._way.register_many(predictions)

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join ``label``, now or as soon as the store answers, and tell ``done`` what became of it, once.

        A server's answer comes on another thread. A label whose prediction is not there is tried again for ``grace``
        seconds, since another process may not have written it yet.

        Raises:
            TypeError: the label's value is neither text, a number nor a truth value.
            ValueError: it is missing.
        """
        if not self._closed:
            self._way.submit(batches.completed(label, self._clock()), done)

    def join(
        self,
        labels: Any,
        *,
        id: str = "prediction_id",  # noqa: A002 - what the column is called
        label: str = "label",
        key: str | None = None,
        value: str | None = None,
        currency: str | None = None,
        time: str | None = None,
        profile: Profile | None = None,
        progress: Callable[[int, int | None], None] | None = None,
        told: Callable[[Joined], None] | None = None,
        timeout: float = _JOIN_TIMEOUT_S,
    ) -> JoinReport:
        """Join a batch of labels now: what a job does that learns them days later, without a monitor.

        Running it again joins nothing twice.

        Args:
            labels: a table (mapping of columns, pandas, polars, Arrow, …), or an iterable of ``(id, label)`` pairs,
                of ``(id, label, time)`` or of :class:`~otel_mlobs.core.records.Label`.
            id: the column with the predictions' ids.
            label: the column with the labels.
            key: the column that tells several labels of one prediction apart.
            value: the column with what was at stake, from 0.
            currency: the column with its currency, three capitals as ISO 4217 has them.
            time: the column with when the label came: datetimes (naive ones are UTC), ISO 8601 text, or seconds,
                milliseconds, microseconds or nanoseconds since 1970, told apart by their size.
            profile: of the model; a label that its outputs cannot have is counted as invalid and not stored. Without
                it any label is stored, and the first one of a prediction stays.
            progress: called after every batch with the rows that are done, and all rows where that is known.
            told: called with every label and what became of it, as ``Monitor.joined``, which counts them.
            timeout: for how many seconds a batch is tried again while the store does not answer.

        Raises:
            ConnectionError: the store does not answer; what was joined stays so, and the job may be run again.
            TypeError: ``labels`` is neither a table nor labels, or ``profile`` is no profile.
            ValueError: the table lacks a column; ``profile`` has no outputs; or, with its column and row, a value or
                currency is none, or a time is none, before 1990 or more than a day in the future. The rows before it
                may be joined: mend it and run the job again.
        """
        allowed = None if profile is None else _label_check(profile)
        latest = self._clock() + DAY_S
        rows, total = batches.rows_of(labels, batches.Fields(id, label, key, value, currency, time), latest)
        counts: Counter[str] = Counter()
        reason = ""
        for chunk in batches.chunks(rows, _JOINED_AT_ONCE):
            now = self._clock()
            found = [batches.completed(one, now) for one in chunk if one is not None]
            counts["rows"] += len(chunk)
            counts["missing"] += len(chunk) - len(found)
            if allowed is not None:
                wrong = [one.value for one in found if not allowed.allows(one.value)]
                if wrong:
                    reason = reason or allowed.reason(wrong[0])
                    counts["invalid"] += len(wrong)
                    found = [one for one in found if allowed.allows(one.value)]
            answers = self._way.join(found, timeout)
            counts.update("missing" if joined is None else joined.result for joined in answers)
            if told is not None:
                for joined in answers:
                    if joined is not None:
                        told(joined)
            if progress is not None:
                progress(counts["rows"], total)
        return batches.report_of(counts, reason)

    def claim(self, stream: str, now: float, limit: int = 1000) -> list[Record]:
        """Up to ``limit`` records of ``stream`` that are mature at ``now``; each is given out once, to one process.

        Fewer than ``limit`` means that there are no more. A claim whose answer was lost is given again to the next call
        of this store.

        Raises:
            ConnectionError: the store does not answer.
            ValueError: ``limit`` is not from 1 to 10,000.
        """
        if not 1 <= limit <= _MOST_CLAIMED:
            raise ValueError(f"limit must be from 1 to {_MOST_CLAIMED:,}, got {limit!r}")
        return self._way.claim(stream, now, limit)

    def records(self, stream: str, start: float, end: float) -> Iterator[Record]:
        """The records of ``stream`` whose predictions were made from ``start`` until before ``end``, by time.

        Raises:
            ConnectionError: the store does not answer.
        """
        return self._way.records(stream, start, end)

    def performance(
        self,
        profile: Profile,
        *,
        start: float | str | datetime = float("-inf"),
        end: float | str | datetime | None = None,
        maturity: float | str | None = None,
        unlabelled: Unlabelled = "missing",
        variant: str | None = None,
    ) -> RealizedPerformance:
        """How right ``profile``'s predictions were that were made from ``start`` until before ``end``.

        The window is of when predictions were made, whenever their labels came; what came late is counted, too.

        Args:
            profile: of the model; its predictions were registered by a monitor with this very profile.
            start: a datetime (naive ones are UTC), ISO 8601 text as ``"2026-11-01"``, or seconds since the epoch.
            end: likewise; now unless given.
            maturity: how old a prediction must be to count, in seconds or as ``"7d"``.
            unlabelled: what a mature prediction without a label counts as: not at all, or as a negative one (where
                only positives are ever told, as of clicks and fraud).
            variant: count this variant of an experiment only.

        Raises:
            ConnectionError: the store does not answer.
            TypeError: ``profile`` is no profile.
            ValueError: ``start`` or ``end`` is no time, or ``end`` is earlier; the profile has no outputs;
                ``unlabelled="negative"`` has no ``maturity``, or is of a model that has no negative label.
        """
        outputs = _outputs_of(profile)
        if unlabelled not in ("missing", "negative"):
            raise ValueError(f'unlabelled must be "missing" or "negative", got {unlabelled!r}')
        if unlabelled == "negative" and (maturity is None or outputs.kind != "score"):
            raise ValueError('unlabelled="negative" needs maturity=, and a model that scores one class')
        from otel_mlobs.stores.figures import realized

        now = self._clock()
        stream = stream_of(profile.model, profile.version, profile.id)
        first, last = moment("start", start), now if end is None else moment("end", end)
        if end is not None and last < first:
            raise ValueError(f"end must not be before start, got start={start!r} and end={end!r}")
        records = self.records(stream, first, last)
        latest = now - (0.0 if maturity is None else seconds("maturity", maturity))
        return realized(records, outputs, latest=latest, unlabelled=unlabelled, variant=variant)

    def streams(self) -> list[str]:
        """The streams that have records, as ``otel_mlobs.core.records.parts_of`` takes them apart.

        Raises:
            ConnectionError: the store does not answer.
        """
        return self._way.streams()

    def forget(self, prediction_id: str) -> bool:
        """Remove a prediction and its labels, also where they wait to be written; true where there was something.

        Raises:
            ConnectionError: the store does not answer; what waited here is gone all the same. Call it again.
        """
        return self._way.forget(prediction_id)

    def flush(self, timeout: float = _FLUSH_TIMEOUT_S) -> bool:
        """Write what waits; true if all of it was written within ``timeout`` seconds."""
        return self._way.flush(number("timeout", timeout, at_least=0.0))

    def close(self, timeout: float = _FLUSH_TIMEOUT_S) -> bool:
        """Write what waits and let connections go; what comes later is ignored. Closing twice changes nothing."""
        if self._closed:
            return True
        self._closed = True
        return self._way.finish(number("timeout", timeout, at_least=0.0))

    def start_afresh(self) -> None:
        """Begin anew in a forked child: what waits is the parent's, and so are its connections."""
        self._way.start_afresh()


_stores: weakref.WeakSet[OutcomeStore] = weakref.WeakSet()


def _unpickled(arguments: dict[str, Any]) -> OutcomeStore:
    return OutcomeStore(**arguments)


def _outputs_of(profile: Profile) -> Outputs:
    outputs: Outputs | None
    try:
        outputs = profile.outputs
    except AttributeError:
        raise TypeError(f"profile must be a Profile, as Profile.load(path) gives one, got {profile!r}") from None
    if outputs is None:
        raise ValueError(f"the profile of {profile.model!r} has no outputs: fit it with outputs=")
    return outputs


def _label_check(profile: Profile) -> LabelCheck:
    from otel_mlobs.stores.figures import LabelCheck

    return LabelCheck(_outputs_of(profile))


def _whole(name: str, value: Any) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if isinstance(value, bool) or whole < 1:
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
    return whole


def _after_fork_in_child() -> None:
    series.start_afresh()
    for store in list(_stores):
        store.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
