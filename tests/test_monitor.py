"""The monitor by itself: time, panes, what it finds and says, and what it computes against core on the raw rows."""

from __future__ import annotations

import copy
import gc
import logging
import math
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitoring import Clock, own_name
from receiver import PATIENCE_S

from otel_mlobs import Monitor, semconv
from otel_mlobs.core.alarm import Alarm, DesignEffect
from otel_mlobs.core.drift import Reference, assess
from otel_mlobs.core.profile import Profile
from otel_mlobs.telemetry.keeper import keeper

RNG = np.random.default_rng(11)
NAN = math.nan


def _profile(rows: int = 5_000, **changes: Any) -> Profile:
    """Three features and a score, under a name of its own: monitors of one profile share their series."""
    rng = np.random.default_rng(3)
    data = {
        "age": rng.normal(40, 10, rows),
        "income": rng.lognormal(8, 1, rows),
        "city": rng.choice(["Rome", "Oslo"], rows, p=[0.7, 0.3]),
    }
    options: dict[str, Any] = {"outputs": rng.beta(2, 5, rows), "version": "3", **changes}
    return Profile.fit(data, model=own_name("monitor"), **options)


def _rows(rows: int, *, shift: float = 0.0, rng: np.random.Generator = RNG) -> dict[str, Any]:
    """Rows as the reference has them, the age shifted by ``shift`` standard deviations."""
    return {
        "age": rng.normal(40 + 10 * shift, 10, rows),
        "income": rng.lognormal(8, 1, rows),
        "city": rng.choice(["Rome", "Oslo"], rows, p=[0.7, 0.3]),
    }


