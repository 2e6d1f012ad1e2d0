"""USE of what operations need: CPU, memory, disk, connections, GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.alerts.definitions import (
    HIGH,
    LOW,
    NUMBER,
    SHARE,
    STEP,
    SYSTEM,
    Case,
    Definition,
    counter,
    gauge,
    link,
    selector,
    series,
)
from otel_mlobs.tools.rules import label, prometheus_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_mlobs.settings.objectives import Objective

RESOURCE, EXTENT = label(semconv.PRESSURE_RESOURCE), label(semconv.PRESSURE_EXTENT)
POOL, POOL_STATE = label(semconv.POOL_NAME), label(semconv.POOL_STATE)
GPU, GPU_STATE, ERROR_TYPE = label(semconv.HW_ID), label(semconv.HW_STATE), label(semconv.ERROR_TYPE)
REASON = label(semconv.GPU_THROTTLE_REASON)

PRESSURES = {"cpu": ("some", 0.5), "memory": ("some", 0.1), "io": ("full", 0.3)}
"""Of which pressure how much of the time is too much. CPU has no `full`, and for disk `some` is everyday."""
SLOWING = ("hw_slowdown", "hw_thermal", "hw_power_brake", "sw_thermal")
"""Reasons for which a GPU is slower than it should be; its power cap is not among them."""
HOUR = 3600.0
NOTHING = Case("no metrics at all")
_WHERE = "{{ with $labels.instance }}{{ . }}{{ else }}{{ $labels.job }}{{ end }}"
_GPU = f"GPU {{{{ $labels.hw_name }}}} ({{{{ $labels.{GPU} }}}})"


def resource_alerts(objective: Objective) -> Iterator[Definition]:
    """What somebody is told of the machine beneath the service: nothing where nothing reports of it."""
    yield _pressure(objective)
    yield from _container(objective)
    yield from _pools(objective)
    yield from _gpus(objective)


def _pressure(objective: Objective) -> Definition:
    name = prometheus_name(semconv.PRESSURE)
    parts = [
        f'rate({name}{{{RESOURCE}="{resource}", {EXTENT}="{extent}"}}[5m]) > {most:g}'
        for resource, (extent, most) in PRESSURES.items()
    ]
    memory = series(name, {RESOURCE: "memory", EXTENT: "some"})
    return Definition(
        "HostPressure",
        LOW,
        SYSTEM,
        "\nor\n".join(parts),
        f"{_WHERE} is short of {{{{ $labels.{RESOURCE} }}}}",
        f"Tasks waited for {{{{ $labels.{RESOURCE} }}}} for {SHARE} of the last five minutes.",
        "Linux's pressure stall information: the share of time in which work stood still for want of something.",
        objective,
        hold=600.0,
        keep=300.0,
        dashboard=link("mlobs-overview"),
        cases=_rising(memory, 0.15, 0.09, fires=300.0 * 0.1 / 0.15, hold=600.0),
    )


def _rising(what: str, bad: float, good: float, *, fires: float, hold: float) -> tuple[Case, ...]:
    """A counter that rises too fast from the first sample on, and one that does not."""
    return (
        Case(
            "more than there may be",
            ((what, counter((HOUR, bad), (HOUR, 0.0))),),
            fires=fires + hold,
            ends=HOUR + 600.0 + 300.0 + 60.0,
            lasts=2 * HOUR,
            slack=60.0,
        ),
        Case("just less", ((what, counter((HOUR, good))),)),
        NOTHING,
    )


def _container(objective: Objective) -> Iterator[Definition]:
    periods, throttled = prometheus_name(semconv.CONTAINER_PERIODS), prometheus_name(semconv.CONTAINER_THROTTLED)
    usage, limit = prometheus_name(semconv.CONTAINER_MEMORY_USAGE), prometheus_name(semconv.CONTAINER_MEMORY_LIMIT)
    killed = prometheus_name(semconv.CONTAINER_OOM_KILLS)

    def stopped(share: float) -> tuple[tuple[str, str], ...]:
        return (series(periods, {}), counter((HOUR, 10.0))), (series(throttled, {}), counter((HOUR, 10.0 * share)))

    yield Definition(
        "ContainerThrottled",
        LOW,
        SYSTEM,
        f"rate({throttled}[5m]) / (rate({periods}[5m]) > 0) > 0.25",
        f"{_WHERE} is stopped by its CPU quota",
        f"In {SHARE} of the periods of the last five minutes its quota was used up before their end.",
        "Each such period is up to 100 ms in which nothing is answered: a p99 that no profile of the code explains.",
        objective,
        hold=600.0,
        keep=300.0,
        dashboard=link("mlobs-overview"),
        cases=(
            Case("a third of the periods", stopped(0.33), fires=2 * STEP + 600.0),
            Case("just less than a quarter", stopped(0.24)),
            NOTHING,
        ),
    )

    def filled(share: float) -> tuple[tuple[str, str], ...]:
        return (
            (series(usage, {}), gauge((HOUR, share * 1e9), (HOUR, 1e8))),
            (series(limit, {}), gauge((2 * HOUR, 1e9))),
        )

    yield Definition(
        "ContainerMemoryHigh",
        LOW,
        SYSTEM,
        f"{usage} / ({limit} > 0) > 0.9",
        f"the memory of {_WHERE} is nearly full",
        f"{SHARE} of the container's memory is used, its page cache included.",
        "At the limit the kernel kills a process of it.",
        objective,
        hold=600.0,
        keep=300.0,
        dashboard=link("mlobs-overview"),
        cases=(
            Case("nearly full", filled(0.95), fires=600.0, ends=HOUR + 300.0 + 60.0, lasts=2 * HOUR),
            Case("just less", filled(0.89)),
            NOTHING,
        ),
    )
    yield Definition(
        "ContainerOutOfMemory",
        HIGH,
        SYSTEM,
        f"increase({killed}[10m]) > 0",
        f"a process of {_WHERE} was killed: its memory was full",
        f"{NUMBER} in the last ten minutes. Requests that it was answering are lost.",
        "The kernel's count of processes killed in the container.",
        objective,
        dashboard=link("mlobs-overview"),
        cases=(
            Case(
                "one was killed",
                ((series(killed, {}), "0x80 1x200"),),
                fires=81 * STEP,
                ends=81 * STEP + 600.0 + 60.0,
            ),
            Case("none was", ((series(killed, {}), "3x240"),)),
            NOTHING,
        ),
    )


def _pools(objective: Objective) -> Iterator[Definition]:
    timeouts, connections, most = (
        prometheus_name(metric) for metric in (semconv.POOL_TIMEOUTS, semconv.POOL_CONNECTIONS, semconv.POOL_MAX)
    )
    pool = {POOL: "redis:6379/0"}
    yield Definition(
        "PoolTimeouts",
        LOW,
        SYSTEM,
        f"increase({timeouts}[5m]) > 0",
        f"no connection came free in the pool {{{{ $labels.{POOL} }}}}",
        f"{NUMBER} callers gave up waiting in the last five minutes.",
        "The pool is too small, or those who have a connection hold it for too long.",
        objective,
        hold=60.0,
        keep=300.0,
        dashboard=link("mlobs-overview"),
        cases=(
            Case(
                "callers give up",
                ((series(timeouts, pool), counter((HOUR, 0.0), (HOUR, 0.1), (HOUR, 0.0))),),
                fires=HOUR + 1.5 * STEP + 60.0,
                ends=2 * HOUR + 300.0 + 300.0 + 60.0,
                lasts=3 * HOUR,
            ),
            Case("nobody does", ((series(timeouts, pool), counter((HOUR, 0.0))),)),
            NOTHING,
        ),
    )

    def used(number: float) -> tuple[tuple[str, str], ...]:
        return (
            (series(connections, pool, **{POOL_STATE: "used"}), gauge((HOUR, number))),
            (series(connections, pool, **{POOL_STATE: "idle"}), gauge((HOUR, 20 - number))),
            (series(most, pool), gauge((HOUR, 20.0))),
        )

    yield Definition(
        "PoolSaturated",
        LOW,
        SYSTEM,
        f'sum without ({POOL_STATE}) ({connections}{{{POOL_STATE}="used"}})\n/ ({most} > 0) > 0.9',
        f"the pool {{{{ $labels.{POOL} }}}} is nearly used up",
        f"{SHARE} of its connections are in use: the next callers wait.",
        "Saturation: what comes next is waiting, and then timeouts.",
        objective,
        hold=300.0,
        keep=300.0,
        dashboard=link("mlobs-overview"),
        cases=(
            Case("nearly all are in use", used(19.0), fires=300.0),
            Case("just not so many", used(18.0)),
            NOTHING,
        ),
    )


def _gpus(objective: Objective) -> Iterator[Definition]:
    status, failures = prometheus_name(semconv.HW_STATUS), prometheus_name(semconv.HW_ERRORS)
    throttled, age = prometheus_name(semconv.GPU_THROTTLED), prometheus_name(semconv.GPU_READING_AGE)
    gpu = {GPU: "GPU-6fd4b4e8", "hw_name": "0"}
    dashboard = link("mlobs-gpu")
    yield Definition(
        "GpuFailed",
        HIGH,
        SYSTEM,
        f'{status}{{{GPU_STATE}="failed"}} > 0',
        f"{_GPU} has failed",
        "The driver has lost it, or says that it is not to be used.",
        "Models on it answer with errors, or no longer.",
        objective,
        hold=60.0,
        dashboard=dashboard,
        cases=(
            Case(
                "it fails",
                ((series(status, gpu, **{GPU_STATE: "failed"}), gauge((HOUR, 0.0), (HOUR, 1.0), (HOUR, 0.0))),),
                fires=HOUR + 60.0,
                ends=2 * HOUR + 30.0,
                lasts=3 * HOUR,
            ),
            Case("it is degraded", ((series(status, gpu, **{GPU_STATE: "degraded"}), gauge((HOUR, 1.0))),)),
            NOTHING,
        ),
    )
    uncorrected = series(failures, gpu, **{ERROR_TYPE: "ecc_uncorrected"})
    yield Definition(
        "GpuErrors",
        HIGH,
        SYSTEM,
        f'increase({failures}{{{ERROR_TYPE}!="ecc_corrected"}}[10m]) > 0',
        f"{_GPU} reports errors: {{{{ $labels.{ERROR_TYPE} }}}}",
        f"{NUMBER} in the last ten minutes: memory that could not be corrected, or an XID of the driver.",
        "Corrected errors are not among them: they are what ECC is for.",
        objective,
        dashboard=dashboard,
        cases=(
            Case("one comes", ((uncorrected, "0x80 1x200"),), fires=81 * STEP, ends=81 * STEP + 600.0 + 60.0),
            Case(
                "corrected ones come",
                ((series(failures, gpu, **{ERROR_TYPE: "ecc_corrected"}), counter((HOUR, 1.0))),),
            ),
            NOTHING,
        ),
    )
    reasons = selector(f'{REASON}=~"{"|".join(SLOWING)}"')

    def slowed(reason: str) -> tuple[tuple[str, str], ...]:
        return ((series(throttled, gpu, **{REASON: reason}), gauge((HOUR, 1.0), (HOUR, 0.0))),)

    yield Definition(
        "GpuThrottled",
        LOW,
        SYSTEM,
        f"avg_over_time({throttled}{reasons}[5m]) > 0.5",
        f"{_GPU} is slowed down: {{{{ $labels.{REASON} }}}}",
        f"So it was in {SHARE} of the readings of the last five minutes.",
        "Heat, or power that does not come. That it is at the power it is allowed is none of this.",
        objective,
        hold=600.0,
        keep=300.0,
        dashboard=dashboard,
        cases=(
            Case("it is too hot", slowed(SLOWING[1]), fires=600.0, ends=HOUR + 300.0 + 300.0 + 60.0, lasts=2 * HOUR),
            Case("it is at its power cap", slowed("sw_power_cap")),
            NOTHING,
        ),
    )
    yield Definition(
        "GpuReadingsOld",
        LOW,
        SYSTEM,
        f"{age} > 120",
        "the GPUs of " + _WHERE + " are no longer read",
        "The last reading is {{ $value | humanizeDuration }} old: the driver does not answer.",
        "What the other figures of the GPUs say is then as old.",
        objective,
        hold=120.0,
        dashboard=dashboard,
        cases=(
            Case(
                "readings stop",
                ((series(age, {}), "1x40 0+15x200"),),
                fires=(41 + 9) * STEP + 120.0,
            ),
            Case("readings come", ((series(age, {}), gauge((HOUR, 60.0))),)),
            NOTHING,
        ),
    )
