"""The dashboard of GPUs, under OpenTelemetry's names or DCGM's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.hardware import dcgm
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Row, Variable, dashboard, label_of, to
from otel_mlobs.tools.dashboard_parts import GPUS, OPERATIONS, of_models, red, sources, values
from otel_mlobs.tools.dashboard_queries import (
    JOB,
    MODEL,
    OF_JOB,
    OF_MODEL,
    OPERATION,
    RATE,
    VERSION,
    by,
    equal,
    select,
    series,
    shown,
)
from otel_mlobs.tools.rules import label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.tools.dashboard_parts import Context

_ID, _NAME = label(semconv.HW_ID), label(semconv.HW_NAME)
_DEVICE = (JOB, _ID, _NAME, label(semconv.HW_MODEL))
_SHOWN = f"GPU {shown(_NAME)}"
_OF_GPU = f'{OF_JOB}, {_ID}=~"$gpu"'
_DCGM = {source.reading: name for name, source in dcgm.SOURCES.items()}
_UUID, _INDEX, _HOST = "UUID", "gpu", "Hostname"
_OF_DCGM = f'{OF_JOB}, {_UUID}=~"$gpu"'
_DCGM_DEVICE = (JOB, _UUID, _INDEX, "modelName", _HOST, "GPU_I_ID")
_DCGM_SHOWN = f"GPU {shown(_INDEX, 'GPU_I_ID')}"
_TO_OPERATIONS = Link("The operations above", to(OPERATIONS, job=label_of(JOB)))
_SLOWED = "hw_.*|sw_thermal"
"""Reasons that clocks are held down for which nobody has set."""


def gpus(context: Context) -> dict[str, Any]:
    """What every GPU does, how hot it is, what holds it down; beside the operations that run on it."""
    if context.gpu_names == "dcgm":
        chosen = Variable("gpu", "GPU", f"label_values({select(_DCGM['temperature.gpu'], OF_JOB)}, {_UUID})")
        rows = _with_dcgm()
    else:
        chosen = values("gpu", "GPU", _ID, (semconv.HW_STATUS,), OF_JOB)
        rows = _standard()
    operations = red(
        context, (JOB, OPERATION, MODEL, VERSION), shown(OPERATION, MODEL, VERSION), _TO_OPERATIONS, OF_MODEL
    )
    return dashboard(
        GPUS,
        "ML serving: GPU",
        "What the GPUs were doing while the models answered. Made by `otel-mlobs dashboard`.",
        [*sources(context), *of_models(), chosen],
        [*rows, Row("The operations above", operations)],
    )


def at_a_glance(context: Context) -> Panel:
    """How busy each GPU of the chosen services is."""
    if context.gpu_names == "dcgm":
        busy, name = f"{by('max', _DCGM_DEVICE, select(_DCGM['utilization.general'], OF_JOB))} / 100", _DCGM_SHOWN
    else:
        task = f'{label(semconv.HW_GPU_TASK)}="general"'
        busy, name = by("max", _DEVICE, series(semconv.HW_GPU_UTILIZATION, OF_JOB, task)), _SHOWN
    return Panel(
        "GPUs",
        "Share of time in which each GPU did anything at all.",
        "percentunit",
        [Query(busy, name)],
        most=1,
        links=[Link("The GPUs", to(GPUS, job=label_of(JOB)))],
    )


def _read(metric: semconv.Metric, *labels: str, matchers: Sequence[str] = ()) -> str:
    """Of each GPU: a former reporter's series stand for minutes beside the new one's, hence the maximum."""
    return by("max", (*_DEVICE, *labels), series(metric, _OF_GPU, *matchers))


def _gained(metric: semconv.Metric, *labels: str, function: str = "rate") -> str:
    return by("max", (*_DEVICE, *labels), f"{function}({series(metric, _OF_GPU)}[{RATE}])")


def _panel(title: str, description: str, unit: str, *queries: Query, most: float | None = None) -> Panel:
    return Panel(title, description, unit, queries, most=most, links=[_TO_OPERATIONS])


def _standard() -> list[Row]:
    task, unit, link, direction = (
        label(key) for key in (semconv.HW_GPU_TASK, semconv.GPU_UNIT, semconv.GPU_LINK, semconv.IO_DIRECTION)
    )
    place, limit, domain = (
        label(key) for key in (semconv.HW_SENSOR_LOCATION, semconv.HW_LIMIT_TYPE, semconv.GPU_CLOCK_DOMAIN)
    )
    reason, state, kind, page = (
        label(key)
        for key in (semconv.GPU_THROTTLE_REASON, semconv.HW_STATE, semconv.ERROR_TYPE, semconv.GPU_PAGE_STATE)
    )
    status = " + ".join(
        f"{number} * {_read(semconv.HW_STATUS, matchers=[equal(state, name)])}"
        for number, name in ((1, "degraded"), (2, "failed"))
    )
    return [
        Row(
            "Is it busy?",
            [
                _panel(
                    "Utilisation",
                    "Share of time in which the GPU, its encoder or its decoder did anything at all: one kernel on one "
                    "SM is 100%.",
                    "percentunit",
                    Query(_read(semconv.HW_GPU_UTILIZATION, task), f"{_SHOWN} {shown(task)}"),
                    most=1,
                ),
                _panel(
                    "Activity by unit",
                    "How busy the SMs, the tensor cores, the memory were (Hopper and newer).",
                    "percentunit",
                    Query(_read(semconv.GPU_ACTIVITY, unit), f"{_SHOWN} {shown(unit)}"),
                    most=1,
                ),
                _panel(
                    "Bytes over the links",
                    "PCIe and NVLink, as the device reports their rate.",
                    "Bps",
                    Query(_read(semconv.GPU_IO_RATE, link, direction), f"{_SHOWN} {shown(link, direction)}"),
                ),
            ],
        ),
        Row(
            "Is its memory full?",
            [
                _panel(
                    "Memory",
                    "Used, by whomever, and what there is.",
                    "bytes",
                    Query(_read(semconv.HW_GPU_MEMORY_USAGE), _SHOWN),
                    Query(_read(semconv.HW_GPU_MEMORY_LIMIT), f"threshold {_SHOWN}"),
                ),
                _panel(
                    "Memory used",
                    "The fraction of it.",
                    "percentunit",
                    Query(_read(semconv.HW_GPU_MEMORY_UTILIZATION), _SHOWN),
                    most=1,
                ),
                _panel(
                    "Of the service's processes",
                    "Memory that the reporting process has on the GPU itself, where the driver can tell.",
                    "bytes",
                    Query(_read(semconv.GPU_PROCESS_MEMORY), _SHOWN),
                ),
            ],
        ),
        Row(
            "Is it held down?",
            [
                _panel(
                    "Clocks",
                    "Current frequencies.",
                    "hertz",
                    Query(_read(semconv.GPU_CLOCK, domain), f"{_SHOWN} {shown(domain)}"),
                ),
                Panel(
                    "What holds the clocks down",
                    "A power cap, heat, the power supply: the usual reason for latency without a deployment.",
                    "short",
                    [
                        Query(
                            _read(semconv.GPU_THROTTLED, reason, matchers=[f'{reason}=~"{_SLOWED}|sw_power_cap"']),
                            f"{_SHOWN} {shown(reason)}",
                        )
                    ],
                    kind="state-timeline",
                    names={0: ("no", "green"), 1: ("held down", "red")},
                    links=[_TO_OPERATIONS],
                ),
                _panel(
                    "Temperature",
                    "Of the chip and of its memory, and where the GPU slows down, switches off, or should not get to.",
                    "celsius",
                    Query(_read(semconv.HW_TEMPERATURE, place), f"{_SHOWN} {shown(place)}"),
                    Query(
                        _read(semconv.HW_TEMPERATURE_LIMIT, place, limit), f"threshold {_SHOWN} {shown(place, limit)}"
                    ),
                ),
                _panel(
                    "Power",
                    "Drawn, and what it may draw.",
                    "watt",
                    Query(_read(semconv.HW_POWER), _SHOWN),
                    Query(_read(semconv.GPU_POWER_LIMIT), f"threshold {_SHOWN}"),
                ),
                _panel("Energy", "Watts by the energy counter.", "watt", Query(_gained(semconv.HW_ENERGY), _SHOWN)),
                _panel(
                    "Performance state",
                    "From 0, the fastest, to 15.",
                    "short",
                    Query(_read(semconv.GPU_PERFORMANCE_STATE), _SHOWN),
                ),
            ],
        ),
        Row(
            "Is it well?",
            [
                Panel(
                    "Status",
                    "As the driver's health readings say; failed is also one that fell off the bus or does not answer.",
                    "short",
                    [Query(status, _SHOWN)],
                    kind="state-timeline",
                    names={0: ("ok", "green"), 1: ("degraded", "orange"), 2: ("failed", "red")},
                    links=[_TO_OPERATIONS],
                ),
                _panel(
                    "Errors",
                    "Memory errors (ECC) and XIDs that came.",
                    "short",
                    Query(_gained(semconv.HW_ERRORS, kind, function="increase"), f"{_SHOWN} {shown(kind)}"),
                ),
                _panel(
                    "Last XID",
                    "Number of the last XID, as NVIDIA catalogues them; 0 is none.",
                    "none",
                    Query(_read(semconv.GPU_LAST_XID), _SHOWN),
                ),
                _panel(
                    "Remapped rows and retired pages",
                    "Memory taken out of use.",
                    "short",
                    Query(_read(semconv.GPU_REMAPPED_ROWS, page), f"{_SHOWN} rows {shown(page)}"),
                    Query(_read(semconv.GPU_PAGES, page), f"{_SHOWN} pages {shown(page)}"),
                ),
                _panel(
                    "Errors in its life",
                    "Memory errors (ECC) since it was made.",
                    "short",
                    Query(_read(semconv.GPU_LIFETIME_ERRORS, kind), f"{_SHOWN} {shown(kind)}"),
                ),
                _panel(
                    "Age of the reading",
                    "How old the readings above are: they stand still while the driver does not answer.",
                    "s",
                    Query(by("max", (JOB,), series(semconv.GPU_READING_AGE, OF_JOB)), shown(JOB)),
                ),
            ],
        ),
    ]


def _with_dcgm() -> list[Row]:
    def read(reading: str, title: str = "") -> Query:
        expr = by("max", _DCGM_DEVICE, select(_DCGM[reading], _OF_DCGM))
        return Query(expr, f"{_DCGM_SHOWN} {title}".strip())

    def scaled(query: Query, by_what: str) -> Query:
        return Query(f"{query.expr} {by_what}", query.legend)

    activities = ("graphics", "sm", "occupancy", "tensor", "dram", "fp64", "fp32", "fp16")
    tasks = ("general", "copy", "encoder", "decoder")
    return [
        Row(
            "Is it busy?",
            [
                _panel(
                    "Utilisation",
                    "Share of time in which the GPU, its memory, its encoder or its decoder did anything at all.",
                    "percent",
                    *(read(f"utilization.{task}", task) for task in tasks),
                ),
                _panel(
                    "Activity by unit",
                    "How busy the SMs, the tensor cores, the memory were (Hopper and newer).",
                    "percentunit",
                    *(read(f"activity.{unit}", unit) for unit in activities),
                    most=1,
                ),
                _panel(
                    "Bytes over PCIe",
                    "As the device reports their rate.",
                    "Bps",
                    *(read(f"rate.pcie.{way}", way) for way in ("transmit", "receive")),
                ),
            ],
        ),
        Row(
            "Memory, clocks, heat, power",
            [
                _panel(
                    "Memory",
                    "Used, by whomever, and free.",
                    "mbytes",
                    *(read(f"memory.{what}", what) for what in ("used", "free")),
                ),
                _panel(
                    "Clocks",
                    "Current frequencies.",
                    "hertz",
                    *(scaled(read(f"clock.{domain}", domain), "* 1e6") for domain in ("sm", "memory")),
                ),
                _panel(
                    "Temperature",
                    "Of the chip and of its memory.",
                    "celsius",
                    *(read(f"temperature.{place}", place) for place in ("gpu", "memory")),
                ),
                _panel("Power", "Drawn.", "watt", read("power")),
                _panel(
                    "Energy",
                    "Watts by the energy counter, which DCGM gives as a gauge of millijoules.",
                    "watt",
                    Query(
                        by("max", _DCGM_DEVICE, f"deriv({select(_DCGM['energy'], _OF_DCGM)}[{RATE}])") + " / 1e3",
                        _DCGM_SHOWN,
                    ),
                ),
            ],
        ),
        Row(
            "Is it well?",
            [
                _panel("Last XID", "Number of the last XID error; 0 is none.", "none", read("xid.last")),
                _panel(
                    "Remapped rows",
                    "Rows of memory that spare ones stand in for; a failure is 1.",
                    "short",
                    *(read(f"remapped.{what}", what) for what in ("correctable", "uncorrectable", "failure")),
                ),
            ],
        ),
    ]