def _wait_for(condition: Callable[[], Any]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def clock() -> Clock:
    """A clock for the monitors of the test."""
    return Clock()


# -- time -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5),
    st.sampled_from([10, 60]),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 4), st.booleans()), max_size=30),
)
def test_the_window_holds_the_last_panes_and_no_other(panes: int, pane: int, steps: list[Any]) -> None:
    """Through gaps and bursts the rows counted are the running pane's and those of a window before it."""
    clock = Clock(float(steps[0][0]) if steps else 0.0)
    monitor = Monitor(PLAIN, window=float(panes * pane), pane=float(pane), clock=clock)
    began: float | None = None
    seen: list[int] = []
    for passed, rows, asks in steps:
        clock.now += passed
        if began is None and (rows or asks):
            began = clock.now
        for _ in range(rows):
            monitor.observe((1.0,))
        if began is not None:
            running = int((clock.now - began) // pane)
            seen += [running] * rows
            if asks:
                expected = sum(one >= running - panes for one in seen)
                assert monitor.status().rows == expected
                assert monitor.status().features["x"].n == expected
    monitor.close()


PLAIN = Profile.fit({"x": np.arange(200.0)}, model="monitor plain")


def test_a_row_on_the_boundary_belongs_to_the_next_pane(clock: Clock) -> None:
    """A pane is closed on the left: what comes at the second it ends is in the next one."""
    monitor = Monitor(_profile(), window=10.0, pane=10.0, clock=clock)
    monitor.observe(_rows(3))
    clock.now += 10
    monitor.observe(_rows(5))
    clock.now += 9.999
    assert monitor.status().rows == 8
    clock.now += 0.001
    assert monitor.status().rows == 5
    clock.now += 10
    assert monitor.status().rows == 0


def test_an_idle_gap_empties_the_window_and_keeps_the_pace(clock: Clock) -> None:
    """After a gap of a million panes the window is empty at once, and panes end where they would have ended."""
    monitor = Monitor(_profile(), window=600.0, pane=10.0, clock=clock)
    monitor.observe(_rows(50))
    clock.now += 10_000_003.0
    monitor.observe(_rows(7))
    assert monitor.status().rows == 7
    clock.now += 609.0 - 3.0
    assert monitor.status().rows == 7
    clock.now += 1.0
    assert monitor.status().rows == 0


def test_rows_queued_before_a_pane_ended_are_in_that_pane(clock: Clock) -> None:
    """Rows that wait in the queue when a pane ends are counted into it, not into the next."""
    monitor = Monitor(_profile(), window=10.0, pane=10.0, clock=clock)
    for _ in range(5):
        monitor.observe((40.0, 3_000.0, "Rome"), 0.3)
    clock.now += 10
    monitor.observe((40.0, 3_000.0, "Rome"))
    clock.now += 10
    status = monitor.status()
    assert status.rows == 1
    assert status.prediction is not None
    assert status.prediction.n == 0


def test_a_clock_set_back_a_little_ends_no_pane_twice(clock: Clock) -> None:
    """A correction of the clock by less than a pane loses nothing and goes on."""
    monitor = Monitor(_profile(), window=10.0, pane=10.0, clock=clock)
    monitor.observe(_rows(1))
    clock.now += 12
    monitor.observe(_rows(2))
    clock.now -= 5
    monitor.observe(_rows(4))
    assert monitor.status().rows == 7
    clock.now += 13
    assert monitor.status().rows == 6


def test_a_clock_set_back_a_day_does_not_stop_the_panes(clock: Clock) -> None:
    """A clock set back by a day starts a pane there: the window does not stand still until it has caught up."""
    clock.now = 100_000.0
    monitor = Monitor(_profile(), window=10.0, pane=10.0, clock=clock)
    monitor.observe(_rows(100))
    clock.now -= 86_400
    monitor.observe(_rows(1))
    clock.now += 10
    monitor.observe(_rows(1))
    clock.now += 10
    assert monitor.status().rows == 1
    clock.now += 20
    assert monitor.status().rows == 0


def test_the_first_pane_begins_with_the_first_row(clock: Clock) -> None:
    """A monitor made long before traffic begins counts its panes from the first row, or the first question."""
    monitor = Monitor(_profile(), window=10.0, pane=10.0, clock=clock)
    clock.now += 12_345.6
    monitor.observe(_rows(1))
    clock.now += 19.9
    assert monitor.status().rows == 1
    clock.now += 0.1
    assert monitor.status().rows == 0


def test_the_thread_ends_panes_while_nothing_comes() -> None:
    """By the real clock panes end without rows or questions: the drift of the last rows is found, then they leave."""
    monitor = Monitor(_profile(), window=0.4, pane=0.1)
    monitor.observe(_rows(3_000, shift=3))
    assert monitor.drift_attributes[semconv.DRIFT_STATUS] == "insufficient_data"
    assert _wait_for(lambda: monitor.drift_attributes[semconv.DRIFT_STATUS] == "drift")
    assert monitor.drift_attributes[semconv.DRIFT_FEATURE] == "age"
    assert _wait_for(lambda: monitor.status().rows == 0)
    monitor.close()


def test_a_second_monitor_is_kept_while_the_first_joins() -> None:
    """Where two monitors' first rows come at once, both are kept: the one that had to stand back tries again."""
    monitor = Monitor(_profile(), window=60.0)
    with keeper._lock:
        monitor.observe(_rows(1))
    monitor.observe(_rows(1))
    assert any(one() is monitor for one in keeper._kept)


def test_the_thread_survives_a_monitor_that_fails(lenient: None, caplog: pytest.LogCaptureFixture) -> None:
    """One monitor's trouble is logged, and the panes of the others still end."""
    broken, whole = Monitor(_profile(), window=0.2, pane=0.05), Monitor(_profile(), window=0.2, pane=0.05)
    broken._counting._assess = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
    broken.observe(_rows(10))
    assert _wait_for(lambda: "monitor failed with ZeroDivisionError" in caplog.text)
    whole.observe(_rows(3_000, shift=3))
    assert _wait_for(lambda: whole.drift_attributes[semconv.DRIFT_STATUS] == "drift")
    broken.close()
    del broken
    gc.collect()


def test_monitors_are_not_held_by_their_thread() -> None:
    """A monitor that nobody holds is collected, though a thread ends its panes and its counts are still sent."""
    monitor = Monitor(_profile(), window=0.2, pane=0.05)
    monitor.observe(_rows(10))
    gone = weakref.ref(monitor)
    del monitor
    assert _wait_for(lambda: gc.collect() >= 0 and gone() is None)
    other = Monitor(_profile())
    other.observe(_rows(1))
    assert not any(one() is None for one in keeper._kept)


# -- what it finds ----------------------------------------------------------------------------------------------------


def test_too_little_is_insufficient_data(clock: Clock) -> None:
    """Below min_rows nothing is called ok or drift; each feature and the whole say so, and figures are there."""
    monitor = Monitor(_profile(), clock=clock)
    assert monitor.status().status == "insufficient_data"
    assert monitor.status().rows == 0
    monitor.observe(_rows(99, shift=5))
    status = monitor.status()
    assert status.status == "insufficient_data"
    assert {one.status for one in status.features.values()} == {"insufficient_data"}
    assert status.features["age"].psi > 1
    monitor.observe(_rows(1, shift=5))
    assert monitor.status().status == "drift"
    assert monitor.status().features["age"].status == "drift"
    few = Monitor(_profile(), clock=clock, min_rows=20)
    few.observe(_rows(20, shift=5))
    assert few.status().features["age"].status == "drift"


def test_no_drift_is_ok(clock: Clock) -> None:
    """Rows as the reference has them are ok, feature by feature, pane after pane."""
    monitor = Monitor(_profile(), window=600.0, pane=10.0, clock=clock)
    rng = np.random.default_rng(5)
    for _ in range(60):
        monitor.observe(_rows(50, rng=rng), rng.beta(2, 5, 50))
        clock.now += 10
        status = monitor.status()
        assert status.status in ("ok", "insufficient_data")
    assert status.status == "ok"
    assert {one.status for one in (*status.features.values(), *status.outputs.values())} == {"ok"}
    assert all(one.since is None for one in status.features.values())
    assert (status.model, status.version, status.window) == (monitor.profile.model, "3", 600.0)
    assert status.profile_id == monitor.profile.id


def test_each_kind_of_drift_is_found_where_it_is(clock: Clock) -> None:
    """A shift, missing values, an unseen category, other scores: each on its own feature, the others ok."""
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "age": lambda rows: rows | {"age": rows["age"] + 8},
        "income": lambda rows: rows | {"income": np.where(RNG.random(1_000) < 0.3, NAN, rows["income"])},
        "city": lambda rows: rows | {"city": np.where(RNG.random(1_000) < 0.3, "Ur", rows["city"])},
    }
    for name, change in changes.items():
        monitor = Monitor(_profile(), clock=clock)
        monitor.observe(change(_rows(1_000)), RNG.beta(2, 5, 1_000))
        status = monitor.status()
        assert status.status == "drift"
        assert [one.name for one in status.features.values() if one.status == "drift"] == [name]
        assert status.prediction is not None
        assert status.prediction.status == "ok"
    assert status.features["city"].unseen == pytest.approx(0.3, abs=0.06)
    monitor = Monitor(_profile(), clock=clock)
    monitor.observe(_rows(1_000), RNG.beta(5, 2, 1_000))
    status = monitor.status()
    assert {one.status for one in status.features.values()} == {"ok"}
    assert status.prediction is not None
    assert (status.prediction.name, status.prediction.status, status.status) == ("score", "drift", "drift")


