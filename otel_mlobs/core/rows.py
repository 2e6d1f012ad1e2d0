"""What a model was given, as numbers that can be counted: rows of every shape in, packed floats or counts out.

A row becomes one float per feature: a number itself, a category the index of its cell. NaN is missing; what is no
finite number becomes an infinity, which is counted as such. Nothing here raises for what a row contains.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import as_number, is_missing
from otel_mlobs.core.devices import on_cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otel_mlobs.core.binning import Bins
    from otel_mlobs.core.profile import Column

    Floats = NDArray[np.float64]

_PLAIN = frozenset((float, int, str, bool, type(None), np.float64, np.float32, np.int64, np.int32))
_NAMES_KEPT = 100
_SMALL_FRAME = 16
_NAME_LENGTH = 100


class ShapeError(ValueError):
    """A row or batch that does not have the profile's shape; the message says how."""


class Columns(list[Any]):
    """A batch, one column of values per feature of the profile; None where the batch lacks the column."""

    @property
    def rows(self) -> int:
        """The rows of the batch: the length of its longest column."""
        return max((len(column) for column in self if column is not None), default=0)


def packer(size: int) -> Callable[..., bytes]:
    """What packs ``size`` numbers into bytes: a copy that no one can change, made in a third of a microsecond."""
    return struct.Struct(f"{size}d").pack


class RowReader:
    """Reads rows and batches against a profile's features."""

    def __init__(self, features: Sequence[Column]) -> None:
        self.names = tuple(column.name for column in features)
        self.bins = tuple(column.bins for column in features)
        self.size = len(self.names)
        self.numeric = all(bins.kind == "numeric" for bins in self.bins)
        self.pack = packer(self.size)
        self.unknown: Counter[str] = Counter()
        self._known = frozenset(self.names)
        self.get = itemgetter(*self.names) if self.size > 1 else _single(self.names)
        self._categorical = [
            (index, bins.codes, float(bins.values)) for index, bins in enumerate(self.bins) if bins.kind != "numeric"
        ]

    def values(self, row: Mapping[str, Any], note: int = 0) -> tuple[Any, ...]:
        """The features' values of a mapping, in the profile's order; None for what it lacks.

        Keys that the profile does not know are counted ``note`` times.
        """
        if type(row) is dict and len(row) == self.size:
            try:
                found: tuple[Any, ...] = self.get(row)
                return found
            except KeyError:
                pass
        keys = set(row.keys())  # asked first: a defaultdict would answer for what it lacks, and keep it
        values = tuple(row[name] if name in keys else None for name in self.names)
        if not keys <= self._known:
            self._unknown_keys(keys, note)
        return values

    def _unknown_keys(self, keys: Iterable[Any], times: int) -> None:
        if times:
            for key in keys:
                if key not in self._known:
                    name = str(key)[:_NAME_LENGTH]
                    self.unknown[name if name in self.unknown or len(self.unknown) < _NAMES_KEPT else "…"] += times

    def encode(self, values: Sequence[Any], odd: list[int]) -> bytes:
        """Pack one row's values; the indexes of those of a wrong type are appended to ``odd``.

        Raises :class:`ShapeError` where there are more or fewer values than features.
        """
        try:
            if self.numeric:
                return self.pack(*values)
            encoded = list(values)
            for index, codes, _ in self._categorical:
                encoded[index] = codes[encoded[index]]
            return self.pack(*encoded)
        except Exception:  # noqa: BLE001 - None, text, an unseen category, an object with an opinion
            return self._encode_slowly(values, odd)

    def _encode_slowly(self, values: Sequence[Any], odd: list[int]) -> bytes:
        if len(values) != self.size:
            raise ShapeError(f"a row of {len(values)} values, where the profile has {self.size} features")
        encoded = []
        for index, (value, bins) in enumerate(zip(values, self.bins, strict=True)):
            number, wrong = _number(value) if bins.kind == "numeric" else _code(value, bins)
            encoded.append(number)
            if wrong:
                odd.append(index)
        return self.pack(*encoded)

    def read(self, inputs: Any, *, note: bool = False) -> tuple[Any, ...] | Floats | Columns | list[Any]:
        """What ``inputs`` is: one row's values, a matrix, a batch of columns, or a list of rows.

        With ``note`` unknown keys are counted. Raises :class:`ShapeError` where it has none of the profile's shapes.
        """
        if isinstance(inputs, Mapping) or (hasattr(inputs, "keys") and not hasattr(inputs, "columns")):
            return self._read_mapping(inputs, int(note))
        if isinstance(inputs, np.ndarray):
            return self._read_array(inputs)
        fields = getattr(inputs, "_fields", None) or getattr(inputs, "__fields__", None)
        if isinstance(inputs, tuple) and fields is not None:  # a named tuple, a row of SQLAlchemy or Spark
            return self.values(dict(zip(fields, inputs, strict=False)), int(note))
        if isinstance(inputs, (list, tuple)):
            return self._read_sequence(inputs)
        names = getattr(inputs, "column_names", None) or getattr(inputs, "columns", None)
        if names is not None and not callable(names):
            return self._read_frame(inputs, names, note=note)
        if hasattr(inputs, "__array__") and hasattr(inputs, "shape"):
            return self._read_array(_array(inputs))
        raise ShapeError(f"inputs of type {type(inputs).__name__} are neither a row nor a batch")

    def _read_mapping(self, inputs: Any, note: int) -> tuple[Any, ...] | Columns:
        values = self.values(inputs, note)
        first = next((value for value in values if value is not None), None)
        if type(first) in _PLAIN or not all(value is None or is_column(value) for value in values):
            return values  # what is nested in a row is of a wrong type
        return Columns(values)

    def _read_array(self, array: Any) -> tuple[Any, ...] | Floats | list[Any]:
        if array.dtype.names:  # a structured array, or a row of one
            known = {name: array[name] for name in array.dtype.names}
            if array.ndim:
                return Columns(self.values(known))
            return self.values({name: value.item() for name, value in known.items()})
        if array.ndim == 1 and self.size == 1 and len(array) != 1:
            array = array.reshape(-1, 1)
        if array.ndim not in (1, 2) or array.shape[-1] != self.size:
            if array.size == 0 and array.ndim <= 2:
                return []
            raise ShapeError(f"an array of shape {array.shape}, where the profile has {self.size} features")
        if array.dtype.kind in "mM":  # as numbers they would be nanoseconds
            texts = array.astype(str).astype(object)
            texts[np.isnat(array)] = None
            listed = texts.tolist()
            return tuple(listed) if array.ndim == 1 else listed
        if array.ndim == 1:
            return tuple(array.tolist())
        if array.dtype.kind not in "biuf":
            return list(array.tolist())
        return _filled(array)

    def _read_sequence(self, inputs: Sequence[Any]) -> tuple[Any, ...] | Floats | Columns | list[Any]:
        if not inputs:
            return []
        first = inputs[0]
        if type(first) in _PLAIN:
            return tuple(inputs)
        if isinstance(first, (Mapping, list, tuple)) or hasattr(first, "keys"):
            return list(inputs)
        if isinstance(first, np.ndarray) and first.ndim == 1:
            return list(inputs)
        return tuple(inputs)

    def _read_frame(self, frame: Any, names: Any, *, note: bool) -> Columns | Floats:
        if not hasattr(frame, "__len__"):
            raise ShapeError(f"a {type(frame).__name__} holds no rows yet: collect it first")
        there = [str(name) for name in names]
        unknown = [name for name in there if name not in self._known]
        if unknown and len(there) == self.size and len(unknown) == self.size:
            raise ShapeError(f"a frame with none of the profile's columns: {', '.join(there[:5])}, …")
        if note and unknown:
            self._unknown_keys(unknown, len(frame))
        if len(frame) <= _SMALL_FRAME and tuple(there) == self.names and hasattr(frame, "to_numpy"):
            whole = frame.to_numpy()  # one call instead of one per column: the usual request is a frame of one row
            if whole.dtype.kind in "biuf":
                return _filled(whole)
        originals = {str(name): name for name in names}
        return Columns(column_of(frame, originals[name]) if name in originals else None for name in self.names)


