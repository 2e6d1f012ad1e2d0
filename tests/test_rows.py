"""Rows and batches of every shape: what is counted for them, what is refused, and what spans are told about them."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, Sequence
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from otel_mlobs.core import tally as tally_room
from otel_mlobs.core.binning import Bins
from otel_mlobs.core.profile import Profile
from otel_mlobs.core.rows import vector_columns
from otel_mlobs.core.tally import Tally

INF, NAN = math.inf, math.nan
RNG = np.random.default_rng(4)
ROWS = 400

NUMBERS = Profile.fit({"a": RNG.uniform(-3, 3, ROWS), "b": RNG.uniform(0, 10, ROWS)}, model="numbers")
MIXED = Profile.fit(
    {
        "a": RNG.uniform(-3, 3, ROWS),
        "city": RNG.choice(["Rome", "Oslo", "Bonn"], ROWS, p=[0.5, 0.3, 0.2]),
        "member": RNG.random(ROWS) < 0.4,
    },
    model="mixed",
)
ONE = Profile.fit({"x": RNG.uniform(0, 1, ROWS)}, model="one")


def _profile_of(**outputs: Any) -> Profile:
    return Profile.fit({"x": RNG.uniform(0, 1, ROWS)}, model="outputs", **outputs)


SCORE = _profile_of(outputs=RNG.random(ROWS))
VALUE = _profile_of(outputs=RNG.normal(size=ROWS) * 9)
CLASS = _profile_of(outputs=RNG.choice(["stays", "leaves"], ROWS, p=[0.8, 0.2]))
VECTOR = _profile_of(outputs=RNG.dirichlet([1, 2, 3], ROWS))


class Counted:
    """A tally's counts so far, by feature and cell; once per request, what varies is known after one batch."""

    def __init__(self, profile: Profile, *batches: Any, outputs: Sequence[Any] = (), **options: Any) -> None:
        self.profile = profile
        self.tally = Tally(profile, **options)
        self.table = self.tally.counter.table()
        with patch.object(tally_room, "_VARYING_BATCHES", 1):
            for batch in batches:
                self.tally.add_inputs(batch)
        for output in outputs:
            self.tally.add_outputs(output)
        self.fold()

    def fold(self) -> Counted:
        found = self.tally.fold()
        if found is not None:
            self.table += found
        return self

    def of(self, name: str) -> list[int]:
        names = [column.name for column in self.profile.columns]
        index = names.index(name)
        values = self.profile.columns[index].bins.values
        return [*self.table[index, :values].tolist(), *self.table[index, -2:].tolist()]

    @property
    def totals(self) -> list[int]:
        return self.table.sum(axis=1).tolist()

    @property
    def missing(self) -> list[int]:
        return self.table[:, -2].tolist()

    @property
    def last(self) -> list[int]:
        """Nonfinite or other."""
        return self.table[:, -1].tolist()

    @property
    def refused(self) -> int:
        return self.tally.refused_rows

    @property
    def invalid(self) -> list[int]:
        return self.tally.odd_values.tolist()


def _plain(profile: Profile, rows: Sequence[Sequence[Any]]) -> Any:
    """The table for ``rows``, each with one value per feature, from the bins alone."""
    tally = Tally(profile)
    table = tally.counter.table()
    for index, column in enumerate(profile.features):
        tally.counter.add(table, index, column.bins.count([row[index] for row in rows])[0])
    return table


# -- every shape ------------------------------------------------------------------------------------------------------

Point = namedtuple("Point", ["b", "a"])  # noqa: PYI024 - what users have
AB = [(0.5, 9.0), (-2.0, NAN), (INF, 0.25)]
"""Three rows: values, one missing, one not finite."""


def _sqlite_rows() -> list[sqlite3.Row]:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.execute("create table t (id integer, b real, a real)")
    connection.executemany("insert into t values (1, ?, ?)", [(b, None if math.isnan(a) else a) for a, b in AB])
    rows = connection.execute("select b, a from t").fetchall()
    connection.close()
    return rows


def _mapping(kind: Callable[[dict[str, float]], Any]) -> Callable[[], list[Any]]:
    return lambda: [kind({"b": b, "a": a}) for a, b in AB]


SHAPES: dict[str, Callable[[], list[Any]]] = {
    "dict": _mapping(dict),
    "ordered dict": _mapping(OrderedDict),
    "user dict": _mapping(UserDict),
    "mapping proxy": _mapping(MappingProxyType),
    "tuple": lambda: list(AB),
    "list": lambda: [list(row) for row in AB],
    "named tuple": lambda: [Point(a=a, b=b) for a, b in AB],
    "row of an array": lambda: list(np.array(AB)),
    "float32 row": lambda: list(np.array(AB, np.float32)),
    "object row": lambda: list(np.array(AB, object)),
    "big-endian row": lambda: list(np.array(AB, ">f8")),
    "strided row": lambda: list(np.array(AB).repeat(3, axis=1)[:, ::3]),
    "read-only row": lambda: list(np.broadcast_to(np.array(AB), (3, 2))),
    "masked row": lambda: list(np.ma.array(np.nan_to_num(np.array(AB), nan=7.0, posinf=INF), mask=np.isnan(AB))),
    "scalars of NumPy": lambda: [tuple(map(np.float32, row)) for row in AB],
    "arrays without dimension": lambda: [tuple(map(np.array, row)) for row in AB],
    "decimals": lambda: [tuple(Decimal(str(value)) for value in row) for row in AB],
    "structured row": lambda: list(np.array([(b, a) for a, b in AB], dtype=[("b", "f8"), ("a", "f4")])),
    "row of sqlite": _sqlite_rows,
    "matrix": lambda: [np.array(AB)],
    "float32 matrix": lambda: [np.array(AB, np.float32)],
    "big-endian matrix": lambda: [np.array(AB, ">f8")],
    "Fortran matrix": lambda: [np.asfortranarray(AB)],
    "transposed matrix": lambda: [np.ascontiguousarray(np.array(AB).T).T],
    "reversed matrix": lambda: [np.array(AB)[::-1]],
    "object matrix": lambda: [np.array(AB, object)],
    "masked matrix": lambda: [np.ma.masked_array(np.where(np.isnan(AB), 5.0, AB), np.isnan(AB))],
    "matrix that is a view": lambda: [np.hstack([np.array(AB), np.zeros((3, 2))])[:, :2]],
    "list of tuples": lambda: [list(AB)],
    "tuple of lists": lambda: [tuple(list(row) for row in AB)],
    "list of dicts": lambda: [[{"b": b, "a": a} for a, b in AB]],
    "list of arrays": lambda: [list(np.array(AB))],
    "list of sqlite rows": lambda: [_sqlite_rows()],
    "list of named tuples": lambda: [[Point(a=a, b=b) for a, b in AB]],
    "dict of lists": lambda: [{"b": [b for _, b in AB], "a": [a for a, _ in AB]}],
    "dict of tuples": lambda: [{"b": tuple(b for _, b in AB), "a": tuple(a for a, _ in AB)}],
    "dict of arrays": lambda: [{"b": np.array(AB)[:, 1], "a": np.array(AB)[:, 0]}],
    "dict of float32 arrays": lambda: [{"b": np.array(AB, np.float32)[:, 1], "a": np.array(AB)[::1, 0]}],
    "structured array": lambda: [np.array([(b, a) for a, b in AB], dtype=[("b", "f8"), ("a", "f8")])],
    "records": lambda: list(np.array([(b, a) for a, b in AB], dtype=[("b", "f8"), ("a", "f8")]).view(np.recarray)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_numbers(shape: str) -> None:
    """The same three rows are counted the same in every shape, by name where there are names, and none is refused."""
    made = SHAPES[shape]()
    counted = Counted(NUMBERS, *made)
    assert counted.table.tolist() == _plain(NUMBERS, AB).tolist()
    assert (counted.refused, counted.invalid, dict(counted.tally.rows.unknown)) == (0, [0, 0], {})
    assert (counted.missing, counted.last) == ([0, 1], [1, 0])


MIXED_ROWS: list[tuple[Any, ...]] = [(1.0, "Rome", True), (None, "Oslo", False), (NAN, None, None), (9.0, "Ur", True)]


def _mixed_dicts() -> list[dict[str, Any]]:
    return [dict(zip(("a", "city", "member"), row, strict=True)) for row in MIXED_ROWS]


MIXED_SHAPES: dict[str, Callable[[], list[Any]]] = {
    "dicts": _mixed_dicts,
    "tuples": lambda: list(MIXED_ROWS),
    "lists": lambda: [list(row) for row in MIXED_ROWS],
    "namespaces of arrays": lambda: [np.array(row, object) for row in MIXED_ROWS],
    "object matrix": lambda: [np.array(MIXED_ROWS, object)],
    "list of dicts": lambda: [_mixed_dicts()],
    "list of tuples": lambda: [list(MIXED_ROWS)],
    "dict of lists": lambda: [{name: [row[name] for row in _mixed_dicts()] for name in ("member", "city", "a")}],
    "dict of arrays": lambda: [
        {name: np.array([row[name] for row in _mixed_dicts()], object) for name in ("member", "city", "a")}
    ],
}


@pytest.mark.parametrize("shape", MIXED_SHAPES)
def test_every_shape_with_categories(shape: str) -> None:
    """Numbers, text and Booleans with missing ones among them are counted the same in every shape."""
    counted = Counted(MIXED, *MIXED_SHAPES[shape]())
    assert counted.of("city") == [1, 1, 0, 1, 1]
    assert counted.of("member") == [1, 2, 1, 0]
    assert counted.missing == [2, 1, 1]
    assert counted.totals == [4, 4, 4]
    assert (counted.refused, counted.invalid) == (0, [0, 0, 0])


def test_one_feature() -> None:
    """A profile of one feature takes a row of one, a matrix of one column, and a plain array as many rows."""
    batches = [{"x": 0.5}, (0.5,), [0.5], np.array([0.5]), np.array([[0.5]]), np.array([0.5, 0.5, NAN]), {"x": [0.5]}]
    counted = Counted(ONE, *batches)
    assert counted.totals == [9]
    assert counted.missing == [1]
    assert counted.refused == 0


def test_missing_and_unknown_keys() -> None:
    """A key that a row lacks is missing, one that the profile lacks is counted under its name, in any mapping."""
    rows: list[Any] = [
        {"a": 1.0},
        {"b": 1.0, "z": 5},
        {},
        {"a": None, "b": 2.0},
        {"a": 1.0, "z": 2.0},
        UserDict({"y": 1}),
        [{"a": 1.0, "z": 1.0}, {}],
        {"a": [1.0, 2.0], "z": [1, 2]},
        {"a": 1.0, "b": 1.0, 7: 1.0},
    ]
    counted = Counted(NUMBERS, *rows)
    assert counted.totals == [11, 11]
    assert counted.missing == [11 - 6, 11 - 3]
    assert dict(counted.tally.rows.unknown) == {"z": 4, "y": 1, "7": 1}
    assert (counted.refused, counted.invalid) == (0, [0, 0])


def test_a_mapping_that_makes_up_values_is_left_as_it_is() -> None:
    """A key that a defaultdict or a Counter would invent is missing, and the caller's row is not changed by looking."""
    made: list[Any] = [defaultdict(float, {"a": 1.0}), Counter(a=1)]
    counted = Counted(NUMBERS, *made)
    assert dict(made[0]) == {"a": 1.0}
    assert counted.missing == [0, 2]


def test_unknown_names_are_bounded() -> None:
    """A hundred names of a hundred characters are kept, whatever comes; the rest is counted together."""
    rows = [{"a": 1.0, "b": 1.0, f"{number}-{'x' * 500}": 1} for number in range(1000)]
    counted = Counted(NUMBERS, *rows, *rows[:1])
    unknown = counted.tally.rows.unknown
    assert len(unknown) == 101
    assert sum(unknown.values()) == 1001
    assert max(map(len, unknown)) == 100
    assert unknown["…"] == 900


def test_a_row_is_counted_as_it_was_when_observed() -> None:
    """What the caller does with the array, list or dict afterwards changes no count, folded late as it may be."""
    array, row, matrix = np.array([1.0, 1.0]), {"a": 1.0, "b": 1.0}, np.ones((3, 2))
    tally = Tally(NUMBERS)
    for inputs in (array, row, matrix):
        tally.add_inputs(inputs)
    array[:] = NAN
    row["a"] = NAN
    matrix[:] = NAN
    table = tally.fold()
    assert table is not None
    assert table[:, -2].tolist() == [0, 0]
    assert table.sum(axis=1).tolist() == [5, 5]


def test_reading_changes_no_input() -> None:
    """Arrays, lists and mappings are the same after they were counted as before."""
    matrix = np.array([[3.0, NAN], [1.0, INF]])
    before = matrix.copy()
    rows: list[Any] = [{"a": 1.0, "q": [1]}, [1.0, "x"]]
    Counted(NUMBERS, matrix, *rows, np.asfortranarray(matrix).repeat(20, axis=0))
    np.testing.assert_array_equal(matrix, before)
    assert rows == [{"a": 1.0, "q": [1]}, [1.0, "x"]]


@pytest.mark.parametrize("size", [1, 15, 16, 17, 600])
def test_small_and_large_batches_count_alike(size: int) -> None:
    """On both sides of the size at which batches are no longer queued row by row, the counts are the same."""
    matrix = RNG.normal(size=(size, 2))
    matrix[::3, 0], matrix[::4, 1] = NAN, -INF
    expected = _plain(NUMBERS, matrix.tolist()).tolist()
    columns = {"a": matrix[:, 0].tolist(), "b": matrix[:, 1].tolist()}
    for batch in (matrix, matrix.tolist(), np.array(matrix, object), list(matrix), columns):
        counted = Counted(NUMBERS, batch)
        assert counted.totals == [size, size]
        assert counted.table.tolist() == expected


def test_empty_batches_are_nothing() -> None:
    """Batches without rows of any shape are neither counted nor refused."""
    empty: list[Any] = [
        [],
        (),
        np.empty((0, 2)),
        np.empty(0),
        np.empty((0, 5)),
        {"a": [], "b": []},
        np.empty((0, 2), object),
    ]
    counted = Counted(NUMBERS, *empty)
    assert (counted.totals, counted.refused, counted.invalid) == ([0, 0], 0, [0, 0])


@pytest.mark.parametrize("empty", [[], np.empty((0, 2)), {"a": [], "b": []}], ids=["list", "matrix", "columns"])
def test_empty_batches_are_nothing_per_request_either(empty: Any) -> None:
    """The same where features are counted once per request."""
    counted = Counted(NUMBERS, empty, once_per_request=True)
    assert (counted.totals, counted.refused) == ([0, 0], 0)


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # pandas' own, in convert_dtypes
def test_shapes_of_pandas() -> None:
    """Frames, their rows as Series, tuples and dicts, and nullable columns, are counted like plain rows."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"b": [b for _, b in AB], "a": [a for a, _ in AB]})
    plain = _plain(NUMBERS, AB).tolist()
    rows = [row for _, row in frame.iterrows()]
    shapes = [
        [frame],
        [frame.astype("float32")],
        rows,
        [rows],
        list(frame.itertuples(index=False)),
        [list(frame.itertuples(index=False))],
        frame.to_dict("records"),
        [frame.to_dict("list")],
        [frame.iloc[::-1]],
        [frame.set_index(pandas.Index([7, 8, 9]))],
        [frame.convert_dtypes(dtype_backend="numpy_nullable")],
        [frame.to_records(index=False)[index : index + 1] for index in range(3)],
    ]
    for made in shapes:
        counted = Counted(NUMBERS, *made)
        assert counted.table.tolist() == plain
        assert (counted.refused, dict(counted.tally.rows.unknown)) == (0, {})
    indexed = Counted(NUMBERS, *frame.itertuples())
    assert indexed.table.tolist() == plain
    assert dict(indexed.tally.rows.unknown) == {"Index": 3}


def test_missing_values_of_pandas() -> None:
    """NA in nullable integers, Booleans, strings and categories is missing, in frames and in rows alone."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": pandas.array([1, None, 2], "Int64"),
            "city": pandas.Categorical(["Rome", None, "Ur"]),
            "member": pandas.array([True, None, False], "boolean"),
        }
    )
    expected = _plain(MIXED, [(1, "Rome", True), (None, None, None), (2, "Ur", False)]).tolist()
    for made in ([frame], frame.to_dict("records"), [row for _, row in frame.astype(object).iterrows()]):
        counted = Counted(MIXED, *made)
        assert counted.table.tolist() == expected
        assert counted.invalid == [0, 0, 0]


