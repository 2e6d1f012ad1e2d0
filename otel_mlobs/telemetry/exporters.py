"""Telemetry to a file: OTLP-JSON lines, which ``otel-mlobs replay`` or a Collector sends later.

The format is OpenTelemetry's `OTLP file exporter <https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>`_:
one JSON object a line, ids in lower-case hexadecimal, enums as integers, 64-bit integers as strings, camelCase names.
Unlike that draft, one file may hold traces, metrics and logs together; each line says which it is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.view import Aggregation
    from opentelemetry.sdk.trace import ReadableSpan

    Request: TypeAlias = "ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest"

_logger = logging.getLogger(__name__)
_Data = TypeVar("_Data")
_Owner = TypeVar("_Owner")

_REQUESTS: dict[str, tuple[str, type[Request]]] = {
    "resourceSpans": ("traces", ExportTraceServiceRequest),
    "resourceMetrics": ("metrics", ExportMetricsServiceRequest),
    "resourceLogs": ("logs", ExportLogsServiceRequest),
}
SIGNALS = tuple(signal for signal, _ in _REQUESTS.values())
"""The signals a line can hold: ``traces``, ``metrics``, ``logs``."""

_ID_BYTES = {"traceId": 16, "spanId": 8, "parentSpanId": 8}


def encode_line(request: Request) -> bytes:
    """Return the request as one OTLP-JSON line in UTF-8, its newline included.

    The line is valid JSON whatever the values: NaN and the infinities become the strings that protobuf's JSON mapping
    gives them.
    """
    document: dict[str, Any] = json_format.MessageToDict(request, use_integers_for_enums=True)
    _convert_ids(document, _base64_to_hex)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> tuple[str, Request]:
    """Return the signal of an OTLP-JSON line and its request, as :func:`encode_line` or a Collector wrote it.

    Fields that this version of OTLP does not know are passed over, as the protocol asks.

    Raises:
        ValueError: The line is no OTLP JSON; the message says in what way.
    """
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError(f"expected a JSON object, got {type(document).__name__}")  # noqa: TRY004
        key = next((key for key in _REQUESTS if key in document), None)
        if key is None:
            raise ValueError(f"expected one of {', '.join(_REQUESTS)}, got {', '.join(document)[:80] or 'nothing'}")
        _convert_ids(document, _hex_to_base64)
        signal, request_type = _REQUESTS[key]
        return signal, json_format.ParseDict(document, request_type(), ignore_unknown_fields=True)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except (json_format.Error, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not OTLP JSON: {error}"[:200]) from None


def _convert_ids(document: dict[str, Any], convert: Callable[[str, int], str]) -> None:
    for holder in _id_holders(document):
        for key, size in _ID_BYTES.items():
            if holder.get(key):
                try:
                    holder[key] = convert(holder[key], size)
                except ValueError:
                    raise ValueError(f"{key} must be {2 * size} hexadecimal digits, got {holder[key]!r:.80}") from None


def _base64_to_hex(value: str, _size: int) -> str:
    return base64.b64decode(value).hex()


def _hex_to_base64(value: str, size: int) -> str:
    if len(value) != 2 * size:
        raise ValueError(value)
    return base64.b64encode(bytes.fromhex(value)).decode("ascii")


def _id_holders(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every object of the document that has id fields: protobuf's JSON has them in base64, OTLP's in hex."""
    for scope in _nested(document, "resourceSpans", "scopeSpans"):
        for span in _nested(scope, "spans"):
            yield span
            yield from _nested(span, "links")
    for scope in _nested(document, "resourceMetrics", "scopeMetrics"):
        for metric in _nested(scope, "metrics"):
            for kind in ("gauge", "sum", "histogram", "exponentialHistogram"):
                yield from _nested(metric.get(kind) or {}, "dataPoints", "exemplars")
    yield from _nested(document, "resourceLogs", "scopeLogs", "logRecords")


def _nested(document: dict[str, Any], key: str, *keys: str) -> Iterator[dict[str, Any]]:
    for item in document.get(key) or ():  # null is protobuf's JSON for an absent field
        if keys:
            yield from _nested(item, *keys)
        else:
            yield item


def after_fork_in_child(owner: _Owner, reset: Callable[[_Owner], None]) -> None:
    """Call ``reset(owner)`` in every child process forked from now on, for as long as the owner lives."""
    if hasattr(os, "register_at_fork"):
        reference = weakref.ref(owner)

        def call() -> None:
            if (alive := reference()) is not None:
                reset(alive)

        os.register_at_fork(after_in_child=call)


