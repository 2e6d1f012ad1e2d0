"""Embeddings: three numbers of every vector, the same however it comes, in a profile and in what is counted live."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otel_mlobs.core.embeddings import Embedding, EmbeddingReader, fit_embedding, row_reader
from otel_mlobs.core.profile import Profile
from otel_mlobs.core.rows import RowReader, ShapeError
from otel_mlobs.core.tally import Tally
from otel_mlobs.telemetry.monitor import Monitor

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
cosine = pytest.importorskip("scipy.spatial.distance").cosine

RNG = np.random.default_rng(31)
ROWS, SIZE = 400, 16
VECTORS = RNG.normal(0.3, 1.0, (ROWS, SIZE))
AGE = RNG.normal(40, 9, ROWS)
PROFILE = Profile.fit({"age": AGE}, embeddings={"user": VECTORS}, model="towers")
STEP = 2.0**-20


def _measures(vectors: Any, embedding: Embedding = PROFILE.embeddings[0]) -> Any:
    return embedding.measure(np.asarray(vectors))


def _counts(tally: Tally) -> Any:
    table = tally.fold()
    assert table is not None
    return table


def test_measures_are_those_of_numpy_and_scipy() -> None:
    """Norm, standard deviation of the components, and SciPy's cosine distance to the centroid, to 2⁻²⁰."""
    centroid = np.array(PROFILE.embeddings[0].centroid)
    assert centroid == pytest.approx(VECTORS.mean(axis=0), abs=1e-5)
    found = _measures(VECTORS)
    assert found[:, 0] == pytest.approx(np.linalg.norm(VECTORS, axis=1), rel=STEP)
    assert found[:, 1] == pytest.approx(VECTORS.std(axis=1), rel=STEP)
    assert found[:, 2] == pytest.approx([cosine(vector, centroid) for vector in VECTORS], abs=STEP)


def test_one_vector_measures_as_many_do() -> None:
    """The short way for one vector gives what the long way for many gives, odd vectors too."""
    embedding = PROFILE.embeddings[0]
    odd = np.zeros((6, SIZE))
    odd[1:] = VECTORS[:5]
    odd[1, 3], odd[2, 3], odd[3] = np.nan, np.inf, 1e200
    odd[4], odd[5] = embedding.centroid, -np.array(embedding.centroid)
    for vectors in (VECTORS, odd):
        many = embedding.measure(vectors)
        one = np.array([embedding.measure_one(vector) for vector in vectors])
        np.testing.assert_array_equal(one, many)
    assert np.isnan(many[0]).tolist() == [False, False, True]
    assert np.isnan(many[1]).all()
    assert many[4, 2] == 0.0
    assert many[5, 2] == 2.0


def test_the_same_vectors_in_single_precision_are_the_same() -> None:
    """Vectors scaled to length 1 have the norm 1 in any type, and float32 moves next to none to another cell."""
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    for vectors in (unit, unit.astype(np.float32)):
        assert set(_measures(vectors)[:, 0].tolist()) == {1.0}
    profile = Profile.fit({"age": AGE}, embeddings={"user": unit}, model="towers")
    counts = []
    for vectors in (unit, unit.astype(np.float32)):
        tally = Tally(profile)
        tally.add_inputs({"age": AGE, "user": vectors})
        counts.append(_counts(tally))
    assert np.abs(counts[0] - counts[1]).sum() <= 4
    assert counts[0][1].tolist() == counts[1][1].tolist()


def test_a_profile_has_three_features_for_each_embedding() -> None:
    """They come last, their counts are those of the measures, and the reference is kept with its centroid."""
    assert PROFILE.names == ("age", "user.norm", "user.dispersion", "user.distance")
    (embedding,) = PROFILE.embeddings
    assert (embedding.name, embedding.size, embedding.rows) == ("user", SIZE, ROWS)
    for column, values in zip(PROFILE.features[1:], _measures(VECTORS).T, strict=True):
        assert column.counts == tuple(column.bins.count(values)[0].tolist())
        assert column.mean == pytest.approx(values.mean())
    two = Profile.fit({"age": AGE}, embeddings={"user": VECTORS, "item": VECTORS[:, :4]}, model="towers")
    assert two.names[4:] == ("item.norm", "item.dispersion", "item.distance")
    assert [one.size for one in two.embeddings] == [SIZE, 4]


