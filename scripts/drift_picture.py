"""Draws docs/pictures/drift.svg: what a monitor saw while the rows of `examples/database_features` went through it.

    python scripts/drift_picture.py

It loads the example's database (SQLite), trains its model and serves it; sends the rows that were held out of the
training, which are like it, and then those that came later, which are not; and draws the PSI of every feature as the
monitor gave it, with the pane in which each was first called drift. It needs the extra `demo`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "database_features"
PICTURE = ROOT / "docs" / "pictures" / "drift.svg"

HOUR = 3600.0
PANE_ROWS = 96
WINDOW_PANES = 8
LATER_PANES = 14

SANS = "ui-sans-serif, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAPER, LINE, INK, FAINT, ALERT = "#ffffff", "#dfe4ea", "#1f2328", "#59636e", "#cf222e"
SHADES = ((0.02, "#eef3f7"), (0.05, "#d6e4f0"), (0.1, "#aecde6"), (0.25, "#f6c7a1"), (0.5, "#ee8f5d"), (1e9, "#cf4a2b"))
"""PSI up to the number gets the color; 0.1 is the monitor's tolerance."""

NAME_WIDTH, CELL, ROW, SIDE = 150, 21, 24, 226
TOP = 74


@dataclass
class Seen:
    """One feature's PSI after every pane, and the first pane in which it was called drift."""

    name: str
    psi: list[float] = field(default_factory=list)
    first: int | None = None
    verdict: str = ""


def prepare(folder: Path) -> None:
    """Fill the database and train the model, as the example's README says."""
    os.environ |= {"DATABASE_URL": f"sqlite:///{folder / 'housing.sqlite'}", "HOUSING_ARTIFACTS": str(folder)}
    for command in (["load.py"], ["train.py", "--artifacts", str(folder)]):
        subprocess.run([sys.executable, *command], cwd=EXAMPLE, check=True, stdout=subprocess.DEVNULL)


def play(folder: Path) -> tuple[list[Seen], int]:
    """Send the rows, a pane of them at a time; what the monitor said of each, and when the later rows began."""
    sys.path.insert(0, str(EXAMPLE))
    import data  # type: ignore[import-not-found]
    import traffic  # type: ignore[import-not-found]
    from database import Database, default_url  # type: ignore[import-not-found]
    from service import create_app  # type: ignore[import-not-found]

    import otel_mlobs as mlobs

    clock = [0.0]
    profile = mlobs.Profile.load(folder / "housing.profile.json")
    pane = PANE_ROWS * HOUR
    monitor = mlobs.Monitor(
        profile, window=WINDOW_PANES * pane, pane=pane, false_alarms_per_week=1 / 52, clock=lambda: clock[0]
    )
    client = create_app(Database(default_url()), folder, monitor).test_client()
    held_out = traffic.requests(data.load("held_out"))
    bodies: list[dict[str, Any]] = [*held_out, *traffic.requests(data.load("later"))[: LATER_PANES * PANE_ROWS]]
    seen = [Seen(name) for name in (*profile.names, "the prediction")]
    for number, start in enumerate(range(0, len(bodies) - PANE_ROWS + 1, PANE_ROWS)):
        answer = client.post("/predict", json=bodies[start : start + PANE_ROWS])
        if answer.status_code != 200:
            raise RuntimeError(f"the service answered {answer.status_code}: {answer.text}")
        clock[0] += pane
        status = monitor.status()
        assert status.prediction is not None
        for one, result in zip(seen, [*status.features.values(), status.prediction], strict=True):
            one.psi.append(result.psi)
            if result.status == "drift" and one.first is None:
                one.first = number
                one.verdict = " and ".join(
                    said for said, true in (("alarm", result.alarm), ("verdict", result.drifted)) if true
                )
    monitor.close()
    return seen, len(held_out) // PANE_ROWS


