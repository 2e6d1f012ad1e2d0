"""An alert's whole way: a metric, a rule in Prometheus, Alertmanager, and the one who is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from .backends import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .alertmanager import Alertmanager, Webhook
    from .backends import Prometheus

RULES = """
groups:
  - name: trouble
    interval: 1s
    rules:
      - alert: Trouble
        expr: trouble_ratio > 0
        labels: {severity: page}
"""


def configuration(webhook: str) -> dict[str, Any]:
    """Everything goes to ``webhook``, without much waiting."""
    at_once = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    receivers = [{"name": "someone", "webhook_configs": [{"url": webhook, "send_resolved": True}]}]
    return {"route": {"receiver": "someone", "group_by": ["alertname"], **at_once}, "receivers": receivers}


class Trouble:
    """A gauge in a Prometheus, at what it was last set to."""

    def __init__(self, prometheus: Prometheus) -> None:
        exporter = OTLPMetricExporter(f"{prometheus.otlp}/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        self.provider = MeterProvider([reader], Resource({"service.name": "shop"}), shutdown_on_exit=False)
        self._gauge = self.provider.get_meter("shop").create_gauge("trouble", "1")

    def set(self, value: int) -> None:
        """Export it."""
        self._gauge.set(value)
        assert self.provider.force_flush()


def test_someone_is_told_that_it_began_and_that_it_ended(
    prometheus_with_rules: Callable[..., Prometheus],
    alertmanager: Callable[[dict[str, Any]], Alertmanager],
    webhook: Webhook,
) -> None:
    """The alert comes once, firing, with its labels, and once, resolved, after the metric is well again."""
    server = alertmanager(configuration(webhook.url))
    trouble = Trouble(prometheus_with_rules(RULES, alertmanager=server.url))
    trouble.set(1)
    wait_until("waiting for the alert", webhook.alerts)
    assert webhook.alerts() == [("firing", "Trouble")]
    labels = {"alertname": "Trouble", "severity": "page", "job": "shop"}
    assert labels.items() <= webhook.received[0]["alerts"][0]["labels"].items()
    (alert,) = server.alerts(**labels)
    assert alert["status"]["state"] == "active"
    trouble.set(0)
    wait_until("waiting for its end", lambda: len(webhook.alerts()) > 1)
    trouble.provider.shutdown()
    assert webhook.alerts() == [("firing", "Trouble"), ("resolved", "Trouble")]


def test_a_silenced_alert_is_held_until_the_silence_ends(
    prometheus_with_rules: Callable[..., Prometheus],
    alertmanager: Callable[[dict[str, Any]], Alertmanager],
    webhook: Webhook,
) -> None:
    """Alertmanager has the alert and names the silence; nobody hears of it before the silence ends."""
    server = alertmanager(configuration(webhook.url))
    silence = server.silence(alertname="Trouble")
    trouble = Trouble(prometheus_with_rules(RULES, alertmanager=server.url))
    trouble.set(1)

    def silenced() -> bool:
        return [alert["status"]["silencedBy"] for alert in server.alerts()] == [[silence]]

    wait_until("waiting for the silenced alert", silenced)
    assert webhook.received == []
    server.expire(silence)
    wait_until("waiting for the alert", webhook.alerts)
    trouble.provider.shutdown()
    assert webhook.alerts() == [("firing", "Trouble")]


@pytest.mark.parametrize(("receiver", "status"), [("someone", 0), ("no one", 1)])
def test_amtool_checks_a_configuration(amtool: Path, tmp_path: Path, receiver: str, status: int) -> None:
    """It takes the one that these tests use, and not one whose receiver there is not."""
    wrong = configuration("http://127.0.0.1:9")
    wrong["route"]["receiver"] = receiver
    path = tmp_path / "alertmanager.yml"
    path.write_text(json.dumps(wrong))
    done = subprocess.run([amtool, "check-config", path], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
