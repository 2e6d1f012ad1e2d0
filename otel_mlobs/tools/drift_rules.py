"""Recording rules that compute drift over a whole fleet in Prometheus, from the counts and references of its monitors.

What each rule computes, and how far from exact it is, is in docs/fleet-drift.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.core.binning import MISSING, NONFINITE, OTHER
from otel_mlobs.tools.rules import Group, Rule, prometheus_name, rule_file, write_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WEEK = 604_800.0
BELIEVED_ROWS = 10_000
"""Rows of a reference that the alarm believes: the reference is a sample, and what it cannot tell is no drift."""
SHAPE_WEIGHT = 0.8
"""h in (1 - h)^(df/2) · exp(h · PSI / 2s)."""
LEAST_EXPECTED = 20
"""Expected rows below which a cell's PSI is not near enough to chi-square."""
RARE_TILT = 0.8
"""How far the alternative of a rare cell goes; 1 is where its e-value would have no bound."""
ALTERNATIVES = 8
"""E-values that a feature has for a window: shift and scale, up and down; shape; missing; unseen; rare."""
ALARM_WINDOWS = (1 / 12, 1 / 4, 1, 4)
"""The alarm's windows, as multiples of the rules' window."""
_LEAST_SHORTEST = 60

_SPECIAL = {
    "missing": (MISSING, "missing values"),
    "unseen": (f"{NONFINITE}|{OTHER}", "values that are not finite, or of no category that has a cell"),
}
_ALL_SPECIAL = f"{MISSING}|{NONFINITE}|{OTHER}"

_LABELS = {
    attribute.key: prometheus_name(attribute)
    for metric in (semconv.FEATURE_REFERENCE_SCORE, semconv.PREDICTION_REFERENCE)
    for attribute in metric.attributes
}
_MODEL_LABELS = tuple(_LABELS[key] for key in (semconv.MODEL_NAME, semconv.MODEL_VERSION, semconv.PROFILE_ID))
_BIN, _SCORE = _LABELS[semconv.BIN], _LABELS[semconv.NORMAL_SCORE]
_ALTERNATIVE, _WINDOW = "mlobs_alternative", "mlobs_window"  # labels of the rules' own
_OVER_CELLS = f"ignoring ({_BIN}) group_left ()"

_THRESHOLD = "model:mlobs_drift_threshold:log10"
_DEVIATIONS = "model:mlobs_drift_alarm:deviations"

_HEADER = """\
Drift of every model over its whole fleet, from the counts and references that otel-mlobs' monitors export.
Made by `otel-mlobs rules --drift`: change its arguments rather than this file.
In comments: c live rows in a cell, n their sum; m reference rows in a cell, M their sum; k cells that are not empty \
on both sides; q and p the smoothed live and reference shares.
Formulas, sources and errors: "Drift over a fleet" in otel-mlobs' documentation."""


@dataclass(frozen=True)
class _Subject:
    """What drifts: the features, or the outputs of predictions."""

    name: str
    label: str
    observations: semconv.Metric
    reference: semconv.Metric
    scores: semconv.Metric | None


_SUBJECTS = (
    _Subject(
        "feature",
        _LABELS[semconv.FEATURE_NAME],
        semconv.FEATURE_OBSERVATIONS,
        semconv.FEATURE_REFERENCE,
        semconv.FEATURE_REFERENCE_SCORE,
    ),
    _Subject(
        "prediction",
        _LABELS[semconv.PREDICTION_OUTPUT],
        semconv.PREDICTION_OBSERVATIONS,
        semconv.PREDICTION_REFERENCE,
        None,
    ),
)


