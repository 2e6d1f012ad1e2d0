"""The runbooks of the documentation, and the PromQL in them."""

from __future__ import annotations

import re
from pathlib import Path

RUNBOOKS = {
    path.stem: path
    for path in sorted((Path(__file__).resolve().parent.parent / "docs" / "runbooks").glob("*.md"))
    if path.stem != "index"
}
"""The page of each alert."""

_FENCE = re.compile(r"^ *```text\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def expressions(page: Path) -> list[str]:
    """The PromQL of a page: what stands between blank lines of its blocks, which hold nothing else."""
    blocks = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [part.strip() for block in blocks for part in re.split(r"\n\s*\n", block) if part.strip()]
