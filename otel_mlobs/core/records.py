"""Predictions that wait for a label, and the labels that come: what every store keeps, each in its own way."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple, Union

LabelValue = Union[str, int, float, bool]  # noqa: UP007 - evaluated at run time, on Python 3.10 too
Result = Literal["joined", "duplicate", "conflict", "late", "unknown"]

Unlabelled = Literal["missing", "negative"]
"""What a mature prediction without a label counts as: it is left out, or it was negative."""
NO_CURRENCY = "XXX"
"""What ISO 4217 has where there is none."""

_SEPARATOR = "\x1f"
_CURRENCY = re.compile(r"[A-Z]{3}")


class Prediction(NamedTuple):
    """What is kept of one prediction until its label comes.

    Attributes:
        id: what the label will name it by.
        stream: the model, its version and its profile, as ``stream_of`` joins them.
        time: when it was made, in seconds since the epoch.
        payload: the output as packed float64 numbers, as ``core.rows.OutputReader.encode`` gives them.
        due: when it is mature, so that ``OutcomeStore.claim`` may give it out; None where nobody will claim it.
        variant: the variant of an experiment that made it.
    """

    id: str
    stream: str
    time: float
    payload: bytes = b""
    due: float | None = None
    variant: str | None = None


class Label(NamedTuple):
    """One event that tells what a prediction should have been.

    Attributes:
        prediction_id: the prediction it is for.
        key: tells several events for one prediction apart, as ``"click:item"`` in a ranking; "" for its only label.
        value: the label itself.
        time: when it came, in seconds since the epoch; the store's clock says it where it is None.
        amount: what was at stake, in ``currency``.
        currency: three letters, as ISO 4217 has them.
        token: names this very event, so that writing it again after a lost answer changes nothing; made where empty.
    """

    prediction_id: str
    key: str
    value: LabelValue
    time: float | None = None
    amount: float | None = None
    currency: str | None = None
    token: str = ""


class Joined(NamedTuple):
    """What became of a label.

    Attributes:
        label: the label.
        result: ``"joined"``; ``"duplicate"`` (the same value came before), ``"conflict"`` (another one did, and stays),
            ``"late"`` (kept, but its prediction was given out as mature before) or ``"unknown"`` (no such prediction).
        prediction: what it is for; None where that is not known.
    """

    label: Label
    result: Result
    prediction: Prediction | None


class Record(NamedTuple):
    """A prediction with the first label of every key."""

    prediction: Prediction
    labels: tuple[Label, ...]


def stream_of(model: str, version: str | None, profile_id: str) -> str:
    """The stream of a model's predictions."""
    return _SEPARATOR.join((model, version or "", profile_id))


def parts_of(stream: str) -> tuple[str, str, str]:
    """Model, version ("" for none) and profile id of a stream."""
    model, version, profile_id = stream.rsplit(_SEPARATOR, 2)
    return model, version, profile_id


def plain(value: Any) -> LabelValue | None:
    """A label as every store keeps it, so that equal ones are equal everywhere; None where it is missing.

    ``True`` and ``1.0`` become ``1``; NumPy's scalars become Python's.

    Raises:
        TypeError: it is neither text, a number nor a truth value.
    """
    if type(value) is str:
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else float(value)
    raise TypeError(f"a label must be text, a number or a truth value, got a {type(value).__name__}")


def valid_amount(value: Any) -> float:
    """What was at stake, as it is counted.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative or not finite.
    """
    if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
        raise TypeError(f"value must be a number, got {value!r}")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"value must be finite and not negative, it is counted up; got {value!r}")
    return amount


def valid_currency(currency: Any) -> str:
    """A currency's code.

    Raises:
        ValueError: it is not three capitals.
    """
    if not (isinstance(currency, str) and _CURRENCY.fullmatch(currency)):
        raise ValueError(f'currency must be a code of three capitals, as "EUR", got {currency!r}')
    return currency
