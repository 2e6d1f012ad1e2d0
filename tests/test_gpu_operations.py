"""What a GPU did for an operation: energy, time and memory on its span, and nothing that waits for a device."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nvml_standin as standin
import pytest
from gpu_threads import PATIENCE_S, all_have_ended, eventually, threads
from opentelemetry import trace
from receiver import Receiver, attributes_of, run

import otel_mlobs as mlobs
from otel_mlobs.hardware import reporter as module
from otel_mlobs.hardware.energy import History, Sample, Span
from otel_mlobs.hardware.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_mlobs.testing import Telemetry

WATTS = (400, 60)


@contextmanager
def metered(script: standin.Driver) -> Iterator[None]:
    """Energy counters that run on, 400 and 60 watts."""
    stop = threading.Event()
    began = time.monotonic()

    def run() -> None:
        while not stop.wait(0.005):
            passed = time.monotonic() - began
            script.set({f"{gpu}.energy": 10**9 + int(passed * watts * 1000) for gpu, watts in enumerate(WATTS)})

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[standin.Driver]:
    """Two GPUs that are read, their counters running."""
    with standin.in_process(standin.Driver(tmp_path)) as made:
        for gpu, watts in enumerate(WATTS):
            made.device(gpu, standin.H100, power=watts * 1000, energy=10**9)
        reporter = Reporter(0.2, None, "otel", only_visible=True)
        module.use(reporter)
        collect(reporter)
        with metered(made):
            yield made
        stop()


def stop() -> None:
    """Report no more; afterwards no thread uses the driver."""
    module.stop()
    assert all_have_ended()


def collect(reporter: Reporter) -> None:
    """One collection: from then on the driver may be used."""
    list(reporter.points(reporter._metrics[0]))


def warm(gpu: int | bool) -> None:
    """Let sampling begin."""
    with mlobs.prediction(model="warm", gpu=gpu):
        time.sleep(0.1)


def attributes(telemetry: Telemetry) -> dict[str, Any]:
    """What the last span says of the GPU."""
    found = telemetry.spans[-1].attributes or {}
    return {key.removeprefix("mlobs.gpu."): value for key, value in found.items() if key.startswith("mlobs.gpu.")}


def test_energy_is_power_times_time(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """Of the GPU that is named, for functions, coroutines and generators, to a few percent."""
    warm(0)
    warm(1)

    @mlobs.prediction(model="m", gpu=0)
    def plain() -> float:
        time.sleep(0.4)
        return 0.5

    @mlobs.ranking(model="m", gpu=1)
    async def waiting() -> list[int]:
        await asyncio.sleep(0.4)
        return [1]

    @mlobs.candidate_generation(source="s", gpu=0)
    def yielding() -> Iterator[int]:
        time.sleep(0.4)
        yield 1

    for call, gpu in ((plain, 0), (lambda: asyncio.run(waiting()), 1), (lambda: list(yielding()), 0)):
        began = time.monotonic()
        call()
        took = time.monotonic() - began
        found = attributes(mlobs_telemetry)
        assert found.pop("energy") == pytest.approx(WATTS[gpu] * took, rel=0.15)
        assert found == {"index": gpu, "energy_shared": False}


def test_operations_that_overlap_say_so(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """On one GPU, also one within the other; on two they share nothing."""
    warm(0)
    warm(1)

    def shared(*gpus: int) -> list[bool]:
        """Tried again where a reading came too late, as on a busy machine: such an operation says nothing of energy."""
        for _ in range(20):
            found = tried(*gpus)
            if None not in found:
                return [bool(each) for each in found]
        pytest.fail("twenty times no reading in time")

    def tried(*gpus: int) -> list[Any]:
        ready = threading.Barrier(len(gpus))

        def work(gpu: int) -> None:
            with mlobs.prediction(model="overlap", gpu=gpu):
                ready.wait(PATIENCE_S)
                time.sleep(0.05)
                ready.wait(PATIENCE_S)

        workers = [threading.Thread(target=work, args=(gpu,)) for gpu in gpus]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        spans = mlobs_telemetry.spans[-len(gpus) :]
        return [(span.attributes or {}).get("mlobs.gpu.energy_shared") for span in spans]

    assert shared(0, 0) == [True, True]
    assert shared(0, 1) == [False, False]
    assert shared(0, 0, 1).count(True) == 2
    with mlobs.ranking(model="outer", gpu=0), mlobs.prediction(model="inner", gpu=0):
        time.sleep(0.05)
    assert attributes(mlobs_telemetry)["energy_shared"] is True


def test_without_gpu_nothing_is_watched(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """An operation that does not ask for it, or with gpu=False, has no such attribute."""
    for asked in ({}, {"gpu": False}, {"gpu": None}):
        with mlobs.prediction(model="m", **asked):
            pass
        assert attributes(mlobs_telemetry) == {}


def test_which_gpu_is_not_guessed(
    script: standin.Driver, mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two GPUs and no framework to ask, true names none, nor does a number that there is not; each is said once."""
    warm(0)
    for asked in (True, 7, True, 7):
        with mlobs.prediction(model="m", gpu=asked):
            pass
        assert attributes(mlobs_telemetry) == {}
    first, second = [line for line in caplog.messages if "gpu=" in line]
    assert first.startswith("gpu=True: this process sees 2 GPUs, and neither PyTorch nor CuPy says which it uses")
    assert second == "gpu=7: this process reads GPUs 0, 1 (said once)"


