"""The machine, the container and the process: what the kernel's files say, as metrics."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from receiver import Receiver, run

from otel_mlobs import semconv
from otel_mlobs.hardware import cgroup, detectors, pressure
from otel_mlobs.hardware import host as host_module
from otel_mlobs.hardware.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's files")

CONTAINER = {
    "cgroup.controllers": "cpu memory io",
    "cgroup.type": "domain",
    "cpu.max": "250000 100000",
    "cpu.stat": "usage_usec 12500000\nuser_usec 9000000\nnr_periods 400\nnr_throttled 30\nthrottled_usec 1750000",
    "memory.max": str(2**31),
    "memory.current": str(2**30),
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1",
    "cpu.pressure": "some avg10=1.00 avg60=0.50 avg300=0.10 total=2500000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=40",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system: a host with pressure files and a run queue, and a container with limits."""
    files = {
        "proc/self/cgroup": "0::/",
        "proc/stat": "cpu  1 2 3\nprocs_running 5\nprocs_blocked 0",
        "proc/pressure/cpu": "some avg10=0.18 avg60=0.37 avg300=0.61 total=941021833",
        "proc/pressure/io": "some avg10=0.0 avg60=0.0 avg300=0.0 total=500000\n"
        "full avg10=0.0 avg60=0.0 avg300=0.0 total=250000",
        "proc/self/task/1/schedstat": "100 2000000000 5",
        "proc/self/task/2/schedstat": "100 500000000 5",
        **{f"sys/fs/cgroup/{name}": content for name, content in CONTAINER.items()},
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return tmp_path


def points(host: Host, metric: semconv.Metric) -> list[tuple[float, dict[str, str]]]:
    """The points of a metric."""
    return [(value, dict(labels)) for value, labels in host.points(metric)]


def test_every_metric_of_a_container_with_limits(root: Path) -> None:
    """Values in base units: CPUs, seconds, bytes."""
    found = {metric.name: points(Host(root), metric) for metric in semconv.HOST_METRICS}
    pressures = {
        (
            labels["mlobs.pressure.scope"],
            labels["mlobs.pressure.resource"],
            labels["mlobs.pressure.extent"],
        ): value
        for value, labels in found.pop("mlobs.pressure.time")
    }
    assert pressures == pytest.approx(
        {
            ("host", "cpu", "some"): 941.021833,
            ("host", "io", "some"): 0.5,
            ("host", "io", "full"): 0.25,
            ("container", "cpu", "some"): 2.5,
            ("container", "cpu", "full"): 0.00004,
            ("container", "memory", "some"): 1.0,
        }
    )
    assert found == {
        "mlobs.host.run_queue": [(5, {})],
        "mlobs.process.run_wait.time": [(2.5, {})],
        "container.cpu.time": [(12.5, {})],
        "mlobs.container.cpu.limit": [(2.5, {})],
        "mlobs.container.cpu.periods": [(400, {})],
        "mlobs.container.cpu.throttled_periods": [(30, {})],
        "mlobs.container.cpu.throttled.time": [(1.75, {})],
        "container.memory.usage": [(2**30, {})],
        "mlobs.container.memory.limit": [(2**31, {})],
        "mlobs.container.memory.oom_kills": [(1, {})],
    }


def test_what_is_not_limited_or_not_there_has_no_point(root: Path) -> None:
    """A container without limits, without pressure files, with files that cannot be understood: never a 0."""
    own = root / "sys/fs/cgroup"
    (own / "cpu.max").write_text("max 100000")
    (own / "memory.max").write_text("max")
    (own / "memory.events").unlink()
    (own / "memory.current").write_bytes(b"\xff\xfe")
    (own / "cpu.pressure").write_text("nonsense")
    (own / "memory.pressure").unlink()
    (root / "proc/stat").write_text("")
    host = Host(root)
    assert points(host, semconv.CONTAINER_CPU_TIME) == [(12.5, {})]
    for metric in (
        semconv.CONTAINER_CPU_LIMIT,
        semconv.CONTAINER_PERIODS,
        semconv.CONTAINER_THROTTLED,
        semconv.CONTAINER_THROTTLED_TIME,
        semconv.CONTAINER_MEMORY_USAGE,
        semconv.CONTAINER_MEMORY_LIMIT,
        semconv.CONTAINER_OOM_KILLS,
        semconv.RUN_QUEUE,
    ):
        assert points(host, metric) == [], metric.name
    assert {labels["mlobs.pressure.scope"] for _, labels in points(host, semconv.PRESSURE)} == {"host"}


def test_nothing_of_a_container_under_cgroup_v1(root: Path) -> None:
    """Without the unified hierarchy nothing is guessed."""
    (root / "sys/fs/cgroup/cgroup.controllers").unlink()
    host = Host(root)
    assert points(host, semconv.CONTAINER_CPU_TIME) == []
    assert points(host, semconv.RUN_QUEUE) == [(5, {})]


def test_the_machine_itself_is_no_container(root: Path) -> None:
    """The kernel's top group, which alone has no type: what it says is the host's, and would be counted twice."""
    (root / "sys/fs/cgroup/cgroup.type").unlink()
    host = Host(root)
    assert points(host, semconv.CONTAINER_CPU_TIME) == []
    assert {labels["mlobs.pressure.scope"] for _, labels in points(host, semconv.PRESSURE)} == {"host"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0::/kubepods/pod7/c1", "sys/fs/cgroup/kubepods/pod7/c1"),
        ("0::/../../outside", "sys/fs/cgroup"),
        ("0::/not/mounted/here", "sys/fs/cgroup"),
        ("3:cpuset:/\n0::/", "sys/fs/cgroup"),
        ("3:cpuset:/", None),
    ],
)
def test_the_cgroup_is_this_processs(root: Path, line: str, expected: str | None) -> None:
    """By /proc/self/cgroup, and the top of what is mounted where that leads nowhere."""
    own = root / "sys/fs/cgroup/kubepods/pod7/c1"
    own.mkdir(parents=True)
    (own / "cgroup.type").write_text("domain\n")
    (root / "proc/self/cgroup").write_text(line + "\n")
    assert cgroup.folder(root) == (None if expected is None else root / expected)


