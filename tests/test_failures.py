"""Exceptions: passed through unchanged, classified as the design says, recorded once, without what they quote."""

from __future__ import annotations

import pytest

pytest.importorskip("werkzeug")

import asyncio
import concurrent.futures
import sys
import traceback
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode
from werkzeug.exceptions import BadGateway, HTTPException, NotFound, abort
from werkzeug.wrappers import Response

import otel_mlobs as mlobs
from otel_mlobs.telemetry import failures, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_mlobs.testing import Telemetry

pytestmark = pytest.mark.usefixtures("quiet_opentelemetry")

SECRET = "4111-1111-1111-1111"


class FeatureStoreError(Exception):
    """A user's exception."""


class UnprintableError(Exception):
    """Its own text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def fail(error: BaseException, **options: Any) -> Any:
    """Raise ``error`` in a decorated function and check that it is what comes out."""

    @mlobs.prediction(model="failing", **options)
    def score(x: object) -> float:
        raise error

    with pytest.raises(type(error)) as raised:
        score(1)
    assert raised.value is error
    return error


def told(telemetry: Telemetry) -> tuple[object, StatusCode, list[str]]:
    """Error type, status and events of the only span."""
    (span,) = telemetry.spans
    return (
        (span.attributes or {}).get("error.type"),
        span.status.status_code,
        [event.name for event in span.events],
    )


def everything(telemetry: Telemetry) -> str:
    """All that leaves the process, as text."""
    spans = "".join(span.to_json() + str(span.events) for span in telemetry.spans)
    return spans + repr(telemetry.metrics) + repr(telemetry.logs)


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (ValueError(SECRET), "ValueError"),
        (FeatureStoreError(SECRET), "test_failures.FeatureStoreError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit"),
        (RecursionError(SECRET), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (UnprintableError(), "test_failures.UnprintableError"),
        (BadGateway(SECRET), "werkzeug.exceptions.BadGateway"),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, "bad"), "UnicodeDecodeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_passes_through_and_is_recorded(
    mlobs_telemetry: Telemetry, error: BaseException, error_type: str
) -> None:
    """The same object is raised; the span has its type, its frames and no word of its text."""
    fail(error)
    assert told(mlobs_telemetry) == (error_type, StatusCode.ERROR, ["exception"])
    (span,) = mlobs_telemetry.spans
    assert span.status.description == error_type
    event = span.events[0].attributes or {}
    assert event.keys() == {"exception.type", "exception.stacktrace"}
    assert event["exception.type"] == error_type
    stacktrace = str(event["exception.stacktrace"])
    assert stacktrace.endswith(f"{error_type}\n")
    assert "in score" in stacktrace
    assert "wrapping.py" not in stacktrace
    assert SECRET not in everything(mlobs_telemetry)
    assert mlobs_telemetry.point("mlobs.operation.errors", mlobs__model__name="failing").value >= 1


@pytest.mark.parametrize(
    "error", [NotFound(SECRET), GeneratorExit(), HTTPException(response=Response(status=302))], ids=lambda e: type(e)
)
def test_answers_are_no_errors(mlobs_telemetry: Telemetry, error: BaseException) -> None:
    """An HTTP error below 500, a consumer that had enough, a response that was raised: nothing is wrong."""
    fail(error)
    assert told(mlobs_telemetry) == (None, StatusCode.UNSET, [])
    point = mlobs_telemetry.point("mlobs.operation.duration", mlobs__model__name="failing")
    assert "error.type" not in point.attributes


def test_abort_below_500_is_no_error_and_from_500_is(mlobs_telemetry: Telemetry) -> None:
    """``abort`` with a code or a whole response is judged by its status."""
    for given, is_error in ((404, False), (Response(status=409), False), (503, True), (Response(status=500), True)):

        @mlobs.operation("step")
        def step(given: Any = given) -> None:
            abort(given)

        with pytest.raises(HTTPException):
            step()
        assert (mlobs_telemetry.spans[-1].status.status_code is StatusCode.ERROR) is is_error


def test_expected_errors_are_no_errors(mlobs_telemetry: Telemetry) -> None:
    """What ``expected`` names, one class or several, and their subclasses; others still are."""
    fail(KeyError("k"), expected=LookupError)
    fail(ValueError("v"), expected=[KeyError, ValueError])
    fail(TypeError("t"), expected=(KeyError, ValueError))
    statuses = [span.status.status_code for span in mlobs_telemetry.spans]
    assert statuses == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]


def test_cancellation_is_kept_apart(mlobs_telemetry: Telemetry) -> None:
    """Cut off by ``wait_for`` or cancelled: ``error.type`` says so, the status and the alert's counter do not."""

    @mlobs.prediction(model="slow-model")
    async def score(x: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(score(1), 0.01)
        task = asyncio.ensure_future(score(1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    for span in mlobs_telemetry.spans:
        assert (span.attributes or {})["error.type"] == "cancelled"
        assert span.status.status_code is StatusCode.UNSET
        assert span.events == ()
    assert mlobs_telemetry.point("mlobs.operation.errors", mlobs__model__name="slow-model").value == 0
    assert mlobs_telemetry.point("mlobs.operation.duration", error__type="cancelled").count == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with Python 3.11")
def test_a_task_group_cancels_and_groups(mlobs_telemetry: Telemetry) -> None:
    """Of two tasks the failing one is an error, the other is cancelled, and the group is an error of its own."""

    @mlobs.operation("fail")
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError(SECRET)

    @mlobs.operation("wait")
    async def waiting() -> None:
        await asyncio.Event().wait()

    @mlobs.operation("both")
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
            group.create_task(waiting())

    with pytest.raises(ExceptionGroup) as raised:  # noqa: F821
        asyncio.run(both())
    assert [type(error) for error in raised.value.exceptions] == [ValueError]
    types = {span.name: (span.attributes or {})["error.type"] for span in mlobs_telemetry.spans}
    assert types == {"fail failing": "ValueError", "wait waiting": "cancelled", "both": "ExceptionGroup"}
    assert SECRET not in everything(mlobs_telemetry)


def test_a_timeout_within_the_operation_is_an_error(mlobs_telemetry: Telemetry) -> None:
    """The operation's own dependency was too slow: that is a failure, not a cancellation."""

    @mlobs.operation("load")
    async def load() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(load())
    assert mlobs_telemetry.spans[0].status.status_code is StatusCode.ERROR


def test_an_error_is_recorded_once_on_the_innermost_operation(mlobs_telemetry: Telemetry) -> None:
    """All operations it passes through have its type and status; its frames are on the innermost alone."""
    with pytest.raises(ValueError, match="deep"), mlobs.operation("outer"), mlobs.operation("middle"):  # noqa: SIM117
        with mlobs.operation("inner"):
            raise ValueError("deep")
    inner, middle, outer = mlobs_telemetry.spans
    assert [len(span.events) for span in (inner, middle, outer)] == [1, 0, 0]
    assert [span.status.status_code for span in (inner, middle, outer)] == [StatusCode.ERROR] * 3
    assert {(span.attributes or {})["error.type"] for span in (inner, middle, outer)} == {"ValueError"}


def test_another_error_on_the_way_is_recorded_as_well(mlobs_telemetry: Telemetry) -> None:
    """An outer operation that makes a new error of it records that, with the cause, and no text of either."""
    with pytest.raises(FeatureStoreError), mlobs.operation("outer"):  # noqa: PT012
        try:
            with mlobs.operation("inner"):
                raise KeyError(SECRET)
        except KeyError as error:
            raise FeatureStoreError(SECRET) from error
    _inner, outer = mlobs_telemetry.spans
    stacktrace = str((outer.events[0].attributes or {})["exception.stacktrace"])
    cause, _, effect = stacktrace.partition("direct cause")
    assert "KeyError\n" in cause
    assert effect.endswith("test_failures.FeatureStoreError\n")
    assert SECRET not in everything(mlobs_telemetry)


def test_a_caught_error_leaves_the_outer_operation_alone(mlobs_telemetry: Telemetry) -> None:
    """A fallback that works is no failure of the request."""
    with mlobs.operation("outer"):
        try:
            with mlobs.operation("inner"):
                raise KeyError
        except KeyError:
            pass
    assert mlobs_telemetry.span("outer").status.status_code is StatusCode.UNSET
    assert mlobs_telemetry.span("inner").status.status_code is StatusCode.ERROR


def test_an_error_expected_within_is_still_one_outside(mlobs_telemetry: Telemetry) -> None:
    """It is recorded by the first operation for which it is an error."""
    with pytest.raises(KeyError), mlobs.operation("outer"), mlobs.operation("inner", expected=KeyError):
        raise KeyError
    inner, outer = mlobs_telemetry.spans
    assert (len(inner.events), inner.status.status_code) == (0, StatusCode.UNSET)
    assert (len(outer.events), outer.status.status_code) == (1, StatusCode.ERROR)


def test_the_traceback_the_user_sees_still_names_their_frames(mlobs_telemetry: Telemetry) -> None:
    """The exception's own traceback, context and cause are as they were."""
    cause = KeyError("cause")

    @mlobs.operation("step")
    def step() -> None:
        raise ValueError("effect") from cause

    with pytest.raises(ValueError, match="effect") as raised:
        step()
    assert raised.value.__cause__ is cause
    assert raised.value.__context__ is None
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "step"


def test_a_runaway_recursion_ends_as_python_ends_it(mlobs_telemetry: Telemetry) -> None:
    """RecursionError reaches the caller, nothing stays attached and the outermost span is there."""
    running_before = mlobs.current_operation()

    @mlobs.operation("deep")
    def deep(level: int) -> int:
        return deep(level + 1)

    with pytest.raises(RecursionError):
        deep(0)
    assert mlobs.current_operation() is running_before
    outermost = [span for span in mlobs_telemetry.spans if span.parent is None]
    assert [(span.attributes or {}).get("error.type") for span in outermost] == ["RecursionError"]


# -- messages, opted in ----------------------------------------------------------------------------------------------


def test_messages_on_request(mlobs_telemetry: Telemetry) -> None:
    """``exception_messages=True`` puts the text on the event, in the traceback and in the status."""
    fail(ValueError("age is -3"), exception_messages=True)
    (span,) = mlobs_telemetry.spans
    event = span.events[0].attributes or {}
    assert event["exception.message"] == "age is -3"
    assert str(event["exception.stacktrace"]).endswith("ValueError: age is -3\n")
    assert span.status.description == "age is -3"


@pytest.fixture
def messages_everywhere() -> Iterator[None]:
    """Record messages, as ``configure(exception_messages=True)`` does."""
    running.record_exception_messages(True)
    yield
    running.record_exception_messages(False)


@pytest.mark.usefixtures("messages_everywhere")
def test_an_operation_may_refuse_messages_that_are_on(mlobs_telemetry: Telemetry) -> None:
    """The process's setting holds where the operation is silent; what the operation says wins."""
    fail(ValueError("said"))
    fail(ValueError(SECRET), exception_messages=False)
    assert "said" in everything(mlobs_telemetry)
    assert SECRET not in everything(mlobs_telemetry)


def test_an_error_whose_text_raises_is_recorded_with_messages_on(mlobs_telemetry: Telemetry) -> None:
    """A broken ``__str__`` costs neither the span nor the user's exception."""
    fail(UnprintableError(), exception_messages=True)
    (span,) = mlobs_telemetry.spans
    assert (span.events[0].attributes or {})["exception.message"] == "<unprintable: its __str__ raised RuntimeError>"


# -- the stacktrace --------------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    """``error`` with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_with_messages_the_stacktrace_is_pythons_own() -> None:
    """Chains print as ``traceback`` prints them."""
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            try:
                raise ValueError("second") from error
            except ValueError:
                raise TypeError("third")  # noqa: B904 - the implicit chain is what is tested
    except TypeError as error:
        expected = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        found = failures.stacktrace(error, with_message=True)
    assert found == expected


def test_a_suppressed_context_is_left_out() -> None:
    """``raise … from None`` hides what came before."""
    try:
        try:
            raise KeyError
        except KeyError:
            raise ValueError from None
    except ValueError as error:
        found = failures.stacktrace(error, with_message=False)
    assert "KeyError" not in found


def test_chains_that_loop_or_are_long_end() -> None:
    """A cycle of causes is followed once around, and of a hundred causes a few."""
    first, second = raised(KeyError("a")), raised(ValueError("b"))
    first.__cause__, second.__cause__ = second, first
    assert failures.stacktrace(first, with_message=False).count("direct cause") == 1
    error = raised(ValueError("0"))
    for number in range(100):
        following = raised(ValueError(str(number)))
        following.__cause__ = error
        error = following
    assert failures.stacktrace(error, with_message=False).count("Traceback") < 10


def test_deep_tracebacks_are_cut_in_the_middle() -> None:
    """Of hundreds of frames the first and last remain, with the number left out."""

    def down(left: int) -> None:
        if left:
            down(left - 1)
        raise ValueError

    try:
        down(300)
    except ValueError as error:
        text = failures.stacktrace(error, with_message=False)
    assert "frames left out" in text
    assert text.count("in down") < 70


def test_an_http_clients_error_is_a_failure() -> None:
    """A 404 of a dependency, as requests or httpx raise it, is no answer to our caller."""

    class HTTPStatusError(Exception):
        code = 404

    assert failures.classify(HTTPStatusError(), ()) is not None
    assert failures.classify(concurrent.futures.TimeoutError(), ()) == "TimeoutError" or sys.version_info < (3, 11)
