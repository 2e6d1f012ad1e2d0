"""A profile of a table in a real PostgreSQL: the server counts what DuckDB and numpy count."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from otel_mlobs.core.profile import Profile
from otel_mlobs.tables import sql
from otel_mlobs.tools import cli

from .postgres import Postgres, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .backends import Process

ibis = pytest.importorskip("ibis")
psycopg = pytest.importorskip("psycopg")

ROWS = 3_000
TYPES = {
    "normal": "double precision", "single": "real", "integers": "bigint", "cents": "numeric(10, 2)",
    "huge": "double precision", "gaps": "double precision", "flag": "boolean", "colour": "text",
    "score": "double precision", "label": "integer",
}  # fmt: skip


def _columns() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    gaps = rng.normal(size=ROWS)
    gaps[:100], gaps[100:120], gaps[120:130] = np.nan, np.inf, -np.inf
    score = rng.random(ROWS)
    return {
        "normal": rng.normal(size=ROWS),
        "single": rng.normal(size=ROWS).astype(np.float32),
        "integers": rng.poisson(3, ROWS),
        "cents": np.round(rng.gamma(2.0, 30.0, ROWS), 2),
        "huge": rng.choice([-1.5e308, -1e300, 5e-324, 1.7e308], ROWS),
        "gaps": gaps,
        "flag": rng.random(ROWS) < 0.3,
        "colour": rng.choice(["red", "Green", "blue", "äöü", "it's"], ROWS),
        "score": score,
        "label": (rng.random(ROWS) < score).astype(int),
    }


@pytest.fixture(scope="module")
def url(start: Callable[..., Process]) -> Iterator[str]:
    """A PostgreSQL whose table ``train`` holds the columns, half of the gaps as NULL and half as NaN."""
    programs = find()
    if programs is None:
        reason = "PostgreSQL's server is not installed; on Debian: apt-get install postgresql"
        if os.environ.get("MLOBS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = Postgres(programs, start)
    columns = _columns()
    with psycopg.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE train ({', '.join(f'{name} {TYPES[name]}' for name in columns)})")
        with cursor.copy("COPY train FROM STDIN") as copied:
            for number, row in enumerate(zip(*(values.tolist() for values in columns.values()), strict=True)):
                copied.write_row([
                    None if isinstance(value, float) and math.isnan(value) and number % 2 else value for value in row
                ])  # fmt: skip
    yield server.url
    server.stop()


@pytest.mark.parametrize(
    ("sampled", "outputs", "labels"),
    [
        (False, "score", "label"),
        (True, "score", "label"),
        (False, "cents", "normal"),
        (False, "gaps", "huge"),
        (False, "huge", "gaps"),
    ],
)
def test_postgresql_gives_the_profile_that_numpy_gives(
    url: str, monkeypatch: pytest.MonkeyPatch, sampled: bool, outputs: str, labels: str
) -> None:
    """Edges, counts, calibration, errors and the id are the same, columns sorted whole or narrowed by a sample."""
    if sampled:
        for name, value in (("SORTED", 100), ("SAMPLE", 1_000), ("_GRID", 100)):
            monkeypatch.setattr(sql, name, value)
    options: dict[str, Any] = {"outputs": outputs, "labels": labels, "model": "m"}
    connection = ibis.connect(url)
    fitted = Profile.fit(connection.table("train"), **options)
    connection.disconnect()
    expected = Profile.fit(_columns(), **options)
    for mine, theirs in zip(fitted.columns, expected.columns, strict=True):
        for field in ("name", "bins", "counts", "minimum", "maximum"):
            assert getattr(mine, field) == getattr(theirs, field)
    assert fitted.outputs is not None
    assert expected.outputs is not None
    if outputs == "score":
        assert fitted.outputs.calibration is not None
        assert expected.outputs.calibration is not None
        for field in ("uppers", "positives", "rows"):
            assert getattr(fitted.outputs.calibration, field) == getattr(expected.outputs.calibration, field)
    else:
        assert fitted.outputs.errors is not None
        assert expected.outputs.errors is not None
        assert fitted.outputs.errors.rows == expected.outputs.errors.rows
    assert fitted.id == expected.id


def test_the_command_profiles_a_query_with_the_password_in_the_environment(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL on the command line has no password; libpq takes it from PGPASSWORD."""
    monkeypatch.setenv("PGPASSWORD", "hush")
    query = "SELECT normal, colour, score FROM train WHERE flag;"
    arguments = ["profile", "--query", query, "--database", url, "--output", str(tmp_path / "p.json"), "--model", "m"]
    assert urlsplit(url).password is None
    assert cli.main([*arguments, "--outputs", "score"]) == 0
    columns = _columns()
    kept = {name: columns[name][columns["flag"]] for name in ("normal", "colour", "score")}
    assert Profile.load(tmp_path / "p.json").id == Profile.fit(kept, outputs="score", model="m").id
