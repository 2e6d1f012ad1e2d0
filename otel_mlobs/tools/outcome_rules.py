"""Recording rules that compute in Prometheus, over a whole fleet, how right its models are and are expected to be.

What each rule computes, and over which rows, is in docs/realised-performance.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from otel_mlobs import semconv
from otel_mlobs.core.binning import MISSING, NONFINITE
from otel_mlobs.tools.rules import Group, Rule, label, prometheus_name, rule_file, write_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Z = 1.959963984540054
"""Standard errors on each side of a 95% interval."""
_LEAST_PROBABILITY = 2.220446049250313e-16

_MODEL = tuple(label(key) for key in (semconv.MODEL_NAME, semconv.MODEL_VERSION))
_PROFILE = label(semconv.PROFILE_ID)
_CELL, _CLASS, _BIN = label(semconv.OUTCOME_CELL), label(semconv.OUTCOME_CLASS), label(semconv.BIN)
_LABEL, _LABELLED, _RESULT = (
    label(semconv.OUTCOME_LABEL), label(semconv.OUTCOME_LABELLED), label(semconv.OUTCOME_RESULT)
)  # fmt: skip
_DIRECTION, _CURRENCY, _OUTPUT = (
    label(semconv.OUTCOME_DIRECTION), label(semconv.CURRENCY), label(semconv.PREDICTION_OUTPUT)
)  # fmt: skip
_METRIC, _BOUND = label(semconv.PERFORMANCE_METRIC), label(semconv.PERFORMANCE_BOUND)
_EVENT, _POSITION = label(semconv.RANKING_EVENT), label(semconv.RANKING_POSITION)

_ONE, _SEVERAL = f'{_CLASS}=""', f'{_CLASS}!=""'
_QUANTILES = {"p50": 0.5, "p95": 0.95}
_REALIZED = "model:mlobs_performance_realized"
_LABEL_NAMES = ("positive", "negative", "negative_below")
_ESTIMATE = "model:mlobs_performance_estimate"
_RELIABLE = "model:mlobs_performance_reliable:min"

_HEADER = """\
How right every model is over its whole fleet, by the labels that came, and how right it is expected to be without them.
Made by `otel-mlobs rules --outcomes`: change its arguments rather than this file.
The windows are of when a label came, or its prediction was mature; what is expected is of when predictions were made.
Of several classes each is taken against the rest (mlobs_outcome_class); scores have one class and no such label.
What each figure is: "Realised performance" in otel-mlobs' documentation."""


def outcome_rules(
    *, window: float = 86_400.0, interval: float = 60.0, totals: bool = False, by: Sequence[str] = ("job",)
) -> str:
    """A Prometheus rule file with the performance of every model over its fleet; same arguments, same text.

    Args:
        window: seconds that the figures look back.
        interval: seconds between evaluations, at most the window.
        totals: figures of everything since each worker's start, of the workers that have reported within the window,
            instead of what the window added. Exact, where ``increase()`` extrapolates.
        by: labels that tell fleets apart, beside the model's. The variant of an A/B test is one for the figures of
            confusion cells.

    Durations are whole seconds. A value outside these bounds raises ``ValueError``.
    """
    for name, seconds in (("window", window), ("interval", interval)):
        if not (1 <= seconds < math.inf and seconds == int(seconds)):
            raise ValueError(f"{name} must be whole seconds above 0, got {seconds:g}")
    if interval > window:
        raise ValueError(
            f"interval must be at most the window, {write_duration(window)}, got {write_duration(interval)}"
        )
    writer = _Writer(write_duration(window), totals=totals, by=tuple(by))
    return rule_file(_HEADER, list(writer.groups()), write_duration(interval))


