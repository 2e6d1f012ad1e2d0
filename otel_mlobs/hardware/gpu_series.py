"""Readings as points of OpenTelemetry's metrics: which reading is which metric, with which attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.hardware.devices import STATES
from otel_mlobs.hardware.readers import CLOCKS, GPM_UNITS, LIMITS, THROTTLE_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_mlobs.hardware.devices import Identity, Reading

    Labels = Mapping[str, str]

_TYPE_GPU = {semconv.HW_TYPE: "gpu"}
_LINKS = ("pcie", "nvlink")
_DIRECTIONS = ("transmit", "receive")

SOURCES: Mapping[str, tuple[tuple[str, Labels], ...]] = {
    semconv.HW_GPU_UTILIZATION.name: tuple(
        (f"utilization.{task}", {semconv.HW_GPU_TASK: task}) for task in ("general", "encoder", "decoder")
    ),
    semconv.HW_GPU_MEMORY_USAGE.name: (("memory.used", {}),),
    semconv.HW_GPU_MEMORY_LIMIT.name: (("memory.total", {}),),
    semconv.HW_GPU_IO.name: tuple(
        (f"io.{link}.{direction}", {semconv.GPU_LINK: link, semconv.IO_DIRECTION: direction})
        for link in _LINKS
        for direction in _DIRECTIONS
    ),
    semconv.HW_ERRORS.name: (
        *(
            (f"volatile.{kind}", {semconv.ERROR_TYPE: kind, **_TYPE_GPU})
            for kind in ("ecc_corrected", "ecc_uncorrected")
        ),
        ("xids", {semconv.ERROR_TYPE: "xid", **_TYPE_GPU}),
    ),
    semconv.GPU_LIFETIME_ERRORS.name: tuple(
        (f"aggregate.{kind}", {semconv.ERROR_TYPE: kind}) for kind in ("ecc_corrected", "ecc_uncorrected")
    ),
    semconv.GPU_LAST_XID.name: (("xid.last", {}),),
    semconv.HW_POWER.name: (("power", _TYPE_GPU),),
    semconv.HW_ENERGY.name: (("energy", _TYPE_GPU),),
    semconv.HW_TEMPERATURE.name: tuple(
        (f"temperature.{place}", {semconv.HW_SENSOR_LOCATION: place, **_TYPE_GPU}) for place in ("gpu", "memory")
    ),
    semconv.HW_TEMPERATURE_LIMIT.name: tuple(
        (
            f"temperature.{place}.{kind}",
            {semconv.HW_SENSOR_LOCATION: place, semconv.HW_LIMIT_TYPE: kind, **_TYPE_GPU},
        )
        for place, kind in LIMITS.values()
    ),
    semconv.GPU_CLOCK.name: tuple((f"clock.{name}", {semconv.GPU_CLOCK_DOMAIN: name}) for name in CLOCKS.values()),
    semconv.GPU_THROTTLED.name: tuple(
        (f"throttled.{name}", {semconv.GPU_THROTTLE_REASON: name}) for name in THROTTLE_REASONS.values()
    ),
    semconv.GPU_PERFORMANCE_STATE.name: (("performance_state", {}),),
    semconv.GPU_POWER_LIMIT.name: (("power.limit", {}),),
    semconv.GPU_PAGES.name: tuple(
        (f"retired.{name}", {semconv.GPU_PAGE_STATE: name}) for name in ("single_bit", "double_bit", "pending")
    ),
    semconv.GPU_REMAPPED_ROWS.name: tuple(
        (f"remapped.{name}", {semconv.GPU_PAGE_STATE: name})
        for name in ("correctable", "uncorrectable", "pending", "failure")
    ),
    semconv.GPU_PROCESS_MEMORY.name: (("process.memory", {}),),
    semconv.GPU_ACTIVITY.name: tuple((f"activity.{name}", {semconv.GPU_UNIT: name}) for name in GPM_UNITS.values()),
    semconv.GPU_IO_RATE.name: tuple(
        (f"rate.{link}.{direction}", {semconv.GPU_LINK: link, semconv.IO_DIRECTION: direction})
        for link in _LINKS
        for direction in _DIRECTIONS
    ),
}
"""By a metric's name the readings that it shows, each with what it adds to the device's attributes."""

_MOST_FANS = 16


class Labelled:
    """Attribute sets of the devices, made once for each."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], list[tuple[str, Labels]]] = {}

    def points(self, metric: semconv.Metric, reading: Reading) -> Iterator[tuple[float, Labels]]:
        """The points of ``metric`` in ``reading``; none for what was not read."""
        values, identity = reading.values, reading.identity
        if metric is semconv.HW_STATUS:
            for state, labels in self._labels(metric.name, identity):
                yield float(state == reading.state), labels
        elif metric is semconv.HW_GPU_MEMORY_UTILIZATION:
            total = values.get("memory.total")
            if total:
                yield values["memory.used"] / total, self._labels(metric.name, identity)[0][1]
        else:
            for key, labels in self._labels(metric.name, identity):
                value = values.get(key)
                if value is not None:
                    yield value, labels

    def _labels(self, name: str, identity: Identity) -> list[tuple[str, Labels]]:
        found = self._made.get((name, identity.uuid))
        if found is None:
            found = self._made[name, identity.uuid] = [*_labels_of(name, identity)]
        return found


def _labels_of(name: str, identity: Identity) -> Iterator[tuple[str, Labels]]:
    device = {
        semconv.HW_ID: identity.uuid,
        semconv.HW_NAME: identity.name,
        semconv.HW_MODEL: identity.model,
        semconv.HW_VENDOR: "NVIDIA",
        semconv.HW_DRIVER_VERSION: identity.driver,
    }
    if identity.parent is not None:
        device[semconv.HW_PARENT] = identity.parent
    if name == semconv.HW_STATUS.name:
        for state in STATES:
            yield state, {**device, **_TYPE_GPU, semconv.HW_STATE: state}
    elif name == semconv.HW_GPU_MEMORY_UTILIZATION.name:
        yield "", device
    elif name == semconv.HW_FAN_SPEED_RATIO.name:
        del device[semconv.HW_DRIVER_VERSION]
        for fan in range(_MOST_FANS):
            own = {semconv.HW_ID: f"{identity.uuid}/fan{fan}", semconv.HW_NAME: str(fan), semconv.HW_TYPE: "fan"}
            yield f"fan.{fan}", {**device, **own, semconv.HW_PARENT: identity.uuid}
    else:
        for key, labels in SOURCES[name]:
            yield key, {**device, **labels}
