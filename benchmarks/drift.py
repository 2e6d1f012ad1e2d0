"""What monitoring costs: rows and batches observed, panes ended, memory, the profile's file.

Rows are measured against a bare hand-written span of the SDK, as ``overhead.py`` measures it. Batches and panes are
measured against what anybody would write first to count a batch of 10,000 rows and 10 features with numpy, one
``searchsorted`` and one ``bincount`` per feature. Everything is in one process, each block beside one of its baseline.

Rows queue up and are counted in folds of about a thousand, so a block has many thousand rows and the folds are in the
price. Memory is what tracemalloc says a monitor holds, beyond its profile.

Run ``python benchmarks/drift.py``; ``harness.py`` says how it is measured, ``drift_peers.py`` measures other tools.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from harness import (
    KeepingMetricExporter,
    Row,
    SpanPipeline,
    Spread,
    Variant,
    as_json,
    calls,
    environment,
    measure,
    print_table,
    set_up_our_metrics,
    verdict,
    write_json,
)
from opentelemetry import trace

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NAMES = [f"feature_{index}" for index in range(10)]
REFERENCE_ROWS = 10_000
BATCH_ROWS = 10_000
CHUNK = 100
"""Rows observed in a block for every bare span in its baseline."""

PANE_S = 60.0
PANE_ROWS = 100
PANES_OF_TRAFFIC = 300
"""More than the longest window that the alarm looks back over, 256."""

_CYCLE = 64

BARE = "bare span"
NUMPY = "numpy, searchsorted and bincount"


class Clock:
    """A monitor's clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds, as ``time.time`` gives them."""
        return self.now


@dataclass(frozen=True)
class Size:
    """Something measured in bytes."""

    name: str
    size: int
    target: int | None = None

    @property
    def passed(self) -> bool | None:
        """Whether it keeps to the target; None where there is none."""
        return None if self.target is None else self.size <= self.target


def sample(rows: int, features: int = len(NAMES), seed: int = 1) -> Floats:
    """Normal values, C order."""
    return np.random.default_rng(seed).normal(size=(rows, features))


def bare_span(spans: SpanPipeline) -> Variant:
    """The baseline of ``overhead.py``."""
    tracer = spans.provider.get_tracer("hand")

    def bare(features: object) -> object:
        with tracer.start_as_current_span(
            "prediction churn",
            attributes={
                "mlobs.operation.name": "prediction",
                "mlobs.model.name": "churn",
                "mlobs.model.version": "7",
                "mlobs.ranking.input.count": 5,
                "mlobs.ranking.output.count": 5,
            },
        ):
            return features

    return Variant(BARE, calls(bare, None), BARE, spans.flush, lambda n: spans.require(n, BARE))


def numpy_count(edges: Sequence[Floats], batch: Floats) -> Variant:
    """The baseline of batches."""

    def count() -> object:
        return [
            np.bincount(np.searchsorted(inner, batch[:, column]), minlength=len(inner) + 1)
            for column, inner in enumerate(edges)
        ]

    return Variant(NUMPY, calls(count), NUMPY)


def chunks(observe: Callable[[object], object], rows: Sequence[object]) -> Callable[[int], None]:
    """A loop that observes n times ``CHUNK`` rows, one by one."""
    parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]

    def loop(n: int) -> None:
        for part in islice(cycle(parts), n):
            for row in part:
                observe(row)

    return loop


def per_row(row: Row) -> Row:
    """The same for one row, where a call of the loop was ``CHUNK`` of them."""
    if row.name == row.baseline:
        return row
    return replace(
        row,
        wall_us=row.wall_us / CHUNK,
        cpu_us=row.cpu_us / CHUNK,
        wall=_scaled(row.wall),
        cpu=_scaled(row.cpu),
        target=None if row.target is None else row.target / CHUNK,
    )


class SmallSpread(Spread):
    """A spread of ratios far below 1."""

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.lower:.3f}, {self.upper:.3f}]"


def _scaled(spread: Spread) -> Spread:
    return SmallSpread(spread.median / CHUNK, spread.lower / CHUNK, spread.upper / CHUNK)


