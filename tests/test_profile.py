"""A profile's columns: what is counted, what is missing, what is refused and with which words."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.profile import Column, Profile

RNG = np.random.default_rng(20)


def _fit(data: Any, **options: Any) -> Profile:
    return Profile.fit(data, model="churn", **options)


def _column(values: Any, **options: Any) -> Column:
    (column,) = _fit({"x": values}, **options).features
    return column


def test_numbers_by_deciles_that_occur() -> None:
    """Ten equal cells, edges that are values of the data, and NumPy's own minimum, mean and deviation."""
    values = RNG.permutation(np.arange(1, 1001)).astype(float)
    column = _column(values)
    assert column.bins.edges == tuple(np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf").tolist())
    assert column.bins.edges == (100, 200, 300, 400, 500, 600, 700, 800, 900)
    assert column.counts == (100,) * 10 + (0, 0)
    assert column.shares == (0.1,) * 10 + (0.0, 0.0)
    assert (column.minimum, column.maximum, column.rows) == (1, 1000, 1000)
    assert column.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert column.std == pytest.approx(np.std(values), rel=1e-12)
    assert column.positions == tuple(np.arange(50.5, 1000, 100).tolist())


@pytest.mark.parametrize("rows", [11, 15, 99, 1234])
def test_edges_are_the_inverted_distribution_function(rows: int) -> None:
    """Where deciles fall between rows, edges are the values that NumPy's inverted CDF gives."""
    values = RNG.permutation(np.arange(float(rows)))
    expected = np.quantile(values, np.arange(1, 10) / 10, method="inverted_cdf")
    assert _column(values).bins.edges == tuple(expected.tolist())


@given(
    hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(allow_nan=True, allow_infinity=True, width=64)),
    st.integers(2, 20),
)
def test_counts_are_those_of_the_bins_and_add_up(values: np.ndarray[Any, Any], bins: int) -> None:
    """Whatever the floats, counts equal what the bins count, add up to the rows, and all numbers kept are finite."""
    column = _column(values, bins=bins)
    assert list(column.counts) == column.bins.count(values)[0].tolist()
    assert column.rows == len(values)
    assert len(column.bins.edges) <= bins + 1
    finite = values[np.isfinite(values)]
    if finite.size:
        assert column.minimum is not None
        assert column.maximum is not None
        assert column.minimum <= finite.min() <= finite.max() <= column.maximum
        assert all(map(math.isfinite, (column.mean, column.std, *column.positions)))  # type: ignore[arg-type]
    else:
        assert column.minimum is column.maximum is column.mean is column.std is None


@given(
    st.lists(
        st.one_of(st.none(), st.sampled_from(["a", "b", "", "é", "\ud800"]), st.text(max_size=2)),
        min_size=1,
        max_size=60,
    )
)
def test_categories_are_counted_as_the_bins_count(values: list[Any]) -> None:
    """Whatever the texts, counts equal what the bins count, and a category with a name is on twenty rows or more."""
    column = _column([*values * 5, "a"])
    assert column.bins.kind == "categorical"
    assert list(column.counts) == column.bins.count([*values * 5, "a"])[0].tolist()
    assert all(count >= 20 for count in column.counts[:-2])


