"""What an alert is made of: its rule, what it says, and the cases that it is tested with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.rules import Alert, label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_mlobs.settings.objectives import Objective, Objectives

LOW, HIGH, CRITICAL = "low", "high", "critical"
"""Severities: Slack; PagerDuty; a page at once."""
SYSTEM, DATA, MODEL = "system", "data", "model"
"""Causes: what has to be looked at first."""

STEP = 15.0
"""Seconds between samples of a case: the library's metric interval."""
LEAST_EVENTS = 3
"""Fewer bad events than these in the window are chance, whatever their share."""

SHARE = "{{ $value | humanizePercentage }}"
NUMBER = "{{ $value | humanize }}"
"""The alert's value, in its texts."""

OPERATION, MODEL_NAME, VERSION, VIEW, STORE, SOURCE, PROFILE, FEATURE, OUTPUT = (
    label(key)
    for key in (
        semconv.OPERATION_NAME,
        semconv.MODEL_NAME,
        semconv.MODEL_VERSION,
        semconv.FEATURE_VIEW_NAME,
        semconv.FEATURE_STORE_NAME,
        semconv.CANDIDATE_SOURCE,
        semconv.PROFILE_ID,
        semconv.FEATURE_NAME,
        semconv.PREDICTION_OUTPUT,
    )
)


@dataclass(frozen=True)
class Scope:
    """Those who have one objective: the models and views that are named for it, or all that are not named at all."""

    objective: Objective
    models: tuple[str, ...]
    views: tuple[str, ...]
    named_models: tuple[str, ...]
    named_views: tuple[str, ...]

    @property
    def is_default(self) -> bool:
        """Whether it is of all that have no objective of their own."""
        return not (self.models or self.views)

    @property
    def labels(self) -> dict[str, str]:
        """What tells rules of one name apart."""
        if self.views and self.views[0] in self.named_models:
            return {"objective": f"view {self.views[0]}"}
        return {} if self.is_default else {"objective": ", ".join((*self.models, *self.views))}

    @property
    def of_model(self) -> str:
        """Matchers of series that are a model's."""
        return one_of(MODEL_NAME, self.models) if self.models else self._other_models

    @property
    def of_view(self) -> str:
        """Matchers of series that are a view's."""
        return one_of(VIEW, self.views) if self.views else self._other_views

    @property
    def of_operation(self) -> str:
        """Matchers of series of operations: a view's objective goes before the model's."""
        if self.views:
            return self.of_view
        return ", ".join(filter(None, (self.of_model, self._other_views)))

    @property
    def _other_models(self) -> str:
        return one_of(MODEL_NAME, self.named_models, "!~") if self.named_models else ""

    @property
    def _other_views(self) -> str:
        return one_of(VIEW, self.named_views, "!~") if self.named_views else ""

    @property
    def example(self) -> dict[str, str]:
        """Labels of an operation that is in it, for a case."""
        if self.views:
            return {OPERATION: semconv.FEATURE_LOOKUP, VIEW: self.views[0]}
        return {OPERATION: semconv.PREDICTION, MODEL_NAME: self.example_model, VERSION: "1"}

    @property
    def example_model(self) -> str:
        """The name of a model that is in it."""
        return self.models[0] if self.models else _unlike(self.named_models)

    @property
    def example_view(self) -> str:
        """The name of a view that is in it."""
        return self.views[0] if self.views else _unlike(self.named_views)


def scopes_of(objectives: Objectives) -> Iterator[Scope]:
    """One for the default, then one for every objective that models or views have of their own."""
    models, views = tuple(objectives.models), tuple(objectives.views)
    yield Scope(objectives.default, (), (), models, views)
    for kind in ("models", "views"):
        named: Mapping[str, Objective] = getattr(objectives, kind)
        for name, objective in named.items():
            yield Scope(
                objective, (name,) if kind == "models" else (), (name,) if kind == "views" else (), models, views
            )


def one_of(name: str, values: Sequence[str], sign: str = "=~") -> str:
    """A matcher of series whose label is one of the values; of none of them with ``!~``."""
    escaped = "|".join(re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value) for value in values)
    return f"{name}{sign}{json.dumps(escaped, ensure_ascii=False)}"


def _unlike(names: Sequence[str]) -> str:
    name = "another"
    while name in names:
        name += "_one"
    return name


