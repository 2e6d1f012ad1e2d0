"""Special functions that the statistics need, in NumPy alone, each with its error stated.

They take arrays (or numbers) that broadcast and give float64. The stated errors are held against SciPy in the tests,
over the ranges given.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "beta_binomial_sf",
    "chi_square_sf",
    "lgamma",
    "noncentral_chi_square_sf",
    "normal_cdf",
    "normal_quantile",
]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
# Bernoulli numbers over 2k(2k - 1), from the last to the first: the terms of Stirling's series
_STIRLING = (-691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)


def lgamma(x: ArrayLike) -> NDArray[np.float64]:
    """The logarithm of Γ(x) for 0 < x < 1e30, within 1e-13 · max(1, abs(ln Γ(x))).

    The recurrence takes x up by 8, where Stirling's series to y⁻¹¹ is exact to 2e-14 (Abramowitz and Stegun 6.1.15,
    6.1.41). Elsewhere the result means nothing.
    """
    x = np.asarray(x, np.float64)
    square = x * (x + 7.0)
    product = square * (square + 6.0)  # x (x + 1) … (x + 7), its factors paired from both ends
    product *= square + 10.0
    product *= square + 12.0
    y = x + 8.0
    inverse = 1.0 / y
    inverse_square = inverse * inverse
    series = inverse_square * _STIRLING[0]
    for coefficient in _STIRLING[1:-1]:
        series += coefficient
        series *= inverse_square
    series += _STIRLING[-1]
    series *= inverse
    result = np.log(y)
    result *= y - 0.5
    result -= y
    series += _HALF_LOG_TWO_PI
    result += series
    result -= np.log(product)
    return result


_erfc = np.frompyfunc(math.erfc, 1, 1)
_STANDARD = NormalDist()


def _quantile(share: float) -> float:
    if 0.0 < share < 1.0:
        return _STANDARD.inv_cdf(share)
    return -math.inf if share == 0.0 else math.inf if share == 1.0 else math.nan


_inverse = np.frompyfunc(_quantile, 1, 1)


def normal_cdf(z: ArrayLike) -> NDArray[np.float64]:
    """Φ(z), relative error under 1e-13 down to z = -37; 0 and 1 at ∓inf. About 0.1 µs a value: for small arrays."""
    return 0.5 * np.asarray(_erfc(np.asarray(z, np.float64) * -math.sqrt(0.5)), np.float64)


def normal_quantile(share: ArrayLike) -> NDArray[np.float64]:
    """Φ⁻¹(share) within 1e-13 · max(1, abs); ∓inf at 0 and 1, NaN outside. About 0.3 µs a value: for small arrays."""
    with np.errstate(invalid="ignore"):  # what comparing a NaN leaves behind
        return np.asarray(_inverse(np.asarray(share, np.float64)), np.float64)


def chi_square_sf(x: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """P(X > x) for a chi-square, relative error under 1e-12 for x < 1,000.

    ``df`` is whole and at least 1. The finite sums for even and odd ``df`` (Abramowitz and Stegun 26.4.4, 26.4.5): all
    terms are positive, none cancels.
    """
    x, df = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(df, np.float64))
    half = np.maximum(0.5 * x, 1e-300)[..., None]  # the logarithm is taken; to 1e-300 the result is 1
    odd = df % 2.0
    count = df // 2.0
    most = int(count.max(initial=0.0))
    power = np.arange(most) + np.array([[0.0], [0.5]])  # of even and of odd df
    constants = lgamma(power + 1.0)
    parity = odd.astype(np.intp)
    terms = np.exp(power[parity] * np.log(half) - half - constants[parity])
    total = np.where(np.arange(most) < count[..., None], terms, 0.0).sum(-1)
    total += np.where(odd == 1.0, np.asarray(_erfc(np.sqrt(half[..., 0])), np.float64), 0.0)
    return np.asarray(np.minimum(total, 1.0))


_BLOCK = 1 << 20  # elements of a working table


def noncentral_chi_square_sf(x: ArrayLike, df: ArrayLike, noncentrality: ArrayLike) -> NDArray[np.float64]:
    """P(X > x) for a noncentral chi-square, absolute error under 1e-12 + 1e-14 · noncentrality.

    ``df`` is whole and at least 1. The Poisson mixture of central chi-squares, exact but for what lies further than 9
    standard deviations from the mean of the mixture. Birgé's bounds (2001, An alternative point of view on Lepski's
    method, lemma 8.1) say where the result is within 1e-16 of 0 or 1, and nothing is summed there. Time and memory grow
    as √noncentrality.
    """
    x, df, noncentrality = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (x, df, noncentrality)))
    shape = x.shape
    x, df, noncentrality = x.ravel(), df.ravel(), noncentrality.ravel()
    mean = df + noncentrality
    spread = 2.0 * np.sqrt((df + 2.0 * noncentrality) * _NEGLIGIBLE)
    result = np.where(x < mean, 1.0, 0.0)
    between = np.flatnonzero((x > np.maximum(mean - spread, 0.0)) & (x < mean + spread + 2.0 * _NEGLIGIBLE))
    half, mu, shape_parameter = 0.5 * x[between], 0.5 * noncentrality[between], 0.5 * df[between]
    low = np.minimum(mu - 9.0 * np.sqrt(mu), half - shape_parameter - 9.0 * np.sqrt(half))
    low = np.floor(np.maximum(low, 0.0))
    width = int((mu + 9.0 * np.sqrt(mu) + 40.0 - low).max(initial=0.0)) + 1
    step = max(1, _BLOCK // width)
    for start in range(0, between.size, step):
        part = slice(start, start + step)
        result[between[part]] = _mixture(half[part], mu[part], shape_parameter[part], low[part], width)
    return result.reshape(shape)


_NEGLIGIBLE = -math.log(1e-16)


def _mixture(
    half: NDArray[np.float64], mu: NDArray[np.float64], a: NDArray[np.float64], low: NDArray[np.float64], width: int
) -> NDArray[np.float64]:
    """Σ_j Poisson(j; mu) Q(a + j, half) for j from ``low``; what comes before is negligible on both sides.

    Q(a + j + 1, h) = Q(a + j, h) + h^(a + j) e^(-h) / Γ(a + j + 1), so that the sum over j is one over these
    increments, each as often as the Poisson variable exceeds its j.
    """
    j = low[:, None] + np.arange(width)
    h, m = half[:, None], np.maximum(mu, 1e-300)[:, None]
    increments = np.exp((a[:, None] + j) * np.log(h) - h - lgamma(a[:, None] + j + 1.0))
    weights = np.exp(j * np.log(m) - m - lgamma(j + 1.0))
    above = np.cumsum(weights[:, :0:-1], axis=1)[:, ::-1]
    total = (increments[:, :-1] * above).sum(1)
    first = low == 0.0
    total[first] += chi_square_sf(2.0 * half[first], 2.0 * a[first])
    return np.asarray(np.minimum(total, 1.0))


def beta_binomial_sf(count: ArrayLike, n: ArrayLike, a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """P(X >= count) for a beta-binomial of ``n`` draws; relative error under 1e-8 for n, a, b up to 1e6.

    ``count`` and ``n`` are whole, a and b positive. The terms are summed outwards from ``count``, above the mean
    upwards, below it downwards (and taken from 1), until what is left is under 1e-15 of the sum.
    """
    count, n, a, b = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (count, n, a, b)))
    result = np.where(count <= 0.0, 1.0, 0.0)
    inside = (count > 0.0) & (count <= n)
    if not inside.any():
        return result
    c, n, a, b = count[inside], n[inside], a[inside], b[inside]
    up = c * (a + b) > n * a
    k = np.where(up, c, c - 1.0)
    term = np.exp(
        lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0)
        + lgamma(k + a) + lgamma(n - k + b) - lgamma(n + a + b)
        + lgamma(a + b) - lgamma(a) - lgamma(b)
    )  # fmt: skip
    total = term.copy()
    sign = np.where(up, 1.0, -1.0)[:, None]
    n_, a_, b_, up_ = n[:, None], a[:, None], b[:, None], up[:, None]
    steps = np.arange(32)
    while True:
        # from j to j + 1 or, the inverse of that ratio one further down, to j - 1
        j = np.clip(k[:, None] + sign * steps + np.where(up_, 0.0, -1.0), -1.0, n_)
        upper, lower = (n_ - j) * (a_ + j), (j + 1.0) * (b_ + n_ - j - 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(up_, upper / lower, lower / upper)
        terms = term[:, None] * np.cumprod(ratio, axis=1)
        total += terms.sum(1)
        term = terms[:, -1]
        k += sign[:, 0] * steps.size
        if (term <= 1e-15 * total * np.maximum(1.0 - ratio[:, -1], 1e-9)).all():
            break
    result[inside] = np.where(up, total, 1.0 - total)
    return result
