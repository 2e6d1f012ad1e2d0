"""``otel-mlobs outcomes``: join a file of labels to the predictions that wait for them, and say how right they were."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_mlobs.tools.terminal import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from otel_mlobs.core.outcomes import Figure
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.stores.outcome_store import OutcomeStore

_ROWS_AT_ONCE = 20_000
_URL = "MLOBS_STORE_URL"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    outcomes = commands.add_parser(
        "outcomes",
        help="join a file of labels to the predictions that wait for them; say how right they were",
        description="Every prediction is joined once: running the command again changes nothing. The store's password "
        f"comes from MLOBS_STORE_PASSWORD, or with the whole URL from {_URL}, never from the command line, where "
        "others could read it.",
    )
    outcomes.add_argument("file", metavar="FILE", nargs="?", help="labels, as Parquet or CSV")
    outcomes.add_argument("--store", metavar="URL", help=f"as redis://host:6379/0 (default: {_URL})")
    outcomes.add_argument("--namespace", default="mlobs", metavar="NAME", help="of the store (default: mlobs)")
    for name, default, told in (
        ("id", "prediction_id", "the column with the predictions' ids (default: prediction_id)"),
        ("label", "label", "the column with the labels (default: label)"),
        ("value", None, "the column with what was at stake"),
        ("currency", None, "the column with its currency"),
        ("time", None, "the column with when the label came; now unless given"),
    ):
        outcomes.add_argument(f"--{name}", default=default, metavar="COLUMN", help=told)
    outcomes.add_argument("--profile", metavar="PROFILE", help="say how right this profile's predictions were")
    outcomes.add_argument("--since", metavar="TIME", help="… made from then on, as 2026-11-01 (default: all)")
    outcomes.add_argument("--until", metavar="TIME", help="… and before then (default: now)")
    outcomes.add_argument("--maturity", metavar="TIME", help="… that are as old as this, as 7d")
    outcomes.add_argument(
        "--unlabelled", choices=("missing", "negative"), default="missing", help="what those without a label count as"
    )
    outcomes.add_argument(
        "--metrics-endpoint",
        metavar="URL",
        help="count what is joined and send it there, as http://prometheus:9090/api/v1/otlp; needs --profile",
    )
    outcomes.add_argument("--json", action="store_true", help="print JSON")
    outcomes.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from otel_mlobs.core.profile import Profile
    from otel_mlobs.stores.outcome_store import OutcomeStore

    if options.file is None and options.profile is None:
        raise ValueError("give a FILE of labels, or a --profile to say how right its predictions were, or both")
    if options.metrics_endpoint is not None and (options.file is None or options.profile is None):
        raise ValueError("--metrics-endpoint counts the labels of a FILE with a --profile: give both")
    profile = None if options.profile is None else Profile.load(options.profile)
    if profile is not None and profile.outputs is None:
        raise ValueError(f"{options.profile} has no outputs: fit it with --outputs")
    start, end = _moment("--since", options.since, 0.0), _moment("--until", options.until, time.time())
    store = OutcomeStore(_url(options.store), namespace=options.namespace)
    if store.kind == "memory":
        raise ValueError("a store in memory is empty here: name the one that the predictions were registered with")
    said: dict[str, Any] = {}
    try:
        if options.file is not None:
            said["labels"] = _join(options, store, profile)
        if profile is not None:
            said["performance"] = _figures(options, store, profile, start, end)
    finally:
        store.close()
    print(json.dumps(_finite(said), indent=1) if options.json else "\n".join(_lines(said, options)))
    return 0


def _url(given: str | None) -> str:
    """The store's URL; one with a password comes from the environment."""
    if given is None:
        found = os.environ.get(_URL)
        if not found:
            raise ValueError(f"name the store: --store redis://host:6379/0, or {_URL} in the environment")
        return found
    if urlsplit(given).password:
        raise ValueError(
            "--store holds a password, which others on this machine can read: leave it out and set "
            f"MLOBS_STORE_PASSWORD, or set {_URL} to the whole URL"
        )
    return given


