"""Draws the pictures of the README and the documentation from what really ran.

    python scripts/pictures.py [--jaeger PROGRAM]

It trains and serves `examples/churn`, once with the traces going to a real Jaeger v2 and once to the console, plays
rows as requests, and draws docs/pictures/trace.svg from the answer of Jaeger's query API and docs/pictures/console.svg
from what the service wrote. It needs the extra `demo` and a Jaeger: `python scripts/servers.py build jaeger`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.sax.saxutils import escape

import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "churn"
PICTURES = ROOT / "docs" / "pictures"

PATIENCE = 60.0
REQUESTS = 60
SHARE_BROKEN = 0.05
CONSOLE_COLUMNS = 94

SANS = "ui-sans-serif, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAPER, LINE, INK, FAINT = "#ffffff", "#dfe4ea", "#1f2328", "#59636e"
COLORS = {"SERVER": "#6e7781", "feature_lookup": "#0969da", "prediction": "#1a7f37", "error": "#cf222e"}

T = TypeVar("T")


# -- what runs --------------------------------------------------------------------------------------------------------


@dataclass
class Span:
    """A span as Jaeger's query API gives it; times in microseconds."""

    span_id: str
    parent_id: str | None
    name: str
    start: int
    duration: int
    attributes: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the span's status is an error."""
        return self.attributes.get("error") is True


Trace = list[Span]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def fetched(url: str) -> Any:
    """The JSON answer of a GET, or None while nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError):
        return None


def wait_for(what: str, ready: Callable[[], T | None]) -> T:
    """The first answer of ``ready`` that is true; raises ``TimeoutError`` when none comes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        answer = ready()
        if answer:
            return answer
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s")


@contextmanager
def running(command: Sequence[str | Path], log: Path, environment: Mapping[str, str], cwd: Path) -> Iterator[None]:
    """The program, with its output in ``log`` and its errors beside it, ended by SIGTERM."""
    with log.open("wb") as output, log.with_suffix(".errors").open("wb") as errors:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=errors, cwd=cwd, env={**os.environ, **environment}
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def jaeger(program: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """A Jaeger that keeps traces in memory: the URL that takes OTLP and the URL of its query API."""
    otlp, query, grpc, health = free_ports(4)
    config = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"127.0.0.1:{query}"},
                "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
            },
            "healthcheckv2": {"use_v2": True, "http": {"endpoint": f"127.0.0.1:{health}"}},
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    (folder / "jaeger.yaml").write_text(json.dumps(config))  # JSON is YAML
    command: list[str | Path] = [program, f"--config={folder / 'jaeger.yaml'}"]
    with running(command, folder / "jaeger.log", {"OTEL_TRACES_SAMPLER": "always_off"}, folder):
        wait_for("Jaeger", lambda: fetched(f"http://127.0.0.1:{query}/api/services"))
        yield f"http://127.0.0.1:{otlp}", f"http://127.0.0.1:{query}"


