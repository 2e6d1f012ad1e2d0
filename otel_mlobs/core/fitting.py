"""Fits a profile: chooses each column's bins, then counts into them, wherever the rows lie."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.binning import Bins, numeric_edges
from otel_mlobs.core.outputs import LABELS, VALUES, Answers, read_answers
from otel_mlobs.core.profile import CalibrationBin, Column, Outputs, Profile
from otel_mlobs.core.reading import Columns, as_column, equal
from otel_mlobs.core.sources import open_columns
from otel_mlobs.tables import Cells, Question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.profile import OutputKind
    from otel_mlobs.core.sources import Progress, Source
    from otel_mlobs.tables import Counted, Described, Kind

RARE = 20
"""Feature values on fewer rows than this have no cell and no name in the profile: they may point at a person."""
CALIBRATION_BINS = 20
_IDENTIFIER_DISTINCT = 100
_INFINITE = (math.inf, -math.inf)
_MOST_BINS = 100
_MOST_CATEGORIES = 10_000


@dataclass(frozen=True)
class _Wanted:
    """A column to be fitted: where its cells come from (``bins``, or quantiles, or the most frequent categories)."""

    name: str
    kind: Kind
    bins: Bins | None = None
    rare: int = 1
    calibrated: bool = False
    any_text: bool = True


@dataclass(frozen=True)
class _Settings:
    bins: int
    most: int

    def levels(self, wanted: _Wanted) -> tuple[Fraction, ...]:
        """The quantiles that edges are made from, and behind them those of the calibration curve."""
        own = [Fraction(part, self.bins) for part in range(1, self.bins)]
        curve = [Fraction(part, CALIBRATION_BINS) for part in range(1, CALIBRATION_BINS)] if wanted.calibrated else []
        return (*own, *curve)

    def question(self, wanted: _Wanted) -> Question:
        if wanted.kind == "numeric":
            return Question(wanted.name, "numeric", self.levels(wanted))
        return Question(wanted.name, wanted.kind, most=self.most)

    def choose(self, wanted: _Wanted, described: Described) -> Bins:
        """The column's cells."""
        if wanted.bins is not None:
            return wanted.bins
        if wanted.kind == "boolean":
            return Bins("boolean", categories=(False, True))
        if wanted.kind == "numeric":
            return Bins("numeric", _edges(described.quantiles[: self.bins - 1], described))
        return Bins("categorical", categories=tuple(
            category for category, times in described.categories[: self.most]
            if times >= wanted.rare and category not in _INFINITE
        ))  # fmt: skip


def _edges(quantiles: Sequence[float], described: Described) -> tuple[float, ...]:
    if described.minimum is None or described.maximum is None:
        return ()
    return numeric_edges(quantiles, described.minimum, described.maximum)


def build_column(name: str, bins: Bins, described: Described, counted: Counted) -> Column:
    """A reference column from its aggregates."""
    if bins.kind != "numeric":
        return Column(name, bins, tuple(counted.counts))
    low, high, std = described.minimum, described.maximum, described.std
    return Column(
        name, bins, tuple(counted.counts),
        minimum=None if low is None else _outward(low, -np.inf),
        maximum=None if high is None else _outward(high, np.inf),
        mean=described.mean,
        std=0.0 if low is not None and low == high else std,  # a database's sum of squares may leave a trace
        positions=tuple(
            _middle(bins.edges, cell) if mean is None else _short(mean) for cell, mean in enumerate(counted.means)
        ),
    )  # fmt: skip


def _short(mean: float) -> float:
    """A cell's mean to twelve digits: all that it is good for, in a file that is to stay small."""
    return float(f"{mean:.12g}")


def _outward(value: float, towards: float) -> float:
    """The nearest float32 in the direction of ``towards`` or ``value``, where float32 does not reach that far."""
    if abs(value) >= float(np.finfo(np.float32).max):
        return value
    with np.errstate(under="ignore"):
        single = np.float32(value)
    if (float(single) > value) if towards < 0 else (float(single) < value):
        single = np.nextafter(single, np.float32(towards))
    return float(single)


def _middle(edges: Sequence[float], cell: int) -> float:
    """Where an empty cell is thought to lie: between its edges, or at the one it has."""
    around = edges[max(cell - 1, 0) : cell + 1]
    return sum(edge / len(around) for edge in around) if around else 0.0


