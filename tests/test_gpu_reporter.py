"""The thread that reads GPUs: what goes wrong is said once and recovers, nothing waits, one process reports."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvml_standin as standin
import pynvml
import pytest
from gpu_threads import PATIENCE_S, all_have_ended, eventually, threads
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, View
from receiver import run

import otel_mlobs as mlobs
from otel_mlobs import semconv
from otel_mlobs.hardware import election
from otel_mlobs.hardware import reporter as module
from otel_mlobs.hardware.election import Election, NoPlaceError
from otel_mlobs.hardware.nvml import NoDriverError
from otel_mlobs.hardware.reporter import Reporter
from otel_mlobs.telemetry import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL = 0.05
FIRST = semconv.GPU_METRICS[0]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[standin.Driver]:
    """Two GPUs, in this process."""
    with standin.in_process(standin.Driver(tmp_path)) as made:
        yield made.device(0, standin.H100).device(1, standin.T4)


@contextmanager
def reporting(interval: float = INTERVAL, chosen: Election | None = None) -> Iterator[Reporter]:
    """A reporter that is collected every now and then, and stopped; its thread has ended afterwards."""
    made = Reporter(interval, chosen, "otel", only_visible=True)
    try:
        collect(made)
        yield made
    finally:
        made.stop()
        assert all_have_ended()


def collect(reporter: Reporter) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """One collection."""
    return {
        metric.name: [(value, dict(labels)) for value, labels in reporter.points(metric)]
        for metric in semconv.GPU_METRICS
    }


def states(reporter: Reporter) -> dict[str, str]:
    """The devices' states, by name."""
    collect(reporter)
    return {reading.identity.name: reading.state for reading in reporter.readings}


def power(reporter: Reporter) -> dict[str, float]:
    """The power of each device that tells it."""
    return {labels["hw.name"]: value for value, labels in collect(reporter)["hw.power"]}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our lines in the log, taken out of it."""
    lines = [record.getMessage() for record in caplog.records if record.name == "otel_mlobs"]
    caplog.clear()
    return lines


BOTH = {"0": 412.35, "1": 48.21}


def test_readings_follow_the_devices(script: standin.Driver) -> None:
    """A collection starts the thread, one thread; later ones have the last reading, and its age."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"0.power": 100_000})
        assert eventually(lambda: power(reporter) == {**BOTH, "0": 100.0})
        ((age, labels),) = collect(reporter)["mlobs.gpu.reading_age"]
        assert 0 <= age < PATIENCE_S
        assert labels == {"hw.vendor": "NVIDIA"}
        assert len(threads()) == 1


# -- faults


