"""The alerts as promtool tests them and Prometheus evaluates them; the routes as amtool and Alertmanager take them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.alerts.routes import alertmanager as routes
from otel_mlobs.tools.rules import bound_texts

from .alertmanager import to_webhook
from .backends import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .alertmanager import Alertmanager, Webhook
    from .backends import Prometheus

DEFAULT = Objective(
    owner="ml", runbooks="https://wiki.example", dashboards="https://grafana.example", traces="https://jaeger.example"
)
NAMED = Objectives(
    default=DEFAULT,
    models={"ltr v2+": replace(DEFAULT, latency=1.0, latency_quantile=0.95, traffic_floor=0.0, errors=0.02,
                               errors_for=300.0, drift_tolerance=0.2, value_at_risk={"EUR": 10_000.0},
                               performance={"roc_auc": 0.75, "mae": 2.0, "rmse": 3.0})},
    views={"user_features": replace(DEFAULT, freshness=900.0, stale_share=0.01)},
)  # fmt: skip
FILE = "alerts.rules.yml"


def _run(program: Path, *arguments: str | Path) -> str:
    """What it prints; it must end well."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("objectives", [Objectives(), NAMED], ids=["default", "named"])
def test_promtool_has_nothing_to_say(promtool: Path, tmp_path: Path, objectives: Objectives) -> None:
    """No error, no duplicate, and PromQL that parses."""
    (tmp_path / FILE).write_text(Alerts(objectives).rules())
    _run(promtool, "check", "rules", "--lint=all", "--lint-fatal", tmp_path / FILE)


def test_names_are_taken_as_they_are(promtool: Path, tmp_path: Path) -> None:
    """Labels and links are templates to Prometheus: {{ in a name, an owner or a URL is no action, and it is written so.

    A model and a view of one name have alerts that can be told apart.
    """
    name = 'a "b" \\ {{ c }} $labels ^.*+?()|[]{}\u00e4\U0001f600'
    odd = replace(DEFAULT, owner="{{ us", runbooks="https://wiki.example/{{x}}")
    alerts = Alerts(Objectives(default=odd, models={name: odd}, views={name: odd}))
    (tmp_path / FILE).write_text(alerts.rules())
    (tmp_path / "tests.yml").write_text(alerts.tests(FILE))
    _run(promtool, "check", "rules", "--lint=all", "--lint-fatal", tmp_path / FILE)
    which = f"^ModelMissing.*{re.escape(name)}"
    assert "SUCCESS" in _run(promtool, "test", "rules", "--run", which, tmp_path / "tests.yml")


def test_every_alert_fires_when_it_must_and_only_then(promtool: Path, tmp_path: Path) -> None:
    """At its minute; not just below, not on little traffic, not without data; and no longer after it has ended."""
    alerts = Alerts()
    (tmp_path / FILE).write_text(alerts.rules())
    (tmp_path / "tests.yml").write_text(alerts.tests(FILE))
    assert "SUCCESS" in _run(promtool, "test", "rules", tmp_path / "tests.yml")


def test_so_does_every_alert_of_who_has_objectives_of_their_own(promtool: Path, tmp_path: Path) -> None:
    """With other thresholds, and a name that means something in a regular expression."""
    alerts = Alerts(NAMED)
    (tmp_path / FILE).write_text(alerts.rules())
    (tmp_path / "tests.yml").write_text(alerts.tests(FILE))
    named = r"ltr v2\+|user_features"
    assert "SUCCESS" in _run(promtool, "test", "rules", "--run", named, tmp_path / "tests.yml")


def test_a_threshold_that_is_off_is_seen_by_the_tests(promtool: Path, tmp_path: Path) -> None:
    """The generated tests fail on rules that fire at twice, or at half, of what they should."""
    alerts = Alerts()
    rules = alerts.rules()
    (tmp_path / "tests.yml").write_text(alerts.tests(FILE))
    for name, threshold in (("OperationErrors", "> 0.001\n"), ("OperationSlow", "> 0.01\n"), ("GpuThrottled", "> 0.5")):
        begin = rules.index(f"- alert: {name}\n")
        at = rules.index(threshold, begin)
        number = float(threshold[2:])
        for wrong in (number * 0.5, min(number * 60, 1.1)):
            mutated = f"{rules[:at]}> {wrong:g}{rules[at + len(threshold.rstrip()) :]}"
            (tmp_path / FILE).write_text(mutated)
            done = subprocess.run(
                [promtool, "test", "rules", "--run", name, tmp_path / "tests.yml"], capture_output=True, check=False
            )
            fails = done.returncode != 0
            assert fails or (name == "GpuThrottled" and wrong < number), f"{name} {threshold.strip()} → {wrong:g}"


