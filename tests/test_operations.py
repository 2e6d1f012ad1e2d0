"""The four operations and ``operation``: their spans, their metrics, their arguments."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.telemetry.running import IDLE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_mlobs.testing import Telemetry

pytestmark = pytest.mark.usefixtures("quiet_opentelemetry")


def typed(span: ReadableSpan) -> dict[str, tuple[str, object]]:
    """A span's attributes with the types of their values: 1, 1.0 and True are not the same to a backend."""
    return {key: (type(value).__name__, value) for key, value in (span.attributes or {}).items()}


def only(telemetry: Telemetry) -> ReadableSpan:
    """The only span."""
    (span,) = telemetry.spans
    return span


def whole(span: ReadableSpan) -> dict[str, object]:
    """All of a span that does not differ from run to run."""
    return {
        "name": span.name,
        "kind": span.kind,
        "status": (span.status.status_code, span.status.description),
        "events": [event.name for event in span.events],
        "links": list(span.links),
        "scope": (span.instrumentation_scope.name, span.instrumentation_scope.version)
        if span.instrumentation_scope
        else None,
        "attributes": typed(span),
    }


def expected_span(name: str, attributes: dict[str, tuple[str, object]]) -> dict[str, object]:
    """What ``whole`` gives for an operation that went well."""
    return {
        "name": name,
        "kind": SpanKind.INTERNAL,
        "status": (StatusCode.UNSET, None),
        "events": [],
        "links": [],
        "scope": ("otel_mlobs", mlobs.__version__),
        "attributes": attributes,
    }


# -- whole spans -----------------------------------------------------------------------------------------------------


def test_the_whole_span_of_a_feature_lookup(mlobs_telemetry: Telemetry) -> None:
    """Name, kind, status, scope, every attribute and the type of its value."""

    @mlobs.feature_lookup(store="redis", view="user_features", features=["age", "tenure", "city"])
    def lookup(user_id: int) -> dict[str, float | None]:
        return {"age": 41.0, "tenure": None}

    lookup(7)
    assert whole(only(mlobs_telemetry)) == expected_span(
        "feature_lookup user_features",
        {
            "mlobs.operation.name": ("str", "feature_lookup"),
            "mlobs.feature_store.name": ("str", "redis"),
            "mlobs.feature_view.name": ("str", "user_features"),
            "mlobs.feature.requested": ("int", 3),
            "mlobs.feature.found": ("int", 1),
            "mlobs.feature.missing": ("int", 2),
        },
    )


def test_the_whole_span_of_candidate_generation(mlobs_telemetry: Telemetry) -> None:
    """Asked for, came back, and the scores that came with them."""

    @mlobs.candidate_generation(source="two_tower", k=500)
    def candidates() -> list[tuple[str, float]]:
        return [("a", 0.5), ("b", 0.25), ("c", 0.75)]

    candidates()
    assert whole(only(mlobs_telemetry)) == expected_span(
        "candidate_generation two_tower",
        {
            "mlobs.operation.name": ("str", "candidate_generation"),
            "mlobs.candidate.source": ("str", "two_tower"),
            "mlobs.candidate.requested": ("int", 500),
            "mlobs.candidate.count": ("int", 3),
            "mlobs.candidate.score.min": ("float", 0.25),
            "mlobs.candidate.score.mean": ("float", 0.5),
            "mlobs.candidate.score.max": ("float", 0.75),
        },
    )


