"""What values say of themselves: sizes, summaries, missing values, for every container a model is fed with."""

from __future__ import annotations

import pytest

pytest.importorskip("pandas")
pytest.importorskip("polars")
pytest.importorskip("pyarrow")

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import otel_mlobs as mlobs
from otel_mlobs.telemetry import readings
from otel_mlobs.telemetry.readings import Summary

if TYPE_CHECKING:
    from otel_mlobs.testing import Telemetry

NAN, INF = math.nan, math.inf
HALF = Summary(0.25, 0.5, 0.75, 0.25)
SCORES = [0.25, 0.75]


def frames(columns: dict[str, list[Any]]) -> list[Any]:
    """The same columns as a frame of each library."""
    return [pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)]


class OnDevice:
    """Stands in for a tensor on a GPU: whatever would wait for the device raises."""

    shape = (1000, 2)
    dtype = "torch.float32"
    device = "cuda:0"

    def _wait(self, *_: object, **__: object) -> Any:
        raise AssertionError("the device was waited for")

    tolist = detach = numpy = cpu = item = isnan = to_numpy = _wait
    __array__ = __float__ = __iter__ = __getitem__ = __ne__ = __eq__ = _wait  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return 1000


# -- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        SCORES,
        tuple(SCORES),
        [[0.25], [0.75]],
        [[0.75, 0.25], [0.25, 0.75]],
        np.array(SCORES),
        np.array(SCORES, dtype=np.float16),
        np.array(SCORES, dtype=object),
        np.array([[0.25], [0.75]]),
        np.array([[0.75, 0.25], [0.25, 0.75]]),
        np.array([[0.75, 0.25], [0.25, 0.75]], order="F"),
        np.ma.masked_array([0.25, 99.0, 0.75], mask=[False, True, False]),
        pd.Series(SCORES),
        pd.Series([0.25, None, 0.75], dtype="Float64"),
        pd.DataFrame({"no": [0.75, 0.25], "yes": SCORES}),
        pl.Series(SCORES),
        pl.Series([0.25, None, 0.75]),
        pl.DataFrame({"no": [0.75, 0.25], "yes": SCORES}),
        pl.DataFrame({"yes": SCORES}),
        pa.array(SCORES),
        pa.chunked_array([[0.25], [0.75]]),
        pa.table({"no": [0.75, 0.25], "yes": SCORES}),
        [0.25, NAN, 0.75],
        [0.25, None, INF, 0.75, -INF],
        np.array([0.25, NAN, 0.75, INF]),
        [np.float64(0.25), np.float32(0.75)],
        [np.array([0.25]), np.array([0.75])],
        [np.array([0.75, 0.25]), np.array([0.25, 0.75])],
    ],
)
def test_scores_are_summarised(value: Any) -> None:
    """Minimum, mean, maximum and standard deviation, of the second of two columns, without missing and non-finite."""
    assert readings.predictions(value) == HALF
    assert all(type(number) is float for number in readings.predictions(value) or ())


