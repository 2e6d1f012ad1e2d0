"""An OTLP receiver for tests, over HTTP and gRPC, and a way to run a script in a process of its own.

Providers are set once per process, so what ``configure()`` does is seen from outside: a script runs with this
interpreter and sends to a receiver here, which decodes what came and can be told to misbehave.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import textwrap
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Self

PATIENCE_S = 30.0
"""How long to wait for what must come: far beyond what a slow machine needs, since nothing is timed here."""

_KINDS: dict[str, Any] = {
    "traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    "metrics": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
    "logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
}


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    signal: str
    path: str
    headers: Mapping[str, str]
    message: Any


@dataclass(frozen=True)
class Point:
    """One data point of a sum or of a histogram's count."""

    instance: str
    attributes: tuple[tuple[str, Any], ...]
    start: int
    value: float
    cumulative: bool


class Store:
    """What has come in, and the questions that tests put to it."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.refused = 0
        self._changed = threading.Condition()

    def add(self, received: Received) -> None:
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()

    def refuse(self) -> None:
        with self._changed:
            self.refused += 1
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Whether ``condition`` came true while requests kept coming."""
        with self._changed:
            return self._changed.wait_for(condition, PATIENCE_S)

    def signals(self) -> set[str]:
        return {one.signal for one in self.received}

    def of(self, signal: str) -> list[Received]:
        return [one for one in self.received if one.signal == signal]

    def spans(self) -> list[Any]:
        return [span for _, span in self.spans_with_resource()]

    def spans_with_resource(self) -> list[tuple[dict[str, Any], Any]]:
        return [
            (attributes_of(group.resource), span)
            for one in self.of("traces")
            for group in one.message.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def span_names(self) -> list[str]:
        return sorted(span.name for span in self.spans())

    def records(self) -> list[Any]:
        return [
            record
            for one in self.of("logs")
            for group in one.message.resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]

    def resources(self) -> list[dict[str, Any]]:
        return [
            attributes_of(group.resource)
            for one in self.received
            for group in getattr(one.message, f"resource_{'spans' if one.signal == 'traces' else one.signal}")
        ]

    def metrics(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Every metric with its resource, in the order in which they came."""
        for one in self.of("metrics"):
            for group in one.message.resource_metrics:
                resource = attributes_of(group.resource)
                for scope in group.scope_metrics:
                    for metric in scope.metrics:
                        yield resource, metric

    def metric_names(self) -> set[str]:
        return {metric.name for _, metric in self.metrics()}

    def points(self, name: str) -> Iterator[Point]:
        """The points of metric ``name`` in the order in which they came."""
        for resource, metric in self.metrics():
            if metric.name == name:
                yield from _points_of(metric, resource["service.instance.id"])

    def total(self, name: str) -> float:
        """What metric ``name`` adds up to over all processes: how a backend would sum the series."""
        cumulative: dict[tuple[Any, ...], float] = {}
        total = 0.0
        for point in self.points(name):
            if point.cumulative:
                cumulative[point.instance, point.attributes, point.start] = point.value
            else:
                total += point.value
        return total + sum(cumulative.values())

    def first_values(self, name: str) -> list[float]:
        """The first value of every series of metric ``name``."""
        first: dict[tuple[Any, ...], float] = {}
        for point in self.points(name):
            first.setdefault((point.instance, point.attributes), point.value)
        return list(first.values())

    def instances(self, name: str) -> dict[str, float]:
        """The last value of metric ``name`` by ``service.instance.id``, its series added."""
        last: dict[tuple[Any, ...], float] = {}
        for point in self.points(name):
            last[point.instance, point.attributes] = point.value
        totals: dict[str, float] = defaultdict(float)
        for (instance, _), value in last.items():
            totals[instance] += value
        return dict(totals)


def attributes_of(holder: Any) -> dict[str, Any]:
    """The attributes of a resource, a span, a point or a record."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


def _points_of(metric: Any, instance: str) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    for point in data.data_points:
        yield Point(
            instance,
            tuple(sorted(attributes_of(point).items())),
            point.start_time_unix_nano,
            point.count if kind == "histogram" else point.as_int or point.as_double,
            getattr(data, "aggregation_temporality", None) == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE,
        )


class Receiver(Store):
    """OTLP over HTTP on a free port, for a ``with`` block.

    ``answer`` is a status, or ``"hang"`` (reads the request and never answers) or ``"close"`` (hangs up); a mapping
    gives one for each path. Only what is answered with 200 is kept. A request to ``/answer`` makes it answer 200.
    """

    def __init__(
        self, answer: int | str | Mapping[str, int | str] = 200, context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__()
        self.answer = answer
        self._context = context
        self._release = threading.Event()

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._serve(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that hang up, as a forked child or an untrusting one does, are no failure of the test."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if self._context is not None:
            self._server.socket = self._context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", "0")))
        if handler.path == "/answer":
            self.answer = 200
        answer = self.answer if not isinstance(self.answer, Mapping) else self.answer.get(handler.path, 200)
        if answer != 200:
            self.refuse()
        if answer == "hang":
            self._release.wait(PATIENCE_S)
        if isinstance(answer, str):
            handler.close_connection = True
            return
        signal = handler.path.partition("?")[0].rpartition("/")[2]
        reply = b""
        if answer == 200 and signal in _KINDS:
            encoding = handler.headers.get("content-encoding", "")
            body = gzip.decompress(body) if encoding == "gzip" else body
            body = zlib.decompress(body) if encoding == "deflate" else body
            request, response = _KINDS[signal]
            headers = {key.lower(): value for key, value in handler.headers.items()}
            self.add(Received(signal, handler.path, headers, request.FromString(body)))
            reply = response().SerializeToString()
        handler.send_response(answer)
        handler.send_header("content-type", "application/x-protobuf")
        handler.send_header("content-length", str(len(reply)))
        handler.end_headers()
        handler.wfile.write(reply)


class GrpcReceiver(Store):
    """OTLP over gRPC on a free port, for a ``with`` block; ``takes`` are the signals that it knows."""

    def __init__(
        self, takes: tuple[str, ...] = ("traces", "metrics", "logs"), credentials: grpc.ServerCredentials | None = None
    ) -> None:
        super().__init__()
        self._takes = takes
        self._credentials = credentials

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        servicers = {
            "traces": (
                trace_service_pb2_grpc.TraceServiceServicer,
                trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
            ),
            "metrics": (
                metrics_service_pb2_grpc.MetricsServiceServicer,
                metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
            ),
            "logs": (
                logs_service_pb2_grpc.LogsServiceServicer,
                logs_service_pb2_grpc.add_LogsServiceServicer_to_server,
            ),
        }
        for signal in self._takes:
            base, register = servicers[signal]
            register(self._servicer(signal, base), self._server)
        if self._credentials is not None:
            self.port = self._server.add_secure_port("localhost:0", self._credentials)
        else:
            self.port = self._server.add_insecure_port("localhost:0")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    @property
    def url(self) -> str:
        return f"{'https' if self._credentials else 'http'}://localhost:{self.port}"

    def _servicer(self, signal: str, base: type) -> Any:
        store = self

        def export(self: Any, request: Any, context: Any) -> Any:
            headers = {str(key).lower(): str(value) for key, value in context.invocation_metadata()}
            store.add(Received(signal, "", headers, request))
            return _KINDS[signal][1]()

        return type("Servicer", (base,), {"Export": export})()


@dataclass(frozen=True)
class Ran:
    """What a script left behind."""

    code: int
    out: str
    err: str

    def lines(self, *words: str) -> list[str]:
        """The lines of stderr in which all ``words`` stand."""
        return [line for line in self.err.splitlines() if all(word in line for word in words)]


CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "MLOBS_"))}
"""The environment without what would configure telemetry."""

_HEAD = """
import logging, os, sys
import otel_mlobs as mlobs
"""


def run(script: str, *, env: Mapping[str, str] | None = None, command: tuple[str, ...] = (), check: bool = True) -> Ran:
    """Run ``script``, after the imports it always needs, in a fresh interpreter; a failure shows its stderr."""
    text = _HEAD + textwrap.dedent(script)
    done = subprocess.run(
        [*command, sys.executable, "-X", "faulthandler", "-W", "ignore::DeprecationWarning", "-c", text],
        env={**CLEAN, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"the script left with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return Ran(done.returncode, done.stdout, done.stderr)
