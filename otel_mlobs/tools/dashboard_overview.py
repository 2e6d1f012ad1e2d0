"""The dashboard that is looked at first: all models at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_gpus import at_a_glance
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Row, dashboard, label_of, to
from otel_mlobs.tools.dashboard_parts import (
    FEATURES,
    MODELS,
    OPERATIONS,
    OVERVIEW,
    drifting,
    error_ratio,
    of_models,
    pressure,
    red,
    results,
    slow_share,
    sources,
    stale,
    stale_share,
)
from otel_mlobs.tools.dashboard_queries import (
    FEATURE,
    JOB,
    MODEL,
    OF_JOB,
    OF_MODEL,
    VERSION,
    VIEW,
    by,
    like,
    observed,
    quantile,
    rate,
    series,
    shown,
)
from otel_mlobs.tools.rules import label

if TYPE_CHECKING:
    from otel_mlobs.tools.dashboard_parts import Context

_OF_MODEL = (JOB, MODEL, VERSION)
_NAMED = f'{MODEL}!=""'
_SELECTED = {"job": label_of(JOB), "model": label_of(MODEL)}
_TO_MODEL = Link(f"The model {label_of(MODEL)}", to(MODELS, **_SELECTED))
_TO_OPERATIONS = Link("The service's operations", to(OPERATIONS, job=label_of(JOB)))


def overview(context: Context) -> dict[str, Any]:
    """Is it the model, the data or the system?"""
    return dashboard(
        OVERVIEW,
        "ML serving: overview",
        "All models at a glance: is it the model, the data or the system? Made by `otel-mlobs dashboard`.",
        [*sources(context), *of_models()],
        [
            Row("Is it the model, the data or the system?", _verdicts(context)),
            Row("Alerts", [_alerts()]),
            Row("Models", [_models(context)]),
            Row("Requests", red(context, _OF_MODEL, shown(JOB, MODEL, VERSION), _TO_MODEL, OF_MODEL, _NAMED)),
            Row("The model", _model(context)),
            Row("The data", [stale(context, _TO_OPERATIONS, OF_JOB), results(_TO_OPERATIONS, OF_JOB)]),
            Row("The system", _system(context)),
        ],
    )


def _stat(title: str, description: str, unit: str, expr: str, limit: float, to_where: str) -> Panel:
    return Panel(
        title,
        description,
        unit,
        [Query(expr, title, "instant")],
        kind="stat",
        width=4,
        height=4,
        limit=limit,
        links=[Link("Look closer", to(to_where))],
    )


def _verdicts(context: Context) -> list[Panel]:
    objective = context.objectives.default
    slow = round(1 - objective.latency_quantile, 12)
    return [
        _stat(
            "Failing",
            "The worst model's share of failed operations. Red from the default objective on.",
            "percentunit",
            f"max({error_ratio(_OF_MODEL, OF_MODEL)})",
            objective.errors,
            OPERATIONS,
        ),
        _stat(
            "Slow",
            f"The worst model's share of operations slower than its latency objective; {slow:.4g} of them may be.",
            "percentunit",
            f"max({slow_share(context, _OF_MODEL, OF_MODEL)})",
            slow,
            OPERATIONS,
        ),
        _stat(
            "Drifting",
            "Features and outputs whose evidence has reached the alarm's threshold, of all models, over the fleet.",
            "short",
            f"sum({drifting(context)})",
            1,
            MODELS,
        ),
        _stat(
            "Performance in doubt",
            "Models whose estimated performance is outside its thresholds in some process, or whose estimates are not "
            "to be relied on.",
            "short",
            _doubtful(),
            1,
            MODELS,
        ),
        _stat(
            "Stale features",
            "The worst view's share of entities whose features were older than its objective.",
            "percentunit",
            f"max({stale_share(OF_JOB)})",
            objective.stale_share,
            OPERATIONS,
        ),
        _stat(
            "Starved",
            "The largest share of time in which tasks of a host or container waited for CPU or memory.",
            "percentunit",
            f"max({pressure([JOB], like(label(semconv.PRESSURE_RESOURCE), 'cpu|memory'))})",
            0.1,
            OPERATIONS,
        ),
    ]


def _doubtful() -> str:
    bound = label(semconv.PERFORMANCE_BOUND)
    estimate = series(semconv.PERFORMANCE_ESTIMATE, OF_MODEL, f'{bound}="value"')
    threshold = {
        side: series(semconv.PERFORMANCE_THRESHOLD, OF_MODEL, f'{bound}="{side}"') for side in ("lower", "upper")
    }
    outside = "\nor\n".join(
        (
            f"{estimate} < ignoring ({bound}) {threshold['lower']}",
            f"{estimate} > ignoring ({bound}) {threshold['upper']}",
            f"{series(semconv.PERFORMANCE_RELIABLE, OF_MODEL)} == 0",
        )
    )
    return f"count({by('group', _OF_MODEL, outside)}) or vector(0)"


def _alerts() -> Panel:
    columns = ("cause", "severity", "alertname", JOB, MODEL, VERSION, VIEW, FEATURE)
    titles = ("Cause", "Severity", "Alert", "Service", "Model", "Version", "Feature view", "Feature")
    firing = 'ALERTS{alertstate="firing", cause=~"model|data|system", ' + OF_JOB + "}"
    return Panel(
        "Firing",
        "What fires of the alerts that `otel-mlobs rules --alerts` writes: the cause they point to, and where.",
        "short",
        [Query(by("group", columns, firing), kind="table")],
        kind="table",
        width=24,
        height=6,
        names_of=dict(zip(columns, titles, strict=True)),
        hides=["Time", "Value"],
    )


def _models(context: Context) -> Panel:
    level = context.objectives.default.latency_quantile
    duration, slowest = semconv.OPERATION_DURATION, f"p{level * 100:g}"
    chosen = {name: f"${{__data.fields.{column}}}" for name, column in
              (("job", "Service"), ("model", "Model"), ("version", "Version"))}  # fmt: skip
    return Panel(
        "Models",
        "Every model and version that is served: how much, how well, how fast; how many of its features have moved. "
        "A click on the name opens it.",
        "short",
        [
            Query(observed(duration, _OF_MODEL, OF_MODEL, _NAMED), kind="table"),
            Query(error_ratio(_OF_MODEL, OF_MODEL, _NAMED), kind="table"),
            Query(quantile(level, duration, _OF_MODEL, OF_MODEL, _NAMED), kind="table"),
            Query(drifting(context, *_OF_MODEL), kind="table"),
        ],
        kind="table",
        width=24,
        height=6,
        names_of={
            JOB: "Service",
            MODEL: "Model",
            VERSION: "Version",
            "Value #A": "Rate",
            "Value #B": "Failed",
            "Value #C": slowest,
            "Value #D": "Drifting",
        },
        hides=["Time"],
        column_units={"Rate": "ops", "Failed": "percentunit", slowest: "s"},
        column_links={"Model": Link("Open the model", to(MODELS, **chosen))},
    )


def _model(context: Context) -> list[Panel]:
    recorded, currency = context.recorded, label(semconv.CURRENCY)
    wrong = f'{label(semconv.OUTCOME_CELL)}=~"fn|fp"'
    value = recorded("model_cell:mlobs_outcome_value:increase{outcomes}", OF_MODEL, wrong)
    furthest = recorded("feature:mlobs_drift_psi_adjusted:increase{drift}", OF_MODEL)
    return [
        Panel(
            "Evidence of drift",
            "The strongest evidence of any feature, as a decimal logarithm, and the threshold of the alarm.",
            "short",
            [
                Query(
                    by("max", _OF_MODEL, recorded("feature:mlobs_drift_evidence:log10", OF_MODEL)),
                    shown(JOB, MODEL, VERSION),
                ),
                Query(
                    by("max", _OF_MODEL, recorded("model:mlobs_drift_threshold:log10", OF_MODEL)),
                    f"threshold {shown(JOB, MODEL, VERSION)}",
                ),
            ],
            links=[_TO_MODEL],
        ),
        Panel(
            "Furthest features",
            "The ten features furthest from the reference by corrected PSI. The line is the tolerance.",
            "short",
            [Query(f"topk(10, {furthest})", shown(JOB, MODEL, FEATURE))],
            limit=context.objectives.default.drift_tolerance,
            links=[Link("The feature", to(FEATURES, **_SELECTED, feature=label_of(FEATURE)))],
        ),
        Panel(
            "Lost to wrong predictions",
            f"Value of what was missed or wrongly flagged in {recorded.outcome_window}, by currency.",
            "short",
            [Query(by("sum", (*_OF_MODEL, currency), value), shown(JOB, MODEL, VERSION, currency))],
            links=[_TO_MODEL],
        ),
    ]


def _system(context: Context) -> list[Panel]:
    resource, component = label(semconv.PRESSURE_RESOURCE), label(semconv.INTERNAL_COMPONENT)
    return [
        Panel(
            "Pressure",
            "Share of time in which some tasks of the host or container waited for a resource.",
            "percentunit",
            [Query(pressure([JOB, resource]), shown(JOB, resource))],
            links=[_TO_OPERATIONS],
        ),
        at_a_glance(context),
        Panel(
            "Errors of this library",
            "Errors of the instrumentation itself, caught before they reached the application.",
            "cps",
            [Query(rate(semconv.INTERNAL_ERRORS, [JOB, component], OF_JOB), shown(JOB, component))],
            links=[_TO_OPERATIONS],
        ),
    ]