@pytest.mark.parametrize("repeat", [200, 70_000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_large_arrays_are_summarised_as_numpy_does(repeat: int, dtype: str) -> None:
    """Beyond the size that is read as a list the figures are numpy's in float64, whatever the array's own type."""
    values = (np.arange(repeat) % 1000).astype(dtype)
    wide = values.astype("float64")
    found = readings.predictions(values)
    assert isinstance(found, Summary)
    assert found == pytest.approx((wide.min(), wide.mean(), wide.max(), wide.std()), rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [
        [*SCORES, None, NAN] * 100,
        [np.float32(number) for number in SCORES] * 100,
        np.ma.masked_array([*SCORES, 99.0] * 100, mask=[False, False, True] * 100),
        pd.Series([*SCORES, None] * 100, dtype="Float64"),
        pl.Series([*SCORES, None] * 100),
        pa.array([*SCORES, None] * 100),
        pa.chunked_array([[*SCORES, None] * 100]),
        pa.table({"yes": [*SCORES, None] * 100}),
        np.array([*SCORES, None] * 100, dtype=object),
        np.array([*SCORES, NAN, INF, -INF] * 100, dtype="float16"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_large_containers_leave_out_what_is_missing(value: Any) -> None:
    """Beyond the size that is read as a list, nulls, masks and non-finite numbers are left out as below it."""
    assert readings.predictions(value) == pytest.approx(HALF)


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=150))
def test_lists_and_arrays_agree(values: list[float]) -> None:
    """The same numbers say the same in a list, an array, a series and an Arrow array."""
    finite = np.array([value for value in values if math.isfinite(value)], dtype="float64")
    for given_as in (values, np.array(values, dtype="float64"), pd.Series(values, dtype="float64"),
                     pl.Series(values, dtype=pl.Float64), pa.array(values, type=pa.float64())):  # fmt: skip
        found = readings.predictions(given_as)
        if not finite.size:
            assert found is None
        else:
            assert isinstance(found, Summary)
            tolerance = 1e-9 * (np.abs(finite).max() + 1e-30)
            expected = (finite.min(), finite.mean(), finite.max(), finite.std())
            assert found == pytest.approx(expected, rel=1e-9, abs=tolerance)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, Summary(0.5, 0.5, 0.5, 0.0)),
        (3, Summary(3.0, 3.0, 3.0, 0.0)),
        (np.float32(0.5), Summary(0.5, 0.5, 0.5, 0.0)),
        (np.array(0.5), Summary(0.5, 0.5, 0.5, 0.0)),
        (np.array([0.5]), Summary(0.5, 0.5, 0.5, 0.0)),
        ([10**400, 1], None),
        ("stays", "stays"),
        (True, "True"),
        (["stays"], "stays"),
        ([True], "True"),
        (np.array(["stays"]), "stays"),
        (np.array(["stays"], dtype=object), "stays"),
        (np.array([True]), "True"),
        (np.str_("stays"), "stays"),
        (np.bool_(True), "True"),
        (pd.Series(["stays"]), "stays"),
        (pd.Series([True]), "True"),
        (pd.Series(["stays"], dtype="category"), "stays"),
        (pl.Series(["stays"]), "stays"),
        (pl.Series([True]), "True"),
        (pa.array(["stays"]), "stays"),
        (pa.array([True]), "True"),
        (pa.chunked_array([["stays"]]), "stays"),
        (["stays", "leaves"], None),
        (np.array(["stays", "leaves"]), None),
        (pl.Series(["stays", "leaves"]), None),
        (pa.array(["stays", "leaves"]), None),
        (None, None),
        ([], None),
        ((), None),
        ({}, None),
        (np.array([]), None),
        (np.empty((0, 2)), None),
        (pd.Series([], dtype=float), None),
        (pl.Series([], dtype=pl.Float64), None),
        (NAN, None),
        ([NAN], None),
        ([None], None),
        (np.array([NAN, INF]), None),
        (np.zeros((3, 3)), None),
        (np.zeros((3, 2, 2)), None),
        ([[0.1, 0.2, 0.7]], None),
        ({"scores": [0.5]}, None),
        (object(), None),
        (1 + 2j, None),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), None),
        (b"bytes", None),
    ],
)
def test_single_values_classes_and_what_has_no_score(value: Any, expected: object) -> None:
    """One row's score or class is told; what has no single score says nothing."""
    assert readings.predictions(value) == expected


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"age": 41, "city": "Bonn"}, 1),
        ({"age": [1, 2, 3], "city": ["a", "b", "c"]}, 3),
        ({"text": "hello"}, 1),
        ([1.0, 2.0], 1),
        ((1.0, 2.0), 1),
        ([[1.0, 2.0], [3.0, 4.0]], 2),
        ([{"age": 1}, {"age": 2}], 2),
        (["a text", "another"], 2),
        ([np.zeros(3), np.zeros(3)], 2),
        ([], 0),
        (np.zeros(5), 1),
        (np.zeros((4, 5)), 4),
        (np.zeros((0, 5)), 0),
        (np.zeros((4, 3, 8, 8)), 4),
        (np.array(1.0), 1),
        (pd.Series([1, 2]), 1),
        ("a text", 1),
        (7, 1),
        (OnDevice(), 1000),
        *[(frame, 3) for frame in frames({"a": [1, 2, 3], "b": [1.0, 2.0, None]})],
    ],
)
def test_rows(value: Any, expected: int | None) -> None:
    """How many rows a model is given."""
    assert readings.rows(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], 2), ((1,), 1), ({"a": 1}, 1), ({1, 2, 3}, 3), (range(4), 4), ("text", None), (b"", None), (None, None),
        (5, None), (iter([1]), None), (np.zeros((3, 2)), 3), (np.array(1), None), (pd.Series([1, 2]), 2),
        (pl.Series([1, 2]), 2), (pa.array([1, 2]), 2), ({"a": 1}.keys(), 1), (OnDevice(), 1000),
        *[(frame, 3) for frame in frames({"a": [1, 2, 3]})],
    ],
)  # fmt: skip
def test_count(value: Any, expected: int | None) -> None:
    """How many items there are; what would have to be consumed says nothing."""
    assert readings.count(value) == expected


