"""What goes wrong between a feature store and a model shows in Prometheus after one export, and is not called drift."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .backends import Prometheus

PAGE = Path(__file__).parent.parent.parent / "docs" / "freshness.md"
WINDOW_S = 4.0
VIEW = "users"

SERVICE = """
import random, sys, time
import otel_mlobs as mlobs

mlobs.configure("shop", metrics_endpoint=sys.argv[1], metric_interval=3600)
draw = random.Random(3)
rows = [{"x": draw.random()} for _ in range(2000)]
monitor = mlobs.Monitor(mlobs.Profile.fit({"x": [row["x"] for row in rows]}, model="churn"), window=60.0, pane=0.1)

@mlobs.feature_lookup(view="users", timestamp="t", objective=3, default=lambda row: row.get("stand_in", False))
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
        row = {"city": "Oslo", "t": time.time() - AGES.get(what, 1.0), **draw.choice(rows), **EXTRA.get(what, {})}
        if what == "undated":
            row["t"] = None
        score({"x": lookup(row)["x"]})
    time.sleep(0.3)  # a pane ends
    print(mlobs.force_flush(), flush=True)  # one export, and no other comes by itself
mlobs.shutdown()
"""


class Service:
    """A process that looks features up as it is told, and exports once after each order."""

    def __init__(self, endpoint: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
        self._process.communicate(timeout=30)


@pytest.fixture
def service(prometheus_of_test: Prometheus) -> Iterator[Service]:
    """Healthy for some while: counters at zero, then 400 lookups, then a window's length of silence, then 40 more."""
    started = Service(prometheus_of_test.otlp)
    for count in (100, 200, 100):
        started.do("healthy", count)
    time.sleep(WINDOW_S)
    started.do("healthy", 40)
    yield started
    started.stop()


@pytest.fixture
def prometheus_of_test(prometheus_with_rules: Callable[[str], Prometheus]) -> Prometheus:
    """A Prometheus of the test's own, into which the page's rules are loaded as they are."""
    return prometheus_with_rules(_rules())


def _rules() -> str:
    return PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]


def _alerts() -> dict[str, str]:
    """The expressions of the page, over windows that a test can wait for."""
    found = {}
    for alert in _rules().split("- alert: ")[1:]:
        name, _, rest = alert.partition("\n")
        lines = rest.partition("expr: |\n")[2].partition("\n        labels:")[0]
        found[name] = textwrap.dedent(lines).replace("[10m]", f"[{WINDOW_S:.0f}s]")
    return found


def _firing(prometheus: Prometheus) -> set[str]:
    return {
        name
        for name, expression in _alerts().items()
        for labels, _ in prometheus.ask(expression)
        if labels["mlobs_feature_view_name"] == VIEW
    }


def _drift(prometheus: Prometheus) -> set[float]:
    return {value for _, value in prometheus.ask("mlobs_drift_status_ratio")}


@pytest.mark.parametrize(
    ("trouble", "alert"),
    [
        ("stale", "FeatureViewStale"),
        ("nulls", "FeatureValuesMissing"),
        ("defaults", "FeatureStandIns"),
        ("undated", "FeatureAgesUnknown"),
    ],
)
def test_trouble_is_seen_after_one_export_and_is_no_drift(
    trouble: str, alert: str, service: Service, prometheus_of_test: Prometheus
) -> None:
    """Nothing fires while all is well; then what is wrong does, alone; the model's inputs have not moved."""
    assert _firing(prometheus_of_test) == set()
    assert _drift(prometheus_of_test) == {0.0}
    service.do(trouble, 60)
    assert _firing(prometheus_of_test) == {alert}
    assert _drift(prometheus_of_test) == {0.0}


def test_silence_is_seen_and_pages_nobody(service: Service, prometheus_of_test: Prometheus) -> None:
    """Nobody asks, and later the process is gone: a ticket says that nothing new was read, and no share is computed."""
    assert _firing(prometheus_of_test) == set()
    time.sleep(WINDOW_S)
    for _ in range(2):
        service.do("healthy", 0)
    assert _firing(prometheus_of_test) == {"FeatureViewSilent"}
    assert _drift(prometheus_of_test) == {0.0}
    service.stop()
    time.sleep(WINDOW_S)
    assert _firing(prometheus_of_test) == {"FeatureViewSilent"}


def test_prometheus_takes_the_rules_of_the_page(prometheus_of_test: Prometheus) -> None:
    """All five are loaded, as they are written."""
    from .backends import get

    groups = get(f"{prometheus_of_test.url}/api/v1/rules")["data"]["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"]] == list(_alerts())
