"""The threads that read GPUs: a test waits for theirs, else they would end the next one's use of the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 20.0


def threads() -> list[str]:
    """Their names, as many as there are."""
    return [each.name for each in threading.enumerate() if each.name.startswith("otel_mlobs-gpu")]


def eventually(condition: Callable[[], Any]) -> bool:
    """Whether ``condition`` comes true in time."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.005)
    return False


def all_have_ended() -> bool:
    """Whether they end, once nobody needs them."""
    return eventually(lambda: not threads())
