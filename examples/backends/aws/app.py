"""A prediction service whose traces go to X-Ray, and its metrics to CloudWatch, by way of a Collector or an agent."""

from flask import Flask, jsonify, request

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

mlobs.configure("recommender", backend="cloudwatch", environment="staging", service_version="1.4.0")

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
    return jsonify(probability=score(features_of(int(request.args["user"]))))
