"""The doctor against real receivers: what arrived, what failed, what to change."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from receiver import CLEAN, GrpcReceiver, Receiver, run

from otel_mlobs.tools import cli, doctor
from otel_mlobs.tools.doctor import Finding, Report
from otel_mlobs.tools.replay import replay


def _finding(report: Report, subject: str) -> Finding:
    found = [finding for finding in report.findings if finding.subject == subject]
    assert len(found) == 1, report.findings
    return found[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_one_of_each_signal_arrives() -> None:
    """One span, one metric and one log record reach the receiver, and the report says so."""
    with Receiver() as receiver:
        arguments = {"service_name": "shop", "endpoint": receiver.url, "logs": True}
        report = doctor.examine(arguments, {})
        assert report.healthy
        assert {_finding(report, signal).verdict for signal in ("traces", "metrics", "logs")} == {"ok"}
        assert receiver.span_names() == ["doctor"]
        assert receiver.total("mlobs.doctor.checks") == 1
        assert len(receiver.records()) == 1
        assert all(resource["service.name"] == "shop" for resource in receiver.resources())


def test_one_of_each_signal_arrives_over_grpc() -> None:
    """The same over gRPC."""
    with GrpcReceiver() as receiver:
        report = doctor.examine({"endpoint": receiver.url, "protocol": "grpc", "logs": True}, {})
        assert report.healthy
        assert receiver.signals() == {"traces", "metrics", "logs"}


@pytest.mark.parametrize(
    ("answer", "said", "advised"),
    [
        (401, "refuses the credentials (401)", "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "no OTLP receiver is at this address (404", "host, port and path"),
        (500, "it answered 500", "the backend's own log"),
        (302, "redirects (302)", "the address it redirects to"),
        ("hang", "no answer within 0.5 s", "a firewall"),
        ("close", "broke off before an answer", "gRPC on 4317"),
    ],
)
def test_what_http_failed(answer: int | str, said: str, advised: str) -> None:
    """Every answer other than success is named, with what to change."""
    with Receiver(answer) as receiver:
        report = doctor.examine({"backend": "jaeger", "endpoint": receiver.url, "timeout": 0.5}, {})
    finding = _finding(report, "traces")
    assert finding.verdict == "failed"
    assert said in finding.message
    assert advised in finding.advice
    assert not report.healthy


def test_a_backend_that_takes_no_metrics_is_recognised() -> None:
    """Traces arrive, metrics get a 404 as at Jaeger: the advice names the backend and metrics_endpoint."""
    with Receiver({"/v1/metrics": 404}) as receiver:
        report = doctor.examine({"endpoint": receiver.url}, {})
    assert _finding(report, "traces").verdict == "ok"
    metrics = _finding(report, "metrics")
    assert "takes no metrics (404 Not Found), as Jaeger" in metrics.message
    assert "metrics_endpoint=" in metrics.advice


def test_metrics_unimplemented_over_grpc() -> None:
    """The same over gRPC, where the answer is UNIMPLEMENTED."""
    with GrpcReceiver(takes=("traces",)) as receiver:
        report = doctor.examine({"endpoint": receiver.url, "protocol": "grpc"}, {})
    assert _finding(report, "traces").verdict == "ok"
    assert "takes no metrics (UNIMPLEMENTED)" in _finding(report, "metrics").message


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_nothing_listens(protocol: str) -> None:
    """A refused connection is called that."""
    arguments = {"backend": "jaeger", "endpoint": f"http://127.0.0.1:{_free_port()}", "protocol": protocol}
    assert "connection refused" in _finding(doctor.examine(arguments, {}), "traces").message


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_host_that_does_not_exist(protocol: str) -> None:
    """A name that DNS does not know is called that; the top-level domain is reserved for never existing."""
    arguments = {"backend": "jaeger", "endpoint": "http://jaeger.invalid:4318", "protocol": protocol, "timeout": 20}
    assert "host name is not known (DNS)" in _finding(doctor.examine(arguments, {}), "traces").message


def test_tls_to_a_plain_port() -> None:
    """https:// to a server without TLS says which scheme to write."""
    with Receiver() as receiver:
        url = receiver.url.replace("http://", "https://")
        finding = _finding(doctor.examine({"backend": "jaeger", "endpoint": url}, {}), "traces")
    assert "does not speak TLS" in finding.message
    assert "http://" in finding.advice


def test_wrong_settings_are_a_finding() -> None:
    """A configuration error is reported, not raised."""
    report = doctor.examine({"endpoint": "localhost:4318"}, {})
    assert not report.healthy
    assert "has no scheme" in _finding(report, "settings").message


