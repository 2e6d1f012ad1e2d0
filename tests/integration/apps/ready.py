"""Gunicorn's settings for the tests: the application's own, and every worker says when it has loaded it."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

if Path("gunicorn.conf.py").exists():  # which gunicorn would have read by itself
    globals().update({name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name[0] != "_"})


def post_worker_init(worker: Any) -> None:
    """Leave a file with the worker's number."""
    Path(os.environ["WORKERS_READY"], str(worker.pid)).touch()
