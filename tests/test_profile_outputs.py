"""Outputs of a profile: which kind they are, which class a score is of, and how it is calibrated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.profile import CalibrationBin, Outputs, Profile

RNG = np.random.default_rng(21)
ROWS = 400
SCORES = RNG.uniform(size=ROWS)
TWO = np.column_stack([1 - SCORES, SCORES])
LABELS = (RNG.uniform(size=ROWS) < SCORES).astype(int)
WORDS = np.where(LABELS == 1, "yes", "no")
CLASSES = RNG.dirichlet([1, 1, 1], ROWS)


def _outputs(outputs: Any, labels: Any = None, **options: Any) -> Outputs:
    data = {"x": np.arange(float(len(LABELS)))}
    fitted = Profile.fit(data, outputs=outputs, labels=labels, model="churn", **options).outputs
    assert fitted is not None
    return fitted


def _shape(outputs: Outputs) -> tuple[str, list[tuple[str, str]]]:
    return outputs.kind, [(column.name, column.bins.kind) for column in outputs.columns]


@pytest.mark.parametrize(
    ("outputs", "options", "kind", "columns"),
    [
        (SCORES, {}, "score", [("score", "numeric")]),
        (SCORES.tolist(), {}, "score", [("score", "numeric")]),
        (SCORES[:, None], {}, "score", [("score", "numeric")]),
        (TWO, {}, "score", [("score", "numeric")]),
        (TWO.tolist(), {}, "score", [("score", "numeric")]),
        (SCORES * 40 - 20, {}, "regression", [("value", "numeric")]),
        (SCORES, {"output_kind": "regression"}, "regression", [("value", "numeric")]),
        (SCORES * 40 - 20, {"output_kind": "score"}, "score", [("score", "numeric")]),
        (LABELS, {"output_kind": "score"}, "score", [("score", "numeric")]),
        (LABELS, {}, "class", [("class", "categorical")]),
        (LABELS == 1, {}, "class", [("class", "boolean")]),
        (WORDS, {}, "class", [("class", "categorical")]),
        (WORDS.tolist(), {}, "class", [("class", "categorical")]),
        (CLASSES, {}, "multiclass", [("class", "categorical"), ("confidence", "numeric"), ("entropy", "numeric")]),
        (TWO, {"output_kind": "multiclass"}, "multiclass",
         [("class", "categorical"), ("confidence", "numeric"), ("entropy", "numeric")]),
        (np.full(ROWS, np.nan), {}, "regression", [("value", "numeric")]),
    ],
)  # fmt: skip
def test_kinds(outputs: Any, options: dict[str, Any], kind: str, columns: list[tuple[str, str]]) -> None:
    """Values and shape say what the outputs are, output_kind= overrides them."""
    assert _shape(_outputs(outputs, **options)) == (kind, columns)


def test_classes_are_kept_however_rare() -> None:
    """A class that the model gave three times has a cell of its own: it is no person's trait but the model's."""
    (column,) = _outputs(np.where(np.arange(ROWS) < 3, "fraud", "fine")).columns
    assert column.bins.categories == ("fine", "fraud")
    assert column.counts == (ROWS - 3, 3, 0, 0)


def test_class_confidence_and_entropy_of_probabilities() -> None:
    """Equal a direct computation; rows with a NaN are missing in all three."""
    probabilities = np.array([[0.7, 0.2, 0.1], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [np.nan, 0.5, 0.5]] * (ROWS // 4))
    outputs = _outputs(probabilities, np.array(["a", "b", "c", None] * (ROWS // 4)))
    assert outputs.classes == ("a", "b", "c")
    chosen, confidence, entropy = outputs.columns
    assert chosen.bins == Bins("categorical", categories=("a", "b", "c"))
    assert chosen.counts == (300, 0, 0, 100, 0)
    assert (confidence.counts[-2], entropy.counts[-2]) == (100, 100)
    assert confidence.mean == pytest.approx((0.7 + 1 + 1 / 3) / 3)
    direct = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert entropy.mean == pytest.approx((direct + 0 + 1) / 3)
    assert (entropy.minimum, entropy.maximum) == (0, 1)


def test_classes_in_the_order_of_the_columns() -> None:
    """Sorted labels name the columns, where there are as many; else they are numbered."""
    assert _outputs(CLASSES, RNG.choice(["z", "m", "a"], ROWS)).classes == ("a", "m", "z")
    assert _outputs(CLASSES, RNG.choice([30, 10, 20], ROWS)).classes == (10, 20, 30)
    assert _outputs(CLASSES).classes == (0, 1, 2)
    assert _outputs(CLASSES, np.full(ROWS, "a")).classes == (0, 1, 2)


def test_more_classes_than_cells() -> None:
    """Of forty classes the most frequent have cells, the rest are other; all forty keep their order."""
    matrix = np.zeros((ROWS, 40))
    matrix[np.arange(ROWS), np.minimum(np.arange(ROWS) // 2, 39)] = 1
    outputs = _outputs(matrix, max_categories=2)
    assert outputs.classes == tuple(range(40))
    assert outputs.columns[0].bins.categories == (39, 0)
    assert outputs.columns[0].counts == (322, 2, 0, 76)


def _curve(outputs: Outputs) -> list[tuple[float, int, int]]:
    return [(part.upper, part.positives, part.rows) for part in outputs.calibration]


def test_calibration_equals_a_direct_count() -> None:
    """Twenty bins of equally many rows; positives and mean scores as NumPy counts them."""
    curve = _outputs(SCORES, LABELS).calibration
    order = np.argsort(SCORES)
    assert len(curve) == 20
    assert curve[-1].upper == math.inf
    for part, rows in zip(curve, order.reshape(20, -1), strict=True):
        assert part.rows == 20
        assert part.positives == LABELS[rows].sum()
        assert part.mean_score == pytest.approx(SCORES[rows].mean(), rel=1e-11)
        assert SCORES[rows].max() <= part.upper


@pytest.mark.parametrize(
    ("outputs", "labels", "options"),
    [
        (SCORES, LABELS, {"positive_class": 1}),
        (SCORES, LABELS == 1, {}),
        (SCORES, LABELS.astype(float), {}),
        (SCORES, LABELS * 2 - 1, {}),
        (SCORES, WORDS, {"positive_class": "yes"}),
        (SCORES, np.where(LABELS == 1, 2, np.arange(ROWS) % 2 * 5), {"positive_class": 2}),
        (SCORES, LABELS.reshape(-1, 1), {}),
        (TWO, LABELS, {}),
        (TWO, WORDS, {}),
        (TWO, WORDS, {"positive_class": "yes"}),
        (TWO[:, ::-1], np.where(LABELS == 1, "a", "b"), {"positive_class": "a"}),
    ],
)  # fmt: skip
def test_which_label_is_positive(outputs: Any, labels: Any, options: dict[str, Any]) -> None:
    """However labels are written, the curve is that of the scores with ones and zeros."""
    assert _curve(_outputs(outputs, labels, **options)) == _curve(_outputs(SCORES, LABELS))


def test_labels_that_are_not_there_yet() -> None:
    """Rows without a label count for the scores but not for the curve."""
    some = np.where(np.arange(ROWS) % 2 == 0, LABELS.astype(float), np.nan)
    outputs = _outputs(SCORES, some)
    assert outputs.columns[0].rows == ROWS
    assert sum(part.rows for part in outputs.calibration) == ROWS // 2
    assert sum(part.positives for part in outputs.calibration) == LABELS[::2].sum()
    assert [part.upper for part in outputs.calibration] == [part[0] for part in _curve(_outputs(SCORES, LABELS))]


@pytest.mark.parametrize(
    ("outputs", "labels", "options", "error", "message"),
    [
        (SCORES[:5], None, {}, ValueError, f"outputs must have one entry per row of the data, {ROWS}, got 5"),
        (SCORES, LABELS[:5], {}, ValueError, f"labels must have one entry per row of the data, {ROWS}, got 5"),
        (SCORES, np.column_stack([LABELS] * 2), {}, ValueError, "labels must be one column"),
        (SCORES, [[1]] * ROWS, {}, ValueError, "labels must be numbers, text or booleans: the column holds .* list"),
        (SCORES, np.full(ROWS, "2026", "M8[Y]"), {}, ValueError, "labels must be numbers, text or booleans"),
        (3, None, {}, TypeError, "outputs: expected an array or a list, got int"),
        (SCORES, 3, {}, TypeError, "labels: expected an array or a list, got int"),
        (np.ones((ROWS, 2, 2)), None, {}, ValueError, r"of shape \(rows,\) or \(rows, classes\)"),
        ([[1.0, 2.0], [1.0]] * (ROWS // 2), None, {}, ValueError, "equally many numbers in every row"),
        (CLASSES * 3, None, {}, ValueError, "row 0 adds up to 3 .*apply softmax first"),
        (np.column_stack([CLASSES[:, :2], -CLASSES[:, 2]]), None, {}, ValueError, "add up to 1; row 0"),
        (np.full((ROWS, 3), "a"), None, {}, ValueError, "outputs of several columns must be numbers"),
        (CLASSES, None, {"output_kind": "class"}, ValueError, "needs one output per row"),
        (CLASSES, None, {"output_kind": "score"}, ValueError, "needs one or two columns"),
        (CLASSES, None, {"positive_class": 1}, ValueError, "is of use with scores, outputs are multiclass"),
        (SCORES, None, {"output_kind": "multiclass"}, ValueError, "needs outputs of shape"),
        (SCORES, None, {"output_kind": "scores"}, ValueError, "output_kind must be 'score', .*got 'scores'"),
        (SCORES * 9, None, {"positive_class": 1}, ValueError, "is of use with scores, outputs are regression"),
        (WORDS, None, {"positive_class": "yes"}, ValueError, "is of use with scores, outputs are class"),
        (WORDS, None, {"output_kind": "regression"}, ValueError, "outputs must be numbers"),
        (SCORES, WORDS, {}, ValueError, r"positive_class must say which of the labels \['no', 'yes'\]"),
        (SCORES, np.arange(ROWS) % 3, {}, ValueError, r"positive_class must say which of the labels \[0, 1, 2\]"),
        (SCORES, WORDS, {"positive_class": "ja"}, ValueError, r"one of the labels, such as \['no', 'yes'\], got 'ja'"),
        (TWO, WORDS, {"positive_class": "ja"}, ValueError, r"positive_class must be one of \['no', 'yes'\], got 'ja'"),
        (np.arange(ROWS), None, {}, ValueError, "looks like an identifier.*give output_kind='regression'"),
        (np.full(ROWS, "2026", "M8[Y]"), None, {}, ValueError, "outputs must be numbers, text or booleans"),
        (None, LABELS, {}, ValueError, "labels=, .* say something about outputs="),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit(
    outputs: Any, labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What is wrong with outputs or labels is said with what was expected."""
    with pytest.raises(error, match=message):
        _outputs(outputs, labels, **options)


