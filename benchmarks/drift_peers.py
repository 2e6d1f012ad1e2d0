"""Other drift tools beside ours: what they find on the same streams, and what they cost.

quality  every tool on the same rows: how often it calls drift where there is none, and after how many rows it finds a
         change. Panes of 100 rows; tools that work on batches look at every batch of 100, or of 1,000 (their names say)
speed    a row of 10 features, against a bare span of the SDK; a batch of 10,000 rows and 10 features, against numpy's
         searchsorted and bincount: the baselines of ``drift.py``, each measured in the tool's own process

Each tool is installed into a virtual environment in a cache folder and runs there, without a network. Streams are drawn
from seeds, the same for every tool; tools whose looks are dear get a share of them, which is printed.

Run ``python benchmarks/drift_peers.py``; ``drift_tools.py`` says how each tool is used.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from drift_tools import CALM, CHANGES, PANE, Tool, environments
from peers import installed, without_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("quality", "speed")
REFERENCE = 10_000
STREAMS, PANES_OF_STREAM = 10, 1_000
CHANGED_STREAMS, LEAD, HORIZON = 100, 50, 50
"""Streams with a change; the most panes before it, and those after it until it counts as missed."""

OF_MANY = 0.25
"""What the case of 20 features gets of the streams."""


def calm(tool: Tool, share: float) -> dict[str, Any]:
    """Looks that call drift on streams without any."""
    found = {}
    for number, (name, (draw, features)) in enumerate(CALM.items()):
        if name in tool.blind:
            continue
        panes = round(STREAMS * PANES_OF_STREAM * share * tool.effort * (OF_MANY if features > 1 else 1.0))
        streams = max(1, min(STREAMS, panes // 100))
        each = max(10, panes // streams // 10 * 10)
        called = 0
        for stream in range(streams):
            rng = np.random.default_rng([1, number, stream])
            reference, live = draw(rng, (REFERENCE, features)), draw(rng, (each * PANE, features))
            called += sum(tool.watch(reference, live, name == "categories"))
        found[name] = {"called": called, "panes": streams * each}
    return found


def quick(tool: Tool, share: float) -> dict[str, Any]:
    """Rows until a change of the first feature is found, for each stream; None where it is not."""
    found = {}
    lead = tool.lead
    for features in (1, 20):
        for number, (name, change) in enumerate(CHANGES.items()):
            if "missing" in name and "missing" in tool.blind:
                continue
            streams = max(5, round(CHANGED_STREAMS * share * tool.effort * (OF_MANY if features > 1 else 1.0)))
            delays: list[int | None] = []
            for stream in range(streams):
                rng = np.random.default_rng([2, number, stream])
                reference = rng.normal(size=(REFERENCE, features))
                live = rng.normal(size=((LEAD + HORIZON) * PANE, features))[(LEAD - lead) * PANE :]
                changed = live[lead * PANE :, 0]
                live[lead * PANE :, 0] = change(changed, rng)
                answers = islice(tool.watch(reference, live, False), lead, None)
                first = next((pane for pane, answer in enumerate(answers, 1) if answer), None)
                delays.append(None if first is None else first * PANE)
            found[f"{name}, {'one of 20' if features > 1 else 'one'}"] = delays
    return found


def run_here(name: str, parts: Sequence[str], *, share: float, rounds: int) -> dict[str, Any]:
    """Run one environment's tools in this process, which runs in that environment."""
    from harness import environment

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # the tools' own, about each other's versions and small samples
    place = environments(str(ROOT))[name]
    result: dict[str, Any] = {"environment": environment(place.distribution, "numpy", "pandas", "opentelemetry-sdk")}
    if "quality" in parts:
        result["quality"] = {
            tool.name: {"setting": tool.setting, "calm": calm(tool, share), "quick": quick(tool, share)}
            for tool in place.tools()
        }
    if "speed" in parts:
        result["speed"] = speed(name, rounds)
    return result


def speed(name: str, rounds: int) -> dict[str, Any]:
    """Rows against bare spans, batches against numpy."""
    from drift import NAMES, bare_span, numpy_count, per_row, profile_of, sample
    from harness import SpanPipeline, as_json, measure

    place = environments(str(ROOT))[name]
    edges = [np.array(column.bins.edges) for column in profile_of(REFERENCE, NAMES).features]
    rows, batches = place.rows(), place.batches()
    return {
        "rows": as_json(
            [per_row(row) for row in measure([bare_span(SpanPipeline.create()), *rows], rounds=rounds, n=50)]
            if rows
            else []
        ),
        "batches": as_json(
            measure([numpy_count(edges, sample(10_000, seed=4)), *batches], rounds=rounds, n=1) if batches else []
        ),
    }


