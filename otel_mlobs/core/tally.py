"""Counting without waiting: rows queue as packed bytes, batches as counts, and whoever has time folds them together.

Recording appends to a queue, which is atomic, and takes no lock: threads do not contend, and a signal handler, a
finaliser or a forked child may record while the thread beneath it folds.
"""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import SPECIALS, MatrixCounter, count_outside
from otel_mlobs.core.contract import Contract, no_violations
from otel_mlobs.core.embeddings import row_reader
from otel_mlobs.core.inspection import Inspector
from otel_mlobs.core.reading import as_column, numbers_of
from otel_mlobs.core.rows import Columns, OutputReader, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Profile

    Counts = NDArray[np.int64]
    Floats = NDArray[np.float64]

_QUEUED_BYTES = 131_072
_BYTES_PER_ROW = 33
"""What Python adds to the content of a bytes object."""
_FLOAT64 = np.dtype(np.float64)
_VARYING_BATCHES, _VARYING_SHARE = 5, 0.01
"""A feature that varied in at least so many batches and such a share of them is one of the rows, not of the request."""
_MOST_TABLES = 4
_FAR_MORE = 16
_SMALL_BATCH = 16
"""Up to this many rows, packing them one by one costs less than counting them as a batch."""


class Tally:
    """Rows and predictions on their way into a table of counts (features, then outputs; cells)."""

    def __init__(self, profile: Profile, *, once_per_request: bool = False) -> None:
        """With ``once_per_request`` a feature that hardly ever varies within a batch is counted once a batch.

        What counts is then its first row, also where it does vary for once. To count all rows of those batches only
        would favour their values: a flag that one row in ten has would seem to be on four times as often.
        """
        self.rows = row_reader(profile)
        outputs = profile.outputs
        self.outputs = OutputReader(outputs.kind, outputs.columns, outputs.classes) if outputs else None
        self.contract = Contract(profile.features, self.rows)
        self.counter = MatrixCounter([column.bins for column in profile.columns], self.contract.ranges)
        self.once_per_request = once_per_request
        self.refused_rows = 0
        self.refusals: deque[str] = deque(maxlen=1)
        self.queued: deque[bytes] = deque()
        self.longest_queue = _queue_of(self.rows.size)
        self._longest_outputs = _queue_of(self.outputs.size if self.outputs else 1)
        self._queued_outputs: deque[bytes] = deque()
        self._tables: deque[Counts] = deque()
        self._odd: deque[tuple[int, int]] = deque()
        self._outside: deque[tuple[int, int]] = deque()
        self._shape = (self.rows.size,)
        self._numeric = self.rows.numeric
        self._get = self.rows.get
        self._pack = self.rows.pack
        self.inspect = Inspector(self.rows, profile.features)
        self._refused: deque[int] = deque()
        self._batches = 0
        self._varied = np.zeros(self.rows.size, np.int64)
        self.odd_values = np.zeros(len(profile.columns), np.int64)
        self._out_of_range = np.zeros(self.rows.size, np.int64)
        self._violations = no_violations(profile.features)

    @property
    def full(self) -> bool:
        """Whether enough is queued to be worth a fold."""
        longest = self.longest_queue
        return (
            len(self.queued) >= longest
            or len(self._queued_outputs) >= self._longest_outputs
            or len(self._tables) >= _MOST_TABLES
            or len(self._odd) >= longest
            or len(self._refused) >= longest
        )

    @property
    def overfull(self) -> bool:
        """Whether far more is queued than that: whoever observes then has to wait for a fold."""
        return (
            len(self.queued) > _FAR_MORE * self.longest_queue
            or len(self._queued_outputs) > _FAR_MORE * self._longest_outputs
            or len(self._tables) > _FAR_MORE * _MOST_TABLES
        )

    def add_inputs(self, inputs: Any) -> None:
        """Count one row or a batch. What does not have the profile's shape is counted as refused."""
        kind = type(inputs)
        if self._numeric:  # the two shapes that services send most, without a detour
            if kind is np.ndarray:
                if inputs.shape == self._shape and inputs.dtype is _FLOAT64:
                    self.queued.append(inputs.tobytes())
                    return
            elif kind is dict and len(inputs) == self._shape[0]:
                try:
                    self.queued.append(self._pack(*self._get(inputs)))
                    return
                except Exception:  # noqa: BLE001, S110 - a key or a value is not as usual: see below
                    pass
        try:
            read = self.rows.read(inputs, note=True)
            if isinstance(read, tuple):
                self.add_row(read)
            elif isinstance(read, np.ndarray):
                self._add_matrix(read)
            elif isinstance(read, Columns):
                self._add_columns(read)
            else:
                self._add_rows(read)
        except ShapeError as error:
            self._refuse(error, 1)
        except Exception as error:  # noqa: BLE001 - a frame or mapping of the user's that cannot be read
            self._refuse(_unreadable(error, inputs), 1)

    def add_row(self, values: tuple[Any, ...]) -> None:
        """Count one row's values, in the profile's order."""
        odd: list[int] = []
        encoded = self.rows.encode(values, odd)
        if odd:  # before the row: a fold in between must not take them for values of the right type
            self._odd.extend((index, 1) for index in odd)
        self.queued.append(encoded)

    def _refuse(self, error: ShapeError, rows: int) -> None:
        self._refused.append(rows)
        self.refusals.append(str(error))

    def _add_matrix(self, matrix: NDArray[Any]) -> None:
        if not len(matrix):
            return
        if len(matrix) <= _SMALL_BATCH and not self.once_per_request:
            if matrix.dtype == np.float64 and self.rows.numeric:
                self.queued.extend(map(bytes, np.ascontiguousarray(matrix)))
            else:
                for row in matrix.tolist():
                    self.add_row(tuple(row))
            return
        table = self.counter.table()
        if self.once_per_request:
            same = (matrix == matrix[0]) | ((matrix != matrix) & (matrix[0] != matrix[0]))  # noqa: PLR0124
            varies = self._vary(~same.all(axis=0))
            fixed, varying = np.flatnonzero(~varies).tolist(), np.flatnonzero(varies).tolist()
            self._outside.extend(self.counter.count(matrix[:1, fixed], table, fixed))
            self._outside.extend(self.counter.count(matrix[:, varying], table, varying))
        else:
            self._outside.extend(self.counter.count(matrix, table, range(self.rows.size)))
        self._tables.append(table)

    def _add_columns(self, columns: Columns) -> None:
        rows = columns.rows
        if any(column is not None and len(column) != rows for column in columns):
            raise ShapeError("the columns of a batch differ in length")
        if rows <= _SMALL_BATCH and not self.once_per_request:
            filled = [[None] * rows if column is None else _listed(column) for column in columns]
            for row in zip(*filled, strict=True):
                self.add_row(row)
            return
        if not rows:
            return
        table = self.counter.table()
        varies = None
        if self.once_per_request:
            varies = self._vary(np.array([column is not None and not _constant(column) for column in columns]))
        for index, column in enumerate(columns):
            values: Any = repeat(None, rows) if column is None else column
            if varies is not None and not varies[index]:
                values = [None if column is None else next(iter(column))]
            counts, odd = self.counter.columns[index].count(values)
            self.counter.add(table, index, counts)
            if odd:
                self._odd.append((index, odd))
            if self.rows.bins[index].kind == "numeric" and column is not None:
                outside = count_outside(_numbers(values), self.contract.ranges[index])
                if outside:
                    self._outside.append((index, outside))
        self._tables.append(table)

    def _add_rows(self, rows: list[Any]) -> None:
        read = []
        for row in rows:
            try:
                values = self.rows.read(row, note=True)
                if not isinstance(values, tuple):
                    raise ShapeError(f"a row of type {type(row).__name__} that holds rows itself")
                if len(values) != self.rows.size:
                    raise ShapeError(f"a row of {len(values)} values, where the profile has {self.rows.size} features")
                read.append(values)
            except ShapeError as error:
                self._refuse(error, 1)
            except Exception as error:  # noqa: BLE001 - one row that cannot be read is not the others' trouble
                self._refuse(_unreadable(error, row), 1)
        if self.once_per_request and len(read) > 1:
            self._add_columns(Columns(list(column) for column in zip(*read, strict=True)))
            return
        for values in read:
            self.add_row(values)

    def _vary(self, varied: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which features are of the rows and not of the request, as far as all batches have shown."""
        self._batches += 1
        self._varied += varied
        return (self._varied >= _VARYING_BATCHES) & (self._varied > _VARYING_SHARE * self._batches)

    def add_outputs(self, outputs: Any) -> bytes | Floats | None:
        """Count one prediction or a batch of them; returns them as encoded, None for what is no prediction."""
        encoded = self.encode(outputs, note=True)
        if encoded is None or self.outputs is None:
            return None
        if isinstance(encoded, bytes):
            self._queued_outputs.append(encoded)
        elif len(encoded) <= _SMALL_BATCH:
            self._queued_outputs.extend(map(bytes, np.ascontiguousarray(encoded, dtype=np.float64)))
        else:
            table = self.counter.table()
            self._count_outputs(encoded, table)
            self._tables.append(table)
        return encoded

    def encode(self, outputs: Any, *, note: bool = False) -> bytes | Floats | None:
        """One prediction packed, or a matrix of them; with ``note`` what is odd or cannot be read is counted."""
        reader = self.outputs
        if reader is None or outputs is None:
            return None
        odd: list[int] = []
        try:
            encoded = reader.encode(outputs, odd)
        except ShapeError as error:
            if note:
                self._refuse(error, 1)
            return None
        except Exception as error:  # noqa: BLE001 - an object of the user's that cannot be read
            if note:
                self._refuse(_unreadable(error, outputs), 1)
            return None
        if odd and note:
            self._odd.append((self.rows.size, len(odd)))
        return encoded

    def fold(self) -> Counts | None:
        """The counts of all that came since the last fold, or None for nothing. One thread at a time."""
        table: Counts | None = None
        rows = _taken(self.queued)
        outputs = _taken(self._queued_outputs)
        tables = _taken(self._tables)
        if rows or outputs or tables:
            table = self.counter.table()
            for one in tables:
                table += one
            if rows:
                self._count_encoded(np.frombuffer(b"".join(rows)).reshape(len(rows), -1), table)
            if outputs and self.outputs is not None:
                matrix = np.frombuffer(b"".join(outputs)).reshape(len(outputs), -1)
                self._count_outputs(matrix, table)
        for index, times in _taken(self._odd):
            self.odd_values[index] += times
        for index, times in _taken(self._outside):
            self._out_of_range[index] += times
        self.refused_rows += sum(_taken(self._refused))
        return table

    def _count_encoded(self, matrix: Floats, table: Counts) -> None:
        bins = self.rows.bins
        if self.rows.numeric:
            self._outside.extend(self.counter.count(matrix, table, range(len(bins))))
            return
        numeric = [index for index, one in enumerate(bins) if one.kind == "numeric"]
        self._outside.extend(self.counter.count(matrix[:, numeric], table, numeric))
        for index, one in enumerate(bins):
            if one.kind != "numeric":
                self.counter.add(table, index, count_indexes(matrix[:, index], one.values))

    def _count_outputs(self, matrix: Floats, table: Counts) -> None:
        if self.outputs is None:
            return
        columns = self.outputs.columns(matrix)
        for position, bins in enumerate(self.outputs.bins):
            index = self.rows.size + position
            if bins.kind == "numeric":
                self.counter.count(columns[:, position : position + 1], table, [index])
            else:
                self.counter.add(table, index, count_indexes(columns[:, position], bins.values))

    @property
    def out_of_range(self) -> Counts:
        """Of every feature the values beyond the reference's extremes that were folded; not to be written to."""
        return self._out_of_range

    def violations(self, totals: Counts) -> Counts:
        """Values that break the contract, per feature and kind; ``totals`` are all counts since the beginning.

        Called after a fold, by one thread at a time.
        """
        size = self.rows.size
        now = self.contract.count(totals[:size], self.odd_values[:size], self._out_of_range)
        # Of a row that is being added, only that a value of it is of a wrong type may be known
        self._violations = np.maximum(self._violations, now)
        return self._violations

    def clear(self) -> None:
        """Forget what is queued, and begin again: a forked child's first act."""
        self.queued = deque()
        self._queued_outputs = deque()
        self._tables = deque()
        self._odd = deque()
        self._outside = deque()
        self._refused = deque()
        self.odd_values[...] = 0
        self._out_of_range[...] = 0
        self._violations = self._violations * 0
        self.refused_rows = 0
        self.rows.unknown.clear()


def count_indexes(indexes: Floats, values: int) -> Counts:
    """Counts of cell indexes: NaN is missing, infinity other."""
    with np.errstate(invalid="ignore"):
        cells = np.where(np.isnan(indexes), values, np.where(np.isinf(indexes), values + 1, indexes))
    return np.bincount(cells.astype(np.intp), minlength=values + SPECIALS).astype(np.int64)


def _queue_of(numbers: int) -> int:
    """How many packed rows of so many numbers may wait: fewer than 256 would cost more to fold than to hold."""
    return max(256, _QUEUED_BYTES // (8 * max(numbers, 1) + _BYTES_PER_ROW))


def _taken(queue: deque[Any]) -> list[Any]:
    """What the queue holds now, taken out of it: others may append meanwhile."""
    take = queue.popleft
    return [take() for _ in range(len(queue))]


def _unreadable(error: Exception, value: object) -> ShapeError:
    return ShapeError(f"{type(error).__name__} while reading a {type(value).__name__}")


def _numbers(values: Any) -> Floats:
    """A column as numbers, NaN for what is none."""
    column = as_column(values)
    if column.dtype.kind not in "biufO":
        return np.empty(0)
    return numbers_of(column)


def _listed(column: Any) -> Any:
    return column.tolist() if hasattr(column, "tolist") else column


def _constant(column: Any) -> bool:
    """Whether all values are equal; what cannot be compared is not."""
    first = next(iter(column), None)
    try:
        return all(value == first or (value != value and first != first) for value in column)  # noqa: PLR0124
    except Exception:  # noqa: BLE001 - whatever a value's own comparison raises
        return False
