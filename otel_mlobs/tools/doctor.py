"""What stands between this machine and the backend: one span, one metric and one log are sent, and each answer read.

Nothing is printed here; the command line draws a :class:`Report`. Header values and credentials in URLs never enter it.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from otel_mlobs import settings as settings_room
from otel_mlobs.errors import ConfigurationError, MissingExtraError
from otel_mlobs.integrations import registry
from otel_mlobs.telemetry import pipelines, vendors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_mlobs.settings import Pipeline, Settings, Signal

Verdict = Literal["ok", "warning", "failed", "off"]

_LONGEST_INTERVAL_S = 30.0
_LONGEST_ANSWER = 64 * 1024
_PACKAGES = (
    "otel-mlobs", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp",
    "opentelemetry-instrumentation-flask", "opentelemetry-instrumentation-logging", "numpy", "wrapt", "nvidia-ml-py",
    "flask", "scikit-learn", "pyarrow", "gunicorn",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, how it stands, and, where it does not stand well, what to change."""

    subject: str
    verdict: Verdict
    message: str
    advice: str = ""


@dataclass
class Report:
    """All findings, in the order in which they should be read."""

    findings: list[Finding] = field(default_factory=list)
    packages: dict[str, str | None] = field(default_factory=dict)
    integrations: dict[str, bool] = field(default_factory=dict)
    python: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(finding.verdict != "failed" for finding in self.findings)


def examine(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Report:
    """Look at installation, settings and backend; ``arguments`` are those of :func:`otel_mlobs.configure`.

    What is wrong with the settings is a finding, not an exception.
    """
    environ = os.environ if environ is None else environ
    report = Report(python=platform.python_version())
    for name in _PACKAGES:
        try:
            report.packages[name] = version(name)
        except PackageNotFoundError:
            report.packages[name] = None
    for point in entry_points(group=registry.GROUP):
        report.integrations[point.name] = find_spec(point.name) is not None
    try:
        resolved = settings_room.resolve(arguments, environ)
        if not resolved.disabled:
            vendors.require(resolved)
    except (ConfigurationError, MissingExtraError) as error:
        report.findings.append(Finding("settings", "failed", str(error)))
        return report
    report.findings.extend(_settings_findings(resolved, environ))
    if not resolved.disabled:
        for signal in settings_room.SIGNALS:
            report.findings.append(_signal_finding(signal, resolved))
    return report


def _settings_findings(resolved: Settings, environ: Mapping[str, str]) -> list[Finding]:
    findings = []
    name = resolved.service_name or resolved.resource.get("service.name")
    if name:
        findings.append(Finding("service.name", "ok", str(name)))
    else:
        findings.append(
            Finding(
                "service.name",
                "warning",
                "not set: backends will show unknown_service",
                'configure("my-service") or OTEL_SERVICE_NAME=my-service',
            )
        )
    if resolved.disabled:
        findings.append(Finding("OTEL_SDK_DISABLED", "failed", "it is true: nothing is recorded or sent", "unset it"))
    findings.extend(Finding("settings", "warning", note) for note in resolved.notes)
    if resolved.pipeline("metrics") is not None:
        findings.extend(_metric_findings(resolved, environ))
    return findings


def _metric_findings(resolved: Settings, environ: Mapping[str, str]) -> list[Finding]:
    findings = []
    interval = resolved.metric_interval
    if interval > _LONGEST_INTERVAL_S:
        findings.append(
            Finding(
                "metric interval",
                "warning",
                f"metrics go out every {interval:g} s: a two-minute rate window holds too few points to alert on",
                f"metric_interval={settings_room.DEFAULT_METRIC_INTERVAL:g} (or OTEL_METRIC_EXPORT_INTERVAL=15000)",
            )
        )
    else:
        findings.append(Finding("metric interval", "ok", f"{interval:g} s"))
    histogram = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    if environ.get(histogram, "").strip().lower() == "base2_exponential_bucket_histogram":
        findings.append(
            Finding(
                histogram,
                "warning",
                f'exponential histograms have no bucket le="{resolved.latency_objective:g}": rules that read it see '
                "nothing",
                f"unset it, or use rules on native histograms (histogram_quantile over {'mlobs_operation_duration'})",
            )
        )
    temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    if environ.get(temporality, "").strip().lower() == "delta" and resolved.backend == "prometheus":
        findings.append(Finding(temporality, "failed", "Prometheus refuses delta sums, they would be lost", "unset it"))
    return findings


def _signal_finding(signal: Signal, resolved: Settings) -> Finding:
    pipeline = resolved.pipeline(signal)
    if pipeline is None:
        why = {
            "logs": "not asked for (logs=True)",
            "traces": f"backend {resolved.backend!r} takes none" if resolved.backend else "no endpoint given",
            "metrics": f"backend {resolved.backend!r} takes none" if resolved.backend else "no endpoint given",
        }[signal]
        if signal == "logs" and resolved.logs:
            why = f"backend {resolved.backend!r} takes none: ids are put on log records, nothing is sent"
        return Finding(signal, "off", why)
    if pipeline.exporter == "file":
        folder = os.path.dirname(pipeline.path or "") or "."  # noqa: PTH120 - a word for a word
        if os.access(folder, os.W_OK):
            return Finding(signal, "ok", f"to the file {pipeline.path}")
        return Finding(signal, "failed", f"{pipeline.path} cannot be written", "choose a folder you may write to")
    if pipeline.exporter == "console":
        return Finding(signal, "ok", "drawn on the console")
    return _send(pipeline, resolved)


def _send(pipeline: Pipeline, resolved: Settings) -> Finding:
    begun = time.perf_counter()
    request = _sample(pipeline.signal, resolved)
    answer = _send_grpc(pipeline, request) if pipeline.protocol == "grpc" else _send_http(pipeline, request)
    if answer is None:
        took = (time.perf_counter() - begun) * 1000
        what = {"traces": "one span", "metrics": "one metric", "logs": "one log record"}[pipeline.signal]
        return Finding(pipeline.signal, "ok", f"{what} arrived at {pipeline.shown} ({took:.0f} ms)")
    message, advice = answer
    return Finding(pipeline.signal, "failed", f"{pipeline.shown}: {message}", advice)


def _sample(signal: Signal, resolved: Settings) -> Any:
    """One span, one metric or one log record, as the request that carries it."""
    from otel_mlobs.telemetry.resource import make_resource

    resource = make_resource(resolved.service_name, {**resolved.resource, "mlobs.doctor": "true"})
    if signal == "traces":
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        spans = InMemorySpanExporter()
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(spans))
        provider.get_tracer("otel_mlobs.doctor").start_span("doctor").end()
        return encode_spans(spans.get_finished_spans())
    if signal == "metrics":
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        reader = InMemoryMetricReader()
        meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        meters.get_meter("otel_mlobs.doctor").create_counter("mlobs.doctor.checks", "{check}").add(1)
        data = reader.get_metrics_data()
        if data is None:
            raise RuntimeError("the SDK collected no metrics")
        return encode_metrics(data)
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    records: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(records))
    loggers.get_logger("otel_mlobs.doctor").emit(
        LogRecord(timestamp=time.time_ns(), severity_number=SeverityNumber.INFO, body="otel-mlobs doctor")
    )
    return encode_logs(records.get_finished_logs())


