"""The store in Redis: names, values, expiries, and that nothing in Redis and no outage is ever an error."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import OutOfMemoryError

import main_api
from main_api.state.entries import VERSION, Entry, pack
from main_api.state.redis_guard import RedisGuard
from main_api.state.redis_store import RedisStore
from main_api.state.redis_values import MOST, VALUE_MOST, read, write
from tests.main_api.state.redis_fake import FakeRedis

NOW = 1_800_000_000.0
KEY = "auxiliary-service /aws/parameters?name=a%2Fb#"
ENTRY = Entry(
    status=200,
    headers=(("Content-Type", "application/json"), ("ETag", 'W/"1"'), ("X-Letters", "\xe4\t~")),
    body=b'{"success":true}',
    born=NOW - 1,
    lifetime=10.0,
    stale_if_error=300.0,
)
UNTAGGED = replace(ENTRY, headers=())


class Shared:
    """A store, the Redis behind it, and a clock to be moved."""

    def __init__(self) -> None:
        self.redis = FakeRedis()
        self.now = NOW
        self.store = self.another()

    def another(self, prefix: str = "main-api:cache") -> RedisStore:
        client: Any = self.redis
        return RedisStore(RedisGuard(client, "h:1", clock=lambda: self.now), prefix, lambda: self.now)

    def fill(self, *keys: str) -> None:
        for key in keys:
            assert self.store.put(key, ENTRY)

    def left(self, keys: tuple[str, ...]) -> set[str]:
        return {key for key in keys if self.store.get(key)}

    @property
    def name(self) -> bytes:
        [name] = self.redis.values
        return name


@pytest.fixture
def shared() -> Shared:
    return Shared()


def test_what_is_kept_is_given_by_every_store_of_the_same_prefix_and_no_other(shared: Shared) -> None:
    assert shared.store.get(KEY) is None
    assert shared.store.put(KEY, ENTRY) is True

    assert shared.store.get(KEY) == shared.another().get(KEY) == ENTRY
    assert shared.another("main-api:staging:cache").get(KEY) is None
    shared.store.drop(KEY)
    assert shared.another().get(KEY) is None


def test_the_clock_is_the_wall_clock() -> None:
    store = RedisStore(RedisGuard(FakeRedis(), "h:1"))  # type: ignore[arg-type]

    before = time.time()
    assert before <= store.now() <= time.time()


# Names.


def test_a_name_shows_the_path_and_nothing_of_the_query(shared: Shared) -> None:
    shared.fill(KEY)

    head, _, rest = shared.name.partition(b"?")
    assert head == b"main-api:cache:v%d:auxiliary-service /aws/parameters" % VERSION
    assert len(bytes.fromhex(rest.decode())) == 32


LONG = "x" * 10_000
DIFFERENT = (
    "s /a?q#",
    "s /a?q#scope",
    "s /a?r#",
    "s /b?q#",
    "t /a?q#",
    f"s /a?{LONG}#",
    f"s /a?{LONG}1#",
    f"s /{LONG}?#",
    f"s /{LONG}1?#",
    "s /\xe4\ud800?\xe4\ud800#",
    f"s /{'ä' * 80}?#",
)


def test_names_are_short_however_long_the_key_and_each_key_has_its_own(shared: Shared) -> None:
    store = shared.another("main-api:" + "e" * 32 + ":cache")
    for number, key in enumerate(DIFFERENT):
        assert store.put(key, replace(ENTRY, body=b"%d" % number))

    assert max(map(len, shared.redis.values)) < 300
    found = [store.get(key) for key in DIFFERENT]
    assert [entry and int(entry.body) for entry in found] == list(range(len(DIFFERENT)))


def test_no_path_can_be_chosen_to_have_the_name_of_a_longer_one(shared: Shared) -> None:
    shared.fill(f"s /{LONG}?#")
    shown = shared.name.partition(b"?")[0].split(b":")[-1].decode()

    assert shared.store.get(f"{shown}?#") is None


@pytest.mark.parametrize(
    ("prefix", "goes"),
    [
        ("s /a?", {"s /a?1", "s /a?2"}),
        ("s /a", {"s /a?1", "s /a?2", "s /ab?1", "s /a/b?1"}),
        ("s /a*", {"s /a*c?1"}),
        ("s /a*c?", {"s /a*c?1"}),
        ("s /[a]?", {"s /[a]?1"}),
        ("s /a\\?", {"s /a\\?1"}),
        ("s /none?", set()),
        (f"s /{LONG}?", {f"s /{LONG}?1"}),
        ("", None),
    ],
)
def test_all_of_a_prefix_goes_and_nothing_else(shared: Shared, prefix: str, goes: set[str] | None) -> None:
    keys = ("s /a?1", "s /a?2", "s /ab?1", "s /a/b?1", "s /a*c?1", "s /[a]?1", "s /a\\?1", f"s /{LONG}?1")
    keys += ("t /a?1", f"s /{LONG}1?1", "sa /a?1")
    if prefix == "s /a":
        goes = {key for key in keys if key.startswith("s /a")}
    goes = set(keys) if goes is None else goes
    shared.fill(*keys)
    shared.redis.values[b"of:somebody:else:s /a?1"] = b"x"

    assert shared.store.drop_all(prefix) == len(goes)

    assert shared.left(keys) == set(keys) - goes
    assert b"of:somebody:else:s /a?1" in shared.redis.values
    assert "KEYS" not in shared.redis.commands


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        ("", {0, 1, 2, 3, 4}),
        ("/aws", {0, 1, 2, 4}),
        ("/aws/parameters", {0, 1, 4}),
        ("/aws/parameters?", {0, 1}),
        ("aws", set()),
        ("/aws/parameters/" + LONG, {4}),
    ],
)
def test_a_purge_goes_by_the_path_of_every_service(shared: Shared, path: str, goes: set[int]) -> None:
    keys = ("s /aws/parameters?1", "t /aws/parameters?1", "s /aws/s3?1", "s /x /aws/parameters?1")
    keys += (f"s /aws/parameters/{LONG}?1",)
    shared.fill(*keys)

    assert shared.store.purge(path) == len(goes)

    assert shared.left(keys) == {key for number, key in enumerate(keys) if number not in goes}


# Expiries.


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({"lifetime": 10.0, "stale_if_error": 300.0}, 309),
        ({"lifetime": 1.2, "stale_if_error": 0.0}, 1),
        ({"lifetime": 2.2, "stale_if_error": 0.0}, 2),
        ({"lifetime": 2.0, "stale_if_error": 0.0}, 1),
        ({"lifetime": 1.0, "stale_if_error": 0.0}, None),
        ({"lifetime": 0.0, "stale_if_error": 0.5}, None),
        # What must be asked about always is of use as long as its tag is.
        ({"lifetime": 1.0, "stale_if_error": 0.0, "validate_always": True, "headers": ENTRY.headers}, 300),
        ({"lifetime": 0.0, "stale_if_error": 0.0, "headers": ENTRY.headers}, 300),
        ({"lifetime": 900.0, "validate_always": True, "headers": ENTRY.headers}, 1199),
        ({"lifetime": 1.0, "stale_if_error": 0.0, "validate_always": True}, None),
        ({"lifetime": 1.0, "stale_if_error": 0.0, "headers": ENTRY.headers}, None),
        # A clock that went back makes nothing younger than new.
        ({"born": NOW + 3600, "lifetime": 10.0, "stale_if_error": 0.0}, 10),
        ({"lifetime": 1e300}, 2**31),
    ],
)
def test_an_entry_stays_as_long_as_it_is_of_use(
    shared: Shared, change: dict[str, Any], seconds: int | None
) -> None:
    kept = shared.store.put(KEY, replace(UNTAGGED, **change))

    assert kept is (seconds is not None)
    assert list(shared.redis.expiries.values()) == ([] if seconds is None else [seconds])


@pytest.mark.parametrize(
    "worse", [replace(UNTAGGED, lifetime=0.0, stale_if_error=0.0), replace(ENTRY, body=os.urandom(MOST))]
)
def test_what_cannot_be_kept_leaves_nothing_older_in_its_place(shared: Shared, worse: Entry) -> None:
    shared.fill(KEY)

    assert shared.store.put(KEY, worse) is False
    assert shared.redis.values == {}


@pytest.mark.parametrize(("ahead", "found"), [(4.0, True), (6.0, False)])
def test_an_entry_of_a_clock_that_is_wrong_is_not_given_and_not_taken_from_the_others(
    shared: Shared, ahead: float, found: bool
) -> None:
    shared.store.put(KEY, replace(ENTRY, born=NOW + ahead))

    assert (shared.store.get(KEY) is not None) is found
    assert len(shared.redis.values) == 1


# Values.


@pytest.mark.parametrize("size", [0, 1, 1024, 5_000, 500_000])
@pytest.mark.parametrize("random", [False, True])
def test_a_value_of_any_size_comes_back_and_a_large_one_is_compressed_if_that_helps(
    size: int, random: bool
) -> None:
    entry = replace(ENTRY, body=os.urandom(size) if random else b"a" * size)
    value = write(entry)

    assert value is not None
    assert read(value) == entry
    packed = len(pack(entry))
    if packed <= 1024 or random:
        assert (value[0], len(value)) == (0, packed + 5)
    else:
        assert value[0] == 1
        assert len(value) < packed / 5


def largest_body() -> int:
    """Give the bytes of the largest body that fits; its own length, in digits, is part of an entry."""
    return next(size for size in range(MOST, 0, -1) if len(pack(replace(ENTRY, body=b"a" * size))) <= MOST)


def test_the_largest_is_of_one_mebibyte() -> None:
    room = largest_body()

    for body in (os.urandom(room), b"a" * room):
        value = write(replace(ENTRY, body=body))
        assert value is not None
        assert len(value) <= VALUE_MOST
        assert read(value) == replace(ENTRY, body=body)
        assert write(replace(ENTRY, body=body + b"a")) is None


def sealed(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + zlib.crc32(data).to_bytes(4, "big") + data


def facts(*changed: Any, at: int = 1, text: str | None = None) -> bytes:
    """Pack an entry with one of its facts changed."""
    given: list[Any] = [VERSION, 200, [["ETag", "1"]], NOW, 10.0, 300.0, False, False, 2]
    given[at : at + 1] = changed
    data = (text or json.dumps(given)).encode()
    return sealed(0, len(data).to_bytes(4, "big") + data + b"{}")


PACKED = pack(ENTRY)
WHOLE, SMALL = sealed(0, PACKED), sealed(1, zlib.compress(pack(replace(ENTRY, body=b"a" * 5000))))
DAMAGED = {
    "of somebody else": b"hello",
    "one byte": b"\x00",
    "no kind of ours": sealed(2, PACKED),
    "no checksum": b"\x00" + PACKED,
    "cut": WHOLE[:-1],
    "longer": WHOLE + b" ",
    "one bit": WHOLE[:-3] + bytes([WHOLE[-3] ^ 1]) + WHOLE[-2:],
    "not compressed": sealed(1, PACKED),
    "cut before it was sealed": sealed(1, zlib.compress(PACKED)[:-5]),
    "two in one": sealed(1, zlib.compress(PACKED) + zlib.compress(PACKED)),
    "nothing": sealed(0, b""),
    "larger than any": sealed(0, PACKED + b" " * MOST),
    "another version": facts(VERSION + 1, at=0),
    "no JSON": sealed(0, b"\x00\x00\x00\x02[]{}"),
    "deep": facts(text="[" * 100_000),
    "no status": facts(99),
    "an endless status": facts(float("inf")),
    "a huge number": facts(text=f"[{VERSION},200,[],1{'0' * 400},1,1,false,false,2]"),
    "a moment that is none": facts(float("nan"), at=3),
    "fresh for ever": facts(float("inf"), at=4),
    "stale for ever": facts(float("inf"), at=5),
    "a header of two lines": facts([["ETag", "1\r\nSet-Cookie: a=b"]], at=2),
    "a header of letters that HTTP has not": facts([["ETag", "\u20ac"]], at=2),
    "a header with an odd name": facts([["E Tag", "1"]], at=2),
    "a header without a name": facts([["", "1"]], at=2),
    "a list of another kind": [b"x"],
}


def test_what_damage_is_made_from_is_whole() -> None:
    assert read(WHOLE) == ENTRY
    assert read(facts(200)) is not None
    assert read(SMALL) is not None


def test_what_is_larger_than_any_is_not_read_even_if_it_is_whole() -> None:
    room = largest_body()

    assert read(sealed(0, pack(replace(ENTRY, body=b" " * room)))) is not None
    assert read(sealed(0, pack(replace(ENTRY, body=b" " * (room + 1))))) is None


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_damaged_is_a_miss_and_is_gone(shared: Shared, damage: str) -> None:
    shared.fill(KEY)
    shared.redis.values[shared.name] = DAMAGED[damage]  # type: ignore[assignment]

    assert shared.store.get(KEY) is None
    assert shared.redis.values == {}
    assert shared.store.put(KEY, ENTRY)
    assert shared.store.get(KEY) == ENTRY


def test_a_value_that_was_made_to_be_endless_takes_no_memory(shared: Shared) -> None:
    shared.fill(KEY)
    bomb = sealed(1, zlib.compress(b"\x00" * 50 * MOST))
    assert len(bomb) < MOST
    shared.redis.values[shared.name] = bomb
    tracemalloc.start()
    try:
        assert shared.store.get(KEY) is None
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert most < 5 * MOST
    assert shared.redis.values == {}


def test_of_a_value_that_is_larger_than_any_only_a_part_is_read(shared: Shared) -> None:
    shared.fill(KEY)
    shared.redis.values[shared.name] = WHOLE + bytes(5 * MOST)

    assert shared.store.get(KEY) is None
    assert shared.redis.largest_read == VALUE_MOST + 1


# Outages.


@pytest.mark.parametrize("error", [Unconnected("gone"), OutOfMemoryError("full")], ids=repr)
def test_a_redis_that_is_away_or_refuses_means_misses_and_no_errors(shared: Shared, error: Exception) -> None:
    shared.fill(KEY)
    shared.redis.error = error

    assert shared.store.get(KEY) is None
    assert shared.store.put(KEY, ENTRY) is False
    shared.store.drop(KEY)
    assert shared.store.drop_all("s /a?") == 0
    assert shared.store.purge() is None

    shared.redis.error = None
    shared.now += 1
    assert shared.store.get(KEY) == ENTRY
    assert shared.store.purge() == 1


def test_a_purge_that_is_broken_off_is_not_called_done(shared: Shared) -> None:
    shared.fill(*(f"s /{number}?" for number in range(20)))
    scan = shared.redis.scan

    def breaking(cursor: int, **options: Any) -> Any:
        if cursor > 5:
            raise Unconnected("gone")
        return scan(cursor, **options)

    shared.redis.scan = breaking  # type: ignore[method-assign]

    assert shared.store.purge() is None
    assert 0 < len(shared.redis.values) < 20


# What a gateway makes of the settings.


def test_the_library_is_loaded_only_where_it_is_used() -> None:
    program = (
        "import sys; from chassis.settings import load; from main_api.app import create_app;"
        "from main_api.settings import Settings; create_app(load(Settings, {'REDIS_URL': sys.argv[1]}));"
        "print('redis' in sys.modules)"
    )
    root = Path(main_api.__file__).parents[1]
    loaded = [
        subprocess.run(
            [sys.executable, "-c", program, url], cwd=root, check=True, capture_output=True, text=True
        ).stdout
        for url in ("", "redis://127.0.0.1:1")
    ]

    assert loaded == ["False\n", "True\n"]
