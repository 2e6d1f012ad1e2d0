"""Replaying OTLP-JSON files to a real HTTP server."""

from __future__ import annotations

import gzip
import math
import socket
import threading
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_mlobs.telemetry.exporters import encode_line
from otel_mlobs.tools.replay import replay, retry_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Answer = tuple[int, dict[str, str], bytes]

REQUESTS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
OK: Answer = (200, {"Content-Type": "application/x-protobuf"}, b"")


class Backend:
    """An OTLP/HTTP server: decodes what it takes; ``answer`` decides about each request by its path and number."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[str, int], Answer | None] = lambda path, number: OK
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                backend.asked[self.path] += 1
                backend.headers.append(dict(self.headers))
                answer = backend.answer(self.path, backend.asked[self.path])
                if answer is None:  # hang up
                    self.close_connection = True
                    return
                status, headers, content = answer
                if status == 200:
                    assert self.headers["Content-Type"] == "application/x-protobuf"
                    backend.taken.append(REQUESTS[self.path].FromString(body))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A running backend that takes everything until it is told otherwise."""
    backend = Backend()
    thread = threading.Thread(target=backend.server.serve_forever, args=(0.01,))
    thread.start()
    yield backend
    backend.server.shutdown()
    thread.join()
    backend.server.server_close()


@pytest.fixture
def requests_() -> dict[str, Any]:
    """One request of each signal, as the SDK and its encoders make them: 2 spans, 3 data points, 1 log record."""
    spans = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("scope")
    logs = InMemoryLogRecordExporter()
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    with tracers.get_tracer("scope").start_as_current_span("größe", attributes={"n": 2**60, "nan": float("nan")}):
        tracers.get_tracer("scope").start_span("child").end()
        meter.create_histogram("h").record(0.5)
        meter.create_counter("c").add(1, {"a": 1})
        meter.create_counter("c").add(1, {"a": 2})
        loggers.get_logger("scope").emit(LogRecord(body="größe"))
    data = reader.get_metrics_data()
    assert data is not None
    return {
        "traces": encode_spans(spans.get_finished_spans()),
        "metrics": encode_metrics(data),
        "logs": encode_logs(logs.get_finished_logs()),
    }


@pytest.fixture
def file(tmp_path: Path, requests_: dict[str, Any]) -> Path:
    """A file with one line of each signal: traces, metrics, logs."""
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(b"".join(encode_line(request) for request in requests_.values()))
    return path


def test_what_arrives_is_what_was_recorded(backend: Backend, file: Path, requests_: dict[str, Any]) -> None:
    """Traces, metrics and logs reach the server's v1 paths as the protobuf that the SDK's own exporter would send."""
    result = replay(file, backend.url + "/")
    assert backend.taken == list(requests_.values())
    assert backend.asked == {"/v1/traces": 1, "/v1/metrics": 1, "/v1/logs": 1}
    assert result.sent == {"traces": 2, "metrics": 3, "logs": 1}
    assert (result.lines, result.complete, result.stopped) == (3, True, None)


def test_a_base_path_and_headers_are_kept(backend: Backend, file: Path, requests_: dict[str, Any]) -> None:
    """An endpoint with a path, as Prometheus has, keeps it, and every request carries the headers."""
    REQUESTS["/api/v1/otlp/v1/metrics"] = ExportMetricsServiceRequest
    result = replay(file, f"{backend.url}/api/v1/otlp", headers={"Authorization": "Bearer abc"}, signals=["metrics"])
    assert backend.asked == {"/api/v1/otlp/v1/metrics": 1}
    assert backend.headers[0]["Authorization"] == "Bearer abc"
    assert backend.taken == [requests_["metrics"]]
    assert (result.sent, result.complete) == ({"metrics": 3}, True)


