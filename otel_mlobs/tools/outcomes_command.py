"""``otel-mlobs outcomes``: join a file of labels to the predictions that wait for them, and say how right they were."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_mlobs.errors import MissingExtraError
from otel_mlobs.tools.terminal import printable, progress

if TYPE_CHECKING:
    import argparse

    from otel_mlobs.core.profile import Profile
    from otel_mlobs.stores.batches import JoinReport
    from otel_mlobs.stores.figures import RealizedPerformance
    from otel_mlobs.stores.outcome_store import OutcomeStore

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
    outcomes.add_argument(
        "file", metavar="FILE", nargs="?", help="labels, as Parquet or CSV; needs 'otel-mlobs[profile]'"
    )
    outcomes.add_argument("--store", metavar="URL", help=f"as redis://host:6379/0 (default: {_URL})")
    outcomes.add_argument("--namespace", default="mlobs", metavar="NAME", help="of the store (default: mlobs)")
    for name, default, told in (
        ("id", "prediction_id", "the column with the predictions' ids (default: prediction_id)"),
        ("label", "label", "the column with the labels (default: label)"),
        ("value", None, "the column with what was at stake, from 0"),
        ("currency", None, "the column with its currency, as EUR"),
        ("time", None, "the column with when the label came, as 2026-11-01T12:00Z; now unless given"),
    ):
        outcomes.add_argument(f"--{name}", default=default, metavar="COLUMN", help=told)
    outcomes.add_argument(
        "--profile",
        metavar="PROFILE",
        help="of the model: labels that it cannot have are not stored; say how right its predictions were",
    )
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
    from otel_mlobs.stores.moments import moment
    from otel_mlobs.stores.outcome_store import OutcomeStore

    if options.file is None and options.profile is None:
        raise ValueError("give a FILE of labels, or a --profile to say how right its predictions were, or both")
    if options.metrics_endpoint is not None and (options.file is None or options.profile is None):
        raise ValueError("--metrics-endpoint counts the labels of a FILE with a --profile: give both")
    profile = None if options.profile is None else Profile.load(options.profile)
    if profile is not None and profile.outputs is None:
        raise ValueError(f"{options.profile} has no outputs: fit it with --outputs")
    start = 0.0 if options.since is None else moment("--since", options.since)
    end = time.time() if options.until is None else moment("--until", options.until)
    if end < start:
        raise ValueError(f"--until must not be before --since, got {options.since} and {options.until or 'now'}")
    url = _url(options.store)
    store = OutcomeStore(url, namespace=options.namespace)
    said: dict[str, JoinReport | RealizedPerformance] = {}
    empty = None
    try:
        _check_place(store, url)
        if options.file is not None:
            report = said["labels"] = _join(options, store, profile)
            empty = _nothing_joined(report, store, options)
        if profile is not None:
            found = said["performance"] = store.performance(
                profile, start=start, end=end, maturity=options.maturity, unlabelled=options.unlabelled
            )
            if not found.predictions:
                empty = empty or _nothing_registered(profile, store, options)
    finally:
        store.close()
    if options.json:
        print(json.dumps({name: _finite(dataclasses.asdict(one)) for name, one in said.items()}, indent=1))
    else:
        print(printable("\n".join(map(str, said.values()))))
    if empty is None:
        return 0
    print(f"otel-mlobs outcomes: {empty}", file=sys.stderr)
    return 1


def _check_place(store: OutcomeStore, url: str) -> None:
    """Refuse a store that is empty from the start: in memory, or a file that would be made."""
    if store.kind == "memory":
        raise ValueError("a store in memory is empty here: name the one that the predictions were registered with")
    if store.kind == "sql":
        from otel_mlobs.stores.sql import sqlite_file

        file = sqlite_file(url)
        if file is not None and not file.is_file():
            raise FileNotFoundError(2, "No such database, and a new one would hold no predictions", str(file))


def _nothing_joined(report: JoinReport, store: OutcomeStore, options: argparse.Namespace) -> str | None:
    """What to check where no label of a file has found its prediction."""
    if report.joined or report.duplicate or report.conflict or report.late:
        return None
    if report.unknown:
        return (
            f"no label has found its prediction: check that {store!r} with --namespace {options.namespace} is the "
            f"store that the predictions were registered with, and that --id {options.id} holds their ids"
        )
    return f"no label could be joined: {report.reason}" if report.invalid else None


def _nothing_registered(profile: Profile, store: OutcomeStore, options: argparse.Namespace) -> str | None:
    """What to check where the store has never seen a prediction of the profile."""
    from otel_mlobs.core.records import parts_of, stream_of

    streams = store.streams()
    if stream_of(profile.model, profile.version, profile.id) in streams:
        return None
    there = ", ".join(f"{model} {version} ({id_})".replace("  ", " ") for model, version, id_ in map(parts_of, streams))
    return (
        f"no prediction of {profile.model} {profile.version or ''} with this very profile ({profile.id}) is in "
        f"{store!r} under --namespace {options.namespace}; it has {there or 'none at all'}"
    ).replace("  ", " ")


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


def _join(options: argparse.Namespace, store: OutcomeStore, profile: Profile | None) -> JoinReport:
    """Join the file's labels; with an endpoint, count them for it."""
    from otel_mlobs.stores.batches import JoinReport
    from otel_mlobs.tools import profiles

    path = Path(options.file)
    if path.is_file() and path.stat().st_size == 0 and path.suffix not in (".parquet", ".pq"):
        return JoinReport()  # a day without labels, written without even a header
    columns = {name: getattr(options, name) for name in ("id", "label", "value", "currency", "time")}
    with ExitStack() as stack:
        try:
            table = stack.enter_context(profiles.open_file(options.file))
        except MissingExtraError as error:
            raise MissingExtraError(f"reading {options.file}", error.extra, error.name or "") from error
        told = stack.enter_context(_counted(options, store, profile))
        missing = [f"--{name} {column}" for name, column in columns.items() if column and column not in table.columns]
        if missing:
            raise ValueError(
                f"{options.file} has no column for {', '.join(missing)}; it has {', '.join(table.columns)}"
            )
        # Whole: a handful of columns; ibis 12 cannot ask DuckDB 2 for batches
        labels = table.select(*dict.fromkeys(column for column in columns.values() if column)).to_pyarrow()
        shows = sys.stderr.isatty()
        report = store.join(
            {name: labels.column(name) for name in labels.column_names},
            **columns,
            profile=profile,
            progress=_show_progress if shows else None,
            told=told,
        )
    if shows:
        print(file=sys.stderr)
    return report


def _show_progress(done: int, size: int | None) -> None:
    progress(done, size or 0)


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


def _finite(value: Any) -> Any:
    """``value`` as JSON has it: no NaN, keys of text."""
    if isinstance(value, dict):
        return {" ".join(key) if isinstance(key, tuple) else key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