def test_the_only_gpu_is_meant(tmp_path: Path, mlobs_telemetry: Telemetry) -> None:
    """With one device, true is enough once the devices are known."""
    with standin.in_process(standin.Driver(tmp_path).device(0, standin.H100)) as script:
        reporter = Reporter(0.2, None, "otel", only_visible=True)
        module.use(reporter)
        collect(reporter)
        with metered(script):
            until = time.monotonic() + PATIENCE_S
            while "energy" not in attributes(mlobs_telemetry) if mlobs_telemetry.spans else True:
                warm(True)
                assert time.monotonic() < until
        assert attributes(mlobs_telemetry)["index"] == 0
        stop()


def test_a_driver_that_hangs_delays_no_operation(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """The energy is left out, and the call takes what it takes."""
    warm(0)
    script.set({"0.delay.nvmlDeviceGetTotalEnergyConsumption": 3})
    time.sleep(1.3)  # what was sampled before is too old by now
    began = time.monotonic()
    with mlobs.prediction(model="m", gpu=0):
        pass
    assert time.monotonic() - began < 0.5
    assert attributes(mlobs_telemetry) == {"index": 0}
    script.remove("0.delay.nvmlDeviceGetTotalEnergyConsumption")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("0", TypeError, "got '0'"),
        (1.0, TypeError, "got 1.0"),
        (-1, ValueError, "got -1"),
        (10**30, ValueError, "got 1000"),
    ],
)
def test_wrong_gpus_raise_at_decoration(value: Any, error: type[Exception], words: str) -> None:
    """With what was given."""
    for make in (mlobs.prediction, mlobs.ranking, mlobs.candidate_generation):
        with pytest.raises(error, match=words):
            make(gpu=value)
    with pytest.raises(TypeError, match="'gpu'"):
        mlobs.feature_lookup(gpu=True)  # type: ignore[call-overload]


