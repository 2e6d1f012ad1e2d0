"""What is asked of the driver for one device, function by function, and the names under which it is kept.

Every function takes the module ``pynvml`` and a device's handle and returns values in base units. What a device does
not support raises, as everything does that the driver refuses; who calls decides what that means.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, float]
    Reader = Callable[[Any, Any], Values]

_MIB = 2**20
_ALL_LINKS = 0xFFFFFFFF
_FIELD_VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""By a field's ``valueType``."""

THROTTLE_REASONS = {
    0x002: "application_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
    0x100: "display_clocks",
}
"""Bits of NVML's clock event reasons; idleness (bit 0) holds nothing down."""

CLOCKS = {0: "graphics", 1: "sm", 2: "memory", 3: "video"}
LIMITS = {0: ("gpu", "high.critical"), 1: ("gpu", "high.degraded"), 2: ("memory", "max"), 3: ("gpu", "max")}
"""NVML's temperature thresholds: which sensor, and OpenTelemetry's type of limit."""

GPM_UNITS = {
    1: "graphics",
    2: "sm",
    3: "occupancy",
    4: "integer",
    5: "tensor",
    10: "dram",
    11: "fp64",
    12: "fp32",
    13: "fp16",
}
"""GPM metrics in percent."""
GPM_RATES = {20: "pcie.transmit", 21: "pcie.receive", 60: "nvlink.receive", 61: "nvlink.transmit"}
"""GPM metrics in MiB/s."""


def _utilization(nvml: Any, handle: Any) -> Values:
    found = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"utilization.general": found.gpu / 100, "utilization.copy": found.memory / 100}


def _encoder(nvml: Any, handle: Any) -> Values:
    return {"utilization.encoder": nvml.nvmlDeviceGetEncoderUtilization(handle)[0] / 100}


def _decoder(nvml: Any, handle: Any) -> Values:
    return {"utilization.decoder": nvml.nvmlDeviceGetDecoderUtilization(handle)[0] / 100}


def _memory(nvml: Any, handle: Any) -> Values:
    try:  # the second version does not count what the driver keeps for itself as used
        found = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NotSupported, AttributeError):
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"memory.used": found.used, "memory.free": found.free, "memory.total": found.total}


def _energy(nvml: Any, handle: Any) -> Values:
    return {"energy": nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000}


def _power(nvml: Any, handle: Any) -> Values:
    return {"power": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _power_limit(nvml: Any, handle: Any) -> Values:
    return {"power.limit": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000}


def _temperature(nvml: Any, handle: Any) -> Values:
    return {"temperature.gpu": nvml.nvmlDeviceGetTemperature(handle, 0)}


def _limit(which: int) -> Reader:
    sensor, kind = LIMITS[which]
    key = f"temperature.{sensor}.{kind}"
    return lambda nvml, handle: {key: nvml.nvmlDeviceGetTemperatureThreshold(handle, which)}


def _clock(which: int) -> Reader:
    key = f"clock.{CLOCKS[which]}"
    return lambda nvml, handle: {key: nvml.nvmlDeviceGetClockInfo(handle, which) * 1e6}


def _throttled(nvml: Any, handle: Any) -> Values:
    try:
        found = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except nvml.NVMLError_FunctionNotFound:  # drivers before 535 call it by its former name
        found = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {f"throttled.{name}": float(bool(found & bit)) for bit, name in THROTTLE_REASONS.items()}


def _performance_state(nvml: Any, handle: Any) -> Values:
    state = nvml.nvmlDeviceGetPerformanceState(handle)
    return {"performance_state": state} if 0 <= state <= 15 else {}  # 32 stands for unknown


def _ecc(error: int, lifetime: int) -> Reader:
    key = f"{('volatile', 'aggregate')[lifetime]}.{('ecc_corrected', 'ecc_uncorrected')[error]}"
    return lambda nvml, handle: {key: nvml.nvmlDeviceGetTotalEccErrors(handle, error, lifetime)}


def _retired(cause: int) -> Reader:
    key = f"retired.{('single_bit', 'double_bit')[cause]}"
    return lambda nvml, handle: {key: len(nvml.nvmlDeviceGetRetiredPages(handle, cause))}


def _retired_pending(nvml: Any, handle: Any) -> Values:
    return {"retired.pending": nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)}


def _remapped(nvml: Any, handle: Any) -> Values:
    correctable, uncorrectable, pending, failure = nvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "remapped.correctable": correctable,
        "remapped.uncorrectable": uncorrectable,
        "remapped.pending": pending,
        "remapped.failure": failure,
    }


def _fans(nvml: Any, handle: Any) -> Values:
    fans = range(nvml.nvmlDeviceGetNumFans(handle))
    return {f"fan.{fan}": nvml.nvmlDeviceGetFanSpeed_v2(handle, fan) / 100 for fan in fans}


