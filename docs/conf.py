"""Sphinx's configuration. The signals page is written from ``otel_mlobs.semconv`` before each build."""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "scripts"))

import signals_page  # noqa: E402 - it lies in scripts/

from otel_mlobs import __version__  # noqa: E402 - sorted after what it must follow

project = "otel-mlobs"
author = "The otel-mlobs authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

_docstrings: dict[str, list[str]] = {}


def _keep_docstring(_app: object, what: str, name: str, _object: object, _options: object, lines: list[str]) -> None:
    if what in ("attribute", "data", "property"):
        _docstrings[name] = list(lines)


def _restore_docstring(
    _app: object, _what: str, name: str, _object: object, _options: object, lines: list[str]
) -> None:
    if name in _docstrings:
        lines[:] = _docstrings[name]


def setup(app: Any) -> None:
    """Keep napoleon from reading a property's "what it is: when" as "type: what it is"."""
    app.connect("autodoc-process-docstring", _keep_docstring, priority=400)
    app.connect("autodoc-process-docstring", _restore_docstring, priority=600)


html_theme = "furo"
html_title = f"otel-mlobs {release}"
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it in words; overloads of eight lines do not help a reader
autodoc_preserve_defaults = True

# Other projects' pages are not linked, so that the build needs no network; our own names must all resolve.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|typing|os|contextlib|flask|opentelemetry|numpy|logging|pytest)\..*"),
    ("py:.*", "|".join(re.escape(name) for name in dir(builtins))),
]

(DOCS / "signals.md").write_text(signals_page.render(), encoding="utf-8")
nitpick_ignore = [("py:class", name) for name in ("OutputKind", "Category", "Status")]  # of annotations alone
