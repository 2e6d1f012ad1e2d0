"""Flask: one server span a request, with the model on it, however the application came to be instrumented."""

from __future__ import annotations

import pytest

pytest.importorskip("flask")

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.trace import SpanKind, StatusCode
from receiver import run

import otel_mlobs as mlobs
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.integrations import registry
from otel_mlobs.integrations.flask import MLObs
from otel_mlobs.telemetry import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_mlobs.testing import Telemetry

pytestmark = pytest.mark.usefixtures("quiet_opentelemetry")

SECRET = "4111-1111-1111-1111"


class HandledError(Exception):
    """Turned into a response by the application."""


@mlobs.prediction(model="churn", version=3)
def score(rows: list[list[float]]) -> list[float]:
    """A model."""
    return [sum(row) for row in rows]


@mlobs.candidate_generation(source="stream")
def streamed() -> Iterator[str]:
    """Chunks of a response."""
    for item in "abc":
        assert mlobs.current_operation().name == "candidate_generation"
        yield item


def with_routes(app: flask.Flask) -> flask.Flask:
    """Give ``app`` a view for each case."""

    @app.get("/predict/<user>")
    def predict(user: str) -> dict[str, object]:
        return {"scores": score([[0.5]])}

    @app.get("/fail")
    def fail() -> str:
        with mlobs.operation("step"):
            raise ValueError(SECRET)

    @app.get("/fail-outside")
    def fail_outside() -> str:
        raise ValueError(SECRET)

    @app.get("/handled")
    def handled() -> str:
        with mlobs.operation("step"):
            raise HandledError(SECRET)

    @app.errorhandler(HandledError)
    def on_handled(error: HandledError) -> tuple[str, int]:
        return "sorry", 422

    @app.get("/missing")
    def missing() -> str:
        with mlobs.operation("step"):
            flask.abort(404, SECRET)

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(flask.stream_with_context(streamed()))

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


@pytest.fixture
def app() -> flask.Flask:
    """An instrumented application."""
    app = with_routes(flask.Flask("shop"))
    MLObs(app)
    return app


@pytest.fixture
def uninstrumented_afterwards() -> Iterator[None]:
    """Undo what the test instrumented."""
    yield
    mlobs.uninstrument()
    if FlaskInstrumentor().is_instrumented_by_opentelemetry:
        FlaskInstrumentor().uninstrument()


def server_span(telemetry: Telemetry) -> ReadableSpan:
    """The only server span."""
    (span,) = [span for span in telemetry.spans if span.kind is SpanKind.SERVER]
    return span


def is_one_trace(telemetry: Telemetry) -> bool:
    """Whether there is one server span with the prediction beneath it, and nothing else."""
    server = server_span(telemetry)
    below = [span.name for span in telemetry.children(server)]
    return below == ["prediction churn"] and len(telemetry.spans) == 2


