"""What was revoked: here at once, everywhere after a round, and never forgotten before its time."""

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from main_api.accounts import revocations
from main_api.accounts.revocations import (
    CURRENT_SECONDS,
    EVERYBODY,
    LIFETIME_MOST,
    NAME_MOST,
    Item,
    Revocations,
)
from main_api.accounts.verified import Verified
from tests.main_api.policies.fakes import ALMOST_ONE, Clock

NOW = 1_800_000_000.0
DAY = 86_400.0


def digest(number: object) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def verified(
    number: object = "none", *, subject: str = "user:none", user_id: str | None = None, issued: float = NOW
) -> Verified:
    return Verified(subject, frozenset(), issued, issued + 3600, digest(number), user_id)


class Redis:
    """What several processes share: a log that they read from where they were, and keys, one value each."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.log: list[Item] = []
        self.keys: dict[str, Item] = {}
        self.life = 0
        self.away = False
        self.lock: tuple[object, float] = (None, 0.0)
        self.page = 3

    def flush(self) -> None:
        self.log, self.keys, self.life = [], {}, self.life + 1
        self.lock = (None, 0.0)


class FakeShared:
    """One process' way to it."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.at = 0
        self.life: int | None = None
        self.asked: list[str] = []
        self.waited_for: list[bool] = []
        self.published: list[Sequence[Item]] = []
        self.whole = True
        self.error: Exception | None = None

    def _ask(self, what: str) -> bool:
        self.asked.append(what)
        if self.error:
            raise self.error
        return not self.redis.away

    def read(self) -> tuple[Sequence[Item], bool, bool, bool] | None:
        if not self._ask("read"):
            return None
        if self.life not in (None, self.redis.life):
            self.at, self.life = 0, None
            return [], True, True, True
        self.life = self.redis.life
        items = self.redis.log[self.at : self.at + self.redis.page]
        self.at += len(items)
        more = self.at < len(self.redis.log)
        return [*items, *([] if more else self.redis.keys.values())], False, more, self.whole

    def publish(self, items: Sequence[Item], *, waited_for: bool = False) -> bool:
        if not self._ask("publish"):
            return False
        self.waited_for.append(waited_for)
        self.published.append(items)
        self.redis.log += [item for item in items if item[0] != "key"]
        self.redis.keys |= {item[1]: item for item in items if item[0] == "key"}
        return True

    def claim(self) -> bool:
        if not self._ask("claim"):
            return False
        owner, until = self.redis.lock
        if owner not in (None, self) and self.redis.clock() < until:
            return False
        self.redis.lock = (self, self.redis.clock() + 1)
        return True


class Process:
    """A process with its own wall clock, and its list."""

    def __init__(self, redis: Redis | None, clock: Clock, *, ahead: float = 0.0, **options: Any) -> None:
        self.clock = clock
        self.ahead = ahead
        self.shared = FakeShared(redis) if redis is not None else None
        self.list = Revocations(
            self.shared, clock=self.wall, monotonic=lambda: clock.now - NOW, random=lambda: 0.5, **options
        )

    def wall(self) -> float:
        return self.clock.now + self.ahead

    def refuses(self, number: object) -> bool:
        return self.list.revoked(verified(number))

    @property
    def asked(self) -> list[str]:
        assert self.shared is not None
        asked, self.shared.asked = self.shared.asked, []
        return asked


class World:
    """A Redis and two processes."""

    def __init__(self) -> None:
        self.clock = Clock(NOW)
        self.redis = Redis(self.clock)
        self.one, self.other = self.process(), self.process()

    def process(self, **options: Any) -> Process:
        return Process(self.redis, self.clock, **options)

    def rounds(self, *processes: Process) -> None:
        for process in processes or (self.one, self.other):
            process.list.round()


@pytest.fixture
def world() -> World:
    return World()


def alone(**options: Any) -> Process:
    return Process(None, Clock(NOW), **options)


# One process.


def test_a_token_is_refused_by_its_digest_and_no_other_is() -> None:
    process = alone()

    assert process.list.revoke_token(digest(1), NOW + 60) is True
    assert process.refuses(1)
    assert not process.refuses(2)


