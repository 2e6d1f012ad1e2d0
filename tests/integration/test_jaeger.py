"""The churn example as users run it, under gunicorn: what a real Jaeger then shows for each request."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .service import WORKERS, load, serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Jaeger, Process, Span

EXAMPLE = Path(__file__).parents[2] / "examples" / "churn"
LOOKUP, PREDICT = "feature_lookup customer_features", "prediction employment"
CUSTOMERS = 200
NO_CUSTOMER = 999_999_999


@dataclass(frozen=True)
class Served:
    """What the example was asked and answered, and the traces of it."""

    answers: list[tuple[int, Any]]
    traces: list[list[Span]]
    instance: str | None
    pids: set[int]

    def of(self, *names: str, failed: bool = False) -> list[list[Span]]:
        """The traces of exactly the operations ``names``, that failed or did not."""
        return [
            trace
            for trace in self.traces
            if sorted(span.name for span in trace if span.parent_id) == sorted(names)
            and any("error.type" in span.attributes for span in trace) is failed
        ]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's model and feature store, trained on real rows."""
    folder = tmp_path_factory.mktemp("artifacts")
    subprocess.run([sys.executable, "train.py", "--artifacts", str(folder)], cwd=EXAMPLE, check=True)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["loaded-in-workers", "preloaded"])
def served(request: pytest.FixtureRequest, artifacts: Path, jaeger: Jaeger, start: Callable[..., Process]) -> Served:
    """Real customers one by one and three at once; one without lookup, one unknown, one whom the model cannot take."""
    from otel_mlobs.tools.churn import FEATURES, load_rows

    _, later = load_rows()
    ids = later.ids.tolist()
    bodies: list[Any] = [{"customer_id": customer} for customer in ids[:CUSTOMERS]]
    bodies.append([{"customer_id": customer} for customer in ids[:3]])
    bodies.append({"features": dict(zip(FEATURES, later.features[0].tolist(), strict=True))})
    bodies.append({"customer_id": NO_CUSTOMER})
    bodies.append({"customer_id": ids[0], "features": {"AGEP": None}})

    instance = "replica-7" if request.param else None
    environment = {
        "CHURN_ARTIFACTS": str(artifacts),
        "MLOBS_BACKEND": "jaeger",
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.http,
        **({"OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={instance}"} if instance else {}),
    }
    since = time.time()
    service, port = serve(start, "app:app", EXAMPLE, environment, preload=request.param)
    answers = load(port, [("POST", "/predict", body) for body in bodies], reuse=5)
    pids = service.children()
    assert service.stop() == 0
    return Served(answers, jaeger.wait_for_traces("churn", len(bodies), since=since), instance, pids)


def typed(span: Span, prefix: str = "mlobs.") -> dict[str, tuple[str, Any]]:
    """The attributes whose names begin with ``prefix``: Jaeger's type and the value."""
    return {key: (span.types[key], value) for key, value in span.attributes.items() if key.startswith(prefix)}


def one(trace: list[Span], name: str) -> Span:
    """The only span of that name."""
    (span,) = (span for span in trace if span.name == name)
    return span


def test_every_request_is_exactly_one_trace(served: Served) -> None:
    """As many traces as requests, each with one Flask server span at its root that says how it was answered."""
    assert len(served.traces) == len(served.answers)
    roots = [span for trace in served.traces for span in trace if span.parent_id is None]
    assert len(roots) == len(served.answers)
    assert {(root.name, root.attributes["span.kind"]) for root in roots} == {("POST /predict", "server")}
    assert {len(trace) for trace in served.traces} == {2, 3}

    def status(root: Span) -> int:
        return int(root.attributes.get("http.response.status_code") or root.attributes["http.status_code"])

    assert Counter(map(status, roots)) == Counter(status for status, _ in served.answers)
    assert Counter(status for status, _ in served.answers) == {200: CUSTOMERS + 2, 404: 1, 500: 1}


def test_the_steps_of_the_model_are_children_of_the_request(served: Served) -> None:
    """Lookup and prediction hang beneath the server span, and nothing else does."""
    assert len(served.of(LOOKUP, PREDICT)) == CUSTOMERS + 1
    assert len(served.of(PREDICT)) == 1
    for trace in served.traces:
        (root,) = (span for span in trace if span.parent_id is None)
        assert {span.parent_id for span in trace if span is not root} == {root.span_id}
        assert {span.service for span in trace} == {"churn"}