@given(st.permutations(list(range(40))))
@settings(max_examples=30)
def test_order_of_rows_changes_nothing(order: list[int]) -> None:
    """A permutation of the rows gives an equal profile, to the last digit."""
    values = np.random.default_rng(3).lognormal(size=40)
    text = np.array(["a", "b"] * 20)
    scores = np.random.default_rng(4).uniform(size=40)
    labels = scores > 0.4
    one = _fit({"x": values, "t": text}, outputs=scores, labels=labels)
    other = _fit({"x": values[order], "t": text[order]}, outputs=scores[order], labels=labels[order])
    assert one == other
    assert one.id == other.id


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([1.0, 1.0, 2.0, 3.0, None, math.nan], [2, 1, 1, 2, 0]),
        ([1, 1, 2, 3, None], [2, 1, 1, 1, 0]),
        ([1, 1.0, 2, 3, math.inf, -math.inf, 10**400], [2, 1, 1, 0, 3]),
        ([Decimal(1), Decimal(1), Decimal(2), Decimal(3), Decimal("NaN"), Decimal("Infinity")], [2, 1, 1, 1, 1]),
        ([Decimal("sNaN"), Decimal(1), Fraction(2), 1, 3, np.float32(2.0)], [2, 2, 1, 1, 0]),
        (np.array([1, 1, 2, 3], np.uint8), [2, 1, 1, 0, 0]),
        (np.array([1, 1, 2, 3], np.float16), [2, 1, 1, 0, 0]),
        (np.ma.masked_array([1, 1, 2, 3, 99], mask=[0, 0, 0, 0, 1]), [2, 1, 1, 1, 0]),
        (np.array([1, 1, 2, 3, None], dtype=object), [2, 1, 1, 1, 0]),
        ([True, 1, 2, 3], [2, 1, 1, 0, 0]),
    ],
)  # fmt: skip
def test_numbers_of_every_kind(values: Any, counts: list[int]) -> None:
    """Ones, twos and threes share cells whatever type they have; what is missing and infinite lies apart."""
    column = _column(values)
    by_value = dict.fromkeys((1, 2, 3), 0)
    for value in by_value:
        cell = int(np.searchsorted(column.bins.edges, value, side="left"))
        by_value[value] = column.counts[cell]
    assert [*by_value.values(), *column.counts[-2:]] == counts
    assert column.rows == len(values)
    assert (column.minimum, column.maximum) == (1, 3)


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([True, False, False, None], (2, 1, 1, 0)),
        (np.array([True, False, False]), (2, 1, 0, 0)),
        (np.ma.masked_array([True, False], mask=[False, True]), (0, 1, 1, 0)),
        (np.array([np.True_, None], dtype=object), (0, 1, 1, 0)),
    ],
)  # fmt: skip
def test_booleans(values: Any, counts: tuple[int, ...]) -> None:
    """Booleans have cells for False and True, in that order, and one for what is missing."""
    column = _column(values)
    assert column.bins == Bins("boolean", categories=(False, True))
    assert column.counts == counts


def test_categories_by_frequency_without_rare_ones() -> None:
    """The most frequent comes first, equals in order of value; under twenty rows, and beyond the most, are other."""
    column = _column(["b"] * 30 + ["c"] * 40 + ["a"] * 30 + ["rare"] * 19 + [None, math.nan])
    assert column.bins.categories == ("c", "a", "b")
    assert column.counts == (40, 30, 30, 2, 19)
    assert column.positions == ()
    column = _column(np.array(["b"] * 30 + ["c"] * 40 + ["a"] * 30), max_categories=2)
    assert column.bins.categories == ("c", "a")
    assert column.counts == (40, 30, 0, 30)


def test_numbers_counted_as_categories() -> None:
    """A column named in categorical= has a cell per value, and whole floats are the integers they are equal to."""
    column = _column([2.0, 7.0, None] * 20 + [math.inf] * 20, categorical=["x"])
    assert column.bins.categories == (2, 7)
    assert all(isinstance(category, int) for category in column.bins.categories)
    assert column.counts == (20, 20, 20, 20)
    mixed = _column(["a", 1] * 20, categorical=["x"])
    assert mixed.bins.categories == (1, "a")


def test_float32_and_float64_share_cells() -> None:
    """The same values in single precision fall into the same cells, and within the extremes."""
    values = RNG.normal(size=5000)
    column = _column(values)
    single = values.astype(np.float32)
    assert column.bins.count(single)[0].tolist() == list(column.counts)
    assert column.minimum is not None
    assert column.maximum is not None
    assert column.minimum <= single.min() <= single.max() <= column.maximum
    assert _column(single).counts == column.counts
    rounded = _column([0.7, 0.8])  # single precision has 0.69999999 and 0.80000001
    assert (rounded.minimum, rounded.maximum) == (float(np.float32(0.7)), float(np.float32(0.8)))


