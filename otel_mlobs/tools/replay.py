"""Send a file of OTLP-JSON lines to a backend: what ``backend="file"`` or a Collector's file exporter wrote."""

from __future__ import annotations

import email.utils
import math
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_mlobs.settings.checks import check_header_name, hidden, redacted
from otel_mlobs.telemetry.exporters import SIGNALS, decode_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_mlobs.telemetry.exporters import Request

_ATTEMPTS = 5
_LONGEST_WAIT_S = 30.0
_KEPT_PROBLEMS = 100
_RETRYABLE = (429, 502, 503, 504)
_NOT_TAKEN = (404, 405, 501)
_MEDIA_TYPE = "application/x-protobuf"
_RESPONSES = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}


@dataclass(frozen=True)
class LineProblem:
    """A line of the file, counted from 1, and why it was not sent or not taken."""

    line: int
    reason: str


@dataclass(frozen=True)
class ReplayResult:
    """What became of a file.

    Attributes:
        lines: Lines read, empty ones not counted.
        sent: Spans, metric data points and log records that the endpoint took, by signal.
        damaged_count: Lines that are no OTLP JSON; they were skipped.
        damaged: The first hundred of them.
        refused_count: Lines that the endpoint refused, or took only in part.
        refused: The first hundred of them.
        skipped: Signals that the endpoint does not take, with its answer; their lines were not sent.
        stopped: Why the replay ended before the end of the file, or None.
        stopped_line: The line that was under way then: all before it have been dealt with.
    """

    lines: int
    sent: Mapping[str, int]
    damaged_count: int
    damaged: tuple[LineProblem, ...]
    refused_count: int
    refused: tuple[LineProblem, ...]
    skipped: Mapping[str, str]
    stopped: str | None
    stopped_line: int | None

    @property
    def complete(self) -> bool:
        """Whether all that the file holds has arrived."""
        return self.stopped is None and not (self.damaged_count or self.refused_count or self.skipped)


