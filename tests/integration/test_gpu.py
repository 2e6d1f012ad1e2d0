"""GPU readings of a real fleet in a real Prometheus: one reporter, standard names, and a published dashboard."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvml_standin as standin
import pytest
from test_gpu_readings import EVERYTHING, MIB

from otel_mlobs import semconv
from otel_mlobs.hardware import dcgm
from otel_mlobs.tools.rules import prometheus_name

from .backends import get, wait_until
from .service import WORKERS, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process, Prometheus

APPS = Path(__file__).parent / "apps"
INTERVAL = 1.0

# What Grafana's dashboard 12239 asks, panel by panel: grafana/dcgm-exporter-dashboard.json of NVIDIA/dcgm-exporter, as
# it is since 2023 (cffaeb8). Its variables are label_values(DCGM_FI_DEV_GPU_TEMP, instance) and (…, gpu).
SELECTED = '{instance=~"$instance", gpu=~"$gpu"}'
PANELS = {
    "GPU Temperature": f"DCGM_FI_DEV_GPU_TEMP{SELECTED}",
    "GPU Avg. Temp": f"avg(DCGM_FI_DEV_GPU_TEMP{SELECTED})",
    "GPU Power Usage": f"DCGM_FI_DEV_POWER_USAGE{SELECTED}",
    "GPU Power Total": f"sum(DCGM_FI_DEV_POWER_USAGE{SELECTED})",
    "GPU SM Clocks": f"DCGM_FI_DEV_SM_CLOCK{SELECTED} * 1000000",
    "GPU Utilization": f"DCGM_FI_DEV_GPU_UTIL{SELECTED}",
    "Tensor Core Utilization": f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{SELECTED}",
    "GPU Framebuffer Mem Used": f"DCGM_FI_DEV_FB_USED{SELECTED}",
}
# What the rework for MIG asks that was proposed there (a52c9c0), and that is met as well in the wild. Its variables are
# label_values(DCGM_FI_DEV_FB_FREE, Hostname) and label_values(DCGM_FI_DEV_FB_FREE{Hostname=~"$Hostname"}, gpu).
OF_HOST = '{Hostname=~"$Hostname", gpu=~"$gpu"}'
MIG_LABELS = ("GPU_I_ID", "GPU_I_PROFILE")
REWORKED = {
    "GPU Temperature": f"max(DCGM_FI_DEV_GPU_TEMP{OF_HOST}) by (Hostname, gpu, uuid)",
    "GPU Avg. Temp": f"avg(DCGM_FI_DEV_GPU_TEMP{OF_HOST})",
    "GPU Power Usage": f"max(DCGM_FI_DEV_POWER_USAGE{OF_HOST}) by (Hostname, gpu, uuid)",
    "GPU Power Total": f"sum(max(DCGM_FI_DEV_POWER_USAGE{OF_HOST}) by (gpu))",
    "GPU SM Clocks": f"max(DCGM_FI_DEV_SM_CLOCK{OF_HOST} * 1000000) by (Hostname, UUID, gpu)",
    "GPU Utilization": f"max(DCGM_FI_PROF_GR_ENGINE_ACTIVE{OF_HOST}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
    "Tensor Core Utilization": (
        f"max(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{OF_HOST}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)"
    ),
    "GPU Framebuffer Mem Used": f"max(DCGM_FI_DEV_FB_USED{OF_HOST}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
}

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


def instances(prometheus: Prometheus, job: str, within: float = 3 * INTERVAL) -> set[str]:
    """Who has sent a power reading within the last seconds."""
    found = prometheus.ask(f'last_over_time(hw_power_watts{{job="{job}"}}[{within:g}s])')
    return {labels["instance"] for labels, _ in found}


def label_values(prometheus: Prometheus, selector: str, label: str) -> list[str]:
    """What Grafana's label_values gives."""
    found: list[str] = get(f"{prometheus.url}/api/v1/label/{label}/values", **{"match[]": selector})["data"]
    return sorted(found)


def openers(driver: standin.Driver) -> set[int]:
    """The processes that have opened the driver; that nobody called it without is asserted."""
    calls = standin.calls(driver.log)
    first = {pid: function for pid, function, _ in reversed(calls)}
    assert all(function.startswith("nvmlInit") for function in first.values())
    return set(first)


def has_library(pid: int) -> bool:
    """Whether the process has the driver's library in it; a forked child has what its parent had."""
    return standin.SONAME in Path(f"/proc/{pid}/maps").read_text()