def test_a_lost_gpu_is_one_line_and_the_others_are_read(
    script: standin.Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed and has no readings; when it answers again, that is one line and all is read."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"0.lost": 1})
        assert eventually(lambda: states(reporter) == {"0": "failed", "1": "ok"})
        assert power(reporter) == {"1": 48.21}
        status = {(labels["hw.name"], labels["hw.state"]): value for value, labels in collect(reporter)["hw.status"]}
        assert status["0", "failed"] == 1.0
        assert status["0", "ok"] == 0.0
        assert status["1", "ok"] == 1.0
        time.sleep(4 * INTERVAL)
        (line,) = said(caplog)
        assert f"GPU 0 ({standin.uuid(0)}) has been lost" in line
        script.set({"0.lost": 0})
        assert eventually(lambda: power(reporter) == BOTH)
        assert states(reporter) == {"0": "ok", "1": "ok"}
        assert eventually(lambda: any("activity.sm" in reading.values for reading in reporter.readings))
        assert said(caplog) == ["GPU 0 answers again"]


def test_a_lost_gpu_is_still_there_when_devices_are_counted_again(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays failed and is not said again, though the driver does not name it any more."""
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"0.lost": 1})
        assert eventually(lambda: states(reporter) == {"0": "failed", "1": "ok"})
        counted = lambda: [call[1] for call in standin.calls(script.log)].count("nvmlDeviceGetCount_v2")  # noqa: E731
        before = counted()
        assert eventually(lambda: counted() > before + 3)
        assert states(reporter) == {"0": "failed", "1": "ok"}
        assert len(said(caplog)) == 1
        script.set({"0.lost": 0})
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU 0 answers again"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "docker run --gpus all"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated under its library"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not use the NVIDIA driver"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not answer"),
    ],
)
def test_a_driver_that_cannot_be_used_is_one_line_and_comes_back(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, code: int, words: str
) -> None:
    """No points meanwhile, and no line at each try."""
    script.set(init=code)
    with reporting(0.02) as reporter:
        tries = lambda: [each for each in standin.calls(script.log) if each[1].startswith("nvmlInit")]  # noqa: E731
        assert eventually(lambda: len(tries()) >= 3)
        (line,) = said(caplog)
        assert line.startswith("GPU readings: none for now: ")
        assert words in line
        assert collect(reporter)["hw.status"] == []
        script.set(init=0)
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU readings: the NVIDIA driver answers again"]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "the NVIDIA driver was unloaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "the NVIDIA driver was updated"),
    ],
)
def test_a_driver_that_is_reloaded_is_opened_anew(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, gone: int, words: str
) -> None:
    """Unloaded in the middle of a pass: no points, one line; loaded again: all is read, one line."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"fault.nvmlDeviceGetPowerUsage": gone, "init": gone})
        assert eventually(lambda: states(reporter) == {})
        (line,) = said(caplog)
        assert line.startswith(f"GPU readings: none for now: {words}")
        script.remove("fault.nvmlDeviceGetPowerUsage").set(init=0)
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU readings: the NVIDIA driver answers again"]


def test_what_was_begun_is_ended_and_no_more(script: standin.Driver, caplog: pytest.LogCaptureFixture) -> None:
    """The library counts its users: after a reload ours is given back, but not another's where all was ended.

    Where it can be opened meanwhile, but answers nothing, that is no other trouble.
    """
    begun = {"nvmlInitWithFlags": 1, "nvmlShutdown": -1}
    for gone, all_ended in ((pynvml.NVML_ERROR_DRIVER_NOT_LOADED, False), (pynvml.NVML_ERROR_UNINITIALIZED, True)):
        script.log.unlink(missing_ok=True)
        with reporting() as reporter:
            assert eventually(lambda reporter=reporter: power(reporter) == BOTH)
            script.set({"fault.nvmlDeviceGetPowerUsage": gone})
            opened = lambda: sum(each[1] == "nvmlInitWithFlags" for each in standin.calls(script.log))  # noqa: E731
            assert eventually(lambda opened=opened: opened() > 3)
            assert states(reporter) == {}
            script.remove("fault.nvmlDeviceGetPowerUsage")
            assert eventually(lambda reporter=reporter: power(reporter) == BOTH)
            assert len(said(caplog)) == 2
        left = sum(begun.get(function, 0) for _, function, _ in standin.calls(script.log))
        assert left == (opened() - 1 if all_ended else 0)


@pytest.mark.usefixtures("script")
def test_a_driver_that_is_away_for_days_comes_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried ever less often, at last every five minutes, however often it was in vain; then once an interval."""
    made = Reporter(15.0, None, "otel", only_visible=True)
    waits: list[float] = []

    class Wake:
        def wait(self, seconds: float) -> None:
            waits.append(round(seconds))
            if len(waits) == 1200:
                monkeypatch.undo()
            if len(waits) == 1202:
                made._runner = None

        def clear(self) -> None:
            pass

    made._wake = Wake()  # type: ignore[assignment]
    made._runner = runner = object()
    monkeypatch.setattr(module.Driver, "open", _raise(NoDriverError("away")))
    made._run(runner)
    assert waits[:7] == [15, 30, 60, 120, 240, 300, 300]
    assert set(waits[7:1200]) == {300}
    assert waits[1200:] == [15, 15]
    assert said(caplog) == ["GPU readings: none for now: away", "GPU readings: the NVIDIA driver answers again"]
    made.driver.close()


def _raise(error: Exception) -> Any:
    """A method that raises ``error``, and counts how often."""

    def method(_self: object) -> None:
        method.count += 1  # type: ignore[attr-defined]
        raise error

    method.count = 0  # type: ignore[attr-defined]
    return method


@pytest.mark.usefixtures("lenient")
def test_an_error_of_ours_costs_one_pass(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of is said, with its traceback, and the thread goes on."""
    monkeypatch.setattr(module.Driver, "hear", _raise(ZeroDivisionError("of ours")))
    with reporting() as reporter:
        assert eventually(lambda: any("gpu failed with ZeroDivisionError" in line for line in caplog.messages))
        monkeypatch.undo()
        assert eventually(lambda: power(reporter) == BOTH)
        assert len(said(caplog)) == 1


def test_a_reading_that_may_not_be_had_is_one_line(script: standin.Driver, caplog: pytest.LogCaptureFixture) -> None:
    """Refused on both devices, said once; all else is read; once it may be had on both, that is one line."""
    refused = pynvml.NVML_ERROR_NO_PERMISSION
    script.set({"fault.nvmlDeviceGetPowerUsage": refused, "0.fault.nvmlGpmSampleGet": refused})
    with reporting() as reporter:
        assert eventually(lambda: states(reporter) == {"0": "ok", "1": "ok"})
        assert power(reporter) == {}
        assert {labels["hw.name"] for _, labels in collect(reporter)["hw.temperature"]} == {"0", "1"}
        time.sleep(3 * INTERVAL)
        lines = said(caplog)
        assert len(lines) == 2
        assert any("may not read power;" in line for line in lines)
        assert any("may not read GPM;" in line for line in lines)
        script.set({"1.fault.nvmlDeviceGetPowerUsage": refused}).remove("fault.nvmlDeviceGetPowerUsage")
        assert eventually(lambda: power(reporter) == {"0": 412.35})
        script.remove("1.fault.nvmlDeviceGetPowerUsage", "0.fault.nvmlGpmSampleGet")
        assert eventually(lambda: power(reporter) == BOTH)
        assert eventually(lambda: collect(reporter)["mlobs.gpu.activity"])
        assert sorted(said(caplog)) == [
            "GPU readings: this user may read GPM now",
            "GPU readings: this user may read power now",
        ]


def test_what_is_not_supported_is_not_asked_again(script: standin.Driver, caplog: pytest.LogCaptureFixture) -> None:
    """Nor said: most devices lack something."""
    script.set({"0.fault.nvmlDeviceGetPowerUsage": pynvml.NVML_ERROR_NOT_SUPPORTED})
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == {"1": 48.21})
        asked = lambda device: standin.calls(script.log).count((os.getpid(), "nvmlDeviceGetPowerUsage", device))  # noqa: E731
        assert eventually(lambda: asked("1") > 3)
        assert asked("0") == 1
        assert said(caplog) == []


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_TIMEOUT, pynvml.NVML_ERROR_IRQ_ISSUE])
def test_a_reading_that_fails_for_a_time_recovers(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """No point while it fails, one line, and one when it is over; the device is well all the while."""
    script.set({"0.fault.nvmlDeviceGetPowerUsage": code})
    with reporting() as reporter:
        assert eventually(lambda: states(reporter) == {"0": "ok", "1": "ok"})
        assert power(reporter) == {"1": 48.21}
        time.sleep(3 * INTERVAL)
        (line,) = said(caplog)
        assert line.startswith("GPU 0: the driver cannot say power now: ")
        script.remove("0.fault.nvmlDeviceGetPowerUsage")
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU 0: the driver says power again"]


def test_a_gpu_that_cannot_be_opened_keeps_its_number(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two is broken from the start: one line, and the second is still number 1; and it comes back."""
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    script.set({"0.lost": 1})
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == {"1": 48.21})
        (line,) = said(caplog)
        assert line == "GPU 0 cannot be read: GPU is lost. The others are"
        script.set({"0.lost": 0})
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU 0 can be read"]


def test_xids_are_counted_and_change_the_status(script: standin.Driver, caplog: pytest.LogCaptureFixture) -> None:
    """An application's XID is counted; one of the hardware degrades, and 79 fails; each is said."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        for xids, count, last, state in (
            ("31", 1, 31, "ok"),
            ("31,48", 2, 48, "degraded"),
            ("31,48,79", 3, 79, "failed"),
        ):
            script.set({"0.xid": xids})
            assert eventually(lambda state=state, count=count: _xids(reporter) == (count, state))
            ((value, _),) = [point for point in collect(reporter)["mlobs.gpu.last_xid"] if point[1]["hw.name"] == "0"]
            assert value == last
        assert [line.split("XID ")[1].split(";")[0] for line in said(caplog)] == ["31", "48", "79"]
        assert states(reporter)["1"] == "ok"


def _xids(reporter: Reporter) -> tuple[int, str]:
    found = [
        int(value)
        for value, labels in collect(reporter)["hw.errors"]
        if labels["error.type"] == "xid" and labels["hw.name"] == "0"
    ]
    return found[0], states(reporter)["0"]


def test_a_gpu_that_was_reset_is_well(script: standin.Driver) -> None:
    """What it said before it was lost is of no more concern."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        for key, value, state in (("xid", "48", "degraded"), ("lost", 1, "failed"), ("lost", 0, "ok")):
            script.set({f"0.{key}": value})
            assert eventually(lambda state=state: states(reporter)["0"] == state)


@pytest.mark.parametrize(
    "keys", [{"ecc.1.0": 1}, {"remapped.pending": 1}, {"remapped.failure": 1}, {"retired.pending": 1}]
)
def test_damaged_memory_is_degraded(script: standin.Driver, keys: dict[str, int]) -> None:
    """An uncorrected error, rows or pages that wait for a reset, a remapping that failed."""
    script.set({f"0.{key}": value for key, value in keys.items()})
    with reporting() as reporter:
        assert eventually(lambda: states(reporter) == {"0": "degraded", "1": "ok"})


def test_mig_instances_come_and_go(script: standin.Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made since is read, what was removed is gone, without a restart."""
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    with reporting() as reporter:
        assert eventually(lambda: states(reporter).keys() == {"0", "1"})
        script.device(0, standin.H100_MIG)
        assert eventually(lambda: states(reporter).keys() == {"0", "0:1", "0:9", "1"})
        script.set({"0.migs": 1})
        assert eventually(lambda: states(reporter).keys() == {"0", "0:1", "1"})


def test_what_was_seen_is_kept_when_devices_are_found_anew(
    script: standin.Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XIDs go on from where they were, the state they led to with them."""
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    with reporting() as reporter:
        assert eventually(lambda: states(reporter).keys() == {"0", "1"})
        script.set({"0.xid": "48"})
        assert eventually(lambda: _xids(reporter) == (1, "degraded"))
        script.set({"0.xid": ""}).device(1, standin.H100_MIG)
        assert eventually(lambda: states(reporter).keys() == {"0", "1", "1:1", "1:9"})
        assert _xids(reporter) == (1, "degraded")


# -- nothing waits


def test_a_call_that_hangs_holds_up_nothing_else(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other device goes on, collections and predictions take no longer, its own readings go; and it recovers."""
    monkeypatch.setattr(module, "_HANGS_S", 0.2)
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"0.delay.nvmlDeviceGetPowerUsage": 3})
        began = time.monotonic()
        slowest = 0.0
        while power(reporter).keys() != {"1"}:
            before = time.monotonic()
            collect(reporter)
            with mlobs.prediction(model="beside"):
                pass
            slowest = max(slowest, time.monotonic() - before)
            assert time.monotonic() - began < PATIENCE_S
        script.set({"1.power": 77_000})
        assert eventually(lambda: power(reporter) == {"1": 77.0})
        assert time.monotonic() - began < 3.0
        assert slowest < 1.0
        assert states(reporter) == {"0": "failed", "1": "ok"}
        assert [label["hw.name"] for _, label in collect(reporter)["hw.status"]].count("0") == 3
        (line,) = said(caplog)
        assert line.startswith("GPU 0: the driver has not answered for ")
        script.remove("0.delay.nvmlDeviceGetPowerUsage")
        assert eventually(lambda: power(reporter).keys() == {"0", "1"})
        assert said(caplog) == ["GPU 0: the driver answers again"]


