"""The special functions have the errors they state, against SciPy over wide grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otel_mlobs.core.special import (
    beta_binomial_sf,
    chi_square_sf,
    lgamma,
    noncentral_chi_square_sf,
    normal_cdf,
    normal_quantile,
)

special = pytest.importorskip("scipy.special")
stats = pytest.importorskip("scipy.stats")


def test_lgamma_is_within_its_stated_error_from_1e_minus_8_to_1e29():
    """The result is within 1e-13 · max(1, |ln Γ|) of SciPy's."""
    x = np.logspace(-8, 29, 100_000)
    expected = special.gammaln(x)
    np.testing.assert_array_less(np.abs(lgamma(x) - expected), 1e-13 * np.maximum(1.0, np.abs(expected)))


def test_lgamma_keeps_the_shape_and_leaves_its_argument_alone():
    """A table goes in, a table of that shape comes out, and the table that went in is as it was."""
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    result = lgamma(x)
    np.testing.assert_allclose(np.exp(result), [[1, 1, 2], [6, 24, 120]], rtol=1e-13)
    np.testing.assert_array_equal(x, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_normal_cdf_has_relative_accuracy_in_the_far_lower_tail():
    """normal_cdf is within 1e-13 of SciPy's, relative, from -37 to 9, and 0 and 1 at the infinities."""
    z = np.linspace(-37, 9, 5001)
    np.testing.assert_allclose(normal_cdf(z), special.ndtr(z), rtol=1e-13)
    np.testing.assert_array_equal(normal_cdf([-math.inf, math.inf]), [0.0, 1.0])


def test_normal_quantile_inverts_from_1e_minus_299_to_1_minus_1e_minus_15():
    """normal_quantile is within 1e-13 · max(1, |z|) of SciPy's; its ends are infinite, beyond them is NaN."""
    share = np.concatenate(
        [10.0 ** -np.arange(1, 300), np.linspace(1e-4, 1 - 1e-4, 2001), 1 - 10.0 ** -np.arange(1, 16)]
    )
    expected = special.ndtri(share)
    np.testing.assert_array_less(np.abs(normal_quantile(share) - expected), 1e-13 * np.maximum(1.0, np.abs(expected)))
    np.testing.assert_array_equal(normal_quantile([0.0, 1.0]), [-math.inf, math.inf])
    assert np.isnan(normal_quantile([-0.1, 1.1, math.nan])).all()


def test_chi_square_tail_has_relative_accuracy_for_odd_and_even_degrees_of_freedom():
    """chi_square_sf is within 1e-12, relative, of SciPy's for 1 to 999 degrees of freedom, also far in the tail."""
    x = np.concatenate([[0.0], np.logspace(-6, 3, 300)])[:, None]
    df = np.concatenate([np.arange(1, 60), [100, 999]])
    expected = stats.chi2.sf(x, df)
    np.testing.assert_allclose(chi_square_sf(x, df), expected, rtol=1e-12, atol=1e-290)


@pytest.mark.parametrize("noncentrality", [0.0, 0.01, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
def test_noncentral_chi_square_tail_is_within_its_stated_error(noncentrality: float):
    """noncentral_chi_square_sf is within 1e-12 + 1e-14 · noncentrality of SciPy's, from end to end."""
    df = np.array([1, 2, 9, 10, 33, 100])[:, None]
    mean, deviation = df + noncentrality, np.sqrt(2.0 * (df + 2.0 * noncentrality))
    x = np.maximum(mean + deviation * np.linspace(-14, 18, 65), 0.0)
    expected = stats.ncx2.sf(x, df, noncentrality) if noncentrality else stats.chi2.sf(x, df)
    result = noncentral_chi_square_sf(x, df, noncentrality)
    assert result.shape == x.shape
    np.testing.assert_allclose(result, expected, rtol=0.0, atol=1e-12 + 1e-14 * noncentrality)


def test_noncentral_chi_square_tail_does_not_depend_on_what_else_is_in_the_table():
    """Each element of a table with noncentralities from 0 to 1e6 is what it is alone."""
    noncentrality = np.array([0.0, 3.0, 1e6, 700.0, 1e4])
    x = noncentrality + 5.0 + np.sqrt(noncentrality)
    alone = [float(noncentral_chi_square_sf(one, 5, other)) for one, other in zip(x, noncentrality, strict=True)]
    np.testing.assert_allclose(noncentral_chi_square_sf(x, 5, noncentrality), alone, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 10, 100, 1_000, 20_000])
@pytest.mark.parametrize(
    ("a", "b"), [(0.5, 100.5), (0.5, 1_000.5), (7.5, 1_000.0), (3.5, 1e5), (40.0, 1e4), (8.5, 1e6), (2.0, 5.0)]
)
def test_beta_binomial_tail_is_within_its_stated_error(n: int, a: float, b: float):
    """beta_binomial_sf is within 1e-8, relative, of the summed probabilities of SciPy, on both sides of the mean."""
    below = np.cumsum(stats.betabinom.pmf(np.arange(n + 1), n, a, b)[::-1])[::-1]
    count = np.unique(np.clip([0, 1, 2, 3, 5, 8, 13, 20, 50, 100, 300, n // 2, n, n + 1], 0, n + 1))
    expected = np.append(below, 0.0)[count]
    np.testing.assert_allclose(beta_binomial_sf(count, n, a, b), expected, rtol=1e-8, atol=1e-250)
