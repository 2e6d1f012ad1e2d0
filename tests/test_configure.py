"""``configure()`` seen from outside: what arrives where, under which name, and what is said."""

from __future__ import annotations

import ssl
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from receiver import GrpcReceiver, Receiver, attributes_of, run

if TYPE_CHECKING:
    from collections.abc import Callable

SERVE = """
mlobs.configure({arguments})
with mlobs.prediction(model="m", version="1"):
    logging.getLogger("app").warning("scored")
"""


needs_logs = pytest.mark.skipif(
    find_spec("opentelemetry.instrumentation.logging") is None, reason="logs=True needs the extra logs"
)


def serve(arguments: str, **env: str) -> Any:
    """Configure, run one operation and leave: what it recorded goes out at exit."""
    return run(SERVE.format(arguments=arguments), env=env)


@pytest.mark.parametrize(
    ("arguments", "signals", "said"),
    [
        pytest.param('"s", logs=True, endpoint="{url}"', {"traces", "metrics", "logs"}, 0, marks=needs_logs),
        ('"s", backend="jaeger", endpoint="{url}"', {"traces"}, 1),
        ('"s", backend="tempo", endpoint="{url}", metrics_endpoint="{url}"', {"traces", "metrics"}, 0),
        ('"s", backend="prometheus", metrics_endpoint="{url}/api/v1/otlp"', {"metrics"}, 0),
        ('"s", traces_endpoint="{url}"', {"traces"}, 0),
        ('"s", backend="none"', set(), 0),
    ],
)
def test_each_backend_gets_its_signals(arguments: str, signals: set[str], said: int) -> None:
    """What arrives is what the backend takes; what it does not take is said once, everything else in silence."""
    with Receiver() as receiver:
        ran = serve(arguments.format(url=receiver.url))
        assert receiver.signals() == signals
        assert len([line for line in ran.err.splitlines() if line != "scored"]) == said
        assert len(ran.lines("takes no metrics")) == said


def test_what_is_sent_names_who_sent_it() -> None:
    """The resource has what was given, the SDK's own, and an instance id; a last span before the exit arrives."""
    with Receiver() as receiver:
        serve(
            f'"s", endpoint="{receiver.url}/", service_version="2", service_namespace="n", environment="e", '
            'resource_attributes={"team": "t"}, headers={"Authorization": "Bearer x"}, compression="gzip"',
            OTEL_RESOURCE_ATTRIBUTES="region=r,team=other",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=a%20b",
        )
        assert {one.path for one in receiver.received} == {"/v1/traces", "/v1/metrics"}
        for one in receiver.received:
            assert one.headers["authorization"] == "Bearer x"
            assert one.headers["x-tenant"] == "a b"
            assert one.headers["content-encoding"] == "gzip"
        first, *others = receiver.resources()
        assert all(other == first for other in others)
        expected = {
            "service.name": "s",
            "service.version": "2",
            "service.namespace": "n",
            "deployment.environment.name": "e",
            "team": "t",
            "region": "r",
        }
        assert first.items() >= expected.items()
        assert len(first["service.instance.id"]) == 36
        assert first["telemetry.sdk.language"] == "python"
        assert receiver.span_names() == ["prediction m"]
        assert receiver.total("mlobs.operation.duration") == 1
        assert receiver.first_values("mlobs.operation.errors") == [0]


def test_the_variables_alone_are_enough() -> None:
    """With nothing but ``OTEL_*`` variables a bare ``configure()`` does what they say, down to the SDK's own."""
    script = """
    mlobs.configure()
    from opentelemetry import propagate, trace
    with trace.get_tracer("t").start_as_current_span("s", attributes={f"a{i}": i for i in range(5)}):
        carrier = {}
        propagate.inject(carrier)
    with mlobs.prediction(model="m"):
        pass
    print(sorted(carrier))
    """
    with Receiver() as receiver, Receiver() as metrics:
        env = {
            "OTEL_SERVICE_NAME": "from-env",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics.url}/own/metrics",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "k=own",
            "OTEL_EXPORTER_OTLP_HEADERS": "k=common",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_off",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "3",
            "OTEL_PROPAGATORS": "b3",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1",
        }
        try:
            import opentelemetry.propagators.b3  # noqa: F401
        except ImportError:
            env["OTEL_PROPAGATORS"] = "baggage"
        ran = run(script, env=env)
        assert "traceparent" not in ran.out
        assert len(receiver.of("traces")) == 2, "a batch of one span each"
        assert receiver.received[0].headers["content-encoding"] == "deflate"
        assert receiver.received[0].headers["k"] == "common"
        [span] = [span for span in receiver.spans() if span.name == "s"]
        assert len(span.attributes) == 3
        assert span.dropped_attributes_count == 2
        assert {one.path for one in metrics.received} == {"/own/metrics"}
        assert metrics.received[0].headers["k"] == "own"
        assert not [point for point in metrics.points("mlobs.operation.duration") if point.cumulative]
        assert "exemplars" not in str(metrics.received[0].message)
        assert {resource["service.name"] for resource in receiver.resources()} == {"from-env"}