def test_every_text_can_be_read(promtool: Path, tmp_path: Path) -> None:
    """No template fails, none is left over, and every alert has its links."""
    alerts = Alerts(NAMED)
    (tmp_path / FILE).write_text(alerts.rules())
    tests: list[dict[str, Any]] = []
    wanted = set()
    for definitions in alerts.definitions().values():
        for definition in definitions:
            case = next(each for each in definition.cases if each.fires is not None)
            at = f"{round((case.fires or 0.0) // 120 * 2 + 4)}m"
            wanted.add(definition.name)
            tests.append(
                {
                    "interval": "15s",
                    "input_series": [{"series": series, "values": values} for series, values in case.series],
                    "alert_rule_test": [{"eval_time": at, "alertname": definition.name, "exp_alerts": []}],
                }
            )
    content = {"rule_files": [FILE], "evaluation_interval": "2m", "tests": tests}
    (tmp_path / "texts.yml").write_text(json.dumps(content))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "texts.yml"], capture_output=True, text=True, check=False
    )
    seen = re.findall(r'Labels:\{alertname="(\w+)".*?\n\s*Annotations:\{(.*?)\}\n', done.stdout + done.stderr)
    assert {name for name, _ in seen} == wanted
    for name, texts in seen:
        assert "<error" not in texts, name
        assert "<no value>" not in texts, name
        assert "{{" not in texts, name
        assert "$" not in texts, name
        assert f'runbook_url="https://wiki.example/{name}"' in texts
        assert 'dashboard_url="https://grafana.example/d/mlobs-' in texts, name
    slow = [texts for name, texts in seen if name == "OperationSlow"]
    assert 'summary="p99 of prediction of another 1 in shop is over 80 ms"' in slow[0]
    assert 'traces_url="https://jaeger.example/search?service=shop&minDuration=80ms"' in slow[0]


def test_amtool_takes_the_routes(amtool: Path, tmp_path: Path) -> None:
    """And every severity goes to its receiver."""
    path = tmp_path / "alertmanager.yml"
    path.write_text(routes())
    assert "SUCCESS" in _run(amtool, "check-config", path)
    for severity, receiver in (("low", "slack"), ("high", "pagerduty"), ("critical", "page"), ("unheard_of", "slack")):
        labels = [f"severity={severity}", "alertname=OperationSlow", "job=shop"]
        _run(amtool, "config", "routes", "test", f"--config.file={path}", f"--verify.receivers={receiver}", *labels)


def test_a_message_says_what_it_is_about(amtool: Path, tmp_path: Path) -> None:
    """Its title is that of an alert that fires, also where several differ, and says so when all have ended."""
    slack = yaml.safe_load(routes())["receivers"][0]["slack_configs"][0]

    def rendered(template: str, *states: str) -> str:
        alerts = [
            {"status": state, "annotations": {"summary": f"feature {number} has drifted", "description": "By much."}}
            for number, state in enumerate(states)
        ]
        status = "firing" if "firing" in states else "resolved"
        data = {"status": status, "alerts": alerts, "commonAnnotations": {"description": "By much."}}
        (tmp_path / "data.json").write_text(json.dumps(data))
        options = [f"--template.text={template}", f"--template.data={tmp_path / 'data.json'}"]
        return _run(amtool, "template", "render", "--template.glob=", *options).strip()

    assert rendered(slack["title"], "firing") == "feature 0 has drifted"
    assert rendered(slack["title"], "resolved", "firing", "firing") == "feature 1 has drifted (2 in all)"
    assert rendered(slack["title"], "resolved") == "Resolved: feature 0 has drifted"
    assert rendered(slack["text"], "resolved", "firing") == "feature 1 has drifted: By much."
    assert len(rendered(slack["text"], "resolved", "resolved").splitlines()) == 2


