"""Whether what an operation is written down with can be what it is given for; a mistake raises at decoration."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs import semconv
from otel_mlobs.settings.times import seconds
from otel_mlobs.telemetry.lookups import Reading
from otel_mlobs.telemetry.readings import encodable, plain

if TYPE_CHECKING:
    from otel_mlobs.telemetry.kinds import AttributeValue
    from otel_mlobs.telemetry.wrapping import InputPicker, OutputPicker


def input_picker(function: Any, inputs: Any) -> InputPicker | None:
    """How to find the inputs among a call's arguments; the signature is read once, here."""
    if callable(inputs):
        return lambda args, kwargs: inputs(*args, **kwargs)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built-in functions may have none
        parameters = []
    if inputs is None:
        own = [p for p in parameters if p.name not in ("self", "cls")]
        if len(own) != 1 or own[0].kind in (own[0].VAR_POSITIONAL, own[0].VAR_KEYWORD):
            return None
        inputs = own[0].name
    names = [p.name for p in parameters]
    if inputs not in names:
        name = getattr(function, "__qualname__", repr(function))
        raise ValueError(f"inputs={inputs!r} is no parameter of {name}({', '.join(names)})")
    index = names.index(inputs)
    return _picker_of(parameters[index], index)


def _picker_of(parameter: inspect.Parameter, index: int) -> InputPicker:
    name, default = parameter.name, parameter.default
    if parameter.kind is parameter.VAR_POSITIONAL:
        return lambda args, _kwargs: args[index:]
    if parameter.kind is parameter.VAR_KEYWORD:
        return lambda _args, kwargs: kwargs
    if default is parameter.empty:
        default = None
    if parameter.kind is parameter.KEYWORD_ONLY:
        return lambda _args, kwargs: kwargs.get(name, default)
    return lambda args, kwargs: args[index] if len(args) > index else kwargs.get(name, default)


def checked_reading(
    view: object, timestamp: str | int | Callable[[Any], object] | None, objective: object, default: object
) -> Reading | None:
    """How a lookup's result is to be read, or None where nothing is said of it."""
    for name, value in (("timestamp", timestamp), ("objective", objective), ("default", default)):
        if value is not None and view is None:
            raise ValueError(f"{name}= needs view=, the name under which it is counted")
    if not (timestamp is None or callable(timestamp) or (isinstance(timestamp, (str, int)) and timestamp != "")) or (
        isinstance(timestamp, bool)
    ):
        raise TypeError(
            "timestamp must be a key, a position or a callable that gets the result, "
            f'as timestamp="updated_at", got {timestamp!r}'
        )
    if objective is not None and timestamp is None:
        raise ValueError(f"objective={objective!r} needs timestamp=: without it no age is known")
    if timestamp is None and default is None:
        return None
    return Reading(timestamp, None if objective is None else seconds("objective", objective), default)


_MOST_GPUS = 1024


def checked_gpu(value: object) -> int | Literal["current"] | None:
    """Which GPU an operation uses: None where that is not asked, "current" where the framework in use says it."""
    if value is None or value is False:
        return None
    if value is True:
        return "current"
    if not isinstance(value, int):
        raise TypeError(f"gpu must be true, false, or the number of a GPU as nvidia-smi counts, got {value!r}")
    if not 0 <= value < _MOST_GPUS:
        raise ValueError(f"gpu must be the number of a GPU, from 0, got {value!r}")
    return value


def check_options(function: str, options: Collection[str], known: frozenset[str], others: str = "") -> None:
    """Raise TypeError for a name that ``function`` does not take; ``others`` are those that its signature has."""
    if not known.issuperset(options):
        taken = [*others.split(), *sorted(known)]
        wrong = next(name for name in options if name not in known)
        close = difflib.get_close_matches(wrong, taken, 1, 0.65)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{function} got an unexpected keyword argument {wrong!r}{meant} (it takes {', '.join(taken)})")


def checked_label(key: str, value: object) -> str:
    """A label's value as text."""
    if isinstance(value, str) and value:
        return encodable(value)
    if isinstance(value, int) and not isinstance(value, bool) and key == semconv.MODEL_VERSION:
        return str(value)
    raise TypeError(f"{key} must be a string that is not empty, got {value!r}")


def checked_inputs(inputs: Any) -> Any:
    """A parameter's name, a callable, or None."""
    if inputs is None or callable(inputs) or (isinstance(inputs, str) and inputs):
        return inputs
    raise TypeError(f"inputs must be a parameter's name or a callable, got {inputs!r}")


def checked_callable(name: str, value: OutputPicker | None) -> OutputPicker | None:
    """A callable that gets the result, or None."""
    if value is None or callable(value):
        return value
    raise TypeError(f"{name} must be a callable that gets the result, as lambda r: r['scores'], got {value!r}")


def checked_count(name: str, value: Sequence[str] | int | None) -> int | None:
    """How many, from a number or from names."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return len(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise TypeError(f"{name} must be a whole number from 0{' or names' if name == 'features' else ''}, got {value!r}")


def checked_expected(
    expected: type[BaseException] | Sequence[type[BaseException]],
) -> tuple[type[BaseException], ...]:
    """Exception classes as a tuple."""
    if not isinstance(expected, (type, tuple, list, set, frozenset)):
        raise TypeError(f"expected must name exception classes, got {expected!r}")
    kinds = (expected,) if isinstance(expected, type) else tuple(expected)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"expected must name exception classes, got {kind!r}")
    return kinds


def checked_attributes(attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
    """Attributes of a span, as every backend takes them."""
    if attributes is not None and not isinstance(attributes, Mapping):
        raise TypeError(f"attributes must map strings to values, got {attributes!r}")
    checked = dict(attributes or {})
    for key, value in checked.items():
        items = value if isinstance(value, (list, tuple)) else (value,)
        if not isinstance(key, str) or not all(isinstance(item, (str, bool, int, float)) for item in items):
            raise TypeError(
                f"attributes must map strings to strings, booleans, numbers or sequences of these, "
                f"got {key!r}: {value!r}"
            )
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            raise ValueError(f"attributes must be finite, got {key!r}: {value!r}")
    return {encodable(key): plain(value) for key, value in checked.items()}
