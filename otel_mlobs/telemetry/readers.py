"""Our meter provider, and how durations counted beside the SDK come among the metrics it collects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import DefaultAggregation, ExplicitBucketHistogramAggregation

from otel_mlobs import semconv
from otel_mlobs.telemetry import instruments
from otel_mlobs.telemetry.durations import Durations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.metrics.export import MetricReader

    from otel_mlobs.telemetry.durations import Snapshot


class OwnMeterProvider(MeterProvider):
    """The SDK's meter provider, which lets durations be recorded in the SDK too while somebody else's reader listens.

    A reader that the user or a test adds sees every metric; without one, durations are counted beside the SDK, at a
    tenth of the cost.
    """

    def __init__(self, own_reader: MetricReader, **options: Any) -> None:
        super().__init__(metric_readers=[own_reader], **options)
        self._own = own_reader
        self._others: set[int] = set()

    def replace_own(self, reader: MetricReader) -> None:
        """Collect through ``reader`` from now on, from zero: a forked child's first act."""
        inherited, self._own = self._own, reader
        super().add_metric_reader(reader)
        super().remove_metric_reader(inherited)

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Add a reader of somebody else's."""
        super().add_metric_reader(metric_reader)
        self._others.add(id(metric_reader))
        instruments.count_durations(instruments.own_durations(), sdk=True)

    def remove_metric_reader(self, metric_reader: MetricReader) -> None:
        """Remove a reader that was added."""
        super().remove_metric_reader(metric_reader)
        self._others.discard(id(metric_reader))
        instruments.count_durations(instruments.own_durations(), sdk=bool(self._others))


def durations_for(aggregation: Mapping[type, Any] | None, exemplars: str) -> Durations | None:
    """What counts durations for an exporter that prefers ``aggregation``: None where it wants no explicit buckets."""
    preferred = (aggregation or {}).get(HistogramInstrument)
    if not isinstance(preferred, (type(None), DefaultAggregation, ExplicitBucketHistogramAggregation)):
        return None
    return Durations(instruments.duration_bounds(), exemplars)


def wants_delta(temporality: Mapping[type, Any] | None) -> bool:
    """Whether an exporter prefers histograms that start again from zero at every collection."""
    return (temporality or {}).get(HistogramInstrument) is AggregationTemporality.DELTA


def with_durations(data: MetricsData, durations: Durations, *, delta: bool) -> MetricsData:
    """``data`` with ``mlobs.operation.duration`` as ``durations`` counted it, instead of the SDK's if it is there."""
    name = semconv.OPERATION_DURATION.name
    now = time.time_ns()
    points = [_point(taken, now, durations.bounds) for taken in durations.take(delta=delta)]
    ours: list[Metric] = []
    if points:
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        metric = semconv.OPERATION_DURATION
        ours.append(Metric(name, metric.description, metric.unit, Histogram(points, temporality)))
    return MetricsData(
        [
            ResourceMetrics(
                resource.resource,
                [
                    ScopeMetrics(
                        scope.scope,
                        [*(metric for metric in scope.metrics if metric.name != name), *ours]
                        if scope.scope.name == instruments.SCOPE
                        else scope.metrics,
                        scope.schema_url,
                    )
                    for scope in resource.scope_metrics
                ],
                resource.schema_url,
            )
            for resource in data.resource_metrics
        ]
    )


def has_own_scope(data: MetricsData) -> bool:
    """Whether our instruments are among ``data``: the errors counter is, from the first operation on."""
    return any(
        scope.scope.name == instruments.SCOPE for resource in data.resource_metrics for scope in resource.scope_metrics
    )


def _point(taken: Snapshot, now: int, bounds: tuple[float, ...]) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(taken.labels),
        start_time_unix_nano=taken.start,
        time_unix_nano=now,
        count=sum(taken.counts),
        sum=taken.total,
        bucket_counts=taken.counts,
        explicit_bounds=bounds,
        min=taken.minimum,
        max=taken.maximum,
        exemplars=[
            Exemplar({}, seconds, ended, context.span_id, context.trace_id)
            for seconds, ended, context in taken.exemplars
        ],
    )
