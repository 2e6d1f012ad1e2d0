"""The resource: who sends. Its ``service.instance.id`` differs in every process, also after a fork."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

_INSTANCE = "service.instance.id"
_PID = "process.pid"
_PARENT_PID = "process.parent_pid"
_NO_PID = -1


class ProcessResource(Resource):
    """A resource whose instance id is the given one in this process and ``<id>/<pid>`` in forked children.

    The SDK's providers merge process-dependent attributes into their resource after a fork, through
    :meth:`Resource.merge`, and would put an id of their own there: Prometheus keeps one series per instance, so
    neither sharing the parent's id nor losing the user's will do.
    """

    def __init__(self, attributes: Mapping[str, object], schema_url: str | None, instance: str, pid: int) -> None:
        super().__init__(attributes, schema_url)  # type: ignore[arg-type]
        self._instance = instance
        self._pid = pid

    def merge(self, other: Resource) -> Resource:
        """Merge ``other`` as the SDK does, but keep the instance id ours."""
        merged = super().merge(other)
        instance = self._instance if os.getpid() == self._pid else f"{self._instance}/{os.getpid()}"
        attributes = {**merged.attributes, _INSTANCE: instance}
        if _PID in attributes:
            attributes[_PID] = os.getpid()
        if _PARENT_PID in attributes:
            attributes[_PARENT_PID] = os.getppid()
        return ProcessResource(attributes, merged.schema_url, self._instance, self._pid)


def make_resource(service_name: str | None, attributes: Mapping[str, Any]) -> ProcessResource:
    """The resource of this process: the settings' attributes over those of the SDK's detectors."""
    given: dict[str, Any] = dict(attributes)
    if service_name is not None:
        given["service.name"] = service_name
    pid = os.getpid()
    if _INSTANCE not in given:
        instance = given[_INSTANCE] = str(uuid.uuid4())
    else:
        instance = given[_INSTANCE]
        if _is_forked_worker():
            given[_INSTANCE], pid = f"{instance}/{pid}", _NO_PID
    detected = Resource.create(given)
    return ProcessResource(detected.attributes or {}, detected.schema_url, instance, pid)


def _is_forked_worker() -> bool:
    """Whether this process is one of several that a server forked before it loaded the application.

    gunicorn without preload, and uWSGI, load it in each worker: all would configure themselves with the same id. Such
    a worker has the command line of its parent. Where /proc is missing, or a worker renames itself, nobody can tell.
    """
    try:
        return Path("/proc/self/cmdline").read_bytes() == Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return False
