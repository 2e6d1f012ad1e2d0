"""Metrics of GPUs: OpenTelemetry's ``hw.*`` where there is one, ``mlobs.gpu.*`` else; and attributes of operations."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.keys import ERROR_TYPE
from otel_mlobs.semconv.records import Attribute, Metric

HW_ID: Final = "hw.id"
HW_NAME: Final = "hw.name"
HW_PARENT: Final = "hw.parent"
HW_TYPE: Final = "hw.type"
HW_MODEL: Final = "hw.model"
HW_VENDOR: Final = "hw.vendor"
HW_DRIVER_VERSION: Final = "hw.driver_version"
HW_STATE: Final = "hw.state"
HW_GPU_TASK: Final = "hw.gpu.task"
HW_SENSOR_LOCATION: Final = "hw.sensor_location"
HW_LIMIT_TYPE: Final = "hw.limit_type"
IO_DIRECTION: Final = "network.io.direction"

GPU_LINK: Final = "mlobs.gpu.link"
GPU_UNIT: Final = "mlobs.gpu.unit"
GPU_CLOCK_DOMAIN: Final = "mlobs.gpu.clock_domain"
GPU_THROTTLE_REASON: Final = "mlobs.gpu.throttle_reason"
GPU_PAGE_STATE: Final = "mlobs.gpu.page_state"

GPU_INDEX: Final = "mlobs.gpu.index"
GPU_ENERGY: Final = "mlobs.gpu.energy"
GPU_ENERGY_SHARED: Final = "mlobs.gpu.energy_shared"
GPU_TIME: Final = "mlobs.gpu.time"
GPU_MEMORY_PEAK: Final = "mlobs.gpu.memory_peak"

_ID = Attribute(HW_ID, "string", "The GPU's or MIG instance's UUID.", "GPU-6fd4b4e8-1f2a-4f9a-9d0c-3c1a4be2c5ab")
_NAME = Attribute(HW_NAME, "string", "Its index as NVML counts, of a MIG instance `<GPU>:<instance>`.", "0")
_PARENT = Attribute(HW_PARENT, "string", "Of a MIG instance or a fan: the UUID of its GPU.", "GPU-6fd4b4e8")
_MODEL = Attribute(HW_MODEL, "string", "The product's name.", "NVIDIA H100 80GB HBM3")
_VENDOR = Attribute(HW_VENDOR, "string", "Who made it.", "NVIDIA")
_DRIVER = Attribute(HW_DRIVER_VERSION, "string", "The driver's version.", "580.65.06")
GPU_LABELS: Final = (_ID, _NAME, _PARENT, _MODEL, _VENDOR, _DRIVER)
_TYPE = Attribute(HW_TYPE, "string", "What is concerned: `gpu` or `fan`.", "gpu")
_DIRECTION = Attribute(IO_DIRECTION, "string", "`transmit` or `receive`, seen from the GPU.", "receive")
_LINK = Attribute(GPU_LINK, "string", "`pcie` or `nvlink`.", "nvlink")

HW_GPU_UTILIZATION: Final = Metric(
    "hw.gpu.utilization",
    "gauge",
    "1",
    "Share of time in which the GPU, its encoder or its decoder did anything at all.",
    (*GPU_LABELS, Attribute(HW_GPU_TASK, "string", "`general`, `encoder` or `decoder`.", "general")),
)
HW_GPU_MEMORY_UTILIZATION: Final = Metric(
    "hw.gpu.memory.utilization", "gauge", "1", "Fraction of the GPU's memory that is used.", GPU_LABELS
)
HW_GPU_MEMORY_USAGE: Final = Metric(
    "hw.gpu.memory.usage", "updowncounter", "By", "Memory used, by whomever.", GPU_LABELS
)
HW_GPU_MEMORY_LIMIT: Final = Metric("hw.gpu.memory.limit", "updowncounter", "By", "Memory that there is.", GPU_LABELS)
HW_GPU_IO: Final = Metric(
    "hw.gpu.io",
    "counter",
    "By",
    "Bytes sent and received over PCIe and NVLink, where the device counts them.",
    (*GPU_LABELS, _DIRECTION, _LINK),
)
_ECC_ERROR = "`ecc_corrected` or `ecc_uncorrected`"
HW_ERRORS: Final = Metric(
    "hw.errors",
    "counter",
    "{error}",
    "Errors of memory (ECC) since the driver was loaded, and XIDs since this process began to look.",
    (*GPU_LABELS, _TYPE, Attribute(ERROR_TYPE, "string", f"{_ECC_ERROR}, or `xid`.", "ecc_uncorrected")),
)
GPU_LIFETIME_ERRORS: Final = Metric(
    "mlobs.gpu.lifetime_errors",
    "counter",
    "{error}",
    "Errors of memory (ECC) in the device's life.",
    (*GPU_LABELS, Attribute(ERROR_TYPE, "string", f"{_ECC_ERROR}.", "ecc_corrected")),
)
GPU_LAST_XID: Final = Metric(
    "mlobs.gpu.last_xid",
    "gauge",
    "{xid}",
    "The number of the last XID that was seen, as NVIDIA catalogues them; 0 for none.",
    GPU_LABELS,
)
HW_STATUS: Final = Metric(
    "hw.status",
    "updowncounter",
    "1",
    "1 for the state that the GPU is in, 0 for the others.",
    (*GPU_LABELS, _TYPE, Attribute(HW_STATE, "string", "`ok`, `degraded` or `failed`.", "ok")),
)
HW_POWER: Final = Metric("hw.power", "gauge", "W", "Power drawn.", (*GPU_LABELS, _TYPE))
HW_ENERGY: Final = Metric("hw.energy", "counter", "J", "Energy used since the driver was loaded.", (*GPU_LABELS, _TYPE))
_LOCATION = Attribute(HW_SENSOR_LOCATION, "string", "`gpu` or `memory`.", "memory")
HW_TEMPERATURE: Final = Metric(
    "hw.temperature", "gauge", "Cel", "Temperature of the chip or of its memory.", (*GPU_LABELS, _TYPE, _LOCATION)
)
HW_TEMPERATURE_LIMIT: Final = Metric(
    "hw.temperature.limit",
    "gauge",
    "Cel",
    "Where the GPU slows down (`high.degraded`), where it switches off (`high.critical`), and what is the most that "
    "it should have (`max`).",
    (*GPU_LABELS, _TYPE, _LOCATION, Attribute(HW_LIMIT_TYPE, "string", "Which limit.", "high.degraded")),
)
HW_FAN_SPEED_RATIO: Final = Metric(
    "hw.fan.speed_ratio", "gauge", "1", "Speed of a fan, of its most.", (_ID, _NAME, _PARENT, _MODEL, _VENDOR, _TYPE)
)
GPU_CLOCK: Final = Metric(
    "mlobs.gpu.clock",
    "gauge",
    "Hz",
    "Current frequency.",
    (*GPU_LABELS, Attribute(GPU_CLOCK_DOMAIN, "string", "`graphics`, `sm`, `memory` or `video`.", "sm")),
)
GPU_THROTTLED: Final = Metric(
    "mlobs.gpu.throttled",
    "gauge",
    "1",
    "1 while something holds the clocks down, 0 else.",
    (
        *GPU_LABELS,
        Attribute(
            GPU_THROTTLE_REASON,
            "string",
            "`sw_power_cap`, `hw_slowdown`, `hw_thermal`, `hw_power_brake`, `sw_thermal`, `sync_boost`, "
            "`application_clocks` or `display_clocks`.",
            "hw_thermal",
        ),
    ),
)
GPU_PERFORMANCE_STATE: Final = Metric(
    "mlobs.gpu.performance_state", "gauge", "{state}", "From 0, the fastest, to 15, the slowest.", GPU_LABELS
)
GPU_POWER_LIMIT: Final = Metric("mlobs.gpu.power_limit", "gauge", "W", "The power that it may draw.", GPU_LABELS)
GPU_PAGES: Final = Metric(
    "mlobs.gpu.retired_pages",
    "gauge",
    "{page}",
    "Pages of memory taken out of use.",
    (
        *GPU_LABELS,
        Attribute(GPU_PAGE_STATE, "string", "`single_bit`, `double_bit`, or `pending`: 1 until a reboot.", "pending"),
    ),
)
GPU_REMAPPED_ROWS: Final = Metric(
    "mlobs.gpu.remapped_rows",
    "gauge",
    "{row}",
    "Rows of memory that spare ones stand in for.",
    (
        *GPU_LABELS,
        Attribute(
            GPU_PAGE_STATE, "string", "`correctable`, `uncorrectable`; `pending` and `failure` are 1 or 0.", "failure"
        ),
    ),
)
GPU_PROCESS_MEMORY: Final = Metric(
    "mlobs.gpu.process.memory", "gauge", "By", "Memory that this process has on the GPU.", GPU_LABELS
)
GPU_ACTIVITY: Final = Metric(
    "mlobs.gpu.activity",
    "gauge",
    "1",
    "How busy a unit was since the reading before (GPM; Hopper and newer).",
    (
        *GPU_LABELS,
        Attribute(
            GPU_UNIT,
            "string",
            "`graphics`, `sm`, `tensor`, `fp64`, `fp32`, `fp16`, `integer`, `dram`; `occupancy` is the share of warps.",
            "tensor",
        ),
    ),
)
GPU_IO_RATE: Final = Metric(
    "mlobs.gpu.io_rate",
    "gauge",
    "By/s",
    "Bytes a second over PCIe and NVLink since the reading before (GPM; PCIe also without).",
    (*GPU_LABELS, _DIRECTION, _LINK),
)
GPU_READING_AGE: Final = Metric(
    "mlobs.gpu.reading_age", "gauge", "s", "How old the last reading of all GPUs is.", (_VENDOR,)
)

GPU_METRICS: Final = (
    HW_GPU_UTILIZATION,
    HW_GPU_MEMORY_UTILIZATION,
    HW_GPU_MEMORY_USAGE,
    HW_GPU_MEMORY_LIMIT,
    HW_GPU_IO,
    HW_ERRORS,
    GPU_LIFETIME_ERRORS,
    GPU_LAST_XID,
    HW_STATUS,
    HW_POWER,
    HW_ENERGY,
    HW_TEMPERATURE,
    HW_TEMPERATURE_LIMIT,
    HW_FAN_SPEED_RATIO,
    GPU_CLOCK,
    GPU_THROTTLED,
    GPU_PERFORMANCE_STATE,
    GPU_POWER_LIMIT,
    GPU_PAGES,
    GPU_REMAPPED_ROWS,
    GPU_PROCESS_MEMORY,
    GPU_ACTIVITY,
    GPU_IO_RATE,
    GPU_READING_AGE,
)

GPU_OPERATION_ATTRIBUTES: Final = (
    Attribute(GPU_INDEX, "int", "With `gpu=`: which GPU, as nvidia-smi counts.", "0"),
    Attribute(GPU_ENERGY, "double", "Joules that this GPU used meanwhile, whoever used it.", "18.4"),
    Attribute(GPU_ENERGY_SHARED, "boolean", "Whether other such operations of the process overlapped.", "false"),
    Attribute(GPU_TIME, "double", "Seconds between CUDA events at start and end, where both had passed.", "0.012"),
    Attribute(GPU_MEMORY_PEAK, "int", "The most bytes PyTorch had allocated so far, or CuPy has.", "734003200"),
)
