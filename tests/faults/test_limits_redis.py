"""Limits that several processes share by a real Redis: exact while it is there, and there while it is not."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import Redis

from main_api.exchange import Quota, Window
from main_api.state.limits import LocalLimits, SharedLimits, Taken
from main_api.state.limits_memory import URI
from main_api.state.redis_connections import TIMEOUT, connect
from main_api.state.redis_guard import RedisGuard, address
from tests.end_to_end.processes import HOST, free_port, until
from tests.faults.redis_server import RedisServer, redis_server
from tests.faults.slow_redis import Slowness, black_hole, slow_redis
from tests.faults.support import per_form, say

# Seconds that Redis may add to a take, and after which it is used again once it is back.
MOST_ADDED = 0.060
BACK_WITHIN = 10.0
SHARE = 4
WINDOW = Window(100, 900)
QUOTA = Quota(100, "month")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def limits_at(url: str, timeout: float = TIMEOUT) -> SharedLimits:
    """Make what one process has: a pool, a guard, and counters of its own."""
    client = connect(url, 32, timeout)
    storage = storage_from_string(
        "redis://",
        connection_pool=client.connection_pool,  # type: ignore[arg-type]
        key_prefix="main-api:tests:limits",
    )
    local = LocalLimits(SlidingWindowCounterRateLimiter(storage_from_string(URI)))
    guard = RedisGuard(client, address(url))
    return SharedLimits(guard, SlidingWindowCounterRateLimiter(storage), local, SHARE)


def client(redis: RedisServer) -> Redis:
    return Redis(host=HOST, port=redis.port)


names = (f"caller:{number}" for number in itertools.count())


def test_of_ten_times_the_limit_at_once_two_processes_let_exactly_the_limit_through(
    redis: RedisServer,
) -> None:
    # No wait is too long here: whoever does not wait for Redis counts by himself.
    processes = [limits_at(redis.url, 10.0), limits_at(redis.url, 10.0)]
    together = threading.Barrier(16)
    window, rounds = Window(16, 900), [next(names) for _ in range(per_form(10, 100))]

    def ask(number: int) -> list[list[bool]]:
        found = []
        for name in rounds:
            together.wait(30)
            taken = [processes[number % 2].take(window, "r", name) for _ in range(10)]
            quota = [processes[number % 2].use_quota(Quota(16, "month"), name) for _ in range(10)]
            assert all(each.shared for each in taken + quota)
            found.append([each.allowed for each in taken + quota])
        return found

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, range(16)))

    for each in zip(*found, strict=True):
        assert sum(sum(one[:10]) for one in each) == 16
        assert sum(sum(one[10:]) for one in each) == 16


def test_retry_after_is_exact_by_the_clock_of_redis(redis: RedisServer) -> None:
    one, other, name = limits_at(redis.url, 5.0), limits_at(redis.url, 5.0), next(names)
    window = Window(3, 2)
    assert [one.take(window, name).allowed for _ in range(3)] == [True] * 3
    refused = other.take(window, name)
    asked = time.monotonic()

    assert (refused.allowed, refused.shared) == (False, True)
    assert refused.retry_after in (2, 3)
    time.sleep(max(0.0, asked + refused.retry_after - 1 - 0.05 - time.monotonic()))
    assert not other.look(window, name).allowed
    time.sleep(max(0.0, asked + refused.retry_after - time.monotonic()))
    assert other.take(window, name).allowed


def test_its_keys_have_the_prefix_and_end_of_themselves(redis: RedisServer) -> None:
    limits, name = limits_at(redis.url, 5.0), next(names)
    for _ in range(3):
        limits.take(Window(100, 10), "route", name)
    limits.use_quota(QUOTA, name)

    with client(redis) as asking:
        lives = {key: asking.ttl(key) for key in asking.scan_iter()}
    assert len(lives) == 2
    assert all(key.startswith(b"main-api:tests:limits:") for key in lives)
    assert all(0 < life <= 32 * 86_400 for life in lives.values())


def test_it_is_made_while_redis_is_away_and_finds_it_later(redis: RedisServer) -> None:
    redis.stop()
    limits, name = limits_at(redis.url), next(names)
    assert limits.take(WINDOW, name) == Taken(True, 24, 900, 0, 25, 900, shared=False)

    redis.start()

    until(lambda: limits.take(WINDOW, name).shared, "Redis is used", BACK_WITHIN)


class Asking:
    """One who asks all the time, as each request does, and how long the slowest of it took."""

    def __init__(self, limits: SharedLimits) -> None:
        self.limits = limits
        self.slowest = 0.0

    def once(self) -> bool:
        """Take and use once; give whether Redis counted all of it."""
        name = next(names)
        begun = time.perf_counter()
        taken = self.limits.take(WINDOW, "r", name)
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        begun = time.perf_counter()
        used = self.limits.use_quota(QUOTA, name)
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        # Of somebody new, nothing is refused.
        assert taken.allowed
        assert used.allowed
        return taken.shared and used.shared

    def during(self, seconds: float) -> list[bool]:
        """Ask for so long, some hundred times a second."""
        end, found = time.monotonic() + seconds, []
        while time.monotonic() < end:
            found.append(self.once())
            time.sleep(0.002)
        return found


def stopped(redis: RedisServer, signum: int) -> Callable[[], object]:
    redis.send(signum)
    return redis.cont if signum == signal.SIGSTOP else redis.start


def configured(redis: RedisServer, name: str, value: str, usual: str) -> Callable[[], object]:
    with client(redis) as asking:
        asking.config_set(name, value)

    def back() -> None:
        with client(redis) as asking:
            asking.config_set(name, usual)

    return back


def replica(redis: RedisServer) -> Callable[[], object]:
    with client(redis) as asking:
        asking.replicaof(HOST, 1)

    def back() -> None:
        with client(redis) as asking:
            asking.replicaof("NO", "ONE")

    return back


# What becomes of Redis; each gives what brings it back.
GOING: dict[str, Callable[[RedisServer], Callable[[], object]]] = {
    "stopped": lambda redis: stopped(redis, signal.SIGTERM),
    "killed": lambda redis: stopped(redis, signal.SIGKILL),
    "paused": lambda redis: stopped(redis, signal.SIGSTOP),
    "without its replicas": lambda redis: configured(redis, "min-replicas-to-write", "1", "0"),
    "read-only": replica,
    "out of memory": lambda redis: configured(redis, "maxmemory", "1", "0"),
}


def slow_each_time(once: Callable[[], float]) -> bool:
    """Whether a take was too slow three times: a busy machine is slow at times, Redis each time."""
    return all(once() > MOST_ADDED for _ in range(3))


@pytest.mark.parametrize("what", GOING)
def test_while_redis_is_gone_this_process_counts_and_nobody_waits(redis: RedisServer, what: str) -> None:
    def once() -> float:
        asking, name = Asking(limits_at(redis.url)), next(names)
        until(lambda: all(asking.during(0.1)), "Redis is used", BACK_WITHIN)
        asking.slowest = 0.0
        back = GOING[what](redis)
        counted = asking.during(per_form(3, 10))
        # Some may have come before it was gone.
        assert not any(counted[len(counted) // 3 :])
        # With its part of the limit, and not more often.
        taken = [asking.limits.take(WINDOW, name) for _ in range(30)]
        assert [each.allowed for each in taken] == [True] * 25 + [False] * 5
        assert {each.limit for each in taken} == {25}
        back()
        begun = time.monotonic()
        until(asking.once, "Redis is used again", BACK_WITHIN)
        again = time.monotonic() - begun
        assert any(asking.during(0.3)[-10:])
        say(f"{what}: slowest {asking.slowest * 1000:.1f} ms, used again after {again:.2f} s")
        return asking.slowest

    assert not slow_each_time(once)


def test_what_was_flushed_begins_anew_and_is_shared(redis: RedisServer) -> None:
    one, other, name = limits_at(redis.url, 5.0), limits_at(redis.url, 5.0), next(names)
    for _ in range(5):
        one.take(WINDOW, name)
        with client(redis) as asking:
            asking.flushall()
            asking.script_flush()
        assert other.take(WINDOW, name) == Taken(True, 99, 900, 0, 100, 900)
        assert one.take(WINDOW, name).remaining == 98


def test_what_somebody_else_put_under_our_names_harms_nobody(redis: RedisServer) -> None:
    limits, name = limits_at(redis.url, 5.0), next(names)
    limits.take(WINDOW, name)
    limits.use_quota(QUOTA, name)
    with client(redis) as asking:
        for key in list(asking.scan_iter()):
            asking.set(key, "no number")
            asking.set(key + b"/-1", "no number", px=1_000_000)
    assert not limits.take(WINDOW, name).shared
    assert not limits.look(WINDOW, name).shared
    assert not limits.use_quota(QUOTA, name).shared
    with client(redis) as asking:
        for key in list(asking.scan_iter()):
            asking.delete(key)
            asking.rpush(key, "a list")
    assert not limits.take(WINDOW, name).shared
    assert not limits.look_quota(QUOTA, name).shared


Place = Callable[[int, int], AbstractContextManager[None]]


def answers(milliseconds: float, pieces: int = 1, *, half: bool = False) -> Place:
    return lambda port, redis: slow_redis(port, redis, Slowness(milliseconds / 1000, pieces, half))


# What stands before Redis, and whether it is of use all the same.
SLOW: dict[str, tuple[Place, bool]] = {
    "answers after 10 ms": (answers(10), True),
    "answers after 12 ms": (answers(12), True),
    "answers after 24 ms": (answers(24), False),
    "answers after 60 ms": (answers(60), False),
    "answers after 2 s": (answers(2000), False),
    "5 pieces, 10 ms each": (answers(10, 5), False),
    "half of an answer": (answers(0, half=True), False),
    "nobody can connect": (lambda port, _: black_hole(port), False),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_slow_redis_adds_60_ms_at_most_to_a_take(redis: RedisServer, what: str) -> None:
    place, of_use = SLOW[what]

    def once() -> float:
        port = free_port()
        with client(redis) as behind:
            # So that the scripts have to be sent too.
            behind.script_flush()
        asking = Asking(limits_at(f"redis://{HOST}:{port}/0"))
        with place(port, redis.port):
            counted = asking.during(1.3)
        assert any(counted) is of_use
        say(f"{what}: slowest {asking.slowest * 1000:.1f} ms, {sum(counted)} of {len(counted)} shared")
        return asking.slowest

    assert not slow_each_time(once)
