"""The always-on alarm against a plain, slow computation of the same definition, and the estimate of a row's worth."""

from __future__ import annotations

import math
import tracemalloc
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_mlobs.core.alarm import WINDOWS, Alarm, DesignEffect, _two_sample_statistics, e_benjamini_hochberg

NORMAL = NormalDist()
TENTHS = np.r_[np.full(10, 0.1), 0.0, 0.0]
PROTOTYPE = [7.11307427070986, 241615746.2468767]


def dirichlet_multinomial(x, a):
    """The log-likelihood of counts ``x``, without the multinomial coefficient."""
    n, total = sum(x), sum(a)
    each = sum(math.lgamma(one + other) - math.lgamma(other) for one, other in zip(x, a, strict=True))
    return each + math.lgamma(total) - math.lgamma(total + n)


def log_beta(a, b):
    """The logarithm of the beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def alternatives(p, believed, n, ordered, level):
    """The Dirichlet parameters of all alternatives but the two of the special cells."""
    matched = 2.0 ** (round(2.0 * math.log2(max(n, 1.0))) / 2.0)
    effective = matched * believed / (matched + believed)
    parameters = [[effective / 4.0 * share for share in p]]
    if ordered:
        values, specials = p[:-2], p[-2:]
        total = sum(values)
        borders = [-math.inf, *(NORMAL.inv_cdf(sum(values[:k]) / total) for k in range(1, len(values))), math.inf]
        d = math.sqrt(2.0 * level / effective)
        stretch = min(1.0, d / math.sqrt(2.0))
        for shift, scale in ((d, 1.0), (-d, 1.0), (0.0, math.exp(-stretch)), (0.0, math.exp(stretch))):
            below = [0.5 * math.erfc((shift - z) * scale / math.sqrt(2.0)) for z in borders]
            q = [max((high - low) * total, 1e-12) for low, high in pairwise(below)]
            q = [share * total / sum(q) for share in q]
            parameters.append([believed * share for share in (*q, *specials)])
    return parameters


def slow_e_value(m, panes, ordered, features, panes_per_alarm, believed_rows=10_000.0):
    """The e-value of one feature after the last of ``panes``, as its definition reads; n per pane must be constant."""
    a = [count + 0.5 for count in m]
    believed = min(sum(a), believed_rows)
    p = [share / sum(a) for share in a]
    null = [believed * share for share in p]
    rows = sum(map(sum, panes)) / len(panes)
    windows = [w for w in WINDOWS if w * rows <= max(4.0 * believed, rows)]
    tests = 7 if ordered else 3
    level = math.log(panes_per_alarm * features * len(windows) * tests)
    total = 0.0
    for w in windows:
        end = len(panes) - (len(panes) - w) % max(1, w // 4)
        if len(panes) < w:
            continue
        x = [sum(column) for column in zip(*panes[end - w : end], strict=True)]
        n, below = sum(x), dirichlet_multinomial(x, null)
        for parameters in alternatives(p, believed, n, ordered, level):
            total += math.exp(dirichlet_multinomial(x, parameters) - below)
        for y, b in zip(x[-2:], null[-2:], strict=True):
            moved = log_beta(y + 0.5, n - y + 10.0) - log_beta(0.5, 10.0)
            total += math.exp(moved - log_beta(y + b, n - y + believed - b) + log_beta(b, believed - b))
    return total / (tests * len(windows))


def panes_of(rng, shares, panes, rows=100):
    """Panes of independent rows."""
    return rng.multinomial(rows, shares, size=(panes, len(shares)))


def calm_alarm(features=1, rows=10_000, **settings):
    """An alarm with a reference of ten equal cells."""
    m = np.tile(np.round(TENTHS * rows), (features, 1))
    return Alarm(m, np.ones(m.shape, bool), np.ones(features, bool), **settings)


def calm_effect(features=1):
    """The design effect of the same features."""
    m = np.tile(TENTHS * 10_000, (features, 1))
    return DesignEffect(m, np.ones(m.shape, bool), np.ones(features, bool))


@pytest.mark.parametrize(("rows", "panes"), [(1_000, 45), (10_000, 320)])
def test_e_values_are_those_of_the_definition(rows, panes):
    """Numeric and categorical features, together in one table, have the e-values of a loop over the definition."""
    rng = np.random.default_rng(rows)
    shares = np.array(
        [
            [0.1, 0.2, 0.15, 0.25, 0.28, 0.01, 0.01],
            [0.5, 0.3, 0.1, 0.0, 0.0, 0.06, 0.04],
            [0.02, 0.9, 0.05, 0.03, 0.0, 0.0, 0.0],
            [0.4, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    live = shares + np.array([[0.02, -0.02, 0, 0, 0, 0, 0], [0] * 7, [0, -0.01, 0, 0.01, 0, 0, 0], [0] * 7])
    real = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1, 1]], bool)
    ordered = np.array([True, False, True, False])
    m = rng.multinomial(rows, shares)
    alarm = Alarm(m, real, ordered, panes_per_alarm=5_000.0)
    counts = panes_of(rng, live, panes)
    for pane in counts:
        e = alarm.update(pane)
    for feature in range(4):
        cells = real[feature]
        expected = slow_e_value(
            m[feature, cells].tolist(), counts[:, feature, cells].tolist(), ordered[feature], 4, 5_000.0
        )
        assert e[feature] == pytest.approx(expected, rel=1e-9)


def test_e_values_are_those_of_the_prototype():
    """The numbers of the design's prototype on counts made by a formula, both features with five value cells."""
    m = np.array([[1_600, 1_700, 1_500, 1_650, 1_560, 96, 0], [1_800, 2_300, 2_100, 1_900, 1_850, 40, 10]])
    alarm = Alarm(m, np.ones(m.shape, bool), np.ones(2, bool), panes_per_alarm=10_000.0)
    for pane in range(1, 41):
        drift = 3 if pane > 30 else 0
        k = pane % 4
        row = [20 + k - drift, 20 - k - drift, 19 + k, 20 - k + drift, 20 + drift, 1, 0]
        e = alarm.update(np.array([row, row]))
    assert e == pytest.approx(PROTOTYPE, rel=1e-6)


