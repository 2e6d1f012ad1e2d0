"""A profile of a table that need not fit in memory: time and peak memory against rows, and whether engines agree.

    python benchmarks/profile_scale.py                        # 1, 10 and 100 million rows x 10, DuckDB over Parquet
    python benchmarks/profile_scale.py --rows 1000000 --spark --merge

Parquet is written in pieces to a temporary folder (8 bytes a value, uncompressed: 8 GB for 100 million rows), and
removed afterwards. Each fit runs in a process of its own, whose peak resident memory and CPU time are measured; DuckDB
is held to half of the limit, since what it counts is not all that it holds. On a busy machine only CPU time compares.

``--spark`` fits the same files by Spark in local mode (pyspark and Java), ``--merge`` in four shards with the bins of
the whole; both must give the profile that DuckDB gives on the whole, by its id.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PIECE = 1_000_000
SHARDS = 4


def columns(rng: np.random.Generator, rows: int) -> dict[str, NDArray[Any]]:
    """Ten features: light and heavy tails, ties, single precision, missing and infinite values."""
    gaps = rng.normal(size=rows)
    gaps[rng.random(rows) < 0.02] = np.nan
    infinite = rng.normal(size=rows)
    infinite[rng.random(rows) < 0.001] = np.inf
    return {
        "normal": rng.normal(size=rows),
        "far": rng.normal(1e6, 3.0, rows),
        "lognormal": rng.lognormal(0.0, 2.0, rows),
        "cauchy": rng.standard_cauchy(rows),
        "uniform": rng.random(rows),
        "integers": rng.poisson(4.0, rows),
        "cents": np.round(rng.gamma(2.0, 30.0, rows), 2),
        "single": rng.normal(size=rows).astype(np.float32),
        "gaps": gaps,
        "infinite": infinite,
    }


def write(folder: Path, rows: int, seed: int) -> None:
    """Write ``rows`` rows of :func:`columns` as Parquet, one file a shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    for shard in range(SHARDS):
        left = rows * (shard + 1) // SHARDS - rows * shard // SHARDS
        writer = None
        while left:
            taken = min(left, PIECE)
            table = pa.table(columns(rng, taken))
            if writer is None:
                writer = pq.ParquetWriter(
                    folder / f"part-{shard}.parquet", table.schema, compression="none", use_dictionary=False
                )
            writer.write_table(table)
            left -= taken
        if writer is not None:
            writer.close()


def by_duckdb(pattern: str, scratch: str, memory: float, like: Profile | None = None) -> Profile:
    """The profile of the files, as DuckDB counts them."""
    import ibis

    connection = ibis.duckdb.connect(temp_directory=scratch, memory_limit=f"{memory:.2f}GB")
    return Profile.fit(connection.read_parquet(pattern), model="scale", like=like)


def by_spark(pattern: str) -> Profile:
    """The profile of the files, as Spark counts them."""
    import ibis
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "3g").config("spark.sql.shuffle.partitions", "4")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        return Profile.fit(ibis.pyspark.connect(session).read_parquet(pattern), model="scale")
    finally:
        session.stop()


def child(engine: str, folder: Path, output: Path, memory: float) -> None:
    """Fit once and print what it took."""
    start, pattern = time.perf_counter(), str(folder / "part-*.parquet")
    profile = by_spark(pattern) if engine == "spark" else by_duckdb(pattern, str(folder), memory)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    profile.save(output)
    print(json.dumps({"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": peak}))


def measured(engine: str, folder: Path, memory: float) -> tuple[dict[str, float], Profile]:
    """Fit in a process of its own; raises CalledProcessError where that fails."""
    output = folder / f"{engine}.json"
    command = [sys.executable, __file__, "--child", engine, "--folder", folder, "--output", output]
    done = subprocess.run(
        [*map(str, command), "--memory", str(memory)], check=True, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), Profile.load(output)


def merged(folder: Path, whole: Profile, memory: float) -> Profile:
    """The shards' profiles with the bins of the whole, merged."""
    parts: Iterator[Profile] = (
        by_duckdb(str(folder / f"part-{shard}.parquet"), str(folder), memory, like=whole) for shard in range(SHARDS)
    )
    first = next(parts)
    for part in parts:
        first = first.merge(part)
    return first


def compare(name: str, one: Profile, other: Profile) -> bool:
    """Say whether two profiles are the same, and where not."""
    print(f"{name}: id {one.id}, DuckDB on the whole: id {other.id}: {'equal' if one.id == other.id else 'DIFFERENT'}")
    for mine, theirs in zip(one.columns, other.columns, strict=True):
        for field in ("bins", "counts", "minimum", "maximum"):
            if getattr(mine, field) != getattr(theirs, field):
                print(f"  {mine.name}.{field}: {getattr(mine, field)} against {getattr(theirs, field)}")
    return one.id == other.id


def main() -> int:
    """Run what the command line asks for; 1 where a fit went over the limit or profiles differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--limit", type=float, default=4.0, help="GB of resident memory that a fit may take")
    parser.add_argument("--spark", action="store_true")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--child", choices=("duckdb", "spark"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.output, options.memory)
        return 0
    well, memory = True, options.limit / 2
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before; DuckDB's own limit {memory:g} GB")
    # Spark counts in a process of its own, whose CPU time and memory are not in these.
    print(f"{'rows':>12} {'engine':8} {'seconds':>8} {'CPU s':>8} {'per million':>12} {'peak GB':>8}", flush=True)
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="profile-scale-", dir=options.folder) as name:
            folder = Path(name)
            write(folder, rows, options.seed)
            profiles = {}
            for engine in ("duckdb", "spark") if options.spark else ("duckdb",):
                took, profiles[engine] = measured(engine, folder, memory)
                print(
                    f"{rows:12,} {engine:8} {took['seconds']:8.1f} {took['cpu']:8.1f} {took['cpu'] / rows * 1e6:12.3f} "
                    f"{took['peak'] / 1e9:8.2f}",
                    flush=True,
                )
                well &= engine == "spark" or took["peak"] < options.limit * 1e9
            if options.spark:
                well &= compare("Spark", profiles["spark"], profiles["duckdb"])
            if options.merge:
                well &= compare(f"{SHARDS} shards", merged(folder, profiles["duckdb"], memory), profiles["duckdb"])
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