def fit(
    data: Any,
    *,
    outputs: Any,
    labels: Any,
    features: Sequence[str] | None,
    model: str,
    version: str | None,
    positive_class: Category | None,
    output_kind: OutputKind | None,
    bins: int,
    categorical: Sequence[str],
    exclude: Sequence[str],
    max_categories: int,
    like: Profile | None,
    progress: Progress | None,
) -> Profile:
    """See :meth:`otel_mlobs.core.profile.Profile.fit`."""
    categorical, exclude = _listed("categorical", categorical), _listed("exclude", exclude)
    features = None if features is None else _listed("features", features)
    _check_options(bins, max_categories, output_kind, model, version)
    if outputs is None and (labels is not None or positive_class is not None or output_kind is not None):
        raise ValueError("labels=, positive_class= and output_kind= say something about outputs=: give it, too")
    if like is not None:
        _check_like(like, model, version, features, categorical, exclude, outputs)
        version = like.version
        if like.outputs is not None:
            output_kind = _agreed_kind(like.outputs, output_kind)
    source = open_columns(data, features or (like.names if like is not None else None))
    apart = [] if outputs is None else [*_column_names(source, outputs), *_column_names(source, labels)]
    names = _chosen(source.names, features or (list(like.names) if like else None), categorical, exclude, apart)
    source.only(list(dict.fromkeys([*names, *apart])))
    if isinstance(source, Columns) and not source.rows:
        raise ValueError("data has no rows: a profile needs some")
    wanted = _features(source, names, categorical, like)
    settings = _Settings(bins, max_categories)
    answers = None if outputs is None else _answers(source, outputs, labels, output_kind, positive_class, like)
    work = [(source, wanted)]
    if answers is not None:
        ours = _wanted_outputs(answers, like)
        work = [(source, [*wanted, *ours])] if answers.source is source else [*work, (answers.source, ours)]
    found = _fit_columns(work, settings, like is not None, progress)
    columns = tuple(found[id(source), name][0] for name in names)
    fitted = None if answers is None else _outputs(answers, found, settings, like)
    return Profile(model, version, columns, fitted, columns[0].rows)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"{what} must be a list of names, got the text {names!r}")
    listed = list(names)
    wrong = [name for name in listed if not isinstance(name, str) or not name]
    if wrong:
        raise TypeError(f"{what} must be names, got {wrong[0]!r}")
    doubled = [name for name, times in Counter(listed).items() if times > 1]
    if doubled:
        raise ValueError(f"{what} names {doubled} more than once")
    return listed


