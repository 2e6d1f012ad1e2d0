#!/usr/bin/env python
"""Remake otel_mlobs/tools/demo_data/census_employment.parquet, and the page beside it that says where it comes from.

    python scripts/census_extract.py [--out FOLDER]

The rows are in the wheel of `nannyml`, which is no dependency of ours and is not installed: its wheel is downloaded
into a throw-away folder and read. pyarrow comes at a fixed version into a throw-away environment, so that the same
bytes come out on any machine and any Python that has that pyarrow.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

NANNYML = "nannyml==0.13.1"
NANNYML_SHA256 = "cf5f4a33489834ae6773cb1baa33a0f98c0a3ee6ed9b43049478b25ce22fe869"
PYARROW = "pyarrow==21.0.0"
FOLDER_IN_WHEEL = "nannyml/datasets/data"
FILE_NAME = "census_employment.parquet"

ROWS_2015 = 68_785
ROWS_LATER = 208_892
SAMPLE_2015 = 4_000
SAMPLE_LATER = 8_000
LARGEST_FILE = 250_000

# name: (type, what the American Community Survey calls it)
COLUMNS = {
    "id": ("int32", "row number in the source, 2015 first; stands in for a customer id"),
    "year": ("int16", "survey year: 2015 is the reference, 2016 to 2018 are the later rows"),
    "AGEP": ("int8", "age in years"),
    "SCHL": ("int8", "schooling, 1 (none) to 24 (doctorate), 0 under 3 years"),
    "MAR": ("int8", "marital status, 5 codes"),
    "RELP": ("int8", "relationship to the householder, 18 codes, 0 is the householder"),
    "DIS": ("int8", "disability: 1 yes, 2 no"),
    "ESP": ("int8", "employment of the parents, 1 to 8; 0 where it does not apply"),
    "CIT": ("int8", "citizenship, 5 codes"),
    "MIG": ("int8", "lived here a year ago, 1 to 3; 0 under 1 year"),
    "MIL": ("int8", "military service, 1 to 4; 0 under 17 years"),
    "ANC": ("int8", "ancestry recode, 4 codes"),
    "NATIVITY": ("int8", "1 born in the country, 2 abroad"),
    "DEAR": ("int8", "hearing difficulty: 1 yes, 2 no"),
    "DEYE": ("int8", "vision difficulty: 1 yes, 2 no"),
    "DREM": ("int8", "cognitive difficulty: 1 yes, 2 no; 0 under 5 years"),
    "SEX": ("int8", "1 male, 2 female"),
    "RAC1P": ("int8", "race recode, 9 codes"),
    "employed": ("int8", "the label: 1 employed, 0 not"),
}

PROVENANCE = """\
# Where `{file}` comes from

{rows:,} rows of the American Community Survey (persons in Massachusetts, 2015 to 2018; US Census Bureau, public use
microdata sample), with the question whether the person is employed. Made by `scripts/census_extract.py`, not by hand.

- **Source**: the wheel of `{nannyml}` (PyPI), files `{folder}/employment_MA_*.pq`, which its
  `load_us_census_ma_employment_data()` returns. sha256 of the wheel: `{wheel_sha256}`.
- **Rows there**: {rows_2015:,} of 2015 and {rows_later:,} of 2016 to 2018 (checked whenever the file is made).
- **Rows here**: {sample_2015:,} of 2015 and {sample_later:,} of 2016 to 2018: of each of the two periods those whose
  `sha256(str(id))` is smallest. That is a sample without replacement that needs no seed and no library's random
  generator. The order is kept.
- **Share employed**: 2015 {rate_2015:.4f} here, {all_2015:.4f} in the source; later {rate_later:.4f} here,
  {all_later:.4f} in the source.
- **Left out**: the source's `prediction` and `predicted_probability`, which are a model's and not the survey's.
- **Written with** `{pyarrow}`: Parquet 2.6, zstd, small integers.
- **sha256 of the file**: `{sha256}`
- **To remake it**: `python scripts/census_extract.py` gives the same bytes.

## Licence

