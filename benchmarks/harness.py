"""What the benchmarks share: interleaved rounds, counted spans, ratios and tables.

Two clocks are read around every block of calls. The wall clock stops when the last call returns: the time a request
waits. The CPU clock of the whole process stops only after the span processor has been flushed and the metrics have been
collected: what a library moves to another thread is still paid for, and shows up there.

Every round runs every variant once, in a shuffled order, each right beside a block of its baseline; the ratio is taken
within that pair, so a slow moment of the machine falls on both alike. The garbage collector stays on.

pyperf is not used: it measures one function at a time to the end, each in worker processes of its own, so a ratio would
compare two moments of the machine, and it has no place for the flush or for process CPU time.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

QUEUE_SIZE = 1 << 18
"""Far more than a block of calls, so that no span is ever dropped from the queue."""


class DroppingExporter(SpanExporter):
    """Counts the spans it gets, remembers the last one, and drops them."""

    def __init__(self) -> None:
        self.exported = 0
        self.last: ReadableSpan | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Count the batch and forget it."""
        self.exported += len(spans)
        self.last = spans[-1]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing: there is nothing to close."""


@dataclass
class SpanPipeline:
    """A tracer provider whose spans go through a batch processor to an exporter that drops them."""

    provider: TracerProvider
    exporter: DroppingExporter
    processor: BatchSpanProcessor
    seen: int = 0

    @classmethod
    def create(cls, sampler: Sampler = ALWAYS_ON, *, ours: bool = False) -> SpanPipeline:
        """Build the SDK's provider, or the one that ``mlobs.configure`` builds; hand-written spans cost the same."""
        if ours:
            from otel_mlobs.telemetry.spans import OwnTracerProvider

            provider: TracerProvider = OwnTracerProvider(sampler=sampler)
        else:
            provider = TracerProvider(sampler=sampler)
        exporter = DroppingExporter()
        processor = batch_processor(exporter)
        provider.add_span_processor(processor)
        return cls(provider, exporter, processor)

    def flush(self) -> None:
        """Export what is queued."""
        self.processor.force_flush()

    def require(self, spans: int, variant: str) -> None:
        """Raise RuntimeError unless exactly this many spans came out since the last time."""
        got, self.seen = self.exporter.exported - self.seen, self.exporter.exported
        if got != spans:
            raise RuntimeError(f"{variant}: {spans} spans expected at the exporter, got {got}")


class KeepingMetricExporter(MetricExporter):
    """Keeps the last batch of metrics, to look into, and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.last: MetricsData | None = None

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object) -> MetricExportResult:
        """Keep the batch instead of the one before."""
        self.last = metrics_data
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: nothing waits."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Do nothing: there is nothing to close."""


def set_up_our_metrics(exporter: MetricExporter, *, interval: float = 3600.0) -> Callable[[], object]:
    """Build the metric pipeline that ``mlobs.configure`` builds, to this exporter; return what collects and sends."""
    from otel_mlobs.telemetry.pipelines import MetricPipeline, PerProcess
    from otel_mlobs.telemetry.readers import OwnMeterProvider

    pipeline = MetricPipeline(PerProcess(lambda: exporter, None, forks_wait=0.2), interval)
    provider = OwnMeterProvider(pipeline.reader)
    metrics.set_meter_provider(provider)
    pipeline.start(provider)
    return pipeline.send_now


