"""What waits for the stores of this process, and what they lost: two metrics, by kind of store."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

from otel_mlobs import semconv
from otel_mlobs.telemetry import collected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Labels = dict[str, str]

_REASONS = {"memory": ("evicted", "repeated"), "redis": ("overflow", "refused", "repeated")}
_REASONS["sql"] = _REASONS["redis"]


class Kept(Protocol):
    """A store, as far as its metrics go."""

    @property
    def kind(self) -> str:
        """``memory``, ``redis`` or ``sql``."""

    @property
    def pending(self) -> int:
        """How many predictions and labels wait."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """What was lost, by reason."""


class StoreSeries(collected.Group):
    """All stores of the process, collected as one; a :class:`~otel_mlobs.telemetry.collected.Group`."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: tuple[weakref.ref[Kept], ...] = ()
        self._ended: deque[tuple[str, Mapping[str, int]]] = deque()
        """What stores lost that are gone; a finaliser may append to it, and wait for nothing."""

    def add(self, store: Kept, dropped: Mapping[str, int]) -> None:
        """Collect ``store``; ``dropped`` is the mapping that it counts in, and outlives it."""
        self._stores = (*(ref for ref in self._stores if ref() is not None), weakref.ref(store))
        gone = weakref.finalize(store, self._ended.append, (store.kind, dropped))
        gone.atexit = False
        collected.join(self, "stores")

    def start_afresh(self) -> None:
        """In a forked child what the parent's stores lost is the parent's to send."""
        self._ended.clear()  # in place: finalisers of the stores hold it

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, Labels]]:
        """The values and labels of ``metric``; with ``zero`` a counter's series at 0."""
        stores = [store for ref in self._stores if (store := ref()) is not None]
        kinds = sorted({store.kind for store in stores} | {kind for kind, _ in list(self._ended)})
        if metric is semconv.STORE_PENDING:
            for kind in kinds:
                waiting = sum(store.pending for store in stores if store.kind == kind)
                yield waiting, {semconv.STORE_KIND: kind}
            return
        lost: Counter[tuple[str, str]] = Counter()
        for kind, dropped in (*list(self._ended), *((store.kind, store.dropped) for store in stores)):
            for reason, count in dropped.items():
                lost[kind, reason] += count
        for kind in kinds:
            for reason in _REASONS[kind]:
                labels = {semconv.STORE_KIND: kind, semconv.STORE_REASON: reason}
                yield 0 if zero else lost[kind, reason], labels


series = StoreSeries()
