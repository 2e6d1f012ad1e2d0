"""``otel-mlobs profile``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_mlobs.tools.terminal import printable, progress, shows_unicode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_mlobs.core.profile import Column, Outputs, Profile

_ACTIONS = ("fit", "show", "diff")
_NAMED_CATEGORIES = 3
_CLOSED = 141
"""What a shell reports of a command that a closed pipe ended."""
_IDENTIFIER = "looks like an identifier: "
"""How a refusal goes on with a count, which a database gives approximately."""
_BELIEVED = 10_000
"""Rows of a reference beyond which the alarm believes it no more: see :mod:`otel_mlobs.core.alarm`."""


class _Names(argparse.Action):
    """Names apart by spaces or commas, in one option or in several."""

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        given = [name for value in values for name in value.split(",") if name]
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), *given])


def with_action(arguments: Sequence[str]) -> list[str]:
    """``profile FILE …`` as ``profile fit FILE …``: what most people come for needs no word of its own.

    A table that is really called ``show`` is reached as ``./show``.
    """
    given = list(arguments)
    if given[:1] == ["profile"] and len(given) > 1 and given[1] not in (*_ACTIONS, "-h", "--help"):
        given.insert(1, "fit")
    return given


def add(commands: Any) -> None:
    """Add the command and its actions to the parser."""
    profile = commands.add_parser(
        "profile",
        help="fit a profile to training data (Parquet, CSV, a SQL query); show one; compare two",
        description="otel-mlobs profile train.parquet --output churn.profile.json --model churn fits a profile: the "
        "word fit may be left out.",
    )
    actions = profile.add_subparsers(dest="action", required=True, metavar="action")
    _add_fit(actions)
    show = actions.add_parser("show", help="draw a profile's distributions")
    show.add_argument("file", metavar="PROFILE")
    show.add_argument("--bins", action="store_true", help="name each cell and what it holds, as b07 in a metric")
    show.set_defaults(run=_until_closed(_show))
    diff = actions.add_parser("diff", help="what lies between two profiles: features, bins, PSI")
    diff.add_argument("before", metavar="BEFORE")
    diff.add_argument("after", metavar="AFTER")
    diff.set_defaults(run=_until_closed(_diff))


def _add_fit(actions: Any) -> None:
    fit = actions.add_parser(
        "fit",
        help="fit a profile to a table",
        description="Fit a profile to a Parquet or CSV file (empty, NA, NULL and null are missing), to several that a "
        "quoted pattern names, or to a SQL query. The database counts; no row is held in memory.",
    )
    fit.add_argument("file", metavar="FILE", nargs="?", help="Parquet or CSV")
    fit.add_argument("--query", metavar="SQL", help="what to select, instead of FILE; it runs several times per column")
    fit.add_argument(
        "--database",
        metavar="URL",
        help="as postgresql://user@host/name (PGPASSWORD has the "
        "password), sqlite:///file.sqlite or duckdb:///file.duckdb; four slashes begin an absolute path",
    )
    fit.add_argument("--database-env", metavar="VARIABLE", help="the environment variable that holds the URL")
    fit.add_argument("--output", "-o", metavar="PROFILE", required=True, help="the file to write")
    fit.add_argument("--model", metavar="NAME", required=True)
    fit.add_argument("--version", metavar="VERSION")
    for name, told in (
        ("features", "the columns to take; all but the outputs' and labels' unless given"),
        ("exclude", "columns to leave out"),
        ("categorical", "columns of numbers to be counted by value"),
    ):
        fit.add_argument(f"--{name}", metavar="COLUMN", nargs="+", action=_Names, default=None, help=told)
    fit.add_argument("--outputs", metavar="COLUMN", help="what the model answered")
    fit.add_argument("--output-kind", choices=("score", "class", "regression"), help="where the values do not tell")
    fit.add_argument("--labels", metavar="COLUMN", help="what came true: gives calibration, or a regression's errors")
    fit.add_argument("--positive-class", metavar="LABEL", help="the label that scores are the probability of")
    fit.add_argument(
        "--threshold", type=float, metavar="SCORE", help="from here on a score predicts the class (default: 0.5)"
    )
    fit.add_argument("--like", metavar="PROFILE", help="fit with this profile's features and bins, to compare the two")
    fit.add_argument("--bins", type=int, default=10, metavar="N", help="cells per number (default: 10)")
    fit.set_defaults(run=_until_closed(_fit))


def _fit(options: argparse.Namespace) -> int:
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.tools import profiles

    if (options.file is None) == (options.query is None):
        raise ValueError("give a FILE or a --query, one of them")
    if options.query is None:
        if options.database is not None or options.database_env is not None:
            raise ValueError("--database and --database-env say where a --query runs: give it, too")
        opened = profiles.open_file(options.file)
    else:
        url = profiles.database_url(options.database, options.database_env)
        opened = profiles.open_query(options.query, url)
    if not Path(options.output).absolute().parent.is_dir():
        raise FileNotFoundError(2, "No such folder", str(Path(options.output).absolute().parent))
    like = None if options.like is None else Profile.load(options.like)
    with opened as table:
        try:
            profile = Profile.fit(
                table,
                outputs=options.outputs,
                labels=options.labels,
                features=options.features,
                model=options.model,
                version=options.version,
                positive_class=_value(options.positive_class),
                output_kind=options.output_kind,
                bins=options.bins,
                categorical=options.categorical or (),
                exclude=options.exclude or (),
                like=like,
                threshold=options.threshold,
                progress=progress if sys.stderr.isatty() else None,
            )
        except ValueError as error:
            message = _as_options(str(error))
            if _IDENTIFIER in message:
                message = message.replace(_IDENTIFIER, f"{_IDENTIFIER}about ")
                for name in profiles.numbers_as_text(table):
                    column = f"column {name!r} "
                    message = message.replace(
                        column + _IDENTIFIER, f"{column}is mostly numbers (numbers as text?), and {_IDENTIFIER}"
                    )
            raise ValueError(message) from error
        finally:
            if sys.stderr.isatty():
                print(file=sys.stderr)
    profile.save(options.output)
    _say(f"{options.output}: {_headline(profile)}")
    _print_remarks(profile)
    for kind in ("numeric", "boolean", "categorical"):
        names = [column.name for column in profile.features if column.bins.kind == kind]
        if names:
            _say(f"{kind}: {', '.join(names)}")
    return 0


def _until_closed(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``run``, silent where who reads standard output has read enough, as ``head`` does."""

    def quiet(options: argparse.Namespace) -> int:
        try:
            code = run(options)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left in the buffer is flushed at exit, and would fail again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            return _CLOSED
        return code

    return quiet