class OutputReader:
    """Reads a model's answers against a profile's outputs: one packed row of ``size`` numbers per prediction."""

    def __init__(self, kind: str, columns: Sequence[Column], classes: Sequence[object]) -> None:
        self.kind = kind
        self.bins = tuple(column.bins for column in columns)
        self.size = len(classes) if kind == "multiclass" else 1
        self.pack = packer(self.size)
        codes = self.bins[0].codes
        # Probabilities come in the classes' order, cells are the most frequent first; a class may have no cell
        self._cells = np.array([codes.get(name, math.inf) for name in classes], dtype=np.float64)

    def encode(self, outputs: Any, odd: list[int]) -> bytes | Floats:
        """One prediction packed, or a matrix (predictions, ``size``) of several.

        ``odd`` gets a 0 for every value of a wrong type. Raises :class:`ShapeError` for a shape that is no prediction.
        """
        if isinstance(outputs, (float, int, str, bool, np.generic)) or outputs is None:
            if self.size > 1:
                raise ShapeError(f"one value, where the profile has {self.size} classes")
            return self._pack_one(outputs, odd)
        array = _array(outputs)
        if self.kind == "class":
            return self._codes_of(array, odd)
        if array.dtype.kind not in "biuf":
            return self._numbers_of(array, odd)
        array = _filled(array)
        return self._shaped(array)

    def _shaped(self, array: Floats) -> Floats:
        if array.ndim == 0:
            array = array.reshape(1)
        if not array.size:
            return np.empty((0, self.size))
        if self.size > 1:
            if array.ndim == 1:
                array = array.reshape(1, -1)
            if array.ndim != 2 or array.shape[1] != self.size:
                raise ShapeError(f"outputs of shape {array.shape}, where the profile has {self.size} classes")
            return array
        if array.ndim == 2 and array.shape[1] in (1, 2) and not (self.kind == "regression" and array.shape[1] == 2):
            array = array[:, -1]
        if array.ndim != 1:
            raise ShapeError(f"outputs of shape {array.shape}, where one number per row was expected")
        return array.reshape(-1, 1)

    def _pack_one(self, value: Any, odd: list[int]) -> bytes:
        number, wrong = _number(value) if self.kind != "class" else _code(value, self.bins[0])
        if wrong:
            odd.append(0)
        return self.pack(number)

    def _codes_of(self, array: NDArray[Any], odd: list[int]) -> Floats:
        if array.ndim > 1 and array.shape != (len(array), 1):
            raise ShapeError(f"outputs of shape {array.shape}, where one class per row was expected")
        encoded = []
        for value in array.reshape(-1).tolist():
            number, wrong = _code(value, self.bins[0])
            encoded.append(number)
            if wrong:
                odd.append(0)
        return np.array(encoded, dtype=np.float64).reshape(-1, 1)

    def _numbers_of(self, array: NDArray[Any], odd: list[int]) -> Floats:
        if array.dtype.kind != "O":
            raise ShapeError(f"outputs of type {array.dtype}, where numbers were expected")
        flat = []
        for value in array.reshape(-1).tolist():
            number, wrong = _number(value)
            flat.append(number)
            if wrong:
                odd.append(0)
        return self._shaped(np.array(flat, dtype=np.float64).reshape(array.shape))

    def columns(self, matrix: Floats) -> Floats:
        """The columns that are counted, from encoded outputs: for probability vectors class, confidence, entropy."""
        if self.kind != "multiclass":
            return matrix
        columns = vector_columns(matrix)
        chosen = columns[:, 0]
        known = ~np.isnan(chosen)
        chosen[known] = self._cells[chosen[known].astype(np.intp)]
        return columns


