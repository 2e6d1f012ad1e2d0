"""Trees as they are drawn, from real SDK spans with fixed ids and times."""

from __future__ import annotations

import io
import os
import re
import textwrap

import pytest
from opentelemetry.trace import SpanKind, Status, StatusCode
from span_recorder import MS, Recorder, drawn

from otel_mlobs import semconv
from otel_mlobs.telemetry.console import ConsoleTreeExporter
from otel_mlobs.telemetry.tree import format_duration

FAILED = Status(StatusCode.ERROR, "customer 4711 not found")


def record_recommendation(recorder: Recorder) -> None:
    """One request with the four operations, as the library's Flask integration and decorators would record it."""
    server = recorder.start(
        "POST /recommend",
        1_000,
        kind=SpanKind.SERVER,
        attributes={"http.request.method": "POST", "http.route": "/recommend", "url.scheme": "http"},
    )
    lookup = recorder.start(
        "feature_lookup user_features",
        1_000.3,
        server,
        attributes={
            semconv.OPERATION_NAME: semconv.FEATURE_LOOKUP,
            semconv.FEATURE_STORE_NAME: "redis",
            semconv.FEATURE_VIEW_NAME: "user_features",
            semconv.FEATURE_REQUESTED: 10,
            semconv.FEATURE_FOUND: 9,
            semconv.FEATURE_MISSING: 1,
        },
    )
    recorder.span(
        "GET",
        1_000.5,
        1_001.1,
        lookup,
        kind=SpanKind.CLIENT,
        attributes={"db.system": "redis", "db.statement": "GET user:4711", "net.peer.name": "cache"},
    )
    lookup.end(round(1_004.4 * MS))
    recorder.span(
        "candidate_generation two_tower",
        1_004.5,
        1_009.12,
        server,
        attributes={
            semconv.OPERATION_NAME: semconv.CANDIDATE_GENERATION,
            semconv.CANDIDATE_SOURCE: "two_tower",
            semconv.CANDIDATE_REQUESTED: 500,
            semconv.CANDIDATE_COUNT: 487,
            semconv.CANDIDATE_SCORE_MIN: 0.02,
            semconv.CANDIDATE_SCORE_MEAN: 0.31,
            semconv.CANDIDATE_SCORE_MAX: 0.97,
        },
    )
    ranking = recorder.start(
        "ranking ltr",
        1_009.2,
        server,
        attributes={
            semconv.OPERATION_NAME: semconv.RANKING,
            semconv.MODEL_NAME: "ltr",
            semconv.MODEL_VERSION: "7",
            semconv.RANKING_INPUT_COUNT: 487,
            semconv.RANKING_OUTPUT_COUNT: 20,
        },
    )
    recorder.span(
        "prediction ltr",
        1_009.3,
        1_018,
        ranking,
        attributes={
            semconv.OPERATION_NAME: semconv.PREDICTION,
            semconv.MODEL_NAME: "ltr",
            semconv.MODEL_VERSION: "7",
            semconv.BATCH_SIZE: 1,
            semconv.PREDICTION_MIN: 0.8312,
            semconv.PREDICTION_MEAN: 0.8312,
            semconv.PREDICTION_MAX: 0.8312,
            semconv.PREDICTION_STD: 0.0,
            "mlobs.drift.status": "ok",
        },
    )
    ranking.end(round(1_020.5 * MS))
    recorder.span("audit", 1_020.6, 1_020.6004, server, attributes={"tenant": "acme", "code.function.name": "f"})
    server.set_attribute("http.response.status_code", 200)
    server.end(round(1_024.1 * MS))


