"""What users test with: ``capture``, the fixture, deterministic ids, strictness."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest
from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.sdk.trace import TracerProvider

import otel_mlobs as mlobs
from otel_mlobs import testing
from otel_mlobs.telemetry import guard


def step(name: str = "step") -> None:
    """Run one operation."""
    with mlobs.operation(name):
        pass


def test_a_capture_sees_spans_metrics_and_logs_of_its_block_only() -> None:
    """Nothing from before, nothing from after; what was captured stays readable."""
    step("before")
    with testing.capture() as telemetry:
        step("within")
        metrics.get_meter("test").create_counter("clicks").add(2, {"page": "a"})
        get_logger("test").emit(LogRecord(body="hello", severity_number=SeverityNumber.INFO))
        assert [span.name for span in telemetry.spans] == ["within"]
        assert telemetry.point("clicks", page="a").value == 2
    step("after")
    get_logger("test").emit(LogRecord(body="late"))
    assert [span.name for span in telemetry.spans] == ["within"]
    assert telemetry.point("clicks").value == 2
    assert telemetry.point("mlobs.operation.duration").count == 1
    assert [record.log_record.body for record in telemetry.logs] == ["hello"]


def test_captures_nest() -> None:
    """The outer one sees what the inner one sees, and each counts from its own beginning."""
    with testing.capture() as outer:
        step()
        with testing.capture() as inner:
            step()
        step()
    assert (len(outer.spans), len(inner.spans)) == (3, 1)
    assert outer.point("mlobs.operation.duration").count == 3
    assert inner.point("mlobs.operation.duration").count == 1


def test_a_series_is_zero_from_the_start_in_every_capture() -> None:
    """Also in a second one: the error counter announces itself to each reader that joins."""
    for _ in range(2):
        with testing.capture() as telemetry:
            step("announced")
        assert telemetry.point("mlobs.operation.errors", mlobs__operation__name="announced").value == 0


def test_span_children_and_point_say_what_there_is(mlobs_telemetry: testing.Telemetry) -> None:
    """A name that fits none or several spans or points raises with those there are."""
    with mlobs.operation("request"):
        step("first")
        step("second")
        step("second")
    request = mlobs_telemetry.span("request")
    assert [span.name for span in mlobs_telemetry.children(request)] == ["first", "second", "second"]
    with pytest.raises(LookupError, match="0 spans are called 'absent'; the spans are: 'first', 'second'"):
        mlobs_telemetry.span("absent")
    with pytest.raises(LookupError, match="2 spans are called 'second'"):
        mlobs_telemetry.span("second")
    with pytest.raises(LookupError, match="0 points of 'absent' have"):
        mlobs_telemetry.point("absent")
    with pytest.raises(LookupError, match=r"3 points of 'mlobs.operation.duration' have"):
        mlobs_telemetry.point("mlobs.operation.duration")
    assert mlobs_telemetry.point("mlobs.operation.duration", mlobs__operation__name="second").count == 2


def test_clear_forgets_spans_and_logs(mlobs_telemetry: testing.Telemetry) -> None:
    """A test may look at one act after the other."""
    step("first")
    get_logger("test").emit(LogRecord(body="first"))
    mlobs_telemetry.clear()
    step("second")
    assert [span.name for span in mlobs_telemetry.spans] == ["second"]
    assert mlobs_telemetry.logs == []


def test_a_capture_closes_when_its_block_raises() -> None:
    """What was captured until then is kept, and later spans are not added to it."""
    with pytest.raises(KeyError), testing.capture() as telemetry:  # noqa: PT012
        step()
        raise KeyError
    step()
    assert len(telemetry.spans) == 1


def test_ids_on_request(mlobs_telemetry: testing.Telemetry) -> None:
    """Counted ids make output comparable; outside of the block they are random again."""
    for _ in range(2):
        with testing.deterministic_ids():
            step()
    first, second = mlobs_telemetry.spans
    assert first.context == second.context
    assert {first.context.trace_id, first.context.span_id} == {1, 2}
    step()
    assert mlobs_telemetry.spans[-1].context.trace_id > 1000


def test_strict_ends_with_its_block(lenient: None, caplog: pytest.LogCaptureFixture) -> None:
    """Within it our own errors are raised, after it they are logged again."""
    with pytest.raises(RuntimeError), testing.strict():
        guard.report("strict-test", RuntimeError())
    with caplog.at_level(logging.WARNING, "otel_mlobs"):
        guard.report("strict-test", RuntimeError())
    assert "strict-test failed" in caplog.text


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)


def test_a_capture_joins_the_users_own_providers() -> None:
    """Their exporters go on getting everything, during the capture and after it."""
    ran = run("""
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import otel_mlobs as mlobs

        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([reader]))
        with mlobs.testing.capture() as telemetry:
            with mlobs.operation("one"):
                pass
        with mlobs.operation("two"):
            pass
        assert trace.get_tracer_provider() is provider
        print([span.name for span in telemetry.spans], [span.name for span in exporter.get_finished_spans()])
        points = [
            point.count
            for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics
            for metric in scope.metrics if metric.name == "mlobs.operation.duration"
            for point in metric.data.data_points
        ]
        print(points)
        try:
            with mlobs.testing.deterministic_ids():
                pass
        except RuntimeError as error:
            print(error)
    """)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "['one'] ['one', 'two']",
        "[1, 1]",
        "the tracer provider was set elsewhere: give it an IdGenerator there",
    ]


def test_a_provider_that_takes_no_processor_is_named() -> None:
    """Somebody else's implementation of the API cannot be captured from, and the error says which it is."""
    ran = run("""
        from opentelemetry import trace
        trace.set_tracer_provider(trace.NoOpTracerProvider())
        import otel_mlobs as mlobs
        try:
            with mlobs.testing.capture():
                pass
        except TypeError as error:
            print(error)
    """)
    assert "spans can be captured from the SDK's tracer provider, got <opentelemetry.trace.NoOpTracer" in ran.stdout


def test_the_fixture_imports_the_sdk_only_where_it_is_used(tmp_path: object) -> None:
    """The plugin is loaded in every project that installs us and must not slow its tests."""
    ran = run("""
        import sys
        import otel_mlobs.testing_plugin
        print([name for name in sys.modules if name.startswith(("opentelemetry", "numpy"))])
    """)
    assert ran.stdout == "[]\n"


def test_the_provider_is_the_sdks(mlobs_telemetry: testing.Telemetry) -> None:
    """Where none was set, capture sets one, once per process."""
    assert isinstance(trace.get_tracer_provider(), TracerProvider)
