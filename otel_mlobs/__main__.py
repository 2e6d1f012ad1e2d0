"""``python -m otel_mlobs`` is ``otel-mlobs``."""

from __future__ import annotations

import sys

from otel_mlobs.tools.cli import main

sys.exit(main())
