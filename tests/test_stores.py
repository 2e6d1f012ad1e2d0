"""Stores in memory and in SQLite, and what stands between a service and a server that is away."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_behaviour
from monitoring import Clock
from store_behaviour import BASE, STREAM, prediction, results

from otel_mlobs.core.profile import Profile
from otel_mlobs.core.records import Joined, Label, Prediction, stream_of
from otel_mlobs.errors import MissingExtraError
from otel_mlobs.stores import trouble
from otel_mlobs.stores.outcome_store import OutcomeStore


def database(folder: Path) -> str:
    """The URL of a SQLite file."""
    pytest.importorskip("sqlalchemy")
    return f"sqlite:///{folder}/outcomes.db"


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., OutcomeStore]]:
    """Opens stores of one kind."""
    made, close = store_behaviour.maker("memory:" if request.param == "memory" else database(tmp_path))
    yield made
    close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Callable[..., OutcomeStore]]:
    """Opens stores in one SQLite file."""
    made, close = store_behaviour.maker(database(tmp_path))
    yield made
    close()


@pytest.mark.parametrize("check", store_behaviour.CHECKS)
def test_a_store_does_what_every_store_does(make: Callable[..., OutcomeStore], check: Callable[[Any], None]) -> None:
    """Joining, claiming, reading, forgetting, as ``store_behaviour`` says."""
    check(make)


def test_predictions_live_as_long_as_they_should(make: Callable[..., OutcomeStore]) -> None:
    """And no longer, by the store's clock."""
    clock = Clock()
    store_behaviour.keeps_for_its_time(lambda **options: make(clock=clock, **options), clock.move)


# -- figures


@pytest.mark.parametrize("outputs", ["score", "multiclass", "regression"])
def test_figures_are_those_of_a_direct_computation(make: Callable[..., OutcomeStore], outputs: str) -> None:
    """Of the predictions of a span of time, mature and labelled, whenever their labels came."""
    rng = np.random.default_rng(3)
    n = 400
    scores = rng.random(n)
    labels: np.ndarray = (rng.random(n) < scores).astype(int)
    encoded = scores.reshape(-1, 1)
    if outputs == "multiclass":
        encoded = rng.dirichlet([1.0, 1.0, 1.0], n)
        labels = rng.integers(0, 3, n)
    if outputs == "regression":
        labels = scores + rng.normal(size=n)
    given = scores if encoded.shape[1] == 1 else encoded
    profile = Profile.fit(
        rng.normal(size=(n, 1)), outputs=given, labels=labels, model="m", version="1", output_kind=outputs
    )
    clock = Clock()
    clock.now = BASE + 1_000_000.0
    store = make(clock=clock)
    stream = stream_of("m", "1", profile.id)
    store.register_many(
        Prediction(f"p{n}", stream, BASE + n, bytes(row), variant="ab"[n % 2]) for n, row in enumerate(encoded)
    )
    store.register(Prediction("odd", stream, BASE + 150.0, b"three bytes are no output"))
    named = [(f"p{n}", label, BASE + n + 60.0) for n, label in enumerate(labels.tolist()) if n % 4]
    store.join([*named, ("odd", 1, BASE + 210.0)])
    found = store.performance(profile, start=BASE + 100, end=BASE + 300)
    chosen = np.array([n for n in range(100, 300) if n % 4])
    assert (found.predictions, found.mature, found.labelled, found.invalid) == (201, 201, 151, 1)
    assert found.coverage == 151 / 201
    assert found.delay == 60.0
    assert found.by == "prediction time"
    if outputs == "regression":
        errors = scores[chosen] - labels[chosen]
        assert found.figures["mae"].value == pytest.approx(np.abs(errors).mean())
        assert found.figures["bias"].value == pytest.approx(errors.mean())
        return
    right = (
        (scores[chosen] >= 0.5) == labels[chosen] if outputs == "score" else encoded[chosen].argmax(1) == labels[chosen]
    )
    assert found.figures["accuracy"].value == pytest.approx(right.mean())
    half = store.performance(profile, start=BASE + 100, end=BASE + 300, variant="b")
    assert half.figures["accuracy"].value == pytest.approx(right[chosen % 2 == 1].mean())