def profile_of(rows: int, features: Sequence[str], *, outputs: bool = False) -> mlobs.Profile:
    """A profile of normal features, and a score with its calibration where outputs are asked for."""
    data = sample(rows, len(features))
    scores = 1.0 / (1.0 + np.exp(-data[:, 0]))
    labels = (np.random.default_rng(2).random(rows) < scores).astype(int)
    said = {"outputs": scores, "labels": labels} if outputs else {}
    return mlobs.Profile.fit(data, features=list(features), model="churn", version="7", **said)


class Counted:
    """Checks that a monitor counted the rows of every block."""

    def __init__(self, monitor: mlobs.Monitor, rows_a_call: int) -> None:
        self.monitor = monitor
        self._rows_a_call = rows_a_call
        self._before = monitor.status().rows

    def check(self, n: int) -> None:
        """Raise RuntimeError unless n calls' rows came in."""
        now = self.monitor.status().rows
        got, self._before = now - self._before, now
        if got != n * self._rows_a_call:
            raise RuntimeError(f"{n * self._rows_a_call} rows expected in the window, got {got}")


def rows_variants(spans: SpanPipeline) -> list[Variant]:
    """A row of 10 features, by shape, and with panes that end every minute of traffic."""
    profile = profile_of(REFERENCE_ROWS, NAMES)
    matrix = sample(10 * CHUNK, seed=3)
    arrays = [row.copy() for row in matrix]
    mappings = [dict(zip(NAMES, row.tolist(), strict=True)) for row in matrix]

    def plain(name: str, rows: Sequence[object], target: float | None) -> Variant:
        monitor = mlobs.Monitor(profile, window=1e6, pane=1e6)
        return Variant(name, chunks(monitor.observe, rows), BARE, check=Counted(monitor, CHUNK).check, target=target)

    def with_panes(rows_a_pane: int) -> Variant:
        clock = Clock()
        monitor = mlobs.Monitor(profile, window=3600.0, pane=PANE_S, clock=clock)
        observe, part = monitor.observe, arrays[:CHUNK]

        def loop(n: int) -> None:
            for _ in range(n):
                for row in part:
                    observe(row)
                clock.now += PANE_S * CHUNK / rows_a_pane

        return Variant(f"array, a pane every {rows_a_pane:,} rows", loop, BARE)

    return [
        bare_span(spans),
        plain("array", arrays, 0.05 * CHUNK),
        plain("mapping", mappings, 0.07 * CHUNK),
        plain("list", matrix.tolist(), None),
        with_panes(6_000),
        with_panes(600),
    ]


def batch_variants() -> list[Variant]:
    """A batch of 10,000 rows and 10 features."""
    profile = profile_of(REFERENCE_ROWS, NAMES)
    batch = sample(BATCH_ROWS, seed=4)
    with_missing = batch.copy()
    with_missing[np.random.default_rng(5).random(batch.shape) < 0.02] = np.nan

    def observed(name: str, data: object, target: float | None) -> Variant:
        monitor = mlobs.Monitor(profile, window=1e6, pane=1e6)
        counted = Counted(monitor, BATCH_ROWS)
        return Variant(name, calls(monitor.observe, data), NUMPY, check=counted.check, target=target)

    return [
        numpy_count([np.array(column.bins.edges) for column in profile.features], batch),
        observed("array", batch, 0.2),
        observed("array, float32", batch.astype(np.float32), None),
        observed("array, column by column in memory", np.asfortranarray(batch), None),
        observed("array, 2% missing", with_missing, None),
    ]


