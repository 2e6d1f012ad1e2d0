"""From a window's counts to what is said of each feature: every figure against SciPy or a direct computation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_mlobs.core import distance
from otel_mlobs.core.drift import METHODS, Reference, assess, results
from otel_mlobs.core.evidence import verdicts
from otel_mlobs.core.profile import Profile

RNG = np.random.default_rng(8)
ROWS = 2_000
DATA: dict[str, Any] = {
    "normal": RNG.normal(size=ROWS),
    "count": RNG.poisson(2, ROWS),
    "gaps": np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.exponential(size=ROWS)),
    "city": RNG.choice(["Rome", "Oslo", "Bonn"], ROWS, p=[0.6, 0.3, 0.1]),
    "member": RNG.random(ROWS) < 0.3,
    "constant": np.full(ROWS, 7.0),
}
PROFILE = Profile.fit(DATA, outputs=RNG.random(ROWS), model="churn")
REFERENCE = Reference(PROFILE.columns)
NAMES = [column.name for column in PROFILE.columns]
LIMITS = {"tolerance": 0.1, "significance": 0.05, "min_rows": 100}
ONES = np.ones(len(NAMES))


def _table(counts: dict[str, Any]) -> Any:
    """A table with the cells of each named feature filled, others zero."""
    table = np.zeros(REFERENCE.counts.shape, np.int64)
    for name, cells in counts.items():
        index = NAMES.index(name)
        table[index, : len(cells) - 2] = cells[:-2]
        table[index, -2:] = cells[-2:]
    return table


def _live(data: dict[str, Any]) -> Any:
    return _table({name: PROFILE.columns[NAMES.index(name)].bins.count(values)[0] for name, values in data.items()})


def _cells(name: str, table: Any) -> Any:
    index = NAMES.index(name)
    values = PROFILE.columns[index].bins.values
    return np.array([*table[index, :values], *table[index, -2:]], float)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 20, 3_000]))
def test_distances_equal_scipys(seed: int, rows: int) -> None:
    """On the cells that a feature has, whatever the padding: Jensen-Shannon and Wasserstein as SciPy has them."""
    spatial, stats = pytest.importorskip("scipy.spatial.distance"), pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    counts = {
        column.name: rng.multinomial(rows, rng.dirichlet(np.full(len(column.counts), 0.7)))
        for column in PROFILE.columns
    }
    found = REFERENCE.distances(_table(counts))
    for index, column in enumerate(PROFILE.columns):
        live, reference = counts[column.name].astype(float), np.array(column.counts, float)
        q, p = live / live.sum(), reference / reference.sum()
        assert found["jensen_shannon"][index] == pytest.approx(spatial.jensenshannon(q, p, base=2), abs=1e-9)
        assert found["hellinger"][index] == pytest.approx(
            np.linalg.norm(np.sqrt(q) - np.sqrt(p)) / math.sqrt(2), abs=1e-9
        )
        assert found["l_infinity"][index] == pytest.approx(np.abs(q - p).max(), abs=1e-12)
        # the smoothing of the design: towards the pooled shares, over the cells that are not empty on both sides
        k, n, m = np.count_nonzero(live + reference), live.sum(), reference.sum()
        r = (reference + live) / (m + n)
        smooth_q, smooth_p = (live + k / 2 * r) / (n + k / 2), (reference + k / 2 * r) / (m + k / 2)
        smooth_q, smooth_p = smooth_q[r > 0], smooth_p[r > 0]
        assert found["psi"][index] == pytest.approx(
            ((smooth_q - smooth_p) * np.log(smooth_q / smooth_p)).sum(), abs=1e-9
        )
        assert found["chi_square"][index] == pytest.approx(((smooth_q - smooth_p) ** 2 / smooth_p).sum(), rel=1e-9)
        if column.bins.ordered and live[:-2].sum():
            q, p = live[:-2] / live[:-2].sum(), reference[:-2] / reference[:-2].sum()
            assert found["kolmogorov_smirnov"][index] == pytest.approx(np.abs(np.cumsum(q - p)).max(), abs=1e-12)
            expected = stats.wasserstein_distance(column.positions, column.positions, q, p)
            assert found["wasserstein"][index] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        else:
            assert math.isnan(found["kolmogorov_smirnov"][index])
            assert math.isnan(found["wasserstein"][index])


def test_identical_counts_have_no_distance() -> None:
    """The reference's own counts give zero everywhere, integers with ties and constants too."""
    found = REFERENCE.distances(REFERENCE.counts.astype(np.int64))
    for method in METHODS:
        values = found[method][~np.isnan(found[method])]
        np.testing.assert_allclose(values, 0, atol=1e-12)
    assert not np.isnan(found["psi"]).any()


