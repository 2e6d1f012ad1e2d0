"""What breaks instrumentation: signals, finalisers, forks at bad moments, texts that cannot be sent."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from receiver import Receiver, run

import otel_mlobs as mlobs
from otel_mlobs.telemetry import instruments
from otel_mlobs.telemetry.durations import Durations
from otel_mlobs.testing import Telemetry


def test_a_signal_handler_may_run_operations(tmp_path: Any) -> None:
    """Operations in a handler that interrupts operations: nothing waits for itself, every one is counted."""
    ran = run(
        f"""
        import json, signal
        mlobs.configure("shop", backend="file", path={str(tmp_path / "out.jsonl")!r})
        ticks = 0
        def tick(*_):
            global ticks
            with mlobs.operation("tick"):
                ticks += 1
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(20000):
            with mlobs.operation("tick"):
                pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        mlobs.shutdown()
        lines = [json.loads(line) for line in open({str(tmp_path / "out.jsonl")!r}) if "resourceMetrics" in line]
        points = [p for r in lines[-1]["resourceMetrics"] for s in r["scopeMetrics"] for m in s["metrics"]
                  if m["name"] == "mlobs.operation.duration" for p in m["histogram"]["dataPoints"]]
        print(ticks > 0, sum(int(p["count"]) for p in points) == 20000 + ticks)
        """
    )
    assert ran.out.split() == ["True", "True"]


def test_a_series_waits_for_no_lock() -> None:
    """While another thread holds a series' lock, as one does that was not forked along, recording goes on, bounded."""
    durations = Durations((0.1,))
    series = durations.series({"a": "b"})
    span: Any = mlobs.current_operation().span
    with series._lock:
        recorder = threading.Thread(target=lambda: [series.record(0.01, 1, span, None) for _ in range(5000)])  # type: ignore[arg-type]
        recorder.start()
        recorder.join(10.0)
        assert not recorder.is_alive()
    (taken,) = durations.take(delta=False)
    assert sum(taken.counts) == 5000
    for _ in range(5000):
        series.record(0.01, 1, span, None)  # type: ignore[arg-type]
    assert len(series._pending) < 1024


def test_a_child_forked_within_an_operation_leaves_it() -> None:
    """Fork inside ``with`` while threads record the same operation: the child's end of it is counted as the child's."""
    with Receiver() as receiver:
        run(
            f"""
            import threading
            mlobs.configure("shop", metrics_endpoint={receiver.url!r}, metric_interval=60)
            done = threading.Event()
            def busy():
                while not done.is_set():
                    with mlobs.operation("t"):
                        pass
            threads = [threading.Thread(target=busy) for _ in range(3)]
            for thread in threads: thread.start()
            children = []
            for _ in range(5):
                with mlobs.operation("t"):
                    pid = os.fork()
                if pid == 0:
                    mlobs.shutdown()
                    os._exit(0)
                children.append(pid)
            done.set()
            for thread in threads: thread.join()
            for pid in children: os.waitpid(pid, 0)
            mlobs.shutdown()
            """
        )
        instances = receiver.instances("mlobs.operation.duration")
    assert [count for name, count in instances.items() if "/" in name] == [1] * 5


def test_the_console_survives_finalisers() -> None:
    """Spans that the garbage collector ends while a tree is drawn are drawn as well, by the thread that draws."""
    ran = run(
        """
        import gc
        mlobs.configure("shop", backend="console")
        gc.set_threshold(50)
        @mlobs.candidate_generation(source="index")
        def stream():
            yield 1
        for _ in range(300):
            suspended = stream()
            next(suspended)
            cycle = [suspended]
            cycle.append(cycle)
            del suspended, cycle
            with mlobs.operation("step"):
                pass
        gc.collect()
        """
    )
    assert ran.out.count("candidate_generation index") == 300


def test_a_request_within_a_request_leaks_no_message(mlobs_telemetry: Telemetry) -> None:
    """Flask's test client inside a view shares ``flask.g``; the outer error still goes out without its text."""
    flask = pytest.importorskip("flask")
    from otel_mlobs.integrations.flask import MLObs

    app = flask.Flask("nested")
    MLObs(app)

    @app.get("/in")
    def inner() -> str:
        return "fine"

    @app.get("/out")
    def outer() -> str:
        app.test_client().get("/in")
        with app.app_context():
            pass
        raise ValueError("SECRET")

    assert app.test_client().get("/out").status_code == 500
    span = mlobs_telemetry.span("GET /out")
    assert span.status.description == "ValueError"
    messages = [dict(event.attributes or {}).get("exception.message") for event in span.events]
    assert messages == [None]


