"""How often and how soon the fleet's alarm (`otel-mlobs rules --drift`) speaks, beside the exact one in the process.

    python benchmarks/fleet_alarm.py delay --streams 200
    python benchmarks/fleet_alarm.py calm --panes 2000 --references 100
    python benchmarks/fleet_alarm.py psi
    python benchmarks/fleet_alarm.py increase

`evidence` computes what the recording rules compute, with NumPy, for many streams at once; tests hold it to what
Prometheus makes of the rules, and `increase` to its function of that name. A pane is a minute of the default window of
one hour: the rules' windows are 5, 15, 60 and 240 panes, evaluated once a pane. Rows are independent of one another.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import numpy as np

from otel_mlobs.core import distance
from otel_mlobs.core.alarm import Alarm
from otel_mlobs.core.binning import Bins
from otel_mlobs.core.drift import Reference
from otel_mlobs.core.profile import Column
from otel_mlobs.core.special import normal_cdf
from otel_mlobs.tools.drift_rules import ALTERNATIVES, BELIEVED_ROWS, LEAST_EXPECTED, RARE_TILT, SHAPE_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PANES = 10_080.0  # a week of minutes
WINDOWS = (5, 15, 60, 240)


def evidence(
    windows: Sequence[Floats], m: Floats, scores: Floats | None, *, alarm_every: float, features: int
) -> Floats:
    """The logarithm of the e-value that the rules give to these counts.

    Args:
        windows: the live counts of each window, shape (…, features, cells); missing and nonfinite/other come last.
        m: reference counts, (features, cells).
        scores: normal scores, (2, features, value cells); None where features are categories.
        alarm_every: A, evaluations for each false alarm.
        features: F, features and outputs that are watched together.
    """
    rows = m.sum(-1)
    believed = np.minimum(rows, BELIEVED_ROWS)
    deviations = math.sqrt(2 * math.log(alarm_every * features * len(windows) * ALTERNATIVES))
    total = np.zeros(windows[0].shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for c in windows:
            n = c.sum(-1)
            logarithms = []
            if scores is not None:
                logarithms += _of_scores(c, m, scores, believed / rows, deviations)
            q, p = distance.smoothed(c, m)
            expected = (np.minimum(n, believed) / rows)[..., None] * m
            kept = expected >= LEAST_EXPECTED
            psi = np.where(kept & (q > 0), (q - p) * np.log(q / p), 0).sum(-1)
            freedom = kept.sum(-1) - (kept.sum(-1) == (m > 0).sum(-1))
            shape = freedom / 2 * math.log(1 - SHAPE_WEIGHT) + SHAPE_WEIGHT / 2 * psi / (1 / n + 1 / believed)
            logarithms.append(np.where(kept.any(-1), shape, -np.inf))
            for cell in (-2, -1):
                logarithms.append(_of_rare(c[..., cell], m[:, cell], n, rows, believed, deviations))
            pool = _of_rare(np.where(kept, 0, c).sum(-1), np.where(kept, 0, m).sum(-1), n, rows, believed, deviations)
            logarithms.append(np.where(kept.all(-1), -np.inf, pool))
            ratios = np.exp(np.minimum(logarithms, 600.0)).sum(0)
            total += np.where(n > 0, ratios, 0)
        return np.asarray(np.log(total / (len(windows) * ALTERNATIVES)))


def _of_scores(c: Floats, m: Floats, scores: Floats, belief: Floats, deviations: float) -> list[Floats]:
    values, reference = c[..., :-2], m[:, :-2]
    v, reference_v = values.sum(-1), reference.sum(-1)
    believed = reference_v * belief
    logarithms = []
    for g in scores:
        tilt = 1 / np.sqrt((g**2).max(-1) + v * (1 + v / believed) / deviations**2)
        for t in (tilt, -tilt):
            moment = sum(np.exp(t * g[:, b]) * reference[:, b] for b in range(g.shape[1])) / reference_v
            logarithm = t * (values * g).sum(-1) - v * np.log(moment) - t**2 * v**2 / (2 * believed)
            logarithms.append(np.where(v > 0, logarithm, -np.inf))
    return logarithms


def _of_rare(y: Floats, m: Floats, n: Floats, rows: Floats, believed: Floats, deviations: float) -> Floats:
    tilt = 1 / np.sqrt((m + 0.5) * n / rows * (1 + n / believed) / deviations**2 + (n / (RARE_TILT * believed)) ** 2)
    return np.asarray(y * np.log1p(tilt) + (m + 0.5) * believed / rows * np.log1p(-tilt * n / believed))


def reference_of(m: Floats, *, numeric: bool) -> Reference:
    """The reference counts (features, cells) as a profile's columns."""
    width = m.shape[1] - 2
    bins = (
        Bins("numeric", edges=tuple(float(edge) for edge in range(width - 1)))
        if numeric
        else Bins("categorical", categories=tuple(range(width)))
    )
    none = (None, None, None, None)
    known = (0.0, float(width), 0.0, 1.0)
    positions = tuple(float(cell) for cell in range(width)) if numeric else ()
    return Reference(
        [
            Column(f"f{index}", bins, tuple(int(count) for count in row), *(known if numeric else none), positions)
            for index, row in enumerate(m)
        ]
    )


