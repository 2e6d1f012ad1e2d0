"""How often two versions of a model answer alike: what can be told of a shadow deployment where no labels come.

Counting appends to a queue and takes no lock; what is queued is added up when the metric is collected.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_mlobs import semconv
from otel_mlobs.settings.checks import number
from otel_mlobs.telemetry import collected, guard
from otel_mlobs.telemetry.readings import encodable, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Labels = dict[str, str]

__all__ = ["Agreed", "Agreement"]

_QUEUED = 4_096


class Agreed(NamedTuple):
    """How many predictions of two versions were alike, and how many were not."""

    agree: int
    disagree: int

    @property
    def share(self) -> float:
        """Of all that were compared; NaN where none was."""
        compared = self.agree + self.disagree
        return self.agree / compared if compared else float("nan")


class Agreement:
    """Counts whether a model and its shadow answer alike: ``mlobs.model.agreement``. Any thread may record.

    Answers agree where they are equal, unless one of these says otherwise:

    - ``threshold``: scores agree where both are at or above it, or both below; of two columns the second is the score.
    - ``tolerance``: numbers agree where they differ by no more than it.
    - ``k``: rankings agree where more than half of the first k places hold the same items, in whatever order; with
      ``k=1`` where the first item is the same.

    Rows of several columns are class probabilities: they agree where the same class has the highest. A missing answer
    agrees with a missing one only.

    Args:
        model: the model's name.
        version: the version whose answers are used.
        shadow: the version, or the variant, that runs beside it.
        threshold: of a decision.
        tolerance: in units of the answer.
        k: how many places count.

    Raises:
        TypeError: a name is no text.
        ValueError: more than one of ``threshold``, ``tolerance`` and ``k`` is given, or one has an impossible value.
    """

    def __init__(
        self,
        *,
        model: str,
        version: str | int | None = None,
        shadow: str | int,
        threshold: float | None = None,
        tolerance: float | None = None,
        k: int | None = None,
    ) -> None:
        given = {"threshold": threshold, "tolerance": tolerance, "k": k}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"only one of threshold, tolerance and k says what agrees, got {' and '.join(named)}")
        if k is not None and (type(k) is not int or k < 1):
            raise ValueError(f"k must be a whole number from 1, got {k!r}")
        self._threshold = None if threshold is None else number("threshold", threshold, at_least=float("-inf"))
        self._tolerance = None if tolerance is None else number("tolerance", tolerance, at_least=0.0)
        self._k = k
        self._series = _series_of(_name("model", model), _name("version", version), _name("shadow", shadow))

    def record(self, outputs: Any, shadow_outputs: Any) -> None:
        """Count the answers of both for the same input: one, or as many of each; with ``k`` one ranked list each.

        Nothing raises; what cannot be compared is an error of ``mlobs.internal.errors`` and counted as neither.
        """
        try:
            if self._k is not None:
                self._series.add(int(_overlap(outputs, shadow_outputs, self._k)), 1)
                return
            mine, theirs = _listed(outputs), _listed(shadow_outputs)
            if len(mine) != len(theirs):
                raise ValueError(f"both must have as many answers, got {len(mine)} and {len(theirs)}")
            alike = self._alike_arrays(mine, theirs)
            if alike is None:
                alike = sum(map(self._alike, mine, theirs))
            self._series.add(alike, len(mine))
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("agreement", error)

    def _alike(self, one: Any, other: Any) -> bool:
        one, other = self._answer(one), self._answer(other)
        if is_missing(one) or is_missing(other):
            return is_missing(one) and is_missing(other)
        if self._threshold is not None:
            return bool((one >= self._threshold) == (other >= self._threshold))
        if self._tolerance is not None:
            return bool(abs(one - other) <= self._tolerance) or bool(one == other)
        return bool(one == other)

    def _answer(self, value: Any) -> Any:
        """One answer: of probabilities the class that has the highest, of a score's two columns the second."""
        if hasattr(value, "tolist"):
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            return value
        if not value or any(is_missing(one) for one in value):
            return None
        return value[-1] if self._of_one_class(len(value)) else value.index(max(value))

    def _of_one_class(self, columns: int) -> bool:
        """Whether the last of so many columns is the answer."""
        return columns == 1 or (columns == 2 and (self._threshold is not None or self._tolerance is not None))

    def _alike_arrays(self, mine: Any, theirs: Any) -> int | None:
        """How many of two arrays of plain numbers agree, without a look at each; None for anything else."""
        if not (_plain(mine) and _plain(theirs)) or mine.ndim != theirs.ndim:
            return None
        numpy = sys.modules["numpy"]
        with numpy.errstate(invalid="ignore"):
            missing, missing_too = _none(mine), _none(theirs)
            if mine.ndim == 2:
                one = self._of_one_class
                mine, theirs = (each[:, -1] if one(each.shape[1]) else each.argmax(axis=1) for each in (mine, theirs))
            if self._threshold is not None:
                alike = (mine >= self._threshold) == (theirs >= self._threshold)
            elif self._tolerance is not None:
                alike = (abs(mine - theirs) <= self._tolerance) | (mine == theirs)
            else:
                alike = mine == theirs
        either = missing | missing_too
        return int(numpy.count_nonzero(numpy.where(either, missing & missing_too, alike)))

    @property
    def counts(self) -> Agreed:
        """All that was recorded in this process for this model, version and shadow."""
        return self._series.counts()

    def __repr__(self) -> str:
        return f"Agreement({self._series.labels!r})"


