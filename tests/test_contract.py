"""The data contract of a profile: what breaks it, found in a row on request and counted in what is observed."""

from __future__ import annotations

import decimal
import itertools
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitoring import Clock, own_name

from otel_mlobs import Monitor, semconv
from otel_mlobs.core import tally as tally_room
from otel_mlobs.core.binning import MatrixCounter, count_outside
from otel_mlobs.core.contract import KINDS, Violation, kinds_of
from otel_mlobs.core.profile import Profile
from otel_mlobs.core.tally import Tally
from otel_mlobs.telemetry import monitor as module
from otel_mlobs.testing import Telemetry

pd = pytest.importorskip("pandas")

ROWS = 400


def _profile(**changes: Any) -> Profile:
    """Numbers from 20 to 60; numbers that may be missing or infinite; two cities; cities with others; a flag."""
    rng = np.random.default_rng(3)
    loose = rng.normal(size=ROWS)
    loose[:5], loose[5:9] = np.nan, np.inf
    rare = rng.choice(["Rome", "Oslo"], ROWS).astype(object)
    rare[:3], rare[3:6] = [f"village {index}" for index in range(3)], None
    data: dict[str, Any] = {
        "age": np.concatenate([[20.0, 60.0], rng.uniform(20, 60, ROWS - 2)]),
        "loose": loose,
        "city": rng.choice(["Rome", "Oslo"], ROWS),
        "place": rare,
        "flag": rng.random(ROWS) < 0.5,
    }
    return Profile.fit(data, **{"model": own_name("contract"), **changes})


PROFILE = _profile()
NUMBERS = Profile.fit(
    {
        "age": np.linspace(20.0, 60.0, 300),
        "loose": np.concatenate([np.linspace(-2, 2, 298), [np.nan, np.inf]]),
    },
    model="numbers",
)
FINE: dict[str, Any] = {"age": 30.0, "loose": 0.1, "city": "Rome", "place": "Oslo", "flag": True}


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    for one in list(module._monitors):
        one.close()


def _broken(inputs: Any, profile: Profile = PROFILE) -> list[tuple[str | None, str, int | None]]:
    return [(one.feature, one.kind, one.row) for one in Monitor(profile).check(inputs)]


def test_the_kinds_that_can_occur() -> None:
    """What the reference has itself is no violation: missing values, infinities, categories without a cell."""
    assert {column.name: kinds_of(column) for column in PROFILE.features} == {
        "age": ("type", "range", "missing"),
        "loose": ("type", "range"),
        "city": ("type", "category", "missing"),
        "place": ("type",),
        "flag": ("type", "category", "missing"),
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"age": 20}, None),
        ({"age": 60.0}, None),
        ({"age": np.float32(60.0)}, None),
        ({"age": decimal.Decimal(30)}, None),
        ({"age": True}, ("age", "range")),
        ({"age": 60.001}, ("age", "range")),
        ({"age": -1e300}, ("age", "range")),
        ({"age": "30"}, ("age", "type")),
        ({"age": math.inf}, ("age", "type")),
        ({"age": 10**400}, ("age", "type")),
        ({"age": [30]}, ("age", "type")),
        ({"age": object()}, ("age", "type")),
        ({"age": math.nan}, ("age", "missing")),
        ({"age": None}, ("age", "missing")),
        ({"age": pd.NA}, ("age", "missing")),
        ({"loose": math.nan}, None),
        ({"loose": -math.inf}, None),
        ({"loose": 50}, ("loose", "range")),
        ({"loose": "0"}, ("loose", "type")),
        ({"city": "Ur"}, ("city", "category")),
        ({"city": 3}, ("city", "category")),
        ({"city": None}, ("city", "missing")),
        ({"city": ["Rome"]}, ("city", "type")),
        ({"city": b"Rome"}, ("city", "type")),
        ({"place": "Ur"}, None),
        ({"place": None}, None),
        ({"place": {}}, ("place", "type")),
        ({"flag": 1}, None),
        ({"flag": 2}, ("flag", "category")),
        ({"flag": "yes"}, ("flag", "category")),
    ],
)
def test_a_value_by_value(changes: dict[str, Any], expected: tuple[str, str] | None) -> None:
    """Each value breaks the contract as documented, or keeps it; and the counter says the same of the observed row."""
    row = {**FINE, **changes}
    found = Monitor(PROFILE).check(row)
    assert [(one.feature, one.kind) for one in found] == ([] if expected is None else [expected])
    assert _counted(PROFILE, [row]) == Counter([] if expected is None else [expected])


