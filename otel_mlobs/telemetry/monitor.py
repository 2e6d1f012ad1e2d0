"""``Monitor``: counts what a model is given and answers, and says when it no longer looks like its training data."""

from __future__ import annotations

import logging
import operator
import os
import time
import weakref
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs import semconv
from otel_mlobs.core.drift import METHODS, DriftResult, Status
from otel_mlobs.core.evidence import detectable
from otel_mlobs.core.profile import Profile
from otel_mlobs.settings.checks import number
from otel_mlobs.telemetry import collected, guard, series
from otel_mlobs.telemetry.counting import Counting
from otel_mlobs.telemetry.keeper import keeper
from otel_mlobs.telemetry.readings import encodable
from otel_mlobs.telemetry.status import Limits, MonitorStatus, moment, overall

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.trace import Span

    from otel_mlobs.telemetry.kinds import Attributes, Definition

__all__ = ["DriftResult", "Monitor", "MonitorStatus"]

_logger = logging.getLogger("otel_mlobs")
_drift_logger = logging.getLogger("otel_mlobs.drift")
"""A logger of its own: what a model's traffic does is not our trouble, and may be sent elsewhere or left out."""

_WEEK_S = 7 * 24 * 3600.0
_PANES = 60
_MOST_PANES = 10_000
_MOST_DEFINITIONS = 256
_NAMED_IN_EVENT = 20
_NAMED_IN_LOG = 5
_INSUFFICIENT: Status = "insufficient_data"