def test_attributes_have_the_right_values_and_types(served: Served) -> None:
    """The scores that were answered stand on the prediction spans, as numbers; names and versions are strings."""
    singles = [trace for trace in served.of(LOOKUP, PREDICT) if one(trace, PREDICT).attributes["mlobs.batch.size"] == 1]
    scores = []
    for trace in singles:
        assert typed(one(trace, LOOKUP)) == {
            "mlobs.operation.name": ("string", "feature_lookup"),
            "mlobs.feature_store.name": ("string", "sqlite"),
            "mlobs.feature_view.name": ("string", "customer_features"),
            "mlobs.feature.requested": ("int64", 16),
            "mlobs.feature.found": ("int64", 16),
            "mlobs.feature.missing": ("int64", 0),
        }
        prediction = typed(one(trace, PREDICT))
        score = prediction["mlobs.prediction.mean"][1]
        scores.append(score)
        assert prediction == {
            "mlobs.operation.name": ("string", "prediction"),
            "mlobs.model.name": ("string", "employment"),
            "mlobs.model.version": ("string", "1"),
            "mlobs.batch.size": ("int64", 1),
            "mlobs.prediction.min": ("float64", score),
            "mlobs.prediction.mean": ("float64", score),
            "mlobs.prediction.max": ("float64", score),
            "mlobs.prediction.std": ("float64", 0),
        }
    assert sorted(scores) == sorted(answer["probability"] for _, answer in served.answers[:CUSTOMERS])


def test_a_batch_is_summarised(served: Served) -> None:
    """Three customers in one request are one prediction of three rows, with the lowest, mean and highest score."""
    (trace,) = (
        trace for trace in served.of(LOOKUP, PREDICT) if one(trace, PREDICT).attributes["mlobs.batch.size"] == 3
    )
    scores = [answer["probability"] for answer in served.answers[CUSTOMERS][1]]
    said = one(trace, PREDICT).attributes
    assert one(trace, LOOKUP).attributes["mlobs.feature.requested"] == 48
    assert said["mlobs.prediction.min"] == min(scores)
    assert said["mlobs.prediction.max"] == max(scores)
    assert said["mlobs.prediction.mean"] == pytest.approx(sum(scores) / 3, rel=1e-12)


def test_the_server_span_names_the_model(served: Served) -> None:
    """Which model answered, in which version, can be searched for on the request itself."""
    for trace in served.of(LOOKUP, PREDICT):
        (root,) = (span for span in trace if span.parent_id is None)
        assert typed(root, "mlobs.model.") == {
            "mlobs.model.name": ("string", "employment"),
            "mlobs.model.version": ("string", "1"),
        }


def test_the_error_trace_tells_what_failed_but_quotes_nothing(served: Served) -> None:
    """A model that raises: error, its type and its frames on the spans, but no exception message anywhere."""
    (trace,) = served.of(LOOKUP, PREDICT, failed=True)
    failed = one(trace, PREDICT)
    assert typed(failed, "error") == {"error": ("bool", True), "error.type": ("string", "ValueError")}
    (event,) = failed.events
    assert event["event"] == "exception"
    assert event["exception.type"] == "ValueError"
    assert "in predict" in event["exception.stacktrace"]
    assert "exception.message" not in event

    (root,) = (span for span in trace if span.parent_id is None)
    assert root.attributes["error"] is True
    assert root.attributes["error.type"] in {"ValueError", "500"}
    assert "error" not in one(trace, LOOKUP).attributes

    everything = json.dumps([[span.attributes, span.events] for span in trace])
    assert "exception.message" not in everything
    assert "contains NaN" not in everything  # what scikit-learn says


def test_an_unknown_customer_is_an_answer_and_no_error(served: Served) -> None:
    """What the user named as expected ends in a 404 whose trace alarms nobody."""
    (trace,) = served.of(LOOKUP)
    for span in trace:
        assert "error" not in span.attributes
        assert "error.type" not in span.attributes
    assert str(NO_CUSTOMER) not in json.dumps([[span.attributes, span.events] for span in trace])


def test_every_worker_is_an_instance_of_its_own(served: Served) -> None:
    """The workers share nothing but the service's name; a preloaded one adds its pid to the parent's id."""
    instances = {span.resource["service.instance.id"] for trace in served.traces for span in trace}
    assert len(served.pids) == WORKERS
    assert 1 < len(instances) <= WORKERS
    if served.instance:
        assert instances <= {f"{served.instance}/{pid}" for pid in served.pids}
