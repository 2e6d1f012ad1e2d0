"""Alerts and routes: what is in them for which objectives, and what is refused. promtool has its say elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_mlobs import semconv
from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings.alerting import Alerting, load_alerting
from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools import cli
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.alerts.definitions import Definition, scopes_of
from otel_mlobs.tools.alerts.operations import bound_matcher
from otel_mlobs.tools.alerts.routes import alertmanager
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name

GOLDEN = Path(__file__).parent / "golden"
MANY = Objectives(
    default=Objective(performance={"roc_auc": 0.75, "rmse": 2.0}, value_at_risk={"EUR": 1e6}),
    models={"churn": Objective(latency=0.05, owner="risk", performance={"f1": 0.5}), "ltr v2+": Objective(latency=1.0)},
    views={"user_features": Objective(freshness=900.0)},
)


def _all(objectives: Objectives = MANY) -> list[Definition]:
    return [each for definitions in Alerts(objectives).definitions().values() for each in definitions]


def _named(name: str, objectives: Objectives = MANY, **labels: str) -> Definition:
    (found,) = [each for each in _all(objectives) if each.name == name and labels.items() <= each.labels.items()]
    return found


@pytest.mark.parametrize(("name", "option"), [("alerts.rules.yml", "--alerts"), ("alertmanager.yml", "--alertmanager")])
def test_the_files_are_the_golden_ones(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints, byte for byte, the files that promtool and amtool have checked.

    After a change that is meant: `otel-mlobs rules --alerts --output tests/golden/alerts.rules.yml`, and likewise.
    """
    assert cli.main(["rules", option]) == 0
    assert capsys.readouterr().out == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_alert_is_tested_both_ways() -> None:
    """Each has a case in which it fires, one in which it does not though there is something, and one with nothing."""
    for alert in _all():
        fires = [case for case in alert.cases if case.fires is not None]
        silent = [case for case in alert.cases if case.fires is None]
        assert fires, alert.name
        assert any(case.series for case in silent), alert.name
        if alert.name not in ("ModelMissing", "FeatureViewMissing"):  # of which missing data is the alert
            assert any(not case.series for case in silent), alert.name
        if alert.keep:
            assert any(case.ends for case in fires) or alert.name in _NEVER_SEEN_TO_END, alert.name


_NEVER_SEEN_TO_END = (
    "LatencyBudgetBurnSlow", "ErrorBudgetBurnSlow", "ContainerThrottled", "PoolSaturated", "FeatureValuesMissing",
    "FeatureStandIns", "FeatureContractBroken", "EstimatedPerformanceBelowObjective", "ValueAtRisk",
)  # fmt: skip
"""Their end is that of others whose rule is written alike; of the slow ones it takes days."""


def test_severity_is_that_of_the_hierarchy() -> None:
    """Slow is low, errors are high, stale or silent features are critical."""
    severities = {alert.name: alert.severity for alert in _all()}
    assert (severities["OperationSlow"], severities["OperationErrors"]) == ("low", "high")
    critical = {name for name, severity in severities.items() if severity == "critical"}
    assert critical == {"FeatureViewStale", "FeatureViewSilent", "FeatureLookupsStopped", "FeatureViewMissing"}


def test_names_are_those_that_are_emitted_or_recorded() -> None:
    """Of every expression each series is one of the library's, or recorded by one of its rule files."""
    exported = {prometheus_name(metric) for metric in semconv.METRICS}
    exported |= {f"{prometheus_name(semconv.OPERATION_DURATION)}_{end}" for end in ("count", "bucket")}
    files = (Alerts(MANY).rules(), drift_rules(), outcome_rules())
    recorded = {name for text in files for name in re.findall(r"- record: (\S+)", text)}
    labels = {prometheus_name(attribute) for metric in semconv.METRICS for attribute in metric.attributes}
    for alert in _all():
        expression = re.sub(r'"[^"]*"', "", alert.expr)
        read = set(re.findall(r"\b(\w+:\w+:\w+)", expression))
        assert read <= recorded, alert.name
        plain = re.sub(r"\w+:\w+:\w+", "", expression)
        names = set(re.findall(r"\b((?:mlobs|hw|db|container)_\w+)", plain)) - labels
        assert names <= exported, alert.name
        assert read | names


def test_groups_have_at_most_twenty_rules() -> None:
    """Mimir takes no more in a group by default."""
    groups = Alerts(MANY).rules().split("  - name: ")[1:]
    assert max(len(re.findall(r"- (?:record|alert): ", group)) for group in groups) <= 20
    assert len({group.splitlines()[0] for group in groups}) == len(groups)


def test_rules_of_one_name_have_labels_that_differ() -> None:
    """Otherwise promtool calls them duplicates, and nobody could silence one of them."""
    found = [(alert.name, tuple(sorted(alert.rule().labels.items()))) for alert in _all()]
    assert len(set(found)) == len(found)


