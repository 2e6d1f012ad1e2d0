"""The thread that ends panes: one per process for all monitors, started when the first of them observes."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from typing import Protocol

from otel_mlobs.telemetry import guard

_LONGEST_WAIT_S = 60.0
_SHORTEST_WAIT_S = 0.01


class Kept(Protocol):
    """What has panes that end by the real clock."""

    def tick(self, now: float | None = None) -> float:
        """End what panes are over; returns when the next one is, in seconds since the epoch."""


class Keeper:
    """Ticks everything it keeps when it is due; holds none of it alive."""

    def __init__(self) -> None:
        self._make()

    def _make(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._kept: tuple[weakref.ref[Kept], ...] = ()
        self._running = False

    def keep(self, one: Kept) -> bool:
        """Tick ``one`` from now on, for as long as somebody else holds it; false where that must be tried again.

        Raises ``RuntimeError`` where no thread can be started: there are too many, or the interpreter exits.
        """
        if sys.is_finalizing():  # before Python 3.12 a thread that is started then is waited for, and never runs
            raise RuntimeError("the interpreter exits")
        if not self._lock.acquire(blocking=False):  # another thread, or a signal handler within this very method
            return False
        try:
            there = tuple(ref for ref in self._kept if ref() is not None)
            if not any(ref() is one for ref in there):
                self._kept = (*there, weakref.ref(one))
            if not self._running:
                thread = threading.Thread(target=self._run, name="otel_mlobs-monitor", daemon=True)
                thread.start()  # from Python 3.12 on this fails while the interpreter exits
                self._running = True
            self._wake.set()
            return True
        finally:
            self._lock.release()

    def _run(self) -> None:
        wake = self._wake
        while True:
            due = self._tick_all()
            wait = min(_LONGEST_WAIT_S, due - time.time())
            wake.wait(max(_SHORTEST_WAIT_S, wait))
            wake.clear()

    def _tick_all(self) -> float:
        due = time.time() + _LONGEST_WAIT_S
        for ref in self._kept:
            one = ref()
            if one is None:
                continue
            try:
                due = min(due, one.tick())
            except Exception as error:  # noqa: BLE001 - one monitor's trouble is not another's, and the thread goes on
                guard.report("monitor", error)
        return due

    def start_afresh(self) -> None:
        """No thread is here; what is kept joins again with its first row."""
        self._make()


keeper = Keeper()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keeper.start_afresh)
