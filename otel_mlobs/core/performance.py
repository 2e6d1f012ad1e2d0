"""What one monitor has counted of predictions and of what came true of them.

Predictions are counted by score bin; a calibrated model's bins say what is to be expected of them. Labels are counted
by score bin, decision and label. All are sums, so they add up over threads, processes and hosts. Recording appends to
a queue and takes no lock; whoever has time folds (see :mod:`otel_mlobs.core.tally`).
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from otel_mlobs.core.layout import OutcomeLayout
from otel_mlobs.core.outcomes import CELLS, REGRESSION_SUMS, add_errors
from otel_mlobs.core.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from otel_mlobs.core.profile import Outputs
    from otel_mlobs.core.records import LabelValue

    Floats = NDArray[np.float64]

Encoded = Union[bytes, "Floats"]
"""Outputs as :class:`~otel_mlobs.core.rows.OutputReader` gives them: one packed prediction, or a matrix of them."""

_QUEUED = 2_048
_QUEUED_BATCHES = 4
_MOST_NAMES = 20
"""Currencies and variants that are counted by name; what comes after them is counted as ``other``."""
OTHER_NAME = "other"
WAITS, COUNTABLE, LABELLED, BEYOND = 0, 1, 2, 3
"""Columns of :attr:`Book.coverage`: predictions made; predictions that labels are expected of by now; and have; and
predictions whose score is beyond the reference's extremes."""


class Outcome(NamedTuple):
    """A prediction and what came true; no label counts as the negative one."""

    payload: bytes
    label: LabelValue | None
    amount: float | None = None
    currency: str | None = None
    variant: str | None = None


@dataclass
class Book:
    """Counts of one model's predictions and outcomes; books of several monitors add up.

    Attributes:
        predicted: prediction table, shape (classes, bins, 2); of a regression (1, bins, 1), by predicted value.
        outcomes: outcome table, shape (classes, bins, 2, 2); of a regression its ``REGRESSION_SUMS``.
        cells: confusion cells by variant, each of shape (classes, 4).
        amounts: what labels were worth, by confusion cell and currency.
        results: labels by what became of them.
        coverage: predictions made, countable by now, labelled, and beyond the reference's scores.
    """

    predicted: NDArray[np.int64]
    outcomes: NDArray[Any]
    cells: dict[str | None, NDArray[np.int64]] = field(default_factory=dict)
    amounts: Counter[tuple[str, str]] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    coverage: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, np.int64))

    def copy(self) -> Book:
        """A book that goes its own way."""
        return self.plus(Book(self.predicted * 0, self.outcomes * 0))

    def plus(self, other: Book) -> Book:
        """Both together."""
        cells = dict(self.cells)
        for variant, counts in other.cells.items():
            cells[variant] = cells[variant] + counts if variant in cells else counts
        return Book(
            self.predicted + other.predicted,
            self.outcomes + other.outcomes,
            cells,
            _sum(self.amounts, other.amounts),
            _sum(self.results, other.results),
            self.coverage + other.coverage,
        )


