"""Metrics that are read where they come from, a device or the kernel, and not counted here.

Their counters began long before this process: they are handed on as they are read, never from zero. One instrument of
each name in the process and one callback over all its sources, since the SDK drops a second instrument's callback.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Protocol

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import guard, instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter

    Labels = Mapping[str, str]


class Source(Protocol):
    """What is read. It must not wait: a callback that hangs holds up every instrument of the process."""

    def points(self, metric: semconv.Metric) -> Iterable[tuple[float, Labels]]:
        """The values and labels of ``metric`` as last read; nothing for what cannot be read."""


totals: set[str] = set()
"""Names of the counters that stand where others counted them to: an export of deltas begins with their second point."""

_LARGEST = 2.0**63
"""A point beyond, which is no number or which OTLP cannot hold as one, would keep all others from being sent."""

_lock = threading.RLock()
_made: set[str] = set()
_sources: dict[str, tuple[Source, ...]] = {}
"""By name of the metric. Its tuples are replaced, never mutated: callbacks read them without a lock."""


def observe(source: Source, read: Sequence[semconv.Metric]) -> None:
    """Collect the metrics ``read`` from ``source`` from now on, beside those that it is asked for already."""
    with _lock:
        missing = [metric for metric in read if metric.name not in _made]
        _made.update(metric.name for metric in missing)
        totals.update(metric.name for metric in missing if metric.instrument == "counter")
        for metric in read:
            there = _sources.get(metric.name, ())
            if not any(one is source for one in there):
                _sources[metric.name] = (*there, source)
    if missing:
        # Outside of our lock: the SDK takes its own here, and holds it when it calls back
        meter = metrics.get_meter(instruments.SCOPE, __version__, schema_url=semconv.SCHEMA_URL)
        for metric in missing:
            _create(meter, metric)


def forget(source: Source) -> None:
    """Collect nothing from ``source`` any more; one that was never observed is no error."""
    with _lock:
        for name, there in _sources.items():
            _sources[name] = tuple(one for one in there if one is not source)


def _create(meter: Meter, metric: semconv.Metric) -> None:
    make = {
        "counter": meter.create_observable_counter,
        "gauge": meter.create_observable_gauge,
        "updowncounter": meter.create_observable_up_down_counter,
    }[metric.instrument]
    make(metric.name, [_callback(metric)], metric.unit, metric.description)


def _callback(metric: semconv.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_options: CallbackOptions) -> Iterator[Observation]:
        for source in _sources[metric.name]:
            try:
                found = [
                    Observation(value, labels)
                    for value, labels in source.points(metric)
                    if -_LARGEST < value < _LARGEST
                ]
            except Exception as error:  # noqa: BLE001 - one source's trouble is not another's
                guard.report("hardware", error)
                continue
            yield from found

    return read


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
