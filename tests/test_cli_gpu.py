"""``otel-mlobs gpu``: one line a device, once, as JSON, or live."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import nvml_standin as standin
import pytest
from gpu_threads import all_have_ended

from otel_mlobs.tools import cli, gpu_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def script(tmp_path: Path) -> Iterator[standin.Driver]:
    """A driver in this process."""
    with standin.in_process(standin.Driver(tmp_path)) as made:
        yield made


def test_once(script: standin.Driver, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each; a column of which no device tells anything is left out; exit code 0."""
    script.device(0, standin.H100).device(1, standin.T4).device(2, standin.H100_MIG)
    assert cli.main(["gpu", "--once"]) == 0
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [
        "GPU", "model", "state", "busy", "SM", "tensor", "DRAM", "memory", "power", "temp", "clock", "held down by",
    ]  # fmt: skip
    assert lines[1] == [
        "0", "H100 80GB HBM3", "ok", "87%", "81%", "62%", "49%", "40.0/79.6 GiB", "412/700 W", "54 °C", "1965 MHz",
    ]  # fmt: skip
    assert lines[2] == [
        "1", "Tesla T4", "ok", "63%", "6.0/15.0 GiB", "48/70 W", "66 °C", "1590 MHz", "sw_power_cap",
    ]  # fmt: skip
    assert [line[:2] for line in lines[3:]] == [
        ["2", "H100 80GB HBM3"],
        ["2:1", "H100 80GB HBM3 3g.40gb"],
        ["2:9", "H100 80GB HBM3 1g.10gb"],
    ]


def test_json(script: standin.Driver, capsys: pytest.CaptureFixture[str]) -> None:
    """Every reading in base units, of MIG instances whose they are."""
    script.device(0, standin.H100_MIG)
    assert cli.main(["gpu", "--json"]) == 0
    whole, first, second = json.loads(capsys.readouterr().out)
    assert (whole["uuid"], whole["state"], whole["pci_bus_id"]) == (standin.uuid(0), "ok", "00000000:18:00.0")
    assert whole["values"]["power"] == 412.35
    assert whole["values"]["activity.sm"] == 0.8125
    assert (first["parent"], first["instance"], first["profile"]) == (standin.uuid(0), 1, "3g.40gb")
    assert second["values"]["memory.used"] == 3 * 2**30


