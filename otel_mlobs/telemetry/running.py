"""One running operation: started, current, written to, ended.

What a call costs was measured part by part (``benchmarks/overhead.py``). That is why attributes are given when the
span starts, why ``start_span``, ``attach`` and ``detach`` stand here instead of ``start_as_current_span``, and why
what can be known at decoration waits in a :class:`~otel_mlobs.telemetry.kinds.Definition`.
"""

from __future__ import annotations

from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_mlobs import semconv
from otel_mlobs.telemetry import failures, guard, hooks, instruments, prediction_ids, readings
from otel_mlobs.telemetry.kinds import Definition

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_mlobs.telemetry.durations import Recorder
    from otel_mlobs.telemetry.kinds import Attributes, AttributeValue

_KEY = otel_context.create_key("otel_mlobs.operation")
_INTERNAL = trace.SpanKind.INTERNAL
_ERROR = trace.StatusCode.ERROR

_EMPTY = otel_context.Context()

_record_messages = False


def record_exception_messages(record: bool) -> None:
    """Whether spans carry exception messages where an operation does not say so itself (default: they do not)."""
    global _record_messages  # noqa: PLW0603 - a setting of the process
    _record_messages = record


def records_messages() -> bool:
    """What :func:`record_exception_messages` was told."""
    return _record_messages


