"""Tables in a database: DuckDB counts what numpy counts, whatever is in the columns."""

from __future__ import annotations

import datetime as dt
import math
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receiver import run

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.profile import Profile
from otel_mlobs.tables import Cells, Question, sql

ibis = pytest.importorskip("ibis")
pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Write = Callable[[Mapping[str, Any]], Any]

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis 12 with DuckDB 2

DECILES = tuple(Fraction(part, 10) for part in range(1, 10))
ROWS = 5_000


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    """A DuckDB of this file's tests."""
    connection = ibis.duckdb.connect()
    yield connection
    connection.disconnect()


@pytest.fixture
def write(connection: Any, tmp_path: Path) -> Write:
    """Columns → an ibis table over a Parquet file."""

    def written(columns: Mapping[str, Any]) -> Any:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        pq.write_table(pa.table(dict(columns)), path)
        return connection.read_parquet(path)

    return written


@pytest.fixture
def few_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have brackets taken from a sample where the table is small enough to be sorted."""
    monkeypatch.setattr(sql, "SORTED", 100)
    monkeypatch.setattr(sql, "SAMPLE", 1_000)
    monkeypatch.setattr(sql, "_GRID", 100)


def _columns(rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    gaps = rng.normal(size=rows)
    gaps[:100], gaps[100:120], gaps[120:130] = np.nan, np.inf, -np.inf
    score = rng.random(rows)
    return {
        "normal": rng.normal(size=rows),
        "single": rng.normal(size=rows).astype(np.float32),
        "integers": rng.poisson(3, rows),
        "cents": np.round(rng.gamma(2.0, 30.0, rows), 2),
        "cauchy": rng.standard_cauchy(rows),
        "far": 1e9 + rng.random(rows),
        "huge": rng.choice([-1.5e308, -1e300, 1.0, 1.7e308], rows) * rng.random(rows),
        "gaps": gaps,
        "constant": np.full(rows, 0.1),
        "nothing": np.full(rows, np.nan),
        "flag": rng.random(rows) < 0.3,
        "colour": rng.choice(["red", "Green", "blue", "äöü", "it's"], rows, p=[0.4, 0.3, 0.2, 0.098, 0.002]),
        "score": score,
        "label": (rng.random(rows) < score).astype(int),
    }


def _assert_same(one: Profile, other: Profile) -> None:
    for mine, theirs in zip(one.columns, other.columns, strict=True):
        for field in ("name", "bins", "counts", "minimum", "maximum"):
            assert getattr(mine, field) == getattr(theirs, field)
    assert one.id == other.id


def test_a_table_gives_the_profile_that_arrays_give(write: Write) -> None:
    """Edges, counts, extremes and the id are the same for every kind of column, outputs and calibration too."""
    columns = _columns()
    options: dict[str, Any] = {"outputs": "score", "labels": "label", "model": "m"}
    _assert_same(Profile.fit(write(columns), **options), Profile.fit(columns, **options))


@pytest.mark.usefixtures("few_rows_are_many")
def test_large_columns_are_narrowed_to_brackets_and_stay_exact(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantiles by sampled brackets are those of the sorted column, and what was sorted is a part of it."""
    sorted_rows: list[int] = []

    def spied(table: Any, number: Any, brackets: Any, ranks: Any) -> Any:
        sorted_rows.append(sum(bracket.upto - bracket.below for bracket in brackets))
        return at_ranks(table, number, brackets, ranks)

    at_ranks = sql._at_ranks
    monkeypatch.setattr(sql, "_at_ranks", spied)
    monkeypatch.setattr(sql, "_SIGMAS", 2.0)
    columns = _columns()
    questions = [Question(name, "numeric", (Fraction(1, 2),)) for name in ("normal", "cauchy", "integers", "gaps")]
    described = sql.describe(write(columns), questions)
    for question in questions:
        finite = columns[question.name][np.isfinite(columns[question.name])]
        assert described[question.name].quantiles == (np.quantile(finite, 0.5, method="inverted_cdf"),)
    assert max(sorted_rows) < ROWS
    assert sum(sorted_rows) < 2 * ROWS


