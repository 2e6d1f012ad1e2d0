"""A prediction service whose traces, metrics and logs go to the Datadog agent on this machine."""

import logging

from flask import Flask, jsonify, request

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

mlobs.configure("recommender", backend="datadog", logs=True, environment="staging", service_version="1.4.0")

logging.getLogger().setLevel(logging.INFO)
log = logging.getLogger("recommender")
app = Flask(__name__)
MLObs(app)


@mlobs.feature_lookup(store="memory", view="user_features")
def features_of(user: int) -> list[float]:
    return [user % 7 / 7, user % 11 / 11]


@mlobs.prediction(model="churn", version="3")
def score(features: list[float]) -> float:
    if not sum(features):
        raise ValueError("no features")
    return sum(features) / len(features)


@app.get("/predict")
def predict() -> object:
    probability = score(features_of(int(request.args["user"])))
    log.info("scored %.2f", probability)
    return jsonify(probability=probability)
