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

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_mlobs.core.outcomes import Figure
    from otel_mlobs.core.profile import Outputs
    from otel_mlobs.core.records import Label, Record

Unlabelled = Literal["missing", "negative"]
_COUNTED_AT_ONCE = 10_000
_FLOAT_BYTES = 8


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
    by: str = "prediction time"


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
    )
