"""The driver, through NVML: which devices there are, and one reading of each, whatever goes wrong.

One thread at a time uses a :class:`Driver`, except that a device whose call hangs may be left to the thread that waits.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from otel_mlobs.hardware import readers, visible
from otel_mlobs.hardware.devices import HARDWARE_XIDS, Identity, Reading
from otel_mlobs.hardware.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_mlobs.hardware.devices import State

_logger = logging.getLogger("otel_mlobs")

_XIDS_AT_ONCE = 64
_MOST_GPUS = 1024
_LARGEST = 2.0**63
"""No reading reaches it: NVML's "not available" is 2^64 - 1, and OTLP has no such integers."""
_MOST_MIGS = 16


class NoDriverError(RuntimeError):
    """The driver cannot be used now; the message says what to do about it."""

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended
        """Whether somebody has ended the library's use in this process, ours with it."""


class Device:
    """One GPU or MIG instance, and what it is asked for: what it does not support is not asked again."""

    def __init__(
        self, nvml: Any, handle: Any, identity: Identity, parent: Any, trouble: Trouble, *, gpm: bool = True
    ) -> None:
        self.identity = identity
        self.busy = False
        """Whether a thread is within a call on it."""
        self.last_xid = 0
        self.xids = 0
        self._nvml = nvml
        self._handle = handle
        self._trouble = trouble
        self._lost = False
        self._wants_gpm = gpm
        self._probe(handle if parent is None else parent)

    def _probe(self, gpu: Any) -> None:
        """Begin to ask for everything; ``gpu`` is the handle of the GPU, also where a MIG instance of it is meant."""
        whole = self.identity.parent is None
        self._readers = dict(readers.OF_GPU if whole else readers.OF_MIG)
        self._gpm = self._make_gpm(gpu)
        if whole and self._gpm is None:
            self._readers.update(readers.WITHOUT_GPM)

    def _find_again(self) -> None:
        """Take new handles of a device that was lost: what belonged to the old ones is gone with them."""
        nvml, parent = self._nvml, self.identity.parent
        self._handle = nvml.nvmlDeviceGetHandleByUUID(self.identity.uuid)
        self._probe(self._handle if parent is None else nvml.nvmlDeviceGetHandleByUUID(parent))

    def _make_gpm(self, gpu: Any) -> readers.Gpm | None:
        try:
            if self._wants_gpm and readers.Gpm.supported(self._nvml, gpu):
                return readers.Gpm(self._nvml, gpu, self.identity.instance)
        except self._nvml.NVMLError:
            pass
        return None

    def read(self) -> Reading:
        """All that can be read now.

        Raises:
            NoDriverError: the driver is not there any more.
        """
        taken = time.monotonic()
        values: dict[str, float] = {}
        try:
            if self._lost:
                self._find_again()
            for name, reader in [*self._readers.items()]:
                self._ask(name, values, reader)
            if self._gpm is not None:
                self._ask("GPM", values, lambda nvml, _: {} if self._gpm is None else self._gpm.read(nvml))
        except _LostError as lost:
            self._lose(lost)
            return Reading(self.identity, "failed", taken, self._xid_values({}))
        except self._nvml.NVMLError as error:  # of a device that was lost, by its handle
            _raise_if_gone(self._nvml, error)
            self._lose(error)
            return Reading(self.identity, "failed", taken, self._xid_values({}))
        if self._lost:
            self._lost = False
            self.last_xid = 0
            self._trouble.end((self.identity.uuid, "lost"), "GPU %s answers again", self.identity.name)
        return Reading(self.identity, self._state(values), taken, self._xid_values(values))

    def energy(self) -> tuple[float, float] | None:
        """The energy counter in joules, and the power in watts; None where the device has none or does not answer.

        Raises:
            NoDriverError: the driver is not there any more.
        """
        nvml = self._nvml
        try:
            joules = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1000
            return joules, nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        except nvml.NVMLError as error:
            _raise_if_gone(nvml, error)
            if _is_lost(nvml, error):  # it has a new handle when it comes back
                self._handle = _optional(nvml, nvml.nvmlDeviceGetHandleByUUID, self.identity.uuid) or self._handle
            return None

    def _ask(self, name: str, values: dict[str, float], reader: readers.Reader) -> None:
        nvml, who = self._nvml, self.identity
        try:
            values.update(reader(nvml, self._handle))
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_InvalidArgument):
            self._forget(name)  # of another argument there is none
        except nvml.NVMLError_NoPermission:
            self._trouble.say(
                ("permission", name),
                "GPU readings: this user may not read %s; run with the rights to, or do without it",
                name,
                who=who.uuid,
            )
        except nvml.NVMLError as error:
            _raise_if_gone(nvml, error)
            if _is_lost(nvml, error):
                raise _LostError(str(error)) from error
            self._trouble.say((who.uuid, name), "GPU %s: the driver cannot say %s now: %s", who.name, name, error)
        except Exception as error:  # noqa: BLE001 - a driver of another time may answer what nobody expects
            self._forget(name)
            self._trouble.say(
                (who.uuid, name), "GPU %s: what the driver says of %s is not understood: %r", who.name, name, error
            )
        else:
            if self._trouble.lasting:
                self._trouble.end(("permission", name), "GPU readings: this user may read %s now", name, who=who.uuid)
                self._trouble.end((who.uuid, name), "GPU %s: the driver says %s again", who.name, name)

    def _forget(self, name: str) -> None:
        self._readers.pop(name, None)
        if name == "GPM":
            self._gpm = None

    def _lose(self, error: object) -> None:
        self._lost = True
        self._trouble.say(
            (self.identity.uuid, "lost"),
            "GPU %s (%s) has been lost: %s. Look for XID in dmesg; it may need a reset or a reboot. The others are "
            "still read",
            self.identity.name,
            self.identity.uuid,
            error,
        )

    def _xid_values(self, values: dict[str, float]) -> dict[str, float]:
        if self.identity.parent is None:
            values["xids"], values["xid.last"] = self.xids, self.last_xid
        return {key: value for key, value in values.items() if math.isfinite(value) and abs(value) < _LARGEST}

    def _state(self, values: dict[str, float]) -> State:
        if self.last_xid == 79:
            return "failed"
        bad = ("volatile.ecc_uncorrected", "retired.pending", "remapped.pending", "remapped.failure")
        if self.last_xid in HARDWARE_XIDS or any(values.get(key) for key in bad):
            return "degraded"
        return "ok"

    def close(self) -> None:
        """Give back what the driver keeps for it."""
        if self._gpm is not None:
            try:
                self._gpm.close(self._nvml)
            except self._nvml.NVMLError:
                pass


