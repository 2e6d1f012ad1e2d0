"""Where a value's numbers lie: reading what lies on a device would wait for it. Standard library only."""

from __future__ import annotations


def on_cpu(value: object) -> bool:
    """Whether ``value`` (array, tensor, frame, or anything without a device) is in the host's memory."""
    device = getattr(value, "device", None)
    if device is None:
        return True
    # torch says type, JAX platform; numpy and TensorFlow ("/…/device:CPU:0") give text.
    kind = str(getattr(device, "platform", None) or getattr(device, "type", None) or device).lower()
    return kind == "cpu" or "device:cpu" in kind
