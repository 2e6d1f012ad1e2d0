"""How right a model was, from counts of what it predicted and what came true; every figure with its 95% interval.

An outcome table has the shape (classes, score bins, predicted, label): predicted and label are 0 (no) or 1 (yes). A
binary model has one class. Of several classes each is taken against the rest: a row is once in each class, in the bin
of that class's probability. Tables add up, so a figure over many processes is the figure of the sum of their tables.
They may hold fractions: what is expected, where nobody knows the labels yet.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from otel_mlobs.core.binning import as_number, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

CELLS = ("tn", "fn", "fp", "tp")
"""The confusion cells, at 2 · predicted + label."""
REGRESSION_SUMS = ("rows", "over", "under", "squared_over", "squared_under", "fourth")
"""What is kept of a regression's errors (prediction less label): how many; the sums of the positive ones and of the
negative ones' sizes; of their squares, likewise; and of all fourth powers."""

_Z = 1.959963984540054
_BINS_TOGETHER = 10
"""Bins that a calibration error is taken over at once: of a hundred each by itself, it would be their chance."""
_LARGEST_ERROR = 1e75
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


class Figure(NamedTuple):
    """A measure and its 95% interval; NaN where the counts do not tell."""

    value: float
    lower: float
    upper: float


UNKNOWN = Figure(math.nan, math.nan, math.nan)


def performance(outcomes: NDArray[Any], mean_scores: ArrayLike | None = None) -> dict[str, Figure]:
    """Measures of classification from an outcome table; nothing raises for what it counts.

    ``precision``, ``recall``, ``specificity``, ``f1`` and ``accuracy``; with more than one bin ``roc_auc``, where the
    rows of a bin count as tied; with ``mean_scores`` (the mean score of every bin, shape (bins,) or (classes, bins))
    also ``brier``, ``log_loss`` and ``calibration_error``, of a model that gives each row its bin's mean score. Those
    three are NaN where a bin with rows has a mean outside 0…1.

    Of several classes accuracy is the share of right answers; ``brier`` is summed over classes, ``log_loss`` is of the
    true class's probability; the others are plain means over classes, as scikit-learn's ``average="macro"`` and
    ``multi_class="ovr"``. As there, a class that was neither predicted nor true is left out, and a share out of
    nothing is 0 in such a mean; an area under the curve is averaged over the classes that have one.

    Intervals: Wilson's (1927) for shares; for F1 the one of tp / (tp + fp + fn), with which it rises; DeLong's (1988)
    for the area, and where all pairs agree Wilson's for as many pairs as do not share a row. Means over classes
    combine their classes' intervals (Zou and Donner 2008), as of independent parts where these are, else so wide that
    no dependence makes them too narrow. Errors of probabilities: normal, of a mean over rows; the calibration error
    has none.

    Raises:
        ValueError: the table has another shape.
    """
    if outcomes.ndim != 4 or outcomes.shape[2:] != (2, 2):
        raise ValueError(f"an outcome table must be of shape (classes, bins, 2, 2), got {outcomes.shape}")
    table = np.asarray(outcomes, np.float64)
    found = _of_cells(table)
    if table.shape[1] > 1:
        found["roc_auc"] = _mean_of_areas(table)
    if mean_scores is not None:
        scores = np.broadcast_to(np.asarray(mean_scores, np.float64), table.shape[:2])
        found |= _of_probabilities(table, scores)
    return found


def cells(outcomes: NDArray[Any]) -> NDArray[Any]:
    """The confusion cells of every class, shape (classes, 4), in the order of :data:`CELLS`."""
    summed: NDArray[Any] = outcomes.sum(axis=1)
    return summed.reshape(len(outcomes), 4)


