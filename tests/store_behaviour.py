"""What every outcome store does, wherever it keeps its records: checked in memory, SQLite, Redis and PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from otel_mlobs.core.profile import Profile
from otel_mlobs.core.records import Joined, Label, Prediction, parts_of, stream_of
from otel_mlobs.stores.batches import JoinReport
from otel_mlobs.stores.outcome_store import OutcomeStore

STREAM = stream_of("churn", "3", "abc")
OTHER = stream_of("fraud", None, "def")
BASE = 1_700_000_000.0
"""2023-11-14 22:13:20 UTC."""

Make = Callable[..., OutcomeStore]


def prediction(name: str, time: float = 1.0, **changes: Any) -> Prediction:
    """One of :data:`STREAM`."""
    return Prediction(name, STREAM, time, changes.pop("payload", b"\x00\xff'\"" * 2), **changes)


def submitted(store: OutcomeStore, *labels: Label) -> list[tuple[str, Prediction | None]]:
    """What became of labels that came one by one."""
    found: list[Joined] = []
    for label in labels:
        store.submit(label, found.append)
    assert store.flush()
    assert [one.label.prediction_id for one in found] == [label.prediction_id for label in labels]
    return [(one.result, one.prediction) for one in found]


def results(store: OutcomeStore, *labels: Label) -> list[str]:
    """The same without the predictions."""
    return [result for result, _ in submitted(store, *labels)]


def joins_once(make: Make) -> None:
    """The first value stays; the same again is a duplicate, another one a conflict; each tells its prediction."""
    store = make()
    first = prediction("a", 2.5, due=9.25, variant="blue")
    store.register(first)
    store.register(prediction("b", payload=b""))
    assert submitted(
        store, Label("a", "", 1), Label("a", "", 1), Label("a", "", 0), Label("a", "", 1), Label("b", "", "yes \ud7ff'")
    ) == [
        ("joined", first),
        ("duplicate", first),
        ("conflict", first),
        ("duplicate", first),
        ("joined", prediction("b", payload=b"")),
    ]
    labels = [one.labels for one in store.records(STREAM, 0, 10)]
    assert [[label.value for label in each] for each in labels] == [["yes \ud7ff'"], [1]]


def takes_true_for_one(make: Make) -> None:
    """A label that another library writes as 1.0, True or a NumPy scalar is the same label; text is another."""
    store = make()
    store.register(prediction("a"))
    values = [1, True, 1.0, np.int64(1), np.float32(1), np.bool_(True), "1", 1.5]
    assert results(store, *(Label("a", "", value) for value in values)) == [
        "joined", *["duplicate"] * 5, "conflict", "conflict",
    ]  # fmt: skip


def tells_events_apart(make: Make) -> None:
    """Labels of different keys are each joined once, with what was at stake."""
    store = make()
    store.register(prediction("a"))
    click = Label("a", "click:shoe", 1, 5.0)
    bought = Label("a", "purchase:shoe", 1, 6.0, 49.5, "EUR")
    assert results(store, bought, click, click, Label("a", "click:hat", 1, 7.0)) == [
        "joined", "joined", "duplicate", "joined",
    ]  # fmt: skip
    (record,) = store.records(STREAM, 0, 10)
    assert [label._replace(token="") for label in record.labels] == [click, bought, Label("a", "click:hat", 1, 7.0)]


def writes_the_same_event_once(make: Make) -> None:
    """A label with the token of one that was written is that very label: what a retry after a lost answer sends."""
    store = make()
    store.register(prediction("a", due=1.0))
    event = Label("a", "", 1, 2.0, token="t1")
    assert results(store, event, event) == ["joined", "joined"]
    store.register(prediction("b", due=1.0))
    assert store.flush()
    assert len(store.claim(STREAM, 2.0)) == 2
    late = Label("b", "", 1, 2.0, token="t2")
    assert results(store, event, late, late) == ["joined", "late", "late"]


def keeps_the_first_of_an_id(make: Make) -> None:
    """A prediction that comes again changes nothing; another one under its id is counted and dropped."""
    store = make()
    for one in (prediction("a"), prediction("a"), prediction("a", 3.0), prediction("b")):
        store.register(one)
    assert store.flush()
    assert [one.prediction for one in store.records(STREAM, 0, 10)] == [prediction("a"), prediction("b")]
    assert store.dropped == {"repeated": 1}


def gives_out_what_is_mature(make: Make) -> None:
    """By when it was due, at most as many as asked, each once, with the labels that came in time."""
    store = make()
    dues = [5.0, 3.0, None, 4.0, 9.0, 3.5]
    store.register_many([prediction(f"p{n}", due=due) for n, due in enumerate(dues)])
    store.register(Prediction("other", OTHER, 1.0, b"", 1.0))
    assert results(store, Label("p3", "", 1), Label("p2", "", 0)) == ["joined", "joined"]
    first = store.claim(STREAM, 5.0, 3)
    assert [(one.prediction.id, [label.value for label in one.labels]) for one in first] == [
        ("p1", []), ("p5", []), ("p3", [1]),
    ]  # fmt: skip
    assert [one.prediction.id for one in store.claim(STREAM, 5.0, 3)] == ["p0"]
    assert store.claim(STREAM, 5.0, 3) == []
    assert [one.prediction.id for one in store.claim(OTHER, 1.0, 3)] == ["other"]
    assert results(store, Label("p1", "", 1), Label("p3", "", 1), Label("p4", "", 1)) == ["late", "duplicate", "joined"]
    assert [one.prediction.id for one in store.claim(STREAM, 9.0, 3)] == ["p4"]


def reads_by_time(make: Make) -> None:
    """From the start until before the end, ties included, however many; each stream by itself."""
    store = make()
    store.register_many(prediction(f"{n:05}", float(n // 700)) for n in range(2100))
    store.register(Prediction("x", OTHER, 1.0))
    assert store.flush()
    assert sorted(store.streams()) == sorted([STREAM, OTHER])
    assert [parts_of(one) for one in (STREAM, OTHER)] == [("churn", "3", "abc"), ("fraud", "", "def")]
    found = [one.prediction for one in store.records(STREAM, 1.0, 2.0)]
    assert sorted(one.id for one in found) == [f"{n:05}" for n in range(700, 1400)]
    assert len({one.prediction.id for one in store.records(STREAM, 0.0, 9.0)}) == 2100
    times = [one.prediction.time for one in store.records(STREAM, float("-inf"), float("inf"))]
    assert times == sorted(times)


def forgets(make: Make) -> None:
    """A prediction and its labels are gone at once, from what is given out and read; a later label is unknown."""
    store = make(grace=0.0)
    store.register_many([prediction("a", due=1.0), prediction("b", due=1.0)])
    assert results(store, Label("a", "", 1)) == ["joined"]
    assert store.forget("a")
    assert not store.forget("a")
    assert not store.forget("never")
    assert results(store, Label("a", "", 1), Label("b", "", 1)) == ["unknown", "joined"]
    assert [one.prediction.id for one in store.records(STREAM, 0, 10)] == ["b"]
    assert [one.prediction.id for one in store.claim(STREAM, 9.0)] == ["b"]
    store.register(prediction("a"))
    assert results(store, Label("a", "", 0)) == ["joined"]


def joins_tables(make: Make) -> None:
    """Pairs, labels, mappings of columns and frames; rows without id or label are missing; progress is told."""
    store = make()
    store.register_many(prediction(str(n)) for n in range(10))
    seen: list[tuple[int, int | None]] = []
    assert store.join(
        [
            ("0", 1),
            ("0", 1),
            ("0", 0),
            ("x", 1),
            (1, True, BASE + 5.0),
            ("2", None),
            ("", 1),
            (None, 1),
            ("2", float("nan")),
        ],
        progress=lambda done, rows: seen.append((done, rows)),
    ) == JoinReport(rows=9, joined=2, duplicate=1, conflict=1, unknown=1, missing=4)
    assert seen == [(9, 9)]
    told: list[str] = []
    assert store.join(
        iter([Label("3", "", 1), ("0", 1)]), told=lambda joined: told.append(joined.result)
    ) == JoinReport(rows=2, joined=1, duplicate=1)
    assert told == ["joined", "duplicate"]
    columns = {
        "key": ["click", "click"], "who": np.array([4, 5]), "what": np.array([0, 1]), "worth": [1.5, None],
        "money": ["EUR", None], "when": [BASE + 7.0, BASE + 8.0],
    }  # fmt: skip
    names = {"id": "who", "label": "what", "key": "key", "value": "worth", "currency": "money", "time": "when"}
    assert store.join(columns, **names) == JoinReport(rows=2, joined=2)
    kept = {one.prediction.id: one.labels for one in store.records(STREAM, 0, 10)}
    assert kept["1"][0][:4] == ("1", "", 1, BASE + 5.0)
    assert [kept[name][0]._replace(token="") for name in "45"] == [
        Label("4", "click", 0, BASE + 7.0, 1.5, "EUR"),
        Label("5", "click", 1, BASE + 8.0),
    ]
    assert store.join([]) == JoinReport()


def _scores(labels: list[Any] | None = None) -> Profile:
    scores = np.arange(1, 201) / 201
    known = (scores > 0.5).astype(int).tolist() if labels is None else labels
    return Profile.fit(scores.reshape(-1, 1), outputs=scores, labels=known, model="churn", version="3")


def keeps_out_what_the_profile_cannot_have(make: Make) -> None:
    """Such a label is counted, told in one reason and not stored: the right one joins later."""
    store = make()
    profile = _scores()
    stream = stream_of("churn", "3", profile.id)
    store.register_many(Prediction(str(n), stream, BASE, np.float64(0.9).tobytes()) for n in range(4))
    told: list[Joined] = []
    report = store.join(
        {"prediction_id": ["0", "1", "2", "3"], "label": ["yes", "1", 1, None]}, profile=profile, told=told.append
    )
    assert report == JoinReport(
        rows=4, joined=1, missing=1, invalid=2, reason="labels must be 0 or 1 (got text 'yes' first)"
    )
    assert str(report) == ("4 labels: 1 joined, 1 missing, 2 invalid: labels must be 0 or 1 (got text 'yes' first)")
    assert [one.label.prediction_id for one in told] == ["2"]
    assert store.join([("0", 0), ("1", 1)], profile=profile).joined == 2
    assert store.performance(profile).labelled == 3


def takes_spans_as_people_write_them(make: Make) -> None:
    """Datetimes, dates as text and seconds choose the same predictions; what is no time is said, not searched for."""
    store = make()
    profile = _scores()
    stream = stream_of("churn", "3", profile.id)
    store.register_many(Prediction(str(n), stream, BASE + 3600.0 * n, np.float64(0.9).tobytes()) for n in range(10))
    for start, end in (
        (BASE + 3600, BASE + 4 * 3600),
        ("2023-11-14T23:13:20Z", "2023-11-15 02:13:20"),
        (dt.datetime.fromisoformat("2023-11-14T23:13:20"), dt.datetime(2023, 11, 15, 3, 13, 20, tzinfo=_HOUR_EAST)),
        (1000 * (BASE + 3600), int(BASE) + 4 * 3600),
    ):
        assert store.performance(profile, start=start, end=end).predictions == 3
    assert store.performance(profile, start="2023-11-15").predictions == 8
    for wrong in ("yesterday", None, float("nan"), True):
        with pytest.raises(ValueError, match="start must be a date or time as 2026-11-01"):
            store.performance(profile, start=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="end must be a date or time"):
        store.performance(profile, end="soon")
    with pytest.raises(ValueError, match="end must not be before start"):
        store.performance(profile, start="2023-11-15", end="2023-11-14")


_HOUR_EAST = dt.timezone(dt.timedelta(hours=1))


def pickles(make: Make) -> None:
    """As its URL and settings: what it keeps in a server is there again."""
    store = make(ttl="2d", grace=1.5)
    store.register(prediction("a"))
    assert store.flush()
    again = pickle.loads(pickle.dumps(store))
    try:
        assert again.ttl == 2 * 86_400
        assert again.kind == store.kind
        expected = [] if store.kind == "memory" else ["a"]
        assert [one.prediction.id for one in again.records(STREAM, 0, 10)] == expected
    finally:
        again.close()


def keeps_for_its_time(make: Make, pass_time: Callable[[float], None]) -> None:
    """After the time-to-live a prediction is unknown, is not given out and not read; a label does not prolong it."""
    store = make(ttl=1.5, grace=0.0)
    store.register_many([prediction("a", due=1.0), prediction("b", due=1.0)])
    assert results(store, Label("a", "", 1)) == ["joined"]
    pass_time(1.0)
    store.register(prediction("c", 2.0, due=1.0))
    assert results(store, Label("b", "", 1)) == ["joined"]
    pass_time(0.7)
    assert results(store, Label("a", "", 1), Label("b", "", 0), Label("c", "", 1)) == ["unknown", "unknown", "joined"]
    assert [one.prediction.id for one in store.records(STREAM, 0, 10)] == ["c"]
    assert [one.prediction.id for one in store.claim(STREAM, 9.0)] == ["c"]


CHECKS = (
    joins_once, takes_true_for_one, tells_events_apart, writes_the_same_event_once, keeps_the_first_of_an_id,
    gives_out_what_is_mature, reads_by_time, forgets, joins_tables,
    keeps_out_what_the_profile_cannot_have, takes_spans_as_people_write_them, pickles,
)  # fmt: skip

_number = itertools.count()


def maker(url: str, **settings: Any) -> tuple[Make, Callable[[], None]]:
    """What opens stores at ``url`` in a namespace of their own, and what closes them all."""
    opened: list[OutcomeStore] = []
    namespace = f"t{next(_number)}"

    def make(**options: Any) -> OutcomeStore:
        opened.append(OutcomeStore(url, **{"namespace": namespace, **settings, **options}))
        return opened[-1]

    def close() -> None:
        for store in opened:
            store.close()

    return make, close
