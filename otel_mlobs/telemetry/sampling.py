"""Keep the traces that matter: those that failed, were slow, or hold an odd or drifting prediction, and a share of all.

A *local trace* is what one request does in this process: a span without a parent, or with a remote one, and all spans
beneath it. The sampler decides what can be known when it begins; for the others the processor holds the spans that
have ended until there is a reason, or until the local root ends without one.

How the spans of a local trace find each other: a sampler may give a span its trace state, and its children inherit it.
Ours is a :class:`LocalTrace`, which holds the spans and the decision. So there is no table by trace id to look into, to
bound and to clean up; two requests of one distributed trace in one process are two local traces; and a span that ends
after its local root, or after the trace was given up, still holds the decision in its hands.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from otel_mlobs import semconv
from otel_mlobs.telemetry import collected, guard, objectives
from otel_mlobs.telemetry.spans import OperationSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Link

    from otel_mlobs.settings import Settings

PARENT, RATIO, FAILED, SLOW, INPUT, DRIFT = "parent", "ratio", "failed", "slow", "input", "drift"
"""Why a trace is kept."""
ORDINARY, RATE_LIMIT, MEMORY, AGE, FLUSH = "ordinary", "rate_limit", "memory", "age", "flush"
"""Why a trace is dropped, beside the parent's word. The last three: it was decided before its local root ended."""

MAX_SPANS = 10_000
"""Spans of undecided traces that are held; about 1 kB each with five attributes."""
MAX_AGE_S = 30.0
"""How long the first span of an undecided trace is held."""
RATE = 1.0
"""Traces a second that are kept because of an odd input, and as many because of drift."""

_KEY, _VALUE = "mlobs", "undecided"
"""In the trace state of what is sent on: the caller has not said no, it does not know yet."""

_ODDITIES = (semconv.INPUT_OUT_OF_RANGE, semconv.INPUT_UNSEEN, semconv.INPUT_MISSING)


class LocalTrace(TraceState):
    """A local trace that was not decided when it began. Elsewhere, and once copied, it is a plain trace state."""

    def __init__(self, entries: Sequence[tuple[str, str]], began: float) -> None:
        super().__init__(entries)
        self.began = began
        self.kept: bool | None = None
        """The decision, written once; who reads anything but None may rely on ``reason``."""
        self.reason: str | None = None
        self.odd_input = self.drifts = False
        self.allowed_ns = 0.0
        """The longest objective that an operation in it has of its own."""
        self.spans: list[ReadableSpan] = []
        self.held_since = 0.0

    def __reduce__(self) -> tuple[type[TraceState], tuple[list[tuple[str, str]]]]:
        return TraceState, (list(self.items()),)


class Decisions(collected.Group):
    """``mlobs.sampling.traces``: decided local traces by decision and reason, all series there from the start."""

    _KEPT = (PARENT, RATIO, FAILED, SLOW, INPUT, DRIFT)
    _DROPPED = (PARENT, ORDINARY, RATE_LIMIT, MEMORY, AGE, FLUSH)

    def begin_at_zero(self) -> None:
        """Count from zero: what was counted before a fork is the parent's."""
        super().begin_at_zero()
        self._lock = threading.RLock()
        pairs = [("kept", reason) for reason in self._KEPT] + [("dropped", reason) for reason in self._DROPPED]
        self._counts = dict.fromkeys(pairs, 0)

    def add(self, kept: bool, reason: str) -> None:
        """Count one local trace."""
        with self._lock:
            self._counts["kept" if kept else "dropped", reason] += 1

    def points(self, _metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, dict[str, str]]]:
        """The counts with their labels."""
        for (decision, reason), count in self._counts.items():
            labels = {semconv.SAMPLING_DECISION: decision, semconv.SAMPLING_REASON: reason}
            yield (0 if zero else count), labels


