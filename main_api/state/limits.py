"""So many requests in a time, and so many in a day or month: counted in this process, or for all in Redis."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast

from limits import RateLimitItemPerSecond
from limits.storage import SlidingWindowCounterSupport
from limits.strategies import RateLimiter, SlidingWindowCounterRateLimiter

from main_api.exchange import Quota, Window

if TYPE_CHECKING:
    # Who has no Redis need not hold its library.
    from main_api.state.redis_guard import RedisGuard

T = TypeVar("T")

_NAME_MOST = 200
# What no name has that is kept as it is.
_DIGESTED = "§"
_DAY = 86_400
# Seconds: a hit that took Redis so long (it connects, and is sent its scripts anew) is all that a request can
# bear to wait for.
_LONG = 0.040
# Seconds for which the count of a day or month outlives it: the clocks of those who share it may differ.
_CLOCKS_APART = 3600


class Taken(NamedTuple):
    """What became of a request: whether there was room for it, and for how many more there is.

    Durations are whole seconds, rounded up. ``reset``: for so long no more than ``remaining`` should be
    counted on. ``retry_after``: then there is room again if nobody else asks; 0 while there is. ``limit``
    requests in ``window`` seconds are what was applied. ``shared``: whether all that should count together
    have done so.
    """

    allowed: bool
    remaining: int
    reset: int
    retry_after: int
    limit: int
    window: int
    shared: bool = True


class Limits(Protocol):
    """Counts requests by who asks. Nothing here raises for a storage that is away.

    The last of the ``identifiers`` may be anybody's text, those before it are ours; none is a secret.
    """

    def take(self, window: Window, *identifiers: str) -> Taken:
        """Count a request if there is room for it."""

    def look(self, window: Window, *identifiers: str) -> Taken:
        """Give what :meth:`take` would give, and count nothing; ``remaining`` is of before."""

    def use_quota(self, quota: Quota, subject: str) -> Taken:
        """Count a request in this day or month, by UTC."""

    def look_quota(self, quota: Quota, subject: str) -> Taken:
        """Give what :meth:`use_quota` would give, and count nothing; ``remaining`` is of before."""


class LocalLimits:
    """Counts where ``strategy`` does, a sliding window counter of ``limits``: in this process.

    ``wall`` is the clock that days and months go by.
    """

    def __init__(self, strategy: RateLimiter, *, wall: Callable[[], float] = time.time) -> None:
        if not isinstance(strategy, SlidingWindowCounterRateLimiter):
            raise TypeError(f"strategy: a sliding window counter needed, got {type(strategy).__name__}")
        self._strategy = strategy
        self._storage = strategy.storage
        # The strategy has seen to it.
        self._windows = cast(SlidingWindowCounterSupport, strategy.storage)
        self._wall = wall

    def take(self, window: Window, *identifiers: str) -> Taken:
        """Count a request if there is room for it."""
        item = _item(window)
        key = item.named(identifiers)
        allowed = self._strategy.hit(item, key)
        return _taken(allowed, window, *self._windows.get_sliding_window(key, window.seconds))

    def look(self, window: Window, *identifiers: str) -> Taken:
        """Give what :meth:`take` would give, and count nothing; ``remaining`` is of before."""
        key = _item(window).named(identifiers)
        return _taken(None, window, *self._windows.get_sliding_window(key, window.seconds))

    def hit(self, window: Window, *identifiers: str) -> bool:
        """Count a request if there is room for it, and give whether there was: half of :meth:`take`."""
        item = _item(window)
        return self._strategy.hit(item, item.named(identifiers))

    def use_quota(self, quota: Quota, subject: str) -> Taken:
        """Count a request in this day or month, by UTC."""
        period = _period(quota.period, self._wall())
        count = self._storage.incr(period.name(subject), period.left + _CLOCKS_APART)
        return _used(count <= quota.amount, count, quota, period)

    def look_quota(self, quota: Quota, subject: str) -> Taken:
        """Give what :meth:`use_quota` would give, and count nothing; ``remaining`` is of before."""
        period = _period(quota.period, self._wall())
        count = self._storage.get(period.name(subject))
        return _used(count < quota.amount, count, quota, period)


class SharedLimits:
    """Counts in Redis, where ``strategy`` does, for all processes that use it; ``guard`` watches that Redis.

    What Redis does not count, because it is away, refuses or is too slow, ``fallback`` does, with the
    ``share``-th part of the limit: so many processes there may be. Keys begin with the ``key_prefix`` that
    the strategy's storage was made with; making it connects to nobody. A request waits for Redis twice a
    window, for the hit and for what is left, and once for a quota.
    """

    def __init__(
        self,
        guard: "RedisGuard",
        strategy: RateLimiter,
        fallback: LocalLimits,
        share: int,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if share < 1:
            raise ValueError(f"share: at least 1 needed, got {share}")
        if strategy.storage.wrap_exceptions:
            raise ValueError("wrap_exceptions: the guard would not know the errors of Redis")
        self._guard = guard
        self._shared = LocalLimits(strategy, wall=wall)
        self._fallback = fallback
        self._share = share
        self._clock = clock

    def take(self, window: Window, *identifiers: str) -> Taken:
        """Count a request if there is room for it."""
        begun = self._clock()
        allowed = self._ask(lambda: self._shared.hit(window, *identifiers))
        if allowed is None:
            return _alone(self._fallback.take(self._part(window), *identifiers))
        left = None
        if self._clock() - begun < _LONG:
            left = self._ask(lambda: self._shared.look(window, *identifiers))
        if left is None:
            # It has been counted, so not once more; what is left is what this process gives from now on.
            left = self._fallback.look(self._part(window), *identifiers)
        return left._replace(allowed=True) if allowed else _refused(left)

    def look(self, window: Window, *identifiers: str) -> Taken:
        """Give what :meth:`take` would give, and count nothing; ``remaining`` is of before."""
        left = self._ask(lambda: self._shared.look(window, *identifiers))
        return left or _alone(self._fallback.look(self._part(window), *identifiers))

    def use_quota(self, quota: Quota, subject: str) -> Taken:
        """Count a request in this day or month, by UTC."""
        used = self._ask(lambda: self._shared.use_quota(quota, subject))
        return used or _alone(self._fallback.use_quota(self._part_of(quota), subject))

    def look_quota(self, quota: Quota, subject: str) -> Taken:
        """Give what :meth:`use_quota` would give, and count nothing; ``remaining`` is of before."""
        used = self._ask(lambda: self._shared.look_quota(quota, subject))
        return used or _alone(self._fallback.look_quota(self._part_of(quota), subject))

    def _ask(self, work: Callable[[], T]) -> T | None:
        def ask(_: object) -> T | None:
            try:
                return work()
            except ValueError:
                # Under our name is what is no number: somebody else's.
                return None

        return self._guard.call(ask, None)

    def _part(self, window: Window) -> Window:
        return Window(max(1, window.amount // self._share), window.seconds)

    def _part_of(self, quota: Quota) -> Quota:
        return Quota(max(1, quota.amount // self._share), quota.period)


class _Item(RateLimitItemPerSecond):
    """A window as ``limits`` has it; its keys are made here, once for the hit and for what is left."""

    __slots__ = ("_ending",)

    def __init__(self, window: Window) -> None:
        super().__init__(window.amount, window.seconds)
        # Another amount or time is another count.
        self._ending = f"/{window.amount}/{window.seconds}"

    def named(self, identifiers: tuple[str, ...]) -> str:
        """Give the key of whom ``identifiers`` name."""
        return _named(identifiers) + self._ending

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """Give the key that it is given."""
        return str(identifiers[0])


@lru_cache(maxsize=1024)
def _item(window: Window) -> _Item:
    return _Item(window)


def _named(identifiers: tuple[str, ...]) -> str:
    name = "/".join(identifiers)
    if len(name) <= _NAME_MOST and name.isascii():
        return name
    # An issuer's subject may be a page long, or what no encoding has.
    digest = sha256(identifiers[-1].encode("utf-8", "surrogatepass")).hexdigest()
    return "/".join((*identifiers[:-1], _DIGESTED + digest))


def _taken(
    allowed: bool | None, window: Window, previous: int, fading: float, current: int, ending: float
) -> Taken:
    """Read what ``limits`` tells of a window; ``allowed`` None asks whether one more would be."""
    limit, seconds = window.amount, window.seconds
    # Both in whole milliseconds, as they are counted.
    fades, ends = round(fading * 1000), round(ending * 1000)
    left = limit - current - previous * fades // (seconds * 1000)
    if left > 0 and allowed is not False:
        # A window that nobody has begun begins with the next hit.
        reset = -((seconds * 1000 - ends) // 1000) if ends else seconds
        return Taken(True, left, reset, 0, limit, seconds)
    wait = _wait(limit, seconds * 1000, previous, fades, current, ends)
    return Taken(allowed is True, 0, wait, wait, limit, seconds)


def _wait(limit: int, expiry: int, previous: int, fades: int, current: int, ends: int) -> int:
    """Give the seconds after which one more is admitted if nobody else asks, and not a second before.

    One is admitted while less than ``limit`` counts. Of the window before counts, t from now,
    previous · (fades - t) / expiry, rounded down. Where ``current`` alone is too much, the window must end
    first; then it is ``current`` that fades, until ``ends``.
    """
    if current < limit:
        room = (limit - current) * expiry - 1
        after = fades - room // previous if previous else 0
    else:
        after = ends - (limit * expiry - 1) // current
    return max(1, -(-after // 1000))


def _refused(left: Taken) -> Taken:
    wait = max(1, left.retry_after)
    return left._replace(allowed=False, remaining=0, reset=wait, retry_after=wait)


def _alone(taken: Taken) -> Taken:
    return taken._replace(shared=False)


class _Period(NamedTuple):
    """A day or a month: its name, its seconds, and those that are left of it."""

    label: str
    length: int
    left: int

    def name(self, subject: str) -> str:
        """Give the key of what ``subject`` uses in it."""
        return _named(("quota", self.label, subject))


def _period(period: str, now: float) -> _Period:
    label, begin, end = _days(period, int(now // _DAY))
    return _Period(label, (end - begin) * _DAY, ceil(end * _DAY - now))


@lru_cache(maxsize=16)
def _days(period: str, day: int) -> tuple[str, int, int]:
    """Give the name of the ``period`` that has the ``day``, and its first day and the one after its last.

    Days are counted from 1970-01-01.
    """
    date = datetime.fromtimestamp(day * _DAY, UTC)
    if period == "day":
        return f"{date:%Y-%m-%d}", day, day + 1
    if period != "month":
        raise ValueError(f"period: day or month needed, got {period!r}")
    begin = day - date.day + 1
    after = datetime.fromtimestamp((begin + 31) * _DAY, UTC)
    return f"{date:%Y-%m}", begin, begin + 31 - (after.day - 1)


def _used(allowed: bool, count: int, quota: Quota, period: _Period) -> Taken:
    remaining = max(0, quota.amount - count)
    return Taken(
        allowed, remaining, period.left, 0 if remaining else period.left, quota.amount, period.length
    )
