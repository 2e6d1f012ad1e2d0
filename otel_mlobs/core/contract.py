"""The contract that a profile makes: which types, ranges and categories a feature's values have, and which are missing.

A value breaks it that the reference never had a like of: text among numbers, a number beyond the reference's extremes,
a category without a cell, a missing value where the reference has none. What the reference has itself, even rarely, is
allowed: that it grows is for drift to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from otel_mlobs.core.binning import ANY, as_number, is_missing
from otel_mlobs.core.rows import Columns, ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Column
    from otel_mlobs.core.rows import RowReader

    Counts = NDArray[np.int64]

Kind = Literal["type", "range", "category", "missing"]
KINDS: tuple[Kind, ...] = ("type", "range", "category", "missing")

_SHOWN = 80
_WHAT = {"numeric": "a finite number", "categorical": "text or a number", "boolean": "true or false"}


@dataclass(frozen=True)
class Violation:
    """A value that the reference never had a like of.

    Attributes:
        feature: its feature; None where the row as a whole does not have the profile's shape.
        kind: ``"type"`` (no finite number, or nothing that could be a category; or the row's shape), ``"range"``
            (beyond the reference's extremes), ``"category"`` (the reference does not have it) or ``"missing"`` (the
            reference has it in every row).
        message: one line for people; it quotes the value only where that was asked for.
        row: its row in the batch; None for a row that came by itself.
    """

    feature: str | None
    kind: Kind
    message: str
    row: int | None = None


@dataclass(frozen=True)
class _Term:
    """What the reference says of one feature."""

    name: str
    numeric: bool
    what: str
    limits: tuple[float, float]
    codes: Any
    missing_allowed: bool
    rest_allowed: bool
    """Whether the reference itself has infinities, or categories without a cell."""


def kinds_of(column: Column) -> tuple[Kind, ...]:
    """Which kinds of violation a feature's values can have."""
    return _kinds(_term(column))


def no_violations(features: Sequence[Column]) -> Counts:
    """Zeros: per feature, and per kind as in :data:`KINDS`."""
    return np.zeros((len(features), len(KINDS)), np.int64)


class Contract:
    """What a profile's features allow, value by value."""

    def __init__(self, features: Sequence[Column], reader: RowReader) -> None:
        self._reader = reader
        self._terms = [_term(column) for column in features]
        self.ranges = [term.limits for term in self._terms]
        self.kinds: list[tuple[Kind, ...]] = [_kinds(term) for term in self._terms]
        """Which kinds of violation each feature can have."""
        self._possible = np.array([[kind in kinds for kind in KINDS] for kinds in self.kinds], np.bool_)
        self._numeric = np.array([term.numeric for term in self._terms], np.bool_)
        self._rest_allowed = np.array([term.rest_allowed for term in self._terms], np.bool_)

    def count(self, totals: Counts, wrong: Counts, outside: Counts) -> Counts:
        """Violations per feature and kind, shape (features, ``len(KINDS)``), from what a tally has counted.

        ``totals`` are the features' rows of a table of counts, ``wrong`` their values of a wrong type, ``outside``
        those out of range.
        """
        rest = totals[:, -1]
        types = np.where(self._numeric & ~self._rest_allowed, rest, wrong)
        found = np.stack([types, outside, rest - wrong, totals[:, -2]], axis=1)
        return np.where(self._possible, found, 0)

    def check(self, inputs: Any, *, values: bool, limit: int) -> tuple[Violation, ...]:
        """The violations of one row, or the first ``limit`` of a batch; nothing raises for what it holds."""
        try:
            read = self._reader.read(inputs)
            found: Iterable[Violation]
            if isinstance(read, tuple):
                found = self._row(read, None, values=values)
            elif isinstance(read, np.ndarray):
                found = self._columns([read[:, index] for index in range(read.shape[1])], len(read), values=values)
            elif isinstance(read, Columns):
                found = self._columns(read, read.rows, values=values)
            else:
                found = chain.from_iterable(self._nested(row, index, values=values) for index, row in enumerate(read))
            return tuple(islice(found, limit))
        except ShapeError as error:
            return (Violation(None, "type", str(error)),)
        except Exception as error:  # noqa: BLE001 - a frame or mapping of the user's that cannot be read
            return (_unreadable(error, inputs, None),)

    def _nested(self, row: Any, index: int, *, values: bool) -> Iterator[Violation]:
        try:
            read = row if isinstance(row, tuple) and not hasattr(row, "_fields") else self._reader.read(row)
            if not isinstance(read, tuple):
                raise ShapeError(f"a row of type {type(row).__name__} that holds rows itself")
        except ShapeError as error:
            yield Violation(None, "type", str(error), index)
        except Exception as error:  # noqa: BLE001 - one row that cannot be read is not the others' trouble
            yield _unreadable(error, row, index)
        else:
            yield from self._row(read, index, values=values)

    def _row(self, row: Sequence[Any], index: int | None, *, values: bool) -> Iterator[Violation]:
        if len(row) != len(self._terms):
            message = f"a row of {len(row)} values, where the profile has {len(self._terms)} features"
            yield Violation(None, "type", message, index)
            return
        for value, term in zip(row, self._terms, strict=True):
            kind = _kind_of(value, term)
            if kind is not None:
                yield _violation(term, kind, value, index, values=values)

    def _columns(self, columns: Sequence[Any], rows: int, *, values: bool) -> Iterator[Violation]:
        if any(column is not None and len(column) != rows for column in columns):
            raise ShapeError("the columns of a batch differ in length")
        listed = [[None] * rows if column is None else _indexable(column) for column in columns]
        suspects = [_suspects(column, term) for column, term in zip(listed, self._terms, strict=True)]
        for index in sorted(set(chain.from_iterable(suspects))):
            for column, term in zip(listed, self._terms, strict=True):
                value = column[index]
                kind = _kind_of(value, term)
                if kind is not None:
                    yield _violation(term, kind, value, index, values=values)


def _indexable(column: Any) -> Any:
    """A column whose rows are found by number."""
    if isinstance(column, (np.ndarray, list, tuple)):
        return column
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _suspects(column: Any, term: _Term) -> Sequence[int]:
    """The rows worth a look: of an array of numbers those that are missing, infinite or out of range."""
    if not (term.numeric and isinstance(column, np.ndarray) and column.dtype.kind in "biuf"):
        return range(len(column))
    low, high = (max(term.limits[0], -_LARGEST), min(term.limits[1], _LARGEST))
    with np.errstate(invalid="ignore"):
        fine = (column >= low) & (column <= high)
    found: list[int] = np.flatnonzero(~np.ma.filled(fine, fill_value=False)).tolist()
    return found


_LARGEST = float(np.finfo(np.float64).max)


def _term(column: Column) -> _Term:
    bins = column.bins
    limits = ANY if column.minimum is None or column.maximum is None else (column.minimum, column.maximum)
    return _Term(
        column.name,
        bins.kind == "numeric",
        _WHAT[bins.kind],
        limits,
        bins.codes,
        missing_allowed=column.counts[-2] > 0,
        rest_allowed=column.counts[-1] > 0,
    )


def _kinds(term: _Term) -> tuple[Kind, ...]:
    if term.numeric:
        possible = {"type": True, "range": term.limits != ANY}
    else:
        possible = {"type": True, "category": not term.rest_allowed}
    possible["missing"] = not term.missing_allowed
    return tuple(kind for kind in KINDS if possible.get(kind))


def _kind_of(value: Any, term: _Term) -> Kind | None:
    """What is wrong with ``value``, as the tally that counts it sees it."""
    if is_missing(value):
        return None if term.missing_allowed else "missing"
    if not term.numeric:
        return _kind_of_category(value, term)
    number = as_number(value)
    if number is None:
        return "type"
    if math.isnan(number):
        return None if term.missing_allowed else "missing"
    if math.isinf(number):
        return None if term.rest_allowed else "type"
    return None if term.limits[0] <= number <= term.limits[1] else "range"


def _kind_of_category(value: Any, term: _Term) -> Kind | None:
    try:
        if value in term.codes:
            return None
    except Exception:  # noqa: BLE001 - whatever a value's own __hash__ or __eq__ raises
        return "type"
    if not isinstance(value, (str, bool, int, float, np.generic)):
        return "type"
    return None if term.rest_allowed else "category"


def _violation(term: _Term, kind: Kind, value: Any, row: int | None, *, values: bool) -> Violation:
    if kind == "missing":
        return Violation(term.name, kind, f"{term.name} is missing: the reference has it in every row", row)
    if kind == "range":
        low, high = term.limits
        message = f"{term.name} is out of the reference's range, {low:.6g} to {high:.6g}"
    elif kind == "category":
        message = f"{term.name} is of a category that the reference does not have"
    else:
        number = as_number(value) if term.numeric else None
        got = f"a {type(value).__name__}" if number is None else "an infinite one"
        message = f"{term.name} must be {term.what}, got {got}"
    return Violation(term.name, kind, f"{message}: {_shown(value)}" if values else message, row)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an object of the user's
        return "?"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _unreadable(error: Exception, value: Any, row: int | None) -> Violation:
    return Violation(None, "type", f"{type(error).__name__} while reading a {type(value).__name__}", row)
