"""A real Jaeger and a real Prometheus, each started on free ports with a folder of its own, and their query APIs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PATIENCE = 60.0  # seconds for something that is sure to come on a working machine, however slow


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def get(url: str, **query: object) -> Any:
    """The JSON answer of a GET."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=PATIENCE) as answer:
        return json.load(answer)


def wait_until(what: str, ready: Callable[[], Any], failed: Callable[[], str | None] = lambda: None) -> Any:
    """The first true answer of ``ready``; ``failed`` gives the reason to stop waiting."""
    end = time.monotonic() + PATIENCE
    while True:
        answer = ready()
        if answer:
            return answer
        reason = failed() or (f"not within {PATIENCE:.0f} seconds" if time.monotonic() > end else None)
        if reason:
            raise AssertionError(f"{what}: {reason}")
        time.sleep(0.1)


class Process:
    """A program with its output in a file, in a process group of its own."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def wait_for(self, url: str) -> None:
        """Returns when ``url`` answers 200; where the program ends instead, raises with the end of its output."""

        def answers() -> bool:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return bool(answer.status == 200)

        self._wait(f"waiting for {url}", answers)

    def wait_for_port(self, port: int) -> None:
        """Returns when something accepts connections on ``port``, without sending a request."""

        def accepts() -> bool:
            with socket.create_connection(("127.0.0.1", port)):
                return True

        self._wait(f"waiting for port {port}", accepts)

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        def quietly() -> bool:
            try:
                return ready()
            except OSError:  # refused, reset, or (urllib's errors are among them) not well yet
                return False

        def ended() -> str | None:
            status = self._process.poll()
            return None if status is None else f"the program ended with status {status}\n{self.tail()}"

        try:
            wait_until(what, quietly, ended)
        except AssertionError:
            self.kill()
            raise

    def tail(self, characters: int = 8000) -> str:
        """The end of the program's output."""
        return self.log.read_text(errors="replace")[-characters:]

    def children(self) -> set[int]:
        """The ids of the processes that the program has started and that still run."""
        pid = self._process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def wait(self) -> int:
        """The exit status of a program that ends by itself."""
        try:
            return self._process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end\n{self.tail()}") from None

    def stop(self) -> int:
        """Asks the program to end (SIGTERM), waits until it has, and returns its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end on SIGTERM\n{self.tail()}") from None

    def kill(self) -> None:
        """Ends the program and what it has started (SIGKILL)."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@dataclass(frozen=True)
