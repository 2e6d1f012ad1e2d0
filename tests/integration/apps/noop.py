"""A Flask service with all four operations and a model that does nothing; the environment says where it reports to."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from flask import Flask

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

mlobs.configure(**json.loads(os.environ["NOOP_CONFIGURE"]))

app = Flask(__name__)
MLObs(app)


@mlobs.feature_lookup(store="memory", view="user_features")
def lookup(user: int) -> dict[str, float | None]:
    """Three features, one of them missing."""
    return {"age": 41.0, "tenure": float(user % 60), "spend": None}


@mlobs.candidate_generation(source="two_tower", k=4)
def candidates(features: dict[str, float | None]) -> list[int]:
    """Three of the four asked for."""
    return [11, 12, 13]


@mlobs.ranking(model="ltr", version="7", inputs="items")
def rank(features: dict[str, float | None], items: list[int]) -> list[int]:
    """Two items of three."""
    return sorted(items, reverse=True)[:2]


@mlobs.prediction(model="noop", version="3", inputs="rows")
def predict(rows: np.ndarray) -> np.ndarray:
    """The same score for every row."""
    return np.full(len(rows), 0.25)


@app.get("/recommend/<int:user>")
def recommend(user: int) -> dict[str, Any]:
    """All four operations, one after the other."""
    features = lookup(user)
    items = rank(features, candidates(features))
    scores = predict(np.zeros((len(items), 3)))
    return {"items": items, "scores": scores.tolist()}
