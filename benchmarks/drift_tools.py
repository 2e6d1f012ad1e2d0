"""Other drift tools behind one shape each, for ``drift_peers.py``: how they are installed, set up, fed and asked.

Every tool is used as its documentation says and with its own defaults, which ``setting`` states. A *watch* gets a
reference and live rows and says after each pane of 100 rows whether it calls drift; a tool that works on larger batches
says so at their ends. Libraries are imported inside functions, since each is there in its own environment only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness import Variant
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Watch = Callable[[Floats, Floats, bool], Iterator[bool]]

PANE = 100


@dataclass(frozen=True)
class Tool:
    """A way to find drift.

    ``lead`` is how many panes of a stream it sees before a change, where they matter; ``effort`` the share of the
    streams that it gets, where a look is dear; ``blind`` are the cases that it is not made for.
    """

    name: str
    setting: str
    watch: Watch
    lead: int = 0
    effort: float = 1.0
    blind: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Environment:
    """A virtual environment, the tools that run in it, and what observing costs there."""

    requirement: Sequence[str]
    distribution: str
    tools: Callable[[], list[Tool]]
    rows: Callable[[], list[Variant]] = list
    batches: Callable[[], list[Variant]] = list
    settings: Mapping[str, str] = field(default_factory=dict)


def names_of(matrix: Floats) -> list[str]:
    """The features' names, the same for every tool."""
    return [f"feature_{index}" for index in range(matrix.shape[1])]


def panes_of(live: Floats, size: int = PANE) -> Iterator[Floats]:
    """The live rows in order, ``size`` at a time."""
    for start in range(0, len(live), size):
        yield live[start : start + size]


