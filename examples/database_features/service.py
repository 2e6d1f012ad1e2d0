"""The service: a request names block groups, a view of the database has their features, the model scores them.

Its telemetry is what stands in `create_app`: a feature lookup, a prediction, and the monitor that watches both sides of
the prediction.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
import joblib
import numpy as np
from database import Database, UnknownBlockError, default_url
from flask import Flask, request
from table import table
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_ROWS = 500


def artifacts_folder() -> Path:
    """Where train.py has saved: $HOUSING_ARTIFACTS, else artifacts/ beside this file.

    Raises:
        FileNotFoundError: nothing was trained yet.
    """
    folder = Path(os.environ.get("HOUSING_ARTIFACTS", Path(__file__).parent / "artifacts"))
    if not (folder / "model.joblib").exists():
        raise FileNotFoundError(f"{folder / 'model.joblib'} does not exist: run `python train.py` first")
    return folder


def create_app(database: Database, artifacts: Path, monitor: mlobs.Monitor) -> Flask:
    """The Flask application for what load.py and train.py have made; `monitor` has the model's profile."""
    model = joblib.load(artifacts / "model.joblib")
    app = Flask(__name__)
    MLObs(app)

    # An unknown block group is the caller's mistake: the span says so, but it should wake nobody.
    @mlobs.feature_lookup(store=database.kind, view="block_features", expected=(UnknownBlockError,))
    def lookup(block_ids: Sequence[int]) -> list[dict[str, float | None]]:
        return database.features(block_ids)

    @mlobs.prediction(monitor=monitor, inputs="features")
    def predict(features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(model.predict_proba(features))

    @app.post("/predict")
    def serve() -> Any:
        """Score one row or each of a list: {"block_id": int}, and "features": {…} for what the caller knows better."""
        body = request.get_json()
        rows = body if isinstance(body, list) else [body]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise BadRequest(f"expected 1 to {MAX_ROWS} rows, got {len(rows)}")
        given = [parse(row) for row in rows]
        try:
            stored = lookup([block_id for block_id, _ in given])
        except UnknownBlockError as error:
            raise NotFound(str(error)) from error
        matrix = np.empty((len(rows), len(data.FEATURES)))
        for i, (known, (_, features)) in enumerate(zip(stored, given, strict=True)):
            merged = {**known, **features}
            matrix[i] = [np.nan if value is None else value for value in (merged[name] for name in data.FEATURES)]
        answers = [
            {"block_id": block_id, "probability": probability}
            for (block_id, _), probability in zip(given, predict(matrix)[:, 1].tolist(), strict=True)
        ]
        return answers if isinstance(body, list) else answers[0]

    @app.get("/drift")
    def drift() -> tuple[str, dict[str, str]]:
        """What the monitor of this worker says."""
        return table(monitor.status()), {"Content-Type": "text/plain; charset=utf-8"}

    @app.get("/health")
    def health() -> dict[str, str | None]:
        return {"status": "ok", "model": monitor.profile.model, "version": monitor.profile.version}

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> tuple[dict[str, str | None], int]:
        return {"error": error.description}, error.code or 500

    return app


def parse(row: object) -> tuple[int, dict[str, float | None]]:
    """The block id and the features that a row of the request names; a 400 that says what is wrong with it."""
    if not isinstance(row, dict) or not {"block_id"} <= row.keys() <= {"block_id", "features"}:
        raise BadRequest('a row must be {"block_id": integer}, and may have "features": {name: number or null}')
    block_id, features = row["block_id"], row.get("features", {})
    if type(block_id) is not int or not 0 <= block_id < 2**31:
        raise BadRequest(f"block_id must be an integer from 0 to 2**31 - 1, got {block_id!r:.40}")
    if not isinstance(features, dict) or not features.keys() <= set(data.FEATURES):
        raise BadRequest(f"features must be an object with names out of {', '.join(data.FEATURES)}")
    for name, value in features.items():
        if value is not None and (type(value) not in (int, float) or not -1e9 <= value <= 1e9):
            raise BadRequest(f"{name} must be a number from -1e9 to 1e9 or null, got {value!r:.40}")
    return block_id, features


def open_app() -> Flask:
    """The application as the environment says: DATABASE_URL, HOUSING_ARTIFACTS, and HOUSING_WINDOW in seconds."""
    artifacts = artifacts_folder()
    profile = mlobs.Profile.load(artifacts / "housing.profile.json")
    monitor = mlobs.Monitor(profile, window=float(os.environ.get("HOUSING_WINDOW", "3600")))
    return create_app(Database(default_url()), artifacts, monitor)
