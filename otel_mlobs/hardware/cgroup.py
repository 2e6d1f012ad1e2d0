"""The container's own limits and what they cost it, from cgroup v2; nothing where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MICRO = 1e-6


def folder(root: Path) -> Path | None:
    """The folder of this process's cgroup beneath ``root`` (``/`` unless in a test); None without cgroup v2.

    Within a container that has a cgroup namespace of its own, that is the top of what is mounted. The kernel's own top,
    which has no ``cgroup.type``, is the whole machine and no container.
    """
    mounted = root / "sys/fs/cgroup"
    if not (mounted / "cgroup.controllers").exists():
        return None
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    own = mounted / path.strip("/")
    if not own.is_dir() or ".." in Path(path).parts:
        own = mounted
    return own if (own / "cgroup.type").exists() else None


def read(own: Path) -> Mapping[str, float]:
    """What the files in ``own`` say, by name, in base units; what is not limited or not there is left out."""
    found: dict[str, float] = {}
    quota = text(own / "cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        found["cpu.limit"] = float(quota[0]) / float(quota[1])
    usage = pairs(own / "cpu.stat")
    if "usage_usec" in usage:
        found["cpu.time"] = usage["usage_usec"] * _MICRO
    if "cpu.limit" in found:
        for key, name, scale in (
            ("nr_periods", "cpu.periods", 1.0),
            ("nr_throttled", "cpu.throttled", 1.0),
            ("throttled_usec", "cpu.throttled.time", _MICRO),
        ):
            if key in usage:
                found[name] = usage[key] * scale
    for name, key in (("memory.max", "memory.limit"), ("memory.current", "memory.usage")):
        value = text(own / name)
        if value.isdigit():
            found[key] = float(value)
    events = pairs(own / "memory.events")
    if "oom_kill" in events:
        found["memory.oom_kills"] = events["oom_kill"]
    return found


def text(path: Path) -> str:
    """The file's content, empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def pairs(path: Path) -> Mapping[str, float]:
    """The numbers of a file of lines ``key value``."""
    parts = (line.split() for line in text(path).splitlines())
    return {each[0]: float(each[1]) for each in parts if len(each) == 2 and each[1].isdigit()}
