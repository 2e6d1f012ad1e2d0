"""The TOML file that ``MLOBS_CONFIG`` names: read whole, and with the line of what is wrong in it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_mlobs.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("configure", "objectives", "alerting")
"""What may be in the file."""

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\s*({_KEY})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEY})\s*=")


def instead(wrong: str, names: Sequence[str]) -> str:
    """What to write instead of a name that is not among ``names``: the nearest that is, or which there are."""
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"


@dataclass(frozen=True)
class TomlFile:
    """A file's tables, and where in it each of them is."""

    path: str
    content: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]

    def table(self, *keys: str) -> Mapping[str, Any]:
        """The table at ``keys``, empty where there is none; what is no table raises."""
        found: Any = self.content
        for depth, key in enumerate(keys, 1):
            found = found.get(key, {})
            if not isinstance(found, Mapping):
                raise ConfigurationError(f"{self.where(*keys[:depth])} must be a table, got a {type(found).__name__}")
        return found  # type: ignore[no-any-return]

    def where(self, *keys: str) -> str:
        """The file, the line and the key, to begin a message with; without the line where it cannot be told."""
        depth = next((depth for depth in range(len(keys), 0, -1) if keys[:depth] in self.lines), 0)
        line = f", line {self.lines[keys[:depth]]}" if depth else ""
        return f"{self.path}{line}: {'.'.join(keys)}"

    def known(self, keys: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Raise for a key of the table at ``keys`` that is not among ``names``, and name the nearest that is."""
        for key in self.table(*keys):
            if key not in names:
                what = f"there is no key {key!r}" if keys else f"there is no table {key!r}"
                raise ConfigurationError(f"{self.where(*keys, key)}: {what}; {instead(key, names)}")


EMPTY = TomlFile("", {}, {})


def read(path: str, blame: str = "MLOBS_CONFIG") -> TomlFile:
    """The file at ``path``; what cannot be read, is no TOML or has an unknown table raises ``ConfigurationError``."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
        found = TomlFile(path, tomllib.loads(text), _lines(text))
    except OSError as error:
        raise ConfigurationError(f"{blame}={path!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    found.known((), TABLES)
    return found


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of every table and key that stands at a line's beginning; what is in an inline table has its line."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = _TABLE.match(line)
        if header:
            table = _parts(header.group(1))
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            parts = _parts(assignment.group(1))
            for depth in range(1, len(parts) + 1):
                lines.setdefault((*table, *parts[:depth]), number)
    return lines


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))
