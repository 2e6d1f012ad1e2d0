"""Figures of outcome tables beside scikit-learn's, SciPy's and direct computations; their intervals; empty tables."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_mlobs.core.outcomes import (
    CELLS,
    UNKNOWN,
    Figure,
    add_errors,
    cells,
    labels_by_bin,
    performance,
    regression,
    roc_auc,
    wilson,
)

Floats = NDArray[np.float64]

SHARES = ("precision", "recall", "specificity", "f1", "accuracy")


def _table(scores: Floats, labels: NDArray[Any], bins: int, threshold: float = 0.5) -> NDArray[np.int64]:
    """A binary outcome table of equal bins; scores are multiples of 1/bins, so that a bin is a score."""
    table = np.zeros((1, bins + 1, 2, 2), np.int64)
    np.add.at(table, (0, np.rint(scores * bins).astype(int), (scores >= threshold).astype(int), labels), 1)
    return table


def _several(probabilities: Floats, labels: NDArray[Any], bins: int) -> NDArray[np.int64]:
    """The table of several classes, each against the rest; probabilities are multiples of 1/bins."""
    rows, classes = probabilities.shape
    chosen = probabilities.argmax(axis=1)
    table = np.zeros((classes, bins + 1, 2, 2), np.int64)
    for one in range(classes):
        place = np.rint(probabilities[:, one] * bins).astype(int)
        np.add.at(table, (one, place, (chosen == one).astype(int), (labels == one).astype(int)), 1)
    assert table.sum() == rows * classes
    return table


def _scored(rows: int, seed: int, bins: int = 50) -> tuple[Floats, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    scores = np.rint(rng.beta(2, 3, rows) * bins) / bins
    return scores, (rng.random(rows) < scores).astype(int)


def _probabilities(rows: int, classes: int, seed: int, bins: int = 40) -> tuple[Floats, NDArray[Any]]:
    """Vectors of multiples of 1/bins that add up to 1, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    vectors = rng.multinomial(bins, rng.dirichlet(np.ones(classes), rows)) / bins
    labels = np.array([rng.choice(classes, p=vector) for vector in vectors])
    return vectors, labels


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_binary_figures_are_scikit_learns(threshold: float) -> None:
    """Where every bin holds one score, all measures of a table equal those of the rows to 1e-12."""
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = _scored(3000, seed=1)
    found = performance(_table(scores, labels, 50, threshold), np.arange(51) / 50)
    answers = scores >= threshold
    expected = {
        "precision": metrics.precision_score(labels, answers),
        "recall": metrics.recall_score(labels, answers),
        "specificity": metrics.recall_score(labels, answers, pos_label=0),
        "f1": metrics.f1_score(labels, answers),
        "accuracy": metrics.accuracy_score(labels, answers),
        "roc_auc": metrics.roc_auc_score(labels, scores),
        "brier": metrics.brier_score_loss(labels, scores),
        "log_loss": metrics.log_loss(labels, scores),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].lower < value < found[name].upper
    tens = np.round(scores * 50).astype(int) // 10  # ten bins, of one score each
    gap = sum(abs((labels - scores)[tens == ten].sum()) for ten in range(6)) / len(scores)
    assert found["calibration_error"].value == pytest.approx(gap, abs=1e-12)
    assert found.keys() == {*expected, "calibration_error"}


