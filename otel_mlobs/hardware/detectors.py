"""Who sends, as the machine says it: host, operating system, process, container, Kubernetes; for the resource."""

from __future__ import annotations

import logging
import os
import re
import threading
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
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,}.*")
"""OpenTelemetry's detector takes the 3 of ``session-3.scope``, where a person is logged in, for one."""
_PATIENCE_S = 1.0
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DOWNWARD: Mapping[str, tuple[str, ...]] = {
    "k8s.pod.name": ("K8S_POD_NAME", "POD_NAME"),
    "k8s.pod.uid": ("K8S_POD_UID", "POD_UID"),
    "k8s.namespace.name": ("K8S_NAMESPACE_NAME", "POD_NAMESPACE"),
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.container.name": ("K8S_CONTAINER_NAME",),
}
"""Variables that manifests fill from the downward API."""


def detected(
    environ: Mapping[str, str] | None = None, namespace: Path = _NAMESPACE, patience: float = _PATIENCE_S
) -> dict[str, Any]:
    """Attributes of the resource, as far as they were found within ``patience`` seconds.

    A detector that fails or takes longer is left out and said in the log.
    """
    answers: dict[str, Mapping[str, Any]] = {}
    worker = threading.Thread(target=_ask, args=(answers,), name="otel-mlobs-detectors", daemon=True)
    worker.start()
    worker.join(patience)
    found: dict[str, Any] = {}
    for answer in [*answers.values()]:
        found.update(answer)
    if worker.is_alive():
        missing = [name for name in _DETECTORS if name not in answers]
        _logger.warning("no answer from the resource detectors %s in %g s: left out", ", ".join(missing), patience)
    found.update(kubernetes(os.environ if environ is None else environ, namespace))
    for key in _SECRETIVE:
        found.pop(key, None)
    if not _CONTAINER_ID.fullmatch(str(found.get("container.id", ""))):
        found.pop("container.id", None)
    return found


def _ask(answers: dict[str, Mapping[str, Any]]) -> None:
    for name in _DETECTORS:
        answer: dict[str, Any] = {}
        for point in entry_points(group="opentelemetry_resource_detector", name=name):
            try:
                detector: Any = point.load()()
                answer.update(detector.detect().attributes)
            except Exception as error:  # noqa: BLE001 - what the machine does not tell is no reason to send nothing
                _logger.info("the resource detector %r failed: %r", name, error)
        answers[name] = answer


def kubernetes(environ: Mapping[str, str], namespace: Path) -> dict[str, str]:
    """What a pod knows of itself: from the downward API's variables, else its host name and its service account."""
    if "KUBERNETES_SERVICE_HOST" not in environ:
        return {}
    found = {
        key: value for key, names in _DOWNWARD.items() if (value := next(filter(None, map(environ.get, names)), None))
    }
    hostname = environ.get("HOSTNAME")
    if hostname and hostname != found.get("k8s.node.name"):  # with the node's network a pod has the node's host name
        found.setdefault("k8s.pod.name", hostname)
    if text(namespace):
        found.setdefault("k8s.namespace.name", text(namespace))
    return found
