"""Counts over the last panes: what came in the window, and what each pane adds when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Counts = NDArray[np.int64]

_SMALL, _LARGE = np.iinfo(np.uint16).max, np.iinfo(np.uint32).max


class Window:
    """A table of counts for the running pane, and the sum over it and the ``panes`` that ended before it.

    Memory: 2 bytes per pane and cell (4 once a pane had more than 65,535 in a cell), and 16 per cell.
    """

    def __init__(self, shape: tuple[int, int], panes: int) -> None:
        """``shape`` is (columns, cells); ``panes`` how many ended panes are kept, from 1."""
        self.panes = panes
        self._ended = np.zeros((panes, *shape), np.uint16)
        self._next = 0
        self._total = np.zeros(shape, np.int64)
        self._current = np.zeros(shape, np.int64)

    @property
    def total(self) -> Counts:
        """The counts of the window, the running pane included; not to be written to."""
        return self._total

    @property
    def empty(self) -> bool:
        """Whether nothing is in the window."""
        return not self._total.any()

    def add(self, counts: Counts) -> None:
        """Add to the running pane."""
        self._current += counts
        self._total += counts

    def rotate(self) -> Counts:
        """End the running pane and return its counts; what falls out of the window leaves its total."""
        ended = self._current
        self._current = np.zeros_like(ended)
        if self._ended.dtype == np.uint16 and ended.max(initial=0) > _SMALL:
            self._ended = self._ended.astype(np.uint32)
        leaving = self._ended[self._next]
        self._total -= leaving
        np.minimum(ended, _LARGE, out=leaving, casting="unsafe")
        self._total += leaving - ended  # nothing, unless a pane's count is beyond 32 bits
        self._next = (self._next + 1) % len(self._ended)
        return ended

    def skip(self, panes: int) -> None:
        """Let ``panes`` empty panes pass after the running one was ended."""
        for _ in range(min(panes, len(self._ended))):
            self._total -= self._ended[self._next]
            self._ended[self._next] = 0
            self._next = (self._next + 1) % len(self._ended)
