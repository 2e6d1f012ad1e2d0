"""Predictions that wait in a SQL database: one table of predictions, one of labels, through SQLAlchemy.

Whoever joins a label holds its prediction's row, and so does whoever claims it; SQLite, which locks no rows, lets one
at a time write.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_mlobs.core.records import Joined, Label, Prediction, Record
from otel_mlobs.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from otel_mlobs.core.records import Result

_KEEPALIVE = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""What libpq is told, in seconds and (the last) milliseconds: a server that is gone without a word is noticed."""
_BUSY_S = 5.0
_PAGE = 1000
_SWEPT_AT_ONCE = 5000
_RACE_S = 0.2
_FORKS_WAIT_S = 1.0
_LIBPQ = ("psycopg2", "psycopg")
_PACKAGES = {"MySQLdb": "mysqlclient", "cx_Oracle": "cx_oracle"}
"""Drivers that are called otherwise in PyPI."""
_WITH_ON_CONFLICT = ("postgresql", "sqlite")

_inherited: list[Any] = []
"""Engines of the parent process, kept in a forked child: letting one go could close the parent's connections."""


class MissingDriverError(MissingExtraError):
    """A database's driver is not installed, and no extra of ours installs it."""

    def __init__(self, database: str, driver: str) -> None:
        package = _PACKAGES.get(driver, driver)
        other = ", or name another driver, as mysql+pymysql://" if driver == "MySQLdb" else ""
        ImportError.__init__(
            self, f"a store in {database} needs the driver {driver!r}: pip install {package}{other}", name=driver
        )
        self.extra = "sql"


