"""The verdict is calm: p is uniform with no drift, and a true PSI of exactly the tolerance is rarely called drift.

Each repetition has a fresh reference, whose own quantiles or most frequent categories make the cells. Only what the
verdict depends on is drawn: how many reference rows are in each cell, and what the cell's true share is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest

from otel_mlobs.core.binning import Bins, numeric_edges
from otel_mlobs.core.distance import psi
from otel_mlobs.core.evidence import Verdicts, verdicts
from otel_mlobs.core.special import normal_cdf, normal_quantile

_ROWS = [1_000, 10_000, 100_000]
_WINDOWS = [100, 1_000, 10_000]


@dataclass(frozen=True)
class Cells:
    """References by repetition: their counts, and the true share of each cell."""

    counts: np.ndarray
    shares: np.ndarray
    ordered: bool

    def verdicts(self, n: int, rng: np.random.Generator, shares: np.ndarray | None = None) -> Verdicts:
        """Of windows of ``n`` rows with the true shares, or with ``shares``."""
        shares = np.maximum(self.shares if shares is None else shares, 0.0)
        live = rng.multinomial(n, shares / shares.sum(1, keepdims=True))
        real = self.counts > 0
        real[:, -2:] = True
        return verdicts(live, self.counts, real, np.full(len(live), self.ordered))


def _continuous(rows: int, repetitions: int, rng: np.random.Generator) -> Cells:
    """Any continuous distribution: the masses between order statistics of a uniform sample are Dirichlet."""
    ranks = np.arange(11) * rows // 10
    between = np.diff(ranks)
    masses = rng.dirichlet([*between[:-1], between[-1] + 1], repetitions)
    nothing = np.zeros((repetitions, 2))
    return Cells(np.hstack([np.tile(between, (repetitions, 1)), nothing]), np.hstack([masses, nothing]), ordered=True)


def _poisson(mean: float) -> Callable[[int, int, np.random.Generator], Cells]:
    """Integers with ties, binned as Profile.fit does."""
    values = np.arange(int(mean + 12 * math.sqrt(mean) + 20))
    logs = values * math.log(mean) - mean - np.array([math.lgamma(value + 1) for value in values])
    probabilities = np.exp(logs) / np.exp(logs).sum()

    def draw(rows: int, repetitions: int, rng: np.random.Generator) -> Cells:
        counts, shares = np.zeros((repetitions, 14)), np.zeros((repetitions, 14))
        for row, sample in enumerate(rng.multinomial(rows, probabilities, repetitions)):
            quantiles = values[np.searchsorted(np.cumsum(sample), np.arange(1, 10) * rows // 10)]
            seen = np.flatnonzero(sample)
            edges = numeric_edges(quantiles, float(seen[0]), float(seen[-1]))
            cell = np.searchsorted(edges, values, side="left")
            counts[row, :12] = np.bincount(cell, sample, 12)
            shares[row, :12] = np.bincount(cell, probabilities, 12)
        return Cells(counts, shares, ordered=True)

    return draw


def _categories(count: int, exponent: float) -> Callable[[int, int, np.random.Generator], Cells]:
    """Values of frequency k^-exponent; the top 32 have a cell, those of under 20 rows are in "other"."""
    probabilities = np.arange(1, count + 1) ** -exponent
    probabilities /= probabilities.sum()
    top = min(count, 32)

    def draw(rows: int, repetitions: int, rng: np.random.Generator) -> Cells:
        sample = rng.multinomial(rows, probabilities, repetitions)
        order = np.argsort(-sample, axis=1, kind="stable")[:, :top]
        chosen = np.take_along_axis(sample, order, axis=1)
        kept = chosen >= 20
        tables = []
        for values, total in ((chosen, rows), (probabilities[order], 1.0)):
            values = np.where(kept, values, 0.0)
            other = np.maximum(total - values.sum(1), 0.0)
            other[other < 1e-12] = 0.0
            tables.append(np.column_stack([values, np.zeros(repetitions), other]))
        return Cells(*tables, ordered=False)

    return draw


_DISTRIBUTIONS = {
    "continuous": _continuous,
    "Poisson 0.3": _poisson(0.3),
    "Poisson 3": _poisson(3),
    "Poisson 100": _poisson(100),
    "5 even": _categories(5, 0.0),
    "5 skewed": _categories(5, 1.5),
    "20 even": _categories(20, 0.0),
    "20 skewed": _categories(20, 1.0),
    "1000 skewed": _categories(1_000, 1.0),
}
_EVEN_THOUSAND = _categories(1_000, 0.0)


def _seed(*parts: object) -> np.random.Generator:
    return np.random.default_rng(list("|".join(map(str, parts)).encode()))


def _assert_calm(p: np.ndarray) -> None:
    """P(p < .05) is at most 6.5%, and at least 3%, or within two standard errors of this simulation below that."""
    assert 0.03 - 2.0 * math.sqrt(0.03 * 0.97 / len(p)) <= np.mean(p < 0.05) <= 0.065


@pytest.mark.parametrize("name", ["continuous", "Poisson 3", "5 skewed", "20 even", "20 skewed", "1000 skewed"])
def test_p_is_below_5_percent_in_about_5_percent_of_windows_against_a_small_reference(name: str):
    """With no drift and a reference of 1,000 rows, P(p < .05) is between 3% and 6.5% at 1,000 and 10,000 live rows.

    The small reference is the hardest case: its own noise is the greatest part.
    """
    rng = _seed(name)
    cells = _DISTRIBUTIONS[name](1_000, 6_000, rng)
    for n in (1_000, 10_000):
        _assert_calm(cells.verdicts(n, rng).p_value)


@pytest.mark.simulation
@pytest.mark.parametrize("rows", _ROWS)
@pytest.mark.parametrize("name", _DISTRIBUTIONS)
def test_p_is_below_5_percent_in_about_5_percent_of_windows(name: str, rows: int):
    """With no drift P(p < .05) is 3% to 6.5% for each distribution, reference and window; drift is as good as never."""
    rng = _seed(name, rows)
    cells = _DISTRIBUTIONS[name](rows, 10_000, rng)
    for n in _WINDOWS:
        found = cells.verdicts(n, rng)
        _assert_calm(found.p_value)
        assert np.mean(found.drifted) < 0.003, n


@pytest.mark.simulation
@pytest.mark.parametrize("rows", _ROWS)
def test_categories_chosen_by_chance_are_no_drift(rows: int):
    """Of 1,000 equally frequent values those with a cell are there by chance: P(p < .05) stays at most 6.5%.

    It may be less than 3%: of 1,000 reference rows hardly a value has 20, and nothing is left to test.
    """
    rng = _seed(rows)
    cells = _EVEN_THOUSAND(rows, 4_000, rng)
    for n in _WINDOWS:
        assert np.mean(cells.verdicts(n, rng).p_value < 0.05) <= 0.065, n


def test_p_is_uniform_over_its_whole_range():
    """P(p < a) is within a tenth of 0.9 a where the rest is empty: the other tenth is the rest's."""
    rng = _seed("uniform")
    found = _continuous(10_000, 20_000, rng)
    p = found.verdicts(10_000, rng).p_value
    for level in (0.01, 0.05, 0.1, 0.3, 0.5, 0.8):
        assert np.mean(p < level) == pytest.approx(0.9 * level, rel=0.1, abs=0.003), level


