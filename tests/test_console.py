"""When the console backend draws: waiting spans, late ones, limits, threads, forks, broken streams."""

from __future__ import annotations

import gc
import io
import os
import re
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags
from span_recorder import MS, Recorder, drawn

from otel_mlobs.telemetry.console import ConsoleTreeExporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


def test_a_span_waits_for_its_local_root() -> None:
    """Nothing is drawn before the root ends, and a span whose parent is remote is such a root."""
    recorder, stream = drawn()
    remote = trace.NonRecordingSpan(SpanContext(77, 88, is_remote=True, trace_flags=TraceFlags(1)))
    server = recorder.start("server", 0, remote)
    recorder.span("child", 0, 1, server)
    assert stream.getvalue() == ""
    server.end(2 * MS)
    assert [line.split()[-4] if "━" in line else line.split()[0] for line in stream.getvalue().splitlines()[:3]] == [
        "✔",
        "server",
        "child",
    ]
    assert "trace 0000000000000000000000000000004d" in stream.getvalue()


def test_a_service_that_calls_itself_is_drawn_as_two_requests() -> None:
    """Where client and server of a call are in one process, each local root has the tree beneath it and no more."""
    recorder, stream = drawn()
    outer = recorder.start("outer", 0)
    client = recorder.start("client", 1, outer)
    context = SpanContext(client.context.trace_id, client.context.span_id, is_remote=True, trace_flags=TraceFlags(1))
    inner = recorder.start("inner", 2, trace.NonRecordingSpan(context))
    recorder.span("work", 3, 4, inner)
    inner.end(5 * MS)
    client.end(6 * MS)
    outer.end(7 * MS)
    first, second = stream.getvalue().strip().split("\n\n")
    assert re.findall(r"inner|work|outer|client", first) == ["inner", "work"]
    assert re.findall(r"inner|work|outer|client", second) == ["outer", "client"]


def test_a_late_child_is_drawn_with_a_note() -> None:
    """A span that ends after its root is drawn when it comes, with what waited beneath it, and says that it is late."""
    recorder, stream = drawn()
    root = recorder.start("root", 0)
    late = recorder.start("background", 1, root)
    recorder.span("beneath", 1, 2, late)
    root.end(3 * MS)
    assert re.findall(r"root|background|beneath", stream.getvalue()) == ["root"]
    late.end(9 * MS)
    assert stream.getvalue().split("\n\n")[1] == textwrap.dedent("""\
        … shop trace 00000000000000000000000000000001
        … late: it ended after its request was drawn
        background 8.00 ms ━━━━━━━━━━━━━━━━
        └─ beneath 1.00 ms ━━""")


def test_a_batch_is_drawn_like_single_spans() -> None:
    """Behind a batch processor a child that ended after its root, but in the same batch, is in its tree."""
    stream = io.StringIO()
    recorder = Recorder(ConsoleTreeExporter(stream, color=False, width=80), batch=True)
    root = recorder.start("root", 0)
    late = recorder.start("background", 1, root)
    root.end(3 * MS)
    late.end(4 * MS)
    recorder.provider.shutdown()
    assert stream.getvalue() == textwrap.dedent("""\
        ✔ shop 3.00 ms  trace 00000000000000000000000000000001
        root          3.00 ms ━━━━━━━━━━━━
        └─ background 3.00 ms     ━━━━━━━━━━━━

        """)


def test_shutdown_and_flush_draw_what_is_left() -> None:
    """Spans whose root has not ended are drawn as incomplete, all of them under one header."""
    recorder, stream = drawn()
    root = recorder.start("root", 0)
    middle = recorder.start("middle", 0, root)
    recorder.span("one", 0, 1, middle)
    recorder.span("two", 2, 4, middle)
    recorder.provider.shutdown()
    assert stream.getvalue() == textwrap.dedent("""\
        … shop trace 00000000000000000000000000000001
        … incomplete: drawn before its root span ended
        one 1.00 ms ━━━━
        two 2.00 ms         ━━━━━━━━

        """)


def test_a_root_after_a_flush_says_that_a_part_was_drawn() -> None:
    """The root of a trace that was drawn in part is drawn when it ends, with a note."""
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream, color=False, width=80)
    recorder = Recorder(exporter)
    root = recorder.start("root", 0)
    recorder.span("child", 0, 1, root)
    assert exporter.force_flush() is True
    root.end(2 * MS)
    assert stream.getvalue().split("\n\n")[1].splitlines()[1:] == [
        "… some of its spans were drawn before, as incomplete",
        "root 2.00 ms ━━━━━━━━━━━━━━━━",
    ]


