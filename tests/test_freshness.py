"""What feature lookups count: who was found, with which values, how old they were, whether sampled or not."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from receiver import Receiver, run

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.integrations import feast
from otel_mlobs.telemetry import freshness, lookups
from otel_mlobs.telemetry.timestamps import listed, seconds_of

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from otel_mlobs.testing import Telemetry

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)
EPOCH = WHEN.timestamp()
NAIVE = WHEN.replace(tzinfo=None)


def old(seconds: float) -> float:
    """A timestamp ``seconds`` ago."""
    return time.time() - seconds


def counts(telemetry: Telemetry, view: str) -> dict[str, float]:
    """What the counters of a view say; those at zero are left out."""
    found: dict[str, float] = {}
    for metric in (
        semconv.FEATURE_LOOKUPS,
        semconv.FEATURE_VALUES,
        semconv.FEATURE_AGED_LOOKUPS,
        semconv.FEATURE_STALE_LOOKUPS,
    ):
        for point in telemetry.metrics.get(metric.name, []):
            if point.attributes.get(semconv.FEATURE_VIEW_NAME) == view and point.value:
                kind = point.attributes.get(semconv.LOOKUP_RESULT) or point.attributes.get(semconv.FEATURE_VALUE)
                found[kind or metric.name.rpartition(".")[2].partition("_")[0]] = point.value
    return found


def attributes(telemetry: Telemetry) -> dict[str, Any]:
    """What the only span says of the features."""
    (span,) = telemetry.spans
    return {
        key.removeprefix("mlobs.feature."): value
        for key, value in (span.attributes or {}).items()
        if key.startswith("mlobs.feature.")
    }


# -- timestamps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        WHEN,
        NAIVE,
        WHEN.astimezone(timezone(timedelta(hours=5, minutes=30))),
        EPOCH,
        int(EPOCH * 1e3),
        int(EPOCH * 1e6),
        int(EPOCH * 1e9),
        str(EPOCH),
        f" {EPOCH}\n".encode(),
        memoryview(str(EPOCH).encode()),
        WHEN.isoformat(),
        WHEN.isoformat().encode(),
        WHEN.isoformat().replace("+00:00", "Z"),
        NAIVE.isoformat(),
        "2026-01-02 03:04:05.6789+00",
        "2026-01-02T04:04:05.678900000+0100",
        "2026-01-02T08:34:05,6789+05:30",
        np.datetime64(NAIVE),
        np.datetime64(NAIVE, "ns"),
        np.float64(EPOCH),
        np.int64(EPOCH * 1e3),
        pd.Timestamp(WHEN),
        pd.Timestamp(NAIVE),
        pa.scalar(WHEN),
        pa.scalar(EPOCH),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_timestamp_is_read_however_it_is_written(value: object) -> None:
    """Every form gives the same moment, to the millisecond."""
    assert seconds_of(value) == pytest.approx(EPOCH, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(2026, 1, 2), "2026-01-02T00:00:00+00:00"),
        ("2026-01-02", "2026-01-02T00:00:00+00:00"),
        ("2026-01-02 03:04", "2026-01-02T03:04:00+00:00"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"),
    ],
)
def test_a_date_is_its_midnight_and_what_is_left_out_is_zero(value: object, expected: str) -> None:
    """All in UTC."""
    assert seconds_of(value) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize("value", [None, float("nan"), pd.NaT, pd.NA, np.datetime64("NaT", "s"), "", b" "], ids=repr)
def test_a_missing_timestamp_is_none(value: object) -> None:
    """And no error: a null says nothing."""
    assert seconds_of(value) is None


@pytest.mark.parametrize(
    "value", [True, 0, -1, 42.5, 1e8 - 1, float("inf"), "soon", b"\xff", "2026-13-01", "2026-01-02 03:04.5", [1], {}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_timestamp_raises(value: object) -> None:
    """An age among them, and 0, which is what nobody set."""
    with pytest.raises(ValueError, match=r"no timestamp|month must be"):
        seconds_of(value)


@pytest.mark.parametrize(
    "column",
    [
        [WHEN, None],
        (EPOCH, float("nan")),
        pd.Series([WHEN, None]),
        pd.Series([NAIVE, None]),
        pd.Series([WHEN.astimezone(timezone(timedelta(hours=-8))), None]),
        pd.Series([EPOCH, None]),
        pd.Series([WHEN.isoformat(), None]),
        pl.Series([WHEN, None]),
        pl.Series([NAIVE, None]),
        pl.Series([WHEN.isoformat(), None]),
        pa.array([WHEN, None]),
        pa.chunked_array([[NAIVE], [None]]),
        pa.array([EPOCH, None]),
        np.array([NAIVE, "NaT"], "datetime64[ms]"),
        np.array([EPOCH, np.nan]),
    ],
    ids=lambda column: f"{type(column).__module__}.{getattr(column, 'dtype', getattr(column, 'type', ''))}",
)
def test_a_column_of_timestamps_is_read(column: object) -> None:
    """Each value as if it stood alone, whatever the library."""
    first, second = (seconds_of(value) for value in listed(column))
    assert first == pytest.approx(EPOCH, abs=1e-3)
    assert second is None


# -- what a result says ----------------------------------------------------------------------------------------------

T = old(60)


class Named(NamedTuple):
    """A row with attributes."""

    age: float | None
    updated_at: float | None


def _frame() -> dict[str, list[Any]]:
    return {"age": [1.0, None, None], "tenure": [2.0, 3.0, None], "updated_at": [T, T, None]}


RESULTS = {
    "a row": ({"age": 1.0, "city": None, "updated_at": T}, {"hit": 1, "found": 1, "missing": 1, "aged": 1}),
    "a row of Redis": ({b"age": b"1", b"updated_at": str(T).encode()}, {"hit": 1, "found": 1, "aged": 1}),
    "a named tuple": (Named(1.0, T), {"hit": 1, "found": 1, "aged": 1}),
    "an object": (SimpleNamespace(age=1.0, updated_at=T), {"hit": 1, "aged": 1}),
    "a row of pandas": (pd.Series({"age": 1.0, "updated_at": T}), {"hit": 1, "found": 1, "aged": 1}),
    "nothing": (None, {"miss": 1}),
    "an empty hash": ({}, {"miss": 1}),
    "nulls": ({"age": None, "updated_at": None}, {"miss": 1}),
    "a null timestamp": ({"age": 1.0, "updated_at": None}, {"hit": 1, "found": 1}),
    "no rows": ([], {"miss": 1}),
    "rows": (
        [{"age": 1.0, "updated_at": T}, None, {}, {"age": None, "updated_at": T}],
        {"hit": 1, "miss": 3, "found": 1, "aged": 1},
    ),
    "only misses": ([None, None], {"miss": 2}),
    "named tuples": ([Named(1.0, T), Named(None, None)], {"hit": 1, "miss": 1, "found": 1, "aged": 1}),
    "objects": ([SimpleNamespace(updated_at=T), None], {"hit": 1, "miss": 1, "aged": 1}),
    "rows by entity": ({7: {"age": 1.0, "updated_at": T}, 8: {}}, {"hit": 1, "miss": 1, "found": 1, "aged": 1}),
    "columns": (_frame(), {"hit": 2, "miss": 1, "found": 3, "missing": 1, "aged": 2}),
    "pandas": (pd.DataFrame(_frame()), {"hit": 2, "miss": 1, "found": 3, "missing": 1, "aged": 2}),
    "polars": (pl.DataFrame(_frame()), {"hit": 2, "miss": 1, "found": 3, "missing": 1, "aged": 2}),
    "Arrow": (pa.table(_frame()), {"hit": 2, "miss": 1, "found": 3, "missing": 1, "aged": 2}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_counted_by_entity(name: str, mlobs_telemetry: Telemetry) -> None:
    """Hits, misses, values and ages; when they were made is none of the values."""
    result, expected = RESULTS[name]
    view = f"result {name}"
    mlobs.feature_lookup(view=view, timestamp="updated_at", objective="15m")(lambda: result)()
    assert counts(mlobs_telemetry, view) == expected


@pytest.mark.parametrize(
    ("result", "position", "expected"),
    [
        ((1.0, None, T), 2, {"hit": 1, "found": 1, "missing": 1, "aged": 1}),
        ([b"1", None, str(T).encode()], -1, {"hit": 1, "found": 1, "missing": 1, "aged": 1}),
        ([None, None, None], -1, {"miss": 1}),
        ([(1.0, T), (None, None)], 1, {"hit": 1, "miss": 1, "found": 1, "aged": 1}),
        (np.array([[1.0, T], [np.nan, np.nan]]), 1, {"hit": 1, "miss": 1, "found": 1, "aged": 1}),
    ],
)
def test_a_row_without_names_has_its_timestamp_at_a_position(
    result: object, position: int, expected: dict[str, float], mlobs_telemetry: Telemetry
) -> None:
    """As a DB-API cursor and Redis' HMGET return them."""
    view = f"position {expected} {position}"
    mlobs.feature_lookup(view=view, timestamp=position)(lambda: result)()
    assert counts(mlobs_telemetry, view) == expected


