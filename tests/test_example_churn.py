"""The census extract, the demo's application, and examples/churn as a user runs it."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from example_modules import modules_of

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "churn"
DEMO_DATA = ROOT / "otel_mlobs" / "tools" / "demo_data"
EXTRACT = DEMO_DATA / "census_employment.parquet"
PATIENCE = 60.0


@pytest.fixture
def example() -> Iterator[Any]:
    """Imports a module of examples/churn by its plain name, as a user's own script does."""
    with modules_of(EXAMPLE) as import_one:
        yield import_one


# -- the census rows ---------------------------------------------------------------------------------------------------


def test_the_extract_is_the_one_its_provenance_describes() -> None:
    """The sha256 in PROVENANCE.md is that of the file, and the file is small."""
    page = (DEMO_DATA / "PROVENANCE.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\*\*sha256 of the file\*\*: `([0-9a-f]{64})`", page)
    assert hashlib.sha256(EXTRACT.read_bytes()).hexdigest() == stated
    assert EXTRACT.stat().st_size <= 250_000


def test_the_extract_is_typed_small_and_complete() -> None:
    """Every column is a small integer without nulls, and PROVENANCE.md lists exactly these columns and types."""
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(EXTRACT)
    types = {field.name: str(field.type) for field in table.schema}
    assert types.pop("id") == "int32"
    assert types.pop("year") == "int16"
    assert set(types.values()) == {"int8"}
    assert all(column.null_count == 0 for column in table.columns)
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \|", (DEMO_DATA / "PROVENANCE.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert listed == [(field.name, str(field.type)) for field in table.schema]


def test_the_extract_is_the_sample_that_its_provenance_says() -> None:
    """Of the source's 68,785 and 208,892 rows exactly those with the smallest sha256 of the id are there, in order."""
    pytest.importorskip("pyarrow")
    from otel_mlobs.tools import churn

    def smallest(ids: range, size: int) -> list[int]:
        return sorted(sorted(ids, key=lambda i: hashlib.sha256(str(i).encode()).digest())[:size])

    reference, later = churn.load_rows()
    assert reference.ids.tolist() == smallest(range(68_785), 4_000)
    assert later.ids.tolist() == smallest(range(68_785, 68_785 + 208_892), 8_000)


def test_the_rows_keep_the_label_rate_of_the_source() -> None:
    """The share of employed persons is within three standard errors of the source's: 0.4958 in 2015, 0.5031 later."""
    pytest.importorskip("pyarrow")
    from otel_mlobs.tools import churn

    for rows, source in zip(churn.load_rows(), (0.495835, 0.503097), strict=True):
        error = (source * (1 - source) / len(rows.labels)) ** 0.5
        assert abs(rows.labels.mean() - source) < 3 * error


def test_the_rows_are_split_by_survey_year() -> None:
    """2015 is what a model learns from, 2016 to 2018 come later; shapes and types are as documented."""
    pytest.importorskip("pyarrow")
    from otel_mlobs.tools import churn

    reference, later = churn.load_rows()
    assert Counter(reference.years.tolist()) == {2015: 4_000}
    assert set(later.years.tolist()) == {2016, 2017, 2018}
    assert (np.diff(later.years) >= 0).all()
    assert reference.features.shape == (4_000, len(churn.FEATURES))
    assert later.features.shape == (8_000, len(churn.FEATURES))
    assert later.features.dtype == np.float64
    assert 0 <= later.features[:, 0].min() < later.features[:, 0].max() <= 99  # AGEP, an age


