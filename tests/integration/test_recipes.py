"""Jaeger, Tempo and Prometheus as examples/backends has them: what they show of a service that reports to them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_mlobs.tools.drift_rules import drift_rules

from .backends import get, wait_until
from .recipes import RECIPES
from .test_backends import recording_proxy, serve_and_stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from .recipes import RecipeJaeger, RecipePrometheus, Tempo

APPS = Path(__file__).parent / "apps"
REQUESTS = 20
STEPS = ["candidate_generation two_tower", "feature_lookup user_features", "prediction noop", "ranking ltr"]


def monitored(jaeger: RecipeJaeger, what: str, service: str, **query: str) -> dict[str, float]:
    """The last figure of Jaeger's Monitor tab for each operation of a service."""
    answer = get(
        f"{jaeger.query}/api/metrics/{what}",
        service=service,
        groupByOperation="true",
        endTs=int(time.time() * 1000),
        lookback=60_000,
        step=1_000,
        ratePer=60_000,
        **query,
    )
    found: dict[str, float] = {}
    for metric in answer["metrics"]:
        labels = {label["name"]: label["value"] for label in metric["labels"]}
        points = [point["gaugeValue"]["doubleValue"] for point in metric["metricPoints"]]
        figures = [point for point in points if point != "NaN"]
        if figures:
            found[labels["operation"]] = float(figures[-1])
    return found


def test_jaegers_monitor_tab_has_what_its_spans_say(
    recipe_prometheus: Callable[..., RecipePrometheus], recipe_jaeger: Callable[..., RecipeJaeger]
) -> None:
    """Traces are there; call rates, latencies and errors of the requests and of each step come from Prometheus."""
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url, SPANMETRICS_INTERVAL="1s")
    for _ in range(2):
        serve_and_stop(service_name="monitored", backend="jaeger", endpoint=jaeger.http)
        time.sleep(1.5)  # a rate needs two points
    assert len(jaeger.wait_for_traces("monitored", 2 * REQUESTS)) == 2 * REQUESTS

    server, request = {"spanKind": "server"}, "GET /recommend/<int:user>"
    calls = wait_until("waiting for call rates", lambda: monitored(jaeger, "calls", "monitored", **server))
    assert calls.keys() == {request}
    assert calls[request] > 0
    steps = monitored(jaeger, "calls", "monitored", spanKind="internal")
    assert sorted(steps) == STEPS
    latencies = monitored(jaeger, "latencies", "monitored", quantile="0.95", **server)
    assert 0 < latencies[request] < 10_240
    assert monitored(jaeger, "errors", "monitored", **server) == {request: 0.0}
    counted = prometheus.ask('sum(traces_span_metrics_calls_total{service_name="monitored"})')
    assert [count for _, count in counted] == [2.0 * REQUESTS * (1 + len(STEPS))]


def test_a_failing_service_shows_as_errors_in_jaegers_monitor_tab(
    recipe_prometheus: Callable[..., RecipePrometheus], recipe_jaeger: Callable[..., RecipeJaeger]
) -> None:
    """One prediction in four raises: that is the share of errors in the tab."""
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url, SPANMETRICS_INTERVAL="1s")
    script = """
import sys, time
import otel_mlobs as mlobs
mlobs.configure("failing", backend="jaeger", endpoint=sys.argv[1])
for number in range(40):
    try:
        with mlobs.prediction(model="churn", version="3"):
            if number % 4 == 0:
                raise ValueError
    except ValueError:
        pass
    time.sleep(0.1)
assert mlobs.shutdown()
"""
    subprocess.run([sys.executable, "-c", script, jaeger.http], check=True)
    internal = {"spanKind": "internal"}

    def share() -> float:
        return monitored(jaeger, "errors", "failing", **internal).get("prediction churn", 0.0)

    wait_until("waiting for the share of errors", lambda: abs(share() - 0.25) < 0.05)


