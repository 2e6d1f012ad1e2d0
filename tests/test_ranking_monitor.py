"""Ranked lists and what came of them: each counted once when mature, figures as computed directly, bounded memory."""

from __future__ import annotations

import math
import os
import pickle
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from monitoring import Clock, own_name
from receiver import Receiver, run

from otel_mlobs import semconv
from otel_mlobs.core import rankings
from otel_mlobs.core.outcomes import wilson
from otel_mlobs.core.rankings import Catalogue, Panes, SlateSums
from otel_mlobs.stores.outcome_store import OutcomeStore
from otel_mlobs.telemetry import collected
from otel_mlobs.telemetry.ranking_series import NO_CURRENCY
from otel_mlobs.telemetry.slates import RankingMonitor
from otel_mlobs.testing import Telemetry

pd = pytest.importorskip("pandas")
ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score


@pytest.fixture
def clock() -> Clock:
    """A clock for the monitors of the test and their stores."""
    return Clock(1_000_000.0)


def _monitor(clock: Clock, **options: Any) -> RankingMonitor:
    store = options.pop("outcomes", None) or OutcomeStore(clock=clock)
    defaults: dict[str, Any] = {"model": own_name("ranker"), "version": "1", "k": 3, "maturity": 600}
    return RankingMonitor(**{**defaults, **options}, outcomes=store, clock=clock)


ITEMS = ["a", "b", "c", "d", "e"]


def test_a_list_counts_once_when_it_is_mature(clock: Clock) -> None:
    """Not before; with the events that came until then; and however often one looks."""
    monitor = _monitor(clock)
    shown = monitor.shown(ITEMS)
    monitor.outcome("b", shown)
    assert monitor.status().slates == 0
    clock.now += 600
    for _ in range(3):
        status = monitor.status()
        assert status.slates == 1
        assert status.events["click"].hit_rate.value == 1.0
        assert status.events["click"].reciprocal_rank.value == 0.5
        clock.now += 10
    monitor.outcome("a", shown)
    status = monitor.status()
    assert status.events["click"].reciprocal_rank.value == 0.5, "a late event changes no figure"
    assert status.results == {"joined": 1, "late": 1}


def test_an_event_counts_once_per_item_and_kind(clock: Clock) -> None:
    """Three clicks on one item are one; a purchase of it is another kind; two items at once are two."""
    monitor = _monitor(clock)
    shown = monitor.shown(ITEMS)
    for _ in range(3):
        monitor.outcome("a", shown)
    monitor.outcome("a", shown, event="purchase", value=5.0, currency="EUR")
    monitor.outcome(["c", "e"], shown)
    clock.now += 600
    status = monitor.status()
    assert status.results == {"joined": 4, "duplicate": 2}
    assert [figure.value for figure in status.events["click"].by_position] == [1.0, 0.0, 1.0, 0.5]
    assert [figure.value for figure in status.events["purchase"].by_position] == [1.0, 0.0, 0.0, 0.0]
    assert status.events["click"].rate.value == 3 / 5


def test_figures_are_those_of_a_direct_computation(clock: Clock) -> None:
    """Hit rate, MRR, NDCG@k of each kind and with gains, rate by place, their intervals: from the lists themselves."""
    rng = np.random.default_rng(5)
    k, gains = 4, {"click": 1.0, "purchase": 3.0}
    monitor = _monitor(clock, k=k, gains=gains)
    lists, expected = 200, {kind: _Direct(k) for kind in ("click", "purchase", "any")}
    for _ in range(lists):
        length = int(rng.integers(2, 9))
        items = [f"i{one}" for one in rng.choice(50, length, replace=False)]
        shown = monitor.shown(items)
        relevance = dict.fromkeys(items, 0.0)
        acted: dict[str, set[int]] = {"click": set(), "purchase": set()}
        for kind, odds in (("click", 0.25), ("purchase", 0.1)):
            for place, item in enumerate(items):
                if rng.random() < odds:
                    acted[kind].add(place)
                    relevance[item] = max(relevance[item], gains[kind])
                    monitor.outcome(item, shown, event=kind)
        for kind, places in acted.items():
            expected[kind].add([float(place in places) for place in range(length)])
        expected["any"].add(list(relevance.values()))
        clock.now += 1
    clock.now += 600
    status = monitor.status()
    assert status.slates == lists
    for kind, direct in expected.items():
        found = status.events[kind]
        for figure, values in (
            (found.hit_rate, direct.hits),
            (found.reciprocal_rank, direct.reciprocal_ranks),
            (found.ndcg, direct.ndcgs),
        ):
            assert figure.value == pytest.approx(np.mean(values), abs=1e-12)
            assert figure.lower < figure.value < figure.upper
        error = 1.959964 * np.std(direct.ndcgs, ddof=1) / math.sqrt(lists)
        assert found.ndcg.upper - found.ndcg.value == pytest.approx(error, rel=1e-6)
        lower, upper = wilson(sum(direct.hits), lists)
        assert (found.hit_rate.lower, found.hit_rate.upper) == (float(lower), float(upper))
        for place, figure in enumerate(found.by_position):
            acted_there = sum(direct.acted[place])
            assert figure.value == pytest.approx(acted_there / len(direct.acted[place]), abs=1e-12)