def test_native_histograms_are_read_too(prometheus_with_rules: Callable[..., Prometheus]) -> None:
    """Of a service whose durations are exponential, as OpenTelemetry has it, the share of slow ones is recorded."""
    rules = re.sub(r"\[\d+[mhd]\]", "[1m]", Alerts(interval=1.0).rules()).replace("interval: 2m", "interval: 1h")
    prometheus = prometheus_with_rules(rules)
    exporter = OTLPMetricExporter(f"{prometheus.otlp}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    view = View(instrument_name="mlobs.operation.duration", aggregation=ExponentialBucketHistogramAggregation())
    resource = Resource({"service.name": "shop"})
    provider = MeterProvider([reader], resource, shutdown_on_exit=False, views=[view])
    histogram = provider.get_meter("shop").create_histogram("mlobs.operation.duration", "s")
    labels = {"mlobs.operation.name": "prediction", "mlobs.model.name": "churn"}

    def share() -> list[float]:
        for seconds in (0.01, 0.02, 0.03, 0.5):
            histogram.record(seconds, labels)
        assert provider.force_flush()
        time.sleep(1.0)
        return [value for _, value in prometheus.ask("operation:mlobs_operation_slow:ratio_rate5m") if value > 0]

    (found,) = wait_until("waiting for the share of slow operations", share)
    provider.shutdown()
    assert found == pytest.approx(0.25, abs=0.02)
    assert not prometheus.ask("mlobs_operation_duration_seconds_bucket")


def test_a_bound_is_written_as_prometheus_writes_it(prometheus: Prometheus) -> None:
    """Else an alert would look for a bucket that is not there: also of a very short, long or crooked objective."""
    bounds = [1e-5, 0.009, 0.1 + 0.2, 1.0, 1e6, 1234567.5, 1e22]
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{prometheus.otlp}/v1/metrics"), 3_600_000)
    provider = MeterProvider([reader], Resource({"service.name": "bounds"}), shutdown_on_exit=False)
    histogram = provider.get_meter("bounds").create_histogram(
        "crooked", "s", explicit_bucket_boundaries_advisory=bounds
    )
    histogram.record(0.5)
    provider.shutdown()
    written = {labels["le"] for labels, _ in prometheus.ask('crooked_seconds_bucket{job="bounds"}')}
    assert written == {bound_texts(bound)[0] for bound in bounds} | {"+Inf"}


def test_what_silences_what(alertmanager: Callable[[str], Alertmanager], webhook: Webhook, tmp_path: Path) -> None:
    """Stale features silence drift of the same service, critical silences lower, and other services are still heard.

    Also where the alert is on something that no service reports, and so has no job.
    """
    server = alertmanager(
        re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", to_webhook(routes(), webhook, tmp_path))
    )
    alerts = [
        ("FeatureViewStale", "critical", "data", "shop"),
        ("FeatureDrift", "low", "model", "shop"),
        ("OperationErrors", "high", "system", "shop"),
        ("OperationSlow", "low", "system", "shop"),
        ("FeatureDrift", "low", "model", "bank"),
        ("OperationErrors", "high", "system", "bank"),
        ("FeatureViewMissing", "critical", "data", ""),
        ("ModelMissing", "high", "system", ""),
    ]
    server.send(
        [
            {
                "labels": {
                    "alertname": name,
                    "severity": severity,
                    "cause": cause,
                    "job": job,
                    "mlobs_model_name": "churn",
                }
            }
            for name, severity, cause, job in alerts
        ]
    )
    wait_until("waiting for all of them", lambda: len(server.alerts()) == len(alerts))
    expected = {
        ("FeatureViewStale", "shop"),
        ("OperationErrors", "bank"),
        ("FeatureViewMissing", ""),
        ("ModelMissing", ""),
    }

    def heard() -> bool:
        return {(each["labels"]["alertname"], each["labels"].get("job", "")) for each in webhook.sent()} == expected

    wait_until("waiting for those that are not silenced", heard)
    states = {
        (each["labels"]["alertname"], each["labels"].get("job", "")): each["status"]["state"]
        for each in server.alerts()
    }
    assert {key for key, state in states.items() if state == "active"} == expected
    assert len(states) == len(alerts)
