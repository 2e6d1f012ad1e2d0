"""Put the block groups into the database, in the place of those that may be there.

python load.py [--database postgresql://user@host/name]
"""

from __future__ import annotations

import argparse

import data
from database import COLUMNS, Database, default_url


def load(database: Database) -> int:
    """Fill the database from the extract; how many rows it has now."""
    rows = data.columns()
    # ISO text: SQLite has no type for time, and PostgreSQL reads it.
    texts = {**rows, "at": rows["at"].astype("datetime64[s]").astype(str)}
    records = list(zip(*(texts[name].tolist() for name in COLUMNS), strict=True))
    database.fill(records)
    return len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default=default_url(), help="its URL; default: $DATABASE_URL, else a SQLite file")
    try:
        database = Database(parser.parse_args().database)
    except ValueError as error:
        parser.error(str(error))
    print(f"{load(database):,} block groups in {database.kind}")


if __name__ == "__main__":
    main()
