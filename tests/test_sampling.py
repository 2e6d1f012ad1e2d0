"""Which traces are kept: whole, for the reason that is said, within bounds, and whatever their callers decided."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, TraceState
from receiver import Receiver, attributes_of, run

from otel_mlobs import semconv
from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.telemetry import objectives
from otel_mlobs.telemetry.sampling import TailProcessor, TailSampler
from otel_mlobs.telemetry.spans import OperationSpan, OwnTracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable

MS = 1_000_000
OBJECTIVE = 0.08
REASON = semconv.SAMPLING_REASON


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """A process with tail sampling, and what its exporter got."""

    def __init__(self, ratio: float = 0.0, **options: Any) -> None:
        self.clock = Clock()
        self.exporter = InMemorySpanExporter()
        self.sampler = TailSampler(ratio, clock=self.clock)
        self.processor = TailProcessor(
            SimpleSpanProcessor(self.exporter), self.sampler.decisions, slow=OBJECTIVE, clock=self.clock, **options
        )
        self.provider = OwnTracerProvider(sampler=self.sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        self.tracer = self.provider.get_tracer("test")

    def span(self, name: str, parent: Any = None, kind: SpanKind = SpanKind.INTERNAL) -> Any:
        """Start a span of the SDK beneath ``parent``, a span or a context, at time 0."""
        context = trace.set_span_in_context(parent) if isinstance(parent, trace.Span) else parent
        return self.tracer.start_span(name, context, kind, start_time=0)

    def operation(self, name: str, parent: Any, **attributes: Any) -> Any:
        """Start one of our own spans beneath ``parent``, at time 0."""
        context = trace.set_span_in_context(parent)
        given = {semconv.OPERATION_NAME: name, **attributes}
        span = self.provider.start_operation_span(name, context, SpanKind.INTERNAL, given)
        if isinstance(span, OperationSpan):
            span.start_time = 0
        return span

    def request(
        self, write: Callable[[Any, Any], None] = lambda *_: None, *, takes: float = 1, model: float = 1
    ) -> str:
        """A server span with a lookup and a prediction, times in ms; the reason it was kept for, or ''."""
        self.exporter.clear()
        server = self.span("GET /", kind=SpanKind.SERVER)
        self.operation("feature_lookup", server).end(MS)
        prediction = self.operation("prediction", server)
        write(server, prediction)
        prediction.end(round(model * MS))
        self.span("redis", server).end(MS)
        server.end(round(takes * MS))
        spans = self.kept()
        if not spans:
            return ""
        assert sorted(spans) == ["GET /", "feature_lookup", "prediction", "redis"]
        assert [name for name, span in spans.items() if REASON in span.attributes] == ["GET /"]
        return str(spans["GET /"].attributes[REASON])

    def kept(self) -> dict[str, Any]:
        """What the exporter got, by name."""
        spans = self.exporter.get_finished_spans()
        assert all(span.context is not None and span.context.trace_flags.sampled for span in spans)
        return {span.name: span for span in spans}

    def counts(self) -> dict[str, float]:
        """The decisions that were counted, as ``kept slow``."""
        points = self.sampler.decisions.points(semconv.SAMPLED_TRACES, zero=False)
        return {" ".join(labels.values()): count for count, labels in points if count}


def _fails(_: Any, prediction: Any) -> None:
    prediction.set_attribute(semconv.ERROR_TYPE, "ValueError")


def _errs(_: Any, prediction: Any) -> None:
    prediction.set_status(StatusCode.ERROR)


def _server_errs(server: Any, _: Any) -> None:
    server.set_status(StatusCode.ERROR)


def _cancelled(_: Any, prediction: Any) -> None:
    prediction.set_attribute(semconv.ERROR_TYPE, semconv.CANCELLED)


def _predicts(key: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda _, prediction: prediction.set_attribute(key, value)


_drifts = _predicts(semconv.DRIFT_STATUS, "drift")


# -- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "times", "reason"),
    [
        (lambda *_: None, {}, ""),
        (_fails, {}, "failed"),
        (_errs, {}, "failed"),
        (_server_errs, {}, "failed"),
        (_cancelled, {}, ""),
        (lambda *_: None, {"takes": 80}, ""),
        (lambda *_: None, {"takes": 80.001}, "slow"),
        (lambda *_: None, {"model": 81}, "slow"),
        (_predicts(semconv.INPUT_OUT_OF_RANGE, 1), {}, "input"),
        (_predicts(semconv.INPUT_UNSEEN, 2), {}, "input"),
        (_predicts(semconv.INPUT_MISSING, 3), {}, "input"),
        (_predicts(semconv.INPUT_MISSING, 0), {}, ""),
        (_drifts, {}, "drift"),
        (_predicts(semconv.DRIFT_STATUS, "ok"), {}, ""),
        (_predicts(semconv.DRIFT_STATUS, "insufficient_data"), {}, ""),
    ],
)
def test_a_trace_is_kept_whole_for_its_reason(
    write: Callable[[Any, Any], None], times: dict[str, float], reason: str
) -> None:
    """All of its spans come, the reason on the local root alone, or none does; and it is counted."""
    process = Process()
    assert process.request(write, **times) == reason
    assert process.counts() == {f"kept {reason}" if reason else "dropped ordinary": 1}
    assert process.processor._held == 0


def test_a_failure_that_a_client_span_had_is_not_the_requests() -> None:
    """A store that failed and was asked again is the application's business, as its latency is."""
    process = Process()
    server = process.span("GET /", kind=SpanKind.SERVER)
    call = process.span("redis", server, SpanKind.CLIENT)
    call.set_status(StatusCode.ERROR)
    call.end(200 * MS)
    server.end(MS)
    assert process.kept() == {}


