"""What a monitor answers when it is asked."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_mlobs.core.drift import DriftResult, Status


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
        return (
            f"shifts below {self.shift:.2g} σ and new values below {self.new_share:.2g} (reference {self.rows:,} rows)"
        )


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

    def __str__(self) -> str:
        """A table for people: what drifts first, then the rest by how far it moved."""
        name = f"{self.model} {self.version}" if self.version else self.model
        lines = [f"{name} · profile {self.profile_id} · {self.status} · {self.rows:,} rows in {self.window:g} s"]
        named = [*self.features.items(), *((f"prediction.{name}", one) for name, one in self.outputs.items())]
        named.sort(key=lambda item: (item[1].status != "drift", -_number(item[1].psi_adjusted)))
        width = max([7, *(len(name) for name, _ in named)])
        lines.append(f"{'feature':{width}}  {'status':17}  {'PSI':>7}  {'p':>8}  {'log10 e':>8}  {'missing':>7}  since")
        lines += [f"{name:{width}}  {_line(one)}" for name, one in named]
        if self.unknown:
            lines.append(f"unknown keys: {', '.join(f'{name} ({count:,})' for name, count in self.unknown.items())}")
        if self.refused:
            lines.append(f"refused, in no count: {self.refused:,}")
        lines.append(f"cannot be told from sampling: {self.limits}")
        return "\n".join(lines)


def overall(results: Iterable[DriftResult]) -> Status:
    """Drift where anything drifts, ok where nothing does and nothing is undecided.

    What was never observed, as the outputs where only inputs are, decides nothing.
    """
    statuses = {result.status for result in results if result.n}
    return "drift" if "drift" in statuses else "ok" if statuses == {"ok"} else "insufficient_data"


def _number(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _moment(seconds: float) -> str:
    try:
        return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, OSError, ValueError):  # a clock of one's own need not count from 1970
        return f"{seconds:g} s"


def _line(one: DriftResult) -> str:
    since = "" if one.since is None else _moment(one.since)
    how = "+".join(name for name, said in (("verdict", one.drifted), ("alarm", one.alarm)) if said)
    status = how or one.status
    return f"{status:17}  {one.psi:7.4f}  {one.p_value:8.2g}  {one.evidence:8.1f}  {one.missing:7.2%}  {since}".rstrip()
