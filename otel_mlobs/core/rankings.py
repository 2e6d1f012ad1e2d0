"""What ranked lists led to, and how much of the catalogue they showed: sums that add up, over a window of time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from otel_mlobs.core.outcomes import UNKNOWN, Figure, wilson
from otel_mlobs.core.slates import slate_measures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ANY = "any"
"""The kind under which all events count together, each with its gain."""

_PANES = 12
_Z = 1.959963984540054
_MEASURES = 5
"""Hits, reciprocal ranks, their squares, NDCG, its squares."""
_EXACT = 100_000
_BUCKETS = 1 << 18


@dataclass(frozen=True)
class EventFigures:
    """What one kind of event says of the ranked lists of a window, each figure with its 95% interval.

    Lists are taken as independent: where one person sees many of them, the truth is less certain than it says here.

    Attributes:
        hit_rate: share of the lists with an event in the first k places (Wilson's interval).
        reciprocal_rank: mean of 1 / place of the first event, 0 without any (normal interval).
        ndcg: mean NDCG of the first k places, 0 without any event (normal interval).
        rate: share of the shown items that had the event; of clicks the click-through rate (Wilson's).
        by_position: the same for every of the first k places, and for all beyond together.
    """

    hit_rate: Figure
    reciprocal_rank: Figure
    ndcg: Figure
    rate: Figure
    by_position: tuple[Figure, ...]


class Panes:
    """Sums since the beginning, and over a sliding window that moves in twelfths."""

    def __init__(self, size: int, window: float) -> None:
        self._pane = window / _PANES
        self._ended = np.zeros((_PANES, size))
        self._number: int | None = None
        self.total = np.zeros(size)

    def _advance(self, now: float) -> int:
        """The running pane at ``now``; those that are out of the window are emptied."""
        number = int(now / self._pane)
        passed = _PANES if self._number is None else number - self._number
        if -_PANES < passed <= 0:  # a thread that read the clock a little earlier counts as now
            return number - passed
        if passed >= _PANES or passed < 0:  # the first, a long silence, or a clock that was set back
            self._ended[...] = 0
        else:
            for step in range(1, passed + 1):
                self._ended[(number - passed + step) % _PANES] = 0
        self._number = number
        return number

    def add(self, now: float, amounts: Floats) -> None:
        """Add to the running pane."""
        self._ended[self._advance(now) % _PANES] += amounts
        self.total += amounts

    def window(self, now: float) -> Floats:
        """The sums over the window that ends at ``now``."""
        self._advance(now)
        found: Floats = self._ended.sum(axis=0)
        return found


class SlateSums:
    """Sums over mature lists: how many, what was shown at each place, and what events of each kind they led to."""

    def __init__(self, events: Sequence[str], gains: Mapping[str, float], k: int, window: float) -> None:
        self.k = k
        self.kinds = (*events, ANY)
        self._gains = dict(gains)
        self._first = 1 + k + 1
        self._per_kind = _MEASURES + k + 1
        self._panes = Panes(self._first + len(self.kinds) * self._per_kind, window)

    def add(self, now: float, length: int, places: Mapping[str, Sequence[int]]) -> None:
        """Add a list of ``length`` items with events of each kind at ``places`` (1 is the first), a place once each."""
        k = self.k
        found = np.zeros(len(self._panes.total))
        found[0] = 1
        found[1 : 1 + min(length, k)] = 1
        found[1 + k] = max(0, length - k)
        pairs = [(place, self._gains[kind]) for kind, its in places.items() for place in its]
        for number, kind in enumerate(self.kinds):
            gains: Sequence[float] | None = None
            its = places.get(kind, ())
            if kind == ANY:
                its, gains = [place for place, _ in pairs], [gain for _, gain in pairs]
            if not its:
                continue
            start = self._first + number * self._per_kind
            hit, reciprocal_rank, ndcg = slate_measures(its, gains, k, length)
            found[start : start + _MEASURES] = hit, reciprocal_rank, reciprocal_rank**2, ndcg, ndcg**2
            for place in {*its}:
                found[start + _MEASURES + min(place - 1, k)] += 1
        self._panes.add(now, found)

    def totals(self) -> SlateTotals:
        """All since the beginning."""
        return self._read(self._panes.total)

    def _read(self, sums: Floats) -> SlateTotals:
        by_kind = sums[self._first :].reshape(len(self.kinds), self._per_kind)
        return SlateTotals(
            int(sums[0]),
            [int(shown) for shown in sums[1 : self._first]],
            {
                kind: KindTotals(int(row[0]), float(row[1]), float(row[3]), [int(one) for one in row[_MEASURES:]])
                for kind, row in zip(self.kinds, by_kind, strict=True)
            },
        )

    def figures(self, now: float) -> tuple[int, dict[str, EventFigures]]:
        """How many lists are in the window, and the figures of each kind of event."""
        sums = self._panes.window(now)
        lists, shown = float(sums[0]), sums[1 : self._first]
        figures = {}
        for number, kind in enumerate(self.kinds):
            row = sums[self._first + number * self._per_kind :][: self._per_kind]
            acted = row[_MEASURES:]
            figures[kind] = EventFigures(
                hit_rate=_share(row[0], lists),
                reciprocal_rank=_mean(row[1], row[2], lists),
                ndcg=_mean(row[3], row[4], lists),
                rate=_share(acted.sum(), shown.sum()),
                by_position=tuple(_share(one, of) for one, of in zip(acted, shown, strict=True)),
            )
        return int(lists), figures


@dataclass(frozen=True)
class KindTotals:
    """Sums of one kind of event: lists with one in the first k places, two measures, and events by place."""

    hits: int
    reciprocal_rank: float
    ndcg: float
    by_position: list[int]


@dataclass(frozen=True)
class SlateTotals:
    """Sums since the beginning: lists, items shown at each place, and those of every kind of event."""

    slates: int
    shown: list[int]
    kinds: dict[str, KindTotals]


def _share(successes: float, trials: float) -> Figure:
    if not trials:
        return UNKNOWN
    lower, upper = wilson(successes, trials)
    return Figure(float(successes / trials), float(lower), float(upper))


def _mean(total: float, squares: float, number: float) -> Figure:
    """A mean of values from 0 to 1, and its normal interval."""
    if not number:
        return UNKNOWN
    mean = float(total / number)
    if number < 2:
        return Figure(mean, math.nan, math.nan)
    variance = max(0.0, float(squares) - number * mean**2) / (number - 1)
    error = _Z * math.sqrt(variance / number)
    return Figure(mean, max(0.0, mean - error), min(1.0, mean + error))


@dataclass(frozen=True)
class CatalogueFigures:
    """How widely a window's lists were spread.

    Attributes:
        items: how many different items were shown.
        coverage: that as a share of the catalogue; NaN where its size is not known.
        concentration: share of all places that went to the tenth of the shown items that was shown most; NaN for none.
        exact: whether items were told apart by their names; else they are estimated from 262,144 buckets.
    """

    items: int
    coverage: float
    concentration: float
    exact: bool


class Catalogue:
    """Which items were shown, over a sliding window that moves in twelfths.

    Items are counted by name while the window has up to 100,000 of them (a pane's count each). From then on they are
    counted in 262,144 buckets: linear counting, whose standard error is below 1% up to a million different items; items
    that share a bucket are taken as one in the concentration. Memory: some 15 MB at most by name, 14 MB in buckets.

    Source: Whang et al. 1990, "A linear-time probabilistic counting algorithm for database applications".
    """

    def __init__(self, size: int | None, window: float) -> None:
        self._size = size
        self._pane = window / _PANES
        self._number: int | None = None
        self._by_name: dict[int, Counter[str]] = {}
        self._buckets: dict[int, NDArray[np.uint32]] | None = None

    def add(self, now: float, items: Sequence[str]) -> None:
        """Count the items of one list."""
        number = self._advance(now)
        if self._buckets is None:
            self._by_name.setdefault(number, Counter()).update(items)
            if sum(map(len, self._by_name.values())) > _EXACT:
                self._buckets = {each: _hashed(counts) for each, counts in self._by_name.items()}
                self._by_name = {}
        else:
            buckets = self._buckets.get(number)
            if buckets is None:
                buckets = self._buckets[number] = np.zeros(_BUCKETS, np.uint32)
            np.add.at(buckets, [hash(item) % _BUCKETS for item in items], 1)

    def _advance(self, now: float) -> int:
        """The running pane at ``now``, as :class:`Panes` has it; what is out of the window is forgotten."""
        number = int(now / self._pane)
        if self._number is not None and -_PANES < number - self._number <= 0:
            return self._number
        self._number = number
        for panes in (self._by_name, self._buckets or {}):
            for old in [each for each in panes if not number - _PANES < each <= number]:
                del panes[old]
        return number

    def figures(self, now: float) -> CatalogueFigures:
        """What the window that ends at ``now`` shows."""
        self._advance(now)
        if self._buckets is None:
            total: Counter[str] = Counter()
            for counts in self._by_name.values():
                total.update(counts)
            shown = np.fromiter(total.values(), np.int64, len(total))
            items = len(total)
        else:
            table = np.zeros(_BUCKETS, np.int64)
            for buckets in self._buckets.values():
                table += buckets
            shown = table[table > 0]
            # At least one bucket is taken as empty, so that the estimate stays finite
            items = round(_BUCKETS * math.log(_BUCKETS / max(1, _BUCKETS - len(shown))))
        top = np.sort(shown)[::-1][: max(1, math.ceil(items / 10))]
        return CatalogueFigures(
            items,
            math.nan if self._size is None else min(1.0, items / self._size),
            float(top.sum() / shown.sum()) if len(shown) else math.nan,
            self._buckets is None,
        )


def _hashed(counts: Counter[str]) -> NDArray[np.uint32]:
    buckets = np.zeros(_BUCKETS, np.uint32)
    np.add.at(buckets, [hash(item) % _BUCKETS for item in counts], np.fromiter(counts.values(), np.uint32, len(counts)))
    return buckets
