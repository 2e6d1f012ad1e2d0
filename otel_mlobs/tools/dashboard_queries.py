"""PromQL of the dashboards: the library's series by their semconv names, and what the recording rules record."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_json import Query
from otel_mlobs.tools.drift_rules import ALARM_WINDOWS, drift_rules
from otel_mlobs.tools.outcome_rules import outcome_rules
from otel_mlobs.tools.rules import bound_texts, label, prometheus_name, write_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RATE = "$__rate_interval"
"""Grafana's: four times the interval between exports, or the width of a pixel where that is more."""


JOB, INSTANCE = "job", "instance"
OPERATION, MODEL, VERSION, PROFILE = (
    label(key) for key in (semconv.OPERATION_NAME, semconv.MODEL_NAME, semconv.MODEL_VERSION, semconv.PROFILE_ID)
)
VIEW, FEATURE, OUTPUT, BIN = (
    label(key) for key in (semconv.FEATURE_VIEW_NAME, semconv.FEATURE_NAME, semconv.PREDICTION_OUTPUT, semconv.BIN)
)
ALTERNATIVE = "mlobs_alternative"
"""A label of the recording rules' own: for which kind of change the evidence is."""
OF_JOB = f'{JOB}=~"$job"'
OF_MODEL = f'{OF_JOB}, {MODEL}=~"$model", {VERSION}=~"$version"'
OF_OPERATION = f'{OF_MODEL}, {OPERATION}=~"$operation"'
OF_VIEW = f'{OF_JOB}, {VIEW}=~"$view"'
OF_FEATURE = f'{OF_MODEL}, {FEATURE}=~"$feature"'


def series(metric: semconv.Metric, *matchers: str, suffix: str = "") -> str:
    """A selector of the metric's series."""
    return select(f"{prometheus_name(metric)}{suffix}", *matchers)


def select(name: str, *matchers: str) -> str:
    """A selector of a name's series."""
    return f"{name}{{{', '.join(matchers)}}}" if matchers else name


def by(function: str, labels: Iterable[str], expr: str) -> str:
    """An aggregation that keeps the labels."""
    return f"{function} by ({', '.join(labels)}) ({expr})"


def rate(metric: semconv.Metric, labels: Iterable[str], *matchers: str, function: str = "sum") -> str:
    """What a counter gains a second."""
    return by(function, labels, f"rate({series(metric, *matchers)}[{RATE}])")


def observed(histogram: semconv.Metric, labels: Iterable[str], *matchers: str) -> str:
    """What a histogram observes a second, one of buckets or a native one."""
    classic = by("sum", labels, f"rate({series(histogram, *matchers, suffix='_count')}[{RATE}])")
    native = f"histogram_count({by('sum', labels, f'rate({series(histogram, *matchers)}[{RATE}])')})"
    return f"{classic}\nor\n{native}"


def quantile(level: float, histogram: semconv.Metric, labels: Iterable[str], *matchers: str) -> str:
    """A quantile of a histogram, one of buckets or a native one."""
    kept = [*labels]
    classic = by("sum", ["le", *kept], f"rate({series(histogram, *matchers, suffix='_bucket')}[{RATE}])")
    native = by("sum", kept, f"rate({series(histogram, *matchers)}[{RATE}])")
    return f"histogram_quantile({level:g}, {classic})\nor\nhistogram_quantile({level:g}, {native})"


def quantiles(
    histogram: semconv.Metric, labels: Iterable[str], *matchers: str, legend: str, levels: Iterable[float]
) -> list[Query]:
    """A line for each quantile, with exemplars."""
    return [
        Query(quantile(level, histogram, labels, *matchers), f"p{level * 100:g} {legend}".strip(), exemplars=True)
        for level in levels
    ]


def buckets(histogram: semconv.Metric, *matchers: str) -> Query:
    """The histogram over time, one of buckets or a native one."""
    classic = by("sum", ["le"], f"increase({series(histogram, *matchers, suffix='_bucket')}[{RATE}])")
    native = f"sum(increase({series(histogram, *matchers)}[{RATE}]))"
    return Query(f"{classic}\nor\n{native}", "{{le}}", kind="heatmap", exemplars=True)


def beyond(bound: float, histogram: semconv.Metric, labels: Iterable[str], *matchers: str) -> str:
    """The share of observations above ``bound``: exact where it is a bucket's bound, as objectives are."""
    kept = [*labels]
    texts = bound_texts(bound)
    at = like("le", "|".join(map(re.escape, texts)))
    below = by("sum", kept, f"rate({series(histogram, *matchers, at, suffix='_bucket')}[{RATE}])")
    everything = by("sum", kept, f"rate({series(histogram, *matchers, suffix='_count')}[{RATE}])")
    native = by("sum", kept, f"rate({series(histogram, *matchers)}[{RATE}])")
    return f"1 - {below} / ({everything} > 0)\nor\n1 - histogram_fraction(0, {texts[0]}, {native})"


def ratio(part: str, whole: str) -> str:
    """Their quotient, where there is a whole."""
    return f"({part})\n/\n(({whole}) > 0)"


def constants(selector: str, what: str, limits: Mapping[str, float], default: float | None, *matchers: str) -> str:
    """For each value of the label ``what`` in ``selector``'s series its number: of ``limits``, or the default."""
    own = [(equal(what, name), limit) for name, limit in limits.items()]
    if default is not None:
        others = quoted("|".join(re.escape(name) for name in limits))
        own.append((f"{what}!~{others}", default))
    return "\nor\n".join(
        f"0 * {by('group', [what], select(selector, *matchers, chosen))} + {limit:.15g}" for chosen, limit in own
    )


def quoted(text: str) -> str:
    """A PromQL string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def equal(what: str, text: str) -> str:
    """A matcher of series whose label ``what`` is ``text``."""
    return f"{what}={quoted(text)}"


def like(what: str, pattern: str) -> str:
    """A matcher of series whose label ``what`` matches."""
    return f"{what}=~{quoted(pattern)}"


def shown(*labels: str) -> str:
    """A legend with the values of the labels."""
    return " ".join(f"{{{{{each}}}}}" for each in labels)


class Recorded:
    """The series that `otel-mlobs rules --drift` and `--outcomes` record, with these windows.

    A name that no rule records raises ``KeyError``: a panel that asks for it would be empty for ever.
    """

    def __init__(self, drift_window: float = 3600.0, outcome_window: float = 86_400.0) -> None:
        rules = drift_rules(window=drift_window) + outcome_rules(
            window=outcome_window, interval=min(60.0, outcome_window)
        )
        self._names = set(re.findall(r"^ +- record: (.+)$", rules, re.MULTILINE))
        self.drift_window, self.outcome_window = write_duration(drift_window), write_duration(outcome_window)
        self.alarm_windows = tuple(write_duration(round(drift_window * multiple)) for multiple in ALARM_WINDOWS)

    def __call__(self, name: str, *matchers: str, window: str = "") -> str:
        """A selector of a recorded series; ``{drift}`` and ``{outcomes}`` in the name are the windows."""
        found = name.format(drift=window or self.drift_window, outcomes=self.outcome_window)
        if found not in self._names:
            raise KeyError(f"no recording rule makes {found}")
        return select(found, *matchers)
