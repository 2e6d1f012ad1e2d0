"""The data pipeline: features that are stale, silent, missing or made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.alerts.definitions import (
    CRITICAL,
    DATA,
    FEATURE,
    HIGH,
    LEAST_EVENTS,
    LOW,
    MODEL_NAME,
    OPERATION,
    PROFILE,
    SHARE,
    STEP,
    STORE,
    VERSION,
    VIEW,
    Case,
    Definition,
    counter,
    equals,
    gauge,
    link,
    percent,
    selector,
    series,
    sum_by,
    unequal,
)
from otel_mlobs.tools.alerts.operations import DURATION, rate
from otel_mlobs.tools.rules import label, prometheus_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.tools.alerts.definitions import Scope

LOOKUPS, STALE, AGED, VALUES, LAST_UPDATE, OBJECTIVE, VIOLATIONS, OBSERVATIONS = (
    prometheus_name(metric)
    for metric in (
        semconv.FEATURE_LOOKUPS,
        semconv.FEATURE_STALE_LOOKUPS,
        semconv.FEATURE_AGED_LOOKUPS,
        semconv.FEATURE_VALUES,
        semconv.FEATURE_VIEW_LAST_UPDATE,
        semconv.FEATURE_VIEW_OBJECTIVE,
        semconv.FEATURE_VIOLATIONS,
        semconv.FEATURE_OBSERVATIONS,
    )
)
RESULT, VALUE, VIOLATION = label(semconv.LOOKUP_RESULT), label(semconv.FEATURE_VALUE), label(semconv.VIOLATION)
HOUR, DAY = 3600.0, 86_400.0
NOTHING = Case("no metrics at all")
MORE_MISSING, MORE_STAND_INS, MOST_VIOLATIONS = 0.02, 0.05, 0.05
"""Shares: more than the day before, of values that are missing, of lookups that found nothing; of broken contracts."""
_SILENT_AFTER = 3600.0
"""Of a view without an objective of its own, in a case: the objective comes from the process."""

_VIEW = f"{{{{ $labels.{VIEW} }}}}{{{{ with $labels.job }}}} in {{{{ . }}}}{{{{ end }}}}"
_DASHBOARD = link("mlobs-feature", view=VIEW)


class Features:
    """The rules for feature views; ``by`` are the labels that tell fleets apart."""

    def __init__(self, by: Sequence[str]) -> None:
        self._by = tuple(by)
        self._view = (*by, VIEW, STORE)
        self._feature = (*by, MODEL_NAME, VERSION, PROFILE, FEATURE)

    def alerts(self, scope: Scope) -> Iterator[Definition]:
        """What somebody is told of the views of one objective."""
        if not scope.models:
            yield self._stale(scope)
            yield self._silent(scope)
            yield self._stopped(scope)
        if scope.views:
            yield self._view_missing(scope)
        if scope.is_default:
            yield from self._contents(scope)
            yield self._ages_unknown(scope)
            yield self._contract(scope)

    def _increase(self, metric: str, *matchers: str, window: str = "10m") -> str:
        return sum_by(self._view, f"increase({metric}{selector(*matchers)}[{window}])")

    def _stale(self, scope: Scope) -> Definition:
        of, allowed = scope.of_view, scope.objective.stale_share
        stale = self._increase(STALE, of)
        labels = _labels(scope)

        def share(bad: float, a_second: float = 1.0) -> tuple[tuple[str, str], ...]:
            return (
                (series(AGED, labels), counter((2 * HOUR, a_second))),
                (series(STALE, labels), counter((HOUR, a_second * bad), (HOUR, 0.0))),
            )

        return Definition(
            "FeatureViewStale",
            CRITICAL,
            DATA,
            f"{stale}\n/ ({self._increase(AGED, of)} > 0) > {allowed:.12g}\nand\n{stale} >= {LEAST_EVENTS}",
            f"the features from {_VIEW} are stale",
            f"{SHARE} of the entities that were looked up in the last ten minutes had features "
            f"older than the view's objective; {percent(allowed)} may.",
            "A model that is fed with yesterday's data answers as if nothing were. The share counts those who were "
            "served so; an age would be that of the oldest or the newest row.",
            scope.objective,
            hold=120.0,
            keep=300.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=(
                Case(
                    "more than there may be",
                    share(min(1.0, 2 * allowed)),
                    fires=max(2 * STEP, LEAST_EVENTS / min(1.0, 2 * allowed)) + 120.0,
                    ends=HOUR + 600.0 + 300.0 + 60.0,
                    lasts=2 * HOUR,
                    slack=60.0,
                ),
                Case("just as many as there may be", share(0.98 * allowed)),
                Case("all of them, but they are two", share(1.0, (LEAST_EVENTS - 1) / 600)),
                NOTHING,
            ),
        )

    def _silent(self, scope: Scope) -> Definition:
        of, view = selector(scope.of_view), ", ".join(self._view)
        labels = _labels(scope)
        objective = scope.objective.freshness or _SILENT_AFTER

        def read(a_second: float) -> tuple[tuple[str, str], ...]:
            return (
                (series(LOOKUPS, labels, **{RESULT: "hit"}), counter((objective + 2 * HOUR, a_second))),
                (series(LAST_UPDATE, labels), gauge((objective + 2 * HOUR, 0.0))),
                (series(OBJECTIVE, labels), gauge((objective + 2 * HOUR, objective))),
            )

        fresh = (
            read(1.0)[0],
            (series(LAST_UPDATE, labels), f"0+{STEP:g}x{round((objective + 2 * HOUR) / STEP)}"),
            read(1.0)[2],
        )
        return Definition(
            "FeatureViewSilent",
            CRITICAL,
            DATA,
            f"time() - max by ({view}) ({LAST_UPDATE}{of}) > max by ({view}) ({OBJECTIVE}{of})\n"
            f"and\n{self._increase(LOOKUPS, scope.of_view)} >= {LEAST_EVENTS}",
            f"nothing new comes from {_VIEW}",
            "The newest features that were read are {{ $value | humanizeDuration }} old: more than the view's "
            "objective.",
            "The view is asked, and what it has, if anything, is old: the job that fills it is gone.",
            scope.objective,
            hold=120.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=(
                Case(
                    "nothing new comes",
                    read(1.0),
                    fires=objective + 15.0 + 120.0,
                    lasts=objective + HOUR,
                ),
                Case("new rows come", fresh, lasts=objective + HOUR),
                Case("nobody asks", read(0.0), lasts=objective + HOUR),
                NOTHING,
            ),
        )

    def _stopped(self, scope: Scope) -> Definition:
        of, floor = selector(scope.of_view), max(scope.objective.traffic_floor, 1.0)
        labels, stops, by = _labels(scope), 2 * HOUR, ", ".join(self._by)
        others = sum_by(self._by, rate("5m") + selector(unequal(OPERATION, semconv.FEATURE_LOOKUP)))

        def looked_up(of_floor: float, predicted: float) -> tuple[tuple[str, str], ...]:
            a_second = of_floor * floor / 300
            prediction = {OPERATION: semconv.PREDICTION, MODEL_NAME: "churn"}
            return (
                (series(LOOKUPS, labels, **{RESULT: "hit"}), counter((stops, a_second), (HOUR, 0.0))),
                (series(f"{DURATION}_count", prediction), counter((stops, 1.0), (HOUR, predicted))),
            )

        return Definition(
            "FeatureLookupsStopped",
            CRITICAL,
            DATA,
            f"{sum_by(self._view, f'rate({LOOKUPS}{of}[5m])')} == 0\n"
            f"and\n{sum_by(self._view, f'increase({LOOKUPS}{of}[1h] offset 10m)')} / 12 >= {floor:.12g}\n"
            f"and on ({by})\n{others} > 0",
            f"{_VIEW} is no longer read, and predictions go on",
            "None was looked up in the last five minutes, and over the hour before that "
            f"{floor:.12g} or more in every five minutes.",
            "The service goes on without its features: with defaults, or with none.",
            scope.objective,
            hold=300.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=(
                Case(
                    "lookups stop",
                    looked_up(4.0, 1.0),
                    fires=stops + 300.0 + 15.0 + 300.0,
                    lasts=stops + 0.75 * HOUR,
                ),
                Case("all traffic stops", looked_up(4.0, 0.0), lasts=stops + HOUR),
                Case("there were never enough", looked_up(0.9, 1.0), lasts=stops + HOUR),
                NOTHING,
            ),
        )

    def _view_missing(self, scope: Scope) -> Definition:
        (view,) = scope.views
        lookups = series(LOOKUPS, _labels(scope), **{RESULT: "hit"})
        return Definition(
            "FeatureViewMissing",
            CRITICAL,
            DATA,
            f"absent({LOOKUPS}{selector(equals(VIEW, view))})",
            f"nobody reads {{{{ $labels.{VIEW} }}}}",
            "The objectives name it, and no process has looked anything up in it.",
            "For as long as it lasts: the objectives say that the view is to be there.",
            scope.objective,
            hold=600.0,
            labels=scope.labels,
            dashboard=_DASHBOARD,
            cases=(
                Case("it was never there", fires=600.0),
                Case(
                    "it comes back",
                    ((lookups, gauge((HOUR, 0.0), (HOUR, None), (HOUR, 0.0))),),
                    fires=HOUR - STEP + 300.0 + 600.0,
                    ends=2 * HOUR + 60.0,
                    lasts=3 * HOUR,
                ),
                Case("it is there", ((lookups, gauge((HOUR, 0.0))),)),
            ),
        )

    def _contents(self, scope: Scope) -> Iterator[Definition]:
        """Values that are missing, and lookups that found nothing, against the day before."""
        missing, empty = equals(VALUE, "missing"), unequal(RESULT, "hit")
        for name, metric, matcher, more, summary, what, bad, good in (
            (
                "FeatureValuesMissing", VALUES, missing, MORE_MISSING, "values are missing in",
                "of the values that were looked up are null, NaN or absent", {VALUE: "missing"}, {VALUE: "found"},
            ),
            (
                "FeatureStandIns", LOOKUPS, empty, MORE_STAND_INS, "lookups find nothing in",
                "of the entities that were looked up have no features, or a stand-in's", {RESULT: "miss"},
                {RESULT: "hit"},
            ),
        ):  # fmt: skip

            def share(window: str, metric: str = metric, matcher: str = matcher) -> str:
                of, every = self._increase(metric, matcher, window=window), self._increase(metric, window=window)
                return f"{of}\n/ ({every} > 0)"

            yield Definition(
                name,
                HIGH,
                DATA,
                f"{share('10m')}\n> {more:g} +\n{share('1d')}\n"
                f"and\n{self._increase(metric, matcher)} >= {LEAST_EVENTS}",
                f"more {summary} {_VIEW} than usual",
                f"{SHARE} {what}: {percent(more)} or more above the day before.",
                "What is so every day is a property of the view, so it is compared with itself. Ends by itself when it "
                "has been so for long enough.",
                scope.objective,
                hold=300.0,
                keep=300.0,
                dashboard=_DASHBOARD,
                cases=tuple(_content_cases(_labels(scope), metric, bad, good, more)),
            )

    def _ages_unknown(self, scope: Scope) -> Definition:
        view = ", ".join(self._view)
        hit = equals(RESULT, "hit")
        labels = _labels(scope)

        def aged(share: float) -> tuple[tuple[str, str], ...]:
            return (
                (series(LOOKUPS, labels, **{RESULT: "hit"}), counter((HOUR, 1.0))),
                (series(AGED, labels), counter((HOUR, share))),
                (series(OBJECTIVE, labels), gauge((HOUR, 900.0))),
            )

        return Definition(
            "FeatureAgesUnknown",
            LOW,
            DATA,
            f"{self._increase(AGED)}\n/ ({self._increase(LOOKUPS, hit)} > 0) < 0.5\nand\nmax by ({view}) ({OBJECTIVE})",
            f"the features from {_VIEW} no longer say how old they are",
            f"Only {SHARE} of the entities that were found have a timestamp that can be read.",
            "The view has an objective, and nobody can tell whether it is kept.",
            scope.objective,
            hold=900.0,
            dashboard=_DASHBOARD,
            cases=(
                Case("most have no age", aged(0.4), fires=2 * STEP + 900.0),
                Case("half of them have", aged(0.52)),
                NOTHING,
            ),
        )

    def _contract(self, scope: Scope) -> Definition:
        broken = sum_by(self._feature, f"increase({VIOLATIONS}[10m])")
        seen = sum_by(self._feature, f"increase({OBSERVATIONS}[10m])")
        labels = {MODEL_NAME: "churn", VERSION: "1", PROFILE: "3f9c2a71b04d", FEATURE: "age"}

        def breaking(share: float) -> tuple[tuple[str, str], ...]:
            return (
                (series(OBSERVATIONS, labels, mlobs_bin="b00"), counter((HOUR, 0.5))),
                (series(OBSERVATIONS, labels, mlobs_bin="b01"), counter((HOUR, 0.5))),
                (series(VIOLATIONS, labels, **{VIOLATION: "range"}), counter((HOUR, share))),
            )

        return Definition(
            "FeatureContractBroken",
            LOW,
            DATA,
            f"{broken}\n/ ({seen} > 0) > {MOST_VIOLATIONS:g}\nand\n{broken} >= {LEAST_EVENTS}",
            f"{{{{ $labels.{FEATURE} }}}} of {{{{ $labels.{MODEL_NAME} }}}} breaks its contract",
            f"{SHARE} of its values of the last ten minutes are of a wrong type, out of range, of "
            "no known category, or missing where they may not be.",
            "The contract is the profile's: what the model was trained on.",
            scope.objective,
            hold=300.0,
            keep=300.0,
            dashboard=link("mlobs-feature", model=MODEL_NAME, version=VERSION, feature=FEATURE),
            cases=(
                Case("too many values", breaking(0.06), fires=60.0 + 300.0, slack=60.0),
                Case("just not too many", breaking(0.049)),
                NOTHING,
            ),
        )


def _labels(scope: Scope) -> dict[str, str]:
    return {VIEW: scope.example_view, STORE: "redis"}


def _content_cases(
    labels: dict[str, str], metric: str, bad: dict[str, str], good: dict[str, str], more: float
) -> Iterator[Case]:
    usual, days = 0.1, 2 * HOUR

    def counts(share: float) -> tuple[tuple[str, str], ...]:
        return (
            (series(metric, labels, **bad), counter((days, usual), (HOUR, share))),
            (series(metric, labels, **good), counter((days, 1 - usual), (HOUR, 1 - share))),
        )

    # After x seconds 0.1 + 0.4 x / 600 of the last ten minutes' are bad, and 0.1 + 0.4 x / (7200 + x) of the day's
    crossing = next(seconds for seconds in range(600) if 0.4 * seconds / 600 > more + 0.4 * seconds / (days + seconds))
    yield Case("five times as many", counts(0.5), fires=days + crossing + 15.0 + 300.0, lasts=days + HOUR)
    yield Case("a few more", counts(usual + 0.9 * more), lasts=days + HOUR)
    yield Case("as many as ever", counts(usual), lasts=days + HOUR)
    yield NOTHING