def test_the_same_traces_are_chosen_as_by_the_sdks_ratio() -> None:
    """Of 10,000 trace ids exactly those that TraceIdRatioBased chooses, so that services agree."""
    ids = random.Random(5)
    ratio = 0.05
    process, sdks = Process(ratio), TraceIdRatioBased(ratio)
    chosen = 0
    for _ in range(10_000):
        trace_id = ids.getrandbits(128)
        decision: Any = sdks.should_sample(None, trace_id, "s").decision
        expected = decision.is_sampled()
        found: Any = process.sampler.should_sample(None, trace_id, "s", None, {"a": 1})
        assert found.decision.is_sampled() is expected
        assert dict(found.attributes) == ({"a": 1, REASON: "ratio"} if expected else {"a": 1})
        chosen += expected
    assert process.counts() == {"kept ratio": chosen}
    assert 400 < chosen < 600
    assert "0.05" in process.sampler.get_description()


def test_what_the_ratio_chose_needs_no_other_reason() -> None:
    """So those that say ``ratio`` are a fair share of all requests, failed ones too; and no rate is used up."""
    process = Process(1.0)
    assert process.request(_fails) == "ratio"
    assert process.request(_drifts) == "ratio"
    assert process.counts() == {"kept ratio": 2}


def test_lasting_drift_keeps_one_trace_a_second() -> None:
    """While a model drifts, every prediction says so: the rate limits it, and odd inputs have a rate of their own."""
    process = Process()
    reasons: Counter[str] = Counter()
    for number in range(1000):
        reasons[process.request(_drifts)] += 1
        if number % 10 == 0:
            reasons[process.request(_predicts(semconv.INPUT_UNSEEN, 1))] += 1
        process.clock.now += 0.01
    assert reasons == {"drift": 10, "input": 10, "": 1080}
    assert process.counts() == {"kept drift": 10, "kept input": 10, "dropped rate_limit": 1080}
    assert process.request(_fails) == "failed", "what failed is not limited"


def test_a_quiet_hour_saves_nothing_up() -> None:
    """After it as many are kept at once as before: one of each."""
    process = Process()
    process.clock.now += 3600
    assert [process.request(_drifts) for _ in range(3)] == ["drift", "", ""]

    def both(_: Any, prediction: Any) -> None:
        prediction.set_attributes({semconv.DRIFT_STATUS: "drift", semconv.INPUT_UNSEEN: 1})

    process.clock.now += 1
    assert [process.request(both) for _ in range(3)] == ["input", "drift", ""]


# -- callers ----------------------------------------------------------------------------------------------------------

SAMPLED, NOT_SAMPLED = (f"00-{7:032x}-{8:016x}-0{flag}" for flag in (1, 0))