def _counted(profile: Profile, observed: list[Any], **options: Any) -> Counter[tuple[str, str]]:
    tally = Tally(profile, **options)
    totals = tally.counter.table()
    for inputs in observed:
        tally.add_inputs(inputs)
    table = tally.fold()
    if table is not None:
        totals += table
    found = tally.violations(totals)
    return Counter(
        {
            (name, kind): int(found[index, position])
            for index, name in enumerate(profile.names)
            for position, kind in enumerate(KINDS)
            if found[index, position]
        }
    )


def test_a_missing_key_is_a_missing_value() -> None:
    """Of a key that the profile does not know nothing is said here: it is in ``status().unknown``."""
    assert _broken({**{name: FINE[name] for name in ("loose", "place", "flag")}, "other": 1}) == [
        ("age", "missing", None),
        ("city", "missing", None),
    ]


def test_messages_tell_what_was_expected_and_no_value_unless_asked() -> None:
    """A refusal may go back to the client or into a log: values only where somebody wants them there."""
    row = {"age": 212.0, "loose": "x" * 500, "city": "secret", "place": None, "flag": None}
    monitor = Monitor(PROFILE)
    messages = [one.message for one in monitor.check(row)]
    assert messages == [
        "age is out of the reference's range, 20 to 60",
        "loose must be a finite number, got a str",
        "city is of a category that the reference does not have",
        "flag is missing: the reference has it in every row",
    ]
    told = [one.message for one in monitor.check(row, values=True)]
    assert told[0] == f"{messages[0]}: 212.0"
    assert told[2] == f"{messages[2]}: 'secret'"
    assert told[3] == messages[3]
    assert len(told[1]) < 140


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, np.float32("inf"), 10**400], ids=["inf", "-inf", "float32", "int"]
)
def test_an_infinite_number_is_not_said_to_be_a_float(value: Any) -> None:
    """A float is what was expected; that it is infinite is what is wrong, and the value stays unsaid."""
    (found,) = Monitor(PROFILE).check({**FINE, "age": value})
    assert found.message == "age must be a finite number, got an infinite one"


class _Hostile:
    """A value all of whose methods raise."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError


class _Torn(dict[str, Any]):
    """A mapping that cannot be read."""

    def keys(self) -> Any:
        raise OSError


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (42, "inputs of type int are neither a row nor a batch"),
        (None, "inputs of type NoneType"),
        ((1.0, 2.0), "a row of 2 values, where the profile has 5 features"),
        (np.zeros((3, 4)), "an array of shape (3, 4)"),
        (_Torn(a=1), "OSError while reading a _Torn"),
        ({**FINE, "age": [1.0], "loose": [1.0, 2.0], "city": ["Rome"], "place": ["Rome"], "flag": [True]}, "differ"),
    ],
)
def test_what_is_no_row_is_one_violation(inputs: Any, message: str) -> None:
    """Of no feature, of kind ``type``: whoever refuses what breaks the contract refuses this, too."""
    (found,) = Monitor(PROFILE).check(inputs)
    assert (found.feature, found.kind, found.row) == (None, "type", None)
    assert message in found.message


def test_a_vector_keeps_the_contract_of_its_measures() -> None:
    """Checked as it is counted: too long a vector, one of the wrong size, none at all; in a row and in a batch."""
    vectors = np.random.default_rng(0).normal(0.2, 1.0, (500, 8))
    profile = Profile.fit({"age": np.arange(500.0)}, embeddings={"user": vectors}, model="vectors")
    measures = ("user.norm", "user.dispersion", "user.distance")
    assert _broken({"age": 3.0, "user": vectors[0]}, profile) == []
    assert ("user.norm", "range", None) in _broken({"age": 3.0, "user": vectors[0] * 100}, profile)
    assert _broken({"age": 3.0, "user": [1.0, 2.0]}, profile) == [(name, "type", None) for name in measures]
    assert _broken({"age": 3.0}, profile) == [(name, "missing", None) for name in measures]
    batch = {"age": [1.0, 2.0], "user": np.array([vectors[0], vectors[1] * 100])}
    assert {(name, kind, row) for name, kind, row in _broken(batch, profile) if name == "user.norm"} == {
        ("user.norm", "range", 1)
    }
    counted: Counter[tuple[str, str]] = Counter()
    monitor = Monitor(profile)
    for inputs in ({"age": 3.0, "user": vectors[0] * 100}, {"age": 3.0, "user": [1.0, 2.0]}, {"age": 3.0}, batch):
        monitor.observe(inputs)
        counted.update((one.feature or "", one.kind) for one in monitor.check(inputs))
    found = monitor._counting.violations()
    assert counted == {
        (name, kind): int(found[row, column])
        for row, name in enumerate(profile.names)
        for column, kind in enumerate(KINDS)
        if found[row, column]
    }


def test_nothing_that_a_row_holds_raises() -> None:
    """Whatever its values' own methods do."""
    assert [
        (one.feature, one.kind) for one in Monitor(PROFILE).check(dict.fromkeys(FINE, _Hostile()), values=True)
    ] == [(name, "type") for name in PROFILE.names]


