"""Durations as people write them."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

_UNITS = {"w": Fraction(604_800), "d": Fraction(86_400), "h": Fraction(3600), "m": Fraction(60), "s": Fraction(1),
          "ms": Fraction(1, 1000)}  # fmt: skip
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_WRITTEN = re.compile(r"\s*".join(f"(?:({_NUMBER})\\s*{unit})?" for unit in _UNITS))
"""Each unit at most once, the longest first, as Prometheus has it."""


def seconds(name: str, value: Any) -> float:
    """A duration in seconds, from a number or from text as ``"7d"``, ``"12h"``, ``"1h30m"``, ``"45s"``, ``"80ms"``.

    Text is the number that is nearest to it: ``"9ms"`` is 0.009, which 9 * 0.001 is not.

    Raises:
        ValueError: it is neither, or not positive.
    """
    if isinstance(value, str):
        written = _WRITTEN.fullmatch(value.strip())
        numbers = written.groups(default="0") if written else ()
        exact: Fraction | float = sum(
            (Fraction(number) * size for number, size in zip(numbers, _UNITS.values(), strict=False)), Fraction()
        )
    else:
        exact = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    try:
        found = float(exact)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f'{name} must be positive seconds, or text as "7d", "30m" or "1h30m", got {value!r}')
    return found
