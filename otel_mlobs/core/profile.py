"""A model's reference: how its features and outputs were distributed when it was trained."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from otel_mlobs.core.binning import SPECIALS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from otel_mlobs.core.binning import Bins, Category
    from otel_mlobs.core.calibration import Calibration, ErrorBins
    from otel_mlobs.core.embeddings import Embedding

OutputKind = Literal["score", "class", "multiclass", "regression"]

_OUTPUT_COLUMNS = {
    "score": ("score",),
    "class": ("class",),
    "multiclass": ("class", "confidence", "entropy"),
    "regression": ("value",),
}


@dataclass(frozen=True)
class Column:
    """The reference of one feature or one output: counts over fixed cells, and no raw value but the extremes.

    Attributes:
        name: the feature's, or the output's: score, class, confidence, entropy, value.
        bins: the cells.
        counts: rows in each of ``bins.cells``.
        minimum: smallest finite value, rounded down to a float32 value; None where there is none, or no number.
        maximum: largest finite value, rounded up to a float32 value.
        mean: of the finite values.
        std: of the finite values, taken as the whole population.
        positions: numeric: mean of the finite values in each value cell; of an empty one the middle between its edges,
            or the one edge it has. Else empty.

    Raises:
        ValueError: edges do not ascend, categories repeat, or fields do not fit each other.
    """

    name: str
    bins: Bins
    counts: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    positions: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        bins = self.bins
        if not all(one < other for one, other in pairwise(bins.edges)) or not all(map(math.isfinite, bins.edges)):
            raise ValueError(f"{self.name!r}: edges must be finite and ascend, got {bins.edges}")
        if len(set(bins.categories)) < len(bins.categories):
            raise ValueError(f"{self.name!r}: categories must differ, got {bins.categories}")
        if bins.kind == "boolean" and bins.categories != (False, True):
            raise ValueError(f"{self.name!r}: categories of a boolean must be False and True, got {bins.categories}")
        if len(self.counts) != bins.values + SPECIALS:
            expected = bins.values + SPECIALS
            raise ValueError(f"{self.name!r}: counts must be one per cell, {expected}, got {len(self.counts)}")
        if min(self.counts) < 0:
            raise ValueError(f"{self.name!r}: counts must not be negative, got {min(self.counts)}")
        expected = bins.values if bins.ordered else 0
        if len(self.positions) != expected:
            raise ValueError(f"{self.name!r}: positions must be one per value cell, {expected}, got {self.positions}")
        if not all(map(math.isfinite, self.positions)):
            raise ValueError(f"{self.name!r}: positions must be finite, got {self.positions}")
        self._check_moments()

    def _check_moments(self) -> None:
        known = [value for value in (self.minimum, self.maximum, self.mean, self.std) if value is not None]
        if not known:
            return
        if len(known) < 4 or not all(map(math.isfinite, known)):
            raise ValueError(f"{self.name!r}: minimum, maximum, mean and std must be finite, or all None, got {known}")
        minimum, maximum, _, std = known
        if minimum > maximum or std < 0:
            raise ValueError(
                f"{self.name!r}: minimum must not exceed maximum, nor std be negative, got {minimum}, {maximum}, {std}"
            )

    @property
    def rows(self) -> int:
        """All rows, missing ones too."""
        return sum(self.counts)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the rows in each cell; zeros where there are no rows."""
        rows = self.rows
        return tuple(count / rows if rows else 0.0 for count in self.counts)


