"""The counters of this process: what Redis would say, exact under threads, and room that is bounded."""

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from main_api.state.limits_memory import URI, MemoryLimits


class Milliseconds:
    """A clock that goes on when it is told to, by whole milliseconds."""

    def __init__(self, now: int = 5_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        # In the middle of one, so that no rounding makes it another.
        return (self.now + 0.5) / 1000


class Scripts:
    """The two scripts of ``limits`` for Redis, line by line, and of Redis what they use."""

    def __init__(self, clock: Milliseconds) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[int, int]] = {}  # the value, and when it is gone

    def _ttl(self, name: str) -> int:
        _, end = self._kept.get(name, (0, 0))
        if end <= self._clock.now:
            self._kept.pop(name, None)
            return 0
        return end - self._clock.now

    def _get(self, name: str) -> int:
        return self._kept[name][0] if self._ttl(name) else 0

    def _shift(self, expiry: int) -> None:
        left = self._ttl("current")
        if 0 < left < expiry:
            self._kept["previous"] = self._kept["current"]
            self._kept["current"] = (0, self._clock.now + left + expiry)

    def acquire(self, limit: int, seconds: int, amount: int) -> bool:
        expiry = seconds * 1000
        if amount > limit:
            return False
        self._shift(expiry)
        weighted = self._get("previous") * self._ttl("previous") // expiry + self._get("current")
        if weighted + amount > limit:
            return False
        if self._ttl("current"):
            self._kept["current"] = (self._get("current") + amount, self._kept["current"][1])
        else:
            self._kept["current"] = (amount, self._clock.now + 2 * expiry)
        return True

    def look(self, seconds: int) -> tuple[int, float, int, float]:
        self._shift(seconds * 1000)
        previous, current = self._get("previous"), self._get("current")
        # Of a window in which nothing was counted, nobody needs to know when it is over.
        return (
            previous,
            self._ttl("previous") / 1000 if previous else 0.0,
            current,
            self._ttl("current") / 1000,
        )


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.lists(
        st.tuples(st.sampled_from((0, 1, 40, 333, 500, 999, 1000, 1001, 2500)), st.integers(0, 3)),
        max_size=40,
    ),
)
@example(1, 2, [(0, 1), (1000, 0), (1000, 0), (1000, 0), (1000, 0)])
@example(1, 1, [(0, 1), (1001, 2), (999, 0)])
def test_it_says_what_the_scripts_of_redis_say(
    limit: int, seconds: int, steps: list[tuple[int, int]]
) -> None:
    clock = Milliseconds()
    storage, scripts = MemoryLimits(clock=clock), Scripts(clock)

    for later, amount in steps:
        clock.now += later
        if amount:
            expected = scripts.acquire(limit, seconds, amount)
            assert storage.acquire_sliding_window_entry("key", limit, seconds, amount) is expected
        else:
            assert storage.get_sliding_window("key", seconds) == pytest.approx(scripts.look(seconds))


@given(
    st.integers(1, 20),
    st.lists(st.sampled_from((0, 0, 0, 0, 0, 0, 1, 13, 100, 450, 900, 1000, 1001, 1999)), max_size=120),
)
def test_at_no_edge_is_twice_the_limit_let_through(limit: int, gaps: list[int]) -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)
    admitted = []
    for gap in gaps:
        clock.now += gap
        if storage.acquire_sliding_window_entry("key", limit, 1):
            admitted.append(clock.now)

    for first, begin in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            if end - begin < 1000:
                # The limit, and of another one the part that the time is of the window.
                assert last - first + 1 <= limit + ceil(limit * (end - begin) / 1000)


def test_all_of_a_limit_at_the_end_of_a_window_leaves_nothing_for_the_next_ones_beginning() -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)

    def let_through(of: int) -> int:
        return sum(storage.acquire_sliding_window_entry("key", 100, 900) for _ in range(of))

    assert let_through(1) == 1
    clock.now += 899_999
    assert let_through(200) == 99
    clock.now += 2
    assert let_through(200) <= 1
    clock.now += 90_000
    assert let_through(200) in (9, 10)


@pytest.mark.usefixtures("switching")
def test_under_threads_exactly_so_many_are_let_through() -> None:
    storage = MemoryLimits()
    together = threading.Barrier(16)

    def hit(_: int) -> list[bool]:
        found = []
        for key in range(20):
            together.wait(20)
            found += [storage.acquire_sliding_window_entry(str(key), 3, 900) for _ in range(2)]
            storage.incr(str(key), 900)
        return found

    with ThreadPoolExecutor(16) as threads:
        admitted = [sum(each) for each in zip(*threads.map(hit, range(16)), strict=True)]

    assert [one + other for one, other in zip(admitted[::2], admitted[1::2], strict=True)] == [3] * 20
    assert [storage.get(str(key)) for key in range(20)] == [16] * 20
    assert len(storage._sliding) == 20


def test_nothing_of_a_hit_runs_in_another_thread() -> None:
    before = threading.active_count()
    storage = MemoryLimits()
    storage.acquire_sliding_window_entry("key", 3, 1)
    storage.incr("key", 1)

    assert threading.active_count() == before


def test_a_limit_of_a_million_costs_no_more_room_than_one_of_ten() -> None:
    def room(hits: int, limit: int) -> int:
        storage = MemoryLimits()
        for _ in range(hits):
            storage.acquire_sliding_window_entry("key", limit, 900)
        [(key, counter)] = [*storage._sliding._fresh.items(), *storage._sliding._used_up.items()]
        assert {type(each) for each in counter} == {int}
        return sys.getsizeof(key) + sys.getsizeof(counter) + sum(map(sys.getsizeof, counter))

    assert room(20_000, 1_000_000) - room(1, 10) <= 8


