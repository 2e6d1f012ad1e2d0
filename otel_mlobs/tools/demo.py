"""The main job in one command: serve a model, send it real rows, look at the traces. No server to install.

The model is a classifier of the churn kind, fitted on the census extract inside the package (see ``demo_data``); each
request goes over HTTP to a Flask server in this process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.telemetry.resource import make_resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from opentelemetry.sdk.metrics.export import MetricsData

SERVICE = "churn-demo"
DEFAULT_REQUESTS = 200
SECONDS_PER_REQUEST = 20.0
"""By the monitor's clock: the default is then an hour and some minutes of traffic, sent in seconds."""
DRIFTING = "AGEP"


@dataclass(frozen=True)
class DemoResult:
    """What the demo saw.

    Attributes:
        shown: The spans of the traces worth drawing: a usual request, the one that failed, the first with drift.
        metrics: What the operations' instruments measured.
        statuses: HTTP status → number of requests.
        drift: What the monitor says in the end.
        correct: Share of the answered rows whose label the model met at a threshold of one half.
        delivered: Whether the backend took everything; None where there is none.
        links: For each trace in ``shown``, its id and where to look at it, if that is known.
    """

    shown: list[list[ReadableSpan]]
    metrics: MetricsData | None
    drift: mlobs.MonitorStatus
    statuses: dict[int, int]
    correct: float
    delivered: bool | None
    links: list[tuple[str, str | None]]


def run(
    *,
    requests: int = DEFAULT_REQUESTS,
    backend: str | None = None,
    endpoint: str | None = None,
    ui: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Train, serve, send ``requests`` rows and one that makes the model fail, and say what was seen.

    Without ``endpoint`` nothing leaves the process. With it, traces go to that backend too (Jaeger unless ``backend``
    says otherwise), and ``ui`` is the base URL of its pages, guessed from the endpoint for Jaeger.

    Raises:
        ValueError: ``requests`` is not positive.
        MissingExtraError: the extra ``demo`` is not installed.
        ConfigurationError: the backend or endpoint is wrong.
    """
    drifting = -(-requests // 2)
    if requests < 1:
        raise ValueError(f"requests must be at least 1, got {requests}")
    spans, reader = _listen(backend, endpoint)
    try:
        from otel_mlobs.tools import churn

        say("Training a classifier on 4,000 census rows of 2015 …")
        reference, later = churn.load_rows()
        model = churn.train(reference)
        clock = _Clock(time.time() - SECONDS_PER_REQUEST * (requests + 1 + drifting))
        monitor = mlobs.Monitor(churn.fit_profile(model, reference), clock=clock)
        app = churn.create_app(model, later, monitor)
    except ModuleNotFoundError as error:
        raise MissingExtraError("the demo", "demo", error.name or "an extra") from error
    say(f"Serving it with Flask and sending {requests} later rows (2016 to 2018), and one that fails;")
    say(f"then {drifting} from a client that has begun to give ages in months …")
    say(f"(For the monitor {SECONDS_PER_REQUEST:g} s pass with each request, so that hours of traffic are played.)")
    with _quiet(), _serving(app) as port:
        statuses, correct = _play(port, later, requests, clock, monitor)
        _play(port, later, drifting, clock, monitor, statuses, months=True)
    delivered = mlobs.force_flush() if endpoint else None
    shown = _worth_showing(spans.get_finished_spans())
    links = [_link(trace_spans, endpoint, backend, ui) for trace_spans in shown]
    status = monitor.status()
    monitor.close()
    return DemoResult(shown, reader.get_metrics_data(), status, statuses, correct, delivered, links)


class _Clock:
    """The monitor's time: it passes with the requests."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


def _listen(backend: str | None, endpoint: str | None) -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """Set the providers up, with ears of our own beside the backend."""
    if endpoint:
        mlobs.configure(SERVICE, backend=backend or "jaeger", endpoint=endpoint)
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not isinstance(tracers, TracerProvider):
        tracers = TracerProvider(resource=make_resource(SERVICE, {}), shutdown_on_exit=False)
        trace.set_tracer_provider(tracers)
    if not isinstance(meters, MeterProvider):
        meters = MeterProvider(shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters.add_metric_reader(reader)
    return spans, reader


@contextlib.contextmanager
def _serving(app: Flask) -> Iterator[int]:
    """Serve ``app`` on a free port of the loopback interface; its access log and tracebacks stay quiet."""
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.logger.disabled = True  # the failing row is meant to fail, and its trace says why
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="otel_mlobs-demo", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(timeout=5.0)
        server.server_close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The monitor's warnings come as a table at the end."""
    loggers = [logging.getLogger(f"otel_mlobs.{name}") for name in ("drift", "performance")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _play(
    port: int,
    rows: Any,
    requests: int,
    clock: _Clock,
    monitor: mlobs.Monitor,
    statuses: dict[int, int] | None = None,
    *,
    months: bool = False,
) -> tuple[dict[int, int], float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    statuses = {} if statuses is None else statuses
    right = answered = 0

    def send(body: dict[str, Any]) -> dict[str, Any]:
        clock.now += SECONDS_PER_REQUEST
        connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        statuses[response.status] = statuses.get(response.status, 0) + 1
        answer: dict[str, Any] = json.loads(content) if response.status == 200 else {}
        return answer

    with contextlib.closing(connection):
        for number in range(requests):
            row = number % len(rows.ids)
            body: dict[str, Any] = {"customer_id": int(rows.ids[row])}
            if months:
                body["features"] = {DRIFTING: 12.0 * float(rows.features[row, 0])}
            answer = send(body)
            if answer:
                answered += 1
                right += (answer["probability"] >= 0.5) == bool(rows.labels[row])
                monitor.outcome(int(rows.labels[row]), score=answer["probability"])
            if number == requests // 2 and not months:
                send({"customer_id": int(rows.ids[row]), "features": {"AGEP": None}})
    return statuses, right / answered if answered else 0.0


def _worth_showing(spans: Any) -> list[list[ReadableSpan]]:
    traces: dict[int, list[ReadableSpan]] = {}
    for span in spans:
        traces.setdefault(span.context.trace_id, []).append(span)
    whole = [found for found in traces.values() if any(span.parent is None for span in found)]
    if not whole:
        return []
    failed = next((found for found in whole if any(not span.status.is_ok for span in found)), None)
    good = [found for found in whole if found is not failed]
    # The first request pays for imports and connections: the third says more of a usual one.
    usual = good[min(2, len(good) - 1)] if good else None
    drifted = next((found for found in good if any(_tells_of_drift(span) for span in found)), None)
    return [found for found in (usual, failed, drifted) if found is not None]


def _tells_of_drift(span: ReadableSpan) -> bool:
    """Whether it is the first that carries the status "drift"."""
    return any(
        event.name == semconv.DRIFT_EVENT and (event.attributes or {}).get(semconv.DRIFT_STATUS) == "drift"
        for event in span.events
    )


def _link(
    spans: list[ReadableSpan], endpoint: str | None, backend: str | None, ui: str | None
) -> tuple[str, str | None]:
    context = spans[0].context
    trace_id = format(context.trace_id, "032x") if context else ""
    if ui is None and endpoint and backend in (None, "jaeger"):
        parts = urlsplit(endpoint)
        ui = f"{parts.scheme}://{parts.hostname}:16686"
    return trace_id, f"{ui.rstrip('/')}/trace/{trace_id}" if ui else None
