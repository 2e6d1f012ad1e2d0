"""Metrics of operations, inputs and drift."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.attributes import (
    BIN_LABEL,
    COMPONENT_LABEL,
    ERROR_LABEL,
    FEATURE_LABEL,
    METHOD_LABEL,
    MODEL_LABEL,
    OPERATION_LABEL,
    OUTPUT_LABEL,
    PROFILE_LABEL,
    SOURCE_LABEL,
    STORE_LABEL,
    VARIANT_LABEL,
    VERSION_LABEL,
    VIEW_LABEL,
)
from otel_mlobs.semconv.keys import DRIFT_SCORE, DRIFT_STATUS, NORMAL_SCORE
from otel_mlobs.semconv.records import Attribute, Metric

OPERATION_DURATION: Final = Metric(
    "mlobs.operation.duration",
    "histogram",
    "s",
    "How long an operation took, failed ones included.",
    (OPERATION_LABEL, MODEL_LABEL, VERSION_LABEL, VIEW_LABEL, STORE_LABEL, SOURCE_LABEL, VARIANT_LABEL, ERROR_LABEL),
)
OPERATION_ERRORS: Final = Metric(
    "mlobs.operation.errors",
    "counter",
    "{error}",
    "Operations that failed; expected errors and cancellations are not among them.",
    (OPERATION_LABEL, MODEL_LABEL, VERSION_LABEL, VIEW_LABEL, STORE_LABEL, SOURCE_LABEL, VARIANT_LABEL),
)
INTERNAL_ERRORS: Final = Metric(
    "mlobs.internal.errors",
    "counter",
    "{error}",
    "Errors of this library that it caught before they reached the application.",
    (COMPONENT_LABEL,),
)
_OF_FEATURE = (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL, FEATURE_LABEL)
_OF_OUTPUT = (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL, OUTPUT_LABEL)
FEATURE_OBSERVATIONS: Final = Metric(
    "mlobs.feature.observations",
    "counter",
    "{observation}",
    "Feature values per cell of the profile.",
    (*_OF_FEATURE, BIN_LABEL),
)
FEATURE_REFERENCE: Final = Metric(
    "mlobs.feature.reference",
    "gauge",
    "1",
    "The share of the reference's rows in each cell.",
    (*_OF_FEATURE, BIN_LABEL),
)
FEATURE_REFERENCE_SCORE: Final = Metric(
    "mlobs.feature.reference_score",
    "gauge",
    "1",
    "Normal scores of a numeric feature's cells, of mean 0 and variance 1 under the reference.",
    (
        *_OF_FEATURE,
        BIN_LABEL,
        Attribute(NORMAL_SCORE, "string", "`shift`, or `scale` (uncorrelated with shift).", "shift"),
    ),
)
PREDICTION_OBSERVATIONS: Final = Metric(
    "mlobs.prediction.observations",
    "counter",
    "{observation}",
    "Predictions per cell of the profile.",
    (*_OF_OUTPUT, BIN_LABEL),
)
PREDICTION_REFERENCE: Final = Metric(
    "mlobs.prediction.reference",
    "gauge",
    "1",
    "The share of the reference's predictions in each cell.",
    (*_OF_OUTPUT, BIN_LABEL),
)
PROFILE_ROWS: Final = Metric(
    "mlobs.profile.rows", "gauge", "{row}", "Rows of the reference.", (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL)
)
DRIFT_SCORES: Final = Metric(
    DRIFT_SCORE,
    "gauge",
    "1",
    "Distance of this process's window from the reference.",
    (*_OF_FEATURE, OUTPUT_LABEL, METHOD_LABEL),
)
DRIFT_EVIDENCE: Final = Metric(
    "mlobs.drift.evidence",
    "gauge",
    "1",
    "Decimal logarithm of the always-on alarm's e-value.",
    (*_OF_FEATURE, OUTPUT_LABEL),
)
DRIFT_THRESHOLD: Final = Metric(
    "mlobs.drift.threshold",
    "gauge",
    "1",
    "What the evidence of a single feature must reach for the alarm, as a decimal logarithm.",
    (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL),
)
DRIFT_STATUSES: Final = Metric(
    DRIFT_STATUS,
    "gauge",
    "1",
    "1 where the feature or output has drifted, 0 where not; no point while there is too little data.",
    (*_OF_FEATURE, OUTPUT_LABEL),
)
SERIES_OMITTED: Final = Metric(
    "mlobs.monitor.series.omitted",
    "gauge",
    "{series}",
    "Series left out because of the monitor's max_series.",
    (MODEL_LABEL, VERSION_LABEL, PROFILE_LABEL),
)