def test_constant() -> None:
    """A constant has cells below, at and above it, and no deviation."""
    column = _column(np.full(50, 3.3))
    assert column.counts == (0, 50, 0, 0, 0)
    assert column.std == 0
    assert column.mean == 3.3
    assert column.bins.count([3.2, 3.3, np.float32(3.3), 3.4])[0].tolist() == [1, 2, 1, 0, 0]


@pytest.mark.parametrize("values", [np.full(5, np.nan), [None] * 5, np.ma.masked_all(5), [math.nan, None] + [None] * 3])
def test_all_missing(values: Any) -> None:
    """A column without a value is one of numbers: one cell for whatever comes, empty, and five rows missing."""
    column = _column(values)
    assert column == Column("x", Bins("numeric"), (0, 5, 0), positions=(0.0,))


def test_integers_with_few_values() -> None:
    """Integers of few values have at most a cell per value, and none shares one with a neighbour."""
    column = _column(RNG.permutation(np.repeat([0, 1, 2, 3], [70, 20, 7, 3])), bins=100)
    counts = [count for count in column.counts if count]
    assert counts == [70, 20, 7, 3]


def test_huge_magnitudes() -> None:
    """Mean and deviation of the largest floats neither overflow nor warn."""
    column = _column(np.array([1.7e308, -1.7e308, 1.7e308, -1.7e308]))
    assert column.mean == 0
    assert column.std == pytest.approx(1.7e308, rel=1e-12)
    column = _column(np.full(7, 1.7e308))
    assert (column.mean, column.std) == (1.7e308, 0)
    tiny = _column(np.array([5e-324, 1e-310, 0.0]))
    assert tiny.rows == 3