def test_a_dict_of_pandas_columns() -> None:
    """Series with an index of their own are columns, per row and per request."""
    pandas = pytest.importorskip("pandas")
    columns = {"a": pandas.Series([1.0, 2.0], index=[5, 6]), "b": pandas.Series([4.0, 4.0], index=[5, 6])}
    assert Counted(NUMBERS, columns).totals == [2, 2]
    assert Counted(NUMBERS, columns, once_per_request=True).totals == [2, 1]


def test_na_before_none_in_a_row() -> None:
    """A row with NA and None, whose comparison is neither true nor false, is a row with two missing values."""
    pandas = pytest.importorskip("pandas")
    assert Counted(NUMBERS, {"a": pandas.NA, "b": None}, {"a": None, "b": pandas.NA}).missing == [2, 2]


def test_frames_with_other_columns() -> None:
    """A frame's extra columns are unknown, those it lacks missing; one that shares no name is refused whole."""
    pandas = pytest.importorskip("pandas")
    counted = Counted(NUMBERS, pandas.DataFrame({"a": [1.0, 2.0], "z": [1, 2]}))
    assert (counted.totals, counted.missing, dict(counted.tally.rows.unknown)) == ([2, 2], [0, 2], {"z": 2})
    foreign = Counted(NUMBERS, pandas.DataFrame({"x0": [1.0, 2.0], "x1": [1, 2]}))
    assert (foreign.totals, foreign.refused) == ([0, 0], 1)
    assert "x0, x1" in foreign.tally.refusals[0]
    assert Counted(NUMBERS, pandas.DataFrame({"a": [], "b": []})).totals == [0, 0]


