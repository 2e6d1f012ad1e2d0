"""A Flask service whose model has a monitor; the environment says where it reports to and where its profile is."""

from __future__ import annotations

import json
import os
from typing import Any

from flask import Flask, request

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

mlobs.configure(**json.loads(os.environ["DRIFTING_CONFIGURE"]))

app = Flask(__name__)
MLObs(app)

monitor = mlobs.Monitor(mlobs.Profile.load(os.environ["DRIFTING_PROFILE"]))


@mlobs.prediction(monitor=monitor)
def score(rows: list[dict[str, Any]]) -> list[float]:
    """A score between 0 and 1 for every row."""
    return [min(1.0, (row["age"] or 0.0) / 100) for row in rows]


score(json.loads(os.environ["DRIFTING_AT_IMPORT"]))  # warming up: under --preload in the parent, before any fork


@app.post("/score")
def answer() -> list[float]:
    """The scores of the rows in the body."""
    return score(request.get_json())
