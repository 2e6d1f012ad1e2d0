"""The spans of operations are, for every backend, the spans that the SDK would have made."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from receiver import Receiver, run

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import instruments
from otel_mlobs.telemetry.spans import OperationSpan, OwnTracerProvider

ATTRIBUTES = {"mlobs.operation.name": "ranking", "mlobs.ranking.input.count": 3, "score": 0.5, "sampled": True}
REMOTE = SpanContext(77, 88, True, TraceFlags(1), TraceState([("vendor", "x")]))
REMOTE_NOT_SAMPLED = SpanContext(77, 88, True, TraceFlags(0))


class _Counted(IdGenerator):
    def __init__(self) -> None:
        self._next = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._next)

    def generate_trace_id(self) -> int:
        return next(self._next) << 64

    def is_trace_id_random(self) -> bool:
        return True


class _RecordOnly(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY, {"by": "sampler"}, TraceState([("k", "v")]))

    def get_description(self) -> str:
        return "record only"


def _start(provider: TracerProvider, parent: SpanContext | None) -> Any:
    context = (
        trace.set_span_in_context(NonRecordingSpan(parent)) if parent else trace.set_span_in_context(trace.INVALID_SPAN)
    )
    arguments = ("ranking ltr", context, SpanKind.INTERNAL, dict(ATTRIBUTES), None, None, False, False)
    if isinstance(provider, OwnTracerProvider):
        return provider.start_operation_span(*arguments)
    tracer = provider.get_tracer(instruments.SCOPE, __version__, schema_url=semconv.SCHEMA_URL)
    return tracer.start_span(*arguments)


def _provider(kind: type[TracerProvider], sampler: Sampler) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = kind(
        sampler=sampler, id_generator=_Counted(), resource=Resource({"service.name": "shop"}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def _nothing(_: Any) -> None: ...


def _attributes(span: Any) -> None:
    span.set_attribute("a", [1, 2])
    span.set_attributes({"b": "x", "c": None, "d": {"e": 1.5}, "score": 0.75})
    span.set_attribute("odd", object)


def _many_attributes(span: Any) -> None:
    for number in range(100):
        span.set_attribute(f"k{number}", number)


def _events(span: Any) -> None:
    span.add_event("first", {"n": 1}, timestamp=5)
    span.add_event("second", timestamp=6)
    span.add_link(REMOTE, {"why": "batch"})


def _failed(span: Any) -> None:
    span.set_status(StatusCode.ERROR, "ValueError")
    span.set_status(StatusCode.UNSET)


def _fine(span: Any) -> None:
    span.set_status(trace.Status(StatusCode.OK))
    span.set_status(StatusCode.ERROR, "too late")


def _renamed(span: Any) -> None:
    span.update_name("another")


def _exception(span: Any) -> None:
    span.record_exception(ValueError("text"), {"extra": 1}, timestamp=7)


@pytest.mark.parametrize(
    "write", [_nothing, _attributes, _many_attributes, _events, _failed, _fine, _renamed, _exception]
)
@pytest.mark.parametrize("parent", [None, REMOTE, REMOTE_NOT_SAMPLED])
@pytest.mark.parametrize("sampler", [ParentBased(ALWAYS_ON), ALWAYS_OFF, ParentBasedTraceIdRatio(0.5), _RecordOnly()])
def test_what_is_sent_is_what_the_sdk_sends(
    write: Callable[[Any], None], parent: SpanContext | None, sampler: Sampler
) -> None:
    """Encoded for OTLP, a span of ours and one of the SDK are equal to the last byte, times aside."""
    encoded = []
    for kind in (OwnTracerProvider, TracerProvider):
        provider, exporter = _provider(kind, sampler)
        span = _start(provider, parent)
        recording = span.is_recording()
        write(span)
        span.end(9)
        span.end(10)
        assert not span.is_recording() or not recording
        request = encode_spans(exporter.get_finished_spans())
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for sent in scope.spans:
                    assert sent.end_time_unix_nano == 9
                    sent.start_time_unix_nano = 0
        encoded.append((recording, span.get_span_context(), request))
    assert encoded[0] == encoded[1]


def test_too_many_attributes_are_counted_as_dropped() -> None:
    """The 129th attribute is dropped and counted; memory stays bounded."""
    provider, exporter = _provider(OwnTracerProvider, ALWAYS_ON)
    span = _start(provider, None)
    for number in range(200):
        span.set_attribute(f"k{number}", number)
        span.add_event("e")
    span.end()
    (ended,) = exporter.get_finished_spans()
    assert len(ended.attributes or {}) == 128
    assert ended.dropped_attributes == 200 + len(ATTRIBUTES) - 128
    assert (len(ended.events), ended.dropped_events) == (128, 72)


def test_an_ended_span_takes_nothing() -> None:
    """What comes after the end changes nothing of what was exported."""
    provider, exporter = _provider(OwnTracerProvider, ALWAYS_ON)
    span = _start(provider, None)
    span.end()
    before = span.to_json()
    _attributes(span), _events(span), _failed(span), _renamed(span)
    assert span.to_json() == before
    assert len(exporter.get_finished_spans()) == 1


def test_processors_see_start_and_end() -> None:
    """A processor that somebody adds, as the one for baggage, may write to the span when it starts."""

    class Baggage(SpanProcessor):
        def on_start(self, span: Span, parent_context: Any = None) -> None:
            span.set_attribute("tenant", "a")

        def on_end(self, span: ReadableSpan) -> None:
            seen.append(span)

    seen: list[ReadableSpan] = []
    provider, _ = _provider(OwnTracerProvider, ALWAYS_ON)
    provider.add_span_processor(Baggage())
    _start(provider, None).end()
    assert [dict(span.attributes or {})["tenant"] for span in seen] == ["a"]
    assert isinstance(seen[0], OperationSpan)


def test_json_is_the_sdks() -> None:
    """to_json, which console exporters print, has the SDK's form."""
    texts = []
    for kind in (OwnTracerProvider, TracerProvider):
        provider, exporter = _provider(kind, ALWAYS_ON)
        span = _start(provider, REMOTE)
        _events(span)
        span.end()
        (ended,) = exporter.get_finished_spans()
        texts.append([line for line in ended.to_json().splitlines() if "_time" not in line])
    assert texts[0] == texts[1]


def test_limits_set_by_variables_are_the_sdks_to_keep() -> None:
    """With OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT set, the SDK's span is used and the limit holds."""
    with Receiver() as receiver:
        run(
            f"""
            mlobs.configure("shop", traces_endpoint={receiver.url!r})
            with mlobs.ranking(model="ltr") as op:
                for number in range(20):
                    op.set_attribute(f"k{{number}}", number)
            mlobs.shutdown()
            """,
            env={"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "5"},
        )
        (span,) = receiver.spans()
    assert len(span.attributes) == 5
    assert span.dropped_attributes_count == 17
