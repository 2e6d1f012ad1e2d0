"""What settings are resolved to: records, checked already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs.settings.checks import hidden, redacted

if TYPE_CHECKING:
    from otel_mlobs.settings.objectives import Objectives

Signal = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")

DEFAULT_TIMEOUT = 10.0


class Headers(Mapping[str, str]):
    """Headers whose values never show in a repr: they hold tokens."""

    def __init__(self, items: Mapping[str, str]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: '***'" for key in self._items) + "}"


@dataclass(frozen=True)
class Pipeline:
    """Where one signal goes, and how. ``url`` is complete; its user information is hidden in the repr.

    ``delta``: sums and histograms start again from zero at every export. ``signed``: with AWS credentials.
    """

    signal: Signal
    exporter: Literal["otlp", "console", "file"]
    url: str = field(default="", repr=False)
    protocol: str = "http/protobuf"
    headers: Headers = field(default_factory=lambda: Headers({}))
    compression: str = "none"
    timeout: float = DEFAULT_TIMEOUT
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    path: str | None = None
    delta: bool = False
    signed: bool = False

    @property
    def shown(self) -> str:
        """The destination as it may be printed."""
        return redacted(self.url) if self.exporter == "otlp" else self.path or self.exporter

    def hide(self, text: str) -> str:
        """``text``, as somebody else says it, without the secrets of URL and headers; at most 200 characters."""
        return hidden(text, self.url, self.headers)[:200]


@dataclass(frozen=True)
class Settings:
    """All that :func:`otel_mlobs.configure` needs to know, resolved and checked."""

    service_name: str | None
    resource: Mapping[str, str]
    backend: str | None
    pipelines: tuple[Pipeline, ...]
    logs: bool
    sampling: Literal["ratio", "tail"]
    sampling_ratio: float | None
    metric_interval: float
    objectives: Objectives
    exception_messages: bool
    gpu: bool
    gpu_names: Literal["otel", "dcgm", "both"]
    gpu_reporter: Literal["elected", "each"]
    host: bool
    disabled: bool
    id_generator: str | None = None
    propagator: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def latency_objective(self) -> float:
        """Seconds; of operations whose model or view has no objective of its own."""
        return self.objectives.default.latency

    @property
    def feature_age_objective(self) -> float | None:
        """Seconds; of views that have no objective of their own."""
        return self.objectives.default.freshness

    def pipeline(self, signal: Signal) -> Pipeline | None:
        """The pipeline of ``signal``, or None where it goes nowhere."""
        return next((pipeline for pipeline in self.pipelines if pipeline.signal == signal), None)
