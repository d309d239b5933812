"""The store of this process: never more than its size, the least recently used out first."""

import gc
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.state.entries import Entry, pack
from main_api.state.memory import MemoryStore

# What an entry of `entry("x")` under a key of one letter costs at least.
ONE = len(pack(Entry(status=200, headers=(), body=b"x", born=0.0, lifetime=60.0)))


def entry(body: str = "x") -> Entry:
    return Entry(status=200, headers=(), body=body.encode(), born=0.0, lifetime=60.0)


def cost_of(key: str, kept: Entry) -> int:
    """Find what an entry counts, by asking a store that has room for all."""
    store = MemoryStore(1 << 30)
    assert store.put(key, kept)
    return store.used


def body_of(store: MemoryStore, key: str) -> str | None:
    found = store.get(key)
    return None if found is None else found.body.decode()


def test_what_was_put_is_there_and_nothing_else() -> None:
    store = MemoryStore(1 << 20)

    assert store.put("a", entry("1"))
    assert store.get("a") == entry("1")
    assert store.get("b") is None


def test_a_new_answer_takes_the_place_and_the_room_of_the_old() -> None:
    store = MemoryStore(1 << 20)
    store.put("a", entry("old" * 100))

    assert store.put("a", entry("new"))

    assert body_of(store, "a") == "new"
    assert store.used == cost_of("a", entry("new"))


def test_key_and_place_are_counted_with_the_answer() -> None:
    assert cost_of("a", entry()) >= ONE + sys.getsizeof("a")
    assert cost_of("a" * 1000, entry()) - cost_of("a", entry()) == 999
    assert cost_of("a", entry("x" * 1999)) - cost_of("a", entry("x" * 1000)) == 999


def test_the_least_recently_used_goes_first() -> None:
    each = cost_of("a", entry())
    store = MemoryStore(8 * each)
    for key in "abcdefgh":
        assert store.put(key, entry())
    store.get("a")
    store.put("b", entry())
    store.get("nowhere")

    store.put("i", entry())
    store.put("j", entry())

    assert [key for key in "abcdefghij" if store.get(key) is not None] == list("abefghij")


def test_the_room_is_used_to_the_last_byte_and_not_beyond() -> None:
    each = cost_of("a", entry())
    store, less = MemoryStore(8 * each), MemoryStore(8 * each + each - 1)
    for key in "abcdefgh":
        store.put(key, entry())
        less.put(key, entry())

    assert store.used == 8 * each
    assert [key for key in "abcdefgh" if store.get(key) is None] == []
    less.put("i", entry())
    assert less.get("a") is None


