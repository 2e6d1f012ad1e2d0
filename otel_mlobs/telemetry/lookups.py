"""What the result of a feature lookup says: who was found, with how many values, and when these were made.

An entity is a mapping, a flat sequence, a 1-D array or series, an object; or each row of a list, a frame, a 2-D array,
a mapping from entity to row, a mapping of columns. None and what holds no value at all is an entity that was missed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from otel_mlobs.core.devices import on_cpu
from otel_mlobs.telemetry import guard
from otel_mlobs.telemetry.readings import features, features_within, flat_features, is_missing
from otel_mlobs.telemetry.timestamps import listed

_ABSENT: Any = object()
_ROWS = (Mapping, list, tuple)


class Reading:
    """How a lookup was told to be read: where timestamps are, how old they may be, which answers are stand-ins.

    Equal where they were written alike: a context manager is written anew at every call.
    """

    __slots__ = ("_key", "default", "has_default", "name", "objective", "timestamp")

    def __init__(self, timestamp: str | int | Callable[[Any], Any] | None, objective: float | None, default: Any):
        self.timestamp = timestamp
        self.name = None if callable(timestamp) else timestamp
        self.objective = objective
        self.default = default
        self.has_default = default is not None
        self._key = (timestamp, objective, default if isinstance(default, Hashable) else repr(default))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reading) and self._key == other._key


PLAIN = Reading(None, None, None)


class Looked:
    """What one lookup, or several together, came back with. ``stamps`` are the timestamps of those that were hit."""

    __slots__ = ("countable", "defaults", "found", "hits", "lost", "misses", "missing", "stamps", "unnamed")

    def __init__(self) -> None:
        self.hits = self.misses = self.defaults = 0
        self.found = self.missing = 0
        self.lost = 0
        """How many of the missing values belong to entities that were not hit."""
        self.countable = False
        self.stamps: list[Any] = []
        self.unnamed = False
        """Whether there was an entity without the timestamp's name."""

    @property
    def entities(self) -> int:
        """How many were asked for, as far as the answer says."""
        return self.hits + self.misses + self.defaults

    def add(self, other: Looked) -> None:
        """Count what another lookup came back with as this one's."""
        self.hits += other.hits
        self.misses += other.misses
        self.defaults += other.defaults
        self.found += other.found
        self.missing += other.missing
        self.lost += other.lost
        self.countable = self.countable or other.countable
        self.unnamed = self.unnamed or other.unnamed
        self.stamps += other.stamps


def look(reading: Reading, result: Any, value: Any) -> Looked:
    """Read ``value``, the features within ``result``; a callable that tells the time gets the whole result."""
    looked = Looked()
    hit = _look(reading, looked, value)
    if callable(reading.timestamp) and looked.hits:
        try:
            told = reading.timestamp(result)
        except Exception as error:  # noqa: BLE001 - a callable of the user's: the lookup counts without an age
            guard.report("timestamp", error)
        else:
            stamps = listed(told) if _is_column(told) else [told]
            looked.stamps = [one for one, found in zip(stamps, hit, strict=False) if found]
    return looked


def _look(reading: Reading, looked: Looked, value: Any) -> Sequence[bool]:
    """Count every entity of ``value``; returns which of them were hit."""
    if type(value) is dict or isinstance(value, Mapping):
        return _look_at_mapping(reading, looked, value)
    if isinstance(value, (list, tuple)):
        if value and not hasattr(value, "_fields") and _holds_rows(value, reading.name):
            return [_look_at_row(reading, looked, row) for row in value]
    elif hasattr(value, "__next__"):
        return ()  # an iterator is the application's to read
    else:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and len(shape) == 2 and shape[0]:
            return _look_at_table(reading, looked, value)
    return [_look_at_row(reading, looked, value)]


def _look_at_mapping(reading: Reading, looked: Looked, value: Mapping[Any, Any]) -> Sequence[bool]:
    counted = flat_features(value.values(), (Mapping,))
    if counted is None:
        return [_look_at_row(reading, looked, row) for row in value.values()]
    if reading.name is not None and _is_column(_cell(value, reading.name)):
        columns = {key: listed(column) for key, column in value.items() if _is_column(column)}
        rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=False))
        return [_look_at_row(reading, looked, row) for row in rows]
    return [_look_at_row(reading, looked, value, counted)]


def _holds_rows(value: Sequence[Any], name: str | int | None) -> bool:
    if flat_features(value, _ROWS) is None:
        return True
    first = next((one for one in value if one is not None), None)
    if first is None:  # nobody was found: with a name each is an entity, as rows have names and cells have none
        return isinstance(name, str)
    return hasattr(first, "_mapping") or (isinstance(name, str) and hasattr(first, name))


