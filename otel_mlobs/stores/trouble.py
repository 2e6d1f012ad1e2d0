"""What is said of a server that does not answer: once a minute, and without secrets."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("otel_mlobs")

_LOG_EVERY_S = 60.0
_LONGEST_SAID = 200


class Trouble:
    """Whether a server answers, and what was said of it.

    Args:
        shown: the server's URL without secrets.
        hidden: takes secrets out of a text.
    """

    def __init__(self, shown: str, hidden: Callable[[str], str]) -> None:
        self.shown = shown
        self._hidden = hidden
        self.down = False
        self._logged = float("-inf")
        self._said_down = False

    def fresh(self) -> Trouble:
        """Of the same server, in another process."""
        return Trouble(self.shown, self._hidden)

    def described(self, error: Exception) -> str:
        """The error's type and the first line of its message."""
        lines = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {self._hidden(lines[0])[:_LONGEST_SAID]}"

    def unusable(self, error: Exception) -> ConnectionError:
        """What a caller gets who waits for an answer."""
        return ConnectionError(f"the outcome store {self.shown} cannot be used ({self.described(error)})")

    def refused(self, error: Exception) -> ValueError:
        """What a caller gets who asks for what cannot be."""
        return ValueError(f"the outcome store {self.shown} refuses what it was asked ({self.described(error)})")

    def say_down(self, error: Exception, pending: int, spill: int, dropped: int) -> None:
        """The server did not answer, and will be asked again."""
        self.down = True
        self._said_down |= self._log(
            "the outcome store %s cannot be used (%s): %d predictions and labels wait for it, at most %d of each; "
            "%d were dropped so far (said at most once a minute)",
            *(self.shown, self.described(error), pending, spill, dropped),
        )

    def say_trying(self, error: Exception, seconds: float) -> None:
        """Somebody waits for an answer that does not come."""
        self.down = True
        self._said_down |= self._log(
            "the outcome store %s cannot be used (%s): trying for %g s", self.shown, self.described(error), seconds
        )

    def say_up(self) -> None:
        """The server has answered."""
        self.down = False
        if self._said_down:
            self._said_down = False
            _logger.warning("otel_mlobs: the outcome store %s answers again, what waited is written", self.shown)

    def say_refused(self, what: str, error: Exception) -> None:
        """The server cannot keep a record, and never will."""
        self._log(
            "the outcome store %s cannot keep a %s (%s): it is dropped (said at most once a minute)",
            *(self.shown, what, self.described(error)),
        )

    def _log(self, message: str, *values: object) -> bool:
        now = time.monotonic()
        if now - self._logged < _LOG_EVERY_S:
            return False
        self._logged = now
        _logger.warning("otel_mlobs: " + message, *values)  # noqa: G003 - a constant
        return True
