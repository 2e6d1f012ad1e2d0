"""Performance without labels: against NannyML's figures, and against what random labels really do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nannyml_goldens import Rows, check_binned, check_exact, golden, labelled, profile_of, small

from otel_mlobs.core import cbpe, estimation
from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.layout import OutcomeLayout
from otel_mlobs.core.outcomes import performance

BINARY = Calibration(
    (0.1, 0.3, 0.5, 0.8, math.inf),
    (0.05, 0.2, 0.4, 0.65, 0.9),
    (60_000, 100_000, 140_000, 120_000, 190_000),
    (1_000_000, 500_000, 350_000, 200_000, 210_000),
)
PREDICTED = np.array([[[800, 0], [500, 0], [200, 100], [0, 300], [0, 250]]])


def layout_of(reference: Rows) -> tuple[OutcomeLayout, Any]:
    """The layout of a profile of these rows, and the profile's outputs."""
    outputs = profile_of(reference).outputs
    assert outputs is not None
    layout = OutcomeLayout.of(outputs)
    assert layout is not None
    return layout, outputs


def scored(number: int, seed: int, lift: float = 0.0) -> Rows:
    """Random rows whose scores are probabilities; ``lift`` moves the labels' log odds."""
    random = np.random.RandomState(seed)
    logits = random.standard_normal(number) * 1.5
    scores = 1 / (1 + np.exp(-logits))
    labels = (random.random_sample(number) < 1 / (1 + np.exp(-logits - lift))).astype(int)
    return Rows(scores, (scores >= 0.5).astype(int), labels)


def three_classes(number: int, seed: int) -> Rows:
    """Random rows of three classes whose probabilities are true."""
    random = np.random.RandomState(seed)
    logits = random.standard_normal((number, 3)) * 1.5
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random_sample(number)[:, None] > np.cumsum(scores, axis=1)).sum(axis=1)
    return Rows(scores, scores.argmax(axis=1), np.minimum(labels, 2))


@pytest.mark.parametrize("name", ["small_binary", "small_multiclass"])
def test_exact_form_is_nannyml(name: str) -> None:
    """Estimates, realised figures, confidence bounds, thresholds and alerts of a small set are NannyML's to 1e-6."""
    check_exact(name, *small(name))


@pytest.mark.parametrize("name", ["small_binary", "small_multiclass"])
def test_binned_form_is_near_nannyml_on_few_rows(name: str) -> None:
    """With 10 to 20 reference rows a bin the estimates are within 0.01, and the alerts are the same ones.

    The tests against the whole data sets hold them to 2e-3.
    """
    check_binned(name, *small(name), tolerance=1e-2)


def test_goldens_hold_both_answers() -> None:
    """The small sets have chunks with and without an alert, and classes that need a calibration and that do not."""
    figures = [golden(name)["metrics"] for name in ("small_binary", "small_multiclass")]
    alerts = {alert for each in figures for metric in each.values() for alert in metric["analysis"]["alert"]}
    needed = set(golden("small_multiclass")["calibrated"].values())
    assert alerts == needed == {True, False}


def test_splits_are_scikit_learns() -> None:
    """The rows held out are those of scikit-learn's StratifiedShuffleSplit(10, test_size=0.1, random_state=42)."""
    labels = np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    splits = list(cbpe._splits(labels == 1))
    assert len(splits) == 10
    kept, held = splits[0]
    assert kept.tolist() == [3, 19, 4, 17, 20, 1, 2, 15, 21, 14, 8, 16, 13, 22, 5, 7, 18, 9, 12, 0]
    assert held.tolist() == [11, 10, 6]
    kept, held = splits[9]
    assert kept.tolist() == [7, 1, 10, 5, 16, 12, 18, 13, 20, 0, 11, 3, 22, 8, 4, 14, 17, 15, 9, 6]
    assert held.tolist() == [2, 21, 19]


def test_a_calibrator_keeps_scores_of_one_label() -> None:
    """Where all labels agree, or the scores rank perfectly, nothing is calibrated."""
    scores = np.linspace(0.01, 0.99, 40)
    assert not cbpe.Calibrator.fit(scores, np.ones(40)).needed
    perfect = cbpe.Calibrator.fit(scores, scores > 0.5)
    assert not perfect.needed
    assert perfect.apply(scores) is scores