def test_a_request_is_drawn_as_a_tree() -> None:
    """One request at 80 columns: tree, durations, when each step ran, and short attributes, under its header."""
    recorder, stream = drawn()
    record_recommendation(recorder)
    assert stream.getvalue() == textwrap.dedent("""\
        ✔ shop 24.1 ms  trace 00000000000000000000000000000001
        POST /recommend                   24.1 ms ━━━━━━━━━━━━━━━━  200
        ├─ feature_lookup user_features   4.10 ms ━━━
        │  │  store=redis view=user_features found 9/10
        │  └─ GET                          600 µs ━                 db.system=redis
        ├─ candidate_generation two_tower 4.62 ms   ╺━━━╸
        │    source=two_tower candidates 487/500 mean=0.31 range=0.02..0.97
        ├─ ranking ltr                    11.3 ms       ━━━━━━━━
        │  │  model=ltr v7 items 487→20
        │  └─ prediction ltr              8.70 ms       ━━━━━━
        │       model=ltr v7 batch=1 mean=0.831 no drift
        └─ audit                           400 ns              ╺    tenant=acme

        """)


def test_a_wide_terminal_has_everything_on_one_line() -> None:
    """At 130 columns the attributes stand beside their span."""
    recorder, stream = drawn({"width": 130})
    record_recommendation(recorder)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 7 + 1
    assert lines[6] == (
        "│  └─ prediction ltr              8.70 ms          ━━━━━━━━━        model=ltr v7 batch=1 mean=0.831 no drift"
    )


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Whatever the width, from 30 columns on, no line of a request is wider, and no span is left out."""
    recorder, stream = drawn({"width": width})
    record_recommendation(recorder)
    header, *lines = stream.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert sum(bool(re.search(r"\d (ms|µs|ns)\b", line)) for line in lines) == 7
    assert "trace 00000000000000000000000000000001" in header


def test_ascii_streams_get_ascii_trees() -> None:
    """A stream that cannot say box-drawing characters gets others, and a name it cannot say does not raise."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    recorder = Recorder(ConsoleTreeExporter(stream, color=False, width=60))
    server = recorder.start("GET /größe", 0, kind=SpanKind.SERVER)
    recorder.span("ranking ltr", 0.25, 0.5, server, attributes={semconv.RANKING_INPUT_COUNT: 9})
    recorder.span("prediction churn", 0.5, 1.0, server, attributes={"mlobs.batch.size": 1})
    server.end(1 * MS)
    assert raw.getvalue().decode("ascii") == textwrap.dedent("""\
        OK shop 1.00 ms  trace 00000000000000000000000000000001
        GET /gr??e          1.00 ms ============
        |- ranking ltr       250 us    ===        items 9->?
        `- prediction churn  500 us       ======  batch=1

        """)


def test_an_error_is_drawn_with_its_type_and_never_its_message() -> None:
    """Error and exception types are drawn in red; the exception's message and the status text are not drawn."""
    recorder, stream = drawn({"color": True})
    server = recorder.start(
        "POST /predict", 0, kind=SpanKind.SERVER, attributes={"http.method": "POST", "http.route": "/predict"}
    )
    prediction = recorder.start("prediction churn", 1, server, attributes={semconv.ERROR_TYPE: "app.NotFound"})
    prediction.record_exception(KeyError("customer 4711"))
    prediction.set_status(FAILED)
    prediction.end(9 * MS)
    server.set_attributes({"http.status_code": 500, semconv.ERROR_TYPE: "500"})
    server.set_status(FAILED)
    server.end(10 * MS)
    text = stream.getvalue()
    assert "4711" not in text
    assert "\x1b[31m✘\x1b[0m \x1b[1mshop\x1b[0m" in text
    assert "\x1b[31merror=app.NotFound\x1b[0m \x1b[31mexception=KeyError\x1b[0m" in text
    assert "\x1b[31mprediction churn\x1b[0m" in text
    assert text.count("500") == 1


def test_a_handled_error_leaves_its_request_whole() -> None:
    """A child that failed is red, but a request that answered all the same keeps its mark."""
    recorder, stream = drawn()
    server = recorder.start("GET /", 0, kind=SpanKind.SERVER, attributes={"http.response.status_code": 404})
    child = recorder.start("feature_lookup f", 1, server)
    child.set_status(FAILED)
    child.end(2 * MS)
    server.end(3 * MS)
    header, _, line = stream.getvalue().splitlines()[:3]
    assert header.startswith("✔ shop 3.00 ms")
    assert line.endswith(" error")


