#!/usr/bin/env python
"""Remake examples/database_features/housing.parquet, and the page beside it that says where it comes from.

    python scripts/housing_extract.py [--out FOLDER]

The rows are in the wheel of `nannyml`; see nannyml_wheel.py.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from nannyml_wheel import read_parts, remake, with_labels, write_page

FILE_NAME = "housing.parquet"

ROWS_REFERENCE = 5_832
ROWS_LATER = 8_232
CLOSENESS = 1e-15
"""The source's averages are quotients written as text: two units in the last place of a float64 is what that loses."""

# name: (Arrow type, what it is)
COLUMNS = {
    "block_id": ("int16", "row number in the source; 0 to 5,831 are the reference, the rest came later"),
    "at": ("timestamp[ms, tz=UTC]", "the source's `timestamp`, read as UTC: one row an hour; **made up by nannyml**"),
    "med_inc": ("double", "`MedInc`: median income of the block group's households, in $10,000; capped at 15.0001"),
    "house_age": ("int8", "`HouseAge`: median age of its houses, in years; capped at 52"),
    "rooms": ("int32", "rooms in all; the source has `AveRooms` = rooms / households"),
    "bedrooms": ("int16", "bedrooms in all; the source has `AveBedrms` = bedrooms / households"),
    "population": ("int32", "`Population`: persons"),
    "households": ("int16", "households; the source has `AveOccup` = population / households"),
    "latitude": ("double", "`Latitude`, degrees"),
    "longitude": ("double", "`Longitude`, degrees"),
    "above_median": ("int8", "`clf_target`, the label: 1 where the median house value is above nannyml's threshold"),
}

PROVENANCE = """\
# Where `{file}` comes from

{rows:,} block groups of the California housing set (1990 US census), in the order and with the timestamps and the label
that nannyml gave them. Made by `scripts/housing_extract.py`, not by hand.

- **Source**: the wheel of `{nannyml}` (PyPI), files `{folder}/california_housing_*.csv`, which its
  `load_modified_california_housing_dataset()` returns. sha256 of the wheel: `{wheel_sha256}`.
- **Rows**: all of them, in order (checked whenever the file is made): {rows_reference:,} of the reference, from
  {first_reference:%Y-%m-%d} to {last_reference:%Y-%m-%d}, and {rows_later:,} later ones, from {first_later:%Y-%m-%d}
  to {last_later:%Y-%m-%d}.
- **Share with label 1**: {rate_reference:.4f} of the reference, {rate_later:.4f} of the later rows.
- **Left out**: the source's `y_pred_proba` and `y_pred`, which are another model's.
- **Totals in the place of averages**: the source has rooms, bedrooms and persons *per household*. Each of these is a
  quotient of whole numbers, and those are what is here. Divided again they give the source's averages to {closeness:g}
  relative (checked whenever the file is made); the source lost the last digit when it wrote them as text.
- **Written with** `{pyarrow}`: Parquet 2.6, zstd.
- **sha256 of the file**: `{sha256}`
- **To remake it**: `python scripts/housing_extract.py` gives the same bytes.

## What is real, and what nannyml made of it

The block groups are real; the time is not. scikit-learn's `fetch_california_housing` has 20,640 of them, county after
county in alphabetical order, neighbours beside each other. nannyml (`docs/datasets/california.rst` in its repository)
numbered the rows through as if they had come one after the other, kept the first part to train a model of its own (it
is not in the wheel), and called the next part reference and the rest analysis. Its label says whether the median house
value is above the median of that first part.

So drift in these rows is geography: traffic that wanders through California from county to county. By their
coordinates, the reference goes from Los Angeles by way of Orange to Riverside, the later rows from Riverside
by way of Sacramento, San Diego and San Francisco to Yuba. What differs is how real places differ, in all features at
once, and it never settles. No row is altered, nothing is missing.

## Licence

nannyml is published under the Apache License 2.0. The set itself was published by R. Kelley Pace and Ronald Barry,
"Sparse Spatial Autoregressions", Statistics and Probability Letters 33 (1997) 291-297, in the StatLib repository, from
which scikit-learn has it; neither states a licence for it. Its figures are those of the 1990 census, a work of the US
government and in the public domain in the United States; each is a total or a median of a block group, none is of a
person.

## Columns

| Column | Type | Meaning |
|---|---|---|
{columns}
"""


def extract(wheel: Path, out: Path) -> None:
    """Write the Parquet file and PROVENANCE.md into `out` from the nannyml wheel; needs pyarrow."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet as pq

    files = [f"california_housing_{part}.csv" for part in ("reference", "analysis", "analysis_gt")]
    reference, later, labels = read_parts(wheel, files, lambda file: pa.csv.read_csv(io.BytesIO(file)))
    later = with_labels(reference, later, labels, "clf_target", (ROWS_REFERENCE, ROWS_LATER))
    source = pa.concat_tables([reference.select(later.column_names), later]).combine_chunks()
    if source["id"].to_pylist() != list(range(source.num_rows)):
        raise ValueError("the source's ids must be 0, 1, 2, … without a gap")

    households = pc.round(pc.divide(source["Population"], source["AveOccup"]))
    totals = {
        "rooms": pc.round(pc.multiply(source["AveRooms"], households)),
        "bedrooms": pc.round(pc.multiply(source["AveBedrms"], households)),
        "population": source["Population"],
    }
    for total, average in (("rooms", "AveRooms"), ("bedrooms", "AveBedrms"), ("population", "AveOccup")):
        again = pc.divide(totals[total], households)
        off = pc.max(pc.abs(pc.subtract(pc.divide(again, source[average]), 1.0))).as_py()
        if off > CLOSENESS:
            raise ValueError(f"{total} / households must be {average} to {CLOSENESS}, got {off} off")

    values = {
        "block_id": source["id"],
        "at": pc.assume_timezone(source["timestamp"].cast("timestamp[ms]"), "UTC"),
        "med_inc": source["MedInc"],
        "house_age": source["HouseAge"],
        **totals,
        "households": households,
        "latitude": source["Latitude"],
        "longitude": source["Longitude"],
        "above_median": source["clf_target"],
    }
    kinds = {name: pa.timestamp("ms", "UTC") if name == "at" else kind for name, (kind, _) in COLUMNS.items()}
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    # The cast raises on any loss: a total that is no whole number, an age that does not fit.
    rows = pa.table({name: values[name].cast(kind) for name, kind in kinds.items()}).cast(schema)

    path = out / FILE_NAME
    # Dictionaries for values that come again, differences for the rest: two thirds of the size that the defaults give.
    repeated = [name for name, kind in kinds.items() if kind in ("double", "int8")]
    pq.write_table(
        rows,
        path,
        version="2.6",
        compression="zstd",
        compression_level=19,
        use_dictionary=repeated,
        column_encoding={name: "DELTA_BINARY_PACKED" for name in kinds if name not in repeated},
    )

    def rate(table: Any) -> float:
        return float(pc.mean(table["clf_target"]).as_py())

    write_page(
        path,
        PROVENANCE,
        COLUMNS,
        rows.num_rows,
        rows_reference=ROWS_REFERENCE,
        rows_later=ROWS_LATER,
        first_reference=reference["timestamp"][0].as_py(),
        last_reference=reference["timestamp"][-1].as_py(),
        first_later=later["timestamp"][0].as_py(),
        last_later=later["timestamp"][-1].as_py(),
        rate_reference=rate(reference),
        rate_later=rate(later),
        closeness=CLOSENESS,
    )


if __name__ == "__main__":
    here = Path(__file__).resolve()
    remake(here, __doc__ or "", here.parents[1] / "examples" / "database_features", extract)
