"""Durations as people write them."""

from __future__ import annotations

import math
import re
from typing import Any

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_WRITTEN = re.compile(r"\s*".join(f"(?:({_NUMBER})\\s*{unit})?" for unit in _UNITS))
"""Each unit at most once, the longest first, as Prometheus has it."""


def seconds(name: str, value: Any) -> float:
    """A duration in seconds, from a number or from text as ``"7d"``, ``"12h"``, ``"1h30m"``, ``"45s"``, ``"80ms"``.

    Raises:
        ValueError: it is neither, or not positive.
    """
    if isinstance(value, str):
        written = _WRITTEN.fullmatch(value.strip())
        numbers = written.groups(default="0") if written else ()
        found = sum(float(number) * size for number, size in zip(numbers, _UNITS.values(), strict=False))
    else:
        found = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f'{name} must be positive seconds, or text as "7d", "30m" or "1h30m", got {value!r}')
    return found
