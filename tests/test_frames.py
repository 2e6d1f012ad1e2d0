"""Dataframes of any library give the profile that the same values give as plain lists."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from otel_mlobs.core.profile import Profile
from otel_mlobs.tables.frames import is_frame

pytest.importorskip("narwhals")

ROWS = 120
PLAIN: dict[str, list[Any]] = {
    "whole": [None if row % 10 == 0 else row for row in range(ROWS)],
    "real": [None if row % 9 == 0 else row / 7 for row in range(ROWS)],
    "text": [None if row % 5 == 0 else "ab"[row % 2] for row in range(ROWS)],
    "flag": [None if row % 4 == 0 else row % 3 == 0 for row in range(ROWS)],
}
EXPECTED = Profile.fit(PLAIN, model="m")


def _pandas() -> Any:
    return pytest.importorskip("pandas").DataFrame(PLAIN)


def _polars() -> Any:
    return pytest.importorskip("polars").DataFrame(PLAIN)


def _arrow() -> Any:
    return pytest.importorskip("pyarrow").table(PLAIN)


def _pandas_categories() -> Any:
    return _pandas().astype({"text": "category"})


def _pandas_ordered() -> Any:
    pandas = pytest.importorskip("pandas")
    return _pandas().astype({"text": pandas.CategoricalDtype(["b", "a", "unused"], ordered=True)})


def _pandas_nullable() -> Any:
    return _pandas().astype({"whole": "Int64", "real": "Float64", "text": "string", "flag": "boolean"})


def _pandas_objects() -> Any:
    return _pandas().astype(object)


def _pandas_of_arrow() -> Any:
    pytest.importorskip("pyarrow")
    return _pandas().astype(
        {"whole": "int32[pyarrow]", "real": "double[pyarrow]", "text": "string[pyarrow]", "flag": "bool[pyarrow]"}
    )


def _polars_lazy() -> Any:
    return _polars().lazy()


def _polars_enum() -> Any:
    polars = pytest.importorskip("polars")
    return _polars().with_columns(polars.col("text").cast(polars.Enum(["b", "a"])))


def _polars_categories() -> Any:
    polars = pytest.importorskip("polars")
    return _polars().with_columns(polars.col("text").cast(polars.Categorical), polars.col("whole").cast(polars.UInt8))


def _arrow_dictionary() -> Any:
    table = _arrow()
    return table.set_column(2, "text", table["text"].dictionary_encode())


def _arrow_chunks() -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    table = _arrow()
    return pyarrow.concat_tables([table.slice(0, 50), table.slice(50)])


def _arrow_batch() -> Any:
    return _arrow().combine_chunks().to_batches()[0]


def _narwhals() -> Any:
    import narwhals

    return narwhals.from_native(_pandas())


def _series() -> Any:
    frame = _polars()
    return {name: frame[name] for name in frame.columns}


def _pandas_series() -> Any:
    return dict(_pandas_nullable().items())


@pytest.mark.parametrize(
    "make",
    [
        _pandas, _pandas_categories, _pandas_ordered, _pandas_nullable, _pandas_objects, _pandas_of_arrow, _polars,
        _polars_lazy, _polars_enum, _polars_categories, _arrow, _arrow_dictionary, _arrow_chunks, _arrow_batch,
        _narwhals, _series, _pandas_series,
    ],
)  # fmt: skip
def test_every_library_gives_the_same_profile(make: Any) -> None:
    """Columns, counts, moments and the id are those of the plain lists."""
    assert Profile.fit(make(), model="m") == EXPECTED


@pytest.mark.parametrize("make", [_pandas, _pandas_nullable, _polars, _polars_lazy, _arrow])
def test_numbers_as_categories(make: Any) -> None:
    """A column of integers named in categorical= has integer categories, also where gaps made it one of floats."""
    frame, options = make(), {"features": ["whole"], "categorical": ["whole"], "max_categories": 3}
    repeated = {"whole": [None if value is None else value % 4 for value in PLAIN["whole"]]}
    expected = Profile.fit(repeated, model="m", categorical=["whole"], max_categories=3)
    assert len(expected.features[0].bins.categories) == 3
    if hasattr(frame, "lazy") or hasattr(frame, "collect"):
        polars = pytest.importorskip("polars")
        frame = frame.with_columns(polars.col("whole") % 4)
    elif hasattr(frame, "assign"):
        frame = frame.assign(whole=frame["whole"] % 4)
    else:
        pytest.importorskip("pyarrow")
        frame = frame.set_column(0, "whole", [repeated["whole"]])
    assert Profile.fit(frame, model="m", **options) == expected


@pytest.mark.parametrize("make", [_pandas, _polars, _polars_lazy, _arrow])
def test_outputs_and_labels_by_name(make: Any) -> None:
    """Named columns are outputs and labels; they give what their values give as arrays."""
    frame = make()
    profile = Profile.fit(frame, outputs="real", labels="flag", output_kind="score", model="m")
    assert profile.names == ("whole", "text")
    plain = {name: PLAIN[name] for name in ("whole", "text")}
    assert profile == Profile.fit(plain, outputs=PLAIN["real"], labels=PLAIN["flag"], output_kind="score", model="m")


def test_outputs_as_frames_and_series() -> None:
    """Probabilities in a frame name their classes; scores and labels in series count like arrays."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(5)
    probabilities = rng.dirichlet([1, 1, 1], ROWS)
    x = {"x": np.arange(ROWS)}
    named = Profile.fit(x, outputs=pandas.DataFrame(probabilities, columns=["cat", "dog", "owl"]), model="m")
    assert named.outputs is not None
    assert named.outputs.classes == ("cat", "dog", "owl")
    scores = rng.uniform(size=ROWS)
    labels = np.where(rng.uniform(size=ROWS) < scores, "yes", "no")
    expected = Profile.fit(x, outputs=scores, labels=labels, positive_class="yes", model="m")
    for outputs in (
        pandas.Series(scores),
        pandas.DataFrame({"p": scores}),
        pandas.DataFrame({"yes": scores, "no": 1 - scores}),
    ):
        words = pandas.Series(labels, dtype="category")
        assert Profile.fit(x, outputs=outputs, labels=words, positive_class="yes", model="m") == expected
        assert Profile.fit(x, outputs=outputs, labels=words.to_frame(), positive_class="yes", model="m") == expected


