"""The recipes of examples/backends, started with their own files as their pages say, on free ports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from .backends import Jaeger, Prometheus, free_ports, get, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .backends import Process

RECIPES = Path(__file__).parents[2] / "examples" / "backends"
PROMETHEUS_FLAGS = (
    "--web.enable-otlp-receiver",
    "--web.enable-remote-write-receiver",
    "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
)


class Server:
    """A program that can be ended and started again, on the same ports and with what its folder holds."""

    process: Process

    def _prepare(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        start: Callable[..., Process],
        ready: str,
        env: Mapping[str, str],
    ) -> None:
        self._launch = lambda: start(name, command, cwd=folder, env=env)
        self._ready = ready

    def run(self) -> None:
        """Start it, also after its end, and wait until it answers."""
        self.process = self._launch()
        self.process.wait_for(self._ready)

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit status."""
        return self.process.stop()

    def kill(self) -> None:
        """End it in the midst of what it does (SIGKILL)."""
        self.process.kill()


class RecipePrometheus(Server, Prometheus):
    """Prometheus with prometheus/prometheus.yml, or with the copy of it in ``config``, a folder."""

    def __init__(
        self, binary: Path, folder: Path, start: Callable[..., Process], config: Path = RECIPES / "prometheus"
    ) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.otlp = f"{self.url}/api/v1/otlp"
        command = [
            binary,
            f"--config.file={config / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            *PROMETHEUS_FLAGS,
        ]
        self._prepare("prometheus", command, folder, start, f"{self.url}/-/ready", {})
        self.run()

    def counted(self, selector: str, label: str) -> dict[str, float]:
        """By ``label``, all that counters went up by, those before a restart of the gateway included."""
        answer = get(f"{self.url}/api/v1/query", query=f"{selector}[1h]")
        totals: dict[str, float] = {}
        for series in answer["data"]["result"]:
            before = 0.0
            for _, text in series["values"]:
                value = float(text)
                name = series["metric"][label]
                totals[name] = totals.get(name, 0.0) + (value - before if value >= before else value)
                before = value
        return totals


class RecipeJaeger(Server, Jaeger):
    """Jaeger with jaeger/jaeger.yaml, its span metrics in ``prometheus``, a URL."""

    def __init__(self, binary: Path, folder: Path, start: Callable[..., Process], prometheus: str, **env: str) -> None:
        http, grpc, query, query_grpc, health = (str(port) for port in free_ports(5))
        self.http = f"http://127.0.0.1:{http}"
        self.grpc = f"http://127.0.0.1:{grpc}"
        self.query = f"http://127.0.0.1:{query}"
        ports = {
            "OTLP_HTTP_PORT": http,
            "OTLP_GRPC_PORT": grpc,
            "QUERY_PORT": query,
            "QUERY_GRPC_PORT": query_grpc,
            "HEALTH_PORT": health,
        }
        command = [binary, f"--config={RECIPES / 'jaeger' / 'jaeger.yaml'}"]
        env = {"PROMETHEUS": prometheus, **ports, **env}
        self._prepare("jaeger", command, folder, start, f"{self.query}/api/services", env)
        self.run()

    def spans(self, service: str) -> dict[str, str]:
        """The trace of every span of ``service``, by span id."""
        return {span.span_id: span.trace_id for trace in self.traces(service) for span in trace}


class Gateway(Server):
    """The Collector with collector-gateway/collector.yaml; ``env`` is what its page lists."""

    def __init__(self, binary: Path, folder: Path, start: Callable[..., Process], **env: str) -> None:
        http, grpc, health = (str(port) for port in free_ports(3))
        self.http = f"http://127.0.0.1:{http}"
        self.grpc = f"http://127.0.0.1:{grpc}"
        self.queue = folder / "queue"
        ports = {"OTLP_HTTP_PORT": http, "OTLP_GRPC_PORT": grpc, "HEALTH_PORT": health, "QUEUE": str(self.queue)}
        command = [binary, f"--config={RECIPES / 'collector-gateway' / 'collector.yaml'}"]
        quick = {"METRIC_INTERVAL": "1s", "DECISION_WAIT": "1s", "GATEWAY_ID": "gateway-1"}
        self._prepare("collector", command, folder, start, f"http://127.0.0.1:{health}/", {**quick, **ports, **env})
        self.run()


class Tempo(Server):
    """Tempo with tempo/tempo.yaml, what its metrics generator counts in ``prometheus``, a URL."""

    def __init__(self, binary: Path, folder: Path, start: Callable[..., Process], prometheus: str) -> None:
        http, grpc, otlp_http, otlp_grpc, gossip = (str(port) for port in free_ports(5))
        self.http = f"http://127.0.0.1:{otlp_http}"
        self.query = f"http://127.0.0.1:{http}"
        env = {
            "HTTP_PORT": http,
            "GRPC_PORT": grpc,
            "OTLP_HTTP_PORT": otlp_http,
            "OTLP_GRPC_PORT": otlp_grpc,
            "GOSSIP_PORT": gossip,
            "DATA": str(folder / "data"),
            "PROMETHEUS": prometheus,
            "METRICS_INTERVAL": "1s",
        }
        command = [binary, f"-config.file={RECIPES / 'tempo' / 'tempo.yaml'}", "-config.expand-env=true"]
        self._prepare("tempo", command, folder, start, f"{self.query}/ready", env)
        self.run()

    def search(self, traceql: str) -> set[str]:
        """The ids of the traces that a TraceQL query finds in the last quarter of an hour."""
        now = int(time.time())
        answer = get(f"{self.query}/api/search", q=traceql, start=now - 900, end=now + 60, limit=1000)
        return {trace["traceID"].zfill(32) for trace in answer.get("traces") or ()}

    def wait_for(self, traceql: str, count: int) -> set[str]:
        """What the query finds once that is ``count`` traces: a trace is found some time after it came."""
        found: set[str] = set()

        def enough() -> bool:
            found.clear()
            found.update(self.search(traceql))
            return len(found) >= count

        wait_until(f"waiting for {count} traces of {traceql}", enough)
        return found
