"""The series of one model, version and profile: what its monitors in this process count, as labels and values."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.core.contract import KINDS, kinds_of, no_violations
from otel_mlobs.telemetry import collected
from otel_mlobs.telemetry.instruments import model_labels
from otel_mlobs.telemetry.readings import encodable
from otel_mlobs.telemetry.succession import Succession

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.core.drift import DriftResult, Reference
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.core.window import Counts
    from otel_mlobs.telemetry.counting import Counting

    Labels = dict[str, str]

_lock = threading.RLock()
_known: dict[tuple[str, str | None, str], ModelSeries] = {}


class ModelSeries(collected.Group):
    """The monitors of one model, version and profile, collected as one; a :class:`~collected.Group`."""

    def __init__(self, profile: Profile, reference: Reference, methods: Sequence[str], max_series: int) -> None:
        super().__init__()
        self._model: Labels = model_labels(profile.model, profile.version, profile.id)
        self._reference = reference
        self._methods = tuple(methods)
        self._rows = profile.rows
        none = reference.counts.astype("int64") * 0, no_violations(profile.features)
        self.succession: Succession[tuple[Counts, Counts]] = Succession(
            lambda: none,
            lambda one: (one.totals(), one.violations()),
            lambda one, other: (one[0] + other[0], one[1] + other[1]),
        )
        features = len(profile.features)
        self._normal_scores = reference.normal_scores()
        names: list[Labels] = []
        for index, column in enumerate(reference.columns):
            key = semconv.FEATURE_NAME if index < features else semconv.PREDICTION_OUTPUT
            names.append({**self._model, key: encodable(column.name)})
        # Predictions matter most: where not all fit, they come first, then features in the profile's order.
        order = [*range(features, len(names)), *range(features)]
        kept, room, self.omitted = self._kept(order, max_series, range(features))
        self._features = [index for index in range(features) if index in kept]
        self._outputs = [index for index in range(features, len(names)) if index in kept]
        self._names = names
        self._breakable = self._room_for_violations(profile, room)

    def _room_for_violations(self, profile: Profile, room: int) -> list[tuple[int, int]]:
        """Which feature and kind have a series of violations: the least important, so what room is left is theirs."""
        breakable = [
            (index, KINDS.index(kind)) for index, column in enumerate(profile.features) for kind in kinds_of(column)
        ]
        self.omitted += max(0, len(breakable) - room)
        return breakable[: max(0, room)]

    def _kept(self, order: Sequence[int], max_series: int, features: range) -> tuple[set[int], int, int]:
        """Which columns have series, how many more there may be, and how many are left out."""
        kept: set[int] = set()
        room, omitted = max_series - 3, 0  # rows, threshold and what is omitted belong to the model
        for index in order:
            bins = self._reference.columns[index].bins
            scores = 2 * bins.values if bins.ordered and index in features else 0
            needed = 2 * len(bins.cells) + scores + len(self._methods) + 2
            if needed <= room and not omitted:
                room -= needed
                kept.add(index)
            else:
                omitted += needed
        return kept, 0 if omitted else room, omitted

    def add(self, counting: Counting) -> None:
        """Collect what ``counting`` counts from now on."""
        self.succession.join(counting)
        collected.join(self)  # takes locks of the SDK's, which a collection holds while it asks us

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, Labels]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""
        if metric is semconv.FEATURE_OBSERVATIONS:
            self._say_farewell()
            yield from self._counts(self._features, zero=zero)
        elif metric is semconv.PREDICTION_OBSERVATIONS:
            yield from self._counts(self._outputs, zero=zero)
        elif metric is semconv.FEATURE_VIOLATIONS:
            yield from self._violations(zero=zero)
        elif metric is semconv.FEATURE_REFERENCE:
            yield from self._shares(self._features)
        elif metric is semconv.PREDICTION_REFERENCE:
            yield from self._shares(self._outputs)
        elif metric is semconv.FEATURE_REFERENCE_SCORE:
            yield from self._scores()
        elif metric is semconv.PROFILE_ROWS:
            yield self._rows, self._model
        elif metric is semconv.DRIFT_THRESHOLD:
            thresholds = [one.threshold for one in self.succession.live]
            if thresholds:
                yield max(thresholds), self._model
        elif metric is semconv.SERIES_OMITTED:
            yield self.omitted, self._model
        elif metric in (semconv.DRIFT_SCORES, semconv.DRIFT_EVIDENCE, semconv.DRIFT_STATUSES):
            yield from self._drift(metric)

    def _say_farewell(self) -> None:
        if self.succession.over:
            collected.leave(self)  # it stays known: should its profile be monitored again, its counts go on
            if not self.succession.over:  # a monitor was made just now
                collected.join(self)

    def _counts(self, columns: Sequence[int], *, zero: bool) -> Iterator[tuple[float, Labels]]:
        counts, _ = self.succession.total()
        for index in columns:
            row = counts[index].tolist()
            for position, labels in self._cells(index):
                yield 0 if zero else row[position], labels

    def _violations(self, *, zero: bool) -> Iterator[tuple[float, Labels]]:
        _, counts = self.succession.total()
        for index, kind in self._breakable:
            yield 0 if zero else int(counts[index, kind]), {**self._names[index], semconv.VIOLATION: KINDS[kind]}

    def _shares(self, columns: Sequence[int]) -> Iterator[tuple[float, Labels]]:
        for index in columns:
            row = self._reference.shares[index].tolist()
            for position, labels in self._cells(index):
                yield row[position], labels

    def _scores(self) -> Iterator[tuple[float, Labels]]:
        for index in self._features:
            if self._reference.ordered[index]:
                cells = self._cells(index)[: self._reference.columns[index].bins.values]
                for kind, scores in zip(("shift", "scale"), self._normal_scores, strict=True):
                    for position, labels in cells:
                        yield float(scores[index, position]), {**labels, semconv.NORMAL_SCORE: kind}

    def _cells(self, index: int) -> list[tuple[int, Labels]]:
        """Position and labels of a column's cells; made anew each time: kept, they would be most of the memory."""
        bins = self._reference.columns[index].bins
        positions = (*range(bins.values), -2, -1)
        names = self._names[index]
        return [(position, {**names, semconv.BIN: cell}) for position, cell in zip(positions, bins.cells, strict=True)]

    def _drift(self, metric: semconv.Metric) -> Iterator[tuple[float, Labels]]:
        """The figures of the monitor whose window shows most, where a process has several of one profile."""
        for index in (*self._features, *self._outputs):
            found = [results[index] for one in self.succession.live if (results := one.results())]
            if not found:
                continue
            for value, labels in self._figures(metric, found):
                yield value, {**self._names[index], **labels}

    def _figures(self, metric: semconv.Metric, found: Sequence[DriftResult]) -> Iterator[tuple[float, Labels]]:
        if metric is semconv.DRIFT_STATUSES:
            known = [one.status == "drift" for one in found if one.status != "insufficient_data"]
            if known:
                yield int(any(known)), {}
        elif metric is semconv.DRIFT_EVIDENCE:
            yield max(max(one.evidence, -99.0) for one in found), {}
        else:
            for method in self._methods:
                values = [_figure(one, method) for one in found]
                there = [value for value in values if value is not None and value == value]  # noqa: PLR0124
                if there:
                    yield max(there), {semconv.DRIFT_METHOD: method}


def _figure(result: DriftResult, method: str) -> float | None:
    return result.psi_adjusted if method == "psi_adjusted" else result.distances.get(method)


def series_of(profile: Profile, reference: Reference, methods: Sequence[str], max_series: int) -> ModelSeries:
    """The series of ``profile`` in this process, made when first asked for; the first monitor's limits hold."""
    key = (profile.model, profile.version, profile.id)
    with _lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = ModelSeries(profile, reference, methods, max_series)
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
