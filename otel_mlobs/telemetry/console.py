"""The console backend: each request drawn as a tree, to look at, and a table of what the operations took."""

from __future__ import annotations

import math
import sys
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, TextIO

from opentelemetry.sdk.metrics.export import ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_mlobs import semconv
from otel_mlobs.telemetry.exporters import after_fork_in_child
from otel_mlobs.telemetry.tree import Drawing, draw, format_duration, glyphs_for, look_of, span_id, trace_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from opentelemetry.sdk.metrics.export import DataPointT, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.util.types import Attributes


class ConsoleTreeExporter(SpanExporter):
    """Draws each request as a tree once its local root, a span without a parent in this process, has ended.

    Spans wait for their root in bounded memory: where ``max_traces`` or ``max_spans`` would be passed, the oldest
    trace is drawn as incomplete. A span that ends after its root is drawn when it comes, with a note. Works behind a
    ``SimpleSpanProcessor`` and behind a batch. A stream that is closed or broken makes exports fail, never raise.

    Args:
        stream: Where to draw; unless given, what ``sys.stdout`` is at that moment.
        color: Colours or none; unless given, colours on a terminal, where ``NO_COLOR`` forbids and ``FORCE_COLOR``
            demands them.
        width: Columns; unless given, the terminal's.
        max_traces: Traces that may wait for their root.
        max_spans: Spans that may wait, over all traces.

    Raises:
        ValueError: A limit is not positive.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        color: bool | None = None,
        width: int | None = None,
        max_traces: int = 1_000,
        max_spans: int = 10_000,
    ) -> None:
        for name, limit in (("max_traces", max_traces), ("max_spans", max_spans)):
            if limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        self._stream, self._color, self._width = stream, color, width
        self._max_traces, self._max_spans = max_traces, max_spans
        self._stopped = False
        self._start_afresh()
        after_fork_in_child(self, ConsoleTreeExporter._start_afresh)

    def _start_afresh(self) -> None:
        # In a forked child: another thread may have held the lock, and the parent draws the spans that wait.
        self._lock = threading.RLock()
        self._working = False
        self._arrived: deque[ReadableSpan] = deque()
        self._waiting: OrderedDict[int, dict[int, ReadableSpan]] = OrderedDict()
        self._count = 0
        self._drawn: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._torn: OrderedDict[int, None] = OrderedDict()  # traces of which a part was drawn before its root

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Draw the trees that these spans complete, and keep the others."""
        if self._stopped:
            return SpanExportResult.FAILURE
        self._arrived.extend(spans)
        written = True
        with self._lock:
            # A generator that is collected while this runs ends its span, and thus comes back here in the same thread:
            # its span is left to the call that is under way.
            if self._working:
                return SpanExportResult.SUCCESS
            self._working = True
            try:
                while self._arrived:
                    written = self._write(self._drawings()) and written
            finally:
                self._working = False
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Draw what waits for a root, as incomplete; False if the stream did not take it."""
        with self._lock:
            return self._write([self._incomplete(trace) for trace in list(self._waiting)])

    def shutdown(self) -> None:
        """Draw what waits for a root, as incomplete, and refuse what comes later."""
        self.force_flush()
        self._stopped = True

    def _drawings(self) -> list[Drawing]:
        """Put what has arrived with what waits; return what is to be drawn now."""
        arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
        for span in arrived:
            self._waiting.setdefault(trace_id(span), {})[span_id(span)] = span
        self._count += len(arrived)
        drawings = [drawing for span in arrived if (drawing := self._completed_by(span)) is not None]
        while len(self._waiting) > self._max_traces or self._count > self._max_spans:
            drawings.append(self._incomplete(next(iter(self._waiting))))
        return drawings

    def _completed_by(self, span: ReadableSpan) -> Drawing | None:
        trace = trace_id(span)
        if span_id(span) not in self._waiting.get(trace, ()):
            return None  # another span of this batch had it in its tree
        if _is_root(span):
            note = "some of its spans were drawn before, as incomplete" if trace in self._torn else ""
            return Drawing([span], self._take(span), note, whole=True)
        if span.parent is not None and (trace, span.parent.span_id) in self._drawn:
            return Drawing([span], self._take(span), "late: it ended after its request was drawn", whole=False)
        return None

    def _take(self, top: ReadableSpan) -> list[ReadableSpan]:
        """Take the span and what waits beneath it."""
        waiting = self._waiting[trace_id(top)]
        children: dict[int, list[ReadableSpan]] = {}
        for span in waiting.values():
            if span.parent is not None:
                children.setdefault(span.parent.span_id, []).append(span)
        taken = [top]
        for span in taken:
            taken.extend(children.pop(span_id(span), ()))
        for span in taken:
            del waiting[span_id(span)]
        if not waiting:
            del self._waiting[trace_id(top)]
        self._remember(taken)
        return taken

    def _incomplete(self, trace: int) -> Drawing:
        spans = list(self._waiting.pop(trace).values())
        self._remember(spans)
        self._torn[trace] = None
        while len(self._torn) > self._max_traces:
            self._torn.popitem(last=False)
        ids = {span_id(span) for span in spans}
        tops = [span for span in spans if span.parent is None or span.parent.span_id not in ids]
        return Drawing(tops, spans, "incomplete: drawn before its root span ended", whole=False)

    def _remember(self, spans: Sequence[ReadableSpan]) -> None:
        self._count -= len(spans)
        for span in spans:
            self._drawn[trace_id(span), span_id(span)] = None
        while len(self._drawn) > self._max_spans:
            self._drawn.popitem(last=False)

    def _write(self, drawings: Sequence[Drawing]) -> bool:
        stream = sys.stdout if self._stream is None else self._stream
        # Python without a console has no sys.stdout.
        if not drawings or stream is None:
            return True
        try:
            look = look_of(stream, self._color, self._width)
            stream.write("".join(draw(drawing, look) for drawing in drawings))
            stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream is closed
            return False
        return True


def _is_root(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote


# -- the table --------------------------------------------------------------------------------------------------------

_ORDER = (semconv.FEATURE_LOOKUP, semconv.CANDIDATE_GENERATION, semconv.RANKING, semconv.PREDICTION)
_TARGETS = (semconv.FEATURE_VIEW_NAME, semconv.FEATURE_STORE_NAME, semconv.CANDIDATE_SOURCE, semconv.MODEL_NAME)


@dataclass
class _Total:
    """What one operation's data points add up to."""

    count: int = 0
    errors: int = 0
    bounds: Sequence[float] | None = None
    buckets: list[int] = field(default_factory=list)
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, point: HistogramDataPoint | ExponentialHistogramDataPoint) -> None:
        self.count += point.count
        if not point.count or isinstance(point, ExponentialHistogramDataPoint):
            return
        if self.bounds is None:
            self.bounds, self.buckets = tuple(point.explicit_bounds), [0] * len(point.bucket_counts)
        if self.bounds == tuple(point.explicit_bounds):
            self.buckets = [a + b for a, b in zip(self.buckets, point.bucket_counts, strict=True)]
        self.least, self.greatest = min(self.least, point.min), max(self.greatest, point.max)

    def quantile(self, q: float) -> tuple[float, float, float] | None:
        """The estimate and the bounds of its bucket, in seconds; None where the buckets do not hold every point."""
        if self.bounds is None or not self.count or sum(self.buckets) != self.count:
            return None
        rank = q * self.count
        sums = enumerate(accumulate(self.buckets))
        index, reached = next((i, reached) for i, reached in sums if reached >= rank and self.buckets[i])
        lower = self.bounds[index - 1] if index else 0.0
        upper = self.bounds[index] if index < len(self.bounds) else math.inf
        # The extremes are known exactly, so no estimate need lie beyond them.
        low, high = max(lower, self.least), min(upper, self.greatest)
        share = (rank - (reached - self.buckets[index])) / self.buckets[index]
        return (low + (high - low) * share if math.isfinite(high) else low), lower, upper