@pytest.mark.usefixtures("few_rows_are_many")
def test_a_sample_that_misleads_is_found_out(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets that miss the wanted ranks cost a sort, not the result."""
    monkeypatch.setattr(sql, "_sampled", lambda *_: [(5.0, 6.0)])
    values = np.random.default_rng(1).normal(size=ROWS)
    described = sql.describe(write({"x": values}), [Question("x", "numeric", DECILES)])["x"]
    assert described.quantiles == tuple(np.quantile(values, [float(q) for q in DECILES], method="inverted_cdf"))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 10, 20, 101])
def test_quantiles_are_values_at_the_stated_place(write: Write, rows: int) -> None:
    """Of n values ascending, level q is the one at place ceil(q·n): no interpolation, and no rounding of q·n."""
    values = np.random.default_rng(rows).normal(size=rows)
    described = sql.describe(write({"x": values}), [Question("x", "numeric", DECILES)])["x"]
    places = [math.ceil(level * rows) for level in DECILES]
    assert described.quantiles == tuple(np.sort(values)[place - 1] for place in places)


def test_nan_in_a_parquet_file_with_statistics_is_missing(write: Write) -> None:
    """A file's statistics leave NaN out, and DuckDB lets them decide comparisons: NaN is missing all the same."""
    values = np.array([math.nan] * 20 + [float(value) for value in range(80)])
    table = write({"x": values})
    described = sql.describe(table, [Question("x", "numeric", (Fraction(1, 2),))])["x"]
    assert (described.missing, described.nonfinite, described.maximum) == (20, 0, 79.0)
    counted = sql.count(table, [Cells("x", "numeric", edges=(39.0,))])["x"]
    assert counted.counts == (40, 40, 20, 0)
    assert counted.means == (19.5, 59.5)


def test_a_value_equal_to_an_edge_is_below_it_to_the_last_bit(write: Write) -> None:
    """Edges reach the database unrounded, whatever their digits: cells are those that numpy counts."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(size=300) * 10.0**power for power in (-300, -20, -5, 0, 5, 20, 300)])
    edges = tuple(np.sort(rng.choice(values, 50, replace=False)).tolist())
    counted = sql.count(write({"x": values}), [Cells("x", "numeric", edges=edges)])["x"]
    assert counted.counts == tuple(Bins("numeric", edges).count(values)[0].tolist())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.one_of(st.none(), st.floats()), max_size=40), edges=st.sets(st.floats(-1e3, 1e3), max_size=5))
def test_any_numbers_are_counted_as_in_memory(connection: Any, values: list[float | None], edges: set[float]) -> None:
    """Counts equal those of Bins.count and quantiles are values that occur, for arbitrary floats and gaps."""
    table = _in_memory(connection, pa.array(values, pa.float64(), from_pandas=False))
    ascending = tuple(sorted({edge + 0.0 for edge in edges}))
    counted = sql.count(table, [Cells("x", "numeric", edges=ascending)])["x"]
    assert counted.counts == tuple(Bins("numeric", ascending).count(values)[0].tolist())
    described = sql.describe(table, [Question("x", "numeric", DECILES)])["x"]
    finite = sorted(value for value in values if value is not None and math.isfinite(value))
    assert described.quantiles == tuple(finite[math.ceil(level * len(finite)) - 1] for level in DECILES if finite)
    assert described.missing == counted.counts[-2]
    assert described.nonfinite == counted.counts[-1]


def _in_memory(connection: Any, column: Any) -> Any:
    connection.con.register("given", pa.table({"x": column}))
    return connection.table("given")


def test_the_largest_and_smallest_floats_have_finite_means(write: Write) -> None:
    """Sums that overflow and squares that underflow are scaled away."""
    top = float(np.finfo(float).max)
    table = write({"high": [top, top, top / 2], "low": [2e-300, 4e-300, 6e-300]})
    described = sql.describe(table, [Question(name, "numeric") for name in ("high", "low")])
    assert described["high"].mean == pytest.approx(top / 6 * 5)
    assert described["high"].std == pytest.approx(top / 6 * math.sqrt(2))
    assert described["low"].std == pytest.approx(math.sqrt(8 / 3) * 1e-300)
    assert sql.count(table, [Cells("high", "numeric")])["high"].means == pytest.approx((top / 6 * 5,))


def test_values_far_from_zero_keep_their_deviation(write: Write) -> None:
    """A deviation of a billionth of the mean is not lost in the sums."""
    values = 1e9 + np.random.default_rng(2).integers(0, 8, 1_000) / 8
    described = sql.describe(write({"x": values}), [Question("x", "numeric")])["x"]
    assert described.std == pytest.approx(np.std(values - 1e9), rel=1e-9)
    assert described.mean - 1e9 == pytest.approx(np.mean(values - 1e9), rel=1e-6)


def test_types_that_cannot_be_counted_say_what_to_do(write: Write) -> None:
    """Dates, nested values and bytes are refused with the column, the type and the way out."""
    table = write({
        "when": [dt.datetime(2026, 1, 1)],  # noqa: DTZ001 - a column without a zone
        "day": [dt.date(2026, 1, 1)],
        "hour": [dt.time(1, 2)],
        "many": [[1, 2]],
        "raw": [b"x"],
        "money": [Decimal("1.10")],
        "word": ["x"],
    })  # fmt: skip
    types = sql.column_types(table)
    assert {name: found.kind for name, found in types.items()} == {
        "when": None, "day": None, "hour": None, "many": None, "raw": None, "money": "numeric", "word": "categorical",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"5 columns cannot be(.|\n)*'when' holds dates.*age in days, or leave"):
        Profile.fit(table, model="m")


def test_decimals_are_numbers(write: Write) -> None:
    """A decimal column gives the profile of its float64 values."""
    values = [Decimal(cents).scaleb(-2) for cents in range(500)]
    one = Profile.fit(write({"x": pa.array(values, pa.decimal128(12, 2))}), model="m")
    _assert_same(one, Profile.fit({"x": [float(value) for value in values]}, model="m"))


def test_categories_come_most_frequent_first_and_ties_by_value(write: Write) -> None:
    """Among equally frequent categories the smaller has the cell, in Python's order of text, not the database's."""
    words = ["b"] * 3 + ["ä"] * 2 + ["Z"] * 2 + ["a"] * 2 + ["c"]
    described = sql.describe(write({"x": [*words, None]}), [Question("x", "categorical", most=3)])["x"]
    assert described.categories == (("b", 3), ("Z", 2), ("a", 2))
    assert (described.rows, described.missing, described.distinct) == (11, 1, 5)


def test_many_distinct_values_are_counted_nearly(write: Write) -> None:
    """Beyond what is fetched the number of distinct values is the database's estimate."""
    described = sql.describe(
        write({"x": [f"user-{number}" for number in range(20_000)]}), [Question("x", "categorical", most=10)]
    )["x"]
    assert described.distinct == pytest.approx(20_000, rel=0.1)
    assert len(described.categories) == 10


def test_an_identifier_is_refused(write: Write) -> None:
    """A column of text with a value of its own on most rows has no place in a profile."""
    with pytest.raises(ValueError, match="'user' looks like an identifier"):
        Profile.fit(write({"user": [f"user-{number}" for number in range(5_000)]}), model="m")


def test_an_approximate_count_stays_within_the_rows(write: Write) -> None:
    """However wide the engine's guess, there are no more categories than values."""
    for rows in range(2_000, 9_001, 500):
        table = write({"user": [f"user-{number}" for number in range(rows)] + [None]})
        distinct = sql.describe(table, [Question("user", "categorical", most=10)])["user"].distinct
        assert rows / 2 < distinct <= rows


@pytest.mark.parametrize(
    ("values", "categories", "counts"),
    [
        ([1, 2, 2, None], (2, 1.0, "2", 0.5), (2, 1, 0, 0, 1, 0)),
        ([1.0, 0.5, math.nan, None], (1, 0.5, True), (1, 1, 0, 2, 0)),
        ([True, False, False, None], (False, 1), (2, 1, 1, 0)),
        (["1", "it's", "x", None], ("it's", 1, "1"), (1, 0, 1, 1, 1)),
    ],
)
def test_categories_are_compared_as_python_compares(
    write: Write, values: list[Any], categories: tuple[Any, ...], counts: tuple[int, ...]
) -> None:
    """1, 1.0 and True are one category and the text "1" another, on every type of column."""
    counted = sql.count(write({"x": values}), [Cells("x", "categorical", categories=categories)])["x"]
    assert counted.counts == counts


def test_text_is_not_counted_as_numbers(write: Write) -> None:
    """A column whose type has changed since the profile it is to be like is refused by name."""
    with pytest.raises(ValueError, match="'x' holds string values, which cannot be counted as numbers"):
        sql.count(write({"x": ["a"]}), [Cells("x", "numeric", edges=(1.0,))])


def test_calibration_leaves_out_rows_without_label_or_score(write: Write) -> None:
    """Rows, positives and mean score by right-closed bin, of rows that have both."""
    table = write({
        "score": [0.1, 0.5, 0.5, 0.9, math.nan, None, 0.9],
        "label": ["no", "yes", "no", "yes", "yes", "yes", None],
    })  # fmt: skip
    found = sql.calibrate(table, "score", "label", (0.5,), "yes")
    assert [(part.rows, part.positives) for part in found] == [(3, 1), (1, 1)]
    assert [part.mean_score for part in found] == pytest.approx([1.1 / 3, 0.9])
    assert sql.labels_of(table, "label") == ["no", "yes"]
    with pytest.raises(ValueError, match="of type string, which never equals 1"):
        sql.calibrate(table, "score", "label", (0.5,), 1)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.2}, {"positive_class": 0, "threshold": 0.9}])
