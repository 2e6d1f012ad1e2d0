"""See what your code emits: in-memory spans, metrics and logs, added to whatever providers exist.

In pytest, take the fixture ``mlobs_telemetry``; elsewhere ``with otel_mlobs.testing.capture() as telemetry``.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from otel_mlobs.telemetry import collected, guard, instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import Metric, NumberDataPoint

    DataPoint = Any

__all__ = ["Telemetry", "capture", "deterministic_ids", "strict"]


class Telemetry:
    """What was emitted while :func:`capture` was open; readable inside the block and after it."""

    def __init__(self, collect: Callable[[], list[Metric]], logs: InMemoryLogRecordExporter) -> None:
        self._spans: list[ReadableSpan] = []
        self._collect = collect
        self._logs = logs
        self._metrics: list[Metric] | None = None

    @property
    def spans(self) -> list[ReadableSpan]:
        """The ended spans, in the order in which they ended."""
        return list(self._spans)

    @property
    def metrics(self) -> dict[str, list[DataPoint]]:
        """Metric name → its data points, cumulative since the capture began."""
        found = self._metrics if self._metrics is not None else self._collect()
        points: dict[str, list[Any]] = {}
        for metric in found:
            points.setdefault(metric.name, []).extend(metric.data.data_points)
        return points

    @property
    def logs(self) -> list[ReadableLogRecord]:
        """The log records, in order."""
        return list(self._logs.get_finished_logs())

    def span(self, name: str) -> ReadableSpan:
        """The one span called ``name``; raises ``LookupError`` when there is none or more than one."""
        found = [span for span in self._spans if span.name == name]
        if len(found) != 1:
            names = ", ".join(repr(span.name) for span in self._spans) or "none"
            raise LookupError(f"{len(found)} spans are called {name!r}; the spans are: {names}")
        return found[0]

    def children(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """The spans directly beneath ``parent``, in the order in which they started."""
        context = parent.context
        found = [span for span in self._spans if span.parent and context and span.parent.span_id == context.span_id]
        return sorted(found, key=lambda span: span.start_time or 0)

    def point(self, metric: str, **attributes: object) -> NumberDataPoint | Any:
        """The one data point of ``metric`` whose attributes include ``attributes``, dots written as two underscores.

        As in ``point("mlobs.operation.errors", mlobs__model__name="churn")``; raises ``LookupError`` otherwise.
        """
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        found = [
            point for point in self.metrics.get(metric, []) if wanted.items() <= dict(point.attributes or {}).items()
        ]
        if len(found) != 1:
            there = [dict(point.attributes or {}) for point in self.metrics.get(metric, [])]
            rest = f"its points have: {there}" if there else f"the metrics are: {', '.join(self.metrics) or 'none'}"
            raise LookupError(f"{len(found)} points of {metric!r} have {wanted!r}; {rest}")
        return found[0]

    def clear(self) -> None:
        """Forget the spans and logs so far."""
        self._spans.clear()
        self._logs.clear()


class _Tap(SpanProcessor):
    """One per tracer provider, for good: processors cannot be removed, so captures join and leave this one."""

    def __init__(self) -> None:
        self._captures: tuple[Telemetry, ...] = ()

    def on_end(self, span: ReadableSpan) -> None:
        for telemetry in self._captures:
            telemetry._spans.append(span)

    def join(self, telemetry: Telemetry) -> None:
        with _lock:
            self._captures = (*self._captures, telemetry)

    def leave(self, telemetry: Telemetry) -> None:
        with _lock:
            self._captures = tuple(other for other in self._captures if other is not telemetry)


class _LogTap(LogRecordExporter):
    """The same for logs."""

    def __init__(self) -> None:
        self._captures: tuple[InMemoryLogRecordExporter, ...] = ()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        for logs in self._captures:
            logs.export(batch)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the interface's
        return True

    def shutdown(self) -> None: ...

    def join(self, logs: InMemoryLogRecordExporter) -> None:
        with _lock:
            self._captures = (*self._captures, logs)

    def leave(self, logs: InMemoryLogRecordExporter) -> None:
        with _lock:
            self._captures = tuple(other for other in self._captures if other is not logs)


class _Ids(IdGenerator):
    """Random ids, or counted ones while somebody asks for them."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.counter: Iterator[int] | None = None

    def generate_span_id(self) -> int:
        return next(self.counter) if self.counter else self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        return next(self.counter) if self.counter else self._random.generate_trace_id()


_lock = threading.Lock()
_taps: dict[int, tuple[Any, _Tap]] = {}
_log_taps: dict[int, tuple[Any, _LogTap]] = {}
_ids = _Ids()


