"""The order of what is kept: by when it was asked for, and nothing from before a change after it."""

import itertools
import select
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from main_api.policies.invalidation import Invalidation, Reading


class Shelf:
    """What was kept, by key; ``put`` and ``drop`` make what is to be done for it."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.done: list[int] = []

    def put(self, key: str, value: int, gives: bool | None = True) -> Callable[[], bool | None]:
        def store() -> bool | None:
            self.kept[key] = value
            self.done.append(value)
            return gives

        return store

    def drop(self, key: str) -> Callable[[], None]:
        def forget() -> None:
            self.kept.pop(key, None)

        return forget


class Held:
    """Something to do that says when it is begun, and lasts until it is let go."""

    def __init__(self, do: Callable[[], bool | None]) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self._do = do

    def __call__(self) -> bool | None:
        self.begun.set()
        assert self.go.wait(10)
        return self._do()


def others_go_on(turns: int) -> None:
    for _ in range(turns):
        select.select((), (), (), 0)


def held_by(reading: Reading) -> bool:
    return reading.of_key.storing.locked()


def test_an_undisturbed_reading_is_kept() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as reading:
        assert invalidation.keep(reading, shelf.put("a", 1)) is True
        assert not reading.overtaken

    assert shelf.kept == {"a": 1}
    assert not held_by(reading)


def test_one_reading_may_keep_twice() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as reading:
        assert invalidation.keep(reading, shelf.put("a", 1))
        assert invalidation.keep(reading, shelf.put("a", 2))

    assert shelf.kept == {"a": 2}


@pytest.mark.parametrize("gives", [None, False])
def test_a_store_that_did_not_keep_is_told_so_and_still_overtakes_the_older(gives: bool | None) -> None:
    """It may have forgotten something instead, which an older answer must not bring back."""
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as older, invalidation.reading("a") as newer:
        assert invalidation.keep(newer, shelf.put("a", 2, gives)) is False
        assert shelf.done == [2]
        assert older.overtaken
        assert invalidation.keep(older, shelf.put("a", 1)) is False

    assert shelf.done == [2]


def test_a_change_overtakes_all_that_are_under_way_and_forgets_after_that() -> None:
    invalidation, shelf = Invalidation(), Shelf()
    seen: list[list[bool]] = []

    with invalidation.reading("a") as first, invalidation.reading("a") as second:
        invalidation.keep(first, shelf.put("a", 1))

        def forget() -> None:
            seen.append([first.overtaken, second.overtaken])
            shelf.drop("a")()

        invalidation.change("a".__eq__, forget)

        assert seen == [[True, True]]
        assert shelf.kept == {}
        assert invalidation.keep(first, shelf.put("a", 1)) is False
        assert invalidation.keep(second, shelf.put("a", 2)) is False

    assert shelf.done == [1]


def test_a_change_forgets_once_also_where_nothing_is_under_way() -> None:
    invalidation = Invalidation()
    forgotten: list[str] = []

    invalidation.change("a".__eq__, lambda: forgotten.append("a"))

    assert forgotten == ["a"]


def test_who_begins_after_a_change_is_not_overtaken_by_it() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as before:
        invalidation.change("a".__eq__, shelf.drop("a"))
        with invalidation.reading("a") as after:
            assert invalidation.keep(after, shelf.put("a", 2))
        assert invalidation.keep(before, shelf.put("a", 1)) is False

    assert shelf.kept == {"a": 2}


def test_a_change_of_another_key_overtakes_nothing() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as one, invalidation.reading("b") as other:
        invalidation.change("b".__eq__, shelf.drop("b"))

        assert invalidation.keep(one, shelf.put("a", 1))
        assert invalidation.keep(other, shelf.put("b", 2)) is False

    assert shelf.kept == {"a": 1}


def test_a_change_overtakes_every_key_that_is_wanted() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with ExitStack() as blocks:
        readings = {key: blocks.enter_context(invalidation.reading(key)) for key in ("/p?1", "/p?2", "/pp?")}
        invalidation.change(lambda key: key.startswith("/p?"), lambda: None)
        kept = [key for key, each in readings.items() if invalidation.keep(each, shelf.put(key, 1))]

    assert kept == ["/pp?"]


def test_what_a_forgetting_fails_with_goes_through_and_the_older_stay_overtaken() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    def forget() -> None:
        raise OSError("gone")

    with invalidation.reading("a") as reading:
        with pytest.raises(OSError, match="gone"):
            invalidation.change("a".__eq__, forget)
        assert invalidation.keep(reading, shelf.put("a", 1)) is False


def test_who_keeps_overtakes_those_that_began_before_it_and_not_those_after_it() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with ExitStack() as blocks:
        first, second, third, fourth = (blocks.enter_context(invalidation.reading("a")) for _ in range(4))
        other = blocks.enter_context(invalidation.reading("b"))
        assert invalidation.keep(third, shelf.put("a", 3))
        assert [each.overtaken for each in (first, second, third, fourth, other)] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert invalidation.keep(second, shelf.put("a", 2)) is False
        assert shelf.kept == {"a": 3}
        assert invalidation.keep(fourth, shelf.put("a", 4))

    assert shelf.done == [3, 4]


def test_a_newer_one_overtakes_the_older_also_when_it_has_ended_before_them() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as older:
        with invalidation.reading("a") as newer:
            invalidation.keep(newer, shelf.put("a", 2))
        assert invalidation.keep(older, shelf.put("a", 1)) is False

    assert shelf.kept == {"a": 2}


def test_an_older_one_that_is_first_to_keep_does_not_hinder_the_newer() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as older, invalidation.reading("a") as newer:
        assert invalidation.keep(older, shelf.put("a", 1))
        assert invalidation.keep(newer, shelf.put("a", 2))

    assert shelf.done == [1, 2]


def test_a_newer_one_that_keeps_nothing_does_not_hinder_the_older() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with invalidation.reading("a") as older:
        with invalidation.reading("a"):
            pass
        assert invalidation.keep(older, shelf.put("a", 1))


def test_who_is_overtaken_overtakes_nobody() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with ExitStack() as blocks:
        first, second = (blocks.enter_context(invalidation.reading("a")) for _ in range(2))
        second.overtaken = True
        assert invalidation.keep(second, shelf.put("a", 2)) is False
        assert invalidation.keep(first, shelf.put("a", 1))


def test_a_store_that_fails_overtakes_nobody_and_leaves_the_key_free() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    def store() -> bool:
        raise OSError("no room")

    with invalidation.reading("a") as older, invalidation.reading("a") as newer:
        with pytest.raises(OSError, match="no room"):
            invalidation.keep(newer, store)
        assert not held_by(newer)
        assert [older.overtaken, newer.overtaken] == [False, False]
        assert invalidation.keep(older, shelf.put("a", 1))
        assert invalidation.keep(newer, shelf.put("a", 2))


def test_nothing_is_left_behind() -> None:
    invalidation = Invalidation()

    with invalidation.reading("a"):
        assert len(invalidation) == 1
        with invalidation.reading("a"), invalidation.reading("b"):
            assert len(invalidation) == 2
        assert len(invalidation) == 1
        invalidation.change("a".__eq__, lambda: None)
        assert len(invalidation) == 1

    assert len(invalidation) == 0


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit()])
def test_nothing_is_left_behind_by_a_block_that_fails(error: BaseException) -> None:
    invalidation = Invalidation()

    with invalidation.reading("b"):
        with pytest.raises(type(error)) as caught, invalidation.reading("a"):
            raise error
        assert len(invalidation) == 1

    assert caught.value is error
    assert len(invalidation) == 0


def test_a_change_during_a_keeping_waits_for_it_and_forgets_what_it_kept() -> None:
    invalidation, shelf = Invalidation(), Shelf()
    store, asked, forgotten = Held(shelf.put("a", 1)), threading.Event(), threading.Event()

    def wanted(key: str) -> bool:
        asked.set()
        return key == "a"

    def forget() -> None:
        forgotten.set()
        shelf.drop("a")()

    with ThreadPoolExecutor(2) as threads, invalidation.reading("a") as reading:
        keeping = threads.submit(invalidation.keep, reading, store)
        assert store.begun.wait(10)
        changing = threads.submit(invalidation.change, wanted, forget)
        assert asked.wait(10)
        # It would have been done by now, had it not to wait.
        assert not forgotten.wait(0.02)
        overtaken = [reading.overtaken]
        store.go.set()

        assert keeping.result(10) is True
        changing.result(10)
        assert [*overtaken, reading.overtaken] == [False, True]

    assert shelf.done == [1]
    assert shelf.kept == {}


def test_of_two_that_keep_at_once_the_newer_stays() -> None:
    invalidation, shelf = Invalidation(), Shelf()

    with ThreadPoolExecutor(2) as threads, ExitStack() as blocks:
        older, newer = (blocks.enter_context(invalidation.reading("a")) for _ in range(2))
        store = Held(shelf.put("a", 2))
        first = threads.submit(invalidation.keep, newer, store)
        assert store.begun.wait(10)
        second = threads.submit(invalidation.keep, older, shelf.put("a", 1))
        with pytest.raises(TimeoutError):
            second.result(0.02)
        store.go.set()

        assert (first.result(10), second.result(10)) == (True, False)

    assert shelf.done == [2]


def test_other_keys_do_not_wait_for_a_keeping() -> None:
    invalidation, shelf = Invalidation(), Shelf()
    store = Held(shelf.put("a", 1))

    with ThreadPoolExecutor(2) as threads, invalidation.reading("a") as reading:
        keeping = threads.submit(invalidation.keep, reading, store)
        assert store.begun.wait(10)

        def others() -> bool:
            with invalidation.reading("a"), invalidation.reading("b") as other:
                kept = invalidation.keep(other, shelf.put("b", 2))
                invalidation.change("b".__eq__, shelf.drop("b"))
                return kept

        assert threads.submit(others).result(10) is True
        assert not keeping.done()
        store.go.set()
        assert keeping.result(10) is True

    assert shelf.done == [2, 1]


KEYS = ("a", "b")
# What is done, which of the readings or keys it is about, and what storing gives.
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "keep", "keep", "change", "end"]),
        st.integers(0, 5),
        st.sampled_from([True, True, None, False]),
    ),
    max_size=40,
)


class Known:
    """The model's reading: its key, its place in the order, and what happened to that key since it began."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.number = number
        self.changes = 0
        self.kept_since: list[int] = []

    @property
    def may_be_kept(self) -> bool:
        return not self.changes and all(each <= self.number for each in self.kept_since)