def test_rows_of_a_database_are_read_as_they_come(mlobs_telemetry: Telemetry) -> None:
    """sqlite3's tuples by position; SQLAlchemy's rows and mappings by name."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    connection = sqlite3.connect(":memory:")
    connection.execute("create table f (age real, updated_at text)")
    written = datetime.now(timezone.utc).isoformat(sep=" ")
    connection.execute("insert into f values (1.0, ?), (null, null)", [written])
    connection.commit()
    mlobs.feature_lookup(view="dbapi", timestamp=1)(lambda: connection.execute("select * from f").fetchall())()
    assert counts(mlobs_telemetry, "dbapi") == {"hit": 1, "miss": 1, "found": 1, "aged": 1}

    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: connection, poolclass=sqlalchemy.pool.StaticPool)
    select = sqlalchemy.text("select age, updated_at from f")
    with engine.connect() as session:
        for view, fetch in (
            ("rows", lambda: session.execute(select).all()),
            ("mappings", lambda: session.execute(select).mappings().all()),
        ):
            mlobs.feature_lookup(view=view, timestamp="updated_at")(fetch)()
            assert counts(mlobs_telemetry, view) == {"hit": 1, "miss": 1, "found": 1, "aged": 1}
        mlobs.feature_lookup(view="first", timestamp="updated_at")(lambda: session.execute(select).first())()
    assert counts(mlobs_telemetry, "first") == {"hit": 1, "found": 1, "aged": 1}
    engine.dispose()
    connection.close()


def test_what_was_asked_for_and_not_answered_is_missing(mlobs_telemetry: Telemetry) -> None:
    """On the span of entities that were missed too; the timestamp is not among the features asked for."""
    spec = mlobs.feature_lookup(view="asked", features=["age", "city"], timestamp="updated_at")
    spec(lambda: [{"age": 1.0, "updated_at": T}, None])()
    assert attributes(mlobs_telemetry) | {"age.max": 0} == {"requested": 4, "found": 1, "missing": 3, "age.max": 0}
    assert counts(mlobs_telemetry, "asked") == {"hit": 1, "miss": 1, "found": 1, "missing": 1, "aged": 1}


def test_an_iterator_is_left_to_the_application(mlobs_telemetry: Telemetry) -> None:
    """It is not consumed, and nothing is said of it."""
    found = mlobs.feature_lookup(view="iterator")(lambda: iter([{"age": 1.0}]))()
    assert list(found) == [{"age": 1.0}]
    assert counts(mlobs_telemetry, "iterator") == {}


# -- ages ------------------------------------------------------------------------------------------------------------


def test_the_span_tells_the_oldest_and_how_many_were_stale(mlobs_telemetry: Telemetry) -> None:
    """With the histogram, the counters and the gauges beside it."""
    spec = mlobs.feature_lookup(store="redis", view="users", timestamp="updated_at", objective="15m")
    spec(lambda: [{"age": 1.0, "updated_at": old(30)}, {"age": 2.0, "updated_at": old(7200)}])()
    said = attributes(mlobs_telemetry)
    assert said.pop("age.max") == pytest.approx(7200, abs=60)
    assert said == {"requested": 2, "found": 2, "missing": 0, "stale": 1}
    labels = {"mlobs__feature_view__name": "users", "mlobs__feature_store__name": "redis"}
    ages = mlobs_telemetry.point("mlobs.feature.age", **labels)
    assert ages.count == 2
    assert ages.max == pytest.approx(7200, abs=60)
    assert ages.exemplars[0].trace_id == mlobs_telemetry.spans[0].context.trace_id
    assert counts(mlobs_telemetry, "users") == {"hit": 2, "found": 2, "aged": 2, "stale": 1}
    assert mlobs_telemetry.point("mlobs.feature_view.objective", **labels).value == 900.0
    assert mlobs_telemetry.point("mlobs.feature_view.last_update", **labels).value == pytest.approx(old(30), abs=60)


def test_the_last_update_is_the_newest_that_was_ever_read(mlobs_telemetry: Telemetry) -> None:
    """An older row that is read later does not set it back."""
    spec = mlobs.feature_lookup(view="newest", timestamp="t")
    for age in (500, 30, 900):
        spec(lambda age=age: {"x": 1.0, "t": old(age)})()
    last = mlobs_telemetry.point("mlobs.feature_view.last_update", mlobs__feature_view__name="newest").value
    assert last == pytest.approx(old(30), abs=60)


def test_the_bounds_of_the_ages_hold_every_objective() -> None:
    """So that the share beyond it is exact; the default that `configure` was told among them."""
    ran = run(
        """
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry import metrics
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        mlobs.configure("s", backend="none", feature_age_objective="2h")
        import time
        fetch = lambda age: {"x": 1, "t": time.time() - age}
        lookup = mlobs.feature_lookup(view="a", timestamp="t", objective="15m")(fetch)
        other = mlobs.feature_lookup(view="b", timestamp="t")(fetch)
        lookup(1000); other(1000); other(8000)
        for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                view = point.attributes.get("mlobs.feature_view.name")
                if metric.name == "mlobs.feature.age":
                    print(view, "bounds", {900.0, 7200.0} <= set(point.explicit_bounds))
                if metric.name in ("mlobs.feature.stale_lookups", "mlobs.feature_view.objective"):
                    print(view, metric.name, point.value)
        """
    )
    assert sorted(ran.out.splitlines()) == [
        "a bounds True",
        "a mlobs.feature.stale_lookups 1",
        "a mlobs.feature_view.objective 900.0",
        "b bounds True",
        "b mlobs.feature.stale_lookups 1",
        "b mlobs.feature_view.objective 7200.0",
    ]


def test_without_an_objective_nothing_is_stale(mlobs_telemetry: Telemetry) -> None:
    """However old it is: nobody has said what stale means."""
    mlobs.feature_lookup(view="free", timestamp="t")(lambda: {"age": 1.0, "t": old(1e6)})()
    assert counts(mlobs_telemetry, "free") == {"hit": 1, "found": 1, "aged": 1}
    assert "stale" not in attributes(mlobs_telemetry)
    assert "mlobs.feature_view.objective" not in {
        name
        for name, points in mlobs_telemetry.metrics.items()
        for point in points
        if point.attributes.get(semconv.FEATURE_VIEW_NAME) == "free"
    }


def test_the_future_has_age_zero_and_is_said_once(mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """And does not make the view look fresher than now for as long as clocks differ."""
    lookup = mlobs.feature_lookup(view="future", timestamp="t", objective=10)(lambda: {"age": 1.0, "t": old(-3600)})
    lookup()
    lookup()
    assert counts(mlobs_telemetry, "future") == {"hit": 2, "found": 2, "aged": 2}
    assert mlobs_telemetry.point("mlobs.feature.age", mlobs__feature_view__name="future").max == 0.0
    last = mlobs_telemetry.point("mlobs.feature_view.last_update", mlobs__feature_view__name="future").value
    assert last <= time.time()
    assert [record.getMessage() for record in caplog.records] == [
        "feature view 'future': a timestamp lies 3600 s in the future; its age counts as 0 (said once)"
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": 1.0, "t": "secret words"}, "a timestamp cannot be read, its age is not known: no timestamp: text"),
        ({"age": 1.0, "t": 42.5}, "a timestamp cannot be read, its age is not known: no timestamp: a number below"),
        ({"age": 1.0}, "an entity has no 't', so its age is not known"),
        ([1.0, 2.0], "an entity has no 't', so its age is not known"),
    ],
)
def test_what_has_no_readable_timestamp_has_no_age_and_is_said_once(
    row: object, message: str, mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a hit all the same, and its value is not quoted."""
    view = f"unreadable {message} {len(str(row))}"
    lookup = mlobs.feature_lookup(view=view, timestamp="t")(lambda: row)
    lookup()
    lookup()
    found = counts(mlobs_telemetry, view)
    assert found["hit"] == 2
    assert "aged" not in found
    (record,) = caplog.records
    assert message in record.getMessage()
    assert "secret" not in record.getMessage()


