"""What a call's inputs and outputs say of themselves: sizes, counts, score summaries.

Arrays, frames, tensors and plain Python containers are read by protocol (``shape``, ``num_rows``, ``tolist``,
``to_numpy``); no library is imported for it. What cannot be read without cost or side effects says nothing: iterators
are not consumed, tensors on a GPU are not waited for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

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
    if hasattr(value, "columns") or hasattr(value, "column_names"):
        frame: Any = value
        names: Any = frame.column_names if hasattr(value, "column_names") else frame.columns
        return _summary(frame["score"]) if "score" in list(names) else None
    if "float" in str(getattr(value, "dtype", "")):
        return _summary(value)
    return None


def _item_scores(items: Sequence[Any]) -> Summary | None:
    first = items[0] if items else None
    if isinstance(first, float):
        return _summary_of_list(items)
    if isinstance(first, (tuple, list)):
        return _summary_of_list([item[1] for item in items]) if len(first) == 2 and _is_float(first[1]) else None
    if isinstance(first, Mapping) and _is_float(first.get("score")):
        return _summary_of_list([item["score"] for item in items])
    return None


def predictions(value: object) -> Summary | str | None:
    """The summary of a call's scores, or the class where one row got a class; None where the output says neither.

    Shape (n, 2) means P(positive) in the second column. Wider probability matrices have no single score.
    """
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, (int, float)):
        number = float(value)
        return Summary(number, number, number, 0.0) if math.isfinite(number) else None
    if isinstance(value, (list, tuple)):
        return _predictions_of_list(value)
    if "bool" in str(getattr(value, "dtype", "")) or _is_text(value):
        flat = value.tolist() if hasattr(value, "tolist") else list(value)  # type: ignore[call-overload]
        return str(flat[0]) if isinstance(flat, list) and len(flat) == 1 else None
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape) > 2:
        return None
    return _summary(value) if shape is not None or hasattr(value, "to_numpy") else None


def _predictions_of_list(value: Sequence[Any]) -> Summary | str | None:
    first = value[0] if value else None
    if isinstance(first, (str, bool)):
        return str(first) if len(value) == 1 else None
    if isinstance(first, (list, tuple)):
        if len(first) == 1:
            return _summary_of_list([row[0] for row in value])
        return _summary_of_list([row[1] for row in value]) if len(first) == 2 else None
    return _summary_of_list(value) if _is_number(first) else None


def features(value: object) -> tuple[int, int] | None:
    """How many feature values were found and how many are missing (None, NaN or the frames' own nulls)."""
    if value is None:
        return 0, 0
    if isinstance(value, Mapping):
        if value and all(isinstance(inner, Mapping) or inner is None for inner in value.values()):
            return _added(features(inner) for inner in value.values())
        missing = sum(1 for inner in value.values() if is_missing(inner))
        return len(value) - missing, missing
    if isinstance(value, (list, tuple)):
        if any(isinstance(row, (Mapping, list, tuple)) for row in value):
            return _added(features(row) for row in value)
        missing = sum(1 for inner in value if is_missing(inner))
        return len(value) - missing, missing
    return _features_of_array(value)


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
    elif "float" in str(getattr(value, "dtype", "")) and _on_cpu(value):
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


def _is_text(value: object) -> bool:
    kind = str(getattr(value, "dtype", ""))
    return kind.startswith(("<U", "|S", "str", "String")) or (kind == "object" and _first_is_text(value))


def _first_is_text(value: Any) -> bool:
    for first in value:
        return isinstance(first, str)
    return False


def _on_cpu(value: Any) -> bool:
    device = getattr(value, "device", None)
    kind = getattr(device, "type", device)
    return kind is None or str(kind) == "cpu"


def _summary(value: Any) -> Summary | None:
    """Summarise a tensor, array, series or one- or two-column frame."""
    if not _on_cpu(value):
        return None  # reading it would wait for the device
    if hasattr(value, "detach"):
        value = value.detach()
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) == 2:
        if shape[1] > 2:
            return None
        if not hasattr(value, "tolist"):
            value = value.to_numpy()
        value = value[:, -1]
    size = math.prod(shape[:1]) if shape else 1
    if size <= _SMALL and hasattr(value, "tolist"):
        listed = value.tolist()
        return _summary_of_list(listed if isinstance(listed, list) else [listed])
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    elif hasattr(value, "numpy"):
        value = value.numpy()
    return _summary_of_array(value)


def _summary_of_list(numbers: Iterable[Any]) -> Summary | None:
    values = [float(number) for number in numbers if number is not None]
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
    values = numpy.asarray(values, dtype="float64")
    mean = float(values.mean())
    if not math.isfinite(mean):
        values = values[numpy.isfinite(values)]
        if not values.size:
            return None
        mean = float(values.mean())
    return Summary(float(values.min()), mean, float(values.max()), float(values.std()))
