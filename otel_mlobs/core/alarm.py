"""The always-on alarm: e-values of "these counts no longer come from the reference", after every pane, for ever.

The promise is a rate: on average at most one false alarm in ``panes_per_alarm`` panes, over all features together.
Every window of 1, 2, 4, …, 256 panes is compared with the reference by ratios of two likelihoods: below, a
Dirichlet-multinomial around the reference's shares (the reference is itself a sample), above, one of several
alternatives. Under no drift such a ratio has expectation 1, so does their mean, and by Markov's inequality it reaches A
in one pane of A. Over features: Wang and Ramdas, "False discovery rate control with e-values" (JRSS B, 2022), which
holds under any dependence. Nothing but windows of counts is needed, so counts of several workers may be added before
they come here.

Rows are seldom independent: :class:`DesignEffect` estimates how many rows are worth one.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.special import lgamma, normal_cdf, normal_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.integer[Any]]

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The windows' lengths in panes; each is evaluated again after every quarter of its length."""

_SPECIALS = 2
_SHAPES = 4  # up, down, wider, narrower: of numeric features only
_COMMON = 3  # any shape, missing, nonfinite or other
_RARE_ROWS, _USUAL_ROWS = 0.5, 10.0  # Beta(½, 10): the share of a special cell, should it have moved
_LEAST_SHARE = 1e-12
_LARGEST_EXPONENT = 600.0
_BLOCKS = (1, 4, 16)  # panes in a block, of which neighbours are compared
_STATISTICS = 5  # all cells, shift, scale, missing, nonfinite or other
_NOISE = 2.0  # standard deviations that an estimate must be above the one before it
# 3 hours of minutes: of 60 pairs, a mean of one degree of freedom would be off by 0.15
_PAIRS_REMEMBERED = 180.0
_PRIOR_PAIRS = 20.0
_LARGEST, _FREEDOM_TO_BOUND = 6.0, 8.0  # a pair's statistic over its expectation, once that is known from so much
_LAG = 16
_PANES_TO_KNOW, _ALIKE_PANES_TO_KNOW = 8, 32
_LEAST_VARIANCE = 1e-9

_KEPT = 5  # windows evaluated at most every 8th pane share a place for their alternatives, 38 kB at 100 features


