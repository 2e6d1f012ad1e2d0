"""Performance without labels from counts: confidence-based performance estimation that adds up over processes.

Of a score bin in which a share c of the reference was positive, a share c of the live rows is expected to be. So the
expected outcome table is the prediction table times c and 1 - c, and every measure of
:func:`otel_mlobs.core.outcomes.performance` can be made of it. With bins at the reference's quantiles and the decision
threshold among their edges, it is within 2e-3 of what NannyML computes from the rows (:mod:`otel_mlobs.core.cbpe`).

It is an estimate, and only as good as the calibration is for the live rows. :func:`contradiction` says when the first
labels refute it, :func:`outside_support` when the live rows are such as the reference never saw.

Tables have the shapes that :mod:`otel_mlobs.core.outcomes` tells of: prediction tables (classes, bins, 2), outcome and
expected tables (classes, bins, 2, 2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from otel_mlobs.core.outcomes import UNKNOWN, Figure, performance
from otel_mlobs.core.special import beta_binomial_sf, chi_square_sf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from otel_mlobs.core.calibration import Calibration, ErrorBins
    from otel_mlobs.core.profile import Outputs

    Floats = NDArray[np.float64]

METRICS = ("roc_auc", "precision", "recall", "f1", "accuracy", "specificity")

_Z = 1.959963984540054
_THRESHOLD_WIDTH = 3.0
_INDEPENDENT = ("precision", "recall", "specificity")
"""Measures whose classes are independent or vary against each other."""

UNRELIABLE_BELOW = 0.001
LEAST_LABELS = 50
TOLERATED_ODDS = 0.01
"""A calibration whose odds are off by less than this share still holds: a quarter of a percentage point at ½."""
TOLERATED_OUTSIDE = 0.02
_MOST_GROUPS = 10
_LEAST_EXPECTED = 5.0


class Contradiction(NamedTuple):
    """What labels say of the calibration that an estimate rests on.

    Attributes:
        labels: how many there are.
        z: by how many standard errors there were more positives than expected, all bins together; of several classes
            that of the class with the largest.
        p_value: how probable labels at least as far off are, in total or bin by bin, if the calibration holds.
    """

    labels: int
    z: float
    p_value: float

    @property
    def refuted(self) -> bool:
        """Whether an estimate must not be shown as fact any more: at least 50 labels, and a p-value below 0.001."""
        return self.labels >= LEAST_LABELS and self.p_value < UNRELIABLE_BELOW


class Outside(NamedTuple):
    """How many live rows are such as the reference never saw.

    Attributes:
        share: by how much the share of such rows exceeds the reference's, where it does so most.
        beyond: whether that is more than chance and more than 2% of the rows.
    """

    share: float
    beyond: bool


def expected(predicted: NDArray[Any], calibrated: ArrayLike) -> Floats:
    """The outcome table to expect: ``predicted`` times ``calibrated``, probabilities of shape (classes, bins).

    Where there are no rows the probability may be NaN.

    Raises:
        ValueError: shapes do not fit.
    """
    chance = np.asarray(calibrated, np.float64)
    if predicted.ndim != 3 or predicted.shape != (*chance.shape, 2):
        raise ValueError(
            f"a prediction table must be of shape (classes, bins, 2) and calibrated of (classes, bins), got "
            f"{predicted.shape} and {chance.shape}"
        )
    chance = np.where(predicted.sum(axis=2) > 0, chance, 0.0)[:, :, None]
    return np.stack([predicted * (1 - chance), predicted * chance], axis=-1)


def estimate(predicted: NDArray[Any], calibrations: Sequence[Calibration]) -> dict[str, Figure]:
    """The measures of :data:`METRICS` to expect of ``predicted``, each with the 95% interval of the realised one.

    The interval holds two chances: that of the labels of these rows, each positive with its bin's probability, and
    that of the reference, whose bins are samples too. It is a first-order (delta method) normal interval, cut at 0 and
    1. It does not hold the chance that the calibration is no longer true: see :func:`contradiction`.

    Of several classes the areas, and the F1, depend on each other in a way that the tables do not tell: there the
    interval is that of the widest case. NaN where nothing is to be expected.

    Raises:
        ValueError: there is not one calibration per class, or they have more bins than the table.
    """
    chance, uncertainty = _calibrated(predicted, calibrations)
    table = expected(predicted, chance)
    values = performance(table)
    variances: dict[str, list[float]] = {metric: [] for metric in METRICS}
    chance, uncertainty = np.nan_to_num(chance), np.nan_to_num(uncertainty)
    for cells, share, doubt in zip(table, chance, uncertainty, strict=True):
        rows = cells.sum(axis=2)
        for metric, slopes in _gradients(cells, len(table) == 1).items():
            slope = slopes[..., 1] - slopes[..., 0]
            labels = (slope**2 * rows).sum(axis=1) * share * (1 - share)
            reference = (slope * rows).sum(axis=1) ** 2 * doubt
            variances[metric].append(float((labels + reference).sum()))
    return {
        metric: _around(values[metric].value, _Z * _combined(metric, parts))
        for metric, parts in variances.items()
        if metric in values
    }


def reference_table(outputs: Outputs) -> NDArray[np.int64] | None:
    """The outcome table of the reference itself; None where it had no labels or the outputs are no probabilities."""
    if outputs.calibration is not None:
        one = outputs.calibration
        chosen = np.array(one.uppers) > math.nextafter(outputs.threshold, -math.inf)
        rows, positives = np.array(one.rows), np.array(one.positives)
        return _table([rows * chosen], [positives * chosen], [rows], [positives])
    if outputs.calibrations:
        parts = [
            [np.array(getattr(one, name)) for one in outputs.calibrations]
            for name in ("chosen_rows", "chosen_positives", "rows", "positives")
        ]
        return _table(*parts)
    return None


def window_thresholds(reference: NDArray[Any], rows: float) -> dict[str, tuple[float, float]]:
    """Lowest and highest measure of a window of ``rows`` rows that is no alert: ``reference`` ± 3 standard errors.

    The standard error is that of the difference between a random sample of so many rows and the reference, which is a
    sample too. Cut at 0 and 1; NaN where the reference does not tell. No rows must be kept in their order for it, and
    windows of any size have theirs (decision 14 in the documentation).

    Raises:
        ValueError: the table has another shape, or ``rows`` is not positive.
    """
    if not rows > 0:
        raise ValueError(f"rows must be positive, got {rows}")
    values = performance(reference)
    variances: dict[str, list[float]] = {metric: [] for metric in METRICS}
    # Half a row more in every confusion cell (Jeffreys): who never erred in the reference may err all the same
    table = np.asarray(reference, np.float64) + 0.5 / reference.shape[1]
    for cells in table:
        for metric, slopes in _gradients(cells, len(table) == 1).items():
            variances[metric].append(float((cells * slopes**2).sum()) * (1 + float(cells.sum()) / rows))
    found = {}
    for metric, parts in variances.items():
        if metric in values:
            error = _combined(metric, parts)
            if metric == "accuracy":  # a share of the rows, of several classes too
                known = float(table[0].sum())
                right = float(table[:, :, 1, 1].sum() + (table[0, :, 0, 0].sum() if len(table) == 1 else 0.0)) / known
                error = math.sqrt(max(0.0, right * (1 - right)) * (1 / rows + 1 / known))
            _, lower, upper = _around(values[metric].value, _THRESHOLD_WIDTH * error)
            found[metric] = (lower, upper)
    return found


def supports(outcomes: NDArray[Any]) -> dict[str, float]:
    """How many rows each measure of :data:`METRICS` is out of; of several classes those of the rarest that occurs."""
    (tn, fn), (fp, tp) = np.asarray(outcomes, np.float64).sum(axis=1).transpose(1, 2, 0)
    occurs = tp + fn + fp > 0
    by_class = {
        "precision": tp + fp,
        "recall": tp + fn,
        "specificity": tn + fp,
        "f1": tp + fp + fn,
        "roc_auc": np.minimum(tp + fn, tn + fp),
    }
    found = {metric: float(rows[occurs].min()) if occurs.any() else 0.0 for metric, rows in by_class.items()}
    return {**found, "accuracy": float((tn + fn + fp + tp)[:1].sum())}


def contradiction(outcomes: NDArray[Any], calibrations: Sequence[Calibration]) -> Contradiction:
    """Whether the labels that came so far refute the calibration: concept drift, which an estimate cannot see.

    Two tests, the smaller p-value counted twice: the positives of all bins together (normal), and those of up to ten
    groups of neighbouring bins, each with 5 expected positives and negatives (Hosmer and Lemeshow's chi-square). Both
    allow for the sampling of the reference, and for odds that are off by 1% everywhere, so that a great many labels do
    not refute a calibration that is good enough. Of several classes each is tested, and the p-value multiplied.

    Raises:
        ValueError: there is not one calibration per class, or they have more bins than the table.
    """
    by_label = np.asarray(outcomes, np.float64).sum(axis=2)
    chance, uncertainty = _calibrated(by_label, calibrations)
    found = [_tested(*parts) for parts in zip(by_label, chance, uncertainty, strict=True)]
    z = max((one[0] for one in found), key=abs, default=0.0)
    p_value = min((one[1] for one in found), default=1.0)
    return Contradiction(int(by_label[:1].sum()), z, min(1.0, 2 * len(found) * p_value))


def outside_support(
    outside: ArrayLike, shares: ArrayLike, rows: float, reference_rows: float, tolerance: float = TOLERATED_OUTSIDE
) -> Outside:
    """Whether live rows are such as the reference never, or hardly ever, saw: then its calibration need not hold.

    Args:
        outside: live rows by kind: of every feature those out of the reference's range, those of an unseen category,
            and those that are missing. Fractions are rounded.
        shares: the share of the reference's rows of that kind.
        rows: live rows.
        reference_rows: rows of the reference.
        tolerance: an excess of at most this share of the rows is let pass. A measure that is a share of all rows, as
            accuracy, can be wrong by no more than the share of rows that nothing is known of.

    An excess counts where it is above the tolerance and less probable by chance than 0.001 over all kinds (the tail of
    the beta-binomial, which allows for the reference's sampling). Features are looked at one by one: rows that are new
    by their combination of values only are not seen.

    Raises:
        ValueError: ``outside`` and ``shares`` differ in length.
    """
    found, usual = np.asarray(outside, np.float64), np.asarray(shares, np.float64)
    if found.shape != usual.shape:
        raise ValueError(f"outside and shares must have one entry per kind, got {found.shape} and {usual.shape}")
    if not found.size or not rows > 0:
        return Outside(0.0, beyond=False)
    excess = found / rows - usual
    seen = usual * reference_rows
    count = np.round(found)
    chance = beta_binomial_sf(count, np.maximum(round(rows), count), seen + 0.5, reference_rows - seen + 0.5)
    beyond = (excess > tolerance) & (chance < UNRELIABLE_BELOW / found.size)
    return Outside(max(0.0, float(excess.max())), beyond=bool(beyond.any()))


def expected_error(counts: ArrayLike, errors: ErrorBins) -> dict[str, Figure]:
    """``mae``, ``rmse`` and ``bias`` to expect of a regression, from live rows by predicted value; with 95% intervals.

    It takes the errors to depend on the predicted value alone and as they did in the reference, so it follows a change
    in what is predicted, and is blind to one that makes all predictions worse (direct loss estimation, with bins in the
    place of a second model). A bin that the reference has no rows of is taken to err as its rows do on average.

    The intervals hold the chance of these rows' errors and of the reference's. For the one of ``rmse`` the size of
    errors is taken for gamma distributed with the bin's mean and variance, since fourth powers are not kept. NaN
    without rows.

    Raises:
        ValueError: there is not one count per bin.
    """
    rows, known = np.asarray(counts, np.float64), np.array(errors.rows, np.float64)
    if rows.shape != known.shape:
        raise ValueError(f"counts must be one per bin, {len(known)}, got shape {rows.shape}")
    if not rows.sum() > 0 or not known.sum() > 0:
        return dict.fromkeys(("mae", "rmse", "bias"), UNKNOWN)
    absolute, squared, signed = (
        np.where(known > 0, values, known @ values / known.sum())
        for values in (np.array(errors.absolute), np.array(errors.squared), np.array(errors.signed))
    )
    share = rows / rows.sum()
    # A bin without rows of its own borrows a mean that is as uncertain as that of one row.
    weight = share / rows.sum() + share**2 / np.maximum(known, 1.0)
    spread = np.maximum(squared - absolute**2, 0.0)
    # E|e|⁴ of a gamma with mean a and shape k is a⁴ (k + 1)(k + 2)(k + 3)/k³; written in 1/k it holds for k = ∞ too.
    inverse = np.divide(spread, absolute**2, out=np.zeros_like(spread), where=absolute > 0)
    fourth = absolute**4 * (1 + inverse) * (1 + 2 * inverse) * (1 + 3 * inverse)

    def error(variances: Floats) -> float:
        return _Z * math.sqrt(float(weight @ np.maximum(variances, 0.0)))

    mean, square, bias = float(share @ absolute), float(share @ squared), float(share @ signed)
    apart, squares_apart, bias_apart = error(spread), error(fourth - squared**2), error(squared - signed**2)
    # Bins differ from each other: how many rows fall into each is what was counted, and no chance.
    return {
        "mae": Figure(mean, max(0.0, mean - apart), mean + apart),
        "rmse": Figure(
            math.sqrt(square), math.sqrt(max(0.0, square - squares_apart)), math.sqrt(square + squares_apart)
        ),
        "bias": Figure(bias, bias - bias_apart, bias + bias_apart),
    }


def error_thresholds(errors: ErrorBins, rows: float) -> dict[str, tuple[float, float]]:
    """Lowest and highest ``mae``, ``rmse`` and ``bias`` of a window of ``rows`` rows that are no alert.

    The reference's figures ± 3 standard errors of such a window.

    NaN where the reference had no labels.
    """
    known = np.array(errors.rows, np.float64)
    if not known.sum() > 0:
        return {}
    found = expected_error(known * (rows / known.sum()), errors)
    width = _THRESHOLD_WIDTH / _Z
    thresholds = {
        name: (one.value - width * (one.value - one.lower), one.value + width * (one.upper - one.value))
        for name, one in found.items()
    }
    return {name: (lower if name == "bias" else max(0.0, lower), upper) for name, (lower, upper) in thresholds.items()}


def _calibrated(table: NDArray[Any], calibrations: Sequence[Calibration]) -> tuple[Floats, Floats]:
    """Probability of every bin and its variance by the reference's sampling, shape (classes, bins); NaN beyond."""
    classes, bins = table.shape[:2]
    if len(calibrations) != classes or max(len(one.uppers) for one in calibrations) > bins:
        found = [len(one.uppers) for one in calibrations]
        raise ValueError(f"a table of {classes} classes and {bins} bins has other calibrations, of {found} bins")
    chance, uncertainty = np.full((classes, bins), np.nan), np.full((classes, bins), np.nan)
    for place, one in enumerate(calibrations):
        rows, positives = np.array(one.rows, np.float64), np.array(one.positives, np.float64)
        # Half a row of each label (Jeffreys), or a bin that was never positive would be certain
        share = (positives + 0.5) / (rows + 1)
        chance[place, : len(rows)] = one.calibrated
        uncertainty[place, : len(rows)] = share * (1 - share) / (rows + 1)
    return chance, uncertainty


def _table(
    chosen_rows: Sequence[NDArray[np.int64]],
    chosen_positives: Sequence[NDArray[np.int64]],
    rows: Sequence[NDArray[np.int64]],
    positives: Sequence[NDArray[np.int64]],
) -> NDArray[np.int64]:
    found = np.zeros((len(rows), max(map(len, rows)), 2, 2), np.int64)
    for table, yes, right, all_, true in zip(found, chosen_rows, chosen_positives, rows, positives, strict=True):
        used = table[: len(all_)]
        used[:, 1, 1], used[:, 1, 0] = right, yes - right
        used[:, 0, 1], used[:, 0, 0] = true - right, all_ - yes - (true - right)
    return found


def _gradients(cells: Floats, binary: bool) -> dict[str, Floats]:
    """By how much one more row in a cell changes each measure of a class; zero where the measure is undefined.

    Measures do not change with the size of the table, so the sum over all rows of these is zero: they are the rows'
    influences, and the sum of their squares is the variance of the measure (of the area under the curve DeLong's).
    """
    (tn, fn), (fp, tp) = cells.sum(axis=0)
    rows, right = tn + fn + fp + tp, tp + tn
    zero = np.zeros((2, 2))
    by_cell = {
        "precision": _over(np.array([[0, 0], [-tp, fp]]), (tp + fp) ** 2),
        "recall": _over(np.array([[0, -tp], [0, fn]]), (tp + fn) ** 2),
        "specificity": _over(np.array([[fp, 0], [-tn, 0]]), (tn + fp) ** 2),
        "f1": _over(2 * np.array([[0, -tp], [-tp, fp + fn]]), (2 * tp + fp + fn) ** 2),
        # Of several classes a right answer is one of its class, and all rows are in the denominator.
        "accuracy": _over(
            np.array([[rows - right, -right], [-right, rows - right]])
            if binary
            else np.array([[-tp, -tp], [-tp, rows - tp]]),
            rows**2,
        ),
    }
    found = {metric: np.broadcast_to(slopes, cells.shape) for metric, slopes in by_cell.items()}
    negatives, positives = cells.sum(axis=1).T
    all_no, all_yes = negatives.sum(), positives.sum()
    if all_no > 0 and all_yes > 0:
        beaten = np.cumsum(negatives) - negatives / 2
        beating = all_yes - np.cumsum(positives) + positives / 2
        area = positives @ beaten / (all_yes * all_no)
        by_label = np.stack([(beating / all_yes - area) / all_no, (beaten / all_no - area) / all_yes], axis=-1)
        found["roc_auc"] = np.broadcast_to(by_label[:, None, :], cells.shape)
    else:
        found["roc_auc"] = np.broadcast_to(zero, cells.shape)
    return found


def _over(slopes: Floats, square: float) -> Floats:
    return slopes / square if square > 0 else np.zeros((2, 2))


def _combined(metric: str, variances: Sequence[float]) -> float:
    """The standard error of a mean over classes; accuracy's parts add up instead."""
    independent = math.sqrt(sum(variances))
    if metric == "accuracy":
        return independent
    widest = sum(map(math.sqrt, variances))
    if metric in _INDEPENDENT:
        widest = independent
    elif metric == "f1":  # a wrong answer is wrong in two classes
        widest = min(widest, math.sqrt(2) * independent)
    return widest / len(variances)


def _around(value: float, distance: float) -> Figure:
    if math.isnan(value):
        return UNKNOWN
    return Figure(value, max(0.0, value - distance), min(1.0, value + distance))


def _tested(by_label: Floats, chance: Floats, uncertainty: Floats) -> tuple[float, float]:
    """How far off all positives are (z), and the smaller p-value of the two tests."""
    rows = by_label.sum(axis=1)
    used = rows > 0
    rows, positives = rows[used], by_label[used, 1]
    chance, uncertainty = chance[used], uncertainty[used]
    if not rows.size:
        return 0.0, 1.0
    labels = rows * chance * (1 - chance)
    parts = np.stack([positives - rows * chance, TOLERATED_ODDS * labels, labels + rows**2 * uncertainty])
    z = _beyond(*parts.sum(axis=1))
    together = math.erfc(abs(z) / math.sqrt(2))
    starts = _groups(rows, rows * chance)
    statistic = sum(_beyond(*group) ** 2 for group in np.add.reduceat(parts, starts, axis=1).T)
    return z, min(together, float(chi_square_sf(statistic, len(starts))))


def _beyond(off: float, tolerated: float, variance: float) -> float:
    """Standard errors by which a difference exceeds what is tolerated."""
    return math.copysign(max(0.0, abs(off) - tolerated) / math.sqrt(variance), off) if variance > 0 else 0.0


def _groups(rows: Floats, positives: Floats) -> list[int]:
    """The first bin of each group of neighbouring bins; what is left over at the end belongs to the last group."""
    starts, least = [0], float(rows.sum()) / _MOST_GROUPS
    n = yes = 0.0
    ends = []
    for place, (count, share) in enumerate(zip(rows.tolist(), positives.tolist(), strict=True)):
        n, yes = n + count, yes + share
        if n >= least * (1 - 1e-9) and min(yes, n - yes) >= _LEAST_EXPECTED:
            ends.append(place + 1)
            n = yes = 0.0
    return starts + ends[:-1]
