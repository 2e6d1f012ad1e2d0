"""Pools of connections: how long getting one takes, and how many there are."""

from __future__ import annotations

import gc
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from receiver import run

sqlalchemy = pytest.importorskip("sqlalchemy")
redis = pytest.importorskip("redis")

from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import exc
from sqlalchemy.pool import NullPool, QueuePool

from otel_mlobs import instrument, uninstrument
from otel_mlobs.telemetry import guard, pools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_mlobs.testing import Telemetry

WAIT = "db.client.connection.wait_time"
LABEL = "db.client.connection.pool.name"


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    """Both libraries, put back afterwards."""
    instrument("redis", "sqlalchemy")
    yield
    uninstrument("redis", "sqlalchemy")
    while _made:
        _made.pop().dispose()


_made: list[Any] = []


def create(url: str, **options: Any) -> Any:
    """An engine whose connections are closed after the test: Python 3.13 complains of others."""
    made = sqlalchemy.create_engine(url, **options)
    _made.append(made)
    return made


def name(tmp_path: Path) -> str:
    """Of the test's own database, so that no other test's engines are counted with it."""
    return f"{tmp_path.name}.db"


def engine(tmp_path: Path, **options: Any) -> Any:
    """An engine over a pool of one connection."""
    given = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05, **options}
    return create(f"sqlite:///{tmp_path / name(tmp_path)}", **given)


def counts(telemetry: Telemetry, pool: str) -> dict[str | None, float]:
    """The pool's connections by state."""
    found = telemetry.metrics.get("db.client.connection.count", [])
    return {
        point.attributes.get("db.client.connection.state"): point.value
        for point in found
        if point.attributes[LABEL] == pool
    }


def test_waits_uses_and_timeouts_of_an_engine(mlobs_telemetry: Telemetry, tmp_path: Path) -> None:
    """Who waits for the only connection is seen waiting; who gives up is counted, and gets the same exception."""
    made = engine(tmp_path)
    with made.connect():
        assert counts(mlobs_telemetry, name(tmp_path)) == {"used": 1, "idle": 0}
        with pytest.raises(exc.TimeoutError):
            made.connect()
    assert counts(mlobs_telemetry, name(tmp_path)) == {"used": 0, "idle": 1}
    patient = engine(tmp_path, pool_timeout=10)
    patient.connect().close()
    held = patient.connect()
    threading.Timer(0.2, held.close).start()
    patient.connect().close()
    wait = mlobs_telemetry.point(WAIT, **{"db.client.connection.pool.name": name(tmp_path)})
    assert wait.count == 4
    assert 0.1 <= wait.sum < 5.0
    assert mlobs_telemetry.point("db.client.connection.timeouts", **{LABEL: name(tmp_path)}).value == 1
    assert mlobs_telemetry.point("db.client.connection.max", **{LABEL: name(tmp_path)}).value == 2
    made.dispose()
    patient.dispose()


def test_pools_that_keep_nothing_and_engines_that_fail(mlobs_telemetry: Telemetry, tmp_path: Path) -> None:
    """A NullPool has no counts; a database that cannot be opened raises what it raises without us."""
    plain = create(f"sqlite:///{tmp_path / 'null.db'}", poolclass=NullPool)
    plain.connect().close()
    assert counts(mlobs_telemetry, "null.db") == {}
    assert mlobs_telemetry.point(WAIT, **{LABEL: "null.db"}).count == 1
    broken = create(f"sqlite:///{tmp_path / 'no' / 'folder.db'}")
    with pytest.raises(exc.OperationalError):
        broken.connect()


def test_names_hold_no_credentials() -> None:
    """The server and the database, and nothing of who asks."""
    from otel_mlobs.integrations import redis as of_redis
    from otel_mlobs.integrations import sqlalchemy as of_sqlalchemy

    made = create("sqlite://")
    assert of_sqlalchemy._name(made) == "sqlite"
    made.url = sqlalchemy.make_url("postgresql://ann:secret@db.local:5432/features?password=other")
    assert of_sqlalchemy._name(made) == "db.local:5432/features"
    pool = redis.ConnectionPool.from_url("redis://ann:secret@cache:6380/2")
    assert of_redis._name(pool) == "cache:6380/2"
    assert (
        of_redis._name(redis.ConnectionPool.from_url("unix:///run/redis.sock?password=secret")) == "/run/redis.sock/0"
    )


def test_through_sentinel_a_pool_has_the_services_name() -> None:
    """It leads wherever the master is: a host and a port would be those of nobody."""
    from redis.sentinel import Sentinel

    from otel_mlobs.integrations import redis as of_redis

    client = Sentinel([("watcher", 26379)], password="secret").master_for("features", db=3)
    assert of_redis._name(client.connection_pool) == "features/3"