def test_a_minute_between_metrics_is_warned_of() -> None:
    """OpenTelemetry's own default interval, where somebody set it, leaves a two-minute window with a single step."""
    with Receiver() as receiver:
        report = doctor.examine({"endpoint": receiver.url}, {"OTEL_METRIC_EXPORT_INTERVAL": "60000"})
    assert _finding(report, "metric interval").verdict == "warning"
    assert "every 60 s" in _finding(report, "metric interval").message


def test_exponential_histograms_are_warned_of() -> None:
    """They have no bucket at the objective."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    with Receiver() as receiver:
        report = doctor.examine({"endpoint": receiver.url}, {variable: "base2_exponential_bucket_histogram"})
    assert _finding(report, variable).verdict == "warning"
    assert 'le="0.08"' in _finding(report, variable).message


def test_delta_to_prometheus_fails() -> None:
    """Prometheus refuses delta sums: the doctor does not wait for the data to be lost."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    with Receiver() as receiver:
        report = doctor.examine({"backend": "prometheus", "endpoint": receiver.url}, {variable: "delta"})
    assert _finding(report, variable).verdict == "failed"


def test_a_disabled_sdk_is_found() -> None:
    """OTEL_SDK_DISABLED explains why nothing is seen."""
    assert _finding(doctor.examine({}, {"OTEL_SDK_DISABLED": "true"}), "OTEL_SDK_DISABLED").verdict == "failed"


def test_no_secret_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Header values and the credentials of a URL are in nothing the doctor prints."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer s3cret,x-key=s3cret")
    with Receiver(401) as receiver:
        url = receiver.url.replace("http://", "http://user:s3cret@")
        assert cli.main(["doctor", "--backend", "jaeger", "--endpoint", url]) == 1
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err
    assert "check the value of authorization, x-key" in printed.out


def _answers(head: bytes, rest: bytes, gone: threading.Event) -> tuple[socket.socket, str]:
    """A server that sends ``head``, and then ``rest`` again and again, until the other side hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(head)
                while rest:
                    connection.sendall(rest)
                    if len(rest) == 1 and gone.wait(0.05):
                        break
            except OSError:
                pass
            gone.set()

    threading.Thread(target=serve, daemon=True).start()
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("head", "rest", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, "longer than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x", "no answer within 0.5 s"),
        (b"HTTP/1.1 200 O", b"K", "no answer within 0.5 s"),
    ],
)
def test_an_answer_without_end_holds_nobody(head: bytes, rest: bytes, said: str) -> None:
    """A body that never ends is read no further than 64 KiB, and one that drips in no longer than the timeout."""
    gone = threading.Event()
    listening, url = _answers(head, rest, gone)
    with listening:
        report = doctor.examine({"traces_endpoint": url, "timeout": 0.5}, {})
        assert said in _finding(report, "traces").message
        if len(rest) > 1:
            assert gone.wait(30), "the doctor hangs up"
        gone.set()


def test_an_answer_that_quotes_the_token_is_shown_without_it() -> None:
    """A reason phrase with the token in it, and at the place where it is cut, shows no part of the token."""
    phrase = b"x" * 190 + b" s3cret-token"
    listening, url = _answers(b"HTTP/1.1 500 " + phrase + b"\r\ncontent-length: 0\r\n\r\n", b"", threading.Event())
    with listening:
        headers = {"authorization": "Bearer s3cret-token"}
        report = doctor.examine({"traces_endpoint": url, "headers": headers}, {})
    assert "xxx ***" in _finding(report, "traces").message
    assert "s3c" not in _finding(report, "traces").message


def test_the_command_prints_versions_and_findings(tmp_path: Path) -> None:
    """In a process of its own: versions, integrations, one line a signal, exit code 0; ASCII where it must be."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_mlobs", "doctor", "--service-name", "shop", "--backend", "file",
         "--path", str(tmp_path / "out.jsonl")],
        capture_output=True, text=True, check=True, env={**CLEAN, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert "opentelemetry-sdk" in done.stdout
    assert "integration flask" in done.stdout
    assert "ok traces" in done.stdout
    assert done.stdout.isascii()


class _Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        page = b"<!doctype html><title>Jaeger UI</title>"
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None: ...


def test_a_web_page_is_no_receiver(tmp_path: Path) -> None:
    """Jaeger's pages answer every request with 200: neither the doctor nor replay take that for an arrival."""
    path = tmp_path / "out.jsonl"
    run(f"""
        mlobs.configure("shop", backend="file", path={str(path)!r})
        with mlobs.ranking(model="ltr"):
            pass
        mlobs.shutdown()
        """)
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        finding = _finding(doctor.examine({"backend": "jaeger", "endpoint": url}, {}), "traces")
        result = replay(path, url)
        server.shutdown()
    assert finding.verdict == "failed"
    assert "a web page answered" in finding.message
    assert not result.sent
    assert "a web page answered" in (result.stopped or "")