@dataclass(frozen=True)
class Outputs:
    """The reference of a model's outputs.

    Attributes:
        kind: what the model answers with.
        columns: score: ``score``; class: ``class``; multiclass: ``class``, ``confidence`` (the highest probability),
            ``entropy`` (in units of its largest, from 0 to 1); regression: ``value``.
        classes: multiclass: the classes in the order of the probability columns.
        calibration: scores with labels: how often the positive class came, by score; at most 100 bins.
        calibrations: multiclass with labels: the same for every class against the rest; at most 50 bins each.
        threshold: scores: from here on a score predicts the positive class.
        positive_class: scores: the label that they are the probability of; None where labels are 0 and 1.
        errors: regression with labels: how large the errors were, by predicted value; at most 20 bins.

    Raises:
        ValueError: columns, classes or what labels gave are not those of the kind.
    """

    kind: OutputKind
    columns: tuple[Column, ...]
    classes: tuple[Category, ...] = ()
    calibration: Calibration | None = None
    calibrations: tuple[Calibration, ...] = ()
    threshold: float = 0.5
    positive_class: Category | None = None
    errors: ErrorBins | None = None

    def __post_init__(self) -> None:
        if self.kind not in _OUTPUT_COLUMNS:
            raise ValueError(f"outputs: kind must be one of {list(_OUTPUT_COLUMNS)}, got {self.kind!r}")
        names, expected = tuple(column.name for column in self.columns), _OUTPUT_COLUMNS[self.kind]
        if names != expected:
            raise ValueError(f"outputs: columns of kind {self.kind!r} must be {expected}, got {names}")
        if (self.kind == "multiclass") != bool(self.classes) or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"outputs: classes must be those of multiclass outputs, each once, got {self.classes}")
        self._check_labelled()

    def _check_labelled(self) -> None:
        for what, kind, given in (
            ("calibration", "score", self.calibration is not None),
            ("positive_class", "score", self.positive_class is not None),
            ("errors", "regression", self.errors is not None),
        ):
            if given and self.kind != kind:
                raise ValueError(f"outputs: {what} must be of kind {kind!r}, got {self.kind!r}")
        if self.calibrations and len(self.calibrations) != len(self.classes):
            found = len(self.calibrations)
            raise ValueError(f"outputs: calibrations must be one per class, {len(self.classes)}, got {found}")
        if not abs(self.threshold) < sys.float_info.max:  # an edge lies below it
            raise ValueError(f"outputs: threshold must be a finite number, got {self.threshold}")
        edge = math.nextafter(self.threshold, -math.inf)
        if self.calibration is not None and edge not in self.calibration.uppers:
            raise ValueError(f"outputs: calibration must have an edge just below the threshold {self.threshold}")


