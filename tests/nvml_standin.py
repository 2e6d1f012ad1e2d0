"""NVIDIA's driver library for machines without one: ``tests/nvml/nvml.c``, compiled here and scripted by a file.

The real ``pynvml`` loads it by its name, in this process after :func:`load_in_process` or in another that runs with
:func:`env`. What it answers are the keys of a :class:`Driver`, and they may change while it is in use; what a key
means is said at the top of the C file.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

Value = str | int | float

SONAME = "libnvidia-ml.so.1"
_SOURCE = Path(__file__).parent / "nvml" / "nvml.c"
_FLAGS = ("-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{SONAME}", "-pthread")

ALL_LINKS = 0xFFFFFFFF
"""The scope of an NVLink field that is a device's whole."""

_GIB = 2**30
_MIB = 2**20

H100: Mapping[str, Value] = {
    "name": "NVIDIA H100 80GB HBM3",
    "utilization.gpu": 87,
    "utilization.memory": 41,
    "encoder": 0,
    "decoder": 12,
    "memory.total": 81559 * _MIB,
    "memory.reserved": 551 * _MIB,
    "memory.used": 40 * _GIB,
    "memory.free": (81559 - 551) * _MIB - 40 * _GIB,
    "energy": 934_512_345_678,
    "power": 412_350,
    "power.limit": 700_000,
    "temperature": 54,
    "threshold.0": 92,
    "threshold.1": 89,
    "threshold.2": 95,
    "threshold.3": 87,
    "clock.0": 1980,
    "clock.1": 1965,
    "clock.2": 2619,
    "clock.3": 1545,
    "throttle": 0,
    "pstate": 0,
    "pcie.tx": 51_200,
    "pcie.rx": 204_800,
    "field.82": "u32:61",
    f"field.138.{ALL_LINKS}": 18 * 1_000_000,
    "field.138.0": 1_000_000,
    f"field.139.{ALL_LINKS}": 18 * 1_500_000,
    "field.139.0": 1_500_000,
    "field.197": 7_516_192_768,
    "field.198": 30_064_771_072,
    "ecc.0.0": 3,
    "ecc.0.1": 17,
    "ecc.1.0": 0,
    "ecc.1.1": 1,
    "remapped.correctable": 2,
    "remapped.uncorrectable": 1,
    "remapped.pending": 0,
    "remapped.failure": 0,
    "mig": 0,
    "gpm": 1,
    "gpm.1": 86.5,
    "gpm.2": 81.25,
    "gpm.3": 43.5,
    "gpm.4": 6.75,
    "gpm.5": 62.5,
    "gpm.10": 48.75,
    "gpm.11": 0.5,
    "gpm.12": 9.5,
    "gpm.13": 3.25,
    "gpm.20": 50.5,
    "gpm.21": 200.25,
    "gpm.60": 15_000.5,
    "gpm.61": 12_000.25,
    "xid": "",
}
"""An H100 of a server at work. As they are made it has neither fans of its own nor retired pages."""

T4: Mapping[str, Value] = {
    "name": "Tesla T4",
    "utilization.gpu": 63,
    "utilization.memory": 29,
    "encoder": 4,
    "decoder": 8,
    "memory.total": 15360 * _MIB,
    "memory.reserved": 431 * _MIB,
    "memory.used": 6 * _GIB,
    "memory.free": (15360 - 431) * _MIB - 6 * _GIB,
    "energy": 1_234_567_890,
    "power": 48_210,
    "power.limit": 70_000,
    "temperature": 66,
    "threshold.0": 96,
    "threshold.1": 93,
    "threshold.3": 85,
    "clock.0": 1590,
    "clock.1": 1590,
    "clock.2": 5000,
    "clock.3": 1470,
    "throttle": 0x4,
    "pstate": 0,
    "pcie.tx": 10_240,
    "pcie.rx": 40_960,
    "ecc.0.0": 0,
    "ecc.0.1": 5,
    "ecc.1.0": 0,
    "ecc.1.1": 0,
    "retired.0": 2,
    "retired.1": 1,
    "retired.pending": 0,
    "gpm": 0,
    "xid": "",
}
"""A T4: without GPM, MIG, NVLink, remapped rows and memory temperature."""

H100_MIG: Mapping[str, Value] = {
    **{key: value for key, value in H100.items() if not key.startswith(("utilization", "encoder", "decoder"))},
    "mig": 1,
    "migs": 2,
    "mig0.name": "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    "mig0.instance": 1,
    "mig0.compute": 0,
    "mig0.memory.total": 40_448 * _MIB,
    "mig0.memory.reserved": 0,
    "mig0.memory.used": 10 * _GIB,
    "mig0.memory.free": 40_448 * _MIB - 10 * _GIB,
    "mig0.gpm.1": 71.5,
    "mig0.gpm.2": 66.25,
    "mig0.gpm.5": 33.5,
    "mig0.gpm.10": 27.75,
    "mig1.name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "mig1.instance": 9,
    "mig1.compute": 0,
    "mig1.memory.total": 9_856 * _MIB,
    "mig1.memory.reserved": 0,
    "mig1.memory.used": 3 * _GIB,
    "mig1.memory.free": 9_856 * _MIB - 3 * _GIB,
    "mig1.gpm.1": 12.5,
    "mig1.gpm.2": 11.25,
    "mig1.gpm.5": 0.5,
    "mig1.gpm.10": 4.75,
}
"""An H100 divided in two; of the whole there is no utilization then."""