def replay(
    path: str | os.PathLike[str],
    endpoint: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    signals: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Send every line of the file to ``{endpoint}/v1/{signal}`` as OTLP over http/protobuf, in the file's order.

    What goes wrong on the way is in the result, not raised. Damaged lines are skipped. A signal that the endpoint does
    not have (404, as metrics at Jaeger) is skipped from then on, the others are not. An endpoint that is busy (429,
    502, 503, 504) or cut off once it had answered is asked again, five times a line, after the time it names but at
    most 30 s. Whatever would fail for every line (401, 403, no connection, TLS) ends the replay.

    Nothing marks what was sent: a replay from the start sends it again.

    Args:
        path: The file; it is read line by line and may be larger than memory.
        endpoint: Base URL of the backend, ``http://localhost:4318``.
        headers: Sent with every request.
        timeout: Seconds that one request may take to connect, and to answer.
        signals: ``traces``, ``metrics``, ``logs`` or some of them; all unless given.
        progress: Called after each line with the bytes read so far and the bytes of the file.

    Raises:
        ValueError: The endpoint is no base URL, the timeout not positive, a signal unknown, or a header's value not
            printable ASCII.
        OSError: The file cannot be read.
    """
    base = _base_url(endpoint)
    if not (timeout > 0 and math.isfinite(timeout)):
        raise ValueError(f"timeout must be positive seconds, got {timeout!r}")
    wanted = _signals(signals)
    with Path(path).open("rb") as file, requests.Session() as session:
        given = _checked(headers or {})
        session.headers.update(given)
        session.headers["Content-Type"] = _MEDIA_TYPE
        state = _Replay(session, base, timeout, lambda text: hidden(text, base, given))
        size = os.fstat(file.fileno()).st_size
        done = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                state.take(number, line, wanted)
            if state.stopped is not None:
                break
            done += len(line)
            if progress is not None:
                progress(done, max(size, done))
    return state.result()


def _base_url(endpoint: str) -> str:
    if not isinstance(endpoint, str):
        raise ValueError(  # noqa: TRY004 - as every other value that is no URL
            f"endpoint must be a URL like http://localhost:4318, got a {type(endpoint).__name__}"
        )
    shown = redacted(endpoint)
    try:
        parts = urlsplit(endpoint)
    except ValueError:  # whose text has the URL in it
        raise ValueError(f"endpoint must be a URL like http://localhost:4318, got {shown!r}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint must be a URL like http://localhost:4318, got {shown!r}")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"endpoint must have a number from 0 to 65535 as its port, got {shown!r}") from None
    base = endpoint.rstrip("/")
    for signal in SIGNALS:
        if base.endswith(f"/v1/{signal}"):
            raise ValueError(f"endpoint must be the base URL, without /v1/{signal}, got {shown!r}")
    return base


def _checked(headers: Mapping[str, object]) -> dict[str, str]:
    checked = {}
    for name, value in headers.items():
        check_header_name("headers", name)
        # What requests would say of it has the value in it, which may be a secret.
        if not (isinstance(value, str) and value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(f"header {name!r} must have printable ASCII text as its value, without spaces around it")
        checked[name] = value
    return checked


def _signals(signals: Iterable[str] | None) -> frozenset[str]:
    if isinstance(signals, str):
        raise ValueError(f"signals must be several names, as ({signals!r},), got {signals!r}")  # noqa: TRY004
    wanted = frozenset(SIGNALS if signals is None else signals)
    if not wanted or not wanted <= set(SIGNALS):
        raise ValueError(f"signals must be among {', '.join(SIGNALS)}, got {sorted(wanted)}")
    return wanted


@dataclass
class _Problems:
    count: int = 0
    first: list[LineProblem] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        self.count += 1
        if self.count <= _KEPT_PROBLEMS:
            self.first.append(LineProblem(line, reason))


class _Replay:
    def __init__(self, session: requests.Session, base: str, timeout: float, hide: Callable[[str], str]) -> None:
        self._session, self._base, self._timeout, self._hide = session, base, timeout, hide
        self._answered = False
        self._lines = 0
        self._line = 0
        self._sent: Counter[str] = Counter()
        self._damaged, self._refused = _Problems(), _Problems()
        self._skipped: dict[str, str] = {}
        self.stopped: str | None = None

    def take(self, number: int, line: bytes, wanted: frozenset[str]) -> None:
        self._lines += 1
        self._line = number
        try:
            signal, request = decode_line(line)
        except ValueError as error:
            self._damaged.add(number, str(error))
            return
        if signal not in wanted or signal in self._skipped:
            return
        try:
            response = self._post(f"{self._base}/v1/{signal}", request.SerializeToString())
        except requests.RequestException as error:
            self.stopped = _connection_problem(error, self._timeout)
            return
        if response.ok and response.headers.get("content-type", "").startswith("text/html"):
            self.stopped = "a web page answered, no OTLP receiver: 4318 is the usual port, Jaeger's pages are on 16686"
        elif response.ok and not response.is_redirect:
            self._accepted(signal, request, response)
        elif response.status_code in _NOT_TAKEN:
            self._skipped[signal] = self._answer(response)
        elif response.is_redirect:
            self.stopped = (
                f"the endpoint answered with a redirect to {redacted(response.headers.get('Location', 'nowhere'))}"
            )
        elif response.status_code in (401, 403):
            self.stopped = f"the endpoint refused the credentials: {self._answer(response)}"
        elif response.status_code in _RETRYABLE:
            self.stopped = f"the endpoint stayed unavailable: {self._answer(response)}"
        else:
            self._refused.add(number, self._answer(response))

    def result(self) -> ReplayResult:
        return ReplayResult(
            lines=self._lines,
            sent=dict(self._sent),
            damaged_count=self._damaged.count,
            damaged=tuple(self._damaged.first),
            refused_count=self._refused.count,
            refused=tuple(self._refused.first),
            skipped=self._skipped,
            stopped=self.stopped,
            stopped_line=None if self.stopped is None else self._line,
        )

    def _answer(self, response: requests.Response) -> str:
        return _answer(response, self._hide)

    def _post(self, url: str, body: bytes) -> requests.Response:
        attempt = 0
        while True:
            last = attempt == _ATTEMPTS - 1
            try:
                # A followed redirect would become a GET without the body.
                response = self._session.post(url, data=body, timeout=self._timeout, allow_redirects=False)
            except (requests.ConnectionError, requests.Timeout) as error:
                # A wrong address fails at once; an endpoint that was there may come back.
                if last or not self._answered or isinstance(error, requests.exceptions.SSLError):
                    raise
                wait = retry_wait(None, attempt)
            else:
                self._answered = True
                if last or response.status_code not in _RETRYABLE:
                    return response
                wait = retry_wait(response.headers.get("Retry-After"), attempt)
            time.sleep(wait)
            attempt += 1

    def _accepted(self, signal: str, request: Request, response: requests.Response) -> None:
        items = _count(request)
        rejected, message = _partial_success(signal, response)
        self._sent[signal] += max(items - rejected, 0)
        if rejected:
            self._refused.add(
                self._line, f"{rejected} of {items} items were rejected: {self._hide(message) or 'no reason given'}"
            )


def retry_wait(retry_after: str | None, attempt: int) -> float:
    """Return the seconds to wait: what ``Retry-After`` says (seconds or a date), else doubling from one; at most 30."""
    wait: float | None = None
    if retry_after is not None:
        try:
            wait = float(retry_after)
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(retry_after)
            except ValueError:
                pass
            else:
                date = date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)
                wait = (date - datetime.now(timezone.utc)).total_seconds()
    if wait is None or math.isnan(wait):
        # Spread, so that many replays do not come back at the same moment.
        wait = 2.0**attempt * random.uniform(0.8, 1.2)  # noqa: S311
    return min(max(wait, 0.0), _LONGEST_WAIT_S)


def _count(request: Request) -> int:
    """The spans, metric data points or log records of a request: what the endpoint counts in its answer."""
    total = 0
    for resource in getattr(request, "resource_spans", ()):
        total += sum(len(scope.spans) for scope in resource.scope_spans)
    for resource in getattr(request, "resource_logs", ()):
        total += sum(len(scope.log_records) for scope in resource.scope_logs)
    for resource in getattr(request, "resource_metrics", ()):
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                total += len(getattr(metric, kind).data_points) if kind is not None else 0
    return total


def _partial_success(signal: str, response: requests.Response) -> tuple[int, str]:
    if not response.headers.get("Content-Type", "").startswith(_MEDIA_TYPE):
        return 0, ""
    answer = _RESPONSES[signal]()
    try:
        answer.ParseFromString(response.content)
    except DecodeError:
        return 0, ""
    partial = answer.partial_success
    rejected = {"traces": "rejected_spans", "metrics": "rejected_data_points", "logs": "rejected_log_records"}[signal]
    return getattr(partial, rejected), partial.error_message


def _answer(response: requests.Response, hide: Callable[[str], str]) -> str:
    """The endpoint's answer in one line: status, reason and what it says itself."""
    kind = response.headers.get("Content-Type", "")
    said = ""
    if kind.startswith(_MEDIA_TYPE):
        status = Status()
        try:
            status.ParseFromString(response.content)
            said = status.message
        except DecodeError:
            pass
    elif "html" not in kind:
        said = " ".join(response.text.split())
    head = f"{response.status_code} {response.reason or ''}".strip()
    return f"{hide(head)[:200]}: {hide(said)[:200]}" if said else hide(head)[:200]


def _connection_problem(error: requests.RequestException, timeout: float) -> str:
    """What failed, from the innermost cause: the outer texts name pools and objects."""
    if isinstance(error, requests.Timeout):
        return f"the endpoint did not answer within {timeout:g} s"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    kind = "TLS failed" if isinstance(error, requests.exceptions.SSLError) else "no connection to the endpoint"
    return f"{kind}: {reason}"