class Span:
    """A span as Jaeger's query API gives it; attributes keep Jaeger's type names (`string`, `int64`, `float64`, …)."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    service: str
    attributes: dict[str, Any]
    types: dict[str, str]
    resource: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)


class Jaeger:
    """A running Jaeger v2 that keeps its traces in memory, or in the ``storage`` that is given."""

    MAX_TRACES = 50_000

    def __init__(self, binary: Path, folder: Path, storage: Mapping[str, Any] | None = None) -> None:
        otlp_http, otlp_grpc, query, query_grpc, health = free_ports(5)
        self.http = f"http://127.0.0.1:{otlp_http}"
        self.grpc = f"http://127.0.0.1:{otlp_grpc}"
        self.query = f"http://127.0.0.1:{query}"
        config = folder / "jaeger.yaml"
        config.write_text(  # JSON is YAML
            json.dumps(
                {
                    "service": {
                        "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
                        "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
                        "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "warn"}},
                    },
                    "extensions": {
                        "jaeger_storage": {
                            "backends": {"kept": storage or {"memory": {"max_traces": self.MAX_TRACES}}}
                        },
                        "jaeger_query": {
                            "storage": {"traces": "kept"},
                            "http": {"endpoint": f"127.0.0.1:{query}"},
                            "grpc": {"endpoint": f"127.0.0.1:{query_grpc}"},
                        },
                        "healthcheckv2": {"use_v2": True, "http": {"endpoint": f"127.0.0.1:{health}"}},
                    },
                    "receivers": {
                        "otlp": {
                            "protocols": {
                                "http": {"endpoint": f"127.0.0.1:{otlp_http}"},
                                "grpc": {"endpoint": f"127.0.0.1:{otlp_grpc}"},
                            }
                        }
                    },
                    "exporters": {"jaeger_storage_exporter": {"trace_storage": "kept"}},
                }
            )
        )
        # Jaeger traces itself, to whatever listens on port 4317, unless it is told not to.
        quiet = {"OTEL_TRACES_SAMPLER": "always_off"}
        self.process = Process([binary, f"--config={config}"], folder / "jaeger.log", env=quiet)
        self.process.wait_for(f"http://127.0.0.1:{health}/status")
        self.process.wait_for(f"{self.query}/api/services")

    def traces(self, service: str, *, since: float = 0.0) -> list[list[Span]]:
        """Every trace with a span of ``service`` that started after ``since`` (seconds since 1970)."""
        answer = get(
            f"{self.query}/api/traces",
            service=service,
            limit=self.MAX_TRACES,
            start=int(since * 1e6),
            end=int((time.time() + 60) * 1e6),
        )
        return [list(_spans(trace)) for trace in answer["data"]]

    def wait_for_traces(self, service: str, count: int, *, since: float = 0.0) -> list[list[Span]]:
        """The traces of ``service`` once there are at least ``count``; exports that were acknowledged are stored."""
        traces: list[list[Span]] = []

        def enough() -> bool:
            traces[:] = self.traces(service, since=since)
            return len(traces) >= count

        try:
            wait_until(f"waiting for {count} traces of {service}", enough)
        except AssertionError as error:
            raise AssertionError(f"{error}; {len(traces)} came") from None
        return traces


def _spans(trace: dict[str, Any]) -> Iterator[Span]:
    processes = {
        key: (process["serviceName"], {tag["key"]: tag["value"] for tag in process.get("tags", ())})
        for key, process in trace["processes"].items()
    }
    for span in trace["spans"]:
        service, resource = processes[span["processID"]]
        parents = [ref["spanID"] for ref in span.get("references", ()) if ref["refType"] == "CHILD_OF"]
        yield Span(
            trace_id=span["traceID"],
            span_id=span["spanID"],
            parent_id=parents[0] if parents else None,
            name=span["operationName"],
            service=service,
            attributes={tag["key"]: tag["value"] for tag in span["tags"]},
            types={tag["key"]: tag["type"] for tag in span["tags"]},
            resource=resource,
            events=[{field["key"]: field["value"] for field in log["fields"]} for log in span.get("logs") or ()],
        )


class Prometheus:
    """A running Prometheus that takes OTLP and keeps exemplars.

    It evaluates ``rules``, a rule file's text, and sends alerts to ``alertmanager``, a URL.
    """

    def __init__(self, binary: Path, folder: Path, *, rules: str = "", alertmanager: str = "") -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.otlp = f"{self.url}/api/v1/otlp"
        config = folder / "prometheus.yml"
        (folder / "rules.yml").write_text(rules)
        targets = [alertmanager.removeprefix("http://")] if alertmanager else []
        config.write_text(  # JSON is YAML
            json.dumps(
                {
                    "storage": {"exemplars": {"max_exemplars": 10_000}},
                    "rule_files": ["rules.yml"],
                    "alerting": {"alertmanagers": [{"static_configs": [{"targets": targets}]}]},
                }
            )
        )
        self.process = Process(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-otlp-receiver",
                "--enable-feature=exemplar-storage",
            ],
            folder / "prometheus.log",
        )
        self.process.wait_for(f"{self.url}/-/ready")
        if alertmanager:  # it is discovered seconds later; alerts before that are dropped and sent again after a minute
            wait_until("waiting for Prometheus to find the Alertmanager", self._alertmanagers)

    def _alertmanagers(self) -> list[dict[str, str]]:
        """The Alertmanagers that alerts are sent to."""
        active: list[dict[str, str]] = get(f"{self.url}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        return active

    def ask(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """The labels and value of every series of an instant query."""
        answer = get(f"{self.url}/api/v1/query", query=promql)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def exemplars(self, promql: str, *, since: float) -> list[dict[str, Any]]:
        """The exemplars of every series that ``promql`` selects, from ``since`` (seconds since 1970) on."""
        answer = get(f"{self.url}/api/v1/query_exemplars", query=promql, start=since, end=time.time() + 60)
        return [exemplar for series in answer["data"] for exemplar in series["exemplars"]]
