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

INTERNAL_COMPONENT: Final = "mlobs.internal.component"

EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_MESSAGE: Final = "exception.message"

CANCELLED: Final = "cancelled"
"""The ``error.type`` of an operation that was cancelled: it is kept apart from failures and pages nobody."""

AttributeType = Literal["string", "int", "double", "boolean"]


@dataclass(frozen=True)
class Attribute:
    """A span or metric attribute: its key, the type of its values, and what they mean."""

    key: str
    type: AttributeType
    description: str
    example: str


@dataclass(frozen=True)
class SpanType:
    """A span the library emits: its operation name, what its name's second word is, and its own attributes."""

    operation: str
    target: str
    description: str
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Metric:
    """A metric the library emits; ``attributes`` is the whole allow-list of its labels."""

    name: str
    instrument: Literal["counter", "histogram"]
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
            Attribute(PREDICTION_MIN, "double", "The lowest score of the call.", "0.83"),
            Attribute(PREDICTION_MEAN, "double", "The mean score of the call.", "0.83"),
            Attribute(PREDICTION_MAX, "double", "The highest score of the call.", "0.83"),
            Attribute(PREDICTION_STD, "double", "Their population standard deviation.", "0.0"),
            Attribute(PREDICTION_CLASS, "string", "The class, where one row got one class.", "stays"),
        ),
    ),
)

OPERATION_DURATION: Final = Metric(
    "mlobs.operation.duration",
    "histogram",
    "s",
    "How long an operation took, failed ones included.",
    (_OPERATION, _MODEL, _VERSION, _VIEW, _STORE, _SOURCE, _ERROR),
)
OPERATION_ERRORS: Final = Metric(
    "mlobs.operation.errors",
    "counter",
    "{error}",
    "Operations that failed; expected errors and cancellations are not among them.",
    (_OPERATION, _MODEL, _VERSION, _VIEW, _STORE, _SOURCE),
)
INTERNAL_ERRORS: Final = Metric(
    "mlobs.internal.errors",
    "counter",
    "{error}",
    "Errors of this library that it caught before they reached the application.",
    (_COMPONENT,),
)
METRICS: Final = (OPERATION_DURATION, OPERATION_ERRORS, INTERNAL_ERRORS)
