"""What is left, when there is room again, days and months, and what is counted where while Redis is away."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from main_api.exchange import Quota, Window
from main_api.state.limits import Limits, LocalLimits, SharedLimits, Taken
from main_api.state.limits_memory import MemoryLimits
from main_api.state.redis_guard import AWAY_SECONDS, RedisGuard

WINDOW = Window(4, 10)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Storage(MemoryLimits):
    """In the place of Redis: ``error``, when set, is what each command meets whose name is in ``of``."""

    error: Exception | None = None
    of = "hit look incr get"

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.asked: list[str] = []
        self.keys: set[str] = set()

    def _meets(self, name: str, key: str) -> None:
        self.asked.append(name)
        self.keys.add(key)
        if self.error is not None and name in self.of.split():
            raise self.error

    def acquire_sliding_window_entry(self, key: str, *of: Any) -> bool:
        self._meets("hit", key)
        return super().acquire_sliding_window_entry(key, *of)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        self._meets("look", key)
        return super().get_sliding_window(key, expiry)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self._meets("incr", key)
        return super().incr(key, expiry, amount)

    def get(self, key: str) -> int:
        self._meets("get", key)
        return super().get(key)


def local(clock: Callable[[], float], wall: Callable[[], float] | None = None) -> LocalLimits:
    return LocalLimits(SlidingWindowCounterRateLimiter(MemoryLimits(clock=clock)), wall=wall or clock)


def takes(limits: Limits, count: int, *identifiers: str, window: Window = WINDOW) -> list[bool]:
    return [limits.take(window, *identifiers).allowed for _ in range(count)]


# What is left.


def test_what_is_left_is_told_with_each_request() -> None:
    clock = Clock()
    limits = local(clock)

    assert limits.take(WINDOW, "r", "me") == Taken(True, 3, 10, 0, 4, 10)
    clock.now += 2.5
    assert limits.take(WINDOW, "r", "me") == Taken(True, 2, 8, 0, 4, 10)
    assert limits.take(WINDOW, "r", "other") == Taken(True, 3, 10, 0, 4, 10)
    assert limits.take(Window(4, 11), "r", "me") == Taken(True, 3, 11, 0, 4, 11)
    limits.take(WINDOW, "r", "me")
    # Nothing before the window has ended and what was counted in it has begun to fade.
    assert limits.take(WINDOW, "r", "me") == Taken(True, 0, 8, 8, 4, 10)
    assert limits.take(WINDOW, "r", "me") == Taken(False, 0, 8, 8, 4, 10)


def test_a_look_counts_nothing_and_says_what_a_request_would_meet() -> None:
    clock = Clock()
    limits = local(clock)

    assert [limits.look(WINDOW, "me") for _ in range(9)] == [Taken(True, 4, 10, 0, 4, 10)] * 9
    takes(limits, 4, "me")
    assert limits.look(WINDOW, "me") == Taken(False, 0, 11, 11, 4, 10)


def test_a_moment_at_which_it_just_is_not_admitted_is_not_when_to_come_back() -> None:
    clock = Clock()
    limits = local(clock)
    takes(limits, 4, "me")
    # Of those four 2.8 count, which is two.
    clock.now += 13
    assert takes(limits, 3, "me") == [True, True, False]

    # Two seconds later it is 2.0.
    assert limits.take(WINDOW, "me").retry_after == 3
    clock.now += 2
    assert not limits.take(WINDOW, "me").allowed
    clock.now += 1
    assert limits.take(WINDOW, "me").allowed


def test_a_refusal_is_one_though_there_is_room_a_moment_later() -> None:
    storage = MemoryLimits()
    limits = LocalLimits(SlidingWindowCounterRateLimiter(storage))
    takes(limits, 4, "me")
    storage.get_sliding_window = lambda *_: (0, 0.0, 0, 0.0)  # type: ignore[method-assign]

    assert limits.take(WINDOW, "me") == Taken(False, 0, 1, 1, 4, 10)


HISTORIES = st.lists(
    st.one_of(st.just(0.0), st.integers(1, 9000).map(lambda each: each / 1000)), min_size=1, max_size=40
)


def after(window: Window, history: list[float], later: float = 0.0) -> tuple[LocalLimits, Taken]:
    """Ask after each of these gaps, and let so many seconds go by; give what the last one met."""
    # A sixteenth of a millisecond and no more, so that no gap is rounded away and no moment into another one.
    clock = Clock(1000.0001)
    limits = local(clock)
    for gap in history:
        clock.now = round(clock.now + gap, 4)
        taken = limits.take(window, "me")
    clock.now += later
    return limits, taken


@given(st.integers(1, 9), st.integers(1, 6), HISTORIES)
def test_after_so_many_seconds_one_is_admitted_and_a_second_before_none(
    amount: int, seconds: int, history: list[float]
) -> None:
    window = Window(amount, seconds)
    _, taken = after(window, history)
    assume(taken.remaining == 0)

    assert 1 <= taken.retry_after <= 2 * seconds
    assert taken.reset == taken.retry_after
    assert after(window, history, taken.retry_after)[0].take(window, "me").allowed
    assert not after(window, history, taken.retry_after - 1)[0].take(window, "me").allowed


@given(st.integers(1, 9), st.integers(1, 6), HISTORIES)
def test_of_what_is_left_all_are_admitted_and_not_one_more(
    amount: int, seconds: int, history: list[float]
) -> None:
    window = Window(amount, seconds)
    limits, taken = after(window, history)

    assert 0 <= taken.reset <= 2 * seconds
    assert limits.look(window, "me").remaining == taken.remaining
    assert limits.look(window, "me").allowed is (taken.remaining > 0)
    assert (taken.retry_after == 0) is (taken.remaining > 0)
    assert takes(limits, taken.remaining + 1, "me", window=window) == [True] * taken.remaining + [False]


def test_names_are_bounded_and_hold_nothing_that_no_encoding_has() -> None:
    storage = Storage(Clock())
    limits = LocalLimits(SlidingWindowCounterRateLimiter(storage), wall=Clock())
    strange = ["s" * 10_000, "s" * 10_001, "\ud800", "\udfff", "ü", "a/b", "a", "", "€" * 300]
    for subject in strange:
        assert takes(limits, 5, "route", subject) == [True] * 4 + [False]
        assert limits.use_quota(Quota(3, "day"), subject).remaining == 2

    assert len(storage.keys) == 2 * len(strange)
    for key in storage.keys:
        assert len(key.encode()) < 300
    assert {"route/a/4/10", "route/a/b/4/10", "quota/1970-01-01/a"} <= storage.keys


# Days and months.


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("period", "now", "left", "length"),
    [
        ("day", "2026-11-21T00:00:00", 86_400, 86_400),
        ("day", "2026-11-21T23:59:59.999", 1, 86_400),
        ("day", "2026-03-29T02:30:00", 77_400, 86_400),
        ("month", "2026-11-01T00:00:00", 30 * 86_400, 30 * 86_400),
        ("month", "2026-11-30T23:59:58.5", 2, 30 * 86_400),
        ("month", "2026-02-28T00:00:00", 86_400, 28 * 86_400),
        ("month", "2028-02-28T00:00:00", 2 * 86_400, 29 * 86_400),
        ("month", "2026-12-31T12:00:00", 43_200, 31 * 86_400),
        ("month", "2027-01-31T23:00:00", 3_600, 31 * 86_400),
    ],
)
def test_a_quota_lasts_to_the_end_of_its_period(period: str, now: str, left: int, length: int) -> None:
    clock = Clock(moment(now))
    limits, quota = local(clock), Quota(2, period)

    assert limits.look_quota(quota, "key:1") == Taken(True, 2, left, 0, 2, length)
    assert limits.use_quota(quota, "key:1") == Taken(True, 1, left, 0, 2, length)
    assert limits.use_quota(quota, "key:1") == Taken(True, 0, left, left, 2, length)
    assert limits.use_quota(quota, "key:1") == Taken(False, 0, left, left, 2, length)
    assert limits.look_quota(quota, "key:1") == Taken(False, 0, left, left, 2, length)
    assert limits.use_quota(quota, "key:2").allowed
    clock.now += left - 1
    assert not limits.use_quota(quota, "key:1").allowed
    clock.now += 1
    assert limits.use_quota(quota, "key:1").allowed


def test_the_same_day_is_one_count_though_the_quota_grows() -> None:
    limits = local(Clock())
    for _ in range(3):
        limits.use_quota(Quota(3, "day"), "key:1")

    assert limits.use_quota(Quota(5, "day"), "key:1").remaining == 1
    assert limits.use_quota(Quota(3, "month"), "key:1").remaining == 2


def test_a_period_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="week"):
        local(Clock()).use_quota(Quota(1, "week"), "key:1")


def test_another_strategy_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="FixedWindowRateLimiter"):
        LocalLimits(FixedWindowRateLimiter(MemoryLimits()))


# Redis.


class Shared:
    """Limits in a Redis that is none, and those of this process behind them."""

    def __init__(self, share: int = 2) -> None:
        self.clock = Clock()
        self.redis = Storage(self.clock)
        self.guard = RedisGuard(object(), "cache.example:6379", clock=self.clock)  # type: ignore[arg-type]
        self.local = local(self.clock)
        strategy = SlidingWindowCounterRateLimiter(self.redis)
        self.limits = SharedLimits(self.guard, strategy, self.local, share, wall=self.clock, clock=self.clock)

    def fails(self, error: Exception | None, of: str = "hit look incr get") -> None:
        self.redis.error, self.redis.of = error, of


@pytest.fixture
def shared() -> Shared:
    return Shared()


AWAY = Unconnected("refused")
REFUSALS = [ReadOnlyError("canary"), OutOfMemoryError("canary"), ResponseError("canary")]
FAULTS = [AWAY, TimeoutError("slow"), *REFUSALS, ValueError("invalid literal for int(): b'canary'")]
HALF = Window(2, 10)


def test_while_redis_is_there_it_counts_all_and_this_process_nothing(shared: Shared) -> None:
    assert shared.limits.take(WINDOW, "me") == Taken(True, 3, 10, 0, 4, 10)
    assert takes(shared.limits, 4, "me") == [True, True, True, False]
    assert shared.limits.take(WINDOW, "me") == Taken(False, 0, 11, 11, 4, 10)
    assert shared.limits.look(WINDOW, "me") == Taken(False, 0, 11, 11, 4, 10)
    assert shared.limits.use_quota(Quota(2, "day"), "me").remaining == 1
    assert shared.limits.look_quota(Quota(2, "day"), "me").remaining == 1

    assert shared.redis.asked == ["hit", "look"] * 6 + ["look", "incr", "get"]
    assert shared.local.look(HALF, "me").remaining == 2
    assert shared.local.look_quota(Quota(1, "day"), "me").remaining == 1


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_what_redis_does_not_count_this_process_does_with_its_share(shared: Shared, error: Exception) -> None:
    takes(shared.limits, 4, "me")
    shared.limits.use_quota(Quota(5, "day"), "me")
    shared.fails(error)

    assert shared.limits.look(WINDOW, "me") == Taken(True, 2, 10, 0, 2, 10, shared=False)
    assert shared.limits.take(WINDOW, "me") == Taken(True, 1, 10, 0, 2, 10, shared=False)
    assert takes(shared.limits, 2, "me") == [True, False]
    quota = shared.limits.use_quota(Quota(5, "day"), "me")
    assert (quota.allowed, quota.remaining, quota.limit, quota.shared) == (True, 1, 2, False)
    assert shared.limits.look_quota(Quota(5, "day"), "me").remaining == 1


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_when_it_is_back_what_redis_counted_before_is_what_counts(shared: Shared, error: Exception) -> None:
    takes(shared.limits, 3, "me")
    shared.fails(error)
    takes(shared.limits, 2, "me")
    shared.fails(None)
    shared.clock.now += AWAY_SECONDS

    assert shared.limits.take(WINDOW, "me") == Taken(True, 0, 10, 10, 4, 10)
    assert not shared.limits.take(WINDOW, "me").allowed


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_what_redis_counted_is_not_counted_again_when_it_then_does_not_say_what_is_left(
    shared: Shared, error: Exception
) -> None:
    shared.fails(error, "look")

    # What is left is what this process gives, if it is the one that counts from now on.
    assert shared.limits.take(WINDOW, "me") == Taken(True, 2, 10, 0, 2, 10)
    assert shared.local.look(HALF, "me").remaining == 2
    shared.fails(None)
    shared.clock.now += AWAY_SECONDS
    takes(shared.limits, 3, "me")
    shared.fails(error, "look")
    assert shared.limits.take(WINDOW, "me") == Taken(False, 0, 1, 1, 2, 10)


def test_nobody_waits_for_what_is_left_where_the_hit_has_failed(shared: Shared) -> None:
    shared.fails(AWAY)
    takes(shared.limits, 3, "me")

    assert shared.redis.asked == ["hit"]


@pytest.mark.parametrize(("seconds", "asked"), [(0.039, ["hit", "look"]), (0.041, ["hit"])])
def test_who_has_waited_long_for_a_hit_does_not_wait_for_what_is_left(
    shared: Shared, seconds: float, asked: list[str]
) -> None:
    hit = shared.redis.acquire_sliding_window_entry

    def slow(*of: Any) -> bool:
        shared.clock.now += seconds
        return hit(*of)

    shared.redis.acquire_sliding_window_entry = slow  # type: ignore[method-assign]

    assert shared.limits.take(WINDOW, "me").allowed
    assert shared.redis.asked == asked
    assert shared.local.look(HALF, "me").remaining == 2


def test_a_refusal_that_comes_with_the_room_already_there_says_one_second(shared: Shared) -> None:
    takes(shared.limits, 4, "me")
    shared.redis.get_sliding_window = lambda *_: (0, 0.0, 0, 0.0)  # type: ignore[method-assign]

    assert shared.limits.take(WINDOW, "me") == Taken(False, 0, 1, 1, 4, 10)


def test_a_share_is_never_nothing() -> None:
    shared = Shared(share=100)
    shared.fails(AWAY)

    assert takes(shared.limits, 2, "me") == [True, False]
    assert shared.limits.use_quota(Quota(3, "day"), "me").limit == 1
    with pytest.raises(ValueError, match="share"):
        Shared(share=0)


def test_errors_that_the_guard_would_not_know_are_not_made() -> None:
    strategy = SlidingWindowCounterRateLimiter(MemoryLimits(wrap_exceptions=True))
    with pytest.raises(ValueError, match="wrap_exceptions"):
        SharedLimits(Shared().guard, strategy, local(Clock()), 1)


def test_nothing_of_what_redis_said_or_who_asked_is_in_the_log(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for error in FAULTS:
        shared.fails(error)
        shared.limits.take(WINDOW, "canary")
        shared.clock.now += AWAY_SECONDS

    assert caplog.records != []
    assert "canary" not in caplog.text


def test_redis_is_not_loaded_for_who_has_none() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from main_api.state import limits, limits_memory\n"
        "from main_api.policies import rate_limit\n"
        "print([each for each in ('redis', 'flask') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