class _LostError(Exception):
    """A device does not answer any more."""


def _raise_if_gone(nvml: Any, error: Any) -> None:
    if getattr(error, "value", None) in (
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    ):
        raise NoDriverError(_gone(nvml, error), ended=error.value == nvml.NVML_ERROR_UNINITIALIZED) from error


def _is_lost(nvml: Any, error: Any) -> bool:
    return error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)


def _gone(nvml: Any, error: Any) -> str:
    known = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not here: there is no NVIDIA driver, or the container "
        "was started without it (docker run --gpus all)",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded (nvidia-smi says more)",
        nvml.NVML_ERROR_UNINITIALIZED: "the NVIDIA driver was unloaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated under its library: restart the process "
        "or the container once the new one is loaded",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver: see the rights of /dev/nvidia*",
    }
    return known.get(error.value, f"the NVIDIA driver does not answer: {error}")


class Driver:
    """The driver, once it was opened.

    Args:
        only_visible: whether ``CUDA_VISIBLE_DEVICES`` says which devices are read.
        reports: whether it says in the log what is wrong, and listens to XIDs.
    """

    def __init__(self, *, only_visible: bool = True, reports: bool = True) -> None:
        self._only_visible = only_visible
        self._reports = reports
        self._nvml: Any = None
        self._events: Any = None
        self._counted: list[tuple[str, ...]] = []
        self._xids: dict[str, tuple[int, int]] = {}
        self.trouble = Trouble(silent=not reports)
        self.devices: tuple[Device, ...] = ()
        self.broken: tuple[Identity, ...] = ()
        """GPUs of which no more is known than their number."""

    @property
    def is_open(self) -> bool:
        """Whether there are devices to be read."""
        return self._nvml is not None

    def open(self) -> None:
        """Begin to use the driver and find its devices; where it is open already, nothing happens.

        Raises:
            NoDriverError: it cannot be used.
        """
        if self._nvml is not None:
            return
        import pynvml as nvml

        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise NoDriverError(_gone(nvml, error)) from error
        try:
            self.devices = self._found(nvml)
            self._counted = self._names(nvml)
            self._nvml = nvml
            if self._reports:
                self._listen(nvml)
        except BaseException as error:
            self._nvml = None
            _quietly(nvml, nvml.nvmlShutdown)
            if isinstance(error, nvml.NVMLError):
                raise NoDriverError(_gone(nvml, error)) from error
            raise

    def _found(self, nvml: Any) -> tuple[Device, ...]:
        driver = _optional(nvml, nvml.nvmlSystemGetDriverVersion) or ""
        known: list[tuple[Any, Identity, Any]] = []
        for index in range(min(nvml.nvmlDeviceGetCount(), _MOST_GPUS)):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                gpu = Identity(
                    uuid=nvml.nvmlDeviceGetUUID(handle),
                    index=index,
                    model=nvml.nvmlDeviceGetName(handle),
                    driver=driver,
                    bus=getattr(_optional(nvml, nvml.nvmlDeviceGetPciInfo, handle), "busId", ""),
                )
            except (nvml.NVMLError, UnicodeDecodeError) as error:
                _raise_if_gone(nvml, error)
                self.trouble.say(("index", index), "GPU %s cannot be read: %s. The others are", index, error)
                known.append((None, Identity("", index, "", driver), None))  # it has its place in the count
                continue
            self.trouble.end(("index", index), "GPU %s can be read", index)
            known.append((handle, gpu, None))
            known.extend((each, mig, handle) for each, mig in _migs(nvml, handle, gpu))
        self.broken = tuple(identity for handle, identity, _ in known if handle is None)
        entries = visible.asked() if self._only_visible else None
        positions = visible.chosen(entries, [identity.uuid for _, identity, _ in known])
        if entries is not None and not positions:
            self.trouble.say("visible", "CUDA_VISIBLE_DEVICES=%s names no GPU: none is read", ",".join(entries))
        picked = [known[position] for position in positions if known[position][0] is not None]
        if entries is not None:  # who may use a GPU may use its instances
            chosen = {identity.uuid for _, identity, _ in picked}
            picked += [each for each in known if each[1].parent in chosen and each[1].uuid not in chosen]
        devices = tuple(
            Device(nvml, handle, identity, gpu, self.trouble, gpm=self._reports) for handle, identity, gpu in picked
        )
        for device in devices:
            device.xids, device.last_xid = self._xids.get(device.identity.uuid, (0, 0))
        return devices

    def _listen(self, nvml: Any) -> None:
        """Ask to be told of XIDs."""
        self._events = None
        gpus = [device for device in self.devices if device.identity.parent is None]
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return
        heard = False
        for device in gpus:
            try:
                nvml.nvmlDeviceRegisterEvents(device._handle, nvml.nvmlEventTypeXidCriticalError, events)
                heard = True
            except nvml.NVMLError:  # not on every system
                continue
        if heard:
            self._events = events
        else:
            _quietly(nvml, nvml.nvmlEventSetFree, events)

    def hear(self) -> None:
        """Take note of the XIDs that came since the last time."""
        nvml = self._nvml
        if self._events is None or nvml is None:
            return
        for _ in range(_XIDS_AT_ONCE):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # of a time-out: there are no more
                return
            self._note(nvml, event)

    def _note(self, nvml: Any, event: Any) -> None:
        uuid = _optional(nvml, nvml.nvmlDeviceGetUUID, event.device)
        device = next((one for one in self.devices if one.identity.uuid == uuid), None)
        if device is None:
            return
        device.xids += 1
        number = int(event.eventData)
        if not (device.last_xid in HARDWARE_XIDS and number not in HARDWARE_XIDS):
            device.last_xid = number
        _logger.warning(
            "GPU %s (%s): XID %s; see https://docs.nvidia.com/deploy/xid-errors", device.identity.name, uuid, number
        )

    def changed(self) -> bool:
        """Whether there are other devices than when it was opened: MIG instances come and go.

        One that does not answer now has not gone.

        Raises:
            NoDriverError: the driver is not there any more.
        """
        nvml = self._nvml
        if nvml is None:
            return False
        try:
            names = self._names(nvml)
        except nvml.NVMLError as error:
            _raise_if_gone(nvml, error)
            return False
        pairs = zip(names, self._counted, strict=False)
        return len(names) != len(self._counted) or any(now and now != before for now, before in pairs)

    def _names(self, nvml: Any) -> list[tuple[str, ...]]:
        """The UUIDs of each GPU and its instances; none where it does not answer."""
        names: list[tuple[str, ...]] = []
        for index in range(min(nvml.nvmlDeviceGetCount(), _MOST_GPUS)):
            handle = _optional(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
            own = None if handle is None else _optional(nvml, nvml.nvmlDeviceGetUUID, handle)
            if own is None:
                names.append(())
                continue
            migs = (_optional(nvml, nvml.nvmlDeviceGetUUID, each) or "" for each in _mig_handles(nvml, handle))
            names.append((own, *migs))
        return names

    def abandon(self, error: NoDriverError) -> None:
        """Forget everything after ``error``, and give back what is still ours.

        The library counts who uses it in this process: ending once more than was begun would end another's use.
        """
        if error.ended:
            self._nvml = self._events = None
            self._forget_devices()
        else:
            self.close()
        self._xids = {uuid: (count, 0) for uuid, (count, _) in self._xids.items()}

    def _forget_devices(self) -> tuple[Device, ...]:
        devices, self.devices = self.devices, ()
        self._xids |= {device.identity.uuid: (device.xids, device.last_xid) for device in devices}
        return devices

    def close(self) -> None:
        """Give everything back; another :meth:`open` begins anew."""
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        events, self._events = self._events, None
        devices = self._forget_devices()
        if any(device.busy for device in devices):  # a call hangs: what it uses is not taken from under it
            return
        for device in devices:
            device.close()
        if events is not None:
            _quietly(nvml, nvml.nvmlEventSetFree, events)
        _quietly(nvml, nvml.nvmlShutdown)


def _mig_handles(nvml: Any, handle: Any) -> list[Any]:
    """The MIG instances of a GPU; none where it is not divided."""
    if (_optional(nvml, nvml.nvmlDeviceGetMigMode, handle) or [0])[0] != 1:
        return []
    most = min(_optional(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0, _MOST_MIGS)
    found = [_optional(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, at) for at in range(most)]
    return [each for each in found if each is not None]


def _migs(nvml: Any, handle: Any, gpu: Identity) -> list[tuple[Any, Identity]]:
    found = []
    for each in _mig_handles(nvml, handle):
        try:
            name = nvml.nvmlDeviceGetName(each)
            mig = Identity(
                uuid=nvml.nvmlDeviceGetUUID(each),
                index=gpu.index,
                model=gpu.model,
                driver=gpu.driver,
                bus=gpu.bus,
                parent=gpu.uuid,
                instance=nvml.nvmlDeviceGetGpuInstanceId(each),
                profile=name.rpartition("MIG ")[2] if "MIG " in name else None,
            )
        except (nvml.NVMLError, UnicodeDecodeError):
            continue
        found.append((each, mig))
    return found


def _optional(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of ``call``, None where there is none, or none that can be read."""
    try:
        return call(*arguments)
    except (nvml.NVMLError, UnicodeDecodeError):
        return None


def _quietly(nvml: Any, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except nvml.NVMLError:
        pass


def read_once(driver: Driver, *, settle: float = 0.0) -> Sequence[Reading]:
    """A reading of every device, for a person who waits for it; with ``settle`` seconds twice, so that GPM has two.

    Raises:
        NoDriverError: the driver cannot be used.
    """
    driver.open()
    found = [device.read() for device in driver.devices]
    if settle > 0 and found:
        time.sleep(settle)
        driver.hear()
        found = [device.read() for device in driver.devices]
    return [*found, *(Reading(identity, "failed", time.monotonic()) for identity in driver.broken)]