def test_a_small_shift_is_the_alarms(clock: Clock) -> None:
    """A quarter of a deviation is below the tolerance: no verdict, but the alarm finds it, and says since when."""
    monitor = Monitor(_profile(20_000), window=600.0, pane=10.0, clock=clock)
    rng = np.random.default_rng(6)
    began = clock.now
    found = None
    for pane in range(120):
        shift = 0.25 if pane >= 40 else 0.0
        monitor.observe(_rows(100, shift=shift, rng=rng))
        clock.now += 10
        age = monitor.status().features["age"]
        assert not age.drifted
        if age.alarm and found is None:
            found = pane
            assert age.since is not None
            assert began + 400 - 100 <= age.since <= clock.now
            since = age.since
        if found is not None and pane < found + 20:
            assert (age.alarm, age.since, age.status) == (True, since, "drift")
    assert found is not None
    assert 40 < found < 80
    assert age.evidence > 4
    assert {name for name, one in monitor.status().features.items() if one.alarm} == {"age"}


def test_drift_that_is_over_has_no_beginning(clock: Clock) -> None:
    """Once good rows have replaced the drifted ones, the status is ok again and `since` is gone."""
    monitor = Monitor(_profile(), window=60.0, pane=10.0, clock=clock)
    rng = np.random.default_rng(7)
    monitor.observe(_rows(300, shift=2, rng=rng))
    clock.now += 10
    drifted = monitor.status().features["age"]
    assert (drifted.status, drifted.since) == ("drift", 1_000.0)
    # The alarm looks back over 256 panes; the verdict over the window's six.
    for _ in range(600):
        monitor.observe(_rows(40, rng=rng))
        clock.now += 10
        monitor.tick()
        if monitor.status().features["age"].status == "ok":
            break
    over = monitor.status().features["age"]
    assert (over.status, over.since, over.drifted) == ("ok", None, False)


