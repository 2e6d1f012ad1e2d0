"""The pytest plugin: the fixture ``mlobs_telemetry``. It imports the SDK only in tests that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_mlobs.testing import Telemetry


@pytest.fixture
def mlobs_telemetry() -> Iterator[Telemetry]:
    """What the test emits: ``.spans``, ``.metrics``, ``.logs``, with ``.span(name)`` and ``.point(metric)``."""
    from otel_mlobs.testing import capture

    with capture() as telemetry:
        yield telemetry
