"""Attributes that several signals share."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.keys import (
    BIN,
    CANDIDATE_SOURCE,
    DRIFT_METHOD,
    DRIFT_STATUS,
    ERROR_TYPE,
    FEATURE_NAME,
    FEATURE_STORE_NAME,
    FEATURE_VIEW_NAME,
    INTERNAL_COMPONENT,
    MODEL_NAME,
    MODEL_VERSION,
    OPERATION_NAME,
    PREDICTION_OUTPUT,
    PROFILE_ID,
    VARIANT,
)
from otel_mlobs.semconv.records import Attribute

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
OPERATION_LABEL, MODEL_LABEL, VERSION_LABEL, ERROR_LABEL = COMMON_ATTRIBUTES
VIEW_LABEL = Attribute(FEATURE_VIEW_NAME, "string", "The feature view (table, group) that was read.", "user_features")
STORE_LABEL = Attribute(FEATURE_STORE_NAME, "string", "The feature store that was asked.", "redis")
SOURCE_LABEL = Attribute(CANDIDATE_SOURCE, "string", "What generated the candidates.", "two_tower")
COMPONENT_LABEL = Attribute(INTERNAL_COMPONENT, "string", "The part of the library that caught the error.", "outputs")
PROFILE_LABEL = Attribute(
    PROFILE_ID, "string", "The content id of the profile that the monitor compares with.", "3f9c2a71b04d"
)
FEATURE_LABEL = Attribute(FEATURE_NAME, "string", "The feature, as the profile names it.", "age")
OUTPUT_LABEL = Attribute(
    PREDICTION_OUTPUT, "string", "The output: `score`, `class`, `confidence`, `entropy` or `value`.", "score"
)
BIN_LABEL = Attribute(
    BIN, "string", "The cell: `b00` … (values), `c00` … (categories), `missing`, `nonfinite` or `other`.", "b03"
)
METHOD_LABEL = Attribute(DRIFT_METHOD, "string", "How the distance is computed.", "psi")
VARIANT_LABEL = Attribute(
    VARIANT, "string", "The variant of an A/B test or a shadow deployment, where one is given.", "treatment"
)
STATUS_LABEL = Attribute(DRIFT_STATUS, "string", "`ok`, `drift` or `insufficient_data`, as last computed.", "ok")
