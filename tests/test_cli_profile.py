"""``otel-mlobs profile``: what it fits, prints and refuses."""

from __future__ import annotations

import io
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.profile import Column, Profile
from otel_mlobs.tools import cli, histograms, profiles

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("ibis")
pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # ibis 12 with DuckDB 2

ROWS = 2_000


def _columns() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    age = rng.normal(40.0, 10.0, ROWS)
    age[:50] = np.nan
    score = rng.random(ROWS)
    return {
        "age": age,
        "visits": rng.poisson(3, ROWS),
        "plan": rng.choice(["basic", "plus"], ROWS, p=[0.75, 0.25]),
        "member": rng.random(ROWS) < 0.4,
        "score": score,
        "churned": (rng.random(ROWS) < score).astype(int),
    }


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Training data as Parquet."""
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table(_columns()), path)
    return path


@pytest.fixture
def fitted(train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The profile of the training data, as the command writes it."""
    path = tmp_path / "churn.profile.json"
    assert cli.main(_arguments(train, path, "--version", "3", "--outputs", "score", "--labels", "churned")) == 0
    capsys.readouterr()
    return path


def _arguments(source: Path | str, output: Path, *more: str) -> list[str]:
    return ["profile", str(source), "--output", str(output), "--model", "churn", *more]


