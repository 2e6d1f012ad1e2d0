"""Each way out of a process, on real servers: over HTTP, over gRPC, by way of a file, and where nobody answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .backends import PATIENCE, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .backends import Jaeger, Prometheus

APPS = Path(__file__).parent / "apps"
REQUESTS = 20


def serve_and_stop(**configure: Any) -> subprocess.CompletedProcess[str]:
    """Serves some requests in a process of its own, which was configured so, shuts it down and returns its output."""
    environment = {"NOOP_CONFIGURE": json.dumps(configure)}
    return run(sys.executable, APPS / "once.py", REQUESTS, env=environment)


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The output of a program that must end, and end well."""
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def recording_proxy(target: str) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """A way to ``target`` that notes the path of each POST and how it was answered; its address, and the notes."""
    seen: list[tuple[str, int]] = []

    class Forward(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": self.headers["Content-Type"]}
            request = urllib.request.Request(target + self.path, body, headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            seen.append((self.path, status))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name for it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_jaeger_is_sent_traces_and_nothing_else(jaeger: Jaeger) -> None:
    """Metrics and logs, which Jaeger answers with 404, are not posted to it, and the user is told so once."""
    with recording_proxy(jaeger.http) as (endpoint, seen):
        done = serve_and_stop(service_name="only-traces", backend="jaeger", endpoint=endpoint, metric_interval=0.1)
    assert json.loads(done.stdout) == {"statuses": [200] * REQUESTS, "delivered": True}
    assert len(jaeger.wait_for_traces("only-traces", REQUESTS)) == REQUESTS
    assert set(seen) == {("/v1/traces", 200)}
    assert done.stderr.count("jaeger takes no metrics") == 1


def test_jaeger_over_grpc(jaeger: Jaeger) -> None:
    """With `protocol="grpc"` every trace arrives at Jaeger's gRPC port."""
    serve_and_stop(service_name="over-grpc", backend="jaeger", endpoint=jaeger.grpc, protocol="grpc")
    traces = jaeger.wait_for_traces("over-grpc", REQUESTS)
    assert [len(trace) for trace in traces] == [5] * REQUESTS


def test_a_file_is_replayed_into_jaeger(jaeger: Jaeger, tmp_path: Path) -> None:
    """What `backend="file"` wrote arrives whole through `otel-mlobs replay`, metrics are skipped."""
    path = tmp_path / "telemetry.jsonl"
    serve_and_stop(service_name="replayed", backend="file", path=str(path))
    written = {
        span["traceId"]
        for line in path.read_text().splitlines()
        for resource in json.loads(line).get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    }
    assert len(written) == REQUESTS

    command = Path(sys.executable).with_name("otel-mlobs")
    said = run(command, "replay", path, "--endpoint", jaeger.http).stdout
    assert f"{5 * REQUESTS} spans" in said
    assert "metrics skipped" in said
    traces = jaeger.wait_for_traces("replayed", REQUESTS)
    assert {trace[0].trace_id for trace in traces} == written
    assert [len(trace) for trace in traces] == [5] * REQUESTS


def test_an_exemplar_leads_from_the_duration_to_its_trace(jaeger: Jaeger, prometheus: Prometheus) -> None:
    """The trace ids that Prometheus keeps beside the durations are those of traces that Jaeger has."""
    since = time.time()
    serve_and_stop(service_name="exemplars", traces_endpoint=jaeger.http, metrics_endpoint=prometheus.otlp)
    known = {trace[0].trace_id for trace in jaeger.wait_for_traces("exemplars", REQUESTS)}
    spans = {span.span_id: span.name for trace in jaeger.traces("exemplars") for span in trace}
    selector = 'mlobs_operation_duration_seconds_bucket{job="exemplars", mlobs_operation_name="ranking"}'
    exemplars = wait_until("waiting for exemplars", lambda: prometheus.exemplars(selector, since=since))
    for exemplar in exemplars:
        assert exemplar["labels"]["trace_id"] in known
        assert spans[exemplar["labels"]["span_id"]] == "ranking ltr"


@contextmanager
def refusing() -> Iterator[str]:
    """An address where nothing listens."""
    (port,) = free_ports(1)
    yield f"http://127.0.0.1:{port}"


@contextmanager
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("nowhere", [refusing, silent], ids=["refusing", "silent"])
def test_a_backend_that_does_not_answer_stops_nothing(nowhere: Any, protocol: str) -> None:
    """Every request is served, shutdown comes back and says that it gave up, and no traceback is printed."""
    with nowhere() as endpoint:
        done = serve_and_stop(service_name="alone", backend="collector", endpoint=endpoint, protocol=protocol)
    assert json.loads(done.stdout) == {"statuses": [200] * REQUESTS, "delivered": False}
    assert "Traceback" not in done.stderr


def test_a_refused_connection_is_one_line() -> None:
    """Where nothing listens, one line says so and names the address, however many batches of each signal are lost."""
    with refusing() as endpoint:
        done = serve_and_stop(service_name="alone", backend="collector", endpoint=endpoint, metric_interval=0.1)
    (line,) = done.stderr.splitlines()
    assert f"not reaching {endpoint}: connection refused" in line
