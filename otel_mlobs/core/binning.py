"""The one binning: the cells that a profile, the live counts and the exported series share.

Numeric cells are right-closed, ``(a, b]``, with ends at ±infinity: numpy's own default is left-closed, and on identical
integer data that mismatch alone gives a PSI of 0.76. Beside its value cells every feature has two more: ``missing``,
and ``nonfinite`` (numeric) or ``other`` (categories). Edges are frozen at fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

Category = Union[str, int, float, bool]  # noqa: UP007 - evaluated at run time, also on 3.10
Kind = Literal["numeric", "categorical", "boolean"]

MISSING = "missing"
NONFINITE = "nonfinite"
OTHER = "other"
SPECIALS = 2
"""Cells behind the value cells: missing, and nonfinite or other."""

ANY = (-math.inf, math.inf)
"""The range of a column whose values may be any."""
_BLOCK = 32_768
_SCRATCH = 131_072
_TILE = 256
"""Rows compared at a time, numbers copied for it (1 MB), rows turned round at a time: bounded, within the caches."""


@dataclass(frozen=True)
class Bins:
    """The cells of one feature or output.

    ``edges`` are the inner edges of a numeric feature, ascending: cell i is ``(edges[i-1], edges[i]]``. ``categories``
    are the values that have a cell of their own, the most frequent first.
    """

    kind: Kind
    edges: tuple[float, ...] = ()
    categories: tuple[Category, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether neighbouring cells are neighbours in value."""
        return self.kind == "numeric"

    @property
    def values(self) -> int:
        """How many value cells there are: all but the last two."""
        return len(self.edges) + 1 if self.kind == "numeric" else len(self.categories)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells' names, in order; category values are not among them, they may be personal."""
        return _cells(self.kind == "numeric", self.values)

    @cached_property
    def codes(self) -> Mapping[object, int]:
        """Category → index of its cell."""
        return {category: index for index, category in enumerate(self.categories)}

    def count(self, values: Iterable[object]) -> tuple[Counts, int]:
        """Count ``values`` (any iterable, or a 1-D array) into the cells.

        Returns the counts, one per cell in the order of :attr:`cells`, and how many values were of a wrong type: text
        among numbers, a list among categories. Those are counted in the last cell, too; nothing raises.
        """
        if self.kind == "numeric":
            numbers = _as_numbers(values)
            return self._count_objects(values) if numbers is None else (count_floats(numbers, self.edges), 0)
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
            return _count_codes(values, self), 0
        return self._count_objects(values)

    def _count_objects(self, values: Iterable[object]) -> tuple[Counts, int]:
        if isinstance(values, np.ma.MaskedArray):
            values = values.tolist()  # what is masked becomes None
        elif isinstance(values, np.ndarray) and values.dtype.kind not in "mM":
            values = values.tolist()
        counted: dict[object, int] = {}
        unhashable = 0
        for value in values:
            try:
                counted[value] = counted.get(value, 0) + 1
            except Exception:  # noqa: BLE001 - whatever a value's own __hash__ or __eq__ raises
                unhashable += 1
        counts = np.zeros(self.values + SPECIALS, np.int64)
        if self.kind == "numeric":
            invalid = self._add_numbers(counts, counted)
        else:
            invalid = self._add_categories(counts, counted)
        counts[-1] += unhashable
        return counts, invalid + unhashable

    def _add_numbers(self, counts: Counts, counted: Mapping[object, int]) -> int:
        invalid = 0
        for value, times in counted.items():
            if is_missing(value):
                counts[-2] += times
                continue
            number = as_number(value)
            if number is None:
                invalid += times
                counts[-1] += times
            elif math.isfinite(number):
                counts[_cell(number, self.edges)] += times
            else:
                counts[-2 if math.isnan(number) else -1] += times
        return invalid

    def _add_categories(self, counts: Counts, counted: Mapping[object, int]) -> int:
        invalid = 0
        for value, times in counted.items():
            if is_missing(value):
                counts[-2] += times
                continue
            index = self.codes.get(value)
            if index is None:
                index = -1
                if not isinstance(value, (str, bool, int, float, np.generic)):
                    invalid += times
            counts[index] += times
        return invalid


@lru_cache(maxsize=256)
def _cells(numeric: bool, values: int) -> tuple[str, ...]:
    """Names that all features of so many cells share."""
    letter, last = ("b", NONFINITE) if numeric else ("c", OTHER)
    return (*(f"{letter}{index:02d}" for index in range(values)), MISSING, last)


@lru_cache(maxsize=256)
def _positions(values: int, width: int) -> NDArray[np.intp]:
    """Where a feature's cells are in a row of ``width``: the special ones are last."""
    return np.array([*range(values), width - 2, width - 1], np.intp)


def is_missing(value: object) -> bool:
    """None, a NaN, or the missing marker of pandas, whatever its library calls it."""
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, (float, np.floating)):
        return value != value  # noqa: PLR0124 - NaN is what differs from itself
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


