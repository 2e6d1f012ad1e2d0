"""What is good enough: the ``[objectives]`` of ``mlobs.toml``, for all, for a model, for a feature view.

The library reads them at its start, and so do rules, routes and dashboards: a histogram has the bound that the alert on
it needs, and the line on the dashboard is where the alert is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings.times import seconds
from otel_mlobs.settings.toml_file import EMPTY, TomlFile, read

if TYPE_CHECKING:
    from collections.abc import Mapping

HIGHER_IS_BETTER = ("roc_auc", "accuracy", "precision", "recall", "specificity", "f1")
LOWER_IS_BETTER = ("mae", "rmse")
"""What ``performance`` may name: of these the objective is the highest value, of the others the lowest."""

_EVERYWHERE = ("latency", "latency_quantile", "errors", "errors_for", "traffic_floor", "owner", "runbooks",
               "dashboards", "traces")  # fmt: skip
_OF_MODELS = ("drift_tolerance", "performance", "value_at_risk")
_OF_VIEWS = ("freshness", "stale_share")
_TABLES = ("models", "views")
AS_SETTINGS = {"latency_objective": "latency", "feature_age_objective": "freshness"}
"""Arguments of ``configure``, and keys of its table, that say an objective of all that have none of their own."""
_LONGEST = 315_360_000.0
"""Ten years: Prometheus knows no durations above 292 years, and whoever writes one means something else."""


@dataclass(frozen=True)
class Objective:
    """What one model or feature view promises, or what all do for which nothing else is said.

    Attributes:
        latency: seconds; ``latency_quantile`` of the operations are faster.
        latency_quantile: 0.99 is the p99.
        errors: the share of operations that may fail.
        errors_for: seconds that they must have failed for before somebody is told.
        traffic_floor: operations in five minutes below which the share of slow ones says nothing.
        freshness: seconds; how old features may be. None: no view is ever stale.
        stale_share: the share of entities whose features may be older.
        drift_tolerance: the smallest PSI that is worth a verdict.
        performance: by the metric's name the lowest value that will do; of an error (``mae``, ``rmse``) the highest.
        value_at_risk: by currency what may be lost to wrong predictions in the rules' window for outcomes, a day.
        owner: who is told, a team's name.
        runbooks: URL of the runbooks, with ``{alert}`` where the alert's name goes, or to which it is added.
        dashboards: URL of the Grafana that has the dashboards; empty if there is none.
        traces: URL of Jaeger's pages; empty if there are none.
    """

    latency: float = 0.08
    latency_quantile: float = 0.99
    errors: float = 0.001
    errors_for: float = 120.0
    traffic_floor: float = 100.0
    freshness: float | None = None
    stale_share: float = 0.05
    drift_tolerance: float = 0.1
    performance: Mapping[str, float] = field(default_factory=dict)
    value_at_risk: Mapping[str, float] = field(default_factory=dict)
    owner: str = ""
    runbooks: str = ""
    dashboards: str = ""
    traces: str = ""


@dataclass(frozen=True)
class Objectives:
    """The objectives of a file: ``default``, and those of the models and views that it names, complete."""

    default: Objective = field(default_factory=Objective)
    models: Mapping[str, Objective] = field(default_factory=dict)
    views: Mapping[str, Objective] = field(default_factory=dict)

    def model(self, name: str | None) -> Objective:
        """What holds for a model."""
        return self.models.get(name or "", self.default)

    def view(self, name: str | None) -> Objective:
        """What holds for a feature view."""
        return self.views.get(name or "", self.default)

    @property
    def latencies(self) -> tuple[float, ...]:
        """Every latency that is an objective, in seconds, the smallest first: bounds of the histogram."""
        return tuple(sorted({one.latency for one in (self.default, *self.models.values(), *self.views.values())}))

    @property
    def ages(self) -> set[float]:
        """Every freshness that is an objective, in seconds: bounds of the histogram."""
        found = (one.freshness for one in (self.default, *self.views.values()))
        return {freshness for freshness in found if freshness is not None}


def load_objectives(path: str | None) -> Objectives:
    """The objectives in the file at ``path``; the defaults where it is None or has none.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong: with its line and key.
    """
    file = EMPTY if path is None else read(path, "the objectives' file")
    said_once(file)
    said: dict[str, float] = {}
    for setting, key in AS_SETTINGS.items():
        if setting in file.table("configure"):
            try:
                said[key] = _duration(file.table("configure")[setting])
            except ValueError as error:
                raise ConfigurationError(f"{file.where('configure', setting)} {error}") from None
    return objectives_of(file, **said)


def said_once(file: TomlFile) -> None:
    """Raise where the file says an objective as a setting of ``configure``, too."""
    for setting, key in AS_SETTINGS.items():
        if setting in file.table("configure") and key in file.table("objectives"):
            raise ConfigurationError(
                f"{file.where('objectives', key)} says what {setting} in [configure] says: one of them must go"
            )


def objectives_of(file: TomlFile, **said: float) -> Objectives:
    """The objectives in ``file``, checked; a model or view has what it does not say itself from the default.

    What was ``said`` elsewhere of the default goes before what the file says of it.
    """
    file.known(("objectives",), (*_EVERYWHERE, *_OF_MODELS, *_OF_VIEWS, *_TABLES))
    default = replace(_objective(file, ("objectives",), Objective()), **said)  # type: ignore[arg-type]
    named: dict[str, dict[str, Objective]] = {kind: {} for kind in _TABLES}
    for kind, keys in (("models", _OF_MODELS), ("views", _OF_VIEWS)):
        for name in file.table("objectives", kind):
            where = ("objectives", kind, name)
            if not name.strip():
                raise ConfigurationError(f"{file.where(*where)}: the name of a {kind[:-1]} must not be empty")
            if not name.isprintable():  # YAML has no such signs, and PromQL no line breaks
                raise ConfigurationError(f"{file.path}: the name of a {kind[:-1]} must be printable, got {name!r}")
            file.known(where, (*_EVERYWHERE, *keys))
            named[kind][name] = _objective(file, where, default)
    return Objectives(default, named["models"], named["views"])


def _objective(file: TomlFile, where: tuple[str, ...], base: Objective) -> Objective:
    table = file.table(*where)
    values: dict[str, Any] = {}
    for key, check in _CHECKS.items():
        if key in table:
            try:
                values[key] = check(table[key])
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"{file.where(*where, key)} {error}") from None
    for key, check in (("performance", _performance), ("value_at_risk", _amount)):
        given = file.table(*where, key)
        if given:
            found = {name: _one_of(file, (*where, key, name), check, value) for name, value in given.items()}
            values[key] = {**getattr(base, key), **found}
    return replace(base, **values)


def _one_of(file: TomlFile, where: tuple[str, ...], check: Any, value: Any) -> float:
    try:
        return float(check(where[-1], value))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{file.where(*where)} {error}") from None


def _duration(value: Any) -> float:
    try:
        found = seconds("", value)
    except ValueError:
        raise ValueError(f'must be a duration as "80ms", "15m" or a number of seconds, got {value!r}') from None
    if found > _LONGEST:
        raise ValueError(f"must be a duration of 10 years at most, got {value!r}")
    return found


def _whole_seconds(value: Any) -> float:
    found = _duration(value)
    if found != int(found):
        raise ValueError(f"must be whole seconds, got {value!r}")
    return found


def _number(value: Any, what: str, fits: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        found = float(value) if is_number else math.nan
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or not fits(found):
        raise ValueError(f"must be {what}, got {value!r}")
    return found


def _share(value: Any) -> float:
    return _number(value, "a share above 0 and below 1", lambda number: 0 < number < 1)


def _not_negative(value: Any) -> float:
    return _number(value, "a number from 0", lambda number: number >= 0)


def _positive(value: Any) -> float:
    return _number(value, "a number above 0", lambda number: number > 0)


def _performance(metric: str, value: Any) -> float:
    if metric in HIGHER_IS_BETTER:
        return _number(value, "a share from 0 to 1", lambda number: 0 <= number <= 1)
    if metric in LOWER_IS_BETTER:
        return _positive(value)
    raise ValueError(f"is no figure that is watched: {', '.join((*HIGHER_IS_BETTER, *LOWER_IS_BETTER))} are")


def _amount(currency: str, value: Any) -> float:
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        raise ValueError("is no currency: three capital letters were expected, as EUR (ISO 4217)")
    return _positive(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"must be a line of text, got {value!r}")
    return value


def _url(value: Any) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) and value.isprintable() and " " not in value else None
    except ValueError:  # [ without ]
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"must be a URL as https://grafana.example, got {value!r}")
    if parts.username or parts.password:
        raise ValueError("must not have a user or password in it: it is in every alert (the value is not shown)")
    return str(value).rstrip("/")


def _base_url(value: Any) -> str:
    found = _url(value)
    if "?" in found or "#" in found:
        raise ValueError(f"must be a URL that a path can be added to, without ? and #, got {value!r}")
    return found


_CHECKS: dict[str, Any] = {
    "latency": _duration,
    "latency_quantile": _share,
    "errors": _share,
    "errors_for": _whole_seconds,
    "traffic_floor": _not_negative,
    "freshness": _duration,
    "stale_share": _share,
    "drift_tolerance": _positive,
    "owner": _text,
    "runbooks": _url,
    "dashboards": _base_url,
    "traces": _url,
}
