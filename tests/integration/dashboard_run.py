"""What fills the dashboards: two services, with two GPUs beneath one of them, and the recording rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nvml_standin as standin

from otel_mlobs.settings.objectives import Objective, Objectives
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process

SHOP, NATIVE = "shop", "native"
INTERVAL_S = 1.0
DRIFT_WINDOW_S, OUTCOME_WINDOW_S = 720.0, 300.0
_SHOP = Path(__file__).parent / "apps" / "shop.py"
_GIB = 2**30


def rules() -> str:
    """Recording rules and alerts as one file, with windows that are as short as they may be."""
    objectives = Objectives(Objective(errors_for=1.0))
    windows = {"drift_window": DRIFT_WINDOW_S, "outcome_window": OUTCOME_WINDOW_S}
    files = (
        drift_rules(window=DRIFT_WINDOW_S, interval=1),
        outcome_rules(window=OUTCOME_WINDOW_S, interval=1),
        Alerts(objectives, interval=1.0, **windows).rules(),
    )
    return "groups:\n" + "".join(file.partition("groups:\n")[2] for file in files)


def serve(
    start: Callable[..., Process], folder: Path, metrics: str, traces: str, *, rate: float, drift_after: float
) -> list[Process]:
    """Start the services: ``shop`` with drift to come, and ``native`` without, whose histograms are native ones."""
    folder.chmod(0o700)  # in which processes elect who reads the GPUs
    driver = standin.Driver(folder)
    driver.device(0, standin.H100).device(1, standin.T4)
    environment = {**standin.env(driver), "XDG_RUNTIME_DIR": str(folder)}
    where = {"metrics_endpoint": metrics, "traces_endpoint": traces, "metric_interval": INTERVAL_S}
    machine = {"host": True, "gpu": True, "gpu_names": "both", "sampling": "tail", "sampling_ratio": 0.5}
    exponential = {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"}
    started = []
    for name, more, own, speed, when in (
        (SHOP, machine, {}, rate, drift_after),
        (NATIVE, {}, exponential, rate / 4, 1e9),
    ):
        settings = {"configure": {"service_name": name, **where, **more}, "rate": speed, "drift_after": when}
        command = [sys.executable, str(_SHOP), json.dumps(settings)]
        started.append(start(name, command, cwd=folder, env={**environment, **own}))
    shop = started[0]._process.pid
    driver.device(0, standin.H100, **{f"process.{shop}": 2 * _GIB})
    return started
