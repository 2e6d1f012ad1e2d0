"""Ten thousand requests to a preloaded fleet that is then told to stop: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .service import WORKERS, load, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Jaeger, Process, Prometheus

APPS = Path(__file__).parent / "apps"
REQUESTS = 10_000
CHILDREN = ["candidate_generation two_tower", "feature_lookup user_features", "prediction noop", "ranking ltr"]


def test_no_span_and_no_count_is_lost_when_a_preloaded_fleet_stops(
    jaeger: Jaeger, prometheus: Prometheus, start: Callable[..., Process]
) -> None:
    """After a graceful stop every request is one whole trace in Jaeger and one count per operation in Prometheus."""
    where = {
        "service_name": "fleet",
        "traces_endpoint": jaeger.http,
        "metrics_endpoint": prometheus.otlp,
        "metric_interval": 1.0,
    }
    service, port = serve(start, "noop:app", APPS, {"NOOP_CONFIGURE": json.dumps(where)}, preload=True)
    requests = [("GET", f"/recommend/{user}", None) for user in range(REQUESTS)]
    answers = load(port, requests, connections=16)
    assert Counter(status for status, _ in answers) == {200: REQUESTS}
    assert service.stop() == 0

    traces = jaeger.wait_for_traces("fleet", REQUESTS)
    assert len(traces) == REQUESTS
    for trace in traces:
        (server,) = (span for span in trace if span.parent_id is None)
        assert server.attributes["span.kind"] == "server"
        assert sorted(span.name for span in trace if span.parent_id == server.span_id) == CHILDREN
        assert len(trace) == 1 + len(CHILDREN)
    workers = {trace[0].resource["service.instance.id"] for trace in traces}
    assert len(workers) == WORKERS

    counts = 'mlobs_operation_duration_seconds_count{job="fleet"}'
    totals = {
        labels["mlobs_operation_name"]: count
        for labels, count in prometheus.ask(f"sum by (mlobs_operation_name) ({counts})")
    }
    assert totals == dict.fromkeys(("feature_lookup", "candidate_generation", "ranking", "prediction"), REQUESTS)
    served = {labels["instance"] for labels, count in prometheus.ask(f"{counts} > 0")}
    assert served == workers
