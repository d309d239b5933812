"""The shared list in Redis: what is written there, what is made of it, and that a loss is always noticed."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from main_api.state import redis_revocations
from main_api.state.redis_guard import RedisGuard
from main_api.state.redis_revocations import NAME_MOST, PAGE, Item, Reading, RedisRevocations

PREFIX = "main-api:test:revocations"
LOG, KEYS, LOCK = (f"{PREFIX}:v1:{name}" for name in ("log", "keys", "restoring"))
DIGEST = "0123456789abcdef" * 4
TOKEN: Item = ("token", DIGEST, 1_800_000_000.0, 1_800_003_600.0)
USER: Item = ("user", "user:a", 1_800_000_000.25, 1_800_086_400.0)
KEY: Item = ("key", "k1", 0.0, math.inf)
HOUR = 3600 * 1000


def token(number: int) -> Item:
    return ("token", f"{number:064x}", *TOKEN[2:])


class FakeRedis:
    """What the list asks of Redis: streams, hashes, a lock. ``error`` is met by each ``failing`` command."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.now = 5_000 * HOUR
        self.error: Exception | None = None
        self.failing = ""
        self.trips: list[list[str]] = []
        self.trimmed: list[int | None] = []

    def pipeline(self, transaction: bool = True) -> "FakePipeline":
        return FakePipeline(self, transaction)

    def run(self, commands: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        self.trips.append([name for name, _, _ in commands])
        if self.error and any(self.failing in name for name, _, _ in commands):
            raise self.error
        answers: list[Any] = []
        for name, arguments, options in commands:
            try:
                answers.append(getattr(self, f"_{name}")(*arguments, **options))
            except ResponseError as error:
                answers.append(error)
        return answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def command(*arguments: Any, **options: Any) -> Any:
            [answer] = self.run([(name, arguments, options)])
            if isinstance(answer, Exception):
                raise answer
            return answer

        return command

    def flush(self) -> None:
        self.data.clear()

    def of(self, name: str, empty: Any) -> Any:
        found = self.data.setdefault(name, empty)
        if type(found) is not type(empty):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def _xadd(self, name: str, fields: dict[bytes, bytes], minid: int | None, approximate: bool) -> bytes:
        assert approximate
        stream = self.of(name, [])
        last = stream[-1][0].split(b"-") if stream else (0, 0)
        milliseconds = max(int(last[0]), self.now)
        number = int(last[1]) + 1 if milliseconds == int(last[0]) else 0
        self.trimmed.append(minid)
        stream.append((b"%d-%d" % (milliseconds, number), dict(fields)))
        if minid is not None:
            stream[:] = [each for each in stream if int(each[0].split(b"-")[0]) >= minid]
        return stream[-1][0] if stream else b"0-0"

    def _xrange(self, name: str, least: bytes | str, most: str, count: int) -> list[Any]:
        assert most == "+"
        order = (0, 0) if least == "-" else tuple(map(int, bytes(least).split(b"-")))  # type: ignore[arg-type]
        entries = self.of(name, [])
        return [each for each in entries if tuple(map(int, each[0].split(b"-"))) >= order][:count]

    def _hset(self, name: str, mapping: dict[bytes, str]) -> int:
        self.of(name, {}).update({field: value.encode() for field, value in mapping.items()})
        return len(mapping)

    def _hlen(self, name: str) -> int:
        return len(self.of(name, {}))

    def _hscan(self, name: str, cursor: int, count: int) -> tuple[int, dict[bytes, bytes]]:
        fields = sorted(self.of(name, {}).items())
        after = cursor + count
        return (after if after < len(fields) else 0), dict(fields[cursor:after])

    def _set(self, name: str, value: bytes, nx: bool, px: int) -> bool | None:
        assert nx
        assert 0 < px <= 10_000
        if name in self.data:
            return None
        self.data[name] = value
        return True

    def _get(self, name: str) -> bytes:
        return bytes(self.of(name, b""))

    def _unlink(self, name: str) -> int:
        return self.data.pop(name, None) is not None


class FakePipeline:
    """Commands that are sent together."""

    def __init__(self, redis: FakeRedis, transaction: bool) -> None:
        self._redis = redis
        self._transaction = transaction
        self._commands: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: self._commands.append((name, arguments, options))

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self._transaction:
            before = copy.deepcopy(self._redis.data)
        answers = self._redis.run(self._commands)
        errors = [each for each in answers if isinstance(each, Exception)]
        if errors and self._transaction:
            self._redis.data = before
        if errors and raise_on_error:
            raise errors[0]
        return answers


class Shared:
    """A Redis and processes that use it."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.now = 0.0
        self.one, self.other = self.process(), self.process()

    def process(self, prefix: str = PREFIX, requests: RedisGuard | None = None) -> RedisRevocations:
        return RedisRevocations(self.guard(self.redis), prefix, requests=requests)

    def guard(self, client: Any) -> RedisGuard:
        return RedisGuard(client, "h:1", clock=lambda: self.now)

    def entries(self) -> list[bytes]:
        return [fields[b"r"] for _, fields in self.redis.data.get(LOG, [])]

    def add(self, value: bytes, field: bytes = b"r") -> None:
        self.redis.xadd(LOG, {field: value}, minid=None, approximate=True)


@pytest.fixture
def shared() -> Shared:
    return Shared()


def read(process: RedisRevocations) -> list[Item]:
    """Read to the end, as whoever has read all so far."""
    items: list[Item] = []
    while True:
        page = process.read()
        assert page is not None
        assert not page.lost
        items += page.items
        if not page.more:
            return items


def loses(process: RedisRevocations) -> list[Item]:
    """Read to the end, after a loss that must be noticed."""
    page = process.read()
    assert page == Reading((), lost=True, more=True)
    return read(process)


@pytest.mark.parametrize(
    "item",
    [
        TOKEN,
        USER,
        KEY,
        ("key", "k2", 0.0, 1_900_000_000.0),
        ("user", "https://issuer.test/|auth0|5 f\n\0\xe4\ud800", 1.5, 2.0),
        ("user", "*", 0.0, 60.0),
        ("user", "x" * NAME_MOST, 1.0, 2.0),
    ],
    ids=lambda item: f"{item[0]} {item[1][:8]!r}",
)
def test_what_one_publishes_every_other_of_the_same_prefix_reads_as_it_was(
    shared: Shared, item: Item
) -> None:
    assert read(shared.other) == []
    assert shared.one.publish([item]) is True

    assert read(shared.other) == [item]
    assert read(shared.process()) == [item]
    assert read(shared.process("main-api:staging:revocations")) == []


@given(
    kind=st.sampled_from(["user", "key"]),
    name=st.text(st.characters(), min_size=1, max_size=NAME_MOST // 4),
    before=st.just(0.0) | st.floats(1, 1e11),
    until=st.floats(60, 1e11) | st.just(math.inf),
)
def test_every_moment_and_name_comes_back_exactly(kind: str, name: str, before: float, until: float) -> None:
    shared = Shared()
    item = (kind, name, 0.0 if kind == "key" else before, until)

    assert shared.one.publish([item])
    assert read(shared.other) == [item]


def test_what_is_written_is_digests_and_names_in_words_that_a_person_can_read(shared: Shared) -> None:
    shared.one.publish([TOKEN, USER, KEY])

    assert shared.entries() == [
        b"token 1800000000.0 1800003600.0 %s" % DIGEST.encode(),
        b"user 1800000000.25 1800086400.0 user:a",
        b"keys",
    ]
    assert shared.redis.data[KEYS] == {b"k1": b"inf"}
    assert set(shared.redis.data) == {LOG, KEYS}


def test_only_what_is_new_is_read_and_in_one_round_trip(shared: Shared) -> None:
    for number in range(3):
        shared.one.publish([token(number)])
        shared.redis.trips.clear()

        assert read(shared.other) == [token(number)]
        assert read(shared.other) == []
        assert shared.redis.trips == [["xrange", "hlen"]] * 2


def test_publishing_is_one_round_trip_and_all_or_nothing(shared: Shared) -> None:
    shared.one.publish([TOKEN, USER, KEY])
    assert shared.redis.trips == [["hset", "xadd", "xadd", "xadd"]]

    shared.redis.data[KEYS] = b"somebody else's"
    assert shared.one.publish([token(1), KEY]) is False
    assert len(shared.entries()) == 3


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1])
def test_a_long_list_comes_in_pages_whole_and_nothing_of_it_twice(shared: Shared, count: int) -> None:
    shared.redis.data[LOG] = [
        (b"%d-%d" % (shared.redis.now + number // 3, number % 3), {b"r": f"user 1.0 2.0 {number}".encode()})
        for number in range(count)
    ]

    assert [name for _, name, _, _ in read(shared.one)] == [str(number) for number in range(count)]
    assert read(shared.one) == []


def test_the_keys_are_read_when_they_have_changed_and_at_no_other_time(shared: Shared) -> None:
    def asked() -> bool:
        shared.redis.trips.clear()
        return bool(read(shared.other)) and ["hscan"] in shared.redis.trips

    shared.one.publish([KEY])
    assert asked()
    assert not asked()
    shared.one.publish([("key", "k1", 0.0, 1_900_000_000.0)])  # as many as before
    assert asked()
    shared.redis.data[KEYS][b"k2"] = b"inf"  # by somebody who forgot the log
    assert asked()
    shared.one.publish([TOKEN])
    assert not asked()


def test_keys_come_in_pages_too(shared: Shared) -> None:
    shared.one.publish([("key", f"k{number}", 0.0, math.inf) for number in range(2 * PAGE + 1)])

    assert len(read(shared.other)) == 2 * PAGE + 1


def test_of_more_keys_than_can_be_only_some_are_read_and_it_says_so(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_revocations, "KEYS_MOST", PAGE)
    shared.one.publish([("key", f"k{number}", 0.0, math.inf) for number in range(PAGE)])
    page = shared.other.read()
    assert page is not None
    assert page.whole

    shared.one.publish([("key", f"k{number}", 0.0, math.inf) for number in range(5 * PAGE)])
    page = shared.other.read()
    assert page is not None
    assert not page.whole
    assert len(page.items) == 2 * PAGE
    again = shared.other.read()
    assert again is not None
    assert not again.whole


# A Redis that has lost what it had.


def test_a_redis_that_was_emptied_is_noticed(shared: Shared) -> None:
    shared.one.publish([TOKEN])
    read(shared.other)

    shared.redis.flush()
    assert loses(shared.other) == []
    assert read(shared.other) == []


def test_a_redis_that_was_emptied_and_has_new_entries_is_noticed(shared: Shared) -> None:
    shared.one.publish([TOKEN])
    read(shared.other)

    shared.redis.flush()
    shared.redis.now += 1
    shared.process().publish([USER])
    assert loses(shared.other) == [USER]


def test_a_redis_whose_clock_is_behind_the_one_of_before_is_noticed(shared: Shared) -> None:
    shared.one.publish([TOKEN])
    read(shared.other)

    shared.redis.flush()
    shared.redis.now -= 100 * HOUR
    shared.process().publish([USER])
    assert loses(shared.other) == [USER]


def test_a_redis_that_is_back_at_an_earlier_state_is_noticed_whatever_came_since(shared: Shared) -> None:
    shared.one.publish([token(1)])
    backup = copy.deepcopy(shared.redis.data)
    shared.one.publish([token(2)])
    read(shared.other)

    shared.redis.data = backup
    shared.redis.now += 1
    shared.process().publish([token(3)])
    assert loses(shared.other) == [token(1), token(3)]


def test_keys_that_are_gone_are_noticed_though_the_log_is_not(shared: Shared) -> None:
    shared.one.publish([KEY, TOKEN])
    read(shared.other)

    del shared.redis.data[KEYS]
    assert loses(shared.other) == [TOKEN]


@pytest.mark.parametrize("name", [LOG, KEYS])
def test_what_is_of_another_type_is_removed_and_counts_as_lost(shared: Shared, name: str) -> None:
    shared.one.publish([KEY, TOKEN])
    read(shared.other)

    shared.redis.data[name] = b"somebody else's"
    assert shared.other.read() is None
    assert loses(shared.other) == ([KEY] if name == LOG else [TOKEN])


def test_a_first_reading_of_an_empty_redis_is_no_loss(shared: Shared) -> None:
    assert read(shared.one) == []
    assert read(shared.one) == []


# A Redis that is away, or refuses.


@pytest.mark.parametrize(
    "error", [Unconnected("x"), TimedOut("x"), OSError("x")], ids=lambda e: type(e).__name__
)
def test_while_redis_is_away_nothing_is_read_or_published_and_then_all_of_it_is(
    shared: Shared, error: Exception
) -> None:
    shared.one.publish([TOKEN])
    read(shared.other)
    shared.one.publish([USER])
    shared.redis.error = error

    assert shared.other.read() is None
    assert shared.other.publish([KEY]) is False
    assert shared.other.claim() is False
    shared.redis.error = None
    shared.now += 1
    assert read(shared.other) == [USER]


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("x"), ReadOnlyError("x"), ResponseError("x")], ids=lambda e: type(e).__name__
)
def test_a_redis_that_refuses_to_write_is_read_all_the_same(shared: Shared, error: Exception) -> None:
    shared.one.publish([TOKEN])
    shared.redis.error, shared.redis.failing = error, "xadd"

    assert shared.other.publish([USER]) is False
    assert read(shared.other) == [TOKEN]


def test_what_failed_half_way_is_read_again(shared: Shared) -> None:
    read(shared.other)
    shared.one.publish([TOKEN, KEY])
    shared.redis.error, shared.redis.failing = Unconnected("x"), "hscan"
    assert shared.other.read() is None

    shared.redis.error = None
    shared.now += 1
    assert sorted(read(shared.other)) == sorted([TOKEN, KEY])


def test_a_request_waits_for_its_own_connections_and_nobody_else_does(shared: Shared) -> None:
    quick = FakeRedis()
    quick.data = shared.redis.data
    process = shared.process(requests=shared.guard(quick))

    assert process.publish([TOKEN], waited_for=True)
    assert (len(quick.trips), len(shared.redis.trips)) == (1, 0)
    assert process.publish([USER])
    assert read(process) == [TOKEN, USER]
    assert process.claim()
    assert len(quick.trips) == 1


# What is in Redis may be anything.

DAMAGED = [
    b"",
    b"keys ",
    b"key 0.0 inf k1",
    b"token 1.0 2.0 abc",
    b"token 1.0 2.0 " + b"G" * 64,
    b"token 1.0 2.0 " + DIGEST.encode() + b"\n",
    b"token 1.0 " + DIGEST.encode(),
    b"token -1.0 2.0 " + DIGEST.encode(),
    b"token 1e3 2.0 " + DIGEST.encode(),
    b"user nan 2.0 user:a",
    b"user 1.0 nan user:a",
    b"user 1.0 2.0 ",
    b"user 1.0 2.0 \xff",
    b"user 1.0 2.0 " + b"x" * (NAME_MOST + 1),
    b"user " + b"9" * 400 + b" 2.0 user:a",
    "user 1.0 \u0662.0 user:a".encode(),
]


@pytest.mark.parametrize("value", DAMAGED, ids=lambda value: repr(value[:24]))
def test_a_damaged_entry_is_left_out_and_what_is_behind_it_is_read(shared: Shared, value: bytes) -> None:
    shared.add(value)
    shared.one.publish([TOKEN])

    assert read(shared.other) == [TOKEN]


@pytest.mark.parametrize(
    ("field", "until"),
    [
        (b"", b"inf"),
        (b"k2", b""),
        (b"k2", b"-1"),
        (b"k2", b"nan"),
        (b"k2", b"1\n"),
        (b"\xff", b"inf"),
        (b"x" * 2000, b"1"),
    ],
)
def test_a_damaged_key_is_left_out_and_the_others_are_read(
    shared: Shared, field: bytes, until: bytes
) -> None:
    shared.one.publish([KEY])
    shared.redis.data[KEYS][field] = until

    assert read(shared.other) == [KEY]


def test_all_that_is_damaged_is_one_warning_that_shows_nothing_of_it(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    for value in DAMAGED:
        shared.add(value)
    shared.add(b"token", field=b"another")
    shared.redis.data[KEYS] = {b"secret": b"secret"}

    with caplog.at_level(logging.INFO):
        read(shared.one)
        read(shared.one)

    assert [record.getMessage() for record in caplog.records] == [
        "Redis at h:1: a damaged revocation is left out"
    ]


@given(
    st.lists(st.binary(max_size=80) | st.sampled_from(DAMAGED), max_size=4),
    st.dictionaries(st.binary(), st.binary()),
)
def test_no_entry_and_no_key_makes_a_reading_fail(values: list[bytes], keys: dict[bytes, bytes]) -> None:
    shared = Shared()
    for value in values:
        shared.add(value)
    shared.redis.data[KEYS] = keys
    shared.redis.of(LOG, [])

    for kind, name, before, until in read(shared.one):
        assert kind in ("token", "user", "key")
        assert 0 < len(name.encode("utf-8", "surrogatepass")) <= NAME_MOST
        assert before >= 0
        assert until >= 0


@pytest.mark.parametrize("ids", [[b"x"], [b"5-0", b"4-0"], [b"5-0", b"5-0"], [b"5-0", b""]])
def test_ids_that_do_not_ascend_end_the_reading_and_are_not_read_for_ever(
    shared: Shared, ids: list[bytes]
) -> None:
    entries = [(each, {b"r": b"user 1.0 2.0 a"}) for each in ids]
    answers = [entries[:1], entries] if len(ids) > 1 else [entries]
    given_ids = iter(answers)
    shared.redis._xrange = lambda *_, **__: next(given_ids)  # type: ignore[method-assign]

    if len(ids) > 1:
        read(shared.one)
    assert shared.one.read() is None


# Old entries, and the lock.


def test_what_is_older_than_25_hours_by_the_clock_of_redis_is_dropped_with_a_new_entry(
    shared: Shared,
) -> None:
    for number in (0, 1, 2):
        shared.one.publish([token(number)])
        read(shared.one)
        shared.redis.now += 13 * HOUR

    assert shared.redis.trimmed[1:] == [5_000 * HOUR - 25 * HOUR, 5_013 * HOUR - 25 * HOUR]
    shared.one.publish([token(3)])
    shared.one.publish([token(4)])
    assert read(shared.process()) == [token(1), token(2), token(3), token(4)]


def test_nothing_is_dropped_by_a_process_that_does_not_know_what_time_it_is_for_redis(shared: Shared) -> None:
    shared.one.publish([TOKEN])
    shared.one.publish([USER])

    assert shared.redis.trimmed == [None, None]


def test_one_process_at_a_time_has_the_lock_and_it_alone_has_it_again(shared: Shared) -> None:
    assert shared.one.claim() is True
    assert shared.other.claim() is False
    assert shared.one.claim() is True
    del shared.redis.data[LOCK]
    assert shared.other.claim() is True
    assert shared.one.claim() is False
