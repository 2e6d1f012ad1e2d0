"""The cells: where every value falls, whatever it is stored in, and where edges come from."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otel_mlobs.core.binning import Bins, MatrixCounter, as_number, count_floats, is_missing, numeric_edges

INF, NAN = math.inf, math.nan
FLOATS = st.floats(width=64, allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
EDGES = st.lists(FINITE.map(lambda x: x + 0.0), min_size=0, max_size=12, unique=True).map(sorted).map(tuple)
NUMERIC = Bins("numeric", edges=(-1.0, 0.0, 2.5))


def _expected(values: Any, edges: tuple[float, ...]) -> list[int]:
    """The counts by the definition: NumPy's search for the leftmost place, and the two special cells apart."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    cells = np.bincount(np.searchsorted(np.array(edges), finite, side="left"), minlength=len(edges) + 1)
    return [*cells.tolist(), int(np.isnan(values).sum()), int(np.isinf(values).sum())]


def _counts(bins: Bins, values: Any) -> list[int]:
    counts, invalid = bins.count(values)
    assert counts.dtype == np.int64
    assert invalid == 0
    return counts.tolist()


def test_cells_are_closed_on_the_right() -> None:
    """A value on an edge belongs to the cell below it, and the least float above it to the next."""
    values = [-1.0, np.nextafter(-1.0, 0), 0.0, np.nextafter(0.0, 1), 2.5, np.nextafter(2.5, 3), -1e308, 1e308]
    assert _counts(NUMERIC, values) == [2, 2, 2, 2, 0, 0]
    assert _counts(NUMERIC, np.array(values)) == [2, 2, 2, 2, 0, 0]


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(0, 60), elements=FLOATS), EDGES)
def test_counts_equal_a_search_for_the_leftmost_place(values: np.ndarray[Any, Any], edges: tuple[float, ...]) -> None:
    """Arrays, lists and matrices all give NumPy's searchsorted with side "left", and the two special cells."""
    if edges:
        beside = [math.nextafter(edge, towards) for edge in edges for towards in (INF, -INF)]
        values = np.concatenate([values, edges, beside])
    bins = Bins("numeric", edges=edges)
    expected = _expected(values, edges)
    assert _counts(bins, values) == expected
    assert _counts(bins, values.tolist()) == expected
    assert count_floats(values, edges).tolist() == expected
    counter = MatrixCounter([bins])
    table = counter.table()
    counter.count(values[:, None], table)
    assert table[0].tolist() == expected


@pytest.mark.parametrize("rows", [0, 1, 511, 512, 513, 32_767, 32_768, 32_769, 70_001])
def test_blocks_neither_lose_nor_repeat_rows(rows: int) -> None:
    """At every length around the blocks in which values are compared, arrays and matrices are counted exactly."""
    values = np.random.default_rng(rows).normal(size=(rows, 7))
    values[::5, 3], values[::7, 4], values[::11, 4] = NAN, INF, -INF
    columns = [Bins("numeric", edges=tuple(np.linspace(-1, 1, 2 + index).tolist())) for index in range(7)]
    counter = MatrixCounter(columns)
    table = counter.table()
    counter.count(values, table)
    for index, bins in enumerate(columns):
        expected = _expected(values[:, index], bins.edges)
        assert _counts(bins, values[:, index]) == expected
        assert table[index].tolist() == [*expected[:-2], *[0] * (counter.width - len(expected)), *expected[-2:]]


def test_a_sum_that_overflows_is_not_taken_for_an_infinity() -> None:
    """Values near the largest float are finite, though their sum is not; opposite infinities are two nonfinite."""
    bins = Bins("numeric", edges=(0.0,))
    assert _counts(bins, np.array([1e308] * 30 + [-1e308] * 20)) == [20, 30, 0, 0]
    assert _counts(bins, np.array([INF, -INF, 1.0])) == [0, 1, 0, 2]
    assert _counts(bins, np.array([INF, -INF, NAN, NAN])) == [0, 0, 2, 2]
    assert _counts(bins, np.array([NAN, -1.0])) == [1, 0, 1, 0]


DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", ">i2", ">i8", ">f4", ">f8", "<u4"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_real_dtype_and_byte_order(dtype: str) -> None:
    """Booleans, integers and floats of every size and byte order are counted as their values, also in a matrix."""
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    bins = Bins("numeric", edges=(0.0, 0.5))
    assert _counts(bins, values) == [2, 0, 3, 0, 0]
    counter = MatrixCounter([bins, bins])
    table = counter.table()
    counter.count(np.stack([values, values], axis=1), table)
    assert table.tolist() == [[2, 0, 3, 0, 0]] * 2


@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a[::-1],
        lambda a: np.repeat(a, 2, axis=0)[::2],
        np.asfortranarray,
        lambda a: np.ascontiguousarray(a.T).T,
        lambda a: np.concatenate([a, a], axis=1)[:, :4],
        lambda a: a.astype(">f8"),
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
def test_strides_and_orders_of_a_matrix(layout: Any) -> None:
    """Reversed, strided, Fortran-ordered, broadcast and byte-swapped matrices are counted like a plain copy."""
    matrix = layout(np.random.default_rng(1).normal(size=(700, 4)))
    counter = MatrixCounter([NUMERIC] * 4)
    table = counter.table()
    counter.count(matrix, table)
    assert table.tolist() == [_expected(matrix[:, index], NUMERIC.edges) for index in range(4)]
    assert _counts(NUMERIC, matrix[:, 2]) == table[2].tolist()


def test_a_matrix_with_some_of_the_columns() -> None:
    """Columns given out of order land in their own rows of the table, and the others stay empty."""
    wide, narrow = Bins("numeric", edges=tuple(map(float, range(9)))), Bins("numeric", edges=(0.5,))
    counter = MatrixCounter([narrow, wide, narrow])
    table = counter.table()
    counter.count(np.array([[7.0, 1.0], [8.0, NAN], [9.0, INF]]), table, [1, 0])
    assert table.shape == counter.shape == (3, 12)
    assert table[0].tolist() == [0, 1, *[0] * 8, 1, 1]
    assert table[1].tolist() == [*[0] * 7, 1, 1, 1, 0, 0]
    assert not table[2].any()
    counter.add(table, 2, np.array([5, 6, 7, 8]))
    assert table[2].tolist() == [5, 6, *[0] * 8, 7, 8]


def test_masked_values_are_missing() -> None:
    """What is masked is missing whatever lies beneath, and the fill value is no value; also of categories."""
    values = np.ma.array([0.0, 1e20, NAN, 3.0], mask=[False, True, False, True])
    assert _counts(NUMERIC, values) == [0, 1, 0, 0, 3, 0]
    integers = np.ma.array([0, 999_999, 3], mask=[False, True, False])
    assert _counts(NUMERIC, integers) == [0, 1, 0, 1, 1, 0]
    text = np.ma.array(["x", "y", "x"], mask=[False, True, False])
    assert _counts(Bins("categorical", categories=("x", "y")), text) == [2, 0, 1, 0]
    assert _counts(NUMERIC, np.ma.masked_all(3)) == [0, 0, 0, 0, 3, 0]


def test_nothing_gives_zeros() -> None:
    """Empty input of any kind, and a table of no columns, count to zeros of the right length."""
    for values in ([], (), np.empty(0), np.empty(0, np.float32), np.empty(0, object), iter([])):
        assert _counts(NUMERIC, values) == [0] * 6
        assert _counts(Bins("categorical", categories=("x",)), values) == [0] * 3
    assert _counts(Bins("numeric"), [1.0, NAN, INF]) == [1, 1, 1]
    assert MatrixCounter([]).table().shape == (0, 2)


def test_numbers_that_are_objects() -> None:
    """Decimals, fractions, Booleans, NumPy scalars and huge integers are numbers; nothing is rounded across an edge."""
    values = [Decimal(-1), Fraction(1, 3), True, np.float32(2.5), np.int8(3), 10**400, -(10**400), Decimal("NaN")]
    assert _counts(NUMERIC, values) == [1, 0, 3, 1, 1, 2]


