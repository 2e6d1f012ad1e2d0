"""Dashboards as Grafana reads them: their panels, their queries, and what becomes of the variables in these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TIMES = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h"}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels that show something, from the top."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel


def queries(panel: Mapping[str, Any]) -> Iterator[str]:
    """What a panel asks Prometheus."""
    for target in panel["targets"]:
        if "expr" in target:
            yield target["expr"]


def variables(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The variables, but those that choose a data source."""
    return [one for one in dashboard["templating"]["list"] if one["type"] == "query"]


def substituted(text: str, values: Mapping[str, str] | None = None, **times: str) -> str:
    """The text with the variables that Grafana would put in; a variable without a value is all of them."""
    known = {**TIMES, **times, **(values or {})}
    return re.sub(r"\$\{?(\w+)\}?(?![\w(])", lambda found: known.get(found[1], ".*"), text)


def label_values(query: str) -> tuple[str, str]:
    """The selector and the label of a variable's query."""
    selector, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    return selector, label