nannyml is published under the Apache License 2.0. The survey's microdata are a work of the US government, in the public
domain in the United States; the Census Bureau asks that nobody use them to identify a person, household or business.
This product is neither endorsed nor certified by the Census Bureau.

## Columns

Codes are the survey's own; nothing is missing.

| Column | Type | Meaning |
|---|---|---|
{columns}
"""


def sample(ids: Sequence[int], size: int) -> list[int]:
    """Positions of the `size` ids with the smallest hash, in the order they came."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(str(ids[i]).encode()).digest())
    return sorted(order[:size])


def extract(wheel: Path, out: Path) -> None:
    """Write the Parquet file and PROVENANCE.md into `out` from the nannyml wheel; needs pyarrow."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != NANNYML_SHA256:
        raise ValueError(f"{wheel.name} must have sha256 {NANNYML_SHA256}, got {digest}")

    with zipfile.ZipFile(wheel) as archive:

        def read(part: str) -> Any:
            return pq.read_table(io.BytesIO(archive.read(f"{FOLDER_IN_WHEEL}/employment_MA_{part}.pq")))

        reference, later, labels = read("reference"), read("analysis"), read("analysis_target")
    if not later["id"].equals(labels["id"]):
        raise ValueError("the later rows and their labels must have the same ids in the same order")
    later = later.append_column("employed", labels["employed"])
    for table, expected in ((reference, ROWS_2015), (later, ROWS_LATER)):
        if table.num_rows != expected:
            raise ValueError(f"expected {expected} rows, got {table.num_rows}")

    schema = pa.schema([pa.field(name, kind, nullable=False) for name, (kind, _) in COLUMNS.items()])
    parts = []
    for table, size in ((reference, SAMPLE_2015), (later, SAMPLE_LATER)):
        chosen = table.take(sample(table["id"].to_pylist(), size))
        # The source has codes as dictionary-encoded text: first text, then numbers (the cast raises on any loss).
        plain = {
            name: chosen[name].cast("string") if pa.types.is_dictionary(chosen[name].type) else chosen[name]
            for name in COLUMNS
        }
        parts.append(pa.table({name: plain[name].cast(kind) for name, (kind, _) in COLUMNS.items()}).cast(schema))
    rows = pa.concat_tables(parts).combine_chunks()

    path = out / FILE_NAME
    pq.write_table(rows, path, version="2.6", compression="zstd", compression_level=19)
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{FILE_NAME} must be at most {LARGEST_FILE} bytes, got {path.stat().st_size}")

    def rate(table: Any) -> float:
        return float(pc.mean(table["employed"]).as_py())

    page = PROVENANCE.format(
        file=FILE_NAME,
        rows=rows.num_rows,
        nannyml=NANNYML,
        folder=FOLDER_IN_WHEEL,
        wheel_sha256=digest,
        rows_2015=ROWS_2015,
        rows_later=ROWS_LATER,
        sample_2015=SAMPLE_2015,
        sample_later=SAMPLE_LATER,
        rate_2015=rate(parts[0]),
        all_2015=rate(reference),
        rate_later=rate(parts[1]),
        all_later=rate(later),
        pyarrow=PYARROW,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        columns="\n".join(f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in COLUMNS.items()),
    )
    (out / "PROVENANCE.md").write_text(page, encoding="utf-8")
    print(f"{path}: {rows.num_rows} rows, {path.stat().st_size} bytes")


def main() -> None:
    """Build the throw-away environment and run `extract` in it."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=here.parents[1] / "otel_mlobs" / "tools" / "demo_data")
    parser.add_argument("--wheel", type=Path, help="read this nannyml wheel with the pyarrow of this environment")
    arguments = parser.parse_args()
    if arguments.wheel is not None:
        extract(arguments.wheel, arguments.out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", PYARROW], check=True)
        # The wheel is only read, so it does not matter whether nannyml supports this Python.
        options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
        subprocess.run([*pip, "download", *options, "-d", name, NANNYML], check=True)
        (wheel,) = folder.glob("nannyml-*.whl")
        out = arguments.out.resolve()
        subprocess.run([str(python), str(here), "--wheel", str(wheel), "--out", str(out)], check=True)


if __name__ == "__main__":
    main()
