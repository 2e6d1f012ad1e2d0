"""What a caller writes down: durations as people write them, and names of arguments that nobody takes."""

from __future__ import annotations

from typing import Any

import pytest

import otel_mlobs as mlobs
from otel_mlobs.settings.times import seconds


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("7d", 604_800.0),
        ("12h", 43_200.0),
        ("45s", 45.0),
        ("1h30m", 5_400.0),
        (" 1h 30m ", 5_400.0),
        ("1w2d3h4m5s", 788_645.0),
        ("1.5h", 5_400.0),
        (".5m", 30.0),
        (90, 90.0),
        (0.5, 0.5),
        ("9ms", 0.009),  # which 9 * 0.001 is not: an alert would look for a bound that no histogram has
        ("1s 9ms", 1.009),
    ],
)
def test_a_duration_as_people_write_it(written: Any, expected: float) -> None:
    """Several units together, the longest first, or seconds."""
    assert seconds("maturity", written) == expected


@pytest.mark.parametrize(
    "written",
    ["", " ", "90", "h", "30m1h", "1h1h", "1h30", "0s", "-1h", "1e400d", "9" * 400 + "d", 10**400, "soon", True, None],
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    """With the value and three that are."""
    with pytest.raises(ValueError, match=r'ttl must be positive seconds, or text as "7d", "30m" or "1h30m", got'):
        seconds("ttl", written)


def test_every_argument_that_is_a_duration_takes_hours_and_minutes() -> None:
    """The store's ttl, the monitor's maturity, the lookup's objective."""
    store = mlobs.OutcomeStore("memory:", ttl="1h30m")
    assert store.ttl == 5_400.0
    monitor = mlobs.RankingMonitor(model="durations", outcomes=store, maturity="1h15m")
    assert monitor._maturity == 4_500.0
    monitor.close()
    lookup = mlobs.feature_lookup(view="v", timestamp="t", objective="1h30m")
    reading = next(each for each in lookup._definition_arguments if hasattr(each, "objective"))
    assert reading.objective == 5_400.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "feature_lookup",
            {"stale": "1h"},
            r"'stale' \(it takes store, view, features, timestamp, objective, def",
        ),
        ("feature_lookup", {"objectiv": "1h"}, "'objectiv'; did you mean 'objective'?"),
        ("feature_lookup", {"monitor": None}, r"'monitor' \(it takes"),
        ("candidate_generation", {"sources": "a"}, "'sources'; did you mean 'source'?"),
        ("ranking", {"modle": "m"}, r"'modle'; did you mean 'model'\? \(it takes"),
        ("prediction", {"requested": 3}, r"'requested' \(it takes attributes,.* monitor, outputs, variant, version\)"),
    ],
)
def test_an_argument_that_is_not_taken_is_refused_by_the_name_of_the_function(
    name: str, options: dict[str, Any], message: str
) -> None:
    """Not by that of a class within; with the argument that was meant, and all that there are."""
    with pytest.raises(TypeError, match=f"^{name} got an unexpected keyword argument {message}"):
        getattr(mlobs, name)(**options)