class TailSampler(Sampler):
    """Decides at its beginning what can be known of a local trace, and lets the others be recorded.

    A caller who kept the trace is followed, one who dropped it too; where there is none, or one of ours who did not
    know yet, the trace id decides, as :class:`~opentelemetry.sdk.trace.sampling.TraceIdRatioBased` does. The rest is
    recorded without the sampled flag. ``ratio`` is from 0 to 1.
    """

    def __init__(self, ratio: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ratio = TraceIdRatioBased(ratio)
        self._bound, self._mask = self._ratio.bound, TraceIdRatioBased.TRACE_ID_LIMIT
        self._clock = clock
        self.decisions = Decisions()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,  # noqa: ARG002 - the interface's
        kind: SpanKind | None = None,  # noqa: ARG002 - the interface's
        attributes: Any = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002 - the interface's
        trace_state: TraceState | None = None,  # noqa: ARG002 - the interface's
    ) -> SamplingResult:
        """Decide for one span: by its local trace, or by its caller and the trace id where it is a local root."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if not parent.is_valid:
            return self._root(trace_id, attributes, None)
        state = parent.trace_state
        if not parent.is_remote:
            sampled = parent.trace_flags.sampled
            if type(state) is LocalTrace:
                if state.kept is None:
                    return SamplingResult(Decision.RECORD_ONLY, attributes, state)
                sampled = state.kept
        elif parent.trace_flags.sampled:
            self.decisions.add(True, PARENT)
            return _kept_from_the_start(attributes, PARENT, state)
        elif state.get(_KEY) == _VALUE:
            return self._root(trace_id, attributes, state)
        else:
            self.decisions.add(False, PARENT)
            sampled = False
        if sampled:
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)
        return SamplingResult(Decision.DROP, None, state)

    def _root(self, trace_id: int, attributes: Any, state: TraceState | None) -> SamplingResult:
        if trace_id & self._mask < self._bound:
            self.decisions.add(True, RATIO)
            return _kept_from_the_start(attributes, RATIO, state)
        entries = ((_KEY, _VALUE),) if state is None else tuple(state.items())
        return SamplingResult(Decision.RECORD_ONLY, attributes, LocalTrace(entries, self._clock()))

    def get_description(self) -> str:
        """What it is, with its ratio."""
        return f"TailSampler{{{self._ratio.rate}}}"


def sampler_of(settings: Settings) -> Sampler | None:
    """What the settings say; None where the SDK's variables do."""
    if settings.sampling_ratio is None:
        return None
    tail = settings.sampling == "tail"
    return TailSampler(settings.sampling_ratio) if tail else ParentBasedTraceIdRatio(settings.sampling_ratio)


def _kept_from_the_start(attributes: Any, reason: str, state: TraceState | None) -> SamplingResult:
    attributes = {**(attributes or {}), semconv.SAMPLING_REASON: reason}
    return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)


