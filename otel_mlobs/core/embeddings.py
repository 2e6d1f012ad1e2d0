"""Vectors as features: of every embedding its norm, its dispersion and how far it lies from the reference's centroid.

A vector of thousands of numbers becomes three; no component is kept but the centroid's. All three are rounded to
2⁻²⁰, about one part in a million (the distance: of 1), so that what float32 leaves of a vector hardly ever changes its
cell, and vectors scaled to length 1 all have the norm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.devices import on_cpu
from otel_mlobs.core.rows import Columns, RowReader, ShapeError, column_of, is_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Column, Profile

    Floats = NDArray[np.float64]

MEASURES = ("norm", "dispersion", "distance")
MOST_COMPONENTS = 4096
_STEPS = 2.0**20
_CENTROID_DIGITS = 6
_BLOCK = 1 << 18
"""Numbers that are copied at a time."""
_MOST_TOGETHER = 1 << 22
"""Numbers of several rows' vectors that are copied into one array, 32 MB."""
_WRONG = "no vector"
"""Stands for a value of a wrong type: text among numbers is counted as that."""


@dataclass(frozen=True)
class Embedding:
    """The reference of one embedding; its features are ``name.norm``, ``name.dispersion`` and ``name.distance``.

    Attributes:
        name: under which rows hold the vector.
        centroid: mean of the reference's vectors, to six digits of its largest component.
        rows: how many vectors of the reference had only finite components.

    Raises:
        ValueError: the name is empty, or the centroid has fewer than 2 components, more than 4,096, or odd ones.
    """

    name: str
    centroid: tuple[float, ...]
    rows: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"an embedding must have a name, got {self.name!r}")
        check_size(self.name, self.size)
        if not all(map(math.isfinite, self.centroid)):
            raise ValueError(f"embedding {self.name!r}: the centroid's components must be finite")

    @property
    def size(self) -> int:
        """How many components a vector has."""
        return len(self.centroid)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its features, in the order of ``MEASURES``."""
        return tuple(f"{self.name}.{measure}" for measure in MEASURES)

    @cached_property
    def shape(self) -> tuple[int]:
        """The shape of one vector."""
        return (self.size,)

    @cached_property
    def _towards(self) -> Floats:
        """The centroid at length 1; NaN, and with it every distance, where it is zero."""
        centroid = np.array(self.centroid)
        with np.errstate(invalid="ignore"):
            direction: Floats = centroid / np.linalg.norm(centroid)
        return direction

    def measure(self, vectors: NDArray[Any]) -> Floats:
        """Norm, dispersion (the components' standard deviation) and cosine distance to the centroid.

        Shape (n, size) in, (n, 3) out; NaN in a vector makes all three NaN. The distance is NaN for a zero vector.
        """
        found = np.empty((len(vectors), len(MEASURES)))
        step = max(1, _BLOCK // self.size)
        with np.errstate(all="ignore"):
            for start in range(0, len(vectors), step):
                block = np.ascontiguousarray(vectors[start : start + step], np.float64)
                norm = np.sqrt(np.einsum("ij,ij->i", block, block))
                cosine = np.einsum("ij,j->i", block, self._towards) / norm
                block = block - block.mean(axis=1, keepdims=True)
                dispersion = np.sqrt(np.einsum("ij,ij->i", block, block) / self.size)
                part = found[start : start + step]
                part[:, 0], part[:, 1], part[:, 2] = _rounded(norm), _rounded(dispersion), _distance(cosine)
        return found

    def measure_one(self, vector: Floats) -> tuple[float, float, float]:
        """The same for one vector, in a quarter of the time."""
        with np.errstate(all="ignore"):
            squared = float(vector.dot(vector))
            if not math.isfinite(squared):
                norm, dispersion, distance = self.measure(vector[None])[0].tolist()
                return norm, dispersion, distance
            centred = vector - float(np.add.reduce(vector)) / self.size
            dispersion = math.sqrt(float(centred.dot(centred)) / self.size)
            norm = math.sqrt(squared)
            cosine = float(vector.dot(self._towards)) / norm if norm else math.nan
        distance = cosine if math.isnan(cosine) else min(max(round((1.0 - cosine) * _STEPS) / _STEPS, 0.0), 2.0)
        return _rounded_one(norm), _rounded_one(dispersion), distance


def _rounded(values: Floats) -> Floats:
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(mantissa * _STEPS) / _STEPS, exponent))


def _rounded_one(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * _STEPS) / _STEPS, exponent)


def _distance(cosine: Floats) -> Floats:
    return np.asarray(np.clip(np.rint((1.0 - cosine) * _STEPS) / _STEPS, 0.0, 2.0))


def check_size(name: str, size: int) -> None:
    """Raise where a vector of ``size`` components is no embedding."""
    if not 2 <= size <= MOST_COMPONENTS:
        raise ValueError(f"embedding {name!r} must have 2 to {MOST_COMPONENTS} components, got {size}")


def fit_embedding(name: str, vectors: Any, reference: Embedding | None = None) -> tuple[Embedding, Floats]:
    """The reference of ``vectors`` (rows, components; a missing one is None or NaN), and their measures.

    The centroid is that of ``reference``, where one is given. It does not depend on the order of the rows.
    """
    matrix = as_matrix(vectors, None if reference is None else reference.size)
    if matrix is None:
        expected = "(rows, components)" if reference is None else f"(rows, {reference.size})"
        raise ValueError(f"embedding {name!r} must be numbers of shape {expected}, got {_shape(vectors)}")
    check_size(name, matrix.shape[1])
    whole = np.isfinite(matrix).all(axis=1)
    if reference is None:
        if not whole.any():
            raise ValueError(f"embedding {name!r} has no vector whose components are all finite")
        centroid = _centroid(matrix, whole)
        found = Embedding(name, centroid, int(np.count_nonzero(whole)))
    else:
        found = Embedding(name, reference.centroid, int(np.count_nonzero(whole)))
    return found, found.measure(matrix)


def _centroid(matrix: NDArray[Any], whole: NDArray[np.bool_]) -> tuple[float, ...]:
    """The mean vector. Summed in whole numbers, so that the order of the rows changes no digit."""
    step = max(1, _BLOCK // matrix.shape[1])
    starts = range(0, len(matrix), step)
    largest = max(
        float(np.abs(matrix[start : start + step][whole[start : start + step]].astype(np.float64)).max(initial=0.0))
        for start in starts
    )
    if not largest:
        return (0.0,) * int(matrix.shape[1])
    unit = 2.0 ** (math.frexp(largest)[1] - 1)
    room = 62 - max(1, len(matrix)).bit_length()  # sums stay below 2⁶³
    fine = 2.0 ** min(room, 52)
    sums = np.zeros(matrix.shape[1], np.int64)
    for start in starts:
        block = matrix[start : start + step][whole[start : start + step]].astype(np.float64)
        sums += np.rint(block / unit * fine).astype(np.int64).sum(axis=0)
    means = sums / fine / np.count_nonzero(whole)
    digits = _CENTROID_DIGITS - math.floor(math.log10(float(np.abs(means).max()))) - 1 if means.any() else 0
    rounded: list[float] = np.round(means, digits).tolist()
    return tuple(float(f"{mean * unit:.{_CENTROID_DIGITS}g}") for mean in rounded)


def as_matrix(vectors: Any, size: int | None) -> NDArray[Any] | None:
    """``vectors`` as numbers of shape (n, size): an array, a list or column of vectors, None among them missing.

    None where they are no such thing. One vector of ``size`` numbers has n = 1.
    """
    if not on_cpu(vectors):
        return None
    if hasattr(vectors, "to_pylist"):
        vectors = vectors.to_pylist()
    elif hasattr(vectors, "to_list"):
        vectors = vectors.to_list()
    array = _numbers(vectors)
    if array is None or array.dtype.kind == "O":
        array = _stacked(vectors, size)
    if array is None:
        return None
    if array.ndim == 1 and size is not None:
        array = array[None]
    if array.ndim != 2 or (size is not None and array.shape[1] != size):
        return None
    return array


def _numbers(values: Any) -> NDArray[Any] | None:
    if hasattr(values, "detach"):
        values = values.detach()
    try:
        array: NDArray[Any] = np.asanyarray(values)
    except Exception:  # noqa: BLE001 - ragged, on a device, or an object with an opinion
        return None
    if isinstance(array, np.ma.MaskedArray) and array.dtype.kind in "biuf":
        return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))
    if array.dtype.kind == "O" and array.ndim == 1 and all(isinstance(value, (int, float)) for value in array):
        return array.astype(np.float64)
    return array if array.dtype.kind in "biufO" else None


def _stacked(vectors: Any, size: int | None) -> Floats | None:
    """A column of vectors, some of them missing."""
    try:
        rows = [None if _is_nothing(vector) else np.asarray(vector, np.float64) for vector in vectors]
    except (TypeError, ValueError):
        return None
    shapes = {row.shape for row in rows if row is not None}
    if len(shapes) > 1 or (not shapes and size is None):
        return None
    shape = shapes.pop() if shapes else (size,)
    if len(shape) != 1:
        return None
    nothing = np.full(shape, np.nan)
    return np.array([nothing if row is None else row for row in rows], np.float64)


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


def _shape(vectors: Any) -> str:
    return str(getattr(vectors, "shape", None) or f"a {type(vectors).__name__}")


class EmbeddingReader(RowReader):
    """Reads rows that hold vectors: each vector, by its embedding's name, becomes the embedding's features."""

    def __init__(self, features: Sequence[Column], embeddings: Sequence[Embedding]) -> None:
        super().__init__(features)
        self._vectors = {embedding.name: embedding for embedding in embeddings}
        self._derived = frozenset(name for embedding in embeddings for name in embedding.features)
        self._known |= self._vectors.keys()

    def values(self, row: Mapping[str, Any], note: int = 0) -> tuple[Any, ...]:
        """The features' values, the vectors' among them."""
        keys = set(row.keys())
        held = [name for name in self._vectors if name in keys]
        if not held:
            return super().values(row, note)
        given = {key: row[key] for key in keys}
        scalar = self._holds_one_row(given, held)
        for name in held:
            given |= self._expanded(self._vectors[name], given.pop(name), scalar=scalar)
        return super().values(given, note)

    def _read_sequence(self, inputs: Sequence[Any]) -> tuple[Any, ...] | Floats | Columns | list[Any]:
        read = super()._read_sequence(inputs)
        if type(read) is list and len(read) > 1 and all(type(row) is dict for row in read):
            for embedding in self._vectors.values():
                read = _measured_together(embedding, read)
        return read

    def _holds_one_row(self, given: Mapping[str, Any], held: Sequence[str]) -> bool:
        plain = (given[name] for name in self.names if name in given and name not in self._derived)
        first = next((value for value in plain if value is not None), None)
        return not is_column(first) if first is not None else all(_is_one_vector(given[name]) for name in held)

    def _expanded(self, embedding: Embedding, vector: Any, *, scalar: bool) -> dict[str, Any]:
        names = embedding.features
        if scalar and type(vector) is np.ndarray and vector.shape == embedding.shape and vector.dtype.kind == "f":
            return dict(zip(names, embedding.measure_one(vector.astype(np.float64, copy=False)), strict=True))
        if scalar and _is_nothing(vector):
            return dict.fromkeys(names)
        matrix = as_matrix(vector, embedding.size)
        if scalar:
            if matrix is None or len(matrix) != 1:
                return dict.fromkeys(names, _WRONG)
            return dict(zip(names, embedding.measure_one(matrix[0].astype(np.float64)), strict=True))
        if matrix is None:
            expected = f"vectors of {embedding.size} numbers"
            raise ShapeError(f"embedding {embedding.name!r} must be {expected}, got {_shape(vector)}")
        return dict(zip(names, embedding.measure(matrix).T, strict=True))

    def _read_frame(self, frame: Any, names: Any, *, note: bool) -> Columns | Floats:
        originals = {str(name): name for name in names}
        held = [name for name in self._vectors if name in originals]
        if not held or not hasattr(frame, "__len__"):
            return super()._read_frame(frame, names, note=note)
        if note:
            self._unknown_keys(originals, len(frame))
        columns = {name: column_of(frame, originals[name]) for name in self.names if name in originals}
        for name in held:
            columns |= self._expanded(self._vectors[name], column_of(frame, originals[name]), scalar=False)
        return Columns(columns.get(name) for name in self.names)


def _measured_together(embedding: Embedding, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their vectors measured in one go, where all of them hold one; else as they are, to be read singly."""
    if len(rows) * embedding.size > _MOST_TOGETHER:
        return rows
    try:
        matrix = np.array([row[embedding.name] for row in rows], np.float64)
    except Exception:  # noqa: BLE001 - a row without a vector, or with something else
        return rows
    if matrix.shape != (len(rows), embedding.size):
        return rows
    measured = (dict(zip(embedding.features, values, strict=True)) for values in embedding.measure(matrix).tolist())
    return [
        {name: value for name, value in row.items() if name != embedding.name} | measures
        for row, measures in zip(rows, measured, strict=True)
    ]


def _is_one_vector(value: Any) -> bool:
    """Whether it is one vector, or nothing, rather than several."""
    if _is_nothing(value):
        return True
    array = _numbers(value)
    return array is not None and array.ndim == 1 and array.dtype.kind != "O"


def row_reader(profile: Profile) -> RowReader:
    """What reads rows against the profile's features."""
    return EmbeddingReader(profile.features, profile.embeddings) if profile.embeddings else RowReader(profile.features)