def test_an_answer_of_an_eighth_is_kept_and_a_larger_one_is_not() -> None:
    size = 8 * 4096
    most = entry("x" * (1000 + size // 8 - cost_of("a", entry("x" * 1000))))
    more = entry(most.body.decode() + "x")
    store = MemoryStore(size)

    assert cost_of("a", most) == size // 8
    assert store.put("a", most)
    assert not store.put("b", more)
    assert store.get("b") is None


def test_one_large_answer_costs_the_others_nothing() -> None:
    store = MemoryStore(8 * 4096)
    for key in "abcdefgh":
        store.put(key, entry())
    before = store.used

    assert not store.put("large", entry("x" * 30_000))

    assert [key for key in "abcdefgh" if store.get(key) is None] == []
    assert store.used == before


def test_where_the_new_answer_is_too_large_the_old_one_is_not_given_any_longer() -> None:
    store = MemoryStore(8 * 4096)
    store.put("a", entry("old"))

    assert not store.put("a", entry("x" * 30_000))

    assert store.get("a") is None
    assert store.used == 0


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_store_without_room_keeps_nothing(size: int) -> None:
    store = MemoryStore(size)

    assert not store.put("a", entry())
    assert store.get("a") is None
    assert store.used == 0


def test_what_is_dropped_is_gone_once() -> None:
    store = MemoryStore(1 << 20)
    store.put("a", entry())
    store.put("b", entry())

    store.drop("a")
    store.drop("a")
    store.drop("nowhere")

    assert store.get("a") is None
    assert store.used == cost_of("b", entry())


def test_all_of_a_prefix_are_dropped_and_counted() -> None:
    store = MemoryStore(1 << 20)
    for key in ("s /a?", "s /a?x=1#b", "s /ab?", "t /a?", " s /a?"):
        store.put(key, entry())

    assert store.drop_all("s /a?") == 2
    assert store.drop_all("s /a?") == 0

    assert [key for key in ("s /a?", "s /a?x=1#b", "s /ab?", "t /a?", " s /a?") if store.get(key)] == [
        "s /ab?",
        "t /a?",
        " s /a?",
    ]
    assert store.used == sum(cost_of(key, entry()) for key in ("s /ab?", "t /a?", " s /a?"))


def test_the_moment_is_that_of_the_clock() -> None:
    assert MemoryStore(1, clock=lambda: 12.5).now() == 12.5


@pytest.mark.parametrize("length", [0, 100, 2000])
def test_the_process_grows_by_no_more_than_is_counted(length: int) -> None:
    size = 2_000_000
    store = MemoryStore(size)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1 + 3 * size // (length + 600)):
        store.put(f"service /path?number={number}#", entry("x" * length))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert size * 0.9 < store.used <= size
    assert grown <= size


class Obvious:
    """The same, slowly: a list in the order of use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: list[tuple[str, Entry]] = []

    def used(self) -> int:
        return sum(cost_of(key, kept) for key, kept in self.kept)

    def get(self, key: str) -> Entry | None:
        found = [pair for pair in self.kept if pair[0] == key]
        self.kept = [pair for pair in self.kept if pair[0] != key] + found
        return found[0][1] if found else None

    def put(self, key: str, kept: Entry) -> bool:
        self.drop_all(key, exact=True)
        if cost_of(key, kept) * 8 > self.size:
            return False
        self.kept.append((key, kept))
        while self.used() > self.size:
            self.kept.pop(0)
        return True

    def drop_all(self, prefix: str, *, exact: bool = False) -> int:
        before = len(self.kept)
        self.kept = [
            pair for pair in self.kept if not (pair[0] == prefix if exact else pair[0].startswith(prefix))
        ]
        return before - len(self.kept)


KEYS = st.sampled_from(["a", "aa", "ab", "b", "ba", "é", "c" * 40])
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "get", "drop", "drop_all"]), KEYS, st.integers(0, 700)),
    max_size=60,
)


@given(size=st.integers(0, 8000), steps=STEPS)
def test_it_does_what_an_obvious_one_does(size: int, steps: list[tuple[str, str, int]]) -> None:
    store, obvious = MemoryStore(size), Obvious(size)

    for action, key, length in steps:
        if action == "put":
            assert store.put(key, entry("x" * length)) == obvious.put(key, entry("x" * length))
        elif action == "get":
            assert store.get(key) == obvious.get(key)
        elif action == "drop":
            store.drop(key)
            obvious.drop_all(key, exact=True)
        else:
            assert store.drop_all(key) == obvious.drop_all(key)
        assert store.used == obvious.used() <= size

    # From the oldest on, so that asking changes nothing of what is compared.
    assert [store.get(key) for key, _ in list(obvious.kept)] == [kept for _, kept in obvious.kept]


@pytest.mark.usefixtures("switching")
def test_many_threads_leave_the_sum_of_what_is_there() -> None:
    store = MemoryStore(8 * 1500)
    together = threading.Barrier(8)
    keys = [f"{letter}{number}" for letter in "ab" for number in range(12)]
    over: list[int] = []

    def many(thread: int) -> None:
        together.wait(10)
        for turn in range(60):
            key = keys[(thread * 7 + turn * 5) % len(keys)]
            if turn % 20 == 19:
                store.drop_all("a")
            elif turn % 7 == 6:
                store.drop(key)
            else:
                store.put(key, entry("x" * (turn % 5 * 100)))
                found = store.get(key)
                assert found is None or set(found.body) <= set(b"x")
            if store.used > 8 * 1500 + 1500:
                over.append(store.used)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(many, range(8)))

    left = [(key, found) for key in keys if (found := store.get(key)) is not None]
    assert store.used == sum(cost_of(key, found) for key, found in left) <= 8 * 1500
    assert store.drop_all("") == len(left)
    assert store.used == 0
    assert over == []
