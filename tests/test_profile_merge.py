"""Profiles of parts: fitted with one part's bins they add up to the profile of the whole."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.profile import Column, Outputs, Profile

RNG = np.random.default_rng(23)
ROWS = 3000
NUMBERS = RNG.lognormal(2, 2, ROWS)
NUMBERS[::13] = np.nan
NUMBERS[::101] = np.inf
DATA: dict[str, Any] = {
    "amount": NUMBERS,
    "plan": np.array([None if row % 17 == 0 else "abc"[row % 3] for row in range(ROWS)], dtype=object),
    "active": RNG.uniform(size=ROWS) < 0.3,
}
SCORES = RNG.uniform(size=ROWS)
LABELS = (RNG.uniform(size=ROWS) < SCORES).astype(int)
WHOLE = Profile.fit(DATA, outputs=SCORES, labels=LABELS, model="churn", version="3")


def _part(rows: Any, like: Profile = WHOLE, **options: Any) -> Profile:
    data = {name: values[rows] for name, values in DATA.items()}
    options = {"outputs": SCORES[rows], "labels": LABELS[rows]} | options
    return Profile.fit(data, model="churn", like=like, **options)


def _close(one: Profile, other: Profile, tolerance: float = 1e-9) -> None:
    assert one.rows == other.rows
    for ours, theirs in zip(one.columns, other.columns, strict=True):
        _close_columns(ours, theirs, tolerance)
    if one.outputs is None or other.outputs is None:
        assert one.outputs is other.outputs
        return
    for mine, yours in zip(_binned(one.outputs), _binned(other.outputs), strict=True):
        for field in fields(mine):
            ours_, theirs_ = getattr(mine, field.name), getattr(yours, field.name)
            if field.name in ("uppers", "rows", "positives", "chosen_rows", "chosen_positives"):
                assert ours_ == theirs_
            else:
                assert ours_ == pytest.approx(theirs_, rel=tolerance, abs=tolerance)
    assert one.outputs.threshold == other.outputs.threshold
    assert one.outputs.positive_class == other.outputs.positive_class


def _binned(outputs: Outputs) -> list[Calibration | ErrorBins]:
    return [part for part in (outputs.calibration, *outputs.calibrations, outputs.errors) if part is not None]


def _close_columns(ours: Column, theirs: Column, tolerance: float) -> None:
    assert (ours.name, ours.bins, ours.counts) == (theirs.name, theirs.bins, theirs.counts)
    assert (ours.minimum, ours.maximum) == (theirs.minimum, theirs.maximum)
    if ours.minimum is not None and ours.maximum is not None:
        scale = max(abs(ours.minimum), abs(ours.maximum))
        assert ours.mean == pytest.approx(theirs.mean, rel=tolerance, abs=tolerance * scale)
        assert ours.std == pytest.approx(theirs.std, rel=tolerance, abs=tolerance * scale)
        assert ours.positions == pytest.approx(theirs.positions, rel=tolerance, abs=tolerance * scale)


def test_shards_add_up_to_the_whole() -> None:
    """Uneven parts of mixed columns, merged, have the whole's counts exactly and its moments to 1e-9."""
    parts = [_part(slice(start, stop)) for start, stop in ((0, 7), (7, 1000), (1000, 1000 + 1), (1001, ROWS))]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    _close(merged, WHOLE)
    assert merged.version == "3"


_SHARDS = st.lists(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)),
    min_size=3,
    max_size=3,
)


@given(_SHARDS)
def test_merging_is_commutative_and_associative(shards: list[Any]) -> None:
    """In any order and grouping, shards merge to the profile of all rows."""
    everything = np.concatenate(shards)
    whole = Profile.fit({"x": everything}, model="m")
    one, two, three = (Profile.fit({"x": shard}, model="m", like=whole) for shard in shards)
    assert one.merge(two) == two.merge(one)
    left, right = one.merge(two).merge(three), one.merge(two.merge(three))
    _close(left, right)
    _close(left, whole)


