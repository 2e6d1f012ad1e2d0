"""What one monitor has counted: the queue, the window, the alarm, and the last answer; no OpenTelemetry in it.

It outlives its monitor for as long as its final counts have to be sent.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from otel_mlobs.core.alarm import Alarm, DesignEffect
from otel_mlobs.core.drift import Reference, assess, results
from otel_mlobs.core.estimates import Judgement
from otel_mlobs.core.performance import Performance
from otel_mlobs.core.tally import Tally
from otel_mlobs.core.window import Window
from otel_mlobs.telemetry import objectives

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_mlobs.core.drift import DriftResult
    from otel_mlobs.core.estimates import Estimate
    from otel_mlobs.core.performance import Book
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.core.window import Counts


class Counting:
    """Counts against a profile in panes of ``pane`` seconds; the caller says what time it is."""

    def __init__(
        self,
        profile: Profile,
        *,
        panes: int,
        pane: float,
        once_per_request: bool,
        tolerance: float | None,
        significance: float,
        panes_per_alarm: float,
        min_rows: float,
        matures: bool = False,
    ) -> None:
        self.reference = Reference(profile.columns)
        self.performance = Performance(profile.outputs, panes) if profile.outputs is not None else None
        self._judgement = (
            None if self.performance is None else Judgement(profile, self.performance, min_rows, matures=matures)
        )
        self.tally = Tally(profile, once_per_request=once_per_request)
        self.pane = pane
        self.retired = False
        """Whether its monitor has ended. Set by a finaliser, which runs anywhere and may wait for no lock."""
        self.due: float | None = None
        self._panes = panes
        self._model, self._tolerance = profile.model, tolerance
        self._limits = {"significance": significance, "min_rows": min_rows}
        self._panes_per_alarm = panes_per_alarm
        self.threshold = math.log10(panes_per_alarm * len(profile.columns))
        self.lock = threading.RLock()
        self._folding = self._advancing = False
        self._start()

    def _start(self) -> None:
        reference = self.reference
        self._window = Window(reference.counts.shape, self._panes)
        self._alarm = Alarm(reference.counts, reference.real, reference.ordered, panes_per_alarm=self._panes_per_alarm)
        self._effect = DesignEffect(reference.counts, reference.real, reference.ordered)
        self._worth = self._effect.value
        self._e = self._worth * 0.0
        self._flagged = self._e > 1.0
        self._since: list[float | None] = [None] * len(reference.columns)
        self._totals = self.tally.counter.table()
        self._results: tuple[DriftResult, ...] | None = None
        self._estimates: Mapping[str, Estimate] = {}
        estimates = self.performance is not None and self.performance.counts_predictions
        self._beyond = Window((1, self.tally.rows.size), self._panes if estimates else 1)
        self._beyond_before = self.tally.out_of_range.copy()
        self.due = None

    def retire(self) -> None:
        """Say that nothing more will be counted here."""
        self.retired = True

    def start_afresh(self) -> None:
        """Begin again from zero with a lock that nobody holds: in a forked child."""
        self.lock = threading.RLock()
        self._folding = self._advancing = False
        self.tally.clear()
        if self.performance is not None:
            self.performance.start_afresh()
        self._start()

    def fold_if_full(self) -> None:
        """Count what is queued where it is much; wait for another thread's fold only where it is far too much."""
        tally = self.tally
        if not (tally.full or (self.performance is not None and self.performance.full)):
            return
        if self.lock.acquire(blocking=tally.overfull):
            try:
                self._fold()
            finally:
                self.lock.release()

    def _fold(self) -> None:
        if self._folding:  # a signal handler or finaliser of the thread that folds
            return
        self._folding = True
        try:
            table = self.tally.fold()
            if table is not None:
                self._window.add(table)
                self._totals += table
            if self.performance is not None:
                self._beyond.add((self.tally.out_of_range - self._beyond_before)[None])
                self._beyond_before = self.tally.out_of_range.copy()
                self.performance.fold()
        finally:
            self._folding = False

    def totals(self) -> Counts:
        """All counts since the beginning."""
        with self.lock:
            self._fold()
            totals: Counts = self._totals.copy()
            return totals

    def violations(self) -> Counts:
        """Values that break the contract since the beginning: per feature, and per kind as in ``contract.KINDS``."""
        with self.lock:
            self._fold()
            return self.tally.violations(self._totals)

    def book(self) -> Book | None:
        """All counts of predictions and outcomes since the beginning; None where the profile has no outputs."""
        with self.lock:
            self._fold()
            return None if self.performance is None else self.performance.book.copy()

    def advance(self, now: float) -> bool:
        """End the panes that are over at ``now``; true where any was.

        Where that fails, time has moved on all the same, and alarm and design effect begin again: a pane that was half
        taken in would be wrong for as long as they look back.
        """
        with self.lock:
            if self._advancing:  # a signal handler or finaliser of the thread that does
                return False
            if self.due is None:
                self.due = now + self.pane
                return False
            if now < self.due:
                if now < self.due - 2 * self.pane:  # the clock was set back
                    self.due = now + self.pane
                return False
            ended = self.due
            missed = int((now - ended) / self.pane)
            self.due += (missed + 1) * self.pane
            self._advancing = True
            try:
                self._fold()
                self._end_pane(ended)
                if missed:
                    self._window.skip(missed)
                    if self.performance is not None:
                        self.performance.skip(missed)
                        self._beyond.skip(missed)
                if self._window.empty:
                    self._forget_alarm()
                self._results = self._assess(ended - self.pane, self._since)
                self._estimates = self._judge(self._results)
            except BaseException:
                self._results = None
                self._effect.reset()
                self._worth = self._effect.value
                self._forget_alarm()
                raise
            finally:
                self._advancing = False
            return True

    def _end_pane(self, ended: float) -> None:
        counts = self._window.rotate()
        if self.performance is not None:
            self.performance.end_pane()
            self._beyond.rotate()
        if not counts.any():  # nothing came: no evidence of anything, and no chance of a false alarm used up
            return
        self._e = self._alarm.update(counts, self._effect.update(counts))
        self._worth = self._effect.value
        before, self._flagged = self._flagged, self._alarm.flagged(self._e)
        panes = self._alarm.evidence_panes()
        for index in range(len(self._since)):
            if self._flagged[index] and not before[index]:
                began = ended - float(panes[index]) * self.pane
                known = self._since[index]
                self._since[index] = began if known is None else min(began, known)

    def _forget_alarm(self) -> None:
        """Nothing has come for a whole window: what was found before says nothing of what comes next."""
        self._alarm.reset()
        self._e = self._e * 0.0
        self._flagged = self._e > 1.0

    def _assess(self, began: float | None, since: list[float | None]) -> tuple[DriftResult, ...]:
        """One record per column; in ``since``, what is found drifted only now has drifted since ``began``."""
        tolerance = self._tolerance
        if tolerance is None:  # asked each time: a monitor is often made before configure() reads the file
            tolerance = objectives.current().model(self._model).drift_tolerance
        found = assess(self.reference, self._window.total, self._worth, tolerance=tolerance, **self._limits)
        drifted = found.drifted | self._flagged
        for index, known in enumerate(since):
            since[index] = None if not drifted[index] else began if known is None else known
        made = results(
            self.reference,
            found,
            alarm=self._flagged,
            evidence=self._e,
            design_effect=self._worth,
            since=since,
            invalid=self.tally.odd_values,
        )
        return tuple(made)

    def _judge(self, found: Sequence[DriftResult]) -> Mapping[str, Estimate]:
        if self.performance is None or self._judgement is None:
            return {}
        return self._judgement.of(
            self.performance.window(), found, self._beyond.total[0].tolist(), self.performance.book
        )

    def estimates(self) -> Mapping[str, Estimate]:
        """How right the model is, as of the last pane that ended; empty before the first."""
        return self._estimates

    def estimates_now(self, found: Sequence[DriftResult]) -> Mapping[str, Estimate]:
        """The same as of the moment at which :meth:`now` has ``found`` its records."""
        with self.lock:
            return self._estimates if self._advancing else self._judge(found)

    def label_results(self) -> dict[str, int]:
        """What became of the labels that came, by kind."""
        with self.lock:
            self._fold()
            return {} if self.performance is None else dict(self.performance.book.results)

    def results(self) -> tuple[DriftResult, ...] | None:
        """One record per column, as of the last pane that ended; None before the first."""
        return self._results

    def now(self) -> tuple[tuple[DriftResult, ...], int]:
        """One record per column as of this moment, and how many rows are in the window."""
        with self.lock:
            if self._advancing and self._results is not None:
                return self._results, int(self._window.total.sum(axis=1).max())
            self._fold()
            # a copy: to be asked amid a pane changes nothing
            made = self._assess(None if self.due is None else self.due - self.pane, self._since.copy())
            counts = self._window.total
            return made, int(counts.sum(axis=1).max()) if counts.size else 0