def test_the_whole_span_of_a_ranking(mlobs_telemetry: Telemetry) -> None:
    """Items in, items out, scores, the model and its version, a number or not, as a string."""

    @mlobs.ranking(model="ltr", version=7, inputs="items")
    def rank(features: object, items: list[int]) -> list[dict[str, Any]]:
        return [{"item": item, "score": item / 4} for item in items[:2]]

    rank({}, [1, 2, 3])
    assert whole(only(mlobs_telemetry)) == expected_span(
        "ranking ltr",
        {
            "mlobs.operation.name": ("str", "ranking"),
            "mlobs.model.name": ("str", "ltr"),
            "mlobs.model.version": ("str", "7"),
            "mlobs.ranking.input.count": ("int", 3),
            "mlobs.ranking.output.count": ("int", 2),
            "mlobs.ranking.score.min": ("float", 0.25),
            "mlobs.ranking.score.mean": ("float", 0.375),
            "mlobs.ranking.score.max": ("float", 0.5),
        },
    )


def test_the_whole_span_of_a_prediction(mlobs_telemetry: Telemetry) -> None:
    """Rows and the summary of P(positive), as plain floats although numpy computed them."""

    @mlobs.prediction(model="churn", version="3", attributes={"experiment": "b", "fold": 2})
    def score(x: Any) -> Any:
        return np.array([[0.75, 0.25], [0.25, 0.75]], dtype=np.float32)

    score(np.zeros((2, 5)))
    assert whole(only(mlobs_telemetry)) == expected_span(
        "prediction churn",
        {
            "mlobs.operation.name": ("str", "prediction"),
            "mlobs.model.name": ("str", "churn"),
            "mlobs.model.version": ("str", "3"),
            "experiment": ("str", "b"),
            "fold": ("int", 2),
            "mlobs.batch.size": ("int", 2),
            "mlobs.prediction.min": ("float", 0.25),
            "mlobs.prediction.mean": ("float", 0.5),
            "mlobs.prediction.max": ("float", 0.75),
            "mlobs.prediction.std": ("float", 0.25),
        },
    )


def test_the_whole_span_of_any_other_operation(mlobs_telemetry: Telemetry) -> None:
    """Entered with ``with`` it is called what it was named."""
    with mlobs.operation("rerank"):
        pass
    assert whole(only(mlobs_telemetry)) == expected_span("rerank", {"mlobs.operation.name": ("str", "rerank")})


def test_attributes_are_what_semconv_says(mlobs_telemetry: Telemetry) -> None:
    """Every mlobs attribute on a span is in semconv's table for that operation, with that type."""
    table = {span.operation: (*semconv.COMMON_ATTRIBUTES, *span.attributes) for span in semconv.SPANS}
    types = {"string": str, "int": int, "double": float, "boolean": bool, "string[]": tuple, "int[]": tuple}
    mlobs.feature_lookup(store="s", view="v")(lambda: {"a": 1})()
    mlobs.candidate_generation(source="s", k=1, model="m")(lambda: [0.5])()
    mlobs.ranking(model="m", version=1)(lambda items: [0.5])([1])
    mlobs.prediction(model="m")(lambda x: 0.5)([1.0])
    mlobs.prediction(model="m")(lambda x: "stays")([1.0])
    assert len(mlobs_telemetry.spans) == 5
    for span in mlobs_telemetry.spans:
        known = {attribute.key: types[attribute.type] for attribute in table[span.name.partition(" ")[0]]}
        assert {key: type(value) for key, value in (span.attributes or {}).items()}.items() <= known.items()


def test_operations_nest_in_the_context(mlobs_telemetry: Telemetry) -> None:
    """An operation within another is its child; the outermost is the child of whatever span is current."""
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("server") as server, mlobs.operation("request"):
        mlobs.prediction(model="churn")(lambda x: 0.5)(1)
    request = mlobs_telemetry.span("request")
    assert request.parent.span_id == server.get_span_context().span_id  # type: ignore[union-attr]
    assert [span.name for span in mlobs_telemetry.children(request)] == ["prediction churn"]


# -- inputs and outputs ----------------------------------------------------------------------------------------------


def rows_seen(telemetry: Telemetry) -> object:
    """The batch size on the last span."""
    return (telemetry.spans[-1].attributes or {}).get("mlobs.batch.size")


ROWS = [[1.0], [2.0], [3.0]]


