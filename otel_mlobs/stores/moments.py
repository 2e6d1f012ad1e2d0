"""Times as people and tables have them: when a label came, and from when until when figures are wanted."""

from __future__ import annotations

import math
from typing import Any

from otel_mlobs.telemetry.timestamps import seconds_of

DAY_S = 86_400.0
_EARLIEST_S = 631_152_000.0
"""1990: what is earlier was never set, or is an age."""
_MILLISECONDS = 1e11
"""Numbers from here on are no seconds since 1970, but milliseconds or finer."""
_LONGEST_SHOWN = 60


def label_time(value: Any, latest: float) -> float | None:
    """When a label came, in seconds since the epoch; None where that is missing.

    Takes datetimes (naive ones are UTC), ISO 8601 text, and seconds, milliseconds, microseconds or nanoseconds, told
    apart by their size.

    Raises:
        ValueError: it is none of these, is before 1990, or after ``latest``.
    """
    try:
        found = seconds_of(value)
    except ValueError:
        raise ValueError(
            "a time must be a datetime, ISO text as 2026-11-01T12:00:00Z or seconds since 1970 "
            f"(from 1990 on), got {shown(value)}"
        ) from None
    if found is not None and found < _EARLIEST_S:
        raise ValueError(f"a time must be from 1990 on, got {shown(value)}")
    if found is not None and found > latest:
        raise ValueError(f"a time must be at most a day in the future, got {shown(value)}")
    return found


def moment(name: str, value: Any) -> float:
    """One end of a span of time, in seconds since the epoch.

    Raises:
        ValueError: it is neither a number, a datetime nor ISO 8601 text.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
        if math.isinf(seconds) or seconds < _MILLISECONDS:
            return seconds
    try:
        found = seconds_of(value)
    except ValueError:
        found = None
    if found is None:
        raise ValueError(
            f"{name} must be a date or time as 2026-11-01 or 2026-11-01T12:00Z, a datetime, or seconds since 1970, "
            f"got {shown(value)}"
        )
    return found


def shown(value: Any) -> str:
    """``value`` in a message: at most a line of it."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
