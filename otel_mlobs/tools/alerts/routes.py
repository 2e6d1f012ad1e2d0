"""Alertmanager's configuration: who gets which severity, what is one message, and what silences what."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from otel_mlobs.settings.alerting import Alerting, load_alerting
from otel_mlobs.tools.alerts.definitions import CRITICAL, DATA, HIGH, LOW, MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECEIVERS = {LOW: "slack", HIGH: "pagerduty", CRITICAL: "page"}
"""Who gets a severity."""
_WAITS = {LOW: ("30s", "5m", "12h"), HIGH: ("10s", "1m", "4h"), CRITICAL: ("0s", "1m", "1h")}
"""Before the first message of a group; between messages of it; until what goes on is said again."""
_DRIFT = "FeatureDrift|PredictionDrift|EstimatedPerformanceBelowObjective|EstimatesUnreliable"
_BEGIN = f"""\
# Routes for the alerts of otel-mlobs: low to Slack, high to PagerDuty, critical to whoever is on call, at once.
# Made by `otel-mlobs rules --alertmanager`. Secrets are in files that Alertmanager reads: none is here.
route:
  receiver: {RECEIVERS[LOW]}
"""
_TOLD = "{{ $told := .Alerts }}{{ if .Alerts.Firing }}{{ $told = .Alerts.Firing }}{{ end }}"
"""Those that fire, if any still does: a message on a group also has those of it that have ended."""
_TITLE = (
    '{{ if eq .Status "resolved" }}Resolved: {{ end }}'
    f"{_TOLD}{{{{ (index $told 0).Annotations.summary }}}}"
    "{{ if gt (len $told) 1 }} ({{ len $told }} in all){{ end }}"
)
_TEXT = (
    f"{_TOLD}{{{{ range $told }}}}{{{{ .Annotations.summary }}}}: {{{{ .Annotations.description }}}}"
    "{{ with .Annotations.runbook_url }} Runbook: {{ . }}{{ end }}"
    "{{ with .Annotations.dashboard_url }} Dashboard: {{ . }}{{ end }}"
    "{{ with .Annotations.traces_url }} Traces: {{ . }}{{ end }}\n{{ end }}"
)


def alertmanager(path: str | None = None, alerting: Alerting | None = None, *, by: Sequence[str] = ("job",)) -> str:
    """Alertmanager's configuration as YAML, by the ``[alerting]`` of the file at ``path``.

    ``by`` are the labels that tell fleets apart; an alert silences none of another fleet, and none at all where it
    does not say of which it is.
    """
    return "\n".join(_lines(alerting or load_alerting(path), by)) + "\n"


def _lines(alerting: Alerting, by: Sequence[str]) -> Iterator[str]:
    yield _BEGIN.rstrip("\n")
    yield f"  group_by: [{', '.join(dict.fromkeys(('alertname', *by, MODEL_NAME)))}]"
    wait, interval, repeat = _WAITS[LOW]
    yield from (f"  group_wait: {wait}", f"  group_interval: {interval}", f"  repeat_interval: {repeat}", "  routes:")
    for severity in (CRITICAL, HIGH, LOW):
        wait, interval, repeat = _WAITS[severity]
        yield f"    - receiver: {RECEIVERS[severity]}"
        yield f"""      matchers: ['severity="{severity}"']"""
        yield f"      group_wait: {wait}"
        yield f"      group_interval: {interval}"
        yield f"      repeat_interval: {repeat}"
    yield "receivers:"
    yield f"  - name: {RECEIVERS[LOW]}"
    yield "    slack_configs:"
    yield f"      - api_url_file: {_quoted(alerting.slack_url_file)}"
    yield f"        channel: {_quoted(alerting.slack_channel)}"
    yield "        send_resolved: true"
    yield f"        title: {_quoted(_TITLE)}"
    yield f"        text: {_quoted(_TEXT)}"
    yield f"  - name: {RECEIVERS[HIGH]}"
    yield from _pagerduty(alerting.pagerduty_key_file, "error")
    yield f"  - name: {RECEIVERS[CRITICAL]}"
    if alerting.page_url_file:
        yield "    webhook_configs:"
        yield f"      - url_file: {_quoted(alerting.page_url_file)}"
        yield "        send_resolved: true"
    else:
        yield from _pagerduty(alerting.page_key_file or alerting.pagerduty_key_file, "critical")
    if by:
        yield from _inhibitions(by)


def _inhibitions(by: Sequence[str]) -> Iterator[str]:
    # Two alerts without a label have it in common for Alertmanager: one without a fleet would silence all such
    known = "".join(f""", '{name}!=""'""" for name in by)
    critical = f"""'severity="{CRITICAL}"'"""
    yield "inhibit_rules:"
    for comment, source, target, equal in (
        (
            "who is fed with stale features sees them drift: the cause is known",
            f"""{critical}, 'cause="{DATA}"'""",
            f"""'alertname=~"{_DRIFT}"'""",
            by,
        ),
        ("somebody is at it already", critical, f"""'severity=~"{LOW}|{HIGH}"'""", by),
        ("", f"""'severity="{HIGH}"', '{MODEL_NAME}!=""'""", f"""'severity="{LOW}"'""", (*by, MODEL_NAME)),
    ):
        if comment:
            yield f"  # {comment}"
        yield f"  - source_matchers: [{source}{known}]"
        yield f"    target_matchers: [{target}]"
        yield f"    equal: [{', '.join(equal)}]"


def _pagerduty(key_file: str, severity: str) -> Iterator[str]:
    yield "    pagerduty_configs:"
    yield f"      - routing_key_file: {_quoted(key_file)}"
    yield f"        severity: {severity}"
    yield "        send_resolved: true"
    yield f"        description: {_quoted(_TITLE)}"
    yield "        details:"
    yield f"          alerts: {_quoted(_TEXT)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