def _look_at_row(reading: Reading, looked: Looked, row: Any, counted: tuple[int, int] | None = None) -> bool:
    """Count one entity; true where it was hit."""
    if type(row) is dict:
        counted = counted or flat_features(row.values())
    else:
        row = getattr(row, "_mapping", row)  # a row of SQLAlchemy
        if counted is None and _is_readable(row):
            counted = features_within(row)
    stamp = None
    if counted is not None:
        looked.countable = True
        found, missing = counted
        if reading.name is not None and row is not None:
            stamp = _cell(row, reading.name)
            if stamp is _ABSENT:
                looked.unnamed = looked.unnamed or found > 0
                stamp = None
            elif is_missing(stamp):  # when they were made is none of the features
                missing -= 1
            else:
                found -= 1
    else:
        found, missing = 1, 0
        if reading.name is not None:
            stamp = _cell(row, reading.name)
            if stamp is _ABSENT:
                looked.unnamed, stamp = True, None
    if reading.has_default and row is not None and _is_default(reading, row):
        looked.defaults += 1
        if counted is not None:
            looked.missing += found + missing
            looked.lost += found + missing
        return False
    if counted is not None:
        looked.found += found
        looked.missing += missing
    if found <= 0:
        looked.misses += 1
        looked.lost += missing
        return False
    looked.hits += 1
    if reading.name is not None:
        looked.stamps.append(stamp)
    return True


def _is_readable(row: Any) -> bool:
    return row is None or isinstance(row, _ROWS) or isinstance(getattr(row, "shape", None), tuple)


def _cell(row: Any, name: str | int) -> Any:
    """The timestamp of one row: by key, as text or as bytes, by position, or by attribute."""
    if type(row) is dict or isinstance(row, Mapping):
        found = row.get(name, _ABSENT)
        if found is _ABSENT and isinstance(name, str):
            found = row.get(name.encode(), _ABSENT)  # as Redis gives hashes
        return found
    if isinstance(name, int):
        try:
            return row[name]
        except (IndexError, KeyError, TypeError):
            return _ABSENT
    if hasattr(row, "index") and hasattr(row, "get"):  # a row of pandas
        return row.get(name, _ABSENT)
    return getattr(row, name, _ABSENT)


def _is_default(reading: Reading, row: Any) -> bool:
    default = reading.default
    try:
        return bool(default(row) if callable(default) else row is default or row == default)
    except Exception as error:  # noqa: BLE001 - a callable of the user's, or an array that is neither
        guard.report("default", error)
        return False


def _is_column(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return True
    shape = getattr(value, "shape", None)
    return (isinstance(shape, tuple) and len(shape) == 1) or hasattr(value, "to_pylist")


def _look_at_table(reading: Reading, looked: Looked, table: Any) -> Sequence[bool]:
    """Count the rows of a frame or a 2-D array."""
    rows = int(table.shape[0])
    counted = features(table)
    found, missing = counted or (0, 0)
    stamps: list[Any] = []
    if reading.name is not None:
        column = _column(table, reading.name)
        if column is None:
            looked.unnamed = True
        else:
            stamps = listed(column)
            absent = sum(map(is_missing, stamps))
            found, missing = found - (rows - absent), missing - absent
    default = _default_rows(reading, table, rows)
    missed = _rows_without_values(table, reading.name, rows) if missing and on_cpu(table) else frozenset()
    hit = [index not in missed and not default[index] for index in range(rows)]
    looked.hits = sum(hit)
    looked.defaults = sum(default)
    looked.misses = rows - looked.hits - looked.defaults
    if counted is not None:
        looked.countable = True
        values = (found + missing) // rows
        stand_ins = min(found, values * looked.defaults)
        looked.found, looked.missing = found - stand_ins, missing + stand_ins
        looked.lost = min(looked.missing, values * (looked.misses + looked.defaults))
    looked.stamps = [one for one, was in zip(stamps, hit, strict=False) if was]
    return hit


def _default_rows(reading: Reading, table: Any, rows: int) -> list[bool]:
    """Which rows are stand-ins: a callable says it of the whole table, or of each row."""
    said: Any = False
    if callable(reading.default):
        try:
            said = reading.default(table)
            if _is_column(said):
                found = [bool(one) for one in listed(said)]
                if len(found) != rows:
                    raise ValueError(f"default= said it of {len(found)} rows, the table has {rows}")
                return found
            said = bool(said)
        except Exception as error:  # noqa: BLE001 - a callable of the user's
            guard.report("default", error)
            said = False
    return [said or table is reading.default] * rows


def _rows_without_values(table: Any, stamp: str | int | None, rows: int) -> frozenset[int]:
    empty = set(range(rows))
    for name, column in _columns(table):
        if not empty:
            break
        if name != stamp:
            cells = listed(column)
            empty = {index for index in empty if is_missing(cells[index])}
    return frozenset(empty)


def _columns(table: Any) -> Iterator[tuple[Any, Any]]:
    for index, name in enumerate(_names(table) or range(int(table.shape[1]))):
        yield name, _column(table, index)


def _names(table: Any) -> list[Any]:
    names = table.column_names if hasattr(table, "column_names") else getattr(table, "columns", ())
    return list(names)


def _column(table: Any, name: str | int) -> Any:
    names = _names(table)
    if isinstance(name, str):
        if name not in names:
            return None
        name = names.index(name)
    if not -table.shape[1] <= name < table.shape[1]:
        return None
    if hasattr(table, "iloc"):
        return table.iloc[:, name]
    return table.column(name) if hasattr(table, "itercolumns") else table[:, name]
