"""Promises of the monitor that no other test would notice broken."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import otel_mlobs as mlobs
from otel_mlobs.core import distance
from otel_mlobs.core.tally import Tally

if TYPE_CHECKING:
    from otel_mlobs.testing import Telemetry

RNG = np.random.default_rng(17)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.float32, object])
def test_identical_integers_have_no_psi_through_the_export_path(mlobs_telemetry: Telemetry, dtype: Any) -> None:
    """Counts as they are exported against the reference as it is: right-closed on both sides, PSI below 1e-6."""
    values = RNG.poisson(3.0, size=5_000)
    profile = mlobs.Profile.fit({"visits": values}, model=f"integers {np.dtype(dtype)}")
    monitor = mlobs.Monitor(profile, clock=lambda: 0.0)
    for value in values[:2_500].astype(dtype):
        monitor.observe({"visits": value})
    monitor.observe(values[2_500:].astype(dtype).reshape(-1, 1))

    def exported(metric: str) -> dict[str, float]:
        points = mlobs_telemetry.metrics[metric]
        mine = [point for point in points if point.attributes["mlobs.profile.id"] == profile.id]
        return {point.attributes["mlobs.bin"]: point.value for point in mine}

    counts, shares = exported("mlobs.feature.observations"), exported("mlobs.feature.reference")
    assert counts.keys() == shares.keys()
    live = np.array([counts[cell] for cell in shares])
    assert live.sum() == 5_000
    q, p = distance.smoothed(live, np.array(list(shares.values())) * profile.rows)
    assert distance.psi(q, p) < 1e-6


def test_no_drift_is_computed_on_the_thread_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real clock panes end in the library's thread, also those that a request finds just over."""
    profile = mlobs.Profile.fit(RNG.normal(size=(1_000, 2)), model="elsewhere")
    monitor = mlobs.Monitor(profile, window=2.0, pane=0.1)
    threads: list[str] = []
    real = monitor._counting._end_pane

    def watched(ended: float) -> None:
        threads.append(threading.current_thread().name)
        real(ended)

    monkeypatch.setattr(monitor._counting, "_end_pane", watched)
    until = time.monotonic() + 10.0
    while len(threads) < 8 and time.monotonic() < until:
        monitor.observe(RNG.normal(size=2))
        time.sleep(0.001)
    monitor.close()
    assert len(threads) >= 8
    # a thread of the library's that is kept waiting for a whole pane leaves it to a request: that is rare
    assert threads.count("otel_mlobs-monitor") > len(threads) / 2


@pytest.mark.parametrize("what", ["rows", "outputs", "batches"])
def test_what_waits_for_a_fold_is_bounded(what: str) -> None:
    """While the lock is held queues grow to sixteen times their usual length; then whoever observes has to wait."""
    profile = mlobs.Profile.fit(RNG.normal(size=(500, 2)), outputs=RNG.random(500), model="bounded")
    tally = Tally(profile)
    batch = np.zeros((50, 2))
    added = 0
    while not tally.overfull:
        if what == "rows":
            tally.add_inputs((0.0, 1.0))
        elif what == "outputs":
            tally.add_outputs(0.5)
        else:
            tally.add_inputs(batch)
        added += 1
        assert added < 1_000_000
    assert tally.full
    if what == "batches":
        assert added <= 100
    tally.fold()
    assert not tally.full
    assert not tally.overfull
