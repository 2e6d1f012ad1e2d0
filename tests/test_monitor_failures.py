"""What a failure while a pane ends leaves behind: a monitor that goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from monitoring import Clock

import otel_mlobs as mlobs
from otel_mlobs.telemetry.observers import MOST_DEFINITIONS

if TYPE_CHECKING:
    from otel_mlobs.telemetry.monitor import Monitor

RNG = np.random.default_rng(5)
PROFILE = mlobs.Profile.fit(RNG.normal(size=(5_000, 2)), features=["a", "b"], model="robust", version="1")


def play(monitor: Monitor, clock: Clock, panes: int, shift: float = 0.0) -> None:
    """So many panes of 100 rows."""
    for _ in range(panes):
        clock.now += 60.0
        monitor.observe(RNG.normal(size=(100, 2)) + shift)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["_alarm", "_effect"])
def test_a_pane_that_fails_is_followed_by_others(error: type[BaseException], where: str) -> None:
    """Time goes on, nothing is said that is not known, and drift afterwards is found."""
    clock = Clock(0.0)
    monitor = mlobs.Monitor(PROFILE, clock=clock)
    play(monitor, clock, 12)
    broken = getattr(monitor._counting, where)
    real = broken.update

    def fail(*_: Any) -> Any:
        real(*_)  # half of the work is done
        raise error

    broken.update = fail
    try:
        play(monitor, clock, 2)
    except KeyboardInterrupt:  # the user's own: it goes where it was meant to
        pass
    assert monitor.drift_attributes["mlobs.drift.status"] == "insufficient_data"
    broken.update = real
    play(monitor, clock, 12)
    assert monitor.drift_attributes["mlobs.drift.status"] == "ok"
    play(monitor, clock, 12, shift=1.0)
    assert monitor.status().features["a"].alarm
    assert monitor.drift_attributes["mlobs.drift.status"] == "drift"


@pytest.fixture(autouse=True)
def _quiet(lenient: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "otel_mlobs")


def test_attributes_of_the_request_do_not_pile_up() -> None:
    """A with-form whose attributes differ with every call keeps no more than so many definitions."""
    monitor = mlobs.Monitor(PROFILE, clock=Clock(0.0))
    with mlobs.testing.capture() as telemetry:
        for number in range(3 * MOST_DEFINITIONS):
            with mlobs.prediction(monitor=monitor, attributes={"request.id": number}) as op:
                op.record(inputs=[0.0, 0.0])
    assert [span.attributes["request.id"] for span in telemetry.spans] == list(range(3 * MOST_DEFINITIONS))
    assert len(monitor._definitions._made) <= MOST_DEFINITIONS
    assert monitor.status().rows == 3 * MOST_DEFINITIONS


def test_attributes_keep_their_types() -> None:
    """1 and "1" are different attributes."""
    monitor = mlobs.Monitor(PROFILE, clock=Clock(0.0))
    with mlobs.testing.capture() as telemetry:
        for value in (1, "1", True):
            with mlobs.prediction(monitor=monitor, attributes={"k": value}):
                pass
    assert [repr(span.attributes["k"]) for span in telemetry.spans] == ["1", "'1'", "True"]