def test_shapes_of_polars() -> None:
    """Frames, rows as tuples and dicts, and nulls, are counted like plain rows."""
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [a for a, _ in AB], "b": [b for _, b in AB]})
    plain = _plain(NUMBERS, AB).tolist()
    for made in ([frame], frame.rows(), [frame.rows()], frame.rows(named=True), [frame.select("b", "a")]):
        assert Counted(NUMBERS, *made).table.tolist() == plain
    frame = polars.DataFrame({"a": [1, None], "city": ["Rome", None], "member": [None, True]})
    expected = _plain(MIXED, [(1, "Rome", None), (None, None, True)]).tolist()
    for made in ([frame], frame.rows(), [frame.with_columns(city=frame["city"].cast(polars.Categorical))]):
        assert Counted(MIXED, *made).table.tolist() == expected


def test_shapes_of_arrow() -> None:
    """Tables and record batches, with nulls in numbers, Booleans and text, are counted like plain rows."""
    arrow = pytest.importorskip("pyarrow")
    columns = {"a": [1.0, None, 2.0], "city": ["Rome", None, "Ur"], "member": [None, True, False]}
    expected = _plain(MIXED, list(zip(*columns.values(), strict=True))).tolist()
    table = arrow.table(columns)
    assert Counted(MIXED, table).table.tolist() == expected
    assert Counted(MIXED, *table.to_pylist()).table.tolist() == expected
    assert Counted(MIXED, arrow.concat_tables([table.slice(0, 1), table.slice(1)])).table.tolist() == expected
    assert Counted(MIXED, arrow.RecordBatch.from_pydict(columns)).table.tolist() == expected
    assert Counted(MIXED, *table.to_batches(max_chunksize=2)).table.tolist() == expected


def test_tensors_in_the_hosts_memory() -> None:
    """A tensor on the CPU is an array, also one that requires a gradient."""
    torch = pytest.importorskip("torch")
    assert Counted(NUMBERS, torch.tensor(AB), torch.tensor(AB, requires_grad=True)).totals == [6, 6]
    assert Counted(NUMBERS, torch.tensor(AB[0])).totals == [1, 1]


def test_a_tensor_elsewhere_is_refused_unread() -> None:
    """A tensor on a device is refused, with what to do, before anything would wait for the device."""

    class OnDevice:
        device = SimpleNamespace(type="cuda")
        shape = (2, 2)

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("read")

    counted = Counted(SCORE, OnDevice(), outputs=[OnDevice()])
    assert (counted.totals, counted.refused) == ([0, 0], 2)
    assert "host's memory" in counted.tally.refusals[0]


# -- what is wrong ----------------------------------------------------------------------------------------------------


class _Unreadable:
    """Has columns and cannot say how many rows."""

    columns = ("a", "b")

    def __len__(self) -> int:
        raise RuntimeError("no")


class _Closed(dict[str, float]):
    def keys(self) -> Any:
        raise RuntimeError("closed")

    def __getitem__(self, key: str) -> float:
        raise RuntimeError("closed")