def test_what_the_caller_keeps_is_kept() -> None:
    """An ordinary request of a sampled caller is kept, and its trace state goes on as it came."""
    process = Process()
    server = process.span("GET /", extract({"traceparent": SAMPLED, "tracestate": "vendor=x"}))
    process.operation("prediction", server).end(MS)
    server.end(MS)
    spans = process.kept()
    assert set(spans) == {"GET /", "prediction"}
    assert spans["GET /"].attributes[REASON] == "parent"
    assert {span.context.trace_state.to_header() for span in spans.values()} == {"vendor=x"}
    assert process.counts() == {"kept parent": 1}


def test_what_the_caller_dropped_stays_dropped() -> None:
    """Failed or not: nothing is recorded, and what is called from here hears no from us, too."""
    process = Process(1.0)
    server = process.span("GET /", extract({"traceparent": NOT_SAMPLED, "tracestate": "vendor=x"}))
    assert not server.is_recording()
    assert not process.operation("prediction", server).is_recording()
    server.set_status(StatusCode.ERROR)
    server.end(MS)
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(server))
    assert carrier["traceparent"].endswith("-00")
    assert carrier["tracestate"] == "vendor=x"
    assert process.kept() == {}
    assert process.counts() == {"dropped parent": 1}


def test_a_caller_that_does_not_know_yet_leaves_the_choice() -> None:
    """Two services with tail sampling each keep what matters to them; one without takes the caller for unsampled."""
    front, back = Process(), Process()
    request = front.span("GET /")
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(request))
    assert carrier["traceparent"][-2:] in ("00", "02")
    assert carrier["tracestate"] == "mlobs=undecided"
    for _ in range(2):
        server = back.span("POST /score", extract(carrier))
        assert server.get_span_context().trace_id == request.get_span_context().trace_id
        back.operation("prediction", server).end(MS)
        server.end(MS)
    assert back.kept() == {}
    server = back.span("POST /score", extract(carrier))
    server.set_status(StatusCode.ERROR)
    server.end(MS)
    assert back.kept()["POST /score"].attributes[REASON] == "failed"
    assert back.counts() == {"dropped ordinary": 2, "kept failed": 1}, "each request is a local trace of its own"
    request.end(81 * MS)
    assert front.kept()["GET /"].attributes[REASON] == "slow"


def test_what_is_called_after_the_decision_hears_of_it() -> None:
    """Once a trace is kept, its further calls carry the sampled flag."""
    process = Process()
    server = process.span("GET /")
    lookup = process.operation("feature_lookup", server)
    _errs(None, lookup)
    lookup.end(MS)
    call = process.span("POST /next", server, SpanKind.CLIENT)
    assert call.get_span_context().trace_flags.sampled
    call.end(MS)
    server.end(MS)
    assert set(process.kept()) == {"feature_lookup", "POST /next", "GET /"}


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_roots_that_never_end_cost_no_more_than_the_bound() -> None:
    """A flood of them: the oldest are decided, what comes later in them follows, and nothing else is held."""
    process = Process(max_spans=100)
    roots = [process.span(f"stream {number}") for number in range(1000)]
    for root in roots:
        process.operation("ranking", root).end(MS)
        process.operation("prediction", root).end(MS)
        assert process.processor._held <= 100
        assert len(process.processor._undecided) <= 100
    assert process.counts() == {"dropped memory": 950}
    late = process.operation("prediction", roots[0])
    assert not late.is_recording(), "it is known that nobody will see it"
    for root in roots:
        root.set_status(StatusCode.ERROR)
        root.end(MS)
    assert process.counts() == {"dropped memory": 950, "kept failed": 50}
    assert len(process.exporter.get_finished_spans()) == 150
    assert process.processor._held == 0
    assert not process.processor._undecided


def test_one_trace_larger_than_the_bound_is_decided() -> None:
    """By what is known: here that one of its predictions had an odd input."""
    process = Process(max_spans=10)
    root = process.span("batch job")
    for _ in range(30):
        process.operation("prediction", root, **{semconv.INPUT_UNSEEN: 1}).end(MS)
    root.end(MS)
    spans = process.exporter.get_finished_spans()
    assert len(spans) == 31
    assert dict(spans[-1].attributes or {})[REASON] == "input"