def test_without_pyarrow_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing pyarrow is answered with the exact pip command."""
    from otel_mlobs.tools import churn

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'otel-mlobs[demo]'")):
        churn.load_rows()


# -- the generated rows ------------------------------------------------------------------------------------------------


def test_the_generator_repeats_itself_for_a_seed(example: Any) -> None:
    """The same seed gives the same customers, another seed gives others."""
    data = example("data")
    first, same, other = (data.generate(500, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.features, same.features)
    assert np.array_equal(first.labels, same.labels)
    assert not np.array_equal(first.features, other.features)


def test_drift_shifts_the_mean_of_that_feature_alone(example: Any) -> None:
    """Drift of 0.5 moves every value of the feature by half its standard deviation, and no other feature."""
    data = example("data")
    plain, drifted = data.generate(500, seed=3), data.generate(500, seed=3, drift={"monthly_charge": 0.5})
    moved = drifted.features - plain.features
    column = plain.names.index("monthly_charge")
    assert np.allclose(moved[:, column], 0.5 * data.CHURN_LAWS["monthly_charge"].deviation)
    assert not np.delete(moved, column, axis=1).any()


@pytest.mark.parametrize("drift", [None, {"support_call_hours": 1.0}])
def test_customers_leave_as_often_as_the_docstring_says(example: Any, drift: dict[str, float] | None) -> None:
    """In ten groups by the stated probability, drifted or not, the share that leaves is within 4.5 standard errors."""
    data = example("data")
    table = data.generate(40_000, seed=5, drift=drift)
    log_odds = np.full(40_000, data.CHURN_INTERCEPT)
    for values, law in zip(table.features.T, data.CHURN_LAWS.values(), strict=True):
        log_odds += law.weight * (values - law.mean) / law.deviation
    stated = 1 / (1 + np.exp(-log_odds))
    for group in np.array_split(np.argsort(stated), 10):
        expected = stated[group]
        error = np.sqrt((expected * (1 - expected)).sum()) / len(group)
        assert abs(table.labels[group].mean() - expected.mean()) < 4.5 * error


def test_the_generator_refuses_what_it_cannot_do(example: Any) -> None:
    """No rows, an unknown feature, an unknown data set and drift of real rows raise and say what was expected."""
    data = example("data")
    with pytest.raises(ValueError, match="n must be positive, got 0"):
        data.generate(0, seed=1)
    with pytest.raises(ValueError, match=r"tenure_months.* got age"):
        data.generate(5, seed=1, drift={"age": 1.0})
    with pytest.raises(ValueError, match="one of census, churn, got 'titanic'"):
        data.load("titanic")
    with pytest.raises(ValueError, match="the census rows are real"):
        data.load("census", drift={"AGEP": 1.0})


# -- the models --------------------------------------------------------------------------------------------------------


def test_the_demo_model_ranks_later_years_well() -> None:
    """Trained on 2015, the demo's model ranks persons of 2016 to 2018 with an AUC above 0.85."""
    pytest.importorskip("pyarrow")
    metrics = pytest.importorskip("sklearn.metrics")
    from otel_mlobs.tools import churn

    reference, later = churn.load_rows()
    scores = churn.train(reference).predict_proba(later.features)[:, 1]
    assert metrics.roc_auc_score(later.labels, scores) > 0.85


def test_the_example_model_learns_both_data_sets(example: Any) -> None:
    """The example's pipeline is clearly better than chance on later rows, real or generated."""
    pytest.importorskip("pyarrow")
    metrics = pytest.importorskip("sklearn.metrics")
    data, train = example("data"), example("train")
    for name, least in (("census", 0.85), ("churn", 0.8)):
        reference, later = data.load(name)
        scores = train.fit(reference.features, reference.labels).predict_proba(later.features)[:, 1]
        assert metrics.roc_auc_score(later.labels, scores) > least


# -- the demo's application --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Any:
    """The demo's Flask app on real rows, with one of the ids that it knows."""
    for extra in ("pyarrow", "sklearn", "flask"):
        pytest.importorskip(extra)
    from otel_mlobs.tools import churn

    reference, later = churn.load_rows()
    return churn.create_app(churn.train(reference), later), int(later.ids[0])


def spans_by_name(telemetry: Any) -> dict[str, Any]:
    """The captured spans; every name occurs once."""
    spans = {span.name: span for span in telemetry.spans}
    assert len(spans) == len(telemetry.spans)
    return spans


