"""Flask: every request a server span, with the model that answered it.

Built on opentelemetry-instrumentation-flask, which makes the spans; added here are the model's name and version, the
route's error type, and that an exception's message, which quotes values, stays off the span.
"""

from __future__ import annotations

import functools
import re
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry.trace import StatusCode

from otel_mlobs import semconv
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.telemetry import failures, guard, hooks, running

try:
    import flask
    from flask.app import Flask  # FlaskInstrumentor().instrument() puts another class in the place of flask.Flask
    from opentelemetry.instrumentation import flask as otel_flask
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
except ImportError as error:  # pragma: no cover - the tests without extras see it
    raise MissingExtraError("otel_mlobs.integrations.flask", "flask", "flask") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from otel_mlobs.telemetry.running import Operation

_EXTENSION = "otel_mlobs"
_OTEL_SPAN_KEY = "opentelemetry-flask.span_key"
_SPAN = "otel_mlobs.server_span"
_RECORDED = "otel_mlobs.recorded"
_MODEL = "otel_mlobs.model"
_PREDICTION_ID = "otel_mlobs.prediction_id"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ACTIVATION_KEY = "opentelemetry-flask.activation_key"


class MLObs:
    """The Flask extension: ``MLObs(app)``, or ``MLObs()`` and later ``init_app(app)`` in an application factory.

    Applying it twice to an application changes nothing, and one that OpenTelemetry has instrumented already is not
    instrumented again. Nothing is stored on the extension, so one may serve many applications.
    """

    def __init__(
        self,
        app: flask.Flask | None = None,
        *,
        excluded_urls: str | None = None,
        prediction_id_header: str | None = None,
    ) -> None:
        """Instrument ``app``, if given; the arguments are :meth:`init_app`'s."""
        if app is not None:
            self.init_app(app, excluded_urls=excluded_urls, prediction_id_header=prediction_id_header)

    def init_app(
        self, app: flask.Flask, *, excluded_urls: str | None = None, prediction_id_header: str | None = None
    ) -> None:
        """Instrument ``app``.

        Args:
            app: the application.
            excluded_urls: comma-separated patterns of URLs to leave out.
            prediction_id_header: a response header, as ``"X-Prediction-Id"``, that tells the client by which id to
                report what came true: that of the request's last prediction or ranking which has one.

        Raises:
            TypeError: ``app`` is no Flask application, or ``prediction_id_header`` no text.
            ValueError: ``prediction_id_header`` is no header's name.
        """
        if not isinstance(prediction_id_header, (str, type(None))):
            raise TypeError(f'prediction_id_header must be text, as "X-Prediction-Id", got {prediction_id_header!r}')
        if prediction_id_header is not None and not _HEADER.fullmatch(prediction_id_header):
            raise ValueError(f'prediction_id_header must be a name, as "X-Prediction-Id", got {prediction_id_header!r}')
        if not isinstance(app, Flask):
            raise TypeError(f"MLObs takes a Flask application, got {app!r}")
        if app.extensions.get(_EXTENSION):
            return
        app.extensions[_EXTENSION] = True
        if not getattr(app, "_is_instrumented_by_opentelemetry", False):
            FlaskInstrumentor.instrument_app(app, excluded_urls=excluded_urls)  # type: ignore[no-untyped-call]
        # Registered after OpenTelemetry's, so that its span exists here, and torn down before it.
        app.before_request(_remember_server_span)
        app.after_request(_stream_within_request)
        if prediction_id_header is not None:
            app.after_request(functools.partial(_tell_prediction_id, prediction_id_header))
        app.teardown_request(_end_of_request)
        hooks.add_hook(_hook)


def _remember_server_span() -> None:
    """Runs after OpenTelemetry's own: its span exists, and must end without the exception, which it would quote.

    What belongs to the request is kept in its WSGI environment: requests within requests share ``flask.g``.
    """
    environ = flask.request.environ
    activation, span = environ.get(_ACTIVATION_KEY), environ.get(_OTEL_SPAN_KEY)
    if activation is not None:
        environ[_ACTIVATION_KEY] = _QuietActivation(activation)
    if span is not None and span.is_recording():
        environ[_SPAN] = span


def _stream_within_request(response: flask.Response) -> flask.Response:
    """Keep what a streamed response is made of beneath the request's span, which Flask ends before the first chunk."""
    if response.is_streamed and not response.direct_passthrough and _ACTIVATION_KEY in flask.request.environ:
        response.response = _StreamWithin(otel_context.get_current(), response.response)
    return response


