"""What a call's inputs and outputs say of themselves: sizes, counts, score summaries.

Arrays, frames, tensors and plain Python containers are read by protocol (``shape``, ``num_rows``, ``tolist``,
``to_numpy``); no library is imported for it. What cannot be read without cost or side effects says nothing: iterators
are not consumed, tensors on a GPU are not waited for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

from otel_mlobs.core.devices import on_cpu

_INT64 = 2**63
_LONGEST_CLASS = 256
_LARGE = 100_000
"""Of more numbers than this, every k-th is summarised, so that reading never takes longer than a millisecond or so."""
_SMALL = 64
"""Up to this many numbers a plain Python loop is faster than numpy's four reductions (measured: 3 µs to 12 µs)."""


class Summary(NamedTuple):
    """Minimum, mean, maximum and population standard deviation of the finite numbers of a call."""

    minimum: float
    mean: float
    maximum: float
    std: float


def count(value: object) -> int | None:
    """How many items ``value`` holds, or None where it does not say: an iterator, a scalar, None."""
    if isinstance(value, (list, tuple, dict)):
        return len(value)
    if value is None or isinstance(value, (str, bytes)):
        return None
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return int(shape[0]) if shape else None
    return len(value) if isinstance(value, Sized) else None


def rows(value: object) -> int | None:
    """How many rows ``value`` is as the input of a model.

    A mapping of scalars, a flat sequence or a 1-D array is one row; a 2-D array, a frame, a sequence of rows, of
    strings or a mapping of columns is a batch.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        first = next(iter(value.values()), None)
        inner = None if isinstance(first, Mapping) else count(first)
        return 1 if inner is None else inner
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return int(shape[0]) if len(shape) > 1 else 1
    if isinstance(value, (list, tuple)):
        if not value:
            return 0
        first = value[0]
        return len(value) if isinstance(first, (str, Mapping)) or count(first) is not None else 1
    return len(value) if isinstance(value, Sized) and not isinstance(value, (str, bytes)) else 1


def scores_of_items(value: object) -> Summary | None:
    """The summary of the scores that came with items, or None where there are only ids.

    Scores are: a float array, a list of floats, ``(item, score)`` pairs, mappings with a ``"score"``, a mapping from
    item to score, or a frame with a column ``score``.
    """
    if isinstance(value, (list, tuple)):
        return _item_scores(value)
    if isinstance(value, dict):
        return _summary_of_list(list(value.values())) if _is_float(next(iter(value.values()), None)) else None
    if not isinstance(getattr(value, "shape", None), tuple):
        return None  # a lazy frame would have to look its columns up
    if hasattr(value, "columns") or hasattr(value, "column_names"):
        frame: Any = value
        names: Any = frame.column_names if hasattr(value, "column_names") else frame.columns
        return _summary(frame["score"]) if "score" in list(names) else None
    return _summary(value) if "float" in _kind(value) else None


def _item_scores(items: Sequence[Any]) -> Summary | None:
    first = items[0] if items else None
    if _is_float(first):
        return _summary_of_list(items)
    if isinstance(first, (tuple, list)):
        return _summary_of_list([item[1] for item in items]) if len(first) == 2 and _is_float(first[1]) else None
    if isinstance(first, Mapping) and _is_float(first.get("score")):
        return _summary_of_list([item.get("score") for item in items])
    return None


def predictions(value: object) -> Summary | str | None:
    """The summary of a call's scores, or the class where one row got a class; None where the output says neither.

    Shape (n, 2) means P(positive) in the second column. Wider probability matrices have no single score.
    """
    if isinstance(value, (str, bool)):
        return class_name(value)
    if isinstance(value, (int, float)):
        number = float(value)
        return Summary(number, number, number, 0.0) if math.isfinite(number) else None
    if isinstance(value, (list, tuple)):
        return _predictions_of_list(value)
    shape = getattr(value, "shape", None)
    if not (shape is not None or hasattr(value, "to_numpy")) or not on_cpu(value):
        return None
    kind = _kind(value)
    if "bool" in kind or _is_text(kind, value):
        return _class_of(value)
    if kind.startswith(_NO_SCORES) or (shape is not None and len(shape) > 2):
        return None
    return _summary(value)


def _class_of(value: Any) -> str | None:
    """The class of one row; a batch has many."""
    size = _size(value)
    if size != 1:
        return None
    found = value.tolist() if hasattr(value, "tolist") else list(value)
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    return None if isinstance(found, list) or found is None else class_name(found)


def class_name(value: object) -> str:
    """A class as text that every backend takes, at most 256 characters."""
    return encodable(str(value)[:_LONGEST_CLASS])


def _predictions_of_list(value: Sequence[Any]) -> Summary | str | None:
    first = value[0] if value else None
    if isinstance(first, (str, bool)):
        return class_name(first) if len(value) == 1 else None
    if isinstance(first, (int, float)):
        return _summary_of_list(value)
    if isinstance(first, (list, tuple)):
        if len(first) == 1:
            return _summary_of_list([row[0] for row in value])
        return _summary_of_list([row[1] for row in value]) if len(first) == 2 else None
    if len(getattr(first, "shape", ())) == 1:  # a list of arrays, one a row
        return _summary_of_list([row.tolist()[-1] for row in value]) if 1 <= len(value[0]) <= 2 else None
    return _summary_of_list(value) if _is_number(first) or is_missing(first) else None


def features(value: object) -> tuple[int, int] | None:
    """How many feature values were found and how many are missing (None, NaN or the frames' own nulls)."""
    if value is None:
        return 0, 0
    if isinstance(value, Mapping):
        return _features_of_row(value.values(), (Mapping,))
    if isinstance(value, (list, tuple)):
        return _features_of_row(value, (Mapping, list, tuple))
    return _features_of_array(value)


_NEVER_MISSING = frozenset((int, str, bool, bytes))


def _features_of_row(values: Collection[Any], rows: tuple[type, ...]) -> tuple[int, int]:
    """Count the values of one row; where one of them is itself a row, all are."""
    counted = flat_features(values, rows)
    return _added(features_within(row) for row in values) if counted is None else counted


def flat_features(values: Collection[Any], rows: tuple[type, ...] = ()) -> tuple[int, int] | None:
    """How many of ``values`` are found and missing, in one pass; None where one of them is an instance of ``rows``."""
    missing = 0
    for inner in values:
        kind = type(inner)
        if kind is float:
            if inner != inner:  # noqa: PLR0124 - NaN is what differs from itself
                missing += 1
        elif kind not in _NEVER_MISSING:
            if isinstance(inner, rows):
                return None
            if is_missing(inner):
                missing += 1
    return len(values) - missing, missing


def features_within(row: Any) -> tuple[int, int] | None:
    """The features of one row among several; what is nested within it is a value, however deep."""
    if isinstance(row, Mapping):
        return _features_of_row(row.values(), ())
    return _features_of_row(row, ()) if isinstance(row, (list, tuple)) else features(row)


def _features_of_array(value: Any) -> tuple[int, int] | None:
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple):
        return None
    total = math.prod(shape)
    if hasattr(value, "isnull"):  # pandas
        missing = int(value.isnull().to_numpy().sum())
    elif hasattr(value, "null_count") and hasattr(value, "to_numpy"):  # polars
        nulls = value.null_count()
        missing = int(nulls) if isinstance(nulls, int) else sum(int(n) for n in nulls.row(0))
    elif hasattr(value, "itercolumns"):  # Arrow
        missing = sum(int(column.null_count) for column in value.itercolumns())
    elif "float" in str(getattr(value, "dtype", "")) and on_cpu(value):
        missing = int((value != value).sum())  # noqa: PLR0124 - NaN is what differs from itself
    else:
        missing = 0
    return total - missing, missing


