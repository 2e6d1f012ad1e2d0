"""The OTLP-JSON file exporters, against protobuf's own JSON parser and real files, processes and limits."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_mlobs.telemetry.exporters import (
    FileLogExporter,
    FileMetricExporter,
    FileSpanExporter,
    FileWriter,
    decode_line,
    encode_line,
)

RESOURCE = Resource({"service.name": "bestellungen-käse", "replicas": 3})
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
REMOTE = SpanContext(TRACE_ID, 0x00F067AA0BA902B7, is_remote=True, trace_flags=TraceFlags(1))


def parse(line: bytes, request: Any) -> Any:
    """Parse an OTLP-JSON line with protobuf's own JSON parser, after turning every id key found anywhere to base64."""

    def with_base64_ids(value: Any) -> Any:
        if isinstance(value, list):
            return [with_base64_ids(item) for item in value]
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(item)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else with_base64_ids(item)
                for key, item in value.items()
            }
        return value

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    document = with_base64_ids(json.loads(line, parse_constant=no_constant))
    return json_format.ParseDict(document, type(request)())


def rich_spans(file_exporter: FileSpanExporter | None = None) -> InMemorySpanExporter:
    """Record, through the SDK, spans with everything that a span can have."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    for exporter in filter(None, (memory, file_exporter)):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope", "1.2", "https://opentelemetry.io/schemas/1.30.0", {"scope.attribute": True})
    parent = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    attributes = {
        "text": 'größe – 模型 🎉\n\u2028"quoted\\\x00',
        "empty": "",
        "true": True,
        "int": 2**63 - 1,
        "negative": -(2**53) - 1,
        "float": 0.1,
        "whole": 3.0,
        "nan": float("nan"),
        "infinities": [float("inf"), float("-inf"), -0.0],
        "texts": ["a", "ß"],
        "bools": [True, False],
        "ints": [1, 2**62],
        "bytes": b"\x00\xff",
        "traceId": "not-an-id",
        "nested": {"spanId": "zz", "deep": {"list": [1, "two"]}},
    }
    with tracer.start_as_current_span("POST /großes", parent, SpanKind.SERVER, attributes) as span:
        span.add_event("event", {"traceId": "text", "n": 2**60}, timestamp=1_700_000_000_123_456_789)
        with (
            pytest.raises(ValueError, match="bad"),
            tracer.start_as_current_span("child", links=[Link(REMOTE, {"why": "batch"})]),
        ):
            raise ValueError("bad ⚠ value")
        span.set_status(Status(StatusCode.ERROR, "beschädigt"))
    provider.shutdown()
    return memory


def rich_metrics(*readers: Any) -> None:
    """Record, through the SDK, every kind of metric point, exemplars among them."""
    views = [View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())]
    provider = MeterProvider(readers, RESOURCE, views=views, shutdown_on_exit=False)
    meter = provider.get_meter("scope", "1.2")
    context = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    meter.create_counter("ints", "{row}", "Größe").add(2**62, {"model": "churn"}, context)
    meter.create_up_down_counter("floats").add(-0.5)
    meter.create_gauge("gauge").set(0.25)
    for value in (0.003, 0.07, 12.0):
        meter.create_histogram("explicit", "s", explicit_bucket_boundaries_advisory=[0.01, 0.1]).record(
            value, {"route": "/ü"}, context
        )
        meter.create_histogram("exponential").record(value, {}, context)


def test_spans_come_back_from_the_file_as_they_were_encoded(tmp_path: Path) -> None:
    """Spans with links, events, exceptions, every attribute type, NaN and 64-bit integers lose nothing in the file."""
    path = tmp_path / "telemetry.jsonl"
    memory = rich_spans(FileSpanExporter(FileWriter(path)))
    lines = path.read_bytes().splitlines(keepends=True)
    spans = memory.get_finished_spans()
    assert [span.name for span in spans] == ["child", "POST /großes"]
    for line, span in zip(lines, spans, strict=True):
        expected = encode_spans([span])
        assert parse(line, expected) == expected
        assert decode_line(line) == ("traces", expected)


def test_spans_are_written_as_the_specification_has_them(tmp_path: Path) -> None:
    """Ids are lower-case hex, also in links, enums integers, 64-bit integers strings, names camelCase, NaN a string."""
    path = tmp_path / "telemetry.jsonl"
    rich_spans(FileSpanExporter(FileWriter(path)))
    child, server = (
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for line in path.read_bytes().splitlines()
    )
    assert server["traceId"] == child["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert server["parentSpanId"] == child["links"][0]["spanId"] == "00f067aa0ba902b7"
    assert child["links"][0]["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert child["parentSpanId"] == server["spanId"]
    assert (server["kind"], server["status"]) == (2, {"message": "beschädigt", "code": 2})
    assert server["events"][0]["timeUnixNano"] == "1700000000123456789"
    values = {attribute["key"]: attribute["value"] for attribute in server["attributes"]}
    assert values["int"] == {"intValue": "9223372036854775807"}
    assert values["nan"] == {"doubleValue": "NaN"}
    assert values["traceId"] == {"stringValue": "not-an-id"}
    assert values["bytes"] == {"bytesValue": "AP8="}


def test_metrics_come_back_from_the_file_as_they_were_encoded(tmp_path: Path) -> None:
    """Sums, gauges, both histograms and their exemplars lose nothing, and exemplars have hexadecimal ids."""
    path = tmp_path / "telemetry.jsonl"
    memory = InMemoryMetricReader()
    rich_metrics(memory)
    data = memory.get_metrics_data()
    assert data is not None
    exporter = FileMetricExporter(FileWriter(path))
    assert exporter.export(data) is MetricExportResult.SUCCESS
    expected = encode_metrics(data)
    assert parse(path.read_bytes(), expected) == expected
    assert decode_line(path.read_bytes()) == ("metrics", expected)

    metrics = json.loads(path.read_bytes())["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    kinds = {kind for metric in metrics for kind in metric if kind not in ("name", "unit", "description")}
    assert kinds == {"sum", "gauge", "histogram", "exponentialHistogram"}
    for metric in metrics:
        if metric["name"] in ("ints", "explicit", "exponential"):
            (kind,) = kinds & metric.keys()
            exemplar = metric[kind]["dataPoints"][0]["exemplars"][0]
            assert (exemplar["traceId"], exemplar["spanId"]) == ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7")
            assert metric[kind]["aggregationTemporality"] == 2


def test_logs_come_back_from_the_file_as_they_were_encoded(tmp_path: Path) -> None:
    """Log records keep their body, severity, attributes and trace context; those without a trace have no ids."""
    path = tmp_path / "telemetry.jsonl"
    memory = InMemoryLogRecordExporter()
    provider = LoggerProvider(RESOURCE)
    exporter = FileLogExporter(FileWriter(path))
    for each in (memory, exporter):
        provider.add_log_record_processor(SimpleLogRecordProcessor(each))
    logger = provider.get_logger("scope")
    logger.emit(
        LogRecord(
            timestamp=1,
            context=trace.set_span_in_context(trace.NonRecordingSpan(REMOTE)),
            severity_number=SeverityNumber.WARN,
            severity_text="WARN",
            body={"größe": [1, float("nan")]},
            attributes={"traceId": "text", "n": 2**60},
            event_name="mlobs.drift",
        )
    )
    logger.emit(LogRecord(body="plain"))
    provider.force_flush()
    lines = path.read_bytes().splitlines()
    records = memory.get_finished_logs()
    assert len(records) == 2
    for line, record in zip(lines, records, strict=True):
        expected = encode_logs([record])
        assert parse(line, expected) == expected
        assert decode_line(line) == ("logs", expected)
    first, second = (json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0] for line in lines)
    assert (first["traceId"], first["severityNumber"]) == ("0af7651916cd43dd8448eb211c80319c", 13)
    assert "traceId" not in second
    provider.shutdown()


values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.just(float("nan")),
    st.text(),
    st.lists(st.text()),
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.dictionaries(st.text(min_size=1), values))
def test_any_span_is_one_line_that_decodes_to_itself(name: str, attributes: dict[str, Any]) -> None:
    """Whatever names and attribute values a span has, it is one line of valid JSON and comes back byte for byte."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    provider.get_tracer("scope").start_span(name, attributes=attributes).end()
    request = encode_spans(memory.get_finished_spans())
    line = encode_line(request)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    _, decoded = decode_line(line)
    assert decoded.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)


