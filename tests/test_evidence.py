"""Verdicts: what is pooled, what is tested, what is said of extremes, and what a reference is too small to tell."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otel_mlobs.core.distance import psi, smoothed
from otel_mlobs.core.evidence import Verdicts, detectable, verdicts

_DECILES = [1_000.0] * 10


def _verdict(c: list[float], m: list[float], *, ordered: bool = True, **settings: float) -> Verdicts:
    """The verdict on one feature; cells are those of ``m``, the last two missing and nonfinite or other."""
    counts, reference = np.array([c], float), np.array([m], float)
    return verdicts(counts, reference, np.ones(counts.shape, bool), np.array([ordered]), **settings)


def _shifted(rows: float, by: float) -> list[float]:
    """Expected counts of ``rows`` normal values, shifted, in the deciles of the standard normal."""
    normal = NormalDist()
    edges = [normal.inv_cdf(share / 10) for share in range(1, 10)]
    below = [0.0, *(normal.cdf(edge - by) for edge in edges), 1.0]
    return [rows * (one - other) for one, other in zip(below[1:], below, strict=False)]


def test_p_value_and_adjusted_psi_are_the_formulas():
    """Ten deciles, nothing rare: p is the chi-square tail of PSI/s over 0.9, the bias taken off is 9 s."""
    stats = pytest.importorskip("scipy.stats")
    live = np.array([310.0, 290, 305, 295, 330, 270, 300, 340, 260, 300])
    found = _verdict([*live, 0, 0], [*_DECILES, 0, 0])
    distance = psi(*smoothed(live, _DECILES))
    s = 1 / 3_000 + 1 / 10_000
    assert found.cells.tolist() == [10]
    assert found.psi[0] == pytest.approx(distance, rel=1e-12)
    assert found.psi_adjusted[0] == pytest.approx(max(0.0, distance - 9 * s), rel=1e-12)
    assert found.p_value[0] == pytest.approx(stats.chi2.sf(distance / s, 9) / 0.9, rel=1e-9)


@pytest.mark.parametrize(("rows", "limit"), [(300, 0.24), (3_000, 0.14), (30_000, 0.113), (3_000_000, 0.1022)])
def test_drifted_is_a_psi_beyond_the_noncentral_quantile(rows: int, limit: float):
    """A shift is called drift from the PSI on at which SciPy's noncentral chi-square has its 1 - 0.9α quantile.

    With a reference of 10 million rows. The limits in the parameters are that quantile times s, rounded up, and the
    quantile is reached at most 15% of its distance from 0.1 early or late, the delta method's part.
    """
    stats = pytest.importorskip("scipy.stats")
    s = 1 / rows + 1e-7
    quantile = s * stats.ncx2.ppf(1 - 0.045, 9, 0.1 / s)
    assert quantile <= limit
    least = math.inf
    for shift in np.arange(0.25, 0.7, 0.001):
        found = _verdict([*_shifted(rows, shift), 0, 0], [1e6] * 10 + [0, 0])
        if found.drifted[0]:
            least = found.psi[0]
            break
    assert least == pytest.approx(quantile, abs=0.15 * (quantile - 0.1) + 0.002)


@pytest.mark.parametrize(
    ("m", "n", "ordered", "cells"),
    [
        ([100] * 10 + [0, 0], 1_000, True, 10),
        ([100] * 10 + [0, 0], 79, True, 5),  # neighbours in pairs, 8 rows of 79 being more than a tenth
        ([100] * 10 + [0, 0], 10, True, 1),
        ([500, 300, 150, 30, 10, 6, 4, 0, 0], 100, False, 3),  # the rare ones together expect 5 of 100
        ([500, 300, 100, 40, 30, 20, 10, 0, 0], 100, False, 4),  # the rare ones together expect 10 of 100
        ([50] * 20 + [0, 0], 100, False, 10),  # together they would be all there is: pairs
        ([900, 0, 0, 50, 50], 1_000, True, 3),  # specials that are frequent enough stand alone
        ([900, 0, 0, 60, 40], 100, True, 2),  # and else are pooled with each other
        ([0, 1_000, 0, 0, 0], 1_000, True, 1),
    ],
)
def test_cells_are_pooled_by_the_reference_until_each_expects_8(m: list[float], n: int, ordered: bool, cells: int):
    """How many cells are left to PSI, by what the reference has and how many live rows there are."""
    reference = np.array(m, float)
    live = reference * n / reference.sum()
    assert _verdict(live.tolist(), m, ordered=ordered).cells.tolist() == [cells]


@pytest.mark.parametrize("ordered", [True, False])
def test_pooling_does_not_look_at_where_the_live_rows_are(ordered: bool):
    """The number of pooled cells is the same for every distribution of the same number of live rows."""
    rng = np.random.default_rng(0)
    m = np.tile([400.0, 300, 150, 80, 40, 20, 8, 2, 0, 0], (50, 1))
    c = rng.multinomial(200, rng.dirichlet(np.ones(10), 50)).astype(float)
    found = verdicts(c, m, np.ones(m.shape, bool), np.full(50, ordered))
    assert len(set(found.cells.tolist())) == 1


@pytest.mark.parametrize(
    ("c", "m"),
    [
        ([0, 0, 50, 0, 0], [0, 1_000, 0, 0, 0]),  # a constant has become another value
        ([50, 0, 0, 0, 0], [0, 0, 0, 1_000, 0]),  # a column that was always missing is not
        ([0, 900, 0, 100, 0], [0, 1_000, 0, 0, 0]),  # missing values where there were none
        ([0, 900, 0, 0, 100], [0, 1_000, 0, 0, 0]),  # infinities where there were none
        ([900, 100, 0, 0], [9_990, 10, 0, 0]),  # 0 in 999 of 1,000 rows, now in 9 of 10
        ([500, 0, 500, 0, 0], [500, 0, 0, 500, 0]),  # a cell that the reference never saw
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_never_or_hardly_seen_is_drift_when_it_is_frequent(c: list[float], m: list[float], ordered: bool):
    """New mass where the reference has nearly none is drift, with a small p-value and a PSI above the tolerance."""
    found = _verdict(c, m, ordered=ordered)
    assert found.drifted.tolist() == [True]
    assert found.p_value[0] < 1e-6
    assert found.psi_adjusted[0] > 0.1


def test_a_few_rows_of_something_new_are_certain_but_not_material():
    """10 missing in 10,000 where the reference has none: p says that it is no chance, the verdict that it is little."""
    found = _verdict([*[999.0] * 10, 10, 0], [*_DECILES, 0, 0])
    assert found.p_value[0] < 0.01
    assert found.drifted.tolist() == [False]
    assert _verdict([*[999.0] * 10, 10, 0], [*_DECILES, 0, 0], tolerance=0.0).drifted.tolist() == [True]


@pytest.mark.parametrize(
    ("c", "m"),
    [
        ([0] * 5, [100, 100, 100, 0, 0]),
        ([1, 2, 3, 0, 0], [0] * 5),
        ([0] * 5, [0] * 5),
        ([2, 1, 1, 0, 0], [100, 100, 100, 0, 0]),
    ],
)
def test_what_cannot_be_tested_is_nan_and_not_drift(c: list[float], m: list[float]):
    """No live rows, no reference, neither, or less than a cell's worth of rows: no p-value, no verdict, no warning."""
    found = _verdict(c, m)
    assert np.isnan(found.p_value).all()
    assert not found.drifted.any()
    assert found.cells.tolist() == [0]