def test_a_table_gives_the_calibration_that_arrays_give(write: Write, options: dict[str, Any]) -> None:
    """Edges, positives and rows of a hundred bins are the same, mean scores to nine digits, and so is the id."""
    columns = {name: values for name, values in _columns().items() if name in ("score", "label", "flag")}
    table = Profile.fit(write(columns), outputs="score", labels="label", model="m", **options)
    arrays = Profile.fit(columns, outputs="score", labels="label", model="m", **options)
    _assert_same(table, arrays)
    assert table.outputs is not None
    assert arrays.outputs is not None
    mine, theirs = table.outputs.calibration, arrays.outputs.calibration
    assert mine is not None
    assert theirs is not None
    assert len(mine.uppers) == 100
    assert (mine.uppers, mine.positives, mine.rows) == (theirs.uppers, theirs.positives, theirs.rows)
    assert mine.mean_scores == pytest.approx(theirs.mean_scores, rel=1e-9)
    assert (table.outputs.threshold, table.outputs.positive_class) == (
        arrays.outputs.threshold,
        arrays.outputs.positive_class,
    )


def test_a_table_gives_the_errors_that_arrays_give(write: Write) -> None:
    """A regression's error bins are the same, and so is the id; what is missing or not finite is left out."""
    columns = {"value": _columns()["normal"] * 40, "label": _columns()["normal"] * 40}
    rng = np.random.default_rng(11)
    columns["label"] = columns["label"] + rng.normal(0, 5, len(columns["label"]))
    columns["label"][:9] = [math.nan, math.inf, -math.inf, 1e300, -1e300, 1e308, 0.0, 1.0, math.nan]
    columns["x"] = rng.normal(size=len(columns["label"]))
    table = Profile.fit(write(columns), outputs="value", labels="label", model="m")
    arrays = Profile.fit(columns, outputs="value", labels="label", model="m")
    _assert_same(table, arrays)
    assert table.outputs is not None
    assert arrays.outputs is not None
    mine, theirs = table.outputs.errors, arrays.outputs.errors
    assert mine is not None
    assert theirs is not None
    assert len(mine.uppers) == 20
    assert (mine.uppers, mine.rows) == (theirs.uppers, theirs.rows)
    assert sum(mine.rows) == len(columns["label"]) - 7
    for field in ("absolute", "squared", "signed"):
        assert getattr(mine, field) == pytest.approx(getattr(theirs, field), rel=1e-9, abs=1e-9)


