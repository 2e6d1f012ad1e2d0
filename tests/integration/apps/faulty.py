"""A service that answers all the time, and that has a fault for as long as a file says so.

Arguments: the service's name, which fault (slow, errors or stale), the Collector's endpoint, seconds between exports of
metrics, and the file.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from flask import Flask, jsonify

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

service, fault, endpoint, interval, switch = sys.argv[1:]
mlobs.configure(
    service, backend="collector", endpoint=endpoint, metric_interval=float(interval), feature_age_objective="15m"
)
app = Flask(__name__)
MLObs(app)


def faulty(which: str) -> bool:
    """Whether this fault is there now."""
    return which == fault and Path(switch).exists()


@mlobs.feature_lookup(store="redis", view="user_features", timestamp="updated_at")
def lookup(user: int) -> dict[str, float]:
    """Features that were made a minute ago, or yesterday."""
    return {"visits": float(user), "updated_at": time.time() - (86_400 if faulty("stale") else 60)}


@mlobs.prediction(model="churn", version="3")
def predict(features: dict[str, float]) -> float:
    """A score, after a while, or an error."""
    if faulty("errors"):
        raise RuntimeError("the model's file is damaged")
    if faulty("slow"):
        time.sleep(0.1)
    return features["visits"] / 100


@app.post("/predict/<int:user>")
def answer(user: int):  # type: ignore[no-untyped-def]
    """A request."""
    return jsonify(predict(lookup(user)))


ended = False


def end(*_: object) -> None:
    """Answer no more."""
    global ended
    ended = True


signal.signal(signal.SIGTERM, end)
client = app.test_client()
user = 0
while not ended:
    client.post(f"/predict/{user % 100}")
    user += 1
    time.sleep(0.02)
mlobs.shutdown()