class Both:
    """The model and the real one, to which the same is done."""

    def __init__(self) -> None:
        self.invalidation = Invalidation()
        self.shelf = Shelf()
        self.expected: dict[str, int] = {}
        self.under_way: list[tuple[Known, Reading, ExitStack]] = []
        self._numbers = itertools.count()

    def begin(self, which: int) -> None:
        key, block = KEYS[which % 2], ExitStack()
        reading = block.enter_context(self.invalidation.reading(key))
        self.under_way.append((Known(key, next(self._numbers)), reading, block))

    def change(self, which: int) -> None:
        keys = [KEYS[:1], KEYS[1:], KEYS][which % 3]
        for known in self._known(keys):
            known.changes += 1
        for key in keys:
            self.expected.pop(key, None)
        self.invalidation.change(keys.__contains__, lambda: [self.shelf.drop(key)() for key in keys])

    def end(self, which: int) -> None:
        if self.under_way:
            _, _, block = self.under_way.pop(which % len(self.under_way))
            block.close()

    def keep(self, which: int, gives: bool | None) -> None:
        if not self.under_way:
            return
        own, reading, _ = self.under_way[which % len(self.under_way)]
        may = own.may_be_kept
        kept = self.invalidation.keep(reading, self.shelf.put(own.key, own.number, gives))
        assert kept is (may and gives is True)
        if may:
            self.expected[own.key] = own.number
            for known in self._known((own.key,)):
                known.kept_since.append(own.number)

    def compare(self) -> None:
        assert self.shelf.kept == self.expected
        for known, reading, _ in self.under_way:
            assert reading.overtaken is not known.may_be_kept
        assert len(self.invalidation) == len({known.key for known, _, _ in self.under_way})

    def _known(self, keys: Iterable[str]) -> list[Known]:
        return [known for known, _, _ in self.under_way if known.key in keys]


