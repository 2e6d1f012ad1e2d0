"""``instrument()``: patch the libraries that are installed, found by entry point so that none is imported unasked."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

GROUP = "otel_mlobs_integrations"
"""The entry-point group; each names a module with ``instrument()`` and ``uninstrument()``."""

_LIBRARIES = {"nvml": "pynvml"}
"""What is imported, where that is not the integration's name."""

_active: dict[str, EntryPoint] = {}


def instrument(*names: str) -> tuple[str, ...]:
    """Instrument the named libraries, or every installed one that is known, and return the names of those active.

    Raises:
        ValueError: a name is not known.
        MissingExtraError: a named library is not installed.
    """
    known = _known(names)
    for name in names or sorted(known):
        if name in _active or (not names and find_spec(_LIBRARIES.get(name, name)) is None):
            continue
        integration = known[name].load()
        if not names and not getattr(integration, "present", _always)():
            continue
        integration.instrument()
        _active[name] = known[name]
    return tuple(sorted(_active))


def uninstrument(*names: str) -> None:
    """Undo :func:`instrument` for the named libraries, or for all.

    Raises:
        ValueError: a name is not known.
    """
    _known(names)
    for name in names or tuple(_active):
        found = _active.pop(name, None)
        if found is not None:
            found.load().uninstrument()


def _always() -> bool:
    return True


def active() -> tuple[str, ...]:
    """The names of the libraries that are instrumented now."""
    return tuple(sorted(_active))


def _known(names: tuple[str, ...]) -> dict[str, EntryPoint]:
    known = {point.name: point for point in entry_points(group=GROUP)}
    for name in names:
        if name not in known:
            raise ValueError(f"no integration is called {name!r}; known are {', '.join(sorted(known)) or 'none'}")
    return known
