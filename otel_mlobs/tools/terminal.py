"""What the commands share of the terminal: what it can show, and a bar that shows how far they are."""

from __future__ import annotations

import sys


def shows_unicode() -> bool:
    """Whether standard output takes any character."""
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def printable(text: str) -> str:
    """``text`` as standard output can show it: what it cannot becomes a question mark."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def progress(done: int, size: int) -> None:
    """Draw a bar on standard error, over the one before."""
    filled = round(30 * done / size) if size else 30
    print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done / size if size else 1:4.0%}", end="", file=sys.stderr)
