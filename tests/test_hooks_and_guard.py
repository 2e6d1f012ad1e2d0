"""Hooks add to operations; whatever breaks on our side stops at the guard."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace

import otel_mlobs as mlobs
from otel_mlobs.telemetry import guard, hooks, instruments

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.testing import Telemetry

pytestmark = pytest.mark.usefixtures("quiet_opentelemetry")


class Recording:
    """A hook that writes down its calls, and may break."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.calls: list[tuple[str, str, object, int]] = []
        self.breaks = breaks

    def _note(self, when: str, operation: mlobs.Operation, error: object) -> None:
        current = trace.get_current_span().get_span_context().span_id
        self.calls.append((when, operation.name, error, current))
        if self.breaks:
            raise RuntimeError("the hook is broken")

    def on_start(self, operation: mlobs.Operation) -> None:
        self._note("start", operation, None)

    def on_end(self, operation: mlobs.Operation, error: BaseException | None) -> None:
        operation.set_attribute("hooked", True)
        self._note("end", operation, error)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give the library's spans to something that raises."""

    def replace(start_span: Any) -> None:
        monkeypatch.setattr(instruments, "start_span", start_span)

    return replace


def internal_errors(telemetry: Telemetry, component: str) -> int:
    """How often the guard caught something of ``component``."""
    point = telemetry.point("mlobs.internal.errors", mlobs__internal__component=component)
    return point.value  # type: ignore[no-any-return]


def test_a_hook_is_called_around_every_operation(mlobs_telemetry: Telemetry) -> None:
    """Once at each end, with the error, and what it writes is on the span."""
    hook = Recording()
    hooks.add_hook(hook)
    hooks.add_hook(hook)
    mlobs.prediction(model="m")(lambda x: 0.5)(1)
    with pytest.raises(KeyError) as raised, mlobs.operation("step"):
        raise KeyError
    assert [call[:3] for call in hook.calls] == [
        ("start", "prediction", None),
        ("end", "prediction", None),
        ("start", "step", None),
        ("end", "step", raised.value),
    ]
    assert all((span.attributes or {})["hooked"] is True for span in mlobs_telemetry.spans)
    assert hook.calls[0][3] == mlobs_telemetry.spans[0].context.span_id


def test_a_removed_hook_is_called_no_more(mlobs_telemetry: Telemetry) -> None:
    """Removing it twice, or one that never was added, is no error."""
    hook = Recording()
    hooks.add_hook(hook)
    hooks.remove_hook(hook)
    hooks.remove_hook(hook)
    with mlobs.operation("step"):
        pass
    assert hook.calls == []


@pytest.mark.usefixtures("lenient")
def test_a_broken_hook_disturbs_nobody(mlobs_telemetry: Telemetry) -> None:
    """The call, its span, its metric and the other hooks are as without it; its errors are counted."""
    broken, sound = Recording(breaks=True), Recording()
    hooks.add_hook(broken)
    hooks.add_hook(sound)
    assert mlobs.prediction(model="hooked")(lambda x: 0.5)(1) == 0.5
    assert [call[0] for call in sound.calls] == ["start", "end"]
    assert (mlobs_telemetry.span("prediction hooked").attributes or {})["mlobs.prediction.mean"] == 0.5
    assert internal_errors(mlobs_telemetry, "hook") == 2
    assert mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="hooked").count == 1


def test_strict_raises_what_production_counts(mlobs_telemetry: Telemetry) -> None:
    """Authors of hooks see their errors in tests."""
    hooks.add_hook(Recording(breaks=True))
    before = otel_context.get_current()
    with pytest.raises(RuntimeError, match="the hook is broken"):
        mlobs.prediction(model="m")(lambda x: 0.5)(1)
    otel_context.attach(before)  # strictness gives up where it raises, the operation half started