def test_the_expectation_is_one_without_drift():
    """Over references drawn with the live shares, the first pane's ratios have a mean of 1."""
    rng = np.random.default_rng(5)
    features, rows = 20_000, 200
    believed = rows + 0.5 * 7
    m = np.tile([30, 60, 40, 50, 10, 8, 2], (features, 1))
    shares = rng.dirichlet((m[0] + 0.5) / (m[0] + 0.5).sum() * believed, size=features)
    # So low a level keeps the alternatives near, and the ratios' tails light enough for a mean
    alarm = Alarm(m, np.ones(m.shape, bool), np.ones(features, bool), panes_per_alarm=5.0 / features)
    e = alarm.update(rng.multinomial(100, shares))
    windows = 4  # of 1, 2, 4 and 8 panes; those of 1,600 rows are above 4 · 203.5
    assert e.mean() * windows == pytest.approx(1.0, abs=4.0 * windows * e.std() / math.sqrt(features))


@pytest.mark.parametrize("length", [1, 7, 100, 1_000])
def test_flagged_is_e_benjamini_hochberg(length):
    """The k largest are flagged, for the largest k that has its k-th above F/(k · level)."""
    rng = np.random.default_rng(length)
    for _ in range(20):
        e = np.exp(rng.normal(4.0, 4.0, size=length))
        largest = sorted(e, reverse=True)
        k = max((k for k in range(1, length + 1) if largest[k - 1] >= length * 1_000.0 / k), default=0)
        flagged = e_benjamini_hochberg(e, 1e-3)
        assert flagged.sum() == k
        assert set(e[flagged]) == set(largest[:k])


def test_groups_are_judged_apart():
    """With more axes than one, every row has its own step-up."""
    e = np.array([[3_000.0, 1.0], [1.0, 1_500.0]])
    assert e_benjamini_hochberg(e, 1e-3).tolist() == [[True, False], [False, False]]


def test_a_drifted_feature_is_flagged_alone_and_dated():
    """Of 20 features the one that moves is flagged, and its evidence begins about where it moved."""
    rng = np.random.default_rng(2)
    alarm = calm_alarm(20)
    shares = np.tile(TENTHS, (20, 1))
    for _ in range(100):
        assert not alarm.flagged(alarm.update(rng.multinomial(100, shares))).any()
    shares[7, :10] = np.linspace(0.05, 0.15, 10)
    for _ in range(30):
        flagged = alarm.flagged(alarm.update(rng.multinomial(100, shares)))
        assert set(np.flatnonzero(flagged)) <= {7}
    assert flagged[7]
    assert 15 <= alarm.evidence_panes()[7] <= 45