def test_a_trace_that_lasts_too_long_is_decided() -> None:
    """After 30 s it has been slow already; where slow is longer than that, it is dropped and counted by its age."""
    process = Process()
    root = process.span("stream")
    process.operation("ranking", root).end(MS)
    process.clock.now += 29
    assert process.request() == ""
    process.operation("prediction", root).end(MS)
    assert process.counts() == {"dropped ordinary": 1}
    process.clock.now += 2
    process.operation("prediction", process.span("another")).end(MS)
    assert process.counts() == {"dropped ordinary": 1, "kept slow": 1}
    assert [span.name for span in process.exporter.get_finished_spans()] == ["ranking", "prediction"]

    patient = Process(max_age=5.0)
    patient.processor._slow = 3600.0
    patient.operation("ranking", patient.span("stream")).end(MS)
    patient.clock.now += 6
    patient.operation("ranking", patient.span("another")).end(MS)
    assert patient.counts() == {"dropped age": 1}


@pytest.mark.parametrize("fails", [True, False])
def test_spans_that_end_after_their_root_follow_the_decision(fails: bool) -> None:
    """Background work of a kept request comes, of a dropped one it does not, whatever it says."""
    process = Process()
    server = process.span("GET /")
    begun = process.operation("ranking", server)
    if fails:
        server.set_status(StatusCode.ERROR)
    server.end(MS)
    _errs(None, begun)
    begun.end(MS)
    later = process.operation("prediction", begun)
    assert later.is_recording() is fails
    later.end(MS)
    assert set(process.kept()) == ({"GET /", "ranking", "prediction"} if fails else set())


@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
def test_a_flush_decides_by_what_is_known(end: str) -> None:
    """What has failed went already, what runs for too long is slow, what is ordinary so far is dropped."""
    process = Process()
    ordinary = process.span("ordinary")
    slow = process.span("slow")
    process.clock.now += 0.05
    odd = process.span("odd")
    for root in (ordinary, slow):
        process.operation("ranking", root).end(MS)
    process.operation("prediction", odd, **{semconv.INPUT_UNSEEN: 1}).end(MS)
    ordinary.end(MS)
    process.clock.now += 0.04
    process.operation("ranking", process.span("young")).end(MS)
    getattr(process.provider, end)()
    assert process.counts() == {"dropped ordinary": 1, "kept slow": 1, "kept input": 1, "dropped flush": 1}
    assert [span.name for span in process.exporter.get_finished_spans()] == ["ranking", "prediction"]


# -- threads, forks, trouble ------------------------------------------------------------------------------------------


def test_eight_threads_lose_and_mix_up_nothing() -> None:
    """Whole traces from each, and one trace whose parts run in all eight."""
    process = Process()
    shared = process.span("shared")

    def work(index: int) -> None:
        for number in range(100):
            root = process.span(f"{index}.{number}")
            for step in range(3):
                process.operation(f"step {step}", root).end(MS)
                process.operation("part", shared).end(MS)
            if number % 4 == 0:
                root.set_status(StatusCode.ERROR)
            root.end(MS)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.processor._held == 8 * 100 * 3
    shared.set_status(StatusCode.ERROR)
    shared.end(MS)
    assert process.processor._held == 0
    per_trace = Counter(span.context.trace_id for span in process.exporter.get_finished_spans() if span.context)
    assert Counter(per_trace.values()) == {4: 8 * 25, 2401: 1}
    assert process.counts() == {"kept failed": 201, "dropped ordinary": 600}


def test_a_decision_amid_ending_spans_splits_no_trace() -> None:
    """Four threads end spans while the root ends: each span is exported once, or none is."""
    process = Process()
    for number in range(50):
        process.exporter.clear()
        root = process.span("root")
        barrier = threading.Barrier(5)

        def end(root: Any = root, barrier: threading.Barrier = barrier) -> None:
            spans = [process.operation("part", root) for _ in range(5)]
            barrier.wait()
            for span in spans:
                span.end(MS)

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        if number % 2:
            root.set_status(StatusCode.ERROR)
        barrier.wait()
        root.end(MS)
        for thread in threads:
            thread.join()
        exported = [span.context.span_id for span in process.exporter.get_finished_spans() if span.context]
        assert len(exported) == len(set(exported)) == (21 if number % 2 else 0)
    assert process.processor._held == 0


def test_a_span_that_ends_within_the_lock_is_taken() -> None:
    """A finaliser or a signal handler may end one while its own thread holds the lock."""
    process = Process()
    root = process.span("root")
    with process.processor._lock:
        process.operation("ranking", root).end(MS)
        root.end(100 * MS)
    assert set(process.kept()) == {"ranking", "root"}


