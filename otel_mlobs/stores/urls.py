"""Which server a store's URL names, and what of the URL may be shown."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from otel_mlobs.settings.checks import hidden, redacted
from otel_mlobs.stores.redis import Redis
from otel_mlobs.stores.sql import Sql
from otel_mlobs.stores.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.stores.backend import Backend

PASSWORD_VARIABLE = "MLOBS_STORE_PASSWORD"  # noqa: S105 - where it is, not what it is
_EXAMPLES = '"memory:", "redis://host:6379/0", "postgresql://user@host/name" or "sqlite:///path"'
_NAMESPACE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_REDIS = ("redis", "rediss")


def is_memory(url: str) -> bool:
    """Whether predictions are to wait in this process."""
    return url in ("memory:", "memory://")


def backend_of(url: str, namespace: str, ttl: float, clock: Callable[[], float]) -> tuple[Backend, Trouble]:
    """The server that ``url`` names, and what says that it does not answer; nothing is connected to.

    Raises:
        ValueError: it names none, or ``namespace`` is no name.
        MissingExtraError: the library for it is not installed.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"namespace must be a letter and at most 39 letters, digits or _ after it, got {namespace!r}")
    shown = redacted(url)
    password = os.environ.get(PASSWORD_VARIABLE) or None
    secrets = _Secrets(url, password)
    if not re.match(r"[a-z0-9+_]+://", url):
        raise ValueError(f"url={shown!r} must be one of {_EXAMPLES}")
    try:
        backend: Backend
        if url.partition("://")[0] in _REDIS:
            _check(url)
            backend = Redis(url, password, namespace, ttl)
        else:
            backend = Sql(url, password, namespace, ttl, clock)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"url={shown!r} cannot be used: {secrets.hide(str(error))}; it must be one of {_EXAMPLES}"
        ) from None
    return backend, Trouble(shown, secrets.hide)


def _check(url: str) -> None:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("it names no host")
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("the port must be a number from 1 to 65535")
    if not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("the path must be the number of a database")


class _Secrets:
    """What must not be shown of a URL."""

    def __init__(self, url: str, password: str | None) -> None:
        self._url = url
        self._headers = {} if password is None else {"password": password}
        # A URL that cannot be parsed may hold anything before its last "@".
        before = url.partition("://")[2].rpartition("@")[0]
        password = before.partition(":")[2]
        for place, secret in enumerate((password, unquote(password))):
            if secret:
                self._headers[str(place)] = secret

    def hide(self, text: str) -> str:
        """``text`` without them."""
        return hidden(text, self._url, self._headers)
