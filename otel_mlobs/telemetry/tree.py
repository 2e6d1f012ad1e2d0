"""How a request is drawn as a tree, to look at.

A span's line has its place in the tree, its duration, a bar that shows when in the request it ran, and the attributes
that matter. Exception messages are never drawn, since they quote values.
"""

from __future__ import annotations

import math
import os
import shutil
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from otel_mlobs import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

_MAX_LINES = 200  # spans drawn of one tree
_MAX_SERVICE = 32
_MIN_WIDTH = 30
_MAX_VALUE = 40
_DURATION_WIDTH = 7
_RED, _GREEN, _YELLOW, _CYAN, _BOLD, _DIM = "31", "32", "33", "36", "1", "2"

# What an INTERNAL span carries that says where the code is, not what it did; other kinds show only what is named below.
_NOISE = (
    "code.",
    "thread.",
    "process.",
    "otel.",
    "telemetry.",
    "net.",
    "network.",
    "server.",
    "client.",
    "http.",
    "url.",
)
_SHOWN_OF_CLIENTS = ("db.system.name", "db.system", "db.operation.name", "db.operation", "rpc.service", "rpc.method")


@dataclass(frozen=True)
class Glyphs:
    """The characters of a drawing."""

    branch: str
    last: str
    pipe: str
    blank: str
    cells: tuple[str, str, str, str]  # neither half of the cell, its left half, its right half, both
    ok: str
    error: str
    other: str
    cut: str
    arrow: str
    micro: str
    dash: str


_UNICODE = Glyphs("├─ ", "└─ ", "│  ", "   ", (" ", "╸", "╺", "━"), "✔", "✘", "…", "…", "→", "µs", "–")
_EVERY_GLYPH = "├─└│╸╺━✔✘…→µ–"
_ASCII = Glyphs("|- ", "`- ", "|  ", "   ", (" ", "-", "-", "="), "OK", "ERROR", "?", "~", "->", "us", "-")


@dataclass(frozen=True)
class Look:
    """How trees are drawn on one stream."""

    width: int
    color: bool
    encoding: str
    glyphs: Glyphs

    def paint(self, text: str, *styles: str) -> str:
        """The text in these styles (ANSI's numbers), where there are colours."""
        return f"\x1b[{';'.join(styles)}m{text}\x1b[0m" if self.color and styles and text else text

    def clean(self, text: str) -> str:
        """The text without what would move the cursor, recolour the terminal or not fit the stream's encoding."""
        if not text.isprintable():
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
        return text if text.isascii() else text.encode(self.encoding, "replace").decode(self.encoding)

    def clip(self, text: str, columns: int) -> str:
        """The text in at most so many columns, with a sign where something was cut off."""
        if _columns(text) <= columns:
            return text
        kept, used = [], _columns(self.glyphs.cut)
        for character in text:
            used += _columns(character)
            if used > columns:
                break
            kept.append(character)
        return "".join(kept) + self.glyphs.cut


def _columns(text: str) -> int:
    """The terminal columns that the text takes: none for combining marks, two for wide characters."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text))


def glyphs_for(encoding: str | None) -> tuple[str, Glyphs]:
    """Return the encoding (UTF-8 for none, ASCII for one that Python does not know) and glyphs that it can say."""
    try:
        _EVERY_GLYPH.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return encoding or "utf-8", _ASCII
    except LookupError:
        return "ascii", _ASCII
    return encoding or "utf-8", _UNICODE


def look_of(stream: TextIO, color: bool | None = None, width: int | None = None) -> Look:
    """Return the look that suits the stream: its encoding, the terminal's width, colours where they are wanted."""
    if color is None:
        if os.environ.get("NO_COLOR"):
            color = False
        elif os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
            color = True
        else:
            color = stream.isatty() and os.environ.get("TERM") != "dumb"
    encoding, glyphs = glyphs_for(stream.encoding)
    columns = shutil.get_terminal_size().columns if width is None else width
    return Look(max(columns, _MIN_WIDTH), color, encoding, glyphs)


def format_duration(seconds: float, micro: str = "µs") -> str:
    """Return the duration in three significant digits and a unit for people: ``12.4 ms``, ``2m 03s``."""
    for factor, unit in ((1e9, "ns"), (1e6, micro), (1e3, "ms"), (1.0, "s")):
        value = seconds * factor
        if value < (59.995 if unit == "s" else 999.5):
            digits = 0 if unit == "ns" or value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


