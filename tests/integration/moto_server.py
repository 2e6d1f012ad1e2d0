"""AWS, as moto stands in for it: asked through botocore, as a user's own script would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backends import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .backends import Process

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIEXAMPLEKEY"}
REGION = "eu-west-1"


class Moto:
    """A running moto. It takes any credentials, and has no OTLP."""

    def __init__(self, program: Path, folder: Path, start: Callable[..., Process]) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.process = start("moto", [program, "-H", "127.0.0.1", "-p", str(port)], cwd=folder, env=CREDENTIALS)
        self.process.wait_for(f"{self.url}/moto-api/")

    def client(self, service: str) -> Any:
        """A client of an AWS service."""
        import botocore.session

        return botocore.session.Session().create_client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
