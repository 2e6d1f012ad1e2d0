"""Metrics of what tells whether a model is still right: outcomes, estimates, rankings, freshness."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.attributes import (
    BIN_LABEL,
    MODEL_LABEL,
    PROFILE_LABEL,
    SOURCE_LABEL,
    STORE_LABEL,
    VARIANT_LABEL,
    VERSION_LABEL,
    VIEW_LABEL,
)
from otel_mlobs.semconv.keys import (
    AGREEMENT_RESULT,
    CANDIDATE_COUNT,
    CURRENCY,
    FEATURE_VALUE,
    LOOKUP_RESULT,
    OUTCOME_CELL,
    OUTCOME_CLASS,
    OUTCOME_DIRECTION,
    OUTCOME_LABEL,
    OUTCOME_LABELLED,
    OUTCOME_RESULT,
    PERFORMANCE_BOUND,
    PERFORMANCE_METRIC,
    RANKING_EVENT,
    RANKING_POSITION,
    SHADOW_VERSION,
    STORE_KIND,
    STORE_REASON,
    VIOLATION,
)
from otel_mlobs.semconv.metrics import _OF_FEATURE
from otel_mlobs.semconv.records import Attribute, Metric

_OF_PROFILE = (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL)
_OF_MODEL = (MODEL_LABEL, VERSION_LABEL)
_CELL = Attribute(OUTCOME_CELL, "string", "`tp`, `fp`, `fn` or `tn`, at the profile's decision threshold.", "tp")
_CLASS = Attribute(OUTCOME_CLASS, "string", "Of several classes the one against the rest, as `c00`, `c01`, ….", "c00")
_LABEL = Attribute(
    OUTCOME_LABEL,
    "string",
    "`positive`, `negative`, or `negative_below`: negatives in all lower bins (what an area under the curve needs).",
    "positive",
)
_DIRECTION = Attribute(OUTCOME_DIRECTION, "string", "`over` where the prediction was too high, else `under`.", "over")
_CURRENCY = Attribute(CURRENCY, "string", "The currency of the value, as ISO 4217 names it.", "EUR")
_PERFORMANCE = Attribute(PERFORMANCE_METRIC, "string", "`roc_auc`, `precision`, `recall`, `f1`, ….", "roc_auc")
_BOUND = Attribute(PERFORMANCE_BOUND, "string", "`value`, or `lower` and `upper` of its 95% interval.", "value")
_RANKING_EVENT = Attribute(RANKING_EVENT, "string", "What was done with an item, as `click` or `purchase`.", "click")
_POSITION = Attribute(RANKING_POSITION, "string", "The place in the list, `01` first; beyond the first k `rest`.", "01")

OUTCOMES: Final = Metric(
    "mlobs.outcomes",
    "counter",
    "{outcome}",
    "Predictions whose label is known, by confusion cell; counted when the label came, or when they were mature.",
    (*_OF_PROFILE, _CELL, _CLASS, VARIANT_LABEL),
)
OUTCOME_SCORES: Final = Metric(
    "mlobs.outcome.scores",
    "counter",
    "{outcome}",
    "Predictions whose label is known, by score bin and label.",
    (*_OF_PROFILE, BIN_LABEL, _LABEL, _CLASS),
)
OUTCOME_VALUE: Final = Metric(
    "mlobs.outcome.value",
    "counter",
    "{amount}",
    "Value of what was predicted, by confusion cell: of transactions blocked rightly (tp), wrongly (fp), missed (fn).",
    (*_OF_PROFILE, _CELL, _CURRENCY),
)
OUTCOME_DELAY: Final = Metric(
    "mlobs.outcome.delay", "histogram", "s", "Time from a prediction to its label.", _OF_PROFILE
)
OUTCOME_LABELS: Final = Metric(
    "mlobs.outcome.labels",
    "counter",
    "{label}",
    "Labels that came, by what became of them.",
    (
        *_OF_PROFILE,
        Attribute(
            OUTCOME_RESULT,
            "string",
            "`joined`, `duplicate`, `conflict`, `late`, `unknown`, `other_profile`, `invalid` or `lost`.",
            "joined",
        ),
    ),
)
OUTCOME_PREDICTIONS: Final = Metric(
    "mlobs.outcome.predictions", "counter", "{prediction}", "Predictions registered for a later label.", _OF_PROFILE
)
OUTCOME_MATURE: Final = Metric(
    "mlobs.outcome.mature",
    "counter",
    "{prediction}",
    "Predictions that were counted, or left out for want of a label.",
    (*_OF_PROFILE, Attribute(OUTCOME_LABELLED, "string", "`true`, or `false` where no label had come.", "true")),
)
OUTCOME_COVERAGE: Final = Metric(
    "mlobs.outcome.coverage",
    "gauge",
    "1",
    "Share of this process's mature predictions whose label came.",
    _OF_PROFILE,
)
OUTCOME_ERROR: Final = Metric(
    "mlobs.outcome.error", "counter", "1", "Sum of absolute errors of a regression.", (*_OF_PROFILE, _DIRECTION)
)
OUTCOME_SQUARED_ERROR: Final = Metric(
    "mlobs.outcome.squared_error", "counter", "1", "Sum of squared errors of a regression.", (*_OF_PROFILE, _DIRECTION)
)
EXPECTED_OUTCOMES: Final = Metric(
    "mlobs.expected_outcomes",
    "counter",
    "{outcome}",
    "What the cells are expected to become, from calibrated probabilities: an estimate, no label has been seen.",
    (*_OF_PROFILE, _CELL, _CLASS),
)
EXPECTED_OUTCOME_SCORES: Final = Metric(
    "mlobs.expected_outcome.scores",
    "counter",
    "{outcome}",
    "The same by score bin and expected label.",
    (*_OF_PROFILE, BIN_LABEL, _LABEL, _CLASS),
)
EXPECTED_ERROR: Final = Metric(
    "mlobs.expected_outcome.error",
    "counter",
    "1",
    "Sum of the absolute errors that a regression is expected to make, by predicted value.",
    _OF_PROFILE,
)
EXPECTED_SQUARED_ERROR: Final = Metric(
    "mlobs.expected_outcome.squared_error", "counter", "1", "Sum of the squared errors, likewise.", _OF_PROFILE
)
PERFORMANCE_ESTIMATE: Final = Metric(
    "mlobs.performance.estimate",
    "gauge",
    "1",
    "Performance without labels, of this process's window; no point where the estimate is not to be relied on.",
    (*_OF_PROFILE, _PERFORMANCE, _BOUND),
)
PERFORMANCE_REALIZED: Final = Metric(
    "mlobs.performance.realized",
    "gauge",
    "1",
    "Performance by the labels that came in this process's window.",
    (*_OF_PROFILE, _PERFORMANCE, _BOUND),
)
PERFORMANCE_THRESHOLD: Final = Metric(
    "mlobs.performance.threshold",
    "gauge",
    "1",
    "What the figure must not leave: the reference's own, give or take three standard errors of the window.",
    (*_OF_PROFILE, _PERFORMANCE, _BOUND),
)
PERFORMANCE_RELIABLE: Final = Metric(
    "mlobs.performance.reliable",
    "gauge",
    "1",
    "1 where estimates may be relied on; 0 where inputs left the reference's support, or labels contradict them.",
    _OF_PROFILE,
)
_STORE_KIND = Attribute(STORE_KIND, "string", "`memory`, `redis` or `sql`.", "redis")
STORE_PENDING: Final = Metric(
    "mlobs.outcome.store.pending",
    "gauge",
    "{record}",
    "Predictions and labels that wait to be written to the store.",
    (_STORE_KIND,),
)
STORE_DROPPED: Final = Metric(
    "mlobs.outcome.store.dropped",
    "counter",
    "{record}",
    "Predictions and labels that no store will ever know.",
    (
        _STORE_KIND,
        Attribute(
            STORE_REASON,
            "string",
            "`evicted` (memory was full), `overflow` (too many waited), `refused`, `repeated`.",
            "overflow",
        ),
    ),
)
RANKING_SLATES: Final = Metric(
    "mlobs.ranking.slates", "counter", "{slate}", "Ranked lists that were shown and are mature.", _OF_MODEL
)
RANKING_HITS: Final = Metric(
    "mlobs.ranking.hits",
    "counter",
    "{slate}",
    "Ranked lists with an event in the first k places.",
    (*_OF_MODEL, _RANKING_EVENT),
)
RANKING_RECIPROCAL_RANK: Final = Metric(
    "mlobs.ranking.reciprocal_rank",
    "counter",
    "1",
    "Sum of 1 / place of the first item with an event.",
    (*_OF_MODEL, _RANKING_EVENT),
)
RANKING_NDCG: Final = Metric(
    "mlobs.ranking.ndcg",
    "counter",
    "1",
    "Sum of the normalised discounted cumulative gains of the first k places.",
    (*_OF_MODEL, _RANKING_EVENT),
)
RANKING_IMPRESSIONS: Final = Metric(
    "mlobs.ranking.impressions", "counter", "{item}", "Items shown, by place.", (*_OF_MODEL, _POSITION)
)
RANKING_EVENTS: Final = Metric(
    "mlobs.ranking.events", "counter", "{item}", "Events by place.", (*_OF_MODEL, _RANKING_EVENT, _POSITION)
)
RANKING_VALUE: Final = Metric(
    "mlobs.ranking.value", "counter", "{amount}", "Value of the events.", (*_OF_MODEL, _RANKING_EVENT, _CURRENCY)
)
RANKING_COVERAGE: Final = Metric(
    "mlobs.ranking.catalogue.coverage",
    "gauge",
    "1",
    "Share of the catalogue that this process has shown in its window.",
    _OF_MODEL,
)
RANKING_CONCENTRATION: Final = Metric(
    "mlobs.ranking.catalogue.share",
    "gauge",
    "1",
    "Share of this process's impressions that went to the most shown tenth of the shown items.",
    _OF_MODEL,
)
MODEL_AGREEMENT: Final = Metric(
    "mlobs.model.agreement",
    "counter",
    "{prediction}",
    "Predictions of two versions for the same input, by whether they agree.",
    (
        *_OF_MODEL,
        Attribute(SHADOW_VERSION, "string", "The version or variant that ran in the shadow.", "8"),
        Attribute(AGREEMENT_RESULT, "string", "`agree` or `disagree`.", "agree"),
    ),
)
FEATURE_VIOLATIONS: Final = Metric(
    "mlobs.feature.violations",
    "counter",
    "{value}",
    "Feature values that break the contract of the profile, by kind.",
    (
        *_OF_FEATURE,
        Attribute(VIOLATION, "string", "`type`, `range`, `category` or `missing`.", "range"),
    ),
)
_OF_VIEW = (STORE_LABEL, VIEW_LABEL)
FEATURE_LOOKUPS: Final = Metric(
    "mlobs.feature.lookups",
    "counter",
    "{entity}",
    "Entities that were looked up.",
    (
        *_OF_VIEW,
        Attribute(LOOKUP_RESULT, "string", "`hit`, `miss` (nothing was found) or `default` (a stand-in).", "hit"),
    ),
)
FEATURE_STALE_LOOKUPS: Final = Metric(
    "mlobs.feature.stale_lookups",
    "counter",
    "{entity}",
    "Entities whose features were older than the view's objective, of those whose age is known.",
    _OF_VIEW,
)
FEATURE_AGED_LOOKUPS: Final = Metric(
    "mlobs.feature.aged_lookups", "counter", "{entity}", "Entities whose features' age is known.", _OF_VIEW
)
FEATURE_VALUES: Final = Metric(
    "mlobs.feature.values",
    "counter",
    "{value}",
    "Feature values of the entities that were hit.",
    (*_OF_VIEW, Attribute(FEATURE_VALUE, "string", "`found` or `missing` (null, NaN, absent).", "found")),
)
FEATURE_AGE: Final = Metric(
    "mlobs.feature.age", "histogram", "s", "Age of the features that were read, per entity.", _OF_VIEW
)
FEATURE_VIEW_LAST_UPDATE: Final = Metric(
    "mlobs.feature_view.last_update",
    "gauge",
    "s",
    "When the newest features that were read were made, in seconds since 1970.",
    _OF_VIEW,
)
FEATURE_VIEW_OBJECTIVE: Final = Metric(
    "mlobs.feature_view.objective", "gauge", "s", "How old the view's features may be.", _OF_VIEW
)
CANDIDATES: Final = Metric(
    CANDIDATE_COUNT,
    "histogram",
    "{item}",
    "Candidates that came back.",
    (SOURCE_LABEL, MODEL_LABEL, VERSION_LABEL),
)
