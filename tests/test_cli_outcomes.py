"""``otel-mlobs outcomes``: labels of a file joined once, figures by prediction time, no secret on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ibis")
pytest.importorskip("sqlalchemy")

import otel_mlobs as mlobs
from otel_mlobs.tools.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis 12 with DuckDB 2


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store of SQLite with ten predictions: the scores 0.05, 0.15, … 0.95 by the ids o0 … o9."""
    numbers = np.random.default_rng(1)
    scores = numbers.random(500)
    labels = (numbers.random(500) < scores).astype(int)
    profile = mlobs.Profile.fit(scores.reshape(-1, 1), outputs=scores, labels=labels, model="shop", version="2")
    profile.save(tmp_path / "shop.profile.json")
    where = f"sqlite:///{tmp_path / 'outcomes.sqlite'}"
    store = mlobs.OutcomeStore(where)
    monitor = mlobs.Monitor(profile, outcomes=store)
    made = np.arange(10) / 10 + 0.05
    monitor.observe(made.reshape(-1, 1), made, prediction_id=[f"o{n}" for n in range(10)])
    assert store.flush(10.0)
    monitor.close()
    store.close()
    return where


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """Labels of the first eight, one stranger, one row without a label."""
    lines = ["prediction_id,label,amount,unit"]
    lines += [f"o{n},{int(n >= 4)},{10 * n},EUR" for n in range(8)]
    lines += ["nobody,1,1,EUR", "o9,,1,EUR"]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_labels_are_joined_once_and_figures_are_by_prediction_time(
    url: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run joins nothing; cells, coverage and value are those of the eight labels."""
    command = ["outcomes", labels, "--store", url, "--value", "amount", "--currency", "unit", "--profile",
               str(tmp_path / "shop.profile.json"), "--json"]  # fmt: skip
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["labels"] == {
        "rows": 10, "joined": 8, "duplicate": 0, "conflict": 0, "late": 0, "unknown": 1, "missing": 1,
        "invalid": 0, "reason": "",
    }  # fmt: skip
    found = said["performance"]
    assert (found["predictions"], found["labelled"], found["coverage"]) == (10, 8, 0.8)
    assert found["figures"]["precision"][0] == 1.0
    assert found["figures"]["recall"][0] == 0.75
    assert found["value"] == {"tp EUR": 180.0, "fn EUR": 40.0, "tn EUR": 60.0}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["duplicate"] == 8


def test_what_a_person_reads(url: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on the labels, one on what the figures rest on, then the figures."""
    assert main(["outcomes", labels, "--store", url, "--profile", str(tmp_path / "shop.profile.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10 labels: 8 joined, 1 unknown, 1 missing"
    assert lines[2].startswith("median delay of a label: ")
    assert lines[1] == "by prediction time: 10 predictions, 8 of them with a label (coverage 80.0%)"
    assert any(line.split()[:2] == ["recall", "0.7500"] for line in lines)


def test_a_password_on_the_command_line_is_refused(labels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Others on the machine could read it; the message does not repeat it."""
    assert main(["outcomes", labels, "--store", "redis://:hunter2@localhost/0"]) == 2
    said = capsys.readouterr().err
    assert "MLOBS_STORE_PASSWORD" in said
    assert "hunter2" not in said


def test_the_store_may_be_named_by_the_environment(
    url: str, labels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLOBS_STORE_URL holds it where --store does not."""
    monkeypatch.setenv("MLOBS_STORE_URL", url)
    assert main(["outcomes", labels]) == 0
    assert "8 joined" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a FILE of labels"),
        (["{labels}", "--id", "order"], "no column for --id order; it has prediction_id"),
        (["{labels}", "--metrics-endpoint", "http://localhost:1"], "give both"),
        (["{labels}", "--profile", "{profile}", "--since", "yesterday"], "--since must be a date"),
        (
            ["{labels}", "--profile", "{profile}", "--since", "2026-02-01", "--until", "2026-01-01"],
            "--until must not be before --since, got 2026-02-01 and 2026-01-01",
        ),
        (["{labels}", "--store", "memory:"], "a store in memory is empty"),
        (["{labels}", "--value", "unit"], "column 'unit', row 1: value must be a number from 0, as 12.50, got 'EUR'"),
        (["{labels}", "--value", "amount", "--currency", "label"], "column 'label', row 1: currency must be"),
        (["{labels}", "--time", "amount"], "column 'amount', row 1: a time must be a datetime, ISO text"),
    ],
)
def test_a_wrong_call_says_what_is_missing(
    arguments: list[str], message: str, url: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and the fix."""
    words = {"labels": labels, "profile": str(tmp_path / "shop.profile.json")}
    given = ["outcomes", "--store", url, *(one.format(**words) for one in arguments)]
    assert main(given) == 2
    assert message in capsys.readouterr().err


def written(folder: Path, *lines: str, name: str = "day.csv") -> str:
    """A file of labels."""
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def test_labels_that_the_profile_cannot_have_are_not_stored(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of them is told, and what they must be; the right ones join afterwards."""
    profile = ["--store", url, "--profile", str(tmp_path / "shop.profile.json")]
    wrong = written(tmp_path, "prediction_id,label", *(f"o{n},{'yes' if n % 2 else 'no'}" for n in range(10)))
    assert main(["outcomes", wrong, *profile]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == ("10 labels: 0 joined, 10 invalid: labels must be 0 or 1 (got text 'no' first)")
    assert "no label could be joined: labels must be 0 or 1" in said.err
    right = written(tmp_path, "prediction_id,label", *(f"o{n},{n % 2}" for n in range(10)))
    assert main(["outcomes", right, *profile]) == 0
    assert capsys.readouterr().out.startswith("10 labels: 10 joined\n")


@pytest.mark.parametrize("lines", [(), ("prediction_id,label",)])
def test_a_day_without_labels_is_no_error(
    lines: tuple[str, ...], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a header or without one."""
    assert main(["outcomes", written(tmp_path, *lines), "--store", url]) == 0
    assert capsys.readouterr().out == "0 labels\n"


def test_rows_are_numbered_through_the_whole_file(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times with a Z are read; the one that is none is named by its row, 12,001 rows behind the header."""
    rows = [f"x{n},1,2025-01-01T00:00:{n % 60:02}Z" for n in range(12_000)]
    path = written(tmp_path, "prediction_id,label,at", *rows, "o1,1,1st of May")
    assert main(["outcomes", path, "--store", url, "--time", "at"]) == 2
    assert "column 'at', row 12,001: a time must be" in capsys.readouterr().err


def test_where_nothing_joins_it_says_what_to_check(
    url: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another namespace, or a column that holds no ids of predictions."""
    assert main(["outcomes", labels, "--store", url, "--namespace", "other"]) == 1
    said = capsys.readouterr()
    assert said.out == "10 labels: 0 joined, 9 unknown, 1 missing\n"
    assert "--namespace other is the store that the predictions were registered with, and that --id" in said.err
    assert main(["outcomes", labels, "--store", url, "--id", "amount"]) == 1
    assert "that --id amount holds their ids" in capsys.readouterr().err


def test_a_profile_that_no_prediction_is_of_is_said(
    url: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the models that the store has."""
    scores = np.random.default_rng(2).random(500)
    mlobs.Profile.fit(scores.reshape(-1, 1), outputs=scores, labels=(scores > 0.5).astype(int), model="other").save(
        tmp_path / "other.json"
    )
    assert main(["outcomes", labels, "--store", url, "--profile", str(tmp_path / "other.json")]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["10 labels: 8 joined, 1 unknown, 1 missing", "by prediction time: 0 predictions"]
    assert "no prediction of other with this very profile" in said.err
    assert "it has shop 2 (" in said.err
    shop = ["outcomes", "--store", url, "--profile", str(tmp_path / "shop.profile.json"), "--until", "2020-01-01"]
    assert main(shop) == 0, "a quiet time is no error"


def test_no_new_database_is_made(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped path would be an empty store."""
    assert main(["outcomes", labels, "--store", f"sqlite:///{tmp_path}/typo.db"]) == 1
    assert f"No such database, and a new one would hold no predictions: {tmp_path}/typo.db" in capsys.readouterr().err
    assert not (tmp_path / "typo.db").exists()


def test_predictions_that_are_too_young_are_told_as_such(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not as predictions without a label."""
    shop = ["outcomes", "--store", url, "--profile", str(tmp_path / "shop.profile.json"), "--maturity", "7d"]
    assert main(shop) == 0
    assert capsys.readouterr().out == "by prediction time: 10 predictions, 0 mature\n"


def test_what_reads_the_file_is_named_where_it_is_missing(
    url: str, labels: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the file, not with the profile that nobody makes."""
    monkeypatch.setitem(sys.modules, "ibis", None)
    assert main(["outcomes", labels, "--store", url]) == 2
    said = capsys.readouterr().err
    assert f"reading {labels} needs 'ibis-framework[duckdb]': pip install 'otel-mlobs[profile]'" in said


@pytest.mark.slow
def test_a_store_that_is_down_is_an_error_of_the_command(labels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch job must not believe that it has joined."""
    assert main(["outcomes", labels, "--store", "redis://127.0.0.1:1/0"]) == 1
    assert capsys.readouterr().err
