"""What the alerts on operations are tested with: made from the objective, so that they hold for any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.tools.alerts.definitions import LEAST_EVENTS, STEP, VERSION, Case, counter, gauge, series
from otel_mlobs.tools.rules import bound_texts, parse_duration, prometheus_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_mlobs.tools.alerts.definitions import Scope

DURATION = prometheus_name(semconv.OPERATION_DURATION)
ERRORS = prometheus_name(semconv.OPERATION_ERRORS)
HOUR = 3600.0
NOTHING = Case("no metrics at all")
_BEGINS = 1.5 * STEP
"""Until a counter that begins to rise shows it, on average: it is sampled once a step, and then evaluated."""

Phases = tuple[float, float, float]
"""Seconds, operations a second, and the share of them that is bad."""


def _latencies(scope: Scope, *phases: Phases) -> tuple[tuple[str, str], ...]:
    """The histograms of two workers; bad is slow."""
    found: list[tuple[str, str]] = []
    every = counter(*((seconds, rate / 2) for seconds, rate, _ in phases))
    good = counter(*((seconds, rate / 2 * (1 - bad)) for seconds, rate, bad in phases))
    for instance in ("one", "two"):
        labels = {**scope.example, "instance": instance}
        found += [
            (series(f"{DURATION}_count", labels), every),
            (series(f"{DURATION}_bucket", labels, le="+Inf"), every),
            (series(f"{DURATION}_bucket", labels, le=bound_texts(scope.objective.latency)[0]), good),
        ]
    return tuple(found)


def _failures(scope: Scope, *phases: Phases) -> tuple[tuple[str, str], ...]:
    """The counts of two workers; bad fails."""
    found: list[tuple[str, str]] = []
    every = counter(*((seconds, rate / 2) for seconds, rate, _ in phases))
    failed = counter(*((seconds, rate / 2 * bad) for seconds, rate, bad in phases))
    for instance in ("one", "two"):
        labels = {**scope.example, "instance": instance}
        found += [(series(f"{DURATION}_count", labels), every), (series(ERRORS, labels), failed)]
    return tuple(found)


def _crossing(window: float, before: float, ratio: float) -> float:
    """Seconds of bad operations, after ``before`` seconds without, until their share in the window is ``ratio`` of it.

    Where the window reaches back to before the beginning, the share is of what there is.
    """
    within = before * ratio / (1 - ratio) if ratio < 1 else window
    return within if before + within < window else ratio * window


def slow(scope: Scope) -> Iterator[Case]:
    """OperationSlow."""
    allowed, floor = 1 - scope.objective.latency_quantile, scope.objective.traffic_floor
    busy, bad = 2 * max(floor, 1.0) / 300, min(1.0, 10 * allowed)
    yield Case(
        "slower than it may be",
        _latencies(scope, (HOUR, busy, 0.0), (HOUR, busy, bad), (HOUR, busy, 0.0)),
        fires=HOUR + _crossing(300.0, HOUR, allowed / bad) + _BEGINS + 120.0,
        ends=2 * HOUR + 300.0 + 300.0 + 60.0,
        lasts=3 * HOUR,
    )
    yield Case("just as slow as it may be", _latencies(scope, (HOUR, busy, 0.98 * allowed)))
    older = {**scope.example, "instance": "three"}
    yield Case(
        "some workers do not have its bound yet",
        (
            *_latencies(scope, (HOUR, busy, 0.0)),
            (series(f"{DURATION}_count", older), counter((HOUR, busy))),
            (series(f"{DURATION}_bucket", older, le="+Inf"), counter((HOUR, busy))),
        ),
    )
    if floor:
        yield Case("slow, with too little traffic to tell", _latencies(scope, (HOUR, 0.9 * floor / 300, bad)))
    yield NOTHING


def not_measured(scope: Scope) -> Iterator[Case]:
    """LatencyNotMeasured."""
    counts = series(f"{DURATION}_count", scope.example), counter((HOUR, 1.0))
    other = series(f"{DURATION}_bucket", scope.example, le="17.5"), counter((HOUR, 1.0))
    yield Case("no such bound", (counts, other), fires=900.0)
    one, another = {**scope.example, "instance": "one"}, {**scope.example, "instance": "another"}
    mixed = (
        *((series(f"{DURATION}_count", labels), counter((HOUR, 1.0))) for labels in (one, another)),
        (series(f"{DURATION}_bucket", one, le=bound_texts(scope.objective.latency)[0]), counter((HOUR, 1.0))),
        (series(f"{DURATION}_bucket", another, le="17.5"), counter((HOUR, 1.0))),
    )
    yield Case("one process has none", mixed, fires=900.0)
    yield Case("the bound is there", _latencies(scope, (HOUR, 1.0, 0.0)))
    yield NOTHING


def latency_burn(scope: Scope, long: str, short: str, share: float, hold: float) -> Iterator[Case]:
    """LatencyBudgetBurn and LatencyBudgetBurnSlow."""
    floor = scope.objective.traffic_floor
    busy = 10 * max(floor, 1.0) / 300  # a window that reaches back to before the beginning sees less
    yield from _burn(_latencies, scope, (long, short), share, hold, busy)
    if floor:
        bad = min(1.0, 30 * share)
        quiet = 0.9 * floor / 300
        yield Case("with too little traffic to tell", _latencies(scope, (1.5 * HOUR, quiet, bad)), lasts=1.5 * HOUR)


def errors(scope: Scope) -> Iterator[Case]:
    """OperationErrors."""
    allowed, hold = scope.objective.errors, scope.objective.errors_for
    bad = min(1.0, 50 * allowed)
    busy = 2 * LEAST_EVENTS / allowed / 600  # of which the allowed share is twice as many as are needed
    crossing = max(_crossing(120.0, HOUR, allowed / bad), LEAST_EVENTS / (busy * bad))
    yield Case(
        "more failures than there may be",
        _failures(scope, (HOUR, busy, 0.0), (HOUR + hold, busy, bad), (HOUR, busy, 0.0)),
        fires=HOUR + crossing + _BEGINS + hold,
        ends=2 * HOUR + hold + 120.0 + 120.0 + 60.0,
        lasts=3 * HOUR + hold,
    )
    yield Case(
        "for less long than it takes",
        _failures(scope, (HOUR, busy, 0.0), (0.5 * hold // STEP * STEP, busy, bad), (HOUR, busy, 0.0))
        if hold > 240.0
        else (),
        lasts=2 * HOUR + hold,
    )
    yield Case("just as many failures as there may be", _failures(scope, (2 * HOUR, busy, 0.98 * allowed)), lasts=7200)
    few = (LEAST_EVENTS - 1) / 600
    yield Case("everything fails, but it is next to nothing", _failures(scope, (2 * HOUR, few, 1.0)), lasts=7200)
    yield NOTHING


def error_burn(scope: Scope, long: str, short: str, share: float, hold: float) -> Iterator[Case]:
    """ErrorBudgetBurn and ErrorBudgetBurnSlow."""
    bad, window = min(1.0, 30 * share), parse_duration(short)
    busy = 10 * LEAST_EVENTS / bad / 300.0
    yield from _burn(_failures, scope, (long, short), share, hold, busy)
    few = (LEAST_EVENTS - 1) / bad / window
    yield Case("next to nothing", _failures(scope, (1.5 * HOUR, few, bad)), lasts=1.5 * HOUR)


def _burn(
    made: Callable[..., tuple[tuple[str, str], ...]],
    scope: Scope,
    windows: tuple[str, str],
    share: float,
    hold: float,
    busy: float,
) -> Iterator[Case]:
    bad, before = min(1.0, 30 * share), HOUR
    long, short = map(parse_duration, windows)
    crossing = max(_crossing(window, before, share / bad) for window in (long, short))
    burning = (crossing + hold) // STEP * STEP + 1800.0
    forgets = short < before
    yield Case(
        "faster than it may",
        made(scope, (before, busy, 0.0), (burning, busy, bad), (HOUR, busy, 0.0)),
        fires=before + crossing + _BEGINS + hold,
        ends=before + burning + short + 300.0 + 60.0 if forgets else None,
        lasts=before + burning + HOUR,
        slack=60.0,
    )
    yield Case("just as fast as it may", made(scope, (1.5 * HOUR, busy, 0.97 * share)), lasts=1.5 * HOUR)
    yield NOTHING


def silent(scope: Scope) -> Iterator[Case]:
    """OperationSilent."""
    floor = max(scope.objective.traffic_floor, 1.0) / 300
    stops = 2 * HOUR
    yield Case(
        "calls stop",
        _failures(scope, (stops, 4 * floor, 0.0), (2 * HOUR, 0.0, 0.0)),
        fires=stops + 300.0 + _BEGINS + 300.0,
        ends=stops + HOUR + 600.0 + 60.0,
        lasts=stops + 2 * HOUR,
    )
    yield Case(
        "there were never enough",
        _failures(scope, (stops, 0.9 * floor, 0.0), (HOUR, 0.0, 0.0)),
        lasts=stops + HOUR,
    )
    yield Case(
        "the process is gone as well",
        _failures(scope, (stops, 4 * floor, 0.0)),
        lasts=stops + HOUR,
    )
    if not scope.views:
        new = {**scope.example, VERSION: "2"}
        yield Case(
            "another version takes over",
            (
                *_failures(scope, (stops, 4 * floor, 0.0), (HOUR, 0.0, 0.0)),
                (series(f"{DURATION}_count", new), counter((stops, 0.0), (HOUR, 4 * floor))),
                (series(ERRORS, new), counter((stops + HOUR, 0.0))),
            ),
            lasts=stops + HOUR,
        )
    yield Case("calls go on", _failures(scope, (stops, 4 * floor, 0.0)), lasts=stops)
    yield NOTHING


def missing(scope: Scope) -> Iterator[Case]:
    """TelemetryMissing."""
    counts = series(ERRORS, scope.example)
    yield Case(
        "nothing comes any more",
        ((counts, gauge((HOUR, 0.0), (2 * HOUR, None))),),
        fires=HOUR - STEP + 300.0 + 120.0,  # the last sample counts for five minutes
        ends=2 * HOUR + 60.0,
        lasts=3 * HOUR,
    )
    there = series(prometheus_name(semconv.INTERNAL_ERRORS), {"mlobs_internal_component": "metrics"})
    yield Case(
        "it was started anew and nobody has called since",
        ((counts, gauge((HOUR, 0.0), (HOUR, None))), (there, gauge((2 * HOUR, 0.0)))),
        lasts=2 * HOUR,
    )
    yield Case("all is there", ((counts, gauge((2 * HOUR, 0.0))),), lasts=2 * HOUR)
    yield NOTHING


def model_missing(scope: Scope) -> Iterator[Case]:
    """ModelMissing."""
    counts = series(ERRORS, scope.example)
    yield Case("it was never there", fires=600.0)
    yield Case(
        "it comes back",
        ((counts, gauge((HOUR, 0.0), (HOUR, None), (HOUR, 0.0))),),
        fires=HOUR - STEP + 300.0 + 600.0,
        ends=2 * HOUR + 60.0,
        lasts=3 * HOUR,
    )
    yield Case("it is there", ((counts, gauge((HOUR, 0.0))),))
