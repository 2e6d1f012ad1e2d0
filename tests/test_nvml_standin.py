"""The stand-in for NVML: what is scripted comes out of the real ``pynvml``, through the library's own interface."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nvml_standin
import pynvml as nvml
import pytest
from nvml_standin import ALL_LINKS, EVERYTHING, H100, H100_MIG, T4, Driver, calls, uuid


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """A driver in this process, initialised, with one device that answers everything."""
    with nvml_standin.in_process(Driver(tmp_path).device(0, EVERYTHING)) as scripted:
        nvml.nvmlInit()
        yield scripted


def _of_struct(struct: Any, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(struct, name) for name in names)


def _field(handle: Any, field: Any) -> Any:
    (found,) = nvml.nvmlDeviceGetFieldValues(handle, [field])
    return found


def _temperature(handle: Any) -> int:
    value: int = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    return value


SYSTEM: dict[str, tuple[Callable[[], Any], str, Any]] = {
    "driver version": (lambda: nvml.nvmlSystemGetDriverVersion(), "driver", "580.95.05"),
    "NVML version": (lambda: nvml.nvmlSystemGetNVMLVersion(), "nvml", "13.580.95.05"),
    "CUDA version": (lambda: nvml.nvmlSystemGetCudaDriverVersion_v2(), "cuda", 13000),
}

DEVICE: dict[str, tuple[Callable[[Any], Any], dict[str, Any], Any]] = {
    "name": (nvml.nvmlDeviceGetName, {"name": "A GPU of 1 word"}, "A GPU of 1 word"),
    "UUID": (nvml.nvmlDeviceGetUUID, {"uuid": "GPU-12"}, "GPU-12"),
    "serial": (nvml.nvmlDeviceGetSerial, {"serial": 1654922006117}, "1654922006117"),
    "minor number": (nvml.nvmlDeviceGetMinorNumber, {"minor": 5}, 5),
    "PCI": (
        lambda handle: _of_struct(nvml.nvmlDeviceGetPciInfo(handle), "domain", "bus", "device", "busId", "busIdLegacy"),
        {"bus": "0000000A:B7:1C.0"},
        (10, 0xB7, 0x1C, "0000000A:B7:1C.0", "000A:B7:1C.0"),
    ),
    "utilization": (
        lambda handle: _of_struct(nvml.nvmlDeviceGetUtilizationRates(handle), "gpu", "memory"),
        {"utilization.gpu": 88, "utilization.memory": 13},
        (88, 13),
    ),
    "encoder": (nvml.nvmlDeviceGetEncoderUtilization, {"encoder": 21}, [21, 167000]),
    "decoder": (nvml.nvmlDeviceGetDecoderUtilization, {"decoder": 22}, [22, 167000]),
    "memory": (
        lambda handle: _of_struct(nvml.nvmlDeviceGetMemoryInfo(handle), "total", "free", "used"),
        {"memory.total": 2**37, "memory.free": 2**36 - 5, "memory.used": 2**36, "memory.reserved": 5},
        (2**37, 2**36 - 5, 2**36 + 5),
    ),
    "memory, second version": (
        lambda handle: _of_struct(
            nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2), "total", "reserved", "free", "used"
        ),
        {"memory.total": 2**37, "memory.free": 2**36 - 5, "memory.used": 2**36, "memory.reserved": 5},
        (2**37, 5, 2**36 - 5, 2**36),
    ),
    "energy": (nvml.nvmlDeviceGetTotalEnergyConsumption, {"energy": 2**40 + 1}, 2**40 + 1),
    "power": (nvml.nvmlDeviceGetPowerUsage, {"power": 412_350}, 412_350),
    "power limit": (nvml.nvmlDeviceGetEnforcedPowerLimit, {"power.limit": 650_000}, 650_000),
    "temperature": (_temperature, {"temperature": 71}, 71),
    "temperature, by its version": (
        lambda handle: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU),
        {"temperature": -5},
        -5,
    ),
    "temperature threshold": (
        lambda handle: nvml.nvmlDeviceGetTemperatureThreshold(handle, nvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
        {"threshold.2": 105},
        105,
    ),
    "fans": (nvml.nvmlDeviceGetNumFans, {"fans": 3}, 3),
    "fan": (lambda handle: nvml.nvmlDeviceGetFanSpeed_v2(handle, 1), {"fan.1": 77}, 77),
    "clock": (lambda handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM), {"clock.2": 2620}, 2620),
    "clock event reasons": (nvml.nvmlDeviceGetCurrentClocksEventReasons, {"throttle": 0x48}, 0x48),
    "clock throttle reasons": (nvml.nvmlDeviceGetCurrentClocksThrottleReasons, {"throttle": "0x48"}, 0x48),
    "performance state": (nvml.nvmlDeviceGetPerformanceState, {"pstate": 8}, 8),
    "PCIe, sent": (
        lambda handle: nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_TX_BYTES),
        {"pcie.tx": 123},
        123,
    ),
    "PCIe, received": (
        lambda handle: nvml.nvmlDeviceGetPcieThroughput(handle, nvml.NVML_PCIE_UTIL_RX_BYTES),
        {"pcie.rx": 456},
        456,
    ),
    "ECC errors": (
        lambda handle: nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC
        ),
        {"ecc.1.1": 2**33},
        2**33,
    ),
    "retired pages": (
        lambda handle: len(
            set(nvml.nvmlDeviceGetRetiredPages(handle, nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR))
        ),
        {"retired.1": 12},
        12,
    ),
    "retired pages pending": (nvml.nvmlDeviceGetRetiredPagesPendingStatus, {"retired.pending": 1}, 1),
    "remapped rows": (
        nvml.nvmlDeviceGetRemappedRows,
        {
            "remapped.correctable": 4,
            "remapped.uncorrectable": 3,
            "remapped.pending": 1,
            "remapped.failure": 0,
        },
        (4, 3, 1, 0),
    ),
    "MIG mode": (nvml.nvmlDeviceGetMigMode, {"mig": 1}, [1, 1]),
    "GPM support": (lambda handle: nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice, {"gpm": 1}, 1),
    "event types": (nvml.nvmlDeviceGetSupportedEventTypes, {"xid": ""}, nvml.nvmlEventTypeXidCriticalError),
}
if not hasattr(nvml, "nvmlDeviceGetTemperatureV"):  # as in the oldest nvidia-ml-py that we take
    del DEVICE["temperature, by its version"]


def _first() -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(0)


@pytest.mark.parametrize("what", SYSTEM)
def test_the_system_is_as_scripted(driver: Driver, what: str) -> None:
    """Each question about the system is answered by its key, and not supported without it."""
    ask, key, expected = SYSTEM[what]
    assert ask() == expected
    driver.remove(key)
    with pytest.raises(nvml.NVMLError_NotSupported):
        ask()


@pytest.mark.parametrize("what", DEVICE)
def test_a_device_is_as_scripted(driver: Driver, what: str) -> None:
    """Each question about a device is answered by its keys, not by those of another device."""
    ask, keys, expected = DEVICE[what]
    handle = _first()
    driver.device(0, keys).device(1, T4)
    assert ask(handle) == expected


@pytest.mark.parametrize("what", DEVICE)
def test_what_is_not_scripted_is_not_supported(driver: Driver, what: str) -> None:
    """Without any one of the keys that a question needs, the device does not support it."""
    ask, keys, _ = DEVICE[what]
    needed = keys if what != "memory" else {key: keys[key] for key in keys if key != "memory.reserved"}
    handle = _first()
    for key in needed:
        driver.device(0, keys).remove(f"0.{key}")
        with pytest.raises(nvml.NVMLError_NotSupported):
            ask(handle)


@pytest.mark.parametrize("what", DEVICE)
def test_any_call_can_fail_as_scripted(driver: Driver, what: str) -> None:
    """A fault of the function, a lost device and a library not in use are raised; a device's own rule comes first."""
    ask, keys, expected = DEVICE[what]
    driver.device(0, keys).device(1, EVERYTHING)
    handle, other = _first(), nvml.nvmlDeviceGetHandleByIndex(1)
    ask(handle)
    _, function, device = calls(driver.log)[-1]
    assert device == "0"
    driver.set({f"0.fault.{function}": nvml.NVML_ERROR_NO_PERMISSION})
    with pytest.raises(nvml.NVMLError_NoPermission):
        ask(handle)
    ask(other)
    driver.set({f"0.fault.{function}": 0, f"fault.{function}": nvml.NVML_ERROR_UNKNOWN})
    assert ask(handle) == expected
    with pytest.raises(nvml.NVMLError_Unknown):
        ask(other)
    driver.set({"0.lost": 1})
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        ask(handle)
    nvml.nvmlShutdown()
    with pytest.raises(nvml.NVMLError_Uninitialized):
        ask(handle)