def test_inputs_are_found_by_name(mlobs_telemetry: Telemetry) -> None:
    """Positional, by keyword, by default, keyword-only and variable parameters are found as the call gave them."""

    def two(a: object, x: object = ROWS, *, y: object = ROWS[:2], **more: object) -> float:
        return 0.5

    by_x, by_y = mlobs.prediction(inputs="x")(two), mlobs.prediction(inputs="y")(two)
    for call, rows in (
        (lambda: by_x(0, ROWS[:2]), 2),
        (lambda: by_x(0, x=ROWS[:1]), 1),
        (lambda: by_x(0), 3),
        (lambda: by_y(0), 2),
        (lambda: by_y(0, y=ROWS), 3),
    ):
        call()
        assert rows_seen(mlobs_telemetry) == rows

    @mlobs.prediction(inputs="rows")
    def variable(first: object, *rows: object) -> float:
        return 0.5

    variable(0, *ROWS)
    assert rows_seen(mlobs_telemetry) == 3

    @mlobs.ranking(inputs="items")
    def keywords(**items: int) -> None: ...

    keywords(a=1, b=2)
    assert (mlobs_telemetry.spans[-1].attributes or {})["mlobs.ranking.input.count"] == 2


def test_the_only_parameter_is_the_input(mlobs_telemetry: Telemetry) -> None:
    """Left out, ``inputs`` is the one parameter beside self or cls; with two of them nothing is guessed."""

    class Model:
        @mlobs.prediction
        def method(self, rows: object) -> float:
            return 0.5

        @mlobs.prediction
        @classmethod
        def of_class(cls, rows: object) -> float:
            return 0.5

        @mlobs.prediction
        def two(self, rows: object, limit: int) -> None: ...

    Model().method(ROWS)
    assert rows_seen(mlobs_telemetry) == 3
    Model().method(rows=ROWS[:2])
    assert rows_seen(mlobs_telemetry) == 2
    Model.of_class(ROWS)
    assert rows_seen(mlobs_telemetry) == 3
    Model().two(ROWS, 1)
    assert rows_seen(mlobs_telemetry) is None


def test_inputs_of_partials_bound_methods_and_callable_objects(mlobs_telemetry: Telemetry) -> None:
    """Parameters are counted as the callable shows them, bound ones left out."""

    class Model:
        def score(self, rows: object, scale: float = 1.0) -> float:
            return 0.5

        def __call__(self, scale: float, rows: object) -> float:
            return 0.5

    mlobs.prediction(inputs="rows")(Model().score)(ROWS)
    assert rows_seen(mlobs_telemetry) == 3
    mlobs.prediction(inputs="rows")(Model())(1.0, ROWS[:2])
    assert rows_seen(mlobs_telemetry) == 2
    mlobs.prediction(inputs="rows")(functools.partial(Model(), 1.0))(ROWS)
    assert rows_seen(mlobs_telemetry) == 3


def test_inputs_and_outputs_may_be_callables(mlobs_telemetry: Telemetry) -> None:
    """A callable gets the call's arguments, or the result, and returns what is meant."""

    @mlobs.prediction(inputs=lambda request, **_: request["rows"], outputs=lambda r: r["scores"])
    def score(request: dict[str, Any], *, trace: bool = False) -> dict[str, Any]:
        return {"scores": [0.25, 0.75]}

    assert score({"rows": ROWS[:2]}, trace=True) == {"scores": [0.25, 0.75]}
    attributes = only(mlobs_telemetry).attributes or {}
    assert attributes["mlobs.batch.size"] == 2
    assert attributes["mlobs.prediction.mean"] == 0.5