# -- scores of items -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        SCORES,
        [("a", 0.25), ("b", 0.75)],
        [["a", 0.25], ["b", 0.75]],
        [("a", np.float32(0.25)), ("b", np.float64(0.75))],
        [{"item": 1, "score": 0.25}, {"item": 2, "score": 0.75}],
        {"a": 0.25, "b": 0.75},
        np.array(SCORES),
        np.array(SCORES, dtype="float32"),
        [np.float32(0.25), np.float32(0.75)],
        *frames({"item": [1, 2], "score": SCORES}),
    ],
)
def test_scores_of_items_are_found(value: Any) -> None:
    """Floats, pairs, mappings and a column called score."""
    assert readings.scores_of_items(value) == HALF


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, [1, 2], ["a", "b"], np.array([1, 2]), {"a": 1}, [("a", 1)], [(1, 2, 3)], [{"item": 1}],
        [[0.1, 0.2, 0.3]], iter([0.5]), "text", *frames({"item": [1, 2]}), OnDevice(),
    ],
)  # fmt: skip
def test_ids_are_not_taken_for_scores(value: Any) -> None:
    """Whole numbers and names are items, not scores."""
    assert readings.scores_of_items(value) is None


# -- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (0, 0)),
        ({"age": 41, "city": None, "score": NAN, "gone": pd.NA, "since": pd.NaT}, (1, 4)),
        ({"u1": {"age": 1, "city": None}, "u2": None}, (1, 1)),
        ([1.0, None, NAN], (1, 2)),
        ([{"age": None}, {"age": 1}], (1, 1)),
        ([[1, None], [2, 3]], (3, 1)),
        ([], (0, 0)),
        ({}, (0, 0)),
        (np.array([[1.0, NAN], [2.0, 3.0]]), (3, 1)),
        (np.array([1, 2]), (2, 0)),
        (np.array([1.0, NAN], dtype="float16"), (1, 1)),
        (pd.Series([1.0, None]), (1, 1)),
        (pl.Series([1.0, None]), (1, 1)),
        *[(frame, (3, 1)) for frame in frames({"a": [1.0, None], "b": ["x", "y"]})],
        (OnDevice(), (2000, 0)),
        (5, None),
        ("text", None),
        (iter([None]), None),
    ],
)
def test_features_found_and_missing(value: Any, expected: object) -> None:
    """None, NaN and the frames' own nulls are missing; what cannot be read says nothing."""
    assert readings.features(value) == expected


def test_features_that_the_store_left_out_are_missing(mlobs_telemetry: Telemetry) -> None:
    """Against what was asked for, times the entities that were answered for."""
    lookup = mlobs.feature_lookup(view="v", features=3)
    for value, requested, found in (({"a": 1}, 3, 1), ([{"a": 1}, {"a": 1, "b": 2}], 6, 3), (None, 3, 0)):
        lookup(lambda value=value: value)()
        attributes = mlobs_telemetry.spans[-1].attributes or {}
        assert (attributes["mlobs.feature.requested"], attributes["mlobs.feature.found"]) == (requested, found)
        assert attributes["mlobs.feature.missing"] == requested - found


# -- what must not be touched ----------------------------------------------------------------------------------------


def test_a_device_is_not_waited_for(mlobs_telemetry: Telemetry) -> None:
    """A tensor on a GPU gives its shape and nothing that would synchronise."""
    assert mlobs.prediction(model="m")(lambda x: OnDevice())(OnDevice()) is not None
    attributes = mlobs_telemetry.spans[0].attributes or {}
    assert attributes["mlobs.batch.size"] == 1000
    assert "mlobs.prediction.mean" not in attributes


def test_iterators_are_not_consumed(mlobs_telemetry: Telemetry) -> None:
    """What a function returns lazily reaches the caller whole."""
    result = mlobs.candidate_generation(lambda items: (item for item in items))(iter([1, 2]))
    assert list(result) == [1, 2]
    assert "mlobs.candidate.count" not in (mlobs_telemetry.spans[0].attributes or {})


def test_inputs_and_outputs_are_not_changed(mlobs_telemetry: Telemetry) -> None:
    """Reading leaves arrays as they were, also those that may not be written."""
    values = np.array([[0.75, 0.25], [NAN, 0.75]])
    before = values.copy()
    values.flags.writeable = False
    result = mlobs.prediction(lambda x: x)(values)
    assert result is values
    np.testing.assert_array_equal(values, before)


def test_torch_tensors() -> None:
    """Tensors on the CPU are read, those that need a gradient included, also in half precision."""
    torch = pytest.importorskip("torch")
    for value in (
        torch.tensor(SCORES),
        torch.tensor(SCORES, requires_grad=True),
        torch.tensor(SCORES, dtype=torch.float16),
        torch.tensor(SCORES, dtype=torch.bfloat16),
        torch.tensor([[0.75, 0.25], [0.25, 0.75]]),
        torch.tensor(SCORES).repeat(100),
        torch.tensor(SCORES, dtype=torch.bfloat16).repeat(100),
    ):
        assert readings.predictions(value) == pytest.approx(HALF)
    assert readings.predictions(torch.tensor(0.5)) == Summary(0.5, 0.5, 0.5, 0.0)
    assert readings.predictions(torch.empty(4, device="meta")) is None
    assert readings.rows(torch.zeros(4, 3)) == 4
    assert readings.features(torch.tensor([1.0, NAN])) == (1, 1)
