"""``configure()``: one call that sets up traces, metrics and logs, and what flushes and stops them again."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from otel_mlobs import settings as settings_room
from otel_mlobs.errors import ConfigurationError, MissingExtraError
from otel_mlobs.settings.checks import number
from otel_mlobs.telemetry import collected, foreign, guard, hooks, instruments, objectives, running, vendors
from otel_mlobs.telemetry import operations as _operations  # noqa: F401 - loaded now: a fork or a signal in the middle of a later import would find half of it
from otel_mlobs.telemetry.bounded import Signal, flush_all, stop_all
from otel_mlobs.telemetry.instruments import DEFAULT_DURATION_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from opentelemetry.sdk.trace import SpanProcessor

    from otel_mlobs.settings import Pipeline, Settings
    from otel_mlobs.telemetry.pipelines import MetricPipeline, PerProcess
    from otel_mlobs.telemetry.resource import ProcessResource

_logger = logging.getLogger("otel_mlobs")

DEFAULT_FLUSH_TIMEOUT = 10.0


class _State:
    """What ``configure`` built in this process."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.signals: list[Signal] = []
        self.sending: list[PerProcess] = []
        self.log_handlers: list[logging.Handler] = []
        self.metrics: MetricPipeline | None = None
        self.stopping = threading.Lock()  # whoever gets it stops; it is not given back
        self.stopped = threading.Event()
        self.sent = True


_state = _State()
_configuring = threading.Lock()


def configure(
    service_name: str | None = None,
    *,
    backend: str | None = None,
    endpoint: str | None = None,
    traces_endpoint: str | None = None,
    metrics_endpoint: str | None = None,
    logs_endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: str | None = None,
    timeout: float | None = None,
    certificate: str | None = None,
    client_certificate: str | None = None,
    client_key: str | None = None,
    path: str | os.PathLike[str] | None = None,
    logs: bool | None = None,
    service_version: str | None = None,
    service_namespace: str | None = None,
    environment: str | None = None,
    instance_id: str | None = None,
    resource_attributes: Mapping[str, str] | None = None,
    sampling: str | None = None,
    sampling_ratio: float | None = None,
    metric_interval: float | None = None,
    latency_objective: float | None = None,
    feature_age_objective: float | str | None = None,
    exception_messages: bool | None = None,
    gpu: bool | None = None,
    gpu_names: str | None = None,
    gpu_reporter: str | None = None,
    host: bool | None = None,
) -> None:
    """Set up telemetry for this process, once, and say plainly what is wrong if it cannot be.

    What is left out comes from the ``OTEL_*`` variables, then from the ``[configure]`` table of the file named by
    ``MLOBS_CONFIG``, then from the defaults. Providers that exist already, set by your code or by
    ``opentelemetry-instrument``, are used as they are.

    Args:
        service_name: ``service.name`` of everything sent.
        backend: ``"collector"`` (default), ``"jaeger"``, ``"tempo"``, ``"prometheus"``, ``"datadog"``, ``"xray"``,
            ``"cloudwatch"``, ``"console"`` (draws each request as a tree), ``"file"`` (OTLP-JSON lines at ``path``) or
            ``"none"``. Jaeger, Tempo and X-Ray get traces only, Prometheus metrics only: they refuse the rest.
            ``"xray"`` and ``"cloudwatch"`` need the extra ``aws``.
        endpoint: Base URL for all signals, as ``http://localhost:4318``.
        traces_endpoint: Base URL for traces; given alone, without ``backend``, only the named signals are sent.
        metrics_endpoint: Base URL for metrics, as ``http://prometheus:9090/api/v1/otlp``.
        logs_endpoint: Base URL for logs.
        protocol: ``"http/protobuf"`` (default) or ``"grpc"``.
        headers: Sent with every request; their values show in no repr and no log.
        compression: ``"none"`` (default), ``"gzip"`` or, over HTTP, ``"deflate"``.
        timeout: Seconds that one request may take, retries included; 10 unless set.
        certificate: File with the certificate authorities to trust.
        client_certificate: File with the client's certificate, for mutual TLS.
        client_key: File with its key.
        path: The file that ``backend="file"`` appends to.
        logs: Put trace and span ids on Python's log records, and send them as OTLP logs where the backend takes them.
            Needs the extra ``logs``.
        service_version: ``service.version``.
        service_namespace: ``service.namespace``.
        environment: ``deployment.environment.name``, as ``"production"``.
        instance_id: ``service.instance.id``; a random one unless set. Forked children add ``/<pid>`` to it.
        resource_attributes: Further attributes of the resource.
        sampling: ``"ratio"`` (default), or ``"tail"``: a trace is judged when its request has ended, and kept where it
            failed, was slower than ``latency_objective``, has an odd or drifting prediction (one a second of each), or
            is among ``sampling_ratio``, which must then be given.
        sampling_ratio: Share of traces to keep, 0 to 1, where the caller has not decided; all unless set here or by
            ``OTEL_TRACES_SAMPLER``.
        metric_interval: Seconds between metric exports; 15 unless set.
        latency_objective: Seconds; made a bound of the latency histogram, so that an alert on it is exact. 0.08
            unless set.
        feature_age_objective: How old features may be, in seconds or as ``"15m"``, where a ``feature_lookup`` has no
            ``objective`` of its own; none unless set, and then no lookup is stale.
        exception_messages: Whether spans carry exception messages. They quote values: false unless set.
        gpu: Report NVIDIA's GPUs as metrics, through NVML. ``CUDA_VISIBLE_DEVICES`` is heeded.
        gpu_names: ``"otel"`` (default), ``"dcgm"`` (the names and labels of NVIDIA's DCGM exporter), or ``"both"``.
        gpu_reporter: ``"elected"`` (default: of a service's processes on a host one reports, another when it dies), or
            ``"each"``.
        host: Report the machine, the container and this process as metrics, and describe them in the resource. Needs
            the extra ``host``.

    Raises:
        ConfigurationError: a value is wrong; nothing was changed.
        MissingExtraError: ``logs=True`` without the extra ``logs``, ``host=True`` without the extra ``host``, a backend
            of AWS without the extra ``aws``.
    """
    arguments = dict(locals())
    there = foreign.signals() if _state.settings is None else ()
    resolved = settings_room.resolve(arguments, taken=there)
    if resolved.logs and not resolved.disabled:
        _require_logging_instrumentation()
    if resolved.host and not resolved.disabled:
        _hardware("host").require()
    if not resolved.disabled and _state.settings is None:
        vendors.require(resolved)
    with _configuring:
        if _state.settings is not None:
            _logger.warning(
                "configure() was called before, for service %r: providers are set once per process, this call changes "
                "nothing",
                _state.settings.service_name,
            )
            return
        building = _Building()
        if not resolved.disabled:
            _build_or_refuse(building, resolved, there)
        _state.settings = resolved
        _logger.addHandler(_OursOnStderr())
        running.record_exception_messages(resolved.exception_messages)
        objectives.use(resolved.objectives)
        instruments.set_duration_bounds(settings_room.duration_bounds(DEFAULT_DURATION_BOUNDS, resolved.objectives))
        if resolved.disabled:
            _logger.warning("OTEL_SDK_DISABLED is set: nothing is recorded and nothing is sent")
            return
        for note in resolved.notes:
            _logger.warning("%s", note)
        foreign.name_ignored(there, arguments, resolved)
        vendors.propagate(resolved)
        for start in building.starts:
            start()
        for name in _HARDWARE:
            if getattr(resolved, name):
                _hardware(name).start(resolved)
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )
        atexit.register(shutdown)


