"""Measures of ranked lists, beside scikit-learn's and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otel_mlobs.core.slates import SlateMeasures, slate_measures


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_ndcg_is_scikit_learns(k: int) -> None:
    """NDCG@k of random lists with gains of 0 to 4 equals ndcg_score's."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for _ in range(50):
        gains = rng.integers(0, 5, 20) * (rng.random(20) < 0.3)
        places = [int(place) + 1 for place in np.flatnonzero(gains)]
        found = slate_measures(places, [float(gain) for gain in gains if gain], k, 20)
        expected = metrics.ndcg_score(gains[None], -np.arange(20.0)[None], k=k)
        assert found.ndcg == pytest.approx(expected, abs=1e-12)
        assert found.hit == int(bool(gains[:k].any()))
        assert found.reciprocal_rank == (1 / places[0] if places else 0.0)


def test_by_hand() -> None:
    """Clicks at the second and fourth place: found beyond k, they count for the reciprocal rank alone."""
    ideal = 1 + 1 / math.log2(3)
    assert slate_measures([4, 2], None, 4, 10) == pytest.approx((1, 0.5, (1 / math.log2(3) + 1 / math.log2(5)) / ideal))
    assert slate_measures([4, 2], None, 1, 10) == (0, 0.5, 0.0)
    assert slate_measures([1], None, 5, 1) == SlateMeasures(1, 1.0, 1.0)


def test_nothing_done_is_nothing() -> None:
    """Without events, and with events that are worth nothing, all is 0."""
    assert slate_measures([], None, 5, 10) == SlateMeasures(0, 0.0, 0.0)
    assert slate_measures([3], [0.0], 5, 10) == SlateMeasures(0, 0.0, 0.0)


def test_a_place_counts_once() -> None:
    """Two clicks on one item are as one, with the larger gain."""
    assert slate_measures([2, 2, 5], [1, 3, 1], 5, 10) == slate_measures([2, 5], [3, 1], 5, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], None, 0, 10), "k must be 1 or more, got 0"),
        (([11], None, 5, 10), "places must be from 1 to the list's length, 10, got 11"),
        (([0], None, 5, 10), "places must be from 1 to the list's length, 10, got 0"),
        (([1, 2], [1.0], 5, 10), "gains must be one per place, 2, got 1"),
        (([1], [-1.0], 5, 10), "gains must be finite and not negative, got -1"),
        (([1], [math.nan], 5, 10), "gains must be finite and not negative, got nan"),
    ],
)
def test_what_is_refused(arguments: tuple[list[int], list[float] | None, int, int], message: str) -> None:
    """A place outside the list or a gain that is none raises with its value."""
    with pytest.raises(ValueError, match=message):
        slate_measures(*arguments)