@pytest.mark.parametrize(
    ("arguments", "env", "spans"),
    [
        ("sampling_ratio=0.0", {"OTEL_TRACES_SAMPLER": "always_on"}, 0),
        ("", {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 0),
        ("", {"OTEL_SDK_DISABLED": "true"}, 0),
        ("", {"OTEL_TRACES_EXPORTER": "none"}, 0),
    ],
)
def test_sampling_and_switches(arguments: str, env: dict[str, str], spans: int) -> None:
    """The sampler's argument beats its variable; the SDK's variables sample, disable and switch a signal off."""
    with Receiver() as receiver:
        serve(f'"s", endpoint="{receiver.url}", {arguments}', **env)
        assert len(receiver.spans()) == spans
        expected = 0 if "OTEL_SDK_DISABLED" in env else 1
        assert receiver.total("mlobs.operation.duration") == expected, "metrics count what is not sampled too"


@needs_logs
def test_grpc_takes_all_signals() -> None:
    """The same over gRPC, headers and compression included."""
    with GrpcReceiver() as receiver:
        ran = serve(
            f'"s", logs=True, protocol="grpc", endpoint="{receiver.url}", headers={{"X-Key": "v"}}, compression="gzip"',
        )
        assert receiver.signals() == {"traces", "metrics", "logs"}
        assert {one.headers["x-key"] for one in receiver.received} == {"v"}
        assert receiver.total("mlobs.operation.duration") == 1
        assert "Traceback" not in ran.err


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """An authority nobody trusts yet, and the file with its certificate."""
    authority = trustme.CA()
    path = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return authority, path


def test_tls_over_http_with_an_own_authority(authority: tuple[trustme.CA, str]) -> None:
    """A receiver whose certificate the given authority signed is trusted; without it, one line says what is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("localhost").configure_cert(context)
    with Receiver(context=context) as receiver:
        ran = serve(f'"s", endpoint="{receiver.url}", certificate="{authority[1]}"')
        assert receiver.span_names() == ["prediction m"]
        assert ran.err == "scored\n"
        ran = serve(f'"s", traces_endpoint="{receiver.url}", timeout=2')
        assert len(receiver.spans()) == 1
        assert len(ran.lines("not reaching", "TLS certificate is not trusted")) == 1
        assert "Traceback" not in ran.err


def test_tls_over_grpc_with_an_own_authority(authority: tuple[trustme.CA, str]) -> None:
    """The same certificate setting is read over gRPC."""
    issued = authority[0].issue_cert("localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    with GrpcReceiver(credentials=grpc.ssl_server_credentials([pair])) as receiver:
        serve(f'"s", protocol="grpc", traces_endpoint="{receiver.url}", certificate="{authority[1]}"')
        assert receiver.span_names() == ["prediction m"]


# -- what is there already --------------------------------------------------------------------------------------------

OWN_PROVIDERS = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(tracers)
reader = InMemoryMetricReader()
"""


def test_the_users_providers_are_used_and_what_is_ignored_is_named_once() -> None:
    """With a tracer provider of the user's, spans go there, metrics go our way, and one line names what is ignored."""
    script = (
        OWN_PROVIDERS
        + """
mlobs.configure("svc", endpoint=os.environ["TO"], sampling_ratio=0.0, metric_interval=60, latency_objective=0.2)
with mlobs.prediction(model="m"):
    pass
print([span.name for span in spans.get_finished_spans()])
mlobs.shutdown()
with mlobs.prediction(model="m"):
    pass
print(len(spans.get_finished_spans()))
"""
    )
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert ran.out == "['prediction m']\n2\n", "shutdown() leaves the user's provider alone"
        [line] = ran.err.splitlines()
        assert line.startswith("a tracer provider is already set")
        assert line.endswith("this is ignored: service_name, endpoint, sampling_ratio")
        assert receiver.signals() == {"metrics"}
        assert receiver.total("mlobs.operation.duration") == 1


def test_both_of_the_users_providers() -> None:
    """With both providers set nothing of ours is built, and a bare ``configure()`` has nothing to complain about."""
    script = (
        OWN_PROVIDERS
        + """
metrics.set_meter_provider(MeterProvider([reader]))
mlobs.configure()
with mlobs.prediction(model="m"):
    pass
data = reader.get_metrics_data().resource_metrics[0].scope_metrics
print(sorted(metric.name for scope in data for metric in scope.metrics), mlobs.force_flush())
"""
    )
    ran = run(script, env={"OTEL_METRICS_EXPORTER": "prometheus"})
    assert ran.out == "['mlobs.operation.duration', 'mlobs.operation.errors'] True\n"
    assert ran.err == ""


def test_under_opentelemetry_instrument() -> None:
    """Started by ``opentelemetry-instrument``, its providers are used, each span arrives once, and one line says so."""
    pytest.importorskip("opentelemetry.distro", reason="opentelemetry-instrument sets no providers without it")
    command = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
    with Receiver() as receiver:
        ran = run(
            SERVE.format(arguments='"ours", backend="jaeger", logs=True'),
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_SERVICE_NAME": "theirs",
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_LOGS_EXPORTER": "otlp",
                "OTEL_PYTHON_CONFIGURATOR": "configurator",
            },
            command=(command,),
        )
        [line] = ran.lines("is already set")
        assert line.endswith("this is ignored: service_name, backend")
        assert "Overriding of current" not in ran.err
        assert receiver.span_names() == ["prediction m"]
        assert len([record for record in receiver.records() if record.body.string_value == "scored"]) == 1
        assert {resource["service.name"] for resource in receiver.resources()} == {"theirs"}


