"""Columns that lie in memory: what kind each is, its numbers, its categories; nothing of it is kept in a profile."""

from __future__ import annotations

import datetime as dt
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from otel_mlobs.core.binning import as_number, is_missing
from otel_mlobs.tables import (
    LARGEST,
    SMALLEST,
    Calibrated,
    Cells,
    ColumnType,
    Counted,
    Described,
    Erred,
    Question,
    frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.tables import Category

NUMERIC = ColumnType("numeric")
INTEGER = ColumnType("numeric", integer=True)
BOOLEAN = ColumnType("boolean")
CATEGORICAL = ColumnType("categorical")

_LARGEST_SQUARED = 1e150
"""Values beyond it are scaled before they are squared."""


def refused(holds: str, instead: str) -> ColumnType:
    """The type of a column that cannot be counted: what it holds, and what to do instead."""
    return ColumnType(None, problem=f"holds {holds}; {instead}, or leave it out with exclude=")


DATES = frames.DATES
NESTED = frames.NESTED
BYTES = frames.BYTES


def as_column(values: Any) -> NDArray[Any]:
    """``values`` (list, tuple, array, series) as a 1-D array that has lost nothing: lists become arrays of objects.

    ``numpy.asarray`` would turn ``["a", 1]`` into two strings.
    """
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, (str, bytes, Mapping)) or not (isinstance(values, Iterable) or hasattr(values, "__array__")):
        raise TypeError(f"expected an array or a list, got {type(values).__name__}")
    if hasattr(values, "__array__"):
        return np.asarray(values)
    listed = list(values)
    kinds = set(map(type, listed))
    if kinds <= {float} or kinds <= {bool}:
        return np.array(listed, dtype=kinds.pop() if kinds else float)
    return np.fromiter(listed, dtype=object, count=len(listed))


def type_of(column: NDArray[Any]) -> ColumnType:
    """How a 1-D array is counted; arrays of objects are looked through."""
    kind = column.dtype.kind
    if column.ndim != 1:
        return refused(f"arrays (its shape is {column.shape})", NESTED)
    if kind in "iu":
        return INTEGER
    if kind in "fb":
        return NUMERIC if kind == "f" else BOOLEAN
    if kind in "UT":
        return CATEGORICAL
    if kind in "mM":
        return refused(f"dates or durations ({column.dtype})", DATES)
    if kind == "S":
        return refused(f"bytes ({column.dtype})", BYTES)
    if kind == "V":
        return refused(f"records ({column.dtype})", NESTED)
    if kind == "O":
        return _type_of_objects(column)
    return refused(f"{column.dtype} values", "give real numbers")


def _type_of_objects(column: NDArray[Any]) -> ColumnType:
    kinds = set(map(type, _objects(column)))
    if len(kinds) > 1 and any(issubclass(kind, (float, np.floating)) for kind in kinds):
        kinds = {type(value) for value in _objects(column) if not is_missing(value)}  # a NaN among text is no number
    found = {_group(kind): kind.__name__ for kind in sorted(kinds, key=str)}
    found.pop("missing", None)
    for group, instead in (("date", DATES), ("nested", NESTED), ("bytes", BYTES), ("unknown", "give numbers or text")):
        if group in found:
            return refused(f"values of type {found[group]}", instead)
    groups = set(found)
    if groups <= {"integer", "real", "boolean"}:
        if groups == {"boolean"}:
            return BOOLEAN
        return INTEGER if groups and groups <= {"integer", "boolean"} else NUMERIC
    if groups == {"text"}:
        return CATEGORICAL
    names = " and ".join(sorted(found.values()))
    return ColumnType(None, problem=f"mixes {names}; convert it to one type, or name it in categorical=")


def _group(kind: type) -> str:
    if kind.__name__ in ("NoneType", "NAType", "NaTType", "MaskedConstant"):
        return "missing"
    if issubclass(kind, (bool, np.bool_)):
        return "boolean"
    if issubclass(kind, (dt.date, dt.time, dt.timedelta, np.datetime64, np.timedelta64)):
        return "date"
    if issubclass(kind, numbers.Integral):
        return "integer"
    if issubclass(kind, (numbers.Real, Decimal)):
        return "real"
    if issubclass(kind, str):
        return "text"
    if issubclass(kind, (bytes, bytearray)):
        return "bytes"
    return "nested" if issubclass(kind, (Iterable, Mapping)) else "unknown"


def _objects(column: NDArray[Any]) -> list[Any]:
    """The values as Python objects; None where the array is masked."""
    return cast("list[Any]", column.tolist())


def numbers_of(column: NDArray[Any]) -> NDArray[np.float64]:
    """The values as float64, NaN where one is missing; the column is numeric or boolean."""
    if column.dtype.kind == "O":
        if set(map(type, _objects(column))) <= {float, int, bool, type(None)}:
            try:
                return np.array(_objects(column), np.float64)  # five times as fast; None becomes NaN
            except OverflowError:
                pass  # an integer beyond float64, which is counted as infinite
        nan = math.nan
        floats = (nan if is_missing(value) else as_number(value) for value in _objects(column))
        return np.fromiter((nan if value is None else value for value in floats), np.float64, len(column))
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite: it is counted as that
        if isinstance(column, np.ma.MaskedArray):
            return np.ma.filled(column.astype(np.float64), np.nan)
        return column.astype(np.float64, copy=False)


