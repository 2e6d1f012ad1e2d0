"""Labels by the thousand: read from any table, joined in batches, reported by what became of them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from otel_mlobs.core.records import NO_CURRENCY, Label, plain, valid_amount, valid_currency
from otel_mlobs.stores.moments import label_time
from otel_mlobs.telemetry import timestamps
from otel_mlobs.telemetry.readings import is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_Read = TypeVar("_Read")

_ROWS_READ_AT_ONCE = 10_000
_KINDS = ("joined", "duplicate", "conflict", "late", "unknown", "missing", "invalid")


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
        invalid: labels that the profile's outputs cannot have; they are not stored.
        reason: what labels must be, and the first that was not; "" where none is invalid.
    """

    rows: int = 0
    joined: int = 0
    duplicate: int = 0
    conflict: int = 0
    late: int = 0
    unknown: int = 0
    missing: int = 0
    invalid: int = 0
    reason: str = ""

    def __str__(self) -> str:
        rows = f"{self.rows:,} label{'' if self.rows == 1 else 's'}"
        counts = ((kind, getattr(self, kind)) for kind in _KINDS)
        told = ", ".join(f"{count:,} {kind}" for kind, count in counts if count or kind == "joined")
        return (f"{rows}: {told}" if self.rows else rows) + (f": {self.reason}" if self.reason else "")


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


_PAIRS = Fields("id", "label")
"""Rows that are no table's: their messages name no column."""


def rows_of(labels: Any, fields: Fields, latest: float) -> tuple[Iterable[Label | None], int | None]:
    """The labels of a table or an iterable, None for a row without an id or a label; and how many rows there are.

    A time after ``latest`` is refused. What a row holds is looked at when its turn comes.

    Raises:
        TypeError: it is neither a table nor an iterable of labels.
        ValueError: the table lacks a column, or a row's time, value or currency is none.
    """
    from otel_mlobs.tables import frames

    if isinstance(labels, dict):
        return _of_columns(labels, fields, latest)
    if frames.is_frame(labels):
        frame = frames.Frame(labels)
        _check_columns(frame.names, fields)
        frame.compute(fields.names)
        return _of_columns({name: frame.array(name) for name in fields.names}, fields, latest)
    try:
        iterator = iter(labels)
    except TypeError:
        raise TypeError(
            f"labels must be a table or an iterable of (id, label) pairs, got a {type(labels).__name__}"
        ) from None
    read = (_of_row(row, number, latest) for number, row in enumerate(iterator, 1))
    return read, len(labels) if hasattr(labels, "__len__") else None


def _check_columns(names: Iterable[Any], fields: Fields) -> None:
    there = list(names)
    for argument, name in vars(fields).items():
        if name is not None and name not in there:
            raise ValueError(f"{argument}={name!r} must be one of the table's columns, {', '.join(map(str, there))}")


def _of_columns(columns: Mapping[str, Any], fields: Fields, latest: float) -> tuple[Iterator[Label | None], int]:
    _check_columns(columns, fields)
    taken = {name: columns[name] for name in fields.names}
    rows = len(taken[fields.id])
    for name, column in taken.items():
        if len(column) != rows:
            raise ValueError(f"column {name!r} must have {rows} rows as {fields.id!r} has, got {len(column)}")

    def read() -> Iterator[Label | None]:
        for start in range(0, rows, _ROWS_READ_AT_ONCE):
            parts = {
                name: _listed(column[start : start + _ROWS_READ_AT_ONCE], times=name == fields.time)
                for name, column in taken.items()
            }
            nothing: Sequence[None] = (None,) * len(parts[fields.id])
            wanted = (fields.id, fields.label, fields.key, fields.time, fields.value, fields.currency)
            given = zip(*(nothing if name is None else parts[name] for name in wanted), strict=True)
            for number, row in enumerate(given, start + 1):
                yield _label(number, fields, latest, *row)

    return read(), rows


def _listed(column: Any, *, times: bool) -> Sequence[Any]:
    if times:
        return timestamps.listed(column)
    for method in ("tolist", "to_pylist"):
        if hasattr(column, method):
            found: Sequence[Any] = getattr(column, method)()
            return found
    return list(column)


def _of_row(row: Any, number: int, latest: float) -> Label | None:
    if isinstance(row, Label):
        return _label(number, _PAIRS, latest, row.prediction_id, row.value, row.key, *row[3:])
    if not isinstance(row, (tuple, list)) or not 2 <= len(row) <= 3:
        raise TypeError(f"a label must be a pair (id, label), or with its time behind it, got {row!r}")
    return _label(number, _PAIRS, latest, row[0], row[1], None, *row[2:])


def id_of(value: Any) -> str | None:
    """A prediction's id as text, as ``Monitor.observe`` keeps it; None where it is missing."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, float):  # a column of whole numbers, one of them missing
        return str(int(value)) if value.is_integer() else None
    return str(value)


def _label(
    row: int,
    fields: Fields,
    latest: float,
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
    came = worth = unit = None
    if time is not None:
        came = _read(lambda: label_time(time, latest), row, fields.time)
    if not _is_empty(amount):
        worth = _read(lambda: _amount(amount), row, fields.value)
        unit = NO_CURRENCY
        if not _is_empty(currency):
            unit = _read(lambda: valid_currency(currency), row, fields.currency)
    return Label(found, key or "", known, came, worth, unit, token)


def _read(read: Callable[[], _Read], row: int, column: str | None) -> _Read:
    """What ``read`` gives; where it does not, the place is named."""
    try:
        return read()
    except (TypeError, ValueError) as error:
        where = f"row {row:,}" if column is None else f"column {column!r}, row {row:,}"
        raise ValueError(f"{where}: {error}") from None


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or is_missing(value)


def _amount(value: Any) -> float:
    """An amount; a column of text may hold numbers, as where one cell of a CSV file is none."""
    if isinstance(value, str):
        try:
            return valid_amount(float(value))
        except ValueError:
            raise ValueError(f"value must be a number from 0, as 12.50, got {value!r}") from None
    return valid_amount(value)


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


def report_of(counts: Mapping[str, int], reason: str) -> JoinReport:
    """The report of what was counted by kind."""
    return JoinReport(**{kind: counts.get(kind, 0) for kind in ("rows", *_KINDS)}, reason=reason)
