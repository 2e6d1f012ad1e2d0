"""What several of the dashboards have: their variables, rate, errors and duration, drift, staleness, pressure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Variable
from otel_mlobs.tools.dashboard_queries import (
    FEATURE,
    JOB,
    MODEL,
    OF_JOB,
    OF_MODEL,
    OUTPUT,
    VERSION,
    VIEW,
    Recorded,
    beyond,
    by,
    constants,
    equal,
    observed,
    quantiles,
    quoted,
    rate,
    ratio,
    select,
    shown,
)
from otel_mlobs.tools.rules import label, prometheus_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_mlobs.settings.objectives import Objective, Objectives

OVERVIEW, MODELS, OPERATIONS, FEATURES, GPUS = (
    "mlobs-overview", "mlobs-model", "mlobs-operation", "mlobs-feature", "mlobs-gpu"
)  # fmt: skip

TraceStore = Literal["jaeger", "tempo"]
GpuNames = Literal["hw", "dcgm"]

_SERVED = (semconv.OPERATION_ERRORS, semconv.PROFILE_ROWS)
"""Counted from zero on, whatever kind durations' histograms are of; and what a monitor alone has."""


@dataclass(frozen=True)
class Bound:
    """An objective in a panel: one line where it is the same for all, else a series for each model or view."""

    limit: float | None
    lines: tuple[Query, ...] = ()


@dataclass(frozen=True)
class Context:
    """What dashboards are made of: objectives, recorded series, the kind of trace store, the names that GPUs go by."""

    objectives: Objectives
    recorded: Recorded
    traces: TraceStore
    gpu_names: GpuNames

    def bound(self, kind: Literal["models", "views"], what: str, metric: semconv.Metric, *matchers: str) -> Bound:
        """The objective ``what`` of all models or views, or of each that has series of ``metric``."""
        default: float | None = getattr(self.objectives.default, what)
        named: Mapping[str, Objective] = getattr(self.objectives, kind)
        own = {name: getattr(one, what) for name, one in named.items()}
        own = {name: value for name, value in own.items() if value not in (None, default)}
        if not own:
            return Bound(default)
        name = label(semconv.MODEL_NAME if kind == "models" else semconv.FEATURE_VIEW_NAME)
        line = constants(prometheus_name(metric), name, own, default, *matchers)
        return Bound(None, (Query(line, f"objective {shown(name)}"),))


def tolerance(context: Context) -> Bound:
    """The smallest PSI that is worth a verdict."""
    return context.bound("models", "drift_tolerance", semconv.PROFILE_ROWS, OF_MODEL)


def sources(context: Context) -> list[Variable]:
    """The variables for the data sources, which every dashboard has."""
    return [
        Variable("prometheus", "Metrics", "prometheus", source=True),
        Variable("traces", "Traces", context.traces, source=True),
    ]


def values(name: str, title: str, what: str, metrics: Sequence[semconv.Metric], *matchers: str) -> Variable:
    """A variable with all values that a label has in the metrics' series."""
    names = [prometheus_name(metric) for metric in metrics]
    several = "|".join(names)
    chosen = select(names[0], *matchers) if len(names) == 1 else select("", f'__name__=~"{several}"', *matchers)
    return Variable(name, title, f"label_values({chosen}, {what})")


def of_models() -> list[Variable]:
    """Job, model and version, each of those that the ones before it leave."""
    return [
        values("job", "Service", JOB, _SERVED),
        values("model", "Model", MODEL, _SERVED, OF_JOB),
        values("version", "Version", VERSION, _SERVED, OF_JOB, f'{MODEL}=~"$model"'),
    ]


def drifting(context: Context, *labels: str) -> str:
    """How many features and outputs have reached the alarm's threshold."""
    threshold = context.recorded("model:mlobs_drift_threshold:log10", OF_MODEL)
    reached = "\nor\n".join(
        f"{context.recorded(f'{kind}:mlobs_drift_evidence:log10', OF_MODEL)}\n"
        f">= bool ignoring ({what}) group_left () {threshold}"
        for kind, what in (("feature", FEATURE), ("prediction", OUTPUT))
    )
    return by("sum", labels, f"\n{reached}\n")