def test_python_has_nothing_to_collect_among_the_counters() -> None:
    storage = MemoryLimits()
    for number in range(100):
        storage.acquire_sliding_window_entry(str(number), 10, 900)
        storage.incr(str(number), 900)
    gc.collect()

    counters = [*storage._sliding._fresh.values(), *storage._fixed._fresh.values()]
    assert len(counters) == 200
    assert not any(gc.is_tracked(each) for each in counters)


@pytest.mark.parametrize("limit", [10, 1], ids=["fresh", "used up"])
def test_what_is_over_is_dropped_while_others_come_and_never_outnumbers_them(limit: int) -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)
    most = 0
    # 100 new callers a second, each of them counted for 2 s.
    for number in range(5000):
        clock.now += 10
        storage.acquire_sliding_window_entry(str(number), limit, 1)
        storage.incr(str(number), 2)
        most = max(most, len(storage._sliding), len(storage._fixed))

    assert most <= 2 * 200 + 2


def test_one_that_lasts_does_not_keep_others_that_are_over() -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)
    storage.acquire_sliding_window_entry("long", 10, 100_000)
    for number in range(1000):
        clock.now += 1000
        storage.acquire_sliding_window_entry(str(number), 10, 1)

    assert len(storage._sliding) < 10
    assert storage.get_sliding_window("long", 100_000)[2] == 1


def used(storage: MemoryLimits, key: str) -> int:
    return storage.get_sliding_window(key, 900)[2]


def test_there_are_never_more_counters_than_there_is_room_for() -> None:
    storage = MemoryLimits(most=50)
    for number in range(500):
        assert storage.acquire_sliding_window_entry(str(number), 10, 900)
        storage.incr(str(number), 900)
        assert len(storage._sliding) <= 50
        assert len(storage._fixed) <= 50

    for newest in range(490, 500):
        assert used(storage, str(newest)) == 1
        assert storage.get(str(newest)) == 1


def test_any_number_of_fresh_counters_pushes_out_none_that_is_used_up() -> None:
    storage = MemoryLimits(most=50)
    for _ in range(5):
        assert storage.acquire_sliding_window_entry("account", 5, 900)
    storage.incr("quota", 900)

    for number in range(5000):
        storage.acquire_sliding_window_entry(str(number), 5, 900)
        storage.acquire_sliding_window_entry(str(number), 5, 900)

    assert used(storage, "account") == 5
    assert not storage.acquire_sliding_window_entry("account", 5, 900)
    assert storage.get("quota") == 1


def test_when_all_are_used_up_a_new_caller_is_admitted_all_the_same() -> None:
    storage = MemoryLimits(most=10)
    for number in range(10):
        storage.acquire_sliding_window_entry(str(number), 1, 900)

    assert storage.acquire_sliding_window_entry("new", 1, 900)
    assert len(storage._sliding) == 10


def test_one_that_was_used_up_and_is_over_is_a_fresh_one() -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)
    # Before it, so that it is not the one that is swept next.
    for other in ("one", "other"):
        storage.acquire_sliding_window_entry(other, 1, 900)
    for _ in range(3):
        storage.acquire_sliding_window_entry("key", 3, 1)
    clock.now += 2000

    assert storage.acquire_sliding_window_entry("key", 3, 1)
    assert list(storage._sliding._fresh) == ["key"]
    assert len(storage._sliding) == 3
    assert [storage.acquire_sliding_window_entry("key", 3, 1) for _ in range(3)] == [True] * 2 + [False]
    assert len(storage._sliding) == 3


def test_a_fixed_count_is_forgotten_at_its_moment_and_no_hit_moves_that() -> None:
    clock = Milliseconds()
    storage = MemoryLimits(clock=clock)

    assert (storage.incr("key", 10), storage.incr("key", 10, 4)) == (1, 5)
    assert storage.get_expiry("key") == pytest.approx(time.time() + 10, abs=1)
    clock.now += 9_999
    assert (storage.get("key"), storage.incr("key", 10)) == (5, 6)
    clock.now += 1
    assert storage.get("key") == 0
    assert storage.get_expiry("key") == pytest.approx(time.time(), abs=1)
    assert storage.incr("key", 10) == 1


def test_more_at_once_than_the_limit_is_never_admitted() -> None:
    storage = MemoryLimits()

    assert not storage.acquire_sliding_window_entry("key", 3, 900, 4)
    assert storage.get_sliding_window("key", 900) == (0, 0.0, 0, 0.0)
    assert storage.acquire_sliding_window_entry("key", 3, 900, 3)


def test_counters_are_forgotten_when_told() -> None:
    storage = MemoryLimits()
    for key in ("one", "other"):
        storage.acquire_sliding_window_entry(key, 1, 900)
        storage.incr(key, 900)

    storage.clear("one")
    assert (used(storage, "one"), storage.get("one")) == (0, 0)
    storage.clear_sliding_window("other", 900)
    assert (used(storage, "other"), storage.get("other")) == (0, 1)
    storage.acquire_sliding_window_entry("one", 1, 900)
    assert storage.reset() == 2
    assert (used(storage, "one"), storage.get("other")) == (0, 0)


def test_limits_finds_it_by_its_address_and_its_strategy_takes_it() -> None:
    clock = Milliseconds()
    storage = storage_from_string(URI, clock=clock, most=7)  # type: ignore[arg-type]

    assert isinstance(storage, MemoryLimits)
    assert storage.check()
    assert storage.base_exceptions == ()
    assert SlidingWindowCounterRateLimiter(storage).storage is storage
    with pytest.raises(ValueError, match="most"):
        MemoryLimits(most=0)
