"""One worker of a fleet: scores the rows of a file with a monitor, and ends: `python fleet_worker.py PROFILE ROWS`.

Where it reports to, and with which temporality, is said by OpenTelemetry's own variables.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import otel_mlobs as mlobs

mlobs.configure(backend="collector", metric_interval=0.7)
monitor = mlobs.Monitor(mlobs.Profile.load(sys.argv[1]))


@mlobs.prediction(monitor=monitor)
def score(rows: list[dict[str, Any]]) -> list[float]:
    """A score between 0 and 1 for every row."""
    return [min(1.0, (row["age"] or 0.0) / 100) for row in rows]


for batch in json.loads(Path(sys.argv[2]).read_text()):
    score(batch)
    time.sleep(0.02)
assert mlobs.shutdown()
