"""The objectives that hold in this process: those of ``configure``, of its file, else the defaults."""

from __future__ import annotations

from otel_mlobs.settings.objectives import Objectives

_current = Objectives()


def use(objectives: Objectives) -> None:
    """Have these hold from now on, also for monitors and lookups that exist already."""
    global _current  # noqa: PLW0603 - a setting of the process
    _current = objectives


def current() -> Objectives:
    """Those that hold."""
    return _current