class _Bucket:
    """A token bucket: ``rate`` a second, and as many at once, at least one. The caller holds a lock."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._size = self._tokens = max(1.0, rate)
        self._filled = now

    def take(self, now: float) -> bool:
        self._tokens = min(self._size, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class TailProcessor(SpanProcessor):
    """Hands spans of kept traces to ``processor``, and holds those of undecided ones, ``max_spans`` at most.

    Every trace reaches ``processor`` whole or not at all, but for what the process does not end. ``slow`` is in
    seconds, for all that have no objective of their own. Nothing is raised into the application. The lock is held for a
    few lines, never while spans are handed on.
    """

    def __init__(
        self,
        processor: SpanProcessor,
        decisions: Decisions,
        *,
        slow: float,
        max_spans: int = MAX_SPANS,
        max_age: float = MAX_AGE_S,
        rate: float = RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processor = processor
        self._decisions = decisions
        self._slow = slow
        self._slow_ns = slow * 1e9
        self._max_spans = max_spans
        self._max_age = max_age
        self._clock = clock
        self._buckets = {reason: _Bucket(rate, clock()) for reason in (INPUT, DRIFT)}
        self._start_afresh()
        if hasattr(os, "register_at_fork"):
            itself = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _after_fork_in_child(itself()))

    def _start_afresh(self) -> None:
        # Reentrant: a finaliser or a signal handler may end a span while this thread holds the lock.
        self._lock = threading.RLock()
        self._undecided: OrderedDict[int, LocalTrace] = OrderedDict()
        self._held = 0

    def after_fork_in_child(self) -> None:
        """Hold nothing, with a lock that nobody holds: what was held is the parent's to send."""
        for local in self._undecided.values():
            local.spans = []
        self._start_afresh()

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span on, hold it, or let it go."""
        try:
            context: Any = span.context
            local = context.trace_state
            if type(local) is LocalTrace:
                self._take(local, span)
            else:
                self._processor.on_end(span)
        except Exception as error:  # noqa: BLE001 - the SDK's spans would raise it where the application ends them
            guard.report("sampling", error)

    def shutdown(self) -> None:
        """Decide what is undecided by what is known, and stop the processor beneath."""
        self._decide_all()
        self._processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Decide what is undecided by what is known, and send what is kept."""
        self._decide_all()
        return self._processor.force_flush(timeout_millis)

    def _take(self, local: LocalTrace, span: ReadableSpan) -> None:
        is_root = span.parent is None or span.parent.is_remote
        if local.kept is None:
            reason = self._reason(local, span, is_root)
            if reason is not None:
                self._decide(local, reason)
            elif is_root:
                self._decide_by_predictions(local)
            elif self._hold(local, span):
                return
        if local.kept:
            self._processor.on_end(_sampled(span, local.reason if is_root else None))

    def _reason(self, local: LocalTrace, span: ReadableSpan, is_root: bool) -> str | None:
        """Why the trace is kept at once, if it is; what a prediction says waits for the end of the local root."""
        attributes: Any = span.attributes
        operation = attributes.get(semconv.OPERATION_NAME)
        if is_root or operation is not None or span.kind is SpanKind.SERVER:
            error_type = attributes.get(semconv.ERROR_TYPE, semconv.CANCELLED)
            if span.status.status_code is StatusCode.ERROR or error_type != semconv.CANCELLED:
                return FAILED
            slow_ns = self._slow_ns_of(local, attributes)
            if operation is None:  # a request may take as long as what is in it
                slow_ns = max(slow_ns, local.allowed_ns)
            if (span.end_time or 0) - (span.start_time or 0) > slow_ns:
                return SLOW
        if operation == semconv.PREDICTION:
            if attributes.get(semconv.DRIFT_STATUS) == "drift":
                local.drifts = True
            for key in _ODDITIES:
                if attributes.get(key):
                    local.odd_input = True
        return None

    def _slow_ns_of(self, local: LocalTrace, attributes: Any) -> float:
        """How long is slow: by the objective of the view or model, where it has one of its own."""
        named = objectives.current()
        for own, key in ((named.views, semconv.FEATURE_VIEW_NAME), (named.models, semconv.MODEL_NAME)):
            if own:
                objective = own.get(attributes.get(key))
                if objective is not None:
                    found = objective.latency * 1e9
                    local.allowed_ns = max(local.allowed_ns, found)
                    return found
        return self._slow_ns

    def _decide_by_predictions(self, local: LocalTrace, otherwise: str | None = None) -> None:
        """Keep the trace for what its predictions say, as far as the rate allows, or drop it."""
        says = [reason for reason, so in ((INPUT, local.odd_input), (DRIFT, local.drifts)) if so]
        for reason in says:
            with self._lock:
                free = self._buckets[reason].take(self._clock())
            if free:
                self._decide(local, reason)
                return
        self._decide(local, None, RATE_LIMIT if says else otherwise or ORDINARY)

    def _decide(self, local: LocalTrace, reason: str | None, why_not: str = ORDINARY) -> None:
        """Keep the trace for ``reason``, or drop it; hand on what was held. A second decision changes nothing."""
        kept = reason is not None
        key = id(local)
        with self._lock:
            self._undecided.pop(key, None)
            if local.kept is not None:
                return
            local.reason = reason
            local.kept = kept
            spans, local.spans = local.spans, []
            number = len(spans)
            self._held -= number
        self._decisions.add(kept, reason or why_not)
        if kept:
            for span in spans:
                self._processor.on_end(_sampled(span, None))

    def _hold(self, local: LocalTrace, span: ReadableSpan) -> bool:
        """Hold the span; false where the trace was decided meanwhile."""
        now = self._clock()
        key = id(local)
        # So that a signal handler or finaliser of this thread that decides in between finds all in order.
        with self._lock:
            if local.kept is not None:
                return False
            self._held += 1
            local.spans.append(span)
            if local.kept is None and key not in self._undecided:
                local.held_since = now
                self._undecided[key] = local
            oldest = next(iter(self._undecided.values()), local)
            overdue = self._held > self._max_spans or now - oldest.held_since > self._max_age
        if overdue:
            self._decide_overdue(now)
        return True

    def _decide_overdue(self, now: float) -> None:
        """Decide the oldest, until those that are left are neither too many nor too old."""
        while True:
            with self._lock:
                oldest = next(iter(self._undecided.values()), None)
                if oldest is None:
                    return
                if self._held > self._max_spans:
                    why_not = MEMORY
                elif now - oldest.held_since > self._max_age:
                    why_not = AGE
                else:
                    return
            self._decide_early(oldest, why_not)

    def _decide_all(self) -> None:
        with self._lock:
            undecided = list(self._undecided.values())
        for local in undecided:
            self._decide_early(local, FLUSH)

    def _decide_early(self, local: LocalTrace, why_not: str) -> None:
        """Decide before the local root has ended: it is slow if it has run for that long."""
        if self._clock() - local.began > max(self._slow, local.allowed_ns / 1e9):
            self._decide(local, SLOW)
        else:
            self._decide_by_predictions(local, why_not)


def _after_fork_in_child(processor: TailProcessor | None) -> None:
    if processor is not None:
        processor.after_fork_in_child()


def _sampled(span: ReadableSpan, reason: str | None) -> ReadableSpan:
    """The span with the sampled flag, without which no exporter takes it, and with the ``reason`` if there is one.

    A span of ours is written to: the metrics that are recorded after its end then take it for an exemplar.
    """
    context: Any = span.context
    if not context.trace_flags.sampled:
        flags = TraceFlags(context.trace_flags | TraceFlags.SAMPLED)
        context = SpanContext(context.trace_id, context.span_id, False, flags, context.trace_state)
    elif reason is None:
        return span
    if isinstance(span, OperationSpan):
        span.context = context
        if reason is not None:
            span.attributes[semconv.SAMPLING_REASON] = reason
        return span
    return _SampledSpan(span, context, reason)


class _SampledSpan(ReadableSpan):
    """An ended span of the SDK under another context."""

    def __init__(self, span: ReadableSpan, context: SpanContext, reason: str | None) -> None:
        attributes = span.attributes or {}
        super().__init__(
            name=span.name,
            context=context,
            parent=span.parent,
            resource=span.resource,
            attributes=attributes if reason is None else {**attributes, semconv.SAMPLING_REASON: reason},
            events=span.events,
            links=span.links,
            kind=span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )
        self._dropped = span.dropped_attributes, span.dropped_events, span.dropped_links

    @property
    def dropped_attributes(self) -> int:
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        return self._dropped[2]
