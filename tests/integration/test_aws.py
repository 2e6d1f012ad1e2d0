"""The examples for AWS: a real Collector in front of moto's X-Ray and CloudWatch, and of AWS's OTLP endpoints."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("botocore", reason="needs the extra aws")

from aws_receiver import Aws, recomputed
from botocore.credentials import Credentials

from .backends import wait_until
from .moto_server import CREDENTIALS, REGION
from .service import load, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process
    from .collector import Collector
    from .moto_server import Moto

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "backends" / "aws"
REQUESTS = 200
FAILING = len([user for user in range(REQUESTS) if user % 77 == 0])
ENVIRONMENT = {**CREDENTIALS, "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}


def segments(moto: Moto, trace_id: str) -> list[dict[str, Any]]:
    """The documents of a trace's segments, as X-Ray keeps them."""
    (trace,) = moto.client("xray").batch_get_traces(TraceIds=[trace_id])["Traces"]
    return [json.loads(segment["Document"]) for segment in trace["Segments"]]


def test_a_collector_makes_segments_and_metrics_of_what_it_gets(
    collector: Callable[..., Collector], moto: Moto, start: Callable[..., Process]
) -> None:
    """X-Ray keeps the trace that a header named, with its annotations; EMF's counts add up to every request."""
    local = {"exporters": {name: {"endpoint": moto.url} for name in ("awsxray", "awsemf")}}
    local["exporters"]["awsxray"]["local_mode"] = True
    gateway = collector((EXAMPLE / "collector.yaml").read_text(), local, env=ENVIRONMENT)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": gateway.http, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    service, port = serve(start, "app:app", EXAMPLE, environment, preload=True)
    answers = load(port, [("GET", f"/predict?user={user}", None) for user in range(REQUESTS)])
    assert Counter(status for status, _ in answers) == {200: REQUESTS - FAILING, 500: FAILING}
    root = "1-6745ab01-0123456789abcdef01234567"
    header = f"Root={root};Parent=1111111111111111;Sampled=1"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/predict?user=77", headers={"X-Amzn-Trace-Id": header})
    assert connection.getresponse().status == 500
    connection.close()
    assert service.stop() == 0
    assert gateway.stop() == 0

    documents = {document["name"]: document for document in segments(moto, root)}
    assert set(documents) == {"recommender", "feature_lookup user_features", "prediction churn"}
    server, prediction = documents["recommender"], documents["prediction churn"]
    assert server["parent_id"] == "1111111111111111"
    assert prediction["parent_id"] == server["id"]
    assert prediction["fault"]
    assert prediction["annotations"]["mlobs.model.name"] == "churn"
    assert server["annotations"]["otel.resource.deployment.environment.name"] == "staging"

    logs = moto.client("logs")
    (stream,) = logs.describe_log_streams(logGroupName="/mlobs/metrics")["logStreams"]
    events = logs.get_log_events(
        logGroupName="/mlobs/metrics", logStreamName=stream["logStreamName"], startFromHead=True, limit=10_000
    )["events"]
    assert stream["logStreamName"] == "recommender"
    counts: Counter[str] = Counter()
    for event in map(json.loads, (event["message"] for event in events)):
        if "mlobs.operation.duration" in event:
            counts[event["mlobs.operation.name"]] += event["mlobs.operation.duration"]["Count"]
            (declared,) = event["_aws"]["CloudWatchMetrics"]
            assert declared["Namespace"] == "mlobs"
            assert ["mlobs.operation.name"] in declared["Dimensions"]
        if "mlobs.operation.errors" in event:
            counts["errors"] += event["mlobs.operation.errors"]
    assert counts == {"prediction": REQUESTS + 1, "feature_lookup": REQUESTS + 1, "errors": FAILING + 1}


def test_ids_of_the_process_reach_xray(
    collector: Callable[..., Collector], moto: Moto, start: Callable[..., Process], tmp_path: Path
) -> None:
    """The trace that the process named is the one that X-Ray has; with random ids, which the variable asks for, too."""
    local = {"exporters": {"awsxray": {"endpoint": moto.url, "local_mode": True}}}
    gateway = collector((EXAMPLE / "collector.yaml").read_text(), local, env=ENVIRONMENT)
    script = tmp_path / "once.py"
    script.write_text(
        "import otel_mlobs as mlobs\n"
        f'mlobs.configure("once", backend="xray", endpoint="{gateway.http}")\n'
        'with mlobs.prediction(model="m") as op:\n'
        '    trace_id = f"{op.span.get_span_context().trace_id:032x}"\n'
        'print(f"1-{trace_id[:8]}-{trace_id[8:]}", mlobs.shutdown())\n'
    )
    ids = []
    for generator in ("xray", "random"):
        process = start(generator, [sys.executable, script], cwd=tmp_path, env={"OTEL_PYTHON_ID_GENERATOR": generator})
        assert process.wait() == 0
        found, sent = next(line for line in process.tail().splitlines() if line.startswith("1-")).split()
        assert sent == "True"
        ids.append(found)
    assert gateway.stop() == 0
    assert [[document["name"] for document in segments(moto, found)] for found in ids] == [["prediction m"]] * 2
    assert abs(int(ids[0].split("-")[1], 16) - time.time()) < 600


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_a_collector_signs_what_it_passes_on(
    collector: Callable[..., Collector], start: Callable[..., Process], tmp_path: Path, signal: str
) -> None:
    """`collector-otlp.yaml` sends each signal to its own endpoint, signed for the service that takes it."""
    with Aws([]) as server:
        own = {
            f"otlp_http/{one}": {f"{one}_endpoint": f"{server.url}/v1/{one}"} for one in ("traces", "metrics", "logs")
        }
        gateway = collector((EXAMPLE / "collector-otlp.yaml").read_text(), {"exporters": own}, env=ENVIRONMENT)
        script = tmp_path / "once.py"
        script.write_text(
            "import logging\n"
            "import otel_mlobs as mlobs\n"
            f'mlobs.configure("once", backend="cloudwatch", endpoint="{gateway.http}", logs=True)\n'
            'with mlobs.prediction(model="m"):\n'
            '    logging.getLogger("app").warning("scored")\n'
        )
        assert start("once", [sys.executable, script], cwd=tmp_path, env={}).wait() == 0
        assert gateway.stop() == 0
        wait_until(signal, lambda: any(path == f"/v1/{signal}" for path, _, _ in server.requests))
        received = next(one for one in server.requests if one[0] == f"/v1/{signal}")
        service = {"traces": "xray", "metrics": "monitoring", "logs": "logs"}[signal]
        ours = Credentials(*CREDENTIALS.values())
        assert received[1]["authorization"] == recomputed(server.url, received, service, REGION, ours)
        if signal == "logs":
            assert received[1]["x-aws-log-group"] == "/mlobs/recommender"
