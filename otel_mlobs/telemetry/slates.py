"""``RankingMonitor``: what became of ranked lists, from the clicks and purchases that follow them."""

from __future__ import annotations

import os
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from otel_mlobs.core.rankings import ANY
from otel_mlobs.core.records import NO_CURRENCY, Label, Prediction, stream_of
from otel_mlobs.settings.checks import number
from otel_mlobs.settings.times import seconds
from otel_mlobs.telemetry import guard, prediction_ids, ranking_series
from otel_mlobs.telemetry.claiming import LONGEST_FINISH_S, Claiming, checked_store
from otel_mlobs.telemetry.following import checked_amount
from otel_mlobs.telemetry.keeper import keeper
from otel_mlobs.telemetry.observers import Definitions
from otel_mlobs.telemetry.ranking_status import RankingStatus

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from otel_mlobs.core.records import Joined, Record
    from otel_mlobs.telemetry.claiming import Store
    from otel_mlobs.telemetry.kinds import Attributes, Definition

__all__ = ["RankingMonitor", "RankingStatus"]

_PROFILE = "ranking"
"""Stands where a stream has its profile's id."""
_MOST_PLACES = 1_000
_LONGEST_ITEM = 256
_SEPARATOR = "\x1f"
_IDLE_S = 60.0
_ID_KEYS = ("id", "item", "item_id")
_COLLECTIONS = (list, tuple, set, frozenset, Mapping)
_PLAIN = (str, int, float, bool)


