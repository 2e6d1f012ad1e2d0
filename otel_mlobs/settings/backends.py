"""What single vendors want that OTLP leaves open: temporality, tags, trace ids and headers, hosts and signatures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings.checks import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_mlobs.settings.records import Headers, Signal

AWS = ("xray", "cloudwatch")
"""The backends whose traces X-Ray keeps: its ids begin with the time, its header is ``X-Amzn-Trace-Id``."""

SIGNED = "otel_mlobs_aws"
"""The name of our provider of signed sessions, in OpenTelemetry's group ``opentelemetry_otlp_credential_provider``."""

AWS_SERVICES: dict[Signal, str] = {"traces": "xray", "metrics": "monitoring", "logs": "logs"}
"""Whose host takes a signal, and for whom the request is signed."""

AWS_POINTS_PER_REQUEST = 1000
"""CloudWatch refuses requests with more data points."""

_AWS_HOST = re.compile(r"(?P<service>xray|monitoring|logs)\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_LOG_HEADERS = ("x-aws-log-group", "x-aws-log-stream")


REFUSING = {"jaeger": "", "tempo": "", "xray": ', or say backend="cloudwatch", whose traces go to X-Ray, too'}
"""The backends of which it is said what they do not take, and what else is advised then."""


def aws_region(host: str) -> str | None:
    """The region of one of AWS's three hosts that take OTLP, or None for any other host."""
    found = _AWS_HOST.fullmatch(host)
    return found["region"] if found else None


def own_aws_host(url: str, signal: Signal) -> str:
    """``url`` at the AWS host that takes ``signal``: one ``endpoint`` may stand for all three; any other as it is."""
    host = _host(url)
    found = _AWS_HOST.fullmatch(host)
    if found is None:
        return url
    at = url.lower().index(host)  # a host may be written in capitals
    return url[:at] + AWS_SERVICES[signal] + host[len(found["service"]) :] + url[at + len(host) :]


def is_signed(signal: Signal, url: str, protocol: str, environ: Mapping[str, str]) -> bool:
    """Whether our provider of sessions signs what goes to ``url``: AWS's own hosts, and where a variable names it.

    A variable that names another provider is obeyed. It is for HTTP alone.
    """
    variables = (
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
        f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal.upper()}_CREDENTIAL_PROVIDER",
    )
    named = "" if protocol == "grpc" else next(filter(None, (environ.get(each, "").strip() for each in variables)), "")
    return named == SIGNED if named else aws_region(_host(url)) is not None


def check_aws(blame: str, url: str, signal: Signal, protocol: str, compression: str, headers: Headers) -> None:
    """Raise where AWS's endpoints would refuse every request."""
    if url.startswith("http://") and aws_region(_host(url)):
        raise ConfigurationError(f"{blame}={redacted(url)!r}: AWS is reached by https:// alone")
    if protocol == "grpc":
        raise ConfigurationError(f"{blame}: AWS takes OTLP over HTTP alone: use protocol='http/protobuf'")
    if compression == "deflate":
        raise ConfigurationError(f"{blame}: AWS takes compression 'gzip' or 'none', got 'deflate'")
    missing = [name for name in _LOG_HEADERS if name not in headers]
    if signal == "logs" and missing:
        raise ConfigurationError(
            f"{blame}: CloudWatch wants to know where logs belong: give headers={{{_LOG_HEADERS[0]!r}: …, "
            f"{_LOG_HEADERS[1]!r}: …}}, or OTEL_EXPORTER_OTLP_LOGS_HEADERS; missing is {' and '.join(missing)}"
        )


def prefers_delta(backend: str | None, environ: Mapping[str, str]) -> bool:
    """Whether sums and histograms start again from zero at every export: Datadog adds up what it is sent.

    ``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE``, which the SDK's exporter reads, goes before that.
    """
    return backend == "datadog" and not environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip()


def id_generator(backend: str | None, environ: Mapping[str, str]) -> str | None:
    """The name of the trace ids' generator where the backend wants one of its own."""
    if backend not in AWS:
        return None
    return environ.get("OTEL_PYTHON_ID_GENERATOR", "").strip() or "xray"


def propagator(backend: str | None, environ: Mapping[str, str]) -> str | None:
    """The name of the propagator that is wanted beside those that are there; ``OTEL_PROPAGATORS`` is the last word."""
    return "xray" if backend in AWS and not environ.get("OTEL_PROPAGATORS", "").strip() else None


def with_older_names(backend: str | None, resource: Mapping[str, str]) -> dict[str, str]:
    """``resource`` with the environment also under its older name, where Datadog agents before 7.58 look for it."""
    named = resource.get("deployment.environment.name")
    if backend != "datadog" or named is None:
        return dict(resource)
    return {"deployment.environment": named, **resource}


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # what is wrong with it is said where it is checked
        return ""
