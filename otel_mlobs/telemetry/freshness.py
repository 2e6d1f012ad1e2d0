"""How fresh features are: what lookups found, how old it was, per feature view, whether the call is sampled or not.

A lookup appends one record to its view's queue, which takes no lock; the records are added up when metrics are
collected. Ages go into a histogram of the view's own, whose bounds hold its objective.
"""

from __future__ import annotations

import logging
import operator
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_mlobs import semconv
from otel_mlobs.telemetry import collected, instruments, lookups, objectives, readings
from otel_mlobs.telemetry.timestamps import IN_SECONDS, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.telemetry.durations import Labels, LateSdkSeries, Recorder
    from otel_mlobs.telemetry.kinds import Attributes
    from otel_mlobs.telemetry.lookups import Looked, Reading
    from otel_mlobs.telemetry.running import Operation

_logger = logging.getLogger("otel_mlobs")

AGE_BOUNDS = tuple(0.5 * 3.0**power for power in range(15))
"""Seconds, from half a second to 28 days. None is a whole number, as for durations."""
CANDIDATE_BOUNDS = (0.5, 5.5, 10.5, 20.5, 50.5, 100.5, 200.5, 500.5, 1000.5, 2000.5, 5000.5)

_MAX_PENDING = 1024
"""Lookups of one view that may wait to be added up; about 0.2 MB."""
_MAX_VIEWS = 1000
"""Beyond it one more takes what overflows: a view's name that comes from the request would fill the memory."""
_SKEW_S = 1.0
"""So far into the future a timestamp may lie without a word: clocks of two machines differ."""

_lock = threading.RLock()
_views: dict[tuple[tuple[str, str], ...], View] = {}


class _Counts(NamedTuple):
    """What one lookup adds to its view."""

    hits: int
    misses: int
    defaults: int
    found: int
    missing: int
    aged: int
    stale: int
    newest: float
    """The newest timestamp, in seconds since 1970; 0 where there was none."""


_NOTHING = _Counts(0, 0, 0, 0, 0, 0, 0, 0.0)


class View(collected.Group):
    """What was counted of one feature view in this process; a :class:`~collected.Group`."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.name = labels.get(semconv.FEATURE_VIEW_NAME)
        self.objectives: set[float] = set()
        self.timed = False
        """Whether its lookups say where their timestamps are: else nothing is known of its age."""
        self._said: set[str] = set()
        self.late: list[LateSdkSeries] = []
        """What waits to be put into the histogram of a meter provider that is not ours."""
        self._ages: Recorder | None = None
        self._generation = -1
        self.start_afresh()

    def start_afresh(self) -> None:
        """Begin again from zero with a lock that nobody holds: in a forked child, what was counted is the parent's."""
        self._lock = threading.Lock()
        self._pending: deque[_Counts] = deque()
        self._totals = _NOTHING
        for one in self.late:
            one.start_afresh()

    @property
    def objective(self) -> float | None:
        """How old its features may be; where its lookups differ, by the strictest of them."""
        return min(self.objectives) if self.objectives else objectives.current().view(self.name).freshness

    def ages(self, bounds: tuple[float, ...]) -> Recorder:
        """What records the ages of its features: the same for all its lookups, until recorders change."""
        if self._ages is None or self._generation != instruments.generation:
            self._generation = instruments.generation
            self._ages = instruments.histogram_of(semconv.FEATURE_AGE, self.labels, bounds, self.late)
        return self._ages

    def add(self, counts: _Counts) -> None:
        """Count one lookup; takes no lock that it would have to wait for."""
        pending = self._pending
        pending.append(counts)
        if len(pending) >= _MAX_PENDING and self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()

    def _add_up(self) -> None:
        pending = self._pending
        for _ in range(len(pending)):
            before, added = self._totals, pending.popleft()
            total = _Counts._make(map(operator.add, before, added))
            self._totals = total._replace(newest=max(before.newest, added.newest))

    def say_once(self, message: str, *arguments: object) -> None:
        """Log ``message``, once in the life of this process."""
        if message not in self._said:
            self._said.add(message)
            name = self.labels.get(semconv.FEATURE_VIEW_NAME) or self.labels.get(semconv.FEATURE_STORE_NAME)
            _logger.warning(f"feature view %r: {message} (said once)", name, *arguments)  # noqa: G004 - constants of ours

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, Labels]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""
        with self._lock:
            self._add_up()
            counts = _NOTHING if zero else self._totals
        if metric is semconv.FEATURE_STALE_LOOKUPS:
            self._record_late()
            yield counts.stale, self.labels
        elif metric is semconv.FEATURE_VIEW_LAST_UPDATE:
            if counts.newest:
                yield counts.newest, self.labels
        elif metric is semconv.FEATURE_VIEW_OBJECTIVE:
            objective = self.objective
            if self.timed and objective is not None:
                yield objective, self.labels
        elif metric is semconv.FEATURE_LOOKUPS:
            for result, count in (("hit", counts.hits), ("miss", counts.misses), ("default", counts.defaults)):
                yield count, {**self.labels, semconv.LOOKUP_RESULT: result}
        elif metric is semconv.FEATURE_VALUES:
            for what, count in (("found", counts.found), ("missing", counts.missing)):
                yield count, {**self.labels, semconv.FEATURE_VALUE: what}
        else:
            yield counts.aged, self.labels

    def _record_late(self) -> None:
        """Give the SDK's histogram what waits: before it is collected, which comes after the callbacks."""
        for one in list(self.late):
            one.record_pending()
            if one.lost:
                self.say_once(
                    "its histogram of ages leaves some out, too many came between two exports; counters do not"
                )


