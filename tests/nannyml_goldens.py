"""What NannyML said of a data set (tests/golden/nannyml_*.json), and ours beside it, exact and binned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core import cbpe, estimation
from otel_mlobs.core.layout import OutcomeLayout
from otel_mlobs.core.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "golden"
PERIODS = ("reference", "analysis")


@dataclass(frozen=True)
class Rows:
    """Scores, shape (rows,) or (rows, classes); predictions and labels as codes."""

    scores: NDArray[Any]
    predicted: NDArray[Any]
    labels: NDArray[Any]

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.scores[rows], self.predicted[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Chunk:
    """One chunk of a period: NannyML's figures by measure and what they are called there, and its rows."""

    period: str
    rows: Rows
    theirs: Mapping[str, Mapping[str, float]]


def golden(name: str) -> dict[str, Any]:
    """The file's content."""
    found: dict[str, Any] = json.loads((GOLDEN / f"nannyml_{name}.json").read_text(encoding="utf-8"))
    return found


def small(name: str) -> tuple[Rows, Rows]:
    """Reference and later rows of a file that has its own."""
    content = golden(name)
    classes = {code: place for place, code in enumerate("abc")}
    found = []
    for period in PERIODS:
        columns = {key: np.array(values) for key, values in content["columns"][period].items()}
        if "score" in columns:
            found.append(Rows(columns["score"], columns["predicted"], columns["label"]))
        else:
            predicted, labels = (
                np.array([classes[value] for value in columns[key].tolist()]) for key in ("predicted", "label")
            )
            found.append(Rows(np.column_stack([columns[key] for key in "abc"]), predicted, labels))
    return found[0], found[1]


def chunks(content: Mapping[str, Any], reference: Rows, later: Rows) -> list[Chunk]:
    """The chunks of both periods; that they are NannyML's is asserted."""
    found = []
    for period, rows in zip(PERIODS, (reference, later), strict=True):
        slices = cbpe.chunks(len(rows), content["chunk_size"])
        assert [each.stop - each.start for each in slices] == content["rows"][period]
        for place, each in enumerate(slices):
            theirs = {
                metric: {name: values[place] for name, values in figures[period].items()}
                for metric, figures in content["metrics"].items()
            }
            found.append(Chunk(period, rows[each], theirs))
    return found


def calibrators(reference: Rows) -> list[cbpe.Calibrator]:
    """One a class; a single one of two classes."""
    if reference.scores.ndim == 1:
        return [cbpe.Calibrator.fit(reference.scores, reference.labels)]
    columns = enumerate(reference.scores.T)
    return [cbpe.Calibrator.fit(column, (reference.labels == place).astype(int)) for place, column in columns]


def calibration_of(reference: Rows) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns scores into probabilities, by the exact form."""
    found = calibrators(reference)
    if reference.scores.ndim == 1:
        return found[0].apply
    return lambda scores: cbpe.calibrated_classes(found, scores)


def profile_of(reference: Rows, threshold: float = 0.5) -> Profile:
    """A profile of nothing but the outputs."""
    settings: dict[str, Any] = {"threshold": threshold} if reference.scores.ndim == 1 else {}
    return Profile.fit(
        {"row": np.arange(len(reference)) % 100},
        outputs=reference.scores,
        labels=reference.labels,
        model="golden",
        version="1",
        **settings,
    )


def counted(layout: OutcomeLayout, rows: Rows) -> NDArray[Any]:
    """The prediction table of the rows."""
    table = layout.predictions()
    layout.count(rows.scores.reshape(len(rows), -1), table)
    return table


def labelled(layout: OutcomeLayout, rows: Rows) -> NDArray[Any]:
    """The outcome table of the rows."""
    table = layout.outcomes()
    assert layout.add(rows.scores.reshape(len(rows), -1), rows.labels.tolist(), table) == []
    return table


def check_exact(name: str, reference: Rows, later: Rows) -> dict[str, float]:
    """Asserts that the exact form is NannyML's: estimates, realised figures, thresholds, alerts to 1e-6.

    Gives the largest difference of an estimate by measure.
    """
    content = golden(name)
    assert [one.needed for one in calibrators(reference)] == list(content["calibrated"].values())
    calibrate = calibration_of(reference)
    error = cbpe.SamplingError.fit(reference.labels, reference.scores, reference.predicted)
    parts = chunks(content, reference, later)
    probabilities = [calibrate(part.rows.scores) for part in parts]
    estimated = [
        cbpe.cbpe(chance, part.rows.scores, part.rows.predicted)
        for chance, part in zip(probabilities, parts, strict=True)
    ]
    realized = [cbpe.realized(part.rows.labels, part.rows.scores, part.rows.predicted) for part in parts]
    worst = {}
    for metric in cbpe.METRICS:
        theirs = [part.theirs[metric] for part in parts]
        values = np.array([one[metric] for one in estimated])
        worst[metric] = float(np.abs(values - [one["estimated"] for one in theirs]).max())
        assert worst[metric] < 1e-6
        assert np.allclose([one[metric] for one in realized], [one["realized"] for one in theirs], atol=1e-6, rtol=0)
        bounds = cbpe.thresholds(
            [one[metric] for one, p in zip(realized, parts, strict=True) if p.period != "analysis"]
        )
        figures = content["metrics"][metric]
        assert np.allclose(bounds, [figures["lower_threshold"], figures["upper_threshold"]], atol=1e-6, rtol=0)
        assert cbpe.alerts(values, bounds).tolist() == [one["alert"] for one in theirs]
        # NannyML ranks equal scores in the order in which its sort happens to leave them.
        tolerance = 5e-5 if metric == "roc_auc" else 1e-6
        for one, part, values_of in zip(theirs, parts, estimated, strict=True):
            confidence = error.confidence(values_of, len(part.rows))[metric]
            assert np.allclose(confidence, [one["lower"], one["upper"]], atol=tolerance, rtol=0)
    return worst


def check_binned(
    name: str, reference: Rows, later: Rows, *, threshold: float = 0.5, tolerance: float = 2e-3
) -> tuple[dict[str, float], dict[str, int]]:
    """Asserts that the form on bins is within ``tolerance`` of NannyML, with the same alerts by its thresholds.

    Gives the largest difference by measure, and in how many chunks the order-free thresholds alert otherwise.
    """
    content = golden(name)
    outputs = profile_of(reference, threshold).outputs
    assert outputs is not None
    layout = OutcomeLayout.of(outputs)
    assert layout is not None
    table = estimation.reference_table(outputs)
    assert table is not None
    parts = chunks(content, reference, later)
    estimated = [estimation.estimate(counted(layout, part.rows), layout.calibrations) for part in parts]
    bounds = [estimation.window_thresholds(table, len(part.rows)) for part in parts]
    worst, otherwise = {}, {}
    for metric in cbpe.METRICS:
        theirs = [part.theirs[metric] for part in parts]
        values = np.array([one[metric].value for one in estimated])
        worst[metric] = float(np.abs(values - [one["estimated"] for one in theirs]).max())
        assert worst[metric] < tolerance, (name, metric)
        figures = content["metrics"][metric]
        alerts = cbpe.alerts(values, (figures["lower_threshold"], figures["upper_threshold"])).tolist()
        assert alerts == [one["alert"] for one in theirs], (name, metric)
        ours = [bool(cbpe.alerts(value, each[metric])) for value, each in zip(values, bounds, strict=True)]
        otherwise[metric] = sum(one != other for one, other in zip(ours, alerts, strict=True))
    return worst, otherwise
