"""What the gateway of examples/backends costs and holds: a fleet's counts, the rules on them, an outage.

    python benchmarks/gateway.py fleet --workers 1000 --features 100
    python benchmarks/gateway.py rules --features 100 --replicas 1
    python benchmarks/gateway.py away --backend prometheus --minutes 10

`fleet` takes one real worker's delta request (a monitor with that many features) and sends it as that of each of the
workers, a few rounds, as fast as the gateway takes it. Its cost is then known by the request, and whether it could keep
up with an interval is arithmetic. `rules` writes an hour of what one gateway sends into Prometheus and reads how long
that takes to evaluate `otel-mlobs rules --drift`. `away` stops a backend for a while under load and counts what is
missing.

Needs the servers that scripts/servers.py builds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, ResourceMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from integration.backends import Process, get  # noqa: E402 - they lie in tests/
from integration.recipes import RECIPES, Gateway, RecipeJaeger, RecipePrometheus  # noqa: E402
from integration.sender import Load, Poster, pairs  # noqa: E402

from otel_mlobs.tools.drift_rules import drift_rules  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WORKER = """
import sys
import numpy as np
import otel_mlobs as mlobs

endpoint, features = sys.argv[1], int(sys.argv[2])
draw = np.random.default_rng(1)
names = [f"feature_{number}" for number in range(features)]
training = draw.normal(size=(5_000, features))
profile = mlobs.Profile.fit(training, features=names, outputs=draw.uniform(size=5_000), model="churn", version="3")
mlobs.configure("fleet", backend="collector", endpoint=endpoint, metric_interval=3600.0)
monitor = mlobs.Monitor(profile)
score = mlobs.prediction(monitor=monitor)(lambda rows: 1 / (1 + np.exp(-rows[:, 0])))
for _ in range(2):
    score(draw.normal(size=(300, features)))
    mlobs.force_flush()
mlobs.shutdown()
"""
INTERVAL = 15.0


def a_workers_request(features: int) -> ResourceMetrics:
    """What a real worker with a monitor sends of one interval, by delta temporality."""
    bodies: list[bytes] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/metrics"):
                bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name for it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    delta = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, f"http://127.0.0.1:{server.server_port}", str(features)]
    subprocess.run(command, env={**os.environ, **delta}, check=True)
    server.shutdown()
    # The second collection: the first holds back what needs a zero first.
    (resource_metrics,) = ExportMetricsServiceRequest.FromString(bodies[1]).resource_metrics
    return resource_metrics


def points_of(request: ResourceMetrics) -> list[tuple[Any, list[Any]]]:
    """Every metric of a request with its points."""
    metrics = [metric for scope in request.scope_metrics for metric in scope.metrics]
    return [(metric, list(getattr(metric, metric.WhichOneof("data")).data_points)) for metric in metrics]


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message: its tag, its length, its bytes."""
    length, encoded = len(content), bytearray([number << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length]) + content


def used(pid: int) -> tuple[float, float, float]:
    """CPU seconds, and the memory now and at most (MiB), of a process."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return cpu, int(status["VmRSS"].split()[0]) / 1024, int(status["VmHWM"].split()[0]) / 1024


class Servers:
    """Starts the recipes' servers in folders of their own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def folder(self) -> Path:
        """A new folder, removed at the end."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))

    def start(self, name: str, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> Process:
        """Start a program; it is killed at the end."""
        process = Process(command, self.folder() / f"{name}.log", cwd=cwd, env=env)
        self._stack.callback(process.kill)
        return process

    def prometheus(self, config: Path = RECIPES / "prometheus") -> RecipePrometheus:
        """The recipe's Prometheus."""
        return RecipePrometheus(_built("prometheus"), self.folder(), self.start, config)

    def jaeger(self, prometheus: RecipePrometheus) -> RecipeJaeger:
        """The recipe's Jaeger."""
        return RecipeJaeger(_built("jaeger"), self.folder(), self.start, prometheus.url, MAX_TRACES="1000000")

    def gateway(self, **env: str) -> Gateway:
        """The recipe's gateway."""
        return Gateway(_built("collector"), self.folder(), self.start, **env)