@dataclass(frozen=True)
class Case:
    """Series, and when the alert must fire on them; seconds from the beginning. ``fires`` None: never.

    ``series`` are Prometheus' series with promtool's notation of their values. It does not fire ``slack`` seconds
    before it must, and does as many after; it has ended ``ends`` seconds from the beginning.
    """

    name: str
    series: tuple[tuple[str, str], ...] = ()
    fires: float | None = None
    ends: float | None = None
    lasts: float = 3600.0
    slack: float = 60.0


@dataclass(frozen=True)
class Definition:
    """An alert as it is written here. ``summary`` and ``description`` are Prometheus' templates."""

    name: str
    severity: str
    cause: str
    expr: str
    summary: str
    description: str
    comment: str
    objective: Objective
    hold: float = 0.0
    keep: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    dashboard: str = ""
    traces: str = ""
    cases: tuple[Case, ...] = ()

    def rule(self) -> Alert:
        """The rule, with who is told and where there is more."""
        objective = self.objective
        labels = {"severity": self.severity, "cause": self.cause}
        labels |= {name: _literal(text) for name, text in self.labels.items()}
        if objective.owner:
            labels["owner"] = _literal(objective.owner)
        annotations = {"summary": self.summary, "description": self.description}
        if objective.runbooks:
            url = objective.runbooks
            named = url.replace("{alert}", self.name) if "{alert}" in url else f"{url}/{self.name}"
            annotations["runbook_url"] = _literal(named)
        if objective.dashboards and self.dashboard:
            annotations["dashboard_url"] = f"{_literal(objective.dashboards)}/d/{self.dashboard}"
        if objective.traces and self.traces:
            annotations["traces_url"] = f"{_literal(objective.traces)}/{self.traces}"
        return Alert(self.name, self.expr, self.comment, self.hold, self.keep, labels, annotations)


def _literal(text: str) -> str:
    """``text`` as a template that says just that: labels and annotations are templates to Prometheus."""
    return text.replace("{{", '{{ "{{" }}')


def link(dashboard: str, **variables: str) -> str:
    """A dashboard with its variables taken from the alert's labels, as a template."""
    given = {"job": "job", **variables}
    # What the alert has no label for is left out: an empty variable would select nothing
    pairs = (
        f"{{{{ with $labels.{of} }}}}&var-{name}={{{{ . | urlquery }}}}{{{{ end }}}}" for name, of in given.items()
    )
    return f"{dashboard}?orgId=1{''.join(pairs)}"


def series(name: str, labels: Mapping[str, str], **more: str) -> str:
    """A series as promtool writes it, of a job ``shop`` unless another is given."""
    all_labels = {"job": "shop", **labels, **more}
    inside = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in all_labels.items() if value)
    return f"{name}{{{inside}}}"


def counter(*phases: tuple[float, float]) -> str:
    """A counter's samples: phases of ``(seconds, increase a second)``, one after the other; promtool's notation."""
    value, words = 0.0, []
    for seconds, rate in phases:
        count = round(seconds / STEP)
        increase = rate * STEP
        words.append(f"{value:.12g}+{increase:.12g}x{count - 1}")
        value += increase * count
    return " ".join(words)


def gauge(*phases: tuple[float, float | None]) -> str:
    """A gauge's samples: phases of ``(seconds, value)``; None for no sample at all."""
    words = []
    for seconds, value in phases:
        count = round(seconds / STEP)
        words.append(f"_x{count}" if value is None else f"{value:.12g}x{count - 1}")
    return " ".join(words)


def equals(name: str, value: str) -> str:
    """A matcher of one label's value."""
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def unequal(name: str, value: str) -> str:
    """A matcher of all values of a label but one."""
    return f"{name}!={json.dumps(value, ensure_ascii=False)}"


def milliseconds(seconds: float) -> str:
    """A latency as people say it."""
    return f"{1000 * seconds:.6g} ms" if seconds < 1 else f"{seconds:.6g} s"


def percent(share: float) -> str:
    """A share as people say it."""
    return f"{100 * share:.6g}%"


def sum_by(labels: Sequence[str], expression: str) -> str:
    """``sum by (…) (…)``."""
    return f"sum by ({', '.join(labels)}) ({expression})"


def selector(*matchers: str) -> str:
    """``{…}`` of the matchers that there are, or nothing."""
    given = ", ".join(filter(None, matchers))
    return f"{{{given}}}" if given else ""
