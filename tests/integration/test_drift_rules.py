"""The recording rules for drift as Prometheus evaluates them, beside NumPy; and the names that it gives to metrics."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_mlobs import semconv
from otel_mlobs.core import distance
from otel_mlobs.core.binning import Bins
from otel_mlobs.core.drift import Reference
from otel_mlobs.core.profile import Column
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.rules import prometheus_name

from .backends import get, wait_until

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .backends import Prometheus

    Floats = NDArray[np.float64]

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
MODEL = {"job": "shop", "mlobs_model_name": "churn", "mlobs_model_version": "3", "mlobs_profile_id": "3f9c2a71b04d"}
MINUTES = 301
START = 1e6  # far from zero: `increase` does not extrapolate a counter to below it
WORKERS = 3
EVALUATIONS_A_WEEK = 20_160


def _alarm() -> Any:
    """The simulation's module: what the rules compute, with NumPy."""
    spec = importlib.util.spec_from_file_location("mlobs_fleet_alarm", ROOT / "benchmarks" / "fleet_alarm.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Subject:
    """A feature or output with a reference, and rows of every minute."""

    def __init__(self, name: str, bins: Bins, counts: list[int], minutes: Floats, *, output: bool = False) -> None:
        numbers = (0.0, 1.0, 0.5, 0.1) if bins.ordered else (None, None, None, None)
        positions = tuple(float(cell) for cell in range(bins.values)) if bins.ordered else ()
        self.name = name
        self.output = output
        self.reference = Reference([Column(name, bins, tuple(counts), *numbers, positions)])
        self.cells = bins.cells
        self.counts = np.array(counts, float)
        self.minutes = minutes  # (minutes, cells)
        self.labels = {**MODEL, f"mlobs_{'prediction_output' if output else 'feature_name'}": name}

    @property
    def kind(self) -> str:
        return "prediction" if self.output else "feature"

    def totals(self) -> Floats:
        """The counters' values at every minute, over all workers."""
        return np.asarray(np.cumsum(self.minutes, axis=0))

    def increase(self, minutes: int) -> Floats:
        """What Prometheus gives for the last ``minutes``: it sees all but the first, and extrapolates."""
        totals = self.totals()
        return np.asarray((totals[-1] - totals[-minutes]) * minutes / (minutes - 1))

    def series(self) -> list[dict[str, str]]:
        """Everything that the workers export, as promtool's input: samples a minute apart."""
        found = []
        shares = self.counts / self.counts.sum()
        workers = np.array_split(np.arange(len(self.minutes)), WORKERS)  # each counts the rows of a third of the time
        for worker, times in enumerate(workers):
            mine = np.zeros_like(self.minutes)
            mine[times] = self.minutes[times]
            for cell, totals, share in zip(self.cells, np.cumsum(mine, axis=0).T, shares, strict=True):
                labels = {**self.labels, "mlobs_bin": cell, "instance": f"worker-{worker}"}
                found += [
                    _input(f"mlobs_{self.kind}_observations_total", labels, [START + total for total in totals]),
                    _input(f"mlobs_{self.kind}_reference_ratio", labels, [share] * len(totals)),
                ]
            if self.output or not self.reference.ordered[0]:
                continue
            for score, values in zip(("shift", "scale"), self.reference.normal_scores(), strict=True):
                for cell, value in zip(self.cells, values[0], strict=False):
                    labels = {**self.labels, "mlobs_bin": cell, "mlobs_score": score, "instance": f"worker-{worker}"}
                    found.append(_input("mlobs_feature_reference_score_ratio", labels, [value] * MINUTES))
        return found


def _input(name: str, labels: dict[str, str], values: list[float]) -> dict[str, str]:
    return {"series": name + _selector(labels), "values": " ".join(f"{float(value)!r}" for value in values)}


def _selector(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def _subjects(rows: int, rate: int, rng: np.random.Generator) -> list[Subject]:
    """References of ``rows`` rows, and traffic of ``rate`` rows a minute: calm, moved, missing, new and rare."""
    numeric, half = Bins("numeric", edges=tuple(float(edge) for edge in range(9))), MINUTES // 2
    even = np.array([0.1] * 10 + [0.0, 0.0])

    def traffic(before: Floats, after: Floats | None = None) -> Floats:
        late = before if after is None else after
        return np.concatenate([rng.multinomial(rate, before, half), rng.multinomial(rate, late, MINUTES - half)])

    def numeric_subject(name: str, after: Floats, *, output: bool = False) -> Subject:
        counts = [rows // 10] * 10 + [0, 0]
        return Subject(name, numeric, counts, traffic(even, after), output=output)

    weights = np.array([1.0] * 4 + [1.25] * 6 + [0.0, 0.0])
    edge_heavy = np.array([1.4] + [1.0] * 8 + [1.4, 0.0, 0.0])
    few = Bins("categorical", categories=("a", "b", "c", "d"))
    known = np.array([0.55, 0.4, 0.05, 0.0, 0.0, 0.0])
    constant = Bins("numeric", edges=(0.0, 1.0))
    return [
        numeric_subject("calm", even),
        numeric_subject("moved", weights / weights.sum()),
        numeric_subject("wider", edge_heavy / edge_heavy.sum()),
        numeric_subject("missing", np.array([0.095] * 10 + [0.05, 0.0])),
        Subject(
            "plan",
            few,
            [int(rows * share) for share in known],
            traffic(known, np.array([0.54, 0.4, 0.05, 0.005, 0, 0.005])),
        ),
        Subject("constant", constant, [0, rows, 0, 0, 0], traffic(np.array([0, 1.0, 0, 0, 0]))),
        numeric_subject("score", even, output=True),
    ]


def _check(
    promtool: Path, folder: Path, rules: Path, subjects: list[Subject], rows: int, expected: dict[str, float]
) -> None:
    """Fails with promtool's output unless every expression has its value within 1e-9, absolute or relative."""
    groups = [line.split(": ")[1] for line in rules.read_text().splitlines() if line.startswith("  - name: ")]
    workers = [{**MODEL, "instance": f"worker-{worker}"} for worker in range(WORKERS)]
    series = [_input("mlobs_profile_rows", labels, [rows] * MINUTES) for labels in workers]
    tests = [
        {
            "expr": f"abs(({expression}) - {value!r}) < bool {1e-9 * max(1, abs(value))!r}",
            "eval_time": f"{MINUTES - 1}m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression, value in expected.items()
    ]
    _run(
        promtool,
        folder / "rules.test.yml",
        {
            "rule_files": [str(rules)],
            "evaluation_interval": f"{MINUTES - 1}m",  # at the beginning and at the end: evaluating is what takes long
            "group_eval_order": groups,
            "tests": [
                {
                    "interval": "1m",
                    "input_series": series + [each for subject in subjects for each in subject.series()],
                    "promql_expr_test": tests,
                }
            ],
        },
    )


def _run(promtool: Path, path: Path, content: dict[str, Any]) -> None:
    """Fails with the end of promtool's output unless it finds the tests passed."""
    path.write_text(json.dumps(content))  # JSON is YAML
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def _expect(expected: dict[str, float], subject: Subject, name: str, value: float) -> None:
    key = "mlobs_prediction_output" if subject.output else "mlobs_feature_name"
    expected[f'sum({subject.kind}:{name}{{{key}="{subject.name}"}})'] = float(value)


def _expect_distances(expected: dict[str, float], subject: Subject, live: Floats, operation: str) -> None:
    """What the in-process numbers are for these counts; their PSI is of smoothed, their distance of plain shares."""
    found = subject.reference.distances(live[None])
    n, m = live.sum(), subject.counts
    cells, base = np.count_nonzero(live + m), f"mlobs_{subject.kind}"
    psi = found["psi"][0]
    assert psi == distance.psi(*distance.smoothed(live, m))
    _expect(expected, subject, f"mlobs_drift_psi:{operation}", psi)
    _expect(
        expected, subject, f"mlobs_drift_psi_adjusted:{operation}", max(0, psi - (cells - 1) * (1 / n + 1 / m.sum()))
    )
    # A distance is the root of a divergence: what rounds to 1e-16 there is 1e-8 here
    key = "mlobs_prediction_output" if subject.output else "mlobs_feature_name"
    divergence = f'{subject.kind}:mlobs_drift_jensen_shannon:{operation}{{{key}="{subject.name}"}} ^ 2'
    expected[f"sum({divergence})"] = float(found["jensen_shannon"][0] ** 2)
    for index, what in ((-2, "missing"), (-1, "unseen")):
        _expect(expected, subject, f"{base}_{what}:ratio_{operation}", live[index] / n)
        _expect(expected, subject, f"{base}_{what}_reference:ratio", m[index] / m.sum())
    _expect(expected, subject, f"{base}_observations:{operation}", n)


@pytest.mark.parametrize("name", ["drift.rules.yml", "drift_totals.rules.yml"])
def test_promtool_takes_the_rules(promtool: Path, name: str) -> None:
    """The golden files pass `promtool check rules`, duplicates and all."""
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", GOLDEN / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["other window", "no labels"])
def test_promtool_takes_other_rules(promtool: Path, tmp_path: Path, name: str) -> None:
    """So do the rules for other arguments."""
    rules = (
        drift_rules(window=86_400, interval=60, by=("job", "region")) if name == "other window" else drift_rules(by=())
    )
    path = tmp_path / "drift.rules.yml"
    path.write_text(rules)
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("rows", "rate"), [(1_000, 40), (20_000, 4_000)])
def test_distances_and_evidence_are_numpys(promtool: Path, tmp_path: Path, rows: int, rate: int) -> None:
    """Distances equal the in-process ones of the same counts, evidence the simulation's, to 1e-9."""
    alarm = _alarm()
    subjects = _subjects(rows, rate, np.random.default_rng(rows))
    expected = {"sum(model:mlobs_drift_threshold:log10)": float(np.log10(EVALUATIONS_A_WEEK * len(subjects)))}
    verdicts = {}
    for subject in subjects:
        _expect_distances(expected, subject, subject.increase(60), "increase1h")
        scored = subject.reference.ordered[0] and not subject.output
        evidence = alarm.evidence(
            [subject.increase(minutes)[None] for minutes in (5, 15, 60, 240)],
            subject.counts[None],
            np.stack(subject.reference.normal_scores()) if scored else None,
            alarm_every=EVALUATIONS_A_WEEK,
            features=len(subjects),
        )[0] / np.log(10)
        _expect(expected, subject, "mlobs_drift_evidence:log10", evidence)
        verdicts[subject.name] = bool(evidence >= np.log10(EVALUATIONS_A_WEEK * len(subjects)))
    assert not any(verdicts[name] for name in ("calm", "constant", "score"))
    assert verdicts["missing"]
    if rate > 1_000:
        assert all(verdicts[name] for name in ("moved", "wider", "plan"))
    _check(promtool, tmp_path, GOLDEN / "drift.rules.yml", subjects, rows, expected)


def test_totals_are_numpys(promtool: Path, tmp_path: Path) -> None:
    """On raw totals, too; START is in them, as rows that came before."""
    subjects = _subjects(10_000, 100, np.random.default_rng(3))
    expected: dict[str, float] = {}
    for subject in subjects:
        _expect_distances(expected, subject, subject.totals()[-1] + START * WORKERS, "totals")
    _check(promtool, tmp_path, GOLDEN / "drift_totals.rules.yml", subjects, 10_000, expected)


@pytest.mark.parametrize("late", [0, 9, 30])
def test_the_simulations_increase_is_prometheus_own(promtool: Path, tmp_path: Path, late: int) -> None:
    """Benchmarks extrapolate as Prometheus does: counters old and new, that begin ``late`` samples after the others."""
    rng = np.random.default_rng(late)
    alarm, samples, interval = _alarm(), 41, 15
    values = np.cumsum(rng.poisson((0.2, 3.0, 40.0), (samples - late, 3)), axis=0).astype(float)
    values[:, 2] += 5_000
    times = np.arange(late, samples) * float(interval)
    absent = f"_x{late} " if late else ""
    tests = []
    for end, window in ((600.0, 300.0), (607.0, 300.0), (611.0, 90.0), (640.0, 300.0)):
        for index, value in enumerate(alarm.increase(times, values, end, window)):
            expression = f"abs(increase(rows_total{{s='{index}'}}[{window:.0f}s]) - {float(value)!r}) < bool 1e-9"
            samples_there = [{"labels": "{s=" + f'"{index}"' + "}", "value": 1}]
            tests.append({"expr": expression, "eval_time": f"{end:.0f}s", "exp_samples": samples_there})
    series = [
        {"series": f'rows_total{{s="{index}"}}', "values": absent + " ".join(map(str, column))}
        for index, column in enumerate(values.T.tolist())
    ]
    content = {"tests": [{"interval": f"{interval}s", "input_series": series, "promql_expr_test": tests}]}
    _run(promtool, tmp_path / "increase.test.yml", content)


def test_prometheus_gives_the_names_that_the_rules_use(prometheus: Prometheus) -> None:
    """Every metric and attribute of the library has on a real Prometheus the name that `prometheus_name` says."""
    exporter = OTLPMetricExporter(f"{prometheus.otlp}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], Resource({"service.name": "names"}), shutdown_on_exit=False)
    meter = provider.get_meter("names")
    expected = {}
    for metric in semconv.METRICS:
        attributes = {attribute.key: "1" for attribute in metric.attributes}
        if metric.instrument == "counter":
            meter.create_counter(metric.name, metric.unit).add(1, attributes)
        elif metric.instrument == "gauge":
            meter.create_gauge(metric.name, metric.unit).set(1, attributes)
        elif metric.instrument == "updowncounter":
            meter.create_up_down_counter(metric.name, metric.unit).add(1, attributes)
        else:
            meter.create_histogram(metric.name, metric.unit).record(1, attributes)
        suffix = "_count" if metric.instrument == "histogram" else ""
        expected[prometheus_name(metric) + suffix] = {prometheus_name(attribute) for attribute in metric.attributes}
    provider.force_flush()
    provider.shutdown()
    own = {"__name__", "job", "instance"}

    def names() -> dict[str, set[str]]:
        answer = get(f"{prometheus.url}/api/v1/query", query='{job="names"}')["data"]["result"]
        series = [each["metric"] for each in answer]
        return {
            labels["__name__"]: {key for key in labels if key not in own and not key.startswith("otel_")}
            for labels in series
            if not labels["__name__"].endswith(("_bucket", "_sum")) and labels["__name__"] != "target_info"
        }

    wait_until("waiting for the metrics", lambda: len(names()) >= len(expected))
    assert names() == expected
