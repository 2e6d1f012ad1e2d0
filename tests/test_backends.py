"""Datadog, X-Ray and CloudWatch: what their settings resolve to, and what arrives when a process names one of them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from receiver import GrpcReceiver, Receiver, run

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings import resolve
from otel_mlobs.settings.backends import SIGNED

if TYPE_CHECKING:
    from otel_mlobs.settings import Pipeline

needs_aws = pytest.mark.skipif(
    find_spec("opentelemetry.sdk.extension") is None or find_spec("botocore") is None,
    reason="AWS's backends need the extra aws",
)
needs_logs = pytest.mark.skipif(
    find_spec("opentelemetry.instrumentation.logging") is None, reason="logs=True needs the extra logs"
)
LOG_HEADERS = {"x-aws-log-group": "g", "x-aws-log-stream": "s"}
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
PROVIDER = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"


def pipelines(arguments: dict[str, Any], environ: dict[str, str] | None = None) -> dict[str, Pipeline]:
    """The pipelines by signal, logs among them."""
    return {one.signal: one for one in resolve({"logs": True, **arguments}, environ or {}).pipelines}


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["datadog", "xray", "cloudwatch"])
def test_the_default_is_an_agent_on_this_machine(backend: str) -> None:
    """Without an endpoint all goes to the agent's OTLP port, unsigned; arguments and variables say another."""
    assert {one.url.rpartition("/v1")[0] for one in pipelines({"backend": backend}).values()} == {
        "http://localhost:4318"
    }
    assert not any(one.signed for one in pipelines({"backend": backend}).values())
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://agent:1"}
    assert pipelines({"backend": backend}, environ)["traces"].url == "http://agent:1/v1/traces"
    assert pipelines({"backend": backend, "endpoint": "http://mine:2"}, environ)["traces"].url.startswith("http://mine")
    grpc = pipelines({"backend": backend, "protocol": "grpc"})
    assert {one.url for one in grpc.values()} == {"http://localhost:4317"}


def test_datadog_wants_delta_and_a_variable_says_otherwise() -> None:
    """Only Datadog's metrics are sent as deltas, and not where the variable that the SDK reads says something."""
    assert [one.signal for one in pipelines({"backend": "datadog"}).values() if one.delta] == ["metrics"]
    assert not pipelines({"backend": "datadog"}, {TEMPORALITY: "cumulative"})["metrics"].delta
    for backend in ("collector", "cloudwatch"):
        assert not pipelines({"backend": backend})["metrics"].delta


def test_datadog_gets_the_environment_under_both_names() -> None:
    """Agents before 7.58 read the older name alone; what the user says under that is kept."""
    both = resolve({"backend": "datadog", "environment": "prod"}, {}).resource
    assert (both["deployment.environment.name"], both["deployment.environment"]) == ("prod", "prod")
    own = {"resource_attributes": {"deployment.environment": "mine"}, "environment": "prod"}
    assert resolve({"backend": "datadog", **own}, {}).resource["deployment.environment"] == "mine"
    assert "deployment.environment" not in resolve({"backend": "collector", "environment": "prod"}, {}).resource
    assert "deployment.environment" not in resolve({"backend": "datadog"}, {}).resource


@pytest.mark.parametrize("backend", ["xray", "cloudwatch"])
def test_backends_of_aws_want_ids_and_a_header_of_their_own(backend: str) -> None:
    """X-Ray's generator and propagator, unless OpenTelemetry's variables name others; nobody else wants them."""
    found = resolve({"backend": backend}, {})
    assert (found.id_generator, found.propagator) == ("xray", "xray")
    said = resolve({"backend": backend}, {"OTEL_PYTHON_ID_GENERATOR": "random", "OTEL_PROPAGATORS": "tracecontext"})
    assert (said.id_generator, said.propagator) == ("random", None)
    other = resolve({"backend": "datadog"}, {})
    assert (other.id_generator, other.propagator) == (None, None)