@pytest.mark.simulation
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy", "lognormal"])
@pytest.mark.parametrize(("rows", "repetitions"), [(1_000, 4_000), (10_000, 3_000), (100_000, 1_200)])
def test_p_is_as_calm_on_values_that_are_drawn_and_binned(draw: str, rows: int, repetitions: int):
    """Normal, Cauchy and lognormal values, binned by Bins at their own quantiles: P(p < .05) is 3% to 6.5%."""
    rng = _seed(draw, rows)
    m, c = np.zeros((repetitions, 12)), np.zeros((len(_WINDOWS), repetitions, 12))
    for row in range(repetitions):
        reference = getattr(rng, draw)(size=rows)
        quantiles = np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf")
        bins = Bins("numeric", edges=numeric_edges(quantiles, float(reference.min()), float(reference.max())))
        m[row] = bins.count(reference)[0]
        for window, n in enumerate(_WINDOWS):
            c[window, row] = bins.count(getattr(rng, draw)(size=n))[0]
    for live in c:
        p = verdicts(live, m, np.ones(m.shape, bool), np.ones(repetitions, bool)).p_value
        _assert_calm(p)


Move = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _moved(shares: np.ndarray, move: Move, distance: float = 0.1) -> np.ndarray:
    """``shares``, moved row by row until their PSI is ``distance``; ``move`` takes amounts from 0 to 1."""
    low, high = np.zeros((len(shares), 1)), np.ones((len(shares), 1))
    for _ in range(45):
        middle = (low + high) / 2
        beyond = psi(np.maximum(move(shares, middle), 0.0), shares)[:, None] > distance
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return move(shares, low)


