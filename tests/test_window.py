"""The sliding window: what it sums equals a plain list of panes, and its memory is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_mlobs.core.window import Window

COUNTS = st.lists(st.integers(0, 9), min_size=4, max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("add"), COUNTS),
    st.tuples(st.just("rotate"), st.none()),
    st.tuples(st.just("skip"), st.integers(0, 12)),
)


class _Panes:
    """The same in the plainest way: a list of panes, the running one last."""

    def __init__(self, panes: int) -> None:
        self.panes = panes
        self.held: list[Any] = [np.zeros((2, 2), np.int64)]

    def end(self) -> Any:
        ended = self.held[-1]
        self.held = [*self.held, np.zeros((2, 2), np.int64)][-self.panes - 1 :]
        return ended

    @property
    def total(self) -> Any:
        return sum(self.held)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.lists(STEPS, max_size=40))
def test_the_sum_equals_a_plain_list_of_panes(panes: int, steps: list[Any]) -> None:
    """Through any adding, ending and skipping of panes, the total is the running one and the last that ended."""
    window, plain = Window((2, 2), panes), _Panes(panes)
    for what, argument in steps:
        if what == "add":
            counts = np.array(argument).reshape(2, 2)
            window.add(counts)
            plain.held[-1] = plain.held[-1] + counts
        elif what == "rotate":
            assert window.rotate().tolist() == plain.end().tolist()
        else:  # empty panes pass directly after one has ended
            assert window.rotate().tolist() == plain.end().tolist()
            window.skip(argument)
            for _ in range(argument):
                plain.end()
        assert window.total.tolist() == plain.total.tolist()
        assert window.empty == (not plain.total.any())


@pytest.mark.parametrize("count", [65_535, 65_536, 2**32 - 1, 2**32, 2**40])
def test_large_counts_leave_as_they_came(count: int) -> None:
    """A pane beyond 16 or 32 bits never takes more out of the total than it put in, nor anything of others."""
    window = Window((1, 2), 2)
    window.add(np.array([[count, 5]]))
    window.rotate()
    assert window.total[0, 1] == 5
    assert window.total[0, 0] == min(count, 2**32 - 1)
    window.add(np.array([[7, 1]]))
    window.rotate()
    window.add(np.array([[1, 1]]))
    window.rotate()
    assert window.total.tolist() == [[8, 2]]
    window.skip(2)
    assert window.total.tolist() == [[0, 0]]
    assert window.empty


def test_panes_of_a_million_seconds_of_nothing_are_skipped_at_once() -> None:
    """A gap of any length empties the window in as many steps as it has panes."""
    window = Window((1, 2), 60)
    window.add(np.array([[3, 4]]))
    window.rotate()
    window.skip(10**15)
    assert window.empty
    window.add(np.array([[1, 0]]))
    assert window.total.tolist() == [[1, 0]]


def test_what_is_returned_and_given_is_not_shared() -> None:
    """Later rows change no pane that was handed out, and the caller's counts may be used again."""
    window = Window((1, 2), 4)
    counts = np.array([[1, 2]])
    window.add(counts)
    counts[:] = 99
    ended = window.rotate()
    window.add(np.array([[5, 5]]))
    assert ended.tolist() == [[1, 2]]
    assert window.total.tolist() == [[6, 7]]


def test_a_window_of_one_pane() -> None:
    """With one pane, what has ended stays until the next one ends."""
    window = Window((1, 2), 1)
    window.add(np.array([[1, 2]]))
    assert window.total.tolist() == [[1, 2]]
    assert window.rotate().tolist() == [[1, 2]]
    window.add(np.array([[3, 0]]))
    assert window.total.tolist() == [[4, 2]]
    assert window.rotate().tolist() == [[3, 0]]
    assert window.total.tolist() == [[3, 0]]
    window.skip(3)
    assert window.empty
