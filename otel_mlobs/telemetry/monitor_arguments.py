"""What a monitor's arguments may be; what is wrong raises at once, with what was expected."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from otel_mlobs.core.drift import METHODS
from otel_mlobs.settings.checks import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.core.profile import Profile

NO_OUTPUTS = "outcomes need a profile with outputs: fit it with outputs=, as Profile.fit describes"
NO_STORE = 'Monitor(profile, outcomes=OutcomeStore("…"))'


def positive(name: str, value: Any) -> float:
    """A finite number above 0, else a ValueError that says so."""
    checked = number(name, value, at_least=0.0)
    if checked <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return checked


def whole(name: str, value: Any, *, at_least: int) -> int:
    """A whole number from ``at_least``, else a ValueError that says so."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = at_least - 1
    if isinstance(value, bool) or whole < at_least:
        raise ValueError(f"{name} must be a whole number from {at_least}, got {value!r}")
    return whole


def checked_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """Names of distances, each once."""
    known = ("psi_adjusted", *METHODS)
    if not isinstance(methods, (list, tuple)) or not all(method in known for method in methods):
        raise ValueError(f"methods must be a list of some of {', '.join(known)}, got {methods!r}")
    return tuple(dict.fromkeys(methods))


def checked_unlabelled(unlabelled: Any, profile: Profile, maturity: float | str | None) -> str:
    """What a mature prediction without a label counts as, where profile and maturity allow it."""
    if unlabelled not in ("missing", "negative"):
        raise ValueError(f'unlabelled must be "missing" or "negative", got {unlabelled!r}')
    if unlabelled == "negative":
        if maturity is None:
            raise ValueError('unlabelled="negative" needs maturity=, as "7d": when is a missing label a negative one?')
        if profile.outputs is None or profile.outputs.kind != "score":
            raise ValueError('unlabelled="negative" is for models that answer with a score')
    return str(unlabelled)
