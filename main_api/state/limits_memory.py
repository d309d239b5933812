"""The counters of the limits in this process: exact under threads, and bounded over all callers.

What ``limits`` has for this (``memory://``) loses hits and counts refused ones while threads meet.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic, time

from limits.storage import SlidingWindowCounterSupport, Storage

# How Flask-Limiter is told of this storage: `storage_uri`. Known to it once this module is imported.
URI = "main-api-memory://"
# Counters kept at most, of each of both kinds; some 40 MB.
MOST = 100_000
# So many are looked at whenever one is added: with two, those that are over never outnumber the others.
_SWEPT = 2


# When the window ends, for how long it fades after that, what was counted in it, and in the one before; in
# whole milliseconds, as Redis counts, so that no sum is rounded. Plain tuples of numbers are what costs
# Python's collector least, for which 100,000 objects would be a pause.
_Counter = tuple[int, int, int, int]


class _Counters:
    """Counters by key, ``most`` of them. Not locked: its owner holds a lock.

    A new caller is never refused for want of room: a counter is forgotten, one of those that are used up only
    when there are no others. So whoever has any number of names (IPv6 has them) pushes out his own fresh
    counters, and to have a used one forgotten, that of a password tried too often above all, he would have to
    use up ``most`` of them.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"most: at least 1 needed, got {most}")
        self._most = most
        # In the order in which they were looked at last by the one that sweeps.
        self._fresh: OrderedDict[str, _Counter] = OrderedDict()
        self._used_up: OrderedDict[str, _Counter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._fresh) + len(self._used_up)

    def find(self, key: str, now: int) -> _Counter | None:
        """Give the counter of ``key`` unless it is over; where its window has ended, of the next one."""
        kept = self._fresh if key in self._fresh else self._used_up
        counter = kept.get(key)
        if counter is None:
            return None
        end, fades, current, _ = counter
        if now >= end + fades:
            del kept[key]
            return None
        if now > end:
            counter = kept[key] = (end + fades, fades, 0, current)
        return counter

    def put(self, key: str, counter: _Counter, now: int, used_up: bool = False) -> None:
        """Keep the counter of ``key``, as one that is ``used_up`` from now on, or has been."""
        if key in self._used_up:
            self._used_up[key] = counter
            return
        if key not in self._fresh:
            self._make_room(now)
        if used_up:
            self._fresh.pop(key, None)
            self._used_up[key] = counter
        else:
            self._fresh[key] = counter

    def drop(self, key: str) -> None:
        """Forget ``key``."""
        self._fresh.pop(key, None)
        self._used_up.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._fresh.clear()
        self._used_up.clear()

    def _make_room(self, now: int) -> None:
        _sweep(self._fresh, now)
        _sweep(self._used_up, now)
        if len(self) >= self._most:
            (self._fresh or self._used_up).popitem(last=False)


def _sweep(counters: "OrderedDict[str, _Counter]", now: int) -> None:
    for _ in range(min(_SWEPT, len(counters))):
        key, (end, fades, _, _) = next(iter(counters.items()))
        if now >= end + fades:
            del counters[key]
        else:
            # Behind all others, so that in its time each is looked at.
            counters.move_to_end(key)


class MemoryLimits(Storage, SlidingWindowCounterSupport):
    """Counters of this process: sliding windows as the ``limits`` of Redis have them, and fixed ones.

    A sliding window begins with the first hit; when it has ended, the next one begins, and what was counted
    in it fades while that one lasts. So a caller costs the same room whatever its limit. Refused hits do not
    count. ``clock`` never goes back; ``most`` is how many counters of either kind are kept.
    """

    STORAGE_SCHEME = ["main-api-memory"]  # noqa: RUF012 - the library's declaration

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        clock: Callable[[], float] = monotonic,
        most: int = MOST,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._clock = clock
        # One for all: what is done under it is less than finding the right one of several.
        self._lock = threading.Lock()
        self._sliding = _Counters(most)
        # Apart, so that no number of addresses touches the quotas of those that have one.
        self._fixed = _Counters(most)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What a failure of the storage raises: there is none."""
        return ()

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` hits of ``key`` if the ``limit`` in ``expiry`` seconds has room for them all."""
        if amount > limit:
            return False
        with self._lock:
            now = self._now()
            counter = self._sliding.find(key, now)
            if counter is None:
                length = expiry * 1000
                counter = (now + length, length, 0, 0)
            end, fades, current, previous = counter
            # What the window before has faded to counts too.
            count = previous * (end - now) // fades + current + amount
            if count > limit:
                return False
            self._sliding.put(key, (end, fades, current + amount, previous), now, 2 * count >= limit)
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Give the count of the window before and of this one, each with the seconds until it is over.

        A window that has ended fades for as long as it has lasted, so this one is over ``expiry`` seconds
        after its end.
        """
        with self._lock:
            now = self._now()
            counter = self._sliding.find(key, now)
        if counter is None:
            return 0, 0.0, 0, 0.0
        end, fades, current, previous = counter
        if not previous or now == end:
            return 0, 0.0, current, (end + fades - now) / 1000
        return previous, (end - now) / 1000, current, (end + fades - now) / 1000

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the windows of ``key``."""
        with self._lock:
            self._sliding.drop(key)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count ``amount``, and give the count; it is forgotten ``expiry`` seconds after the first one."""
        with self._lock:
            now = self._now()
            end, _, count, _ = self._fixed.find(key, now) or (now + expiry * 1000, 0, 0, 0)
            self._fixed.put(key, (end, 0, count + amount, 0), now)
            return count + amount

    def get(self, key: str) -> int:
        """Give what :meth:`incr` has counted."""
        with self._lock:
            counter = self._fixed.find(key, self._now())
        return counter[2] if counter else 0

    def get_expiry(self, key: str) -> float:
        """Give the moment of the wall clock at which the count of :meth:`incr` is forgotten."""
        with self._lock:
            now = self._now()
            counter = self._fixed.find(key, now)
        return time() + (counter[0] - now if counter else 0) / 1000

    def check(self) -> bool:
        """Whether the storage is there: it is."""
        return True

    def reset(self) -> int:
        """Forget all; give how many counters there were."""
        with self._lock:
            count = len(self._sliding) + len(self._fixed)
            self._sliding.clear()
            self._fixed.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget ``key``."""
        with self._lock:
            self._fixed.drop(key)
            self._sliding.drop(key)

    def _now(self) -> int:
        return int(self._clock() * 1000)
