"""The table of operations, from metrics that the SDK collected."""

from __future__ import annotations

import random
import re
import textwrap
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from otel_mlobs import semconv
from otel_mlobs.telemetry.console import summary_table

BOUNDS = (0.005, 0.01, 0.08, 1.5)


def record_operations(durations: dict[tuple[str, str], list[float]], errors: int = 0, **provider: Any) -> Any:
    """Record durations under the library's metric names and collect them."""
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False, **provider).get_meter("otel_mlobs")
    histogram = meter.create_histogram(semconv.OPERATION_DURATION.name, "s", explicit_bucket_boundaries_advisory=BOUNDS)
    failures = meter.create_counter(semconv.OPERATION_ERRORS.name)
    for (operation, model), values in durations.items():
        attributes = {semconv.OPERATION_NAME: operation, semconv.MODEL_NAME: model, semconv.MODEL_VERSION: "3"}
        failures.add(errors, attributes)
        for i, value in enumerate(values):
            failed = {semconv.ERROR_TYPE: "ValueError"} if i < errors else {}
            histogram.record(value, {**attributes, **failed})
    return reader.get_metrics_data()


def test_the_table_has_counts_errors_and_quantiles() -> None:
    """Failed and successful calls add up; operations are in a request's order; buckets are stated."""
    data = record_operations(
        {
            ("prediction", "churn"): [0.006] * 50 + [0.02] * 48 + [2.0, 4.0],
            ("ranking", "ltr"): [0.004],
        },
        errors=2,
    )
    assert summary_table(data) == textwrap.dedent("""\
        operation            count  errors      p50  bucket       p99  bucket
        ranking ltr v3           1       2  4.00 ms  0–5 ms   4.00 ms  0–5 ms
        prediction churn v3    100       2  10.0 ms  5–10 ms   2.75 s  > 1.5 s
        """)


@pytest.mark.parametrize("q", [0.5, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_in_the_bucket_of_the_true_quantile(q: float, seed: int) -> None:
    """Of lognormal durations the estimate and the true quantile share a bucket, and the bucket printed is that one."""
    draws = random.Random(seed)
    values = sorted(draws.lognormvariate(-4, 1.5) for _ in range(997))
    true = values[min(int(q * len(values)), len(values) - 1)]
    index = sum(bound < true for bound in BOUNDS)
    lower, upper = (0.0, *BOUNDS)[index], (*BOUNDS, float("inf"))[index]
    row = summary_table(record_operations({("prediction", "churn"): values})).splitlines()[1]
    cells = re.split(r"\s{2,}", row)
    estimate, bucket = cells[3:5] if q == 0.5 else cells[5:7]
    number, unit = estimate.split()
    seconds = float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]
    assert lower * 0.995 <= seconds <= min(upper, values[-1]) * 1.005
    assert bucket == {0: "0–5 ms", 1: "5–10 ms", 2: "10–80 ms", 3: "0.08–1.5 s", 4: "> 1.5 s"}[index]


def test_interpolation_is_linear_within_the_bucket() -> None:
    """A hundred durations spread evenly over one bucket have their median estimated to under two steps."""
    values = [0.01 + 0.07 * i / 100 for i in range(1, 101)]
    row = summary_table(record_operations({("prediction", "churn"): values})).splitlines()[1]
    assert abs(float(row.split()[5]) - 45.0) < 1.4


def test_exponential_histograms_have_counts_and_no_estimate() -> None:
    """Where the user chose exponential histograms the calls are counted, and no quantile is made up."""
    view = View(instrument_name="*.duration", aggregation=ExponentialBucketHistogramAggregation())
    table = summary_table(record_operations({("prediction", "churn"): [0.1, 0.2]}, errors=1, views=[view]))
    assert table.splitlines()[1].split() == ["prediction", "churn", "v3", "2", "1", "–", "–"]


def test_histograms_of_different_buckets_have_no_common_estimate() -> None:
    """Where two meters recorded one operation into different buckets its calls add up, without a quantile."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    for scope, bounds in (("one", [0.1]), ("two", [0.2])):
        histogram = provider.get_meter(scope).create_histogram(
            semconv.OPERATION_DURATION.name, "s", explicit_bucket_boundaries_advisory=bounds
        )
        histogram.record(0.15, {semconv.OPERATION_NAME: "prediction"})
    assert summary_table(reader.get_metrics_data()).splitlines()[1].split() == ["prediction", "2", "0", "–", "–"]


def test_the_table_is_ascii_for_ascii_streams() -> None:
    """A stream without en dashes and Greek letters gets neither."""
    table = summary_table(record_operations({("prediction", "churn"): [0.0001, 2.0]}), encoding="ascii")
    assert table.isascii()
    assert "0-5 ms" in table


def test_nothing_recorded_is_said() -> None:
    """Without operations the table is a sentence."""
    assert summary_table(None) == "No operation was recorded.\n"
    assert summary_table(InMemoryMetricReader().get_metrics_data()) == "No operation was recorded.\n"
