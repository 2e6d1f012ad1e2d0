"""Stores in a real Redis and a real PostgreSQL: nothing lost and nothing counted twice, whatever happens to them."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import socket
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

redis = pytest.importorskip("redis")
pytest.importorskip("sqlalchemy")
psycopg = pytest.importorskip("psycopg")

import store_behaviour

from otel_mlobs.core.records import Label, Prediction, stream_of
from otel_mlobs.stores import redis as redis_store
from otel_mlobs.stores import sql
from otel_mlobs.stores.outcome_store import OutcomeStore

from . import postgres, redis_server
from .backends import PATIENCE, free_ports

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
    return f"t{zlib.crc32(request.node.name.encode())}"


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


# -- what every store does


@pytest.fixture
def make(server: Server, namespace: str) -> Iterator[Callable[..., OutcomeStore]]:
    """Opens stores on the server."""
    made, close = store_behaviour.maker(server.url, namespace=namespace)
    yield made
    close()


@pytest.mark.parametrize("check", store_behaviour.CHECKS)
def test_a_server_does_what_every_store_does(make: Callable[..., OutcomeStore], check: Callable[[Any], None]) -> None:
    """Joining, claiming, reading, forgetting, as ``store_behaviour`` says."""
    check(make)


def test_predictions_live_as_long_as_they_should(server: Server, make: Callable[..., OutcomeStore]) -> None:
    """And no longer: in Redis by its own clock."""
    store_behaviour.keeps_for_its_time(make, time.sleep)


def test_what_has_expired_leaves_the_sets(server: Server, make: Callable[..., OutcomeStore], namespace: str) -> None:
    """Redis' keys expire by themselves; what its sets name, and PostgreSQL's rows, the thread deletes."""
    store = make(ttl=1.0)
    store.register_many(Prediction(str(number), STREAM, float(number), b"", 1.0) for number in range(1_200))
    assert store.join([("1", 1)]).joined == 1
    time.sleep(1.1)
    store.register(Prediction("new", STREAM, 5_000.0, b"", 1.0))
    assert store.flush(PATIENCE)
    store._way._backend.sweep()
    if isinstance(server, postgres.Postgres):
        with psycopg.connect(server.url) as connection:
            counts = [
                connection.execute(f"select count(*) from {namespace}_{table}").fetchone()[0]
                for table in ("predictions", "labels")
            ]
        assert counts == [1, 0]
    else:
        client = redis.Redis.from_url(server.url)
        names = [f"{namespace}:{{{STREAM}}}:{order}" for order in ("time", "due")]
        assert [client.zrange(name, 0, -1) for name in names] == [[b"new"], [b"new"]]
        assert all(0 < client.ttl(name) <= 3_700 for name in names)
        client.close()


# -- answers that are lost


class Lossy:
    """Stands before a server; some requests that hold ``mark`` are done, and their answer is lost with the connection.

    A request may come in many pieces: each connection is lost at its first, second or third piece with ``mark`` in it,
    but every fourth one holds for ``pieces`` of them, which are more than the largest request has.
    """

    def __init__(self, port: int, mark: bytes, pieces: int) -> None:
        self._to = port
        self._mark = mark
        self._lives = itertools.cycle([1, 2, 3, pieces])
        self.lost = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            losing = threading.Event()
            life = next(self._lives)
            threading.Thread(target=self._pass_on, args=(client, server, losing, life), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, losing), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, losing: threading.Event, life: int = 0) -> None:
        is_request, left = life > 0, life
        try:
            while data := source.recv(1 << 20):
                if is_request and self._mark in data:
                    left -= 1
                    if left == 0:
                        losing.set()
                if not is_request and losing.is_set():
                    self.lost += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Take no more connections."""
        self._listening.close()


def test_answers_that_are_lost_lose_and_double_nothing(server: Server, namespace: str, lenient: None) -> None:
    """The server did what it was asked and the connection broke before it could say so: asked again, all is once."""
    port = urlsplit(server.url).port
    lossy = Lossy(port, *((b"COMMIT", 4) if isinstance(server, postgres.Postgres) else (b"EVALSHA", 40)))
    store = OutcomeStore(server.url.replace(f":{port}/", f":{lossy.port}/"), namespace=namespace)
    kinds: Counter[str] = Counter()
    labelled = set()
    for number in range(900):
        store.register(Prediction(str(number), STREAM, float(number), b"x", 1.0))
        if number % 3:
            labelled.add(str(number))
            for value in (1, 1, 0)[: number % 4]:
                store.submit(Label(str(number), "", value), lambda joined: kinds.update([joined.result]))
        if number % 90 == 89:
            assert store.flush(PATIENCE)
    asked = [number for number in range(900) if number % 3]
    assert kinds == Counter(
        joined=sum(number % 4 > 0 for number in asked),
        duplicate=sum(number % 4 > 1 for number in asked),
        conflict=sum(number % 4 > 2 for number in asked),
    )
    names = [(str(number), 1) for number in range(900)]
    joined = kinds["joined"]
    report = store.join(names)
    assert (report.joined, report.duplicate) == (900 - joined, joined)
    claimed: list[str] = []
    while len(claimed) < 900:
        with suppress(ConnectionError):
            claimed += [one.prediction.id for one in store.claim(STREAM, 2.0, 40)]
            assert len(claimed) == len(set(claimed))
    assert sorted(claimed) == sorted(name for name, _ in names)
    assert lossy.lost > 5
    assert store.dropped == {}
    while True:
        with suppress(ConnectionError):
            assert store.claim(STREAM, 2.0) == []
            break
    store.close(PATIENCE)
    lossy.close()