def drift_rules(
    *,
    window: float = 3600.0,
    interval: float = 30.0,
    false_alarms_per_week: float = 1.0,
    totals: bool = False,
    by: Sequence[str] = ("job",),
) -> str:
    """A Prometheus rule file with the drift of every model over its fleet; the same text for the same arguments.

    Args:
        window: seconds that the distances look back, and the middle of the alarm's windows. At least 12 minutes.
        interval: seconds between evaluations, at most a twelfth of the window.
        false_alarms_per_week: how many evaluations a week may be in alarm, on average, where nothing drifts.
        totals: compare all rows since each worker's start, of the workers that have reported within the window,
            instead of the rows of the window. Exact, where ``increase()`` extrapolates; without the alarm.
        by: labels that tell fleets apart, beside the model's.

    Durations are whole seconds. A value outside these bounds raises ``ValueError``.
    """
    for name, seconds in (("window", window), ("interval", interval)):
        if not (1 <= seconds < math.inf and seconds == int(seconds)):
            raise ValueError(f"{name} must be whole seconds above 0, got {seconds:g}")
    if window < 12 * _LEAST_SHORTEST:
        raise ValueError(
            f"window must be at least {write_duration(12 * _LEAST_SHORTEST)} (the alarm's shortest window is a twelfth "
            f"of it and should see four exports), got {write_duration(window)}"
        )
    if interval > window / 12:
        raise ValueError(
            f"interval must be at most a twelfth of the window, {write_duration(window // 12)}, "
            f"got {write_duration(interval)}"
        )
    if not (0 < false_alarms_per_week < WEEK / interval):
        raise ValueError(
            f"false_alarms_per_week must be above 0 and below {WEEK / interval:g} (evaluations a week), "
            f"got {false_alarms_per_week:g}"
        )
    writer = _Writer(window, WEEK / interval / false_alarms_per_week, totals=totals, by=tuple(by))
    return rule_file(_HEADER, list(writer.groups()), write_duration(interval))


