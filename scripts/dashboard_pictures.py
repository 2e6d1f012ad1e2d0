"""Draws docs/pictures/dashboard-*.svg: every dashboard's panels, from a run with a real Prometheus and Jaeger.

    python scripts/dashboard_pictures.py [--seconds 300]

It serves the shop of the integration tests, whose customers become other ones in the middle of the run, asks Prometheus
for what the panels ask, and draws the answers. It is a drawing of our own: what Grafana makes of the same files looks
otherwise. It needs the servers (`python scripts/servers.py build prometheus jaeger`), SQLAlchemy and a C compiler.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

import dashboard_panels  # type: ignore[import-not-found]  # noqa: E402
from integration import backends, dashboard_run  # type: ignore[import-not-found]  # noqa: E402
from panel_drawing import Series, Shown, number, page  # noqa: E402

from otel_mlobs.settings.objectives import Objective, Objectives  # noqa: E402
from otel_mlobs.tools.dashboards import dashboards  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
OBJECTIVES = Objectives(Objective(performance={"roc_auc": 0.75}, value_at_risk={"EUR": 50_000.0}))
STEP_S = 5.0
RATE = 40.0
WINDOW = "20s"


class Asked:
    """A Prometheus and a Jaeger, and the run that is asked about."""

    def __init__(self, prometheus: Any, jaeger: Any, start: float, end: float) -> None:
        self._prometheus, self._jaeger = prometheus, jaeger
        self.start, self.end = start, end

    def range(self, query: str) -> list[dict[str, Any]]:
        """The series of a query over the run."""
        found = backends.get(
            f"{self._prometheus.url}/api/v1/query_range", query=query, start=self.start, end=self.end, step=STEP_S
        )
        return list(found["data"]["result"])

    def at_once(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The series of a query at its end."""
        found = backends.get(f"{self._prometheus.url}/api/v1/query", query=query, time=self.end)
        return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]

    def exemplars(self, query: str) -> list[tuple[float, float]]:
        """Times and values of a query's exemplars."""
        found = self._prometheus.exemplars(query, since=self.start)
        return sorted((one["timestamp"], float(one["value"])) for one in found)

    def values(self, query: str) -> list[str]:
        """What a variable can be."""
        selector, label = dashboard_panels.label_values(query)
        found = backends.get(f"{self._prometheus.url}/api/v1/label/{label}/values", **{"match[]": selector})
        return list(found["data"])

    def traces(self, target: dict[str, Any]) -> list[tuple[str, ...]]:
        """The lines of a table of traces, as Jaeger answers its search."""
        asked: dict[str, Any] = {"service": dashboard_run.SHOP, "limit": 5_000, "lookback": "1h"}
        if "minDuration" in target:
            asked["minDuration"] = target["minDuration"]
        key, _, value = target.get("tags", "").partition("=")
        rows = []
        for trace in backends.get(f"{self._jaeger.query}/api/traces", **asked)["data"]:
            tags = {(tag["key"], str(tag["value"]).lower()) for span in trace["spans"] for tag in span["tags"]}
            if key and (key, value) not in tags:
                continue
            root = min(trace["spans"], key=lambda span: span["startTime"])
            when = time.strftime("%H:%M:%S", time.gmtime(root["startTime"] / 1e6))
            rows.append((when, trace["traceID"][:12], root["operationName"], number(root["duration"] / 1e6, "s")))
        return [("Start", "Trace", "Name", "Duration"), *sorted(rows, reverse=True)[:12]]


def named(legend: str, labels: dict[str, str]) -> str:
    """A series' name, as its legend has it."""
    return " ".join(re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend).split())


def repeated(made: dict[str, Any], asked: Asked) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """The panels, each repeated one for every value of its variable; what is beneath moves down."""
    found: list[tuple[dict[str, Any], dict[str, str]]] = []
    lower = 0
    for panel in made["panels"]:
        moved = {**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] + lower}}
        if "repeat" not in panel:
            found.append((moved, {}))
            continue
        (variable,) = (one for one in dashboard_panels.variables(made) if one["name"] == panel["repeat"])
        values = asked.values(dashboard_panels.substituted(variable["query"]["query"], {"job": dashboard_run.SHOP}))
        for number_of, value in enumerate(values):
            line, column = divmod(number_of, panel["maxPerRow"])
            at = moved["gridPos"]
            place = {**at, "x": column * at["w"], "y": at["y"] + line * at["h"]}
            title = panel["title"].replace(f"${panel['repeat']}", value)
            found.append(({**moved, "title": title, "gridPos": place}, {panel["repeat"]: value}))
        lower += (len(values) - 1) // panel["maxPerRow"] * panel["gridPos"]["h"]
    return found