def test_the_evidence_of_a_window_is_dated_from_when_it_was_evaluated():
    """A window of 64 panes, last evaluated 5 panes ago, begins 69 panes back."""
    alarm = calm_alarm(1, panes_per_alarm=1e6)
    tilted = np.array([[8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 0, 0]])
    for _ in range(64 + 5):
        alarm.update(tilted)
    ratios = alarm._ratios[:, 0]
    assert WINDOWS[int(ratios.argmax())] == 64
    assert alarm.evidence_panes().tolist() == [64 + 5]
    assert calm_alarm(3).evidence_panes().tolist() == [0, 0, 0]


def test_padding_and_company_change_nothing():
    """A categorical feature has the same e-value alone, padded, and beside numeric features."""
    rng = np.random.default_rng(3)
    m = np.array([[500, 300, 180, 15, 5]])
    counts = rng.multinomial(100, m[0] / m[0].sum(), size=40)
    alone = Alarm(m, np.ones((1, 5), bool), np.zeros(1, bool))
    wide = np.zeros((2, 12))
    wide[0, [0, 1, 2, 10, 11]] = m[0]
    wide[1, :10] = 100
    together = Alarm(wide, np.array([wide[0] > 0, [True] * 12]), np.array([False, True]))
    for pane in counts:
        table = np.zeros((2, 12), np.int64)
        table[0, [0, 1, 2, 10, 11]] = pane
        table[1] = rng.multinomial(100, TENTHS)
        one, both = alone.update(pane[None]), together.update(table)
        assert both[0] == pytest.approx(one[0], rel=1e-12)


def test_a_constant_feature_that_moves_is_flagged():
    """Cells below and above a constant have no reference rows, and yet take the values that leave it."""
    m = np.array([[0, 10_000, 0, 0, 0]])
    alarm = Alarm(m, np.ones((1, 5), bool), np.ones(1, bool))
    for _ in range(20):
        e = alarm.update(np.array([[0, 100, 0, 0, 0]]))
        assert e[0] < 1.0
    assert alarm.flagged(alarm.update(np.array([[0, 90, 10, 0, 0]]))).all()


def test_a_feature_of_missing_values_only_is_harmless_until_values_come():
    """A numeric feature that never had a value has e-values of at most 1, and is flagged at its first values."""
    m = np.array([[0, 5_000, 0]])
    alarm = Alarm(m, np.ones((1, 3), bool), np.ones(1, bool))
    for _ in range(20):
        assert alarm.update(np.array([[0, 100, 0]]))[0] <= 1.0
    assert alarm.flagged(alarm.update(np.array([[50, 50, 0]]))).all()


def test_empty_panes_are_harmless():
    """Nothing counted is no evidence, at the start and later, also where only some features have rows."""
    alarm = calm_alarm(2)
    nothing = np.zeros((2, 12), np.int64)
    for _ in range(20):
        assert (alarm.update(nothing) <= 1.0).all()
    half = nothing.copy()
    half[0, :10] = 10
    for pane in range(600):
        e = alarm.update(half if pane % 3 else nothing)
        assert np.isfinite(e).all()
        assert not alarm.flagged(e).any()
    assert e[1] == pytest.approx(1.0)


def test_features_have_rows_of_their_own():
    """A feature counted once a request, beside one counted once a row, has the e-value that it has alone."""
    rng = np.random.default_rng(8)
    m = np.array([[500, 300, 180, 15, 5]] * 2)
    together, alone = (Alarm(m[:k], np.ones((k, 5), bool), np.zeros(k, bool)) for k in (2, 1))
    for _ in range(70):
        few, many = rng.multinomial(4, m[0] / 1_000), rng.multinomial(900, m[0] / 1_000)
        assert together.update(np.array([few, many]))[0] == pytest.approx(alone.update(few[None])[0], rel=1e-12)


def test_a_design_effect_divides_counts():
    """Every row twice, at a design effect of 2, is every row once; an unknown effect makes a pane no evidence."""
    rng = np.random.default_rng(4)
    once, twice, unknown = calm_alarm(3), calm_alarm(3), calm_alarm(3)
    for _ in range(100):
        counts = rng.multinomial(100, TENTHS, size=3)
        e = once.update(counts)
        assert twice.update(2 * counts, np.full(3, 2.0)) == pytest.approx(e, rel=1e-12)
        assert (unknown.update(counts, np.full(3, np.inf)) <= 1.0 + 1e-9).all()