def test_a_demo_request_is_a_trace_of_three(demo: Any) -> None:
    """A prediction answers with a probability; its lookup and its prediction hang under the server span."""
    import otel_mlobs as mlobs

    app, known = demo
    with mlobs.testing.capture() as telemetry:
        answer = app.test_client().post("/predict", json={"customer_id": known})
    assert answer.status_code == 200
    assert answer.json["customer_id"] == known
    assert 0 < answer.json["probability"] < 1

    spans = spans_by_name(telemetry)
    assert set(spans) == {"POST /predict", "feature_lookup customer_features", "prediction employment"}
    server = spans["POST /predict"]
    for name in ("feature_lookup customer_features", "prediction employment"):
        assert spans[name].parent.span_id == server.context.span_id
    assert spans["feature_lookup customer_features"].attributes["mlobs.feature.found"] == 16
    prediction = spans["prediction employment"].attributes
    assert prediction["mlobs.model.version"] == "1"
    assert prediction["mlobs.batch.size"] == 1
    assert prediction["mlobs.prediction.mean"] == pytest.approx(answer.json["probability"])


def test_a_null_in_the_demo_is_an_error_of_the_prediction(demo: Any) -> None:
    """The model's own exception answers 500 and is on the prediction span, not on the lookup."""
    import otel_mlobs as mlobs

    app, known = demo
    with mlobs.testing.capture() as telemetry:
        answer = app.test_client().post("/predict", json={"customer_id": known, "features": {"AGEP": None}})
    assert answer.status_code == 500
    spans = spans_by_name(telemetry)
    prediction = spans["prediction employment"]
    assert prediction.attributes["error.type"] == "ValueError"
    assert [event.name for event in prediction.events] == ["exception"]
    assert "error.type" not in spans["feature_lookup customer_features"].attributes


def test_an_unknown_customer_of_the_demo_is_no_error(demo: Any) -> None:
    """An id without features answers 404 and marks no span as failed."""
    import otel_mlobs as mlobs

    with mlobs.testing.capture() as telemetry:
        assert demo[0].test_client().post("/predict", json={"customer_id": 1}).status_code == 404
    spans = spans_by_name(telemetry)
    assert set(spans) == {"POST /predict", "feature_lookup customer_features"}
    assert not any(span.status.status_code.name == "ERROR" for span in spans.values())


@pytest.mark.parametrize("features", [[1], {"age": 1}, {"AGEP": "old"}, {"AGEP": 10**400}])
def test_the_demo_answers_400_to_wrong_features(demo: Any, features: object) -> None:
    """Features that the model does not have, or that are no numbers, never reach the lookup."""
    import otel_mlobs as mlobs

    with mlobs.testing.capture() as telemetry:
        answer = demo[0].test_client().post("/predict", json={"customer_id": demo[1], "features": features})
    assert answer.status_code == 400
    assert set(spans_by_name(telemetry)) == {"POST /predict"}


@pytest.mark.parametrize("body", [[], {}, {"customer_id": "1"}, {"customer_id": True}])
def test_the_demo_answers_400_to_what_is_no_request(demo: Any, body: object) -> None:
    """A body of another form is the caller's mistake."""
    assert demo[0].test_client().post("/predict", json=body).status_code == 400


# -- the client --------------------------------------------------------------------------------------------------------


def test_the_client_breaks_the_share_it_is_told(example: Any) -> None:
    """With broken=0.05 one request in twenty has a null, evenly spread, and rows come round again."""
    data, client = example("data"), example("client")
    rows = data.generate(30, seed=0)
    stream = client.requests(rows, send="ids", broken=0.05)
    sent = [next(stream) for _ in range(100)]
    assert [i for i, request in enumerate(sent) if "features" in request] == [19, 39, 59, 79, 99]
    assert sent[19]["features"] == {"tenure_months": None}
    assert sent[31]["customer_id"] == rows.ids[1]