def _say(line: str = "") -> None:
    print(printable(_escaped(line)))


def _escaped(text: str) -> str:
    """The text with control characters written out: those of a foreign profile must not reach the terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _value(text: str | None) -> Any:
    """A label as it is in the data: 1 and true are a number and a boolean, all else is text."""
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (bool, int, float)) else text


def _as_options(message: str) -> str:
    """The message with the arguments of ``Profile.fit`` as options of the command."""
    for name in (
        "features", "exclude", "categorical", "outputs", "labels", "positive_class", "output_kind", "threshold", "like",
    ):  # fmt: skip
        message = message.replace(f"{name}=", "--" + name.replace("_", "-"))
    return message


def _headline(profile: Profile) -> str:
    version = "" if profile.version is None else f", version {profile.version}"
    return f"model {profile.model}{version}, id {profile.id}"


def _print_remarks(profile: Profile) -> None:
    """How large the reference is, what stands out in it, and what it is too small to tell."""
    from otel_mlobs.tools import profiles

    outputs = "no outputs" if profile.outputs is None else f"outputs: {profile.outputs.kind}"
    _say(f"{profile.rows:,} rows; {_plural(len(profile.features), 'feature')} ({profiles.kinds(profile)}); {outputs}")
    for line in _told_outputs(profile):
        _say(line)
    for told, share in (("missing", profiles.missing_share), ("not finite, or a rare category", profiles.odd_share)):
        found = sorted(((share(column), column.name) for column in profile.features), key=lambda pair: -pair[0])
        shown = [f"{name} {_percent(part)}" for part, name in found if part > 0]
        if shown:
            more = f", and {len(shown) - 8} more" if len(shown) > 8 else ""
            _say(f"{told}: {', '.join(shown[:8])}{more}")
    constant = [
        column.name for column in profile.features if column.minimum is not None and column.minimum == column.maximum
    ]
    if constant:
        _say(f"constant: {', '.join(constant)}")
    _say(_resolution(profile))


def _told_outputs(profile: Profile) -> list[str]:
    """The decision threshold, and how right the model was on rows with labels."""
    from otel_mlobs.tools import profiles

    outputs, told = profile.outputs, []
    error = profiles.calibration_error(profile)
    if error is not None:
        doubted = sum(calibration.needed for calibration in profiles.calibrations(profile))
        taken = "estimates take them as they are" if not doubted else "estimates calibrate them"
        if outputs is not None and outputs.calibrations and doubted:
            taken = f"estimates calibrate those of {doubted} of {len(outputs.classes)} classes"
        told.append(f"calibration: scores are off by {error:.3f} on average; {taken}")
    absolute = profiles.absolute_error(profile)
    if absolute is not None:
        told.append(f"errors: {absolute:.4g} on average")
    threshold = _threshold(outputs)
    if threshold is not None:
        told.append(f"threshold: {threshold}")
    if profile.embeddings:
        named = ", ".join(f"{one.name} ({one.size} components)" for one in profile.embeddings)
        told.append(f"embeddings: {named}")
    return told


def _threshold(outputs: Outputs | None) -> str | None:
    if outputs is None or outputs.kind != "score":
        return None
    positive = "" if outputs.positive_class is None else f", positive class {outputs.positive_class}"
    return f"{outputs.threshold:g}{positive}"


def _resolution(profile: Profile) -> str:
    """What a reference of this size is too small to tell, and whether more rows would help."""
    from otel_mlobs.core.evidence import detectable

    if not profile.rows:
        return "without rows there is nothing to compare with"
    least, most = (detectable(rows, features=len(profile.columns)) for rows in (profile.rows, _BELIEVED))
    told = f"cannot tell from chance: shifts below {least.shift:.2f} deviations, new values below {least.new_share:.2%}"
    if profile.rows < _BELIEVED:
        told += f" (with {_BELIEVED:,} rows: {most.shift:.2f}, {most.new_share:.2%})"
    return told


def _show(options: argparse.Namespace) -> int:
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.tools import profiles

    profile = Profile.load(options.file)
    _say(_headline(profile))
    _print_remarks(profile)
    _say()
    columns = [(column.name, column) for column in profile.features]
    columns += [(f"output {column.name}", column) for column in (profile.outputs.columns if profile.outputs else ())]
    rows: list[tuple[str, ...]] = [("", "distribution", "", "missing")]
    for name, column in columns:
        missing = profiles.missing_share(column)
        rows.append((name, _drawn(column), _told(column), _percent(missing) if missing else ""))
    _print_table(rows)
    _print_curve(profile)
    if options.bins:
        for name, column in columns:
            _say()
            _say(name)
            held = [*profiles.cell_ranges(column, unicode=shows_unicode()), "", ""]
            _print_table([
                (f"  {cell}", what, _percent(share))
                for cell, what, share in zip(column.bins.cells, held, column.shares, strict=True)
            ])  # fmt: skip
        if any(column.bins.edges for _, column in columns):
            _say()
            _say("a cell of numbers holds its upper end")
    return 0


def _print_curve(profile: Profile) -> None:
    """What scores said and what came true; of errors how large they were."""
    from otel_mlobs.tools import profiles

    outputs = profile.outputs
    if outputs is None:
        return
    dash = "–" if shows_unicode() else "to"
    if outputs.calibration is not None and any(outputs.calibration.rows):
        _say()
        rows: list[tuple[str, ...]] = [("score", "rows", "mean score", "came true", "estimates take")]
        for part in profiles.curve(outputs.calibration):
            between = f"{part.low:.3f} {dash} {part.high:.3f}"
            rows.append((between, f"{part.rows:,}", f"{part.said:.3f}", f"{part.came:.3f}", f"{part.taken:.3f}"))
        _print_table(rows)
    errors = outputs.errors
    if errors is not None and any(errors.rows):
        _say()
        rows = [("value up to", "rows", "mean error", "absolute")]
        for place, count in enumerate(errors.rows):
            if count:
                size, signed = errors.absolute[place], errors.signed[place]
                rows.append((f"{errors.uppers[place]:.6g}", f"{count:,}", f"{signed:.4g}", f"{size:.4g}"))
        _print_table(rows)


def _drawn(column: Column) -> str:
    from otel_mlobs.tools.histograms import histogram

    return histogram(column, unicode=shows_unicode())


def _told(column: Column) -> str:
    """A number's mean, deviation and extremes; the most frequent categories."""
    if column.bins.kind == "numeric":
        if column.minimum is None:
            return "no finite value"
        dash = "–" if shows_unicode() else "to"
        return f"{_moments(column.mean, column.std)}, {column.minimum:.4g} {dash} {column.maximum:.4g}"
    shares = column.shares
    ranked = sorted(range(column.bins.values), key=lambda place: -shares[place])
    named = [f"{column.bins.categories[place]} {_percent(shares[place])}" for place in ranked[:_NAMED_CATEGORIES]]
    more = len(ranked) - len(named)
    return ", ".join(named) + (f", {more} more" if more > 0 else "")