def test_counts_divided_by_a_design_effect_weaken_the_evidence():
    """The same shares with a third of the rows: the same PSI but for smoothing, a greater p-value."""
    c = np.array([*_shifted(1_000, 0.1), 1, 0])
    m = [*_DECILES, 5, 0]
    whole, third = _verdict(c.tolist(), m), _verdict((c / 3).tolist(), m)
    assert third.psi[0] == pytest.approx(whole.psi[0], rel=0.05)
    assert third.p_value[0] > whole.p_value[0]


def test_padding_and_the_order_of_features_change_nothing():
    """A feature's verdict is the same alone, among others, and with cells that do not exist."""
    rng = np.random.default_rng(1)
    m = rng.multinomial(5_000, [0.3, 0.3, 0.2, 0.1, 0.06, 0.03, 0.01, 0.0], 12).astype(float)
    c = rng.multinomial(700, [0.2, 0.3, 0.3, 0.1, 0.06, 0.02, 0.015, 0.005], 12).astype(float)
    ordered = np.arange(12) % 2 == 0
    real = np.ones(m.shape, bool)
    together = verdicts(c, m, real, ordered)
    padding = np.zeros((12, 4))
    wide = [np.hstack([table[:, :-2], padding, table[:, -2:]]) for table in (c, m, real)]
    padded = verdicts(wide[0], wide[1], wide[2].astype(bool), ordered)
    reversed_ = verdicts(c[::-1], m[::-1], real, ordered[::-1])
    for name in ("psi", "psi_adjusted", "p_value", "drifted", "cells"):
        np.testing.assert_allclose(getattr(padded, name), getattr(together, name), rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(getattr(reversed_, name)[::-1], getattr(together, name), rtol=1e-9, err_msg=name)


_TABLES = arrays(np.int64, st.tuples(st.just(2), st.integers(1, 4), st.integers(3, 14)), elements=st.integers(0, 10**7))


@given(
    _TABLES, st.booleans(), st.floats(1.0, 500.0), st.sampled_from([0.0, 0.1, 3.0]), st.sampled_from([0.001, 0.05, 0.9])
)
def test_any_counts_give_a_verdict(counts, ordered, design_effect, tolerance, significance):
    """Whatever was counted: nothing warns, PSI is finite, p is a probability or NaN, and drift has a PSI beyond 0."""
    live, reference = counts / np.array([design_effect, 1.0])[:, None, None]
    found = verdicts(
        live,
        reference,
        np.ones(live.shape, bool),
        np.full(len(live), ordered),
        tolerance=tolerance,
        significance=significance,
    )
    assert np.isfinite(found.psi).all()
    assert (found.psi_adjusted >= 0).all()
    assert ((found.p_value >= 0) & (found.p_value <= 1) | np.isnan(found.p_value)).all()
    assert not (found.drifted & np.isnan(found.p_value)).any()
    assert (found.psi[found.drifted] > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": -0.1}, "tolerance must be a PSI of 0 or more, got -0.1"),
        ({"tolerance": math.nan}, "tolerance must be a PSI of 0 or more, got nan"),
        ({"significance": 0.0}, "significance must be between 0 and 1, got 0.0"),
        ({"significance": 5.0}, "significance must be between 0 and 1, got 5.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str):
    """A wrong tolerance or significance raises, naming the value."""
    with pytest.raises(ValueError, match=message):
        _verdict([1, 2, 3, 0, 0], [1, 2, 3, 0, 0], **settings)


def test_tables_of_different_shapes_are_refused():
    """Shapes that do not fit each other raise, and the message has all four."""
    with pytest.raises(ValueError, match=r"\(1, 5\), \(1, 4\), \(1, 4\) and \(1,\)"):
        verdicts(np.ones((1, 5)), np.ones((1, 4)), np.ones((1, 4), bool), np.ones(1, bool))


def test_detectable_is_what_the_design_page_says():
    """1,000 rows: 0.16 deviations and 1.3% new values; 10,000 rows: 0.05; more rows than are believed add nothing."""
    small, usual, large = (detectable(rows) for rows in (1_000, 10_000, 1_000_000))
    assert (round(small.shift, 2), round(small.new_share, 3)) == (0.16, 0.013)
    assert round(usual.shift, 2) == 0.05
    assert large == usual
    assert detectable(1_000, features=20).shift > small.shift
    assert detectable(3).new_share == 1.0


def test_half_of_all_references_tell_the_detectable_shift():
    """With live rows without end, 1,000 reference rows, in deciles, have the likelihood ratio needed half of the time.

    Simulated: live shares known exactly, moved by the shift; the score of the ten cells that a shift moves, over its
    standard deviation in a reference, is beyond √(2L) in 43% to 55% of 4,000 references.
    """
    shift = detectable(1_000).shift
    needed = shift * math.sqrt(1_000)
    shares, live = (np.array(_shifted(1.0, by)) for by in (0.0, shift))
    direction = (live - shares) / shares / np.sqrt(np.square(live - shares) @ (1 / shares))
    references = np.random.default_rng(2).multinomial(1_000, shares, 4_000) / 1_000
    told = np.mean((live - references) @ direction * math.sqrt(1_000) > needed)
    assert 0.43 < told < 0.55


def test_a_new_value_of_the_detectable_share_is_absent_as_rarely_as_promised():
    """At a promise of a false alarm in e²/63 panes, a value of that share is absent from e⁻² of the references."""
    promise = math.exp(2.0) / 63
    share = detectable(1_000, panes_per_alarm=promise).new_share
    absent = np.mean(np.random.default_rng(3).binomial(1_000, share, 20_000) == 0)
    assert absent == pytest.approx(math.exp(-2.0), abs=0.01)


@pytest.mark.parametrize(
    ("name", "value"), [("rows", 0), ("features", -1), ("panes_per_alarm", 0.0), ("believed_rows", math.nan)]
)
def test_detectable_refuses_what_is_not_positive(name: str, value: float):
    """Each argument has to be positive; the message names it and the value."""
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        detectable(**{"rows": 1_000, name: value})