def fill(panel: dict[str, Any], chosen: dict[str, str], asked: Asked) -> Shown:
    """The panel with what the servers answer."""
    shown = Shown(panel)
    if panel["type"] == "row":
        return shown
    targets = [
        {**one, "expr": dashboard_panels.substituted(one["expr"], chosen, __rate_interval=WINDOW)}
        for one in panel["targets"]
        if "expr" in one
    ]
    if not targets:
        shown.rows = asked.traces(panel["targets"][0])
    elif panel["type"] == "table":
        shown.rows = table(panel, targets, asked)
    elif panel["type"] == "barchart":
        shown.bars = bars(panel, targets, asked)
    else:
        for target in targets:
            for one in asked.range(target["expr"]):
                points = [
                    (float(at), float(value)) for at, value in one.get("values", ()) if value not in ("NaN", "+Inf")
                ]
                if points:
                    name = named(target["legendFormat"], one["metric"])
                    shown.series.append(Series(name, points, name.startswith(("objective", "threshold"))))
            if target["exemplar"] and panel["type"] == "timeseries":
                shown.marks += asked.exemplars(target["expr"])
    return shown


def table(panel: dict[str, Any], targets: list[dict[str, Any]], asked: Asked) -> list[tuple[str, ...]]:
    """The rows of a table, merged by their labels."""
    titles = panel["transformations"][-1]["options"]["renameByName"]
    units = {one["matcher"]["options"]: one["properties"][0]["value"] for one in panel["fieldConfig"]["overrides"]
             if one["properties"][0]["id"] == "unit"}  # fmt: skip
    keys = [name for name in titles if not name.startswith("Value")]
    merged: dict[tuple[str, ...], dict[str, str]] = {}
    for target in targets:
        column = titles.get(f"Value #{target['refId']}", "")  # of a table that shows labels alone: none
        for labels, value in asked.at_once(target["expr"]):
            row = merged.setdefault(tuple(labels.get(key, "") for key in keys), {})
            row[column] = number(value, units.get(column, panel["fieldConfig"]["defaults"]["unit"]))
    columns = [titles[name] for name in titles if name not in keys]
    return [
        tuple(titles.values()),
        *((*key, *(row.get(column, "") for column in columns)) for key, row in sorted(merged.items())),
    ]


def bars(panel: dict[str, Any], targets: list[dict[str, Any]], asked: Asked) -> dict[str, dict[str, float]]:
    """The bars by their color's name and their place."""
    found: dict[str, dict[str, float]] = {}
    first, *more = panel["transformations"]
    options = first["options"]
    for target in targets:
        for labels, value in asked.at_once(target["expr"]):
            if first["id"] == "groupingToMatrix":
                name, place = labels[options["columnField"]], labels[options["rowField"]]
            else:
                titles = more[0]["options"]["renameByName"]
                name, place = titles[f"Value #{target['refId']}"], labels[options["byField"]]
            found.setdefault(name, {})[place] = value
    return found


def program(name: str) -> Path:
    """Where a server's program is."""
    spec = importlib.util.spec_from_file_location("servers", ROOT / "scripts" / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    servers = sys.modules["servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    path: Path | None = servers.find(name)
    if path is None:
        raise SystemExit(f"{name} is not there: python scripts/servers.py build {name}")
    return path


def main() -> None:
    """Run, ask, draw, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prometheus").mkdir()
        (folder / "jaeger").mkdir()
        processes: list[Any] = []

        def start(what: str, command: list[Any], *, cwd: Path, env: dict[str, str]) -> Any:
            processes.append(backends.Process(command, folder / f"{what}.log", cwd=cwd, env=env))
            return processes[-1]

        try:
            jaeger = backends.Jaeger(program("jaeger"), folder / "jaeger")
            processes.append(jaeger.process)
            rules = dashboard_run.rules()
            prometheus = backends.Prometheus(program("prometheus"), folder / "prometheus", rules=rules)
            processes.append(prometheus.process)
            dashboard_run.serve(start, folder, prometheus.otlp, jaeger.http, rate=RATE, drift_after=seconds / 2)
            begun = time.time()
            time.sleep(seconds)
            asked = Asked(prometheus, jaeger, begun + 4 * dashboard_run.INTERVAL_S, time.time())
            made = dashboards(
                OBJECTIVES,
                drift_window=dashboard_run.DRIFT_WINDOW_S,
                outcome_window=dashboard_run.OUTCOME_WINDOW_S,
            )
            draw(made, asked)
        finally:
            for process in reversed(processes):
                process.stop()


def draw(made: dict[str, dict[str, Any]], asked: Asked) -> None:
    """Write a picture of every dashboard, and say which panels had nothing to show."""
    half = time.strftime("%H:%M:%S", time.gmtime((asked.start + asked.end) / 2))
    note = f"Our own drawing, not Grafana's, of a run in a test: from about {half} UTC the customers are other ones."
    for uid, one in made.items():
        chosen = {"job": dashboard_run.SHOP}
        if uid == "mlobs-feature":
            chosen |= {"feature": "age"}
        if uid == "mlobs-overview":
            chosen = {}
        shown = [fill(panel, {**chosen, **more}, asked) for panel, more in repeated(one, asked)]
        path = PICTURES / f"dashboard-{uid.removeprefix('mlobs-')}.svg"
        path.write_text(page(one["title"], shown, note, asked.start, asked.end), encoding="utf-8")
        empty = [
            each.panel["title"]
            for each in shown
            if each.panel["type"] != "row" and not (each.series or each.rows or each.bars)
        ]
        print(json.dumps({"picture": path.name, "bytes": path.stat().st_size, "empty": empty}))


if __name__ == "__main__":
    main()
