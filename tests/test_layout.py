"""Where predictions and labels are counted, beside a count row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.calibration import Calibration
from otel_mlobs.core.layout import OutcomeLayout
from otel_mlobs.core.outcomes import CELLS, performance
from otel_mlobs.core.profile import Column, OutputKind, Outputs
from otel_mlobs.core.rows import OutputReader

Floats = NDArray[np.float64]


def _number(name: str, edges: tuple[float, ...]) -> Column:
    middles = tuple(float(place) for place in range(len(edges) + 1))
    return Column(name, Bins("numeric", edges), (*([10] * len(middles)), 0, 0), 0.0, 1.0, 0.5, 0.2, middles)


def _classes(*names: Any) -> Column:
    return Column("class", Bins("categorical", categories=names), (*([10] * len(names)), 0, 0))


def _calibration(*inner: float) -> Calibration:
    uppers = (*inner, math.inf)
    bins = len(uppers)
    return Calibration(uppers, tuple((place + 0.5) / bins for place in range(bins)), (4,) * bins, (9,) * bins)


def _scores(threshold: float = 0.5, positive_class: Any = None, edges: tuple[float, ...] = (0.2, 0.8)) -> OutcomeLayout:
    """The layout of scores whose reference had no labels."""
    return _layout(Outputs("score", (_number("score", edges),), threshold=threshold, positive_class=positive_class))


def _several(classes: tuple[Any, ...], calibrations: tuple[Calibration, ...] = ()) -> Outputs:
    columns = (_classes(*classes), _number("confidence", (0.5,)), _number("entropy", (0.5,)))
    return Outputs("multiclass", columns, classes, calibrations=calibrations)


def _layout(outputs: Outputs) -> OutcomeLayout:
    layout = OutcomeLayout.of(outputs)
    assert layout is not None
    return layout


def _encoded(outputs: Outputs, answers: Any) -> Floats:
    """What the monitor's reader makes of a batch of answers."""
    encoded = OutputReader(outputs.kind, outputs.columns, outputs.classes).encode(answers, [])
    assert not isinstance(encoded, bytes)
    return encoded


def test_scores_without_labels_take_the_profiles_bins_and_the_threshold() -> None:
    """The score's own cells, split just below the threshold; outside 0 to 1 too."""
    layout = _scores(0.5)
    assert layout.uppers == ((0.2, math.nextafter(0.5, 0), 0.8, math.inf),)
    assert layout.shape == (1, 4)
    assert layout.mean_scores is None
    assert layout.calibrated is None
    below = math.nextafter(3.0, 0)
    assert _scores(3.0, edges=(-1.0, below)).uppers == ((-1.0, below, math.inf),)
    assert _scores(-7.5).uppers == ((math.nextafter(-7.5, -math.inf), 0.2, 0.8, math.inf),)


def test_scores_with_labels_take_the_calibrations_bins() -> None:
    """Its edges, its mean scores and what it makes of them."""
    calibration = _calibration(0.25, math.nextafter(0.3, 0), 0.75)
    layout = _layout(Outputs("score", (_number("score", (0.9,)),), calibration=calibration, threshold=0.3))
    assert layout.uppers == (calibration.uppers,)
    assert layout.threshold == 0.3
    assert layout.mean_scores is not None
    assert layout.mean_scores.tolist() == [list(calibration.mean_scores)]
    assert layout.calibrated is not None
    assert layout.calibrated.tolist() == [list(calibration.calibrated)]


