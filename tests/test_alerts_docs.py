"""The pages on alerts and objectives, and the runbooks, say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from runbook_pages import RUNBOOKS, expressions

from otel_mlobs import semconv
from otel_mlobs.settings.alerting import Alerting, load_alerting
from otel_mlobs.settings.objectives import Objective, load_objectives
from otel_mlobs.tools.alerts import Alerts
from otel_mlobs.tools.alerts.operations import BURNS
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name, write_duration

if TYPE_CHECKING:
    from otel_mlobs.tools.alerts.definitions import Definition

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "mlobs.toml"
SECTIONS = ["What it means", "How to tell", "What to do", "When it is wrong"]
ROW = re.compile(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| (\w+) \| (\w+) \| (.+) \| (.+) \|$", re.MULTILINE)

# PromQL's own words
_FUNCTIONS = {
    "sum", "max", "min", "avg", "count", "group", "topk", "sort_desc", "rate", "increase", "histogram_quantile", "time",
    "timestamp", "max_over_time", "last_over_time", "avg_over_time", "predict_linear",
}  # fmt: skip
_WORDS = {"by", "without", "and", "or", "unless", "on", "ignoring", "group_left", "offset"}
_OF_PROMETHEUS = {"job", "instance", "le"}


def _definitions() -> dict[str, list[Definition]]:
    found: dict[str, list[Definition]] = {}
    for definitions in Alerts(load_objectives(str(EXAMPLE))).definitions().values():
        for definition in definitions:
            found.setdefault(definition.name, []).append(definition)
    return found


def _hold(name: str, definitions: list[Definition]) -> str:
    if name == "OperationErrors":  # the only one that an objective says
        return f"`errors_for` ({write_duration(Objective().errors_for)})"
    holds = [write_duration(each.hold) if each.hold else "at once" for each in definitions]
    return ", ".join(dict.fromkeys(holds))


def _metrics() -> set[str]:
    names = set()
    for metric in semconv.METRICS:
        name = prometheus_name(metric)
        names |= {name + end for end in ("_bucket", "_count", "_sum")} if metric.instrument == "histogram" else {name}
    rules = drift_rules() + outcome_rules() + Alerts().rules()
    return names | set(re.findall(r"^ +- record: (.+)$", rules, re.MULTILINE))


def _labels() -> set[str]:
    of_rules = set(re.findall(r"^ {10}(mlobs_\w+): ", drift_rules() + outcome_rules(), re.MULTILINE))
    of_metrics = {prometheus_name(each) for metric in semconv.METRICS for each in metric.attributes}
    return of_rules | of_metrics | _OF_PROMETHEUS


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """Named as the alert, which its link leads to; and the index lists each under its severity, once."""
    definitions = _definitions()
    assert set(RUNBOOKS) == set(definitions)
    index = (ROOT / "docs" / "runbooks" / "index.md").read_text(encoding="utf-8")
    listed: dict[str, str] = {}
    for section in index.split("\n## ")[1:]:
        for name in re.findall(r"^([A-Z]\w+)$", section, re.MULTILINE):
            assert name not in listed
            listed[name] = section.partition(":")[0].lower()
    assert listed == {name: of[0].severity for name, of in definitions.items()}


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_is_whole(name: str) -> None:
    """Title, the four sections, severity and cause, checks that are numbered and have PromQL; and it is short."""
    text = RUNBOOKS[name].read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    parts = [part.partition("\n")[2].strip() for part in text.split("\n## ")[1:]]
    assert all(len(part) > 80 for part in parts)
    (one,) = {(each.severity, each.cause) for each in _definitions()[name]}
    assert parts[0].startswith(f"**{one[0].capitalize()}, {one[1]}.**")
    assert re.search(r"^1\. .*^3\. ", parts[1], re.MULTILINE | re.DOTALL)
    assert re.search(r"^1\. .*^2\. ", parts[2], re.MULTILINE | re.DOTALL)
    assert expressions(RUNBOOKS[name])
    assert 25 <= len(text.splitlines()) <= 60


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_asks_for_what_there_is(name: str) -> None:
    """Every series in its PromQL is exported or recorded, and every label is one of ours or Prometheus' own."""
    for expression in expressions(RUNBOOKS[name]):
        rest = re.sub(r'"[^"]*"', '""', expression)
        labels = {
            label for inside in re.findall(r"\{([^}]*)\}", rest) for label in re.findall(r"(\w+)\s*(?:=|!)", inside)
        }
        rest = re.sub(r"\{[^}]*\}", " ", rest)
        rest = re.sub(r"\[[^\]]*\]", " ", rest)
        grouping = r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)"
        labels |= {
            label.strip() for inside in re.findall(grouping, rest) for label in inside.split(",") if label.strip()
        }
        rest = re.sub(grouping, " ", rest)
        names = set(re.findall(r"[a-zA-Z_][\w:]*", rest)) - _WORDS - _FUNCTIONS
        assert names
        assert names <= _metrics(), expression
        assert labels <= _labels(), expression


def test_the_table_of_alerts_is_the_codes() -> None:
    """Each alert is once in docs/alerts.md, in the code's order, with its severity, cause and hold."""
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8").partition("## All alerts")[2]
    stated = [(name, severity, cause, hold) for name, severity, cause, _, hold in ROW.findall(page)]
    assert stated == [(name, of[0].severity, of[0].cause, _hold(name, of)) for name, of in _definitions().items()]


def test_the_page_says_the_burn_rates_of_the_code() -> None:
    """Factors and windows, all three."""
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8").partition("## Burn rates")[2].partition("\n## ")[0]
    words = " ".join(page.split())
    for _, long, short, factor, _ in BURNS:
        times = "once" if factor == 1 else f"{factor:g} times"
        assert f"{times} over {long} and {short}" in words


@pytest.mark.parametrize("of", [Objective, Alerting])
def test_every_key_is_on_the_page(of: type[Objective | Alerting]) -> None:
    """docs/objectives.md has a row for each key, in the order of the code."""
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    section = page.partition("## Every key")[2].partition("\n## ")[0]
    first, second = section.split("`[alerting]` says", 1)
    rows = re.findall(r"^\| `(\w+)` \|", first if of is Objective else second, re.MULTILINE)
    assert rows == [field.name for field in fields(of)]


def test_the_example_is_read_whole() -> None:
    """Its objectives and receivers are checked as any file's, and it names a model and a view."""
    found = load_objectives(str(EXAMPLE))
    assert found.model("churn").latency == 0.05
    assert found.view("user_features").freshness == 900.0
    assert load_alerting(str(EXAMPLE)).page_key_file