def test_a_driver_that_hangs_as_it_is_opened_is_one_line(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collections go on without points, no thread is added, and it is read once it answers."""
    monkeypatch.setattr(module, "_HANGS_S", 0.1)
    script.set({"delay.nvmlDeviceGetCount_v2": 0.6})
    with reporting() as reporter:
        lines: list[str] = []
        assert eventually(lambda: collect(reporter)["hw.status"] == [] and (lines.extend(said(caplog)) or lines))
        assert [line[:53] for line in lines] == ["GPU readings: the NVIDIA driver has not answered for "]
        assert len(threads()) == 1
        script.remove("delay.nvmlDeviceGetCount_v2")
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU readings: the NVIDIA driver answers again"]


@pytest.mark.parametrize("function", ["nvmlEventSetWait_v2", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_hangs_for_all_devices_is_one_line(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """While it hears of XIDs or counts devices: old readings are handed out no more, and it recovers."""
    monkeypatch.setattr(module, "_HANGS_S", 0.1)
    monkeypatch.setattr(module, "_LOOK_AGAIN_S", 0.0)
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({f"delay.{function}": 0.8})
        lines: list[str] = []
        assert eventually(lambda: collect(reporter)["hw.status"] == [] and (lines.extend(said(caplog)) or lines))
        assert [line[:53] for line in lines] == ["GPU readings: the NVIDIA driver has not answered for "]
        ((age, _),) = collect(reporter)["mlobs.gpu.reading_age"]
        assert age > 3 * INTERVAL
        assert threads() == ["otel_mlobs-gpu"]
        script.remove(f"delay.{function}")
        assert eventually(lambda: power(reporter) == BOTH)
        assert said(caplog) == ["GPU readings: the NVIDIA driver answers again"]


def test_a_device_that_hangs_is_left_out_at_the_next_collection(
    script: standin.Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the interval is: the others are not to miss another reading."""
    monkeypatch.setattr(module, "_HANGS_S", 0.1)
    script.set({"0.delay.nvmlDeviceGetPowerUsage": 2})
    with reporting(interval=3600) as reporter:
        assert eventually(lambda: power(reporter) == {"1": 48.21} and states(reporter) == {"0": "failed", "1": "ok"})


def test_a_collection_beside_the_stop_starts_nothing(script: standin.Driver) -> None:
    """Stopped while a collection is about to start the thread: it does not."""
    made = Reporter(INTERVAL, None, "otel", only_visible=True)

    class StopsFirst:
        def acquire(self, *, blocking: bool) -> bool:
            made.stop()
            return True

        def release(self) -> None:
            pass

    made._starting = StopsFirst()  # type: ignore[assignment]
    collect(made)
    assert all_have_ended()
    assert standin.calls(script.log) == []


def test_the_thread_starts_though_a_view_drops_the_first_metric(script: standin.Driver) -> None:
    """Whichever metrics a provider leaves out."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=[View(instrument_name=FIRST.name, aggregation=DropAggregation())])
    made = Reporter(INTERVAL, None, "otel", only_visible=True)
    absolute._sources.update({metric.name: (made,) for metric in semconv.GPU_METRICS})
    for metric in semconv.GPU_METRICS:
        absolute._create(provider.get_meter("test"), metric)
    try:
        assert eventually(lambda: "hw.power" in _names(reader.get_metrics_data()))
        assert FIRST.name not in _names(reader.get_metrics_data())
    finally:
        made.stop()
        assert all_have_ended()
        provider.shutdown()


def _names(collected: Any) -> set[str]:
    return {
        metric.name
        for resource in (collected.resource_metrics if collected else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_absurd_answers_are_no_points(script: standin.Driver) -> None:
    """NaN and infinity of GPM, a state of 32, which stands for unknown: left out."""
    script.set(
        {"0.gpm.2": "nan", "0.gpm.5": "inf", "0.pstate": 32, "1.name": "T\udcff4".encode("utf-8", "replace").decode()}
    )
    with reporting() as reporter:
        assert eventually(lambda: any("activity.dram" in reading.values for reading in reporter.readings))
        found = collect(reporter)
        assert {labels["mlobs.gpu.unit"] for _, labels in found["mlobs.gpu.activity"]} & {"sm", "tensor"} == set()
        assert {labels["hw.name"] for _, labels in found["mlobs.gpu.performance_state"]} == {"1"}


def test_an_absurd_integer_keeps_nothing_from_being_sent(script: standin.Driver) -> None:
    """2^64 - 1, which stands for "not available", has no point: OTLP could not hold it, nor then anything beside it."""
    script.set({"0.ecc.1.0": 2**64 - 1, "0.field.197": 2**64 - 1})
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        found = collect(reporter)
        assert all(value < 2**63 for each in found.values() for value, _ in each)
        kinds = {labels["error.type"] for _, labels in found["hw.errors"] if labels["hw.name"] == "0"}
        assert kinds == {"ecc_corrected", "xid"}


def test_a_hardware_xid_is_not_covered_by_an_applications(script: standin.Driver) -> None:
    """48 and then 31: the device stays degraded."""
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        script.set({"0.xid": "48,31"})
        assert eventually(lambda: _xids(reporter) == (2, "degraded"))


def test_a_name_that_is_no_text_costs_only_its_gpu(script: standin.Driver, caplog: pytest.LogCaptureFixture) -> None:
    """The others are read, and keep their numbers."""
    script.path.write_bytes(script.path.read_bytes().replace(b"0.name NVIDIA H100 80GB HBM3", b"0.name NVIDIA \xff"))
    with reporting() as reporter:
        assert eventually(lambda: power(reporter) == {"1": 48.21})
        (line,) = said(caplog)
        assert line.startswith("GPU 0 cannot be read: 'utf-8' codec")


# -- when, and by whom


def test_the_driver_is_left_alone_before_the_first_collection(tmp_path: Path) -> None:
    """Configured, asked to, predictions made: no call; a child that is forked and never collected makes none either."""
    driver = standin.Driver(tmp_path).device(0, standin.H100)
    ran = run(
        """
        import sys
        mlobs.configure("lazy", backend="file", path=os.environ["TO"], gpu=True, metric_interval=3600)
        with mlobs.prediction(model="m", gpu=True):
            pass
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
        print(os.path.exists(os.environ["NVML_STANDIN_LOG"]), "pynvml" in sys.modules)
        """,
        env={**standin.env(driver), "TO": str(tmp_path / "out.jsonl"), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert ran.out == "False False\n"


FORKING = """
import os, sys, time
from otel_mlobs.hardware import reporter
from otel_mlobs.hardware.election import Election
chosen = Election("forking") if sys.argv[1] == "elected" else None
made = reporter.Reporter(0.05, chosen, "otel", only_visible=True)
reporter.use(made)
def collected():
    until = time.monotonic() + 20
    while time.monotonic() < until:
        list(made.points(made._metrics[0]))
        if made.readings:
            return True
        time.sleep(0.01)
    return False
assert collected()
child = os.fork()
if not child:
    assert made._runner is None and not made.readings
    if sys.argv[1] == "elected":
        for _ in range(20):
            list(made.points(made._metrics[0]))
            time.sleep(0.02)
        os._exit(0 if not made.readings and not made._election.won else 3)
    os._exit(0 if collected() else 4)
_, status = os.waitpid(child, 0)
assert collected()
print(os.waitstatus_to_exitcode(status), child, os.getpid())
"""


@pytest.mark.parametrize("how", ["elected", "each"])
def test_a_forked_child_begins_anew(tmp_path: Path, how: str) -> None:
    """It has neither thread, readings nor lock; where each reports, it opens the driver itself."""
    driver = standin.Driver(tmp_path).device(0, standin.H100)
    done = subprocess.run(
        [sys.executable, "-c", FORKING, how],
        env={**os.environ, **standin.env(driver), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    code, child, parent = map(int, done.stdout.split())
    assert code == 0
    calls = standin.calls(driver.log)
    opened = [pid for pid, function, _ in calls if function.startswith("nvmlInit")]
    assert opened == ([parent] if how == "elected" else [parent, child])
    assert {pid for pid, _, _ in calls} == set(opened)


STANDING = """
import sys, time
from otel_mlobs.hardware.reporter import Reporter
from otel_mlobs.hardware.election import Election
made = Reporter(0.2, Election("standing"), "otel", only_visible=True)
while True:
    list(made.points(made._metrics[0]))
    print(int(bool(made.readings)), flush=True)
    time.sleep(0.02)
"""


def test_one_process_reports_and_another_when_it_is_killed(tmp_path: Path) -> None:
    """Of three, one has readings; killed with -9, another has within two intervals, and never two at once."""
    driver = standin.Driver(tmp_path).device(0, standin.H100)
    environ = {**os.environ, **standin.env(driver), "XDG_RUNTIME_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", STANDING], env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    latest: dict[int, int] = {}

    def follow(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            latest[process.pid] = int(line)

    readers = [threading.Thread(target=follow, args=(each,), daemon=True) for each in processes]
    for reader in readers:
        reader.start()
    try:
        assert eventually(lambda: len(latest) == 3 and sum(latest.values()) == 1)
        first = next(pid for pid, has in latest.items() if has)
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        next(each for each in processes if each.pid == first).wait()
        del latest[first]
        assert eventually(lambda: sum(latest.values()) == 1)
        took = time.monotonic() - killed
        assert {pid for pid, _, _ in standin.calls(driver.log)} == {first, *(pid for pid, has in latest.items() if has)}
        assert took < 2 * 0.2 + 1.0  # two intervals, and a busy machine
    finally:
        for each in processes:
            each.kill()
            each.wait()
            if each.stdout is not None:
                each.stdout.close()
        for reader in readers:
            reader.join()


def test_stopping_gives_the_lock_to_another(
    script: standin.Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that reports no more must not keep others from it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = Election("given back")
    with reporting(chosen=first) as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        assert first.won
    assert eventually(lambda: not first.won)


def test_one_that_follows_in_the_same_process_keeps_its_lock(home: Path) -> None:
    """Closing any file of a lock ends it for the process: the one before must not open one any more."""
    before, after = Election("restarted"), Election("restarted")
    assert before.stand()
    before.resign()
    assert after.stand()
    before.resign()
    assert not before.stand()
    assert _stands_elsewhere("restarted") == "False"
    after.resign()
    assert _stands_elsewhere("restarted") == "True"


def _stands_elsewhere(name: str) -> str:
    """Whether another process gets the lock."""
    program = "import sys; from otel_mlobs.hardware.election import Election; print(Election(sys.argv[1]).stand())"
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


# -- the place of the lock


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and no runtime directory."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


def test_the_lock_is_in_the_runtime_directory_else_in_the_state_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are the user's, and the folder is nobody else's."""
    assert election.place() == home / "home/.local/state/otel-mlobs"
    assert stat.S_IMODE(election.place().stat().st_mode) == 0o700
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert election.place() == runtime / "otel-mlobs"


@pytest.mark.parametrize("trap", ["shared base", "shared folder", "of a group", "link", "file"])
def test_a_place_that_others_may_write_to_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, trap: str) -> None:
    """A runtime directory or a folder for all, a link in its place, a file in its place: the next place is taken."""
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = runtime / "otel-mlobs"
    if trap == "shared base":
        runtime.chmod(0o777)
    elif trap == "shared folder":
        folder.mkdir()
        folder.chmod(0o777)
    elif trap == "of a group":
        folder.mkdir()
        folder.chmod(0o770)
    elif trap == "link":
        (home / "elsewhere").mkdir()
        folder.symlink_to(home / "elsewhere")
    else:
        folder.write_text("")
    assert election.place() == home / "home/.local/state/otel-mlobs"
    monkeypatch.setenv("XDG_STATE_HOME", str(runtime))
    with pytest.raises(NoPlaceError, match="otel-mlobs"):
        election.place()


