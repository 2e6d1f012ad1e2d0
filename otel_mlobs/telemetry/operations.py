"""The public operations: ``feature_lookup``, ``candidate_generation``, ``ranking``, ``prediction``, ``operation``.

Each is a decorator and a context manager, bare or with arguments; arguments are checked when it is written down, so
a mistake shows at import and not in the middle of a request.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from otel_mlobs import semconv
from otel_mlobs.telemetry import instruments
from otel_mlobs.telemetry.arguments import (
    check_options,
    checked_attributes,
    checked_callable,
    checked_count,
    checked_expected,
    checked_gpu,
    checked_inputs,
    checked_label,
    checked_reading,
    input_picker,
)
from otel_mlobs.telemetry.kinds import AttributeValue, Definition, cached_definition
from otel_mlobs.telemetry.readings import encodable
from otel_mlobs.telemetry.running import IDLE, Operation, current_operation, finish, idle_of, start
from otel_mlobs.telemetry.wrapping import wrap

if TYPE_CHECKING:
    from types import TracebackType

    from otel_mlobs.telemetry.lookups import Reading
    from otel_mlobs.telemetry.monitor import Monitor
    from otel_mlobs.telemetry.slates import RankingMonitor

__all__ = [
    "Operation",
    "OperationSpec",
    "candidate_generation",
    "current_operation",
    "feature_lookup",
    "operation",
    "prediction",
    "ranking",
]

_COMMON = frozenset(("model", "version", "inputs", "outputs", "attributes", "expected", "exception_messages"))
_ON_GPU = _COMMON | {"gpu"}
_FOLLOWED = _ON_GPU | {"variant", "monitor"}

F = TypeVar("F", bound=Callable[..., Any])


class OperationSpec:
    """An operation as written down: apply it to a callable, or enter it with ``with``.

    As a decorator it takes functions, methods, classmethods, staticmethods, coroutines, generators and async
    generators. One instance may be entered from many threads and tasks at once, and again while it is entered.
    """

    __slots__ = ("_attributes", "_definition_arguments", "_inputs", "_monitor", "_outputs", "_running", "_target")

    def __init__(
        self,
        operation: str,
        target: str | None,
        labels: Mapping[str, str | int | None],
        *,
        inputs: Any = None,
        outputs: Callable[[Any], object] | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        expected: type[BaseException] | Sequence[type[BaseException]] = (),
        exception_messages: bool | None = None,
        requested: int | None = None,
        monitor: Monitor | None = None,
        reading: Reading | None = None,
        gpu: bool | int | None = None,
    ) -> None:
        if exception_messages is not None and not isinstance(exception_messages, bool):
            raise TypeError(f"exception_messages must be true, false or None, got {exception_messages!r}")
        checked = tuple((key, checked_label(key, value)) for key, value in labels.items() if value is not None)
        self._target = None if target is None else encodable(target)
        self._definition_arguments = (
            encodable(operation),
            checked,
            requested,
            checked_expected(expected),
            exception_messages,
            reading,
            checked_gpu(gpu),
        )
        self._inputs = checked_inputs(inputs)
        self._outputs = checked_callable("outputs", outputs)
        self._attributes = checked_attributes(attributes)
        self._monitor = monitor
        self._running: list[Operation] = []

    def __repr__(self) -> str:
        name, labels, *_ = self._definition_arguments
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in labels)})"

    def __call__(self, function: F) -> F:
        """Decorate ``function``. Raises ``TypeError`` for what cannot be decorated, ``ValueError`` for wrong inputs."""
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self(function.__func__))
        if isinstance(function, type):
            raise TypeError(f"{self!r} decorates callables, got the class {function.__name__}: decorate its methods")
        if not callable(function):
            raise TypeError(f"{self!r} decorates callables, got {function!r}")
        named: Any = function
        while isinstance(named, functools.partial):
            named = named.func
        definition = self._definition(getattr(named, "__name__", type(named).__name__))
        picker = input_picker(function, self._inputs)
        if self._monitor is not None and self._monitor.counts_inputs and picker is None:
            raise ValueError(
                f"say which parameter of {getattr(named, '__qualname__', repr(named))} holds the model's inputs, as "
                f'inputs="X": the monitor counts them'
            )
        wrapped: F = wrap(function, definition, picker, self._outputs)
        return wrapped

    def __enter__(self) -> Operation:
        if self._inputs is not None or self._outputs is not None:
            raise TypeError(
                "inputs= and outputs= name parts of a decorated function's call; inside `with ... as op` "
                "say op.record(inputs=..., outputs=...)"
            )
        monitor = self._monitor
        # Who waits for labels needs the prediction's id, whoever listens: so it is where the operation is a decorator.
        if not (instruments.live() or (monitor is not None and monitor.follows)):
            self._running.append(IDLE)  # so that its exit is not taken for another thread's
            return IDLE if monitor is None else idle_of(self._definition(None))
        definition = self._definition(None)
        if monitor is None:
            started = start(definition, definition.span_attributes)
        else:
            attributes = definition.span_attributes.copy()
            monitor.add_drift(attributes)
            started = start(definition, attributes)
        if started is None:
            self._running.append(IDLE)
            return IDLE if monitor is None else idle_of(definition)
        self._running.append(started)
        return started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._own_running()
        if running is not None:
            finish(running, error)

    def _own_running(self) -> Operation | None:
        """The operation that this exit belongs to: the innermost of ours around the caller."""
        running = self._running
        around: Operation | None = current_operation()
        while around is not None and around is not IDLE:
            if around in running:
                return _removed(around, running)
            around = around._parent
        # Nobody listened when it was entered, it failed to start, or it was entered in another context: some frameworks
        # leave a dependency in another worker thread than they entered it in.
        found = next((one for one in running if one is IDLE), running[-1] if running else IDLE)
        return _removed(found, running)

    def _definition(self, function_name: str | None) -> Definition:
        operation, labels, requested, expected, messages, reading, gpu = self._definition_arguments
        # operation("rerank") over def rerank is called "rerank", not "rerank rerank"
        target = self._target or (function_name if function_name != operation else None)
        if self._monitor is not None:
            key = (
                target,
                *self._definition_arguments,
                *((name, repr(value)) for name, value in self._attributes.items()),
            )
            return self._monitor.definition(key, lambda: self._new_definition(target))
        if not self._attributes:
            return cached_definition(operation, target, labels, requested, expected, messages, reading, gpu)
        return self._new_definition(target)

    def _new_definition(self, target: str | None) -> Definition:
        operation, labels, requested, expected, messages, reading, gpu = self._definition_arguments
        return Definition(
            operation,
            target,
            dict(labels),
            attributes=self._attributes,
            requested=requested,
            expected=expected,
            exception_messages=messages,
            monitor=self._monitor,
            reading=reading,
            gpu=gpu,
        )


@overload
def feature_lookup(function: F, /) -> F: ...
@overload
def feature_lookup(
    *,
    store: str | None = None,
    view: str | None = None,
    features: Sequence[str] | int | None = None,
    timestamp: str | int | Callable[[Any], object] | None = None,
    objective: str | float | None = None,
    default: object = None,
    model: str | None = None,
    version: str | int | None = None,
    inputs: str | Callable[..., object] | None = None,
    outputs: Callable[[Any], object] | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    expected: type[BaseException] | Sequence[type[BaseException]] = (),
    exception_messages: bool | None = None,
) -> OperationSpec: ...
def feature_lookup(
    function: F | None = None,
    /,
    *,
    store: str | None = None,
    view: str | None = None,
    features: Sequence[str] | int | None = None,
    timestamp: str | int | Callable[[Any], object] | None = None,
    objective: str | float | None = None,
    default: object = None,
    **options: Any,
) -> Any:
    """Trace and time the fetching of features for one or more entities.

    Args:
        function: The callable, where the decorator stands bare.
        store: The feature store, as ``"redis"``.
        view: The feature view, table or group, as ``"user_features"``; the span is named after it.
        features: The names asked for, or how many: with them, a feature that the store leaves out counts as missing.
        timestamp: Where the result says when its features were made: a key, column or attribute, or a position in a
            row that is a sequence; or a callable that gets the result and returns one timestamp, or one per entity.
            Datetimes (naive ones are UTC), seconds since 1970 (milli-, micro- and nanoseconds are told by their size),
            ISO 8601 text, bytes, and the columns of pandas, polars, Arrow and numpy are read.
        objective: How old features may be, as ``"15m"`` or in seconds; what :func:`otel_mlobs.configure` was told
            (``feature_age_objective``) unless set.
        default: What an entity is answered with that was not found, or a callable that gets its row (of a frame or
            array the whole of it) and says whether it is such a stand-in, of a frame also row by row.
        options: ``model``, ``version``, ``inputs``, ``outputs``, ``attributes``, ``expected``,
            ``exception_messages``, as for :func:`prediction`.

    The result says how many values were found and how many are missing: a mapping, a sequence, an array or a frame;
    null, NaN and absent values are missing. An entity without any is a miss. All is counted per view, sampled or not.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``timestamp``, ``objective`` or ``default`` without ``view``, or an objective that is no duration.
    """
    check_options("feature_lookup", options, _COMMON, "store view features timestamp objective default")
    requested = checked_count("features", features)
    reading = checked_reading(view, timestamp, objective, default)
    labels = {
        semconv.MODEL_NAME: options.pop("model", None),
        semconv.MODEL_VERSION: options.pop("version", None),
        semconv.FEATURE_STORE_NAME: store,
        semconv.FEATURE_VIEW_NAME: view,
    }
    return _apply(
        OperationSpec(semconv.FEATURE_LOOKUP, view or store, labels, requested=requested, reading=reading, **options),
        function,
    )


@overload
def candidate_generation(function: F, /) -> F: ...
@overload
def candidate_generation(
    *,
    source: str | None = None,
    k: int | None = None,
    model: str | None = None,
    version: str | int | None = None,
    inputs: str | Callable[..., object] | None = None,
    outputs: Callable[[Any], object] | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    expected: type[BaseException] | Sequence[type[BaseException]] = (),
    exception_messages: bool | None = None,
    gpu: bool | int | None = None,
) -> OperationSpec: ...
def candidate_generation(
    function: F | None = None, /, *, source: str | None = None, k: int | None = None, **options: Any
) -> Any:
    """Trace and time the retrieval of items that might be shown.

    Args:
        function: The callable, where the decorator stands bare.
        source: What generates them, as ``"two_tower"``; the span is named after it.
        k: How many are asked for.
        options: ``model``, ``version``, ``inputs``, ``outputs``, ``attributes``, ``expected``,
            ``exception_messages``, ``gpu``, as for :func:`prediction`.

    The result gives the count; scores are summarised where they come as floats, ``(item, score)`` pairs, mappings
    with a ``"score"``, a mapping from item to score, or a frame with a column ``score``.
    """
    check_options("candidate_generation", options, _ON_GPU, "source k")
    requested = checked_count("k", k)
    model = options.pop("model", None)
    labels = {
        semconv.MODEL_NAME: model,
        semconv.MODEL_VERSION: options.pop("version", None),
        semconv.CANDIDATE_SOURCE: source,
    }
    return _apply(
        OperationSpec(semconv.CANDIDATE_GENERATION, source or model, labels, requested=requested, **options), function
    )


@overload
def ranking(function: F, /) -> F: ...
@overload
def ranking(
    *,
    model: str | None = None,
    version: str | int | None = None,
    variant: str | None = None,
    monitor: RankingMonitor | None = None,
    inputs: str | Callable[..., object] | None = None,
    outputs: Callable[[Any], object] | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    expected: type[BaseException] | Sequence[type[BaseException]] = (),
    exception_messages: bool | None = None,
    gpu: bool | int | None = None,
) -> OperationSpec: ...
def ranking(function: F | None = None, /, **options: Any) -> Any:
    """Trace and time the ordering of candidates.

    Args:
        function: The callable, where the decorator stands bare.
        options: ``model``, ``version``, ``variant``, ``inputs`` (the items that go in, as ``inputs="items"``),
            ``outputs``, ``attributes``, ``expected``, ``exception_messages``, ``gpu``, as for :func:`prediction`.

    Items that went in and came out are counted, scores are summarised as for :func:`candidate_generation`. With
    ``monitor``, a :class:`otel_mlobs.RankingMonitor`, what comes out is registered, so that clicks find it; ``model``
    and ``version`` are then the monitor's.

    Raises:
        TypeError: ``monitor`` is no RankingMonitor.
        ValueError: ``model`` or ``version`` contradict the monitor's.
    """
    check_options("ranking", options, _FOLLOWED)
    monitor = options.get("monitor")
    if monitor is not None:
        from otel_mlobs.telemetry.slates import RankingMonitor

        if not isinstance(monitor, RankingMonitor):
            raise TypeError(f"monitor must be a RankingMonitor, got {monitor!r}")
        _take_names(options, monitor.model, monitor.version, "monitor")
    return _apply(_of_model(semconv.RANKING, options), function)


@overload
def prediction(function: F, /) -> F: ...
@overload
def prediction(
    *,
    model: str | None = None,
    version: str | int | None = None,
    variant: str | None = None,
    monitor: Monitor | None = None,
    inputs: str | Callable[..., object] | None = None,
    outputs: Callable[[Any], object] | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    expected: type[BaseException] | Sequence[type[BaseException]] = (),
    exception_messages: bool | None = None,
    gpu: bool | int | None = None,
) -> OperationSpec: ...
def prediction(function: F | None = None, /, **options: Any) -> Any:
    """Trace and time a model that turns inputs into scores, classes or values.

    Args:
        function: The callable, where the decorator stands bare.
        options: In detail:

            - ``model``, ``version``: as the model registry names them; the span is named after the model.
            - ``variant``: of an A/B test or shadow deployment, as ``feature_flag.result.variant``; a handful of values.
            - ``monitor``: a :class:`otel_mlobs.Monitor` that counts inputs and outputs, sampled or not; ``model`` and
              ``version`` are then its profile's. Spans carry its last drift state.
            - ``inputs``: the parameter that holds the inputs, as ``inputs="X"``, or a callable that gets the call's
              arguments and returns them. Left out, the only parameter beside ``self`` is meant.
            - ``outputs``: a callable that picks the outputs out of the result, as ``lambda r: r["scores"]``.
            - ``attributes``: further attributes of the span, the same for every call.
            - ``expected``: an exception class or several that are answers and not errors.
            - ``exception_messages``: whether the span carries the messages of exceptions. They quote values, so the
              default is what :func:`otel_mlobs.configure` was told, which is no unless set.
            - ``gpu``: put on the span what the GPU did meanwhile: energy, time, memory. True for the current device of
              PyTorch or CuPy, or else the only one there is; or its number, as nvidia-smi counts. Needs
              ``configure(gpu=True)``.

    Outputs of shape (n, 2) mean P(positive) in the second column. Batch size, and minimum, mean, maximum and standard
    deviation of the scores, are put on the span; one class for one row is its ``mlobs.prediction.class``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``inputs`` names no parameter of the function, or is left out where a monitor has several to choose
            from; ``model`` or ``version`` contradict the monitor's profile. Raised at decoration.
    """
    check_options("prediction", options, _FOLLOWED)
    monitor = options.get("monitor")
    if monitor is not None:
        from otel_mlobs.telemetry.monitor import Monitor

        if not isinstance(monitor, Monitor):
            raise TypeError(f"monitor must be a Monitor, got {monitor!r}")
        _take_names(options, monitor.profile.model, monitor.profile.version, "monitor's profile")
    return _apply(_of_model(semconv.PREDICTION, options), function)


def operation(
    name: str,
    /,
    *,
    model: str | None = None,
    version: str | int | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
    expected: type[BaseException] | Sequence[type[BaseException]] = (),
    exception_messages: bool | None = None,
) -> OperationSpec:
    """Trace and time any other step of a request, as ``operation("rerank")``.

    ``name`` becomes the operation's name on spans and metrics: a constant of the code, never a value of the request.
    The other arguments are those of :func:`prediction`.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'operation needs its name, as operation("rerank"), got {name!r}')
    labels = {semconv.MODEL_NAME: model, semconv.MODEL_VERSION: version}
    return OperationSpec(
        name,
        model,
        labels,
        attributes=attributes,
        expected=expected,
        exception_messages=exception_messages,
    )


def _take_names(options: dict[str, Any], model: str, version: str | None, whose: str) -> None:
    """The monitor's model and version, unless the caller says another."""
    for name, known in (("model", model), ("version", version)):
        given = options.get(name)
        if given is not None and known is not None and str(given) != known:
            raise ValueError(f"{name}={given!r} contradicts the {whose}, which says {known!r}")
        options[name] = known if given is None else given


def _of_model(name: str, options: dict[str, Any]) -> OperationSpec:
    model = options.pop("model", None)
    labels = {
        semconv.MODEL_NAME: model,
        semconv.MODEL_VERSION: options.pop("version", None),
        semconv.VARIANT: options.pop("variant", None),
    }
    return OperationSpec(name, model, labels, **options)


def _apply(spec: OperationSpec, function: Any) -> Any:
    if function is None:
        return spec
    if isinstance(function, str):
        raise TypeError(f"name the argument, as model={function!r}: only the decorated function goes without a name")
    return spec(function)


def _removed(found: Operation, running: list[Operation]) -> Operation | None:
    try:
        running.remove(found)
    except ValueError:  # another thread's exit was quicker, or it was never there
        return None
    return None if found is IDLE else found