def test_text_that_is_no_unicode_loses_no_batch(tmp_path: Any) -> None:
    """A file name that is not UTF-8, in a message, an attribute and a class, costs none of the other spans."""
    with Receiver() as receiver:
        run(
            f"""
            mlobs.configure("shop", traces_endpoint={receiver.url!r}, exception_messages=True)
            bad = os.fsdecode(b"/no\\xff")
            for _ in range(3):
                with mlobs.operation("fine"):
                    pass
            try:
                with mlobs.prediction(model="m") as op:
                    op.set_attribute("path", bad)
                    op.set_attribute("large", 2 ** 70)
                    op.record(outputs=bad)
                    open(bad)
            except OSError:
                pass
            assert mlobs.shutdown()
            """
        )
        names = receiver.span_names()
    assert sorted(names) == ["fine", "fine", "fine", "prediction m"]


def test_an_exception_that_answers_no_question_costs_nothing_else(mlobs_telemetry: Telemetry, lenient: None) -> None:
    """An exception whose ``__class__`` raises passes through; the span and the duration are there."""

    class HostileError(Exception):
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no")

    with pytest.raises(HostileError), mlobs.ranking(model="h"):
        raise HostileError
    assert mlobs_telemetry.span("ranking h").end_time is not None
    assert sum(point.count for point in mlobs_telemetry.metrics["mlobs.operation.duration"]) == 1


def test_a_huge_output_is_thinned_and_a_long_class_cut(mlobs_telemetry: Telemetry) -> None:
    """Two million scores are summarised from at most 100,000 of them; a class is at most 256 characters."""
    with mlobs.prediction(model="huge") as op:
        op.record(outputs=np.tile(np.array([0.25, 0.75]), 1_000_000)[:1_999_999])
    attributes = dict(mlobs_telemetry.span("prediction huge").attributes or {})
    assert attributes["mlobs.batch.size"] == 1_999_999
    assert 0.25 <= attributes["mlobs.prediction.mean"] <= 0.75  # type: ignore[operator]
    with mlobs.prediction(model="long") as op:
        op.record(outputs="x" * 10_000)
    assert len(dict(mlobs_telemetry.span("prediction long").attributes or {})["mlobs.prediction.class"]) == 256  # type: ignore[arg-type]


def test_nested_rows_are_read_one_level_deep(mlobs_telemetry: Telemetry) -> None:
    """Lists within lists, shared many times over, are not walked: what lies within a row is one value."""
    deep: Any = [1.0]
    for _ in range(40):
        deep = [deep, deep]
    with mlobs.feature_lookup(view="deep") as op:
        op.record(outputs=deep)
    assert dict(mlobs_telemetry.span("feature_lookup deep").attributes or {})["mlobs.feature.found"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exception_messages": "false"}, "exception_messages must be true, false or None, got 'false'"),
        ({"expected": None}, "expected must name exception classes, got None"),
        ({"attributes": 5}, "attributes must map strings to values, got 5"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """An option of the wrong type says so where it is written."""
    with pytest.raises(TypeError, match=message):
        mlobs.prediction(**options)


def test_a_shared_instance_entered_before_anybody_listened() -> None:
    """A thread that entered before configure() does not end the operation of one that entered after it."""
    ran = run(
        """
        import threading
        spec, entered, leave = mlobs.operation("shared"), threading.Event(), threading.Event()
        def early():
            with spec:
                entered.set()
                leave.wait(10)
        thread = threading.Thread(target=early)
        thread.start()
        entered.wait(10)
        with mlobs.testing.capture() as telemetry:
            with spec as op:
                leave.set()
                thread.join()
                print(op.recording)
            print(op.recording, [span.name for span in telemetry.spans])
        """
    )
    assert ran.out.splitlines() == ["True", "False ['shared']"]


def test_series_announced_are_bounded() -> None:
    """Thousands of model names, a mistake, announce no more error series than the SDK keeps."""
    counter = instruments.ErrorCounter()
    for number in range(3000):
        counter.announce({"mlobs.model.name": str(number)})
    assert len(counter._announced) == 2000