def labels_by_bin(outcomes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Positives, negatives, and negatives in all lower bins, each of shape (classes, bins).

    They add up over processes, and Σ positives · (negatives below + negatives / 2) over all pairs is the area under
    the ROC curve: a query language needs no running sum over bins for it.
    """
    by_label = outcomes.sum(axis=2)
    negatives = by_label[..., 0]
    return by_label[..., 1], negatives, np.cumsum(negatives, axis=1) - negatives


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's 95% interval of a share; NaN where there are no trials. Counts may be fractions.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    successes, trials = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(trials, np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        failures = trials - successes
        middle = successes + _Z**2 / 2
        spread = _Z * np.sqrt(np.maximum(successes * failures / trials, 0.0) + _Z**2 / 4)
        lower, upper = (middle - spread) / (trials + _Z**2), (middle + spread) / (trials + _Z**2)
    empty = ~(trials > 0)
    # At 0 and 1 the bound is exact; rounding must not put it beyond the share itself
    lower = np.where(empty, np.nan, np.where(successes <= 0, 0.0, np.clip(lower, 0.0, 1.0)))
    upper = np.where(empty, np.nan, np.where(failures <= 0, 1.0, np.clip(upper, 0.0, 1.0)))
    return lower, upper


def roc_auc(positives: ArrayLike, negatives: ArrayLike) -> Figure:
    """The area under the ROC curve from counts by score bin, ascending; rows of one bin are tied and count half.

    NaN without positives or without negatives. The interval is DeLong's, normal on the logit scale; it needs two of
    each, and with fewer than 20 of one it is too narrow (seven positives: 88% where 95% is meant). An area of 0 or 1
    has Wilson's for as many pairs as do not share a row: min(positives, negatives).

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
    operating characteristic curves".
    """
    yes, no = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        all_yes, all_no = float(yes.sum()), float(no.sum())
        if not (all_yes > 0 and all_no > 0):
            return UNKNOWN
        beaten = (np.cumsum(no) - no / 2) / all_no
        beating = 1 - (np.cumsum(yes) - yes / 2) / all_yes
        area = float(np.clip(yes @ beaten / all_yes, 0.0, 1.0))
        if area in (0.0, 1.0):
            pairs = min(all_yes, all_no)
            lower, upper = wilson(area * pairs, pairs)
            return Figure(area, float(lower), float(upper))
        if min(all_yes, all_no) <= 1:
            return Figure(area, math.nan, math.nan)
        variance = yes @ (beaten - area) ** 2 / (all_yes - 1) / all_yes
        variance += no @ (beating - area) ** 2 / (all_no - 1) / all_no
    # On the logit scale, where few rows of a label leave it nearer to normal (Pepe 2003, 5.2.5)
    logit, distance = math.log(area / (1 - area)), _Z * math.sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-bound)) for bound in (logit - min(distance, 700), logit + min(distance, 700)))
    return Figure(area, low, high)


def _of_cells(table: Floats) -> dict[str, Figure]:
    tn, fn, fp, tp = cells(table).T
    if len(table) == 1:
        accuracy = _share(tp + tn, tp + tn + fp + fn)
        occurs = np.array([True])
    else:
        accuracy = _share(tp.sum(), (tp + fn).sum())  # every row is true of one class
        occurs = tp + fn + fp > 0
    return {
        "precision": _mean_of_shares(tp, tp + fp, occurs),
        "recall": _mean_of_shares(tp, tp + fn, occurs),
        "specificity": _mean_of_shares(tn, tn + fp, occurs),
        "f1": _mean_f1(tp, tp + fp + fn, occurs),
        "accuracy": accuracy,
    }


def _share(successes: ArrayLike, trials: ArrayLike) -> Figure:
    lower, upper = wilson(successes, trials)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.asarray(successes, np.float64) / np.asarray(trials, np.float64)
    return Figure(float(np.squeeze(value)), float(np.squeeze(lower)), float(np.squeeze(upper)))


def _mean_of_shares(successes: Floats, trials: Floats, occurs: NDArray[np.bool_]) -> Figure:
    """The mean over classes; recall's and precision's parts are independent, specificity's vary against each other."""
    if len(successes) == 1:
        return _share(successes, trials)
    shares = np.divide(successes, trials, out=np.zeros_like(trials), where=trials > 0)
    lower, upper = wilson(successes, trials)
    return _combined(shares, lower, upper, occurs & (trials > 0), occurs)


def _mean_f1(right: Floats, touched: Floats, occurs: NDArray[np.bool_]) -> Figure:
    """F1 = 2J / (1 + J), J = tp / (tp + fp + fn): given the rows that a class touches, J is a share of them.

    A wrong answer is wrong in two classes, which makes the variance of their mean at most 1 + J times that of
    independent ones.
    """
    shares = np.divide(right, touched, out=np.zeros_like(touched), where=touched > 0)
    bounds = wilson(right, touched)
    value, lower, upper = (2 * share / (1 + share) for share in (shares, *bounds))
    if len(right) == 1:
        return Figure(float(value[0]), float(lower[0]), float(upper[0])) if touched[0] > 0 else UNKNOWN
    wider = np.sqrt(1 + shares)
    return _combined(value, value - wider * (value - lower), value + wider * (upper - value), occurs, occurs)


def _combined(
    values: Floats, lower: Floats, upper: Floats, known: NDArray[np.bool_], among: NDArray[np.bool_]
) -> Figure:
    """The mean of ``values[among]``, its interval from those of the independent parts that are ``known``.

    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures".
    """
    number = int(among.sum())
    if not number:
        return UNKNOWN
    mean = float(values[among].mean())
    below, above = values - lower, upper - values
    return Figure(
        mean,
        max(0.0, mean - math.sqrt(float((below[known] ** 2).sum())) / number),
        min(1.0, mean + math.sqrt(float((above[known] ** 2).sum())) / number),
    )


def _mean_of_areas(table: Floats) -> Figure:
    """The areas of classes depend on each other in a way that the table does not tell: the widest case is taken."""
    positives, negatives, _ = labels_by_bin(table)
    areas = [roc_auc(yes, no) for yes, no in zip(positives, negatives, strict=True)]
    known = [area for area in areas if not math.isnan(area.value)]
    if not known:
        return UNKNOWN
    value, lower, upper = (float(np.mean(part)) for part in zip(*known, strict=True))
    return Figure(value, lower, upper)


def _of_probabilities(table: Floats, scores: Floats) -> dict[str, Figure]:
    positives, negatives, _ = labels_by_bin(table)
    rows = positives + negatives
    total = float(rows[0].sum())
    used = rows > 0
    if not total > 0 or not bool(((scores[used] >= 0) & (scores[used] <= 1)).all()):
        return dict.fromkeys(("brier", "log_loss", "calibration_error"), UNKNOWN)
    scores = np.where(used, scores, 0.5)  # of bins without rows, whose mean may be unknown
    kept = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    squares = [
        _mean_loss([(yes, (1 - score) ** 2), (no, score**2)], total)
        for yes, no, score in zip(positives, negatives, scores, strict=True)
    ]
    brier = Figure(*(float(sum(part)) for part in zip(*squares, strict=True)))  # errors of classes depend: the widest
    if len(table) == 1:
        loss = _mean_loss([(positives, -np.log(kept)), (negatives, -np.log1p(-kept))], total)
    else:
        loss = _mean_loss([(positives, -np.log(kept))], total)  # every row once, in its own class
    starts = range(0, rows.shape[1], _BINS_TOGETHER)
    gaps = np.abs(np.add.reduceat(rows * scores - positives, starts, axis=1)).sum() / total / len(table)
    return {
        "brier": Figure(brier.value, max(0.0, brier.lower), min(float(len(table)), brier.upper)),
        "log_loss": loss,
        "calibration_error": Figure(float(gaps), math.nan, math.nan),
    }


def _mean_loss(parts: list[tuple[Floats, Floats]], total: float) -> Figure:
    """The mean of losses that come with counts, over ``total`` rows."""
    mean = math.fsum(float((counts * losses).sum()) for counts, losses in parts) / total
    if total <= 1:
        return Figure(mean, math.nan, math.nan)
    squared = math.fsum(float((counts * (losses - mean) ** 2).sum()) for counts, losses in parts)
    return _normal(mean, math.sqrt(squared / (total - 1) / total), 0.0, math.inf)


def _normal(value: float, error: float, least: float = -math.inf, most: float = math.inf) -> Figure:
    return Figure(value, max(least, value - _Z * error), min(most, value + _Z * error))


def add_errors(predictions: ArrayLike, labels: Iterable[Any], sums: Floats) -> list[int]:
    """Add a regression's errors to ``sums``, an array of :data:`REGRESSION_SUMS`; an error is prediction less label.

    Returns the indexes of labels that are no finite number. Where a prediction is none, its row is left out.
    """
    predicted = np.asarray(predictions, np.float64).reshape(-1)
    values = np.fromiter((_finite(label) for label in labels), np.float64, len(predicted))
    invalid = np.isnan(values)
    error = (predicted - values)[np.isfinite(predicted) & ~invalid]
    error = error[np.abs(error) < _LARGEST_ERROR]  # whose square is no number: one would spoil the sums for ever
    with np.errstate(over="ignore"):
        over, under = np.maximum(error, 0), np.maximum(-error, 0)
        sums += [len(error), over.sum(), under.sum(), (over**2).sum(), (under**2).sum(), (error**4).sum()]
    return [int(index) for index in np.flatnonzero(invalid)]


def _finite(label: Any) -> float:
    number = None if is_missing(label) else as_number(label)
    return number if number is not None and math.isfinite(number) else math.nan


def regression(sums: NDArray[Any]) -> dict[str, Figure]:
    """``mae``, ``rmse`` and ``bias`` (mean of prediction less label) from ``REGRESSION_SUMS``.

    Intervals are normal, of means over independent rows; that of ``rmse`` is the square root of its square's. NaN
    where there are no rows, and bounds where there is one.
    """
    rows, over, under, squared_over, squared_under, fourth = (float(part) for part in sums)
    if not rows > 0:
        return dict.fromkeys(("mae", "rmse", "bias"), UNKNOWN)
    mean, bias = (over + under) / rows, (over - under) / rows
    square = (squared_over + squared_under) / rows

    def error(moment: float, centre: float) -> float:
        return math.sqrt(max(0.0, moment - centre**2) / (rows - 1)) if rows > 1 else math.nan

    around = _normal(square, error(fourth / rows, square))
    bounds = [math.nan if math.isnan(part) else math.sqrt(max(0.0, part)) for part in around[1:]]
    if rows <= 1:
        return {
            name: Figure(value, math.nan, math.nan)
            for name, value in (("mae", mean), ("rmse", math.sqrt(square)), ("bias", bias))
        }
    return {
        "mae": _normal(mean, error(square, mean), 0.0),
        "rmse": Figure(math.sqrt(square), bounds[0], bounds[1]),
        "bias": _normal(bias, error(square, bias)),
    }
