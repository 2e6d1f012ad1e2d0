"""How right the predictions of a span of time were, from a store's records: whenever their labels came."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Literal

from otel_mlobs.core.outcomes import performance, regression
from otel_mlobs.core.performance import Outcome, Performance, valid_label
from otel_mlobs.stores.moments import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_mlobs.core.outcomes import Figure
    from otel_mlobs.core.profile import Outputs
    from otel_mlobs.core.records import Label, LabelValue, Record, Unlabelled

_COUNTED_AT_ONCE = 10_000
_FLOAT_BYTES = 8
_MOST_CLASSES_SAID = 10


@dataclass(frozen=True)
class RealizedPerformance:
    """How right the predictions were that were made within a span of time.

    Attributes:
        figures: measures with their 95% intervals, as :func:`otel_mlobs.core.outcomes.performance` or ``regression``
            names them.
        predictions: predictions that were made in that time.
        mature: those of them that are old enough to count.
        labelled: those of the mature ones that have a label.
        coverage: labelled / mature; NaN without any.
        invalid: labels that the model's outputs cannot have, and predictions of another shape; they are left out.
        delay: median seconds from a prediction to its label; NaN without any.
        value: what was at stake, by confusion cell and currency.
        unlabelled: what mature predictions without a label count as.
        by: what the window is of; counters, in contrast, are windows of when labels came.
    """

    figures: Mapping[str, Figure]
    predictions: int
    mature: int
    labelled: int
    coverage: float
    invalid: int
    delay: float
    value: Mapping[tuple[str, str], float]
    unlabelled: Literal["missing", "negative"] = "missing"
    by: str = "prediction time"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        made = f"by {self.by}: {self.predictions:,} prediction{'' if self.predictions == 1 else 's'}"
        young = self.mature < self.predictions
        if self.predictions:
            made += f", {self.mature:,} mature" if young else ""
        if self.mature:
            made += f", {self.labelled:,} of {'those' if young else 'them'} with a label (coverage {self.coverage:.1%})"
            made += ", the others count as negative" if self.unlabelled == "negative" else ""
            made += f", {self.invalid:,} invalid" if self.invalid else ""
        yield made
        if not math.isnan(self.delay):
            yield f"median delay of a label: {_duration(self.delay)}"
        if any(not math.isnan(figure.value) for figure in self.figures.values()):
            for name, figure in self.figures.items():
                yield f"  {name:17} {_shown(figure)}"
        for (cell, currency), amount in sorted(self.value.items()):
            yield f"  value {cell} {amount:,.2f} {currency}"


def _shown(figure: Figure) -> str:
    interval = "" if math.isnan(figure.lower) else f"  ({figure.lower:.4f} to {figure.upper:.4f})"
    return "-" if math.isnan(figure.value) else f"{figure.value:.4f}{interval}"


def _duration(seconds: float) -> str:
    for unit, name in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if abs(seconds) >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


class LabelCheck:
    """Which labels a model's outputs can have."""

    def __init__(self, outputs: Outputs) -> None:
        self._performance = Performance(outputs, panes=1)
        layout = self._performance.layout
        if layout is None:
            self._expected = "numbers"
        elif layout.kind == "score":
            self._expected = "0 or 1"  # with a positive class every label but a missing one is valid
        else:
            more = ", …" if len(layout.classes) > _MOST_CLASSES_SAID else ""
            self._expected = f"one of {', '.join(map(repr, layout.classes[:_MOST_CLASSES_SAID]))}{more}"

    def allows(self, label: LabelValue) -> bool:
        """Whether ``label`` is one of them."""
        return valid_label(self._performance, label)

    def reason(self, label: LabelValue) -> str:
        """What labels must be, where ``label`` is none."""
        return f"labels must be {self._expected} (got {'text ' if isinstance(label, str) else ''}{shown(label)} first)"


def realized(
    records: Iterable[Record], outputs: Outputs, *, latest: float, unlabelled: Unlabelled, variant: str | None
) -> RealizedPerformance:
    """The figures of ``records``, of which those made until ``latest`` are mature."""
    counting = Performance(outputs, panes=1)
    size = _FLOAT_BYTES * (len(outputs.classes) if outputs.kind == "multiclass" else 1)
    made = mature = labelled = invalid = 0
    delays = array("d")
    iterator = iter(records)
    while page := list(islice(iterator, _COUNTED_AT_ONCE)):
        for prediction, labels in page:
            if variant is not None and prediction.variant != variant:
                continue
            made += 1
            if prediction.time > latest:
                continue
            mature += 1
            label: Label | None = next((one for one in labels if not one.key), None)
            labelled += label is not None
            if label is not None and label.time is not None:
                delays.append(label.time - prediction.time)
            if len(prediction.payload) != size or (label is not None and not valid_label(counting, label.value)):
                invalid += 1
            elif label is not None:
                counting.add_outcome(Outcome(prediction.payload, label.value, label.amount, label.currency))
            elif unlabelled == "negative":
                counting.add_outcome(Outcome(prediction.payload, None))
        counting.fold()
    layout, book = counting.layout, counting.book
    return RealizedPerformance(
        regression(book.outcomes) if layout is None else performance(book.outcomes, layout.mean_scores),
        made,
        mature,
        labelled,
        labelled / mature if mature else math.nan,
        invalid,
        median(delays) if delays else math.nan,
        dict(book.amounts),
        unlabelled,
    )
