"""What it costs to read how old features are, as a ratio to a bare span of the SDK.

The baseline is ``with tracer.start_as_current_span(name, attributes={six})`` inside a function that does nothing, as
in ``overhead.py``. A row has ten features; its timestamp comes as a float, a datetime, text, or as Redis gives a hash.
With ``--mode foreign`` the meter provider is not ours, and ages go into the SDK's histogram when it is collected: that
shows in the CPU time, and more than 20,000 ages between two collections are left out.

Run ``python benchmarks/freshness.py``; ``harness.py`` says how it is measured.
"""

from __future__ import annotations

import argparse
import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import (
    KeepingMetricExporter,
    SpanPipeline,
    Variant,
    as_json,
    calls,
    environment,
    histogram_points,
    measure,
    print_table,
    set_up_our_metrics,
    write_json,
)
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from collections.abc import Callable

SIX = {
    "mlobs.operation.name": "feature_lookup",
    "mlobs.feature_store.name": "redis",
    "mlobs.feature_view.name": "users",
    "mlobs.feature.requested": 10,
    "mlobs.feature.found": 10,
    "mlobs.feature.missing": 0,
}
NOW = time.time()
ROW: dict[str, Any] = {f"feature_{index}": float(index) for index in range(10)}
WRITTEN = {
    "a float": NOW,
    "a datetime": datetime.fromtimestamp(NOW, timezone.utc),
    "ISO text": datetime.fromtimestamp(NOW, timezone.utc).isoformat(),
}
BATCH = 100


def variants(mode: str) -> list[Variant]:
    """Lookups with and without a timestamp, beside a span that knows nothing."""
    spans = SpanPipeline.create(ours=mode == "ours")
    trace.set_tracer_provider(spans.provider)
    exporter = KeepingMetricExporter()
    if mode == "ours":
        collect: Callable[[], object] = set_up_our_metrics(exporter)
    else:
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
        collect = reader.collect
    tracer = trace.get_tracer("hand")
    counted: dict[str, int] = {}

    def flush() -> None:
        spans.flush()
        collect()

    def bare(row: object) -> object:
        with tracer.start_as_current_span("feature_lookup users", attributes=SIX):
            return row

    def lookup(name: str, row: object, ages: int, **arguments: Any) -> Variant:
        decorated = mlobs.feature_lookup(store="redis", view=name, **arguments)(lambda found: found)

        def check(n: int) -> None:
            spans.require(n, name)
            points = histogram_points(exporter.last).get("mlobs.feature.age", [])
            found = sum(p.count for p in points if (p.attributes or {}).get("mlobs.feature_view.name") == name)
            expected = n * ages if mode == "ours" else min(n * ages, 20_000)
            if found - counted.get(name, 0) != expected:
                raise RuntimeError(f"{name}: {expected} ages expected, got {found - counted.get(name, 0)}")
            counted[name] = found

        return Variant(name, calls(decorated, row), "bare span", flush, check)

    timed = {"timestamp": "updated_at", "objective": "15m"}
    redis = {key.encode(): str(value).encode() for key, value in {**ROW, "updated_at": NOW}.items()}
    return [
        Variant("bare span", calls(bare, ROW), "bare span", spans.flush, lambda n: spans.require(n, "bare span")),
        lookup("no timestamp", ROW, 0),
        *(lookup(name, {**ROW, "updated_at": value}, 1, **timed) for name, value in WRITTEN.items()),
        lookup("a hash of Redis", redis, 1, **timed),
        lookup(f"{BATCH} rows, no timestamp", [ROW] * BATCH, 0),
        lookup(f"{BATCH} rows", [{**ROW, "updated_at": NOW} for _ in range(BATCH)], BATCH, **timed),
    ]


def main() -> None:
    """Print the table, and write it where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("ours", "foreign"), default="ours")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(variants(arguments.mode), rounds=arguments.rounds, n=arguments.calls)
    print_table(f"Feature lookups, {arguments.mode} meter provider", rows)
    if arguments.json:
        report = {"environment": environment("opentelemetry-sdk", "otel-mlobs"), "rows": as_json(rows)}
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
