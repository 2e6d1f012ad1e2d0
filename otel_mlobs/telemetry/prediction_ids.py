"""Ids by which a later label finds its prediction: unique over hosts, made in a fraction of a microsecond."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

LONGEST = 256

_prefix = os.urandom(8).hex()
_numbers = itertools.count(1)


def new() -> str:
    """An id that no other process has made; ``next`` of a count is atomic."""
    return f"{_prefix}-{next(_numbers):x}"


def checked(value: object) -> str:
    """A caller's id as text.

    Raises:
        ValueError: it is empty or longer than 256 characters.
        TypeError: it is a float, a collection or None, which no label will ever name again in the same way.
    """
    if value is None or isinstance(value, (float, bytes, bytearray, list, tuple, dict, set, frozenset)):
        raise TypeError(f"a prediction's id must be text, a whole number or a UUID, got {value!r}")
    text = str(value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value)
    if not text or len(text) > LONGEST:
        raise ValueError(f"a prediction's id must have 1 to {LONGEST} characters, got {len(text)}")
    return text


def of_rows(given: Any, rows: int) -> list[str]:
    """One id for each row of a batch: the caller's, or ``<id>.0``, ``<id>.1``, … of the one id it has.

    Raises:
        ValueError: there are more or fewer ids than rows.
    """
    if given is None:
        given = new()
    if not isinstance(given, (str, bytes)) and getattr(given, "shape", None) == ():
        given = given.item()  # a NumPy scalar
    listed: Any = None
    if not isinstance(given, (str, bytes)):
        for method in ("tolist", "to_list", "to_pylist"):
            if hasattr(given, method):
                listed = getattr(given, method)()
                break
        else:
            listed = given if isinstance(given, Sequence) else None
    if listed is not None:
        if not isinstance(listed, Sequence) or len(listed) != rows:
            raise ValueError(f"prediction ids must be one per row, {rows}, got {len(listed)}")
        return [checked(one) for one in listed]
    if hasattr(given, "__iter__") and not isinstance(given, str):
        raise TypeError(f"prediction ids of a batch must be a list, got a {type(given).__name__}")
    first = checked(given)
    return [first] if rows == 1 else [f"{first}.{index}" for index in range(rows)]


def _after_fork_in_child() -> None:
    """Number from one again, under a prefix of this process."""
    global _prefix, _numbers  # noqa: PLW0603 - of the process
    _prefix = os.urandom(8).hex()
    _numbers = itertools.count(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
