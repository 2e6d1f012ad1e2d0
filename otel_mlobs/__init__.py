"""OpenTelemetry for machine-learning serving.

Decorate feature lookups, candidate generation, ranking and prediction; call :func:`configure` once; see every request
in Jaeger or Tempo and its latency in Prometheus. Importing this package imports neither numpy nor the OpenTelemetry
SDK: names are loaded when first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from otel_mlobs._version import __version__

if TYPE_CHECKING:
    from otel_mlobs import testing as testing
    from otel_mlobs.core.contract import Violation as Violation
    from otel_mlobs.core.drift import DriftResult as DriftResult
    from otel_mlobs.core.estimates import Estimate as Estimate
    from otel_mlobs.core.profile import Profile as Profile
    from otel_mlobs.errors import ConfigurationError as ConfigurationError
    from otel_mlobs.errors import MissingExtraError as MissingExtraError
    from otel_mlobs.integrations.registry import instrument as instrument
    from otel_mlobs.integrations.registry import uninstrument as uninstrument
    from otel_mlobs.stores.outcome_store import OutcomeStore as OutcomeStore
    from otel_mlobs.telemetry.agreement import Agreement as Agreement
    from otel_mlobs.telemetry.config import configure as configure
    from otel_mlobs.telemetry.config import force_flush as force_flush
    from otel_mlobs.telemetry.config import shutdown as shutdown
    from otel_mlobs.telemetry.monitor import Monitor as Monitor
    from otel_mlobs.telemetry.operations import Operation as Operation
    from otel_mlobs.telemetry.operations import candidate_generation as candidate_generation
    from otel_mlobs.telemetry.operations import current_operation as current_operation
    from otel_mlobs.telemetry.operations import feature_lookup as feature_lookup
    from otel_mlobs.telemetry.operations import operation as operation
    from otel_mlobs.telemetry.operations import prediction as prediction
    from otel_mlobs.telemetry.operations import ranking as ranking
    from otel_mlobs.telemetry.slates import RankingMonitor as RankingMonitor
    from otel_mlobs.telemetry.slates import RankingStatus as RankingStatus
    from otel_mlobs.telemetry.status import MonitorStatus as MonitorStatus

_HOMES = {
    "Agreement": "otel_mlobs.telemetry.agreement",
    "ConfigurationError": "otel_mlobs.errors",
    "DriftResult": "otel_mlobs.core.drift",
    "Estimate": "otel_mlobs.core.estimates",
    "MissingExtraError": "otel_mlobs.errors",
    "Monitor": "otel_mlobs.telemetry.monitor",
    "MonitorStatus": "otel_mlobs.telemetry.status",
    "Operation": "otel_mlobs.telemetry.operations",
    "OutcomeStore": "otel_mlobs.stores.outcome_store",
    "Profile": "otel_mlobs.core.profile",
    "RankingMonitor": "otel_mlobs.telemetry.slates",
    "RankingStatus": "otel_mlobs.telemetry.slates",
    "Violation": "otel_mlobs.core.contract",
    "candidate_generation": "otel_mlobs.telemetry.operations",
    "configure": "otel_mlobs.telemetry.config",
    "current_operation": "otel_mlobs.telemetry.operations",
    "feature_lookup": "otel_mlobs.telemetry.operations",
    "force_flush": "otel_mlobs.telemetry.config",
    "instrument": "otel_mlobs.integrations.registry",
    "operation": "otel_mlobs.telemetry.operations",
    "prediction": "otel_mlobs.telemetry.operations",
    "ranking": "otel_mlobs.telemetry.operations",
    "shutdown": "otel_mlobs.telemetry.config",
    "testing": "otel_mlobs",
    "uninstrument": "otel_mlobs.integrations.registry",
}

__all__ = [
    "Agreement",
    "ConfigurationError",
    "DriftResult",
    "Estimate",
    "MissingExtraError",
    "Monitor",
    "MonitorStatus",
    "Operation",
    "OutcomeStore",
    "Profile",
    "RankingMonitor",
    "RankingStatus",
    "Violation",
    "__version__",
    "candidate_generation",
    "configure",
    "current_operation",
    "feature_lookup",
    "force_flush",
    "instrument",
    "operation",
    "prediction",
    "ranking",
    "shutdown",
    "testing",
    "uninstrument",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'otel_mlobs' has no attribute {name!r}")
    value = import_module(f"otel_mlobs.{name}") if home == "otel_mlobs" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
