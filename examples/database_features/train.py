"""Train the model on the features that the database has, and save it with the profile of what it was trained on.

python train.py [--database URL] [--artifacts FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import data
import joblib
import numpy as np
from database import Database, default_url
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL, VERSION = "housing", "1"


def classifier() -> Pipeline:
    """Boosted trees: they swallow missing values and wrong units without complaint, which is why one watches them."""
    trees = GradientBoostingClassifier(n_estimators=60, learning_rate=0.2, random_state=0)
    return make_pipeline(SimpleImputer(strategy="median"), trees)


def read(database: Database, part: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (n, 10) and labels (n,) of a part."""
    rows = np.array(database.rows(part), dtype=np.float64)
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def train(database: Database, artifacts: Path) -> mlobs.Profile:
    """Fit, print how good the model is, save `model.joblib` and `housing.profile.json` in `artifacts`."""
    features, labels = read(database, "train")
    # What the model says of rows it has learned by heart is surer than what it says of others: live scores would
    # always look drifted beside it. Each row is scored by a model that has not seen it.
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(classifier(), features, labels, cv=folds, method="predict_proba")[:, 1]
    model = classifier().fit(features, labels)
    for part in ("held_out", "later"):
        unseen, truth = read(database, part)
        predicted = model.predict_proba(unseen)[:, 1]
        auc, accuracy = roc_auc_score(truth, predicted), accuracy_score(truth, predicted >= 0.5)
        print(f"{part}: {len(truth):,} rows, AUC {auc:.3f}, accuracy {accuracy:.3f}")

    profile = mlobs.Profile.fit(
        features, features=list(data.FEATURES), outputs=scores, labels=labels, model=MODEL, version=VERSION
    )
    artifacts.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, artifacts / "model.joblib")
    profile.save(artifacts / "housing.profile.json")
    return profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default=default_url(), help="its URL; default: $DATABASE_URL, else a SQLite file")
    parser.add_argument("--artifacts", type=Path, default=Path(__file__).parent / "artifacts", help="where to save")
    arguments = parser.parse_args()
    with contextlib.closing(Database(arguments.database)) as database:
        profile = train(database, arguments.artifacts)
    print(f"saved {MODEL} {VERSION} in {arguments.artifacts}, with profile {profile.id} of {profile.rows:,} rows")


if __name__ == "__main__":
    main()
