"""Labels on their way, and how queues are taken from while others add to them."""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from otel_mlobs.core.records import Joined, Label

_Item = TypeVar("_Item")


class Waiting(NamedTuple):
    """A label that is on its way, and whom to tell what became of it."""

    label: Label
    done: Callable[[Joined], None]
    deadline: float


def taken(waiting: deque[_Item], number: int) -> list[_Item]:
    """The first ``number`` of ``waiting``, taken out of it."""
    found: list[_Item] = []
    with suppress(IndexError):  # others may drop some meanwhile
        while len(found) < number:
            found.append(waiting.popleft())
    return found


def cut(held: deque[_Item] | list[_Item], wanted: Callable[[_Item], bool]) -> list[_Item]:
    """Take what is wanted out of ``held``, to whose end others may add meanwhile."""
    places = [place for place, one in enumerate(held.copy()) if wanted(one)]
    cut = [held[place] for place in places]
    for place in reversed(places):
        del held[place]
    return cut


def tell(done: Callable[[Joined], None], joined: Joined) -> None:
    """Say what became of a label."""
    try:
        done(joined)
    except Exception as error:  # noqa: BLE001 - one label's trouble is not the others'
        guard.report("outcomes", error)


def wait(wake: queue.SimpleQueue[None], seconds: float) -> None:
    """Wait until somebody calls, ``seconds`` at most."""
    with suppress(queue.Empty):
        if seconds > 0:
            wake.get(timeout=seconds)
        while True:
            wake.get_nowait()