def test_a_parquet_file_becomes_a_profile(train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is what Profile.fit makes of the same columns, and the summary says what is in it."""
    output = tmp_path / "churn.profile.json"
    assert cli.main(_arguments(train, output, "--version", "3", "--outputs", "score", "--labels", "churned")) == 0
    expected = Profile.fit(_columns(), outputs="score", labels="churned", model="churn", version="3")
    assert Profile.load(output).id == expected.id
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == f"{output}: model churn, version 3, id {expected.id}"
    assert lines[1] == "2,000 rows; 4 features (2 numeric, 1 categorical, 1 boolean); outputs: score"
    assert lines[2].startswith("calibration: scores are off by 0.0")
    assert lines[2].endswith("on average; estimates take them as they are")
    assert lines[3] == "threshold: 0.5"
    assert lines[4] == "missing: age 2.50%"
    assert lines[5].startswith("cannot tell from chance: shifts below 0.1")
    assert "(with 10,000 rows: 0.0" in lines[5]
    assert lines[6:] == ["numeric: age, visits", "boolean: member", "categorical: plan"]
    assert printed.err == ""


def test_features_are_chosen(train: Path, tmp_path: Path) -> None:
    """--features, --exclude, --categorical and --bins reach the fit."""
    output = tmp_path / "p.json"
    more = ("--features", "visits", "age", "plan", "--exclude", "plan", "--categorical", "visits", "--bins", "4")
    assert cli.main(_arguments(train, output, *more)) == 0
    profile = Profile.load(output)
    assert profile.names == ("visits", "age")
    assert profile.features[0].bins.kind == "categorical"
    assert len(profile.features[1].bins.edges) == 3
    assert profile.version is None


def test_a_csv_file_gives_the_profile_of_the_parquet_file(train: Path, tmp_path: Path) -> None:
    """Text is read to the last digit; NA and empty fields are missing, inf is a number."""
    columns = _columns()
    columns["age"][50] = math.inf
    names = list(columns)
    lines = [",".join(names)]
    for row in zip(*columns.values(), strict=True):
        values = [value.item() if isinstance(value, np.generic) else value for value in row]
        lines.append(",".join("NA" if value != value else repr(value).strip("'") for value in values))  # noqa: PLR0124
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines))
    assert cli.main(_arguments(path, tmp_path / "p.json")) == 0
    assert Profile.load(tmp_path / "p.json").id == Profile.fit(columns, model="churn").id


def test_text_is_typed_as_live_traffic_has_it(tmp_path: Path) -> None:
    """Only true and false are booleans, what has leading zeros is text, and what else are numbers are numbers."""
    path = tmp_path / "train.csv"
    path.write_text("answer,zip,member,amount\n" + "yes,01067,true,+5\nno,10115,False,inf\n,,NA,1.5\n" * 20)
    assert cli.main(_arguments(path, tmp_path / "p.json")) == 0
    columns = {
        "answer": ["yes", "no", None] * 20,
        "zip": ["01067", "10115", None] * 20,
        "member": [True, False, None] * 20,
        "amount": [5.0, math.inf, 1.5] * 20,
    }
    assert Profile.load(tmp_path / "p.json").id == Profile.fit(columns, model="churn").id


@pytest.mark.parametrize("name", ["a;b", "a\tb", "a|b", "a,b"])
def test_a_wrong_delimiter_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of one column whose name holds a delimiter was cut at the wrong character."""
    path = tmp_path / "train.csv"
    path.write_text(f'"{name}"\n1\n2\n')
    assert cli.main(_arguments(path, tmp_path / "p.json")) == 2
    assert f"looks like the wrong delimiter: its only column is {name!r}" in capsys.readouterr().err


def test_an_identifier_says_about_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The approximate count never exceeds the rows, and text that is mostly numbers is called that."""
    path = tmp_path / "train.csv"
    lines = [f"user {row},{row if row % 10 else 'about ' + str(row)}" for row in range(5_000)]
    path.write_text("\n".join(["user,amount", *lines]))
    assert cli.main(_arguments(path, tmp_path / "p.json")) == 2
    message = capsys.readouterr().err
    counts = re.findall(r"looks like an identifier: about (\d+) distinct values on 5000 rows", message)
    assert len(counts) == 2
    assert all(4_000 < int(count) <= 5_000 for count in counts)
    assert "column 'amount' is mostly numbers (numbers as text?), and looks like" in message
    assert "column 'user' looks like" in message


def test_the_first_line_has_the_names(tmp_path: Path) -> None:
    """Names that are numbers are names, not a row."""
    path = tmp_path / "train.csv"
    path.write_text("2023,2024\n" + "1,2\n3,4\n" * 30)
    assert cli.main(_arguments(path, tmp_path / "p.json")) == 0
    columns = {"2023": [1, 3] * 30, "2024": [2, 4] * 30}
    assert Profile.load(tmp_path / "p.json").id == Profile.fit(columns, model="churn").id


def test_several_files_are_one_table(tmp_path: Path) -> None:
    """A quoted pattern names the parts of a table, read together."""
    columns = _columns()
    for part in (0, 1):
        piece = {name: values[part::2] for name, values in columns.items()}
        pq.write_table(pa.table(piece), tmp_path / f"part-{part}.parquet")
    assert cli.main(_arguments(str(tmp_path / "part-*.parquet"), tmp_path / "p.json")) == 0
    assert Profile.load(tmp_path / "p.json").id == Profile.fit(columns, model="churn").id


def test_a_query_is_counted_by_its_database(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SQL query on a database's URL gives the profile of its rows; the URL may come from the environment."""
    ibis = pytest.importorskip("ibis")
    store = tmp_path / "store.duckdb"
    connection = ibis.duckdb.connect(store)
    connection.raw_sql(f"CREATE TABLE customers AS FROM '{train}'")
    connection.disconnect()
    query = [
        "profile",
        "--query",
        "SELECT age, plan FROM customers;",
        "-o",
        str(tmp_path / "p.json"),
        "--model",
        "churn",
    ]
    assert cli.main([*query, "--database", f"duckdb:///{store}"]) == 0
    expected = Profile.fit({name: _columns()[name] for name in ("age", "plan")}, model="churn").id
    assert Profile.load(tmp_path / "p.json").id == expected
    monkeypatch.setenv("CUSTOMERS", f"duckdb:///{store}")
    (tmp_path / "p.json").unlink()
    assert cli.main([*query, "--database-env", "CUSTOMERS"]) == 0
    assert Profile.load(tmp_path / "p.json").id == expected
    capsys.readouterr()
    query[2] = "SELECT nothing FROM customers"
    assert cli.main([*query, "--database-env", "CUSTOMERS"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "nothing" in message


@pytest.mark.filterwarnings("ignore:.*infer_string")  # ibis 12 with pandas 3, for sqlite
@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_database_that_is_a_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three slashes begin a relative path, four an absolute one; what does not exist is refused, not created."""
    ibis = pytest.importorskip("ibis")
    monkeypatch.chdir(tmp_path)
    connection = getattr(ibis, kind).connect("t.file")
    connection.raw_sql("CREATE TABLE t AS SELECT 1 AS a UNION ALL SELECT 2")
    connection.disconnect()
    fit = ["profile", "--query", "SELECT a FROM t", "-o", "p.json", "--model", "m", "--database"]
    for url in (f"{kind}:///t.file", f"{kind}:///{tmp_path}/t.file", f"{kind}://t.file"):
        assert cli.main([*fit, url]) == 0
        assert Profile.load("p.json").rows == 2
    capsys.readouterr()
    assert cli.main([*fit, f"{kind}:///none.file"]) == 1
    assert capsys.readouterr().err == "otel-mlobs profile: No such file: none.file\n"
    assert cli.main([*fit, f"{kind}://{tmp_path}/t.file"]) == 1
    assert "No such file (four slashes begin an absolute path): " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "t.file"]
    with pytest.raises(SystemExit):
        cli.main(["profile", "fit", "--help"])
    assert f"{kind}:///file.{kind}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give a FILE or a --query"),
        (("train.parquet", "--query", "SELECT 1"), "give a FILE or a --query"),
        (("train.parquet", "--database", "duckdb://x"), "where a --query runs"),
        (("--query", "SELECT 1"), "needs --database URL or --database-env"),
        (("--query", "SELECT 1", "--database", "x.db"), "must be a URL such as"),
        (("--query", "SELECT 1", "--database-env", "NOT_SET"), "names NOT_SET, which is not set"),
        (("--query", "SELECT 1", "--database", "postgresql://u:hush@h/d"), "others on this machine can read"),
        (("train.txt",), "expected a file that ends with one of .parquet"),
        (("damaged.parquet",), "damaged.parquet: "),
        (("train.parquet", "--features", "height"), "['height']"),
        (("train.parquet", "--labels", "churned"), "--outputs"),
        (("dates.parquet",), "or leave it out with --exclude"),
    ],
)
def test_a_wrong_call_is_one_line(
    train: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    said: str,
) -> None:
    """What cannot be done ends with code 2, one line that names the option, no password, and no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.parquet").write_text("nothing of the kind")
    pq.write_table(pa.table({"when": pa.array([0], pa.timestamp("s"))}), tmp_path / "dates.parquet")
    assert cli.main(["profile", "fit", *more, "--output", "p.json", "--model", "churn"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("otel-mlobs profile: ")
    assert said in message
    assert "hush" not in message
    assert message.count("\n") == 1
    assert not (tmp_path / "p.json").exists()


def test_what_is_not_there_is_named(train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, and a folder to write to that is missing, are found before anything is counted."""
    assert cli.main(_arguments("/nowhere/x.parquet", tmp_path / "p.json")) == 1
    assert "No such file: /nowhere/x.parquet" in capsys.readouterr().err
    assert cli.main(_arguments(train, tmp_path / "not" / "there.json")) == 1
    assert f"No such folder: {tmp_path / 'not'}" in capsys.readouterr().err


def test_a_database_that_refuses_does_not_print_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a driver says is passed on without the password, however the URL writes it."""
    ibis = pytest.importorskip("ibis")

    def refuse(url: str) -> None:
        raise sqlite3.OperationalError(f"cannot open {url} with h%sh or h%20sh: h sh\nmore")

    monkeypatch.setattr(ibis, "connect", refuse)
    monkeypatch.setenv("STORE", "postgresql://u:h%20sh@db.example/d")
    arguments = ["profile", "--query", "SELECT 1", "--database-env", "STORE", "-o", str(tmp_path / "p"), "--model", "m"]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        "otel-mlobs profile: the database at postgresql://db.example/d: "
        "cannot open postgresql://u:***@db.example/d with h%sh or ***: ***\n"
    )


def test_a_bar_is_drawn_on_a_terminal(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error shows how far the fit is where it is a terminal, up to the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(_arguments(train, tmp_path / "p.json")) == 0
    drawn = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert drawn.count("\r") >= 6
    assert drawn.endswith("[##############################] 100%\n")


def test_show_draws_every_column(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a feature and output: a histogram, what is in it, what is missing."""
    assert cli.main(["profile", "show", str(fitted)]) == 0
    lines = {line[:12].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "2.50%" in lines["age"]
    assert "±" in lines["age"]
    assert "█" in lines["age"]
    assert "basic 7" in lines["plan"]
    assert "False" in lines["member"]
    assert "█" in lines["output score"]


def test_show_keeps_to_what_the_terminal_takes(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Where standard output takes ASCII alone, the histograms are ASCII."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["profile", "show", str(fitted)]) == 0
    assert cli.main(["profile", "diff", str(fitted), str(fitted)]) == 0
    output.seek(0)
    assert "@" in output.read()


def test_show_of_no_profile(train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no profile is refused in one line."""
    assert cli.main(["profile", "show", str(train)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_called_show_is_reached_by_its_path(
    train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """./show is a file; show is the action."""
    monkeypatch.chdir(tmp_path)
    train.rename("show")
    assert cli.main(_arguments("./show", tmp_path / "p.json")) == 2
    assert "expected a file that ends with one of" in capsys.readouterr().err


def test_diff_says_what_changed(fitted: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns added and removed, cells changed, PSI where cells are equal, the larger first."""
    columns = _columns()
    columns["member"] = ~columns["member"]
    columns["age"] = columns["age"] + 5
    columns["new"] = columns.pop("visits")
    other = tmp_path / "other.json"
    Profile.fit(columns, outputs="score", labels="churned", model="churn", version="4").save(other)
    assert cli.main(["profile", "diff", str(fitted), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{fitted}: model churn, version 3, id ")
    assert lines[1].startswith(f"{other}: model churn, version 4, id ")
    assert lines[0].endswith(", 2,000 rows")
    assert lines[2:4] == ["added: new", "removed: visits"]
    table = {line[:12].strip(): line[12:].split() for line in lines[6:]}
    assert next(iter(table)) == "age"
    mean, std = (getattr(Profile.load(fitted).features[0], name) for name in ("mean", "std"))
    moments = [f"{mean:.4g}", "±", f"{std:.3g}", "→", f"{mean + 5:.4g}", "±", f"{std:.3g}"]
    assert table["age"] == ["2.50%", *moments, "edges", "differ", "(10", "→", "10", "cells)"]
    assert lines[-1] == f"edges differ: fit the second with --like {fitted} to compare them bin by bin"
    share = _columns()["member"].mean()
    assert float(table["member"][0]) == pytest.approx(2 * (1 - 2 * share) * math.log((1 - share) / share), rel=0.01)
    assert table["plan"] == ["0.0000", "0.00%", "same"]


def test_like_makes_two_profiles_comparable(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Fitted with --like, the second has the first's bins, and diff has a PSI for every column."""
    columns = _columns()
    columns["age"] = columns["age"] + 5
    pq.write_table(pa.table(columns), tmp_path / "later.parquet")
    other = tmp_path / "other.json"
    more = ("--outputs", "score", "--labels", "churned", "--like", str(fitted))
    assert cli.main(_arguments(tmp_path / "later.parquet", other, *more)) == 0
    expected = Profile.fit(columns, outputs="score", labels="churned", model="churn", like=Profile.load(fitted))
    assert Profile.load(other).id == expected.id
    capsys.readouterr()
    assert cli.main(["profile", "diff", str(fitted), str(other)]) == 0
    printed = capsys.readouterr().out
    age = next(line.split() for line in printed.splitlines() if line.startswith("age "))
    assert float(age[1]) > 0.1
    assert age[-1] == "same"
    assert "--like" not in printed
    assert cli.main(_arguments(tmp_path / "later.parquet", other, *more, "--exclude", "age")) == 2
    assert capsys.readouterr().err.startswith("otel-mlobs profile: --like fixes the features")


def test_show_names_the_cells(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--bins says for each cell's name in a metric what the cell holds, and how much of the rows."""
    assert cli.main(["profile", "show", "--bins", str(fitted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    age, plan = Profile.load(fitted).features[0], Profile.load(fitted).features[2]
    start = lines.index("age")
    cells = [re.split(r"  +", line.strip()) for line in lines[start + 1 : start + 13]]
    edges = [f"{edge:.6g}" for edge in age.bins.edges]
    assert cells[0][:2] == ["b00", f"up to {edges[0]}"]
    assert cells[7][:2] == ["b07", f"{edges[6]} … {edges[7]}"]
    assert cells[9][:2] == ["b09", f"above {edges[8]}"]
    assert cells[10] == ["missing", "2.50%"]
    assert cells[11][0] == "nonfinite"
    start = lines.index("plan")
    assert lines[start + 1].split() == ["c00", "basic", f"{plan.shares[0]:.1%}"]


def test_ranges_of_close_edges_differ() -> None:
    """Edges that few digits do not tell apart are written in full; no edge at all is every number."""
    close = _numeric((1.0, 1.000000001), (1, 1, 1), 0.0, 2.0, 0.5, 1.0, 1.5)
    assert profiles.cell_ranges(close, unicode=False) == ["up to 1.0", "1.0 ... 1.000000001", "above 1.000000001"]
    assert profiles.cell_ranges(_numeric((), (1,), 1.0, 1.0, 1.0), unicode=True) == ["every number"]


def test_a_foreign_profile_does_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in the names of models, features and categories are written out."""
    hostile = "x\x1b[2J\x07\r\u202e"
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for path, shift in zip(paths, (0, 1), strict=True):
        columns = {
            hostile: [hostile, "b"] * 50,
            hostile + "n": [float(row + shift) for row in range(100)],
            hostile + str(shift): [1.0] * 100,
        }
        Profile.fit(columns, model=hostile, version=hostile).save(path)
    assert cli.main(["profile", "show", "--bins", paths[0]]) == 0
    assert cli.main(["profile", "diff", *paths]) == 0
    printed = capsys.readouterr().out
    assert "x\\x1b[2J\\x07\\r\\u202e" in printed
    assert all(character.isprintable() for line in printed.split("\n") for character in line)


def test_a_closed_pipe_is_silent(fitted: Path) -> None:
    """Where the reader of standard output has gone, the command ends without a word."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "otel_mlobs.tools.cli", "profile", "show", str(fitted)],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 141
    assert ended.stderr == b""


def test_show_says_how_right_the_scores_were(
    fitted: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tenth of the rows a line: what the scores said, what came true, and what estimates take for it."""
    assert cli.main(["profile", "show", str(fitted)]) == 0
    printed = capsys.readouterr().out
    assert "threshold: 0.5\n" in printed
    lines = printed.split("score          rows  mean score  came true  estimates take\n")[1].splitlines()
    assert len(lines) == 10
    cells = [line.split()[-4:] for line in lines]
    assert sum(int(rows) for rows, *_ in cells) == ROWS
    assert all(abs(float(said) - float(came)) < 0.15 and said == taken for _, said, came, taken in cells)
    output = tmp_path / "other.json"
    columns = _columns()
    columns["churned"] = 1 - columns["churned"]
    Profile.fit(columns, outputs="score", labels="churned", model="churn", threshold=0.25).save(output)
    assert cli.main(["profile", "show", str(output)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"scores are off by 0\.(4[5-9]|5[0-5])", printed)
    assert "estimates calibrate them" in printed
    assert cli.main(["profile", "diff", str(fitted), str(output)]) == 0
    printed = capsys.readouterr().out
    assert "threshold: 0.5 → 0.25" in printed.replace("->", "→")
    assert "calibration, scores are off by: 0.0" in printed
    more = ("--outputs", "score", "--labels", "churned", "--threshold", "0.125", "--positive-class", "0")
    assert cli.main(_arguments(train, output, *more)) == 0
    assert "threshold: 0.125, positive class 0\n" in capsys.readouterr().out
    fitted_outputs = Profile.load(output).outputs
    assert fitted_outputs is not None
    assert fitted_outputs.threshold == 0.125


def test_show_says_how_large_errors_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a regression the errors by predicted value, of vectors their names and sizes, of classes how many are off."""
    rng = np.random.default_rng(6)
    value = rng.normal(50, 10, ROWS)
    path = tmp_path / "p.json"
    vectors = {"user": rng.normal(size=(ROWS, 8))}
    profile = Profile.fit({"x": value}, outputs=value, labels=value + 2, embeddings=vectors, model="m")
    profile.save(path)
    assert cli.main(["profile", "show", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "errors: 2 on average" in printed
    assert "embeddings: user (8 components)" in printed
    assert printed.splitlines()[-1].split() == ["inf", "100", "-2", "2"]
    probabilities = rng.dirichlet([1, 1, 1], ROWS)
    Profile.fit({"x": value}, outputs=probabilities, labels=np.arange(ROWS) % 3, model="m").save(path)
    assert cli.main(["profile", "show", str(path)]) == 0
    assert "estimates calibrate those of 3 of 3 classes" in capsys.readouterr().out


def test_diff_of_equal_content(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Profiles with one id are the same, however their files are laid out."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(fitted.read_text()), indent=8))
    assert cli.main(["profile", "diff", str(fitted), str(other)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the same content"


def _numeric(edges: tuple[float, ...], counts: tuple[int, ...], low: float, high: float, *positions: float) -> Column:
    return Column("x", Bins("numeric", edges), (*counts, 0, 0), low, high, 0.0, 1.0, positions)


def test_a_histogram_shows_density_not_counts() -> None:
    """Equally filled cells are drawn high where they are narrow."""
    column = _numeric((1.0, 2.0), (10, 10, 10), 0.0, 10.0, 0.5, 1.5, 6.0)
    drawn = histograms.histogram(column, unicode=True)
    assert len(drawn) == histograms.WIDTH
    assert drawn[:4] == "████"
    assert set(drawn[4:]) == {"▁"}


def test_an_outlier_does_not_squeeze_the_histogram() -> None:
    """The outer cell is drawn as long as its mean says, not as far as its extreme lies."""
    column = _numeric((1.0, 2.0), (10, 10, 10), 0.0, 1e12, 0.5, 1.5, 2.5)
    assert histograms.histogram(column, unicode=False) == "@" * histograms.WIDTH


@pytest.mark.parametrize(
    ("column", "drawn"),
    [
        (_numeric((), (0,), 1.0, 1.0, 1.0), ""),
        (_numeric((), (5,), 1.0, 1.0, 1.0), "█"),
        (_numeric((), (5,), -1.7e308, 1.7e308, 0.0), "█" * histograms.WIDTH),
        (Column("x", Bins("boolean", categories=(False, True)), (0, 8, 2, 0)), " █"),
        (Column("x", Bins("categorical", categories=("a", "b", "c")), (800, 400, 1, 0, 0)), "█▄▁"),
    ],
)
def test_histograms_of_unusual_columns(column: Column, drawn: str) -> None:
    """Nothing, one value, the whole range of floats, and categories, the rare ones still seen."""
    assert histograms.histogram(column, unicode=True) == drawn
