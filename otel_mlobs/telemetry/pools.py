"""Pools of connections: how long getting one takes, how often none came, and how many there are."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.telemetry import absolute, guard, instruments
from otel_mlobs.telemetry.readings import encodable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Labels = Mapping[str, str]

_MOST = 100
"""Pools with a name of their own; those beyond share one."""
OTHERS = "other"


class Sizes:
    """How many connections a pool has now, and may have; None for what it does not tell."""

    __slots__ = ("idle", "most", "used")

    def __init__(self, used: int | None, idle: int | None, most: int | None) -> None:
        self.used = used
        self.idle = idle
        self.most = most


class Pools:
    """The pools of one library, as a source of metrics.

    Args:
        sizes: reads a pool; called at collection.
    """

    def __init__(self, sizes: Callable[[Any], Sizes]) -> None:
        self._sizes = sizes
        self.start_afresh()
        self._known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._names: set[str] = set()
        _all.add(self)

    def start_afresh(self) -> None:
        """Take a lock that nobody holds: in a forked child."""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Be collected from now on."""
        absolute.observe(self, (semconv.POOL_CONNECTIONS, semconv.POOL_MAX))

    def stop(self) -> None:
        """Be collected no more."""
        absolute.forget(self)

    def name(self, pool: Any, make: Callable[[], str]) -> str:
        """The pool's name, made at its first use."""
        found = self._known.get(pool)
        if found is None:
            made = encodable(make())
            with self._lock:
                if made not in self._names and len(self._names) >= _MOST:
                    made = OTHERS
                self._names.add(made)
                found = self._known.setdefault(pool, made)
            instruments.pool_timeouts().add(0, {semconv.POOL_NAME: found})  # so that the first one has a rate
        return found

    def points(self, metric: semconv.Metric) -> Iterator[tuple[float, Labels]]:
        """The points of ``metric``: sums, where several pools have one name."""
        sums: dict[tuple[str, str], int] = {}
        with self._lock:
            known = [*self._known.items()]
        for pool, name in known:
            try:
                sizes = self._sizes(pool)
            except Exception as error:  # noqa: BLE001 - a library of another version
                guard.report("pools", error)
                continue
            counts = {"": sizes.most} if metric is semconv.POOL_MAX else {"used": sizes.used, "idle": sizes.idle}
            for state, count in counts.items():
                if count is not None:
                    sums[name, state] = sums.get((name, state), 0) + count
        for (name, state), count in sums.items():
            yield count, {semconv.POOL_NAME: name, **({semconv.POOL_STATE: state} if state else {})}


def got(name: str, seconds: float) -> None:
    """Count a connection that was handed out after ``seconds``."""
    instruments.pool_wait().record(seconds, {semconv.POOL_NAME: name})


def timed_out(name: str) -> None:
    """Count that none came free in time."""
    instruments.pool_timeouts().add(1, {semconv.POOL_NAME: name})


_all: weakref.WeakSet[Pools] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pools in _all:
        pools.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