_HARDWARE = ("gpu", "host")


def _hardware(name: str) -> Any:
    """The room of readings is above this one: it is found by entry point."""
    (point,) = entry_points(group="otel_mlobs_hardware", name=name)
    return point.load()


def force_flush(timeout: float = DEFAULT_FLUSH_TIMEOUT) -> bool:
    """Send what has been recorded so far; true if all of it went out within ``timeout`` seconds.

    Raises:
        ValueError: ``timeout`` is no finite number from 0.
    """
    return flush_all(_state.signals, _checked(timeout))


def shutdown(timeout: float = DEFAULT_FLUSH_TIMEOUT) -> bool:
    """Send what is left and stop; true if all of it went out within ``timeout`` seconds. Runs by itself at exit.

    Later operations run and are not recorded. Providers that were not ours are left alone. A call while another one
    stops waits for its answer, ``timeout`` seconds at most.

    Raises:
        ValueError: ``timeout`` is no finite number from 0.
    """
    timeout = _checked(timeout)
    if _state.settings is None:
        return True
    if not _state.stopping.acquire(blocking=False):
        return _state.stopped.wait(timeout) and _state.sent
    _state.sent = False
    try:
        hooks.run_before_shutdown(timeout / 2)
        _state.sent = stop_all(_state.signals, timeout)
        hooks.run_after_shutdown()
        _let_handlers_go()
    finally:
        _state.stopped.set()
    return _state.sent


def _checked(timeout: float) -> float:
    return number("timeout", timeout, at_least=0.0, at_most=threading.TIMEOUT_MAX)


def _let_handlers_go() -> None:
    for handler in _state.log_handlers:
        # Python flushes it after us at exit; it would start a thread for that, and from 3.12 on none starts any more.
        logging.getLogger().removeHandler(handler)
        handler.flush = _nothing  # type: ignore[method-assign]


