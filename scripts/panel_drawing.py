"""Panels as SVG, from what Prometheus answered: a drawing of our own, not Grafana's."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SANS = "ui-sans-serif, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
PAPER, PAGE, LINE, INK, FAINT = "#ffffff", "#f6f8fa", "#dfe4ea", "#1f2328", "#59636e"
NAMED = {"red": "#cf222e", "green": "#1a7f37", "orange": "#bc4c00", "transparent": PAPER}
COLORS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#0a7d8c", "#bf3989", "#57606a", "#4f7ac7", "#a0522d")
COLUMN, ROW, GAP = 50, 27, 8
HEAD, FOOT, SIDE = 30, 36, 46
MOST_SERIES, MOST_NAMES, MOST_EXEMPLARS = 16, 4, 40


@dataclass
class Series:
    """A series: its name, its points (seconds and values), and whether it is a limit and no measurement."""

    name: str
    points: list[tuple[float, float]]
    limit: bool = False


@dataclass
class Shown:
    """A panel with its data; ``rows`` are those of a table or bar chart, ``marks`` the exemplars."""

    panel: Mapping[str, Any]
    series: list[Series] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    bars: dict[str, dict[str, float]] = field(default_factory=dict)
    marks: list[tuple[float, float]] = field(default_factory=list)


def number(value: float, unit: str) -> str:
    """A value as one reads it."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value:.3g}" if not math.isfinite(value) else f"{100 * value:.3g}%"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.4g} s"
    ends = {"bytes": "B", "Bps": "B/s", "hertz": "Hz", "watt": "W", "celsius": "°C", "ops": "/s", "cps": "/s",
            "percent": "%"}  # fmt: skip
    end = ends.get(unit, "")
    if end and end != "°C" and abs(value) >= 1000:
        step = min(3, int(math.log10(abs(value)) // 3))
        return f"{value / 1000**step:.3g} {'kMG'[step - 1]}{end}"
    if unit == "short" and abs(value) >= 1000:
        return f"{value / 1000:.3g} k"
    return f"{value:.3g}{' ' if end and end[0] != '/' else ''}{end}"


def page(title: str, panels: Sequence[Shown], note: str, start: float, end: float) -> str:
    """A dashboard's picture: every panel in its place of the grid."""
    height = 64 + max(ROW * (one.panel["gridPos"]["y"] + one.panel["gridPos"]["h"]) for one in panels) + 12
    width = 24 * COLUMN + 2 * GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="{SANS}" font-size="11" fill="{INK}" role="img" aria-label="{escape(title)}, drawn from data">'
    )
    parts = [
        head,
        f'<rect width="{width}" height="{height}" fill="{PAGE}"/>',
        text(14, 26, title, size=17, weight=600),
        text(14, 46, note, color=FAINT),
    ]
    for one in panels:
        at = one.panel["gridPos"]
        x, y = GAP + at["x"] * COLUMN, 64 + at["y"] * ROW
        if one.panel["type"] == "row":
            parts.append(text(x + 4, y + 19, one.panel["title"], size=13, weight=600))
            continue
        wide, high = at["w"] * COLUMN - GAP, at["h"] * ROW - GAP
        parts.append(f'<g transform="translate({x} {y})">')
        parts.append(f'<rect width="{wide}" height="{high}" rx="4" fill="{PAPER}" stroke="{LINE}"/>')
        parts.append(text(10, 18, clipped(one.panel["title"], wide - 16, 6.6), size=12, weight=600))
        parts += _content(one, wide, high, start, end)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def _content(one: Shown, wide: int, high: int, start: float, end: float) -> Iterator[str]:
    kind = one.panel["type"]
    if not (one.series or one.rows or one.bars):
        yield text(wide / 2, high / 2, "no data in this run", color=FAINT, anchor="middle")
    elif kind == "stat":
        yield from _stat(one, wide, high)
    elif kind == "table":
        yield from _table(one, wide, high)
    elif kind == "barchart":
        yield from _bars(one, wide, high)
    elif kind == "heatmap":
        yield from _heat(one, wide, high, start, end)
    elif kind in ("status-history", "state-timeline"):
        yield from _states(one, wide, high, start, end)
    else:
        yield from _lines(one, wide, high, start, end)


def _stat(one: Shown, wide: int, high: int) -> Iterator[str]:
    value = one.series[0].points[-1][1]
    defaults = one.panel["fieldConfig"]["defaults"]
    color = shade(defaults, value)
    yield f'<rect y="26" width="{wide}" height="{high - 26}" rx="4" fill="{color}"/>'
    yield text(wide / 2, 26 + (high - 26) / 2 + 9, number(value, defaults["unit"]), "#ffffff", 26, 600, "middle")


def _table(one: Shown, wide: int, high: int) -> Iterator[str]:
    columns = len(one.rows[0])
    for line, row in enumerate(one.rows[: int((high - 34) / 19)]):
        y = 42 + line * 19
        for at, cell in enumerate(row):
            said = clipped(cell, wide / columns - 8, 6.4)
            yield text(10 + at * (wide - 12) / columns, y, said, FAINT if line == 0 else INK)
        yield f'<path d="M8 {y + 5}H{wide - 8}" stroke="{LINE}"/>'


def _bars(one: Shown, wide: int, high: int) -> Iterator[str]:
    names = [*one.bars]
    places = sorted({place for bars in one.bars.values() for place in bars})
    top = max((value for bars in one.bars.values() for value in bars.values()), default=1) or 1
    unit = one.panel["fieldConfig"]["defaults"]["unit"]
    room, step = high - HEAD - FOOT, (wide - SIDE - 12) / max(1, len(places))
    for share in (0, 0.5, 1):
        y = HEAD + room * (1 - share)
        yield f'<path d="M{SIDE} {y:.1f}H{wide - 10}" stroke="{LINE}"/>'
        yield text(SIDE - 5, y + 4, number(top * share, unit), FAINT, 10, anchor="end")
    for at, place in enumerate(places):
        for which, name in enumerate(names):
            value = one.bars[name].get(place, 0.0)
            bar = 0.8 * step / len(names)
            x, tall = SIDE + at * step + 0.1 * step + which * bar, room * value / top
            yield (
                f'<rect x="{x:.1f}" y="{HEAD + room - tall:.1f}" width="{bar - 1:.1f}" height="{tall:.1f}" '
                f'fill="{COLORS[which]}"/>'
            )
        yield text(SIDE + (at + 0.5) * step, high - FOOT + 13, clipped(place, step, 5.5), FAINT, 10, anchor="middle")
    yield from _legend([(name, COLORS[at]) for at, name in enumerate(names)], wide, high)


def _time_axis(wide: int, high: int, start: float, end: float) -> Iterator[str]:
    for share in (0, 0.5, 1):
        x = SIDE + (wide - SIDE - 14) * share
        said = time.strftime("%H:%M:%S", time.gmtime(start + (end - start) * share))
        yield text(x, high - FOOT + 13, said, FAINT, 10, anchor=("start", "middle", "end")[int(share * 2)])


def _lines(one: Shown, wide: int, high: int, start: float, end: float) -> Iterator[str]:
    defaults = one.panel["fieldConfig"]["defaults"]
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    measured = [each for each in one.series if not each.limit][:MOST_SERIES]
    drawn = measured + [each for each in one.series if each.limit][:MOST_NAMES]
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    below: dict[float, float] = {}
    lines = []
    for each in drawn:
        points = each.points
        if stacked and not each.limit:
            points = [(at, value + below.get(at, 0.0)) for at, value in points]
            below |= dict(points)
        lines.append((each, points))
    values = [value for _, points in lines for _, value in points] + [value for _, value in one.marks]
    low, top = min(0.0, *values), max(values)
    if limits and (top <= 0 or limits[0] < 4 * top):
        top = max(top, 1.1 * limits[0])
    if "max" in defaults:
        top = max(top, 0.01) if top < defaults["max"] / 2 else defaults["max"]
    top = top if top > low else low + 1
    room, across = high - HEAD - FOOT, wide - SIDE - 14

    def place(at: float, value: float) -> str:
        return f"{SIDE + across * (at - start) / (end - start):.1f} {HEAD + room * (top - value) / (top - low):.1f}"

    for share in (0, 0.5, 1):
        value = low + (top - low) * share
        yield f'<path d="M{place(start, value)}H{wide - 14}" stroke="{LINE}"/>'
        y = HEAD + room * (1 - share)
        yield text(SIDE - 5, y + 4, number(value, defaults["unit"]), FAINT, 10, anchor="end")
    yield from _time_axis(wide, high, start, end)
    for limit in limits:
        if limit <= top:
            yield f'<path d="M{place(start, limit)}H{wide - 14}" stroke="{NAMED["red"]}" stroke-dasharray="6 4"/>'
    names = []
    for which, (each, points) in enumerate(lines):
        color = NAMED["red"] if each.limit else COLORS[which % len(COLORS)]
        dashes = ' stroke-dasharray="6 4"' if each.limit else ""
        for beginning, own in (("estimated,", COLORS[0]), ("realised,", COLORS[1])):
            if each.name.startswith(beginning):
                color, dashes = own, "" if ", value " in each.name else ' stroke-dasharray="2 3"'
        path = "L".join(place(*point) for point in points)
        yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.3"{dashes}/>'
        names.append((each.name, color))
    marks = [mark for mark in one.marks if mark[0] >= start]
    for at, value in marks[:: max(1, len(marks) // MOST_EXEMPLARS)]:
        x, y = map(float, place(at, min(value, top)).split())
        yield f'<path d="M{x:.1f} {y - 3:.1f}l3 3l-3 3l-3 -3z" fill="#8250df" opacity="0.7"/>'
    yield from _legend(names, wide, high, len(one.series) - len(drawn))


def _legend(names: Sequence[tuple[str, str]], wide: int, high: int, more: int = 0) -> Iterator[str]:
    x, left = 10.0, wide - 20.0
    shown = [*names[:MOST_NAMES]]
    if len(names) > MOST_NAMES and names[-1][1] == NAMED["red"]:
        shown[-1] = names[-1]
    for name, color in shown:
        room = left / len(shown)
        yield f'<rect x="{x:.0f}" y="{high - 14}" width="10" height="3" fill="{color}"/>'
        yield text(x + 14, high - 8, clipped(name, room - 20, 5.9), FAINT, 10)
        x += room
    rest = len(names) - len(shown) + more
    if rest > 0:
        yield text(wide - 8, 18, f"+ {rest}", FAINT, 10, anchor="end")


def _heat(one: Shown, wide: int, high: int, start: float, end: float) -> Iterator[str]:
    rows = sorted(one.series, key=lambda each: float(each.name))
    below: dict[float, float] = {}
    cells: list[tuple[int, float, float]] = []
    for line, row in enumerate(rows):  # buckets hold what is below them, too
        for at, value in row.points:
            cells.append((line, at, max(0.0, value - below.get(at, 0.0))))
            below[at] = value
    used = [line for line, _, count in cells if count > 0] or [0]
    first, last = max(0, min(used) - 1), max(used)
    most = max(count for _, _, count in cells) or 1
    room, across = high - HEAD - 20, wide - SIDE - 14
    tall = room / (last - first + 1)
    times = sorted({at for _, at, _ in cells})
    step = across / max(1, len(times))
    for line, at, count in cells:
        if count > 0 and first <= line:
            x, y = SIDE + times.index(at) * step, HEAD + room - (line - first + 1) * tall
            yield (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step:.1f}" height="{max(1.0, tall - 1):.1f}" fill="#bc4c00" '
                f'opacity="{0.08 + 0.92 * (count / most) ** 0.5:.2f}"/>'
            )
    unit = one.panel["fieldConfig"]["defaults"]["unit"]
    every = max(1, (last - first + 1) // 5)
    for line in range(first, last + 1, every):
        y = HEAD + room - (line - first + 0.5) * tall
        yield text(SIDE - 5, y + 3, number(float(rows[line].name), unit), FAINT, 9, anchor="end")
    yield from _time_axis(wide, high + 14, start, end)


def _states(one: Shown, wide: int, high: int, start: float, end: float) -> Iterator[str]:
    defaults = one.panel["fieldConfig"]["defaults"]
    rows = sorted(one.series, key=lambda each: each.name)[: max(1, (high - HEAD - 22) // 14)]
    side = min(220, wide // 3)
    tall, across = (high - HEAD - 20) / len(rows), wide - side - 14
    times = sorted({at for row in rows for at, _ in row.points})
    step = across / max(1, len(times))
    for line, row in enumerate(rows):
        y = HEAD + line * tall
        yield text(side - 6, y + tall / 2 + 4, clipped(row.name, side - 12, 5.6), INK, 10, anchor="end")
        for at, value in row.points:
            x = side + times.index(at) * step
            yield (
                f'<rect x="{x:.1f}" y="{y + 1:.1f}" width="{step:.2f}" height="{tall - 2:.1f}" '
                f'fill="{shade(defaults, value)}" opacity="0.8"/>'
            )
    for share, anchor in ((0, "start"), (1, "end")):
        said = time.strftime("%H:%M:%S", time.gmtime(start + (end - start) * share))
        yield text(side + across * share, high - 8, said, FAINT, 10, anchor=anchor)


def shade(defaults: Mapping[str, Any], value: float) -> str:
    """The color that a value has by its name or by the thresholds."""
    for mapping in defaults.get("mappings", ()):
        known = mapping["options"].get(f"{value:g}")
        if known:
            return NAMED[known["color"]]
    chosen = defaults["thresholds"]["steps"][0]["color"]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and value >= step["value"]:
            chosen = step["color"]
    return NAMED[chosen]


def clipped(said: str, room: float, a_sign: float) -> str:
    """As much of a text as there is room for."""
    most = max(1, int(room / a_sign))
    return said if len(said) <= most else f"{said[: most - 1]}…"


def text(
    x: float, y: float, said: str, color: str = INK, size: float = 11, weight: int = 400, anchor: str = "start"
) -> str:
    """A line of text."""
    more = (f' font-weight="{weight}"' if weight != 400 else "") + (
        f' text-anchor="{anchor}"' if anchor != "start" else ""
    )
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}"{more}>{escape(said)}</text>'
