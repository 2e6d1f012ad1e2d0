"""Which GPUs this process may use, by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def asked(environ: Mapping[str, str] | None = None) -> tuple[str, ...] | None:
    """The entries of ``CUDA_VISIBLE_DEVICES``, None where it is not set: all devices."""
    value = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    return None if value is None else tuple(entry.strip() for entry in value.split(","))


def chosen(entries: Sequence[str] | None, uuids: Sequence[str]) -> tuple[int, ...]:
    """Positions in ``uuids`` (of GPUs and MIG instances, ``""`` where one has no name) that are visible, in order.

    As CUDA reads them: indexes count the GPUs, a UUID may be shortened as long as it says which, and the first entry
    that names no device, as ``-1`` or an empty one, ends the list. Indexes are NVML's, by PCI bus; CUDA counts so with
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, and where all GPUs are of one model.
    """
    gpus = [position for position, uuid in enumerate(uuids) if not uuid.startswith("MIG-")]
    if entries is None:
        return tuple(range(len(uuids)))
    found: list[int] = []
    for entry in entries:
        if entry.isascii() and entry.isdigit() and len(entry) < 10:
            number = int(entry)
            which = [gpus[number]] if number < len(gpus) else []
        elif entry.startswith(("GPU-", "MIG-")):
            which = [position for position, uuid in enumerate(uuids) if uuid.startswith(entry)]
        else:
            which = []
        if len(which) != 1 or which[0] in found:
            break
        found += which
    return tuple(found)
