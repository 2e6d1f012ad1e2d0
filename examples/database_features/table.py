"""What a monitor says, as a table for people: which feature, how far, since when, how sure."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_mlobs import DriftResult, MonitorStatus

HEADINGS = ("", "status", "PSI", "beyond chance", "moved by", "p", "e-value", "since", "missing", "rows", "worth")
"""`worth` is how many rows count as one: neighbours, or rows of one batch, tell less than as many strangers."""


def table(status: MonitorStatus) -> str:
    """One line a feature and one for the prediction, what moved first and farthest first."""
    features = sorted(status.features.values(), key=lambda result: (result.status != "drift", -result.psi_adjusted))
    lines = [HEADINGS, *(line(result.name, result) for result in features)]
    if status.prediction:
        lines.append(line("the prediction", status.prediction))
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def line(name: str, result: DriftResult) -> tuple[str, ...]:
    """The cells of one result."""
    since = "" if result.since is None else day(result.since)
    moved = result.distances.get("wasserstein")
    return (
        name,
        result.status,
        f"{result.psi:.3f}",
        f"{result.psi_adjusted:.3f}",
        "" if moved is None else f"{moved:.3g}",
        "-" if math.isnan(result.p_value) else f"{result.p_value:.1g}" if result.p_value else "<1e-300",
        f"1e{result.evidence:+.0f}",
        since,
        f"{result.missing:.1%}",
        f"{result.n:,}",
        f"{result.design_effect:.1f}",
    )


def day(seconds: float) -> str:
    """A time of the monitor's clock, as a person writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")
