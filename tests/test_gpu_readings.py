"""What one reading of the devices finds, as points: every metric by name, kind, unit, attributes and value."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import nvml_standin as standin
import pynvml
import pytest

from otel_mlobs import semconv
from otel_mlobs.hardware import dcgm, gpu_series
from otel_mlobs.hardware.nvml import Driver, read_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_mlobs.hardware.devices import Reading

SETTLE = 0.11
MIB = 2**20
GIB = 2**30


@pytest.fixture
def script(tmp_path: Path) -> Iterator[standin.Driver]:
    """A driver of no devices, in this process."""
    with standin.in_process(standin.Driver(tmp_path)) as made:
        yield made


def read(settle: float = SETTLE) -> list[Reading]:
    """A reading of every device."""
    driver = Driver()
    try:
        return [*read_once(driver, settle=settle)]
    finally:
        driver.close()


def points(reading: Reading) -> dict[str, list[tuple[dict[str, str], float]]]:
    """By metric: what each point adds to the device's own attributes, and its value."""
    labelled = gpu_series.Labelled()
    own = {"hw.id", "hw.name", "hw.model", "hw.vendor", "hw.driver_version", "hw.parent"}
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for metric in semconv.GPU_METRICS:
        if metric is semconv.GPU_READING_AGE:
            continue
        for value, labels in labelled.points(metric, reading):
            assert labels["hw.model"] == reading.identity.model
            assert labels["hw.vendor"] == "NVIDIA"
            assert all(type(each) is str for each in labels.values())
            assert labels.keys() <= {attribute.key for attribute in metric.attributes}, metric.name
            rest = {key: each for key, each in labels.items() if key not in own}
            found.setdefault(metric.name, []).append((rest, value))
    return found


GPU = {"hw.type": "gpu"}
EVERYTHING: dict[str, list[tuple[dict[str, str], float]]] = {
    "hw.gpu.utilization": [
        ({"hw.gpu.task": "general"}, 0.87),
        ({"hw.gpu.task": "encoder"}, 0.0),
        ({"hw.gpu.task": "decoder"}, 0.12),
    ],
    "hw.gpu.memory.utilization": [({}, 40 * GIB / (81559 * MIB))],
    "hw.gpu.memory.usage": [({}, 40 * GIB)],
    "hw.gpu.memory.limit": [({}, 81559 * MIB)],
    "hw.gpu.io": [
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "transmit"}, 7_516_192_768),
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "receive"}, 30_064_771_072),
        ({"mlobs.gpu.link": "nvlink", "network.io.direction": "transmit"}, 18_000_000 * 1024),
        ({"mlobs.gpu.link": "nvlink", "network.io.direction": "receive"}, 27_000_000 * 1024),
    ],
    "hw.errors": [
        ({**GPU, "error.type": "ecc_corrected"}, 3),
        ({**GPU, "error.type": "ecc_uncorrected"}, 0),
        ({**GPU, "error.type": "xid"}, 0),
    ],
    "mlobs.gpu.lifetime_errors": [({"error.type": "ecc_corrected"}, 17), ({"error.type": "ecc_uncorrected"}, 1)],
    "mlobs.gpu.last_xid": [({}, 0)],
    "hw.status": [
        ({**GPU, "hw.state": "ok"}, 1),
        ({**GPU, "hw.state": "degraded"}, 0),
        ({**GPU, "hw.state": "failed"}, 0),
    ],
    "hw.power": [(GPU, 412.35)],
    "hw.energy": [(GPU, 934_512_345.678)],
    "hw.temperature": [
        ({**GPU, "hw.sensor_location": "gpu"}, 54),
        ({**GPU, "hw.sensor_location": "memory"}, 61),
    ],
    "hw.temperature.limit": [
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "high.critical"}, 92),
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "high.degraded"}, 89),
        ({**GPU, "hw.sensor_location": "memory", "hw.limit_type": "max"}, 95),
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "max"}, 87),
    ],
    "hw.fan.speed_ratio": [({"hw.type": "fan"}, 0.35), ({"hw.type": "fan"}, 0.4)],
    "mlobs.gpu.clock": [
        ({"mlobs.gpu.clock_domain": "graphics"}, 1980e6),
        ({"mlobs.gpu.clock_domain": "sm"}, 1965e6),
        ({"mlobs.gpu.clock_domain": "memory"}, 2619e6),
        ({"mlobs.gpu.clock_domain": "video"}, 1545e6),
    ],
    "mlobs.gpu.throttled": [
        ({"mlobs.gpu.throttle_reason": reason}, float(reason in ("sw_power_cap", "hw_thermal")))
        for reason in (
            "application_clocks", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal",
            "hw_power_brake", "display_clocks",
        )
    ],
    "mlobs.gpu.performance_state": [({}, 2)],
    "mlobs.gpu.power_limit": [({}, 700.0)],
    "mlobs.gpu.retired_pages": [
        ({"mlobs.gpu.page_state": "single_bit"}, 2),
        ({"mlobs.gpu.page_state": "double_bit"}, 1),
        ({"mlobs.gpu.page_state": "pending"}, 0),
    ],
    "mlobs.gpu.remapped_rows": [
        ({"mlobs.gpu.page_state": "correctable"}, 2),
        ({"mlobs.gpu.page_state": "uncorrectable"}, 1),
        ({"mlobs.gpu.page_state": "pending"}, 0),
        ({"mlobs.gpu.page_state": "failure"}, 0),
    ],
    "mlobs.gpu.process.memory": [({}, 123 * MIB)],
    "mlobs.gpu.activity": [
        ({"mlobs.gpu.unit": "graphics"}, 0.865),
        ({"mlobs.gpu.unit": "sm"}, 0.8125),
        ({"mlobs.gpu.unit": "occupancy"}, 0.435),
        ({"mlobs.gpu.unit": "integer"}, 0.0675),
        ({"mlobs.gpu.unit": "tensor"}, 0.625),
        ({"mlobs.gpu.unit": "dram"}, 0.4875),
        ({"mlobs.gpu.unit": "fp64"}, 0.005),
        ({"mlobs.gpu.unit": "fp32"}, 0.095),
        ({"mlobs.gpu.unit": "fp16"}, 0.0325),
    ],
    "mlobs.gpu.io_rate": [
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "transmit"}, 50.5 * MIB),
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "receive"}, 200.25 * MIB),
        ({"mlobs.gpu.link": "nvlink", "network.io.direction": "transmit"}, 12_000.25 * MIB),
        ({"mlobs.gpu.link": "nvlink", "network.io.direction": "receive"}, 15_000.5 * MIB),
    ],
}  # fmt: skip


