"""Predictions that wait in this process: bounded, without a thread, and without waiting for a lock."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from contextlib import contextmanager
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING

from otel_mlobs.core.records import Joined, Prediction, Record
from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_mlobs.core.records import Label

    Entry = tuple[str, str, float, bytes, float | None, str | None]
    Kept = tuple[Label, bool]

_AGES = 10_000
"""In how many steps of its time-to-live a record's age is known: a mark a record would be a fifth more memory."""
_SMALL = 1000
_QUEUED = 32
"""How many predictions wait until one of them sees to all: together they cost half as much."""


class _Due:
    """The predictions of one stream by when they are mature, nearly all of them in the order in which they came."""

    def __init__(self) -> None:
        self.ordered: deque[Entry] = deque()
        self.others: list[tuple[float, int, Entry]] = []
        self._last = float("-inf")
        self._number = count()

    def add(self, due: float, entry: Entry) -> bool:
        """Whether it is mature before one that came earlier."""
        if due >= self._last:
            self._last = due
            self.ordered.append(entry)
            return False
        heapq.heappush(self.others, (due, next(self._number), entry))
        return True

    def pop(self, now: float) -> Entry | None:
        """The one that has been mature for longest, or None where none is."""
        first = self.ordered[0][4] if self.ordered else None
        if self.others and (first is None or self.others[0][0] < first):
            return heapq.heappop(self.others)[2] if self.others[0][0] <= now else None
        return self.ordered.popleft() if first is not None and first <= now else None

    def keep(self, alive: Callable[[Entry], bool]) -> None:
        """Let go of what is not ``alive`` among those out of order, which nobody comes upon."""
        self.others = [one for one in self.others if alive(one[2])]
        heapq.heapify(self.others)