# -- callables -------------------------------------------------------------------------------------------------------


def test_a_callable_tells_the_time_of_the_whole_result(mlobs_telemetry: Telemetry) -> None:
    """Also where ``outputs`` picks the features out of it; of several entities one each, misses left out."""
    spec = mlobs.feature_lookup(view="callable", outputs=lambda r: r[0], timestamp=lambda r: r[1], objective=60)
    spec(lambda: ({"age": 1.0}, old(30)))()
    spec(lambda: ([{"age": 1.0}, {}, {"age": 2.0}], [old(3000), old(1e6), old(10)]))()
    spec(lambda: (None, old(5)))()
    expected = {"hit": 3, "miss": 2, "found": 3, "aged": 3, "stale": 1}
    assert counts(mlobs_telemetry, "callable") == expected


@pytest.mark.usefixtures("lenient")
def test_a_callable_that_raises_costs_the_age_and_nothing_else(mlobs_telemetry: Telemetry) -> None:
    """The lookup counts, and the failure is counted as one of ours."""
    spec = mlobs.feature_lookup(view="raises", timestamp=lambda r: r["none"], default=lambda r: r["none"])
    assert spec(lambda: {"age": 1.0})() == {"age": 1.0}
    assert counts(mlobs_telemetry, "raises") == {"hit": 1, "found": 1}
    errors = {
        point.attributes["mlobs.internal.component"] for point in mlobs_telemetry.metrics["mlobs.internal.errors"]
    }
    assert errors >= {"timestamp", "default"}


