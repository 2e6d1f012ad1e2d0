"""Performance without labels from rows: confidence-based performance estimation, as NannyML 0.13 computes it.

Where a score is a calibrated probability, what comes true of many rows is known in advance on average: of rows with
0.8 four in five are positive. So the confusion cells can be expected, and every measure made of them. It holds as long
as the calibration does: it follows a change of the inputs, and is blind to one of what the inputs mean.

This is the exact form, for batch jobs and to hold the mergeable form (:mod:`otel_mlobs.core.estimation`) against.
Sources: NannyML's documentation, "How it works: confidence-based performance estimation", and its source, whose rules
are followed where they are arbitrary too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.calibration import isotonic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Indexes = NDArray[np.intp]

METRICS = ("roc_auc", "precision", "recall", "f1", "accuracy", "specificity")

_SPLITS = 10
_TEST_SHARE = 0.1
_SEED = 42
_BINS = 10
_PERFECT = 0.999
_SAME_SCORE = 1e-15
_WIDTH = 3.0
_SCORES_ABROAD = 1.2


@dataclass(frozen=True, eq=False)
class Calibrator:
    """Maps scores to the share of positives that the reference had there; lets them be where that would not help.

    Attributes:
        scores: ascending; none where scores stay as they are.
        shares: of positives at each, never falling; straight lines between them, level beyond the first and the last.
    """

    scores: Floats
    shares: Floats

    @classmethod
    def fit(cls, scores: ArrayLike, labels: ArrayLike) -> Calibrator:
        """Isotonic regression of 0/1 ``labels`` on ``scores``, where it lowers the expected calibration error.

        Whether it does is tried on ten splits that hold out a tenth of the rows, stratified by label: the held-out
        rows of all splits together, in ten bins of equally many. The splits are scikit-learn's
        ``StratifiedShuffleSplit(random_state=42)``, so that the answer is NannyML's. Scores are kept too where there is
        one label only, and where they rank (area under the curve above 0.999) almost perfectly.

        Raises:
            ValueError: lengths differ, a score is not finite, a label is neither 0 nor 1, there are fewer than 11 rows,
                or one label has a single row.
        """
        given, true = _pair(scores, labels)
        if not _needed(given, true):
            return cls(np.empty(0), np.empty(0))
        return cls(*_isotonic_curve(given, true))

    @property
    def needed(self) -> bool:
        """Whether the reference asked for a calibration."""
        return bool(self.scores.size)

    def apply(self, scores: ArrayLike) -> Floats:
        """The probabilities that belong to ``scores``."""
        given = np.asarray(scores, np.float64)
        return np.interp(given, self.scores, self.shares) if self.needed else given


def calibrated_classes(calibrators: list[Calibrator], probabilities: ArrayLike) -> Floats:
    """Class probabilities of shape (rows, classes), each calibrated against the rest, scaled to add up to one.

    Rows whose calibrated probabilities are all zero are taken for uniform.
    """
    given = _matrix(probabilities)
    if given.shape[1] != len(calibrators):
        raise ValueError(f"probabilities must have {len(calibrators)} columns, got {given.shape[1]}")
    found = np.column_stack([one.apply(column) for one, column in zip(calibrators, given.T, strict=True)])
    total = found.sum(axis=1, keepdims=True)
    uniform = np.full_like(found, 1 / found.shape[1])
    scaled: Floats = np.divide(found, total, out=uniform, where=total != 0)
    return scaled


def cbpe(calibrated: ArrayLike, scores: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """The measures of :data:`METRICS` that are to be expected; equal to NannyML 0.13.1 within 1e-6.

    Args:
        calibrated: probability of the positive class by row, or of every class, shape (rows, classes).
        scores: what the model said, of the same shape: rows are ranked by it. Equal scores count half.
        predicted: 0 or 1 by row; of several classes the index of the predicted one.

    Of several classes accuracy is the mean probability of the predicted class, and the others are plain means over
    classes. A share out of nothing is 0; the area under the curve is NaN where no positives, or no negatives, are to be
    expected.

    Raises:
        ValueError: shapes differ, or there are no rows.
    """
    chances, given = _matrix(calibrated), _matrix(scores)
    chosen = _chosen(np.asarray(predicted), chances.shape[1])
    if not chances.shape == given.shape == chosen.shape or not len(chances):
        raise ValueError(
            f"calibrated, scores and predicted must have the same rows and classes, at least one row; got "
            f"{chances.shape}, {given.shape} and {chosen.shape}"
        )
    found = _of_cells(chances, chosen)
    areas = [_area(chance, score) for chance, score in zip(chances.T, given.T, strict=True)]
    return {"roc_auc": float(np.mean(areas))} | found


def realized(labels: ArrayLike, scores: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """The same measures from labels: 0 or 1 by row, of several classes the index of the true one.

    NaN, as in NannyML, where they say nothing: the area under the curve where a label does not occur; of several
    classes the others too, and of two precision, recall, F1 and specificity, where all labels or all predictions agree.
    """
    true, given = np.asarray(labels), _matrix(scores)
    of_class = _chosen(true, given.shape[1])
    found = cbpe(of_class.astype(np.float64), given, predicted)
    binary = given.shape[1] == 1
    if len(np.unique(true)) < 2 or len(np.unique(np.asarray(predicted))) < 2:
        left = ("roc_auc", "accuracy") if binary else ("roc_auc",)
        found |= {metric: math.nan for metric in METRICS if metric not in left}
    if not of_class.any(axis=0).all() or of_class.all(axis=0).any():
        found["roc_auc"] = math.nan
    return found


def thresholds(values: ArrayLike) -> tuple[float, float]:
    """Lowest and highest value that is no alert: the mean of a reference's chunks ± 3 standard deviations.

    Cut at 0 and 1. Chunks that have no value (NaN) are left out; with none left both are NaN.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return math.nan, math.nan
    middle, spread = float(known.mean()), _WIDTH * float(known.std())
    return max(0.0, middle - spread), min(1.0, middle + spread)


