"""Columns of a table in a database, through ibis: DuckDB, PostgreSQL, Spark, BigQuery, Snowflake, … do the work.

No row leaves the database. All answers are exact and the same on every engine, the last digits of means apart, which
depend on the order in which an engine adds:

- missing is NULL and NaN, and no NaN is ever compared: engines order it above all numbers, but DuckDB not where the
  statistics in a Parquet file, which leave NaN out, let it decide a comparison without looking (duckdb issue 25521);
- a quantile is a value that occurs. Databases' own quantiles interpolate, differ between engines, and hold a whole
  column in memory. Here the column is narrowed to brackets around the wanted ranks, found in a random sample; what lies
  below them is counted, what lies inside is sorted. A bracket that misses its rank is found out by the counts, and
  costs a sort of the whole column, nothing else.

The table is read once or twice for all columns together and about five times for each numeric one, column by column.
That is cheap where columns lie apart (Parquet, DuckDB, BigQuery); an expensive query is better stored first
(``table.cache()``). Rows that change in between make the counts differ: give a snapshot.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_mlobs.tables import LARGEST, SMALLEST, Calibrated, ColumnType, Counted, Described, Erred
from otel_mlobs.tables.frames import BYTES, DATES, NESTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from fractions import Fraction

    from otel_mlobs.tables import Category, Cells, Question

    Progress = Callable[[int, int], None]
    Interval = tuple[float, float]

SORTED = 4_000_000
"""Columns of up to this many finite values are sorted whole."""
SAMPLE = 1_000_000
"""Rows in the sample that brackets are taken from; a fixed number, so the brackets' share of the rows is fixed."""
_GRID = 2_000
"""Values of the sorted sample that are fetched, evenly apart."""
_SIGMAS = 6.0
"""How far a bracket reaches on either side, in standard deviations of a sample's rank."""
_BATCH = 50
"""Columns described by one query: engines bound the number of expressions."""
_TIES = 1_000
"""Categories fetched beyond those wanted: engines order texts differently, so ties are settled here."""
_LARGE = 2.0**900
"""Sums of larger values may overflow."""
_SCALE = 2.0**-64
"""Scaled by this, they do not; a power of two changes no digit."""


def is_sql(data: object) -> bool:
    """Whether ``data`` is an ibis table; imports nothing."""
    types = sys.modules.get("ibis.expr.types")
    return types is not None and isinstance(data, types.Table)


def column_types(table: Any) -> dict[str, ColumnType]:
    """How each column is counted, in the table's order."""
    return {name: _column_type(dtype) for name, dtype in table.schema().items()}


def _column_type(dtype: Any) -> ColumnType:
    if dtype.is_boolean():
        return ColumnType("boolean")
    if dtype.is_numeric():
        return ColumnType("numeric", integer=dtype.is_integer())
    if dtype.is_string():
        return ColumnType("categorical")
    refusal = ", or leave it out with exclude="
    if dtype.is_temporal() or dtype.is_interval():
        return ColumnType(None, problem=f"holds dates or durations ({dtype}); {DATES}{refusal}")
    if dtype.is_nested() or dtype.is_json():
        return ColumnType(None, problem=f"holds nested values ({dtype}); {NESTED}{refusal}")
    if dtype.is_binary():
        return ColumnType(None, problem=f"holds bytes ({dtype}); {BYTES}{refusal}")
    return ColumnType(None, problem=f"is of type {dtype}; cast it to text or a number{refusal}")


def describe(table: Any, questions: Sequence[Question], *, progress: Progress | None = None) -> dict[str, Described]:
    """Answer each question: what is needed to choose a column's bins.

    Raises ValueError where text is to be counted as numbers.
    """
    described: dict[str, Described] = {}
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        summaries = _summaries(table, batch)
        for question, summary in zip(batch, summaries, strict=True):
            if question.kind == "numeric":
                described[question.name] = _describe_numbers(table, question, summary)
            else:
                described[question.name] = _describe_categories(table, question, summary)
            if progress is not None:
                progress(len(described), len(questions))
    return described