class _Writer:
    """Writes the groups; at most 20 rules in each, which is what Mimir takes by default.

    Only the rules that read exported series name their labels. What they record has no others, so that the rules after
    them say what to leave out: `without`, `ignoring`.
    """

    def __init__(self, window: float, evaluations_per_alarm: float, *, totals: bool, by: tuple[str, ...]) -> None:
        self._lookback = write_duration(window)
        self._evaluations = evaluations_per_alarm
        self._totals = totals
        self._windows = [write_duration(round(window * multiple)) for multiple in ALARM_WINDOWS]
        self._model = ", ".join((*by, *_MODEL_LABELS))

    def groups(self) -> Iterator[Group]:
        """All groups; a rule uses what stands before it."""
        for subject in _SUBJECTS:
            yield Group(f"mlobs_drift_{subject.name}_reference", tuple(self._reference(subject)))
        if self._totals:
            for subject in _SUBJECTS:
                yield Group(f"mlobs_drift_{subject.name}_totals", tuple(self._compare(subject, None)))
            return
        yield Group("mlobs_drift_threshold", tuple(self._threshold()))
        for subject in _SUBJECTS:
            for window in self._windows:
                rules = (*self._compare(subject, window), *_alarm(subject, window))
                yield Group(f"mlobs_drift_{subject.name}_{window}", rules)
        yield Group("mlobs_drift_evidence", tuple(self._evidence()))

    def _cell(self, subject: _Subject) -> str:
        return f"{self._model}, {subject.label}, {_BIN}"

    def _reference(self, subject: _Subject) -> Iterator[Rule]:
        at, back = _names(subject, ""), self._lookback
        base = f"{subject.name}:mlobs_{subject.name}"
        yield Rule(
            at["m"],
            f"max by ({self._cell(subject)}) (\n"
            f"  last_over_time({prometheus_name(subject.reference)}[{back}])\n"
            ")\n"
            f"* on ({self._model}) group_left ()\n"
            f"max by ({self._model}) (\n"
            f"  last_over_time({prometheus_name(semconv.PROFILE_ROWS)}[{back}])\n"
            ")",
            "m: reference rows in each cell, the exported share times the profile's rows. Every worker exports the "
            "same; what a worker exported last counts until the window has passed, so that the drift of a job that has "
            "ended can still be read.",
        )
        yield Rule(at["M"], f"sum without ({_BIN}) ({at['m']}) > 0", "M: reference rows.")
        for what, (bins, meaning) in _SPECIAL.items():
            yield Rule(
                f"{base}_{what}_reference:ratio",
                f'sum without ({_BIN}) ({at["m"]}{{{_BIN}=~"{bins}"}}) / {at["M"]}',
                f"The reference's share of {meaning}.",
            )
        if self._totals:
            return
        yield Rule(
            at["K"],
            f"clamp_max({at['M']}, {BELIEVED_ROWS})",
            f"K: rows of the reference that the alarm believes, min(M, {BELIEVED_ROWS}). It is also the alarm's "
            "tolerance: what such a sample cannot tell is no drift.",
        )
        if subject.scores:
            yield Rule(
                at["g"],
                f"max by ({self._cell(subject)}, {_SCORE}) (\n"
                f"  last_over_time({prometheus_name(subject.scores)}[{back}])\n"
                ")",
                "g: normal scores of a numeric feature's cells, shift and scale; mean 0 and variance 1 under the "
                "reference.",
            )
            yield Rule(
                at["V"],
                f'sum without ({_BIN}) ({at["m"]} and ignoring ({_SCORE}) {at["g"]}{{{_SCORE}="shift"}}) > 0',
                "V: reference rows in cells that have scores.",
            )

    def _threshold(self) -> Iterator[Rule]:
        rows = " or ".join(_names(subject, "")["M"] for subject in _SUBJECTS)
        yield Rule(
            _THRESHOLD,
            f"log10({self._evaluations:.15g} * count by ({self._model}) ({rows}))",
            f"What a feature's evidence is compared with: log10(A F), A = {self._evaluations:g} evaluations for each "
            "false alarm, F features and outputs. By Markov's inequality and the union bound an evaluation is in alarm "
            "with probability 1/A at most where nothing drifts (e-BH's first step: Wang and Ramdas 2022).",
        )
        count = len(self._windows) * ALTERNATIVES
        yield Rule(
            _DEVIATIONS,
            f"sqrt(2 * ({math.log(10):.15g} * {_THRESHOLD} + {math.log(count):.15g}))",
            f"d = sqrt(2 L), L = ln(A F {count}), {len(self._windows)} windows times {ALTERNATIVES} alternatives: "
            "the standard deviations that an alarm takes. Alternatives are put where they would just alarm.",
        )

    def _compare(self, subject: _Subject, window: str | None) -> Iterator[Rule]:
        operation = "totals" if window is None else f"increase{window}"
        at = _names(subject, operation)
        observations = prometheus_name(subject.observations)
        live = (
            f"last_over_time({observations}[{self._lookback}])"
            if window is None
            else f"increase({observations}[{window}])"
        )
        yield Rule(
            at["c"],
            f"sum by ({self._cell(subject)}) (\n  {live}\n)\nor\n0 * {at['m']}",
            "c: live rows in each cell, over all workers; cells without any are kept. "
            + ("All rows since each worker's start." if window is None else f"Window {window}."),
        )
        yield Rule(at["n"], f"sum without ({_BIN}) ({at['c']}) > 0", "n: live rows.")
        yield Rule(
            at["k"], f"count without ({_BIN}) ({at['c']} + {at['m']} > 0)", "k: cells that are not empty on both sides."
        )
        for share, count, rows, whose in (("q", "c", "n", "live"), ("p", "m", "M", "reference")):
            yield Rule(
                at[share],
                "(\n"
                f"  {at[count]}\n"
                f"  + ({at['c']} + {at['m']} > 0)\n"
                f"  * {_OVER_CELLS} ({at['k']} / 2 / ({at['n']} + {at['M']}))\n"
                ")\n"
                f"/ {_OVER_CELLS} ({at[rows]} + {at['k']} / 2)",
                f"{share} = ({count} + k/2 r) / ({rows} + k/2), r = (c + m) / (n + M): {whose} shares, smoothed "
                "towards the pooled ones.",
            )
        yield Rule(
            at["psi"],
            f"sum without ({_BIN}) (\n  {_psi_terms(at)}\n)",
            "PSI = sum (q - p) ln(q / p), the population stability index (Jeffreys' divergence).",
        )
        if window not in (None, self._lookback):
            return
        yield Rule(
            f"{subject.name}:mlobs_drift_psi_adjusted:{operation}",
            f"clamp_min({at['psi']} - ({at['k']} - 1) * (1 / {at['n']} + 1 / {at['M']}), 0)",
            "max(0, PSI - (k - 1)(1/n + 1/M)): less what two samples of one population differ by on average (Yurdakul "
            "2018).",
        )
        halves = " + ".join(
            f"sum without ({_BIN}) (\n"
            f"    ({at[ours]} > 0) * log2(1 + {at[theirs]} / {at[ours]} * {_OVER_CELLS} ({at[rows]} / {at[others]}))\n"
            f"  ) / {at[rows]}"
            for ours, rows, theirs, others in (("c", "n", "m", "M"), ("m", "M", "c", "n"))
        )
        yield Rule(
            f"{subject.name}:mlobs_drift_jensen_shannon:{operation}",
            f"sqrt(clamp_min(1 - (\n  {halves}\n) / 2, 0))",
            "Jensen-Shannon distance of c/n and m/M, base 2 (Endres and Schindelin 2003): 0 alike, 1 without a cell in "
            "common.",
        )
        for what, (bins, meaning) in _SPECIAL.items():
            yield Rule(
                f"{subject.name}:mlobs_{subject.name}_{what}:ratio_{operation}",
                f'sum without ({_BIN}) ({at["c"]}{{{_BIN}=~"{bins}"}}) / {at["n"]}',
                f"Share of {meaning}.",
            )

    def _evidence(self) -> Iterator[Rule]:
        count = len(self._windows) * ALTERNATIVES
        for subject in _SUBJECTS:
            alternatives = _names(subject, "")["alternatives"]
            yield Rule(
                f"{subject.name}:mlobs_drift_evidence:log10",
                "log10(\n"
                f"  sum without ({_WINDOW}, {_ALTERNATIVE}, {_SCORE}, {_BIN}) (exp(clamp_max({alternatives}, 600)))\n"
                f"  / {count}\n"
                ")",
                f"log10 of the mean of the e-values of all windows and alternatives, {count}; one that is not there "
                "counts as 0. An average of e-values is one (Vovk and Wang 2021). Drift where this reaches "
                f"{_THRESHOLD}.",
            )


