"""The servers, one of each for the whole run; every test here is an integration test."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .alertmanager import Alertmanager, Webhook
from .backends import Jaeger, Process, Prometheus
from .collector import Collector
from .datadog import DatadogAgent
from .moto_server import Moto
from .recipes import Gateway, RecipeJaeger, RecipePrometheus, Tempo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
SERVERS = HERE.parent.parent / "scripts" / "servers.py"

_processes = pytest.StashKey[list[Process]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows the end of every program's output, servers and services alike."""
    report = yield
    if report.failed:
        for process in item.config.stash.get(_processes, []):
            report.sections.append((f"{process.log.name} (end)", process.tail()))
    return report


def _binary(program: str) -> Path:
    spec = importlib.util.spec_from_file_location("mlobs_servers", SERVERS)
    assert spec is not None
    assert spec.loader is not None
    servers = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    path: Path | None = servers.find(program)
    if path is None:
        reason = f"{program} is not built; `python scripts/servers.py build {servers.PROGRAMS[program]}` builds it"
        if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Jaeger]:
    """A Jaeger that takes OTLP over HTTP and gRPC."""
    server = Jaeger(_binary("jaeger"), tmp_path_factory.mktemp("jaeger"))
    request.config.stash.setdefault(_processes, []).append(server.process)
    yield server
    server.process.stop()


@pytest.fixture
def jaeger_on_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Jaeger]:
    """A Jaeger that finds failed traces: that in memory knows spans' attributes only, and a status is none."""
    (tmp_path / "jaeger").mkdir()
    server = Jaeger(_binary("jaeger"), tmp_path / "jaeger", {"badger": {"ephemeral": True}})
    shown = request.config.stash.setdefault(_processes, [])
    shown.append(server.process)
    yield server
    shown.remove(server.process)
    server.process.stop()


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Prometheus]:
    """A Prometheus that takes OTLP."""
    server = Prometheus(_binary("prometheus"), tmp_path_factory.mktemp("prometheus"))
    request.config.stash.setdefault(_processes, []).append(server.process)
    yield server
    server.process.stop()


@pytest.fixture
def prometheus_with_rules(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Prometheus]]:
    """Starts a Prometheus of the test's own that evaluates a rule file's text, and may have an ``alertmanager``."""
    started: list[Prometheus] = []
    shown = request.config.stash.setdefault(_processes, [])

    def run(rules: str, *, alertmanager: str = "") -> Prometheus:
        (tmp_path / "prometheus").mkdir()
        server = Prometheus(_binary("prometheus"), tmp_path / "prometheus", rules=rules, alertmanager=alertmanager)
        started.append(server)
        shown.append(server.process)
        return server

    yield run
    for server in started:
        shown.remove(server.process)
        server.process.stop()


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own checker of rules."""
    return _binary("promtool")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Callable[..., Process]]:
    """Starts a program; it is stopped after the module's tests at the latest, and a failure shows its output."""
    started: list[Process] = []
    shown = request.config.stash.setdefault(_processes, [])

    def run(name: str, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> Process:
        process = Process(command, tmp_path_factory.mktemp(name) / f"{name}.log", cwd=cwd, env=env)
        started.append(process)
        shown.append(process)
        return process

    yield run
    for process in started:
        shown.remove(process)
        process.stop()


@pytest.fixture
def collector(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]
) -> Iterator[Callable[..., Collector]]:
    """Starts Collectors with a configuration each, a YAML text or a dictionary, or several that are merged."""
    started: list[Collector] = []

    def run(*configuration: str | Mapping[str, Any], env: Mapping[str, str] | None = None) -> Collector:
        folder = tmp_path_factory.mktemp("collector")
        started.append(Collector(_binary("collector"), folder, start, *configuration, env=env))
        return started[-1]

    yield run
    for server in started:
        server.stop()


@pytest.fixture
def alertmanager(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]
) -> Iterator[Callable[[str | Mapping[str, Any]], Alertmanager]]:
    """Starts an Alertmanager with a configuration, a YAML text or a dictionary."""
    started: list[Alertmanager] = []

    def run(configuration: str | Mapping[str, Any]) -> Alertmanager:
        folder = tmp_path_factory.mktemp("alertmanager")
        started.append(Alertmanager(_binary("alertmanager"), folder, start, configuration))
        return started[-1]

    yield run
    for server in started:
        server.stop()


@pytest.fixture
def recipe_prometheus(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]
) -> Callable[..., RecipePrometheus]:
    """Starts the Prometheus of examples/backends, with its own configuration or with a copy of it."""

    def run(**config: Path) -> RecipePrometheus:
        return RecipePrometheus(_binary("prometheus"), tmp_path_factory.mktemp("prometheus"), start, **config)

    return run


@pytest.fixture
def recipe_jaeger(
    tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]
) -> Callable[..., RecipeJaeger]:
    """Starts the Jaeger of examples/backends, its span metrics in a Prometheus."""

    def run(prometheus: str, **env: str) -> RecipeJaeger:
        return RecipeJaeger(_binary("jaeger"), tmp_path_factory.mktemp("jaeger"), start, prometheus, **env)

    return run


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]) -> Callable[..., Gateway]:
    """Starts the gateway of examples/backends with variables of its page."""

    def run(**env: str) -> Gateway:
        return Gateway(_binary("collector"), tmp_path_factory.mktemp("gateway"), start, **env)

    return run


@pytest.fixture
def tempo(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]) -> Iterator[Callable[[str], Tempo]]:
    """Starts the Tempo of examples/backends, what its generator counts in a Prometheus; skips where there is none."""
    program = os.environ.get("TEMPO_BIN")
    if not program:
        pytest.skip("TEMPO_BIN names no Tempo: download a release, set it to the program's path")

    started: list[Tempo] = []

    def run(prometheus: str) -> Tempo:
        started.append(Tempo(Path(program), tmp_path_factory.mktemp("tempo"), start, prometheus))
        return started[-1]

    yield run
    for server in started:
        server.kill()  # on SIGTERM it was still there after a minute


@pytest.fixture(scope="session")
def amtool() -> Path:
    """Alertmanager's own checker of configurations."""
    return _binary("amtool")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A listener that keeps what is posted to it."""
    with Webhook() as listener:
        yield listener


@pytest.fixture
def datadog_agent(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]) -> Iterator[DatadogAgent]:
    """Datadog's test agent."""
    server = DatadogAgent(_binary("ddapm-test-agent"), tmp_path_factory.mktemp("datadog-agent"), start)
    yield server
    server.process.kill()


@pytest.fixture
def moto(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Process]) -> Iterator[Moto]:
    """AWS, as moto stands in for it."""
    server = Moto(_binary("moto_server"), tmp_path_factory.mktemp("moto"), start)
    yield server
    server.process.kill()
