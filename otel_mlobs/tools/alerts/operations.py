"""RED of operations: their rate, errors and duration, as recording rules, and who is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.alerts import operation_cases as cases
from otel_mlobs.tools.alerts.definitions import (
    HIGH,
    LEAST_EVENTS,
    LOW,
    MODEL_NAME,
    OPERATION,
    SHARE,
    SOURCE,
    SYSTEM,
    VERSION,
    VIEW,
    Definition,
    equals,
    link,
    milliseconds,
    one_of,
    percent,
    selector,
    sum_by,
)
from otel_mlobs.tools.rules import Rule, bound_texts, prometheus_name, written_milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.tools.alerts.definitions import Scope

OF_OPERATION = (OPERATION, MODEL_NAME, VERSION, VIEW, SOURCE)
DURATION = prometheus_name(semconv.OPERATION_DURATION)
ERRORS = prometheus_name(semconv.OPERATION_ERRORS)
INTERNAL = prometheus_name(semconv.INTERNAL_ERRORS)
FLOOR_WINDOW = 300.0
"""Seconds that an objective's traffic floor is of."""
BURNS = (
    ("", "1h", "5m", 14.4, 120.0),
    ("", "6h", "30m", 6.0, 900.0),
    ("Slow", "3d", "6h", 1.0, 3600.0),
)
"""Long and short window, how many times the pace at which the budget lasts, and for how many seconds: the table of
multi-window, multi-burn-rate alerts in Google's SRE workbook, chapter 5."""
ERROR_WINDOW = "2m"
"""By this the error objective is judged; of durations it would be too short."""
WINDOWS = (ERROR_WINDOW, "5m", "30m", "1h")
LONG_WINDOWS = ("6h", "3d")
"""Every evaluation reads all samples in them, so these are evaluated more rarely."""

WHO = (
    f"{{{{ $labels.{OPERATION} }}}}{{{{ with $labels.{MODEL_NAME} }}}} of {{{{ . }}}}{{{{ end }}}}"
    f"{{{{ with $labels.{VERSION} }}}} {{{{ . }}}}{{{{ end }}}}"
    f"{{{{ with $labels.{VIEW} }}}} from {{{{ . }}}}{{{{ end }}}}"
    "{{ with $labels.job }} in {{ . }}{{ end }}"
)
_DASHBOARD = link("mlobs-operation", operation=OPERATION, model=MODEL_NAME, version=VERSION, view=VIEW)
_SERVICE = '{{ reReplaceAll "^.*/" "" $labels.job | urlquery }}'
_FAILED = f"search?service={_SERVICE}&tags=%7B%22error%22%3A%22true%22%7D"


def bound_matcher(seconds: float) -> str:
    """The bucket of a bound, as OTLP and as a scrape write it: ``1`` and ``1.0``."""
    first, *others = bound_texts(seconds)
    return one_of("le", (first, *others)) if others else equals("le", first)


def rate(window: str) -> str:
    """The recorded series of operations a second."""
    return f"operation:mlobs_operations:rate{window}"


def errors(window: str) -> str:
    """The recorded series of the share that failed."""
    return f"operation:mlobs_operation_errors:ratio_rate{window}"


def slow(window: str) -> str:
    """The recorded series of the share that took longer than the objective."""
    return f"operation:mlobs_operation_slow:ratio_rate{window}"


