"""Agreement of two versions: what counts as alike, and that the counter is exact, from zero on, in every process."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import numpy as np
import pytest
from monitoring import own_name
from receiver import Receiver, run

from otel_mlobs.telemetry import agreement as module
from otel_mlobs.telemetry.agreement import Agreed, Agreement
from otel_mlobs.testing import Telemetry

pd = pytest.importorskip("pandas")

NAN = math.nan


def _agreement(**options: Any) -> Agreement:
    return Agreement(model=own_name("agreeing"), version="1", shadow="2", **options)


@pytest.mark.parametrize(
    ("options", "mine", "theirs", "expected"),
    [
        ({}, "leaves", "leaves", (1, 0)),
        ({}, "leaves", "stays", (0, 1)),
        ({}, 1, 1.0, (1, 0)),
        ({}, None, None, (1, 0)),
        ({}, None, "stays", (0, 1)),
        ({}, ["a", "b", "c"], ("a", "c", "c"), (2, 1)),
        ({}, ["a", None], pd.Series(["a", "b"], index=[7, 8]), (1, 1)),
        ({}, np.array(["a", "b"]), ["a", "b"], (2, 0)),
        ({}, np.array([1, 2, 3]), np.array([1, 2, 4]), (2, 1)),
        ({}, np.array([1.0, NAN, NAN]), np.array([1.0, NAN, 2.0]), (2, 1)),
        ({}, [[0.2, 0.8], [0.6, 0.4]], [[0.4, 0.6], [0.4, 0.6]], (1, 1)),
        ({}, np.array([[0.2, 0.7, 0.1]] * 3), np.array([[0.3, 0.4, 0.3], [1, 0, 0], [NAN, 0, 0]]), (1, 2)),
        ({}, np.empty((0, 3)), np.empty((0, 3)), (0, 0)),
        ({"threshold": 0.5}, 0.5, 0.9, (1, 0)),
        ({"threshold": 0.5}, 0.499, 0.5, (0, 1)),
        ({"threshold": 0.5}, [0.1, 0.9, NAN], [0.4, 0.1, 0.2], (1, 2)),
        ({"threshold": 0.5}, np.array([0.1, 0.9, NAN]), np.array([0.4, 0.1, NAN]), (2, 1)),
        ({"threshold": 0.9}, np.array([[0.2, 0.8]]), np.array([[0.45, 0.55]]), (1, 0)),
        ({"threshold": 0.9}, [[0.2, 0.8]], [[0.05, 0.95]], (0, 1)),
        ({"threshold": -1}, np.float32(-2.0), np.float64(-0.5), (0, 1)),
        ({"tolerance": 0.1}, 3.0, 3.05, (1, 0)),
        ({"tolerance": 0}, [3.0, math.inf], [3.0, math.inf], (2, 0)),
        ({"tolerance": 0.1}, np.array([3.0, 4.0, math.inf]), np.array([3.2, 4.05, math.inf]), (2, 1)),
        ({"tolerance": 1}, np.array([[3.0], [4.0]]), np.array([[3.2], [8.0]]), (1, 1)),
        ({"k": 1}, ["a", "b", "c"], ["a", "x", "y"], (1, 0)),
        ({"k": 1}, ["a", "b", "c"], ["b", "a", "c"], (0, 1)),
        ({"k": 3}, ["a", "b", "c", "d"], ["c", "x", "a", "b"], (1, 0)),
        ({"k": 4}, ["a", "b", "c", "d"], ["a", "b", "x", "y"], (0, 1)),
        ({"k": 4}, ["a"], ["a", "b", "x", "y"], (0, 1)),
        ({"k": 2}, np.array([4, 5, 6]), [5, 4], (1, 0)),
        ({"k": 2}, [], [], (1, 0)),
        ({"k": 2}, [], ["a"], (0, 1)),
    ],
)
def test_what_agrees(options: dict[str, Any], mine: Any, theirs: Any, expected: tuple[int, int]) -> None:
    """Each kind of answer as documented, one or several, as lists or arrays; whichever of the two comes first."""
    for one, other in ((mine, theirs), (theirs, mine)):
        agreement = _agreement(**options)
        agreement.record(one, other)
        assert agreement.counts == Agreed(*expected)


def test_arrays_agree_as_their_rows_do() -> None:
    """The quick way over arrays and the look at each answer say the same."""
    rng = np.random.default_rng(1)
    mine, theirs = rng.random(500), rng.random(500)
    mine[:20], theirs[10:30] = NAN, NAN
    for options in ({}, {"threshold": 0.3}, {"tolerance": 0.2}):
        whole, single = _agreement(**options), _agreement(**options)
        whole.record(mine, theirs)
        for one, other in zip(mine.tolist(), theirs.tolist(), strict=True):
            single.record(one, other)
        assert whole.counts == single.counts
        assert whole.counts.agree >= 10


def test_the_share() -> None:
    """Of what was compared; NaN before anything was."""
    agreement = _agreement()
    assert math.isnan(agreement.counts.share)
    agreement.record([1, 2, 3, 4], [1, 2, 3, 5])
    assert agreement.counts.share == 0.75


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threshold": 0.5, "k": 3}, ValueError, "only one of threshold, tolerance and k"),
        ({"k": 0}, ValueError, "k must be a whole number from 1, got 0"),
        ({"k": True}, ValueError, "k must be a whole number"),
        ({"tolerance": -1}, ValueError, "tolerance must be a number from 0, got -1"),
        ({"threshold": "high"}, ValueError, "threshold must be a number"),
        ({"shadow": None}, TypeError, "shadow must be text, got None"),
        ({"model": ""}, TypeError, "model must be text"),
    ],
)
def test_impossible_settings_raise(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Early, with the value."""
    with pytest.raises(error, match=message):
        Agreement(**{"model": "m", "shadow": "2", **options})