def test_a_decision_within_a_span_that_ends_leaves_all_in_order() -> None:
    """A signal handler that ends the request's root while one of its spans is being put down."""
    process = Process()
    root = process.span("root")
    root.set_status(StatusCode.ERROR)

    class Interrupted(list[ReadableSpan]):
        def append(self, span: ReadableSpan) -> None:
            super().append(span)
            root.end(MS)

    root.get_span_context().trace_state.spans = Interrupted()
    process.operation("ranking", root).end(MS)
    assert sorted(process.kept()) == ["ranking", "root"]
    assert process.processor._held == 0
    assert not process.processor._undecided


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_begins_with_nothing_and_a_free_lock() -> None:
    """Each process sends what ended in it, once, though another thread held the lock at the fork."""
    with Receiver() as receiver:
        run(
            """
            import threading, time
            from opentelemetry import trace
            mlobs.configure("s", endpoint=os.environ["TO"], sampling="tail", sampling_ratio=0.0, latency_objective=60,
                            metric_interval=3600, instance_id="me")
            [processor] = trace.get_tracer_provider()._spans_processor._span_processors
            def step(name):
                with mlobs.operation(name):
                    pass
            def request(fails):
                try:
                    with mlobs.operation("quick"):
                        step("inner")
                        if fails:
                            raise ValueError
                except ValueError:
                    pass
            held, release = threading.Event(), threading.Event()
            def hold():
                with processor._lock:
                    held.set()
                    release.wait()
            request(True), request(False)
            try:
                with mlobs.operation("request"):
                    step("before")
                    threading.Thread(target=hold).start()
                    held.wait()
                    pid = os.fork()
                    if pid:
                        release.set()
                    else:
                        step("in the child")
                    raise ValueError
            except ValueError:
                pass
            request(True), request(False)
            if not pid:
                os._exit(0 if mlobs.shutdown() else 1)
            assert os.waitpid(pid, 0)[1] == 0
            """,
            env={"TO": receiver.url},
        )
        found = Counter(
            (span.name, resource["service.instance.id"] == "me") for resource, span in receiver.spans_with_resource()
        )
        assert found == {
            ("quick", True): 2,
            ("inner", True): 2,
            ("before", True): 1,
            ("request", True): 2,  # in both, each with its own outcome; it began as the parent's
            ("quick", False): 1,
            ("inner", False): 1,
            ("in the child", False): 1,
        }
        assert receiver.total(semconv.SAMPLED_TRACES.name) == 8, "each counts what it decided"
        assert set(receiver.first_values(semconv.SAMPLED_TRACES.name)) == {0}


class _Broken(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no")


@pytest.mark.usefixtures("lenient")
def test_trouble_beneath_does_not_reach_the_application() -> None:
    """A processor that raises where a span of the SDK's is ended by the user's code, held or not."""
    process = Process()
    process.processor._processor = _Broken()
    root = process.span("root")
    process.span("child", root).end(MS)
    root.set_status(StatusCode.ERROR)
    root.end(MS)
    kept = Process(1.0)
    kept.processor._processor = _Broken()
    kept.span("root").end(MS)


def test_a_span_of_the_sdk_is_kept_as_it_was() -> None:
    """But for flag, trace state and reason: events, links, status, kind, scope and what was dropped by a limit."""
    encoded = []
    for ratio in (0.0, 1.0):
        exporter = InMemorySpanExporter()
        sampler = TailSampler(ratio)
        provider = OwnTracerProvider(
            sampler=sampler,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attributes=5, max_events=2, max_links=1),
        )
        provider.add_span_processor(TailProcessor(SimpleSpanProcessor(exporter), sampler.decisions, slow=OBJECTIVE))
        span: Any = provider.get_tracer("test", "1").start_span("s", kind=SpanKind.SERVER, start_time=0)
        for number in range(9):
            span.set_attribute(f"k{number}", number)
            span.add_event("e", {"n": number}, timestamp=number)
            span.add_link(trace.SpanContext(1, 2, is_remote=True))
        span.set_status(StatusCode.ERROR, "why")
        span.end(9)
        (kept,) = exporter.get_finished_spans()
        assert kept.resource is provider.resource
        sent = encode_spans([kept]).resource_spans[0].scope_spans[0]
        assert sent.scope.name == "test"
        attributes = {one.key: one.value for one in sent.spans[0].attributes}
        sent.spans[0].trace_id = sent.spans[0].span_id = b""
        sent.spans[0].trace_state = ""
        del sent.spans[0].attributes[:]
        encoded.append((sent, sorted(set(attributes) - {REASON})[-4:]))
        assert REASON in kept.to_json() or ratio
    first, second = encoded
    assert first[0].spans[0].dropped_attributes_count == 4
    second[0].spans[0].dropped_attributes_count -= 1  # the reason came first and went over the limit
    assert first == second


