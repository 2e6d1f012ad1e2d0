"""``otel-mlobs dashboard``: Grafana dashboards of everything that the library emits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

_MOUNT = "/etc/grafana/provisioning"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    dashboard = commands.add_parser(
        "dashboard",
        help="write Grafana dashboards, from the overview down to the GPU, and what provisions Grafana with them",
        description="The panels read what the library exports, and what the rules of `otel-mlobs rules` record. The "
        "lines in them are the objectives. No password is written: give Grafana variables of its environment instead.",
    )
    dashboard.add_argument(
        "--output", required=True, metavar="DIR", help="the folder to write them to; Grafana's provisioning folder"
    )
    dashboard.add_argument(
        "--objectives", metavar="FILE", help="file with the objectives (default: the one that MLOBS_CONFIG names)"
    )
    dashboard.add_argument(
        "--traces", choices=("jaeger", "tempo"), default="jaeger", help="where the traces are (default: jaeger)"
    )
    dashboard.add_argument(
        "--gpu-names",
        choices=("hw", "dcgm"),
        default="hw",
        help="whose names GPUs' metrics have: OpenTelemetry's, or DCGM's as its exporter's (default: hw)",
    )
    dashboard.add_argument(
        "--drift-window", default="1h", metavar="TIME", help="--window of the rules for drift (default: 1h)"
    )
    dashboard.add_argument(
        "--outcome-window", default="1d", metavar="TIME", help="--window of the rules for outcomes (default: 1d)"
    )
    dashboard.add_argument(
        "--prometheus-url",
        default="$PROMETHEUS_URL",
        metavar="URL",
        help="where Grafana finds Prometheus (default: $PROMETHEUS_URL, of Grafana's environment)",
    )
    dashboard.add_argument(
        "--traces-url",
        default="$TRACES_URL",
        metavar="URL",
        help="where it finds the traces (default: $TRACES_URL, likewise)",
    )
    dashboard.add_argument(
        "--metric-interval", default="15s", metavar="TIME", help="time between the services' exports (default: 15s)"
    )
    dashboard.add_argument(
        "--mount", default=_MOUNT, metavar="PATH", help=f"where Grafana sees the folder (default: {_MOUNT})"
    )
    dashboard.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the dashboards, write them, and say which files they are."""
    from otel_mlobs.settings.objectives import load_objectives
    from otel_mlobs.tools.dashboards import dashboards, write
    from otel_mlobs.tools.rules import parse_duration

    made = dashboards(
        load_objectives(options.objectives or os.environ.get("MLOBS_CONFIG") or None),
        traces=options.traces,
        gpu_names=options.gpu_names,
        drift_window=parse_duration(options.drift_window),
        outcome_window=parse_duration(options.outcome_window),
    )
    written = write(
        Path(options.output),
        made,
        traces=options.traces,
        prometheus_url=options.prometheus_url,
        traces_url=options.traces_url,
        metric_interval=options.metric_interval,
        mount=options.mount,
    )
    for path in written:
        print(path)
    return 0