def test_damaged_lines_are_named_and_skipped(backend: Backend, file: Path, requests_: dict[str, Any]) -> None:
    """Torn, foreign and binary lines are counted with their numbers; empty ones are not; the others all arrive."""
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0][:100], b"", lines[1], b'{"level":"info"}', b"\xff\xfe\x00", lines[2]]))
    result = replay(file, backend.url)
    assert backend.taken == [requests_["metrics"], requests_["logs"]]
    assert [problem.line for problem in result.damaged] == [1, 4, 5]
    assert result.damaged[0].reason.startswith("not JSON")
    assert result.damaged[1].reason == "expected one of resourceSpans, resourceMetrics, resourceLogs, got level"
    assert (result.lines, result.damaged_count, result.complete, result.stopped) == (5, 3, False, None)


def test_a_file_of_something_else_is_damaged_throughout(backend: Backend, tmp_path: Path) -> None:
    """A compressed file is no error but thousands of damaged lines, of which the first hundred are kept."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"x\n" * 3_000 + gzip.compress(b"{}"))
    result = replay(path, backend.url)
    assert result.damaged_count >= 3_001
    assert [problem.line for problem in result.damaged] == list(range(1, 101))
    assert not backend.asked


def test_a_signal_that_the_endpoint_lacks_is_skipped(backend: Backend, file: Path) -> None:
    """Jaeger's 404 for metrics is noted once, no more metrics are sent, and traces and logs arrive."""
    file.write_bytes(file.read_bytes() * 2)
    backend.answer = lambda path, number: (404, {}, b"404 page not found\n") if path == "/v1/metrics" else OK
    result = replay(file, backend.url)
    assert backend.asked == {"/v1/traces": 2, "/v1/metrics": 1, "/v1/logs": 2}
    assert result.skipped == {"metrics": "404 Not Found: 404 page not found"}
    assert result.sent == {"traces": 4, "logs": 2}
    assert (result.stopped, result.complete) == (None, False)


def test_wrong_credentials_end_the_replay(backend: Backend, file: Path) -> None:
    """A 401 stops at the line it was given for, with the server's own words, and asks no more."""
    status = Status(code=16, message="token expired").SerializeToString()
    backend.answer = lambda path, number: (401, {"Content-Type": "application/x-protobuf"}, status)
    result = replay(file, backend.url, headers={"Authorization": "Bearer s3cret"})
    assert result.stopped == "the endpoint refused the credentials: 401 Unauthorized: token expired"
    assert (result.stopped_line, sum(backend.asked.values()), result.sent) == (1, 1, {})
    assert "s3cret" not in repr(result)


def test_a_busy_endpoint_is_asked_again(backend: Backend, file: Path, requests_: dict[str, Any]) -> None:
    """After 429, 502, 503 and 504 the same line is sent again and arrives once."""
    answers = {1: 429, 2: 502, 3: 503, 4: 504}
    backend.answer = lambda path, number: (
        (answers[number], {"Retry-After": "0"}, b"") if path == "/v1/traces" and number in answers else OK
    )
    result = replay(file, backend.url)
    assert backend.asked["/v1/traces"] == 5
    assert backend.taken == list(requests_.values())
    assert result.complete


def test_an_endpoint_that_stays_busy_ends_the_replay(backend: Backend, file: Path) -> None:
    """Five answers of 503 for one line are enough: the replay ends there and says so."""
    backend.answer = lambda path, number: OK if path == "/v1/traces" else (503, {"Retry-After": "0"}, b"<html>")
    result = replay(file, backend.url)
    assert result.stopped == "the endpoint stayed unavailable: 503 Service Unavailable: <html>"
    assert (result.stopped_line, result.sent) == (2, {"traces": 2})
    assert backend.asked == {"/v1/traces": 1, "/v1/metrics": 5}


def test_a_connection_that_breaks_is_made_again(backend: Backend, file: Path, requests_: dict[str, Any]) -> None:
    """An endpoint that hangs up once, after it had answered before, gets the line again."""
    backend.answer = lambda path, number: None if (path, number) == ("/v1/metrics", 1) else OK
    result = replay(file, backend.url)
    assert backend.taken == list(requests_.values())
    assert result.complete


def test_an_endpoint_that_never_answered_is_not_asked_again(backend: Backend, file: Path) -> None:
    """What hangs up on the first request, as a gRPC port may, ends the replay after that one."""
    backend.answer = lambda path, number: None
    result = replay(file, backend.url)
    assert (result.stopped or "").startswith("no connection to the endpoint: ")
    assert sum(backend.asked.values()) == 1


