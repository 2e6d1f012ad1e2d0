"""Every kind of callable stays what it was, and every call of it is one span."""

from __future__ import annotations

import pytest

pytest.importorskip("joblib")
pytest.importorskip("sklearn")

import asyncio
import contextvars
import copy
import functools
import gc
import inspect
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import joblib
from decorated_functions import Estimator, Model, score
from opentelemetry import context as otel_context
from opentelemetry import trace
from sklearn.base import clone

import otel_mlobs as mlobs
from otel_mlobs.telemetry.running import IDLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from otel_mlobs.testing import Telemetry

pytestmark = pytest.mark.usefixtures("quiet_opentelemetry")


def current_span_id() -> int:
    """The id of the span that is current, 0 where none is."""
    return trace.get_current_span().get_span_context().span_id


def nothing_is_current() -> bool:
    """Whether neither a span nor an operation is current."""
    return current_span_id() == 0 and mlobs.current_operation() is IDLE


@mlobs.operation("count")
def counting(n: int) -> Generator[int, Any, str]:
    """Yield numbers and return a word."""
    for i in range(n):
        assert mlobs.current_operation().name == "count"
        yield i
    return "end"


@mlobs.operation("echo")
def echoing() -> Generator[Any, Any, str]:
    """Answer how much was sent or thrown in, until told to stop."""
    received: list[Any] = []
    while True:
        try:
            value = yield len(received)
        except ValueError as error:
            received.append(error.args)
        else:
            if value == "stop":
                return repr(received)
            received.append(value)


# -- what a decorated callable is ------------------------------------------------------------------------------------


def bare(f: Any) -> Any:
    """The decorator without parentheses."""
    return mlobs.ranking(f)


def with_arguments(f: Any) -> Any:
    """The decorator with arguments."""
    return mlobs.ranking(model="ltr", version=7)(f)


both_ways = pytest.mark.parametrize("decorate", [bare, with_arguments])


@both_ways
def test_name_doc_and_signature_are_preserved(decorate: Any) -> None:
    """A decorated function shows its own name, documentation, annotations and parameters."""

    def rank(features: dict[str, float], /, items: list[int], *, limit: int = 5) -> list[int]:
        """Order the items."""
        return items[:limit]

    decorated = decorate(rank)
    assert decorated.__name__ == "rank"
    assert decorated.__qualname__ == rank.__qualname__
    assert decorated.__module__ == __name__
    assert decorated.__doc__ == "Order the items."
    assert decorated.__annotations__ == rank.__annotations__
    assert inspect.signature(decorated) == inspect.signature(rank)
    assert decorated.__wrapped__ is rank
    assert inspect.isfunction(decorated)


@both_ways
def test_each_kind_is_recognised_as_what_it_was(decorate: Any) -> None:
    """``inspect`` tells coroutine, generator and async generator functions apart as before."""

    def plain() -> None: ...
    async def coroutine() -> None: ...
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    asks = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    for function in (plain, coroutine, generator, async_generator):
        decorated = decorate(function)
        assert [ask(decorated) for ask in asks] == [ask(function) for ask in asks]


@both_ways
def test_a_function_returns_what_it_returned(mlobs_telemetry: Telemetry, decorate: Any) -> None:
    """A plain function gives the very object it made, and one span."""
    result = object()
    assert decorate(lambda: result)() is result
    assert len(mlobs_telemetry.spans) == 1


@both_ways
def test_methods(mlobs_telemetry: Telemetry, decorate: Any) -> None:
    """Methods get their instance, classmethods their class, staticmethods neither, in both decorator orders."""

    class Ranker:
        @decorate
        def method(self, x: int) -> Any:
            return self, x

        @decorate
        @classmethod
        def outer_class(cls, x: int) -> Any:
            return cls, x

        @classmethod
        @decorate
        def inner_class(cls, x: int) -> Any:
            return cls, x

        @decorate
        @staticmethod
        def outer_static(x: int) -> Any:
            return x

        @staticmethod
        @decorate
        def inner_static(x: int) -> Any:
            return x

    class Special(Ranker):
        pass

    ranker = Special()
    assert ranker.method(1) == (ranker, 1)
    assert ranker.outer_class(2) == (Special, 2) == Special.outer_class(2)
    assert ranker.inner_class(2) == (Special, 2) == Special.inner_class(2)
    assert ranker.outer_static(3) == 3 == Special.outer_static(3)
    assert ranker.inner_static(3) == 3 == Special.inner_static(3)
    assert isinstance(inspect.getattr_static(Ranker, "outer_class"), classmethod)
    assert isinstance(inspect.getattr_static(Ranker, "outer_static"), staticmethod)
    assert len(mlobs_telemetry.spans) == 9


