"""The distances equal SciPy's and a direct computation, and PSI another library's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otel_mlobs.core.binning import Bins, numeric_edges
from otel_mlobs.core.distance import (
    chi_square,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    l_infinity,
    psi,
    smoothed,
    wasserstein,
)

_SYMMETRIC = [psi, jensen_shannon, kolmogorov_smirnov, hellinger, l_infinity]
_ALL = [*_SYMMETRIC, chi_square]


def _pairs(cells: int = 12, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of probability vectors, some of their cells rare, some nearly equal on both sides."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(cells, 0.5), count) + 1e-12
    q = np.where(
        np.arange(count)[:, None] % 2, rng.dirichlet(np.full(cells, 3.0), count), p * rng.uniform(0.99, 1.01, p.shape)
    )
    return p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)


def test_psi_equals_feature_engines():
    """PSI of the shares (500, 300, 150, 50) and (380, 330, 190, 100) of 1,000 is what feature-engine 1.9.4 computes.

    Obtained from DropHighPSIFeatures(split_col="t", cut_off=0, variables=["x"], switch=False).fit(...).psi_values_ on a
    categorical column of those counts; it smooths nothing where no category is absent.
    """
    reference, live = np.array([500, 300, 150, 50]) / 1_000, np.array([380, 330, 190, 100]) / 1_000
    assert psi(live, reference) == pytest.approx(0.07990463702890747, abs=1e-9)


def test_distances_equal_scipys():
    """Jensen-Shannon, Wasserstein, chi-square and PSI (as two relative entropies) equal SciPy's to 1e-9."""
    spatial = pytest.importorskip("scipy.spatial.distance")
    stats = pytest.importorskip("scipy.stats")
    special = pytest.importorskip("scipy.special")
    p, q = _pairs()
    np.testing.assert_allclose(jensen_shannon(p, q), spatial.jensenshannon(p, q, base=2, axis=1), rtol=0, atol=1e-9)
    symmetric = special.rel_entr(p, q).sum(1) + special.rel_entr(q, p).sum(1)
    np.testing.assert_allclose(psi(p, q), symmetric, rtol=1e-9, atol=1e-12)
    positions = np.sort(np.random.default_rng(1).standard_cauchy(12))
    expected = [stats.wasserstein_distance(positions, positions, one, other) for one, other in zip(p, q, strict=True)]
    np.testing.assert_allclose(wasserstein(p, q, positions), expected, rtol=1e-9)
    expected = [stats.chisquare(one * 1_000, other * 1_000).statistic / 1_000 for one, other in zip(p, q, strict=True)]
    np.testing.assert_allclose(chi_square(p, q), expected, rtol=1e-9)


def test_distances_equal_a_direct_computation():
    """Each distance of each of 200 pairs equals its formula, summed with math.fsum, to 1e-9."""
    ps, qs = _pairs()
    for row, (p, q) in enumerate(zip(ps.tolist(), qs.tolist(), strict=True)):
        pairs = list(zip(p, q, strict=True))
        sums = [math.fsum(a - b for a, b in pairs[: last + 1]) for last in range(len(pairs))]
        direct = {
            psi: math.fsum((a - b) * math.log(a / b) for a, b in pairs),
            kolmogorov_smirnov: max(map(abs, sums)),
            hellinger: math.sqrt(math.fsum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in pairs) / 2),
            l_infinity: max(abs(a - b) for a, b in pairs),
            chi_square: math.fsum((a - b) ** 2 / b for a, b in pairs),
        }
        for distance, expected in direct.items():
            assert distance(ps[row], qs[row]) == pytest.approx(expected, rel=1e-9, abs=1e-12), distance.__name__


