"""What goes wrong between a feature store and a model shows in Prometheus after one export, and is not called drift."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from otel_mlobs.tools.alerts import Alerts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .backends import Prometheus

WINDOW_S = 20
"""Far more than two exports take on a slow machine."""
TROUBLES = {
    "stale": "FeatureViewStale",
    "nulls": "FeatureValuesMissing",
    "defaults": "FeatureStandIns",
    "undated": "FeatureAgesUnknown",
    "silence": "FeatureViewSilent",
}
OBJECTIVE_S = 10

SERVICE = """
import random, sys, time
import otel_mlobs as mlobs

mlobs.configure(sys.argv[2], metrics_endpoint=sys.argv[1], metric_interval=3600)
draw = random.Random(3)
rows = [{"x": draw.random()} for _ in range(2000)]
monitor = mlobs.Monitor(mlobs.Profile.fit({"x": [row["x"] for row in rows]}, model="churn"), window=60.0, pane=0.1)

@mlobs.feature_lookup(view="users", timestamp="t", objective=10, default=lambda row: row.get("stand_in", False))
def lookup(row):
    return row

@mlobs.prediction(monitor=monitor, inputs="row")
def score(row):
    return 0.5

AGES = {"stale": 3600.0}
EXTRA = {"nulls": {"city": None}, "defaults": {"stand_in": True}}

for line in sys.stdin:
    what, count = line.split()
    for _ in range(int(count)):
        row = {"city": "Oslo", "t": time.time() - AGES.get(what, 0.0), **draw.choice(rows), **EXTRA.get(what, {})}
        if what == "undated":
            row["t"] = None
        score({"x": lookup(row)["x"]})
    time.sleep(0.3)  # a pane ends
    print(mlobs.force_flush(), flush=True)  # one export, and no other comes by itself
mlobs.shutdown()
"""


class Service:
    """A process that looks features up as it is told, and exports once after each order."""

    def __init__(self, endpoint: str, job: str) -> None:
        self.job = job
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, endpoint, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, what: str, count: int) -> None:
        """Look up ``count`` rows, then export."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {count}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "True\n"

    def stop(self) -> None:
        """Let it end."""
        if self._process.poll() is None:
            self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def services(prometheus: Prometheus) -> Iterator[dict[str, Service]]:
    """One for each trouble, healthy so far: counters at zero, then 400 lookups, then a window's length of nothing."""
    started = {trouble: Service(prometheus.otlp, f"freshness-{trouble}") for trouble in TROUBLES}
    for service in started.values():
        for count in (100, 200, 100):
            service.do("healthy", count)
    time.sleep(WINDOW_S)
    yield started
    for service in started.values():
        service.stop()


def _alerts() -> dict[str, str]:
    """The expressions of the alerts on features, over windows that a test can wait for."""
    return {
        alert.name: alert.expr.replace("[10m]", f"[{WINDOW_S}s]")
        for alert in Alerts().definitions()["features"]
        if alert.name in TROUBLES.values()
    }


def _firing(prometheus: Prometheus, service: Service) -> set[str]:
    return {
        name
        for name, expression in _alerts().items()
        for labels, _ in prometheus.ask(expression)
        if labels == {"job": service.job, "mlobs_feature_view_name": "users"}
    }


def _drift(prometheus: Prometheus, service: Service) -> set[float]:
    return {value for _, value in prometheus.ask(f'mlobs_drift_status_ratio{{job="{service.job}"}}')}


@pytest.mark.parametrize("trouble", [trouble for trouble in TROUBLES if trouble != "silence"])
def test_trouble_is_seen_after_one_export_and_is_no_drift(
    trouble: str, services: dict[str, Service], prometheus: Prometheus
) -> None:
    """Nothing fires while all is well; then what is wrong does, alone; the model's inputs have not moved."""
    service = services[trouble]
    service.do("healthy", 40)
    assert _firing(prometheus, service) == set()
    assert _drift(prometheus, service) == {0.0}
    service.do(trouble, 60)
    assert _firing(prometheus, service) == {TROUBLES[trouble]}
    assert _drift(prometheus, service) == {0.0}


def test_who_is_not_asked_pages_nobody_and_who_has_nothing_new_does(
    services: dict[str, Service], prometheus: Prometheus
) -> None:
    """While nobody asks, old features hurt nobody; once somebody does, both alerts say it."""
    service = services["silence"]
    service.do("healthy", 40)
    assert _firing(prometheus, service) == set()
    time.sleep(OBJECTIVE_S + 2)
    service.do("healthy", 0)
    assert _firing(prometheus, service) == set()
    service.do("stale", 60)
    assert _firing(prometheus, service) == {"FeatureViewSilent", "FeatureViewStale"}
    assert _drift(prometheus, service) == {0.0}


def test_every_trouble_has_its_alert() -> None:
    """None of those that are expected is one that there is not."""
    assert set(_alerts()) == set(TROUBLES.values())