def test_several_classes_are_scikit_learns_macro_means() -> None:
    """Means over classes are scikit-learn's macro averages, one class against the rest."""
    metrics = pytest.importorskip("sklearn.metrics")
    vectors, labels = _probabilities(4000, 4, seed=2)
    found = performance(_several(vectors, labels, 40), np.arange(41) / 40)
    answers = vectors.argmax(axis=1)
    expected = {
        "precision": metrics.precision_score(labels, answers, average="macro"),
        "recall": metrics.recall_score(labels, answers, average="macro"),
        "f1": metrics.f1_score(labels, answers, average="macro"),
        "accuracy": metrics.accuracy_score(labels, answers),
        "roc_auc": metrics.roc_auc_score(labels, vectors, multi_class="ovr", average="macro"),
        "log_loss": metrics.log_loss(labels, vectors),
        "brier": np.mean(((vectors - np.eye(4)[labels]) ** 2).sum(axis=1)),
        "specificity": np.mean([np.mean(answers[labels != one] != one) for one in range(4)]),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        assert found[name].lower < value < found[name].upper


def test_classes_that_do_not_occur_are_left_out_as_scikit_learn_does() -> None:
    """A class neither predicted nor true is not averaged; one that is true and never predicted counts 0."""
    metrics = pytest.importorskip("sklearn.metrics")
    labels = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([0, 0, 1, 1, 0, 0])
    found = performance(_several(np.eye(4)[answers], labels, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            assert found[name].value == pytest.approx(function(labels, answers, average="macro")), name


def _delong(positives: Floats, negatives: Floats) -> tuple[float, float]:
    """Area and its standard error from raw scores, all pairs compared."""
    better = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    of_positives, of_negatives = better.mean(axis=1), better.mean(axis=0)
    variance = of_positives.var(ddof=1) / len(positives) + of_negatives.var(ddof=1) / len(negatives)
    return float(better.mean()), math.sqrt(variance)


@pytest.mark.parametrize("rows", [30, 400])
def test_the_area_has_delongs_interval(rows: int) -> None:
    """From counts by score, area and interval equal DeLong's on the rows."""
    scores, labels = _scored(rows, seed=rows)
    area, error = _delong(scores[labels == 1], scores[labels == 0])
    found = performance(_table(scores, labels, 50))["roc_auc"]
    assert found.value == pytest.approx(area, abs=1e-12)
    distance = 1.959963984540054 * error / (area * (1 - area))
    logit = math.log(area / (1 - area))
    assert found.lower == pytest.approx(1 / (1 + math.exp(distance - logit)), abs=1e-12)
    assert found.upper == pytest.approx(1 / (1 + math.exp(-distance - logit)), abs=1e-12)


def test_an_area_of_one_is_not_certain() -> None:
    """Five positives above five negatives are as many pairs that agree, and no more: Wilson's bound of 5 of 5."""
    lower, _ = wilson(5, 5)
    assert roc_auc([0, 5], [5, 0]) == Figure(1.0, float(lower), 1.0)
    assert roc_auc([5, 0], [0, 9]) == Figure(0.0, 0.0, 1 - float(lower))


def test_one_positive_has_an_area_without_bounds() -> None:
    """DeLong's variance needs two of each label."""
    found = roc_auc([0, 1, 0], [2, 1, 2])
    assert found.value == pytest.approx(0.5)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (1, 3), (50, 1000), (999, 1000)])
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    """The interval of a share is SciPy's Wilson interval."""
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert [float(bound) for bound in wilson(successes, trials)] == pytest.approx([expected.low, expected.high])


def test_shares_have_wilsons_interval_of_their_own_counts() -> None:
    """Precision's interval is of the predicted, recall's of the positives, F1's of what is in either."""
    table = np.zeros((1, 1, 2, 2), np.int64)
    table[0, 0] = [[60, 5], [10, 25]]  # tn, fn; fp, tp
    assert dict(zip(CELLS, cells(table)[0].tolist(), strict=True)) == {"tn": 60, "fn": 5, "fp": 10, "tp": 25}
    found = performance(table)
    for name, successes, trials in (
        ("precision", 25, 35),
        ("recall", 25, 30),
        ("specificity", 60, 70),
        ("accuracy", 85, 100),
    ):
        lower, upper = wilson(successes, trials)
        assert found[name] == Figure(successes / trials, float(lower), float(upper)), name
    lower, upper = wilson(25, 40)
    assert found["f1"] == pytest.approx((50 / 65, 2 * lower / (1 + lower), 2 * upper / (1 + upper)))


@pytest.mark.parametrize("classes", [1, 3])
def test_intervals_hold_the_truth_nineteen_times_in_twenty(classes: int) -> None:
    """Of 400 samples of 300 rows at least 92% hold the population's figure in their interval, for every measure.

    That is 95% less three standard errors of 400 samples.
    """
    scores, labels = _scored(400_000, seed=5, bins=20) if classes == 1 else (None, None)
    vectors, several = _probabilities(60_000, 3, seed=6, bins=20) if classes == 3 else (None, None)

    def figures(rows: Any) -> dict[str, Figure]:
        if scores is not None and labels is not None:
            return performance(_table(scores[rows], labels[rows], 20), np.arange(21) / 20)
        assert vectors is not None
        assert several is not None
        return performance(_several(vectors[rows], several[rows], 20), np.arange(21) / 20)

    size = 400_000 if classes == 1 else 60_000
    truth = figures(slice(None))
    rng = np.random.default_rng(7)
    held = dict.fromkeys(truth, 0)
    for _ in range(400):
        for name, figure in figures(rng.integers(size, size=300)).items():
            held[name] += figure.lower <= truth[name].value <= figure.upper
    del held["calibration_error"]
    assert min(held.values()) >= 0.92 * 400, held


def test_tables_add_up() -> None:
    """The table of two parts together is the sum of theirs, and so are the counts that queries use."""
    scores, labels = _scored(500, seed=8)
    parts = _table(scores[:200], labels[:200], 50) + _table(scores[200:], labels[200:], 50)
    assert performance(parts) == performance(_table(scores, labels, 50))


def test_the_area_from_negatives_below() -> None:
    """Σ positives · (negatives below + half the bin's) over all pairs is the area, as the queries compute it."""
    scores, labels = _scored(700, seed=9)
    table = _table(scores, labels, 50)
    positives, negatives, below = labels_by_bin(table)
    area = (positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum())
    assert area == pytest.approx(performance(table)["roc_auc"].value, abs=1e-12)


def test_fractions_are_counted_like_whole_rows() -> None:
    """A table of expected outcomes has the figures of the same table with a hundred times the rows, whose value is."""
    rng = np.random.default_rng(10)
    table = rng.random((1, 20, 2, 2)) * 30
    many = performance(table * 100)
    for name, figure in performance(table).items():
        assert figure.value == pytest.approx(many[name].value, abs=1e-12)
        assert figure.upper - figure.lower > many[name].upper - many[name].lower


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 5, 2, 2), (3, 5, 2, 2), (3, 1, 2, 2)])
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_an_empty_table_has_no_figures(shape: tuple[int, ...], kind: type) -> None:
    """Without rows everything is NaN, without a warning; without bins there is no area."""
    found = performance(np.zeros(shape, kind), np.full(shape[1], 0.5))
    assert all(math.isnan(part) for figure in found.values() for part in figure)
    assert ("roc_auc" in found) == (shape[1] > 1)


