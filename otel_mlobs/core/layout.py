"""Where a prediction and its label are counted: the cells of a model's prediction and outcome tables."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import is_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.calibration import Calibration
    from otel_mlobs.core.profile import OutputKind, Outputs

    Floats = NDArray[np.float64]
    Indexes = NDArray[np.intp]

_EVEN = tuple(step / 20 for step in range(1, 20))
"""Inner edges of a class's probability where no calibration says where its rows lie."""


@dataclass(frozen=True)
class OutcomeLayout:
    """The cells in which a model's predictions and outcomes are counted; the same for every process with a profile.

    A prediction table has the shape (classes, bins, 2): class, score bin, whether it was predicted. An outcome table
    has the shape (classes, bins, 2, 2): the same by label. :mod:`otel_mlobs.core.outcomes` makes figures of them.

    Attributes:
        kind: score, class or multiclass.
        classes: what classes are called, in the tables' order; none of scores, whose table has one class.
        uppers: of every class the bins' upper edges, ascending, right-closed, the last infinite. Classes with fewer
            bins than others leave the rest of their row empty.
        threshold: scores from here on predict the positive class.
        positive_class: the label that scores are the probability of; None takes 0, 1, False and True.
        calibrations: of every class its calibration, where the reference had labels.
    """

    kind: OutputKind
    classes: tuple[Category, ...]
    uppers: tuple[tuple[float, ...], ...]
    threshold: float = 0.5
    positive_class: Category | None = None
    calibrations: tuple[Calibration, ...] = ()

    @classmethod
    def of(cls, outputs: Outputs) -> OutcomeLayout | None:
        """The layout of a profile's outputs; None where they are a regression's."""
        threshold = outputs.threshold
        if outputs.kind == "score":
            calibration = outputs.calibration
            if calibration is not None:
                return cls("score", (), (calibration.uppers,), threshold, outputs.positive_class, (calibration,))
            uppers = _with_threshold(outputs.columns[0].bins.edges, threshold)
            return cls("score", (), (uppers,), threshold, outputs.positive_class)
        if outputs.kind == "class":
            classes = outputs.columns[0].bins.categories
            return cls("class", classes, ((math.inf,),) * len(classes))
        if outputs.kind == "multiclass":
            calibrations = outputs.calibrations
            if calibrations:
                edges = tuple(calibration.uppers for calibration in calibrations)
            else:
                edges = ((*_EVEN, math.inf),) * len(outputs.classes)
            return cls("multiclass", outputs.classes, edges, calibrations=calibrations)
        return None

    @cached_property
    def shape(self) -> tuple[int, int]:
        """How many classes and bins the tables have."""
        return len(self.uppers), max(map(len, self.uppers), default=1)

    @cached_property
    def mean_scores(self) -> Floats | None:
        """Mean score of the reference in every bin, shape (classes, bins); NaN beyond a class's bins.

        None where the reference had no labels.
        """
        return self._filled([calibration.mean_scores for calibration in self.calibrations])

    @cached_property
    def calibrated(self) -> Floats | None:
        """How often a row of every bin is positive, as the reference has it, likewise."""
        return self._filled([calibration.calibrated for calibration in self.calibrations])

    def _filled(self, rows: Sequence[Sequence[float]]) -> Floats | None:
        if not rows:
            return None
        filled = np.full(self.shape, np.nan)
        for index, row in enumerate(rows):
            filled[index, : len(row)] = row
        filled.flags.writeable = False
        return filled

    @cached_property
    def _codes(self) -> dict[object, int]:
        if self.kind == "score":
            return {0: 0, 1: 1} if self.positive_class is None else {self.positive_class: 1}
        return {name: index for index, name in enumerate(self.classes)}

    @cached_property
    def _edges(self) -> tuple[Floats, ...]:
        return tuple(np.array(uppers[:-1], np.float64) for uppers in self.uppers)

    def predictions(self) -> NDArray[np.int64]:
        """A prediction table of zeros."""
        return np.zeros((*self.shape, 2), np.int64)

    def outcomes(self) -> NDArray[np.int64]:
        """An outcome table of zeros."""
        return np.zeros((*self.shape, 2, 2), np.int64)

    def cells(self, matrix: Floats) -> Indexes:
        """Where each row of encoded outputs (rows, size) is counted: indexes into a flat prediction table.

        Shape (rows, classes). A row that holds no prediction (a missing or infinite score, a missing class) is -1.
        """
        classes, bins = self.shape
        rows = len(matrix)
        found = np.empty((rows, classes), np.intp)
        if self.kind == "class":
            column = matrix[:, 0]
            found[...] = 2 * np.arange(classes) + (column[:, None] == np.arange(classes))
            found[np.isnan(column)] = -1
            return found
        if self.kind == "score":
            predicted = matrix[:, :1] >= self.threshold
        else:
            predicted = np.zeros((rows, classes), np.bool_)
            if rows:
                predicted[np.arange(rows), matrix.argmax(axis=1)] = True
        for index, edges in enumerate(self._edges):
            found[:, index] = index * bins + np.searchsorted(edges, matrix[:, index], side="left")
        found *= 2
        found += predicted
        found[~np.isfinite(matrix).all(axis=1)] = -1
        return found

    def count(self, matrix: Floats, table: NDArray[Any]) -> None:
        """Count encoded outputs (rows, size) into a prediction table."""
        _count(self.cells(matrix), table)

    def add(self, matrix: Floats, labels: Iterable[Any], table: NDArray[Any]) -> list[int]:
        """Count encoded outputs and their labels into an outcome table; returns the indexes of invalid labels.

        Rows that hold no prediction are left out, whatever their label.
        """
        codes = self.codes(labels)
        self.add_codes(matrix, codes, table)
        return [int(index) for index in np.flatnonzero(codes < 0)]

    def add_codes(self, matrix: Floats, codes: Indexes, table: NDArray[Any]) -> None:
        """The same for labels as :meth:`codes` has them; those below 0 are left out."""
        cells = self.cells(matrix)
        true = codes[:, None] == (1 if self.kind == "score" else np.arange(self.shape[0]))
        cells = np.where((cells < 0) | (codes < 0)[:, None], -1, 2 * cells + true)
        _count(cells, table)

    def codes(self, labels: Iterable[Any]) -> Indexes:
        """Every label's :meth:`label_code`; -1 where it has none."""
        code_of = self.label_code
        return np.array([-1 if code is None else code for code in map(code_of, labels)], np.intp)

    def label_code(self, label: Any) -> int | None:
        """1 for the positive label and 0 for a negative one; of classes the index; None for what is no label here.

        With a ``positive_class`` every other label is negative. A missing one never is.
        """
        try:
            found = self._codes.get(label)
            if found is not None:
                return found
            if self.kind == "score" and self.positive_class is not None and not is_missing(label):
                return 0
        except Exception:  # noqa: BLE001, S110 - whatever a value's own __hash__ or __eq__ raises
            pass
        return None

    def confusion(self, matrix: Floats, codes: Indexes) -> Indexes:
        """The confusion cell of every row, as its place in ``outcomes.CELLS``; -1 where it has none.

        Of several classes a right answer is ``tp`` and a wrong one ``fn``: of the class that was true.
        """
        cells = self.cells(matrix)
        known = (cells[:, 0] >= 0) & (codes >= 0)
        if self.kind == "score":
            return np.where(known, 2 * (cells[:, 0] & 1) + codes, -1)
        predicted = cells[np.arange(len(cells)), np.maximum(codes, 0)] & 1
        return np.where(known, 2 * predicted + 1, -1)


def _count(cells: Indexes, table: NDArray[Any]) -> None:
    flat = cells.reshape(-1)
    counts = np.bincount(flat[flat >= 0], minlength=table.size)
    table += counts.reshape(table.shape)


def _with_threshold(edges: Iterable[float], threshold: float) -> tuple[float, ...]:
    """The bins' upper edges with one just below the threshold, so that no bin holds both answers."""
    uppers = list(edges)
    edge = math.nextafter(threshold, -math.inf)
    if edge not in uppers:
        insort(uppers, edge)
    return (*uppers, math.inf)
