"""Objectives in one file: what holds for whom, what is wrong in it, and what of the library follows them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import otel_mlobs as mlobs
from otel_mlobs import testing
from otel_mlobs.errors import ConfigurationError
from otel_mlobs.settings import resolve
from otel_mlobs.settings.objectives import Objective, Objectives, load_objectives
from otel_mlobs.telemetry import objectives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WHOLE = """
[objectives]
latency = "100ms"
owner = "ml-platform"
runbooks = "https://wiki.example/runbooks/{alert}"
performance = { f1 = 0.5 }

[objectives.models.churn]
latency = 0.05
latency_quantile = 0.95
errors = 0.01
errors_for = "5m"
traffic_floor = 20
drift_tolerance = 0.2
value_at_risk = { EUR = 10_000 }
performance.roc_auc = 0.75

[objectives.models."ltr v2"]
owner = "search"

[objectives.views.user_features]
freshness = "15m"
stale_share = 0.01
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    """Writes a file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "mlobs.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def restored() -> Iterator[None]:
    """What holds in the process is as before afterwards."""
    before = objectives.current()
    yield
    objectives.use(before)


def test_a_model_has_what_it_does_not_say_from_the_default(written: Callable[[str], str]) -> None:
    """Also tables are added to, name by name."""
    found = load_objectives(written(WHOLE))
    assert found.default == Objective(
        latency=0.1,
        owner="ml-platform",
        runbooks="https://wiki.example/runbooks/{alert}",
        performance={"f1": 0.5},
    )
    assert found.model("churn") == Objective(
        latency=0.05,
        latency_quantile=0.95,
        errors=0.01,
        errors_for=300.0,
        traffic_floor=20.0,
        drift_tolerance=0.2,
        value_at_risk={"EUR": 10_000.0},
        performance={"f1": 0.5, "roc_auc": 0.75},
        owner="ml-platform",
        runbooks="https://wiki.example/runbooks/{alert}",
    )
    assert found.model("ltr v2").owner == "search"
    assert found.model("another") == found.model(None) == found.default
    assert (found.view("user_features").freshness, found.view("user_features").stale_share) == (900.0, 0.01)
    assert found.view("user_features").latency == 0.1
    assert found.latencies == (0.05, 0.1)
    assert Objectives(views={"users": Objective(latency=0.3)}).latencies == (0.08, 0.3)
    assert found.ages == {900.0}


def test_without_a_file_the_defaults_hold() -> None:
    """80 ms at the 99th percentile, one failure in a thousand for two minutes, no age."""
    assert load_objectives(None) == Objectives()
    one = Objectives().default
    assert (one.latency, one.latency_quantile, one.errors, one.errors_for, one.freshness) == (
        0.08, 0.99, 0.001, 120.0, None
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[objectives]\nlatencies = 1", 2, ["objectives.latencies", "did you mean 'latency'?"]),
        ("[objectives]\n\nlatency = 'soon'", 3, ["objectives.latency must be a duration", "'soon'"]),
        ("[objectives]\nlatency = -1", 2, ["objectives.latency", "-1"]),
        ("[objectives]\nlatency = true", 2, ["objectives.latency", "True"]),
        ("[objectives]\nerrors = 0.0", 2, ["objectives.errors must be a share above 0 and below 1, got 0.0"]),
        ("[objectives]\nerrors = 1", 2, ["objectives.errors must be a share"]),
        ("[objectives]\nerrors = nan", 2, ["objectives.errors", "nan"]),
        ("[objectives]\nerrors_for = '1.5s'", 2, ["objectives.errors_for must be whole seconds"]),
        ("[objectives]\nfreshness = 0", 2, ["objectives.freshness", "0"]),
        ("[objectives]\ntraffic_floor = -1", 2, ["objectives.traffic_floor must be a number from 0"]),
        ("[objectives]\nowner = 7", 2, ["objectives.owner must be a line of text, got 7"]),
        ("[objectives]\nowner = 'a\\n'\nrunbooks = 'wiki'", 3, ["objectives.runbooks must be a URL", "'wiki'"]),
        ("[objectives]\nperformance = { roc = 1 }", 2, ["objectives.performance.roc is no figure", "roc_auc"]),
        ("[objectives]\nperformance.f1 = 1.5", 2, ["objectives.performance.f1 must be a share from 0 to 1"]),
        ("[objectives]\nperformance.mae = 0", 2, ["objectives.performance.mae must be a number above 0"]),
        ("[objectives]\nperformance = 1", 2, ["objectives.performance must be a table, got a int"]),
        ("[objectives]\nvalue_at_risk = { euro = 1 }", 2, ["objectives.value_at_risk.euro is no currency", "EUR"]),
        ("[objectives]\nvalue_at_risk.EUR = 'much'", 2, ["objectives.value_at_risk.EUR", "'much'"]),
        ("[objectives.models]\nchurn = 1", 2, ["objectives.models.churn must be a table"]),
        ("[objectives.models.churn]\nfreshness = '1h'", 2, ["objectives.models.churn.freshness", "there is no key"]),
        ("[objectives.views.'a b']\nlatency = '8 parsecs'", 2, ["objectives.views.a b.latency", "parsecs"]),
        ("[objectives.views.users]\nperformance.f1 = 0.5", 2, ["objectives.views.users.performance", "no key"]),
        ('[objectives.models." "]\n', 1, ["the name of a model must not be empty"]),
        ("[objectives]\nerrors = 1" + "0" * 400, 2, ["objectives.errors must be a share"]),
        ("[objectives]\nlatency = 1" + "0" * 400, 2, ["objectives.latency must be a duration"]),
        ("[objectives]\nerrors_for = '20000w'", 2, ["objectives.errors_for must be a duration of 10 years at most"]),
        ("[objectives]\nowner = 'a\u0085b'", 2, ["objectives.owner must be a line of text"]),
        ("[objectives]\nrunbooks = 'ftp://wiki.example'", 2, ["objectives.runbooks must be a URL", "ftp"]),
        ("[objectives]\nvalue_at_risk = { 'ÄÖÜ' = 1 }", 2, ["objectives.value_at_risk.ÄÖÜ is no currency"]),
        ("[objectives]\nrunbooks = 'https://[x'", 2, ["objectives.runbooks must be a URL"]),
        ("[objectives]\ndashboards = 'https://x/?orgId=2'", 2, ["objectives.dashboards", "without ? and #"]),
        ("[objective]\nlatency = 1", 1, ["there is no table 'objective'", "'objectives'"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_key(
    written: Callable[[str], str], text: str, line: int, words: list[str]
) -> None:
    """Before anything is built, and the same for the library and for the commands that read the file."""
    path = written(text)
    for load in (lambda: resolve({}, {"MLOBS_CONFIG": path}), lambda: load_objectives(path)):
        with pytest.raises(ConfigurationError) as raised:
            load()
        for word in [f"{path}, line {line}: ", *words]:
            assert word in str(raised.value)


@pytest.mark.parametrize("sign", [r"\n", r"\u2028", r"\u0085", r"\u007f", r"\ufffe", r"\u0000"])
@pytest.mark.parametrize("kind", ["models", "views"])
def test_a_name_that_no_rule_file_can_hold_is_refused(written: Callable[[str], str], kind: str, sign: str) -> None:
    """YAML knows no control characters, and a line break ends a string of PromQL."""
    with pytest.raises(ConfigurationError, match=f"the name of a {kind[:-1]} must be printable, got"):
        load_objectives(written(f'[objectives.{kind}."a{sign}b"]'))


def test_a_file_that_is_nested_too_deep_is_no_toml(written: Callable[[str], str]) -> None:
    """As whatever else is wrong with it."""
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load_objectives(written("a = " + "[" * 5000 + "]" * 5000))


@pytest.mark.parametrize("secret", ["me:hunter2", "hunter2", ":hunter2"])
def test_a_secret_in_a_url_is_refused_and_not_shown(written: Callable[[str], str], secret: str) -> None:
    """The URL is in every alert that goes out."""
    with pytest.raises(ConfigurationError, match="must not have a user or password") as raised:
        load_objectives(written(f"[objectives]\ndashboards = 'https://{secret}@grafana.example'"))
    assert "hunter2" not in str(raised.value)


def test_the_settings_of_old_are_the_default_objective(written: Callable[[str], str]) -> None:
    """An argument wins over the file, for all that have no objective of their own; the file may say it once only."""
    same = written("[objectives.models.churn]\nlatency = 0.08\n")
    assert resolve({"latency_objective": 0.3}, {"MLOBS_CONFIG": same}).objectives.model("churn").latency == 0.08
    environ = {"MLOBS_CONFIG": written(WHOLE)}
    settings = resolve({"latency_objective": 0.3, "feature_age_objective": "2h"}, environ)
    assert settings.objectives.model("churn").latency == 0.05
    assert settings.objectives.model("ltr v2").latency == settings.latency_objective == 0.3
    assert settings.objectives.view("user_features").freshness == 900.0
    assert settings.objectives.view("others").freshness == settings.feature_age_objective == 7200.0
    of_file = written("[configure]\nlatency_objective = '9ms'\nfeature_age_objective = 60\n")
    assert load_objectives(of_file) == resolve({}, {"MLOBS_CONFIG": of_file}).objectives
    assert (load_objectives(of_file).default.latency, load_objectives(of_file).default.freshness) == (0.009, 60.0)
    with pytest.raises(ConfigurationError, match=r"line 2: configure\.latency_objective must be a duration"):
        load_objectives(written("[configure]\nlatency_objective = 'soon'\n"))
    twice = written("[configure]\nlatency_objective = 0.2\n[objectives]\nlatency = 0.1\n")
    for load in (lambda: resolve({}, {"MLOBS_CONFIG": twice}), lambda: load_objectives(twice)):
        with pytest.raises(ConfigurationError, match=r"line 4: objectives\.latency says what latency_objective"):
            load()


def test_the_histogram_has_every_objective_for_a_bound(written: Callable[[str], str]) -> None:
    """An alert on any of them is then exact."""
    done = in_a_process(
        f"MLOBS_CONFIG={written(WHOLE)}",
        "from otel_mlobs.telemetry import instruments\n"
        "mlobs.configure('s', backend='none')\n"
        "print([bound for bound in instruments.duration_bounds() if bound in (0.05, 0.1)])",
    )
    assert done == "[0.05, 0.1]"


def test_a_view_is_stale_by_its_own_objective(written: Callable[[str], str]) -> None:
    """Its lookups need not say it: a row of twenty minutes is stale in the one view and fresh in another."""
    done = in_a_process(
        f"MLOBS_CONFIG={written(WHOLE + '[objectives.views.other]' + chr(10) + 'freshness = 3600')}",
        "import time\n"
        "from otel_mlobs import testing\n"
        "mlobs.configure('s', backend='none')\n"
        "with testing.capture() as telemetry:\n"
        "    for view in ('user_features', 'other'):\n"
        "        mlobs.feature_lookup(view=view, timestamp='at')(lambda: {'a': 1, 'at': time.time() - 1200})()\n"
        "print([telemetry.span('feature_lookup ' + view).attributes['mlobs.feature.stale']\n"
        "       for view in ('user_features', 'other')],\n"
        "      telemetry.point('mlobs.feature_view.objective', mlobs__feature_view__name='user_features').value)",
    )
    assert done == "[1, 0] 900.0"


def in_a_process(environ: str, code: str) -> str:
    """What a fresh process prints, in which configure() has not been called."""
    import os
    import subprocess
    import sys

    name, _, value = environ.partition("=")
    done = subprocess.run(
        [sys.executable, "-c", "import otel_mlobs as mlobs\n" + code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, name: value},
    )
    return done.stdout.strip()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("own", "drifted"), [(None, False), (0.1, True)])
def test_a_monitor_asks_for_its_models_tolerance(own: float | None, drifted: bool) -> None:
    """Also one that was made before the file was read; its own argument goes first."""
    generator = np.random.default_rng(3)
    reference = {"income": generator.normal(size=20_000)}
    profile = mlobs.Profile.fit(reference, model="churn", version="1")
    arguments: dict[str, Any] = {} if own is None else {"tolerance": own}
    now = time.time()
    monitor = mlobs.Monitor(profile, clock=lambda: now, **arguments)
    objectives.use(Objectives(models={"churn": Objective(drift_tolerance=1.0)}))
    with testing.capture():
        monitor.observe(generator.normal(0.6, size=(5_000, 1)))  # a PSI of about 0.36
        now += 600.0
        result = monitor.status().features["income"]
    monitor.close()
    assert 0.2 < result.psi < 0.6
    assert result.drifted is drifted