def test_a_context_may_be_copied_and_pickled() -> None:
    """What leaves the process, or is kept by somebody, is a plain trace state, with none of our spans in it."""
    process = Process()
    root = process.span("root")
    process.operation("ranking", root).end(MS)
    context = root.get_span_context()
    for copied in (pickle.loads(pickle.dumps(context)), copy.deepcopy(context)):
        assert copied == context
        assert type(copied.trace_state) is TraceState
        assert copied.trace_state.to_header() == "mlobs=undecided"
        assert not process.operation("prediction", trace.NonRecordingSpan(copied)).is_recording()


def test_nothing_of_a_decided_trace_stays() -> None:
    """Once the application has let go of a dropped request, its spans are gone without the garbage collector."""
    gc.disable()
    try:
        before = sum(isinstance(one, OperationSpan) for one in gc.get_objects())
        process = Process()
        for _ in range(50):
            process.request()
        assert sum(isinstance(one, OperationSpan) for one in gc.get_objects()) <= before
    finally:
        gc.enable()


# -- any tree ---------------------------------------------------------------------------------------------------------


@st.composite
def _forests(draw: st.DrawFn) -> tuple[list[int | None], list[int], list[tuple[bool, bool, bool]]]:
    size = draw(st.integers(1, 14))
    parents: list[int | None] = [None]
    for index in range(1, size):
        parents.append(draw(st.none() | st.integers(0, index - 1)))
    facts = st.tuples(st.booleans(), st.integers(0, 9).map(lambda n: n == 0), st.integers(0, 9).map(lambda n: n == 0))
    return parents, draw(st.permutations(range(size))), [draw(facts) for _ in range(size)]


@given(_forests(), st.sampled_from([2, 5, 100]), st.floats(0, 1))
def test_every_kept_trace_is_complete(forest: Any, max_spans: int, ratio: float) -> None:
    """Whatever the trees, the order in which spans end, the bound and the ratio: all of a local trace, or nothing."""
    parents, order, facts = forest
    process = Process(ratio, max_spans=max_spans)
    spans: list[Any] = []
    roots: list[int] = []
    for index, (parent, (ours, fails, slow)) in enumerate(zip(parents, facts, strict=True)):
        roots.append(index if parent is None else roots[parent])
        above = trace.INVALID_SPAN if parent is None else spans[parent]
        span = process.operation("prediction", above) if ours else process.span("s", above)
        if fails:
            span.set_status(StatusCode.ERROR)
        span.set_attribute("slow", slow)
        spans.append(span)
    for index in order:
        spans[index].end((100 if facts[index][2] else 1) * MS)
    process.provider.force_flush()
    exported = Counter(span.context.span_id for span in process.exporter.get_finished_spans() if span.context)
    assert set(exported.values()) <= {1}
    for root in set(roots):
        tree = [spans[i].get_span_context().span_id for i in range(len(spans)) if roots[i] == root]
        assert sum(span_id in exported for span_id in tree) in (0, len(tree))
        _, fails, slow = facts[root]
        if (fails or slow) and len(spans) <= max_spans:
            assert all(span_id in exported for span_id in tree)
    assert process.processor._held == 0
    assert sum(process.counts().values()) == len(set(roots))


# -- as a whole -------------------------------------------------------------------------------------------------------


def _exemplars(receiver: Receiver) -> set[bytes]:
    """The trace ids of all exemplars of durations."""
    return {
        exemplar.trace_id
        for _, metric in receiver.metrics()
        for point in metric.histogram.data_points
        for exemplar in point.exemplars
    }