def test_without_metrics_the_first_operation_begins_to_read(tmp_path: Path) -> None:
    """Traces alone, as to a console: one line says that there are no readings, and spans have their energy."""
    driver = standin.Driver(tmp_path).device(0, standin.H100)
    with Receiver() as receiver:
        ran = run(
            """
            import time
            mlobs.configure("traced", backend="jaeger", endpoint=os.environ["TO"], gpu=True)
            until = time.monotonic() + 20
            energy = None
            while energy is None and time.monotonic() < until:
                with mlobs.prediction(model="m", gpu=True) as op:
                    time.sleep(0.1)
                energy = op.span.attributes.get("mlobs.gpu.energy")
            print(energy is not None)
            """,
            env={**standin.env(driver), "TO": receiver.url, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert ran.out == "True\n"
        assert len(ran.lines("no metrics are sent, so there are no GPU readings")) == 1
        assert any("mlobs.gpu.energy" in attributes_of(span) for span in receiver.spans())


# -- frameworks: these two are stood in for, since the real ones need a GPU


class Event:
    """A CUDA event that has passed ``after`` seconds later."""

    after = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        self.enable_timing = enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.at = time.perf_counter()

    @property
    def done(self) -> bool:
        return self.at is not None and time.perf_counter() - self.at >= self.after

    def query(self) -> bool:
        return self.done

    def elapsed_time(self, later: Event) -> float:
        assert self.enable_timing
        assert later.enable_timing
        return (later.at - self.at) * 1000  # type: ignore[operator]

    def synchronize(self) -> None:
        raise AssertionError("nothing may wait for the device")


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A PyTorch that uses its second visible device."""
    made: Any = ModuleType("torch")
    made.cuda = ModuleType("torch.cuda")
    made.cuda.is_initialized = lambda: True
    made.cuda.current_device = lambda: 1
    made.cuda.is_current_stream_capturing = lambda: False
    made.cuda.Event = Event
    made.cuda.max_memory_allocated = lambda device: 1000 + device
    made.cuda.get_device_properties = lambda device: type(
        "P", (), {"uuid": standin.uuid(device).removeprefix("GPU-")}
    )()
    monkeypatch.setitem(sys.modules, "torch", made)
    return made


def test_pytorchs_device_time_and_memory(script: standin.Driver, mlobs_telemetry: Telemetry, torch: Any) -> None:
    """The current device by its UUID, the time between events that have passed, the peak so far."""
    warm(0)
    with mlobs.prediction(model="m", gpu=True):
        time.sleep(0.1)
    found = attributes(mlobs_telemetry)
    assert found["index"] == 1
    assert found["memory_peak"] == 1001
    assert 0.1 <= found["time"] < 1.0
    assert found["energy_shared"] is False


def test_a_gpu_that_is_not_done_has_no_time(
    script: standin.Driver, mlobs_telemetry: Telemetry, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation ends when it ends: nobody waits for the event."""
    warm(0)
    monkeypatch.setattr(Event, "after", 100.0)
    with mlobs.prediction(model="m", gpu=True):
        pass
    assert "time" not in attributes(mlobs_telemetry)
    assert attributes(mlobs_telemetry)["memory_peak"] == 1001


def test_nothing_is_recorded_into_a_cuda_graph(script: standin.Driver, mlobs_telemetry: Telemetry, torch: Any) -> None:
    """While the stream is captured neither an event is recorded nor asked for: that would break the capture."""
    warm(1)
    torch.cuda.is_current_stream_capturing = lambda: True
    torch.cuda.Event = None
    with mlobs.prediction(model="m", gpu=True):
        time.sleep(0.05)
    assert "time" not in attributes(mlobs_telemetry)
    assert attributes(mlobs_telemetry)["index"] == 1


def test_pytorch_that_has_not_begun_is_left_alone(
    script: standin.Driver, mlobs_telemetry: Telemetry, torch: Any
) -> None:
    """An import alone must not make it create a context on the device."""
    warm(0)
    torch.cuda.is_initialized = lambda: False
    torch.cuda.current_device = None
    with mlobs.prediction(model="m", gpu=True):
        pass
    assert attributes(mlobs_telemetry) == {}


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A CuPy that uses its first visible device."""
    made: Any = ModuleType("cupy")
    made.cuda = ModuleType("cupy.cuda")
    made.cuda.runtime = ModuleType("cupy.cuda.runtime")
    made.cuda.runtime.getDevice = lambda: 0
    made.cuda.Event = Event
    made.cuda.get_elapsed_time = lambda one, other: (other.at - one.at) * 1000
    made.get_default_memory_pool = lambda: type("Pool", (), {"total_bytes": staticmethod(lambda: 77)})()
    monkeypatch.setitem(sys.modules, "cupy", made)
    return made


def test_cupy_that_is_not_done_has_no_time(
    script: standin.Driver, mlobs_telemetry: Telemetry, cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with PyTorch: nobody waits for the event."""
    warm(0)
    monkeypatch.setattr(Event, "after", 100.0)
    with mlobs.prediction(model="m", gpu=True):
        pass
    assert "time" not in attributes(mlobs_telemetry)
    assert attributes(mlobs_telemetry)["memory_peak"] == 77


def test_cupys_device_time_and_memory(script: standin.Driver, mlobs_telemetry: Telemetry, cupy: Any) -> None:
    """By its runtime's current device, as NVML counts what is visible."""
    warm(0)
    with mlobs.prediction(model="m", gpu=True):
        time.sleep(0.05)
    found = attributes(mlobs_telemetry)
    assert (found["index"], found["memory_peak"]) == (0, 77)
    assert 0.05 <= found["time"] < 1.0


@pytest.mark.parametrize("there", [True, False])
def test_cupy_that_has_not_begun_is_left_alone(
    script: standin.Driver, mlobs_telemetry: Telemetry, cupy: Any, there: bool
) -> None:
    """Imported beside something else, with a device or without: an event would make it create a context."""

    def total() -> int:
        if there:
            return 0
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cupy.get_default_memory_pool = lambda: type("Pool", (), {"total_bytes": staticmethod(total)})()
    cupy.cuda.Event = cupy.cuda.runtime.getDevice = None
    warm(0)
    with mlobs.prediction(model="m", gpu=0):
        time.sleep(0.05)
    assert attributes(mlobs_telemetry).keys() == {"index", "energy", "energy_shared"}


@pytest.mark.usefixtures("lenient")
def test_a_framework_that_raises_costs_only_the_attributes(
    script: standin.Driver, mlobs_telemetry: Telemetry, torch: Any
) -> None:
    """The result is the caller's, the span ends, what was begun is ended."""
    warm(1)

    def broken(*_: object) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    torch.cuda.max_memory_allocated = broken
    assert mlobs.prediction(model="m", gpu=True)(lambda x: x)(0.5) == 0.5
    assert "energy_shared" in attributes(mlobs_telemetry)
    torch.cuda.Event = broken
    assert mlobs.prediction(model="m", gpu=True)(lambda x: x)(0.5) == 0.5
    reporter: Any = module.current()
    assert reporter._hook._operations == {}
    with pytest.raises(KeyError, match="theirs"), mlobs.prediction(model="m", gpu=True):
        raise KeyError("theirs")
    assert reporter._hook._operations == {}


def test_before_the_first_collection_no_operation_touches_the_driver(
    tmp_path: Path, mlobs_telemetry: Telemetry
) -> None:
    """Also where it is recorded and says which GPU."""
    with standin.in_process(standin.Driver(tmp_path).device(0, standin.H100)) as script:
        reporter = Reporter(0.2, None, "otel", only_visible=True)
        module.use(reporter)
        with mlobs.prediction(model="m", gpu=0):
            time.sleep(0.1)
        assert attributes(mlobs_telemetry) == {}
        assert standin.calls(script.log) == []
        stop()


def test_stopping_ends_the_sampler_and_closes_its_driver(script: standin.Driver) -> None:
    """As many ends as beginnings, and no thread left."""
    warm(0)
    warm(0)
    stop()
    called = [function for _, function, _ in standin.calls(script.log)]
    begun = sum(function.startswith("nvmlInit") for function in called)
    assert begun == 2
    assert called.count("nvmlShutdown") == begun


def test_operations_that_are_never_left_are_bounded(
    script: standin.Driver, mlobs_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are forgotten."""
    from otel_mlobs.hardware import on_operations

    monkeypatch.setattr(on_operations, "_MOST_RUNNING", 10)
    entered = [mlobs.prediction(model="lost", gpu=0) for _ in range(30)]
    for each in entered:
        each.__enter__()
    reporter: Any = module.current()
    assert len(reporter._hook._operations) == 10
    assert len(reporter._hook._sampler._spans) == 10
    for each in reversed(entered):
        each.__exit__(None, None, None)


def test_where_only_an_instance_is_visible_its_gpu_is_meant(
    tmp_path: Path, mlobs_telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is known; the energy is the whole GPU's, so there is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", standin.uuid(1, 0))
    script = standin.Driver(tmp_path).device(0, standin.T4).device(1, standin.H100_MIG)
    with standin.in_process(script):
        reporter = Reporter(0.2, None, "otel", only_visible=True)
        module.use(reporter)
        collect(reporter)

        def found() -> dict[str, Any]:
            warm(True)
            return attributes(mlobs_telemetry)

        assert eventually(found)
        assert attributes(mlobs_telemetry) == {"index": 1}
        stop()


def test_what_is_not_sampled_is_not_watched(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """Nobody would see it: no thread begins to sample."""
    unsampled = trace.NonRecordingSpan(trace.SpanContext(77, 88, is_remote=True, trace_flags=trace.TraceFlags(0)))
    with trace.use_span(unsampled), mlobs.prediction(model="m", gpu=0) as running:
        assert not running.recording
    assert threads() == ["otel_mlobs-gpu"]


def test_many_at_once(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """Threads and tasks: each has its own, and nothing is left of any."""
    warm(0)

    @mlobs.prediction(model="m", gpu=0)
    def work() -> None:
        time.sleep(0.002)

    @mlobs.prediction(model="m", gpu=1)
    async def wait() -> None:
        await asyncio.sleep(0.002)

    async def waits() -> None:
        await asyncio.gather(*(wait() for _ in range(100)))

    workers = [threading.Thread(target=lambda: [work() for _ in range(25)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    asyncio.run(waits())
    for worker in workers:
        worker.join()
    indexes = [(span.attributes or {}).get("mlobs.gpu.index") for span in mlobs_telemetry.spans[-200:]]
    assert (indexes.count(0), indexes.count(1)) == (100, 100)
    reporter: Any = module.current()
    assert reporter._hook._operations == {}
    assert reporter._hook._sampler._spans == set()


def test_a_generator_that_is_not_read_to_its_end_is_not_watched_for_ever(script: standin.Driver) -> None:
    """Left in the middle, it has ended when it is gone."""
    warm(0)

    @mlobs.candidate_generation(source="s", gpu=0)
    def candidates() -> Iterator[int]:
        yield 1
        yield 2

    generator = candidates()
    assert next(generator) == 1
    reporter: Any = module.current()
    assert len(reporter._hook._operations) == 1
    del generator
    assert reporter._hook._operations == {}
    assert reporter._hook._sampler._spans == set()


def test_a_gpu_that_comes_back_is_watched_again(script: standin.Driver, mlobs_telemetry: Telemetry) -> None:
    """While it is lost there is no energy and no error; then it is found by its UUID, as its handle may be another."""
    warm(0)
    script.set({"0.lost": 1})

    def last(*, has_energy: bool) -> bool:
        warm(0)
        return ("energy" in attributes(mlobs_telemetry)) is has_energy

    assert eventually(lambda: last(has_energy=False))
    script.set({"0.lost": 0})
    assert eventually(lambda: last(has_energy=True))


FORKING = """
        import threading, time
        from otel_mlobs.hardware import reporter
        mlobs.configure("forks", backend="file", path=os.environ["TO"], gpu=True, gpu_reporter="each",
                        metric_interval=3600)
        def energy():
            with mlobs.prediction(model="m", gpu=0) as running:
                time.sleep(0.1)
            return running.span.attributes.get("mlobs.gpu.energy")
        def until_there():
            until = time.monotonic() + 20
            while energy() is None and time.monotonic() < until:
                pass
            return energy() is not None
        mlobs.force_flush()
        there = until_there()
        with mlobs.prediction(model="outer", gpu=0):
            child = os.fork()
        if not child:
            before = energy()
            list(reporter.current().points(reporter.current()._metrics[0]))
            now = until_there()
            sampling = any(each.name == "otel_mlobs-gpu-energy" for each in threading.enumerate())
            os._exit(0 if there and before is None and now and sampling else 3)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), until_there())
"""


def test_a_child_that_is_forked_amid_an_operation_begins_anew(tmp_path: Path) -> None:
    """It has no sampler and touches no driver until it is collected; then both it and the parent have energies."""
    driver = standin.Driver(tmp_path).device(0, standin.H100)
    ran = run(FORKING, env={**standin.env(driver), "TO": str(tmp_path / "out.jsonl"), "XDG_RUNTIME_DIR": str(tmp_path)})
    assert ran.out == "0 True\n"


# -- between samples


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(10.0, 100.0), (10.5, 150.0), (11.0, 200.0), (11.25, 250.0), (9.5, 75.0), (12.0, 400.0), (12.5, 500.0)],
)
def test_the_counter_between_and_beyond_samples(moment: float, expected: float) -> None:
    """Between two it rises evenly; before the first and after the last by the power there."""
    history = History()
    for sample in (Sample(10.0, 100.0, 50.0), Sample(11.0, 200.0, 0.0), Sample(12.0, 400.0, 200.0)):
        history.add(sample)
    assert history.at(moment) == pytest.approx(expected)


def test_what_no_sample_is_near_is_not_known() -> None:
    """More than a second away, or none at all; and a counter that begins again forgets what was before."""
    history = History()
    assert history.at(1.0) is None
    history.add(Sample(10.0, 100.0, 50.0))
    assert history.at(11.5) is None
    assert history.at(8.5) is None
    history.add(Sample(11.0, 5.0, 50.0))
    assert history.at(10.5) == -20.0
    history.add(Sample(13.0, 105.0, 50.0))
    assert history.at(12.0) is None


def test_a_counter_that_begins_again_tells_nothing() -> None:
    """The driver was loaded anew within the operation."""
    history = History()
    history.add(Sample(10.0, 100.0, 50.0))
    span = Span(0, 10.0)
    span.settle(history)
    history.add(Sample(10.5, 5.0, 50.0))
    assert span.joules(history, 10.5) is None
