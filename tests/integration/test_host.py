"""The page on the host is what a Prometheus answers: names, labels, and a busy machine told from an idle one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .backends import get, wait_until

pytest.importorskip("opentelemetry.instrumentation.system_metrics")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .backends import Prometheus

PAGE = Path(__file__).parent.parent.parent / "docs" / "host.md"
SERVICE = """
import sys, sqlalchemy
import otel_mlobs as mlobs

mlobs.configure("hosted", metrics_endpoint=sys.argv[1], host=True, metric_interval=3600)
mlobs.instrument("sqlalchemy")
engine = sqlalchemy.create_engine("sqlite:///" + sys.argv[2])
for line in sys.stdin:
    engine.connect().close()
    print(mlobs.force_flush(), flush=True)
"""
OTHERS = ("mlobs_container_", "container_", "mlobs_gpu_")
"""What this machine may not have: limits of cgroup v2, GPUs."""


@pytest.fixture(scope="module")
def reported(prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has had two exports of a service with the host's readings."""
    database = tmp_path_factory.mktemp("hosted") / "features.db"
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, prometheus.otlp, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        for _ in range(2):
            service.stdin.write("export\n")
            service.stdin.flush()
            assert service.stdout.readline() == "True\n"
        wait_until("the service's metrics", lambda: prometheus.ask('system_cpu_time_seconds_total{job="hosted"}'))
        yield prometheus
        service.stdin.close()


def queries() -> list[str]:
    """Every query of the page."""
    quoted = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    return [
        " ".join(each.split()) for each in quoted if re.search(r"[a-z]_[a-z_]+(_total|_bytes|_ratio|_bucket)", each)
    ]


def test_every_name_and_label_on_the_page_exists(reported: Prometheus) -> None:
    """A query that finds nothing for want of a name looks like a healthy machine."""
    assert len(queries()) >= 8
    for query in queries():
        get(f"{reported.url}/api/v1/query", query=query)  # it is PromQL, or the answer is an error
        for name, labels in re.findall(r"([a-z]+_[a-z_]+)(\{[^}]*\})?(?=\[|\)| |$)", query):
            if name.startswith(OTHERS) or name in {"histogram_quantile", "sum_over_time"} or "_pool_name" in name:
                continue
            assert reported.ask(f"{name}{labels}"), f"{name}{labels} of {query}"


def test_utilisation_is_the_share_that_is_not_idle(reported: Prometheus) -> None:
    """The states of all CPUs together make up the machine: as many seconds a second as it has CPUs."""
    states = {labels["state"] for labels, _ in reported.ask('system_cpu_time_seconds_total{job="hosted"}')}
    assert states >= {"user", "system", "idle", "iowait", "steal"}
    ((_, share),) = reported.ask(
        'sum(system_cpu_time_seconds_total{job="hosted", state="idle"})'
        ' / sum(system_cpu_time_seconds_total{job="hosted"})'
    )
    idle, everything = 0.0, 0.0
    for label, value in zip(
        ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"),
        map(int, Path("/proc/stat").read_text().split()[1:9]),
        strict=True,
    ):
        everything += value
        idle += value if label == "idle" else 0.0
    assert share == pytest.approx(idle / everything, abs=0.05)
