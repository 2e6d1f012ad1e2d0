"""GPU readings of a real fleet in a real Prometheus: one reporter, standard names, and a published dashboard."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvml_standin as standin
import pytest

from otel_mlobs import semconv
from otel_mlobs.tools.rules import prometheus_name

from .backends import wait_until
from .service import WORKERS, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process, Prometheus

APPS = Path(__file__).parent / "apps"
INTERVAL = 1.0

# What Grafana's dashboard 12239 asks, as NVIDIA publishes it (grafana/dcgm-exporter-dashboard.json of dcgm-exporter):
# its variables, then its panels.
VARIABLES = {
    "Hostname": "group by (Hostname) (DCGM_FI_DEV_FB_FREE)",
    "gpu": 'group by (gpu) (DCGM_FI_DEV_FB_FREE{Hostname=~"$Hostname"})',
}
SELECTED = '{Hostname=~"$Hostname", gpu=~"$gpu"}'
PANELS = {
    "GPU Temperature": f"max(DCGM_FI_DEV_GPU_TEMP{SELECTED}) by (Hostname, gpu, uuid)",
    "GPU Avg. Temp": f"avg(DCGM_FI_DEV_GPU_TEMP{SELECTED})",
    "GPU Power Usage": f"max(DCGM_FI_DEV_POWER_USAGE{SELECTED}) by (Hostname, gpu, uuid)",
    "GPU Power Total": f"sum(max(DCGM_FI_DEV_POWER_USAGE{SELECTED}) by (gpu))",
    "GPU SM Clocks": f"max(DCGM_FI_DEV_SM_CLOCK{SELECTED} * 1000000) by (Hostname, UUID, gpu)",
    "GPU Utilization": f"max(DCGM_FI_PROF_GR_ENGINE_ACTIVE{SELECTED}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
    "Tensor Core Utilization": (
        f"max(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{SELECTED}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)"
    ),
    "GPU Framebuffer Mem Used": (f"max(DCGM_FI_DEV_FB_USED{SELECTED}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)"),
}
# An earlier version of it selects by instance and has a panel of the utilisation.
EARLIER = 'DCGM_FI_DEV_GPU_UTIL{instance=~".+", gpu=~"$gpu"}'

SERVICE = """
import json, os, sys, time
import otel_mlobs as mlobs

mlobs.configure(**json.loads(sys.argv[1]))

@mlobs.prediction(model="beside", version="1")
def score(x):
    return 0.5

while True:
    score(1)
    time.sleep(0.05)
"""


@pytest.fixture
def driver(tmp_path: Path) -> standin.Driver:
    """A driver, and a folder for locks beside it."""
    tmp_path.chmod(0o700)
    return standin.Driver(tmp_path)


def environment(driver: standin.Driver) -> dict[str, str]:
    """What a process needs to get it."""
    return {**standin.env(driver), "XDG_RUNTIME_DIR": str(driver.path.parent)}


def settings(prometheus: Prometheus, name: str, **more: Any) -> dict[str, Any]:
    """Metrics every second, and nothing else."""
    given = {"service_name": name, "metrics_endpoint": prometheus.otlp, "metric_interval": INTERVAL, "gpu": True}
    return {**given, **more}


def run(start: Callable[..., Process], driver: standin.Driver, given: dict[str, Any]) -> Process:
    """A process that predicts all the time."""
    command = [sys.executable, "-c", SERVICE, json.dumps(given)]
    return start(given["service_name"], command, cwd=driver.path.parent, env=environment(driver))


def instances(prometheus: Prometheus, job: str) -> set[str]:
    """Who has sent a power reading within the last three intervals."""
    found = prometheus.ask(f'last_over_time(hw_power_watts{{job="{job}"}}[{3 * int(INTERVAL)}s])')
    return {labels["instance"] for labels, _ in found}


def openers(driver: standin.Driver) -> set[int]:
    """The processes that have opened the driver; that nobody called it without is asserted."""
    calls = standin.calls(driver.log)
    first = {pid: function for pid, function, _ in reversed(calls)}
    assert all(function.startswith("nvmlInit") for function in first.values())
    return set(first)


def test_one_reporter_of_a_preloaded_fleet_and_another_when_it_is_killed(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Of the master and four workers one opens the driver; killed, another reports within two intervals."""
    interval = 2.0
    driver.device(0, standin.H100).device(1, standin.H100)
    given = settings(prometheus, "gpu-fleet", metric_interval=interval)
    service, _ = serve(
        start, "noop:app", APPS, {**environment(driver), "NOOP_CONFIGURE": json.dumps(given)}, preload=True
    )
    master = service._process.pid
    os.kill(master, signal.SIGSTOP)  # so that a worker is elected: gunicorn does not outlive its master
    wait_until("a reporter", lambda: openers(driver))
    os.kill(master, signal.SIGCONT)
    wait_until("readings in Prometheus", lambda: instances(prometheus, "gpu-fleet"))
    time.sleep(2 * interval)
    (first,) = openers(driver)
    assert len(instances(prometheus, "gpu-fleet")) == 1
    assert first in service.children()
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    wait_until("another reporter", lambda: len(openers(driver)) == 2)
    took = time.monotonic() - killed
    print(f"taken over after {took:.2f} s, at an interval of {interval} s")
    assert took < 2 * interval
    (second,) = openers(driver) - {first}
    assert second in {master, *service.children()}
    wait_until("its readings alone", lambda: len(instances(prometheus, "gpu-fleet")) == 1)
    assert service.stop() == 0