def test_mature_predictions_without_a_label_may_be_negative(make: Callable[..., OutcomeStore]) -> None:
    """Where only positives are ever told; younger ones are neither."""
    rng = np.random.default_rng(1)
    scores = rng.random(300)
    profile = Profile.fit(rng.normal(size=(300, 1)), outputs=scores, labels=(scores > 0.6).astype(int), model="m")
    clock = Clock()
    store = make(clock=clock)
    stream = stream_of("m", None, profile.id)
    store.register_many(
        Prediction(str(n), stream, 100.0 * n, np.float64(score).tobytes())
        for n, score in enumerate([0.9, 0.8, 0.2, 0.9])
    )
    store.join(
        {"prediction_id": ["0", "3"], "label": [1, 1], "worth": [10.0, 5.0], "in": ["EUR", "EUR"]},
        value="worth",
        currency="in",
    )
    found = store.performance(profile, maturity="750s", unlabelled="negative")
    assert (found.predictions, found.mature, found.labelled) == (4, 3, 1)
    assert found.figures["precision"].value == 0.5
    assert found.figures["specificity"].value == 0.5
    assert found.value == {("tp", "EUR"): 10.0}
    missing = store.performance(profile, maturity=750)
    assert missing.figures["precision"].value == 1.0
    with pytest.raises(ValueError, match="needs maturity="):
        store.performance(profile, unlabelled="negative")
    with pytest.raises(ValueError, match="unlabelled must be"):
        store.performance(profile, unlabelled="maybe")
    bare = Profile.fit(rng.normal(size=(300, 1)), model="m")
    for ask in (store.performance, lambda one: store.join([("0", 1)], profile=one)):
        with pytest.raises(ValueError, match="has no outputs"):
            ask(bare)
        with pytest.raises(TypeError, match=r"profile must be a Profile, as Profile.load\(path\) gives one, got 'p.j"):
            ask("p.json")


# -- memory


def test_a_full_memory_drops_the_oldest_and_counts_it() -> None:
    """Labels and what waits to mature go with their predictions."""
    store = OutcomeStore(capacity=3)
    store.register_many(prediction(str(n), due=float(9 - n)) for n in range(5))
    assert store.dropped == {"evicted": 2}
    assert results(store, Label("0", "", 1), Label("4", "", 1)) == ["unknown", "joined"]
    assert [one.prediction.id for one in store.claim(STREAM, 99.0)] == ["4", "3", "2"]


def test_a_full_memory_holds_nothing_of_what_it_dropped() -> None:
    """Neither in the order of coming nor of maturing, whichever of the two is the other way round."""
    store = OutcomeStore(capacity=100)
    for n in range(20_000):
        store.register(prediction(str(n), due=float(n if n % 3 else -n)))
        if n % 7 == 0:
            store.forget(str(n))
    memory: Any = store._way
    assert len(memory._entries) <= 100
    assert len(memory._order) <= 100
    assert sum(len(due.ordered) for due in memory._due.values()) <= 100
    assert sum(len(due.others) for due in memory._due.values()) <= 2_001
    assert sum(number for _, number in memory._ages) == len(memory._order)


def test_memory_makes_nobody_wait() -> None:
    """While one thread reads, others register and label; what they left is there when it is done."""
    store = OutcomeStore()
    store.register(prediction("a"))
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with store._way._settled():  # type: ignore[attr-defined]
            held.set()
            go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    found: list[Joined] = []
    store.register(prediction("b"))
    store.submit(Label("b", "", 1), found.append)
    assert found == []
    go.set()
    holder.join()
    assert [one.result for one in found] == ["joined"]
    assert len(list(store.records(STREAM, 0, 9))) == 2


