"""Our meter provider, and how histograms counted beside the SDK come among the metrics it collects."""

from __future__ import annotations

import time
from dataclasses import replace
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
    Sum,
)
from opentelemetry.sdk.metrics.view import DefaultAggregation, ExplicitBucketHistogramAggregation
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_mlobs import semconv
from otel_mlobs._version import __version__
from otel_mlobs.telemetry import instruments
from otel_mlobs.telemetry.durations import Durations

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

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

    @property
    def resource(self) -> Resource:
        """Who sends, as the SDK's own points say it; a child's after a fork."""
        return self._sdk_config.resource

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


def with_histograms(
    data: MetricsData | None,
    histograms: Sequence[tuple[semconv.Metric, Durations]],
    *,
    delta: bool,
    resource: Resource,
) -> MetricsData:
    """``data`` with each of ``histograms`` as we counted it, instead of the SDK's if it is there.

    The SDK may have collected nothing, or nothing of ours: with delta temporality it leaves out what did not change.
    """
    now = time.time_ns()
    temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
    ours: dict[str, Metric] = {}
    for metric, counted in histograms:
        points = [_point(taken, now) for taken in counted.take(delta=delta)]
        if points:
            found = Metric(metric.name, metric.description, metric.unit, Histogram(points, temporality))
            ours[metric.name] = found
    groups = [] if data is None else list(data.resource_metrics)
    if not ours:
        return MetricsData(groups)
    if not groups:
        groups = [ResourceMetrics(resource, [], "")]
    first, *rest = groups  # one provider has one resource
    others = [scope for scope in first.scope_metrics if scope.scope.name != instruments.SCOPE]
    own = next((scope for scope in first.scope_metrics if scope.scope.name == instruments.SCOPE), None)
    kept = [] if own is None else [found for found in own.metrics if found.name not in ours]
    scope = own.scope if own else InstrumentationScope(instruments.SCOPE, __version__, semconv.SCHEMA_URL)
    with_ours = ScopeMetrics(scope, [*kept, *ours.values()], semconv.SCHEMA_URL)
    return MetricsData([ResourceMetrics(first.resource, [*others, with_ours], first.schema_url), *rest])


def without_first_totals(data: MetricsData | None, names: Collection[str], seen: set[Any]) -> MetricsData | None:
    """``data`` without the first delta of each series of ``names``: all that was counted before anybody looked.

    ``seen`` are the series that had theirs.
    """
    if data is None:
        return None

    def later(scope: ScopeMetrics) -> ScopeMetrics:
        return replace(scope, metrics=[kept for one in scope.metrics if (kept := _later(one, names, seen)) is not None])

    groups = [replace(group, scope_metrics=list(map(later, group.scope_metrics))) for group in data.resource_metrics]
    return MetricsData(groups)


def _later(metric: Metric, names: Collection[str], seen: set[Any]) -> Metric | None:
    found = metric.data
    if metric.name not in names or not isinstance(found, Sum):
        return metric
    if found.aggregation_temporality is not AggregationTemporality.DELTA:
        return metric
    keys = [(metric.name, frozenset((point.attributes or {}).items())) for point in found.data_points]
    points = [point for point, key in zip(found.data_points, keys, strict=True) if key in seen]
    seen.update(keys)
    return replace(metric, data=replace(found, data_points=points)) if points else None


def _point(taken: Snapshot, now: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(taken.labels),
        start_time_unix_nano=taken.start,
        time_unix_nano=now,
        count=sum(taken.counts),
        sum=taken.total,
        bucket_counts=taken.counts,
        explicit_bounds=taken.bounds,
        min=taken.minimum,
        max=taken.maximum,
        exemplars=[
            Exemplar({}, seconds, ended, context.span_id, context.trace_id)
            for seconds, ended, context in taken.exemplars
        ],
    )
