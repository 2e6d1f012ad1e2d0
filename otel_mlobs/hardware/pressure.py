"""Who waited: Linux's pressure files, the run queue, and how long this process's threads were ready without a CPU."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from otel_mlobs.hardware.cgroup import text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RESOURCES = ("cpu", "memory", "io", "irq")
_LINE = re.compile(r"^(some|full) .*\btotal=(\d+)$", re.MULTILINE)


def stalls(folder: Path, ending: str = "") -> Mapping[tuple[str, str], float]:
    """Seconds of waiting, by resource and extent, of the files in ``folder``.

    ``ending`` is that of their names: none in ``/proc/pressure``, ``.pressure`` in a cgroup's folder.
    """
    return {
        (resource, extent): int(total) * 1e-6
        for resource in RESOURCES
        for extent, total in _LINE.findall(text(folder / f"{resource}{ending}"))
    }


def run_queue(root: Path) -> int | None:
    """Tasks that run or wait for a CPU, as ``/proc/stat`` counts them."""
    found = re.search(r"^procs_running (\d+)$", text(root / "proc/stat"), re.MULTILINE)
    return None if found is None else int(found[1])


class RunWait:
    """Seconds for which this process's threads were ready and had no CPU, those that have ended among them."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "proc/self/task"
        self._threads: dict[str, int] = {}
        self._ended = 0
        self._lock = threading.Lock()

    def read(self) -> float | None:
        """The sum over all threads since the process began, as far as it was read before they ended."""
        with self._lock:
            return self._read()

    def _read(self) -> float | None:
        now: dict[str, int] = {}
        try:
            alive = {path.name for path in self._folder.iterdir()}
        except OSError:
            return None
        for name in alive:
            numbers = text(self._folder / name / "schedstat").split()
            if len(numbers) == 3 and numbers[1].isdigit():
                now[name] = int(numbers[1])
        if not now:
            return None
        for name, waited in self._threads.items():
            if name in alive and name not in now:  # it could not be read this time, or ends just now
                now[name] = waited
            elif now.get(name, -1) < waited:  # it has ended, or another has its number now
                self._ended += waited
        self._threads = now
        return (self._ended + sum(now.values())) * 1e-9