def test_a_key_is_refused_by_its_id_and_no_other_is() -> None:
    process = alone()

    assert process.list.revoke_key("k1") is True
    assert process.list.key_revoked("k1")
    assert not process.list.key_revoked("k2")


@pytest.mark.parametrize("name", ["a", "user:a"])
def test_of_a_user_by_id_or_subject_all_tokens_are_refused_that_were_issued_before(name: str) -> None:
    process = alone()
    process.list.revoke_user(name, NOW + 0.5, NOW + DAY)

    def refused(issued: float) -> bool:
        return process.list.revoked(verified(subject="user:a", user_id="a", issued=issued))

    assert refused(NOW - DAY)
    assert refused(NOW)
    assert refused(NOW + 0.5)
    assert not refused(NOW + 0.6)
    assert not refused(NOW + 1)
    assert refused(math.nan)
    assert not process.list.revoked(verified(subject="user:b", user_id="b"))


def test_a_login_in_the_second_of_the_revocation_is_refused_and_one_in_the_next_is_not() -> None:
    process = alone()
    process.list.revoke_user("a", NOW + 0.2, NOW + DAY)

    assert process.list.revoked(verified(user_id="a", issued=float(int(NOW + 0.9))))
    assert not process.list.revoked(verified(user_id="a", issued=float(int(NOW + 1.0))))


def test_the_tokens_of_an_issuer_are_refused_by_subject() -> None:
    process = alone()
    process.list.revoke_user("https://i.test/|5", NOW, NOW + DAY)

    assert process.list.revoked(verified(subject="https://i.test/|5"))
    assert not process.list.revoked(verified(subject="https://j.test/|5"))


def test_everybody_is_everybody_but_no_key() -> None:
    process = alone()
    process.list.revoke_user(EVERYBODY, NOW, NOW + DAY)

    assert process.list.revoked(verified(subject="user:a", user_id="a"))
    assert process.list.revoked(verified(subject="https://i.test/|5"))
    assert not process.list.revoked(verified(issued=NOW + 1))
    assert not process.list.key_revoked(EVERYBODY)


def test_a_later_revocation_of_a_user_adds_and_an_earlier_one_takes_nothing_away() -> None:
    process = alone()
    process.list.revoke_user("a", NOW, NOW + DAY)
    process.list.revoke_user("a", NOW - 100, NOW + 60)
    assert process.list.revoked(verified(user_id="a", issued=NOW))

    process.list.revoke_user("a", NOW + 10, NOW + 60)
    assert process.list.revoked(verified(user_id="a", issued=NOW + 10))