def at_ends(answers: Iterator[bool], size: int) -> Iterator[bool]:
    """An answer per pane from one per batch of ``size`` rows."""
    for answer in answers:
        yield from [False] * (size // PANE - 1)
        yield answer


def text(column: Floats) -> list[str]:
    """Categories as text."""
    return [f"value {value:.0f}" for value in column.tolist()]


def frame(matrix: Floats, categorical: bool) -> Any:
    """A pandas data frame; categories are text."""
    import pandas as pd

    return pd.DataFrame(
        {name: text(column) if categorical else column for name, column in zip(names_of(matrix), matrix.T, strict=True)}
    )


def our_tools() -> list[Tool]:
    """A monitor with its defaults: status ``drift``, which is its alarm or its verdict."""
    setting = "window of 60 panes, one false alarm in 10,080 panes over all features, tolerance PSI 0.1"
    return [Tool("otel-mlobs", setting, _watch_ours, lead=50)]


def _watch_ours(reference: Floats, live: Floats, categorical: bool) -> Iterator[bool]:
    from drift import PANE_S, Clock

    import otel_mlobs as mlobs

    def table(matrix: Floats) -> Any:
        return {"feature_0": text(matrix[:, 0])} if categorical else matrix

    profile = mlobs.Profile.fit(table(reference), model="streams")
    clock = Clock()
    monitor = mlobs.Monitor(profile, window=3600.0, pane=PANE_S, clock=clock)
    for rows in panes_of(live):
        monitor.observe(table(rows))
        clock.now += PANE_S
        monitor.tick()
        yield monitor.drift_attributes["mlobs.drift.status"] == "drift"
    monitor.close()


def our_rows() -> list[Variant]:
    """Our rows, and the histograms of the OpenTelemetry SDK that one would otherwise record features in."""
    from drift import BARE, NAMES, chunks, profile_of, sample
    from harness import Variant
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    import otel_mlobs as mlobs

    monitor = mlobs.Monitor(profile_of(10_000, NAMES), window=1e6, pane=1e6)
    matrix = sample(1000, seed=3)
    mappings = [dict(zip(NAMES, row.tolist(), strict=True)) for row in matrix]
    meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("benchmark")
    recorders = [meter.create_histogram(name).record for name in NAMES]
    labels = {"model": "churn"}

    def record(row: list[float]) -> None:
        for recorder, value in zip(recorders, row, strict=True):
            recorder(value, labels)

    return [
        Variant("otel-mlobs, array", chunks(monitor.observe, [row.copy() for row in matrix]), BARE),
        Variant("otel-mlobs, mapping", chunks(monitor.observe, mappings), BARE),
        Variant("OpenTelemetry SDK, 10 histograms", chunks(record, matrix.tolist()), BARE),
    ]


def our_batches() -> list[Variant]:
    """Our batch."""
    from drift import NAMES, NUMPY, profile_of, sample
    from harness import Variant, calls

    import otel_mlobs as mlobs

    monitor = mlobs.Monitor(profile_of(10_000, NAMES), window=1e6, pane=1e6)
    return [Variant("otel-mlobs, observe", calls(monitor.observe, sample(10_000, seed=4)), NUMPY)]


def river_tools() -> list[Tool]:
    """One detector per feature, which has seen the reference first; they look for changes within a stream."""
    from river.drift import ADWIN, KSWIN, PageHinkley

    blind = frozenset({"missing", "categories"})
    return [
        Tool("river ADWIN", "delta 0.002", partial(_watch_river, ADWIN, 10_000), 50, 1.0, blind),
        Tool(
            "river Page-Hinkley",
            "threshold 50, delta 0.005",
            partial(_watch_river, PageHinkley, 10_000),
            50,
            1.0,
            blind,
        ),
        Tool(
            "river KSWIN",
            "alpha 0.005, window 100, stat size 30",
            partial(_watch_river, partial(KSWIN, seed=1), 200),
            5,
            0.02,
            blind,
        ),
    ]


def _watch_river(
    make: Callable[[], Any], history: int, reference: Floats, live: Floats, _categorical: bool
) -> Iterator[bool]:
    detectors = [make() for _ in range(live.shape[1])]
    for detector, column in zip(detectors, reference[-history:].T, strict=True):
        for value in column.tolist():
            detector.update(value)
    for rows in panes_of(live):
        found = False
        for detector, column in zip(detectors, rows.T, strict=True):
            for value in column.tolist():
                detector.update(value)
                found = found or detector.drift_detected
        yield found


def river_rows() -> list[Variant]:
    """Ten detectors of river, and ten quantile sketches of datasketches."""
    from datasketches import kll_floats_sketch
    from drift import BARE, chunks, sample
    from harness import Variant
    from river.drift import ADWIN, PageHinkley

    rows = sample(1000, seed=3).tolist()

    def fed(updates: list[Callable[[float], object]]) -> Callable[[list[float]], None]:
        def feed(row: list[float]) -> None:
            for update, value in zip(updates, row, strict=True):
                update(value)

        return feed

    return [
        Variant("river, 10 ADWIN", chunks(fed([ADWIN().update for _ in range(10)]), rows), BARE),
        Variant("river, 10 Page-Hinkley", chunks(fed([PageHinkley().update for _ in range(10)]), rows), BARE),
        Variant("datasketches, 10 KLL", chunks(fed([kll_floats_sketch(200).update for _ in range(10)]), rows), BARE),
    ]


def evidently_tools() -> list[Tool]:
    """Drift of every column by the test that evidently picks for it, given so large a reference."""
    setting = "normed Wasserstein ≥ 0.1, categories Jensen-Shannon ≥ 0.1"
    return [
        Tool("evidently, batches of 100", setting, partial(_watch_evidently, 100), 0, 0.02, frozenset({"missing"})),
        Tool("evidently, batches of 1,000", setting, partial(_watch_evidently, 1000), 0, 0.1, frozenset({"missing"})),
    ]


def _evidently_report(names: Sequence[str]) -> Any:
    from evidently import Report
    from evidently.metrics import ValueDrift

    return Report([ValueDrift(column=name) for name in names])


def _watch_evidently(size: int, reference: Floats, live: Floats, categorical: bool) -> Iterator[bool]:
    report, known = _evidently_report(names_of(live)), frame(reference, categorical)

    def answers() -> Iterator[bool]:
        for rows in panes_of(live, size):
            metrics = report.run(frame(rows, categorical), known).dict()["metrics"]
            yield any(float(metric["value"]) >= metric["config"]["threshold"] for metric in metrics)

    return at_ends(answers(), size)


def evidently_batches() -> list[Variant]:
    """A report over a batch of 10,000 rows and 10 features."""
    from drift import NUMPY, sample
    from harness import Variant, calls

    known, batch = frame(sample(10_000), False), frame(sample(10_000, seed=4), False)
    report = _evidently_report(list(batch.columns))
    return [Variant("evidently, drift report", calls(lambda: report.run(batch, known).dict()), NUMPY)]


def nannyml_tools() -> list[Tool]:
    """Univariate drift and missing values, thresholds three standard deviations of the reference's own chunks."""

    def tool(method: str, size: int, effort: float) -> Tool:
        return Tool(
            f"NannyML {_NANNYML[method][0]}, batches of {size:,}",
            f"{_NANNYML[method][0]}, categories {_NANNYML[method][1]}; missing values; mean + 3σ of the chunks",
            partial(_watch_nannyml, method, size),
            effort=effort,
        )

    return [
        tool("jensen_shannon", 100, 0.3),
        tool("jensen_shannon", 1000, 0.3),
        tool("kolmogorov_smirnov", 100, 0.1),
    ]


_NANNYML = {"jensen_shannon": ("Jensen-Shannon", "Jensen-Shannon"), "kolmogorov_smirnov": ("KS", "chi-square")}


def _watch_nannyml(method: str, size: int, reference: Floats, live: Floats, categorical: bool) -> Iterator[bool]:
    import nannyml

    names, known, rows = names_of(live), frame(reference, categorical), frame(live, categorical)
    calculators = [
        nannyml.UnivariateDriftCalculator(
            column_names=names,
            continuous_methods=[method],
            categorical_methods=["chi2" if method == "kolmogorov_smirnov" else method],
            chunk_size=size,
        ),
        nannyml.MissingValuesCalculator(column_names=names, chunk_size=size),
    ]
    found = np.zeros(len(live) // size, np.bool_)
    for calculator in calculators:
        table = calculator.fit(known).calculate(rows).filter(period="analysis").to_df()
        alerts = [column for column in table.columns if column[-1] == "alert"]
        found |= table[alerts].to_numpy(dtype=bool).any(axis=1)
    return at_ends(iter(found.tolist()), size)


def nannyml_batches() -> list[Variant]:
    """One chunk of 10,000 rows and 10 features, by a calculator that has been fitted."""
    import nannyml
    from drift import NUMPY, sample
    from harness import Variant, calls

    known, batch = frame(sample(20_000), False), frame(sample(10_000, seed=4), False)
    calculator = nannyml.UnivariateDriftCalculator(column_names=list(batch.columns), chunk_size=10_000).fit(known)
    return [Variant("NannyML, univariate drift", calls(calculator.calculate, batch), NUMPY)]


def scouter_tools() -> list[Tool]:
    """PSI by the drifter, held against the threshold that scouter's server uses: chi-square quantile over the rows."""
    blind = frozenset({"missing"})
    setting = "PSI over 10 quantile bins above χ²(0.95, bins - 1)/rows"
    return [
        Tool("scouter PSI, batches of 100", setting, partial(_watch_scouter, 100), blind=blind),
        Tool("scouter PSI, batches of 1,000", setting, partial(_watch_scouter, 1000), blind=blind),
    ]


def _scouter(reference: Floats, categorical: bool) -> tuple[Any, Any]:
    from scouter.drift import Drifter, PsiDriftConfig

    names = names_of(reference) if categorical else []
    drifter = Drifter()
    return drifter, drifter.create_drift_profile(reference, PsiDriftConfig(categorical_features=names))


def _watch_scouter(size: int, reference: Floats, live: Floats, categorical: bool) -> Iterator[bool]:
    import json

    drifter, profile = _scouter(reference, categorical)
    bins = {name: len(one["bins"]) for name, one in json.loads(profile.model_dump_json())["features"].items()}
    limits = {name: _chi_square_quantile(count - 1) / size for name, count in bins.items()}

    def answers() -> Iterator[bool]:
        for rows in panes_of(live, size):
            found = drifter.compute_drift(np.ascontiguousarray(rows), profile).features
            yield any(value > limits[name] for name, value in found.items())

    return at_ends(answers(), size)


def _chi_square_quantile(df: int) -> float:
    """The 95% quantile, by bisection: the environment has no SciPy."""
    from otel_mlobs.core.special import chi_square_sf

    low, high = 0.0, 10.0 * df + 50.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if float(chi_square_sf(middle, df)) > 0.05 else (low, middle)
    return low


def scouter_batches() -> list[Variant]:
    """PSI of a batch of 10,000 rows and 10 features, in scouter's threads."""
    from drift import NUMPY, sample
    from harness import Variant, calls

    drifter, profile = _scouter(sample(10_000), False)
    return [Variant("scouter, PSI", calls(drifter.compute_drift, sample(10_000, seed=4), profile), NUMPY)]


def whylogs_rows() -> list[Variant]:
    """Rows tracked in a whylogs profile."""
    from drift import BARE, NAMES, chunks, sample
    from harness import Variant
    from whylogs.core import DatasetProfile

    mappings = [dict(zip(NAMES, row.tolist(), strict=True)) for row in sample(1000, seed=3)]
    profile = DatasetProfile()
    return [Variant("whylogs, profile.track(row)", chunks(profile.track, mappings), BARE)]


def whylogs_batches() -> list[Variant]:
    """A data frame tracked in a whylogs profile."""
    from drift import NUMPY, sample
    from harness import Variant, calls
    from whylogs.core import DatasetProfile

    batch = frame(sample(10_000, seed=4), False)
    return [Variant("whylogs, profile.track(frame)", calls(DatasetProfile().track, batch), NUMPY)]


def environments(ours: str) -> dict[str, Environment]:
    """All environments; ``ours`` is what pip installs for otel-mlobs, which every one of them needs as the baseline."""
    own = ("-e", ours)
    return {
        "otel-mlobs": Environment(own, "otel-mlobs", our_tools, our_rows, our_batches),
        "river": Environment((*own, "river", "datasketches"), "river", river_tools, river_rows),
        "scouter": Environment((*own, "scouter-ml"), "scouter-ml", scouter_tools, batches=scouter_batches),
        "nannyml": Environment(
            (*own, "nannyml", "pandas<3", "statsmodels"),
            "nannyml",
            nannyml_tools,
            batches=nannyml_batches,
            settings={"NML_DISABLE_USAGE_LOGGING": "1"},
        ),
        "evidently": Environment(
            (*own, "evidently", "pandas<3"),
            "evidently",
            evidently_tools,
            batches=evidently_batches,
            settings={"DO_NOT_TRACK": "1"},
        ),
        "whylogs": Environment(
            (*own, "whylogs", "pandas<3"),
            "whylogs",
            list,
            whylogs_rows,
            whylogs_batches,
            {"WHYLOGS_NO_ANALYTICS": "True"},
        ),
    }


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Pareto with infinite variance."""
    return rng.pareto(1.5, shape)


def integers(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Poisson with mean 4."""
    return rng.poisson(4.0, shape).astype(np.float64)


def categories(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Twenty categories, the k-th with frequency 1/k."""
    weights = 1.0 / np.arange(1, 21)
    return rng.choice(20, shape, p=weights / weights.sum()).astype(np.float64)


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Standard normal."""
    return rng.normal(size=shape)


CALM: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], Floats], int]] = {
    "normal": (normal, 1),
    "heavy-tailed": (heavy_tailed, 1),
    "integers": (integers, 1),
    "categories": (categories, 1),
    "20 features": (normal, 20),
}
"""What does not drift: how values are drawn, and how many features there are."""


def _shifted(by: float) -> Callable[[Floats, np.random.Generator], Floats]:
    return lambda column, _rng: column + by


def _with_missing(column: Floats, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(len(column)) < 0.05, math.nan, column)


CHANGES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "0.25σ": _shifted(0.25),
    "0.5σ": _shifted(0.5),
    "scale 1.3": lambda column, _rng: 1.3 * column,
    "5% missing": _with_missing,
}
"""What happens to the first feature, whose values were standard normal."""