def test_old_panes_are_forgotten_and_totals_may_wrap():
    """After the longest window and its snapshots, e-values are those of an alarm that never saw what came before."""
    rng = np.random.default_rng(6)
    old, new = calm_alarm(), calm_alarm()
    for _ in range(64):
        old.update(np.full((1, 12), 250_000_000))
    for _ in range(640):
        counts = rng.multinomial(100, TENTHS, size=1)
        one, other = old.update(counts), new.update(counts)
    assert old._total.sum(dtype=np.int64) < 64 * 12 * 250_000_000
    assert one == pytest.approx(other, rel=1e-9)


def test_reset_forgets():
    """After a reset the e-values are those of a new alarm."""
    rng = np.random.default_rng(7)
    used, new = calm_alarm(2), calm_alarm(2)
    for _ in range(50):
        used.update(rng.multinomial(130, TENTHS[::-1], size=2))
    used.reset()
    for _ in range(50):
        counts = rng.multinomial(100, TENTHS, size=2)
        assert used.update(counts) == pytest.approx(new.update(counts), rel=1e-12)


def test_memory_is_bounded():
    """An alarm on 100 features of 12 cells, with its design effect, holds at most 450 kB after 330 panes."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(100, TENTHS, size=(330, 100))
    calm_alarm(100).update(counts[0])
    tracemalloc.start()
    try:
        alarm, effect = calm_alarm(100), calm_effect(100)
        for pane in counts:
            alarm.update(pane, effect.update(pane))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= 450_000
    assert len(alarm._snapshots) <= 20


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"m": np.ones(5)}, ValueError, "shape"),
        ({"m": np.ones((1, 2)), "real": np.ones((1, 2), bool)}, ValueError, "more than 2 cells"),
        ({"m": np.array([[1.0, -2.0, 0.0, 0.0]])}, ValueError, "-2.0"),
        ({"m": np.array([[1.0, np.nan, 0.0, 0.0]])}, ValueError, "nan"),
        ({"real": np.ones((1, 3), bool)}, ValueError, r"\(1, 3\)"),
        ({"real": np.array([[True, True, False, True]])}, ValueError, "last two cells"),
        ({"ordered": np.ones(2, bool)}, ValueError, r"\(2,\)"),
        ({"panes_per_alarm": 0.0}, ValueError, "panes_per_alarm .* 0.0"),
        ({"believed_rows": math.inf}, ValueError, "believed_rows .* inf"),
    ],
)
def test_a_wrong_reference_is_refused(changed, error, message):
    """Shapes that do not fit, negative counts and settings that are not positive are named."""
    arguments = {"m": np.ones((1, 4)), "real": np.ones((1, 4), bool), "ordered": np.ones(1, bool)} | changed
    with pytest.raises(error, match=message):
        Alarm(**arguments)


@pytest.mark.parametrize(
    ("counts", "effect", "error", "message"),
    [
        (np.ones((1, 12)), None, TypeError, "float64"),
        (np.ones((2, 12), int), None, ValueError, r"\(2, 12\)"),
        (np.full((1, 12), -1), None, ValueError, "-1"),
        (np.ones((1, 12), int), np.array([0.5]), ValueError, "0.5"),
        (np.ones((1, 12), int), np.array([np.nan]), ValueError, "nan"),
        (np.ones((1, 12), int), np.ones(2), ValueError, "1 features"),
    ],
)
def test_wrong_counts_are_refused(counts, effect, error, message):
    """Counts that are no counts, and rows worth more than one, are named, and the pane is not ended."""
    alarm = calm_alarm()
    with pytest.raises(error, match=message):
        alarm.update(counts, effect)
    assert alarm._pane == 0


# -- the design effect


def test_the_first_statistic_is_the_chi_square_of_a_table():
    """For blocks of unequal size it is Pearson's statistic of the 2 × k table."""
    before, after = np.array([[30.0, 50.0, 0.0, 12.0, 8.0]]), np.array([[15.0, 20.0, 0.0, 9.0, 0.0]])
    statistic, freedom = _two_sample_statistics(before, after, np.zeros((2, 1, 3)))
    table = np.concatenate([before, after])[:, [0, 1, 3, 4]]
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert statistic[0, 0] == pytest.approx(((table - expected) ** 2 / expected).sum(), rel=1e-12)
    assert freedom[0, 0] == pytest.approx(3 * 144 / 143)