class Performance:
    """Counts predictions and outcomes of a profile's outputs, in total and over a window of panes.

    One thread at a time may fold, end panes or read; recording may happen anywhere meanwhile.
    """

    def __init__(self, outputs: Outputs, panes: int) -> None:
        self.layout = OutcomeLayout.of(outputs)
        self.errors = outputs.errors
        self.counts_predictions = self.errors is not None or (
            self.layout is not None and self.layout.calibrated is not None
        )
        """Whether predictions tell what is to be expected; else they are counted only where labels are waited for."""
        self._least, self._most = -math.inf, math.inf
        score = outputs.columns[0]
        if outputs.kind == "score" and score.minimum is not None and score.maximum is not None:
            self._least, self._most = score.minimum, score.maximum
        self._size = len(outputs.classes) if outputs.kind == "multiclass" else 1
        self._value_edges = np.array(self.errors.uppers[:-1] if self.errors else (), np.float64)
        self._panes = panes
        self.start_afresh()

    def start_afresh(self) -> None:
        """Begin again from zero."""
        self._queued: deque[bytes] = deque()
        self._batches: deque[Floats] = deque()
        self._labelled: deque[Outcome] = deque()
        self._results: deque[str] = deque()
        self._missing: deque[int] = deque()
        self.invalid: deque[str] = deque(maxlen=1)
        self.book = self.blank()
        self._predicted = Window((1, self.book.predicted.size), self._panes)
        self._coverage = Window((1, 4), self._panes)
        self._outcomes: Window | None = None  # most monitors see no label for long
        self._sums: deque[Floats] = deque(maxlen=self._panes + 1)

    def blank(self) -> Book:
        """A book of zeros."""
        if self.layout is not None:
            return Book(self.layout.predictions(), self.layout.outcomes())
        return Book(np.zeros((1, len(self._value_edges) + 1, 1), np.int64), np.zeros(len(REGRESSION_SUMS)))

    @property
    def full(self) -> bool:
        """Whether enough is queued to be worth a fold."""
        return len(self._queued) >= _QUEUED or len(self._batches) >= _QUEUED_BATCHES or len(self._labelled) >= _QUEUED

    def add_predictions(self, encoded: Encoded) -> None:
        """Count one packed prediction, or a matrix of them, which is copied."""
        if isinstance(encoded, bytes):
            self._queued.append(encoded)
        else:
            self._batches.append(np.array(encoded, np.float64))

    def add_outcome(self, outcome: Outcome) -> None:
        """Count a prediction whose label is known."""
        self._labelled.append(outcome)

    def add_scored(
        self, encoded: Encoded | None, label: LabelValue, amount: float | None, currency: str | None
    ) -> None:
        """Count a label whose prediction the caller kept; one that cannot be read is an unknown prediction."""
        payloads = [] if encoded is None else payloads_of(encoded)
        self.add_result("joined" if len(payloads) == 1 else "unknown")
        if len(payloads) == 1:
            self.add_outcome(Outcome(payloads[0], label, amount, currency))

    def add_result(self, result: str) -> None:
        """Count a label by what became of it."""
        self._results.append(result)

    def add_missing(self) -> None:
        """Count a prediction whose label was to be expected by now, and did not come: it is in no cell."""
        self._missing.append(1)

    def fold(self) -> None:
        """Count what is queued."""
        rows = _taken(self._queued)
        batches = _taken(self._batches)
        if rows:
            batches.append(np.frombuffer(b"".join(rows)).reshape(-1, self._size))
        coverage = np.zeros(4, np.int64)
        if batches:
            table = np.zeros_like(self.book.predicted)
            for matrix in batches:
                coverage[WAITS] += len(matrix)
                coverage[BEYOND] += int(((matrix < self._least) | (matrix > self._most)).sum())
                self._count(matrix, table)
            self.book.predicted += table
            self._predicted.add(table.reshape(1, -1))
        outcomes = _taken(self._labelled)
        if outcomes:
            counted = self._count_outcomes(outcomes)
            coverage[COUNTABLE] += counted
            coverage[LABELLED] += counted - sum(one.label is None for one in outcomes)
        self.book.results.update(_taken(self._results))
        coverage[COUNTABLE] += len(_taken(self._missing))
        if coverage.any():
            self.book.coverage += coverage
            self._coverage.add(coverage.reshape(1, -1))

    def _count(self, matrix: Floats, table: NDArray[np.int64]) -> None:
        if self.layout is not None:
            self.layout.count(matrix, table)
            return
        values = matrix[:, 0]
        cells = np.searchsorted(self._value_edges, values[np.isfinite(values)], side="left")
        table[0, :, 0] += np.bincount(cells, minlength=table.shape[1])

    def _count_outcomes(self, outcomes: Sequence[Outcome]) -> int:
        """How many were counted: not those whose label, or whose prediction, is none of the model's."""
        matrix = np.frombuffer(b"".join(one.payload for one in outcomes)).reshape(len(outcomes), -1)
        if self.layout is None:
            sums = np.zeros(len(REGRESSION_SUMS))
            add_errors(matrix[:, 0], [one.label for one in outcomes], sums)
            self.book.outcomes += sums
            if not self._sums:
                self._sums.append(np.zeros(len(REGRESSION_SUMS)))
            self._sums[-1] += sums
            return int(sums[0])
        code_of = self.layout.label_code
        codes = np.array([_code(code_of(one.label), one) for one in outcomes], np.intp)
        if self._outcomes is None:
            self._outcomes = Window((1, self.book.outcomes.size), self._panes)
        table = np.zeros_like(self.book.outcomes)
        variants = {one.variant for one in outcomes}
        for variant in variants:
            chosen = [index for index, one in enumerate(outcomes) if one.variant == variant]
            part = table if len(variants) == 1 else np.zeros_like(table)
            self.layout.add_codes(matrix[chosen], codes[chosen], part)
            if part is not table:
                table += part
            self._add_cells(variant, part.sum(axis=1).reshape(len(part), 4))
        self.book.outcomes += table
        self._outcomes.add(table.reshape(1, -1))
        if any(one.amount is not None for one in outcomes):
            self._add_amounts(outcomes, self.layout.confusion(matrix, codes).tolist())
        return int(table[:1].sum())

    def _add_cells(self, variant: str | None, counts: NDArray[np.int64]) -> None:
        known = self.book.cells
        if variant not in known and variant is not None and len(known) - (None in known) >= _MOST_NAMES:
            variant = OTHER_NAME
        known[variant] = known[variant] + counts if variant in known else counts

    def _add_amounts(self, outcomes: Sequence[Outcome], places: Sequence[int]) -> None:
        amounts = self.book.amounts
        known = {currency for _, currency in amounts}
        for one, place in zip(outcomes, places, strict=True):
            if one.amount is None or place < 0 or not 0 <= one.amount < math.inf:
                continue
            currency = one.currency or OTHER_NAME
            if currency not in known and len(known) >= _MOST_NAMES:
                currency = OTHER_NAME
            known.add(currency)
            amounts[CELLS[place], currency] += one.amount  # type: ignore[assignment]

    def end_pane(self) -> None:
        """End the running pane; what falls out of the window is forgotten."""
        self._predicted.rotate()
        self._coverage.rotate()
        self._sums.append(np.zeros(len(REGRESSION_SUMS)))
        if self._outcomes is not None:
            self._outcomes.rotate()

    def skip(self, panes: int) -> None:
        """Let empty panes pass."""
        self._predicted.skip(panes)
        self._coverage.skip(panes)
        for _ in range(min(panes, self._panes + 1)):
            self._sums.append(np.zeros(len(REGRESSION_SUMS)))
        if self._outcomes is not None:
            self._outcomes.skip(panes)

    def window(self) -> Book:
        """The counts of the window, the running pane included, without cells, amounts and results."""
        shape = self.book.outcomes.shape
        if self.layout is None:
            outcomes: NDArray[Any] = np.sum(self._sums, axis=0) if self._sums else np.zeros(shape)
        elif self._outcomes is None:
            outcomes = np.zeros(shape, np.int64)
        else:
            outcomes = self._outcomes.total.reshape(shape).copy()
        return Book(
            self._predicted.total.reshape(self.book.predicted.shape).copy(),
            outcomes,
            coverage=self._coverage.total[0].copy(),
        )


