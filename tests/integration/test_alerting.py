"""From a fault in a service to the message that somebody gets: everything on the way is real.

The rules' durations are divided by ``MLOBS_ALERTING_SCALE`` (30), and so is the interval between exports: with 1 the
test takes half an hour, and the times that it prints are those that a person would wait.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.alerts.routes import alertmanager as routes
from otel_mlobs.tools.rules import parse_duration, write_duration

from .alertmanager import to_webhook
from .backends import PATIENCE, get

if TYPE_CHECKING:
    from collections.abc import Callable

    from .alertmanager import Alertmanager, Webhook
    from .backends import Jaeger, Process, Prometheus
    from .collector import Collector

SCALE = float(os.environ.get("MLOBS_ALERTING_SCALE", "30"))
APPS = Path(__file__).parent / "apps"
FAULTS = {
    "slow": ("OperationSlow", "low", "slack"),
    "errors": ("OperationErrors", "high", "pagerduty"),
    "stale": ("FeatureViewStale", "critical", "page"),
}
TO_BOTH = """
receivers:
  otlp:
processors:
  batch: {timeout: 200ms}
exporters:
  otlp_grpc: {endpoint: "${env:JAEGER}", tls: {insecure: true}}
  otlp_http: {endpoint: "${env:PROMETHEUS}"}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}
    metrics: {receivers: [otlp], processors: [batch], exporters: [otlp_http]}
"""


def faster(text: str) -> str:
    """The rules or routes with every duration divided by the scale, and whole seconds still."""

    def divided(found: re.Match[str]) -> str:
        return found[1] + write_duration(max(1, round(parse_duration(found[2]) / SCALE))) + found[3]

    text = re.sub(r"(\[)(\d+[smhd])(\])", divided, text)
    return re.sub(
        r"((?:for|keep_firing_for|interval|offset|group_wait|group_interval|repeat_interval):? )([1-9]\d*[smhd])()",
        divided,
        text,
    )


@dataclass
class Service:
    """A service with a fault that can be switched on and off; when it was, and when somebody was told."""

    fault: str
    process: Process
    switch: Path
    times: dict[str, float] = field(default_factory=dict)

    @property
    def job(self) -> str:
        return f"shop-{self.fault}"

    def told(self, webhook: Webhook, status: str) -> dict[str, Any] | None:
        """The message of this status about the fault of this service, if it has come."""
        name, _, receiver = FAULTS[self.fault]
        for message in list(webhook.received):
            for alert in message["alerts"]:
                labels = alert["labels"]
                if (alert["status"], labels["alertname"], labels.get("job")) == (status, name, self.job):
                    assert message["receiver"] == receiver
                    return dict(alert)
        return None


def _until(what: str, services: list[Service], webhook: Webhook, status: str, patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for service in services:
            if status not in service.times and service.told(webhook, status):
                service.times[status] = time.monotonic()
        if all(status in service.times for service in services):
            return
        time.sleep(0.05)
    missing = [service.fault for service in services if status not in service.times]
    pytest.fail(f"{what}: nobody was told of {missing} within {patience:.0f} s; told: {webhook.alerts()}")


def test_somebody_is_told_of_every_fault_and_of_its_end(
    jaeger_on_disk: Jaeger,
    prometheus_with_rules: Callable[..., Prometheus],
    alertmanager: Callable[[str], Alertmanager],
    collector: Callable[..., Collector],
    start: Callable[..., Process],
    webhook: Webhook,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Slow: Slack. Errors: PagerDuty. Stale features: a page. Nothing before the fault, and nothing else meanwhile."""
    jaeger = jaeger_on_disk
    objective = Objective(traces=jaeger.query, runbooks="https://wiki.example/runbooks")
    server = alertmanager(faster(to_webhook(routes(), webhook, tmp_path)))
    prometheus = prometheus_with_rules(faster(Alerts(Objectives(default=objective)).rules()), alertmanager=server.url)
    gateway = collector(TO_BOTH, env={"JAEGER": jaeger.grpc, "PROMETHEUS": prometheus.otlp})
    services = []
    for fault in FAULTS:
        switch = tmp_path / fault
        command = [sys.executable, APPS / "faulty.py", f"shop-{fault}", fault, gateway.http, f"{15 / SCALE:g}", switch]
        services.append(Service(fault, start("faulty", command, cwd=APPS, env={}), switch))
    well = 600 / SCALE  # all windows of the alerts have then seen a service that is well
    time.sleep(well)
    assert webhook.alerts() == []
    for service in services:
        service.switch.touch()
        service.times["fault"] = time.monotonic()
    _until("waiting for the alerts", services, webhook, "firing", PATIENCE + 1200 / SCALE)
    for service in services:
        _has_its_trace(jaeger, service, webhook)
    for service in services:
        service.switch.unlink()
        service.times["mended"] = time.monotonic()
    _until("waiting for their end", services, webhook, "resolved", PATIENCE + 3600 / SCALE)
    for service in services:
        service.process.stop()
        told = service.times["firing"] - service.times["fault"]
        over = service.times["resolved"] - service.times["mended"]
        with capsys.disabled():
            print(
                f"\n{service.fault}: told after {told:.1f} s, of its end after {over:.1f} s (scale {SCALE:g})", end=""
            )
    heard = {(alert["labels"]["alertname"], alert["labels"]["job"]) for alert in webhook.sent()}
    expected = {(name, f"shop-{fault}") for fault, (name, _, _) in FAULTS.items()}
    # burn rates are of the same faults, and everything that is faster than it should be may also burn
    assert {each for each in heard if "BudgetBurn" not in each[0]} == expected


def _has_its_trace(jaeger: Jaeger, service: Service, webhook: Webhook) -> None:
    """The link of the alert, asked of Jaeger's API, has traces with what it is about."""
    alert = service.told(webhook, "firing")
    assert alert is not None
    name, severity, _ = FAULTS[service.fault]
    assert alert["labels"]["severity"] == severity
    assert alert["annotations"]["runbook_url"] == f"https://wiki.example/runbooks/{name}"
    if service.fault == "stale":
        return
    link = urllib.parse.urlsplit(alert["annotations"]["traces_url"])
    assert f"{link.scheme}://{link.netloc}{link.path}" == f"{jaeger.query}/search"
    query = dict(urllib.parse.parse_qsl(link.query))
    assert query["service"] == service.job
    now = int(time.time() * 1e6)
    traces = get(f"{jaeger.query}/api/traces", **query, limit=20, start=now - 3_600_000_000, end=now)["data"]
    assert traces, alert["annotations"]["traces_url"]
    spans = [span for trace in traces for span in trace["spans"] if span["operationName"] == "prediction churn"]
    if service.fault == "slow":
        assert max(span["duration"] for span in spans) > 80_000
    else:
        assert json.dumps(spans).count("RuntimeError") >= 1
