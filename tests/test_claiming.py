"""Claims of what is mature: a monitor that ends waits for one that is under way, and a refused one leaves nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from monitoring import Clock

from otel_mlobs import Monitor, OutcomeStore, Profile, RankingMonitor
from otel_mlobs.telemetry import claiming


class Slow:
    """A store in a server that takes its time to give out what is mature."""

    kind = "sql"

    def __init__(self, clock: Clock) -> None:
        self._store = OutcomeStore("memory:", clock=clock)
        self.claimed = threading.Event()
        self.flushes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, stream: str, now: float, limit: int) -> Any:
        found = self._store.claim(stream, now, limit)
        self.claimed.set()
        time.sleep(0.3)
        return found

    def flush(self, timeout: float) -> bool:
        self.flushes += 1
        return self._store.flush(timeout)


def test_lists_that_were_claimed_are_counted_before_a_ranking_monitor_ends() -> None:
    """Nobody else will be given them."""
    clock = Clock()
    store = Slow(clock)
    monitor = RankingMonitor(model="claimed", outcomes=store, maturity=60.0, clock=clock)
    for number in range(5):
        monitor.shown(["a", "b"], f"list-{number}")
    while monitor._claiming._busy:  # with what was mature at the first list: nothing
        time.sleep(0.01)
    store.claimed.clear()
    clock.now += 100.0
    monitor.shown(["a"], "late")
    assert store.claimed.wait(10)
    monitor.close()
    assert monitor.status().slates == 5


def test_the_end_of_the_process_flushes_each_store_once() -> None:
    """However many monitors wait for it."""
    clock = Clock()
    store = Slow(clock)
    monitors = [RankingMonitor(model=f"ending {number}", outcomes=store, clock=clock) for number in range(3)]
    claiming._finish_all(5.0)
    assert store.flushes == 1
    for monitor in monitors:
        monitor.close()


@pytest.mark.parametrize("wrong", [{"outcomes": "redis://localhost"}, {"maturity": "40d"}])
def test_a_monitor_that_is_refused_leaves_no_series(wrong: dict[str, Any]) -> None:
    """Else whoever tries again with better arguments would count into what nobody closes."""
    x = np.linspace(0, 1, 200)
    profile = Profile.fit(x.reshape(-1, 1), outputs=x, labels=(x > 0.5).astype(int), model=f"refused {sorted(wrong)}")
    arguments: dict[str, Any] = {"outcomes": OutcomeStore("memory:"), **wrong}
    with pytest.raises((TypeError, ValueError)):
        Monitor(profile, **arguments)
    monitor = Monitor(profile)
    assert monitor._outcome_series is not None
    assert len(monitor._outcome_series.succession._state[1]) == 1
    monitor.close()