def prediction_variants(spans: SpanPipeline) -> list[Variant]:
    """A decorated prediction, with and without a monitor."""
    set_up_our_metrics(KeepingMetricExporter())
    profile = profile_of(REFERENCE_ROWS, NAMES, outputs=True)
    monitor = mlobs.Monitor(profile, window=1e6, pane=1e6)
    row = sample(1, seed=6)[0]
    mapping = dict(zip(NAMES, row.tolist(), strict=True))

    @mlobs.prediction(model="churn", version="7", inputs="features")
    def unmonitored(features: object) -> float:
        return 0.3

    @mlobs.prediction(monitor=monitor, inputs="features")
    def monitored(features: object) -> float:
        return 0.3

    def variant(name: str, function: Callable[[object], float], argument: object, baseline: str) -> Variant:
        return Variant(name, calls(function, argument), baseline, spans.flush, lambda n: spans.require(n, name))

    bare, without = bare_span(spans), "prediction"
    return [
        bare,
        variant(without, unmonitored, row, BARE),
        variant("prediction, monitored, array", monitored, row, BARE),
        variant("prediction, monitored, mapping", monitored, mapping, BARE),
    ]


def measure_panes(features: int, *, cycles: int, target: float | None) -> list[Row]:
    """The end of a pane of 100 rows: design effect, alarm, verdict, a record per feature. Median and mean."""
    clock = Clock()
    names = [f"feature_{index}" for index in range(features)]
    monitor = mlobs.Monitor(profile_of(REFERENCE_ROWS, names), window=3600.0, pane=PANE_S, clock=clock)
    edges = [np.array(column.bins.edges) for column in profile_of(REFERENCE_ROWS, NAMES).features]
    baseline = numpy_count(edges, sample(BATCH_ROWS, seed=4))
    draw = np.random.default_rng(7)
    shuffled = random.Random(1)
    walls: list[tuple[float, float]] = []
    cpus: list[tuple[float, float]] = []

    def end_pane(_n: int) -> None:
        if monitor.tick() <= clock.now:
            raise RuntimeError("the pane did not end")

    pane = Variant("pane", end_pane, NUMPY)
    monitor.observe(draw.normal(size=(PANE_ROWS, features)))
    for number in range(PANES_OF_TRAFFIC + cycles * _CYCLE):
        monitor.observe(draw.normal(size=(PANE_ROWS, features)))
        clock.now += PANE_S
        if number < PANES_OF_TRAFFIC:
            monitor.tick()
            continue
        pair = [pane, baseline]
        shuffled.shuffle(pair)
        times = {variant.name: timed(variant) for variant in pair}
        walls.append((times["pane"][0], times[NUMPY][0]))
        cpus.append((times["pane"][1], times[NUMPY][1]))
    if monitor.status().status != "ok":
        raise RuntimeError(f"no drift was sent, the monitor says {monitor.status()}")

    base = Row(NUMPY, NUMPY, *(_us(pairs, 1, statistics.median) for pairs in (walls, cpus)), _ONE, _ONE, None, None)
    rows = [base]
    for name, over, spread in (
        ("median pane", statistics.median, _of_medians),
        ("mean pane", statistics.mean, _of_means),
    ):
        us = [_us(pairs, 0, over) for pairs in (walls, cpus)]
        rows.append(Row(f"{features} features, {name}", NUMPY, *us, spread(walls), spread(cpus), target, None))
    return rows


_ONE = Spread(1.0, 1.0, 1.0)


def _us(pairs: Sequence[tuple[float, float]], which: int, over: Callable[[Sequence[float]], float]) -> float:
    return over([pair[which] for pair in pairs]) * 1e6


def _of_medians(pairs: Sequence[tuple[float, float]]) -> Spread:
    return Spread.of([own / base for own, base in pairs])


def _of_means(pairs: Sequence[tuple[float, float]]) -> Spread:
    """The ratio of the means over cycles of 64 panes, in which every window of the alarm has its turn."""
    cycles = [pairs[start : start + _CYCLE] for start in range(0, len(pairs) - _CYCLE + 1, _CYCLE)]
    return Spread.of([sum(own for own, _ in part) / sum(base for _, base in part) for part in cycles])


def timed(variant: Variant) -> tuple[float, float]:
    """Seconds of one call, by the wall clock and of CPU."""
    cpu, wall = time.process_time(), time.perf_counter()
    variant.loop(1)
    return time.perf_counter() - wall, time.process_time() - cpu