@given(
    both=st.lists(st.integers(0, 12), min_size=5, max_size=5).filter(lambda cells: sum(cells) > 3),
    share=st.floats(0.1, 0.9),
)
@settings(max_examples=15, deadline=None)
def test_statistics_average_their_degrees_of_freedom(both, share):
    """Rows dealt to two blocks at random give a statistic its degrees of freedom on average, however few they are."""
    rng = np.random.default_rng(sum(both))
    size = min(max(1, round(share * sum(both))), sum(both) - 1)
    dealt = rng.multivariate_hypergeometric(both, size, size=4_000).astype(float)
    scores = np.tile(np.array([[-1.2, 0.1, 1.5], [0.8, -1.0, 1.1]])[:, None], (1, 4_000, 1))
    statistic, freedom = _two_sample_statistics(dealt, np.array(both) - dealt, scores)
    for values, degrees in zip(statistic, freedom, strict=True):
        excess = values - degrees
        assert excess.mean() == pytest.approx(0.0, abs=5.0 * excess.std() / math.sqrt(4_000) + 1e-9)


def estimates(panes, streams, draw, start=None):
    """The design effect of many streams at once, after ``panes`` panes."""
    effect = start or calm_effect(streams)
    for _ in range(panes):
        effect.update(draw())
    return effect


def test_independent_rows_are_worth_one():
    """Where rows are independent the estimate is 1 but for noise, also with one row in a pane."""
    rng = np.random.default_rng(11)
    value = estimates(200, 200, lambda: rng.multinomial(100, TENTHS, size=200)).value
    assert (value >= 1.0).all()
    assert value.mean() < 1.15
    assert np.median(value) == 1.0
    assert estimates(200, 200, lambda: rng.multinomial(1, TENTHS, size=200)).value.mean() < 1.25


@pytest.mark.parametrize("copies", [2, 5, 20])
def test_copies_are_counted(copies):
    """Where each row comes c times the estimate is c within a fifth, on average over streams."""
    rng = np.random.default_rng(copies)
    effect = estimates(200, 100, lambda: copies * rng.multinomial(100 // copies, TENTHS, size=100))
    assert effect.value.mean() == pytest.approx(copies, rel=0.2)


def test_runs_longer_than_a_pane_are_seen():
    """Runs of 500 equal rows in panes of 100 are worth a row each some 200 to 700 rows, though neighbours agree."""
    rng = np.random.default_rng(12)
    runs = iter(np.repeat(rng.multinomial(1, TENTHS, size=(100, 50)), 5, axis=0))
    value = estimates(480, 50, lambda: 100 * next(runs)).value
    assert 300.0 < np.median(value) < 700.0
    assert (value > 150.0).all()


def test_bursts_of_missing_values_are_seen():
    """Missing values that come by the dozen in some panes count in that share alone, and in the whole table hardly."""
    rng = np.random.default_rng(13)

    def draw():
        burst = 12 * (rng.random(50) < 0.05)
        counts = rng.multinomial(100, TENTHS, size=50)
        counts[:, -2] = burst
        return counts

    assert np.median(estimates(400, 50, draw).value) > 4.0


def test_a_step_is_not_taken_for_a_habit():
    """In the 16 panes after all rows moved by half a standard deviation, the estimate is that from before."""
    rng = np.random.default_rng(14)
    effect = estimates(160, 50, lambda: rng.multinomial(100, TENTHS, size=50))
    before = effect.value
    moved = np.r_[np.linspace(0.04, 0.16, 10), 0.0, 0.0]
    for _ in range(15):
        effect.update(rng.multinomial(100, moved, size=50))
        assert (effect.value == before).all()
    for _ in range(100):
        effect.update(rng.multinomial(100, moved, size=50))
    assert effect.value.mean() < 1.5


def test_nothing_is_evidence_before_a_habit_can_be_known():
    """The alarm is told so for the first 7 panes with rows, and for 31 while all rows are alike; the value is 1."""
    effect = calm_effect(2)
    alike = np.zeros(12, np.int64)
    alike[3] = 100
    varied = np.array([10] * 10 + [0, 0])
    nothing = np.zeros((2, 12), np.int64)
    known = []
    for _ in range(40):
        effect.update(nothing)
        known.append(np.isfinite(effect.update(np.array([varied, alike]))).tolist())
    assert [pane.index(True) if True in pane else None for pane in zip(*known, strict=True)] == [7, 31]
    assert effect.value.tolist() == [1.0, 1.0]
    effect.reset()
    assert np.isinf(effect.update(np.array([varied, alike]))).all()
