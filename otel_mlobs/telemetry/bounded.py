"""Flushing and stopping within a time limit, also while the interpreter exits.

The SDK's flush ignores its timeout and its shutdown waits up to 30 s for an exporter that retries. From Python 3.12
no thread can be started once the interpreter is finishing, so the thread that will do it waits from the start.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_GRACE_FOR_THE_DEAD_S = 1.0
"""How long a destination known not to answer may hold its caller: long enough if it has just come back."""


@dataclass
class _Job:
    call: Callable[[], object]
    done: threading.Event = field(default_factory=threading.Event)
    succeeded: bool = False


class Signal:
    """One signal's way out: how it is flushed, how it is stopped, whether its destination is known to be down."""

    def __init__(
        self, flush: Callable[[], object], stop: Callable[[], object], is_down: Callable[[], bool], name: str
    ) -> None:
        self._flush = flush
        self._stop = stop
        self._is_down = is_down
        self._name = name
        self.start()

    def start(self) -> None:
        """Start this process's waiting thread; called again in a forked child."""
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(self._jobs,), name=f"otel_mlobs-{self._name}", daemon=True).start()

    def flush(self) -> _Job:
        """Begin to flush."""
        return self._begin(self._flush)

    def stop(self) -> _Job:
        """Begin to flush for the last time and stop."""
        return self._begin(self._stop)

    def grace(self, timeout: float) -> float:
        """How long of ``timeout`` to wait."""
        return min(timeout, _GRACE_FOR_THE_DEAD_S) if self._is_down() else timeout

    def _begin(self, call: Callable[[], object]) -> _Job:
        job = _Job(call)
        self._jobs.put(job)
        return job

    @staticmethod
    def _run(jobs: Any) -> None:
        while True:
            job = jobs.get()
            try:
                job.succeeded = job.call() is not False
            except Exception as error:  # noqa: BLE001 - one signal's failure is not the others'
                guard.report("flush", error)
            job.done.set()


def flush_all(signals: Sequence[Signal], timeout: float) -> bool:
    """Flush ``signals`` side by side; true if all went out within ``timeout`` seconds."""
    return _wait([(signal.flush(), signal.grace(timeout)) for signal in signals])


def stop_all(signals: Sequence[Signal], timeout: float) -> bool:
    """Stop ``signals`` side by side; true if all went out within ``timeout`` seconds."""
    return _wait([(signal.stop(), signal.grace(timeout)) for signal in signals])


def _wait(jobs: Sequence[tuple[_Job, float]]) -> bool:
    begun = time.monotonic()
    for job, timeout in jobs:
        job.done.wait(max(0.0, begun + timeout - time.monotonic()))
    return all(job.succeeded for job, _ in jobs)
