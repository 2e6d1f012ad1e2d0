"""What gunicorn serves: `gunicorn app:app`.

Where telemetry goes is up to the environment: MLOBS_BACKEND (console, jaeger, collector, …) with
OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, or MLOBS_BACKEND=file and MLOBS_PATH.
"""

from __future__ import annotations

import os

from service import open_app

import otel_mlobs as mlobs

mlobs.configure("housing", backend=os.environ.get("MLOBS_BACKEND", "console"), path=os.environ.get("MLOBS_PATH"))
app = open_app()

if __name__ == "__main__":
    app.run(port=8000, threaded=True)