def test_nothing_predicted_positive() -> None:
    """Precision is unknown, recall and F1 are 0 with an upper bound, the rest is known."""
    table = np.zeros((1, 4, 2, 2), np.int64)
    table[0, :, 0] = [[5, 0], [5, 1], [5, 1], [5, 2]]
    found = performance(table)
    assert all(math.isnan(part) for part in found["precision"])
    assert found["recall"] == Figure(0.0, 0.0, float(wilson(0, 4)[1]))
    assert found["f1"].value == 0.0
    assert 0 < found["f1"].upper < 1
    assert found["specificity"].value == 1.0
    assert 0.5 < found["roc_auc"].value < 1


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone(label: int) -> None:
    """Without the other label there is no area, and what is a share of it is unknown."""
    table = np.zeros((1, 3, 2, 2), np.int64)
    table[0, 0, 0, label], table[0, 2, 1, label] = 4, 6
    found = performance(table, [0.1, 0.4, 0.8])
    assert math.isnan(found["roc_auc"].value)
    assert math.isnan(found["recall" if label == 0 else "specificity"].value)
    assert found["accuracy"].value == pytest.approx(0.4 if label == 0 else 0.6)
    assert found["brier"].value == pytest.approx(
        (4 * 0.01 + 6 * 0.64) / 10 if label == 0 else (4 * 0.81 + 6 * 0.04) / 10
    )