def _built(program: str) -> Path:
    command = [sys.executable, str(ROOT / "scripts" / "servers.py"), "path", program]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


@contextmanager
def servers() -> Iterator[Servers]:
    """Servers that end with the block."""
    with ExitStack() as stack:
        yield Servers(stack)


def fleet(workers: int, features: int, rounds: int, senders: int) -> None:
    """The gateway's cost of one interval of a fleet, and the series that come out."""
    template = a_workers_request(features)
    scopes = b"".join(field(2, scope.SerializeToString()) for scope in template.scope_metrics)
    points = {metric.name: len(found) for metric, found in points_of(template)}
    print(f"a worker's request: {sum(points.values()):,} points, {len(scopes) / 1024:.0f} KiB; {points}")

    def body(worker: int) -> bytes:
        own = {"service.name": "fleet", "service.instance.id": f"worker-{worker}", "host.name": f"host-{worker % 50}"}
        resource = field(1, Resource(attributes=pairs(own)).SerializeToString())
        return field(1, resource + scopes)

    with servers() as starter:
        prometheus = starter.prometheus()
        gateway = starter.gateway(PROMETHEUS=prometheus.url, METRIC_INTERVAL=f"{INTERVAL:g}s")
        pid = gateway.process._process.pid

        def send(first: int) -> None:
            with Poster(gateway.http) as post:
                for _ in range(rounds):
                    for worker in range(first, workers, senders):
                        while (status := post("/v1/metrics", body(worker))) != 200:  # the memory limiter says wait
                            refused.append(status)
                            time.sleep(0.2)

        refused: list[int | None] = []
        before, _, _ = used(pid)
        began = time.monotonic()
        threads = [threading.Thread(target=send, args=(number,)) for number in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lasted = time.monotonic() - began
        time.sleep(INTERVAL + 2)
        after, resident, most = used(pid)
        requests = rounds * workers
        each = (after - before) / requests
        series = prometheus.ask('count({job="fleet"})')[0][1]
        expected = (
            rounds
            * workers
            * sum(
                point.as_int or point.as_double
                for metric, found in points_of(template)
                if metric.name == "mlobs.feature.observations"
                for point in found
            )
        )
        counted = prometheus.ask('sum(mlobs_feature_observations_total{job="fleet"})')[0][1]
        print(f"{requests:,} requests in {lasted:.1f} s ({len(refused)} told to wait); CPU {after - before:.1f} s")
        print(f"  {1e3 * each:.2f} ms of CPU a request; memory {resident:.0f} MiB, at most {most:.0f} MiB")
        print(f"  {workers:,} workers, one request every {INTERVAL:g} s: {each * workers / INTERVAL:.2f} CPUs")
        print(f"  series in Prometheus: {series:,.0f}; without the gateway {series * workers:,.0f}")
        print(f"  counted {counted:,.0f} of {expected:,.0f}")


def rules(features: int, replicas: int, minutes: int) -> None:
    """How long Prometheus needs for the drift rules on an hour of a gateway's series."""
    template = a_workers_request(features)
    with servers() as starter:
        config = starter.folder()
        (config / "rules").mkdir()
        (config / "rules" / "drift.yml").write_text(drift_rules())
        (config / "alertmanagers").mkdir()
        (config / "prometheus.yml").write_text((RECIPES / "prometheus" / "prometheus.yml").read_text())
        prometheus = starter.prometheus(config)
        now = time.time()
        steps = int(minutes * 60 / INTERVAL)
        began = time.monotonic()
        with Poster(prometheus.url) as post:
            for step in range(1, steps + 1):
                moment = int((now - (steps - step) * INTERVAL) * 1e9)
                for metric, found in points_of(template):
                    kind = metric.WhichOneof("data")
                    if kind != "gauge":
                        getattr(metric, kind).aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
                    for point in found:
                        point.start_time_unix_nano, point.time_unix_nano = int((now - 7200) * 1e9), moment
                        if kind == "sum":
                            point.as_int = point.as_int // (step - 1 or 1) * step
                for replica in range(replicas):
                    own = {"service.name": "fleet", "service.instance.id": f"gateway-{replica}"}
                    template.resource.CopyFrom(Resource(attributes=pairs(own)))
                    request = ExportMetricsServiceRequest(resource_metrics=[template])
                    assert post("/api/v1/otlp/v1/metrics", request.SerializeToString()) == 200
        print(f"{minutes} minutes of {replicas} gateways' series written in {time.monotonic() - began:.0f} s")
        series = prometheus.ask('count({job="fleet", __name__!~".*:.*"})')[0][1]
        time.sleep(65)  # every group has been evaluated, its offset included
        groups = get(f"{prometheus.url}/api/v1/rules")["data"]["groups"]
        lasted = sum(group["evaluationTime"] for group in groups)
        recorded = prometheus.ask('count({__name__=~".+:.+"})')[0][1]
        print(f"{series:,.0f} series in, {recorded:,.0f} recorded; {lasted:.2f} s of evaluation every 30 s")
        for group in groups:
            print(f"  {group['name']:40} {group['evaluationTime']:.3f} s")


def away(backend: str, minutes: float, pause: float) -> None:
    """What arrives of a load in whose midst a backend is away for a while."""
    with servers() as starter:
        prometheus = starter.prometheus()
        jaeger = starter.jaeger(prometheus)
        gateway = starter.gateway(
            PROMETHEUS=prometheus.url, JAEGER=jaeger.grpc.removeprefix("http://"), KEEP_PERCENT="100",
            METRIC_INTERVAL=f"{INTERVAL:g}s", DECISION_WAIT="10s",
        )  # fmt: skip
        absent = prometheus if backend == "prometheus" else jaeger
        absent.stop()  # before the load: Jaeger's memory goes with it
        with Load(gateway.http, "away", pause=pause) as load:
            time.sleep(minutes * 60)
            size = sum(file.stat().st_size for file in gateway.queue.iterdir())
            back = time.monotonic()
            absent.run()
            time.sleep(30)
        time.sleep(INTERVAL + 2)
        taken = load.taken
        end = time.monotonic() + 300
        while time.monotonic() < end:
            missing = taken.spans.keys() - jaeger.spans("away").keys()
            counted = prometheus.counted('rows_total{job="away"}', "cell")
            if not missing and counted == taken.totals():
                break
            time.sleep(2)
        lasted = time.monotonic() - back
        cpu, resident, most = used(gateway.process._process.pid)
        print(f"{backend} away for {minutes:g} minutes; the queue on disk then had {size / 2**20:.1f} MiB")
        print(f"  spans: {len(taken.spans):,} taken, {len(missing):,} missing")
        print(f"  counts: {taken.totals().total():,} taken, {sum(counted.values()):,.0f} arrived")
        print(f"  seen complete {lasted:.0f} s after it was back (30 s of load and an interval among them)")
        print(f"  gateway: {cpu:.1f} s of CPU, {resident:.0f} MiB, at most {most:.0f} MiB; refused {taken.refused}")
        gaps = get(f"{prometheus.url}/api/v1/query", query='rows_total{job="away", cell="a"}[1h]')["data"]["result"]
        times = [moment for series in gaps for moment, _ in series["values"]]
        longest = max((after - before for before, after in pairwise(times)), default=0.0)
        print(f"  longest gap between two samples of a series: {longest:.0f} s")


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("fleet")
    one.add_argument("--workers", type=int, default=1000)
    one.add_argument("--features", type=int, default=100)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--senders", type=int, default=4)
    two = commands.add_parser("rules")
    two.add_argument("--features", type=int, default=100)
    two.add_argument("--replicas", type=int, default=1)
    two.add_argument("--minutes", type=int, default=60)
    three = commands.add_parser("away")
    three.add_argument("--backend", choices=["prometheus", "jaeger"], default="prometheus")
    three.add_argument("--minutes", type=float, default=10)
    three.add_argument("--pause", type=float, default=0.5, help="seconds between two traces of each of the 8 workers")
    options = vars(parser.parse_args())
    runs: dict[str, Callable[..., None]] = {"fleet": fleet, "rules": rules, "away": away}
    runs[options.pop("command")](**options)


if __name__ == "__main__":
    main()
