"""How a call's answers are distributed, where they have no score: classes of a batch, probability vectors.

Read by protocol, as in :mod:`otel_mlobs.telemetry.readings`; numpy is used where the application has loaded it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from otel_mlobs.telemetry import readings

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_CLASSES = 10
_MOST_NUMBERS = 100_000
"""Of larger matrices every k-th row is read, so that reading never takes longer than a millisecond or so."""


def class_counts(value: Any) -> tuple[list[str], list[int]] | None:
    """The classes of a batch and how many rows got each, the most frequent first, at most 10; None for no classes.

    Text and booleans are classes; whole numbers may as well be amounts, and are summarised as numbers.
    """
    if isinstance(value, (list, tuple)):
        if not value or not isinstance(value[0], (str, bool)):
            return None
        labels: Sequence[Any] = value
    elif readings.holds_classes(value):
        labels = value.tolist() if hasattr(value, "tolist") else list(value)
    else:
        return None
    if len(labels) < 2 or isinstance(labels[0], (list, tuple)):
        return None
    counted = Counter(readings.class_name(label) for label in labels if not readings.is_missing(label))
    frequent = counted.most_common(_MOST_CLASSES)
    return [name for name, _ in frequent], [count for _, count in frequent]


def vectors(value: Any) -> tuple[float, float] | None:
    """Mean confidence and mean entropy (over ln k) of probability vectors, shape (n, k) with k > 2; None for others."""
    shape = getattr(value, "shape", None)
    if isinstance(value, (list, tuple)):
        if not value or not isinstance(value[0], (list, tuple)) or len(value[0]) < 3:
            return None
        rows: Any = value
    elif isinstance(shape, tuple) and len(shape) == 2 and shape[1] > 2 and readings.holds_floats(value):
        numpy = sys.modules.get("numpy")
        if numpy is not None and not hasattr(value, "itercolumns"):
            return _of_matrix(numpy, value)
        return None
    else:
        return None
    step = max(1, math.ceil(len(rows) * len(rows[0]) / _MOST_NUMBERS))
    return _of_lists(rows[::step])


def _of_matrix(numpy: Any, value: Any) -> tuple[float, float] | None:
    step = max(1, math.ceil(value.shape[0] * value.shape[1] / _MOST_NUMBERS))
    rows = value.detach() if hasattr(value, "detach") else value
    rows = rows.iloc[::step] if hasattr(rows, "iloc") else rows[::step]
    matrix = numpy.asarray(rows, dtype="float64")
    with numpy.errstate(all="ignore"):
        matrix = matrix[numpy.isfinite(matrix).all(axis=1) & (matrix >= 0).all(axis=1)]
        if not len(matrix):
            return None
        logarithms = numpy.log(numpy.where(matrix > 0, matrix, 1.0))
    entropy = -(matrix * logarithms).sum(axis=1) / math.log(matrix.shape[1])
    return float(matrix.max(axis=1).mean()), float(entropy.mean())


def _of_lists(rows: Sequence[Sequence[Any]]) -> tuple[float, float] | None:
    confidence = entropy = 0.0
    read = 0
    for row in rows:
        if not all(isinstance(p, (int, float)) and 0 <= p < math.inf for p in row) or len(row) < 2:
            continue
        read += 1
        confidence += max(row)
        entropy -= sum(p * math.log(p) for p in row if p > 0) / math.log(len(row))
    return (confidence / read, entropy / read) if read else None