class Memory:
    """A dictionary of predictions, at most ``capacity`` of them, each for ``ttl`` seconds.

    What comes is queued, and whoever gets the lock works the queue off: a call that finds the lock taken, in another
    thread or by the very code that a signal handler or finaliser interrupts, leaves its item to the holder. Whoever
    asks for anything works it off first.
    """

    kind = "memory"

    def __init__(self, capacity: int, ttl: float, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._ttl = ttl
        self._clock = clock
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget everything: in a forked child, what waits is the parent's."""
        self._lock = threading.RLock()
        self._working = False
        self._queue: deque[tuple[float, Prediction | Label, Callable[[Joined], None] | None]] = deque()
        self._entries: dict[str, Entry] = {}
        self._order: deque[Entry] = deque()
        self._labels: dict[str, tuple[Kept, ...]] = {}
        self._claimed: set[str] = set()
        self._due: dict[str, _Due] = {}
        self._ages: deque[list[float]] = deque()
        """Of every step in time: when it ended, and how many came in it."""
        self._dropped: dict[str, int] = {}

    @property
    def dropped(self) -> dict[str, int]:
        """What memory had no room for, by reason."""
        with self._settled():
            return self._dropped

    @property
    def pending(self) -> int:
        """Nothing waits to be written."""
        return 0

    def register(self, prediction: Prediction) -> None:
        """Keep a prediction."""
        queue = self._queue
        queue.append((self._clock(), prediction, None))
        if len(queue) >= _QUEUED:
            self._work()

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several."""
        now = self._clock()
        self._queue.extend((now, prediction, None) for prediction in predictions)
        self._work()

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join a label and tell ``done``, now unless another thread is at it."""
        self._queue.append((self._clock(), label, done))
        self._work()

    def _work(self) -> None:
        """Work the queue off, unless somebody is at it: they look again after they let go of the lock."""
        while self._queue and self._lock.acquire(blocking=False):
            told: list[tuple[Callable[[Joined], None], Joined]] = []
            try:
                if self._working:  # a signal handler or finaliser within this very method
                    return
                self._working = True
                try:
                    self._drain(told)
                finally:
                    self._working = False
            finally:
                self._lock.release()
            _tell(told)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Hold the lock, with nothing queued and nothing expired; what comes meanwhile is worked off afterwards."""
        told: list[tuple[Callable[[Joined], None], Joined]] = []
        with self._lock:
            inner, self._working = self._working, True
            try:
                if not inner:
                    self._drain(told)
                yield
            finally:
                self._working = inner
        _tell(told)
        self._work()

    def _drain(self, told: list[tuple[Callable[[Joined], None], Joined]]) -> None:
        """Work the queue off; whom to tell what, once the lock is let go, is added to ``told``."""
        queue, entries, order, ages = self._queue, self._entries, self._order, self._ages
        capacity, step = self._capacity, self._ttl / _AGES
        mark = ages[-1] if ages else None
        while queue:
            now, item, done = queue.popleft()
            if not isinstance(item, Prediction):
                self._expire(now)
                mark = ages[-1] if ages else None
                if done is not None:
                    told.append((done, self._join(item)))
                continue
            entry = item[:]  # the collector looks no more at a plain tuple of plain values
            if entries.setdefault(entry[0], entry) is not entry:
                if entries[entry[0]] != entry:
                    self._drop("repeated")
                continue
            order.append(entry)
            if mark is not None and 0 <= now - mark[0] < step:
                mark[1] += 1
            else:
                mark = [now, 1]
                ages.append(mark)
            due = entry[4]
            if due is not None:
                waiting = self._due.get(entry[1])
                if waiting is None:
                    waiting = self._due[entry[1]] = _Due()
                if waiting.add(due, entry) and len(waiting.others) > 2 * max(_SMALL, len(entries)):
                    waiting.keep(self._is_alive)
            while len(order) > capacity:
                if self._remove_oldest():
                    self._drop("evicted")
        self._expire(self._clock())

    def _drop(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def _remove_oldest(self) -> bool:
        """Whether it was still there."""
        entry = self._order.popleft()
        ages = self._ages
        ages[0][1] -= 1
        if ages[0][1] <= 0:
            ages.popleft()
        if self._entries.get(entry[0]) is not entry:
            return False
        self._remove(entry[0])
        return True

    def _is_alive(self, entry: Entry) -> bool:
        return self._entries.get(entry[0]) is entry

    def _remove(self, prediction_id: str) -> None:
        entry = self._entries.pop(prediction_id)
        if self._labels:
            self._labels.pop(prediction_id, None)
        if self._claimed:
            self._claimed.discard(prediction_id)
        waiting = self._due.get(entry[1])
        if waiting is not None:
            ordered = waiting.ordered
            while ordered and self._entries.get(ordered[0][0]) is not ordered[0]:
                ordered.popleft()
            if not ordered and not waiting.others:
                del self._due[entry[1]]

    def _expire(self, now: float) -> None:
        ages = self._ages
        while ages and ages[0][0] + self._ttl <= now:
            self._remove_oldest()

    def _join(self, label: Label) -> Joined:
        entry = self._entries.get(label.prediction_id)
        if entry is None:
            return Joined(label, "unknown", None)
        prediction = Prediction(*entry)
        kept = self._labels.get(prediction.id, ())
        for first, late in kept:
            if first.key == label.key:
                if first.token == label.token:
                    return Joined(label, "late" if late else "joined", prediction)
                return Joined(label, "duplicate" if first.value == label.value else "conflict", prediction)
        late = prediction.id in self._claimed
        self._labels[prediction.id] = (*kept, (label, late))
        return Joined(label, "late" if late else "joined", prediction)

    def join(self, labels: Sequence[Label], timeout: float = 0.0) -> Sequence[Joined]:  # noqa: ARG002 - others need it
        """Join several labels; what became of each, in their order."""
        with self._settled():
            return [self._join(label) for label in labels]

    def claim(self, stream: str, now: float, limit: int) -> list[Record]:
        """What is mature at ``now`` and was not given out, at most ``limit`` records."""
        found: list[Record] = []
        with self._settled():
            waiting = self._due.get(stream)
            while waiting is not None and len(found) < limit:
                entry = waiting.pop(now)
                if entry is None:
                    break
                if self._is_alive(entry):
                    self._claimed.add(entry[0])
                    found.append(self._record(entry))
        return found

    def _record(self, entry: Entry) -> Record:
        labels = [label for label, _ in self._labels.get(entry[0], ())]
        labels.sort(key=lambda label: (label.time or 0.0, label.key))
        return Record(Prediction(*entry), tuple(labels))

    def records(self, stream: str, start: float, end: float) -> Iterator[Record]:
        """All of ``stream`` that were made from ``start`` until before ``end``, by time."""
        with self._settled():
            entries = list(self._entries.values())
        wanted = [entry for entry in entries if entry[1] == stream and start <= entry[2] < end]
        wanted.sort(key=itemgetter(2))
        for entry in wanted:
            if self._is_alive(entry):
                yield self._record(entry)

    def streams(self) -> list[str]:
        """The streams that have records."""
        with self._settled():
            entries = list(self._entries.values())
        return sorted({entry[1] for entry in entries})

    def forget(self, prediction_id: str) -> bool:
        """Remove a prediction and its labels; whether it was there."""
        with self._settled():
            there = prediction_id in self._entries
            if there:
                self._remove(prediction_id)
        return there

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the others need time
        """Work off what is queued."""
        with self._settled():
            return True

    def finish(self, timeout: float) -> bool:
        """There is nothing to let go of."""
        return self.flush(timeout)

    def retire(self) -> None:
        """There is no thread to end."""


def _tell(told: Iterable[tuple[Callable[[Joined], None], Joined]]) -> None:
    for done, joined in told:
        try:
            done(joined)
        except Exception as error:  # noqa: BLE001 - one label's trouble is not the others'
            guard.report("outcomes", error)
