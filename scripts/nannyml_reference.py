#!/usr/bin/env python
"""Remake tests/golden/nannyml_*.json: what NannyML's CBPE says of the data sets in its own wheel.

    python scripts/nannyml_reference.py [--out FOLDER]

nannyml is no dependency of ours: it is installed at a fixed version into a throw-away environment, which needs a Python
that it supports (3.9 to 3.12). Every file holds, for one data set and the chunks of its reference and later rows:
what NannyML estimated and what the labels said, its confidence bounds, its two thresholds and its alerts. The figures
are rounded to ten decimals. Two small data sets, made here, are in their files with all their rows, so that a test can
do without the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nannyml_wheel import NANNYML

if TYPE_CHECKING:
    from collections.abc import Callable

    Rows = tuple[Any, Any, Any]

HERE = Path(__file__).resolve()
METRICS = ["roc_auc", "precision", "recall", "f1", "accuracy", "specificity"]
DECIMALS = 10
UNDECLARED = ["statsmodels"]
"""What NannyML imports without declaring it."""


@dataclass(frozen=True)
class DataSet:
    """A data set: NannyML's function that loads it, or ours that makes it; its columns, and the rows of a chunk."""

    loader: str | Callable[[], Rows]
    problem: str
    label: str
    prediction: str
    probability: str | dict[str, str]
    chunk_size: int


def small_binary() -> Rows:
    """Reference rows, later ones and their labels: scores that are too sure, and later ones that are lower."""
    import numpy as np

    random = np.random.RandomState(5)

    def rows(number: int, shift: float) -> tuple[Any, Any]:
        logit = random.standard_normal(number) * 1.5 + shift
        labels = (random.random_sample(number) < 1 / (1 + np.exp(-logit))).astype(int)
        scores = np.round(1 / (1 + np.exp(-1.8 * logit - 0.4)), 4)
        return {"score": scores, "predicted": (scores >= 0.5).astype(int)}, labels

    (reference, known), (later, unknown) = rows(1600, 0.0), rows(1000, -0.8)
    return {**reference, "label": known}, later, {"label": unknown}


def small_multiclass() -> Rows:
    """The same for three classes, of which the second is told from the others less well later."""
    import numpy as np

    random, names = np.random.RandomState(11), np.array(list("abc"))

    def rows(number: int, noise: float) -> tuple[Any, Any]:
        logits = random.standard_normal((number, 3)) * 1.5
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (random.random_sample(number)[:, None] > np.cumsum(chances, axis=1)).sum(axis=1)
        logits[:, 1] += noise * random.standard_normal(number)
        scores = np.exp(1.3 * logits) / np.exp(1.3 * logits).sum(axis=1, keepdims=True)
        columns = dict(zip(names, np.round(scores, 5).T, strict=True))
        return {**columns, "predicted": names[scores.argmax(axis=1)]}, names[labels]

    (reference, known), (later, unknown) = rows(1000, 0.3), rows(600, 1.0)
    return {**reference, "label": known}, later, {"label": unknown}


DATA_SETS = {
    "car_loan": DataSet(
        "load_synthetic_car_loan_dataset", "classification_binary", "repaid", "y_pred", "y_pred_proba", 5000
    ),
    "census": DataSet(
        "load_us_census_ma_employment_data",
        "classification_binary",
        "employed",
        "prediction",
        "predicted_probability",
        5000,
    ),
    "multiclass": DataSet(
        "load_synthetic_multiclass_classification_dataset",
        "classification_multiclass",
        "y_true",
        "y_pred",
        {name: f"y_pred_proba_{name}" for name in ("highstreet_card", "prepaid_card", "upmarket_card")},
        6000,
    ),
    "small_binary": DataSet(small_binary, "classification_binary", "label", "predicted", "score", 200),
    "small_multiclass": DataSet(
        small_multiclass, "classification_multiclass", "label", "predicted", {name: name for name in "abc"}, 200
    ),
}