def test_prometheus_takes_otlp_and_the_rules(
    recipe_prometheus: Callable[..., RecipePrometheus], promtool: Path, tmp_path: Path
) -> None:
    """Promtool finds nothing wrong; data arrive with version and environment as labels, and the rules are evaluated."""
    folder = tmp_path / "prometheus"
    shutil.copytree(RECIPES / "prometheus", folder)
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "drift.rules.yml").write_text(drift_rules(interval=1))
    checked = subprocess.run(
        [promtool, "check", "config", folder / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS: 1 rule files found" in checked.stdout

    prometheus = recipe_prometheus(config=folder)
    serve_and_stop(
        service_name="promoted",
        backend="prometheus",
        endpoint=prometheus.otlp,
        service_version="2.1",
        environment="staging",
        resource_attributes={"team": "search"},
    )
    found = prometheus.ask('mlobs_operation_duration_seconds_count{job="promoted"}')
    assert {count for _, count in found} == {float(REQUESTS)}
    for labels, _ in found:
        assert labels["service_version"] == "2.1"
        assert labels["deployment_environment_name"] == "staging"
        assert "team" not in labels
    groups = get(f"{prometheus.url}/api/v1/rules")["data"]["groups"]
    wait_until(
        "waiting for the rules",
        lambda: all(
            rule["health"] == "ok"
            for group in get(f"{prometheus.url}/api/v1/rules")["data"]["groups"]
            for rule in group["rules"]
        ),
    )
    assert len(groups) > 5


def test_a_count_of_a_worker_that_is_new_is_in_increase(recipe_prometheus: Callable[..., RecipePrometheus]) -> None:
    """The first point of a series stands on a zero at its start time: `increase` sees all that it counts."""
    prometheus = recipe_prometheus()
    serve_and_stop(service_name="new", backend="prometheus", endpoint=prometheus.otlp)
    selector = 'mlobs_operation_duration_seconds_count{job="new", mlobs_operation_name="ranking"}'
    (series,) = get(f"{prometheus.url}/api/v1/query", query=f"{selector}[5m]")["data"]["result"]
    assert float(series["values"][0][1]) == 0.0
    assert float(series["values"][-1][1]) == REQUESTS


def test_tempo_finds_traces_by_id_and_by_drift(
    recipe_prometheus: Callable[..., RecipePrometheus], tempo: Callable[[str], Tempo], tmp_path: Path
) -> None:
    """A trace by its id, those that drift by TraceQL; span metrics in Prometheus; no metrics are posted to Tempo."""
    prometheus = recipe_prometheus()
    server = tempo(prometheus.url)
    script = """
import sys, time
import numpy as np
import otel_mlobs as mlobs
mlobs.configure("drifting", backend="tempo", endpoint=sys.argv[1], metric_interval=0.1)
draw = np.random.default_rng(2)
profile = mlobs.Profile.fit(draw.normal(size=(4_000, 1)), features=["age"], model="churn", version="3")
now = [time.time()]
monitor = mlobs.Monitor(profile, window=600.0, pane=60.0, clock=lambda: now[0])
score = mlobs.prediction(monitor=monitor)(lambda rows: rows[:, 0] > 0)
for batch in range(40):
    score(draw.normal(1.0 if batch >= 20 else 0.0, 1.0, (200, 1)))
    now[0] += 61.0  # a minute a batch
    monitor.tick()
assert mlobs.shutdown()
"""
    with recording_proxy(server.http) as (endpoint, seen):
        done = subprocess.run(
            [sys.executable, "-c", script, endpoint], capture_output=True, text=True, check=True, cwd=tmp_path
        )
    assert {path for path, _ in seen} == {"/v1/traces"}
    assert {status for _, status in seen} == {200}
    assert done.stderr.count("tempo takes no metrics") == 1

    everything = server.wait_for('{ resource.service.name = "drifting" }', 40)
    drifting = server.wait_for('{ span.mlobs.drift.status = "drift" }', 1)
    assert len(everything) == 40
    assert drifting < everything  # and not the first half
    answer = get(f"{server.query}/api/v2/traces/{min(drifting)}")
    (resource_spans,) = answer["trace"]["resourceSpans"]
    (span,) = resource_spans["scopeSpans"][0]["spans"]
    attributes: dict[str, Any] = {each["key"]: each["value"] for each in span["attributes"]}
    assert attributes["mlobs.drift.status"] == {"stringValue": "drift"}
    wait_until(
        "waiting for span metrics",
        lambda: [n for _, n in prometheus.ask('sum(traces_spanmetrics_calls_total{service="drifting"})')] == [40.0],
    )
