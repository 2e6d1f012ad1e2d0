"""``instrument("nvml")``: GPU readings, as with ``configure(gpu=True)``."""

from __future__ import annotations

from pathlib import Path

from otel_mlobs.hardware import gpu
from otel_mlobs.telemetry.config import active_settings

__all__ = ["instrument", "present", "uninstrument"]

_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "C:/Windows/System32/nvml.dll")


def present() -> bool:
    """Whether there are signs of a driver: ``instrument()``, which takes what there is, asks for nothing in vain."""
    return any(Path(sign).exists() for sign in _SIGNS)


def instrument() -> None:
    """Report GPUs from the next collection on, as :func:`otel_mlobs.configure` was told to."""
    gpu.start(active_settings())


def uninstrument() -> None:
    """Report no more."""
    gpu.stop()