def _batches() -> list[Any]:
    columns = {
        "age": [30.0, 70.0, math.nan, 25.0],
        "loose": [0.0, math.nan, math.inf, 99.0],
        "city": ["Rome", "Ur", "Oslo", "Oslo"],
        "place": ["Rome", None, "Ur", "Ur"],
        "flag": [True, False, True, True],
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        columns,
        {name: np.array(values, dtype=object if name == "place" else None) for name, values in columns.items()},
        {name: pd.Series(values, index=[9, 8, 7, 6]) for name, values in columns.items()},
        pd.DataFrame(columns),
        rows,
        [tuple(row.values()) for row in rows],
        np.array([tuple(row.values()) for row in rows], dtype=object),
    ]


@pytest.mark.parametrize("inputs", _batches(), ids=lambda one: type(one).__name__)
def test_a_batch_says_which_rows(inputs: Any) -> None:
    """Rows in order, in each the features in order; in whatever shape the batch comes."""
    expected = [("age", "range", 1), ("city", "category", 1), ("age", "missing", 2), ("loose", "range", 3)]
    assert _broken(inputs) == expected
    assert _counted(PROFILE, [inputs]) == Counter((feature, kind) for feature, kind, _ in expected)


def test_a_row_of_a_list_that_cannot_be_read_is_its_own_trouble() -> None:
    """The others are looked at; the one is a violation of no feature, with its row."""
    assert _broken([FINE, 42, {**FINE, "age": 99}, (1, 2)]) == [
        (None, "type", 1),
        ("age", "range", 2),
        (None, "type", 3),
    ]


def test_a_batch_gives_no_more_than_the_limit() -> None:
    """A column that is null in a million rows is not a million records."""
    batch = {name: [None] * 5_000 for name in FINE}
    monitor = Monitor(PROFILE)
    assert len(monitor.check(batch)) == 1_000
    assert len(monitor.check(batch, limit=3)) == 3
    assert monitor.check([]) == ()


def test_violations_of_a_long_batch_come_in_the_order_of_its_rows() -> None:
    """Whichever column they are found in."""
    matrix = np.column_stack([np.full(100_000, 30.0), np.zeros(100_000)])
    matrix[[70_001, 3, 5_000], [0, 0, 1]] = 99.0
    assert [row for _, _, row in _broken(matrix, NUMBERS)] == [3, 5_000, 70_001]


def test_checking_counts_nothing() -> None:
    """A row that is refused was not observed; one that is checked first is not counted twice."""
    monitor = Monitor(PROFILE)
    monitor.check({**FINE, "age": 99, "who": 1})
    status = monitor.status()
    assert (status.rows, status.refused, dict(status.unknown)) == (0, 0, {})


def test_a_violation_is_frozen_and_comparable() -> None:
    """Two checks of one row are equal."""
    monitor = Monitor(PROFILE)
    one, other = monitor.check({**FINE, "age": 99}), monitor.check({**FINE, "age": 99})
    assert one == other == (Violation("age", "range", "age is out of the reference's range, 20 to 60"),)
    with pytest.raises(AttributeError):
        one[0].kind = "type"  # type: ignore[misc]


def test_the_span_says_the_same() -> None:
    """Where the reference has nothing missing, infinite or rare, the span's counts are those of the violations."""
    rng = np.random.default_rng(1)
    profile = Profile.fit({"x": rng.uniform(0, 1, 500), "c": rng.choice(["a", "b"], 500)}, model="span")
    monitor = Monitor(profile)
    values = [0.5, 2.0, -1.0, None, math.nan, "x", math.inf, [1]]
    for x, c in itertools.product(values, ["a", "z", None, ["a"], math.nan]):
        row = {"x": x, "c": c}
        kinds = Counter(one.kind for one in monitor.check(row))
        odd = monitor._tally.inspect(row)
        assert odd == (kinds["missing"], kinds["range"], kinds["category"] + kinds["type"]), row


