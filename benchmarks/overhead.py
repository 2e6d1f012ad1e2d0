"""What an operation costs, as a ratio to a bare hand-written span of the SDK.

The baseline is ``with tracer.start_as_current_span(name, attributes={five})`` inside a function that does nothing. Ours
has five attributes as well, two of them derived from the call (how many items went in and came out), and a duration
histogram point with an exemplar besides. Each mode runs in a process of its own, since providers are set once:

sampled    every span recorded, batch processor, an exporter that drops and counts: nothing may get lost; metrics
           through the pipeline that ``configure`` builds
foreign    the same with a meter provider that is not ours, where durations go into the SDK's own histogram
unsampled  the sampler says no; durations are still recorded
no-sdk     no provider at all, as in a unit test of the user's own code

Run ``python benchmarks/overhead.py``; ``harness.py`` says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import (
    KeepingMetricExporter,
    Row,
    SpanPipeline,
    Spread,
    Variant,
    as_json,
    awaits,
    calls,
    environment,
    histogram_points,
    measure,
    print_table,
    set_up_our_metrics,
    write_json,
)
from opentelemetry import context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODES = ("sampled", "foreign", "unsampled", "no-sdk")
TITLES = {
    "sampled": "Every span recorded",
    "foreign": "Every span recorded, somebody else's meter provider",
    "unsampled": "No span sampled",
    "no-sdk": "No SDK set up",
}
FEATURES = {"age": 42.0, "tenure": 3.0}
ITEMS = [101, 102, 103, 104, 105]
FIVE = {
    "mlobs.operation.name": "ranking",
    "mlobs.model.name": "ltr",
    "mlobs.model.version": "7",
    "mlobs.ranking.input.count": 5,
    "mlobs.ranking.output.count": 5,
}
LABELS = {"mlobs.operation.name": "ranking", "mlobs.model.name": "ltr", "mlobs.model.version": "7"}
OUR_METRIC = "mlobs.operation.duration"
HAND_METRIC = "hand.operation.duration"
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.08, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass
class Telemetry:
    """The providers that the hand-written code and ours share, and the checks that nothing got lost."""

    spans: SpanPipeline
    collect: Callable[[], object]
    collected: Callable[[], MetricsData | None]
    counted: dict[str, int]
    sampled: bool

    @classmethod
    def create(cls, mode: str) -> Telemetry:
        """Set the global providers."""
        sampled = mode != "unsampled"
        spans = SpanPipeline.create(ALWAYS_ON if sampled else ALWAYS_OFF, ours=mode != "foreign")
        trace.set_tracer_provider(spans.provider)
        exporter = KeepingMetricExporter()
        if mode == "foreign":
            reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
            metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
            collect: Callable[[], object] = reader.collect
        else:
            collect = set_up_our_metrics(exporter)
        return cls(spans, collect, lambda: exporter.last, {OUR_METRIC: 0, HAND_METRIC: 0}, sampled)

    def flush(self) -> None:
        """Export the spans and the metrics."""
        self.spans.flush()
        self.collect()

    def spans_only(self, variant: str) -> Callable[[int], None]:
        """A check that a span came out for every call, with exactly the five attributes."""

        def check(n: int) -> None:
            self.spans.require(n if self.sampled else 0, variant)
            last = self.spans.exporter.last
            if self.sampled and (last is None or dict(last.attributes or {}) != FIVE):
                raise RuntimeError(f"{variant}: the attributes {FIVE} expected, got {last and last.attributes}")

        return check

    def spans_and_points(self, variant: str, metric: str) -> Callable[[int], None]:
        """A check that, besides, every call is counted in the histogram and exemplars lead to its spans."""
        spans_only = self.spans_only(variant)

        def check(n: int) -> None:
            spans_only(n)
            points = histogram_points(self.collected())[metric]
            counted = sum(p.count for p in points)
            if (new := counted - self.counted[metric]) != n:
                raise RuntimeError(f"{variant}: {n} points of {metric} expected, got {new}")
            self.counted[metric] = counted
            if self.sampled and not any(e.span_id and e.trace_id for p in points for e in p.exemplars):
                raise RuntimeError(f"{variant}: {metric} carries no exemplar")

        return check


def traced_variants(mode: str) -> list[Variant]:
    """Hand-written spans and ours, on the same providers."""
    telemetry = Telemetry.create(mode)
    tracer = trace.get_tracer("hand")
    histogram = metrics.get_meter("hand").create_histogram(
        HAND_METRIC, unit="s", explicit_bucket_boundaries_advisory=BOUNDS
    )
    perf_counter = time.perf_counter

    def bare(features: object, items: list[int]) -> list[int]:
        with tracer.start_as_current_span(
            "ranking ltr",
            attributes={
                "mlobs.operation.name": "ranking",
                "mlobs.model.name": "ltr",
                "mlobs.model.version": "7",
                "mlobs.ranking.input.count": 5,
                "mlobs.ranking.output.count": 5,
            },
        ):
            return items

    async def bare_coroutine(features: object, items: list[int]) -> list[int]:
        with tracer.start_as_current_span(
            "ranking ltr",
            attributes={
                "mlobs.operation.name": "ranking",
                "mlobs.model.name": "ltr",
                "mlobs.model.version": "7",
                "mlobs.ranking.input.count": 5,
                "mlobs.ranking.output.count": 5,
            },
        ):
            return items

    def with_histogram(features: object, items: list[int]) -> list[int]:
        with tracer.start_as_current_span(
            "ranking ltr",
            attributes={
                "mlobs.operation.name": "ranking",
                "mlobs.model.name": "ltr",
                "mlobs.model.version": "7",
                "mlobs.ranking.input.count": 5,
                "mlobs.ranking.output.count": 5,
            },
        ):
            start = perf_counter()
            try:
                return items
            finally:
                histogram.record(perf_counter() - start, LABELS)

    @mlobs.ranking(model="ltr", version="7", inputs="items")
    def decorated(features: object, items: list[int]) -> list[int]:
        return items

    @mlobs.ranking(model="ltr", version="7", inputs="items")
    async def decorated_coroutine(features: object, items: list[int]) -> list[int]:
        return items

    def in_a_block(features: object, items: list[int]) -> list[int]:
        with mlobs.ranking(model="ltr", version="7") as op:
            op.record(inputs=items, outputs=items)
            return items

    ranking = mlobs.ranking(model="ltr", version="7")

    def in_a_kept_block(features: object, items: list[int]) -> list[int]:
        with ranking as op:
            op.record(inputs=items, outputs=items)
            return items

    def spans_only(name: str, loop: Callable[[int], None], baseline: str) -> Variant:
        return Variant(name, loop, baseline, telemetry.spans.flush, telemetry.spans_only(name))

    def with_points(
        name: str, loop: Callable[[int], None], baseline: str, metric: str, target: float | None, aim: float | None
    ) -> Variant:
        check = telemetry.spans_and_points(name, metric)
        return Variant(name, loop, baseline, telemetry.flush, check, target, aim)

    args = (FEATURES, ITEMS)
    most, aim = (1.35, 1.2) if mode == "sampled" else (None, None)
    bare_span, hand = "bare span", "hand-written span and histogram"
    bare_await = "bare span, coroutine"
    if mode == "unsampled":
        return [
            with_points(hand, calls(with_histogram, *args), hand, HAND_METRIC, None, None),
            with_points("mlobs decorator", calls(decorated, *args), hand, OUR_METRIC, 1.0, None),
            with_points("mlobs context manager", calls(in_a_block, *args), hand, OUR_METRIC, None, None),
        ]
    parent = trace.set_span_in_context(tracer.start_span("request"))

    def below_a_request(loop: Callable[[int], None]) -> Callable[[int], None]:
        def attached(n: int) -> None:
            token = context.attach(parent)
            loop(n)
            context.detach(token)

        return attached

    bare_child = "bare span, in a request's trace"
    child_loop = below_a_request(calls(decorated, *args))
    return [
        spans_only(bare_span, calls(bare, *args), bare_span),
        with_points(hand, calls(with_histogram, *args), bare_span, HAND_METRIC, None, None),
        with_points("mlobs decorator", calls(decorated, *args), bare_span, OUR_METRIC, most, aim),
        with_points("mlobs context manager", calls(in_a_block, *args), bare_span, OUR_METRIC, None, None),
        with_points("mlobs context manager, kept", calls(in_a_kept_block, *args), bare_span, OUR_METRIC, None, None),
        spans_only(bare_child, below_a_request(calls(bare, *args)), bare_child),
        with_points("mlobs decorator, in a request's trace", child_loop, bare_child, OUR_METRIC, most, aim),
        spans_only(bare_await, awaits(bare_coroutine, *args), bare_await),
        with_points(
            "mlobs decorator, coroutine", awaits(decorated_coroutine, *args), bare_await, OUR_METRIC, most, aim
        ),
    ]


def no_sdk_variants() -> list[Variant]:
    """The no-op tracer's span, the default (proxy) tracer's, and ours; nothing is emitted."""

    def spanned(tracer: trace.Tracer) -> Callable[..., object]:
        def function(features: object, items: list[int]) -> list[int]:
            with tracer.start_as_current_span(
                "ranking ltr",
                attributes={
                    "mlobs.operation.name": "ranking",
                    "mlobs.model.name": "ltr",
                    "mlobs.model.version": "7",
                    "mlobs.ranking.input.count": 5,
                    "mlobs.ranking.output.count": 5,
                },
            ):
                return items

        return function

    def undecorated(features: object, items: list[int]) -> list[int]:
        return items

    @mlobs.ranking(model="ltr", version="7", inputs="items")
    def decorated(features: object, items: list[int]) -> list[int]:
        return items

    def in_a_block(features: object, items: list[int]) -> list[int]:
        with mlobs.ranking(model="ltr", version="7") as op:
            op.record(inputs=items, outputs=items)
            return items

    args = (FEATURES, ITEMS)
    no_op = "no-op tracer's span"
    proxy = trace.get_tracer("hand")
    return [
        Variant(no_op, calls(spanned(trace.NoOpTracerProvider().get_tracer("hand")), *args), no_op),
        Variant("default (proxy) tracer's span", calls(spanned(proxy), *args), no_op),
        Variant("the function alone", calls(undecorated, *args), no_op),
        Variant("mlobs decorator", calls(decorated, *args), no_op, target=0.3),
        Variant("mlobs context manager", calls(in_a_block, *args), no_op),
    ]


def run_mode(mode: str, *, rounds: int, n: int) -> list[Row]:
    """Measure one mode in this process."""
    if mode == "no-sdk":
        return measure(no_sdk_variants(), rounds=rounds, n=n * 10)
    return measure(traced_variants(mode), rounds=rounds, n=n)


def from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows that a mode's process wrote."""
    return [
        Row(
            r["name"],
            r["baseline"],
            r["wall_us"],
            r["cpu_us"],
            Spread(**r["wall"]),
            Spread(**r["cpu"]),
            r["target"],
            r["aim"],
        )
        for r in rows
    ]


