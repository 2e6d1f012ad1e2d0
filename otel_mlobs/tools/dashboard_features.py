"""The dashboard of features: how far one has moved, where to, what speaks for it; and the views they are read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.core.binning import MISSING, NONFINITE, OTHER
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Row, dashboard, label_of, to
from otel_mlobs.tools.dashboard_parts import (
    FEATURES,
    GPUS,
    OPERATIONS,
    of_models,
    results,
    sources,
    stale,
    tolerance,
    values,
)
from otel_mlobs.tools.dashboard_queries import (
    ALTERNATIVE,
    BIN,
    FEATURE,
    INSTANCE,
    JOB,
    MODEL,
    OF_FEATURE,
    OF_JOB,
    OF_MODEL,
    OF_VIEW,
    VERSION,
    VIEW,
    by,
    quantiles,
    rate,
    ratio,
    series,
    shown,
)
from otel_mlobs.tools.rules import label

if TYPE_CHECKING:
    from otel_mlobs.tools.dashboard_parts import Context

_TO_OPERATIONS = Link("The lookups", to(OPERATIONS, job=label_of(JOB), view=label_of(VIEW)))
_TO_GPUS = Link("The GPUs beneath", to(GPUS, job=label_of(JOB)))


def features(context: Context) -> dict[str, Any]:
    """One feature: how far it has moved, where to, and what speaks for it."""
    return dashboard(
        FEATURES,
        "ML serving: feature",
        "A feature's live values against the reference; and the feature views: stale, missing, made up. Made by "
        "`otel-mlobs dashboard`.",
        [
            *sources(context),
            *of_models(),
            values("feature", "Feature", FEATURE, (semconv.FEATURE_REFERENCE,), OF_MODEL),
            values("view", "Feature view", VIEW, (semconv.FEATURE_LOOKUPS,), OF_JOB),
        ],
        [
            Row("Has it moved?", _moved(context)),
            Row("Where to?", _distribution(context)),
            Row("Missing and unseen", _special(context)),
            Row("In the processes", _processes()),
            Row("Feature views", _views(context)),
        ],
    )


def _moved(context: Context) -> list[Panel]:
    recorded, bound = context.recorded, tolerance(context)
    score = label(semconv.NORMAL_SCORE)
    return [
        Panel(
            "Evidence against threshold",
            "The alarm's evidence, as a decimal logarithm. From the threshold on the feature drifts.",
            "short",
            [
                Query(recorded("feature:mlobs_drift_evidence:log10", OF_FEATURE), shown(FEATURE, MODEL)),
                Query(recorded("model:mlobs_drift_threshold:log10", OF_MODEL), f"threshold {shown(MODEL, VERSION)}"),
            ],
            links=[_TO_GPUS],
        ),
        Panel(
            "PSI by window",
            "Against the reference, over the alarm's windows: a short one shows what is new, a long one what is small. "
            "Not corrected for chance, which lifts those of few rows. The line is the tolerance.",
            "short",
            [
                Query(
                    recorded("feature:mlobs_drift_psi:increase{drift}", OF_FEATURE, window=window),
                    f"{window} {shown(FEATURE)}",
                )
                for window in recorded.alarm_windows
            ]
            + [*bound.lines],
            limit=bound.limit,
        ),
        Panel(
            "What speaks for drift",
            "The alternatives of the alarm, as natural logarithms: values up or down (shift), spread (scale), another "
            "shape, more missing or unseen, more rare ones.",
            "short",
            [
                Query(
                    by(
                        "max",
                        (FEATURE, ALTERNATIVE, score, BIN),
                        recorded("feature_alternative:mlobs_drift_evidence:ln", OF_FEATURE),
                    ),
                    shown(FEATURE, ALTERNATIVE, score, BIN),
                )
            ],
        ),
    ]


def _shares(context: Context) -> tuple[str, str]:
    recorded, kept = context.recorded, (FEATURE, BIN)
    observed = "feature{}:mlobs_feature_observations:increase{{drift}}"
    reference = "feature{}:mlobs_feature_reference:rows"
    live, known = (
        f"{by('sum', kept, recorded(name.format('_bin'), OF_FEATURE))}\n/ ignoring ({BIN}) group_left ()\n"
        f"{by('sum', (FEATURE,), recorded(name.format(''), OF_FEATURE))}"
        for name in (observed, reference)
    )
    return live, known


def _distribution(context: Context) -> list[Panel]:
    live, known = _shares(context)
    window = context.recorded.drift_window
    return [
        Panel(
            "Reference against live",
            f"Share of rows in each cell of the profile: of the training data, and of the last {window}. Cells are the "
            "reference's deciles in their order, or categories; their bounds and names are in the profile. Choose one "
            "feature.",
            "percentunit",
            [Query(by("avg", (BIN,), known), kind="table"), Query(by("avg", (BIN,), live), kind="table")],
            kind="barchart",
            width=12,
            height=9,
            joined=BIN,
            names_of={BIN: "Cell", "Value #A": "reference", "Value #B": "live"},
            hides=["Time", "Time 1", "Time 2"],
        ),
        Panel(
            "Cells over time",
            f"Share of rows in each cell over {window}.",
            "percentunit",
            [Query(live, shown(FEATURE, BIN))],
            width=12,
            height=9,
            stacked=True,
        ),
    ]


def _special(context: Context) -> list[Panel]:
    recorded = context.recorded
    panels = []
    for what, title, cells in (("missing", "Missing", MISSING), ("unseen", "Unseen", f"{NONFINITE} and {OTHER}")):
        panels.append(
            Panel(
                f"{title} values",
                f"Share of values in the cells {cells}, of the last {recorded.drift_window} and of the training data.",
                "percentunit",
                [
                    Query(
                        recorded(f"feature:mlobs_feature_{what}:ratio_increase{{drift}}", OF_FEATURE), shown(FEATURE)
                    ),
                    Query(
                        recorded(f"feature:mlobs_feature_{what}_reference:ratio", OF_FEATURE),
                        f"reference {shown(FEATURE)}",
                    ),
                ],
            )
        )
    kind = label(semconv.VIOLATION)
    panels.append(
        Panel(
            "Broken contract",
            "Values a second that the reference never had the like of, by kind.",
            "cps",
            [Query(rate(semconv.FEATURE_VIOLATIONS, (FEATURE, kind), OF_FEATURE), shown(FEATURE, kind))],
        )
    )
    return panels


def _processes() -> list[Panel]:
    method = label(semconv.DRIFT_METHOD)
    return [
        Panel(
            "Distances by method",
            "The largest of any process, over its own window.",
            "short",
            [Query(by("max", (FEATURE, method), series(semconv.DRIFT_SCORES, OF_FEATURE)), shown(FEATURE, method))],
        ),
        Panel(
            "Verdict",
            "Of each process: whether the feature has moved, materially and certainly. None while rows are too few.",
            "short",
            [Query(series(semconv.DRIFT_STATUSES, OF_FEATURE), shown(FEATURE, INSTANCE))],
            kind="state-timeline",
            names={0: ("ok", "green"), 1: ("drift", "red")},
        ),
        Panel(
            "Rows",
            "Values counted a second.",
            "cps",
            [Query(rate(semconv.FEATURE_OBSERVATIONS, (JOB, FEATURE), OF_FEATURE), shown(JOB, FEATURE))],
            links=[_TO_GPUS],
        ),
    ]


def _views(context: Context) -> list[Panel]:
    objective = semconv.FEATURE_VIEW_OBJECTIVE
    age, lookups, value = semconv.FEATURE_AGE, semconv.FEATURE_LOOKUPS, label(semconv.FEATURE_VALUE)
    missing = ratio(
        rate(semconv.FEATURE_VALUES, (JOB, VIEW), OF_VIEW, f'{value}="missing"'),
        rate(semconv.FEATURE_VALUES, (JOB, VIEW), OF_VIEW),
    )
    hits = rate(lookups, (JOB, VIEW), OF_VIEW, f'{label(semconv.LOOKUP_RESULT)}="hit"')
    line = Query(by("max", (VIEW,), series(objective, OF_VIEW)), f"objective {shown(VIEW)}")
    newest = by("max", (JOB, VIEW), f"last_over_time({series(semconv.FEATURE_VIEW_LAST_UPDATE, OF_VIEW)}[1d])")
    return [
        stale(context, _TO_OPERATIONS, OF_VIEW, width=8),
        results(_TO_OPERATIONS, OF_VIEW, width=8),
        Panel(
            "Age of features",
            "How old the features were that were read, per entity, and the objective that the lookups themselves have.",
            "s",
            [*quantiles(age, (JOB, VIEW), OF_VIEW, legend=shown(VIEW), levels=(0.5, 0.95, 0.99)), line],
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Since the last update",
            "How long ago the newest features were made that anybody has read. It grows when nothing is read, too.",
            "s",
            [Query(f"time() - {newest}", shown(VIEW)), line],
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Values missing",
            "Share of the values of found entities that were null, NaN or absent.",
            "percentunit",
            [Query(missing, shown(VIEW))],
            links=[_TO_OPERATIONS],
        ),
        Panel(
            "Ages known",
            "Share of the found entities whose features said how old they are. Without ages nothing is ever stale.",
            "percentunit",
            [Query(ratio(rate(semconv.FEATURE_AGED_LOOKUPS, (JOB, VIEW), OF_VIEW), hits), shown(VIEW))],
            most=1,
            links=[_TO_OPERATIONS],
        ),
    ]
