"""Every public signature, as a user's type checker sees it: checked by ``mypy --strict``, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span
from typing_extensions import assert_type

import otel_mlobs as mlobs
from otel_mlobs.telemetry.hooks import OperationHook, add_hook, remove_hook
from otel_mlobs.telemetry.operations import OperationSpec

Row = dict[str, float]


# A decorated callable keeps its type, bare and with arguments.


@mlobs.feature_lookup
def bare_lookup(user_id: int) -> Row:
    """Bare."""
    return {}


@mlobs.feature_lookup(
    store="redis",
    view="user_features",
    features=["age"],
    timestamp="updated_at",
    objective="15m",
    default={},
    expected=KeyError,
)
def lookup(user_id: int, *, fresh: bool = False) -> Row:
    """With arguments."""
    return {}


@mlobs.candidate_generation
async def bare_candidates(features: Row) -> list[int]:
    """A coroutine, bare."""
    return []


@mlobs.candidate_generation(source="two_tower", k=500, model="tower", version=2)
async def candidates(features: Row) -> list[int]:
    """A coroutine, with arguments."""
    return []


@mlobs.ranking
def bare_rank(items: list[int]) -> Generator[int, str, bool]:
    """A generator."""
    yield 1
    return True


@mlobs.ranking(model="ltr", version="7", inputs="items", outputs=lambda result: result["scores"])
def rank(features: Row, items: list[int]) -> dict[str, list[float]]:
    """Inputs by name, outputs by callable."""
    return {}


@mlobs.prediction
async def bare_score(rows: list[Row]) -> AsyncGenerator[float, None]:
    """An async generator."""
    yield 0.5


@mlobs.prediction(
    model="churn",
    version=3,
    inputs=lambda rows: rows,
    attributes={"region": "eu", "fold": 2, "tags": ["a", "b"]},
    expected=(KeyError, ValueError),
    exception_messages=True,
)
def score(rows: list[Row]) -> list[float]:
    """Every argument."""
    return []


@mlobs.operation("rerank", model="m", version=1, attributes={"a": 1}, expected=[KeyError], exception_messages=False)
def rerank(items: list[int]) -> list[int]:
    """Any other step."""
    return items


assert_type(bare_lookup(1), Row)
assert_type(lookup(1, fresh=True), Row)
coroutine: Callable[[Row], Coroutine[Any, Any, list[int]]] = bare_candidates
awaitable = candidates({})
awaited: Coroutine[Any, Any, list[int]] = awaitable
assert_type(bare_rank([]), Generator[int, str, bool])
assert_type(rank({}, []), dict[str, list[float]])
assert_type(bare_score([]), AsyncGenerator[float, None])
assert_type(score([]), list[float])
assert_type(rerank([]), list[int])
lookup("7")  # type: ignore[arg-type]
rank({})  # type: ignore[call-arg]


class Model:
    @mlobs.prediction(model="churn")
    def score(self, rows: list[Row]) -> list[float]:
        return []

    @classmethod
    @mlobs.ranking
    def rank(cls, items: list[int]) -> list[int]:
        return items

    @staticmethod
    @mlobs.operation("load")
    def load(path: str) -> Model:
        return Model()


assert_type(Model().score([]), list[float])
assert_type(Model.rank([]), list[int])
assert_type(Model.load("churn"), Model)
assert_type(mlobs.prediction(lambda: 0.5)(), float)


# The context managers, and what they give.

spec = mlobs.prediction(model="churn")
assert_type(spec, OperationSpec)
with spec as op:
    assert_type(op, mlobs.Operation)
    op.record(inputs=[[1.0]], outputs=[0.5])
    op.set_attribute("region", "eu")
    op.set_attribute("scores", [0.5, 0.25])
    op.set_attribute("region", object())  # type: ignore[arg-type]
    assert_type(op.name, str)
    assert_type(op.model, str | None)
    assert_type(op.version, str | None)
    assert_type(op.span, Span)
    assert_type(op.recording, bool)
    assert_type(op.has_recorded(KeyError()), bool)
with mlobs.feature_lookup(view="v", features=3), mlobs.candidate_generation(k=5), mlobs.ranking(), mlobs.operation("x"):
    assert_type(mlobs.current_operation(), mlobs.Operation)

mlobs.feature_lookup(view=3)  # type: ignore[call-overload]
mlobs.prediction(model="m", gpu=True)
mlobs.ranking(model="m", gpu=1)
mlobs.candidate_generation(source="s", gpu=False)
mlobs.prediction(gpu="0")  # type: ignore[call-overload]
mlobs.candidate_generation(k="5")  # type: ignore[call-overload]
mlobs.ranking(modle="m")  # type: ignore[call-overload]
mlobs.prediction("churn")  # type: ignore[call-overload]
mlobs.operation()  # type: ignore[call-arg]


# The process.

assert_type(
    mlobs.configure(
        "recsys",
        backend="collector",
        endpoint="http://localhost:4318",
        traces_endpoint="http://localhost:4318",
        metrics_endpoint="http://localhost:4318",
        logs_endpoint="http://localhost:4318",
        protocol="http/protobuf",
        headers={"authorization": "secret"},
        compression="gzip",
        timeout=5.0,
        certificate="ca.pem",
        client_certificate="client.pem",
        client_key="client.key",
        path="telemetry.jsonl",
        logs=True,
        service_version="1",
        service_namespace="shop",
        environment="production",
        instance_id="a",
        resource_attributes={"team": "ml"},
        sampling="tail",
        sampling_ratio=0.1,
        metric_interval=15.0,
        latency_objective=0.08,
        feature_age_objective="15m",
        gpu=True,
        gpu_names="both",
        gpu_reporter="each",
        host=False,
        exception_messages=False,
    ),
    None,
)
assert_type(mlobs.force_flush(timeout=1.0), bool)
assert_type(mlobs.shutdown(timeout=1.0), bool)
assert_type(mlobs.instrument(), tuple[str, ...])
assert_type(mlobs.instrument("flask"), tuple[str, ...])
mlobs.uninstrument("flask")
assert_type(mlobs.__version__, str)

error: Exception = mlobs.MissingExtraError("logs=True", "logs", "a.b")
assert_type(mlobs.MissingExtraError("logs=True", "logs", "a.b").extra, str)
value_error: ValueError = mlobs.ConfigurationError("wrong")


# Hooks.


class Hook:
    def on_start(self, operation: mlobs.Operation) -> None: ...

    def on_end(self, operation: mlobs.Operation, error: BaseException | None) -> None: ...


hook: OperationHook = Hook()
add_hook(hook)
remove_hook(hook)


# Drift.

profile = mlobs.Profile.fit(
    {"age": [41.0, 23.0]},
    outputs=[0.2, 0.7],
    labels=[0, 1],
    features=["age"],
    model="churn",
    version="3",
    positive_class=1,
    bins=10,
    categorical=(),
    exclude=(),
    max_categories=32,
    threshold=0.5,
    embeddings={"user": [[0.1, 0.2], [0.3, 0.1]]},
)
assert_type(profile, mlobs.Profile)
assert_type(mlobs.Profile.load("churn.profile.json"), mlobs.Profile)
assert_type(profile.merge(profile), mlobs.Profile)
assert_type(profile.id, str)
assert_type(profile.names, tuple[str, ...])
profile.save("churn.profile.json")
monitor = mlobs.Monitor(
    profile,
    window=3600.0,
    pane=60.0,
    unit="request",
    tolerance=0.1,
    significance=0.05,
    false_alarms_per_week=1.0,
    min_rows=100,
    methods=("psi", "hellinger"),
    max_series=1_000,
    clock=lambda: 0.0,
)
monitor.observe({"age": 41.0}, 0.2)
monitor.observe([[41.0], [23.0]])
status = monitor.status()
assert_type(status, mlobs.MonitorStatus)
result = status.features["age"]
assert_type(result, mlobs.DriftResult)
assert_type(status.prediction, mlobs.DriftResult | None)
assert_type(result.psi, float)
assert_type(result.drifted, bool)
assert_type(result.since, float | None)
assert_type(status.limits.shift, float)


@mlobs.prediction(monitor=monitor, inputs="rows")
def monitored(rows: list[list[float]], explain: bool) -> list[float]:
    """Inputs are named where there are more parameters than one."""
    return [0.5 for _ in rows]


assert_type(monitored([[41.0]], explain=False), list[float])
assert_type(monitor.check({"age": 41.0}), tuple[mlobs.Violation, ...])
monitor.close()

# Outcomes.

store = mlobs.OutcomeStore("memory:", ttl="30d", capacity=1_000, spill=1_000, grace=10.0, namespace="mlobs")
followed = mlobs.Monitor(profile, outcomes=store, maturity="7d", unlabelled="negative")
followed.observe({"age": 41.0}, 0.2, prediction_id="a", variant="control")
followed.outcome(1, prediction_id="a", value=3.0, currency="EUR", time=0.0)
followed.outcome(False, score=0.4)
estimate = followed.status().performance["roc_auc"]
assert_type(estimate, mlobs.Estimate)
assert_type(estimate.estimated, float)
assert_type(estimate.reliable, bool)
report = store.join([("a", 1)], told=followed.joined)
assert_type(report.joined, int)
assert_type(store.performance(profile, start=0.0, end=1.0, maturity="7d", unlabelled="missing").coverage, float)
assert_type(store.forget("a"), bool)
assert_type(store.flush(1.0), bool)
rankings = mlobs.RankingMonitor(model="ltr", version=7, k=10, outcomes=store, maturity="30m", events=("click",))
assert_type(rankings.shown(["a", "b"]), str)
rankings.outcome("a", "an id", event="click", value=1.0, currency="EUR")
assert_type(rankings.status(), mlobs.RankingStatus)


@mlobs.ranking(monitor=rankings, variant="treatment")
def ranked(items: list[str]) -> list[str]:
    """What is shown is registered."""
    return items


assert_type(ranked(["a"]), list[str])
assert_type(mlobs.current_operation().prediction_id, str | None)
with mlobs.prediction(monitor=followed, variant="control") as predicted:
    predicted.prediction_id = "order-17"
    predicted.record(inputs={"age": 41.0}, outputs=0.2, prediction_id="order-17")


# Testing.

with mlobs.testing.capture() as telemetry, mlobs.testing.deterministic_ids(start=1), mlobs.testing.strict():
    assert_type(telemetry, mlobs.testing.Telemetry)
assert_type(telemetry.spans, list[ReadableSpan])
assert_type(telemetry.logs, list[ReadableLogRecord])
assert_type(telemetry.metrics, dict[str, list[Any]])
assert_type(telemetry.span("prediction churn"), ReadableSpan)
assert_type(telemetry.children(telemetry.span("request")), list[ReadableSpan])
telemetry.point("mlobs.operation.errors", mlobs__model__name="churn")
telemetry.clear()

undecorated: Callable[[int], Row] = lookup