def sliding(panes: Floats, width: int) -> Floats:
    """Sums over the last ``width`` panes, at every pane; over those there are, at the beginning."""
    total = np.concatenate([np.zeros((1, *panes.shape[1:])), np.cumsum(panes, axis=0)])
    ends = np.arange(1, len(total))
    return np.asarray(total[ends] - total[np.maximum(ends - width, 0)])


def fleet(panes: Floats, m: Floats, features: int, *, numeric: bool = True) -> Floats:
    """The logarithm of e at every pane, (panes, features)."""
    scores = np.stack(reference_of(m, numeric=numeric).normal_scores()) if numeric else None
    windows = [sliding(panes, width) for width in WINDOWS]
    return evidence(windows, m, scores, alarm_every=PANES, features=features)


def exact(panes: Floats, m: Floats, features: int) -> Floats:
    """The logarithm of e of the in-process alarm at every pane; one of ``features`` features each."""
    real = np.ones(m.shape, np.bool_)
    # Alternatives are put where they would alarm, so that A stands for what one of several features needs
    alarm = Alarm(m, real, np.ones(len(m), np.bool_), panes_per_alarm=PANES * features / len(m))
    return np.log([alarm.update(pane.astype(np.int64)) for pane in panes])


# -- delay ------------------------------------------------------------------------------------------------------------

CHANGES = {
    "0.25σ": {"shift": 0.25},
    "0.5σ": {"shift": 0.5},
    "scale × 1.3": {"scale": 1.3},
    "5% missing": {"missing": 0.05},
    "0.1σ": {"shift": 0.1},
}


def normal_reference(streams: int, rows: int, rng: np.random.Generator, cells: int = 10) -> tuple[Floats, Floats]:
    """Counts of normal references in their own quantile cells, and the cells' edges."""
    counts, edges = np.zeros((streams, cells + 2)), np.zeros((streams, cells - 1))
    for stream in range(streams):
        values = np.sort(rng.standard_normal(rows))
        edges[stream] = values[np.arange(1, cells) * rows // cells - 1]
        counts[stream, :cells] = np.diff(np.searchsorted(values, edges[stream], "right"), prepend=0, append=rows)
    return counts, edges


def normal_shares(edges: Floats, *, shift: float = 0.0, scale: float = 1.0, missing: float = 0.0) -> Floats:
    """The true shares of the cells of those references."""
    below = normal_cdf((edges - shift) / scale)
    ends = np.zeros((len(edges), 1)), np.ones((len(edges), 1))
    values = np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1) * (1 - missing)
    return np.concatenate([values, ends[1] * missing, ends[0]], axis=1)