class Monitor:
    """Counts inputs and outputs into a profile's cells, and compares a sliding window of them with the reference.

    Observing costs about a microsecond a row, takes no lock and never raises for what a row holds. Drift is computed
    when a pane ends, in a thread of the library's (or, with a ``clock`` of your own, by whoever comes first after it).

    Args:
        profile: what to compare with.
        window: seconds over which distances are computed.
        pane: seconds between two looks; a 60th of the window unless given. The alarm looks back over up to 256 panes.
        unit: ``"row"``, or ``"request"`` where the rows of one call share features of their request, as the candidates
            of a ranking share their user's: a feature that is the same for all rows of (almost) every batch is then
            counted once a batch.
        tolerance: the smallest PSI that is worth a verdict.
        significance: how often a PSI of just the tolerance may be called drift.
        false_alarms_per_week: what the always-on alarm promises on average, over all features together.
        min_rows: below so many rows (of independent worth) in the window there is no verdict.
        methods: the distances that are exported as ``mlobs.drift.score``; all are in :meth:`status`.
        max_series: the most series that this model may have; what does not fit is left out and counted.
        clock: seconds since the epoch; ``time.time`` unless given.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has an impossible value.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        window: float = 3600.0,
        pane: float | None = None,
        unit: Literal["row", "request"] = "row",
        tolerance: float = 0.1,
        significance: float = 0.05,
        false_alarms_per_week: float = 1.0,
        min_rows: int = 100,
        methods: Sequence[str] = ("psi", "jensen_shannon"),
        max_series: int = 10_000,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(profile, Profile):
            raise TypeError(f"profile must be a Profile, as Profile.load(path) gives one, got {profile!r}")
        if not profile.columns:
            raise ValueError("the profile has neither features nor outputs: there is nothing to monitor")
        self._settings: dict[str, Any] = {
            "window": _positive("window", window),
            "pane": pane,
            "unit": unit,
            "tolerance": _positive("tolerance", tolerance),
            "significance": number("significance", significance, at_least=1e-9, at_most=0.5),
            "false_alarms_per_week": _positive("false_alarms_per_week", false_alarms_per_week),
            "min_rows": _whole("min_rows", min_rows, at_least=1),
            "methods": _checked_methods(methods),
            "max_series": _whole("max_series", max_series, at_least=0),
            "clock": clock,
        }
        if unit not in ("row", "request"):
            raise ValueError(f'unit must be "row" or "request", got {unit!r}')
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable that gives seconds, got {clock!r}")
        window = float(window)
        pane = window / _PANES if pane is None else min(_positive("pane", pane), window)
        if window / pane > _MOST_PANES:
            raise ValueError(f"window must be at most {_MOST_PANES:,} panes, got {window:g} s in panes of {pane:g} s")
        self.profile = profile
        self._clock = time.time if clock is None else clock
        panes_per_alarm = max(1.0, _WEEK_S / pane / false_alarms_per_week)
        self._counting = counting = Counting(
            profile,
            panes=max(1, round(window / pane)),
            pane=pane,
            once_per_request=unit == "request",
            tolerance=tolerance,
            significance=significance,
            panes_per_alarm=panes_per_alarm,
            min_rows=min_rows,
        )
        self._tally = counting.tally
        self._limits = self._told_limits(panes_per_alarm)
        self._series = series.series_of(
            profile, counting.reference, self._settings["methods"], self._settings["max_series"]
        )
        self._series.add(counting)
        self._retire = weakref.finalize(self, counting.retire)
        self._retire.atexit = False
        self._closed = False
        self._named: set[str] = set()
        self._definitions: dict[object, Definition] = {}
        self._make_quiet()
        _monitors.add(self)

    def _make_quiet(self) -> None:
        """What spans say before the first pane has ended, and when to look next."""
        self._forget_drift()
        self._said = self._now
        self._due = self._back = float("-inf")
        self._kept = False
        self._inline = self._settings["clock"] is not None

    def _forget_drift(self) -> None:
        """Nothing is known: before the first pane has ended, and after one that failed."""
        self._now: tuple[Status, tuple[str, ...]] = (_INSUFFICIENT, ())
        self._moved: dict[str, DriftResult] = {}
        self.drift_attributes: dict[str, str | float] = {
            semconv.PROFILE_ID: self.profile.id,
            semconv.DRIFT_STATUS: _INSUFFICIENT,
        }

    def _told_limits(self, panes_per_alarm: float) -> Limits:
        columns = self.profile.columns
        rows = min((column.rows for column in columns if column.rows), default=0)
        if not rows:
            return Limits(0, float("inf"), 1.0)
        found = detectable(rows, features=len(columns), panes_per_alarm=panes_per_alarm)
        return Limits(rows, found.shift, found.new_share)

    def __repr__(self) -> str:
        profile = self.profile
        return f"Monitor(model={profile.model!r}, version={profile.version!r}, profile={profile.id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.profile, self._settings)

    def observe(self, inputs: Any, outputs: Any = None) -> None:
        """Count one row (mapping, sequence, array, data frame row) or a batch (2-D array, data frame, list of rows).

        ``outputs`` are what the model answered, in any of the shapes :func:`otel_mlobs.prediction` reads. Missing keys
        count as missing, values of a wrong type as invalid; unknown keys are counted and named once in the log. What
        does not have the profile's shape at all is counted as refused and said once. Nothing raises.
        """
        try:
            if self._closed:
                return
            self._look_if_due()
            tally = self._tally
            if inputs is not None:
                tally.add_inputs(inputs)
            if outputs is not None:
                tally.add_outputs(outputs)
            if tally.full:
                self._counting.fold_if_full()
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("monitor", error)

    def describe(self, span: Span, inputs: Any) -> None:
        """Put on ``span`` what is odd about ``inputs``, and the event where it is the first of a new drift status."""
        try:
            if self._said != self._now:
                self._say_change(span)
            if inputs is not None:
                odd = self._tally.inspect(inputs)
                for key, count in zip(_ODDITIES, odd, strict=True):
                    if count:
                        span.set_attribute(key, count)
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("monitor", error)

    def _say_change(self, span: Span) -> None:
        before, status = self._said[0], self._now[0]
        quicker, self._said = self._said == self._now, self._now
        if quicker or (before == _INSUFFICIENT and status == "ok"):
            return  # another thread's span was quicker, or the first data are in
        span.set_attributes(self.drift_attributes)  # it may have changed since the span began
        moved = self._moved
        named = list(moved)[:_NAMED_IN_EVENT]
        span.add_event(
            semconv.DRIFT_EVENT,
            {
                semconv.DRIFT_STATUS: status,
                semconv.DRIFT_PREVIOUS_STATUS: before,
                semconv.DRIFT_FEATURES: named,
                semconv.DRIFT_SINCE: [moment(moved[name].since) for name in named],
            },
        )

    def _look_if_due(self) -> None:
        try:
            now = self._clock()
            if now >= self._due or now < self._back:
                self._look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the time, the rows are counted
            guard.report("monitor", error)

    def _look(self) -> None:
        """The clock has passed the end of a pane: see to it here, or let the keeper's thread do it."""
        now = self._clock()
        counting = self._counting
        if not (self._inline or self._kept):
            try:
                self._kept = keeper.keep(self)
            except RuntimeError:  # no thread can be started here: panes end when rows come
                self._inline = True
        if counting.due is None:
            counting.advance(now)
        elif self._inline or not counting.due - 2 * counting.pane <= now < counting.due + counting.pane:
            # a clock of one's own, one that was set back, or the thread is late or cannot run here
            self.tick(now)
        self._wait_until(counting.due or now)

    def tick(self, now: float | None = None) -> float:
        """End what panes are over at ``now``; returns when the next one is. The keeper's thread calls this."""
        counting = self._counting
        try:
            ended = counting.advance(self._clock() if now is None else now)
        except BaseException:
            self._forget_drift()
            self._wait_until(counting.due or 0.0)
            raise
        if ended:
            self._publish(counting.results() or ())
            self._say_oddities()
        due = counting.due or 0.0
        self._wait_until(due)
        return due

    def _wait_until(self, due: float) -> None:
        """Look at the clock's answer again at ``due``, or where it is set back; give the keeper's thread time to."""
        pane = self._counting.pane
        if self._inline or self._kept:
            self._due, self._back = (due if self._inline else due + pane), due - 3 * pane

    def _publish(self, results: Sequence[DriftResult]) -> None:
        """Make the newest results what spans carry from now on."""
        features = len(self.profile.features)
        status = overall(results)
        attributes: dict[str, str | float] = {semconv.PROFILE_ID: self.profile.id, semconv.DRIFT_STATUS: status}
        names = [encodable(one.name if i < features else f"prediction.{one.name}") for i, one in enumerate(results)]
        ranked = sorted(zip(results, names, strict=True), key=_furthest, reverse=True)
        worst, name = ranked[0]
        if worst.status != _INSUFFICIENT and worst.psi == worst.psi:
            attributes[semconv.DRIFT_SCORE] = worst.psi
            attributes[semconv.DRIFT_FEATURE] = name
        self.drift_attributes = attributes
        moved = {each: result for result, each in ranked if result.status == "drift"}
        before, self._moved = self._moved, moved
        self._now = (status, tuple(sorted(moved)))
        self._log_changes(
            {each: result for each, result in moved.items() if each not in before},
            [(each, result.status) for result, each in ranked if each in before and each not in moved],
        )

    def _log_changes(self, begun: Mapping[str, DriftResult], ended: Sequence[tuple[str, Status]]) -> None:
        model = self.profile.model if self.profile.version is None else f"{self.profile.model} {self.profile.version}"
        if begun:
            shown = "; ".join(_drift_line(name, result) for name, result in list(begun.items())[:_NAMED_IN_LOG])
            more = f"; and {len(begun) - _NAMED_IN_LOG} more" if len(begun) > _NAMED_IN_LOG else ""
            _drift_logger.warning("model %r drifts: %s%s", model, shown, more)
        over = [name for name, status in ended if status == "ok"]
        if over:
            _drift_logger.warning("model %r: no longer drifting: %s", model, _listed(over))
        undecided = [name for name, status in ended if status != "ok"]
        if undecided:
            _drift_logger.warning(
                "model %r: whether it still drifts cannot be told, there is too little independent data: %s",
                model,
                _listed(undecided),
            )

    def _say_oddities(self) -> None:
        new = [name for name in list(self._tally.rows.unknown) if name not in self._named]
        if new:
            self._named.update(new)
            _logger.warning(
                "model %r: rows have keys that its profile does not know: %s (said once; counted in status().unknown)",
                self.profile.model,
                ", ".join(map(repr, new[:10])),
            )
        if self._tally.refusals:
            reason = self._tally.refusals.popleft()
            if reason not in self._named and len(self._named) < 1000:
                self._named.add(reason)
                _logger.warning("model %r: not counted: %s (said once)", self.profile.model, reason)

    def status(self) -> MonitorStatus:
        """Everything known at this moment, the running pane included; computed for this call."""
        if not self._closed and self._inline:
            self._look_if_due()
        results, rows = self._counting.now()
        self._say_oddities()
        features = len(self.profile.features)
        outputs = {one.name: one for one in results[features:]}
        return MonitorStatus(
            status=overall(results),
            features={one.name: one for one in results[:features]},
            prediction=results[features] if outputs else None,
            outputs=outputs,
            rows=rows,
            window=self._settings["window"],
            model=self.profile.model,
            version=self.profile.version,
            profile_id=self.profile.id,
            unknown=dict(self._tally.rows.unknown),
            refused=self._tally.refused_rows,
            omitted_series=self._series.omitted,
            limits=self._limits,
        )

    def close(self) -> None:
        """Stop: later observations are ignored, the final counts are still sent. Closing twice changes nothing."""
        self._closed = True
        self._retire()

    def start_afresh(self) -> None:
        """Begin again from zero: in a forked child, what was counted is the parent's."""
        self._counting.start_afresh()
        self._make_quiet()

    def definition(self, key: object, make: Callable[[], Definition]) -> Definition:
        """The definition of an operation with this monitor, made once for each ``key``."""
        found = self._definitions.get(key)
        if found is None:
            if len(self._definitions) >= _MOST_DEFINITIONS:  # attributes that differ with every call are in the key
                self._definitions.clear()
            found = self._definitions.setdefault(key, make())
        return found

    def add_drift(self, attributes: Attributes) -> None:
        """Add the last computed drift state to a span's attributes: nothing is computed here."""
        attributes.update(self.drift_attributes)