def test_no_driver_no_gpu_and_a_failed_one_are_exit_code_1(
    script: standin.Driver, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do about it, on standard error."""
    assert cli.main(["gpu", "--once"]) == 1
    assert "no GPU is to be seen" in capsys.readouterr().err
    script.device(0, standin.T4).set({"0.lost": 1})
    assert cli.main(["gpu", "--json"]) == 1
    script.set({"0.lost": 0, "init": 12})
    assert cli.main(["gpu"]) == 1
    assert "docker run --gpus all" in capsys.readouterr().err


def test_a_lost_gpu_has_a_line(script: standin.Driver, capsys: pytest.CaptureFixture[str]) -> None:
    """It has failed, which is what somebody who looks wants to know; the others are there too."""
    script.device(0, standin.T4).device(1, standin.T4).set({"1.lost": 1})
    assert cli.main(["gpu", "--json"]) == 1
    assert [(each["index"], each["state"]) for each in json.loads(capsys.readouterr().out)] == [
        (0, "ok"),
        (1, "failed"),
    ]


def test_a_driver_that_hangs_is_not_waited_for(
    script: standin.Driver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the command says so, and ends."""
    monkeypatch.setattr(gpu_command, "_PATIENCE_S", 0.2)
    script.device(0, standin.T4).set({"0.delay.nvmlDeviceGetPowerUsage": 0.6})
    assert cli.main(["gpu", "--once"]) == 1
    assert "the NVIDIA driver has not answered for 0.2 s" in capsys.readouterr().err
    assert all_have_ended()


def test_hidden_devices_only_when_asked_for(
    script: standin.Driver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA_VISIBLE_DEVICES is heeded, --all is not bound by it."""
    script.device(0, standin.T4).device(1, standin.T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cli.main(["gpu", "--json"]) == 0
    assert [each["index"] for each in json.loads(capsys.readouterr().out)] == [1]
    assert cli.main(["gpu", "--json", "--all"]) == 0
    assert [each["index"] for each in json.loads(capsys.readouterr().out)] == [0, 1]


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "1e9"])
def test_an_interval_that_is_none_is_refused(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its name and what was given."""
    assert cli.main(["gpu", "--interval", interval]) == 2
    assert "--interval must be a number from 0.1 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(width: int) -> None:
    """What is shown fits; which GPU, its state and what holds it down are always there."""
    rows = [
        (*gpu_command._COLUMNS, "last 30 s"),
        ("0", "H100 80GB HBM3", "ok", "87%", "81%", "62%", "49%", "40.0/79.6 GiB", "412/700 W", "54 °C", "1965 MHz", "",
         "▁" * 30),
        ("1", "Tesla T4", "ok", "63%", "", "", "", "6.0/15.0 GiB", "48/70 W", "66 °C", "1590 MHz", "sw_power_cap",
         "▁" * 30),
    ]  # fmt: skip
    kept = gpu_command.fitting(rows, width)
    widths = [max(len(row[at]) for row in rows) for at in kept]
    assert sum(widths) + 2 * (len(kept) - 1) <= width
    assert {0, 2, 3, 11} <= set(kept)
    assert kept == sorted(kept)
    assert gpu_command.fitting(rows, 500) == list(range(13))


def test_sparklines() -> None:
    """Eight heights; what is beyond 0 and 1 is drawn as those."""
    assert gpu_command.sparkline([0.0, 0.5, 1.0, -3.0, 7.0]) == "▁▅█▁█"


def live(driver: standin.Driver, prelude: str = "") -> tuple[str, int]:
    """What the live view draws in a terminal of 200 columns until it has drawn twice, and its exit code on Ctrl-C."""
    # Whatever the tests before this one, or who runs them, have done to it
    hears = "signal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.pthread_sigmask(signal.SIG_SETMASK, ())"
    command = "from otel_mlobs.tools.cli import main\nraise SystemExit(main(['gpu', '--interval', '0.1']))"
    program = f"import signal\n{hears}\n{prelude}\n{command}"
    primary, secondary = pty.openpty()
    environ = {**os.environ, **standin.env(driver), "TERM": "xterm", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=secondary, stdout=secondary, stderr=secondary, env=environ
    )
    os.close(secondary)
    drawn, until, again = b"", time.monotonic() + 90, 0.0
    try:
        # To the end: who writes to a terminal that nobody reads waits for ever
        while time.monotonic() < until:
            # Python drops a Ctrl-C that comes in a finaliser; who sees nothing happen presses it again
            if drawn.count("▇".encode()) >= 3 and time.monotonic() > again:
                process.send_signal(signal.SIGINT)
                again = time.monotonic() + 10
            if select.select([primary], [], [], 0.05)[0]:
                try:
                    drawn += os.read(primary, 65_536)
                except OSError:  # the other end is closed
                    break
    finally:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(primary)
    return drawn.decode(errors="replace"), process.returncode


def test_the_live_view(tmp_path: Path) -> None:
    """A line a device that is drawn anew, with a sparkline that grows; Ctrl-C ends it."""
    pytest.importorskip("rich")
    text, code = live(standin.Driver(tmp_path).device(0, standin.H100).device(1, standin.T4))
    assert code == 130, repr(text[-2000:])
    assert "H100 80GB HBM3" in text
    assert "Tesla T4" in text
    assert "Traceback" not in text
    assert "▇▇" in text


def test_the_live_view_without_rich_says_what_to_install(tmp_path: Path) -> None:
    """And how."""
    driver = standin.Driver(tmp_path).device(0, standin.T4)
    text, code = live(driver, "import sys; sys.modules['rich.live'] = None")
    assert "pip install 'otel-mlobs[gpu]'" in text
    assert code == 2
