"""``otel-mlobs outcomes``: labels of a file joined once, figures by prediction time, no secret on the command line."""

from __future__ import annotations

import json
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
        (["{labels}", "--store", "memory:"], "a store in memory is empty"),
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


@pytest.mark.slow
def test_a_store_that_is_down_is_an_error_of_the_command(labels: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch job must not believe that it has joined."""
    assert main(["outcomes", labels, "--store", "redis://127.0.0.1:1/0"]) == 1
    assert capsys.readouterr().err
