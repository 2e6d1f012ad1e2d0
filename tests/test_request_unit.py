"""``Monitor(unit="request")``: what the rows of one call share is counted once, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import otel_mlobs as mlobs
from otel_mlobs.core.tally import Tally

RNG = np.random.default_rng(7)
PROFILE = mlobs.Profile.fit(
    {"user": RNG.normal(size=4_000), "flag": (RNG.random(4_000) < 0.1).astype(float)}, model="ranker"
)


def counted(*batches: Any) -> dict[str, int]:
    """How many values of each feature are counted."""
    tally = Tally(PROFILE, once_per_request=True)
    for batch in batches:
        tally.add_inputs(batch)
    table = tally.fold()
    assert table is not None
    return dict(zip(PROFILE.names, table.sum(axis=1).tolist(), strict=True))


def batch(user: float, flags: list[float]) -> np.ndarray[Any, Any]:
    """The candidates of one request."""
    return np.array([[user, flag] for flag in flags])


def test_what_varies_is_counted_in_every_row() -> None:
    """Once five batches have shown that it is a feature of the rows; also where it happens to be the same."""
    same, mixed = batch(0.5, [0.0, 0.0, 0.0]), batch(0.1, [0.0, 1.0, 0.0])
    assert counted(same) == counted(mixed) == {"user": 1, "flag": 1}
    assert counted(*[mixed] * 4) == {"user": 4, "flag": 4}
    assert counted(*[mixed] * 5, same) == {"user": 6, "flag": 4 + 3 + 3}


def test_one_odd_batch_in_a_hundred_changes_nothing() -> None:
    """A feature of the request that is missing in one row for once stays one, and counts by its first row."""
    usual = batch(0.5, [0.0, 1.0, 0.0])
    odd = usual.copy()
    odd[2, 0] = np.nan
    assert counted(*([usual] * 150 + [odd]) * 7)["user"] == 151 * 7


@pytest.mark.parametrize("form", ["frame", "columns", "rows"])
def test_it_is_the_same_for_every_form_of_batch(form: str) -> None:
    """A dict of columns, a list of rows and a data frame are counted as the array is."""
    arrays = [batch(0.1, [0.0, 1.0, 0.0])] * 5 + [batch(0.5, [1.0, 1.0])]

    def formed(array: np.ndarray[Any, Any]) -> Any:
        columns = {"user": array[:, 0].tolist(), "flag": array[:, 1].tolist()}
        if form == "frame":
            return pytest.importorskip("pandas").DataFrame(columns)
        return columns if form == "columns" else [tuple(row) for row in array.tolist()]

    assert counted(*map(formed, arrays)) == counted(*arrays) == {"user": 6, "flag": 4 + 3 + 2}


@pytest.mark.parametrize(("share", "size"), [(0.1, 5), (0.05, 10), (0.3, 3)])
def test_a_feature_of_the_candidates_keeps_its_distribution(share: float, size: int) -> None:
    """Traffic like the reference, in batches: the flag's live share is the reference's, and nothing alarms."""
    rng = np.random.default_rng(11)
    profile = mlobs.Profile.fit({"flag": (rng.random(20_000) < share).astype(float)}, model="ranker")
    clock = [0.0]
    monitor = mlobs.Monitor(profile, unit="request", clock=lambda: clock[0])
    for _ in range(300):
        clock[0] += 60.0
        for _ in range(100 // size):
            monitor.observe((rng.random((size, 1)) < share).astype(float))
        assert not monitor.status().features["flag"].alarm
    found = monitor.status().features["flag"]
    assert found.psi < 0.005
    assert found.p_value > 0.001
