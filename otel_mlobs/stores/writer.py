"""What stands between a service and its store's server: queues that never wait, and the thread that empties them.

A prediction is an append to a queue. The thread writes what is queued in batches, predictions before the labels that
came after them, and tries again for as long as the server does not answer. Everything that it sends may be sent twice:
a server that did it, and whose answer was lost, does it no second time.
"""

from __future__ import annotations

import atexit
import os
import queue
import sys
import threading
import time
import uuid
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from otel_mlobs.core.records import Joined
from otel_mlobs.stores.queues import Waiting, cut, taken, tell, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_mlobs.core.records import Label, Prediction, Record
    from otel_mlobs.stores.backend import Backend
    from otel_mlobs.stores.trouble import Trouble


_Answer = TypeVar("_Answer")

_LINGER_S = 0.05
"""How long what came first waits for what it may be written with."""
_BATCH = 500
_SHORTEST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
_AGAIN_S = 1.0
"""How often a label is tried again whose prediction is not there yet."""
_SWEEPS_S = (1.0, 3600.0)
_AT_EXIT_S = 5.0
_DEAD_GRACE_S = 1.0
"""How long a server that is known not to answer may hold up the end of the process."""


class Writer:
    """The way to a server: bounded queues and one thread, started with the first record.

    Args:
        backend: the server's side.
        trouble: says what is wrong with the server.
        spill: the most predictions, and the most labels, that wait.
        grace: for how many seconds a label is tried again whose prediction is not there yet.
        ttl: how long records live; it says how often they are swept.
    """

    def __init__(
        self,
        backend: Backend,
        trouble: Trouble,
        *,
        spill: int,
        grace: float,
        ttl: float,
    ) -> None:
        self.kind = backend.kind
        self._backend = backend
        self._trouble = trouble
        self._spill = spill
        self._grace = grace
        self._sweep_every = min(max(ttl / 100, _SWEEPS_S[0]), _SWEEPS_S[1])
        self._start_empty()
        _writers.add(self)

    def _start_empty(self) -> None:
        self.dropped: dict[str, int] = {}
        self._predictions: deque[Prediction] = deque()
        self._labels: deque[Waiting] = deque()
        self._writing_predictions: list[Prediction] = []
        self._writing_labels: list[Waiting] = []
        self._unknown: list[Waiting] = []
        self._unknown_at = 0.0
        self._flushes: deque[threading.Event] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = False
        self._running = False
        self._retired = False
        self._starting = threading.Lock()
        self._shedding = threading.Lock()
        self._writing = threading.RLock()  # whoever is told what became of a label may forget one
        self._claiming = threading.Lock()
        self._claims: dict[str, str] = {}
        self._sweep_at = 0.0
        self._thread: threading.Thread | None = None

    def start_afresh(self) -> None:
        """Begin with empty queues, no thread and no connection: in a forked child."""
        self._backend.start_afresh()
        self._trouble = self._trouble.fresh()
        self._start_empty()

    @property
    def pending(self) -> int:
        """How many predictions and labels wait to be written."""
        predictions = len(self._predictions) + len(self._writing_predictions)
        return predictions + len(self._labels) + len(self._writing_labels) + len(self._unknown)

    # The request path: no lock is waited for, nothing is sent

    def register(self, prediction: Prediction) -> None:
        """Queue a prediction."""
        waiting = self._predictions
        waiting.append(prediction)
        if self._asleep or not self._running:
            self._rouse()
        if len(waiting) > self._spill:
            self._shed(waiting)

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Queue several."""
        waiting = self._predictions
        waiting.extend(predictions)
        if self._asleep or not self._running:
            self._rouse()
        if len(waiting) > self._spill:
            self._shed(waiting)

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Queue a label."""
        self._labels.append(Waiting(label, done, time.monotonic() + self._grace))
        if self._asleep or not self._running:
            self._rouse()
        if len(self._labels) > self._spill:
            self._shed(self._labels)

    def _rouse(self) -> None:
        if self._running:
            self._asleep = False
            self._wake.put(None)  # may be called from signal handlers and finalisers, unlike Event.set
            return
        if sys.is_finalizing() or not self._starting.acquire(blocking=False):
            return
        try:
            if not self._running:
                thread = threading.Thread(target=self._run, args=(self._wake,), name="otel_mlobs-outcomes", daemon=True)
                thread.start()
                self._thread = thread
                self._running = True
                _flush_when_this_process_ends()
        except (
            RuntimeError
        ):  # no thread can be started now; the next record tries again, and the exit writes what waits
            pass
        finally:
            self._starting.release()

    def _shed(self, waiting: deque[Any]) -> None:
        """Drop the oldest of ``waiting`` until ``spill`` are left, unless another thread is at it."""
        if not self._shedding.acquire(blocking=False):
            return
        try:
            while len(waiting) > self._spill:
                with suppress(IndexError):  # the thread took the last one
                    waiting.popleft()
                    self._drop("overflow")
        finally:
            self._shedding.release()

    def _drop(self, reason: str, number: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + number

    def _run(self, wake: queue.SimpleQueue[None]) -> None:
        backoff = _SHORTEST_BACKOFF_S
        try:
            while True:
                try:
                    self._write_all()
                except Exception as error:  # noqa: BLE001 - the server may be back in a while, the thread goes on
                    self._say_down(error)
                    wait(wake, backoff)
                    backoff = min(_LONGEST_BACKOFF_S, 2 * backoff)
                    continue
                backoff = _SHORTEST_BACKOFF_S
                if self._retired and not self.pending:
                    self._backend.close()
                    return
                self._rest(wake)
        finally:
            self._running = False
            if not self.pending:  # who began to wait before that was said is not to wait in vain
                for event in self._flushes:
                    event.set()

    def _rest(self, wake: queue.SimpleQueue[None]) -> None:
        """Wait for work, then a little longer for what may be written with it."""
        self._asleep = True
        if not (self._predictions or self._labels or self._flushes):
            until = min(self._sweep_at, self._unknown_at) if self._unknown else self._sweep_at
            wait(wake, until - time.monotonic())
        self._asleep = False
        if not self._flushes and (self._predictions or self._labels):
            wait(wake, _LINGER_S)

    def _write_all(self) -> None:
        """Write what is queued at this moment; what comes meanwhile is for the next time.

        Raises what the backend raises where its server does not answer; nothing is lost by that.
        """
        with self._writing:
            flushed = list(self._flushes)
            asked = self.pending > 0
            labels = len(self._labels)  # counted before the predictions: these were registered before those labels
            self._write_predictions(len(self._predictions))
            self._write_labels(labels)
            now = time.monotonic()
            if self._unknown and (flushed or self._retired or now >= self._unknown_at):
                self._unknown_at = now + _AGAIN_S
                self._writing_labels, self._unknown = self._unknown, []
                self._join_writing()
            if now >= self._sweep_at:
                self._sweep_at = now + self._sweep_every
                self._backend.sweep()
                asked = True
            if asked:
                self._trouble.say_up()
            for event in flushed:
                event.set()
                with suppress(ValueError):  # who waited for it gave up
                    self._flushes.remove(event)

    def _write_predictions(self, number: int) -> None:
        while self._writing_predictions or number > 0:
            if not self._writing_predictions:
                self._writing_predictions = taken(self._predictions, min(number, _BATCH))
                number -= _BATCH
            self._write_each(self._writing_predictions)
            self._writing_predictions = []

    def _write_each(self, batch: Sequence[Prediction]) -> None:
        """Write a batch; what the server refuses is found by halves, and dropped."""
        if not batch:
            return
        try:
            repeated = self._backend.write(batch)
        except Exception as error:
            if not self._backend.refuses(error):
                raise
            if len(batch) == 1:
                self._drop("refused")
                self._trouble.say_refused("prediction", error)
                return
            half = len(batch) // 2
            self._write_each(batch[:half])
            self._write_each(batch[half:])
            return
        if repeated:
            self._drop("repeated", repeated)

    def _write_labels(self, number: int) -> None:
        while self._writing_labels or number > 0:
            if not self._writing_labels:
                self._writing_labels = taken(self._labels, min(number, _BATCH))
                number -= _BATCH
            self._join_writing()

    def _join_writing(self) -> None:
        """Join the labels that are being written, and tell of those that are done with."""
        while self._writing_labels:
            part = self._writing_labels[:_BATCH]
            answers = self._join_each([waiting.label for waiting in part])
            del self._writing_labels[:_BATCH]
            now = time.monotonic()
            for waiting, joined in zip(part, answers, strict=True):
                if joined is None:
                    continue
                patient = now < waiting.deadline and not self._retired and len(self._unknown) < self._spill
                if joined.result == "unknown" and patient:
                    self._unknown.append(waiting)
                else:
                    tell(waiting.done, joined)

    def _join_each(self, labels: Sequence[Label]) -> list[Joined | None]:
        """What became of each label; None for what the server refuses, which is found by halves and dropped."""
        if not labels:
            return []
        try:
            return [*self._backend.join(labels)]
        except Exception as error:
            if not self._backend.refuses(error):
                raise
            if len(labels) == 1:
                self._drop("refused")
                self._trouble.say_refused("label", error)
                return [None]
        half = len(labels) // 2
        return self._join_each(labels[:half]) + self._join_each(labels[half:])

    def _say_down(self, error: Exception) -> None:
        self._trouble.say_down(error, self.pending, self._spill, self.dropped.get("overflow", 0))

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        """The answer of ``call``, asked twice: after a restart of the server the first finds its connection closed.

        A server that is known not to answer is asked once.

        Raises:
            ConnectionError: the server does not answer.
            ValueError: the server refuses what it is asked.
        """
        for more in (True, False):
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - drivers have no common class
                if self._backend.refuses(error):
                    raise ValueError(
                        f"the outcome store {self._trouble.shown} refuses: {self._trouble.described(error)}"
                    ) from None
                if not more or self._trouble.down:
                    raise self._trouble.unusable(error) from None
        raise AssertionError

    def join(self, labels: Sequence[Label], timeout: float) -> list[Joined | None]:
        """Join labels, after all predictions that wait here; tried again for ``timeout`` seconds.

        Raises:
            ConnectionError: the server did not answer in that time.
        """
        until = time.monotonic() + timeout
        backoff = _SHORTEST_BACKOFF_S
        while True:
            try:
                with self._writing:
                    self._write_predictions(len(self._predictions))
                return self._join_each(labels)
            except Exception as error:  # noqa: BLE001 - drivers have no common class
                self._trouble.say_trying(error, timeout)
                if time.monotonic() + backoff > until:
                    raise self._trouble.unusable(error) from None
                time.sleep(backoff)
                backoff = min(_LONGEST_BACKOFF_S, 2 * backoff)

    def claim(self, stream: str, now: float, limit: int) -> list[Record]:
        """Give out what is mature, after all labels that wait here: they came in time."""
        with self._claiming:
            self._ask(self._write_all)
            token = self._claims.setdefault(stream, uuid.uuid4().hex)
            found = self._ask(lambda: self._backend.claim(stream, now, limit, token))
            del self._claims[stream]
            return found

    def records(self, stream: str, start: float, end: float) -> Iterator[Record]:
        """Records by prediction time, those that wait here among them."""
        self._ask(self._write_all)
        pages = self._backend.records(stream, start, end)
        while True:
            try:
                page = next(pages, None)
            except Exception as error:  # noqa: BLE001 - drivers have no common class
                raise self._trouble.unusable(error) from None
            if page is None:
                return
            yield from page

    def streams(self) -> list[str]:
        """The streams that have records."""
        self._ask(self._write_all)
        return self._ask(self._backend.streams)

    def forget(self, prediction_id: str) -> bool:
        """Remove a prediction and its labels from what waits, and from the server."""
        here = self._forget_here(prediction_id)
        return self._ask(lambda: self._backend.forget(prediction_id)) or here

    def _forget_here(self, prediction_id: str) -> bool:
        gone: list[Waiting] = []
        with self._writing, self._shedding:  # nothing is taken from the queues now; what comes is added behind
            found = cut(self._predictions, lambda one: one.id == prediction_id)
            gone += cut(self._labels, lambda one: one.label.prediction_id == prediction_id)
            for held in (self._writing_labels, self._unknown):
                gone += cut(held, lambda one: one.label.prediction_id == prediction_id)
            found += cut(self._writing_predictions, lambda one: one.id == prediction_id)
        for waiting in gone:
            tell(waiting.done, Joined(waiting.label, "unknown", None))
        return bool(found or gone)

    def flush(self, timeout: float) -> bool:
        """Have the thread write what waits; true if all of it was written within ``timeout`` seconds."""
        if not self.pending:
            return True
        if not self._running:
            self._rouse()
        event = threading.Event()
        self._flushes.append(event)
        try:
            if self._running and threading.current_thread() is not self._thread:
                self._wake.put(None)
                return event.wait(timeout)
            self._write_all()
            return True
        except Exception as error:  # noqa: BLE001 - drivers have no common class
            self._say_down(error)
            return False
        finally:
            with suppress(ValueError):
                self._flushes.remove(event)

    def finish(self, timeout: float) -> bool:
        """Write what waits for the last time: a label whose prediction is not there is unknown now."""
        until = time.monotonic() + timeout
        self.retire()
        written = self.flush(min(timeout, _DEAD_GRACE_S) if self._trouble.down else timeout)
        thread = self._thread
        if self._running and written and thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
        elif not self._running:
            self._backend.close()
        return written

    def retire(self) -> None:
        """Have the thread end once nothing waits. For a finaliser, too, which may wait for no lock."""
        self._retired = True
        self._wake.put(None)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_ended_by: set[int] = set()
"""The processes that will flush when they end."""


def _flush_when_this_process_ends() -> None:
    if os.getpid() in _ended_by:
        return
    _ended_by.add(os.getpid())
    atexit.register(_finish_all)
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize  # such a child ends without what is registered with atexit

        Finalize(None, _finish_all, exitpriority=100)


def _finish_all() -> None:
    until = time.monotonic() + _AT_EXIT_S
    for writer in list(_writers):
        writer.finish(max(0.0, until - time.monotonic()))
