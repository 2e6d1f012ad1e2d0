"""Outputs of a profile: which kind they are, which class a score is of, and how it is calibrated."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.profile import Outputs, Profile

RNG = np.random.default_rng(21)
ROWS = 400
SCORES = RNG.uniform(size=ROWS)
TWO = np.column_stack([1 - SCORES, SCORES])
LABELS = (RNG.uniform(size=ROWS) < SCORES).astype(int)
WORDS = np.where(LABELS == 1, "yes", "no")
CLASSES = RNG.dirichlet([1, 1, 1], ROWS)


def _outputs(outputs: Any, labels: Any = None, **options: Any) -> Outputs:
    data = {"x": np.arange(float(ROWS))}
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


def _calibration(outputs: Outputs) -> Calibration:
    assert outputs.calibration is not None
    return outputs.calibration


def _curve(outputs: Outputs) -> list[tuple[float, int, int]]:
    calibration = _calibration(outputs)
    return list(zip(calibration.uppers, calibration.positives, calibration.rows, strict=True))


@pytest.mark.parametrize("threshold", [None, 0.5, 0.13, 0.999, 2.0])
def test_calibration_equals_a_direct_count(threshold: float | None) -> None:
    """A hundred bins at the most, one edge just below the threshold; positives and mean scores as NumPy counts them."""
    outputs = _outputs(SCORES, LABELS, threshold=threshold)
    curve = _calibration(outputs)
    limit = 0.5 if threshold is None else threshold
    assert outputs.threshold == limit
    assert math.nextafter(limit, -math.inf) in curve.uppers
    assert len(curve.uppers) == 100
    assert curve.uppers[-1] == math.inf
    assert sum(curve.rows) == ROWS
    lower = -math.inf
    for upper, mean, positives, rows in zip(curve.uppers, curve.mean_scores, curve.positives, curve.rows, strict=True):
        inside = (lower < SCORES) & (upper >= SCORES)
        lower = upper
        assert rows == np.count_nonzero(inside) <= 5
        assert positives == LABELS[inside].sum()
        if rows:
            assert mean == pytest.approx(SCORES[inside].mean(), rel=1e-6)
            assert np.unique(SCORES[inside] >= limit).size == 1


def test_edges_of_a_calibration_are_short() -> None:
    """Edges have six digits, but where that would join bins, and a value shares its bin with its float32 copy."""
    curve = _calibration(_outputs(np.round(SCORES, 1), LABELS, threshold=0.25))
    long = [upper for upper in curve.uppers if float(f"{upper:.6g}") != upper]
    assert long == [math.nextafter(0.25, 0), 0.99999995]  # below the threshold, and below the largest score
    for value in np.unique(np.round(SCORES, 1)):
        cells = np.searchsorted(curve.uppers, [value, float(np.float32(value))], side="left")
        assert cells[0] == cells[1]
    saturated = 1 - np.arange(ROWS) % 4 * 1e-9
    curve = _calibration(_outputs(saturated, LABELS))
    assert [rows for rows in curve.rows if rows] == [ROWS // 4] * 4


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


@pytest.mark.parametrize(
    ("scores", "bins"),
    [
        (np.full(ROWS, 0.5), 4),
        (np.zeros(ROWS), 4),
        (LABELS.astype(float), 4),
        (np.full(ROWS, np.nan), 2),
        (np.where(np.arange(ROWS) < 9, np.inf, SCORES), 100),
        (SCORES * 1e-320, 100),
        (SCORES * 1e308, 100),
        (1 - SCORES * 1e-12, 100),
        (-SCORES, 100),
    ],
)
def test_scores_at_the_ends_of_floats(scores: Any, bins: int) -> None:
    """Constants, denormal and huge scores have a calibration that counts all rows, survives, and fits its shards."""
    options: dict[str, Any] = {"outputs": scores, "labels": LABELS, "output_kind": "score", "model": "m"}
    profile = Profile.fit({"x": np.arange(ROWS)}, **options)
    assert profile.outputs is not None
    curve = _calibration(profile.outputs)
    assert len(curve.uppers) == bins
    assert sum(curve.rows) == np.count_nonzero(np.isfinite(scores))
    assert all(0 <= share <= 1 for share in curve.calibrated)
    assert Profile.from_json(profile.to_json()) == profile
    assert Profile.fit({"x": np.arange(ROWS)}, like=profile, **options).id == profile.id


def test_labels_that_are_not_there_yet() -> None:
    """Rows without a label count for the scores but not for the curve."""
    some = np.where(np.arange(ROWS) % 2 == 0, LABELS.astype(float), np.nan)
    outputs = _outputs(SCORES, some)
    assert outputs.columns[0].rows == ROWS
    assert sum(_calibration(outputs).rows) == ROWS // 2
    assert sum(_calibration(outputs).positives) == LABELS[::2].sum()
    assert _calibration(outputs).uppers == _calibration(_outputs(SCORES, LABELS)).uppers


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
        (None, None, {"threshold": 0.3}, ValueError, "threshold= say something about outputs="),
        (SCORES * 9, None, {"threshold": 3}, ValueError, "threshold=3 is of use with scores, outputs are regression"),
        (CLASSES, None, {"threshold": 0.3}, ValueError, "threshold=0.3 is of use with scores, outputs are multiclass"),
        (SCORES, LABELS, {"threshold": math.nan}, ValueError, "threshold must be a finite number, got nan"),
        (SCORES, LABELS, {"threshold": math.inf}, ValueError, "threshold must be a finite number, got inf"),
        (SCORES, LABELS, {"threshold": -sys.float_info.max}, ValueError, "threshold must be a finite number"),
        (SCORES, LABELS, {"threshold": True}, ValueError, "threshold must be a finite number, got True"),
        (SCORES * 9, WORDS, {}, ValueError, "labels must be numbers where outputs are regression, got categorical"),
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
    with pytest.raises(ValueError, match="calibration must be of kind 'score', got 'regression'"):
        Outputs("regression", _outputs(SCORES * 9).columns, calibration=outputs.calibration)
    with pytest.raises(ValueError, match=r"calibration must have an edge just below the threshold 0\.3"):
        replace(outputs, threshold=0.3)
    with pytest.raises(ValueError, match="threshold must be a finite number, got inf"):
        replace(outputs, threshold=math.inf)
    several = _outputs(CLASSES, np.arange(ROWS) % 3)
    with pytest.raises(ValueError, match="calibrations must be one per class, 3, got 2"):
        replace(several, calibrations=several.calibrations[:2])


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (LABELS, {}, None),
        (LABELS == 1, {}, None),
        (LABELS * 2 - 1, {}, 1),
        (WORDS, {"positive_class": "yes"}, "yes"),
        (LABELS, {"positive_class": np.int64(1)}, 1),
        (None, {"positive_class": "yes"}, "yes"),
    ],
)
def test_the_positive_class_is_kept(labels: Any, options: dict[str, Any], expected: Any) -> None:
    """Late labels are read as the reference's were: its positive class is in the profile, as a plain value."""
    found = _outputs(SCORES, labels, **options)
    assert found.positive_class == expected
    assert type(found.positive_class) is type(expected)
    assert _outputs(TWO, WORDS).positive_class == "yes"