class _Writer:
    """Writes the groups; at most 20 rules in each, which is what Mimir takes by default.

    Only the rules that read exported series name their labels. What they record has no others, so that the rules after
    them say what to leave out: `without`, `ignoring`.
    """

    def __init__(self, window: str, *, totals: bool, by: tuple[str, ...]) -> None:
        self._window = window
        self._totals = totals
        self._op = "totals" if totals else f"increase{window}"
        self._model = ", ".join((*by, *_MODEL))
        self._profile = ", ".join((*by, *_MODEL, _PROFILE))

    def groups(self) -> Iterator[Group]:
        """All groups; a rule uses what stands before it."""
        yield Group("mlobs_outcomes_labels", tuple(self._labels()))
        yield Group("mlobs_outcomes_shares", tuple(self._shares("outcome", semconv.OUTCOMES, semconv.OUTCOME_SCORES)))
        yield Group("mlobs_outcomes_intervals", tuple(self._intervals()))
        yield Group("mlobs_outcomes_probabilities", tuple(self._probabilities()))
        yield Group("mlobs_outcomes_errors", tuple(self._errors()))
        expected = self._shares("expected_outcome", semconv.EXPECTED_OUTCOMES, semconv.EXPECTED_OUTCOME_SCORES)
        yield Group("mlobs_outcomes_expected", tuple(expected))
        yield Group("mlobs_outcomes_estimates", tuple(self._estimates()))
        yield Group("mlobs_outcomes_ranking", tuple(self._ranking()))

    def _range(self, metric: semconv.Metric, matchers: str = "", suffix: str = "") -> str:
        """What a counter added in the window, or all that it holds."""
        function = "last_over_time" if self._totals else "increase"
        return f"{function}({prometheus_name(metric)}{suffix}{matchers}[{self._window}])"

    def _sum(self, metric: semconv.Metric, *labels: str, matchers: str = "", suffix: str = "") -> str:
        known = {prometheus_name(attribute) for attribute in metric.attributes}
        model = self._profile if _PROFILE in known else self._model
        return f"sum by ({', '.join((model, *labels))}) (\n  {self._range(metric, matchers, suffix)}\n)"

    def _named(self, level: str, what: str) -> str:
        return f"{level}:mlobs_{what}:{self._op}"

    def _labels(self) -> Iterator[Rule]:
        results = self._named("model_result", "outcome_labels")
        yield Rule(results, self._sum(semconv.OUTCOME_LABELS, _RESULT), "Labels that came, by what became of them.")
        predictions = self._named("model", "outcome_predictions")
        yield Rule(
            predictions, self._sum(semconv.OUTCOME_PREDICTIONS), "Predictions that were registered for a later label."
        )
        yield Rule(
            f"model:mlobs_outcome_labelled:ratio_{self._op}",
            f'sum without ({_RESULT}) ({results}{{{_RESULT}=~"joined|late"}})\n/ ({predictions} > 0)',
            "Labels that found their prediction over the predictions of the same time; labels are of earlier ones.",
        )
        mature = self._named("model", "outcome_mature")
        yield Rule(
            mature,
            self._sum(semconv.OUTCOME_MATURE, _LABELLED),
            "Predictions that were counted, or left out for want of a label.",
        )
        yield Rule(
            f"model:mlobs_outcome_coverage:ratio_{self._op}",
            f'sum without ({_LABELLED}) ({mature}{{{_LABELLED}="true"}})\n/ (sum without ({_LABELLED}) ({mature}) > 0)',
            "Coverage: share of the mature predictions whose label came; always 1 for a monitor without a maturity.",
        )
        for name, quantile in _QUANTILES.items():
            yield Rule(
                f"model:mlobs_outcome_delay_seconds:{name}_{self._op}",
                f"histogram_quantile(\n  {quantile},\n  "
                + self._sum(semconv.OUTCOME_DELAY, "le", suffix="_bucket").replace("\n", "\n  ")
                + "\n)",
                f"Time from a prediction to its label: its {quantile:.0%} quantile, interpolated within a bucket.",
            )
        yield Rule(
            self._named("model_cell", "outcome_value"),
            self._sum(semconv.OUTCOME_VALUE, _CELL, _CURRENCY),
            "Value of what was predicted, by confusion cell and currency.",
        )

    def _shares(self, what: str, by_cell: semconv.Metric, by_score: semconv.Metric) -> Iterator[Rule]:
        """Successes, trials and their share for every class and measure, realised or expected."""
        c, n = self._named("class_cell", f"{what}s"), self._named("class", f"{what}s")
        s = self._named("class_bin", f"{what}_scores")
        right, of = self._named("class", f"{what}_successes"), self._named("class", f"{what}_trials")
        yield Rule(c, self._sum(by_cell, _CLASS, _CELL), "Rows in each confusion cell.")
        yield Rule(n, f"sum without ({_CELL}) ({c}) > 0", "Rows.")

        def cell(names: str, *matchers: str) -> str:
            cells = _select(c, f'{_CELL}=~"{names}"', *matchers)
            return f"sum without ({_CELL}) ({cells})"

        for metric, successes, trials, meaning in (
            ("precision", "tp", f"{cell('tp|fp')} > 0", "tp out of tp + fp"),
            ("recall", "tp", f"{cell('tp|fn')} > 0", "tp out of tp + fn"),
            (
                "specificity",
                "tn",
                f"(\n  {cell('tn|fp', _ONE)}\n  or\n  {cell('tn|fp', _SEVERAL)}\n  and {cell('tp|fp|fn')} > 0\n) > 0",
                "tn out of tn + fp; of several classes, those that occur",
            ),
            ("f1", "tp", f"{cell('tp|fp|fn')} > 0", "J = tp out of tp + fp + fn, of which F1 = 2 J / (1 + J)"),
        ):
            labels = {_METRIC: metric}
            yield Rule(right, f"{cell(successes)}\nor\n0 * {n}", f"{metric}: {meaning}.", labels)
            yield Rule(of, trials, f"{metric}: out of how many.", labels)
        accuracy = {_METRIC: "accuracy"}
        yield Rule(
            right,
            f"{cell('tp|tn', _ONE)}\nor\n"
            f"sum without ({_CLASS}) ({cell('tp', _SEVERAL)})\nor\n"
            f"0 * sum without ({_CLASS}) ({n})",
            "accuracy: right answers; of several classes each row is right or wrong in the one that is true.",
            accuracy,
        )
        yield Rule(
            of,
            f"{n}{{{_ONE}}}\nor\nsum without ({_CLASS}) ({cell('tp|fn', _SEVERAL)}) > 0",
            "accuracy: rows.",
            accuracy,
        )
        by_label = self._named("class_label", f"{what}_scores")
        yield Rule(s, self._sum(by_score, _CLASS, _BIN, _LABEL), "Rows in each score bin by label.")
        area = {_METRIC: "roc_auc"}
        yield Rule(
            by_label,
            f'sum without ({_BIN}) ({s}{{{_LABEL}=~"positive|negative"}})',
            "P and N: positives and negatives.",
        )
        positive, negative, below = (f'{s}{{{_LABEL}="{label}"}}' for label in _LABEL_NAMES)
        yes, no = (f'sum without ({_LABEL}) ({by_label}{{{_LABEL}="{label}"}})' for label in _LABEL_NAMES[:2])
        yield Rule(
            right,
            f"sum without ({_BIN}, {_LABEL}) (\n"
            f"  {positive}\n"
            f"  * ignoring ({_LABEL})\n"
            f"  ({below} + ignoring ({_LABEL}) {negative} / 2)\n"
            f")\n/ (({yes} > {no} or {no}) > 0)",
            "roc_auc: the area under the ROC curve, rows of a bin being tied, is U / (P N), U = sum positives "
            "(negatives below + negatives / 2). As a share of min(P, N) trials, which is U / max(P, N): no area's "
            "variance is above A (1 - A) / min(P, N) (Birnbaum and Klose 1957).",
            area,
        )
        yield Rule(of, f"({yes} < {no} or {no}) > 0", "roc_auc: min(P, N), the fewer of positives and negatives.", area)
        yield Rule(
            self._named("class", f"{what}_share"),
            f"{right} / {of}\nor\n"
            f'0 * {right}{{{_CLASS}!="", {_METRIC}=~"precision|recall|specificity"}}\n'
            f'and ignoring ({_METRIC}) {of}{{{_METRIC}="f1"}}',
            "Each measure of each class. Of several classes one that occurs has 0 for a share out of nothing, and one "
            "that does not has none, as in scikit-learn's macro averages.",
        )

    def _value(self, share: str) -> str:
        f1 = _f1(_select(share, f'{_METRIC}="f1"'))
        return f'avg without ({_CLASS}) ({share}{{{_METRIC}!="f1"}})\nor\navg without ({_CLASS}) ({f1})'

    def _intervals(self) -> Iterator[Rule]:
        right, of = self._named("class", "outcome_successes"), self._named("class", "outcome_trials")
        share, bounds = self._named("class", "outcome_share"), self._named("class", "outcome_share_bound")
        distance, final = self._named("class", "outcome_distance"), f"{_REALIZED}:{self._op}"
        for bound, sign, clamp in (("lower", "-", "clamp_min(\n  {}, 0\n)"), ("upper", "+", "clamp_max(\n  {}, 1\n)")):
            yield Rule(
                bounds,
                clamp.format(
                    f"({right} + {Z**2 / 2!r} {sign} {Z!r} * sqrt({right} * ({of} - {right}) / {of} + {Z**2 / 4!r}))\n"
                    f"  / ({of} + {Z**2!r})"
                ),
                f"Wilson's 95% interval of each share, {bound} bound (Wilson 1927).",
                {_BOUND: bound},
            )
        f1, others = f'{_METRIC}="f1"', f'{_METRIC}!~"f1|roc_auc"'
        for bound in ("lower", "upper"):
            at = f'{_BOUND}="{bound}"'
            plain = f"{_select(share, others)}\n- ignoring ({_BOUND}) {_select(bounds, others, at)}"
            of_f1 = {
                classes: f"({_f1(_select(share, f1, classes))}\n- ignoring ({_BOUND})"
                f" {_f1(_select(bounds, f1, at, classes))})"
                for classes in (_ONE, _SEVERAL)
            }
            wider = f"sqrt(1 + {_select(share, f1, _SEVERAL)})"
            yield Rule(
                distance,
                f"abs({plain})\nor\nabs{of_f1[_ONE]}\nor\n{wider}\n* abs{of_f1[_SEVERAL]}",
                f"How far the {bound} bound is from each figure. Of several classes F1's is wider by sqrt(1 + J): a "
                "wrong answer is wrong in two of them.",
                {_BOUND: bound},
            )
        yield Rule(
            final, self._value(share), "The figures; of several classes plain means over them.", {_BOUND: "value"}
        )
        value = f'{final}{{{_BOUND}="value"}}'
        for bound, sign, clamp in (("lower", "-", "clamp_min(\n  {}, 0\n)"), ("upper", "+", "clamp_max(\n  {}, 1\n)")):
            yield Rule(
                final,
                clamp.format(
                    f"{value}\n"
                    f"  {sign} ignoring ({_BOUND})\n"
                    f'  sqrt(sum without ({_CLASS}) ({distance}{{{_BOUND}="{bound}"}} ^ 2))\n'
                    f"  / ignoring ({_BOUND}) count without ({_CLASS}) ({share})"
                )
                + f'\nor\navg without ({_CLASS}) ({bounds}{{{_METRIC}="roc_auc", {_BOUND}="{bound}"}})',
                f"Their 95% intervals, {bound} bound: the root of the classes' squared distances over their number "
                "(Zou and Donner 2008); of areas the mean of the classes' bounds, since they depend on each other.",
                {_BOUND: bound},
            )

    def _probabilities(self) -> Iterator[Rule]:
        s = self._named("class_bin", "outcome_scores")
        c, rows = self._named("class_bin", "calibrated_probability"), self._named("class_bin", "outcome_rows")
        expected = f"last_over_time({prometheus_name(semconv.EXPECTED_OUTCOME_SCORES)}"
        cell = f"{self._profile}, {_CLASS}, {_BIN}"
        yield Rule(
            c,
            f'clamp(\n  sum by ({cell}) ({expected}{{{_LABEL}="positive"}}[{self._window}]))\n'
            f'  / (sum by ({cell}) ({expected}{{{_LABEL}=~"positive|negative"}}[{self._window}])) > 0),\n'
            f"  {_LEAST_PROBABILITY!r}, {1 - _LEAST_PROBABILITY!r}\n)",
            "c: the calibrated probability of each score bin, as the profile has it: expected positives over rows, "
            "whatever their number. Bins that no running worker has predicted into have none, nor count below.",
        )
        yes, no = (f'{s}{{{_LABEL}="{label}"}}' for label in _LABEL_NAMES[:2])
        yield Rule(
            rows,
            f'sum without ({_LABEL}) ({s}{{{_LABEL}=~"positive|negative"}}) and {c}',
            "Rows in each of those bins.",
        )
        total = f"(sum without ({_BIN}) ({rows}) > 0)"
        yield Rule(
            self._named("model", "calibrated_brier"),
            f"sum without ({_CLASS}) (\n"
            f"  sum without ({_BIN}, {_LABEL}) (\n"
            f"    {yes} * ignoring ({_LABEL}) (1 - {c}) ^ 2\n"
            f"    + ignoring ({_LABEL}) {no} * ignoring ({_LABEL}) {c} ^ 2\n"
            "  )\n"
            f"  / {total}\n"
            ")",
            "Brier score of the calibrated probabilities, summed over classes.",
        )
        yield Rule(
            self._named("model", "calibrated_log_loss"),
            f"-sum without ({_CLASS}) (\n"
            f"  sum without ({_BIN}, {_LABEL}) (\n"
            f"    {yes} * ignoring ({_LABEL}) ln({c})\n"
            f"    + ignoring ({_LABEL}) {no} * ignoring ({_LABEL}) ln(1 - {c}{{{_ONE}}})\n"
            f"    or {yes} * ignoring ({_LABEL}) ln({c}{{{_SEVERAL}}})\n"
            "  )\n"
            f"  / {total}\n"
            ")",
            "Log loss of the calibrated probabilities; of several classes, of the true one's.",
        )
        yield Rule(
            self._named("model", "calibration_error"),
            f"avg without ({_CLASS}) (\n"
            f"  sum without (mlobs_bins, {_LABEL}) (abs(sum without ({_BIN}) (\n"
            f"    label_replace({yes} - ignoring ({_LABEL}) {rows} * {c}, "
            f'"mlobs_bins", "$1", "{_BIN}", "b(.+).")\n'
            "  )))\n"
            f"  / {total}\n"
            ")",
            "Expected calibration error of the calibrated probabilities, ten bins at a time; of several classes their "
            "mean.",
        )

    def _errors(self) -> Iterator[Rule]:
        error, n = self._named("model_direction", "outcome_error"), self._named("model", "outcome_errors")
        square, final = self._named("model", "outcome_squared_error"), f"{_REALIZED}:{self._op}"
        yield Rule(error, self._sum(semconv.OUTCOME_ERROR, _DIRECTION), "Sums of the absolute errors of a regression.")
        yield Rule(
            n,
            f'(sum without ({_LABELLED}) ({self._named("model", "outcome_mature")}{{{_LABELLED}="true"}}) > 0)\n'
            f"and sum without ({_DIRECTION}) ({error})",
            "Their number: predictions that were counted with their label.",
        )
        yield Rule(square, f"{self._sum(semconv.OUTCOME_SQUARED_ERROR)}\n/ {n}", "Mean of the squared errors.")
        mean = f"sum without ({_DIRECTION}) ({error}) / {n}"
        over, under = (f'sum without ({_DIRECTION}) ({error}{{{_DIRECTION}="{way}"}})' for way in ("over", "under"))
        bias = f"({over} - {under}) / {n}"
        for metric, value, meaning in (
            ("mae", mean, "mean absolute error"),
            ("rmse", f"sqrt({square})", "root of the mean squared error"),
            ("bias", bias, "mean of prediction less label"),
        ):
            yield Rule(final, value, f"{metric}: {meaning}.", {_METRIC: metric, _BOUND: "value"})
        for metric in ("mae", "bias"):
            value = f'{final}{{{_METRIC}="{metric}", {_BOUND}="value"}}'
            ignoring = f"ignoring ({_METRIC}, {_BOUND})"
            for bound, sign in (("lower", "-"), ("upper", "+")):
                yield Rule(
                    final,
                    f"{value}\n{sign} {ignoring}\n"
                    f"{Z!r} * sqrt(clamp_min({square} - {ignoring} {value} ^ 2, 0) / {ignoring} ({n} - 1 > 0))",
                    f"{metric}: {bound} bound of its 95% interval, normal.",
                    {_METRIC: metric, _BOUND: bound},
                )

    def _estimates(self) -> Iterator[Rule]:
        reliable = prometheus_name(semconv.PERFORMANCE_RELIABLE)
        yield Rule(
            _RELIABLE,
            f"min by ({self._profile}) (min_over_time({reliable}[{self._window}]))",
            "0 where a worker has found within the window that estimates are not to be relied on; then there are none.",
        )
        final = f"{_ESTIMATE}:{self._op}"
        share = self._named("class", "expected_outcome_share")
        relied = f"unless on ({self._profile}) ({_RELIABLE} == 0)"
        yield Rule(
            final,
            f"(\n{_indented(self._value(share))}\n)\n{relied}",
            "The figures that are expected of the predictions made, without labels: an estimate, not a measurement.",
            {_BOUND: "value"},
        )
        cells = f'{_OUTPUT}="value", {_BIN}!~"{MISSING}|{NONFINITE}"'
        predictions = self._sum(semconv.PREDICTION_OBSERVATIONS, matchers=f"{{{cells}}}")
        for metric, source, function in (
            ("mae", semconv.EXPECTED_ERROR, ""),
            ("rmse", semconv.EXPECTED_SQUARED_ERROR, "sqrt"),
        ):
            mean = f"{self._sum(source)}\n/ (\n{_indented(predictions)} > 0\n)"
            yield Rule(
                final,
                f"{function}(\n{_indented(mean)}\n)\n{relied}",
                f"{metric} that is expected of a regression.",
                {_METRIC: metric, _BOUND: "value"},
            )

    def _ranking(self) -> Iterator[Rule]:
        slates = self._named("model", "ranking_slates")
        yield Rule(slates, f"{self._sum(semconv.RANKING_SLATES)} > 0", "Ranked lists that were shown and are mature.")
        for name, metric, meaning in (
            ("hit_rate", semconv.RANKING_HITS, "Share of the lists with an event in the first k places."),
            ("mrr", semconv.RANKING_RECIPROCAL_RANK, "Mean of 1 / place of the first item with an event."),
            ("ndcg", semconv.RANKING_NDCG, "Mean normalised discounted cumulative gain of the first k places."),
        ):
            yield Rule(
                self._named("model_event", f"ranking_{name}"),
                f"{self._sum(metric, _EVENT)}\n/ ignoring ({_EVENT}) group_left ()\n{slates}",
                meaning,
            )
        shown, events = (
            self._named("model_position", "ranking_impressions"), self._named("model_position", "ranking_events")
        )  # fmt: skip
        yield Rule(shown, self._sum(semconv.RANKING_IMPRESSIONS, _POSITION), "Items shown, by place.")
        yield Rule(events, self._sum(semconv.RANKING_EVENTS, _EVENT, _POSITION), "Events by place.")
        yield Rule(
            self._named("model_position", "ranking_event_rate"),
            f"{events}\n/ ignoring ({_EVENT}) group_left ()\n({shown} > 0)",
            "Events per item shown, by place: of clicks the click-through rate.",
        )
        yield Rule(
            self._named("model_event", "ranking_event_rate"),
            f"sum without ({_POSITION}) ({events})\n"
            f"/ ignoring ({_EVENT}) group_left ()\n(sum without ({_POSITION}) ({shown}) > 0)",
            "The same over all places.",
        )
        yield Rule(
            self._named("model_event", "ranking_value"),
            self._sum(semconv.RANKING_VALUE, _EVENT, _CURRENCY),
            "Value of the events, by currency.",
        )


def _select(series: str, *matchers: str) -> str:
    return f"{series}{{{', '.join(matchers)}}}"


def _f1(share: str) -> str:
    return f"2 * {share} / (1 + {share})"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