class _Direct:
    """The measures of lists, one by one; NDCG as scikit-learn has it."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.hits: list[float] = []
        self.reciprocal_ranks: list[float] = []
        self.ndcgs: list[float] = []
        self.acted: list[list[bool]] = [[] for _ in range(k + 1)]

    def add(self, relevance: list[float]) -> None:
        places = [place for place, worth in enumerate(relevance, start=1) if worth]
        self.hits.append(float(any(place <= self.k for place in places)))
        self.reciprocal_ranks.append(1 / places[0] if places else 0.0)
        order = [list(range(len(relevance), 0, -1))]
        self.ndcgs.append(float(ndcg_score([relevance], order, k=self.k)) if places else 0.0)
        for place, worth in enumerate(relevance):
            self.acted[min(place, self.k)].append(bool(worth))


def _exported(telemetry: Telemetry, monitor: RankingMonitor) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for name, points in telemetry.metrics.items():
        for point in points:
            labels: dict[str, Any] = dict(point.attributes or {})
            if name.startswith("mlobs.ranking.") and labels.pop("mlobs.model.name") == monitor.model:
                assert labels.pop("mlobs.model.version", None) == monitor.version
                keys = ("mlobs.ranking.event", "mlobs.ranking.position", "mlobs.currency")
                rest = tuple(labels.pop(key) for key in keys if key in labels)
                assert not labels
                found.setdefault(name.removeprefix("mlobs.ranking."), {})[rest] = point.value
    return found


def test_the_series_exactly(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Every series from zero on, and the sums of two lists; gauges of what was shown."""
    monitor = _monitor(clock, k=2, gains={"click": 1, "purchase": 3}, catalogue_size=10)
    kinds, places = ("click", "purchase", "any"), ("01", "02", "rest")
    by_kind = {(kind,): 0.0 for kind in kinds}
    zeros = {
        "slates": {(): 0},
        "hits": by_kind,
        "reciprocal_rank": by_kind,
        "ndcg": by_kind,
        "impressions": {(place,): 0 for place in places},
        "events": {(kind, place): 0 for kind in kinds for place in places},
        "catalogue.coverage": {(): 0.0},
    }
    assert _exported(mlobs_telemetry, monitor) == zeros
    first, second = monitor.shown(ITEMS), monitor.shown(["a"])
    monitor.outcome("c", first, value=2.0, currency="EUR")
    monitor.outcome("a", second, value=2.5, currency="EUR")
    monitor.outcome("a", second, event="purchase", value=40.0)
    clock.now += 600
    monitor.tick()
    found = _exported(mlobs_telemetry, monitor)
    assert found["slates"] == {(): 2}
    assert found["impressions"] == {("01",): 2, ("02",): 1, ("rest",): 3}
    assert found["hits"] == {("click",): 1, ("purchase",): 1, ("any",): 1}
    assert found["reciprocal_rank"] == {("click",): 1 + 1 / 3, ("purchase",): 1, ("any",): 1 + 1 / 3}
    assert found["ndcg"] == {("click",): 1, ("purchase",): 1, ("any",): 1}
    events = {key: value for key, value in found["events"].items() if value}
    assert events == {
        ("click", "01"): 1,
        ("click", "rest"): 1,
        ("purchase", "01"): 1,
        ("any", "01"): 1,
        ("any", "rest"): 1,
    }
    assert found["value"] == {("click", "EUR"): 4.5, ("purchase", NO_CURRENCY): 40.0}
    assert found["catalogue.coverage"] == {(): 0.5}
    assert found["catalogue.share"] == {(): pytest.approx(2 / 6)}