def _send_http(pipeline: Pipeline, request: Any) -> tuple[str, str] | None:
    """None if it arrived, else what failed and what to change."""
    import requests

    certificate: Any = pipeline.client_certificate
    if pipeline.client_key:
        certificate = (pipeline.client_certificate, pipeline.client_key)
    # The timeout of requests is one for each read, and what drips in never meets it.
    deadline = time.monotonic() + pipeline.timeout

    def ask() -> tuple[int, str, bytes]:
        with requests.post(
            pipeline.url,
            data=request.SerializeToString(),
            headers={**pipeline.headers, "Content-Type": "application/x-protobuf"},
            timeout=pipeline.timeout,
            verify=pipeline.certificate or True,
            cert=certificate,
            auth=vendors.signed_session().auth if pipeline.signed else None,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = b""
            for part in response.iter_content(1024):
                body += part
                # After the deadline nobody waits for this answer any more.
                if len(body) > _LONGEST_ANSWER or time.monotonic() > deadline:
                    break
            return response.status_code, response.reason or "", body

    answer: futures.Future[tuple[int, str, bytes]] = futures.Future()

    def settle() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            answer.set_exception(error)

    threading.Thread(target=settle, name="otel_mlobs-doctor", daemon=True).start()
    try:
        status, reason, body = answer.result(pipeline.timeout)
    except requests.exceptions.SSLError as error:
        return _tls(str(error))
    except (requests.exceptions.Timeout, futures.TimeoutError):
        return (
            f"no answer within {pipeline.timeout:g} s",
            "a firewall that drops packets, or a backend that hangs: try the same URL with curl from this machine",
        )
    except requests.exceptions.RequestException as error:
        return _no_connection(pipeline, str(error))
    if len(body) > _LONGEST_ANSWER:
        return f"its answer ({status}) is longer than 64 KiB", "no OTLP receiver answers so: check host, port and path"
    if 200 <= status < 300 and body.lstrip()[:1] == b"<":
        return (
            "a web page answered, no OTLP receiver",
            "4318 is the usual port of OTLP over HTTP; Jaeger's pages are on 16686, Grafana's on 3000",
        )
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"it redirects ({status}) to another address", "give the address it redirects to, often https://"
    if status == 404:
        return _not_taken(pipeline, "404 Not Found")
    if status in (401, 403):
        return (
            f"it refuses the credentials ({status})",
            "give headers={'authorization': …} or OTEL_EXPORTER_OTLP_HEADERS"
            if not pipeline.headers
            else f"check the value of {', '.join(pipeline.headers)}",
        )
    if status == 400 and b"TLS" in body[:200]:
        return "it wants TLS (400)", "write https:// instead of http://"
    if status in (405, 501):
        return _not_taken(pipeline, str(status))
    return f"it answered {status} {pipeline.hide(reason)}", "look into the backend's own log"


def _send_grpc(pipeline: Pipeline, request: Any) -> tuple[str, str] | None:
    import grpc
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

    stubs: dict[str, Any] = {"traces": TraceServiceStub, "metrics": MetricsServiceStub, "logs": LogsServiceStub}
    address, credentials = urlsplit(pipeline.url).netloc.rpartition("@")[2], pipelines.grpc_credentials(pipeline)
    opened = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with opened as channel:
        try:
            stubs[pipeline.signal](channel).Export(
                request, timeout=pipeline.timeout, metadata=tuple(pipeline.headers.items())
            )
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return _not_taken(pipeline, "UNIMPLEMENTED")
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return f"it refuses the credentials ({code.name})", "give headers={'authorization': …}"
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer within {pipeline.timeout:g} s", "is it the gRPC port (usually 4317)?"
            if any(mark in details for mark in ("certificate", "CERTIFICATE", "SSL", "Ssl", "TLS", "handshake")):
                return _tls(details)
            return _no_connection(pipeline, details)
    return None


def _not_taken(pipeline: Pipeline, answer: str) -> tuple[str, str]:
    if pipeline.signal == "traces":
        return f"no OTLP receiver is at this address ({answer})", "check host, port and path: usually port 4318"
    if "/api/v1/otlp" not in pipeline.url and urlsplit(pipeline.url).port == 9090:
        return (
            f"Prometheus takes OTLP at another path ({answer})",
            "add /api/v1/otlp to the endpoint, and start Prometheus with --web.enable-otlp-receiver",
        )
    return (
        f"it takes no {pipeline.signal} ({answer}), as Jaeger and Tempo do not",
        f"say backend='jaeger' or 'tempo', and {pipeline.signal}_endpoint= for what takes {pipeline.signal}",
    )


def _tls(details: str) -> tuple[str, str]:
    if "WRONG_VERSION_NUMBER" in details or "wrong version number" in details.lower():
        return "it does not speak TLS", "write http:// instead of https://"
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details.lower():
        return (
            "its TLS certificate is not trusted here",
            "give certificate=, the file of the authority that signed it (OTEL_EXPORTER_OTLP_CERTIFICATE)",
        )
    return "the TLS handshake failed", "check certificate=, client_certificate= and client_key="


def _no_connection(pipeline: Pipeline, details: str) -> tuple[str, str]:
    lowered = details.lower()
    marks = (
        "nameresolution",
        "name or service",
        "dns resolution",
        "domain name",
        "nodename",
        "lookup error",
        "temporary failure",
    )
    if any(mark in lowered for mark in marks):
        return "its host name is not known (DNS)", "check the name, and that this machine's network knows it"
    if "refused" in lowered:
        usual = 4317 if pipeline.protocol == "grpc" else 4318
        return "connection refused: nothing listens there", f"start the backend, or check the port (usually {usual})"
    if "unreachable" in lowered or "no route" in lowered:
        return "the network does not reach it", "check the address, routes and firewalls"
    return (
        "the connection broke off before an answer",
        "it may speak another protocol: http/protobuf is usually on 4318, gRPC on 4317",
    )
