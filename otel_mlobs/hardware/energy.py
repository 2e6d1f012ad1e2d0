"""What a GPU's energy counter stood at, at any moment while somebody asks: sampled in a thread, never on a request.

A counter moves in steps of up to 100 ms, and a driver's call may hang: between two samples the counter is taken to
have risen evenly, beyond the last as its power says.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S = 0.05
_LINGERS_S = 5.0
"""How long sampling goes on when nothing runs: the next request finds samples."""
_KEPT = 64
_TOO_OLD_S = 1.0


class Sample(NamedTuple):
    """A reading of the energy counter."""

    time: float
    """By ``time.monotonic()``."""
    joules: float
    watts: float


class History:
    """The last samples of one device."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_KEPT)

    def add(self, sample: Sample) -> None:
        """Add the newest; where the counter has begun again, what was before is forgotten."""
        if self._samples and sample.joules < self._samples[-1].joules:
            self._samples.clear()
        self._samples.append(sample)

    def at(self, moment: float) -> float | None:
        """The counter at ``moment``, in joules; None where no sample is within a second of it."""
        samples = [*self._samples]
        if not samples:
            return None
        after = next((one for one in samples if one.time >= moment), None)
        before = next((one for one in reversed(samples) if one.time < moment), None)
        if before is None or after is None:
            near = before or after
            if near is None or abs(moment - near.time) > _TOO_OLD_S:
                return None
            return near.joules + near.watts * (moment - near.time)
        if after.time - before.time > _TOO_OLD_S:
            return None
        share = (moment - before.time) / (after.time - before.time)
        return before.joules + share * (after.joules - before.joules)


class Span:
    """A stretch of time in which a device is watched: from when, and what its counter stood at then."""

    def __init__(self, device: int, began: float) -> None:
        self.device = device
        self.began = began
        self.shared = False
        self._joules: float | None = None

    def settle(self, history: History) -> None:
        """Look up what the counter stood at when it began, as long as that is known."""
        if self._joules is None:
            self._joules = history.at(self.began)

    def joules(self, history: History, ended: float) -> float | None:
        """What was used until ``ended``; None where the samples do not tell."""
        self.settle(history)
        last = history.at(ended)
        if self._joules is None or last is None or last < self._joules:  # the counter has begun again
            return None
        return last - self._joules


class Sampler:
    """Samples the devices that somebody watches, and for a while after.

    Args:
        open: gets ready to sample; false where that cannot be done now.
        sample: reads a device's counter; None where it has none.
        close: is done with it. All are called in the sampler's thread only.
    """

    def __init__(
        self,
        open: Callable[[], bool],  # noqa: A002 - as it is
        sample: Callable[[int], Sample | None],
        close: Callable[[], None],
    ) -> None:
        self._open = open
        self._sample = sample
        self._close = close
        self._histories: dict[int, History] = {}
        self._spans: set[Span] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._running = False
        self._stopped = False

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped = True
        self._wake.set()

    def begin(self, device: int) -> Span:
        """Watch ``device`` from now on."""
        span = Span(device, time.monotonic())
        with self._lock:
            for other in self._spans:
                if other.device == device:
                    other.shared = span.shared = True
            self._spans.add(span)
            self._histories.setdefault(device, History())
        self.wake()
        return span

    def wake(self) -> None:
        """Get ready, if that was not done before, and sample what is watched."""
        with self._lock:
            start, self._running = not self._running, True
        if start:
            try:
                threading.Thread(target=self._run, name="otel_mlobs-gpu-energy", daemon=True).start()
            except RuntimeError:  # no thread can be started here now
                self._running = False
        self._wake.set()

    def end(self, span: Span) -> float | None:
        """Watch no more; the joules used meanwhile, None where they are not known."""
        ended = time.monotonic()
        with self._lock:
            self._spans.discard(span)
        return span.joules(self._histories[span.device], ended)

    def _run(self) -> None:
        idle_since: float | None = None
        asked: set[int] = set()
        while not self._stopped:
            self._wake.clear()
            with self._lock:
                spans = [*self._spans]
            now = time.monotonic()
            if spans:
                idle_since = None
                asked |= {span.device for span in spans}
            elif idle_since is None:
                idle_since = now
            elif now - idle_since > _LINGERS_S:
                asked.clear()
                if not self._stopped:
                    self._wake.wait()
                continue
            try:
                if self._open():
                    for device in asked:
                        sample = self._sample(device)
                        if sample is not None:
                            self._histories[device].add(sample)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                guard.report("gpu", error)
            for span in spans:
                span.settle(self._histories[span.device])
            time.sleep(_EVERY_S)
        self._close()
