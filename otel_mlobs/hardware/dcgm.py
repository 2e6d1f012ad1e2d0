"""The same readings under the names, units and labels of NVIDIA's DCGM exporter, for dashboards that ask for those.

All are gauges, also the energy: over OTLP a counter would be renamed to end in ``_total``. The SDK writes names in
small letters; a view of our own meter provider gives them their capitals back.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from otel_mlobs import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_mlobs.hardware.devices import Identity, Reading

    Labels = Mapping[str, str]


class _Source(NamedTuple):
    reading: str
    per_unit: float
    """How many of our base units one of DCGM's is."""
    description: str


_MIB = 2.0**20
SOURCES: Mapping[str, _Source] = {
    "DCGM_FI_DEV_SM_CLOCK": _Source("clock.sm", 1e6, "SM clock frequency (in MHz)."),
    "DCGM_FI_DEV_MEM_CLOCK": _Source("clock.memory", 1e6, "Memory clock frequency (in MHz)."),
    "DCGM_FI_DEV_GPU_TEMP": _Source("temperature.gpu", 1, "GPU temperature (in C)."),
    "DCGM_FI_DEV_MEMORY_TEMP": _Source("temperature.memory", 1, "Memory temperature (in C)."),
    "DCGM_FI_DEV_POWER_USAGE": _Source("power", 1, "Power draw (in W)."),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _Source("energy", 1e-3, "Total energy consumption since boot (in mJ)."),
    "DCGM_FI_DEV_GPU_UTIL": _Source("utilization.general", 0.01, "GPU utilization (in %)."),
    "DCGM_FI_DEV_MEM_COPY_UTIL": _Source("utilization.copy", 0.01, "Memory utilization (in %)."),
    "DCGM_FI_DEV_ENC_UTIL": _Source("utilization.encoder", 0.01, "Encoder utilization (in %)."),
    "DCGM_FI_DEV_DEC_UTIL": _Source("utilization.decoder", 0.01, "Decoder utilization (in %)."),
    "DCGM_FI_DEV_FB_USED": _Source("memory.used", _MIB, "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_FB_FREE": _Source("memory.free", _MIB, "Framebuffer memory free (in MiB)."),
    "DCGM_FI_DEV_XID_ERRORS": _Source("xid.last", 1, "Value of the last XID error encountered."),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": _Source(
        "remapped.correctable", 1, "Remapped rows for correctable errors."
    ),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": _Source(
        "remapped.uncorrectable", 1, "Remapped rows for uncorrectable errors."
    ),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": _Source("remapped.failure", 1, "Whether remapping of rows has failed."),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": _Source("activity.graphics", 1, "Ratio of time the graphics engine is active."),
    "DCGM_FI_PROF_SM_ACTIVE": _Source("activity.sm", 1, "Ratio of cycles an SM has at least 1 warp assigned."),
    "DCGM_FI_PROF_SM_OCCUPANCY": _Source("activity.occupancy", 1, "Ratio of number of warps resident on an SM."),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": _Source(
        "activity.tensor", 1, "Ratio of cycles the tensor (HMMA) pipe is active."
    ),
    "DCGM_FI_PROF_DRAM_ACTIVE": _Source(
        "activity.dram", 1, "Ratio of cycles the device memory interface is active sending or receiving data."
    ),
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": _Source("activity.fp64", 1, "Ratio of cycles the fp64 pipes are active."),
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": _Source("activity.fp32", 1, "Ratio of cycles the fp32 pipes are active."),
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": _Source("activity.fp16", 1, "Ratio of cycles the fp16 pipes are active."),
    "DCGM_FI_PROF_PCIE_TX_BYTES": _Source("rate.pcie.transmit", 1, "Bytes a second sent over PCIe."),
    "DCGM_FI_PROF_PCIE_RX_BYTES": _Source("rate.pcie.receive", 1, "Bytes a second received over PCIe."),
}
"""By DCGM's name what it is here."""

METRICS = tuple(semconv.Metric(name, "gauge", "", source.description, ()) for name, source in SOURCES.items())


class Labelled:
    """Label sets as the DCGM exporter gives them, made once for each device."""

    def __init__(self) -> None:
        self._made: dict[str, Labels] = {}
        self._host = socket.gethostname()

    def points(self, metric: semconv.Metric, reading: Reading) -> Iterator[tuple[float, Labels]]:
        """The point of ``metric`` in ``reading``; none for what was not read."""
        source = SOURCES[metric.name]
        value = reading.values.get(source.reading)
        if value is not None:
            identity = reading.identity
            labels = self._made.get(identity.uuid)
            if labels is None:
                labels = self._made[identity.uuid] = _labels(identity, self._host)
            yield value / source.per_unit, labels


def _labels(identity: Identity, host: str) -> Labels:
    labels = {
        "gpu": str(identity.index),
        "UUID": identity.parent or identity.uuid,
        "pci_bus_id": identity.bus,
        "device": f"nvidia{identity.index}",
        "modelName": identity.model,
        "Hostname": host,
    }
    if identity.instance is not None:
        labels["GPU_I_ID"] = str(identity.instance)
        labels["GPU_I_PROFILE"] = identity.profile or ""
    return labels
