"""Send the rows of a part to the service as requests, in order, with drift to order.

python client.py --part later --rate 200
python client.py --part held_out --shift med_inc=0.5 --after 800
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
import urllib.parse
from collections import Counter
from typing import TYPE_CHECKING

import traffic

if TYPE_CHECKING:
    from collections.abc import Sequence


def play(url: str, bodies: Sequence[object], *, rate: float, connections: int) -> Counter[int]:
    """Send every body once over kept-alive connections; answers by status, 0 where there was none.

    Raises:
        ValueError: the URL is not `http://host[:port]`.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"url must be http://host[:port], got {url!r}")
    statuses: Counter[int] = Counter()
    lock, waiting = threading.Lock(), iter(enumerate(bodies))
    started = time.perf_counter()

    def work() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        while True:
            with lock:
                i, body = next(waiting, (0, None))
            if body is None:
                connection.close()
                return
            if rate:
                time.sleep(max(0.0, started + i / rate - time.perf_counter()))
            status = post(connection, parts.path.rstrip("/") + "/predict", body)
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def post(connection: http.client.HTTPConnection, path: str, body: object) -> int:
    """The status of the answer, or 0 where there was none."""
    # A server may close a kept-alive connection just when the next request goes out: that one is sent again.
    reused = connection.sock is not None
    for again in (reused, False):
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            connection.close()
            if not again:
                return 0
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0
        else:
            return response.status
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0, the default: no limit")
    parser.add_argument("--connections", type=int, default=4, help="how many at a time")
    traffic.add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.rate < 0 or arguments.connections < 1:
        parser.error(f"--rate must be at least 0, --connections 1, got {arguments.rate} and {arguments.connections}")
    bodies = traffic.read_arguments(parser, arguments)

    started = time.perf_counter()
    try:
        statuses = play(arguments.url, bodies, rate=arguments.rate, connections=arguments.connections)
    except ValueError as error:
        parser.error(str(error))
    elapsed = time.perf_counter() - started
    answered = ", ".join(f"{count:,} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
    print(f"{len(bodies):,} requests in {elapsed:.1f} s: {answered}")
    if bodies and statuses[0] == len(bodies):
        sys.exit(f"nothing answers at {arguments.url}: is the service running?")


if __name__ == "__main__":
    main()
