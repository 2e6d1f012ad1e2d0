"""Forks: every operation is counted and traced once, in the process that ran it."""

from __future__ import annotations

import os

import pytest
from receiver import GrpcReceiver, Receiver, Store, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

DURATION, ERRORS = "mlobs.operation.duration", "mlobs.operation.errors"

OPERATIONS = """
@mlobs.prediction(model="m", version="1")
def predict(x):
    if x % 5 == 0:
        raise ValueError(x)
    return x

def many(n):
    for x in range(1, n + 1):
        try:
            predict(x)
        except ValueError:
            pass
"""

# Collections every 5 ms and batches of four spans, so that forks fall into both; two threads record all the while.
BUSY = (
    OPERATIONS
    + """
import threading

stop, counts = threading.Event(), [0, 0]

def busy(index):
    while not stop.wait(0.0005):
        predict(1)
        counts[index] += 1

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            work()
            code = 0 if mlobs.shutdown() else 8
        finally:
            os._exit(code)
    assert (status := os.waitpid(pid, 0)[1]) == 0, status

mlobs.configure("svc", endpoint=os.environ["TO"], protocol=os.environ.get("PROTOCOL"), instance_id="me",
                metric_interval=0.005)
threads = [threading.Thread(target=busy, args=(index,), daemon=True) for index in range(2)]
for thread in threads:
    thread.start()
for _ in range(6):
    many(10)
    in_child(lambda: (many(20), in_child(lambda: many(5))))
stop.set()
for thread in threads:
    thread.join()
print(6 * (10 + 20 + 5) + sum(counts))
"""
)


def assert_exact(store: Store, expected: int, errors: int) -> None:
    """Each operation is one span and one count, each error one count, and every error series began at zero."""
    spans = store.spans()
    assert len(spans) == expected
    assert len({(span.trace_id, span.span_id) for span in spans}) == expected
    assert store.total(DURATION) == expected
    assert store.total(ERRORS) == errors
    assert set(store.first_values(ERRORS)) == {0.0}


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_forks_lose_and_double_nothing_over_http(temporality: str) -> None:
    """Six forks and six nested ones, amid exports, collections and busy threads: exact with either temporality."""
    env = {
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
    }
    with Receiver() as receiver:
        ran = run(BUSY, env=env | {"TO": receiver.url})
        assert_exact(receiver, int(ran.out), 6 * (2 + 4 + 1))
        instances = receiver.instances(DURATION)
        assert len(instances) == 13
        assert all(name == "me" or name.startswith("me/") for name in instances)
        traced = {resource["service.instance.id"] for resource, _ in receiver.spans_with_resource()}
        assert traced == set(instances), "spans and metrics name the same instances"
        assert ran.err == ""


def test_forks_lose_and_double_nothing_over_grpc() -> None:
    """The same over gRPC, where each process makes a channel of its own."""
    with GrpcReceiver() as receiver:
        ran = run(BUSY, env={"TO": receiver.url, "PROTOCOL": "grpc", "GRPC_VERBOSITY": "NONE"})
        assert_exact(receiver, int(ran.out), 6 * (2 + 4 + 1))


def test_multiprocessing_children_send_before_they_leave() -> None:
    """Children of ``multiprocessing`` and pools end through ``os._exit``; what they recorded arrives all the same."""
    script = (
        OPERATIONS
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

context = multiprocessing.get_context("fork")
mlobs.configure("svc", endpoint=os.environ["TO"])
many(5)
children = [context.Process(target=many, args=(10,)) for _ in range(2)]
for child in children:
    child.start()
for child in children:
    child.join()
with ProcessPoolExecutor(2, mp_context=context) as pool:
    list(pool.map(many, [5] * 4))
print([child.exitcode for child in children])
"""
    )
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert ran.out == "[0, 0]\n"
        assert_exact(receiver, 5 + 2 * 10 + 4 * 5, 1 + 2 * 2 + 4)


def test_a_fork_before_any_operation_and_one_without_any() -> None:
    """A child that records nothing sends no count, and a parent that only forks leaves its children complete."""
    script = (
        OPERATIONS
        + """
mlobs.configure("svc", endpoint=os.environ["TO"], instance_id="me")
for n in (0, 4):
    pid = os.fork()
    if pid == 0:
        try:
            many(n)
            mlobs.shutdown()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""
    )
    with Receiver() as receiver:
        run(script, env={"TO": receiver.url})
        assert_exact(receiver, 4, 0)
        assert [name.partition("/")[0] for name in receiver.instances(DURATION)] == ["me"]


def test_a_fork_does_not_wait_for_a_send() -> None:
    """With a backend that hangs, forks and children go on, and the children's telemetry reaches their own backend."""
    script = (
        OPERATIONS
        + """
import time

mlobs.configure("svc", endpoint=os.environ["TO"], metric_interval=0.01, timeout=20)
many(4)
time.sleep(0.3)  # the collecting thread is in its send by now
begun = time.monotonic()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
assert time.monotonic() - begun < 10
mlobs.shutdown(0.1)
"""
    )
    with Receiver("hang") as receiver:
        run(script, env={"TO": receiver.url})
        assert receiver.refused


def test_workers_that_load_the_application_after_the_fork_differ() -> None:
    """As under gunicorn without preload: each forked worker configures the same id, and gets its pid added to it."""
    with Receiver() as receiver:
        run(
            f"""
            children = []
            def work():
                mlobs.configure("shop", metrics_endpoint={receiver.url!r}, instance_id="web-1")
                with mlobs.ranking(model="ltr"):
                    pass
                mlobs.shutdown()
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    work()
                    os._exit(0)
                children.append(pid)
            for pid in children:
                os.waitpid(pid, 0)
            """
        )
        instances = receiver.instances("mlobs.operation.duration")
    assert len(instances) == 3
    assert all(instance.startswith("web-1/") for instance in instances)