class FileWriter:
    """Appends whole lines to a file, so that threads, forked processes and all signals can share it.

    Every line is one ``write()`` to a descriptor opened for appending: lines of several processes do not mix. A line
    that the disk took only in part is left alone, and the next begins on a line of its own.

    Args:
        path: The file to append to; it is created with the first line. Relative to the present working directory, even
            if that changes later.

    Raises:
        FileNotFoundError: The file's folder does not exist.
        IsADirectoryError: The path is a folder.
        PermissionError: The file may not be written, or not be created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        folder = self.path.parent
        if self.path.is_dir():
            raise IsADirectoryError(f"telemetry file must be a file, got the folder '{self.path}'")
        if not folder.is_dir():
            raise FileNotFoundError(
                f"the folder '{folder}' of the telemetry file '{self.path.name}' does not exist: create it, "
                f"or give the path of a file in a folder that does"
            )
        if not os.access(self.path if self.path.exists() else folder, os.W_OK):
            raise PermissionError(f"no permission to write the telemetry file '{self.path}'")
        self._failing = False
        self._start_afresh()
        self._torn = self._ends_torn()
        after_fork_in_child(self, FileWriter._start_afresh)

    def _start_afresh(self) -> None:
        # An inherited descriptor is not closed here: a daemon may have closed it and given its number to another file.
        # Reentrant: a generator that is collected while a line is written ends its span, and thus comes back here.
        self._lock = threading.RLock()
        self._descriptor: int | None = None
        self._torn = False

    def write(self, line: bytes) -> bool:
        """Append the line, which must end with a newline; False, with one warning, if the system refused it."""
        with self._lock:
            problem = self._append(line)
            changed = self._failing is (problem is None)
            self._failing = problem is not None
        # Outside the lock, since the warning itself may come back here as a log record.
        if changed and problem is not None:
            _logger.warning("Telemetry is lost: cannot write to %s: %s", self.path, problem)
        elif changed:
            _logger.warning("Telemetry is written to %s again", self.path)
        return problem is None

    def close(self) -> None:
        """Close the file; a later line opens it again, so that each exporter that shares it may call this."""
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> str | None:
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            data = b"\n" + line if self._torn else line
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._close()
            return error.strerror or str(error)
        self._torn = written < len(data)
        return f"only {written} of {len(data)} bytes were taken" if self._torn else None

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)

    def _ends_torn(self) -> bool:
        """Whether whoever wrote to the file before was stopped within a line."""
        if not self.path.is_file():
            return False
        try:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:  # empty, or not ours to read
            return False

    def _close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None


class _FileSignal:
    """What the exporters of the three signals have in common."""

    def __init__(self, writer: FileWriter) -> None:
        self._writer = writer
        self._stopped = False

    def write(self, encode: Callable[[_Data], Request], data: _Data) -> bool:
        if self._stopped:
            return False
        try:
            request = encode(data)
            line = encode_line(request) if request.ByteSize() else b""
        except Exception as error:  # noqa: BLE001 - no value that users record may reach them as an exception
            guard.report("file exporter", error)
            return False
        return not line or self._writer.write(line)

    def stop(self) -> None:
        self._stopped = True
        self._writer.close()


class FileSpanExporter(SpanExporter):
    """Writes spans to a file as OTLP-JSON lines; what cannot be written is a FAILURE, never an exception."""

    def __init__(self, writer: FileWriter) -> None:
        self._signal = _FileSignal(writer)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the batch as one line."""
        return SpanExportResult.SUCCESS if self._signal.write(encode_spans, spans) else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Close the file; later batches are refused."""
        self._signal.stop()


class FileMetricExporter(MetricExporter):
    """Writes metrics to a file as OTLP-JSON lines; what cannot be written is a FAILURE, never an exception.

    Args:
        writer: The file.
        preferred_temporality: As for the SDK's exporters; cumulative unless given.
        preferred_aggregation: As for the SDK's exporters.
    """

    def __init__(
        self,
        writer: FileWriter,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
    ) -> None:
        super().__init__(preferred_temporality, preferred_aggregation)
        self._signal = _FileSignal(writer)

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> MetricExportResult:
        """Append the collection as one line."""
        written = self._signal.write(encode_metrics, metrics_data)
        return MetricExportResult.SUCCESS if written else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Return True: nothing is held back."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the file; later collections are refused."""
        self._signal.stop()


class FileLogExporter(LogRecordExporter):
    """Writes log records to a file as OTLP-JSON lines; what cannot be written is a FAILURE, never an exception."""

    def __init__(self, writer: FileWriter) -> None:
        self._signal = _FileSignal(writer)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Append the batch as one line."""
        written = self._signal.write(encode_logs, batch)
        return LogRecordExportResult.SUCCESS if written else LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Close the file; later batches are refused."""
        self._signal.stop()
