"""How often the drift alarm and the verdict speak up on streams that do not drift, and how soon on streams that do.

Counts go the way they go in a monitor: reference rows into the profile's bins, live counts through ``DesignEffect``,
``Alarm`` and ``verdicts``, at the default settings, panes of 100 rows. Live counts are drawn from the stream's true
shares of the reference's bins, which is the same as to draw rows and to bin them, and faster; rows are drawn where they
depend on one another. Streams of a run are features of one ``Alarm`` whose threshold is that of the features asked for,
so a run of 200 streams takes one pass.

calm       panes with an alarm per 10,000 panes, all features together; promised: about 1 (A = 10,080)
dependent  the same for rows that depend on one another
quick      rows after a change until alarm or verdict, median and 95%, and how many were found within the limit

Run ``python benchmarks/drift_quality.py`` (about half an hour), with ``--quick`` for a smaller one of some minutes.
"""

from __future__ import annotations

import argparse
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from otel_mlobs.core.alarm import Alarm, DesignEffect, e_benjamini_hochberg
from otel_mlobs.core.binning import count_floats, numeric_edges
from otel_mlobs.core.evidence import verdicts
from otel_mlobs.core.special import normal_cdf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]
    Stream = Iterator[Counts]

ROWS = 100
"""Rows of a pane."""

PANES_PER_ALARM = 10_080.0
WINDOW = 60
"""Panes of the verdict's window: an hour of minutes."""

BINS = 10
SPECIALS = 2
CATEGORIES, LEAST_ROWS = 32, 20


@dataclass(frozen=True)
class References:
    """The references of many streams, one feature each, in the layout of ``otel_mlobs.core``."""

    m: Counts
    real: NDArray[np.bool_]
    ordered: NDArray[np.bool_]
    shares: Floats
    """The true shares of the cells, without drift."""
    edges: tuple[tuple[float, ...], ...] = ()


