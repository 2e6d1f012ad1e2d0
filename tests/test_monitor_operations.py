"""A monitor on an operation: what is counted for every way of calling, and what spans carry, exactly."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from monitoring import Clock, own_name
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from receiver import run

import otel_mlobs as mlobs
from otel_mlobs import Monitor
from otel_mlobs.core.profile import Profile
from otel_mlobs.telemetry import monitor as module
from otel_mlobs.testing import Telemetry

NAN = float("nan")
ROWS = 2_000


def _profile(**changes: Any) -> Profile:
    rng = np.random.default_rng(3)
    data = {"age": rng.uniform(20, 60, ROWS), "city": rng.choice(["Rome", "Oslo"], ROWS)}
    options: dict[str, Any] = {"outputs": rng.random(ROWS), "version": "3", "model": own_name("operated")}
    return Profile.fit(data, **{**options, **changes})


@pytest.fixture
def clock() -> Clock:
    """A clock for the monitors of the test."""
    return Clock()


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    """A monitor of ten-second panes."""
    return Monitor(_profile(), window=600.0, pane=10.0, clock=clock)


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    for one in list(module._monitors):
        one.close()


def _rows(rows: int, *, shift: float = 0.0, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"age": rng.uniform(20, 60, rows) + shift, "city": rng.choice(["Rome", "Oslo"], rows)}


def _counted(monitor: Monitor) -> dict[str, int]:
    status = monitor.status()
    return {one.name: one.n for one in (*status.features.values(), *status.outputs.values())}


# -- what is counted --------------------------------------------------------------------------------------------------


def test_a_call_is_counted_once(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Inputs and outputs of each call, single rows and batches, however the argument is given."""

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> Any:
        return np.full(len(row["age"]), 0.5) if isinstance(row["age"], list) else 0.5

    predict({"age": 30.0, "city": "Rome"})
    predict(row={"age": 30.0, "city": "Rome"})
    predict({"age": [30.0] * 7, "city": ["Rome"] * 7})
    assert _counted(monitor) == {"age": 9, "city": 9, "score": 9}
    assert len(mlobs_telemetry.spans) == 3


def test_inputs_are_named_or_picked(monitor: Monitor) -> None:
    """By the parameter's name, by a function of the call, in methods too; outputs by a function of the result."""

    class Service:
        @mlobs.prediction(monitor=monitor)
        def only(self, row: Any) -> float:
            return 0.5

        @mlobs.prediction(monitor=monitor, inputs="row", outputs=lambda result: result["scores"])
        def named(self, user: str, row: Any, *, k: int = 3) -> Any:
            return {"scores": [0.1, 0.2]}

        @staticmethod
        @mlobs.prediction(monitor=monitor, inputs=lambda user, rows: rows["features"])
        def picked(user: str, rows: Any) -> float:
            return 0.5

        @mlobs.prediction(monitor=monitor, inputs="row")
        @classmethod
        def of_class(cls, user: str, row: Any) -> float:
            return 0.5

    row = (30.0, "Rome")
    service = Service()
    assert service.only(row) == 0.5
    assert service.named("u", row) == {"scores": [0.1, 0.2]}
    service.named("u", k=1, row=row)
    service.picked("u", {"features": row})
    assert Service.of_class("u", row) == 0.5
    assert _counted(monitor) == {"age": 5, "city": 5, "score": 7}