def _nothing() -> None:
    """What is left to flush once all is sent."""


def active_settings() -> Settings | None:
    """What ``configure`` was told in this process, or None before it was called."""
    return _state.settings


class _Building:
    """What is built, and comes into force only once all of it is: OpenTelemetry takes a provider once."""

    def __init__(self) -> None:
        self.starts: list[Callable[[], object]] = []
        self.discards: list[Callable[[], object]] = []


def _build_or_refuse(building: _Building, resolved: Settings, there: Collection[settings_room.Signal]) -> None:
    """Build, or say what the SDK does not take, which reads variables of its own, and leave nothing behind."""
    try:
        _build(building, resolved, there)
    except Exception as error:
        for discard in building.discards:
            discard()
        if isinstance(error, ImportError):
            raise
        raise ConfigurationError(f"telemetry cannot be set up, see the OTEL_* variables: {error}") from error


def _build(building: _Building, resolved: Settings, there: Collection[settings_room.Signal]) -> None:
    """Build the providers that are not there yet."""
    from otel_mlobs.telemetry.resource import make_resource

    detected = _hardware("host").detected() if resolved.host else {}
    resource = make_resource(resolved.service_name, {**detected, **resolved.resource})
    traces, points, records = (resolved.pipeline(signal) for signal in settings_room.SIGNALS)
    if traces is not None:
        _build_traces(building, traces, resolved, resource)
    if points is not None:
        _build_metrics(building, points, resolved, resource)
    if resolved.logs:
        _build_logs(building, records, resource, sending=records is not None or "logs" in there)


def _build_traces(building: _Building, pipeline: Pipeline, resolved: Settings, resource: ProcessResource) -> None:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from otel_mlobs.telemetry.pipelines import Spans
    from otel_mlobs.telemetry.sampling import TailProcessor, TailSampler, sampler_of
    from otel_mlobs.telemetry.spans import OwnTracerProvider

    sampler = sampler_of(resolved)
    ids = vendors.id_generator(resolved)
    provider = OwnTracerProvider(sampler=sampler, resource=resource, id_generator=ids, shutdown_on_exit=False)
    building.discards.append(provider.shutdown)
    sending = _per_process(building, pipeline)
    exporter = Spans(sending)
    # A person watches the console: each tree is drawn as its request ends, not with the next batch.
    simple = pipeline.exporter == "console"
    processor: SpanProcessor = SimpleSpanProcessor(exporter) if simple else BatchSpanProcessor(exporter)
    if isinstance(sampler, TailSampler):
        decisions = sampler.decisions
        processor = TailProcessor(processor, decisions, slow=resolved.latency_objective)
        building.starts.append(lambda: collected.join(decisions, "sampling"))
    provider.add_span_processor(processor)
    building.starts.append(lambda: trace.set_tracer_provider(provider))
    building.starts.append(lambda: _add_signal("traces", provider.force_flush, provider.shutdown, sending))


def _capitals(resolved: Settings) -> Collection[str]:
    """Names of instruments that the SDK would write in small letters."""
    return () if resolved.gpu_names == "otel" else _hardware("gpu").DCGM_NAMES


def _build_metrics(building: _Building, pipeline: Pipeline, resolved: Settings, resource: ProcessResource) -> None:
    from opentelemetry.sdk.metrics.view import View

    from otel_mlobs.telemetry.pipelines import MetricPipeline
    from otel_mlobs.telemetry.readers import OwnMeterProvider

    made = MetricPipeline(_per_process(building, pipeline), resolved.metric_interval)
    building.discards.append(made.exporter.stop)
    views = [View(instrument_name=name.lower(), name=name) for name in _capitals(resolved)]
    provider = OwnMeterProvider(made.reader, resource=resource, views=views, shutdown_on_exit=False)

    def start() -> None:
        metrics.set_meter_provider(provider)
        made.start(provider)
        _state.metrics = made
        _add_signal("metrics", made.send_now, made.stop, made.exporter)

    building.starts.append(start)


def _build_logs(building: _Building, pipeline: Pipeline | None, resource: ProcessResource, *, sending: bool) -> None:
    from opentelemetry._logs import set_logger_provider

    if pipeline is not None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        from otel_mlobs.telemetry.pipelines import Logs

        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        building.discards.append(provider.shutdown)
        exporter = _per_process(building, pipeline)
        provider.add_log_record_processor(BatchLogRecordProcessor(Logs(exporter)))
        building.starts.append(lambda: set_logger_provider(provider))
        building.starts.append(lambda: _add_signal("logs", provider.force_flush, provider.shutdown, exporter))
    building.starts.append(lambda: _instrument_logging(sending=sending, ours=pipeline is not None))


