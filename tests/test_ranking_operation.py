"""A ranking that is followed: what it shows is registered, by the id on its span, and clicks find it."""

from __future__ import annotations

import pytest
from monitoring import Clock

import otel_mlobs as mlobs
from otel_mlobs import OutcomeStore, RankingMonitor
from otel_mlobs.testing import Telemetry


def test_what_a_ranking_shows_is_found_by_its_clicks(mlobs_telemetry: Telemetry) -> None:
    """The span says the id, model and version are the monitor's, and the list counts when it is mature."""
    clock = Clock()
    monitor = RankingMonitor(
        model="shown", version=7, outcomes=OutcomeStore("memory:", clock=clock), maturity="10m", clock=clock
    )

    @mlobs.ranking(monitor=monitor, outputs=lambda result: result["items"])
    def rank(candidates: list[str], user: str) -> dict[str, list[str]]:
        return {"items": sorted(candidates)}

    rank(["b", "a", "c"], "somebody")
    span = mlobs_telemetry.span("ranking shown")
    assert span.attributes is not None
    assert span.attributes["mlobs.model.version"] == "7"
    monitor.outcome("b", span.attributes["mlobs.prediction.id"])
    clock.now += 700.0
    status = monitor.status()
    assert status.slates == 1
    assert status.events["click"].reciprocal_rank.value == pytest.approx(0.5)
    monitor.close()


def test_a_context_manager_registers_what_it_records(mlobs_telemetry: Telemetry) -> None:
    """With an id of the caller's."""
    clock = Clock()
    store = OutcomeStore("memory:", clock=clock)
    monitor = RankingMonitor(model="recorded", outcomes=store, clock=clock)
    with mlobs.ranking(monitor=monitor) as op:
        op.prediction_id = "page-1"
        op.record(outputs=["x", "y"])
    (record,) = store.records(store.streams()[0], 0.0, 2_000.0)
    assert record.prediction.id == "page-1"
    monitor.close()


def test_only_a_ranking_monitor_follows_a_ranking() -> None:
    """And its names are not contradicted."""
    with pytest.raises(TypeError, match="must be a RankingMonitor"):
        mlobs.ranking(monitor="shop")  # type: ignore[call-overload]
    monitor = RankingMonitor(model="named", outcomes=OutcomeStore("memory:"))
    with pytest.raises(ValueError, match="contradicts the monitor"):
        mlobs.ranking(model="other", monitor=monitor)
    monitor.close()
