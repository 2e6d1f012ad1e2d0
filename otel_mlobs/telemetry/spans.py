"""The spans of operations, while the tracer provider is ours: what the SDK's span does, for what an operation needs.

The SDK's span cleans and copies its attributes under two locks, and is copied once more when it ends: creating and
ending it is three quarters of what a bare span costs (``benchmarks/overhead.py``). An operation's attributes are clean
when they come. Sampling, ids, processors, limits on the number of attributes and everything a backend sees are the
SDK's; with somebody else's provider, or where limits are set, so is the span.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Mapping, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import Event, ReadableSpan, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import failures, instruments

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource

_logger = logging.getLogger("otel_mlobs")

_MAX_ATTRIBUTES = 128  # the SDK's limit, where no variable sets another
_MAX_EVENTS = 128
_UNSET = Status(StatusCode.UNSET)
_FLAGS = tuple(TraceFlags(bits) for bits in range(4))
_SAMPLED, _RANDOM = 1, 2
_PLAIN = (str, int, float, bool)

_NEED_THE_SDKS_SPAN = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "OTEL_SDK_DISABLED",
)  # fmt: skip


class OperationSpan(ReadableSpan, Span):
    """One operation's span: written to while the operation runs, read by processors and exporters once it ended."""

    # Plain attributes in the place of ReadableSpan's properties; its constructor is not needed for them.
    name: str = ""
    context: SpanContext = trace.INVALID_SPAN_CONTEXT
    kind: SpanKind = SpanKind.INTERNAL
    parent: SpanContext | None = None
    start_time: int | None = None
    end_time: int | None = None
    status: Status = _UNSET
    attributes: dict[str, Any] = {}  # noqa: RUF012 - each span gets its own
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()
    resource: Any = None
    instrumentation_scope: InstrumentationScope | None = None
    instrumentation_info: Any = None
    dropped_attributes: int = 0
    dropped_events: int = 0
    dropped_links: int = 0

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        resource: Resource,
        scope: InstrumentationScope,
        processor: SynchronousMultiSpanProcessor,
    ) -> None:
        self.name = name
        self.context = context
        self.parent = parent
        self.attributes = attributes
        self.resource = resource
        self.instrumentation_scope = scope
        self._processor = processor
        self.start_time = time_ns()

    def __repr__(self) -> str:
        return f"OperationSpan(name={self.name!r}, context={self.context!r})"

    def get_span_context(self) -> SpanContext:
        """The span's identity."""
        return self.context

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self.end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; one over the SDK's limit of 128 is counted as dropped."""
        if self.end_time is not None:
            _logger.warning("an attribute was set on a span that has ended: %s", self.name)
            return
        attributes = self.attributes
        if key in attributes:
            del attributes[key]  # as the SDK does: what was set last is last
        elif len(attributes) >= _MAX_ATTRIBUTES:
            self.dropped_attributes += 1
            return
        attributes[key] = value if type(value) in _PLAIN else _clean(value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event, now or at ``timestamp`` (unix nanoseconds)."""
        if self.end_time is not None:
            _logger.warning("an event was added to a span that has ended: %s", self.name)
        elif len(self.events) < _MAX_EVENTS:
            cleaned = {key: _clean(value) for key, value in (attributes or {}).items()}
            self.events = (*self.events, Event(name, cleaned, timestamp))
        else:
            self.dropped_events += 1

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Link another span."""
        if self.end_time is None and context.is_valid:
            self.links = (*self.links, Link(context, dict(attributes or {})))

    def update_name(self, name: str) -> None:
        """Rename the span."""
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, as the specification has it."""
        if self.end_time is not None or self.status.status_code is StatusCode.OK:
            return
        new = status if isinstance(status, Status) else Status(status, description)
        if new.status_code is not StatusCode.UNSET:
            self.status = new

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Record an exception with its message: whoever calls this on the span itself has chosen to."""
        recorded = {
            semconv.EXCEPTION_TYPE: failures.type_name(exception),
            semconv.EXCEPTION_MESSAGE: failures.message(exception),
            semconv.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event(semconv.EXCEPTION_EVENT, {**recorded, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at ``end_time`` (unix nanoseconds), and hand it to the processors."""
        if self.end_time is not None:
            _logger.warning("a span was ended twice: %s", self.name)
            return
        self.end_time = time_ns() if end_time is None else end_time
        self._processor.on_end(self)

    def to_json(self, indent: int | None = 4) -> str:
        """The span as the SDK's own writes itself."""
        plain = ReadableSpan(
            name=self.name,
            context=self.context,
            parent=self.parent,
            resource=self.resource,
            attributes=self.attributes,
            events=self.events,
            links=self.links,
            kind=self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.instrumentation_scope,
        )
        text: str = plain.to_json(indent)
        return text


def _clean(value: Any) -> Any:
    """What the SDK makes of a value: sequences become tuples, what is no attribute value its text."""
    if value is None or isinstance(value, (str, int, float, bool, bytes)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return tuple(_clean(item) for item in value)
    return str(value)


class OwnTracerProvider(TracerProvider):
    """The SDK's tracer provider, which starts the spans of operations itself; all others are the SDK's."""

    def __init__(self, **options: Any) -> None:
        self._spans_processor: Any = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        super().__init__(active_span_processor=self._spans_processor, **options)
        self._operations_scope = InstrumentationScope(instruments.SCOPE, __version__, semconv.SCHEMA_URL)
        self.starts_operation_spans = not any(os.environ.get(name, "").strip() for name in _NEED_THE_SDKS_SPAN)

    def start_operation_span(
        self, name: str, context: Context, kind: SpanKind, attributes: Mapping[str, Any], *_: object
    ) -> Span:
        """Start a span as ``Tracer.start_span`` does: parent from ``context``, the provider's sampler and ids."""
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is not None and parent.is_valid:
            trace_id, random = parent.trace_id, parent.trace_flags & _RANDOM
        else:
            parent, trace_id = None, self.id_generator.generate_trace_id()
            random = _RANDOM if self.id_generator.is_trace_id_random() else 0
        sampled = self.sampler.should_sample(context, trace_id, name, kind, attributes, ())
        decision: Any = sampled.decision
        span_context = SpanContext(
            trace_id,
            self.id_generator.generate_span_id(),
            False,
            _FLAGS[random | (_SAMPLED if decision.is_sampled() else 0)],
            sampled.trace_state,
        )
        if not decision.is_recording():
            return NonRecordingSpan(span_context)
        span = OperationSpan(
            name,
            span_context,
            parent,
            dict(sampled.attributes),
            self.resource,
            self._operations_scope,
            self._spans_processor,
        )
        self._spans_processor.on_start(span, parent_context=context)
        return span
