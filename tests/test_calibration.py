"""Calibration: pooled as scikit-learn pools, doubted as Hosmer and Lemeshow doubt, and left alone where scores hold."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_mlobs.core.calibration import Calibration, isotonic
from otel_mlobs.core.profile import Profile

stats = pytest.importorskip("scipy.stats")
IsotonicRegression = pytest.importorskip("sklearn.isotonic").IsotonicRegression


def _fitted(scores: Any, labels: Any, **options: Any) -> Calibration:
    profile = Profile.fit({"x": np.arange(len(scores))}, outputs=scores, labels=labels, model="m", **options)
    assert profile.outputs is not None
    assert profile.outputs.calibration is not None
    return profile.outputs.calibration


def _truth(rng: np.random.Generator, rows: int, power: float) -> tuple[Any, Any]:
    """Scores, and labels that come with probability score**power."""
    scores = rng.uniform(size=rows)
    return scores, (rng.uniform(size=rows) < scores**power).astype(int)


@given(
    st.lists(st.tuples(st.integers(-5, 5) | st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=1, max_size=60),
)
def test_isotonic_is_that_of_sklearn(rows: list[tuple[float, int]]) -> None:
    """Whatever the values and weights, the pooled values are scikit-learn's to 1e-9, and never fall."""
    values, weights = np.array(rows, np.float64).T
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values, sample_weight=weights)
    found = isotonic(values, weights)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (np.diff(found) >= 0).all()


def test_isotonic_of_many_labels() -> None:
    """Fifty thousand zeros and ones in the order of their scores, as an exact calibration takes them."""
    _, labels = _truth(np.random.default_rng(1), 50_000, 2.0)
    expected = IsotonicRegression().fit_transform(np.arange(labels.size), labels)
    assert isotonic(labels, np.ones(labels.size)) == pytest.approx(expected, abs=1e-9)
    assert isotonic([], []).shape == (0,)


def test_calibrated_is_the_isotonic_regression_of_the_bins() -> None:
    """Scores that are squared probabilities are put right, bin by bin as scikit-learn does it."""
    curve = _fitted(*_truth(np.random.default_rng(2), 20_000, 0.5))
    assert curve.needed
    means, rows = np.array(curve.mean_scores), np.array(curve.rows)
    share = np.array(curve.positives) / np.maximum(rows, 1)
    fitted = IsotonicRegression().fit(means[rows > 0], share[rows > 0], sample_weight=rows[rows > 0])
    assert np.array(curve.calibrated) == pytest.approx(fitted.predict(means), abs=1e-12)
    assert np.abs(np.array(curve.calibrated) - np.sqrt(means)).max() < 0.15
    assert np.average(np.abs(np.array(curve.calibrated) - np.sqrt(means)), weights=rows) < 0.015


def test_scores_that_hold_are_left_alone() -> None:
    """Where the labels do not contradict the scores, these themselves are the probabilities."""
    curve = _fitted(*_truth(np.random.default_rng(3), 20_000, 1.0))
    assert not curve.needed
    assert curve.calibrated == curve.mean_scores


def test_the_p_value_is_that_of_hosmer_and_lemeshow() -> None:
    """On bins that need no pooling it is SciPy's chi-square of their textbook formula, a degree for every bin."""
    rng = np.random.default_rng(4)
    rows = rng.integers(200, 400, 30)
    means = np.linspace(0.1, 0.9, 30)
    positives = rng.binomial(rows, means + 0.02)
    curve = Calibration(
        (*np.linspace(0.11, 0.91, 29).tolist(), math.inf), tuple(means), tuple(positives.tolist()), tuple(rows.tolist())
    )
    expected = rows * means
    statistic = (np.square(positives - expected) / (expected * (1 - means))).sum()
    assert curve.p_value == pytest.approx(stats.chi2.sf(statistic, 30), rel=1e-9)
    assert 0 < curve.p_value < 1


@pytest.mark.parametrize("power", [1.0, 8.0])
def test_doubt_is_as_rare_as_it_claims(power: float) -> None:
    """Scores that are true probabilities, rare positives too, are contradicted about one time in twenty."""
    rng = np.random.default_rng(5)
    doubted = 0
    for _ in range(200):
        scores = rng.uniform(size=1_000) ** power
        doubted += _fitted(scores, (rng.uniform(size=1_000) < scores).astype(int)).needed
    assert 2 <= doubted <= 22  # 99.9% of binomial(200, 0.05), and room for the chi-square's own error