class Operation:
    """A running operation: what ``with prediction(...) as op`` gives and :func:`current_operation` returns.

    Its methods may be called from any thread; once the operation has ended they change nothing.
    """

    __slots__ = ("_context", "_definition", "_parent", "_prediction_id", "_recorded", "_recording", "_span", "_started",
                 "_token")  # fmt: skip

    _definition: Definition
    _span: Span
    _context: Context
    _token: Any
    _parent: Operation | None
    _prediction_id: str | None
    _recorded: BaseException | None
    _recording: bool
    _started: float

    @property
    def name(self) -> str:
        """The operation's name, as ``"prediction"``."""
        return self._definition.operation

    @property
    def model(self) -> str | None:
        """The model's name, where one was given."""
        return self._definition.model

    @property
    def version(self) -> str | None:
        """The model's version, where one was given."""
        return self._definition.version

    @property
    def gpu(self) -> int | Literal["current"] | None:
        """Which GPU it was said to use, by number or as the framework in use says; None where nothing was said."""
        return self._definition.gpu

    @property
    def span(self) -> Span:
        """The OpenTelemetry span, for what this class does not offer."""
        return self._span

    @property
    def recording(self) -> bool:
        """Whether what is written to the operation will be seen: false once it ended or if it is not sampled."""
        return self._recording

    @property
    def prediction_id(self) -> str | None:
        """By what a later label finds this prediction: what it was set to, else made when it is first asked for.

        None where no operation runs. Of a batch it is the first part of every row's id: ``<id>.0``, ``<id>.1``, ….
        """
        if self._prediction_id is None and self._context is not _EMPTY and self is not IDLE:
            self._prediction_id = prediction_ids.new()
            self.set_attribute(semconv.PREDICTION_ID, self._prediction_id)
        return self._prediction_id

    @prediction_id.setter
    def prediction_id(self, value: object) -> None:
        if self is IDLE:
            return
        try:
            self._prediction_id = prediction_ids.checked(value)
        except (TypeError, ValueError) as error:  # a request without an id of its own goes on, and gets one of ours
            guard.report("prediction_id", error)
            return
        self.set_attribute(semconv.PREDICTION_ID, self._prediction_id)

    @property
    def told_prediction_id(self) -> str | None:
        """The prediction's id if it was set or asked for; none is made."""
        return self._prediction_id

    def has_recorded(self, error: BaseException) -> bool:
        """Whether ``error`` is written to this operation's span or to one beneath it."""
        return self._recorded is error

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute of the span: a string, boolean, integer, float, or a sequence of one of these.

        A numpy scalar becomes the Python one. NaN and infinities are written as text: as numbers they make Jaeger
        fail every search that finds the span.
        """
        if self._recording:
            try:
                self._span.set_attribute(key, readings.plain(value))
            except Exception as error:  # noqa: BLE001 - a foreign span must not break the caller
                guard.report("set_attribute", error)

    def record(self, *, inputs: object = None, outputs: object = None, prediction_id: object = None) -> None:
        """Put on the span what ``inputs`` and ``outputs`` say of themselves: sizes, counts, score summaries.

        Takes rows, batches, arrays, frames, tensors, lists and mappings, as :mod:`otel_mlobs.telemetry.readings`
        describes; what cannot be read leaves no attribute. The values themselves are never recorded.
        ``prediction_id`` is what a later label will name the prediction by, of a batch one for each row; where it is
        left out, and the monitor waits for labels, :attr:`prediction_id` is.
        """
        definition = self._definition
        monitor = definition.monitor
        if monitor is not None and self._context is not _EMPTY:  # counts are kept of what is not sampled, too
            if monitor.follows and outputs is not None:
                if prediction_id is None and not is_empty(outputs):
                    prediction_id = self.prediction_id
                monitor.observe(inputs, outputs, prediction_id=prediction_id, variant=definition.variant)
            else:
                monitor.observe(inputs, outputs)
        counter = definition.counter if self._context is not _EMPTY else None
        if not self._recording and counter is None:
            return
        try:
            attributes: Attributes = {}
            if counter is not None and (outputs is not None or inputs is None):  # None is an answer: nothing was found
                counter.read(self, attributes, outputs, outputs)
                if not self._recording:
                    return
            if outputs is not None and definition.read_outputs is not None:
                if definition.operation == semconv.PREDICTION and inputs is None:
                    _batch_size_from_outputs(outputs, attributes)
                definition.read_outputs(definition, outputs, attributes)
            if inputs is not None and definition.read_inputs is not None:
                definition.read_inputs(definition, inputs, attributes)
            _set(self._span, attributes)
            if definition.monitor is not None:
                definition.monitor.describe(self._span, inputs)
        except Exception as error:  # noqa: BLE001 - an unreadable output is ours to report, not the caller's to catch
            guard.report("record", error)


def _batch_size_from_outputs(outputs: object, attributes: Attributes) -> None:
    attributes[semconv.BATCH_SIZE] = readings.count(outputs) or 1


def is_empty(outputs: object) -> bool:
    """Whether ``outputs`` are a batch without a row or a list without an item, of which no label will come."""
    try:
        return hasattr(outputs, "__len__") and not isinstance(outputs, str) and len(outputs) == 0
    except Exception:  # noqa: BLE001 - an array of no dimension has a length that raises
        return False


def idle_of(definition: Definition) -> Operation:
    """An operation that nobody listens to: it changes nothing, but its monitor still counts what it is told."""
    idle = Operation()
    idle._definition = definition
    idle._context = otel_context.Context()
    idle._span = trace.INVALID_SPAN
    idle._recording = False
    idle._prediction_id = None
    return idle


IDLE = idle_of(Definition("none", None, {}))
"""Takes everything and does nothing: where no operation runs, or nobody listens."""


def current_operation() -> Operation:
    """The innermost operation around the caller, from however deep inside; elsewhere one that ignores everything."""
    found = otel_context.get_value(_KEY)
    return found if isinstance(found, Operation) else IDLE


def start(definition: Definition, attributes: Attributes) -> Operation | None:
    """Start an operation and make it current; None where our side failed, and then nothing is left behind."""
    try:
        if definition.generation != instruments.generation:
            _prepare(definition)
        operation = Operation()
        operation._definition = definition
        operation._recorded = operation._prediction_id = None
        parent = otel_context.get_current()
        operation._parent = parent.get(_KEY)  # type: ignore[assignment]
        operation._span = span = instruments.start_span(
            definition.span_name, parent, _INTERNAL, attributes, None, None, False, False
        )
        operation._recording = span.is_recording()
        operation._context = context = otel_context.set_value(_KEY, operation, trace.set_span_in_context(span, parent))
        operation._started = perf_counter()
        operation._token = otel_context.attach(context)
    except Exception as error:  # noqa: BLE001 - whatever a sampler or processor raises, the call goes on
        guard.report("start", error)
        return None
    for hook in hooks.registered:
        try:
            hook.on_start(operation)
        except Exception as error:  # noqa: BLE001 - a hook is not the application
            guard.report("hook", error)
    return operation


def _prepare(definition: Definition) -> None:
    """Look up what every call of ``definition`` needs: at its first, and when recorders have changed."""
    generation = instruments.generation
    instruments.operation_errors.announce(definition.metric_attributes)
    definition.duration = instruments.duration_of(definition.metric_attributes)
    if definition.counter is not None:
        definition.counter.prepare()
    definition.generation = generation


def resume(operation: Operation) -> None:
    """Make a suspended operation current again: a generator's step begins."""
    operation._token = otel_context.attach(operation._context)


