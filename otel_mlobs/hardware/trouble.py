"""What is wrong, in the log: once when it begins, however often it is met, and once when it is over."""

from __future__ import annotations

import logging

_logger = logging.getLogger("otel_mlobs")


class Trouble:
    """Says a thing once, until it is over for everyone whom it concerns; ``silent`` where somebody else says it."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._concerned: dict[object, set[object]] = {}

    @property
    def lasting(self) -> bool:
        """Whether something was said that is not over."""
        return bool(self._concerned)

    def say(self, key: object, message: str, *values: object, who: object = None) -> None:
        """Log ``message``, unless ``key`` was said and has not ended since."""
        if self._silent:
            return
        said = key in self._concerned
        self._concerned.setdefault(key, set()).add(who)
        if not said:
            _logger.warning(message, *values)

    def end(self, key: object, message: str, *values: object, who: object = None) -> None:
        """Log ``message`` where ``key`` was said and ``who`` was the last whom it concerned."""
        concerned = self._concerned.get(key)
        if concerned is not None:
            concerned.discard(who)
            if not concerned:
                del self._concerned[key]
                _logger.warning(message, *values)