def _added(parts: Iterable[tuple[int, int] | None]) -> tuple[int, int]:
    found = missing = 0
    for part in parts:
        if part is not None:
            found, missing = found + part[0], missing + part[1]
    return found, missing


def is_missing(value: object) -> bool:
    """None, a float NaN or the missing marker of pandas."""
    if value is None:
        return True
    return (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")  # noqa: PLR0124


def _is_float(value: object) -> bool:
    return isinstance(value, float) or "float" in type(value).__name__


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) or hasattr(value, "__float__")


def holds_classes(value: Any) -> bool:
    """Whether an array, series or tensor in the host's memory holds booleans or text, in one dimension."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or len(shape) != 1 or not on_cpu(value):
        return False
    kind = _kind(value)
    return "bool" in kind or _is_text(kind, value)


def holds_floats(value: Any) -> bool:
    """Whether an array, frame or tensor in the host's memory holds floats."""
    kind = _kind(value) or str(next(iter(getattr(value, "dtypes", ())), "")).lower()
    return ("float" in kind or "double" in kind) and on_cpu(value)


_TEXT = ("<u", ">u", "|s", "str", "large_str", "utf8", "categor", "enum", "dictionary")
_NO_SCORES = ("date", "time", "duration", "complex", "list", "struct", "month", "day_time")