def test_threads_that_end_take_nothing_away(root: Path) -> None:
    """The counter goes on from what ended threads had waited, also where another thread gets their number."""
    wait = pressure.RunWait(root)
    assert wait.read() == 2.5
    tasks = root / "proc/self/task"
    (tasks / "2/schedstat").write_text("1 100000000 1")
    assert wait.read() == 2.6
    (tasks / "2/schedstat").unlink()
    (tasks / "2").rmdir()
    assert wait.read() == 2.6
    (tasks / "1/schedstat").write_text("1 3000000000 1")
    assert wait.read() == pytest.approx(3.6)


def test_a_thread_that_cannot_be_read_once_is_not_counted_twice(root: Path) -> None:
    """A process without a file descriptor left reads nothing of some threads: they have not ended."""
    wait = pressure.RunWait(root)
    assert wait.read() == 2.5
    schedstat = root / "proc/self/task/2/schedstat"
    content = schedstat.read_text()
    schedstat.unlink()
    assert wait.read() == 2.5
    schedstat.write_text(content)
    assert wait.read() == 2.5


def test_pressure_and_waiting_of_this_machine() -> None:
    """The kernel's own files, as they are now; more threads than CPUs make this process wait."""
    host = Host()
    if Path("/proc/pressure/cpu").exists():
        before = Path("/proc/pressure/cpu").read_text()
        ours = {
            (labels["mlobs.pressure.resource"], labels["mlobs.pressure.extent"]): value
            for value, labels in points(host, semconv.PRESSURE)
            if labels["mlobs.pressure.scope"] == "host"
        }
        after = Path("/proc/pressure/cpu").read_text()
        low, high = (int(text.split("total=")[1].split()[0]) / 1e6 for text in (before, after))
        assert low <= round(ours["cpu", "some"], 6) <= high
    if Path("/proc/self/schedstat").exists():
        ((waited, _),) = points(host, semconv.RUN_WAIT)
        children = [os.fork() for _ in range(2 * (os.cpu_count() or 1))]
        if 0 in children:
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                pass
            os._exit(0)
        until = time.monotonic() + 0.25
        while time.monotonic() < until:
            pass
        for child in children:
            os.waitpid(child, 0)
        ((later, _),) = points(host, semconv.RUN_WAIT)
        assert later > waited