def test_control_characters_do_not_reach_the_terminal() -> None:
    """A span name or a value made of terminal commands, line breaks and lone surrogates is drawn escaped."""
    recorder, stream = drawn({"width": 160})
    recorder.span("GET /\x1b[2J\n\ud800", 0, 1, attributes={"key": "a\rb\u202ec"})
    text = stream.getvalue()
    assert set(re.findall(r"[^ -~]", text)) <= set("\n✔━")
    assert r"GET /\x1b[2J\n\ud800" in text
    assert r"key=a\rb\u202ec" in text


def test_wide_characters_keep_the_columns() -> None:
    """Characters that take two columns, and those that take none, do not shift durations and bars."""
    recorder, stream = drawn()
    root = recorder.start("模型", 0)
    recorder.span("é" + "e\u0301", 0, 1, root)
    root.end(MS)
    _, first, second = stream.getvalue().splitlines()[:3]
    assert first == "模型  1.00 ms ━━━━━━━━━━━━━━━━"
    assert second == "└─ ée\u0301 1.00 ms ━━━━━━━━━━━━━━━━"


def test_a_long_name_is_cut() -> None:
    """A name that would take more than 45% of the width ends with a sign there, wide characters counted as two."""
    recorder, stream = drawn({"width": 60})
    recorder.span("x" * 100, 0, 1)
    recorder.span("模" * 50, 0, 1)
    lines = [line for line in stream.getvalue().splitlines() if "━" in line]
    assert lines == ["x" * 26 + "… 1.00 ms ━━━━━━━━━━━━", "模" * 13 + "… 1.00 ms ━━━━━━━━━━━━"]


def test_a_huge_tree_is_cut() -> None:
    """Of a request with 1,000 steps 200 lines are drawn, and the number of the others."""
    recorder, stream = drawn()
    root = recorder.start("root", 0)
    for i in range(1_000):
        recorder.span("step", i, i + 1, root)
    root.end(1_000 * MS)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 200 + 1 + 1
    assert lines[-2] == "… and 801 more spans"


def test_a_deep_tree_is_drawn() -> None:
    """Spans nested 2,000 deep neither raise nor widen the lines."""
    recorder, stream = drawn()
    spans = [recorder.start("root", 0)]
    for depth in range(2_000):
        spans.append(recorder.start(f"level {depth}", 0, spans[-1]))
    for span in reversed(spans):
        span.end(MS)
    assert "and 1801 more spans" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(
    ("variables", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colours_are_for_terminals(
    variables: dict[str, str], on_terminal: bool, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colours on a real (pseudo) terminal and not in a file, unless NO_COLOR, FORCE_COLOR or TERM say otherwise."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    in_memory = io.StringIO()
    Recorder(ConsoleTreeExporter(in_memory)).span("root", 0, 1)
    assert ("\x1b[" in in_memory.getvalue()) is elsewhere

    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123
        Recorder(ConsoleTreeExporter(terminal)).span("root", 0, 1)
        shown = os.read(ours, 10_000)
    os.close(ours)
    assert (b"\x1b[" in shown) is on_terminal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ns"),
        (834e-9, "834 ns"),
        (999.6e-9, "1.00 µs"),
        (12.44e-6, "12.4 µs"),
        (0.0999, "99.9 ms"),
        (0.0999999, "100 ms"),
        (0.9999, "1.00 s"),
        (59.994, "60.0 s"),
        (59.996, "1m 00s"),
        (123.4, "2m 03s"),
        (3_700, "1h 01m"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    """Durations are rounded to three digits, over to the next unit where that is what rounding gives."""
    assert format_duration(seconds) == text