# -- what is said of a span -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Detail:
    text: str
    style: str = _DIM


def _details(span: ReadableSpan, arrow: str) -> Iterator[_Detail]:
    attributes: dict[str, object] = dict(span.attributes or {})
    error_type = attributes.pop(semconv.ERROR_TYPE, None)
    yield from _failures(span, error_type)
    yield from _http(span, attributes, error_type)
    yield from _operation(attributes, arrow)
    for key, value in attributes.items():
        if key.startswith("mlobs."):
            yield _Detail(f"{key.removeprefix('mlobs.')}={_value(value)}")
        elif (span.kind is SpanKind.INTERNAL and not key.startswith(_NOISE)) or key in _SHOWN_OF_CLIENTS:
            yield _Detail(f"{key}={_value(value)}")


def _failures(span: ReadableSpan, error_type: object) -> Iterator[_Detail]:
    failed = span.status.status_code is StatusCode.ERROR or error_type is not None
    style = _RED if failed and error_type != semconv.CANCELLED else _YELLOW
    if error_type is not None:
        yield _Detail(f"error={error_type}", style)
    elif failed:
        yield _Detail("error", style)
    exceptions = [(event.attributes or {}).get(semconv.EXCEPTION_TYPE) for event in span.events]
    for exception in dict.fromkeys(exceptions):
        if exception is not None and exception != error_type:
            yield _Detail(f"exception={exception}", style)


def _http(span: ReadableSpan, attributes: dict[str, object], error_type: object) -> Iterator[_Detail]:
    """The method, the route or host, and the status, under today's names or those before semconv 1.23."""

    def first(*keys: str) -> object:
        return next((value for key in keys if (value := attributes.pop(key, None)) is not None), None)

    method, status = first("http.request.method", "http.method"), first("http.response.status_code", "http.status_code")
    if span.kind is SpanKind.SERVER:
        where = first("http.route", "url.path", "http.target")
    else:
        where = first("server.address", "net.peer.name") if method is not None else None
    request = " ".join(str(part) for part in (method, where) if part is not None)
    if request and request != span.name:
        yield _Detail(request)
    if isinstance(status, int) and str(status) != error_type:
        yield _Detail(str(status), _RED if status >= 500 else _YELLOW if status >= 400 else _GREEN)


def _operation(attributes: dict[str, object], arrow: str) -> Iterator[_Detail]:
    """What the four operations say of themselves, short; what is drawn is taken out of the attributes."""

    def take(key: str) -> str | None:
        value = attributes.pop(key, None)
        return None if value is None else _value(value)

    take(semconv.OPERATION_NAME)  # the span's name begins with it
    model, version = take(semconv.MODEL_NAME), take(semconv.MODEL_VERSION)
    if model is not None:
        yield _Detail(f"model={model}" + ("" if version is None else f" v{version.removeprefix('v')}"))
    elif version is not None:
        yield _Detail(f"version={version}")
    for key, word in (
        (semconv.FEATURE_STORE_NAME, "store"),
        (semconv.FEATURE_VIEW_NAME, "view"),
        (semconv.CANDIDATE_SOURCE, "source"),
    ):
        if (value := take(key)) is not None:
            yield _Detail(f"{word}={value}")
    found, requested, missing = (
        take(key) for key in (semconv.FEATURE_FOUND, semconv.FEATURE_REQUESTED, semconv.FEATURE_MISSING)
    )
    if found is not None and requested is not None:
        yield _Detail(f"found {found}/{requested}", _DIM if found == requested else _YELLOW)
    else:
        for word, value in (("found", found), ("requested", requested), ("missing", missing)):
            if value is not None:
                yield _Detail(f"{word} {value}")
    count, wanted = take(semconv.CANDIDATE_COUNT), take(semconv.CANDIDATE_REQUESTED)
    if count is not None:
        yield _Detail(f"candidates {count}" + ("" if wanted is None else f"/{wanted}"))
    elif wanted is not None:
        yield _Detail(f"wanted {wanted}")
    before, after = take(semconv.RANKING_INPUT_COUNT), take(semconv.RANKING_OUTPUT_COUNT)
    if before is not None or after is not None:
        yield _Detail(f"items {before or '?'}{arrow}{after or '?'}")
    if (batch := take(semconv.BATCH_SIZE)) is not None:
        yield _Detail(f"batch={batch}")
    if (chosen := take(semconv.PREDICTION_CLASS)) is not None:
        yield _Detail(f"class={chosen}")
    for low_key, mean_key, high_key in (
        (semconv.CANDIDATE_SCORE_MIN, semconv.CANDIDATE_SCORE_MEAN, semconv.CANDIDATE_SCORE_MAX),
        (semconv.RANKING_SCORE_MIN, semconv.RANKING_SCORE_MEAN, semconv.RANKING_SCORE_MAX),
        (semconv.PREDICTION_MIN, semconv.PREDICTION_MEAN, semconv.PREDICTION_MAX),
    ):
        low, mean, high = take(low_key), take(mean_key), take(high_key)
        if mean is not None:
            yield _Detail(f"mean={mean}")
        if low is not None and high is not None and low != high:
            yield _Detail(f"range={low}..{high}")
    take(semconv.PREDICTION_STD)  # mean and range say it to the eye
    yield from _drift(take)