def test_one_reading_serves_a_collection(root: Path) -> None:
    """The metrics of one collection are of one moment, and of the next another."""
    host = Host(root)
    assert points(host, semconv.CONTAINER_CPU_TIME) == [(12.5, {})]
    (root / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 13500000")
    assert points(host, semconv.CONTAINER_CPU_TIME) == [(12.5, {})]
    host._read_at -= 1.0
    assert points(host, semconv.CONTAINER_CPU_TIME) == [(13.5, {})]


# -- the resource


def test_the_machine_describes_itself_without_command_lines() -> None:
    """OpenTelemetry's detectors say host, system and process; arguments, which hold secrets, are not among it."""
    found = detectors.detected({})
    assert found["host.name"] == os.uname().nodename
    assert found["process.pid"] == os.getpid()
    assert found["os.type"] == "linux"
    assert not [key for key in found if key.startswith("process.command")]
    assert not [key for key in found if key.startswith("k8s.")]


def test_a_pod_describes_itself(tmp_path: Path) -> None:
    """The downward API's variables go before the host's name and the service account."""
    namespace = tmp_path / "namespace"
    namespace.write_text("shop\n")
    base = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "recsys-7d"}
    assert detectors.kubernetes(base, namespace) == {"k8s.pod.name": "recsys-7d", "k8s.namespace.name": "shop"}
    named = {**base, "POD_NAME": "recsys-x", "K8S_NODE_NAME": "n1", "POD_NAMESPACE": "prod", "K8S_POD_UID": "u"}
    assert detectors.kubernetes(named, namespace) == {
        "k8s.pod.name": "recsys-x",
        "k8s.pod.uid": "u",
        "k8s.namespace.name": "prod",
        "k8s.node.name": "n1",
    }
    assert detectors.kubernetes({"HOSTNAME": "laptop"}, namespace) == {}


def test_a_pod_with_the_nodes_network_has_not_the_nodes_name(tmp_path: Path) -> None:
    """Its host name is the node's then, and says nothing of the pod."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "node-3", "NODE_NAME": "node-3"}
    assert detectors.kubernetes(environ, tmp_path / "none") == {"k8s.node.name": "node-3"}


class Detector:
    """An entry point, and the detector that it leads to, with an answer of its own."""

    def __init__(self, attributes: dict[str, Any], takes: float = 0.0) -> None:
        self.attributes = attributes
        self.takes = takes

    def load(self) -> Any:
        return lambda: self

    def detect(self) -> Any:
        time.sleep(self.takes)
        return self


def answering(monkeypatch: pytest.MonkeyPatch, **answers: Detector) -> None:
    """Put detectors in the place of those that are installed."""
    monkeypatch.setattr(
        detectors,
        "entry_points",
        lambda group, name: [answers[name]] if group.endswith("detector") and name in answers else [],
    )


def test_a_detector_that_hangs_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was found by then is what there is, and the log says what is missing."""
    answering(monkeypatch, host=Detector({"host.name": "box"}), os=Detector({"os.type": "linux"}, takes=2.0))
    began = time.monotonic()
    assert detectors.detected({}, patience=0.1) == {"host.name": "box"}
    assert time.monotonic() - began < 1.0
    (message,) = caplog.messages
    assert "os, process, containerid in 0.1 s" in message


@pytest.mark.parametrize(
    ("found", "expected"),
    [("3", None), ("4a" * 32, "4a" * 32), ("4a9300ff6297", "4a9300ff6297"), ("0f" * 16 + "-123", "0f" * 16 + "-123")],
)
def test_a_login_session_is_no_container(monkeypatch: pytest.MonkeyPatch, found: str, expected: str | None) -> None:
    """OpenTelemetry's detector takes the number of systemd's ``session-3.scope`` for a container's id."""
    answering(monkeypatch, containerid=Detector({"container.id": found}))
    assert detectors.detected({}).get("container.id") == expected


