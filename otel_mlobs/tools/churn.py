"""What `otel-mlobs demo` serves: real rows out of the package, a model trained on them, a Flask app that scores them.

`examples/churn` is the application to copy; it takes only its census rows from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from flask import Flask
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

MODEL_NAME = "employment"
MODEL_VERSION = "1"

FEATURES = (
    "AGEP",
    "SCHL",
    "MAR",
    "RELP",
    "DIS",
    "ESP",
    "CIT",
    "MIG",
    "MIL",
    "ANC",
    "NATIVITY",
    "DEAR",
    "DEYE",
    "DREM",
    "SEX",
    "RAC1P",
)
"""The census columns a model gets, in this order; demo_data/PROVENANCE.md says what each means."""

_REFERENCE_YEAR = 2015
_MISSING_EXTRA = "{} is not installed: the demo needs it, pip install 'otel-mlobs[demo]'"


@dataclass(frozen=True)
class Rows:
    """Census rows, in the order of the survey years.

    `ids` and `years` are int64 of shape (n,), `features` is float64 of shape (n, 16) with the columns of `FEATURES`,
    `labels` is int64 of shape (n,), 1 for an employed person.
    """

    ids: NDArray[np.int64]
    years: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.int64]


def load_rows() -> tuple[Rows, Rows]:
    """The census extract of this package: 4,000 rows of 2015 to train on, and 8,000 of 2016 to 2018 that came later.

    Raises:
        ModuleNotFoundError: pyarrow is not installed; the message says which extra has it.
    """
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING_EXTRA.format("pyarrow"), name=error.name) from error

    with (resources.files("otel_mlobs.tools") / "demo_data" / "census_employment.parquet").open("rb") as file:
        table = pq.read_table(file)

    def column(name: str) -> NDArray[np.int64]:
        return np.asarray(table[name].to_numpy(), dtype=np.int64)

    years = column("year")
    everything = Rows(
        ids=column("id"),
        years=years,
        features=np.column_stack([column(name) for name in FEATURES]).astype(np.float64),
        labels=column("employed"),
    )

    def select(mask: NDArray[np.bool_]) -> Rows:
        return Rows(everything.ids[mask], everything.years[mask], everything.features[mask], everything.labels[mask])

    return select(years == _REFERENCE_YEAR), select(years > _REFERENCE_YEAR)


def train(reference: Rows) -> Pipeline:
    """A scikit-learn pipeline fitted on `reference` in a second or two; it refuses missing values when it predicts.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed; the message says which extra has it.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import SplineTransformer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING_EXTRA.format("scikit-learn"), name=error.name) from error

    # A smooth curve for each column: employment rises and falls with age, and codes have no straight line through them.
    curves = SplineTransformer(n_knots=6, extrapolation="constant")
    model = make_pipeline(curves, LogisticRegression(solver="newton-cholesky"))
    return model.fit(reference.features, reference.labels)


def fit_profile(model: Pipeline, reference: Rows) -> mlobs.Profile:
    """What the model was trained on and what it answered there; all columns but age and schooling are codes."""
    return mlobs.Profile.fit(
        reference.features,
        outputs=model.predict_proba(reference.features),
        labels=reference.labels,
        features=list(FEATURES),
        categorical=FEATURES[2:],
        model=MODEL_NAME,
        version=MODEL_VERSION,
    )


def create_app(model: Pipeline, rows: Rows, monitor: mlobs.Monitor | None = None) -> Flask:
    """A Flask app whose `POST /predict` looks a customer's features up in `rows` and scores them with `model`.

    The request is `{"customer_id": int, "features": {name: number or null}}`; `features`, if there are any, replace
    those looked up. A null makes the model raise, hence a 500 whose trace has the exception. An unknown id is answered
    with 404, a request of another form with 400. `mlobs.configure` is left to the caller. `monitor` sees what the model
    is given and answers.

    Raises:
        ModuleNotFoundError: Flask is not installed; the message says which extra has it.
    """
    try:
        from flask import Flask, request
        from werkzeug.exceptions import BadRequest, NotFound
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING_EXTRA.format("Flask"), name=error.name) from error
    from otel_mlobs.integrations.flask import MLObs

    app = Flask(__name__)
    MLObs(app)
    store = dict(zip(rows.ids.tolist(), rows.features.tolist(), strict=True))

    @mlobs.feature_lookup(store="memory", view="customer_features", expected=(KeyError,))
    def lookup(customer_id: int) -> dict[str, float]:
        return dict(zip(FEATURES, store[customer_id], strict=True))

    @mlobs.prediction(model=MODEL_NAME, version=MODEL_VERSION, monitor=monitor, inputs="features")
    def predict(features: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(model.predict_proba(features))

    @app.post("/predict")
    def serve() -> dict[str, Any]:
        body = request.get_json()
        if not isinstance(body, dict) or type(body.get("customer_id")) is not int:
            raise BadRequest('expected {"customer_id": integer, "features": {name: number or null}}')
        try:
            replaced = _features(body.get("features", {}))
        except (TypeError, ValueError) as error:
            raise BadRequest(str(error)) from error
        try:
            features = lookup(body["customer_id"]) | replaced
        except KeyError:
            raise NotFound(f"no customer {body['customer_id']}") from None
        probability = predict(np.array([list(features.values())]))[0, 1]
        return {"customer_id": body["customer_id"], "probability": float(probability)}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model": MODEL_NAME, "version": MODEL_VERSION}

    return app


def _features(given: object) -> dict[str, float]:
    if not isinstance(given, dict):
        raise TypeError(f"features must be an object, got {type(given).__name__}")
    for name, value in given.items():
        if name not in FEATURES:
            raise ValueError(f"unknown feature {name!r}; the model has {', '.join(FEATURES)}")
        if value is not None and (type(value) not in (int, float) or not -1e9 <= value <= 1e9):
            raise ValueError(f"{name} must be a number from -1e9 to 1e9 or null, got {str(value)[:40]!r}")
    return {name: float("nan") if value is None else float(value) for name, value in given.items()}