WRONG: dict[str, Any] = {
    "too short": (1.0,),
    "too long": [1.0, 2.0, 3.0],
    "array too long": np.zeros(3),
    "matrix too wide": np.zeros((4, 3)),
    "matrix too narrow": np.zeros((4, 1)),
    "three dimensions": np.zeros((2, 2, 2)),
    "no dimension": np.array(5.0),
    "text": "ab",
    "bytes": b"ab",
    "number": 5,
    "set": {1.0, 2.0},
    "object": object(),
    "class": dict,
    "columns of different length": {"a": [1.0, 2.0], "b": [1.0]},
    "frame without length": _Unreadable(),
    "closed mapping": _Closed(a=1.0, b=2.0),
    "array that cannot be read": type("A", (), {"__array__": lambda *_: 1 / 0, "shape": (2,)})(),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused(name: str) -> None:
    """What does not have the profile's shape raises nothing, is counted as refused, and leaves one reason."""
    for once_per_request in (False, True):
        counted = Counted(NUMBERS, WRONG[name], once_per_request=once_per_request)
        assert (counted.totals, counted.refused, counted.invalid) == ([0, 0], 1, [0, 0])
        assert len(counted.tally.refusals) == 1
        assert counted.tally.inspect(WRONG[name]) == (0, 0, 0)


def test_generators_are_refused_and_not_consumed() -> None:
    """An iterator is the caller's to consume: nothing is taken from it."""
    rows = iter([(1.0, 2.0), (3.0, 4.0)])
    counted = Counted(NUMBERS, rows, (value for value in (1.0, 2.0)))
    assert (counted.totals, counted.refused) == ([0, 0], 2)
    assert next(rows) == (1.0, 2.0)


def test_a_lazy_frame_is_refused() -> None:
    """A polars LazyFrame is a plan and not rows: it is refused, and its schema is not resolved with a warning."""
    polars = pytest.importorskip("polars")
    counted = Counted(NUMBERS, polars.LazyFrame({"a": [1.0], "b": [2.0]}))
    assert (counted.totals, counted.refused) == ([0, 0], 1)


def test_bad_rows_of_a_batch_are_refused_alone() -> None:
    """In a list of rows those of the wrong length or kind are refused one by one, the others counted."""
    batch: list[Any] = [(1.0, 2.0), (1.0,), [1.0, None], [], "xy", [[1.0, 2.0]], {"a": 1.0}, (1.0, 2.0, 3.0)]
    counted = Counted(NUMBERS, batch)
    assert counted.totals == [3, 3]
    assert counted.missing == [0, 2]
    assert counted.refused == 5


VALUES_OF_A_WRONG_TYPE: list[Any] = [
    "1.5",
    b"1",
    [1, 2],
    {"x": 1},
    {1},
    object(),
    1j,
    (1.0, 2.0),
    np.zeros(3),
    lambda: 1,
]


@pytest.mark.parametrize("value", VALUES_OF_A_WRONG_TYPE, ids=lambda value: type(value).__name__)
def test_values_of_a_wrong_type_are_invalid(value: Any) -> None:
    """Text, nested and other values among numbers leave the row counted, themselves as invalid and nonfinite."""
    rows: list[Any] = [{"a": 1.0, "b": value}, (1.0, value), [1.0, value], [{"a": 1.0, "b": value}]]
    counted = Counted(NUMBERS, *rows)
    assert (counted.totals, counted.last, counted.invalid, counted.refused) == ([4, 4], [0, 4], [0, 4], 0)
    first = Counted(NUMBERS, {"a": value, "b": 1.0})
    assert (first.totals, first.last, first.invalid, first.refused) == ([1, 1], [1, 0], [1, 0], 0)


def test_values_with_a_mind_of_their_own_are_invalid() -> None:
    """Objects whose comparison, hash and conversion raise cost neither the row nor the batch they are in."""

    class Hostile:
        def _no(self, *_: Any) -> Any:
            raise RuntimeError("no")

        __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __hash__ = __bool__ = __len__ = _no  # type: ignore[assignment]

    for profile, good in ((NUMBERS, (1.0,)), (MIXED, ("Rome", True))):
        rows: list[Any] = [(Hostile(), *good), dict(zip(profile.names, (Hostile(), *good), strict=True))]
        rows.append([rows[0], rows[1]])
        rows.append(dict(zip(profile.names, [[Hostile(), 1.0], *([value] * 2 for value in good)], strict=True)))
        for once_per_request in (False, True):
            counted = Counted(profile, *rows, once_per_request=once_per_request)
            assert counted.totals[0] == 6
            assert counted.invalid[0] == 5
            assert counted.tally.inspect(rows[0]) == (0, 0, 1)
    assert Counted(MIXED, (1.0, Hostile(), True)).invalid == [0, 1, 0]


@pytest.mark.parametrize(
    "inputs",
    [
        np.array(["2020", "2021"], "M8[ns]"),
        np.array([["2020", "2021"]], "M8[ns]"),
        np.array([["2020", "2021"]], "M8[D]"),
        np.array([1, 2], "m8[ns]"),
        {"a": np.datetime64("2020", "ns"), "b": np.datetime64("2020", "D")},
        {"a": np.timedelta64(1, "ns"), "b": np.timedelta64(1, "D")},
        {"a": [np.datetime64("2020", "ns")], "b": [np.datetime64("2020", "D")]},
    ],
    ids=["row", "matrix", "matrix of days", "durations", "dict", "dict of durations", "columns"],
)
def test_dates_are_invalid_in_every_shape(inputs: Any) -> None:
    """A date is no number, and is not taken for the count of nanoseconds that it is stored as."""
    counted = Counted(NUMBERS, inputs)
    assert (counted.totals, counted.last, counted.invalid) == ([1, 1], [1, 1], [1, 1])


def test_complex_numbers_are_invalid_in_every_shape() -> None:
    """A complex number is not cut down to its real part, and no warning of NumPy's reaches the user's log."""
    counted = Counted(NUMBERS, {"a": np.complex128(1 + 2j), "b": 1.0}, (1j, 1.0), np.array([1j, 1.0]))
    assert (counted.totals, counted.invalid) == ([3, 3], [3, 1])


def test_a_masked_value_in_a_dict_is_missing_without_a_warning() -> None:
    """What an element of a masked array gives is missing; warnings are errors here."""
    assert Counted(NUMBERS, {"a": np.ma.masked, "b": 1.0}, (np.ma.masked, 1.0)).missing == [2, 0]


def test_text_in_a_structured_row() -> None:
    """One row of a structured array with text in it is read like the whole array."""
    rows = np.array([(1.0, "Rome", True), (2.0, "Ur", False)], dtype=[("a", "f8"), ("city", "U4"), ("member", "?")])
    assert Counted(MIXED, *rows).of("city") == [1, 0, 0, 0, 1]
    assert Counted(MIXED, rows).of("city") == [1, 0, 0, 0, 1]


# -- properties -------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e308, -1e308, 5e-324, -0.0, "Rome", "Ur", "", "1.5", True, False, 10**400, np.float32(1.5)]),
    st.integers(),
    st.text(max_size=3),
    st.decimals(allow_nan=False),
    st.binary(max_size=2),
)
VALUES = st.one_of(SCALARS, st.just([1, [2]]), st.just({"deep": {}}))


def _has_scalar(row: Sequence[Any]) -> bool:
    return any(value is not None and not isinstance(value, list) for value in row)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return INF


