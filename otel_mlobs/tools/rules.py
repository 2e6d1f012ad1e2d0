"""Prometheus' names for what the library emits, and rule files as text."""

from __future__ import annotations

import json
import math
import re
import textwrap
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from otel_mlobs.semconv import METRICS, Attribute, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNITS = {"s": "seconds", "By": "bytes", "J": "joules", "W": "watts", "Cel": "celsius", "Hz": "hertz",
          "By/s": "bytes_per_second"}  # fmt: skip
_ATTRIBUTES = {attribute.key: attribute for metric in METRICS for attribute in metric.attributes}
_DURATION = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}


def prometheus_name(item: Metric | Attribute) -> str:
    """The name that Prometheus gives to ``item`` when it comes over OTLP: of a metric, or of an attribute as a label.

    These are the names of the default translation strategy, ``UnderscoreEscapingWithSuffixes``. Of a histogram it is
    the base name, without ``_bucket``, ``_count`` and ``_sum``. A unit that has no Prometheus name here raises
    ``ValueError``. Source: OpenTelemetry's "Prometheus and OpenMetrics compatibility", metric metadata.
    """
    if isinstance(item, Attribute):
        return _escaped(item.key)
    words = [item.name.replace(".", "_")]
    if not item.unit.startswith("{"):
        unit = _unit(item)
        if unit and unit not in re.split(r"[^a-zA-Z0-9]+", item.name):
            words.append(unit)
    if item.instrument == "counter":
        words.append("total")
    return _escaped("_".join(words))


def label(key: str) -> str:
    """The label that Prometheus has for the attribute ``key`` of the library's metrics."""
    return prometheus_name(_ATTRIBUTES[key])


def _unit(metric: Metric) -> str:
    if metric.unit == "1":
        return "ratio" if metric.instrument == "gauge" else ""
    if metric.unit not in _UNITS:
        raise ValueError(f"unit of {metric.name} must be 1, {{…}} or one of {', '.join(_UNITS)}, got {metric.unit!r}")
    return _UNITS[metric.unit]


def _escaped(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def label_names(text: str) -> tuple[str, ...]:
    """The labels in ``text``, separated by commas; one that is no Prometheus label name raises ``ValueError``."""
    names = tuple(name for name in (part.strip() for part in text.split(",")) if name)
    for name in names:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
            raise ValueError(f"a label must be a name such as job or cloud_region, got {name!r}")
    return names


def parse_duration(text: str) -> float:
    """Seconds of a Prometheus duration such as ``1h``, ``90s`` or ``1h30m``; anything else raises ``ValueError``."""
    parts = re.fullmatch(r"(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?", text)
    if not text or parts is None:
        raise ValueError(f"a duration must be written as 1h, 30m, 90s or 1h30m, got {text!r}")
    return float(sum(int(number) * _DURATION[unit] for number, unit in re.findall(r"(\d+)([wdhms])", text)))


def write_duration(seconds: float) -> str:
    """``seconds``, a whole number above 0, as Prometheus writes it: ``1h30m``."""
    if not (math.isfinite(seconds) and seconds >= 1 and seconds == int(seconds)):
        raise ValueError(f"a duration must be whole seconds above 0, got {seconds:g}")
    rest, words = int(seconds), []
    for unit, size in _DURATION.items():
        if unit != "w" and rest >= size:
            words.append(f"{rest // size}{unit}")
            rest %= size
    return "".join(words)


def written_milliseconds(seconds: float) -> str:
    """``seconds`` as Jaeger and Tempo read a duration, without an exponent: ``80ms``."""
    return f"{Decimal(f'{1000 * seconds:.6g}'):f}ms"


def bound_texts(bound: float) -> tuple[str, ...]:
    """What Prometheus has as ``le`` of a bound above 0, every digit: over OTLP, and from a scrape where it differs.

    Source: Go's ``strconv.FormatFloat`` with ``f`` over OTLP; ``FormatOpenMetricsFloat``, with ``g``, when scraped.
    """
    exact = Decimal(repr(float(bound))).normalize()
    over_otlp = f"{exact:f}"
    scraped = over_otlp if "." in over_otlp else f"{over_otlp}.0"
    if not -4 <= exact.adjusted() < 6:
        scraped = f"{bound:.{len(exact.as_tuple().digits) - 1}e}"
    return tuple(dict.fromkeys((over_otlp, scraped)))


@dataclass(frozen=True)
class Rule:
    """A recording rule: the name it records, its PromQL, what it is, and labels it adds."""

    record: str
    expr: str
    comment: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Alert:
    """An alerting rule: ``expr`` must hold for ``hold`` seconds, and it fires for ``keep`` seconds after its end."""

    alert: str
    expr: str
    comment: str
    hold: float = 0.0
    keep: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Rules that Prometheus evaluates in their order, at one time; ``interval`` where it is not the file's."""

    name: str
    rules: tuple[Rule | Alert, ...]
    interval: str = ""


def rule_file(header: str, groups: Sequence[Group], interval: str) -> str:
    """A rule file as YAML, the same text for the same arguments.

    It is written by hand so that each rule keeps its comment, and so that no YAML library is needed.
    """
    lines = [*_comment(header, ""), "groups:"]
    for group in groups:
        lines += [f"  - name: {group.name}", f"    interval: {group.interval or interval}", "    rules:"]
        for rule in group.rules:
            lines += _comment(rule.comment, " " * 6)
            if isinstance(rule, Alert):
                lines.append(f"      - alert: {rule.alert}")
                lines += _texts("labels", rule.labels)
                lines += _texts("annotations", rule.annotations)
                for name, seconds in (("for", rule.hold), ("keep_firing_for", rule.keep)):
                    if seconds:
                        lines.append(f"        {name}: {write_duration(seconds)}")
            else:
                lines.append(f"      - record: {rule.record}")
                lines += _texts("labels", rule.labels)
            lines += ["        expr: |-", *(f"          {line}" for line in rule.expr.splitlines())]
    return "\n".join(lines) + "\n"


def _texts(key: str, texts: dict[str, str]) -> list[str]:
    """A mapping of texts; what JSON writes in quotation marks is also YAML."""
    if not texts:
        return []
    return [
        f"        {key}:",
        *(f"          {name}: {json.dumps(text, ensure_ascii=False)}" for name, text in texts.items()),
    ]


def _comment(text: str, indent: str) -> Iterable[str]:
    for paragraph in text.splitlines():
        yield from (f"{indent}# {line}".rstrip() for line in textwrap.wrap(paragraph, 112 - len(indent)) or [""])