def test_a_refused_line_does_not_stop_the_others(backend: Backend, file: Path) -> None:
    """A 400 is kept with its line and its reason, and the lines after it are sent."""
    backend.answer = lambda path, number: (400, {"Content-Type": "text/plain"}, b"out of\norder") if number == 1 else OK
    file.write_bytes(file.read_bytes() * 2)
    result = replay(file, backend.url)
    assert [problem.line for problem in result.refused] == [1, 2, 3]
    assert result.refused[0].reason == "400 Bad Request: out of order"
    assert (result.refused_count, result.sent) == (3, {"traces": 2, "metrics": 3, "logs": 1})


def test_what_was_taken_in_part_is_counted_so(backend: Backend, file: Path) -> None:
    """An answer that says one of two spans was rejected counts one as sent, with the endpoint's reason."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    answer.partial_success.error_message = "too old"
    backend.answer = lambda path, number: (
        (200, {"Content-Type": "application/x-protobuf"}, answer.SerializeToString()) if path == "/v1/traces" else OK
    )
    result = replay(file, backend.url)
    assert result.sent["traces"] == 1
    assert [(problem.line, problem.reason) for problem in result.refused] == [
        (1, "1 of 2 items were rejected: too old")
    ]


def test_a_redirect_is_not_followed(backend: Backend, file: Path) -> None:
    """A redirect, which would turn the POST into a GET without its data, ends the replay and names the new address."""
    backend.answer = lambda path, number: (302, {"Location": "https://elsewhere/login"}, b"")
    result = replay(file, backend.url)
    assert result.stopped == "the endpoint answered with a redirect to https://elsewhere/login"
    assert sum(backend.asked.values()) == 1


def test_an_endpoint_that_is_not_there_is_said_at_once(file: Path) -> None:
    """A refused connection and an unknown host end the replay without retries, in words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = replay(file, f"http://127.0.0.1:{port}")
    assert result.stopped == "no connection to the endpoint: Connection refused"
    assert (result.stopped_line, result.lines) == (1, 1)
    result = replay(file, "http://no-such-host.invalid:4318")
    assert (result.stopped or "").startswith("no connection to the endpoint: ")
    assert "object at 0x" not in (result.stopped or "")


def test_plain_http_behind_https_is_said_as_tls(backend: Backend, file: Path) -> None:
    """An https endpoint that speaks plain HTTP is a TLS failure in the result."""
    result = replay(file, backend.url.replace("http:", "https:"))
    assert (result.stopped or "").startswith("TLS failed: ")