def test_a_second_call_says_that_it_changes_nothing() -> None:
    """The second ``configure()`` is one warning that names the first service; a wrong one changes nothing."""
    script = """
    try:
        mlobs.configure("wrong", endpoint="localhost:4318", timeout=-1)
    except mlobs.ConfigurationError as error:
        print(error)
    mlobs.configure("first", endpoint=os.environ["TO"])
    mlobs.configure("second", endpoint="http://elsewhere.invalid:1")
    with mlobs.prediction(model="m"):
        pass
    """
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert "no scheme" in ran.out
        [line] = ran.err.splitlines()
        assert "'first'" in line
        assert {resource["service.name"] for resource in receiver.resources()} == {"first"}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10", "max_queue_size"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5", "schedule_delay"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "zz", "zz"),
    ],
)
def test_a_variable_that_the_sdk_refuses_changes_nothing(variable: str, value: str, said: str) -> None:
    """What the SDK raises is a ConfigurationError, no provider is set, and the next call works."""
    script = """
    import threading
    try:
        mlobs.configure("first", endpoint=os.environ["TO"])
    except mlobs.ConfigurationError as error:
        print(error)
    print([one.name for one in threading.enumerate() if "otel" in one.name.lower()])
    del os.environ[os.environ["VARIABLE"]]
    mlobs.configure("second", endpoint=os.environ["TO"])
    with mlobs.prediction(model="m"):
        pass
    """
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url, variable: value, "VARIABLE": variable})
        error, threads = ran.out.splitlines()
        assert "telemetry cannot be set up" in error
        assert said in error
        assert threads == "[]"
        assert ran.err == ""
        assert receiver.signals() == {"traces", "metrics"}
        assert {resource["service.name"] for resource in receiver.resources()} == {"second"}


