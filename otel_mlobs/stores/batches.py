"""Labels by the thousand: read from any table, joined in batches, reported by what became of them."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from otel_mlobs.core.records import Label, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ROWS_READ_AT_ONCE = 10_000
_KINDS = ("joined", "duplicate", "conflict", "late", "unknown")


@dataclass(frozen=True)
class JoinReport:
    """How many labels of a batch came to what.

    Attributes:
        rows: the labels that were read.
        joined: found their prediction, which had none.
        duplicate: say what an earlier label says.
        conflict: say something else than an earlier label, which stays.
        late: joined after their prediction had been counted as mature.
        unknown: name no prediction that the store has.
        missing: rows without an id or without a label, or that the store cannot keep.
    """

    rows: int = 0
    joined: int = 0
    duplicate: int = 0
    conflict: int = 0
    late: int = 0
    unknown: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Fields:
    """Where a table's rows have what makes a label; None for what they lack."""

    id: str
    label: str
    key: str | None = None
    value: str | None = None
    currency: str | None = None
    time: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        found = (self.id, self.label, self.key, self.value, self.currency, self.time)
        return tuple(dict.fromkeys(name for name in found if name is not None))


def rows_of(labels: Any, fields: Fields) -> tuple[Iterable[Label | None], int | None]:
    """The labels of a table or an iterable, None for a row without an id or a label; and how many rows there are.

    Raises:
        TypeError: it is neither a table nor an iterable of labels.
        ValueError: the table lacks a column.
    """
    from otel_mlobs.tables import frames

    if isinstance(labels, dict):
        return _of_columns(labels, fields)
    if frames.is_frame(labels):
        frame = frames.Frame(labels)
        _check_columns(frame.names, fields)
        frame.compute(fields.names)
        return _of_columns({name: frame.array(name) for name in fields.names}, fields)
    try:
        iterator = iter(labels)
    except TypeError:
        raise TypeError(
            f"labels must be a table or an iterable of (id, label) pairs, got a {type(labels).__name__}"
        ) from None
    return (_of_row(row) for row in iterator), len(labels) if hasattr(labels, "__len__") else None


def _check_columns(names: Iterable[Any], fields: Fields) -> None:
    there = list(names)
    for argument, name in vars(fields).items():
        if name is not None and name not in there:
            raise ValueError(f"{argument}={name!r} must be one of the table's columns, {', '.join(map(str, there))}")


def _of_columns(columns: Mapping[str, Any], fields: Fields) -> tuple[Iterator[Label | None], int]:
    _check_columns(columns, fields)
    taken = {name: columns[name] for name in fields.names}
    rows = len(taken[fields.id])
    for name, column in taken.items():
        if len(column) != rows:
            raise ValueError(f"column {name!r} must have {rows} rows as {fields.id!r} has, got {len(column)}")

    def read() -> Iterator[Label | None]:
        for start in range(0, rows, _ROWS_READ_AT_ONCE):
            parts = {name: _listed(column[start : start + _ROWS_READ_AT_ONCE]) for name, column in taken.items()}
            nothing: Sequence[None] = (None,) * len(parts[fields.id])
            wanted = (fields.id, fields.label, fields.key, fields.time, fields.value, fields.currency)
            for row in zip(*(nothing if name is None else parts[name] for name in wanted), strict=True):
                yield _label(*row)

    return read(), rows


def _listed(column: Any) -> Sequence[Any]:
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _of_row(row: Any) -> Label | None:
    if isinstance(row, Label):
        return _label(row.prediction_id, row.value, row.key, *row[3:])
    if not isinstance(row, (tuple, list)) or not 2 <= len(row) <= 3:
        raise TypeError(f"a label must be a pair (id, label), or with its time behind it, got {row!r}")
    return _label(row[0], row[1], None, *row[2:])


def id_of(value: Any) -> str | None:
    """A prediction's id as text, as ``Monitor.observe`` keeps it; None where it is missing."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, float):  # a column of whole numbers, one of them missing
        return str(int(value)) if value.is_integer() else None
    return str(value)


def _label(
    prediction_id: Any,
    value: Any,
    key: Any = None,
    time: Any = None,
    amount: Any = None,
    currency: Any = None,
    token: str = "",
) -> Label | None:
    found, known = id_of(prediction_id), plain(value)
    if found is None or known is None:
        return None
    return Label(found, key or "", known, _seconds(time), _number(amount), currency or None, token)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _seconds(time: Any) -> float | None:
    """Seconds since the epoch, from a number or from what has a ``timestamp()``."""
    return _number(time.timestamp() if hasattr(time, "timestamp") else time)


def completed(label: Label, now: float) -> Label:
    """``label`` with a time, a token and its value as every store keeps it.

    Raises:
        TypeError: the value is neither text, a number nor a truth value.
        ValueError: it is missing.
    """
    value = plain(label.value)
    if value is None:
        raise ValueError(f"a label must have a value, got {label.value!r}")
    time = now if label.time is None else label.time
    return label._replace(value=value, time=time, token=label.token or uuid.uuid4().hex)


def chunks(rows: Iterable[Label | None], size: int) -> Iterator[list[Label | None]]:
    """``rows`` in lists of ``size``."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def report_of(counts: Mapping[str, int]) -> JoinReport:
    """The report of what was counted by kind."""
    return JoinReport(**{kind: counts.get(kind, 0) for kind in ("rows", "missing", *_KINDS)})
