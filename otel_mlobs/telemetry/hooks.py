"""How higher rooms add to an operation: a Protocol and the list of those that joined.

An integration or a hardware reader registers one object; every operation calls it at start and end. An exception
of a hook stops at the guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from otel_mlobs.telemetry.operations import Operation


class OperationHook(Protocol):
    """Called around every operation, on its thread, with its span current."""

    def on_start(self, operation: Operation) -> None:
        """Called once, after the operation's span was started."""

    def on_end(self, operation: Operation, error: BaseException | None) -> None:
        """Called once, before the span ends; ``error`` is what the operation raised."""


_hooks: tuple[OperationHook, ...] = ()


def add_hook(hook: OperationHook) -> None:
    """Call ``hook`` around every operation from now on. Adding it twice changes nothing."""
    global _hooks  # noqa: PLW0603 - replaced, never mutated: running operations read it without a lock
    if hook not in _hooks:
        _hooks = (*_hooks, hook)


def remove_hook(hook: OperationHook) -> None:
    """Stop calling ``hook``; one that was never added is no error."""
    global _hooks  # noqa: PLW0603 - see add_hook
    _hooks = tuple(other for other in _hooks if other is not hook)


def registered() -> tuple[OperationHook, ...]:
    """The hooks in the order in which they were added."""
    return _hooks
