"""A backend that does not take what it is sent: one line, soon, without a traceback, and nobody waits."""

from __future__ import annotations

import socket

import pytest
from receiver import GrpcReceiver, Receiver, run

RUN = """
import time
logging.basicConfig(format="%(message)s")
mlobs.configure("s", endpoint=os.environ["TO"], protocol=os.environ.get("PROTOCOL"), timeout=0.5, metric_interval=0.2)
for _ in range(4):
    with mlobs.prediction(model="m"):
        pass
    print(mlobs.force_flush(3))
begun = time.monotonic()
mlobs.shutdown(1.0)
print(time.monotonic() - begun < 5)
"""


def free_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(
    ("host", "words"), [("localhost", "connection refused"), ("no.such.host.invalid", "its host name is not known")]
)
def test_an_unreachable_backend_is_one_line(protocol: str, host: str, words: str) -> None:
    """Nobody listens, or no such host: one line for both signals and all batches, no traceback, ``False``, an end."""
    ran = run(RUN, env={"TO": f"http://{host}:{free_port()}", "PROTOCOL": protocol, "GRPC_VERBOSITY": "NONE"})
    [line] = ran.err.splitlines()
    assert line.startswith(f"telemetry is not reaching http://{host}:")
    if host != "localhost" and "in time" in line:
        pytest.skip("the resolver takes longer than the export may")
    assert words in line
    assert "otel-mlobs doctor" in line
    assert ran.out.split() == ["False"] * 4 + ["True"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"/v1/metrics": 404}, "metrics are not reaching {url}/v1/metrics: it does not take this signal"),
        (401, "telemetry is not reaching {url}: it wants credentials (401)"),
        (503, "telemetry is not reaching {url}: "),
        ("close", "telemetry is not reaching {url}: "),
        ("hang", "telemetry is not reaching {url}: it did not take the data in time"),
    ],
)
def test_a_backend_that_refuses_is_one_line(answer: int | str | dict[str, int | str], words: str) -> None:
    """A status, a connection that is closed or one that hangs is one line with its meaning; a shutdown is bounded."""
    with Receiver(answer) as receiver:
        ran = run(RUN, env={"TO": receiver.url})
        [line] = ran.err.splitlines()
        assert line.startswith(words.format(url=receiver.url))
        assert ran.out.split()[0] == "False"
        assert ran.out.split()[-1] == "True"
        assert bool(receiver.spans()) is isinstance(answer, dict), "the other signal arrives"


def test_grpc_without_metrics_is_one_line() -> None:
    """A gRPC backend that knows no metrics, as Jaeger, is said in one line, and traces arrive."""
    with GrpcReceiver(("traces",)) as receiver:
        ran = run(RUN, env={"TO": receiver.url, "PROTOCOL": "grpc"})
        [line] = ran.err.splitlines()
        assert "does not take this signal (UNIMPLEMENTED)" in line
        assert len(receiver.spans()) == 4


def test_it_is_said_again_once_a_minute_and_when_it_is_over() -> None:
    """After a minute the line comes again with the count; when the backend is back, one line says what was lost."""
    script = """
    import time
    from otel_mlobs.telemetry import outage
    from otel_mlobs.settings import resolve

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    now = 0.0
    outage.time.monotonic = lambda: now
    pipelines = resolve({"endpoint": "http://h:1"}, {}).pipelines
    traces, metrics = (outage.Outage(pipeline) for pipeline in pipelines)
    for now in range(0, 121, 10):
        traces.failed(["Connection refused"])
        metrics.failed(["Read timed out"])
    assert traces.ongoing and metrics.ongoing
    traces.succeeded()
    metrics.succeeded()
    assert not traces.ongoing and not metrics.ongoing
    for now in (130, 140):
        traces.failed(["Connection refused"])
        traces.succeeded()
    """
    said = run(script).out.splitlines()
    assert [line.partition(";")[0] for line in said] == [
        "telemetry is not reaching http://h:1: connection refused, nothing listens there",
        "telemetry is not reaching http://h:1: connection refused, nothing listens there (13 batches were lost so far)",
        "telemetry is not reaching http://h:1: connection refused, nothing listens there (25 batches were lost so far)",
        "http://h:1 answers again, 26 batches were lost",
    ], "an outage that ends within the minute is not said at all"


def test_a_collector_that_starts_late_gets_the_rest() -> None:
    """What is recorded once the backend answers arrives, and one line says that it answers again."""
    with Receiver(503) as receiver:
        ran = run(
            """
            import urllib.request
            logging.basicConfig(format="%(message)s")
            mlobs.configure("s", traces_endpoint=os.environ["TO"], timeout=0.5)
            for name in ("lost", "kept"):
                with mlobs.operation(name):
                    pass
                print(mlobs.force_flush(), flush=True)
                if name == "lost":
                    urllib.request.urlopen(urllib.request.Request(os.environ["TO"] + "/answer", data=b""))
            """,
            env={"TO": receiver.url},
        )
        assert ran.out.split() == ["False", "True"]
        assert receiver.span_names() == ["kept"]
        assert len(ran.lines("answers again, 1 batch was lost")) == 1


def test_an_unknown_reason_holds_no_secret() -> None:
    """What the exporter says of an error that is not known by heart is shown without headers, query or password."""
    script = """
    from otel_mlobs.telemetry import outage
    from otel_mlobs.settings import resolve

    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    arguments = {"endpoint": "http://me:hunter2@h:1/?token=opensesame", "headers": {"k": "Bearer swordfish"}}
    [traces, _] = resolve(arguments, {}).pipelines
    outage.Outage(traces).failed(["No route: /v1/traces?token=opensesame me:hunter2 swordfish"])
    outage.Outage(resolve({**arguments, "endpoint": "http://g:1"}, {}).pipelines[0]).failed(
        ["Transient error " + "x" * 190 + " swordfish encountered while exporting traces batch, retrying in 1s."]
    )
    """
    [line, cut] = run(script).out.splitlines()
    assert "No route" in line
    assert "xxx" in cut
    assert "sword" not in cut
    assert not [secret for secret in ("hunter2", "opensesame", "swordfish") if secret in line]
