"""Grafana dashboards: golden files, the schema, names, links, objectives, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard_panels import label_values, panels, queries, variables

from otel_mlobs import semconv
from otel_mlobs.hardware import dcgm
from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools import cli
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.dashboard_queries import Recorded
from otel_mlobs.tools.dashboards import dashboards, write
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name

GOLDEN = Path(__file__).parent / "golden" / "dashboards"
UIDS = ["mlobs-overview", "mlobs-model", "mlobs-operation", "mlobs-feature", "mlobs-gpu"]
MADE = {
    "standard": dashboards(Objectives()),
    "others": dashboards(
        Objectives(
            Objective(latency=1.0, performance={"roc_auc": 0.7}, value_at_risk={"EUR": 100.0}, freshness=900.0),
            {"churn": Objective(latency=0.05, errors=0.01, drift_tolerance=0.2, performance={"recall": 0.5})},
            {"customers": Objective(stale_share=0.2)},
        ),
        traces="tempo",
        gpu_names="dcgm",
        drift_window=1800.0,
        outcome_window=3600.0,
    ),
}
EVERY = [pytest.param(made[uid], id=f"{name} {uid}") for name, made in MADE.items() for uid in UIDS]
each_dashboard = pytest.mark.parametrize("dashboard", EVERY)

NOT_SHOWN = {
    semconv.FEATURE_REFERENCE_SCORE: "what the recording rules compute evidence from",
    semconv.PREDICTION_REFERENCE: "read through the recorded PSI of outputs",
    semconv.PREDICTION_OBSERVATIONS: "likewise",
    semconv.DRIFT_EVIDENCE: "of one process; the fleet's recorded evidence is shown",
    semconv.DRIFT_THRESHOLD: "likewise",
    semconv.SERIES_OMITTED: "the log says it once",
    semconv.OUTCOMES: "read through the recorded cells",
    semconv.OUTCOME_SCORES: "read through the recorded figures",
    semconv.OUTCOME_VALUE: "read through the recorded value",
    semconv.OUTCOME_LABELS: "read through the recorded labels",
    semconv.OUTCOME_PREDICTIONS: "read through the recorded share of labelled ones",
    semconv.OUTCOME_MATURE: "read through the recorded coverage",
    semconv.OUTCOME_COVERAGE: "of one process; the fleet's recorded coverage is shown",
    semconv.OUTCOME_ERROR: "read through the recorded figures",
    semconv.OUTCOME_SQUARED_ERROR: "likewise",
    semconv.EXPECTED_OUTCOMES: "read through the recorded estimates",
    semconv.EXPECTED_OUTCOME_SCORES: "likewise",
    semconv.EXPECTED_ERROR: "likewise",
    semconv.EXPECTED_SQUARED_ERROR: "likewise",
    semconv.PERFORMANCE_REALIZED: "of one process; the fleet's recorded figures are shown",
    semconv.RANKING_SLATES: "read through the recorded means",
    semconv.RANKING_HITS: "likewise",
    semconv.RANKING_RECIPROCAL_RANK: "likewise",
    semconv.RANKING_NDCG: "likewise",
    semconv.RANKING_IMPRESSIONS: "read through the recorded rates by place",
    semconv.RANKING_EVENTS: "likewise",
    semconv.RANKING_VALUE: "read through the recorded value",
    semconv.HW_GPU_IO: "its rate is shown as the device reports it",
    semconv.CONTAINER_THROTTLED_TIME: "the share of throttled periods says it",
    semconv.HW_FAN_SPEED_RATIO: "servers' GPUs have none",
}
"""Metrics that no panel asks for by their own name, and why."""


def everything(dashboard: Any) -> str:
    """All queries of a dashboard, those of its variables among them."""
    asked = [query for panel in panels(dashboard) for query in queries(panel)]
    return "\n".join([*asked, *(one["query"]["query"] for one in variables(dashboard))])


@pytest.mark.parametrize(
    ("folder", "arguments"), [("hw", []), ("dcgm", ["--gpu-names", "dcgm", "--traces", "tempo", "--mount", "/srv/g"])]
)
def test_dashboards_are_the_golden_files(
    folder: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command writes, byte for byte, the files whose queries promtool and Prometheus have checked.

    After a change that is meant: `otel-mlobs dashboard --output tests/golden/dashboards/hw`, and likewise.
    """
    assert cli.main(["dashboard", "--output", str(tmp_path), *arguments]) == 0
    written = [Path(line).relative_to(tmp_path) for line in capsys.readouterr().out.splitlines()]
    assert sorted(written) == sorted(
        path.relative_to(GOLDEN / folder) for path in (GOLDEN / folder).rglob("*") if path.is_file()
    )
    for name in written:
        assert (tmp_path / name).read_text(encoding="utf-8") == (GOLDEN / folder / name).read_text(encoding="utf-8")


