"""What is known of a GPU: who it is, and what one reading of it found. No driver in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

State = Literal["ok", "degraded", "failed"]
STATES: tuple[State, ...] = ("ok", "degraded", "failed")

HARDWARE_XIDS = frozenset((48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 121, 123, 136, 140, 143))
"""XIDs that say that the device itself is not well, after NVIDIA's catalogue; the others are mostly applications'."""


@dataclass(frozen=True)
class Identity:
    """Who a GPU or a MIG instance is.

    Args:
        uuid: as the driver names it, ``GPU-…`` or ``MIG-…``.
        index: of the GPU, as NVML counts: by PCI bus.
        model: the product's name.
        driver: the driver's version.
        bus: the PCI bus id, in capitals as NVML writes it.
        parent: of a MIG instance the UUID of its GPU.
        instance: of a MIG instance its GPU instance id.
        profile: of a MIG instance its profile, as ``1g.10gb``.
    """

    uuid: str
    index: int
    model: str
    driver: str
    bus: str = ""
    parent: str | None = None
    instance: int | None = None
    profile: str | None = None

    @property
    def name(self) -> str:
        """The index, of a MIG instance followed by the instance's id."""
        return str(self.index) if self.instance is None else f"{self.index}:{self.instance}"


@dataclass(frozen=True)
class Reading:
    """What one reading of a device found.

    ``values`` are in base units (ratios from 0 to 1, bytes, joules, watts, hertz, degrees Celsius), under the names of
    :mod:`otel_mlobs.hardware.readers`; what could not be read is not among them.
    """

    identity: Identity
    state: State
    taken: float
    """When, by ``time.monotonic()``."""
    values: Mapping[str, float] = field(default_factory=dict)