def test_shards_merge_to_the_whole(write: Write) -> None:
    """Profiles of three parts with the bins of the whole, merged, are the profile of the whole."""
    columns = _columns()
    whole = Profile.fit(write(columns), outputs="score", labels="label", model="m")
    parts = [
        Profile.fit(
            write({name: values[start : start + 2_000] for name, values in columns.items()}),
            outputs="score", labels="label", model="m", like=whole,
        )
        for start in range(0, ROWS, 2_000)
    ]  # fmt: skip
    _assert_same(parts[0].merge(parts[1]).merge(parts[2]), whole)


def test_an_empty_table_has_nothing_to_describe(write: Write) -> None:
    """No rows are no error of the database's: zeros, and no quantiles."""
    table = write({"x": pa.array([], pa.float64()), "c": pa.array([], pa.string())})
    found = sql.describe(table, [Question("x", "numeric", DECILES), Question("c", "categorical", most=5)])
    assert (found["x"].rows, found["x"].quantiles, found["x"].mean) == (0, (), None)
    assert (found["c"].rows, found["c"].missing, found["c"].categories) == (0, 0, ())


def test_progress_goes_column_by_column(write: Write) -> None:
    """Both queries say after each column how many are done."""
    table = write({"a": [1.0, 2.0], "b": ["x", "y"]})
    told: list[tuple[int, int]] = []
    sql.describe(
        table, [Question("a", "numeric", DECILES), Question("b", "categorical", most=5)],
        progress=lambda done, size: told.append((done, size)),
    )  # fmt: skip
    sql.count(table, [Cells("a", "numeric")], progress=lambda done, size: told.append((done, size)))
    assert told == [(1, 2), (2, 2), (1, 1)]