def run_in_its_environment(name: str, args: argparse.Namespace, parts: Sequence[str], isolation: list[str]) -> Any:
    """Run an environment's tools with its Python."""
    place = environments(str(ROOT))[name]
    python = installed(f"drift-{name}", place, args.cache)  # type: ignore[arg-type]
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "PYTHON"))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [str(python), __file__, *parts, "--here", name, "--json", str(out)]
        command += ["--share", str(args.share), "--rounds", str(args.rounds)]
        finished = subprocess.run(
            [*isolation, *command], env=surroundings | dict(place.settings), check=False, capture_output=True, text=True
        )
        if finished.returncode != 0:
            raise RuntimeError(f"{name}: the run failed with\n{finished.stderr}")
        return json.loads(out.read_text(encoding="utf-8"))


def print_quality(results: dict[str, Any]) -> None:
    """Print the tables of false alarms and delays."""
    tools = {name: one for result in results.values() for name, one in result.get("quality", {}).items()}
    if not tools:
        return
    width = max(map(len, tools))
    print("\nDrift called where there is none, per 10,000 panes of 100 rows (panes looked at);")
    print("batches of 1,000 have 1,000 looks in as many")
    print(f"{'':{width}}  " + "".join(f"{case:>20}" for case in CALM))
    for name, one in tools.items():
        print(f"{name:{width}}  " + "".join(f"{calm_text(one['calm'].get(case)):>20}" for case in CALM))
    cases = [f"{change}, {where}" for where in ("one", "one of 20") for change in CHANGES]
    print("\nRows until a change is found: median / 95%, and misses in streams")
    print(f"{'':{width}}  " + "".join(f"{case:>26}" for case in cases))
    for name, one in tools.items():
        print(f"{name:{width}}  " + "".join(f"{delay_text(one['quick'].get(case)):>26}" for case in cases))
    print("\nSettings")
    for name, one in tools.items():
        print(f"{name:{width}}  {one['setting']}")


def calm_text(found: dict[str, int] | None) -> str:
    """Calls in 10,000 panes."""
    if found is None:
        return "-"
    return f"{found['called'] / found['panes'] * 10_000:,.0f} ({found['panes']:,})"


def delay_text(delays: list[int | None] | None) -> str:
    """Median and 95% quantile over all streams, those that were missed being the longest."""
    if delays is None:
        return "-"
    rows = sorted(HORIZON * PANE + 1 if delay is None else delay for delay in delays)
    missed = delays.count(None)
    shown = [
        f"{value:,.0f}" if value <= HORIZON * PANE else "missed"
        for value in (statistics.median_high(rows), rows[min(len(rows) - 1, int(0.95 * len(rows)))])
    ]
    return f"{shown[0]} / {shown[1]}, {missed} of {len(rows)}"


def print_speed(results: dict[str, Any]) -> None:
    """Print what a row and a batch cost."""
    for part, title in (("rows", "A row of 10 features"), ("batches", "A batch of 10,000 rows and 10 features")):
        print(f"\n{title}\n{'':36} {'CPU us':>12} {'baseline':>9}  wall ratio [IQR]           CPU ratio [IQR]")
        for result in results.values():
            rows = result.get("speed", {}).get(part, [])
            base = next((row for row in rows if row["name"] == row["baseline"]), None)
            for row in rows:
                if row is not base:
                    numbers = f"{row['cpu_us']:12,.2f} {base['cpu_us']:9,.1f}"
                    print(f"{row['name']:36} {numbers}  {_spread(row['wall']):25}  {_spread(row['cpu'])}")


def _spread(of: dict[str, float]) -> str:
    return f"{of['median']:.3g} [{of['lower']:.3g}, {of['upper']:.3g}]"


def main() -> int:
    """Measure the tools asked for, one environment after the other."""
    default_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "otel-mlobs", "peers")
    known = list(environments(str(ROOT)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"both where none is named: {', '.join(PARTS)}")
    parser.add_argument("--tools", nargs="+", choices=known, default=known, help="these only")
    parser.add_argument("--cache", type=Path, default=default_cache, help="where the environments are (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of the streams, for the quality part")
    parser.add_argument("--rounds", type=int, default=31, help="of the speed part")
    parser.add_argument("--quick", action="store_true", help="a tenth of the streams, 5 rounds: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--here", metavar="TOOL", choices=known, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.share, args.rounds = 0.1, 5
    parts = args.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    if args.here:
        result = run_here(args.here, parts, share=args.share, rounds=args.rounds)
        args.json.write_text(json.dumps(result), encoding="utf-8")
        return 0
    isolation = without_network()
    results = {}
    for name in args.tools:
        results[name] = run_in_its_environment(name, args, parts, isolation)
        packages = results[name]["environment"]["packages"]
        print(", ".join(f"{package} {version}" for package, version in packages.items()), flush=True)
    print_quality(results)
    if "speed" in parts:
        print_speed(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
