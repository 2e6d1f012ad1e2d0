"""Providers that somebody else has set: which there are, and what cannot be had of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from otel_mlobs import settings as settings_room
    from otel_mlobs.settings import Settings

_logger = logging.getLogger("otel_mlobs")

_PROVIDERS: dict[settings_room.Signal, str] = {"traces": "tracer", "metrics": "meter", "logs": "logger"}
_OURS_ANYWAY = (
    "exception_messages", "feature_age_objective", "latency_objective", "logs", "gpu", "gpu_names", "gpu_reporter",
    "host",
)  # fmt: skip
_OF_ONE_SIGNAL: dict[settings_room.Signal, tuple[str, ...]] = {
    "traces": ("traces_endpoint", "sampling", "sampling_ratio"),
    "metrics": ("metrics_endpoint", "metric_interval"),
    "logs": ("logs_endpoint",),
}


def name_ignored(there: Collection[settings_room.Signal], arguments: Mapping[str, Any], resolved: Settings) -> None:
    """Name once what could not be used, because providers were there before."""
    concerned = [signal for signal in there if signal != "logs" or resolved.logs]
    untouched = {name for signal, names in _OF_ONE_SIGNAL.items() if signal not in there for name in names}
    untouched.update(_OURS_ANYWAY)
    ignored = [name for name, value in arguments.items() if value is not None and name not in untouched]
    if concerned and ignored:
        _logger.warning(
            "a %s provider is already set, by your code or by opentelemetry-instrument: it is used as it is, and for "
            "it this is ignored: %s",
            " and a ".join(_PROVIDERS[signal] for signal in concerned),
            ", ".join(ignored),
        )
    if "metrics" in there and resolved.gpu_names != "otel":
        _logger.warning("DCGM's names are sent in small letters: their capitals need this library's meter provider")


def signals() -> tuple[settings_room.Signal, ...]:
    """The signals for which somebody has set a provider."""
    from opentelemetry._logs import get_logger_provider

    # The API keeps two of its proxies' classes private; their names tell them apart from what somebody set.
    found: dict[settings_room.Signal, object] = {
        "traces": trace.get_tracer_provider(),
        "metrics": metrics.get_meter_provider(),
        "logs": get_logger_provider(),
    }
    proxies = ("ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider")
    return tuple(signal for signal, provider in found.items() if type(provider).__name__ not in proxies)