def test_everyone_is_in_one_scope() -> None:
    """A view's objective goes before its model's, and who is named is not in the default."""
    by_name = {", ".join((*scope.models, *scope.views)): scope for scope in scopes_of(MANY)}
    assert by_name[""].of_operation == (
        r'mlobs_model_name!~"churn|ltr v2\\+", mlobs_feature_view_name!~"user_features"'
    )
    assert by_name["churn"].of_operation == 'mlobs_model_name=~"churn", mlobs_feature_view_name!~"user_features"'
    assert by_name["user_features"].of_operation == 'mlobs_feature_view_name=~"user_features"'
    (alone,) = scopes_of(Objectives())
    assert (alone.of_operation, alone.of_model, alone.of_view) == ("", "", "")


def test_thresholds_are_the_objectives() -> None:
    """Of the scope that they are of."""
    assert "> 0.01\n" in _named("OperationSlow", objective="churn").expr
    assert "80 ms" in _named("OperationSlow", Objectives()).summary
    assert "50 ms" in _named("OperationSlow", objective="churn").summary
    assert 'le="0.05"' in Alerts(MANY).rules()
    strict = Objectives(default=Objective(errors=0.0005, errors_for=300.0, latency_quantile=0.95))
    errors = _named("OperationErrors", strict)
    assert "> 0.0005\n" in errors.expr
    assert (errors.hold, _named("OperationErrors", Objectives()).hold) == (300.0, 120.0)
    assert "> 0.05\n" in _named("OperationSlow", strict).expr
    assert "for: 5m\n" in Alerts(strict).rules()


def test_a_threshold_is_not_rounded() -> None:
    """Rounded to one, a share is never above it, and every model's roc_auc is below it."""
    close = Objective(
        errors=0.9999999, stale_share=0.9999999, performance={"roc_auc": 0.9999999}, drift_tolerance=0.12345678,
        traffic_floor=1234567.5,
    )  # fmt: skip
    objectives = Objectives(default=close)
    for name in ("OperationErrors", "FeatureViewStale"):
        assert "> 0.9999999\n" in _named(name, objectives).expr
    for name in ("PerformanceBelowObjective", "EstimatedPerformanceBelowObjective"):
        assert _named(name, objectives).expr.endswith("< 0.9999999")
    assert "> 0.12345678\n" in _named("FeatureDrift", objectives).expr
    for name in ("OperationSlow", "OperationSilent"):
        assert ">= 1234567.5" in _named(name, objectives).expr
    slow = Objective(latency=1200.0, traces="https://jaeger.example")
    assert _named("OperationSlow", Objectives(default=slow)).rule().annotations["traces_url"].endswith("=1200000ms")


def test_a_window_in_which_nothing_could_be_so_bad_is_left_out() -> None:
    """14.4 times a tenth is more than all."""
    wide = Objectives(default=Objective(errors=0.1))
    assert [alert.labels["window"] for alert in _all(wide) if alert.name == "ErrorBudgetBurn"] == ["6h"]


@pytest.mark.parametrize(
    ("seconds", "matcher"),
    [
        (0.08, 'le="0.08"'),
        (1.0, 'le=~"1|1\\\\.0"'),
        (10.0, 'le=~"10|10\\\\.0"'),
        (1.5, 'le="1.5"'),
        (1e-5, 'le=~"0\\\\.00001|1e-05"'),
        (0.1 + 0.2, 'le="0.30000000000000004"'),
        (1e6, 'le=~"1000000|1e\\\\+06"'),
        (1234567.5, 'le=~"1234567\\\\.5|1\\\\.2345675e\\\\+06"'),
    ],
)
def test_a_bound_is_found_as_otlp_and_as_a_scrape_write_it(seconds: float, matcher: str) -> None:
    """Prometheus has 1 from the one and 1.0 from the other, every digit of it, and an exponent when scraped only."""
    assert bound_matcher(seconds) == matcher


def test_whoever_gets_it_is_told_where_there_is_more() -> None:
    """Runbook, dashboard and traces, where the objectives say where they are; the owner is a label."""
    whole = Objective(
        owner="risk", runbooks="https://wiki.example/runbooks", dashboards="https://grafana.example",
        traces="https://jaeger.example",
    )  # fmt: skip
    rule = _named("OperationSlow", Objectives(default=whole)).rule()
    assert rule.annotations["runbook_url"] == "https://wiki.example/runbooks/OperationSlow"
    assert rule.annotations["dashboard_url"].startswith(
        "https://grafana.example/d/mlobs-operation?orgId=1{{ with $labels.job }}&var-job={{ . | urlquery }}{{ end }}"
    )
    assert rule.annotations["traces_url"].endswith("&minDuration=80ms")
    assert rule.labels == {"severity": "low", "cause": "system", "owner": "risk"}
    placed = Objectives(default=Objective(runbooks="https://wiki.example/{alert}.html"))
    rule = _named("OperationSlow", placed).rule()
    assert rule.annotations["runbook_url"] == "https://wiki.example/OperationSlow.html"
    assert "dashboard_url" not in rule.annotations


