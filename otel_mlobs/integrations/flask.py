"""Flask: every request a server span, with the model that answered it.

Built on opentelemetry-instrumentation-flask, which makes the spans; added here are the model's name and version, the
route's error type, and that an exception's message, which quotes values, stays off the span.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from otel_mlobs import semconv
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.telemetry import failures, guard, hooks, running

try:
    import flask
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
except ImportError as error:  # pragma: no cover - the tests without extras see it
    raise MissingExtraError("otel_mlobs.integrations.flask", "flask", "flask") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from otel_mlobs.telemetry.running import Operation

_EXTENSION = "otel_mlobs"
_SPAN = "_otel_mlobs_server_span"
_RECORDED = "_otel_mlobs_recorded"
_ACTIVATION_KEY = "opentelemetry-flask.activation_key"


class MLObs:
    """The Flask extension: ``MLObs(app)``, or ``MLObs()`` and later ``init_app(app)`` in an application factory.

    Applying it twice to an application changes nothing, and one that OpenTelemetry has instrumented already is not
    instrumented again. Nothing is stored on the extension, so one may serve many applications.
    """

    def __init__(self, app: flask.Flask | None = None, *, excluded_urls: str | None = None) -> None:
        """Instrument ``app``, if given. ``excluded_urls``: comma-separated patterns of URLs to leave out."""
        if app is not None:
            self.init_app(app, excluded_urls=excluded_urls)

    def init_app(self, app: flask.Flask, *, excluded_urls: str | None = None) -> None:
        """Instrument ``app``.

        Raises:
            TypeError: ``app`` is no Flask application.
        """
        if not isinstance(app, flask.Flask):
            raise TypeError(f"MLObs takes a Flask application, got {app!r}")
        if app.extensions.get(_EXTENSION):
            return
        app.extensions[_EXTENSION] = True
        if not getattr(app, "_is_instrumented_by_opentelemetry", False):
            FlaskInstrumentor.instrument_app(app, excluded_urls=excluded_urls)  # type: ignore[no-untyped-call]
        # Registered after OpenTelemetry's, so that its span exists here, and torn down before it.
        app.before_request(_remember_server_span)
        app.teardown_request(_end_of_request)
        hooks.add_hook(_hook)


def _remember_server_span() -> None:
    span = trace.get_current_span()
    if span.is_recording():
        setattr(flask.g, _SPAN, span)


def _end_of_request(error: BaseException | None) -> None:
    """Write the failure without its message, and let OpenTelemetry end the span as if there were none to record."""
    span = flask.g.pop(_SPAN, None)
    if span is None or error is None:
        return
    try:
        error_type = failures.classify(error, ())
        if error_type is not None:
            messages = running.records_messages()
            span.set_attribute(semconv.ERROR_TYPE, error_type)
            if flask.g.pop(_RECORDED, None) is not error:
                failures.record_on(span, error, with_message=messages)
            span.set_status(StatusCode.ERROR, str(error) if messages else error_type)
        environ = flask.request.environ
        activation = environ.get(_ACTIVATION_KEY)
        if activation is not None:
            environ[_ACTIVATION_KEY] = _QuietActivation(activation)
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
        span: Span | None = flask.g.get(_SPAN)
        if span is not None:
            span.set_attribute(semconv.MODEL_NAME, model)
            if operation.version is not None:
                span.set_attribute(semconv.MODEL_VERSION, operation.version)

    def on_end(self, operation: Operation, error: BaseException | None) -> None:
        if error is not None and operation.has_recorded(error) and flask.has_request_context():
            setattr(flask.g, _RECORDED, error)


_hook = _ModelOnServerSpan()

_patching = threading.Lock()
_original_init: list[Callable[..., None]] = []


def instrument() -> None:
    """Apply :class:`MLObs` to every Flask application that is made from now on, however ``Flask`` was imported."""
    import wrapt

    def init(wrapped: Any, instance: flask.Flask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        wrapped(*args, **kwargs)
        try:
            MLObs(instance)
        except Exception as error:  # noqa: BLE001 - the application starts, without its spans
            guard.report("flask", error)

    with _patching:
        if not _original_init:
            _original_init.append(flask.Flask.__init__)
            wrapt.wrap_function_wrapper(flask.Flask, "__init__", init)


def uninstrument() -> None:
    """Leave applications made from now on alone; those made before keep their spans."""
    with _patching:
        if _original_init:
            flask.Flask.__init__ = _original_init.pop()  # type: ignore[method-assign]
