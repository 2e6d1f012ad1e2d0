"""Every span, attribute and metric of the library, written once.

Instruments, the allow-list of metric labels and the signals page of the documentation are derived from the tables
here. Names that OpenTelemetry's semantic conventions already have are used as they are; the rest live under
``mlobs.*``. The upstream proposal for machine-learning inference is semantic-conventions issue 3420.

This module imports nothing but the standard library.
"""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.attributes import *  # noqa: F403
from otel_mlobs.semconv.gpu_metrics import *  # noqa: F403
from otel_mlobs.semconv.gpu_metrics import GPU_METRICS
from otel_mlobs.semconv.host_metrics import *  # noqa: F403
from otel_mlobs.semconv.host_metrics import HOST_METRICS, POOL_METRICS
from otel_mlobs.semconv.keys import *  # noqa: F403
from otel_mlobs.semconv.metrics import *  # noqa: F403
from otel_mlobs.semconv.metrics import (
    DRIFT_EVIDENCE,
    DRIFT_SCORES,
    DRIFT_STATUSES,
    DRIFT_THRESHOLD,
    FEATURE_OBSERVATIONS,
    FEATURE_REFERENCE,
    FEATURE_REFERENCE_SCORE,
    INTERNAL_ERRORS,
    OPERATION_DURATION,
    OPERATION_ERRORS,
    PREDICTION_OBSERVATIONS,
    PREDICTION_REFERENCE,
    PROFILE_ROWS,
    SERIES_OMITTED,
)
from otel_mlobs.semconv.outcome_metrics import *  # noqa: F403
from otel_mlobs.semconv.outcome_metrics import (
    CANDIDATES,
    EXPECTED_ERROR,
    EXPECTED_OUTCOME_SCORES,
    EXPECTED_OUTCOMES,
    EXPECTED_SQUARED_ERROR,
    FEATURE_AGE,
    FEATURE_AGED_LOOKUPS,
    FEATURE_LOOKUPS,
    FEATURE_STALE_LOOKUPS,
    FEATURE_VALUES,
    FEATURE_VIEW_LAST_UPDATE,
    FEATURE_VIEW_OBJECTIVE,
    FEATURE_VIOLATIONS,
    MODEL_AGREEMENT,
    OUTCOME_COVERAGE,
    OUTCOME_DELAY,
    OUTCOME_ERROR,
    OUTCOME_LABELS,
    OUTCOME_MATURE,
    OUTCOME_PREDICTIONS,
    OUTCOME_SCORES,
    OUTCOME_SQUARED_ERROR,
    OUTCOME_VALUE,
    OUTCOMES,
    PERFORMANCE_ESTIMATE,
    PERFORMANCE_REALIZED,
    PERFORMANCE_RELIABLE,
    PERFORMANCE_THRESHOLD,
    RANKING_CONCENTRATION,
    RANKING_COVERAGE,
    RANKING_EVENTS,
    RANKING_HITS,
    RANKING_IMPRESSIONS,
    RANKING_NDCG,
    RANKING_RECIPROCAL_RANK,
    RANKING_SLATES,
    RANKING_VALUE,
    STORE_DROPPED,
    STORE_PENDING,
)
from otel_mlobs.semconv.records import *  # noqa: F403
from otel_mlobs.semconv.sampling import *  # noqa: F403
from otel_mlobs.semconv.sampling import SAMPLED_TRACES
from otel_mlobs.semconv.spans import *  # noqa: F403

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
    SAMPLED_TRACES,
    *GPU_METRICS,
    *HOST_METRICS,
    *POOL_METRICS,
)
