"""The recording rules for outcomes as promtool evaluates them, beside core's figures of the same counts."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_mlobs.core.outcomes import CELLS, Figure, cells, labels_by_bin, performance, regression, roc_auc, wilson
from otel_mlobs.tools.outcome_rules import outcome_rules

GOLDEN = Path(__file__).parent.parent / "golden"
MINUTES = 60
WORKERS = 3
EACH = ("positive", "negative", "negative_below")

Floats = NDArray[np.float64]


class Model:
    """A model's counters: what each adds in a minute, over all workers."""

    def __init__(self, name: str) -> None:
        self.labels = {
            "job": "shop",
            "mlobs_model_name": name,
            "mlobs_model_version": "3",
            "mlobs_profile_id": "3f9c2a71b04d",
        }
        self.counters: list[tuple[str, dict[str, str], float]] = []
        self.reliable: list[int] = []

    def count(self, metric: str, a_minute: float, **labels: str) -> None:
        self.counters.append((metric, {f"mlobs_{key}": value for key, value in labels.items()}, a_minute))

    def outcomes(self, table: NDArray[Any], what: str = "outcome") -> None:
        """The series of an outcome table: cells, and score bins by label."""
        several = len(table) > 1
        plural = "outcomes" if what == "outcome" else "expected_outcomes"
        for index, (counts, *bins) in enumerate(zip(cells(table), *labels_by_bin(table), strict=True)):
            of = {"outcome_class": f"c{index:02d}"} if several else {}
            for cell, count in zip(CELLS, counts.tolist(), strict=True):
                self.count(f"mlobs_{plural}_total", count, outcome_cell=cell, **of)
            for label, row in zip(EACH, bins, strict=True):
                for place, count in enumerate(row.tolist()):
                    self.count(f"mlobs_{what}_scores_total", count, bin=f"b{place:02d}", outcome_label=label, **of)

    def series(self) -> list[dict[str, str]]:
        """Everything as promtool's input, samples a minute apart, a third of it from each worker.

        Counters rise evenly from zero, so that what `increase` extrapolates is what they add.
        """
        found = []
        for worker in range(WORKERS):
            labels = {**self.labels, "instance": f"worker-{worker}"}
            for metric, more, a_minute in self.counters:
                part = a_minute / WORKERS
                values = " ".join(repr(float(part * minute)) for minute in range(MINUTES + 1))
                own = {**labels, **more}
                if metric.startswith("mlobs_ranking"):
                    del own["mlobs_profile_id"]
                found.append({"series": metric + _selector(own), "values": values})
            if self.reliable:
                series = "mlobs_performance_reliable_ratio" + _selector(labels)
                found.append({"series": series, "values": f"{self.reliable[worker]}x{MINUTES}"})
        return found


