"""What a process is told: where each value comes from, and what a wrong one says."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings import SIGNALS, TAKES, Settings, resolve

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"


def file_of(folder: Path, text: str) -> dict[str, str]:
    """The environment that names a file with ``text`` in its ``[configure]`` table."""
    path = folder / "mlobs.toml"
    path.write_text(f"[configure]\n{text}\n", encoding="utf-8")
    return {"MLOBS_CONFIG": str(path)}


@pytest.fixture
def pems(tmp_path: Path) -> dict[str, str]:
    """Three authorities' certificates, so that each source can name one of its own."""
    paths = {}
    for name in ("argument", "variable", "signal", "file"):
        paths[name] = str(tmp_path / f"{name}.pem")
        trustme.CA().cert_pem.write_to_path(paths[name])
    return paths


def traces(settings: Settings) -> Any:
    """The pipeline of traces, which must be there."""
    pipeline = settings.pipeline("traces")
    assert pipeline is not None
    return pipeline


# name of the argument; its value; (variable, its text, what it means); TOML and its meaning; default; how to read it
SOURCES: list[tuple[str, Any, tuple[str, str, Any] | None, str, Any, Any, Any]] = [
    ("service_name", "a", ("OTEL_SERVICE_NAME", "e", "e"), '"f"', "f", None, lambda s: s.service_name),
    (
        "service_name",
        "a",
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=e%20e", "e e"),
        '"f"',
        "f",
        None,
        lambda s: s.service_name,
    ),
    ("backend", "tempo", None, '"jaeger"', "jaeger", "collector", lambda s: s.backend),
    (
        "endpoint",
        "http://a:1",
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://e:2", "http://e:2/v1/traces"),
        '"http://f:3"',
        "http://f:3/v1/traces",
        "http://localhost:4318/v1/traces",
        lambda s: traces(s).url,
    ),
    (
        "traces_endpoint",
        "http://a:1",
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://e:2/as/it/is", "http://e:2/as/it/is"),
        '"http://f:3"',
        "http://f:3/v1/traces",
        "http://localhost:4318/v1/traces",
        lambda s: traces(s).url,
    ),
    (
        "metrics_endpoint",
        "http://a:1/api/v1/otlp/",
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://e:2", "http://e:2"),
        '"http://f:3"',
        "http://f:3/v1/metrics",
        "http://localhost:4318/v1/metrics",
        lambda s: s.pipeline("metrics").url,
    ),
    (
        "protocol",
        "http/protobuf",
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc"),
        '"grpc"',
        "grpc",
        "http/protobuf",
        lambda s: traces(s).protocol,
    ),
    (
        "compression",
        "deflate",
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP", "gzip"),
        '"none"',
        "none",
        "none",
        lambda s: traces(s).compression,
    ),
    ("timeout", 1, ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2.5", 2.5), "3", 3, 10, lambda s: traces(s).timeout),
    ("logs", True, None, "true", True, False, lambda s: s.logs),
    ("sampling_ratio", 0.25, None, "0.5", 0.5, None, lambda s: s.sampling_ratio),
    (
        "metric_interval",
        1,
        ("OTEL_METRIC_EXPORT_INTERVAL", "2500", 2.5),
        "3",
        3,
        15,
        lambda s: s.metric_interval,
    ),
    ("latency_objective", 0.1, None, "0.2", 0.2, 0.08, lambda s: s.latency_objective),
    ("feature_age_objective", "15m", None, "'2h'", 7200, None, lambda s: s.feature_age_objective),
    ("exception_messages", True, None, "true", True, False, lambda s: s.exception_messages),
    ("gpu", True, None, "true", True, False, lambda s: s.gpu),
    ("gpu_names", "dcgm", None, "'both'", "both", "otel", lambda s: s.gpu_names),
    ("gpu_reporter", "each", None, "'each'", "each", "elected", lambda s: s.gpu_reporter),
    ("host", True, None, "true", True, False, lambda s: s.host),
    *(
        (
            name,
            "a",
            ("OTEL_RESOURCE_ATTRIBUTES", f"{key}=e", "e"),
            '"f"',
            "f",
            None,
            lambda s, key=key: s.resource.get(key),
        )
        for name, key in (
            ("service_version", "service.version"),
            ("service_namespace", "service.namespace"),
            ("environment", "deployment.environment.name"),
            ("instance_id", "service.instance.id"),
        )
    ),
    (
        "resource_attributes",
        {"team": "a"},
        ("OTEL_RESOURCE_ATTRIBUTES", "team=e", "e"),
        '{team = "f"}',
        "f",
        None,
        lambda s: s.resource.get("team"),
    ),
    (
        "headers",
        {"x-team": "a"},
        ("OTEL_EXPORTER_OTLP_HEADERS", "X-Team=e%20e", "e e"),
        '{x-team = "f"}',
        "f",
        None,
        lambda s: traces(s).headers.get("x-team"),
    ),
]
ARGUMENTS_MEANING = {
    "endpoint": "http://a:1/v1/traces",
    "traces_endpoint": "http://a:1/v1/traces",
    "metrics_endpoint": "http://a:1/api/v1/otlp/v1/metrics",
    "resource_attributes": "a",
    "feature_age_objective": 900.0,
    "headers": "a",
}


@pytest.mark.parametrize(
    ("name", "argument", "variable", "toml", "from_file", "default", "read"),
    SOURCES,
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_arguments_beat_variables_beat_the_file_beats_defaults(
    tmp_path: Path, name: str, argument: Any, variable: Any, toml: str, from_file: Any, default: Any, read: Any
) -> None:
    """Each value comes from the argument, else the variable, else the file, else the default."""
    file = file_of(tmp_path, f"{name} = {toml}")
    environ = file | ({variable[0]: variable[1]} if variable else {})
    assert read(resolve({name: argument}, environ)) == ARGUMENTS_MEANING.get(name, argument)
    if variable:
        assert read(resolve({name: None}, environ)) == variable[2]
    assert read(resolve({}, file)) == from_file
    assert read(resolve({}, {})) == default


def test_certificates_follow_the_same_order(tmp_path: Path, pems: dict[str, str]) -> None:
    """A certificate file comes from the argument, the signal's variable, the common one, the file, in this order."""
    environ = file_of(tmp_path, f'certificate = "{pems["file"]}"')
    assert traces(resolve({}, environ)).certificate == pems["file"]
    environ["OTEL_EXPORTER_OTLP_CERTIFICATE"] = pems["variable"]
    assert traces(resolve({}, environ)).certificate == pems["variable"]
    environ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"] = pems["signal"]
    assert traces(resolve({}, environ)).certificate == pems["signal"]
    assert traces(resolve({"certificate": pems["argument"]}, environ)).certificate == pems["argument"]


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
@pytest.mark.parametrize(
    ("name", "common", "own", "expected"),
    [
        ("PROTOCOL", "http/protobuf", "grpc", "grpc"),
        ("COMPRESSION", "none", "gzip", "gzip"),
        ("TIMEOUT", "1", "2", 2.0),
        ("HEADERS", "k=common", "k=own", {"k": "own"}),
        ("ENDPOINT", "http://common:1", "http://own:2/x", "http://own:2/x"),
    ],
)
def test_a_signals_own_variable_beats_the_common_one(
    signal: Any, name: str, common: str, own: str, expected: Any
) -> None:
    """``OTEL_EXPORTER_OTLP_<SIGNAL>_X`` is for its signal alone and goes before ``OTEL_EXPORTER_OTLP_X``."""
    environ = {f"OTEL_EXPORTER_OTLP_{name}": common, f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}": own}
    settings = resolve({"logs": True}, environ)
    attribute = "url" if name == "ENDPOINT" else name.lower()
    for pipeline in settings.pipelines:
        found = getattr(pipeline, attribute)
        assert ((dict(found) if name == "HEADERS" else found) == expected) is (pipeline.signal == signal)


def test_headers_of_all_sources_are_sent_together(tmp_path: Path) -> None:
    """Headers are merged by name, since the SDK's exporter adds the variable's to those it is given."""
    environ = file_of(tmp_path, 'headers = {a = "file", b = "file", c = "file"}')
    environ["OTEL_EXPORTER_OTLP_HEADERS"] = "b=variable,c=variable"
    assert dict(traces(resolve({"headers": {"C": "argument"}}, environ)).headers) == {
        "a": "file",
        "b": "variable",
        "c": "argument",
    }


def test_a_service_name_among_the_resource_attributes_is_an_argument_too(tmp_path: Path) -> None:
    """``resource_attributes={"service.name": …}`` goes before the variable and after ``service_name``."""
    given = {"resource_attributes": {"service.name": "a"}}
    assert resolve(given, {"OTEL_SERVICE_NAME": "e"}).service_name == "a"
    assert resolve(given | {"service_name": "b"}, {}).service_name == "b"
    environ = file_of(tmp_path, 'resource_attributes = {"service.name" = "f"}')
    assert resolve({}, environ).service_name == "f"


def test_the_sampler_variable_beats_the_files_ratio(tmp_path: Path) -> None:
    """``OTEL_TRACES_SAMPLER``, which the SDK reads, is not overruled by a ratio in the file."""
    environ = file_of(tmp_path, "sampling_ratio = 0.1") | {"OTEL_TRACES_SAMPLER": "always_on"}
    assert resolve({}, environ).sampling_ratio is None
    assert resolve({"sampling_ratio": 0.5}, environ).sampling_ratio == 0.5


def test_tail_sampling_takes_its_ratio_from_argument_variable_and_file(tmp_path: Path) -> None:
    """``sampling="tail"`` needs a ratio, from wherever; a sampler's variable beats the file in both."""
    assert resolve({}, {}).sampling == "ratio"
    environ = file_of(tmp_path, 'sampling = "tail"\nsampling_ratio = 0.1')
    found = resolve({}, environ)
    assert (found.sampling, found.sampling_ratio) == ("tail", 0.1)
    assert resolve({"sampling": "ratio"}, environ).sampling == "ratio"
    assert resolve({"sampling_ratio": 0.0}, environ).sampling_ratio == 0.0
    assert resolve({}, environ | {"OTEL_TRACES_SAMPLER": "always_on"}).sampling == "ratio"
    variables = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"}
    assert resolve({"sampling": "tail"}, environ | variables).sampling_ratio == 0.2
    assert resolve({"sampling": "tail", "sampling_ratio": 0.3}, environ | variables).sampling_ratio == 0.3
    assert resolve({}, environ | variables).sampling_ratio is None, "the SDK's sampler reads it"


def test_blank_variables_are_as_good_as_unset() -> None:
    """An empty or blank variable leaves the default, as the specification wants it."""
    blank = {
        "OTEL_SERVICE_NAME": " ",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": " ",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "",
        "OTEL_TRACES_EXPORTER": "",
        "OTEL_METRIC_EXPORT_INTERVAL": " ",
        "OTEL_SDK_DISABLED": "",
        "MLOBS_CONFIG": " ",
    }
    assert resolve({}, blank) == resolve({}, {})
    assert resolve({"traces_endpoint": "http://a:1"}, blank).pipeline("metrics") is None


# -- which signals go where -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", TAKES)
def test_a_backend_gets_the_signals_that_it_takes(backend: str, tmp_path: Path) -> None:
    """Each backend gets what it takes and nothing else; Jaeger, Tempo and X-Ray say what they leave out."""
    settings = resolve({"backend": backend, "logs": True, "path": str(tmp_path / "t.jsonl")}, {})
    assert tuple(pipeline.signal for pipeline in settings.pipelines) == TAKES[backend]
    notes = [note for note in settings.notes if backend in note]
    assert len(notes) == (2 if backend in ("jaeger", "tempo", "xray") else 0), "metrics and logs, once each"


def test_an_endpoint_for_one_signal_sends_only_that_one(tmp_path: Path) -> None:
    """Endpoints given signal by signal, by argument or in the file, send no other signal anywhere."""
    only = resolve({"metrics_endpoint": "http://prometheus:9090/api/v1/otlp"}, {})
    assert [(p.signal, p.url) for p in only.pipelines] == [("metrics", "http://prometheus:9090/api/v1/otlp/v1/metrics")]
    from_file = resolve({}, file_of(tmp_path, 'traces_endpoint = "http://jaeger:4318"'))
    assert [p.signal for p in from_file.pipelines] == ["traces"]
    beside = resolve({"backend": "jaeger", "metrics_endpoint": "http://p:1"}, {})
    assert [p.signal for p in beside.pipelines] == ["traces", "metrics"]
    assert not beside.notes


def test_a_logs_endpoint_means_logs() -> None:
    """``logs_endpoint`` switches logs on unless ``logs=False`` says otherwise."""
    assert resolve({"logs_endpoint": "http://l:1"}, {}).logs
    assert resolve({"logs_endpoint": "http://l:1", "logs": False}, {}).pipelines == ()


@pytest.mark.parametrize(
    ("value", "exporter"), [("none", None), ("console", "console"), ("otlp", "otlp"), ("otlp_proto_grpc", "otlp")]
)
def test_the_exporter_variable_chooses(value: str, exporter: str | None, tmp_path: Path) -> None:
    """``OTEL_TRACES_EXPORTER`` beats the file's backend and yields to the argument."""
    environ = file_of(tmp_path, 'backend = "console"') | {"OTEL_TRACES_EXPORTER": value}
    pipeline = resolve({}, environ).pipeline("traces")
    assert (pipeline.exporter if pipeline else None) == exporter
    assert pipeline is None or (pipeline.protocol == "grpc") is (value == "otlp_proto_grpc")
    assert traces(resolve({"backend": "jaeger"}, environ)).exporter == "otlp"


def test_exporters_of_a_provider_that_is_not_ours_are_not_our_affair() -> None:
    """``OTEL_METRICS_EXPORTER=prometheus`` is wrong here, and right where somebody else's provider reads it."""
    environ = {"OTEL_METRICS_EXPORTER": "prometheus"}
    with pytest.raises(ConfigurationError, match="OTEL_METRICS_EXPORTER='prometheus'"):
        resolve({}, environ)
    assert [p.signal for p in resolve({}, environ, taken=("metrics",)).pipelines] == ["traces"]
    assert resolve({"backend": "jaeger"}, {}, taken=("metrics",)).notes == ()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("http://h:4318/", "http://h:4318/v1/traces"),
        ("http://h:4318/v1/traces", "http://h:4318/v1/traces"),
        ("http://h:4318/v1/metrics", "http://h:4318/v1/traces"),
        ("https://h/otlp?key=1", "https://h/otlp/v1/traces?key=1"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_signals_path_is_added_where_it_belongs(endpoint: str, expected: str) -> None:
    """A base URL gets the signal's path before its query, and in place of another signal's path."""
    assert traces(resolve({"endpoint": endpoint}, {})).url == expected


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"endpoint": "http://h:4317"}, "4317 is the port of OTLP over gRPC"),
        ({"endpoint": "http://h:4318", "protocol": "grpc"}, "4318 is the port of OTLP over HTTP"),
    ],
)
def test_a_port_of_the_other_protocol_is_pointed_out_once(arguments: dict[str, Any], word: str) -> None:
    """The commonest mix-up of ports is noted, once for all signals."""
    notes = resolve(arguments | {"logs": True}, {}).notes
    assert len([note for note in notes if word in note]) == 1