def test_missing_and_not_finite_lie_apart() -> None:
    """Nulls and NaN are missing, infinities are not finite, in every library."""
    polars = pytest.importorskip("polars")
    values = [1.0, 2.0, None, float("nan"), float("inf"), float("-inf")]
    (column,) = Profile.fit(polars.DataFrame({"x": values}), model="m").features
    assert column.counts[-2:] == (2, 2)
    assert sum(column.counts) == 6
    pyarrow = pytest.importorskip("pyarrow")
    assert Profile.fit(pyarrow.table({"x": values}), model="m").features == (column,)


def test_columns_without_a_value() -> None:
    """A column of nulls only, which has no type, is a number's: all of it missing."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    plain = Profile.fit({"x": [None] * 4}, model="m")
    assert Profile.fit(polars.DataFrame({"x": [None] * 4}), model="m") == plain
    assert Profile.fit(pyarrow.table({"x": pyarrow.nulls(4)}), model="m") == plain
    assert Profile.fit(polars.DataFrame({"x": [None] * 4}, schema={"x": polars.Float32}), model="m") == plain


def test_decimals() -> None:
    """Exact decimals are numbers."""
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    values = [Decimal("1.50"), Decimal("2.25"), None, Decimal("1.50")]
    expected = Profile.fit({"x": values}, model="m")
    assert Profile.fit(pyarrow.table({"x": values}), model="m") == expected
    assert Profile.fit(polars.DataFrame({"x": values}), model="m") == expected
    pandas = pytest.importorskip("pandas")
    assert Profile.fit(pandas.DataFrame({"x": values}), model="m") == expected


def test_only_the_columns_asked_for_are_computed() -> None:
    """A lazy frame's other columns are never touched, not even one that would fail."""
    polars = pytest.importorskip("polars")

    def fail(_: Any) -> Any:
        raise AssertionError("computed")

    lazy = _polars_lazy().with_columns(polars.col("whole").map_batches(fail, return_dtype=polars.Int64).alias("bad"))
    assert Profile.fit(lazy, exclude=["bad"], model="m") == EXPECTED