@pytest.mark.usefixtures("lenient")
def test_inputs_and_outputs_that_raise_cost_only_their_attributes(mlobs_telemetry: Telemetry) -> None:
    """A picker that fails is our error: counted, and the call and its span go on."""

    @mlobs.prediction(model="m", inputs=lambda x: x.nothing, outputs=lambda r: r["nothing"])
    def score(x: object) -> float:
        return 0.5

    assert score(1) == 0.5
    assert only(mlobs_telemetry).status.status_code is StatusCode.UNSET
    for component in ("inputs", "outputs"):
        assert mlobs_telemetry.point("mlobs.internal.errors", mlobs__internal__component=component).value == 1


def test_wrong_inputs_raise_at_decoration() -> None:
    """A name that is no parameter is told with those there are."""
    with pytest.raises(ValueError, match=r"inputs='X' is no parameter of .*score\(rows, limit\)"):

        @mlobs.prediction(inputs="X")
        def score(rows: object, limit: int) -> None: ...


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlobs.prediction(model=""), "mlobs.model.name must be a string that is not empty, got ''"),
        (lambda: mlobs.prediction(model=3), "mlobs.model.name must be a string that is not empty, got 3"),
        (lambda: mlobs.prediction(model="m", version=True), "mlobs.model.version must be .* got True"),
        (lambda: mlobs.feature_lookup(features=-1), "features must be a whole number from 0 or names, got -1"),
        (lambda: mlobs.candidate_generation(k="5"), "k must be a whole number from 0, got '5'"),
        (lambda: mlobs.candidate_generation(k=True), "k must be a whole number from 0, got True"),
        (lambda: mlobs.ranking(inputs=3), "inputs must be a parameter's name or a callable, got 3"),
        (lambda: mlobs.ranking(outputs="scores"), "outputs must be a callable .* got 'scores'"),
        (lambda: mlobs.ranking(expected="ValueError"), "expected must name exception classes, got 'ValueError'"),
        (lambda: mlobs.ranking(expected=[int]), "expected must name exception classes, got <class 'int'>"),
        (lambda: mlobs.ranking(attributes={"a": {}}), "attributes must map strings .* got 'a': {}"),
        (lambda: mlobs.ranking(attributes={1: "a"}), "attributes must map strings .* got 1: 'a'"),
        (lambda: mlobs.operation(""), "operation needs its name, as operation\\(\"rerank\"\\), got ''"),
        (lambda: mlobs.operation(len), "operation needs its name"),
        (lambda: mlobs.ranking(modle="m"), "unexpected keyword argument 'modle'"),
    ],
)
def test_wrong_arguments_raise_where_they_are_written(make: Any, message: str) -> None:
    """A mistake shows at import, with the value and what was expected."""
    with pytest.raises(TypeError, match=message):
        make()


def test_inputs_and_outputs_are_refused_by_with() -> None:
    """Inside ``with`` there is no call to take them from, and the message says what to write."""
    with (
        pytest.raises(TypeError, match=r"say op.record\(inputs=..., outputs=...\)"),
        mlobs.prediction(outputs=lambda r: r),
    ):
        pass


# -- the running operation -------------------------------------------------------------------------------------------


def test_record_and_set_attribute(mlobs_telemetry: Telemetry) -> None:
    """What ``with`` yields takes inputs, outputs and attributes, and answers what it is."""
    with mlobs.prediction(model="churn", version=3) as op:
        op.record(inputs=np.zeros((4, 2)), outputs=np.array([0.25, 0.75, 0.25, 0.75]))
        op.set_attribute("region", "eu")
        op.set_attribute("tags", ["a", "b"])
        assert (op.name, op.model, op.version, op.recording) == ("prediction", "churn", "3", True)
        assert op.span is trace.get_current_span()
    assert not op.recording
    attributes = typed(only(mlobs_telemetry))
    assert attributes["mlobs.batch.size"] == ("int", 4)
    assert attributes["mlobs.prediction.mean"] == ("float", 0.5)
    assert attributes["region"] == ("str", "eu")
    assert attributes["tags"] == ("tuple", ("a", "b"))