def _reference(profile: Profile, row: Sequence[Any]) -> tuple[int, int, int]:
    """What is odd about one row's values, said plainly: missing, outside the reference's range, unseen."""
    missing = outside = unseen = 0
    for value, column in zip(row, profile.features, strict=True):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            missing += 1
        elif column.bins.kind != "numeric":
            unseen += not any(
                not isinstance(value, (list, dict)) and value == known for known in column.bins.categories
            )
        elif isinstance(value, (str, bytes, list, dict)) or math.isinf(_float(value)):
            unseen += 1
        else:
            assert column.minimum is not None
            assert column.maximum is not None
            outside += not column.minimum <= value <= column.maximum
    return missing, outside, unseen


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SCALARS, VALUES, VALUES), max_size=8), st.sampled_from([dict, tuple, list, "list", "dicts"]))
def test_arbitrary_rows_are_counted_and_described_like_a_plain_reference(rows: list[Any], shape: Any) -> None:
    """Whatever rows hold, all of them are counted once per feature, as the bins count them, and inspect() is exact."""
    # A mapping with nothing but a list and Nones is a batch of columns.
    assume(not any(any(isinstance(v, list) for v in row) and not _has_scalar(row) for row in rows))
    if shape is dict or shape == "dicts":
        made: list[Any] = [dict(zip(MIXED.names, row, strict=True)) for row in rows]
    else:
        made = [list(row) if shape is list or isinstance(row[0], (list, dict)) else row for row in rows]
    made = [made] if shape in ("list", "dicts") else made
    counted = Counted(MIXED, *made)
    assert counted.table.tolist() == _plain(MIXED, rows).tolist()
    assert counted.totals == [len(rows)] * 3
    assert counted.refused == 0
    odd = sum((np.array(_reference(MIXED, row)) for row in rows), np.zeros(3, int)).tolist()
    found = np.sum([counted.tally.inspect(inputs) for inputs in made] or [(0, 0, 0)], axis=0).tolist()
    assert found == odd


@st.composite
def _batches(draw: Any) -> tuple[Any, int, int]:
    """A call's inputs for NUMBERS, and how many rows of it are to be accepted and refused."""
    kind = draw(st.integers(0, 8))
    rows = draw(st.integers(0, 20))
    width = draw(st.sampled_from([2, 2, 2, 1, 3]))
    good = width == 2
    if kind == 0:
        keys = draw(st.lists(st.sampled_from(["a", "b", "c", "ü", ""]), unique=True))
        return {key: draw(SCALARS) for key in keys}, 1, 0
    if kind == 1:
        return tuple(draw(SCALARS) for _ in range(width)), int(good), int(not good)
    if kind in (2, 3):
        matrix = np.array(draw(st.lists(st.floats(), min_size=rows * width, max_size=rows * width)))
        matrix = matrix.reshape(rows, width)
        matrix = [matrix, matrix[::-1], np.asfortranarray(matrix), matrix.repeat(2, axis=0)[::2]][
            draw(st.integers(0, 3))
        ]
        if kind == 3:
            matrix = np.ma.array(matrix, mask=draw(st.booleans()))
        return matrix, rows * good, int(not good and rows > 0)
    if kind == 4:
        made = [tuple(draw(SCALARS) for _ in range(draw(st.sampled_from([2, 2, 3, 1])))) for _ in range(rows)]
        return made, sum(len(row) == 2 for row in made), sum(len(row) != 2 for row in made)
    if kind == 5:
        columns = {
            name: [draw(SCALARS) for _ in range(rows)] for name in draw(st.sampled_from(["ab", "ba", "az", "b"]))
        }
        return columns, rows, 0
    if kind == 6:
        return np.array([draw(SCALARS) for _ in range(width)] + [None], object)[:-1], int(good), int(not good)
    if kind == 7:
        return draw(st.sampled_from(["text", 5, object(), {1}])), 0, 1
    return [{"a": draw(SCALARS)} for _ in range(rows)], rows, 0


@settings(max_examples=100, deadline=None)
@given(st.lists(_batches(), max_size=12), st.integers(0, 12))
def test_after_any_sequence_every_feature_has_the_accepted_rows(calls: list[Any], folded: int) -> None:
    """Whatever comes in whatever order, and wherever a fold falls, each feature's total is the rows accepted."""
    counted = Counted(NUMBERS)
    for number, (inputs, _, _) in enumerate(calls):
        counted.tally.add_inputs(inputs)
        if number == folded:
            counted.fold()
    counted.fold()
    accepted, refused = sum(call[1] for call in calls), sum(call[2] for call in calls)
    assert counted.totals == [accepted, accepted]
    assert counted.refused == refused
    assert all(odd <= last for odd, last in zip(counted.invalid, counted.last, strict=True))


@settings(deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=2).filter(_has_scalar))
def test_rows_with_something_nested_anywhere(row: list[Any]) -> None:
    """A mapping with a list or a dict among its values is one row, wherever in it that stands."""
    counted = Counted(NUMBERS, {"a": row[0], "b": row[1]})
    assert (counted.totals, counted.refused) == ([1, 1], 0)


def test_inspect_of_batches_is_exact() -> None:
    """Matrices, masked ones, frames by column and object arrays say what their rows say one by one."""
    matrix = RNG.normal(size=(500, 2)) * 4
    matrix[::7, 0], matrix[::9, 1], matrix[::11, 1] = NAN, INF, -1e308
    expected = np.sum([_reference(NUMBERS, row) for row in matrix.tolist()], axis=0).tolist()
    tally = Tally(NUMBERS)
    columns = {"a": matrix[:, 0].tolist(), "b": matrix[:, 1].tolist()}
    masked = np.ma.array(np.nan_to_num(matrix, nan=1e9, posinf=INF, neginf=-INF), mask=np.isnan(matrix))
    for batch in (
        matrix,
        np.asfortranarray(matrix),
        matrix.tolist(),
        matrix.astype(object),
        columns,
        masked,
        list(matrix),
    ):
        assert list(tally.inspect(batch)) == expected
    assert tally.inspect({"a": [0.0, 0.0]}) == (2, 0, 0), "a column that the batch lacks is missing in each row"
    assert tally.inspect(np.array([[0, 10**6], [0, 1]])) == (0, 1, 0)
    assert tally.inspect(np.zeros((500_001, 2))) == (0, 0, 0), "beyond a million values nothing is looked at"


def test_inspect_notices_the_limits_of_the_reference() -> None:
    """The reference's extremes are inside, the next floats outside; decimals and infinities are told apart."""
    low, high = NUMBERS.features[0].minimum, NUMBERS.features[0].maximum
    assert low is not None
    assert high is not None
    tally = Tally(NUMBERS)
    assert tally.inspect((low, 5.0)) == tally.inspect((high, 5.0)) == (0, 0, 0)
    assert tally.inspect((np.nextafter(low, -9), 5.0)) == tally.inspect((np.nextafter(high, 9), 5.0)) == (0, 1, 0)
    assert tally.inspect((Decimal(9), -INF)) == (0, 1, 1)
    assert tally.inspect((Decimal("NaN"), 5.0)) == (1, 0, 0)


