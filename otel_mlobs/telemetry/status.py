"""What a monitor answers when it is asked."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_mlobs.core.evidence import detectable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_mlobs.core.drift import DriftResult, Status
    from otel_mlobs.core.estimates import Estimate
    from otel_mlobs.core.profile import Profile


@dataclass(frozen=True)
class Limits:
    """What a reference is too small to tell, however much traffic comes.

    Attributes:
        rows: of the reference.
        shift: smaller shifts of a mean, in standard deviations, may be the accident of which rows were drawn.
        new_share: so may smaller shares of values that the reference never had.
    """

    rows: int
    shift: float
    new_share: float

    def __str__(self) -> str:
        """One line for people."""
        reference = f"with a reference of {self.rows:,} rows"
        return f"shifts below {self.shift:.2g} σ, new values in less than {self.new_share:.2%} of the rows, {reference}"


def limits_of(profile: Profile, panes_per_alarm: float) -> Limits:
    """What the profile is too small to tell, with an alarm that rare."""
    columns = profile.columns
    rows = min((column.rows for column in columns if column.rows), default=0)
    if not rows:
        return Limits(0, math.inf, 1.0)
    found = detectable(rows, features=len(columns), panes_per_alarm=panes_per_alarm)
    return Limits(rows, found.shift, found.new_share)


@dataclass(frozen=True)
class MonitorStatus:
    """What a monitor knows at one moment.

    Attributes:
        status: ``"drift"`` if anything drifts, ``"insufficient_data"`` if something is undecided or nothing came,
            else ``"ok"``.
        features: feature name → :class:`DriftResult`.
        prediction: the outputs' :class:`DriftResult`: the score, class or value; None where the profile has none.
        outputs: every output by name; probability vectors have ``class``, ``confidence`` and ``entropy``.
        rows: rows in the window.
        window: its length in seconds.
        model: the profile's model.
        version: its version.
        profile_id: its content id.
        unknown: keys that rows had and the profile has not, and how often; at most 100 names.
        refused: rows and batches that did not have the profile's shape; they are in no count.
        omitted_series: series left out because of ``max_series``.
        limits: what the reference is too small to tell, however much traffic comes.
        performance: figure (``roc_auc``, ``precision``, …) → :class:`Estimate`: what is estimated without labels, and
            what was measured with those that came. Empty where the profile has no outputs.
        labels: labels that this process was told, by what became of them: ``joined``, ``unknown``, ``duplicate``, ….
    """

    status: Status
    features: Mapping[str, DriftResult]
    prediction: DriftResult | None
    outputs: Mapping[str, DriftResult] = field(repr=False)
    rows: int
    window: float
    model: str
    version: str | None
    profile_id: str
    unknown: Mapping[str, int]
    refused: int
    omitted_series: int
    limits: Limits = field(repr=False)
    performance: Mapping[str, Estimate] = field(default_factory=dict, repr=False, compare=False)
    labels: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """A table for people: what drifts first, then the rest by how far it moved."""
        name = f"{self.model} {self.version}" if self.version else self.model
        lines = [f"{name} · profile {self.profile_id} · {self.status} · {self.rows:,} rows in {self.window:g} s"]
        out = [one.metric for one in self.performance.values() if one.alert]
        if out:
            lines[0] += f" · out of thresholds: {', '.join(out)}"
        named = [*self.features.items(), *((f"prediction.{name}", one) for name, one in self.outputs.items())]
        named.sort(key=lambda item: (item[1].status != "drift", -_number(item[1].psi)))
        width = max([7, *(len(name) for name, _ in named)])
        lines.append(
            f"{'feature':{width}}  {'status':17}  {'PSI':>7}  {'p':>7}  {'evidence':>8}  {'missing':>7}  since"
        )
        lines += [f"{name:{width}}  {_line(one)}" for name, one in named]
        lines.append(
            "p: how often chance alone differs as much in the window. evidence: how much likelier drift is, of late."
        )
        lines.append("verdict: the window's shift is large, and certainly so. alarm: there is drift, however small.")
        lines += _performance_lines(self.performance)
        if self.labels:
            told = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.labels.items())
            lines.append(f"labels told to this process: {told}")
        if self.unknown:
            lines.append(f"unknown keys: {', '.join(f'{name} ({count:,})' for name, count in self.unknown.items())}")
        if self.refused:
            lines.append(f"refused, in no count: {self.refused:,}")
        lines.append(f"Not to be told from chance: {self.limits}.")
        return "\n".join(lines)


def overall(results: Iterable[DriftResult]) -> Status:
    """Drift where anything drifts, ok where nothing does and nothing is undecided.

    What was never observed, as the outputs where only inputs are, decides nothing.
    """
    statuses = {result.status for result in results if result.n}
    return "drift" if "drift" in statuses else "ok" if statuses == {"ok"} else "insufficient_data"


def _number(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def moment(seconds: float | None) -> str:
    """A time of the monitor's clock, in UTC."""
    if seconds is None:
        return "?"
    try:
        return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, OSError, ValueError):  # a clock of one's own need not count from 1970
        return f"{seconds:g} s"


def _line(one: DriftResult) -> str:
    since = "" if one.since is None else moment(one.since)
    how = "+".join(name for name, said in (("verdict", one.drifted), ("alarm", one.alarm)) if said)
    status = (how or one.status) + (" (missing)" if one.cause == "missing" else "")
    numbers = [_short(one.psi, ".3f"), _short(one.p_value, ".1g"), _evidence(one.evidence), f"{one.missing:.2%}"]
    psi, p_value, evidence, missing = numbers
    return f"{status:17}  {psi:>7}  {p_value:>7}  {evidence:>8}  {missing:>7}  {since}".rstrip()


def _short(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _performance_lines(performance: Mapping[str, Estimate]) -> list[str]:
    known = [one for one in performance.values() if one.labelled or not math.isnan(one.estimated)]
    if not known:
        return []
    first = known[0]
    wide = 23 if first.reliable else 34
    lines = [f"{'performance':17}  {'estimated':{wide}}  {'measured':23}  {'thresholds':15}"]
    for one in known:
        estimated = _interval(one.estimated, one.lower, one.upper)
        if not one.reliable and not math.isnan(one.estimated):
            estimated += " unreliable"
        measured = _interval(one.realized, one.realized_lower, one.realized_upper)
        thresholds = f"{_short(one.threshold_lower, '.3g')} to {_short(one.threshold_upper, '.3g')}"
        thresholds = "none" if math.isnan(one.threshold_lower) else thresholds
        mark = "  out" if one.alert else ""
        lines.append(f"{one.metric:17}  {estimated:{wide}}  {measured:23}  {thresholds:15}{mark}".rstrip())
    share = "-" if math.isnan(first.coverage) else f"{first.coverage:.1%}"
    lines.append(
        f"estimated: without labels, from {first.predictions:,} predictions. measured: on {first.labelled:,} labels"
    )
    lines[-1] += f" by {first.basis.replace('_', ' ')}; coverage {share}."
    lines += [f"not to be relied on: {reason}." for reason in first.reasons]
    return lines


def _interval(value: float, lower: float, upper: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g} ({_short(lower, '.3g')}, {_short(upper, '.3g')})"


def _evidence(logarithm: float) -> str:
    """An e-value as a person reads it, from its decimal logarithm."""
    if not math.isfinite(logarithm):
        return "-"
    return f"10^{logarithm:.0f}" if abs(logarithm) >= 3 else f"{10**logarithm:.2g}"