def tally(column: NDArray[Any]) -> Counter[object]:
    """How often each value occurs."""
    if column.dtype.kind in "biuf" and not isinstance(column, np.ma.MaskedArray):
        values, times = np.unique(column, return_counts=True)
        return Counter(dict(zip(values.tolist(), times.tolist(), strict=True)))
    return Counter(_objects(column))


def clean(counted: Mapping[object, int]) -> tuple[dict[Category, int], int, str]:
    """A tally's categories, how many values are missing, and what is wrong with it, if anything.

    Whole floats become integers: a column of integers with gaps is one of floats in many a library.
    """
    categories: dict[Category, int] = {}
    missing = 0
    for value, times in counted.items():
        if is_missing(value):
            missing += times
            continue
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, float) and plain.is_integer():
            plain = int(plain)
        if not isinstance(plain, (str, int, float)):
            return {}, 0, f"holds values of type {type(value).__name__}; categories must be text, numbers or booleans"
        categories[plain] = categories.get(plain, 0) + times
    return categories, missing, ""


def by_frequency(categories: Mapping[Category, int]) -> list[tuple[Category, int]]:
    """Categories with their counts, the most frequent first; of equals the smaller value, numbers before text."""

    def place(item: tuple[Category, int]) -> tuple[int, bool, float, str]:
        category, times = item
        text = isinstance(category, str)
        return (-times, text, 0.0 if isinstance(category, str) else category, str(category) if text else "")

    return sorted(categories.items(), key=place)