def as_number(value: object) -> float | None:
    """``value`` as a float: NaN where it is a NaN of its own kind, None where it is no real number."""
    if isinstance(value, (str, bytes, bytearray, complex, np.complexfloating, np.datetime64, np.timedelta64)):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except Exception:  # noqa: BLE001 - an object's own __float__ may raise whatever it likes
        return None


def _as_numbers(values: object) -> NDArray[np.float64] | None:
    """``values`` as floats where that needs no look at each of them: an array or a list of plain numbers."""
    if isinstance(values, np.ma.MaskedArray):
        if values.dtype.kind not in "biuf" or values.ndim != 1:
            return None
        return np.ma.filled(values.astype(np.float64), np.nan)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        return values.astype(np.float64, copy=False)
    return None


def _cell(number: float, edges: Sequence[float]) -> int:
    return int(np.searchsorted(edges, number, side="left")) if edges else 0


def count_floats(column: NDArray[np.float64], edges: Sequence[float]) -> Counts:
    """Counts per cell of ``column`` (1-D, float64, NaN is missing): value cells, missing, nonfinite.

    Counting ``column <= edge`` for every edge needs no index per value, and takes a fifth of the time of
    ``searchsorted`` and ``bincount``.
    """
    counts = np.zeros(len(edges) + 1 + SPECIALS, np.int64)
    compared = np.empty(min(column.size, _BLOCK), np.bool_)
    boxed = _boxed(edges)
    with np.errstate(all="ignore"):
        for start in range(0, column.size, _BLOCK):
            block = column[start : start + _BLOCK]
            counts += _counts_of_block(block, boxed, compared[: block.size], finite=False)
    return counts


def _boxed(edges: Sequence[float]) -> list[NDArray[np.float64]]:
    """The edges as arrays of no dimension: a comparison with a Python float takes half as long again."""
    return [np.array(edge, dtype=np.float64) for edge in edges]


def _counts_of_block(
    column: NDArray[np.float64], edges: Sequence[NDArray[np.float64]], compared: NDArray[np.bool_], *, finite: bool
) -> list[int]:
    """The counts of at most ``_BLOCK`` values; ``finite`` where it is known that all of them are."""
    size = column.size
    missing = negative = positive = 0
    if not (finite or math.isfinite(np.add.reduce(column))):  # something is not finite, or the sum overflows
        missing = int(np.count_nonzero(column != column))  # noqa: PLR0124 - NaN is what differs from itself
        negative = int(np.count_nonzero(column == -np.inf))
        positive = int(np.count_nonzero(column == np.inf))
    count_nonzero, less_equal = np.count_nonzero, np.less_equal
    below = [count_nonzero(less_equal(column, edge, compared)) for edge in edges]
    counts = [upper - lower for lower, upper in zip([negative, *below], below, strict=False)]
    return [*counts, size - missing - positive - (below[-1] if below else negative), missing, negative + positive]


def _count_codes(numbers: NDArray[Any], bins: Bins) -> Counts:
    """Counts of categories that are numbers, compared in their own type: float64 joins large whole numbers."""
    counts = np.zeros(bins.values + SPECIALS, np.int64)
    masked = np.ma.getmaskarray(numbers)
    distinct, times = np.unique(np.ma.getdata(numbers)[~masked], return_counts=True)
    for value, often in zip(distinct.tolist(), times.tolist(), strict=True):
        counts[-2 if value != value else bins.codes.get(value, -1)] += often  # noqa: PLR0124 - NaN
    counts[-2] += np.count_nonzero(masked)
    return counts