def test_scores_that_are_no_probabilities_have_no_errors_of_probabilities() -> None:
    """A ranker's bin with a mean of 3 and rows in it: unknown; without rows in it, known."""
    table = np.zeros((1, 2, 2, 2), np.int64)
    table[0, 0, 0] = [8, 2]
    assert performance(table, [0.2, 3.0])["brier"].value == pytest.approx((8 * 0.04 + 2 * 0.64) / 10)
    table[0, 1, 1, 1] = 1
    assert performance(table, [0.2, 3.0])["brier"] is UNKNOWN
    assert math.isnan(performance(table, [0.2, math.nan])["log_loss"].value)


def test_certain_and_wrong_is_a_finite_loss() -> None:
    """A bin of mean 0 with a positive in it costs what it costs in scikit-learn, whose least probability is ε."""
    metrics = pytest.importorskip("sklearn.metrics")
    table = np.zeros((1, 2, 2, 2), np.int64)
    table[0, 0, 0] = [3, 1]
    table[0, 1, 1] = [0, 4]
    expected = metrics.log_loss([0, 0, 0, 1, 1, 1, 1, 1], [0.0] * 4 + [1.0] * 4)
    assert performance(table, [0.0, 1.0])["log_loss"].value == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 5, 2), (1, 5, 2, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """What is no outcome table raises with its shape."""
    with pytest.raises(ValueError, match=r"an outcome table must be of shape \(classes, bins, 2, 2\), got \("):
        performance(np.zeros(shape))


def _errors(predictions: Floats, labels: Any) -> Floats:
    sums = np.zeros(6)
    assert add_errors(predictions, labels, sums) == []
    return sums


def test_regression_is_scikit_learns_and_its_intervals_are_of_means() -> None:
    """MAE, RMSE and bias are those of the rows; bounds are the mean ± 1.96 standard errors."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(11)
    labels = rng.normal(10, 5, 800)
    predictions = labels + rng.normal(0.7, 2, 800)
    found = regression(_errors(predictions[:300], labels[:300]) + _errors(predictions[300:], labels[300:]))
    error = predictions - labels
    assert found["mae"].value == pytest.approx(metrics.mean_absolute_error(labels, predictions))
    assert found["rmse"].value == pytest.approx(math.sqrt(metrics.mean_squared_error(labels, predictions)))
    assert found["bias"].value == pytest.approx(error.mean())
    for name, terms in (("mae", np.abs(error)), ("bias", error), ("rmse", error**2)):
        half = 1.959963984540054 * terms.std(ddof=1) / math.sqrt(800)
        bounds = np.array([terms.mean() - half, terms.mean() + half])
        expected = np.sqrt(bounds) if name == "rmse" else bounds
        assert [found[name].lower, found[name].upper] == pytest.approx(list(expected)), name


def test_labels_that_are_no_numbers_are_named() -> None:
    """Missing, text and infinite labels come back; a row without a prediction is left out in silence."""
    sums = np.zeros(6)
    labels = [1.0, None, "high", math.inf, True, 4]
    assert add_errors(np.array([3.0, 1, 1, 1, 0.5, math.nan]), labels, sums) == [1, 2, 3]
    assert sums.tolist() == [2, 2.0, 0.5, 4.0, 0.25, 16.0625]


def test_regression_without_rows_or_with_one() -> None:
    """No rows: nothing known; one row: values without bounds."""
    assert all(math.isnan(part) for figure in regression(np.zeros(6)).values() for part in figure)
    found = regression(_errors(np.array([1.0]), [3]))
    assert {name: figure.value for name, figure in found.items()} == {"mae": 2.0, "rmse": 2.0, "bias": -2.0}
    assert all(math.isnan(figure.lower) and math.isnan(figure.upper) for figure in found.values())