def test_wrong_types_among_numbers_are_counted_apart() -> None:
    """Text, bytes, dates, complex numbers, lists and objects are invalid and nonfinite, None and NaN missing."""

    class Refusing:
        def __float__(self) -> float:
            raise RuntimeError("no")

    wrong: list[Any] = [
        "1",
        b"1",
        1j,
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
        [1.0],
        {},
        object(),
        Refusing(),
        np.datetime64("2020"),
    ]
    wrong += [np.timedelta64(1, "s"), np.complex128(7), bytearray(b"1"), np.str_("1"), (1.0, 2.0), {1}]
    counts, invalid = NUMERIC.count([*wrong, None, NAN, 1.0])
    assert invalid == len(wrong)
    assert counts.tolist() == [0, 0, 1, 0, 2, len(wrong)]


@pytest.mark.parametrize("dtype", ["M8[ns]", "M8[D]", "m8[s]", "U3", "S3", "c16"])
def test_arrays_of_no_number_are_invalid(dtype: str) -> None:
    """Dates, durations, text and complex numbers in arrays are not taken for numbers by way of their bytes."""
    values = np.array([1, 2, 3]).astype("i8").astype(dtype)
    counts, invalid = NUMERIC.count(values)
    assert (counts.tolist(), invalid) == ([0, 0, 0, 0, 0, 3], 3)


def test_not_a_time_is_missing() -> None:
    """NaT is a missing value among categories and numbers alike."""
    values = np.array(["NaT", "NaT"], "M8[s]")
    assert NUMERIC.count(values)[0].tolist() == [0, 0, 0, 0, 2, 0]
    assert is_missing(np.datetime64("NaT", "s"))
    assert not is_missing(np.datetime64("2020"))


def test_markers_of_pandas_are_missing() -> None:
    """NA and NaT of pandas are missing in every kind of feature."""
    pandas = pytest.importorskip("pandas")
    for bins in (NUMERIC, Bins("categorical", categories=("x",)), Bins("boolean", categories=(False, True))):
        counts, invalid = bins.count([pandas.NA, pandas.NaT, None, NAN, np.float32(NAN)])
        assert (counts[-2], counts.sum(), invalid) == (5, 5, 0)


def test_categories_by_value() -> None:
    """Known categories have their cells in order, unseen ones are other, and only what is no category is invalid."""
    bins = Bins("categorical", categories=("b", "a", 3))
    assert bins.cells == ("c00", "c01", "c02", "missing", "other")
    values: list[Any] = ["a", "b", "b", "zz", 3, 3.0, np.int64(3), None, NAN, "", ["a"], {"a": 1}, object()]
    counts, invalid = bins.count(values)
    assert counts.tolist() == [2, 1, 3, 2, 2 + 3]
    assert invalid == 3


def test_booleans_by_value() -> None:
    """True, 1 and NumPy's True share a cell; 2 and text are other."""
    bins = Bins("boolean", categories=(False, True))
    assert _counts(bins, [True, 1, 1.0, np.bool_(True), False, 0, None, 2, "True"]) == [2, 4, 1, 2]
    assert _counts(bins, np.array([True, False, True])) == [1, 2, 0, 0]
    assert _counts(bins, np.array([1.0, 0.0, NAN, 5.0])) == [1, 1, 1, 1]
    assert not bins.ordered
    assert NUMERIC.ordered


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=2), st.integers(-3, 3), FLOATS), max_size=50),
    st.lists(st.one_of(st.text(max_size=2), st.integers(-3, 3)), max_size=6, unique=True),
)
def test_categories_equal_a_dictionary(values: list[Any], categories: list[Any]) -> None:
    """Counts of categories are those of a counter by equality, every value in exactly one cell."""
    bins = Bins("categorical", categories=tuple(categories))
    there = [value for value in values if not (value is None or (isinstance(value, float) and math.isnan(value)))]
    seen = Counter(there)
    expected = [seen[category] for category in categories]
    missing = len(values) - len(there)
    assert _counts(bins, values) == [*expected, missing, len(values) - missing - sum(expected)]