def test_neither_order_nor_type_of_the_rows_matters() -> None:
    """Shuffled rows, columns-first arrays, lists, frames' columns and missing vectors give one profile."""
    order = RNG.permutation(ROWS)
    same = [
        Profile.fit({"age": AGE[order]}, embeddings={"user": VECTORS[order]}, model="towers"),
        Profile.fit({"age": AGE}, embeddings={"user": np.asfortranarray(VECTORS)}, model="towers"),
        Profile.fit({"age": AGE}, embeddings={"user": VECTORS.tolist()}, model="towers"),
        Profile.fit({"age": AGE}, embeddings={"user": pd.Series(list(VECTORS))}, model="towers"),
        Profile.fit({"age": AGE}, embeddings={"user": pl.Series(VECTORS.tolist())}, model="towers"),
        Profile.fit({"age": AGE}, embeddings={"user": pa.array(VECTORS.tolist())}, model="towers"),
    ]
    for profile in same:
        assert profile.id == PROFILE.id
        assert profile.embeddings == PROFILE.embeddings
    gaps = [None if row % 10 == 0 else vector for row, vector in enumerate(VECTORS)]
    profile = Profile.fit({"age": AGE}, embeddings={"user": gaps}, model="towers")
    assert profile.embeddings[0].rows == ROWS * 9 // 10
    assert [column.counts[-2] for column in profile.features] == [0, 40, 40, 40]
    frame = pd.DataFrame({"age": AGE, "user": list(VECTORS)})
    assert Profile.fit(frame, embeddings={"user": frame["user"]}, model="towers").id == PROFILE.id


def test_embeddings_alone_make_a_profile() -> None:
    """A model that takes nothing but vectors has a profile, too, and its rows are counted."""
    profile = Profile.fit({"user": VECTORS}, embeddings={"user": VECTORS}, model="towers")
    assert profile.names == ("user.norm", "user.dispersion", "user.distance")
    for rows in ({"user": VECTORS}, [{"user": vector} for vector in VECTORS]):
        tally = Tally(profile)
        tally.add_inputs(rows)
        assert [tuple(row) for row in _counts(tally)] == [column.counts for column in profile.features]
    tally = Tally(profile)
    tally.add_inputs({"user": VECTORS[0].tolist()})
    assert _counts(tally).sum() == 3


def test_parts_measure_the_distance_to_the_centroid_of_the_whole() -> None:
    """With like= the halves add up to the whole; other centroids cannot be added."""
    half = ROWS // 2
    one, other = (
        Profile.fit({"age": AGE[part]}, embeddings={"user": VECTORS[part]}, model="towers", like=PROFILE)
        for part in (slice(half), slice(half, None))
    )
    merged = one.merge(other)
    assert merged.embeddings == PROFILE.embeddings
    assert [column.counts for column in merged.features] == [column.counts for column in PROFILE.features]
    assert merged.id == PROFILE.id
    arrays = Profile.fit(AGE[:, None], embeddings={"user": VECTORS}, model="towers", like=PROFILE)
    assert arrays.id == PROFILE.id
    with pytest.raises(ValueError, match=r"embeddings must be those of the profile in like=, \['user'\], got \[\]"):
        Profile.fit({"age": AGE}, model="towers", like=PROFILE)
    moved = Profile.fit({"age": AGE}, embeddings={"user": VECTORS + 0.5}, model="towers")
    with pytest.raises(ValueError, match="same embeddings and centroids"):
        PROFILE.merge(moved)


def test_a_profile_with_embeddings_survives() -> None:
    """Saved and loaded, centroid and rows are the same; another centroid is another content."""
    again = Profile.from_json(PROFILE.to_json())
    assert again == PROFILE
    assert again.id == PROFILE.id
    embedding = PROFILE.embeddings[0]
    moved = replace(embedding, centroid=(embedding.centroid[0] + 1, *embedding.centroid[1:]))
    assert replace(PROFILE, embeddings=(moved,)).id != PROFILE.id


def _as_rows(rows: int) -> list[tuple[str, Any]]:
    age, vectors = AGE[:rows], VECTORS[:rows]
    listed = vectors.tolist()
    return [
        ("mapping of arrays", {"age": age, "user": vectors}),
        ("mapping of lists", {"age": age.tolist(), "user": listed}),
        ("list of mappings", [{"age": one, "user": vector} for one, vector in zip(age, vectors, strict=True)]),
        ("pandas", pd.DataFrame({"age": age, "user": list(vectors)})),
        ("polars", pl.DataFrame({"age": age, "user": listed})),
        ("polars array", pl.DataFrame({"age": age, "user": vectors})),
        ("arrow", pa.table({"age": age, "user": listed})),
        ("structured", np.array(list(zip(age, vectors, strict=True)), dtype=[("age", "f8"), ("user", "f8", SIZE)])),
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 300])
def test_live_rows_of_every_shape_count_the_same(rows: int) -> None:
    """Mappings, lists of them, frames and structured arrays that hold the vector count what its measures are."""
    expected = [
        tuple(column.bins.count(values)[0].tolist())
        for column, values in zip(PROFILE.features, [AGE[:rows], *_measures(VECTORS[:rows]).T], strict=True)
    ]
    for name, given in _as_rows(rows):
        tally = Tally(PROFILE)
        tally.add_inputs(given)
        assert [tuple(row) for row in _counts(tally)] == expected, name
        assert not tally.rows.unknown, name
        assert not tally.refused_rows, name
        assert not tally.odd_values.any(), name


