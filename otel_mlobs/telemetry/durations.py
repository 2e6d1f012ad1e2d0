"""Histograms counted in this process, at a tenth of what the SDK's cost per call: ``mlobs.operation.duration`` first.

The SDK validates, copies and hashes the attributes of every measurement, although an operation's labels never change:
with an exemplar that is 0.3 to 0.6 of a whole span (``benchmarks/overhead.py``). While the metric pipeline is ours,
durations are therefore counted here, one :class:`Series` a set of labels, and put among the collected metrics; with
somebody else's meter provider the SDK's histogram does it. Both count into the same bounds and give the same points.

The ages of features and the numbers of candidates are counted the same way, under bounds of their own.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span, SpanContext

Labels = dict[str, str]

_MAX_PENDING = 1024
"""Durations of one series that may wait to be counted; about 0.2 MB."""
_MANY = 16
"""So many values of one operation are counted at once where nobody else counts: they would fill the queue."""

_MAX_LATE = 20_000
"""Values of one series that may wait for a collection with somebody else's meter provider; about 1 MB."""

_OVERFLOW: Labels = {"otel.metric.overflow": "true"}


class Recorder(Protocol):
    """Where an operation's duration goes."""

    def record(self, seconds: float, ended: int, span: Span, context: Context) -> None:
        """Count one operation of ``seconds`` that ended at ``ended`` (unix nanoseconds), traced by ``span``."""

    def record_all(self, values: Sequence[float], ended: int, span: Span, context: Context) -> None:
        """Count several values of one operation."""


class Snapshot(NamedTuple):
    """The counts of one series between ``start`` and the moment they were taken; exemplars by bucket."""

    labels: Labels
    start: int
    counts: tuple[int, ...]
    total: float
    minimum: float
    maximum: float
    exemplars: tuple[tuple[float, int, SpanContext], ...]
    bounds: tuple[float, ...]