# -- counted ----------------------------------------------------------------------------------------------------------

_cells = st.sampled_from([30.0, 20.0, 60.0, 60.5, 19.0, math.nan, math.inf, -math.inf, 1e30])
_loose = st.sampled_from([0.0, 50.0, -50.0, math.nan, math.inf])


@given(
    st.lists(st.tuples(_cells, _loose), min_size=1, max_size=60),
    st.sampled_from(["row", "array", "matrix", "columns", "lists", "frame", "float32"]),
)
def test_counted_in_every_shape_as_checked(rows: list[tuple[float, float]], shape: str) -> None:
    """Row by row, as arrays, as columns: the counters are the sums of what ``check`` says of each row."""
    profile = NUMBERS
    matrix = np.array(rows)
    observed: list[Any] = {
        "row": [dict(zip(profile.names, row, strict=True)) for row in rows],
        "array": list(matrix),
        "matrix": [matrix],
        "float32": [matrix.astype(np.float32)],
        "columns": [dict(zip(profile.names, matrix.T, strict=True))],
        "lists": [{name: column.tolist() for name, column in zip(profile.names, matrix.T, strict=True)}],
        "frame": [pd.DataFrame(matrix, columns=list(profile.names))],
    }[shape]
    monitor = Monitor(profile)
    expected = Counter((one.feature, one.kind) for row in rows for one in monitor.check(row))
    monitor.close()
    assert _counted(profile, observed) == expected


@pytest.mark.parametrize("rows", [1, 100, 70_000])
def test_out_of_range_is_counted_exactly_in_blocks(rows: int) -> None:
    """As numpy counts it, over as many blocks as there are, with missing and infinite values among them."""
    rng = np.random.default_rng(rows)
    matrix = rng.normal(0, 2, (rows, 2))
    matrix[rng.random(matrix.shape) < 0.01] = np.nan
    matrix[rng.random(matrix.shape) < 0.01] = np.inf
    matrix[rng.random(matrix.shape) < 0.01] = -np.inf
    ranges = [(-2.0, 3.0), (-math.inf, math.inf)]
    counter = MatrixCounter([column.bins for column in NUMBERS.features], ranges)
    counted: Counter[int] = Counter()
    for index, times in counter.count(matrix, counter.table()):
        counted[index] += times
    first = matrix[:, 0]
    expected = int(np.count_nonzero(np.isfinite(first) & ((first < -2) | (first > 3))))
    assert counted == Counter({0: expected} if expected else {})
    assert count_outside(first, ranges[0]) == expected


def test_once_per_request_features_break_it_once_a_batch() -> None:
    """Violations are counted as the observations are: what is the request's, once."""
    rng = np.random.default_rng(1)
    batch = np.column_stack([np.full(50, 99.0), rng.uniform(-60, 60, 50)])
    tally_rows = [batch] * 20
    found = _counted(NUMBERS, tally_rows, once_per_request=True)
    assert found["age", "range"] == 20