def test_no_rows_have_no_distance() -> None:
    """A feature without rows has NaN, not zero: nothing is known; the others keep their figures."""
    table = _live({"normal": DATA["normal"]})
    found = REFERENCE.distances(table)
    index = NAMES.index("normal")
    for method in METHODS:
        assert found[method][index] == pytest.approx(0, abs=1e-12)
        assert np.isnan(np.delete(found[method], index)).all()


def test_nothing_but_missing_has_no_order() -> None:
    """Where all values are missing, the distances over values are NaN and those over all cells are not."""
    found = REFERENCE.distances(_live({"normal": [None] * 50}))
    index = NAMES.index("normal")
    assert math.isnan(found["wasserstein"][index])
    assert found["l_infinity"][index] == pytest.approx(1)
    assert found["psi"][index] > 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 400), min_size=2, max_size=10).filter(any))
def test_normal_scores_are_standard_and_uncorrelated(counts: list[int]) -> None:
    """Under the reference, shift and scale scores have mean 0, variance 1 or no spread, correlation 0."""
    from otel_mlobs.core.binning import Bins
    from otel_mlobs.core.profile import Column

    edges = tuple(map(float, range(len(counts) - 1)))
    positions = tuple(map(float, range(len(counts))))
    column = Column("x", Bins("numeric", edges), (*counts, 3, 0), 0.0, 1.0, 0.5, 0.5, positions)
    reference = Reference([column, PROFILE.columns[3]])
    (shift, no_shift), (scale, no_scale) = reference.normal_scores()
    shift, scale = shift[: len(counts)], scale[: len(counts)]
    shares = np.array(counts) / sum(counts)
    filled = np.count_nonzero(counts)
    assert shift @ shares == pytest.approx(0, abs=1e-9)
    assert scale @ shares == pytest.approx(0, abs=1e-9)
    assert (shift**2) @ shares == pytest.approx(float(filled > 1), abs=1e-6)
    assert (scale**2) @ shares == pytest.approx(float(filled > 2), abs=1e-6) or filled == 3
    assert (shift * scale) @ shares == pytest.approx(0, abs=1e-6)
    ascending = shift[np.array(counts) > 0]
    assert (np.diff(ascending) > 0).all()
    assert not no_shift.any(), "categories have no order"
    assert not no_scale.any()


def test_normal_scores_are_those_of_the_cells_middles() -> None:
    """Shift is SciPy's normal quantile at the middle of each cell, scale its square, both standardised."""
    stats = pytest.importorskip("scipy.stats")
    shift, scale = REFERENCE.normal_scores()
    for index, column in enumerate(PROFILE.columns):
        if column.bins.ordered and column.name != "constant":
            values = column.bins.values
            shares = np.array(column.counts[:-2]) / sum(column.counts[:-2])
            z = stats.norm.ppf(np.cumsum(shares) - shares / 2)
            z = np.where(shares > 0, z, 0)
            z = np.where(shares > 0, (z - z @ shares) / np.sqrt((z - z @ shares) ** 2 @ shares), 0)
            np.testing.assert_allclose(shift[index, :values], z, atol=1e-6)
            square = z**2 - (z**3 @ shares) * z - 1
            square = np.where(shares > 0, square / np.sqrt(square**2 @ shares), 0)
            np.testing.assert_allclose(scale[index, :values], square, atol=1e-6)


def test_assessment_is_that_of_the_counts() -> None:
    """n, missing, unseen and the verdicts are those of a direct computation, divided by what rows are worth."""
    table = _live({"normal": np.r_[RNG.normal(1, 1, 500), [np.nan] * 50, [np.inf] * 25], "city": ["Ur"] * 30})
    effect = ONES.copy()
    effect[0] = 2.5
    found = assess(REFERENCE, table, effect, **LIMITS)
    assert found.n.tolist() == [575, 0, 0, 30, 0, 0, 0]
    assert found.missing[0] == pytest.approx(50 / 575)
    assert found.unseen[0] == pytest.approx(25 / 575)
    assert found.unseen[3] == 1
    assert found.missing[1] == found.unseen[1] == 0
    direct = verdicts(table / effect[:, None], REFERENCE.counts, REFERENCE.real, REFERENCE.ordered)
    np.testing.assert_array_equal(found.p_value, direct.p_value)
    np.testing.assert_array_equal(found.psi_adjusted[found.n > 0], direct.psi_adjusted[found.n > 0])
    assert np.isnan(found.psi_adjusted[found.n == 0]).all()
    assert found.drifted.tolist() == [True, *[False] * 6], "30 rows of another city are below min_rows"
    assert direct.drifted[3]