def delay(streams: int, rng: np.random.Generator) -> None:
    """Rows from a change to the alarm, median/95%, panes of 100 rows."""
    before, after, rows = 300, 300, 100
    for features in (1, 20):
        for reference_rows in (1_000, 10_000, 100_000):
            m, edges = normal_reference(streams, reference_rows, rng)
            for name, change in CHANGES.items():
                shares = normal_shares(edges), normal_shares(edges, **change)
                panes = np.concatenate(
                    [
                        rng.multinomial(rows, shares[0], (before, streams)),
                        rng.multinomial(rows, shares[1], (after, streams)),
                    ]
                ).astype(float)
                found = {"fleet": fleet(panes, m, features), "exact": exact(panes, m, features)}
                words = []
                for who, logarithms in found.items():
                    alarms = logarithms >= math.log(PANES * features)
                    first = np.where(alarms[before:].any(0), alarms[before:].argmax(0) + 1.0, np.inf) * rows
                    middle, late = np.quantile(first, (0.5, 0.95), method="inverted_cdf")
                    words.append(f"{who} {middle:,.0f}/{late:,.0f} ({alarms[:before].sum()} false)")
                print(
                    f"{features:2} features, reference {reference_rows:7,}, {name:12} " + "  ".join(words), flush=True
                )


# -- calm -------------------------------------------------------------------------------------------------------------


def _poisson(mean: float, most: int) -> Floats:
    shares = [math.exp(-mean) * mean**k / math.factorial(k) for k in range(most)]
    return np.array([*shares, 1 - sum(shares)])


def _zipf(categories: int, kept: int) -> Floats:
    shares = 1 / np.arange(1, categories + 1)
    shares /= shares.sum()
    return np.concatenate([shares[:kept], [0.0, shares[kept:].sum()]])


POPULATIONS = {
    "continuous": (np.array([0.1] * 10 + [0, 0]), True),
    "0.1% missing": (np.array([0.0999] * 10 + [0.001, 0]), True),
    "5% missing": (np.array([0.095] * 10 + [0.05, 0]), True),
    "Poisson(1)": (np.concatenate([_poisson(1, 5), [0, 0]]), True),
    "5 categories": (np.array([0.4, 0.3, 0.15, 0.1, 0.05, 0, 0]), False),
    "20 categories": (_zipf(20, 20), False),
    "1,000 categories": (_zipf(1_000, 32), False),
}


def calm(panes: int, references: int, rng: np.random.Generator) -> None:
    """Alarm panes per 10,000 panes and feature where nothing drifts; how many of the references ever alarm; mean e."""
    for features in (1, 20):
        for rows in (2, 20, 100, 1_000, 10_000):
            for reference_rows in (1_000, 10_000, 100_000):
                words = []
                for name, (shares, numeric) in POPULATIONS.items():
                    m = rng.multinomial(reference_rows, shares, references).astype(float)
                    truth = np.tile(shares, (references, 1))
                    if name == "continuous":  # the cells are the reference's own quantiles: the truth varies instead
                        truth[:, :10] = rng.dirichlet(np.full(10, reference_rows / 10), references)
                        m = np.tile(shares * reference_rows, (references, 1))
                    counts = rng.multinomial(rows, truth, (panes, references)).astype(float)
                    logarithms = fleet(counts, m, features, numeric=numeric)
                    alarms = logarithms >= math.log(PANES * features)
                    words.append(
                        f"{name} {alarms.mean() * 1e4:.2f} ({alarms.any(0).sum()}) e={np.exp(logarithms).mean():.2g}"
                    )
                print(
                    f"{features:2} features, panes of {rows:6,}, reference {reference_rows:7,}: " + ", ".join(words),
                    flush=True,
                )


def psi(rng: np.random.Generator) -> None:
    """Mean of PSI and of the corrected PSI where nothing drifts, in units of s = 1/n + 1/M."""
    for name, (shares, _) in POPULATIONS.items():
        words = []
        for rows in (100, 1_000, 10_000):
            for reference_rows in (1_000, 10_000, 100_000):
                m = rng.multinomial(reference_rows, shares, 5_000).astype(float)
                c = rng.multinomial(rows, shares, 5_000).astype(float)
                found = distance.psi(*distance.smoothed(c, m))
                cells, s = ((c + m) > 0).sum(-1), 1 / rows + 1 / reference_rows
                words.append(f"{(found / s - (cells - 1)).mean():+.2f} ({found.mean():.2g})")
        print(f"{name:17} PSI/s - (k - 1), mean (mean PSI), n = 100, 1,000, 10,000 by M likewise: " + ", ".join(words))


# -- what increase() adds ---------------------------------------------------------------------------------------------


