"""Where a fit finds its columns: in memory, or in a database that counts by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from otel_mlobs.core.reading import Columns, as_column
from otel_mlobs.tables import frames, sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_mlobs.core.binning import Category
    from otel_mlobs.tables import Calibrated, Cells, ColumnType, Counted, Described, Erred, Question

    Progress = Callable[[int, int], None]


class Source(Protocol):
    """Columns that answer questions, in memory or in a database."""

    steps: int

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""

    def only(self, names: Sequence[str]) -> None:
        """Say which columns will be asked for."""

    def types(self, names: Sequence[str]) -> Mapping[str, ColumnType]:
        """How each column is counted, or why it cannot be."""

    def problem_with_categories(self, name: str) -> str:
        """Why the column cannot be counted as categories, if so."""

    def batches(self, names: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """Names that are best asked for together."""

    def describe(self, questions: Sequence[Question], *, progress: Progress | None = None) -> Mapping[str, Described]:
        """What is needed to choose bins."""

    def count(self, cells: Sequence[Cells], *, progress: Progress | None = None) -> Mapping[str, Counted]:
        """Rows per cell."""

    def labels_of(self, label: str) -> Sequence[Category]:
        """The labels that occur, at most three of them."""

    def calibrate(self, score: str, label: str, uppers: tuple[float, ...], positive: Category) -> Sequence[Calibrated]:
        """Rows, positives and mean score by bin of the score."""

    def errors(self, value: str, label: str, uppers: tuple[float, ...]) -> Sequence[Erred]:
        """Rows and mean errors by bin of the predicted value."""


class SqlColumns:
    """A SQL table as a source: one query describes all columns, one counts them."""

    steps = 2

    def __init__(self, table: Any) -> None:
        self._table = table
        self._types = sql.column_types(table)
        self.names = tuple(self._types)

    def only(self, names: Sequence[str]) -> None:
        """Nothing is fetched, so nothing need be left out."""

    def types(self, names: Sequence[str]) -> Mapping[str, ColumnType]:
        """The types in the table's schema."""
        return {name: self._types[name] for name in names}

    def problem_with_categories(self, name: str) -> str:
        """What the column's type says."""
        return self._types[name].problem

    def batches(self, names: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """All at once: they share a query."""
        return [tuple(names)]

    def describe(self, questions: Sequence[Question], *, progress: Progress | None = None) -> Mapping[str, Described]:
        """The first query."""
        return sql.describe(self._table, questions, progress=progress)

    def count(self, cells: Sequence[Cells], *, progress: Progress | None = None) -> Mapping[str, Counted]:
        """The second query."""
        return sql.count(self._table, cells, progress=progress)

    def labels_of(self, label: str) -> Sequence[Category]:
        """The labels that occur."""
        return sql.labels_of(self._table, label)

    def calibrate(self, score: str, label: str, uppers: tuple[float, ...], positive: Category) -> Sequence[Calibrated]:
        """One more query, where there are labels."""
        return sql.calibrate(self._table, score, label, uppers, positive)

    def errors(self, value: str, label: str, uppers: tuple[float, ...]) -> Sequence[Erred]:
        """Likewise."""
        return sql.errors(self._table, value, label, uppers)


def open_columns(data: Any, features: Sequence[str] | None) -> Source:
    """``data`` as columns; ``features`` names those of an array that has no names.

    Raises:
        TypeError: it is no table that is known here.
        ValueError: shapes or lengths do not fit, or names occur twice.
    """
    if sql.is_sql(data):
        return SqlColumns(data)
    if isinstance(data, Mapping):
        return _from_mapping(data)
    if not isinstance(data, np.ndarray) and frames.is_frame(data):
        frame = frames.Frame(data)
        return Columns(frame.names, 0, frame)
    if not isinstance(data, np.ndarray) and hasattr(data, "__array__"):
        data = np.asarray(data)
    if not isinstance(data, np.ndarray):
        raise TypeError(
            "data must be a 2-D or structured array, a mapping of arrays, a dataframe or an ibis table, "
            f"got {type(data).__name__}"
        )
    if data.dtype.names is not None and data.ndim == 1:
        return Columns(data.dtype.names, len(data), {name: data[name] for name in data.dtype.names})
    if data.ndim != 2:
        raise ValueError(f"an array of data must have shape (rows, features), got {data.shape}")
    names = [f"x{place}" for place in range(data.shape[1])] if features is None else list(features)
    if len(names) != data.shape[1]:
        raise ValueError(f"features must name the array's {data.shape[1]} columns, got {len(names)} names")
    plain = data if isinstance(data, np.ma.MaskedArray) else np.asarray(data)  # a matrix's columns stay 2-D
    return Columns(names, len(data), {name: plain[:, place] for place, name in enumerate(names)})


def _from_mapping(data: Mapping[Any, Any]) -> Columns:
    arrays = {}
    for key, values in data.items():
        try:
            arrays[str(key)] = as_column(values)
        except TypeError as error:
            raise TypeError(f"column {str(key)!r}: {error}") from None
        if not arrays[str(key)].ndim:
            raise TypeError(f"column {str(key)!r}: expected an array or a list, got a single value")
    if len(arrays) < len(data):
        raise ValueError(f"column names occur twice once written as text: {sorted(map(str, data))}")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns must be equally long, got {lengths}")
    return Columns(tuple(arrays), next(iter(lengths.values()), 0), arrays)