def test_huge_magnitudes_merge() -> None:
    """Means of 1e308 neither overflow nor warn."""
    whole = Profile.fit({"x": [1.7e308, 1.6e308, -1.7e308, -1.6e308]}, model="m")
    one = Profile.fit({"x": [1.7e308, 1.6e308]}, model="m", like=whole)
    other = Profile.fit({"x": [-1.7e308, -1.6e308]}, model="m", like=whole)
    _close(one.merge(other), whole)


def test_a_part_without_values() -> None:
    """A shard whose column is all missing, of no type at all, adds its missing rows and nothing else."""
    data = {"amount": [None] * 5, "plan": [None] * 5, "active": [None] * 5}
    part = Profile.fit(data, outputs=np.full(5, np.nan), labels=[None] * 5, model="churn", like=WHOLE)
    for merged in (WHOLE.merge(part), part.merge(WHOLE)):
        for before, after in zip(WHOLE.columns, merged.columns, strict=True):
            assert after.counts[-2] == before.counts[-2] + 5
            assert after.counts[:-2] == before.counts[:-2]
            assert (after.mean, after.std, after.positions) == (before.mean, before.std, before.positions)
        assert merged.rows == ROWS + 5


def test_parts_without_labels() -> None:
    """A shard whose labels are not there yet adds to the scores and leaves the curve."""
    part = _part(slice(0, 100), labels=None)
    assert part.outputs is not None
    assert part.outputs.calibration is None
    merged = WHOLE.merge(part)
    assert merged.outputs is not None
    assert WHOLE.outputs is not None
    assert merged.outputs.calibration == WHOLE.outputs.calibration
    assert merged == part.merge(WHOLE)


@pytest.mark.parametrize("kind", ["class", "multiclass", "regression"])
def test_every_kind_of_outputs_merges(kind: str) -> None:
    """Classes, probabilities and values of two halves add up to those of the whole."""
    outputs: Any = {
        "class": np.where(SCORES > 0.9, "yes", "no"),
        "multiclass": np.column_stack([SCORES / 2, SCORES / 2, 1 - SCORES]),
        "regression": SCORES * 100,
    }[kind]
    x = {"x": np.arange(ROWS)}
    labels = {"class": outputs, "multiclass": np.resize(["a", "b", "c"], ROWS), "regression": LABELS * 100}[kind]
    whole = Profile.fit(x, outputs=outputs, labels=labels, model="m")
    half = ROWS // 2
    one, other = (
        Profile.fit({"x": x["x"][part]}, outputs=outputs[part], labels=labels[part], model="m", like=whole)
        for part in (slice(half), slice(half, None))
    )
    assert whole.outputs is not None
    assert whole.outputs.kind == kind
    assert len(_binned(whole.outputs)) == {"class": 0, "multiclass": 3, "regression": 1}[kind]
    _close(one.merge(other), whole)
    assert one.merge(other).id == whole.id
    without = Profile.fit({"x": x["x"][:half]}, outputs=outputs[:half], model="m", like=whole)
    merged = without.merge(other)
    assert merged == other.merge(without)
    assert merged.outputs is not None
    assert other.outputs is not None
    assert _binned(merged.outputs) == _binned(other.outputs)


def test_values_beyond_the_bins_they_are_fitted_with() -> None:
    """With another profile's bins new categories are other, new extremes lie in the outer cells, no rule refuses."""
    like = Profile.fit({"n": np.arange(100.0), "t": ["a"] * 100}, model="m")
    part = Profile.fit({"n": [-1e9, 1e9], "t": ["id-1", "a"]}, model="m", like=like)
    number, text = part.features
    assert (number.counts[0], number.counts[9], number.rows) == (1, 1, 2)
    assert text.counts == (1, 0, 1)
    merged = like.merge(part)
    assert (merged.features[0].minimum, merged.features[0].maximum) == (-1e9, 1e9)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"q": [1]}, {}, r"features names columns that the data has not: \['x', 't'\]"),
        ({"x": ["a"], "t": ["a"]}, {}, "column 'x' holds categorical values, the profile in like= has it as numeric"),
        ({"x": [1], "t": ["a"]}, {"features": ["t", "x"]}, r"like= fixes the features, \['x', 't'\]"),
        ({"x": [1], "t": ["a"]}, {"exclude": ["t"]}, "like= fixes the features"),
        ({"x": [1], "t": ["a"]}, {"version": "2"}, "like= is a profile of model 'm', version '1', got 'm', '2'"),
        ({"x": [1], "t": ["a"]}, {"model": "n"}, "like= is a profile of model 'm', version '1', got 'n', None"),
        ({"x": [1], "t": ["a"]}, {"outputs": [0.5]}, "like= has no outputs"),
        (np.ones((2, 3)), {}, "features must name the array's 3 columns, got 2 names"),
    ],
)  # fmt: skip
def test_shards_that_do_not_fit(data: Any, options: dict[str, Any], message: str) -> None:
    """A shard of other columns, another model or other outputs is refused with what differs."""
    like = Profile.fit({"x": [1, 2, 3], "t": ["a"] * 3}, model="m", version="1")
    with pytest.raises(ValueError, match=message):
        Profile.fit(data, **({"model": "m", "like": like} | options))