def stale_share(*matchers: str) -> str:
    """The share of entities whose features were older than their view's objective."""
    stale, aged = semconv.FEATURE_STALE_LOOKUPS, semconv.FEATURE_AGED_LOOKUPS
    return ratio(rate(stale, (JOB, VIEW), *matchers), rate(aged, (JOB, VIEW), *matchers))


def stale(context: Context, link: Link, *matchers: str, width: int = 12) -> Panel:
    """The share of stale entities by view."""
    bound = context.bound("views", "stale_share", semconv.FEATURE_AGED_LOOKUPS, *matchers)
    return Panel(
        "Stale share",
        "Share of entities whose features were older than the view's objective, of those whose age is known. The line "
        "is the share that is allowed.",
        "percentunit",
        [Query(stale_share(*matchers), shown(JOB, VIEW)), *bound.lines],
        limit=bound.limit,
        width=width,
        links=[link],
    )


def results(link: Link, *matchers: str, width: int = 12) -> Panel:
    """Hits, misses and stand-ins by view."""
    result = label(semconv.LOOKUP_RESULT)
    lookups = semconv.FEATURE_LOOKUPS
    share = (
        f"{rate(lookups, (JOB, VIEW, result), *matchers)}\n/ ignoring ({result}) group_left ()\n"
        f"({rate(lookups, (JOB, VIEW), *matchers)} > 0)"
    )
    return Panel(
        "Hits, misses, defaults",
        "Share of entities that were found, that were not, and that were answered with a stand-in.",
        "percentunit",
        [Query(share, shown(JOB, VIEW, result))],
        width=width,
        most=1,
        links=[link],
    )


def error_ratio(labels: Sequence[str], *matchers: str) -> str:
    """The share of operations that failed."""
    everything = observed(semconv.OPERATION_DURATION, labels, *matchers)
    return ratio(rate(semconv.OPERATION_ERRORS, labels, *matchers), everything)


def slow_share(context: Context, labels: Sequence[str], *matchers: str) -> str:
    """The share of operations slower than the latency objective, each model's own where it has one."""
    default = context.objectives.default.latency
    own = {name: one.latency for name, one in context.objectives.models.items() if one.latency != default}
    others = [f"{MODEL}!~{quoted('|'.join(map(re.escape, own)))}"] if own else []
    duration = semconv.OPERATION_DURATION
    shares = [beyond(default, duration, labels, *matchers, *others)]
    shares += [beyond(latency, duration, labels, *matchers, equal(MODEL, name)) for name, latency in own.items()]
    return "\nor\n".join(shares)


def red(context: Context, labels: Sequence[str], legend: str, link: Link, *matchers: str) -> list[Panel]:
    """Rate, errors and duration."""
    errors = context.bound("models", "errors", semconv.OPERATION_ERRORS, *matchers)
    latency = context.bound("models", "latency", semconv.OPERATION_ERRORS, *matchers)
    level = context.objectives.default.latency_quantile
    return [
        Panel(
            "Rate",
            "Operations a second, failed ones included.",
            "ops",
            [Query(observed(semconv.OPERATION_DURATION, labels, *matchers), legend)],
            links=[link],
        ),
        Panel(
            "Error ratio",
            "Share of operations that failed; expected errors and cancellations are not among them. The line is the "
            "objective.",
            "percentunit",
            [Query(error_ratio(labels, *matchers), legend), *errors.lines],
            limit=errors.limit,
            links=[link],
        ),
        Panel(
            f"Duration, p{level * 100:g}",
            "How long all but the slowest took. The points are exemplars: each leads to the trace of one operation. "
            "The line is the objective.",
            "s",
            [*quantiles(semconv.OPERATION_DURATION, labels, *matchers, legend=legend, levels=[level]), *latency.lines],
            limit=latency.limit,
            links=[link],
        ),
    ]


def pressure(labels: Sequence[str], *matchers: str) -> str:
    """The share of time in which some tasks waited for a resource: every process of a host says the same."""
    extent = label(semconv.PRESSURE_EXTENT)
    return rate(semconv.PRESSURE, labels, OF_JOB, f'{extent}="some"', *matchers, function="max")
