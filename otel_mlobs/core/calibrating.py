"""Chooses the bins of calibrations and errors, and counts labels into them."""

from __future__ import annotations

import math
from bisect import insort
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import is_missing, numeric_edges
from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.reading import equal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.sources import Source
    from otel_mlobs.tables import Described, Erred

    Floats = NDArray[np.float64]

CURVE_LEVELS = tuple(Fraction(part, 99) for part in range(1, 99))
"""Quantiles of the score: with the threshold 99 edges, which is 100 bins."""
ERROR_LEVELS = tuple(Fraction(part, 20) for part in range(1, 20))
MOST_CLASSES = 100
"""More classes than this have no calibrations: their counts would be too many series."""
_CLASS_BINS, _ALL_BINS, _LEAST_BINS = 50, 1_000, 10
_EDGE_DIGITS = 6
_MEAN_DIGITS = 12
"""Parts must add up to the whole to the digits that count for a profile's id."""


def shortened(value: float, digits: int) -> float:
    """The value to so many digits: all that it is good for, in a file that is to stay small."""
    return float(f"{value:.{digits}g}")


def middle(edges: Sequence[float], cell: int) -> float:
    """Where an empty cell is thought to lie: between its edges, or at the one it has."""
    around = edges[max(cell - 1, 0) : cell + 1]
    return sum(edge / len(around) for edge in around) if around else 0.0


def edges_of(quantiles: Sequence[float], low: float | None, high: float | None) -> list[float]:
    """Inner edges as :func:`numeric_edges` has them, rounded up to six digits where that joins no two bins.

    What is written to six digits takes a third of the space. Rounded up, so that a value and its float32 copy go on
    sharing a bin; before anything is counted, so that counts are those of the edges as they are written. None where
    nothing finite lies between ``low`` and ``high``.
    """
    if low is None or high is None:
        return []
    exact = numeric_edges(quantiles, low, high)
    return [_rounded_up(edge, below) for edge, below in zip(exact, [*exact[1:], high], strict=True)]


def _rounded_up(edge: float, below: float) -> float:
    for digits in range(_EDGE_DIGITS, 17):
        rounded = float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(edge)))
        if rounded < below:
            return rounded + 0.0  # -0.0 becomes 0.0
    return edge


def curve_uppers(quantiles: Sequence[float], described: Described, threshold: float) -> tuple[float, ...]:
    """Upper edges of a score's calibration; one lies just below the threshold, bins being right-closed."""
    edges = edges_of(quantiles, described.minimum, described.maximum)
    edge = math.nextafter(threshold, -math.inf)
    if edge not in edges:
        insort(edges, edge)
    return (*edges, math.inf)


def calibrate_scores(
    source: Source, score: str, label: str, uppers: tuple[float, ...], positive: Category
) -> Calibration:  # fmt: skip
    """The calibration of the column ``score`` in bins with these upper edges."""
    edges = uppers[:-1]
    parts = source.calibrate(score, label, edges, positive)
    return Calibration(
        uppers,
        tuple(
            middle(edges, place) if part.mean_score is None else shortened(part.mean_score, _MEAN_DIGITS)
            for place, part in enumerate(parts)
        ),
        tuple(part.positives for part in parts),
        tuple(part.rows for part in parts),
    )


def positive_label(labels: Sequence[Category], positive: Category | None) -> Category:
    """The label that counts as positive, as it is written in the labels."""
    if positive is None:
        if any(isinstance(label, str) or label not in (-1, 0, 1) for label in labels) or len(labels) > 2:
            raise ValueError(f"positive_class must say which of the labels {list(labels)} is positive")
        positive = 1
    return next((label for label in labels if equal(label, positive)), positive)


def error_bins(source: Source, value: str, label: str, uppers: tuple[float, ...]) -> ErrorBins:
    """The errors of the column ``value`` in bins with these upper edges."""
    parts = source.errors(value, label, uppers[:-1])
    return ErrorBins(
        uppers,
        tuple(part.rows for part in parts),
        tuple(shortened(part.absolute, _MEAN_DIGITS) for part in parts),
        tuple(shortened(part.squared, _MEAN_DIGITS) for part in parts),
        tuple(_signed(part) for part in parts),
    )


def _signed(part: Erred) -> float:
    """The mean error to so many digits of the mean size: where errors cancel out, what is left is rounding."""
    return round(part.signed / (part.absolute or 1.0), _MEAN_DIGITS) * part.absolute + 0.0


def error_uppers(quantiles: Sequence[float], described: Described) -> tuple[float, ...]:
    """Upper edges of the bins of a regression's errors."""
    return (*edges_of(quantiles, described.minimum, described.maximum), math.inf)


def calibrate_classes(
    probabilities: Floats, labels: NDArray[Any], classes: Sequence[Category], reference: Sequence[Calibration]
) -> tuple[Calibration, ...]:
    """Of every class a calibration of its column (rows, classes), against the rest; none where no label is a class.

    Bins are those of ``reference``, else of each column's quantiles. Rows without a known label are left out.
    """
    codes = _codes(labels.tolist(), classes)
    whole = np.isfinite(probabilities).all(axis=1)
    known = whole & (codes >= 0)
    if len(classes) > MOST_CLASSES or not (known.any() or reference):
        return ()
    chosen = probabilities[known].argmax(axis=1) if known.any() else np.empty(0, np.intp)
    found = []
    for index in range(len(classes)):
        if reference:
            uppers = reference[index].uppers
        else:
            uppers = (*_class_edges(np.sort(probabilities[whole, index]), len(classes)), math.inf)
        column = probabilities[known, index]
        found.append(_calibrate_class(column, codes[known] == index, chosen == index, uppers))
    return tuple(found)


def _codes(labels: Iterable[Any], classes: Sequence[Category]) -> NDArray[np.intp]:
    indexes = {name: index for index, name in enumerate(classes)}
    return np.array([-1 if is_missing(label) else indexes.get(label, -1) for label in labels], np.intp)


def _class_edges(ascending: Floats, classes: int) -> list[float]:
    bins = max(_LEAST_BINS, min(_CLASS_BINS, _ALL_BINS // classes))
    places = [-(-part * ascending.size // bins) - 1 for part in range(1, bins)]
    return edges_of(ascending[places].tolist(), float(ascending[0]), float(ascending[-1]))


def _calibrate_class(
    column: Floats, positive: NDArray[np.bool_], chosen: NDArray[np.bool_], uppers: tuple[float, ...]
) -> Calibration:  # fmt: skip
    edges, bins = uppers[:-1], len(uppers)
    order = np.argsort(column, kind="stable")  # sums are then the same whatever the order of the rows
    ascending = column[order]
    ends = [0, *np.searchsorted(ascending, np.array(edges, np.float64), side="right").tolist(), ascending.size]
    means = [
        shortened(float(ascending[start:stop].mean()), _MEAN_DIGITS) if stop > start else middle(edges, place)
        for place, (start, stop) in enumerate(pairwise(ends))
    ]
    cells = np.searchsorted(np.array(edges, np.float64), column, side="left")
    counted = [
        tuple(np.bincount(cells[which], minlength=bins).tolist())
        for which in (positive, np.full(column.size, True), chosen, chosen & positive)
    ]
    return Calibration(uppers, tuple(means), *counted)
