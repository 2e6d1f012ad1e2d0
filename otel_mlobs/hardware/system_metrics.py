"""What opentelemetry-instrumentation-system-metrics reads: bounded, of this process also after a fork, and with an end.

The package forgets none of its callbacks, reads the process that it was made in, and gives each CPU series of its own.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from otel_mlobs.telemetry import absolute, guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions

    Callback = Callable[[CallbackOptions], Iterable[Observation]]

_logger = logging.getLogger("otel_mlobs")

READ: Mapping[str, list[str] | None] = {
    "system.cpu.time": ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"],
    "system.memory.usage": ["used", "free", "cached"],
    "system.memory.utilization": ["used", "free", "cached"],
    "system.swap.usage": ["used", "free"],
    "system.disk.io": ["read", "write"],
    "system.disk.operations": ["read", "write"],
    "system.disk.time": ["read", "write"],
    "system.network.io": ["transmit", "receive"],
    "system.network.dropped.packets": ["transmit", "receive"],
    "system.network.errors": ["transmit", "receive"],
    "process.cpu.time": ["user", "system"],
    "process.memory.usage": None,
    "process.memory.virtual": None,
    "process.thread.count": None,
    "process.open_file_descriptor.count": None,
    "process.context_switches": ["involuntary", "voluntary"],
    "process.disk.io": ["read", "write"],
    "cpython.gc.collections": None,
    "cpython.gc.collected_objects": None,
    "cpython.gc.uncollectable_objects": None,
}
"""Neither ``process.runtime.*``, the former names of what ``process.*`` says, nor ``system.network.connections``, which
walks every socket of the machine. Nor utilisation of CPUs: it is formed since the reading before, is 0 at the first,
and wrong where two read; the rate of the times is not. Nor that of swap, which is 0 where there is none."""

_EXCLUDED = "OTEL_PYTHON_SYSTEM_METRICS_EXCLUDED_METRICS"
"""The package heeds it only where it is told nothing else."""
_UNITS = {"system.swap.usage": "By"}
"""Where psutil gives something else than the package says: it takes these for pages."""
_PER_CONTAINER = ("veth", "cali", "lxc", "loop", "ram")
"""How devices begin of which a machine may have any number."""


class SystemMetrics:
    """OpenTelemetry's instrumentor behind a gate; one that somebody else has started is left as it is."""

    def __init__(self) -> None:
        self._callbacks: dict[str, Sequence[Callback]] = {}
        self._lock = threading.Lock()
        self._instrumentor: Any = None
        self._running = False

    def start(self) -> None:
        """Report from the next collection on."""
        from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

        there = getattr(SystemMetricsInstrumentor, "_instance", None)
        if there is not None and there.is_instrumented_by_opentelemetry:  # to make another would change its settings
            _logger.info("system metrics are instrumented already: they are left as they are")
            return
        try:
            self._instrumentor = SystemMetricsInstrumentor(config=_asked(os.environ))
            self._instrumentor.instrument(meter_provider=_Provider(self))
            self._running = True
        except Exception as error:  # noqa: BLE001 - as psutil raises where /proc is hidden: the rest is sent
            guard.report("hardware", error)

    def stop(self) -> None:
        """Report no more."""
        if self._running:
            self._running = False
            self._instrumentor.uninstrument()

    def start_afresh(self) -> None:
        """In a forked child: read it, and not its parent."""
        self._lock = threading.Lock()  # the inherited one may be held by a thread that is not here
        if self._running:
            try:  # there is one of these in a process: made again, it finds the process that it is in
                type(self._instrumentor)(config=_asked(os.environ))
            except Exception as error:  # noqa: BLE001 - see start
                self._running = False
                guard.report("hardware", error)

    def _create(
        self, make: Callable[..., object], name: str, callbacks: Sequence[Callback], unit: str, description: str
    ) -> None:
        new = name not in self._callbacks
        self._callbacks[name] = callbacks
        if new:
            make(name, [self._callback(name)], _UNITS.get(name, unit), description)

    def _callback(self, name: str) -> Callback:
        def read(options: CallbackOptions) -> Iterator[Observation]:
            if not self._running:
                return
            try:
                with self._lock:  # the package writes the labels of all its points into one dict
                    found = [point for callback in self._callbacks[name] for point in callback(options)]
                points = _whole(found) if name == "system.cpu.time" else [*filter(_is_of_machine, found)]
            except Exception as error:  # noqa: BLE001 - what the system refuses is no reason to read nothing else
                guard.report("hardware", error)
                return
            yield from points

        return read


def _asked(environ: Mapping[str, str]) -> dict[str, list[str] | None]:
    unwanted = [each.strip() for each in environ.get(_EXCLUDED, "").split(",")]
    return {
        name: kinds for name, kinds in READ.items() if not any(fnmatch.fnmatch(name, pattern) for pattern in unwanted)
    }


def _whole(points: Iterable[Observation]) -> list[Observation]:
    """The sums over all CPUs: a machine of 200 has 1,600 series else, in each of its processes."""
    sums: dict[Any, float] = {}
    for point in points:
        state = (point.attributes or {}).get("state")
        sums[state] = sums.get(state, 0.0) + point.value
    return [Observation(value, {"state": state}) for state, value in sums.items()]


def _is_of_machine(point: Observation) -> bool:
    return not str((point.attributes or {}).get("device", "")).startswith(_PER_CONTAINER)


class _Provider:
    """Makes the instruments of the global provider, with our callbacks around the package's."""

    def __init__(self, owner: SystemMetrics) -> None:
        self._owner = owner

    def get_meter(self, *args: Any, **kwargs: Any) -> _Meter:
        return _Meter(self._owner, metrics.get_meter_provider().get_meter(*args, **kwargs))


class _Meter:
    def __init__(self, owner: SystemMetrics, meter: metrics.Meter) -> None:
        self._create = owner._create
        self._meter = meter

    def create_observable_counter(self, name: str, callbacks: Any, unit: str = "", description: str = "") -> None:
        absolute.totals.add(name)
        self._create(self._meter.create_observable_counter, name, callbacks, unit, description)

    def create_observable_gauge(self, name: str, callbacks: Any, unit: str = "", description: str = "") -> None:
        self._create(self._meter.create_observable_gauge, name, callbacks, unit, description)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Any, unit: str = "", description: str = ""
    ) -> None:
        self._create(self._meter.create_observable_up_down_counter, name, callbacks, unit, description)
