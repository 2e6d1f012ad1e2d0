"""What spans say of answers that have no single score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from otel_mlobs.testing import Telemetry

numpy = pytest.importorskip("numpy")


def attributes_of(telemetry: Telemetry, answer: Any) -> dict[str, Any]:
    """The attributes of a prediction that answers ``answer``."""
    telemetry.clear()
    mlobs.prediction(model="m")(lambda x: answer)([1.0])
    return dict(telemetry.span("prediction m").attributes or {})


@pytest.mark.parametrize("kind", [list, tuple, numpy.array])
def test_a_batch_of_classes_is_counted(mlobs_telemetry: Telemetry, kind: Any) -> None:
    """The most frequent class first, with as many counts as classes."""
    found = attributes_of(mlobs_telemetry, kind(["leaves", "stays", "stays"]))
    assert found["mlobs.prediction.classes"] == ("stays", "leaves")
    assert found["mlobs.prediction.class_counts"] == (2, 1)
    assert "mlobs.prediction.class" not in found


def test_booleans_are_classes_and_whole_numbers_are_not(mlobs_telemetry: Telemetry) -> None:
    """A number may be an amount: it is summarised."""
    found = attributes_of(mlobs_telemetry, numpy.array([True, False, True]))
    assert found["mlobs.prediction.classes"] == ("True", "False")
    found = attributes_of(mlobs_telemetry, numpy.array([1, 0, 1]))
    assert "mlobs.prediction.classes" not in found
    assert found["mlobs.prediction.mean"] == pytest.approx(2 / 3)


def test_only_the_ten_most_frequent_classes_are_named(mlobs_telemetry: Telemetry) -> None:
    """A model of a thousand classes must not fill a span."""
    labels = [f"c{index:03d}" for index in range(1000) for _ in range(index + 1)]
    found = attributes_of(mlobs_telemetry, labels)
    assert found["mlobs.prediction.classes"] == tuple(f"c{index:03d}" for index in range(999, 989, -1))
    assert found["mlobs.prediction.class_counts"] == tuple(range(1000, 990, -1))


@pytest.mark.parametrize("kind", [list, numpy.array])
def test_probability_vectors_give_confidence_and_entropy(mlobs_telemetry: Telemetry, kind: Any) -> None:
    """Mean of the highest probability; entropy over ln k, so that 0 is certain and 1 uniform."""
    found = attributes_of(mlobs_telemetry, kind([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]))
    assert found["mlobs.prediction.confidence"] == pytest.approx(0.75)
    expected = (0.5 * math.log(2) + 2 * 0.25 * math.log(4)) / math.log(3) / 2
    assert found["mlobs.prediction.entropy"] == pytest.approx(expected)
    assert "mlobs.prediction.mean" not in found


def test_entropy_is_scipys(mlobs_telemetry: Telemetry) -> None:
    """On random vectors, to rounding."""
    stats = pytest.importorskip("scipy.stats")
    rows = numpy.random.default_rng(4).dirichlet(numpy.ones(5), size=100)
    found = attributes_of(mlobs_telemetry, rows)
    assert found["mlobs.prediction.entropy"] == pytest.approx(stats.entropy(rows, axis=1).mean() / math.log(5))


def test_vectors_that_are_none_are_left_out(mlobs_telemetry: Telemetry) -> None:
    """NaN, infinities and negative numbers are no probabilities; no attribute is NaN."""
    bad = numpy.array([[numpy.nan, 0.5, 0.5], [numpy.inf, 0.0, 0.0], [-1.0, 1.0, 1.0]])
    assert not any(key.startswith("mlobs.prediction") for key in attributes_of(mlobs_telemetry, bad))
    found = attributes_of(mlobs_telemetry, numpy.vstack([bad, [0.2, 0.2, 0.6]]))
    assert found["mlobs.prediction.confidence"] == pytest.approx(0.6)


def test_frames_and_tensors_are_read_too(mlobs_telemetry: Telemetry) -> None:
    """A frame of probabilities and a series of classes say the same as arrays."""
    pandas = pytest.importorskip("pandas")
    found = attributes_of(mlobs_telemetry, pandas.DataFrame({"a": [0.5, 1.0], "b": [0.25, 0.0], "c": [0.25, 0.0]}))
    assert found["mlobs.prediction.confidence"] == pytest.approx(0.75)
    found = attributes_of(mlobs_telemetry, pandas.Series(["x", "y", "y"]))
    assert found["mlobs.prediction.class_counts"] == (2, 1)