@both_ways
def test_callable_objects_partials_and_lambdas(mlobs_telemetry: Telemetry, decorate: Any) -> None:
    """A callable object, a partial, a bound method, a built-in and a lambda can be decorated."""

    class Called:
        def __call__(self, x: int) -> int:
            return x + 1

    def add(x: int, y: int) -> int:
        return x + y

    assert decorate(Called())(1) == 2
    assert decorate(functools.partial(add, 1))(2) == 3
    assert decorate(lambda x: x * 2)(2) == 4
    assert decorate([3, 1].index)(1) == 1
    assert decorate(sorted)([3, 1]) == [1, 3]
    assert len(mlobs_telemetry.spans) == 5


def test_a_span_is_named_after_the_function_where_nothing_else_names_it(mlobs_telemetry: Telemetry) -> None:
    """Without model, source or view the target is the function, also through a partial; an object lends its class."""

    class Scorer:
        def __call__(self) -> None: ...

    def by_rules() -> None: ...

    mlobs.prediction(by_rules)()
    mlobs.prediction(functools.partial(functools.partial(by_rules)))()
    mlobs.prediction(Scorer())()
    assert [span.name for span in mlobs_telemetry.spans] == [
        "prediction by_rules", "prediction by_rules", "prediction Scorer",
    ]  # fmt: skip


def test_asynchronous_callable_objects_and_partials_are_awaited(mlobs_telemetry: Telemetry) -> None:
    """The span of an object with ``async def __call__``, or of a partial of a coroutine, ends when it was awaited."""

    class Called:
        async def __call__(self, x: int) -> int:
            await asyncio.sleep(0)
            return current_span_id()

    async def coroutine(x: int) -> int:
        await asyncio.sleep(0)
        return current_span_id()

    for function in (Called(), functools.partial(coroutine, 1)):
        decorated = mlobs.operation("load")(function)
        assert inspect.iscoroutinefunction(decorated)
        arguments = () if isinstance(function, functools.partial) else (1,)
        span_id = asyncio.run(decorated(*arguments))  # type: ignore[arg-type]
        assert span_id == mlobs_telemetry.spans[-1].context.span_id


def test_callable_objects_that_generate_are_current_at_each_step(mlobs_telemetry: Telemetry) -> None:
    """An object whose ``__call__`` is a generator function is treated as one."""

    class Called:
        def __call__(self) -> Any:
            yield mlobs.current_operation().name

    assert list(mlobs.operation("stream")(Called())()) == ["stream"]
    assert len(mlobs_telemetry.spans) == 1


def test_classes_and_other_things_are_refused() -> None:
    """A class, a property and a value are named in the error when decorated."""
    with pytest.raises(TypeError, match="got the class Model: decorate its methods"):
        mlobs.prediction(Model)
    with pytest.raises(TypeError, match="decorates callables, got <property"):
        mlobs.operation("x")(property(len))  # type: ignore[type-var]
    with pytest.raises(TypeError, match="name the argument, as model='churn'"):
        mlobs.prediction("churn")  # type: ignore[call-overload]


# -- copies ----------------------------------------------------------------------------------------------------------


def test_decorated_functions_pickle_and_deep_copy(mlobs_telemetry: Telemetry) -> None:
    """Pickle finds a decorated function by name, deepcopy returns it, and both still trace."""
    assert pickle.loads(pickle.dumps(score)) is score
    assert copy.deepcopy(score) is score
    assert pickle.loads(pickle.dumps(score))([[1.0, 2.0]]) == [3.0]
    assert len(mlobs_telemetry.spans) == 1


def test_instances_with_decorated_methods_pickle_and_deep_copy(mlobs_telemetry: Telemetry) -> None:
    """Instances and their bound methods survive pickle, deepcopy and joblib's process pool."""
    model = Model(2.0)
    assert pickle.loads(pickle.dumps(model)).score([1.0]) == [2.0]
    assert copy.deepcopy(model).score([1.0]) == [2.0]
    assert pickle.loads(pickle.dumps(model.score))([1.0]) == [2.0]
    assert pickle.loads(pickle.dumps(Model.rank))([2, 1]) == [1, 2]
    assert len(mlobs_telemetry.spans) == 4