def test_record_of_outputs_alone_counts_their_rows(mlobs_telemetry: Telemetry) -> None:
    """A prediction that records only outputs has as many rows as these."""
    with mlobs.prediction(model="churn") as op:
        op.record(outputs=[0.5, 0.5])
    assert (only(mlobs_telemetry).attributes or {})["mlobs.batch.size"] == 2


def test_an_ended_operation_takes_nothing_more(mlobs_telemetry: Telemetry) -> None:
    """Writing to it afterwards, from a callback for instance, changes and logs nothing."""
    with mlobs.prediction(model="churn") as op:
        pass
    op.set_attribute("late", 1)
    op.record(outputs=[0.5])
    assert typed(only(mlobs_telemetry)).keys() == {"mlobs.operation.name", "mlobs.model.name"}


def test_current_operation_is_reached_from_deep_inside(mlobs_telemetry: Telemetry) -> None:
    """Helpers need no handle; outside of any operation they write to one that ignores them."""

    def helper() -> None:
        mlobs.current_operation().set_attribute("cache", "hit")

    helper()
    assert mlobs.current_operation() is IDLE
    assert not IDLE.recording
    IDLE.record(inputs=[1], outputs=[2])
    mlobs.operation("load")(lambda: helper())()
    assert (only(mlobs_telemetry).attributes or {})["cache"] == "hit"


def test_attributes_of_one_instance_are_on_every_entry(mlobs_telemetry: Telemetry) -> None:
    """``attributes=`` holds for ``with`` as for the decorator, and later changes to the mapping do not matter."""
    attributes: dict[str, Any] = {"region": "eu"}
    step = mlobs.operation("step", attributes=attributes)
    attributes["region"] = "us"
    for _ in range(2):
        with step:
            pass
    assert [(span.attributes or {})["region"] for span in mlobs_telemetry.spans] == ["eu", "eu"]


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_one_duration_point_per_operation_with_its_exemplar(mlobs_telemetry: Telemetry) -> None:
    """Each call counts once, in seconds, with labels from the allow-list, bounds that hold 0.08, and its trace id."""

    @mlobs.prediction(model="duration-test", version="3", attributes={"user": "never a label"})
    def score(x: object) -> float:
        time.sleep(0.002)
        return 0.5

    for _ in range(3):
        score(1)
    point = mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="duration-test")
    assert dict(point.attributes or {}) == {
        "mlobs.operation.name": "prediction",
        "mlobs.model.name": "duration-test",
        "mlobs.model.version": "3",
    }
    assert point.count == 3
    assert 0.006 <= point.sum < 5
    assert 0.08 in point.explicit_bounds
    traces = {span.context.trace_id for span in mlobs_telemetry.spans}
    spans = {span.context.span_id for span in mlobs_telemetry.spans}
    assert point.exemplars
    for exemplar in point.exemplars:
        assert exemplar.trace_id in traces
        assert exemplar.span_id in spans


def test_reading_the_outputs_is_not_the_operations_time(mlobs_telemetry: Telemetry) -> None:
    """Neither the metric nor the span includes what we spend on reading the result."""

    def slow(result: object) -> object:
        time.sleep(0.05)
        return result

    mlobs.prediction(model="reading-test", outputs=slow)(lambda x: 0.5)(1)
    span = only(mlobs_telemetry)
    assert (span.end_time or 0) - (span.start_time or 0) < 50_000_000
    assert mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="reading-test").sum < 0.05


def test_errors_are_zero_before_the_first_and_count_failures_only(mlobs_telemetry: Telemetry) -> None:
    """The series exists at 0 from the first call on, and expected errors are not in it."""

    @mlobs.prediction(model="errors-test", expected=KeyError)
    def score(x: Any) -> float:
        if x is not None:
            raise x
        return 0.5

    def errors() -> int:
        point = mlobs_telemetry.point("mlobs.operation.errors", mlobs__model__name="errors-test")
        assert "error.type" not in point.attributes
        return point.value  # type: ignore[no-any-return]

    score(None)
    assert errors() == 0
    for error in (KeyError(), ValueError(), RuntimeError()):
        with pytest.raises(type(error)):
            score(error)
    assert errors() == 2
    durations = mlobs_telemetry.metrics["mlobs.operation.duration"]
    by_type = {point.attributes.get("error.type"): point.count for point in durations}
    assert by_type == {None: 2, "ValueError": 1, "RuntimeError": 1}


