"""Draws docs/pictures/performance.svg: the census year by year, its performance as estimated and as it really was.

    python scripts/performance_picture.py [--wheel nannyml-0.13.1-py3-none-any.whl]

The rows are NannyML's: people in Massachusetts, a model that says who is employed, its scores of 2015 (the reference)
and of 2016 to 2018. A profile is fitted on 2015; then the later rows are counted in windows of 5,000, in the order of
the file, and the estimate is made of the scores alone. The labels are looked at afterwards. It needs pyarrow; the wheel
is fetched with pip unless it is given, and only read.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from nannyml_wheel import download, read_parts

import otel_mlobs as mlobs
from otel_mlobs.core import estimation
from otel_mlobs.core.layout import OutcomeLayout
from otel_mlobs.core.outcomes import performance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.outcomes import Figure

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "performance.svg"

WINDOW = 5_000
METRICS = ("precision", "recall", "accuracy")
GROUP_QUARTERS = ("16", "17")
"""The survey's codes for who lives in an institution, or in a dormitory, barracks or shelter."""

SANS = "ui-sans-serif, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
PAPER, LINE, INK, FAINT, ALERT = "#ffffff", "#dfe4ea", "#1f2328", "#59636e", "#cf222e"
ESTIMATE, BAND, TRUTH = "#0969da", "#d6e4f0", "#bc4c00"

LEFT, STEP, SIDE, TOP, PANEL, GAP = 92, 14, 24, 84, 150, 26
MINI_HEIGHT, MINI_RANGE = 120, 0.12


@dataclass(frozen=True)
class Part:
    """Some rows of the data set: what was expected of them and what came true."""

    name: str
    rows: int
    estimated: dict[str, Figure]
    realized: dict[str, float]
    thresholds: dict[str, tuple[float, float]]
    contradiction: estimation.Contradiction
    by_score: list[tuple[float, float, float]]
    """Of each group of score bins: expected share of positives, realised share less expected, its standard error."""

    def alert(self, metric: str) -> bool:
        """Whether the estimate is beyond its thresholds."""
        lower, upper = self.thresholds[metric]
        return not lower <= self.estimated[metric].value <= upper

    def wrong(self, metric: str) -> bool:
        """Whether what came true is outside of the estimate's band."""
        return not self.estimated[metric].lower <= self.realized[metric] <= self.estimated[metric].upper


class Census:
    """The rows, and the profile of 2015."""

    def __init__(self, wheel: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = [f"employment_MA_{part}.pq" for part in ("reference", "analysis", "analysis_target")]
        reference, later, labels = read_parts(wheel, files, lambda content: pq.read_table(io.BytesIO(content)))
        tables = [reference, later.append_column("employed", labels["employed"])]

        def column(name: str) -> NDArray[Any]:
            values: NDArray[Any] = np.concatenate([table[name].cast(pa.string()).to_numpy() for table in tables])
            return values

        self.year = column("year").astype(int)
        self.scores = column("predicted_probability").astype(float)
        self.labels = column("employed").astype(int)
        self.grouped = np.isin(column("RELP"), GROUP_QUARTERS)
        first = self.year == 2015
        self.profile = mlobs.Profile.fit(
            {"score": self.scores[first]},
            outputs=self.scores[first],
            labels=self.labels[first],
            model="employment",
            version="2015",
        )
        outputs = self.profile.outputs
        layout = None if outputs is None else OutcomeLayout.of(outputs)
        table = None if outputs is None else estimation.reference_table(outputs)
        assert layout is not None
        assert table is not None
        self.layout, self.reference = layout, table

    def part(self, name: str, rows: NDArray[np.bool_] | slice) -> Part:
        """The rows counted, estimated, and held against their labels."""
        scores, labels = self.scores[rows][:, None], self.labels[rows]
        predicted, outcomes = self.layout.predictions(), self.layout.outcomes()
        self.layout.count(scores, predicted)
        self.layout.add(scores, labels.tolist(), outcomes)
        calibrations = self.layout.calibrations
        return Part(
            name,
            len(scores),
            estimation.estimate(predicted, calibrations),
            {metric: figure.value for metric, figure in performance(outcomes).items()},
            estimation.window_thresholds(self.reference, len(scores)),
            estimation.contradiction(outcomes, calibrations),
            self._by_score(predicted, outcomes),
        )

    def _by_score(self, predicted: NDArray[Any], outcomes: NDArray[Any]) -> list[tuple[float, float, float]]:
        rows = predicted[0].sum(axis=1)
        calibration = self.layout.calibrations[0]
        chance = np.array(calibration.calibrated)
        # The labels' own chance, and that of as many labels of the reference
        variance = chance * (1 - chance) * (rows + rows**2 / np.maximum(np.array(calibration.rows), 1))
        positives = outcomes[0, :, :, 1].sum(axis=1)
        found = []
        # Ten groups of neighbouring bins, of a tenth of the rows each
        for group in range(10):
            held = (np.cumsum(rows) - rows / 2) // (rows.sum() / 10) == group
            n = rows[held].sum()
            if n:
                expected = float((rows * chance)[held].sum() / n)
                error = float(np.sqrt(variance[held].sum()) / n)
                found.append((expected, float(positives[held].sum() / n) - expected, error))
        return found


def draw(windows: Sequence[Part], years: Sequence[int], parts: Sequence[Part]) -> str:
    """The picture: a panel a measure, a column a window; beneath them the calibration of each part."""
    panels_end = TOP + len(METRICS) * (PANEL + GAP)
    width = LEFT + len(windows) * STEP + SIDE
    height = panels_end + MINI_HEIGHT + 84
    drawn = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{SANS}" font-size="12.5" fill="{INK}">'
        ),
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        _text(
            14, 24, "Performance as estimated without labels, and as it was: windows of 5,000 people", 15, weight=600
        ),
    ]
    drawn += _legend(46)
    for number, metric in enumerate(METRICS):
        drawn += _panel(metric, windows, TOP + number * (PANEL + GAP))
    for place, year in enumerate(years):
        if place == 0 or years[place - 1] != year:
            x = LEFT + place * STEP
            drawn.append(f'<path d="M{x} {TOP - 8}V{panels_end - 12}" stroke="{FAINT}" stroke-dasharray="3 3"/>')
            drawn.append(_text(x + 4, TOP - 2, f"{year}" + (" (reference)" if place == 0 else ""), color=FAINT))
    y = panels_end + 24
    drawn.append(_text(14, y - 12, "Employed, less expected by the calibration of 2015, by score", weight=600))
    step = (width - LEFT - SIDE) / len(parts)
    for number, part in enumerate(parts):
        drawn += _mini(part, LEFT + number * step, y + 14, step - 18)
    note = (
        "bars: 95%; left to right from the lowest tenth of the scores to the highest; groups: people in group quarters"
    )
    drawn.append(_text(LEFT, height - 12, note, 11, color=FAINT))
    drawn.append("</svg>\n")
    return "\n".join(drawn)


