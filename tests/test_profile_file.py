"""A profile on disk: small, exact, whole or not at all; what is no profile is refused by field."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otel_mlobs.core.profile import Profile

RNG = np.random.default_rng(22)
ROWS = 1000


def _profile(**options: Any) -> Profile:
    data = {
        "age": RNG.normal(40, 9, ROWS),
        "plan": np.array(["basic", "pro", "équipe", "\ud800"] * (ROWS // 4)),
        "active": np.arange(ROWS) % 3 == 0,
        "empty": np.full(ROWS, np.nan),
    }
    scores = RNG.uniform(size=ROWS)
    labels = RNG.uniform(size=ROWS) < scores
    return Profile.fit(data, outputs=scores, labels=labels, model="churn", version="3", **options)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    """Every field and the id survive, text beyond ASCII too, and saving again writes the same bytes."""
    profile = _profile()
    path = tmp_path / "churn.profile.json"
    profile.save(path)
    loaded = Profile.load(str(path))
    assert loaded == profile
    assert loaded.id == profile.id
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert Profile.from_json(profile.to_json()) == profile
    assert pickle.loads(pickle.dumps(profile)) == profile


@given(
    hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(width=64)),
    st.integers(2, 12),
    st.lists(st.one_of(st.text(max_size=3), st.none()), min_size=1, max_size=5),
)
def test_any_profile_survives(numbers: Any, bins: int, texts: list[Any]) -> None:
    """Whatever was fitted, from_json undoes to_json to the last digit."""
    data = {"n": np.resize(numbers, 100), "t": (texts * 100)[:100]}
    profile = Profile.fit(data, outputs=["yes", "no"] * 50, model="m", bins=bins)
    again = Profile.from_json(profile.to_json())
    assert again == profile
    assert again.id == profile.id


def test_multiclass_survives() -> None:
    """Classes of every type come back as they were."""
    probabilities = RNG.dirichlet([1, 1, 1], ROWS)
    for labels in (["a", "b", "c"], [1, 2, 3], [0.5, 1.5, 2.5]):
        profile = Profile.fit(
            {"x": np.arange(ROWS)}, outputs=probabilities, labels=np.resize(labels, ROWS), model="m", version=None
        )
        again = Profile.from_json(profile.to_json().encode())
        assert again == profile
        assert again.outputs is not None
        assert list(map(type, again.outputs.classes)) == list(map(type, labels))


def test_ten_features_in_ten_kilobytes(tmp_path: Path) -> None:
    """Ten numbers with long names, a score and its calibration fit in 10 kB, with millions of rows as well."""
    names = [f"a_rather_long_feature_{number}" for number in range(10)]
    scores = RNG.uniform(size=100_000)
    labels = RNG.uniform(size=100_000) < scores
    profile = Profile.fit(
        RNG.lognormal(5, 3, (100_000, 10)),
        features=names,
        outputs=scores,
        labels=labels,
        model="churn",
        version="1.2.3",
    )
    profile.save(tmp_path / "p.json")
    assert (tmp_path / "p.json").stat().st_size <= 10_000


def test_one_line_per_column() -> None:
    """Files are compared line by line: each feature is on a line of its own."""
    lines = _profile().to_json().splitlines()
    assert sum('"name": ' in line for line in lines) == 5
    assert all(line.count('"name": ') <= 1 for line in lines)


def test_id_follows_the_content() -> None:
    """Equal content has an equal id in any process; another count, name, version or bin has another."""
    data = {"x": np.arange(100.0)}
    profile = Profile.fit(data, model="m", version="1")
    assert len(profile.id) == 12
    assert set(profile.id) <= set("0123456789abcdef")
    others = [
        Profile.fit({"x": np.arange(101.0)}, model="m", version="1"),
        Profile.fit({"y": np.arange(100.0)}, model="m", version="1"),
        Profile.fit(data, model="m", version="2"),
        Profile.fit(data, model="n", version="1"),
        Profile.fit(data, model="m", version="1", bins=5),
        Profile.fit(data, model="m", version="1", outputs=np.arange(100)),
    ]
    assert len({profile.id, *(other.id for other in others)}) == 7
    program = "import sys; from otel_mlobs.core.profile import Profile; print(Profile.from_json(sys.stdin.read()).id)"
    done = subprocess.run(
        [sys.executable, "-c", program], input=profile.to_json(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == profile.id


def _changed(change: Callable[[dict[str, Any]], Any]) -> str:
    content = json.loads(_profile().to_json())
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="keras"), "format must be 'otel-mlobs-profile', got 'keras'"),
        (lambda c: c.pop("format"), "format must be 'otel-mlobs-profile', got None"),
        (lambda c: c.update(format_version=2), "format_version is 2, this release reads up to 1: install a newer"),
        (lambda c: c.update(format_version="1"), "format_version must be 1, got '1'"),
        (lambda c: c.update(format_version=True), "format_version must be 1, got True"),
        (lambda c: c.pop("format_version"), "format_version must be 1, got None"),
        (lambda c: c.pop("rows"), "rows is not there"),
        (lambda c: c.update(rows=-1), "rows must be a whole number of rows, 0 or more, got -1"),
        (lambda c: c.update(rows=999), "'age': counts must add up to the 999 rows, got 1000"),
        (lambda c: c.update(model=7), "model must be text, got 7"),
        (lambda c: c.update(version=3), "version must be text or null, got 3"),
        (lambda c: c.update(features={}), "features must be a list, got {}"),
        (lambda c: c.update(features=[]), "features must be one or more"),
        (lambda c: c.update(features=[1]), r"features\[0\] must be an object, got 1"),
        (lambda c: c.update(outputs=[]), r"outputs must be an object or null, got \[\]"),
        (lambda c: c["features"][0].pop("counts"), r"features\[0\] \('age'\)\.counts is not there"),
        (lambda c: c["features"][0]["counts"].pop(), r"features\[0\].*counts must be one per cell, 12, got 11"),
        (lambda c: c["features"][0]["counts"].insert(0, -1), r"features\[0\] \('age'\)\.counts\[0\] must be .*got -1"),
        (lambda c: c["features"][0]["counts"].insert(0, 1.5), r"counts\[0\] must be a whole number of rows.*got 1.5"),
        (lambda c: c["features"][0]["counts"].insert(0, True), r"counts\[0\] must be a whole number of rows.*got True"),
        (lambda c: c["features"][0]["edges"].reverse(), r"features\[0\].*edges must be finite and ascend"),
        (lambda c: c["features"][0]["edges"].insert(2, "1"), r"edges\[2\] must be a number, got '1'"),
        (lambda c: c["features"][0].update(mean=None), "must be finite, or all None"),
        (lambda c: c["features"][0].update(mean=10**400), r"\('age'\)\.mean must be finite"),
        (lambda c: c["features"][0].update(kind="text"), "kind must be numeric, categorical or boolean, got 'text'"),
        (lambda c: c["features"][0]["positions"].pop(), "positions must be one per value cell, 10"),
        (lambda c: c["features"][1]["categories"].append("basic"), r"features\[1\].*categories must differ"),
        (lambda c: c["features"][1]["categories"].append([]), r"categories\[4\] must be text, a number or a boolean"),
        (lambda c: c["features"][2]["categories"].reverse(), "categories of a boolean must be False and True"),
        (lambda c: c["features"].append(c["features"][0]), "each with a name of its own"),
        (lambda c: c["outputs"].update(kind="ranks"), "outputs: kind must be one of .*got 'ranks'"),
        (lambda c: c["outputs"]["columns"].pop(), "columns of kind 'score' must be"),
        (lambda c: c["outputs"]["columns"][0].pop("edges"), r"outputs\.columns\[0\] \('score'\)\.edges is not there"),
        (lambda c: c["outputs"]["calibration"]["rows"].insert(3, "x"), r"calibration\.rows\[3\] must be a whole"),
        (lambda c: c["outputs"]["calibration"]["positives"].__setitem__(3, 10**6), "outputs.calibration: .*positives"),
        (lambda c: c["outputs"]["calibration"]["uppers"].pop(), r"calibration\.uppers must end with null"),
        (lambda c: c["outputs"]["calibration"]["uppers"].reverse(), r"calibration\.uppers must end with null"),
        (lambda c: c["outputs"]["calibration"]["uppers"].pop(0), "mean_scores must be one per bin, 99, got 100"),
        (lambda c: c["outputs"]["calibration"].pop("rows"), r"outputs\.calibration\.rows is not there"),
        (lambda c: c["outputs"].pop("threshold"), r"outputs\.threshold is not there"),
        (lambda c: c["outputs"].update(threshold="high"), r"outputs\.threshold must be a whole number or a number"),
        (lambda c: c["outputs"].update(threshold=0.7), "an edge just below the threshold 0.7"),
        (lambda c: c["outputs"].update(positive_class=[1]), r"outputs\.positive_class must be text or"),
        (lambda c: c["outputs"].update(positive_class=3), "edited or damaged"),
        (lambda c: c.pop("embeddings"), "embeddings is not there"),
        (lambda c: c["embeddings"].append({"name": "u", "rows": 3, "centroid": [1]}), "must have 2 to 4096 components"),
        (lambda c: c["embeddings"].append({"name": "u", "rows": 3, "centroid": [1, 2]}), "last features must be"),
        (lambda c: c.pop("id"), "id is not there"),
        (lambda c: c["features"][0].update(mean=41.0), "edited or damaged: the content's id is"),
        (lambda c: c["features"][1]["categories"].insert(0, c["features"][1]["categories"].pop()), "edited or damaged"),
    ],
)  # fmt: skip
def test_inconsistent_content_is_refused_by_field(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    """A single field that is wrong is named, with what it holds and what was expected."""
    with pytest.raises(ValueError, match=message):
        Profile.from_json(_changed(change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a profile, or not the whole of it: it is empty"),
        (b" \n", "it is empty"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"PAR1....", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"[]", "format must be"),
        (b"null", "format must be 'otel-mlobs-profile', got None"),
        (b"3", "format must be 'otel-mlobs-profile', got 3"),
        (b"[" * 200_000, "not a profile"),
        (b'{"rows": ' + b"9" * 5000 + b"}", "not a profile"),
        (b'{"a": NaN}', "NaN is no number that a profile can hold"),
    ],
)
def test_files_that_are_no_profile(tmp_path: Path, content: bytes, message: str) -> None:
    """The error is a ValueError that names the file and what it is instead."""
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Profile.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_number_too_large_for_a_float_is_refused() -> None:
    """1e999, which Python's JSON reads as infinity, is refused where it stands."""
    text = _profile().to_json()
    age = text.index('"edges": [') + len('"edges": [')
    with pytest.raises(ValueError, match=r"features\[0\] \('age'\)\.edges\[0\] must be finite, got -?inf"):
        Profile.from_json(text[:age] + "-1e999, " + text[age:])


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_damage_anywhere_is_seen(data: st.DataObject) -> None:
    """Wherever a file is cut, or one of its digits changed, it is refused or means the same."""
    profile = Profile.fit({"x": np.arange(50.0), "t": ["a", "b"] * 25}, outputs=np.linspace(0, 1, 50), model="m")
    text = profile.to_json()
    cut = data.draw(st.integers(0, len(text) - 3))
    with pytest.raises(ValueError, match="not"):
        Profile.from_json(text[:cut])
    digits = [place for place, sign in enumerate(text) if sign.isdigit()]
    place = data.draw(st.sampled_from(digits))
    changed = text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]
    try:
        read = Profile.from_json(changed)
    except ValueError:
        return
    for one, other in zip(read.columns, profile.columns, strict=True):
        assert (one.name, one.bins, one.counts) == (other.name, other.bins, other.counts)
        assert (one.minimum, one.maximum) == (other.minimum, other.maximum)
        if one.mean is not None and one.std is not None:
            assert math.isclose(one.mean, other.mean or 0, abs_tol=1e-6)
            assert math.isclose(one.std, other.std or 0, abs_tol=1e-6)
        assert one.positions == pytest.approx(other.positions, abs=1e-6)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while a profile is written leaves the file that was there, and no draft."""
    path = tmp_path / "p.json"
    profile = _profile()
    profile.save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _profile(bins=5).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.json"]


def test_saving_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    """A symbolic link stays one, its target becomes the new profile."""
    profile = _profile()
    target = tmp_path / "v3.json"
    target.write_text("old")
    link = tmp_path / "current.json"
    link.symlink_to(target)
    profile.save(link)
    assert link.is_symlink()
    assert Profile.load(target) == profile


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    """A missing file or folder is the system's own error, with its path."""
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Profile.load(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match="no_folder"):
        _profile().save(tmp_path / "no_folder" / "p.json")