def test_large_integer_categories_keep_apart() -> None:
    """Ids beyond 2**53, which float64 cannot tell apart, are counted in an array as they are in a list."""
    bins = Bins("categorical", categories=(2**53, 2**53 + 1))
    assert _counts(bins, [2**53, 2**53 + 1, 2**53 + 1]) == [1, 2, 0, 0]
    assert _counts(bins, np.array([2**53, 2**53 + 1, 2**53 + 1])) == [1, 2, 0, 0]


def test_a_hundred_thousand_categories() -> None:
    """Text that is never the same twice is all other, and one known value among it is found."""
    values = [f"user-{number}" for number in range(100_000)]
    counts, invalid = Bins("categorical", categories=("user-77", "x")).count(values)
    assert (counts.tolist(), invalid) == ([1, 0, 0, 99_999], 0)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 80), elements=st.one_of(FINITE, st.integers(-5, 5).map(float))),
    st.integers(2, 12),
)
def test_edges_ascend_and_leave_the_last_cell_filled(values: np.ndarray[Any, Any], bins: int) -> None:
    """From any finite values: edges ascend, are finite, lie below the maximum, and have as many cells as asked for."""
    quantiles = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    low, high = float(values.min()), float(values.max())
    edges = numeric_edges(quantiles, low, high)
    assert list(edges) == sorted(set(edges))
    assert all(map(math.isfinite, edges))
    counts = _expected(values, edges)
    assert sum(counts[:-2]) == len(values)
    if low != high:
        assert edges
        assert all(low <= edge < high or edge < low <= np.nextafter(edge, INF) for edge in edges)
        assert counts[len(edges)] > 0
        assert len(edges) <= bins
    else:
        assert counts[-3 - (len(edges) == 2)] == len(values)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e30, 1e30, allow_subnormal=False)),
    st.integers(2, 12),
)
def test_a_float32_copy_shares_the_cell(values: np.ndarray[Any, Any], bins: int) -> None:
    """Where edges are float32 values, the reference and its float32 copy have equal counts: trained 64, served 32."""
    quantiles = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
    edges = numeric_edges(quantiles, float(values.min()), float(values.max()))
    if all(float(np.float32(edge)) == edge for edge in edges) and np.ptp(values) > 1e-3 * np.abs(values).max():
        bins_of = Bins("numeric", edges=edges)
        copies = values.astype(np.float32)
        if len(np.unique(copies)) == len(np.unique(values)):
            assert _counts(bins_of, copies) == _counts(bins_of, values)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e30, -1e-30, 123456.789, 16_777_217.0])
def test_a_constant_and_its_copies_stay_in_its_own_cell(value: float) -> None:
    """A constant has cells below, at and above; its float64, float32 and text-read copies are all in the middle."""
    edges = numeric_edges([value] * 9, value, value)
    bins = Bins("numeric", edges=edges)
    assert len(edges) == 2
    assert edges[0] < value <= edges[1]
    same = [value, float(np.float32(value)), float(repr(value))]
    assert _counts(bins, same) == [0, 3, 0, 0, 0]
    assert _counts(bins, np.array([value], np.float32)) == [0, 1, 0, 0, 0]
    assert _counts(bins, [value - abs(value) * 1e-3, value + abs(value) * 1e-3]) == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e308, -1e308, 1.7976931348623157e308, 3.4e38])
def test_constants_at_the_limits(value: float) -> None:
    """Zero of either sign, denormals and the largest floats as constants have finite edges around them."""
    edges = numeric_edges([value], value, value)
    assert all(map(math.isfinite, edges))
    counts = _counts(Bins("numeric", edges=edges), [value, value + 0.0])
    assert counts == [0, 2, 0, 0, 0]
    assert _counts(Bins("numeric", edges=edges), np.array([0.0, -0.0]))[:-2].count(2) == 1, "zeros have one sign"