def test_devices_are_found_by_index_and_uuid(driver: Driver) -> None:
    """A handle is that of the device asked for; there is none of what does not exist or is lost."""
    driver.device(1, T4)
    assert nvml.nvmlDeviceGetCount() == 2
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(1)) == uuid(1)
    assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid(1))) == 1
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetHandleByIndex(2)
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetHandleByUUID(uuid(2))
    driver.set({"1.lost": 1})
    for ask, which in ((nvml.nvmlDeviceGetHandleByIndex, 1), (nvml.nvmlDeviceGetHandleByUUID, uuid(1))):
        with pytest.raises(nvml.NVMLError_GpuIsLost):
            ask(which)
    nvml.nvmlDeviceGetHandleByIndex(0)


def test_what_is_no_handle_is_refused(driver: Driver) -> None:
    """A handle of no device, a sample and an event set that were given back are invalid arguments."""
    sample, events = nvml.nvmlGpmSampleAlloc(), nvml.nvmlEventSetCreate()
    nvml.nvmlGpmSampleFree(sample)
    nvml.nvmlEventSetFree(events)
    refused: list[Callable[[], Any]] = [
        lambda: nvml.nvmlDeviceGetName(nvml.c_nvmlDevice_t()),
        lambda: nvml.nvmlGpmSampleFree(sample),
        lambda: nvml.nvmlGpmSampleGet(_first(), sample),
        lambda: nvml.nvmlEventSetFree(events),
        lambda: nvml.nvmlEventSetWait_v2(events, 0),
        lambda: nvml.nvmlDeviceRegisterEvents(_first(), nvml.nvmlEventTypeXidCriticalError, events),
    ]
    for ask in refused:
        with pytest.raises(nvml.NVMLError_InvalidArgument):
            ask()