def test_outputs_that_are_columns_of_the_data() -> None:
    """Outputs and labels may be named; they are no features then, and give what their values give."""
    data = {"x": np.arange(float(ROWS)), "p": SCORES, "churned": LABELS}
    named = Profile.fit(data, outputs="p", labels="churned", model="churn")
    assert named.names == ("x",)
    assert named == Profile.fit({"x": data["x"]}, outputs=SCORES, labels=LABELS, model="churn")
    data = {"x": data["x"], "a": CLASSES[:, 0], "b": CLASSES[:, 1], "c": CLASSES[:, 2]}
    several = Profile.fit(data, outputs=["a", "b", "c"], model="churn")
    assert several.names == ("x",)
    assert several.outputs is not None
    assert several.outputs.classes == ("a", "b", "c")
    with pytest.raises(ValueError, match="no column 'q' in the data"):
        Profile.fit(data, outputs="q", model="churn")


def test_outputs_that_contradict_themselves() -> None:
    """Outputs whose columns, classes or calibration are not those of their kind cannot be made."""
    outputs = _outputs(SCORES, LABELS)
    with pytest.raises(ValueError, match="kind must be one of"):
        Outputs("scores", outputs.columns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="columns of kind 'class' must be"):
        Outputs("class", outputs.columns)
    with pytest.raises(ValueError, match="classes must be those of multiclass"):
        Outputs("score", outputs.columns, (0, 1))
    with pytest.raises(ValueError, match="ascending up to infinity"):
        Outputs("score", outputs.columns, calibration=outputs.calibration[::-1])
    with pytest.raises(ValueError, match="positives must be from 0 to rows, got 3 of 2"):
        CalibrationBin(1.0, 0.5, 3, 2)