def test_every_process_reports_by_choice(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """With gpu_reporter="each" the master and its four workers do, each having opened the driver after the fork."""
    driver.device(0, standin.T4)
    given = settings(prometheus, "gpu-each", gpu_reporter="each")
    service, _ = serve(
        start, "noop:app", APPS, {**environment(driver), "NOOP_CONFIGURE": json.dumps(given)}, preload=True
    )
    wait_until("all to report", lambda: len(instances(prometheus, "gpu-each")) == WORKERS + 1)
    assert openers(driver) == {service._process.pid, *service.children()}
    assert service.stop() == 0


def test_the_published_dashboard_has_data_in_every_panel(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Its variables find the host and the devices, its panels the devices' values."""
    driver.device(0, standin.H100).device(1, standin.H100_MIG, temperature=70)
    process = run(start, driver, settings(prometheus, "gpu-dcgm", gpu_names="dcgm"))
    wait_until("activity in Prometheus", lambda: prometheus.ask("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"))
    host = os.uname().nodename

    def ask(promql: str) -> list[tuple[dict[str, str], float]]:
        found = prometheus.ask(promql.replace("$Hostname", host).replace("$gpu", "0|1"))
        return sorted(found, key=lambda each: sorted(each[0].items()))

    assert [labels for labels, _ in ask(VARIABLES["Hostname"])] == [{"Hostname": host}]
    assert [labels for labels, _ in ask(VARIABLES["gpu"])] == [{"gpu": "0"}, {"gpu": "1"}]
    found = {title: ask(promql) for title, promql in PANELS.items()}
    first, second = {"Hostname": host, "gpu": "0"}, {"Hostname": host, "gpu": "1"}
    migs = [
        {**second, "GPU_I_ID": "1", "GPU_I_PROFILE": "3g.40gb"},
        {**second, "GPU_I_ID": "9", "GPU_I_PROFILE": "1g.10gb"},
    ]
    assert found.pop("GPU Temperature") == [(first, 54), (second, 70)]
    assert found.pop("GPU Avg. Temp") == [({}, 62)]
    assert found.pop("GPU Power Usage") == [(first, 412.35), (second, 412.35)]
    assert found.pop("GPU Power Total") == [({}, 824.7)]
    assert found.pop("GPU SM Clocks") == [
        ({**first, "UUID": standin.uuid(0)}, 1965e6),
        ({**second, "UUID": standin.uuid(1)}, 1965e6),
    ]
    for title, values in (
        ("GPU Utilization", (0.865, 0.865, 0.715, 0.125)),
        ("Tensor Core Utilization", (0.625, 0.625, 0.335, 0.005)),
        ("GPU Framebuffer Mem Used", (40 * 1024, 40 * 1024, 10 * 1024, 3 * 1024)),
    ):
        got = {tuple(sorted(labels.items())): value for labels, value in found.pop(title)}
        expected = zip((first, second, *migs), values, strict=True)
        assert got == pytest.approx({tuple(sorted(labels.items())): value for labels, value in expected}), title
    assert found == {}
    assert [(labels["gpu"], value) for labels, value in ask(EARLIER)] == [("0", 87)]
    (labels,) = (labels for labels, _ in ask("DCGM_FI_DEV_GPU_UTIL"))
    assert labels.keys() == {
        "__name__", "job", "instance", "gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname",
    }  # fmt: skip
    assert prometheus.ask('hw_power_watts{job="gpu-dcgm"}') == []
    process.stop()


def test_every_metric_is_found_by_the_name_that_the_documentation_gives(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Also by units and kinds; the energy does not begin at zero, so its rate is the power from the first point on."""
    driver.device(0, {**standin.EVERYTHING, "process.1": 1})
    process = run(start, driver, settings(prometheus, "gpu-names"))
    wait_until("activity in Prometheus", lambda: prometheus.ask('mlobs_gpu_activity_ratio{job="gpu-names"}'))
    missing = [
        metric.name
        for metric in semconv.GPU_METRICS
        if not prometheus.ask(f'{prometheus_name(metric)}{{job="gpu-names"}}')
    ]
    assert missing == ["mlobs.gpu.process.memory"]  # this process has none on the device
    ((_, energy),) = prometheus.ask('min_over_time(hw_energy_joules_total{job="gpu-names"}[5m])')
    assert energy == 934_512_345.678
    status = {
        labels["hw_state"]: value for labels, value in prometheus.ask('hw_status{job="gpu-names", hw_type="gpu"}')
    }
    assert status == {"ok": 1, "degraded": 0, "failed": 0}
    process.stop()


def test_a_driver_that_hangs_stops_nothing_else(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """For thirty seconds a call on one device does not return: predictions and the other device go on."""
    driver.device(0, standin.H100).device(1, standin.T4)
    process = run(start, driver, settings(prometheus, "gpu-hangs"))
    power = 'hw_power_watts{job="gpu-hangs"}'
    wait_until("both devices", lambda: len(prometheus.ask(power)) == 2)
    driver.set({"0.delay.nvmlDeviceGetPowerUsage": 30})
    count = 'mlobs_operation_duration_seconds_count{job="gpu-hangs"}'
    ((_, before),) = prometheus.ask(count)
    began = time.monotonic()
    driver.set({"1.power": 33_000})
    wait_until("the other device's new reading", lambda: {value for _, value in prometheus.ask(power)} >= {33.0})
    took = time.monotonic() - began
    ((_, after),) = prometheus.ask(count)
    print(
        f"the other device was read again after {took:.1f} s; {after - before:.0f} predictions were counted meanwhile"
    )
    assert took < 15
    assert after - before > 5 * took
    driver.remove("0.delay.nvmlDeviceGetPowerUsage")
    process.kill()
