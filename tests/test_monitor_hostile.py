"""What wears a monitor down: many threads, a long day, odd rows, signals, finalisers, and a bound on its memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitoring import Clock, own_name
from receiver import run

import otel_mlobs as mlobs
from otel_mlobs import Monitor, semconv
from otel_mlobs.core.profile import Profile
from otel_mlobs.telemetry import monitor as module

INF, NAN = math.inf, math.nan


def _numbers(features: int = 2, *, rows: int = 1_000) -> Profile:
    rng = np.random.default_rng(3)
    return Profile.fit(rng.random((rows, features)), outputs=rng.random(rows), model=own_name("hostile"))


def _mixed() -> Profile:
    rng = np.random.default_rng(3)
    data = {"x": rng.random(1_000), "city": rng.choice(["Rome", "Oslo"], 1_000), "member": rng.random(1_000) < 0.5}
    return Profile.fit(data, outputs=rng.choice(["stays", "leaves"], 1_000), model=own_name("hostile"))


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    for one in list(module._monitors):
        one.close()


# -- threads ----------------------------------------------------------------------------------------------------------


def _in_threads(number: int, work: Any) -> None:
    failed: list[BaseException] = []

    def run_one(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run_one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_eight_threads_count_every_row() -> None:
    """8 threads × 10^5 rows of every kind while panes end and others ask: each cell has exactly what was sent."""
    monitor = Monitor(_numbers(), window=2.0, pane=0.05)
    row, half = {"x0": 0.5, "x1": 2.0}, np.array([-1.0, 0.5])
    batch, missing = np.full((50, 2), 3.0), (None, INF)
    asked: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.02):
            asked.append(monitor.status().rows)

    asking = threading.Thread(target=ask)
    asking.start()

    def work(_: int) -> None:
        for _ in range(500):
            for _ in range(70):
                monitor.observe(row, 0.25)
                monitor.observe(half)
            monitor.observe(batch)
            for _ in range(10):
                monitor.observe(missing)

    _in_threads(8, work)
    done.set()
    asking.join()
    totals = monitor._counting.totals()
    assert totals.sum(axis=1).tolist() == [800_000, 800_000, 280_000]
    middle = monitor.profile.features[0].bins.count([0.5])[0]
    expected = 280_000 * middle
    expected[0] += 280_000
    expected[-3] += 200_000
    expected[-2] += 40_000
    assert totals[0].tolist() == expected.tolist()
    assert totals[1, -1] == 40_000
    assert len(asked) > 2


def test_threads_and_categories() -> None:
    """The slower ways of categories, unknown keys and refused rows lose nothing between threads either."""
    monitor = Monitor(_mixed(), window=2.0, pane=0.05)

    def work(index: int) -> None:
        for number in range(2_000):
            monitor.observe({"x": 0.5, "city": "Rome", "member": number % 2 == 0}, "stays")
            monitor.observe({"x": "text", "city": f"{index}-{number}", "member": None}, ["stays", "new"])
            monitor.observe((0.5,))

    _in_threads(6, work)
    status = monitor.status()
    totals = monitor._counting.totals()
    assert totals.sum(axis=1).tolist() == [24_000, 24_000, 24_000, 36_000]
    assert totals[1, -1] == 12_000
    assert status.refused == 12_000
    assert status.features["x"].invalid == 12_000
    assert status.unknown == {}


def test_asyncio_tasks_count_every_row() -> None:
    """Hundreds of tasks that observe between awaits, beside threads of an executor: all rows, once."""
    monitor = Monitor(_numbers(), window=2.0, pane=0.05)

    async def task(index: int) -> None:
        for _ in range(20):
            monitor.observe((0.5, float(index)), 0.5)
            await asyncio.sleep(0)
            with mlobs.prediction(monitor=monitor) as op:
                await asyncio.sleep(0)
                op.record(inputs=(0.5, 0.5))

    async def main() -> None:
        threads = [asyncio.to_thread(lambda: [monitor.observe((0.1, 0.1)) for _ in range(500)]) for _ in range(4)]
        await asyncio.gather(*(task(index) for index in range(200)), *threads)

    asyncio.run(main())
    assert monitor._counting.totals().sum(axis=1).tolist() == [10_000, 10_000, 4_000]


def test_monitors_made_and_dropped_by_many_threads() -> None:
    """Monitors of one profile come and go in threads while another asks; what they counted adds up in the series."""
    profile = _numbers()
    keeping = Monitor(profile)

    def work(_: int) -> None:
        for number in range(30):
            monitor = Monitor(profile, window=1.0, pane=0.01)
            monitor.observe(np.full((7, 2), 0.5))
            if number % 2:
                monitor.close()

    _in_threads(4, work)
    gc.collect()
    rows = sum(value for value, _ in keeping._series.points(semconv.FEATURE_OBSERVATIONS, zero=False))
    assert rows == 2 * 7 * 120
    assert len(keeping._series.succession._state[1]) == 1


# -- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals")
def test_signal_handlers_and_finalisers_may_observe() -> None:
    """Handlers and finalisers observe amid folds and status(), two thousand times a second: all is counted."""
    ran = run(
        """
        import gc, signal
        import numpy as np
        rng = np.random.default_rng(3)
        profile = mlobs.Profile.fit({"x": rng.random(500)}, model="m")
        monitor = mlobs.Monitor(profile, window=1.0, pane=0.01)
        ticks = batches = finals = depth = 0
        def tick(*_):
            global ticks, batches, depth
            depth += 1
            monitor.observe((0.5,))
            ticks += 1
            if ticks % 5 == 0 and depth < 10:  # on a busy machine each status would bring the next, without an end
                monitor.status()
                monitor.observe(np.full((40, 1), 0.5))
                batches += 1
            depth -= 1
        class Final:
            def __del__(self):
                global finals
                finals += 1
                monitor.observe({"x": 0.5})
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        gc.set_threshold(20)
        for number in range(30_000):
            monitor.observe((0.5,))
            if number % 10 == 0:
                cycle = [Final()]
                cycle.append(cycle)
            if number % 1000 == 0:
                monitor.status()
        signal.setitimer(signal.ITIMER_REAL, 0)
        del cycle
        gc.collect()
        counted = monitor._counting.totals().sum()
        print(ticks > 50, batches > 5, finals, counted - (30_000 + ticks + batches * 40 + finals))
        """
    )
    assert ran.out == "True True 3000 0\n", ran.err


def test_a_log_handler_may_observe(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that feeds every log record to the monitor, its own warnings among them, ends and loses nothing."""
    clock = Clock(0.0)
    monitor = Monitor(_numbers(), window=100.0, pane=10.0, clock=clock)
    fed: list[str] = []

    class Feeding(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fed.append(record.getMessage())
            if len(fed) < 50:
                monitor.observe({"x0": 0.5, "x1": 0.5, f"from log {len(fed)}": 1})
                monitor.status()

    handler = Feeding()
    logging.getLogger("otel_mlobs").addHandler(handler)
    try:
        monitor.observe(np.full((200, 2), 9.0))
        monitor.observe((1.0,))
        clock.now += 10
        monitor.status()
    finally:
        logging.getLogger("otel_mlobs").removeHandler(handler)
    assert any("drift" in line for line in fed)
    assert monitor._counting.totals().sum(axis=1).tolist() == [200 + min(len(fed), 49)] * 2 + [0]


def test_a_monitor_outlives_the_interpreters_end() -> None:
    """Rows observed by atexit functions and daemon threads while the interpreter leaves raise and print nothing."""
    ran = run(
        """
        import atexit, threading, time
        import numpy as np
        profile = mlobs.Profile.fit({"x": np.arange(500.0)}, model="m")
        monitor, late = mlobs.Monitor(profile, window=0.1, pane=0.01), mlobs.Monitor(profile, window=0.1, pane=0.01)
        def busy():
            while True:
                monitor.observe((5.0,))
        threading.Thread(target=busy, daemon=True).start()
        atexit.register(lambda: (late.observe((5.0,)), print(late.status().rows)))
        time.sleep(0.2)
        """
    )
    assert ran.out == "1\n"
    assert "Traceback" not in ran.err
    assert "failed" not in ran.err


# -- memory and time --------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[None]:
    """Memory is traced from a clean state on."""
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _warm(profile: Profile, clock: Clock, rows: Any) -> None:
    """Load what the first monitor of a process loads, so that it is not taken for the next one's."""
    monitor = Monitor(profile, clock=clock)
    monitor.observe(rows)
    clock.now += 120
    monitor.tick()
    monitor.status()
    monitor.close()


def test_a_hundred_features_fit_in_a_megabyte(traced: None) -> None:
    """A monitor of 100 features and a score with half an hour of panes: at most 1 MB."""
    profile = _numbers(100)
    clock = Clock(0.0)
    rows = np.random.default_rng(1).random((17, 100))
    _warm(profile, clock, rows)
    before = _held()
    monitor = Monitor(profile, clock=clock)
    for _ in range(34):
        monitor.observe(rows, rows[:, 0])
        for row in rows[:3]:
            monitor.observe(row, 0.5)
        clock.now += 60
    monitor.status()
    assert _held() - before <= 1_000_000


@pytest.mark.slow
def test_a_hundred_features_fit_in_a_megabyte_for_ever(traced: None) -> None:
    """The same after all of the alarm's 256 panes, with large queues and large counts."""
    profile = _numbers(100)
    clock = Clock(0.0)
    rows = np.random.default_rng(1).random((700, 100))
    _warm(profile, clock, rows)
    before = _held()
    monitor = Monitor(profile, clock=clock)
    for _ in range(300):
        monitor.observe(rows, rows[:, 0])
        for row in rows[:30]:
            monitor.observe(row, 0.5)
        clock.now += 60
    monitor.status()
    assert _held() - before <= 1_000_000


def _size(root: Any) -> int:
    """Bytes of all that ``root`` holds, arrays' data included; classes, functions, modules and profiles are shared."""
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, logging.Logger, Profile, Clock)):
            continue
        seen[id(one)] = one
        waiting += gc.get_referents(one)
        if isinstance(one, np.ndarray) and one.base is not None:
            waiting.append(one.base)
    return sum(sys.getsizeof(one) for one in seen.values())


