"""What spans say of drift: the state as last computed, and once when it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.telemetry.readings import encodable
from otel_mlobs.telemetry.status import moment, overall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span

    from otel_mlobs.core.drift import DriftResult, Status
    from otel_mlobs.core.profile import Profile

_NAMED_IN_EVENT = 20
_INSUFFICIENT: Status = "insufficient_data"


class DriftOnSpans:
    """The drift state of one monitor, ready to be put on spans: nothing is computed there."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.forget()
        self._said = self._now

    @property
    def changed(self) -> bool:
        """Whether no span has said the newest state yet."""
        return self._said != self._now

    def forget(self) -> None:
        """Nothing is known: before the first pane has ended, and after one that failed."""
        self._now: tuple[Status, tuple[str, ...]] = (_INSUFFICIENT, ())
        self._moved: dict[str, DriftResult] = {}
        self.attributes: dict[str, str | float] = {
            semconv.PROFILE_ID: self._profile.id,
            semconv.DRIFT_STATUS: _INSUFFICIENT,
        }

    def say_change(self, span: Span) -> None:
        """Put the event on ``span``, where it is the first of the new state."""
        before, status = self._said[0], self._now[0]
        quicker, self._said = self._said == self._now, self._now
        if quicker or (before == _INSUFFICIENT and status == "ok"):
            return  # another thread's span was quicker, or the first data are in
        span.set_attributes(self.attributes)  # it may have changed since the span began
        moved = self._moved
        named = list(moved)[:_NAMED_IN_EVENT]
        span.add_event(
            semconv.DRIFT_EVENT,
            {
                semconv.DRIFT_STATUS: status,
                semconv.DRIFT_PREVIOUS_STATUS: before,
                semconv.DRIFT_FEATURES: named,
                semconv.DRIFT_SINCE: [moment(moved[name].since) for name in named],
                semconv.DRIFT_CAUSES: [moved[name].cause or "" for name in named],
            },
        )

    def publish(self, results: Sequence[DriftResult]) -> tuple[dict[str, DriftResult], list[tuple[str, Status]]]:
        """Make the newest results what spans carry from now on; returns what drifts only now, and what does no more."""
        features = len(self._profile.features)
        status = overall(results)
        attributes: dict[str, str | float] = {semconv.PROFILE_ID: self._profile.id, semconv.DRIFT_STATUS: status}
        names = [encodable(one.name if i < features else f"prediction.{one.name}") for i, one in enumerate(results)]
        ranked = sorted(zip(results, names, strict=True), key=_furthest, reverse=True)
        worst, name = ranked[0]
        if worst.status != _INSUFFICIENT and worst.psi == worst.psi:
            attributes[semconv.DRIFT_SCORE] = worst.psi
            attributes[semconv.DRIFT_FEATURE] = name
        self.attributes = attributes
        moved = {each: result for result, each in ranked if result.status == "drift"}
        before, self._moved = self._moved, moved
        self._now = (status, tuple(sorted(moved)))
        return (
            {each: result for each, result in moved.items() if each not in before},
            [(each, result.status) for result, each in ranked if each in before and each not in moved],
        )


def _furthest(ranked: tuple[DriftResult, str]) -> tuple[bool, bool, float, float]:
    result = ranked[0]
    adjusted = result.psi_adjusted if result.psi_adjusted == result.psi_adjusted else -1.0
    return result.status == "drift", result.status == "ok", adjusted, result.evidence
