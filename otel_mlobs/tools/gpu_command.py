"""``otel-mlobs gpu``: what the GPUs of this machine are doing, one line each."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

from otel_mlobs.errors import MissingExtraError
from otel_mlobs.hardware.nvml import Driver, NoDriverError, read_once
from otel_mlobs.settings.checks import number
from otel_mlobs.tools.terminal import printable, shows_unicode

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from otel_mlobs.hardware.devices import Identity, Reading

_SETTLE_S = 0.2
"""Between the two readings of --once: what is measured over a stretch of time needs two."""
_PATIENCE_S = 5.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_HISTORY = 30
_GIB = 2**30
_STYLES = {"ok": "green", "degraded": "yellow", "failed": "red"}
_LEFT_OUT_FIRST = (12, 10, 6, 5, 9, 4, 1, 8)
"""Columns by position: the sparkline first; which GPU, its state and what holds it down stay."""
_COLUMNS = ("GPU", "model", "state", "busy", "SM", "tensor", "DRAM", "memory", "power", "temp", "clock", "held down by")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    gpu = commands.add_parser(
        "gpu",
        help="what this machine's GPUs are doing, one line each",
        description="Reads NVIDIA's GPUs through NVML, as configure(gpu=True) does. SM, tensor and DRAM activity are "
        "known on Hopper and newer.",
    )
    how = gpu.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="read once and print, instead of a live view")
    how.add_argument("--json", action="store_true", help="read once and print all readings as JSON, in base units")
    gpu.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="of the live view (default: 1)")
    gpu.add_argument("--all", action="store_true", help="also those that CUDA_VISIBLE_DEVICES hides")
    gpu.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the devices and show them; exit code 1 where there are none or one has failed."""
    interval = number("--interval", options.interval, at_least=0.1, at_most=3600.0)
    driver = Driver(only_visible=not options.all)
    try:
        if options.json or options.once or not sys.stdout.isatty():
            readings = _read(driver, _SETTLE_S)
            if options.json:
                print(json.dumps([as_json(reading) for reading in readings], indent=2))
            else:
                for line in table(readings):
                    print(printable(line))
            if not readings:
                print("no GPU is to be seen", file=sys.stderr)
            return int(not readings or any(reading.state == "failed" for reading in readings))
        return _live(driver, interval)
    except NoDriverError as error:
        print(f"otel-mlobs gpu: {error}", file=sys.stderr)
        return 1


def _read(driver: Driver, settle: float = 0.0) -> Sequence[Reading]:
    """A reading of every device, in a thread that is left behind where the driver does not answer.

    Raises:
        NoDriverError: the driver cannot be used, or has not answered for five seconds.
    """
    found: list[Sequence[Reading]] = []
    failed: list[Exception] = []

    def read() -> None:
        try:
            found.append(read_once(driver, settle=settle))
            driver.hear()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            failed.append(error)

    thread = threading.Thread(target=read, name="otel_mlobs-gpu-once", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S + settle)
    if failed:
        raise failed[0]
    if not found:
        raise NoDriverError(
            f"the NVIDIA driver has not answered for {_PATIENCE_S:g} s: a GPU may have been lost (dmesg | grep -i xid)"
        )
    return found[0]


def as_json(reading: Reading) -> dict[str, Any]:
    """A reading as JSON has it, values in base units."""
    identity = reading.identity
    named = {"index": identity.index, "uuid": identity.uuid, "model": identity.model, "driver": identity.driver}
    if identity.parent is not None:
        named |= {"parent": identity.parent, "instance": identity.instance, "profile": identity.profile}
    return {**named, "pci_bus_id": identity.bus, "state": reading.state, "values": dict(sorted(reading.values.items()))}


def row(reading: Reading) -> tuple[str, ...]:
    """One line's cells, as ``_COLUMNS`` names them; empty for what the device does not tell."""
    values, identity = reading.values, reading.identity
    memory = ""
    if "memory.used" in values:
        memory = f"{values['memory.used'] / _GIB:.1f}/{values['memory.total'] / _GIB:.1f} GiB"
    power = _number(values, "power", 1, " W")
    if power and "power.limit" in values:
        power = f"{values['power']:.0f}/{values['power.limit']:.0f} W"
    held = [key.removeprefix("throttled.") for key, value in values.items() if key.startswith("throttled.") and value]
    return (
        identity.name,
        _model(identity),
        reading.state,
        _number(values, "utilization.general", 100, "%"),
        _number(values, "activity.sm", 100, "%"),
        _number(values, "activity.tensor", 100, "%"),
        _number(values, "activity.dram", 100, "%"),
        memory,
        power,
        _number(values, "temperature.gpu", 1, " °C" if shows_unicode() else " C"),
        _number(values, "clock.sm", 1e-6, " MHz"),
        " ".join(held),
    )


def _model(identity: Identity) -> str:
    model = identity.model.removeprefix("NVIDIA ")
    return f"{model} {identity.profile}" if identity.profile else model


def _number(values: Mapping[str, float], key: str, scale: float, unit: str) -> str:
    value = values.get(key)
    return "" if value is None else f"{value * scale:.0f}{unit}"


def table(readings: Sequence[Reading]) -> list[str]:
    """The lines of a plain table; columns of which no device tells anything are left out."""
    rows = [_COLUMNS, *map(row, readings)]
    kept = [at for at in range(len(_COLUMNS)) if any(each[at] for each in rows[1:]) or at == 0]
    widths = [max(len(each[at]) for each in rows) for at in kept]
    return ["  ".join(each[at].ljust(width) for at, width in zip(kept, widths, strict=True)).rstrip() for each in rows]


def fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit into ``width`` characters: whole ones are left out, the least needed first, none is cut."""
    kept = list(range(len(rows[0])))
    widths = [max(len(each[at]) for each in rows) for at in kept]
    for at in _LEFT_OUT_FIRST:
        if sum(widths[each] + 2 for each in kept) - 2 <= width:
            break
        kept.remove(at)
    return kept


def sparkline(values: Sequence[float]) -> str:
    """Shares from 0 to 1 as a line of blocks."""
    most = len(_BLOCKS) - 1
    return "".join(_BLOCKS[min(most, max(0, round(value * most)))] for value in values)


def _live(driver: Driver, interval: float) -> int:
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
    except ImportError as error:
        raise MissingExtraError("the live view", "gpu", "rich") from error
    busy: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))

    unicode = shows_unicode()
    last = f"last {_HISTORY * interval:g} s"
    console = Console()

    def drawn() -> Table:
        rows = []
        for reading in _read(driver):
            history = busy[reading.identity.uuid]
            history.append(reading.values.get("activity.sm", reading.values.get("utilization.general", 0.0)))
            rows.append((*row(reading), sparkline([*history]) if unicode else ""))
        shown = Table(caption="Ctrl-C ends", header_style="bold", box=None, pad_edge=False)
        kept = fitting([(*_COLUMNS, last), *rows], console.width)
        for at in kept:
            shown.add_column((*_COLUMNS, last)[at], no_wrap=True, justify="right" if 3 <= at < 11 else "left")
        for cells in rows:
            colored = [f"[{_STYLES[cells[2]]}]{cells[at]}[/]" if at == 2 else cells[at] for at in kept]
            shown.add_row(*colored)
        return shown

    # Not redirected: what rich puts in the place of standard output does not say what it can show
    with Live(drawn(), console=console, auto_refresh=False, redirect_stdout=False) as live:
        while True:
            time.sleep(interval)
            live.update(drawn(), refresh=True)