def _tell_prediction_id(header: str, response: flask.Response) -> flask.Response:
    prediction_id = flask.request.environ.get(_PREDICTION_ID)
    if prediction_id is not None and prediction_id.isascii() and prediction_id.isprintable():
        response.headers.setdefault(header, prediction_id)
    return response


class _StreamWithin:
    """An iterator whose every step runs in a given context, and which leaves none attached between steps."""

    def __init__(self, context: Context, chunks: Any) -> None:
        self._context = context
        self._step = iter(chunks).__next__
        self._close = getattr(chunks, "close", None)

    def __iter__(self) -> _StreamWithin:
        return self

    def __next__(self) -> Any:
        token = otel_context.attach(self._context)
        try:
            return self._step()
        finally:
            self._leave(token)

    def close(self) -> None:
        if self._close is not None:
            token = otel_context.attach(self._context)
            try:
                self._close()
            finally:
                self._leave(token)

    def _leave(self, token: Any) -> None:
        # Before Flask 3.1 a stream's last step tears the request down, which has restored the context before it.
        if otel_context.get_current() is self._context:
            otel_context.detach(token)


def _end_of_request(error: BaseException | None) -> None:
    """Write the failure, without its message unless that was asked for."""
    environ = flask.request.environ
    span = environ.pop(_SPAN, None)
    if span is None or error is None:
        return
    try:
        error_type = failures.classify(error, ())
        if error_type is not None:
            messages = running.records_messages()
            span.set_attribute(semconv.ERROR_TYPE, error_type)
            if environ.pop(_RECORDED, None) is not error:
                failures.record_on(span, error, with_message=messages)
            span.set_status(StatusCode.ERROR, failures.message(error) if messages else error_type)
    except Exception as broken:  # noqa: BLE001 - the response has been made, it must go out
        guard.report("flask", broken)


class _QuietActivation:
    """Ends the instrumentation's ``use_span`` without handing it the exception, whose message it would record."""

    def __init__(self, activation: Any) -> None:
        self._activation = activation

    def __exit__(self, *_: object) -> None:
        self._activation.__exit__(None, None, None)


class _ModelOnServerSpan:
    """Puts the model's name and version on the request's server span; the last operation with a model wins."""

    def on_start(self, operation: Operation) -> None:
        model = operation.model
        if model is None or not flask.has_request_context():
            return
        on_request = flask.request.environ
        span: Span | None = on_request.get(_SPAN)
        said = (model, operation.version)
        if span is not None and on_request.get(_MODEL) != said:
            on_request[_MODEL] = said
            span.set_attribute(semconv.MODEL_NAME, model)
            if operation.version is not None:
                span.set_attribute(semconv.MODEL_VERSION, operation.version)

    def on_end(self, operation: Operation, error: BaseException | None) -> None:
        if operation.told_prediction_id is not None and flask.has_request_context():
            flask.request.environ[_PREDICTION_ID] = operation.told_prediction_id
        if error is not None and operation.has_recorded(error) and flask.has_request_context():
            flask.request.environ[_RECORDED] = error


_hook = _ModelOnServerSpan()

_patching = threading.Lock()
_patched: list[tuple[type[Flask], Any]] = []


def instrument() -> None:
    """Apply :class:`MLObs` to every Flask application that is made from now on, however ``Flask`` was imported."""
    import wrapt

    # The class that opentelemetry-instrument puts in Flask's place adds its own part after Flask's __init__.
    instrumented: type[Flask] | None = getattr(otel_flask, "_InstrumentedFlask", None)

    def init_of(patched: type[Flask]) -> Callable[..., None]:
        def init(wrapped: Any, instance: Flask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            wrapped(*args, **kwargs)
            if instrumented is not None and patched is not instrumented and isinstance(instance, instrumented):
                return
            try:
                MLObs(instance)
            except Exception as error:  # noqa: BLE001 - the application starts, without its spans
                guard.report("flask", error)

        return init

    with _patching:
        if not _patched:
            for kind in (Flask, instrumented):
                if kind is not None:
                    _patched.append((kind, kind.__init__))
                    wrapt.wrap_function_wrapper(kind, "__init__", init_of(kind))


def uninstrument() -> None:
    """Leave applications made from now on alone; those made before keep their spans."""
    with _patching:
        while _patched:
            kind, original = _patched.pop()
            kind.__init__ = original  # type: ignore[method-assign]
