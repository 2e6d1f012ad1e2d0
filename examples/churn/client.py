"""Play rows as requests to the service, and say how it went.

python client.py --data census --count 500 --rate 100 --concurrency 4
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import sys
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass
class Summary:
    """What came back: answers by status (0: no answer at all), and the seconds each request took."""

    statuses: Counter[int] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    def quantile(self, q: float) -> float:
        """The smallest duration that at least a share `q` of the requests did not exceed."""
        return sorted(self.durations)[max(0, math.ceil(q * len(self.durations)) - 1)]

    def __str__(self) -> str:
        n = len(self.durations)
        bad = {status: count for status, count in sorted(self.statuses.items()) if status != 200}
        reasons = ", ".join(f"{count} x {status or 'no answer'}" for status, count in bad.items())
        return (
            f"{n} requests in {self.elapsed:.1f} s ({n / self.elapsed:.0f}/s)\n"
            f"errors {sum(bad.values())}" + (f" ({reasons})" if bad else "") + "\n"
            f"latency p50 {self.quantile(0.5) * 1000:.1f} ms, p99 {self.quantile(0.99) * 1000:.1f} ms"
        )


def requests(rows: data.Table, *, send: str, broken: float) -> Iterator[dict[str, Any]]:
    """A request for each row, over and over; of every 1/`broken` requests one has a null that the model cannot take."""
    debt = 0.0
    for i in itertools.cycle(range(len(rows.ids))):
        request: dict[str, Any] = {"customer_id": int(rows.ids[i])}
        if send == "features":
            request = {"features": dict(zip(rows.names, rows.features[i].tolist(), strict=True))}
        debt += broken
        if debt >= 1.0 - 1e-9:
            debt -= 1.0
            request["features"] = {**request.get("features", {}), rows.names[0]: None}
        yield request


class Player:
    """One keep-alive connection to the service."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be http://host[:port] or https://host[:port], got {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=30)
        self._path = parts.path.rstrip("/") + "/predict"

    def post(self, body: object) -> int:
        """Send one request; the status of the answer, or 0 where there was none."""
        payload = json.dumps(body).encode()
        # A server may close a kept-alive connection just when the next request goes out: that one is sent again.
        for attempt in (1, 2):
            reused = self._connection.sock is not None
            try:
                self._connection.request("POST", self._path, payload, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if not (reused and attempt == 1):
                    return 0
            except (OSError, http.client.HTTPException):
                self._connection.close()
                return 0
            else:
                return response.status
        return 0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def play(url: str, bodies: Sequence[object], *, rate: float, concurrency: int) -> Summary:
    """Send every body once; with a `rate` (per second, 0: no limit) latency counts from when each request was due."""
    summary, lock, turn = Summary(), threading.Lock(), itertools.count()
    players = [Player(url) for _ in range(concurrency)]
    started = time.perf_counter()

    def work(player: Player) -> None:
        while True:
            with lock:
                i = next(turn)
            if i >= len(bodies):
                return
            due = started + i / rate if rate else time.perf_counter()
            time.sleep(max(0.0, due - time.perf_counter()))
            status = player.post(bodies[i])
            duration = time.perf_counter() - due
            with lock:
                summary.statuses[status] += 1
                summary.durations.append(duration)

    threads = [threading.Thread(target=work, args=(player,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for player in players:
        player.close()
    summary.elapsed = time.perf_counter() - started
    return summary


def shift(text: str) -> tuple[str, float]:
    """`name=deviations` of the command line."""
    name, _, deviations = text.partition("=")
    return name, float(deviations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", choices=data.DATA_SETS, default="census", help="what the service was trained on")
    parser.add_argument("--count", type=int, default=200, help="requests to send")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0, the default: no limit")
    parser.add_argument("--concurrency", type=int, default=4, help="connections")
    parser.add_argument("--batch", type=int, default=1, help="rows in a request")
    parser.add_argument("--send", choices=("ids", "features"), default="ids", help="what a request carries")
    parser.add_argument("--broken", type=float, default=0.0, metavar="SHARE", help="share of rows with a null feature")
    parser.add_argument(
        "--drift",
        type=shift,
        action="append",
        metavar="FEATURE=DEVIATIONS",
        help="shift a churn feature (sends features)",
    )
    arguments = parser.parse_args()
    for name in ("count", "concurrency", "batch"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.rate < 0 or not 0 <= arguments.broken <= 1:
        parser.error(f"--rate must be at least 0 and --broken from 0 to 1, got {arguments.rate} and {arguments.broken}")

    try:
        _, rows = data.load(arguments.data, drift=dict(arguments.drift or ()))
    except ValueError as error:
        parser.error(str(error))
    send = "features" if arguments.drift else arguments.send
    stream = requests(rows, send=send, broken=arguments.broken)
    batches = [list(itertools.islice(stream, arguments.batch)) for _ in range(arguments.count)]
    bodies: list[object] = [batch if arguments.batch > 1 else batch[0] for batch in batches]

    summary = play(arguments.url, bodies, rate=arguments.rate, concurrency=arguments.concurrency)
    print(summary)
    if summary.statuses[0] == arguments.count:
        sys.exit(f"nothing answers at {arguments.url}: is the service running?")


if __name__ == "__main__":
    main()
