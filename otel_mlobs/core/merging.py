"""Adds up profiles of parts of the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_mlobs.core.calibration import Calibration, ErrorBins
from otel_mlobs.core.profile import Column, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_mlobs.core.profile import Outputs


def merge(one: Profile, other: Profile) -> Profile:
    """See :meth:`otel_mlobs.core.profile.Profile.merge`."""
    if not isinstance(other, Profile):
        raise TypeError(f"only profiles can be merged, got {other!r}")
    for what, ours, theirs in (
        ("model", one.model, other.model),
        ("version", one.version, other.version),
        ("features", list(one.names), list(other.names)),
        ("kind of outputs", one.outputs and one.outputs.kind, other.outputs and other.outputs.kind),
        ("classes", one.outputs and one.outputs.classes, other.outputs and other.outputs.classes),
        ("threshold", one.outputs and one.outputs.threshold, other.outputs and other.outputs.threshold),
        ("positive class", one.outputs and one.outputs.positive_class, other.outputs and other.outputs.positive_class),
    ):
        if ours != theirs:
            raise ValueError(f"profiles to merge must be of the same {what}: {ours!r} and {theirs!r}")
    if [(part.name, part.centroid) for part in one.embeddings] != [
        (part.name, part.centroid) for part in other.embeddings
    ]:
        raise ValueError(
            "profiles to merge must have the same embeddings and centroids: fit one part, then the others with like= "
            "that one"
        )
    columns = [_merge_columns(*pair) for pair in zip(one.columns, other.columns, strict=True)]
    features = tuple(columns[: len(one.features)])
    outputs = None
    if one.outputs is not None and other.outputs is not None:
        outputs = _merge_outputs(one.outputs, other.outputs, tuple(columns[len(features) :]))
    embeddings = tuple(
        replace(ours, rows=ours.rows + theirs.rows)
        for ours, theirs in zip(one.embeddings, other.embeddings, strict=True)
    )
    return Profile(one.model, one.version, features, outputs, one.rows + other.rows, embeddings)


def _merge_columns(one: Column, other: Column) -> Column:
    if one.bins != other.bins:
        raise ValueError(
            f"profiles to merge must have the same bins, those of {one.name!r} differ: fit one part, "
            "then the others with like= that one"
        )
    counts = tuple(ours + theirs for ours, theirs in zip(one.counts, other.counts, strict=True))
    ours, theirs = sum(one.counts[:-2]), sum(other.counts[:-2])
    if one.minimum is None or other.minimum is None:
        return replace(other if one.minimum is None else one, counts=counts)
    share, rest = ours / (ours + theirs), theirs / (ours + theirs)
    lowest, highest = min(one.minimum, other.minimum), max(_number(one.maximum), _number(other.maximum))
    between = math.sqrt(share * rest)
    # Shares are multiplied before anything is added or subtracted: means of 1e308 must not overflow.
    std = math.hypot(
        math.sqrt(share) * _number(one.std),
        math.sqrt(rest) * _number(other.std),
        between * _number(one.mean) - between * _number(other.mean),
    )
    positions = tuple(
        _pooled(*cell) for cell in zip(one.counts, one.positions, other.counts, other.positions, strict=False)
    )
    return Column(
        one.name, one.bins, counts, lowest, highest,
        mean=share * _number(one.mean) + rest * _number(other.mean),
        std=min(std, highest / 2 - lowest / 2),
        positions=positions,
    )  # fmt: skip


def _number(value: float | None) -> float:
    return 0.0 if value is None else value


def _pooled(ours: int, mine: float, theirs: int, yours: float) -> float:
    total = ours + theirs
    if not total:
        return mine
    return mine * (ours / total) + yours * (theirs / total)


def _merge_outputs(one: Outputs, other: Outputs, columns: tuple[Column, ...]) -> Outputs:
    if one.errors is not None and other.errors is not None:
        errors: ErrorBins | None = _merge_errors(one.errors, other.errors)
    else:
        errors = one.errors or other.errors
    pairs = zip(one.calibrations, other.calibrations, strict=True) if one.calibrations and other.calibrations else ()
    return replace(
        one,
        columns=columns,
        calibration=_merge_calibration(one.calibration, other.calibration),
        calibrations=tuple(_merged(*pair) for pair in pairs) or one.calibrations or other.calibrations,
        errors=errors,
    )


def _merge_calibration(one: Calibration | None, other: Calibration | None) -> Calibration | None:
    return _merged(one, other) if one is not None and other is not None else one or other


def _merged(one: Calibration, other: Calibration) -> Calibration:
    _check_uppers("calibration", one.uppers, other.uppers)
    return Calibration(
        one.uppers,
        tuple(map(_pooled, one.rows, one.mean_scores, other.rows, other.mean_scores)),
        _added(one.positives, other.positives),
        _added(one.rows, other.rows),
        _added(one.chosen_rows, other.chosen_rows),
        _added(one.chosen_positives, other.chosen_positives),
    )


def _merge_errors(one: ErrorBins, other: ErrorBins) -> ErrorBins:
    _check_uppers("error", one.uppers, other.uppers)
    return ErrorBins(
        one.uppers,
        _added(one.rows, other.rows),
        tuple(map(_pooled, one.rows, one.absolute, other.rows, other.absolute)),
        tuple(map(_pooled, one.rows, one.squared, other.rows, other.squared)),
        tuple(map(_pooled, one.rows, one.signed, other.rows, other.signed)),
    )


def _added(ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, ...]:
    return tuple(one + other for one, other in zip(ours, theirs, strict=True))


def _check_uppers(what: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    if ours != theirs:
        raise ValueError(
            f"profiles to merge must have the same {what} bins: fit one part, then the others with like= that one"
        )
