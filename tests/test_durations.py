"""Durations counted beside the SDK give the very points that the SDK's histogram gives."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN, Span, set_span_in_context
from receiver import Receiver, run

from otel_mlobs import semconv
from otel_mlobs.telemetry import instruments, readers
from otel_mlobs.telemetry.durations import Durations, SdkSeries

BOUNDS = (0.001, 0.08, 0.5)
LABELS = {"mlobs.operation.name": "ranking", "mlobs.model.name": "ltr"}


def _tracer(**options: Any) -> Any:
    return TracerProvider(shutdown_on_exit=False, **options).get_tracer("test")


def _record(recorder: Any, seconds: float, span: Span = INVALID_SPAN, ended: int = 0) -> None:
    recorder.record(seconds, ended, span, set_span_in_context(span))


@pytest.mark.parametrize("delta", [False, True])
def test_the_same_points_as_the_sdk(delta: bool) -> None:
    """Counts, sums, extremes, bounds and exemplars equal the SDK's over several collections, values on bounds too."""
    temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    from opentelemetry.sdk.metrics import Histogram

    reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality})
    meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter(instruments.SCOPE)
    histogram = meter.create_histogram(semconv.OPERATION_DURATION.name, "s", explicit_bucket_boundaries_advisory=BOUNDS)
    anchor = meter.create_counter("anchor")
    durations = Durations(BOUNDS)
    sampled, unsampled = _tracer().start_span("s"), _tracer(sampler=ALWAYS_OFF).start_span("u")
    draw = random.Random(7)
    for _ in range(3):
        anchor.add(1)
        for _ in range(200):
            seconds = draw.choice([*BOUNDS, 0.0, draw.lognormvariate(-3, 2)])
            span = draw.choice([sampled, unsampled])
            _record(SdkSeries(histogram, LABELS), seconds, span)
            _record(durations.series(LABELS), seconds, span)
        data = reader.get_metrics_data()
        assert data is not None
        theirs = _points(data)
        histograms = [(semconv.OPERATION_DURATION, durations)]
        ours = _points(readers.with_histograms(data, histograms, delta=delta, resource=Resource.get_empty()))
        assert [_comparable(point) for point in ours] == [_comparable(point) for point in theirs]
        assert ours[0].start_time_unix_nano <= ours[0].time_unix_nano


def _points(data: Any) -> list[Any]:
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return [p for m in metrics if m.name == semconv.OPERATION_DURATION.name for p in m.data.data_points]


def _comparable(point: Any) -> dict[str, Any]:
    return {
        "attributes": dict(point.attributes),
        "count": point.count,
        "sum": pytest.approx(point.sum),
        "buckets": tuple(point.bucket_counts),
        "bounds": tuple(point.explicit_bounds),
        "min": point.min,
        "max": point.max,
        "exemplars": [(e.value, e.span_id, e.trace_id) for e in point.exemplars],
    }


def test_many_values_at_once_are_the_same_as_one_by_one() -> None:
    """Under the series' own bounds, values on them too; the exemplar of a bucket is one of its values."""
    draw = random.Random(11)
    bounds = (0.5, 1.5, 900.0)
    span = _tracer().start_span("s")
    durations = Durations(BOUNDS)
    single, many = (durations.series({"view": name}, bounds) for name in ("single", "many"))
    for size in (1, 5, 40, 700):
        values = [draw.choice([*bounds, 0.0, draw.lognormvariate(2, 3)]) for _ in range(size)]
        for value in values:
            _record(single, value, span)
        many.record_all(values, 0, span, set_span_in_context(span))
    one, other = (series.take(1, delta=False) for series in (single, many))
    assert one is not None
    assert other is not None
    assert sum(other.counts) == 746
    assert other.bounds == bounds
    assert (other.counts, other.minimum, other.maximum) == (one.counts, one.minimum, one.maximum)
    assert other.total == pytest.approx(one.total)
    places = [bisect_left(bounds, value) for value, _, _ in other.exemplars]
    assert places == [bisect_left(bounds, value) for value, _, _ in one.exemplars] == [0, 1, 2, 3]


