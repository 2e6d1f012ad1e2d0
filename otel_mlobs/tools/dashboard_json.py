"""Grafana's dashboards as JSON: panels, rows, variables and links, in the classic schema that every Grafana imports.

Why these few builders and not Grafana's own library: docs/decisions/0019-dashboards.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMA_VERSION = 42
"""Of the classic schema, as Grafana 12 has it; a later Grafana migrates what is older when it loads it."""
COLUMNS = 24
TAG = "otel-mlobs"
PROMETHEUS: Mapping[str, str] = {"type": "prometheus", "uid": "${prometheus}"}
_SERIES_PANELS = ("timeseries", "status-history", "state-timeline")
_LINES = "/^(objective|threshold)/"
"""Series that are no measurement but what one is held against: drawn red and dashed."""
_BOUNDS = "/, (lower|upper) /"
"""The bounds of an interval: drawn thin and dotted, beside the value."""
_RED, _GREEN, _AMBER, _NONE = "red", "green", "orange", "transparent"
_POINTS = {"status-history": 60, "state-timeline": 200}
"""How many points such a panel asks for: it draws each by itself and refuses too many."""


@dataclass(frozen=True)
class Query:
    """A question to Prometheus.

    Attributes:
        expr: PromQL, with the dashboard's variables.
        legend: the name of each series, with labels as ``{{job}}``.
        kind: ``range`` for lines, ``instant`` for single values, ``table`` for rows of labels and a value,
            ``heatmap`` for buckets over time.
        exemplars: whether to ask for the traces behind it, too.
    """

    expr: str
    legend: str = ""
    kind: Literal["range", "instant", "table", "heatmap"] = "range"
    exemplars: bool = False

    def target(self, letter: str) -> dict[str, Any]:
        """As Grafana's Prometheus data source takes it."""
        at_once = self.kind in ("instant", "table")
        return {
            "refId": letter,
            "datasource": dict(PROMETHEUS),
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "range": not at_once,
            "instant": at_once,
            "exemplar": self.exemplars,
            "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
        }


@dataclass(frozen=True)
class Link:
    """A data link: where a click on a value leads."""

    title: str
    url: str

    def json(self) -> dict[str, Any]:
        """As Grafana takes it."""
        return {"title": self.title, "url": self.url, "targetBlank": False}


def to(dashboard: str, **variables: str) -> str:
    """The URL of a dashboard with the same data sources and times, and these variables set."""
    chosen = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{dashboard}?${{prometheus:queryparam}}&${{traces:queryparam}}{chosen}&${{__url_time_range}}"