@pytest.mark.parametrize("name", ["", "x" * (NAME_MOST + 1), "\xe4" * (NAME_MOST // 2 + 1)])
def test_a_name_that_is_empty_or_too_long_is_an_error_and_not_a_revocation_that_nobody_reads(
    name: str,
) -> None:
    process = alone()
    revoke: list[Callable[[], bool]] = [
        lambda: process.list.revoke_user(name, NOW, NOW + 60),
        lambda: process.list.revoke_token(name, NOW + 60),
        lambda: process.list.revoke_key(name),
    ]
    for each in revoke:
        with pytest.raises(ValueError, match="bytes is needed"):
            each()


@pytest.mark.parametrize("until", [NOW + 1e9, math.inf, math.nan])
@pytest.mark.parametrize("before", [NOW + 1e9, math.inf, math.nan])
def test_absurd_moments_are_bounded(before: float, until: float) -> None:
    process = alone()
    process.list.revoke_user("a", before, until)
    process.list.revoke_token(digest(1), until)

    assert process.list.revoked(verified(user_id="a", issued=NOW + 299))
    assert not process.list.revoked(verified(user_id="a", issued=NOW + 301))
    process.clock.now += LIFETIME_MOST - 1
    process.list.round()
    assert process.refuses(1)
    process.clock.now += 300
    process.list.round()
    assert not process.refuses(1)
    assert not process.list.revoked(verified(user_id="a"))


@pytest.mark.parametrize("until", [1e300, math.inf, math.nan])
def test_a_key_until_an_absurd_moment_is_revoked_for_good(world: World, until: float) -> None:
    world.one.list.revoke_key("k1", until)

    assert world.redis.keys["k1"] == ("key", "k1", 0.0, math.inf)


@pytest.mark.parametrize("moment", [-math.inf, -1.0, 0.0, NOW - 1000])
def test_what_is_long_over_is_not_listed(moment: float) -> None:
    process = alone()

    assert process.list.revoke_token(digest(1), moment) is True
    assert process.list.revoke_user("a", -math.inf, NOW + 60) is True
    assert not process.refuses(1)
    assert not process.list.revoked(verified(user_id="a"))


def test_a_key_that_expires_is_forgotten_then_and_one_that_does_not_never_is() -> None:
    process = alone()
    process.list.revoke_key("short", NOW + 1000)
    process.list.revoke_key("long")

    process.clock.now += 999
    process.list.round()
    assert process.list.key_revoked("short")
    process.clock.now += 500 * DAY
    process.list.round()
    assert not process.list.key_revoked("short")
    assert process.list.key_revoked("long")


def test_a_token_is_refused_as_long_as_it_lives_and_forgotten_soon_after() -> None:
    process = alone()
    process.list.revoke_token(digest(1), NOW + 3600)

    # Some whose clock is behind still take it.
    process.clock.now += 3600 + 60
    process.list.round()
    assert process.refuses(1)
    process.clock.now += 200
    process.list.round()
    assert not process.refuses(1)


def test_a_wall_clock_that_jumps_ahead_forgets_nothing() -> None:
    process = alone()
    process.list.revoke_token(digest(1), NOW + 3600)

    process.ahead = DAY
    process.list.round()
    process.ahead = 0.0
    assert process.refuses(1)


def test_of_a_long_list_a_part_is_looked_at_in_a_round_and_all_of_it_in_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revocations, "_LOOKED_AT", 10)
    process = alone()
    for number in range(35):
        process.list.revoke_token(digest(number), NOW + (36_000 if number < 10 else 60))
    process.clock.now += 1000

    left = []
    for _ in range(4):
        process.list.round()
        left.append(sum(map(process.refuses, range(35))))
    assert left == [35, 25, 15, 10]


def test_beyond_the_most_the_oldest_go_and_whoever_has_a_token_as_old_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = alone(tokens_most=100)
    for number in range(100):
        process.list.revoke_token(digest(number), NOW + 10 * 3600)
        process.clock.now += 60
    assert process.list._users.names == {}
    assert not caplog.records

    process.list.revoke_token(digest("last"), NOW + 10 * 3600)
    assert len(process.list._tokens.names) == 90
    assert len(caplog.records) == 1

    # Each of these was issued right before it was revoked.
    for number in range(100):
        issued = NOW + 60 * number
        assert process.list.revoked(verified(number, issued=issued))
        assert process.list.revoked(verified("another", issued=issued)) == (number <= 11)
    assert process.refuses("last")


def test_the_expired_make_room_before_the_oldest_do() -> None:
    process = alone(tokens_most=100)
    for number in range(50):
        process.list.revoke_token(digest(f"long {number}"), NOW + 10 * 3600)
        process.list.revoke_token(digest(f"short {number}"), NOW + 60)
    process.clock.now += 1000
    process.list.revoke_token(digest("last"), NOW + 10 * 3600)

    assert len(process.list._tokens.names) == 51
    assert process.list._users.names == {}


def test_users_beyond_the_most_become_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "_USERS_MOST", 10)
    process = alone()
    for number in range(11):
        process.list.revoke_user(f"user:{number}", NOW - 100 + number, NOW + DAY)

    assert len(process.list._users.names) == 10
    for number in range(11):
        assert process.list.revoked(verified(subject=f"user:{number}", issued=NOW - 100 + number))
    assert process.list.revoked(verified(issued=NOW - 99))
    assert not process.list.revoked(verified(issued=NOW - 98))


def test_a_process_without_a_shared_list_is_always_current_and_has_nothing_pending() -> None:
    process = alone()
    process.list.revoke_token(digest(1), NOW + 60)
    process.clock.now += 1000

    assert process.list.current
    assert process.list.stale_since is None
    assert process.list.pending == 0
    process.list.stop()


# Several.


def test_what_one_revokes_the_other_refuses_after_its_next_round(world: World) -> None:
    world.rounds()
    assert world.one.list.revoke_token(digest(1), NOW + 600) is True
    assert world.one.list.revoke_user("a", NOW, NOW + DAY) is True
    assert world.one.list.revoke_key("k1") is True

    world.rounds(world.other)
    assert world.other.refuses(1)
    assert world.other.list.revoked(verified(user_id="a"))
    assert world.other.list.key_revoked("k1")
    assert not world.other.refuses(2)


def test_to_look_whether_something_was_revoked_asks_nobody(world: World) -> None:
    world.rounds()
    assert world.one.asked
    for process in (world.one, world.other):
        process.asked.clear()
        process.refuses(1)
        process.list.key_revoked("k1")
        assert process.list.current
        assert process.shared is not None
        assert process.asked == []


def test_whoever_revokes_waits_for_one_answer_of_the_shared_list_and_says_so(world: World) -> None:
    world.rounds()
    _ = world.one.asked
    world.one.list.revoke_token(digest(1), NOW + 600)

    assert world.one.asked == ["publish"]
    assert world.one.shared is not None
    assert world.one.shared.waited_for == [True]


def test_what_was_read_before_its_publishing_came_back_is_not_pending(world: World) -> None:
    shared = world.one.shared
    assert shared is not None
    publish = shared.publish

    def slow(items: Sequence[Item], *, waited_for: bool = False) -> bool:
        done = publish(items, waited_for=waited_for)
        if waited_for:
            world.rounds(world.one, world.one)
        return done

    shared.publish = slow  # type: ignore[method-assign]
    assert world.one.list.revoke_token(digest(1), NOW + 600) is True
    assert world.one.list.pending == 0


def test_what_is_known_to_be_shared_is_not_shared_again(world: World) -> None:
    world.one.list.revoke_token(digest(1), NOW + 600)
    world.rounds()
    world.rounds()
    for process in (world.one, world.other):
        _ = process.asked
        assert process.list.pending == 0
        assert process.list.revoke_token(digest(1), NOW + 600) is True
        process.list.round()
        assert process.asked == ["read"]


def test_a_new_process_knows_all_after_its_first_round(world: World) -> None:
    for number in range(10):
        world.one.list.revoke_token(digest(number), NOW + 600)

    late = world.process()
    late.list.round()
    assert all(map(late.refuses, range(10)))
    assert late.list.current


def test_redis_away_it_holds_here_is_pending_and_told_when_redis_is_back(world: World) -> None:
    world.rounds()
    world.redis.away = True

    assert world.one.list.revoke_token(digest(1), NOW + 600) is False
    assert world.one.list.revoke_key("k1") is False
    assert world.one.refuses(1)
    assert world.one.list.pending == 2
    world.rounds()
    assert world.one.list.pending == 2
    world.redis.away = False
    world.rounds()
    assert world.other.refuses(1)
    assert world.other.list.key_revoked("k1")
    world.rounds()
    assert world.one.list.pending == 0


def test_a_process_that_cannot_read_publishes_what_it_has_all_the_same(world: World) -> None:
    world.redis.away = True
    world.one.list.revoke_token(digest(1), NOW + 600)
    world.redis.away = False
    assert world.one.shared is not None
    world.one.shared.read = lambda: None  # type: ignore[method-assign]

    world.rounds(world.one, world.other)
    assert world.other.refuses(1)


def test_a_key_that_was_revoked_for_longer_is_not_made_good_by_one_who_was_away(world: World) -> None:
    world.redis.away = True
    world.one.list.revoke_key("k1", NOW + 100)
    world.redis.away = False
    world.clock.now += 1000
    world.other.list.revoke_key("k1")

    world.rounds(world.other, world.one)
    assert world.redis.keys["k1"][3] == math.inf
    world.redis.keys["k1"] = ("key", "k1", 0.0, NOW + 100)
    world.rounds(world.other)
    assert world.redis.keys["k1"][3] == math.inf


def test_what_was_said_to_be_there_and_is_not_is_told_again(world: World) -> None:
    world.one.list.revoke_token(digest(1), NOW + 600)
    world.redis.log.clear()  # before anybody has read it

    world.rounds(world.one, world.one)
    world.rounds(world.other)
    assert world.other.refuses(1)


def test_two_that_know_different_things_of_a_user_or_a_key_come_to_know_the_most(world: World) -> None:
    world.redis.away = True
    world.one.list.revoke_key("k1")
    world.other.list.revoke_key("k1", NOW + 600)
    world.one.list.revoke_user("a", NOW - 50, NOW + DAY)
    world.other.list.revoke_user("a", NOW - 100, NOW + 2 * 3600)
    world.redis.away = False
    for _ in range(3):
        world.rounds()

    assert world.redis.keys["k1"][3] == math.inf
    for process in (world.one, world.other, world.process()):
        world.rounds(process)
        assert process.list.revoked(verified(user_id="a", issued=NOW - 50))
    world.clock.now += 1000
    late = world.process()
    world.rounds(world.one, world.other, late)
    assert all(process.list.key_revoked("k1") for process in (world.one, world.other, late))
    assert world.one.list.pending == world.other.list.pending == 0


def test_what_redis_loses_nobody_forgets_and_one_writes_back(world: World) -> None:
    for number in range(8):
        world.one.list.revoke_token(digest(number), NOW + 600)
    world.one.list.revoke_user("a", NOW, NOW + DAY)
    world.one.list.revoke_key("k1")
    world.rounds()
    world.redis.flush()

    world.rounds()
    world.rounds()
    assert (len(world.redis.log), len(world.redis.keys)) == (9, 1)
    late = world.process()
    world.rounds(late)
    for process in (world.one, world.other, late):
        assert all(map(process.refuses, range(8)))
        assert process.list.revoked(verified(user_id="a"))
        assert process.list.key_revoked("k1")
        assert process.list.pending == 0


def test_what_only_one_knew_is_written_back_too_when_the_lock_is_free_again(world: World) -> None:
    world.process().list.revoke_token(digest(1), NOW + 600)
    world.rounds(world.one)
    world.process().list.revoke_token(digest("lonely"), NOW + 600)
    lonely = world.process()
    world.rounds(lonely)
    world.redis.flush()

    world.rounds(world.one, lonely)
    assert [item[1] for item in world.redis.log] == [digest(1)]
    world.clock.now += 1
    world.rounds(world.one, lonely)
    late = world.process()
    world.rounds(late)
    assert late.refuses("lonely")


def test_what_a_process_has_revoked_itself_it_writes_back_without_waiting_for_the_lock(world: World) -> None:
    for process, number in ((world.one, 1), (world.other, 2)):
        process.list.revoke_token(digest(number), NOW + 600)
        world.rounds(process)
    world.redis.flush()
    world.redis.lock = (object(), math.inf)

    world.rounds(world.one, world.other, world.one)
    assert all(process.refuses(number) for process in (world.one, world.other) for number in (1, 2))


def test_a_lock_that_nobody_gives_back_holds_up_for_some_seconds_only(world: World) -> None:
    world.process().list.revoke_token(digest(1), NOW + 600)
    world.rounds()
    world.redis.flush()
    world.redis.lock = (object(), math.inf)

    world.rounds()
    world.clock.now += 10
    world.rounds()
    assert world.redis.log == []
    world.clock.now += 10
    world.rounds()
    assert world.redis.log


def test_a_redis_that_loses_all_the_time_ends_a_round_all_the_same(world: World) -> None:
    world.rounds()
    assert world.one.shared is not None
    world.one.shared.read = lambda: ([], True, True, True)  # type: ignore[method-assign]

    world.clock.now += 10
    world.rounds()
    assert not world.one.list.current


def test_a_long_list_is_written_back_in_parts_each_of_them_short(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "_BATCH", 2)
    monkeypatch.setattr(revocations, "_SENT_A_ROUND", 6)
    for number in range(10):
        world.one.list.revoke_token(digest(number), NOW + 600)
    world.rounds(world.one)
    world.redis.flush()
    assert world.one.shared is not None
    world.one.shared.published.clear()

    world.rounds(world.one)
    assert [len(items) for items in world.one.shared.published] == [2, 2, 2]
    world.rounds(world.one)
    assert len(world.redis.log) == 10


def test_of_others_nothing_is_taken_that_is_over_or_of_no_kind_and_absurd_moments_are_bounded(
    world: World,
) -> None:
    world.redis.log += [
        ("token", digest(1), NOW - DAY, NOW - 1000),
        ("nonsense", digest(2), NOW, NOW + 600),
        ("token", digest(3), math.inf, math.inf),
        ("user", "a", math.inf, math.inf),
    ]
    world.rounds()

    assert not world.one.refuses(1)
    assert not world.one.refuses(2)
    assert world.one.refuses(3)
    assert world.one.list.revoked(verified(user_id="a", issued=NOW))
    assert not world.one.list.revoked(verified(user_id="a", issued=NOW + 301))
    world.clock.now += LIFETIME_MOST + 300
    world.rounds()
    assert not world.one.refuses(3)
    assert not world.one.list.revoked(verified(user_id="a"))
    assert world.one.list._tokens.names == {}


def test_what_is_over_in_a_long_list_is_passed_over_and_takes_no_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "_LOOKED_AT", 1)
    world.redis.log += [("token", digest(number), NOW - DAY, NOW - 1000) for number in range(9)]
    world.rounds()

    assert world.one.list._tokens.names == {}