def suspend(operation: Operation) -> None:
    """Leave the operation's context, not the operation: a generator's step ended.

    The token is reset here and not through ``detach``, which logs an error where it was attached in another context:
    a coroutine closed by the garbage collector, a dependency of a framework left in another worker thread than it was
    entered in. There is nothing to restore then.
    """
    token = operation._token
    if token is not None:
        operation._token = None
        try:
            token.var.reset(token)
        except ValueError:
            pass


def finish(
    operation: Operation,
    error: BaseException | None = None,
    write: Callable[[Operation, Attributes, Any], None] | None = None,
    result: object = None,
) -> None:
    """End the operation with ``error``, or with what ``write`` reads from ``result``."""
    elapsed = perf_counter() - operation._started
    ended = time_ns()  # reading the outputs is our time, not the operation's
    try:
        # A coroutine that is closed from elsewhere has nothing to restore in the context it is closed from.
        if not issubclass(type(error), GeneratorExit) or otel_context.get_current() is operation._context:
            suspend(operation)
        definition = operation._definition
        if definition.generation != instruments.generation:
            _prepare(definition)  # a child that was forked inside the operation counts it as its own
        duration = definition.duration
        if error is not None:
            try:
                duration = _fail(operation, error)
            except Exception as broken:  # noqa: BLE001 - an exception of the user's may answer no question
                guard.report("error", broken)
        if write is not None and (operation._recording or definition.counter is not None):
            try:
                attributes: Attributes = {}
                write(operation, attributes, result)
                if operation._recording:
                    _set(operation._span, attributes)
            except Exception as unreadable:  # noqa: BLE001 - the span still ends, with what is known
                guard.report("outputs", unreadable)
        for hook in hooks.registered:
            try:
                hook.on_end(operation, error)
            except Exception as broken:  # noqa: BLE001 - a hook is not the application
                guard.report("hook", broken)
        operation._recording = False
        try:
            operation._span.end(ended)
        finally:  # a processor that raises must not cost the metric as well
            if duration is not None:
                duration.record(elapsed, ended, operation._span, operation._context)
    except Exception as broken:  # noqa: BLE001 - whatever a processor raises, the result goes back to the caller
        guard.report("finish", broken)
    # The context holds the operation: without this every operation would wait for the garbage collector, and a task
    # that starts its own successor would keep all those before it.
    operation._context = _EMPTY
    operation._recorded = operation._parent = None


def _set(span: Span, attributes: Attributes) -> None:
    """Set ``attributes``: up to two of them one by one, which the SDK does in half the time of a mapping."""
    if len(attributes) > 2:
        span.set_attributes(attributes)
    else:
        for key, value in attributes.items():
            span.set_attribute(key, value)


def _fail(operation: Operation, error: BaseException) -> Recorder | None:
    """Write ``error`` to the span, its frames only on the innermost one, and return what records the duration."""
    definition = operation._definition
    labels = definition.metric_attributes
    error_type = failures.classify(error, definition.expected)
    if error_type is None:
        return definition.duration
    if operation._recording:
        operation._span.set_attribute(semconv.ERROR_TYPE, error_type)
    if error_type != semconv.CANCELLED:
        instruments.operation_errors.add(labels)
        if operation._recording:
            messages = definition.exception_messages
            with_message = _record_messages if messages is None else messages
            if operation._recorded is not error:
                failures.record_on(operation._span, error, with_message=with_message)
                operation._recorded = error
            operation._span.set_status(_ERROR, failures.message(error) if with_message else error_type)
        if operation._parent is not None:
            operation._parent._recorded = error
    return instruments.duration_of({**labels, semconv.ERROR_TYPE: error_type})