def test_scores_are_counted_right_closed_and_split_by_the_threshold() -> None:
    """A score on an edge is in the bin below it, the threshold itself predicts, and no bin holds both answers."""
    layout = _scores(0.5)
    scores = np.array([0.1, 0.2, math.nextafter(0.2, 1), math.nextafter(0.5, 0), 0.5, 0.8, 0.81, 7.0])
    labels = [0, 1, False, True, 1.0, 0, np.int64(1), np.float32(0)]
    predicted, table = layout.predictions(), layout.outcomes()
    layout.count(scores.reshape(-1, 1), predicted)
    assert predicted.tolist() == [[[2, 0], [2, 0], [0, 2], [0, 2]]]
    assert layout.add(scores.reshape(-1, 1), labels, table) == []
    assert table.tolist() == [[[[1, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [1, 1]]]]
    assert predicted.tolist() == table.sum(axis=3).tolist()


def test_rows_without_a_prediction_are_left_out() -> None:
    """Missing and infinite scores, vectors that hold one, and missing classes are in no cell."""
    layout = _scores()
    table = layout.outcomes()
    assert layout.add(np.array([[math.nan], [math.inf], [-math.inf], [0.9]]), [1, 1, 0, 1], table) == []
    assert table.sum() == 1
    several = _several(("a", "b"))
    matrix = np.array([[0.4, math.nan], [0.4, 0.6]])
    assert _layout(several).cells(matrix)[0].tolist() == [-1, -1]
    assert _layout(several).confusion(matrix, np.array([1, 1])).tolist() == [-1, CELLS.index("tp")]
    one = Outputs("class", (_classes("a", "b"),))
    table = _layout(one).outcomes()
    _layout(one).add(_encoded(one, np.array(["a", None], dtype=object)), ["a", "a"], table)
    assert table.sum() == 2


@pytest.mark.parametrize(
    ("positive_class", "codes"),
    [
        (None, [(0, 0), (1, 1), (True, 1), (0.0, 0), (np.int8(1), 1), ("1", None), (2, None), (0.5, None)]),
        ("fraud", [("fraud", 1), (np.str_("fraud"), 1), ("ok", 0), (1, 0), ("", 0)]),
        (2, [(2, 1), (2.0, 1), (1, 0), ("2", 0)]),
        (False, [(False, 1), (np.False_, 1), (0, 1), (True, 0)]),
    ],
)
def test_labels_of_scores(positive_class: Any, codes: list[tuple[Any, int | None]]) -> None:
    """With a positive class all others are negative; without one only 0, 1, False and True are labels."""
    layout = _scores(positive_class=positive_class)
    for label, code in codes:
        assert layout.label_code(label) == code, label
    for label in (None, math.nan, np.float64("nan"), [1], np.array([1, 2])):
        assert layout.label_code(label) is None


def test_invalid_labels_are_named_and_not_counted() -> None:
    """Their indexes come back; the rest is counted."""
    layout = _scores()
    table = layout.outcomes()
    labels = [1, None, "yes", 0, 3]
    assert layout.add(np.full((5, 1), 0.9), labels, table) == [1, 2, 4]
    assert table.sum() == 2
    assert layout.codes(labels).tolist() == [1, -1, -1, 0, -1]


def test_a_binary_table_is_a_count_row_by_row() -> None:
    """Ten thousand rows in pieces of every size are in the cells that a loop finds."""
    rng = np.random.default_rng(1)
    scores = np.round(rng.random(10_000), 2)
    labels = (rng.random(10_000) < scores).astype(int)
    layout = _scores(0.35, edges=(0.1, 0.2, 0.35, 0.6))
    expected = layout.outcomes()
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        place = next(index for index, upper in enumerate(layout.uppers[0]) if score <= upper)
        expected[0, place, int(score >= 0.35), label] += 1
    table = layout.outcomes()
    for part in (slice(0, 1), slice(1, 1), slice(1, 700), slice(700, None)):
        layout.add(scores[part].reshape(-1, 1), labels[part].tolist(), table)
    assert table.tolist() == expected.tolist()


@pytest.mark.parametrize("calibrated", [False, True])
def test_every_row_is_once_in_every_class(calibrated: bool) -> None:
    """Of probability vectors each class has its own bins, the arg max is predicted, and the label is one class's."""
    rng = np.random.default_rng(2)
    calibrations = (_calibration(0.3, 0.6), _calibration(0.5), _calibration(0.1, 0.2, 0.9)) if calibrated else ()
    outputs = _several(("red", "green", "blue"), calibrations)
    layout = _layout(outputs)
    assert layout.shape == ((3, 4) if calibrated else (3, 20))
    vectors = rng.dirichlet([1, 2, 1], 500)
    labels = [str(rng.choice(layout.classes, p=vector)) for vector in vectors]
    table = layout.outcomes()
    assert layout.add(_encoded(outputs, vectors), labels, table) == []
    expected = layout.outcomes()
    for vector, label in zip(vectors, labels, strict=True):
        for one, name in enumerate(layout.classes):
            place = next(index for index, upper in enumerate(layout.uppers[one]) if vector[one] <= upper)
            expected[one, place, int(vector.argmax() == one), int(label == name)] += 1
    assert table.tolist() == expected.tolist()
    predicted = layout.predictions()
    layout.count(vectors, predicted)
    assert predicted.tolist() == table.sum(axis=3).tolist()
    if calibrated:
        means = layout.mean_scores
        assert means is not None
        assert np.isnan(means).sum(axis=1).tolist() == [1, 2, 0]
        assert not math.isnan(performance(table, means)["brier"].value)


def test_answers_without_scores_are_counted_by_class() -> None:
    """One bin a class; an answer without a cell is no class's, and a label without a cell is invalid."""
    outputs = Outputs("class", (_classes("b", "a"),))
    layout = _layout(outputs)
    assert (layout.classes, layout.shape) == (("b", "a"), (2, 1))
    table = layout.outcomes()
    answers = _encoded(outputs, np.array(["a", "b", "a", "rare", "b"], dtype=object))
    assert layout.add(answers, ["a", "a", "b", "a", "rare"], table) == [4]
    assert table.tolist() == [[[[2, 1], [1, 0]]], [[[0, 2], [1, 1]]]]
    assert performance(table)["accuracy"].value == 0.25
    assert "roc_auc" not in performance(table)


def test_the_cell_of_every_row() -> None:
    """What its value is booked to; of several classes right is tp, wrong is fn."""
    layout = _scores()
    matrix = np.array([[0.9], [0.9], [0.1], [0.1], [math.nan], [0.9]])
    found = layout.confusion(matrix, layout.codes([1, 0, 1, 0, 1, "?"]))
    assert [CELLS[place] if place >= 0 else None for place in found] == ["tp", "fp", "fn", "tn", None, None]
    outputs = _several(("a", "b", "c"))
    vectors = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    found = _layout(outputs).confusion(vectors, _layout(outputs).codes(["a", "b", "d"]))
    assert [CELLS[place] if place >= 0 else None for place in found] == ["tp", "fn", None]


def test_nothing_is_counted_of_no_rows() -> None:
    """Empty batches of every kind."""
    kinds: dict[OutputKind, Outputs] = {
        "score": Outputs("score", (_number("score", (0.5,)),)),
        "class": Outputs("class", (_classes("a", "b"),)),
        "multiclass": _several(("a", "b", "c")),
    }
    for outputs in kinds.values():
        layout = _layout(outputs)
        size = max(1, len(outputs.classes))
        table, predicted = layout.outcomes(), layout.predictions()
        assert layout.add(np.empty((0, size)), [], table) == []
        layout.count(np.empty((0, size)), predicted)
        assert not table.any()
        assert not predicted.any()


def test_regressions_have_no_cells() -> None:
    """Their errors are summed instead."""
    assert OutcomeLayout.of(Outputs("regression", (_number("value", (0.5,)),))) is None
