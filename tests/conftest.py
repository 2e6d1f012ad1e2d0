"""What every test runs under: our own errors are raised, and nothing is left behind for the next test."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import hypothesis
import pytest
from opentelemetry import context as otel_context

from otel_mlobs import testing
from otel_mlobs.telemetry import collected, guard, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def _strict_and_clean() -> Iterator[None]:
    """Raise our own errors; afterwards no context is attached, and no hook that the test added is left."""
    before = otel_context.get_current()
    added_before = hooks.registered
    with testing.strict():
        yield
    for hook in hooks.registered:
        if hook not in added_before:
            hooks.remove_hook(hook)
    guard._last_logged.clear()
    _forget_ended_monitors()
    after = otel_context.get_current()
    otel_context.attach(before)
    assert after is before, f"the test left a context attached: {after!r}"


def _forget_ended_monitors() -> None:
    """Their last counts are sent for minutes: after a thousand tests every collection would take a second."""
    for name in ("series", "outcome_series"):
        module = sys.modules.get(f"otel_mlobs.telemetry.{name}")
        for group in list(module._known.values()) if module else ():
            if all(counting.retired for counting in group.succession._state[1]):
                collected.leave(group)


@pytest.fixture
def lenient() -> None:
    """As in production: our own errors are counted and logged, not raised."""
    guard.set_strict(False)


@pytest.fixture
def quiet_opentelemetry() -> Iterator[None]:
    """Fail where OpenTelemetry logs an error, as it does when a context is detached where it was not attached."""
    handler = _Errors()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert handler.messages == []


hypothesis.settings.register_profile("mlobs", deadline=None)  # machines are busy: no test of ours is one of time
hypothesis.settings.load_profile("mlobs")