def histogram_points(data: MetricsData | None) -> dict[str, list[HistogramDataPoint]]:
    """The points of every histogram by its name."""
    return {
        metric.name: [point for point in metric.data.data_points if isinstance(point, HistogramDataPoint)]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def batch_processor(exporter: SpanExporter) -> BatchSpanProcessor:
    """A batch processor with the default batches and delay, and a queue that does not overflow."""
    return BatchSpanProcessor(exporter, max_queue_size=QUEUE_SIZE)


def calls(function: Callable[..., object], *args: object) -> Callable[[int], None]:
    """A loop that calls the function n times."""

    def loop(n: int) -> None:
        for _ in repeat(None, n):
            function(*args)

    return loop


def awaits(function: Callable[..., Awaitable[object]], *args: object) -> Callable[[int], None]:
    """A loop that awaits the coroutine function n times, within one task of an event loop that is kept."""
    event_loop = asyncio.new_event_loop()

    async def task(n: int) -> None:
        for _ in repeat(None, n):
            await function(*args)

    def loop(n: int) -> None:
        event_loop.run_until_complete(task(n))

    return loop


def nothing() -> None:
    """The flush of a variant that leaves nothing behind."""


def unchecked(_calls: int) -> None:
    """The check of a variant that emits nothing."""


@dataclass(frozen=True)
class Variant:
    """One way of doing the same thing, and what it is measured against.

    ``loop`` makes n calls; ``flush`` exports and collects what they left, and its CPU time counts; ``check`` raises
    where spans or points got lost, and is not timed. ``target`` is the largest allowed ratio to ``baseline``.
    """

    name: str
    loop: Callable[[int], None]
    baseline: str
    flush: Callable[[], None] = nothing
    check: Callable[[int], None] = unchecked
    target: float | None = None
    aim: float | None = None


@dataclass
class Samples:
    """Seconds per call and ratios to the baseline, one value a block."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall_ratio: list[float] = field(default_factory=list)
    cpu_ratio: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of one ratio's rounds."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise two or more values."""
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def __str__(self) -> str:
        return f"{self.median:5.2f} [{self.lower:.2f}, {self.upper:.2f}]"


@dataclass(frozen=True)
class Row:
    """A variant's result: microseconds per call and ratios to its baseline."""

    name: str
    baseline: str
    wall_us: float
    cpu_us: float
    wall: Spread
    cpu: Spread
    target: float | None
    aim: float | None

    @property
    def passed(self) -> bool | None:
        """Whether both medians keep to the target; None where there is none."""
        if self.target is None:
            return None
        return self.wall.median <= self.target and self.cpu.median <= self.target


def measure(variants: Sequence[Variant], *, rounds: int, n: int, seed: int = 1) -> list[Row]:
    """Run every variant beside its baseline once a round, in shuffled order, and summarise the ratios.

    The first round warms up and is not counted. Raises ValueError where a baseline is not among the variants.
    """
    by_name = {variant.name: variant for variant in variants}
    if unknown := {v.baseline for v in variants} - set(by_name):
        raise ValueError(f"baselines must be among the variants {list(by_name)}, got {sorted(unknown)}")
    samples = {name: Samples() for name in by_name}
    shuffled = random.Random(seed)
    compared = [variant for variant in variants if variant.baseline != variant.name]
    for round_number in range(rounds + 1):
        shuffled.shuffle(compared)
        for variant in compared:
            pair = [by_name[variant.baseline], variant]
            shuffled.shuffle(pair)
            times = {member.name: block(member, n) for member in pair}
            if round_number:
                for name, (wall, cpu) in times.items():
                    samples[name].wall.append(wall)
                    samples[name].cpu.append(cpu)
                own, base = times[variant.name], times[variant.baseline]
                samples[variant.name].wall_ratio.append(own[0] / base[0])
                samples[variant.name].cpu_ratio.append(own[1] / base[1])
    return [row(variant, samples[variant.name]) for variant in variants]


def block(variant: Variant, n: int) -> tuple[float, float]:
    """Make n calls and return their seconds per call: by the wall clock, and of CPU with the flush."""
    cpu_start = time.process_time()
    wall_start = time.perf_counter()
    variant.loop(n)
    wall = time.perf_counter() - wall_start
    variant.flush()
    cpu = time.process_time() - cpu_start
    variant.check(n)
    return wall / n, cpu / n


def row(variant: Variant, samples: Samples) -> Row:
    """Summarise one variant's blocks."""
    return Row(
        variant.name,
        variant.baseline,
        statistics.median(samples.wall) * 1e6,
        statistics.median(samples.cpu) * 1e6,
        Spread.of(samples.wall_ratio or [1.0, 1.0]),
        Spread.of(samples.cpu_ratio or [1.0, 1.0]),
        variant.target,
        variant.aim,
    )


def verdict(passed: bool | None, *, reached_aim: bool = False) -> str:
    """What the last column of a table says."""
    if passed is None:
        return ""
    return ("pass, aim reached" if reached_aim else "pass") if passed else "FAIL"


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows with their ratios, targets and verdicts."""
    width = max(len(r.name) for r in rows)
    print(f"\n{title}")
    print(f"{'':{width}}  {'wall us':>8} {'CPU us':>8}  {'wall ratio [IQR]':<19}  {'CPU ratio [IQR]':<19}  target")
    for r in rows:
        numbers = f"{r.wall_us:8.2f} {r.cpu_us:8.2f}"
        if r.name == r.baseline:
            print(f"{r.name:{width}}  {numbers}  1 (baseline)")
            continue
        target = "" if r.target is None else f"{r.target:.2f}"
        reached = r.aim is not None and r.wall.median <= r.aim and r.cpu.median <= r.aim
        told = verdict(r.passed, reached_aim=reached)
        print(f"{r.name:{width}}  {numbers}  {r.wall!s:<19}  {r.cpu!s:<19}  {target:>6}  {told}".rstrip())


def environment(*packages: str) -> dict[str, Any]:
    """What the numbers depend on: the interpreter, the machine and the versions of the packages named."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values, each with its verdict."""
    return [{**asdict(r), "passed": r.passed} for r in rows]


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report for other programs to read."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
