"""``instrument("nvml")``: GPU readings, as with ``configure(gpu=True)``, and under ``opentelemetry-instrument``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_mlobs.hardware import gpu
from otel_mlobs.telemetry.config import active_settings

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["NvmlInstrumentor", "instrument", "present", "uninstrument"]

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


class NvmlInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """What ``opentelemetry-instrument`` loads: GPU readings where there are signs of a driver.

    ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=otel_mlobs_nvml`` leaves it out.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """The package whose readings these are."""
        return ("nvidia-ml-py >= 12.560.30",)

    def _instrument(self, **_options: Any) -> None:
        if present():
            instrument()

    def _uninstrument(self, **_options: Any) -> None:
        uninstrument()
