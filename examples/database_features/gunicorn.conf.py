"""gunicorn reads this by itself: `gunicorn app:app`.

PRELOAD=1 loads the application once, before the workers are forked; telemetry is exact either way.
"""

from __future__ import annotations

import os

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "4"))
preload_app = os.environ.get("PRELOAD", "0") == "1"
# Threads, since gunicorn's plain workers close every connection after one answer.
threads = 4
keepalive = 30