@given(DEEDS)
@settings(deadline=None, database=None, max_examples=150)
def test_no_sequence_tells_it_from_the_model(deeds: list[tuple[str, int, bool | None]]) -> None:
    both = Both()

    for deed, which, gives in deeds:
        if deed == "keep":
            both.keep(which, gives)
        else:
            getattr(both, deed)(which)
        both.compare()

    for _ in list(both.under_way):
        both.end(0)
        both.compare()


@pytest.mark.usefixtures("switching")
def test_whatever_is_read_and_changed_at_once_nothing_from_before_a_change_is_kept_after_it() -> None:
    invalidation, shelf, lock = Invalidation(), Shelf(), threading.Lock()
    together = threading.Barrier(8)
    values, forgotten = dict.fromkeys(KEYS, 0), dict.fromkeys(KEYS, 0)
    kept: list[bool] = []

    def read(key: str, turn: int) -> None:
        with invalidation.reading(key) as reading:
            value = values[key]
            others_go_on(turn % 3 * 20)
            store = shelf.put(key, value)

            def store_slowly() -> bool | None:
                others_go_on(turn % 2 * 20)
                gave = store()
                assert value >= forgotten[key]
                return gave

            kept.append(invalidation.keep(reading, store_slowly))

    def change(key: str) -> None:
        with lock:
            values[key] = value = values[key] + 1
        invalidation.change(key.__eq__, shelf.drop(key))
        with lock:
            forgotten[key] = max(forgotten[key], value)
        assert shelf.kept.get(key, value) >= value

    def come(thread: int) -> None:
        together.wait(10)
        for turn in range(60):
            key = KEYS[turn % 2]
            if (thread + turn) % 4:
                read(key, turn)
            else:
                change(key)

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(come, number) for number in range(8)]:
            each.result(60)

    assert any(kept)
    assert all(value == values[key] for key, value in shelf.kept.items())
    assert len(invalidation) == 0


@pytest.mark.usefixtures("switching")
def test_of_many_that_read_at_once_the_last_to_begin_that_kept_stays() -> None:
    invalidation, shelf = Invalidation(), Shelf()
    together = threading.Barrier(8)
    kept: list[int] = []

    def read() -> None:
        with invalidation.reading("a") as reading:
            together.wait(10)
            if invalidation.keep(reading, shelf.put("a", reading.number)):
                kept.append(reading.number)

    with ThreadPoolExecutor(8) as threads:
        for turn in range(10):
            for each in [threads.submit(read) for _ in range(8)]:
                each.result(60)
            assert shelf.kept == {"a": 8 * turn + 7}
            assert shelf.done == sorted(shelf.done)
            assert max(kept) == 8 * turn + 7

    assert len(invalidation) == 0