def numeric_references(
    draw: Callable[[np.random.Generator, int], Floats],
    cdf: Callable[[Floats], Floats],
    rows: int,
    streams: int,
    rng: np.random.Generator,
) -> References:
    """``streams`` samples of ``rows`` values, each in bins at its own quantiles."""
    width = BINS + 1 + SPECIALS
    m, shares = np.zeros((streams, width), np.int64), np.zeros((streams, width))
    real = np.zeros((streams, width), np.bool_)
    real[:, -SPECIALS:] = True
    edges = []
    for stream in range(streams):
        sample = draw(rng, rows)
        quantiles = np.quantile(sample, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges.append(numeric_edges(quantiles, float(sample.min()), float(sample.max())))
        values = len(edges[-1]) + 1
        counts = count_floats(sample, edges[-1])
        m[stream, :values], m[stream, -SPECIALS:] = counts[:values], counts[values:]
        real[stream, :values] = True
        shares[stream, :values] = np.diff(cdf(np.array(edges[-1])), prepend=0.0, append=1.0)
    return References(m, real, np.ones(streams, np.bool_), shares, tuple(edges))


def categorical_references(population: Floats, rows: int, streams: int, rng: np.random.Generator) -> References:
    """Samples of categories; the frequent ones have cells, as in a profile, the others are ``other``."""
    width = CATEGORIES + SPECIALS
    m, shares = np.zeros((streams, width), np.int64), np.zeros((streams, width))
    real = np.zeros((streams, width), np.bool_)
    real[:, -SPECIALS:] = True
    for stream in range(streams):
        counts = rng.multinomial(rows, population)
        kept = np.argsort(-counts, kind="stable")[:CATEGORIES]
        kept = kept[counts[kept] >= LEAST_ROWS]
        m[stream, : kept.size], m[stream, -1] = counts[kept], rows - counts[kept].sum()
        shares[stream, : kept.size] = population[kept]
        shares[stream, -1] = max(0.0, 1.0 - population[kept].sum())
        real[stream, : kept.size] = True
    return References(m, real, np.zeros(streams, np.bool_), shares / shares.sum(1, keepdims=True))


def normal_references(rows: int, streams: int, rng: np.random.Generator) -> References:
    """References of normal values."""
    return numeric_references(lambda rng, size: rng.normal(size=size), normal_cdf, rows, streams, rng)


def _heavy_tailed(rows: int, streams: int, rng: np.random.Generator) -> References:
    """Pareto with infinite variance: the mean of a sample means little."""
    return numeric_references(
        lambda rng, size: rng.pareto(1.5, size=size),
        lambda x: 1.0 - (1.0 + np.maximum(x, 0.0)) ** -1.5,
        rows,
        streams,
        rng,
    )


def _integers(rows: int, streams: int, rng: np.random.Generator) -> References:
    masses = np.array([math.exp(-4.0) * 4.0**k / math.factorial(k) for k in range(60)])
    return numeric_references(
        lambda rng, size: rng.poisson(4.0, size=size).astype(np.float64),
        lambda x: np.cumsum(masses)[np.clip(np.floor(x), 0, 59).astype(np.int64)],
        rows,
        streams,
        rng,
    )


def _categories(distinct: int) -> Callable[[int, int, np.random.Generator], References]:
    weights = 1.0 / np.arange(1, distinct + 1)
    population = weights / weights.sum()
    return lambda rows, streams, rng: categorical_references(population, rows, streams, rng)


POPULATIONS: dict[str, Callable[[int, int, np.random.Generator], References]] = {
    "normal": normal_references,
    "heavy-tailed": _heavy_tailed,
    "integers with ties": _integers,
    "5 categories": _categories(5),
    "20 categories": _categories(20),
    "1,000 categories": _categories(1_000),
}


def independent(references: References, rng: np.random.Generator) -> Stream:
    """Panes of independent rows."""
    while True:
        yield rng.multinomial(ROWS, references.shares)


def copies(times: int) -> Callable[[References, np.random.Generator], Stream]:
    """Panes of rows that come ``times`` over, one after the other; a run may last for several panes."""

    def stream(references: References, rng: np.random.Generator) -> Stream:
        if times <= ROWS:
            while True:
                yield times * rng.multinomial(ROWS // times, references.shares)
        panes, streams = times // ROWS, len(references.m)
        left, current = rng.integers(0, panes, streams), rng.multinomial(1, references.shares)
        while True:
            current = np.where((left == 0)[:, None], rng.multinomial(1, references.shares), current)
            left = np.where(left == 0, panes, left) - 1
            yield ROWS * current

    return stream


def autoregressive(phi: float) -> Callable[[References, np.random.Generator], Stream]:
    """Panes of normal rows, each ``phi`` times the one before and something new."""

    def stream(references: References, rng: np.random.Generator) -> Stream:
        last = rng.normal(size=len(references.m))
        while True:
            rows = rng.normal(scale=math.sqrt(1.0 - phi**2), size=(ROWS, last.size))
            for index in range(ROWS):
                rows[index] += phi * last
                last = rows[index]
            yield _binned(rows, references)

    return stream


def diurnal(amplitude: float) -> Callable[[References, np.random.Generator], Stream]:
    """Panes of a minute of normal rows whose mean goes up and down by ``amplitude`` once a day."""

    def stream(references: References, rng: np.random.Generator) -> Stream:
        pane = 0
        while True:
            mean = amplitude * math.sin(2.0 * math.pi * pane / 1_440)
            yield rng.multinomial(ROWS, normal_shares(references, shift=mean))
            pane += 1

    return stream


def _binned(rows: Floats, references: References) -> Counts:
    edges = np.array(references.edges).T
    below = np.stack([(rows <= edge).sum(0) for edge in edges])
    counts = np.zeros_like(references.m)
    counts[:, : len(edges) + 1] = np.diff(below, axis=0, prepend=0, append=len(rows)).T
    return counts


def normal_shares(references: References, *, shift: float = 0.0, scale: float = 1.0, missing: float = 0.0) -> Floats:
    """The shares that normal values have in the references' cells once they have moved."""
    below = normal_cdf((np.array(references.edges) - shift) / scale)
    values = below.shape[1] + 1
    shares = np.zeros(references.m.shape)
    shares[:, :values] = np.diff(below, axis=1, prepend=0.0, append=1.0) * (1.0 - missing)
    shares[:, -SPECIALS] = missing
    return shares


@dataclass
class Monitors:
    """Many monitors of ``features`` features each, pane by pane, as ``otel_mlobs.Monitor`` does it."""

    references: References
    features: int = 1
    verdict_now: bool = False
    """Whether this pane's verdict is asked for: it takes as long as the alarm."""
    _panes: deque[Counts] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def __post_init__(self) -> None:
        references = self.references
        streams = len(references.m)
        # Streams stand in for features: the level is that of `features`, whatever the number of streams
        self.alarm = Alarm(
            references.m,
            references.real,
            references.ordered,
            panes_per_alarm=PANES_PER_ALARM * self.features / streams,
        )
        self.effect = DesignEffect(references.m, references.real, references.ordered)

    def update(self, counts: Counts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """End a pane; returns which features alarm and which have a verdict, shape (monitors, features)."""
        e = self.alarm.update(counts, self.effect.update(counts)).reshape(-1, self.features)
        alarms = e_benjamini_hochberg(e, 1.0 / PANES_PER_ALARM)
        self._panes.append(counts)
        if not self.verdict_now:
            return alarms, np.zeros_like(alarms)
        references = self.references
        window = np.sum(self._panes, axis=0) / self.effect.value[:, None]
        drifted = verdicts(window, references.m.astype(np.float64), references.real, references.ordered).drifted
        return alarms, drifted.reshape(-1, self.features)


@dataclass(frozen=True)
class Calm:
    """What was said of streams that do not drift."""

    monitors: int
    panes: int
    alarm_panes: int
    alarmed: int
    """How many monitors alarmed at all."""
    verdict_panes: int
    design_effect: float
    """The median over features at the end."""

    @property
    def rate(self) -> float:
        """Panes with an alarm per 10,000."""
        return 1e4 * self.alarm_panes / (self.monitors * self.panes)


def calm(
    references: References,
    panes: int,
    rng: np.random.Generator,
    *,
    features: int = 1,
    stream: Callable[[References, np.random.Generator], Stream] = independent,
) -> Calm:
    """Run monitors over ``panes`` panes and count what they say.

    The verdict is asked for once in ten panes, from the first window that is full: the first pane alone cannot say
    whether its rows depend on one another.
    """
    monitors = Monitors(references, features)
    groups = len(references.m) // features
    alarm_panes, verdict_panes = np.zeros(groups, np.int64), 0
    for pane, counts in zip(range(panes), stream(references, rng), strict=False):
        monitors.verdict_now = pane >= WINDOW and pane % 10 == 0
        alarms, drifted = monitors.update(counts)
        alarm_panes += alarms.any(1)
        verdict_panes += int(drifted.any(1).sum())
    return Calm(
        groups,
        panes,
        int(alarm_panes.sum()),
        int((alarm_panes > 0).sum()),
        verdict_panes,
        float(np.median(monitors.effect.value)),
    )


@dataclass(frozen=True)
class Change:
    """A change of a normal feature, and in how many rows it must be found."""

    name: str
    limit: int
    shift: float = 0.0
    scale: float = 1.0
    missing: float = 0.0


CHANGES = (
    Change("0.5σ", 1_000, shift=0.5),
    Change("scale × 1.3", 2_000, scale=1.3),
    Change("0.25σ", 3_000, shift=0.25),
    Change("5% missing", 1_000, missing=0.05),
)


@dataclass(frozen=True)
class Delays:
    """Rows from the change until each monitor said so; infinity where it did not."""

    alarm: Floats
    found: Floats
    """By alarm or verdict."""


def quick(
    change: Change,
    rows: int,
    monitors: int,
    rng: np.random.Generator,
    *,
    features: int = 1,
    lead: int = 200,
    panes: int,
    verdict: bool = True,
) -> Delays:
    """How long monitors take to find a change of the first of their features, in ``panes`` panes at most.

    It comes after ``lead`` panes or up to 15 more, so that it meets every phase of windows and blocks.
    """
    references = normal_references(rows, monitors * features, rng)
    running = Monitors(references, features)
    onset = lead + np.arange(monitors) % 16
    moved = normal_shares(references, shift=change.shift, scale=change.scale, missing=change.missing)
    first = np.arange(0, monitors * features, features)
    alarm, found = np.full(monitors, np.inf), np.full(monitors, np.inf)
    for pane in range(lead + 16 + panes):
        shares = references.shares.copy()
        begun = pane >= onset
        shares[first[begun]] = moved[first[begun]]
        running.verdict_now = verdict and pane >= lead
        alarms, drifted = running.update(rng.multinomial(ROWS, shares))
        delay = np.where(begun, (pane + 1 - onset) * ROWS, np.inf)
        alarm = np.minimum(alarm, np.where(alarms[:, 0], delay, np.inf))
        found = np.minimum(found, np.where(alarms[:, 0] | drifted[:, 0], delay, np.inf))
    return Delays(alarm, found)


def _rows(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "not found"


def quantiles(delays: Floats) -> str:
    """Median/95%."""
    low, high = (float(np.quantile(delays, level, method="inverted_cdf")) for level in (0.5, 0.95))
    return f"{_rows(low)}/{_rows(high)}"


def _print(title: str, head: list[str], lines: Iterator[list[str]]) -> None:
    """Print a table, each line once it is known."""
    print(f"\n{title}\n")
    for line in (head, ["---"] * len(head)):
        print("| " + " | ".join(line) + " |")
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


def _said(result: Calm) -> str:
    verdict = f", {result.verdict_panes} verdicts" if result.verdict_panes else ""
    return f"{result.rate:.2f} ({result.alarmed} of {result.monitors}{verdict})"


def calm_lines(panes: int, streams: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """The table of streams of independent rows."""
    sizes = (1_000, 10_000, 100_000)
    for name, population in POPULATIONS.items():
        yield [name, *(_said(calm(population(rows, streams, rng), panes, rng)) for rows in sizes)]
    twenty = (calm(normal_references(rows, streams, rng), panes, rng, features=20) for rows in sizes)
    yield ["normal, 20 features", *map(_said, twenty)]


def dependent_lines(panes: int, streams: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """The table of rows that depend on one another."""
    dependent = {
        **{f"every row {times} times": copies(times) for times in (2, 5, 500)},
        **{f"AR(1), φ = {phi}": autoregressive(phi) for phi in (0.5, 0.9, 0.99)},
        **{f"a daily cycle of ±{amplitude}σ": diurnal(amplitude) for amplitude in (0.1, 0.5)},
    }
    for name, stream in dependent.items():
        results = [calm(normal_references(rows, streams, rng), panes, rng, stream=stream) for rows in (1_000, 10_000)]
        yield [name, *map(_said, results), f"{results[-1].design_effect:.2f}"]


def quick_lines(monitors: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """The table of changes."""
    for rows in (1_000, 10_000, 100_000):
        for features in (1, 20):
            for change in CHANGES:
                panes = 100 if rows == 1_000 else 40
                delays = quick(change, rows, monitors, rng, features=features, panes=panes)
                within = f"{(delays.found <= change.limit).mean():.1%} in {change.limit:,}"
                speeds = [quantiles(delays.alarm), quantiles(delays.found)]
                yield [f"{rows:,}", str(features), change.name, *speeds, within]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the panes, fewer streams")
    parser.add_argument("--seed", type=int, default=20_240)
    parser.add_argument("--only", choices=("calm", "dependent", "quick"), help="one of the tables")
    parser.add_argument("--panes", type=int, help="panes of a run of calm and dependent; 10,000 unless given")
    parser.add_argument("--streams", type=int, help="features of a run of calm and dependent; 100 unless given")
    arguments = parser.parse_args()
    panes, streams, monitors = (1_000, 40, 50) if arguments.quick else (10_000, 100, 200)
    panes, streams = arguments.panes or panes, arguments.streams or streams
    rng = np.random.default_rng(arguments.seed)
    if arguments.only in (None, "calm"):
        _print(
            f"calm: panes with an alarm per 10,000 (monitors that alarmed at all); {streams} features, {panes:,} panes",
            ["rows of the reference", "1,000", "10,000", "100,000"],
            calm_lines(panes, streams, rng),
        )
    if arguments.only in (None, "dependent"):
        _print(
            "dependent: the same for rows that depend on one another, a normal feature",
            ["rows of the reference", "1,000", "10,000", "design effect"],
            dependent_lines(panes, streams, rng),
        )
    if arguments.only in (None, "quick"):
        _print(
            "quick: rows after the change until it is found, median/95%",
            ["reference", "features", "change", "alarm", "alarm or verdict", "found"],
            quick_lines(monitors, rng),
        )


if __name__ == "__main__":
    main()