def memory(features: int = 100) -> list[Size]:
    """What a monitor holds after 300 panes of 100 rows, observed one by one, and its largest parts."""
    profile = profile_of(REFERENCE_ROWS, [f"feature_{index}" for index in range(features)])
    rows = list(sample(PANE_ROWS, features, seed=8))
    clock = Clock()
    mlobs.Monitor(profile).close()  # what the first monitor of a process makes is shared by all
    gc.collect()
    tracemalloc.start(16)
    before, _ = tracemalloc.get_traced_memory()
    monitor = mlobs.Monitor(profile, window=3600.0, pane=PANE_S, clock=clock)
    for pane in range(PANES_OF_TRAFFIC):
        for row in rows:
            monitor.observe(row)
        clock.now += PANE_S
        if pane == PANES_OF_TRAFFIC - 1:
            tracemalloc.reset_peak()
    monitor.tick()
    gc.collect()
    held, peak = (size - before for size in tracemalloc.get_traced_memory())
    parts: dict[str, int] = {}
    for trace_ in tracemalloc.take_snapshot().traces:
        ours = [frame for frame in trace_.traceback if "otel_mlobs" in frame.filename]
        if ours:
            path = Path(ours[-1].filename)
            name = f"{path.parent.name}/{path.name}"
            parts[name] = parts.get(name, 0) + trace_.size
    tracemalloc.stop()
    monitor.close()
    largest = sorted(parts.items(), key=lambda part: -part[1])[:6]
    return [
        Size(f"monitor of {features} features, held", held, 1_000_000),
        Size(f"monitor of {features} features, peak while a pane ends", peak),
        *(Size(f"  of what is held: {name}", size) for name, size in largest),
    ]


def files() -> list[Size]:
    """The saved profile of 10 features."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        profile_of(REFERENCE_ROWS, NAMES).save(path)
        plain = path.stat().st_size
        profile_of(REFERENCE_ROWS, NAMES, outputs=True).save(path)
        return [
            Size("profile of 10 features, file", plain, 10_000),
            Size("the same with a score and its calibration", path.stat().st_size, 10_000),
        ]


def print_sizes(title: str, sizes: Sequence[Size]) -> None:
    """Print sizes with their targets."""
    width = max(len(size.name) for size in sizes)
    print(f"\n{title}")
    for size in sizes:
        target = "" if size.target is None else f"{size.target / 1e3:8,.0f}"
        print(f"{size.name:{width}}  {size.size / 1e3:8,.1f} kB  {target:>8}  {verdict(size.passed)}".rstrip())


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--quick", action="store_true", help="11 rounds: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    args = parser.parse_args()
    rounds, cycles = (11, 2) if args.quick else (args.rounds, 5)
    logging.disable(logging.WARNING)  # a monitor says it when traffic is told apart from its reference
    spans = SpanPipeline.create(ours=True)
    trace.set_tracer_provider(spans.provider)
    results = {
        "A row of 10 features observed, folds included": [
            per_row(row) for row in measure(rows_variants(spans), rounds=rounds, n=100)
        ],
        "A batch of 10,000 rows and 10 features observed": measure(batch_variants(), rounds=rounds, n=4),
        "A pane of 100 rows ended": [
            *measure_panes(100, cycles=cycles, target=2.5),
            *measure_panes(10, cycles=cycles, target=None)[1:],
        ],
        "A decorated prediction": measure(prediction_variants(spans), rounds=rounds, n=200),
    }
    for title, rows in results.items():
        print_table(title, rows)
    sizes = [*memory(), *files()]
    print_sizes("Sizes", sizes)
    if args.json:
        report = {
            "environment": environment("otel-mlobs", "numpy", "opentelemetry-api", "opentelemetry-sdk"),
            "rounds": rounds,
            "tables": {title: as_json(rows) for title, rows in results.items()},
            "sizes": {size.name: size.size for size in sizes},
        }
        write_json(args.json, report)
    missed = any(row.passed is False for rows in results.values() for row in rows) or any(
        size.passed is False for size in sizes
    )
    return int(args.check and missed)


if __name__ == "__main__":
    sys.exit(main())