@dataclass(frozen=True)
class Profile:
    """A model's reference, frozen: :meth:`fit` it once on training data and :meth:`save` it beside the model.

    It holds counts over fixed cells; of raw values only each number's extremes and the names of categories that are on
    20 rows or more.

    Attributes:
        model: the model's name.
        version: the model's version, if it has one.
        features: one reference per feature, in the order in which arrays have them.
        outputs: the reference of the model's outputs, if they were given.
        rows: how many rows were counted.
        embeddings: the reference of vectors, whose features are the last ones of ``features``.
    """

    model: str
    version: str | None
    features: tuple[Column, ...]
    outputs: Outputs | None
    rows: int
    embeddings: tuple[Embedding, ...] = ()

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a profile's features must be one or more, each with a name of its own, got {names}")
        derived = tuple(name for embedding in self.embeddings for name in embedding.features)
        if names[len(names) - len(derived) :] != derived:
            raise ValueError(f"a profile's last features must be those of its embeddings, {derived}, got {names}")
        for column in self.columns:
            if column.rows != self.rows:
                raise ValueError(f"{column.name!r}: counts must add up to the {self.rows} rows, got {column.rows}")

    @cached_property
    def id(self) -> str:
        """Twelve hex digits of a hash of the content: equal content, equal id, whatever file it lies in.

        Means and the like go in with nine digits, so that another order of the rows, or a database's sums, change
        nothing.
        """
        from otel_mlobs.core.profile_file import content_id

        return content_id(self)

    def __repr__(self) -> str:
        """One line; ``otel-mlobs profile show`` draws the whole."""
        return (
            f"Profile(model={self.model!r}, version={self.version!r}, features={len(self.features)}, "
            f"outputs={self.outputs.kind if self.outputs else None!r}, rows={self.rows}, id={self.id!r})"
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """Features, then the outputs' columns: the order in which a monitor counts."""
        return self.features + (self.outputs.columns if self.outputs else ())

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(column.name for column in self.features)

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        outputs: Any = None,
        labels: Any = None,
        features: Sequence[str] | None = None,
        model: str,
        version: str | None = None,
        positive_class: Category | None = None,
        output_kind: OutputKind | None = None,
        bins: int = 10,
        categorical: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_categories: int = 32,
        like: Profile | None = None,
        threshold: float | None = None,
        embeddings: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Profile:
        """Count ``data`` into bins chosen from its quantiles; the result does not depend on the order of the rows.

        Args:
            data: a 2-D array (its columns are named by ``features``, else x0, x1, …), a structured array, a mapping of
                names to arrays or lists, a dataframe (pandas, polars, Arrow; extra ``profile``), or an ibis table,
                whose database then does the counting. None, NaN, NA and masked values are missing.
            outputs: what the model answered, one row per row of ``data``: floats within 0…1 are scores, other floats
                regression, text, booleans and integers classes; of two columns the second is the score, or that of
                ``positive_class``; more columns are class probabilities. Or the name of a column of ``data`` (of a
                table in a database: only that), or a list of names.
            labels: what came true, or the name of a column: gives the calibration of scores and of class
                probabilities, the errors of a regression, and the classes of probability columns, in scikit-learn's
                order. Rows without a label are left out of these. Give rows that the model was not trained on: on its
                training rows it seems better than it is.
            features: the columns to take, in this order; all but outputs' and labels' unless given.
            model: the model's name.
            version: the model's version.
            positive_class: the label that scores are the probability of; 1 or True unless given.
            output_kind: score (of any range: a ranker's, too), class, multiclass or regression, where the values do
                not say what is meant.
            bins: cells per number, 2 to 100; fewer where values repeat.
            categorical: names of columns of numbers to be counted by value.
            exclude: names of columns to leave out.
            max_categories: cells per category column; what is rarer, or on fewer than 20 rows, is ``other``.
            like: fit with this profile's features, bins and threshold, so that the two can be merged.
            threshold: a score from here on predicts the positive class; 0.5 unless given.
            embeddings: vectors that the model takes, by name: an array of shape (rows, components), or a column of
                lists, of 2 to 4,096 components each. Of each its norm, its dispersion and its cosine distance to the
                centroid are counted, as features ``name.norm``, ``name.dispersion``, ``name.distance`` behind the
                others. Live rows are then mappings or frames that hold the vector under its name.
            progress: called with (done, total) as columns are done.

        Raises:
            ValueError: shapes, lengths or names do not fit; or columns hold what cannot be counted (dates, nested
                values, identifiers): all of them are named, each with what to do.
            TypeError: ``data`` is no table.
            MissingExtraError: a dataframe was given without the extra ``profile``.
        """
        from otel_mlobs.core.fitting import fit

        return fit(
            data, outputs=outputs, labels=labels, features=features, model=model, version=version,
            positive_class=positive_class, output_kind=output_kind, bins=bins, categorical=categorical,
            exclude=exclude, max_categories=max_categories, like=like, progress=progress,
            threshold=threshold, embeddings=embeddings,
        )  # fmt: skip

    def merge(self, other: Profile) -> Profile:
        """The profile of both parts together: counts are exact, means and deviations good to 1e-9 of the range.

        Raises:
            ValueError: models, features or bins differ; parts are fitted with ``like=`` one of them.
        """
        from otel_mlobs.core.merging import merge

        return merge(self, other)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile to ``path`` as JSON, whole or not at all; a file that is there is replaced."""
        from otel_mlobs.core.profile_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: the file is damaged, no profile, or of a later format; the message names the file and the field.
            OSError: it cannot be read.
        """
        from otel_mlobs.core.profile_file import load

        return load(path)

    def to_json(self) -> str:
        """The text that :meth:`save` writes."""
        from otel_mlobs.core.profile_file import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Profile:
        """The profile whose text :meth:`to_json` gave; raises as :meth:`load` does."""
        from otel_mlobs.core.profile_file import from_json

        return from_json(text)