# -- servers that are not well


def test_scripts_that_the_server_has_forgotten_are_loaded(start: Callable[..., Process], tmp_path: Path) -> None:
    """``SCRIPT FLUSH``, a restart or a failover forgets them; nothing is lost by it."""
    server = running("redis", start, tmp_path)
    store = OutcomeStore(server.url)
    client = redis.Redis.from_url(server.url)
    for number in range(3):
        client.script_flush()
        store.register(Prediction(str(number), STREAM, 1.0))
        assert store.join([(str(number), 1)]).joined == 1
    client.close()
    store.close()
    server.stop()


def test_a_server_that_is_full_keeps_what_waits(
    start: Callable[..., Process], tmp_path: Path, lenient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis at its memory limit refuses writes; once there is room they are done."""
    server = running("redis", start, tmp_path)
    client = redis.Redis.from_url(server.url)
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    store = OutcomeStore(server.url)
    store.register(Prediction("a", STREAM, 1.0))
    assert not store.flush(0.5)
    assert store.pending == 1
    client.config_set("maxmemory", 0)
    assert store.flush(PATIENCE)
    assert [one.prediction.id for one in store.records(STREAM, 0, 9)] == ["a"]
    assert "OutOfMemoryError" in caplog.text
    client.close()
    store.close()
    server.stop()


def test_the_password_comes_from_the_environment_and_shows_nowhere(
    start: Callable[..., Process],
    tmp_path: Path,
    lenient: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong one waits for a right one, and is said without it; one in the URL goes before it."""
    server = running("redis", start, tmp_path, password="r1ght-w0rd")
    monkeypatch.setenv("MLOBS_STORE_PASSWORD", "wr0ng-w0rd")
    wrong = OutcomeStore(server.url)
    wrong.register(Prediction("a", STREAM, 1.0))
    assert not wrong.flush(0.5)
    with pytest.raises(ConnectionError, match="AuthenticationError") as raised:
        wrong.streams()
    assert "w0rd" not in caplog.text + str(raised.value) + repr(wrong)
    named = OutcomeStore(server.url.replace("//", "//:r1ght-w0rd@"))
    assert named.streams() == []
    assert "w0rd" not in repr(named)
    monkeypatch.setenv("MLOBS_STORE_PASSWORD", "r1ght-w0rd")
    assert OutcomeStore(server.url).streams() == []
    wrong.close(0.1)
    named.close()
    server.stop()


@pytest.mark.parametrize("scheme", ["redis", "postgresql"])
@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_a_dead_server_is_said_to_who_asks_and_to_nobody_else(
    scheme: str, silent: bool, lenient: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every question raises ConnectionError; registering and labelling go on."""
    monkeypatch.setattr(sql, "_KEEPALIVE", {"connect_timeout": 2})
    monkeypatch.setattr(redis_store, "_ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] if silent else free_ports(1)[0]
        store = OutcomeStore(f"{scheme}://me:s3cr3t@127.0.0.1:{port}/1")
        store.register(Prediction("a", STREAM, 1.0))
        told: list[str] = []
        store.submit(Label("a", "", 1), lambda joined: told.append(joined.result))
        asked: list[Callable[[], Any]] = [
            store.streams,
            lambda: store.claim(STREAM, 1.0),
            lambda: list(store.records(STREAM, 0, 1)),
            lambda: store.join([("a", 1)], timeout=0.1),
            lambda: store.forget("b"),
        ]
        for ask in asked:
            with pytest.raises(ConnectionError, match="cannot be used") as raised:
                ask()
            assert "s3cr3t" not in str(raised.value)
        assert not store.flush(0.1)
        assert store.pending == 2
        assert told == []
        assert store.dropped == {}
        assert "s3cr3t" not in caplog.text
        assert len([one for one in caplog.records if one.name == "otel_mlobs"]) == 1
        with pytest.raises(ConnectionError):
            store.forget("a")
        assert store.pending == 0
        store.close(0.1)
