"""What the runbooks ask Prometheus is PromQL that it takes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from runbook_pages import RUNBOOKS, expressions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", RUNBOOKS)
def test_promtool_takes_what_a_runbook_asks(name: str, promtool: Path, tmp_path: Path) -> None:
    """Every expression is one that a rule may have: promtool parses all of them."""
    asked = expressions(RUNBOOKS[name])
    rules = [{"record": f"runbook:expression_{number}", "expr": text} for number, text in enumerate(asked)]
    path = tmp_path / "runbook.rules.yml"
    path.write_text(json.dumps({"groups": [{"name": name, "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout
