"""Where our own errors stop: counted, logged at most once a minute, never raised into the application.

After pydantic/logfire's ``handle_internal_errors`` and hynek/stamina's explicit testing switch: strictness is asked
for, it never follows from the environment.
"""

from __future__ import annotations

import logging
import time

from otel_mlobs.semconv import INTERNAL_COMPONENT
from otel_mlobs.telemetry import instruments

_logger = logging.getLogger("otel_mlobs")

_LOG_EVERY_S = 60.0

_last_logged: dict[str, float] = {}
_strict = False


def set_strict(strict: bool) -> None:
    """Raise our own errors instead of swallowing them: for tests of this library and of hooks written for it."""
    global _strict  # noqa: PLW0603 - one switch for the process is what is meant
    _strict = strict


def report(component: str, error: Exception) -> None:
    """Count an error of ours under ``component`` and log it, with its traceback, at most once a minute each.

    Call it from an ``except Exception`` block. ``component`` is a constant of ours, so it is bounded as a label.
    Raises ``error`` again where :func:`set_strict` asked for that.
    """
    if _strict:
        raise error
    try:
        instruments.internal_errors().add(1, {INTERNAL_COMPONENT: component})
        now = time.monotonic()
        if now - _last_logged.get(component, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            _last_logged[component] = now
            _logger.warning(
                "otel_mlobs: %s failed with %s; the application is not affected, this part of its telemetry is lost "
                "(said at most once a minute)",
                component,
                type(error).__name__,
                exc_info=error,
            )
    except Exception:  # noqa: BLE001, S110 - the last line: a logging handler that raises must not reach the caller
        pass