@contextmanager
def service(artifacts: Path, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """The example, served; its URL."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)]
    with running(command, log, {**environment, "CHURN_ARTIFACTS": str(artifacts)}, EXAMPLE):
        wait_for("the example", lambda: fetched(f"http://127.0.0.1:{port}/health"))
        yield f"http://127.0.0.1:{port}"


def play(url: str, count: int, broken: float) -> None:
    """Send real rows to the service at ``url``."""
    options = ["--url", url, "--count", str(count), "--broken", str(broken), "--concurrency", "1"]
    subprocess.run([sys.executable, "client.py", *options], cwd=EXAMPLE, check=True)


def traces_of(query: str, name: str) -> list[Trace]:
    """The traces of the service ``churn`` whose server span is called ``name``, their spans in the order of start."""
    answer = fetched(f"{query}/api/traces?service=churn&limit=10000&lookback=1h")
    traces = [sorted(map(_span, trace["spans"]), key=lambda span: span.start) for trace in answer["data"]]
    return [trace for trace in traces if trace[0].name == name]


def _span(given: Mapping[str, Any]) -> Span:
    parents = [reference["spanID"] for reference in given.get("references") or () if reference["refType"] == "CHILD_OF"]
    return Span(
        given["spanID"],
        parents[0] if parents else None,
        given["operationName"],
        given["startTime"],
        given["duration"],
        {tag["key"]: tag["value"] for tag in given["tags"]},
        [{entry["key"]: entry["value"] for entry in log["fields"]} for log in given.get("logs") or ()],
    )


# -- the trace --------------------------------------------------------------------------------------------------------

WIDTH, MARGIN, AXIS_LEFT = 920, 28, 330
ATTRIBUTES = {
    "SERVER": ("http.request.method", "http.route", "http.status_code", "mlobs.model.name", "mlobs.model.version"),
    "feature_lookup": ("mlobs.feature_store.name", "mlobs.feature.found", "mlobs.feature.missing"),
    "prediction": ("mlobs.model.version", "mlobs.batch.size", "mlobs.prediction.mean"),
}


class Canvas:
    """SVG elements, from top to bottom."""

    def __init__(self) -> None:
        self.y = 0.0
        self._parts: list[str] = []

    def text(
        self, x: float, content: str, *, size: float = 13, color: str = INK, font: str = SANS, more: str = ""
    ) -> None:
        """One line of text with its baseline at the present height."""
        halo = "" if color == PAPER else f'stroke="{PAPER}" stroke-width="3" paint-order="stroke" '
        self._parts.append(
            f'<text x="{x:g}" y="{self.y:g}" font-family="{font}" font-size="{size:g}" fill="{color}" {halo}{more}>'
            f"{escape(content)}</text>"
        )

    def box(self, x: float, top: float, width: float, height: float, color: str, *, radius: float = 3) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{top:g}" width="{width:.1f}" height="{height:g}" rx="{radius:g}" fill="{color}"/>'
        )

    def line(self, x: float, top: float, bottom: float) -> None:
        """A vertical rule."""
        self._parts.append(f'<path d="M{x:g} {top:g}V{bottom:g}" stroke="{LINE}" stroke-width="1"/>')

    def svg(self, width: float, label: str) -> str:
        """The whole picture, on a sheet of paper that is seen on a light and on a dark page."""
        height = self.y
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">\n'
            f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="10" fill="{PAPER}" '
            f'stroke="{LINE}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def waterfall(canvas: Canvas, trace: Trace, title: str, note: str) -> None:
    """Draw one trace: a row a span, its bar where in the request it ran, the attributes that matter beneath."""
    root = trace[0]
    canvas.y += 40
    canvas.text(MARGIN, title, size=16, more='font-weight="600"')
    canvas.text(WIDTH - MARGIN, note, size=12.5, color=FAINT, more='text-anchor="end"')
    canvas.y += 26
    top = canvas.y - 8
    bottom = top + 14 + sum(_height(span) for span in trace)
    for at in ticks(root.duration):
        x = AXIS_LEFT + (WIDTH - MARGIN - AXIS_LEFT) * at / root.duration
        canvas.line(x, top + 12, bottom)
        anchor = "start" if not at else "middle"
        canvas.text(x, f"{at / 1000:g} ms", size=11, color=FAINT, more=f'text-anchor="{anchor}"')
    canvas.y = top + 14
    for span in trace:
        _row(canvas, span, root, depth=_depth(span, trace))


def ticks(duration: float) -> list[float]:
    """From three to six round times from 0 on."""
    magnitude = 10 ** math.floor(math.log10(duration))
    step = next(magnitude * part for part in (0.1, 0.2, 0.5, 1, 2, 5) if duration / (magnitude * part) < 6)
    return [step * i for i in range(int(duration / step) + 1)]


def _height(span: Span) -> float:
    return 56.0 + 18 * len(_frames(span))


def _depth(span: Span, trace: Trace) -> int:
    parents = {each.span_id: each.parent_id for each in trace}
    depth, parent = 0, span.parent_id
    while parent in parents:
        depth, parent = depth + 1, parents[parent]
    return depth


def _row(canvas: Canvas, span: Span, root: Span, depth: int) -> None:
    kind = "SERVER" if span is root else span.name.partition(" ")[0]
    color = COLORS["error"] if span.failed else COLORS.get(kind, COLORS["SERVER"])
    top = canvas.y
    axis = WIDTH - MARGIN - AXIS_LEFT
    left = AXIS_LEFT + axis * (span.start - root.start) / root.duration
    width = max(3.0, axis * span.duration / root.duration)
    canvas.box(left, top + 12, width, 15, color)
    canvas.y = top + 24
    canvas.box(MARGIN + 18 * depth, top + 13, 4, 13, color, radius=2)
    canvas.text(MARGIN + 18 * depth + 11, span.name, size=13.5, more='font-weight="600"')
    beside = left + width + 8
    if beside > WIDTH - MARGIN - 60:
        inside = width > 70
        canvas.text(
            left + width - 8 if inside else left - 8,
            milliseconds(span.duration),
            size=12,
            color=PAPER if inside else INK,
            more='text-anchor="end"',
        )
    else:
        canvas.text(beside, milliseconds(span.duration), size=12)
    canvas.y += 20
    shown = [key for key in ATTRIBUTES.get(kind, ()) if key in span.attributes]
    x = MARGIN + 18 * depth + 11.0
    said = [f"{key}={_value(span.attributes[key])}" for key in (*shown, *(["error.type"] if span.failed else []))]
    canvas.text(x, "   ".join(said), size=11.5, color=FAINT, font=MONO, more='xml:space="preserve"')
    for frame in _frames(span):
        canvas.y += 18
        canvas.text(x, frame, size=11.5, color=COLORS["error"], font=MONO, more='xml:space="preserve"')
    canvas.y = top + _height(span)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _frames(span: Span) -> list[str]:
    """The exception of a span: its type, and the first of its frames, which is the user's code."""
    lines = []
    for event in span.events:
        if event.get("event") == "exception":
            frames = re.findall(r'File "(.+?)", line (\d+), in (\w+)', event["exception.stacktrace"])
            own = [frame for frame in frames if "site-packages" not in frame[0]][-1]
            inner = frames[-1]
            lines += [f"exception  {event['exception.type']}"]
            lines += [f"  at {_short(path)}:{line} in {name}" for path, line, name in dict.fromkeys((own, inner))]
    return lines


def _short(path: str) -> str:
    installed = path.partition("site-packages/")[2]
    return installed or "/".join(Path(path).parts[-2:])


def milliseconds(microseconds: float) -> str:
    """A duration as a person reads it."""
    return f"{microseconds / 1000:.2f} ms"


def draw_trace(traces: list[Trace]) -> str:
    """The picture of one request that went well, the median one, and of one that did not."""
    good = sorted((trace for trace in traces if not trace[0].failed), key=lambda trace: trace[0].duration)
    bad = [trace for trace in traces if trace[0].failed]
    canvas = Canvas()
    waterfall(canvas, good[len(good) // 2], "A request that was answered", "the median of its kind, as Jaeger has it")
    canvas.y += 14
    canvas.box(MARGIN, canvas.y, WIDTH - 2 * MARGIN, 1, LINE, radius=0)
    waterfall(canvas, bad[-1], "A request whose model raised", "type and frames of the exception, not its message")
    canvas.y += 14
    return canvas.svg(WIDTH, "Two traces of a prediction service: server span, feature lookup, prediction")


# -- the console ------------------------------------------------------------------------------------------------------

SIZE, ADVANCE, LEADING = 13.0, 7.83, 19.0
ANSI = {"31": "#cf222e", "32": "#1a7f37", "33": "#9a6700", "36": "#0a7a8f"}


def runs(line: str) -> Iterator[tuple[int, str, frozenset[str]]]:
    """The pieces of a line of terminal output: column, text, and the graphic codes in force."""
    column, codes = 0, frozenset[str]()
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            given = frozenset(piece[2:-1].split(";"))
            codes = frozenset() if given & {"0", ""} else codes | given
        elif piece:
            yield column, piece, codes
            column += len(piece)


def draw_console(lines: Sequence[str]) -> str:
    """The picture of a terminal with these lines in it."""
    width = 2 * MARGIN + ADVANCE * CONSOLE_COLUMNS
    canvas = Canvas()
    canvas.y = 22
    for i, color in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        canvas.box(MARGIN - 8 + 18 * i, 13, 11, 11, color, radius=5.5)
    canvas.y = 30
    for line in lines:
        canvas.y += LEADING
        for column, text, codes in runs(line):
            color = next((ANSI[code] for code in sorted(codes) if code in ANSI), FAINT if "2" in codes else INK)
            weight = ' font-weight="700"' if "1" in codes else ""
            lead = len(text) - len(text.lstrip(" "))
            shown = text.strip(" ")
            if shown:
                canvas.text(
                    MARGIN + ADVANCE * (column + lead),
                    shown,
                    size=SIZE,
                    color=color,
                    font=MONO,
                    more=f'textLength="{ADVANCE * len(shown):.1f}" lengthAdjust="spacingAndGlyphs" '
                    f'xml:space="preserve"{weight}',
                )
    canvas.y += 20
    return canvas.svg(width, "The console backend: each request drawn as a tree in the terminal")


def trees(output: str) -> list[list[str]]:
    """The trees in a service's output; the first line of each has a mark."""
    drawn: list[list[str]] = []
    for line in output.splitlines():
        if re.match(r"(\x1b\[[0-9;]*m)*[✔✘]", line):
            drawn.append([])
        if drawn and line.strip():
            drawn[-1].append(line)
    return drawn


# -- all of it --------------------------------------------------------------------------------------------------------


def main() -> int:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(description="Draws the documentation's pictures from real runs.")
    parser.add_argument("--jaeger", type=Path, default=servers.find("jaeger"), help="the Jaeger v2 program")
    program = parser.parse_args().jaeger
    if program is None:
        print("error: Jaeger is not built; run `python scripts/servers.py build jaeger`", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artifacts = folder / "artifacts"
        train = [sys.executable, "train.py", "--data", "census", "--artifacts", str(artifacts)]
        subprocess.run(train, cwd=EXAMPLE, check=True)

        with jaeger(program, folder) as (otlp, query):
            to_jaeger = {
                "MLOBS_BACKEND": "jaeger",
                "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
            }
            with service(artifacts, to_jaeger, folder / "service.log") as url:
                play(url, REQUESTS, SHARE_BROKEN)
                wait_for(
                    "the traces",
                    lambda: len(traces_of(query, "POST /predict")) >= REQUESTS or None,
                )
            traces = traces_of(query, "POST /predict")

        to_console = {"MLOBS_BACKEND": "console", "FORCE_COLOR": "1", "COLUMNS": str(CONSOLE_COLUMNS)}
        written = folder / "console.log"
        with service(artifacts, {**to_console, "PYTHONUNBUFFERED": "1"}, written) as url:
            play(url, REQUESTS, SHARE_BROKEN)
            time.sleep(0.5)
        drawn = trees(written.read_text())

    (PICTURES / "trace.svg").write_text(draw_trace(traces))
    predictions = [block for block in drawn if any("prediction" in line for line in block)]
    bad = next(block for block in reversed(predictions) if any("✘" in line for line in block))
    good = next(block for block in reversed(predictions) if not any("✘" in line for line in block))
    (PICTURES / "console.svg").write_text(draw_console([*good, "", *bad]))
    print(f"{len(traces)} traces and {len(drawn)} trees; drew {PICTURES / 'trace.svg'} and {PICTURES / 'console.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