def test_the_oldest_trace_gives_way() -> None:
    """With room for two traces, a third one's span draws the oldest as incomplete, and only that."""
    recorder, stream = drawn({"max_traces": 2})
    roots = [recorder.start(f"root {i}", 0) for i in range(3)]
    for i, root in enumerate(roots):
        assert stream.getvalue() == ""
        recorder.span(f"child {i}", 0, 1, root)
    assert re.findall(r"child \d|incomplete", stream.getvalue()) == ["incomplete", "child 0"]
    roots[1].end(2 * MS)
    assert stream.getvalue().count("incomplete") == 1
    assert re.search(r"root 1 .*\n└─ child 1", stream.getvalue())


def test_waiting_spans_are_bounded() -> None:
    """3,000 spans under roots that never end: no more than the limit wait, and every other one has been drawn."""
    recorder, stream = drawn({"max_spans": 100})
    for i in range(300):
        root = recorder.start("root", 0)
        for j in range(10):
            recorder.span(f"s{i}-{j} ", 0, 1, root)
    assert len(re.findall(r"s\d+-\d ", stream.getvalue())) == 3_000 - 100
    recorder.provider.shutdown()
    assert len(set(re.findall(r"s\d+-\d ", stream.getvalue()))) == 3_000


def test_threads_lose_no_span() -> None:
    """Requests drawn from eight threads at once are all drawn, each tree in one piece."""
    recorder, stream = drawn()

    def serve(who: int) -> None:
        for i in range(50):
            root = recorder.start(f"root-{who}-{i}", 0)
            recorder.span(f"child-{who}-{i}", 0, 1, root)
            root.end(2 * MS)

    threads = [threading.Thread(target=serve, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(re.findall(r"root-(\d-\d+) .*\n└─ child-\1 ", stream.getvalue())) == 8 * 50


def test_a_span_that_ends_while_another_is_drawn_does_not_deadlock() -> None:
    """A stream whose write collects a generator, which ends its span, comes back to the exporter and is drawn too."""

    class CollectingStream(io.StringIO):
        def write(self, text: str) -> int:
            generators.clear()
            gc.collect()
            return super().write(text)

    stream = CollectingStream()
    recorder = Recorder(ConsoleTreeExporter(stream, color=False, width=80))

    def generate() -> Iterator[int]:
        span = recorder.start("collected", 0)
        try:
            yield 1
        finally:
            span.end(MS)

    generators = [generate()]
    next(generators[0])
    recorder.span("first", 0, 1)
    assert re.findall("first|collected", stream.getvalue()) == ["first", "collected"]


def test_a_closed_stream_fails_without_raising() -> None:
    """A stream that is closed makes exports fail; the application sees nothing of it."""
    stream = io.StringIO()
    exporter = ConsoleTreeExporter(stream)
    recorder = Recorder(exporter)
    spans: list[ReadableSpan] = [recorder.start("root", 0)]
    stream.close()
    assert exporter.export(spans) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert exporter.export(spans) is SpanExportResult.FAILURE


def test_a_reader_that_went_away_fails_without_raising() -> None:
    """A pipe whose reader has gone, as with ``| head``, makes exports fail; the application goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as raw:  # noqa: PTH123
        exporter = ConsoleTreeExporter(io.TextIOWrapper(raw, encoding="utf-8", write_through=True), color=False)
        assert exporter.export([Recorder(exporter).start("root", 0)]) is SpanExportResult.FAILURE


def test_standard_output_is_looked_up_when_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream the tree goes to what ``sys.stdout`` is at that moment, so redirected output is redirected."""
    Recorder(ConsoleTreeExporter(width=80, color=False)).span("root", 0, 1)
    assert "root 1.00 ms" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_draws_its_own_requests_only() -> None:
    """A child forked within a request, and while other threads draw, draws its spans and not its parent's."""
    script = """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, sys.argv[1])
        from span_recorder import MS, Recorder
        from otel_mlobs.telemetry.console import ConsoleTreeExporter
        recorder = Recorder(ConsoleTreeExporter(width=80))
        root = recorder.start("parent-root", 0)
        recorder.span("parent-child", 0, 1, root)
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                recorder.span("busy", 0, 1)
        thread = threading.Thread(target=busy)
        thread.start()
        for _ in range(20):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                recorder.span("child-root", 0, 1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        root.end(MS)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), os.path.dirname(__file__)],  # noqa: PTH120
        check=True,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
    ).stdout
    assert output.count("child-root") == 20
    assert output.count("parent-child") == output.count("parent-root") == 1


@pytest.mark.parametrize("name", ["max_traces", "max_spans"])
def test_a_limit_must_leave_room(name: str) -> None:
    """A limit below one raises and says what was expected."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ConsoleTreeExporter(**{name: 0})
