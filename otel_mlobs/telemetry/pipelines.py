"""Exporters and readers that survive forks and dead backends.

An exporter is built when a process first exports, so that no connection is shared with a parent. A backend that does
not answer is one clear line at once and one a minute after that, with what to do, instead of a traceback per batch.
Metrics are collected by an SDK reader and sent by a thread of our own: a fork waits for a collection, and for a send no
longer than it must, and the child begins from zero with a reader of its own.
"""

from __future__ import annotations

import inspect
import os
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry.context import create_key
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter, ObservableGauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_mlobs import semconv
from otel_mlobs.settings.backends import AWS_POINTS_PER_REQUEST
from otel_mlobs.telemetry import absolute, collected, guard, instruments, vendors
from otel_mlobs.telemetry.outage import reasons
from otel_mlobs.telemetry.readers import durations_for, wants_delta, with_histograms, without_first_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_mlobs.settings import Pipeline
    from otel_mlobs.telemetry.outage import Outage
    from otel_mlobs.telemetry.readers import OwnMeterProvider


_LONGEST_WAIT_OF_A_FORK_S = 1.0


class PerProcess:
    """An exporter made anew in each process that uses it, whose failures are said by an :class:`Outage`.

    A fork waits for the end of a send, for ``forks_wait`` seconds at most. ``requests`` imports a module in every
    request, and a child forked meanwhile would wait for ever for that import's lock; what takes longer waits for the
    network, where no lock is held. gRPC aborts or hangs in a child that was forked while a thread was in any call.
    """

    def __init__(self, make: Callable[[], Any], outage: Outage | None, *, forks_wait: float) -> None:
        self._make = make
        self._outage = outage
        self._forks_wait = forks_wait
        self._fork_holds = False
        self._make_locks()
        self._inherited: Any = None
        self._exporter: Any = None
        self._pid = -1
        self._stopped = False
        self.refused = 0

    @property
    def is_down(self) -> bool:
        """Whether the destination is known not to answer."""
        return self._outage is not None and self._outage.ongoing

    def get(self) -> Any:
        """This process's exporter."""
        if self._pid != os.getpid():
            self._inherited = self._exporter  # kept: to close a parent's connection in a child is not safe
            self._exporter = self._make()
            self._pid = os.getpid()
        return self._exporter

    def send(self, data: Any, success: object) -> bool:
        """Export ``data``; true when the exporter answered ``success``."""
        lines = reasons.start()
        try:
            with self._turnstile:  # so that a fork gets its turn between two sends
                self._calling.acquire()
            try:
                taken = self.get().export(data) is success
            finally:
                self._calling.release()
        except Exception as error:  # noqa: BLE001 - an exporter that raises is one more outage
            taken = False
            lines.append(f"{type(error).__name__}: {error}")
        finally:
            reasons.stop()
        if not taken:
            self.refused += 1
        if self._outage is not None:
            if taken:
                self._outage.succeeded()
            elif not self._stopped:
                self._outage.failed(lines)
        return taken

    def stop(self) -> None:
        """Shut this process's exporter down, if it has one; a batch that is being retried is given up."""
        if self._pid == os.getpid() and not self._stopped:
            self._stopped = True
            reasons.start()
            try:
                self._exporter.shutdown()
            finally:
                reasons.stop()

    def _make_locks(self) -> None:
        # Reentrant: behind the console's processor a finaliser or a signal handler may end a span within a send.
        self._turnstile = threading.RLock()
        self._calling = threading.RLock()

    def before_fork(self) -> None:
        """Let no send begin, and wait for the end of one that has."""
        self._turnstile.acquire()
        self._fork_holds = self._calling.acquire(timeout=self._forks_wait)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._fork_holds:
            self._calling.release()
        self._turnstile.release()

    def after_fork_in_child(self) -> None:
        """Go on with locks that nobody holds."""
        self._make_locks()


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


_MOST_SERIES = 1_000_000
"""Monitors bound their series themselves. From 1.45.2 on the SDK joins what is beyond 2,000 of one instrument."""
_LIMITS: dict[str, Any] = (
    {"cardinality_limits": {ObservableCounter: _MOST_SERIES, ObservableGauge: _MOST_SERIES}}
    if "cardinality_limits" in inspect.signature(InMemoryMetricReader.__init__).parameters
    else {}
)


class _Reader(InMemoryMetricReader):
    """Collects on request; a provider's ``force_flush`` reaches the pipeline through it."""

    def __init__(self, pipeline: MetricPipeline, temporality: Any, aggregation: Any) -> None:
        super().__init__(preferred_temporality=temporality, preferred_aggregation=aggregation, **_LIMITS)
        self._pipeline = pipeline

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._pipeline.send_now(timeout_millis / 1000.0)


