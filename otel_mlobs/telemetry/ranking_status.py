"""What a ranking monitor answers when it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_mlobs.core.outcomes import Figure
    from otel_mlobs.core.rankings import CatalogueFigures, EventFigures

_PLACES_IN_A_LINE = 10
_MEANINGS = {
    "joined": "",
    "duplicate": "told before",
    "late": "the list was counted before: in no figure",
    "unknown": "no such list",
    "misplaced": "joined to a list that does not hold the item: in no figure",
    "refused": "a list or an item without an id",
}


@dataclass(frozen=True)
class RankingStatus:
    """What a ranking monitor knows at one moment; figures are of this process's window. It prints as a table.

    Attributes:
        model: the model.
        version: its version.
        k: how many places have figures of their own.
        slates: the mature lists in the window.
        events: kind of event → :class:`~otel_mlobs.core.rankings.EventFigures`; ``"any"`` for all together, each with
            its gain.
        catalogue: how widely the lists shown were spread, mature or not
            (:class:`~otel_mlobs.core.rankings.CatalogueFigures`).
        results: what became of the events that this process was told, by kind: ``joined``, ``duplicate``,
            ``late`` (its list was counted before, so it is in no figure), ``unknown`` (no such list), ``misplaced``
            (of those joined: the list, when it was counted here, did not hold the item), and ``refused`` (lists and
            items without an id).
        window: in seconds.
    """

    model: str
    version: str | None
    k: int
    slates: int
    events: Mapping[str, EventFigures]
    catalogue: CatalogueFigures
    results: Mapping[str, int] = field(repr=False)
    window: float

    def __str__(self) -> str:
        """A table for people: each kind of event's figures, by place, the catalogue, and what became of the events."""
        name = f"{self.model} {self.version}" if self.version else self.model
        lines = [f"{name} · {self.slates:,} mature {'list' if self.slates == 1 else 'lists'} in {self.window:g} s"]
        width = max(5, *map(len, self.events))
        lines.append(
            f"{'event':{width}}  {'hit rate':22}  {'reciprocal rank':22}  {f'NDCG@{self.k}':22}  rate per item shown"
        )
        for kind, found in self.events.items():
            figures = (found.hit_rate, found.reciprocal_rank, found.ndcg, found.rate)
            lines.append(f"{kind:{width}}  {'  '.join(f'{_interval(one):22}' for one in figures)}".rstrip())
        if self.slates:
            lines += [f"rate of {kind} by place: {_by_place(found.by_position)}" for kind, found in self.events.items()]
        lines.append(f"shown, mature or not: {self._spread()}")
        lines.append(f"of what this process was told: {self._told()}.")
        return "\n".join(lines)

    def _spread(self) -> str:
        catalogue = self.catalogue
        words = [f"{'' if catalogue.exact else 'about '}{catalogue.items:,} different items"]
        if not math.isnan(catalogue.coverage):
            words.append(f"{catalogue.coverage:.1%} of the catalogue")
        if not math.isnan(catalogue.concentration):
            words.append(f"{catalogue.concentration:.1%} of the places to the tenth that is shown most")
        return f"{', '.join(words)}."

    def _told(self) -> str:
        words = []
        for result, meaning in _MEANINGS.items():
            if result in self.results:
                words.append(f"{self.results[result]:,} {result}" + (f" ({meaning})" if meaning else ""))
        return ", ".join(words) or "nothing yet"


def _interval(figure: Figure) -> str:
    if math.isnan(figure.value):
        return "-"
    if math.isnan(figure.lower):
        return f"{figure.value:.3g}"
    return f"{figure.value:.3g} ({figure.lower:.3g}, {figure.upper:.3g})"


def _by_place(figures: Sequence[Figure]) -> str:
    """The first places and, as ``rest``, all beyond k; left out is where nothing was shown."""
    shown = [(str(place), one) for place, one in enumerate(figures[:-1][:_PLACES_IN_A_LINE], start=1)]
    shown.append(("rest", figures[-1]))
    return ", ".join(f"{place}: {one.value:.3g}" for place, one in shown if not math.isnan(one.value))
