"""Connection pools of redis-py over a real Redis: waits, timeouts, sizes, plain and asynchronous."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

redis = pytest.importorskip("redis")

from otel_mlobs import instrument, uninstrument

from . import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_mlobs.testing import Telemetry

    from .backends import Process

LABEL = "db.client.connection.pool.name"
WAIT = "db.client.connection.wait_time"


@pytest.fixture(scope="module")
def url(start: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own."""
    program = redis_server.find()
    if program is None:
        reason = "Redis is not installed; on Debian: apt-get install redis-server"
        if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = redis_server.RedisServer(program, tmp_path_factory.mktemp("redis-pools"), start)
    yield server.url
    server.stop()


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    instrument("redis")
    yield
    uninstrument("redis")


def pool_name(url: str) -> str:
    """As the library names it."""
    return url.removeprefix("redis://")


def states(telemetry: Telemetry, name: str) -> dict[Any, float]:
    """Connections by state."""
    return {
        point.attributes["db.client.connection.state"]: point.value
        for point in telemetry.metrics["db.client.connection.count"]
        if point.attributes[LABEL] == name
    }


def test_who_waits_for_the_only_connection_is_seen(mlobs_telemetry: Telemetry, url: str) -> None:
    """A pool of one: the second thread's wait is in the histogram, and who gives up is counted."""
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=1, timeout=0.05)
    name = pool_name(url)
    held = pool.get_connection()
    assert states(mlobs_telemetry, name) == {"used": 1, "idle": 0}
    with pytest.raises(redis.exceptions.ConnectionError, match="No connection available"):
        pool.get_connection()
    assert mlobs_telemetry.point("db.client.connection.timeouts", **{LABEL: name}).value == 1
    pool.timeout = 10
    threading.Timer(0.2, pool.release, [held]).start()
    pool.release(pool.get_connection())
    wait = mlobs_telemetry.point(WAIT, **{LABEL: name})
    assert wait.count == 2
    assert 0.1 <= wait.sum < 5.0
    assert states(mlobs_telemetry, name) == {"used": 0, "idle": 1}
    assert mlobs_telemetry.point("db.client.connection.max", **{LABEL: name}).value == 1
    pool.disconnect()


def test_a_client_counts_what_it_asks(mlobs_telemetry: Telemetry, url: str) -> None:
    """Ten commands are ten connections taken from the pool, and none is left in use."""
    client = redis.Redis.from_url(f"{url}?client_name=plain".replace("/0", "/1"))
    name = pool_name(url).replace("/0", "/1")
    for number in range(10):
        client.set(f"k{number}", number)
    assert mlobs_telemetry.point(WAIT, **{LABEL: name}).count == 10
    assert states(mlobs_telemetry, name) == {"used": 0, "idle": 1}
    client.close()


def test_asynchronous_pools(mlobs_telemetry: Telemetry, url: str) -> None:
    """Tasks that share one connection wait for each other; a time-out is counted there too."""
    name = pool_name(url).replace("/0", "/2")

    async def main() -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url.replace("/0", "/2"), max_connections=1, timeout=10)
        client = redis.asyncio.Redis(connection_pool=pool)
        await asyncio.gather(*(client.set("k", number) for number in range(5)))
        held = await pool.get_connection()
        pool.timeout = 0.05
        with pytest.raises(redis.exceptions.ConnectionError):
            await pool.get_connection()
        await pool.release(held)
        await pool.disconnect()

    asyncio.run(main())
    assert mlobs_telemetry.point(WAIT, **{LABEL: name}).count == 6
    assert mlobs_telemetry.point("db.client.connection.timeouts", **{LABEL: name}).value == 1