def summary_table(metrics_data: MetricsData | None, *, encoding: str | None = "utf-8") -> str:
    """Return a table of every operation's count, errors and duration quantiles, for a terminal.

    The quantiles are estimates: linear within the histogram bucket that holds them, whose bounds (lower, upper] are
    stated beside, and within the least and greatest duration seen.

    Args:
        metrics_data: What a metric reader collected, ``mlobs.operation.duration`` among it.
        encoding: Of the stream that the table is for; without box and Greek letters where it has none.
    """
    glyphs = glyphs_for(encoding)[1]
    totals: dict[tuple[str, str], _Total] = {}
    for name, point in _points(metrics_data):
        if name == semconv.OPERATION_DURATION.name and not isinstance(point, NumberDataPoint):
            totals.setdefault(_operation_of(point.attributes), _Total()).add(point)
        elif name == semconv.OPERATION_ERRORS.name and isinstance(point, NumberDataPoint):
            totals.setdefault(_operation_of(point.attributes), _Total()).errors += int(point.value)
    if not totals:
        return "No operation was recorded.\n"

    def order(item: tuple[tuple[str, str], _Total]) -> tuple[int, tuple[str, str]]:
        operation = item[0][0]
        return _ORDER.index(operation) if operation in _ORDER else len(_ORDER), item[0]

    def estimate(total: _Total, q: float) -> tuple[str, str]:
        if (quantile := total.quantile(q)) is None:
            return glyphs.dash, ""
        value, lower, upper = quantile
        return format_duration(value, glyphs.micro), _bucket(lower, upper, glyphs.dash)

    table = [("operation", "count", "errors", "p50", "bucket", "p99", "bucket")]
    table += [
        (" ".join(key).rstrip(), f"{total.count:,}", f"{total.errors:,}", *estimate(total, 0.5), *estimate(total, 0.99))
        for key, total in sorted(totals.items(), key=order)
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = (0, 4, 6)  # text and the buckets; numbers are aligned to the right
    return "".join(
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in table
    )


def _points(metrics_data: MetricsData | None) -> Iterator[tuple[str, DataPointT]]:
    for resource in metrics_data.resource_metrics if metrics_data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points: Iterable[DataPointT] = metric.data.data_points
                for point in points:
                    yield metric.name, point


def _operation_of(attributes: Attributes) -> tuple[str, str]:
    """The operation, and its target as its span's name has it, with the model's version."""
    attributes = attributes or {}
    target = next((str(attributes[key]) for key in _TARGETS if key in attributes), "")
    version = attributes.get(semconv.MODEL_VERSION)
    label = f"{target} v{str(version).removeprefix('v')}" if version is not None else target
    return str(attributes.get(semconv.OPERATION_NAME, "?")), label.strip()


def _bucket(lower: float, upper: float, dash: str) -> str:
    factor, unit = (1e3, "ms") if (lower if math.isinf(upper) else upper) < 1 else (1.0, "s")
    if math.isinf(upper):
        return f"> {lower * factor:g} {unit}"
    return f"{lower * factor:g}{dash}{upper * factor:g} {unit}"
