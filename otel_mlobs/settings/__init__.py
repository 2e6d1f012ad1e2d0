"""What a process is told: arguments, then ``OTEL_*`` variables, then the file named by ``MLOBS_CONFIG``, then defaults.

Every value is resolved and checked here, before anything is built; a wrong one raises
:class:`~otel_mlobs.errors.ConfigurationError` with the fix. No file is ever found by chance in the working directory.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings import backends
from otel_mlobs.settings.checks import (
    check_certificates,
    check_url,
    checked_bool,
    checked_choice,
    complete,
    headers_of,
    number,
    positive,
)
from otel_mlobs.settings.checks import redacted as redacted
from otel_mlobs.settings.objectives import AS_SETTINGS, objectives_of, said_once
from otel_mlobs.settings.objectives import Objectives as Objectives
from otel_mlobs.settings.records import DEFAULT_TIMEOUT as DEFAULT_TIMEOUT
from otel_mlobs.settings.records import SIGNALS as SIGNALS
from otel_mlobs.settings.records import Headers as Headers
from otel_mlobs.settings.records import Pipeline as Pipeline
from otel_mlobs.settings.records import Settings as Settings
from otel_mlobs.settings.records import Signal as Signal
from otel_mlobs.settings.times import seconds
from otel_mlobs.settings.toml_file import EMPTY, TomlFile, instead, read

TAKES: dict[str, tuple[Signal, ...]] = {
    "collector": ("traces", "metrics", "logs"),
    "jaeger": ("traces",),
    "tempo": ("traces",),
    "prometheus": ("metrics",),
    "datadog": ("traces", "metrics", "logs"),
    "xray": ("traces",),
    "cloudwatch": ("traces", "metrics", "logs"),
    "console": ("traces",),
    "file": ("traces", "metrics", "logs"),
    "none": (),
}
"""The backends and the signals that each takes; Jaeger, Tempo and X-Ray refuse OTLP metrics and logs."""

PROTOCOLS = ("http/protobuf", "grpc")
COMPRESSIONS = ("none", "gzip", "deflate")

DEFAULT_METRIC_INTERVAL = 15.0
"""Seconds. OpenTelemetry's own 60 s leaves a two-minute rate window with a single step."""
_INTERVALS = (0.001, 86_400.0)
"""Seconds: from what one collection may take to a day."""
SAMPLINGS = ("ratio", "tail")
GPU_NAMES = ("otel", "dcgm", "both")
GPU_REPORTERS = ("elected", "each")


ARGUMENTS = (
    "service_name", "backend", "endpoint", "traces_endpoint", "metrics_endpoint", "logs_endpoint", "protocol",
    "headers", "compression", "timeout", "certificate", "client_certificate", "client_key", "path", "logs",
    "service_version", "service_namespace", "environment", "instance_id", "resource_attributes", "sampling",
    "sampling_ratio", "metric_interval", "latency_objective", "feature_age_objective",
    "exception_messages", "gpu", "gpu_names", "gpu_reporter", "host",
)  # fmt: skip
"""What may be said, as an argument of ``configure`` or as a key of the file's ``[configure]`` table."""


def resolve(
    arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, taken: Collection[Signal] = ()
) -> Settings:
    """Resolve ``arguments`` (None means not given) against the environment, the file and the defaults.

    ``taken`` are the signals whose providers somebody else has set: they get no pipeline, and what the environment
    says of their exporters was meant for that other.
    """
    return _Resolver(arguments, os.environ if environ is None else environ, taken).settings()


def duration_bounds(base: tuple[float, ...], objectives: Objectives) -> tuple[float, ...]:
    """The histogram's bounds in seconds, every latency objective among them: an alert on it is then exact."""
    return tuple(sorted({*base, *objectives.latencies}))


def load_file(path: str) -> TomlFile:
    """The file at ``path``; an unknown table or key in it raises and names the nearest one."""
    file = read(path)
    file.known(("configure",), ARGUMENTS)
    return file


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            raise ConfigurationError(f"{where} has no {key!r}; {instead(key, names)}")


