"""``otel-mlobs rules``: what Prometheus and Alertmanager are given."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

FILES = {
    "drift": "mlobs-drift.rules.yml",
    "outcomes": "mlobs-outcomes.rules.yml",
    "alerts": "mlobs-alerts.rules.yml",
    "tests": "mlobs-alerts.tests.yml",
    "alertmanager": "alertmanager.yml",
}
"""What ``--all`` writes, by the option that writes it alone."""

_OF_OPTIONS = {
    "window": ("drift", "outcomes"),
    "totals": ("drift", "outcomes"),
    "false_alarms_per_week": ("drift", "all"),
    "interval": ("drift", "outcomes", "alerts"),
    "objectives": ("alerts", "tests", "alertmanager", "all"),
    "drift_window": ("alerts", "tests", "all"),
    "outcome_window": ("alerts", "tests", "all"),
}


def add(commands: Any) -> None:
    """Add the command to the command line's."""
    parser = commands.add_parser(
        "rules",
        help="write rules for Prometheus, their unit tests, and routes for Alertmanager",
        description="Recording rules for drift and for performance over a whole fleet; alerts by the objectives in "
        "mlobs.toml, with unit tests for promtool; and routes for Alertmanager. What promises what is in the "
        "documentation's pages on alerts, drift over a fleet and realised performance.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--drift", action="store_true", help="recording rules for drift")
    which.add_argument(
        "--outcomes", action="store_true", help="recording rules for how right models are, and are expected to be"
    )
    which.add_argument("--alerts", action="store_true", help="alerts, and the recording rules of operations they read")
    which.add_argument("--tests", action="store_true", help="unit tests of the alerts, for promtool test rules")
    which.add_argument("--alertmanager", action="store_true", help="routes, grouping and inhibition for Alertmanager")
    which.add_argument("--all", action="store_true", help="all of these, as files in the folder that --output names")
    parser.add_argument(
        "--objectives", metavar="FILE", help="mlobs.toml (default: what MLOBS_CONFIG names, if anything)"
    )
    parser.add_argument("--window", metavar="TIME", help="how far they look back (default: 1h, of outcomes 1d)")
    parser.add_argument(
        "--drift-window", metavar="TIME", help="of alerts: the window of the rules for drift that they read"
    )
    parser.add_argument("--outcome-window", metavar="TIME", help="likewise of the rules for outcomes")
    parser.add_argument("--interval", metavar="TIME", help="time between evaluations (default: 30s, of outcomes 1m)")
    parser.add_argument(
        "--false-alarms-per-week", type=float, metavar="N", help="of a model's drift alarm (default: 1)"
    )
    parser.add_argument(
        "--totals", action="store_true", help="take all since the workers' start, exactly; drift without the alarm"
    )
    parser.add_argument(
        "--by", default="job", metavar="LABELS", help="labels that tell fleets apart, beside the model's (default: job)"
    )
    parser.add_argument("--output", metavar="FILE", help="where to write them (default: standard output)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write what was asked for."""
    which = next(name for name in (*FILES, "all") if getattr(options, name))
    _check(options, which)
    if which == "all":
        folder = Path(options.output)
        texts = {file: _text(options, name) for name, file in FILES.items()}  # all of them, before any is written
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
            print(folder / file)
    elif options.output is None:
        print(_text(options, which), end="")
    else:
        Path(options.output).write_text(_text(options, which), encoding="utf-8")
    if which in ("alerts", "all"):
        _advise(options)
    return 0


def _check(options: argparse.Namespace, which: str) -> None:
    for name, of in _OF_OPTIONS.items():
        if getattr(options, name) and which not in of:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is of {', '.join(f'--{each}' for each in of)}: --{which} has none")
    if which == "all" and options.output is None:
        raise ValueError("--all writes several files: --output must name their folder")


def _text(options: argparse.Namespace, which: str) -> str:
    from otel_mlobs.tools.alerts import Alerts
    from otel_mlobs.tools.alerts.routes import alertmanager
    from otel_mlobs.tools.drift_rules import drift_rules
    from otel_mlobs.tools.outcome_rules import outcome_rules
    from otel_mlobs.tools.rules import label_names, parse_duration

    by = label_names(options.by)
    if which == "alertmanager":
        return alertmanager(_path(options), by=by)
    windows: dict[str, Any] = {
        name: parse_duration(text)
        for name in ("window", "interval", "drift_window", "outcome_window")
        if (text := getattr(options, name)) is not None
    }
    chosen: dict[str, Any] = {"by": by}
    if which in ("alerts", "tests"):
        alerts = Alerts(_objectives(options), **chosen, **windows)
        return alerts.rules() if which == "alerts" else alerts.tests(FILES["alerts"])
    chosen["totals"] = options.totals
    for name in ("window", "interval"):
        if name in windows:
            chosen[name] = windows[name]
    own = {"drift": "drift_window", "outcomes": "outcome_window"}[which]
    if own in windows:  # of --all
        chosen["window"] = windows[own]
    if which == "outcomes":
        return outcome_rules(**chosen)
    if options.false_alarms_per_week is not None:
        chosen["false_alarms_per_week"] = options.false_alarms_per_week
    return drift_rules(**chosen)


def _path(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> str | None:
    named: str | None = options.objectives or environ.get("MLOBS_CONFIG", "").strip() or None
    return named


def _objectives(options: argparse.Namespace) -> Any:
    from otel_mlobs.settings.objectives import load_objectives

    return load_objectives(_path(options))


def _advise(options: argparse.Namespace) -> None:
    """What whoever gets the alerts will miss."""
    default = _objectives(options).default
    for key, what in (("runbooks", "runbook_url"), ("dashboards", "dashboard_url"), ("traces", "traces_url")):
        if not getattr(default, key):
            print(f"objectives.{key} is not set: alerts have no {what}", file=sys.stderr)