def test_command_lines_never_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a detector, as of an older SDK, gives them."""
    secret = {"process.command": "a", "process.command_line": "a --password=x", "process.command_args": ["a"]}
    answering(monkeypatch, process=Detector({**secret, "process.pid": 7}))
    assert detectors.detected({}) == {"process.pid": 7}


def test_a_detector_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are still asked."""

    class Point:
        def load(self) -> Any:
            raise ImportError("not here")

    real = detectors.entry_points
    monkeypatch.setattr(
        detectors, "entry_points", lambda **wanted: [Point()] if wanted["name"] == "host" else real(**wanted)
    )
    found = detectors.detected({})
    assert "host.name" not in found
    assert "process.pid" in found


# -- whole


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver."""
    with Receiver() as made:
        yield made


def test_configure_reports_machine_process_and_resource(receiver: Receiver) -> None:
    """One setting, and all of it arrives; a child is a process of its own; shutting down ends it."""
    pytest.importorskip("opentelemetry.instrumentation.system_metrics")
    ran = run(
        f"""
        import os
        mlobs.configure("hosted", backend="collector", endpoint={receiver.url!r}, host=True, metric_interval=60)
        assert mlobs.force_flush()
        child = os.fork()
        if not child:
            assert mlobs.force_flush()
            os._exit(0)
        os.waitpid(child, 0)
        assert mlobs.shutdown()
        from otel_mlobs.hardware import host
        print(os.getpid(), child, host._host)
        """
    )
    pid, child, stopped = ran.out.split()
    assert stopped == "None"
    resources = receiver.resources()
    assert {resource["process.pid"] for resource in resources} == {int(pid), int(child)}
    parents = {resource["process.pid"]: resource["process.parent_pid"] for resource in resources}
    assert parents == {int(pid): os.getpid(), int(child): int(pid)}
    assert all(resource["host.name"] == os.uname().nodename for resource in resources)
    assert not any("command" in key for resource in resources for key in resource)
    names = receiver.metric_names()
    assert {"system.cpu.time", "system.memory.usage", "process.cpu.time", "cpython.gc.collections"} <= names
    assert {"mlobs.host.run_queue"} <= names
    assert not any(name.startswith("process.runtime.") for name in names)


def test_host_without_its_extra_says_what_to_install() -> None:
    """Before anything is changed, with the command."""
    ran = run(
        """
        import sys
        sys.modules["opentelemetry.instrumentation.system_metrics"] = None
        try:
            mlobs.configure("hosted", backend="none", host=True)
        except mlobs.MissingExtraError as error:
            print(error)
        mlobs.configure("hosted", backend="none")
        """
    )
    assert "pip install 'otel-mlobs[host]'" in ran.out
    assert ran.err == ""


def test_other_threads_may_collect_at_once(root: Path) -> None:
    """Two readers collect in threads of their own: nothing raises, runs backwards, or is missing in one of them."""
    host = Host(root)
    found: list[float] = []
    missing: list[str] = []

    def collect() -> None:
        for _ in range(200):
            for metric in semconv.HOST_METRICS:
                values = [value for value, _ in host.points(metric)]
                missing.extend([] if values else [metric.name])
                found.extend(values if metric is semconv.RUN_WAIT else [])

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {2.5}
    assert missing == []


def test_elsewhere_than_on_linux_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What OpenTelemetry reads is reported; of the kernel's files there is no point."""
    observed: list[object] = []
    monkeypatch.setattr(host_module.absolute, "observe", lambda *what: observed.append(what))
    monkeypatch.setattr(host_module, "_system", SimpleNamespace(start=lambda: None, stop=lambda: None))
    monkeypatch.setattr(host_module, "require", lambda: None)  # also without the extra
    monkeypatch.setattr(host_module.sys, "platform", "darwin")
    host_module.start(None)
    host_module.stop()
    assert observed == []
    assert len([line for line in caplog.messages if "Linux only" in line]) == 1