def test_flask_with_callers_of_every_kind() -> None:
    """Through configure(): the server span is the local root; exemplars lead to kept traces alone."""
    pytest.importorskip("flask")
    with Receiver() as receiver:
        run(
            """
            import flask
            from otel_mlobs.integrations.flask import MLObs
            mlobs.configure("s", endpoint=os.environ["TO"], sampling="tail", sampling_ratio=0.0, latency_objective=30)
            app = flask.Flask("shop")
            MLObs(app)

            @mlobs.prediction(model="m")
            def score(x):
                return 1 / x

            @app.get("/<int:x>")
            def answer(x):
                return {"score": score(x)}

            client = app.test_client()
            for caller, flag in ((0xb, "01"), (0xc, "00"), (0xa, None)):
                headers = {} if flag is None else {"traceparent": f"00-{caller:032x}-{8:016x}-{flag}"}
                assert client.get("/1", headers=headers).status_code == 200
                assert client.get("/0", headers=headers).status_code == 500
            assert client.get("/0/no").status_code == 404
            """,
            env={"TO": receiver.url},
        )
        spans = receiver.spans()
        assert len(spans) == 6
        roots = [span for span in spans if REASON in attributes_of(span)]
        assert Counter(attributes_of(span)[REASON] for span in roots) == {"failed": 1, "parent": 2}
        assert {span.name for span in roots} == {"GET /<int:x>"}
        kept = {span.trace_id for span in spans}
        assert len(kept) == 2, "both requests of the sampled caller are in its trace"
        assert _exemplars(receiver) == kept
        assert receiver.total("mlobs.operation.duration") == 6, "metrics count all"


def test_a_batch_processor_takes_what_is_kept() -> None:
    """Beneath it is what configure() puts there."""
    process = Process()
    batch = BatchSpanProcessor(process.exporter)
    process.processor._processor = batch
    assert process.request(_fails) == ""
    assert process.provider.force_flush()
    assert len(process.kept()) == 4
    process.provider.shutdown()


@pytest.mark.parametrize(
    ("labels", "takes", "reason"),
    [
        ({semconv.MODEL_NAME: "churn"}, 40, "slow"),
        ({semconv.MODEL_NAME: "churn"}, 20, ""),
        ({semconv.MODEL_NAME: "batch"}, 200, ""),
        ({semconv.MODEL_NAME: "batch"}, 4995, "slow"),
        ({semconv.MODEL_NAME: "batch", semconv.FEATURE_VIEW_NAME: "users"}, 200, "slow"),
        ({semconv.MODEL_NAME: "another"}, 40, ""),
        ({}, 90, "slow"),
    ],
)
def test_slow_is_what_the_objective_of_the_model_or_view_says(
    labels: dict[str, str], takes: float, reason: str
) -> None:
    """A view's goes before the model's, as in the alerts; who has none has the process's.

    A request is slow by the longest of what is in it: else it would be slow whenever a model takes its time.
    """
    before = objectives.current()
    models = {"churn": Objective(latency=0.03), "batch": Objective(latency=5.0)}
    objectives.use(Objectives(models=models, views={"users": Objective(latency=0.1)}))
    try:
        process = Process()
        server = process.span("GET /", kind=SpanKind.SERVER)
        process.operation("prediction", server, **labels).end(round(takes * MS))
        server.end(round(takes + 10) * MS)
    finally:
        objectives.use(before)
    kept = process.kept()
    assert set(kept) == ({"GET /", "prediction"} if reason else set())
    assert not reason or kept["GET /"].attributes[REASON] == reason


def test_a_slow_model_allows_its_request_time_and_no_other_operation() -> None:
    """Neither a request that is decided before its end is slow for it; an operation beside it has its own objective."""
    before = objectives.current()
    objectives.use(Objectives(models={"batch": Objective(latency=5.0)}))
    try:
        process = Process()
        server = process.span("GET /", kind=SpanKind.SERVER)
        process.operation("prediction", server, **{semconv.MODEL_NAME: "batch"}).end(200 * MS)
        process.clock.now += 1.0
        process.processor.force_flush()
        assert process.counts() == {"dropped flush": 1}
        server = process.span("GET /", kind=SpanKind.SERVER)
        process.operation("prediction", server, **{semconv.MODEL_NAME: "batch"}).end(200 * MS)
        process.operation("ranking", server).end(90 * MS)
        assert process.counts() == {"dropped flush": 1, "kept slow": 1}
    finally:
        objectives.use(before)