@pytest.mark.parametrize(
    ("rows", "effect", "enough"),
    [(100, 1.0, True), (99, 1.0, False), (200, 2.0, True), (199, 2.0, False), (500, np.nan, True)],
)
def test_rows_are_enough_by_what_they_are_worth(rows: int, effect: float, enough: bool) -> None:
    """min_rows counts independent rows: those of clusters are worth less; an unknown effect is one."""
    found = assess(REFERENCE, _live({"normal": RNG.normal(5, 1, rows)}), ONES * effect, **LIMITS)
    assert bool(found.enough[0]) is enough
    assert bool(found.drifted[0]) is enough


def _results(table: Any, **changes: Any) -> dict[str, Any]:
    size = len(NAMES)
    options: dict[str, Any] = {
        "alarm": np.zeros(size, bool),
        "evidence": np.full(size, 1.0),
        "design_effect": ONES,
        "since": [None] * size,
        "invalid": np.zeros(size, np.int64),
        **changes,
    }
    return {one.name: one for one in results(REFERENCE, assess(REFERENCE, table, ONES, **LIMITS), **options)}


def test_results_of_each_column() -> None:
    """Status, figures and plain Python types of every feature and output, as a direct computation has them."""
    shifted = RNG.normal(2, 1, 500)
    table = _live(
        {"normal": shifted, "count": DATA["count"][:500], "city": DATA["city"][:50], "score": RNG.random(300)}
    )
    found = _results(table, since=[123.0] * len(NAMES), invalid=np.arange(len(NAMES)))
    assert list(found) == NAMES
    assert {name: one.status for name, one in found.items()} == {
        "normal": "drift",
        "count": "ok",
        "gaps": "insufficient_data",
        "city": "insufficient_data",
        "member": "insufficient_data",
        "constant": "insufficient_data",
        "score": "ok",
    }
    normal = found["normal"]
    live, reference = _cells("normal", table), np.array(PROFILE.features[0].counts, float)
    q, p = distance.smoothed(live[None], reference[None])
    assert normal.psi == pytest.approx(float(distance.psi(q, p)[0]), rel=1e-12)
    assert normal.distances["psi"] == normal.psi
    assert set(normal.distances) == set(METHODS)
    assert set(found["city"].distances) == set(METHODS) - {"kolmogorov_smirnov", "wasserstein"}
    assert found["gaps"].distances == {}
    assert (normal.drifted, normal.alarm, normal.since, normal.n, normal.invalid) == (True, False, 123.0, 500, 0)
    assert found["count"].since is None, "what does not drift has no beginning"
    assert found["gaps"].reference_missing == pytest.approx(np.isnan(DATA["gaps"]).mean())
    assert found["gaps"].n == 0
    assert math.isnan(found["gaps"].psi)
    assert found["score"].invalid == 6
    for one in found.values():
        kinds = {
            name: type(getattr(one, name)) for name in ("psi", "p_value", "drifted", "alarm", "n", "missing", "invalid")
        }
        assert kinds == {
            "psi": float,
            "p_value": float,
            "drifted": bool,
            "alarm": bool,
            "n": int,
            "missing": float,
            "invalid": int,
        }
        assert all(type(value) is float for value in one.distances.values())


def test_an_alarm_is_drift_without_a_verdict() -> None:
    """The alarm alone makes the status drift, even of few rows, and the evidence is its decimal logarithm."""
    size = len(NAMES)
    alarm, evidence = np.zeros(size, bool), np.full(size, 1e-3)
    alarm[0], evidence[0], evidence[1] = True, 1e7, 0.0
    found = _results(_live({"normal": DATA["normal"][:10]}), alarm=alarm, evidence=evidence, since=[5.0] * size)
    normal = found["normal"]
    assert (normal.status, normal.drifted, normal.alarm, normal.since) == ("drift", False, True, 5.0)
    assert normal.evidence == pytest.approx(7)
    assert found["gaps"].evidence == pytest.approx(-3)
    assert found["count"].evidence == -math.inf


def test_a_result_cannot_be_changed() -> None:
    """Results are records: what one reader does to them no other sees."""
    one = _results(_live({}))["normal"]
    with pytest.raises(AttributeError):
        one.status = "ok"


def test_shares_and_layout_of_the_reference() -> None:
    """Each column's value cells come first, its special ones last, and nothing stands between but padding."""
    assert REFERENCE.rows.tolist() == [ROWS] * len(NAMES)
    assert REFERENCE.ordered.tolist() == [True, True, True, False, False, True, True]
    for index, column in enumerate(PROFILE.columns):
        values = column.bins.values
        assert REFERENCE.counts[index, :values].tolist() == list(column.counts[:-2])
        assert REFERENCE.counts[index, -2:].tolist() == list(column.counts[-2:])
        assert REFERENCE.real[index].sum() == values + 2
        assert not REFERENCE.counts[index, values:-2].any()
        assert not REFERENCE.real[index, values:-2].any()
        np.testing.assert_allclose(REFERENCE.shares[index].sum(), 1)
