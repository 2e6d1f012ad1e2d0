"""A real Redis, from Debian's package `redis-server`, that keeps its data in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .backends import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process


def find() -> Path | None:
    """The server program of $PATH."""
    found = shutil.which("redis-server")
    return found and Path(found)


class RedisServer:
    """A running Redis on a free port of 127.0.0.1 that writes down everything before it answers."""

    def __init__(self, program: Path, folder: Path, start: Callable[..., Process], password: str = "") -> None:
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._start = start
        self._folder = folder
        self._pid_file = folder / "redis.pid"
        options = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--pidfile", self._pid_file]
        if password:
            options += ["--requirepass", password]
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", folder, *options]
        self._run()

    def _run(self) -> None:
        self.process = self._start("redis", self._command, cwd=self._folder, env={})
        self.process.wait_for_port(self.port)

    def restart(self, away: float = 0.0) -> None:
        """Kill it in the midst of what it does, and start it again ``away`` seconds later on its data."""
        os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
        self.process.stop()
        time.sleep(away)
        self._run()

    def stop(self) -> None:
        """End it."""
        self.process.stop()
