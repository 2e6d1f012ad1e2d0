"""Adds up profiles of parts of the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_mlobs.core.profile import CalibrationBin, Column, Outputs, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    ):
        if ours != theirs:
            raise ValueError(f"profiles to merge must be of the same {what}: {ours!r} and {theirs!r}")
    columns = [_merge_columns(*pair) for pair in zip(one.columns, other.columns, strict=True)]
    features = tuple(columns[: len(one.features)])
    outputs = None
    if one.outputs is not None and other.outputs is not None:
        calibration = _merge_calibration(one.outputs.calibration, other.outputs.calibration)
        outputs = Outputs(one.outputs.kind, tuple(columns[len(features) :]), one.outputs.classes, calibration)
    return Profile(one.model, one.version, features, outputs, one.rows + other.rows)


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


def _merge_calibration(one: Sequence[CalibrationBin], other: Sequence[CalibrationBin]) -> tuple[CalibrationBin, ...]:
    if not one or not other:
        return tuple(one or other)
    if [part.upper for part in one] != [part.upper for part in other]:
        raise ValueError(
            "profiles to merge must have the same calibration bins: fit one part, then the others with like= that one"
        )
    return tuple(
        CalibrationBin(
            ours.upper,
            _pooled(ours.rows, ours.mean_score, theirs.rows, theirs.mean_score),
            ours.positives + theirs.positives,
            ours.rows + theirs.rows,
        )
        for ours, theirs in zip(one, other, strict=True)
    )
