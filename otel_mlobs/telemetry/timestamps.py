"""When something was made, as seconds since 1970, from whatever a feature store writes.

Numbers are seconds, milliseconds, microseconds or nanoseconds by their size: from 1e11 on milliseconds, from 1e14 on
microseconds, from 1e17 on nanoseconds, which keeps every date from March 1973 to the year 5138 apart. A smaller
number, 0 among them, is no timestamp: more likely it is an age, or was never set.
"""

from __future__ import annotations

import math
import re
import sys
from datetime import date, datetime, timezone
from typing import Any

from otel_mlobs.telemetry.readings import is_missing

_UTC = timezone.utc
_SCALES = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
IN_SECONDS = (1e8, 1e11)
"""Numbers between these are seconds since 1970."""
_EPOCH = date(1970, 1, 1).toordinal()
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?)? ?(Z|z|[+-]\d\d(?::?\d\d)?)?")


def seconds_of(value: Any) -> float | None:
    """``value`` as seconds since 1970; None where it is missing.

    Takes a datetime (naive ones are UTC), a date (its midnight, UTC), a number, text or bytes that hold a number or an
    ISO 8601 date, and the scalars of numpy, pandas and Arrow.

    Raises:
        ValueError: it is none of these, or no date after March 1973.
    """
    kind = type(value)
    if kind is float or kind is int:
        return _of_number(value)
    if kind is datetime:
        return float((value if value.tzinfo is not None else value.replace(tzinfo=_UTC)).timestamp())
    if is_missing(value):
        return None
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return _of_text(value if isinstance(value, str) else bytes(value).decode("utf-8", "replace"))
    if isinstance(value, datetime):  # pandas' among them
        return float((value if value.tzinfo is not None else value.replace(tzinfo=_UTC)).timestamp())
    if isinstance(value, date):
        return (value.toordinal() - _EPOCH) * 86_400.0
    if hasattr(value, "as_py"):  # Arrow
        return seconds_of(value.as_py())
    if str(getattr(value, "dtype", "")).startswith("datetime64"):
        microseconds = value.astype("datetime64[us]").astype("int64").item()
        return None if microseconds == _NOT_A_TIME else float(microseconds) / 1e6
    if not isinstance(value, bool) and hasattr(value, "__float__"):
        return _of_number(float(value))
    raise ValueError(f"no timestamp: a {kind.__name__}")


_NOT_A_TIME = -(2**63)


def _of_number(number: float) -> float | None:
    if number != number:  # noqa: PLR0124 - NaN
        return None
    if not IN_SECONDS[0] <= number < math.inf:
        raise ValueError("no timestamp: a number below 1e8 or an infinity, seconds since 1970 were expected")
    for least, scale in _SCALES:
        if number >= least:
            return number * scale
    return float(number)


def _of_text(text: str) -> float | None:
    text = text.strip()
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        return _of_number(float(text))
    found = _ISO.fullmatch(text)
    if found is None:
        raise ValueError("no timestamp: text that is neither a number nor an ISO 8601 date")
    day, time, fraction, zone = found.groups()
    # Spelt out as Python 3.10 reads it: six digits of a fraction, an offset with its minutes
    if zone is None or zone in "Zz":
        zone = "+00:00"
    elif ":" not in zone:
        zone = f"{zone[:3]}:{zone[3:] or '00'}"
    return datetime.fromisoformat(f"{day}T{time or '00:00'}{_micro(time, fraction)}{zone}").timestamp()


def _micro(time: str | None, fraction: str | None) -> str:
    if not fraction:
        return ""
    if time is None or time.count(":") != 2:
        raise ValueError("no timestamp: a fraction of a minute")
    return f".{fraction[:6]:0<6}"


def listed(column: Any) -> list[Any]:
    """The values of a column, each as :func:`seconds_of` takes it: a list, array, series or Arrow column."""
    if isinstance(column, (list, tuple)):
        return list(column)
    numpy = sys.modules.get("numpy")
    if numpy is not None and _holds_times(column):
        # At once: one by one a pandas timestamp costs as much as the whole column
        values = column.to_numpy(dtype="datetime64[us]") if hasattr(column, "iloc") else numpy.asarray(column)
        microseconds = values.astype("datetime64[us]").astype("int64")
        return [None if one == _NOT_A_TIME else one / 1e6 for one in microseconds.tolist()]
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            found = getattr(column, method)()
            return found if isinstance(found, list) else [found]
    return list(column)


def _holds_times(column: Any) -> bool:
    kind = getattr(column, "dtype", None)
    name = str(getattr(column, "type", "") if kind is None else kind).lower()
    return name.startswith(("datetime", "timestamp", "<m8", ">m8"))
