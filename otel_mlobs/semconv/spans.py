"""The spans, and the events on them."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.attributes import (
    PROFILE_LABEL,
    SOURCE_LABEL,
    STATUS_LABEL,
    STORE_LABEL,
    VARIANT_LABEL,
    VIEW_LABEL,
)
from otel_mlobs.semconv.gpu_metrics import GPU_OPERATION_ATTRIBUTES
from otel_mlobs.semconv.keys import (
    BATCH_SIZE,
    CANDIDATE_COUNT,
    CANDIDATE_GENERATION,
    CANDIDATE_REQUESTED,
    CANDIDATE_SCORE_MAX,
    CANDIDATE_SCORE_MEAN,
    CANDIDATE_SCORE_MIN,
    DRIFT_CAUSES,
    DRIFT_EVENT,
    DRIFT_FEATURE,
    DRIFT_FEATURES,
    DRIFT_PREVIOUS_STATUS,
    DRIFT_SCORE,
    DRIFT_SINCE,
    FEATURE_AGE_MAX,
    FEATURE_DEFAULT,
    FEATURE_FOUND,
    FEATURE_LOOKUP,
    FEATURE_MISSING,
    FEATURE_REQUESTED,
    FEATURE_STALE,
    INPUT_MISSING,
    INPUT_OUT_OF_RANGE,
    INPUT_UNSEEN,
    PREDICTION,
    PREDICTION_CLASS,
    PREDICTION_CLASS_COUNTS,
    PREDICTION_CLASSES,
    PREDICTION_CONFIDENCE,
    PREDICTION_ENTROPY,
    PREDICTION_ID,
    PREDICTION_MAX,
    PREDICTION_MEAN,
    PREDICTION_MIN,
    PREDICTION_STD,
    RANKING,
    RANKING_INPUT_COUNT,
    RANKING_OUTPUT_COUNT,
    RANKING_SCORE_MAX,
    RANKING_SCORE_MEAN,
    RANKING_SCORE_MIN,
)
from otel_mlobs.semconv.records import Attribute, EventType, SpanType

DRIFT_CHANGED: Final = EventType(
    DRIFT_EVENT,
    "On the first span with a new drift status, and where other features drift than before.",
    (
        STATUS_LABEL,
        Attribute(DRIFT_PREVIOUS_STATUS, "string", "The status before.", "ok"),
        Attribute(DRIFT_SINCE, "string[]", "When each of them began to, UTC.", "[2026-11-22 21:00:29Z]"),
        Attribute(
            DRIFT_CAUSES,
            "string[]",
            "Of each `values`, or `missing`: values went missing, those that are there are as ever.",
            "[values, missing]",
        ),
        Attribute(DRIFT_FEATURES, "string[]", "The features that drift, at most 20.", "[age, income]"),
    ),
)

SPANS: Final = (
    SpanType(
        FEATURE_LOOKUP,
        "the feature view, else the store, else the function's name",
        "Features are fetched for one or more entities.",
        (
            STORE_LABEL,
            VIEW_LABEL,
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
            SOURCE_LABEL,
            Attribute(CANDIDATE_REQUESTED, "int", "How many candidates were asked for (`k`).", "500"),
            Attribute(CANDIDATE_COUNT, "int", "How many came back.", "487"),
            Attribute(CANDIDATE_SCORE_MIN, "double", "The lowest retrieval score, where there are scores.", "0.02"),
            Attribute(CANDIDATE_SCORE_MEAN, "double", "Their mean.", "0.31"),
            Attribute(CANDIDATE_SCORE_MAX, "double", "The highest.", "0.97"),
            *GPU_OPERATION_ATTRIBUTES,
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
            *GPU_OPERATION_ATTRIBUTES,
        ),
    ),
    SpanType(
        PREDICTION,
        "the model, else the function's name",
        "A model turns inputs into scores, classes or values.",
        (
            Attribute(BATCH_SIZE, "int", "Rows in the call.", "1"),
            Attribute(PREDICTION_ID, "string", "By what a later label finds it; of a batch the first.", "9f3c-1a"),
            VARIANT_LABEL,
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
            PROFILE_LABEL,
            STATUS_LABEL,
            Attribute(DRIFT_SCORE, "double", "The PSI of the feature that moved furthest.", "0.31"),
            Attribute(DRIFT_FEATURE, "string", "That feature.", "income"),
            *GPU_OPERATION_ATTRIBUTES,
        ),
        (DRIFT_CHANGED,),
    ),
)