def test_disabled_follows_the_variable() -> None:
    """``OTEL_SDK_DISABLED=true``, in any case, and nothing else disables."""
    assert resolve({}, {"OTEL_SDK_DISABLED": "True"}).disabled
    assert not resolve({}, {"OTEL_SDK_DISABLED": "1"}).disabled


# -- wrong values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"endpoint": "localhost:4318"}, ["endpoint='localhost:4318'", "no scheme", "http://"]),
        ({"endpoint": "ftp://h"}, ["ftp://h", "scheme"]),
        ({"endpoint": "http://"}, ["names no host"]),
        ({"endpoint": "http://my host:4318"}, ["space"]),
        ({"endpoint": "http://[::1"}, ["no URL"]),
        ({"endpoint": 4318}, ["endpoint", "URL", "4318"]),
        ({"traces_endpoint": "http://h:http"}, ["traces_endpoint='http://h:***/v1/traces'", "port", "65535"]),
        ({"endpoint": "http://h:65536"}, ["port", "65535"]),
        ({"endpoint": "http://h:0"}, ["port"]),
        ({"backend": "jager"}, ["unknown backend 'jager'", "did you mean 'jaeger'?"]),
        ({"backend": "splunk"}, ["unknown backend 'splunk'", "known are", "'collector'"]),
        ({"backend": ["jaeger"]}, ["unknown backend"]),
        ({"backend": "file"}, ["path="]),
        ({"backend": "file", "path": "/nowhere/at/all.jsonl"}, ["no folder '/nowhere/at'"]),
        ({"backend": "file", "path": "/"}, ["is a folder"]),
        ({"protocol": "http/json"}, ["protocol='http/json'", "http/protobuf or grpc"]),
        ({"compression": "zip"}, ["compression='zip'", "gzip"]),
        ({"compression": "deflate", "protocol": "grpc"}, ["gRPC", "gzip"]),
        ({"timeout": 0}, ["timeout must be positive, got 0"]),
        ({"timeout": -1}, ["timeout", "-1"]),
        ({"timeout": float("nan")}, ["timeout", "nan"]),
        ({"timeout": float("inf")}, ["timeout", "inf"]),
        ({"timeout": "soon"}, ["timeout", "'soon'"]),
        ({"timeout": True}, ["timeout", "True"]),
        ({"metric_interval": 0}, ["metric_interval must be a number from 0.001 to 86400, got 0"]),
        ({"metric_interval": 1e-9}, ["metric_interval must be a number from 0.001 to 86400, got 1e-09"]),
        ({"metric_interval": 1e308}, ["metric_interval must be a number from 0.001 to 86400, got 1e+308"]),
        ({"timeout": 10**400}, ["timeout must be a number from 0", "got 1000"]),
        ({"timeout": 10**5000}, ["timeout must be a number from 0"]),
        ({"timeout": 1e308}, ["timeout must be a number from 0 to 86400"]),
        ({"certificate": "/tmp/\0"}, ["certificate=", "cannot be read"]),
        ({"backend": "file", "path": "/tmp/\0"}, ["path=", "no file's name"]),
        ({"backend": "file", "path": b"/tmp/x"}, ["path="]),
        ({"latency_objective": -0.1}, ["latency_objective"]),
        ({"feature_age_objective": "soon"}, ["feature_age_objective", '"7d"', "'soon'"]),
        ({"sampling": "tail"}, ['sampling="tail" needs sampling_ratio=', "0.05"]),
        ({"sampling": "head"}, ["sampling must be one of 'ratio', 'tail', got 'head'"]),
        ({"sampling_ratio": 1.5}, ["sampling_ratio", "from 0 to 1", "1.5"]),
        ({"logs": "yes"}, ["logs must be true or false, got 'yes'"]),
        ({"gpu": "yes"}, ["gpu must be true or false, got 'yes'"]),
        ({"gpu_names": "DCGM"}, ["gpu_names must be one of 'otel', 'dcgm', 'both', got 'DCGM'"]),
        ({"gpu_reporter": ["each"]}, ["gpu_reporter must be one of 'elected', 'each', got ['each']"]),
        ({"host": 1}, ["host must be true or false"]),
        ({"exception_messages": 1}, ["exception_messages must be true or false"]),
        ({"service_name": ""}, ["service_name", "not empty"]),
        ({"service_name": 7}, ["service_name", "7"]),
        ({"instance_id": ""}, ["instance_id", "not empty"]),
        ({"resource_attributes": "a=b"}, ["resource_attributes must be a mapping"]),
        ({"resource_attributes": {"a": object}}, ["resource_attributes", "'a'"]),
        ({"headers": {"a": 1}}, ["header 'a'", "string"]),
        ({"certificate": "/nowhere.pem"}, ["certificate='/nowhere.pem' cannot be read", "No such file"]),
        ({"certificate": os.devnull}, ["certificate", "PEM"]),
        ({"certificate": 7}, ["certificate=7"]),
        ({"client_key": os.devnull}, ["client_key", "client_certificate"]),
        ({"client_certificate": os.devnull}, ["client_certificate", "PEM"]),
        ({"endpont": "http://h"}, ["'endpont'", "did you mean 'endpoint'?"]),
    ],
)
def test_a_wrong_value_raises_with_the_value_and_the_fix(arguments: dict[str, Any], words: list[str]) -> None:
    """A wrong value raises ConfigurationError, whose message has the setting, the value and what was expected."""
    with pytest.raises(ConfigurationError) as raised:
        resolve(arguments, {})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "never"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
        ("OTEL_EXPORTER_OTLP_HEADERS", SECRET),
        ("OTEL_METRIC_EXPORT_INTERVAL", "fast"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("MLOBS_CONFIG", "/nowhere.toml"),
    ],
)
def test_a_wrong_variable_is_blamed_by_its_name(variable: str, value: str) -> None:
    """What is wrong in the environment is blamed on the variable, not on an argument that nobody gave."""
    with pytest.raises(ConfigurationError, match=variable) as raised:
        resolve({}, {variable: value})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[configure]\nendpont = "x"', ["'endpont'", "did you mean 'endpoint'?"]),
        ("[configure]\nzzz = 1", ["'zzz'", "known are", "backend"]),
        ("[configur]", ["table", "'configur'", "did you mean 'configure'?"]),
        ("configure = 1", ["configure must be a table"]),
        ("[configure", ["not valid TOML", "mlobs.toml"]),
        ("\xff\xfe", ["not valid TOML"]),
        ("[configure]\nsampling_ratio = 2", ["sampling_ratio", "2"]),
        ('[configure]\nlogs = "yes"', ["logs must be true or false"]),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, words: list[str]) -> None:
    """A file that cannot be used raises with its name, or the setting's, and what was expected."""
    path = tmp_path / "mlobs.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as raised:
        resolve({}, {"MLOBS_CONFIG": str(path)})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_file_that_may_not_be_written_raises(tmp_path: Path) -> None:
    """A telemetry file without the permission to write it is refused before anything is built."""
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="may not be written"):
        resolve({"backend": "file", "path": tmp_path / "t.jsonl"}, {})