def _drift(take: Callable[[str], str | None]) -> Iterator[_Detail]:
    """What a monitor says: what is odd about the call, and whether the model's traffic drifts."""
    for key, word in (
        (semconv.INPUT_MISSING, "missing"),
        (semconv.INPUT_OUT_OF_RANGE, "out of range"),
        (semconv.INPUT_UNSEEN, "unseen"),
    ):
        if (count := take(key)) is not None:
            yield _Detail(f"{word} {count}", _YELLOW)
    take(semconv.PROFILE_ID)  # the same for every call of the model
    status, feature, score = take(semconv.DRIFT_STATUS), take(semconv.DRIFT_FEATURE), take(semconv.DRIFT_SCORE)
    if status == "drift":
        yield _Detail("drift" if feature is None else f"drift: {feature} PSI {score}", _YELLOW)
    elif status == "ok":
        yield _Detail("no drift")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        shown = ",".join(_value(item) for item in value[:5])
        return f"[{shown},+{len(value) - 5}]" if len(value) > 5 else f"[{shown}]"
    text = str(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."


# -- the drawing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    span: ReadableSpan
    prefix: str  # tree glyphs before the name
    below: str  # tree glyphs under the name, for details that did not fit beside it


def _rows(tops: Sequence[ReadableSpan], spans: Iterable[ReadableSpan], glyphs: Glyphs) -> list[_Row]:
    children: dict[int, list[ReadableSpan]] = {}
    for span in spans:
        if span.parent is not None:
            children.setdefault(span.parent.span_id, []).append(span)
    rows = []
    # A stack of our own: traces may be nested deeper than Python's recursion goes.
    stack = [(top, "", "") for top in sorted(tops, key=_start, reverse=True)]
    while stack:
        span, prefix, indent = stack.pop()
        below = sorted(children.pop(span_id(span), ()), key=_start)
        rows.append(_Row(span, prefix, indent + (glyphs.pipe if below else "  ")))
        for position, child in enumerate(reversed(below)):
            branch, next_indent = (glyphs.branch, glyphs.pipe) if position else (glyphs.last, glyphs.blank)
            stack.append((child, indent + branch, indent + next_indent))
    return rows


def _start(span: ReadableSpan) -> int:
    return span.start_time or 0


def _end(span: ReadableSpan) -> int:
    return max(span.end_time or 0, _start(span))


def span_id(span: ReadableSpan) -> int:
    """The span's own id."""
    return span.context.span_id if span.context is not None else 0


def trace_id(span: ReadableSpan) -> int:
    """The id of the span's trace."""
    return span.context.trace_id if span.context is not None else 0


@dataclass(frozen=True)
class Drawing:
    """Trees of one trace: their top spans, all their spans, a note, and whether the one top is a root that ended."""

    tops: Sequence[ReadableSpan]
    spans: Sequence[ReadableSpan]
    note: str
    whole: bool


def draw(drawing: Drawing, look: Look) -> str:
    """Return the drawing as text of at most the look's width, an empty line at its end."""
    glyphs = look.glyphs
    tops, whole = drawing.tops, drawing.whole
    top = tops[0]
    failed = any(span.status.status_code is StatusCode.ERROR for span in tops)
    mark, color = (glyphs.error, _RED) if failed else (glyphs.ok, _GREEN) if whole else (glyphs.other, _YELLOW)
    service = look.clip(look.clean(str(top.resource.attributes.get("service.name", "unknown_service"))), _MAX_SERVICE)
    parts = [look.paint(mark, color), look.paint(service, _BOLD)]
    if whole:
        parts.append(format_duration((_end(top) - _start(top)) / 1e9, glyphs.micro) + " ")
    parts.append(look.paint(f"trace {format_trace_id(trace_id(top))}", _DIM))
    lines = [" ".join(parts)]
    if drawing.note:
        lines.append(look.paint(look.clip(f"{glyphs.cut} {drawing.note}", look.width), _YELLOW))

    rows = _rows(tops, drawing.spans, glyphs)
    begin, end = min(_start(row.span) for row in rows), max(_end(row.span) for row in rows)
    shown = rows[:_MAX_LINES]
    labels = [_label(row, look) for row in shown]
    label_width = max(_columns(prefix + name) for prefix, name in labels)
    bar_width = 0 if look.width < 50 else min(24, look.width // 5)
    for row, (prefix, name) in zip(shown, labels, strict=True):
        bad = row.span.status.status_code is StatusCode.ERROR
        duration = format_duration((_end(row.span) - _start(row.span)) / 1e9, glyphs.micro).rjust(_DURATION_WIDTH)
        line = look.paint(prefix, _DIM) + look.paint(
            _pad(name, label_width - _columns(prefix)), *([_RED] if bad else [])
        )
        line += f" {duration}"
        if bar_width:
            line += " " + look.paint(_bar(row.span, begin, end, bar_width, glyphs), _RED if bad else _CYAN)
        room = look.width - (label_width + 1 + _DURATION_WIDTH + (bar_width + 1 if bar_width else 0) + 2)
        lines.extend(_with_details(line, row, room, look))
    if len(rows) > len(shown):
        lines.append(look.paint(f"{glyphs.cut} and {len(rows) - len(shown)} more spans", _DIM))
    return "\n".join(line.rstrip() for line in lines) + "\n\n"


def _label(row: _Row, look: Look) -> tuple[str, str]:
    """The tree glyphs and the name, cut to under half of the width, the name losing last."""
    columns = look.width * 9 // 20
    prefix = row.prefix
    if len(prefix) > columns // 2:
        prefix = look.glyphs.cut + prefix[len(prefix) - columns // 2 + 1 :]
    return prefix, look.clip(look.clean(row.span.name), columns - len(prefix))


def _bar(span: ReadableSpan, begin: int, end: int, cells: int, glyphs: Glyphs) -> str:
    """The span's place in its request, to half a cell."""
    halves = 2 * cells
    total = max(end - begin, 1)
    first = min((_start(span) - begin) * halves // total, halves - 1)
    last = max(first + 1, math.ceil((_end(span) - begin) * halves / total))
    filled = [first <= half < last for half in range(halves)]
    return "".join(glyphs.cells[left + 2 * right] for left, right in zip(filled[::2], filled[1::2], strict=True))


def _with_details(line: str, row: _Row, room: int, look: Look) -> Iterator[str]:
    details = [_Detail(look.clean(detail.text), detail.style) for detail in _details(row.span, look.glyphs.arrow)]
    if sum(_columns(detail.text) + 1 for detail in details) - 1 <= room:
        yield "  ".join(filter(None, (line, " ".join(look.paint(detail.text, detail.style) for detail in details))))
        return
    yield line
    indent = row.below[-(look.width // 3) :]
    room = look.width - len(indent)
    painted: list[str] = []
    used = 0
    for detail in details:
        text = look.clip(detail.text, room)
        if painted and used + 1 + _columns(text) > room:
            yield look.paint(indent, _DIM) + " ".join(painted)
            painted, used = [], 0
        used += _columns(text) + (1 if painted else 0)
        painted.append(look.paint(text, detail.style))
    yield look.paint(indent, _DIM) + " ".join(painted)