def vector_columns(probabilities: Floats) -> Floats:
    """Index of the highest probability, that probability, and the entropy over ln k; NaN where a vector holds one.

    Shape (n, k) in, (n, 3) out.
    """
    with np.errstate(all="ignore"):
        confidence = probabilities.max(axis=1)
        inner = np.where(probabilities > 0, probabilities * np.log(probabilities), 0.0)
        entropy = -inner.sum(axis=1) / math.log(probabilities.shape[1])
        chosen = probabilities.argmax(axis=1).astype(np.float64)
    # Rounding may go beyond 1, where the reference has no cell
    columns = np.column_stack([chosen, np.minimum(confidence, 1.0), np.clip(entropy, 0.0, 1.0)])
    columns[np.isnan(probabilities).any(axis=1)] = np.nan
    return columns


def _single(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda row: tuple(row[name] for name in names)


def _number(value: Any) -> tuple[float, bool]:
    """``value`` as counted, and whether it is of a wrong type."""
    if is_missing(value):
        return math.nan, False
    number = as_number(value)
    return (math.inf, True) if number is None else (number, False)


def _code(value: Any, bins: Bins) -> tuple[float, bool]:
    """The index of the category's cell, NaN if missing, infinity where it has none; and whether its type is wrong."""
    if is_missing(value):
        return math.nan, False
    try:
        found = bins.codes.get(value)
    except Exception:  # noqa: BLE001 - what cannot be hashed is no category
        return math.inf, True
    if found is not None:
        return float(found), False
    return math.inf, not isinstance(value, (str, bool, int, float, np.generic))


def is_column(value: Any) -> bool:
    """Whether it is a column of values rather than one value."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not hasattr(value, "__len__"):
        return False
    shape = getattr(value, "shape", (1,))
    return len(shape) == 1


def column_of(frame: Any, name: Any) -> Any:
    """One column of a frame as an array of numbers where it is one, else as a list of Python values."""
    column = frame[name]
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower()
    if kind.startswith(("int", "uint", "float", "bool", "double")) and hasattr(column, "to_numpy"):
        try:
            array = column.to_numpy()
        except (TypeError, ValueError):  # Arrow's, where it holds nulls or booleans
            array = None
        if array is not None and array.dtype.kind in "biuf":
            return array
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return getattr(column, method)()
    return list(column)


def _array(value: Any) -> NDArray[Any]:
    """``value`` as an array, without waiting for a device."""
    if not on_cpu(value):
        raise ShapeError(
            f"a tensor on {value.device}: give a copy in the host's memory, reading it here would wait for the device"
        )
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        return np.asanyarray(value)
    except ValueError:  # rows of different lengths
        return np.array([None if item is None else item for item in value], dtype=object)


def _filled(array: Any) -> Floats:
    """Floats, NaN where masked."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.filled(array.astype(np.float64), np.nan)
    return np.asarray(array)