class MetricPipeline:
    """Collects every ``interval`` seconds and sends; exact in parent and child across a fork.

    The collecting lock is held for a collection and a fork takes it first: no child ever inherits a lock of the SDK
    that a collecting thread held. The child gets a new reader, whose sums start at zero.
    """

    def __init__(self, exporter: PerProcess, interval: float) -> None:
        self.exporter = exporter
        self._interval = interval
        self._provider: OwnMeterProvider | None = None
        wants = self.exporter.get()
        self._wants = (
            getattr(wants, "_preferred_temporality", None),
            getattr(wants, "_preferred_aggregation", None),
        )
        self.reader = _Reader(self, *self._wants)
        self._collecting = threading.RLock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._finished = False
        self._delta = False
        self._seen: set[Any] = set()
        self._fork_holds = False

    def start(self, provider: OwnMeterProvider) -> None:
        """Send what ``provider``'s instruments measure, from now on."""
        self._provider = provider
        temporality, aggregation = self._wants
        self._delta = wants_delta(temporality)
        exemplars = os.environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based").strip().lower()
        instruments.count_durations(durations_for(aggregation, exemplars), sdk=False)
        instruments.operation_errors.hold_until_collected(True)
        collected.hold_until_collected(True)
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
            if self._finished:  # while this one waited for its turn
                return True
            with self._collecting:
                data = self._collect()
                instruments.operation_errors.settle()
                collected.settle()
            empty = data is None or not data.resource_metrics
            return empty or self.exporter.send(data, MetricExportResult.SUCCESS)
        except Exception as error:  # noqa: BLE001 - one collection is lost, the thread goes on
            guard.report("metrics", error)
            return False
        finally:
            otel_context.detach(token)
            self._sending.release()

    def _collect(self) -> MetricsData | None:
        # By this the process is known to be there, whatever it does or does not
        instruments.internal_errors().add(0, {semconv.INTERNAL_COMPONENT: "metrics"})
        if self._delta:
            instruments.operation_errors.repeat_zeros()
        data = self.reader.get_metrics_data()
        if self._delta:
            data = without_first_totals(data, absolute.totals, self._seen)
        histograms = instruments.own_histograms()
        if not histograms or self._provider is None:
            return data
        return with_histograms(data, histograms, delta=self._delta, resource=self._provider.resource)

    def stop(self) -> bool:
        """Send what is left, twice where errors waited for their zero, and stop the exporter."""
        self._stopped = True
        self._wake.set()
        held = instruments.operation_errors.holding_back() or collected.holding_back()
        sent = self.send_now()
        if held or collected.announcing():
            sent = self.send_now() and sent
        instruments.operation_errors.hold_until_collected(False)
        collected.hold_until_collected(False)
        with self._sending:
            self._finished = True
        self.exporter.stop()
        return sent

    def before_fork(self) -> None:
        """Wait until no collection is under way; an instrument's callback that hangs does not hold the fork."""
        self._fork_holds = self._collecting.acquire(timeout=_LONGEST_WAIT_OF_A_FORK_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._fork_holds:
            self._collecting.release()

    def after_fork_in_child(self) -> None:
        """Begin from zero, with locks, a thread and an exporter of this process."""
        self._collecting = threading.RLock()
        self._sending = threading.Lock()
        self._wake = threading.Event()
        if self._provider is None or self._stopped:
            return
        self.reader = _Reader(self, *self._wants)
        self._seen = set()
        self._provider.replace_own(self.reader)
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
    more = _of_metrics(pipeline)
    if pipeline.signed and pipeline.signal == "metrics":
        more["max_export_batch_size"] = AWS_POINTS_PER_REQUEST
    return kinds[pipeline.signal](
        endpoint=pipeline.url,
        headers=dict(pipeline.headers),
        timeout=pipeline.timeout,
        compression=Compression(pipeline.compression),
        certificate_file=pipeline.certificate,
        client_certificate_file=pipeline.client_certificate,
        client_key_file=pipeline.client_key,
        session=_session(pipeline),
        **more,
    )


def _of_metrics(pipeline: Pipeline) -> dict[str, Any]:
    """What only a metric exporter takes. Sums that may fall stay as they are: a backend adds no deltas of them up."""
    if not pipeline.delta:
        return {}
    delta = dict.fromkeys((Counter, ObservableCounter, Histogram), AggregationTemporality.DELTA)
    return {"preferred_temporality": delta}


def _session(pipeline: Pipeline) -> Any:
    """The session to send with, or None for the exporter's own."""
    session = _trusting_session() if pipeline.certificate else None
    if not pipeline.signed:
        return session
    signed = vendors.signed_session()
    if session is None:
        return signed
    session.auth = signed.auth
    return session


def _trusting_session() -> Any:
    """A session that trusts the certificate it is given.

    Of its own accord ``requests`` prefers ``REQUESTS_CA_BUNDLE``, meant for the rest of the application.
    """
    import requests

    class Session(requests.Session):
        def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
            return {**super().merge_environment_settings(*args, **kwargs), "verify": self.verify}

    return Session()


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
        **_of_metrics(pipeline),
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