@pytest.mark.parametrize(
    ("options", "mine", "theirs"),
    [({}, [1, 2], [1]), ({"threshold": 0.5}, ["high"], [0.2]), ({"k": 3}, 5, 6), ({"tolerance": 1}, "x", "y")],
)
def test_what_cannot_be_compared_is_our_trouble(
    lenient: None, mlobs_telemetry: Telemetry, options: dict[str, Any], mine: Any, theirs: Any
) -> None:
    """Nothing raises, nothing is counted as either, and the error is among the internal ones."""
    agreement = _agreement(**options)
    agreement.record(mine, theirs)
    assert agreement.counts == Agreed(0, 0)
    assert mlobs_telemetry.point("mlobs.internal.errors", mlobs__internal__component="agreement").value > 0


def _exported(telemetry: Telemetry, model: str) -> dict[tuple[str | None, str | None, str], float]:
    found = {}
    for point in telemetry.metrics["mlobs.model.agreement"]:
        labels: dict[str, Any] = dict(point.attributes or {})
        if labels["mlobs.model.name"] == model:
            key = (labels.get("mlobs.model.version"), labels["mlobs.shadow.version"], labels["mlobs.agreement.result"])
            assert key not in found
            found[key] = point.value
    return found


def test_the_counter(mlobs_telemetry: Telemetry) -> None:
    """Both series from zero; pairs of versions apart; two objects of one pair are one series."""
    first = Agreement(model="shop", version=7, shadow="8")
    again = Agreement(model="shop", version="7", shadow=8)
    other = Agreement(model="shop", shadow="treatment")
    zeros = {("7", "8"): (0, 0), (None, "treatment"): (0, 0)}
    assert _exported(mlobs_telemetry, "shop") == _both(zeros)
    first.record([1, 2, 3], [1, 2, 4])
    again.record(1, 1)
    other.record(1, 2)
    del first
    assert _exported(mlobs_telemetry, "shop") == _both({("7", "8"): (3, 1), (None, "treatment"): (0, 1)})


def _both(counts: dict[tuple[Any, Any], tuple[int, int]]) -> dict[tuple[Any, Any, str], int]:
    results = ("agree", "disagree")
    return {(*key, name): one for key, both in counts.items() for name, one in zip(results, both, strict=True)}


def test_threads_lose_nothing() -> None:
    """Recording takes no lock; what eight threads record is counted, with collections in between."""
    agreement = _agreement()

    def work() -> None:
        for index in range(6_000):
            agreement.record(index % 3, 0)
            if not index % 500:
                assert agreement.counts.agree >= 0

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert agreement.counts == Agreed(16_000, 32_000)
    assert len(agreement._series._queue) == 0


def test_the_queue_is_bounded_without_a_collection() -> None:
    """Where nobody collects, whoever records adds up from time to time."""
    agreement = _agreement()
    for _ in range(3 * module._QUEUED):
        agreement.record(1, 1)
    assert len(agreement._series._queue) < module._QUEUED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_counts_its_own() -> None:
    """What the parent counted is the parent's; the child takes no lock that was held."""
    agreement = _agreement()
    agreement.record(1, 1)
    reading, writing = os.pipe()
    with agreement._series._lock:
        child = os.fork()
        if child == 0:
            agreement.record(1, 2)
            os.write(writing, repr(tuple(agreement.counts)).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"(0, 1)"
    assert agreement.counts == Agreed(1, 0)


def test_the_first_disagreement_of_a_short_process_rises_from_zero() -> None:
    """Through our own pipeline: both series arrive at zero before they arrive with what was counted."""
    script = """
from otel_mlobs.telemetry.agreement import Agreement
mlobs.configure("svc", endpoint=os.environ["TO"])
Agreement(model="m", version="1", shadow="2").record([1, 2, 3], [1, 2, 4])
print(mlobs.shutdown())
"""
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert (ran.out, ran.err) == ("True\n", "")
        assert receiver.total("mlobs.model.agreement") == 3
        assert set(receiver.first_values("mlobs.model.agreement")) == {0.0}