FOREIGN_LINE = (
    b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"churn"}}]},'
    b'"scopeSpans":[{"scope":{},"spans":[{"traceId":"0AF7651916CD43DD8448EB211C80319C","spanId":"00f067aa0ba902b7",'
    b'"parentSpanId":"","name":"p","kind":3,"startTimeUnixNano":"1","endTimeUnixNano":2,"links":null,"status":{},'
    b'"addedNextYear":{"x":[1]}}]}]}],"another":1}'
)


def test_lines_of_other_writers_are_understood() -> None:
    """Upper-case ids, empty ids, nulls, numbers for 64-bit integers and unknown fields are all allowed by OTLP JSON."""
    signal, request = decode_line(FOREIGN_LINE)
    span = request.resource_spans[0].scope_spans[0].spans[0]  # type: ignore[union-attr]
    assert (signal, span.name, span.kind) == ("traces", "p", 3)
    assert span.trace_id == TRACE_ID.to_bytes(16, "big")
    assert (span.parent_span_id, span.start_time_unix_nano, span.end_time_unix_nano) == (b"", 1, 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (FOREIGN_LINE[:200], "not JSON"),
        (b'{"resourceSpans":"\xff"}', "not UTF-8"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"resourceProfiles":[]}', "expected one of .* got resourceProfiles"),
        (b'{"resourceSpans":[{"scopeSpans":[7]}]}', "not OTLP JSON"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":5}]}]}]}', "not OTLP JSON"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"12"}]}]}]}', "traceId must be 32 hexadecimal"),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":"00f067aa0ba902bg"}]}]}]}', "spanId must be 16 hexa"),
        (b'{"resourceSpans":' + b"[" * 100_000, "not OTLP JSON|not JSON"),
    ],
)
def test_a_damaged_line_says_in_what_way(line: bytes, reason: str) -> None:
    """A line that is no OTLP JSON raises a ValueError that names the damage, and nothing else."""
    with pytest.raises(ValueError, match=reason):
        decode_line(line)


