"""Slots: never more than there are, first come first served, and none is lost or doubled."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from main_api.policies.slots import Slots, wait_for


def never(_: threading.Lock, __: float) -> bool:
    raise AssertionError("nobody waits here")


def free(slots: Slots) -> int:
    """Count the free slots, by taking all and giving them back."""
    taken = 0
    while slots.take():
        taken += 1
    for _ in range(taken):
        slots.give_back()
    return taken


@pytest.mark.parametrize("size", [1, 2, 50])
def test_there_are_as_many_as_said(size: int) -> None:
    assert free(Slots(size, wait=never)) == size


def test_what_is_given_back_can_be_taken_again() -> None:
    slots = Slots(1, wait=never)

    for _ in range(3):
        assert slots.take()
        assert not slots.take()
        slots.give_back()


@pytest.mark.parametrize("seconds", [0.0, -0.1, -1e9])
def test_nobody_waits_who_has_no_time(seconds: float) -> None:
    slots = Slots(1, 5, wait=never)
    slots.take()

    assert not slots.take(seconds)


def test_nobody_waits_where_there_is_no_room_to_wait() -> None:
    slots = Slots(1, 0, wait=never)
    slots.take()

    assert not slots.take(10)


def test_who_finds_a_free_slot_does_not_wait() -> None:
    assert Slots(1, 5, wait=never).take(10)


def test_the_wait_is_as_long_as_said() -> None:
    waits: list[float] = []

    def wait(_: threading.Lock, seconds: float) -> bool:
        waits.append(seconds)
        return False

    slots = Slots(1, 5, wait)
    slots.take()
    slots.take(0.25)

    assert waits == [0.25]


def test_the_65th_waiter_is_refused_at_once() -> None:
    answers: list[bool] = []

    def wait(_: threading.Lock, __: float) -> bool:
        # Whoever waits has the next one come.
        answers.append(slots.take(1))
        return False

    slots = Slots(1, 64, wait)
    slots.take()
    assert not slots.take(1)

    # 64 waited, and the last of them saw one more refused without a wait.
    assert len(answers) == 64
    assert not any(answers)


def test_who_gave_up_waiting_makes_room_for_another() -> None:
    waited: list[float] = []

    def wait(_: threading.Lock, seconds: float) -> bool:
        waited.append(seconds)
        return False

    slots = Slots(1, 1, wait)
    slots.take()
    for _ in range(3):
        assert not slots.take(1)

    assert len(waited) == 3


def test_a_slot_that_comes_during_the_wait_is_had_once() -> None:
    def wait(turn: threading.Lock, _: float) -> bool:
        slots.give_back()
        return turn.acquire(blocking=False)

    slots = Slots(1, 1, wait)
    slots.take()

    assert slots.take(1)
    assert free(slots) == 0
    slots.give_back()
    assert free(slots) == 1


def test_a_slot_that_comes_when_the_wait_is_over_already_is_neither_lost_nor_doubled() -> None:
    def wait(_: threading.Lock, __: float) -> bool:
        slots.give_back()
        return False

    slots = Slots(1, 1, wait)
    slots.take()

    assert slots.take(1)
    assert free(slots) == 0
    slots.give_back()
    assert free(slots) == 1


def test_a_slot_that_comes_after_the_waiter_has_gone_is_free() -> None:
    slots = Slots(1, 1, lambda _, __: False)
    slots.take()
    assert not slots.take(1)

    slots.give_back()

    assert free(slots) == 1


def test_who_waits_behind_one_that_gave_up_gets_the_slot() -> None:
    order: list[str] = []

    def wait(turn: threading.Lock, _: float) -> bool:
        order.append("waits")
        if len(order) == 1:
            behind.start()
            assert waiting.acquire(timeout=10)
            return False
        waiting.release()
        return turn.acquire(timeout=10)

    waiting = threading.Semaphore(0)
    got: list[bool] = []
    slots = Slots(1, 2, wait)
    behind = threading.Thread(target=lambda: got.append(slots.take(1)))
    slots.take()
    assert not slots.take(1)
    slots.give_back()
    behind.join(10)

    assert got == [True]
    assert free(slots) == 0


def test_a_wait_that_breaks_off_leaves_nobody_behind_to_whom_a_slot_would_be_given() -> None:
    def wait(_: threading.Lock, __: float) -> bool:
        raise KeyboardInterrupt

    slots = Slots(1, 1, wait)
    slots.take()
    with pytest.raises(KeyboardInterrupt):
        slots.take(1)
    slots.give_back()

    assert free(slots) == 1


def test_a_wait_that_breaks_off_when_the_slot_has_come_gives_it_on() -> None:
    def wait(_: threading.Lock, __: float) -> bool:
        slots.give_back()
        raise KeyboardInterrupt

    slots = Slots(1, 1, wait)
    slots.take()
    with suppress(KeyboardInterrupt):
        slots.take(1)

    assert free(slots) == 1


def test_slots_are_handed_over_in_the_order_of_coming_and_nobody_overtakes() -> None:
    queued = threading.Semaphore(0)

    def wait(turn: threading.Lock, _: float) -> bool:
        queued.release()
        return turn.acquire(timeout=10)

    slots = Slots(1, 10, wait)
    served: queue.Queue[int] = queue.Queue()

    def come(number: int) -> None:
        assert slots.take(1)
        served.put(number)

    slots.take()
    threads = [threading.Thread(target=come, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
        assert queued.acquire(timeout=10)

    order = []
    for _ in threads:
        slots.give_back()
        assert not slots.take(), "somebody overtook those who wait"
        order.append(served.get(timeout=10))
    for thread in threads:
        thread.join(10)

    assert order == list(range(10))
    slots.give_back()
    assert free(slots) == 1


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize(("size", "seconds"), [(1, 10.0), (3, 10.0), (3, 0.0), (2, 1e-5)])
def test_never_more_are_inside_than_there_are_slots(size: int, seconds: float) -> None:
    slots = Slots(size, 32)
    together = threading.Barrier(32)
    counting = threading.Lock()
    inside = most = came = 0

    def many(_: int) -> None:
        nonlocal inside, most, came
        together.wait(10)
        for _ in range(60):
            if not slots.take(seconds):
                continue
            with counting:
                inside += 1
                came += 1
                most = max(most, inside)
            with counting:
                inside -= 1
            slots.give_back()

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(many, range(32)))

    assert most <= size
    assert free(slots) == size
    if seconds > 1:
        assert came == 32 * 60


@pytest.mark.parametrize("released", [True, False])
def test_the_ordinary_wait_says_whether_the_turn_came(released: bool) -> None:
    turn = threading.Lock()
    turn.acquire()
    if released:
        turn.release()

    assert wait_for(turn, 0.001) is released


class Waiter:
    """A thread in :meth:`Slots.take` whose wait ends when the test says so."""

    def __init__(self, slots: Slots, inbox: "queue.Queue[str]") -> None:
        self.commands: queue.Queue[bool] = queue.Queue()
        self.result: bool | None = None
        self._slots = slots
        self._inbox = inbox
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.waiter = self  # type: ignore[attr-defined]
        self.thread.start()

    def _run(self) -> None:
        self.result = self._slots.take(1.0)
        self._inbox.put("done")


class SlotsMachine(RuleBasedStateMachine):
    """Slots against a count and a list."""

    @initialize(size=st.integers(1, 3), room=st.integers(0, 3))
    def begin(self, size: int, room: int) -> None:
        self.inbox: queue.Queue[str] = queue.Queue()
        self.size, self.room = size, room
        self.slots = Slots(size, room, self.wait)
        self.inside = 0
        self.queued: list[Waiter] = []
        self.handed: list[Waiter] = []

    def wait(self, turn: threading.Lock, _: float) -> bool:
        waiter: Waiter = threading.current_thread().waiter  # type: ignore[attr-defined]
        self.inbox.put("waits")
        looks = waiter.commands.get(timeout=10)
        return looks and turn.acquire(blocking=False)

    @rule()
    def come(self) -> None:
        waiter = Waiter(self.slots, self.inbox)
        happened = self.inbox.get(timeout=10)
        if self.inside < self.size:
            assert (happened, waiter.result) == ("done", True)
            self.inside += 1
        elif len(self.queued) < self.room:
            assert happened == "waits"
            self.queued.append(waiter)
        else:
            assert (happened, waiter.result) == ("done", False)

    @rule()
    def come_without_time(self) -> None:
        assert self.slots.take() == (self.inside < self.size)
        self.inside = min(self.size, self.inside + 1)

    @precondition(lambda self: self.inside > len(self.handed))
    @rule()
    def leave(self) -> None:
        self.slots.give_back()
        if self.queued:
            self.handed.append(self.queued.pop(0))
        else:
            self.inside -= 1

    @precondition(lambda self: self.queued or self.handed)
    @rule(which=st.integers(0, 9), looks=st.booleans())
    def a_wait_ends(self, which: int, looks: bool) -> None:
        waiters = self.queued + self.handed
        waiter = waiters[which % len(waiters)]
        waiter.commands.put(looks)
        assert self.inbox.get(timeout=10) == "done"
        assert waiter.result == (waiter in self.handed)
        (self.handed if waiter in self.handed else self.queued).remove(waiter)

    @invariant()
    def never_too_many(self) -> None:
        if hasattr(self, "size"):
            assert 0 <= self.inside <= self.size
            assert self.slots.state() == (self.inside, len(self.queued))

    def teardown(self) -> None:
        if not hasattr(self, "size"):
            return
        for waiter in self.queued + self.handed:
            waiter.commands.put(True)
            waiter.thread.join(10)
        for _ in range(self.inside):
            self.slots.give_back()
        assert free(self.slots) == self.size


TestSlotsAgainstAModel = SlotsMachine.TestCase
TestSlotsAgainstAModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