def test_every_metric_of_a_device_that_answers_everything(script: standin.Driver) -> None:
    """Attributes and values are those of this table, and no metric is without a point."""
    own = {f"process.{os.getpid()}": 123 * MIB, "process.1": 5 * MIB, "throttle": 0x45, "pstate": 2}
    script.device(0, standin.EVERYTHING, **own)
    (reading,) = read()
    found = points(reading)
    assert found.keys() == EVERYTHING.keys()
    for name, expected in EVERYTHING.items():
        assert [labels for labels, _ in found[name]] == [labels for labels, _ in expected], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in expected], rel=1e-12), name
    assert found.keys() == {metric.name for metric in semconv.GPU_METRICS} - {"mlobs.gpu.reading_age"}


def test_attributes_of_the_device(script: standin.Driver) -> None:
    """UUID, index, model, maker and driver; of a fan its own id and its GPU's; of a MIG instance its GPU's."""
    script.device(0, standin.EVERYTHING).device(1, standin.H100_MIG)
    labelled = gpu_series.Labelled()
    gpu, whole, first, second = read()
    assert [labels for _, labels in labelled.points(semconv.HW_GPU_MEMORY_USAGE, gpu)] == [
        {
            "hw.id": standin.uuid(0),
            "hw.name": "0",
            "hw.model": "NVIDIA H100 80GB HBM3",
            "hw.vendor": "NVIDIA",
            "hw.driver_version": "580.95.05",
        }
    ]
    fans = [labels for _, labels in labelled.points(semconv.HW_FAN_SPEED_RATIO, gpu)]
    assert [(one["hw.id"], one["hw.name"], one["hw.parent"]) for one in fans] == [
        (f"{standin.uuid(0)}/fan{fan}", str(fan), standin.uuid(0)) for fan in (0, 1)
    ]
    migs = [labels for one in (first, second) for _, labels in labelled.points(semconv.HW_GPU_MEMORY_USAGE, one)]
    assert [(one["hw.id"], one["hw.name"], one["hw.parent"]) for one in migs] == [
        (standin.uuid(1, 0), "1:1", standin.uuid(1)),
        (standin.uuid(1, 1), "1:9", standin.uuid(1)),
    ]
    assert points(first)["mlobs.gpu.activity"] == [
        ({"mlobs.gpu.unit": "graphics"}, 0.715),
        ({"mlobs.gpu.unit": "sm"}, 0.6625),
        ({"mlobs.gpu.unit": "tensor"}, 0.335),
        ({"mlobs.gpu.unit": "dram"}, 0.2775),
    ]
    assert points(first)["hw.gpu.memory.usage"] == [({}, 10 * GIB)]
    assert "hw.gpu.utilization" not in points(whole)
    assert (first.identity.profile, second.identity.profile) == ("3g.40gb", "1g.10gb")