def test_a_failing_call_counts_its_inputs_and_no_outputs(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """The model was asked, and gave no answer; the caller sees the same exception object."""
    failure = KeyError("x")

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> Any:
        raise failure

    with pytest.raises(KeyError) as raised:
        predict((30.0, "Rome"))
    assert raised.value is failure
    assert _counted(monitor) == {"age": 1, "city": 1, "score": 0}
    assert mlobs_telemetry.spans[0].attributes is not None
    assert mlobs_telemetry.spans[0].attributes["error.type"] == "KeyError"


def test_inputs_are_counted_as_they_were_given(monitor: Monitor) -> None:
    """A function that scales its array in place changes no count, and gets the very object that the caller gave."""
    given: list[Any] = []

    @mlobs.prediction(monitor=monitor, inputs="rows")
    def predict(rows: Any, factor: float) -> Any:
        given.append(rows)
        rows[:] = None
        return [0.5] * len(rows)

    rows = np.array([[30.0, "Rome"]] * 40, object)
    predict(rows, 2.0)
    assert given[0] is rows
    assert monitor.status().features["age"].missing == 0


def test_coroutines_are_counted(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Of a hundred coroutines at once each is counted, inputs when awaited and outputs when answered."""

    @mlobs.prediction(monitor=monitor)
    async def predict(row: Any) -> float:
        await asyncio.sleep(0.001)
        if row[0] > 50:
            raise ValueError("old")
        return 0.5

    async def main() -> list[Any]:
        return await asyncio.gather(*(predict((float(age), "Rome")) for age in range(1, 101)), return_exceptions=True)

    answers = asyncio.run(main())
    assert [answer for answer in answers if answer == 0.5] == [0.5] * 50
    assert _counted(monitor) == {"age": 100, "city": 100, "score": 50}
    assert len(mlobs_telemetry.spans) == 100


def test_a_cancelled_coroutine_counts_its_inputs(monitor: Monitor) -> None:
    """Cancelled before it answered: inputs are counted, outputs not."""

    @mlobs.prediction(monitor=monitor)
    async def predict(row: Any) -> float:
        await asyncio.sleep(60)
        return 0.5

    async def main() -> None:
        task = asyncio.create_task(predict((30.0, "Rome")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert _counted(monitor) == {"age": 1, "city": 1, "score": 0}


def test_generators_count_their_inputs(monitor: Monitor) -> None:
    """A stream's inputs are counted when it begins, once; what it yields passes through uncounted and untouched."""

    @mlobs.prediction(monitor=monitor)
    def stream(row: Any) -> Iterator[float]:
        yield 0.1
        yield 0.2

    @mlobs.prediction(monitor=monitor)
    async def async_stream(row: Any) -> AsyncIterator[float]:
        yield 0.3

    async def consume() -> list[float]:
        return [value async for value in async_stream((30.0, "Rome"))]

    assert list(stream((30.0, "Rome"))) == [0.1, 0.2]
    begun = stream((30.0, "Rome"))
    assert _counted(monitor)["age"] == 1, "nothing was asked of the second yet"
    next(begun)
    begun.close()
    assert asyncio.run(consume()) == [0.3]
    assert _counted(monitor) == {"age": 3, "city": 3, "score": 0}


def test_the_with_form_counts_what_it_is_told(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """record() counts inputs and outputs, together or apart; after the block it changes nothing."""
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs=(30.0, "Rome"), outputs=0.5)
        op.record(inputs=[(30.0, "Rome")] * 3)
        op.record(outputs=[0.5, 0.6])
    op.record(inputs=(30.0, "Rome"), outputs=0.5)
    assert _counted(monitor) == {"age": 4, "city": 4, "score": 3}

    def fails() -> None:
        with mlobs.prediction(monitor=monitor) as op:
            op.record(inputs=(30.0, "Rome"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert _counted(monitor)["age"] == 5
    assert len(mlobs_telemetry.spans) == 2


def test_what_is_not_sampled_is_counted(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Under a parent that is not sampled there is no span, and every row and answer is counted all the same."""

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> float:
        return 0.5

    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))
    token = otel_context.attach(trace.set_span_in_context(parent))
    try:
        for _ in range(5):
            predict((30.0, "Rome"))
        with mlobs.prediction(monitor=monitor) as op:
            op.record(inputs=(30.0, "Rome"), outputs=0.5)
    finally:
        otel_context.detach(token)
    assert mlobs_telemetry.spans == []
    assert _counted(monitor) == {"age": 6, "city": 6, "score": 6}


def test_where_nobody_listens_it_is_counted() -> None:
    """Without any provider in the process: decorated calls of every kind and the with-form are counted."""
    ran = run(
        """
        import asyncio
        import numpy as np
        rng = np.random.default_rng(3)
        profile = mlobs.Profile.fit({"x": rng.random(200)}, outputs=rng.random(200), model="m")
        monitor = mlobs.Monitor(profile, clock=lambda: 5.0)
        @mlobs.prediction(monitor=monitor)
        def plain(X): return 0.5
        @mlobs.prediction(monitor=monitor)
        async def later(X): return 0.5
        @mlobs.prediction(monitor=monitor)
        def stream(X): yield 0.5
        @mlobs.prediction(monitor=monitor)
        def fails(X): raise ValueError
        for _ in range(3):
            plain((0.5,))
        asyncio.run(later((0.5,)))
        list(stream((0.5,)))
        try:
            fails((0.5,))
        except ValueError:
            pass
        with mlobs.prediction(monitor=monitor) as op:
            op.record(inputs=[(0.5,)] * 4, outputs=[0.5] * 4)
        with mlobs.prediction(monitor=monitor) as op:
            with mlobs.ranking(model="other") as inner:
                inner.record(inputs=[1], outputs=[2])
            op.record(inputs=(0.5,))
        from otel_mlobs.telemetry import instruments
        status = monitor.status()
        print(instruments.live(), status.features["x"].n, status.prediction.n, status.refused)
        """
    )
    assert ran.out == "False 11 8 0\n"


def test_a_tracer_that_fails_costs_no_count(lenient: None, monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no span can be started, calls run, and rows are counted, decorated or with ``with``."""
    from otel_mlobs.telemetry import instruments

    def broken(*_: Any) -> Any:
        raise RuntimeError("the sampler is broken")

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> float:
        return 0.5

    monkeypatch.setattr(instruments, "live", lambda: True)
    monkeypatch.setattr(instruments, "start_span", broken)
    assert predict((30.0, "Rome")) == 0.5
    assert _counted(monitor) == {"age": 1, "city": 1, "score": 1}
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs=(30.0, "Rome"), outputs=0.5)
    assert _counted(monitor) == {"age": 2, "city": 2, "score": 2}


def test_pickers_that_raise_cost_what_they_pick(lenient: None, monitor: Monitor) -> None:
    """A picker's error is ours to report: the call runs and returns, and what could be read is counted."""

    @mlobs.prediction(monitor=monitor, inputs=lambda row: row["gone"], outputs=lambda result: 1 / 0)
    def predict(row: Any) -> float:
        return 0.5

    assert predict({"age": 1.0}) == 0.5
    assert _counted(monitor) == {"age": 0, "city": 0, "score": 0}


def test_a_monitor_that_breaks_never_shows(lenient: None, monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Whatever fails within counting or describing, calls return, spans are whole, and it is counted as our error."""
    monitor._tally.add_inputs = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    monitor._tally.inspect = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    monitor._tally.add_outputs = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> float:
        return 0.5

    assert predict((30.0, "Rome")) == 0.5
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs=(30.0, "Rome"), outputs=0.25)
    assert [span.status.is_ok for span in mlobs_telemetry.spans] == [True, True]
    assert mlobs_telemetry.point("mlobs.internal.errors", mlobs__internal__component="monitor").value >= 4


# -- what is said at decoration ---------------------------------------------------------------------------------------


def test_model_and_version_are_the_profiles(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Left out they are the profile's, saying the same again is no error, and a version may be a number."""
    for options in ({}, {"model": monitor.profile.model}, {"version": "3"}, {"version": 3}):
        with mlobs.prediction(monitor=monitor, **options):
            pass
    for span in mlobs_telemetry.spans:
        assert span.name == f"prediction {monitor.profile.model}"
        assert span.attributes is not None
        assert span.attributes["mlobs.model.version"] == "3"


@pytest.mark.parametrize(
    ("options", "words"), [({"model": "other"}, "model='other' contradicts"), ({"version": 4}, "version=4 contradicts")]
)
def test_a_contradiction_raises(monitor: Monitor, options: dict[str, Any], words: str) -> None:
    """A model or version that is not the profile's raises, with both, before anything is decorated."""
    with pytest.raises(ValueError, match=words) as raised:
        mlobs.prediction(monitor=monitor, **options)
    assert (monitor.profile.model if "model" in options else "'3'") in str(raised.value)


def test_a_profile_without_version_takes_any(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Where the profile says no version the operation may."""
    with mlobs.prediction(monitor=Monitor(_profile(version=None), clock=clock), version="9"):
        pass
    assert mlobs_telemetry.spans[0].attributes is not None
    assert mlobs_telemetry.spans[0].attributes["mlobs.model.version"] == "9"


def test_inputs_that_are_not_clear_raise(monitor: Monitor) -> None:
    """With several parameters, none, or only collected ones, it is not known which to count: that raises at once."""

    def two(row: Any, user: str) -> float:
        return 0.5

    def none() -> float:
        return 0.5

    def collected(*rows: Any) -> float:
        return 0.5

    for function in (two, none, collected):
        with pytest.raises(ValueError, match=f'{function.__name__} holds the model\'s inputs, as inputs="X"'):
            mlobs.prediction(monitor=monitor)(function)
    with pytest.raises(ValueError, match="inputs='Y' is no parameter of"):
        mlobs.prediction(monitor=monitor, inputs="Y")(two)
    assert mlobs.prediction(model="m")(two)((1,), "u") == 0.5, "without a monitor nothing needs to be said"


def test_what_is_no_monitor_raises() -> None:
    """A profile, a path or a class where a monitor is meant."""
    for wrong in (_profile(), "churn.json", Monitor):
        with pytest.raises(TypeError, match="monitor must be a Monitor"):
            mlobs.prediction(monitor=wrong)  # type: ignore[call-overload]


PICKLED = Monitor(_profile(model="operated pickle"), clock=lambda: 5.0)


@mlobs.prediction(monitor=PICKLED)
def predict_pickled(row: Any) -> float:
    """Decorated at the top of a module, as joblib needs it."""
    return 0.5


def test_a_monitored_function_pickles() -> None:
    """By its name, as an undecorated one does."""
    assert pickle.loads(pickle.dumps(predict_pickled)) is predict_pickled


# -- what spans carry -------------------------------------------------------------------------------------------------


def _attributes(telemetry: Telemetry, index: int = -1) -> dict[str, Any]:
    return dict(telemetry.spans[index].attributes or {})


def _typed(attributes: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    return {key: (type(value), value) for key, value in attributes.items()}


def test_the_span_of_a_call_exactly(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Every attribute, its value and its type, before the first pane has ended; a whole row says nothing odd."""

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> float:
        return 0.25

    predict({"age": 30.0, "city": "Rome"})
    assert _typed(_attributes(mlobs_telemetry)) == _typed(
        {
            "mlobs.operation.name": "prediction",
            "mlobs.model.name": monitor.profile.model,
            "mlobs.model.version": "3",
            "mlobs.profile.id": monitor.profile.id,
            "mlobs.drift.status": "insufficient_data",
            "mlobs.batch.size": 1,
            "mlobs.prediction.min": 0.25,
            "mlobs.prediction.mean": 0.25,
            "mlobs.prediction.max": 0.25,
            "mlobs.prediction.std": 0.0,
        }
    )
    assert mlobs_telemetry.spans[0].events == ()


ODD: list[tuple[Any, dict[str, int]]] = [
    ({"age": None, "city": "Rome"}, {"missing": 1}),
    ({"city": None}, {"missing": 2}),
    ({"age": 99.0, "city": "Ur"}, {"out_of_range": 1, "unseen": 1}),
    ({"age": "30", "city": ["Rome"]}, {"unseen": 2}),
    ({"age": float("inf"), "city": "Oslo"}, {"unseen": 1}),
    ([(NAN, "Rome"), (0.0, "Rome"), (30.0, "Ur"), (30.0, None)], {"missing": 2, "out_of_range": 1, "unseen": 1}),
    ({"age": [30.0, 61.0], "city": ["Ur", "Ur"]}, {"out_of_range": 1, "unseen": 2}),
]


@pytest.mark.parametrize(("inputs", "odd"), ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("form", ["decorated", "with"])
def test_odd_inputs_are_on_the_span(
    monitor: Monitor, mlobs_telemetry: Telemetry, inputs: Any, odd: dict[str, int], form: str
) -> None:
    """How many values of the call are missing, out of range or unseen, as integers; what is none is not there."""
    if form == "decorated":
        mlobs.prediction(monitor=monitor)(lambda row: 0.5)(inputs)
    else:
        with mlobs.prediction(monitor=monitor) as op:
            op.record(inputs=inputs, outputs=0.5)
    found = {key: value for key, value in _attributes(mlobs_telemetry).items() if key.startswith("mlobs.input.")}
    assert _typed(found) == _typed({f"mlobs.input.{name}": count for name, count in odd.items()})


def test_unknown_keys_are_counted_once_though_the_span_is_described(
    monitor: Monitor, mlobs_telemetry: Telemetry
) -> None:
    """Describing a recorded span looks at the row again, and counts nothing twice."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    predict({"age": 1.0, "shoe_size": 43})
    predict([{"age": 1.0, "city": "Rome", "shoe_size": 43}] * 3)
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs={"shoe_size": 43})
    status = monitor.status()
    assert (status.unknown, status.rows) == ({"shoe_size": 5}, 5)
    predict((1.0,))
    assert monitor.status().refused == 1


def test_drift_is_on_every_span_and_the_event_on_the_first(
    monitor: Monitor, clock: Clock, mlobs_telemetry: Telemetry
) -> None:
    """After a drifted pane: status, score and feature on every span; the event on exactly one, with what moved."""

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> Any:
        return np.full(len(row["age"]), 0.99)

    predict(_rows(500, shift=25.0))
    assert _attributes(mlobs_telemetry)["mlobs.drift.status"] == "insufficient_data", "the pane has not ended"
    clock.now += 10
    for _ in range(4):
        predict(_rows(2, shift=25.0))
    first, *others = mlobs_telemetry.spans[1:]
    status = monitor.status()
    for span in (first, *others):
        attributes = dict(span.attributes or {})
        drift = {key: value for key, value in attributes.items() if key.startswith("mlobs.drift.")}
        assert drift["mlobs.drift.status"] == "drift"
        assert drift["mlobs.drift.feature"] == "prediction.score"
        assert type(drift["mlobs.drift.score"]) is float
        assert drift["mlobs.drift.score"] > status.features["age"].psi
        assert set(drift) == {"mlobs.drift.status", "mlobs.drift.feature", "mlobs.drift.score"}
    (event,) = first.events
    assert event.name == "mlobs.drift.changed"
    assert dict(event.attributes or {}) == {
        "mlobs.drift.status": "drift",
        "mlobs.drift.previous_status": "insufficient_data",
        "mlobs.drift.features": ("prediction.score", "age"),
        "mlobs.drift.since": ("1970-01-01 00:16:40Z", "1970-01-01 00:16:40Z"),
        "mlobs.drift.causes": ("values", "values"),
    }
    assert all(span.events == () for span in others)


def test_the_score_on_the_span_is_the_panes(monitor: Monitor, clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """mlobs.drift.score is the PSI of the named feature at the pane's end; it stays until the next pane ends."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    rows = _rows(500, shift=10.0)
    monitor.observe(rows)
    psi = monitor.status().features["age"].psi
    clock.now += 10
    predict((30.0, "Rome"))
    clock.now += 9
    predict((30.0, "Rome"))
    for span in mlobs_telemetry.spans:
        assert dict(span.attributes or {})["mlobs.drift.score"] == pytest.approx(psi, rel=1e-12)
        assert dict(span.attributes or {})["mlobs.drift.feature"] == "age"


def test_becoming_ok_from_nothing_is_no_event(monitor: Monitor, clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Enough data, and all is well: the status changes to ok, quietly, with the furthest feature named."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    monitor.observe(_rows(500), np.random.default_rng(1).random(500))
    clock.now += 10
    predict((30.0, "Rome"))
    attributes = _attributes(mlobs_telemetry)
    assert attributes["mlobs.drift.status"] == "ok"
    assert attributes["mlobs.drift.feature"] in ("age", "city", "prediction.score")
    assert 0 <= attributes["mlobs.drift.score"] < 0.1
    assert mlobs_telemetry.spans[0].events == ()


def _drift_then_ok(monitor: Monitor, clock: Clock) -> None:
    """Good rows until the verdict is over and the alarm has forgotten."""
    for seed in range(600):
        monitor.observe(_rows(30, seed=seed), np.random.default_rng(seed).random(30))
        clock.now += 10
        if monitor.tick() and monitor.drift_attributes["mlobs.drift.status"] == "ok":
            return
    raise AssertionError("it never became ok again")


def test_the_end_of_drift_is_an_event(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """The first span after drift has ended says so, with no features, and what was before."""
    monitor = Monitor(_profile(), window=60.0, pane=10.0, clock=clock)
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    monitor.observe(_rows(200, shift=25.0), np.random.default_rng(0).random(200))
    clock.now += 10
    predict((30.0, "Rome"))
    assert [event.name for event in mlobs_telemetry.spans[0].events] == ["mlobs.drift.changed"]
    _drift_then_ok(monitor, clock)
    predict((30.0, "Rome"))
    predict((30.0, "Rome"))
    (event,) = mlobs_telemetry.spans[1].events
    assert dict(event.attributes or {}) == {
        "mlobs.drift.status": "ok",
        "mlobs.drift.previous_status": "drift",
        "mlobs.drift.features": (),
        "mlobs.drift.since": (),
        "mlobs.drift.causes": (),
    }
    assert mlobs_telemetry.spans[2].events == ()


def _publish(monitor: Monitor, status: str) -> None:
    """Have the monitor publish results of this status, as the end of a pane does."""
    from dataclasses import replace

    results, _ = monitor._counting.now()
    monitor._drift.publish([replace(one, status=status, n=500) for one in results])


def test_another_feature_that_drifts_is_an_event_too(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Where one feature drifts for good, the next one is still announced, with all that drift now."""
    from dataclasses import replace

    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    results, _ = monitor._counting.now()
    for moving in ({"age"}, {"age"}, {"age", "city"}, {"city"}):
        said = [replace(one, status="drift" if one.name in moving else "ok", n=500, since=60.0) for one in results]
        monitor._drift.publish(said)
        predict((30.0, "Rome"))
    events = [[dict(event.attributes or {}) for event in span.events] for span in mlobs_telemetry.spans]
    named = [[set(event["mlobs.drift.features"]) for event in each] for each in events]
    assert named == [[{"age"}], [], [{"age", "city"}], [{"city"}]]
    assert events[2][0]["mlobs.drift.since"] == ("1970-01-01 00:01:00Z",) * 2


def test_a_change_between_spans_is_not_forgotten(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Drift that was said, then too little data, then ok, without a span: the next span says that it is over."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    _publish(monitor, "drift")
    predict((30.0, "Rome"))
    assert len(mlobs_telemetry.spans[0].events) == 1
    _publish(monitor, "insufficient_data")
    _publish(monitor, "ok")
    predict((30.0, "Rome"))
    assert _attributes(mlobs_telemetry)["mlobs.drift.status"] == "ok"
    (event,) = mlobs_telemetry.spans[1].events
    assert dict(event.attributes or {})["mlobs.drift.status"] == "ok"


def test_no_event_for_what_was_over_before_anyone_saw_it(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """Every event's status is that of the span it is on, whatever came and went between two spans."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    for between in (["drift", "ok"], ["drift"], ["ok", "drift", "ok"], ["insufficient_data", "drift"], ["ok"], []):
        for status in between:
            _publish(monitor, status)
        predict((30.0, "Rome"))
        span = mlobs_telemetry.spans[-1]
        for event in span.events:
            assert (
                dict(event.attributes or {})["mlobs.drift.status"] == dict(span.attributes or {})["mlobs.drift.status"]
            )


def test_an_unsampled_call_leaves_the_event_to_the_next_span(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """The event waits for a span that is recorded."""
    predict = mlobs.prediction(monitor=monitor)(lambda row: 0.5)
    _publish(monitor, "drift")
    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))
    token = otel_context.attach(trace.set_span_in_context(parent))
    try:
        predict((30.0, "Rome"))
    finally:
        otel_context.detach(token)
    predict((30.0, "Rome"))
    (span,) = mlobs_telemetry.spans
    assert [event.name for event in span.events] == ["mlobs.drift.changed"]


def test_with_the_with_form_the_event_is_where_the_status_is(
    monitor: Monitor, clock: Clock, mlobs_telemetry: Telemetry
) -> None:
    """A pane that ends within the block: the span with the event carries the new status itself."""
    monitor.observe(_rows(500, shift=25.0))
    with mlobs.prediction(monitor=monitor) as op:
        clock.now += 10
        op.record(inputs=(30.0, "Rome"))
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs=(30.0, "Rome"))
    carrying = [span for span in mlobs_telemetry.spans if span.events]
    assert len(carrying) == 1
    assert dict(carrying[0].attributes or {})["mlobs.drift.status"] == "drift"


def test_at_most_twenty_features_are_named(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Where everything moves, the event names twenty, the furthest first; names that cannot be sent are made so."""
    rng = np.random.default_rng(0)
    names = [f"f{index}\ud800" for index in range(30)]
    profile = Profile.fit({name: rng.normal(size=1_000) for name in names}, model=own_name("operated"))
    monitor = Monitor(profile, pane=10.0, clock=clock)
    monitor.observe({name: rng.normal(size=300) + index / 5 + 1 for index, name in enumerate(names)})
    clock.now += 10
    mlobs.prediction(monitor=monitor)(lambda row: 0.5)({})
    (event,) = mlobs_telemetry.spans[0].events
    named = (event.attributes or {})["mlobs.drift.features"]
    assert isinstance(named, tuple)
    assert len(named) == 20
    by_name = {
        one.name.encode("utf-8", "replace").decode(): one.psi_adjusted for one in monitor.status().features.values()
    }
    assert [by_name[str(name)] for name in named] == sorted(by_name.values(), reverse=True)[:20]
    str(named).encode()


def test_other_operations_are_as_before(monitor: Monitor, mlobs_telemetry: Telemetry) -> None:
    """An operation without the monitor within one that has it counts nothing and carries no drift."""

    @mlobs.ranking(model="ltr")
    def rank(items: Any) -> Any:
        return items

    @mlobs.prediction(monitor=monitor)
    def predict(row: Any) -> float:
        rank([1, 2])
        return 0.5

    predict((30.0, "Rome"))
    assert _counted(monitor) == {"age": 1, "city": 1, "score": 1}
    assert not any("drift" in key or "profile" in key for key in _attributes(mlobs_telemetry, 0))