class Columns:
    """Columns in memory, answering what a SQL table answers: see :mod:`otel_mlobs.tables`."""

    steps = 1
    """How many passes over the columns a fit takes, for its progress."""

    def __init__(self, names: Sequence[str], rows: int, reader: frames.Frame | Mapping[str, NDArray[Any]]) -> None:
        self.names = tuple(names)
        self.rows = rows
        self._reader = reader
        self._sorted: tuple[str, NDArray[np.float64], int, int] | None = None
        self._tally: tuple[str, dict[Category, int], int] | None = None

    def only(self, names: Sequence[str]) -> None:
        """Say which columns will be asked for; a lazy frame is computed now, for these."""
        if isinstance(self._reader, frames.Frame):
            self.rows = self._reader.compute(names)

    def types(self, names: Sequence[str]) -> dict[str, ColumnType]:
        """How each column is counted, or why it cannot be."""
        return {name: self._type(name) for name in names}

    def array(self, name: str) -> NDArray[Any]:
        """The column's values, one per row."""
        return self._reader.array(name) if isinstance(self._reader, frames.Frame) else self._reader[name]

    def _type(self, name: str) -> ColumnType:
        if not isinstance(self._reader, frames.Frame):
            return type_of(self._reader[name])
        problem = clean(dict.fromkeys(self._reader.categories(name), 0))[2]
        if problem:
            return ColumnType(None, problem=problem)
        return self._reader.type_of(name) or type_of(self._reader.array(name))

    def batches(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Names that are best asked for together: one column at a time is sorted in memory."""
        return [(name,) for name in names]

    def describe(
        self, questions: Sequence[Question], *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Described]:
        """What is needed to choose each column's bins."""
        del progress  # a column is done when it is counted
        return {
            one.name: self._describe_numeric(one) if one.kind == "numeric" else self._describe_categories(one)
            for one in questions
        }

    def _describe_numeric(self, question: Question) -> Described:
        finite, missing, nonfinite = self._finite(question.name)
        rows = finite.size + missing + nonfinite
        if not finite.size:
            return Described(question.name, rows, missing, nonfinite)
        # In integers: a level's float times n can end up just above a whole number.
        places = [-(-level.numerator * finite.size // level.denominator) - 1 for level in question.levels]
        mean, std = moments(finite)
        return Described(
            question.name, rows, missing, nonfinite, tuple(finite[places].tolist()), float(finite[0]),
            float(finite[-1]), mean, std,
        )  # fmt: skip

    def _describe_categories(self, question: Question) -> Described:
        categories, missing = self._categories(question.name)
        frequent = tuple(by_frequency(categories)[: question.most])
        rows = sum(categories.values()) + missing
        return Described(question.name, rows, missing, distinct=len(categories), categories=frequent)

    def count(
        self, cells: Sequence[Cells], *, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Counted]:
        """How many rows fall into each cell."""
        counted = {}
        for done, one in enumerate(cells, start=1):
            counted[one.name] = self._count_numbers(one) if one.kind == "numeric" else self._count_categories(one)
            if progress is not None:
                progress(done, len(cells))
        return counted

    def _count_numbers(self, cells: Cells) -> Counted:
        finite, missing, nonfinite = self._finite(cells.name)
        ends = [0, *np.searchsorted(finite, np.array(cells.edges, np.float64), side="right").tolist(), finite.size]
        parts = [finite[start:stop] for start, stop in pairwise(ends)]
        counts = (*(part.size for part in parts), missing, nonfinite)
        return Counted(cells.name, counts, tuple(moments(part)[0] if part.size else None for part in parts))

    def _count_categories(self, cells: Cells) -> Counted:
        categories, missing = self._categories(cells.name)
        places = {category: index for index, category in enumerate(cells.categories)}
        counts = [0] * (len(places) + 2)
        counts[-2] = missing
        for category, times in categories.items():
            counts[places.get(category, -1)] += times
        return Counted(cells.name, tuple(counts))

    def problem_with_categories(self, name: str) -> str:
        """Why the column cannot be counted as categories, if so."""
        return clean(self._raw_tally(name))[2]

    def _raw_tally(self, name: str) -> Mapping[object, int]:
        if isinstance(self._reader, frames.Frame):
            counted = self._reader.tally(name)
            if counted is not None:
                return counted
        return tally(self.array(name))

    def _categories(self, name: str) -> tuple[dict[Category, int], int]:
        if self._tally is None or self._tally[0] != name:
            categories, missing, _ = clean(self._raw_tally(name))
            self._tally = (name, categories, missing)
        return self._tally[1], self._tally[2]

    def _finite(self, name: str) -> tuple[NDArray[np.float64], int, int]:
        """The finite values in ascending order, how many are missing, and how many infinite.

        Sorted, so that sums, too, are the same whatever the order of the rows.
        """
        if self._sorted is None or self._sorted[0] != name:
            values = numbers_of(self.array(name))
            finite = np.sort(values[np.isfinite(values)])
            missing = int(np.count_nonzero(np.isnan(values)))
            self._sorted = (name, finite, missing, values.size - missing - finite.size)
        return self._sorted[1:]

    def labels_of(self, label: str) -> list[Category]:
        """The labels that occur, at most three of them."""
        return sorted(self._categories(label)[0], key=str)[:3]

    def calibrate(self, score: str, label: str, uppers: tuple[float, ...], positive: Category) -> list[Calibrated]:
        """Rows, positives and mean score in each of ``len(uppers) + 1`` right-closed bins of the score."""
        scores = numbers_of(self.array(score))
        known, positives = _labelled(self.array(label), positive)
        known &= np.isfinite(scores)
        scores, positives = scores[known], positives[known]
        order = np.argsort(scores)  # sums are then the same whatever the order of the rows
        scores, positives = scores[order], positives[order]
        ends = [0, *np.searchsorted(scores, np.array(uppers, np.float64), side="right").tolist(), scores.size]
        return [
            Calibrated(
                stop - start,
                int(np.count_nonzero(positives[start:stop])),
                moments(scores[start:stop])[0] if stop > start else None,
            )
            for start, stop in pairwise(ends)
        ]

    def errors(self, value: str, label: str, uppers: tuple[float, ...]) -> list[Erred]:
        """Rows and mean errors in each of ``len(uppers) + 1`` right-closed bins of the predicted value."""
        predicted, labels = numbers_of(self.array(value)), numbers_of(self.array(label))
        known = (np.abs(predicted) < LARGEST) & (np.abs(labels) < LARGEST)
        predicted, error = predicted[known], predicted[known] - labels[known]
        order = np.lexsort((error, predicted))  # sums are then the same whatever the order of the rows
        predicted, error = predicted[order], error[order]
        ends = [0, *np.searchsorted(predicted, np.array(uppers, np.float64), side="right").tolist(), error.size]
        return [
            _erred(error[start:stop]) if stop > start else Erred(0) for start, stop in pairwise(ends)
        ]  # fmt: skip


def _erred(errors: NDArray[np.float64]) -> Erred:
    sizes = np.abs(errors)
    squares = np.square(np.where(sizes < SMALLEST, 0.0, errors))
    return Erred(errors.size, float(sizes.mean()), float(squares.mean()), float(errors.mean()))


def _labelled(labels: NDArray[Any], positive: Category) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows have a label, and which have the positive one."""
    listed = _objects(labels)
    distinct = Counter(listed)
    present = {value: not is_missing(value) for value in distinct}
    positives = {value: equal(value, positive) for value in distinct}
    return (
        np.fromiter(map(present.__getitem__, listed), np.bool_, len(listed)),
        np.fromiter(map(positives.__getitem__, listed), np.bool_, len(listed)),
    )


def equal(value: object, other: object) -> bool:
    """Whether two labels are equal; a missing one equals nothing."""
    return not is_missing(value) and bool(value == other)


def moments(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and population standard deviation of finite values, without overflow up to float64's largest."""
    largest = float(np.max(np.abs(values)))
    scale = 2.0 ** (math.frexp(largest)[1] - 1) if largest > _LARGEST_SQUARED else 1.0  # a power of two: exact
    with np.errstate(under="ignore"):
        scaled = values if scale == 1.0 else values / scale
        mean = float(np.mean(scaled))
        std = math.sqrt(float(np.mean(np.square(scaled - mean))))
    low, high = float(scaled.min()), float(scaled.max())
    return min(max(mean, low), high) * scale, min(std, (high - low) / 2) * scale