def test_outputs_of_shards_that_do_not_fit() -> None:
    """A shard's outputs must be of the same kind, and labels need a curve to be counted into."""
    with pytest.raises(ValueError, match="output_kind must be 'score', as in like=, got 'class'"):
        _part(slice(0, 9), output_kind="class")
    with pytest.raises(ValueError, match="like= has outputs"):
        _part(slice(0, 9), outputs=None, labels=None)
    bare = Profile.fit(DATA, outputs=SCORES, model="churn", version="3")
    with pytest.raises(ValueError, match="was fitted without: leave them out"):
        _part(slice(0, 9), like=bare)


def test_profiles_that_cannot_be_merged() -> None:
    """Other models, versions, features, bins or curves are refused, bins with how to get the same ones."""
    x = {"x": np.arange(50.0)}
    one = Profile.fit(x, model="m", version="1")
    for message, other in (
        ("same model: 'm' and 'n'", Profile.fit(x, model="n", version="1")),
        ("same version: '1' and '2'", Profile.fit(x, model="m", version="2")),
        (r"same features: \['x'\] and \['y'\]", Profile.fit({"y": x["x"]}, model="m", version="1")),
        (
            "those of 'x' differ: fit one part, then the others with like=",
            Profile.fit(x, model="m", version="1", bins=5),
        ),
        ("same kind of outputs: None and 'score'", Profile.fit(x, model="m", version="1", outputs=x["x"] / 50)),
    ):
        with pytest.raises(ValueError, match=message):
            one.merge(other)
    assert WHOLE.outputs is not None
    curve = WHOLE.outputs.calibration
    assert curve is not None
    shifted = replace(curve, uppers=(curve.uppers[0] / 2, *curve.uppers[1:]))
    with pytest.raises(ValueError, match="same calibration bins"):
        WHOLE.merge(replace(WHOLE, outputs=replace(WHOLE.outputs, calibration=shifted)))
    options: dict[str, Any] = {"outputs": SCORES, "model": "churn", "version": "3"}
    one = Profile.fit(DATA, **options)
    with pytest.raises(ValueError, match=r"same threshold: 0\.5 and 0\.7"):
        one.merge(Profile.fit(DATA, threshold=0.7, **options))
    with pytest.raises(ValueError, match="same positive class: None and 'yes'"):
        one.merge(Profile.fit(DATA, positive_class="yes", **options))


def test_parts_are_fitted_with_the_threshold_of_the_whole() -> None:
    """like= brings threshold and positive class; others are refused, the same are not."""
    words = np.where(LABELS == 1, "yes", "no")
    options: dict[str, Any] = {"outputs": SCORES, "labels": words, "model": "churn", "version": "3"}
    whole = Profile.fit(DATA, positive_class="yes", threshold=0.3, **options)
    same = Profile.fit(DATA, like=whole, **options)
    assert same == whole
    assert same.id == whole.id
    assert Profile.fit(DATA, like=whole, threshold=0.3, positive_class="yes", **options) == whole
    with pytest.raises(ValueError, match=r"threshold must be 0\.3, as in like=, got 0\.5"):
        Profile.fit(DATA, like=whole, threshold=0.5, **options)
    with pytest.raises(ValueError, match="positive_class must be 'yes', as in like=, got 'no'"):
        Profile.fit(DATA, like=whole, positive_class="no", **options)