def alerts(values: ArrayLike, bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Which estimates lie beyond the thresholds."""
    found = np.asarray(values, np.float64)
    return (found < bounds[0]) | (found > bounds[1])


def chunks(rows: int, size: int) -> list[slice]:
    """Slices of ``size`` consecutive rows; the last one holds what is left.

    Raises ValueError where ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True, eq=False)
class SamplingError:
    """By how much a measure of n rows varies by chance alone, from a labelled reference; one standard error.

    Attributes:
        variances: of one row, by measure and class.
        shares: of the rows that the measure looks at, likewise.
    """

    variances: dict[str, Floats]
    shares: dict[str, Floats]

    @classmethod
    def fit(cls, labels: ArrayLike, scores: ArrayLike, predicted: ArrayLike) -> SamplingError:
        """From the rows of a reference, given as to :func:`realized`.

        NannyML's ranks of equal scores depend on the order in which its sort leaves them; here they share the mean
        rank.
        """
        given = _matrix(scores)
        true = _chosen(np.asarray(labels), given.shape[1])
        chosen = _chosen(np.asarray(predicted), given.shape[1])
        rows = len(given)
        variances: dict[str, list[float]] = {metric: [] for metric in METRICS if metric != "accuracy"}
        shares: dict[str, list[float]] = {metric: [] for metric in variances}
        for yes, said, score in zip(true.T, chosen.T, given.T, strict=True):
            right = (yes & said)[yes | said]
            # F1 weighs a miss half; of two classes NannyML scales the rows so that their mean is the F1
            scale = len(right) / ((len(right) + int(right.sum())) / 2) if len(true.T) == 1 and len(right) else 1.0
            parts = {
                "roc_auc": _beaten(yes, score),
                "precision": yes[said],
                "recall": said[yes],
                "f1": right * scale,
                "specificity": ~said[~yes],
            }
            looked_at = {"roc_auc": min(yes.mean(), 1 - yes.mean()), "precision": said.mean(), "recall": yes.mean()}
            for metric, values in parts.items():
                variances[metric].append(float(np.var(values)) if len(values) else math.nan)
                shares[metric].append(float(looked_at.get(metric, len(values) / rows)))
        found = {metric: np.array(values) for metric, values in variances.items()}
        found["accuracy"] = np.array([float(np.var((true == chosen).all(axis=1)))])
        return cls(found, {metric: np.array(values) for metric, values in shares.items()} | {"accuracy": np.ones(1)})

    def of(self, rows: int) -> dict[str, float]:
        """The standard error of every measure of ``rows`` rows."""
        errors = {}
        for metric in METRICS:
            variances = self.variances[metric]
            with np.errstate(divide="ignore", invalid="ignore"):
                error = math.sqrt(float((variances / (rows * self.shares[metric])).sum())) / len(variances)
            # NannyML's correction: areas of classes depend on each other
            errors[metric] = error * (_SCORES_ABROAD if metric == "roc_auc" and len(variances) > 1 else 1.0)
        return errors

    def confidence(self, values: dict[str, float], rows: int) -> dict[str, tuple[float, float]]:
        """NannyML's confidence bounds of estimates of ``rows`` rows: ± 3 standard errors, cut at 0 and 1; or NaN."""
        errors = self.of(rows)
        found = {}
        for metric, value in values.items():
            lower, upper = np.clip([value - _WIDTH * errors[metric], value + _WIDTH * errors[metric]], 0.0, 1.0)
            found[metric] = (float(lower), float(upper))
        return found


