"""Profiles on the command line: tables opened, profiles told in words, two of them compared."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from otel_mlobs.core.binning import SPECIALS
from otel_mlobs.core.distance import psi, smoothed
from otel_mlobs.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_mlobs.core.calibration import Calibration
    from otel_mlobs.core.profile import Column, Profile

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
_NULLS = ["", "NA", "NULL", "null"]
_SNIFFED = ["NULL", "BIGINT", "DOUBLE", "TIME", "DATE", "TIMESTAMP", "VARCHAR"]
_BOOLEANS = ["true", "false", "True", "False", "TRUE", "FALSE"]
_CODES = r"^[+-]?0[0-9]|_"
"""Text that DuckDB casts to a number, and live traffic sends as text: 01067, 1_000."""
_NUMBERS = r"^ *[+-]?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)? *$"
_FILES = ("sqlite", "duckdb")
"""Databases that are files, and that a driver creates where there is none."""


@contextmanager
def open_file(path: str) -> Iterator[Any]:
    """A Parquet or CSV file, or several that a pattern names, as an ibis table that DuckDB counts.

    Text is parsed once, into a database in a temporary folder, where DuckDB keeps what does not fit in memory, too.

    Raises:
        MissingExtraError: ibis or DuckDB is not installed.
        OSError: no such file.
        ValueError: it is neither Parquet nor CSV, or damaged.
    """
    readers = {"read_parquet": _PARQUET, "read_csv": _CSV}
    reader = next((name for name, ends in readers.items() if path.lower().endswith(ends)), None)
    if reader is None:
        raise ValueError(f"expected a file that ends with one of {', '.join(_PARQUET + _CSV)}, got {path!r}")
    if not Path(path).is_file() and not any(character in path for character in "*?["):
        raise FileNotFoundError(2, "No such file", path)
    ibis = _ibis()
    with tempfile.TemporaryDirectory(prefix="otel-mlobs-") as folder, _foreign_errors(path):
        connection = ibis.duckdb.connect(Path(folder, "table.duckdb"), temp_directory=folder)
        try:
            if reader == "read_parquet":
                yield connection.read_parquet(path)
            else:
                yield _parsed(connection, path)
        finally:
            connection.disconnect()


def _parsed(connection: Any, path: str) -> Any:
    """The text file as a table, typed as live traffic has the values, which DuckDB's sniffer does not do.

    It takes yes and no for booleans, and numbers for text where ``inf`` is among them or where there are none.
    """
    view = connection.read_csv(path, sample_size=-1, nullstr=_NULLS, auto_type_candidates=_SNIFFED)
    if len(view.columns) == 1 and any(character in view.columns[0] for character in ";,\t|"):
        raise ValueError(f"{path}: looks like the wrong delimiter: its only column is {view.columns[0]!r}")
    texts = {name: view[name] for name, dtype in view.schema().items() if dtype.is_string()}
    types = {}
    if texts:
        asked = {}
        for place, text in enumerate(texts.values()):
            asked[f"all{place}"] = text.count()
            asked[f"numbers{place}"] = text.try_cast("float64").count()
            asked[f"codes{place}"] = text.re_search(_CODES).sum()
            asked[f"booleans{place}"] = text.isin(_BOOLEANS).sum()
        counted = view.aggregate(**asked).to_pyarrow().to_pylist()[0]
        for place, name in enumerate(texts):
            present = counted[f"all{place}"]
            if present == counted[f"numbers{place}"] and not counted[f"codes{place}"]:
                types[name] = "float64"
            elif present == counted[f"booleans{place}"]:
                types[name] = "boolean"
    typed = view.mutate(**{name: view[name].cast(kind) for name, kind in types.items()})
    return connection.create_table("parsed", typed)


def numbers_as_text(table: Any) -> list[str]:
    """The columns of text of which most are numbers; none where the database knows no patterns."""
    from ibis.common.exceptions import OperationNotDefinedError

    texts = [name for name, dtype in table.schema().items() if dtype.is_string()]
    if not texts:
        return []
    asked = {f"all{place}": table[name].count() for place, name in enumerate(texts)}
    asked |= {f"numbers{place}": table[name].re_search(_NUMBERS).sum() for place, name in enumerate(texts)}
    try:
        counted = table.aggregate(**asked).to_pyarrow().to_pylist()[0]
    except OperationNotDefinedError:
        return []
    return [name for place, name in enumerate(texts) if (counted[f"numbers{place}"] or 0) * 2 > counted[f"all{place}"]]


@contextmanager
def open_query(query: str, url: str) -> Iterator[Any]:
    """What ``query`` selects in the database at ``url`` (postgresql://user@host/db, sqlite:///file, …).

    Raises:
        MissingExtraError: ibis is not installed.
        OSError: the database is a file, and there is none.
        ValueError: no driver for this kind of database is installed, or the database says no.
    """
    url = _file_url(url)
    ibis = _ibis()
    scheme = urlsplit(url).scheme
    with _foreign_errors(f"the database at {_without_password(url)}", secret=urlsplit(url).password):
        try:
            connection = ibis.connect(url)
        except ImportError as error:
            extra = scheme.replace("postgresql", "postgres")
            raise ValueError(
                f"a database of kind {scheme!r} needs its driver: pip install 'ibis-framework[{extra}]'"
            ) from error
        try:
            yield _selected(connection, query.strip().rstrip(";"))
        finally:
            connection.disconnect()


def _file_url(url: str) -> str:
    """The URL of a database that is a file with its whole path, as ibis wants it; any other URL as it is.

    Three slashes begin a relative path and four an absolute one, as SQLAlchemy writes them.
    """
    parts = urlsplit(url)
    name = parts.netloc + parts.path if parts.netloc else parts.path[1:]
    if parts.scheme not in _FILES or name in ("", ":memory:") or name.startswith(("md:", "motherduck:")):
        return url
    if not Path(name).is_file():
        absolute = not parts.netloc and Path("/", name).is_file()
        raise FileNotFoundError(2, "No such file" + " (four slashes begin an absolute path)" * absolute, name)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{Path(name).absolute().as_posix()}{query}"


def _selected(connection: Any, query: str) -> Any:
    if connection.name != "duckdb":
        return connection.sql(query)
    # ibis 12 cannot ask DuckDB 2 for the columns of a query; for those of a view it can.
    connection.raw_sql(f"CREATE TEMP VIEW selected AS {query}")
    return connection.table("selected")


def _ibis() -> Any:
    try:
        import ibis

        ibis.duckdb  # noqa: B018 - a backend is imported when it is named
    except (ImportError, AttributeError) as error:
        raise MissingExtraError("a profile of a table", "profile", "ibis-framework[duckdb]") from error
    return ibis


@contextmanager
def _foreign_errors(where: str, *, secret: str | None = None) -> Iterator[None]:
    """What a database or its driver raises, as one line of ValueError, without the password."""
    try:
        yield
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if library in ("builtins", "otel_mlobs"):
            raise
        lines = str(error).strip().splitlines()
        said = lines[0] if lines else type(error).__name__
        for hidden in {secret, unquote_plus(secret)} if secret else ():
            said = said.replace(hidden, "***")
        # Without the cause: a traceback would show it with the password.
        raise ValueError(f"{where}: {said}") from None


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def database_url(url: str | None, variable: str | None) -> str:
    """The database's URL, from the command line or, where it holds a password, from the environment.

    Raises ValueError where neither or both are given, or the command line, which others can read, has the password.
    """
    if (url is None) == (variable is None):
        raise ValueError("a query needs --database URL or --database-env VARIABLE, one of them")
    if variable is not None:
        found = os.environ.get(variable)
        if not found:
            raise ValueError(f"--database-env names {variable}, which is not set")
        return found
    assert url is not None  # noqa: S101 - one of them is given
    if "://" not in url:
        raise ValueError("--database must be a URL such as postgresql://user@host/database")
    if urlsplit(url).password:
        raise ValueError(
            "--database holds a password, which others on this machine can read: put the URL into a variable and name "
            "it with --database-env, or leave the password out and set PGPASSWORD"
        )
    return url


def missing_share(column: Column) -> float:
    """Share of the rows without a value."""
    return column.shares[-SPECIALS]


def odd_share(column: Column) -> float:
    """Share of the rows that are not finite, or of no category that has a cell."""
    return column.shares[-1]


def kinds(profile: Profile) -> str:
    """How many features of each kind there are, in words."""
    counted = dict.fromkeys(("numeric", "categorical", "boolean"), 0)
    for column in profile.features:
        counted[column.bins.kind] += 1
    return ", ".join(f"{count} {kind}" for kind, count in counted.items() if count)


def calibrations(profile: Profile) -> tuple[Calibration, ...]:
    """The calibration of the score, or of each class; none without labels."""
    outputs = profile.outputs
    if outputs is None:
        return ()
    return outputs.calibrations if outputs.calibration is None else (outputs.calibration,)


def calibration_error(profile: Profile) -> float | None:
    """Mean distance between the score and how often its class came, over twentieths of the rows; None without labels.

    Of several classes the mean. Over all bins, which are five times as many, more of it would be chance.
    """
    found = [_error(one) for one in calibrations(profile) if any(one.rows)]
    return sum(found) / len(found) if found else None


def _error(calibration: Calibration) -> float:
    return sum(abs(part.said - part.came) * part.rows for part in curve(calibration, 20)) / sum(calibration.rows)


def absolute_error(profile: Profile) -> float | None:
    """A regression's mean absolute error; None without labels."""
    errors = None if profile.outputs is None else profile.outputs.errors
    if errors is None or not sum(errors.rows):
        return None
    return sum(mean * rows for mean, rows in zip(errors.absolute, errors.rows, strict=True)) / sum(errors.rows)


@dataclass(frozen=True)
class CurvePart:
    """A tenth of the rows, or so, of a calibration: what the score said, what came true, what estimates take."""

    rows: int
    low: float
    high: float
    said: float
    came: float
    taken: float


def curve(calibration: Calibration, parts: int = 10) -> tuple[CurvePart, ...]:
    """The calibration in at most ``parts`` neighbouring groups of bins with about as many rows each."""
    total, before = sum(calibration.rows), 0
    groups: dict[int, list[int]] = {}
    for place, rows in enumerate(calibration.rows):
        if rows:
            groups.setdefault(min(parts - 1, (before + rows // 2) * parts // total), []).append(place)
            before += rows

    def mean(values: Sequence[float], places: list[int]) -> float:
        return sum(values[place] * calibration.rows[place] for place in places) / rows_of(places)

    def rows_of(places: list[int]) -> int:
        return sum(calibration.rows[place] for place in places)

    return tuple(
        CurvePart(
            rows_of(places),
            calibration.mean_scores[places[0]],
            calibration.mean_scores[places[-1]],
            mean(calibration.mean_scores, places),
            sum(calibration.positives[place] for place in places) / rows_of(places),
            mean(calibration.calibrated, places),
        )
        for places in groups.values()
    )


@dataclass(frozen=True)
class Compared:
    """One column that two profiles have.

    Attributes:
        name: the column's.
        psi: between the two, smoothed as live drift is; None where the cells differ.
        changed: how the cells differ, in words; empty where they do not.
        missing: share of missing values, before and after.
        moments: a number's mean and standard deviation, before and after; empty where there are none.
    """

    name: str
    psi: float | None
    changed: str
    missing: tuple[float, float]
    moments: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """What lies between two profiles: columns that only one has, and the others compared."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    compared: tuple[Compared, ...]


def difference(before: Profile, after: Profile) -> Difference:
    """Compare two profiles, features and outputs alike; outputs are named ``output score``, …."""
    old, new = _named(before), _named(after)
    return Difference(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        compared=tuple(_compared(name, column, new[name]) for name, column in old.items() if name in new),
    )


def _named(profile: Profile) -> dict[str, Column]:
    outputs = profile.outputs.columns if profile.outputs else ()
    return {column.name: column for column in profile.features} | {
        f"output {column.name}": column for column in outputs
    }


def _compared(name: str, before: Column, after: Column) -> Compared:
    changed = ""
    if before.bins.kind != after.bins.kind:
        changed = f"{before.bins.kind} → {after.bins.kind}"
    elif before.bins.edges != after.bins.edges:
        changed = f"edges differ ({before.bins.values} → {after.bins.values} cells)"
    elif before.bins.categories != after.bins.categories:
        old, new = set(before.bins.categories), set(after.bins.categories)
        changed = f"categories: {len(new - old)} new, {len(old - new)} gone" if old != new else "categories reordered"
    distance = None if changed else float(psi(*smoothed(after.counts, before.counts)))
    moments = tuple((one.mean, one.std) for one in (before, after) if one.mean is not None and one.std is not None)
    return Compared(
        name,
        distance,
        changed,
        (missing_share(before), missing_share(after)),
        moments if len(moments) == 2 else (),
    )


def cell_ranges(column: Column, *, unicode: bool) -> list[str]:
    """What each value cell holds, in the cells' order: numbers up to its upper end, that one too, or a category."""
    if column.bins.kind != "numeric":
        return [str(category) for category in column.bins.categories]
    edges = column.bins.edges
    if not edges:
        return ["every number"]
    ends = [f"{edge:.6g}" for edge in edges]
    if len(set(ends)) < len(ends):
        ends = [repr(edge) for edge in edges]
    dots = "…" if unicode else "..."
    inner = [f"{low} {dots} {high}" for low, high in pairwise(ends)]
    return [f"up to {ends[0]}", *inner, f"above {ends[-1]}"]