def test_dates_and_nested_values_are_refused_together() -> None:
    """One error names the date, the duration, the list, the struct and the bytes, not the number beside them."""
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {
            "day": [dt.date(2026, 1, 1)], "gap": [dt.timedelta(1)], "tags": [["a"]], "who": [{"a": 1}], "raw": [b"x"],
            "fine": [1.0],
        }
    )  # fmt: skip
    with pytest.raises(ValueError, match="5 columns cannot be profiled") as caught:
        Profile.fit(frame, model="m")
    message = str(caught.value)
    assert "'day' holds dates or durations (Date); give a number" in message
    assert "'tags' holds nested values" in message
    assert "'raw' holds bytes" in message
    assert "'fine'" not in message
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"when": pandas.date_range("2026", periods=3), "cut": pandas.cut([1, 2, 3], 3)})
    frame["tags"] = [["a"], ["b"], None]
    with pytest.raises(ValueError, match="3 columns cannot be profiled") as caught:
        Profile.fit(frame, model="m")
    assert "'cut' holds values of type Interval; categories must be text, numbers or booleans" in str(caught.value)


def test_categories_that_are_no_text() -> None:
    """Numbers in a pandas categorical are categories, not numbers."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"zip": pandas.Categorical([8001, 8002] * 30)})
    (column,) = Profile.fit(frame, model="m").features
    assert column.bins.categories == (8001, 8002)
    assert column.counts == (30, 30, 0, 0)


def test_names_that_are_no_text_or_occur_twice() -> None:
    """Integer names are written as text; a name that occurs twice is refused."""
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    assert Profile.fit(pandas.DataFrame(np.ones((3, 2))), model="m").names == ("0", "1")
    with pytest.raises(ValueError, match=r"names occur twice: \['a'\]"):
        Profile.fit(pandas.DataFrame(np.ones((3, 2)), columns=["a", "a"]), model="m")
    with pytest.raises(ValueError, match=r"names occur twice: \['1'\]"):
        Profile.fit(pandas.DataFrame(np.ones((3, 2)), columns=[1, "1"]), model="m")
    with pytest.raises(ValueError, match=r"names occur twice: \['a'\]"):
        Profile.fit(pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"]), model="m")


def test_frames_without_rows_or_columns() -> None:
    """Empty frames are refused, lazy ones once they are computed."""
    polars = pytest.importorskip("polars")
    with pytest.raises(ValueError, match="no rows"):
        Profile.fit(polars.LazyFrame({"x": []}), model="m")
    with pytest.raises(ValueError, match="no feature is left"):
        Profile.fit(polars.DataFrame(), model="m")
    with pytest.raises(ValueError, match=r"features names .*\['q'\]"):
        Profile.fit(_polars(), features=["q"], model="m")


def test_queries_that_would_be_fetched_are_refused() -> None:
    """A DuckDB relation is not pulled into memory: the message says how to have it counted there."""
    duckdb = pytest.importorskip("duckdb")
    with pytest.raises(TypeError, match=r"DuckDBPyRelation is a query .*give it as an ibis table"):
        Profile.fit(duckdb.sql("select 1 as x"), model="m")


def test_tables_that_are_none() -> None:
    """Something that only looks like a table is refused with its type."""
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match="expected a dataframe or a 2-D array, got Expr"):
        Profile.fit(polars.col("x"), model="m")
    assert not is_frame({"x": [1]})
    assert not is_frame(np.ones((2, 2)))


def test_without_narwhals_the_extra_is_named() -> None:
    """Where narwhals is missing, the error holds the command that installs it."""
    pytest.importorskip("pandas")
    program = (
        "import sys; sys.modules['narwhals'] = None\n"
        "import pandas\n"
        "from otel_mlobs.core.profile import Profile\n"
        "Profile.fit(pandas.DataFrame({'x': [1]}), model='m')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "a profile of a dataframe needs 'narwhals': pip install 'otel-mlobs[profile]'" in done.stderr


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_single_column_is_no_frame(library: str) -> None:
    """A series is refused in words that say how to make a frame of it."""
    frame = pytest.importorskip(library).DataFrame({"age": [1.0, 2.0]})
    with pytest.raises(TypeError, match=r"a Series is one column: give a frame, as df\[\['age'\]\]"):
        Profile.fit(frame["age"], model="m")