_OVERFLOW: Labels = {"otel.metric.overflow": "true"}


def view_of(labels: Labels) -> View:
    """The view of ``labels`` in this process, made when first asked for."""
    key = tuple(labels.items())
    found = _views.get(key)
    if found is None:
        with _lock:
            if len(_views) >= _MAX_VIEWS and key not in _views:
                labels, key = _OVERFLOW, tuple(_OVERFLOW.items())
            found = _views.setdefault(key, View(labels))
    return found


class LookupCounter:
    """Counts what one decorated lookup returns, and says it on the span."""

    __slots__ = ("_ages", "_reading", "_requested", "_view")

    def __init__(self, labels: Labels, requested: int | None, reading: Reading | None) -> None:
        self._reading = lookups.PLAIN if reading is None else reading
        self._requested = requested
        keys = (semconv.FEATURE_STORE_NAME, semconv.FEATURE_VIEW_NAME)
        self._view = view = view_of({key: labels[key] for key in keys if key in labels})
        self._ages: Recorder | None = None
        if self._reading.timestamp is not None:
            view.timed = True
        objective = self._reading.objective
        if objective is not None and objective not in view.objectives:
            if view.objectives:
                view.say_once("its lookups have several objectives; the gauge shows the smallest, in seconds")
            view.objectives.add(objective)

    def prepare(self) -> None:
        """Look up what every call needs: at the first, and when recorders have changed."""
        view = self._view
        if view.timed:
            # Those of all views that are known by now: the SDK's histogram has one set of bounds for all its series
            bounds = set(AGE_BOUNDS).union(*(one.objectives for one in list(_views.values())))
            bounds |= objectives.current().ages
            self._ages = view.ages(tuple(sorted(bounds)))
        collected.join(view, "views")

    def read(self, operation: Operation, attributes: Attributes, result: Any, value: Any) -> None:
        """Count ``value``, the features in ``result``, and add what is known of them to ``attributes``."""
        self.close(operation, attributes, lookups.look(self._reading, result, value))

    def read_item(self, so_far: Looked | int | None, item: Any, value: Any) -> Looked | int:
        """What a generator has yielded so far: every item is a lookup's result by itself."""
        looked = lookups.look(self._reading, item, value)
        if isinstance(so_far, lookups.Looked):
            looked.add(so_far)
        return looked

    def close(self, operation: Operation, attributes: Attributes, total: Looked | int | None) -> None:
        """Count what came, and add what is known of it to ``attributes``; a generator without items found nothing."""
        looked = total if isinstance(total, lookups.Looked) else lookups.look(self._reading, None, None)
        if not looked.entities:
            return
        if looked.unnamed:
            self._view.say_once("an entity has no %r, so its age is not known", self._reading.name)
        if self._requested is not None and (looked.countable or looked.found):
            # A store that leaves an unknown feature out of its answer shows it only against what was asked for.
            short = self._requested * looked.entities - looked.found - looked.missing
            looked.missing += max(0, short)
            looked.lost = max(looked.lost, min(looked.missing, self._requested * (looked.entities - looked.hits)))
        now = time.time_ns()
        ages, newest = self._ages_of(looked, now / 1e9) if looked.stamps else ((), 0.0)
        objective = self._reading.objective
        if objective is None:
            objective = objectives.current().view(self._view.name).freshness
        stale = 0 if objective is None else sum([age > objective for age in ages])
        self._view.add(
            _Counts(
                looked.hits,
                looked.misses,
                looked.defaults,
                looked.found,
                looked.missing - looked.lost,
                len(ages),
                stale,
                newest,
            )
        )
        if looked.found or looked.missing:
            attributes[semconv.FEATURE_REQUESTED] = looked.found + looked.missing
            attributes[semconv.FEATURE_FOUND] = looked.found
            attributes[semconv.FEATURE_MISSING] = looked.missing
        if looked.defaults:
            attributes[semconv.FEATURE_DEFAULT] = looked.defaults
        if ages:
            attributes[semconv.FEATURE_AGE_MAX] = max(ages)
            if objective is not None:
                attributes[semconv.FEATURE_STALE] = stale
            if self._ages is not None:
                self._ages.record_all(ages, now, operation._span, operation._context)

    def _ages_of(self, looked: Looked, now: float) -> tuple[Sequence[float], float]:
        """Seconds since each of the timestamps, and the newest of these.

        What cannot be read has no age, what lies in the future has age 0.
        """
        view = self._view
        newest = 0.0
        ages: list[float] = []
        for stamp in looked.stamps:
            try:
                made = stamp if type(stamp) is float and IN_SECONDS[0] <= stamp < IN_SECONDS[1] else seconds_of(stamp)
            except Exception as error:  # noqa: BLE001 - whatever a timestamp of somebody's own class raises
                # The type, and what we say of it ourselves: never the value
                known = error if isinstance(error, ValueError) and str(error).startswith("no timestamp") else None
                view.say_once("a timestamp cannot be read, its age is not known: %s", known or type(error).__name__)
                continue
            if made is None:
                continue
            if made > now:
                if made > now + _SKEW_S:
                    view.say_once("a timestamp lies %.0f s in the future; its age counts as 0", made - now)
                made = now
            newest = made if made > newest else newest  # noqa: FURB136 - twice as fast as max()
            ages.append(now - made)
        return ages, newest


