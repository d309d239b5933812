"""Revocations through a real Redis: how soon all know, and that no fault of Redis un-revokes anything."""

import gc
import hashlib
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from redis import Redis

from main_api.accounts.revocations import CURRENT_SECONDS, Revocations
from main_api.accounts.verified import Verified
from main_api.state import redis_connections
from main_api.state.redis_guard import AWAY_SECONDS, RedisGuard
from main_api.state.redis_revocations import RedisRevocations
from tests.end_to_end.processes import HOST, until
from tests.faults.redis_server import RedisServer, redis_server
from tests.faults.support import per_form, say

PREFIX = "main-api:revocations"
LOG, KEYS = f"{PREFIX}:v1:log", f"{PREFIX}:v1:keys"
# Seconds in which everybody is to know; once Redis is back, the guard's second comes on top.
SEEN = 1.0
SEEN_AFTER_FAULT = SEEN + AWAY_SECONDS + 1.0
# What a request that revokes may wait: connecting, once, and one command, and then a busy machine.
WAITED = 0.060


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def client(redis: RedisServer) -> Redis:
    return Redis(host=HOST, port=redis.port)


def guard(redis: RedisServer, timeout: float) -> RedisGuard:
    return RedisGuard(redis_connections.connect(redis.url, 2, timeout=timeout), f"{HOST}:{redis.port}")


def shared(redis: RedisServer) -> RedisRevocations:
    """Make one process' way to the list, with the timeouts that a gateway has."""
    return RedisRevocations(guard(redis, 0.25), PREFIX, requests=guard(redis, redis_connections.TIMEOUT))


@contextmanager
def lists(redis: RedisServer, count: int) -> Iterator[list[Revocations]]:
    """Run as many processes' lists, each with its thread."""
    running = [Revocations(shared(redis)) for _ in range(count)]
    with ExitStack() as stack:
        for each in running:
            each.start()
            stack.callback(each.stop)
        yield running


def digest(number: object) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def refuses(listed: Revocations, number: object) -> bool:
    return listed.revoked(Verified("user:none", frozenset(), time.time(), time.time() + 60, digest(number)))


def hour() -> float:
    return time.time() + 3600


def seen(processes: list[Revocations], numbers: list[str], seconds: float, what: str) -> float:
    """Wait until all refuse all; give the seconds that it took."""
    begun = time.monotonic()
    until(lambda: all(refuses(each, number) for each in processes for number in numbers), what, seconds)
    return time.monotonic() - begun


def figures(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f} ms (median), {max(seconds) * 1000:.1f} (most)"


def known(processes: list[Revocations]) -> None:
    """Wait until all have read the list."""
    until(lambda: all(each.current for each in processes), "the list is current", 5)


def test_a_revocation_is_seen_by_all_within_a_second(redis: RedisServer) -> None:
    times, waits = [], []
    with lists(redis, 4) as (one, *others):
        known([one, *others])
        for number in range(per_form(12, 200)):
            begun = time.monotonic()
            assert one.revoke_token(digest(number), hour()) is True
            waits.append(time.monotonic() - begun)
            assert refuses(one, number)
            times.append(seen(others, [str(number)], SEEN, "the others refuse it"))
        assert one.revoke_user("user:none", time.time() + 5, hour())
        until(lambda: all(refuses(each, "any") for each in others), "a user's", SEEN)
        assert one.revoke_key("k1")
        until(lambda: all(each.key_revoked("k1") for each in others), "a key", SEEN)
    say(f"seen by three others after {figures(times)}; whoever revokes waits {figures(waits)}")