class RankingMonitor:
    """Counts what ranked lists lead to: hit rate, MRR, NDCG@k, click-through by place, catalogue coverage.

    A list is registered when it is shown and counted once, when it is ``maturity`` old, with the events that came until
    then; each kind of event counts once for an item. Showing a list costs some microseconds, waits for nothing and
    never raises for what it holds. What is mature is counted in a thread of the library's (or, with a ``clock`` of
    your own, by whoever comes first after it).

    Args:
        model: the model's name.
        version: the version of it.
        k: how many places count, from 1 to 100; what lies beyond is one place, ``rest``.
        outcomes: where lists wait for their events: an :class:`otel_mlobs.OutcomeStore`.
        maturity: how long events are waited for: seconds, or text as ``"30m"``.
        events: the kinds of events, in a few words.
        gains: what each is worth in the NDCG of all kinds together; 1 unless given.
        catalogue_size: how many items there are, for the coverage.
        window: seconds over which :meth:`status` and the gauges look back.
        clock: seconds since the epoch; ``time.time`` unless given.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has an impossible value, or a monitor of the same model and version has other settings.
    """

    follows = True
    counts_inputs = False

    def __init__(
        self,
        *,
        model: str,
        version: str | int | None = None,
        k: int = 10,
        outcomes: Store,
        maturity: float | str = "30m",
        events: Sequence[str] = ("click", "purchase"),
        gains: Mapping[str, float] | None = None,
        catalogue_size: int | None = None,
        window: float = 3600.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise TypeError(f"model must be text, got {model!r}")
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable that gives seconds, got {clock!r}")
        self.model, self.version = model, None if version is None else str(version)
        self.events = _checked_events(events)
        self._settings: dict[str, Any] = {
            "model": model,
            "version": version,
            "k": _whole("k", k, most=100),
            "outcomes": outcomes,
            "maturity": maturity,
            "events": self.events,
            "gains": _checked_gains(gains, self.events),
            "catalogue_size": None if catalogue_size is None else _whole("catalogue_size", catalogue_size),
            "window": number("window", window, at_least=1.0),
            "clock": clock,
        }
        self._maturity = seconds("maturity", maturity)
        self._store = checked_store(outcomes, self._maturity)
        self._clock = time.time if clock is None else clock
        self._inline = clock is not None
        self._stream = stream_of(model, self.version, _PROFILE)
        self._book = ranking_series.book_of(self.model, self.version, self._settings)
        self._claiming = Claiming(outcomes, self._stream, self._count)
        self._every = min(60.0, max(1.0, self._maturity / 30))
        self._definitions = Definitions()
        self._closed = False
        self._make_quiet()
        _monitors.add(self)

    def _make_quiet(self) -> None:
        self._kept = self._inline
        self._claiming.start_afresh()
        self._due = float("-inf")

    def __repr__(self) -> str:
        return f"RankingMonitor(model={self.model!r}, version={self.version!r}, k={self._settings['k']})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._settings,)

    def shown(self, items: Any, prediction_id: Any = None) -> str:
        """Register a ranked list that somebody is shown, the best item first; returns by what its events find it.

        Items are ids (text or numbers), or what holds one: pairs of item and score, mappings with ``id``, ``item`` or
        ``item_id``, objects with an ``id``. Of longer lists the first 1,000 count. The id is the caller's or made.

        What is no such list is not registered: it is counted as ``refused``, and said once in the log.
        """
        try:
            chosen = prediction_ids.new() if prediction_id is None else prediction_ids.checked(prediction_id)
        except (TypeError, ValueError) as error:  # the request goes on, its list under an id of ours
            guard.report("prediction_id", error)
            chosen = prediction_ids.new()
        try:
            if self._closed:
                return chosen
            now = self._clock()
            names = [_name_of(item) for item in _listed(items)]
            if names:
                payload = _SEPARATOR.join(names).encode("utf-8", "surrogatepass")
                self._store.register(Prediction(chosen, self._stream, now, payload, now + self._maturity))
                self._book.show(now, names)
            self._look(now)
        except _UnreadableError as error:
            self._book.refuse(f"a list was not registered: {error}")
        except Exception as error:  # noqa: BLE001 - the caller's request goes on
            guard.report("ranking", error)
        return chosen

    def observe(
        self,
        inputs: Any,  # noqa: ARG002 - a ranking's inputs are its candidates
        outputs: Any = None,
        *,
        prediction_id: Any = None,
        variant: str | None = None,  # noqa: ARG002 - it is on the span
    ) -> None:
        """What :func:`otel_mlobs.ranking` does with its outputs where it has this monitor: :meth:`shown`."""
        if outputs is not None:
            self.shown(outputs, prediction_id)

    def add_drift(self, attributes: Attributes) -> None:
        """Nothing: a list has no drift."""

    def describe(self, span: Span, inputs: Any) -> None:
        """Nothing: candidates are of no profile."""

    def definition(self, key: object, make: Callable[[], Definition]) -> Definition:
        """The definition of an operation with this monitor, made once for each ``key``."""
        return self._definitions.get(key, make)

    def outcome(
        self,
        items: Any,
        prediction_id: Any,
        *,
        event: str = "click",
        value: float | None = None,
        currency: str | None = None,
        time: float | None = None,
    ) -> None:
        """Say that something was done with an item of a list, or with several of them.

        However often it is said, a kind of event counts once for an item. ``value`` is the worth of each item's event.
        An item without an id is counted as ``refused``, and said once in the log.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the kind of event is not one of this monitor's, or value or id are impossible.
        """
        if event not in self.events:
            raise ValueError(f"event must be one of {', '.join(self.events)}, got {event!r}")
        chosen = prediction_ids.checked(prediction_id)
        amount, unit = checked_amount(value, currency)
        when = None if time is None else number("time", time, at_least=0.0)
        try:
            if self._closed:
                return
            now = self._clock()
            for item in _several(items):
                try:
                    key = f"{event}:{_name_of(item)}"
                except _UnreadableError as error:
                    self._book.refuse(f"an event was not counted: {error}")
                    continue
                label = Label(chosen, key, event, now if when is None else when, amount, unit, uuid.uuid4().hex)
                self._store.submit(label, self._joined)
            self._look(now)
        except Exception as error:  # noqa: BLE001 - whoever learns of a click has a request to answer
            guard.report("ranking", error)

    def _joined(self, joined: Joined) -> None:
        """What became of an event; called by the store, on whichever thread did the work."""
        prediction = joined.prediction
        other = prediction is not None and prediction.stream != self._stream
        self._book.add_result("unknown" if other else joined.result)

    def _look(self, now: float) -> None:
        """See to it that what is mature is counted: by the keeper's thread, or here."""
        if not self._kept:
            try:
                self._kept = keeper.keep(self)
            except RuntimeError:  # no thread can be started here: lists are counted when others are shown
                self._kept = self._inline = True
        if self._inline and (now >= self._due or now < self._due - 2 * self._every):
            self.tick(now)

    def tick(self, now: float | None = None) -> float:
        """Count what is mature at ``now``; returns when to look again. The keeper's thread calls this."""
        moment = self._clock() if now is None else now
        if self._closed:
            return moment + _IDLE_S
        self._due = moment + self._every
        self._claiming.claim(moment)
        return self._due

    def _count(self, record: Record, now: float) -> None:
        """Count a mature list with the events that came."""
        items = record.prediction.payload.decode("utf-8", "surrogatepass").split(_SEPARATOR)
        places = {item: place for place, item in reversed(list(enumerate(items, start=1)))}
        found: dict[str, list[int]] = {}
        amounts: list[tuple[str, str, float]] = []
        for label in record.labels:
            event, _, item = label.key.partition(":")
            place = places.get(item)
            if event not in self.events:
                continue
            if place is None:
                self._book.add_result("misplaced")
                continue
            found.setdefault(event, []).append(place)
            if label.amount is not None:
                amounts.append((event, label.currency or NO_CURRENCY, label.amount))
        self._book.add_slate(now, len(items), found, amounts)

    def status(self) -> RankingStatus:
        """Everything known at this moment; of lists those that are mature."""
        now = self._clock()
        if not self._closed and self._inline:
            self.tick(now)
        slates, events, catalogue, results = self._book.figures(now)
        settings = self._settings
        return RankingStatus(
            self.model, self.version, settings["k"], slates, events, catalogue, results, settings["window"]
        )

    def close(self) -> None:
        """Stop: later lists and events are ignored, counts are still sent. Closing twice changes nothing.

        Events that wait for a store are given five seconds.
        """
        if not self._closed:
            self._claiming.finish(LONGEST_FINISH_S)
        self._closed = True

    def start_afresh(self) -> None:
        """In a forked child no thread is counting what is mature."""
        self._make_quiet()


def _unpickled(settings: dict[str, Any]) -> RankingMonitor:
    return RankingMonitor(**settings)


def _whole(name: str, value: Any, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        limits = "from 1" if most is None else f"from 1 to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {value!r}")
    return value


def _checked_events(events: Any) -> tuple[str, ...]:
    if isinstance(events, str) or not isinstance(events, Sequence) or not events:
        raise TypeError(f'events must be a list of words, as ("click", "purchase"), got {events!r}')
    for event in events:
        if not isinstance(event, str) or not event or ":" in event or event == ANY:
            raise ValueError(f'an event must be a word without a colon, and not "{ANY}", got {event!r}')
    if len({*events}) < len(events) or len(events) > 10:
        raise ValueError(f"events must be at most 10, each once, got {events!r}")
    return tuple(events)


def _checked_gains(gains: Any, events: Sequence[str]) -> dict[str, float]:
    if gains is None:
        return dict.fromkeys(events, 1.0)
    if not isinstance(gains, Mapping) or {*gains} != {*events}:
        raise ValueError(f"gains must have one number for each of {', '.join(events)}, got {gains!r}")
    return {event: number(f"gains[{event!r}]", gains[event], at_least=0.0) for event in events}


class _UnreadableError(TypeError):
    """A list or an item in which no ids are found."""


def _article(value: Any) -> str:
    """What ``value`` is, without what it holds."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} without them"
    return "None" if value is None else f"a {type(value).__name__}"


def _listed(items: Any) -> Sequence[Any]:
    """The first items of a list, array, series or iterable that is not used up by it."""
    unordered = isinstance(items, (str, bytes, Mapping, set, frozenset)) or hasattr(items, "columns")
    if unordered or not isinstance(items, (Sequence, Iterable)):
        raise _UnreadableError(f"what is shown must be a list of items, the best first, got {_article(items)}")
    if hasattr(items, "__next__"):
        raise _UnreadableError("what is shown must be a list of items, not an iterator: to read it would use it up")
    first = items[:_MOST_PLACES] if hasattr(items, "__getitem__") else list(items)[:_MOST_PLACES]
    return first.tolist() if hasattr(first, "tolist") else list(first)


def _several(items: Any) -> Sequence[Any]:
    """One item, or several: a list, a set or an array of them."""
    if isinstance(items, (list, set, frozenset)):
        return list(items)[:_MOST_PLACES]
    if getattr(items, "shape", ()) and hasattr(items, "tolist"):
        return list(items.tolist())[:_MOST_PLACES]
    return [items]


def _name_of(item: Any) -> str:
    """An item's id as text."""
    given = item
    if type(item) is str:
        return _tidy(item)
    if isinstance(item, Mapping):
        item = next((item[key] for key in _ID_KEYS if key in item), None)
    elif isinstance(item, (list, tuple)) and item:
        item = item[0]
    elif not isinstance(item, _PLAIN) and hasattr(item, "id"):
        item = item.id
    if item is None or isinstance(item, _COLLECTIONS) or _has_no_text(item):
        raise _UnreadableError(
            "an item must be an id, a pair that begins with one, a mapping with one as 'id', 'item' or 'item_id', "
            f"or an object with an .id, got {_article(given)}"
        )
    return _tidy(str(item))


def _has_no_text(item: Any) -> bool:
    """Whether its text would be an address in memory, which no event will name again."""
    kind: Any = type(item)
    return kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__


def _tidy(name: str) -> str:
    if len(name) > _LONGEST_ITEM:
        name = name[:_LONGEST_ITEM]
    return name.replace(_SEPARATOR, " ") if _SEPARATOR in name else name


_monitors: weakref.WeakSet[RankingMonitor] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _monitors
    inherited, _monitors = list(_monitors), weakref.WeakSet()
    for monitor in inherited:
        monitor.start_afresh()
        _monitors.add(monitor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