def _matrix(values: ArrayLike) -> Floats:
    found = np.asarray(values, np.float64)
    if found.ndim not in (1, 2):
        raise ValueError(f"expected one value a row or shape (rows, classes), got shape {found.shape}")
    return found[:, None] if found.ndim == 1 else found


def _chosen(codes: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """Whether the row is of the class, shape (rows, classes)."""
    if codes.ndim != 1:
        raise ValueError(f"labels and predictions must be one code a row, got shape {codes.shape}")
    codes = codes[:, None]
    wrong = ~np.isin(codes, np.arange(max(2, classes)))
    if wrong.any():
        raise ValueError(f"labels and predictions must be 0 to {max(2, classes) - 1}, got {codes[wrong][0]!r}")
    chosen: NDArray[np.bool_] = codes == (1 if classes == 1 else np.arange(classes))
    return chosen


def _of_cells(chances: Floats, chosen: NDArray[np.bool_]) -> dict[str, float]:
    tp, fp = (chances * chosen).sum(axis=0), ((1 - chances) * chosen).sum(axis=0)
    fn, tn = (chances * ~chosen).sum(axis=0), ((1 - chances) * ~chosen).sum(axis=0)
    right = tp.sum() + (tn.sum() if chances.shape[1] == 1 else 0.0)
    return {
        "precision": _mean_share(tp, tp + fp),
        "recall": _mean_share(tp, tp + fn),
        "f1": _mean_share(tp, tp + (fp + fn) / 2),
        "accuracy": float(right / len(chances)),
        "specificity": _mean_share(tn, tn + fp),
    }


def _mean_share(part: Floats, whole: Floats) -> float:
    return float(np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0).mean())


def _tied(scores: Floats) -> tuple[Indexes, int]:
    """Of every row the place of its score among the distinct ones, ascending, and how many there are."""
    distinct, places = np.unique(scores, return_inverse=True)
    return places, len(distinct)


def _area(chances: Floats, scores: Floats) -> float:
    places, number = _tied(scores)
    positives = np.bincount(places, chances, number)
    negatives = np.bincount(places, 1 - chances, number)
    pairs = positives.sum() * negatives.sum()
    if not pairs > 0:
        return math.nan
    return float((positives * (np.cumsum(negatives) - negatives / 2)).sum() / pairs)


def _beaten(yes: NDArray[np.bool_], scores: Floats) -> Floats:
    """Of every row of the rarer label the share of the others that rank below it, as NannyML counts them."""
    if yes.mean() > 0.5:
        yes, scores = ~yes, -scores
    places, number = _tied(scores)
    negatives = np.bincount(places, ~yes, number)
    found = (np.cumsum(negatives) - negatives / 2)[np.sort(places[yes])]
    return found / max(1, int((~yes).sum()))


