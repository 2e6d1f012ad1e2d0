"""Metrics that are read when they are collected: one instrument of each name in the process, one callback over all.

The SDK answers a second observable instrument of the same name with the first and drops its callback silently, so
monitors and feature views join this module's instead. Sources are grouped: two monitors of one model and one profile
are one series, and a series never runs backwards when a monitor ends.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import guard, instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from opentelemetry.metrics import CallbackOptions

    Labels = dict[str, str]

COUNTERS = (
    semconv.OUTCOME_LABELS,
    semconv.OUTCOME_PREDICTIONS,
    semconv.OUTCOME_MATURE,
    semconv.OUTCOMES,
    semconv.OUTCOME_SCORES,
    semconv.OUTCOME_VALUE,
    semconv.OUTCOME_ERROR,
    semconv.OUTCOME_SQUARED_ERROR,
    semconv.EXPECTED_OUTCOMES,
    semconv.EXPECTED_OUTCOME_SCORES,
    semconv.EXPECTED_ERROR,
    semconv.EXPECTED_SQUARED_ERROR,
    semconv.FEATURE_OBSERVATIONS,
    semconv.PREDICTION_OBSERVATIONS,
    semconv.FEATURE_VIOLATIONS,
)
GAUGES = (
    semconv.FEATURE_REFERENCE,
    semconv.FEATURE_REFERENCE_SCORE,
    semconv.PREDICTION_REFERENCE,
    semconv.PROFILE_ROWS,
    semconv.DRIFT_SCORES,
    semconv.DRIFT_EVIDENCE,
    semconv.DRIFT_THRESHOLD,
    semconv.DRIFT_STATUSES,
    semconv.SERIES_OMITTED,
    semconv.OUTCOME_COVERAGE,
    semconv.PERFORMANCE_ESTIMATE,
    semconv.PERFORMANCE_REALIZED,
    semconv.PERFORMANCE_THRESHOLD,
    semconv.PERFORMANCE_RELIABLE,
)

VIEW_COUNTERS = (
    semconv.FEATURE_STALE_LOOKUPS,  # before those that it is a share of: none is counted in it and not in them
    semconv.FEATURE_AGED_LOOKUPS,
    semconv.FEATURE_LOOKUPS,
    semconv.FEATURE_VALUES,
)
VIEW_GAUGES = (semconv.FEATURE_VIEW_LAST_UPDATE, semconv.FEATURE_VIEW_OBJECTIVE)

RANKING_COUNTERS = (
    semconv.RANKING_HITS,  # before the slates that they are a share of, as above
    semconv.RANKING_RECIPROCAL_RANK,
    semconv.RANKING_NDCG,
    semconv.RANKING_SLATES,
    semconv.RANKING_EVENTS,
    semconv.RANKING_IMPRESSIONS,
    semconv.RANKING_VALUE,
)
RANKING_GAUGES = (semconv.RANKING_COVERAGE, semconv.RANKING_CONCENTRATION)

Family = Literal["models", "views", "rankings", "agreements", "stores", "sampling"]
_FAMILIES: dict[Family, tuple[tuple[semconv.Metric, ...], tuple[semconv.Metric, ...]]] = {
    "models": (COUNTERS, GAUGES),
    "stores": ((semconv.STORE_DROPPED,), (semconv.STORE_PENDING,)),
    "views": (VIEW_COUNTERS, VIEW_GAUGES),
    "rankings": (RANKING_COUNTERS, RANKING_GAUGES),
    "agreements": ((semconv.MODEL_AGREEMENT,), ()),
    "sampling": ((semconv.SAMPLED_TRACES,), ()),
}
"""Who is asked for which counters and gauges."""


class Group(ABC):
    """What is read together: the monitors of one model, version and profile, or the lookups of one feature view.

    Prometheus computes no rate from what it first sees above zero: while our own pipeline holds, each counter is
    collected at zero first. Each by itself, since a group may join between the callbacks of one collection; and where
    series come while the process runs (``growing``), each series by itself.
    """

    growing: frozenset[str] = frozenset()
    """Names of the counters whose labels are not known from the start, as currencies."""

    def __init__(self) -> None:
        self.begin_at_zero()

    def begin_at_zero(self) -> None:
        """Let every counter be collected at zero once more: at the start, and in a forked child."""
        self.zeroed: set[str] = set()
        """Counters that were collected at zero."""
        self.started: set[str] = set()
        """Those of them whose zero has gone out."""
        self.announcing: set[str] = set()
        """Counters of which a series was collected at zero last time that has counted something."""
        self._seen: set[tuple[str, ...]] = set()

    @abstractmethod
    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterable[tuple[float, dict[str, str]]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""

    def held(self, metric: semconv.Metric, points: Iterable[tuple[float, Labels]]) -> Iterator[tuple[float, Labels]]:
        """``points`` of a growing counter, what is new at zero."""
        self.announcing.discard(metric.name)
        for value, labels in points:
            key = (metric.name, *labels.values())
            if key in self._seen:
                yield value, labels
                continue
            self._seen.add(key)
            if value:
                self.announcing.add(metric.name)
            yield 0, labels


_lock = threading.RLock()
_groups: dict[Family, tuple[Group, ...]] = dict.fromkeys(_FAMILIES, ())
"""Its tuples are replaced, never mutated: callbacks read them without a lock."""
_holding = False
_made = False


def join(group: Group, family: Family = "models") -> None:
    """Collect ``group`` from now on. Joining twice changes nothing."""
    with _lock:
        if not any(one is group for one in _groups[family]):
            _groups[family] = (*_groups[family], group)
    _make_instruments()


def leave(group: Group) -> None:
    """Collect ``group`` no more until it joins again; one that never joined is no error."""
    with _lock:
        for family, groups in _groups.items():
            _groups[family] = tuple(one for one in groups if one is not group)


def hold_until_collected(holding: bool) -> None:
    """Let every counter be collected at zero before it shows what it counted; our own pipeline settles it."""
    global _holding  # noqa: PLW0603 - a setting of the process
    _holding = holding


def counted(family: Family) -> Iterator[tuple[str, float, dict[str, str]]]:
    """What the counters of a family stand at, by name."""
    for metric in _FAMILIES[family][0]:
        for group in _groups[family]:
            for value, labels in group.points(metric, zero=False):
                yield metric.name, value, labels


def announcing() -> bool:
    """Whether the last collection showed a new series at zero that has counted something."""
    return any(group.announcing for group in _all())


def holding_back() -> bool:
    """Whether counters wait for their zero to be collected."""
    return _holding and any(
        metric.name not in group.started
        for family, (counters, _) in _FAMILIES.items()
        for group in _groups[family]
        for metric in counters
    )


def settle() -> None:
    """The zeros that were collected have gone out."""
    for group in _all():
        group.started |= group.zeroed
        group.zeroed.clear()


def _all() -> Iterator[Group]:
    for groups in _groups.values():
        yield from groups


def _after_fork_in_child() -> None:
    """Start again from zero, with a lock that nobody holds."""
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for group in _all():
        group.begin_at_zero()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _make_instruments() -> None:
    global _made  # noqa: PLW0603 - instruments are made once
    with _lock:
        made, _made = _made, True
    if made:
        return
    try:
        _create()
    except BaseException:
        _made = False
        raise


def _create() -> None:
    # Outside of every lock of ours: the SDK takes its own here, and holds it when it calls back
    meter = metrics.get_meter(instruments.SCOPE, __version__, schema_url=semconv.SCHEMA_URL)
    for family, (counters, gauges) in _FAMILIES.items():
        for metric in counters:
            callback = _callback(metric, family, counts=True)
            meter.create_observable_counter(metric.name, [callback], metric.unit, metric.description)
        for metric in gauges:
            callback = _callback(metric, family, counts=False)
            meter.create_observable_gauge(metric.name, [callback], metric.unit, metric.description)


def _callback(
    metric: semconv.Metric, family: Family, *, counts: bool
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for group in _groups[family]:
            yield from _observations(group, metric, counts=counts)

    return observe


def _observations(group: Group, metric: semconv.Metric, *, counts: bool) -> Sequence[Observation]:
    zero = _holding and counts and metric.name not in group.started
    if zero:
        group.zeroed.add(metric.name)
    try:
        points = group.points(metric, zero=zero)
        if _holding and metric.name in group.growing:
            points = group.held(metric, points)
        return [Observation(value, labels) for value, labels in points]
    except Exception as error:  # noqa: BLE001 - one group's trouble is not another's
        guard.report("collect", error)
        return ()
