"""A real OpenTelemetry Collector on free ports, with a folder of its own that outlives its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .backends import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .backends import Process

MERGE = "confmap.enableMergeAppendOption"
"""The feature gate with which a part's lists of extensions, receivers and exporters do not replace those before it."""


class Collector:
    """A running Collector; a configuration needs no more than its components and pipelines.

    Each part of ``configuration`` is a YAML text or a dictionary, merged over those before it. Ours comes last: the
    ports of the receiver `otlp`, the health check, and the folder of the extension `file_storage`, for configurations
    that name it in `service.extensions`. Texts may read ``env`` as ``${env:NAME}``.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        start: Callable[..., Process],
        *configuration: str | Mapping[str, Any],
        env: Mapping[str, str] | None = None,
    ) -> None:
        http, grpc, self._health = free_ports(3)
        self.http = f"http://127.0.0.1:{http}"
        self.grpc = f"http://127.0.0.1:{grpc}"
        self.storage = folder / "storage"
        self.storage.mkdir()
        ours = {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "http": {"endpoint": f"127.0.0.1:{http}"},
                        "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
                    }
                }
            },
            "extensions": {
                "health_check": {"endpoint": f"127.0.0.1:{self._health}"},
                "file_storage": {"directory": str(self.storage)},
            },
            "service": {"extensions": ["health_check"], "telemetry": {"metrics": {"level": "none"}}},
        }
        self._command: list[str | Path] = [program, f"--feature-gates={MERGE}"]
        for number, part in enumerate((*configuration, ours)):
            path = folder / f"{number}.yaml"
            path.write_text(part if isinstance(part, str) else json.dumps(part))  # JSON is YAML
            self._command.append(f"--config={path}")
        self._start = start
        self._folder = folder
        self._env = env or {}
        self.run()

    def run(self) -> None:
        """Start it, also after its end: on the same ports, with what its folder holds."""
        self.process = self._start("collector", self._command, cwd=self._folder, env=self._env)
        self.process.wait_for(f"http://127.0.0.1:{self._health}/")

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit status: it passes on what it holds."""
        return self.process.stop()

    def kill(self) -> None:
        """End it in the midst of what it does (SIGKILL)."""
        self.process.kill()
