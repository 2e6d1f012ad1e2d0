"""What an operation asks of its monitor; :class:`Monitor` and :class:`RankingMonitor` answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from otel_mlobs.telemetry.kinds import Attributes, Definition

MOST_DEFINITIONS = 256


class Observer(Protocol):
    """Counts what operations are given and answer."""

    @property
    def follows(self) -> bool:
        """Whether predictions are registered for a later label, so that they need an id."""

    @property
    def counts_inputs(self) -> bool:
        """Whether inputs are counted, so that a decorator must know which parameter holds them."""

    def observe(
        self, inputs: Any, outputs: Any = None, *, prediction_id: Any = None, variant: str | None = None
    ) -> None:
        """Count inputs, outputs or both; never raises."""

    def add_drift(self, attributes: Attributes) -> None:
        """Add what is known of drift to a span's attributes."""

    def describe(self, span: Span, inputs: Any) -> None:
        """Put on ``span`` what is odd about ``inputs``."""

    def definition(self, key: object, make: Callable[[], Definition]) -> Definition:
        """The definition of an operation with this monitor, made once for each ``key``."""


class Definitions:
    """The definitions of one monitor's operations."""

    def __init__(self) -> None:
        self._made: dict[object, Definition] = {}

    def get(self, key: object, make: Callable[[], Definition]) -> Definition:
        """The one for ``key``, made once; attributes that differ with every call are in the key."""
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= MOST_DEFINITIONS:
                self._made.clear()
            found = self._made.setdefault(key, make())
        return found