def draw(seen: list[Seen], later: int) -> str:
    """The picture: a line a feature, a square a pane."""
    panes = len(seen[0].psi)
    width, height = NAME_WIDTH + panes * CELL + SIDE, TOP + len(seen) * ROW + 64
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{SANS}" font-size="12.5" fill="{INK}">'
        ),
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        _text(14, 24, "Drift by feature: PSI of the last eight panes against the training data", size=15, weight=600),
        _text(NAME_WIDTH, 52, "held-out rows, like the training data", color=FAINT),
        _text(NAME_WIDTH + later * CELL + 6, 52, "rows that came later", color=FAINT),
    ]
    for line, one in enumerate(seen):
        y = TOP + line * ROW
        parts.append(_text(14, y + 15, one.name, font=MONO))
        parts += [
            f'<rect x="{NAME_WIDTH + pane * CELL}" y="{y}" width="{CELL - 2}" height="{ROW - 4}" rx="3" '
            f'fill="{_shade(psi)}"><title>{escape(one.name)}: PSI {psi:.3f}</title></rect>'
            for pane, psi in enumerate(one.psi)
        ]
        said = f"PSI {one.psi[-1]:.2f}"
        if one.first is not None:
            x = NAME_WIDTH + one.first * CELL
            parts.append(
                f'<rect x="{x - 1}" y="{y - 1}" width="{CELL}" height="{ROW - 2}" rx="4" fill="none" stroke="{ALERT}" '
                f'stroke-width="2"/>'
            )
            said += f" · {one.verdict}, pane {one.first + 1 - later}"
        parts.append(
            _text(NAME_WIDTH + panes * CELL + 10, y + 15, said, color=ALERT if one.first is not None else FAINT)
        )
    x = NAME_WIDTH + later * CELL - 1
    parts.append(f'<path d="M{x} 40V{TOP + len(seen) * ROW}" stroke="{FAINT}" stroke-dasharray="3 3"/>')
    parts += _legend(TOP + len(seen) * ROW + 14)
    parts.append("</svg>\n")
    return "\n".join(parts)


def _legend(y: int) -> list[str]:
    parts = []
    x = NAME_WIDTH
    for index, (upper, color) in enumerate(SHADES):
        said = f"≤ {upper:g}" if upper < 1e6 else f"> {SHADES[index - 1][0]:g}"
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="14" rx="3" fill="{color}"/>')
        parts.append(_text(x + CELL + 3, y + 11, said, color=FAINT, size=11))
        x += 76
    parts.append(
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="14" rx="3" fill="none" stroke="{ALERT}" stroke-width="2"/>'
    )
    parts.append(_text(x + CELL + 3, y + 11, "first called drift", color=FAINT, size=11))
    promise = "the verdict tolerates a PSI of 0.1, the alarm promises one false alarm a year"
    note = f"a pane is {PANE_ROWS} rows, one an hour; {promise}"
    parts.append(_text(NAME_WIDTH, y + 34, note, color=FAINT, size=11))
    return parts


def _shade(psi: float) -> str:
    return next(color for upper, color in SHADES if psi <= upper) if psi == psi else PAPER  # noqa: PLR0124 - NaN


def _text(
    x: float, y: float, said: str, *, color: str = INK, size: float = 12.5, weight: int = 400, font: str = ""
) -> str:
    family = f' font-family="{font}"' if font else ""
    return (
        f'<text x="{x}" y="{y}" fill="{color}" font-size="{size}" font-weight="{weight}"{family}>{escape(said)}</text>'
    )


def main() -> None:
    """Play, draw, write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        seen, later = play(folder)
    PICTURE.write_text(draw(seen, later), encoding="utf-8")
    for one in seen:
        when = "never" if one.first is None else f"pane {one.first + 1 - later} of the later rows ({one.verdict})"
        print(f"{one.name:18} PSI {one.psi[-1]:6.3f}  first called drift: {when}")


if __name__ == "__main__":
    main()
