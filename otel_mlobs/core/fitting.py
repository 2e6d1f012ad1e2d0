"""Fits a profile: chooses each column's bins, then counts into them, wherever the rows lie."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_mlobs.core.answers import build_outputs, column_names, find_answers
from otel_mlobs.core.binning import Bins, is_missing, numeric_edges
from otel_mlobs.core.calibrating import middle, shortened
from otel_mlobs.core.embeddings import MEASURES, fit_embedding
from otel_mlobs.core.profile import Column, Profile
from otel_mlobs.core.reading import Columns
from otel_mlobs.core.sources import open_columns
from otel_mlobs.tables import Cells, Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.core.answers import Answered
    from otel_mlobs.core.binning import Category
    from otel_mlobs.core.embeddings import Embedding
    from otel_mlobs.core.profile import OutputKind, Outputs
    from otel_mlobs.core.sources import Progress, Source
    from otel_mlobs.tables import Counted, Described, Kind

RARE = 20
"""Feature values on fewer rows than this have no cell and no name in the profile: they may point at a person."""
_POSITION_DIGITS = 12
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
    levels: tuple[Fraction, ...] = ()
    any_text: bool = True


@dataclass(frozen=True)
class _Settings:
    bins: int
    most: int

    def question(self, wanted: _Wanted) -> Question:
        if wanted.kind == "numeric":  # the quantiles that edges are made from, and what else is wanted behind them
            own = (Fraction(part, self.bins) for part in range(1, self.bins))
            return Question(wanted.name, "numeric", (*own, *wanted.levels))
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
            middle(bins.edges, cell) if mean is None else shortened(mean, _POSITION_DIGITS)
            for cell, mean in enumerate(counted.means)
        ),
    )  # fmt: skip


def _outward(value: float, towards: float) -> float:
    """The nearest float32 in the direction of ``towards`` or ``value``, where float32 does not reach that far."""
    if abs(value) >= float(np.finfo(np.float32).max):
        return value
    with np.errstate(under="ignore"):
        single = np.float32(value)
    if (float(single) > value) if towards < 0 else (float(single) < value):
        single = np.nextafter(single, np.float32(towards))
    return float(single)


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
    threshold: float | None,
    embeddings: Mapping[str, Any] | None,
) -> Profile:
    """See :meth:`otel_mlobs.core.profile.Profile.fit`."""
    categorical, exclude = _listed("categorical", categorical), _listed("exclude", exclude)
    features = None if features is None else _listed("features", features)
    _check_options(bins, max_categories, output_kind, model, version)
    _check_threshold(threshold)
    positive_class = positive_class.item() if isinstance(positive_class, np.generic) else positive_class
    if positive_class is not None and (not isinstance(positive_class, (str, int, float)) or is_missing(positive_class)):
        raise ValueError(f"positive_class must be a label, text, a number or a boolean, got {positive_class!r}")
    if outputs is None and any(one is not None for one in (labels, positive_class, output_kind, threshold)):
        raise ValueError(
            "labels=, positive_class=, output_kind= and threshold= say something about outputs=: give it, too"
        )
    if like is not None:
        _check_like(like, model, version, features, categorical, exclude, outputs)
        version = like.version
        if like.outputs is not None:
            output_kind = _agreed_kind(like.outputs, output_kind)
    vectors = _check_embeddings(embeddings, like)
    plain = None if like is None else list(like.names[: len(like.names) - len(MEASURES) * len(vectors)])
    source = open_columns(data, features or plain)
    apart = [] if outputs is None else [*column_names(source, outputs), *column_names(source, labels)]
    held = [name for name in source.names if name not in vectors]
    names = _chosen(held, features or plain, categorical, exclude, apart)
    if not names and not vectors:
        raise ValueError("no feature is left: a profile needs at least one")
    source.only(list(dict.fromkeys([*names, *apart])))
    if isinstance(source, Columns) and not source.rows:
        raise ValueError("data has no rows: a profile needs some")
    wanted = _features(source, names, categorical, like)
    settings = _Settings(bins, max_categories)
    answers = None if outputs is None else find_answers(source, outputs, labels, output_kind, positive_class, like)
    work = [(source, wanted)]
    if answers is not None:
        ours = _wanted_outputs(answers, like)
        work = [(source, [*wanted, *ours])] if answers.source is source else [*work, (answers.source, ours)]
    measured, references = _measured(source, vectors, like)
    if vectors:
        work.append((measured, _features(measured, measured.names, (), like)))
    found = _fit_columns(work, settings, like is not None, progress)
    columns = tuple(found[id(source), name][0] for name in names)
    columns += tuple(found[id(measured), name][0] for name in measured.names)
    fitted = None
    if answers is not None:
        of = {name: found[id(answers.source), name] for name in answers.columns}
        curve = of[answers.columns[0]][1].quantiles[bins - 1 :]
        reference = None if like is None else like.outputs
        fitted = build_outputs(answers, of, curve, max_categories, threshold, reference)
    return Profile(model, version, columns, fitted, columns[0].rows, references)


def _check_embeddings(embeddings: Mapping[str, Any] | None, like: Profile | None) -> Mapping[str, Any]:
    given = {} if embeddings is None else embeddings
    if not isinstance(given, Mapping):
        raise TypeError(f"embeddings must be vectors by name, as {{'user': array}}, got {type(given).__name__}")
    if like is not None and list(given) != [one.name for one in like.embeddings]:
        names = [one.name for one in like.embeddings]
        raise ValueError(f"embeddings must be those of the profile in like=, {names}, got {list(given)}")
    return given


def _measured(
    source: Source, vectors: Mapping[str, Any], like: Profile | None
) -> tuple[Columns, tuple[Embedding, ...]]:  # fmt: skip
    """The embeddings' features as columns, and their references."""
    if vectors and not isinstance(source, Columns):
        raise TypeError("embeddings need the rows in memory, got a table in a database")
    rows = source.rows if isinstance(source, Columns) else 0
    references: list[Embedding] = []
    columns: dict[str, Any] = {}
    for place, (name, given) in enumerate(vectors.items()):
        embedding, measures = fit_embedding(name, given, like.embeddings[place] if like is not None else None)
        if len(measures) != rows:
            found = len(measures)
            raise ValueError(f"embedding {name!r} must have one vector per row of the data, {rows}, got {found}")
        references.append(embedding)
        columns.update(zip(embedding.features, measures.T, strict=True))
    return Columns(tuple(columns), rows, columns), tuple(references)


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


def _check_threshold(threshold: float | None) -> None:
    if threshold is None:
        return
    number = not isinstance(threshold, bool) and isinstance(threshold, (int, float, np.integer, np.floating))
    if not number or not abs(threshold) < sys.float_info.max:
        raise ValueError(f"threshold must be a finite number, got {threshold!r}")


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


def _wanted_outputs(answered: Answered, like: Profile | None) -> list[_Wanted]:
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
    return [_Wanted(name, "numeric", fixed.get(name), levels=() if fixed else answered.levels)]


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
