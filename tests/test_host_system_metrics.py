"""OpenTelemetry's readings of machine and process: of the right process, bounded, and with an end."""

from __future__ import annotations

import logging
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest
from receiver import run

pytest.importorskip("opentelemetry.instrumentation.system_metrics")
import psutil

from otel_mlobs.hardware import host, system_metrics
from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_mlobs.testing import Telemetry

READER = """
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from otel_mlobs.hardware import host

    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))

    def read():
        data = reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: metric.data.data_points for scope in scopes for metric in scope.metrics}
"""


@pytest.fixture
def started() -> Iterator[None]:
    """The readings, ended afterwards."""
    host.start(None)
    yield
    host.stop()


def test_they_end_and_begin_again(mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """After stop nothing is reported, after another start all is, and OpenTelemetry has nothing to warn of."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            host.start(None)
            host.start(None)
            names = set(mlobs_telemetry.metrics)
            assert {"system.cpu.time", "process.cpu.time", "cpython.gc.collections", "mlobs.host.run_queue"} <= names
            host.stop()
            host.stop()
            left = {name for name in mlobs_telemetry.metrics if name.startswith(("system.", "process.", "cpython."))}
            assert left == set()
            assert "mlobs.host.run_queue" not in mlobs_telemetry.metrics
    assert caplog.messages == []


@pytest.mark.usefixtures("started")
def test_the_times_of_all_cpus_are_one_series_a_state(mlobs_telemetry: Telemetry) -> None:
    """They are psutil's sums, and none has a label for the CPU."""
    before = psutil.cpu_times()
    points = {dict(point.attributes)["state"]: point for point in mlobs_telemetry.metrics["system.cpu.time"]}
    after = psutil.cpu_times()
    assert all(set(point.attributes) == {"state"} for point in points.values())
    assert set(points) >= {"user", "system", "idle", "iowait", "steal"}
    for state, point in points.items():
        low, high = getattr(before, state), getattr(after, state)
        assert low - 0.5 <= point.value <= high + 0.5, state


def test_swap_is_in_bytes() -> None:
    """As psutil gives it: the package calls it pages, and who believes that multiplies by 4096."""
    ran = run(
        f"""{READER}
    host.start(None)
    scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
    print([metric.unit for scope in scopes for metric in scope.metrics if metric.name == "system.swap.usage"])
    print(sum(point.value for point in read()["system.swap.usage"]))
        """
    )
    assert ran.out.splitlines() == ["['By']", str(psutil.swap_memory().total)]


@pytest.mark.usefixtures("started")
def test_nothing_that_is_wrong_at_first_or_deprecated(mlobs_telemetry: Telemetry) -> None:
    """No utilisation that is 0 at the first reading, no former names, no walk over every socket."""
    names = set(mlobs_telemetry.metrics)
    assert not {name for name in names if name.startswith(("process.runtime.", "system.network.connections"))}
    assert not {"system.cpu.utilization", "process.cpu.utilization", "system.swap.utilization"} & names


@pytest.mark.usefixtures("started")
def test_devices_that_come_with_containers_are_left_out(
    mlobs_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with hundreds of containers has as many virtual interfaces; its own are what is asked about."""
    Counters = namedtuple("Counters", "bytes_sent bytes_recv errin errout dropin dropout")  # noqa: PYI024
    devices = {name: Counters(1, 2, 3, 4, 5, 6) for name in ("eth0", "lo", *(f"veth{number}" for number in range(300)))}
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: devices)
    points = mlobs_telemetry.metrics["system.network.io"]
    assert {(dict(p.attributes)["device"], dict(p.attributes)["direction"], p.value) for p in points} == {
        ("eth0", "transmit", 1),
        ("eth0", "receive", 2),
        ("lo", "transmit", 1),
        ("lo", "receive", 2),
    }


@pytest.mark.usefixtures("started", "lenient")
def test_a_reading_that_fails_costs_only_itself(mlobs_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is reported as ours, once a minute, and not by the SDK with every collection."""
    reported: list[str] = []
    monkeypatch.setattr(guard, "report", lambda component, error: reported.append(f"{component}: {error}"))

    def refused() -> Any:
        raise PermissionError("hidden")

    monkeypatch.setattr(psutil, "virtual_memory", refused)
    names = set(mlobs_telemetry.metrics)
    assert "system.memory.usage" not in names
    assert "system.cpu.time" in names
    assert set(reported) == {"hardware: hidden"}


def test_what_opentelemetrys_variable_excludes_is_not_read() -> None:
    """The package itself heeds it only where it is told nothing else."""
    asked = system_metrics._asked({"OTEL_PYTHON_SYSTEM_METRICS_EXCLUDED_METRICS": "system.network.*, cpython.gc.*"})
    left = set(system_metrics.READ) - set(asked)
    assert left == {name for name in system_metrics.READ if name.startswith(("system.network.", "cpython.gc."))}
    assert system_metrics._asked({}) == dict(system_metrics.READ)


def test_a_forked_child_reports_itself() -> None:
    """The parent worked for half a second before it forked, the child has done nothing yet."""
    ran = run(
        f"""{READER}
    import time
    host.start(None)
    began = time.process_time()
    while time.process_time() - began < 0.5:
        pass
    read()
    if not os.fork():
        print(sum(point.value for point in read()["process.cpu.time"]), flush=True)
        os._exit(0)
    os.wait()
    print(sum(point.value for point in read()["process.cpu.time"]))
        """
    )
    child, parent = map(float, ran.out.split())
    assert child < 0.4
    assert parent >= 0.5


def test_the_users_own_readings_are_left_as_they_are() -> None:
    """Whoever instrumented system metrics before, as opentelemetry-instrument does, keeps them, with their settings."""
    ran = run(
        f"""{READER}
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
    SystemMetricsInstrumentor(config={{"process.runtime.memory": ["rss"], "system.cpu.time": ["idle"]}}).instrument()
    logging.basicConfig()
    host.start(None)
    found = read()
    host.stop()
    print({{point.attributes["type"] for point in found["process.runtime.cpython.memory"]}})
    print({{point.attributes["state"] for point in found["system.cpu.time"]}})
    print("mlobs.host.run_queue" in found, "system.memory.usage" in found, "system.cpu.time" in read())
        """
    )
    assert ran.out.splitlines() == ["{'rss'}", "{'idle'}", "True False True"]
    assert ran.err == ""
