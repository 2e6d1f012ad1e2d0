"""What tests of monitors and stores share: a clock that they move, and names of their own for models."""

from __future__ import annotations

import itertools

_number = itertools.count()


class Clock:
    """A clock that the test moves."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def own_name(kind: str) -> str:
    """A name that no other model of the process has: monitors of one profile share their series."""
    return f"{kind} {next(_number)}"
