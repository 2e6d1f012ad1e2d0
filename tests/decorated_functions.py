"""Decorated callables at module level, where pickle finds them by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

import otel_mlobs as mlobs


@mlobs.prediction(model="churn", version=3)
def score(rows: list[list[float]]) -> list[float]:
    """Score rows."""
    return [sum(row) for row in rows]


class Model:
    """A class with decorated methods of every kind."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    @mlobs.prediction(model="churn")
    def score(self, rows: list[float]) -> list[float]:
        return [self.weight * row for row in rows]

    @mlobs.ranking
    @classmethod
    def rank(cls, items: list[int]) -> list[int]:
        return sorted(items)

    @mlobs.operation("load")
    async def load(self) -> float:
        return self.weight


class Estimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator whose prediction is decorated."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def fit(self, X: Any, y: Any) -> Estimator:  # noqa: N803
        self.classes_ = np.unique(y)
        return self

    @mlobs.prediction(model="tree")
    def predict(self, X: Any) -> Any:  # noqa: N803
        return (np.asarray(X)[:, 0] > self.threshold).astype(int)
