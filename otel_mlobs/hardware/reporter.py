"""The thread that reads the GPUs, and what collections are handed of its last reading.

Nothing touches the driver before the first collection in a process. A collection never waits: a callback that hangs
would hold up every instrument of the process.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.hardware import dcgm, gpu_series
from otel_mlobs.hardware.devices import Reading
from otel_mlobs.hardware.election import Election, NoPlaceError
from otel_mlobs.hardware.nvml import Driver, NoDriverError
from otel_mlobs.hardware.on_operations import OnOperations
from otel_mlobs.telemetry import absolute, foreign, guard, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_mlobs.hardware.nvml import Device

    Labels = Mapping[str, str]

_logger = logging.getLogger("otel_mlobs")

_STALE_INTERVALS = 3
"""A reading that is older than so many intervals says nothing of now, and is handed out no more."""
_HANGS_S = 5.0
"""A device whose reading takes longer than this holds up the others no longer: the next collection sees to that."""
_LOOK_AGAIN_S = 60.0
"""How often devices are counted again: MIG instances come and go."""
_LONGEST_WAIT_S = 300.0


class Reporter:
    """Reads all devices once an interval, in a thread of its own that the first collection starts.

    Args:
        interval: seconds between two readings.
        election: by which one process is chosen to read, or None where each does.
        names: ``"otel"``, ``"dcgm"`` or ``"both"``.
        only_visible: whether ``CUDA_VISIBLE_DEVICES`` says which devices are read.
    """

    def __init__(self, interval: float, election: Election | None, names: str, *, only_visible: bool) -> None:
        self._interval = interval
        self._election = election
        self._only_visible = only_visible
        self._metrics: tuple[semconv.Metric, ...] = ()
        if names != "dcgm":
            self._metrics += semconv.GPU_METRICS
        if names != "otel":
            self._metrics += dcgm.METRICS
        self._dcgm_names = frozenset(dcgm.SOURCES)
        self._series = gpu_series.Labelled()
        self._dcgm = dcgm.Labelled()
        # Where nobody collects, operations that ask for it are what begins to read
        self._uncollected = "metrics" not in foreign.signals()
        self._hook = OnOperations(lambda: self._uncollected or self.collected)
        self._start_empty()

    def _start_empty(self) -> None:
        self.driver = Driver(only_visible=self._only_visible)
        self._readings: dict[str, Reading] = {}
        self._read_at: float | None = None
        self._runner: object | None = None
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._stopped = False
        self._in_call: tuple[float, Device | None] | None = None
        self._hanging: tuple[Device, ...] = ()

    def start(self) -> None:
        """Be collected from now on."""
        self._stopped = False
        absolute.observe(self, self._metrics)
        if self._uncollected:
            _logger.warning(
                "no metrics are sent, so there are no GPU readings: give metrics_endpoint=; what operations with gpu= "
                "use is still on their spans"
            )
        hooks.add_hook(self._hook)

    def stop(self) -> None:
        """Be collected no more, and let another process report."""
        absolute.forget(self)
        hooks.remove_hook(self._hook)
        self._hook.stop()
        self._stopped = True
        self._runner = None
        self._readings = {}
        if self._election is not None:
            self._election.resign()
        self._wake.set()

    def start_afresh(self) -> None:
        """In a forked child: no thread is here, the driver's handles are the parent's, and so is the lock."""
        stopped = self._stopped
        self._start_empty()
        self._hook.start_afresh()
        self._stopped = stopped
        if self._election is not None:
            self._election.start_afresh()

    @property
    def collected(self) -> bool:
        """Whether this process has been collected: from then on the driver may be used in it."""
        return self._runner is not None

    @property
    def readings(self) -> Sequence[Reading]:
        """The last reading of every device that is not too old; one whose call hangs has failed."""
        now = time.monotonic()
        hanging = {device.identity.uuid for device in self._hanging if device.busy}
        found = [Reading(device.identity, "failed", now) for device in self._hanging if device.busy]
        oldest = now - _STALE_INTERVALS * self._interval
        for uuid, reading in [*self._readings.items()]:
            if reading.taken >= oldest and uuid not in hanging:
                found.append(reading)
        return found

    def points(self, metric: semconv.Metric) -> Iterator[tuple[float, Labels]]:
        """The points of ``metric`` as last read; nothing for what could not be read."""
        if metric is self._metrics[0]:
            self._see_to_thread()
        if metric is semconv.GPU_READING_AGE:
            if self._read_at is not None:
                yield time.monotonic() - self._read_at, {semconv.HW_VENDOR: "NVIDIA"}
            return
        labelled = self._dcgm if metric.name in self._dcgm_names else self._series
        for reading in self.readings:
            yield from labelled.points(metric, reading)

    # -- the thread

    def _see_to_thread(self) -> None:
        """Start the thread, or another one where a call on a device hangs."""
        if self._stopped or not self._starting.acquire(blocking=False):
            return
        try:
            if self._runner is None:
                self._run_thread()
                return
            within = self._in_call
            if within is not None and time.monotonic() - within[0] > _HANGS_S:
                since, device = within
                if device is None:  # no other thread could do better
                    self.driver.trouble.say(
                        "hangs", "GPU readings: the NVIDIA driver has not answered for %.0f s", time.monotonic() - since
                    )
                    return
                self._in_call = None
                self._hanging = (*(one for one in self._hanging if one.busy), device)
                self.driver.trouble.say(
                    (device.identity.uuid, "hangs"),
                    "GPU %s: the driver has not answered for %.0f s; it is left out until it does",
                    device.identity.name,
                    time.monotonic() - since,
                )
                self._run_thread()
        except RuntimeError:  # no thread can be started here now
            self._runner = None
        finally:
            self._starting.release()

    def _run_thread(self) -> None:
        self._runner = runner = object()
        threading.Thread(target=self._run, args=(runner,), name="otel_mlobs-gpu", daemon=True).start()

    def _run(self, runner: object) -> None:
        retry = self._interval
        look_again = time.monotonic() + _LOOK_AGAIN_S
        while self._runner is runner and not self._stopped:
            began = time.monotonic()
            wait = self._interval
            try:
                if self._elected():
                    self._pass(runner)
                    retry = self._interval
                    if began >= look_again:
                        look_again = began + _LOOK_AGAIN_S
                        self._look_again()
            except NoDriverError as error:
                if self._runner is runner:
                    self._lose_driver(error)
                wait, retry = retry, min(2 * retry, max(_LONGEST_WAIT_S, self._interval))
            except Exception as error:  # noqa: BLE001 - the thread goes on
                guard.report("gpu", error)
            if self._runner is not runner:
                break
            self._wake.wait(max(0.0, began + wait - time.monotonic()))
            self._wake.clear()
        if self._stopped:
            self.driver.close()

    def _elected(self) -> bool:
        if self._election is None:
            return True
        try:
            return self._election.stand()
        except NoPlaceError as error:
            self._election = None
            _logger.warning(
                "GPU readings: there is no folder of this user's own to agree in on one reporter (%s); each process "
                "reports. Set XDG_RUNTIME_DIR to a folder that is yours alone",
                error,
            )
            return True

    def _pass(self, runner: object) -> None:
        driver = self.driver
        if not driver.is_open and any(device.busy for device in self._hanging):
            return  # it would be found anew, and hang anew
        self._in_call = (time.monotonic(), None)
        try:
            if not driver.is_open:
                driver.open()
            driver.hear()
        finally:
            self._in_call = None
        driver.trouble.end("hangs", "GPU readings: the NVIDIA driver answers again")
        for device in driver.devices:
            if device.busy:  # another thread waits for it
                continue
            device.busy = True
            self._in_call = within = (time.monotonic(), device)
            try:
                reading = device.read()
            finally:
                device.busy = False
            if self._runner is not runner:
                driver.trouble.end(
                    (device.identity.uuid, "hangs"), "GPU %s: the driver answers again", device.identity.name
                )
                return
            if self._in_call is within:
                self._in_call = None
            self._find_driver()
            self._readings[device.identity.uuid] = reading
            self._read_at = reading.taken
        if not driver.devices:
            self._find_driver()

    def _look_again(self) -> None:
        self._in_call = (time.monotonic(), None)
        try:
            if not any(device.busy for device in self.driver.devices) and self.driver.changed():
                self.driver.close()
                self._forget()
        finally:
            self._in_call = None

    def _forget(self) -> None:
        self._readings = {}
        self._series, self._dcgm = gpu_series.Labelled(), dcgm.Labelled()  # of devices that may not come back

    def _find_driver(self) -> None:
        self.driver.trouble.end("driver", "GPU readings: the NVIDIA driver answers again")

    def _lose_driver(self, error: NoDriverError) -> None:
        self.driver.trouble.say("driver", "GPU readings: none for now: %s", error)
        self.driver.abandon(error)
        self._forget()


_reporter: Reporter | None = None


def current() -> Reporter | None:
    """The reporter of this process, where one was started."""
    return _reporter


def use(reporter: Reporter) -> None:
    """Start ``reporter`` in the place of the one before."""
    global _reporter  # noqa: PLW0603 - one per process is what is meant
    if _reporter is not None:
        _reporter.stop()
    _reporter = reporter
    hooks.after_shutdown(stop)
    reporter.start()


def stop() -> None:
    """Stop the reporter, where there is one."""
    global _reporter  # noqa: PLW0603 - see use
    if _reporter is not None:
        _reporter.stop()
        _reporter = None


def _after_fork_in_child() -> None:
    pynvml: Any = sys.modules.get("pynvml")
    if pynvml is not None:  # a thread that is not here may have held it
        pynvml.libLoadLock = threading.Lock()
    if _reporter is not None:
        _reporter.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
