"""Stores in a real Redis and a real PostgreSQL: nothing lost and nothing counted twice, whatever happens to them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("redis")
pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")

from otel_mlobs.core.records import Label, Prediction, stream_of
from otel_mlobs.stores.outcome_store import OutcomeStore

from . import postgres, redis_server
from .backends import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .backends import Process

    Server = redis_server.RedisServer | postgres.Postgres

PROCESSES = 4
PREDICTIONS = 4000
STREAM = stream_of("churn", "3", "profile")


def missing(what: str, package: str) -> Any:
    """Skip where a server is not installed, or fail where none may be missing."""
    reason = f"{what} is not installed; on Debian: apt-get install {package}"
    if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def running(kind: str, start: Callable[..., Process], folder: Path, **options: Any) -> Server:
    """A server of its own."""
    if kind == "redis":
        program = redis_server.find() or missing("Redis", "redis-server")
        return redis_server.RedisServer(program, folder, start, **options)
    return postgres.Postgres(postgres.find() or missing("PostgreSQL", "postgresql"), start)


@pytest.fixture(params=["redis", "postgresql"], scope="module")
def server(
    request: pytest.FixtureRequest, start: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server of each kind."""
    made = running(request.param, start, tmp_path_factory.mktemp("redis-data"))
    yield made
    made.stop()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A namespace that no other test has."""
    return f"t{abs(hash(request.node.name)) % 10**12}"


# -- four processes and two restarts


def plan(seed: int) -> tuple[list[list[Any]], dict[str, int], Counter[str], set[str]]:
    """What each process does, each prediction's label, how many of each kind there must be, which ids conflict."""
    rng = random.Random(seed)
    ids = [f"p{number}" for number in range(PREDICTIONS)]
    truth = {one: rng.randrange(2) for one in ids}
    shuffled = rng.sample(ids, len(ids))
    tenth = PREDICTIONS // 10
    unlabelled, doubled, conflicting = (
        shuffled[:tenth],
        shuffled[tenth : 2 * tenth],
        shuffled[2 * tenth : 2 * tenth + PREDICTIONS // 100],
    )
    labels = {one: value for one, value in truth.items() if one not in set(unlabelled)}
    events = [*labels.items(), *((one, truth[one]) for one in doubled), *((one, 1 - truth[one]) for one in conflicting)]
    strangers = [(f"stranger{number}", 1) for number in range(20)]
    deeds: list[list[Any]] = [[] for _ in range(PROCESSES)]
    for number, one in enumerate(ids):
        deeds[number % PROCESSES].append(("register", one, number))
    for event in [*events, *strangers]:
        rng.choice(deeds).append(("label", *event))
    for each in deeds:
        rng.shuffle(each)
    kinds = Counter(joined=len(labels), duplicate=len(doubled), conflict=len(conflicting), unknown=len(strangers))
    return deeds, labels, kinds, set(conflicting)


def serve(url: str, namespace: str, deeds: list[Any], halfway: Any, together: Any, report: Path) -> None:
    """One process: registers and labels, waits for the others, then claims what is mature."""
    store = OutcomeStore(url, namespace=namespace, grace=PATIENCE)
    kinds: Counter[str] = Counter()
    joined: list[tuple[str, Any]] = []

    def done(one: Any) -> None:
        kinds[one.result] += 1
        if one.result == "joined":
            assert one.prediction.payload == one.label.prediction_id.encode()
            joined.append((one.label.prediction_id, one.label.value))

    for number, (what, name, value) in enumerate(deeds):
        if what == "register":
            store.register(Prediction(name, STREAM, float(value), name.encode(), float(value), "b"))
        else:
            store.submit(Label(name, "", value, 1.0, 2.0, "EUR"), done)
        if number == len(deeds) // 2:
            halfway.release()
        if number % 20 == 0:
            time.sleep(0.01)
    assert store.flush(PATIENCE)
    together.wait(PATIENCE)  # all predictions are written: who is not known now never will be
    store.close(PATIENCE)
    together.wait(PATIENCE)
    claimer = OutcomeStore(url, namespace=namespace)
    claimed: list[tuple[str, list[Any]]] = []
    quiet = 0
    while quiet < 5:
        try:
            found = claimer.claim(STREAM, float("inf"), 50)
        except ConnectionError:
            continue
        claimed += [(one.prediction.id, [label.value for label in one.labels]) for one in found]
        quiet = 0 if found else quiet + 1
        time.sleep(0.02 if found else 0.2)
        if len(claimed) >= PREDICTIONS // PROCESSES // 4:
            halfway.release()
    report.write_text(json.dumps({"kinds": kinds, "joined": joined, "claimed": claimed, "dropped": store.dropped}))


def test_four_processes_and_two_restarts_lose_nothing_and_count_nothing_twice(
    server: Server, namespace: str, tmp_path: Path
) -> None:
    """Shuffled labels, a tenth missing, a tenth doubled, a hundredth conflicting: exactly what a loop would count."""
    deeds, labels, kinds, conflicting = plan(7)
    context = multiprocessing.get_context("spawn")
    halfway, together = context.Semaphore(0), context.Barrier(PROCESSES)
    reports = [tmp_path / f"{number}.json" for number in range(PROCESSES)]
    processes = [
        context.Process(target=serve, args=(server.url, namespace, one, halfway, together, report))
        for one, report in zip(deeds, reports, strict=True)
    ]
    for process in processes:
        process.start()
    assert halfway.acquire(timeout=PATIENCE)
    server.restart(away=0.5)
    for _ in range(PROCESSES):
        assert halfway.acquire(timeout=PATIENCE)
    server.restart(away=0.3)
    for process in processes:
        process.join(3 * PATIENCE)
        assert process.exitcode == 0
    found = [json.loads(report.read_text()) for report in reports]
    assert sum((Counter(one["kinds"]) for one in found), Counter()) == kinds
    joined = [(name, value) for one in found for name, value in one["joined"]]
    assert len(joined) == len({name for name, _ in joined})
    assert {name: value for name, value in joined if name not in conflicting} == {
        name: value for name, value in labels.items() if name not in conflicting
    }
    claimed = [(name, tuple(values)) for one in found for name, values in one["claimed"]]
    assert len(claimed) == PREDICTIONS
    first = dict(joined)
    ids = [f"p{number}" for number in range(PREDICTIONS)]
    assert dict(claimed) == {name: (first[name],) if name in first else () for name in ids}
    assert [one["dropped"] for one in found] == [{}] * PROCESSES
    store = OutcomeStore(server.url, namespace=namespace)
    kept = {one.prediction.id: [label.value for label in one.labels] for one in store.records(STREAM, 0.0, 1e9)}
    assert kept == {name: list(values) for name, values in claimed}
    assert store.claim(STREAM, float("inf")) == []
    store.close()