def _normal(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Move:
    def move(shares: np.ndarray, amount: np.ndarray) -> np.ndarray:
        z = normal_quantile(np.minimum(np.cumsum(shares[:, :-3], axis=1), 1.0))
        below = normal_cdf(change(z, amount))
        ends = np.zeros((len(shares), 1)), np.ones((len(shares), 1))
        return np.hstack([np.diff(np.hstack([ends[0], below, ends[1]]), axis=1), shares[:, -2:]])

    return move


def _more(cell: int) -> Move:
    def move(shares: np.ndarray, amount: np.ndarray) -> np.ndarray:
        result = shares * (1.0 - amount)
        result[:, cell] += amount[:, 0]
        return result

    return move


def _less(cell: int) -> Move:
    def move(shares: np.ndarray, amount: np.ndarray) -> np.ndarray:
        result = shares.copy()
        result[:, cell] *= 1.0 - amount[:, 0]
        return result / result.sum(1, keepdims=True)

    return move


def _fixed(shares: list[float], *, ordered: bool) -> Callable[[int, int, np.random.Generator], Cells]:
    def draw(rows: int, repetitions: int, rng: np.random.Generator) -> Cells:
        return Cells(rng.multinomial(rows, shares, repetitions), np.tile(shares, (repetitions, 1)), ordered=ordered)

    return draw


def _missing(share: float) -> Callable[[int, int, np.random.Generator], Cells]:
    return _fixed([*[(1.0 - share) / 10] * 10, share, 0.0], ordered=True)


_AT_THE_TOLERANCE = {
    "shift": (_continuous, _normal(lambda z, amount: z - amount)),
    "wider": (_continuous, _normal(lambda z, amount: z * np.exp(-amount))),
    "narrower": (_continuous, _normal(lambda z, amount: z * np.exp(amount))),
    "more missing, from 10%": (_missing(0.1), _more(-2)),
    "fewer missing, from 10%": (_missing(0.1), _less(-2)),
    "more missing, from 2%": (_missing(0.02), _more(-2)),
    "fewer missing, from 2%": (_missing(0.02), _less(-2)),
    "more missing, from 0.5%": (_missing(0.005), _more(-2)),
    "more missing, from 0.1%": (_missing(0.001), _more(-2)),
    "more missing, from 0.03%": (_missing(0.0003), _more(-2)),
    "a common category more": (_DISTRIBUTIONS["20 skewed"], _more(0)),
    "a common category less": (_DISTRIBUTIONS["20 skewed"], _less(0)),
    "the commonest of 1,000 more": (_DISTRIBUTIONS["1000 skewed"], _more(0)),
    "the commonest of 1,000 less": (_DISTRIBUTIONS["1000 skewed"], _less(0)),
    "other more": (_DISTRIBUTIONS["1000 skewed"], _more(-1)),
    "one of two values": (_fixed([0.5, 0.5, 0.0, 0.0], ordered=False), _more(0)),
    "a rare one of two values": (_fixed([0.95, 0.05, 0.0, 0.0], ordered=False), _more(1)),
}


@pytest.mark.parametrize(
    "name", ["shift", "fewer missing, from 2%", "more missing, from 0.5%", "a common category more"]
)
def test_a_psi_of_the_tolerance_is_rarely_called_drift_by_a_small_reference(name: str):
    """At a true PSI of exactly 0.1 P(drifted) is at most 6.5%, with a reference of 1,000 rows."""
    rng = _seed(name)
    draw, move = _AT_THE_TOLERANCE[name]
    cells = draw(1_000, 2_000, rng)
    shares = _moved(cells.shares, move)
    for n in (100, 1_000, 3_000):
        assert np.mean(cells.verdicts(n, rng, shares).drifted) <= 0.065, n


@pytest.mark.simulation
@pytest.mark.parametrize("rows", _ROWS)
@pytest.mark.parametrize("name", _AT_THE_TOLERANCE)
def test_a_psi_of_the_tolerance_is_rarely_called_drift(name: str, rows: int):
    """At a true PSI of exactly 0.1 P(drifted) is at most 6.5%, whatever moved, for each reference and window."""
    rng = _seed(name, rows)
    draw, move = _AT_THE_TOLERANCE[name]
    cells = draw(rows, 6_000, rng)
    shares = _moved(cells.shares, move)
    assert psi(shares, cells.shares).mean() == pytest.approx(0.1, rel=0.02)
    for n in (100, 300, 1_000, 3_000, 10_000, 100_000):
        assert np.mean(cells.verdicts(n, rng, shares).drifted) <= 0.065, n


@pytest.mark.parametrize(("by", "n"), [(0.5, 1_000), (0.4, 10_000), (1.0, 100)])
def test_a_material_shift_is_called_drift(by: float, n: int):
    """A shift of half a deviation in 1,000 rows, 0.4 (a PSI of 0.16) in 10,000, 1 in 100: drift in 95% of windows."""
    rng = _seed(by, n)
    cells = _continuous(10_000, 1_000, rng)
    shares = _normal(lambda z, amount: z - amount)(cells.shares, np.full((1_000, 1), by))
    assert np.mean(cells.verdicts(n, rng, shares).drifted) >= 0.95


def test_missing_values_are_called_drift():
    """5% missing where none were: drift in 95% of windows of 1,000 rows."""
    rng = _seed("missing")
    cells = _continuous(10_000, 1_000, rng)
    shares = cells.shares * 0.95
    shares[:, -2] = 0.05
    assert np.mean(cells.verdicts(1_000, rng, shares).drifted) >= 0.95


def test_the_normal_deciles_of_a_shift_have_the_psi_that_the_design_names():
    """In ten deciles a shift of 0.25 deviations is a PSI of 0.060, one of 0.5 a PSI of 0.25."""
    edges = normal_quantile(np.arange(1, 10) / 10)
    for by, expected in ((0.25, 0.060), (0.5, 0.25)):
        below = np.array([0.0, *(NormalDist(by).cdf(edge) for edge in edges), 1.0])
        assert psi(np.diff(below), np.full(10, 0.1)) == pytest.approx(expected, rel=0.05)