def _names(subject: _Subject, operation: str) -> dict[str, str]:
    """The symbols of the formulas, and the series that hold them."""
    name, base = subject.name, f"mlobs_{subject.name}"
    return {
        "m": f"{name}_bin:{base}_reference:rows",
        "M": f"{name}:{base}_reference:rows",
        "K": f"{name}:{base}_reference:believed_rows",
        "V": f"{name}:{base}_reference:value_rows",
        "g": f"{name}_bin:{base}_reference_score:max",
        "c": f"{name}_bin:{base}_observations:{operation}",
        "n": f"{name}:{base}_observations:{operation}",
        "k": f"{name}:{base}_bins:{operation}",
        "q": f"{name}_bin:{base}_live_share:{operation}",
        "p": f"{name}_bin:{base}_reference_share:{operation}",
        "psi": f"{name}:mlobs_drift_psi:{operation}",
        "v": f"{name}:{base}_values:{operation}",
        "expected": f"{name}_bin:{base}_expected:{operation}",
        "score tilt": f"{name}_score:mlobs_drift_tilt:{operation}",
        "cell tilt": f"{name}_bin:mlobs_drift_tilt:{operation}",
        "pool tilt": f"{name}:mlobs_drift_tilt:{operation}",
        "alternatives": f"{name}_alternative:mlobs_drift_evidence:ln",
    }


def _psi_terms(at: dict[str, str]) -> str:
    return f"({at['q']} - {at['p']})\n  * ln({at['q']} / {at['p']})"


def _alarm(subject: _Subject, window: str) -> Iterator[Rule]:
    """The e-values of one window's alternatives, as logarithms."""
    at = _names(subject, f"increase{window}")
    labels = {_WINDOW: window}
    if subject.scores:
        yield from _alarm_of_scores(subject, at, labels)
    yield Rule(
        at["expected"],
        f"{at['m']}\n* {_OVER_CELLS} (({at['n']} < {at['K']} or {at['K']}) / {at['M']})\n>= {LEAST_EXPECTED}",
        f"Expected rows min(n, K) m / M of the cells that have {LEAST_EXPECTED}: in fewer, PSI is no chi-square.",
    )
    kept = f"count without ({_BIN}) ({at['expected']})"
    yield Rule(
        at["alternatives"],
        f"{math.log(1 - SHAPE_WEIGHT) / 2:.15g} * (\n"
        f"  {kept}\n"
        f"  - ({kept} == bool count without ({_BIN}) ({at['m']} > 0))\n"
        ")\n"
        f"+ {SHAPE_WEIGHT / 2:g} * sum without ({_BIN}) (\n"
        f"  {_psi_terms(at)}\n"
        f"  and {at['expected']}\n"
        ")\n"
        f"/ (1 / {at['n']} + 1 / {at['K']})",
        "ln e, any change of shape: (1 - h)^(df/2) exp(h PSI / 2s) over those cells, s = 1/n + 1/K, "
        f"h = {SHAPE_WEIGHT:g}; df is their number, less one where they are all there are.",
        {**labels, _ALTERNATIVE: "shape"},
    )
    special = f'{{{_BIN}=~"{_ALL_SPECIAL}"}}'
    cells = f"({at['m']}{special} + 0.5)"
    yield Rule(
        at["cell tilt"],
        _rare_tilt(subject, cells, at, f"{_OVER_CELLS} "),
        "t, for the cells of missing and unseen values: about d standard deviations of the cell's count, and below "
        f"{RARE_TILT:g} K/n.",
    )
    # Where a cell's share is known as Gamma(a, K), its count y has E[(1 + t)^y] = (1 - t n/K)^-a: their ratio is an
    # e-value, and one without ln Gamma, which PromQL lacks.
    yield Rule(
        at["alternatives"],
        f"{at['c']}{special}\n"
        f"* ln(1 + {at['cell tilt']})\n"
        f"+ {cells}\n"
        f"* {_OVER_CELLS} ({at['K']} / {at['M']})\n"
        f"* ln(1 - {at['cell tilt']} * {_OVER_CELLS} ({at['n']} / {at['K']}))",
        "ln e, more missing or more unseen values: (1 + t)^c (1 - t n/K)^a, a = K (m + 1/2) / M.",
        {**labels, _ALTERNATIVE: "more"},
    )
    pool = f"(sum without ({_BIN}) ({at['m']} unless {at['expected']}) + 0.5)"
    yield Rule(
        at["pool tilt"],
        _rare_tilt(subject, pool, at, ""),
        "t, for the pool of the cells that are too rare for the change of shape.",
    )
    yield Rule(
        at["alternatives"],
        f"sum without ({_BIN}) ({at['c']} unless {at['expected']})\n"
        f"* ln(1 + {at['pool tilt']})\n"
        f"+ {pool}\n"
        f"* {at['K']} / {at['M']}\n"
        f"* ln(1 - {at['pool tilt']} * {at['n']} / {at['K']})",
        "ln e, more rows in that pool, by the same formula.",
        {**labels, _ALTERNATIVE: "rare"},
    )


