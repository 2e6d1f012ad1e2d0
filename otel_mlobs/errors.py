"""The exceptions that a caller may want to tell apart; everything else is a built-in one."""

from __future__ import annotations


class ConfigurationError(ValueError):
    """A setting is wrong. The message names the setting, the offending value and what was expected.

    Raised by :func:`otel_mlobs.configure` before anything was changed: mend the setting and call it again.
    """


class MissingExtraError(ImportError):
    """An optional dependency is not installed. The message holds the exact ``pip install`` command."""

    def __init__(self, purpose: str, extra: str, missing: str) -> None:
        super().__init__(f"{purpose} needs {missing!r}: pip install 'otel-mlobs[{extra}]'", name=missing)
        self.extra = extra