@dataclass(frozen=True)
class _Summary:
    """What one pass over the table tells of a column; of a categorical one only how many values are present."""

    rows: int
    present: int
    nonfinite: int = 0
    finite: int = 0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None


def _summaries(table: Any, questions: Sequence[Question]) -> list[_Summary]:
    """One pass for counts and extremes, then, where there are numbers, one for means: those need the extremes."""
    import ibis

    asked: dict[str, Any] = {"rows": table.count()}
    for place, question in enumerate(questions):
        if question.kind != "numeric":
            asked[f"present{place}"] = _present(_category(table, question.name)).sum()
            continue
        number = _number(table, question.name)
        finite = _finite(number)
        asked[f"nonfinite{place}"] = _is_infinite(number).sum()
        asked[f"finite{place}"] = finite.count()
        asked[f"low{place}"] = finite.min()
        asked[f"high{place}"] = finite.max()
    first = _fetch(table.aggregate(**asked))[0]
    moments: dict[str, Any] = {}
    scales, shifts = {}, {}
    for place, question in enumerate(questions):
        if question.kind != "numeric" or not first[f"finite{place}"]:
            continue
        low, high = first[f"low{place}"], first[f"high{place}"]
        scales[place] = scale = _moderate(low, high)
        shifts[place] = shift = max(low, 0.0) + min(high, 0.0)  # values far from zero and close together lose nothing
        value = _finite(_number(table, question.name)) - _exact(shift)
        if scale != 1.0:
            # What is next to nothing beside the largest value is nothing: PostgreSQL fails where a product underflows.
            negligible = value.abs() < _exact(max(abs(low), abs(high)) * 2.0**-64)
            value = ibis.ifelse(negligible, _exact(0.0), value) * _exact(scale)
        moments[f"mean{place}"] = value.mean()
        moments[f"std{place}"] = value.std(how="pop")
    second = _fetch(table.aggregate(**moments))[0] if moments else {}
    return [
        _Summary(
            rows=int(first["rows"]),
            present=int(first.get(f"present{place}") or 0),  # the sum over no rows is NULL
            nonfinite=int(first.get(f"nonfinite{place}") or 0),
            finite=int(first.get(f"finite{place}") or 0),
            low=first.get(f"low{place}"),
            high=first.get(f"high{place}"),
            mean=second[f"mean{place}"] / scales[place] + shifts[place] if place in scales else None,
            std=second[f"std{place}"] / scales[place] if place in scales else None,
        )
        for place in range(len(questions))
    ]


def _moderate(low: float, high: float) -> float:
    """A power of two that brings values between ``low`` and ``high`` to where their squares can be summed."""
    exponent = math.frexp(max(abs(low), abs(high)))[1]
    return 1.0 if abs(exponent) < 400 else 2.0 ** max(-1000, min(1000, -exponent))


def _describe_numbers(table: Any, question: Question, summary: _Summary) -> Described:
    quantiles: tuple[float, ...] = ()
    if summary.low is not None and summary.high is not None:
        quantiles = _quantiles(table, question, summary.finite, (summary.low, summary.high))
    return Described(
        question.name,
        rows=summary.rows,
        missing=summary.rows - summary.finite - summary.nonfinite,
        nonfinite=summary.nonfinite,
        quantiles=quantiles,
        minimum=summary.low,
        maximum=summary.high,
        mean=summary.mean,
        std=summary.std,
    )


def _describe_categories(table: Any, question: Question, summary: _Summary) -> Described:
    import ibis

    value = _category(table, question.name)
    limit = question.most + _TIES
    grouped = table.filter(_present(value)).group_by(value=value).aggregate(rows=lambda kept: kept.count())
    found = [
        (_plain(row["value"]), int(row["rows"]))
        for row in _fetch(grouped.order_by([ibis.desc("rows"), "value"]).limit(limit))
    ]  # fmt: skip
    distinct = len(found)
    if distinct == limit:
        approximate = int(_fetch(table.aggregate(distinct=value.approx_nunique()))[0]["distinct"])
        distinct = min(max(limit, approximate), summary.present)
    found.sort(key=lambda pair: (-pair[1], pair[0]))
    return Described(
        question.name,
        rows=summary.rows,
        missing=summary.rows - summary.present,
        distinct=distinct,
        categories=tuple(found[: question.most]),
    )