FALLBACK = {"age": 40.0, "updated_at": None}


@pytest.mark.parametrize(
    ("default", "result", "expected"),
    [
        (FALLBACK, FALLBACK, {"default": 1}),
        (FALLBACK, dict(FALLBACK), {"default": 1}),
        (FALLBACK, {"age": 41.0, "updated_at": T}, {"hit": 1, "found": 1, "aged": 1}),
        (
            lambda row: row.get("stand_in", False),
            [{"age": 1.0, "updated_at": T}, {"age": 40.0, "stand_in": True, "updated_at": T}],
            {"hit": 1, "default": 1, "found": 1, "aged": 1},
        ),
        (
            lambda frame: frame["age"] == 40.0,
            pd.DataFrame({"age": [1.0, 40.0, 2.0], "updated_at": [T, T, T]}),
            {"hit": 2, "default": 1, "found": 2, "aged": 2},
        ),
        (lambda _array: True, np.ones((2, 3)), {"default": 2}),
    ],
)
def test_a_stand_in_is_neither_hit_nor_miss(
    default: object, result: object, expected: dict[str, float], mlobs_telemetry: Telemetry
) -> None:
    """It has no age, and its values were not found."""
    view = f"default {expected}"
    timestamp = None if isinstance(result, np.ndarray) else "updated_at"
    mlobs.feature_lookup(view=view, timestamp=timestamp, default=default)(lambda: result)()
    assert counts(mlobs_telemetry, view) == expected
    assert attributes(mlobs_telemetry).get("default", 0) == expected.get("default", 0)


