"""What monitors that follow have in common: they claim what is mature from a store, and end without losing any of it.

A claim is given out once, in whatever process. Who claimed must count, so the end of a monitor, or of the process,
waits for a claim that is under way.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from otel_mlobs.telemetry import guard, hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_mlobs.core.records import Joined, Label, Prediction, Record

LONGEST_FINISH_S = 5.0
"""How long a monitor that is closed waits for its store."""
_CLAIMED_AT_ONCE = 1_000


class Store(Protocol):
    """Where predictions wait for their labels; :class:`otel_mlobs.OutcomeStore` is one."""

    @property
    def kind(self) -> str:
        """``memory``, ``redis`` or ``sql``."""

    def register(self, prediction: Prediction) -> None:
        """Keep a prediction; never waits."""

    def register_many(self, predictions: Iterable[Prediction]) -> None:
        """Keep several."""

    def submit(self, label: Label, done: Callable[[Joined], None]) -> None:
        """Join a label, now or soon, and tell ``done`` what became of it."""

    def flush(self, timeout: float) -> bool:
        """Write and join what waits; false where that took longer."""

    def claim(self, stream: str, now: float, limit: int) -> list[Record]:
        """Predictions that are mature at ``now``; each is given out once, in whatever process."""


def checked_store(outcomes: Store, maturity: float | None) -> Store:
    """``outcomes``, where it is a store and keeps predictions until they are mature.

    Raises:
        TypeError: it is no store.
        ValueError: it forgets predictions before they are mature.
    """
    if not all(callable(getattr(outcomes, name, None)) for name in ("register", "submit", "claim")):
        raise TypeError(f'outcomes must be a store, as OutcomeStore("redis://…") makes one, got {outcomes!r}')
    ttl = getattr(outcomes, "ttl", None)
    if maturity is not None and ttl is not None and maturity >= ttl:
        raise ValueError(
            f"maturity must be shorter than the store keeps predictions, {ttl:g} s, got {maturity:g} s: "
            'give it more, as OutcomeStore(url, ttl="60d")'
        )
    return outcomes


class Claiming:
    """Claims what is mature of one stream: here where that is quick, else in a thread of its own.

    Args:
        store: where predictions wait.
        stream: whose.
        count: counts one record that was claimed, at the moment that is given.
        rest: called after every thousand of them.
    """

    def __init__(
        self,
        store: Store,
        stream: str,
        count: Callable[[Record, float], None],
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self._stream = stream
        self._count = count
        self._rest = rest
        self.start_afresh()
        _claiming.add(self)
        hooks.before_shutdown(_finish_all)

    def start_afresh(self) -> None:
        """In a forked child no thread is claiming."""
        self._busy = self._stopping = False
        self._thread: threading.Thread | None = None

    def claim(self, now: float) -> None:
        """Count what is mature at ``now``; nothing where a claim is under way."""
        if self._busy or self._stopping:
            return
        self._busy = True
        if self.store.kind == "memory":
            self._claim_all(now)
            return
        try:  # a server may take its time, and monitors have panes to end
            self._thread = threading.Thread(target=self._claim_all, args=(now,), name="otel_mlobs-mature", daemon=True)
            self._thread.start()
        except RuntimeError:  # no thread can be started now: the next look tries again
            self._busy = False

    def _claim_all(self, now: float) -> None:
        try:
            while True:
                records = self.store.claim(self._stream, now, _CLAIMED_AT_ONCE)
                for record in records:
                    self._count(record, now)
                self._rest()
                if len(records) < _CLAIMED_AT_ONCE or self._stopping:
                    return
        except Exception as error:  # noqa: BLE001 - a store that does not answer is asked again at the next look
            guard.report("outcomes", error)
        finally:
            self._busy = False

    def stop(self, timeout: float) -> None:
        """Claim no more, and wait until what was claimed is counted: nobody else will be given it."""
        self._stopping = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def flush(self, timeout: float) -> None:
        """Let the store write what it was given, and join the labels."""
        try:
            self.store.flush(timeout)
        except Exception as error:  # noqa: BLE001 - the process ends all the same
            guard.report("outcomes", error)

    def finish(self, timeout: float) -> None:
        """Claim no more, and let the store write and join what waits."""
        self.stop(timeout)
        self.flush(timeout)


_claiming: weakref.WeakSet[Claiming] = weakref.WeakSet()


def _finish_all(timeout: float) -> None:
    """Let what was claimed be counted, and labels be joined, so that they are in what is sent last; one deadline."""
    end = time.monotonic() + timeout
    every = list(_claiming)
    for one in every:
        one.stop(max(0.0, end - time.monotonic()))
    for one in {id(one.store): one for one in every}.values():
        one.flush(max(0.0, end - time.monotonic()))
