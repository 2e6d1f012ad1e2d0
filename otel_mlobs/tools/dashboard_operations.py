"""The dashboard of operations: their durations and errors, what they read, what they run on, and their traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_mlobs import semconv
from otel_mlobs.tools.dashboard_json import Link, Panel, Query, Row, Variable, dashboard, label_of, to
from otel_mlobs.tools.dashboard_parts import (
    FEATURES,
    GPUS,
    OPERATIONS,
    of_models,
    red,
    results,
    slow_share,
    sources,
    stale,
    values,
)
from otel_mlobs.tools.dashboard_queries import (
    INSTANCE,
    JOB,
    MODEL,
    OF_JOB,
    OF_OPERATION,
    OF_VIEW,
    OPERATION,
    VIEW,
    buckets,
    by,
    observed,
    quantiles,
    rate,
    ratio,
    series,
    shown,
)
from otel_mlobs.tools.rules import label, written_milliseconds

if TYPE_CHECKING:
    from otel_mlobs.tools.dashboard_parts import Context

_BY = (JOB, OPERATION, MODEL, VIEW)
_NAME = shown(OPERATION, MODEL, VIEW)
_TO_GPU = Link("The GPUs beneath", to(GPUS, job=label_of(JOB)))
_TO_VIEW = Link("The feature view", to(FEATURES, job=label_of(JOB), view=label_of(VIEW)))
_TRACES_SHOWN = 20


def operations(context: Context) -> dict[str, Any]:
    """What every operation does, over which data and on which machine."""
    return dashboard(
        OPERATIONS,
        "ML serving: operations",
        "Rate, errors and duration of each operation; the feature store; host, container and pools; and the traces. "
        "Made by `otel-mlobs dashboard`.",
        [
            *sources(context),
            *of_models(),
            values("operation", "Operation", OPERATION, (semconv.OPERATION_ERRORS,), OF_JOB),
            values("view", "Feature view", VIEW, (semconv.FEATURE_LOOKUPS,), OF_JOB),
            Variable(
                "service",
                "Service in traces",
                f"label_values({series(semconv.OPERATION_ERRORS, OF_JOB)}, {JOB})",
                pattern="/([^\\/]+)$/",  # a job is the namespace, a slash and the service, or the service
                one=True,
                hidden=True,
            ),
        ],
        [
            Row("Rate, errors, duration", red(context, _BY, _NAME, _TO_GPU, OF_OPERATION)),
            Row("Durations more closely", _durations(context)),
            Row("Traces", _traces(context)),
            Row("The data: feature views", [stale(context, _TO_VIEW, OF_VIEW), results(_TO_VIEW, OF_VIEW)]),
            Row("Candidates", _candidates()),
            Row("The system: host", _host()),
            Row("The system: container", _container()),
            Row("The system: connection pools", _pools()),
        ],
    )


def _durations(context: Context) -> list[Panel]:
    objective, duration = context.objectives.default, semconv.OPERATION_DURATION
    kind = label(semconv.ERROR_TYPE)
    failed = observed(duration, (OPERATION, MODEL, kind), OF_OPERATION, f'{kind}!=""')
    return [
        Panel(
            "Median and tail",
            "Half of the operations, 95% and 99% of them were faster. The points are exemplars.",
            "s",
            quantiles(duration, _BY, OF_OPERATION, legend=_NAME, levels=(0.5, 0.95, 0.99)),
            links=[_TO_GPU],
        ),
        Panel(
            "Slower than the objective",
            "Share of operations above the latency objective, exact since that is a bound of the buckets. The line is "
            "the share that is allowed.",
            "percentunit",
            [Query(slow_share(context, _BY, OF_OPERATION), _NAME)],
            limit=round(1 - objective.latency_quantile, 12),
            links=[_TO_GPU],
        ),
        Panel(
            "Errors by type",
            "Failed operations a second by the exception's class; cancelled ones are among them, expected ones not.",
            "ops",
            [Query(failed, shown(OPERATION, MODEL, kind))],
            stacked=True,
        ),
        Panel(
            "All durations",
            "How many operations took how long; the points are exemplars. Of several services choose one, or such "
            "whose histograms are of one kind.",
            "s",
            [buckets(duration, OF_OPERATION)],
            kind="heatmap",
            width=16,
        ),
        Panel(
            "Traces kept by tail sampling",
            "Local traces decided a second, by decision and reason; nothing where traces are not sampled by their end.",
            "ops",
            [
                Query(
                    rate(
                        semconv.SAMPLED_TRACES,
                        (label(semconv.SAMPLING_DECISION), label(semconv.SAMPLING_REASON)),
                        OF_JOB,
                    ),
                    shown(label(semconv.SAMPLING_DECISION), label(semconv.SAMPLING_REASON)),
                )
            ],
            stacked=True,
        ),
    ]


def _traces(context: Context) -> list[Panel]:
    objective = context.objectives.default
    drift = semconv.DRIFT_STATUS
    slow = written_milliseconds(objective.latency)
    of_service = 'resource.service.name = "$service"'
    an_operation = f"span.{semconv.OPERATION_NAME} != nil"
    asked = (
        (
            "Slow traces",
            f"Traces of the service with an operation that took longer than {slow}. A click opens one.",
            {"minDuration": slow},
            f"{{ {of_service} && {an_operation} && duration > {slow} }}",
        ),
        (
            "Failed traces",
            "Traces of the service with a span that failed.",
            {"tags": "error=true"},
            f"{{ {of_service} && status = error }}",
        ),
        (
            "Traces of drifting models",
            f"Traces with a prediction whose {drift} was drift.",
            {"tags": f"{drift}=drift"},
            f'{{ {of_service} && span.{drift} = "drift" }}',
        ),
    )
    return [_trace_table(context, *each) for each in asked]


def _trace_table(context: Context, title: str, description: str, search: dict[str, str], traceql: str) -> Panel:
    source = {"type": context.traces, "uid": "${traces}"}
    if context.traces == "tempo":
        target = {"queryType": "traceql", "query": traceql, "limit": _TRACES_SHOWN, "tableType": "traces"}
    else:
        target = {"queryType": "search", "service": "$service", "limit": _TRACES_SHOWN, **search}
    return Panel(title, description, "short", kind="table", targets=[{"refId": "A", "datasource": source, **target}])


def _candidates() -> list[Panel]:
    source, count = label(semconv.CANDIDATE_SOURCE), semconv.CANDIDATES
    return [
        Panel(
            "Candidates per call",
            "How many candidates came back: half of the calls had fewer than p50, one in twenty fewer than p5.",
            "short",
            quantiles(count, (JOB, source), OF_JOB, legend=shown(source), levels=(0.05, 0.5, 0.95)),
            width=12,
        ),
        Panel(
            "How often how many",
            "The distribution of the number of candidates over time; of histograms of one kind.",
            "short",
            [buckets(count, OF_JOB)],
            kind="heatmap",
            width=12,
        ),
    ]


def _host() -> list[Panel]:
    resource, extent, scope = (
        label(key) for key in (semconv.PRESSURE_RESOURCE, semconv.PRESSURE_EXTENT, semconv.PRESSURE_SCOPE)
    )
    every = rate(semconv.PRESSURE, (JOB, resource, extent, scope), OF_JOB, function="max")
    return [
        Panel(
            "Pressure",
            "Share of time in which some tasks, or all (full), waited for a resource, on host and in container.",
            "percentunit",
            [Query(every, shown(resource, extent, scope))],
        ),
        Panel(
            "Run queue",
            "Tasks of the host that run or wait for a CPU; more than there are CPUs wait.",
            "short",
            [Query(by("max", (JOB,), series(semconv.RUN_QUEUE, OF_JOB)), shown(JOB))],
        ),
        Panel(
            "Waiting for a CPU",
            "Threads of the service's processes that were ready to run and had no CPU, on average.",
            "short",
            [Query(rate(semconv.RUN_WAIT, (JOB, INSTANCE), OF_JOB), shown(JOB, INSTANCE))],
            limit=0.1,
        ),
    ]


def _container() -> list[Panel]:
    used = rate(semconv.CONTAINER_CPU_TIME, (JOB, INSTANCE), OF_JOB, function="max")
    throttled = ratio(
        rate(semconv.CONTAINER_THROTTLED, (JOB, INSTANCE), OF_JOB, function="max"),
        rate(semconv.CONTAINER_PERIODS, (JOB, INSTANCE), OF_JOB, function="max"),
    )
    killed = f"increase({series(semconv.CONTAINER_OOM_KILLS, OF_JOB)}[$__rate_interval])"

    def gauge(metric: semconv.Metric) -> str:
        return by("max", (JOB, INSTANCE), series(metric, OF_JOB))

    return [
        Panel(
            "CPU",
            "CPUs that the container used, and may use.",
            "short",
            [
                Query(used, shown(INSTANCE)),
                Query(gauge(semconv.CONTAINER_CPU_LIMIT), f"threshold {shown(INSTANCE)}"),
            ],
            width=6,
        ),
        Panel(
            "Throttled",
            "Share of the periods of its CPU quota in which the container was stopped, once it had used it up.",
            "percentunit",
            [Query(throttled, shown(INSTANCE))],
            width=6,
            limit=0.05,
        ),
        Panel(
            "Memory",
            "Memory of the container, page cache included, and the limit beyond which it is killed.",
            "bytes",
            [
                Query(gauge(semconv.CONTAINER_MEMORY_USAGE), shown(INSTANCE)),
                Query(gauge(semconv.CONTAINER_MEMORY_LIMIT), f"threshold {shown(INSTANCE)}"),
            ],
            width=6,
        ),
        Panel(
            "Killed for memory",
            "Processes that the kernel killed since the container was full.",
            "short",
            [Query(by("max", (JOB, INSTANCE), killed), shown(INSTANCE))],
            width=6,
            limit=1,
        ),
    ]


def _pools() -> list[Panel]:
    pool, state = label(semconv.POOL_NAME), label(semconv.POOL_STATE)
    return [
        Panel(
            "Waiting for a connection",
            "How long it took to get a connection from the pool; a pool that is too small looks like a slow store.",
            "s",
            quantiles(semconv.POOL_WAIT, (JOB, pool), OF_JOB, legend=shown(pool), levels=(0.5, 0.95, 0.99)),
        ),
        Panel(
            "Connections",
            "Connections in use and idle, of all processes, and the most that there may be.",
            "short",
            [
                Query(by("sum", (JOB, pool, state), series(semconv.POOL_CONNECTIONS, OF_JOB)), shown(pool, state)),
                Query(by("sum", (JOB, pool), series(semconv.POOL_MAX, OF_JOB)), f"threshold {shown(pool)}"),
            ],
        ),
        Panel(
            "Gave up waiting",
            "Time-outs a second: no connection came free in time.",
            "cps",
            [Query(rate(semconv.POOL_TIMEOUTS, (JOB, pool), OF_JOB), shown(pool))],
        ),
    ]
