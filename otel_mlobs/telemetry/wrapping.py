"""Decorating every kind of callable: functions, methods, coroutines, generators, async generators.

Wrappers are plain closures under ``functools.wraps``: they pickle by name and deep-copy, as joblib, Spark and
scikit-learn's ``clone`` need. A generator's operation is current during each step and never across a ``yield``, where
it would leak into the consumer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.telemetry import guard, instruments, readings
from otel_mlobs.telemetry.kinds import COUNT_OF_YIELDED
from otel_mlobs.telemetry.running import Operation, current_operation, finish, is_empty, resume, start, suspend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from otel_mlobs.telemetry.kinds import Attributes, Definition
    from otel_mlobs.telemetry.observers import Observer

InputPicker = Callable[[tuple[Any, ...], dict[str, Any]], object]
OutputPicker = Callable[[Any], object]


def wrap(
    function: Any, definition: Definition, pick_inputs: InputPicker | None, pick_outputs: OutputPicker | None
) -> Any:
    """Wrap ``function``; what it is (sync, async, generator, async generator) it stays."""
    monitor = definition.monitor
    begin = _beginning(definition, pick_inputs) if monitor is None else _observing(definition, pick_inputs, monitor)
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(called):
        return _wrap_async_generator(function, begin, definition, _tally(definition, pick_outputs))
    if inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(called):
        return _wrap_generator(function, begin, definition, _tally(definition, pick_outputs))
    write = _writing(definition, pick_inputs is not None, pick_outputs)
    observe = None if monitor is None else _outputs_observer(definition, monitor, pick_outputs)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return _wrap_coroutine(function, begin, write, observe)
    return _wrap_function(function, begin, write, observe)


Beginning = Callable[[tuple[Any, ...], dict[str, Any]], "Operation | None"]
Writing = Callable[[Operation, "Attributes", Any], None]


def _beginning(definition: Definition, pick: InputPicker | None) -> Beginning:
    """How a call starts: whether anybody listens, what the inputs say, then the operation."""
    static = definition.span_attributes
    read = definition.read_inputs
    live = instruments.live
    if pick is None or read is None:

        def begin(_args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Operation | None:
            return start(definition, static) if live() else None

        return begin

    def begin_with_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        if not live():
            return None
        attributes = static.copy()
        try:
            read(definition, pick(args, kwargs), attributes)
        except Exception as error:  # noqa: BLE001 - the operation starts without what its inputs say
            guard.report("inputs", error)
        return start(definition, attributes)

    return begin_with_inputs


def _observing(definition: Definition, pick: InputPicker | None, monitor: Observer) -> Beginning:
    """How a monitored call starts: its inputs are counted, whether anybody listens or not, before they can change."""
    static = definition.span_attributes
    read = definition.read_inputs
    live = instruments.live

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation | None:
        inputs = None
        try:
            if pick is not None:
                inputs = pick(args, kwargs)
        except Exception as error:  # noqa: BLE001 - a picker of the user's: the call goes on without its inputs
            guard.report("inputs", error)
        monitor.observe(inputs)
        if not (live() or monitor.follows):  # who waits for labels needs the prediction's id, whoever listens
            return None
        attributes = static.copy()
        monitor.add_drift(attributes)
        try:
            if read is not None and pick is not None:
                read(definition, inputs, attributes)
        except Exception as error:  # noqa: BLE001 - the operation starts without what its inputs say
            guard.report("inputs", error)
        operation = start(definition, attributes)
        if operation is not None and operation.recording:
            monitor.describe(operation.span, inputs)
        return operation

    return begin


def _outputs_observer(definition: Definition, monitor: Observer, pick: OutputPicker | None) -> Callable[[Any], None]:
    """What counts the result of a monitored call, whether anybody listens or not."""

    def observe(result: Any) -> None:
        try:
            outputs = result if pick is None else pick(result)
            if monitor.follows:
                operation = current_operation()
                own = operation.prediction_id if operation._definition is definition and not is_empty(outputs) else None
                monitor.observe(None, outputs, prediction_id=own, variant=definition.variant)
            else:
                monitor.observe(None, outputs)
        except Exception as error:  # noqa: BLE001 - a picker of the user's: the result goes back to the caller
            guard.report("outputs", error)

    return observe


def _writing(definition: Definition, has_inputs: bool, pick: OutputPicker | None) -> Writing | None:
    """What the result says of itself, as attributes."""
    counter, read = definition.counter, definition.read_outputs
    if counter is not None:

        def count(operation: Operation, attributes: Attributes, result: Any) -> None:
            counter.read(operation, attributes, result, result if pick is None else pick(result))

        return count
    if read is None:
        return None
    counts_rows = definition.operation == semconv.PREDICTION and not has_inputs

    def write(_operation: Operation, attributes: Attributes, result: Any) -> None:
        value = result if pick is None else pick(result)
        if counts_rows and value is not None:
            attributes[semconv.BATCH_SIZE] = readings.count(value) or 1
        read(definition, value, attributes)

    return write


def _wrap_function(
    function: Any, begin: Beginning, write: Writing | None, observe: Callable[[Any], None] | None
) -> Any:
    if observe is not None:
        function = _observed(function, observe)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        if operation is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            finish(operation, error)
            raise
        finish(operation, None, write, result)
        return result

    return call


def _observed(function: Any, observe: Callable[[Any], None]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        observe(result)
        return result

    return call


def _observed_coroutine(function: Any, observe: Callable[[Any], None]) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        observe(result)
        return result

    return call


def _wrap_coroutine(
    function: Any, begin: Beginning, write: Writing | None, observe: Callable[[Any], None] | None
) -> Any:
    if observe is not None:
        function = _observed_coroutine(function, observe)

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        operation = begin(args, kwargs)
        if operation is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            finish(operation, error)
            raise
        finish(operation, None, write, result)
        return result

    return call


Tally = Callable[[Any, Any], Any]


def _tally(definition: Definition, pick: OutputPicker | None) -> Tally:
    """What keeps account of the items that a generator yields: how many, or what counts them."""
    counter = definition.counter
    if counter is None:
        return lambda so_far, _item: (so_far or 0) + 1

    def tally(so_far: Any, item: Any) -> Any:
        try:
            return counter.read_item(so_far, item, item if pick is None else pick(item))
        except Exception as error:  # noqa: BLE001 - the item goes to the consumer, whatever it says of itself
            guard.report("outputs", error)
            return so_far

    return tally


def _total_writer(definition: Definition) -> Writing | None:
    if definition.counter is not None:
        return definition.counter.close
    key = COUNT_OF_YIELDED.get(definition.operation)
    if key is None:
        return None

    def write(_operation: Operation, attributes: Attributes, yielded: Any) -> None:
        attributes[key] = yielded or 0

    return write


def _wrap_generator(function: Any, begin: Beginning, definition: Definition, tally: Tally) -> Any:
    write = _total_writer(definition)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        operation = begin(args, kwargs)
        if operation is None:
            return (yield from function(*args, **kwargs))
        yielded = None
        returned = None
        try:
            generator = function(*args, **kwargs)
            step, argument = generator.send, None
            while True:
                try:
                    item = step(argument)
                except StopIteration as stop:
                    returned = stop.value
                    break
                suspend(operation)
                yielded = tally(yielded, item)
                try:
                    argument = yield item
                    step = generator.send
                except BaseException as thrown:  # noqa: BLE001 - handed to the generator, whose answer counts
                    step, argument = generator.throw, thrown
                resume(operation)
        except GeneratorExit:  # the consumer had enough: what was yielded still counts
            finish(operation, None, write, yielded)
            raise
        except BaseException as error:
            finish(operation, error)
            raise
        finish(operation, None, write, yielded)
        return returned

    return call


def _wrap_async_generator(function: Any, begin: Beginning, definition: Definition, tally: Tally) -> Any:
    write = _total_writer(definition)

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        operation = begin(args, kwargs)
        yielded = None
        try:
            generator = function(*args, **kwargs)
            step, argument = generator.asend, None
            while True:
                try:
                    item = await step(argument)
                except StopAsyncIteration:
                    break
                if operation is not None:
                    suspend(operation)
                    yielded = tally(yielded, item)
                try:
                    argument = yield item
                    step = generator.asend
                except BaseException as thrown:  # noqa: BLE001 - handed to the generator, whose answer counts
                    step, argument = generator.athrow, thrown
                if operation is not None:
                    resume(operation)
        except GeneratorExit as closed:  # the consumer had enough: what was yielded still counts
            if operation is not None:
                finish(operation, closed, write, yielded)
            raise
        except BaseException as error:
            if operation is not None:
                finish(operation, error)
            raise
        if operation is not None:
            finish(operation, None, write, yielded)

    return call
