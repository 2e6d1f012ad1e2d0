"""Serves a number of requests in process, shuts down, and says how they went: `python once.py REQUESTS`."""

from __future__ import annotations

import json
import sys

from noop import app

import otel_mlobs as mlobs

client = app.test_client()
statuses = [client.get(f"/recommend/{user}").status_code for user in range(int(sys.argv[1]))]
print(json.dumps({"statuses": statuses, "delivered": mlobs.shutdown()}))