def test_a_fold_amid_a_row_counts_nothing_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the note of a wrong type and its row another thread may fold: no other kind is counted for it."""
    tally = Tally(PROFILE)
    totals = tally.counter.table()
    tally.add_inputs({**FINE, "city": "Ur"})
    seen: list[list[int]] = []

    def fold() -> None:
        table = tally.fold()
        if table is not None:
            np.add(totals, table, out=totals)
        seen.append(tally.violations(totals)[2].tolist())

    class Folding(tally_room.deque):  # type: ignore[name-defined, misc]
        def append(self, item: Any) -> None:
            fold()
            super().append(item)
            fold()

    fold()
    monkeypatch.setattr(tally, "queued", Folding(tally.queued))
    tally.add_inputs({**FINE, "city": ["Rome"]})
    names = dict(zip(KINDS, zip(*seen, strict=True), strict=True))
    assert names["category"] == (1, 1, 1)
    assert names["type"] == (0, 1, 1)


# -- exported ---------------------------------------------------------------------------------------------------------


def _exported(telemetry: Telemetry, profile: Profile) -> dict[tuple[str, str], float]:
    points = telemetry.metrics.get("mlobs.feature.violations", [])
    found = {}
    for point in points:
        labels = dict(point.attributes or {})
        if labels["mlobs.model.name"] == profile.model:
            assert labels["mlobs.profile.id"] == profile.id
            found[labels["mlobs.feature.name"], labels["mlobs.input.violation"]] = point.value
    return found


def test_the_counter_has_the_kinds_that_can_occur(mlobs_telemetry: Telemetry) -> None:
    """Zero from the start, so that the first violation has a rate; nothing for kinds that cannot come."""
    profile = _profile()
    monitor = Monitor(profile, clock=Clock())
    possible = {(column.name, kind) for column in profile.features for kind in kinds_of(column)}
    assert _exported(mlobs_telemetry, profile) == dict.fromkeys(possible, 0)
    monitor.observe({**FINE, "age": 99, "city": "Ur"})
    monitor.observe({**FINE, "age": None})
    found = {key: value for key, value in _exported(mlobs_telemetry, profile).items() if value}
    assert found == {("age", "range"): 1, ("city", "category"): 1, ("age", "missing"): 1}


def test_the_counter_never_falls_when_a_monitor_ends(mlobs_telemetry: Telemetry) -> None:
    """Two monitors of a profile are one series; what an ended one counted stays in it."""
    profile = _profile()
    monitors = [Monitor(profile, clock=Clock()) for _ in range(2)]
    for number, monitor in enumerate(monitors, start=1):
        for _ in range(number):
            monitor.observe({**FINE, "age": 99})
    assert _exported(mlobs_telemetry, profile)["age", "range"] == 3
    monitors[0].close()
    for _ in range(3):
        assert _exported(mlobs_telemetry, profile)["age", "range"] == 3


def test_threads_lose_nothing_and_the_counter_never_falls(mlobs_telemetry: Telemetry) -> None:
    """Rows and batches from four threads, collected meanwhile: exact in the end, and rising all the way."""
    profile = _profile()
    monitor = Monitor(profile, clock=Clock())
    batch = {**{name: [value] * 40 for name, value in FINE.items()}, "age": [99.0] * 40, "city": [["Rome"], "Ur"] * 20}

    def work() -> None:
        for _ in range(100):
            monitor.observe({**FINE, "city": ["Rome"]})
            monitor.observe({**FINE, "city": "Ur", "age": None})
            monitor.observe(batch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(_exported(mlobs_telemetry, profile))
    for thread in threads:
        thread.join()
    seen.append(_exported(mlobs_telemetry, profile))
    for key in seen[0]:
        values = [one[key] for one in seen]
        assert values == sorted(values), key
    assert {key: value for key, value in seen[-1].items() if value} == {
        ("age", "range"): 16_000,
        ("age", "missing"): 400,
        ("city", "type"): 8_400,
        ("city", "category"): 8_400,
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_counts_its_own(mlobs_telemetry: Telemetry) -> None:
    """What the parent counted, folded or queued, is the parent's to send."""
    profile = _profile()
    ended, monitor = (Monitor(profile, clock=Clock()) for _ in range(2))
    ended.observe({**FINE, "age": 99})
    ended.close()
    assert _exported(mlobs_telemetry, profile)["age", "range"] == 1
    monitor.observe({**FINE, "age": 99, "city": ["Rome"]})
    monitor.status()
    monitor.observe({**FINE, "age": 99, "city": ["Rome"]})
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        monitor.observe({**FINE, "age": 99})
        points = monitor._series.points(semconv.FEATURE_VIOLATIONS, zero=False)
        os.write(writing, repr(sum(value for value, _ in points)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"1"
    assert _exported(mlobs_telemetry, profile)["age", "range"] == 3


@pytest.mark.parametrize("left", [0, 1, 5])
def test_violations_get_what_series_are_left(mlobs_telemetry: Telemetry, left: int) -> None:
    """They matter least: no column's counts give way to them, and what is left out is counted."""
    profile = _profile()
    full = Monitor(profile, clock=Clock(), max_series=10_000)
    possible = sum(len(kinds_of(column)) for column in profile.features)
    methods = 2
    needed = 3 + sum(
        2 * len(column.bins.cells) + (2 * column.bins.values if column.bins.ordered else 0) + methods + 2
        for column in profile.columns
    )
    assert full.status().omitted_series == 0
    other = _profile(version="2")
    monitor = Monitor(other, clock=Clock(), max_series=needed + left)
    assert monitor.status().omitted_series == possible - left
    assert len(_exported(mlobs_telemetry, other)) == left