def test_inspect_of_a_refused_row_says_nothing() -> None:
    """A row that is not counted is not described either."""
    assert Tally(NUMBERS).inspect((NAN,)) == (0, 0, 0)
    assert Tally(NUMBERS).inspect([(NAN, NAN, NAN), (NAN, 5.0)]) == (1, 0, 0)


def test_a_hundred_thousand_distinct_values() -> None:
    """Every row another category: all other, counted exactly, and nothing of them is kept."""
    counted = Counted(MIXED)
    names = [f"city {number}" for number in range(100_000)]
    counted.tally.add_inputs({"city": names[:50_000]})
    for name in names[50_000:]:
        counted.tally.add_inputs((0.0, name, True))
    counted.fold()
    assert counted.of("city") == [0, 0, 0, 0, 100_000]
    assert counted.missing == [50_000, 0, 50_000]
    assert counted.invalid == [0, 0, 0]
    assert len(counted.tally.rows.unknown) == 0


def test_a_profile_of_the_text_that_categories_are() -> None:
    """An id that is a number in text and one that is a number are different categories."""
    bins = Bins("categorical", categories=("1", 1))
    assert bins.count(["1", 1, 1.0, "1"])[0].tolist() == [2, 2, 0, 0]


# -- once per request -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, NAN, INF]), min_size=1, max_size=30),
    st.lists(st.sampled_from([2.0, NAN]), min_size=30, max_size=30),
    st.sampled_from(["matrix", "float32", "rows", "dicts", "columns"]),
)
def test_constant_features_count_once_per_request(first: list[float], second: list[float], shape: str) -> None:
    """A feature that all rows of a batch share is counted once, NaN too; one that varies is counted in every row."""
    rows = list(zip(first, second[: len(first)], strict=True))
    batch: Any = {
        "matrix": np.array(rows),
        "float32": np.array(rows, np.float32),
        "rows": rows,
        "dicts": [{"a": a, "b": b} for a, b in rows],
        "columns": {"a": [a for a, _ in rows], "b": [b for _, b in rows]},
    }[shape]
    counted = Counted(NUMBERS, batch, once_per_request=True)
    expected = [1 if len(set(map(repr, column))) == 1 else len(rows) for column in zip(*rows, strict=True)]
    assert counted.totals == expected
    single = Counted(NUMBERS, *rows, once_per_request=True)
    assert single.totals == [len(rows)] * 2, "rows that come alone are requests of their own"


def test_categories_count_once_per_request() -> None:
    """The user's city is counted once for 50 candidates, the candidates' own feature 50 times."""
    batch = [{"a": float(number), "city": "Rome", "member": None} for number in range(50)]
    counted = Counted(MIXED, batch, once_per_request=True)
    assert counted.totals == [50, 1, 1]
    assert counted.of("city") == [1, 0, 0, 0, 0]
    assert counted.of("member") == [0, 0, 1, 0]


def test_a_column_that_a_request_lacks_counts_once() -> None:
    """A feature missing from all rows is constant: missing once, whether rows or columns came."""
    assert Counted(NUMBERS, [{"a": 1.0}, {"a": 2.0}], once_per_request=True).totals == [2, 1]
    assert Counted(NUMBERS, {"a": [1.0, 2.0]}, once_per_request=True).totals == [2, 1]


# -- outputs ----------------------------------------------------------------------------------------------------------


def _outputs(profile: Profile, *outputs: Any) -> Counted:
    return Counted(profile, outputs=outputs)


@pytest.mark.parametrize("size", [2, 5, 40])
def test_scores_of_every_shape(size: int) -> None:
    """Scores as scalars, lists, arrays, one column and the second of two columns are counted alike."""
    scores = RNG.random(size)
    expected = SCORE.columns[1].bins.count(scores)[0].tolist()
    pairs = np.column_stack([1 - scores, scores])
    shapes: list[list[Any]] = [
        list(scores),
        [float(score) for score in scores],
        [np.array(score) for score in scores],
        [scores],
        [scores.tolist()],
        [tuple(scores)],
        [scores[:, None]],
        [pairs],
        [pairs.tolist()],
        [np.asfortranarray(pairs)],
        [scores.astype(">f8")],
        [np.array(scores, object)],
        [np.ma.array(scores)],
        [pairs[index : index + 1] for index in range(size)],
    ]
    for made in shapes:
        counted = _outputs(SCORE, *made)
        assert counted.of("score") == expected
        assert (counted.refused, counted.invalid) == (0, [0, 0])


def test_scores_of_frames() -> None:
    """A Series, a frame of two columns, a polars Series and an Arrow array are scores as arrays are."""
    scores = RNG.random(30)
    expected = SCORE.columns[1].bins.count(scores)[0].tolist()
    pandas, polars, arrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))
    made = [
        pandas.Series(scores),
        pandas.DataFrame({"no": 1 - scores, "yes": scores}),
        polars.Series(scores),
        arrow.array(scores),
    ]
    for outputs in made:
        assert _outputs(SCORE, outputs).of("score") == expected


def test_values_of_a_regression() -> None:
    """Any real number is a value, integers too; of two columns it is not known which is meant: refused."""
    counted = _outputs(VALUE, 3, -1e300, np.int16(4), [1, 2], np.zeros((3, 1)), NAN, None, INF)
    assert sum(counted.of("value")) == 10
    assert counted.of("value")[-2:] == [1, 1]
    refused = _outputs(VALUE, np.zeros((3, 2)))
    assert (refused.totals[1], refused.refused) == (0, 1)


