"""Gunicorn's settings for the tests: every worker says when it has loaded the application."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def post_worker_init(worker: Any) -> None:
    """Leave a file with the worker's number."""
    Path(os.environ["WORKERS_READY"], str(worker.pid)).touch()