_ODDITIES = (semconv.INPUT_MISSING, semconv.INPUT_OUT_OF_RANGE, semconv.INPUT_UNSEEN)
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _unpickled(profile: Profile, settings: dict[str, Any]) -> Monitor:
    return Monitor(profile, **settings)


def _positive(name: str, value: Any) -> float:
    checked = number(name, value, at_least=0.0)
    if checked <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return checked


def _whole(name: str, value: Any, *, at_least: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = at_least - 1
    if isinstance(value, bool) or whole < at_least:
        raise ValueError(f"{name} must be a whole number from {at_least}, got {value!r}")
    return whole


def _checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    known = ("psi_adjusted", *METHODS)
    if not isinstance(methods, (list, tuple)) or not all(method in known for method in methods):
        raise ValueError(f"methods must be a list of some of {', '.join(known)}, got {methods!r}")
    return tuple(dict.fromkeys(methods))


def _drift_line(name: str, result: DriftResult) -> str:
    """What a person needs at 3 a.m.: what spoke, since when, how sure, how far."""
    who = " and ".join(said for said, true in (("verdict", result.drifted), ("alarm", result.alarm)) if true)
    sure = f", evidence 10^{result.evidence:.0f}" if result.alarm else f", p {result.p_value:.1g}"
    return f"{name!r} since {moment(result.since)} ({who}{sure}, PSI of the window {result.psi:.3f})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED_IN_LOG]))
    return f"{shown} and {len(names) - _NAMED_IN_LOG} more" if len(names) > _NAMED_IN_LOG else shown


def _furthest(ranked: tuple[DriftResult, str]) -> tuple[bool, bool, float, float]:
    result = ranked[0]
    adjusted = result.psi_adjusted if result.psi_adjusted == result.psi_adjusted else -1.0
    return result.status == "drift", result.status == "ok", adjusted, result.evidence


def _after_fork_in_child() -> None:
    global _monitors
    inherited, _monitors = list(_monitors), weakref.WeakSet()
    collected.after_fork_in_child()
    series.after_fork_in_child()
    keeper.after_fork_in_child()
    for monitor in inherited:
        monitor.start_afresh()
        _monitors.add(monitor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
