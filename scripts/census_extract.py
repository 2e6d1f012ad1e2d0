#!/usr/bin/env python
"""Remake otel_mlobs/tools/demo_data/census_employment.parquet, and the page beside it that says where it comes from.

    python scripts/census_extract.py [--out FOLDER]

The rows are in the wheel of `nannyml`; see nannyml_wheel.py.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nannyml_wheel import read_parts, remake, with_labels, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_NAME = "census_employment.parquet"

ROWS_2015 = 68_785
ROWS_LATER = 208_892
SAMPLE_2015 = 4_000
SAMPLE_LATER = 8_000

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

    files = [f"employment_MA_{part}.pq" for part in ("reference", "analysis", "analysis_target")]
    reference, later, labels = read_parts(wheel, files, lambda file: pq.read_table(io.BytesIO(file)))
    later = with_labels(reference, later, labels, "employed", (ROWS_2015, ROWS_LATER))

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

    def rate(table: Any) -> float:
        return float(pc.mean(table["employed"]).as_py())

    write_page(
        path,
        PROVENANCE,
        COLUMNS,
        rows.num_rows,
        rows_2015=ROWS_2015,
        rows_later=ROWS_LATER,
        sample_2015=SAMPLE_2015,
        sample_later=SAMPLE_LATER,
        rate_2015=rate(parts[0]),
        all_2015=rate(reference),
        rate_later=rate(parts[1]),
        all_later=rate(later),
    )


if __name__ == "__main__":
    here = Path(__file__).resolve()
    remake(here, __doc__ or "", here.parents[1] / "otel_mlobs" / "tools" / "demo_data", extract)