class Sql:
    """A SQL database as a store's backend.

    Args:
        url: as SQLAlchemy takes it.
        password: for a URL that has a host and no password.
        namespace: the beginning of the tables' names.
        ttl: how long a prediction and its labels are kept.
        clock: seconds since the epoch.

    Raises:
        MissingExtraError: SQLAlchemy or the database's driver is not installed.
        ValueError: SQLAlchemy does not know the URL.
    """

    kind = "sql"

    def __init__(self, url: str, password: str | None, namespace: str, ttl: float, clock: Callable[[], float]) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise MissingExtraError("a store in a SQL database", "sql", "sqlalchemy") from error
        self._sa = sqlalchemy
        self._url = self._checked(url, password)
        self._ttl = ttl
        self._clock = clock
        self._define(namespace)
        self._engine = self._connected()
        self._ready = False
        self.connecting = self._new_lock()
        """Held while a connection to SQLite is open; a fork waits for it, since no child may inherit one."""
        _all.add(self)

    def _new_lock(self) -> threading.Lock | None:
        return threading.Lock() if self._engine.dialect.name == "sqlite" else None

    def _checked(self, url: str, password: str | None) -> Any:
        try:
            parsed = self._sa.engine.make_url(url)
        except (self._sa.exc.ArgumentError, ValueError):
            raise ValueError("it is no URL that SQLAlchemy can read") from None
        if parsed.get_backend_name() == "sqlite" and (parsed.database or ":memory:") == ":memory:":
            raise ValueError('a database in memory is lost with its connection; "memory:" would do it better')
        if password is not None and parsed.host and parsed.password is None:
            parsed = parsed.set(password=password)
        if parsed.drivername == "postgresql" and _is_there("psycopg") and not _is_there("psycopg2"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        return parsed

    def _connected(self) -> Any:
        """An engine, which connects when it is first used."""
        sa = self._sa
        sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 2}
        if sqlite:
            options = {"poolclass": sa.pool.NullPool, "connect_args": {"timeout": _BUSY_S}}
        try:
            if self._url.get_driver_name() in _LIBPQ:
                options["connect_args"] = _KEEPALIVE
            engine = sa.create_engine(self._url, hide_parameters=True, **options)
        except ImportError as error:
            wanted, database = error.name or str(error), self._url.get_backend_name()
            if database == "postgresql":
                raise MissingExtraError(f"a store in {database}", "postgresql", wanted) from error
            raise MissingDriverError(database, wanted) from error
        except sa.exc.ArgumentError:
            raise ValueError(f"SQLAlchemy knows no {self._url.drivername!r}") from None
        if engine.dialect.is_async:
            raise ValueError(f"{self._url.drivername!r} is a driver for asyncio; name one that is not")
        if sqlite:
            sa.event.listen(engine, "connect", _begin_by_hand)
            sa.event.listen(engine, "begin", _begin_immediate)
        return engine

    def _define(self, namespace: str) -> None:
        sa = self._sa
        self._tables = tables = sa.MetaData()
        text, number = sa.String, sa.Double
        self._predictions = sa.Table(
            f"{namespace}_predictions",
            tables,
            sa.Column("id", text(256), primary_key=True),
            sa.Column("stream", text(512), nullable=False),
            sa.Column("time", number, nullable=False),
            sa.Column("payload", sa.LargeBinary, nullable=False),
            sa.Column("due", number),
            sa.Column("variant", text(256)),
            sa.Column("claimed", text(64)),
            sa.Column("expires", number, nullable=False),
            sa.Index(f"{namespace}_predictions_due", "stream", "claimed", "due"),
            sa.Index(f"{namespace}_predictions_time", "stream", "time"),
            sa.Index(f"{namespace}_predictions_expires", "expires"),
        )
        self._labels = sa.Table(
            f"{namespace}_labels",
            tables,
            sa.Column("prediction_id", text(256), primary_key=True),
            sa.Column("key", text(512), primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
            sa.Column("time", number),
            sa.Column("amount", number),
            sa.Column("currency", text(16)),
            sa.Column("token", text(64), nullable=False),
            sa.Column("late", sa.Boolean, nullable=False),
        )

    def start_afresh(self) -> None:
        """Connect anew when asked next, and leave the parent's connections alone."""
        _inherited.append(self._engine)
        self._engine = self._connected()
        self.connecting = self._new_lock()
        self._ready = False

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        try:
            with self.connecting or nullcontext():
                if not self._ready:
                    self._make_tables()
                with self._engine.begin() as connection:
                    yield connection
        except Exception as error:
            self._ready = self._ready and self.refuses(error)  # somebody may have dropped the tables
            raise

    def _make_tables(self) -> None:
        file = sqlite_file(self._url)
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(file.parent)!r}")
        try:
            self._tables.create_all(self._engine)
        except self._sa.exc.DBAPIError as error:
            if "already exists" not in str(error):
                raise
            time.sleep(_RACE_S)  # another process makes them at this very moment
            self._tables.create_all(self._engine)
        self._ready = True

    def _insert(self, connection: Any, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert those of ``rows`` whose primary key is not there yet."""
        if not rows:
            return
        name = self._engine.dialect.name
        if name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        elif name == "sqlite":
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        else:
            self._insert_missing(connection, table, rows)
            return
        connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def _insert_missing(self, connection: Any, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """For databases without ON CONFLICT; where two do it at once, one fails and is tried again."""
        first = table.primary_key.columns.values()
        names = [column.name for column in first]
        wanted = {tuple(row[name] for name in names): row for row in reversed(rows)}
        found = connection.execute(self._sa.select(*first).where(first[0].in_({key[0] for key in wanted})))
        for row in found:
            wanted.pop(tuple(row), None)
        if wanted:
            connection.execute(table.insert(), [*wanted.values()])

    def write(self, predictions: Sequence[Prediction]) -> int:
        """In the order of their ids, so that two who write at once do not wait for each other."""
        table = self._predictions
        expires = self._clock() + self._ttl
        given = sorted(predictions, key=_id_of)
        rows = [{**one._asdict(), "claimed": None, "expires": expires} for one in given]
        asked = self._sa.select(table.c.id, table.c.stream, table.c.time, table.c.payload)
        with self._transaction() as connection:
            self._insert(connection, table, rows)
            found = connection.execute(asked.where(table.c.id.in_([one.id for one in given])))
            kept = {row[0]: (row[1], row[2], bytes(row[3])) for row in found}
        return sum(kept.get(one.id) != (one.stream, one.time, one.payload) for one in given)

    def join(self, labels: Sequence[Label]) -> list[Joined]:
        """Hold the predictions' rows, insert what is new, and see what is there."""
        sa, table, kept = self._sa, self._predictions, self._labels
        ids = sorted({label.prediction_id for label in labels})
        held = sa.select(table).where(table.c.id.in_(ids), table.c.expires > self._clock()).order_by(table.c.id)
        stored = sa.select(kept.c.prediction_id, kept.c.key, kept.c.value, kept.c.token, kept.c.late)
        with self._transaction() as connection:
            found = {row.id: row for row in connection.execute(held.with_for_update())}
            rows = [
                {
                    "prediction_id": label.prediction_id,
                    "key": label.key,
                    "value": json.dumps(label.value),
                    "time": label.time,
                    "amount": label.amount,
                    "currency": label.currency,
                    "token": label.token,
                    "late": found[label.prediction_id].claimed is not None,
                }
                for label in labels
                if label.prediction_id in found
            ]
            self._insert(connection, kept, rows)
            first = {
                (row.prediction_id, row.key): row
                for row in connection.execute(stored.where(kept.c.prediction_id.in_(ids)))
            }
        answers = []
        for label in labels:
            row = found.get(label.prediction_id)
            if row is None:
                answers.append(Joined(label, "unknown", None))
            else:
                answers.append(Joined(label, _result(label, first[label.prediction_id, label.key]), _prediction(row)))
        return answers

    def claim(self, stream: str, now: float, limit: int, token: str) -> list[Record]:
        """Rows that another process holds are for the next time."""
        sa, table = self._sa, self._predictions
        ours = sa.select(table).where(table.c.stream == stream, table.c.claimed == token)
        free = (
            sa.select(table)
            .where(table.c.stream == stream, table.c.claimed.is_(None), table.c.due <= now)
            .where(table.c.expires > self._clock())
            .order_by(table.c.due)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as connection:
            rows = connection.execute(ours).all()
            if not rows:
                rows = connection.execute(free).all()
                ids = [row.id for row in rows]
                connection.execute(table.update().where(table.c.id.in_(ids)).values(claimed=token))
            return self._with_labels(connection, rows, late=False)

    def _with_labels(self, connection: Any, rows: Sequence[Any], *, late: bool = True) -> list[Record]:
        kept = self._labels
        asked = self._sa.select(kept).where(kept.c.prediction_id.in_([row.id for row in rows]))
        if not late:
            asked = asked.where(kept.c.late.is_(False))
        labels: dict[str, list[Label]] = {}
        for row in connection.execute(asked.order_by(kept.c.time, kept.c.key)) if rows else ():
            label = Label(row[0], row[1], json.loads(row[2]), *row[3:7])
            labels.setdefault(label.prediction_id, []).append(label)
        return [Record(_prediction(row), tuple(labels.get(row.id, ()))) for row in rows]

    def records(self, stream: str, start: float, end: float) -> Iterator[list[Record]]:
        """Pages by time, each asked for behind the last row of the one before."""
        sa, table = self._sa, self._predictions
        behind = table.c.time >= start
        while True:
            asked = (
                sa.select(table)
                .where(table.c.stream == stream, behind, table.c.time < end, table.c.expires > self._clock())
                .order_by(table.c.time, table.c.id)
                .limit(_PAGE)
            )
            with self._transaction() as connection:
                rows = connection.execute(asked).all()
                page = self._with_labels(connection, rows)
            if not page:
                return
            yield page
            last = rows[-1]
            behind = sa.or_(table.c.time > last.time, sa.and_(table.c.time == last.time, table.c.id > last.id))

    def streams(self) -> list[str]:
        """One look into the index for each: a list of all that differ would read the whole of it."""
        column = self._predictions.c.stream
        found: list[str] = []
        with self._transaction() as connection:
            while True:
                asked = self._sa.select(self._sa.func.min(column))
                name = connection.scalar(asked.where(column > found[-1]) if found else asked)
                if name is None:
                    return found
                found.append(name)

    def forget(self, prediction_id: str) -> bool:
        """The prediction's row first: whoever joins a label holds it."""
        with self._transaction() as connection:
            return self._deleted(connection, [prediction_id]) > 0

    def _deleted(self, connection: Any, ids: Sequence[str]) -> int:
        table, labels = self._predictions, self._labels
        gone = connection.execute(table.delete().where(table.c.id.in_(ids)))
        connection.execute(labels.delete().where(labels.c.prediction_id.in_(ids)))
        return int(gone.rowcount)

    def sweep(self) -> None:
        """Delete what has expired."""
        table = self._predictions
        asked = self._sa.select(table.c.id).where(table.c.expires <= self._clock()).limit(_SWEPT_AT_ONCE)
        more = True
        while more:
            with self._transaction() as connection:
                ids = connection.execute(asked.with_for_update(skip_locked=True)).scalars().all()
                self._deleted(connection, ids)
            more = len(ids) == _SWEPT_AT_ONCE

    def refuses(self, error: Exception) -> bool:
        """What the driver cannot send, the columns cannot hold, and what this library trips over itself."""
        errors = self._sa.exc
        if isinstance(error, errors.DBAPIError):
            if error.connection_invalidated:
                return False
            odd = (errors.InterfaceError, errors.ProgrammingError) if self._engine.dialect.name == "sqlite" else ()
            # No unique key can be at fault where what is there already is left as it is.
            null = (errors.IntegrityError,) if self._engine.dialect.name in _WITH_ON_CONFLICT else ()
            return isinstance(error, (errors.DataError, *odd, *null))
        if isinstance(error, errors.StatementError):
            return True
        return not isinstance(error, (errors.SQLAlchemyError, OSError, MemoryError))

    def close(self) -> None:
        """Close the pool's connections."""
        self._engine.dispose()


def sqlite_file(url: Any) -> Path | None:
    """The file of a SQLite URL, as text or as SQLAlchemy has it; None for others."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    path = parsed.database
    if parsed.get_backend_name() != "sqlite" or not path or path.startswith("file:"):
        return None
    return Path(path)


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _begin_by_hand(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # else Python's sqlite3 begins a transaction only with its first change
    connection.execute("PRAGMA journal_mode=WAL")


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _id_of(prediction: Prediction) -> str:
    return prediction.id


def _prediction(row: Any) -> Prediction:
    return Prediction(row.id, row.stream, row.time, bytes(row.payload), row.due, row.variant)


def _result(label: Label, first: Any) -> Result:
    """What ``label`` is, next to the one that came first."""
    if first.token == label.token:
        return "late" if first.late else "joined"
    return "duplicate" if first.value == json.dumps(label.value) else "conflict"


_all: weakref.WeakSet[Sql] = weakref.WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    for backend in list(_all):
        lock = backend.connecting
        if lock is not None and lock.acquire(timeout=_FORKS_WAIT_S):
            _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