def test_only_a_pool_without_a_free_connection_counts_as_such(mlobs_telemetry: Telemetry) -> None:
    """A server that does not answer in time is no exhausted pool; one that refuses the second connection is."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        where = f"127.0.0.1:{server.getsockname()[1]}"
        options = {"socket_timeout": 0.05, "socket_connect_timeout": 0.05, "retry": Retry(NoBackoff(), 0)}
        with pytest.raises(redis.exceptions.TimeoutError):
            redis.Redis.from_url(f"redis://{where}/0", **options).ping()
        assert mlobs_telemetry.point("db.client.connection.timeouts", **{LABEL: f"{where}/0"}).value == 0
    full = redis.ConnectionPool.from_url(f"redis://{where}/1", max_connections=1)
    full._in_use_connections.add(full.make_connection())
    with pytest.raises(redis.exceptions.ConnectionError, match="Too many connections"):
        redis.Redis(connection_pool=full).ping()
    assert mlobs_telemetry.point("db.client.connection.timeouts", **{LABEL: f"{where}/1"}).value == 1


@pytest.mark.parametrize(("library", "extra"), [("redis", "redis"), ("sqlalchemy", "sql")])
def test_without_the_library_the_message_says_what_to_install(library: str, extra: str) -> None:
    """Whoever asks for it by name is told the command."""
    ran = run(
        f"""
        sys.modules[{library!r}] = None
        try:
            mlobs.instrument({library!r})
        except mlobs.MissingExtraError as error:
            print(error)
        """
    )
    assert f"pip install 'otel-mlobs[{extra}]'" in ran.out


def test_everything_is_put_back(tmp_path: Path) -> None:
    """After uninstrument the libraries' own functions are there again, however often it was asked for."""
    from sqlalchemy.engine import Engine

    wrapped = (vars(Engine)["raw_connection"], vars(redis.ConnectionPool)["get_connection"])
    uninstrument("redis", "sqlalchemy")
    plain = (vars(Engine)["raw_connection"], vars(redis.ConnectionPool)["get_connection"])
    assert [type(each).__name__ for each in plain] == ["function", "function"]
    instrument("redis", "sqlalchemy")
    instrument("redis", "sqlalchemy")
    assert [type(each) for each in wrapped] != [type(each) for each in plain]
    uninstrument("redis", "sqlalchemy")
    assert (vars(Engine)["raw_connection"], vars(redis.ConnectionPool)["get_connection"]) == plain
    engine(tmp_path).connect().close()


@pytest.mark.usefixtures("lenient")
def test_our_own_failure_costs_nobody_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be made, a histogram that raises: the connection comes."""
    reported: list[str] = []
    monkeypatch.setattr(guard, "report", lambda component, error: reported.append(f"{component}: {error}"))

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(pools, "got", broken)
    engine(tmp_path).connect().close()
    monkeypatch.setattr(pools.Pools, "name", broken)
    engine(tmp_path).connect().close()
    assert reported == ["pools: broken"] * 2


def test_pools_are_bounded(mlobs_telemetry: Telemetry, tmp_path: Path) -> None:
    """Whoever makes an engine a tenant has a hundred names, and one for the rest; pools that are gone leave none."""
    source = pools.Pools(lambda pool: pools.Sizes(1, 0, 5))

    class Pool:
        def __init__(self, number: int) -> None:
            self.number = number

    kept = [Pool(number) for number in range(150)]
    names = set(map(lambda pool: source.name(pool, lambda: f"p{pool.number}"), kept))
    assert len(names) == pools._MOST + 1
    assert pools.OTHERS in names
    from otel_mlobs import semconv

    found = {labels[LABEL]: value for value, labels in source.points(semconv.POOL_MAX)}
    assert found[pools.OTHERS] == 5 * 50
    del kept
    gc.collect()
    assert [*source.points(semconv.POOL_MAX)] == []


def test_many_threads_get_connections(mlobs_telemetry: Telemetry, tmp_path: Path) -> None:
    """Eight threads, four hundred connections, each counted once."""
    made = engine(tmp_path, pool_size=2, pool_timeout=30)
    made.dispose()

    def work() -> None:
        for _ in range(50):
            with made.connect():
                time.sleep(0)

    before = next((p.count for p in mlobs_telemetry.metrics.get(WAIT, []) if p.attributes[LABEL] == name(tmp_path)), 0)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mlobs_telemetry.point(WAIT, **{LABEL: name(tmp_path)}).count - before == 400
    made.dispose()
