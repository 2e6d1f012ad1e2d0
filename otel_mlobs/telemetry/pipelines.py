"""Exporters and readers that survive forks and dead backends.

An exporter is built when a process first exports, so that no connection is shared with a parent. A backend that does
not answer is one clear line at once and one a minute after that, with what to do, instead of a traceback per batch.
Metrics are collected by an SDK reader and sent by a thread of our own: a fork waits for a collection, never for a
send, and the child begins from zero with a reader of its own.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry.context import create_key
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_mlobs.telemetry import guard, instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_mlobs.settings import Pipeline

_logger = logging.getLogger("otel_mlobs")

_WARN_EVERY_S = 60.0
_EXPORTERS_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.common.http",
)


class _Reasons(logging.Filter):
    """Keeps what OTLP exporters log while one of ours sends, so that one line can say it; others' pass through."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        lines: list[str] | None = getattr(self._local, "lines", None)
        if lines is None:
            return True
        lines.append(record.getMessage())
        return False

    def start(self) -> list[str]:
        lines: list[str] = []
        self._local.lines = lines
        for name in _EXPORTERS_LOGGERS:
            logger = logging.getLogger(name)
            if self not in logger.filters:
                logger.addFilter(self)
        return lines

    def stop(self) -> None:
        self._local.lines = None


_reasons = _Reasons()


class Outage:
    """Says that a destination does not take what it is sent: at once, then once a minute, then that it is back."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._said_at: float | None = None
        self._lost = 0

    def failed(self, reason: str) -> None:
        """Count a lost batch and, when it is time, say so."""
        self._lost += 1
        now = time.monotonic()
        if self._said_at is not None and now - self._said_at < _WARN_EVERY_S:
            return
        again = f" ({self._lost} batches lost so far)" if self._said_at is not None else ""
        self._said_at = now
        _logger.warning(
            "%s are not reaching %s: %s%s; the application is not affected. `otel-mlobs doctor` says more",
            self._pipeline.signal,
            self._pipeline.shown,
            reason,
            again,
        )

    def succeeded(self) -> None:
        """Say that the destination takes data again, after it did not."""
        if self._said_at is not None and self._lost:
            _logger.warning("%s reach %s again, %s batches were lost", self._pipeline.signal, self._pipeline.shown,
                            self._lost)  # fmt: skip
        self._said_at, self._lost = None, 0

    def start_afresh(self) -> None:
        """Forget the parent's outage: it speaks for itself."""
        self._said_at, self._lost = None, 0

    @property
    def ongoing(self) -> bool:
        """Whether the last that is known of the destination is that it does not answer."""
        return self._said_at is not None

    def probe(self) -> None:
        """Look, off the caller's thread, whether anything listens there, so that the first line comes at the start."""
        threading.Thread(target=self._probe, name="otel_mlobs-probe", daemon=True).start()

    def _probe(self) -> None:
        parts = urlsplit(self._pipeline.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=3.0):
                return
        except OSError as error:
            self.failed(explain(error))


def explain(error: BaseException) -> str:
    """The reason of a failed connection in a few words."""
    if isinstance(error, socket.gaierror):
        return "its host name is not known (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused, nothing listens there"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"