@pytest.mark.usefixtures("lenient")
def test_our_errors_are_logged_once_a_minute_each(
    mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a component at once, with its traceback, then none for a minute; every one is counted."""
    now = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])

    def report(component: str) -> None:
        try:
            raise RuntimeError("broken")
        except RuntimeError as error:
            guard.report(component, error)

    with caplog.at_level(logging.WARNING, "otel_mlobs"):
        for _ in range(3):
            report("first")
        report("second")
        now[0] += 59.0
        report("first")
        assert len(caplog.records) == 2
        now[0] += 1.0
        report("first")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "first failed with RuntimeError; the application is not affected" in caplog.text
    assert caplog.records[0].exc_info is not None
    assert internal_errors(mlobs_telemetry, "first") == 5
    assert internal_errors(mlobs_telemetry, "second") == 1


@pytest.mark.usefixtures("lenient")
def test_a_logging_handler_that_raises_does_not_reach_the_caller(mlobs_telemetry: Telemetry) -> None:
    """The last line holds."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("no disk")

    handler = Broken()
    logging.getLogger("otel_mlobs").addHandler(handler)
    try:
        guard.report("guarded", ValueError())
    finally:
        logging.getLogger("otel_mlobs").removeHandler(handler)
    assert internal_errors(mlobs_telemetry, "guarded") == 1


@pytest.mark.usefixtures("lenient")
def test_a_span_that_cannot_start_costs_only_the_span(mlobs_telemetry: Telemetry, breaking: Callable[..., Any]) -> None:
    """Every kind of call, and ``with``, runs as if undecorated; nothing is attached."""

    def no_span(*_: object, **__: object) -> Any:
        raise RuntimeError("the sampler is broken")

    breaking(no_span)
    assert mlobs.prediction(lambda x: x)(1) == 1

    @mlobs.operation("g")
    def generator() -> Any:
        yield 1
        return 2

    assert list(generator()) == [1]
    with mlobs.operation("outer") as outer, mlobs.operation("inner") as inner:
        assert not outer.recording
        inner.set_attribute("a", 1)
        assert otel_context.get_current() == {}
    assert internal_errors(mlobs_telemetry, "start") == 4
    assert mlobs_telemetry.spans == []


@pytest.mark.usefixtures("lenient")
def test_an_entry_that_failed_ends_nobody_elses_operation(
    mlobs_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One instance entered twice from different contexts, where the second start failed: the first is not ended."""
    spec = mlobs.operation("shared")
    with spec as first:

        def elsewhere() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(instruments, "start_span", None)
                spec.__enter__()
            spec.__exit__(None, None, None)

        contextvars.Context().run(elsewhere)
        assert first.recording
    assert len(mlobs_telemetry.spans) == 1


@pytest.mark.usefixtures("lenient")
def test_a_span_that_cannot_be_written_or_ended_costs_only_itself(
    mlobs_telemetry: Telemetry, breaking: Callable[..., Any]
) -> None:
    """A span of another library that raises at every turn: result, exception, metric and context are untouched."""

    class BrokenSpan(trace.NonRecordingSpan):
        def is_recording(self) -> bool:
            return True

        def _broken(self, *_: object, **__: object) -> None:
            raise RuntimeError("the span is broken")

        set_attribute = set_attributes = add_event = set_status = end = _broken

    breaking(lambda *_, **__: BrokenSpan(trace.INVALID_SPAN_CONTEXT))
    assert mlobs.prediction(model="unwritable")(lambda x: 0.5)(1) == 0.5
    error = KeyError("k")
    with pytest.raises(KeyError) as raised, mlobs.prediction(model="unwritable") as op:  # noqa: PT012
        op.set_attribute("a", 1)
        op.record(outputs=[0.5])
        raise error
    assert raised.value is error
    assert otel_context.get_current() == {}
    for component in ("outputs", "finish", "set_attribute", "record"):
        assert internal_errors(mlobs_telemetry, component) >= 1
    assert mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="unwritable").count >= 1


def test_broken_processors_and_samplers_of_the_sdk() -> None:
    """With a real provider whose processor or sampler raises, users' calls run and the failures are counted."""
    program = """
        import sys
        from opentelemetry import context, metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
        import otel_mlobs as mlobs

        class BrokenProcessor(SpanProcessor):
            when = None
            def on_start(self, span, parent_context=None):
                if self.when == "start":
                    raise RuntimeError("processor")
            def on_end(self, span):
                if self.when == "end":
                    raise RuntimeError("processor")

        class BrokenSampler(Sampler):
            broken = False
            def should_sample(self, *args, **kwargs):
                if self.broken:
                    raise RuntimeError("sampler")
                return ALWAYS_ON.should_sample(*args, **kwargs)
            def get_description(self):
                return "broken"

        sampler, processor = BrokenSampler(), BrokenProcessor()
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))

        @mlobs.prediction(model="m")
        def score(x):
            if x is None:
                raise KeyError("k")
            return x

        def call():
            assert score(0.5) == 0.5
            try:
                score(None)
            except KeyError as error:
                assert error.args == ("k",)
            else:
                raise AssertionError
            with mlobs.operation("step"):
                pass
            assert context.get_current() == {}

        call()
        processor.when = "start"; call()
        processor.when = "end"; call()
        processor.when = None; sampler.broken = True; call()
        points = {}
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "count", None) or point.value
                    points[metric.name, point.attributes.get("mlobs.internal.component")] = (
                        points.get((metric.name, point.attributes.get("mlobs.internal.component")), 0) + value
                    )
        print(points["mlobs.internal.errors", "start"], points["mlobs.internal.errors", "finish"],
              points["mlobs.operation.duration", None])
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert ran.stdout == "6 3 6\n", ran.stderr
    assert ran.stderr.count("otel_mlobs: start failed") == 1
    assert ran.stderr.count("otel_mlobs: finish failed") == 1