@pytest.mark.parametrize("how", ["ticking", "jumping"])
def test_an_idle_window_forgets(clock: Clock, how: str) -> None:
    """An hour of nothing within the window keeps what was found; after a whole window of it nothing is known."""
    monitor = Monitor(_profile(), window=7_200.0, pane=600.0, clock=clock)
    for _ in range(12):
        monitor.observe(_rows(300, shift=2))
        clock.now += 600

    def wait(seconds: float) -> None:
        for _ in range(int(seconds // 600) if how == "ticking" else 1):
            clock.now += 600 if how == "ticking" else seconds
            monitor.tick()

    monitor.tick()
    found = monitor.status().features["age"]
    assert (found.alarm, found.drifted, found.status) == (True, True, "drift")
    wait(3_600)
    still = monitor.status().features["age"]
    assert (still.alarm, still.evidence, still.since) == (True, found.evidence, found.since)
    wait(7_200)
    over = monitor.status()
    assert (over.rows, over.status) == (0, "insufficient_data")
    assert (over.features["age"].alarm, over.features["age"].since) == (False, None)


def test_results_equal_core_on_the_raw_rows(clock: Clock) -> None:
    """Through rotating panes: figures are those of core's functions on the raw rows of the window and of each pane."""
    profile = _profile()
    monitor = Monitor(profile, window=50.0, pane=10.0, false_alarms_per_week=2.0, tolerance=0.05, clock=clock)
    reference = Reference(profile.columns)
    alarm = Alarm(reference.counts, reference.real, reference.ordered, panes_per_alarm=7 * 24 * 360 / 2.0)
    effect = DesignEffect(reference.counts, reference.real, reference.ordered)
    rng = np.random.default_rng(9)
    tables: list[Any] = []
    e = np.zeros(4)
    for pane in range(14):
        rows = _rows(int(rng.integers(1, 200)), shift=pane / 10, rng=rng)
        size = len(rows["age"])
        rows["income"][rng.random(size) < 0.1] = NAN
        scores = rng.beta(2, 5, size)
        table = np.zeros(reference.counts.shape, np.int64)
        for index, (column, values) in enumerate(zip(profile.columns, [*rows.values(), scores], strict=True)):
            counts, _ = column.bins.count(values)
            table[index, : column.bins.values] = counts[:-2]
            table[index, -2:] = counts[-2:]
        for row in range(0, size, 7):
            part = {name: values[row : row + 7] for name, values in rows.items()}
            monitor.observe(part, scores[row : row + 7])
        tables.append(table)
        clock.now += 10
        monitor.tick()
        e = alarm.update(table, effect.update(table))
        status = monitor.status()
        window = sum(tables[-5:])  # the running pane is empty
        found = assess(reference, window, effect.value, tolerance=0.05, significance=0.05, min_rows=100)
        for index, one in enumerate([*status.features.values(), *status.outputs.values()]):
            assert one.n == window[index].sum()
            assert one.psi == pytest.approx(found.distances["psi"][index], rel=1e-12)
            assert one.psi_adjusted == found.psi_adjusted[index]
            assert one.p_value == pytest.approx(found.p_value[index], rel=1e-12, nan_ok=True)
            assert one.drifted == found.drifted[index]
            assert one.missing == found.missing[index]
            assert one.design_effect == effect.value[index]
            assert one.evidence == pytest.approx(math.log10(e[index]), rel=1e-9)
            assert one.alarm == alarm.flagged(e)[index]
            for name, value in one.distances.items():
                assert value == pytest.approx(found.distances[name][index], rel=1e-12)
    assert status.features["age"].drifted


def test_the_running_pane_counts_but_makes_no_pane_of_its_own(clock: Clock) -> None:
    """status() sees the rows of the running pane, and asking a hundred times changes neither figures nor evidence."""
    monitor = Monitor(_profile(), window=100.0, pane=10.0, clock=clock)
    monitor.observe(_rows(500, shift=1))
    first = monitor.status()
    for _ in range(100):
        monitor.status()
    assert monitor.status().features["age"] == first.features["age"]
    assert first.features["age"].drifted
    assert not first.features["age"].alarm, "the alarm waits for the pane's end"
    assert monitor.drift_attributes[semconv.DRIFT_STATUS] == "insufficient_data"


def test_what_is_unknown_refused_and_invalid_is_said(clock: Clock) -> None:
    """Unknown keys with their number, refused rows, invalid values, and the answer to `what could go unnoticed`."""
    monitor = Monitor(_profile(), clock=clock)
    monitor.observe({"age": "forty", "income": 1.0, "city": "Rome", "shoe_size": 43})
    monitor.observe({"age": 40.0, "income": None, "city": ["Rome"], "shoe_size": 43})
    monitor.observe((1.0, 2.0))
    monitor.observe(None, "x")
    monitor.observe(None, [[0.1, 0.2, 0.7]])
    status = monitor.status()
    assert (status.unknown, status.refused, status.rows) == ({"shoe_size": 2}, 2, 2)
    assert {name: one.invalid for name, one in status.features.items()} == {"age": 1, "income": 0, "city": 1}
    assert status.prediction is not None
    assert status.prediction.invalid == 1
    assert status.features["income"].missing == 0.5
    assert (status.omitted_series, status.limits.rows) == (0, 5_000)
    assert 0 < status.limits.shift < 0.2
    assert 0 < status.limits.new_share < 0.01


def test_oddities_and_changes_are_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown keys, refused shapes and drift are each one line, however often they come; values are in none."""
    monitor = Monitor(_profile(), window=30.0, pane=10.0, clock=clock)
    with caplog.at_level(logging.INFO, "otel_mlobs"):
        for _ in range(5):
            monitor.observe(_rows(200, shift=3))
            for _ in range(3):
                monitor.observe({"age": 31.4159, "shoe_size": 98765})
                monitor.observe((1.0,))
            clock.now += 10
            monitor.status()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert sum("'shoe_size'" in line for line in lines) == 1
    assert sum("a row of 1 values, where the profile has 3 features" in line for line in lines) == 1
    (drift,) = [line for line in lines if " drifts: " in line]
    assert " drifts: 'age' since " in drift
    assert "(verdict, p " in drift
    assert "PSI of the window " in drift
    assert not any("31.4159" in line or "98765" in line for line in lines)


def test_per_request_features_are_not_counted_again(clock: Clock) -> None:
    """unit="request": 50 candidates are 50 values of their own feature, once that is known, and one of their user's."""
    monitor = Monitor(_profile(), unit="request", clock=clock)
    for _ in range(10):
        rows = _rows(50)
        rows["age"], rows["city"] = np.full(50, 41.0), np.full(50, "Rome")
        monitor.observe(rows, RNG.random(50))
    status = monitor.status()
    assert {name: one.n for name, one in status.features.items()} == {"age": 10, "income": 4 + 6 * 50, "city": 10}
    assert status.prediction is not None
    assert status.prediction.n == 500


def test_repeated_rows_are_worth_less(clock: Clock) -> None:
    """Rows that come five times each are told from independent ones: the design effect says about how many make one."""
    monitor = Monitor(_profile(), window=600.0, pane=10.0, clock=clock)
    rng = np.random.default_rng(2)
    for _ in range(60):
        rows = _rows(60, rng=rng)
        monitor.observe({name: np.repeat(values, 5) for name, values in rows.items()})
        clock.now += 10
    status = monitor.status()
    assert 3 < status.features["age"].design_effect < 8
    assert status.status == "ok"


# -- life -------------------------------------------------------------------------------------------------------------


def test_a_closed_monitor_ignores_rows(clock: Clock) -> None:
    """After close() rows change nothing, status() still answers with what there was, and closing again is no error."""
    monitor = Monitor(_profile(), clock=clock)
    monitor.observe(_rows(150), RNG.random(150))
    monitor.close()
    monitor.observe(_rows(50), 0.5)
    monitor.close()
    assert monitor.status().rows == 150
    assert monitor.status().features["age"].n == 150


def test_a_monitor_pickles_as_its_profile_and_settings() -> None:
    """What comes out of pickle and deepcopy has the settings and none of the counts, and counts for itself."""
    settings_of: dict[str, Any] = {
        "window": 120.0,
        "pane": 7.0,
        "unit": "request",
        "tolerance": 0.2,
        "significance": 0.01,
        "false_alarms_per_week": 3.0,
        "min_rows": 10,
        "methods": ("hellinger",),
        "max_series": 77,
        "clock": time.time,
    }
    monitor = Monitor(_profile(), **settings_of)
    for row in zip(*_rows(30, shift=4).values(), strict=True):
        monitor.observe(row)
    for other in (pickle.loads(pickle.dumps(monitor)), copy.deepcopy(monitor), copy.copy(monitor)):
        assert other is not monitor
        assert other.profile == monitor.profile
        assert other.profile.id == monitor.profile.id
        assert other._settings == monitor._settings
        assert monitor._settings == {**settings_of, "outcomes": None, "maturity": None, "unlabelled": "missing"}
        assert other.status().rows == 0
        for row in zip(*_rows(60, shift=4).values(), strict=True):
            other.observe(row)
        assert other.status().status == "drift", "the settings are those that were pickled"
        other.close()
    assert monitor.status().features["age"].n == 30


def test_a_monitor_of_a_loaded_profile_is_the_same(tmp_path: Any, clock: Clock) -> None:
    """A profile that was saved and loaded finds exactly what the one in memory finds."""
    profile = _profile()
    profile.save(tmp_path / "p.json")
    rows = _rows(400, shift=0.5)
    found = []
    for one in (profile, Profile.load(tmp_path / "p.json")):
        monitor = Monitor(one, clock=clock)
        monitor.observe(rows, np.linspace(0, 1, 400))
        found.append(monitor.status())
    assert found[0] == found[1]


def test_a_profile_without_outputs(clock: Clock) -> None:
    """There is no prediction then; outputs given all the same are ignored."""
    monitor = Monitor(_profile(outputs=None), clock=clock)
    monitor.observe(_rows(150), np.zeros((150, 9)))
    status = monitor.status()
    assert (status.prediction, status.outputs, status.refused, status.rows) == (None, {}, 0, 150)


def test_outputs_of_a_multiclass_model_are_three(clock: Clock) -> None:
    """Class, confidence and entropy each have their own figures; the class is what `prediction` means."""
    rng = np.random.default_rng(1)
    vectors = rng.dirichlet([5, 3, 1], 5_000)
    monitor = Monitor(_profile(outputs=vectors), clock=clock)
    monitor.observe(None, vectors[:2_000])
    status = monitor.status()
    assert list(status.outputs) == ["class", "confidence", "entropy"]
    assert {one.status for one in status.outputs.values()} == {"ok"}
    assert status.prediction is status.outputs["class"]
    monitor.observe(None, rng.dirichlet([1, 3, 5], 3_000))
    assert monitor.status().outputs["class"].status == "drift"


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"profile": "churn.json"}, TypeError, "'churn.json'"),
    ({"window": 0}, ValueError, "window"),
    ({"window": -3}, ValueError, "-3"),
    ({"window": math.inf}, ValueError, "window"),
    ({"window": NAN}, ValueError, "window"),
    ({"window": "1h"}, (TypeError, ValueError), "'1h'"),  # type: ignore[list-item]
    ({"pane": 0}, ValueError, "pane"),
    ({"pane": -1.0}, ValueError, "pane"),
    ({"unit": "batch"}, ValueError, "'batch'"),
    ({"tolerance": 0}, ValueError, "tolerance"),
    ({"significance": 0}, ValueError, "significance"),
    ({"significance": 1.0}, ValueError, "significance"),
    ({"false_alarms_per_week": 0}, ValueError, "false_alarms_per_week"),
    ({"min_rows": 0}, ValueError, "min_rows"),
    ({"methods": "psi"}, ValueError, "'psi'"),
    ({"methods": ["psi", "kl"]}, ValueError, "kl"),
    ({"max_series": -1}, ValueError, "max_series"),
    ({"clock": 5}, TypeError, "clock"),
]