EVERYTHING: Mapping[str, Value] = {
    **H100,
    "retired.0": 2,
    "retired.1": 1,
    "retired.pending": 0,
    "fans": 2,
    "fan.0": 35,
    "fan.1": 40,
}
"""What no device has together: an answer to every question."""


def uuid(gpu: int, mig: int | None = None) -> str:
    """The UUID that :meth:`Driver.device` gives to a GPU, or to a MIG device of it."""
    if mig is None:
        return f"GPU-{gpu:08x}-3a5c-4f1e-9b7d-0123456789ab"
    return f"MIG-{gpu:08x}-{mig:04x}-5f1e-8b7d-0123456789ab"


class Driver:
    """What the driver says, as keys in a file of ``folder``; every change is written at once, as a whole.

    It begins with no device.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nvml.keys"
        self.log = folder / "nvml.log"
        self._lock = threading.RLock()
        self.keys: dict[str, Value] = {
            "devices": 0,
            "driver": "580.95.05",
            "nvml": "13.580.95.05",
            "cuda": 13000,
        }
        self.write()

    def set(self, keys: Mapping[str, Value] | None = None, /, **more: Value) -> Self:
        """Let ``keys`` be so."""
        with self._lock:
            self.keys |= {**(keys or {}), **more}
            self.write()
        return self

    def remove(self, *keys: str) -> Self:
        """Let ``keys`` not be there: what asks for them is not supported."""
        with self._lock:
            for key in keys:
                del self.keys[key]
            self.write()
        return self

    def device(self, index: int, keys: Mapping[str, Value] | None = None, /, **more: Value) -> Self:
        """Let GPU ``index`` have ``keys``, and be a GPU of its own by UUID, serial, bus and minor number."""
        given = {**(keys or {}), **more}
        own: dict[str, Value] = {
            "uuid": uuid(index),
            "serial": 1_654_922_006_000 + index,
            "bus": f"00000000:{0x18 + index:02X}:00.0",
            "minor": index,
            **{f"mig{mig}.uuid": uuid(index, mig) for mig in range(int(given.get("migs", 0)))},
        }
        before = {key: value for key, value in own.items() if f"{index}.{key}" not in self.keys}
        self.keys["devices"] = max(index + 1, int(self.keys["devices"]))
        return self.set({f"{index}.{key}": value for key, value in {**before, **given}.items()})

    def write(self) -> None:
        """Write the keys as they are, so that no call sees a part of them."""
        with self._lock:
            new = self.path.with_suffix(f".{os.getpid()}")
            new.write_text("".join(f"{key} {value}\n" for key, value in self.keys.items()))
            written = time.time_ns()  # the file system's own clock is too coarse to tell two changes apart
            os.utime(new, ns=(written, written))
            new.replace(self.path)


def calls(log: Path) -> list[tuple[int, str, str]]:
    """Every call that ``log`` names: by which process, of which function, on which device (``-``: on none)."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), function, device) for pid, function, device in (line.split(" ") for line in lines)]


def build() -> Path:
    """The folder of the compiled library; where there is no compiler, the test is skipped."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        reason = "the stand-in for NVML needs Linux and a C compiler (cc)"
        if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"otel-mlobs-nvml-{os.getuid()}-{key}"
    library = folder / SONAME
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        new = folder / f"{os.getpid()}.so"
        done = subprocess.run(["cc", *_FLAGS, "-o", new, _SOURCE], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"the stand-in for NVML does not compile:\n{done.stderr}")
        new.replace(library)
    return folder


def env(driver: Driver) -> dict[str, str]:
    """The environment in which another process gets ``driver`` and notes its calls in ``driver.log``."""
    paths = [str(build()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "LD_LIBRARY_PATH": ":".join(paths),
        "NVML_STANDIN": str(driver.path),
        "NVML_STANDIN_LOG": str(driver.log),
    }


def load_in_process() -> ctypes.CDLL:
    """Load the library, so that ``pynvml`` gets it in this process; outside ``in_process`` there is no driver."""
    library = ctypes.CDLL(str(build() / SONAME), ctypes.RTLD_GLOBAL)
    if ctypes.CDLL(SONAME)._handle != library._handle:
        raise RuntimeError(f"this process has loaded a real {SONAME} before: the stand-in cannot take its place")
    return library


@contextmanager
def in_process(driver: Driver) -> Iterator[Driver]:
    """In this process the driver is ``driver``, and its calls are noted in ``driver.log``; nothing is left open."""
    library = load_in_process()
    library.nvml_standin_file(os.fsencode(driver.path))
    before = os.environ.get("NVML_STANDIN_LOG")
    os.environ["NVML_STANDIN_LOG"] = str(driver.log)
    try:
        yield driver
    finally:
        if before is None:
            del os.environ["NVML_STANDIN_LOG"]
        else:
            os.environ["NVML_STANDIN_LOG"] = before
        library.nvml_standin_file(None)
        while library.nvmlShutdown() == 0:
            pass