def test_joblib_hashes_and_persists_decorated_callables(tmp_path: Any) -> None:
    """Joblib dumps and loads an instance and hashes a decorated function the same each time."""
    joblib.dump([Model(2.0), score], tmp_path / "model.joblib")
    model, function = joblib.load(tmp_path / "model.joblib")
    assert model.score([1.0]) == [2.0]
    assert function is score
    assert joblib.hash(score) == joblib.hash(function)


def test_scikit_learn_clones_an_estimator_with_a_decorated_method(mlobs_telemetry: Telemetry) -> None:
    """``clone`` makes an equal, unfitted estimator whose decorated method works."""
    copied = clone(Estimator(threshold=0.25)).fit([[0.0], [1.0]], [0, 1])
    assert copied.get_params() == {"threshold": 0.25}
    assert copied.predict([[0.3], [0.2]]).tolist() == [1, 0]
    assert mlobs_telemetry.span("prediction tree").attributes["mlobs.batch.size"] == 2  # type: ignore[index]


# -- coroutines ------------------------------------------------------------------------------------------------------


def test_a_coroutine_runs_within_its_span(mlobs_telemetry: Telemetry) -> None:
    """The span covers the awaiting and is the parent of what the coroutine calls; afterwards nothing is current."""

    @mlobs.operation("inner")
    async def inner() -> int:
        await asyncio.sleep(0)
        return current_span_id()

    @mlobs.operation("outer")
    async def outer() -> list[int]:
        return [*await asyncio.gather(inner(), inner()), current_span_id()]

    async def main() -> list[int]:
        found = await outer()
        assert nothing_is_current()
        return found

    first, second, own = asyncio.run(main())
    assert first != second
    span = mlobs_telemetry.span("outer")
    assert span.context.span_id == own
    assert {child.context.span_id for child in mlobs_telemetry.children(span)} == {first, second}


def test_a_coroutine_that_is_never_awaited_leaves_no_span(mlobs_telemetry: Telemetry) -> None:
    """Closing a coroutine that has not begun records nothing, as its body never ran."""

    @mlobs.operation("load")
    async def load() -> None: ...

    load().close()
    assert mlobs_telemetry.spans == []


def test_a_coroutine_closed_in_another_context_restores_nothing(mlobs_telemetry: Telemetry) -> None:
    """Its span ends without an error, and neither context is disturbed."""

    @mlobs.operation("wait")
    async def wait() -> None:
        await asyncio.sleep(0)

    coroutine = wait()
    elsewhere = contextvars.copy_context()
    elsewhere.run(coroutine.send, None)
    assert nothing_is_current()
    with mlobs.operation("other") as other:
        coroutine.close()
        assert mlobs.current_operation() is other
    span = mlobs_telemetry.span("wait")
    assert span.status.is_unset
    assert span.events == ()


def test_a_coroutine_closed_in_a_copy_of_its_own_context_logs_nothing(mlobs_telemetry: Telemetry) -> None:
    """As when the collector closes it during a task that it started: the context looks the same and is another."""

    @mlobs.operation("wait")
    async def wait() -> None:
        inside.append(contextvars.copy_context())
        await asyncio.sleep(0)

    inside: list[contextvars.Context] = []
    coroutine = wait()
    contextvars.copy_context().run(coroutine.send, None)
    inside[0].run(coroutine.close)
    assert mlobs_telemetry.span("wait").status.is_unset


