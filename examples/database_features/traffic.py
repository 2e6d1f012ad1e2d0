"""The rows of a part as requests, and what may happen to them on the way: drift to order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import data
import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

KINDS = {
    "shift": "FEATURE=SD: add SD standard deviations of the training rows",
    "scale": "FEATURE=FACTOR: spread it FACTOR times as wide around the mean of the training rows",
    "missing": "FEATURE=SHARE: send null in this share of the requests",
    "unit": "FEATURE=FACTOR[:SHARE]: one client, with this share (0.2) of the requests, sends FACTOR times the value",
}


@dataclass(frozen=True)
class Change:
    """Something that happens to one feature: `kind` is one of KINDS, `share` the part of the requests that it befalls.

    Raises:
        ValueError: there is no such feature, or the share is not from 0 to 1.
    """

    kind: str
    feature: str
    amount: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.feature not in data.FEATURES:
            raise ValueError(f"--{self.kind} must name one of {', '.join(data.FEATURES)}, got {self.feature!r}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"--{self.kind} {self.feature} must befall a share from 0 to 1, got {self.share}")

    def __call__(self, value: float, mean: float, deviation: float) -> float | None:
        """What is sent in the place of `value`; mean and standard deviation are those of the training rows."""
        if self.kind == "shift":
            return value + self.amount * deviation
        if self.kind == "scale":
            return mean + self.amount * (value - mean)
        return value * self.amount if self.kind == "unit" else None


def parse(kind: str, text: str) -> Change:
    """The change that `--kind text` of the command line stands for.

    Raises:
        ValueError: it is not of the form that KINDS gives.
    """
    feature, _, numbers = text.partition("=")
    amount, *share = numbers.split(":")
    form = KINDS[kind].partition(": ")[0]
    try:
        figures = [float(amount), *map(float, share)]
    except ValueError:
        raise ValueError(f"--{kind} must be {form}, got {text!r}") from None
    if len(figures) > 1 + (kind == "unit"):
        raise ValueError(f"--{kind} must be {form}, got {text!r}")
    if kind == "missing":
        return Change(kind, feature, share=figures[0])
    return Change(kind, feature, *figures, **({"share": 0.2} if kind == "unit" and not share else {}))


def requests(rows: data.Blocks, changes: Sequence[Change] = (), *, after: int = 0) -> list[dict[str, Any]]:
    """A request for each row; from the request number `after` on the changes happen, evenly spread."""
    training = data.load("train").features
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    made: list[dict[str, Any]] = [{"block_id": block_id} for block_id in rows.ids.tolist()]
    for change in changes:
        column = data.FEATURES.index(change.feature)
        values = rows.features[after:, column].tolist()
        befallen = np.diff(np.floor(np.arange(len(values) + 1) * change.share + 1e-9)) > 0
        for request, value, hit in zip(made[after:], values, befallen.tolist(), strict=True):
            if hit:
                known = request.setdefault("features", {})
                # Two changes of one feature: the second is made to what the first has left.
                value = known.get(change.feature, value)  # noqa: PLW2901
                known[change.feature] = None if value is None else change(value, mean[column], deviation[column])
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read_arguments` understands."""
    parser.add_argument("--part", choices=data.PARTS, default="later", help="whose rows to send (later)")
    parser.add_argument("--shuffle", action="store_true", help="in random order; default: later rows as they came")
    parser.add_argument("--count", type=int, help="how many of them; default: all")
    parser.add_argument("--after", type=int, default=0, metavar="REQUESTS", help="when the changes begin (0)")
    for kind, meaning in KINDS.items():
        form, _, text = meaning.partition(": ")
        parser.add_argument(f"--{kind}", action="append", default=[], metavar=form, help=text)


def read_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The requests that the command line asks for; ends the program where they make no sense."""
    for name in ("count", "after"):
        if (getattr(arguments, name) or 0) < 0:
            parser.error(f"--{name} must not be negative, got {getattr(arguments, name)}")
    try:
        changes = [parse(kind, text) for kind in KINDS for text in getattr(arguments, kind)]
    except ValueError as error:
        parser.error(str(error))
    rows = data.load(arguments.part, shuffle=arguments.shuffle)
    return requests(rows, changes, after=arguments.after)[: arguments.count]
