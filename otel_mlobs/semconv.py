"""Every span, attribute and metric of the library, written once.

Instruments, the allow-list of metric labels and the signals page of the documentation are derived from the tables
here. Names that OpenTelemetry's semantic conventions already have are used as they are; the rest live under
``mlobs.*``. The upstream proposal for machine-learning inference is semantic-conventions issue 3420.

This module imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# -- operations -------------------------------------------------------------------------------------------------------

FEATURE_LOOKUP: Final = "feature_lookup"
CANDIDATE_GENERATION: Final = "candidate_generation"
RANKING: Final = "ranking"
PREDICTION: Final = "prediction"

# -- attributes -------------------------------------------------------------------------------------------------------

OPERATION_NAME: Final = "mlobs.operation.name"
MODEL_NAME: Final = "mlobs.model.name"
MODEL_VERSION: Final = "mlobs.model.version"
ERROR_TYPE: Final = "error.type"

FEATURE_STORE_NAME: Final = "mlobs.feature_store.name"
FEATURE_VIEW_NAME: Final = "mlobs.feature_view.name"
FEATURE_REQUESTED: Final = "mlobs.feature.requested"
FEATURE_FOUND: Final = "mlobs.feature.found"
FEATURE_MISSING: Final = "mlobs.feature.missing"
FEATURE_DEFAULT: Final = "mlobs.feature.default"
FEATURE_AGE_MAX: Final = "mlobs.feature.age.max"
FEATURE_STALE: Final = "mlobs.feature.stale"
LOOKUP_RESULT: Final = "mlobs.feature.result"
FEATURE_VALUE: Final = "mlobs.feature.value"

CANDIDATE_SOURCE: Final = "mlobs.candidate.source"
CANDIDATE_REQUESTED: Final = "mlobs.candidate.requested"
CANDIDATE_COUNT: Final = "mlobs.candidate.count"
CANDIDATE_SCORE_MIN: Final = "mlobs.candidate.score.min"
CANDIDATE_SCORE_MEAN: Final = "mlobs.candidate.score.mean"
CANDIDATE_SCORE_MAX: Final = "mlobs.candidate.score.max"

RANKING_INPUT_COUNT: Final = "mlobs.ranking.input.count"
RANKING_OUTPUT_COUNT: Final = "mlobs.ranking.output.count"
RANKING_SCORE_MIN: Final = "mlobs.ranking.score.min"
RANKING_SCORE_MEAN: Final = "mlobs.ranking.score.mean"
RANKING_SCORE_MAX: Final = "mlobs.ranking.score.max"

BATCH_SIZE: Final = "mlobs.batch.size"
PREDICTION_MIN: Final = "mlobs.prediction.min"
PREDICTION_MEAN: Final = "mlobs.prediction.mean"
PREDICTION_MAX: Final = "mlobs.prediction.max"
PREDICTION_STD: Final = "mlobs.prediction.std"
PREDICTION_CLASS: Final = "mlobs.prediction.class"

PREDICTION_CLASSES: Final = "mlobs.prediction.classes"
PREDICTION_CLASS_COUNTS: Final = "mlobs.prediction.class_counts"
PREDICTION_CONFIDENCE: Final = "mlobs.prediction.confidence"
PREDICTION_ENTROPY: Final = "mlobs.prediction.entropy"
PREDICTION_OUTPUT: Final = "mlobs.prediction.output"
PREDICTION_ID: Final = "mlobs.prediction.id"
VARIANT: Final = "feature_flag.result.variant"

INPUT_MISSING: Final = "mlobs.input.missing"
INPUT_OUT_OF_RANGE: Final = "mlobs.input.out_of_range"
INPUT_UNSEEN: Final = "mlobs.input.unseen"
VIOLATION: Final = "mlobs.input.violation"

PROFILE_ID: Final = "mlobs.profile.id"
FEATURE_NAME: Final = "mlobs.feature.name"
BIN: Final = "mlobs.bin"
NORMAL_SCORE: Final = "mlobs.score"

DRIFT_STATUS: Final = "mlobs.drift.status"
DRIFT_PREVIOUS_STATUS: Final = "mlobs.drift.previous_status"
DRIFT_SCORE: Final = "mlobs.drift.score"
DRIFT_FEATURE: Final = "mlobs.drift.feature"
DRIFT_FEATURES: Final = "mlobs.drift.features"
DRIFT_SINCE: Final = "mlobs.drift.since"
DRIFT_METHOD: Final = "mlobs.drift.method"
DRIFT_EVENT: Final = "mlobs.drift.changed"
"""The event on the span that first carries a new drift status."""

OUTCOME_CELL: Final = "mlobs.outcome.cell"
OUTCOME_CLASS: Final = "mlobs.outcome.class"
OUTCOME_LABEL: Final = "mlobs.outcome.label"
OUTCOME_LABELLED: Final = "mlobs.outcome.labelled"
OUTCOME_RESULT: Final = "mlobs.outcome.result"
OUTCOME_DIRECTION: Final = "mlobs.outcome.direction"
CURRENCY: Final = "mlobs.currency"
PERFORMANCE_METRIC: Final = "mlobs.performance.metric"
PERFORMANCE_BOUND: Final = "mlobs.performance.bound"
STORE_KIND: Final = "mlobs.outcome.store.kind"
STORE_REASON: Final = "mlobs.outcome.store.reason"
RANKING_EVENT: Final = "mlobs.ranking.event"
RANKING_POSITION: Final = "mlobs.ranking.position"
AGREEMENT_RESULT: Final = "mlobs.agreement.result"
SHADOW_VERSION: Final = "mlobs.shadow.version"

INTERNAL_COMPONENT: Final = "mlobs.internal.component"

EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_MESSAGE: Final = "exception.message"

CANCELLED: Final = "cancelled"
"""The ``error.type`` of an operation that was cancelled: it is kept apart from failures and pages nobody."""

AttributeType = Literal["string", "int", "double", "boolean", "string[]", "int[]"]


@dataclass(frozen=True)
class Attribute:
    """A span or metric attribute: its key, the type of its values, and what they mean."""

    key: str
    type: AttributeType
    description: str
    example: str


@dataclass(frozen=True)
class EventType:
    """An event on a span: its name, when it is added, and its attributes."""

    name: str
    description: str
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class SpanType:
    """A span the library emits: its operation name, what its name's second word is, and its own attributes."""

    operation: str
    target: str
    description: str
    attributes: tuple[Attribute, ...]
    events: tuple[EventType, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric the library emits; ``attributes`` is the whole allow-list of its labels."""

    name: str
    instrument: Literal["counter", "histogram", "gauge"]
    unit: str
    description: str
    attributes: tuple[Attribute, ...]


COMMON_ATTRIBUTES: Final = (
    Attribute(OPERATION_NAME, "string", "The step of the request that the span covers.", "ranking"),
    Attribute(MODEL_NAME, "string", "The model that did the work.", "churn"),
    Attribute(MODEL_VERSION, "string", "The version of that model, as its registry names it.", "7"),
    Attribute(
        ERROR_TYPE,
        "string",
        "Set on failure: the exception's full class name, or `cancelled`.",
        "redis.exceptions.TimeoutError",
    ),
)
_OPERATION, _MODEL, _VERSION, _ERROR = COMMON_ATTRIBUTES
_VIEW = Attribute(FEATURE_VIEW_NAME, "string", "The feature view (table, group) that was read.", "user_features")
_STORE = Attribute(FEATURE_STORE_NAME, "string", "The feature store that was asked.", "redis")
_SOURCE = Attribute(CANDIDATE_SOURCE, "string", "What generated the candidates.", "two_tower")
_COMPONENT = Attribute(INTERNAL_COMPONENT, "string", "The part of the library that caught the error.", "outputs")
_PROFILE = Attribute(
    PROFILE_ID, "string", "The content id of the profile that the monitor compares with.", "3f9c2a71b04d"
)
_FEATURE = Attribute(FEATURE_NAME, "string", "The feature, as the profile names it.", "age")
_OUTPUT = Attribute(
    PREDICTION_OUTPUT, "string", "The output: `score`, `class`, `confidence`, `entropy` or `value`.", "score"
)
_BIN = Attribute(
    BIN, "string", "The cell: `b00` … (values), `c00` … (categories), `missing`, `nonfinite` or `other`.", "b03"
)
_METHOD = Attribute(DRIFT_METHOD, "string", "How the distance is computed.", "psi")
_VARIANT = Attribute(
    VARIANT, "string", "The variant of an A/B test or a shadow deployment, where one is given.", "treatment"
)
_STATUS = Attribute(DRIFT_STATUS, "string", "`ok`, `drift` or `insufficient_data`, as last computed.", "ok")

DRIFT_CHANGED: Final = EventType(
    DRIFT_EVENT,
    "On the first span with a new drift status, and where other features drift than before.",
    (
        _STATUS,
        Attribute(DRIFT_PREVIOUS_STATUS, "string", "The status before.", "ok"),
        Attribute(DRIFT_SINCE, "string[]", "When each of them began to, UTC.", "[2026-11-22 21:00:29Z]"),
        Attribute(DRIFT_FEATURES, "string[]", "The features that drift, at most 20.", "[age, income]"),
    ),
)

SPANS: Final = (
    SpanType(
        FEATURE_LOOKUP,
        "the feature view, else the store, else the function's name",
        "Features are fetched for one or more entities.",
        (
            _STORE,
            _VIEW,
            Attribute(FEATURE_REQUESTED, "int", "Feature values asked for (features times entities).", "10"),
            Attribute(FEATURE_FOUND, "int", "Values that came back and are not null.", "9"),
            Attribute(FEATURE_MISSING, "int", "Values that were null, NaN or absent.", "1"),
            Attribute(FEATURE_DEFAULT, "int", "Entities that were answered with a default, where there are any.", "1"),
            Attribute(FEATURE_AGE_MAX, "double", "Age of the oldest features that were read, in seconds.", "42.5"),
            Attribute(FEATURE_STALE, "int", "Entities whose features were older than the objective.", "0"),
        ),
    ),
    SpanType(
        CANDIDATE_GENERATION,
        "the source, else the model, else the function's name",
        "Items that might be shown are retrieved.",
        (
            _SOURCE,
            Attribute(CANDIDATE_REQUESTED, "int", "How many candidates were asked for (`k`).", "500"),
            Attribute(CANDIDATE_COUNT, "int", "How many came back.", "487"),
            Attribute(CANDIDATE_SCORE_MIN, "double", "The lowest retrieval score, where there are scores.", "0.02"),
            Attribute(CANDIDATE_SCORE_MEAN, "double", "Their mean.", "0.31"),
            Attribute(CANDIDATE_SCORE_MAX, "double", "The highest.", "0.97"),
        ),
    ),
    SpanType(
        RANKING,
        "the model, else the function's name",
        "Candidates are scored against each other and put in order.",
        (
            Attribute(RANKING_INPUT_COUNT, "int", "Items that went in.", "487"),
            Attribute(RANKING_OUTPUT_COUNT, "int", "Items that came out.", "20"),
            Attribute(RANKING_SCORE_MIN, "double", "The lowest score, where there are scores.", "0.11"),
            Attribute(RANKING_SCORE_MEAN, "double", "Their mean.", "0.52"),
            Attribute(RANKING_SCORE_MAX, "double", "The highest.", "0.98"),
        ),
    ),
    SpanType(
        PREDICTION,
        "the model, else the function's name",
        "A model turns inputs into scores, classes or values.",
        (
            Attribute(BATCH_SIZE, "int", "Rows in the call.", "1"),
            Attribute(PREDICTION_ID, "string", "By what a later label finds it; of a batch the first.", "9f3c-1a"),
            _VARIANT,
            Attribute(PREDICTION_MIN, "double", "The lowest score of the call.", "0.83"),
            Attribute(PREDICTION_MEAN, "double", "The mean score of the call.", "0.83"),
            Attribute(PREDICTION_MAX, "double", "The highest score of the call.", "0.83"),
            Attribute(PREDICTION_STD, "double", "Their population standard deviation.", "0.0"),
            Attribute(PREDICTION_CLASS, "string", "The class, where one row got one class.", "stays"),
            Attribute(
                PREDICTION_CLASSES,
                "string[]",
                "The classes of a batch, the most frequent first, at most 10.",
                "[stays, leaves]",
            ),
            Attribute(PREDICTION_CLASS_COUNTS, "int[]", "How many rows got each of them.", "[412, 88]"),
            Attribute(
                PREDICTION_CONFIDENCE,
                "double",
                "The mean of the highest probability, where outputs are probability vectors.",
                "0.74",
            ),
            Attribute(
                PREDICTION_ENTROPY,
                "double",
                "The mean entropy of probability vectors, 0 (certain) to 1 (uniform).",
                "0.41",
            ),
            Attribute(
                INPUT_MISSING, "int", "Feature values missing in the call; with a monitor, where there are any.", "1"
            ),
            Attribute(INPUT_OUT_OF_RANGE, "int", "Numbers outside the reference's range, likewise.", "2"),
            Attribute(
                INPUT_UNSEEN, "int", "Categories without a cell in the profile, and values of a wrong type.", "1"
            ),
            _PROFILE,
            _STATUS,
            Attribute(DRIFT_SCORE, "double", "The PSI of the feature that moved furthest.", "0.31"),
            Attribute(DRIFT_FEATURE, "string", "That feature.", "income"),
        ),
        (DRIFT_CHANGED,),
    ),
)

OPERATION_DURATION: Final = Metric(
    "mlobs.operation.duration",
    "histogram",
    "s",
    "How long an operation took, failed ones included.",
    (_OPERATION, _MODEL, _VERSION, _VIEW, _STORE, _SOURCE, _VARIANT, _ERROR),
)
OPERATION_ERRORS: Final = Metric(
    "mlobs.operation.errors",
    "counter",
    "{error}",
    "Operations that failed; expected errors and cancellations are not among them.",
    (_OPERATION, _MODEL, _VERSION, _VIEW, _STORE, _SOURCE, _VARIANT),
)
INTERNAL_ERRORS: Final = Metric(
    "mlobs.internal.errors",
    "counter",
    "{error}",
    "Errors of this library that it caught before they reached the application.",
    (_COMPONENT,),
)
_OF_FEATURE = (_MODEL, _VERSION, _PROFILE, _FEATURE)
_OF_OUTPUT = (_MODEL, _VERSION, _PROFILE, _OUTPUT)
FEATURE_OBSERVATIONS: Final = Metric(
    "mlobs.feature.observations",
    "counter",
    "{observation}",
    "Feature values per cell of the profile.",
    (*_OF_FEATURE, _BIN),
)
FEATURE_REFERENCE: Final = Metric(
    "mlobs.feature.reference", "gauge", "1", "The share of the reference's rows in each cell.", (*_OF_FEATURE, _BIN)
)
FEATURE_REFERENCE_SCORE: Final = Metric(
    "mlobs.feature.reference_score",
    "gauge",
    "1",
    "Normal scores of a numeric feature's cells, of mean 0 and variance 1 under the reference.",
    (
        *_OF_FEATURE,
        _BIN,
        Attribute(NORMAL_SCORE, "string", "`shift`, or `scale` (uncorrelated with shift).", "shift"),
    ),
)
PREDICTION_OBSERVATIONS: Final = Metric(
    "mlobs.prediction.observations",
    "counter",
    "{observation}",
    "Predictions per cell of the profile.",
    (*_OF_OUTPUT, _BIN),
)
PREDICTION_REFERENCE: Final = Metric(
    "mlobs.prediction.reference",
    "gauge",
    "1",
    "The share of the reference's predictions in each cell.",
    (*_OF_OUTPUT, _BIN),
)
PROFILE_ROWS: Final = Metric(
    "mlobs.profile.rows", "gauge", "{row}", "Rows of the reference.", (_MODEL, _VERSION, _PROFILE)
)
DRIFT_SCORES: Final = Metric(
    DRIFT_SCORE,
    "gauge",
    "1",
    "Distance of this process's window from the reference.",
    (*_OF_FEATURE, _OUTPUT, _METHOD),
)
DRIFT_EVIDENCE: Final = Metric(
    "mlobs.drift.evidence",
    "gauge",
    "1",
    "Decimal logarithm of the always-on alarm's e-value.",
    (*_OF_FEATURE, _OUTPUT),
)
DRIFT_THRESHOLD: Final = Metric(
    "mlobs.drift.threshold",
    "gauge",
    "1",
    "What the evidence of a single feature must reach for the alarm, as a decimal logarithm.",
    (_MODEL, _VERSION, _PROFILE),
)
DRIFT_STATUSES: Final = Metric(
    DRIFT_STATUS,
    "gauge",
    "1",
    "1 where the feature or output has drifted, 0 where not; no point while there is too little data.",
    (*_OF_FEATURE, _OUTPUT),
)
SERIES_OMITTED: Final = Metric(
    "mlobs.monitor.series.omitted",
    "gauge",
    "{series}",
    "Series left out because of the monitor's max_series.",
    (_MODEL, _VERSION, _PROFILE),
)
_OF_PROFILE = (_MODEL, _VERSION, _PROFILE)
_OF_MODEL = (_MODEL, _VERSION)
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
    (*_OF_PROFILE, _CELL, _CLASS, _VARIANT),
)
OUTCOME_SCORES: Final = Metric(
    "mlobs.outcome.scores",
    "counter",
    "{outcome}",
    "Predictions whose label is known, by score bin and label.",
    (*_OF_PROFILE, _BIN, _LABEL, _CLASS),
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
    (*_OF_PROFILE, _BIN, _LABEL, _CLASS),
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
            "`evicted` (memory was full), `overflow` (too many waited), `refused`.",
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
_OF_VIEW = (_STORE, _VIEW)
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
    "Feature values that were looked up.",
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
    (_SOURCE, _MODEL, _VERSION),
)
METRICS: Final = (
    OPERATION_DURATION,
    OPERATION_ERRORS,
    INTERNAL_ERRORS,
    FEATURE_OBSERVATIONS,
    FEATURE_REFERENCE,
    FEATURE_REFERENCE_SCORE,
    PREDICTION_OBSERVATIONS,
    PREDICTION_REFERENCE,
    PROFILE_ROWS,
    DRIFT_SCORES,
    DRIFT_EVIDENCE,
    DRIFT_THRESHOLD,
    DRIFT_STATUSES,
    SERIES_OMITTED,
    OUTCOMES,
    OUTCOME_SCORES,
    OUTCOME_VALUE,
    OUTCOME_DELAY,
    OUTCOME_LABELS,
    OUTCOME_PREDICTIONS,
    OUTCOME_MATURE,
    OUTCOME_COVERAGE,
    OUTCOME_ERROR,
    OUTCOME_SQUARED_ERROR,
    EXPECTED_OUTCOMES,
    EXPECTED_OUTCOME_SCORES,
    EXPECTED_ERROR,
    EXPECTED_SQUARED_ERROR,
    PERFORMANCE_ESTIMATE,
    PERFORMANCE_REALIZED,
    PERFORMANCE_THRESHOLD,
    PERFORMANCE_RELIABLE,
    STORE_PENDING,
    STORE_DROPPED,
    RANKING_SLATES,
    RANKING_HITS,
    RANKING_RECIPROCAL_RANK,
    RANKING_NDCG,
    RANKING_IMPRESSIONS,
    RANKING_EVENTS,
    RANKING_VALUE,
    RANKING_COVERAGE,
    RANKING_CONCENTRATION,
    MODEL_AGREEMENT,
    FEATURE_VIOLATIONS,
    FEATURE_LOOKUPS,
    FEATURE_STALE_LOOKUPS,
    FEATURE_AGED_LOOKUPS,
    FEATURE_VALUES,
    FEATURE_AGE,
    FEATURE_VIEW_LAST_UPDATE,
    FEATURE_VIEW_OBJECTIVE,
    CANDIDATES,
)