def label_of(name: str) -> str:
    """In a link: the value of that label of the series that was clicked on."""
    return f"${{__field.labels.{name}}}"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: its heading.
        description: what it shows, and what to think of it.
        unit: Grafana's name of the values' unit.
        queries: what it asks Prometheus.
        kind: Grafana's name of the panel.
        width: in columns of 24.
        height: in rows of the grid.
        limit: an objective: a line in the panel, or where its color turns.
        low_is_bad: whether values below the limit are the bad ones.
        links: where a click on a value leads.
        names: of numbers that stand for states, the states' names and colors.
        names_of: columns of a table, by the name that the data has for them.
        hides: columns of a table that are not shown.
        column_units: units of a table's columns, by their new names.
        column_links: links of a table's columns, likewise.
        joined: the column by which the queries of a bar chart are put together; a table's are merged.
        matrix: of a bar chart's one query the labels for its bars' places and for their colors.
        stacked: whether lines are stacked.
        most: the axis ends here.
        repeat: the variable of which each value gets a panel of its own.
        targets: what another data source is asked, as it takes it.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query] = ()
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    limit: float | None = None
    low_is_bad: bool = False
    links: Sequence[Link] = ()
    names: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    names_of: Mapping[str, str] = field(default_factory=dict)
    hides: Sequence[str] = ()
    column_units: Mapping[str, str] = field(default_factory=dict)
    column_links: Mapping[str, Link] = field(default_factory=dict)
    joined: str = ""
    matrix: tuple[str, str] | None = None
    stacked: bool = False
    most: float | None = None
    repeat: str = ""
    targets: Sequence[Mapping[str, Any]] = ()

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana takes it, at a place of the grid."""
        source = self.targets[0]["datasource"] if self.targets else PROMETHEUS
        panel: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": dict(source),
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [query.target(chr(ord("A") + at)) for at, query in enumerate(self.queries)]
            + [dict(target) for target in self.targets],
            "fieldConfig": {"defaults": self._defaults(), "overrides": [*self._overrides()]},
            "options": self._options(),
        }
        if self.kind in _POINTS:
            panel["maxDataPoints"] = _POINTS[self.kind]
        transformations = [*self._transformations()]
        if transformations:
            panel["transformations"] = transformations
        if self.repeat:
            panel |= {"repeat": self.repeat, "repeatDirection": "h", "maxPerRow": COLUMNS // self.width}
        return panel

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "color": {"mode": "palette-classic" if self.kind in ("timeseries", "barchart") else "thresholds"},
            "thresholds": {"mode": "absolute", "steps": self._steps()},
        }
        if self.most is not None:
            defaults |= {"min": 0, "max": self.most}
        if self.names:
            options = {
                str(value): {"text": text, "color": color, "index": at}
                for at, (value, (text, color)) in enumerate(self.names.items())
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        if self.links:
            defaults["links"] = [link.json() for link in self.links]
        custom = self._custom()
        if custom:
            defaults["custom"] = custom
        return defaults

    def _steps(self) -> list[dict[str, Any]]:
        if self.limit is None:
            return [{"color": _GREEN, "value": None}]
        if self.kind == "timeseries":  # as a line: what is left of it is nothing
            return [{"color": _NONE, "value": None}, {"color": _RED, "value": self.limit}]
        if self.low_is_bad:
            return [{"color": _RED, "value": None}, {"color": _GREEN, "value": self.limit}]
        if self.kind in ("status-history", "state-timeline"):
            return [
                {"color": _GREEN, "value": None},
                {"color": _AMBER, "value": self.limit / 2},
                {"color": _RED, "value": self.limit},
            ]
        return [{"color": _GREEN, "value": None}, {"color": _RED, "value": self.limit}]

    def _custom(self) -> dict[str, Any]:
        if self.kind == "timeseries":
            custom: dict[str, Any] = {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 60 if self.stacked else 8,
                "showPoints": "auto",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            }
            if self.limit is not None:
                custom["thresholdsStyle"] = {"mode": "dashed"}
            return custom
        if self.kind in ("status-history", "state-timeline"):
            return {"fillOpacity": 80, "lineWidth": 1}
        return {}

    def _overrides(self) -> Iterator[dict[str, Any]]:
        if self.kind == "timeseries" and any(
            query.legend.startswith(("objective", "threshold")) for query in self.queries
        ):
            yield {
                "matcher": {"id": "byRegexp", "options": _LINES},
                "properties": [
                    {"id": "color", "value": {"mode": "fixed", "fixedColor": _RED}},
                    {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}},
                    {"id": "custom.fillOpacity", "value": 0},
                    {"id": "custom.showPoints", "value": "never"},
                    {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}},
                ],
            }
        if any(query.legend.startswith("estimated, ") for query in self.queries):
            yield {
                "matcher": {"id": "byRegexp", "options": _BOUNDS},
                "properties": [
                    {"id": "custom.lineStyle", "value": {"fill": "dot", "dash": [2, 4]}},
                    {"id": "custom.fillOpacity", "value": 0},
                ],
            }
            for start, color in (("estimated", "blue"), ("realised", "orange")):
                yield {
                    "matcher": {"id": "byRegexp", "options": f"/^{start}/"},
                    "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
                }
        for name in dict.fromkeys((*self.column_units, *self.column_links)):
            properties: list[dict[str, Any]] = []
            if name in self.column_units:
                properties.append({"id": "unit", "value": self.column_units[name]})
            if name in self.column_links:
                properties.append({"id": "links", "value": [self.column_links[name].json()]})
            yield {"matcher": {"id": "byName", "options": name}, "properties": properties}

    def _options(self) -> dict[str, Any]:
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
        several = {"mode": "multi", "sort": "desc"}
        if self.kind == "timeseries":
            return {"legend": legend, "tooltip": several}
        if self.kind in ("status-history", "state-timeline"):
            rows = {"showValue": "auto", "rowHeight": 0.9, "legend": legend, "tooltip": several}
            return rows if self.kind == "status-history" else {**rows, "mergeValues": True}
        if self.kind == "stat":
            return {
                "colorMode": "background",
                "graphMode": "none",
                "justifyMode": "auto",
                "textMode": "auto",
                "orientation": "auto",
                "percentChangeColorMode": "standard",
                "showPercentChange": False,
                "wideLayout": True,
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "cellGap": 1,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": False, "fill": "dark-orange",
                          "exponent": 0.5},
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
                "filterValues": {"le": 1e-9},
                "legend": {"show": True},
                "rowsFrame": {"layout": "auto"},
                "showValue": "never",
                "tooltip": {"mode": "single", "yHistogram": False},
                "yAxis": {"unit": self.unit, "axisPlacement": "left", "reverse": False},
            }  # fmt: skip
        if self.kind == "barchart":
            places = {} if self.matrix else {"xField": self.names_of.get(self.joined, self.joined)}
            return {
                **places,
                "orientation": "vertical",
                "showValue": "never",
                "stacking": "none",
                "groupWidth": 0.8,
                "barWidth": 0.95,
                "barRadius": 0,
                "xTickLabelRotation": 0,
                "xTickLabelSpacing": 100,
                "xTickLabelMaxLength": 0,
                "fullHighlight": False,
                "legend": legend,
                "tooltip": several,
            }
        return {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}

    def _transformations(self) -> Iterator[dict[str, Any]]:
        if self.kind == "table" and len(self.queries) > 1:
            yield {"id": "merge", "options": {}}
        if self.matrix:
            row, column = self.matrix
            yield {"id": "groupingToMatrix", "options": {"rowField": row, "columnField": column, "valueField": "Value"}}
        if self.joined:
            yield {"id": "joinByField", "options": {"byField": self.joined, "mode": "outer"}}
        if self.names_of or self.hides:
            options = {"excludeByName": dict.fromkeys(self.hides, True), "renameByName": dict(self.names_of)}
            yield {"id": "organize", "options": {**options, "indexByName": {}}}


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A variable that is filled from Prometheus' labels, or from the kinds of data source that there are.

    ``one`` takes a single value; else several or all, and all is every series, also one without the label.
    """

    name: str
    label: str
    query: str
    pattern: str = ""
    source: bool = False
    one: bool = False
    hidden: bool = False

    def json(self) -> dict[str, Any]:
        """As Grafana takes it."""
        base: dict[str, Any] = {"name": self.name, "label": self.label, "hide": 2 if self.hidden else 0}
        base |= {"regex": self.pattern, "skipUrlSync": False}
        if self.source:
            return {**base, "type": "datasource", "query": self.query, "refresh": 1, "multi": False,
                    "includeAll": False}  # fmt: skip
        several = {} if self.one else {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
        return {
            **base,
            "type": "query",
            "datasource": dict(PROMETHEUS),
            "query": {"qryType": 1, "query": self.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "definition": self.query,
            "refresh": 2,
            "sort": 1,
            "multi": not self.one,
            "includeAll": not self.one,
            **several,
        }


def outside(title: str, url: str) -> dict[str, Any]:
    """A link at a dashboard's top to another site."""
    return _top_link("link", title, url=url, targetBlank=True)


def _top_link(kind: str, title: str, **more: Any) -> dict[str, Any]:
    base = {"type": kind, "title": title, "tags": [], "asDropdown": False, "includeVars": False, "keepTime": True}
    return {**base, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "", **more}


def dashboard(
    uid: str, title: str, description: str, variables: Sequence[Variable], rows: Sequence[Row], *, since: str = "now-1h"
) -> dict[str, Any]:
    """A whole dashboard; panels fill each row's lines from left to right and get their ids in that order."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        y += 1
        x = lowest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, lowest = 0, y + lowest, 0
            panels.append(panel.json(len(panels) + 1, x, y))
            x, lowest = x + panel.width, max(lowest, panel.height)
        y += lowest
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": since, "to": "now"},
        "refresh": "30s",
        "links": [_top_link("dashboards", "ML serving", tags=[TAG], includeVars=True)],
        "annotations": {"list": []},
        "templating": {"list": [variable.json() for variable in variables]},
        "panels": panels,
    }