@contextmanager
def capture() -> Iterator[Telemetry]:
    """Capture spans, metrics and logs of this process while the block runs.

    Providers that exist are added to and left in place; where there is none, one that sends nothing is set, as
    OpenTelemetry allows once per process. Captures nest. Raises ``TypeError`` where a provider is not the SDK's and
    can take no processor.
    """
    tap = _tap_of(_tracer_provider())
    meters = _meter_provider()
    reader = InMemoryMetricReader()
    meters.add_metric_reader(reader)
    logs: Any = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    log_tap = _log_tap_of(_logger_provider())
    log_tap.join(logs)

    def collect() -> list[Metric]:
        instruments.operation_errors.settle()
        return [_since(metric, before) for metric in _metrics_of(reader)]

    before = _counts_of_views()
    instruments.announce_again()
    telemetry = Telemetry(collect, logs)
    tap.join(telemetry)
    try:
        yield telemetry
    finally:
        tap.leave(telemetry)
        telemetry._metrics = collect()
        meters.remove_metric_reader(reader)
        log_tap.leave(logs)


def _metrics_of(reader: InMemoryMetricReader) -> list[Metric]:
    data = reader.get_metrics_data()
    return [
        metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


_Counts = dict[tuple[str, frozenset[tuple[str, Any]]], float]
_OF_VIEWS = frozenset(metric.name for metric in collected.VIEW_COUNTERS)


def _counts_of_views() -> _Counts:
    """What feature views have counted: they are the process's, and older than this capture."""
    return {(name, frozenset(labels.items())): value for name, value, labels in collected.counted("views")}


def _since(metric: Metric, before: _Counts) -> Metric:
    if metric.name not in _OF_VIEWS:
        return metric
    data: Any = metric.data
    points = [
        replace(point, value=point.value - before.get((metric.name, frozenset((point.attributes or {}).items())), 0))
        for point in data.data_points
    ]
    return replace(metric, data=replace(data, data_points=points))


@contextmanager
def deterministic_ids(start: int = 1) -> Iterator[None]:
    """Give spans and traces the ids ``start``, ``start + 1``, … while the block runs, for output to compare.

    Works where :func:`capture` set the tracer provider; raises ``RuntimeError`` where another one was there before.
    """
    provider = _tracer_provider()
    generator: IdGenerator = provider.id_generator
    if generator is not _ids:
        raise RuntimeError("the tracer provider was set elsewhere: give it an IdGenerator there")
    _ids.counter = itertools.count(start)
    try:
        yield
    finally:
        _ids.counter = None


@contextmanager
def strict() -> Iterator[None]:
    """Let this library's own errors be raised instead of counted while the block runs."""
    guard.set_strict(True)
    try:
        yield
    finally:
        guard.set_strict(False)


def _tracer_provider() -> TracerProvider:
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        from otel_mlobs.telemetry.spans import OwnTracerProvider

        provider = OwnTracerProvider(id_generator=_ids, shutdown_on_exit=False)
        trace.set_tracer_provider(provider)
    if not isinstance(provider, TracerProvider):
        raise TypeError(f"spans can be captured from the SDK's tracer provider, got {provider!r}")
    return provider


def _meter_provider() -> MeterProvider:
    provider = metrics.get_meter_provider()
    if type(provider).__name__ == "_ProxyMeterProvider":
        provider = MeterProvider(shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
    if not isinstance(provider, MeterProvider):
        raise TypeError(f"metrics can be captured from the SDK's meter provider, got {provider!r}")
    return provider


def _logger_provider() -> LoggerProvider:
    provider = get_logger_provider()
    if type(provider).__name__ == "ProxyLoggerProvider":
        provider = LoggerProvider(shutdown_on_exit=False)
        set_logger_provider(provider)
    if not isinstance(provider, LoggerProvider):
        raise TypeError(f"logs can be captured from the SDK's logger provider, got {provider!r}")
    return provider


def _tap_of(provider: TracerProvider) -> _Tap:
    with _lock:
        known = _taps.get(id(provider))
        if known is None:
            known = (provider, _Tap())
            provider.add_span_processor(known[1])
            _taps[id(provider)] = known
    return known[1]


def _log_tap_of(provider: LoggerProvider) -> _LogTap:
    with _lock:
        known = _log_taps.get(id(provider))
        if known is None:
            known = (provider, _LogTap())
            provider.add_log_record_processor(SimpleLogRecordProcessor(known[1]))
            _log_taps[id(provider)] = known
    return known[1]
