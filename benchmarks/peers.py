"""The same benchmark for other libraries' decorators, each in an environment of its own.

Every peer is installed into a virtual environment in a cache folder and measured there, in one process, against a bare
hand-written span of the OpenTelemetry SDK that its environment resolved to. Each is used the way its documentation
shows, with what it records by default, so the number of attributes differs and is printed: some serialise arguments
and results, which ours does not. Every span goes through a batch processor to an exporter that drops, and all of them
must arrive. None of them records a metric here; the row of otel-mlobs includes its duration histogram.

Nothing may reach the network while measuring: telemetry, updates and agents are switched off, and where the system has
``unshare`` (Linux) the process gets no network at all.

Run ``python benchmarks/peers.py``; ``harness.py`` says how it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
ITEMS = [101, 102, 103, 104, 105]
FEATURES = {"age": 42.0, "tenure": 3.0}
FIVE = {
    "mlobs.operation.name": "ranking",
    "mlobs.model.name": "ltr",
    "mlobs.model.version": "7",
    "mlobs.ranking.input.count": 5,
    "mlobs.ranking.output.count": 5,
}


@dataclass(frozen=True)
class Measured:
    """A peer's way to record a span: the loop, the flush, and what its exporter saw."""

    name: str
    loop: Callable[[int], None]
    flush: Callable[[], None]
    exported: Callable[[], int]
    attributes: Callable[[], int]


@dataclass(frozen=True)
class Peer:
    """A library to compare with: what pip installs, what its span says of itself, and how it is set up."""

    requirement: Sequence[str]
    distribution: str
    note: str
    set_up: Callable[[], list[Measured]]
    environment: dict[str, str]


def rank(features: object, items: list[int]) -> list[int]:
    """The function that every peer decorates."""
    return items


def otel_measured(name: str, function: Callable[..., object], exporter: Any, flush: Callable[[], object]) -> Measured:
    """A decorated function whose spans come out of an OpenTelemetry exporter."""
    from harness import calls

    return Measured(
        name,
        calls(function, FEATURES, ITEMS),
        lambda: void(flush()),
        lambda: exporter.exported,
        lambda: len(exporter.last.attributes or {}),
    )


def void(_result: object) -> None:
    """Drop a flush's result."""


def set_up_mlobs() -> list[Measured]:
    """Our decorator, its duration histogram included."""
    from harness import KeepingMetricExporter, SpanPipeline, set_up_our_metrics
    from opentelemetry import trace

    import otel_mlobs as mlobs

    spans = SpanPipeline.create(ours=True)
    trace.set_tracer_provider(spans.provider)
    collect = set_up_our_metrics(KeepingMetricExporter())

    def flush() -> None:
        spans.flush()
        collect()

    decorated = mlobs.ranking(model="ltr", version="7", inputs="items")(rank)
    return [otel_measured("@mlobs.ranking, with metric", decorated, spans.exporter, flush)]


def set_up_logfire() -> list[Measured]:
    """``@logfire.instrument`` with a span name; without and with the arguments as attributes."""
    import logfire
    from harness import DroppingExporter, batch_processor

    exporter = DroppingExporter()
    processor = batch_processor(exporter)
    logfire.configure(
        send_to_logfire=False, console=False, inspect_arguments=False, additional_span_processors=[processor]
    )
    plain = logfire.instrument("ranking ltr", extract_args=False)(rank)
    arguments = logfire.instrument("ranking ltr")(rank)
    return [
        otel_measured("@logfire.instrument(extract_args=False)", plain, exporter, processor.force_flush),
        otel_measured("@logfire.instrument", arguments, exporter, processor.force_flush),
    ]


def set_up_traceloop() -> list[Measured]:
    """``@task`` and ``@workflow`` of traceloop-sdk (OpenLLMetry); both record arguments and result as JSON."""
    from harness import DroppingExporter, batch_processor
    from traceloop.sdk import Traceloop
    from traceloop.sdk.decorators import task, workflow

    exporter = DroppingExporter()
    processor = batch_processor(exporter)
    Traceloop.init(
        "benchmark", processor=processor, telemetry_enabled=False, should_enrich_metrics=False, instruments=set()
    )
    as_task, as_workflow = task(name="ranking")(rank), workflow(name="ranking")(rank)
    return [
        otel_measured("@task", as_task, exporter, processor.force_flush),
        otel_measured("@workflow", as_workflow, exporter, processor.force_flush),
    ]


