"""Train the model and fill the feature store that app.py serves.

python train.py --data census|churn [--artifacts FOLDER]
"""

from __future__ import annotations

import argparse
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import data
import joblib
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import SplineTransformer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What is predicted, and the version of the model that does it: both go on every span.
MODELS = {"census": ("employment", "1"), "churn": ("churn", "1")}


def fit(features: NDArray[np.float64], labels: NDArray[np.int64]) -> Pipeline:
    """A smooth curve for each feature, added up by a logistic regression. Refuses missing values when it predicts."""
    curves = SplineTransformer(n_knots=6, extrapolation="constant")
    return make_pipeline(curves, LogisticRegression(solver="newton-cholesky")).fit(features, labels)


def fill_store(path: Path, rows: data.Table) -> None:
    """Write the rows as table customer_features of a new SQLite file."""
    path.unlink(missing_ok=True)
    columns = ", ".join(f"{name} REAL" for name in rows.names)
    values = ", ".join("?" * (len(rows.names) + 1))
    store = sqlite3.connect(path)
    with store:
        store.execute(f"CREATE TABLE customer_features (customer_id INTEGER PRIMARY KEY, {columns})")
        customers = zip(rows.ids.tolist(), rows.features.tolist(), strict=True)
        store.executemany(
            f"INSERT INTO customer_features VALUES ({values})", ((key, *features) for key, features in customers)
        )
    store.close()


def report(what: str, model: Pipeline, features: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    """Print how well the model ranks and classifies rows it has not seen."""
    scores = model.predict_proba(features)[:, 1]
    auc, accuracy = roc_auc_score(labels, scores), accuracy_score(labels, scores >= 0.5)
    print(f"{what}: {len(labels)} rows, AUC {auc:.3f}, accuracy {accuracy:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=data.DATA_SETS, default="census")
    parser.add_argument("--artifacts", type=Path, default=Path(__file__).parent / "artifacts", help="where to save")
    arguments = parser.parse_args()

    reference, later = data.load(arguments.data)
    train_features, test_features, train_labels, test_labels = train_test_split(
        reference.features, reference.labels, test_size=0.25, random_state=0, stratify=reference.labels
    )
    model = fit(train_features, train_labels)
    report("held out", model, test_features, test_labels)
    report("later", model, later.features, later.labels)

    name, version = MODELS[arguments.data]
    arguments.artifacts.mkdir(parents=True, exist_ok=True)
    saved = {"name": name, "version": version, "features": reference.names, "pipeline": model}
    joblib.dump(saved, arguments.artifacts / "model.joblib")
    fill_store(arguments.artifacts / "features.sqlite", later)
    print(f"saved {name} {version} and the features of {len(later.ids)} customers in {arguments.artifacts}")


if __name__ == "__main__":
    main()