def _quantiles(table: Any, question: Question, rows: int, extremes: Interval) -> tuple[float, ...]:
    """The values at the ranks that the question's levels mean, among ``rows`` finite values."""
    if extremes[0] == extremes[1] or not question.levels:
        return (extremes[0],) * len(question.levels)
    number = _number(table, question.name)
    brackets = [_Bracket(extremes, 0, rows)]
    ranks = [max(1, math.ceil(level * rows)) for level in question.levels]
    if rows > SORTED:
        sampled = _count_brackets(table, number, _sampled(table, number, question.levels, rows, extremes))
        if all(any(bracket.holds(rank) for bracket in sampled) for rank in ranks):
            brackets = sampled
    single = [bracket for bracket in brackets if bracket.interval[0] == bracket.interval[1]]
    values = {rank: bracket.interval[0] for rank in ranks for bracket in single if bracket.holds(rank)}
    wide = [bracket for bracket in brackets if bracket not in single]
    values.update(_at_ranks(table, number, wide, [rank for rank in ranks if rank not in values]))
    return tuple(values[rank] for rank in ranks)


@dataclass(frozen=True)
class _Bracket:
    """An interval of values, both ends in it; ``below`` values are less than its lower end, ``upto`` not above it."""

    interval: Interval
    below: int
    upto: int

    def holds(self, rank: int) -> bool:
        return self.below < rank <= self.upto


