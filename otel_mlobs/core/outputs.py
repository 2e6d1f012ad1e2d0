"""What a model answered on its training data, as columns to be counted like features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import is_missing
from otel_mlobs.core.reading import Columns, as_column, equal, numbers_of, type_of
from otel_mlobs.tables import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.profile import OutputKind

VALUES = "outputs"
LABELS = "labels"

_SUM_OFF = 0.02
"""How far from 1 a row of probabilities may add up to: half precision over a thousand classes is off by less."""


@dataclass(frozen=True)
class Answers:
    """A model's outputs as columns.

    Attributes:
        columns: holds :data:`VALUES` (one output a row) or the three columns of class probabilities, and, where labels
            were given, :data:`LABELS`.
        kind: multiclass, or what the caller said; None where the values decide.
        classes: of multiclass outputs, in the order of the probability columns.
        positive: the class that the score is of, where the caller said so.
        probabilities: of multiclass outputs, shape (rows, classes).
    """

    columns: Columns
    kind: OutputKind | None
    classes: tuple[Category, ...] = ()
    positive: Category | None = None
    probabilities: NDArray[np.float64] | None = None


def read_answers(
    outputs: Any,
    labels: Any,
    rows: int,
    kind: OutputKind | None,
    positive: Category | None,
    classes: tuple[Category, ...],
) -> Answers:
    """Outputs (1-D, or one probability column per class) and labels of ``rows`` rows.

    ``classes`` are the columns' classes where they are known beforehand.

    Raises:
        ValueError: lengths or shapes do not fit, or rows of probabilities do not add up to one.
    """
    try:
        columns, named = _matrix(outputs)
    except TypeError as error:
        raise TypeError(f"outputs: {error}") from None
    _check_length("outputs", len(columns), rows)
    held: dict[str, NDArray[Any]] = {}
    if labels is not None:
        held[LABELS] = _one_column("labels", labels)
        _check_length("labels", len(held[LABELS]), rows)
    if columns.ndim == 1:
        if kind == "multiclass":
            raise ValueError("output_kind='multiclass' needs outputs of shape (rows, classes), got one column")
        held[VALUES] = columns
        return Answers(Columns(tuple(held), rows, held), kind, positive=positive)
    if kind in ("class", "regression"):
        raise ValueError(f"output_kind={kind!r} needs one output per row, got outputs of shape {columns.shape}")
    if columns.shape[1] == 2 and kind != "multiclass":
        found = _classes(held.get(LABELS), 2)
        # A frame's columns may be named by their classes, or anyhow.
        place = 1 if positive is None else _place(positive, named if positive in named else found)
        held[VALUES] = columns[:, place]
        if positive is None and found != tuple(range(2)):
            positive = found[1]
        return Answers(Columns(tuple(held), rows, held), "score", positive=positive)
    if kind == "score":
        raise ValueError(f"output_kind='score' needs one or two columns, got outputs of shape {columns.shape}")
    names = classes or named or _classes(held.get(LABELS), columns.shape[1])
    if len(names) != columns.shape[1]:
        raise ValueError(f"outputs have {columns.shape[1]} columns, the profile in like= has {len(names)} classes")
    held |= _probabilities(columns, names)
    return Answers(Columns(tuple(held), rows, held), "multiclass", names, probabilities=columns)


def _check_length(what: str, found: int, rows: int) -> None:
    if found != rows:
        raise ValueError(f"{what} must have one entry per row of the data, {rows}, got {found}")


def _matrix(outputs: Any) -> tuple[NDArray[Any], tuple[Category, ...]]:
    """Outputs as an array of one or two dimensions, and the columns' names where they have some."""
    if frames.is_frame(outputs) and len(getattr(outputs, "shape", ())) == 2:
        frame = frames.Frame(outputs)
        frame.compute(frame.names)
        arrays = [frame.array(name) for name in frame.names]
        if len(arrays) == 1:
            return arrays[0], ()
        return np.column_stack([_floats(array) for array in arrays]), frame.names
    if isinstance(outputs, (list, tuple)) and outputs and isinstance(outputs[0], (list, tuple, np.ndarray)):
        try:
            outputs = np.array(outputs, np.float64)
        except (ValueError, TypeError):
            raise ValueError("outputs must have equally many numbers in every row") from None
    array = as_column(outputs)
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array.reshape(-1), ()
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"outputs must be of shape (rows,) or (rows, classes), got {array.shape}")
    return np.column_stack([_floats(array[:, place]) for place in range(array.shape[1])]), ()


def _floats(column: NDArray[Any]) -> NDArray[np.float64]:
    found = type_of(column)
    if found.kind != "numeric":
        raise ValueError(
            f"outputs of several columns must be numbers; a column {found.problem or 'is ' + str(found.kind)}"
        )
    return numbers_of(column)


def _one_column(what: str, values: Any) -> NDArray[Any]:
    if frames.is_frame(values) and len(getattr(values, "shape", ())) == 2:
        frame = frames.Frame(values)
        if len(frame.names) == 1:
            frame.compute(frame.names)
            return frame.array(frame.names[0])
    try:
        array = as_column(values)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise ValueError(f"{what} must be one column, got shape {array.shape}")
    found = type_of(array)
    if found.problem:
        raise ValueError(f"{what} must be numbers, text or booleans: the column {found.problem.partition(';')[0]}")
    return array


def _classes(labels: NDArray[Any] | None, number: int) -> tuple[Category, ...]:
    """scikit-learn's order: the sorted labels, where there are as many; else 0, 1, …."""
    if labels is not None:
        found = {value for value in labels.tolist() if not is_missing(value)}
        if len(found) == number and len({isinstance(value, str) for value in found}) == 1:
            return tuple(sorted(found))
    return tuple(range(number))


def _place(positive: Category, classes: Sequence[Category]) -> int:
    for place, name in enumerate(classes):
        if equal(name, positive):
            return place
    raise ValueError(f"positive_class must be one of {list(classes)}, got {positive!r}")


def _probabilities(matrix: NDArray[np.float64], classes: Sequence[Category]) -> dict[str, NDArray[Any]]:
    """Class, confidence (the highest probability) and entropy (in units of its largest, ln k) of every row."""
    whole = np.isfinite(matrix).all(axis=1)
    kept = matrix[whole]
    total = kept.sum(axis=1)
    wrong = (np.abs(total - 1) > _SUM_OFF) | (kept < 0).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(whole)[np.argmax(wrong)])
        raise ValueError(
            f"outputs of several columns must be class probabilities that add up to 1; row {row} adds up to "
            f"{float(matrix[row].sum()):.6g} with a least value of {float(matrix[row].min()):.6g}: apply softmax first"
        )
    logs = np.log(kept, out=np.zeros_like(kept), where=kept > 0)
    entropy = np.full(len(matrix), np.nan)
    confidence = np.full(len(matrix), np.nan)
    entropy[whole] = np.clip(-(kept * logs).sum(axis=1) / math.log(matrix.shape[1]), 0, 1)
    confidence[whole] = np.minimum(kept.max(axis=1), 1)
    names = np.fromiter(classes, dtype=object, count=len(classes))
    chosen = np.full(len(matrix), None, dtype=object)
    chosen[whole] = names[kept.argmax(axis=1)]
    return {"class": chosen, "confidence": confidence, "entropy": entropy}
