"""One reporter among the processes of a service on a host: a lock that its holder's death gives back."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EINTR)
"""Errors that say nothing of the place: it is tried again."""


class NoPlaceError(OSError):
    """There is no folder of the user's own for the lock."""


class Election:
    """The lock of ``name``, one process at a time; taken over when its holder dies, however it does.

    POSIX record locks are the process's: forked children do not have them, and cannot give them back by mistake.
    """

    def __init__(self, name: str) -> None:
        here = f"{platform.node()}\n{name}"  # the folder may be in a home that many hosts share
        self._name = hashlib.sha256(here.encode("utf-8", "replace")).hexdigest()[:16]
        self._file: int | None = None
        self._over = False
        self._lock = threading.Lock()

    @property
    def won(self) -> bool:
        """Whether this process holds the lock."""
        return self._file is not None

    def stand(self) -> bool:
        """Try to get the lock, without waiting; true where it is held now.

        Raises:
            NoPlaceError: no folder is the user's own.
        """
        with self._lock:
            return not self._over and self._stand()

    def _stand(self) -> bool:
        if self._file is not None:
            if os.fstat(self._file).st_nlink:
                return True
            self._close()  # the file was removed: another process may have made and locked a new one
        if fcntl is None:
            raise NoPlaceError("this system has no POSIX locks")
        path = place() / f"gpu-{self._name}.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno in _PASSING:
                return False
            raise NoPlaceError(f"{path}: {error.strerror}") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):  # another process has it
                return False
            raise NoPlaceError(f"{path}: {error.strerror}") from error  # as on some network file systems
        self._file = file
        return True

    def resign(self) -> None:
        """Give the lock back."""
        with self._lock:
            self._over = True
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def start_afresh(self) -> None:
        """In a forked child: the lock is the parent's, only the open file came along."""
        self._lock = threading.Lock()
        self._close()


def place() -> Path:
    """The folder for locks: in the user's runtime directory, else in the user's state directory; never a shared one.

    Raises:
        NoPlaceError: neither can be had, or it can be written to by others.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    refused = []
    for given, may_be_made in ((runtime, False), (state, True)):
        folder = Path(given, "otel-mlobs")
        try:
            base = Path(given).expanduser()  # raises RuntimeError for a user without a home
            folder = base / "otel-mlobs"
            if not base.is_absolute():  # as the XDG specification wants
                raise PermissionError(f"{given} is not absolute")
            if may_be_made:
                base.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            for each in (base, folder):
                found = each.stat() if each == base else each.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                    raise PermissionError(f"{each} is not this user's alone")
        except (OSError, RuntimeError) as error:
            refused.append(f"{folder}: {getattr(error, 'strerror', None) or error}")
            continue
        return folder
    raise NoPlaceError("; ".join(refused))
