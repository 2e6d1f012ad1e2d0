"""Play rows through the service on a clock of their own, an hour a row; say what drifted, since when and how sure.

python report.py
python report.py --part held_out --shift med_inc=0.5 --after 800
"""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

import traffic
from database import Database, default_url
from service import artifacts_folder, create_app
from table import day, table

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR = 3600.0
FIRST = 1622505600.0
"""2021-06-01, the first hour of the later rows."""


class Clock:
    """The time by the rows: one an hour."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self) -> float:
        """Seconds since 1970."""
        return FIRST + self.rows * HOUR


def play(bodies: Sequence[dict[str, object]], *, window: float, step: int = 24) -> mlobs.MonitorStatus:
    """Send the requests, `step` rows at a time, and print every change of a status; the status at the end."""
    artifacts, clock = artifacts_folder(), Clock()
    profile = mlobs.Profile.load(artifacts / "housing.profile.json")
    # One row an hour is little: a pane of four days has 96 of them, and one false alarm a year is one in 91 panes.
    monitor = mlobs.Monitor(profile, window=window, pane=96 * HOUR, false_alarms_per_week=1 / 52, clock=clock)
    before: dict[str, str] = {}
    with contextlib.closing(monitor), contextlib.closing(Database(default_url())) as database:
        client = create_app(database, artifacts, monitor).test_client()
        for start in range(0, len(bodies), step):
            batch = bodies[start : start + step]
            answer = client.post("/predict", json=batch)
            if answer.status_code != 200:
                raise RuntimeError(f"the service answered {answer.status_code}: {answer.text}")
            clock.rows += len(batch)
            before = tell(monitor.status(), before, clock)
        return monitor.status()


def tell(status: mlobs.MonitorStatus, before: dict[str, str], clock: Clock) -> dict[str, str]:
    """Print what has changed, and return the statuses to hold the next against."""
    results = [*status.features.values(), *([status.prediction] if status.prediction else [])]
    for result in results:
        old = before.get(result.name, "insufficient_data")
        if result.status != old and "drift" in (result.status, old):
            print(f"{day(clock())}  after {clock.rows:>5,} rows  {result.name:17} {old} -> {result.status}")
    return {result.name: result.status for result in results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    traffic.add_arguments(parser)
    parser.add_argument("--window", type=float, default=32.0, metavar="DAYS", help="days that are looked at (32)")
    arguments = parser.parse_args()
    bodies = traffic.read_arguments(parser, arguments)
    print(table(play(bodies, window=arguments.window * 24 * HOUR)))


if __name__ == "__main__":
    main()