def test_there_are_five_in_the_order_of_drilling_down() -> None:
    """Their uids are fixed, since links, alerts and bookmarks hold them."""
    assert all([*made] == UIDS for made in MADE.values())


@each_dashboard
def test_panels_have_ids_and_places_of_their_own(dashboard: Any) -> None:
    """No two panels share an id, a title within a row, or a cell of the grid, and none reaches beyond it."""
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {*itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@each_dashboard
def test_panels_say_what_they_show(dashboard: Any) -> None:
    """Every panel has a title, a sentence, a unit and a question, and Grafana's current schema is said to be used."""
    assert dashboard["schemaVersion"] == 42
    assert dashboard["title"]
    assert dashboard["description"]
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_dashboard
def test_data_sources_are_variables(dashboard: Any) -> None:
    """Importing asks for no edit: every data source is one of the two variables, none a uid of somebody's Grafana."""
    chosen = {one["name"]: one["query"] for one in dashboard["templating"]["list"] if one["type"] == "datasource"}
    assert set(chosen) == {"prometheus", "traces"}

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            if "datasource" in value:
                yield value["datasource"]
            for each in value.values():
                yield from found(each)
        elif isinstance(value, list):
            for each in value:
                yield from found(each)

    for source in found(dashboard):
        assert source in [{"type": kind, "uid": f"${{{name}}}"} for name, kind in chosen.items()]


@each_dashboard
def test_variables_that_are_used_exist(dashboard: Any) -> None:
    """No query holds a variable that the dashboard has not, and each variable is used."""
    known = {one["name"] for one in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps({"panels": dashboard["panels"], "rest": variables(dashboard)})))
    ours = {name for name in used if not name.startswith("__")}
    assert ours <= known
    assert known - ours == set()


@each_dashboard
def test_queries_ask_for_what_there_is(dashboard: Any) -> None:
    """Every series is exported or recorded by the rules of these windows, every label one that they have."""
    windows = {"drift": 3600.0, "outcomes": 86_400.0}
    if dashboard in MADE["others"].values():
        windows = {"drift": 1800.0, "outcomes": 3600.0}
    rules = drift_rules(window=windows["drift"]) + outcome_rules(window=windows["outcomes"])
    recorded = set(re.findall(r"record: (\S+)", rules))
    exported = {prometheus_name(metric) for metric in semconv.METRICS} | set(dcgm.SOURCES)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', everything(dashboard))
    series = set(re.findall(r"([a-zA-Z_:][\w:]*)\{", text))
    assert series
    for name in series:
        assert {name, re.sub(r"_(bucket|count)$", "", name)} & (exported | recorded | {"ALERTS"}), name
    of_dcgm = {"gpu", "UUID", "modelName", "Hostname", "GPU_I_ID"}
    of_alerts = {"alertname", "alertstate", "cause", "severity"}
    own = {"job", "instance", "le", "__name__", "mlobs_alternative", *of_dcgm, *of_alerts}
    labels = {prometheus_name(attribute) for metric in semconv.METRICS for attribute in metric.attributes} | own
    matched = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", text))
    grouped = {each for found in re.findall(r"(?:by|ignoring) \(([^)]*)\)", text) for each in found.split(", ") if each}
    assert matched | grouped <= labels
    assert "mlobs_alternative" in rules


def test_every_metric_is_shown_or_left_out_for_a_reason() -> None:
    """A metric that is added must be put on a dashboard, or on the list of those that are not."""
    text = "\n".join(everything(dashboard) for dashboard in MADE["standard"].values())
    for metric in semconv.METRICS:
        shown = bool(re.search(rf"\b{prometheus_name(metric)}(_bucket|_count)?[{{|\"]", text))
        assert shown == (metric not in NOT_SHOWN), metric.name