def _sampled(
    table: Any, number: Any, levels: Sequence[Fraction], rows: int, extremes: Interval
) -> list[Interval]:  # fmt: skip
    """Intervals, disjoint and ascending, that hold the quantiles unless the sample is a strange one."""
    import ibis

    values = table.select(value=_finite(number))
    values = values.filter(values.value.notnull()).sample(SAMPLE / rows)
    ranked = values.mutate(rank=ibis.row_number().over(order_by="value"))  # counted from zero
    step = max(1, SAMPLE // _GRID)
    grid = sorted(row["value"] for row in _fetch(ranked.filter(ranked.rank % step == 0).select("value")))
    merged: list[Interval] = []
    for level in sorted(levels):
        middle = float(level) * len(grid)
        reach = _SIGMAS * math.sqrt(float(level * (1 - level)) / SAMPLE) * len(grid) + 1
        start, end = math.floor(middle - reach), math.ceil(middle + reach)
        low = grid[start] if start > 0 and grid else extremes[0]
        high = grid[end] if end < len(grid) else extremes[1]
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _count_brackets(table: Any, number: Any, intervals: Sequence[Interval]) -> list[_Bracket]:
    finite = _finite(number)
    asked = {}
    for place, (low, high) in enumerate(intervals):
        asked[f"below{place}"] = (finite < _exact(low)).sum()
        asked[f"upto{place}"] = (finite <= _exact(high)).sum()
    counted = _fetch(table.aggregate(**asked))[0]
    return [
        _Bracket(interval, int(counted[f"below{place}"]), int(counted[f"upto{place}"]))
        for place, interval in enumerate(intervals)
    ]


def _at_ranks(table: Any, number: Any, brackets: Sequence[_Bracket], ranks: Iterable[int]) -> dict[int, float]:
    """The value at each rank, all of which lie in the brackets: only what lies in those is sorted."""
    import ibis

    inner, before = {}, 0
    wanted = set(ranks)
    for bracket in brackets:
        inner.update({rank: rank - bracket.below + before for rank in wanted if bracket.holds(rank)})
        before += bracket.upto - bracket.below
    if not inner:
        return {}
    values = table.select(value=_finite(number))
    inside = ibis.or_(*(
        (values.value >= _exact(low)) & (values.value <= _exact(high))
        for low, high in (bracket.interval for bracket in brackets)
    ))  # fmt: skip
    grouped = values.filter(inside).group_by("value").aggregate(rows=lambda kept: kept.count())
    ordered = grouped.mutate(upto=grouped.rows.sum().over(ibis.cumulative_window(order_by="value")))
    at = ibis.or_(*(
        (ordered.upto >= rank) & (ordered.upto - ordered.rows < rank) for rank in sorted(set(inner.values()))
    ))  # fmt: skip
    found = _fetch(ordered.filter(at))
    return {
        rank: row["value"]
        for rank, place in inner.items()
        for row in found
        if int(row["upto"]) - int(row["rows"]) < place <= int(row["upto"])
    }


def count(table: Any, cells: Sequence[Cells], *, progress: Progress | None = None) -> dict[str, Counted]:
    """Count each column's rows into its cells, one query a column."""
    counted = {}
    for wanted in cells:
        counted[wanted.name] = (_count_numbers if wanted.kind == "numeric" else _count_categories)(table, wanted)
        if progress is not None:
            progress(len(counted), len(cells))
    return counted


def _count_numbers(table: Any, cells: Cells) -> Counted:
    number = _number(table, cells.name)
    values = len(cells.edges) + 1
    code = _cell(number, cells.edges, missing=values, nonfinite=values + 1)
    grouped = table.group_by(code=code).aggregate(rows=table.count(), **_sums(_finite(number)))
    found = {int(row["code"]): row for row in _fetch(grouped)}
    means = tuple(_mean(found[place]) if place in found else None for place in range(values))
    return Counted(cells.name, _in_order(found, values), means)


def _count_categories(table: Any, cells: Cells) -> Counted:
    import ibis

    value = _category(table, cells.name)
    values = len(cells.categories)
    known = [
        (value == comparable, place)
        for place, category in enumerate(cells.categories)
        if (comparable := _comparable(category, value.type())) is not None
    ]
    code = ibis.cases(*known, (_present(value), values + 1), else_=values)
    found = {int(row["code"]): row for row in _fetch(table.group_by(code=code).aggregate(rows=table.count()))}
    return Counted(cells.name, _in_order(found, values))


def _in_order(found: Mapping[int, Mapping[str, Any]], values: int) -> tuple[int, ...]:
    return tuple(int(found[place]["rows"]) if place in found else 0 for place in range(values + 2))


def labels_of(table: Any, label: str) -> list[Category]:
    """The labels that occur, ascending, at most three of them."""
    value = _category(table, label)
    distinct = table.filter(_present(value)).select(label=value).distinct()
    return sorted(_plain(row["label"]) for row in _fetch(distinct.limit(3)))


def calibrate(
    table: Any, score: str, label: str, uppers: tuple[float, ...], positive: Category
) -> list[Calibrated]:  # fmt: skip
    """Rows, positives and mean score by bin of the score, ``len(uppers) + 1`` of them, right-closed.

    Rows without a label or a finite score are left out.
    """
    number, answer = _number(table, score), _category(table, label)
    kept = table.filter(_is_finite(number), _present(answer))
    number, answer = _number(kept, score), _category(kept, label)
    comparable = _comparable(positive, answer.type())
    if comparable is None:
        raise ValueError(f"labels {label!r} are of type {answer.type()}, which never equals {positive!r}")
    code = _cell(number, uppers, missing=-1, nonfinite=-1)
    grouped = kept.group_by(code=code).aggregate(
        rows=kept.count(), positives=(answer == comparable).sum(), **_sums(number)
    )
    return [
        Calibrated(0, 0, None) if row is None else Calibrated(int(row["rows"]), int(row["positives"]), _mean(row))
        for row in _by_bin(grouped, uppers)
    ]


def errors(table: Any, value: str, label: str, uppers: tuple[float, ...]) -> list[Erred]:
    """Likewise rows and mean errors by bin of the predicted value, of rows where it and the label are finite."""
    import ibis

    kept = table.select(value=_number(table, value), label=_number(table, label))
    kept = kept.filter(*(_is_finite(one) & (one.abs() < _exact(LARGEST)) for one in (kept.value, kept.label)))
    error = kept.value - kept.label
    root = ibis.ifelse(error.abs() < _exact(SMALLEST), _exact(0.0), error)
    grouped = kept.group_by(code=_cell(kept.value, uppers, missing=-1, nonfinite=-1)).aggregate(
        rows=kept.count(), absolute=error.abs().sum(), squared=(root * root).sum(), signed=error.sum()
    )
    fields = ("absolute", "squared", "signed")
    return [
        Erred(0) if row is None else Erred(int(row["rows"]), *(row[field] / row["rows"] for field in fields))
        for row in _by_bin(grouped, uppers)
    ]


def _by_bin(grouped: Any, uppers: Sequence[float]) -> list[dict[str, Any] | None]:
    found = {int(row["code"]): row for row in _fetch(grouped)}
    return [found.get(place) for place in range(len(uppers) + 1)]


def _number(table: Any, name: str) -> Any:
    """The column as double precision."""
    column = table[name]
    if column.type().is_boolean():
        column = column.cast("int64")  # PostgreSQL does not cast booleans to floats
    elif not column.type().is_numeric():
        raise ValueError(f"column {name!r} holds {column.type()} values, which cannot be counted as numbers")
    return column.cast("float64")


def _category(table: Any, name: str) -> Any:
    """The column as text, integers, floats or booleans."""
    column = table[name]
    return column.cast("float64") if column.type().is_decimal() else column


def _plain(value: Category) -> Category:
    """Whole floats as integers, as in memory: a column of integers with gaps is one of floats in many a library."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _present(value: Any) -> Any:
    return _is_finite(value) | _is_infinite(value) if value.type().is_floating() else value.notnull()


def _is_finite(number: Any) -> Any:
    return number - number == _exact(0.0)  # infinity less itself is NaN


def _is_infinite(number: Any) -> Any:
    return (number == _exact(math.inf)) | (number == _exact(-math.inf))


def _finite(number: Any) -> Any:
    """The number where it is finite, else NULL."""
    import ibis

    return ibis.ifelse(_is_finite(number), number, ibis.null("float64"))


def _cell(number: Any, edges: Sequence[float], *, missing: int, nonfinite: int) -> Any:
    """The number's cell: value cells from 0, right-closed. NULL is in no comparison true, and falls through."""
    import ibis

    finite = _finite(number)
    return ibis.cases(
        *((finite <= _exact(edge), place) for place, edge in enumerate(edges)),
        (finite.notnull(), len(edges)),
        (_is_infinite(number), nonfinite),
        else_=missing,
    )


def _sums(number: Any) -> dict[str, Any]:
    """What :func:`_mean` needs; PostgreSQL's own mean sums squares, too, and fails where they overflow."""
    import ibis

    large = (number > _exact(_LARGE)) | (number < _exact(-_LARGE))
    return {
        "large": ibis.ifelse(large, number * _exact(_SCALE), _exact(0.0)).sum(),
        "small": ibis.ifelse(large, _exact(0.0), number).sum(),
    }


def _mean(row: Mapping[str, Any]) -> float:
    mean: float = row["large"] / row["rows"] / _SCALE + row["small"] / row["rows"]
    return mean


def _exact(value: float) -> Any:
    """``value`` as a literal that every engine reads to the last bit.

    DuckDB reads a plain 0.1 as a decimal, and its cast to double precision rounds twice; text is parsed correctly.
    """
    import ibis

    text = repr(float(value)).replace("inf", "Infinity")
    return ibis.literal(text).cast("float64")


def _comparable(category: Category, dtype: Any) -> Any:
    """A literal that compares with a column of this type as Python compares; None where it never equals."""
    import ibis

    if dtype.is_string():
        return ibis.literal(category) if isinstance(category, str) else None
    if isinstance(category, str) or category != category:  # noqa: PLR0124 - NaN equals nothing
        return None
    if dtype.is_boolean():
        return ibis.literal(bool(category)) if category in (0, 1) else None
    if dtype.is_integer():
        whole = math.isfinite(category) and category == int(category)
        return ibis.literal(int(category)) if whole else None
    return _exact(float(category))


def _fetch(query: Any) -> list[dict[str, Any]]:
    """The rows; a negative zero becomes zero, which equals it: engines differ in which of the two they keep."""
    rows = query.to_pyarrow().to_pylist()
    return [{key: value + 0.0 if isinstance(value, float) else value for key, value in row.items()} for row in rows]
