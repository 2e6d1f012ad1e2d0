"""Datadog's test agent on free ports, and what it says has arrived."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from .backends import PATIENCE, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from .backends import Process


class DatadogAgent:
    """A running test agent, whose session began when it was made.

    It answers in protobuf's JSON: 64-bit integers are text, and ids are in base64, which are hexadecimal here.
    """

    def __init__(self, program: Path, folder: Path, start: Callable[..., Process]) -> None:
        port, http, grpc = free_ports(3)
        self.http = f"http://127.0.0.1:{http}"
        command = [program, "--port", str(port), "--otlp-http-port", str(http), "--otlp-grpc-port", str(grpc)]
        self.process = start("datadog-agent", command, cwd=folder, env={})
        self.process.wait_for(f"http://127.0.0.1:{port}/info")
        self._get("start")

    def _get(self, what: str) -> bytes:
        with urlopen(f"{self.http}/test/session/{what}", timeout=PATIENCE) as answer:
            content: bytes = answer.read()
        return content

    def _ask(self, signal: str, one: str, many: str) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """What has arrived of ``signal``, each with its resource's attributes."""
        for request in json.loads(self._get(signal)):
            for group in request[f"resource_{one}"]:
                resource = attributes_of(group["resource"])
                for scope in group[f"scope_{one}"]:
                    for found in scope[many]:
                        yield resource, found

    def spans(self) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Every span with its resource."""
        return [(resource, _with_ids(span)) for resource, span in self._ask("traces", "spans", "spans")]

    def records(self) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Every log record with its resource."""
        return [(resource, _with_ids(record)) for resource, record in self._ask("logs", "logs", "log_records")]

    def metrics(self) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        """Every metric of every export with its resource."""
        return list(self._ask("metrics", "metrics", "metrics"))


def attributes_of(holder: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a resource, a span or a point."""
    return {pair["key"]: next(iter(pair["value"].values())) for pair in holder.get("attributes", ())}


def _with_ids(holder: dict[str, Any]) -> dict[str, Any]:
    ids = {name: base64.b64decode(holder.get(name, "")).hex() for name in ("trace_id", "span_id", "parent_span_id")}
    return {**holder, **ids}
