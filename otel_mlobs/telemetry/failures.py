"""What counts as an error, and what a span may say of it.

Exception messages quote the values that caused them, so they stay out of every signal unless the user opts in: the
type and the frames are recorded, the text is not.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.telemetry.readings import encodable

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span

_OWN_FRAMES = str(Path(__file__).parent)
_MAX_FRAMES = 64
_MAX_CAUSES = 8


def type_name(error: BaseException) -> str:
    """The full class name as ``exception.type`` and ``error.type`` want it; built-in ones without their module."""
    kind = type(error)
    return encodable(kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}")


def classify(error: BaseException, expected: tuple[type[BaseException], ...]) -> str | None:
    """The ``error.type`` of ``error``, or None where it is no error.

    No errors are: ``GeneratorExit`` (the consumer had enough), what the user named as expected, and an HTTP error
    below 500, which is an answer. A cancellation is ``"cancelled"``.
    """
    if isinstance(error, (GeneratorExit, *expected)):
        return None
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        return semconv.CANCELLED
    status = _http_status(error)
    if status is not None and status < 500:
        return None
    return type_name(error)


def _http_status(error: BaseException) -> int | None:
    """The status of an exception by which Flask, Starlette or FastAPI answer a request.

    By name, so that none of them is imported; an HTTP client's error is not among them: that is a failed dependency.
    """
    for kind in type(error).__mro__:
        if kind.__name__ == "HTTPException" and kind.__module__.partition(".")[0] in (
            "werkzeug",
            "starlette",
            "fastapi",
        ):
            answer = getattr(error, "response", None)  # abort(response) has no code of its own
            status = (
                getattr(error, "code", None)
                or getattr(error, "status_code", None)
                or getattr(answer, "status_code", None)
            )
            return status if isinstance(status, int) else None
    return None


def message(error: BaseException) -> str:
    """The text of ``error``, also where its own ``__str__`` raises."""
    try:
        return encodable(str(error))
    except Exception as broken:  # noqa: BLE001 - an exception of the user's may not even print
        return f"<unprintable: its __str__ raised {type(broken).__name__}>"


def record_on(span: Span, error: BaseException, *, with_message: bool) -> None:
    """Add the ``exception`` event to ``span``: type and frames, the message only where ``with_message`` says so."""
    attributes = {
        semconv.EXCEPTION_TYPE: type_name(error),
        semconv.EXCEPTION_STACKTRACE: stacktrace(error, with_message=with_message),
    }
    if with_message:
        attributes[semconv.EXCEPTION_MESSAGE] = message(error)
    span.add_event(semconv.EXCEPTION_EVENT, attributes)


def stacktrace(error: BaseException, *, with_message: bool) -> str:
    """The traceback as Python prints it, without this library's frames and, unless asked for, without messages."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(parts) < _MAX_CAUSES:
        seen.add(id(current))
        name = type_name(current)
        last = f"{name}: {message(current)}\n" if with_message else f"{name}\n"
        parts.append("Traceback (most recent call last):\n" + "".join(_frames(current.__traceback__)) + last)
        if current.__cause__ is not None:
            link, current = "The above exception was the direct cause of the following exception:", current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            link, current = (
                "During handling of the above exception, another exception occurred:",
                current.__context__,
            )
        else:
            break
        parts.append(f"\n{link}\n\n")
    if len(parts) % 2 == 0 and parts:
        parts.pop()
    return encodable("".join(reversed(parts)))


def _frames(trace: TracebackType | None) -> list[str]:
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_OWN_FRAMES)]
    if len(frames) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        note = f"  ... {len(frames) - 2 * half} frames left out ...\n"
        return [*traceback.format_list(frames[:half]), note, *traceback.format_list(frames[-half:])]
    return traceback.format_list(frames)
