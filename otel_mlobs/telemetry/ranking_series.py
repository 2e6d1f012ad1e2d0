"""What the ranking monitors of one model and version have counted in this process, as labels and values."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.core.rankings import Catalogue, SlateSums
from otel_mlobs.core.records import NO_CURRENCY
from otel_mlobs.telemetry import collected, instruments
from otel_mlobs.telemetry.readings import encodable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from otel_mlobs.core.rankings import CatalogueFigures, EventFigures

    Labels = dict[str, str]

_logger = logging.getLogger("otel_mlobs")

_QUEUED = 256
_MOST_SAID = 20
_MOST_CURRENCIES = 32


class Book(collected.Group):
    """All that the monitors of one model and version have counted; a :class:`~collected.Group`."""

    growing = frozenset({semconv.RANKING_VALUE.name})  # by currency

    def __init__(self, labels: Labels, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._labels = labels
        self.settings = settings
        self.clock: Callable[[], float] = time.time
        self._said: set[str] = set()
        self.start_afresh()

    def start_afresh(self) -> None:
        """Begin again from zero, with a lock that nobody holds: in a forked child, what was counted is the parent's."""
        settings = self.settings
        self._lock = threading.RLock()
        self._folding = False
        self._sums = SlateSums(settings["events"], settings["gains"], settings["k"], settings["window"])
        self._catalogue = Catalogue(settings["catalogue_size"], settings["window"])
        self._shown: deque[tuple[float, Sequence[str]]] = deque()
        self._results: deque[str] = deque()
        self._counted: dict[str, int] = {}
        self._amounts: dict[tuple[str, str], float] = {}

    def show(self, now: float, items: Sequence[str]) -> None:
        """Take note of a list, without waiting for a lock."""
        self._shown.append((now, items))
        if len(self._shown) >= _QUEUED and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def add_result(self, result: str) -> None:
        """Take note of what became of an event."""
        self._results.append(result)
        if len(self._results) >= _QUEUED and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def refuse(self, why: str) -> None:
        """Count a list or an item without ids, and say why, once in the life of this process."""
        self.add_result("refused")
        instruments.internal_errors().add(1, {semconv.INTERNAL_COMPONENT: "ranking"})
        if why not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(why)
            _logger.warning(
                'ranking of model %r: %s (said once; counted as "refused" in status().results)',
                self._labels[semconv.MODEL_NAME],
                why,
            )

    def _fold(self) -> None:
        if self._folding:  # a signal handler or finaliser of the thread that folds
            return
        self._folding = True
        try:
            for _ in range(len(self._shown)):
                self._catalogue.add(*self._shown.popleft())
            for _ in range(len(self._results)):
                result = self._results.popleft()
                self._counted[result] = self._counted.get(result, 0) + 1
        finally:
            self._folding = False

    def add_slate(
        self,
        now: float,
        length: int,
        places: Mapping[str, Sequence[int]],
        amounts: Sequence[tuple[str, str, float]],
    ) -> None:
        """Count a mature list."""
        with self._lock:
            self._sums.add(now, length, places)
            for event, currency, amount in amounts:
                key = (event, currency)
                if key not in self._amounts and len(self._amounts) >= _MOST_CURRENCIES * len(self.settings["events"]):
                    key = (event, NO_CURRENCY)
                self._amounts[key] = self._amounts.get(key, 0.0) + amount

    def figures(self, now: float) -> tuple[int, dict[str, EventFigures], CatalogueFigures, dict[str, int]]:
        """How many lists are in the window; figures by kind of event; of the catalogue; what became of events."""
        with self._lock:
            self._fold()
            return *self._sums.figures(now), self._catalogue.figures(now), dict(self._counted)

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, Labels]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""
        for value, labels in self._points(metric):
            yield 0 if zero else value, {**self._labels, **labels}

    def _points(self, metric: semconv.Metric) -> list[tuple[float, Labels]]:
        with self._lock:
            if metric in collected.RANKING_GAUGES:
                return self._gauge(metric)
            if metric is semconv.RANKING_VALUE:
                return [
                    (amount, {semconv.RANKING_EVENT: event, semconv.CURRENCY: currency})
                    for (event, currency), amount in self._amounts.items()
                ]
            totals = self._sums.totals()
        if metric is semconv.RANKING_SLATES:
            return [(totals.slates, {})]
        places = [{semconv.RANKING_POSITION: name} for name in self._positions()]
        if metric is semconv.RANKING_IMPRESSIONS:
            return list(zip(totals.shown, places, strict=True))
        points: list[tuple[float, Labels]] = []
        for kind, of_kind in totals.kinds.items():
            event = {semconv.RANKING_EVENT: kind}
            if metric is semconv.RANKING_HITS:
                points.append((of_kind.hits, event))
            elif metric is semconv.RANKING_RECIPROCAL_RANK:
                points.append((of_kind.reciprocal_rank, event))
            elif metric is semconv.RANKING_NDCG:
                points.append((of_kind.ndcg, event))
            else:
                points += [(one, {**event, **place}) for one, place in zip(of_kind.by_position, places, strict=True)]
        return points

    def _positions(self) -> list[str]:
        return [*(f"{place:02d}" for place in range(1, self.settings["k"] + 1)), "rest"]

    def _gauge(self, metric: semconv.Metric) -> list[tuple[float, Labels]]:
        self._fold()
        found = self._catalogue.figures(self.clock())
        value = found.coverage if metric is semconv.RANKING_COVERAGE else found.concentration
        return [] if value != value else [(value, {})]  # noqa: PLR0124 - NaN is what differs from itself


_lock = threading.RLock()
_books: dict[tuple[str, str | None], Book] = {}
_SHARED = ("k", "events", "gains", "catalogue_size", "window")


def book_of(model: str, version: str | None, settings: Mapping[str, Any]) -> Book:
    """What this process counts of a model and version, in one place for all its monitors.

    Raises:
        ValueError: another monitor of the model and version has other settings.
    """
    shared = {name: settings[name] for name in _SHARED}
    with _lock:
        found = _books.get((model, version))
        if found is None:
            labels = {semconv.MODEL_NAME: encodable(model)}
            if version is not None:
                labels[semconv.MODEL_VERSION] = encodable(version)
            found = _books[model, version] = Book(labels, shared)
        for name in _SHARED:
            if found.settings[name] != shared[name]:
                raise ValueError(
                    f"{name} must be {found.settings[name]!r}, as of the other monitor of model {model!r}, version "
                    f"{version!r}, got {shared[name]!r}"
                )
        found.clock = settings["clock"] or time.time
    collected.join(found, "rankings")  # takes locks of the SDK's, which a collection holds while it asks us
    return found


def _after_fork_in_child() -> None:
    """Start every book again from zero, with a lock that nobody holds."""
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for book in _books.values():
        book.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