def test_a_place_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its rights: its owner may change them."""
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(NoPlaceError, match="is not this user's alone"):
        election.place()


def test_a_link_in_the_place_of_the_lock_is_not_followed(home: Path) -> None:
    """Whatever it leads to is not opened."""
    chosen = Election("linked")
    path = election.place() / f"gpu-{chosen._name}.lock"
    path.symlink_to(home / "target")
    with pytest.raises(NoPlaceError):
        chosen.stand()
    assert not (home / "target").exists()


def test_locks_that_a_file_system_does_not_have_are_no_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every process would think that another one reports."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(election.fcntl, "lockf", refused)
    with pytest.raises(NoPlaceError, match="No locks available"):
        Election("no locks").stand()


def test_hosts_that_share_a_home_elect_one_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock's name holds the host's."""
    names = set()
    for host in ("a", "b"):
        monkeypatch.setattr(election.platform, "node", lambda host=host: host)
        names.add(Election("one service")._name)
    assert len(names) == 2


def test_without_a_place_each_reports_and_says_so(
    script: standin.Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better doubled readings than none: one line says what to set."""

    def nowhere() -> Path:
        raise NoPlaceError("nothing here is yours")

    monkeypatch.setattr(election, "place", nowhere)
    with reporting(chosen=Election("nowhere")) as reporter:
        assert eventually(lambda: power(reporter) == BOTH)
        (line,) = said(caplog)
        assert "nothing here is yours" in line
        assert "XDG_RUNTIME_DIR" in line


def test_a_lock_whose_file_was_removed_is_won_anew(home: Path) -> None:
    """By one of them: who held it sees that what it holds is no longer what others would lock."""
    held = Election("removed")
    assert held.stand()
    path = election.place() / f"gpu-{held._name}.lock"
    path.unlink()
    assert held.stand()
    assert path.exists()
    assert os.fstat(held._file or 0).st_ino == path.stat().st_ino
    held.resign()
    assert not held.stand()


def test_stopping_amid_a_hanging_call_gives_the_lock_back(
    script: standin.Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and for good: the thread that hangs ends when it returns, and does not stand again."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    script.set({"0.delay.nvmlDeviceGetPowerUsage": 1})
    chosen = Election("hanging")
    made = Reporter(INTERVAL, chosen, "otel", only_visible=True)
    collect(made)
    assert eventually(lambda: any(each[1] == "nvmlDeviceGetPowerUsage" for each in standin.calls(script.log)))
    assert chosen.won
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 0.5
    assert not chosen.won
    assert collect(made)["hw.status"] == []
    assert all_have_ended()
    assert not chosen.won


def test_a_user_without_a_home_has_the_runtime_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And without that no place, which is said; relative paths are none."""

    def nobody(self: Path) -> Path:
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(NoPlaceError, match="home directory"):
        election.place()
    runtime = home / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert election.place() == runtime / "otel-mlobs"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    with pytest.raises(NoPlaceError, match="not absolute"):
        election.place()


def test_too_many_open_files_are_no_reason_to_report_beside_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes: the next interval tries again."""

    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(election.os, "open", refused)
    assert Election("full").stand() is False


def test_two_in_one_place_of_different_names(home: Path) -> None:
    """Two services elect one each, and a lock is held once."""
    one, other = Election("a"), Election("b")
    assert one.stand()
    assert one.stand()
    assert other.stand()
    program = """
        from otel_mlobs.hardware.election import Election
        print(Election("a").stand(), Election("c").stand())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "False True\n"
    one.resign()
    other.resign()
    assert not one.won


def test_a_source_that_raises_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One source's trouble is not another's, nor the collection's."""
    from otel_mlobs.telemetry import guard

    class Broken:
        def points(self, metric: semconv.Metric) -> Any:
            raise RuntimeError("broken")

    class Well:
        def points(self, metric: semconv.Metric) -> Any:
            return [(1.0, {"hw.id": "x"})]

    guard.set_strict(False)
    absolute._sources[FIRST.name] = (Broken(), Well())
    try:
        found = [*absolute._callback(FIRST)(None)]  # type: ignore[arg-type]
    finally:
        absolute._sources[FIRST.name] = ()
    assert [(one.value, one.attributes) for one in found] == [(1.0, {"hw.id": "x"})]
    assert any("hardware failed with RuntimeError" in record.getMessage() for record in caplog.records)
