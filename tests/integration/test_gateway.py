"""The gateway of examples/backends: what a fleet counts comes out exact, in one worker's series, and is not lost."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import otel_mlobs as mlobs

from .backends import get, wait_until
from .sender import SPANS, Load, Poster, a_count, a_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backends import Process
    from .recipes import Gateway, RecipeJaeger, RecipePrometheus

APPS = Path(__file__).parent / "apps"
BATCHES, BATCH = 60, 20
NOWHERE = "localhost:9"
KEEP_ALL = {"KEEP_PERCENT": "100"}


def run_workers(
    start: Callable[..., Process], endpoint: str, service: str, profile: Path, parts: list[Path], **env: str
) -> None:
    """Workers that score one part of the rows each, side by side, to their end."""
    delta = {
        "OTEL_SERVICE_NAME": service,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
    }
    command = [sys.executable, APPS / "fleet_worker.py", profile]
    workers = [start("worker", [*command, part], cwd=APPS, env={**delta, **env}) for part in parts]
    for worker in workers:
        assert worker.wait() == 0, worker.tail()


def of_service(prometheus: RecipePrometheus, service: str) -> dict[str, float]:
    """How many series each metric of a service has."""
    found = prometheus.ask(f'count by (__name__) ({{job="{service}", __name__!="target_info"}})')
    return {labels["__name__"]: count for labels, count in found}


def test_eight_workers_have_the_series_of_one_and_exact_sums(
    recipe_prometheus: Callable[..., RecipePrometheus],
    gateway: Callable[..., Gateway],
    start: Callable[..., Process],
    tmp_path: Path,
) -> None:
    """Every row of every worker is counted once; a second generation of workers adds no series either.

    A worker that was not told to send delta adds series of its own, and disturbs no sum.
    """
    prometheus = recipe_prometheus()
    collector = gateway(PROMETHEUS=prometheus.url, JAEGER=NOWHERE)
    rng = np.random.default_rng(5)

    def rows(count: int) -> list[dict[str, Any]]:
        ages = rng.normal(45, 12, count).round()
        plans = rng.choice(["basic", "plus", "trial"], count)
        return [{"age": float(age), "plan": str(plan)} for age, plan in zip(ages, plans, strict=True)]

    training = {"age": rng.normal(41, 12, 4_000).round(), "plan": rng.choice(["basic", "plus"], 4_000)}
    profile = mlobs.Profile.fit(training, outputs=training["age"] / 100, model="churn", version="3")
    profile.save(tmp_path / "churn.profile.json")

    sent: dict[str, list[dict[str, Any]]] = {"one": [], "eight": []}

    def generation(service: str, workers: int, **env: str) -> None:
        parts = []
        for worker in range(workers):
            batches = [rows(BATCH) for _ in range(BATCHES)]
            sent[service] += [row for batch in batches for row in batch]
            parts.append(tmp_path / f"{service}-{worker}.json")
            parts[-1].write_text(json.dumps(batches))
        run_workers(start, collector.http, service, tmp_path / "churn.profile.json", parts, **env)

    def settled(service: str, operations: int) -> bool:
        lasted = prometheus.ask(f'sum(mlobs_operation_duration_seconds_count{{job="{service}"}})')
        counted = prometheus.ask(
            f'sum by (mlobs_feature_name, mlobs_bin) (mlobs_feature_observations_total{{job="{service}"}})'
        )
        found = {(each["mlobs_feature_name"], each["mlobs_bin"]): count for each, count in counted if count}
        expected = {
            (column.name, cell): count
            for column in profile.columns
            if column.name in profile.names
            for cell, count in zip(
                column.bins.cells,
                column.bins.count([row[column.name] for row in sent[service]])[0].tolist(),
                strict=True,
            )
            if count
        }
        return [count for _, count in lasted] == [operations] and found == expected

    generation("one", 1)
    generation("eight", 8)
    wait_until("waiting for one worker's counts", lambda: settled("one", BATCHES))
    wait_until("waiting for eight workers' counts", lambda: settled("eight", 8 * BATCHES))
    series = of_service(prometheus, "one")
    assert series["mlobs_feature_observations_total"] > 10
    assert of_service(prometheus, "eight") == series
    assert not [name for name in series if name.startswith("mlobs_drift_")]

    generation("eight", 8)
    wait_until("waiting for the second generation", lambda: settled("eight", 16 * BATCHES))
    assert of_service(prometheus, "eight") == series
    assert {labels["instance"] for labels, _ in prometheus.ask('{job=~"one|eight"}')} == {"gateway-1"}

    generation("eight", 1, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="cumulative")
    wait_until("waiting for the one that sends totals", lambda: settled("eight", 17 * BATCHES))
    assert (
        len(prometheus.ask('count by (service_instance_id) (mlobs_operation_duration_seconds_count{job="eight"})')) == 2
    )


def test_a_restart_under_load_loses_nothing(
    recipe_prometheus: Callable[..., RecipePrometheus],
    recipe_jaeger: Callable[..., RecipeJaeger],
    gateway: Callable[..., Gateway],
) -> None:
    """SIGTERM in the midst of the load of eight workers, twice: every span and count that was acknowledged arrives."""
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url)
    collector = gateway(PROMETHEUS=prometheus.url, JAEGER=jaeger.grpc.removeprefix("http://"), **KEEP_ALL)
    with Load(collector.http, "restarted") as load:
        for _ in range(2):
            time.sleep(4)
            assert collector.stop() == 0
            collector.run()
        time.sleep(4)
    assert collector.stop() == 0
    collector.run()  # what was not sent when it ended is on its disk
    taken = load.taken
    assert len(taken.spans) > 1_000
    wait_until("waiting for the spans", lambda: taken.spans.keys() <= jaeger.spans("restarted").keys())
    assert jaeger.spans("restarted").keys() <= taken.spans.keys() | taken.unsure_spans
    totals = taken.totals()

    def arrived() -> bool:
        found = prometheus.counted('rows_total{job="restarted"}', "cell")
        return all(totals[cell] <= found.get(cell, 0) <= totals[cell] + taken.unsure_counts[cell] for cell in "abc")

    wait_until(f"waiting for {totals} (+ {taken.unsure_counts})", arrived)


def test_a_killed_gateway_loses_no_more_than_what_it_held(
    recipe_prometheus: Callable[..., RecipePrometheus],
    recipe_jaeger: Callable[..., RecipeJaeger],
    gateway: Callable[..., Gateway],
) -> None:
    """SIGKILL: what was acknowledged before the last interval, and before the last decision wait, has all arrived."""
    interval, wait = 2.0, 2.0
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url)
    collector = gateway(
        PROMETHEUS=prometheus.url,
        JAEGER=jaeger.grpc.removeprefix("http://"),
        METRIC_INTERVAL=f"{interval:g}s",
        DECISION_WAIT=f"{wait:g}s",
        **KEEP_ALL,
    )
    with Load(collector.http, "killed") as load:
        time.sleep(7)
        collector.kill()
        killed = time.monotonic()
        collector.run()
        time.sleep(4)
    assert collector.stop() == 0
    collector.run()  # what was not sent when it ended is on its disk
    taken = load.taken
    # A decision is taken once a second, then a batch is filled for a second; metrics are batched for a fifth of one.
    # What was acknowledged just before may have been written down just after.
    safe_spans = {span for span, when in taken.spans.items() if when < killed - wait - 2.5 or when > killed + 0.1}
    safe_counts = taken.totals(before=killed - interval - 0.7)
    later = taken.totals() - taken.totals(before=killed + 0.1)
    wait_until("waiting for the spans", lambda: safe_spans <= jaeger.spans("killed").keys())

    def arrived() -> bool:
        found = prometheus.counted('rows_total{job="killed"}', "cell")
        return all(safe_counts[cell] + later[cell] <= found.get(cell, 0) for cell in "abc")

    wait_until(f"waiting for {safe_counts} and {later}", arrived)
    found = prometheus.counted('rows_total{job="killed"}', "cell")
    lost_spans = taken.spans.keys() - jaeger.spans("killed").keys()
    lost = taken.totals().total() - sum(found.values())
    assert lost <= taken.totals(before=killed + 0.1).total() - safe_counts.total()
    oldest = max((killed - taken.spans[span] for span in lost_spans), default=0.0)
    print(f"lost {len(lost_spans)} of {len(taken.spans)} spans, the oldest {oldest:.1f} s before the kill,")
    print(f"and {lost:g} of {taken.totals().total()} counts")


@pytest.mark.parametrize("away", ["jaeger", "prometheus"])
def test_what_a_backend_missed_comes_from_the_disk(
    away: str,
    recipe_prometheus: Callable[..., RecipePrometheus],
    recipe_jaeger: Callable[..., RecipeJaeger],
    gateway: Callable[..., Gateway],
) -> None:
    """Twenty seconds without the backend, the gateway killed in between: all that left its memory is delivered."""
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url)
    collector = gateway(PROMETHEUS=prometheus.url, JAEGER=jaeger.grpc.removeprefix("http://"), **KEEP_ALL)
    absent = prometheus if away == "prometheus" else jaeger
    assert absent.stop() == 0  # before the load: this Jaeger's memory goes with it
    with Load(collector.http, "patient", pause=0.1) as load:
        time.sleep(16)
    time.sleep(4)  # past the decision and the last interval: what there is, is in the queue
    collector.kill()
    collector.run()
    absent.run()
    totals = load.taken.totals()
    assert not load.taken.unsure_counts
    wait_until("waiting for the spans", lambda: jaeger.spans("patient").keys() == load.taken.spans.keys())
    wait_until(f"waiting for {totals}", lambda: prometheus.counted('rows_total{job="patient"}', "cell") == totals)
    if away == "prometheus":  # not only the end, but the way there
        steps = prometheus.ask('count_over_time(rows_total{job="patient", cell="a"}[1m])')
        assert [count > 10 for _, count in steps] == [True]


def test_the_tail_sampler_keeps_what_matters_and_a_drifting_model_keeps_not_everything(
    recipe_prometheus: Callable[..., RecipePrometheus],
    recipe_jaeger: Callable[..., RecipeJaeger],
    gateway: Callable[..., Gateway],
) -> None:
    """Errors and slow traces are all kept; of drifting ones no more than the limit, of others about their share."""
    prometheus = recipe_prometheus()
    jaeger = recipe_jaeger(prometheus.url)
    limit, share = 60, 10
    collector = gateway(
        PROMETHEUS=prometheus.url,
        JAEGER=jaeger.grpc.removeprefix("http://"),
        DRIFT_SPANS_PER_SECOND=str(limit),
        KEEP_PERCENT=str(share),
        LATENCY_OBJECTIVE_MS="80",
    )
    shapes: dict[str, Any] = {
        "failed": {"failed": True},
        "slow": {"seconds": 0.09},
        "drifting": {"attributes": {"mlobs.drift.status": "drift"}},
        "calm": {"attributes": {"mlobs.drift.status": "ok"}},
    }
    draw, sent = Random(3), {}
    began = time.monotonic()
    with Poster(collector.http) as post:
        while (lasted := time.monotonic() - began) < 10:
            kind = draw.choices(list(shapes), (1, 1, 20, 20))[0]
            trace_id = draw.randbytes(16)
            request = a_trace({"service.name": "sampled"}, trace_id, **shapes[kind])
            assert post("/v1/traces", request.SerializeToString()) == 200
            sent[trace_id.hex()] = kind
            time.sleep(0.002)
    assert collector.stop() == 0
    collector.run()  # what was not sent when it ended is on its disk
    counts = Counter(sent.values())
    wanted = {trace for trace, kind in sent.items() if kind in ("failed", "slow")}
    wait_until("waiting for errors and slow ones", lambda: wanted <= set(jaeger.spans("sampled").values()))
    kept = Counter(sent[trace] for trace in set(jaeger.spans("sampled").values()))
    assert counts["drifting"] * SPANS > 5 * limit * lasted  # far more than may be kept
    by_share = counts["drifting"] * share / 100
    at_most = (lasted + 3) * limit / SPANS  # one second more on either side, and the rest at the end
    assert at_most / 3 < kept["drifting"] - by_share + 4 * by_share**0.5
    assert kept["drifting"] < by_share + 4 * by_share**0.5 + at_most
    assert abs(kept["calm"] - counts["calm"] * share / 100) < 4 * (counts["calm"] * share / 100) ** 0.5


def test_a_count_is_in_increase_from_the_first(
    recipe_prometheus: Callable[..., RecipePrometheus], gateway: Callable[..., Gateway]
) -> None:
    """A series begins with the zero that its start time says, also after a restart: no count is hidden from rules."""
    prometheus = recipe_prometheus()
    collector = gateway(PROMETHEUS=prometheus.url, JAEGER=NOWHERE)
    resource = {"service.name": "first", "service.instance.id": "worker"}

    def samples() -> list[float]:
        result = get(f"{prometheus.url}/api/v1/query", query='rows_total{job="first"}[5m]')["data"]["result"]
        return [float(value) for series in result for _, value in series["values"]]

    for count, expected in ((7, [0.0, 7.0]), (9, [0.0, 7.0, 0.0, 9.0])):  # without a zero 9 would seem to be 2 more
        body = a_count(resource, "a", count).SerializeToString()
        with Poster(collector.http) as post:
            assert post("/v1/metrics", body) == 200
        wait_until(f"waiting for {expected}", lambda expected=expected: samples() == expected)
        assert collector.stop() == 0
        collector.run()


def test_replicas_share_a_fleet(
    recipe_prometheus: Callable[..., RecipePrometheus], gateway: Callable[..., Gateway]
) -> None:
    """Two gateways with ids of their own, sent counts as fast as they go: together they have all, in series of two."""
    prometheus = recipe_prometheus()
    names = ("gateway-1", "gateway-2")
    replicas = [gateway(PROMETHEUS=prometheus.url, JAEGER=NOWHERE, GATEWAY_ID=name) for name in names]
    loads = [Load(replica.http, "shared", workers=8, pause=0.0) for replica in replicas]
    with loads[0], loads[1]:
        time.sleep(4)
    sent = loads[0].taken.totals() + loads[1].taken.totals()
    assert not any(load.taken.unsure_counts for load in loads)

    def arrived() -> bool:
        return {labels["cell"]: count for labels, count in prometheus.ask("sum by (cell) (rows_total)")} == sent

    wait_until(f"waiting for {sent}", arrived)
    series = prometheus.ask("count by (instance) (rows_total)")
    assert {labels["instance"]: count for labels, count in series} == dict.fromkeys(names, 3.0)


def test_what_cannot_be_added_up_keeps_its_worker_or_is_dropped(
    recipe_prometheus: Callable[..., RecipePrometheus], gateway: Callable[..., Gateway]
) -> None:
    """Readings of two workers stay apart, what both read off one profile is one series, drift of one window is gone."""
    prometheus = recipe_prometheus()
    collector = gateway(PROMETHEUS=prometheus.url, JAEGER=NOWHERE)
    apart = (
        "pool.size",
        "mlobs.feature_view.last_update",
        "mlobs.performance.reliable",
    )
    with Poster(collector.http) as post:
        for worker in (1, 2):
            request = a_count({"service.name": "apart", "service.instance.id": f"worker-{worker}"}, "a", worker)
            metrics = request.resource_metrics[0].scope_metrics[0].metrics
            metrics.add().CopyFrom(metrics[0])
            metrics[1].name = "system.network.io"
            for name in ("hw.gpu.utilization", "mlobs.profile.rows", "mlobs.drift.evidence", *apart):
                point = metrics.add(name=name).gauge.data_points.add(as_double=float(worker))
                point.time_unix_nano = time.time_ns()
            assert post("/v1/metrics", request.SerializeToString()) == 200
    wait_until("waiting for the counts", lambda: prometheus.ask('rows_total{job="apart"}'))
    found = prometheus.ask('{job="apart", __name__!="target_info"}')
    by_name: dict[str, set[tuple[str | None, float]]] = {}
    for labels, value in found:
        by_name.setdefault(labels["__name__"], set()).add((labels.get("service_instance_id"), value))
    each = {("worker-1", 1.0), ("worker-2", 2.0)}
    assert by_name == {
        "rows_total": {(None, 3.0)},
        "system_network_io_total": each,
        "hw_gpu_utilization": each,
        **{name.replace(".", "_"): each for name in apart},
        "mlobs_profile_rows": {(None, 2.0)},
    }
