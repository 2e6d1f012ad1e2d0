"""How often a model was right in its reference, by what it answered: what turns scores into expected outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from otel_mlobs.core.special import chi_square_sf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_GROUP_ROWS = 20
_GROUP_EXPECTED = 5.0
"""Rows of a group, and expected positives and negatives in it: fewer, and a chi-square says little."""
_CONTRADICTED = 0.05


@dataclass(frozen=True)
class Calibration:
    """How often the positive class came, by score; one entry per bin of the score in every field.

    Attributes:
        uppers: the bins' upper edges, ascending, each in its bin (right-closed); the last is infinite.
        mean_scores: mean score of the bin's rows; of an empty bin the middle between its edges, or the one it has.
        positives: rows with a label that were of the positive class (of several: of this one).
        rows: rows with a label.
        chosen_rows: of several classes: the rows whose most probable class is this one; else empty.
        chosen_positives: those of them that were of this class; else empty.

    Raises:
        ValueError: edges do not ascend to infinity, lengths differ, or there are more positives than rows.
    """

    uppers: tuple[float, ...]
    mean_scores: tuple[float, ...]
    positives: tuple[int, ...]
    rows: tuple[int, ...]
    chosen_rows: tuple[int, ...] = ()
    chosen_positives: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        bins = _checked_uppers("calibration", self.uppers)
        for name in ("mean_scores", "positives", "rows"):
            _check_length("calibration", name, len(getattr(self, name)), bins)
        for name in ("chosen_rows", "chosen_positives"):
            _check_length("calibration", name, len(getattr(self, name)), bins if self.chosen_rows else 0)
        if not all(map(math.isfinite, self.mean_scores)):
            raise ValueError(f"calibration: mean_scores must be finite, got {self.mean_scores}")
        _check_parts("positives", self.positives, self.rows)
        if self.chosen_rows:
            _check_parts("chosen_rows", self.chosen_rows, self.rows)
            _check_parts("chosen_positives", self.chosen_positives, self.chosen_rows)
            _check_parts("chosen_positives", self.chosen_positives, self.positives)
            others = tuple(rows - chosen for rows, chosen in zip(self.rows, self.chosen_rows, strict=True))
            left = tuple(all_ - chosen for all_, chosen in zip(self.positives, self.chosen_positives, strict=True))
            _check_parts("positives not chosen", left, others)

    @cached_property
    def p_value(self) -> float:
        """How probable the reference's labels are, at least so far from the scores, if the scores are probabilities.

        Hosmer and Lemeshow's chi-square (1980), with a degree of freedom for each group of rows, since no score was
        fitted to these labels. Neighbouring bins are one group until it has 20 rows and 5 expected positives and
        negatives. 1 without rows; 0 where a mean score is no probability.
        """
        if not all(0.0 <= mean <= 1.0 for mean, rows in zip(self.mean_scores, self.rows, strict=True) if rows):
            return 0.0
        rows, positives = np.array(self.rows, np.float64), np.array(self.positives, np.float64)
        groups = _groups(rows, rows * np.array(self.mean_scores))
        if not groups:
            return 1.0
        n, expected = np.add.reduceat(rows, groups), np.add.reduceat(rows * np.array(self.mean_scores), groups)
        off = np.square(np.add.reduceat(positives, groups) - expected)
        variance = expected * (1.0 - expected / n)
        with np.errstate(all="ignore"):  # scores of 0 and 1 are either true or impossible
            statistic = np.where(off > 1e-18 * np.square(n), off / variance, 0.0).sum()
        return float(chi_square_sf(statistic, len(groups))) if math.isfinite(statistic) else 0.0

    @property
    def needed(self) -> bool:
        """Whether the reference contradicts the scores as probabilities, so that they have to be calibrated."""
        return self.p_value < _CONTRADICTED

    @cached_property
    def calibrated(self) -> tuple[float, ...]:
        """Probability of the positive class in every bin, from 0 to 1 and never falling.

        Where calibration is :attr:`needed` the isotonic regression of the positives' share, an empty bin between its
        neighbours; else the mean scores themselves, which hold no chance of the reference.
        """
        means = np.array(self.mean_scores)
        rows = np.array(self.rows, np.float64)
        known = rows > 0
        if not self.needed or not known.any():
            return tuple(np.clip(means, 0.0, 1.0).tolist())
        share = np.empty_like(means)
        share[known] = isotonic(np.array(self.positives)[known] / rows[known], rows[known])
        share[~known] = np.interp(means[~known], means[known], share[known])
        return tuple(share.tolist())


@dataclass(frozen=True)
class ErrorBins:
    """A regression's errors (prediction less label) by its prediction; one entry per bin in every field.

    Attributes:
        uppers: the bins' upper edges of the predicted value, right-closed, ascending; the last is infinite.
        rows: rows with a label.
        absolute: mean absolute error; 0 in a bin without rows, as are squared and signed.
        squared: mean squared error.
        signed: mean error: positive where the model predicts too much.

    Raises:
        ValueError: edges do not ascend to infinity, lengths differ, or a value is not finite or negative.
    """

    uppers: tuple[float, ...]
    rows: tuple[int, ...]
    absolute: tuple[float, ...]
    squared: tuple[float, ...]
    signed: tuple[float, ...]

    def __post_init__(self) -> None:
        bins = _checked_uppers("errors", self.uppers)
        for name in ("rows", "absolute", "squared", "signed"):
            _check_length("errors", name, len(getattr(self, name)), bins)
        for name in ("rows", "absolute", "squared"):
            values = getattr(self, name)
            if not all(0 <= value < math.inf for value in values):
                raise ValueError(f"errors: {name} must be finite and not negative, got {values}")
        if not all(map(math.isfinite, self.signed)):
            raise ValueError(f"errors: signed must be finite, got {self.signed}")


def isotonic(values: ArrayLike, weights: ArrayLike) -> Floats:
    """The never falling sequence nearest to ``values`` in weighted least squares, by pooling adjacent violators.

    ``weights`` are positive, one per value. Barlow, Bartholomew, Bremner and Brunk (1972), chapter 1.
    """
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(np.asarray(values, np.float64).tolist(), np.asarray(weights).tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while means and means[-1] >= mean:
            other = masses.pop()
            mass += other
            mean += (means.pop() - mean) * (other / mass)
            length += lengths.pop()
        means.append(mean)
        masses.append(mass)
        lengths.append(length)
    # a pooled mean may lie a last digit below the block before it
    return np.maximum.accumulate(np.repeat(np.array(means, np.float64), lengths))


def _groups(rows: Floats, expected: Floats) -> list[int]:
    """The first bin of every group; what is left over at the end belongs to the last."""
    starts: list[int] = []
    start = 0
    n = positives = 0.0
    for place, (count, share) in enumerate(zip(rows.tolist(), expected.tolist(), strict=True)):
        n += count
        positives += share
        if n >= _GROUP_ROWS and min(positives, n - positives) >= _GROUP_EXPECTED:
            starts.append(start)
            start, n, positives = place + 1, 0.0, 0.0
    if not starts and n > 0:
        return [0]
    return starts


def _checked_uppers(what: str, uppers: Sequence[float]) -> int:
    if not uppers or uppers[-1] != math.inf or not all(one < other for one, other in pairwise(uppers)):
        raise ValueError(f"{what}: uppers must ascend to infinity, got {uppers}")
    return len(uppers)


def _check_length(what: str, name: str, found: int, bins: int) -> None:
    if found != bins:
        raise ValueError(f"{what}: {name} must be one per bin, {bins}, got {found}")


def _check_parts(name: str, parts: Sequence[int], wholes: Sequence[int]) -> None:
    for part, whole in zip(parts, wholes, strict=True):
        if not 0 <= part <= whole:
            raise ValueError(f"calibration: {name} must be from 0 to {whole}, got {part}")
