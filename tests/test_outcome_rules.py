"""Recording rules for outcomes: golden files, names, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_mlobs import semconv
from otel_mlobs.tools import cli
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import prometheus_name

GOLDEN = Path(__file__).parent / "golden"
RECORDED = re.compile(r"^ +- record: (.+)$", re.MULTILINE)
_OWN_SUFFIX = re.compile(r"_bucket$")


def _expressions(text: str) -> list[str]:
    """The PromQL of every rule, without comments and names."""
    return re.findall(r"expr: \|-\n((?: {10}.+\n)+)", text)


@pytest.mark.parametrize(
    ("name", "arguments"), [("outcomes.rules.yml", []), ("outcomes_totals.rules.yml", ["--totals"])]
)
def test_rules_are_the_golden_files(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints, byte for byte, the files that promtool has checked.

    After a change that is meant: `otel-mlobs rules --outcomes --output tests/golden/outcomes.rules.yml`, and likewise.
    """
    assert cli.main(["rules", "--outcomes", *arguments]) == 0
    assert capsys.readouterr().out == (GOLDEN / name).read_text(encoding="utf-8")


def test_arguments_reach_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """Window, interval and labels all change the file."""
    assert cli.main(["rules", "--outcomes", "--window", "7d", "--interval", "5m", "--by", "job, region"]) == 0
    text = capsys.readouterr().out
    assert "interval: 5m\n" in text
    assert "interval: 1m\n" not in text
    assert "increase(mlobs_outcomes_total[7d])" in text
    assert "model:mlobs_performance_realized:increase7d\n" in text
    assert "[1d]" not in text
    assert "sum by (job, region, mlobs_model_name, mlobs_model_version, mlobs_profile_id, " in text


@pytest.mark.parametrize("totals", [False, True])
def test_rules_use_what_stands_before_them(totals: bool) -> None:
    """Every recorded series that a rule reads is recorded by an earlier one; every other is one of the library's."""
    exported = {prometheus_name(metric) for metric in semconv.METRICS}
    text = outcome_rules(totals=totals)
    known: set[str] = set()
    read_from: set[str] = set()
    for name, expression in zip(RECORDED.findall(text), _expressions(text), strict=True):
        read = set(re.findall(r"\w+:\w+:\w+", expression))
        assert read <= known | {name}, name  # an interval reads the value, recorded under the same name
        read_from |= {_OWN_SUFFIX.sub("", series) for series in re.findall(r"\b(mlobs_\w+)(?:{[^}]*})?\[", expression)}
        known.add(name)
    assert read_from <= exported
    assert {prometheus_name(metric) for metric in (semconv.OUTCOMES, semconv.EXPECTED_OUTCOMES)} <= read_from
    assert len(known) > 30


@pytest.mark.parametrize("totals", [False, True])
def test_names_say_level_metric_and_operation(totals: bool) -> None:
    """Names follow Prometheus' convention for recording rules."""
    for name in RECORDED.findall(outcome_rules(totals=totals)):
        assert re.fullmatch(r"(model|class)(_\w+)?:mlobs_\w+:[a-z0-9_]+", name)


def test_groups_have_at_most_twenty_rules() -> None:
    """Mimir takes no more in a group by default."""
    groups = outcome_rules().split("  - name: ")[1:]
    assert max(len(RECORDED.findall(group)) for group in groups) <= 20


def test_no_label_but_the_librarys_own() -> None:
    """Every label of the rules is one of the exported metrics', a bucket's, tens of bins, or one that was asked for."""
    attributes = {attribute for metric in semconv.METRICS for attribute in metric.attributes}
    known = {prometheus_name(attribute) for attribute in attributes} | {"job", "le", "mlobs_bins"}
    named = re.findall(r"(?:by|on|without|ignoring) \(([^)]+)\)", outcome_rules())
    assert {label for names in named for label in names.split(", ")} <= known


def test_only_totals_read_counters_as_they_are() -> None:
    """Over a window every counter goes through `increase`, but for the probabilities of the profile."""
    windowed = [line for line in outcome_rules().splitlines() if "last_over_time" in line]
    assert all("mlobs_expected_outcome_scores_total" in line for line in windowed)
    assert "increase(" not in outcome_rules(totals=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "0s"], "window must be whole seconds above 0, got 0"),
        (["--interval", "0s"], "interval must be whole seconds above 0, got 0"),
        (["--window", "1h", "--interval", "2h"], "interval must be at most the window, 1h, got 2h"),
        (["--window", "a day"], "a duration must be written as 1h, 30m, 90s or 1h30m, got 'a day'"),
        (["--false-alarms-per-week", "2"], "--false-alarms-per-week is of --drift"),
        (["--by", "job,2"], "a label must be a name such as job or cloud_region, got '2'"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is status 2, and says what was expected."""
    assert cli.main(["rules", "--outcomes", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_one_kind_of_rules_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Drift and outcomes are two files."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["rules", "--drift", "--outcomes"])
    assert "not allowed with" in capsys.readouterr().err


def test_fractions_of_a_second_are_refused() -> None:
    """Names carry the window, so it is whole seconds."""
    with pytest.raises(ValueError, match=r"window must be whole seconds above 0, got 900\.5"):
        outcome_rules(window=900.5)
    with pytest.raises(ValueError, match="interval must be whole seconds above 0, got nan"):
        outcome_rules(interval=float("nan"))