def _kind(value: object) -> str:
    """The type of the elements as numpy, torch, pandas and polars (``dtype``) or Arrow (``type``) write it."""
    kind = getattr(value, "dtype", None)
    return str(getattr(value, "type", "") if kind is None else kind).lower()


def _is_text(kind: str, value: object) -> bool:
    return kind.startswith(_TEXT) or (kind == "object" and _first_is_text(value))


def _first_is_text(value: Any) -> bool:
    for first in value.flat if hasattr(value, "flat") else value:
        return isinstance(first, str)
    return False


def _size(value: Any) -> int:
    """How many rows: 1 for a scalar of numpy or a tensor without dimensions."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return len(value)
    return int(shape[0]) if len(shape) else 1


def _summary(value: Any) -> Summary | None:
    """Summarise a tensor, array, series or one- or two-column frame."""
    if not on_cpu(value):
        return None  # reading it would wait for the device
    if hasattr(value, "detach"):
        value = value.detach()
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) == 2:
        if not 1 <= shape[1] <= 2:
            return None
        value = _last_column(value, shape[1] - 1)
    size = _size(value)
    if not size:
        return None
    if size <= _SMALL and hasattr(value, "tolist"):
        listed = value.tolist()
        return _summary_of_list(listed if isinstance(listed, list) else [listed])
    return _summary_of_array(value)


def _last_column(value: Any, index: int) -> Any:
    if hasattr(value, "iloc"):  # pandas
        return value.iloc[:, index]
    if hasattr(value, "itercolumns"):  # Arrow
        return value.column(index)
    return value[:, index]


def _summary_of_list(numbers: Sequence[Any]) -> Summary | None:
    numbers = _thinned(numbers)
    try:
        values = [float(number) for number in numbers if number is not None]
    except TypeError:  # pandas' missing marker is among them, or they are no numbers
        try:
            values = [float(number) for number in numbers if not is_missing(number)]
        except (TypeError, ValueError, OverflowError):
            return None
    except (ValueError, OverflowError):
        return None
    if len(values) > _SMALL and "numpy" in sys.modules:
        return _summary_of_array(values)
    try:
        return _summary_of_floats(values)
    except OverflowError:
        return None


def _thinned(values: Any) -> Any:
    """``values``, or every k-th of them where they are many."""
    size = len(values)
    return values if size <= _LARGE else values[:: math.ceil(size / _LARGE)]


def _summary_of_floats(values: list[float]) -> Summary | None:
    total = math.fsum(values) if all(map(math.isfinite, values)) else math.nan
    if total != total:  # noqa: PLR0124 - a NaN or an infinity is among them: the rest still says something
        values = [number for number in values if math.isfinite(number)]
        total = math.fsum(values)
    if not values:
        return None
    mean = total / len(values)
    if len(values) == 1:
        return Summary(mean, mean, mean, 0.0)
    spread = math.fsum((number - mean) ** 2 for number in values) / len(values)
    return Summary(min(values), mean, max(values), math.sqrt(spread))


def _summary_of_array(values: Any) -> Summary | None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return _summary_of_list(values)
    if isinstance(values, numpy.ma.MaskedArray):
        values = values.compressed()
    try:
        array = numpy.asarray(_thinned(values), dtype="float64")
    except (TypeError, ValueError):  # missing markers, or a number format that numpy does not have
        return _summary_of_list(values.tolist()) if hasattr(values, "tolist") else None
    with numpy.errstate(all="ignore"):  # a warning of ours must not show in the application
        mean = float(array.mean()) if array.size else math.nan
        if not math.isfinite(mean):
            array = array[numpy.isfinite(array)]
            if not array.size:
                return None
            mean = float(array.mean())
        return Summary(float(array.min()), mean, float(array.max()), float(array.std()))


def encodable(text: str) -> str:
    """``text`` without lone surrogates: one of them would cost the whole batch of spans when it is sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def plain(value: Any) -> Any:
    """``value`` as an attribute that every backend takes: Python's own types, text for what no number can hold."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value
