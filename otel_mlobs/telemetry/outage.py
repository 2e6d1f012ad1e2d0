"""What is said when a destination does not take what it is sent: little, soon, and with what to do about it.

A backend that does not answer is one clear line at the start and one a minute after that, however many signals go
there, instead of a traceback per batch.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.settings import Pipeline

_logger = logging.getLogger("otel_mlobs")

_Kind = Literal["connection", "answer", "signal"]
"""What is concerned: everything that goes there; everything, but it is for each signal to find out; one signal."""

_WARN_EVERY_S = 60.0
_EXPORTERS_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.common.http",
)


class _Reasons(logging.Filter):
    """Keeps what OTLP exporters log while one of ours sends, so that one line can say it; others' pass through."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        lines: list[str] | None = getattr(self._local, "lines", None)
        if lines is None:
            return True
        lines.append(record.getMessage())
        return False

    def start(self) -> list[str]:
        lines: list[str] = []
        self._local.lines = lines
        for name in _EXPORTERS_LOGGERS:
            logger = logging.getLogger(name)
            if self not in logger.filters:
                # First: the SDK's filter of repeated lines would swallow the reason of the second batch.
                logger.filters.insert(0, self)
        return lines

    def stop(self) -> None:
        self._local.lines = None


reasons = _Reasons()


class _Destination:
    """A host and port: signals that fail there together are said together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        self.down: set[str] = set()
        self.lost = 0
        self.said_at = -_WARN_EVERY_S
        self.announced = False
        self.answers = False

    def fails(self, signal: str, lost: int, *, answers: bool) -> str | None:
        """Note the failure; what to add to the line about it, or None where it is not time for one."""
        with self.lock:
            self.down.add(signal)
            self.lost += lost
            self.answers = answers
            now = time.monotonic()
            if now - self.said_at < _WARN_EVERY_S:
                return None
            self.said_at, self.announced = now, True
            return f" ({_batches(self.lost)} lost so far)" if self.lost > 1 else ""

    def works(self, signal: str) -> str | None:
        """Note the success; what to add to the line about it, or None where there is nothing to say."""
        if signal not in self.down and (self.answers or not self.down):
            return None
        with self.lock:
            # A connection that works for one signal works for all; an answer such as 401 is for one.
            self.down = self.down - {signal} if self.answers else set()
            if self.down or not self.announced:
                return None
            lost, self.lost, self.announced = self.lost, 0, False
            return f", {_batches(lost)} lost" if lost else ""


_destinations: dict[tuple[str, str], _Destination] = {}


class Outage:
    """Says that a destination does not take a signal: at once, at most once a minute, and when it is back."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        parts = urlsplit(pipeline.url)
        self._where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _destination(self, *, own: bool = False) -> _Destination:
        """The state shared by all signals that go there, or the signal's own for what only it is refused."""
        key = (self._where, self._pipeline.signal if own else "")
        found = _destinations.get(key)
        if found is None or found.pid != os.getpid():  # a forked child speaks for itself
            found = _destinations[key] = _Destination()
        return found

    def failed(self, lines: Sequence[str]) -> None:
        """Count a lost batch, which the exporter explained in ``lines``, and, when it is time, say so."""
        reason, kind = _reason(lines)
        self._say(reason, kind, lost=1)

    def _say(self, reason: str, kind: _Kind, lost: int) -> None:
        one = kind == "signal"
        extra = self._destination(own=one).fails(self._pipeline.signal, lost, answers=kind != "connection")
        if extra is None:
            return
        _logger.warning(
            "%s not reaching %s: %s%s; the application is not affected. `otel-mlobs doctor` says more",
            f"{self._pipeline.signal} are" if one else "telemetry is",
            self._pipeline.shown if one else self._where,
            self._pipeline.hide(reason),
            extra,
        )

    def succeeded(self) -> None:
        """Say that the destination takes data again, if it was said that it does not."""
        for one in (False, True):
            extra = self._destination(own=one).works(self._pipeline.signal)
            if extra is not None:
                what = f"{self._pipeline.signal} reach {self._pipeline.shown}" if one else f"{self._where} answers"
                _logger.warning("%s again%s", what, extra)

    @property
    def ongoing(self) -> bool:
        """Whether the last that is known of the destination is that it does not take this signal."""
        return any(self._pipeline.signal in self._destination(own=own).down for own in (False, True))

    def probe(self) -> None:
        """Look, off the caller's thread, whether anything listens there, so that the first line comes at the start."""
        if getproxies_environment():  # what can be reached is then the proxy's affair
            return
        threading.Thread(target=self._probe, name="otel_mlobs-probe", daemon=True).start()

    def _probe(self) -> None:
        parts = urlsplit(self._pipeline.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=3.0):
                return
        except (OSError, UnicodeError) as error:
            self._say(explain(error), "connection", lost=0)


def _batches(number: int) -> str:
    return "1 batch was" if number == 1 else f"{number} batches were"


def explain(error: BaseException) -> str:
    """The reason of a failed connection in a few words."""
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "its host name is not known (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused, nothing listens there"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"


_MARKS: tuple[tuple[str, str, _Kind], ...] = (
    ("UNIMPLEMENTED", "it does not take this signal (UNIMPLEMENTED)", "signal"),
    ("code: 404", "it does not take this signal at this path (404)", "signal"),
    ("UNAUTHENTICATED", "it wants credentials (UNAUTHENTICATED)", "answer"),
    ("code: 401", "it wants credentials (401)", "answer"),
    ("code: 403", "the credentials are not enough (403)", "answer"),
    ("onnection refused", "connection refused, nothing listens there", "connection"),
    ("NameResolutionError", "its host name is not known (DNS)", "connection"),
    ("Name or service not known", "its host name is not known (DNS)", "connection"),
    ("DNS resolution failed", "its host name is not known (DNS)", "connection"),
    ("hostname lookup error", "its host name is not known (DNS)", "connection"),
    ("CERTIFICATE_VERIFY_FAILED", "its TLS certificate is not trusted", "connection"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS: http:// instead of https://?", "connection"),
    ("timed out", "no answer in time", "connection"),
    ("DEADLINE_EXCEEDED", "no answer in time", "connection"),
)


def _reason(lines: Sequence[str]) -> tuple[str, _Kind]:
    """What the exporter's own log lines come down to, and what is concerned."""
    text = " | ".join(lines)
    for mark, meaning, kind in _MARKS:
        if mark in text:
            return meaning, kind
    transient = re.search(r"Transient error (.+?) encountered while exporting", text)
    if transient:
        return f"it answers {transient.group(1)}", "connection"
    if "due to timeout, max retries" in text:
        return "it did not take the data in time", "connection"
    return lines[-1] if lines else "the exporter gave no reason", "connection"