def test_beyond_the_most_the_others_are_told_what_stands_in_the_place_of_the_oldest(world: World) -> None:
    few = world.process(tokens_most=10)
    world.redis.away = True
    for number in range(11):
        few.list.revoke_token(digest(number), NOW + 600)
    world.redis.away = False

    world.rounds(few, world.other)
    for number in range(11):
        assert few.refuses(number)
        assert world.other.refuses(number)


def test_a_list_read_anew_beyond_the_most_logs_nobody_out_who_was_not_before(world: World) -> None:
    for number in range(30):
        world.redis.log.append(("token", digest(number), NOW - 3600 + 60 * number, NOW + DAY))
    first, second = world.process(tokens_most=20), world.process(tokens_most=20)
    world.rounds(first, second)
    moment, _ = first.list._users.names[EVERYBODY]
    assert NOW - 3600 < moment < NOW - 3600 + 60 * 20

    world.redis.flush()
    world.redis.log += [
        ("token", digest(number), NOW - 3600 + 60 * number, NOW + DAY) for number in range(30)
    ]
    for _ in range(3):
        world.rounds(first, second)
    assert {process.list._users.names[EVERYBODY][0] for process in (first, second)} == {moment}


def test_too_many_keys_of_others_are_left_out_and_the_list_is_out_of_date(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(revocations, "_KEYS_MOST", 3)
    few = world.process()
    for number in range(5):
        world.other.list.revoke_key(f"k{number}")
    world.rounds(few)
    world.rounds(few)

    assert sum(few.list.key_revoked(f"k{number}") for number in range(5)) == 3
    assert not few.list.current
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert few.list.revoke_key("own")
    assert few.list.key_revoked("own")
    assert sum(few.list.key_revoked(f"k{number}") for number in range(5)) == 3


# How old the list may be.


def test_the_list_is_current_within_two_seconds_of_a_reading_that_came_to_the_end(world: World) -> None:
    assert not world.one.list.current
    assert world.one.list.stale_since == NOW

    world.clock.now += 5
    world.rounds(world.one)
    assert world.one.list.current
    world.clock.now += CURRENT_SECONDS
    assert world.one.list.current
    world.clock.now += 0.001
    assert not world.one.list.current
    assert world.one.list.stale_since == pytest.approx(NOW + 5)

    world.redis.away = True
    world.rounds(world.one)
    assert world.one.list.stale_since == pytest.approx(NOW + 5)
    world.redis.away = False
    world.rounds(world.one)
    assert world.one.list.stale_since is None


def test_a_wall_clock_that_jumps_makes_no_list_old_and_none_new(world: World) -> None:
    world.rounds(world.one)
    world.one.ahead = DAY
    assert world.one.list.current
    world.clock.now += 5
    world.one.ahead = -DAY
    assert not world.one.list.current
    assert world.one.list.stale_since == pytest.approx(NOW - DAY)


def test_a_list_that_is_not_whole_is_not_current(world: World) -> None:
    assert world.one.shared is not None
    world.one.shared.whole = False
    world.rounds(world.one)

    assert not world.one.list.current


def test_the_time_of_a_reading_is_when_it_began(world: World) -> None:
    shared = world.one.shared
    assert shared is not None
    read = shared.read

    def slow() -> Any:
        world.clock.now += 1
        return read()

    shared.read = slow  # type: ignore[method-assign]
    world.rounds(world.one)
    world.clock.now += 1.5
    assert not world.one.list.current


def test_it_is_logged_when_the_list_goes_out_of_date_and_when_it_is_current_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        world.rounds(world.one, world.one)
        world.redis.away = True
        world.clock.now += 10
        world.rounds(world.one, world.one)
        world.redis.away = False
        world.rounds(world.one, world.one)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


# The thread.


def test_what_the_shared_list_raises_ends_nothing_and_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert world.one.shared is not None
    world.one.shared.error = RuntimeError("unexpected")

    assert world.one.list.revoke_token(digest(1), NOW + 600) is False
    world.rounds(world.one, world.one)
    assert world.one.refuses(1)
    assert len([record for record in caplog.records if record.exc_info]) == 1
    world.one.shared.error = None
    world.rounds(world.one, world.other)
    assert world.other.refuses(1)


class Steps:
    """Stands in for the event that the thread waits for; ends it after some rounds."""

    def __init__(self, rounds: int) -> None:
        self.pauses: list[float] = []
        self._rounds = rounds

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return len(self.pauses) >= self._rounds

    def is_set(self) -> bool:
        return False

    def set(self) -> None:
        self._rounds = 0


@pytest.mark.parametrize(("random", "pause"), [(0.0, 0.36), (ALMOST_ONE, 0.44)])
def test_the_first_round_is_at_once_and_the_next_0_4_s_later_a_tenth_more_or_less(
    world: World, random: float, pause: float
) -> None:
    listed = world.one.list
    listed._random = lambda: random
    listed._over = steps = Steps(3)  # type: ignore[assignment]
    listed._run()

    assert world.one.asked == ["read"] * 3
    assert steps.pauses == pytest.approx([pause] * 3)


def test_a_round_that_fails_does_not_end_the_thread(world: World, caplog: pytest.LogCaptureFixture) -> None:
    listed = world.one.list
    listed._over = Steps(3)  # type: ignore[assignment]
    listed._tell = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
    listed._run()

    assert world.one.asked == ["read"] * 3
    assert [record.message for record in caplog.records] == ["a round of revocations failed"] * 3


def test_start_reads_and_stop_ends_the_thread_and_publishes_what_is_pending(world: World) -> None:
    read_once = threading.Event()
    shared = world.one.shared
    assert shared is not None
    read = shared.read

    def tell() -> Any:
        answer = read()
        read_once.set()
        return answer

    shared.read = tell  # type: ignore[method-assign]
    world.one.list.start()
    assert read_once.wait(5)
    world.redis.away = True
    world.one.list.revoke_token(digest(1), NOW + 600)
    world.redis.away = False
    world.one.list.stop()

    assert not world.one.list._thread.is_alive()
    world.rounds(world.other)
    assert world.other.refuses(1)


def test_what_could_not_be_published_at_the_end_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.redis.away = True
    world.one.list.revoke_token(digest(1), NOW + 600)
    world.one.list.stop()
    assert [record.levelname for record in caplog.records] == ["WARNING"]

    world.other.list.stop()
    assert len(caplog.records) == 1


# Whatever comes after what.

NAMES = ("a", "b")
AHEAD = (0.0, 20.0)


class Revoking(RuleBasedStateMachine):
    """Two processes, and a Redis that goes away, comes back and is emptied."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock(NOW)
        self.redis = Redis(self.clock)
        self.processes = [Process(self.redis, self.clock, ahead=ahead) for ahead in AHEAD]
        # What each is known to refuse, and what there ever was: kind, name, before, until.
        self.known: list[set[Item]] = [set(), set()]
        self.ever: set[Item] = set()

    def _revoked(self, which: int, item: Item) -> None:
        self.known[which].add(item)
        self.ever.add(item)

    @rule(which=st.integers(0, 1), number=st.integers(0, 5), seconds=st.sampled_from([1, 600, 7200, 80_000]))
    def revoke_token(self, which: int, number: int, seconds: float) -> None:
        until = self.clock.now + seconds
        self.processes[which].list.revoke_token(digest(number), until)
        self._revoked(which, ("token", str(number), 0.0, until))

    @rule(which=st.integers(0, 1), name=st.sampled_from(NAMES), ago=st.sampled_from([0.0, 0.25, 1000.0]))
    def revoke_user(self, which: int, name: str, ago: float) -> None:
        before, until = self.clock.now - ago, self.clock.now + DAY
        self.processes[which].list.revoke_user(name, before, until)
        self._revoked(which, ("user", name, before, until))

    @rule(which=st.integers(0, 1), name=st.sampled_from(NAMES), seconds=st.sampled_from([100, None]))
    def revoke_key(self, which: int, name: str, seconds: float | None) -> None:
        until = None if seconds is None else self.clock.now + seconds
        self.processes[which].list.revoke_key(name, until)
        self._revoked(which, ("key", name, 0.0, math.inf if until is None else until))

    @rule()
    def redis_goes(self) -> None:
        self.redis.away = True

    @rule()
    def redis_comes(self) -> None:
        self.redis.away = False

    @rule()
    def redis_is_emptied(self) -> None:
        self.redis.flush()

    @rule(which=st.integers(0, 1))
    def one_round(self, which: int) -> None:
        self.processes[which].list.round()

    @rule(seconds=st.sampled_from([0.25, 3.0, 30.0, 1000.0, 40_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(which=st.integers(0, 1))
    def one_is_replaced(self, which: int) -> None:
        """A new process takes the place of one that has ended; what only that one knew is gone with it."""
        self.processes[which].list.stop()
        self.processes[which] = Process(self.redis, self.clock, ahead=AHEAD[which])
        self.known[which] = set()

    @rule(first=st.integers(0, 1))
    def redis_is_there_for_a_round_of_each(self, first: int) -> None:
        self.redis.away = False
        for which in (first, 1 - first, first):
            # Who has the lock lets another one wait for it, a second at most.
            self.redis.lock = (None, 0.0)
            self.processes[which].list.round()
        everything = self.known[0] | self.known[1]
        self.known = [set(everything), set(everything)]
        assert all(process.list.current for process in self.processes)

    @invariant()
    def what_is_known_to_be_revoked_is_refused_until_its_time(self) -> None:
        for process, known in zip(getattr(self, "processes", ()), getattr(self, "known", ()), strict=True):
            for kind, name, before, until in known:
                if self.clock.now > until:
                    continue
                if kind == "token":
                    assert process.refuses(name)
                elif kind == "user":
                    assert process.list.revoked(verified(user_id=name, issued=float(int(before))))
                    assert process.list.revoked(verified(user_id=name, issued=before))
                else:
                    assert process.list.key_revoked(name)

    @invariant()
    def nothing_else_is_refused(self) -> None:
        for process in getattr(self, "processes", ()):
            for number in range(6):
                assert not process.refuses(number) or self._of("token", str(number))
            for name in NAMES:
                latest = max((before for _, _, before, _ in self._of("user", name)), default=0.0)
                assert not process.list.revoked(verified(user_id=name, issued=latest + 0.25))
                assert not process.list.key_revoked(name) or self._of("key", name)

    def _of(self, kind: str, name: str) -> list[Item]:
        return [item for item in self.ever if item[:2] == (kind, name)]


Revoking.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRevoking = Revoking.TestCase