def set_up_openinference() -> list[Measured]:
    """``@tracer.chain`` and ``@tracer.tool`` of openinference-instrumentation."""
    from harness import SpanPipeline
    from openinference.instrumentation import OITracer, TraceConfig

    spans = SpanPipeline.create()
    tracer = OITracer(spans.provider.get_tracer("benchmark"), TraceConfig())
    return [
        otel_measured("@tracer.chain", tracer.chain(rank), spans.exporter, spans.flush),
        otel_measured("@tracer.tool", tracer.tool(rank), spans.exporter, spans.flush),
    ]


def set_up_openlit() -> list[Measured]:
    """``@openlit.trace``; its price list is given as an empty file, since it would be downloaded."""
    import openlit
    from harness import SpanPipeline
    from opentelemetry import trace
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.sdk._logs import LoggerProvider

    spans = SpanPipeline.create()
    trace.set_tracer_provider(spans.provider)
    set_logger_provider(LoggerProvider())
    with tempfile.NamedTemporaryFile("w", suffix=".json") as prices:
        prices.write("{}")
        prices.flush()
        openlit.init(disable_metrics=True, disable_events=True, pricing_json=prices.name)
    return [otel_measured("@openlit.trace", openlit.trace(rank), spans.exporter, spans.flush)]


def set_up_ddtrace() -> list[Measured]:
    """Native spans of ddtrace, dropped by a trace filter before they would be encoded for the agent."""
    from ddtrace.trace import TraceFilter, tracer
    from harness import calls

    class Drop(TraceFilter):  # type: ignore[misc]
        exported = 0
        last: Any = None

        def process_trace(self, spans: list[Any]) -> None:
            self.exported += len(spans)
            self.last = spans[-1]

    dropping = Drop()
    tracer.configure(trace_processors=[dropping])

    def with_tags(features: object, items: list[int]) -> list[int]:
        with tracer.trace("ranking ltr") as span:
            span.set_tags(FIVE)
            return items

    def attributes() -> int:
        return len(dropping.last.get_tags()) + len(dropping.last.get_metrics())

    return [
        Measured(name, calls(f, FEATURES, ITEMS), tracer.flush, lambda: dropping.exported, attributes)
        for name, f in (("@tracer.wrap", tracer.wrap("ranking ltr")(rank)), ("tracer.trace, five tags", with_tags))
    ]


PEERS = {
    "otel-mlobs": Peer(
        ("-e", str(ROOT)), "otel-mlobs", "five attributes, two from the call, and a metric", set_up_mlobs, {}
    ),
    "logfire": Peer(
        ("logfire",), "logfire", "code location and message", set_up_logfire, {"LOGFIRE_SEND_TO_LOGFIRE": "false"}
    ),
    "traceloop": Peer(
        ("traceloop-sdk", "httpx"),
        "traceloop-sdk",
        "arguments and result as JSON",
        set_up_traceloop,
        {
            "TRACELOOP_TELEMETRY": "false",
            "TRACELOOP_METRICS_ENABLED": "false",
            "TRACELOOP_LOGGING_ENABLED": "false",
        },
    ),
    "openinference": Peer(
        ("openinference-instrumentation", "opentelemetry-sdk"),
        "openinference-instrumentation",
        "arguments and result as JSON",
        set_up_openinference,
        {},
    ),
    "openlit": Peer(("openlit",), "openlit", "arguments as text, result", set_up_openlit, {}),
    "ddtrace": Peer(
        ("ddtrace", "opentelemetry-sdk"),
        "ddtrace",
        "not OpenTelemetry; not encoded",
        set_up_ddtrace,
        {
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_STARTUP_LOGS": "false",
            "DD_TRACE_STATS_COMPUTATION_ENABLED": "false",
            "DD_CRASHTRACKING_ENABLED": "false",
            "DD_DYNAMIC_INSTRUMENTATION_ENABLED": "false",
        },
    ),
}


class Counted:
    """Checks that every call of a block left a span."""

    def __init__(self, way: Measured) -> None:
        self.way = way
        self._before = 0

    def loop(self, n: int) -> None:
        """Make n calls."""
        self._before = self.way.exported()
        self.way.loop(n)

    def check(self, n: int) -> None:
        """Raise RuntimeError unless n spans came out."""
        if (got := self.way.exported() - self._before) != n:
            raise RuntimeError(f"{self.way.name}: {n} spans expected at the exporter, got {got}")


