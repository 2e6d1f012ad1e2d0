"""Forks and processes: a child starts from zero, the parent stays exact, monitors work where they are first used."""

from __future__ import annotations

import os
from typing import Any

import pytest
from receiver import Receiver, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

FEATURE, PREDICTION = "mlobs.feature.observations", "mlobs.prediction.observations"

MODEL = """
import threading, time
import numpy as np
rng = np.random.default_rng(3)
data = {"x": rng.random(500), "c": rng.choice(["a", "b"], 500)}
profile = mlobs.Profile.fit(data, outputs=rng.random(500), model="m")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert (status := os.waitpid(pid, 0)[1]) == 0, status
"""

BUSY = (
    MODEL
    + """
monitor = mlobs.Monitor(profile, window=1.0, pane=0.02)
stop, counts = threading.Event(), [0, 0, 0]

def busy(index):
    batch = [(0.5, "a")] * 40
    columns = {"x": rng.random(100), "c": ["b"] * 100}
    while not stop.is_set():
        monitor.observe((0.5, "a"), 0.5)
        monitor.observe(columns, [0.5] * 100)
        monitor.observe({"x": None, "c": "zz"}, None if counts[index] % 2 else 0.5)
        counts[index] += 1

threads = [threading.Thread(target=busy, args=(index,), daemon=True) for index in range(3)]
for thread in threads:
    thread.start()
"""
)


def test_a_child_starts_from_zero_and_the_parent_stays_exact() -> None:
    """Twenty forks while three threads observe and panes end: no child hangs, none has a row of the parent's."""
    ran = run(
        BUSY
        + """
def child():
    assert monitor.status().rows == 0, monitor.status().rows
    assert monitor.status().refused == 0 and monitor.status().unknown == {}
    assert monitor.drift_attributes["mlobs.drift.status"] == "insufficient_data"
    for _ in range(50):
        monitor.observe((0.5, "a"), 0.5)
        monitor.observe((1.0,))
        monitor.observe({"x": 1.0, "c": "a", "extra": 1})
    assert monitor._counting.totals().sum(axis=1).tolist() == [100, 100, 50]
    assert monitor.status().refused == 50 and monitor.status().unknown == {"extra": 50}
    in_child(grandchild)
    assert monitor._counting.totals().sum(axis=1).tolist() == [100, 100, 50]

def grandchild():
    monitor.observe((0.5, "a"))
    assert monitor._counting.totals().sum(axis=1).tolist() == [1, 1, 0]

for _ in range(20):
    in_child(child)
    time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join()
rounds = sum(counts)
totals = monitor._counting.totals().sum(axis=1).tolist()
answers = sum(101 * n + (n + 1) // 2 for n in counts)
print(rounds > 20, totals == [102 * rounds, 102 * rounds, answers], monitor.status().refused)
"""
    )
    assert ran.out == "True True 0\n"
    assert "Traceback" not in ran.err
    assert "failed with" not in ran.err


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_forks_lose_and_double_no_row_on_the_way(temporality: str) -> None:
    """Forks amid collections and busy threads: what the backend adds up over all processes is what was observed."""
    script = (
        BUSY
        + """
mlobs.configure("svc", endpoint=os.environ["TO"], instance_id="me", metric_interval=0.005)

def child():
    monitor.observe([(0.5, "a")] * 1_000, [0.5] * 1_000)
    in_child(lambda: (monitor.observe([(0.5, "b")] * 10), mlobs.shutdown()))
    monitor.observe((0.5, "a"))
    mlobs.shutdown()

for _ in range(5):
    in_child(child)
stop.set()
for thread in threads:
    thread.join()
mlobs.shutdown()
print(102 * sum(counts) + 5 * 1_011, sum(101 * n + (n + 1) // 2 for n in counts) + 5 * 1_000)
"""
    )
    env = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality}
    with Receiver() as receiver:
        ran = run(script, env=env | {"TO": receiver.url})
        rows, answers = map(int, ran.out.split())
        assert receiver.total(FEATURE) == 2 * rows
        assert receiver.total(PREDICTION) == answers
        if temporality == "cumulative":
            assert set(receiver.first_values(FEATURE)) == {0.0}
            totals = receiver.instances(FEATURE)
            assert len(totals) == 11
            assert sorted(totals.values())[:10] == [20.0] * 5 + [2_002.0] * 5