class _Resolver:
    def __init__(self, arguments: Mapping[str, Any], environ: Mapping[str, str], taken: Collection[Signal]) -> None:
        _known(arguments, ARGUMENTS, "configure()")
        self._taken = taken
        self._arguments = {key: value for key, value in arguments.items() if value is not None}
        self._environ = environ
        named = environ.get("MLOBS_CONFIG", "").strip()
        file = load_file(named) if named else EMPTY
        self._file = file.table("configure")
        self._objectives = self._with_arguments(file)
        self._notes: list[str] = []

    def settings(self) -> Settings:
        backend = self._backend()
        named = "logs_endpoint" in self._arguments or "logs_endpoint" in self._file
        logs = checked_bool("logs", self._value("logs", default=named))
        pipelines = tuple(
            pipeline
            for signal in SIGNALS
            if signal not in self._taken and (pipeline := self._pipeline(signal, backend, logs=logs)) is not None
        )
        sampling, ratio = self._sampling()
        messages = checked_bool("exception_messages", self._value("exception_messages", default=False))
        return Settings(
            service_name=self._service_name(),
            resource=backends.with_older_names(backend, self._resource()),
            backend=backend,
            pipelines=pipelines,
            logs=logs,
            sampling=sampling,
            sampling_ratio=ratio,
            metric_interval=self._metric_interval(),
            objectives=self._objectives,
            exception_messages=messages,
            gpu=checked_bool("gpu", self._value("gpu", default=False)),
            gpu_names=self._one_of("gpu_names", GPU_NAMES),
            gpu_reporter=self._one_of("gpu_reporter", GPU_REPORTERS),
            host=checked_bool("host", self._value("host", default=False)),
            disabled=self._environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true",
            id_generator=backends.id_generator(backend, self._environ),
            propagator=backends.propagator(backend, self._environ),
            notes=tuple(self._notes),
        )

    def _sampling(self) -> tuple[Any, float | None]:
        """How traces are chosen and by which ratio, None where the SDK's sampler is left as it is."""
        sampler = self._environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        file = {} if sampler else self._file  # the SDK reads the variable itself
        sampling = checked_choice("sampling", self._arguments.get("sampling", file.get("sampling", "ratio")), SAMPLINGS)
        blame, ratio = "sampling_ratio", self._arguments.get("sampling_ratio")
        if ratio is None and sampling == "tail" and sampler in ("traceidratio", "parentbased_traceidratio"):
            blame, ratio = "OTEL_TRACES_SAMPLER_ARG", self._environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1.0
        if ratio is None:
            ratio = file.get("sampling_ratio")
        if ratio is None and sampling == "tail":
            raise ConfigurationError(
                'sampling="tail" needs sampling_ratio=, the share of ordinary traces to keep beside the others, as 0.05'
            )
        return sampling, None if ratio is None else number(blame, ratio, at_least=0.0, at_most=1.0)

    def _one_of(self, name: str, known: tuple[str, ...]) -> Any:
        return checked_choice(name, self._value(name, default=known[0]), known)

    # -- where a value comes from -------------------------------------------------------------------------------------

    def _value(self, name: str, *variables: str, default: Any = None) -> Any:
        """Argument, else the first variable that is set, else the file, else ``default``."""
        if name in self._arguments:
            return self._arguments[name]
        for variable in variables:
            found = self._environ.get(variable, "").strip()
            if found:
                return found
        return self._file.get(name, default)

    def _otlp(self, name: str, signal: Signal, default: Any = None) -> tuple[str, Any]:
        """A value of the OTLP exporter, the signal's own variable first; with the name to blame for it."""
        own, common = (f"OTEL_EXPORTER_OTLP_{part}{name.upper()}" for part in (f"{signal.upper()}_", ""))
        if name in self._arguments:
            return name, self._arguments[name]
        for variable in (own, common):
            if self._environ.get(variable, "").strip():
                return variable, self._environ[variable].strip()
        return name, self._file.get(name, default)

    # -- the service ---------------------------------------------------------------------------------------------------

    def _service_name(self) -> str | None:
        for source in (
            self._arguments.get("service_name"),
            _resource_of(self._arguments).get("service.name"),
            self._environ.get("OTEL_SERVICE_NAME", "").strip() or None,
            self._resource_variable().get("service.name"),
            self._file.get("service_name"),
            _resource_of(self._file).get("service.name"),
        ):
            if source is not None:
                if not isinstance(source, str) or not source.strip():
                    raise ConfigurationError(f"service_name must be a string that is not empty, got {source!r}")
                return source
        return None

    def _resource(self) -> dict[str, str]:
        """Resource attributes; the SDK adds those of its detectors beneath."""
        return {**_resource_of(self._file), **self._resource_variable(), **_resource_of(self._arguments)}

    def _resource_variable(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self._environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
        return {unquote(key.strip()): unquote(value.strip()) for key, sign, value in pairs if sign and key.strip()}

    # -- where the signals go ------------------------------------------------------------------------------------------

    def _backend(self) -> str | None:
        backend = self._value("backend")
        if backend is None:
            return None if self._names_signals_only() else "collector"
        if not isinstance(backend, str) or backend not in TAKES:
            near = difflib.get_close_matches(str(backend), TAKES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(f"unknown backend {backend!r}: {hint}known are {', '.join(map(repr, TAKES))}")
        return backend

    def _names_signals_only(self) -> bool:
        """Whether endpoints are given signal by signal, and none for all."""
        names = [f"{signal}_endpoint" for signal in SIGNALS]
        if "endpoint" in self._arguments:
            return False
        if any(name in self._arguments for name in names):
            return True
        base = self._set("OTEL_EXPORTER_OTLP_ENDPOINT") or "endpoint" in self._file
        return not base and any(name in self._file for name in names)

    def _set(self, variable: str) -> bool:
        return bool(self._environ.get(variable, "").strip())

    def _pipeline(self, signal: Signal, backend: str | None, *, logs: bool) -> Pipeline | None:
        own = f"{signal}_endpoint"
        variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        says_otlp = own in self._arguments or (own in self._file and backend is None)
        if signal == "logs" and not logs:
            return None
        exporter = "" if "backend" in self._arguments or says_otlp else self._exporter_variable(signal)
        if exporter == "none":
            return None
        if exporter == "otlp" and backend in ("console", "file", "none"):
            backend = "collector"  # the file's, and the variable goes before it
        given = says_otlp or self._set(variable) or own in self._file
        if backend == "none" and not says_otlp:
            return None
        if backend in ("console", "file") and not says_otlp and exporter in ("", backend):
            return self._local(signal, backend)
        if exporter == "console":
            return self._local(signal, "console")
        if backend is None and not given:
            return None
        if backend is not None and signal not in TAKES[backend] and not given:
            if signal == "metrics" or (signal == "logs" and logs):
                self._refused(signal, backend)
            return None
        return self._network(signal, backend)

    def _refused(self, signal: Signal, backend: str) -> None:
        if backend in backends.REFUSING:
            advice = backends.REFUSING[backend]
            self._notes.append(
                f"{backend} takes no {signal}: none are sent; give {signal}_endpoint= to send them elsewhere{advice}"
            )

    def _exporter_variable(self, signal: Signal) -> str:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        exporter = self._environ.get(variable, "").strip().lower()
        if exporter in ("otlp_proto_http", "otlp_proto_grpc"):
            return "otlp"
        if exporter in ("", "otlp", "none", "console"):
            return exporter
        raise ConfigurationError(f"{variable}={exporter!r} is not known here: use otlp, console or none")

    def _local(self, signal: Signal, backend: str | None) -> Pipeline | None:
        if backend == "console":
            return Pipeline(signal, "console") if signal == "traces" else None
        path = self._value("path")
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ConfigurationError('backend="file" needs path=, the file that gets the OTLP-JSON lines')
        path = os.fspath(path)
        if not isinstance(path, str) or "\0" in path:
            raise ConfigurationError(f"path={path!r} can be no file's name")
        folder = Path(path).parent
        if not folder.is_dir():
            raise ConfigurationError(f"path={path!r}: there is no folder {str(folder)!r}")
        if Path(path).is_dir():
            raise ConfigurationError(f"path={path!r} is a folder, a file's name was expected")
        if not os.access(path if Path(path).exists() else folder, os.W_OK):
            raise ConfigurationError(f"path={path!r} may not be written by this user")
        return Pipeline(signal, "file", path=path)

    def _network(self, signal: Signal, backend: str | None) -> Pipeline:
        blame, protocol = self._protocol(signal)
        if protocol not in PROTOCOLS:
            raise ConfigurationError(f"{blame}={protocol!r} is not supported: use {' or '.join(PROTOCOLS)}")
        where, url = self._url(signal, backend, protocol)
        if where in ("endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            url = backends.own_aws_host(url, signal)
        check_url(where, url, protocol)
        self._note_port(where, url, protocol)
        blame, compression = self._otlp("compression", signal, "none")
        compression = compression.lower() if isinstance(compression, str) else compression
        if compression not in COMPRESSIONS:
            raise ConfigurationError(f"{blame}={compression!r}: use {', '.join(COMPRESSIONS)}")
        if compression == "deflate" and protocol == "grpc":
            raise ConfigurationError(f"{blame}='deflate' is not supported over gRPC here: use gzip")
        blame, timeout = self._otlp("timeout", signal, DEFAULT_TIMEOUT)
        files = {name: self._readable(*self._otlp(name, signal)) for name in
                 ("certificate", "client_certificate", "client_key")}  # fmt: skip
        check_certificates(files)
        headers = self._headers(signal)
        signed = backends.is_signed(signal, url, protocol, self._environ)
        if signed:
            backends.check_aws(where, url, signal, protocol, compression, headers)
        return Pipeline(
            signal,
            "otlp",
            url=url,
            protocol=protocol,
            headers=headers,
            compression=compression,
            timeout=positive(blame, timeout, at_most=_INTERVALS[1]),
            delta=signal == "metrics" and backends.prefers_delta(backend, self._environ),
            signed=signed,
            **files,
        )

    def _protocol(self, signal: Signal) -> tuple[str, Any]:
        blame, protocol = self._otlp("protocol", signal)
        if protocol is not None:
            return blame, protocol.lower() if isinstance(protocol, str) else protocol
        # opentelemetry-instrument's names for the exporter say the protocol, too.
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        grpc = self._environ.get(variable, "").strip().lower() == "otlp_proto_grpc"
        return variable, PROTOCOLS[1] if grpc else PROTOCOLS[0]

    def _url(self, signal: Signal, backend: str | None, protocol: str) -> tuple[str, str]:
        own, variable = f"{signal}_endpoint", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
        if own in self._arguments:
            return own, complete(own, self._arguments[own], signal, protocol)
        if "endpoint" in self._arguments:
            return "endpoint", complete("endpoint", self._arguments["endpoint"], signal, protocol)
        if self._environ.get(variable, "").strip():
            return variable, self._environ[variable].strip()  # the specification: as it is
        if self._environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
            name = "OTEL_EXPORTER_OTLP_ENDPOINT"
            return name, complete(name, self._environ[name].strip(), signal, protocol)
        for name in (own, "endpoint"):
            if name in self._file:
                return name, complete(name, self._file[name], signal, protocol)
        if backend == "prometheus":
            return "endpoint", complete("endpoint", "http://localhost:9090/api/v1/otlp", signal, protocol)
        port = 4317 if protocol == "grpc" else 4318
        return "endpoint", complete("endpoint", f"http://localhost:{port}", signal, protocol)

    def _note_port(self, blame: str, url: str, protocol: str) -> None:
        port = urlsplit(url).port
        if port == 4317 and protocol != "grpc":
            note = f"{blame}: 4317 is the port of OTLP over gRPC, and {protocol} is usually on 4318"
        elif port == 4318 and protocol == "grpc":
            note = f"{blame}: 4318 is the port of OTLP over HTTP, and gRPC is usually on 4317"
        else:
            return
        if note not in self._notes:
            self._notes.append(note)

    def _headers(self, signal: Signal) -> Headers:
        """The headers of the file, the variable and the arguments together: the SDK's exporter adds the variable's."""
        own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"
        variable = own if self._set(own) else common
        merged = {
            **headers_of("headers", self._file.get("headers", {})),
            **headers_of(variable, self._environ.get(variable, "")),
            **headers_of("headers", self._arguments.get("headers", {})),
        }
        return Headers(merged)

    def _readable(self, blame: str, path: Any) -> str | None:
        if path is None:
            return None
        try:
            with Path(path).open("rb") as handle:
                handle.read(1)
        except (OSError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"{blame}={path!r} cannot be read: {reason}") from error
        return str(path)

    def _with_arguments(self, file: TomlFile) -> Objectives:
        """The objectives of the file, with those that are said as settings instead."""
        said: dict[str, float] = {}
        said_once(file)
        for setting, key in AS_SETTINGS.items():
            value = self._value(setting)
            if value is not None:
                try:
                    said[key] = seconds(setting, value)
                except ValueError as error:
                    raise ConfigurationError(str(error)) from None
        return objectives_of(file, **said)

    def _metric_interval(self) -> float:
        if "metric_interval" in self._arguments:
            return _interval("metric_interval", self._arguments["metric_interval"])
        variable = "OTEL_METRIC_EXPORT_INTERVAL"
        if self._environ.get(variable, "").strip():
            return _interval(variable, self._environ[variable], per_second=1000.0) / 1000.0
        return _interval("metric_interval", self._file.get("metric_interval", DEFAULT_METRIC_INTERVAL))


def _interval(blame: str, value: Any, per_second: float = 1.0) -> float:
    shortest, longest = _INTERVALS
    return number(blame, value, at_least=shortest * per_second, at_most=longest * per_second)


def _resource_of(source: Mapping[str, Any]) -> dict[str, str]:
    given = source.get("resource_attributes", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"resource_attributes must be a mapping, got {given!r}")
    attributes = dict(given)
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, (str, bool, int, float)):
            raise ConfigurationError(f"resource_attributes must map strings to plain values, got {key!r}: {value!r}")
    for name, key in (
        ("service_version", "service.version"),
        ("service_namespace", "service.namespace"),
        ("environment", "deployment.environment.name"),
        ("instance_id", "service.instance.id"),
    ):
        value = source.get(name)
        if value is not None:
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"{name} must be a string that is not empty, got {value!r}")
            attributes[key] = value
    return attributes
