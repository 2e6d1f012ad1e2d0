"""The command line: what it prints, what it returns, what it says when it is called wrongly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from receiver import CLEAN, Receiver, run

from otel_mlobs import __version__
from otel_mlobs.tools import cli


def _written(path: Path) -> Path:
    run(
        f"""
        mlobs.configure("shop", backend="file", path={str(path)!r})
        with mlobs.ranking(model="ltr"):
            pass
        mlobs.shutdown()
        """
    )
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"otel-mlobs {__version__}\n"


def test_replay_sends_what_the_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spans and metrics written by backend="file" arrive, and the counts are printed."""
    path = _written(tmp_path / "out.jsonl")
    with Receiver() as receiver:
        assert cli.main(["replay", str(path), "--endpoint", receiver.url]) == 0
        assert receiver.span_names() == ["ranking ltr"]
        assert receiver.total("mlobs.operation.duration") == 1
    assert "1 spans" in capsys.readouterr().out


def test_replay_takes_its_headers_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is never an argument, where other users of the machine could read it."""
    path = _written(tmp_path / "out.jsonl")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
    with Receiver() as receiver:
        assert cli.main(["replay", str(path), "--endpoint", receiver.url, "--signal", "traces"]) == 0
        assert [received.headers["authorization"] for received in receiver.of("traces")] == ["Bearer s3cret"]
        assert receiver.signals() == {"traces"}


def test_replay_of_a_damaged_file_names_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be sent is sent, what cannot is named by line, and the exit code says that something was lost."""
    path = _written(tmp_path / "out.jsonl")
    path.write_text("{broken\n" + path.read_text())
    with Receiver() as receiver:
        assert cli.main(["replay", str(path), "--endpoint", receiver.url]) == 1
        assert receiver.span_names() == ["ranking ltr"]
    assert "line 1 damaged" in capsys.readouterr().err


def test_replay_of_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is one line, not a traceback."""
    assert cli.main(["replay", "/nowhere/x.jsonl", "--endpoint", "http://localhost:1"]) == 1
    assert "No such file or directory: /nowhere/x.jsonl" in capsys.readouterr().err


def test_replay_to_a_wrong_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is one line and exit code 2."""
    path = tmp_path / "empty.jsonl"
    path.touch()
    assert cli.main(["replay", str(path), "--endpoint", "localhost:4318"]) == 2
    assert "must be a URL like http://localhost:4318" in capsys.readouterr().err


def test_the_demo_shows_traces_and_a_summary() -> None:
    """The main job, whole, in a process of its own: a drawn trace, the failing one, and the table of operations."""
    pytest.importorskip("sklearn")
    pytest.importorskip("pyarrow")
    done = subprocess.run(
        [sys.executable, "-m", "otel_mlobs", "demo", "--requests", "120"],
        capture_output=True, text=True, check=True, env={**CLEAN, "PYTHONIOENCODING": "utf-8"}, timeout=120,
    )  # fmt: skip
    out = done.stdout
    assert out.count("POST /predict") == 3, out
    assert "feature_lookup customer_features" in out
    assert "prediction employment" in out
    assert "error=ValueError" in out
    assert "180 answered 200, 1 answered 500" in out
    assert re.search(r"^AGEP +verdict\+alarm ", out, re.MULTILINE), out
    assert "drift: AGEP PSI" in out
    assert "AGEP moved away from the training data" in out
    assert done.stderr == ""


def test_the_demo_sends_to_a_backend_and_gives_the_link() -> None:
    """With --endpoint every request is a trace there, and the link names one of them."""
    pytest.importorskip("sklearn")
    pytest.importorskip("pyarrow")
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-m", "otel_mlobs", "demo", "--requests", "5", "--endpoint", receiver.url],
            capture_output=True, text=True, check=True, env={**CLEAN, "PYTHONIOENCODING": "utf-8"}, timeout=120,
        )  # fmt: skip
        spans = receiver.spans()
        assert receiver.signals() == {"traces"}
    assert sum(span.name == "POST /predict" for span in spans) == 9
    links = [line for line in done.stdout.splitlines() if "http://localhost:16686/trace/" in line]
    assert {link.rpartition("/")[2] for link in links} <= {span.trace_id.hex() for span in spans}
    assert len(links) == 2


def test_the_demo_says_that_the_backend_did_not_take_the_traces(capsys: pytest.CaptureFixture[str]) -> None:
    """A dead backend is exit code 1 and a pointer to the doctor; the traces are drawn all the same."""
    pytest.importorskip("sklearn")
    pytest.importorskip("pyarrow")
    done = subprocess.run(
        [sys.executable, "-m", "otel_mlobs", "demo", "--requests", "3", "--endpoint", "http://127.0.0.1:9"],
        capture_output=True, text=True, check=False, env={**CLEAN, "PYTHONIOENCODING": "utf-8"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "otel-mlobs doctor" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_demo_refuses_no_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero rows are a wrong argument."""
    assert cli.main(["demo", "--requests", "0"]) == 2
    assert "requests must be at least 1, got 0" in capsys.readouterr().err