# -- every kind of use -----------------------------------------------------------------------------------------------


def test_context_managers_coroutines_and_generators_count_alike(mlobs_telemetry: Telemetry) -> None:
    """A generator's items are lookups by themselves; one that yields nothing found nothing."""
    row = {"age": 1.0, "t": old(30)}
    spec = mlobs.feature_lookup(view="kinds", timestamp="t", objective=10)
    expected = {"hit": 1, "found": 1, "aged": 1, "stale": 1}

    with spec as operation:
        operation.record(outputs=row)
    with mlobs.feature_lookup(view="kinds", timestamp="t", objective=10) as operation:
        operation.record(outputs=None)

    @spec
    async def coroutine() -> object:
        return row

    @spec
    def generator(rows: list[object]) -> Generator[object, None, None]:
        yield from rows

    @spec
    async def async_generator() -> AsyncGenerator[object, None]:
        yield row
        yield [row, {}]

    async def consume() -> None:
        await coroutine()
        async for _ in async_generator():
            pass

    asyncio.run(consume())
    nulls = {"age": None, "t": None}
    assert list(generator([row, nulls])) == [row, nulls]
    list(generator([]))
    assert counts(mlobs_telemetry, "kinds") == {key: 5 * value for key, value in expected.items()} | {"miss": 4}
    assert len([span for span in mlobs_telemetry.spans if "mlobs.feature.age.max" in (span.attributes or {})]) == 4