def run_here(peer: Peer, *, rounds: int, n: int) -> dict[str, Any]:
    """Measure a peer in this process, which runs in the peer's environment."""
    from harness import SpanPipeline, Variant, as_json, calls, environment, measure

    measured = peer.set_up()
    # The baseline has a provider to itself: what a peer adds to the global one must not make the baseline dearer.
    spans = SpanPipeline.create()
    tracer = spans.provider.get_tracer("hand")

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

    baseline = "bare span"
    counted = [Counted(way) for way in measured]
    rows = measure(
        [
            Variant(
                baseline, calls(bare, FEATURES, ITEMS), baseline, spans.flush, lambda n: spans.require(n, baseline)
            ),
            *(Variant(c.way.name, c.loop, baseline, c.way.flush, c.check) for c in counted),
        ],
        rounds=rounds,
        n=n,
    )
    attributes = {}
    for way in measured:
        way.loop(1)
        way.flush()
        attributes[way.name] = way.attributes()
    return {
        "environment": environment(peer.distribution, "opentelemetry-sdk"),
        "rows": as_json(rows),
        "attributes": attributes,
    }


def installed(name: str, peer: Peer, cache: Path) -> Path:
    """The Python of the peer's environment, made on first use."""
    home = cache / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "installed"
    if not done.exists():
        print(f"installing {peer.distribution} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirement], check=True)
        done.touch()
    return python


def without_network() -> list[str]:
    """The command prefix that takes the network away, or nothing where the system does not allow it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    prefix = [unshare, "--map-root-user", "--net"]
    allowed = subprocess.run([*prefix, sys.executable, "-c", ""], check=False, capture_output=True).returncode == 0
    return prefix if allowed else []


def run_in_its_environment(name: str, cache: Path, *, rounds: int, n: int, isolation: list[str]) -> dict[str, Any]:
    """Measure a peer with the Python of its own environment."""
    peer = PEERS[name]
    python = installed(name, peer, cache)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "PYTHON", "DD_"))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [str(python), __file__, "--here", name, "--rounds", str(rounds), "--calls", str(n)]
        finished = subprocess.run(
            [*isolation, *command, "--json", str(out)],
            env=environment | peer.environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if finished.returncode != 0:
            raise RuntimeError(f"{name}: the run failed with\n{finished.stderr}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def print_result(name: str, result: dict[str, Any]) -> None:
    """Print a peer's rows."""
    peer = PEERS[name]
    packages = ", ".join(f"{k} {v}" for k, v in result["environment"]["packages"].items())
    bare = next(r for r in result["rows"] if r["name"] == r["baseline"])
    print(f"\n{packages}: {peer.note}; bare span {bare['wall_us']:.1f} us")
    for r in result["rows"]:
        if r is not bare:
            wall, cpu = r["wall"], r["cpu"]
            print(
                f"  {r['name']:40} {r['wall_us']:7.2f} us  "
                f"wall {wall['median']:.2f} [{wall['lower']:.2f}, {wall['upper']:.2f}]  "
                f"CPU {cpu['median']:.2f} [{cpu['lower']:.2f}, {cpu['upper']:.2f}]  "
                f"{result['attributes'][r['name']]} attributes"
            )


def main() -> int:
    """Measure the peers asked for, one after the other."""
    default_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "otel-mlobs", "peers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PEER", help=f"all where none is named: {', '.join(PEERS)}")
    parser.add_argument("--cache", type=Path, default=default_cache, help="where the environments are (%(default)s)")
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--calls", type=int, default=200, help="calls of a variant in a round")
    parser.add_argument("--quick", action="store_true", help="11 rounds of 100 calls: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--here", metavar="PEER", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rounds, n = (11, 100) if args.quick else (args.rounds, args.calls)
    if args.here:
        args.json.write_text(json.dumps(run_here(PEERS[args.here], rounds=rounds, n=n)), encoding="utf-8")
        return 0
    if unknown := set(args.names) - set(PEERS):
        parser.error(f"peers are {', '.join(PEERS)}; got {', '.join(sorted(unknown))}")
    isolation = without_network()
    if not isolation:
        print("the network cannot be taken away here; the peers are only configured not to use it", file=sys.stderr)
    results = {}
    for name in args.names or PEERS:
        results[name] = run_in_its_environment(name, args.cache, rounds=rounds, n=n, isolation=isolation)
        print_result(name, results[name])
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
