"""How good a ranked list was, from the places at which something was done with its items."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class SlateMeasures(NamedTuple):
    """Of one ranked list.

    Attributes:
        hit: 1 where there was an event in the first k places, else 0.
        reciprocal_rank: 1 / place of the first item with an event, wherever it is; 0 without any.
        ndcg: normalised discounted cumulative gain of the first k places, 0 to 1; 0 without any event.
    """

    hit: int
    reciprocal_rank: float
    ndcg: float


def slate_measures(places: Sequence[int], gains: Sequence[float] | None, k: int, length: int) -> SlateMeasures:
    """Measures of a list of ``length`` items with events at ``places`` (1 is the first), worth ``gains`` (1 each).

    A place is an item: of several events there the largest gain counts. Gains enter as they are, discounted by
    log2(place + 1), and the ideal list has the largest in front, as in scikit-learn's ``ndcg_score``; a gain of 0 is
    no event. Sums of these over lists, divided by their number, are hit rate, MRR and NDCG@k.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".

    Raises:
        ValueError: k is below 1, a place is not in the list, a gain is negative or not finite, or there are not as
            many gains as places.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    if gains is not None and len(gains) != len(places):
        raise ValueError(f"gains must be one per place, {len(places)}, got {len(gains)}")
    best: dict[int, float] = {}
    for place, gain in zip(places, [1.0] * len(places) if gains is None else gains, strict=True):
        if not 1 <= place <= length:
            raise ValueError(f"places must be from 1 to the list's length, {length}, got {place}")
        if not 0 <= gain < math.inf:
            raise ValueError(f"gains must be finite and not negative, got {gain}")
        if gain:
            best[place] = max(gain, best.get(place, 0.0))
    if not best:
        return SlateMeasures(0, 0.0, 0.0)
    first = min(best)
    found = math.fsum(gain / math.log2(place + 1) for place, gain in best.items() if place <= k)
    ideal = sorted(best.values(), reverse=True)[:k]
    most = math.fsum(gain / math.log2(place + 1) for place, gain in enumerate(ideal, start=1))
    return SlateMeasures(int(first <= k), 1 / first, min(1.0, found / most))