def test_one_reporter_of_a_preloaded_fleet_and_another_when_it_is_killed(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Of the master and four workers one loads and opens the driver; killed, another reports within two intervals."""
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
    workers = service.children()
    assert first in workers
    # The master had not loaded it when it forked: else it would be in every worker
    assert [pid for pid in sorted({master, *workers}) if has_library(pid)] == [first]
    (told,) = instances(prometheus, "gpu-fleet", 2 * interval)
    assert told.endswith(f"/{first}")

    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    wait_until("another reporter", lambda: len(openers(driver)) == 2)
    opened = time.monotonic() - killed
    wait_until("its readings", lambda: instances(prometheus, "gpu-fleet") - {told})
    seen = time.monotonic() - killed
    print(f"taken over after {opened / interval:.2f} intervals, its readings in Prometheus after {seen / interval:.2f}")
    assert opened < 2 * interval
    assert seen < 3 * interval
    (second,) = openers(driver) - {first}
    assert second in {master, *service.children()}
    wait_until("its readings alone", lambda: told not in instances(prometheus, "gpu-fleet"))
    (telling,) = instances(prometheus, "gpu-fleet")
    assert telling == told.removesuffix(f"/{first}") + ("" if second == master else f"/{second}")
    assert service.stop() == 0


def test_every_process_reports_by_choice(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """With gpu_reporter="each" the master and its workers do, also one that is forked while the master reads GPUs."""
    driver.device(0, standin.T4)
    given = settings(prometheus, "gpu-each", gpu_reporter="each")
    service, _ = serve(
        start, "noop:app", APPS, {**environment(driver), "NOOP_CONFIGURE": json.dumps(given)}, preload=True
    )
    wait_until("all to report", lambda: len(instances(prometheus, "gpu-each")) == WORKERS + 1)
    workers = service.children()
    assert openers(driver) == {service._process.pid, *workers}
    os.kill(min(workers), signal.SIGKILL)
    wait_until("another worker", lambda: len(service.children() - workers) == 1)
    (later,) = service.children() - workers
    wait_until(
        "its readings",
        lambda: any(one.endswith(f"/{later}") for one in instances(prometheus, "gpu-each")),
    )
    assert openers(driver) == {service._process.pid, *workers, later}
    assert service.stop() == 0


def test_the_published_dashboard_has_data_in_every_panel(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Its variables find the process and the devices, its panels the devices' values under DCGM's labels."""
    driver.device(0, standin.H100).device(1, standin.H100_MIG, temperature=70)
    process = run(start, driver, settings(prometheus, "gpu-dcgm", gpu_names="dcgm"))
    wait_until("activity in Prometheus", lambda: prometheus.ask("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"))
    host = os.uname().nodename
    gpus = [
        {
            "gpu": str(index),
            "UUID": standin.uuid(index),
            "pci_bus_id": f"00000000:{0x18 + index:02X}:00.0",
            "device": f"nvidia{index}",
            "modelName": "NVIDIA H100 80GB HBM3",
            "Hostname": host,
        }
        for index in (0, 1)
    ]
    migs = [{**gpus[1], "GPU_I_ID": "1", "GPU_I_PROFILE": "3g.40gb"}]
    migs += [{**gpus[1], "GPU_I_ID": "9", "GPU_I_PROFILE": "1g.10gb"}]
    values = {label: label_values(prometheus, "DCGM_FI_DEV_GPU_TEMP", label) for label in ("instance", "gpu")}
    assert values["gpu"] == ["0", "1"]
    (instance,) = values["instance"]
    assert label_values(prometheus, "DCGM_FI_DEV_FB_FREE", "Hostname") == [host]
    assert label_values(prometheus, f'DCGM_FI_DEV_FB_FREE{{Hostname=~"{host}"}}', "gpu") == ["0", "1"]

    def ask(promql: str) -> dict[tuple[tuple[str, str], ...], float]:
        chosen = {"$instance": f"({instance})", "$Hostname": f"({host})", "$gpu": "(0|1)"}
        for variable, value in chosen.items():
            promql = promql.replace(variable, value)
        return {
            tuple(sorted((key, each) for key, each in labels.items() if key != "__name__")): value
            for labels, value in prometheus.ask(promql)
        }

    def series(*points: tuple[dict[str, str], float]) -> Any:
        return pytest.approx({tuple(sorted(labels.items())): value for labels, value in points}, rel=1e-9)

    def each(labels: list[dict[str, str]], *values: float) -> list[tuple[dict[str, str], float]]:
        return [*zip(labels, values, strict=True)]

    own = {"job": "gpu-dcgm", "instance": instance}
    whole = [{**own, **labels} for labels in gpus]
    parts = [{**own, **labels} for labels in migs]
    expected: dict[str, list[tuple[dict[str, str], float]]] = {
        "GPU Temperature": each(whole, 54, 70),
        "GPU Avg. Temp": [({}, 62)],
        "GPU Power Usage": each(whole, 412.35, 412.35),
        "GPU Power Total": [({}, 824.7)],
        "GPU SM Clocks": each(whole, 1965e6, 1965e6),
        "GPU Utilization": each(whole[:1], 87),  # the driver knows none of a GPU that is divided
        "Tensor Core Utilization": each([*whole, *parts], 0.625, 0.625, 0.335, 0.005),
        "GPU Framebuffer Mem Used": each([*whole, *parts], 40960, 40960, 10240, 3072),
    }
    assert expected.keys() == PANELS.keys()
    for title, promql in PANELS.items():
        assert ask(promql) == series(*expected[title]), title

    short = [{"Hostname": host, "gpu": labels["gpu"]} for labels in gpus]
    divided = short + [{key: mig[key] for key in ("Hostname", "gpu", *MIG_LABELS)} for mig in migs]
    reworked = {
        **expected,
        "GPU Temperature": each(short, 54, 70),
        "GPU Power Usage": each(short, 412.35, 412.35),
        "GPU SM Clocks": each([{**short[at], "UUID": standin.uuid(at)} for at in (0, 1)], 1965e6, 1965e6),
        "GPU Utilization": each(divided, 0.865, 0.865, 0.715, 0.125),
        "Tensor Core Utilization": each(divided, 0.625, 0.625, 0.335, 0.005),
        "GPU Framebuffer Mem Used": each(divided, 40960, 40960, 10240, 3072),
    }
    assert reworked.keys() == REWORKED.keys()
    for title, promql in REWORKED.items():
        assert ask(promql) == series(*reworked[title]), title

    everything = prometheus.ask('{__name__=~"DCGM_.+", job="gpu-dcgm"}')
    named = frozenset({"__name__", *own, *gpus[0]})
    assert {frozenset(labels) for labels, _ in everything} == {named, named | {*MIG_LABELS}}
    assert {labels["__name__"] for labels, _ in everything} == {*dcgm.SOURCES}
    assert prometheus.ask('hw_power_watts{job="gpu-dcgm"}') == []
    process.stop()


def test_every_metric_is_found_by_the_name_that_the_documentation_gives(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """Every point of every metric has the value that a table written by hand says, under the names of the rules."""
    driver.device(0, standin.EVERYTHING, throttle=0x45, pstate=2)
    process = run(start, driver, settings(prometheus, "gpu-names"))
    driver.set({f"0.process.{process._process.pid}": 123 * MIB})

    def ask(metric: semconv.Metric) -> list[tuple[dict[str, str], float]]:
        return prometheus.ask(f'{prometheus_name(metric)}{{job="gpu-names"}}')

    wait_until("activity in Prometheus", lambda: ask(semconv.GPU_ACTIVITY) and ask(semconv.GPU_PROCESS_MEMORY))
    device = {"hw.id", "hw.name", "hw.model", "hw.vendor", "hw.driver_version", "hw.parent"}
    seen = []
    for metric in semconv.GPU_METRICS:
        found = ask(metric)
        if metric is semconv.GPU_READING_AGE:
            ((_, age),) = found
            assert 0 <= age < 3 * INTERVAL
            continue
        names = {prometheus_name(each): each.key for each in metric.attributes}
        points: list[tuple[dict[str, str], Any]] = []
        for labels, value in found:
            given = {names[key]: each for key, each in labels.items() if key not in ("__name__", "job", "instance")}
            assert given["hw.model"] == standin.H100["name"]
            points.append(({key: each for key, each in given.items() if key not in device}, value))
        expected = sorted(EVERYTHING[metric.name], key=_order)
        assert sorted(points, key=_order) == [(labels, pytest.approx(value)) for labels, value in expected], metric.name
        seen.append(metric.name)
    assert sorted(seen) == sorted(EVERYTHING)
    process.stop()


def _order(point: tuple[dict[str, str], Any]) -> tuple[list[tuple[str, str]], float]:
    return sorted(point[0].items()), point[1]


def test_energy_has_no_jump_from_zero(
    prometheus: Prometheus, start: Callable[..., Process], driver: standin.Driver
) -> None:
    """A counter that stands at a gigajoule when the first point comes has the power as its rate, from then on."""
    watts, began = 400.0, time.monotonic()
    driver.device(0, standin.H100)
    stop = threading.Event()

    def turn() -> None:
        while not stop.wait(0.05):
            driver.set({"0.energy": int(1e12 + (time.monotonic() - began) * watts * 1000)})

    meter = threading.Thread(target=turn)
    meter.start()
    try:
        process = run(start, driver, settings(prometheus, "gpu-energy"))
        energy = 'hw_energy_joules_total{job="gpu-energy"}'
        wait_until("some readings", lambda: [n for _, n in prometheus.ask(f"count_over_time({energy}[1m])") if n >= 6])
        ((_, lowest),) = prometheus.ask(f"min_over_time({energy}[1m])")
        ((_, rate),) = prometheus.ask(f"rate({energy}[4s])")
        ((_, used),) = prometheus.ask(f"max_over_time({energy}[1m]) - min_over_time({energy}[1m])")
        ((_, increase),) = prometheus.ask(f"increase({energy}[1m])")
    finally:
        stop.set()
        meter.join()
    print(f"rate of {rate:.0f} W at {watts:.0f} W, {increase:.0f} J by increase, {used:.0f} J between first and last")
    assert lowest >= 1e9
    assert rate == pytest.approx(watts, rel=0.2)
    assert used <= increase < 2 * used  # it extrapolates to the window
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
    sent = prometheus.ask(f"last_over_time({power}[{2 * INTERVAL:g}s])")
    assert {labels["hw_name"] for labels, _ in sent} == {"1"}  # of the one that hangs there is none
    driver.remove("0.delay.nvmlDeviceGetPowerUsage")
    process.kill()
