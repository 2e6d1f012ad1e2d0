"""How far apart two distributions over the same cells are.

Functions of two probability vectors: the last axis runs over the cells and sums to 1, leading axes (features, windows)
broadcast, and the result has those leading axes. ``p`` is what is live, ``q`` the reference. A cell that is 0 in both
contributes nothing. Nothing is smoothed here: where a formula divides by an empty cell the result is infinite, and
:func:`smoothed` is the step that prevents it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "chi_square",
    "hellinger",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "l_infinity",
    "psi",
    "smoothed",
    "wasserstein",
]


def psi(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """The population stability index Σ (p - q) ln(p / q), symmetric, from 0 to infinity; nats.

    Jeffreys' divergence; Yurdakul (2018), Statistical properties of population stability index.
    """
    p, q = _pair(p, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (p - q) * (np.log(p) - np.log(q))
    return np.asarray(np.where(p == q, 0.0, terms).sum(-1))


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """The Jensen-Shannon distance to base 2: the root of the divergence, symmetric, from 0 to 1.

    Endres and Schindelin (2003), A new metric for probability distributions.
    """
    p, q = _pair(p, q)
    middle = 0.5 * (p + q)
    divergence = 0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / np.log(2.0)
    return np.asarray(np.sqrt(np.clip(divergence, 0.0, 1.0)))


def kolmogorov_smirnov(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """The greatest difference of the two distribution functions at the cells' ends, from 0 to 1.

    For cells in an order. At most the statistic of the raw values, which also looks inside the cells.
    """
    p, q = _pair(p, q)
    return np.asarray(np.abs(np.cumsum(p - q, axis=-1)).max(-1))


def wasserstein(p: ArrayLike, q: ArrayLike, positions: ArrayLike) -> NDArray[np.float64]:
    """The least work that turns ``q`` into ``p``, with each cell's mass at its position; in the feature's unit.

    ``positions`` ascend along the last axis. The first Wasserstein, or earth mover's, distance: the area between the
    distribution functions.
    """
    p, q = _pair(p, q)
    moved = np.abs(np.cumsum(p - q, axis=-1))[..., :-1]
    return np.asarray((moved * np.diff(np.asarray(positions, np.float64), axis=-1)).sum(-1))


def hellinger(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """√(½ Σ (√p - √q)²), symmetric, from 0 to 1."""
    p, q = _pair(p, q)
    return np.asarray(np.sqrt(0.5 * np.square(np.sqrt(p) - np.sqrt(q)).sum(-1)))


def l_infinity(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """The greatest difference of a cell's shares, from 0 to 1."""
    p, q = _pair(p, q)
    return np.asarray(np.abs(p - q).max(-1))


def chi_square(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Pearson's Σ (p - q)² / q, from 0 to infinity; times the rows it is his statistic for a known ``q``."""
    p, q = _pair(p, q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.square(p - q) / q
    return np.asarray(np.where(p == q, 0.0, terms).sum(-1))


def smoothed(live: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares (live, reference) of two tables of counts, each drawn slightly towards the shares of both together.

    Counts (…, cells), non-negative, need not be whole. With n and M rows and k cells that are not empty on both sides,
    half a count a cell is added on either side, spread as the pooled shares r: (c + r·k/2) / (n + k/2). Cells that are
    empty on both sides get 0 on both. Under no drift the PSI of the result stays near its large-sample distribution,
    while ½ added to every cell inflates it. Without any row on either side all shares are 0.
    """
    live, reference = _pair(live, reference)
    both = live + reference
    half = 0.5 * np.count_nonzero(both, axis=-1, keepdims=True)
    n, rows = live.sum(-1, keepdims=True), reference.sum(-1, keepdims=True)
    added = both * (half / np.maximum(n + rows, _TINY))
    return (live + added) / np.maximum(n + half, _TINY), (reference + added) / np.maximum(rows + half, _TINY)


_TINY = float(np.finfo(np.float64).tiny)


def _pair(p: ArrayLike, q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if p.ndim == 0 or q.ndim == 0 or p.shape[-1] != q.shape[-1] or p.shape[-1] == 0:
        raise ValueError(f"expected two vectors over the same cells (last axis), got shapes {p.shape} and {q.shape}")
    return p, q


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * (np.log(p) - np.log(q))
    return np.asarray(np.where(p > 0.0, terms, 0.0).sum(-1))