def test_the_calibration_error_of_equal_scores_is_the_same_in_any_order() -> None:
    """Rounded scores are equal by the hundred; whether calibration is needed must not hang on a processor's sort."""
    rng = np.random.default_rng(5)
    scores = np.round(rng.beta(2, 2, 3_000), 2)
    yes = rng.random(3_000) < scores
    orders = [rng.permutation(3_000) for _ in range(20)]
    found = [cbpe._calibration_error(scores[order], yes[order]) for order in orders]
    assert found == pytest.approx([found[0]] * 20, rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1] * 12, [0, 1] * 5, "one value a row"),
        ([math.nan] * 12, [0, 1] * 6, "scores must be finite, got nan"),
        ([0.1] * 12, [0, 2] * 6, "must be 0 to 1, got .*2"),
        ([0.1] * 10, [0, 1] * 5, "at least 11 rows"),
        ([0.1] * 12, [1] + [0] * 11, "got 1 positives in 12 rows"),
    ],
)
def test_a_calibrator_refuses(scores: list[float], labels: list[int], message: str) -> None:
    """Rows from which no calibration can be fitted are refused, with what is wrong with them."""
    with pytest.raises(ValueError, match=message):
        cbpe.Calibrator.fit(scores, labels)


def test_cbpe_refuses_shapes_that_differ() -> None:
    """Probabilities, scores and predictions of other rows, or of none, are refused."""
    with pytest.raises(ValueError, match="same rows and classes"):
        cbpe.cbpe([0.1, 0.2], [0.1, 0.2], [0])
    with pytest.raises(ValueError, match="at least one row"):
        cbpe.cbpe([], [], [])


def test_calibrated_classes_add_up_to_one() -> None:
    """Calibrated probabilities of a row are scaled to one, and are uniform where all are zero."""
    zero = cbpe.Calibrator(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.0, 1.0]))
    found = cbpe.calibrated_classes([zero, zero, zero], [[0.3, 0.3, 0.4], [0.75, 0.0, 0.25]])
    assert np.allclose(found, [[1 / 3] * 3, [1, 0, 0]])
    with pytest.raises(ValueError, match="must have 2 columns, got 3"):
        cbpe.calibrated_classes([zero, zero], np.ones((4, 3)))


def test_thresholds_are_three_deviations_cut_at_the_range() -> None:
    """Mean ± 3 population deviations of the chunks that have a value, within 0 and 1."""
    assert cbpe.thresholds([0.5, 0.7, math.nan]) == pytest.approx((0.3, 0.9))
    assert cbpe.thresholds([0.0, 1.0]) == (0.0, 1.0)
    assert all(map(math.isnan, cbpe.thresholds([math.nan])))


def test_confidence_of_what_is_undefined_is_unknown() -> None:
    """Where the reference predicted nothing positive the bounds of precision are NaN, and others are not."""
    rows = scored(500, 4)
    error = cbpe.SamplingError.fit(rows.labels, rows.scores, np.zeros(500, int))
    bounds = error.confidence(cbpe.cbpe(rows.scores, rows.scores, rows.predicted), 500)
    assert all(map(math.isnan, bounds["precision"]))
    assert bounds["accuracy"][0] < bounds["accuracy"][1]


