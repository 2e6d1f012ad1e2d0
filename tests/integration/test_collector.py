"""By way of a Collector: everything arrives, also over its sudden death, and a gateway adds up what workers count."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .backends import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Jaeger, Process, Prometheus
    from .collector import Collector
    from .recipes import Gateway, RecipePrometheus

APPS = Path(__file__).parent / "apps"
REQUESTS = 20
OPERATIONS = ("feature_lookup", "candidate_generation", "ranking", "prediction")

TO_BOTH = """
receivers:
  otlp:
processors:
  memory_limiter: {check_interval: 1s, limit_mib: 512}
  batch: {timeout: 200ms}
exporters:
  otlp_grpc: {endpoint: "${env:JAEGER}", tls: {insecure: true}}
  otlp_http: {endpoint: "${env:PROMETHEUS}"}
service:
  pipelines:
    traces: {receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlp_grpc]}
    metrics: {receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlp_http]}
"""

WORKER = """
import os, sys, time, uuid
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

endpoint, service, rows = sys.argv[1:]
delta = {kind: AggregationTemporality.DELTA for kind in (Counter, Histogram)}
exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics", preferred_temporality=delta)
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=700)
own = {"service.name": service, "service.instance.id": str(uuid.uuid4()), "process.pid": os.getpid()}
provider = MeterProvider([reader], Resource(own))
meter = provider.get_meter("worker")
counted, lasted = meter.create_counter("rows"), meter.create_histogram("row.duration", "s")
for row in rows:
    counted.add(1, {"cell": row})
    lasted.record(0.003)
    time.sleep(0.002)
assert provider.force_flush()
provider.shutdown()
"""


def serve(start: Callable[..., Process], service: str, **where: Any) -> None:
    """Serves some requests in a process of its own that reports there, to its end."""
    configured = {"service_name": service, **where}
    command = [sys.executable, APPS / "once.py", str(REQUESTS)]
    process = start("once", command, cwd=APPS, env={"NOOP_CONFIGURE": json.dumps(configured)})
    assert process.wait() == 0, process.tail()
    assert json.loads(process.tail()) == {"statuses": [200] * REQUESTS, "delivered": True}


def test_traces_and_metrics_go_their_ways(
    jaeger: Jaeger, prometheus: Prometheus, collector: Callable[..., Collector], start: Callable[..., Process]
) -> None:
    """One endpoint is enough: Jaeger has every trace, whole, and Prometheus one count per operation and request."""
    env = {"JAEGER": jaeger.grpc, "PROMETHEUS": prometheus.otlp}
    serve(start, "by-collector", backend="collector", endpoint=collector(TO_BOTH, env=env).http)
    traces = jaeger.wait_for_traces("by-collector", REQUESTS)
    assert [len(trace) for trace in traces] == [1 + len(OPERATIONS)] * REQUESTS
    counts = 'mlobs_operation_duration_seconds_count{job="by-collector"}'

    def totals() -> dict[str, float]:
        answer = prometheus.ask(f"sum by (mlobs_operation_name) ({counts})")
        return {labels["mlobs_operation_name"]: count for labels, count in answer}

    expected = dict.fromkeys(OPERATIONS, float(REQUESTS))
    wait_until("waiting for the counts", lambda: totals() == expected)


def test_what_a_killed_collector_holds_is_delivered_by_its_successor(
    jaeger: Jaeger, collector: Callable[..., Collector], start: Callable[..., Process]
) -> None:
    """The next hop is away; the Collector takes the traces, is killed and started again, and none is lost."""
    gateway = collector(TO_BOTH, env={"JAEGER": jaeger.grpc, "PROMETHEUS": jaeger.http})
    kept = {
        "receivers": {"otlp": None},
        "exporters": {
            "otlp_grpc": {
                "endpoint": gateway.grpc,
                "tls": {"insecure": True},
                "sending_queue": {"storage": "file_storage"},
                "retry_on_failure": {"initial_interval": "200ms", "max_interval": "1s"},
            }
        },
        "service": {
            "extensions": ["file_storage"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]}},
        },
    }
    agent = collector(kept)
    assert gateway.stop() == 0
    serve(start, "over-a-kill", traces_endpoint=agent.http)
    agent.kill()
    gateway.run()
    assert jaeger.traces("over-a-kill") == []
    agent.run()
    traces = jaeger.wait_for_traces("over-a-kill", REQUESTS)
    assert [len(trace) for trace in traces] == [1 + len(OPERATIONS)] * REQUESTS


def generation(start: Callable[..., Process], endpoint: str, service: str, parts: list[str]) -> None:
    """Workers that count one part of the rows each, side by side, to their end."""
    workers = [
        start("worker", [sys.executable, "-c", WORKER, endpoint, service, part], cwd=APPS, env={}) for part in parts
    ]
    for worker in workers:
        assert worker.wait() == 0, worker.tail()
        assert worker.tail() == ""


@pytest.mark.parametrize("workers", [1, 4])
def test_a_gateway_adds_up_the_deltas_of_all_workers(
    workers: int,
    recipe_prometheus: Callable[..., RecipePrometheus],
    gateway: Callable[..., Gateway],
    start: Callable[..., Process],
) -> None:
    """Two generations of OpenTelemetry's own workers: every row counted once, in as many series as one worker has."""
    prometheus = recipe_prometheus()
    collector = gateway(PROMETHEUS=prometheus.url)
    draw = random.Random(workers)
    sent: Counter[str] = Counter()

    def right() -> bool:
        totals = {labels["cell"]: count for labels, count in prometheus.ask("rows_total")}
        lasted = [count for _, count in prometheus.ask("row_duration_seconds_count")]
        return totals == sent and lasted == [sent.total()]

    for _ in range(2):
        parts = ["".join(draw.choices("abc", (6, 3, 1), k=1_000 + 50 * worker)) for worker in range(workers)]
        generation(start, collector.http, "fleet", parts)
        sent.update("".join(parts))
        wait_until(f"waiting for {sent}", right)
    series = prometheus.ask('count by (__name__) ({job="fleet", __name__!="target_info"})')
    assert {labels["__name__"]: count for labels, count in series} == {
        "rows_total": 3,
        "row_duration_seconds_bucket": 16,
        "row_duration_seconds_count": 1,
        "row_duration_seconds_sum": 1,
    }
    assert {labels["instance"] for labels, _ in prometheus.ask('{job="fleet"}')} == {"gateway-1"}
