"""Where a fit finds a model's answers and labels, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import Bins
from otel_mlobs.core.calibrating import (
    CURVE_LEVELS,
    ERROR_LEVELS,
    MOST_CLASSES,
    calibrate_classes,
    calibrate_scores,
    curve_uppers,
    error_bins,
    error_uppers,
    positive_label,
)
from otel_mlobs.core.outputs import LABELS, VALUES, Answers, read_answers
from otel_mlobs.core.profile import Column, Outputs
from otel_mlobs.core.reading import Columns, as_column, equal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.calibration import Calibration, ErrorBins
    from otel_mlobs.core.profile import OutputKind, Profile
    from otel_mlobs.core.sources import Source
    from otel_mlobs.tables import Described

THRESHOLD = 0.5


@dataclass(frozen=True)
class Answered:
    """Where outputs are read from: columns of ``source``, by what they are called there."""

    source: Source
    columns: tuple[str, ...]
    kind: OutputKind | None
    label: str | None
    classes: tuple[Category, ...]
    positive: Category | None
    probabilities: NDArray[np.float64] | None = None
    labels: NDArray[Any] | None = None

    @property
    def levels(self) -> tuple[Fraction, ...]:
        """The quantiles that what labels tell is binned at: a calibration's, or a regression's errors'."""
        if self.label is None or self.kind in ("class", "multiclass"):
            return ()
        return {"score": CURVE_LEVELS, "regression": ERROR_LEVELS}.get(self.kind or "", CURVE_LEVELS + ERROR_LEVELS)


def find_answers(
    source: Source, outputs: Any, labels: Any, kind: OutputKind | None, positive: Category | None, like: Profile | None
) -> Answered:
    """The columns that hold a model's outputs and labels, with the kind as far as their types decide it."""
    if not isinstance(source, Columns):
        for what, given in (("outputs", outputs), ("labels", labels)):
            if given is not None and not isinstance(given, str):
                raise TypeError(f"{what} of a table in a database must be a column's name, got {type(given).__name__}")
        answered = Answered(source, (outputs,), kind, labels, (), positive)
    else:
        classes = like.outputs.classes if like is not None and like.outputs is not None else ()
        named = column_names(source, outputs)
        if len(named) > 1:
            classes = classes or tuple(named)
            outputs = {name: source.array(name) for name in named}
            outputs = np.column_stack([as_column(values).astype(float) for values in outputs.values()])
        elif named:
            outputs = source.array(named[0])
        labelled = column_names(source, labels) if isinstance(labels, str) else []
        values = source.array(labelled[0]) if labelled else labels
        read: Answers = read_answers(outputs, values, source.rows, kind, positive, classes)
        columns = ("class", "confidence", "entropy") if read.kind == "multiclass" else (VALUES,)
        label = None if labels is None else LABELS
        answered = Answered(
            read.columns, columns, read.kind, label, read.classes, read.positive, read.probabilities,
            read.columns.array(LABELS) if label else None,
        )  # fmt: skip
    return _settled(answered, positive)


def column_names(source: Source, given: Any) -> list[str]:
    """The columns of the data that ``given`` names, if it is names rather than values."""
    if isinstance(given, str):
        if given not in source.names:
            raise ValueError(f"no column {given!r} in the data, which has {list(source.names)}")
        return [given]
    if isinstance(given, (list, tuple)) and given and all(isinstance(name, str) for name in given):
        return list(given) if set(given) <= set(source.names) else []
    return []


def _settled(answered: Answered, positive: Category | None) -> Answered:
    """The same, with the kind as far as the columns' types decide it."""
    if answered.kind == "multiclass":
        if positive is not None:
            raise ValueError(f"positive_class={positive!r} is of use with scores, outputs are multiclass")
        if len(answered.columns) == 1:
            raise ValueError("output_kind='multiclass' needs a column per class, got one column")
        return answered
    (name,) = answered.columns
    found = answered.source.types([name])[name]
    if found.kind is None:
        what = found.problem.partition(";")[0]
        raise ValueError(f"outputs must be numbers, text or booleans, one per row: column {name!r} {what}")
    kind = answered.kind
    if kind is None and (found.kind != "numeric" or found.integer):
        kind = "class"
    if kind in ("score", "regression") and found.kind == "categorical":
        raise ValueError(f"outputs must be numbers with output_kind={kind!r}, got {found.kind} values")
    if kind in ("class", "regression") and positive is not None:
        raise ValueError(f"positive_class={positive!r} is of use with scores, outputs are {kind}")
    return replace(answered, kind=kind)


