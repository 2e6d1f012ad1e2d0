"""Runs the code of the documentation: the Python blocks of docs/*.md, docs/decisions/*.md and README.md.

A page's blocks share a namespace, from top to bottom. Providers of `otel_mlobs.testing.capture` are there first, so
that a page's `configure(...)` is resolved and checked but sends nothing; blocks that a reader does not see assert what
was emitted.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

_STACK = "_documentation_stack"


def _setup(namespace: dict[str, Any]) -> None:
    from otel_mlobs import testing
    from otel_mlobs.telemetry import config

    namespace["__name__"] = "__main__"  # Flask(__name__) looks for the folder of that module
    stack = ExitStack()
    # a page's code may write files
    folder = stack.enter_context(TemporaryDirectory())
    stack.callback(os.chdir, Path.cwd())
    os.chdir(folder)
    stack.enter_context(testing.strict())
    namespace["telemetry"] = stack.enter_context(testing.capture())
    namespace["no_demo"] = find_spec("flask") is None or find_spec("sklearn") is None
    before, config._state = config._state, config._State()
    stack.callback(setattr, config, "_state", before)
    namespace[_STACK] = stack


def _teardown(namespace: dict[str, Any]) -> None:
    namespace[_STACK].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["docs/*.md", "docs/decisions/*.md", "README.md"],
    setup=_setup,
    teardown=_teardown,
).pytest()