def test_structs_of_another_version_are_refused(driver: Driver) -> None:
    """A struct is taken only with the version and size that its version number says."""
    asked = nvml.c_nvmlGpmMetricsGet_t()
    refused: list[Callable[[], Any]] = [
        lambda: nvml.nvmlDeviceGetMemoryInfo(_first(), nvml.nvmlMemory_v2 + 1),
        lambda: nvml.nvmlGpmMetricsGet(asked),
    ]
    for ask in refused:
        with pytest.raises(nvml.NVMLError_ArgumentVersionMismatch, match="Argument version mismatch"):
            ask()


def test_field_values_have_their_type_and_scope(driver: Driver) -> None:
    """A field is of the type that its text has; one of a scope comes before one of any; one that is missing says so."""
    handle = _first()
    driver.set({"0.field.7": "12.5", "0.field.8": 2**40, "0.field.9": "u32:66", "0.field.8.3": 33})
    scoped = (8, 3)
    found = nvml.nvmlDeviceGetFieldValues(handle, [7, 8, 9, scoped, (8, 4), 10])
    assert [(one.fieldId, one.scopeId, one.nvmlReturn) for one in found] == [
        (7, 0, 0),
        (8, 0, 0),
        (9, 0, 0),
        (8, 3, 0),
        (8, 4, 0),
        (10, 0, nvml.NVML_ERROR_NOT_SUPPORTED),
    ]
    assert (found[0].valueType, found[0].value.dVal) == (nvml.NVML_VALUE_TYPE_DOUBLE, 12.5)
    assert (found[1].valueType, found[1].value.ullVal) == (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, 2**40)
    assert (found[2].valueType, found[2].value.uiVal) == (nvml.NVML_VALUE_TYPE_UNSIGNED_INT, 66)
    assert [found[3].value.ullVal, found[4].value.ullVal] == [33, 2**40]
    assert found[0].timestamp == pytest.approx(time.time() * 1e6, abs=5e6)