def increase(times: Floats, values: Floats, end: float, window: float) -> Floats:
    """What Prometheus finds at ``end`` for the last ``window`` seconds of counters that were never reset.

    ``values`` has the shape (samples, series), sampled at ``times``. Prometheus looks at the samples in
    (end - window, end] and extrapolates to the window's ends: not where the next sample is missing, and not to below
    zero.
    """
    seen = (times > end - window) & (times <= end)
    times, values = times[seen], values[seen]
    if len(times) < 2:
        return np.zeros(values.shape[1:])
    grown, sampled = values[-1] - values[0], times[-1] - times[0]
    between = sampled / (len(times) - 1)
    before, after = (
        gap if gap < 1.1 * between else between / 2 for gap in (times[0] - (end - window), end - times[-1])
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        to_zero = np.where(grown > 0, sampled * values[0] / grown, sampled)
    return np.asarray(grown * (sampled + np.minimum(before, to_zero) + after) / sampled)


def _every(period: int, minutes: Floats, rng: np.random.Generator) -> Floats:
    """As many rows as there would be in ``period`` seconds, all at once, at a time of the worker's own."""
    return (np.round(minutes * 60) % period == rng.integers(period)) * float(period)


TRAFFIC = {
    "steady": lambda minutes, rng: np.ones_like(minutes),
    "a wave of 2 hours, 3 to 1": lambda minutes, rng: 1 + 0.5 * np.sin(minutes * math.pi / 60),
    "started half a window ago": lambda minutes, rng: minutes >= 0,
    "stopped half a window ago": lambda minutes, rng: minutes < 0,
    "one batch in 10 minutes": lambda minutes, rng: _every(600, minutes, rng),
}


def extrapolation(streams: int, rng: np.random.Generator) -> None:
    """Error of increase(): rows in %, median/95%, and of PSI, absolute; four workers, a row a second each."""
    shares, workers = POPULATIONS["0.1% missing"][0], 4
    m = np.round(shares * 10_000)
    moved = shares * np.linspace(0.8, 1.2, len(shares))
    moved /= moved.sum()
    for name, rate in TRAFFIC.items():
        for export in (15.0, 60.0):
            for window in (300.0, 3600.0):
                rows, psis, plain = [], [], []
                for _ in range(streams):
                    start, end = -window, window / 2  # the window begins at -window/2; older rows are there, too
                    seconds = np.arange(start, end)
                    estimate, truth = np.zeros(len(shares)), np.zeros(len(shares))
                    for _ in range(workers):
                        counts = rng.multinomial(rng.poisson(rate(seconds / 60, rng)), moved)
                        truth += counts[seconds >= end - window].sum(0)
                        totals = np.concatenate([np.zeros((1, len(shares))), np.cumsum(counts, axis=0)])
                        times = np.arange(start + rng.uniform(0, export), end, export)
                        if name.startswith("started"):
                            times = times[times >= -export]  # a new worker's first export is zero
                        estimate += increase(times, totals[np.floor(times - start).astype(int)], end, window)
                    if not truth.any() or not estimate.any():
                        continue
                    exact_psi, found = (float(distance.psi(*distance.smoothed(c, m))) for c in (truth, estimate))
                    rows.append(estimate.sum() / truth.sum() - 1)
                    psis.append(abs(found - exact_psi))
                    plain.append(exact_psi)
                error = np.quantile(np.abs(rows), (0.5, 0.95)) * 100
                print(
                    f"{name:26} export {export:2.0f} s, window {window / 60:2.0f} min: rows {np.mean(rows):+.2%} "
                    f"on average, {error[0]:.2f}/{error[1]:.2f}%; PSI {np.median(plain):.3f}, "
                    f"error {np.median(psis):.1e}/{np.quantile(psis, 0.95):.1e}",
                    flush=True,
                )


def main() -> None:
    """Run one of the simulations."""
    whats = {
        "delay": lambda options, rng: delay(options.streams, rng),
        "calm": lambda options, rng: calm(options.panes, options.references, rng),
        "psi": lambda _, rng: psi(rng),
        "increase": lambda options, rng: extrapolation(options.streams, rng),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(whats))
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--panes", type=int, default=2_000)
    parser.add_argument("--references", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    whats[options.what](options, np.random.default_rng(options.seed))


if __name__ == "__main__":
    main()