def test_the_client_reports_true_quantiles(example: Any) -> None:
    """The p50 of 1 to 200 ms is 100 ms and the p99 198 ms; statuses other than 200 are errors, with their reasons."""
    client = example("client")
    summary = client.Summary(Counter({200: 190, 500: 7, 0: 3}), [i / 1000 for i in range(200, 0, -1)], 2.0)
    assert str(summary).splitlines() == [
        "200 requests in 2.0 s (100/s)",
        "errors 10 (3 x no answer, 7 x 500)",
        "latency p50 100.0 ms, p99 198.0 ms",
    ]


class _ClosesUnasked(http.server.BaseHTTPRequestHandler):
    """Promises to keep the connection and closes it after every second answer."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.answered += 1
        self.close_connection = self.answered == 2

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_the_client_outlives_connections_that_the_server_closes(example: Any) -> None:
    """Every request is answered once although the server closes kept-alive connections without saying so."""
    client = example("client")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ClosesUnasked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        summary = client.play(url, [{"customer_id": i} for i in range(21)], rate=0.0, concurrency=3)
        server.shutdown()
        thread.join()
    assert summary.statuses == {200: 21}


def test_the_client_counts_what_nobody_answers(example: Any) -> None:
    """Without a server every request is counted as not answered, and a URL that is none raises."""
    client = example("client")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert client.play(f"http://127.0.0.1:{port}", [{}] * 3, rate=0.0, concurrency=2).statuses == {0: 3}
    with pytest.raises(ValueError, match="got 'localhost:8000'"):
        client.Player("localhost:8000")


# -- the whole example, as its README runs it --------------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> str:
    """Run a script of the example and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Service:
    """The example under gunicorn, writing its telemetry to a file."""

    def __init__(self, artifacts: Path, telemetry: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.telemetry = telemetry
        environment = {
            "PYTHONPATH": str(ROOT),
            "BIND": f"127.0.0.1:{self.port}",
            "WEB_CONCURRENCY": "2",
            "CHURN_ARTIFACTS": str(artifacts),
            "MLOBS_BACKEND": "file",
            "MLOBS_PATH": str(telemetry),
        }
        self._log = telemetry.with_suffix(".log").open("wb")
        command, environment = [sys.executable, "-m", "gunicorn", "app:app"], {**os.environ, **environment}
        self._process = subprocess.Popen(command, cwd=EXAMPLE, env=environment, stdout=self._log, stderr=self._log)
        until = time.monotonic() + PATIENCE
        while self._closed():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise AssertionError(f"the service did not start:\n{Path(self._log.name).read_text()}")
            time.sleep(0.1)

    def _closed(self) -> bool:
        try:
            return self.call("GET", "/health")[0] != 200
        except OSError:
            return True

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request; status and JSON answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        payload = None if body is None else json.dumps(body).encode()
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    def stop(self) -> None:
        """Stop as an orchestrator does, letting the workers finish."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        self._log.close()

    def spans(self) -> list[dict[str, Any]]:
        """Every span in the telemetry file, attributes as plain values."""
        found = []
        for line in self.telemetry.read_text(encoding="utf-8").splitlines():
            for resource in json.loads(line).get("resourceSpans", ()):
                for scope in resource["scopeSpans"]:
                    found += scope["spans"]
        for span in found:
            span["attributes"] = {
                attribute["key"]: next(iter(attribute["value"].values())) for attribute in span.get("attributes", ())
            }
        return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What train.py saves for the census rows, and what it prints."""
    for extra in ("pyarrow", "sklearn", "flask", "gunicorn"):
        pytest.importorskip(extra)
    artifacts = tmp_path_factory.mktemp("artifacts")
    return artifacts, run("train.py", "--data", "census", "--artifacts", str(artifacts))


@pytest.mark.slow
def test_train_says_how_good_the_model_is(trained: tuple[Path, str]) -> None:
    """train.py prints AUC and accuracy of rows that the model has not seen, well above chance."""
    lines = re.findall(r"^(held out|later): (\d+) rows, AUC (0\.\d+), accuracy (0\.\d+)$", trained[1], re.MULTILINE)
    assert [(what, n) for what, n, _, _ in lines] == [("held out", "1000"), ("later", "8000")]
    assert all(float(auc) > 0.85 and float(accuracy) > 0.75 for _, _, auc, accuracy in lines)


@pytest.mark.slow
def test_the_service_answers_and_its_traces_tell_what_happened(trained: tuple[Path, str], tmp_path: Path) -> None:
    """Under gunicorn, rows, batches, nulls, unknown ids and nonsense get their answers, and each its spans."""
    service = Service(trained[0], tmp_path / "telemetry.jsonl")
    try:
        assert service.call("GET", "/health")[1] == {"status": "ok", "model": "employment", "version": "1"}
        played = run("client.py", "--url", f"http://127.0.0.1:{service.port}", "--count", "40", "--broken", "0.1")
        assert "40 requests" in played
        assert "errors 4 (4 x 500)" in played

        from otel_mlobs.tools import churn

        later = churn.load_rows()[1]
        known = later.ids[:2].tolist()
        features = dict(zip(churn.FEATURES, later.features[0].tolist(), strict=True))
        status, looked_up = service.call("POST", "/predict", {"customer_id": known[0]})
        assert status == 200
        for row in ({"features": features}, {"customer_id": known[1], "features": features}):
            status, given = service.call("POST", "/predict", row)
            assert (status, given["customer_id"]) == (200, row.get("customer_id"))
            assert given["probability"] == pytest.approx(looked_up["probability"])
        status, batch = service.call("POST", "/predict", [{"customer_id": i} for i in [*known, known[0]]])
        assert status == 200
        assert [row["customer_id"] for row in batch] == [*known, known[0]]
        # The same customer twice: the last bit may differ, BLAS adds up rows of a batch in blocks.
        assert [batch[i]["probability"] for i in (0, 2)] == pytest.approx([looked_up["probability"]] * 2)
        assert service.call("POST", "/predict", {"customer_id": 1}) == (404, {"error": "no customer 1"})
        wrong_types = [{"customer_id": "1"}, {"customer_id": 2**63}, {"customer_id": 1, "features": {"AGEP": 10**400}}]
        wrong_names = [{"id": 1}, {"features": {"AGEP": 1}}, {"customer_id": 1, "features": {"age": 1}}]
        not_a_number = {"customer_id": 1, "features": {"AGEP": float("nan")}}
        too_many = [{"customer_id": known[0]}] * 501
        for body in ([], [1], {}, *wrong_types, *wrong_names, not_a_number, too_many):
            status, answer = service.call("POST", "/predict", body)
            assert (status, list(answer)) == (400, ["error"])
    finally:
        service.stop()

    spans = service.spans()
    servers = {span["spanId"]: span for span in spans if span["name"] == "POST /predict"}
    assert len(servers) == 40 + 4 + 1 + 11
    lookups = [span for span in spans if span["name"] == "feature_lookup customer_features"]
    predictions = [span for span in spans if span["name"] == "prediction employment"]
    assert len(lookups) == 40 + 3 + 1
    assert len(predictions) == 40 + 4
    assert {span["parentSpanId"] for span in lookups + predictions} <= set(servers)
    failed = [span for span in spans if span.get("status", {}).get("code") == 2 and span["name"] != "POST /predict"]
    assert [span["name"] for span in failed] == ["prediction employment"] * 4
    for span in failed:
        assert span["attributes"]["error.type"] == "ValueError"
        assert [event["name"] for event in span["events"]] == ["exception"]
    (batch_span,) = (span for span in predictions if span["attributes"]["mlobs.batch.size"] == "3")
    assert float(batch_span["attributes"]["mlobs.prediction.mean"]) == pytest.approx(
        sum(row["probability"] for row in batch) / 3
    )