def _panel(metric: str, windows: Sequence[Part], top: float) -> list[str]:
    known = [value for one in windows for value in (*one.estimated[metric], one.realized[metric])]
    known += [value for one in windows for value in one.thresholds[metric]]
    low, high = min(known), max(known)

    def y(value: float) -> float:
        return round(top + PANEL - (value - low) / (high - low) * PANEL, 1)

    middles = [LEFT + place * STEP + STEP / 2 for place in range(len(windows))]
    upper = [f"{x} {y(one.estimated[metric].upper)}" for x, one in zip(middles, windows, strict=True)]
    lower = [f"{x} {y(one.estimated[metric].lower)}" for x, one in zip(middles, windows, strict=True)]
    line = [f"{x} {y(one.estimated[metric].value)}" for x, one in zip(middles, windows, strict=True)]
    drawn = [_text(14, top + PANEL / 2, metric, weight=600)]
    drawn += [_text(LEFT - 8, y(value) + 4, f"{value:.2f}", 11, color=FAINT, anchor="end") for value in (low, high)]
    drawn.append(f'<path d="M{" L".join([*upper, *reversed(lower)])}Z" fill="{BAND}"/>')
    for bound in (0, 1):
        steps = " ".join(
            f"M{x - STEP / 2} {y(one.thresholds[metric][bound])}h{STEP}"
            for x, one in zip(middles, windows, strict=True)
        )
        drawn.append(f'<path d="{steps}" stroke="{ALERT}" stroke-opacity="0.55" stroke-dasharray="4 3"/>')
    drawn.append(f'<path d="M{" L".join(line)}" fill="none" stroke="{ESTIMATE}" stroke-width="1.8"/>')
    for x, one in zip(middles, windows, strict=True):
        realized = y(one.realized[metric])
        shown = TRUTH if one.wrong(metric) else PAPER
        said = f"{one.name}: {metric} {one.estimated[metric].value:.3f} estimated, {one.realized[metric]:.3f} realised"
        drawn.append(
            f'<circle cx="{x}" cy="{realized}" r="3" fill="{shown}" stroke="{TRUTH}" stroke-width="1.3">'
            f"<title>{escape(said)}</title></circle>"
        )
        if one.alert(metric):
            drawn.append(
                f'<circle cx="{x}" cy="{y(one.estimated[metric].value)}" r="6" fill="none" stroke="{ALERT}" '
                f'stroke-width="2"/>'
            )
    return drawn