class Revoker:
    """Revokes at one process after the other until told to stop; keeps how long each took."""

    def __init__(self, processes: list[Revocations]) -> None:
        self.processes = processes
        self.numbers: list[str] = []
        self.waits: list[float] = []
        self.told: list[bool] = []
        self.forgotten: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(0.02):
            number = f"revoker {len(self.numbers)}"
            process = self.processes[len(self.numbers) % len(self.processes)]
            begun = time.monotonic()
            self.told.append(process.revoke_token(digest(number), hour()))
            self.waits.append(time.monotonic() - begun)
            self.numbers.append(number)
            self.forgotten += [
                each
                for at, each in enumerate(self.numbers)
                if not refuses(self.processes[at % len(self.processes)], each)
            ]

    def __enter__(self) -> "Revoker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=lambda each: each.name
)
def test_while_redis_is_gone_it_holds_where_it_was_revoked_and_afterwards_everywhere(
    redis: RedisServer, signum: signal.Signals
) -> None:
    with lists(redis, 3) as processes:
        known(processes)
        with Revoker(processes[:2]) as revoker:
            time.sleep(0.5)
            redis.send(signum)
            gone = time.time()
            until(lambda: not any(each.current for each in processes), "the lists are out of date", 5)
            stale = [each.stale_since for each in processes]
            time.sleep(0.5)
            pending = sum(each.pending for each in processes)
            if signum == signal.SIGSTOP:
                redis.cont()
            else:
                assert redis.process is not None
                redis.process.wait(5)
                redis.start()
            back = time.monotonic()
            until(lambda: all(each.current for each in processes), "the lists are current", SEEN_AFTER_FAULT)
            current = time.monotonic() - back
            time.sleep(0.3)
        took = seen(processes, revoker.numbers, SEEN_AFTER_FAULT, "all refuse all")
        assert revoker.forgotten == []
        assert not all(revoker.told)
        assert pending > 0
        assert all(since is not None and abs(since - gone) < SEEN for since in stale)
        until(lambda: not any(each.pending for each in processes), "nothing is pending", SEEN_AFTER_FAULT)

        with lists(redis, 1) as late:
            seen(late, revoker.numbers, SEEN, "a new process refuses all")
    say(
        f"{signum.name}: of {len(revoker.numbers)} revoked {pending} were pending; current {current:.2f} s "
        f"after it was back, all known {took:.2f} s after the last; "
        f"whoever revokes waits {figures(revoker.waits)}"
    )
    assert sorted(revoker.waits)[-4] < WAITED


def test_what_flushall_takes_is_written_back_and_nobody_forgets_meanwhile(redis: RedisServer) -> None:
    with lists(redis, 6) as processes:
        known(processes)
        processes[0].revoke_key("k1")
        with Revoker(processes) as revoker:
            for _ in range(per_form(4, 30)):
                time.sleep(0.7)
                client(redis).flushall()
        begun = time.monotonic()
        until(lambda: not any(each.pending for each in processes), "all is written back", 10)
        took = time.monotonic() - begun
        say(f"all {len(revoker.numbers)} written back {took:.2f} s after the last flush")
        seen(processes, revoker.numbers, SEEN, "all refuse all")
        assert revoker.forgotten == []

        with lists(redis, 1) as late:
            seen(late, revoker.numbers, SEEN, "a new process refuses all")
            assert late[0].key_revoked("k1")


