"""Services under a real gunicorn, and a client that loads them over kept-alive connections."""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backends import PATIENCE, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .backends import Process

WORKERS = 4

# A span queue with room for all a test's spans: the default of 2,048 drops what a burst adds between two exports, and
# then a missing span would say nothing about the library.
ROOMY = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2000",
    "OTEL_BSP_SCHEDULE_DELAY": "500",
}


def serve(
    start: Callable[..., Process], application: str, folder: Path, environment: dict[str, str], *, preload: bool
) -> tuple[Process, int]:
    """Four workers of ``application`` (`module:name`, in ``folder``) that accept connections, and their port."""
    (port,) = free_ports(1)
    options = ["--workers", str(WORKERS), "--worker-class", "gthread", "--threads", "4", "--keep-alive", "60"]
    command = [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}"]
    command += ["--config", str(Path(__file__).parent / "apps" / "ready.py")]
    command += ["--graceful-timeout", str(int(PATIENCE)), *(["--preload"] if preload else []), application]
    ready = Path(tempfile.mkdtemp())
    process = start("gunicorn", command, cwd=folder, env={**ROOMY, **environment, "WORKERS_READY": str(ready)})
    process.wait_for_port(port)
    # One that still imports gets nothing of the traffic, and would be missed
    wait_until("all workers to be there", lambda: len([*ready.iterdir()]) >= WORKERS)
    return process, port


def load(
    port: int, requests: Sequence[tuple[str, str, Any]], *, connections: int = 8, reuse: int = 50
) -> list[tuple[int, Any]]:
    """Sends (method, path, JSON body or None) requests in parallel; their statuses and JSON answers, in their order.

    A connection is kept alive for ``reuse`` requests, then another is made: with few long ones it would be a matter of
    chance that every worker gets its share.
    """

    def send(part: Sequence[tuple[str, str, Any]]) -> list[tuple[int, Any]]:
        answers = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for number, (method, path, body) in enumerate(part):
            if number % reuse == 0:
                connection.close()  # and the next request opens it again
            encoded = None if body is None else json.dumps(body).encode()
            connection.request(method, path, encoded, {"Content-Type": "application/json"} if encoded else {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            answers.append((answer.status, json.loads(content) if is_json else content.decode()))
        connection.close()
        return answers

    with ThreadPoolExecutor(connections) as pool:
        parts = list(pool.map(send, [requests[i::connections] for i in range(connections)]))
    return [parts[i % connections][i // connections] for i in range(len(requests))]