def _instrument_logging(*, sending: bool, ours: bool) -> None:
    from opentelemetry.instrumentation.logging import LoggingInstrumentor

    instrumentor = LoggingInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()  # it knows neither of the provider nor of the ids
    root = logging.getLogger()
    before = list(root.handlers)
    instrumentor.instrument(
        inject_trace_context=True, enable_log_auto_instrumentation=sending, set_logging_format=False
    )
    for handler in root.handlers:
        if handler not in before:
            handler.addFilter(_not_while_sending)
            if ours:
                _state.log_handlers.append(handler)


def _not_while_sending(_: logging.LogRecord) -> bool:
    """Keep what is logged while telemetry is sent out of the logs that are sent: that would never end."""
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    return bool(is_instrumentation_enabled())


class _OursOnStderr(logging.Handler):
    """Prints our warnings where the application has set no logging up, as Python would.

    Python does so only while nobody handles a record, and OpenTelemetry's handler, which sends logs away, handles all.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        others = [one for one in (*_logger.handlers, *logging.getLogger().handlers) if one is not self]
        if logging.lastResort and all(type(one).__module__.startswith("opentelemetry.") for one in others):
            logging.lastResort.handle(record)


def _per_process(building: _Building, pipeline: Pipeline) -> PerProcess:
    from otel_mlobs.telemetry.pipelines import PerProcess

    return PerProcess(
        _maker(pipeline), _outage(building, pipeline), forks_wait=1.0 if pipeline.protocol == "grpc" else 0.2
    )


def _add_signal(name: str, flush: Callable[[], object], stop: Callable[[], object], sending: PerProcess) -> None:
    def run(call: Callable[[], object]) -> Callable[[], bool]:
        # The SDK's processors answer true whether or not the exporter took the batch.
        def answer() -> bool:
            refused = sending.refused
            return call() is not False and sending.refused == refused

        return answer

    _state.sending.append(sending)
    _state.signals.append(Signal(run(flush), run(stop), lambda: sending.is_down, name))


def _outage(building: _Building, pipeline: Pipeline) -> Any:
    if pipeline.exporter != "otlp":
        return None
    from otel_mlobs.telemetry.outage import Outage

    outage = Outage(pipeline)
    building.starts.append(outage.probe)
    return outage


def _maker(pipeline: Pipeline) -> Callable[[], Any]:
    """What makes the exporter of ``pipeline`` in the process that first uses it."""
    if pipeline.exporter == "console":
        from otel_mlobs.telemetry.console import ConsoleTreeExporter

        return ConsoleTreeExporter
    if pipeline.exporter == "file":
        from otel_mlobs.telemetry import exporters

        writer = exporters.FileWriter(pipeline.path or "")
        kinds: dict[str, Callable[[exporters.FileWriter], Any]] = {
            "traces": exporters.FileSpanExporter,
            "metrics": exporters.FileMetricExporter,
            "logs": exporters.FileLogExporter,
        }
        return lambda: kinds[pipeline.signal](writer)
    from otel_mlobs.telemetry.pipelines import otlp_exporter

    return lambda: otlp_exporter(pipeline)


def _require_logging_instrumentation() -> None:
    try:
        import opentelemetry.instrumentation.logging  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("logs=True", "logs", "opentelemetry-instrumentation-logging") from error


def _before_fork() -> None:
    if _state.metrics is not None:
        _state.metrics.before_fork()
    for sending in _state.sending:
        sending.before_fork()


def _finish_with_multiprocessing(_: object) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, shutdown, exitpriority=0)


def _after_fork_in_parent() -> None:
    for sending in _state.sending:
        sending.after_fork_in_parent()
    if _state.metrics is not None:
        _state.metrics.after_fork_in_parent()


def _after_fork_in_child() -> None:
    """Registered after the SDK's own hooks, so that theirs have run."""
    try:
        if _state.stopping.locked() and not _state.stopped.is_set():
            # The parent's thread that stops is not here: nothing is left to wait for, and nothing to send.
            _state.stopped = threading.Event()
            _state.stopped.set()
            _state.sent = True
        instruments.after_fork_in_child()
        for sending in _state.sending:
            sending.after_fork_in_child()
        for signal in _state.signals:
            signal.start()
        if _state.metrics is not None:
            _state.metrics.after_fork_in_child()
        if "multiprocessing.util" in sys.modules:
            # Its children leave through os._exit, where atexit is not heard, and forget at their start the finalizers
            # that exist by then: this one is asked for as late as that.
            sys.modules["multiprocessing.util"].register_after_fork(_state, _finish_with_multiprocessing)
    except Exception as error:  # noqa: BLE001 - a fork must not fail because of us
        guard.report("fork", error)