def build_outputs(
    answered: Answered, column_of: Mapping[str, tuple[Column, Described]], curve: Sequence[float], most: int,
    threshold: float | None, like: Outputs | None,
) -> Outputs:  # fmt: skip
    """The reference of the outputs, from their columns; ``curve`` are the quantiles at :attr:`Answered.levels`."""
    if answered.kind == "multiclass":
        _refuse_threshold(threshold, "multiclass")
        columns = tuple(column_of[name][0] for name in answered.columns)
        if like is None:
            columns = (_with_all_classes(columns[0], answered.classes, most), *columns[1:])
        return Outputs("multiclass", columns, answered.classes, calibrations=_calibrations(answered, like))
    (name,) = answered.columns
    column, described = column_of[name]
    kind = answered.kind
    if kind is None:
        low, high = described.minimum, described.maximum
        kind = "score" if low is not None and high is not None and low >= 0 and high <= 1 else "regression"
    column = replace(column, name={"score": "score", "class": "class", "regression": "value"}[kind])
    if kind != "score":
        _refuse_threshold(threshold, kind)
        if answered.positive is not None:
            raise ValueError(f"positive_class={answered.positive!r} is of use with scores, outputs are {kind}")
        errors = _errors(answered, described, curve, like) if kind == "regression" else None
        return Outputs(kind, (column,), errors=errors)
    return _scores(answered, column, described, curve, threshold, like)


def _refuse_threshold(threshold: float | None, kind: OutputKind) -> None:
    if threshold is not None:
        raise ValueError(f"threshold={threshold!r} is of use with scores, outputs are {kind}")


def _scores(
    answered: Answered, column: Column, described: Described, curve: Sequence[float], threshold: float | None,
    like: Outputs | None,
) -> Outputs:  # fmt: skip
    positive = answered.positive
    if like is not None:
        if threshold not in (None, like.threshold):
            raise ValueError(f"threshold must be {like.threshold}, as in like=, got {threshold!r}")
        threshold, positive = like.threshold, _agreed_positive(like.positive_class, positive)
    threshold = THRESHOLD if threshold is None else float(threshold)
    labels: Sequence[Category] = ()
    if answered.label is not None:
        labels = answered.source.labels_of(answered.label)
        if positive is None and any(equal(label, -1) for label in labels):
            positive = 1
    calibration = _calibration(answered, described, curve, labels, positive, threshold, like)
    return Outputs("score", (column,), (), calibration, threshold=threshold, positive_class=positive)


def _agreed_positive(reference: Category | None, given: Category | None) -> Category | None:
    if given is not None and not equal(given, 1 if reference is None else reference):
        raise ValueError(f"positive_class must be {reference!r}, as in like=, got {given!r}")
    return reference


def _calibration(
    answered: Answered, described: Described, curve: Sequence[float], labels: Sequence[Category],
    positive: Category | None, threshold: float, like: Outputs | None,
) -> Calibration | None:  # fmt: skip
    if answered.label is None:
        return None
    reference = None if like is None else like.calibration
    _check_labelled(like, reference)
    named = positive_label(labels, positive)
    if reference is not None:
        uppers = reference.uppers
    else:
        uppers = curve_uppers(curve[: len(CURVE_LEVELS)], described, threshold)
    found = calibrate_scores(answered.source, answered.columns[0], answered.label, uppers, named)
    if answered.positive is not None and like is None and not any(found.positives):
        raise ValueError(f"positive_class must be one of the labels, such as {list(labels)}, got {answered.positive!r}")
    return found


def _check_labelled(like: Outputs | None, reference: object) -> None:
    if like is not None and not reference:
        raise ValueError("labels are given, but the profile in like= was fitted without: leave them out")


def _calibrations(answered: Answered, like: Outputs | None) -> tuple[Calibration, ...]:
    if answered.labels is None or answered.probabilities is None:
        return ()
    reference = () if like is None else like.calibrations
    if len(answered.classes) <= MOST_CLASSES:
        _check_labelled(like, reference)
    return calibrate_classes(answered.probabilities, answered.labels, answered.classes, reference)


def _errors(
    answered: Answered, described: Described, curve: Sequence[float], like: Outputs | None
) -> ErrorBins | None:  # fmt: skip
    if answered.label is None:
        return None
    reference = None if like is None else like.errors
    _check_labelled(like, reference)
    found = answered.source.types([answered.label])[answered.label]
    if found.kind not in ("numeric", "boolean"):
        raise ValueError(f"labels must be numbers where outputs are regression, got {found.kind} values")
    uppers = error_uppers(curve[-len(ERROR_LEVELS) :], described) if reference is None else reference.uppers
    return error_bins(answered.source, answered.columns[0], answered.label, uppers)


def _with_all_classes(column: Column, classes: Sequence[Category], most: int) -> Column:
    """The column of predicted classes with cells also for those never predicted, last."""
    seen = column.bins.categories
    unseen = tuple(name for name in classes if name not in seen)[: most - len(seen)]
    counts = (*column.counts[:-2], *(0 for _ in unseen), *column.counts[-2:])
    return Column("class", Bins("categorical", categories=(*seen, *unseen)), counts)