def _sum(one: Counter[Any], other: Counter[Any]) -> Counter[Any]:
    both = one.copy()
    both.update(other)
    return both


def payloads_of(encoded: Encoded) -> list[bytes]:
    """The packed predictions, one a row."""
    if isinstance(encoded, bytes):
        return [encoded]
    return list(map(bytes, np.ascontiguousarray(encoded, dtype=np.float64)))


def _code(code: int | None, outcome: Outcome) -> int:
    if outcome.label is None:
        return 0
    return -1 if code is None else code


def _taken(queue: deque[Any]) -> list[Any]:
    """What the queue holds now, taken out of it: others may append meanwhile."""
    take = queue.popleft
    return [take() for _ in range(len(queue))]


def valid_label(performance: Performance, label: LabelValue) -> bool:
    """Whether ``label`` is one that the model's outputs can have."""
    if performance.layout is not None:
        return performance.layout.label_code(label) is not None
    return isinstance(label, (int, float)) and not isinstance(label, bool) and math.isfinite(label)


def expected_labels(performance: Performance) -> str:
    """Which labels the model's outputs can have, for people; of several classes only how many there are."""
    layout = performance.layout
    if layout is None:
        return "labels of a regression are finite numbers"
    if layout.kind != "score":
        return f"labels are its {len(layout.classes)} classes, as the profile names them"
    return "labels are 0 and 1; Profile.fit(positive_class=…) is for others"