def run_in_process(mode: str, *, rounds: int, n: int) -> list[Row]:
    """Measure one mode in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--mode", mode, "--rounds", str(rounds), "--calls", str(n)]
        subprocess.run([*command, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
        return from_json(json.loads(path.read_text(encoding="utf-8"))["modes"][mode])


def main() -> int:
    """Run the modes asked for and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="one mode only, in this process")
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--calls", type=int, default=200, help="calls of a variant in a round")
    parser.add_argument("--quick", action="store_true", help="21 rounds of 100 calls: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    args = parser.parse_args()
    rounds, n = (21, 100) if args.quick else (args.rounds, args.calls)
    if args.mode:
        results = {args.mode: run_mode(args.mode, rounds=rounds, n=n)}
    else:
        results = {mode: run_in_process(mode, rounds=rounds, n=n) for mode in MODES}
    for mode, rows in results.items():
        print_table(TITLES[mode], rows)
    if args.json:
        report = {
            "environment": environment("otel-mlobs", "opentelemetry-api", "opentelemetry-sdk"),
            "rounds": rounds,
            "calls": n,
            "modes": {mode: as_json(rows) for mode, rows in results.items()},
        }
        write_json(args.json, report)
    missed = any(r.passed is False for rows in results.values() for r in rows)
    return int(args.check and missed)


if __name__ == "__main__":
    sys.exit(main())