def test_of_many_one_writes_back(redis: RedisServer) -> None:
    count = 2500
    with lists(redis, 8) as processes:
        known(processes)
        # By another one, for what is its own each of them writes back itself.
        items = [("token", digest(number), 0.0, hour() // 60 * 60) for number in range(count)]
        assert shared(redis).publish(items)
        seen(processes, [str(number) for number in range(count)], SEEN, "all know all")
        redis.kill()
        redis.start()
        until(lambda: client(redis).exists(LOG), "somebody writes back", 5)
        until(lambda: not any(each.pending for each in processes), "all is written back", 5)
        length = client(redis).xlen(LOG)
    say(f"eight processes that knew {count} wrote {length} entries into an empty Redis")
    # Whoever has the lock for the second second adds what it has not read yet.
    assert count <= length <= 2 * count


def test_a_long_list_is_read_by_a_new_process_and_polled_for_next_to_nothing(redis: RedisServer) -> None:
    count = 100_000
    publisher = shared(redis)
    moment = time.time() // 60 * 60
    for at in range(0, count, 1000):
        numbers = range(at, at + 1000)
        assert publisher.publish([("token", digest(number), moment, moment + 7200) for number in numbers])
    before = resident()
    listed = Revocations(shared(redis))
    begun, cpu = time.monotonic(), time.process_time()
    listed.round()
    took, cost = time.monotonic() - begun, time.process_time() - cpu
    assert listed.current
    assert all(refuses(listed, number) for number in range(count))
    size = resident() - before

    begun = time.process_time()
    for _ in range(100):
        listed.round()
    idle = (time.process_time() - begun) / 100
    stream = client(redis).memory_usage(LOG)
    say(
        f"{count} entries: read in {took * 1000:.0f} ms ({cost * 1000:.0f} of a core), {size / 1e6:.0f} MB "
        f"here, {stream / 1e6:.0f} in Redis; a round without news {idle * 1000:.2f} ms of a core"
    )
    assert took < 10
    assert idle < 0.01


def test_old_entries_leave_redis(redis: RedisServer) -> None:
    connection = client(redis)
    seconds, _ = connection.time()
    old = (seconds - 26 * 3600) * 1000
    for number in range(5000):
        connection.xadd(LOG, {b"r": b"user 1.0 2.0 a"}, id=f"{old}-{number + 1}")
    listed = Revocations(shared(redis))
    listed.revoke_token(digest(1), hour())
    listed.round()
    listed.revoke_token(digest(2), hour())
    # Whole nodes of the stream at a time.
    assert connection.xlen(LOG) <= 200

    listed.round()
    late = Revocations(shared(redis))
    late.round()
    assert refuses(late, 1)
    assert refuses(late, 2)


@pytest.mark.parametrize("name", [LOG, KEYS])
def test_what_somebody_else_has_put_there_is_cleared_away(redis: RedisServer, name: str) -> None:
    one, other = Revocations(shared(redis)), Revocations(shared(redis))
    one.revoke_token(digest(1), hour())
    one.revoke_key("k1")
    for each in (one, other):
        each.round()
    client(redis).delete(name)
    client(redis).set(name, "somebody else's")
    for _ in range(3):
        one.round()
        other.round()
    late = Revocations(shared(redis))
    late.round()

    for each in (one, other, late):
        assert refuses(each, 1)
        assert each.key_revoked("k1")
        assert each.current


def test_the_lock_is_free_again_after_a_second(redis: RedisServer) -> None:
    one, other = shared(redis), shared(redis)
    assert one.claim()
    assert one.claim()
    assert not other.claim()
    until(other.claim, "the lock is free", 1.5)


def test_a_process_that_lives_for_one_command_tells_the_others_or_says_that_it_could_not(
    redis: RedisServer,
) -> None:
    with lists(redis, 2) as processes:
        known(processes)
        command = Revocations(RedisRevocations(guard(redis, 1.0), PREFIX))
        assert command.revoke_token(digest(1), hour()) is True
        assert command.revoke_key("k1", None) is True
        seen(processes, ["1"], SEEN, "all refuse it")
        redis.kill()
        assert command.revoke_token(digest(2), hour()) is False
        assert (
            Revocations(RedisRevocations(guard(redis, 1.0), PREFIX)).revoke_user("a", 1.0, math.inf) is False
        )


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_threads_connections_and_memory_stay_as_they_are(redis: RedisServer) -> None:
    def rounds(count: int, each: Callable[[int], object]) -> None:
        for number in range(count):
            each(number)
            listed.round()

    def revoke(number: int) -> None:
        # Each is over when the next rounds look at it.
        listed.revoke_token(digest(number), time.time() - 119.0)

    listed = Revocations(shared(redis))
    rounds(300, revoke)
    before, threads = resident(), threading.active_count()
    rounds(per_form(2000, 50_000), revoke)
    grown = resident() - before
    for _ in range(20):
        with lists(redis, 2):
            pass
    say(f"after {per_form(2000, 50_000)} rounds: {grown / 1e3:+.0f} kB, {len(listed._tokens.names)} listed")
    assert threading.active_count() == threads
    assert grown < 4e6
    gc.collect()
    connected = client(redis).info("clients")["connected_clients"]
    assert connected <= 4


def test_the_age_of_the_list_is_told_while_redis_hangs(redis: RedisServer) -> None:
    with lists(redis, 1) as (listed,):
        known([listed])
        redis.pause()
        paused = time.time()
        until(lambda: not listed.current, "the list is out of date", CURRENT_SECONDS + SEEN)
        since = listed.stale_since
        assert since is not None
        assert paused - SEEN < since <= time.time() - CURRENT_SECONDS
        redis.cont()
        until(lambda: listed.current, "the list is current", SEEN_AFTER_FAULT)