def test_unsampled_operations_are_counted_and_not_traced(mlobs_telemetry: Telemetry) -> None:
    """Beneath an unsampled parent there is no span and no attribute; duration and errors are recorded."""
    unsampled = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0)))
    token = otel_context.attach(trace.set_span_in_context(unsampled))
    try:
        with pytest.raises(ValueError, match="x"), mlobs.prediction(model="unsampled-test") as op:  # noqa: PT012
            assert not op.recording
            op.record(outputs=[0.5])
            assert trace.get_current_span().get_span_context().trace_id == 1
            raise ValueError("x")
    finally:
        otel_context.detach(token)
    assert mlobs_telemetry.spans == []
    point = mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="unsampled-test")
    assert (point.count, list(point.exemplars)) == (1, [])
    assert mlobs_telemetry.point("mlobs.operation.errors", mlobs__model__name="unsampled-test").value == 1


def test_without_any_provider_the_functions_run() -> None:
    """In a user's own unit tests nothing is set up: every kind works, nothing is current, the SDK is not imported."""
    program = """
        import asyncio, sys
        import otel_mlobs as mlobs
        from opentelemetry import context

        @mlobs.prediction(model="m", inputs="x", outputs=lambda r: 1 / 0)
        def plain(x):
            assert mlobs.current_operation().recording is False
            return x
        @mlobs.ranking
        async def coroutine(x):
            return x
        @mlobs.ranking
        def generator(x):
            received = yield x
            return received
        @mlobs.ranking
        async def agenerator(x):
            yield x
        assert plain(1) == 1
        assert asyncio.run(coroutine(2)) == 2
        g = generator(3)
        assert next(g) == 3
        try:
            g.send(4)
        except StopIteration as stop:
            assert stop.value == 4
        async def collect():
            return [item async for item in agenerator(5)]
        assert asyncio.run(collect()) == [5]
        with mlobs.prediction(model="m") as op:
            op.record(inputs=[1], outputs=[2])
            op.set_attribute("a", 1)
            mlobs.current_operation().set_attribute("a", 1)
        try:
            with mlobs.operation("x"):
                raise KeyError("k")
        except KeyError as error:
            assert error.args == ("k",)
        assert context.get_current() == {}
        assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
        print("ran")
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("ran\n", "")


def test_attributes_that_backends_cannot_take_are_made_plain(mlobs_telemetry: Telemetry) -> None:
    """NaN and infinities become text, numpy values Python's, and a lone surrogate in a name a question mark."""
    with mlobs.ranking(model="a\ud800") as op:
        op.set_attribute("nan", float("nan"))
        op.set_attribute("float32", np.float32(0.5))
        op.set_attribute("array", np.array([1.0, -np.inf]))
    attributes = dict(mlobs_telemetry.span("ranking a?").attributes or {})
    assert (attributes["nan"], attributes["float32"], attributes["array"]) == ("nan", 0.5, (1.0, "-inf"))
    with pytest.raises(ValueError, match="attributes must be finite"):
        mlobs.ranking(attributes={"x": float("inf")})


def test_an_operation_named_as_its_function_is_named_once(mlobs_telemetry: Telemetry) -> None:
    """operation("rerank") over a function called rerank makes a span "rerank"."""

    @mlobs.operation("rerank")
    def rerank() -> None: ...

    rerank()
    assert [span.name for span in mlobs_telemetry.spans] == ["rerank"]
