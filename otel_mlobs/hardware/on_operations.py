"""What the GPU did for an operation that was written with ``gpu=``, on its span. Nothing here waits for a device."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs import semconv
from otel_mlobs.hardware.energy import Sample, Sampler
from otel_mlobs.hardware.nvml import Driver, NoDriverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_mlobs.hardware.devices import Identity
    from otel_mlobs.hardware.energy import Span
    from otel_mlobs.telemetry.running import Operation

_logger = logging.getLogger("otel_mlobs")

_TRY_AGAIN_S = 30.0
_MOST_SAID = 10
_MOST_RUNNING = 1_000


class _Running:
    """An operation that uses a GPU: what was begun for it."""

    __slots__ = ("began", "clock", "framework")

    def __init__(self, framework: Framework | None, clock: Any) -> None:
        self.framework = framework
        self.clock = clock
        self.began: Span | None = None


class Framework:
    """PyTorch or CuPy, where it has been imported and uses a GPU: nothing here makes it begin to."""

    def __init__(self, name: Literal["torch", "cupy"], module: Any) -> None:
        self.name = name
        self._module = module

    def device(self) -> int:
        """The current device, as the framework counts: by ``CUDA_VISIBLE_DEVICES``."""
        if self.name == "torch":
            return int(self._module.cuda.current_device())
        return int(self._module.cuda.runtime.getDevice())

    def uuid(self, device: int) -> str | None:
        """The device's UUID, where the framework knows it."""
        if self.name == "torch":
            found = getattr(self._module.cuda.get_device_properties(device), "uuid", None)
            return None if found is None else f"GPU-{found}"
        return None

    def clock(self) -> Any:
        """An event recorded now, in the current stream; None while that is captured for a CUDA graph."""
        if self.name == "torch" and self._module.cuda.is_current_stream_capturing():
            return None
        make = self._module.cuda.Event
        event = make(enable_timing=True) if self.name == "torch" else make()
        event.record()
        return event

    def seconds(self, began: Any) -> float | None:
        """Time between the event ``began`` and now, as the device sees it; None where it is not there yet."""
        ended = None if began is None else self.clock()
        if ended is None:
            return None
        if self.name == "torch":
            return began.elapsed_time(ended) / 1000 if ended.query() else None
        return float(self._module.cuda.get_elapsed_time(began, ended)) / 1000 if ended.done else None

    def peak(self, device: int) -> int:
        """The most bytes that were allocated so far; of CuPy what its pool holds."""
        if self.name == "torch":
            return int(self._module.cuda.max_memory_allocated(device))
        return int(self._module.get_default_memory_pool().total_bytes())

    def has_memory(self) -> bool:
        """Whether CuPy has begun to use a device: an event of ours would make it begin."""
        try:
            return self.peak(0) > 0
        except Exception:  # noqa: BLE001 - its way to say that there is no device
            return False


def framework() -> Framework | None:
    """The framework that uses a GPU in this process."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and hasattr(cuda, "is_initialized") and cuda.is_initialized():
        return Framework("torch", torch)
    cupy = sys.modules.get("cupy")
    if hasattr(cupy, "cuda"):
        made = Framework("cupy", cupy)
        if made.has_memory():
            return made
    return None


class OnOperations:
    """An :class:`~otel_mlobs.telemetry.hooks.OperationHook`.

    Args:
        allowed: whether the driver may be used in this process by now.
    """

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self._allowed = allowed
        self._start_empty()

    def _start_empty(self) -> None:
        driver = Driver(reports=False)
        self._sampler = Sampler(lambda: self._open(driver), lambda index: self._sample(driver, index), driver.close)
        self._operations: dict[int, _Running] = {}
        self._identities: tuple[Identity, ...] | None = None
        self._by_device: dict[int, int | None] = {}
        self._try_at = 0.0
        self._said: set[str] = set()

    def start_afresh(self) -> None:
        """In a forked child: no thread is here, and the driver's handles are the parent's."""
        self._start_empty()

    def stop(self) -> None:
        """Let the sampler's thread end, and the driver be closed by it."""
        self._sampler.stop()
        self._start_empty()

    def on_start(self, operation: Operation) -> None:
        """Begin to watch the GPU that the operation uses."""
        asked = operation.gpu
        if asked is None or not operation.recording or not self._allowed():
            return
        used = framework()
        index = self._index(asked, used)
        running = _Running(used, None if used is None else used.clock())
        if index is not None:
            operation.set_attribute(semconv.GPU_INDEX, index)
            running.began = self._sampler.begin(index)
        self._operations[id(operation)] = running
        if len(self._operations) > _MOST_RUNNING:  # some were never left
            lost = self._operations.pop(next(iter(self._operations)))
            if lost.began is not None:
                self._sampler.end(lost.began)

    def on_end(self, operation: Operation, error: BaseException | None) -> None:  # noqa: ARG002 - as of every hook
        """Say what it used."""
        running = self._operations.pop(id(operation), None) if operation.gpu is not None else None
        if running is None:
            return
        try:
            if running.framework is not None:
                took = running.framework.seconds(running.clock)
                if took is not None:
                    operation.set_attribute(semconv.GPU_TIME, took)
                operation.set_attribute(semconv.GPU_MEMORY_PEAK, running.framework.peak(running.framework.device()))
        finally:
            if running.began is not None:
                joules = self._sampler.end(running.began)
                if joules is not None:
                    operation.set_attribute(semconv.GPU_ENERGY, joules)
                    operation.set_attribute(semconv.GPU_ENERGY_SHARED, running.began.shared)

    def _index(self, asked: int | Literal["current"], used: Framework | None) -> int | None:
        """The GPU's index as NVML counts; None where it is not known, or not yet."""
        if self._identities is None:
            self._sampler.wake()
            return None if asked == "current" else asked
        gpus = {identity.index for identity in self._identities}
        if asked != "current":
            if asked in gpus:
                return asked
            self._say(f"gpu={asked}: this process reads GPUs {', '.join(map(str, sorted(gpus))) or 'none'}")
            return None
        if used is None:
            if len(gpus) == 1:
                return gpus.pop()
            self._say(
                f"gpu=True: this process sees {len(gpus)} GPUs, and neither PyTorch nor CuPy says which it uses: write "
                "gpu= and its number, as nvidia-smi counts"
            )
            return None
        device = used.device()
        if device not in self._by_device:
            uuid = used.uuid(device)
            known = [one.index for one in self._identities if one.uuid == uuid]
            visible = [one.index for one in self._identities]
            self._by_device[device] = known[0] if known else visible[device] if device < len(visible) else None
        return self._by_device[device]

    def _say(self, line: str) -> None:
        if line not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(line)
            _logger.warning("%s (said once)", line)

    # -- in the sampler's thread

    def _open(self, driver: Driver) -> bool:
        if driver.is_open:
            return True
        if time.monotonic() < self._try_at:
            return False
        try:
            driver.open()
        except NoDriverError:  # the reporter says it
            self._try_at = time.monotonic() + _TRY_AGAIN_S
            return False
        known = tuple(device.identity for device in driver.devices)
        # Where only instances are visible, those say which GPU it is
        self._identities = tuple(one for one in known if one.parent is None) or known
        return True

    def _sample(self, driver: Driver, index: int) -> Sample | None:
        found = next((device for device in driver.devices if device.identity.index == index), None)
        try:
            read = None if found is None else found.energy()
        except NoDriverError as error:
            driver.abandon(error)
            return None
        return None if read is None else Sample(time.monotonic(), *read)