def test_all_writes_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a folder that it makes; windows reach the recording rules and the alerts that read them."""
    folder = tmp_path / "made" / "here"
    options = ["--drift-window", "2h", "--outcome-window", "7d", "--by", "job,region"]
    assert cli.main(["rules", "--all", "--output", str(folder), *options]) == 0
    captured = capsys.readouterr()
    names = ["mlobs-drift.rules.yml", "mlobs-outcomes.rules.yml", "mlobs-alerts.rules.yml", "mlobs-alerts.tests.yml",
             "alertmanager.yml"]  # fmt: skip
    assert captured.out.splitlines() == [str(folder / name) for name in names]
    assert "objectives.runbooks is not set: alerts have no runbook_url" in captured.err
    drift, outcomes, alerts, tests, _ = [(folder / name).read_text() for name in names]
    assert "psi_adjusted:increase2h" in drift
    assert "psi_adjusted:increase2h" in alerts
    assert "performance_realized:increase7d" in outcomes
    assert "sum by (job, region, mlobs_operation_name" in alerts
    assert "  - mlobs-alerts.rules.yml\n" in tests.replace('"', "")


def test_the_objectives_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that is named, else the one that the library itself would read."""
    own, others = tmp_path / "own.toml", tmp_path / "others.toml"
    own.write_text("[objectives]\nlatency = '30ms'\nrunbooks = 'https://wiki.example'\n")
    others.write_text("[objectives]\nlatency = '40ms'\n")
    monkeypatch.setenv("MLOBS_CONFIG", str(others))
    assert cli.main(["rules", "--alerts"]) == 0
    assert 'le="0.04"' in capsys.readouterr().out
    assert cli.main(["rules", "--alerts", "--objectives", str(own)]) == 0
    assert 'le="0.03"' in capsys.readouterr().out
    own.write_text("[objectives]\nlatencies = 1\n")
    assert cli.main(["rules", "--alerts", "--objectives", str(own)]) == 2
    assert f"{own}, line 2: objectives.latencies: there is no key 'latencies'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all"], "--output must name their folder"),
        (["--alerts", "--window", "1h"], "--window is of --drift, --outcomes: --alerts has none"),
        (["--alertmanager", "--interval", "1m"], "--interval is of"),
        (["--drift", "--objectives", "x.toml"], "--objectives is of"),
        (["--outcomes", "--drift-window", "1h"], "--drift-window is of"),
        (["--alerts", "--totals"], "--totals is of"),
        (["--alerts", "--interval", "0s"], "interval must be whole seconds above 0"),
        (["--alerts", "--interval", "3m"], "interval must be at most 120 s"),
        (["--alerts", "--drift-window", "soon"], "a duration must be written as"),
        (["--alerts", "--objectives", "nowhere.toml"], "nowhere.toml"),
        (["--alerts", "--by", "a b"], "a label must be a name"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option of another kind of file is no silent nothing."""
    assert cli.main(["rules", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_alert_silences_none_of_another_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    """The same labels tell fleets apart in rules and routes; where nothing does, nothing is silenced."""
    assert cli.main(["rules", "--alertmanager", "--by", "job,region"]) == 0
    text = capsys.readouterr().out
    assert "group_by: [alertname, job, region, mlobs_model_name]\n" in text
    assert re.findall(r"equal: (.*)", text) == ["[job, region]", "[job, region]", "[job, region, mlobs_model_name]"]
    sources = re.findall(r"source_matchers: (.*)", text)
    assert len(sources) == 3
    assert all(source.endswith("""'job!=""', 'region!=""']""") for source in sources)
    assert cli.main(["rules", "--alertmanager", "--by", ""]) == 0
    assert "inhibit_rules" not in capsys.readouterr().out


def test_secrets_are_files(tmp_path: Path) -> None:
    """Where they are comes from the file; a secret in their place is refused and not shown."""
    path = tmp_path / "mlobs.toml"
    path.write_text("[alerting]\nslack_channel = '#risk'\npage_url_file = '/run/secrets/page'\n")
    alerting = load_alerting(str(path))
    assert alerting == Alerting(slack_channel="#risk", page_url_file="/run/secrets/page")
    text = alertmanager(alerting=alerting)
    assert 'channel: "#risk"' in text
    assert 'url_file: "/run/secrets/page"' in text
    for secret in ("https://hooks.slack.example/T0/hunter2", "hunter2"):
        path.write_text(f"[alerting]\nslack_url_file = {secret!r}\n")
        with pytest.raises(ConfigurationError, match=r"line 2: alerting\.slack_url_file must be the path") as raised:
            load_alerting(str(path))
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slack_chanel = 'x'", "did you mean 'slack_channel'"),
        ("slack_channel = 7", "must be a line of text"),
        ("page_key_file = '/a'\npage_url_file = '/b'", r"line 3: .*page_key_file is given too"),
    ],
)
def test_what_is_wrong_with_receivers_is_said(tmp_path: Path, text: str, message: str) -> None:
    """With line and key, as of the objectives."""
    path = tmp_path / "mlobs.toml"
    path.write_text(f"[alerting]\n{text}\n")
    with pytest.raises(ConfigurationError, match=message):
        load_alerting(str(path))