class CandidateCounter:
    """Counts how many candidates came back, and summarises their scores on the span."""

    __slots__ = ("_bounds", "_counts", "_labels")

    def __init__(self, labels: Labels, requested: int | None) -> None:
        keys = (semconv.CANDIDATE_SOURCE, semconv.MODEL_NAME, semconv.MODEL_VERSION)
        self._labels = {key: labels[key] for key in keys if key in labels}
        # A bound right beneath what is asked for: how often fewer came is then exact
        short = () if requested is None else (requested - 0.5,)
        self._bounds = tuple(sorted({*CANDIDATE_BOUNDS, *short}))
        self._counts: Recorder | None = None

    def prepare(self) -> None:
        """Look up what every call needs: at the first, and when recorders have changed."""
        self._counts = instruments.histogram_of(semconv.CANDIDATES, self._labels, self._bounds)

    def read(self, operation: Operation, attributes: Attributes, _result: Any, value: Any) -> None:
        """Count ``value``, and add what it says of itself to ``attributes``."""
        counted = readings.count(value)
        if counted is not None:
            self.close(operation, attributes, counted)
        if not operation.recording:
            return
        summary = readings.scores_of_items(value)
        if summary is not None:
            attributes[semconv.CANDIDATE_SCORE_MIN] = summary.minimum
            attributes[semconv.CANDIDATE_SCORE_MEAN] = summary.mean
            attributes[semconv.CANDIDATE_SCORE_MAX] = summary.maximum

    def read_item(self, so_far: Looked | int | None, _item: Any, _value: Any) -> Looked | int:
        """How many items a generator has yielded so far."""
        return so_far + 1 if isinstance(so_far, int) else 1

    def close(self, operation: Operation, attributes: Attributes, total: Looked | int | None) -> None:
        """Count ``total`` candidates; none where a generator had no items."""
        count = total if isinstance(total, int) else 0
        attributes[semconv.CANDIDATE_COUNT] = count
        if self._counts is not None:
            self._counts.record(count, time.time_ns(), operation._span, operation._context)


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for view in _views.values():
        view.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