def test_an_endpoint_that_does_not_answer_is_given_up(file: Path) -> None:
    """A server that takes the connection and says nothing ends the replay after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = replay(file, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
    assert result.stopped == "the endpoint did not answer within 0.2 s"


def test_progress_counts_the_bytes_of_the_file(backend: Backend, file: Path) -> None:
    """Progress is called after each line and ends at the size of the file."""
    seen: list[tuple[int, int]] = []
    replay(file, backend.url, progress=lambda done, total: seen.append((done, total)))
    size = file.stat().st_size
    assert [total for _, total in seen] == [size] * 3
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (size, size)


# Written by the file exporter of a Collector v0.152.0.
COLLECTOR_LINE = (
    '{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"käse"}}]},"scopeSpans":'
    '[{"scope":{"name":"scope"},"spans":[{"traceId":"00000000000000000000000000000001","spanId":"0000000000000001",'
    '"flags":256,"name":"p","kind":2,"startTimeUnixNano":"1700000000000000001","endTimeUnixNano":"1700000001000000000",'
    '"attributes":[{"key":"n","value":{"intValue":"9007199254740993"}},{"key":"nan","value":{"doubleValue":"NaN"}}],'
    '"links":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"00f067aa0ba902b7","flags":768}],'
    '"status":{"code":2}}]}]}]}\n'
)


def test_a_collectors_line_is_sent(backend: Backend, tmp_path: Path) -> None:
    """What a real Collector's file exporter wrote reaches a backend with its ids, times and values."""
    path = tmp_path / "collector.jsonl"
    path.write_text(COLLECTOR_LINE, encoding="utf-8")
    assert replay(path, backend.url).complete
    (span,) = backend.taken[0].resource_spans[0].scope_spans[0].spans
    assert (span.trace_id, span.span_id, span.parent_span_id) == (b"\0" * 15 + b"\1", b"\0" * 7 + b"\1", b"")
    assert (span.kind, span.status.code, span.start_time_unix_nano) == (2, 2, 1_700_000_000_000_000_001)
    assert span.links[0].trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.attributes[0].value.int_value == 2**53 + 1
    assert math.isnan(span.attributes[1].value.double_value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"endpoint": "localhost:4318"}, "endpoint must be a URL like http://localhost:4318, got 'localhost:4318'"),
        ({"endpoint": "grpc://jaeger:4317"}, "endpoint must be a URL like"),
        (
            {"endpoint": "http://jaeger:port"},
            r"must have a number from 0 to 65535 as its port, got 'http://jaeger:\*\*\*'",
        ),
        ({"endpoint": "http://jaeger:4318/v1/traces"}, "must be the base URL, without /v1/traces"),
        ({"timeout": 0}, "timeout must be positive seconds, got 0"),
        ({"timeout": float("nan")}, "timeout must be positive seconds, got nan"),
        ({"signals": ["spans"]}, r"signals must be among traces, metrics, logs, got \['spans'\]"),
        ({"signals": []}, r"signals must be among traces, metrics, logs, got \[\]"),
        ({"signals": "traces"}, r"signals must be several names, as \('traces',\), got 'traces'"),
        ({"endpoint": "ftp://me:s3cret@jaeger"}, "endpoint must be a URL like .*, got 'ftp://jaeger'"),
        ({"endpoint": "http://me:s3cret@[::1"}, "endpoint must be a URL like"),
        ({"endpoint": "http://jaeger:s3cret"}, "as its port"),
        ({"endpoint": "http://me:s3cret@jaeger/v1/logs"}, "must be the base URL, without /v1/logs"),
        ({"endpoint": b"http://me:s3cret@jaeger"}, "endpoint must be a URL like .*, got a bytes"),
        ({"headers": {"Authorization: s3cret": ""}}, "begins with 'Authorization' is no header name"),
        ({"headers": {"Authorization": "s3cret\n"}}, "header 'Authorization' must have printable ASCII text"),
    ],
)
def test_wrong_arguments_raise(arguments: dict[str, Any], message: str, file: Path) -> None:
    """A wrong argument raises before anything is sent, with its value, unless that may be a secret."""
    with pytest.raises(ValueError, match=message) as caught:
        replay(file, **{"endpoint": "http://127.0.0.1:9", **arguments})
    assert "s3cret" not in str(caught.value)


def test_an_answer_that_quotes_the_token_is_shown_without_it(backend: Backend, file: Path) -> None:
    """What the endpoint says of the token it refuses is in the result, the token itself is not, not even in part."""
    backend.answer = lambda path, number: (401, {"Content-Type": "text/plain"}, b"x" * 190 + b" s3cret-token is bad")
    result = replay(file, backend.url, headers={"Authorization": "Bearer s3cret-token"})
    assert result.stopped is not None
    assert "xxx ***" in result.stopped
    assert "s3c" not in result.stopped


def test_a_missing_file_raises(tmp_path: Path) -> None:
    """A file that is not there is the caller's error."""
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "missing.jsonl", "http://127.0.0.1:9")


def test_waits_follow_the_endpoint_within_bounds() -> None:
    """Retry-After counts, in seconds or as a date, up to 30 s; without one the wait doubles from about a second."""
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    assert retry_wait("7", 0) == 7
    assert 15 < retry_wait(soon, 0) <= 20
    assert retry_wait("3600", 0) == 30
    assert retry_wait("-5", 0) == 0
    for nonsense in (None, "nan", "soon"):
        assert [round(retry_wait(nonsense, attempt) / 2**attempt) for attempt in range(4)] == [1, 1, 1, 1]
    assert retry_wait(None, 10) == 30
