"""A prediction service: a request names customers, their features are looked up, the model scores them.

Every request is a trace: Flask's server span, and beneath it `feature_lookup` and `prediction`. Where traces go is up
to the environment: MLOBS_BACKEND (console, jaeger, collector, …) and OTEL_EXPORTER_OTLP_ENDPOINT, or MLOBS_BACKEND=file
and MLOBS_PATH.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from flask import Flask, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound

import otel_mlobs as mlobs
from otel_mlobs.integrations.flask import MLObs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_ROWS = 500


class UnknownCustomerError(LookupError):
    """The feature store has no such customer."""


class FeatureStore:
    """Features by customer id, in the table customer_features of a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        # A SQLite connection must not cross threads or forks: each thread of each worker opens its own, once asked.
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            connection.row_factory = sqlite3.Row
            self._local.connection = connection
        connection = self._local.connection
        assert isinstance(connection, sqlite3.Connection)
        return connection

    # An unknown customer is the caller's mistake: the span says so, but it is not an error that should wake anyone.
    @mlobs.feature_lookup(store="sqlite", view="customer_features", expected=(UnknownCustomerError,))
    def lookup(self, customer_ids: Sequence[int]) -> list[dict[str, float | None]]:
        """The features of each customer, in the order asked."""
        marks = ", ".join("?" * len(customer_ids))
        query = f"SELECT * FROM customer_features WHERE customer_id IN ({marks})"
        found = {row["customer_id"]: dict(row) for row in self._connection().execute(query, customer_ids)}
        for customer_id in customer_ids:
            if customer_id not in found:
                raise UnknownCustomerError(f"no customer {customer_id}")
        return [
            {name: value for name, value in found[customer_id].items() if name != "customer_id"}
            for customer_id in customer_ids
        ]


def create_app(artifacts: Path | None = None) -> Flask:
    """The service for what train.py saved in `artifacts` (default: $CHURN_ARTIFACTS, else artifacts/ beside this file).

    Raises:
        FileNotFoundError: nothing was trained yet.
    """
    folder = artifacts or Path(os.environ.get("CHURN_ARTIFACTS", Path(__file__).parent / "artifacts"))
    if not (folder / "model.joblib").exists():
        raise FileNotFoundError(f"{folder / 'model.joblib'} does not exist: run `python train.py` first")
    saved = joblib.load(folder / "model.joblib")
    names: tuple[str, ...] = saved["features"]
    store = FeatureStore(folder / "features.sqlite")

    app = Flask(__name__)
    MLObs(app)

    @mlobs.prediction(model=saved["name"], version=saved["version"], inputs="features")
    def predict(features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(saved["pipeline"].predict_proba(features))

    @app.post("/predict")
    def serve() -> Any:
        """Score one row, or each row of a list: {"customer_id": int} or {"features": {…}}, or both (the latter win)."""
        body = request.get_json()
        rows = body if isinstance(body, list) else [body]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise BadRequest(f"expected 1 to {MAX_ROWS} rows, got {len(rows)}")
        given = [parse(row, names) for row in rows]

        known = [customer_id for customer_id, _ in given if customer_id is not None]
        try:
            looked_up = iter(store.lookup(known) if known else ())
        except UnknownCustomerError as error:
            raise NotFound(str(error)) from error
        matrix = np.empty((len(rows), len(names)))
        for i, (customer_id, features) in enumerate(given):
            stored = {} if customer_id is None else next(looked_up)
            # A missing value is NaN from here on. This model cannot take it and raises: a 500, and a trace saying why.
            matrix[i] = [np.nan if value is None else value for value in ({**stored, **features}[n] for n in names)]

        answers = [
            {"customer_id": customer_id, "probability": probability}
            for (customer_id, _), probability in zip(given, predict(matrix)[:, 1].tolist(), strict=True)
        ]
        return answers if isinstance(body, list) else answers[0]

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model": saved["name"], "version": saved["version"]}

    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> tuple[dict[str, str | None], int]:
        return {"error": error.description}, error.code or 500

    return app


def parse(row: object, names: Sequence[str]) -> tuple[int | None, dict[str, float | None]]:
    """The customer id and the features that a row of the request names; a 400 that says what is wrong with it."""
    if not isinstance(row, dict) or not row or not row.keys() <= {"customer_id", "features"}:
        raise BadRequest('a row must be {"customer_id": integer} or {"features": {name: number or null}}, or both')
    customer_id, features = row.get("customer_id"), row.get("features", {})
    if customer_id is not None and (type(customer_id) is not int or not 0 <= customer_id < 2**63):
        raise BadRequest(f"customer_id must be an integer from 0 to 2**63 - 1, got {customer_id!r:.40}")
    if not isinstance(features, dict) or not features.keys() <= set(names):
        raise BadRequest(f"features must be an object with names out of {', '.join(names)}")
    if customer_id is None and features.keys() != set(names):
        raise BadRequest(f"without a customer_id every feature must be given: {', '.join(names)}")
    for name, value in features.items():
        if value is not None and (type(value) not in (int, float) or not -1e9 <= value <= 1e9):
            raise BadRequest(f"{name} must be a number from -1e9 to 1e9 or null, got {value!r:.40}")
    return customer_id, features


mlobs.configure("churn", backend=os.environ.get("MLOBS_BACKEND", "console"), path=os.environ.get("MLOBS_PATH"))
app = create_app()

if __name__ == "__main__":
    app.run(port=8000, threaded=True)
