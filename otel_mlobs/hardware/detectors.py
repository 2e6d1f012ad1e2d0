"""Who sends, as the machine says it: host, operating system, process, container, Kubernetes; for the resource."""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_mlobs.hardware.cgroup import text

if TYPE_CHECKING:
    from collections.abc import Mapping

_logger = logging.getLogger("otel_mlobs")

_DETECTORS = ("host", "os", "process", "containerid")
"""OpenTelemetry's own, by the names of their entry points."""
_SECRETIVE = ("process.command", "process.command_args", "process.command_line")
"""What command lines hold is nobody's business: passwords, for one."""
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DOWNWARD: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("K8S_POD_NAME", "POD_NAME"),
    "k8s.pod.uid": ("K8S_POD_UID", "POD_UID"),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.container.name": ("K8S_CONTAINER_NAME",),
}
"""Variables that manifests fill from the downward API."""


def detected(environ: Mapping[str, str] | None = None, namespace: Path = _NAMESPACE) -> dict[str, Any]:
    """Attributes of the resource; a detector that fails is left out and said in the log."""
    found: dict[str, Any] = {}
    for name in _DETECTORS:
        for point in entry_points(group="opentelemetry_resource_detector", name=name):
            try:
                detector: Any = point.load()()
                found.update(detector.detect().attributes)
            except Exception as error:  # noqa: BLE001 - what the machine does not tell is no reason to send nothing
                _logger.info("the resource detector %r failed: %r", name, error)
    found.update(kubernetes(os.environ if environ is None else environ, namespace))
    for key in _SECRETIVE:
        found.pop(key, None)
    return found


def kubernetes(environ: Mapping[str, str], namespace: Path) -> dict[str, str]:
    """What a pod knows of itself: from the downward API's variables, else its host name and its service account."""
    if "KUBERNETES_SERVICE_HOST" not in environ:
        return {}
    found = {
        key: value for key, names in _DOWNWARD.items() if (value := next(filter(None, map(environ.get, names)), None))
    }
    if environ.get("HOSTNAME"):
        found.setdefault("k8s.pod.name", environ["HOSTNAME"])
    if text(namespace):
        found.setdefault("k8s.namespace.name", text(namespace))
    return found
