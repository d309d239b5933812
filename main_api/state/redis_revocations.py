"""What was revoked, shared by all processes that use the same Redis and prefix.

``<prefix>:v1:log`` is a stream. Each of its entries has one field: ``token <before> <until> <digest>`` or
``user <before> <until> <name>``, moments of the wall clock of whoever revoked; or ``keys``, which says that
``<prefix>:v1:keys`` has changed, a hash of key ids and until when each is revoked. The stream's ids are
Redis' own time and nothing else is made of them. ``<prefix>:v1:restoring`` is a lock.

Redis needs a ``maxmemory-policy`` that leaves alone what has no expiry; what it drops all the same comes back
from the processes.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import ResponseError

from main_api.state.redis_guard import RedisGuard

log = logging.getLogger(__name__)

# Kind (token, user or key), digest or name, and two moments: tokens of a user are revoked that were issued
# until the first, and the second is when all that is over. ``inf`` is never.
Item = tuple[str, str, float, float]

# Entries a round trip. Some 120 KiB, so some 10 ms of a core to read in Python: more than the connections of
# requests allow for.
PAGE = 1000
KEYS_MOST = 100_000
NAME_MOST = 1024
# For how long the log is kept: no token lives longer than a day.
_KEPT_MS = 25 * 3600 * 1000
# For how long one process alone writes back what Redis has lost; the next one adds what it alone knows.
_CLAIM_MS = 1000

_FIELD = b"r"
_KEYS_CHANGED = b"keys"
_MOMENT = rb"(\d{1,12}(?:\.\d{1,17})?|inf)"
_ENTRY = re.compile(rb"(token|user) %s %s (.{1,%d})\Z" % (_MOMENT, _MOMENT, NAME_MOST), re.DOTALL)
_UNTIL = re.compile(rb"%s\Z" % _MOMENT)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_ID = re.compile(rb"(\d{1,20})-(\d{1,20})\Z")


class Reading(NamedTuple):
    """A page of the shared list.

    ``lost``: what was read before is not there any more. All is given anew from the beginning, by the next
    readings, and who knows more is to write it back. ``more``: there is another page. ``whole``: False when
    there is more than is read of it.
    """

    items: Sequence[Item]
    lost: bool = False
    more: bool = False
    whole: bool = True


class RedisRevocations:
    """The shared list: read from where it was read to, and added to.

    Nothing here raises for a Redis that is away, refuses or holds nonsense. The wait of a ``guard``'s client
    for one command bounds a page: give it 0.25 s, and so a guard of its own, for a page that is late says
    nothing to those who serve requests. ``requests`` is the guard for what a request waits for (default: the
    same). One thread may read; any may publish. Make it after the fork.
    """

    def __init__(
        self, guard: RedisGuard, prefix: str = "main-api:revocations", *, requests: RedisGuard | None = None
    ) -> None:
        self._guard = guard
        self._requests = requests or guard
        self._log = f"{prefix}:v1:log"
        self._keys = f"{prefix}:v1:keys"
        self._lock = f"{prefix}:v1:restoring"
        self._me = uuid4().hex.encode()
        self._last: bytes | None = None
        self._keys_read = 0
        self._warned = False

    def read(self) -> Reading | None:
        """Give what is new since the last reading; None when Redis is away or refuses."""
        return self._guard.call(self._read, None)

    def publish(self, items: Sequence[Item], *, waited_for: bool = False) -> bool:
        """Add ``items``, all or none, in one round trip; whether Redis has them.

        ``waited_for``: a request waits for it.
        """
        guard = self._requests if waited_for else self._guard
        return guard.call(lambda client: self._write(client, items), False)

    def claim(self) -> bool:
        """Whether this process is the one that writes back what Redis has lost, for the next seconds."""
        return self._guard.call(self._claim, False)

    def _read(self, client: Redis) -> Reading | None:
        pipeline = client.pipeline(transaction=False)
        # From the last entry on and not from behind it: whether that one is still there is the only sure sign
        # of a Redis that has lost what it had. One that was filled again since has later ids, too.
        pipeline.xrange(self._log, self._last or "-", "+", count=PAGE)
        pipeline.hlen(self._keys)
        entries, keys = self._without_errors(client, pipeline.execute(raise_on_error=False))
        gone = self._last is not None and (not entries or entries[0][0] != self._last)
        if gone or keys < self._keys_read:
            self._last, self._keys_read = None, 0
            return Reading((), lost=True, more=True)
        new = entries if self._last is None else entries[1:]
        items, keys_changed = self._items(new)
        if keys_changed or keys != self._keys_read:
            items += self._key_items(client)
        last = new[-1][0] if new else self._last
        if new and _order(last) <= _order(self._last):
            return None  # no Redis gives this; it would be read for ever
        # Last of all, so that what failed half-way is read again.
        self._last, self._keys_read = last, keys
        return Reading(items, more=len(entries) >= PAGE, whole=keys <= KEYS_MOST)

    def _without_errors(self, client: Redis, answers: list[Any]) -> tuple[list[Any], int]:
        for name, answer in zip((self._log, self._keys), answers, strict=True):
            if isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE"):
                # Whatever it is, it is not ours; the next reading finds nothing, and has all written back.
                client.unlink(name)
            if isinstance(answer, Exception):
                raise answer
        return answers[0], answers[1]

    def _items(self, entries: Sequence[tuple[Any, Any]]) -> tuple[list[Item], bool]:
        items, keys_changed = [], False
        for _, fields in entries:
            value = fields.get(_FIELD) if fields else None
            if value == _KEYS_CHANGED:
                keys_changed = True
            elif (item := _item(value)) is not None:
                items.append(item)
            else:
                self._damaged()
        return items, keys_changed

    def _key_items(self, client: Redis) -> list[Item]:
        items: list[Item] = []
        looked_at = cursor = 0
        while True:
            # A page at a time: each is a short wait.
            page = cast("tuple[int, dict[bytes, bytes]]", client.hscan(self._keys, cursor, count=PAGE))
            cursor, fields = page
            looked_at += len(fields)
            for name, until in fields.items():
                item = _key_item(name, until)
                if item is None:
                    self._damaged()
                else:
                    items.append(item)
            if not cursor or looked_at > KEYS_MOST:
                return items

    def _damaged(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("Redis at %s: a damaged revocation is left out", self._guard.address)

    def _write(self, client: Redis, items: Sequence[Item]) -> bool:
        last = self._last
        # By an id that was read, for only Redis knows its time.
        oldest = None if last is None else max(0, _order(last)[0] - _KEPT_MS)
        keys = {_bytes(name): repr(until) for kind, name, _, until in items if kind == "key"}
        values = [
            _bytes(f"{kind} {before!r} {until!r} {name}")
            for kind, name, before, until in items
            if kind != "key"
        ]
        pipeline = client.pipeline()
        if keys:
            pipeline.hset(self._keys, mapping=keys)
            values.append(_KEYS_CHANGED)
        for value in values:
            pipeline.xadd(self._log, {_FIELD: value}, minid=oldest, approximate=True)
        pipeline.execute()
        return True

    def _claim(self, client: Redis) -> bool:
        pipeline = client.pipeline(transaction=False)
        pipeline.set(self._lock, self._me, nx=True, px=_CLAIM_MS)
        pipeline.get(self._lock)
        return bool(pipeline.execute()[1] == self._me)


def _item(value: bytes | None) -> Item | None:
    match = _ENTRY.match(value) if value is not None else None
    if match is None:
        return None
    kind, name = match[1].decode(), _text(match[4])
    if name is None or (kind == "token" and not _DIGEST.match(name)):
        return None
    return kind, name, float(match[2]), float(match[3])


def _key_item(field: bytes, until: bytes) -> Item | None:
    name = _text(field)
    if not name or len(field) > NAME_MOST or not _UNTIL.match(until):
        return None
    return "key", name, 0.0, float(until)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


def _order(entry_id: bytes | None) -> tuple[int, int]:
    """Give an id of the stream as Redis sorts them."""
    match = _ID.match(entry_id or b"0-0")
    return (int(match[1]), int(match[2])) if match else (0, 0)
