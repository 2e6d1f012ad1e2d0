"""Is it real: what a distance between live counts and a reference says beyond sampling noise.

Tables are (features, cells): value cells first, then padding, the last two cells are missing and nonfinite or other.
Both sides are samples: what is said allows for the reference's own noise, and holds for one look at the counts. A
window looked at for ever is the alarm's matter (:mod:`otel_mlobs.core.alarm`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.distance import psi, smoothed
from otel_mlobs.core.special import beta_binomial_sf, chi_square_sf, noncentral_chi_square_sf

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Detectable", "Verdicts", "detectable", "verdicts"]

_EXPECTED = 8.0  # the least that a cell must expect for PSI's large-sample distribution to hold
_REST_SHARE = 0.1  # of the significance, spent on the pool that expects less
_MOST_LIVE = 20.0  # live rows per row of the reference beyond which the rest's test gains nothing
_SPECIALS = 2
_LEAST = 1e-9  # rows; what divides is at least this, where nothing was counted
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Verdicts:
    """What the counts say about each feature; arrays of one element a feature.

    Attributes:
        psi: of the smoothed shares over all cells; what PromQL computes on the same counts.
        psi_adjusted: over the pooled cells, less what sampling noise alone gives on average, not below 0.
        p_value: chance of cells as different as these, or more, with no drift; NaN where nothing can be tested.
        drifted: PSI is, with confidence, above the tolerance.
        cells: how many cells were left to PSI after pooling.
    """

    psi: NDArray[np.float64]
    psi_adjusted: NDArray[np.float64]
    p_value: NDArray[np.float64]
    drifted: NDArray[np.bool_]
    cells: NDArray[np.int64]


def verdicts(
    c: ArrayLike,
    m: ArrayLike,
    real: NDArray[np.bool_],
    ordered: NDArray[np.bool_],
    *,
    tolerance: float = 0.1,
    significance: float = 0.05,
) -> Verdicts:
    """Hold live counts ``c`` against reference counts ``m``, both (features, cells).

    ``real`` says which cells exist, ``ordered`` (features,) which features' value cells have an order. ``c`` may be
    divided by a design effect, row by row. With no drift P(p_value < significance) is at most about significance, and
    with a true PSI of exactly ``tolerance`` P(drifted) is at most about significance: for significance 0.05 at most
    0.065 over distributions, windows and references in the tests.

    Cells are pooled by the reference alone until each expects 8 rows in the smaller sample: neighbours of an ordered
    feature, the rare ones of another (or the other way round, where that would leave one pool), the special cells with
    each other; what still expects less is the rest. Over the pooled cells PSI / s is about chi-square, s = 1/n + 1/M
    (Yurdakul 2018), and noncentral chi-square where the true PSI is not 0; the rest has the upper tail of its
    beta-binomial distribution, at a tenth of the significance. The rest has drifted where its share alone makes that
    PSI.

    Raises ValueError on a tolerance that is negative or not finite, a significance outside (0, 1), and shapes that
    differ.
    """
    if not tolerance >= 0.0 or not math.isfinite(tolerance):
        raise ValueError(f"tolerance must be a PSI of 0 or more, got {tolerance!r}")
    if not 0.0 < significance < 1.0:
        raise ValueError(f"significance must be between 0 and 1, got {significance!r}")
    live, reference = np.asarray(c, np.float64), np.asarray(m, np.float64)
    if live.ndim != 2 or not live.shape == reference.shape == real.shape or ordered.shape != live.shape[:1]:
        raise ValueError(
            "expected c, m and real of one shape (features, cells) and ordered of shape (features,), got "
            f"{live.shape}, {reference.shape}, {real.shape} and {ordered.shape}"
        )
    n, rows = live.sum(1), reference.sum(1)
    smaller = np.minimum(n, rows)
    needed = np.where(smaller > 0.0, _EXPECTED * rows / np.maximum(smaller, _LEAST), np.inf)
    pools = _pool(live, reference, real, ordered, needed)
    cells = pools.tested.sum(1)
    testable = (smaller > 0.0) & (cells + pools.rest >= 2)

    # PSI among the pooled cells, given that a row is in one of them: its null does not depend on the rest
    live_shares, shares = smoothed(pools.live * pools.tested, pools.reference * pools.tested)
    pooled_n, pooled_rows = (pools.live * pools.tested).sum(1), (pools.reference * pools.tested).sum(1)
    information = pooled_n * pooled_rows / np.maximum(pooled_n + pooled_rows, _LEAST)  # 1/s
    distance = psi(live_shares, shares)
    df = np.maximum(cells - 1, 1)
    p_cells = np.where(cells >= 2, chi_square_sf(distance * information, df), 1.0)
    cells_level = np.where(pools.rest, (1.0 - _REST_SHARE) * significance, significance)

    rest = _Rest(pools.live[:, -1], pools.reference[:, -1], n, rows)
    p_rest = np.where(pools.rest, rest.p_value(), 1.0)
    p_value = np.where(pools.rest, np.minimum(p_cells / (1.0 - _REST_SHARE), p_rest / _REST_SHARE), p_cells)
    p_value = np.where(testable, np.minimum(p_value, 1.0), np.nan)

    drifted = (cells >= 2) & (information > 0.0) & (distance > tolerance)
    which = np.flatnonzero(drifted)
    if which.size:
        noise = _noise(live_shares[which], shares[which], pooled_n[which], pooled_rows[which])
        noise = np.maximum(noise / distance[which], 1.0 / information[which])
        drifted[which] = _certain(distance[which] / noise, df[which], tolerance / noise, cells_level[which])
    which = np.flatnonzero(testable & ~drifted & pools.rest & (p_rest < _REST_SHARE * significance))
    if which.size:
        drifted[which] = rest.certain(which, tolerance, _REST_SHARE * significance)

    everything = smoothed(pools.live, pools.reference)
    noise = (np.count_nonzero(everything[0], axis=1) - 1.0) * (n + rows) / np.maximum(n * rows, _LEAST)
    return Verdicts(
        psi=psi(*smoothed(live, reference)),
        psi_adjusted=np.maximum(psi(*everything) - noise, 0.0),
        p_value=p_value,
        drifted=drifted,
        cells=cells,
    )


@dataclass(frozen=True)
class _Pools:
    """Counts by pool: a column a cell that stands for itself or its neighbours, then rare, specials, rest."""

    live: NDArray[np.float64]
    reference: NDArray[np.float64]
    tested: NDArray[np.bool_]  # pools that PSI is computed over
    rest: NDArray[np.bool_]  # whether there is a rest, its counts in the last column


def _pool(
    live: NDArray[np.float64],
    reference: NDArray[np.float64],
    real: NDArray[np.bool_],
    ordered: NDArray[np.bool_],
    needed: NDArray[np.float64],
) -> _Pools:
    features, width = reference.shape
    values = width - _SPECIALS
    small = reference < needed[:, None]
    pool = np.where(small, width, np.arange(width))  # rare values
    pool[:, values:][small[:, values:]] = width + 1
    rare = small & (reference > 0.0)
    rare[:, values:] = False
    alone = np.count_nonzero(~small[:, :values], axis=1)
    together = alone + ((reference * rare).sum(1) >= needed)
    neighbours = rare.any(1) & (ordered | (together < 2))
    # Categories come by falling frequency: pools of neighbours in that order would add up the noise that made the order
    for order, of in ((slice(0, values), ordered), (np.argsort(np.arange(values) * _GOLDEN % 1.0), ~ordered)):
        which = np.flatnonzero(neighbours & of)
        if which.size:
            cells = (which[:, None], np.arange(values)[order])
            pool[cells] = _neighbours(reference[cells], needed[which], pool[cells])
    places = width + 3
    flat = (pool + np.arange(features)[:, None] * places).ravel()
    size = features * places

    def by_pool(table: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(flat, table.ravel(), size).reshape(features, places).astype(np.float64, copy=False)

    by_live, by_reference, by_cells = by_pool(live), by_pool(reference), by_pool(real)
    moved = np.zeros_like(by_reference)
    categories = ~ordered[:, None] & (reference > 0.0)
    categories[:, values:] = False
    if categories.any():
        moved = by_pool(_corrected(live, reference, categories, width - 1) - reference)
        # the same once more: cells that stand alone were chosen, the others make the pool of rare values
        chosen = np.zeros(by_live.shape, np.bool_)
        chosen[:, :values] = categories[:, :values] & ~small[:, :values]
        moved += _corrected(by_live, by_reference + moved, chosen, width) - (by_reference + moved)
    for special in (width, width + 1):
        too_few = by_reference[:, special] < needed
        for table in (by_live, by_reference, by_cells, moved):
            table[too_few, -1] += table[too_few, special]
            table[too_few, special] = 0.0
    tested = by_reference >= needed[:, None]
    return _Pools(by_live, by_reference + moved, tested, (by_cells[:, -1] > 0.0) & ~tested[:, -1])


def _corrected(
    live: NDArray[np.float64], reference: NDArray[np.float64], chosen: NDArray[np.bool_], others: int
) -> NDArray[np.float64]:
    """``reference`` less what the ``chosen`` cells may have too much of, because they were chosen for being frequent.

    The rarest of the categories with a cell of their own got it by chance, where others in the cell ``others`` are as
    frequent: of 1,000 equally frequent values the 32 with a cell have 22% too much in 100,000 rows, and every second
    window of 10,000 rows would seem to differ. The likeliest excess of the greatest of N counts of about m rows is
    √(2 m ln N); N is what ``others`` has room for, by chosen cell. As much of it goes from the cells within reach of
    the least to ``others`` as brings their share to the live one, and less where the live sample is too small to say.
    """
    which = np.flatnonzero((reference[:, others] > 0.0) & chosen.any(1))
    if not which.size:
        return reference
    m, c, cells = reference[which], live[which], chosen[which]
    least = np.where(cells, m, np.inf).min(1, keepdims=True)
    rivals = m[:, others, None] / least / np.count_nonzero(cells, axis=1)[:, None]
    deviations = np.sqrt(2.0 * np.log1p(rivals))
    reach = cells & (m <= least + (deviations + 1.0) * np.sqrt(least))
    most = np.where(reach, np.minimum(np.sqrt(m) * deviations, 0.5 * m), 0.0)
    ratio = m.sum(1, keepdims=True) / np.maximum(c.sum(1, keepdims=True), 1.0)
    surplus = ((m - c * ratio) * reach).sum(1, keepdims=True)
    limit = most.sum(1, keepdims=True)
    noise = (m * reach).sum(1, keepdims=True) * ratio * 0.5
    excess = most * np.clip(surplus / limit, 0.0, 1.0) * limit**2 / (limit**2 + noise)
    result: NDArray[np.float64] = reference.copy()
    result[which] -= excess
    result[which, others] += excess.sum(1)
    return result


def _neighbours(
    reference: NDArray[np.float64], needed: NDArray[np.float64], alone: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pools of neighbouring value cells, from the first cell on; ``alone`` are the pools of cells without neighbours.

    Cells that the reference never saw stay among the rare: a value it never saw is news, its neighbours' mass would
    hide it. So do all the rare cells where the neighbours would make one pool only: a feature that is 0 in 999 of 1,000
    rows.
    """
    pool = np.empty_like(alone)
    begun = np.zeros(len(reference), np.int64)
    complete = np.full(len(reference), -1)
    pools = np.zeros(len(reference), np.int64)
    inside = np.zeros(len(reference))
    for cell in range(reference.shape[1]):
        pool[:, cell] = begun
        inside += reference[:, cell]
        enough = inside >= needed
        complete = np.where(enough, begun, complete)
        begun = np.where(enough, cell + 1, begun)
        pools += enough
        inside[enough] = 0.0
    left_over = pool == begun[:, None]
    pool = np.where(left_over, complete[:, None], pool)  # joins the last complete pool
    return np.where((reference > 0.0) & (pools >= 2)[:, None], pool, alone)