def _pair(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    given, true = np.asarray(scores, np.float64), np.asarray(labels)
    if given.ndim != 1 or given.shape != true.shape:
        raise ValueError(f"scores and labels must be one value a row, got shapes {given.shape} and {true.shape}")
    if not np.isfinite(given).all():
        raise ValueError(f"scores must be finite, got {given[~np.isfinite(given)][0]}")
    yes = _chosen(true, 1)[:, 0]
    counts = np.bincount(yes, minlength=2)
    if len(given) < 11 or 1 in counts:
        raise ValueError(
            f"a calibration needs at least 11 rows, and none or two of each label; got {counts[1]} positives in "
            f"{len(given)} rows"
        )
    return given, yes


def _isotonic_curve(scores: Floats, yes: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The points between which scikit-learn's isotonic regression interpolates."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    # It takes scores that lie this near for the same.
    first = np.flatnonzero(np.diff(ordered, prepend=-np.inf) >= _SAME_SCORE)
    rows = np.diff(first, append=len(ordered))
    shares = np.add.reduceat(yes[order].astype(np.float64), first) / rows
    return ordered[first], np.asarray(isotonic(shares, rows))


def _needed(scores: Floats, yes: NDArray[np.bool_]) -> bool:
    if yes.all() or not yes.any() or _area(yes.astype(np.float64), scores) > _PERFECT:
        return False
    before, after, true = [], [], []
    for kept, held in _splits(yes):
        curve = _isotonic_curve(scores[kept], yes[kept])
        before.append(scores[held])
        after.append(np.interp(scores[held], *curve))
        true.append(yes[held])
    labels = np.concatenate(true)
    return _calibration_error(np.concatenate(before), labels) > _calibration_error(np.concatenate(after), labels)


def _calibration_error(scores: Floats, yes: NDArray[np.bool_]) -> float:
    """Mean distance of scores and shares in bins of equally many rows; the last one has what is left.

    Rows of equal scores share their distance: which of them a bin's end cuts off is, in NannyML, the sort's choice, and
    NumPy's sort chooses differently on different processors.
    """
    number = _BINS if len(scores) > 2 * _BINS else len(scores) // 2
    starts = np.arange(0, len(scores) + 1, len(scores) // number)[:-1]
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rows = np.diff([*first, len(scores)])
    shared = np.repeat(np.add.reduceat((scores - yes)[order], first) / rows, rows)
    gaps = np.add.reduceat(shared, starts)
    return float(np.abs(gaps).sum() / len(scores))


def _splits(yes: NDArray[np.bool_]) -> Iterator[tuple[Indexes, Indexes]]:
    """The rows to fit and to hold out, split by split, in scikit-learn's order."""
    # The legacy generator, whose numbers NumPy promises never to change.
    random = np.random.RandomState(_SEED)
    counts = np.bincount(yes, minlength=2)
    members = [np.flatnonzero(~yes), np.flatnonzero(yes)]
    held_out = math.ceil(_TEST_SHARE * len(yes))
    for _ in range(_SPLITS):
        fitted = _drawn(counts, len(yes) - held_out, random)
        held = _drawn(counts - fitted, held_out, random)
        kept_rows, held_rows = [], []
        for rows, number, tested in zip(members, fitted, held, strict=True):
            shuffled = rows[random.permutation(len(rows))]
            kept_rows.append(shuffled[:number])
            held_rows.append(shuffled[number : number + tested])
        yield random.permutation(np.concatenate(kept_rows)), random.permutation(np.concatenate(held_rows))


def _drawn(counts: Indexes, number: int, random: np.random.RandomState) -> Indexes:
    """How many of each label are drawn: proportionally, what rounding leaves to the largest remainders."""
    exact = counts / counts.sum() * number
    found = np.floor(exact)
    left = int(number - found.sum())
    remainder = exact - found
    for value in np.unique(remainder)[::-1]:
        if left <= 0:
            break
        (places,) = np.nonzero(remainder == value)
        places = random.choice(places, size=min(len(places), left), replace=False)
        found[places] += 1
        left -= len(places)
    return np.asarray(found, np.intp)
