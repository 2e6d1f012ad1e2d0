"""A monitor and late labels: what is registered, what a label counts as, what the figures rest on, what is exported."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from monitoring import Clock, own_name
from receiver import run

import otel_mlobs as mlobs
from otel_mlobs import Monitor, OutcomeStore
from otel_mlobs.core.outcomes import CELLS
from otel_mlobs.core.profile import Profile
from otel_mlobs.telemetry import monitor as module
from otel_mlobs.testing import Telemetry

ROWS = 4_000


@pytest.fixture
def clock() -> Clock:
    """A clock for the monitors and stores of the test."""
    return Clock()


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    for one in list(module._monitors):
        one.close()


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (one feature), scores that are true probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1))
    scores = 1 / (1 + np.exp(-2 * x[:, 0]))
    return x, scores, (rng.random(count) < scores).astype(int)


def profile(**changes: Any) -> Profile:
    """A profile of 4,000 such rows, of a model of its own."""
    x, scores, labels = rows(ROWS, seed=1)
    options: dict[str, Any] = {"outputs": scores, "labels": labels, "model": own_name("followed")}
    return Profile.fit(x, **{**options, **changes})


def followed(clock: Clock, **options: Any) -> Monitor:
    """A monitor with a store in memory."""
    store = OutcomeStore("memory:", clock=clock)
    return Monitor(profile(), outcomes=store, clock=clock, window=600.0, pane=10.0, **options)


def points(telemetry: Telemetry, monitor: Monitor, metric: str) -> dict[tuple[str, ...], float]:
    """Values of ``metric`` of the monitor's model, by its labels beside the model's."""
    found = {}
    for point in telemetry.metrics.get(metric, ()):
        labels = dict(point.attributes or {})
        if labels.pop("mlobs.model.name") == monitor.profile.model:
            assert labels.pop("mlobs.profile.id") == monitor.profile.id
            found[tuple(str(value) for _, value in sorted(labels.items()))] = point.value
    return found


def direct(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> dict[str, int]:
    """The confusion cells, counted one by one."""
    counted = Counter(CELLS[2 * int(s >= threshold) + int(y)] for s, y in zip(scores, labels, strict=True))
    return {cell: counted[cell] for cell in CELLS}


def test_a_label_finds_its_prediction_and_is_counted_once(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Repeated, contradicting and unknown labels are counted by kind and change no cell."""
    monitor = followed(clock)
    x, scores, labels = rows(500)
    for index in range(500):
        monitor.observe(x[index], scores[index], prediction_id=f"p{index}")
    for index in np.random.default_rng(2).permutation(400):
        monitor.outcome(int(labels[index]), prediction_id=f"p{index}")
    for index in range(40):
        monitor.outcome(int(labels[index]), prediction_id=f"p{index}")
        monitor.outcome(int(1 - labels[index]), prediction_id=f"p{index}")
    monitor.outcome(1, prediction_id="nobody's")
    found = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    assert {cell: found[(cell,)] for cell in CELLS} == direct(scores[:400], labels[:400])
    kinds = points(mlobs_telemetry, monitor, "mlobs.outcome.labels")
    assert {kind: count for (kind,), count in kinds.items() if count} == {
        "joined": 400, "duplicate": 40, "conflict": 40, "unknown": 1,
    }  # fmt: skip
    assert points(mlobs_telemetry, monitor, "mlobs.outcome.predictions") == {(): 500}
    status = monitor.status()
    right = int(np.sum((scores[:400] >= 0.5) == labels[:400]))
    assert status.performance["accuracy"].realized == pytest.approx(right / 400)
    assert status.performance["accuracy"].labelled == 400
    assert status.performance["accuracy"].coverage == pytest.approx(0.8)
    assert status.performance["accuracy"].basis == "label_arrival"


