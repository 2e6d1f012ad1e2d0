"""A monitor's metrics: names, labels, values, what is bounded, and that no count is lost, doubled or without a zero."""

from __future__ import annotations

import gc
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from monitoring import Clock, own_name
from opentelemetry import metrics
from opentelemetry.sdk.metrics import ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from receiver import Receiver, run

from otel_mlobs import Monitor
from otel_mlobs.core.drift import Reference
from otel_mlobs.core.profile import Profile
from otel_mlobs.telemetry import collected, series, succession
from otel_mlobs.telemetry import monitor as module
from otel_mlobs.testing import Telemetry

ROWS = 1_000
FEATURE, PREDICTION = "mlobs.feature.observations", "mlobs.prediction.observations"


def _profile(**changes: Any) -> Profile:
    rng = np.random.default_rng(3)
    data = {"age": rng.uniform(20, 60, ROWS), "city": rng.choice(["Rome", "Oslo"], ROWS, p=[0.8, 0.2])}
    options: dict[str, Any] = {"outputs": rng.random(ROWS), "version": "3", "model": own_name("measured")}
    return Profile.fit(data, **{**options, **changes})


@pytest.fixture
def clock() -> Clock:
    """A clock for the monitors of the test."""
    return Clock()


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Leave no monitor for the collections of other tests."""
    yield
    for one in list(module._monitors):
        one.close()


Series = dict[frozenset[tuple[str, Any]], float]


def _series(telemetry: Telemetry, profile: Profile) -> dict[str, Series]:
    """Metric name → labels beside the model's own → value, of ``profile`` alone."""
    found: dict[str, Series] = {}
    for name, points in telemetry.metrics.items():
        for point in points:
            labels = dict(point.attributes or {})
            if labels.get("mlobs.model.name") == profile.model and labels.get("mlobs.profile.id") == profile.id:
                del labels["mlobs.model.name"], labels["mlobs.profile.id"]
                assert labels.pop("mlobs.model.version", None) == profile.version
                key = frozenset(labels.items())
                assert key not in found.setdefault(name, {}), "each series once"
                found[name][key] = point.value
    return found


def _totals(telemetry: Telemetry, profile: Profile, metric: str = FEATURE) -> dict[str, float]:
    """Feature or output → the sum over its cells."""
    totals: dict[str, float] = defaultdict(float)
    for labels, value in _series(telemetry, profile).get(metric, {}).items():
        named = dict(labels)
        totals[named.get("mlobs.feature.name") or named["mlobs.prediction.output"]] += value
    return dict(totals)