def _selector(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


class Check:
    """Expressions and their values; None where there must be no sample."""

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.tests: list[dict[str, Any]] = []

    def add(self, model: str, record: str, value: float | None, **labels: str) -> None:
        matchers = {"mlobs_model_name": model, **{f"mlobs_{key}": text for key, text in labels.items()}}
        name = record.format(self.operation)
        series = f"{name}{_selector(matchers)}"
        self.expect(f"count({series})", None if value is None else 1)
        if value is not None:
            self.expect(f"abs(sum({series}) - {value!r}) < bool {1e-9 * max(1, abs(value))!r}", 1)

    def expect(self, expression: str, value: float | None) -> None:
        samples = [] if value is None else [{"labels": "{}", "value": value}]
        self.tests.append({"expr": expression, "eval_time": f"{MINUTES}m", "exp_samples": samples})

    def figure(
        self, model: str, metric: str, figure: Figure, record: str = "model:mlobs_performance_realized:{}"
    ) -> None:
        for bound, value in figure._asdict().items():
            known = None if math.isnan(value) else value
            self.add(model, record, known, performance_metric=metric, performance_bound=bound)

    def run(self, promtool: Path, folder: Path, rules: Path, models: list[Model]) -> None:
        """Fails with promtool's output unless every expression has its value within 1e-9, absolute or relative."""
        groups = [line.split(": ")[1] for line in rules.read_text().splitlines() if line.startswith("  - name: ")]
        content = {
            "rule_files": [str(rules)],
            "evaluation_interval": "1m",
            "group_eval_order": groups,
            "tests": [
                {
                    "interval": "1m",
                    "input_series": [each for model in models for each in model.series()],
                    "promql_expr_test": self.tests,
                }
            ],
        }
        path = folder / "rules.test.yml"
        path.write_text(json.dumps(content))  # JSON is YAML
        done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def _binary(rng: np.random.Generator, bins: int = 12) -> NDArray[np.int64]:
    """An outcome table with a threshold between the bins, most rows negative."""
    table = np.zeros((1, bins, 2, 2), np.int64)
    for place in range(bins):
        share = (place + 0.5) / bins
        table[0, place, int(place >= 7)] = rng.poisson([30 * (1 - share), 20 * share])
    return table


def _several(rng: np.random.Generator) -> NDArray[np.int64]:
    """Of four classes one is never predicted, and one is neither predicted nor true."""
    bins, rows = 10, 600
    probabilities = rng.dirichlet([1.0, 1.5, 0.3], rows)
    labels = np.array([rng.choice(3, p=one) for one in probabilities])
    probabilities = np.column_stack([probabilities, np.zeros(rows)])
    chosen = probabilities[:, :2].argmax(axis=1)
    table = np.zeros((4, bins, 2, 2), np.int64)
    for one in range(4):
        place = np.minimum((probabilities[:, one] * bins).astype(int), bins - 1)
        np.add.at(table, (one, place, (chosen == one).astype(int), (labels == one).astype(int)), 1)
    return table


def _expected(table: NDArray[Any]) -> tuple[Floats, Floats]:
    """What a calibration expects of twice as many predictions, and that calibration."""
    classes, bins = table.shape[:2]
    calibrated = np.broadcast_to((np.arange(bins) + 0.5) / (bins + 1), (classes, bins))
    predicted = 2.0 * table.sum(axis=3) + 3.0 * np.eye(2)[(np.arange(bins) > bins / 2).astype(int)]
    return predicted[..., None] * np.stack([1 - calibrated, calibrated], axis=-1)[:, :, None], calibrated


def _classified(check: Check, name: str, table: NDArray[np.int64], *, reliable: bool = True) -> Model:
    model = Model(name)
    expected, calibrated = _expected(table)
    model.outcomes(table)
    model.outcomes(expected, "expected_outcome")
    model.reliable = [1, 1, 1 if reliable else 0]
    found = performance(table * MINUTES, calibrated)
    for metric, record in (
        ("brier", "model:mlobs_calibrated_brier:{}"),
        ("log_loss", "model:mlobs_calibrated_log_loss:{}"),
        ("calibration_error", "model:mlobs_calibration_error:{}"),
    ):
        check.add(name, record, found.pop(metric).value)
    # PromQL has no running sum over positives: the area's interval is the widest that its variance allows
    positives, negatives, _ = labels_by_bin(table * MINUTES)
    areas = [(roc_auc(yes, no).value, min(yes.sum(), no.sum())) for yes, no in zip(positives, negatives, strict=True)]
    bounds = np.array([wilson(area * pairs, pairs) for area, pairs in areas if not math.isnan(area)], float)
    lower, upper = bounds.mean(axis=0)
    delong = found["roc_auc"]
    assert lower <= delong.lower
    assert upper >= delong.upper
    found["roc_auc"] = Figure(delong.value, float(lower), float(upper))
    for metric, figure in found.items():
        check.figure(name, metric, figure)
    for metric, figure in performance(expected * MINUTES).items():
        value = figure.value if reliable else math.nan
        check.figure(name, metric, Figure(value, math.nan, math.nan), "model:mlobs_performance_estimate:{}")
    return model


def _sparse(check: Check) -> list[Model]:
    """Models whose counters have begun at zero, or hold one kind of row only."""
    silent, negative = Model("silent"), Model("negative")
    nothing = np.zeros((1, 4, 2, 2), np.int64)
    silent.outcomes(nothing)
    some = nothing.copy()
    some[0, :, 0, 0] = 5  # nothing predicted positive, nothing positive
    negative.outcomes(some)
    for name, table in (("silent", nothing), ("negative", some)):
        for metric, figure in performance(table * MINUTES).items():
            check.figure(name, metric, figure)
    return [silent, negative]


def _regression(check: Check) -> Model:
    model = Model("price")
    rng = np.random.default_rng(3)
    error = np.rint(rng.normal(0.4, 2, 30) * 64) / 64
    over, under = np.maximum(error, 0), np.maximum(-error, 0)
    for metric, power in (("error", 1), ("squared_error", 2)):
        for direction, part in (("over", over), ("under", under)):
            model.count(f"mlobs_outcome_{metric}_total", float((part**power).sum()), outcome_direction=direction)
    model.count("mlobs_outcome_mature_total", len(error), outcome_labelled="true")
    model.count("mlobs_outcome_mature_total", 10, outcome_labelled="false")
    sums = np.array([len(error), over.sum(), under.sum(), (over**2).sum(), (under**2).sum(), (error**4).sum()])
    for metric, figure in regression(sums * MINUTES).items():
        known = figure if metric != "rmse" else Figure(figure.value, math.nan, math.nan)  # needs fourth powers
        check.figure("price", metric, known)
    for cell, count in (("b00", 12.0), ("b01", 28.0), ("missing", 5.0), ("nonfinite", 1.0)):
        model.count("mlobs_prediction_observations_total", count, prediction_output="value", bin=cell)
    model.count("mlobs_expected_outcome_error_total", 60.0)
    model.count("mlobs_expected_outcome_squared_error_total", 160.0)
    for metric, value in (("mae", 1.5), ("rmse", 2.0)):
        figure = Figure(value, math.nan, math.nan)
        check.figure("price", metric, figure, "model:mlobs_performance_estimate:{}")
    check.add("price", "model:mlobs_outcome_coverage:ratio_{}", 0.75)
    return model


def _labels(check: Check) -> Model:
    """Coverage, delay and value of a model with a store."""
    model = Model("fraud")
    model.count("mlobs_outcome_predictions_total", 200)
    for result, count in (("joined", 90), ("late", 10), ("unknown", 7), ("duplicate", 4)):
        model.count("mlobs_outcome_labels_total", count, outcome_result=result)
        check.add("fraud", "model_result:mlobs_outcome_labels:{}", count * MINUTES, outcome_result=result)
    check.add("fraud", "model:mlobs_outcome_labelled:ratio_{}", 0.5)
    for labelled, count in (("true", 90), ("false", 30)):
        model.count("mlobs_outcome_mature_total", count, outcome_labelled=labelled)
    check.add("fraud", "model:mlobs_outcome_coverage:ratio_{}", 0.75)
    for upper, count in (("60.5", 10), ("3600.5", 60), ("86400.5", 100), ("+Inf", 100)):
        model.counters.append(("mlobs_outcome_delay_seconds_bucket", {"le": upper}, count))
    check.add("fraud", "model:mlobs_outcome_delay_seconds:p50_{}", 60.5 + 40 / 50 * 3540)
    check.add("fraud", "model:mlobs_outcome_delay_seconds:p95_{}", 3600.5 + 35 / 40 * 82800)
    for cell, currency, amount in (("tp", "EUR", 512.5), ("fn", "EUR", 80.25), ("fp", "USD", 12.0)):
        model.count("mlobs_outcome_value_total", amount, outcome_cell=cell, currency=currency)
        check.add("fraud", "model_cell:mlobs_outcome_value:{}", amount * MINUTES, outcome_cell=cell, currency=currency)
    return model


def _ranking(check: Check) -> Model:
    model = Model("ltr")
    model.count("mlobs_ranking_slates_total", 40)
    for event, hits, reciprocal, ndcg in (("click", 16, 12.5, 10.75), ("purchase", 2, 1.5, 1.25)):
        for metric, name, count in (
            ("hits", "hit_rate", hits),
            ("reciprocal_rank", "mrr", reciprocal),
            ("ndcg", "ndcg", ndcg),
        ):
            model.count(f"mlobs_ranking_{metric}_total", count, ranking_event=event)
            check.add("ltr", f"model_event:mlobs_ranking_{name}:{{}}", count / 40, ranking_event=event)
    for position, shown, clicks in (("01", 40, 10), ("02", 40, 4), ("rest", 200, 6)):
        model.count("mlobs_ranking_impressions_total", shown, ranking_position=position)
        model.count("mlobs_ranking_events_total", clicks, ranking_position=position, ranking_event="click")
        check.add(
            "ltr",
            "model_position:mlobs_ranking_event_rate:{}",
            clicks / shown,
            ranking_position=position,
            ranking_event="click",
        )
    check.add("ltr", "model_event:mlobs_ranking_event_rate:{}", 20 / 280, ranking_event="click")
    model.count("mlobs_ranking_value_total", 99.5, ranking_event="purchase", currency="EUR")
    check.add("ltr", "model_event:mlobs_ranking_value:{}", 99.5 * MINUTES, ranking_event="purchase", currency="EUR")
    return model


@pytest.mark.parametrize("totals", [False, True])
def test_rules_compute_cores_figures(promtool: Path, tmp_path: Path, totals: bool) -> None:
    """Every figure and bound of three workers' counters is core's of the sum, over a window and in total."""
    rules = tmp_path / "outcomes.rules.yml"
    rules.write_text(outcome_rules(window=3600, totals=totals))
    check = Check("totals" if totals else "increase1h")
    rng = np.random.default_rng(2)
    models = [
        _classified(check, "churn", _binary(rng)),
        _classified(check, "route", _several(rng)),
        _classified(check, "moved", _binary(rng), reliable=False),
        *_sparse(check),
        _regression(check),
        _labels(check),
        _ranking(check),
    ]
    assert len(check.tests) > 150
    check.run(promtool, tmp_path, rules, models)


def test_variants_apart(promtool: Path, tmp_path: Path) -> None:
    """Variants are one model, until `by` names their label: then each has its own figures of confusion cells."""
    model = Model("ab")
    for variant, right in (("control", 6), ("treatment", 9)):
        for cell, count in (("tp", right), ("fp", 3), ("fn", 2), ("tn", 20)):
            labels = {"mlobs_outcome_cell": cell, "feature_flag_result_variant": variant}
            model.counters.append(("mlobs_outcomes_total", labels, count))
    rules = tmp_path / "outcomes.rules.yml"
    together, apart = Check("totals"), Check("totals")
    together.add(
        "ab",
        "model:mlobs_performance_realized:{}",
        15 / 21,
        performance_metric="precision",
        performance_bound="value",
    )
    for variant, value in (("control", 6 / 9), ("treatment", 9 / 12)):
        labels = {"feature_flag_result_variant": variant, "mlobs_performance_metric": "precision"}
        series = f"model:mlobs_performance_realized:totals{_selector({**labels, 'mlobs_performance_bound': 'value'})}"
        apart.expect(f"abs(sum({series}) - {value!r}) < bool 1e-9", 1)
    for check, by in ((together, ("job",)), (apart, ("job", "feature_flag_result_variant"))):
        rules.write_text(outcome_rules(window=3600, totals=True, by=by))
        check.run(promtool, tmp_path, rules, [model])


@pytest.mark.parametrize("name", ["outcomes.rules.yml", "outcomes_totals.rules.yml"])
def test_promtool_takes_the_golden_files(promtool: Path, name: str) -> None:
    """Every expression parses and every name is one."""
    done = subprocess.run([promtool, "check", "rules", GOLDEN / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