def test_nothing_raw_is_kept() -> None:
    """Of a thousand secret values no more than extremes and edges are in the file."""
    values = RNG.normal(size=1000).round(6)
    written = _fit({"x": values}).to_json()
    assert sum(str(value) in written for value in values.tolist()) <= 11


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["2026-01-01"], "M8[D]"), "'x' holds dates or durations .*give a number"),
        (np.array([1], "m8[s]"), "'x' holds dates or durations"),
        ([dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc), None], "'x' holds values of type datetime; give a number"),
        ([dt.timedelta(1)], "'x' holds values of type timedelta"),
        ([[1, 2], [3]], "'x' holds values of type list; give one column per number"),
        ([{"a": 1}], "'x' holds values of type dict"),
        (np.ones((3, 2)), r"'x' holds arrays \(its shape is \(3, 2\)\); give one column per number"),
        ([b"raw"], "'x' holds values of type bytes; decode"),
        (np.array([b"raw"]), "'x' holds bytes"),
        ([1j], "'x' holds values of type complex"),
        (np.array([1j]), "'x' holds complex128 values"),
        (["a", 1], "'x' mixes int and str; convert it to one type, or name it in categorical="),
        ([object()], "'x' holds values of type object"),
        (np.array([(1,)], dtype=[("a", "i4")]), "'x' holds records"),
        ([f"user-{number}" for number in range(101)], "'x' looks like an identifier: 101 distinct values on 101 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused(values: Any, message: str) -> None:
    """The error names the column, what it holds, and what to do instead."""
    with pytest.raises(ValueError, match=message):
        _column(values)


def test_identifiers_have_more_than_half_distinct() -> None:
    """Half as many values as rows, or a hundred, are no identifier yet."""
    assert _column([f"v{number % 150}" for number in range(300)]).counts == (0, 300)
    assert _column([f"v{number}" for number in range(100)]).counts == (0, 100)
    with pytest.raises(ValueError, match="looks like an identifier"):
        _column(np.arange(101), categorical=["x"])
    with pytest.raises(ValueError, match="101 distinct values on 101 rows"):
        _column([f"v{number}" for number in range(101)] + [None] * 300)


def test_all_problems_are_named_in_one_error() -> None:
    """Three bad columns of five are named together, each with its problem."""
    data = {
        "when": np.array(["2026-01-01"] * 200, "M8[D]"),
        "age": np.arange(200),
        "tags": [["a"]] * 200,
        "plan": ["a", "b"] * 100,
        "mixed": ["a", 1] * 100,
    }
    with pytest.raises(ValueError, match="3 columns cannot be profiled") as caught:
        _fit(data)
    assert [word in str(caught.value) for word in ("'when'", "'age'", "'tags'", "'plan'", "'mixed'")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert _fit(data, exclude=["when", "tags", "mixed"]).names == ("age", "plan")
    data = {"one": [f"a{number}" for number in range(101)], "two": [f"b{number}" for number in range(101)]}
    with pytest.raises(ValueError, match=r"2 columns(.|\n)*'one' looks like(.|\n)*'two' looks like"):
        _fit(data)


def test_arrays_and_their_names() -> None:
    """Columns of an array are named by features=, else x0, x1, …; those of a structured one name themselves."""
    matrix = RNG.normal(size=(50, 3))
    assert _fit(matrix).names == ("x0", "x1", "x2")
    named = _fit(matrix, features=["a", "b", "c"])
    assert named.names == ("a", "b", "c")
    assert named.features[1].counts == _fit({"b": matrix[:, 1]}).features[0].counts
    assert _fit(matrix[::2, ::-1], features=["c", "b", "a"]).features[0].minimum is not None
    structured = np.array([(1.5, "a", True)] * 20, dtype=[("x", "f4"), ("t", "U3"), ("b", "?")])
    profile = _fit(structured)
    assert [(column.name, column.bins.kind) for column in profile.features] == [
        ("x", "numeric"), ("t", "categorical"), ("b", "boolean"),
    ]  # fmt: skip
    assert _fit(structured, features=["b", "x"]).names == ("b", "x")
    masked = np.ma.masked_array(matrix, mask=np.arange(150).reshape(50, 3) % 2 == 0)
    assert [column.counts[-2] for column in _fit(masked).features] == [25, 25, 25]
    objects = np.array([[1, "a"], [None, "b"]] * 20, dtype=object)
    assert [column.bins.kind for column in _fit(objects).features] == ["numeric", "categorical"]


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (np.ones(3), {}, ValueError, r"shape \(rows, features\), got \(3,\)"),
        (np.ones((3, 2)), {"features": ["a"]}, ValueError, "the array's 2 columns, got 1 names"),
        (np.ones((0, 2)), {}, ValueError, "no rows"),
        (np.ones((3, 0)), {}, ValueError, "no feature is left"),
        ({}, {}, ValueError, "no feature is left"),
        ({"a": []}, {}, ValueError, "no rows"),
        ({"a": [1, 2], "b": [1]}, {}, ValueError, "equally long, got {'a': 2, 'b': 1}"),
        ({"a": 1}, {}, TypeError, "'a': expected an array or a list, got int"),
        ({"a": "text"}, {}, TypeError, "'a': expected an array or a list, got str"),
        ({"a": np.array(1)}, {}, TypeError, "'a': expected an array or a list, got a single value"),
        ({1: [1], "1": [2]}, {}, ValueError, "names occur twice"),
        ("train.csv", {}, TypeError, "data must be a 2-D .* got str"),
        (None, {}, TypeError, "got NoneType"),
        ({"a": [1]}, {"features": ["a", "q"]}, ValueError, r"features names .*\['q'\]; it has \['a'\]"),
        ({"a": [1]}, {"exclude": ["q"]}, ValueError, r"exclude names .*\['q'\]; it has \['a'\]"),
        ({"a": [1]}, {"exclude": ["a"]}, ValueError, "no feature is left"),
        ({"a": [1]}, {"categorical": ["q"]}, ValueError, r"categorical names \['q'\]"),
        ({"a": [1]}, {"features": ["a", "a"]}, ValueError, r"features names \['a'\] more than once"),
        ({"a": [1]}, {"features": "a"}, TypeError, "features must be a list of names, got the text 'a'"),
        ({"a": [1]}, {"exclude": [1]}, TypeError, "exclude must be names, got 1"),
        ({"a": [1]}, {"bins": 1}, ValueError, "bins must be a whole number from 2 to 100, got 1"),
        ({"a": [1]}, {"bins": 2.5}, ValueError, "bins must be a whole number"),
        ({"a": [1]}, {"max_categories": 0}, ValueError, "max_categories must be a whole number"),
        ({"a": [1]}, {"version": 3}, ValueError, "version must be text or None, got 3"),
        ({"a": [1]}, {"like": "profile"}, TypeError, "like must be a Profile, got str"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(data: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """What is wrong with data, names or settings is said with the value and what was expected."""
    with pytest.raises(error, match=message):
        _fit(data, **options)


def test_a_model_has_a_name() -> None:
    """A profile without a model's name is refused."""
    with pytest.raises(ValueError, match="model must be the model's name, got ''"):
        Profile.fit({"a": [1]}, model="")


def test_progress_by_column() -> None:
    """The callback sees every column once, and the total from the start."""
    seen: list[tuple[int, int]] = []
    scores = np.array([0.1, 0.9])
    _fit({"a": [1, 2], "b": [1, 2]}, outputs=scores, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counts": (1, 0)}, "counts must be one per cell, 4, got 2"),
        ({"counts": (1, -1, 0, 0)}, "counts must not be negative, got -1"),
        ({"bins": Bins("numeric", (math.nan,))}, "edges must be finite and ascend"),
        ({"bins": Bins("numeric", (2.0, 1.0)), "counts": (0,) * 5}, "edges must be finite and ascend"),
        ({"positions": ()}, "positions must be one per value cell, 2"),
        ({"positions": (0.0, math.inf)}, "positions must be finite"),
        ({"minimum": None}, "must be finite, or all None"),
        ({"std": math.nan}, "must be finite, or all None"),
        ({"std": -1.0}, "nor std be negative"),
        ({"minimum": 9.0}, "minimum must not exceed maximum"),
    ],
)  # fmt: skip
def test_columns_that_contradict_themselves(fields: dict[str, Any], message: str) -> None:
    """A column whose fields do not fit each other cannot be made."""
    whole = {
        "name": "x", "bins": Bins("numeric", (1.0,)), "counts": (1, 2, 3, 4), "positions": (0.5, 1.5),
        "minimum": 0.0, "maximum": 2.0, "mean": 1.0, "std": 0.5,
    }  # fmt: skip
    Column(**whole)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Column(**(whole | fields))


def test_a_profile_of_columns_that_disagree() -> None:
    """Columns of different numbers of rows, or of one name, do not make a profile."""
    column = _column([1, 2, 3])
    with pytest.raises(ValueError, match="add up to the 4 rows, got 3"):
        Profile("churn", None, (column,), None, 4)
    with pytest.raises(ValueError, match="each with a name of its own"):
        Profile("churn", None, (column, column), None, 3)


def test_arrays_need_no_dataframe_library() -> None:
    """Fitting arrays and mappings imports neither narwhals nor pandas, polars, Arrow or ibis."""
    program = (
        "import sys, numpy as np\n"
        "from otel_mlobs.core.profile import Profile\n"
        "Profile.fit(np.ones((30, 2)), outputs=np.ones(30), model='m')\n"
        "Profile.fit({'t': ['a'] * 30}, model='m').to_json()\n"
        "print([name for name in ('narwhals', 'pandas', 'polars', 'pyarrow', 'ibis') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
