"""Late labels across four processes and a restart of the store: Prometheus, the store and a direct count agree."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("redis")
pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")

import otel_mlobs as mlobs
from otel_mlobs.core.outcomes import CELLS
from otel_mlobs.core.records import stream_of
from otel_mlobs.tools.cli import main
from otel_mlobs.tools.outcome_rules import outcome_rules

from .backends import wait_until
from .test_stores import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process, Prometheus

APPS = Path(__file__).parent / "apps"
PROCESSES, PREDICTIONS = 4, 2_000


def _tasks(rng: random.Random) -> tuple[list[dict[str, Any]], dict[str, float], Counter[str]]:
    """What each process does, every prediction's score, and how many labels of each kind there must be."""
    scores = {f"p{number}": rng.random() for number in range(PREDICTIONS)}
    truth = {name: int(rng.random() < score) for name, score in scores.items()}
    names = rng.sample(sorted(scores), PREDICTIONS)
    tenth, hundredth = PREDICTIONS // 10, PREDICTIONS // 100
    labelled, doubled, conflicting = names[tenth:], names[tenth : 2 * tenth], names[2 * tenth : 2 * tenth + hundredth]
    events = [(name, truth[name], round(100 * scores[name], 2)) for name in [*labelled, *doubled]]
    events += [(name, 1 - truth[name], round(100 * scores[name], 2)) for name in conflicting]
    rng.shuffle(events)
    tasks: list[dict[str, Any]] = [{"predictions": [], "labels": []} for _ in range(PROCESSES)]
    for number, name in enumerate(scores):
        tasks[number % PROCESSES]["predictions"].append((name, scores[name]))
    for number, event in enumerate(events):
        tasks[number % PROCESSES]["labels"].append(event)
    kinds = Counter(joined=len(labelled), duplicate=len(doubled), conflict=len(conflicting))
    return tasks, scores, kinds


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_labels_of_a_fleet_are_counted_once_each(
    kind: str,
    prometheus_with_rules: Callable[[str], Prometheus],
    start: Callable[..., Process],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Shuffled, a tenth missing, a tenth doubled, a hundredth conflicting, the store restarted amid them: all exact."""
    rng = random.Random(5)
    tasks, scores, kinds = _tasks(rng)
    numbers = np.random.default_rng(5)
    reference = numbers.random(5_000)
    profile = mlobs.Profile.fit(
        reference.reshape(-1, 1), outputs=reference, labels=(numbers.random(5_000) < reference).astype(int),
        model="churn", version=kind,
    )  # fmt: skip
    profile.save(tmp_path / "churn.profile.json")
    prometheus = prometheus_with_rules(outcome_rules(interval=1, totals=True))
    server = running(kind, start, tmp_path)
    try:
        for number, task in enumerate(tasks):
            task |= {"store": server.url, "metrics": prometheus.otlp, "processes": PROCESSES}
            (tmp_path / f"task{number}.json").write_text(json.dumps(task), encoding="utf-8")
        fleet = [
            start(f"worker{number}", [sys.executable, APPS / "labelling.py", tmp_path, str(number)], cwd=APPS,
                  env={"PYTHONPATH": os.pathsep.join(sys.path)})
            for number in range(PROCESSES)
        ]  # fmt: skip
        wait_until("waiting for half of the labels", lambda: any(tmp_path.glob("halfway?")))
        server.restart(away=2.0)
        for worker in fleet:
            assert worker.wait() == 0, worker.tail()

        store = mlobs.OutcomeStore(server.url)
        stream = stream_of("churn", kind, profile.id)
        cells: Counter[str] = Counter()
        value: Counter[str] = Counter()
        joined = 0
        for prediction, labels in store.records(stream, 0.0, time.time()):
            assert np.frombuffer(prediction.payload)[0] == scores[prediction.id]
            for label in labels:
                cell = CELLS[2 * int(scores[prediction.id] >= 0.5) + int(label.value)]
                cells[cell] += 1
                value[cell] += label.amount
                joined += 1
        assert joined == kinds["joined"]
        labels_of = "sum by (mlobs_outcome_result) (mlobs_outcome_labels_total)"
        counted = {one["mlobs_outcome_result"]: count for one, count in prometheus.ask(labels_of)}
        assert {name: count for name, count in counted.items() if count} == dict(kinds)
        found = prometheus.ask("sum by (mlobs_outcome_cell) (mlobs_outcomes_total)")
        assert {one["mlobs_outcome_cell"]: count for one, count in found} == dict(cells)
        worth = prometheus.ask('sum by (mlobs_outcome_cell) (mlobs_outcome_value_total{mlobs_currency="EUR"})')
        assert {one["mlobs_outcome_cell"]: pytest.approx(amount) for one, amount in worth} == dict(value)
        assert prometheus.ask("sum(mlobs_outcome_predictions_total)")[0][1] == PREDICTIONS

        direct = store.performance(profile)
        assert direct.labelled == joined
        precision = cells["tp"] / (cells["tp"] + cells["fp"])
        assert direct.figures["precision"].value == pytest.approx(precision)
        for metric in ("precision", "recall", "f1", "accuracy", "specificity", "roc_auc"):
            recorded = (
                f'model:mlobs_performance_realized:totals{{mlobs_performance_metric="{metric}",'
                'mlobs_performance_bound="value"}'
            )

            def agrees(query: str = recorded, figure: float = direct.figures[metric].value) -> bool:
                return [there == pytest.approx(figure, abs=1e-9) for _, there in prometheus.ask(query)] == [True]

            wait_until(f"waiting for {recorded} to be {direct.figures[metric].value}", agrees)

        assert (
            main(["outcomes", "--store", server.url, "--profile", str(tmp_path / "churn.profile.json"), "--json"]) == 0
        )
        told = json.loads(capsys.readouterr().out)["performance"]
        assert told["labelled"] == joined
        assert told["figures"]["roc_auc"] == pytest.approx(list(direct.figures["roc_auc"]))
        store.close()
    finally:
        server.stop()


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis 12 with DuckDB 2
def test_a_job_counts_the_labels_of_a_file(
    prometheus_with_rules: Callable[[str], Prometheus], start: Callable[..., Process], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """``otel-mlobs outcomes`` joins a Parquet file's labels and sends what it counted; a second run changes nothing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = np.random.default_rng(6)
    reference = numbers.random(2_000)
    profile = mlobs.Profile.fit(
        reference.reshape(-1, 1), outputs=reference, labels=(numbers.random(2_000) < reference).astype(int),
        model="batch", version="1",
    )  # fmt: skip
    profile.save(tmp_path / "batch.profile.json")
    prometheus = prometheus_with_rules(outcome_rules(interval=1, totals=True))
    server = running("redis", start, tmp_path)
    try:
        store = mlobs.OutcomeStore(server.url)
        monitor = mlobs.Monitor(profile, outcomes=store)
        scores = numbers.random(1_000)
        monitor.observe(scores.reshape(-1, 1), scores, prediction_id=[f"o{n}" for n in range(1_000)])
        assert store.flush(30.0)
        monitor.close()
        store.close()
        labels = (numbers.random(1_000) < scores).astype(int)
        table = pa.table({"order": [f"o{n}" for n in range(900)] + ["gone"], "paid": [*labels[:900].tolist(), 1]})
        pq.write_table(table, tmp_path / "labels.parquet")
        command = ["outcomes", str(tmp_path / "labels.parquet"), "--store", server.url, "--id", "order", "--label",
                   "paid", "--profile", str(tmp_path / "batch.profile.json")]  # fmt: skip
        script = "import sys; from otel_mlobs.tools.cli import main; sys.exit(main(sys.argv[1:]))"
        job = start("job", [sys.executable, "-c", script, *command, "--metrics-endpoint", prometheus.otlp], cwd=APPS,
                    env={"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
        assert job.wait() == 0, job.tail()
        found = prometheus.ask("sum by (mlobs_outcome_cell) (mlobs_outcomes_total)")
        direct = Counter(CELLS[2 * int(s >= 0.5) + int(y)] for s, y in zip(scores[:900], labels[:900], strict=True))
        assert {one["mlobs_outcome_cell"]: count for one, count in found} == dict(direct)
        assert main(command) == 0
        said = capsys.readouterr().out
        assert "901 labels: 0 joined, 900 duplicate, 1 unknown" in said
        assert "1,000 predictions, 900 of them with a label (coverage 90.0%)" in said
    finally:
        server.stop()