def test_a_second_shutdown_waits_for_the_first() -> None:
    """While one thread stops, another's ``shutdown`` gets the same answer, or false once its time is over."""
    script = """
    import threading
    mlobs.configure("s", traces_endpoint=os.environ["TO"], timeout=20)
    with mlobs.prediction(model="a"):
        pass
    first = threading.Thread(target=lambda: answers.append(mlobs.shutdown(2)))
    answers = []
    first.start()
    from otel_mlobs.telemetry.config import _state
    while not _state.stopping.locked():
        pass
    print(mlobs.shutdown(0.01), answers)
    print(mlobs.shutdown(30))
    first.join()
    print(answers)
    """
    with Receiver("hang") as receiver:
        assert run(script, env={"TO": receiver.url}).out.splitlines() == ["False []", "False", "[False]"]


@pytest.mark.parametrize("timeout", ["None", "float('inf')", "float('nan')", "-1", "'soon'"])
def test_a_timeout_that_is_none_raises(timeout: str) -> None:
    """What is no finite number of seconds is a ValueError with the value, whether or not anything is set up."""
    script = f"""
    for call in (mlobs.force_flush, mlobs.shutdown):
        try:
            call({timeout})
        except ValueError as error:
            print(error)
    """
    lines = run(script).out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("timeout must be a number from 0") for line in lines)


def test_flush_and_shutdown() -> None:
    """``force_flush`` sends at once and says whether all went; after ``shutdown`` operations run and are not sent."""
    script = """
    print(mlobs.force_flush(), mlobs.shutdown())
    mlobs.configure("s", endpoint=os.environ["TO"])
    print(mlobs.force_flush())
    with mlobs.prediction(model="a"):
        pass
    print(mlobs.force_flush(), mlobs.shutdown(), mlobs.shutdown())
    with mlobs.prediction(model="b"):
        pass
    """
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert ran.out.split() == ["True"] * 6
        assert receiver.span_names() == ["prediction a"]
        assert ran.err == ""


def test_nothing_collected_is_lost_when_only_durations_change() -> None:
    """With delta temporality and no error, durations of every interval go out, though the SDK collected nothing."""
    script = """
    mlobs.configure("s", endpoint=os.environ["TO"])
    for n in range(4):
        with mlobs.prediction(model="m"):
            pass
        assert mlobs.force_flush()
    """
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"})
        assert [point.value for point in receiver.points("mlobs.operation.duration")] == [1, 1, 1, 1]


def test_the_console_draws_and_the_file_keeps(tmp_path: Path) -> None:
    """``backend="console"`` prints a tree and needs no server; ``backend="file"`` appends OTLP-JSON lines."""
    assert "prediction m" in "".join((ran := serve('"s", backend="console"')).out + ran.err)
    path = tmp_path / "t.jsonl"
    serve(f'"s", backend="file", path="{path}"')
    text = path.read_text(encoding="utf-8")
    assert '"resourceSpans"' in text
    assert '"resourceMetrics"' in text


def _secret_in(receiver: Receiver, find: Callable[[str], bool]) -> bool:
    return any(find(str(one.message)) for one in receiver.received)


def test_secrets_are_sent_and_never_shown() -> None:
    """Header values and user information reach the backend as they should, and neither a log nor the telemetry."""
    with Receiver({"/v1/metrics": 401}) as receiver:
        url = receiver.url.replace("://", "://me:hunter2@")
        ran = run(
            """
            logging.basicConfig(level=logging.DEBUG)
            mlobs.configure("s", endpoint=os.environ["TO"], headers={"x-key": "swordfish"})
            with mlobs.prediction(model="m"):
                pass
            from otel_mlobs.telemetry.config import active_settings
            print(active_settings())
            """,
            env={"TO": f"{url}?token=opensesame"},
        )
        [one] = receiver.of("traces")
        assert one.headers["x-key"] == "swordfish"
        assert one.headers["authorization"].startswith("Basic ")
        assert one.path == "/v1/traces?token=opensesame"
        shown = "\n".join(line for line in (ran.out + ran.err).splitlines() if "urllib3" not in line)
        for secret in ("hunter2", "swordfish", "opensesame"):
            assert secret not in shown
            assert not _secret_in(receiver, lambda text, secret=secret: secret in text)  # type: ignore[misc]
        assert attributes_of(one.message.resource_spans[0].resource)["service.name"] == "s"