def test_an_exception_is_no_miss(mlobs_telemetry: Telemetry) -> None:
    """A store that does not answer is an error of the operation."""

    @mlobs.feature_lookup(view="broken", timestamp="t")
    def lookup() -> object:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        lookup()
    assert counts(mlobs_telemetry, "broken") == {}


def test_what_is_not_sampled_is_counted() -> None:
    """No span, but every lookup, age and candidate, through our own pipeline; each counter begins at zero."""
    with Receiver() as receiver:
        run(
            """
            import time
            mlobs.configure("s", endpoint=os.environ["TO"], sampling_ratio=0.0, metric_interval=3600)
            spec = mlobs.feature_lookup(view="v", timestamp="t", objective=60)
            lookup = spec(lambda age: {"x": 1, "t": time.time() - age})
            candidates = mlobs.candidate_generation(source="tower", k=500)(lambda n: list(range(n)))
            for age in (10, 10, 3600):
                lookup(age)
                candidates(400)
            with mlobs.feature_lookup(view="v", timestamp="t", objective=60) as op:
                op.record(outputs=None)
            """,
            env={"TO": receiver.url},
        )
        assert receiver.spans() == []
        for name, total in (
            ("mlobs.feature.lookups", 4),
            ("mlobs.feature.values", 3),
            ("mlobs.feature.aged_lookups", 3),
            ("mlobs.feature.stale_lookups", 1),
        ):
            assert receiver.total(name) == total
            assert set(receiver.first_values(name)) == {0.0}
        assert receiver.total("mlobs.feature.age") == 3
        assert receiver.total("mlobs.candidate.count") == 3


def test_a_batch_waits_for_the_collection_of_a_foreign_provider_and_is_bounded() -> None:
    """Its histogram takes 20,000 ages between two collections and says that it left some out; counters are exact."""
    ran = run(
        """
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry import metrics
        import time
        logging.basicConfig(format="%(message)s")
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        rows = [{"x": 1, "t": time.time() - 30}] * 9_000
        lookup = mlobs.feature_lookup(view="v", timestamp="t", objective=10)(lambda: rows)

        def collect():
            for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
                for point in metric.data.data_points:
                    if metric.name == "mlobs.feature.age":
                        print("ages", point.count)
                    if metric.name == "mlobs.feature.stale_lookups":
                        print("stale", point.value)

        for _ in range(3):
            lookup()
        collect()
        lookup()
        collect()
        """
    )
    assert sorted(ran.out.splitlines()) == ["ages 18000", "ages 27000", "stale 27000", "stale 36000"]
    assert len(ran.lines("feature view 'v'", "leaves some out")) == 1