def test_a_day_of_traffic_grows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """24 simulated hours, new categories, keys and shapes in each pane: what is held after 16 is held at the end."""
    caplog.set_level(logging.CRITICAL, "otel_mlobs")
    clock = Clock(0.0)
    monitor = Monitor(_mixed(), window=3_600.0, pane=200.0, clock=clock)
    held = []
    for pane in range(24 * 18):
        clock.now += 200
        name = f"{pane}-{'x' * 200}"
        monitor.observe({"x": 0.5, "city": name, "member": True, name: 1}, "stays")
        monitor.observe({"x": [0.5] * 30, "city": [name] * 30}, ["stays"] * 30)
        monitor.observe([name] * (pane % 40 + 4))
        if pane % 10 == 0:
            monitor.status()
        if pane in (16 * 18, 24 * 18 - 1):
            gc.collect()
            held.append(_size(monitor))
    assert 10_000 < held[0] < 1_000_000
    assert held[1] - held[0] < 10_000
    assert len(monitor.status().unknown) == 101


def test_rows_that_nobody_asks_for_do_not_pile_up(traced: None) -> None:
    """Without pane, question or collection, tens of thousands of rows are counted as it fills."""
    monitor = Monitor(_numbers(), clock=Clock(0.0))
    for _ in range(1_000):
        monitor.observe((0.5, 0.5), 0.5)
    before = _held()
    for _ in range(20_000):
        monitor.observe((0.5, 0.5))
    assert _held() - before < 300_000
    for _ in range(20_000):
        monitor.observe(None, 0.5)
    assert _held() - before < 400_000
    for _ in range(1_000):
        monitor.observe({"x0": [0.5] * 20, "x1": [0.5] * 20})
        monitor.observe((0.5,))
        monitor.observe(("a", "b"))
    assert _held() - before < 500_000


