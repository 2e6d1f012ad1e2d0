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


class _Due:
    """The predictions of one stream by when they are mature, nearly all of them in the order in which they came."""

    def __init__(self) -> None:
        self.ordered: deque[Entry] = deque()
        self.others: list[tuple[float, int, Entry]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self.ordered) + len(self.others)

    def add(self, due: float, entry: Entry) -> None:
        last = self.ordered[-1][4] if self.ordered else None
        if last is None or due >= last:
            self.ordered.append(entry)
        else:
            heapq.heappush(self.others, (due, next(self._number), entry))

    def pop(self, now: float) -> Entry | None:
        """The one that has been mature for longest, or None where none is."""
        first = self.ordered[0][4] if self.ordered else None
        if self.others and (first is None or self.others[0][0] < first):
            return heapq.heappop(self.others)[2] if self.others[0][0] <= now else None
        return self.ordered.popleft() if first is not None and first <= now else None

    def keep(self, alive: Callable[[Entry], bool]) -> None:
        self.ordered = deque(entry for entry in self.ordered if alive(entry))
        self.others = [one for one in self.others if alive(one[2])]
        heapq.heapify(self.others)


class Memory:
    """A dictionary of predictions, at most ``capacity`` of them, each for ``ttl`` seconds.

    What comes is queued, and whoever gets the lock works the queue off: a call that finds the lock taken, in another
    thread or by the very code that a signal handler or finaliser interrupts, leaves its item to the holder.
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
        self._queue: deque[Prediction | tuple[Label, Callable[[Joined], None]]] = deque()
        self._entries: dict[str, Entry] = {}
        self._order: deque[Entry] = deque()
        self._labels: dict[str, tuple[Kept, ...]] = {}
        self._claimed: set[str] = set()
        self._due: dict[str, _Due] = {}
        self._ages: deque[list[float]] = deque()
        """Of every step in time: when it ended, and how many came in it."""
        self.dropped: dict[str, int] = {}

    @property
    def pending(self) -> int:
        """Nothing waits to be written."""
        return len(self._queue)

    def register(self, prediction: Prediction) -> None:
        """Keep a prediction."""
        self._queue.append(prediction)
        self._work()

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several."""
        self._queue.extend(predictions)
        self._work()

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join a label and tell ``done``, now unless another thread is at it."""
        self._queue.append((label, done))
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
        queue = self._queue
        now = self._clock()
        self._expire(now)
        while queue:
            item = queue.popleft()
            if isinstance(item, Prediction):
                self._add(item, now)
            else:
                label, done = item
                told.append((done, self._join(label)))

    def _add(self, prediction: Prediction, now: float) -> None:
        entry: Entry = (*prediction,)  # the collector looks no more at a plain tuple of plain values
        if self._entries.setdefault(prediction[0], entry) is not entry:
            if self._entries[prediction[0]] != entry:
                self._drop("repeated")
            return
        self._order.append(entry)
        ages = self._ages
        if ages and now - ages[-1][0] < self._ttl / _AGES and now >= ages[-1][0]:
            ages[-1][1] += 1
        else:
            ages.append([now, 1])
        due = prediction[4]
        if due is not None:
            waiting = self._due.get(prediction[1])
            if waiting is None:
                waiting = self._due[prediction[1]] = _Due()
            waiting.add(due, entry)
        while len(self._order) > self._capacity:
            if self._remove_oldest():
                self._drop("evicted")

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _remove_oldest(self) -> bool:
        """Whether it was still there."""
        entry = self._order.popleft()
        ages = self._ages
        ages[0][1] -= 1
        if ages[0][1] <= 0:
            ages.popleft()
        there = self._is_alive(entry)
        if there:
            self._remove(entry[0])
        return there

    def _is_alive(self, entry: Entry) -> bool:
        return self._entries.get(entry[0]) is entry

    def _remove(self, prediction_id: str) -> None:
        entry = self._entries.pop(prediction_id)
        self._labels.pop(prediction_id, None)
        self._claimed.discard(prediction_id)
        waiting = self._due.get(entry[1])
        if waiting is not None:
            while waiting.ordered and not self._is_alive(waiting.ordered[0]):
                waiting.ordered.popleft()
            if len(waiting) > 2 * max(_SMALL, len(self._entries)):
                waiting.keep(self._is_alive)
            if not len(waiting):
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