def test_a_pending_task_that_is_collected_ends_its_span(mlobs_telemetry: Telemetry) -> None:
    """A task destroyed with its loop ends its span; OpenTelemetry logs no failed detach."""

    @mlobs.operation("wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task
    gc.collect()
    assert mlobs_telemetry.span("wait").status.is_unset
    assert nothing_is_current()


def test_stop_iteration_in_each_kind_is_what_python_makes_of_it(mlobs_telemetry: Telemetry) -> None:
    """A function may raise StopIteration; in a coroutine or generator it becomes RuntimeError, decorated or not."""

    @mlobs.operation("f")
    def function() -> None:
        raise StopIteration(1)

    @mlobs.operation("c")
    async def coroutine() -> None:
        raise StopIteration(1)

    @mlobs.operation("g")
    def generator() -> Any:
        yield 1
        raise StopIteration(1)  # noqa: PLR1708 - what is tested

    with pytest.raises(StopIteration):
        function()
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        asyncio.run(coroutine())
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        list(generator())
    assert [(span.attributes or {})["error.type"] for span in mlobs_telemetry.spans] == [
        "StopIteration", "RuntimeError", "RuntimeError",
    ]  # fmt: skip


# -- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_gives_items_and_its_return_value(mlobs_telemetry: Telemetry) -> None:
    """``yield from`` a decorated generator gets every item and the returned value; one span covers all steps."""

    def consumer() -> Generator[Any, Any, None]:
        result = yield from counting(3)
        yield result

    assert list(consumer()) == [0, 1, 2, "end"]
    assert len(mlobs_telemetry.spans) == 1


def test_send_and_throw_reach_the_generator() -> None:
    """What is sent and thrown arrives inside, what it answers comes out."""
    generator = echoing()
    assert next(generator) == 0
    assert generator.send("a") == 1
    assert generator.throw(ValueError("b", 2)) == 2
    with pytest.raises(StopIteration) as stopped:
        generator.send("stop")
    assert stopped.value.value == "['a', ('b', 2)]"


def test_a_thrown_exception_that_is_not_caught_comes_back_itself(mlobs_telemetry: Telemetry) -> None:
    """The same object is raised, and the span says which type it was."""
    generator = counting(2)
    next(generator)
    thrown = KeyError("k")
    with pytest.raises(KeyError) as raised:
        generator.throw(thrown)
    assert raised.value is thrown
    assert (mlobs_telemetry.span("count counting").attributes or {})["error.type"] == "KeyError"


def test_a_generator_that_is_closed_is_no_error(mlobs_telemetry: Telemetry) -> None:
    """``close`` runs the generator's ``finally`` within its operation and ends the span without an error."""
    cleaned: list[str] = []

    @mlobs.candidate_generation(source="index")
    def candidates() -> Generator[int, None, None]:
        try:
            yield 1
            yield 2
        finally:
            cleaned.append(mlobs.current_operation().name)

    generator = candidates()
    next(generator)
    generator.close()
    span = mlobs_telemetry.span("candidate_generation index")
    assert cleaned == ["candidate_generation"]
    assert span.status.is_unset
    assert (span.attributes or {})["mlobs.candidate.count"] == 1
    assert nothing_is_current()


@pytest.mark.parametrize("ending", ["returns", "passes on", "yields"])
def test_generator_exit_thrown_or_closed_is_answered_as_by_the_bare_generator(ending: str) -> None:
    """Whatever a generator makes of GeneratorExit, its consumer sees the same with and without the decorator."""

    def stubborn() -> Generator[str, None, str]:
        try:
            yield "first"
        except GeneratorExit:
            if ending == "passes on":
                raise
            if ending == "yields":
                yield "more"
        return "returned"

    def told(function: Any, tell: str) -> Any:
        generator = function()
        next(generator)
        try:
            return generator.close() if tell == "close" else generator.throw(GeneratorExit())
        except BaseException as error:
            return type(error), error.args

    decorated = mlobs.operation("stubborn")(stubborn)
    for tell in ("close", "throw"):
        assert told(decorated, tell) == told(stubborn, tell)
    with mlobs.testing.strict():
        gc.collect()


def test_a_generator_that_never_starts_leaves_no_span(mlobs_telemetry: Telemetry) -> None:
    """Its body never ran, so there is nothing to time."""
    counting(3).close()
    del_me = counting(3)
    del del_me
    gc.collect()
    assert mlobs_telemetry.spans == []


def test_nothing_leaks_across_a_yield(mlobs_telemetry: Telemetry) -> None:
    """Between the steps of two generators advanced in turn, the consumer's own operation is current."""
    with mlobs.operation("request") as request:
        first, second = counting(2), counting(2)
        for generator in (first, second, first, second):
            next(generator)
            assert mlobs.current_operation() is request
        first.close()
        assert mlobs.current_operation() is request
        assert list(second) == []
        assert mlobs.current_operation() is request
    parent = mlobs_telemetry.span("request")
    assert [span.name for span in mlobs_telemetry.children(parent)] == ["count counting"] * 2


def test_a_generator_may_be_consumed_in_other_threads(mlobs_telemetry: Telemetry) -> None:
    """Each step in a thread of its own, as web frameworks do it: current there during the step, nowhere after."""
    generator = counting(3)
    left: list[bool] = []

    def step() -> int:
        item = next(generator)
        left.append(nothing_is_current())
        return item

    for expected in range(3):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(step).result() == expected
    generator.close()
    assert left == [True, True, True]
    assert mlobs_telemetry.span("count counting").status.is_unset


def test_a_generator_in_a_reference_cycle_is_ended_by_the_collector(mlobs_telemetry: Telemetry) -> None:
    """The collector closes it in whatever context it runs, and disturbs none."""
    holder: dict[str, Any] = {}
    holder["self"], holder["generator"] = holder, counting(3)
    next(holder["generator"])
    with mlobs.operation("other") as other:
        del holder
        gc.collect()
        assert mlobs.current_operation() is other
    assert mlobs_telemetry.span("count counting").status.is_unset


def test_the_items_of_a_generator_are_counted(mlobs_telemetry: Telemetry) -> None:
    """A ranking that yields has as many outputs as it yielded."""

    @mlobs.ranking(model="ltr")
    def rank(items: list[int]) -> Any:
        yield from items

    assert list(rank([5, 6, 7])) == [5, 6, 7]
    attributes = mlobs_telemetry.span("ranking ltr").attributes or {}
    assert attributes["mlobs.ranking.input.count"] == 3
    assert attributes["mlobs.ranking.output.count"] == 3


# -- async generators ------------------------------------------------------------------------------------------------


@mlobs.operation("stream")
async def streaming() -> AsyncGenerator[Any, Any]:
    """As ``echoing``, asynchronous, five times."""
    received: list[Any] = []
    for _ in range(5):
        assert mlobs.current_operation().name == "stream"
        await asyncio.sleep(0)
        try:
            value = yield len(received)
        except ValueError as error:
            received.append(error)
        else:
            received.append(value)
            if value == "stop":
                return


def test_asend_athrow_and_aclose_reach_the_async_generator(mlobs_telemetry: Telemetry) -> None:
    """What is sent and thrown arrives inside; closing is no error; between steps nothing is current."""

    async def main() -> None:
        generator = streaming()
        assert await generator.asend(None) == 0
        assert nothing_is_current()
        assert await generator.asend("a") == 1
        assert await generator.athrow(ValueError("b")) == 2
        assert nothing_is_current()
        await generator.aclose()
        assert nothing_is_current()
        other = streaming()
        await other.__anext__()
        with pytest.raises(StopAsyncIteration):
            await other.asend("stop")
        failing = streaming()
        await failing.__anext__()
        thrown = KeyError("k")
        with pytest.raises(KeyError) as raised:
            await failing.athrow(thrown)
        assert raised.value is thrown

    asyncio.run(main())
    assert [(span.attributes or {}).get("error.type") for span in mlobs_telemetry.spans] == [None, None, "KeyError"]


@pytest.mark.parametrize("ending", ["returns", "passes on", "yields"])
def test_an_async_generator_answers_generator_exit_as_the_bare_one(ending: str) -> None:
    """Thrown or by ``aclose``, what it makes of GeneratorExit is what its consumer sees."""

    async def stubborn() -> AsyncGenerator[str, None]:
        try:
            yield "first"
        except GeneratorExit:
            if ending == "passes on":
                raise
            if ending == "yields":
                yield "more"

    async def told(function: Any, tell: str) -> Any:
        generator = function()
        await generator.__anext__()
        try:
            return await (generator.aclose() if tell == "close" else generator.athrow(GeneratorExit()))
        except BaseException as error:
            return type(error), error.args

    async def main() -> None:
        decorated = mlobs.operation("stubborn")(stubborn)
        for tell in ("close", "throw"):
            assert await told(decorated, tell) == await told(stubborn, tell)

    asyncio.run(main())


def test_an_async_generator_left_behind_is_ended_by_the_loop(mlobs_telemetry: Telemetry) -> None:
    """Breaking out of ``async for`` leaves it to the event loop, which closes it in a task of its own."""

    async def main() -> None:
        async for _ in streaming():
            break
        assert nothing_is_current()

    asyncio.run(main())
    assert mlobs_telemetry.span("stream streaming").status.is_unset


def test_async_generators_interleave(mlobs_telemetry: Telemetry) -> None:
    """Two of them advanced in turn keep to themselves, in one task and in two."""

    async def drain() -> int:
        return len([item async for item in streaming()])

    async def main() -> None:
        with mlobs.operation("request") as request:
            first, second = streaming(), streaming()
            for generator in (first, second, first, second):
                await generator.__anext__()
                assert mlobs.current_operation() is request
            await first.aclose()
            await second.aclose()
            assert await asyncio.gather(drain(), drain()) == [5, 5]

    asyncio.run(main())
    assert len(mlobs_telemetry.children(mlobs_telemetry.span("request"))) == 4


# -- one instance, many at once --------------------------------------------------------------------------------------


def test_one_instance_may_be_entered_recursively(mlobs_telemetry: Telemetry) -> None:
    """Each entry is its own span, the inner one beneath the outer one."""
    step = mlobs.operation("step", attributes={"kept": True})
    with step as outer:
        with step as inner:
            assert mlobs.current_operation() is inner
        assert mlobs.current_operation() is outer
    inner_span, outer_span = mlobs_telemetry.spans
    assert inner_span.parent.span_id == outer_span.context.span_id  # type: ignore[union-attr]
    assert outer_span.parent is None


def test_one_instance_may_be_entered_from_many_threads(mlobs_telemetry: Telemetry) -> None:
    """Of 8 threads that enter one instance 200 times each, every one ends its own operation and no other's."""
    step = mlobs.operation("step")
    wrong: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(200):
            with step as op:
                op.set_attribute("mine", number)
                with step as inner:
                    inner.set_attribute("mine", number)
                if not op.recording:
                    wrong.append(f"thread {number}: turn {turn} was ended by another")
            if op.recording or not nothing_is_current():
                wrong.append(f"thread {number}: turn {turn} was not ended")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    spans = {span.context.span_id: span for span in mlobs_telemetry.spans}
    assert len(spans) == 3200
    for span in spans.values():
        if span.parent is not None:
            assert (spans[span.parent.span_id].attributes or {})["mine"] == (span.attributes or {})["mine"]


def test_one_instance_may_be_entered_from_many_tasks(mlobs_telemetry: Telemetry) -> None:
    """Tasks that leave in another order than they entered end each their own operation."""
    step = mlobs.operation("step")

    async def work(number: int) -> None:
        with step as op:
            op.set_attribute("mine", number)
            for _ in range((number * 7) % 10):
                await asyncio.sleep(0)
            assert op.recording
            assert mlobs.current_operation() is op
        assert not op.recording

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(50)))

    asyncio.run(main())
    assert sorted((span.attributes or {})["mine"] for span in mlobs_telemetry.spans) == [*range(50)]  # type: ignore[type-var]


