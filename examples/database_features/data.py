"""The rows of the example: block groups of the California housing set; PROVENANCE.md says where they come from.

Three parts. `train` and `held_out` are the reference, parted at random, two to one: the model and its profile know the
first, and the second is what traffic looks like as long as nothing changes. `later` came afterwards and is another
matter: it comes county by county.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXTRACT = Path(__file__).parent / "housing.parquet"
FIRST_LATER = 5_832
HELD_OUT = 1_944
PARTS = ("train", "held_out", "later")

FEATURES = (
    "med_inc",
    "house_age",
    "ave_rooms",
    "ave_bedrms",
    "population",
    "ave_occup",
    "latitude",
    "longitude",
    "rooms_per_person",
    "bedroom_ratio",
)
"""What the model gets, in this order: the eight of the California housing set and two ratios of its totals."""


@dataclass(frozen=True)
class Blocks:
    """Block groups: `ids` int64 (n,), `features` float64 (n, 10) in the order of FEATURES, `labels` int64 (n,)."""

    ids: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.int64]


@cache
def columns() -> dict[str, NDArray[Any]]:
    """The columns of the extract, and `part`, which says of each row to which part it belongs."""
    table = pq.read_table(EXTRACT)
    ids = range(table.num_rows)
    part = np.where(np.arange(table.num_rows) < FIRST_LATER, PARTS[0], PARTS[2]).astype("<U8")
    part[_shuffled(ids[:FIRST_LATER])[:HELD_OUT]] = PARTS[1]
    return {**{name: table[name].to_numpy() for name in table.column_names}, "part": part}


def load(part: str, *, shuffle: bool = False) -> Blocks:
    """The rows of a part: `later` as they came unless they are shuffled, the others always at random.

    Raises:
        ValueError: there is no such part.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    rows = columns()
    ids = np.flatnonzero(rows["part"] == part)
    if shuffle or part != "later":
        ids = np.array(_shuffled(ids.tolist()))
    chosen = {name: values[ids] for name, values in rows.items()}
    derived = {
        "ave_rooms": chosen["rooms"] / chosen["households"],
        "ave_bedrms": chosen["bedrooms"] / chosen["households"],
        "ave_occup": chosen["population"] / chosen["households"],
        "rooms_per_person": chosen["rooms"] / chosen["population"],
        "bedroom_ratio": chosen["bedrooms"] / chosen["rooms"],
    }
    features = np.column_stack([{**chosen, **derived}[name] for name in FEATURES]).astype(np.float64)
    return Blocks(chosen["block_id"].astype(np.int64), features, chosen["above_median"].astype(np.int64))


def _shuffled(ids: range | list[int]) -> list[int]:
    # By hash: an order without a pattern that needs no seed and is the same with every version of every library.
    return sorted(ids, key=lambda i: hashlib.sha256(str(i).encode()).digest())
