"""Locks of monitors: none is held while the SDK takes its own, and a finaliser waits for none."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from opentelemetry import metrics

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.telemetry import collected, series

if TYPE_CHECKING:
    import pytest

PROFILE = mlobs.Profile.fit(np.random.default_rng(0).normal(size=(500, 2)), model="locked", version="1")


def free(lock: Any) -> bool:
    """Whether another thread could take the lock now."""
    taken = []
    thread = threading.Thread(target=lambda: taken.append(lock.acquire(timeout=5.0)) or lock.release())
    thread.start()
    thread.join(10.0)
    return taken == [True]


def test_instruments_are_made_outside_of_every_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK registers a callback under a lock that it also holds while it calls back: ours must be free then."""
    asked: list[bool] = []
    real = metrics.get_meter

    def watching(*args: Any, **options: Any) -> Any:
        asked.extend(free(lock) for lock in (collected._lock, series._lock))
        return real(*args, **options)

    monkeypatch.setattr(metrics, "get_meter", watching)
    monkeypatch.setattr(collected, "_made", False)
    monitor = mlobs.Monitor(PROFILE)
    assert asked == [True, True]
    monitor.close()


def test_a_monitor_ends_while_its_locks_are_held() -> None:
    """The garbage collector runs anywhere, also in a thread that holds them: ending waits for none."""
    monitor = mlobs.Monitor(PROFILE, clock=lambda: 0.0)  # no thread of the library's holds it while it ticks
    monitor.observe(np.zeros((7, 2)))
    kept, counting = monitor._series, monitor._counting
    before = sum(value for value, _ in kept.points(semconv.FEATURE_OBSERVATIONS, zero=False))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with kept.succession._lock, series._lock, collected._lock, counting.lock:
            held.set()
            done.wait(10.0)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10.0)
    ended = threading.Event()

    def end(one: list[mlobs.Monitor]) -> None:
        one.clear()
        gc.collect()
        ended.set()

    ones = [monitor]
    del monitor
    threading.Thread(target=end, args=(ones,), daemon=True).start()
    assert ended.wait(10.0)
    assert counting.retired
    done.set()
    thread.join()
    for _ in range(2):
        assert sum(value for value, _ in kept.points(semconv.FEATURE_OBSERVATIONS, zero=False)) == before
    assert not any(one is counting for one in kept.succession._state[1])


def test_a_monitor_that_joins_amid_a_collection_still_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining between the callbacks of two counters must not make the first of them begin above zero."""
    monkeypatch.setattr(collected, "_holding", True)
    monitor = mlobs.Monitor(
        mlobs.Profile.fit(np.random.default_rng(1).normal(size=(500, 1)), outputs=np.zeros(500), model="amid"),
        clock=lambda: 0.0,
    )
    monitor.observe([1.0], 0.5)
    group = monitor._series

    def largest(metric: semconv.Metric) -> float:
        return max(observation.value for observation in collected._observations(group, metric, counts=True))

    assert largest(semconv.PREDICTION_OBSERVATIONS) == 0  # the callback of features had run before it joined
    collected.settle()
    assert collected.holding_back()
    assert largest(semconv.FEATURE_OBSERVATIONS) == 0
    assert largest(semconv.PREDICTION_OBSERVATIONS) == 1
    collected.settle()
    assert largest(semconv.FEATURE_OBSERVATIONS) == 1
    monitor.close()
