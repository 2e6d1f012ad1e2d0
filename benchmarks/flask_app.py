"""The applications that ``flask_overhead.py`` compares, as WSGI callables and as gunicorn serves them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, Response, jsonify, request
from harness import DroppingExporter, KeepingMetricExporter, batch_processor, set_up_our_metrics
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from otel_mlobs.telemetry.spans import OwnTracerProvider

FEATURES = 10
HOWS = ("plain", "hand", "ours")
SPANS = {"plain": 1, "hand": 5, "ours": 5}
"""How many spans a request leaves."""
Predict = Callable[[list[list[float]]], list[float]]
Function = TypeVar("Function", bound=Callable[..., Any])


def no_model(rows: list[list[float]]) -> list[float]:
    """A model that does nothing."""
    return [0.5] * len(rows)


def scikit_learn_model() -> Predict:
    """Gradient boosting behind a scaler: about a millisecond for one row."""
    import numpy as np
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2000, FEATURES))
    labels = rows[:, 0] + generator.normal(size=2000) > 0
    model = make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=50, random_state=0))
    model.fit(rows, labels)

    def predict(rows: list[list[float]]) -> list[float]:
        scores: list[float] = model.predict_proba(np.asarray(rows))[:, 1].tolist()
        return scores

    return predict


def hand_written(tracer: trace.Tracer) -> Callable[[Function], Function]:
    """Put the function's body under a span with five attributes, written by hand."""

    def decorate(function: Function) -> Function:
        def call(*args: object) -> object:
            with tracer.start_as_current_span(
                "ranking ltr",
                attributes={
                    "mlobs.operation.name": "ranking",
                    "mlobs.model.name": "ltr",
                    "mlobs.model.version": "7",
                    "mlobs.ranking.input.count": 5,
                    "mlobs.ranking.output.count": 5,
                },
            ):
                return function(*args)

        return cast("Function", call)

    return decorate


def make_app(predict: Predict, how: str) -> Flask:
    """The application: look features up, generate candidates, rank them, predict."""
    app = Flask("recommender")
    stored = {f"f{i}": float(i) for i in range(FEATURES)}
    catalogue = list(range(100, 120))

    def lookup(user_id: str) -> dict[str, float]:
        return stored

    def candidates(features: dict[str, float]) -> list[int]:
        return catalogue

    def rank(features: dict[str, float], items: list[int]) -> list[int]:
        return items[:10]

    def score(X: list[list[float]]) -> list[float]:  # noqa: N803 - what scikit-learn calls it
        return predict(X)

    if how == "ours":
        import otel_mlobs as mlobs
        from otel_mlobs.integrations.flask import MLObs

        lookup = mlobs.feature_lookup(store="memory", view="user_features")(lookup)
        candidates = mlobs.candidate_generation(source="two_tower", k=20)(candidates)
        rank = mlobs.ranking(model="ltr", version="7", inputs="items")(rank)
        score = mlobs.prediction(model="churn", version="3", inputs="X")(score)
        MLObs(app)
    else:
        if how == "hand":
            spanned = hand_written(trace.get_tracer("hand"))
            lookup, candidates, rank, score = spanned(lookup), spanned(candidates), spanned(rank), spanned(score)
        FlaskInstrumentor.instrument_app(app)  # type: ignore[no-untyped-call]

    @app.get("/recommend")
    def recommend() -> Response:
        features = lookup(request.args["user"])
        ranked = rank(features, candidates(features))
        return jsonify(items=ranked, score=score([list(features.values())])[0])

    return app


def served(how: str) -> Flask:
    """What a gunicorn worker serves: the application with providers of its own, and /counts to check the run."""
    provider, exporter = OwnTracerProvider(), DroppingExporter()
    processor = batch_processor(exporter)
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    if how == "ours":
        set_up_our_metrics(KeepingMetricExporter(), interval=1.0)
    else:
        reader = PeriodicExportingMetricReader(KeepingMetricExporter(), export_interval_millis=1000)
        metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    predict = scikit_learn_model()
    answered = 0
    app = make_app(predict, how)

    @app.after_request
    def count(response: Response) -> Response:
        nonlocal answered
        answered += request.path == "/recommend"
        return response

    @app.get("/counts")
    def counts() -> Response:
        processor.force_flush()
        return jsonify(answered=answered, exported=exporter.exported, cpu_s=time.process_time())

    @app.get("/model")
    def model_ms() -> Response:
        def timed() -> float:
            start = time.perf_counter()
            predict([[0.0] * FEATURES])
            return time.perf_counter() - start

        return jsonify(ms=statistics.median(timed() for _ in range(200)) * 1000)

    return app
