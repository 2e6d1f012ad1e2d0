"""A real PostgreSQL, from the programs that Debian's package `postgresql` installs, with a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .backends import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process

USER = "mlobs"


def find() -> Path | None:
    """The folder with PostgreSQL's server programs: of $PATH, or the newest that Debian has installed."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: int(path.parents[1].name), default=None)
    return newest and newest.parent


class Postgres:
    """A running PostgreSQL without a password on a free port of 127.0.0.1; it leaves nothing behind once stopped."""

    def __init__(self, programs: Path, start: Callable[..., Process]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mlobs-postgres-"))  # pytest's folders are closed to other users
        data = self._folder / "data"
        as_user: list[str | Path] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("nobody")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        try:
            options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
            made = [*as_user, programs / "initdb", "-D", data, *options]
            subprocess.run(made, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)
            (port,) = free_ports(1)
            self.url = f"postgresql://{USER}@127.0.0.1:{port}/postgres"
            self._pid_file = data / "postmaster.pid"
            listen = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories=", "-c", "fsync=off"]
            self._command = [*as_user, programs / "postgres", "-D", data, *listen]
            self._asked = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            self._port = port
            self._start = start
            self._run()
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def _run(self) -> None:
        self.process = self._start("postgres", self._command, cwd=self._folder, env={})
        self.process.wait_for_port(self._port)
        # It listens a little before it lets anyone in.
        wait_until("waiting for PostgreSQL", lambda: subprocess.run(self._asked, check=False).returncode == 0)

    def _end(self, how: signal.Signals) -> None:
        os.kill(int(self._pid_file.read_text().split()[0]), how)
        self.process.stop()

    def restart(self, away: float = 0.0) -> None:
        """Have it crash in the midst of what it does, and start it again ``away`` seconds later on its data."""
        self._end(signal.SIGQUIT)  # no checkpoint: it recovers from its log
        time.sleep(away)
        self._run()

    def stop(self) -> None:
        """End it at once, for on SIGTERM it waits for its clients to leave, and remove its data."""
        self._end(signal.SIGINT)
        shutil.rmtree(self._folder)