def test_the_server_span_has_the_model(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """Name and version of the model are on the request's span, whose child the prediction is."""
    assert app.test_client().get("/predict/7").status_code == 200
    span = server_span(mlobs_telemetry)
    attributes = span.attributes or {}
    assert span.name == "GET /predict/<user>"
    assert (attributes["mlobs.model.name"], attributes["mlobs.model.version"]) == ("churn", "3")
    assert attributes["http.route"] == "/predict/<user>"
    assert span.status.status_code is StatusCode.UNSET
    assert is_one_trace(mlobs_telemetry)


@pytest.mark.parametrize(("path", "events"), [("/fail", 0), ("/fail-outside", 1)])
def test_an_unhandled_error(app: flask.Flask, mlobs_telemetry: Telemetry, path: str, events: int) -> None:
    """The server span has its type and an error status, its frames once in the trace, its text nowhere."""
    assert app.test_client().get(path).status_code == 500
    span = server_span(mlobs_telemetry)
    attributes = span.attributes or {}
    assert attributes["error.type"] == "ValueError"
    assert attributes["http.status_code"] == 500
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert len(span.events) == events
    assert sum(len(span.events) for span in mlobs_telemetry.spans) == 1
    for each in mlobs_telemetry.spans:
        assert SECRET not in each.to_json()


def test_messages_on_request(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """Where the process records messages, the server span has the error's."""
    running.record_exception_messages(True)
    try:
        app.test_client().get("/fail-outside")
    finally:
        running.record_exception_messages(False)
    span = server_span(mlobs_telemetry)
    assert span.status.description == SECRET
    assert (span.events[0].attributes or {})["exception.message"] == SECRET


def test_an_error_that_the_test_client_propagates_is_the_users(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """With ``TESTING`` the exception reaches the test, and the span is ended all the same."""
    app.testing = True
    with pytest.raises(ValueError, match=SECRET):
        app.test_client().get("/fail")
    assert (server_span(mlobs_telemetry).attributes or {})["error.type"] == "ValueError"


def test_answers_are_no_errors(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """``abort(404)`` inside an operation is an answer: neither span is an error."""
    assert app.test_client().get("/missing").status_code == 404
    for span in mlobs_telemetry.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
    assert len(mlobs_telemetry.spans) == 2


def test_an_error_the_application_handles_fails_the_step_only(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """The response is what the handler made of it; the step did fail."""
    assert app.test_client().get("/handled").status_code == 422
    assert server_span(mlobs_telemetry).status.status_code is StatusCode.UNSET
    assert mlobs_telemetry.span("step").status.status_code is StatusCode.ERROR


def test_a_streamed_response_keeps_its_parent(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """A decorated generator consumed after the view has returned is still beneath the request, and nothing leaks."""
    response = app.test_client().get("/stream")
    assert response.text == "abc"
    response.close()
    server = server_span(mlobs_telemetry)
    (child,) = mlobs_telemetry.children(server)
    assert child.name == "candidate_generation stream"
    assert (child.attributes or {})["mlobs.candidate.count"] == 3


def test_a_stream_that_breaks_off_is_closed_within_its_request(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """A client that hangs up closes the generator; its span is no error and nothing stays attached."""
    response = app.test_client().get("/stream", buffered=False)
    assert next(response.response) == b"a"  # type: ignore[call-overload]
    response.close()
    (child,) = mlobs_telemetry.children(server_span(mlobs_telemetry))
    assert child.status.status_code is StatusCode.UNSET
    assert (child.attributes or {})["mlobs.candidate.count"] < 3  # type: ignore[operator]


def test_requests_one_after_another_are_traces_of_their_own(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """Nothing of one request is current in the next, failed ones included."""
    client = app.test_client()
    for path in ("/fail", "/predict/1", "/missing", "/predict/2"):
        client.get(path)
    servers = [span for span in mlobs_telemetry.spans if span.kind is SpanKind.SERVER]
    assert len({span.context.trace_id for span in servers}) == 4
    assert all(span.parent is None for span in servers)


def test_an_application_factory(mlobs_telemetry: Telemetry) -> None:
    """One extension serves several applications through ``init_app``."""
    extension = MLObs()
    for _ in range(2):
        app = flask.Flask("made")
        extension.init_app(app)
        with_routes(app).test_client().get("/predict/7")
        assert is_one_trace(mlobs_telemetry)
        mlobs_telemetry.clear()


def test_twice_is_once(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """Applying the extension again adds no second span."""
    MLObs(app)
    MLObs().init_app(app)
    app.test_client().get("/predict/7")
    assert is_one_trace(mlobs_telemetry)


def test_excluded_urls(mlobs_telemetry: Telemetry) -> None:
    """What is excluded has no server span; an operation within it is a root, and keeps its attributes to itself."""
    app = flask.Flask("shop")
    MLObs(app, excluded_urls="health,predict/secret")
    client = with_routes(app).test_client()
    client.get("/health")
    assert mlobs_telemetry.spans == []
    client.get("/predict/secret")
    assert [(span.name, span.parent) for span in mlobs_telemetry.spans] == [("prediction churn", None)]
    client.get("/predict/7")
    assert server_span(mlobs_telemetry).name == "GET /predict/<user>"


def test_what_is_no_application_is_refused() -> None:
    """The error says what it got."""
    with pytest.raises(TypeError, match="MLObs takes a Flask application, got 'shop'"):
        MLObs("shop")  # type: ignore[arg-type]


def test_operations_outside_of_a_request(app: flask.Flask, mlobs_telemetry: Telemetry) -> None:
    """A job or a shell in the same process is no request and works."""
    score([[1.0]])
    with app.app_context():
        score([[1.0]])
    with app.test_request_context("/predict/7"):
        score([[1.0]])
    assert [span.name for span in mlobs_telemetry.spans] == ["prediction churn"] * 3


# -- however it is instrumented --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("uninstrumented_afterwards")
def test_instrument_reaches_applications_however_flask_was_imported(mlobs_telemetry: Telemetry) -> None:
    """``from flask import Flask`` before the call, subclasses too; after uninstrument new ones are left alone."""
    imported_before = flask.Flask

    class Shop(imported_before):
        pass

    assert "flask" in mlobs.instrument("flask")
    assert mlobs.instrument("flask") == registry.active()
    for kind in (imported_before, flask.Flask, Shop):
        with_routes(kind("shop")).test_client().get("/predict/7")
        assert is_one_trace(mlobs_telemetry)
        mlobs_telemetry.clear()
    mlobs.uninstrument("flask")
    assert registry.active() == ()
    with_routes(flask.Flask("shop")).test_client().get("/predict/7")
    assert [span.kind for span in mlobs_telemetry.spans] == [SpanKind.INTERNAL]


@pytest.mark.usefixtures("uninstrumented_afterwards")
@pytest.mark.parametrize("order", ["theirs first", "ours first", "between"])
def test_with_opentelemetry_instrument_active_there_is_one_span(mlobs_telemetry: Telemetry, order: str) -> None:
    """Whichever came first, and whichever class the application was made of, a request is one server span."""
    imported_before = flask.Flask
    if order == "ours first":
        mlobs.instrument("flask")
    FlaskInstrumentor().instrument()
    if order == "theirs first":
        mlobs.instrument("flask")
    for kind in (imported_before, flask.Flask):
        app = kind("shop")
        MLObs(app)
        with_routes(app).test_client().get("/predict/7")
        assert is_one_trace(mlobs_telemetry)
        assert (server_span(mlobs_telemetry).attributes or {})["mlobs.model.name"] == "churn"
        mlobs_telemetry.clear()


@pytest.mark.usefixtures("uninstrumented_afterwards")
def test_uninstrumenting_in_any_order_leaves_flask_as_it_was() -> None:
    """Undoing both, whichever first, restores Flask's own class and constructor."""
    before = (flask.Flask, flask.Flask.__init__)
    for first, second in ((mlobs.uninstrument, FlaskInstrumentor().uninstrument),
                          (FlaskInstrumentor().uninstrument, mlobs.uninstrument)):  # fmt: skip
        FlaskInstrumentor().instrument()
        mlobs.instrument("flask")
        first()
        second()
        assert (flask.Flask, flask.Flask.__init__) == before


def test_an_unknown_integration_is_named_with_those_known() -> None:
    """A slip of the pen is told at once."""
    with pytest.raises(ValueError, match=r"no integration is called 'flaks'; known are .*flask"):
        mlobs.instrument("flaks")
    with pytest.raises(ValueError, match="no integration is called 'flaks'"):
        mlobs.uninstrument("flaks")


def test_without_flask_the_error_holds_the_command() -> None:
    """Importing the integration without its extra says what to install; instrument() passes over it."""
    program = """
        import sys
        sys.modules["flask"] = None
        import otel_mlobs as mlobs
        try:
            import otel_mlobs.integrations.flask
        except mlobs.MissingExtraError as error:
            print(error, error.extra)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert "pip install 'otel-mlobs[flask]'" in ran.stdout
    assert issubclass(MissingExtraError, ImportError)


# -- the development server ------------------------------------------------------------------------------------------

SERVER = """
    import sys
    import otel_mlobs as mlobs
    from flask import Flask
    from otel_mlobs.integrations.flask import MLObs

    mlobs.configure("shop", backend="file", path=sys.argv[2])
    app = Flask("shop")
    MLObs(app)

    @app.get("/predict")
    @mlobs.prediction(model="churn")
    def predict():
        return "0.5"

    @app.get("/flush")
    def flush():
        return str(mlobs.force_flush())

    app.run(port=int(sys.argv[1]), debug=True, use_reloader=True)
"""


def get(url: str) -> str:
    """The body at ``url``, once the server answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()  # type: ignore[no-any-return]
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def spans_in(path: Path) -> list[dict[str, Any]]:
    """The spans in a file of OTLP-JSON lines."""
    found = []
    for line in path.read_text().splitlines():
        for resource in json.loads(line).get("resourceSpans", []):
            found += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
    return found


def test_the_development_server_with_its_reloader(tmp_path: Path) -> None:
    """Two processes run the program, one answers: a request is one server span and one prediction."""
    program, telemetry = tmp_path / "shop.py", tmp_path / "telemetry.jsonl"
    program.write_text(textwrap.dedent(SERVER))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "WERKZEUG_"))}
    server = subprocess.Popen(
        [sys.executable, str(program), str(port), str(telemetry)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert get(f"http://127.0.0.1:{port}/predict") == "0.5"
        assert get(f"http://127.0.0.1:{port}/flush") == "True"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
    spans = [span for span in spans_in(telemetry) if "flush" not in span["name"]]
    assert sorted(span["name"] for span in spans) == ["GET /predict", "prediction churn"]
    assert len({span["traceId"] for span in spans}) == 1


def test_the_client_is_told_by_which_id_to_report_what_came_true(mlobs_telemetry: Telemetry) -> None:
    """The header has the prediction's id, nothing where there was none, and the label joins by it."""
    import numpy as np

    reference = np.linspace(0, 1, 200)
    profile = mlobs.Profile.fit(
        reference.reshape(-1, 1), outputs=reference, labels=(reference > 0.5).astype(int), model="told"
    )
    monitor = mlobs.Monitor(profile, outcomes=mlobs.OutcomeStore("memory:"))

    @mlobs.prediction(monitor=monitor)
    def predict(row: dict[str, float]) -> float:
        return row["x0"]

    app = flask.Flask("told")
    app.add_url_rule("/score", "score", lambda: {"score": predict({"x0": 0.9})})
    app.add_url_rule("/health", "health", lambda: "well")
    MLObs(app, prediction_id_header="X-Prediction-Id")
    client = app.test_client()
    told = client.get("/score").headers["X-Prediction-Id"]
    assert told == mlobs_telemetry.span("prediction told").attributes["mlobs.prediction.id"]
    assert "X-Prediction-Id" not in client.get("/health").headers
    monitor.outcome(1, prediction_id=told)
    assert monitor.status().performance["recall"].realized == 1.0
    monitor.close()
    with pytest.raises(ValueError, match="X-Prediction-Id"):
        MLObs(flask.Flask("wrong"), prediction_id_header="no header\r\n")
    with pytest.raises(TypeError, match=r'prediction_id_header must be text, as "X-Prediction-Id", got 5'):
        MLObs(flask.Flask("wrong"), prediction_id_header=5)  # type: ignore[arg-type]


def test_the_client_is_told_the_id_whoever_listens() -> None:
    """Labels do not depend on an exporter: by a decorator and by ``with``, of a prediction and of a ranking."""
    assert run("""
        import flask
        import numpy as np
        from otel_mlobs.integrations.flask import MLObs
        mlobs.configure("svc", backend="none")
        x = np.linspace(0, 1, 200).reshape(-1, 1)
        profile = mlobs.Profile.fit(x, outputs=x[:, 0], labels=x[:, 0] > 0.5, model="m")
        store = mlobs.OutcomeStore("memory:")
        monitor = mlobs.Monitor(profile, outcomes=store)
        lists = mlobs.RankingMonitor(model="r", outcomes=store)
        app = flask.Flask("quiet")

        @app.get("/with")
        def within():
            with mlobs.prediction(monitor=monitor) as op:
                op.record(inputs=[0.9], outputs=0.9)
            return {"none": mlobs.current_operation().prediction_id is None}

        @app.get("/decorated")
        def decorated():
            return {"score": mlobs.prediction(monitor=monitor, inputs="row")(lambda row: 0.9)([0.9])}

        @app.get("/ranked")
        def ranked():
            with mlobs.ranking(monitor=lists) as op:
                op.record(outputs=["a", "b"])
            return {}

        MLObs(app, prediction_id_header="X-Prediction-Id")
        client = app.test_client()
        answers = [client.get(path) for path in ("/with", "/decorated", "/ranked")]
        ids = [answer.headers.get("X-Prediction-Id") for answer in answers]
        for one in ids[:2]:
            monitor.outcome(1, prediction_id=one)
        lists.outcome("a", ids[2])
        print(len({*ids}), monitor.status().performance["recall"].labelled, lists.status().results, answers[0].json)
    """).out == "3 2 {'joined': 1} {'none': True}\n"  # fmt: skip


@pytest.mark.parametrize("form", ["decorated", "with"])
def test_a_batch_without_rows_has_no_id(mlobs_telemetry: Telemetry, form: str) -> None:
    """No label will come of it; the client is told nothing."""
    import numpy as np

    reference = np.linspace(0, 1, 200)
    profile = mlobs.Profile.fit(
        reference.reshape(-1, 1), outputs=reference, labels=(reference > 0.5).astype(int), model="empty"
    )
    monitor = mlobs.Monitor(profile, outcomes=mlobs.OutcomeStore("memory:"))

    def scores(rows: list[list[float]]) -> np.ndarray:
        if form == "decorated":
            decorated = mlobs.prediction(monitor=monitor)(lambda rows: np.array([row[0] for row in rows]))
            return decorated(rows)  # type: ignore[no-any-return]
        with mlobs.prediction(monitor=monitor) as op:
            found = np.array([row[0] for row in rows])
            op.record(inputs=rows, outputs=found)
        return found

    app = flask.Flask("empty")
    app.add_url_rule("/<int:rows>", "score", lambda rows: {"scores": scores([[0.9]] * rows).tolist()})
    MLObs(app, prediction_id_header="X-Prediction-Id")
    client = app.test_client()
    assert "X-Prediction-Id" not in client.get("/0").headers
    told = client.get("/2").headers["X-Prediction-Id"]
    monitor.outcome(1, prediction_id=f"{told}.1")
    assert monitor.status().performance["recall"].realized == 1.0
    monitor.close()