def test_xray_says_what_it_does_not_take() -> None:
    """Metrics and logs go nowhere, and the note names the backend that takes them."""
    settings = resolve({"backend": "xray", "logs": True}, {})
    assert [one.signal for one in settings.pipelines] == ["traces"]
    assert len(settings.notes) == 2
    assert all('backend="cloudwatch"' in note for note in settings.notes)


@pytest.mark.parametrize("service", ["xray", "monitoring", "logs", "XRay"])
@pytest.mark.parametrize(("region", "top"), [("eu-west-1", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")])
def test_one_endpoint_of_aws_stands_for_all_three(service: str, region: str, top: str) -> None:
    """Each signal goes to its own host of the same region, and is signed."""
    arguments = {"backend": "cloudwatch", "headers": LOG_HEADERS}
    endpoint = f"https://{service}.{region}.{top}"
    found = pipelines({**arguments, "endpoint": endpoint})
    assert found == pipelines(arguments, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    assert {signal: one.url for signal, one in found.items()} == {
        "traces": f"https://xray.{region}.{top}/v1/traces",
        "metrics": f"https://monitoring.{region}.{top}/v1/metrics",
        "logs": f"https://logs.{region}.{top}/v1/logs",
    }
    assert all(one.signed for one in found.values())


def test_endpoints_signal_by_signal_stay_as_they_are() -> None:
    """What is said of one signal is not rewritten; hosts that only look like AWS's are not signed."""
    found = pipelines(
        {
            "traces_endpoint": "https://xray.eu-west-1.amazonaws.com",
            "metrics_endpoint": "https://monitoring.eu-west-1.amazonaws.com.example.org",
        }
    )
    assert found["traces"].signed
    assert not found["metrics"].signed
    assert found["metrics"].url == "https://monitoring.eu-west-1.amazonaws.com.example.org/v1/metrics"


def test_a_variable_names_who_signs() -> None:
    """OpenTelemetry's variables switch our signature on for any host, or another provider's on for AWS's."""
    assert pipelines({"endpoint": "http://proxy:1", "headers": LOG_HEADERS}, {PROVIDER: SIGNED})["logs"].signed
    own = {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": SIGNED}
    assert [s for s, one in pipelines({"endpoint": "http://proxy:1"}, own).items() if one.signed] == ["traces"]
    aws = {"traces_endpoint": "https://xray.eu-west-1.amazonaws.com"}
    assert not pipelines(aws, {PROVIDER: "somebody"})["traces"].signed
    assert not pipelines({"protocol": "grpc"}, {PROVIDER: SIGNED})["traces"].signed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"protocol": "grpc"}, ["endpoint", "HTTP alone", "http/protobuf"]),
        ({"compression": "deflate"}, ["'gzip' or 'none'", "'deflate'"]),
        ({"endpoint": "http://xray.eu-west-1.amazonaws.com"}, ["http://xray", "https://"]),
        ({"logs": True, "headers": {"x-aws-log-group": "g"}}, ["x-aws-log-stream", "headers="]),
        ({"logs": True, "headers": {}}, ["x-aws-log-group and x-aws-log-stream", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"]),
    ],
)
def test_what_aws_would_refuse_raises(arguments: dict[str, Any], words: list[str]) -> None:
    """What every request would be refused for is said at once, with what to write instead."""
    with pytest.raises(ConfigurationError) as raised:
        resolve({"backend": "cloudwatch", "endpoint": "https://logs.eu-west-1.amazonaws.com", **arguments}, {})
    assert all(word in str(raised.value) for word in words), str(raised.value)


# -- a process that is told a backend ----------------------------------------------------------------------------------

NO_AWS = """
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ.update(AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
"""

COUNTING = """
import time
import numpy as np

profile = mlobs.Profile.fit(np.arange(100.0)[:, None], features=["x"], outputs=np.arange(100.0) / 100,
                            labels=np.arange(100) % 2, positive_class=1, model="m", version="1")
monitor = mlobs.Monitor(profile)

@mlobs.prediction(monitor=monitor)
def predict(x):
    return np.full(len(x), 0.5)

@mlobs.operation("odd")
def odd():
    raise ValueError

def serve(n):
    for _ in range(n):
        predict(np.array([[3.0]]))
        try:
            odd()
        except ValueError:
            pass

mlobs.configure("shop", backend="datadog", endpoint=os.environ["TO"], metric_interval=0.05, environment="prod",
                service_version="7", instance_id="one")
serve(20)
time.sleep(0.3)
serve(20)
if hasattr(os, "fork"):
    time.sleep(0.12)
    serve(5)
    pid = os.fork()
    serve(10)
    if pid == 0:
        time.sleep(0.2)
        serve(10)
        os._exit(0 if mlobs.shutdown() else 9)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_datadog_gets_exact_deltas_also_over_a_fork() -> None:
    """Every sum and histogram is a delta, none is negative, and they add up to what was served in both processes."""
    with Receiver() as receiver:
        run(COUNTING, env={"TO": receiver.url})
        served = 75 if hasattr(os, "fork") else 40
        temporalities = {
            getattr(metric, metric.WhichOneof("data")).aggregation_temporality
            for _, metric in receiver.metrics()
            if metric.WhichOneof("data") != "gauge"
        }
        assert temporalities == {1}, "AGGREGATION_TEMPORALITY_DELTA"
        summed = {
            "mlobs.operation.duration": 2 * served,
            "mlobs.operation.errors": served,
            "mlobs.feature.observations": served,
            "mlobs.prediction.observations": served,
        }
        assert {name: receiver.total(name) for name in summed} == summed
        points = [point for name in summed for point in receiver.points(name)]
        assert all(point.value >= 0 for point in points)
        assert len({point.start for point in points}) > 4, "collected several times"
        assert {
            (resource["service.name"], resource["service.version"], resource["deployment.environment"])
            for resource in receiver.resources()
        } == {("shop", "7", "prod")}


def test_a_delta_of_nothing_is_sent_every_time() -> None:
    """That nothing failed is said again and again: behind a gateway the series would else end, and be missed."""
    script = """
    mlobs.configure("s", backend="datadog", endpoint=os.environ["TO"], metric_interval=3600)
    mlobs.prediction(model="m")(lambda: 1)()
    for _ in range(3):
        assert mlobs.force_flush(10)
    """
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url})
        errors = list(receiver.points("mlobs.operation.errors"))
        assert len(errors) >= 3
        assert {(point.value, point.cumulative) for point in errors} == {(0, False)}
        assert {point.value for point in receiver.points("mlobs.internal.errors")} == {0}


def test_datadog_gets_deltas_over_grpc_too() -> None:
    """The exporter for gRPC is asked for the same."""
    script = """
    mlobs.configure("s", backend="datadog", protocol="grpc", endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        pass
    """
    with GrpcReceiver() as receiver:
        run(script, env={"TO": receiver.url})
        names = ("mlobs.operation.duration", "mlobs.operation.errors")
        assert {point.cumulative for name in names for point in receiver.points(name)} == {False}
        assert receiver.total(names[0]) == 1


def test_deltas_of_a_total_begin_with_its_second_point() -> None:
    """What a device counted before anybody looked is no delta; a series that comes later begins the same way."""
    from opentelemetry.metrics import Observation
    from opentelemetry.sdk.metrics import Counter, MeterProvider, ObservableCounter
    from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

    from otel_mlobs.telemetry.readers import without_first_totals

    reader = InMemoryMetricReader(
        preferred_temporality=dict.fromkeys((Counter, ObservableCounter), AggregationTemporality.DELTA)
    )
    meter = MeterProvider(metric_readers=[reader]).get_meter("t")
    energy = {"0": 5000.0}
    meter.create_observable_counter("energy", [lambda _: [Observation(v, {"gpu": k}) for k, v in energy.items()]])
    counter = meter.create_counter("counted")
    seen: set[Any] = set()

    def collect() -> dict[str, float]:
        data = without_first_totals(reader.get_metrics_data(), {"energy"}, seen)
        assert data is not None
        return {
            f"{metric.name}{point.attributes.get('gpu', '')}": point.value
            for group in data.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    counter.add(3)
    assert collect() == {"counted": 3}
    energy.update({"0": 5010.0, "1": 700.0})
    assert collect() == {"energy0": 10.0}
    energy.update({"0": 5010.0, "1": 702.0})
    assert collect() == {"energy0": 0.0, "energy1": 2.0}


@pytest.mark.skipif(find_spec("opentelemetry.instrumentation.system_metrics") is None, reason="needs the extra host")
def test_datadog_gets_the_hosts_counters_from_now_on() -> None:
    """The CPU times that are sent are those of the two processes' lives, and not of the machine's."""
    script = """
    import time
    began = time.monotonic()
    mlobs.configure("s", backend="datadog", host=True, endpoint=os.environ["TO"], metric_interval=0.1)
    time.sleep(1)
    if hasattr(os, "fork"):
        pid = os.fork()
        time.sleep(0.5)
        if pid == 0:
            os._exit(0 if mlobs.shutdown() else 9)
        assert os.waitpid(pid, 0)[1] == 0
    mlobs.shutdown()
    print(time.monotonic() - began)
    """
    with Receiver() as receiver:
        lived = float(run(script, env={"TO": receiver.url}).out)
        assert 0 < receiver.total("system.cpu.time") < 2 * (lived + 1) * (os.cpu_count() or 1)
        assert len(receiver.instances("system.cpu.time")) == (2 if hasattr(os, "fork") else 1)


def test_the_variable_keeps_datadogs_sums_cumulative() -> None:
    """``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative`` goes before what the backend wants."""
    script = """
    mlobs.configure("s", backend="datadog", endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        pass
    """
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url, TEMPORALITY: "cumulative"})
        assert [point.cumulative for point in receiver.points("mlobs.operation.duration")] == [True]
        assert receiver.span_names() == ["prediction m"]


@needs_logs
def test_datadogs_logs_and_spans_have_the_same_ids() -> None:
    """A log record's trace and span id are its operation's, which is how the agent joins them."""
    script = """
    mlobs.configure("s", backend="datadog", logs=True, endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        logging.getLogger("app").warning("scored")
    """
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url})
        [record], [span] = receiver.records(), receiver.spans()
        assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)


@pytest.mark.skipif(find_spec("botocore") is not None, reason="the extra aws is installed")
@pytest.mark.parametrize(
    "arguments", ['backend="xray"', 'backend="cloudwatch"', 'traces_endpoint="https://xray.eu-west-1.amazonaws.com"']
)
def test_without_the_extra_the_command_that_installs_it_is_named(arguments: str) -> None:
    """``backend="xray"``, or an endpoint of AWS, without the extra raises before anything is set up."""
    ran = run(f'mlobs.configure("s", {arguments})', check=False)
    assert ran.lines("MissingExtraError", "pip install 'otel-mlobs[aws]'")


@needs_aws
def test_no_credentials_are_said_by_configure() -> None:
    """Signed requests without credentials or a region raise at once, and leave no provider behind."""
    script = """
from opentelemetry import trace
from otel_mlobs.errors import ConfigurationError
for endpoint in ("https://xray.eu-west-1.amazonaws.com", "http://localhost:9"):
    try:
        mlobs.configure("s", backend="xray", endpoint=endpoint)
    except ConfigurationError as error:
        print(error)
    os.environ["OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"] = "otel_mlobs_aws"
print(type(trace.get_tracer_provider()).__name__)
"""
    first, second, provider = run(NO_AWS + script).out.splitlines()
    assert "no AWS credentials were found" in first
    assert "AWS_PROFILE" in first
    assert "no AWS region was found" in second
    assert provider == "ProxyTracerProvider"


@needs_aws
def test_an_unknown_generator_of_ids_is_named() -> None:
    """``OTEL_PYTHON_ID_GENERATOR`` with a name that nobody has registered raises."""
    script = 'mlobs.configure("s", backend="xray")'
    ran = run(script, env={"OTEL_PYTHON_ID_GENERATOR": "nobody"}, check=False)
    assert ran.lines("ConfigurationError", "OTEL_PYTHON_ID_GENERATOR='nobody'")


XRAY_APP = """
import time
from flask import Flask
from opentelemetry import propagate
from otel_mlobs.integrations.flask import MLObs

mlobs.configure("shop", backend="xray", endpoint=os.environ["TO"])
app = Flask("shop")
MLObs(app)

@app.get("/")
def index():
    with mlobs.prediction(model="m"):
        sent = {}
        propagate.inject(sent)
        return sent

def ask(**headers):
    print(app.test_client().get("/", headers={k.replace("_", "-"): v for k, v in headers.items()}).get_json())

ask()
ask(X_Amzn_Trace_Id="Root=1-67890abc-0123456789abcdef01234567;Parent=1111111111111111;Sampled=1")
ask(X_Amzn_Trace_Id="Root=1-67890abc-0123456789abcdef01234567;Parent=1111111111111111;Sampled=1",
    traceparent="00-abcdefabcdefabcdefabcdefabcdefab-2222222222222222-01")
ask(X_Amzn_Trace_Id="Root=1-67890abc-0123456789abcdef01234567;Parent=1111111111111111;Sampled=0")
ask(X_Amzn_Trace_Id="Root=1-67890abc-0123456789abcdef01234567;Parent=1111111111111111")
ask(X_Amzn_Trace_Id="Root=1-67890abc-0123456789abcdef01234567")
"""


@needs_aws
@pytest.mark.skipif(find_spec("flask") is None, reason="needs Flask")
def test_xrays_header_comes_in_and_goes_out_through_flask() -> None:
    """Ids begin with the time; the header in is the parent, W3C's goes before it, and both go out with the same ids.

    A header without Sampled is not sampled, and one without Parent begins a trace.
    """
    import ast
    import time

    with Receiver() as receiver:
        ran = run(XRAY_APP, env={"TO": receiver.url})
        sent = [ast.literal_eval(line) for line in ran.out.splitlines()]
        spans = {span.span_id.hex(): span for span in receiver.spans()}
        assert len(spans) == 8, "server and prediction of all requests but the two that are not sampled"
        for number, headers in enumerate(sent):
            _, trace_id, span_id, flags = headers["traceparent"].split("-")
            xray = dict(part.split("=") for part in headers["X-Amzn-Trace-Id"].split(";"))
            assert xray["Root"] == f"1-{trace_id[:8]}-{trace_id[8:]}"
            assert xray["Parent"] == span_id
            sampled = number not in (3, 4)
            assert int(xray["Sampled"]) == int(flags, 16) & 1 == sampled
            if sampled:
                server = spans[spans[span_id].parent_span_id.hex()]
                assert server.trace_id.hex() == trace_id
                expected = ["", "1111111111111111", "2222222222222222", None, None, ""][number]
                assert server.parent_span_id.hex() == expected
        traces = [headers["traceparent"].split("-")[1] for headers in sent]
        for own in (traces[0], traces[5]):
            assert abs(int(own[:8], 16) - time.time()) < 120
        given = "67890abc0123456789abcdef01234567"
        assert traces[1:5] == [given, "abcdef" * 5 + "ab", given, given]
        assert receiver.signals() == {"traces"}
        assert len(ran.lines("xray takes no metrics", "cloudwatch")) == 1


@needs_aws
def test_variables_for_ids_and_propagators_are_obeyed() -> None:
    """``OTEL_PYTHON_ID_GENERATOR=random`` and ``OTEL_PROPAGATORS`` leave X-Ray's out."""
    script = """
    from opentelemetry import propagate
    mlobs.configure("s", backend="xray", endpoint=os.environ["TO"])
    for _ in range(20):
        with mlobs.prediction(model="m"):
            propagate.inject(sent := {})
    print(*sent)
    """
    with Receiver() as receiver:
        env = {"TO": receiver.url, "OTEL_PYTHON_ID_GENERATOR": "random", "OTEL_PROPAGATORS": "tracecontext"}
        assert run(script, env=env).out.split() == ["traceparent"]
        assert len({span.trace_id[:4] for span in receiver.spans()}) > 10
