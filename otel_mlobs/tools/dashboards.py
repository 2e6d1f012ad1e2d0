"""Grafana dashboards of everything the library emits, and the files that provision Grafana with them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_features import features
from otel_mlobs.tools.dashboard_gpus import gpus
from otel_mlobs.tools.dashboard_json import outside
from otel_mlobs.tools.dashboard_models import models
from otel_mlobs.tools.dashboard_operations import operations
from otel_mlobs.tools.dashboard_overview import overview
from otel_mlobs.tools.dashboard_parts import Context
from otel_mlobs.tools.dashboard_queries import MODEL, OPERATION, RATE, Recorded, quantile

if TYPE_CHECKING:
    from pathlib import Path

    from otel_mlobs.settings.objectives import Objectives
    from otel_mlobs.tools.dashboard_parts import GpuNames, TraceStore

MOUNT = "/etc/grafana/provisioning"
_FOLDER = "otel-mlobs"
_PROMETHEUS_UID, _TRACES_UID = "mlobs-prometheus", "mlobs-traces"


def dashboards(
    objectives: Objectives,
    *,
    traces: TraceStore = "jaeger",
    gpu_names: GpuNames = "hw",
    drift_window: float = 3600.0,
    outcome_window: float = 86_400.0,
) -> dict[str, dict[str, Any]]:
    """The dashboards by uid, from the overview down to the GPU; the same for the same arguments.

    Args:
        objectives: what the lines in the panels are.
        traces: the kind of store that exemplars and tables of traces lead to.
        gpu_names: by which names GPUs are read: OpenTelemetry's ``hw``, or ``dcgm``.
        drift_window: seconds; the window of the recording rules for drift.
        outcome_window: that of the rules for outcomes.

    Raises:
        ValueError: a window is one that the rules cannot have.
    """
    context = Context(objectives, Recorded(drift_window, outcome_window), traces, gpu_names)
    made = {one["uid"]: one for one in (page(context) for page in (overview, models, operations, features, gpus))}
    if objectives.default.traces:
        for one in made.values():
            one["links"].append(outside("Traces", objectives.default.traces))
    return made


def write(
    folder: Path,
    made: dict[str, dict[str, Any]],
    *,
    traces: TraceStore = "jaeger",
    prometheus_url: str = "$PROMETHEUS_URL",
    traces_url: str = "$TRACES_URL",
    metric_interval: str = "15s",
    mount: str = MOUNT,
) -> list[Path]:
    """Write the dashboards and what provisions Grafana with them below ``folder``; the files, in their order.

    Args:
        folder: it is made where it is not there; what Grafana sees at ``mount``.
        made: the dashboards by uid.
        traces: the kind of the trace data source.
        prometheus_url: where Grafana finds Prometheus, or a variable of Grafana's environment as ``$PROMETHEUS_URL``.
        traces_url: likewise the trace store.
        metric_interval: the time between exports, as ``15s``: no rate is taken over less than four of it.
        mount: the path of ``folder`` where Grafana runs.

    Raises:
        ValueError: a URL is neither http nor a variable, the interval is no duration, ``mount`` is no absolute path.
        OSError: a file cannot be written.
    """
    for name, url in (("prometheus_url", prometheus_url), ("traces_url", traces_url)):
        _checked_url(name, url)
    if not re.fullmatch(r"[1-9]\d*(ms|s|m|h)", metric_interval):
        raise ValueError(f"metric_interval must be written as 15s or 1m, got {metric_interval!r}")
    if not re.fullmatch(r"/[^\s:]*", mount):
        raise ValueError(f"mount must be an absolute path without spaces, as {MOUNT}, got {mount!r}")
    texts = {f"dashboards/{_FOLDER}/{uid}.json": as_text(one) for uid, one in made.items()}
    texts["dashboards/otel-mlobs.yaml"] = _provider(f"{mount.rstrip('/')}/dashboards/{_FOLDER}")
    texts["datasources/otel-mlobs.yaml"] = _sources(traces, prometheus_url, traces_url, metric_interval)
    written = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def as_text(made: dict[str, Any]) -> str:
    """A dashboard as the text of its file."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _checked_url(name: str, url: str) -> None:
    if re.fullmatch(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?", url):
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or re.search(r"[\s\"'\\$]", url):
        raise ValueError(
            f"{name} must be a URL as http://prometheus:9090 or a variable as $PROMETHEUS_URL, got {url!r}"
        )
    if parts.username or parts.password:
        raise ValueError(f"{name} must have no user or password in it: give a variable as $PROMETHEUS_URL instead")


def _provider(path: str) -> str:
    return f"""\
# Made by `otel-mlobs dashboard`.
apiVersion: 1
providers:
  - name: otel-mlobs
    folder: ML serving
    folderUid: otel-mlobs
    type: file
    disableDeletion: false
    allowUiUpdates: false
    updateIntervalSeconds: 30
    options:
      path: {path}
"""


def _sources(traces: TraceStore, prometheus_url: str, traces_url: str, interval: str) -> str:
    # $$ is a dollar sign to Grafana, which replaces variables of its environment in this file
    p99 = quantile(0.99, semconv.OPERATION_DURATION, (), "$$__tags").replace(RATE, "5m").replace("\n", " ")
    return f"""\
# Made by `otel-mlobs dashboard`. Names that begin with $ are variables of Grafana's environment.
apiVersion: 1
datasources:
  - name: Prometheus (otel-mlobs)
    uid: {_PROMETHEUS_UID}
    type: prometheus
    access: proxy
    url: {prometheus_url}
    jsonData:
      httpMethod: POST
      timeInterval: {interval}
      exemplarTraceIdDestinations:
        - name: trace_id
          datasourceUid: {_TRACES_UID}
          urlDisplayLabel: The trace
  - name: {traces.capitalize()} (otel-mlobs)
    uid: {_TRACES_UID}
    type: {traces}
    access: proxy
    url: {traces_url}
    jsonData:
      nodeGraph:
        enabled: true
      tracesToMetrics:
        datasourceUid: {_PROMETHEUS_UID}
        spanStartTimeShift: -10m
        spanEndTimeShift: 10m
        tags:
          - key: {semconv.OPERATION_NAME}
            value: {OPERATION}
          - key: {semconv.MODEL_NAME}
            value: {MODEL}
        queries:
          - name: p99 of this operation
            query: {p99}
"""