def test_the_fields_of_an_h100_are_those_of_nvml(driver: Driver) -> None:
    """Under NVML's own numbers an H100 has its memory temperature and what went over NVLink and PCIe."""
    handle = _first()
    sent = _field(handle, (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ALL_LINKS))
    received = _field(handle, (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ALL_LINKS))
    of_one_link = _field(handle, (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 0))
    assert [sent.value.ullVal, received.value.ullVal, of_one_link.value.ullVal] == [18_000_000, 27_000_000, 1_000_000]
    assert _field(handle, nvml.NVML_FI_DEV_MEMORY_TEMP).value.uiVal == 61
    assert _field(handle, nvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES).value.ullVal == H100["field.197"]
    assert _field(handle, nvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES).value.ullVal == H100["field.198"]


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        ("process", nvml.nvmlDeviceGetComputeRunningProcesses),
        ("process", nvml.nvmlDeviceGetComputeRunningProcesses_v2),
        ("graphics", nvml.nvmlDeviceGetGraphicsRunningProcesses),
        ("graphics", nvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
    ],
)
def test_processes_are_listed(driver: Driver, kind: str, ask: Callable[[Any], Any]) -> None:
    """Every process with its memory, however many; none where there are none; unknown memory is ``None``."""
    handle = _first()
    assert ask(handle) == []
    used = {pid: pid * 2**30 for pid in range(1, 40)}
    driver.set({f"0.{kind}.{pid}": memory for pid, memory in used.items()})
    assert {one.pid: one.usedGpuMemory for one in ask(handle)} == used
    driver.set({f"0.{kind}.7": -1})
    of_seven = next(one for one in ask(handle) if one.pid == 7)
    assert of_seven.usedGpuMemory is None
    assert (of_seven.gpuInstanceId, of_seven.computeInstanceId) == (0xFFFFFFFF, 0xFFFFFFFF)


def test_no_pages_are_retired(driver: Driver) -> None:
    """The question for the size is answered also where there are none."""
    driver.set({"0.retired.0": 0})
    assert nvml.nvmlDeviceGetRetiredPages(_first(), 0) == []


def test_arguments_that_nvml_does_not_know_are_refused(driver: Driver) -> None:
    """A sensor, a counter and a list of no fields are invalid arguments."""
    refused: list[Callable[[], Any]] = [
        lambda: nvml.nvmlDeviceGetTemperature(_first(), 1),
        lambda: nvml.nvmlDeviceGetPcieThroughput(_first(), 2),
        lambda: nvml.nvmlDeviceGetFieldValues(_first(), []),
    ]
    for ask in refused:
        with pytest.raises(nvml.NVMLError_InvalidArgument):
            ask()


