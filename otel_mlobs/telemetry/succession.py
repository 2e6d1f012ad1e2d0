"""Sums that outlive those who counted them: a series does not run backwards when a monitor ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.telemetry.counting import Counting

T = TypeVar("T")

_FAREWELL_S = 300.0
"""How long the final counts of the last monitor are still sent: longer than the interval of any reader."""


class Succession(Generic[T]):
    """What the monitors of one series have counted in this process, those that have ended among them.

    Args:
        blank: a sum of nothing.
        read: what one monitor has counted.
        add: two sums together; neither is changed.
    """

    def __init__(self, blank: Callable[[], T], read: Callable[[Counting], T], add: Callable[[T, T], T]) -> None:
        self._blank = blank
        self._read = read
        self._add = add
        # What ended monitors have counted, and the others: replaced as one, so that both are of one moment
        self._state: tuple[T, tuple[Counting, ...]] = (blank(), ())
        self._lock = threading.RLock()
        self._ended_at = 0.0

    @property
    def live(self) -> tuple[Counting, ...]:
        """Those that still count."""
        return tuple(one for one in self._state[1] if not one.retired)

    @property
    def over(self) -> bool:
        """Whether nobody counts any more, and has not for so long that the final sum has been sent."""
        return not self._state[1] and time.monotonic() - self._ended_at > _FAREWELL_S

    def join(self, counting: Counting) -> None:
        """Add what ``counting`` counts from now on."""
        with self._lock:
            ended, live = self._state
            self._state = (ended, (*live, counting))

    def total(self) -> T:
        """All that was counted. Who has ended is kept as a sum from then on."""
        total, live = self._state
        for one in live:
            total = self._add(total, self._read(one))
        retired = [one for one in live if one.retired]
        if retired:
            self._let_go(retired)
        return total

    def _let_go(self, retired: list[Counting]) -> None:
        counts = [self._read(one) for one in retired]  # before the lock: each takes one of its own
        with self._lock:
            ended, live = self._state
            for one, counted in zip(retired, counts, strict=True):
                if any(other is one for other in live):  # else another collection was quicker
                    ended = self._add(ended, counted)
            self._state = (ended, tuple(one for one in live if not any(one is other for other in retired)))
            self._ended_at = time.monotonic()

    def start_afresh(self) -> None:
        """Forget what was counted: in a forked child it is the parent's, and nobody begins the ended ones afresh."""
        self._lock = threading.RLock()
        self._state = (self._blank(), self.live)
