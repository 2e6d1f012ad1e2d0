"""Predictions that wait in Redis: one hash each, and two sorted sets for every stream.

Every script touches one key, and a stream's sets share a slot, so that clusters and managed servers run them. The hash
alone says what is true: whether a prediction was given out, and which label came first. The sets only say where to
look; what they say too much does no harm.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from otel_mlobs.core.records import Joined, Label, Prediction, Record
from otel_mlobs.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_CONNECT_S = 3.0
_ANSWER_S = 5.0
_PAGE = 500
_SETS_OUTLIVE_MS = 3_600_000
_NEVER = ("value is not a valid", "string exceeds")
"""How errors begin that are about what was sent."""

# s stream, t time, p payload, d due, v variant, c who claimed it; of each label l value, k token, m the rest, z late
_REGISTER = """
local key = KEYS[1]
if redis.call('EXISTS', key) == 1 then
  local h = redis.call('HMGET', key, 's', 't', 'p')
  if h[1] == ARGV[2] and h[2] == ARGV[3] and h[3] == ARGV[4] then return 1 end
  return 0
end
redis.call('HSET', key, 's', ARGV[2], 't', ARGV[3], 'p', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', key, 'd', ARGV[5]) end
if ARGV[6] == '1' then redis.call('HSET', key, 'v', ARGV[7]) end
redis.call('PEXPIRE', key, ARGV[1])
return 1
"""
_JOIN = """
local key, name = KEYS[1], ARGV[1]
local h = redis.call('HMGET', key, 's', 't', 'p', 'd', 'v', 'c', 'l' .. name, 'k' .. name, 'z' .. name)
if not h[1] then return {'unknown'} end
local result
if h[7] then
  if h[8] == ARGV[3] then result = h[9] and 'late' or 'joined'
  elseif h[7] == ARGV[2] then result = 'duplicate'
  else result = 'conflict' end
else
  redis.call('HSET', key, 'l' .. name, ARGV[2], 'k' .. name, ARGV[3], 'm' .. name, ARGV[4])
  if h[6] then redis.call('HSET', key, 'z' .. name, '1'); result = 'late'
  else result = 'joined' end
end
return {result, h[1], h[2], h[3], h[4], h[5]}
"""
_CLAIM = """
local h = redis.call('HMGET', KEYS[1], 's', 'c')
if h[1] ~= ARGV[2] or (h[2] and h[2] ~= ARGV[1]) then return {} end
if not h[2] then redis.call('HSET', KEYS[1], 'c', ARGV[1]) end
return redis.call('HGETALL', KEYS[1])
"""
_SCRIPTS = (_REGISTER, _JOIN, _CLAIM)


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()  # how Redis names a script


_REGISTER_SHA, _JOIN_SHA, _CLAIM_SHA = map(_sha, _SCRIPTS)


class Redis:
    """A Redis server as a store's backend.

    Args:
        url: as ``redis://host:6379/0``.
        password: for a URL that has none.
        namespace: the beginning of all keys.
        ttl: how long a prediction and its labels are kept, by the server's own clock.

    Raises:
        MissingExtraError: the package redis is not installed.
        ValueError: the URL is none that redis-py can use.
    """

    kind = "redis"

    def __init__(self, url: str, password: str | None, namespace: str, ttl: float) -> None:
        try:
            import redis
        except ImportError as error:
            raise MissingExtraError("a store in Redis", "redis", "redis") from error
        self._library: Any = redis
        self._url = url
        self._password = password
        self._namespace = namespace
        self._ttl = ttl
        self._asked: dict[str, list[bytes]] = {}
        """Of every claim that was not answered: what it asked for."""
        self.start_afresh()

    def start_afresh(self) -> None:
        """Connect anew when asked next; redis-py leaves connections of other processes alone."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._client = client = self._library.Redis.from_url(
            self._url,
            password=self._password,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 0),  # who calls knows better when to try again
            decode_responses=False,
        )
        client.connection_pool.make_connection()  # an option that there is not is said now
        self._asked.clear()

    def _key(self, prediction_id: str) -> str:
        return f"{self._namespace}:{{{prediction_id}}}"

    def _set(self, stream: str, order: str) -> str:
        return f"{self._namespace}:{{{stream}}}:{order}"

    @property
    def _streams(self) -> str:
        return f"{self._namespace}:streams"

    def _answers(self, fill: Callable[[Any], None]) -> list[Any]:
        """What the server answers to all that ``fill`` puts in; scripts that it does not know are loaded."""
        errors = self._library.exceptions
        answers = self._sent(fill)
        if any(isinstance(answer, errors.NoScriptError) for answer in answers):
            for script in _SCRIPTS:
                self._client.script_load(script)
            answers = self._sent(fill)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        # Only where nothing but records is at fault may they be dropped.
        failed.sort(key=self.refuses)
        if failed:
            raise failed[0]
        return answers

    def _sent(self, fill: Callable[[Any], None]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        fill(pipeline)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def write(self, predictions: Sequence[Prediction]) -> int:
        """One round trip for all of them."""
        ttl = max(1, round(self._ttl * 1000))
        times: dict[str, dict[str, float]] = defaultdict(dict)
        dues: dict[str, dict[str, float]] = defaultdict(dict)
        for one in predictions:
            times[one.stream].setdefault(one.id, one.time)
            if one.due is not None:
                dues[one.stream].setdefault(one.id, one.due)

        def fill(pipeline: Any) -> None:
            for one in predictions:
                due = "" if one.due is None else repr(float(one.due))
                variant = ("0", "") if one.variant is None else ("1", one.variant)
                pipeline.evalsha(
                    _REGISTER_SHA, 1, self._key(one.id),
                    ttl, one.stream, repr(float(one.time)), one.payload, due, *variant,
                )  # fmt: skip
            for order, sets in (("time", times), ("due", dues)):
                for stream, scores in sets.items():
                    pipeline.zadd(self._set(stream, order), scores, nx=True)
                    pipeline.pexpire(self._set(stream, order), ttl + _SETS_OUTLIVE_MS)
            pipeline.zadd(self._streams, dict.fromkeys(times, time.time()))

        return sum(answer == 0 for answer in self._answers(fill)[: len(predictions)])

    def join(self, labels: Sequence[Label]) -> list[Joined]:
        """One round trip for all of them."""

        def fill(pipeline: Any) -> None:
            for label in labels:
                rest = json.dumps([label.time, label.amount, label.currency])
                pipeline.evalsha(
                    _JOIN_SHA, 1, self._key(label.prediction_id), label.key, json.dumps(label.value), label.token, rest
                )

        found = []
        for label, (result, *fields) in zip(labels, self._answers(fill), strict=True):
            known = dict(zip((b"s", b"t", b"p", b"d", b"v"), fields, strict=False))
            prediction = _prediction(label.prediction_id, known) if known else None
            found.append(Joined(label, result.decode(), prediction))
        return found

    def claim(self, stream: str, now: float, limit: int, token: str) -> list[Record]:
        """Whoever writes its token into the hash first has the record; the same token has it again."""
        due = self._set(stream, "due")
        asked = self._asked.setdefault(token, [])
        found: list[Record] = []
        ids = list(asked)
        while True:
            if not ids:
                ids = self._client.zrangebyscore(due, "-inf", repr(float(now)), start=0, num=limit - len(found))
                if not ids:
                    break
                asked += ids
            found += self._claimed(ids, stream, token)
            self._client.zrem(due, *ids)
            ids = []
            if len(found) >= limit:
                break
        del self._asked[token]
        return found

    def _claimed(self, ids: Sequence[bytes], stream: str, token: str) -> list[Record]:
        names = [one.decode() for one in ids]

        def fill(pipeline: Any) -> None:
            for name in names:
                pipeline.evalsha(_CLAIM_SHA, 1, self._key(name), token, stream)

        answers = self._answers(fill)
        pairs = ((name, _mapping(answer)) for name, answer in zip(names, answers, strict=True) if answer)
        return [_record(name, fields, late=False) for name, fields in pairs]

    def records(self, stream: str, start: float, end: float) -> Iterator[list[Record]]:
        """Pages of the set by time, each with its hashes; what has expired leaves the set."""
        last, seen = repr(float(start)), set[bytes]()
        while True:
            page = self._client.zrangebyscore(
                self._set(stream, "time"), last, f"({float(end)!r}", start=len(seen), num=_PAGE, withscores=True
            )
            if not page:
                return
            ids = [one for one, _ in page if one not in seen]
            yield self._kept(stream, ids)
            score = page[-1][1]
            same = {one for one, found in page if found == score}
            last, seen = repr(score), same | (seen if repr(score) == last else set())

    def _kept(self, stream: str, ids: Sequence[bytes]) -> list[Record]:
        names = [one.decode() for one in ids]

        def fill(pipeline: Any) -> None:
            for name in names:
                pipeline.hgetall(self._key(name))

        found = zip(names, self._answers(fill), strict=True)
        return [_record(name, fields) for name, fields in found if fields.get(b"s") == stream.encode()]

    def streams(self) -> list[str]:
        """Those that were written to within the time-to-live."""
        return sorted(name.decode() for name in self._client.zrangebyscore(self._streams, self._oldest, "+inf"))

    @property
    def _oldest(self) -> float:
        return time.time() - self._ttl

    def forget(self, prediction_id: str) -> bool:
        """The hash first: without it, what the sets say means nothing."""
        stream = self._client.hget(self._key(prediction_id), "s")
        if stream is None:
            return False
        there = bool(self._client.delete(self._key(prediction_id)))
        for order in ("time", "due"):
            self._client.zrem(self._set(stream.decode(), order), prediction_id)
        return there

    def sweep(self) -> None:
        """Take out of the sets, from their oldest end, what has expired; the hashes expire by themselves."""
        self._client.zremrangebyscore(self._streams, "-inf", f"({self._oldest!r}")
        for name in self._client.zrange(self._streams, 0, -1):
            sets = [self._set(name.decode(), order) for order in ("time", "due")]
            while ids := self._expired(sets[0]):
                for each in sets:
                    self._client.zrem(each, *ids)

    def _expired(self, ordered: str) -> list[bytes]:
        ids: list[bytes] = self._client.zrange(ordered, 0, _PAGE - 1)

        def fill(pipeline: Any) -> None:
            for one in ids:
                pipeline.exists(self._key(one.decode()))

        return [one for one, there in zip(ids, self._answers(fill), strict=True) if not there]

    def refuses(self, error: Exception) -> bool:
        """What redis-py cannot encode, keys that are no hash of ours, and what this library trips over itself."""
        errors = self._library.exceptions
        if isinstance(error, errors.ResponseError):
            return "WRONGTYPE" in str(error) or str(error).removeprefix("ERR ").startswith(_NEVER)
        return isinstance(error, errors.DataError) or not isinstance(error, (errors.RedisError, OSError, MemoryError))

    def close(self) -> None:
        """Close the pool's connections."""
        self._client.close()


def _mapping(flat: Any) -> Mapping[bytes, bytes]:
    """RESP3 gives a mapping, RESP2 a flat list."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))


def _prediction(prediction_id: str, fields: Mapping[bytes, bytes | None]) -> Prediction:
    stream, made, payload = fields[b"s"] or b"", fields[b"t"] or b"0", fields[b"p"] or b""
    due, variant = fields.get(b"d"), fields.get(b"v")
    return Prediction(
        prediction_id,
        stream.decode(),
        float(made),
        payload,
        None if due is None else float(due),
        None if variant is None else variant.decode(),
    )


def _record(prediction_id: str, fields: Mapping[bytes, bytes], *, late: bool = True) -> Record:
    """The record of a hash, with the labels that came after it was claimed or without them."""
    labels = []
    for name, value in fields.items():
        key = name[1:]
        if name[:1] != b"l" or (not late and b"z" + key in fields):
            continue
        when, amount, currency = json.loads(fields[b"m" + key])
        token = fields[b"k" + key].decode()
        labels.append(Label(prediction_id, key.decode(), json.loads(value), when, amount, currency, token))
    labels.sort(key=lambda label: (label.time or 0.0, label.key))
    return Record(_prediction(prediction_id, fields), tuple(labels))