def test_mig_devices_are_found_and_asked(driver: Driver) -> None:
    """A divided GPU has the MIG devices that are scripted, each with its own identity, memory and processes."""
    driver.device(1, H100_MIG).set({"1.process.5": 1, "1.mig1.process.6": 2})
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    first, second = (nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index) for index in range(2))
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)
    assert [nvml.nvmlDeviceGetUUID(one) for one in (first, second)] == [uuid(1, 0), uuid(1, 1)]
    assert nvml.nvmlDeviceGetName(first) == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert [nvml.nvmlDeviceGetGpuInstanceId(one) for one in (first, second)] == [1, 9]
    assert [nvml.nvmlDeviceGetComputeInstanceId(one) for one in (first, second)] == [0, 0]
    assert [nvml.nvmlDeviceIsMigDeviceHandle(one).value for one in (gpu, first)] == [0, 1]
    assert nvml.nvmlDeviceGetIndex(second) == 1
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(second)) == uuid(1)
    assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid(1, 1))) == 1
    memory = nvml.nvmlDeviceGetMemoryInfo(second, nvml.nvmlMemory_v2)
    assert (memory.total, memory.used) == (H100_MIG["mig1.memory.total"], H100_MIG["mig1.memory.used"])
    assert [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(gpu)] == [5]
    (process,) = nvml.nvmlDeviceGetComputeRunningProcesses(second)
    assert (process.pid, process.gpuInstanceId, process.computeInstanceId) == (6, 9, 0)
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceGetUtilizationRates(gpu)


def test_mig_devices_go_with_their_gpu(driver: Driver) -> None:
    """A handle is good for nothing once its MIG device is gone, or while the GPU is lost; a GPU undivided has none."""
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(_first()) == 0
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(_first(), 0)
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(_first())
    driver.device(0, H100_MIG)
    mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(_first(), 1)
    driver.set({"0.lost": 1})
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetName(mig)
    driver.set({"0.lost": 0, "0.migs": 1})
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetName(mig)


def _metrics(before: Any, after: Any, *which: int) -> list[tuple[int, float]]:
    asked = nvml.c_nvmlGpmMetricsGet_t()
    asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
    asked.sample1, asked.sample2, asked.numMetrics = before, after, len(which)
    for position, metric in enumerate(which):
        asked.metrics[position].metricId = metric
    nvml.nvmlGpmMetricsGet(asked)
    return [(asked.metrics[position].nvmlReturn, asked.metrics[position].value) for position in range(len(which))]


def test_gpm_compares_two_samples(driver: Driver) -> None:
    """Between two samples a tenth of a second apart lie the metrics that are scripted; what is not there says so."""
    before, after = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
    driver.set({"0.gpm.2": 81.25, "0.gpm.20": 50.5})
    handle = _first()
    nvml.nvmlGpmSampleGet(handle, before)
    time.sleep(0.11)
    nvml.nvmlGpmSampleGet(handle, after)
    found = _metrics(
        before, after, nvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, nvml.NVML_GPM_METRIC_MAX, nvml.NVML_GPM_METRIC_SM_UTIL
    )
    assert found == [(0, 50.5), (nvml.NVML_ERROR_NOT_SUPPORTED, 0), (0, 81.25)]
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        _metrics(after, before, 2)


def test_gpm_refuses_samples_that_cannot_be_compared(driver: Driver) -> None:
    """The same sample, one never taken, two taken at once and two of different devices give no metrics."""
    driver.device(1, H100)
    first, other = _first(), nvml.nvmlDeviceGetHandleByIndex(1)
    before, after, never, of_other = (nvml.nvmlGpmSampleAlloc() for _ in range(4))
    nvml.nvmlGpmSampleGet(first, before)
    nvml.nvmlGpmSampleGet(first, after)
    refused = [(before, after), (before, before), (before, never), (never, after)]
    for pair in refused:
        with pytest.raises(nvml.NVMLError_InvalidArgument):
            _metrics(*pair, 2)
    time.sleep(0.11)
    nvml.nvmlGpmSampleGet(other, of_other)
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        _metrics(before, of_other, 2)