@each_dashboard
def test_links_lead_to_a_dashboard_that_has_their_variables(dashboard: Any) -> None:
    """A click sets variables that are there, from labels that the clicked series have."""
    known = {uid: {one["name"] for one in made["templating"]["list"]} for uid, made in MADE["standard"].items()}
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]
        links = list(defaults["defaults"].get("links", ()))
        for override in defaults["overrides"]:
            links += [link for one in override["properties"] if one["id"] == "links" for link in one["value"]]
        renamed = next(
            (one["options"]["renameByName"] for one in panel.get("transformations", ()) if one["id"] == "organize"), {}
        )
        for link in links:
            uid, _, parameters = link["url"].removeprefix("/d/").partition("?")
            assert set(re.findall(r"var-(\w+)=", parameters)) <= known[uid]
            assert "${prometheus:queryparam}" in parameters
            assert "${__url_time_range}" in parameters
            for label in re.findall(r"\$\{__field\.labels\.(\w+)\}", link["url"] + link["title"]):
                assert any(label in query or "by (" not in query for query in queries(panel)), (panel["title"], label)
            assert set(re.findall(r"\$\{__data\.fields\.(\w+)\}", link["url"])) <= set(renamed.values())


def test_one_clicks_down_from_the_overview_to_the_gpu() -> None:
    """Each dashboard has links to the next: overview, model, operation, feature, GPU; and to all in its head."""
    for here, there in itertools.pairwise(UIDS):
        assert f"/d/{there}?" in json.dumps(MADE["standard"][here]["panels"]), (here, there)
    for dashboard in MADE["standard"].values():
        (link,) = dashboard["links"]
        assert (link["type"], link["tags"], link["includeVars"]) == ("dashboards", dashboard["tags"], True)


@each_dashboard
def test_durations_come_with_exemplars_and_both_kinds_of_histogram(dashboard: Any) -> None:
    """Every quantile and every heat map asks for exemplars, and reads buckets and native histograms alike."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            query = target.get("expr", "")
            if "histogram_quantile" not in query or target["format"] == "table":
                continue
            classic, _, native = query.partition("\nor\n")
            assert ":" in classic or re.search(r"_bucket\{", classic), query
            assert "_bucket" not in native
            assert "histogram_quantile" in native
            assert target["exemplar"] or ":" in classic, query
        if panel["type"] == "heatmap":
            (target,) = panel["targets"]
            assert target["exemplar"]
            assert target["format"] == "heatmap"


def test_lines_are_the_objectives() -> None:
    """What is the same for all is a line; what a model has of its own, a series for each model."""

    def drawn(made: Any, uid: str, title: str) -> tuple[list[float], list[str]]:
        (panel,) = (one for one in panels(made[uid]) if one["title"] == title)
        steps = [one["value"] for one in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if one["value"]]
        lines = [one["expr"] for one in panel["targets"] if one["legendFormat"].startswith("objective")]
        return steps, lines

    assert drawn(MADE["standard"], "mlobs-overview", "Duration, p99") == ([0.08], [])
    assert drawn(MADE["standard"], "mlobs-overview", "Error ratio") == ([0.001], [])
    assert drawn(MADE["standard"], "mlobs-overview", "Stale share") == ([0.05], [])
    steps, lines = drawn(MADE["others"], "mlobs-overview", "Duration, p99")
    assert steps == []
    (line,) = lines
    assert 'mlobs_model_name="churn"}) + 0.05' in line
    assert 'mlobs_model_name!~"churn"}) + 1' in line
    steps, (line,) = drawn(MADE["others"], "mlobs-overview", "Stale share")
    assert 'mlobs_feature_view_name="customers"}) + 0.2' in line
    assert drawn(MADE["others"], "mlobs-model", "PSI")[0] == []
    _, lines = drawn(MADE["others"], "mlobs-model", "$metric")
    assert any('mlobs_performance_metric="roc_auc"' in line and line.endswith("+ 0.7") for line in lines)
    assert any('mlobs_performance_metric="recall"' in line and line.endswith("+ 0.5") for line in lines)
    _, (line,) = drawn(MADE["others"], "mlobs-model", "Lost to wrong predictions")
    assert 'mlobs_currency="EUR"' in line
    assert line.endswith("+ 100")


def test_the_share_of_slow_operations_is_taken_at_the_objective() -> None:
    """It reads the bucket whose bound the objective is, also where Prometheus writes 1 as 1.0."""

    def bounds(made: Any) -> set[str]:
        return set(re.findall(r'le=~"([^"]*)"', everything(made["mlobs-operation"])))

    assert bounds(MADE["standard"]) == {r"0\\.08"}
    assert bounds(MADE["others"]) == {r"1|1\\.0", r"0\\.05"}


def test_names_with_signs_of_regular_expressions_are_taken_as_they_are() -> None:
    """A model called a.b or with a quote is that model, and no other."""
    made = dashboards(Objectives(models={'a.b "c"': Objective(errors=0.5)}))
    text = everything(made["mlobs-overview"])
    assert r'mlobs_model_name="a.b \"c\""' in text
    assert r'mlobs_model_name!~"a\\.b\\ \"c\""' in text


def test_tables_of_traces_search_the_trace_store() -> None:
    """Slow, failed and drifting traces are searched for in Jaeger's way or in TraceQL."""
    found = {}
    for name, made in MADE.items():
        asked = [one["targets"][0] for one in panels(made["mlobs-operation"]) if one["type"] == "table"]
        found[name] = [
            {key: value for key, value in one.items() if key not in ("refId", "datasource", "limit")} for one in asked
        ]
    search = {"queryType": "search", "service": "$service"}
    assert found["standard"] == [
        {**search, "minDuration": "80ms"},
        {**search, "tags": "error=true"},
        {**search, "tags": "mlobs.drift.status=drift"},
    ]
    service = 'resource.service.name = "$service"'
    assert [one["query"] for one in found["others"]] == [
        f"{{ {service} && span.mlobs.operation.name != nil && duration > 1000ms }}",
        f"{{ {service} && status = error }}",
        f'{{ {service} && span.mlobs.drift.status = "drift" }}',
    ]


