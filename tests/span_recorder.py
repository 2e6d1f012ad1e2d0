"""Spans with fixed ids and times, made through the SDK, for the tests of the console backend."""

from __future__ import annotations

import io
from itertools import count
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator

from otel_mlobs.telemetry.console import ConsoleTreeExporter

MS = 1_000_000


class CountingIds(IdGenerator):
    """Counts ids up from 1."""

    def __init__(self) -> None:
        self._spans, self._traces = count(1), count(1)

    def generate_span_id(self) -> int:
        return next(self._spans)

    def generate_trace_id(self) -> int:
        return next(self._traces)


class Recorder:
    """Makes spans through the SDK, with times in milliseconds, and hands them to an exporter."""

    def __init__(self, exporter: ConsoleTreeExporter, *, batch: bool = False) -> None:
        self.provider = TracerProvider(
            resource=Resource({"service.name": "shop"}), id_generator=CountingIds(), shutdown_on_exit=False
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter) if batch else SimpleSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("test")

    def start(self, name: str, at: float, parent: trace.Span | None = None, **arguments: Any) -> Span:
        context = trace.set_span_in_context(parent) if parent is not None else None
        span = self.tracer.start_span(name, context, start_time=round(at * MS), **arguments)
        assert isinstance(span, Span)
        return span

    def span(self, name: str, start: float, end: float, parent: trace.Span | None = None, **arguments: Any) -> None:
        self.start(name, start, parent, **arguments).end(round(end * MS))


def drawn(exporter_arguments: dict[str, Any] | None = None) -> tuple[Recorder, io.StringIO]:
    """A recorder whose trees are drawn, without colours and 80 columns wide, into the stream beside it."""
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream, **{"color": False, "width": 80, **(exporter_arguments or {})})
    return Recorder(exporter), stream