def test_gpm_of_a_mig_device(driver: Driver) -> None:
    """A sample of an instance is taken from its GPU by the instance's number, and of no other instance."""
    driver.device(0, H100_MIG)
    before, after = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
    nvml.nvmlGpmMigSampleGet(_first(), 9, before)
    time.sleep(0.11)
    nvml.nvmlGpmMigSampleGet(_first(), 9, after)
    assert _metrics(before, after, 2) == [(0, H100_MIG["mig1.gpm.2"])]
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlGpmMigSampleGet(_first(), 3, after)


def test_gpm_is_not_supported_by_a_t4(driver: Driver) -> None:
    """A device before Hopper says that it has no GPM, and takes no sample."""
    driver.device(1, T4)
    handle = nvml.nvmlDeviceGetHandleByIndex(1)
    assert nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice == 0
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlGpmSampleGet(handle, nvml.nvmlGpmSampleAlloc())


def test_xids_are_delivered_once_for_every_event_set(driver: Driver) -> None:
    """Each XID of a device that was registered comes in order and once, in each set; then there is a time-out."""
    driver.device(1, H100)
    driver.set({"0.xid": "13,79", "1.xid": "31"})
    sets = [nvml.nvmlEventSetCreate() for _ in range(2)]
    for events in sets:
        nvml.nvmlDeviceRegisterEvents(_first(), nvml.nvmlEventTypeXidCriticalError, events)
        for xid in (13, 79):
            event = nvml.nvmlEventSetWait_v2(events, 0)
            assert (event.eventType, event.eventData) == (nvml.nvmlEventTypeXidCriticalError, xid)
            assert (event.gpuInstanceId, event.computeInstanceId) == (0xFFFFFFFF, 0xFFFFFFFF)
            assert nvml.nvmlDeviceGetUUID(event.device) == uuid(0)
        with pytest.raises(nvml.NVMLError_Timeout):
            nvml.nvmlEventSetWait_v2(events, 0)
    driver.set({"0.xid": "13,79,48"})
    assert [nvml.nvmlEventSetWait_v2(events, 0).eventData for events in sets] == [48, 48]


def test_who_waits_for_an_event_gets_the_one_that_comes(driver: Driver) -> None:
    """A wait ends with the XID that is scripted meanwhile, and with a time-out not before its time."""
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(_first(), nvml.nvmlEventTypeXidCriticalError, events)
    began = time.monotonic()
    with pytest.raises(nvml.NVMLError_Timeout):
        nvml.nvmlEventSetWait_v2(events, 50)
    assert time.monotonic() - began >= 0.05
    later = threading.Timer(0.05, lambda: driver.set({"0.xid": "94"}))
    later.start()
    assert nvml.nvmlEventSetWait_v2(events, 30_000).eventData == 94
    later.join()


def test_events_are_not_supported_where_no_xid_is_scripted(driver: Driver) -> None:
    """A device without the key cannot be registered, nor one for events of another kind."""
    events = nvml.nvmlEventSetCreate()
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceRegisterEvents(_first(), nvml.nvmlEventTypeClock, events)
    driver.remove("0.xid")
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceRegisterEvents(_first(), nvml.nvmlEventTypeXidCriticalError, events)


def test_the_library_is_used_between_init_and_shutdown(driver: Driver) -> None:
    """It counts who uses it, and answers nobody once the last one is gone."""
    nvml.nvmlInit()
    nvml.nvmlShutdown()
    assert nvml.nvmlDeviceGetCount() == 1
    nvml.nvmlShutdown()
    for ask in (nvml.nvmlDeviceGetCount, nvml.nvmlShutdown):
        with pytest.raises(nvml.NVMLError_Uninitialized):
            ask()


