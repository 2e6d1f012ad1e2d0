"""The dashboards over a real Prometheus and a real Jaeger: every query is PromQL, and every panel has data."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("opentelemetry.instrumentation.system_metrics")

from dashboard_panels import label_values, panels, queries, substituted, variables

from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools.dashboards import dashboards

from . import dashboard_run
from .backends import Prometheus, get, wait_until
from .conftest import _binary, _processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .backends import Jaeger, Process

OBJECTIVES = Objectives(
    Objective(latency=0.08, performance={"roc_auc": 0.7, "recall": 0.5}, value_at_risk={"EUR": 500.0}),
    {"churn": Objective(latency=0.04, errors=0.05, drift_tolerance=0.05, performance={"roc_auc": 0.75})},
    {"customers": Objective(stale_share=0.1)},
)
PAGES = {
    f"{names} {uid}": made
    for names in ("hw", "dcgm")
    for uid, made in dashboards(
        OBJECTIVES,
        gpu_names=names,
        drift_window=dashboard_run.DRIFT_WINDOW_S,
        outcome_window=dashboard_run.OUTCOME_WINDOW_S,
    ).items()
    if names == "hw" or uid in ("mlobs-overview", "mlobs-gpu")
}
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
WINDOW = "20s"

NO_LIMITS = "only where the process is in a container with limits of cgroup v2"
MAY_BE_EMPTY = dict.fromkeys(("CPU", "Throttled", "Memory", "Killed for memory"), NO_LIMITS)
"""Panels of the operations' dashboard that this machine may have no data for."""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    start: Callable[..., Process],
    jaeger: Jaeger,
) -> Iterator[Prometheus]:
    """A Prometheus with the recording rules, to which two services report; their traces go to Jaeger."""
    folder = tmp_path_factory.mktemp("dashboards")
    (folder / "prometheus").mkdir()
    prometheus = Prometheus(_binary("prometheus"), folder / "prometheus", rules=dashboard_run.rules())
    request.config.stash.setdefault(_processes, []).append(prometheus.process)
    dashboard_run.serve(start, folder, prometheus.otlp, jaeger.http, rate=40, drift_after=5)
    yield prometheus
    request.config.stash[_processes].remove(prometheus.process)
    prometheus.process.stop()


