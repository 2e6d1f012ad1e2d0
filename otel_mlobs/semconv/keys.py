"""Names of operations, attributes and events: strings, and nothing else."""

from __future__ import annotations

from typing import Final

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
DRIFT_CAUSES: Final = "mlobs.drift.causes"
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