_MARKS = (
    ("Connection refused", "connection refused, nothing listens there"),
    ("connection refused", "connection refused, nothing listens there"),
    ("NameResolutionError", "its host name is not known (DNS)"),
    ("Name or service not known", "its host name is not known (DNS)"),
    ("CERTIFICATE_VERIFY_FAILED", "its TLS certificate is not trusted"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS: http:// instead of https://?"),
    ("timed out", "no answer in time"),
    ("UNIMPLEMENTED", "it does not take this signal (UNIMPLEMENTED)"),
    ("UNAUTHENTICATED", "it wants credentials (UNAUTHENTICATED)"),
    ("code: 401", "it wants credentials (401)"),
    ("code: 403", "the credentials are not enough (403)"),
    ("code: 404", "it does not take this signal at this path (404)"),
)


def _reason(lines: Sequence[str]) -> str:
    """What the exporter's own log lines come down to."""
    text = " | ".join(lines)
    for mark, meaning in _MARKS:
        if mark in text:
            return meaning
    return (lines[-1] if lines else "the exporter gave no reason")[:200]


class PerProcess:
    """An exporter made anew in each process that uses it, whose failures are said by an :class:`Outage`."""

    def __init__(self, make: Callable[[], Any], outage: Outage | None) -> None:
        self._make = make
        self._outage = outage
        self._exporter: Any = None
        self._pid = -1
        self._stopped = False
        self.last_taken = True

    @property
    def is_down(self) -> bool:
        """Whether the destination is known not to answer."""
        return self._outage is not None and self._outage.ongoing

    def get(self) -> Any:
        """This process's exporter."""
        if self._pid != os.getpid():
            if self._outage is not None and self._pid != -1:
                self._outage.start_afresh()
            self._exporter = self._make()
            self._pid = os.getpid()
        return self._exporter

    def send(self, data: Any, success: object) -> bool:
        """Export ``data``; true when the exporter answered ``success``."""
        lines = _reasons.start()
        try:
            taken = self.get().export(data) is success
        except Exception as error:  # noqa: BLE001 - an exporter that raises is one more outage
            taken = False
            lines.append(f"{type(error).__name__}: {error}")
        finally:
            _reasons.stop()
        self.last_taken = taken
        if self._outage is not None:
            if taken:
                self._outage.succeeded()
            elif not self._stopped:
                self._outage.failed(_reason(lines))
        return taken

    def stop(self) -> None:
        """Shut this process's exporter down, if it has one; a batch that is being retried is given up."""
        if self._pid == os.getpid() and not self._stopped:
            self._stopped = True
            _reasons.start()
            try:
                self._exporter.shutdown()
            finally:
                _reasons.stop()


class Spans(SpanExporter):
    """A :class:`PerProcess` exporter where the SDK expects a span exporter."""

    def __init__(self, exporter: PerProcess) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``."""
        taken = self._exporter.send(spans, SpanExportResult.SUCCESS)
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop this process's exporter."""
        self._exporter.stop()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush this process's exporter."""
        return bool(self._exporter.get().force_flush(timeout_millis))


class Logs(LogRecordExporter):
    """A :class:`PerProcess` exporter where the SDK expects a log exporter."""

    def __init__(self, exporter: PerProcess) -> None:
        self._exporter = exporter

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Send ``batch``."""
        taken = self._exporter.send(batch, LogRecordExportResult.SUCCESS)
        return LogRecordExportResult.SUCCESS if taken else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop this process's exporter."""
        self._exporter.stop()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush this process's exporter."""
        return bool(self._exporter.get().force_flush(timeout_millis))


class _Reader(InMemoryMetricReader):
    """Collects on request; a provider's ``force_flush`` reaches the pipeline through it."""

    def __init__(self, pipeline: MetricPipeline, exporter: MetricExporter) -> None:
        super().__init__(
            preferred_temporality=getattr(exporter, "_preferred_temporality", None),
            preferred_aggregation=getattr(exporter, "_preferred_aggregation", None),
        )
        self._pipeline = pipeline

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._pipeline.send_now(timeout_millis / 1000.0)


class MetricPipeline:
    """Collects every ``interval`` seconds and sends; exact in parent and child across a fork.

    The collecting lock is held for a collection, never for a send, and a fork takes it first: no child ever inherits
    a lock of the SDK that a collecting thread held. The child gets a new reader, whose sums start at zero.
    """

    def __init__(self, make: Callable[[], MetricExporter], outage: Outage | None, interval: float) -> None:
        self.exporter = PerProcess(make, outage)
        self._interval = interval
        self._provider: MeterProvider | None = None
        self.reader = _Reader(self, self.exporter.get())
        self._collecting = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False

    def start(self, provider: MeterProvider) -> None:
        """Send what ``provider``'s instruments measure, from now on."""
        self._provider = provider
        instruments.operation_errors.hold_until_collected(True)
        self._start_thread()

    def _start_thread(self) -> None:
        threading.Thread(target=self._run, name="otel_mlobs-metrics", daemon=True).start()

    def _run(self) -> None:
        wake = self._wake
        while not wake.wait(self._interval):
            self.send_now()

    def send_now(self, timeout: float | None = None) -> bool:
        """Collect and send once; false when the exporter refused or another send did not end within ``timeout``."""
        if not self._sending.acquire(timeout=-1 if timeout is None else timeout):
            return False
        token = otel_context.attach(otel_context.set_value(_SUPPRESS_KEY, True))
        try:
            with self._collecting:
                data = self.reader.get_metrics_data()
                instruments.operation_errors.settle()
            return data is None or self.exporter.send(data, MetricExportResult.SUCCESS)
        except Exception as error:  # noqa: BLE001 - one collection is lost, the thread goes on
            guard.report("metrics", error)
            return False
        finally:
            otel_context.detach(token)
            self._sending.release()

    def stop(self) -> bool:
        """Send what is left, twice where errors waited for their zero, and stop the exporter."""
        self._stopped = True
        self._wake.set()
        held = instruments.operation_errors.holding_back()
        sent = self.send_now()
        if held:
            sent = self.send_now() and sent
        instruments.operation_errors.hold_until_collected(False)
        self.exporter.stop()
        return sent

    def before_fork(self) -> None:
        """Wait until no collection is under way."""
        self._collecting.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._collecting.release()

    def after_fork_in_child(self) -> None:
        """Begin from zero, with locks, a thread and an exporter of this process."""
        self._collecting = threading.Lock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        if self._provider is None or self._stopped:
            return
        inherited = self.reader
        self.reader = _Reader(self, self.exporter.get())
        self._provider.add_metric_reader(self.reader)
        self._provider.remove_metric_reader(inherited)
        self._start_thread()


_SUPPRESS_KEY = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", create_key("suppress_instrumentation"))


def otlp_exporter(pipeline: Pipeline) -> Any:
    """The SDK's OTLP exporter for ``pipeline``; nothing is left to the environment that the settings resolved."""
    if pipeline.protocol == "grpc":
        return _grpc_exporter(pipeline)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    kinds: dict[str, Callable[..., Any]] = {
        "traces": OTLPSpanExporter,
        "metrics": OTLPMetricExporter,
        "logs": OTLPLogExporter,
    }
    return kinds[pipeline.signal](
        endpoint=pipeline.url,
        headers=dict(pipeline.headers),
        timeout=pipeline.timeout,
        compression=Compression(pipeline.compression),
        certificate_file=pipeline.certificate,
        client_certificate_file=pipeline.client_certificate,
        client_key_file=pipeline.client_key,
    )


def _grpc_exporter(pipeline: Pipeline) -> Any:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    kinds: dict[str, Callable[..., Any]] = {
        "traces": OTLPSpanExporter,
        "metrics": OTLPMetricExporter,
        "logs": OTLPLogExporter,
    }
    credentials = grpc_credentials(pipeline)
    compression = grpc.Compression.Gzip if pipeline.compression == "gzip" else grpc.Compression.NoCompression
    return kinds[pipeline.signal](
        endpoint=pipeline.url,
        insecure=credentials is None,
        credentials=credentials,
        headers=tuple(pipeline.headers.items()),
        timeout=pipeline.timeout,
        compression=compression,
    )


def grpc_credentials(pipeline: Pipeline) -> Any:
    """The channel credentials for an ``https://`` endpoint, or None for a plain one."""
    import grpc

    if not pipeline.url.startswith("https://"):
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_bytes(pipeline.certificate),
        private_key=_bytes(pipeline.client_key),
        certificate_chain=_bytes(pipeline.client_certificate),
    )


def _bytes(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as handle:  # noqa: PTH123 - Path adds nothing to three words
        return handle.read()
