"""The machine, the container and this process: what ``configure(host=True)`` starts.

Utilisation is read by opentelemetry-instrumentation-system-metrics; saturation and the container's limits, which it
does not know, are read here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from otel_mlobs import semconv
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.hardware import cgroup, detectors, pressure, system_metrics
from otel_mlobs.telemetry import absolute, foreign, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_mlobs.settings import Settings

    Labels = Mapping[str, str]

__all__ = ["detected", "start", "stop"]

detected = detectors.detected

_logger = logging.getLogger("otel_mlobs")

_FRESH_S = 0.1
"""How long one reading serves the metrics of one collection."""
_OF_CONTAINER = {
    semconv.CONTAINER_CPU_TIME.name: "cpu.time",
    semconv.CONTAINER_CPU_LIMIT.name: "cpu.limit",
    semconv.CONTAINER_PERIODS.name: "cpu.periods",
    semconv.CONTAINER_THROTTLED.name: "cpu.throttled",
    semconv.CONTAINER_THROTTLED_TIME.name: "cpu.throttled.time",
    semconv.CONTAINER_MEMORY_USAGE.name: "memory.usage",
    semconv.CONTAINER_MEMORY_LIMIT.name: "memory.limit",
    semconv.CONTAINER_OOM_KILLS.name: "memory.oom_kills",
}


class Host:
    """Reads ``/proc`` and the cgroup, once a collection: the kernel answers at once, so no thread is needed.

    Args:
        root: where ``/proc`` and ``/sys`` are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self.start_afresh()

    def start_afresh(self) -> None:
        """In a forked child: other threads, and maybe another cgroup."""
        self._lock = threading.Lock()
        self._own = cgroup.folder(self._root)
        self._run_wait = pressure.RunWait(self._root)
        self._read_at = -_FRESH_S
        self._last = _Reading({}, {})

    def points(self, metric: semconv.Metric) -> Iterator[tuple[float, Labels]]:
        """The points of ``metric``; none for what this system does not tell."""
        reading = self._read()
        if metric is semconv.PRESSURE:
            for scope, stalls in reading.stalls.items():
                for (resource, extent), seconds in stalls.items():
                    yield (
                        seconds,
                        {
                            semconv.PRESSURE_RESOURCE: resource,
                            semconv.PRESSURE_EXTENT: extent,
                            semconv.PRESSURE_SCOPE: scope,
                        },
                    )
            return
        if metric is semconv.RUN_QUEUE:
            value: float | None = pressure.run_queue(self._root)
        elif metric is semconv.RUN_WAIT:
            value = self._run_wait.read()
        else:
            value = reading.container.get(_OF_CONTAINER[metric.name])
        if value is not None:
            yield value, {}

    def _read(self) -> _Reading:
        with self._lock:
            now = time.monotonic()
            if now - self._read_at >= _FRESH_S:
                stalls = {"host": pressure.stalls(self._root / "proc/pressure")}
                container: Mapping[str, float] = {}
                if self._own is not None:
                    container = cgroup.read(self._own)
                    stalls["container"] = pressure.stalls(self._own, ".pressure")
                self._last = _Reading(container, stalls)
                self._read_at = now
            return self._last


class _Reading(NamedTuple):
    container: Mapping[str, float]
    stalls: Mapping[str, Mapping[tuple[str, str], float]]


_host: Host | None = None
_system = system_metrics.SystemMetrics()


def start(settings: Settings | None) -> None:  # noqa: ARG001 - as every part of the hardware is started
    """Report from the next collection on. A second call changes nothing.

    Raises:
        MissingExtraError: opentelemetry-instrumentation-system-metrics is not installed.
    """
    global _host  # noqa: PLW0603 - one per process is what is meant
    if _host is not None:
        return
    require()
    if "metrics" not in foreign.signals():
        _logger.warning("no metrics are sent, so there are no readings of the host: give metrics_endpoint=")
    _host = Host()
    hooks.after_shutdown(stop)
    if sys.platform == "linux":
        absolute.observe(_host, semconv.HOST_METRICS)
    else:
        _logger.warning(
            "host=True: pressure, run queue and container limits are read on Linux only, not on this system"
        )
    _system.start()


def require() -> None:
    """Raise :class:`MissingExtraError` where what ``host=True`` needs is not installed."""
    try:
        import opentelemetry.instrumentation.system_metrics  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("host=True", "host", "opentelemetry-instrumentation-system-metrics") from error


def stop() -> None:
    """Report no more."""
    global _host  # noqa: PLW0603 - see start
    if _host is None:
        return
    absolute.forget(_host)
    _host = None
    _system.stop()


def _after_fork_in_child() -> None:
    if _host is not None:
        _host.start_afresh()
        _system.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