def test_one_row_and_what_it_may_hold() -> None:
    """A vector as list, array, batch of one; None and NaN are missing; what is no such vector is of a wrong type."""
    reader = row_reader(PROFILE)
    assert isinstance(reader, EmbeddingReader)
    expected = (40.0, *_measures(VECTORS[:1])[0])
    for vector in (VECTORS[0], VECTORS[0].tolist(), VECTORS[:1], tuple(VECTORS[0]), VECTORS[0].astype(object)):
        assert reader.read({"age": 40.0, "user": vector}) == expected
    assert reader.read({"age": 40.0, "user": None}) == (40.0, None, None, None)
    for vector in (VECTORS[0, :5], VECTORS[:2], "text", 3.0, {"a": 1}, ["x"] * SIZE):
        tally = Tally(PROFILE)
        tally.add_inputs({"age": 40.0, "user": vector})
        counts = _counts(tally)
        assert counts[1:, -1].tolist() == [1, 1, 1]
        assert tally.odd_values.tolist() == [0, 1, 1, 1]
        assert counts[0, :-2].sum() == 1
    derived = dict(zip(PROFILE.names, expected, strict=True))
    assert reader.read(derived) == expected


def test_batches_that_hold_no_vectors_are_refused() -> None:
    """A batch whose vectors have another length is refused as a whole, and says what was expected."""
    reader = row_reader(PROFILE)
    for given in ({"age": AGE, "user": VECTORS[:, :5]}, pd.DataFrame({"age": AGE, "user": list(VECTORS[:, :5])})):
        with pytest.raises(ShapeError, match="embedding 'user' must be vectors of 16 numbers"):
            reader.read(given)
    tally = Tally(PROFILE)
    tally.add_inputs({"age": AGE, "user": VECTORS[:7]})
    assert tally.fold() is None
    assert tally.refused_rows == 1


def test_profiles_without_embeddings_are_read_as_before() -> None:
    """No row of plain features meets the code for vectors."""
    assert type(row_reader(Profile.fit({"age": AGE}, model="m"))) is RowReader


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        (VECTORS[:5], ValueError, f"'user' must have one vector per row of the data, {ROWS}, got 5"),
        (VECTORS[:, :1], ValueError, "'user' must have 2 to 4096 components, got 1"),
        (np.zeros((ROWS, 4097), np.float32), ValueError, "'user' must have 2 to 4096 components, got 4097"),
        (AGE, ValueError, r"'user' must be numbers of shape \(rows, components\), got \(400,\)"),
        ([["a", "b"]] * ROWS, ValueError, "'user' must be numbers of shape .* got a list"),
        ([[1.0], [1.0, 2.0]] * (ROWS // 2), ValueError, "'user' must be numbers of shape"),
        (np.full((ROWS, 3), np.nan), ValueError, "'user' has no vector whose components are all finite"),
        (3, ValueError, "'user' must be numbers of shape .* got a int"),
    ],
)
def test_vectors_that_cannot_be_fitted(vectors: Any, error: type[Exception], message: str) -> None:
    """What is wrong with vectors is said with the embedding's name and what was expected."""
    with pytest.raises(error, match=message):
        Profile.fit({"age": AGE}, embeddings={"user": vectors}, model="towers")


def test_embeddings_that_contradict_themselves() -> None:
    """An embedding needs a name and a finite centroid, a profile its features."""
    with pytest.raises(ValueError, match="must have a name"):
        Embedding("", (1.0, 2.0), 3)
    with pytest.raises(ValueError, match="components must be finite"):
        Embedding("user", (1.0, math.inf), 3)
    with pytest.raises(ValueError, match="last features must be those of its embeddings"):
        replace(PROFILE, features=PROFILE.features[::-1])
    with pytest.raises(TypeError, match="embeddings must be vectors by name"):
        Profile.fit({"age": AGE}, embeddings=[VECTORS], model="towers")  # type: ignore[arg-type]


def test_large_and_small_vectors_have_a_centroid() -> None:
    """Sums in whole numbers neither overflow nor lose small components beside large ones' scale."""
    for scale in (1e-200, 1.0, 1e200):
        embedding, _ = fit_embedding("user", VECTORS * scale)
        assert np.array(embedding.centroid) == pytest.approx(VECTORS.mean(axis=0) * scale, abs=1e-5 * scale)
    integers = np.full((5, 3), -128, np.int8)
    assert fit_embedding("user", integers)[0].centroid == (-128.0,) * 3
    embedding, measures = fit_embedding("user", np.zeros((5, 3)))
    assert embedding.centroid == (0.0, 0.0, 0.0)
    assert np.isnan(measures[:, 2]).all()


def test_a_monitor_sees_a_shifted_vector() -> None:
    """Observed rows that hold vectors of another kind drift in the embedding's features and in no other."""
    now = 1_000.0
    with contextlib.closing(Monitor(PROFILE, window=600.0, clock=lambda: now)) as monitor:
        for age, vector in zip(AGE, VECTORS, strict=True):
            monitor.observe({"age": age, "user": 2 * vector})
        now += 100
        monitor.tick()
        features = monitor.status().features
    assert {name: result.drifted for name, result in features.items()} == {
        "age": False,
        "user.norm": True,
        "user.dispersion": True,
        "user.distance": False,
    }
