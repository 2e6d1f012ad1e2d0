"""Workers that send OTLP requests made by hand and write down which were taken: what is lost can be named.

A library's exporter would try again and say at the end only whether all was well.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

SPANS = 3


def pairs(attributes: Mapping[str, str]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()]


def a_trace(
    resource: Mapping[str, str],
    trace_id: bytes,
    *,
    seconds: float = 0.01,
    failed: bool = False,
    attributes: Mapping[str, str] | None = None,
) -> ExportTraceServiceRequest:
    """A request with one trace that ends now: a root with ``attributes``, and its children."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add(resource=Resource(attributes=pairs(resource)))
    spans = resource_spans.scope_spans.add().spans
    ids = [random.randbytes(8) for _ in range(SPANS)]
    end = time.time_ns()
    for number, span_id in enumerate(ids):
        spans.add(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=ids[0] if number else b"",
            name=f"step {number}",
            kind=Span.SPAN_KIND_INTERNAL if number else Span.SPAN_KIND_SERVER,
            start_time_unix_nano=end - int(seconds * 1e9),
            end_time_unix_nano=end,
            attributes=[] if number else pairs(attributes or {}),
            status=Status(code=Status.STATUS_CODE_ERROR) if failed else None,
        )
    return request


def a_count(resource: Mapping[str, str], cell: str, value: int) -> ExportMetricsServiceRequest:
    """A request with one point of the counter `rows`: what came since the worker's last request."""
    request = ExportMetricsServiceRequest()
    resource_metrics = request.resource_metrics.add(resource=Resource(attributes=pairs(resource)))
    metric = resource_metrics.scope_metrics.add().metrics.add(name="rows")
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    now = time.time_ns()
    metric.sum.data_points.add(
        start_time_unix_nano=now - 1, time_unix_nano=now, as_int=value, attributes=pairs({"cell": cell})
    )
    return request


@dataclass
class Taken:
    """What was acknowledged, and when by the monotonic clock; `unsure` where a connection broke before an answer."""

    spans: dict[str, float] = field(default_factory=dict)
    counts: list[tuple[float, str, int]] = field(default_factory=list)
    unsure_spans: set[str] = field(default_factory=set)
    unsure_counts: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def totals(self, *, before: float = float("inf")) -> Counter[str]:
        """The acknowledged counts by cell, those before a moment."""
        totals: Counter[str] = Counter()
        for when, cell, value in self.counts:
            if when < before:
                totals[cell] += value
        return totals


class Load:
    """``workers`` threads that send traces and counts, each as an instance of its own, while the block runs."""

    def __init__(self, endpoint: str, service: str, *, workers: int = 8, pause: float = 0.05) -> None:
        self.taken = Taken()
        self._endpoint = endpoint
        self._service, self._pause = service, pause
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        draw = random.Random(number)
        resource = {"service.name": self._service, "service.instance.id": f"worker-{number}", "host.name": f"h{number}"}
        with Poster(self._endpoint) as post:
            while not self._end.wait(self._pause):
                trace = a_trace(resource, draw.randbytes(16))
                ids = [span.span_id.hex() for span in trace.resource_spans[0].scope_spans[0].spans]
                cell, value = draw.choice("abc"), draw.randint(1, 5)
                self._send(
                    post,
                    "/v1/traces",
                    trace,
                    taken=lambda now, ids=ids: self.taken.spans.update(dict.fromkeys(ids, now)),
                    unsure=lambda ids=ids: self.taken.unsure_spans.update(ids),
                )
                self._send(
                    post,
                    "/v1/metrics",
                    a_count(resource, cell, value),
                    taken=lambda now, cell=cell, value=value: self.taken.counts.append((now, cell, value)),
                    unsure=lambda cell=cell, value=value: self.taken.unsure_counts.update({cell: value}),
                )

    def _send(
        self, post: Poster, path: str, request: Any, taken: Callable[[float], None], unsure: Callable[[], None]
    ) -> None:
        status = post(path, request.SerializeToString())
        with self._lock:
            if status == 200:
                taken(time.monotonic())
            elif status is None:
                unsure()
            else:
                self.taken.refused += 1


class Poster:
    """Posts protobuf over a connection that is kept; an answer's status, 0 where none was made, None where it broke."""

    def __init__(self, endpoint: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __call__(self, path: str, body: bytes) -> int | None:
        """Post ``body``; a connection that the server closed while it was idle is opened again first."""
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError:
                time.sleep(0.05)
                return 0
        try:
            self._connection.request("POST", path, body, {"Content-Type": "application/x-protobuf"})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None
        return answer.status
