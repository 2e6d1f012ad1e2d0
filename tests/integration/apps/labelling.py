"""One process of a fleet: makes its predictions, waits for the others', then reports the labels it was given."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import otel_mlobs as mlobs

folder, number = Path(sys.argv[1]), int(sys.argv[2])
task = json.loads((folder / f"task{number}.json").read_text(encoding="utf-8"))
mlobs.configure("labelling", metrics_endpoint=task["metrics"], metric_interval=0.5)
store = mlobs.OutcomeStore(task["store"], grace=30.0)
monitor = mlobs.Monitor(mlobs.Profile.load(folder / "churn.profile.json"), outcomes=store)


@mlobs.prediction(monitor=monitor, inputs="row")
def predict(row: list[float], score: float, name: str) -> float:
    """Answer with the score that the test chose."""
    mlobs.current_operation().prediction_id = name
    return score


for name, score in task["predictions"]:
    predict([score], score, name)
assert store.flush(60.0)
(folder / f"ready{number}").touch()
while len(list(folder.glob("ready?"))) < task["processes"]:
    time.sleep(0.05)
for count, (name, label, value) in enumerate(task["labels"]):
    monitor.outcome(label, prediction_id=name, value=value, currency="EUR")
    if count % 10 == 0:
        time.sleep(0.03)
    if count == len(task["labels"]) // 2:
        (folder / f"halfway{number}").touch()
assert store.flush(120.0)
assert mlobs.shutdown(60.0)