def test_an_operation_left_in_another_context_is_still_ended(mlobs_telemetry: Telemetry) -> None:
    """Frameworks enter a dependency in one worker thread and leave it in another: its span ends, nothing is logged."""
    spec = mlobs.operation("dependency")
    op = contextvars.copy_context().run(spec.__enter__)
    contextvars.copy_context().run(spec.__exit__, None, None, None)
    assert not op.recording
    assert mlobs_telemetry.span("dependency").status.is_unset


def test_an_ended_operation_is_no_garbage(mlobs_telemetry: Telemetry) -> None:
    """Reference counting frees it: nothing waits for the collector, failed operations included."""

    @mlobs.prediction
    def fail(x: int) -> float:
        raise ValueError

    def run() -> None:
        with mlobs.operation("request"):
            score([[1.0]])
            try:
                fail(1)
            except ValueError:
                pass

    run()
    gc.collect()
    gc.disable()
    try:
        run()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_the_chain_of_tasks_that_start_their_successor_is_not_kept(mlobs_telemetry: Telemetry) -> None:
    """An ended operation forgets its parent, or a periodic task would keep every run before it in memory."""
    seen: list[Any] = []

    async def again(left: int) -> None:
        with mlobs.operation("tick") as op:
            seen.append(op)
            task = asyncio.ensure_future(again(left - 1)) if left else None
        if task is not None:
            await task

    asyncio.run(again(3))
    assert [op._parent for op in seen] == [None] * 4


def test_a_thread_pool_sees_the_operation_only_through_a_copied_context(mlobs_telemetry: Telemetry) -> None:
    """A bare thread starts with nothing current; a copied context carries the operation and the parent along."""
    with mlobs.operation("request") as request, ThreadPoolExecutor(1) as pool:
        assert pool.submit(mlobs.current_operation).result() is IDLE
        assert pool.submit(contextvars.copy_context().run, mlobs.current_operation).result() is request
    assert otel_context.get_current() == {}
