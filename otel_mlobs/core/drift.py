"""From counts to answers: what moved, how far, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from otel_mlobs.core import distance
from otel_mlobs.core.binning import SPECIALS, MatrixCounter
from otel_mlobs.core.evidence import verdicts
from otel_mlobs.core.special import normal_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Column

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

Status = Literal["ok", "drift", "insufficient_data"]
METHODS = (
    "psi",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "wasserstein",
    "hellinger",
    "l_infinity",
    "chi_square",
)


_SHARE_OF_VALUES = 0.2
"""A drift is of missing values where those that are there have less than this share of its PSI."""


@dataclass(frozen=True)
class DriftResult:
    """How one feature, or one output, of the window compares with the reference.

    Attributes:
        name: the feature's or output's name.
        status: ``"drift"`` where ``drifted`` or ``alarm``; ``"insufficient_data"`` below the monitor's ``min_rows``.
        psi: Population Stability Index over all cells, smoothed.
        psi_adjusted: PSI less what sampling alone gives on average, at least 0.
        p_value: how often no drift gives a PSI as large, or as many values in cells that the reference hardly has.
        distances: PSI, Jensen-Shannon (base 2, 0 to 1), Kolmogorov-Smirnov, Wasserstein (in the feature's units),
            Hellinger, L-infinity and chi-square; those that need an order are left out for categories.
        drifted: the shift is larger than the tolerance, and that is certain at the significance level.
        alarm: the always-on alarm: too unlikely without drift to be looked at as chance, however small the shift.
        evidence: decimal logarithm of the alarm's e-value.
        since: when the drift began, as the clock gives it (seconds); None where there is none.
        n: values in the window.
        design_effect: how many rows are worth one, as rows of one user or batch are; 1 where they are independent.
        missing: share of missing values.
        reference_missing: the same in the reference.
        unseen: share of values that are not finite or of no category of the profile.
        invalid: values of a wrong type since the monitor began; they are among the unseen.
        psi_values: PSI over the values that are there, missing ones and those of no cell left out.
    """

    name: str
    status: Status
    psi: float
    psi_adjusted: float
    p_value: float
    distances: Mapping[str, float] = field(repr=False)
    drifted: bool
    alarm: bool
    evidence: float
    since: float | None
    n: int
    design_effect: float
    missing: float
    reference_missing: float
    unseen: float
    invalid: int
    psi_values: float = math.nan

    @property
    def cause(self) -> Literal["missing", "values"] | None:
        """What the drift is made of: ``"missing"`` where values went missing and those that are there are as ever.

        That is trouble of what delivers the data, and not of the model. None where nothing drifts.
        """
        if self.status != "drift":
            return None
        gone = self.missing > self.reference_missing
        as_ever = math.isnan(self.psi_values) or self.psi_values < _SHARE_OF_VALUES * self.psi
        return "missing" if gone and as_ever else "values"


class Reference:
    """A profile's columns as matrices: one row a column, value cells first, missing and nonfinite/other last."""

    def __init__(self, columns: Sequence[Column]) -> None:
        counter = MatrixCounter([column.bins for column in columns])
        counts, real = counter.table(), np.zeros(counter.shape, np.bool_)
        self.positions = np.zeros((counter.shape[0], counter.shape[1] - SPECIALS))
        for index, column in enumerate(columns):
            counter.add(counts, index, np.array(column.counts, np.int64))
            real[index, : column.bins.values] = True
            real[index, -SPECIALS:] = True
            if column.positions:
                self.positions[index] = column.positions[-1]
                self.positions[index, : len(column.positions)] = column.positions
        self.columns = tuple(columns)
        self.counts = counts.astype(np.float64)
        self.real = real
        self.ordered = np.array([column.bins.ordered for column in columns], np.bool_)
        self.rows = self.counts.sum(axis=1)
        self.shares = _shares(self.counts)

    def distances(self, counts: Integers) -> dict[str, Floats]:
        """Every distance of every column, NaN where it has no meaning or no rows."""
        live = counts.astype(np.float64)
        q, p = distance.smoothed(live, self.counts)
        shares = _shares(live)
        values, reference_values = _shares(live[:, :-SPECIALS]), _shares(self.counts[:, :-SPECIALS])
        found = {
            "psi": distance.psi(q, p),
            "jensen_shannon": distance.jensen_shannon(shares, self.shares),
            "kolmogorov_smirnov": distance.kolmogorov_smirnov(values, reference_values),
            "wasserstein": distance.wasserstein(values, reference_values, self.positions),
            "hellinger": distance.hellinger(shares, self.shares),
            "l_infinity": distance.l_infinity(shares, self.shares),
            "chi_square": distance.chi_square(q, p),
        }
        without_order = ~self.ordered | ~(live[:, :-SPECIALS].any(axis=1) & self.counts[:, :-SPECIALS].any(axis=1))
        for name in ("kolmogorov_smirnov", "wasserstein"):
            found[name] = np.where(without_order, np.nan, found[name])
        nothing = ~live.any(axis=1) | (self.rows == 0)
        return {name: np.where(nothing, np.nan, value) for name, value in found.items()}

    def normal_scores(self) -> tuple[Floats, Floats]:
        """Scores of the value cells for shift and scale: mean 0, variance 1 and uncorrelated under the reference.

        A cell's shift score is the normal quantile at its middle; scale is its square, made orthogonal (van der
        Waerden's and Klotz's tests). Shape (columns, value cells) each; zeros for categories and constants.
        """
        shares = np.where(self.ordered[:, None], _shares(self.counts[:, :-SPECIALS]), 0.0)
        middles = np.cumsum(shares, axis=1) - shares / 2
        z = np.where(shares > 0, normal_quantile(np.clip(middles, 1e-9, 1 - 1e-9)), 0.0)
        shift = _standardised(z, shares)
        squared = shift**2
        squared = squared - (squared * shift * shares).sum(axis=1, keepdims=True) * shift
        return shift, _standardised(squared, shares)


def _shares(counts: Floats) -> Floats:
    rows = counts.sum(axis=1, keepdims=True)
    return counts / np.where(rows > 0, rows, 1.0)


def _standardised(scores: Floats, shares: Floats) -> Floats:
    centred = np.where(shares > 0, scores - (scores * shares).sum(axis=1, keepdims=True), 0.0)
    spread = np.sqrt((centred**2 * shares).sum(axis=1, keepdims=True))
    return np.where(spread > 1e-9, centred / np.where(spread > 1e-9, spread, 1.0), 0.0)


@dataclass(frozen=True)
class Assessment:
    """Everything about one window: arrays over the columns."""

    distances: dict[str, Floats]
    psi_adjusted: Floats
    p_value: Floats
    drifted: NDArray[np.bool_]
    n: Integers
    enough: NDArray[np.bool_]
    missing: Floats
    unseen: Floats
    psi_values: Floats


def assess(
    reference: Reference,
    counts: Integers,
    design_effect: Floats,
    *,
    tolerance: float,
    significance: float,
    min_rows: float,
) -> Assessment:
    """Compare a window's ``counts`` with ``reference``; ``design_effect`` says how many rows are worth one."""
    n = counts.sum(axis=1)
    worth = np.where(np.isfinite(design_effect), design_effect, 1.0)
    found = verdicts(
        counts / worth[:, None],
        reference.counts,
        reference.real,
        reference.ordered,
        tolerance=tolerance,
        significance=significance,
    )
    enough = (n / worth >= min_rows) & np.isfinite(found.p_value)
    rows = np.where(n > 0, n, 1)
    return Assessment(
        distances=reference.distances(counts),
        psi_adjusted=np.where(n > 0, found.psi_adjusted, np.nan),
        p_value=found.p_value,
        drifted=found.drifted & enough,
        n=n,
        enough=enough,
        missing=counts[:, -2] / rows,
        unseen=counts[:, -1] / rows,
        psi_values=_psi_of_values(counts[:, :-SPECIALS].astype(np.float64), reference.counts[:, :-SPECIALS]),
    )


def _psi_of_values(live: Floats, reference: Floats) -> Floats:
    there = live.any(axis=1) & reference.any(axis=1)
    return np.where(there, distance.psi(*distance.smoothed(live, reference)), np.nan)


def results(
    reference: Reference,
    found: Assessment,
    *,
    alarm: NDArray[np.bool_],
    evidence: Floats,
    design_effect: Floats,
    since: Sequence[float | None],
    invalid: Integers,
) -> list[DriftResult]:
    """One record per column."""
    made = []
    for index, column in enumerate(reference.columns):
        flagged = bool(alarm[index] or found.drifted[index])
        status: Status = "drift" if flagged else "ok" if found.enough[index] else "insufficient_data"
        e = float(evidence[index])
        made.append(
            DriftResult(
                name=column.name,
                status=status,
                psi=float(found.distances["psi"][index]),
                psi_adjusted=float(found.psi_adjusted[index]),
                p_value=float(found.p_value[index]),
                distances={
                    name: float(values[index])
                    for name, values in found.distances.items()
                    if not math.isnan(values[index])
                },
                drifted=bool(found.drifted[index]),
                alarm=bool(alarm[index]),
                evidence=math.log10(e) if e > 0 else -math.inf,
                since=since[index] if flagged else None,
                n=int(found.n[index]),
                design_effect=float(design_effect[index]),
                missing=float(found.missing[index]),
                reference_missing=float(reference.shares[index, -2]),
                unseen=float(found.unseen[index]),
                invalid=int(invalid[index]),
                psi_values=float(found.psi_values[index]),
            )
        )
    return made