def test_only_an_ibis_table_is_one(write: Write) -> None:
    """Other tables are not taken for SQL, and asking imports no ibis."""
    assert sql.is_sql(write({"x": [1.0]}))
    assert not sql.is_sql(pa.table({"x": [1.0]}))
    run("""
        import sys
        from otel_mlobs.tables import sql
        assert not sql.is_sql({"x": [1.0]})
        assert "ibis" not in sys.modules
    """)


@pytest.mark.slow
def test_spark_gives_the_profile_that_duckdb_gives(tmp_path: Path, write: Write) -> None:
    """Spark in local mode counts the same files to the same profile, sorted and by brackets."""
    pytest.importorskip("pyspark")
    program = f"""
import ibis
from pyspark.sql import SparkSession
from otel_mlobs.core.profile import Profile
from otel_mlobs.tables import sql

session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
session = session.config("spark.sql.shuffle.partitions", "1").getOrCreate()
table = ibis.pyspark.connect(session).read_parquet({str(_spark_file(tmp_path))!r})
Profile.fit(table, outputs="score", labels="label", model="m").save({str(tmp_path / "sorted.json")!r})
sql.SORTED, sql.SAMPLE, sql._GRID = 100, 1_000, 100
Profile.fit(table, outputs="score", labels="label", model="m").save({str(tmp_path / "sampled.json")!r})
"""
    environment = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    duckdb = Profile.fit(write(_columns()), outputs="score", labels="label", model="m")
    for name in ("sorted", "sampled"):
        _assert_same(Profile.load(tmp_path / f"{name}.json"), duckdb)


def _spark_file(folder: Path) -> Path:
    path = folder / "spark.parquet"
    pq.write_table(pa.table(_columns()), path)
    return path