@pytest.mark.parametrize("key", ["init", "fault.nvmlInitWithFlags"])
def test_init_fails_as_scripted(driver: Driver, key: str) -> None:
    """Where the driver is not loaded, nobody can use the library, until it is."""
    nvml.nvmlShutdown()
    driver.set({key: nvml.NVML_ERROR_DRIVER_NOT_LOADED})
    with pytest.raises(nvml.NVMLError_DriverNotLoaded):
        nvml.nvmlInit()
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    driver.set({key: 0})
    nvml.nvmlInit()
    assert nvml.nvmlDeviceGetCount() == 1


def test_a_change_is_seen_by_the_next_call(driver: Driver) -> None:
    """However fast the changes follow each other, and however alike they look."""
    handle = _first()
    for temperature in range(10, 99):
        driver.set({"0.temperature": temperature - 1}).set({"0.temperature": temperature})
        assert _temperature(handle) == temperature


def test_without_a_script_there_are_no_devices(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where the file is missing nor where none is named; the environment names it where no call does."""
    library = nvml_standin.load_in_process()
    driver.path.rename(driver.path.with_suffix(".moved"))
    assert nvml.nvmlDeviceGetCount() == 0
    library.nvml_standin_file(None)
    assert nvml.nvmlDeviceGetCount() == 0
    monkeypatch.setenv("NVML_STANDIN", str(driver.path.with_suffix(".moved")))
    assert nvml.nvmlDeviceGetCount() == 1


def test_a_delayed_call_delays_no_other(driver: Driver) -> None:
    """While one thread waits in a call on one device, others get their answers."""
    driver.device(1, H100)
    handle, other = _first(), nvml.nvmlDeviceGetHandleByIndex(1)
    driver.set({"0.delay.nvmlDeviceGetTemperature": 0.5})
    taken: list[float] = []

    def wait() -> None:
        began = time.monotonic()
        _temperature(handle)
        taken.append(time.monotonic() - began)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while ("nvmlDeviceGetTemperature", "0") not in [call[1:] for call in calls(driver.log)]:
        time.sleep(0.001)
    assert _temperature(other) == H100["temperature"]
    assert nvml.nvmlDeviceGetPowerUsage(handle) == H100["power"]
    assert taken == []
    waiting.join()
    assert taken[0] >= 0.5


def test_a_call_that_was_delayed_answers_as_things_are_then(driver: Driver) -> None:
    """What is scripted during a delay, a fault for instance, is what the call ends with."""
    handle = _first()
    driver.set({"delay.nvmlDeviceGetTemperature": 0.2})
    later = threading.Timer(0.05, lambda: driver.set({"0.lost": 1}))
    later.start()
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        _temperature(handle)
    later.join()


def test_threads_see_every_script_as_a_whole(driver: Driver) -> None:
    """Many threads that ask while the script changes never see a part of one change and a part of another."""
    handle = _first()
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            found = nvml.nvmlDeviceGetUtilizationRates(handle)
            seen.add((found.gpu, found.memory))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for percent in range(100):
        driver.set({"0.utilization.gpu": percent, "0.utilization.memory": percent})
        if percent == 0:
            for thread in threads:
                thread.start()
    done.set()
    for thread in threads:
        thread.join()
    assert seen
    assert all(gpu == memory for gpu, memory in seen)


def test_every_call_is_noted(driver: Driver) -> None:
    """The log names the process, the function as the library calls it, and the device, of every call."""
    driver.device(1, H100_MIG)
    before = len(calls(driver.log))
    gpu = nvml.nvmlDeviceGetHandleByIndex(1)
    nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1))
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceGetNumFans(gpu)
    nvml.nvmlDeviceGetCount()
    assert calls(driver.log)[before:] == [
        (os.getpid(), "nvmlDeviceGetHandleByIndex_v2", "1"),
        (os.getpid(), "nvmlDeviceGetMigDeviceHandleByIndex", "1"),
        (os.getpid(), "nvmlDeviceGetName", "1.mig1"),
        (os.getpid(), "nvmlDeviceGetNumFans", "1"),
        (os.getpid(), "nvmlDeviceGetCount_v2", "-"),
    ]


def test_nothing_is_left_of_a_driver(tmp_path: Path) -> None:
    """After the block it is as on a machine without a driver, and nothing more is noted."""
    with nvml_standin.in_process(Driver(tmp_path).device(0, H100)) as driver:
        nvml.nvmlInit()
    noted = calls(driver.log)
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    with pytest.raises(nvml.NVMLError_LibraryNotFound):
        nvml.nvmlInit()
    assert calls(driver.log) == noted


def _run(script: str, driver: Driver) -> str:
    """What ``script`` prints in a process of its own that has ``driver``."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        env={**os.environ, **nvml_standin.env(driver)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_process_gets_the_driver_by_its_environment(tmp_path: Path) -> None:
    """A process that knows nothing of the stand-in finds it as the system's library, and its calls are noted."""
    driver = Driver(tmp_path).device(0, H100).device(1, T4)
    out = _run(
        """
        import os, pynvml
        pynvml.nvmlInit()
        print(os.getpid())
        for index in range(pynvml.nvmlDeviceGetCount()):
            print(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
        pynvml.nvmlShutdown()
        """,
        driver,
    )
    pid, *names = out.splitlines()
    assert names == [H100["name"], T4["name"]]
    noted = calls(driver.log)
    assert noted[0] == (int(pid), "nvmlInitWithFlags", "-")
    assert noted[-1] == (int(pid), "nvmlShutdown", "-")


def test_a_forked_child_must_begin_anew(tmp_path: Path) -> None:
    """It is uninitialised there, whatever the parent's threads were in the middle of, and then works in both."""
    driver = Driver(tmp_path).device(0, H100)
    out = _run(
        """
        import os, sys, threading, pynvml
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        done = threading.Event()
        def ask():
            while not done.is_set():
                pynvml.nvmlDeviceGetTemperature(handle, 0)
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    pynvml.nvmlDeviceGetCount()
                except pynvml.NVMLError_Uninitialized:
                    pynvml.nvmlInit()
                    os._exit(7 if pynvml.nvmlDeviceGetCount() == 1 else 1)
                os._exit(2)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        for thread in threads: thread.join()
        print(pynvml.nvmlDeviceGetCount())
        """,
        driver,
    )
    assert out.split() == ["7"] * 20 + ["1"]


def test_processes_that_build_at_once_get_the_same_library(tmp_path: Path) -> None:
    """Each finds a library that can be loaded, and no half of one is left."""
    script = "import ctypes, nvml_standin; nvml_standin.load_in_process(); print(nvml_standin.build())"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    building = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {one.communicate(timeout=60)[0].strip() for one in building}
    assert [one.returncode for one in building] == [0, 0]
    (folder,) = folders
    assert [found.name for found in Path(folder).iterdir()] == [nvml_standin.SONAME]


def test_without_a_compiler_the_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fail where everything is required to be there."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MLOBS_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="C compiler"):
        nvml_standin.build()
    monkeypatch.setenv("MLOBS_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="C compiler"):
        nvml_standin.build()


def test_devices_of_the_same_kind_are_told_apart(driver: Driver) -> None:
    """Two H100 differ by UUID, serial, bus and minor number, unless they are scripted otherwise."""
    driver.device(1, H100).device(2, H100, uuid="GPU-2", minor=9).device(1, power=1)
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(3)]
    assert [nvml.nvmlDeviceGetUUID(one) for one in handles] == [uuid(0), uuid(1), "GPU-2"]
    assert [nvml.nvmlDeviceGetMinorNumber(one) for one in handles] == [0, 1, 9]
    assert len({nvml.nvmlDeviceGetSerial(one) for one in handles}) == 3
    assert len({nvml.nvmlDeviceGetPciInfo(one).busId for one in handles}) == 3
    assert nvml.nvmlDeviceGetPowerUsage(handles[1]) == 1