def test_calibrations_of_several_classes() -> None:
    """Every class against the rest, in its own bins, with the rows on which it was chosen; unknown labels left out."""
    labels = np.array([RNG.choice(3, p=row) for row in CLASSES]).astype(object)
    labels[:7] = None
    outputs = _outputs(CLASSES, labels)
    assert len(outputs.calibrations) == 3
    chosen = CLASSES.argmax(axis=1)
    for index, part in enumerate(outputs.calibrations):
        assert len(part.uppers) == 50
        assert sum(part.rows) == ROWS - 7
        lower = -math.inf
        for place, upper in enumerate(part.uppers):
            inside = (CLASSES[:, index] > lower) & (CLASSES[:, index] <= upper) & (np.arange(ROWS) >= 7)
            lower = upper
            positive = inside & (labels == index)
            assert part.rows[place] == np.count_nonzero(inside)
            assert part.positives[place] == np.count_nonzero(positive)
            assert part.chosen_rows[place] == np.count_nonzero(inside & (chosen == index))
            assert part.chosen_positives[place] == np.count_nonzero(positive & (chosen == index))
    order = RNG.permutation(ROWS)
    assert _outputs(CLASSES[order], labels[order]) == outputs
    assert _outputs(CLASSES).calibrations == ()
    assert _outputs(CLASSES, np.resize(["a", "b"], ROWS)).calibrations == ()


def test_many_classes_have_fewer_bins() -> None:
    """The bins of all classes together stay under a thousand and some; beyond a hundred classes there are none."""
    for classes, bins in ((20, 50), (40, 25), (100, 10), (101, 0)):
        matrix = RNG.dirichlet(np.ones(classes), ROWS)
        found = _outputs(matrix, np.arange(ROWS) % classes).calibrations
        assert len(found) == (classes if bins else 0)
        assert {len(part.uppers) for part in found} == ({bins} if bins else set())


def test_errors_of_a_regression() -> None:
    """Rows, absolute, squared and signed errors by bin of the prediction, as NumPy has them; NaN is left out."""
    values = RNG.normal(50, 20, ROWS)
    labels = values + RNG.normal(1, 3, ROWS)
    labels[:5] = np.nan
    errors = _outputs(values, labels).errors
    assert errors is not None
    assert len(errors.uppers) == 20
    assert sum(errors.rows) == ROWS - 5
    lower = -math.inf
    for place, upper in enumerate(errors.uppers):
        inside = (values > lower) & (values <= upper) & ~np.isnan(labels)
        lower = upper
        error = (values - labels)[inside]
        assert errors.rows[place] == error.size
        assert errors.absolute[place] == pytest.approx(np.abs(error).mean(), rel=1e-6)
        assert errors.squared[place] == pytest.approx(np.square(error).mean(), rel=1e-6)
        assert errors.signed[place] == pytest.approx(error.mean(), abs=1e-6 * np.abs(error).mean())
    order = RNG.permutation(ROWS)
    assert _outputs(values[order], labels[order]).errors == errors
    assert _outputs(values).errors is None
    assert _outputs(values, np.where(np.arange(ROWS) < 3, 1e300, labels)).errors is not None


def test_errors_that_contradict_themselves() -> None:
    """Error bins whose fields do not fit cannot be made."""
    with pytest.raises(ValueError, match="uppers must ascend to infinity"):
        ErrorBins((1.0,), (1,), (1.0,), (1.0,), (0.0,))
    with pytest.raises(ValueError, match="absolute must be finite and not negative"):
        ErrorBins((math.inf,), (1,), (-1.0,), (1.0,), (0.0,))
    with pytest.raises(ValueError, match="signed must be one per bin, 1, got 2"):
        ErrorBins((math.inf,), (1,), (1.0,), (1.0,), (0.0, 1.0))
