"""Recording rules for drift: golden files, names, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_mlobs import semconv
from otel_mlobs.tools import cli
from otel_mlobs.tools.drift_rules import drift_rules
from otel_mlobs.tools.rules import label_names, parse_duration, prometheus_name, write_duration

GOLDEN = Path(__file__).parent / "golden"
RECORDED = re.compile(r"^ +- record: (.+)$", re.MULTILINE)


def _expressions(text: str) -> list[str]:
    """The PromQL of every rule, without comments and names."""
    return re.findall(r"expr: \|-\n((?: {10}.+\n)+)", text)


@pytest.mark.parametrize(("name", "arguments"), [("drift.rules.yml", []), ("drift_totals.rules.yml", ["--totals"])])
def test_rules_are_the_golden_files(name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints, byte for byte, the files that promtool has checked.

    After a change that is meant: `otel-mlobs rules --drift --output tests/golden/drift.rules.yml`, and likewise.
    """
    assert cli.main(["rules", "--drift", *arguments]) == 0
    assert capsys.readouterr().out == (GOLDEN / name).read_text(encoding="utf-8")


def test_output_names_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--output writes there and prints nothing."""
    path = tmp_path / "drift.rules.yml"
    assert cli.main(["rules", "--drift", "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == drift_rules()
    assert not capsys.readouterr().out


def test_a_folder_that_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be written ends with status 1 and names it."""
    path = tmp_path / "nowhere" / "drift.rules.yml"
    assert cli.main(["rules", "--drift", "--output", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_arguments_reach_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """Window, interval, false alarms and labels all change the file."""
    options = ["--window", "6h", "--interval", "1m", "--false-alarms-per-week", "0.5", "--by", "job, region"]
    assert cli.main(["rules", "--drift", *options]) == 0
    text = capsys.readouterr().out
    assert "interval: 1m\n" in text
    assert "interval: 30s\n" not in text
    for window in ("30m", "1h30m", "6h", "1d"):
        assert f"increase(mlobs_feature_observations_total[{window}])" in text
    assert "psi_adjusted:increase6h\n" in text
    assert "log10(20160 * count by (job, region, mlobs_model_name, " in text  # 10,080 minutes a week, half an alarm


@pytest.mark.parametrize("totals", [False, True])
def test_rules_use_what_stands_before_them(totals: bool) -> None:
    """Every recorded series that a rule reads is recorded by an earlier one; every other is one of the library's."""
    exported = {prometheus_name(metric) for metric in semconv.METRICS}
    text = drift_rules(totals=totals)
    known: set[str] = set()
    for name, expression in zip(RECORDED.findall(text), _expressions(text), strict=True):
        read = set(re.findall(r"\w+:\w+:\w+", expression))
        assert read <= known, name
        assert set(re.findall(r"\b(mlobs_\w+)\[", expression)) <= exported
        known.add(name)
    assert len(known) > 20


@pytest.mark.parametrize("totals", [False, True])
def test_names_say_level_metric_and_operation(totals: bool) -> None:
    """Names follow Prometheus' convention for recording rules."""
    for name in RECORDED.findall(drift_rules(totals=totals)):
        assert re.fullmatch(
            r"(feature|prediction)(_bin|_score|_alternative)?:mlobs_\w+:[a-z0-9_]+|model:mlobs_\w+:\w+", name
        )


def test_groups_have_at_most_twenty_rules() -> None:
    """Mimir takes no more in a group by default."""
    groups = drift_rules().split("  - name: ")[1:]
    assert max(len(RECORDED.findall(group)) for group in groups) <= 20


def test_no_label_but_the_librarys_own() -> None:
    """Every label of the rules is one of the exported metrics', one that was asked for, or one the rules add."""
    attributes = {attribute for metric in semconv.METRICS for attribute in metric.attributes}
    known = {prometheus_name(attribute) for attribute in attributes} | {"job", "mlobs_window", "mlobs_alternative"}
    named = re.findall(r"(?:by|on|without|ignoring) \(([^)]+)\)", drift_rules())
    assert {label for names in named for label in names.split(", ")} <= known


def test_no_fleet_labels() -> None:
    """Without labels to tell fleets apart, a model is one fleet wherever it is served."""
    text = drift_rules(by=())
    assert "on (mlobs_model_name, mlobs_model_version, mlobs_profile_id) group_left" in text
    assert "job" not in "".join(_expressions(text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "11m"], "window must be at least 12m .*, got 11m"),
        (["--window", "an hour"], "a duration must be written as 1h, 30m, 90s or 1h30m, got 'an hour'"),
        (["--window", ""], "a duration must be written as .*, got ''"),
        (["--interval", "0s"], "interval must be whole seconds above 0, got 0"),
        (["--interval", "6m"], "interval must be at most a twelfth of the window, 5m, got 6m"),
        (["--false-alarms-per-week", "0"], "false_alarms_per_week must be above 0 and below 20160 .*, got 0"),
        (["--false-alarms-per-week", "nan"], "false_alarms_per_week must be above 0 .*, got nan"),
        (["--by", "job,2"], "a label must be a name such as job or cloud_region, got '2'"),
        (["--by", "__name__"], "a label must be a name .*, got '__name__'"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is status 2, and says what was expected."""
    assert cli.main(["rules", "--drift", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_fractions_of_a_second_are_refused() -> None:
    """Names carry the window, so it is whole seconds."""
    with pytest.raises(ValueError, match=r"window must be whole seconds above 0, got 900\.5"):
        drift_rules(window=900.5)
    with pytest.raises(ValueError, match="window must be whole seconds above 0, got nan"):
        drift_rules(window=float("nan"))
    with pytest.raises(ValueError, match="interval must be whole seconds above 0, got inf"):
        drift_rules(interval=float("inf"))


def test_which_rules_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    """`otel-mlobs rules` alone names the options of which it needs one."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["rules"])
    assert "--drift --outcomes --alerts --tests --alertmanager --all is required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.0, "1s"), (90.0, "1m30s"), (3600.0, "1h"), (5400.0, "1h30m"), (1_209_600.0, "14d")]
)
def test_durations_go_round(seconds: float, text: str) -> None:
    """Seconds become Prometheus' words and back; weeks are read, too."""
    assert write_duration(seconds) == text
    assert parse_duration(text) == seconds
    assert parse_duration("2w") == 1_209_600.0


def test_a_duration_of_nothing_cannot_be_written() -> None:
    """Prometheus has no range of zero or of half a second."""
    for seconds in (0.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a duration must be whole seconds above 0, got"):
            write_duration(seconds)


def test_labels_are_split_at_commas() -> None:
    """Blanks do not matter, and none is none."""
    assert label_names(" job , cloud_region") == ("job", "cloud_region")
    assert label_names("") == ()


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (semconv.FEATURE_OBSERVATIONS, "mlobs_feature_observations_total"),
        (semconv.FEATURE_REFERENCE, "mlobs_feature_reference_ratio"),
        (semconv.PROFILE_ROWS, "mlobs_profile_rows"),
        (semconv.OPERATION_DURATION, "mlobs_operation_duration_seconds"),
        (semconv.OPERATION_ERRORS, "mlobs_operation_errors_total"),
        (semconv.OUTCOMES, "mlobs_outcomes_total"),
        (semconv.OUTCOME_SQUARED_ERROR, "mlobs_outcome_squared_error_total"),
        (semconv.OUTCOME_DELAY, "mlobs_outcome_delay_seconds"),
        (semconv.PERFORMANCE_RELIABLE, "mlobs_performance_reliable_ratio"),
        (semconv.Metric("a.duration.seconds", "gauge", "s", "", ()), "a_duration_seconds"),
        (semconv.Metric("hw.temperature", "gauge", "Cel", "", ()), "hw_temperature_celsius"),
        (semconv.Metric("hw.energy", "counter", "J", "", ()), "hw_energy_joules_total"),
        (semconv.Metric("a.share", "counter", "1", "", ()), "a_share_total"),
    ],
)
def test_prometheus_names(metric: semconv.Metric, name: str) -> None:
    """A metric's name is Prometheus' own; a real server is asked the same in the integration tests."""
    assert prometheus_name(metric) == name


def test_a_unit_without_a_name_is_refused() -> None:
    """Rather than a name that no server has."""
    with pytest.raises(ValueError, match=r"unit of a\.b must be .*, got 'furlong'"):
        prometheus_name(semconv.Metric("a.b", "gauge", "furlong", "", ()))
