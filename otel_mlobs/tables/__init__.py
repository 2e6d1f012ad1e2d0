"""Reads columns out of any table: dataframes (:mod:`.frames`) into arrays, SQL tables (:mod:`.sql`) into aggregates.

The records here are what both sides agree on. A SQL table never sends its rows: it answers two questions about each
column, first what is needed to choose its bins (:class:`Described`), then how many rows fall into each
(:class:`Counted`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fractions import Fraction

Kind = Literal["numeric", "categorical", "boolean"]
Category = str | int | float | bool


@dataclass(frozen=True)
class ColumnType:
    """How a column of this type is counted, or why it cannot be.

    Attributes:
        kind: how it is counted; None where it cannot be.
        integer: whether its values are whole numbers.
        problem: what is wrong; and what to do, to follow "column 'x' …"; empty where nothing is.
    """

    kind: Kind | None
    integer: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked of one column before its bins are chosen.

    Attributes:
        name: the column's.
        kind: how it is to be counted, which may differ from its type's (integers as categories).
        levels: at which fractions of the finite values quantiles are wanted: of n values in ascending order, level q
            is the one at place ceil(q·n), counted from one; a value that occurs, never one between two.
        most: how many categories are wanted, the most frequent.
    """

    name: str
    kind: Kind
    levels: tuple[Fraction, ...] = ()
    most: int = 0


@dataclass(frozen=True)
class Described:
    """One column's answer to a :class:`Question`.

    Attributes:
        rows: all rows; missing (NULL and NaN) and nonfinite (±inf) ones among them.
        missing: rows without a value.
        nonfinite: rows that hold ±inf; numeric only.
        quantiles: one per level asked for; empty where no value is finite.
        minimum: of the finite values, as are maximum, mean and std (of the population); None where there are none.
        distinct: how many categories there are, exact up to at least 101 and good to some per cent beyond.
        categories: the most frequent with their rows; of equal ones the smaller value first.
    """

    name: str
    rows: int
    missing: int
    nonfinite: int = 0
    quantiles: tuple[float, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    distinct: int = 0
    categories: tuple[tuple[Category, int], ...] = ()


@dataclass(frozen=True)
class Cells:
    """The cells into which a column's rows are to be counted.

    Attributes:
        edges: numeric: ascending inner edges; value cell i holds (edges[i-1], edges[i]], the first and last are open.
        categories: categorical: one value cell each, in this order; boolean: False, True.
    """

    name: str
    kind: Kind
    edges: tuple[float, ...] = ()
    categories: tuple[Category, ...] = ()


@dataclass(frozen=True)
class Counted:
    """One column's counts.

    Attributes:
        counts: rows per value cell, then missing, then nonfinite (numeric) or other (the rest).
        means: numeric: mean of the values in each value cell; None where it is empty.
    """

    name: str
    counts: tuple[int, ...]
    means: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Calibrated:
    """Rows with a label whose score falls into one bin: how many, how many of them positive, and their mean score."""

    rows: int
    positives: int
    mean_score: float | None


LARGEST = 1e150
"""Predictions and labels at or beyond it leave no error that can be squared, and count as not finite."""
SMALLEST = 1e-150
"""The square of an error below it is zero: PostgreSQL fails where a product underflows."""


@dataclass(frozen=True)
class Erred:
    """Rows whose prediction falls into one bin, and their errors, prediction less label.

    How many, and the means of the error's size, of its square and of itself; 0 without rows.
    """

    rows: int
    absolute: float = 0.0
    squared: float = 0.0
    signed: float = 0.0
