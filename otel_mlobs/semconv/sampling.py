"""The metric of sampled traces; its attribute for the reason is on the local root of a kept trace, too."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.records import Attribute, Metric

SAMPLING_DECISION: Final = "mlobs.sampling.decision"
SAMPLING_REASON: Final = "mlobs.sampling.reason"

SAMPLED_TRACES: Final = Metric(
    "mlobs.sampling.traces",
    "counter",
    "{trace}",
    'Local traces that were decided, with `sampling="tail"`; a local trace is what one request did in this process.',
    (
        Attribute(SAMPLING_DECISION, "string", "`kept` or `dropped`.", "kept"),
        Attribute(
            SAMPLING_REASON,
            "string",
            "Kept: `parent`, `ratio`, `failed`, `slow`, `input` or `drift`, on the local root's span, too. Dropped: "
            "`parent`, `ordinary`, `rate_limit`, or `memory`, `age` and `flush` where the request had not ended yet.",
            "slow",
        ),
    ),
)
