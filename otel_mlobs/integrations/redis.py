"""``instrument("redis")``: how long redis-py's pools take to give a connection, and how many they have.

What is asked of Redis is traced by opentelemetry-instrumentation-redis, beside which this works. After redis-py 7.
"""

from __future__ import annotations

import asyncio
import queue
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wrapt import wrap_function_wrapper

from otel_mlobs.errors import MissingExtraError
from otel_mlobs.telemetry import guard, pools

try:
    import redis
    import redis.asyncio
except ImportError as error:  # pragma: no cover - the tests without extras see it
    raise MissingExtraError("otel_mlobs.integrations.redis", "redis", "redis") from error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["instrument", "uninstrument"]

_UNBOUNDED = 2**31
"""What redis-py takes for the most connections where nothing is said."""
_PLAIN = (redis.ConnectionPool, redis.BlockingConnectionPool)
_ASYNC = (redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool)
_wrapped: list[tuple[Any, Any, Any]] = []


def _sizes(pool: Any) -> pools.Sizes:
    used = getattr(pool, "_in_use_connections", None)
    idle = getattr(pool, "_available_connections", None)
    most = getattr(pool, "max_connections", None)
    if most is not None and most >= _UNBOUNDED:
        most = None
    if used is None and hasattr(pool, "pool"):  # a BlockingConnectionPool's queue holds None for what was never made
        waiting = sum(one is not None for one in [*pool.pool.queue])
        return pools.Sizes(max(0, len(pool._connections) - waiting), waiting, most)
    return pools.Sizes(None if used is None else len(used), None if idle is None else len(idle), most)


_pools = pools.Pools(_sizes)


def _name(pool: Any) -> str:
    """Where it leads, without credentials; through Sentinel it is the service that it asks for."""
    to = pool.connection_kwargs
    service = getattr(pool, "service_name", None)
    if service is not None:
        return f"{service}/{to.get('db') or 0}"
    if "path" in to:
        return f"{to['path']}/{to.get('db') or 0}"
    return f"{to.get('host', 'localhost')}:{to.get('port', 6379)}/{to.get('db') or 0}"


def _named(pool: Any) -> str | None:
    try:
        return _pools.name(pool, lambda: _name(pool))
    except Exception as error:  # noqa: BLE001 - the caller gets its connection all the same
        guard.report("pools", error)
        return None


def _count(name: str | None, began: float, error: BaseException | None) -> None:
    if name is None:
        return
    try:
        if error is None:
            pools.got(name, perf_counter() - began)
        elif _none_came_free(error):
            pools.timed_out(name)
    except Exception as broken:  # noqa: BLE001 - the caller gets its connection all the same
        guard.report("pools", broken)


def _none_came_free(error: BaseException) -> bool:
    """Whether the pool had none to give; else it is the server's, to which a new one was to lead."""
    if not isinstance(error, redis.exceptions.ConnectionError):
        return False
    # A pool that does not wait finds its list empty; only newer versions have an error of its own for that
    reason = error.__cause__ or error.__context__
    return isinstance(reason, (queue.Empty, asyncio.TimeoutError, IndexError))


def _get(wrapped: Callable[..., Any], pool: Any, args: Any, kwargs: Any) -> Any:
    name, began = _named(pool) if _wrapped else None, perf_counter()
    try:
        connection = wrapped(*args, **kwargs)
    except BaseException as error:
        _count(name, began, error)
        raise
    _count(name, began, None)
    return connection


async def _get_async(wrapped: Callable[..., Any], pool: Any, args: Any, kwargs: Any) -> Any:
    name, began = _named(pool) if _wrapped else None, perf_counter()
    try:
        connection = await wrapped(*args, **kwargs)
    except BaseException as error:
        _count(name, began, error)
        raise
    _count(name, began, None)
    return connection


def instrument() -> None:
    """Count from now on, for pools that there are and those to come."""
    if _wrapped:
        return
    for classes, wrapper in ((_PLAIN, _get), (_ASYNC, _get_async)):
        for each in classes:
            if "get_connection" in vars(each):  # else it is the other's
                original = vars(each)["get_connection"]
                wrap_function_wrapper(each, "get_connection", wrapper)
                _wrapped.append((each, original, vars(each)["get_connection"]))
    _pools.start()


def uninstrument() -> None:
    """Put everything back as it was."""
    _pools.stop()
    while _wrapped:
        owner, original, ours = _wrapped.pop()
        if vars(owner)["get_connection"] is ours:  # else somebody else's wrapper is around it: it stays
            owner.get_connection = original
