"""Metrics of the machine, the container and the pools of connections: what OpenTelemetry's own packages do not read."""

from __future__ import annotations

from typing import Final

from otel_mlobs.semconv.records import Attribute, Metric

PRESSURE_RESOURCE: Final = "mlobs.pressure.resource"
PRESSURE_EXTENT: Final = "mlobs.pressure.extent"
PRESSURE_SCOPE: Final = "mlobs.pressure.scope"
POOL_NAME: Final = "db.client.connection.pool.name"
POOL_STATE: Final = "db.client.connection.state"

PRESSURE: Final = Metric(
    "mlobs.pressure.time",
    "counter",
    "s",
    "Time in which tasks waited for a resource (Linux's pressure stall information).",
    (
        Attribute(PRESSURE_RESOURCE, "string", "`cpu`, `memory`, `io` or `irq`.", "memory"),
        Attribute(PRESSURE_EXTENT, "string", "`some` tasks waited, or all of them: `full`.", "some"),
        Attribute(PRESSURE_SCOPE, "string", "Of the whole `host`, or of this `container`.", "container"),
    ),
)
RUN_QUEUE: Final = Metric(
    "mlobs.host.run_queue", "gauge", "{task}", "Tasks of the host that run or wait for a CPU at this moment.", ()
)
RUN_WAIT: Final = Metric(
    "mlobs.process.run_wait.time", "counter", "s", "Time that this process's threads were ready and had no CPU.", ()
)
CONTAINER_CPU_TIME: Final = Metric("container.cpu.time", "counter", "s", "CPU time of the container.", ())
CONTAINER_CPU_LIMIT: Final = Metric("mlobs.container.cpu.limit", "gauge", "{cpu}", "CPUs that it may use.", ())
CONTAINER_PERIODS: Final = Metric(
    "mlobs.container.cpu.periods", "counter", "{period}", "Periods of its CPU quota in which it ran.", ()
)
CONTAINER_THROTTLED: Final = Metric(
    "mlobs.container.cpu.throttled_periods", "counter", "{period}", "Those of them in which it was stopped.", ()
)
CONTAINER_THROTTLED_TIME: Final = Metric(
    "mlobs.container.cpu.throttled.time", "counter", "s", "Time for which its tasks were stopped by its quota.", ()
)
CONTAINER_MEMORY_USAGE: Final = Metric(
    "container.memory.usage", "updowncounter", "By", "Memory of the container, its page cache included.", ()
)
CONTAINER_MEMORY_LIMIT: Final = Metric(
    "mlobs.container.memory.limit", "gauge", "By", "Memory beyond which it is killed.", ()
)
CONTAINER_OOM_KILLS: Final = Metric(
    "mlobs.container.memory.oom_kills", "counter", "{process}", "Processes killed because the container was full.", ()
)
HOST_METRICS: Final = (
    PRESSURE,
    RUN_QUEUE,
    RUN_WAIT,
    CONTAINER_CPU_TIME,
    CONTAINER_CPU_LIMIT,
    CONTAINER_PERIODS,
    CONTAINER_THROTTLED,
    CONTAINER_THROTTLED_TIME,
    CONTAINER_MEMORY_USAGE,
    CONTAINER_MEMORY_LIMIT,
    CONTAINER_OOM_KILLS,
)

_POOL = Attribute(POOL_NAME, "string", "The server and its database, without credentials.", "redis:6379/0")
POOL_WAIT: Final = Metric(
    "db.client.connection.wait_time",
    "histogram",
    "s",
    "How long it took to get a connection from the pool, a new one's making included.",
    (_POOL,),
)
POOL_TIMEOUTS: Final = Metric(
    "db.client.connection.timeouts", "counter", "{timeout}", "How often none came free in time.", (_POOL,)
)
POOL_CONNECTIONS: Final = Metric(
    "db.client.connection.count",
    "updowncounter",
    "{connection}",
    "Connections of the pool.",
    (_POOL, Attribute(POOL_STATE, "string", "`idle` or `used`.", "used")),
)
POOL_MAX: Final = Metric(
    "db.client.connection.max", "updowncounter", "{connection}", "The most that it may have.", (_POOL,)
)
POOL_METRICS: Final = (POOL_WAIT, POOL_TIMEOUTS, POOL_CONNECTIONS, POOL_MAX)
