"""The database that holds the block groups, and the view that makes features of them: PostgreSQL, or a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Both databases take these statements as they are.
TABLE = """
CREATE TABLE block_groups (
    block_id INTEGER PRIMARY KEY,
    part TEXT NOT NULL,
    at TIMESTAMP NOT NULL,
    med_inc DOUBLE PRECISION,
    house_age INTEGER,
    rooms INTEGER,
    bedrooms INTEGER,
    population INTEGER,
    households INTEGER,
    latitude DOUBLE PRECISION,
    longitude DOUBLE PRECISION,
    above_median INTEGER
)
"""
COLUMNS = (
    *("block_id", "part", "at", "med_inc", "house_age", "rooms", "bedrooms"),
    *("population", "households", "latitude", "longitude", "above_median"),
)

# One definition of the features, for training and for serving: what differs between the two cannot be this.
VIEW = """
CREATE VIEW block_features AS SELECT
    block_id,
    med_inc,
    house_age,
    CAST(rooms AS DOUBLE PRECISION) / households AS ave_rooms,
    CAST(bedrooms AS DOUBLE PRECISION) / households AS ave_bedrms,
    population,
    CAST(population AS DOUBLE PRECISION) / households AS ave_occup,
    latitude,
    longitude,
    CAST(rooms AS DOUBLE PRECISION) / population AS rooms_per_person,
    CAST(bedrooms AS DOUBLE PRECISION) / rooms AS bedroom_ratio
FROM block_groups
"""


class UnknownBlockError(LookupError):
    """The database has no such block group."""


def default_url() -> str:
    """$DATABASE_URL, else a SQLite file in artifacts/ beside this file."""
    return os.environ.get("DATABASE_URL", f"sqlite:///{Path(__file__).parent / 'artifacts' / 'housing.sqlite'}")


class Database:
    """`postgresql://user@host:port/name` or `sqlite:///path`; each thread has a connection of its own.

    Raises:
        ValueError: the URL is neither.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql", "sqlite") or (scheme == "sqlite" and not rest.startswith("/")):
            raise ValueError(f"the database must be postgresql://… or sqlite:///path, got {_without_password(url)!r}")
        self.kind = scheme
        self._url = url
        self._path = Path(rest[1:])
        self._mark = "%s" if scheme == "postgresql" else "?"
        self._local = threading.local()

    def features(self, block_ids: Sequence[int]) -> list[dict[str, float | None]]:
        """The ten features of each block group, in the order asked.

        Raises:
            UnknownBlockError: one of them is not there.
        """
        marks = ", ".join([self._mark] * len(block_ids))
        names = ", ".join(data.FEATURES)
        rows = self._run(f"SELECT block_id, {names} FROM block_features WHERE block_id IN ({marks})", block_ids)
        found = {block_id: dict(zip(data.FEATURES, values, strict=True)) for block_id, *values in rows}
        for block_id in block_ids:
            if block_id not in found:
                raise UnknownBlockError(f"no block group {block_id}")
        return [found[block_id] for block_id in block_ids]

    def rows(self, part: str) -> list[tuple[Any, ...]]:
        """Every row of a part by its id: the ten features, then the label."""
        names = ", ".join(f"block_features.{name}" for name in data.FEATURES)
        return self._run(
            f"SELECT {names}, above_median FROM block_features JOIN block_groups USING (block_id)"
            f" WHERE part = {self._mark} ORDER BY block_id",
            [part],
        )

    def fill(self, rows: Iterable[Sequence[Any]]) -> None:
        """Make the table and the view anew, with these rows in the order of COLUMNS; all of it happens or nothing."""
        if self.kind == "sqlite":
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._open()
        try:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            cursor.execute("DROP VIEW IF EXISTS block_features")
            cursor.execute("DROP TABLE IF EXISTS block_groups")
            cursor.execute(TABLE)
            cursor.execute(VIEW)
            marks = ", ".join([self._mark] * len(COLUMNS))
            cursor.executemany(f"INSERT INTO block_groups ({', '.join(COLUMNS)}) VALUES ({marks})", rows)
            cursor.execute("COMMIT")
        finally:
            connection.close()

    def close(self) -> None:
        """Close this thread's connection, if it has one."""
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _run(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        # A connection must cross neither threads nor forks: each thread of each worker opens its own, once asked.
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open()
        try:
            return list(connection.execute(statement, list(values)).fetchall())
        except Exception:
            # The server may have gone; the next request finds out whether it is back.
            self.close()
            raise

    def _open(self) -> Any:
        # No transaction unless one is begun: a lookup must not leave one open until the next.
        if self.kind == "sqlite":
            return sqlite3.connect(self._path, isolation_level=None)
        try:
            import psycopg
        except ModuleNotFoundError as error:
            message = "PostgreSQL needs psycopg: pip install 'psycopg[binary]'"
            raise ModuleNotFoundError(message, name="psycopg") from error
        return psycopg.connect(self._url, autocommit=True)


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url