class Series:
    """One set of labels: counts per bucket, sum, extremes, and the last traced duration of each bucket.

    Recording appends to a queue, which is atomic, and takes no lock that it would have to wait for: a signal handler, a
    finaliser or a forked child may record while the thread beneath it counts.
    """

    __slots__ = ("_bounds", "_counts", "_exemplars", "_lock", "_maximum", "_minimum", "_pending", "_total", "_traced",
                 "labels", "start")  # fmt: skip

    def __init__(self, labels: Labels, bounds: Sequence[float], traced: int | None) -> None:
        self.labels = labels
        self._bounds = tuple(bounds)
        self._traced = traced
        self._lock = threading.Lock()
        self._pending: deque[tuple[float, int, SpanContext]] = deque()
        self.start = time.time_ns()
        self._reset()

    def _reset(self) -> None:
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf
        self._exemplars: dict[int, tuple[float, int, SpanContext]] = {}

    def record(self, seconds: float, ended: int, span: Span, _context: Context) -> None:
        """Count one operation; its trace becomes the exemplar of the bucket it falls into, upper bounds inclusive."""
        pending = self._pending
        pending.append((seconds, ended, span.get_span_context()))
        if len(pending) >= _MAX_PENDING:
            self._count_if_free()

    def record_all(self, values: Sequence[float], ended: int, span: Span, _context: Context) -> None:
        """Count several values of one operation, in any order."""
        span_context = span.get_span_context()
        if len(values) >= _MANY and self._lock.acquire(blocking=False):
            try:
                self._count_many(sorted(values), ended, span_context)
            finally:
                self._lock.release()
            return
        pending = self._pending
        pending.extend([(value, ended, span_context) for value in values])
        if len(pending) >= _MAX_PENDING:
            self._count_if_free()

    def _count_many(self, ordered: list[float], ended: int, span_context: SpanContext) -> None:
        """Count values in ascending order, a bucket at a time."""
        traced = self._traced
        before = 0
        for bucket, bound in enumerate((*self._bounds, math.inf)):
            upto = bisect_right(ordered, bound, before)
            if upto > before:
                self._counts[bucket] += upto - before
                if traced is not None and span_context.trace_flags & traced == traced:
                    self._exemplars[bucket] = (ordered[upto - 1], ended, span_context)
                before = upto
        self._total += math.fsum(ordered)
        self._minimum = min(self._minimum, ordered[0])
        self._maximum = max(self._maximum, ordered[-1])

    def _count_if_free(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._count_pending()
            finally:
                self._lock.release()

    def _count_pending(self) -> None:
        pending, counts, bounds, traced = self._pending, self._counts, self._bounds, self._traced
        for _ in range(len(pending)):
            seconds, _, span_context = one = pending.popleft()
            bucket = bisect_left(bounds, seconds)
            counts[bucket] += 1
            self._total += seconds
            self._minimum = min(self._minimum, seconds)
            self._maximum = max(self._maximum, seconds)
            if traced is not None and span_context.trace_flags & traced == traced:
                self._exemplars[bucket] = one

    def take(self, now: int, *, delta: bool) -> Snapshot | None:
        """The counts so far; with ``delta`` they start again from zero, and None says that there were none."""
        with self._lock:
            self._count_pending()
            if delta and not any(self._counts):
                self.start = now
                return None
            exemplars = tuple(self._exemplars[bucket] for bucket in sorted(self._exemplars))
            taken = Snapshot(
                self.labels,
                self.start,
                tuple(self._counts),
                self._total,
                self._minimum,
                self._maximum,
                exemplars,
                self._bounds,
            )
            self._exemplars = {}
            if delta:
                self._reset()
                self.start = now
        return taken


class Durations:
    """All series of the histogram; beyond ``max_series`` one more series takes what overflows."""

    def __init__(self, bounds: Sequence[float], exemplars: str = "trace_based", max_series: int = 2000) -> None:
        """``bounds`` in seconds, ascending. ``exemplars`` as ``OTEL_METRICS_EXEMPLAR_FILTER`` has it."""
        self.bounds = tuple(bounds)
        self.exemplars = exemplars
        self._traced = {"always_off": None, "always_on": 0}.get(exemplars, 1)
        self._max_series = max_series
        self._lock = threading.RLock()
        self._series: dict[tuple[tuple[str, str], ...], Series] = {}

    def series(self, labels: Labels, bounds: Sequence[float] | None = None) -> Series:
        """The series of ``labels``, made when first asked for; ``bounds`` of its own hold from then on."""
        key = tuple(sorted(labels.items()))
        found = self._series.get(key)
        if found is None:
            with self._lock:
                if len(self._series) >= self._max_series and key not in self._series:
                    labels, key = _OVERFLOW, tuple(_OVERFLOW.items())
                found = self._series.setdefault(key, Series(labels, bounds or self.bounds, self._traced))
        return found

    def take(self, *, delta: bool) -> list[Snapshot]:
        """Every series' counts, in the order in which the series came."""
        now = time.time_ns()
        with self._lock:
            series = list(self._series.values())
        return [taken for one in series if (taken := one.take(now, delta=delta)) is not None]

    def start_afresh(self) -> None:
        """Forget everything: in a forked child, what was counted is the parent's to send."""
        self._lock = threading.RLock()
        self._series = {}


class SdkSeries:
    """One set of labels of the SDK's own histogram, for providers that are not ours."""

    __slots__ = ("_histogram", "_labels")

    def __init__(self, histogram: Histogram, labels: Labels) -> None:
        self._histogram = histogram
        self._labels = labels

    def record(self, seconds: float, _ended: int, _span: Span, context: Context) -> None:
        """Record one operation, its context given so that it becomes an exemplar."""
        self._histogram.record(seconds, self._labels, context)

    def record_all(self, values: Sequence[float], _ended: int, _span: Span, context: Context) -> None:
        """Record several values of one operation."""
        for value in values:
            self._histogram.record(value, self._labels, context)


class LateSdkSeries:
    """The same, recorded when metrics are collected: a batch of values would cost its request dozens of spans."""

    __slots__ = ("_histogram", "_labels", "_pending", "_room", "lost")

    def __init__(self, histogram: Histogram, labels: Labels) -> None:
        self._histogram = histogram
        self._labels = labels
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget what waits: in a forked child it is the parent's to send."""
        self._pending: deque[tuple[tuple[float, ...], SpanContext]] = deque()
        self._room = _MAX_LATE
        self.lost = 0

    def record(self, seconds: float, ended: int, span: Span, context: Context) -> None:
        """Record one value later."""
        self.record_all((seconds,), ended, span, context)

    def record_all(self, values: Sequence[float], _ended: int, span: Span, _context: Context) -> None:
        """Record several values of one operation later, or never where too many wait already."""
        if self._room < len(values):
            self.lost += len(values)
            return
        self._room -= len(values)  # where two threads are here at once, a little more or less waits
        self._pending.append((tuple(values), span.get_span_context()))

    def record_pending(self) -> None:
        """Give what waits to the SDK, each value with the span that it belongs to."""
        pending = self._pending
        for _ in range(len(pending)):
            values, span_context = pending.popleft()
            context = set_span_in_context(NonRecordingSpan(span_context), Context())
            for value in values:
                self._histogram.record(value, self._labels, context)
        self._room = _MAX_LATE  # what came meanwhile waits besides: it is little


class Both:
    """Two recorders, while a reader beside our pipeline listens too."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Recorder, second: Recorder) -> None:
        self._first = first
        self._second = second

    def record(self, seconds: float, ended: int, span: Span, context: Context) -> None:
        """Count the operation twice, for two sets of readers."""
        self._first.record(seconds, ended, span, context)
        self._second.record(seconds, ended, span, context)

    def record_all(self, values: Sequence[float], ended: int, span: Span, context: Context) -> None:
        """Count the values twice, for two sets of readers."""
        self._first.record_all(values, ended, span, context)
        self._second.record_all(values, ended, span, context)