def test_alerts_lead_to_variables_that_the_dashboards_have() -> None:
    """What an alert's link sets is there to be set; and the table of what fires knows the alerts' causes."""
    rules = Alerts(Objectives(Objective(dashboards="https://grafana.example"))).rules()
    links = set(re.findall(r"https://grafana\.example/d/([\w-]+)\?([^\"]*)", rules))
    assert links
    for uid, parameters in links:
        known = {one["name"] for one in MADE["standard"][uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", parameters)) <= known, uid
    (firing,) = (one for one in panels(MADE["standard"]["mlobs-overview"]) if one["title"] == "Firing")
    ((query),) = queries(firing)
    (causes,) = re.findall(r'cause=~"([^"]*)"', query)
    assert set(re.findall(r'cause: "(\w+)"', rules)) == set(causes.split("|"))


def test_the_trace_interface_of_the_objectives_is_linked() -> None:
    """Where the objectives name a page for traces, every dashboard's head leads there."""
    made = dashboards(Objectives(Objective(traces="https://jaeger.example")))
    assert all(one["links"][-1]["url"] == "https://jaeger.example" for one in made.values())


def test_a_series_that_no_rule_records_is_refused() -> None:
    """A panel that would be empty for ever fails when it is made."""
    recorded = Recorded()
    assert recorded("feature:mlobs_drift_psi:increase{drift}") == "feature:mlobs_drift_psi:increase1h"
    with pytest.raises(KeyError, match="feature:mlobs_drift_psy:increase1h"):
        recorded("feature:mlobs_drift_psy:increase{drift}")


def test_objectives_and_windows_come_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--objectives goes before the file that MLOBS_CONFIG names; windows are in the recorded names."""
    for name, latency in (("mine", "200ms"), ("theirs", "300ms")):
        (tmp_path / f"{name}.toml").write_text(f'[objectives]\nlatency = "{latency}"\n')
    monkeypatch.setenv("MLOBS_CONFIG", str(tmp_path / "theirs.toml"))
    chosen = ["--objectives", str(tmp_path / "mine.toml"), "--drift-window", "6h", "--outcome-window", "7d"]
    for folder, arguments, latency in (("a", chosen, 0.2), ("b", [], 0.3)):
        assert cli.main(["dashboard", "--output", str(tmp_path / folder), *arguments]) == 0
        overview = json.loads((tmp_path / folder / "dashboards/otel-mlobs/mlobs-overview.json").read_text())
        assert {"color": "red", "value": latency} in [
            step for one in panels(overview) for step in one["fieldConfig"]["defaults"]["thresholds"]["steps"]
        ]
        assert ("psi_adjusted:increase6h{" in everything(overview)) == (folder == "a")
        assert ("outcome_value:increase7d{" in everything(overview)) == (folder == "a")
    assert not capsys.readouterr().err


def test_provisioning_has_the_given_places(tmp_path: Path) -> None:
    """URLs, the kind of trace store, the interval and the mount are in the files; exemplars lead to the traces."""
    written = write(
        tmp_path,
        MADE["standard"],
        traces="tempo",
        prometheus_url="http://prometheus:9090/prom",
        traces_url="${TEMPO}",
        metric_interval="30s",
        mount="/srv/grafana/",
    )
    assert all(path.is_file() for path in written)
    metrics, traces = yaml.safe_load((tmp_path / "datasources" / "otel-mlobs.yaml").read_text())["datasources"]
    assert (metrics["type"], metrics["url"]) == ("prometheus", "http://prometheus:9090/prom")
    assert (traces["type"], traces["url"]) == ("tempo", "${TEMPO}")
    assert metrics["jsonData"]["timeInterval"] == "30s"
    (destination,) = metrics["jsonData"]["exemplarTraceIdDestinations"]
    assert (destination["name"], destination["datasourceUid"]) == ("trace_id", traces["uid"])
    to_metrics = traces["jsonData"]["tracesToMetrics"]
    assert to_metrics["datasourceUid"] == metrics["uid"]
    assert "{$$__tags}" in to_metrics["queries"][0]["query"]  # Grafana takes $__tags from it, not from its environment
    (provider,) = yaml.safe_load((tmp_path / "dashboards" / "otel-mlobs.yaml").read_text())["providers"]
    assert provider["options"] == {"path": "/srv/grafana/dashboards/otel-mlobs"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--prometheus-url", "prometheus:9090"],
            "prometheus_url must be a URL as http://prometheus:9090 or a variable",
        ),
        (["--traces-url", "http://a b"], "traces_url must be a URL"),
        (["--traces-url", "http://me:secret@jaeger:16686"], "traces_url must have no user or password in it"),
        (["--metric-interval", "soon"], "metric_interval must be written as 15s or 1m, got 'soon'"),
        (["--mount", "provisioning"], "mount must be an absolute path"),
        (["--drift-window", "5m"], "window must be at least 12m"),
        (["--outcome-window", "yesterday"], "a duration must be written as 1h"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says what is wrong, writes nothing, and never repeats a password."""
    folder = tmp_path / "new"
    assert cli.main(["dashboard", "--output", str(folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the place of the folder ends with status 1 and is named."""
    (tmp_path / "taken").write_text("")
    assert cli.main(["dashboard", "--output", str(tmp_path / "taken")]) == 1
    assert str(tmp_path / "taken") in capsys.readouterr().err


@each_dashboard
def test_variables_read_labels_that_series_have(dashboard: Any) -> None:
    """Each variable's query is one selector and one label; one that chooses several takes all for every series."""
    for one in variables(dashboard):
        selector, label = label_values(one["query"]["query"])
        assert selector.endswith("}")
        assert re.fullmatch(r"\w+", label)
        assert one["multi"] == one["includeAll"] == (one.get("allValue") == ".*")


def lost(written: Any, known: Any, path: str = "") -> list[str]:
    """What of ``written`` is not in ``known``; defaults that were added do not count."""
    if isinstance(written, dict):
        if not isinstance(known, dict):
            return [path]
        return [each for key in written for each in lost(written[key], known.get(key, ...), f"{path}.{key}")]
    if isinstance(written, list):
        if not isinstance(known, list) or len(known) != len(written):
            return [path]
        return [
            each for at, (a, b) in enumerate(zip(written, known, strict=True)) for each in lost(a, b, f"{path}[{at}]")
        ]
    return [] if written == known else [path]


@each_dashboard
def test_grafanas_own_types_know_every_field(dashboard: Any) -> None:
    """Read and written again by Grafana's Foundation SDK, which drops what its schema has not, nothing is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # it would rather have the schema that is not the classic one
        plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models.dashboard import Dashboard
    plugins.register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    assert again["schemaVersion"] == dashboard["schemaVersion"]
    assert lost(dashboard, again) == []
    assert lost(
        {**dashboard, "colour": 1}, json.loads(JSONEncoder().encode(Dashboard.from_json({**dashboard, "colour": 1})))
    ) == [".colour"]
