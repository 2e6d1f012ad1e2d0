"""The alarm keeps its rate on streams that do not drift, and is quick on those that do, at the default settings.

The streams are those of ``benchmarks/drift_quality.py``; ``-m simulation`` runs them for longer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from otel_mlobs.core.alarm import Alarm, e_benjamini_hochberg

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from drift_quality import (
    CHANGES,
    PANES_PER_ALARM,
    POPULATIONS,
    ROWS,
    Monitors,
    autoregressive,
    calm,
    copies,
    diurnal,
    independent,
    normal_references,
    quick,
)

NAMES = {change.name: change for change in CHANGES}


def rng(*seed):
    """A generator of its own for each use."""
    return np.random.default_rng(seed)


def test_streams_may_stand_in_for_features():
    """The benchmark's shortcut, many monitors in one alarm, gives the e-values and alarms of an alarm each."""
    references = normal_references(1_000, 6, rng(1))
    together = Monitors(references, features=2)
    apart = [
        Alarm(references.m[k : k + 2], references.real[k : k + 2], references.ordered[k : k + 2]) for k in (0, 2, 4)
    ]
    for counts, _ in zip(independent(references, rng(2)), range(40), strict=False):
        e = together.alarm.update(counts)
        assert e == pytest.approx(
            np.concatenate([alarm.update(counts[2 * k : 2 * k + 2]) for k, alarm in enumerate(apart)]), rel=1e-9
        )
    e[2:4] = 3.0 * PANES_PER_ALARM, 0.0
    flagged = e_benjamini_hochberg(e.reshape(3, 2), 1.0 / PANES_PER_ALARM)
    assert flagged.tolist() == [alarm.flagged(e[2 * k : 2 * k + 2]).tolist() for k, alarm in enumerate(apart)]


@pytest.mark.parametrize("population", ["normal", "integers with ties", "20 categories"])
def test_no_alarm_without_drift(population):
    """40 monitors see 300 panes each, and at most one of 12,000 has an alarm; no verdict either."""
    result = calm(POPULATIONS[population](10_000, 40, rng(3)), 300, rng(4))
    assert result.alarm_panes <= 1
    assert result.verdict_panes == 0


@pytest.mark.parametrize("stream", [copies(2), copies(5), autoregressive(0.9)], ids=["twice", "5 times", "AR(1)"])
def test_few_alarms_where_rows_depend_on_one_another(stream):
    """Without the design effect 30% to 100% of these monitors alarm within 300 panes; with it at most 1 of 40."""
    references = normal_references(10_000, 40, rng(5))
    result = calm(references, 300, rng(6), stream=stream)
    assert result.alarmed <= 1
    assert result.design_effect > 1.8


def test_the_design_effect_is_what_keeps_dependent_rows_calm():
    """The same rows, each five times, given to the alarm as if they were independent, alarm in most monitors."""
    references = normal_references(10_000, 40, rng(7))
    monitors = Monitors(references)
    alarmed = np.zeros(40, bool)
    for counts, _ in zip(copies(5)(references, rng(8)), range(300), strict=False):
        e = monitors.alarm.update(counts)
        alarmed |= e >= PANES_PER_ALARM
    assert alarmed.mean() > 0.5


@pytest.mark.parametrize(("name", "features"), [*((name, 1) for name in NAMES), ("0.25σ", 20)])
def test_a_change_is_found_in_time(name, features):
    """With a reference of 10,000 rows at least 95% of monitors find the change within its limit."""
    change = NAMES[name]
    monitors = 60 if features == 1 else 20
    delays = quick(
        change,
        10_000,
        monitors,
        rng(9, features),
        features=features,
        lead=64,
        panes=change.limit // ROWS,
        verdict=False,
    )
    assert (delays.alarm <= change.limit).mean() >= 0.95


def test_a_daily_cycle_is_drift():
    """A mean that moves by half a standard deviation over the day alarms within the first quarter of it."""
    references = normal_references(10_000, 10, rng(10))
    result = calm(references, 360, rng(11), stream=diurnal(0.5))
    assert result.alarmed == 10


@pytest.mark.simulation
@pytest.mark.parametrize("rows", [1_000, 10_000, 100_000])
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_rate_is_kept(population, rows):
    """Over 200,000 panes the alarms are at most what is promised, one in 10,080 panes, and so with 20 features."""
    result = calm(POPULATIONS[population](rows, 100, rng(12, rows)), 2_000, rng(13, rows))
    assert result.rate <= 1.0
    assert result.verdict_panes == 0
    together = calm(POPULATIONS[population](rows, 100, rng(14, rows)), 1_000, rng(15, rows), features=20)
    assert together.rate <= 1.0


@pytest.mark.simulation
@pytest.mark.parametrize("times", [2, 5, 500])
def test_the_rate_is_kept_on_clustered_rows(times):
    """Rows that come in runs alarm in at most one pane of 10,080, the start of the stream included."""
    references = normal_references(10_000, 60, rng(16))
    assert calm(references, 5_000, rng(17, times), stream=copies(times)).rate <= 1.0


@pytest.mark.simulation
@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_the_rate_is_kept_on_autoregressive_rows(phi):
    """Rows that follow one another alarm in at most one pane of 10,080, the start of the stream included."""
    references = normal_references(10_000, 60, rng(18))
    assert calm(references, 5_000, rng(19), stream=autoregressive(phi)).rate <= 1.0


@pytest.mark.simulation
@pytest.mark.parametrize("features", [1, 20])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [10_000, 100_000])
def test_a_change_is_found_in_time_in_200_streams(rows, name, features):
    """At least 95% of 200 monitors find the change within its limit."""
    change = NAMES[name]
    delays = quick(change, rows, 200, rng(20, rows, features), features=features, panes=change.limit // ROWS)
    assert (delays.alarm <= change.limit).mean() >= 0.95
