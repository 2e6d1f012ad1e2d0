"""What is odd about one call's inputs: values that are missing, outside the reference's range, or never seen."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import as_number, is_missing
from otel_mlobs.core.rows import Columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Column
    from otel_mlobs.core.rows import RowReader

    Oddities = tuple[int, int, int]

_NOTHING = (0, 0, 0)
_MOST_VALUES = 1_000_000
_MOST_ROWS = 1_000
"""Larger batches, and longer lists of rows, are not described on the span: the window's counts are."""


class Inspector:
    """Counts the odd values of a row or batch: missing; outside the reference's range; unseen or of a wrong type."""

    def __init__(self, reader: RowReader, features: Sequence[Column]) -> None:
        self._reader = reader
        self._limits = [_limits(column) for column in features]

    def __call__(self, inputs: Any) -> Oddities:
        """How many values of ``inputs`` are missing, out of range, unseen; nothing for what has not the right shape."""
        try:
            read = self._reader.read(inputs)
        except Exception:  # noqa: BLE001 - it was refused when it was counted, and that was said
            return _NOTHING
        if isinstance(read, tuple):
            return self._row(read)
        if isinstance(read, np.ndarray):
            return self._matrix(read)
        if isinstance(read, Columns):
            rows = read.rows
            return self._columns(read, rows) if rows * len(read) <= _MOST_VALUES else _NOTHING
        return self._rows(read) if len(read) <= _MOST_ROWS else _NOTHING

    def _rows(self, rows: Sequence[Any]) -> Oddities:
        found = [_NOTHING]
        for row in rows:
            try:
                values = row if isinstance(row, tuple) else self._reader.read(row)
            except Exception:  # noqa: BLE001, S112 - it was refused when it was counted, and that was said
                continue
            if isinstance(values, tuple):
                found.append(self._row(values))
        return _summed(found)

    def _row(self, values: Sequence[Any]) -> Oddities:
        missing = outside = unseen = 0
        if len(values) != len(self._limits):
            return _NOTHING
        for value, (low, high, codes) in zip(values, self._limits, strict=True):
            try:
                if (low <= value <= high) if codes is None else (value in codes):
                    continue
            except Exception:  # noqa: BLE001, S110 - a value's own comparison may raise whatever it likes
                pass
            number = as_number(value) if codes is None else None
            if is_missing(value) or (number is not None and math.isnan(number)):
                missing += 1
            elif number is not None and math.isfinite(number):
                outside += not low <= number <= high
            else:
                unseen += 1
        return missing, outside, unseen

    def _matrix(self, matrix: NDArray[Any]) -> Oddities:
        if matrix.size > _MOST_VALUES:
            return _NOTHING
        if not self._reader.numeric:
            return self._columns([matrix[:, index] for index in range(matrix.shape[1])], len(matrix))
        lows, highs = np.array([one[:2] for one in self._limits]).T
        return _odd_numbers(matrix, lows, highs)

    def _columns(self, columns: Sequence[Any], rows: int) -> Oddities:
        found = []
        for column, bins, (low, high, _) in zip(columns, self._reader.bins, self._limits, strict=True):
            if column is None:
                found.append((rows, 0, 0))
            elif bins.kind == "numeric" and isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
                found.append(_odd_numbers(np.ma.filled(column.astype(np.float64), np.nan), low, high))
            else:
                counts, wrong = bins.count(column)
                outside = 0
                if bins.kind == "numeric" and not wrong:
                    numbers = (as_number(value) for value in column if not is_missing(value))
                    outside = _odd_numbers(np.array([*numbers], dtype=np.float64), low, high)[1]
                found.append((int(counts[-2]), outside, int(counts[-1])))
        return _summed(found)


def _odd_numbers(numbers: NDArray[Any], lows: Any, highs: Any) -> Oddities:
    with np.errstate(invalid="ignore"):
        inside = np.count_nonzero((numbers >= lows) & (numbers <= highs))
        if inside == numbers.size:
            return _NOTHING
        missing = int(np.count_nonzero(numbers != numbers))  # noqa: PLR0124 - NaN is what differs from itself
        infinite = int(np.count_nonzero(np.isinf(numbers)))
    return missing, int(numbers.size - inside - missing - infinite), infinite


def _summed(found: Sequence[Oddities]) -> Oddities:
    return sum(one[0] for one in found), sum(one[1] for one in found), sum(one[2] for one in found)


def _limits(column: Column) -> tuple[float, float, Mapping[object, int] | None]:
    """The reference's range and, for categories, their codes."""
    if column.bins.kind != "numeric":
        return -math.inf, math.inf, column.bins.codes
    low = -math.inf if column.minimum is None else column.minimum
    high = math.inf if column.maximum is None else column.maximum
    # finite even where the reference had no number, so that an infinity is never inside
    return max(low, -sys.float_info.max), min(high, sys.float_info.max), None