def _own_memory(nvml: Any, handle: Any) -> Values:
    own = os.getpid()
    for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == own and process.usedGpuMemory is not None:
            return {"process.memory": process.usedGpuMemory}
    return {}


def _fields(nvml: Any, handle: Any) -> Values:
    asked = {
        "temperature.memory": (nvml.NVML_FI_DEV_MEMORY_TEMP, 0),
        "io.nvlink.transmit": (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS),
        "io.nvlink.receive": (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS),
        "io.pcie.transmit": (nvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0),
        "io.pcie.receive": (nvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
    }
    found: dict[str, float] = {}
    for key, field in zip(asked, nvml.nvmlDeviceGetFieldValues(handle, list(asked.values())), strict=True):
        if field.nvmlReturn == nvml.NVML_SUCCESS and 0 <= field.valueType < len(_FIELD_VALUES):
            value = getattr(field.value, _FIELD_VALUES[field.valueType])
            found[key] = value * 1024 if "nvlink" in key else value  # NVLink counts KiB
    return found


def _pcie_rates(nvml: Any, handle: Any) -> Values:
    # Each call takes the 20 ms over which the driver measures
    return {
        "rate.pcie.transmit": nvml.nvmlDeviceGetPcieThroughput(handle, 0) * 1024,
        "rate.pcie.receive": nvml.nvmlDeviceGetPcieThroughput(handle, 1) * 1024,
    }


OF_GPU: Mapping[str, Reader] = {
    "memory": _memory,
    "utilization": _utilization,
    "encoder utilization": _encoder,
    "decoder utilization": _decoder,
    "energy": _energy,
    "power": _power,
    "power limit": _power_limit,
    "temperature": _temperature,
    **{f"temperature limit {which}": _limit(which) for which in LIMITS},
    **{f"{name} clock": _clock(which) for which, name in CLOCKS.items()},
    "throttle reasons": _throttled,
    "performance state": _performance_state,
    **{f"ECC errors {error}{lifetime}": _ecc(error, lifetime) for error in (0, 1) for lifetime in (0, 1)},
    "retired pages, single bit": _retired(0),
    "retired pages, double bit": _retired(1),
    "retired pages pending": _retired_pending,
    "remapped rows": _remapped,
    "fans": _fans,
    "process memory": _own_memory,
    "field values": _fields,
}
"""By what a message calls it."""
OF_MIG: Mapping[str, Reader] = {"memory": _memory, "process memory": _own_memory}
WITHOUT_GPM: Mapping[str, Reader] = {"PCIe throughput": _pcie_rates}


class Gpm:
    """Activity between two passes, of a device or MIG instance that has GPM (Hopper and newer).

    The driver compares two samples that are at least 100 ms apart.
    """

    _LEAST_S = 0.1

    def __init__(self, nvml: Any, handle: Any, instance: int | None = None) -> None:
        """``handle`` is the GPU's also where an ``instance`` of it is meant."""
        self._handle = handle
        self._instance = instance
        self._samples = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
        self._taken: float | None = None
        self._asked = asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
        self._ids = (*GPM_UNITS, *GPM_RATES)
        asked.numMetrics = len(self._ids)
        for position, which in enumerate(self._ids):
            asked.metrics[position].metricId = which

    @staticmethod
    def supported(nvml: Any, handle: Any) -> bool:
        """Whether the device has GPM."""
        return bool(nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)

    def read(self, nvml: Any) -> Values:
        """Activity since the pass before; nothing at the first, or where that was just now."""
        if self._taken is not None and time.monotonic() - self._taken < self._LEAST_S:
            return {}
        before, after = self._samples
        if self._instance is None:
            nvml.nvmlGpmSampleGet(self._handle, after)
        else:
            nvml.nvmlGpmMigSampleGet(self._handle, self._instance, after)
        first, self._taken = self._taken is None, time.monotonic()  # once it was taken: a call may be slow
        self._samples = [after, before]
        if first:
            return {}
        asked = self._asked
        asked.sample1, asked.sample2 = before, after
        nvml.nvmlGpmMetricsGet(asked)
        found: dict[str, float] = {}
        for position, which in enumerate(self._ids):
            metric = asked.metrics[position]
            if metric.nvmlReturn != nvml.NVML_SUCCESS or not math.isfinite(metric.value):
                continue
            if which in GPM_UNITS:
                found[f"activity.{GPM_UNITS[which]}"] = metric.value / 100
            else:
                found[f"rate.{GPM_RATES[which]}"] = metric.value * _MIB
        return found

    def close(self, nvml: Any) -> None:
        """Give the samples back."""
        for sample in self._samples:
            nvml.nvmlGpmSampleFree(sample)