def test_the_area_under_the_curve_comes_from_the_bins(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Exported by bin and label, with the negatives below, the counts give the area without a running sum."""
    monitor = followed(clock)
    x, scores, labels = rows(3_000)
    monitor.observe(x, scores, prediction_id=[f"p{index}" for index in range(3_000)])
    for index in range(3_000):
        monitor.outcome(bool(labels[index]), prediction_id=f"p{index}")
    found = points(mlobs_telemetry, monitor, "mlobs.outcome.scores")
    table: dict[str, dict[str, float]] = {}
    for (cell, label), value in found.items():
        table.setdefault(cell, {})[label] = value
    total = {label: sum(row[label] for row in table.values()) for label in ("positive", "negative")}
    assert total == {"positive": labels.sum(), "negative": 3_000 - labels.sum()}
    pairs = sum(row["positive"] * (row["negative_below"] + row["negative"] / 2) for row in table.values())
    pos, neg = scores[labels == 1], scores[labels == 0]
    exact = float(np.mean(pos[:, None] > neg[None, :]) + np.mean(pos[:, None] == neg[None, :]) / 2)
    assert pairs / total["positive"] / total["negative"] == pytest.approx(exact, abs=1e-3)
    assert monitor.status().performance["roc_auc"].realized == pytest.approx(exact, abs=1e-3)


def test_without_labels_performance_is_estimated(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """The estimate's band holds the truth that nobody told, and no measured figure is made of it."""
    monitor = followed(clock)
    x, scores, labels = rows(4_000, seed=5)
    monitor.observe(x, scores)
    found = monitor.status().performance
    true = float(np.mean((scores >= 0.5) == labels))
    assert found["accuracy"].lower < true < found["accuracy"].upper
    assert found["accuracy"].upper - found["accuracy"].lower < 0.06
    assert all(math.isnan(one.realized) and one.reliable and not one.alert for one in found.values())
    expected = points(mlobs_telemetry, monitor, "mlobs.expected_outcomes")
    assert sum(expected.values()) == pytest.approx(4_000)
    assert expected[("tp",)] / (expected[("tp",)] + expected[("fn",)]) == pytest.approx(found["recall"].estimated)


def test_labels_that_contradict_the_calibration_make_the_estimate_unreliable(
    clock: Clock, mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """Concept drift: the scores are as ever, and wrong; what was measured alerts, the estimate is withdrawn."""
    monitor = followed(clock)
    x, scores, labels = rows(1_000, seed=6)
    monitor.observe(x, scores, prediction_id=[f"p{index}" for index in range(1_000)])
    for index in range(300):
        monitor.outcome(int(1 - labels[index]), prediction_id=f"p{index}")
    clock.now += 10.0
    monitor.observe(x[:1], scores[:1])
    one = monitor.status().performance["accuracy"]
    assert not one.reliable
    assert "contradict" in one.reasons[0]
    assert one.alert
    assert one.measured_alert
    assert points(mlobs_telemetry, monitor, "mlobs.performance.reliable") == {(): 0}
    assert points(mlobs_telemetry, monitor, "mlobs.performance.estimate") == {}
    assert ("value", "accuracy") in points(mlobs_telemetry, monitor, "mlobs.performance.realized")
    assert any("out of its thresholds" in record.message and "accuracy" in record.message for record in caplog.records)


def test_a_figure_at_the_edge_of_its_thresholds_is_said_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It is back when it has been back for ten looks, and not at each."""
    monitor = followed(clock)
    lines = monitor._log
    out = monitor.status().performance["accuracy"]
    for alert in (True, False, True, False, True, *[False] * 10, False):
        lines.performance({"accuracy": dataclasses.replace(out, alert=alert)})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "is out of its thresholds" in said[0]
    assert "within its thresholds again: 'accuracy'" in said[1]


def test_inputs_that_the_reference_never_had_make_the_estimate_unreliable(clock: Clock) -> None:
    """A calibration holds where the reference had rows: a feature gone missing is beyond it."""
    monitor = followed(clock)
    x, scores, _ = rows(1_000, seed=7)
    x[:200] = np.nan
    monitor.observe(x, scores)
    clock.now += 10.0
    monitor.observe(x[200:201], scores[200:201])
    one = monitor.status().performance["roc_auc"]
    assert not one.reliable
    assert "'x0'" in one.reasons[0]
    assert not one.alert


def test_inputs_beyond_the_references_range_make_the_estimate_unreliable(clock: Clock) -> None:
    """Nothing is missing and nothing is strange but that no training row was ever as large."""
    monitor = followed(clock)
    x, scores, _ = rows(1_000, seed=7)
    x[:200] = 50.0
    monitor.observe(x, scores)
    clock.now += 10.0
    monitor.observe(x[200:201], scores[200:201])
    one = monitor.status().performance["roc_auc"]
    assert not one.reliable
    assert "out of its range" in one.reasons[0]
    clock.now += 620.0
    monitor.observe(x[200:], scores[200:])
    clock.now += 10.0
    monitor.observe(x[200:201], scores[200:201])
    assert monitor.status().performance["roc_auc"].reliable, "they have left the window"


def test_with_maturity_a_prediction_counts_when_it_is_old_enough(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Only positives are reported: what has none after a week was negative, and a later label is late."""
    monitor = followed(clock, maturity="7d", unlabelled="negative")
    x, scores, labels = rows(400, seed=8)
    for index in range(400):
        monitor.observe(x[index], scores[index], prediction_id=f"p{index}")
    for index in np.flatnonzero(labels):
        monitor.outcome(1, prediction_id=f"p{index}")
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 0
    clock.now += 7 * 86_400.0 + 20.0
    monitor.observe(x[0], scores[0])
    assert {cell: value for (cell,), value in points(mlobs_telemetry, monitor, "mlobs.outcomes").items()} == direct(
        scores, labels
    )
    mature = points(mlobs_telemetry, monitor, "mlobs.outcome.mature")
    assert mature == {("true",): labels.sum(), ("false",): 400 - labels.sum()}
    negative = int(np.flatnonzero(labels == 0)[0])
    monitor.outcome(1, prediction_id=f"p{negative}")
    assert points(mlobs_telemetry, monitor, "mlobs.outcome.labels")[("late",)] == 1
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 400


def test_unlabelled_predictions_are_left_out_unless_told_otherwise(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """They lower the coverage and are in no cell."""
    monitor = followed(clock, maturity=60.0)
    x, scores, labels = rows(100, seed=9)
    for index in range(100):
        monitor.observe(x[index], scores[index], prediction_id=f"p{index}")
    for index in range(30):
        monitor.outcome(int(labels[index]), prediction_id=f"p{index}")
    clock.now += 75.0
    monitor.observe(x[0], scores[0])
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 30
    one = monitor.status().performance["accuracy"]
    assert one.coverage == pytest.approx(0.3)
    assert one.basis == "maturity"


def test_values_are_counted_by_cell_and_currency(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """What was blocked rightly, blocked wrongly and missed, in money; a score of the caller's own needs no store."""
    monitor = Monitor(profile(), clock=clock)
    for score, label, value, currency in (
        (0.9, 1, 10.0, "EUR"), (0.9, 0, 5.0, "EUR"), (0.1, 1, 7.0, "USD"), (0.8, 1, 2.5, "EUR"), (0.1, 0, 1.0, None),
    ):  # fmt: skip
        monitor.outcome(label, score=score, value=value, currency=currency)
    assert points(mlobs_telemetry, monitor, "mlobs.outcome.value") == {
        ("EUR", "tp"): 12.5, ("EUR", "fp"): 5.0, ("USD", "fn"): 7.0, ("XXX", "tn"): 1.0,
    }  # fmt: skip


def test_the_span_carries_the_id_that_a_label_needs(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """The id is made where the caller has none, is on the span, and joins."""
    monitor = followed(clock)
    told = []

    @mlobs.prediction(monitor=monitor, inputs="row")
    def predict(row: dict[str, float]) -> float:
        told.append(mlobs.current_operation().prediction_id)
        return 0.9

    predict({"x0": 1.0})
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs={"x0": 1.0}, outputs=0.2)
        told.append(op.prediction_id)
    with mlobs.prediction(monitor=monitor) as op:
        op.prediction_id = "order-17"
        op.record(inputs={"x0": 1.0}, outputs=0.3)
    ids = [span.attributes["mlobs.prediction.id"] for span in mlobs_telemetry.spans if span.attributes]
    assert ids == [*told, "order-17"]
    assert len(set(ids)) == 3
    for one in ids:
        monitor.outcome(1, prediction_id=one)
    found = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    assert (found[("tp",)], found[("fn",)]) == (1, 2)


def test_without_a_decorated_functions_asking_its_prediction_is_registered_too(clock: Clock) -> None:
    """Nobody has to ask for the id: the header or the span tells it."""
    monitor = followed(clock)

    @mlobs.prediction(monitor=monitor)
    def predict(rows: list[dict[str, float]]) -> list[float]:
        return [0.9 for _ in rows]

    predict([{"x0": 1.0}, {"x0": 2.0}])
    store = monitor._settings["outcomes"]
    records = list(store.records(next(iter(store.streams())), 0.0, 1e12))
    first, second = sorted(record.prediction.id for record in records)
    assert first.endswith(".0")
    assert second == f"{first[:-1]}1"


def test_a_prediction_has_its_id_where_nobody_listens() -> None:
    """Services run with telemetry off, and their clients report labels all the same."""
    assert run("""
        import numpy as np
        import otel_mlobs as mlobs
        x = np.linspace(0, 1, 100).reshape(-1, 1)
        profile = mlobs.Profile.fit(x, outputs=x[:, 0], labels=x[:, 0] > 0.5, model="m")
        monitor = mlobs.Monitor(profile, outcomes=mlobs.OutcomeStore("memory:"))

        @mlobs.prediction(monitor=monitor, outputs=lambda result: result[0])
        def predict(row):
            return 0.9, mlobs.current_operation().prediction_id

        _, prediction_id = predict({"x0": 0.5})
        monitor.outcome(1, prediction_id=prediction_id)
        print(monitor.status().performance["recall"].realized)
    """).out.split() == ["1.0"]  # fmt: skip


def test_variants_are_counted_apart(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """An A/B test: cells by variant, and the variant on span and duration."""
    monitor = followed(clock)
    for variant, score in (("a", 0.9), ("b", 0.1)):
        with mlobs.prediction(monitor=monitor, variant=variant) as op:
            op.prediction_id = variant
            op.record(inputs={"x0": 0.0}, outputs=score)
        monitor.outcome(1, prediction_id=variant)
    found = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    assert found[("a", "tp")] == found[("b", "fn")] == 1
    assert found[("tp",)] == found[("fn",)] == 0
    spans = [span.attributes for span in mlobs_telemetry.spans if span.attributes]
    assert [span["feature_flag.result.variant"] for span in spans] == ["a", "b"]


def test_another_profiles_prediction_is_no_cell_of_this_ones(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Two versions share a store: the label is kept, and counted as another profile's."""
    store = OutcomeStore("memory:", clock=clock)
    old = Monitor(profile(), outcomes=store, clock=clock)
    new = Monitor(profile(), outcomes=store, clock=clock)
    old.observe([0.0], 0.9, prediction_id="old")
    new.outcome(1, prediction_id="old")
    kinds = points(mlobs_telemetry, new, "mlobs.outcome.labels")
    assert kinds[("other_profile",)] == 1
    assert kinds[("joined",)] == 0
    assert sum(points(mlobs_telemetry, new, "mlobs.outcomes").values()) == 0


def test_regressions_have_errors_measured_and_expected(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Mean absolute and squared error of the labels that came, and of what the reference lets one expect."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2_000, 1))
    predicted = 50 + 10 * x[:, 0]
    labels = predicted + rng.normal(size=2_000) * 3
    fitted = Profile.fit(x, outputs=predicted, labels=labels, output_kind="regression", model="prices")
    monitor = Monitor(fitted, outcomes=OutcomeStore("memory:", clock=clock), clock=clock)
    monitor.observe(x[:500], predicted[:500], prediction_id="batch")
    for index in range(200):
        monitor.outcome(float(labels[index]), prediction_id=f"batch.{index}")
    found = monitor.status().performance
    error = predicted[:200] - labels[:200]
    assert found["mae"].realized == pytest.approx(np.abs(error).mean())
    assert found["rmse"].realized == pytest.approx(np.sqrt((error**2).mean()))
    assert found["mae"].lower < np.abs(predicted[:500] - labels[:500]).mean() < found["mae"].upper
    sums = points(mlobs_telemetry, monitor, "mlobs.outcome.error")
    assert sums[("over",)] + sums[("under",)] == pytest.approx(np.abs(error).sum())


def test_several_classes_are_each_taken_against_the_rest(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Macro figures, cells by class; a label that is no class is invalid and joins nothing."""
    rng = np.random.default_rng(4)
    p = rng.dirichlet([1, 1, 1], size=3_000)
    labels = np.array([rng.choice(["ash", "elm", "oak"], p=row) for row in p])
    fitted = Profile.fit(rng.normal(size=(3_000, 1)), outputs=p, labels=labels, model="trees")
    monitor = Monitor(fitted, outcomes=OutcomeStore("memory:", clock=clock), clock=clock)
    monitor.observe(np.zeros((1_000, 1)), p[:1_000], prediction_id="t")
    for index in range(1_000):
        monitor.outcome(str(labels[index]), prediction_id=f"t.{index}")
    monitor.outcome("fir", prediction_id="t.0")
    names = np.array(["ash", "elm", "oak"])
    answered = names[p[:1_000].argmax(axis=1)]
    found = monitor.status().performance
    assert found["accuracy"].realized == pytest.approx(np.mean(answered == labels[:1_000]))
    assert found["accuracy"].lower < found["accuracy"].realized < found["accuracy"].upper
    cells = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    for index, name in enumerate(names):
        true = int(np.sum((answered == name) & (labels[:1_000] == name)))
        assert cells[("tp", f"c{index:02d}")] == true
    assert points(mlobs_telemetry, monitor, "mlobs.outcome.labels")[("invalid",)] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either prediction_id= or score="),
        ({"prediction_id": "a", "score": 0.5}, "either prediction_id= or score="),
        ({"prediction_id": ""}, "1 to 256 characters"),
        ({"prediction_id": "a", "value": -1.0}, "not negative"),
        ({"prediction_id": "a", "value": math.inf}, "finite"),
        ({"prediction_id": "a", "value": 1.0, "currency": "euro"}, "three capitals"),
        ({"prediction_id": "a", "currency": "EUR"}, "needs a value"),
    ],
)
def test_a_call_that_says_too_little_is_refused(clock: Clock, arguments: dict[str, Any], message: str) -> None:
    """A mistake in the call is told at once, with what was expected."""
    monitor = followed(clock)
    with pytest.raises((ValueError, TypeError), match=message):
        monitor.outcome(1, **arguments)


@pytest.mark.parametrize("label", [None, float("nan"), np.nan])
def test_a_missing_label_is_refused(clock: Clock, label: Any) -> None:
    """A prediction without a label needs no call."""
    with pytest.raises(ValueError, match="must not be missing"):
        followed(clock).outcome(label, score=0.5)


def test_monitors_that_cannot_follow_are_refused(clock: Clock) -> None:
    """Labels need outputs, an unlabelled negative needs an age and a score, an id needs a store."""
    store = OutcomeStore("memory:", clock=clock)
    x, _, _ = rows(100)
    with pytest.raises(ValueError, match="profile with outputs"):
        Monitor(Profile.fit(x, model="m"), outcomes=store)
    with pytest.raises(ValueError, match="needs maturity"):
        Monitor(profile(), outcomes=store, unlabelled="negative")
    with pytest.raises(ValueError, match="maturity must be positive"):
        Monitor(profile(), outcomes=store, maturity="soon")
    with pytest.raises(ValueError, match="shorter than the store keeps"):
        Monitor(profile(), outcomes=store, maturity="30d")
    with pytest.raises(ValueError, match="needs a store"):
        Monitor(profile()).outcome(1, prediction_id="a")
    with pytest.raises(TypeError, match="must be a store"):
        Monitor(profile(), outcomes="redis://localhost")  # type: ignore[arg-type]


def test_a_followed_monitor_pickles_as_its_settings(clock: Clock) -> None:
    """As Spark and joblib need it: what waits in memory stays here."""
    store = OutcomeStore("memory:")
    monitor = Monitor(profile(), outcomes=store, maturity="1h")
    copy = pickle.loads(pickle.dumps(monitor))
    assert copy.follows
    assert copy._settings["maturity"] == 3_600.0
    copy.close()


def test_the_status_shows_estimate_and_measure_apart(clock: Clock) -> None:
    """A person reads which is which, on how many labels, and why one is not to be relied on."""
    monitor = followed(clock)
    x, scores, labels = rows(1_000, seed=6)
    monitor.observe(x, scores, prediction_id="b")
    for index in range(100):
        monitor.outcome(int(1 - labels[index]), prediction_id=f"b.{index}")
    text = str(monitor.status())
    assert "estimated" in text
    assert "measured: on 100 labels by label arrival; coverage 10.0%" in text
    assert "unreliable" in text
    assert "not to be relied on: 100 labels contradict the calibration" in text


def test_a_column_turned_null_is_not_called_drift_of_the_values(
    clock: Clock, mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """The log, the event and the status say that values are missing, and that the rest is as ever."""
    monitor = followed(clock)
    x, scores, _ = rows(2_000, seed=7)
    x[::2] = np.nan
    monitor.observe(x, scores)
    clock.now += 10.0
    with mlobs.prediction(monitor=monitor) as op:
        op.record(inputs=x[1], outputs=scores[1])
    one = monitor.status().features["x0"]
    assert one.status == "drift"
    assert one.cause == "missing"
    lines = [record.getMessage() for record in caplog.records if "x0" in record.getMessage()]
    assert any("is given less" in line and "50.0% missing, 0.0% in training" in line for line in lines)
    assert not any("drifts" in line for line in lines)
    (event,) = (event for span in mlobs_telemetry.spans for event in span.events if event.name == "mlobs.drift.changed")
    assert dict(event.attributes or {})["mlobs.drift.causes"] == ("missing",)
    x[1::2] += 3
    monitor.observe(x, scores)
    assert monitor.status().features["x0"].cause == "values"


def test_a_regression_has_thresholds_and_alerts(clock: Clock) -> None:
    """Predictions that are all ten too low are told, on the labels that say so."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4_000, 1))
    predicted = 100 + 20 * x[:, 0]
    fitted = Profile.fit(x, outputs=predicted, labels=predicted + rng.normal(size=4_000) * 5, model="alerting")
    monitor = Monitor(fitted, clock=clock)
    for index in range(200):
        monitor.outcome(float(predicted[index] + rng.normal() * 5), score=float(predicted[index]))
    found = monitor.status().performance
    assert not any(one.alert for one in found.values())
    assert found["mae"].threshold_lower < 4.0 < found["mae"].threshold_upper
    for index in range(200):
        monitor.outcome(float(predicted[index] + 10), score=float(predicted[index]))
    found = monitor.status().performance
    assert found["mae"].measured_alert
    assert found["bias"].measured_alert
    assert "out of thresholds: mae, rmse, bias" in str(monitor.status()).splitlines()[0]
    monitor.close()


def test_figures_are_there_in_a_quiet_hour(clock: Clock) -> None:
    """A health page that reads one does not fail at night."""
    monitor = followed(clock)
    one = monitor.status().performance["roc_auc"]
    assert math.isnan(one.estimated)
    assert math.isnan(one.realized)
    assert math.isnan(one.coverage)
    assert not one.alert


def test_the_status_says_what_became_of_the_labels(clock: Clock) -> None:
    """Why is nothing measured? Because the ids are wrong, and the labels are text."""
    monitor = followed(clock)
    x, scores, _ = rows(20)
    monitor.observe(x, scores, prediction_id="b")
    for index in range(5):
        monitor.outcome(1, prediction_id=f"wrong-{index}")
        monitor.outcome("yes", prediction_id=f"b.{index}")
    assert monitor.status().labels == {"unknown": 5, "invalid": 5}
    assert "labels told to this process: 5 unknown, 5 invalid" in str(monitor.status())


def test_an_estimate_is_judged_by_the_rows_that_it_is_of(clock: Clock) -> None:
    """Also before the first pane has ended."""
    monitor = followed(clock)
    x, scores, _ = rows(1_000, seed=7)
    monitor.observe(x + 50, scores)
    one = monitor.status().performance["accuracy"]
    assert not one.reliable
    assert "100.0% of the rows" in one.reasons[0]


def test_without_maturity_coverage_is_of_all_that_was_predicted(clock: Clock) -> None:
    """Labels of predictions that have left the window are no coverage of those that are in it."""
    monitor = followed(clock)
    x, scores, labels = rows(1_000)
    monitor.observe(x, scores, prediction_id="old")
    clock.now += 700.0
    monitor.observe(x[:10], scores[:10], prediction_id="new")
    for index in range(404):
        monitor.outcome(int(labels[index]), prediction_id=f"old.{index}")
    assert monitor.status().performance["accuracy"].coverage == pytest.approx(404 / 1_010)


def test_a_prediction_counts_as_it_was_registered(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """A job whose monitor has no maturity leaves counting to the service, which has one; and the other way round."""
    store = OutcomeStore("memory:", clock=clock)
    fitted = profile()
    service = Monitor(fitted, outcomes=store, maturity="1h", clock=clock)
    job = Monitor(fitted, outcomes=store, clock=clock)
    service.observe([[0.1]] * 10, [0.9] * 10, prediction_id="s")
    job.observe([[0.1]] * 10, [0.9] * 10, prediction_id="j")
    report = store.join([(f"s.{n}", 1) for n in range(10)], told=job.joined)
    assert report.joined == 10
    for number in range(10):
        service.outcome(1, prediction_id=f"j.{number}")
    assert sum(points(mlobs_telemetry, service, "mlobs.outcomes").values()) == 10
    clock.now += 3_700.0
    service.observe([0.1], 0.9)
    assert sum(points(mlobs_telemetry, service, "mlobs.outcomes").values()) == 20


def test_labels_that_the_model_cannot_have_are_invalid_whoever_joined_them(
    clock: Clock, mlobs_telemetry: Telemetry
) -> None:
    """A job without a profile joins what it is given; the figures know better."""
    monitor = followed(clock)
    monitor.observe([0.1], 0.9, prediction_id="a")
    store = monitor._settings["outcomes"]
    store.join([("a", "yes")], told=monitor.joined)
    assert monitor.status().labels == {"invalid": 1}
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 0


def test_an_invalid_label_of_a_mature_prediction_lowers_the_coverage(clock: Clock) -> None:
    """It is counted as countable, and not as labelled."""
    monitor = followed(clock, maturity=60.0)
    monitor.observe([[0.1]] * 4, [0.9] * 4, prediction_id="a")
    store = monitor._settings["outcomes"]
    store.join([("a.0", "yes"), ("a.1", 1), ("a.2", 0)])
    clock.now += 75.0
    monitor.observe([0.1], 0.9)
    assert monitor.status().performance["accuracy"].coverage == 0.5
    assert monitor.status().labels == {"invalid": 1}


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (np.int64(7), ["7.0", "7.1"]),
        (np.str_("ab"), ["ab.0", "ab.1"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([1, 2]), ["1", "2"]),
        (("x", 3), ["3", "x"]),
    ],
)
def test_ids_come_as_people_have_them(clock: Clock, given: Any, ids: list[str]) -> None:
    """NumPy's scalars and arrays, tuples, numbers; never torn into letters."""
    monitor = followed(clock)
    monitor.observe([[0.1], [0.2]], [0.9, 0.1], prediction_id=given)
    store = monitor._settings["outcomes"]
    assert sorted(one.prediction.id for one in store.records(store.streams()[0], 0.0, 1e12)) == ids


@pytest.mark.parametrize("given", [["a"], ["a", "b", "c"], {"a": 1}, iter(["a", "b"]), "x" * 1_000, object, 1.5])
def test_predictions_with_wrong_ids_are_registered_under_ours(clock: Clock, given: Any, lenient: None) -> None:
    """They are not lost; the log says what was wrong."""
    monitor = followed(clock)
    monitor.observe([[0.1], [0.2]], [0.9, 0.1], prediction_id=given)
    store = monitor._settings["outcomes"]
    assert len(list(store.records(store.streams()[0], 0.0, 1e12))) == 2


def test_a_variant_is_text_whatever_it_was(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """A list or a lone surrogate costs no label and no export."""
    monitor = followed(clock)
    for number, variant in enumerate((["a"], "b\ud800", "c")):
        monitor.observe([0.1], 0.9, prediction_id=str(number), variant=variant)  # type: ignore[arg-type]
        monitor.outcome(1, prediction_id=str(number))
    found = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    assert found[("['a']", "tp")] == found[("b?", "tp")] == found[("c", "tp")] == 1


def test_scores_beyond_the_references_make_the_estimate_unreliable(clock: Clock) -> None:
    """A bin without an end would believe them most."""
    monitor = followed(clock)
    x, scores, _ = rows(500)
    scores[:100] = 7.0
    monitor.observe(x, scores)
    one = monitor.status().performance["accuracy"]
    assert not one.reliable
    assert "20.4% of the predictions are beyond" in one.reasons[0]


def test_a_reference_that_never_erred_alerts_nobody(clock: Clock) -> None:
    """Its thresholds have a width, though its figure is exactly one."""
    rng = np.random.default_rng(3)
    scores = np.where(rng.random(2_000) < 0.5, 0.995, 0.01)
    labels = (scores > 0.5).astype(int)
    fitted = Profile.fit(scores.reshape(-1, 1), outputs=scores, labels=labels, model="perfect")
    monitor = Monitor(fitted, clock=clock)
    for number in range(1_000):
        monitor.outcome(int(number % 500 != 0), score=0.995)
    one = monitor.status().performance["precision"]
    assert one.realized == 0.998
    assert not one.alert
    monitor.close()


def test_a_figure_out_of_few_rows_alerts_nobody(clock: Clock) -> None:
    """One positive answer in three hundred is no precision."""
    monitor = followed(clock)
    for number in range(300):
        monitor.outcome(0, score=0.9 if number == 0 else 0.01)
    found = monitor.status().performance
    assert found["precision"].realized == 0.0
    assert not found["precision"].alert
    assert found["accuracy"].alert, "it is out of all of them, and higher than the reference's"


def test_a_fork_does_not_count_what_an_ended_monitor_counted() -> None:
    """A warm-up in the parent of a preloaded server is the parent's."""
    assert run("""
        import os
        import numpy as np
        import otel_mlobs as mlobs
        from otel_mlobs.testing import capture
        x = np.linspace(0, 1, 200).reshape(-1, 1)
        profile = mlobs.Profile.fit(x, outputs=x[:, 0], labels=(x[:, 0] > 0.5).astype(int), model="m")
        with capture() as telemetry:
            monitor = mlobs.Monitor(profile, outcomes=mlobs.OutcomeStore("memory:"))
            monitor.observe(x, x[:, 0], prediction_id="a")
            for number in range(100):
                monitor.outcome(1, prediction_id=f"a.{number}")
            monitor.close()
            del monitor
            reading, writing = os.pipe()
            if os.fork() == 0:
                found = [sum(point.value for point in telemetry.metrics.get(name, ())) for name in
                         ("mlobs.outcome.labels", "mlobs.outcome.predictions", "mlobs.prediction.observations")]
                os.write(writing, repr(found).encode())
                os._exit(0)
            os.wait()
            print(os.read(reading, 1000).decode())
    """).out.strip() in ("[0, 0, 0]", "[0.0, 0, 0]")  # fmt: skip


def test_claimed_predictions_are_counted_before_a_monitor_ends(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """A store that takes its time gives what nobody else will be given: the end waits for it."""
    import threading
    import time

    store = OutcomeStore("memory:", clock=clock)

    class Slow:
        kind = "sql"
        claiming = threading.Event()

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def claim(self, stream: str, now: float, limit: int) -> Any:
            found = store.claim(stream, now, limit)
            self.claiming.set()
            time.sleep(0.3)
            return found

        register, register_many, submit = store.register, store.register_many, store.submit

    slow = Slow()
    monitor = Monitor(profile(), outcomes=slow, maturity=60.0, clock=clock)
    monitor.observe([[0.1]] * 10, [0.9] * 10, prediction_id="a")
    for number in range(10):
        monitor.outcome(1, prediction_id=f"a.{number}")
    clock.now += 75.0
    monitor.observe([0.1], 0.9)
    assert slow.claiming.wait(10)
    monitor.close()
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 10


def test_an_estimate_that_is_not_reliable_alerts_nobody(clock: Clock) -> None:
    """The same scores, far better than the reference's: an alert where they are believed, none where they are not."""
    sure = np.where(np.random.default_rng(5).random(1_000) < 0.5, 0.99, 0.01)
    for shift, reliable in ((0.0, True), (50.0, False)):
        monitor = followed(clock)
        x, _, _ = rows(1_000, seed=7)
        monitor.observe(x + shift, sure)
        one = monitor.status().performance["accuracy"]
        assert one.estimated > one.threshold_upper
        assert one.reliable is reliable
        assert one.alert is reliable
        assert not one.measured_alert


def test_categories_that_the_reference_never_had_make_the_estimate_unreliable(clock: Clock) -> None:
    """A plan that is new to the model is beyond what it was calibrated on."""
    rng = np.random.default_rng(6)
    scores = rng.random(2_000)
    plans = rng.choice(["basic", "plus"], 2_000)
    fitted = Profile.fit(
        {"plan": plans}, outputs=scores, labels=(rng.random(2_000) < scores).astype(int), model="plans"
    )
    monitor = Monitor(fitted, clock=clock)
    monitor.observe({"plan": np.where(np.arange(2_000) % 10 == 0, "trial", plans)}, scores)
    assert not monitor.status().performance["accuracy"].reliable
    monitor.close()


def test_a_backlog_that_matures_at_once_is_counted_whole(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """More than are claimed at a time."""
    monitor = followed(clock, maturity=60.0, unlabelled="negative")
    x, scores, _ = rows(2_500)
    monitor.observe(x, scores)
    clock.now += 75.0
    monitor.observe(x[0], scores[0])
    assert sum(points(mlobs_telemetry, monitor, "mlobs.outcomes").values()) == 2_500
    assert points(mlobs_telemetry, monitor, "mlobs.outcome.mature")[("false",)] == 2_500


def test_variants_and_currencies_are_bounded(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """What comes after the first twenty is counted as other."""
    monitor = followed(clock)
    for number in range(60):
        name = f"{chr(65 + number % 26)}{chr(65 + number // 26)}A"
        monitor.observe([0.1], 0.9, prediction_id=name, variant=name)
        monitor.outcome(1, prediction_id=name, value=1.0, currency=name)
        monitor.status()
    found = points(mlobs_telemetry, monitor, "mlobs.outcomes")
    assert found[("other", "tp")] == 40
    assert len({labels[0] for labels in found if len(labels) == 2}) == 21
    value = points(mlobs_telemetry, monitor, "mlobs.outcome.value")
    assert value[("other", "tp")] == 40.0
    assert sum(value.values()) == 60.0
    assert len(value) == 21
