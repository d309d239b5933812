"""The cache's store that several processes share: Redis.

A name is ``<prefix>:v1:<service> <path>?<SHA-256 of the rest>``, so that whoever looks into Redis sees paths
and no queries, and all of a path can be found.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable
from functools import partial
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

from main_api.state.entries import VERSION, Entry
from main_api.state.redis_guard import RedisGuard
from main_api.state.redis_values import VALUE_MOST, read, write

# Of service and path, a name shows so many bytes. A longer one is cut and gets a hash, which makes it longer
# than any that is whole: no path can be made to look like another one that was cut.
_WHOLE_MOST = 150
_CUT_TO = 118
_PAGE = 1000
# Seconds that an entry is kept for the sake of its tag alone: a 304 is cheaper than an answer.
_FOR_ITS_TAG = 300.0
# Redis takes no larger expiry than some centuries; this is 68 years.
_SECONDS_MOST = 2.0**31
# Seconds by which the clocks of two machines may differ.
_CLOCKS_APART = 5.0
_GLOB = re.compile(rb"([\\*?\[\]^])")


class RedisStore:
    """Answers by key, shared by all processes that use the same Redis and ``prefix``.

    While Redis is away, nothing is found and nothing is kept; nothing here raises for it. An answer of more
    than :data:`main_api.state.redis_values.MOST` bytes is not kept. How much is kept in all, Redis decides
    (``maxmemory``).
    """

    def __init__(
        self, guard: RedisGuard, prefix: str = "main-api:cache", clock: Callable[[], float] = time.time
    ) -> None:
        self._guard = guard
        self._begin = f"{prefix}:v{VERSION}:".encode()
        self._clock = clock

    @property
    def address(self) -> str:
        """Where Redis is, without its password."""
        return self._guard.address

    def now(self) -> float:
        """Give the moment that entries are counted from: of the wall clock, which processes share."""
        return self._clock()

    def get(self, key: str) -> Entry | None:
        """Give the answer kept for ``key``; what is not an answer of ours is forgotten."""
        name = self._name(key)
        value = self._guard.call(lambda client: _get(client, name), b"")
        if not value:
            return None
        entry = read(value)
        if entry is None:
            self.drop(key)
            return None
        # Of a clock that is wrong: it would count as new until that moment has come.
        return entry if entry.born <= self.now() + _CLOCKS_APART else None

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry`` as long as it may be of use, in the place of what there was; whether it is kept."""
        value, left = write(entry), self._left(entry)
        if value is None or left <= 0:
            self.drop(key)
            return False
        name, expiry = self._name(key), max(1, math.ceil(left))
        return self._guard.call(lambda client: bool(client.set(name, value, ex=expiry)), False)

    def drop(self, key: str) -> None:
        """Forget ``key``."""
        name = self._name(key)
        self._guard.call(lambda client: client.unlink(name), None)

    def drop_all(self, prefix: str) -> int:
        """Forget every key that begins with ``prefix``; give how many there were.

        Those that differ only behind the ``?``, or behind the part of a long path that a name shows, are
        forgotten with them. What was not done because Redis went away is not made up for.
        """
        head, query, _ = prefix.partition("?")
        shown = _shown(head) + b"?" if query else _encoded(head)[:_CUT_TO]
        return self._remove(shown, lambda _: True) or 0

    def purge(self, path: str = "") -> int | None:
        """Forget the answers of every service whose path begins with ``path``.

        Gives how many there were; None when Redis was or went away, or refused.
        """
        wanted = _encoded(path)

        def of_path(shown: bytes) -> bool:
            service, _, rest = shown.partition(b" ")
            return rest.startswith(wanted[: max(0, _CUT_TO - len(service) - 1)])

        return self._remove(b"", of_path)

    def _remove(self, begin: bytes, wanted: Callable[[bytes], bool]) -> int | None:
        pattern = _GLOB.sub(rb"\\\1", self._begin + begin) + b"*"
        removed, cursor = 0, 0

        def of_ours(name: bytes) -> bool:
            return wanted(name[len(self._begin) :])

        while True:
            # A page at a time, so that each is a short wait, and the other users get theirs between them.
            page = self._guard.call(partial(_page, cursor, pattern, of_ours), None)
            if page is None:
                return None
            cursor, count = page
            removed += count
            if not cursor:
                return removed

    def _left(self, entry: Entry) -> float:
        """Give the seconds for which ``entry`` is of use from now on."""
        age = max(0.0, self.now() - entry.born)
        left = entry.lifetime + entry.stale_if_error - age
        if entry.header("ETag") is not None and (entry.validate_always or entry.lifetime <= 0):
            left = max(left, _FOR_ITS_TAG)
        return min(left, _SECONDS_MOST)

    def _name(self, key: str) -> bytes:
        head, _, rest = key.partition("?")
        return self._begin + _shown(head) + b"?" + hashlib.sha256(_encoded(rest)).hexdigest().encode()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _shown(head: str) -> bytes:
    data = _encoded(head)
    if len(data) <= _WHOLE_MOST:
        return data
    return data[:_CUT_TO] + b"~" + hashlib.sha256(data).hexdigest()[:32].encode()


def _get(client: Redis, name: bytes) -> bytes:
    try:
        # One byte more than any of ours: of what somebody else has put there, not all has to be taken in.
        value = client.getrange(name, 0, VALUE_MOST)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        client.unlink(name)
        return b""
    return value if isinstance(value, bytes) else b""


def _page(cursor: int, pattern: bytes, wanted: Callable[[bytes], bool], client: Redis) -> tuple[int, int]:
    """Remove those ``wanted`` of the next names; give the cursor behind them, and how many there were."""
    # SCAN and never KEYS, which holds up everybody while it looks at all there is.
    page = cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=_PAGE))
    after, names = page
    chosen = [name for name in names if wanted(name)]
    return after, cast("int", client.unlink(*chosen)) if chosen else 0