def test_chunks_keep_the_rest() -> None:
    """The last chunk has what is left, and a chunk has at least a row."""
    assert cbpe.chunks(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        cbpe.chunks(7, 0)


def test_expected_outcomes_keep_the_predictions_and_merge() -> None:
    """Labels summed out the expected table is the prediction table, and the sum of two is that of their sum."""
    chance = np.array([BINARY.calibrated])
    table = estimation.expected(PREDICTED, chance)
    assert np.allclose(table.sum(axis=3), PREDICTED)
    assert table[0, 3, 1, 1] == pytest.approx(300 * chance[0, 3])
    both = table + estimation.expected(3 * PREDICTED, chance)
    assert np.allclose(both, estimation.expected(4 * PREDICTED, chance))
    empty = np.where(np.arange(5) == 1, np.nan, chance)
    assert np.isfinite(estimation.expected(PREDICTED * (np.arange(5) != 1)[:, None], empty)).all()


def test_expected_outcomes_refuse_other_shapes() -> None:
    """A table of other bins than the calibration has is refused."""
    with pytest.raises(ValueError, match="prediction table must be"):
        estimation.expected(PREDICTED, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="other calibrations"):
        estimation.estimate(PREDICTED, [BINARY, BINARY])
    with pytest.raises(ValueError, match="other calibrations"):
        estimation.estimate(PREDICTED[:, :3], [BINARY])


def test_an_estimate_is_the_measure_of_the_expected_table() -> None:
    """Values are those that outcome tables have, and lie within their bounds."""
    found = estimation.estimate(PREDICTED, [BINARY])
    measured = performance(estimation.expected(PREDICTED, np.array([BINARY.calibrated])))
    assert set(found) == set(estimation.METRICS)
    for metric, figure in found.items():
        assert figure.value == measured[metric].value
        assert figure.lower < figure.value < figure.upper


def test_an_estimate_of_nothing_is_unknown() -> None:
    """Without predictions every figure is NaN, and so are those that rest on positive predictions without any."""
    assert all(math.isnan(figure.value) for figure in estimation.estimate(0 * PREDICTED, [BINARY]).values())
    negative = PREDICTED * np.array([1, 0])
    found = estimation.estimate(negative, [BINARY])
    assert math.isnan(found["precision"].lower)
    assert found["accuracy"].lower < found["accuracy"].value


def test_a_bin_that_was_never_positive_is_not_certain() -> None:
    """None of 20 rows positive does not mean that none ever is: the band has a width."""
    sure = Calibration((0.5, math.inf), (0.3, 0.7), (0, 20), (20, 20))
    found = estimation.estimate(np.array([[[100, 0], [0, 100]]]), [sure])
    assert found["accuracy"].value == 1
    assert found["accuracy"].lower < 0.99


def test_the_band_is_that_of_random_labels() -> None:
    """Measures of labels drawn from a well-known calibration scatter as the band says, to a tenth."""
    random = np.random.RandomState(3)
    chance = np.broadcast_to(np.array(BINARY.calibrated)[:, None], (5, 2))
    drawn = [
        performance(np.stack([PREDICTED - positives, positives], axis=-1))
        for positives in (random.binomial(PREDICTED[0], chance)[None] for _ in range(1000))
    ]
    for metric, figure in estimation.estimate(PREDICTED, [BINARY]).items():
        deviation = float(np.std([one[metric].value for one in drawn]))
        assert (figure.upper - figure.lower) / 2 / 1.96 == pytest.approx(deviation, rel=0.1), metric


@pytest.mark.parametrize("make", [scored, three_classes])
def test_the_band_holds_the_truth_of_small_references_too(make: Any) -> None:
    """Over random references of 1,000 rows and windows of 2,000, at least 92% of the realised figures are in the band.

    Of several classes some bands are wider than need be, none narrower.
    """
    inside = dict.fromkeys(estimation.METRICS, 0)
    runs = 100
    for seed in range(runs):
        layout, _ = layout_of(make(1000, seed))
        live = make(2000, 10_000 + seed)
        truth = labelled(layout, live)
        found = estimation.estimate(truth.sum(axis=3), layout.calibrations)
        for metric, figure in performance(truth).items():
            inside[metric] += found[metric].lower <= figure.value <= found[metric].upper
    assert min(inside.values()) >= 0.92 * runs, inside


@pytest.mark.parametrize("rows", [scored(4000, 1), three_classes(4000, 1)])
def test_the_reference_table_is_counted_from_the_reference(rows: Rows) -> None:
    """A profile gives the outcome table of the rows that it was fitted on."""
    layout, outputs = layout_of(rows)
    assert np.array_equal(estimation.reference_table(outputs), labelled(layout, rows))


def test_outputs_without_labels_have_no_reference_table() -> None:
    """Where no label was given, nothing is known of the reference's outcomes."""
    rows = scored(500, 1)
    profile = type(profile_of(rows)).fit({"x": rows.scores}, outputs=rows.scores, model="m", version="1")
    assert profile.outputs is not None
    assert estimation.reference_table(profile.outputs) is None


@pytest.mark.parametrize(("make", "wider"), [(scored, 1.1), (three_classes, 1.6)])
def test_window_thresholds_are_three_deviations_of_random_windows(make: Any, wider: float) -> None:
    """Windows drawn from the reference scatter by a third of the thresholds' width.

    Of several classes the area has the widest case's, up to 1.6 times as wide.
    """
    reference = make(50_000, 2)
    layout, outputs = layout_of(reference)
    table = estimation.reference_table(outputs)
    assert table is not None
    bounds = estimation.window_thresholds(table, 500)
    drawn = [performance(labelled(layout, reference[rows])) for rows in cbpe.chunks(len(reference), 500)]
    for metric, (lower, upper) in bounds.items():
        deviation = float(np.std([one[metric].value for one in drawn]))
        assert 0.9 * deviation < (upper - lower) / 6 < wider * deviation, (metric, deviation)
    narrower = estimation.window_thresholds(table, 5000)
    assert all(narrower[metric][0] > lower for metric, (lower, _) in bounds.items())


def test_window_thresholds_refuse_no_rows() -> None:
    """A window has rows."""
    with pytest.raises(ValueError, match="rows must be positive, got 0"):
        estimation.window_thresholds(np.ones((1, 2, 2, 2)), 0)


@pytest.mark.parametrize("make", [scored, three_classes])
def test_labels_like_the_reference_do_not_refute_it(make: Any) -> None:
    """In 300 windows of labels that follow the calibration none refutes it."""
    layout, _ = layout_of(make(20_000, 5))
    low = 0
    for seed in range(300):
        found = estimation.contradiction(labelled(layout, make(400, 100 + seed)), layout.calibrations)
        assert not found.refuted
        assert found.labels == 400
        low += found.p_value < 0.1
    assert low <= 30


def test_a_small_reference_is_not_refuted_by_its_own_sampling() -> None:
    """Ten thousand labels like those of a reference of 400 rows do not refute it: it is a sample itself."""
    for seed in range(30):
        layout, _ = layout_of(scored(400, seed))
        outcomes = labelled(layout, scored(10_000, 1000 + seed))
        assert not estimation.contradiction(outcomes, layout.calibrations).refuted


def test_concept_drift_refutes_the_calibration() -> None:
    """Twice the odds of the reference are seen within 500 labels, and not called certain with fewer than 50."""
    layout, _ = layout_of(scored(20_000, 5))
    changed = scored(500, 6, lift=math.log(2))
    found = estimation.contradiction(labelled(layout, changed), layout.calibrations)
    assert found.refuted
    assert found.z > 3
    assert found.p_value <= 2 * math.erfc(found.z / math.sqrt(2)) * (1 + 1e-9)
    few = Rows(changed.scores[:49], changed.predicted[:49], np.ones(49, int))
    assert estimation.contradiction(labelled(layout, few), layout.calibrations).p_value < 1e-6
    assert not estimation.contradiction(labelled(layout, few), layout.calibrations).refuted


def test_a_changed_slope_refutes_the_calibration() -> None:
    """As many positives as expected, but in other bins, refute it too: the bins are looked at one by one."""
    layout, _ = layout_of(scored(20_000, 5))
    table = labelled(layout, scored(20_000, 7)).astype(float)
    bins = table.shape[1]
    middle = table[:, :, :, 1] * np.where(np.arange(bins) < bins // 2, 1.5, 0.9)[:, None]
    table = np.stack([table.sum(axis=3) - middle, middle], axis=-1)
    assert estimation.contradiction(table, layout.calibrations).refuted


def test_no_labels_refute_nothing() -> None:
    """Without labels the calibration stands."""
    assert estimation.contradiction(np.zeros((1, 5, 2, 2)), [BINARY]) == (0, 0.0, 1.0)


def test_odds_that_are_hardly_off_are_tolerated() -> None:
    """Ten million labels whose odds are off by half a percent do not refute a calibration from a hundred million."""
    chance = np.array([0.1, 0.4, 0.6, 0.9])
    many = Calibration(
        (0.2, 0.5, 0.8, math.inf), (0.1, 0.4, 0.6, 0.9), tuple(int(c * 10**8) for c in chance), (10**8,) * 4
    )

    def seen(off: float) -> estimation.Contradiction:
        odds = chance / (1 - chance) * off
        positives = np.round(odds / (1 + odds) * 10**7)
        return estimation.contradiction(
            np.stack([10**7 - positives, positives], axis=-1)[None, :, None, :] * np.array([[0], [1]]), [many]
        )

    assert not seen(1.005).refuted
    assert seen(1.05).refuted


def test_rows_outside_the_reference_are_seen() -> None:
    """A tenth of the rows that the reference never saw is beyond it; one in a hundred, or chance, is not."""
    assert estimation.outside_support([0, 100, 3], [0.0, 0.0, 0.003], 1000, 10_000) == (0.1, True)
    assert estimation.outside_support([10, 0], [0.0, 0.0], 1000, 10_000) == (0.01, False)
    share, beyond = estimation.outside_support([3], [0.0], 20, 30)
    assert share == pytest.approx(0.15)
    assert not beyond
    assert estimation.outside_support([60], [0.06], 1000, 10_000) == (0.0, False)
    assert estimation.outside_support([], [], 1000, 10_000) == (0.0, False)
    with pytest.raises(ValueError, match="one entry per kind"):
        estimation.outside_support([1], [0.1, 0.2], 10, 10)


ERRORS = ErrorBins((1.0, 2.0, math.inf), (1000, 1000, 500), (1.0, 2.0, 4.0), (1.6, 6.3, 25.0), (0.1, -0.2, 1.0))


def test_expected_error_follows_what_is_predicted() -> None:
    """The errors of the reference's bins, by how often each is predicted now."""
    found = estimation.expected_error([0, 100, 300], ERRORS)
    assert found["mae"].value == pytest.approx((2.0 + 3 * 4.0) / 4)
    assert found["rmse"].value == pytest.approx(math.sqrt((6.3 + 3 * 25.0) / 4))
    assert found["bias"].value == pytest.approx((-0.2 + 3 * 1.0) / 4)
    assert all(figure.lower < figure.value < figure.upper for figure in found.values())


def test_expected_error_borrows_for_bins_without_a_reference() -> None:
    """Where the reference has no rows its mean error is taken; without any rows, nothing."""
    holes = ErrorBins((1.0, math.inf), (300, 0), (2.0, 0.0), (5.0, 0.0), (0.5, 0.0))
    found = estimation.expected_error([0, 10], holes)
    assert found["mae"].value == pytest.approx(2.0)
    assert found["bias"].value == pytest.approx(0.5)
    assert math.isnan(estimation.expected_error([0, 0, 0], ERRORS)["mae"].value)
    with pytest.raises(ValueError, match="one per bin, 3"):
        estimation.expected_error([1, 2], ERRORS)


def test_an_error_that_is_always_the_same_is_certain() -> None:
    """Where every row erred by two, so will the next: the bands have no width."""
    constant = ErrorBins((1.0, math.inf), (300, 300), (2.0, 2.0), (4.0, 4.0), (2.0, 2.0))
    assert estimation.expected_error([5, 5], constant) == dict.fromkeys(("mae", "rmse", "bias"), (2.0, 2.0, 2.0))


@pytest.mark.parametrize("tail", ["normal", "laplace"])
def test_expected_error_bands_hold_the_truth(tail: str) -> None:
    """Over random references and windows at least 93% of realised errors are in the band, also with heavy tails."""
    random = np.random.RandomState(9)
    inside = dict.fromkeys(("mae", "rmse", "bias"), 0)
    runs = 300
    for _ in range(runs):
        known, live = (
            [0.2 + (place + 1) * getattr(random, tail)(0, 1, number) for place in range(3)] for number in (200, 150)
        )
        errors = ErrorBins(
            (1.0, 2.0, math.inf),
            (200, 200, 200),
            tuple(float(np.abs(part).mean()) for part in known),
            tuple(float(np.square(part).mean()) for part in known),
            tuple(float(part.mean()) for part in known),
        )
        found = estimation.expected_error([150, 150, 150], errors)
        every = np.concatenate(live)
        truth = {"mae": np.abs(every).mean(), "rmse": math.sqrt(np.square(every).mean()), "bias": every.mean()}
        for metric, value in truth.items():
            inside[metric] += found[metric].lower <= value <= found[metric].upper
    assert min(inside.values()) >= 0.93 * runs, inside
