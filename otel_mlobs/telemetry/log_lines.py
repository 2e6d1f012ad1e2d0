"""What a monitor says in the log: each thing once, and what a person needs at three in the morning."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from otel_mlobs.telemetry.status import moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_mlobs.core.drift import DriftResult, Status
    from otel_mlobs.core.estimates import Estimate
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.core.tally import Tally

_logger = logging.getLogger("otel_mlobs")
_drift_logger = logging.getLogger("otel_mlobs.drift")
"""A logger of its own: what a model's traffic does is not our trouble, and may be sent elsewhere or left out."""
_performance_logger = logging.getLogger("otel_mlobs.performance")

_NAMED = 5
_MOST_SAID = 1000
_LOOKS_BACK = 10


class LogLines:
    """The log lines of one monitor."""

    def __init__(self, profile: Profile, tally: Tally) -> None:
        self._name = profile.model
        self._full_name = profile.model if profile.version is None else f"{profile.model} {profile.version}"
        self._tally = tally
        self._said: set[str] = set()
        self._out: dict[str, int] = {}

    def drift(self, begun: Mapping[str, DriftResult], ended: Sequence[tuple[str, Status]]) -> None:
        """Say what drifts only now, and what does no longer."""
        model = self._full_name
        for cause, line in (("values", "model %r drifts: %s"), ("missing", "model %r is given less: %s")):
            lines = [_drift_line(name, result) for name, result in begun.items() if result.cause == cause]
            if lines:
                more = f"; and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
                _drift_logger.warning(line, model, "; ".join(lines[:_NAMED]) + more)
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

    def performance(self, now: Mapping[str, Estimate]) -> None:
        """Say which figures left their thresholds, and which have been back for ten looks: figures at the edge flap."""
        begun = [one for name, one in now.items() if one.alert and name not in self._out]
        if begun:
            lines = "; ".join(_performance_line(one) for one in begun[:_NAMED])
            _performance_logger.warning("model %r is out of its thresholds: %s", self._full_name, lines)
        over = []
        for name, one in now.items():
            if one.alert:
                self._out[name] = 0
            elif name in self._out:
                self._out[name] += 1
                if self._out[name] >= _LOOKS_BACK:
                    del self._out[name]
                    over.append(name)
        if over:
            _performance_logger.warning("model %r: within its thresholds again: %s", self._full_name, _listed(over))

    def oddities(self) -> None:
        """Say which keys the profile does not know, and what was refused; each once."""
        new = [name for name in list(self._tally.rows.unknown) if name not in self._said]
        if new:
            self._said.update(new)
            _logger.warning(
                "model %r: rows have keys that its profile does not know: %s (said once; counted in status().unknown)",
                self._name,
                ", ".join(map(repr, new[:10])),
            )
        if self._tally.refusals:
            self.once(f"not counted: {self._tally.refusals.popleft()}")

    def once(self, line: str) -> None:
        """Say ``line``, unless it was said."""
        if line not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(line)
            _logger.warning("model %r: %s (said once)", self._name, line)


def _drift_line(name: str, result: DriftResult) -> str:
    """What spoke, since when, how sure, how far."""
    who = " and ".join(said for said, true in (("verdict", result.drifted), ("alarm", result.alarm)) if true)
    sure = f", evidence 10^{result.evidence:.0f}" if result.alarm else f", p {result.p_value:.1g}"
    what = f"PSI of the window {result.psi:.3f}"
    if result.cause == "missing":
        what = f"{result.missing:.1%} missing, {result.reference_missing:.1%} in training, the rest as ever"
    return f"{name!r} since {moment(result.since)} ({who}{sure}, {what})"


def _performance_line(one: Estimate) -> str:
    """The figure, whether it was measured or estimated, and what it must not leave."""
    measured = one.measured_alert
    value = one.realized if measured else one.estimated
    how = f"measured on {one.labelled:,} labels" if measured else "estimated, without labels"
    return f"{one.metric} {value:.3g} ({how}; expected {one.threshold_lower:.3g} to {one.threshold_upper:.3g})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