def test_threads_lose_nothing(mlobs_telemetry: Telemetry) -> None:
    """Eight threads that look up while a ninth collects: every entity is counted once."""
    spec = mlobs.feature_lookup(view="threads", timestamp="t", objective=10)
    lookup = spec(lambda rows: rows)
    rows = [{"x": 1.0, "t": old(30)}, {"x": 2.0, "t": old(1)}, None]
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            _ = mlobs_telemetry.metrics

    def work() -> None:
        for _ in range(1000):
            lookup(rows)

    collecting = threading.Thread(target=collect)
    workers = [threading.Thread(target=work) for _ in range(8)]
    for thread in (collecting, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    collecting.join()
    total = 8 * 1000
    expected = {"hit": 2 * total, "miss": total, "found": 2 * total, "aged": 2 * total, "stale": total}
    assert counts(mlobs_telemetry, "threads") == expected
    assert mlobs_telemetry.point("mlobs.feature.age", mlobs__feature_view__name="threads").count == 2 * total


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_starts_from_zero_and_the_parent_stays_exact() -> None:
    """What was counted before the fork is the parent's to send; a lookup that spans the fork is the child's as well."""
    with Receiver() as receiver:
        run(
            """
            import time
            mlobs.configure("s", endpoint=os.environ["TO"], metric_interval=3600, instance_id="i")
            row = {"x": 1, "t": time.time() - 30}
            lookup = mlobs.feature_lookup(view="v", timestamp="t", objective=10)(lambda: row)
            for _ in range(5):
                lookup()
            for _ in range(2):
                pid = os.fork()
                if pid == 0:
                    for _ in range(3):
                        lookup()
                    mlobs.shutdown()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
            lookup()
            """,
            env={"TO": receiver.url},
        )
        for name in ("mlobs.feature.lookups", "mlobs.feature.stale_lookups", "mlobs.feature.age"):
            assert sorted(receiver.instances(name).values()) == [3.0, 3.0, 6.0]


def test_views_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that come from the request fill one overflow view, and not the memory."""
    monkeypatch.setattr(freshness, "_views", {})
    monkeypatch.setattr(freshness, "_MAX_VIEWS", 2)
    made = {id(freshness.view_of({semconv.FEATURE_VIEW_NAME: f"view-{index}"})) for index in range(10)}
    assert len(made) == 3


def test_a_definition_is_made_once_for_equal_context_managers() -> None:
    """Written anew at every call, with a default that has no hash."""
    readings = [lookups.Reading("t", 900.0, {"age": 1.0}) for _ in range(2)]
    assert len(set(readings)) == 1
    assert lookups.Reading("t", 900.0, {"age": 2.0}) not in readings


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"timestamp": "t"}, ValueError, "timestamp= needs view="),
        ({"default": 0}, ValueError, "default= needs view="),
        ({"view": "v", "objective": "15m"}, ValueError, "objective='15m' needs timestamp="),
        ({"view": "v", "timestamp": "t", "objective": "soon"}, ValueError, "objective must be positive seconds"),
        ({"view": "v", "timestamp": "t", "objective": -1}, ValueError, "objective must be positive seconds"),
        ({"view": "v", "timestamp": 1.5}, TypeError, "timestamp must be a key, a position or a callable"),
        ({"view": "v", "timestamp": True}, TypeError, "timestamp must be a key"),
        ({"view": "v", "timestamp": ""}, TypeError, "timestamp must be a key"),
    ],
)
def test_mistakes_are_said_at_decoration(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """With the argument and what was expected."""
    with pytest.raises(error, match=message):
        mlobs.feature_lookup(**arguments)


# -- candidates ------------------------------------------------------------------------------------------------------


def test_candidates_are_counted_and_fewer_than_asked_for_is_exact(mlobs_telemetry: Telemetry) -> None:
    """A bound lies right beneath k; generators count what they yielded, also nothing."""
    # its own process-wide histogram may exist under other bounds: the counts are what is looked at here
    spec = mlobs.candidate_generation(source="exact", k=500)
    for count in (500, 499, 0):
        spec(lambda count=count: list(range(count)))()
    assert list(spec(lambda: (yield from range(3)))()) == [0, 1, 2]
    assert list(spec(lambda: (yield from ()))()) == []
    point = mlobs_telemetry.point("mlobs.candidate.count", mlobs__candidate__source="exact")
    assert (point.count, point.sum) == (5, 1002)
    assert freshness.CandidateCounter({}, 500)._bounds[7:9] == (499.5, 500.5)


# -- Feast -----------------------------------------------------------------------------------------------------------


def _response(rows: list[tuple[float | None, int, int]]) -> Any:
    """An answer of Feast's, made of its own classes: a join key, and a feature's values, statuses and timestamps."""
    pytest.importorskip("feast")
    from feast.online_response import OnlineResponse
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    proto = GetOnlineFeaturesResponse()
    proto.metadata.feature_names.val.extend(["driver_id", "conv_rate"])
    vector = GetOnlineFeaturesResponse.FeatureVector
    count = len(rows)
    proto.results.append(
        vector(values=[Value(int64_val=7)] * count, statuses=[1] * count, event_timestamps=[Timestamp()] * count)
    )
    proto.results.append(
        vector(
            values=[Value() if value is None else Value(double_val=value) for value, _, _ in rows],
            statuses=[status for _, status, _ in rows],
            event_timestamps=[Timestamp(seconds=made) for _, _, made in rows],
        )
    )
    return OnlineResponse(proto)


def test_an_answer_of_feast_tells_hits_misses_and_ages(mlobs_telemetry: Telemetry) -> None:
    """Present, stored as null, and unknown; the join key, which is always there, is no feature."""
    response = _response([(0.5, 1, int(old(7200))), (None, 1, int(old(30))), (None, 3, 0)])
    spec = mlobs.feature_lookup(view="feast", outputs=feast.rows, timestamp=feast.EVENT_TIMESTAMP, objective="1h")
    spec(lambda: response)()
    found = counts(mlobs_telemetry, "feast")
    assert found == {"hit": 1, "miss": 2, "found": 1, "aged": 1, "stale": 1}
