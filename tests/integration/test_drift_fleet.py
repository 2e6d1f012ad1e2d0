"""Four workers count against one profile: what Prometheus has of them is what was sent, and so is the drift in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import otel_mlobs as mlobs
from otel_mlobs.core.drift import Reference
from otel_mlobs.tools.drift_rules import drift_rules

from .backends import wait_until
from .service import WORKERS, load, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process, Prometheus

APPS = Path(__file__).parent / "apps"
REQUESTS, BATCH = 800, 25
PLANS = ("basic", "plus", "family")


def _training(rng: np.random.Generator, rows: int = 4_000) -> dict[str, Any]:
    return {
        "age": rng.normal(41, 12, rows).clip(18, 90).round(),
        "spend": rng.lognormal(3, 1, rows),
        "plan": rng.choice(PLANS, rows, p=(0.6, 0.3, 0.1)),
        "active": rng.random(rows) < 0.7,
    }


def _traffic(rng: np.random.Generator, rows: int) -> list[dict[str, Any]]:
    """Older customers, some without a spend, some with a plan that is new."""
    ages, spends = rng.normal(45, 12, rows).clip(18, 90).round(), rng.lognormal(3, 1, rows)
    plans, active = rng.choice([*PLANS, "trial"], rows, p=(0.58, 0.3, 0.1, 0.02)), rng.random(rows) < 0.7
    missing = rng.random(rows) < 0.03
    return [
        {"age": float(age), "spend": None if gone else float(spend), "plan": str(plan), "active": bool(is_active)}
        for age, spend, plan, is_active, gone in zip(ages, spends, plans, active, missing, strict=True)
    ]


@pytest.mark.parametrize("preload", [False, True], ids=["loaded by each", "preloaded"])
def test_a_fleets_totals_and_drift_are_those_of_all_rows(
    preload: bool, prometheus_with_rules: Callable[[str], Prometheus], start: Callable[..., Process], tmp_path: Path
) -> None:
    """After the traffic, counts per cell in Prometheus equal the rows sent, and its PSI theirs to 1e-6.

    A preloaded parent counts a few rows before it forks: its children do not send them again.
    """
    rng = np.random.default_rng(11)
    training = _training(rng)
    profile = mlobs.Profile.fit(training, outputs=np.minimum(1.0, training["age"] / 100), model="churn", version="3")
    profile.save(tmp_path / "churn.profile.json")
    early, rows = _traffic(rng, 7), _traffic(rng, REQUESTS * BATCH)
    prometheus = prometheus_with_rules(drift_rules(interval=1, totals=True))
    where = {"service_name": "drifting", "metrics_endpoint": prometheus.otlp, "metric_interval": 1.0}
    environment = {
        "DRIFTING_CONFIGURE": json.dumps(where),
        "DRIFTING_PROFILE": str(tmp_path / "churn.profile.json"),
        "DRIFTING_AT_IMPORT": json.dumps(early),
    }
    service, port = serve(start, "drifting:app", APPS, environment, preload=preload)
    requests = [("POST", "/score", rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]
    answers = load(port, requests, connections=8, reuse=10)
    assert Counter(status for status, _ in answers) == {200: REQUESTS}
    assert service.stop() == 0

    sent = rows + early * (1 if preload else WORKERS)
    columns = {column.name: column for column in profile.columns}
    values = {name: [row[name] for row in sent] for name in profile.names}
    values["score"] = [min(1.0, row["age"] / 100) for row in sent]
    counts = {name: column.bins.count(values[name])[0] for name, column in columns.items()}
    expected = {
        (name, cell): count
        for name, column in columns.items()
        for cell, count in zip(column.bins.cells, counts[name].tolist(), strict=True)
    }
    labels = "job, mlobs_model_name, mlobs_model_version, mlobs_profile_id, mlobs_bin"
    found = prometheus.ask(f"sum by ({labels}, mlobs_feature_name) (mlobs_feature_observations_total)")
    found += prometheus.ask(f"sum by ({labels}, mlobs_prediction_output) (mlobs_prediction_observations_total)")
    assert {
        (each.get("mlobs_feature_name", each.get("mlobs_prediction_output")), each["mlobs_bin"]): count
        for each, count in found
    } == expected
    assert {(each["job"], each["mlobs_profile_id"]) for each, _ in found} == {("drifting", profile.id)}
    served = prometheus.ask('count by (instance) (mlobs_feature_observations_total{mlobs_feature_name="age"} > 20)')
    assert len(served) == WORKERS

    for name, column in columns.items():
        kind, label = ("prediction", "prediction_output") if name == "score" else ("feature", "feature_name")
        here = Reference([column]).distances(counts[name][None])
        settled = f'{kind}:mlobs_{kind}_observations:totals{{mlobs_{label}="{name}"}}'
        wait_until("waiting for the rules", lambda query=settled: [n for _, n in prometheus.ask(query)] == [len(sent)])
        for distance in ("psi", "jensen_shannon"):
            recorded = f'{kind}:mlobs_drift_{distance}:totals{{mlobs_{label}="{name}"}}'

            def agrees(query: str = recorded, value: float = here[distance][0]) -> bool:
                return [there == pytest.approx(value, abs=1e-6, rel=0) for _, there in prometheus.ask(query)] == [True]

            wait_until(f"waiting for {recorded} to be {here[distance][0]}", agrees)
    assert here["psi"][0] > 0.01