class MatrixCounter:
    """Counts the columns of a matrix into one table of counts, shape (columns, widest feature's cells).

    In a row of the table a feature's value cells come first, padding follows, missing and nonfinite/other are last:
    the layout of everything in :mod:`otel_mlobs.core`.
    """

    def __init__(self, columns: Sequence[Bins], ranges: Sequence[tuple[float, float]] = ()) -> None:
        """``ranges`` are the lowest and the highest finite value that the first columns should have; -inf, inf: any."""
        self.columns = tuple(columns)
        self._ranges = [*ranges, *[ANY] * (len(self.columns) - len(ranges))]
        self._limits = [_boxed(one) for one in self._ranges]
        self.width = max((bins.values for bins in self.columns), default=0) + SPECIALS
        self.shape = (len(self.columns), self.width)
        self._edges = [_boxed(bins.edges) if bins.kind == "numeric" else [] for bins in self.columns]
        self._cells = [_positions(bins.values, self.width) for bins in self.columns]

    def table(self) -> Counts:
        """A table of zeros."""
        return np.zeros(self.shape, np.int64)

    def add(self, table: Counts, index: int, counts: Counts) -> None:
        """Add ``counts`` of the feature at ``index``, one per cell, to its row of ``table``."""
        table[index, self._cells[index]] += counts

    def count(self, matrix: NDArray[Any], table: Counts, columns: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Count ``matrix`` (rows, columns; any real dtype, any strides) into ``table``.

        ``columns`` says which feature each column of the matrix is; the profile's order unless given. Returns features
        that have finite values outside their range, and how many; a feature may come more than once.
        """
        which = range(len(self.columns)) if columns is None else columns
        rows, width = matrix.shape
        outside: list[tuple[int, int]] = []
        if not (rows and width):
            return outside
        size = max(1, min(rows, _BLOCK, _SCRATCH // max(width, 1)))
        scratch = np.empty((width, size))
        compared = np.empty(size, np.bool_)
        count_nonzero, less, greater = np.count_nonzero, np.less, np.greater
        counted = np.zeros(sum(len(self._cells[index]) for index in which), np.int64)
        with np.errstate(all="ignore"):
            for start in range(0, rows, size):
                block = matrix[start : start + size]
                part = scratch[:, : len(block)]
                for row in range(0, len(block), _TILE):  # turned round tile by tile, which the caches prefer
                    tile = block[row : row + _TILE]
                    part[:, row : row + len(tile)] = tile.T
                lowest, highest = np.minimum.reduce(part, axis=1).tolist(), np.maximum.reduce(part, axis=1).tolist()
                counts: list[int] = []
                for position, index in enumerate(which):
                    if self.columns[index].kind == "numeric":
                        least, most = lowest[position], highest[position]  # NaN where there is one: not in any range
                        column, edges, mask = part[position], self._edges[index], compared[: len(block)]
                        found = _counts_of_block(column, edges, mask, finite=math.isfinite(most - least))
                        counts += found
                        low, high = self._ranges[index]
                        if not low <= least <= most <= high and low > -math.inf:
                            times = -found[-1]  # infinities are beyond a limit, too
                            if not least >= low:
                                times += count_nonzero(less(column, self._limits[index][0], mask))
                            if not most <= high:
                                times += count_nonzero(greater(column, self._limits[index][1], mask))
                            if times:
                                outside.append((index, int(times)))
                    else:
                        counts += _count_codes(block[:, position], self.columns[index]).tolist()
                counted += counts
        table.reshape(-1)[np.concatenate([index * self.width + self._cells[index] for index in which])] += counted
        return outside


def count_outside(values: NDArray[np.float64], limits: tuple[float, float]) -> int:
    """How many finite values (1-D) lie outside of ``limits``."""
    low, high = limits
    with np.errstate(invalid="ignore"):
        beyond = np.count_nonzero(values < low) + np.count_nonzero(values > high)
        return int(beyond - np.count_nonzero(np.isinf(values))) if beyond else 0


def numeric_edges(quantiles: Iterable[float], minimum: float, maximum: float) -> tuple[float, ...]:
    """The inner edges from a reference's quantiles (values that occur, ascending) and its finite extremes.

    Edges are rounded up to float32, so that a value and its float32 copy share a cell: models are trained on float64
    and served float32. That is left out where it would join edges or leave float32's range. No edge is at or above the
    maximum, so the last cell is not empty; where most values are the maximum, they get a cell apart from what lies
    below. A constant has cells below, at and above it.
    """
    if minimum == maximum:
        return _constant_edges(minimum + 0.0)
    exact = sorted({float(value) + 0.0 for value in quantiles})  # -0.0 becomes 0.0: the content id is of the text
    edges = [value for value in exact if value < maximum]
    if len(edges) < len(exact):
        edges = sorted({*edges, _below(maximum)})
        edges = [value for value in edges if value >= minimum] or [minimum]
    rounded = [_rounded_up(value) for value in edges]
    increasing = all(one < other for one, other in zip(rounded, [*rounded[1:], maximum], strict=True))
    return tuple(rounded if increasing else edges)


def _constant_edges(value: float) -> tuple[float, ...]:
    lower, upper = _below(value), _rounded_up(value)
    return (lower, upper) if math.isfinite(lower) else (upper,)


_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _rounded_up(value: float) -> float:
    """The least float32 that is not below ``value``, or ``value`` where float32 does not reach."""
    if abs(value) >= _FLOAT32_MAX or 0 < abs(value) < float(np.finfo(np.float32).tiny):
        return value
    single = np.float32(value)
    if float(single) < value:
        single = np.nextafter(single, np.float32(np.inf))
    return float(single)


def _below(value: float) -> float:
    """A number below ``value`` and below its float32 copy."""
    if abs(value) >= _FLOAT32_MAX or 0 < abs(value) < float(np.finfo(np.float32).tiny):
        return math.nextafter(value, -math.inf)  # NumPy's warns where the least float goes to -inf
    single = np.float32(value)
    with np.errstate(over="ignore"):
        if float(single) > value:
            single = np.nextafter(single, np.float32(-np.inf))
        below = float(np.nextafter(single, np.float32(-np.inf)))
    return below if math.isfinite(below) else math.nextafter(value, -math.inf)
