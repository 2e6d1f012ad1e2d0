"""How higher rooms add to an operation: a Protocol and the list of those that joined.

An integration or a hardware reader registers one object; every operation calls it at start and end. An exception
of a hook stops at the guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from otel_mlobs.telemetry import guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.telemetry.operations import Operation


class OperationHook(Protocol):
    """Called around every operation, on its thread, with its span current."""

    def on_start(self, operation: Operation) -> None:
        """Called once, after the operation's span was started."""

    def on_end(self, operation: Operation, error: BaseException | None) -> None:
        """Called once, before the span ends; ``error`` is what the operation raised."""


registered: tuple[OperationHook, ...] = ()
"""The hooks in the order in which they were added. Replaced, never mutated: operations read it without a lock."""


def add_hook(hook: OperationHook) -> None:
    """Call ``hook`` around every operation from now on. Adding it twice changes nothing."""
    global registered  # noqa: PLW0603 - see registered
    if hook not in registered:
        registered = (*registered, hook)


def remove_hook(hook: OperationHook) -> None:
    """Stop calling ``hook``; one that was never added is no error."""
    global registered  # noqa: PLW0603 - see registered
    registered = tuple(other for other in registered if other is not hook)


_before_shutdown: tuple[Callable[[float], None], ...] = ()


def before_shutdown(finish: Callable[[float], None]) -> None:
    """Call ``finish(seconds)`` when :func:`otel_mlobs.shutdown` begins: what it counts in that time is still sent."""
    global _before_shutdown  # noqa: PLW0603 - replaced, never mutated
    if finish not in _before_shutdown:
        _before_shutdown = (*_before_shutdown, finish)


def run_before_shutdown(timeout: float) -> None:
    """Give everyone who asked for it up to ``timeout`` seconds to finish."""
    for finish in _before_shutdown:
        try:
            finish(timeout)
        except Exception as error:  # noqa: BLE001 - the rest is still sent
            guard.report("shutdown", error)


_after_shutdown: tuple[Callable[[], None], ...] = ()


def after_shutdown(stop: Callable[[], None]) -> None:
    """Call ``stop`` when :func:`otel_mlobs.shutdown` has sent what there was: nobody collects any more."""
    global _after_shutdown  # noqa: PLW0603 - replaced, never mutated
    if stop not in _after_shutdown:
        _after_shutdown = (*_after_shutdown, stop)


def run_after_shutdown() -> None:
    """Let everyone stop who asked for it."""
    for stop in _after_shutdown:
        try:
            stop()
        except Exception as error:  # noqa: BLE001 - the others stop all the same
            guard.report("shutdown", error)
