"""The database example on a real PostgreSQL under gunicorn: drift as Jaeger and Prometheus show it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from example_modules import modules_of

from .backends import wait_until
from .postgres import Postgres, find
from .service import load, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .backends import Jaeger, Process, Prometheus, Span

EXAMPLE = Path(__file__).parents[2] / "examples" / "database_features"
PREDICT, LOOKUP = "prediction housing", "feature_lookup block_features"
REQUESTS = 1_200
ENOUGH = 150
"""Rows after which a worker's status is told; the monitor's least is 100."""
AFTERWARDS = 200
"""Requests sent when the drift is known, to see what their spans say."""


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """Imports a module of the example by its plain name, as a user's own script does."""
    with modules_of(EXAMPLE) as import_one:
        yield import_one


@pytest.fixture(scope="module")
def postgres(start: Callable[..., Process]) -> Iterator[Postgres]:
    """A PostgreSQL of its own."""
    programs = find()
    if programs is None:
        reason = "PostgreSQL's server is not installed; on Debian: apt-get install postgresql"
        if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = Postgres(programs, start)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def environment(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A filled database, a trained model, and where they are."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    where = {"DATABASE_URL": postgres.url, "HOUSING_ARTIFACTS": str(artifacts)}
    for command in (["load.py"], ["train.py", "--artifacts", str(artifacts)]):
        subprocess.run([sys.executable, *command], cwd=EXAMPLE, env={**os.environ, **where}, check=True)
    return where


def test_postgresql_computes_the_features_of_the_rows(
    environment: dict[str, str], postgres: Postgres, example: Any
) -> None:
    """What PostgreSQL divides is bit for bit what the rows have, as in SQLite."""
    rows = example("data").load("later")
    ids = rows.ids[::20].tolist()
    with contextlib.closing(example("database").Database(postgres.url)) as database:
        found = database.features(ids)
    assert [list(row.values()) for row in found] == rows.features[::20].tolist()


def test_a_lookup_survives_the_loss_of_its_connection(
    environment: dict[str, str], postgres: Postgres, example: Any
) -> None:
    """The lookup whose connection the server has closed fails; the next one has a connection of its own."""
    psycopg = pytest.importorskip("psycopg")
    with contextlib.closing(example("database").Database(postgres.url)) as database:
        before = database.features([0])
        with psycopg.connect(postgres.url, autocommit=True) as other:
            others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            other.execute(f"SELECT pg_terminate_backend(pid) {others}")
        with pytest.raises(psycopg.OperationalError):
            database.features([0])
        assert database.features([0]) == before


@dataclass(frozen=True)
class Played:
    """What a fleet was sent, and where its telemetry is."""

    job: str
    workers: set[str]
    """Those with enough rows to say something."""
    predictions: list[Span]
    """Theirs, of the requests that came when it was known."""
    lookups: list[Span]


@pytest.fixture(scope="module")
def play(
    environment: dict[str, str], jaeger: Jaeger, prometheus: Prometheus, start: Callable[..., Process]
) -> Callable[..., Played]:
    """Sends requests to four workers, the last of them when they have told Prometheus what is ``expected``."""

    def run(name: str, bodies: list[dict[str, Any]], feature: str, expected: int) -> Played:
        job = f"{name}/housing"
        telemetry = {
            "MLOBS_BACKEND": "jaeger",
            "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.http,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus.otlp}/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "HOUSING_WINDOW": "600",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={name}",
        }
        service, port = serve(start, "app:app", EXAMPLE, {**environment, **telemetry}, preload=False)
        first, rest = bodies[:-AFTERWARDS], bodies[-AFTERWARDS:]
        assert len(bodies) == REQUESTS
        answers = load(port, [("POST", "/predict", body) for body in first], reuse=5)
        assert Counter(status for status, _ in answers) == {200: len(first)}

        # Which worker takes a connection is chance, and one that had few rows has nothing to say.
        def known() -> set[str]:
            of = f'job="{job}", mlobs_feature_name="{feature}"'
            counted = prometheus.ask(f"sum by (instance) (mlobs_feature_observations_total{{{of}}})")
            said = {labels["instance"]: value for labels, value in prometheus.ask(f"mlobs_drift_status_ratio{{{of}}}")}
            enough = {labels["instance"] for labels, rows in counted if rows >= ENOUGH}
            everything = sum(rows for _, rows in counted) == len(first)
            return enough if everything and all(said.get(worker) == expected for worker in enough) else set()

        workers = wait_until(f"waiting for {job} to say {expected} of {feature}", known)
        assert len(workers) > 1
        since = time.time()
        answers = load(port, [("POST", "/predict", body) for body in rest], reuse=5)
        assert Counter(status for status, _ in answers) == {200: len(rest)}
        assert service.stop() == 0
        traces = jaeger.wait_for_traces("housing", len(rest), since=since)
        assert len(traces) == len(rest)
        spans = [span for trace in traces for span in trace if span.resource["service.instance.id"] in workers]
        return Played(job, workers, *([span for span in spans if span.name == name] for name in (PREDICT, LOOKUP)))

    return run


def drifting(prometheus: Prometheus, played: Played) -> dict[str, set[str]]:
    """The features that Prometheus says drift, and in which of the workers."""
    found: dict[str, set[str]] = {}
    for labels, _ in prometheus.ask(f'mlobs_drift_status_ratio{{job="{played.job}", mlobs_feature_name!=""}} == 1'):
        if labels["instance"] in played.workers:
            found.setdefault(labels["mlobs_feature_name"], set()).add(labels["instance"])
    return found


def test_held_out_rows_drift_nowhere(play: Callable[..., Played], prometheus: Prometheus, example: Any) -> None:
    """Rows of the reference that the profile does not know are no drift: not in a metric, not on a span."""
    calm = play("calm", example("traffic").requests(example("data").load("held_out"))[:REQUESTS], "med_inc", 0)
    assert drifting(prometheus, calm) == {}
    assert len(calm.predictions) == len(calm.lookups) > 0
    assert {span.attributes["mlobs.drift.status"] for span in calm.predictions} == {"ok"}
    assert {span.attributes["mlobs.feature_store.name"] for span in calm.lookups} == {"postgresql"}
    assert {span.attributes["mlobs.feature.found"] for span in calm.lookups} == {10}


def test_the_drift_of_the_later_rows_is_on_spans_and_in_prometheus(
    play: Callable[..., Played], environment: dict[str, str], prometheus: Prometheus, example: Any
) -> None:
    """Later rows at random: workers see that latitude and longitude moved, and each row is counted once."""
    data = example("data")
    rows = data.load("later", shuffle=True)
    later = play("later", example("traffic").requests(rows)[:REQUESTS], "latitude", 1)
    moved = drifting(prometheus, later)
    assert moved["latitude"] == moved["longitude"] == later.workers
    assert {span.attributes["mlobs.drift.status"] for span in later.predictions} == {"drift"}
    assert {span.attributes["mlobs.drift.feature"] for span in later.predictions} <= {"latitude", "longitude"}
    assert min(span.attributes["mlobs.drift.score"] for span in later.predictions) > 1.0

    column = data.FEATURES.index("latitude")
    profile = example("train").mlobs.Profile.load(Path(environment["HOUSING_ARTIFACTS"]) / "housing.profile.json")
    cells = profile.features[column].bins
    counts, _ = cells.count(rows.features[:REQUESTS, column])
    counted = prometheus.ask(
        f'sum by (mlobs_bin) (mlobs_feature_observations_total{{job="{later.job}", mlobs_feature_name="latitude"}})'
    )
    assert {labels["mlobs_bin"]: value for labels, value in counted if value} == {
        name: count for name, count in zip(cells.cells, counts.tolist(), strict=True) if count
    }


@pytest.mark.parametrize(("kind", "change"), [("unit", "med_inc=10000:0.4"), ("missing", "med_inc=0.1")])
def test_what_a_client_does_to_one_feature_is_found_in_that_one(
    play: Callable[..., Played], prometheus: Prometheus, example: Any, kind: str, change: str
) -> None:
    """Income in dollars from some callers, or left out by some: workers say income and nothing else."""
    traffic = example("traffic")
    bodies = traffic.requests(example("data").load("held_out"), [traffic.parse(kind, change)])
    changed = play(kind, bodies[:REQUESTS], "med_inc", 1)
    assert drifting(prometheus, changed) == {"med_inc": changed.workers}
    assert {span.attributes["mlobs.drift.status"] for span in changed.predictions} == {"drift"}
    assert {span.attributes["mlobs.drift.feature"] for span in changed.predictions} == {"med_inc"}
    odd = {"unit": "mlobs.input.out_of_range", "missing": "mlobs.input.missing"}[kind]
    assert sum(span.attributes.get(odd, 0) for span in changed.predictions) > 0