class Operations:
    """The rules for operations; ``by`` are the labels that tell fleets apart."""

    def __init__(self, by: Sequence[str]) -> None:
        self._by = ", ".join(by)
        self._labels = (*by, *OF_OPERATION)

    def records(self, scopes: Sequence[Scope], windows: Sequence[str]) -> Iterator[Rule]:
        """Rates and shares of ``windows``, for classic and native histograms both."""
        for window in windows:
            yield Rule(
                rate(window),
                f"{sum_by(self._labels, f'rate({DURATION}_count[{window}])')}\nor\n"
                f"{sum_by(self._labels, f'histogram_count(rate({DURATION}[{window}]))')}",
                f"Operations a second, over {window}; the last line reads native histograms.",
            )
            yield Rule(
                errors(window),
                f"{sum_by(self._labels, f'rate({ERRORS}[{window}])')}\n/ ({rate(window)} > 0)",
                "Share of them that failed; what is expected to fail, and what was cancelled, has not.",
            )
            if window == ERROR_WINDOW:
                continue
            objectives = sorted({milliseconds(scope.objective.latency) for scope in scopes})
            yield Rule(
                slow(window),
                "\nor\n".join(self._slow(scope, window) for scope in scopes),
                f"Share of them that took longer than their objective ({', '.join(objectives)}): exact where that is a "
                "bound of the histogram.",
            )

    def _slow(self, scope: Scope, window: str) -> str:
        latency, of = scope.objective.latency, scope.of_operation
        bucket, bound = selector(bound_matcher(latency), of), bound_texts(latency)[0]
        measured = f"rate({DURATION}_bucket{bucket}[{window}])"
        good = sum_by(self._labels, measured)
        # Of those that have the bound: else all of a worker that was started before the objective was set would be slow
        every = sum_by(self._labels, f"rate({DURATION}_count{selector(of)}[{window}]) and ignoring (le) {measured}")
        native = sum_by(self._labels, f"rate({DURATION}{selector(of)}[{window}])")
        return (
            "clamp_min(\n  1 - (\n"
            f"    {good}\n    / ({every} > 0)\n    or\n    histogram_fraction(-Inf, {bound}, {native})\n"
            "  ),\n  0\n)"
        )

    def quantiles(self) -> Iterator[Rule]:
        """What a person reads: interpolated within a bucket, so no alert stands on it."""
        for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            buckets = sum_by((*self._labels, "le"), f"rate({DURATION}_bucket[5m])")
            native = sum_by(self._labels, f"rate({DURATION}[5m])")
            yield Rule(
                f"operation:mlobs_operation_duration_seconds:{name}_rate5m",
                f"histogram_quantile({quantile}, {buckets})\nor\nhistogram_quantile({quantile}, {native})",
                f"The {quantile:.0%} quantile of their durations, interpolated within a bucket.",
            )

    def alerts(self, scope: Scope) -> Iterator[Definition]:
        """What somebody is told of the operations of one objective."""
        yield self._operation_slow(scope)
        yield self._not_measured(scope)
        yield from self._latency_burn(scope)
        yield self._operation_errors(scope)
        yield from self._error_burn(scope)
        yield self._silent(scope)
        if scope.is_default:
            yield self._missing(scope)
        if scope.models:
            yield self._model_missing(scope)

    def _operation_slow(self, scope: Scope) -> Definition:
        objective, of = scope.objective, selector(scope.of_operation)
        allowed = 1 - objective.latency_quantile
        return Definition(
            "OperationSlow",
            LOW,
            SYSTEM,
            f"{slow('5m')}{of} > {allowed:.12g}\n"
            f"and\n{rate('5m')}{of} * {FLOOR_WINDOW:g} >= {objective.traffic_floor:.12g}",
            f"p{100 * objective.latency_quantile:.6g} of {WHO} is over {milliseconds(objective.latency)}",
            f"{SHARE} of the operations of the last five minutes took longer than "
            f"{milliseconds(objective.latency)}; {percent(allowed)} may.",
            "More operations are slow than may be. The share is exact where a quantile would be interpolated.",
            objective,
            hold=120.0,
            keep=300.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            traces=_slow_traces(objective.latency),
            cases=tuple(cases.slow(scope)),
        )

    def _latency_burn(self, scope: Scope) -> Iterator[Definition]:
        objective, of = scope.objective, selector(scope.of_operation)
        for suffix, long, short, factor, hold in BURNS:
            share = factor * (1 - objective.latency_quantile)
            if share >= 1:  # nothing can be so bad: with so wide an objective this window says nothing
                continue
            yield Definition(
                f"LatencyBudgetBurn{suffix}",
                LOW,
                SYSTEM,
                f"{slow(long)}{of} > {share:.12g}\nand\n{slow(short)}{of} > {share:.12g}\n"
                f"and\n{rate(short)}{of} * {FLOOR_WINDOW:g} >= {objective.traffic_floor:.12g}",
                f"{WHO} uses up its latency budget {factor:g} times as fast as it may",
                f"{SHARE} of the operations of the last {long} took longer than "
                f"{milliseconds(objective.latency)}, and of the last {short} as many.",
                f"{factor:g} times the pace at which the budget lasts, over {long} and still over {short}.",
                objective,
                hold=hold,
                keep=300.0,
                labels={**scope.labels, "window": long},
                dashboard=_DASHBOARD,
                traces=_slow_traces(objective.latency),
                cases=tuple(cases.latency_burn(scope, long, short, share, hold)),
            )

    def _not_measured(self, scope: Scope) -> Definition:
        objective, of = scope.objective, selector(scope.of_operation)
        labels, bucket = ", ".join(self._labels), selector(bound_matcher(objective.latency), scope.of_operation)
        return Definition(
            "LatencyNotMeasured",
            LOW,
            SYSTEM,
            f"group by ({labels}) ({DURATION}_count{of} unless ignoring (le) {DURATION}_bucket{bucket})",
            f"nobody watches the latency of {WHO}",
            f"Its histogram has no bound at {milliseconds(objective.latency)}: the process was started before the "
            "objective was set, or somebody else's meter provider counts its durations.",
            "Without the bound the share of slow operations is not known, and OperationSlow silent for ever.",
            objective,
            hold=900.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=tuple(cases.not_measured(scope)),
        )

    def _operation_errors(self, scope: Scope) -> Definition:
        objective, of = scope.objective, selector(scope.of_operation)
        return Definition(
            "OperationErrors",
            HIGH,
            SYSTEM,
            f"{errors(ERROR_WINDOW)}{of} > {objective.errors:.12g}\n"
            f"and\n{sum_by(self._labels, f'increase({ERRORS}{of}[10m])')} >= {LEAST_EVENTS}",
            f"{WHO} fails",
            f"{SHARE} of the operations failed in the last two minutes; {percent(objective.errors)} may.",
            f"More operations fail than may, and at least {LEAST_EVENTS} in ten minutes.",
            objective,
            hold=objective.errors_for,
            keep=120.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            traces=_FAILED,
            cases=tuple(cases.errors(scope)),
        )

    def _error_burn(self, scope: Scope) -> Iterator[Definition]:
        objective, of = scope.objective, selector(scope.of_operation)
        for suffix, long, short, factor, hold in BURNS:
            share = factor * objective.errors
            if share >= 1:
                continue
            yield Definition(
                f"ErrorBudgetBurn{suffix}",
                LOW if suffix else HIGH,
                SYSTEM,
                f"{errors(long)}{of} > {share:.12g}\nand\n{errors(short)}{of} > {share:.12g}\n"
                f"and\n{sum_by(self._labels, f'increase({ERRORS}{of}[{short}])')} >= {LEAST_EVENTS}",
                f"{WHO} uses up its error budget {factor:g} times as fast as it may",
                f"{SHARE} of the operations of the last {long} failed, and of the last "
                f"{short} as many; {percent(objective.errors)} may.",
                f"{factor:g} times the pace at which the budget lasts, over {long} and still over {short}.",
                objective,
                hold=hold,
                keep=300.0,
                labels={**scope.labels, "window": long},
                dashboard=_DASHBOARD,
                traces=_FAILED,
                cases=tuple(cases.error_burn(scope, long, short, share, hold)),
            )

    def _silent(self, scope: Scope) -> Definition:
        of, floor = selector(scope.of_operation), max(scope.objective.traffic_floor, 1.0)
        known = ", ".join(name for name in self._labels if name != VERSION)
        return Definition(
            "OperationSilent",
            HIGH,
            SYSTEM,
            f"sum without ({VERSION}) ({rate('1h')}{of} offset 10m) * {FLOOR_WINDOW:g} >= {floor:.12g}\n"
            f"unless\nsum without ({VERSION}) ({rate('5m')}{of}) > 0\nand\ngroup by ({known}) ({ERRORS}{of})",
            f"{WHO} is no longer called",
            "There was none in the last five minutes, and over the hour before that "
            f"{floor:.12g} or more in every five minutes.",
            "The process reports, and no version does any longer what it did. Ends by itself after about an hour.",
            scope.objective,
            hold=300.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=tuple(cases.silent(scope)),
        )

    def _missing(self, scope: Scope) -> Definition:
        return Definition(
            "TelemetryMissing",
            HIGH,
            SYSTEM,
            f"group by ({self._by}) (last_over_time({ERRORS}[1h]))\n"
            f"unless\n(group by ({self._by}) ({ERRORS}) or group by ({self._by}) ({INTERNAL}))",
            "{{ with $labels.job }}{{ . }}{{ else }}the service{{ end }} no longer reports",
            "It sent metrics within the last hour and sends none now: it is down, or what it sends does not arrive.",
            "Every process sends how often this library failed, so without that and without operations there is none, "
            "or no way for what it says. With providers of somebody else's also one that has not been called since its "
            "start. Ends by itself after an hour; a model that the objectives name has ModelMissing as well.",
            scope.objective,
            hold=120.0,
            dashboard=link("mlobs-overview"),
            cases=tuple(cases.missing(scope)),
        )

    def _model_missing(self, scope: Scope) -> Definition:
        (model,) = scope.models
        return Definition(
            "ModelMissing",
            HIGH,
            SYSTEM,
            f"absent({ERRORS}{selector(equals(MODEL_NAME, model))})",
            f"{{{{ $labels.{MODEL_NAME} }}}} is not served",
            "The objectives name it, and no process has been asked for it since its start.",
            "For as long as it lasts: the objectives say that the model is to be there.",
            scope.objective,
            hold=600.0,
            labels=scope.labels,
            dashboard=link("mlobs-model", model=MODEL_NAME),
            cases=tuple(cases.model_missing(scope)),
        )


def _slow_traces(latency: float) -> str:
    return f"search?service={_SERVICE}&minDuration={written_milliseconds(latency)}"