def test_refused_rows_alone_do_not_pile_up(traced: None) -> None:
    """Nothing but rows of the wrong shape, for ever, without pane or question: the memory is bounded all the same."""
    monitor = Monitor(_numbers(), clock=Clock(0.0))
    monitor.observe((0.5,))
    before = _held()
    for _ in range(40_000):
        monitor.observe((0.5,))
    assert _held() - before < 100_000
    assert monitor.status().refused == 40_001


def test_invalid_values_of_batches_do_not_pile_up(traced: None) -> None:
    """Batches of nothing but text where numbers belong: their count is kept, not a record of each."""
    monitor = Monitor(_numbers(), clock=Clock(0.0))
    batch = {"x0": ["text"] * 200_000, "x1": [0.5] * 200_000}
    monitor.observe({"x0": ["text"], "x1": [0.5]})
    monitor.status()
    before = _held()
    monitor.observe(batch)
    assert _held() - before < 200_000
    assert monitor.status().features["x0"].invalid == 200_001


# -- odd rows ---------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.text(max_size=4),
    st.binary(max_size=3),
    st.sampled_from([1e308, -1e308, 10**400, "Rome", "stays"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
CALLS = st.one_of(
    ODD,
    st.lists(ODD, max_size=5),
    st.tuples(ODD, ODD, ODD),
    st.dictionaries(st.sampled_from(["x", "city", "member", "zz"]), ODD, max_size=4),
    st.dictionaries(st.sampled_from(["x", "city", "member"]), st.lists(ODD, max_size=3), max_size=3),
    st.lists(st.tuples(ODD, ODD, ODD), max_size=4),
    st.lists(st.dictionaries(st.sampled_from(["x", "city", "member"]), ODD), max_size=3),
    st.builds(lambda rows, columns: np.full((rows, columns), NAN), st.integers(0, 20), st.integers(0, 4)),
    st.builds(lambda values: np.ma.array(values, mask=[True, False, True]), st.just([1.0, 2.0, 3.0])),
    st.lists(ODD, max_size=4).map(lambda values: np.array([*values, None], object)[:-1]),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(CALLS, CALLS, st.integers(0, 20)), max_size=8), st.sampled_from(["row", "request"]))
def test_nothing_that_is_observed_raises(calls: list[Any], unit: Any) -> None:
    """Whatever comes as inputs and outputs in any order: nothing raises, features agree on the rows, answers add up."""
    clock = Clock(0.0)
    monitor = Monitor(MIXED, unit=unit, window=20.0, pane=5.0, clock=clock)
    for inputs, outputs, passed in calls:
        monitor.observe(inputs, outputs)
        monitor._tally.inspect(inputs)
        clock.now += passed
    status = monitor.status()
    rows = monitor._counting.totals().sum(axis=1).tolist()
    if unit == "row":
        assert len(set(rows[:3])) == 1
    assert status.refused >= 0
    assert all(one.invalid <= total for one, total in zip(status.features.values(), rows, strict=False))
    monitor.close()


MIXED = _mixed()


def test_a_hundred_thousand_categories() -> None:
    """Every row another city and another answer: other, all of them, and the drift is found."""
    clock = Clock(0.0)
    monitor = Monitor(_mixed(), clock=clock)
    for start in range(0, 100_000, 10_000):
        names = [f"city {number}" for number in range(start, start + 10_000)]
        monitor.observe({"x": [0.5] * 10_000, "city": names, "member": [True] * 10_000}, names)
    status = monitor.status()
    assert status.features["city"].unseen == 1
    assert status.features["city"].status == "drift"
    assert status.prediction is not None
    assert (status.prediction.unseen, status.prediction.status) == (1, "drift")
    assert status.rows == 100_000