def ask(prometheus: Prometheus, query: str, values: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The series of a panel's query with numbers in them, or with native histograms."""
    text = substituted(query, values, __rate_interval=WINDOW)
    found = get(f"{prometheus.url}/api/v1/query", query=text)["data"]["result"]
    return [one for one in found if "histogram" in one or one["value"][1] != "NaN"]


@each_page
def test_every_query_is_promql(page: Any, promtool: Path, tmp_path: Path) -> None:
    """Promtool takes each as a rule's expression, its variables put in."""
    asked = [substituted(query) for panel in panels(page) for query in queries(panel)]
    asked += [label_values(substituted(one["query"]["query"]))[0] for one in variables(page)]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=none", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


@each_page
def test_every_query_of_every_panel_has_data(page: Any, server: Prometheus) -> None:
    """Nothing is empty for want of a name, a label or a match, but what this machine has not."""
    asked = [
        (panel["title"], query)
        for panel in panels(page)
        for query in queries(panel)
        if not (page["uid"] == "mlobs-operation" and panel["title"] in MAY_BE_EMPTY)
    ]
    assert asked

    def empty() -> list[tuple[str, str]]:
        asked[:] = [(title, query) for title, query in asked if not ask(server, query)]
        return asked

    try:
        wait_until("data in every panel", lambda: not empty())
    except AssertionError:
        pytest.fail(f"no data in {json.dumps(asked, indent=1)}")


@each_page
def test_every_variable_has_values(page: Any, server: Prometheus) -> None:
    """What there is to choose from is not nothing, and choosing one value leaves the next variables some."""
    chosen: dict[str, str] = {"job": dashboard_run.SHOP}
    both = {dashboard_run.SHOP, dashboard_run.NATIVE}
    for one in variables(page):
        selector, label = label_values(substituted(one["query"]["query"], chosen))

        def values(asked: str = selector, name: str = label) -> list[str]:
            found: list[str] = get(f"{server.url}/api/v1/label/{name}/values", **{"match[]": asked})["data"]
            return found

        if one["name"] == "job":  # the services begin to export one after the other
            wait_until("both services among the jobs", lambda: both <= set(values()))
        else:
            chosen[one["name"]] = wait_until(f"values of {one['name']}", values)[0]


@pytest.mark.parametrize("job", [dashboard_run.SHOP, dashboard_run.NATIVE])
def test_durations_of_both_kinds_of_histogram_are_shown(job: str, server: Prometheus) -> None:
    """Rates, quantiles, slow shares and heat maps are there for a service of either kind, and of the true size."""
    titles = {"Rate", "Error ratio", "Duration, p99", "Median and tail", "Slower than the objective", "All durations",
              "Candidates per call", "How often how many", "Age of features"}  # fmt: skip
    shown = [one for uid in ("operation", "feature") for one in panels(PAGES[f"hw mlobs-{uid}"])]
    asked = [(one["title"], query) for one in shown if one["title"] in titles for query in queries(one)]
    assert {title for title, _ in asked} == titles
    native = 'mlobs_operation_duration_seconds{job="native"}'
    for title, query in asked:
        wait_until(f"{title} of {job}", lambda query=query: ask(server, query, {"job": job}))
    assert len(ask(server, native)) > 0
    assert not ask(server, 'mlobs_operation_duration_seconds_bucket{job="native"}')
    ((median),) = [query for title, query in asked if title == "Median and tail"][:1]
    only = {"job": job, "operation": "prediction"}
    found = [float(one["value"][1]) for one in ask(server, median, only)]
    assert [0.001 < value < 0.02 for value in found] == [True]  # the model sleeps 5 ms on average, half of it less


def test_exemplars_of_a_panel_lead_to_traces(server: Prometheus, jaeger: Jaeger) -> None:
    """The query of the p99 brings trace ids, and Jaeger has those traces, with the operation in them."""
    (panel,) = (one for one in panels(PAGES["hw mlobs-operation"]) if one["title"] == "Duration, p99")
    target = panel["targets"][0]
    assert target["exemplar"]
    query = substituted(target["expr"], {"job": dashboard_run.SHOP, "operation": "prediction"})

    def traced() -> bool:
        found = [one["labels"]["trace_id"] for one in server.exemplars(query, since=0)]
        known = {span.trace_id for trace in jaeger.traces(dashboard_run.SHOP) for span in trace}
        return bool(found) and set(found[:5]) <= known

    wait_until("exemplars whose traces Jaeger has", traced)


def test_the_tables_of_traces_find_some(server: Prometheus, jaeger: Jaeger) -> None:
    """Asked as Grafana asks Jaeger, each of the three searches finds traces of its kind."""
    (service,) = (one for one in variables(PAGES["hw mlobs-operation"]) if one["name"] == "service")
    assert service["regex"] == "/([^\\/]+)$/"
    tables = [one for one in panels(PAGES["hw mlobs-operation"]) if one["type"] == "table"]
    assert len(tables) == 3
    for table in tables:
        (target,) = table["targets"]
        wait_until(table["title"], lambda target=target: _searched(jaeger, target))


def _searched(jaeger: Jaeger, target: Mapping[str, Any]) -> bool:
    """Whether Jaeger finds traces as a table asks for them; that all it finds are such is asserted."""
    asked: dict[str, Any] = {"service": dashboard_run.SHOP, "limit": target["limit"], "lookback": "1h"}
    if "minDuration" in target:
        asked["minDuration"] = target["minDuration"]
    key, _, value = target.get("tags", "").partition("=")
    if key == "error":
        # Jaeger's tag for what failed. Its in-memory store (2.13) compares the text with a truth value and finds
        # nothing, which its other stores do not: here is looked at whether traces have the tag.
        traces = get(f"{jaeger.query}/api/traces", **{**asked, "limit": 5_000})["data"]
        return any((key, value) in _tags(one) for one in traces)
    if key:
        asked["tags"] = json.dumps({key: value})
    traces = get(f"{jaeger.query}/api/traces", **asked)["data"]
    for one in traces:
        assert not key or (key, value) in _tags(one)
        assert key or max(span["duration"] for span in one["spans"]) >= 80_000
    return bool(traces)


def _tags(trace: Any) -> set[tuple[str, str]]:
    """The tags of all of a trace's spans, as they are searched for."""
    return {(tag["key"], str(tag["value"]).replace("True", "true")) for span in trace["spans"] for tag in span["tags"]}
