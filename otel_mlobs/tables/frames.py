"""Columns of any dataframe, through narwhals: pandas, polars (lazy, too), Arrow, and what else it knows."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.errors import MissingExtraError
from otel_mlobs.tables import ColumnType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

DATES = "give a number, such as an age in days"
NESTED = "give one column per number"
BYTES = "decode them to text"

_LIBRARIES = ("pandas", "polars", "pyarrow", "modin", "cudf", "narwhals", "dask", "pyspark", "duckdb", "sqlframe")
_PROTOCOLS = ("__dataframe__", "__arrow_c_stream__", "__narwhals_dataframe__", "__narwhals_lazyframe__")


def is_frame(data: object) -> bool:
    """Whether ``data`` looks like a table of some library's; imports nothing."""
    library = type(data).__module__.partition(".")[0]
    return library in _LIBRARIES or any(hasattr(type(data), protocol) for protocol in _PROTOCOLS)


class Frame:
    """A dataframe's columns, by their names as text.

    Raises:
        MissingExtraError: narwhals is not installed.
        TypeError: narwhals does not know this kind of table.
        ValueError: names occur twice.
    """

    def __init__(self, data: Any) -> None:
        try:
            import narwhals.stable.v2 as nw
        except ImportError as error:
            raise MissingExtraError("a profile of a dataframe", "profile", "narwhals") from error
        self._nw = nw
        frame = self._from_native(data)
        self._lazy = frame if isinstance(frame, nw.LazyFrame) else None
        if self._lazy is not None and not frame.implementation.is_polars():
            raise TypeError(
                f"a {type(data).__name__} is a query whose rows would all be fetched: give it as an ibis table "
                "(ibis.duckdb, ibis.pyspark, …), so that its engine counts them"
            )
        self._frame = None if self._lazy is not None else frame
        self._schema = dict(frame.collect_schema())
        self._natives = {str(name): name for name in self._schema}
        if len(self._natives) < len(self._schema):
            counted = Counter(map(str, self._schema))
            raise ValueError(f"column names occur twice: {[name for name, times in counted.items() if times > 1]}")

    def _from_native(self, data: Any) -> Any:
        nw = self._nw
        _check_duplicates(data)
        if isinstance(nw.from_native(data, allow_series=True, pass_through=True), nw.Series):
            name = getattr(data, "name", None)
            column = repr(name) if isinstance(name, str) and name else "'name'"
            raise TypeError(f"a {type(data).__name__} is one column: give a frame, as df[[{column}]]")
        try:
            return nw.from_native(data)
        except TypeError:
            if not hasattr(type(data), "__arrow_c_stream__"):
                raise TypeError(f"expected a dataframe or a 2-D array, got {type(data).__name__}") from None
        try:
            import pyarrow as pa
        except ImportError as error:
            raise MissingExtraError(f"a profile of a {type(data).__name__}", "profile", "pyarrow") from error
        return nw.from_native(pa.table(data))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order; what is no text is written as text."""
        return tuple(self._natives)

    def compute(self, names: Sequence[str]) -> int:
        """Fetch a lazy frame's columns ``names``; returns how many rows there are."""
        if self._lazy is not None:
            self._frame = self._lazy.select([self._natives[name] for name in names]).collect()
        return len(self._computed)

    @property
    def _computed(self) -> Any:
        if self._frame is None:
            self.compute(self.names)
        return self._frame

    def _series(self, name: str) -> Any:
        return self._computed.get_column(self._natives[name])

    def type_of(self, name: str) -> ColumnType | None:
        """How the column is counted; None where only a look at its values tells."""
        nw, dtype = self._nw, self._schema[self._natives[name]]
        if dtype == nw.Boolean:
            return ColumnType("boolean")
        if dtype.is_numeric():
            return ColumnType("numeric", integer=dtype.is_integer())
        if dtype in (nw.String, nw.Categorical, nw.Enum):
            return ColumnType("categorical")
        refusal = ", or leave it out with exclude="
        if dtype.is_temporal():
            return ColumnType(None, problem=f"holds dates or durations ({dtype}); {DATES}{refusal}")
        if dtype.is_nested():
            return ColumnType(None, problem=f"holds nested values ({dtype}); {NESTED}{refusal}")
        if dtype == nw.Binary:
            return ColumnType(None, problem=f"holds bytes ({dtype}); {BYTES}{refusal}")
        return None

    def array(self, name: str) -> NDArray[Any]:
        """The values, one per row: float64 with NaN for what is missing, or objects with None."""
        series = self._series(name)
        known = self.type_of(name)
        if known is not None and known.kind in ("numeric", "boolean"):
            floats = series.cast(self._nw.Float64).to_numpy()
            if floats.dtype == object:  # pandas 2.1 with columns of Arrow's: NA among the floats
                floats = [value if isinstance(value, float) else math.nan for value in floats.tolist()]
            return np.asarray(floats, dtype=np.float64)
        values = series.to_list()
        if len(values) and str(series.dtype) == "Unknown" and all(value is None for value in values):
            return np.full(len(values), np.nan)
        return np.fromiter(values, dtype=object, count=len(values))

    def categories(self, name: str) -> list[object]:
        """The categories of a column that lists them, which need not be text: pandas cuts numbers into intervals."""
        dtype = self._schema[self._natives[name]]
        if dtype == self._nw.Enum:
            return list(dtype.categories)
        if dtype != self._nw.Categorical:
            return []
        return list(self._series(name).cat.get_categories().to_list())

    def tally(self, name: str) -> Mapping[object, int] | None:
        """How often each value occurs, counted by the frame's library; None where it cannot hash them."""
        if self.type_of(name) is None:
            return None
        table = self._series(name).value_counts(sort=False, name="count")
        values, times = (table[column].to_list() for column in table.columns)
        counted: Counter[object] = Counter()
        for value, often in zip(values, times, strict=True):
            counted[value] += often
        return counted


def _check_duplicates(data: object) -> None:
    """Raise where names occur twice: only pandas and Arrow allow it, and say so in words of their own."""
    field = {"pandas": "columns", "pyarrow": "column_names"}.get(type(data).__module__.partition(".")[0], "")
    names = getattr(data, field, ()) if field else ()
    doubled = [str(name) for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise ValueError(f"column names occur twice: {doubled}")