@pytest.mark.parametrize(
    ("mean", "positives", "rows", "p_value"),
    [
        (0.0, 0, 50, 1.0),
        (0.0, 25, 50, 0.0),
        (1.0, 50, 50, 1.0),
        (1.0, 49, 50, 0.0),
        (1.5, 50, 50, 0.0),
        (-2.0, 0, 50, 0.0),
        (0.5, 0, 0, 1.0),
        (7.0, 0, 0, 1.0),
        (0.5, 2, 4, 1.0),
    ],
)
def test_extreme_scores(mean: float, positives: int, rows: int, p_value: float) -> None:
    """Scores of 0 and 1 are true or impossible; what is no probability needs calibration; no rows tell nothing."""
    curve = Calibration((math.inf,), (mean,), (positives,), (rows,))
    assert curve.p_value == p_value
    assert curve.calibrated == ((positives / rows,) if curve.needed else (min(max(mean, 0.0), 1.0),))


def test_empty_bins_lie_between_their_neighbours() -> None:
    """A bin without rows gets what lies between its neighbours by score, one at the end what is next to it."""
    curve = Calibration(
        (0.1, 0.2, 0.3, 0.4, 0.5, math.inf),
        (0.1, 0.15, 0.25, 0.35, 0.45, 0.5),
        (0, 0, 0, 40, 90, 0),
        (0, 100, 0, 100, 100, 0),
    )
    assert curve.needed
    assert curve.calibrated == pytest.approx((0.0, 0.0, 0.2, 0.4, 0.9, 0.9))


def test_bins_that_are_alike_to_the_last_digit() -> None:
    """Bins whose mean scores are written alike keep each its own probability."""
    curve = Calibration((0.5, 0.9, math.inf), (0.9, 0.9, 0.9), (10, 50, 100), (100, 100, 100))
    assert curve.calibrated == pytest.approx((0.1, 0.5, 1.0))


def test_scores_of_a_ranker_are_calibrated() -> None:
    """Scores of any range become probabilities, and the threshold is an edge of theirs."""
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 3, 5_000)
    labels = (rng.uniform(size=5_000) < 1 / (1 + np.exp(-logits))).astype(int)
    curve = _fitted(logits, labels, output_kind="score", threshold=0)
    assert curve.needed
    assert math.nextafter(0.0, -math.inf) in curve.uppers
    expected = 1 / (1 + np.exp(-np.array(curve.mean_scores)))
    assert np.average(np.abs(np.array(curve.calibrated) - expected), weights=curve.rows) < 0.03


def test_what_was_computed_is_no_content() -> None:
    """Asking for probabilities changes neither equality nor what a copy holds."""
    curve = _fitted(*_truth(np.random.default_rng(7), 500, 2.0))
    fresh = replace(curve)
    assert curve.calibrated == fresh.calibrated
    assert pickle.loads(pickle.dumps(curve)) == fresh == curve


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uppers": (0.5, 0.6)}, "uppers must ascend to infinity, got"),
        ({"uppers": (math.inf, math.inf)}, "uppers must ascend to infinity"),
        ({"uppers": ()}, "uppers must ascend to infinity"),
        ({"mean_scores": (0.1,)}, "mean_scores must be one per bin, 2, got 1"),
        ({"mean_scores": (0.1, math.nan)}, "mean_scores must be finite"),
        ({"positives": (3, 1)}, "positives must be from 0 to 2, got 3"),
        ({"positives": (-1, 1)}, "positives must be from 0 to 2, got -1"),
        ({"chosen_rows": (1, 1)}, "chosen_positives must be one per bin, 2, got 0"),
        ({"chosen_positives": (1, 1)}, "chosen_positives must be one per bin, 0, got 2"),
        ({"chosen_rows": (3, 1), "chosen_positives": (0, 0)}, "chosen_rows must be from 0 to 2, got 3"),
        ({"chosen_rows": (1, 1), "chosen_positives": (2, 0)}, "chosen_positives must be from 0 to 1, got 2"),
        ({"chosen_rows": (2, 2), "chosen_positives": (0, 1)}, "positives not chosen must be from 0 to 0, got 1"),
    ],
)
def test_calibrations_that_contradict_themselves(change: dict[str, Any], message: str) -> None:
    """Fields that do not fit each other cannot be made into a calibration."""
    whole = Calibration((0.5, math.inf), (0.2, 0.8), (1, 1), (2, 2))
    with pytest.raises(ValueError, match=message):
        replace(whole, **change)