def test_what_a_device_does_not_support_has_no_point(script: standin.Driver) -> None:
    """A T4 has no GPM, no NVLink, no remapped rows; PCIe's rate comes from where it has it."""
    script.device(0, standin.T4)
    found = points(read()[0])
    missing = EVERYTHING.keys() - found.keys()
    assert missing == {
        "mlobs.gpu.activity", "hw.fan.speed_ratio", "mlobs.gpu.process.memory", "mlobs.gpu.remapped_rows", "hw.gpu.io",
    }  # fmt: skip
    assert found["mlobs.gpu.io_rate"] == [
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "transmit"}, 10_240 * 1024),
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "receive"}, 40_960 * 1024),
    ]
    assert [labels["hw.sensor_location"] for labels, _ in found["hw.temperature"]] == ["gpu"]


def test_an_older_drivers_functions(script: standin.Driver) -> None:
    """Where a newer one is missing the older is asked: memory with what the driver keeps, clocks by another name."""
    missing = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    script.device(0, standin.H100, throttle=0x40)
    script.set({f"fault.{function}": missing for function in (
        "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetCurrentClocksEventReasons")})  # fmt: skip
    values = read()[0].values
    assert (values["memory.used"], values["memory.total"]) == (40 * GIB + 551 * MIB, 81559 * MIB)
    assert values["throttled.hw_thermal"] == 1.0


def test_a_device_that_answers_nothing_is_there_all_the_same(script: standin.Driver) -> None:
    """Of a GPU without any reading there are its status and its XIDs, and nothing is invented."""
    script.device(0, {"name": "Odd"})
    found = points(read()[0])
    assert found.keys() == {"hw.status", "hw.errors", "mlobs.gpu.last_xid"}
    assert found["hw.errors"] == [({**GPU, "error.type": "xid"}, 0)]


DCGM = {
    "DCGM_FI_DEV_SM_CLOCK": 1965,
    "DCGM_FI_DEV_MEM_CLOCK": 2619,
    "DCGM_FI_DEV_GPU_TEMP": 54,
    "DCGM_FI_DEV_MEMORY_TEMP": 61,
    "DCGM_FI_DEV_POWER_USAGE": 412.35,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 934_512_345_678,
    "DCGM_FI_DEV_GPU_UTIL": 87,
    "DCGM_FI_DEV_MEM_COPY_UTIL": 41,
    "DCGM_FI_DEV_ENC_UTIL": 0,
    "DCGM_FI_DEV_DEC_UTIL": 12,
    "DCGM_FI_DEV_FB_USED": 40 * 1024,
    "DCGM_FI_DEV_FB_FREE": 81559 - 551 - 40 * 1024,
    "DCGM_FI_DEV_XID_ERRORS": 0,
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": 2,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": 1,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.865,
    "DCGM_FI_PROF_SM_ACTIVE": 0.8125,
    "DCGM_FI_PROF_SM_OCCUPANCY": 0.435,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.625,
    "DCGM_FI_PROF_DRAM_ACTIVE": 0.4875,
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": 0.005,
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": 0.095,
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": 0.0325,
    "DCGM_FI_PROF_PCIE_TX_BYTES": 50.5 * MIB,
    "DCGM_FI_PROF_PCIE_RX_BYTES": 200.25 * MIB,
}


def test_dcgms_names_units_and_labels(script: standin.Driver) -> None:
    """As the DCGM exporter gives them, of MIG instances with theirs."""
    script.device(0, standin.H100).device(1, standin.H100_MIG)
    gpu, _, _, mig = read()
    labelled = dcgm.Labelled()
    found = {metric.name: [*labelled.points(metric, gpu)] for metric in dcgm.METRICS}
    assert {name: [value for value, _ in each] for name, each in found.items()} == {
        name: [pytest.approx(value, rel=1e-12)] for name, value in DCGM.items()
    }
    labels = {
        "gpu": "0",
        "UUID": standin.uuid(0),
        "pci_bus_id": "00000000:18:00.0",
        "device": "nvidia0",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": os.uname().nodename,
    }
    assert all(each == [(each[0][0], labels)] for each in found.values())
    (metric,) = (metric for metric in dcgm.METRICS if metric.name == "DCGM_FI_DEV_FB_USED")
    assert [*labelled.points(metric, mig)] == [
        (
            3 * 1024,
            {
                **labels,
                "gpu": "1",
                "UUID": standin.uuid(1),
                "pci_bus_id": "00000000:19:00.0",
                "device": "nvidia1",
                "GPU_I_ID": "9",
                "GPU_I_PROFILE": "1g.10gb",
            },
        )
    ]


def test_activity_needs_two_readings_a_tenth_of_a_second_apart(script: standin.Driver) -> None:
    """The first reading has none, one that follows at once has none, and neither loses the next."""
    script.device(0, standin.H100)
    driver = Driver()
    driver.open()
    (device,) = driver.devices
    seen = []
    for pause in (0.0, 0.0, SETTLE):
        time.sleep(pause)
        seen.append("activity.sm" in device.read().values)
    driver.close()
    assert seen == [False, False, True]