def _moment(name: str, given: str | None, default: float) -> float:
    """A time as seconds since the epoch; without a zone it is UTC."""
    if given is None:
        return default
    try:
        found = dt.datetime.fromisoformat(given.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{name} must be a date or time as 2026-11-01 or 2026-11-01T12:00, got {given!r}") from None
    return (found if found.tzinfo else found.replace(tzinfo=dt.timezone.utc)).timestamp()


def _join(options: argparse.Namespace, store: OutcomeStore, profile: Profile | None) -> dict[str, int]:
    """Join the file's labels; with an endpoint, count them for it."""
    from otel_mlobs.tools import profiles

    counts: dict[str, int] = {}
    columns = {name: getattr(options, name) for name in ("id", "label", "value", "currency", "time")}
    with profiles.open_file(options.file) as table, _counted(options, store, profile) as told:
        missing = [f"--{name} {column}" for name, column in columns.items() if column and column not in table.columns]
        if missing:
            raise ValueError(
                f"{options.file} has no column for {', '.join(missing)}; it has {', '.join(table.columns)}"
            )
        # Whole: a handful of columns; ibis 12 cannot ask DuckDB 2 for batches
        labels, done = table.select(*dict.fromkeys(column for column in columns.values() if column)).to_pyarrow(), 0
        for batch in labels.to_batches(max_chunksize=_ROWS_AT_ONCE):
            report = store.join(batch.to_pydict(), **columns, told=told)
            for kind, count in dataclasses.asdict(report).items():
                counts[kind] = counts.get(kind, 0) + count
            done += batch.num_rows
            if sys.stderr.isatty():
                progress(done, labels.num_rows)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return counts


class _counted:  # noqa: N801 - used as a context manager, as contextlib's are
    """Counts what is joined in a monitor and sends it when all is done; nothing without an endpoint."""

    def __init__(self, options: argparse.Namespace, store: OutcomeStore, profile: Profile | None) -> None:
        self._endpoint = options.metrics_endpoint
        self._store = store
        self._profile = profile
        self._monitor: Any = None

    def __enter__(self) -> Any:
        if self._endpoint is None or self._profile is None:
            return None
        from otel_mlobs.telemetry.config import configure
        from otel_mlobs.telemetry.monitor import Monitor

        configure(f"{self._profile.model}-outcomes", metrics_endpoint=self._endpoint)
        self._monitor = Monitor(self._profile, outcomes=self._store)
        return self._monitor.joined

    def __exit__(self, *failure: object) -> None:
        if self._monitor is None:
            return
        from otel_mlobs.telemetry.config import shutdown

        self._monitor.close()
        if not shutdown() and failure[0] is None:
            raise ConnectionError(
                f"the labels are joined, but {self._endpoint} did not take the counts: "
                "they are in the store, see --profile"
            )


def _figures(
    options: argparse.Namespace, store: OutcomeStore, profile: Profile, start: float, end: float
) -> dict[str, Any]:
    found = store.performance(profile, start=start, end=end, maturity=options.maturity, unlabelled=options.unlabelled)
    return dataclasses.asdict(found)


def _lines(said: Mapping[str, Any], options: argparse.Namespace) -> Iterator[str]:
    """What a person reads."""
    labels = said.get("labels")
    if labels is not None:
        yield f"{labels['rows']:,} labels: " + ", ".join(
            f"{count:,} {kind}" for kind, count in labels.items() if kind != "rows" and (count or kind == "joined")
        )
    found = said.get("performance")
    if found is None:
        return
    yield (
        f"by prediction time: {found['predictions']:,} predictions, {found['labelled']:,} of them with a label "
        f"(coverage {found['coverage']:.1%})"
        + (f", those without count as {options.unlabelled}" if options.maturity else "")
    )
    for name, figure in found["figures"].items():
        yield f"  {name:17} {_shown(figure)}"
    for (cell, currency), amount in sorted(found.get("value", {}).items()):
        yield f"  value {cell} {amount:,.2f} {currency}"


def _shown(figure: Figure) -> str:
    value, lower, upper = figure
    interval = "" if math.isnan(lower) else f"  ({lower:.4f} to {upper:.4f})"
    return "-" if math.isnan(value) else f"{value:.4f}{interval}"


def _finite(value: Any) -> Any:
    """``value`` as JSON has it: no NaN, keys of text."""
    if isinstance(value, dict):
        return {" ".join(key) if isinstance(key, tuple) else key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
