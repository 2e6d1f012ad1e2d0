"""What four operations add to a Flask request that OpenTelemetry already traces.

Three applications differ in nothing but their operations: ``plain`` has opentelemetry-instrumentation-flask alone,
``hand`` four hand-written spans with five attributes each besides and no metric, ``ours`` has ``MLObs(app)`` and four
decorated operations. Spans and metrics are on in all of them, exporters drop.

no-op   the model does nothing, the applications are called as WSGI callables in one process, block beside block. The
        extra time of a request is given in bare hand-written spans: at most 4 x 1.35 of them. They are measured in the
        same run twice, in a loop of their own, where caches are warm, and in the handler, where they are as cold as
        ours
server  a scikit-learn model of about a millisecond behind gunicorn (one worker), one server each; a load generator in
        a process of its own (wrk, or a keep-alive client of ours) drives them in turns: at most 5% of the median
        latency and of the throughput. What hand-written spans take of that is printed beside it

Run ``python benchmarks/flask_overhead.py``; ``harness.py`` says how time is measured.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask_app import HOWS, SPANS, hand_written, make_app, no_model
from harness import (
    KeepingMetricExporter,
    SpanPipeline,
    Spread,
    Variant,
    block,
    calls,
    environment,
    set_up_our_metrics,
    verdict,
    write_json,
)
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

SPANS_ALLOWED = 4 * 1.35
SHARE_ALLOWED = 0.05
TITLES = {
    "plain": "Flask instrumentation only",
    "hand": "four hand-written spans",
    "ours": "four operations of mlobs",
}


# -- no-op model, in process ------------------------------------------------------------------------------------------


def wsgi_caller(app: Flask) -> Callable[[], object]:
    """Call the application as a WSGI server would, without one, and read the whole answer."""
    statuses: list[str] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _data: None

    def call() -> object:
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/recommend",
            "QUERY_STRING": "user=u1",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        answer = app.wsgi_app(environ, start_response)
        body = b"".join(answer)
        getattr(answer, "close", lambda: None)()
        if statuses.pop() != "200 OK":
            raise RuntimeError(f"the handler answered {body!r}")
        return body

    return call


@dataclass(frozen=True)
class NoOpResult:
    """Microseconds per request and per bare span, and the extra time in bare spans.

    ``wall`` and ``cpu`` count spans measured in a loop, ``wall_in_handler`` and ``cpu_in_handler`` those of ``hand``.
    """

    request_us: dict[str, float]
    bare_us: float
    wall: Spread
    cpu: Spread
    wall_in_handler: Spread
    cpu_in_handler: Spread

    @property
    def passed(self) -> bool:
        """Whether the medians keep to the target by spans measured in a loop."""
        return self.wall.median <= SPANS_ALLOWED and self.cpu.median <= SPANS_ALLOWED

    @property
    def passed_in_handler(self) -> bool:
        """Whether the medians keep to the target by spans measured in the handler."""
        return self.wall_in_handler.median <= SPANS_ALLOWED and self.cpu_in_handler.median <= SPANS_ALLOWED


def no_op_model(*, rounds: int, n: int) -> NoOpResult:
    """Measure the handlers and a bare span, block beside block."""
    spans = SpanPipeline.create(ours=True)
    trace.set_tracer_provider(spans.provider)
    collect = set_up_our_metrics(KeepingMetricExporter())

    def nothing(items: list[int]) -> list[int]:
        return items

    def flush() -> None:
        spans.flush()
        collect()

    def variant(name: str, function: Callable[..., object], each: int, *args: object) -> Variant:
        return Variant(name, calls(function, *args), name, flush, lambda n: spans.require(n * each, name))

    variants = [variant(how, wsgi_caller(make_app(no_model, how)), SPANS[how]) for how in HOWS]
    variants.append(variant("bare", hand_written(trace.get_tracer("hand"))(nothing), 1, [1, 2, 3, 4, 5]))
    times: dict[str, list[tuple[float, float]]] = {v.name: [] for v in variants}
    shuffled = random.Random(1)
    for round_number in range(rounds + 1):
        shuffled.shuffle(variants)
        for v in variants:
            taken = block(v, n)
            if round_number:
                times[v.name].append(taken)

    def median_us(name: str) -> float:
        return statistics.median(wall for wall, _ in times[name]) * 1e6

    def extra(clock: int) -> Spread:
        triples = zip(times["ours"], times["plain"], times["bare"], strict=True)
        return Spread.of([(ours[clock] - plain[clock]) / bare[clock] for ours, plain, bare in triples])

    def extra_in_handler(clock: int) -> Spread:
        # The difference of two noisy blocks may come near zero: the medians' difference is the divisor.
        def medians(name: str) -> float:
            return statistics.median(t[clock] for t in times[name])

        span = (medians("hand") - medians("plain")) / 4
        pairs = zip(times["ours"], times["plain"], strict=True)
        return Spread.of([(ours[clock] - plain[clock]) / span for ours, plain in pairs])

    request_us = {how: median_us(how) for how in HOWS}
    return NoOpResult(request_us, median_us("bare"), extra(0), extra(1), extra_in_handler(0), extra_in_handler(1))


# -- scikit-learn model behind gunicorn -------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def gunicorn(how: str) -> Iterator[str]:
    """A running gunicorn with one worker that serves one of the applications, at the URL yielded."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", f"flask_app:served({how!r})", "--bind", f"127.0.0.1:{port}"]
    options = ["--workers=1", "--worker-class=gthread", "--threads=1", "--keep-alive=60", "--log-level=error"]
    without_checks = os.environ | {"OTEL_PYTHON_FLASK_EXCLUDED_URLS": "counts,model"}
    server = subprocess.Popen([*command, *options], cwd=Path(__file__).parent, env=without_checks)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_it_answers(server, url)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_until_it_answers(server: subprocess.Popen[bytes], url: str) -> None:
    """Return once the server answers; raise RuntimeError where it ends or takes over a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"gunicorn ended with {server.returncode}")
        try:
            get_json(url, "/counts")
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("gunicorn does not answer after a minute")


def get_json(url: str, path: str) -> dict[str, Any]:
    """Fetch one JSON document."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("GET", path)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer


@dataclass(frozen=True)
class Load:
    """What a load generator measured: the median latency and the requests per second."""

    p50_ms: float
    per_second: float


@dataclass(frozen=True)
class Turn:
    """One server's turn: the load generator's view, and the worker's CPU time for a request.

    The CPU time is what is left to compare on a machine that is busy with something else as well.
    """

    p50_ms: float
    per_second: float
    cpu_ms: float


def take_turn(generator: Callable[[str, float, int], Load], url: str, seconds: float, connections: int) -> Turn:
    """Drive one server and read its counts before and after."""
    before = get_json(url, "/counts")
    load = generator(url, seconds, connections)
    after = get_json(url, "/counts")
    cpu_s = (after["cpu_s"] - before["cpu_s"]) / (after["answered"] - before["answered"])
    return Turn(load.p50_ms, load.per_second, cpu_s * 1000)


class StarvedError(Exception):
    """The load generator itself got no processor for a while: what it measured says nothing about the server."""


def wrk(url: str, seconds: float, connections: int) -> Load:
    """Drive the server with wrk."""
    command = ["wrk", "--latency", "--threads", "1", "--connections", str(connections)]
    answer = subprocess.run(
        [*command, "--duration", f"{seconds:.0f}s", f"{url}/recommend?user=u1"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # A server that hangs does not make wrk run longer than it was told to, a machine that stalls does.
    lasted = re.search(r"requests in ([\d.]+)(s|m)", answer)
    if lasted is None or lasted[2] == "m" or float(lasted[1]) > seconds * 1.1:
        raise StarvedError(answer)
    if "Non-2xx" in answer or "Socket errors" in answer:
        raise RuntimeError(f"wrk saw errors:\n{answer}")
    return parse_wrk(answer)


def parse_wrk(answer: str) -> Load:
    """Read the median and the throughput out of wrk's text; raise ValueError where they are not there."""
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)\b", answer)
    throughput = re.search(r"Requests/sec:\s+([\d.]+)", answer)
    if median is None or throughput is None:
        raise ValueError(f"wrk's output with --latency expected, got {answer!r}")
    to_ms = {"us": 1e-3, "ms": 1.0, "s": 1e3}[median[2]]
    return Load(float(median[1]) * to_ms, float(throughput[1]))


def keep_alive_client(url: str, seconds: float, connections: int) -> Load:
    """Drive the server from a Python process of its own with one kept connection, where wrk is missing."""
    command = [sys.executable, __file__, "--drive", url, "--seconds", str(seconds)]
    return Load(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def drive(url: str, seconds: float) -> Load:
    """Send requests over one kept connection, each after the answer to the last."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    latencies = []
    start = now = time.perf_counter()
    while now < start + seconds:
        connection.request("GET", "/recommend?user=u1")
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"the server answered {response.status}")
        before, now = now, time.perf_counter()
        latencies.append(now - before)
    return Load(statistics.median(latencies) * 1000, len(latencies) / (now - start))


@dataclass(frozen=True)
class ServerResult:
    """The servers' medians, and what the operations take of the plain one's, as shares within rounds."""

    generator: str
    model_ms: float
    turns: dict[str, Turn]
    p50: dict[str, Spread]
    throughput: dict[str, Spread]
    cpu: dict[str, Spread]
    rounds: int
    discarded: int

    @property
    def passed(self) -> bool:
        """Whether both medians of ours keep to the target."""
        return self.p50["ours"].median <= SHARE_ALLOWED and self.throughput["ours"].median <= SHARE_ALLOWED


def real_server(*, rounds: int, seconds: float, connections: int) -> ServerResult:
    """Drive a gunicorn for each application in turns, in shuffled order, and compare them within rounds.

    A round in which the load generator was starved is repeated as a whole, whatever it measured, and counted.
    """
    generator = wrk if shutil.which("wrk") else keep_alive_client
    turns: dict[str, list[Turn]] = {how: [] for how in HOWS}
    shuffled = random.Random(1)
    discarded = 0
    with ExitStack() as stack:
        urls = {how: stack.enter_context(gunicorn(how)) for how in HOWS}
        model_ms: float = get_json(urls["plain"], "/model")["ms"]
        warm = False
        while len(turns["plain"]) < rounds:
            order = list(HOWS)
            shuffled.shuffle(order)
            try:
                taken = {how: take_turn(generator, urls[how], seconds, connections) for how in order}
            except StarvedError:
                discarded += 1
                if discarded > rounds:
                    raise
                continue
            if warm:
                for how, turn in taken.items():
                    turns[how].append(turn)
            warm = True
        for how, url in urls.items():
            require_all_spans(get_json(url, "/counts"), SPANS[how])

    def shares(of: Callable[[Turn, Turn], float]) -> dict[str, Spread]:
        return {
            how: Spread.of([of(own, plain) for own, plain in zip(turns[how], turns["plain"], strict=True)])
            for how in ("hand", "ours")
        }

    return ServerResult(
        generator.__name__,
        model_ms,
        {how: median_turn(turns[how]) for how in HOWS},
        shares(lambda own, plain: own.p50_ms / plain.p50_ms - 1),
        shares(lambda own, plain: 1 - own.per_second / plain.per_second),
        shares(lambda own, plain: own.cpu_ms / plain.cpu_ms - 1),
        rounds,
        discarded,
    )


def require_all_spans(counts: dict[str, Any], each: int) -> None:
    """Raise RuntimeError unless every request left this many spans."""
    if counts["exported"] != counts["answered"] * each:
        raise RuntimeError(f"{counts['answered']} requests with {each} spans each expected, got {counts['exported']}")


def median_turn(turns: list[Turn]) -> Turn:
    """The medians of several turns."""
    return Turn(
        statistics.median(t.p50_ms for t in turns),
        statistics.median(t.per_second for t in turns),
        statistics.median(t.cpu_ms for t in turns),
    )


# -- command ----------------------------------------------------------------------------------------------------------


def print_no_op(result: NoOpResult) -> None:
    """Print the in-process result."""
    print("\nNo-op model, in process")
    for how, microseconds in result.request_us.items():
        print(f"  {TITLES[how]:26}  {microseconds:8.1f} us per request")
    print(f"  {'bare span, in a loop':26}  {result.bare_us:8.1f} us")
    print(f"  what ours adds to a request, in bare spans (at most {SPANS_ALLOWED:.2f}):")
    print(f"    measured in a loop        wall {result.wall}, CPU {result.cpu}  {verdict(result.passed)}")
    in_handler = f"wall {result.wall_in_handler}, CPU {result.cpu_in_handler}"
    print(f"    measured in the handler   {in_handler}  {verdict(result.passed_in_handler)}")


def print_server(result: ServerResult) -> None:
    """Print the real servers' result."""
    print(f"\nscikit-learn model of {result.model_ms:.2f} ms, gunicorn, driven by {result.generator}")
    for how, turn in result.turns.items():
        numbers = f"p50 {turn.p50_ms:6.2f} ms, {turn.per_second:7.1f} requests/s, {turn.cpu_ms:5.2f} ms CPU"
        print(f"  {TITLES[how]:26}  {numbers}")
        if how in result.p50:
            shares = {"p50": result.p50[how], "throughput lost": result.throughput[how], "CPU": result.cpu[how]}
            said = (f"{name} {s.median:+.1%} [{s.lower:+.1%}, {s.upper:+.1%}]" for name, s in shares.items())
            print(f"  {'':26}  {', '.join(said)}")
    print(f"  {result.rounds} rounds; {result.discarded} more were discarded because the load generator was starved")
    print(f"  at most {SHARE_ALLOWED:.0%} of either: {verdict(result.passed)}")


def main() -> int:
    """Run the parts asked for and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("no-op", "server"), help="one part only")
    parser.add_argument("--rounds", type=int, default=101, help="rounds of the no-op part")
    parser.add_argument("--calls", type=int, default=100, help="calls of a variant in such a round")
    parser.add_argument("--server-rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3, help="how long a server is driven in a round")
    parser.add_argument("--connections", type=int, default=2, help="wrk's connections; the worker is always busy")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a look, not a result")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--drive", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        print(json.dumps(asdict(drive(args.drive, args.seconds))))
        return 0
    rounds, n, server_rounds, seconds = args.rounds, args.calls, args.server_rounds, args.seconds
    if args.quick:
        rounds, n, server_rounds, seconds = 11, 50, 2, 1.0
    report: dict[str, Any] = {"environment": environment("otel-mlobs", "opentelemetry-sdk", "flask", "gunicorn")}
    passed = []
    if args.part != "server":
        no_op = no_op_model(rounds=rounds, n=n)
        print_no_op(no_op)
        report["no-op"] = asdict(no_op) | {"passed": no_op.passed, "passed_in_handler": no_op.passed_in_handler}
        passed.append(no_op.passed)
    if args.part != "no-op":
        server = real_server(rounds=server_rounds, seconds=seconds, connections=args.connections)
        print_server(server)
        report["server"] = asdict(server) | {"passed": server.passed}
        passed.append(server.passed)
    if args.json:
        write_json(args.json, report)
    return int(args.check and not all(passed))


if __name__ == "__main__":
    sys.exit(main())