def _rows(rows: int, *, shift: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(rows)
    return {"age": rng.uniform(20, 60, rows) + shift, "city": rng.choice(["Rome", "Oslo", "Ur"], rows)}


def test_the_series_of_a_profile_exactly(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Counts and reference shares of every cell, scores of value cells, rows: each cell once, to the value."""
    profile = _profile()
    monitor = Monitor(profile, clock=clock)
    monitor.observe(_rows(300), [0.5, float("nan"), float("inf")])
    monitor.observe({"age": "x", "city": None})
    found = _series(mlobs_telemetry, profile)
    age, city, score = profile.columns
    expected: dict[str, Series] = defaultdict(dict)
    for column, key in ((age, "mlobs.feature.name"), (city, "mlobs.feature.name"), (score, "mlobs.prediction.output")):
        values: Any = {"age": [*_rows(300)["age"], "x"], "city": [*_rows(300)["city"], None]}.get(column.name)
        counts = column.bins.count([0.5, float("nan"), float("inf")] if values is None else values)[0]
        kind = "feature" if column is not score else "prediction"
        for cell, count, share in zip(column.bins.cells, counts.tolist(), column.shares, strict=True):
            labels = frozenset({(key, column.name), ("mlobs.bin", cell)})
            expected[f"mlobs.{kind}.observations"][labels] = count
            expected[f"mlobs.{kind}.reference"][labels] = share
    shift, scale = Reference(profile.columns).normal_scores()
    for name, scores in (("shift", shift), ("scale", scale)):
        for index in range(age.bins.values):
            labels = {("mlobs.feature.name", "age"), ("mlobs.bin", age.bins.cells[index]), ("mlobs.score", name)}
            expected["mlobs.feature.reference_score"][frozenset(labels)] = scores[0, index]
    ages, cities = _rows(300)["age"], _rows(300)["city"]
    low, high = age.minimum or 0.0, age.maximum or 0.0
    for name, kind, violations in (
        ("age", "type", 1),
        ("age", "range", int(np.count_nonzero((ages < low) | (ages > high)))),
        ("age", "missing", 0),
        ("city", "type", 0),
        ("city", "category", int(np.count_nonzero(cities == "Ur"))),
        ("city", "missing", 1),
    ):
        labels = {("mlobs.feature.name", name), ("mlobs.input.violation", kind)}
        expected["mlobs.feature.violations"][frozenset(labels)] = violations
    expected["mlobs.profile.rows"] = {frozenset(): ROWS}
    expected["mlobs.monitor.series.omitted"] = {frozenset(): 0}
    # false alarms are one a week: 10,080 panes of a minute
    expected["mlobs.drift.threshold"] = {frozenset(): math.log10(10_080 * len(profile.columns))}
    assert found == dict(expected), "and no drift before a pane has ended"
    assert "Rome" not in str(mlobs_telemetry.metrics)


def test_drift_is_measured_after_a_pane(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Scores by method, evidence and status as of the last pane; no score without rows, no status with too few."""
    profile = _profile()
    monitor = Monitor(profile, clock=clock, methods=["psi", "psi_adjusted", "hellinger", "kolmogorov_smirnov"])
    monitor.observe(_rows(300, shift=20.0))
    status = monitor.status()
    clock.now += 60
    monitor.tick()
    found = _series(mlobs_telemetry, profile)
    scores = {frozenset(dict(labels).values()): value for labels, value in found["mlobs.drift.score"].items()}
    ended = {one.name: one for one in monitor._counting.results() or ()}
    expected = {
        frozenset({name, method}): ended[name].psi_adjusted
        if method == "psi_adjusted"
        else ended[name].distances[method]
        for name in ("age", "city")
        for method in ("psi", "psi_adjusted", "hellinger", "kolmogorov_smirnov")
        if method == "psi_adjusted" or method in ended[name].distances
    }
    assert expected
    assert scores == expected
    assert {frozenset(("city", "kolmogorov_smirnov"))}.isdisjoint(scores)
    assert found["mlobs.drift.evidence"][frozenset({("mlobs.feature.name", "age")})] == ended["age"].evidence
    assert found["mlobs.drift.evidence"][frozenset({("mlobs.prediction.output", "score")})] == ended["score"].evidence
    assert found["mlobs.drift.status"][frozenset({("mlobs.feature.name", "age")})] == 1
    assert frozenset({("mlobs.prediction.output", "score")}) not in found["mlobs.drift.status"]
    assert status.features["age"].status == "drift"


def test_labels_are_those_of_the_table(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """No metric of a monitor carries a label beyond its allow-list, and every one of the table is there."""
    rng = np.random.default_rng(1)
    monitor = Monitor(_profile(outputs=rng.dirichlet([1, 2, 3], ROWS)), clock=clock)
    monitor.observe(_rows(300), rng.dirichlet([1, 2, 3], 300))
    clock.now += 60
    monitor.tick()
    found = mlobs_telemetry.metrics
    for metric in (*collected.COUNTERS, *collected.GAUGES):
        if metric.name.startswith(
            ("mlobs.feature.", "mlobs.prediction.", "mlobs.drift.", "mlobs.profile.", "mlobs.monitor.")
        ):
            points = found[metric.name]
            allowed = {attribute.key for attribute in metric.attributes}
            for point in points:
                assert set(point.attributes or {}) <= allowed
                assert all(type(value) is str for value in (point.attributes or {}).values())
                assert point.value == point.value


def test_instruments_are_of_the_tables_kind(clock: Clock, mlobs_telemetry: Telemetry) -> None:
    """Counters are monotonic, gauges gauges, with unit and description of the table; one of each name."""
    monitor = Monitor(_profile(), clock=clock)
    other = Monitor(_profile(), clock=clock)
    monitor.observe(_rows(300))
    other.observe(_rows(300))
    clock.now += 60
    monitor.tick()
    seen: dict[str, Any] = {}
    for metric in mlobs_telemetry._collect():
        assert metric.name not in seen
        seen[metric.name] = metric
    for known in (*collected.COUNTERS, *collected.GAUGES):
        if known.name in (FEATURE, PREDICTION):
            assert seen[known.name].data.is_monotonic
        if known.name.startswith(("mlobs.feature.", "mlobs.prediction.", "mlobs.drift.", "mlobs.profile.")):
            assert (seen[known.name].unit, seen[known.name].description) == (known.unit, known.description)
            kind = {"counter": "Sum", "gauge": "Gauge"}[known.instrument]
            assert type(seen[known.name].data).__name__ == kind


def test_monitors_of_one_profile_add_up(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Two monitors of one profile are one set of series with the sum of both; one that joins later adds from then."""
    profile = _profile()
    first, second = Monitor(profile, clock=clock), Monitor(Profile.from_json(profile.to_json()), clock=clock)
    first.observe(_rows(10))
    second.observe(_rows(5), [0.5] * 5)
    assert _totals(mlobs_telemetry, profile) == {"age": 15, "city": 15}
    third = Monitor(profile, clock=clock)
    third.observe(_rows(7))
    assert _totals(mlobs_telemetry, profile) == {"age": 22, "city": 22}
    assert _totals(mlobs_telemetry, profile, PREDICTION) == {"score": 5}


def test_profiles_of_one_model_are_kept_apart(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """A re-fit under the same name and version has another id and its own series; another version too."""
    profile = _profile()
    refit = _profile(model=profile.model, bins=4)
    later = _profile(model=profile.model, version="4")
    assert len({profile.id, refit.id, later.id}) == 3
    for rows, one in ((3, profile), (5, refit), (9, later)):
        monitor = Monitor(one, clock=clock)
        monitor.observe(_rows(rows))
        monitor.close()
    assert _totals(mlobs_telemetry, profile) == {"age": 3, "city": 3}
    assert _totals(mlobs_telemetry, refit) == {"age": 5, "city": 5}
    assert _totals(mlobs_telemetry, later) == {"age": 9, "city": 9}


@pytest.mark.parametrize("end", ["close", "collect", "close twice"])
def test_an_ended_monitor_keeps_its_final_counts(mlobs_telemetry: Telemetry, clock: Clock, end: str) -> None:
    """Closed or garbage-collected, with rows still queued: the counts never fall, beside a monitor that goes on."""
    profile = _profile()
    monitor, other = Monitor(profile, clock=clock), Monitor(profile, clock=clock)
    monitor.observe({"age": 30.0, "city": "Rome"}, 0.5)
    monitor.observe(_rows(10))
    if end != "collect":
        monitor.close()
        if end == "close twice":
            monitor.close()
        monitor.observe(_rows(10))
    del monitor
    gc.collect()
    for _ in range(10):
        other.observe({"age": 30.0, "city": "Rome"})
        totals = _totals(mlobs_telemetry, profile)
    assert totals == {"age": 21, "city": 21}
    assert _totals(mlobs_telemetry, profile, PREDICTION) == {"score": 1}


def test_the_last_monitors_series_are_said_and_then_gone(
    mlobs_telemetry: Telemetry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a profile's last monitor has ended its counts go out for some minutes, then no more, until the next."""
    profile = _profile()
    monitor = Monitor(profile, clock=clock)
    monitor.observe(_rows(10))
    monitor.close()
    for _ in range(3):
        assert _totals(mlobs_telemetry, profile) == {"age": 10, "city": 10}
    monkeypatch.setattr(succession, "_FAREWELL_S", -1.0)
    mlobs_telemetry._collect()
    assert _series(mlobs_telemetry, profile) == {}
    again = Monitor(profile, clock=clock)
    before = _totals(mlobs_telemetry, profile)
    again.observe(_rows(4))
    after = _totals(mlobs_telemetry, profile)
    assert {name: after[name] - before[name] for name in after} == {"age": 4, "city": 4}


def test_a_successor_within_those_collections_goes_on(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """A monitor made again while the last one's counts still go out continues them."""
    profile = _profile()
    for number in range(1, 6):
        monitor = Monitor(profile, clock=clock)
        monitor.observe(_rows(10))
        assert _totals(mlobs_telemetry, profile)["age"] == 10 * number
        monitor.close()
        assert _totals(mlobs_telemetry, profile)["age"] == 10 * number


def test_a_monitor_that_joins_at_the_last_farewell_is_collected(
    mlobs_telemetry: Telemetry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that says the last farewell between the finding of the series and the joining takes nothing away."""
    monkeypatch.setattr(succession, "_FAREWELL_S", -1.0)
    profile = _profile()
    monitor = Monitor(profile, clock=clock)
    counting = monitor._counting
    monitor.close()
    found = series.series_of(profile, counting.reference, ("psi",), 1_000)
    for _ in range(6):
        mlobs_telemetry._collect()
    counting.retired = False
    found.add(counting)
    counting.tally.add_inputs((30.0, "Rome"))
    assert _totals(mlobs_telemetry, profile)["age"] == 1
    counting.retire()


@pytest.mark.parametrize("farewell", [-1.0, 300.0])
def test_delta_temporality_adds_up(
    mlobs_telemetry: Telemetry, clock: Clock, monkeypatch: pytest.MonkeyPatch, farewell: float
) -> None:
    """A reader that wants deltas gets what was added since, through the end of one monitor and the next one's start."""
    monkeypatch.setattr(succession, "_FAREWELL_S", farewell)
    provider: Any = metrics.get_meter_provider()
    reader = InMemoryMetricReader(preferred_temporality={ObservableCounter: AggregationTemporality.DELTA})
    provider.add_metric_reader(reader)
    profile = _profile()
    deltas: list[float] = []

    def collect() -> None:
        data = reader.get_metrics_data()
        groups = [] if data is None else data.resource_metrics
        found = [metric for one in groups for scope in one.scope_metrics for metric in scope.metrics]
        points = [point for metric in found if metric.name == FEATURE for point in metric.data.data_points]
        assert all(point.value >= 0 for point in points)
        mine = [point for point in points if (point.attributes or {}).get("mlobs.profile.id") == profile.id]
        deltas.append(sum(point.value for point in mine))

    try:
        for rows in (10, 3, 0, 4):
            monitor = Monitor(profile, clock=clock)
            monitor.observe(_rows(rows))
            collect()
            monitor.close()
            collect()
        for _ in range(6):
            collect()
        again = Monitor(profile, clock=clock)
        again.observe(_rows(25))
        collect()
    finally:
        provider.remove_metric_reader(reader)
    assert sum(deltas) == 2 * (10 + 3 + 0 + 4 + 25)


@pytest.mark.parametrize("limit", [0, 1, 2, 40, 70, 100, 150, 10_000])
def test_series_are_bounded(mlobs_telemetry: Telemetry, clock: Clock, limit: int) -> None:
    """No more series than max_series (and the three of the model itself), whole features or none, predictions first."""
    profile = _profile()
    monitor = Monitor(profile, clock=clock, max_series=limit)
    monitor.observe(_rows(300, shift=10.0), np.random.default_rng(1).random(300))
    clock.now += 60
    monitor.tick()
    found = _series(mlobs_telemetry, profile)
    assert sum(map(len, found.values())) <= max(limit, 3)
    omitted = found["mlobs.monitor.series.omitted"][frozenset()]
    assert monitor.status().omitted_series == omitted
    kept = {
        value for one in found.values() for labels in one for key, value in labels if key.endswith((".name", ".output"))
    }
    assert (omitted == 0) == (kept == {"age", "city", "score"})
    if kept:
        assert "score" in kept
    for name in kept:
        cells = next(column.bins.cells for column in profile.columns if column.name == name)
        kind = "prediction" if name == "score" else "feature"
        assert sum(name in dict(labels).values() for labels in found[f"mlobs.{kind}.observations"]) == len(cells)
    assert monitor.status().features["age"].n == 300, "all is counted in process, whatever is exported"


def test_what_is_omitted_is_counted_exactly(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Series that a limit leaves out are as many as they would have been without it."""
    counted = {}
    for limit in (10_000, 2):
        profile = _profile()
        monitor = Monitor(profile, clock=clock, max_series=limit)
        monitor.observe(_rows(300, shift=10.0), np.random.default_rng(1).random(300))
        clock.now += 60
        monitor.tick()
        found = _series(mlobs_telemetry, profile)
        counted[limit] = (sum(map(len, found.values())), found["mlobs.monitor.series.omitted"][frozenset()])
    assert counted[2][0] == 3
    assert counted[2][0] + counted[2][1] == counted[10_000][0]


def test_names_that_cannot_be_sent(mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """A lone surrogate in a model's or feature's name becomes what can be encoded; counts are whole."""
    profile = Profile.fit({"a\udcff": np.arange(100.0)}, model=own_name("m\ud800"))
    monitor = Monitor(profile, clock=clock)
    monitor.observe((5.0,))
    points = [
        point
        for point in mlobs_telemetry.metrics[FEATURE]
        if (point.attributes or {}).get("mlobs.profile.id") == profile.id
    ]
    assert sum(point.value for point in points) == 1
    for point in points:
        str(point.attributes).encode()


def test_one_profiles_trouble_is_not_anothers(lenient: None, mlobs_telemetry: Telemetry, clock: Clock) -> None:
    """Where the series of one profile cannot be computed, those of the others are collected all the same."""
    broken, whole = Monitor(_profile(), clock=clock), Monitor(_profile(), clock=clock)
    whole.observe(_rows(5))
    broken._counting.totals = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert _totals(mlobs_telemetry, whole.profile) == {"age": 5, "city": 5}
    assert mlobs_telemetry.point("mlobs.internal.errors", mlobs__internal__component="collect").value > 0
    del broken._counting.totals


# -- our own pipeline -------------------------------------------------------------------------------------------------

OWN = """
import threading
import numpy as np
rng = np.random.default_rng(3)
data = {"x": rng.random(500), "y": rng.random(500)}
profile = mlobs.Profile.fit(data, outputs=rng.random(500), model="m", version="1")
monitor = mlobs.Monitor(profile)
monitor.observe((0.5, 0.5), 0.5)
mlobs.configure("svc", endpoint=os.environ["TO"], metric_interval=float(os.environ.get("INTERVAL", 60)))
@mlobs.prediction(monitor=monitor)
def predict(X):
    return np.full(len(X), 0.5)
"""


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("interval", ["60", "0.01"])
def test_everything_arrives_and_every_series_begins_at_zero(temporality: str, interval: str) -> None:
    """Rows from before configure() and up to shutdown(), threads and a closed monitor: exact, from zero on."""
    script = (
        OWN
        + """
def work():
    for _ in range(200):
        predict(rng.random((5, 2)))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
late = mlobs.Profile.fit({"z": rng.random(500)}, model="late")
other = mlobs.Monitor(late)
other.observe(rng.random((1000, 1)))
other.close()
monitor.observe((0.5, 0.5))
print(mlobs.shutdown())
"""
    )
    env = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality, "INTERVAL": interval}
    with Receiver() as receiver:
        ran = run(script, env=env | {"TO": receiver.url})
        assert ran.out == "True\n"
        assert ran.err == ""
        assert receiver.total(FEATURE) == 2 * (4_000 + 2) + 1_000
        assert receiver.total(PREDICTION) == 4_000 + 1
        if temporality == "cumulative":
            assert set(receiver.first_values(FEATURE)) == {0.0}
            assert set(receiver.first_values(PREDICTION)) == {0.0}
        assert {point.cumulative for point in receiver.points(FEATURE)} == {temporality == "cumulative"}
        spans = [span for span in receiver.spans() if span.name == "prediction m"]
        assert len(spans) == 800


def test_a_short_process_sends_zero_and_its_counts() -> None:
    """A process that ends before its first collection sends both, in that order: the rise is seen."""
    with Receiver() as receiver:
        run(OWN + "predict(rng.random((5, 2)))", env={"TO": receiver.url})
        assert receiver.total(FEATURE) == 12
        assert set(receiver.first_values(FEATURE)) == {0.0}