def _alarm_of_scores(subject: _Subject, at: dict[str, str], labels: dict[str, str]) -> Iterator[Rule]:
    believed = f"({at['V']} * {at['K']} / {at['M']})"
    over_scores = f"ignoring ({_SCORE}) group_left ()"
    yield Rule(
        at["v"],
        f'sum without ({_BIN}) ({at["c"]} and ignoring ({_SCORE}) {at["g"]}{{{_SCORE}="shift"}}) > 0',
        "v: live rows in cells that have scores.",
    )
    yield Rule(
        at["score tilt"],
        "1 / sqrt(\n"
        f"  max without ({_BIN}) ({at['g']} ^ 2)\n"
        f"  + {over_scores} (\n"
        f"    {at['v']} * (1 + {at['v']} / {believed})\n"
        f"    / ignoring ({subject.label}) group_left () ({_DEVIATIONS} ^ 2)\n"
        "  )\n"
        ")",
        "t, how far the alternative tilts a row's score: about d standard deviations of their sum, and t |g| < 1, so "
        "that the reference's own error stays near a Gaussian one.",
    )
    for direction, sign in (("up", ""), ("down", "-")):
        tilt = f"{sign}{at['score tilt']}"
        yield Rule(
            at["alternatives"],
            f"{tilt}\n"
            f"* sum without ({_BIN}) ({at['g']} * {over_scores} {at['c']})\n"
            "- ln(\n"
            f"  sum without ({_BIN}) (\n"
            f"    exp({at['g']} * {_OVER_CELLS} ({tilt}))\n"
            f"    * {over_scores} {at['m']}\n"
            "  )\n"
            f"  / {over_scores} {at['V']}\n"
            ")\n"
            f"* {over_scores} {at['v']}\n"
            f"- {at['score tilt']} ^ 2\n"
            f"* {over_scores} ({at['v']} ^ 2 / (2 * {believed}))",
            f"ln e, scores that go {direction} (shift: the values; scale: their spread): exp(t sum(c g) - v ln E[exp(t "
            f"g)] - v^2 t^2 / (2 V K / M)){' for -t' if sign else ''}, E over the reference's rows; the last term is "
            "the reference's own error.",
            {**labels, _ALTERNATIVE: direction},
        )


def _rare_tilt(subject: _Subject, cells: str, at: dict[str, str], over: str) -> str:
    """What t is: 1 / √((n / 0.8K)² + n (m + ½)/M (1 + n/K) / d²): below 0.8 K/n, and below d standard deviations."""
    n, believed = at["n"], at["K"]
    return (
        "1 / sqrt(\n"
        f"  {cells}\n"
        f"  * {over}(\n"
        f"    {n} / {at['M']} * (1 + {n} / {believed})\n"
        f"    / ignoring ({subject.label}) group_left () ({_DEVIATIONS} ^ 2)\n"
        "  )\n"
        f"  + {over}(({n} / ({RARE_TILT:g} * {believed})) ^ 2)\n"
        ")"
    )