def _noise(
    p: NDArray[np.float64], q: NDArray[np.float64], n: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A quarter of PSI's variance, by the delta method, where it is far from 0.

    About PSI · s for small moves of common cells, as the noncentral chi-square has it. A cell that has become many
    times rarer or more frequent rests on few rows on one side, and PSI varies more: without this, a cell that went from
    2% to 0.03%, which is a PSI of 0.1, would be called beyond 0.1 in every second window.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(p == q, 1.0, p / q)
    log_ratio = np.log(ratio)
    by_live, by_reference = log_ratio + 1.0 - 1.0 / ratio, 1.0 - log_ratio - ratio
    variances = (
        (share * np.square(slope)).sum(1) - np.square((share * slope).sum(1))
        for share, slope in ((p, by_live), (q, by_reference))
    )
    live, reference = variances
    return np.asarray(0.25 * (live / n + reference / rows))


def _certain(
    x: NDArray[np.float64], df: NDArray[np.int64], noncentrality: NDArray[np.float64], level: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether ``x`` exceeds the 1 - level quantile of the noncentral chi-square."""
    # The exact tail is spared where drift is far beyond doubt, by Birgé's bound on the quantile (see
    # noncentral_chi_square_sf), and where x is not above the mean, which at least 0.3 of the distribution is.
    mean, log_level = df + noncentrality, -np.log(level)
    result = x > mean + 2.0 * np.sqrt((mean + noncentrality) * log_level) + 2.0 * log_level
    which = np.flatnonzero(~result & ((x > mean) | (level > 0.3)))
    if which.size:
        result[which] = noncentral_chi_square_sf(x[which], df[which], noncentrality[which]) < level[which]
    return result


class _Rest:
    """The test of the cells that expect too few rows for PSI: are there more live rows than the reference foretells?

    The live count given ``reference`` of ``rows`` is beta-binomial, with Jeffreys' prior on the share.
    """

    def __init__(
        self,
        live: NDArray[np.float64],
        reference: NDArray[np.float64],
        n: NDArray[np.float64],
        rows: NDArray[np.float64],
    ) -> None:
        # The sums have as many terms as live rows in the rest. Far beyond the reference's size its noise is all the
        # noise there is, so the live sample is scaled down, which errs on the side of calm by 2.5% of the deviation.
        scale = np.minimum(1.0, _MOST_LIVE * rows / np.maximum(n, 1.0))
        self.live = np.floor(live * scale + 1e-9)
        self.n = np.ceil(n * scale - 1e-9)
        self.a = reference + 0.5
        self.b = rows - reference + 0.5

    def p_value(self) -> NDArray[np.float64]:
        """P(as many live rows or more) with no drift; 1 where there are no more than expected."""
        result = np.ones(self.live.shape)
        more = np.flatnonzero(self.live * (self.a + self.b) > self.n * self.a)
        if more.size:
            result[more] = beta_binomial_sf(self.live[more], self.n[more], self.a[more], self.b[more])
        return result

    def certain(self, which: NDArray[np.int64], tolerance: float, level: float) -> NDArray[np.bool_]:
        """Whether the live share exceeds, with confidence, the one that alone makes PSI ``tolerance``.

        That share q follows from the reference's share p, and is less uncertain than it: of relative variance
        (d ln q / d ln p)² / a. A beta distribution of that mean and variance takes the place of p's.
        """
        live, n, a, b = (values[which] for values in (self.live, self.n, self.a, self.b))
        p = a / (a + b)
        q = _share_at(p, tolerance)
        log_odds = np.log(q / p) + np.log((1.0 - p) / (1.0 - q))
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (log_odds + (q - p) / (p * (1.0 - p))) / (log_odds + (q - p) / (q * (1.0 - q)))
        elasticity = np.where(q > p, slope * p / q, 1.0)
        a_at = a / elasticity**2
        return np.asarray(beta_binomial_sf(live, n, a_at, a_at * (1.0 - q) / q) < level)


def _share_at(p: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
    """The share q >= p at which the PSI of (q, 1 - q) and (p, 1 - p) is ``distance``, by bisection."""
    low, high = p.copy(), np.ones_like(p)
    for _ in range(50):
        q = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            beyond = (q - p) * (np.log(q / p) + np.log((1.0 - p) / (1.0 - q))) > distance
        high = np.where(beyond, q, high)
        low = np.where(beyond, low, q)
    return np.asarray(low)


@dataclass(frozen=True)
class Detectable:
    """The least drift that a reference can tell from its own sampling, however many live rows there are.

    Attributes:
        shift: of a numeric feature's mean, in its standard deviations.
        new_share: share of live rows that are missing, nonfinite or of a category, where the reference has none such.
    """

    shift: float
    new_share: float


_ALTERNATIVES = 7 * 9


def detectable(
    rows: int, *, features: int = 1, panes_per_alarm: float = 10_080.0, believed_rows: float = 10_000.0
) -> Detectable:
    """What a reference of ``rows`` rows cannot tell from its own sampling error: drift smaller than the result.

    The alarm, at most one false one in ``panes_per_alarm`` panes over all ``features``, needs a likelihood ratio of
    e^L, L = ln(panes_per_alarm · features · 63): it shares its promise among 7 shapes of drift and 9 windows. Against
    live rows without end, the K = min(rows, believed_rows) rows of the reference are all that limits it. A mean d
    deviations away has the likelihood ratio exp(K d²/2) where the reference's own mean is no further off, as it is in
    half of all references: shift = √(2L/K). A value of share r is absent from K rows with probability e^(-rK):
    new_share = L/K.

    Raises ValueError where ``rows`` or another argument is not positive.
    """
    given = {"rows": rows, "features": features, "panes_per_alarm": panes_per_alarm, "believed_rows": believed_rows}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    needed = math.log(panes_per_alarm * features * _ALTERNATIVES)
    believed = min(rows, believed_rows)
    return Detectable(shift=math.sqrt(2.0 * needed / believed), new_share=min(needed / believed, 1.0))