def test_two_monitors_of_a_model_are_one_series(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """They share a store or not; with other settings the second is refused."""
    one = _monitor(clock, model="shared")
    two = _monitor(clock, model="shared")
    one.shown(ITEMS)
    two.shown(ITEMS)
    clock.now += 600
    one.tick()
    two.tick()
    assert _exported(mlobs_telemetry, one)["slates"] == {(): 2}
    with pytest.raises(ValueError, match="k must be 3, as of the other monitor of model 'shared', version '1', got 5"):
        _monitor(clock, model="shared", k=5)


def test_monitors_that_share_a_store_count_each_list_once(clock: Clock) -> None:
    """Whoever comes first counts a mature list, all of them at once; another one does not again."""
    store = OutcomeStore(clock=clock)
    shows = _monitor(clock, model="fleet", version="a", outcomes=store)
    other = _monitor(clock, model="fleet", version="a", outcomes=store)
    for _ in range(1_500):
        shows.shown(ITEMS)
    clock.now += 600
    other.tick()
    assert other._book.figures(clock.now)[0] == 1_500
    shows.tick()
    assert shows.status().slates == 1_500


@pytest.mark.parametrize(
    "items",
    [
        [1, 2, 3],
        (1, 2, 3),
        np.array([1, 2, 3]),
        pd.Series([1, 2, 3], index=[7, 8, 9]),
        [("1", 0.9), ("2", 0.8), ("3", 0.1)],
        [{"id": 1}, {"item": 2}, {"item_id": "3", "score": 1}],
        [SimpleNamespace(id=1), SimpleNamespace(id="2"), SimpleNamespace(id=3)],
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_a_list_may_hold(clock: Clock, items: Any) -> None:
    """Ids, pairs, mappings, objects: an event names the item by its id, as text or as a number."""
    monitor = _monitor(clock)
    shown = monitor.shown(items)
    monitor.outcome("2", shown)
    monitor.outcome(3, shown)
    monitor.outcome({"id": 3}, shown)
    clock.now += 600
    status = monitor.status()
    assert [figure.value for figure in status.events["click"].by_position[:3]] == [0.0, 1.0, 1.0]
    assert status.results["duplicate"] == 1


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (42, "what is shown must be a list of items, the best first, got a int"),
        ("abc", "what is shown must be a list of items, the best first, got a str"),
        ({"a": 1}, "what is shown must be a list of items"),
        ({1, 2}, "what is shown must be a list of items, the best first, got a set"),
        (iter([1]), "not an iterator"),
        ([None], "an item must be an id, .* got None"),
        ([[[]]], "an item must be an id, .* got a list"),
        ([{"sku": "a"}], "a mapping with one as 'id', 'item' or 'item_id', .* got a dict without them"),
        ([{"id": None}], "got a dict without them"),
        ([{1}], "got a set"),
        (["a", object()], r"an object with an \.id, got a object"),
        (pd.DataFrame({"id": [1]}), "got a DataFrame"),
        (object(), "got a object"),
    ],
)
def test_what_is_no_list_is_refused(
    mlobs_telemetry: Telemetry, caplog: pytest.LogCaptureFixture, clock: Clock, items: Any, message: str
) -> None:
    """Nothing raises or is registered, an id comes back; it is counted each time and said once, with what to do."""
    monitor = _monitor(clock)
    assert monitor.shown(items, "mine") == "mine"
    monitor.shown(items)
    assert monitor.status().results == {"refused": 2}
    (said,) = [record for record in caplog.records if record.name == "otel_mlobs"]
    assert re.search(f"ranking of model '{monitor.model}': a list was not registered: .*{message}", said.getMessage())
    assert said.getMessage().endswith('(said once; counted as "refused" in status().results)')
    assert said.exc_info is None
    assert mlobs_telemetry.point("mlobs.internal.errors", mlobs__internal__component="ranking").value > 0
    clock.now += 600
    assert monitor.status().slates == 0


def test_an_event_of_no_item_costs_no_other_its_own(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and said once; the items told with it are joined."""
    monitor = _monitor(clock)
    shown = monitor.shown(ITEMS)
    monitor.outcome([None, "a", {"sku": 1}], shown)
    monitor.outcome(None, shown)
    assert monitor.status().results == {"joined": 1, "refused": 3}
    said = [record.getMessage() for record in caplog.records if record.name == "otel_mlobs"]
    assert len(said) == 2
    assert all("an event was not counted: an item must be an id" in one for one in said)


def test_a_status_prints_as_a_table(clock: Clock) -> None:
    """The figures with their intervals, by place, the catalogue, and what became of the events, each explained."""
    monitor = _monitor(clock, model="printed", version="7", catalogue_size=50, k=3)
    empty = str(monitor.status()).splitlines()
    assert empty[0] == "printed 7 · 0 mature lists in 3600 s"
    assert empty[2].split() == ["click", "-", "-", "-", "-"]
    assert empty[-1] == "of what this process was told: nothing yet."
    first, _ = monitor.shown(ITEMS), monitor.shown(["a", "b"])
    for item in ("b", "b", "hat"):
        monitor.outcome(item, first)
    monitor.outcome("a", "nobody knows")
    monitor.shown("no list")
    assert str(monitor.status()).splitlines()[-2] == (
        "shown, mature or not: 5 different items, 10.0% of the catalogue, 28.6% of the places to the tenth that is "
        "shown most."
    )
    clock.now += 600
    monitor.tick()
    monitor.outcome("a", first)
    lines = str(monitor.status()).splitlines()
    assert lines[0] == "printed 7 · 2 mature lists in 3600 s"
    assert re.split(r" {2,}", lines[1]) == ["event", "hit rate", "reciprocal rank", "NDCG@3", "rate per item shown"]
    assert re.split(r" {2,}", lines[2])[:3] == ["click", "0.5 (0.0945, 0.905)", "0.25 (0, 0.74)"]
    assert len({line.index("0.5 (") for line in (lines[2], lines[4])} | {lines[1].index("hit rate")}) == 1
    assert lines[5] == "rate of click by place: 1: 0, 2: 0.5, 3: 0, rest: 0"
    assert lines[-1] == (
        "of what this process was told: 2 joined, 1 duplicate (told before), 1 late (the list was counted before: in "
        "no figure), 1 unknown (no such list), 1 misplaced (joined to a list that does not hold the item: in no "
        "figure), 1 refused (a list or an item without an id)."
    )


def test_an_empty_list_is_no_list(clock: Clock) -> None:
    """Nothing was shown."""
    monitor = _monitor(clock)
    monitor.shown([])
    clock.now += 600
    assert monitor.status().slates == 0


def test_ids_are_the_callers_or_made(lenient: None, clock: Clock) -> None:
    """Made ones differ; one that no label could name again is replaced."""
    monitor = _monitor(clock)
    assert monitor.shown(ITEMS, "request-1") == "request-1"
    made = {monitor.shown(ITEMS), monitor.shown(ITEMS), monitor.shown(ITEMS, 0.5)}
    assert len(made) == 3
    assert all(made)


def test_names_are_bounded_and_cannot_break_a_payload(clock: Clock) -> None:
    """Long names are cut, separators replaced, the same way when the event comes; of a long list 1,000 places count."""
    monitor = _monitor(clock)
    odd = ["x" * 10_000, "a\x1fb", "\udcff", "", *map(str, range(3_000))]
    shown = monitor.shown(odd)
    for item in odd[:4]:
        monitor.outcome(item, shown)
    monitor.outcome(str(2_999), shown)
    clock.now += 600
    status = monitor.status()
    assert [figure.value for figure in status.events["click"].by_position[:3]] == [1.0, 1.0, 1.0]
    assert status.events["click"].rate.value == 4 / 1_000
    assert status.results == {"joined": 5, "misplaced": 1}


def test_an_item_shown_twice_counts_at_its_first_place(clock: Clock) -> None:
    """One event is one place."""
    monitor = _monitor(clock)
    shown = monitor.shown(["a", "b", "a"])
    monitor.outcome("a", shown)
    clock.now += 600
    assert [figure.value for figure in monitor.status().events["click"].by_position[:3]] == [1.0, 0.0, 0.0]


def test_events_that_find_nothing(clock: Clock) -> None:
    """Unknown lists, and lists of another model, are counted as unknown."""
    store = OutcomeStore(clock=clock)
    one, other = _monitor(clock, outcomes=store), _monitor(clock, outcomes=store)
    one.outcome("a", "nobody knows")
    one.outcome("a", other.shown(ITEMS))
    assert one.status().results == {"unknown": 2}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"event": "share"}, ValueError, "event must be one of click, purchase, got 'share'"),
        ({"prediction_id": None}, TypeError, "a prediction's id must be text"),
        ({"value": -1.0}, ValueError, "value"),
        ({"value": 1.0, "currency": "euro"}, ValueError, "currency"),
        ({"time": "now"}, ValueError, "time must be a number"),
    ],
)
def test_an_impossible_event_raises(
    clock: Clock, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Whoever writes the call is told at once."""
    monitor = _monitor(clock)
    with pytest.raises(error, match=message):
        monitor.outcome(**{"items": "a", "prediction_id": "x", **arguments})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": ""}, TypeError, "model must be text"),
        ({"k": 0}, ValueError, "k must be a whole number from 1 to 100, got 0"),
        ({"k": 101}, ValueError, "k must be"),
        ({"outcomes": "redis://"}, TypeError, "outcomes must be a store"),
        ({"maturity": "soon"}, ValueError, "maturity must be positive seconds"),
        ({"events": "click"}, TypeError, "events must be a list of words"),
        ({"events": ["any"]}, ValueError, "an event must be a word"),
        ({"events": ["a:b"]}, ValueError, "an event must be a word"),
        ({"events": ["a", "a"]}, ValueError, "events must be at most 10, each once"),
        ({"gains": {"click": 1}}, ValueError, "gains must have one number for each of click, purchase"),
        ({"gains": {"click": 1, "purchase": -3}}, ValueError, "must be a number from 0, got -3"),
        ({"catalogue_size": 0}, ValueError, "catalogue_size must be a whole number from 1, got 0"),
        ({"window": 0}, ValueError, "window must be a number from 1, got 0"),
        ({"clock": 5}, TypeError, "clock must be a callable"),
    ],
)
def test_impossible_settings_raise(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Early, with the value."""
    with pytest.raises(error, match=message):
        RankingMonitor(**{"model": "m", "outcomes": OutcomeStore(), **options})


def test_a_closed_monitor_takes_nothing_more(clock: Clock) -> None:
    """Later lists and events are ignored; an id comes back all the same."""
    monitor = _monitor(clock)
    monitor.close()
    assert monitor.shown(ITEMS)
    monitor.outcome("a", "x")
    clock.now += 600
    assert monitor.status().slates == 0
    assert monitor.status().results == {}


def test_a_closed_monitor_leaves_what_waits_to_others(clock: Clock) -> None:
    """Lists that are not mature yet stay in the store, for whoever shares it."""
    store = OutcomeStore(clock=clock)
    closed, other = (_monitor(clock, model="handed over", outcomes=store) for _ in range(2))
    closed.shown(ITEMS)
    closed.close()
    clock.now += 600
    assert closed.tick() > clock.now
    assert other._book.figures(clock.now)[0] == 0
    assert other.status().slates == 1


def test_a_new_currency_begins_at_zero(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus computes no rate from what it first sees above zero: the value follows one collection later."""
    monkeypatch.setattr(collected, "_holding", True)
    monitor = _monitor(clock)
    book = monitor._book
    assert collected._observations(book, semconv.RANKING_VALUE, counts=True) == []
    collected.settle()
    monitor.outcome("a", monitor.shown(ITEMS), value=2.0, currency="EUR")
    clock.now += 600
    monitor.tick()
    seen = []
    for _ in range(2):
        found = collected._observations(book, semconv.RANKING_VALUE, counts=True)
        seen.append(([one.value for one in found], bool(book.announcing)))
    assert seen == [([0.0], True), ([2.0], False)]


def test_currencies_are_bounded(clock: Clock) -> None:
    """Whatever clients send as one: beyond 32 of each kind of event all others are one."""
    monitor = _monitor(clock, events=["click"])
    shown = monitor.shown([f"i{index}" for index in range(40)])
    for index in range(40):
        monitor.outcome(f"i{index}", shown, value=1.0, currency=f"A{chr(65 + index // 26)}{chr(65 + index % 26)}")
    clock.now += 600
    monitor.tick()
    values = {
        labels["mlobs.currency"]: value for value, labels in monitor._book.points(semconv.RANKING_VALUE, zero=False)
    }
    assert len(values) == 33
    assert values[NO_CURRENCY] == 8.0


def test_it_pickles_as_its_settings() -> None:
    """A monitor is part of a model that is sent to workers; each begins with nothing."""
    monitor = RankingMonitor(model="pickled", k=5, outcomes=OutcomeStore(), events=["click"], maturity="1h")
    copy = pickle.loads(pickle.dumps(monitor))
    assert copy._settings == {**monitor._settings, "outcomes": copy._store}
    assert repr(copy) == "RankingMonitor(model='pickled', version=None, k=5)"


def test_a_store_that_is_down_costs_no_request(lenient: None, clock: Clock) -> None:
    """What cannot be claimed now is claimed when the store answers again."""
    store = OutcomeStore(clock=clock)
    monitor = _monitor(clock, outcomes=store)
    monitor.shown(ITEMS)
    clock.now += 600
    claim = store.claim

    def down(*_: Any, **__: Any) -> Any:
        raise ConnectionError

    store.claim = down  # type: ignore[method-assign]
    monitor.shown(ITEMS)
    assert monitor.status().slates == 0
    store.claim = claim  # type: ignore[method-assign]
    clock.now += 60
    assert monitor.status().slates == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_counts_its_own(clock: Clock) -> None:
    """From zero, with locks that nobody holds, under ids of its own."""
    monitor = _monitor(clock)
    parents = monitor.shown(ITEMS)
    reading, writing = os.pipe()
    with monitor._book._lock:
        child = os.fork()
        if child == 0:
            mine = monitor.shown(ITEMS)
            clock.now += 600
            found = (monitor.status().slates, mine[:16] != parents[:16])
            os.write(writing, repr(found).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"(1, True)"
    clock.now += 600
    assert monitor.status().slates == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_without_any_monitor_of_drift_has_a_keeper_and_ids_of_its_own() -> None:
    """What a process starts once is started again in the child, whoever asked for it first."""
    script = """
import os, time
from otel_mlobs.stores.outcome_store import OutcomeStore
from otel_mlobs.telemetry.slates import RankingMonitor
monitor = RankingMonitor(model="m", outcomes=OutcomeStore(), maturity=0.2)
parents = monitor.shown(["a"])
child = os.fork()
if child == 0:
    mine = monitor.shown(["a"])
    deadline = time.monotonic() + 30
    while not monitor.status().slates and time.monotonic() < deadline:
        time.sleep(0.05)
    os._exit(0 if monitor.status().slates == 1 and mine[:16] != parents[:16] else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(script).out == "0\n"


def test_the_keeper_counts_what_is_mature_by_the_real_clock() -> None:
    """Through our own pipeline: zero first, then the list and its value, in a process that only waits."""
    script = """
import time
from otel_mlobs.stores.outcome_store import OutcomeStore
from otel_mlobs.telemetry.slates import RankingMonitor
mlobs.configure("svc", endpoint=os.environ["TO"])
monitor = RankingMonitor(model="m", outcomes=OutcomeStore(), maturity=0.5)
shown = monitor.shown(["a", "b"])
monitor.outcome("b", shown, value=3.0, currency="EUR")
deadline = time.monotonic() + 30
while not monitor.status().slates and time.monotonic() < deadline:
    time.sleep(0.05)
print(mlobs.shutdown())
"""
    with Receiver() as receiver:
        ran = run(script, env={"TO": receiver.url})
        assert (ran.out, ran.err) == ("True\n", "")
        assert receiver.total("mlobs.ranking.slates") == 1
        assert receiver.total("mlobs.ranking.value") == 3.0
        for name in ("slates", "hits", "reciprocal_rank", "ndcg", "events", "impressions", "value"):
            assert set(receiver.first_values(f"mlobs.ranking.{name}")) == {0.0}


# -- the numbers ------------------------------------------------------------------------------------------------------


def test_a_window_forgets_and_totals_do_not() -> None:
    """What is older than the window is in no figure; a clock that is a little behind, as another thread's, is now."""
    panes = Panes(1, 120.0)
    one = np.ones(1)
    for now in (1000.0, 1009.0, 1060.0, 1055.0):
        panes.add(now, one)
    assert panes.window(1060.0)[0] == 4
    assert panes.window(1119.0)[0] == 4
    assert panes.window(1125.0)[0] == 2
    assert panes.window(1200.0)[0] == 0
    assert panes.total[0] == 4
    panes.add(1e6, one)
    panes.add(1000.0, one)
    assert panes.window(1000.0)[0] == 1, "a clock that was set back by far begins again"


def test_a_list_shorter_than_k_has_no_places_beyond_its_end() -> None:
    """Impressions are what was shown."""
    sums = SlateSums(["click"], {"click": 1.0}, 3, 60.0)
    sums.add(0.0, 2, {"click": [2]})
    sums.add(0.0, 5, {})
    totals = sums.totals()
    assert totals.shown == [2, 2, 1, 2]
    assert totals.kinds["click"].by_position == [0, 1, 0, 0]


def test_figures_without_lists_are_unknown() -> None:
    """NaN, not zero; of one list a mean has no interval."""
    sums = SlateSums(["click"], {"click": 1.0}, 3, 60.0)
    _, figures = sums.figures(0.0)
    assert all(math.isnan(one) for one in (*figures["click"].ndcg, *figures["any"].hit_rate))
    sums.add(0.0, 2, {"click": [2]})
    _, figures = sums.figures(0.0)
    assert figures["click"].reciprocal_rank.value == 0.5
    assert math.isnan(figures["click"].reciprocal_rank.lower)


def test_the_catalogue_by_name() -> None:
    """Exact: different items of the window, coverage, and the share of the most shown tenth."""
    catalogue = Catalogue(100, 120.0)
    assert math.isnan(catalogue.figures(0.0).concentration)
    catalogue.add(0.0, [f"i{index}" for index in range(20)])
    for _ in range(10):
        catalogue.add(5.0, ["i1", "i2"])
    found = catalogue.figures(5.0)
    assert (found.items, found.coverage, found.exact) == (20, 0.2, True)
    assert found.concentration == 22 / 40
    catalogue.add(1.0, ["i3"])
    assert catalogue.figures(5.0).items == 20, "another thread that read the clock a little earlier counts as now"
    assert catalogue.figures(125.0).items == 0


def test_a_catalogue_keeps_what_came_when_a_thread_is_behind() -> None:
    """A list of the last pane, by another thread's clock, does not undo the running one."""
    catalogue = Catalogue(None, 120.0)
    catalogue.add(15.0, ["a"])
    catalogue.add(9.0, ["b"])
    assert catalogue.figures(15.0).items == 2
    assert catalogue.figures(125.0).items == 2


@pytest.mark.parametrize("distinct", [150_000, 1_000_000])
def test_the_catalogue_in_buckets(distinct: int) -> None:
    """Beyond 100,000 names: within 2% of the truth, in bounded memory, and what leaves the window is forgotten."""
    catalogue = Catalogue(2 * distinct, 120.0)
    names = [f"item {index}" for index in range(distinct)]
    for start in range(0, distinct, 1_000):
        catalogue.add(start / distinct * 50, names[start : start + 1_000])
    popular = names[: distinct // 10]
    for start in range(0, len(popular), 1_000):
        for _ in range(9):
            catalogue.add(50.0, popular[start : start + 1_000])
    found = catalogue.figures(50.0)
    assert not found.exact
    assert found.items == pytest.approx(distinct, rel=0.02)
    assert found.coverage == pytest.approx(0.5, rel=0.02)
    assert not catalogue._by_name
    assert len(catalogue._buckets or ()) <= rankings._PANES
    assert catalogue.figures(1_000.0).items == 0


def test_concentration_in_buckets_is_near_the_truth() -> None:
    """Items that share a bucket are taken as one: with half as many items as buckets that moves it by a few percent."""
    catalogue = Catalogue(None, 120.0)
    names = [f"item {index}" for index in range(120_000)]
    shown = [*names, *(names[:12_000] * 9)]
    for start in range(0, len(shown), 1_000):
        catalogue.add(0.0, shown[start : start + 1_000])
    found = catalogue.figures(0.0)
    assert math.isnan(found.coverage)
    assert found.concentration == pytest.approx(120_000 / 228_000, rel=0.06)
