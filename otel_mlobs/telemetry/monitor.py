"""``Monitor``: counts what a model is given and answers, and says when it no longer looks like its training data."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs import semconv
from otel_mlobs.core.drift import DriftResult
from otel_mlobs.core.performance import expected_labels, valid_label
from otel_mlobs.core.profile import Profile
from otel_mlobs.settings.checks import number
from otel_mlobs.settings.times import seconds
from otel_mlobs.telemetry import guard, outcome_series, prediction_ids, series
from otel_mlobs.telemetry.claiming import LONGEST_FINISH_S, checked_store
from otel_mlobs.telemetry.counting import Counting
from otel_mlobs.telemetry.drift_on_spans import DriftOnSpans
from otel_mlobs.telemetry.following import Following, checked_amount, checked_label
from otel_mlobs.telemetry.keeper import keeper
from otel_mlobs.telemetry.log_lines import LogLines
from otel_mlobs.telemetry.monitor_arguments import (
    NO_OUTPUTS,
    NO_STORE,
    checked_methods,
    checked_unlabelled,
    positive,
    whole,
)
from otel_mlobs.telemetry.observers import Definitions
from otel_mlobs.telemetry.status import MonitorStatus, limits_of, overall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span

    from otel_mlobs.core.contract import Violation
    from otel_mlobs.core.records import Joined, Unlabelled
    from otel_mlobs.telemetry.claiming import Store
    from otel_mlobs.telemetry.kinds import Attributes, Definition

__all__ = ["DriftResult", "Monitor", "MonitorStatus"]

_WEEK_S = 7 * 24 * 3600.0
_PANES = 60
_MOST_PANES = 10_000


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
        tolerance: the smallest PSI that is worth a verdict; unless given that of the model's objectives, else 0.1.
        significance: how often a PSI of just the tolerance may be called drift.
        false_alarms_per_week: what the always-on alarm promises on average, over all features together.
        min_rows: below so many rows (of independent worth) in the window there is no verdict.
        methods: the distances that are exported as ``mlobs.drift.score``; all are in :meth:`status`.
        max_series: the most series that this model may have; what does not fit is left out and counted.
        outcomes: where predictions wait for their labels, as ``OutcomeStore("redis://…")``. Predictions get ids then.
        maturity: how long labels may take, in seconds or as ``"7d"``: a prediction is counted, once, when it is that
            old. Without, it is counted when its label comes.
        unlabelled: what a prediction counts as that is mature and has no label: ``"missing"`` (it is left out, and
            lowers the coverage), or ``"negative"`` where only positives are ever reported, as of fraud and clicks.
        clock: seconds since the epoch; ``time.time`` unless given.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has an impossible value.
    """

    counts_inputs = True

    def __init__(
        self,
        profile: Profile,
        *,
        window: float = 3600.0,
        pane: float | None = None,
        unit: Literal["row", "request"] = "row",
        tolerance: float | None = None,
        significance: float = 0.05,
        false_alarms_per_week: float = 1.0,
        min_rows: int = 100,
        methods: Sequence[str] = ("psi", "jensen_shannon"),
        max_series: int = 10_000,
        outcomes: Store | None = None,
        maturity: float | str | None = None,
        unlabelled: Unlabelled = "missing",
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(profile, Profile):
            raise TypeError(f"profile must be a Profile, as Profile.load(path) gives one, got {profile!r}")
        if not profile.columns:
            raise ValueError("the profile has neither features nor outputs: there is nothing to monitor")
        self._settings: dict[str, Any] = {
            "window": positive("window", window),
            "pane": pane,
            "unit": unit,
            "tolerance": None if tolerance is None else positive("tolerance", tolerance),
            "significance": number("significance", significance, at_least=1e-9, at_most=0.5),
            "false_alarms_per_week": positive("false_alarms_per_week", false_alarms_per_week),
            "min_rows": whole("min_rows", min_rows, at_least=1),
            "methods": checked_methods(methods),
            "max_series": whole("max_series", max_series, at_least=0),
            "outcomes": outcomes,
            "maturity": None if maturity is None else seconds("maturity", maturity),
            "unlabelled": checked_unlabelled(unlabelled, profile, maturity),
            "clock": clock,
        }
        if unit not in ("row", "request"):
            raise ValueError(f'unit must be "row" or "request", got {unit!r}')
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable that gives seconds, got {clock!r}")
        window = float(window)
        pane = window / _PANES if pane is None else min(positive("pane", pane), window)
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
            matures=maturity is not None,
        )
        self._tally = counting.tally
        self._limits = limits_of(profile, panes_per_alarm)
        self._follow(outcomes, self._settings["maturity"], unlabelled)
        room = self._settings["max_series"] - (self._outcome_series.size if self._outcome_series else 0)
        self._series = series.series_of(profile, counting.reference, self._settings["methods"], max(0, room))
        self._series.add(counting)
        self._retire = weakref.finalize(self, counting.retire)
        self._retire.atexit = False
        self._closed = False
        self._log = LogLines(profile, counting.tally)
        self._definitions = Definitions()
        self._make_quiet()
        _monitors.add(self)

    def _follow(self, outcomes: Store | None, maturity: float | None, unlabelled: Unlabelled) -> None:
        """Count predictions and outcomes where the profile has outputs; with a store, register what is predicted."""
        performance = self._performance = self._counting.performance
        self._following: Following | None = None
        self._outcome_series: outcome_series.OutcomeSeries | None = None
        self.follows = outcomes is not None
        """Whether predictions are registered for a later label."""
        if outcomes is not None:
            if performance is None:
                raise ValueError(NO_OUTPUTS)
            checked_store(outcomes, maturity)
        if performance is None:
            return
        self._outcome_series = outcome_series.add(
            self.profile, self._counting, performance, self._settings["max_series"], registers=self.follows
        )
        if outcomes is not None:
            self._following = Following(
                self.profile,
                performance,
                outcomes,
                maturity=maturity,
                unlabelled=unlabelled,
                clock=self._clock,
                fold=self._counting.fold_if_full,
            )

    def _make_quiet(self) -> None:
        """What spans say before the first pane has ended, and when to look next."""
        self._drift = DriftOnSpans(self.profile)
        self._due = self._back = float("-inf")
        self._kept = False
        self._inline = self._settings["clock"] is not None

    def __repr__(self) -> str:
        profile = self.profile
        return f"Monitor(model={profile.model!r}, version={profile.version!r}, profile={profile.id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.profile, self._settings)

    def observe(
        self, inputs: Any, outputs: Any = None, *, prediction_id: Any = None, variant: str | None = None
    ) -> None:
        """Count one row (mapping, sequence, array, data frame row) or a batch (2-D array, data frame, list of rows).

        ``outputs`` are what the model answered, in any of the shapes :func:`otel_mlobs.prediction` reads. Missing keys
        count as missing, values of a wrong type as invalid; unknown keys are counted and named once in the log. What
        does not have the profile's shape at all is counted as refused and said once. Nothing raises.

        ``prediction_id`` is by what a later label will find the prediction, of a batch one for each row, or one for
        all (rows are then ``<id>.0``, ``<id>.1``, …); ``variant`` is of an A/B test. Both need ``outcomes``.
        """
        try:
            if self._closed:
                return
            self._look_if_due()
            tally = self._tally
            if inputs is not None:
                tally.add_inputs(inputs)
            if outputs is not None:
                encoded = tally.add_outputs(outputs)
                performance = self._performance
                if encoded is not None and performance is not None:
                    if performance.counts_predictions or self.follows:
                        performance.add_predictions(encoded)
                    if self._following is not None:
                        self._following.predicted(encoded, prediction_id, variant)
                    if performance.full:
                        self._counting.fold_if_full()
            if tally.full:
                self._counting.fold_if_full()
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("monitor", error)

    def outcome(
        self,
        label: Any,
        *,
        prediction_id: Any = None,
        score: Any = None,
        value: float | None = None,
        currency: str | None = None,
        time: float | None = None,
    ) -> None:
        """Say what came true of a prediction.

        Args:
            label: the class, 0 or 1, a boolean, or of a regression the number. One that the model cannot answer with
                is counted as invalid, and said once in the log.
            prediction_id: which prediction; it is looked for in ``outcomes``, by any process and at any time. However
                often its label comes, a prediction is counted once: repetitions, contradictions (the first label
                stays), labels that come late and ids that nobody knows are counted by kind.
            score: what the model had answered, where the caller kept it: counted at once, by no store and no id.
            value: what was at stake, not negative, as the amount of a transaction.
            currency: of the value, as ISO 4217 names it.
            time: when the label came, seconds since the epoch; now unless given.

        Raises:
            ValueError: neither or both of ``prediction_id`` and ``score`` are given, there is no store to look in, the
                profile has no outputs, or label or value are missing, negative or not finite.
            TypeError: an argument is of the wrong type.
        """
        if (prediction_id is None) == (score is None):
            raise ValueError("outcome needs the prediction it is of: either prediction_id= or score=")
        performance = self._performance
        if performance is None:
            raise ValueError(NO_OUTPUTS)
        if prediction_id is not None and self._following is None:
            raise ValueError(f"prediction_id= needs a store to look in: {NO_STORE}")
        found = checked_label(label)
        amount, unit = checked_amount(value, currency)
        checked_id = None if prediction_id is None else prediction_ids.checked(prediction_id)
        when = None if time is None else number("time", time, at_least=0.0)
        try:
            if self._closed:
                return
            self._look_if_due()
            if not valid_label(performance, found):
                performance.add_result("invalid")
                self._log.once(
                    f"a label of type {type(label).__name__} is none that it can have, and is counted as invalid: "
                    f"{expected_labels(performance)}"
                )
            elif self._following is not None and checked_id is not None:
                self._following.submit(checked_id, found, amount, unit, when)
            else:
                if self._outcome_series is not None:
                    self._outcome_series.expect_labels()
                performance.add_scored(self._tally.encode(score), found, amount, unit)
            if performance.full:
                self._counting.fold_if_full()
        except Exception as error:  # noqa: BLE001 - whoever learns labels has others to tell
            guard.report("outcomes", error)

    def joined(self, joined: Joined) -> None:
        """Count a label that a job joined itself: ``store.join(labels, told=monitor.joined)``.

        Raises:
            ValueError: the monitor has no store.
        """
        if self._following is None:
            raise ValueError(f"a monitor counts what its store joined: {NO_STORE}")
        self._following.joined(joined)
        if self._performance is not None and self._performance.full:
            self._counting.fold_if_full()

    def describe(self, span: Span, inputs: Any) -> None:
        """Put on ``span`` what is odd about ``inputs``, and the event where it is the first of a new drift status."""
        try:
            drift = self._drift
            if drift.changed:
                drift.say_change(span)
            if inputs is not None:
                odd = self._tally.inspect(inputs)
                for key, count in zip(_ODDITIES, odd, strict=True):
                    if count:
                        span.set_attribute(key, count)
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("monitor", error)

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
            self._drift.forget()
            self._wait_until(counting.due or 0.0)
            raise
        if ended:
            self._log.drift(*self._drift.publish(counting.results() or ()))
            self._log.oddities()
            self._log.performance(counting.estimates())
            if self._following is not None:
                self._following.count_mature(self._clock())
        due = counting.due or 0.0
        self._wait_until(due)
        return due

    def _wait_until(self, due: float) -> None:
        """Look at the clock's answer again at ``due``, or where it is set back; give the keeper's thread time to."""
        pane = self._counting.pane
        if self._inline or self._kept:
            self._due, self._back = (due if self._inline else due + pane), due - 3 * pane

    def status(self) -> MonitorStatus:
        """Everything known at this moment, the running pane included; computed for this call."""
        if not self._closed and self._inline:
            self._look_if_due()
        results, rows = self._counting.now()
        self._log.oddities()
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
            performance=self._counting.estimates_now(results),
            labels=self._counting.label_results(),
        )

    def close(self) -> None:
        """Stop: later observations are ignored, the final counts are still sent. Closing twice changes nothing.

        Labels that wait for a store are given five seconds.
        """
        if self._following is not None and not self._closed:
            self._following.claiming.finish(LONGEST_FINISH_S)
        self._closed = True
        self._retire()

    def start_afresh(self) -> None:
        """Begin again from zero: in a forked child, what was counted is the parent's."""
        self._counting.start_afresh()
        if self._following is not None:
            self._following.claiming.start_afresh()
        self._make_quiet()

    @property
    def drift_attributes(self) -> dict[str, str | float]:
        """What spans carry of drift until the next pane ends; not to be written to."""
        return self._drift.attributes

    def definition(self, key: object, make: Callable[[], Definition]) -> Definition:
        """The definition of an operation with this monitor, made once for each ``key``."""
        return self._definitions.get(key, make)

    def add_drift(self, attributes: Attributes) -> None:
        """Add the last computed drift state to a span's attributes: nothing is computed here."""
        attributes.update(self._drift.attributes)

    def check(self, inputs: Any, *, values: bool = False, limit: int = 1_000) -> tuple[Violation, ...]:
        """What in a row breaks the contract of the profile, for whoever wants to refuse it; empty where nothing does.

        Takes what :meth:`observe` takes and counts nothing; of a batch the first ``limit`` violations, each with its
        row. A value breaks the contract that the reference never had a like of: of another type, out of its range, of a
        category that it does not have, missing where it has none missing. Nothing raises. With ``values`` the messages
        quote what was found.
        """
        return self._tally.contract.check(inputs, values=values, limit=limit)


_ODDITIES = (semconv.INPUT_MISSING, semconv.INPUT_OUT_OF_RANGE, semconv.INPUT_UNSEEN)
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _unpickled(profile: Profile, settings: dict[str, Any]) -> Monitor:
    return Monitor(profile, **settings)


def _after_fork_in_child() -> None:
    global _monitors
    inherited, _monitors = list(_monitors), weakref.WeakSet()
    for monitor in inherited:
        monitor.start_afresh()
        _monitors.add(monitor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