def _check_options(bins: int, most: int, kind: OutputKind | None, model: str, version: str | None) -> None:
    for what, number, lowest, highest in (
        ("bins", bins, 2, _MOST_BINS),
        ("max_categories", most, 1, _MOST_CATEGORIES),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
            raise ValueError(f"{what} must be a whole number from {lowest} to {highest}, got {number!r}")
    if kind not in (None, "score", "class", "multiclass", "regression"):
        raise ValueError(f"output_kind must be 'score', 'class', 'multiclass' or 'regression', got {kind!r}")
    if not isinstance(model, str) or not model:
        raise ValueError(f"model must be the model's name, got {model!r}")
    if version is not None and (not isinstance(version, str) or not version):
        raise ValueError(f"version must be text or None, got {version!r}")


def _check_like(
    like: Profile, model: str, version: str | None, features: Sequence[str] | None, categorical: Sequence[str],
    exclude: Sequence[str], outputs: Any,
) -> None:  # fmt: skip
    if not isinstance(like, Profile):
        raise TypeError(f"like must be a Profile, got {type(like).__name__}")
    if model != like.model or version not in (None, like.version):
        raise ValueError(
            f"like= is a profile of model {like.model!r}, version {like.version!r}, got {model!r}, {version!r}"
        )
    if categorical or exclude or (features is not None and tuple(features) != like.names):
        raise ValueError(f"like= fixes the features, {list(like.names)}: leave out features=, categorical=, exclude=")
    if (outputs is None) != (like.outputs is None):
        raise ValueError(f"like= has {'no ' if like.outputs is None else ''}outputs: outputs= must be as it was there")


def _agreed_kind(reference: Outputs, given: OutputKind | None) -> OutputKind:
    if given not in (None, reference.kind):
        raise ValueError(f"output_kind must be {reference.kind!r}, as in like=, got {given!r}")
    return reference.kind


def _column_names(source: Source, given: Any) -> list[str]:
    """The columns of the data that ``given`` names, if it is names rather than values."""
    if isinstance(given, str):
        if given not in source.names:
            raise ValueError(f"no column {given!r} in the data, which has {list(source.names)}")
        return [given]
    if isinstance(given, (list, tuple)) and given and all(isinstance(name, str) for name in given):
        return list(given) if set(given) <= set(source.names) else []
    return []


def _chosen(
    names: Sequence[str], features: Sequence[str] | None, categorical: Sequence[str], exclude: Sequence[str],
    apart: Sequence[str],
) -> list[str]:  # fmt: skip
    chosen = [name for name in names if name not in apart] if features is None else list(features)
    for what, given in (("features", chosen), ("exclude", exclude)):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{what} names columns that the data has not: {unknown}; it has {list(names)}")
    chosen = [name for name in chosen if name not in exclude]
    unknown = [name for name in categorical if name not in chosen]
    if unknown:
        raise ValueError(f"categorical names {unknown}, which are no features; those are {chosen}")
    if not chosen:
        raise ValueError("no feature is left: a profile needs at least one")
    return chosen


def _features(source: Source, names: Sequence[str], categorical: Sequence[str], like: Profile | None) -> list[_Wanted]:
    """What each feature is fitted as; all that cannot be is named in one error."""
    types = source.types(names)
    fixed = {column.name: column.bins for column in like.features} if like is not None else {}
    wanted, problems = [], {}
    for name in names:
        kind, problem = types[name].kind, types[name].problem
        bins = fixed.get(name)
        if bins is not None and bins.kind != "categorical":
            if kind is not None and kind != bins.kind and "categorical" in (kind, bins.kind):
                problem = f"holds {kind} values, the profile in like= has it as {bins.kind}"
            kind = bins.kind
        elif bins is not None or name in categorical:
            kind, problem = "categorical", source.problem_with_categories(name)
        if problem or kind is None:
            problems[name] = problem
        else:
            wanted.append(_Wanted(name, kind, bins, rare=RARE, any_text=bins is not None))
    _raise_all(problems)
    return wanted


def _raise_all(problems: Mapping[str, str]) -> None:
    if not problems:
        return
    lines = [f"column {name!r} {problem}" for name, problem in problems.items()]
    if len(lines) == 1:
        raise ValueError(lines[0])
    raise ValueError(f"{len(lines)} columns cannot be profiled:\n  " + "\n  ".join(lines))


@dataclass(frozen=True)
class _Answered:
    """Where outputs are read from: columns of ``source``, by what they are called there."""

    source: Source
    columns: tuple[str, ...]
    kind: OutputKind | None
    label: str | None
    classes: tuple[Category, ...]
    positive: Category | None


def _answers(
    source: Source, outputs: Any, labels: Any, kind: OutputKind | None, positive: Category | None, like: Profile | None
) -> _Answered:
    if not isinstance(source, Columns):
        for what, given in (("outputs", outputs), ("labels", labels)):
            if given is not None and not isinstance(given, str):
                raise TypeError(f"{what} of a table in a database must be a column's name, got {type(given).__name__}")
        answered = _Answered(source, (outputs,), kind, labels, (), positive)
    else:
        classes = like.outputs.classes if like is not None and like.outputs is not None else ()
        named = _column_names(source, outputs)
        if len(named) > 1:
            classes = classes or tuple(named)
            outputs = {name: source.array(name) for name in named}
            outputs = np.column_stack([as_column(values).astype(float) for values in outputs.values()])
        elif named:
            outputs = source.array(named[0])
        labelled = _column_names(source, labels) if isinstance(labels, str) else []
        values = source.array(labelled[0]) if labelled else labels
        read: Answers = read_answers(outputs, values, source.rows, kind, positive, classes)
        columns = ("class", "confidence", "entropy") if read.kind == "multiclass" else (VALUES,)
        label = None if labels is None else LABELS
        answered = _Answered(read.columns, columns, read.kind, label, read.classes, read.positive)
    return _settled(answered, positive)


def _settled(answered: _Answered, positive: Category | None) -> _Answered:
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


def _wanted_outputs(answered: _Answered, like: Profile | None) -> list[_Wanted]:
    fixed: dict[str, Bins] = {}
    if like is not None and like.outputs is not None:
        fixed = {name: column.bins for name, column in zip(answered.columns, like.outputs.columns, strict=True)}
    if answered.kind == "multiclass":
        return [
            _Wanted("class", "categorical", fixed.get("class")),
            _Wanted("confidence", "numeric", fixed.get("confidence")),
            _Wanted("entropy", "numeric", fixed.get("entropy")),
        ]
    (name,) = answered.columns
    if answered.kind == "class":
        boolean = answered.source.types([name])[name].kind == "boolean"
        kind: Kind = fixed[name].kind if fixed else "boolean" if boolean else "categorical"
        return [_Wanted(name, kind, fixed.get(name), any_text=bool(fixed))]
    return [_Wanted(name, "numeric", fixed.get(name), calibrated=answered.label is not None)]


_Found = dict[tuple[int, str], tuple[Column, "Described"]]


def _fit_columns(
    work: Sequence[tuple[Source, Sequence[_Wanted]]], settings: _Settings, fixed: bool, progress: Progress | None
) -> _Found:
    """Every column, by its source and name."""
    found: _Found = {}
    problems: dict[str, str] = {}
    total = sum(len(wanted) * source.steps for source, wanted in work)
    before = 0

    def step(done: int, _of: int) -> None:
        if progress is not None:
            progress(before + done, total)

    for source, wanted in work:
        by_name = {one.name: one for one in wanted}
        for batch in source.batches(list(by_name)):
            described = source.describe([settings.question(by_name[name]) for name in batch], progress=step)
            before += len(batch) * (source.steps - 1)
            problems |= _identifiers([by_name[name] for name in batch], described)
            bins = {name: settings.choose(by_name[name], described[name]) for name in batch}
            cells = [Cells(name, bins[name].kind, bins[name].edges, bins[name].categories) for name in batch]
            counted = {} if problems else source.count(cells, progress=step)
            before += len(batch)
            for name in counted:
                if not described[name].rows and not fixed:
                    raise ValueError("data has no rows: a profile needs some")
                column = build_column(name, bins[name], described[name], counted[name])
                found[id(source), name] = (column, described[name])
    _raise_all(problems)
    return found


def _identifiers(wanted: Sequence[_Wanted], described: Mapping[str, Described]) -> dict[str, str]:
    """Categories that tell rows apart rather than group them."""
    problems = {}
    for one in wanted:
        answer = described[one.name]
        if one.kind != "categorical" or one.any_text:
            continue
        if answer.distinct > _IDENTIFIER_DISTINCT and answer.distinct * 2 > answer.rows - answer.missing:
            instead = "leave it out with exclude=, or group its values first"
            if one.rare == 1:
                instead = "classes were expected; give output_kind='regression' or 'score' for numbers"
            found = f"{answer.distinct} distinct values on {answer.rows - answer.missing} rows"
            problems[one.name] = f"looks like an identifier: {found}; {instead}"
    return problems


def _outputs(answered: _Answered, found: _Found, settings: _Settings, like: Profile | None) -> Outputs:
    source = answered.source
    if answered.kind == "multiclass":
        columns = tuple(found[id(source), name][0] for name in answered.columns)
        if like is None:
            columns = (_with_all_classes(columns[0], answered.classes, settings.most), *columns[1:])
        return Outputs("multiclass", columns, answered.classes)
    (name,) = answered.columns
    column, described = found[id(source), name]
    kind = answered.kind
    if kind is None:
        low, high = described.minimum, described.maximum
        kind = "score" if low is not None and high is not None and low >= 0 and high <= 1 else "regression"
    column = replace(column, name={"score": "score", "class": "class", "regression": "value"}[kind])
    if kind != "score":
        if answered.positive is not None:
            raise ValueError(f"positive_class={answered.positive!r} is of use with scores, outputs are {kind}")
        return Outputs(kind, (column,))
    return Outputs(kind, (column,), calibration=_calibration(answered, described, settings, like))


def _with_all_classes(column: Column, classes: Sequence[Category], most: int) -> Column:
    """The column of predicted classes with cells also for those never predicted, last."""
    seen = column.bins.categories
    unseen = tuple(name for name in classes if name not in seen)[: most - len(seen)]
    counts = (*column.counts[:-2], *(0 for _ in unseen), *column.counts[-2:])
    return Column("class", Bins("categorical", categories=(*seen, *unseen)), counts)


def _calibration(
    answered: _Answered, described: Described, settings: _Settings, like: Profile | None
) -> tuple[CalibrationBin, ...]:
    reference = like.outputs.calibration if like is not None and like.outputs is not None else None
    if answered.label is None:
        return ()
    if reference is not None and not reference:
        raise ValueError("labels are given, but the profile in like= was fitted without: leave them out")
    labels = answered.source.labels_of(answered.label)
    positive = _positive(labels, answered.positive)
    if reference is not None:
        uppers = tuple(part.upper for part in reference[:-1])
    else:
        uppers = _edges(described.quantiles[settings.bins - 1 :], described)
    if described.minimum is None and not uppers:
        return ()
    parts = answered.source.calibrate(answered.columns[0], answered.label, uppers, positive)
    if answered.positive is not None and like is None and not any(part.positives for part in parts):
        raise ValueError(f"positive_class must be one of the labels, such as {list(labels)}, got {answered.positive!r}")
    return tuple(
        CalibrationBin(
            upper,
            _middle(uppers, place) if part.mean_score is None else _short(part.mean_score),
            part.positives,
            part.rows,
        )
        for place, (upper, part) in enumerate(zip((*uppers, math.inf), parts, strict=True))
    )


def _positive(labels: Sequence[Category], positive: Category | None) -> Category:
    """The label that counts as positive, as it is written in the labels."""
    if positive is None:
        if any(isinstance(label, str) or label not in (-1, 0, 1) for label in labels) or len(labels) > 2:
            raise ValueError(f"positive_class must say which of the labels {list(labels)} is positive")
        positive = 1
    return next((label for label in labels if equal(label, positive)), positive)
