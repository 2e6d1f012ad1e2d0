"""GPU readings of this process: what ``configure(gpu=True)`` and ``instrument("nvml")`` start."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from otel_mlobs.hardware import dcgm, reporter, visible
from otel_mlobs.hardware.election import Election
from otel_mlobs.settings import DEFAULT_METRIC_INTERVAL

if TYPE_CHECKING:
    from otel_mlobs.settings import Settings

__all__ = ["DCGM_NAMES", "start", "stop"]

DCGM_NAMES = tuple(dcgm.SOURCES)
"""What the meter provider has to write in capitals."""


_settings: Settings | None = None
_lock = threading.RLock()


def start(settings: Settings | None) -> None:
    """Report GPUs from the next collection on; nothing is asked of the driver before.

    Where that was said already it changes nothing, unless there are settings now and were none then.
    """
    with _lock:
        _start(settings)


def _start(settings: Settings | None) -> None:
    global _settings  # noqa: PLW0603 - of the one reporter of this process
    if reporter.current() is not None and settings in (None, _settings):
        return
    _settings = settings
    each = settings is not None and settings.gpu_reporter == "each"
    reporter.use(
        reporter.Reporter(
            DEFAULT_METRIC_INTERVAL if settings is None else settings.metric_interval,
            None if each else Election(_name(settings)),
            "otel" if settings is None else settings.gpu_names,
            only_visible=True,
        )
    )


def _name(settings: Settings | None) -> str:
    """Who elects one reporter: the processes of a service that see the same GPUs."""
    entries = visible.asked()
    service = "" if settings is None else settings.service_name or ""
    return "\n".join([service, "all" if entries is None else ",".join(entries)])


def stop() -> None:
    """Report no more."""
    with _lock:
        reporter.stop()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
