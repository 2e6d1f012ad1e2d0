"""Durations as people write them."""

from __future__ import annotations

import math
from typing import Any

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def seconds(name: str, value: Any) -> float:
    """A duration in seconds, from a number or from text as ``"7d"``, ``"12h"``, ``"30m"``, ``"45s"``.

    Raises:
        ValueError: it is neither, or not positive.
    """
    if isinstance(value, str):
        number, unit = value.strip()[:-1], value.strip()[-1:]
        try:
            found = float(number) * _UNITS[unit]
        except (KeyError, ValueError):
            found = math.nan
    else:
        found = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f'{name} must be positive seconds, or text as "7d", "12h" or "30m", got {value!r}')
    return found