def _moments(mean: float | None, std: float | None) -> str:
    return f"{mean:.4g} {'±' if shows_unicode() else '+-'} {std:.3g}"


def _diff(options: argparse.Namespace) -> int:
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.tools import profiles

    before, after = Profile.load(options.before), Profile.load(options.after)
    for path, profile in ((options.before, before), (options.after, after)):
        _say(f"{path}: {_headline(profile)}, {profile.rows:,} rows")
    if before.id == after.id:
        _say("the same content")
        return 0
    found = profiles.difference(before, after)
    for told, names in (("added", found.added), ("removed", found.removed)):
        if names:
            _say(f"{told}: {', '.join(names)}")
    for line in _moved_outputs(before, after):
        _say(line)
    _say()
    arrow = "→" if shows_unicode() else "->"
    rows = [("", "PSI", "missing", "mean and deviation", "bins")]
    for column in sorted(found.compared, key=lambda one: -1.0 if one.psi is None else -one.psi):
        distance = "" if column.psi is None else f"{column.psi:.4f}"
        one, other = (_percent(share) for share in column.missing)
        changed = column.changed.replace("→", arrow) or "same"
        moved = f" {arrow} ".join(_moments(*pair) for pair in column.moments)
        rows.append((column.name, distance, one if one == other else f"{one} {arrow} {other}", moved, changed))
    _print_table(rows)
    if any(column.changed.startswith("edges differ") for column in found.compared):
        _say(f"edges differ: fit the second with --like {options.before} to compare them bin by bin")
    return 0


def _moved_outputs(before: Profile, after: Profile) -> list[str]:
    """How threshold and rightness differ, where they do."""
    from otel_mlobs.tools import profiles

    arrow = "→" if shows_unicode() else "->"
    told = []
    both = (before, after)
    pairs: list[tuple[str, list[str | None]]] = [
        ("threshold", [_threshold(one.outputs) for one in both]),
        ("calibration, scores are off by", [_figure(profiles.calibration_error(one), ".3f") for one in both]),
        ("mean absolute error", [_figure(profiles.absolute_error(one), ".4g") for one in both]),
    ]
    for what, (old, new) in pairs:
        if old != new:
            told.append(f"{what}: {old or 'none'} {arrow} {new or 'none'}")
    return told


def _figure(value: float | None, form: str) -> str | None:
    return None if value is None else f"{value:{form}}"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    rows = [tuple(map(_escaped, row)) for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        _say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _percent(share: float) -> str:
    return "<0.01%" if 0 < share < 0.0001 else f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