def test_no_file_is_found_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``mlobs.toml`` in the working directory is not read unless it is named."""
    file_of(tmp_path, 'service_name = "chance"')
    monkeypatch.chdir(tmp_path)
    assert resolve({}, {}).service_name is None


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_repr() -> None:
    """Headers, user information and queries show in no repr and no string of the settings or their parts."""
    arguments = {"headers": {"authorization": SECRET}, "endpoint": f"https://me:{SECRET}@h/x?token={SECRET}"}
    settings = resolve(arguments, {"OTEL_EXPORTER_OTLP_HEADERS": f"k={SECRET}"})
    pipeline = traces(settings)
    assert pipeline.headers["authorization"] == SECRET
    assert SECRET in pipeline.url
    for thing in (settings, pipeline, pipeline.headers, pipeline.shown):
        assert SECRET not in f"{thing!r} {thing}"
    assert pipeline.shown == "https://h/x/v1/traces?***"


def test_settings_travel() -> None:
    """Settings pickle and compare, so that they can be handed to another process."""
    settings = resolve({"headers": {"a": "b"}}, {})
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert {field.name for field in fields(settings)} >= {"pipelines", "notes"}
    assert {pipeline.signal for pipeline in settings.pipelines} <= set(SIGNALS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"endpoint": f"me:{SECRET}@h:4318"},
        {"endpoint": f"h:4318?token={SECRET}"},
        {"endpoint": f"ftp://me:{SECRET}@h"},
        {"endpoint": f"http://me:{SECRET}@h:port"},
        {"endpoint": f"http://me:a/{SECRET}@h:4318"},
        {"endpoint": f"http://me:a#{SECRET}@h:port"},
        {"endpoint": f"http://me:a?{SECRET}@h"},
        {"endpoint": f"http://me:a://{SECRET}@h"},
        {"endpoint": f"http://me:{SECRET}@[::1"},
        {"endpoint": f"http://me:{SECRET}@h:4317", "protocol": "grpc"},
        {"endpoint": f"http://me:{SECRET}@h:4318".encode()},
        {"endpoint": f"http://h:{SECRET}"},
        {"endpoint": f"http://h:80:{SECRET}/x"},
        {"endpoint": f"http://[::1]:{SECRET}"},
        {"headers": {"authorization": f"Bearer {SECRET}\n"}},
        {"headers": {f"authorization: {SECRET}": 5}},
        {"headers": {f"authorization: Bearer {SECRET}": ""}},
        {"headers": {"authorization": f"{SECRET}é"}},
        {"headers": SECRET},
        {"headers": [SECRET]},
        {"headers": {"authorization": [SECRET]}},
    ],
)
def test_no_message_holds_a_secret(arguments: dict[str, Any]) -> None:
    """What is wrong with an endpoint or a header is said without its secret."""
    with pytest.raises(ConfigurationError) as raised:
        resolve(arguments, {})
    error: BaseException | None = raised.value
    assert SECRET not in str(error)
    if error is not None and not error.__suppress_context__:
        assert SECRET not in f"{error.__cause__} {error.__context__}"