class Alarm:
    """E-values per feature after each pane; ``flagged`` says which of them are alarms.

    On average at most one pane in ``panes_per_alarm`` has a false alarm, over all features together, where rows are
    independent of one another (``design_effect`` divides them where they are not).

    Args:
        m: reference counts, shape (features, cells): value cells first, then padding, the last two cells missing and
            nonfinite/other. A value cell may have a count of 0.
        real: which cells exist, same shape, bool.
        ordered: which features are numeric, shape (features,), bool: shifts and scales are looked for there, too.
        panes_per_alarm: A, panes between two false alarms.
        believed_rows: K, how many rows of the reference are believed at most. It sets what is tolerated for ever: with
            10,000 rows a shift of 0.03 standard deviations never alarms.

    Raises:
        ValueError: for shapes that do not fit, counts that are negative or not finite, a feature without its two
            special cells, settings that are not positive.
    """

    def __init__(
        self,
        m: NDArray[Any],
        real: NDArray[np.bool_],
        ordered: NDArray[np.bool_],
        *,
        panes_per_alarm: float = 10_080.0,
        believed_rows: float = 10_000.0,
    ) -> None:
        m, real, ordered = np.asarray(m, np.float64), np.asarray(real, np.bool_), np.asarray(ordered, np.bool_)
        _check_reference(m, real, ordered)
        for name, value in (("panes_per_alarm", panes_per_alarm), ("believed_rows", believed_rows)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        self.features, self.cells = m.shape
        self.panes_per_alarm = float(panes_per_alarm)
        a = np.where(real, m + 0.5, 0.0)
        rows = a.sum(1)
        self._believed = np.minimum(rows, believed_rows)  # K
        self._prior = np.where(real, a * (self._believed / rows)[:, None], 1.0)  # K·p; cells that do not exist cancel
        self._prior_lgamma = lgamma(self._prior)
        self._real = real
        self._is_ordered = ordered
        self._ordered: slice | NDArray[np.intp] = slice(None) if ordered.all() else np.flatnonzero(ordered)
        self._position = np.cumsum(ordered) - 1  # of a feature among the ordered ones
        self._tests = np.where(ordered, _SHAPES + _COMMON, _COMMON)  # J
        self._scores = _normal_scores(np.where(real, self._prior, 0.0)[self._ordered, :-_SPECIALS])
        special, believed = self._prior[:, -_SPECIALS:], self._believed[:, None]
        self._special_lgamma = (
            lgamma(_RARE_ROWS)
            + lgamma(_USUAL_ROWS)
            - lgamma(_RARE_ROWS + _USUAL_ROWS)
            - self._prior_lgamma[:, -_SPECIALS:]
            - lgamma(believed - special)
            + lgamma(believed)
        )
        self._believed_lgamma = lgamma(self._believed)
        self.reset()

    def reset(self) -> None:
        """Forget all panes and their evidence, as after a new start."""
        self._pane = 0
        self._total = np.zeros((self.features, self.cells), np.uint32)
        # Only the ages that a window can still ask for: about 20 tables, where a ring of panes would be 257
        self._snapshots = {0: self._total.copy()}
        self._expiries: deque[tuple[int, int]] = deque([(0, WINDOWS[-1])])
        self._ratios = np.zeros((len(WINDOWS), self.features))
        self._alternatives = [
            _Alternatives(self.features, self._scores.shape[0], self.cells - _SPECIALS) for _ in range(_KEPT + 1)
        ]
        self._used = np.zeros((len(WINDOWS), self.features), np.bool_)

    def update(self, counts: Integers, design_effect: Floats | None = None) -> Floats:
        """End a pane that had these ``counts``; returns the e-value of every feature, shape (features,).

        Args:
            counts: integers, shape (features, cells); all zeros where nothing came. Features may differ in rows.
            design_effect: how many rows are worth one, shape (features,), at least 1; infinity where that is not known
                yet, and there the pane is no evidence. 1 unless given.

        Raises:
            TypeError: for counts that are not integers.
            ValueError: for another shape, negative counts, a design effect below 1.
        """
        counts = np.asarray(counts)
        self._check_counts(counts)
        worth = np.ones(self.features) if design_effect is None else np.asarray(design_effect, np.float64)
        if worth.shape != (self.features,) or not (worth >= 1.0).all():
            raise ValueError(f"design_effect must be at least 1 for each of {self.features} features, got {worth}")
        self._pane += 1
        # Unsigned and 32 bits wide, since only differences matter, and they are right where the total has wrapped
        self._total = self._total + counts.astype(np.uint32)
        windows = self._windows(worth)
        self._used = np.arange(len(WINDOWS))[:, None] < windows
        for index in range(int(windows.max(initial=0))):
            since = self._pane - WINDOWS[index]
            if since >= 0 and since % _step(WINDOWS[index]) == 0:
                x = (self._total - self._snapshots[since]) / worth[:, None]
                self._ratios[index] = self._evaluate(index, x, windows)
        self._keep_snapshot()
        return np.asarray(np.where(self._used, self._ratios, 0.0).sum(0) / (self._tests * windows))

    def flagged(self, e: Floats) -> NDArray[np.bool_]:
        """Which features alarm, given their e-values of one pane: e-BH at level 1/A, bool, shape (features,)."""
        return e_benjamini_hochberg(e, 1.0 / self.panes_per_alarm)

    def evidence_panes(self) -> NDArray[np.int64]:
        """How many panes back the window begins that carries most of a feature's evidence, shape (features,).

        Where a feature is flagged, that is about when it began to drift. 0 before the first pane.
        """
        ratios = np.where(self._used, self._ratios, 0.0)
        leading = ratios.argmax(0)
        widths = np.array(WINDOWS)[leading]
        steps = np.maximum(1, widths // 4)
        back = widths + (self._pane - widths) % steps
        return np.asarray(np.where(ratios.max(0, initial=0.0) > 0.0, back, 0), np.int64)

    def _check_counts(self, counts: NDArray[Any]) -> None:
        if not np.issubdtype(counts.dtype, np.integer):
            raise TypeError(f"counts must be integers, got {counts.dtype}")
        if counts.shape != (self.features, self.cells):
            raise ValueError(f"counts must have shape {(self.features, self.cells)}, got {counts.shape}")
        if counts.min(initial=0) < 0:
            raise ValueError(f"counts must not be negative, got {counts.min()}")

    def _windows(self, worth: Floats) -> NDArray[np.int64]:
        """W per feature: how many of the windows have at most 4K rows, judged by the mean rows of the panes kept.

        A window much larger than the believed reference adds nothing: it is the reference that is not known better.
        """
        oldest = self._expiries[0][0]
        rows = (self._total - self._snapshots[oldest]).sum(1, dtype=np.float64) / (worth * (self._pane - oldest))
        limit = np.maximum(4.0 * self._believed, rows)
        fits = np.array(WINDOWS)[:, None] * rows <= limit
        return np.asarray(fits.sum(0), np.int64)

    def _keep_snapshot(self) -> None:
        width = max(width for width in WINDOWS if self._pane % _step(width) == 0)
        self._snapshots[self._pane] = self._total
        self._expiries.append((self._pane, self._pane + width))
        gone = [taken for taken, expiry in self._expiries if expiry <= self._pane]
        for taken in gone:
            del self._snapshots[taken]
        if gone:
            self._expiries = deque(each for each in self._expiries if each[1] > self._pane)

    def _evaluate(self, index: int, x: Floats, windows: NDArray[np.int64]) -> Floats:
        """The sum of a window's likelihood ratios per feature, for its counts ``x``."""
        n = x.sum(1)
        alternatives = self._alternatives[min(index, _KEPT)]
        self._match(alternatives, n, windows)
        values = x[self._ordered, :-_SPECIALS]
        y, rest, believed = x[:, -_SPECIALS:], n[:, None], self._believed
        special = self._prior[:, -_SPECIALS:]
        # One call of lgamma for everything: most of the time goes there
        null, flat, moved, rare, others, others_null, totals = _lgammas(
            self._prior + x,
            self._prior * (alternatives.strength / believed)[:, None] + x,  # what is not a cell cancels here, too
            alternatives.shapes + values,
            y + _RARE_ROWS,
            rest - y + _USUAL_ROWS,
            rest - y + believed[:, None] - special,
            np.stack([alternatives.strength + n, believed + n, n + _RARE_ROWS + _USUAL_ROWS]),
        )
        null -= self._prior_lgamma
        common = (
            flat.sum(1) - null.sum(1) + totals[1] - totals[0] - self._believed_lgamma - alternatives.strength_lgamma
        )
        special_null = null[:, -_SPECIALS:] + self._prior_lgamma[:, -_SPECIALS:] + others_null
        either = rare + others - totals[2][:, None] - special_null + totals[1][:, None]
        either -= self._special_lgamma
        ratios = np.asarray(_exp(common) + _exp(either).sum(1), np.float64)
        shapes = moved.sum(2) - alternatives.shapes_lgamma - null[self._ordered, :-_SPECIALS].sum(1)
        ratios[self._ordered] += _exp(shapes).sum(0)
        return ratios

    def _match(self, alternatives: _Alternatives, n: Floats, windows: NDArray[np.int64]) -> None:
        """Make ``alternatives`` those of windows of ``n`` rows, to half an octave.

        They depend on the rows and not on where these fell, which keeps the expectation at 1. Some play at the border
        of two half-octaves spares traffic that hovers there from being worked out anew at every pane.
        """
        halves = 2.0 * np.log2(np.maximum(n, 1.0))
        stale = (np.abs(halves - alternatives.halves) > 0.75) | (windows != alternatives.windows)
        rows = np.flatnonzero((stale & (n > 0.0)) | (alternatives.windows == 0))
        if rows.size == 0:
            return
        alternatives.halves[rows] = np.rint(halves[rows])
        alternatives.windows[rows] = windows[rows]
        matched = 2.0 ** (alternatives.halves[rows] / 2.0)
        effective = matched * self._believed[rows] / (matched + self._believed[rows])
        strength = effective / 4.0
        alternatives.strength[rows] = strength
        flat = self._prior[rows] * (strength / self._believed[rows])[:, None]
        alternatives.strength_lgamma[rows] = lgamma(flat).sum(1) - lgamma(strength)
        among = self._is_ordered[rows]
        chosen = rows[among]
        level = np.log(self.panes_per_alarm * self.features * windows[chosen] * self._tests[chosen])
        shapes = self._shapes(chosen, np.sqrt(2.0 * np.maximum(level, 0.0) / effective[among]))
        alternatives.shapes[:, self._position[chosen]] = shapes
        alternatives.shapes_lgamma[:, self._position[chosen]] = lgamma(shapes).sum(2)

    def _shapes(self, chosen: NDArray[np.intp], distance: Floats) -> Floats:
        """K·q of the four alternatives that move or stretch a normal score, shape (4, features, value cells)."""
        prior, real = self._prior[chosen, :-_SPECIALS], self._real[chosen, :-_SPECIALS]
        total = np.where(real, prior, 0.0).sum(1)[:, None]
        zero, stretch = np.zeros_like(distance), np.minimum(1.0, distance / math.sqrt(2.0))
        shift = np.stack([distance, -distance, zero, zero])[:, :, None]
        scale = np.exp(np.stack([zero, zero, -stretch, stretch]))[:, :, None]
        below = normal_cdf((self._scores[self._position[chosen]] - shift) * scale)
        floor = _LEAST_SHARE * self._believed[chosen][:, None]
        q = np.where(real, np.maximum(np.diff(below, axis=2) * total, floor), 0.0)
        q *= total / np.maximum(q.sum(2, keepdims=True), _LEAST_SHARE)
        return np.where(real, q, 1.0)


class DesignEffect:
    """How many rows are worth one, per feature: 1 where rows are independent, about c where each comes c times.

    Estimated from how much more successive blocks of panes differ than independent rows would let them: statistics of
    two samples over their degrees of freedom, which is 1 on average for independent rows, however few. There are five:
    chi-square over all cells that are not empty in both; the mean normal score and its spread (numeric features), since
    rows that follow one another like AR(1) move these three to twenty times as far as the average over all cells says;
    the shares of missing and of nonfinite or other, which come in bursts. Blocks are of 1, 4 and 16 panes: rows that
    stay alike for longer than a pane make neighbouring panes agree (for runs of 500 equal rows and panes of 100 the
    three say 199, 347 and 472). An estimate counts where it is above what the shorter blocks said by more than noise.
    The largest of all is the feature's.

    Sums fade by 1/180 with each pair of blocks, so traffic's old habits are forgotten, at two numbers an estimate. What
    is used is the estimate of 16 to 32 panes ago: a step, when a feature begins to drift, is then not taken for a habit
    while the alarm should find it. Slow movement, as over a day, is in no block: that is drift.

    The arguments are those of :class:`Alarm`.
    """

    def __init__(self, m: NDArray[Any], real: NDArray[np.bool_], ordered: NDArray[np.bool_]) -> None:
        m, real, ordered = np.asarray(m, np.float64), np.asarray(real, np.bool_), np.asarray(ordered, np.bool_)
        _check_reference(m, real, ordered)
        self._shape = m.shape
        values = np.where(real, m + 0.5, 0.0)[:, :-_SPECIALS]
        self._scores = np.where(ordered[:, None], _shift_and_scale(values), 0.0)
        self._freedom_of_a_pair = np.ones((_STATISTICS, len(m)), np.float32)
        self._freedom_of_a_pair[0] = np.maximum((m > 0.0).sum(1) - 1, 1)
        self.reset()

    def reset(self) -> None:
        """Forget all panes, as after a new start."""
        features = self._shape[0]
        self._pane = 0
        self._panes = np.zeros(features, np.int32)  # with rows in them
        self._total = np.zeros(self._shape, np.uint32)
        self._starts = [self._total] * len(_BLOCKS)
        self._before = [self._total] * len(_BLOCKS)
        shape = (len(_BLOCKS), _STATISTICS, features)
        self._statistic, self._freedom = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._value = np.ones(features)
        self._coming = self._value

    @property
    def value(self) -> Floats:
        """The estimate in use, shape (features,), at least 1; 1 where nothing is known yet."""
        return np.array(self._value, np.float64)

    def update(self, counts: Integers) -> Floats:
        """Learn from a pane's ``counts`` (integers, shape (features, cells)); returns what :class:`Alarm` is to use.

        That is :attr:`value`, and infinity in a feature's first 7 panes with rows, when clustered rows cannot yet be
        told from drift (31 panes where all of them were alike).
        """
        self._pane += 1
        counts = np.asarray(counts)
        self._total = self._total + counts.astype(np.uint32)
        self._panes += counts.any(1)
        for index, length in enumerate(_BLOCKS):
            if self._pane % length == 0:
                block = self._total - self._starts[index]
                self._starts[index] = self._total
                self._add_pair(index, self._before[index].astype(np.float64), block.astype(np.float64))
                self._before[index] = np.where(block.max(axis=1, keepdims=True) > 0, block, self._before[index])
        if self._pane <= 2 * _LAG or self._pane % _LAG == 0:
            latest = self._by_statistic(len(_BLOCKS)).max(0)
            self._value = latest if self._pane <= 2 * _LAG else self._coming
            self._coming = latest
        varied = self._freedom[0, 0] > 0.0
        return np.where(self._panes >= np.where(varied, _PANES_TO_KNOW, _ALIKE_PANES_TO_KNOW), self._value, np.inf)

    def _add_pair(self, index: int, before: Floats, after: Floats) -> None:
        statistic, freedom = _two_sample_statistics(before, after, self._scores)
        # One pair moves the estimate by little, so that a large step does not hide itself
        bound = np.maximum(self._by_statistic(index + 1), 1.0) * freedom * _LARGEST
        settled = self._freedom[0, 0] >= _FREEDOM_TO_BOUND
        statistic = np.where(settled, np.minimum(statistic, bound), statistic)
        fade = np.where(freedom > 0.0, 1.0 - 1.0 / _PAIRS_REMEMBERED, 1.0)
        self._statistic[index] = self._statistic[index] * fade + statistic
        self._freedom[index] = self._freedom[index] * fade + freedom

    def _by_statistic(self, blocks: int) -> Floats:
        """The estimates from the first ``blocks`` lengths of blocks, shape (statistics, features)."""
        estimate = np.ones((_STATISTICS, self._shape[0]))
        for index in range(blocks):
            statistic, freedom = self._statistic[index], self._freedom[index]
            above = statistic > estimate * _chi_square_bound(freedom)
            # Longer blocks have few pairs at first: they begin at what the shorter say
            prior = 0.0 if index == 0 else _PRIOR_PAIRS * self._freedom_of_a_pair
            shrunk = (statistic + prior * estimate) / np.maximum(freedom + prior, 1e-9)
            estimate = np.where(above, np.maximum(estimate, shrunk), estimate)
        return estimate


def _two_sample_statistics(before: Floats, after: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """How far two blocks of counts are apart: five statistics and their degrees of freedom, shape (5, features) each.

    The expectation of a statistic is its degrees of freedom exactly, given the two blocks' counts together, when these
    rows fell to one of the blocks or the other at random.
    """
    both = before + after
    n_before, n_after = before.sum(1), after.sum(1)
    n = n_before + n_after
    usable = (n_before > 0.0) & (n_after > 0.0)
    ratio = np.sqrt(np.where(usable, n_after, 1.0) / np.where(usable, n_before, 1.0))[:, None]
    distances = (ratio * before - after / ratio) ** 2 / np.maximum(both, 1.0)
    statistic = np.zeros((_STATISTICS, len(n)))
    freedom = np.zeros((_STATISTICS, len(n)))
    statistic[0] = np.where(usable, distances.sum(1), 0.0)
    freedom[0] = np.where(usable, ((both > 0.0).sum(1) - 1) * n / np.maximum(n - 1.0, 1.0), 0.0)

    def add(which: slice, sizes: list[Floats], sums: list[Floats], squares: Floats) -> None:
        one, other = (np.maximum(size, 1.0) for size in sizes)
        size = sizes[0] + sizes[1]
        mean = (sums[0] + sums[1]) / np.maximum(size, 1.0)
        variance = (squares / np.maximum(size, 1.0) - mean**2) * size / np.maximum(size - 1.0, 1.0)
        varies = (sizes[0] > 0.0) & (sizes[1] > 0.0) & (variance > _LEAST_VARIANCE)
        distance = (sums[0] / one - sums[1] / other) ** 2 / (1.0 / one + 1.0 / other)
        statistic[which] = np.where(varies, distance / np.where(varies, variance, 1.0), 0.0)
        freedom[which] = varies

    values = [block[:, :-_SPECIALS] for block in (before, after)]
    add(
        slice(1, 3),
        [block.sum(1) for block in values],
        [np.einsum("sfc,fc->sf", scores, block) for block in values],
        np.einsum("sfc,sfc,fc->sf", scores, scores, both[:, :-_SPECIALS]),
    )
    specials = [block[:, -_SPECIALS:].T for block in (before, after)]
    add(slice(3, 5), [n_before, n_after], specials, specials[0] + specials[1])
    return statistic, freedom


def _shift_and_scale(values: Floats) -> Floats:
    """How the logarithm of a cell's share begins to change with a shift, and with a scale: (2, features, cells)."""
    borders = _normal_scores(values)
    density = np.exp(-0.5 * borders**2) / math.sqrt(2.0 * math.pi)
    weighted = np.where(np.isfinite(borders), borders, 0.0) * density
    share = values / np.maximum(values.sum(1, keepdims=True), _LEAST_SHARE)
    share = np.where(share > 0.0, share, np.inf)
    return -np.diff(np.stack([density, weighted]), axis=2) / share


def _chi_square_bound(freedom: Floats) -> Floats:
    """About the 97.7% quantile of chi-square (Wilson and Hilferty, 1931)."""
    freedom = np.maximum(freedom, 1e-6)
    spread = 2.0 / (9.0 * freedom)
    return np.asarray(freedom * np.maximum(1.0 - spread + _NOISE * np.sqrt(spread), 0.0) ** 3, np.float64)


class _Alternatives:
    """What a window's counts are compared with, kept while its rows stay within a half-octave."""

    def __init__(self, features: int, ordered: int, values: int) -> None:
        self.halves = np.zeros(features)  # half-octaves of rows
        self.windows = np.zeros(features, np.int64)  # W; 0 before the first match
        self.strength = np.ones(features)  # of "any shape", n_e / 4
        self.strength_lgamma = np.zeros(features)
        self.shapes = np.ones((_SHAPES, ordered, values))  # K·q of up, down, wider, narrower
        self.shapes_lgamma = np.zeros((_SHAPES, ordered))


def e_benjamini_hochberg(e: Floats, level: float) -> NDArray[np.bool_]:
    """Which hypotheses to reject, given their e-values (last axis), at a false-discovery rate of ``level``.

    The k largest are, for the largest k whose k-th is at least F/(k·level); under any dependence (Wang, Ramdas 2022).
    """
    e = np.asarray(e, np.float64)
    features = e.shape[-1]
    largest = -np.sort(-e, axis=-1)
    holds = largest * np.arange(1, features + 1) >= features / level
    k = np.where(holds, np.arange(1, features + 1), 0).max(-1, initial=0)
    least = np.where(k > 0, np.take_along_axis(largest, np.maximum(k - 1, 0)[..., None], -1)[..., 0], np.inf)
    return np.asarray(e >= least[..., None], np.bool_)


def _step(width: int) -> int:
    return max(1, width // 4)


def _exp(logarithm: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(logarithm, _LARGEST_EXPONENT)), np.float64)


def _lgammas(*arrays: Floats) -> list[Floats]:
    """The logarithm of Γ of each array, in one call."""
    results = lgamma(np.concatenate([array.ravel() for array in arrays]))
    ends = np.cumsum([array.size for array in arrays])
    return [
        results[end - array.size : end].reshape(array.shape) for array, end in zip(arrays, ends.tolist(), strict=True)
    ]


def _normal_scores(prior: Floats) -> Floats:
    """Φ⁻¹ of the reference's cumulative shares at the borders of the value cells, -inf and inf at the ends."""
    shares = np.cumsum(prior, axis=1)
    shares /= np.maximum(shares[:, -1:], _LEAST_SHARE)
    shares[shares > 1.0 - _LEAST_SHARE] = 1.0
    return normal_quantile(np.concatenate([np.zeros((len(shares), 1)), shares], axis=1))


def _check_reference(m: Floats, real: NDArray[np.bool_], ordered: NDArray[np.bool_]) -> None:
    if m.ndim != 2 or m.shape[1] <= _SPECIALS:
        raise ValueError(f"m must have shape (features, cells) with more than {_SPECIALS} cells, got {m.shape}")
    if real.shape != m.shape or ordered.shape != m.shape[:1]:
        raise ValueError(
            f"real must have shape {m.shape} and ordered {m.shape[:1]}, got {real.shape} and {ordered.shape}"
        )
    if not (np.isfinite(m).all() and (m >= 0).all()):
        raise ValueError(f"m must be finite counts of at least 0, got {m[~(np.isfinite(m) & (m >= 0))][0]}")
    if not real[:, -_SPECIALS:].all():
        raise ValueError("real must be true for the last two cells, missing and nonfinite/other")