@pytest.mark.parametrize(("filter_name", "traced"), [("always_off", 0), ("trace_based", 1), ("always_on", 2)])
def test_the_exemplar_filter_is_respected(filter_name: str, traced: int) -> None:
    """always_off keeps none, trace_based the sampled ones, always_on every one."""
    series = Durations(BOUNDS, filter_name).series(LABELS)
    _record(series, 0.01, _tracer().start_span("s"))
    _record(series, 0.3, _tracer(sampler=ALWAYS_OFF).start_span("u"))
    taken = series.take(time.time_ns(), delta=False)
    assert taken is not None
    assert len(taken.exemplars) == traced


def test_an_exemplar_is_reported_once() -> None:
    """Exemplars are those since the last collection, counts go on."""
    series = Durations(BOUNDS).series(LABELS)
    _record(series, 0.01, _tracer().start_span("s"), ended=5)
    first, second = series.take(1, delta=False), series.take(2, delta=False)
    assert first is not None
    assert second is not None
    assert [ended for _, ended, _ in first.exemplars] == [5]
    assert second.exemplars == ()
    assert sum(second.counts) == 1


def test_series_are_bounded() -> None:
    """Beyond the limit one overflow series takes the rest, and nothing is lost."""
    durations = Durations(BOUNDS, max_series=2)
    for model in range(10):
        _record(durations.series({"mlobs.model.name": str(model)}), 0.01)
    taken = {tuple(one.labels.items()): sum(one.counts) for one in durations.take(delta=False)}
    assert len(taken) == 3
    assert taken[("otel.metric.overflow", "true"),] == 8


def test_threads_lose_nothing() -> None:
    """Eight threads recording while a ninth collects deltas: the deltas add up to what was recorded."""
    durations = Durations(BOUNDS)
    series, collected, done = durations.series(LABELS), [0], threading.Event()

    def collect() -> None:
        while not done.is_set():
            collected[0] += sum(sum(one.counts) for one in durations.take(delta=True))

    def write() -> None:
        for _ in range(3000):
            _record(series, 0.01)

    collector = threading.Thread(target=collect)
    writers = [threading.Thread(target=write) for _ in range(8)]
    for thread in (collector, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    collector.join()
    collected[0] += sum(sum(one.counts) for one in durations.take(delta=True))
    assert collected[0] == 8 * 3000


def test_what_an_exporter_prefers_is_respected() -> None:
    """Exponential histograms are the SDK's to make; explicit ones, and no preference, are counted here."""
    from opentelemetry.sdk.metrics import Histogram

    assert readers.durations_for({Histogram: ExponentialBucketHistogramAggregation()}, "trace_based") is None
    assert readers.durations_for({Histogram: ExplicitBucketHistogramAggregation()}, "trace_based") is not None
    assert readers.durations_for(None, "trace_based") is not None


def test_every_reader_sees_every_operation_once() -> None:
    """Own pipeline, a capture opened in between, and a reader the user adds: none misses or doubles an operation."""
    with Receiver() as receiver:
        ran = run(
            f"""
            from opentelemetry import metrics
            from opentelemetry.sdk.metrics.export import InMemoryMetricReader
            mlobs.configure("shop", metrics_endpoint={receiver.url!r}, metric_interval=60)
            rank = mlobs.ranking(model="ltr")(lambda items: items)
            def counted(points): return sum(point.count for point in points)
            for _ in range(3): rank([])
            with mlobs.testing.capture() as telemetry:
                for _ in range(4): rank([])
            print(counted(telemetry.metrics["mlobs.operation.duration"]))
            for _ in range(5): rank([])
            reader = InMemoryMetricReader()
            metrics.get_meter_provider().add_metric_reader(reader)
            for _ in range(6): rank([])
            scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
            print(sum(counted(m.data.data_points) for s in scopes for m in s.metrics if m.name.endswith("duration")))
            mlobs.shutdown()
            """
        )
        assert ran.out.split() == ["4", "6"]
        assert receiver.total("mlobs.operation.duration") == 3 + 4 + 5 + 6