def estimate(data: DataSet) -> dict[str, Any]:
    """What NannyML makes of ``data``; needs nannyml."""
    import nannyml  # type: ignore[import-not-found]
    import pandas as pd  # type: ignore[import-untyped]

    load = getattr(nannyml, data.loader) if isinstance(data.loader, str) else data.loader
    reference, later, labels = map(pd.DataFrame, load())
    estimator = nannyml.CBPE(
        y_true=data.label,
        y_pred=data.prediction,
        y_pred_proba=data.probability,
        problem_type=data.problem,
        metrics=METRICS,
        chunk_size=data.chunk_size,
    )
    estimator.fit(reference)
    if "id" in later and not later["id"].equals(labels["id"]):
        raise ValueError("the later rows and their labels must have the same ids in the same order")
    # The estimate does not look at the labels; with them NannyML gives the realised figures too.
    later = later.assign(**{data.label: labels[data.label]})
    table = estimator.estimate(later).to_df()
    chunks = {period: table[table["chunk"]["period"] == period] for period in ("reference", "analysis")}
    calibrators = estimator._calibrators if isinstance(data.probability, dict) else {"1": None}
    columns = {} if isinstance(data.loader, str) else {"reference": _columns(reference), "analysis": _columns(later)}
    return {
        "nannyml": nannyml.__version__,
        "chunk_size": data.chunk_size,
        "calibrated": {
            name: bool(estimator.needs_calibration) if one is None else type(one).__name__ == "IsotonicCalibrator"
            for name, one in calibrators.items()
        },
        "rows": {period: [int(n) for n in _rows(part)] for period, part in chunks.items()},
        "metrics": {metric: _metric(chunks, metric) for metric in METRICS},
        "columns": columns,
    }


def _columns(table: Any) -> dict[str, list[Any]]:
    return {name: table[name].tolist() for name in table.columns}


def _rows(part: Any) -> Any:
    return part["chunk"]["end_index"] - part["chunk"]["start_index"] + 1


def _metric(chunks: dict[str, Any], metric: str) -> dict[str, Any]:
    first = chunks["reference"][metric].iloc[0]
    found: dict[str, Any] = {
        "lower_threshold": round(float(first["lower_threshold"]), DECIMALS),
        "upper_threshold": round(float(first["upper_threshold"]), DECIMALS),
    }
    names = {
        "estimated": "value",
        "realized": "realized",
        "lower": "lower_confidence_boundary",
        "upper": "upper_confidence_boundary",
    }
    for period, part in chunks.items():
        found[period] = {name: [round(float(v), DECIMALS) for v in part[metric][key]] for name, key in names.items()}
        found[period]["alert"] = [bool(v) for v in part[metric]["alert"]]
    return found


def write(out: Path) -> None:
    """Write one file a data set; needs nannyml."""
    for name, data in DATA_SETS.items():
        path = out / f"nannyml_{name}.json"
        path.write_text(_layout(estimate(data)) + "\n", encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes")


def _layout(value: Any, indent: str = "") -> str:
    """JSON with a list on one line, so that a difference shows."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, separators=(",", ":"))
    inner = indent + " "
    entries = [f"{inner}{json.dumps(name)}: {_layout(part, inner)}" for name, part in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def main() -> None:
    """Build the throw-away environment and write the files in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "tests" / "golden")
    os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
    parser.add_argument("--here", action="store_true", help="use the nannyml of this environment")
    arguments = parser.parse_args()
    if arguments.here:
        write(arguments.out)
        return
    with tempfile.TemporaryDirectory() as name:
        venv.create(Path(name), with_pip=True)
        python = Path(name) / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        subprocess.run([str(python), "-m", "pip", "--quiet", "install", NANNYML, *UNDECLARED], check=True)
        subprocess.run([str(python), str(HERE), "--here", "--out", str(arguments.out.resolve())], check=True)


if __name__ == "__main__":
    main()