def test_a_constant_at_the_lowest_float() -> None:
    """Below the lowest float lies nothing: one edge, and the constant in the first cell."""
    lowest = -1.7976931348623157e308
    assert numeric_edges([lowest], lowest, lowest) == (lowest,)
    assert _counts(Bins("numeric", edges=(lowest,)), [lowest, 0.0]) == [1, 1, 0, 0]


def test_ties_at_the_maximum_get_a_cell_of_their_own() -> None:
    """Where most values are the maximum, what lies below is counted apart from it."""
    values = np.array([0.0, 1.0, 2.0] + [5.0] * 97)
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    bins = Bins("numeric", edges=numeric_edges(quantiles, 0.0, 5.0))
    assert _counts(bins, values) == [3, 97, 0, 0]
    assert _counts(bins, [4.9999, 5.0, 6.0]) == [1, 2, 0, 0]


def test_ties_at_the_minimum_get_a_cell_of_their_own() -> None:
    """Where most values are zero, the rest is counted above them."""
    values = np.array([0.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0])
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    bins = Bins("numeric", edges=numeric_edges(quantiles, 0.0, 5.0))
    assert _counts(bins, values) == [95, 5, 0, 0]


def test_integers_with_few_values_have_a_cell_each() -> None:
    """Each of six values has a cell of its own, the maximum beside an empty one, whatever dtype they come back in."""
    values = np.repeat([0, 1, 2, 3, 4, 5], 50).astype(float)
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    bins = Bins("numeric", edges=numeric_edges(quantiles, 0.0, 5.0))
    assert bins.edges[:-1] == (0, 1, 2, 3, 4)
    assert _counts(bins, values.astype(np.int8)) == [50] * 5 + [0, 50, 0, 0]


@pytest.mark.parametrize("scale", [1e308, 1e300, 1e42, 1e-300, 5e-324 * 1000, 1e-39])
def test_edges_beyond_float32_are_exact(scale: float) -> None:
    """Magnitudes that float32 cannot hold keep their quantiles as edges, with every decile filled."""
    values = np.arange(1, 101) / 100 * scale
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    edges = numeric_edges(quantiles, float(values.min()), float(values.max()))
    assert edges == tuple(quantiles.tolist())
    assert _counts(Bins("numeric", edges=edges), values) == [10] * 10 + [0, 0]


def test_edges_that_float32_would_join_are_exact() -> None:
    """Values closer than float32 tells apart, as times since 1970, keep their own cells."""
    values = 1.7e9 + np.arange(100.0)
    quantiles = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    edges = numeric_edges(quantiles, float(values[0]), float(values[-1]))
    assert edges == tuple(quantiles.tolist())


def test_edges_are_rounded_up_to_float32() -> None:
    """An edge is the least float32 not below the quantile, so that the quantile itself stays beneath it."""
    edges = numeric_edges([0.1, 0.2, 0.7], 0.0, 1.0)
    for edge, quantile in zip(edges, [0.1, 0.2, 0.7], strict=True):
        assert float(np.float32(edge)) == edge
        assert edge >= quantile
        assert float(np.nextafter(np.float32(edge), np.float32(-1))) < quantile


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (True, 1.0), (Fraction(1, 2), 0.5), (10**400, INF), ("1", None), (b"1", None), (1j, None), ([], None)],
)
def test_what_is_a_number(value: Any, expected: float | None) -> None:
    """Real numbers of any class are numbers; text that looks like one is not."""
    assert as_number(value) == expected


def test_names_of_cells() -> None:
    """Cells are numbered with two digits, value cells first, and never named after a category."""
    assert NUMERIC.cells == ("b00", "b01", "b02", "b03", "missing", "nonfinite")
    assert Bins("numeric", edges=tuple(map(float, range(100)))).cells[100] == "b100"
    assert "secret" not in "".join(Bins("categorical", categories=("secret",)).cells)
