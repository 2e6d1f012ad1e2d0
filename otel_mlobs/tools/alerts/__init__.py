"""Who is told of what, and when: alerting rules in layers, the recording rules that they read, and their unit tests.

Everything is made from the objectives and from the names that the library emits under; docs/alerts.md lists the alerts.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from otel_mlobs.settings.objectives import Objectives
from otel_mlobs.tools.alerts.definitions import STEP, scopes_of
from otel_mlobs.tools.alerts.features import Features
from otel_mlobs.tools.alerts.models import Models
from otel_mlobs.tools.alerts.operations import ERROR_WINDOW, LONG_WINDOWS, WINDOWS, Operations
from otel_mlobs.tools.alerts.resources import resource_alerts
from otel_mlobs.tools.rules import Group, parse_duration, rule_file, write_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.tools.alerts.definitions import Case, Definition
    from otel_mlobs.tools.rules import Alert, Rule

_MOST_RULES = 20
"""In a group: what Mimir takes by default."""
_RARELY = "2m"
_INTERVAL = 30.0
_RAREST = parse_duration(ERROR_WINDOW)
"""More rarely, failures between two evaluations are in no window, and what is recorded is too old to be read."""
_EVALUATION = 60.0
"""Seconds between evaluations in the unit tests, which all groups have there."""
_HEADER = """\
Alerts on machine-learning operations, features and models, and what they read, by the objectives in mlobs.toml.
Made by `otel-mlobs rules --alerts`: change the objectives rather than this file.
Those on drift and performance read what `otel-mlobs rules --drift` and `--outcomes` record.
Severities: low (Slack), high (PagerDuty), critical (a page at once). Causes: system, data, model."""
_TESTS_HEADER = """\
Unit tests of the alerts, for `promtool test rules`: each fires when it must, and not when it must not.
Made by `otel-mlobs rules --tests` from the same objectives."""


class Alerts:
    """The rules for some objectives.

    Args:
        objectives: what is good enough; the defaults unless given.
        interval: seconds between evaluations.
        by: labels that tell fleets apart, beside the model's.
        drift_window: that of the rules for drift, in seconds.
        outcome_window: that of the rules for outcomes, in seconds.

    Durations are whole seconds, ``interval`` at most two minutes; others raise ``ValueError``.
    """

    def __init__(
        self,
        objectives: Objectives | None = None,
        *,
        interval: float = _INTERVAL,
        by: Sequence[str] = ("job",),
        drift_window: float = 3600.0,
        outcome_window: float = 86_400.0,
    ) -> None:
        if not (1 <= interval < math.inf and interval == int(interval)):
            raise ValueError(f"interval must be whole seconds above 0, got {interval:g}")
        if interval > _RAREST:
            raise ValueError(
                f"interval must be at most {_RAREST:g} s, the shortest window of the alerts, got {interval:g}"
            )
        self._interval = write_duration(interval)
        self._scopes = list(scopes_of(objectives or Objectives()))
        self._operations = Operations(by)
        self._features = Features(by)
        self._models = Models(by, write_duration(drift_window), write_duration(outcome_window))

    def definitions(self) -> dict[str, list[Definition]]:
        """Every alert, by layer."""
        return {
            "operations": [each for scope in self._scopes for each in self._operations.alerts(scope)],
            "resources": list(resource_alerts(self._scopes[0].objective)),
            "features": [each for scope in self._scopes for each in self._features.alerts(scope)],
            "models": [each for scope in self._scopes for each in self._models.alerts(scope)],
        }

    def rules(self) -> str:
        """The rule file; the same text for the same arguments."""
        records = [*self._operations.records(self._scopes, WINDOWS), *self._operations.quantiles()]
        groups = list(_groups("mlobs_operations", records))
        groups += _groups("mlobs_operations_long", self._operations.records(self._scopes, LONG_WINDOWS), _RARELY)
        for layer, definitions in self.definitions().items():
            groups += _groups(f"mlobs_alerts_{layer}", [definition.rule() for definition in definitions])
        return rule_file(_HEADER, groups, self._interval)

    def tests(self, rules: str) -> str:
        """Unit tests for the file that is called ``rules``, as promtool reads them."""
        lines = [*(f"# {line}" for line in _TESTS_HEADER.splitlines()), "rule_files:", f"  - {json.dumps(rules)}"]
        lines += [f"evaluation_interval: {write_duration(_EVALUATION)}", "tests:"]
        for definitions in self.definitions().values():
            for definition in definitions:
                for case in definition.cases:
                    lines += _test(definition, case)
        return "\n".join(lines) + "\n"


def _groups(name: str, rules: Sequence[Rule | Alert] | Iterator[Rule], interval: str = "") -> Iterator[Group]:
    found = list(rules)
    for number, begin in enumerate(range(0, len(found), _MOST_RULES), 1):
        suffix = f"_{number}" if len(found) > _MOST_RULES else ""
        yield Group(name + suffix, tuple(found[begin : begin + _MOST_RULES]), interval)


def _test(definition: Definition, case: Case) -> Iterator[str]:
    labels = "".join(f", {name}={json.dumps(text, ensure_ascii=False)}" for name, text in definition.labels.items())
    firing = f'ALERTS{{alertname="{definition.name}", alertstate="firing"{labels}}}'
    whose = f" ({', '.join(definition.labels.values())})" if definition.labels else ""
    yield f"  - name: {json.dumps(f'{definition.name}{whose}: {case.name}', ensure_ascii=False)}"
    yield f"    interval: {write_duration(STEP)}"
    if case.series:
        yield "    input_series:"
        for series, values in case.series:
            yield f"      - series: {json.dumps(series, ensure_ascii=False)}"
            yield f"        values: {json.dumps(values)}"
    yield "    promql_expr_test:"
    never = f"count(count_over_time({firing}[1w]))"
    if case.fires is None:
        yield from _expect(never, case.lasts, None)
        return
    if case.fires > case.slack:
        yield from _expect(f"count({firing})", case.fires - case.slack, None)
    yield from _expect(f"count by (severity) ({firing})", case.fires + case.slack, definition.severity)
    if case.ends is not None:
        yield from _expect(f"count({firing})", case.ends, None)


def _expect(expression: str, seconds: float, severity: str | None) -> Iterator[str]:
    """One sample of this severity, or none, at a time that is an evaluation's."""
    at = max(_EVALUATION, seconds // _EVALUATION * _EVALUATION if severity is None else _up(seconds))
    yield f"      - expr: {json.dumps(expression, ensure_ascii=False)}"
    yield f"        eval_time: {write_duration(at)}"
    if severity is not None:
        labels = json.dumps(f'{{severity="{severity}"}}')
        yield f"        exp_samples: [{{labels: {labels}, value: 1}}]"


def _up(seconds: float) -> float:
    return math.ceil(seconds / _EVALUATION) * _EVALUATION
