"""What it costs a prediction to be registered for a later label, and what a million that wait take of memory.

Registering is measured against a bare hand-written span of the SDK, as ``overhead.py`` measures it, in one process,
each block beside one of its baseline: making the id, the record, and handing it to the store. With a server behind the
store the wall clock is the request path, and the CPU clock has the writing behind it as well. The times of single calls
are taken at a steady rate, with the thread that writes at work.

Memory is what tracemalloc says, and by how much the process grew, each in a process of its own.

Run ``python benchmarks/outcomes.py``; it measures memory and SQLite, and what ``--redis`` and ``--postgresql`` name.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drift import BARE, SmallSpread, bare_span
from harness import Row, SpanPipeline, Spread, Variant, as_json, environment, measure, print_table, write_json

from otel_mlobs.core.records import Prediction, stream_of
from otel_mlobs.stores.outcome_store import OutcomeStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHUNK = 10
"""Predictions registered in a block for every bare span in its baseline: both take about as long."""
STREAM = stream_of("churn", "7", "0123456789abcdef")
IN_MEMORY, BEHIND_A_SERVER = 0.1, 0.25
"""The largest share of a bare span's time that registering may take."""
_pack = struct.Struct("d").pack
_prefix = uuid.uuid4().hex[:16]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class OnTheRequestPath(Row):
    """A row whose target is for the wall clock: the CPU clock has what another thread does afterwards."""

    @property
    def passed(self) -> bool | None:
        """Whether the request path keeps to the target."""
        return None if self.target is None else self.wall.median <= self.target


def registering(store: OutcomeStore) -> Callable[[], None]:
    """What a request does, its id and its record included."""

    def register() -> None:
        store.register(Prediction(f"{_prefix}-{next(_numbers):x}", STREAM, time.time(), _pack(0.3), time.time() + 7.0))

    return register


def variant(name: str, store: OutcomeStore, target: float) -> Variant:
    """``CHUNK`` predictions a call."""
    register = registering(store)

    def loop(n: int) -> None:
        for _ in range(n * CHUNK):
            register()

    def flush() -> None:
        store.flush(600)

    def check(_n: int) -> None:
        if store.pending or set(store.dropped) - {"evicted"}:
            raise RuntimeError(f"{name}: {store.pending} wait, dropped {store.dropped}")

    return Variant(name, loop, BARE, flush, check, target * CHUNK)


def per_prediction(row: Row) -> Row:
    """The same for one prediction, where a call of the loop was ``CHUNK`` of them."""
    if row.name == row.baseline:
        return row
    return OnTheRequestPath(
        row.name,
        row.baseline,
        row.wall_us / CHUNK,
        row.cpu_us / CHUNK,
        _scaled(row.wall),
        _scaled(row.cpu),
        None if row.target is None else row.target / CHUNK,
        None,
    )


def _scaled(spread: Spread) -> Spread:
    return SmallSpread(spread.median / CHUNK, spread.lower / CHUNK, spread.upper / CHUNK)


def steadily(store: OutcomeStore, *, rate: int, seconds: float) -> list[float]:
    """Microseconds of every call, ``rate`` a second, while the thread writes."""
    register = registering(store)
    found = []
    due = time.perf_counter()
    for _ in range(int(rate * seconds)):
        due += 1 / rate
        while (now := time.perf_counter()) < due:
            time.sleep(max(0.0, due - now))
        register()
        found.append((time.perf_counter() - now) * 1e6)
    store.flush(600)
    return found


def print_calls(times: dict[str, list[float]], rate: int) -> None:
    """Medians and tails."""
    width = max(map(len, times))
    print(f"\nSingle calls, {rate:,} a second, in us\n{'':{width}}  {'median':>8} {'mean':>8} {'99%':>8} {'99.9%':>8}")
    for name, found in times.items():
        cuts = statistics.quantiles(found, n=1000)
        print(f"{name:{width}}  {cuts[499]:8.2f} {statistics.mean(found):8.2f} {cuts[989]:8.2f} {cuts[998]:8.2f}")


def waiting(way: str, url: str, number: int) -> float:
    """Bytes a prediction that waits: of ``number`` of them, by tracemalloc or by what the process takes."""
    command = [sys.executable, __file__, "--waiting", way, url, str(number)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_waiting(way: str, url: str, number: int) -> None:
    """In a process of its own: prints bytes a prediction."""
    import gc
    import tracemalloc

    logging.getLogger("otel_mlobs").addHandler(logging.NullHandler())
    store = OutcomeStore(url, capacity=number, spill=number)
    register = registering(store)
    register()
    gc.collect()
    if way == "tracemalloc":
        tracemalloc.start()
    before = _resident()
    for _ in range(number):
        register()
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] if way == "tracemalloc" else _resident() - before
    print(size / number)
    sys.stdout.flush()
    os._exit(0)


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def print_memory(sizes: Sequence[tuple[str, int, float, float]]) -> None:
    """By kind of store."""
    print(f"\nPredictions that wait\n{'':32}  {'number':>10} {'tracemalloc':>12} {'process':>12}   bytes a prediction")
    for name, number, traced, resident in sizes:
        print(f"{name:32}  {number:10,} {traced:12.0f} {resident:12.0f}")


def main() -> int:
    """Measure and print; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis", metavar="URL", help="a Redis server, as redis://localhost:6379/0")
    parser.add_argument("--postgresql", metavar="URL", help="a PostgreSQL database")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=100, help="bare spans in a block; ten predictions each")
    parser.add_argument("--rate", type=int, default=1000, help="predictions a second in the steady part")
    parser.add_argument("--pending", type=int, default=1_000_000, help="how many wait when memory is measured")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--waiting", nargs=3, metavar=("HOW", "URL", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.waiting:
        measure_waiting(options.waiting[0], options.waiting[1], int(options.waiting[2]))
    with tempfile.TemporaryDirectory() as folder:
        urls = {"SQLite": f"sqlite:///{folder}/outcomes.db", "Redis": options.redis, "PostgreSQL": options.postgresql}
        servers = {name: url for name, url in urls.items() if url}
        namespace = f"bench{uuid.uuid4().hex[:8]}"
        stores = {name: OutcomeStore(url, namespace=namespace, ttl="1h") for name, url in servers.items()}
        spans = SpanPipeline.create()
        variants = [
            bare_span(spans),
            variant("memory", OutcomeStore(capacity=50_000_000), IN_MEMORY),
            variant("memory, full: one goes, one comes", OutcomeStore(capacity=10_000), IN_MEMORY),
            *(variant(name, store, BEHIND_A_SERVER) for name, store in stores.items()),
        ]
        rows = [per_prediction(row) for row in measure(variants, rounds=options.rounds, n=options.calls)]
        print_table("Registering a prediction", rows)
        times = {
            name: steadily(store, rate=options.rate, seconds=5.0)
            for name, store in {"memory": OutcomeStore(), **stores}.items()
        }
        print_calls(times, options.rate)
        for store in stores.values():
            store.close()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        dead = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        sizes = [
            (name, number, waiting("tracemalloc", url, min(number, 200_000)), waiting("process", url, number))
            for name, url, number in (
                ("memory", "memory:", options.pending),
                ("spilled: the server is away", dead, 100_000),
            )
        ]
    print_memory(sizes)
    if options.json:
        write_json(
            options.json,
            {"environment": environment("redis", "sqlalchemy"), "rows": as_json(rows), "memory": sizes},
        )
    return 0 if all(row.passed is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