def test_classes_of_every_shape() -> None:
    """Classes as text, lists, arrays of text and of objects are counted by name; unseen ones are other."""
    made: list[Any] = ["stays", ["stays", "leaves"], np.array(["leaves"]), np.array(["stays", None, "new"], object)]
    counted = _outputs(CLASS, *made, ("stays",), np.array([["stays"], ["stays"]]), np.str_("leaves"))
    assert counted.of("class") == [6, 3, 1, 1]
    assert (counted.refused, counted.invalid) == (0, [0, 0])
    assert _outputs(CLASS, [{"class": "stays"}]).invalid == [0, 1]
    whole = _outputs(_profile_of(outputs=RNG.integers(0, 3, ROWS)), 0, 1, np.int8(2), np.array([0, 1, 9]), [True])
    assert sum(whole.of("class")[:3]) == 6
    assert whole.of("class")[-1] == 1


def test_probabilities_are_no_classes() -> None:
    """A matrix of probabilities where the profile has classes is refused, not counted as so many predictions."""
    counted = _outputs(CLASS, np.full((4, 2), 0.5))
    assert (counted.totals[1], counted.refused) == (0, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda row: sum(row) > 1e-3), min_size=1, max_size=40
    )
)
def test_vectors_have_scipys_entropy(rows: list[list[float]]) -> None:
    """Class, confidence and entropy are the argmax, the maximum, and SciPy's entropy over ln k, to 1e-12."""
    stats = pytest.importorskip("scipy.stats")
    vectors = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    chosen, confidence, entropy = vector_columns(vectors).T
    assert chosen.tolist() == vectors.argmax(axis=1).tolist()
    assert confidence.tolist() == vectors.max(axis=1).tolist()
    np.testing.assert_allclose(entropy, stats.entropy(vectors, axis=1) / math.log(3), atol=1e-12)


def test_vectors_of_every_shape() -> None:
    """Probability vectors alone, in lists and in matrices are counted alike, per class, confidence and entropy."""
    vectors = RNG.dirichlet([1, 2, 3], 30)
    entropies = -(vectors * np.log(vectors)).sum(axis=1) / math.log(3)
    shapes: list[list[Any]] = [
        [vectors],
        list(vectors),
        vectors.tolist(),
        [vectors.tolist()],
        [np.asfortranarray(vectors)],
    ]
    for made in shapes:
        counted = _outputs(VECTOR, *made)
        names = np.array(VECTOR.outputs.classes if VECTOR.outputs else ())
        assert counted.of("class") == VECTOR.columns[1].bins.count(names[vectors.argmax(axis=1)].tolist())[0].tolist()
        assert counted.of("confidence") == VECTOR.columns[2].bins.count(vectors.max(axis=1))[0].tolist()
        assert counted.of("entropy") == VECTOR.columns[3].bins.count(entropies)[0].tolist()


def test_broken_vectors() -> None:
    """A vector with a missing number is missing in all three outputs; one of another length is refused."""
    counted = _outputs(VECTOR, [0.2, NAN, 0.8], [[0.2, None, 0.8]], np.ma.array([[0.1, 0.2, 0.7]], mask=[[1, 0, 0]]))
    assert counted.missing[1:] == [3, 3, 3]
    refused = _outputs(VECTOR, [0.5, 0.5], 0.7, np.zeros((2, 4)), "text", np.zeros((1, 1, 3)))
    assert (refused.totals[1:], refused.refused) == ([0, 0, 0], 5)
    text = _outputs(VECTOR, [["a", 0.5, 0.5]])
    assert text.totals[1:] == [0, 0, 0]


@pytest.mark.parametrize("classes", [3, 5, 10, 12])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_identical_vectors_fall_into_identical_cells(classes: int, dtype: Any) -> None:
    """Uniform, certain and random vectors are counted live as they were at fit, to the last bit of their entropy."""
    uniform, certain = np.full((100, classes), 1 / classes), np.eye(classes)[np.arange(100) % classes]
    for vectors in (uniform, certain, RNG.dirichlet(np.ones(classes), 100)):
        profile = Profile.fit({"x": np.zeros(100)}, outputs=vectors, output_kind="multiclass", model="m")
        counted = _outputs(profile, vectors.astype(dtype))
        for column in profile.columns[1:]:
            # Entropies of random float32 vectors differ in the eighth digit: one may lie on either side of an edge.
            if dtype is np.float64 or vectors is uniform or vectors is certain or column.name != "entropy":
                assert counted.of(column.name) == list(column.counts), (column.name, column.bins)


def test_no_outputs() -> None:
    """None is no prediction, empty lists and arrays none either, and a profile without outputs ignores them."""
    for profile in (SCORE, CLASS, VALUE, VECTOR):
        counted = _outputs(profile, None, np.empty(0) if profile is not VECTOR else np.empty((0, 3)))
        assert (sum(counted.totals), counted.refused) == (0, 0)
        assert _outputs(profile, []).refused == 0
    counted = _outputs(ONE, 0.5, [0.5], "x")
    assert (sum(counted.totals), counted.refused) == (0, 0)


@pytest.mark.parametrize(
    "outputs",
    [
        b"x",
        ["a", "b"],
        np.array(["a"]),
        np.zeros((3, 4)),
        np.zeros((2, 2, 2)),
        1j,
        np.array([1j]),
        [np.zeros((2, 2)), np.zeros((2, 3))],
        type("A", (), {"__array__": lambda *_, **__: 1 / 0})(),
    ],
    ids=range(9),
)
def test_outputs_of_no_shape_are_refused(outputs: Any) -> None:
    """What cannot be scores raises nothing and is counted as refused."""
    counted = _outputs(SCORE, outputs)
    assert (counted.totals[1], counted.refused) == (0, 1)


def test_single_outputs_of_a_wrong_type_are_invalid() -> None:
    """Text, a dict and an object instead of a score are predictions that are invalid, beside those that are not."""
    counted = _outputs(SCORE, "0.5", {"score": 0.5}, object(), [0.5, "x", None, INF])
    assert counted.of("score")[-2:] == [1, 5]
    assert counted.totals[1] == 7
    assert counted.invalid == [0, 4]
