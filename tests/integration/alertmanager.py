"""A real Alertmanager on a free port, with its API, and a listener for what it sends."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

from .backends import PATIENCE, free_ports, get

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from typing_extensions import Self

    from .backends import Process


class Alertmanager:
    """A running Alertmanager that has no peers; ``configuration`` is a YAML text or a dictionary."""

    def __init__(
        self, program: Path, folder: Path, start: Callable[..., Process], configuration: str | Mapping[str, Any]
    ) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.config = folder / "alertmanager.yml"
        self.config.write_text(configuration if isinstance(configuration, str) else json.dumps(configuration))
        options = [f"--storage.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        options += ["--cluster.listen-address=", f"--config.file={self.config}"]
        self.process = start("alertmanager", [program, *options], cwd=folder, env={})
        self.process.wait_for(f"{self.url}/-/ready")

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """The alerts with these labels that it holds, also silenced ones; `status.state` says which are."""
        alerts: list[dict[str, Any]] = get(f"{self.url}/api/v2/alerts")
        return [alert for alert in alerts if labels.items() <= alert["labels"].items()]

    def send(self, alerts: list[dict[str, Any]]) -> None:
        """Give it alerts as Prometheus does."""
        self._send("POST", "alerts", alerts)

    def silence(self, *, seconds: float = 3600.0, **labels: str) -> str:
        """Have alerts with these labels sent to nobody for a time; the silence's id."""
        now = datetime.now(timezone.utc)
        body = {
            "matchers": [
                {"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in labels.items()
            ],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(seconds=seconds)).isoformat(),
            "createdBy": "tests",
            "comment": "silenced by a test",
        }
        made = json.loads(self._send("POST", "silences", body))
        return str(made["silenceID"])

    def expire(self, silence: str) -> None:
        """End a silence before its time."""
        self._send("DELETE", f"silence/{silence}")

    def _send(self, method: str, path: str, body: object = None) -> bytes:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.url}/api/v2/{path}", content, headers, method=method)
        with urlopen(request, timeout=PATIENCE) as answer:
            return bytes(answer.read())

    def stop(self) -> int:
        """Ask it to end (SIGTERM) and return its exit status."""
        return self.process.stop()


class Webhook:
    """Listens on a free port while it is entered, answers every POST with 200 and keeps its JSON, in order."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        received = self.received

        class Keep(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name for it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def alerts(self) -> list[tuple[str, str]]:
        """The status and name of every alert that Alertmanager has sent here, in order."""
        return [(alert["status"], alert["labels"]["alertname"]) for alert in self.sent()]

    def sent(self) -> list[dict[str, Any]]:
        """Every alert that Alertmanager has sent here, whole, in order."""
        return [alert for sent in list(self.received) for alert in sent["alerts"]]


def to_webhook(configuration: str, webhook: Webhook, folder: Path) -> str:
    """The routes of a ``configuration`` of ours, with a webhook for every receiver."""
    (folder / "url").write_text(webhook.url)
    begin, end = configuration.index("receivers:"), configuration.index("inhibit_rules:")
    receivers = "".join(
        f"  - name: {name}\n    webhook_configs:\n      - url_file: {json.dumps(str(folder / 'url'))}\n"
        for name in ("slack", "pagerduty", "page")
    )
    return f"{configuration[:begin]}receivers:\n{receivers}{configuration[end:]}"
