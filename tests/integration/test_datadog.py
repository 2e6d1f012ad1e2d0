"""The example for Datadog under gunicorn, in front of Datadog's own test agent."""

from __future__ import annotations

import http.client
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from .datadog import DatadogAgent, attributes_of
from .service import WORKERS, load, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "backends" / "datadog"
REQUESTS = 400
FAILING = len([user for user in range(REQUESTS) if user % 77 == 0])


def trace(number: int) -> str:
    """The id of the trace that a caller of ours has begun."""
    return f"{0xABCD0000 + number:032x}"


def test_the_agent_gets_what_the_service_saw(datadog_agent: DatadogAgent, start: Callable[..., Process]) -> None:
    """Preloaded workers: deltas add up to every request, tags name the service, ids are the callers' and the logs'."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": datadog_agent.http, "OTEL_METRIC_EXPORT_INTERVAL": "300"}
    service, port = serve(start, "app:app", EXAMPLE, environment, preload=True)
    answers = load(port, [("GET", f"/predict?user={user}", None) for user in range(REQUESTS)])
    assert Counter(status for status, _ in answers) == {200: REQUESTS - FAILING, 500: FAILING}
    for number in (1, 77):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        header = {"traceparent": f"00-{trace(number)}-{number:016x}-01"}
        connection.request("GET", f"/predict?user={number}", headers=header)
        assert connection.getresponse().status == (500 if number == 77 else 200)
        connection.close()
    assert service.stop() == 0

    spans, records, metrics = datadog_agent.spans(), datadog_agent.records(), datadog_agent.metrics()
    for resource, _ in (*spans, *records, *metrics):
        assert (resource["service.name"], resource["service.version"]) == ("recommender", "1.4.0")
        assert resource["deployment.environment.name"] == resource["deployment.environment"] == "staging"

    names = Counter(span["name"] for _, span in spans)
    assert names["prediction churn"] == names["feature_lookup user_features"] == REQUESTS + 2
    ours = {number: [span for _, span in spans if span["trace_id"] == trace(number)] for number in (1, 77)}
    for number, found in ours.items():
        (server,) = (span for span in found if span["parent_span_id"] == f"{number:016x}")
        beneath = {span["name"]: span for span in found if span["parent_span_id"] == server["span_id"]}
        assert set(beneath) == {"prediction churn", "feature_lookup user_features"}
        assert (beneath["prediction churn"]["status"].get("code") == "STATUS_CODE_ERROR") is (number == 77)
    scored = [record for _, record in records if record["body"]["string_value"].startswith("scored")]
    assert len(scored) == REQUESTS + 1 - FAILING
    assert {record["trace_id"] for record in scored} <= {span["trace_id"] for _, span in spans}
    (mine,) = (record for record in scored if record["trace_id"] == trace(1))
    assert mine["span_id"] in {span["span_id"] for span in ours[1]}

    temporalities = {
        data["aggregation_temporality"]
        for _, metric in metrics
        for data in (metric.get("sum", {}), metric.get("histogram", {}))
        # What may fall, as the number of requests under way, is no sum of deltas
        if data and ("histogram" in metric or data.get("is_monotonic", False))
    }
    assert temporalities == {"AGGREGATION_TEMPORALITY_DELTA"}
    counts: Counter[str] = Counter()
    for _, metric in metrics:
        if metric["name"] == "mlobs.operation.duration":
            for point in metric["histogram"]["data_points"]:
                counts[attributes_of(point)["mlobs.operation.name"]] += int(point.get("count", 0))
        elif metric["name"] == "mlobs.operation.errors":
            for point in metric["sum"]["data_points"]:
                assert int(point["as_int"]) >= 0
                counts["errors"] += int(point["as_int"])
    assert counts == {"prediction": REQUESTS + 2, "feature_lookup": REQUESTS + 2, "errors": FAILING + 1}
    workers = {resource["service.instance.id"] for resource, metric in metrics if "histogram" in metric}
    assert len(workers) == WORKERS
