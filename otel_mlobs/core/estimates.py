"""How right a model is, as one monitor knows it: estimated without labels, measured with them, and never confused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from otel_mlobs.core import estimation
from otel_mlobs.core.outcomes import UNKNOWN, Figure, performance, regression
from otel_mlobs.core.performance import BEYOND, COUNTABLE, LABELLED, WAITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from otel_mlobs.core.drift import DriftResult
    from otel_mlobs.core.layout import OutcomeLayout
    from otel_mlobs.core.performance import Book, Performance
    from otel_mlobs.core.profile import Profile

    Floats = NDArray[np.float64]

Basis = Literal["label_arrival", "maturity"]
"""When a label counts: when it came, or when its prediction was mature."""
_LEAST_LABELS = 30
"""A figure that is out of fewer rows is shown, and never called bad."""


@dataclass(frozen=True)
class Estimate:
    """One figure of a model's performance over a monitor's window.

    Attributes:
        metric: ``roc_auc``, ``precision``, ``recall``, ``specificity``, ``f1``, ``accuracy``; of regressions ``mae``,
            ``rmse``, ``bias``.
        estimated: what it is expected to be, by the calibration of the reference; NaN where that cannot be said.
        lower: of the estimate's 95% band.
        upper: of it.
        realized: what it is by the labels that came in the window; NaN without any.
        coverage: labels over predictions: with ``maturity`` over those of the window that are mature, else over all
            since the monitor began. NaN without predictions.
        reliable: whether the estimate may be relied on; it is not shown as fact where not.
        realized_lower: of the measured figure's 95% interval.
        realized_upper: of it.
        threshold_lower: what the figure must not fall below: the reference's own, less three standard errors of a
            window of as many rows.
        threshold_upper: what it must not rise above, likewise.
        alert: whether the measured figure, or where too few labels came the reliable estimate, left its thresholds.
        measured_alert: whether it was the measured one.
        predictions: in the window.
        labelled: labels that were counted in the window.
        basis: when a label counts: ``"label_arrival"``, or ``"maturity"`` of its prediction.
        reasons: why the estimate is not to be relied on.
    """

    metric: str
    estimated: float
    lower: float
    upper: float
    realized: float
    coverage: float
    reliable: bool
    realized_lower: float = math.nan
    realized_upper: float = math.nan
    threshold_lower: float = math.nan
    threshold_upper: float = math.nan
    alert: bool = False
    measured_alert: bool = False
    predictions: int = 0
    labelled: int = 0
    basis: Basis = "label_arrival"
    reasons: tuple[str, ...] = ()


def expectations(layout: OutcomeLayout, predicted: NDArray[np.int64]) -> Floats:
    """The outcome table that a prediction table leads one to expect.

    Raises:
        ValueError: the layout has no calibration.
    """
    calibrated = layout.calibrated
    if calibrated is None:
        raise ValueError("the profile was fitted without labels: nothing can be expected of its scores")
    return estimation.expected(predicted, calibrated)


class Judgement:
    """Makes figures of a monitor's counts, and says how far to trust them."""

    def __init__(self, profile: Profile, performance: Performance, min_rows: float, *, matures: bool = False) -> None:
        outputs = profile.outputs
        self._layout = performance.layout
        self._errors = performance.errors
        self._calibrations = self._layout.calibrations if self._layout is not None else ()
        self._reference = None if outputs is None else estimation.reference_table(outputs)
        self._features = profile.features
        self._rows = profile.rows
        self._min_rows = min_rows
        self._basis: Basis = "maturity" if matures else "label_arrival"

    def of(
        self,
        book: Book,
        drift: Sequence[DriftResult] = (),
        out_of_range: Sequence[float] = (),
        total: Book | None = None,
    ) -> dict[str, Estimate]:
        """Every figure of ``book``, a window's counts; ``drift`` is what the same window says of each feature.

        ``out_of_range`` has, of every feature, the window's values beyond the reference's extremes; ``total`` all
        counts since the beginning.
        """
        predictions = int(book.predicted[:1].sum())
        thresholds: dict[int, Mapping[str, tuple[float, float]]] = {}
        if self._layout is None:
            estimated, measured, labelled = self._of_regression(book, predictions)
        else:
            labelled = int(book.outcomes[:1].sum())
            estimated = self._estimated(book, predictions)
            measured = performance(book.outcomes, self._layout.mean_scores)
        out_of_labels = out_of_predictions = {}
        if self._layout is not None:
            out_of_labels = estimation.supports(book.outcomes)
            if estimated:
                out_of_predictions = estimation.supports(expectations(self._layout, book.predicted))
        reasons = self._doubts(book, drift, out_of_range) if estimated else ()
        coverage = self._coverage(book if self._basis == "maturity" else total or book)
        found = {}
        for metric in measured:
            estimate = estimated.get(metric, UNKNOWN)
            realized = measured.get(metric, UNKNOWN)
            measurable = labelled >= _LEAST_LABELS and not math.isnan(realized.value)
            rows = labelled if measurable else predictions
            if rows not in thresholds:
                thresholds[rows] = self._thresholds(rows)
            lower, upper = thresholds[rows].get(metric, (math.nan, math.nan))
            shown = realized.value if measurable else math.nan if reasons else estimate.value
            enough = (out_of_labels if measurable else out_of_predictions).get(metric, rows) >= _LEAST_LABELS
            alert = enough and (shown < lower or shown > upper)
            found[metric] = Estimate(
                metric,
                *estimate,
                realized.value,
                coverage,
                not reasons,
                realized.lower,
                realized.upper,
                lower,
                upper,
                alert,
                alert and measurable,
                predictions,
                labelled,
                self._basis,
                reasons,
            )
        return found

    def _coverage(self, book: Book) -> float:
        """Share of the predictions that a label was to be expected of, and came; NaN where there is none."""
        expected = int(book.coverage[COUNTABLE if self._basis == "maturity" else WAITS])
        return min(1.0, int(book.coverage[LABELLED]) / expected) if expected else math.nan

    def _estimated(self, book: Book, predictions: int) -> dict[str, Figure]:
        if not self._calibrations or predictions < self._min_rows:
            return {}
        return estimation.estimate(book.predicted, self._calibrations)

    def _of_regression(self, book: Book, predictions: int) -> tuple[dict[str, Figure], dict[str, Figure], int]:
        labelled = int(book.outcomes[0])
        measured = regression(book.outcomes)
        if self._errors is None or predictions < self._min_rows:
            return {}, measured, labelled
        return estimation.expected_error(book.predicted[0, :, 0], self._errors), measured, labelled

    def _thresholds(self, rows: int) -> Mapping[str, tuple[float, float]]:
        if rows >= 1 and self._errors is not None:
            return estimation.error_thresholds(self._errors, rows)
        if self._reference is None or rows < 1:
            return {}
        return estimation.window_thresholds(self._reference, rows)

    def _doubts(self, book: Book, drift: Sequence[DriftResult], out_of_range: Sequence[float]) -> tuple[str, ...]:
        """Why an estimate of this window must not be shown as fact."""
        reasons = []
        if self._calibrations and book.outcomes[:1].sum():
            labels = estimation.contradiction(book.outcomes, self._calibrations)
            if labels.refuted:
                reasons.append(
                    f"{labels.labels:,} labels contradict the calibration (p {labels.p_value:.1g}, positives "
                    f"{labels.z:+.1f} standard errors off)"
                )
        beyond, predictions = int(book.coverage[BEYOND]), int(book.coverage[WAITS])
        if estimation.outside_support([beyond], [0.0], predictions, self._rows).beyond:
            reasons.append(f"{beyond / predictions:.1%} of the predictions are beyond those of the reference")
        for name, share in self._outside(drift, out_of_range):
            more = f"{min(1.0, share):.1%} of the rows more than in the reference"
            reasons.append(f"{name!r} is missing, unseen or out of its range in {more}")
        return tuple(reasons)

    def _outside(self, drift: Sequence[DriftResult], out_of_range: Sequence[float]) -> list[tuple[str, float]]:
        """The feature that most of the live rows left the reference's support with, if that is many."""
        worst: list[tuple[str, float]] = []
        for index, (column, one) in enumerate(zip(self._features, drift, strict=False)):
            if not one.n or not column.rows:
                continue
            beyond = out_of_range[index] if index < len(out_of_range) else 0.0
            outside = estimation.outside_support(
                [beyond, one.unseen * one.n, one.missing * one.n],
                [0.0, column.shares[-1], column.shares[-2]],
                one.n,
                column.rows,
            )
            if outside.beyond and (not worst or outside.share > worst[0][1]):
                worst = [(column.name, outside.share)]
        return worst
