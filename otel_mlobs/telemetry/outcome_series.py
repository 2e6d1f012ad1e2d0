"""The series of one model, version and profile that tell whether it is right: predictions, outcomes, expectations."""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.core.estimates import expectations
from otel_mlobs.core.outcomes import CELLS, REGRESSION_SUMS, cells, labels_by_bin
from otel_mlobs.core.performance import COUNTABLE, LABELLED, WAITS
from otel_mlobs.telemetry import collected
from otel_mlobs.telemetry.instruments import model_labels
from otel_mlobs.telemetry.succession import Succession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_mlobs.core.performance import Book, Performance
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.telemetry.counting import Counting

    Labels = dict[str, str]
    Points = Iterator[tuple[float, Labels]]

_EXPECTED = "mlobs.expected_"
"""How the names of what is expected begin: it needs no label."""
_RESULTS = ("joined", "duplicate", "conflict", "late", "unknown", "other_profile", "invalid")
_NONE = (math.nan,) * 3
_LABEL_NAMES = ("positive", "negative", "negative_below")

_lock = threading.RLock()
_known: dict[tuple[str, str | None, str], OutcomeSeries] = {}


class OutcomeSeries(collected.Group):
    """The monitors of one model, version and profile, collected as one; a :class:`~collected.Group`."""

    growing = frozenset({semconv.OUTCOMES.name, semconv.OUTCOME_VALUE.name})  # by variant, by currency

    def __init__(self, profile: Profile, performance: Performance, max_series: int) -> None:
        super().__init__()
        self._labels = model_labels(profile.model, profile.version, profile.id)
        self._performance = performance
        self._layout = performance.layout
        self._errors = performance.errors
        self._calibrated = self._layout is not None and self._layout.calibrated is not None
        self._expects = self._calibrated or self._errors is not None
        self._by_bin = count_of(performance, by_bin=True) <= max_series // 2  # else cells alone are sent
        self.registers = False
        """Whether labels are to be expected: a monitor has a store, or was told an outcome."""
        self.succession: Succession[Book] = Succession(
            performance.blank, lambda one: one.book() or performance.blank(), lambda one, other: one.plus(other)
        )
        self._sources: dict[str, Callable[[Book], Points]] = {
            semconv.OUTCOMES.name: self._cells,
            semconv.OUTCOME_SCORES.name: self._scores,
            semconv.OUTCOME_VALUE.name: self._amounts,
            semconv.OUTCOME_LABELS.name: self._results,
            semconv.OUTCOME_PREDICTIONS.name: self._predictions,
            semconv.OUTCOME_MATURE.name: self._mature,
            semconv.OUTCOME_ERROR.name: self._errors_made,
            semconv.OUTCOME_SQUARED_ERROR.name: self._squared_errors_made,
            semconv.EXPECTED_OUTCOMES.name: self._expected_cells,
            semconv.EXPECTED_OUTCOME_SCORES.name: self._expected_scores,
            semconv.EXPECTED_ERROR.name: self._expected_error,
            semconv.EXPECTED_SQUARED_ERROR.name: self._expected_squared_error,
        }

    def add(self, counting: Counting) -> None:
        """Collect what ``counting`` counts from now on."""
        self.succession.join(counting)
        self.join()

    def expect_labels(self) -> None:
        """From now on labels are to be expected: a monitor has a store, or was told an outcome."""
        if not self.registers:
            self.registers = True
            self.started -= {name for name in self._sources if not name.startswith(_EXPECTED)}
            self.join()

    def join(self) -> None:
        """Be collected where there is something to tell."""
        if self.size:
            collected.join(self)  # takes locks of the SDK's, which a collection holds while it asks us

    @property
    def size(self) -> int:
        """How many series there may be, currencies and variants apart; none where nothing can be told."""
        if not (self.registers or self._expects):
            return 0
        return count_of(self._performance, by_bin=self._by_bin)

    def points(self, metric: semconv.Metric, *, zero: bool) -> Points:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""
        source = self._sources.get(metric.name)
        if source is not None:
            if metric is semconv.OUTCOME_LABELS:
                self._say_farewell()
            if not (self._expects if metric.name.startswith(_EXPECTED) else self.registers):
                return
            for value, labels in source(self._performance.blank() if zero else self.succession.total()):
                yield value, {**self._labels, **labels}
        else:
            for value, labels in self._gauges(metric):
                yield value, {**self._labels, **labels}

    def _say_farewell(self) -> None:
        if self.succession.over:
            collected.leave(self)
            if not self.succession.over:  # a monitor was made just now
                self.join()

    def _of_class(self, index: int) -> Labels:
        return {semconv.OUTCOME_CLASS: f"c{index:02d}"} if self._layout is not None and self._layout.classes else {}

    def _cells(self, book: Book) -> Points:
        if self._layout is None:
            return
        none = cells(book.outcomes * 0)
        for variant, table in {None: none, **book.cells}.items():
            labels = {} if variant is None else {semconv.VARIANT: variant}
            yield from self._points_of_cells(table, labels)

    def _points_of_cells(self, table: Iterable[Iterable[float]], labels: Labels) -> Points:
        for index, counts in enumerate(table):
            for cell, count in zip(CELLS, counts, strict=True):
                yield float(count), {semconv.OUTCOME_CELL: cell, **self._of_class(index), **labels}

    def _scores(self, book: Book) -> Points:
        if self._layout is not None and self._by_bin and self._layout.shape[1] > 1:
            yield from self._points_of_bins(book.outcomes)

    def _points_of_bins(self, outcomes: object) -> Points:
        assert self._layout is not None  # noqa: S101 - for the type checker
        for label, tables in zip(_LABEL_NAMES, labels_by_bin(outcomes), strict=True):  # type: ignore[arg-type]
            for index, row in enumerate(tables.tolist()):
                used = len(self._layout.uppers[index])
                for place, count in enumerate(row[:used]):
                    key = {semconv.BIN: f"b{place:02d}", semconv.OUTCOME_LABEL: label, **self._of_class(index)}
                    yield float(count), key

    def _amounts(self, book: Book) -> Points:
        for (cell, currency), amount in list(book.amounts.items()):
            yield float(amount), {semconv.OUTCOME_CELL: cell, semconv.CURRENCY: currency}

    def _results(self, book: Book) -> Points:
        for result in _RESULTS:
            yield book.results.get(result, 0), {semconv.OUTCOME_RESULT: result}

    def _predictions(self, book: Book) -> Points:
        if self.registers:
            yield int(book.coverage[WAITS]), {}

    def _mature(self, book: Book) -> Points:
        labelled = int(book.coverage[LABELLED])
        yield labelled, {semconv.OUTCOME_LABELLED: "true"}
        yield int(book.coverage[COUNTABLE]) - labelled, {semconv.OUTCOME_LABELLED: "false"}

    def _errors_made(self, book: Book) -> Points:
        yield from self._points_of_errors(book, "")

    def _squared_errors_made(self, book: Book) -> Points:
        yield from self._points_of_errors(book, "squared_")

    def _points_of_errors(self, book: Book, prefix: str) -> Points:
        if self._layout is None:
            for direction in ("over", "under"):
                place = REGRESSION_SUMS.index(prefix + direction)
                yield float(book.outcomes[place]), {semconv.OUTCOME_DIRECTION: direction}

    def _expected_cells(self, book: Book) -> Points:
        if self._calibrated and self._layout is not None:
            yield from self._points_of_cells(cells(expectations(self._layout, book.predicted)), {})

    def _expected_scores(self, book: Book) -> Points:
        if self._calibrated and self._layout is not None and self._by_bin:
            yield from self._points_of_bins(expectations(self._layout, book.predicted))

    def _expected_error(self, book: Book) -> Points:
        if self._errors is not None:
            yield float(book.predicted[0, :, 0] @ self._errors.absolute), {}

    def _expected_squared_error(self, book: Book) -> Points:
        if self._errors is not None:
            yield float(book.predicted[0, :, 0] @ self._errors.squared), {}

    def _gauges(self, metric: semconv.Metric) -> Points:
        """The figures of the process's newest monitor that has some."""
        estimates = next((found for one in reversed(self.succession.live) if (found := one.estimates())), None)
        if not estimates:
            return
        if metric is semconv.OUTCOME_COVERAGE:
            coverage = next(iter(estimates.values())).coverage
            if coverage == coverage:  # noqa: PLR0124 - NaN is what differs from itself
                yield coverage, {}
            return
        if metric is semconv.PERFORMANCE_RELIABLE:
            if any(one.estimated == one.estimated for one in estimates.values()):
                yield int(all(one.reliable for one in estimates.values())), {}
            return
        for name, one in estimates.items():
            if metric is semconv.PERFORMANCE_ESTIMATE:
                figure = (one.estimated, one.lower, one.upper) if one.reliable else _NONE
            elif metric is semconv.PERFORMANCE_REALIZED:
                figure = (one.realized, one.realized_lower, one.realized_upper)
            elif metric is semconv.PERFORMANCE_THRESHOLD:
                figure = (math.nan, one.threshold_lower, one.threshold_upper)
            else:
                return
            for bound, value in zip(("value", "lower", "upper"), figure, strict=True):
                if value == value:  # noqa: PLR0124 - NaN is what differs from itself
                    yield value, {semconv.PERFORMANCE_METRIC: name, semconv.PERFORMANCE_BOUND: bound}


def count_of(performance: Performance, *, by_bin: bool) -> int:
    """How many series outcomes and expectations take, currencies and variants apart."""
    layout = performance.layout
    classes, bins = (1, 0) if layout is None else layout.shape
    tables = 2 if layout is not None and layout.calibrated is not None else 1
    figures = 3 * (len(_RESULTS) + 3)  # estimated, measured, threshold: as many measures as a score has
    return tables * classes * (len(CELLS) + (len(_LABEL_NAMES) * bins if by_bin else 0)) + len(_RESULTS) + 3 + figures


def add(
    profile: Profile, counting: Counting, performance: Performance, max_series: int, *, registers: bool
) -> OutcomeSeries:
    """Collect what ``counting`` counts of outcomes, with the others of its model, version and profile."""
    key = (profile.model, profile.version, profile.id)
    with _lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = OutcomeSeries(profile, performance, max_series)
    if registers:
        found.expect_labels()
    found.add(counting)
    return found


def _after_fork_in_child() -> None:
    """Start every series again from zero, with a lock that nobody holds."""
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for found in _known.values():
        found.begin_at_zero()  # also those that are not collected at the moment
        found.succession.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