@pytest.mark.parametrize("rows_before", [0, 1])
def test_monitors_made_before_the_fork(rows_before: int) -> None:
    """First used in the child, as with gunicorn's preload, or before: counted, and its own thread ends panes."""
    script = (
        MODEL
        + """
monitor = mlobs.Monitor(profile, window=6.0, pane=0.1)  # long enough to be seen on a busy machine
mlobs.configure("svc", endpoint=os.environ["TO"], instance_id="me")
monitor.observe([(0.5, "a")] * int(os.environ["BEFORE"]))

def child():
    monitor.observe({"x": np.full(500, 7.0), "c": ["a"] * 500}, np.full(500, 0.5))
    end = time.monotonic() + 30
    while monitor.drift_attributes["mlobs.drift.status"] != "drift" and time.monotonic() < end:
        time.sleep(0.01)
    assert monitor.drift_attributes["mlobs.drift.status"] == "drift"
    mlobs.shutdown()

in_child(child)
in_child(child)
assert monitor.drift_attributes["mlobs.drift.status"] == "insufficient_data"
mlobs.shutdown()
"""
    )
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url, "BEFORE": str(rows_before)})
        assert receiver.total(FEATURE) == 2 * (1_000 + rows_before)
        assert set(receiver.first_values(FEATURE)) == {0.0}


def test_a_child_goes_on_where_a_lock_was_held() -> None:
    """Forked while another thread holds every lock that counting and collecting use: the child counts and collects."""
    ran = run(
        MODEL
        + """
from otel_mlobs.telemetry import collected, keeper, series
monitor = mlobs.Monitor(profile)
monitor.observe((0.5, "a"))
held, leave = threading.Event(), threading.Event()

def hold():
    with monitor._counting.lock, series._lock, collected._lock, keeper.keeper._lock:
        monitor._counting._folding = True
        held.set()
        leave.wait(30)
        monitor._counting._folding = False

thread = threading.Thread(target=hold)
thread.start()
held.wait()

def child():
    monitor.observe([(0.5, "a")] * 5_000)
    with mlobs.testing.capture() as telemetry:
        other = mlobs.Monitor(profile)
        other.observe((0.5, "a"))
        points = telemetry.metrics["mlobs.feature.observations"]
        assert sum(point.value for point in points) == 2 * 5_001, points
        other.close()
    assert monitor.status().rows == 5_000
    assert any(one() is monitor for one in keeper.keeper._kept)

in_child(child)
leave.set()
thread.join()
print(monitor.status().rows)
"""
    )
    assert ran.out == "1\n"
    assert ran.err == ""


def test_what_ended_before_the_fork_is_the_parents() -> None:
    """Counts of a monitor that was closed before the fork are sent by the parent alone."""
    script = (
        MODEL
        + """
mlobs.configure("svc", endpoint=os.environ["TO"], instance_id="me")
closed, monitor = mlobs.Monitor(profile), mlobs.Monitor(profile)
closed.observe([(0.5, "a")] * 70)
closed.close()

def child():
    monitor.observe((0.5, "a"))
    mlobs.shutdown()

in_child(child)
monitor.observe((0.5, "a"))
mlobs.shutdown()
"""
    )
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url})
        assert receiver.total(FEATURE) == 2 * 72
        assert sorted(receiver.instances(FEATURE).values()) == [2.0, 2 * 71.0]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, tmp_path: Any) -> None:
    """Workers that get the monitor pickled, or inherit it, count for themselves and send what they counted."""
    script = tmp_path / "main.py"
    script.write_text(
        f"""
import multiprocessing, os
import numpy as np
import otel_mlobs as mlobs

def work(monitor, rows):
    mlobs.configure("svc", endpoint=os.environ["TO"])
    monitor.observe(np.full((rows, 1), 0.5))
    mlobs.shutdown()

if __name__ == "__main__":
    rng = np.random.default_rng(3)
    monitor = mlobs.Monitor(mlobs.Profile.fit({{"x": rng.random(500)}}, model="m"))
    monitor.observe(np.full((77, 1), 0.5))
    context = multiprocessing.get_context({method!r})
    workers = [context.Process(target=work, args=(monitor, rows)) for rows in (10, 200)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    print([worker.exitcode for worker in workers], monitor.status().rows)
"""
    )
    start = f"import subprocess; sys.exit(subprocess.run([sys.executable, {str(script)!r}]).returncode)"
    with Receiver() as receiver:
        ran = run(start, env={"TO": receiver.url})
        assert ran.out == "[0, 0] 77\n"
        assert receiver.total(FEATURE) == 210