def test_kolmogorov_smirnov_on_bins_is_scipys_statistic_where_the_bins_are_the_values():
    """With a cell for each value, KS on bins is the two-sample statistic of the raw values."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    one, other = rng.poisson(4, 500), rng.poisson(5, 700)
    shares = [np.bincount(values, minlength=25) / len(values) for values in (one, other)]
    assert kolmogorov_smirnov(*shares) == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-12)


@pytest.mark.parametrize("distance", _ALL)
def test_equal_shares_are_at_distance_0_and_a_cell_empty_on_both_sides_changes_nothing(distance):
    """Empty cells, on both sides, leave each distance as it was; a vector is at distance 0 from itself."""
    p, q = _pairs()
    assert (distance(p, p) == 0.0).all()
    zeros = np.zeros((len(p), 1))
    np.testing.assert_allclose(distance(np.hstack([p, zeros]), np.hstack([q, zeros])), distance(p, q), rtol=1e-12)


@pytest.mark.parametrize("distance", _SYMMETRIC)
def test_symmetric_distances_are(distance):
    """What is called symmetric does not depend on which side is live."""
    p, q = _pairs()
    np.testing.assert_allclose(distance(p, q), distance(q, p), rtol=1e-12)


def test_shares_that_have_nothing_in_common_are_as_far_apart_as_can_be():
    """Bounded distances reach 1, PSI and chi-square are infinite, and none warns."""
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
    assert [float(distance(p, q)) for distance in (jensen_shannon, kolmogorov_smirnov, hellinger, l_infinity)] == [
        1.0
    ] * 4
    assert psi(p, q) == chi_square(p, q) == math.inf


def test_wasserstein_is_the_way_times_the_mass():
    """Half of the mass moved from 10 to 14 is 2 in the feature's unit."""
    assert wasserstein([0.5, 0.0, 0.5], [0.5, 0.5, 0.0], [0.0, 10.0, 14.0]) == 2.0


@pytest.mark.parametrize("distance", _ALL)
def test_vectors_over_different_cells_are_refused_with_their_shapes(distance):
    """A vector of 3 cells against one of 1 is no broadcast but an error that names both shapes."""
    with pytest.raises(ValueError, match=r"got shapes \(3,\) and \(1,\)"):
        distance([0.2, 0.3, 0.5], [1.0])


def test_smoothing_is_the_formula():
    """Counts (3, 0, 7, 0) and (10, 5, 5, 0): three cells count, half a row each, spread as the pooled shares."""
    live, reference = smoothed([3, 0, 7, 0], [10, 5, 5, 0])
    pooled = np.array([13, 5, 12, 0]) / 30
    np.testing.assert_allclose(live, (np.array([3, 0, 7, 0]) + 1.5 * pooled) / 11.5)
    np.testing.assert_allclose(reference, (np.array([10, 5, 5, 0]) + 1.5 * pooled) / 21.5)


_COUNTS = arrays(np.int64, st.tuples(st.just(2), st.integers(1, 12)), elements=st.integers(0, 10**9))


@given(_COUNTS)
def test_smoothed_shares_sum_to_1_and_leave_no_cell_empty_on_one_side(counts):
    """Smoothed shares sum to 1 wherever there is a row at all, are 0 together or not at all, and give a finite PSI."""
    live, reference = smoothed(counts[0], counts[1])
    if counts.sum() == 0:
        assert (live == 0).all()
        assert (reference == 0).all()
        return
    assert live.sum() == pytest.approx(1.0)
    assert reference.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(live > 0, reference > 0)
    assert math.isfinite(psi(live, reference))


def test_smoothing_leaves_proportional_counts_at_psi_0():
    """Identical integer data, three times as many rows of it: PSI is 0 to 1e-12."""
    counts = np.array([7, 0, 100, 3, 1])
    assert psi(*smoothed(counts, 3 * counts)) < 1e-12


def test_one_outlier_moves_psi_by_less_than_a_two_hundredth():
    """Among 10,000 rows, reference or live, one of 1e4 moves the PSI of a half-sigma shift by less than 0.005."""
    rng = np.random.default_rng(3)
    reference, live = rng.normal(size=10_000), rng.normal(0.5, size=10_000)

    def distance(reference: np.ndarray, live: np.ndarray) -> float:
        quantiles = np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf")
        bins = Bins("numeric", edges=numeric_edges(quantiles, float(reference.min()), float(reference.max())))
        return float(psi(*smoothed(bins.count(live)[0], bins.count(reference)[0])))

    plain = distance(reference, live)
    assert plain == pytest.approx(0.25, abs=0.03)
    assert abs(distance(reference, np.append(live[1:], 1e4)) - plain) < 0.005
    assert abs(distance(np.append(reference[1:], 1e4), live) - plain) < 0.005
