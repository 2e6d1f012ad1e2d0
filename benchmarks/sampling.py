"""What tail sampling costs beside plain ratio sampling, a request of four operations at a time.

The request is a server span of the SDK with a lookup, candidates, a ranking and a prediction beneath it, through the
providers that ``configure`` builds, metrics included. Each way of sampling runs in a process of its own, since
providers are set once, beside the baseline: five bare spans of the SDK, nested alike, all of them exported.

ratio 5 %       plain ratio sampling, as OTEL_TRACES_SAMPLER=parentbased_traceidratio has it
tail, 5 %       sampling="tail": nothing is wrong with any request, so that the same 5 % are exported
tail, all kept  every request drifts, no rate limits that, and all are kept when they end
ratio 100 %     everything exported, as without sampling

Run ``python benchmarks/sampling.py``; ``harness.py`` says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import (
    DroppingExporter,
    KeepingMetricExporter,
    Row,
    SpanPipeline,
    Spread,
    Variant,
    as_json,
    batch_processor,
    calls,
    environment,
    measure,
    print_table,
    set_up_our_metrics,
    write_json,
)
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.telemetry.sampling import MAX_SPANS, TailProcessor, TailSampler
from otel_mlobs.telemetry.spans import OwnTracerProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODES = ("ratio 5 %", "tail, 5 %", "tail, all kept", "ratio 100 %")
BARE = "five bare spans"
SPANS = 5
NAMES = ("feature_lookup users", "candidate_generation two_tower", "ranking ltr", "prediction churn")
FIVE: dict[str, str | int] = {"a": "feature_lookup", "b": "users", "c": "7", "d": 5, "e": 5}
ITEMS = [101, 102, 103, 104, 105]
SLOW_S = 60.0  # nothing is slow here: only what is wanted decides


def pipeline(mode: str) -> SpanPipeline:
    """The tracer provider, processor and exporter of one way of sampling."""
    ratio = 1.0 if mode == "ratio 100 %" else 0.0 if mode == "tail, all kept" else 0.05
    tail = TailSampler(ratio) if mode.startswith("tail") else None
    sampler: Sampler = tail or ParentBasedTraceIdRatio(ratio)
    provider = OwnTracerProvider(sampler=sampler)
    exporter = DroppingExporter()
    processor = batch_processor(exporter)
    provider.add_span_processor(
        processor if tail is None else TailProcessor(processor, tail.decisions, slow=SLOW_S, rate=1e9)
    )
    return SpanPipeline(provider, exporter, processor)


def requests(tracer: trace.Tracer, status: str) -> Callable[[], object]:
    """A request of four operations beneath a server span."""

    @mlobs.feature_lookup(store="redis", view="users")
    def look_up(user: int) -> list[int]:
        return ITEMS

    @mlobs.candidate_generation(source="two_tower", k=5)
    def generate(features: list[int]) -> list[int]:
        return features

    @mlobs.ranking(model="ltr", version="7", inputs="items")
    def rank(items: list[int]) -> list[int]:
        return items

    @mlobs.prediction(model="churn", version="3", attributes={semconv.DRIFT_STATUS: status})
    def predict(x: list[int]) -> float:
        return 0.5

    def request() -> None:
        with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            predict(rank(generate(look_up(1))))

    return request


def bare_requests(tracer: trace.Tracer) -> Callable[[], object]:
    """The same spans, written by hand with five attributes each."""

    def request() -> None:
        with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            for name in NAMES:
                with tracer.start_as_current_span(name, attributes=FIVE):
                    pass

    return request


def variants(mode: str) -> list[Variant]:
    """One way of sampling, and the bare spans beside it."""
    ours, bare = pipeline(mode), SpanPipeline.create()
    trace.set_tracer_provider(ours.provider)
    collect = set_up_our_metrics(KeepingMetricExporter())
    lowest, highest = {"ratio 100 %": (1.0, 1.0), "tail, all kept": (1.0, 1.0)}.get(mode, (0.0, 0.3))

    def flush() -> None:
        ours.flush()
        collect()

    def check(n: int) -> None:
        got, ours.seen = ours.exporter.exported - ours.seen, ours.exporter.exported
        if not lowest * n * SPANS <= got <= highest * n * SPANS:
            raise RuntimeError(f"{mode}: {lowest:.0%} to {highest:.0%} of {n * SPANS} spans expected, got {got}")

    request = requests(ours.provider.get_tracer("server"), "drift" if mode == "tail, all kept" else "ok")
    return [
        Variant(
            BARE,
            calls(bare_requests(bare.provider.get_tracer("hand"))),
            BARE,
            bare.flush,
            lambda n: bare.require(n * SPANS, BARE),
        ),
        Variant(mode, calls(request), BARE, flush, check),
    ]


def memory_of_held_spans() -> float:
    """Bytes of one held span, measured with as many as are held at most."""
    tail = TailSampler(0.0)
    provider = OwnTracerProvider(sampler=tail)
    processor = TailProcessor(batch_processor(DroppingExporter()), tail.decisions, slow=SLOW_S)
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    tracer = provider.get_tracer("server")

    @mlobs.prediction(model="churn", version="3")
    def predict(x: list[int]) -> float:
        return 0.5

    predict(ITEMS)
    roots: list[Any] = []
    tracemalloc.start()
    for _ in range(MAX_SPANS // 4):
        roots.append(tracer.start_span("GET /", kind=SpanKind.SERVER))
        with trace.use_span(roots[-1]):
            for _ in range(4):
                predict(ITEMS)
    before, _ = tracemalloc.get_traced_memory()
    processor.force_flush()
    after, _ = tracemalloc.get_traced_memory()
    return (before - after) / MAX_SPANS


def run_in_process(mode: str, *, rounds: int, n: int) -> list[Row]:
    """Measure one way of sampling in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--mode", mode, "--rounds", str(rounds), "--calls", str(n)]
        subprocess.run([*command, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [_row(row) for row in rows]


def _row(r: dict[str, Any]) -> Row:
    wall, cpu = Spread(**r["wall"]), Spread(**r["cpu"])
    return Row(r["name"], r["baseline"], r["wall_us"], r["cpu_us"], wall, cpu, r["target"], r["aim"])


def one_table(results: Sequence[list[Row]]) -> list[Row]:
    """The rows of all ways, the baseline once."""
    return [results[0][0], *(row for rows in results for row in rows if row.name != BARE)]


def main() -> int:
    """Run the ways of sampling and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="one way only, in this process")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--calls", type=int, default=100, help="requests in a round")
    parser.add_argument("--quick", action="store_true", help="11 rounds: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    args = parser.parse_args()
    rounds = 11 if args.quick else args.rounds
    if args.mode:
        rows = measure(variants(args.mode), rounds=rounds, n=args.calls)
    else:
        rows = one_table([run_in_process(mode, rounds=rounds, n=args.calls) for mode in MODES])
    print_table("A request of five spans", rows)
    if not args.mode:
        print(f"\nA held span takes {memory_of_held_spans():.0f} bytes; {MAX_SPANS:,} are held at most.")
    if args.json:
        report = {"environment": environment("otel-mlobs", "opentelemetry-sdk"), "rows": as_json(rows)}
        write_json(args.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