def _name(what: str, value: object) -> str | None:
    if value is None and what == "version":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise TypeError(f"{what} must be text, got {value!r}")
    return encodable(str(value))


def _listed(outputs: Any) -> Any:
    """Answers as something that has a length; one answer as a list of it."""
    if isinstance(outputs, (list, tuple)):
        return outputs
    if isinstance(getattr(outputs, "shape", None), tuple) and hasattr(outputs, "__array__"):
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            array = numpy.asarray(outputs.detach() if hasattr(outputs, "detach") else outputs)
            return array if array.ndim else [array.item()]
    if hasattr(outputs, "tolist") and hasattr(outputs, "__len__"):
        return outputs.tolist()
    return [outputs]


def _plain(array: Any) -> bool:
    return hasattr(array, "dtype") and array.dtype.kind in "biuf" and array.ndim in (1, 2) and bool(array.size)


def _none(array: Any) -> Any:
    """Where an answer is missing: NaN, or a row with one."""
    missing = array != array  # noqa: PLR0124 - NaN is what differs from itself
    return missing.any(axis=1) if array.ndim == 2 else missing


def _overlap(outputs: Any, shadow_outputs: Any, k: int) -> bool:
    """Whether more than half of the first k places hold the same items; an empty list agrees with an empty one."""
    mine, theirs = (_first(one, k) for one in (outputs, shadow_outputs))
    places = max(len(mine), len(theirs))
    return 2 * len({*mine} & {*theirs}) > places if places else True


def _first(outputs: Any, k: int) -> Sequence[Any]:
    items: Any = outputs[:k]
    return items.tolist() if hasattr(items, "tolist") else list(items)


class _Series(collected.Group):
    """The counter of one model, version and shadow in this process, whoever counts; a :class:`~collected.Group`."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.start_afresh()

    def start_afresh(self) -> None:
        """Begin again from zero: in a forked child, what was counted is the parent's."""
        self._lock = threading.RLock()
        self._folding = False
        self._queue: deque[tuple[int, int]] = deque()
        self._agree = self._compared = 0

    def add(self, agree: int, compared: int) -> None:
        """Count ``compared`` pairs, of which ``agree`` were alike."""
        self._queue.append((agree, compared))
        if len(self._queue) >= _QUEUED and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        if self._folding:  # a signal handler or finaliser of the thread that folds
            return
        self._folding = True
        try:
            for _ in range(len(self._queue)):
                agree, compared = self._queue.popleft()
                self._agree += agree
                self._compared += compared
        finally:
            self._folding = False

    def counts(self) -> Agreed:
        """All that was counted."""
        with self._lock:
            self._fold()
            return Agreed(self._agree, self._compared - self._agree)

    def points(self, metric: semconv.Metric, *, zero: bool) -> Iterator[tuple[float, Labels]]:  # noqa: ARG002 - one metric
        """Both series, from zero on."""
        found = Agreed(0, 0) if zero else self.counts()
        yield found.agree, {**self.labels, semconv.AGREEMENT_RESULT: "agree"}
        yield found.disagree, {**self.labels, semconv.AGREEMENT_RESULT: "disagree"}


_lock = threading.RLock()
_known: dict[tuple[str | None, ...], _Series] = {}


def _series_of(model: str | None, version: str | None, shadow: str | None) -> _Series:
    keys = (semconv.MODEL_NAME, semconv.MODEL_VERSION, semconv.SHADOW_VERSION)
    named = (model, version, shadow)
    with _lock:
        found = _known.get(named)
        if found is None:
            labels = {key: value for key, value in zip(keys, named, strict=True) if value is not None}
            found = _known[named] = _Series(labels)
    collected.join(found, "agreements")  # takes locks of the SDK's, which a collection holds while it asks us
    return found


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the inherited one may be held by a thread that is not here
    _lock = threading.RLock()
    for one in _known.values():
        one.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