def test_who_is_told_may_use_the_store(make: Callable[..., OutcomeStore]) -> None:
    """Register, label and forget, on whichever thread it is told."""
    store = make()
    store.register(prediction("a"))
    seen: list[str] = []

    def done(joined: Joined) -> None:
        seen.append(joined.label.prediction_id)
        if joined.label.prediction_id == "a":
            store.register(prediction("b"))
            assert store.forget("a")
            store.submit(Label("b", "", 1), done)

    store.submit(Label("a", "", 1), done)
    while len(seen) < 2:
        assert store.flush()
    assert seen == ["a", "b"]
    assert [one.prediction.id for one in store.records(STREAM, 0, 9)] == ["b"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers that send signals")
def test_signal_handlers_register_and_label(make: Callable[..., OutcomeStore]) -> None:
    """Whatever they interrupt, another registration of the same store among it."""
    store = make()
    told: list[str] = []
    names = itertools.count(1)  # a handler may interrupt a handler
    handled = 0

    def handler(_signal: int, _frame: object) -> None:
        nonlocal handled
        handled = max(handled, mine := next(names))
        store.register(prediction(f"handler{mine}"))
        store.submit(Label(f"handler{mine}", "", 1), lambda joined: told.append(joined.result))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    try:
        number = 0
        while handled < 200:
            number += 1
            store.register(prediction(f"main{number}"))
            store.submit(Label(f"main{number}", "", 1), lambda joined: told.append(joined.result))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert store.flush(60)
    assert told == ["joined"] * (next(names) - 1 + number)
    assert store.dropped == {}


def test_threads_share_a_store(make: Callable[..., OutcomeStore]) -> None:
    """Eight of them register, label twice and claim: each is joined once and given out once."""
    store = make()
    found: list[str] = []
    claimed: list[str] = []

    def work(who: int) -> None:
        for n in range(200):
            store.register(prediction(f"{who}-{n}", due=0.0))
            for _ in range(2):
                store.submit(Label(f"{who}-{n}", "", 1), lambda joined: found.append(joined.result))
            if n % 40 == 39:
                claimed.extend(one.prediction.id for one in store.claim(STREAM, 1.0, 30))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.flush(60)
    while more := store.claim(STREAM, 1.0):
        claimed.extend(one.prediction.id for one in more)
    assert sorted(claimed) == sorted({f"{who}-{n}" for who in range(8) for n in range(200)})
    late = found.count("late")
    assert found.count("joined") + late == 1600
    assert found.count("duplicate") == 1600


# -- the thread, and a server that is away


def dead_redis() -> str:
    """A Redis that nobody runs, with a password."""
    pytest.importorskip("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"redis://user:s3cr3t-w0rd@127.0.0.1:{free.getsockname()[1]}/0"


def test_a_server_that_is_down_costs_bounded_memory_and_no_prediction(
    lenient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest predictions and labels wait, the rest is counted; the log says so once, without the password."""
    store = OutcomeStore(dead_redis(), spill=50)
    with caplog.at_level(logging.WARNING, logger="otel_mlobs"):
        for n in range(1_000):
            store.register(prediction(str(n)))
            store.submit(Label(str(n), "", 1), lambda joined: None)
        assert not store.flush(0.3)
    assert store.pending <= 2 * (50 + 50)  # what waits, and a batch of each that is being written
    assert store.dropped["overflow"] + store.pending == 2_000
    assert len([one for one in caplog.records if one.name == "otel_mlobs"]) == 1
    assert "cannot be used (ConnectionError" in caplog.text
    assert "predictions and labels wait for it, at most 50 of each" in caplog.text
    assert "s3cr3t" not in caplog.text + repr(store)
    for ask in (store.streams, lambda: store.claim(STREAM, 1.0), lambda: store.forget("x"),
                lambda: list(store.records(STREAM, 0, 1)), lambda: store.join([("a", 1)], timeout=0.2)):  # fmt: skip
        with pytest.raises(ConnectionError, match="cannot be used") as raised:
            ask()
        assert "s3cr3t" not in str(raised.value)
        assert raised.value.__suppress_context__
    assert not store.close(0.2)


def test_a_server_that_never_answers_holds_nobody_up(lenient: None) -> None:
    """Its port takes connections and says nothing: predictions wait, and the exit does not."""
    pytest.importorskip("redis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        program = f"""
import threading, time
from otel_mlobs.core.records import Label, Prediction
from otel_mlobs.stores.outcome_store import OutcomeStore
store = OutcomeStore("redis://127.0.0.1:{silent.getsockname()[1]}/0")
for number in range(100):
    store.register(Prediction(str(number), "s", 1.0))
    store.submit(Label(str(number), "", 1), print)
print(store.pending, flush=True)
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "200\n"
    said = ran.stderr.splitlines()  # the exit waits as long as an answer may take: which is over first is a race
    assert len(said) <= 1
    assert all("cannot be used (TimeoutError" in line for line in said)


def test_what_waits_is_written_once_the_server_is_there(
    sqlite: Callable[..., OutcomeStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In order and once, and the log says that it answers again."""
    broken = tmp_path / "outcomes.db"
    broken.mkdir()
    store = sqlite()
    found: list[Joined] = []
    with caplog.at_level(logging.WARNING, logger="otel_mlobs"):
        for n in range(1_200):
            store.register(prediction(str(n)))
            store.submit(Label(str(n), "", n % 2), found.append)
        assert not store.flush(0.2)
        assert store.pending == 2_400
        broken.rmdir()
        assert store.flush(60)
    assert [one.result for one in found] == ["joined"] * 1_200
    assert [one.label.prediction_id for one in found] == [str(n) for n in range(1_200)]
    assert store.dropped == {}
    assert "answers again" in caplog.records[-1].message


def test_a_record_that_the_server_refuses_does_not_hold_up_the_others(
    sqlite: Callable[..., OutcomeStore], caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, counted and named by its error; its neighbours of the batch are written."""
    store = sqlite()
    odd = "\ud800"  # half of a pair of surrogates: no encoding has it
    store.register_many([prediction("a"), prediction(odd), prediction("b"), prediction("c", time=float("nan"))])
    found: list[Joined] = []
    for name in ("a", odd, "b"):
        store.submit(Label(name, "", 1), found.append)
    with caplog.at_level(logging.WARNING, logger="otel_mlobs"):
        assert store.flush()
    assert [(one.label.prediction_id, one.result) for one in found] == [("a", "joined"), ("b", "joined")]
    assert store.dropped == {"refused": 3}
    assert "cannot keep a prediction (UnicodeEncodeError" in caplog.text
    assert store.join([("a", 1), (odd, 1)]) == store_behaviour.JoinReport(rows=2, duplicate=1, missing=1)
    with pytest.raises(ValueError, match="refuses"):
        store.forget(odd)


def test_what_is_forgotten_while_it_waits_is_never_written(
    sqlite: Callable[..., OutcomeStore], tmp_path: Path, lenient: None
) -> None:
    """The server is away, so forgetting must be asked again; but what waited here is gone at once."""
    broken = tmp_path / "outcomes.db"
    broken.mkdir()
    store = sqlite(grace=0.0)
    found: list[Joined] = []
    store.register_many(prediction(name) for name in "abc")
    store.submit(Label("b", "", 1), found.append)
    with pytest.raises(ConnectionError):
        store.forget("b")
    assert [(one.label.prediction_id, one.result) for one in found] == [("b", "unknown")]
    assert store.pending == 2
    broken.rmdir()
    assert store.flush(60)
    assert not store.forget("b")
    assert [one.prediction.id for one in store.records(STREAM, 0, 9)] == ["a", "c"]


def test_a_label_waits_for_its_prediction(sqlite: Callable[..., OutcomeStore]) -> None:
    """Another process may not have written it yet; after the grace it is unknown."""
    label, server = sqlite(grace=60.0), sqlite()
    found: list[Joined] = []
    label.submit(Label("a", "", 1), found.append)
    label.submit(Label("never", "", 1), found.append)
    assert label.flush()
    assert found == []
    assert label.pending == 2
    server.register(prediction("a"))
    assert server.flush()
    assert label.flush()
    assert [one.result for one in found] == ["joined"]
    label.close()
    assert [one.result for one in found] == ["joined", "unknown"]


def test_labels_that_wait_for_their_predictions_are_bounded(sqlite: Callable[..., OutcomeStore]) -> None:
    """Beyond ``spill`` of them a label is unknown at once."""
    store = sqlite(grace=60.0, spill=100)
    found: list[Joined] = []
    for n in range(300):
        store.submit(Label(f"never{n}", "", 1), found.append)
        if n % 50 == 49:
            assert store.flush()
    assert store.pending == 100
    assert [one.result for one in found] == ["unknown"] * 200
    assert store.dropped == {}


def test_claims_come_after_the_labels_that_wait_here(sqlite: Callable[..., OutcomeStore]) -> None:
    """A label that came in time is not late because it was not written yet."""
    store = sqlite()
    store.register(prediction("a", due=5.0))
    store.submit(Label("a", "", 1), lambda joined: None)
    (record,) = store.claim(STREAM, 6.0)
    assert [label.value for label in record.labels] == [1]


def test_what_has_expired_is_deleted(sqlite: Callable[..., OutcomeStore], tmp_path: Path) -> None:
    """By the thread, labels and predictions."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    clock = Clock()
    store = sqlite(ttl=10, clock=clock, namespace="swept")
    store.register_many(prediction(str(n)) for n in range(6))
    assert store.join([("1", 1), ("2", 0)]).joined == 2
    clock.move(11)
    store.register(prediction("new"))
    assert store.flush()
    store._way._backend.sweep()  # type: ignore[attr-defined]
    engine = sqlalchemy.create_engine(database(tmp_path))
    with engine.connect() as connection:
        count = [
            connection.scalar(sqlalchemy.text(f"select count(*) from swept_{name}"))
            for name in ("predictions", "labels")
        ]
    engine.dispose()
    assert count == [1, 0]


def test_databases_without_on_conflict_keep_the_first_too(
    sqlite: Callable[..., OutcomeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLAlchemy takes besides PostgreSQL and SQLite: looked up first, inserted then."""
    from otel_mlobs.stores.sql import Sql

    monkeypatch.setattr(Sql, "_insert", Sql._insert_missing)
    for check in (
        store_behaviour.joins_once,
        store_behaviour.tells_events_apart,
        store_behaviour.keeps_the_first_of_an_id,
    ):
        namespace = check.__name__
        check(lambda namespace=namespace, **options: sqlite(namespace=namespace, **options))


def test_a_process_writes_what_waits_before_it_ends(tmp_path: Path) -> None:
    """Also a child of multiprocessing, which ends without Python's own exit functions; and the thread keeps nobody."""
    url = database(tmp_path)
    program = f"""
import multiprocessing, sys
from otel_mlobs.core.records import Label, Prediction
from otel_mlobs.stores.outcome_store import OutcomeStore

store = OutcomeStore({url!r})
def work(name):
    store.register(Prediction(name, "s", 1.0))
    store.submit(Label(name, "", 1), lambda joined: print(name, joined.result, flush=True))

if __name__ == "__main__":
    work("parent")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=work, args=("child",))
    child.start()
    child.join()
    assert child.exitcode == 0
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
    assert sorted(ran.stdout.split("\n")) == ["", "child joined", "parent joined"]
    store = OutcomeStore(url)
    assert sorted(one.prediction.id for one in store.records("s", 0, 9)) == ["child", "parent"]
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_forked_child_begins_empty_with_a_thread_of_its_own(tmp_path: Path, kind: str) -> None:
    """What waited is the parent's to write; both go on, also where the fork fell into a write."""
    url = "memory:" if kind == "memory" else database(tmp_path)
    program = f"""
import os, sys
from otel_mlobs.core.records import Label, Prediction
from otel_mlobs.stores.outcome_store import OutcomeStore

store = OutcomeStore({url!r})
store.register(Prediction("before", "s", 1.0))
children = []
for number in range(4):
    store.register_many(Prediction(f"p{{number}}-{{n}}", "s", 1.0) for n in range(300))
    child = os.fork()
    if not child:
        assert store.pending == 0
        assert not store._way._running if store.kind == "sql" else True
        store.register(Prediction(f"child{{number}}", "s", 1.0))
        found = []
        store.submit(Label(f"child{{number}}", "", 1), found.append)
        assert store.flush(30)
        assert [one.result for one in found] == ["joined"]
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
assert store.flush(30)
print(sum(1 for _ in store.records("s", 0, 9)))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout == ("1201\n" if kind == "memory" else "1205\n")


def test_a_store_that_is_let_go_writes_what_waits_and_ends_its_thread(tmp_path: Path) -> None:
    """Nobody closes a store that a function made."""
    url = database(tmp_path)
    before = set(threading.enumerate())
    OutcomeStore(url).register(prediction("a"))
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    store = OutcomeStore(url)
    assert [one.prediction.id for one in store.records(STREAM, 0, 9)] == ["a"]
    store.close()


def test_a_closed_store_takes_nothing_more(make: Callable[..., OutcomeStore]) -> None:
    """What came before is written; closing twice changes nothing."""
    store = make()
    store.register(prediction("a"))
    assert store.close()
    assert store.close()
    store.register(prediction("b"))
    store.register_many([prediction("c")])
    store.submit(Label("a", "", 1), lambda joined: pytest.fail("told"))
    assert [one.prediction.id for one in store.records(STREAM, 0, 9)] == ["a"]
    assert store.pending == 0


# -- what is said at construction


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:6379", "must be one of"),
        ("redis:/localhost", "must be one of"),
        ("redis://", "names no host"),
        ("redis://h:0/0", "port must be"),
        ("redis://u:hidden@h:bad/0", "port must be"),
        ("redis://h/abc", "number of a database"),
        ("redis://h/0?nonsense=1", "nonsense"),
        ("mongodb://u:hidden@h/db", "SQLAlchemy knows no 'mongodb'"),
        ("sqlite://", "memory"),
        ("sqlite+aiosqlite:///x.db", "aiosqlite"),
    ],
)
def test_a_url_that_cannot_be_used_is_said_at_once(url: str, said: str) -> None:
    """With what would do, and without the password."""
    pytest.importorskip("redis")
    pytest.importorskip("sqlalchemy")
    with pytest.raises((ValueError, MissingExtraError), match=said) as raised:
        OutcomeStore(url)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ttl": "soon"}, "ttl must be"),
        ({"ttl": 0}, "ttl must be"),
        ({"capacity": 0}, "capacity must be"),
        ({"spill": 1.5}, "spill must be"),
        ({"grace": -1}, "grace must be"),
        ({"clock": 3}, "clock must be"),
        ({"url": "sqlite:///x.db", "namespace": "a-b"}, "namespace must be"),
        ({"url": 5}, "url must be"),
    ],
)
def test_an_impossible_setting_is_said_at_once(options: dict[str, Any], said: str) -> None:
    """With the value and what was expected."""
    pytest.importorskip("sqlalchemy")
    with pytest.raises((ValueError, TypeError), match=said):
        OutcomeStore(**options)


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("redis://h/0", "redis", "redis"), ("sqlite:///x.db", "sqlalchemy", "sql")]
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str
) -> None:
    """The message holds the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'otel-mlobs\[{extra}\]'"):
        OutcomeStore(url)


def test_labels_and_limits_that_cannot_be_are_said_to_who_asks(make: Callable[..., OutcomeStore]) -> None:
    """A label must be text, a number or a truth value; a table must have the columns that are named."""
    store = make()
    for value in (None, float("nan")):
        with pytest.raises(ValueError, match="must have a value"):
            store.submit(Label("a", "", value), print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a label must be text"):
        store.submit(Label("a", "", [1]), print)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"label='label' must be one of the table's columns, prediction_id, churned"):
        store.join({"prediction_id": ["a"], "churned": [1]})
    with pytest.raises(ValueError, match="must have 2 rows"):
        store.join({"prediction_id": ["a", "b"], "label": [1]})
    with pytest.raises(TypeError, match="an iterable of"):
        store.join(5)
    with pytest.raises(TypeError, match="must be a pair"):
        store.join(["ab"])
    for limit in (0, 10_001):
        with pytest.raises(ValueError, match="limit must be from 1 to 10,000"):
            store.claim(STREAM, 1.0, limit)


def test_frames_of_any_library_are_joined() -> None:
    """Pandas with dates and gaps, polars; ids that are numbers are the text that they print."""
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    pytest.importorskip("narwhals")
    store = OutcomeStore()
    store.register_many(prediction(str(n)) for n in range(4))
    when = pandas.to_datetime(["2024-11-01T00:00:00Z"] * 3)
    frame = pandas.DataFrame({"id": [0, 1, None], "label": ["yes", None, "no"], "at": when})
    frame.loc[2, "at"] = pandas.NaT
    assert store.join(frame, id="id", time="at") == store_behaviour.JoinReport(rows=3, joined=1, missing=2)
    assert store.join(polars.DataFrame({"prediction_id": ["2", "3"], "label": [1, 0]})).joined == 2
    kept = {one.prediction.id: one.labels for one in store.records(STREAM, 0, 9)}
    assert kept["0"][0].value == "yes"
    assert kept["0"][0].time == 1_730_419_200.0
    assert kept["3"][0].value == 0


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2023-11-14T22:13:20Z", BASE),
        ("2023-11-14 22:13:20", BASE),
        (1_700_000_000_000, BASE),
        (1_700_000_000_000_000, BASE),
        (np.datetime64("2023-11-14T22:13:20"), BASE),
        ("", 1_000.0 + BASE),
        (None, 1_000.0 + BASE),
    ],
)
def test_a_label_has_the_time_that_its_row_says(time: Any, seconds: float) -> None:
    """In whichever way it is written; one that is missing came now."""
    clock = Clock()
    clock.now = BASE + 1_000.0
    store = OutcomeStore(clock=clock)
    store.register(prediction("a"))
    assert store.join({"prediction_id": ["a"], "label": [1], "at": [time]}, time="at").joined == 1
    (record,) = store.records(STREAM, 0, 9)
    assert record.labels[0].time == seconds


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": [None, "soon"]}, "column 'at', row 2: a time must be a datetime, ISO text .* got 'soon'"),
        ({"at": [None, 5.0]}, r"column 'at', row 2: a time must be .*from 1990 on.* got 5.0"),
        ({"at": [None, "1985-01-01"]}, "column 'at', row 2: a time must be from 1990 on, got '1985-01-01'"),
        ({"at": [None, BASE + 90_000.0]}, "column 'at', row 2: a time must be at most a day in the future"),
        ({"worth": [None, -3]}, "column 'worth', row 2: value must be finite and not negative, .* got -3"),
        ({"worth": ["1.50", "12,50"]}, "column 'worth', row 2: value must be a number from 0, as 12.50, got '12,50'"),
        ({"worth": [1, True]}, "column 'worth', row 2: value must be a number, got True"),
        ({"worth": [1, float("inf")]}, "column 'worth', row 2: value must be finite"),
        ({"unit": ["EUR", "euro"]}, "column 'unit', row 2: currency must be a code of three capitals, .* got 'euro'"),
    ],
)
def test_a_row_that_monitor_outcome_would_refuse_is_named(changes: dict[str, Any], said: str) -> None:
    """By its column and number, with the value."""
    clock = Clock()
    clock.now = BASE
    store = OutcomeStore(clock=clock)
    store.register_many([prediction("a"), prediction("b")])
    table = {"prediction_id": ["a", "b"], "label": [1, 1], "at": [None, None], "worth": [1, 2], "unit": ["EUR", ""]}
    names = {"time": "at", "value": "worth", "currency": "unit"}
    with pytest.raises(ValueError, match=f"^{said}"):
        store.join({**table, **changes}, **names)
    assert store.join(table, **names).joined == 2
    kept = [record.labels[0][4:6] for record in store.records(STREAM, 0, 9)]
    assert kept == [(1.0, "EUR"), (2.0, "XXX")]


def test_a_pair_that_cannot_be_is_named_by_its_row() -> None:
    """It has no column."""
    with pytest.raises(ValueError, match=r"^row 2: a time must be at most a day in the future, got '2999-01-01'"):
        OutcomeStore().join([("a", 1), ("b", 1, "2999-01-01")])


def test_reports_print_as_a_person_reads_them() -> None:
    """One label is no labels; a file without a row is no error; what matters stands in words."""
    rng = np.random.default_rng(1)
    scores = rng.random(300)
    profile = Profile.fit(rng.normal(size=(300, 1)), outputs=scores, labels=(scores > 0.6).astype(int), model="m")
    clock = Clock()
    clock.now = BASE
    store = OutcomeStore(clock=clock)
    assert str(store.join([])) == "0 labels"
    assert str(store.performance(profile)) == "by prediction time: 0 predictions"
    stream = stream_of("m", None, profile.id)
    store.register_many(Prediction(str(n), stream, BASE - 7200, np.float64(0.9).tobytes()) for n in range(4))
    assert str(store.join([("0", 1)])) == "1 label: 1 joined"
    assert str(store.join({"prediction_id": ["1"], "label": [0], "worth": [1234.5]}, value="worth")) == (
        "1 label: 1 joined"
    )
    assert str(store.join([("1", "no"), ("5", 1)])) == "2 labels: 0 joined, 1 conflict, 1 unknown"
    assert str(store.performance(profile, maturity="7d")) == "by prediction time: 4 predictions, 0 mature"
    lines = str(store.performance(profile, maturity="1h", unlabelled="negative")).splitlines()
    assert lines[0] == (
        "by prediction time: 4 predictions, 2 of them with a label (coverage 50.0%), the others count as negative"
    )
    assert lines[1] == "median delay of a label: 2.0 h"
    assert lines[2].split()[:2] == ["precision", "0.2500"]
    assert lines[-1] == "  value fp 1,234.50 XXX"
    store.join([("2", "maybe")])
    assert (
        str(store.performance(profile)).splitlines()[0].endswith("3 of them with a label (coverage 75.0%), 1 invalid")
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [("class", "labels must be one of 'a', 'b', 'c'"), ("regression", "labels must be numbers")],
)
def test_an_invalid_label_is_told_what_the_model_takes(kind: str, said: str) -> None:
    """Its classes, or numbers."""
    if kind == "class":
        profile = Profile.fit(np.ones((90, 1)), outputs=list("abc") * 30, labels=list("abc") * 30, model="m")
    else:
        values = np.arange(90.0)
        profile = Profile.fit(np.ones((90, 1)), outputs=values, labels=values, model="m", output_kind="regression")
    report = OutcomeStore().join([("x", "d"), ("y", 1.0 if kind == "regression" else "a")], profile=profile)
    assert (report.invalid, report.unknown) == (1, 1)
    assert report.reason == f"{said} (got text 'd' first)"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """SQLite says only that it is unable to open the file."""
    pytest.importorskip("sqlalchemy")
    store = OutcomeStore(f"sqlite:///{tmp_path}/nowhere/x.db")
    with pytest.raises(ConnectionError, match=r"there is no folder '.*nowhere'"):
        store.streams()


def test_who_waits_for_a_join_is_told_for_how_long(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, when the first try has failed."""
    pytest.importorskip("sqlalchemy")
    store = OutcomeStore(f"sqlite:///{tmp_path}/nowhere/x.db")
    with pytest.raises(ConnectionError):
        store.join([("a", 1)], timeout=0.15)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["trying for 0.15 s"]


def test_a_missing_driver_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra of ours installs it."""
    pytest.importorskip("sqlalchemy")
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    with pytest.raises(MissingExtraError, match=r"'MySQLdb': pip install mysqlclient, or name .* mysql\+pymysql://"):
        OutcomeStore("mysql://u@h/d")


def test_what_is_said_of_a_server_is_one_line_without_secrets() -> None:
    """Drivers quote what they were given, and some write pages."""
    from otel_mlobs.stores.urls import backend_of

    pytest.importorskip("redis")
    os.environ["MLOBS_STORE_PASSWORD"] = "from-outside"
    try:
        _, said = backend_of("rediss://me:p%40ss@host:1/0?ssl_ca_path=here", "n", 1.0, time.time)
    finally:
        del os.environ["MLOBS_STORE_PASSWORD"]
    assert said.shown == "rediss://host:1/0?***"
    error = trouble.Trouble.described(said, OSError("refused p@ss and p%40ss and from-outside\nand more" + "x" * 999))
    assert error == "OSError: refused *** and *** and ***"
