"""What a store lost or could not write yet is on two metrics."""

from __future__ import annotations

import gc

from otel_mlobs import OutcomeStore
from otel_mlobs.core.records import Prediction
from otel_mlobs.testing import Telemetry


def _lost(telemetry: Telemetry) -> dict[tuple[str, str], float]:
    found = {}
    for point in telemetry.metrics["mlobs.outcome.store.dropped"]:
        labels = dict(point.attributes or {})
        found[str(labels["mlobs.outcome.store.kind"]), str(labels["mlobs.outcome.store.reason"])] = point.value
    return found


def test_what_memory_lost_is_counted_and_stays_counted(mlobs_telemetry: Telemetry) -> None:
    """The count goes on from where it was when the store is gone."""
    OutcomeStore("memory:")
    before = _lost(mlobs_telemetry)[("memory", "evicted")]
    store = OutcomeStore("memory:", capacity=3)
    for number in range(10):
        store.register(Prediction(f"p{number}", "stream", 0.0))
    assert _lost(mlobs_telemetry)[("memory", "evicted")] == before + 7
    del store
    gc.collect()
    assert _lost(mlobs_telemetry)[("memory", "evicted")] == before + 7


def test_what_waits_is_a_gauge(mlobs_telemetry: Telemetry) -> None:
    """Nothing waits for memory."""
    store = OutcomeStore("memory:")
    store.register(Prediction("p", "stream", 0.0))
    kinds = {
        str(dict(point.attributes or {})["mlobs.outcome.store.kind"]): point.value
        for point in mlobs_telemetry.metrics["mlobs.outcome.store.pending"]
    }
    assert kinds["memory"] == 0