def test_all_signals_share_one_file(tmp_path: Path) -> None:
    """A writer closed by the first exporter's shutdown still takes the last collection of the next one."""
    path = tmp_path / "telemetry.jsonl"
    writer = FileWriter(path)
    rich_spans(FileSpanExporter(writer))  # shuts its exporter down
    reader = PeriodicExportingMetricReader(FileMetricExporter(writer), export_interval_millis=1e9)
    rich_metrics(reader)
    reader.shutdown()
    assert {decode_line(line)[0] for line in path.read_bytes().splitlines()} == {"traces", "metrics"}


def test_nothing_is_written_for_an_empty_batch(tmp_path: Path) -> None:
    """An empty batch leaves no line, and not even a file."""
    path = tmp_path / "telemetry.jsonl"
    assert FileSpanExporter(FileWriter(path)).export([]) is SpanExportResult.SUCCESS
    assert not path.exists()


def test_an_exporter_refuses_batches_after_shutdown(tmp_path: Path) -> None:
    """After shutdown an export fails and writes nothing, as the SDK's own exporters do."""
    path = tmp_path / "telemetry.jsonl"
    spans = rich_spans().get_finished_spans()
    exporter = FileSpanExporter(FileWriter(path))
    exporter.shutdown()
    assert exporter.export(spans) is SpanExportResult.FAILURE
    assert not path.exists()


