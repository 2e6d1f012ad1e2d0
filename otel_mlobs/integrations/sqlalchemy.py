"""``instrument("sqlalchemy")``: how long engines take to get a connection from their pool, and how many it has.

Statements are traced by opentelemetry-instrumentation-sqlalchemy, beside which this works. Written after SQLAlchemy 2.
"""

from __future__ import annotations

from pathlib import PurePath
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wrapt import wrap_function_wrapper

from otel_mlobs.errors import MissingExtraError
from otel_mlobs.telemetry import guard, pools

try:
    from sqlalchemy import exc
    from sqlalchemy.engine import Engine
except ImportError as error:  # pragma: no cover - the tests without extras see it
    raise MissingExtraError("otel_mlobs.integrations.sqlalchemy", "sql", "sqlalchemy") from error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["instrument", "uninstrument"]

_original: list[Any] = []


def _sizes(pool: Any) -> pools.Sizes:
    if not hasattr(pool, "checkedout"):  # a pool that keeps nothing
        return pools.Sizes(None, None, None)
    overflow = getattr(pool, "_max_overflow", -1)
    most = pool.size() + overflow if hasattr(pool, "size") and overflow >= 0 else None
    return pools.Sizes(pool.checkedout(), pool.checkedin(), most)


_pools = pools.Pools(_sizes)


def _name(engine: Any) -> str:
    """Where it leads, without credentials; of a database in a file its name."""
    url = engine.url
    database = PurePath(url.database.partition("?")[0]).name if url.database and not url.host else url.database
    host = (url.host or "").rpartition("@")[2]  # a password with an @ in it ends, for SQLAlchemy, at that
    where = f"{host}:{url.port}" if url.port else host
    return "/".join(part for part in (where, database) if part) or url.get_backend_name()


def _connect(wrapped: Callable[..., Any], engine: Any, args: Any, kwargs: Any) -> Any:
    if not _original:  # somebody else's wrapper is around this one: it stays, and counts nothing
        return wrapped(*args, **kwargs)
    try:
        name: str | None = _pools.name(engine.pool, lambda: _name(engine))
    except Exception as error:  # noqa: BLE001 - the caller gets its connection all the same
        guard.report("pools", error)
        name = None
    began = perf_counter()
    try:
        connection = wrapped(*args, **kwargs)
    except exc.TimeoutError:
        if name is not None:
            _count(pools.timed_out, name)
        raise
    if name is not None:
        _count(pools.got, name, perf_counter() - began)
    return connection


def _count(how: Callable[..., None], *arguments: object) -> None:
    try:
        how(*arguments)
    except Exception as error:  # noqa: BLE001 - the caller gets its connection all the same
        guard.report("pools", error)


def instrument() -> None:
    """Count from now on, for engines that there are and those to come."""
    if _original:
        return
    original = vars(Engine)["raw_connection"]
    wrap_function_wrapper(Engine, "raw_connection", _connect)
    _original.append((original, vars(Engine)["raw_connection"]))
    _pools.start()


def uninstrument() -> None:
    """Put everything back as it was."""
    _pools.stop()
    while _original:
        original, ours = _original.pop()
        if vars(Engine)["raw_connection"] is ours:
            Engine.raw_connection = original  # type: ignore[method-assign]