def _mini(part: Part, left: float, top: float, width: float) -> list[str]:
    def y(value: float) -> float:
        return round(top + MINI_HEIGHT / 2 - value / MINI_RANGE * MINI_HEIGHT / 2, 1)

    refuted = part.contradiction.refuted
    said = "refuted" if refuted else "holds"
    drawn = [
        _text(left, top - 2, part.name),
        _text(left, top + MINI_HEIGHT + 12, f"calibration {said}", 11, color=ALERT if refuted else FAINT),
        f'<path d="M{left:.1f} {y(0)}h{width:.1f}" stroke="{FAINT}"/>',
    ]
    if left <= LEFT:
        drawn += [
            _text(left - 8, y(value) + 4, f"{value:+.1f}" if value else "0", 11, color=FAINT, anchor="end")
            for value in (-0.1, 0.0, 0.1)
        ]
    for place, (_, off, error) in enumerate(part.by_score):
        x = round(left + (place + 0.5) * width / 10, 1)
        beyond = abs(off) > 1.96 * error
        color = TRUTH if beyond else FAINT
        drawn.append(f'<path d="M{x} {y(off - 1.96 * error)}V{y(off + 1.96 * error)}" stroke="{color}"/>')
        drawn.append(f'<circle cx="{x}" cy="{y(off)}" r="2.6" fill="{color}"/>')
    return drawn


def _legend(y: float) -> list[str]:
    marks = [
        (f'<path d="M0 -4h18" stroke="{ESTIMATE}" stroke-width="1.8"/>', "estimate", 82),
        (f'<rect y="-10" width="18" height="12" fill="{BAND}"/>', "its 95% band", 106),
        (f'<circle cx="9" cy="-4" r="3" fill="{PAPER}" stroke="{TRUTH}" stroke-width="1.3"/>', "realised", 78),
        (f'<circle cx="9" cy="-4" r="3" fill="{TRUTH}"/>', "realised, outside the band", 186),
        (f'<path d="M0 -4h18" stroke="{ALERT}" stroke-opacity="0.55" stroke-dasharray="4 3"/>', "thresholds", 92),
        (f'<circle cx="9" cy="-4" r="6" fill="none" stroke="{ALERT}" stroke-width="2"/>', "alert", 60),
    ]
    x, drawn = float(LEFT), []
    for mark, said, wide in marks:
        drawn.append(f'<g transform="translate({x} {y})">{mark}</g>')
        drawn.append(_text(x + 24, y, said, 11, color=FAINT))
        x += wide + 24
    return drawn


def _text(
    x: float, y: float, said: str, size: float = 12.5, *, color: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(said)}</text>'
    )


def report(parts: Sequence[Part], windows: Sequence[Part]) -> None:
    """Print the figures that docs/estimated-performance.md has."""
    for part in parts:
        z, p = part.contradiction.z, part.contradiction.p_value
        print(f"\n{part.name}: {part.rows} rows, calibration z {z:.1f}, p {p:.1g}")
        for metric in estimation.METRICS:
            value, lower, upper = part.estimated[metric]
            least, most = part.thresholds[metric]
            marks = (" alert" if part.alert(metric) else "") + (" WRONG" if part.wrong(metric) else "")
            print(
                f"  {metric:12} estimated {value:.3f} [{lower:.3f}, {upper:.3f}]  "
                f"realised {part.realized[metric]:.3f}  thresholds {least:.3f}, {most:.3f}{marks}"
            )
        print("  expected, off:", " ".join(f"{share:.2f}{off:+.3f}" for share, off, _ in part.by_score))
    later = windows[14:]
    for metric in estimation.METRICS:
        alerts = [place for place, one in enumerate(later, 1) if one.alert(metric)]
        wrong = sum(one.wrong(metric) for one in later)
        print(f"{metric:12} alerts in windows {alerts}, realised outside the band in {wrong} of {len(later)}")
    print("refuted by their own labels:", [place for place, one in enumerate(later, 1) if one.contradiction.refuted])


def main() -> None:
    """Play, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help="read this nannyml wheel")
    given = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder:
        census = Census(given or download(Path(folder)))
    first = int((census.year == 2015).sum())
    starts = [*range(0, first, WINDOW), *range(first, len(census.year), WINDOW)]
    ends = [*starts[1:], len(census.year)]
    windows = [
        census.part(f"rows {start} to {end - 1}", slice(start, end)) for start, end in zip(starts, ends, strict=True)
    ]
    years = [int(census.year[start]) for start in starts]
    alone = [place for place, one in enumerate(windows) if one.alert("precision")]
    grouped = slice(starts[alone[0]], ends[alone[-1]])
    parts = [
        *(census.part(str(year), census.year == year) for year in (2015, 2016, 2017, 2018)),
        census.part("windows in alert", grouped),
        census.part("2015, groups", census.grouped & (census.year == 2015)),
    ]
    PICTURE.write_text(draw(windows, years, parts), encoding="utf-8")
    report(parts, windows)
    for year in (2015, 2016, 2017, 2018):
        rows = census.year == year
        print(f"{year}: {rows.sum()} rows, employed {census.labels[rows].mean():.4f}")
    for place in range(alone[0] - 2, alone[-1] + 3):
        share = census.grouped[starts[place] : ends[place]].mean()
        print(f"window {place - 13}: {share:.1%} in group quarters, {years[place]}")


if __name__ == "__main__":
    main()