def test_a_span_that_cannot_be_encoded_is_a_failure(tmp_path: Path, lenient: None) -> None:
    """A name that is no Unicode text, which protobuf refuses, fails its batch and raises nothing."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    provider.get_tracer("scope").start_span("lone surrogate \ud800").end()
    exporter = FileSpanExporter(FileWriter(tmp_path / "telemetry.jsonl"))
    assert exporter.export(memory.get_finished_spans()) is SpanExportResult.FAILURE


def test_a_missing_folder_is_said_at_construction(tmp_path: Path) -> None:
    """A path in a folder that does not exist raises at once and names the folder."""
    with pytest.raises(FileNotFoundError, match=r"the folder '.*/missing' of the telemetry file 'x.jsonl' does not"):
        FileWriter(tmp_path / "missing" / "x.jsonl")
    with pytest.raises(IsADirectoryError, match="must be a file, got the folder"):
        FileWriter(tmp_path)


def test_a_relative_path_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that changes its working directory later still writes to the file it named."""
    monkeypatch.chdir(tmp_path)
    writer = FileWriter("x.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert writer.write(b"{}\n")
    writer.close()
    assert (tmp_path / "x.jsonl").read_bytes() == b"{}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_a_failure_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that takes nothing makes every signal's export fail, with one warning, and raises nothing."""
    writer = FileWriter("/dev/full")
    spans = rich_spans().get_finished_spans()
    reader = InMemoryMetricReader()
    rich_metrics(reader)
    data = reader.get_metrics_data()
    assert data is not None
    with caplog.at_level(logging.WARNING):
        assert FileSpanExporter(writer).export(spans) is SpanExportResult.FAILURE
        assert FileMetricExporter(writer).export(data) is MetricExportResult.FAILURE
        assert writer.write(b"{}\n") is False
    assert caplog.messages == ["Telemetry is lost: cannot write to /dev/full: No space left on device"]


def test_a_log_batch_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    """A file that has become a folder fails log batches, and the file is used again once it can be."""
    path = tmp_path / "telemetry.jsonl"
    exporter = FileLogExporter(FileWriter(path))
    memory = InMemoryLogRecordExporter()
    provider = LoggerProvider(RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    provider.get_logger("scope").emit(LogRecord(body="x"))
    path.mkdir()
    assert exporter.export(memory.get_finished_logs()) is LogRecordExportResult.FAILURE
    path.rmdir()
    assert exporter.export(memory.get_finished_logs()) is LogRecordExportResult.SUCCESS
    assert decode_line(path.read_bytes())[0] == "logs"
    provider.shutdown()


def test_a_line_after_a_torn_one_begins_on_its_own(tmp_path: Path) -> None:
    """What a process that was killed within a line left behind does not take the next process's line with it."""
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(b'{"resourceSpans":[{"res')
    writer = FileWriter(path)
    assert writer.write(b'{"resourceSpans":[]}\n')
    assert writer.write(b'{"resourceLogs":[]}\n')
    writer.close()
    assert path.read_bytes() == b'{"resourceSpans":[{"res\n{"resourceSpans":[]}\n{"resourceLogs":[]}\n'


def run_script(script: str, *arguments: object) -> str:
    """Run Python code in a process of its own and return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_a_line_that_the_disk_took_in_part_is_a_failure(tmp_path: Path) -> None:
    """A file that may not grow takes half a line: a failure, and the next line, once there is room, is whole."""
    path = tmp_path / "telemetry.jsonl"
    output = run_script(
        """
        import resource, sys
        from otel_mlobs.telemetry.exporters import FileWriter
        writer = FileWriter(sys.argv[1])
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
        print(writer.write(b"a" * 149 + b"\\n"), writer.write(b"b\\n"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        print(writer.write(b"c\\n"), writer.write(b"d\\n"))
        """,
        path,
    )
    assert output.split() == ["False", "False", "True", "True"]
    assert path.read_bytes() == b"a" * 100 + b"\nc\nd\n"


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX users")
def test_a_file_that_may_not_be_written_is_said_at_construction() -> None:
    """A folder without write permission raises a PermissionError that names the file."""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: no other user may look into it
        Path(folder).chmod(0o555)
        output = run_script(
            """
            import os, sys
            from otel_mlobs.telemetry.exporters import FileWriter
            if os.getuid() == 0:  # root may write everywhere
                os.setuid(65534)
            try:
                FileWriter(sys.argv[1] + "/x.jsonl")
            except PermissionError as error:
                print(error)
            """,
            folder,
        )
    assert output.strip() == f"no permission to write the telemetry file '{folder}/x.jsonl'"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_share_a_file_without_torn_lines(tmp_path: Path) -> None:
    """Four children forked while threads write, and those threads, lose no line and mix none."""
    path = tmp_path / "telemetry.jsonl"
    run_script(
        """
        import json, os, sys, threading, warnings
        from otel_mlobs.telemetry.exporters import FileWriter
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads, which is what is tried here
        writer = FileWriter(sys.argv[1])

        def work(who):
            for number in range(50):
                line = json.dumps({"who": who, "number": number, "filling": "x" * (number * 2_000)})
                assert writer.write(line.encode() + b"\\n")

        threads = [threading.Thread(target=work, args=(f"parent {i}",)) for i in range(2)]
        for thread in threads:
            thread.start()
        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    work(f"child {child}")
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
        for thread in threads:
            thread.join()
        sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
        """,
        path,
    )
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(lines) == 6 * 50
    for who in (*(f"child {i}" for i in range(4)), "parent 0", "parent 1"):
        assert [line["number"] for line in lines if line["who"] == who] == list(range(50))