@pytest.mark.parametrize(("options", "kind", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_impossible_settings_raise(options: dict[str, Any], kind: Any, words: str) -> None:
    """Each impossible setting raises when the monitor is made, with its name or value in the message."""
    arguments = {"profile": PLAIN, **options}
    with pytest.raises(kind, match=words):
        Monitor(**arguments)


def test_panes_longer_than_the_window_are_the_window(clock: Clock) -> None:
    """A pane is at most the window, which then is one pane beside the running one."""
    monitor = Monitor(_profile(), window=10.0, pane=60.0, clock=clock)
    monitor.observe(_rows(3))
    clock.now += 20
    assert monitor.status().rows == 0


def test_repr_names_what_is_monitored() -> None:
    """The model, its version and the profile's id."""
    profile = _profile()
    assert repr(Monitor(profile)) == f"Monitor(model={profile.model!r}, version='3', profile={profile.id!r})"


def test_a_clock_that_fails_costs_no_row(lenient: None, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """An injected clock that raises is reported once; the caller's request goes on, and every row is counted."""
    broken = True

    def ticking() -> float:
        if broken:
            raise OSError("no clock")
        return 5.0

    monitor = Monitor(_profile(), clock=ticking)
    monitor.observe(_rows(2))
    assert "monitor failed with OSError" in caplog.text
    broken = False
    monitor.observe(_rows(3))
    assert monitor.status().rows == 5


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    from otel_mlobs.telemetry import monitor as module

    for one in list(module._monitors):
        one.close()


def test_rows_from_many_threads_at_a_panes_end_are_counted_once() -> None:
    """While threads observe and panes end by the real clock, every row is in the totals exactly once."""
    monitor = Monitor(_profile(), window=10.0, pane=0.02)

    def work() -> None:
        for _ in range(3_000):
            monitor.observe((40.0, 3_000.0, "Rome"), 0.25)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor._counting.totals().sum(axis=1).tolist() == [12_000] * 4
