"""Metrics that are read when they are collected: one instrument of each name in the process, one callback over all.

The SDK answers a second observable instrument of the same name with the first and drops its callback silently, so
monitors join this module's instead. Sources are grouped: two monitors of one model and one profile are one series, and
a series never runs backwards when a monitor ends.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import guard, instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from opentelemetry.metrics import CallbackOptions

COUNTERS = (semconv.FEATURE_OBSERVATIONS, semconv.PREDICTION_OBSERVATIONS)
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
)


class Group(Protocol):
    """What is read together: the monitors of one model, version and profile.

    ``zeroed`` and ``started`` say which counters were collected at zero, and of which that zero has gone out.
    Prometheus computes no rate from what it first sees above zero. Each counter by itself: a group may join between the
    callbacks of one collection.
    """

    zeroed: set[str]
    started: set[str]

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterable[tuple[float, dict[str, str]]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""


_lock = threading.RLock()
_groups: tuple[Group, ...] = ()
_holding = False
_made = False


def join(group: Group) -> None:
    """Collect ``group`` from now on. Joining twice changes nothing."""
    global _groups  # noqa: PLW0603 - replaced, never mutated: callbacks read it without a lock
    with _lock:
        if not any(one is group for one in _groups):
            _groups = (*_groups, group)
    _make_instruments()


def leave(group: Group) -> None:
    """Collect ``group`` no more until it joins again; one that never joined is no error."""
    global _groups  # noqa: PLW0603 - see join
    with _lock:
        _groups = tuple(one for one in _groups if one is not group)


def hold_until_collected(holding: bool) -> None:
    """Let every counter be collected at zero before it shows what it counted; our own pipeline settles it."""
    global _holding  # noqa: PLW0603 - a setting of the process
    _holding = holding


def holding_back() -> bool:
    """Whether counters wait for their zero to be collected."""
    return _holding and any(metric.name not in group.started for group in _groups for metric in COUNTERS)


def settle() -> None:
    """The zeros that were collected have gone out."""
    for group in _groups:
        group.started |= group.zeroed
        group.zeroed.clear()


def after_fork_in_child() -> None:
    """Start again from zero, with a lock that nobody holds."""
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for group in _groups:
        group.started.clear()
        group.zeroed.clear()


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
    for metric in COUNTERS:
        meter.create_observable_counter(metric.name, [_callback(metric)], metric.unit, metric.description)
    for metric in GAUGES:
        meter.create_observable_gauge(metric.name, [_callback(metric)], metric.unit, metric.description)


def _callback(metric: semconv.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for group in _groups:
            yield from _observations(group, metric)

    return observe


def _observations(group: Group, metric: semconv.Metric) -> Sequence[Observation]:
    zero = _holding and metric in COUNTERS and metric.name not in group.started
    if zero:
        group.zeroed.add(metric.name)
    try:
        return [Observation(value, labels) for value, labels in group.points(metric, zero=zero)]
    except Exception as error:  # noqa: BLE001 - one group's trouble is not another's
        guard.report("collect", error)
        return ()
