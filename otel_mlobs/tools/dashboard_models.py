"""The dashboard of models: drift of their inputs, performance, and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Row, Variable, dashboard, label_of, to
from otel_mlobs.tools.dashboard_parts import (
    FEATURES,
    MODELS,
    OPERATIONS,
    of_models,
    red,
    sources,
    tolerance,
)
from otel_mlobs.tools.dashboard_queries import (
    FEATURE,
    INSTANCE,
    JOB,
    MODEL,
    OF_JOB,
    OF_MODEL,
    OPERATION,
    OUTPUT,
    VERSION,
    by,
    constants,
    rate,
    ratio,
    series,
    shown,
)
from otel_mlobs.tools.rules import label

if TYPE_CHECKING:
    from otel_mlobs.tools.dashboard_parts import Context

_VERSIONED = (JOB, MODEL, VERSION)
_NAME = shown(MODEL, VERSION)
_SELECTED = {"job": label_of(JOB), "model": label_of(MODEL)}
_TO_OPERATION = Link("The operation", to(OPERATIONS, job=label_of(JOB), operation=label_of(OPERATION)))
_TO_OPERATIONS = Link("The service's operations", to(OPERATIONS, job=label_of(JOB)))
_TO_FEATURE = Link("The feature", to(FEATURES, **_SELECTED, feature=label_of(FEATURE)))
_METRIC, _BOUND, _CELL = (
    label(key) for key in (semconv.PERFORMANCE_METRIC, semconv.PERFORMANCE_BOUND, semconv.OUTCOME_CELL)
)
_CURRENCY, _EVENT, _POSITION = (
    label(key) for key in (semconv.CURRENCY, semconv.RANKING_EVENT, semconv.RANKING_POSITION)
)  # fmt: skip
_OF_METRIC = f'{_METRIC}=~"$metric"'


def models(context: Context) -> dict[str, Any]:
    """One model: what it serves, whether its inputs moved, how right it is, what that is worth."""
    realized = context.recorded("model:mlobs_performance_realized:increase{outcomes}", OF_MODEL)
    return dashboard(
        MODELS,
        "ML serving: model",
        "Requests, drift, performance and value of a model. Made by `otel-mlobs dashboard`.",
        [
            *sources(context),
            *of_models(),
            Variable("metric", "Figure", f"label_values({realized}, {_METRIC})"),
        ],
        [
            Row(
                "Requests",
                red(context, (*_VERSIONED, OPERATION), shown(MODEL, VERSION, OPERATION), _TO_OPERATION, OF_MODEL),
            ),
            Row("Drift", _drift(context)),
            Row("The data contract", _contract()),
            Row("Labels", _labels(context)),
            Row("Performance: estimated, realised, and their limits", [_performance(context)]),
            Row("Calibration and classes", _calibration(context)),
            Row("Business", _business(context)),
            Row("Ranking", _ranking(context)),
        ],
    )


def _drift(context: Context) -> list[Panel]:
    recorded, bound = context.recorded, tolerance(context)
    adjusted = recorded("feature:mlobs_drift_psi_adjusted:increase{drift}", OF_MODEL)
    threshold = Query(
        by("max", _VERSIONED, recorded("model:mlobs_drift_threshold:log10", OF_MODEL)), f"threshold {_NAME}"
    )
    highest = context.objectives.default.drift_tolerance
    output = (*_VERSIONED, OUTPUT)
    return [
        Panel(
            "Drift by feature and time",
            f"PSI of the last {recorded.drift_window} against the reference, corrected for chance: red from the "
            "default tolerance on, orange from half of it.",
            "short",
            [Query(by("max", (*_VERSIONED, FEATURE), adjusted), shown(FEATURE))],
            kind="status-history",
            width=24,
            height=9,
            limit=highest,
            links=[_TO_FEATURE],
        ),
        Panel(
            "Evidence against threshold",
            "The alarm's evidence of each feature, as a decimal logarithm. From the threshold on a feature drifts: the "
            "rules promise how rarely that happens by chance.",
            "short",
            [
                Query(recorded("feature:mlobs_drift_evidence:log10", OF_MODEL), shown(FEATURE)),
                threshold,
            ],
            links=[_TO_FEATURE],
        ),
        Panel(
            "PSI",
            "Population stability index of each feature, corrected for chance. The line is the tolerance.",
            "short",
            [Query(adjusted, shown(FEATURE)), *bound.lines],
            limit=bound.limit,
            links=[_TO_FEATURE],
        ),
        Panel(
            "Jensen-Shannon distance",
            "From 0, alike, to 1, without a value in common.",
            "short",
            [Query(recorded("feature:mlobs_drift_jensen_shannon:increase{drift}", OF_MODEL), shown(FEATURE))],
            links=[_TO_FEATURE],
        ),
        Panel(
            "Outputs: evidence against threshold",
            "The same of the model's own answers.",
            "short",
            [
                Query(
                    by("max", output, recorded("prediction:mlobs_drift_evidence:log10", OF_MODEL)), shown(OUTPUT, MODEL)
                ),
                threshold,
            ],
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Outputs: PSI",
            "How far the model's answers are from those on the training data.",
            "short",
            [
                Query(
                    by("max", output, recorded("prediction:mlobs_drift_psi_adjusted:increase{drift}", OF_MODEL)),
                    shown(OUTPUT, MODEL),
                ),
                *bound.lines,
            ],
            limit=bound.limit,
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Verdicts of processes",
            "In how many processes a feature is drifting by their own verdict: material and certain.",
            "short",
            [
                Query(
                    by("sum", (*_VERSIONED, FEATURE, OUTPUT), series(semconv.DRIFT_STATUSES, OF_MODEL)),
                    shown(FEATURE, OUTPUT),
                )
            ],
            links=[_TO_FEATURE],
        ),
        Panel(
            "Missing values",
            f"Share of missing values in the last {recorded.drift_window}.",
            "percentunit",
            [Query(recorded("feature:mlobs_feature_missing:ratio_increase{drift}", OF_MODEL), shown(FEATURE))],
            links=[_TO_FEATURE],
        ),
        Panel(
            "Unseen values",
            "Share of values that are not finite, or in no category of the profile.",
            "percentunit",
            [Query(recorded("feature:mlobs_feature_unseen:ratio_increase{drift}", OF_MODEL), shown(FEATURE))],
            links=[_TO_FEATURE],
        ),
        Panel(
            "Rows",
            "Rows that these figures rest on.",
            "short",
            [Query(recorded("feature:mlobs_feature_observations:increase{drift}", OF_MODEL), shown(FEATURE))],
            links=[_TO_FEATURE],
        ),
    ]


def _contract() -> list[Panel]:
    kind = label(semconv.VIOLATION)
    broken = rate(semconv.FEATURE_VIOLATIONS, (*_VERSIONED, FEATURE), OF_MODEL)
    return [
        Panel(
            "Violations by kind",
            "Values a second of a wrong type, out of range, of an unknown category, or missing where none was.",
            "cps",
            [Query(rate(semconv.FEATURE_VIOLATIONS, (*_VERSIONED, kind), OF_MODEL), shown(MODEL, kind))],
            width=12,
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Violations by feature",
            "Share of a feature's values that break the contract.",
            "percentunit",
            [
                Query(
                    ratio(broken, rate(semconv.FEATURE_OBSERVATIONS, (*_VERSIONED, FEATURE), OF_MODEL)), shown(FEATURE)
                )
            ],
            width=12,
            links=[_TO_FEATURE],
        ),
    ]


def _labels(context: Context) -> list[Panel]:
    recorded, result = context.recorded, label(semconv.OUTCOME_RESULT)
    kind, reason = label(semconv.STORE_KIND), label(semconv.STORE_REASON)
    native = by("sum", _VERSIONED, f"increase({series(semconv.OUTCOME_DELAY, OF_MODEL)}[{recorded.outcome_window}])")
    delays = []
    for name, level in (("p50", 0.5), ("p95", 0.95)):
        known = recorded(f"model:mlobs_outcome_delay_seconds:{name}_increase{{outcomes}}", OF_MODEL)
        delay = f"{by('max', _VERSIONED, known)}\nor\nhistogram_quantile({level:g}, {native})"
        delays.append(Query(delay, f"{name} {_NAME}"))
    return [
        Panel(
            "Coverage",
            "Share of mature predictions whose label came; and labels that found their prediction over predictions "
            "made. All below rests on it.",
            "percentunit",
            [
                Query(recorded("model:mlobs_outcome_coverage:ratio_increase{outcomes}", OF_MODEL), f"coverage {_NAME}"),
                Query(recorded("model:mlobs_outcome_labelled:ratio_increase{outcomes}", OF_MODEL), f"labelled {_NAME}"),
            ],
        ),
        Panel("Delay of labels", "Time from a prediction to its label.", "s", delays),
        Panel(
            "Labels by what became of them",
            f"Labels of the last {recorded.outcome_window}: joined, late, unknown, twice, in conflict.",
            "short",
            [
                Query(
                    by(
                        "sum",
                        (*_VERSIONED, result),
                        recorded("model_result:mlobs_outcome_labels:increase{outcomes}", OF_MODEL),
                    ),
                    shown(MODEL, result),
                )
            ],
        ),
        Panel(
            "Waiting to be written",
            "Predictions and labels that each process has yet to write to the store; more while the store is slow.",
            "short",
            [Query(by("max", (JOB, INSTANCE, kind), series(semconv.STORE_PENDING, OF_JOB)), shown(INSTANCE, kind))],
            width=12,
        ),
        Panel(
            "Lost for ever",
            "Predictions and labels a second that no store will know, by reason: their outcomes will not be counted.",
            "cps",
            [Query(rate(semconv.STORE_DROPPED, (JOB, kind, reason), OF_JOB), shown(kind, reason))],
            width=12,
        ),
    ]


def _performance(context: Context) -> Panel:
    recorded = context.recorded
    figure = (*_VERSIONED, _METRIC)
    realized = recorded("model:mlobs_performance_realized:increase{outcomes}", OF_MODEL, _OF_METRIC)
    estimate = recorded("model:mlobs_performance_estimate:increase{outcomes}", OF_MODEL, _OF_METRIC)
    in_processes = [
        (semconv.PERFORMANCE_ESTIMATE, "estimated,", ("lower", "min"), ("upper", "max")),
        (semconv.PERFORMANCE_THRESHOLD, "threshold", ("lower", "min"), ("upper", "max")),
    ]
    bands = [
        Query(
            by(function, figure, series(metric, OF_MODEL, _OF_METRIC, f'{_BOUND}="{side}"')), f"{name} {side} {_NAME}"
        )
        for metric, name, *sides in in_processes
        for side, function in sides
    ]
    return Panel(
        "$metric",
        "By the labels that came, with the 95% interval; as estimated without labels (by when predictions were made: "
        "it runs ahead by the labels' delay), with the widest band of any process; the reference's thresholds; and the "
        "objective.",
        "short",
        [
            Query(realized, f"realised, {shown(_BOUND)} {_NAME}"),
            Query(estimate, f"estimated, {shown(_BOUND)} {_NAME}"),
            *bands,
            *_floors(context),
        ],
        links=[_TO_OPERATIONS],
        repeat="metric",
    )


def _floors(context: Context) -> list[Query]:
    """The objectives of the figures, for every model that has them."""
    objectives, realized = context.objectives, context.recorded("model:mlobs_performance_realized:increase{outcomes}")
    found = []
    for metric in sorted(
        {name for one in (objectives.default, *objectives.models.values()) for name in one.performance}
    ):
        default = objectives.default.performance.get(metric)
        own = {name: one.performance[metric] for name, one in objectives.models.items() if metric in one.performance}
        own = {name: value for name, value in own.items() if value != default}
        chosen = (OF_MODEL, _OF_METRIC, f'{_METRIC}="{metric}"')
        found.append(Query(constants(realized, MODEL, own, default, *chosen), f"objective {shown(MODEL)}"))
    return found


def _calibration(context: Context) -> list[Panel]:
    recorded = context.recorded
    kinds = (("calibrated_brier", "Brier score"), ("calibrated_log_loss", "log loss"), ("calibration_error", "error"))
    cells = recorded("class_cell:mlobs_outcomes:increase{outcomes}", OF_MODEL)
    return [
        Panel(
            "Calibration",
            "Brier score, log loss and expected calibration error of the calibrated probabilities.",
            "short",
            [
                Query(recorded(f"model:mlobs_{name}:increase{{outcomes}}", OF_MODEL), f"{title} {_NAME}")
                for name, title in kinds
            ],
        ),
        Panel(
            "Confusion cells",
            f"Predictions whose label came in {recorded.outcome_window}: true and false, positive and negative.",
            "short",
            [Query(by("sum", (*_VERSIONED, _CELL), cells), shown(MODEL, _CELL))],
            stacked=True,
        ),
        Panel(
            "Estimates may be relied on",
            "1 where all processes say so, 0 where one found inputs beyond the reference's or labels that contradict.",
            "short",
            [Query(recorded("model:mlobs_performance_reliable:min", OF_MODEL), _NAME)],
            kind="state-timeline",
            names={0: ("no", "red"), 1: ("yes", "green")},
        ),
    ]


def _business(context: Context) -> list[Panel]:
    recorded, objectives = context.recorded, context.objectives
    value = "model_cell:mlobs_outcome_value:increase{outcomes}"
    lost = (OF_MODEL, f'{_CELL}=~"fn|fp"')
    lines = []
    currencies = {name for one in (objectives.default, *objectives.models.values()) for name in one.value_at_risk}
    for currency in sorted(currencies):
        default = objectives.default.value_at_risk.get(currency)
        own = {
            name: one.value_at_risk[currency]
            for name, one in objectives.models.items()
            if currency in one.value_at_risk
        }
        own = {name: amount for name, amount in own.items() if amount != default}
        chosen = (*lost, f'{_CURRENCY}="{currency}"')
        lines.append(
            Query(constants(recorded(value), MODEL, own, default, *chosen), f"objective {shown(MODEL)} {currency}")
        )
    shadow, agreed = label(semconv.SHADOW_VERSION), label(semconv.AGREEMENT_RESULT)
    versions = (*_VERSIONED, shadow)
    agreement = ratio(
        rate(semconv.MODEL_AGREEMENT, versions, OF_MODEL, f'{agreed}="agree"'),
        rate(semconv.MODEL_AGREEMENT, versions, OF_MODEL),
    )
    return [
        Panel(
            "Value by confusion cell",
            f"Value of predictions in {recorded.outcome_window}: flagged rightly (tp), wrongly (fp), missed (fn).",
            "short",
            [
                Query(
                    by("sum", (*_VERSIONED, _CELL, _CURRENCY), recorded(value, OF_MODEL)),
                    shown(MODEL, _CELL, _CURRENCY),
                )
            ],
        ),
        Panel(
            "Lost to wrong predictions",
            f"Value of what was missed or wrongly flagged in {recorded.outcome_window}. The line is the objective, "
            "which is of a day.",
            "short",
            [Query(by("sum", (*_VERSIONED, _CURRENCY), recorded(value, *lost)), shown(MODEL, _CURRENCY)), *lines],
        ),
        Panel(
            "Agreement with the shadow",
            "Share of inputs to which the version in the shadow gave the same answer.",
            "percentunit",
            [Query(agreement, shown(MODEL, VERSION, shadow))],
            most=1,
        ),
    ]


def _ranking(context: Context) -> list[Panel]:
    recorded = context.recorded
    events = (*_VERSIONED, _EVENT)

    def figure(name: str) -> str:
        return by("max", events, recorded(f"model_event:mlobs_ranking_{name}:increase{{outcomes}}", OF_MODEL))

    by_place = recorded("model_position:mlobs_ranking_event_rate:increase{outcomes}", OF_MODEL)
    return [
        Panel(
            "Events by place",
            f"Events per item shown, by place in the list, of {recorded.outcome_window}: of clicks the click-through "
            "rate. Compare a place with itself.",
            "percentunit",
            [Query(by("max", (_POSITION, _EVENT), by_place), kind="table")],
            kind="barchart",
            matrix=(_POSITION, _EVENT),
        ),
        Panel(
            "Value of events",
            f"What the events of {recorded.outcome_window} were worth, by currency.",
            "short",
            [
                Query(
                    by(
                        "sum",
                        (*events, _CURRENCY),
                        recorded("model_event:mlobs_ranking_value:increase{outcomes}", OF_MODEL),
                    ),
                    shown(MODEL, _EVENT, _CURRENCY),
                )
            ],
        ),
        Panel(
            "Hit rate, MRR, NDCG",
            "Means over ranked lists: with an event in the first k places; 1 / place of the first; discounted gain.",
            "short",
            [
                Query(figure(name), f"{title} {shown(MODEL, _EVENT)}")
                for name, title in (("hit_rate", "hit rate"), ("mrr", "MRR"), ("ndcg", "NDCG"))
            ],
        ),
        Panel(
            "Events per item shown",
            "Over all places.",
            "percentunit",
            [Query(figure("event_rate"), shown(MODEL, _EVENT))],
        ),
        Panel(
            "The catalogue",
            "Of each process: share of the catalogue that was shown, and of places that went to the most shown tenth.",
            "percentunit",
            [
                Query(series(semconv.RANKING_COVERAGE, OF_MODEL), f"shown {shown(MODEL, INSTANCE)}"),
                Query(series(semconv.RANKING_CONCENTRATION, OF_MODEL), f"to the top tenth {shown(MODEL, INSTANCE)}"),
            ],
            most=1,
        ),
    ]
