"""The model itself: drift, performance, what it costs when it is wrong; and what nobody would know otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.settings.objectives import LOWER_IS_BETTER
from otel_mlobs.tools.alerts.definitions import (
    FEATURE,
    HIGH,
    LOW,
    MODEL,
    MODEL_NAME,
    NUMBER,
    OUTPUT,
    PROFILE,
    STEP,
    VERSION,
    Case,
    Definition,
    counter,
    equals,
    gauge,
    link,
    selector,
    series,
    sum_by,
    unequal,
)
from otel_mlobs.tools.rules import label, prometheus_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.tools.alerts.definitions import Scope

METRIC, BOUND = label(semconv.PERFORMANCE_METRIC), label(semconv.PERFORMANCE_BOUND)
CELL, CURRENCY, RESULT = label(semconv.OUTCOME_CELL), label(semconv.CURRENCY), label(semconv.OUTCOME_RESULT)
COMPONENT = label(semconv.INTERNAL_COMPONENT)
HOUR, DAY = 3600.0, 86_400.0
NOTHING = Case("no metrics at all")
_WITHOUT_INTERVAL = ("rmse",)
_MODEL = f"{{{{ $labels.{MODEL_NAME} }}}} {{{{ $labels.{VERSION} }}}}"
_DASHBOARD = link("mlobs-model", model=MODEL_NAME, version=VERSION)


class Models:
    """The rules for models; they read what the rules for drift and for outcomes record, of those two windows."""

    def __init__(self, by: Sequence[str], drift_window: str, outcome_window: str) -> None:
        self._by = tuple(by)
        self._drift, self._outcomes = drift_window, outcome_window

    def alerts(self, scope: Scope) -> Iterator[Definition]:
        """What somebody is told of the models of one objective."""
        if scope.views:
            return
        yield self._drifts(scope, "feature", FEATURE)
        yield self._drifts(scope, "prediction", OUTPUT)
        for metric, floor in scope.objective.performance.items():
            yield self._performance(scope, metric, floor)
            yield self._estimate(scope, metric, floor)
        for currency, amount in scope.objective.value_at_risk.items():
            yield self._value(scope, currency, amount)
        if scope.is_default:
            yield self._unwatched(scope)
            yield self._unreliable(scope)
            yield self._no_labels(scope)
            yield self._lost(scope)
            yield self._internal(scope)

    def _drifts(self, scope: Scope, subject: str, name: str) -> Definition:
        of, tolerance = selector(scope.of_model), scope.objective.drift_tolerance
        evidence, threshold = f"{subject}:mlobs_drift_evidence:log10", "model:mlobs_drift_threshold:log10"
        psi = f"{subject}:mlobs_drift_psi_adjusted:increase{self._drift}"
        labels = _labels(scope)
        what = labels | {name: "age" if subject == "feature" else "score"}

        def moved(certain: float, far: float) -> tuple[tuple[str, str], ...]:
            return (
                (series(evidence, what), gauge((HOUR, certain), (3 * HOUR, 0.0))),
                (series(psi, what), gauge((HOUR, far), (3 * HOUR, 0.0))),
                (series(threshold, labels), gauge((4 * HOUR, 5.0))),
            )

        feature = subject == "feature"
        return Definition(
            "FeatureDrift" if feature else "PredictionDrift",
            LOW,
            MODEL,
            f"{psi}{of} > {tolerance:.12g}\nand\n(\n"
            f"  {evidence}{of}\n  >= ignoring ({name}) group_left ()\n  {threshold}{of}\n)",
            f"{{{{ $labels.{name} }}}} of {_MODEL} has drifted"
            if feature
            else f"what {_MODEL} predicts has drifted: {{{{ $labels.{name} }}}}",
            f"A PSI of {NUMBER} against the training data over {self._drift}, which is not chance; "
            f"{tolerance:.12g} would not matter.",
            "Material and certain: the shift is above the tolerance, and the alarm's evidence above its threshold.",
            scope.objective,
            hold=600.0,
            keep=HOUR,
            labels=scope.labels,
            dashboard=link("mlobs-feature", model=MODEL_NAME, version=VERSION, feature=FEATURE)
            if feature
            else _DASHBOARD,
            cases=(
                Case(
                    "it moves",
                    moved(9.0, 1.1 * tolerance),
                    fires=600.0,
                    ends=HOUR + 300.0 + HOUR + 60.0,
                    lasts=4 * HOUR,
                ),
                Case("certain and small", moved(9.0, tolerance)),
                Case("large and by chance", moved(4.9, 1.1 * tolerance)),
                NOTHING,
            ),
        )

    def _performance(self, scope: Scope, metric: str, floor: float) -> Definition:
        worse, bound = _worse(metric)
        name = f"model:mlobs_performance_realized:increase{self._outcomes}"
        which = selector(scope.of_model, equals(METRIC, metric), equals(BOUND, bound))
        bad, good = _around(metric, floor)

        def figure(value: float) -> tuple[tuple[str, str], ...]:
            of = {METRIC: metric, BOUND: bound}
            return ((series(name, _labels(scope), **of), gauge((2 * HOUR, value), (2 * HOUR, good))),)

        certain = "" if metric in _WITHOUT_INTERVAL else " The better end of its 95% interval, so it is not chance."
        return Definition(
            "PerformanceBelowObjective",
            HIGH,
            MODEL,
            f"{name}{which} {worse} {floor:.12g}",
            f"{_MODEL} is not as right as it must be: {{{{ $labels.{METRIC} }}}}",
            f"{{{{ $labels.{METRIC} }}}} of the labels of the last {self._outcomes} is at best {NUMBER}; the "
            f"objective is {floor:.12g}.{certain}",
            "Measured, by labels that came. They are of predictions that were made earlier.",
            scope.objective,
            hold=600.0,
            keep=HOUR,
            labels={**scope.labels, "metric": metric},
            dashboard=_DASHBOARD,
            cases=(
                Case("below", figure(bad), fires=600.0, ends=2 * HOUR + HOUR + 60.0, lasts=4 * HOUR),
                Case("just there", figure(floor)),
                NOTHING,
            ),
        )

    def _estimate(self, scope: Scope, metric: str, floor: float) -> Definition:
        worse, _ = _worse(metric)
        name = f"model:mlobs_performance_estimate:increase{self._outcomes}"
        which = selector(scope.of_model, equals(METRIC, metric), equals(BOUND, "value"))
        bad, _ = _around(metric, floor)

        def figure(value: float) -> tuple[tuple[str, str], ...]:
            return ((series(name, _labels(scope), **{METRIC: metric, BOUND: "value"}), gauge((4 * HOUR, value))),)

        return Definition(
            "EstimatedPerformanceBelowObjective",
            LOW,
            MODEL,
            f"{name}{which} {worse} {floor:.12g}",
            f"{_MODEL} is probably not as right as it must be: {{{{ $labels.{METRIC} }}}}",
            f"{{{{ $labels.{METRIC} }}}} of the predictions of the last {self._outcomes} is expected to be "
            f"{NUMBER}; the objective is {floor:.12g}. An estimate: no label has been seen.",
            "It rests on calibration, and knows nothing of a world in which the same inputs mean something else.",
            scope.objective,
            hold=HOUR,
            keep=HOUR,
            labels={**scope.labels, "metric": metric},
            dashboard=_DASHBOARD,
            cases=(
                Case("below", figure(bad), fires=HOUR, lasts=4 * HOUR),
                Case("just there", figure(floor), lasts=4 * HOUR),
                NOTHING,
            ),
        )

    def _value(self, scope: Scope, currency: str, amount: float) -> Definition:
        name = f"model_cell:mlobs_outcome_value:increase{self._outcomes}"
        which = selector(scope.of_model, equals(CURRENCY, currency), f'{CELL}=~"fp|fn"')

        def lost(missed: float) -> tuple[tuple[str, str], ...]:
            of = {CURRENCY: currency}
            return (
                (series(name, _labels(scope), **of, **{CELL: "fn"}), gauge((2 * HOUR, missed))),
                (series(name, _labels(scope), **of, **{CELL: "fp"}), gauge((2 * HOUR, 0.5 * amount))),
                (series(name, _labels(scope), **of, **{CELL: "tp"}), gauge((2 * HOUR, 9 * amount))),
            )

        return Definition(
            "ValueAtRisk",
            HIGH,
            MODEL,
            f"sum without ({CELL}) ({name}{which}) > {amount:.12g}",
            f"wrong predictions of {_MODEL} cost too much",
            f"{NUMBER} {{{{ $labels.{CURRENCY} }}}} was missed or wrongly blocked in the last {self._outcomes}; "
            f"{amount:,.12g} may be.",
            "The value of what was predicted wrongly, of the labels that came.",
            scope.objective,
            keep=HOUR,
            labels={**scope.labels, "currency": currency},
            dashboard=_DASHBOARD,
            cases=(
                Case("more than may be", lost(0.6 * amount), fires=0.0),
                Case("just what may be", lost(0.5 * amount)),
                NOTHING,
            ),
        )

    def _unwatched(self, scope: Scope) -> Definition:
        omitted = prometheus_name(semconv.SERIES_OMITTED)
        return Definition(
            "DriftNotWatched",
            LOW,
            MODEL,
            f"{omitted} > 0",
            f"some of {_MODEL} is not watched for drift",
            f"{NUMBER} series are left out because of the monitor's max_series.",
            "What is left out drifts unseen, over the fleet; the process itself still sees it.",
            scope.objective,
            hold=900.0,
            dashboard=_DASHBOARD,
            cases=(
                Case("series are left out", ((series(omitted, _labels(scope)), gauge((HOUR, 3.0))),), fires=900.0),
                Case("none is", ((series(omitted, _labels(scope)), gauge((HOUR, 0.0))),)),
                NOTHING,
            ),
        )

    def _unreliable(self, scope: Scope) -> Definition:
        name = "model:mlobs_performance_reliable:min"
        return Definition(
            "EstimatesUnreliable",
            LOW,
            MODEL,
            f"{name} == 0",
            f"what is expected of {_MODEL} is not to be relied on",
            "Its inputs have left what it was trained on, or labels contradict the estimates: none are shown.",
            "Performance without labels rests on calibration, which holds only where the training data was.",
            scope.objective,
            hold=HOUR,
            dashboard=_DASHBOARD,
            cases=(
                Case(
                    "they are not",
                    ((series(name, _labels(scope)), gauge((4 * HOUR, 0.0))),),
                    fires=HOUR,
                    lasts=4 * HOUR,
                ),
                Case("they are", ((series(name, _labels(scope)), gauge((4 * HOUR, 1.0))),), lasts=4 * HOUR),
                NOTHING,
            ),
        )

    def _no_labels(self, scope: Scope) -> Definition:
        labels = prometheus_name(semconv.OUTCOME_LABELS)
        joined = f"{labels}{selector(equals(RESULT, 'joined'))}"
        one = series(labels, _labels(scope), **{RESULT: "joined"})
        newer = series(labels, {**_labels(scope), VERSION: "2"}, **{RESULT: "joined"})
        whole = (*self._by, MODEL_NAME)

        def come(then: float | None) -> tuple[tuple[str, str], ...]:
            counts = counter((600.0, 1.0)) if then is None else counter((600.0, 1.0), (26 * HOUR, then))
            return ((one, counts),)

        return Definition(
            "LabelsMissing",
            LOW,
            MODEL,
            f"{sum_by(whole, f'increase({joined}[7d])')} > 0\nunless\n{sum_by(whole, f'increase({joined}[1d])')} > 0",
            f"no labels come for {{{{ $labels.{MODEL_NAME} }}}}",
            "None found its prediction in the last day, and some did in the week.",
            "Without them nobody knows whether the model is right. Of all its versions, since one follows another.",
            scope.objective,
            hold=HOUR,
            dashboard=link("mlobs-model", model=MODEL_NAME),
            cases=(
                Case("they stop", come(0.0), fires=600.0 + DAY + 15.0 + HOUR),
                Case("they come", come(0.01), lasts=2 * HOUR),
                Case("who joins them is gone", come(None), fires=600.0 + DAY + 15.0 + HOUR),
                Case(
                    "another version took over",
                    ((one, counter((600.0, 1.0))), (newer, counter((600.0, 0.0), (26 * HOUR, 0.01)))),
                    lasts=26 * HOUR,
                ),
                NOTHING,
            ),
        )

    def _lost(self, scope: Scope) -> Definition:
        dropped = prometheus_name(semconv.STORE_DROPPED)
        reason = label(semconv.STORE_REASON)
        return Definition(
            "OutcomesLost",
            LOW,
            MODEL,
            f"increase({dropped}{selector(unequal(reason, 'repeated'))}[10m]) > 0",
            f"predictions or labels are lost: {{{{ $labels.{reason} }}}}",
            f"{NUMBER} in the last ten minutes, which no store will ever know.",
            "The figures of performance then rest on fewer outcomes than there were.",
            scope.objective,
            keep=300.0,
            dashboard=link("mlobs-overview"),
            cases=(
                Case(
                    "one is",
                    ((series(dropped, {}, **{reason: "overflow"}), "0x80 1x300"),),
                    fires=81 * STEP,
                    ends=81 * STEP + 600.0 + 300.0 + 60.0,
                ),
                Case("none is", ((series(dropped, {}, **{reason: "overflow"}), "2x240"),)),
                Case("an id comes twice", ((series(dropped, {}, **{reason: "repeated"}), "0x80 1x300"),)),
                NOTHING,
            ),
        )

    def _internal(self, scope: Scope) -> Definition:
        errors = prometheus_name(semconv.INTERNAL_ERRORS)
        return Definition(
            "InstrumentationErrors",
            LOW,
            "system",
            f"increase({errors}[10m]) > 0",
            f"otel-mlobs fails in {{{{ $labels.{COMPONENT} }}}}",
            f"{NUMBER} errors of the library in the last ten minutes: the application goes on, its log says "
            "what it was, and some of what you see here is missing.",
            "Our own errors never reach the application: this is where they are seen.",
            scope.objective,
            hold=60.0,
            keep=300.0,
            dashboard=link("mlobs-overview"),
            cases=(
                Case(
                    "it fails",
                    ((series(errors, {COMPONENT: "monitor"}), counter((HOUR, 0.1), (HOUR, 0.0))),),
                    fires=2 * STEP + 60.0,
                    ends=HOUR + 600.0 + 300.0 + 60.0,
                    lasts=2 * HOUR,
                ),
                Case("it does not", ((series(errors, {COMPONENT: "monitor"}), gauge((HOUR, 3.0))),)),
                NOTHING,
            ),
        )


def _labels(scope: Scope) -> dict[str, str]:
    return {MODEL_NAME: scope.example_model, VERSION: "1", PROFILE: "3f9c2a71b04d"}


def _worse(metric: str) -> tuple[str, str]:
    """How a figure is compared with its objective, and which end of its interval: the better one."""
    if metric in _WITHOUT_INTERVAL:
        return ">", "value"
    return (">", "lower") if metric in LOWER_IS_BETTER else ("<", "upper")


def _around(metric: str, floor: float) -> tuple[float, float]:
    """A figure that is a little too bad, and one that is well."""
    return (1.01 * floor, 0.5 * floor) if metric in LOWER_IS_BETTER else (0.99 * floor, 1.0)
