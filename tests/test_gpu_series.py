"""What a backend gets of three kinds of GPU: every metric's name, kind, unit, attributes and value, as sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nvml_standin as standin
import pytest
from receiver import Receiver, attributes_of, run
from test_gpu_readings import EVERYTHING, GIB, GPU, MIB

from otel_mlobs import semconv

if TYPE_CHECKING:
    from pathlib import Path

Points = dict[str, list[tuple[dict[str, str], float]]]

GAUGE, COUNTER, UPDOWN = "gauge", "counter", "updowncounter"
KINDS = {
    "hw.gpu.utilization": (GAUGE, "1"),
    "hw.gpu.memory.utilization": (GAUGE, "1"),
    "hw.gpu.memory.usage": (UPDOWN, "By"),
    "hw.gpu.memory.limit": (UPDOWN, "By"),
    "hw.gpu.io": (COUNTER, "By"),
    "hw.errors": (COUNTER, "{error}"),
    "mlobs.gpu.lifetime_errors": (COUNTER, "{error}"),
    "mlobs.gpu.last_xid": (GAUGE, "{xid}"),
    "hw.status": (UPDOWN, "1"),
    "hw.power": (GAUGE, "W"),
    "hw.energy": (COUNTER, "J"),
    "hw.temperature": (GAUGE, "Cel"),
    "hw.temperature.limit": (GAUGE, "Cel"),
    "hw.fan.speed_ratio": (GAUGE, "1"),
    "mlobs.gpu.clock": (GAUGE, "Hz"),
    "mlobs.gpu.throttled": (GAUGE, "1"),
    "mlobs.gpu.performance_state": (GAUGE, "{state}"),
    "mlobs.gpu.power_limit": (GAUGE, "W"),
    "mlobs.gpu.retired_pages": (GAUGE, "{page}"),
    "mlobs.gpu.remapped_rows": (GAUGE, "{row}"),
    "mlobs.gpu.activity": (GAUGE, "1"),
    "mlobs.gpu.io_rate": (GAUGE, "By/s"),
    "mlobs.gpu.reading_age": (GAUGE, "s"),
}

OK: Points = {
    "hw.status": [
        ({**GPU, "hw.state": "ok"}, 1),
        ({**GPU, "hw.state": "degraded"}, 0),
        ({**GPU, "hw.state": "failed"}, 0),
    ]
}
NO_THROTTLING = [(labels, 0.0) for labels, _ in EVERYTHING["mlobs.gpu.throttled"]]

ALL: Points = {
    **{name: points for name, points in EVERYTHING.items() if name != "mlobs.gpu.process.memory"},
    "mlobs.gpu.throttled": NO_THROTTLING,
    "mlobs.gpu.performance_state": [({}, 0)],
}
T4: Points = {
    **OK,
    "hw.gpu.utilization": [
        ({"hw.gpu.task": "general"}, 0.63),
        ({"hw.gpu.task": "encoder"}, 0.04),
        ({"hw.gpu.task": "decoder"}, 0.08),
    ],
    "hw.gpu.memory.utilization": [({}, 6 / 15)],
    "hw.gpu.memory.usage": [({}, 6 * GIB)],
    "hw.gpu.memory.limit": [({}, 15 * GIB)],
    "hw.errors": [
        ({**GPU, "error.type": "ecc_corrected"}, 0),
        ({**GPU, "error.type": "ecc_uncorrected"}, 0),
        ({**GPU, "error.type": "xid"}, 0),
    ],
    "mlobs.gpu.lifetime_errors": [({"error.type": "ecc_corrected"}, 5), ({"error.type": "ecc_uncorrected"}, 0)],
    "mlobs.gpu.last_xid": [({}, 0)],
    "hw.power": [(GPU, 48.21)],
    "hw.energy": [(GPU, 1_234_567.89)],
    "hw.temperature": [({**GPU, "hw.sensor_location": "gpu"}, 66)],
    "hw.temperature.limit": [
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "high.critical"}, 96),
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "high.degraded"}, 93),
        ({**GPU, "hw.sensor_location": "gpu", "hw.limit_type": "max"}, 85),
    ],
    "mlobs.gpu.clock": [
        ({"mlobs.gpu.clock_domain": "graphics"}, 1590e6),
        ({"mlobs.gpu.clock_domain": "sm"}, 1590e6),
        ({"mlobs.gpu.clock_domain": "memory"}, 5000e6),
        ({"mlobs.gpu.clock_domain": "video"}, 1470e6),
    ],
    "mlobs.gpu.throttled": [
        (labels, float(labels["mlobs.gpu.throttle_reason"] == "sw_power_cap")) for labels, _ in NO_THROTTLING
    ],
    "mlobs.gpu.performance_state": [({}, 0)],
    "mlobs.gpu.power_limit": [({}, 70)],
    "mlobs.gpu.retired_pages": [
        ({"mlobs.gpu.page_state": "single_bit"}, 2),
        ({"mlobs.gpu.page_state": "double_bit"}, 1),
        ({"mlobs.gpu.page_state": "pending"}, 0),
    ],
    "mlobs.gpu.io_rate": [
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "transmit"}, 10 * MIB),
        ({"mlobs.gpu.link": "pcie", "network.io.direction": "receive"}, 40 * MIB),
    ],
}
"""Without GPM, NVLink, memory temperature, remapped rows and fans."""
DIVIDED: Points = {
    name: points
    for name, points in ALL.items()
    if name not in {"hw.gpu.utilization", "hw.fan.speed_ratio", "mlobs.gpu.retired_pages"}
}
"""An H100 that is divided: NVML knows no utilization of the whole."""


def _instance(used: int, total: int, *activity: float) -> Points:
    units = ("graphics", "sm", "tensor", "dram")
    return {
        **OK,
        "hw.gpu.memory.usage": [({}, used * GIB)],
        "hw.gpu.memory.limit": [({}, total * MIB)],
        "hw.gpu.memory.utilization": [({}, used * GIB / (total * MIB))],
        "mlobs.gpu.activity": [({"mlobs.gpu.unit": unit}, value) for unit, value in zip(units, activity, strict=True)],
    }


H100 = "NVIDIA H100 80GB HBM3"
DEVICES: dict[tuple[str, str, str, str | None], Points] = {
    (standin.uuid(0), "0", H100, None): ALL,
    (standin.uuid(1), "1", "Tesla T4", None): T4,
    (standin.uuid(2), "2", H100, None): DIVIDED,
    (standin.uuid(2, 0), "2:1", H100, standin.uuid(2)): _instance(10, 40_448, 0.715, 0.6625, 0.335, 0.2775),
    (standin.uuid(2, 1), "2:9", H100, standin.uuid(2)): _instance(3, 9_856, 0.125, 0.1125, 0.005, 0.0475),
}

SEND = """
        import time
        from otel_mlobs.hardware import reporter
        mlobs.configure("gpu", metrics_endpoint=os.environ["TO"], gpu=True, gpu_names=os.environ["NAMES"],
                        metric_interval=1)
        mlobs.force_flush()
        until = time.monotonic() + 20
        while time.monotonic() < until:
            readings = reporter.current().readings
            with_gpm = [reading for reading in readings if "activity.sm" in reading.values]
            if len(readings) == int(os.environ["DEVICES"]) and len(with_gpm) == int(os.environ["WITH_GPM"]):
                break
            time.sleep(0.01)
        mlobs.force_flush()
        """


def sent(folder: Path, script: standin.Driver, names: str, devices: int, with_gpm: int) -> dict[str, Any]:
    """The last of each metric that a process of its own has sent once everything was read."""
    with Receiver() as receiver:
        ran = run(
            SEND,
            env={
                **standin.env(script),
                "TO": receiver.url,
                "NAMES": names,
                "DEVICES": str(devices),
                "WITH_GPM": str(with_gpm),
                "XDG_RUNTIME_DIR": str(folder),
            },
        )
        assert ran.err == ""
        return {metric.name: metric for _, metric in receiver.metrics()}


def kind_of(metric: Any) -> str:
    """As our tables call it."""
    kind = metric.WhichOneof("data")
    if kind != "sum":
        return str(kind)
    assert metric.sum.aggregation_temporality == 2  # cumulative
    return COUNTER if metric.sum.is_monotonic else UPDOWN


def points_of(metric: Any) -> list[tuple[dict[str, Any], float]]:
    """Attributes and value of each point."""
    return [
        (attributes_of(point), point.as_int or point.as_double)
        for point in getattr(metric, metric.WhichOneof("data")).data_points
    ]


def test_every_metric_as_it_is_sent(tmp_path: Path) -> None:
    """Of a device that answers everything, of an old one and of a divided one: these points and no others."""
    script = standin.Driver(tmp_path)
    script.device(0, standin.EVERYTHING).device(1, standin.T4).device(2, standin.H100_MIG)
    found = sent(tmp_path, script, "otel", devices=5, with_gpm=4)
    gpu = {name: metric for name, metric in found.items() if name.startswith(("hw.", "mlobs.gpu."))}
    assert {name: (kind_of(metric), metric.unit) for name, metric in gpu.items()} == KINDS
    assert {metric.name for metric in semconv.GPU_METRICS} - gpu.keys() == {"mlobs.gpu.process.memory"}
    ((labels, age),) = points_of(gpu.pop("mlobs.gpu.reading_age"))
    assert labels == {"hw.vendor": "NVIDIA"}
    assert 0 <= age < 20
    for name, metric in gpu.items():
        expected = [point for device, table in DEVICES.items() for point in expected_points(name, device, table)]
        order = lambda point: sorted(point[0].items())  # noqa: E731
        got, wanted = sorted(points_of(metric), key=order), sorted(expected, key=order)
        assert [labels for labels, _ in got] == [labels for labels, _ in wanted], name
        assert [value for _, value in got] == pytest.approx([value for _, value in wanted], rel=1e-12), name


def expected_points(
    name: str, device: tuple[str, str, str, str | None], table: Points
) -> list[tuple[dict[str, str], float]]:
    """The points of ``table`` with all their attributes, written out."""
    uuid, label, model, parent = device
    points = table.get(name, [])
    own = {"hw.id": uuid, "hw.name": label, "hw.model": model, "hw.vendor": "NVIDIA"}
    if name == "hw.fan.speed_ratio":
        return [
            ({**own, "hw.id": f"{uuid}/fan{fan}", "hw.name": str(fan), "hw.parent": uuid, **labels}, value)
            for fan, (labels, value) in enumerate(points)
        ]
    own |= {"hw.driver_version": "580.95.05"} | ({} if parent is None else {"hw.parent": parent})
    return [({**own, **labels}, value) for labels, value in points]


@pytest.mark.parametrize(("names", "others"), [("dcgm", False), ("both", True)])
def test_dcgms_names_as_they_are_sent(tmp_path: Path, names: str, others: bool) -> None:
    """In capitals, gauges all, with the exporter's labels; the others with them only where both are asked for."""
    script = standin.Driver(tmp_path).device(0, standin.H100)
    found = sent(tmp_path, script, names, devices=1, with_gpm=1)
    dcgm = {name: metric for name, metric in found.items() if name.lower().startswith("dcgm")}
    assert len(dcgm) == 26
    assert all(name.isupper() for name in dcgm)
    assert {(kind_of(metric), metric.unit) for metric in dcgm.values()} == {(GAUGE, "")}
    ((labels, watts),) = points_of(dcgm["DCGM_FI_DEV_POWER_USAGE"])
    assert watts == 412.35
    assert labels.pop("Hostname")
    assert labels == {
        "gpu": "0",
        "UUID": standin.uuid(0),
        "pci_bus_id": "00000000:18:00.0",
        "device": "nvidia0",
        "modelName": H100,
    }
    ((_, megahertz),) = points_of(dcgm["DCGM_FI_DEV_SM_CLOCK"])
    assert megahertz == 1965
    assert ("hw.power" in found) is others
