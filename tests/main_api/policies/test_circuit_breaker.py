"""The breaker: at which call it opens, for how long, how it comes back, and what it does not listen to."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from main_api.policies.circuit_breaker import (
    Breaker,
    BreakerSettings,
    Change,
    Snapshot,
    State,
    Verdict,
)
from tests.main_api.policies.fakes import ALMOST_ONE, Clock

GOOD, BAD, NEITHER = Verdict.SUCCESS, Verdict.FAILURE, Verdict.NOT_ITS_BUSINESS
GONE = Verdict.UNREACHABLE


class Watched:
    """A breaker, its clock, its chance, and what it told."""

    def __init__(self, *, random: float = 0.0, **numbers: Any) -> None:
        self.clock = Clock()
        self.random = random
        self.changes: list[Change] = []
        self.breaker = Breaker(
            BreakerSettings(**numbers), self.changes.append, clock=self.clock, random=lambda: self.random
        )

    @property
    def state(self) -> State:
        return self.breaker.state

    def ends(self, *verdicts: Verdict) -> None:
        """Make a call for each of ``verdicts``, one after the other."""
        for each in verdicts:
            ticket = self.breaker.admit()
            assert ticket is not None, "it was not let through"
            self.breaker.record(ticket, each)

    def open(self, last: Verdict = BAD) -> float:
        """Open a closed one; give the seconds."""
        assert self.state is State.CLOSED
        self.ends(*[BAD] * 4, last)
        assert self.state is State.OPEN
        return self.breaker.wait()

    def wait_out(self) -> None:
        """Let its time be over."""
        self.clock.now += self.breaker.wait()

    def reopen(self) -> float:
        """Let the time be over and have the next call fail; give the seconds that come now."""
        self.wait_out()
        self.ends(BAD)
        assert self.state is State.OPEN
        return self.breaker.wait()

    def come_back(self) -> None:
        """Let the time be over and close it."""
        self.wait_out()
        self.ends(GOOD, GOOD, GOOD)
        assert self.state is State.CLOSED

    def turns(self) -> list[tuple[State, State]]:
        return [(each.before, each.after) for each in self.changes]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("failure_rate", 0.0),
        ("failure_rate", 1.01),
        ("failure_rate", float("nan")),
        ("minimum_calls", 0),
        ("failures_in_a_row", 0),
        ("half_open_calls", 0),
        ("window", 0.0),
        ("window", float("nan")),
        ("open_seconds", 0.0),
        ("healthy_seconds", -1.0),
        ("open_most", 4.9),
        ("open_most", float("nan")),
    ],
)
def test_a_wrong_number_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        BreakerSettings(**{field: value})  # type: ignore[arg-type]


def test_numbers_at_their_ends_are_allowed() -> None:
    BreakerSettings(failure_rate=1.0, minimum_calls=1, failures_in_a_row=1, half_open_calls=1, open_most=5.0)


def test_it_begins_closed_and_lets_all_through() -> None:
    watched = Watched()

    assert watched.state is State.CLOSED
    assert watched.breaker.wait() == 0
    assert all(watched.breaker.admit() is not None for _ in range(1000))


def test_it_opens_at_exactly_five_failures_in_a_row() -> None:
    watched = Watched()

    watched.ends(*[BAD] * 4)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN
    assert watched.breaker.admit() is None
    assert [each.reason for each in watched.changes] == ["5 failures in a row"]


@pytest.mark.parametrize("verdicts", [[GONE] * 5, [BAD, GONE] * 2 + [BAD], [GONE, BAD] * 2 + [GONE]])
def test_one_that_cannot_be_reached_is_ill_like_any_other(verdicts: list[Verdict]) -> None:
    watched = Watched()

    watched.ends(*verdicts[:4])
    assert watched.state is State.CLOSED
    watched.ends(verdicts[4])

    assert watched.state is State.OPEN


def test_the_share_counts_both_kinds_of_failure() -> None:
    watched = Watched()

    watched.ends(*[GOOD, BAD, GOOD, GONE] * 4, GOOD, GONE, GOOD)
    assert watched.state is State.CLOSED
    watched.ends(GONE)

    assert watched.state is State.OPEN


def test_a_check_that_reaches_it_ends_an_ejection_for_being_unreachable() -> None:
    watched = Watched()
    watched.open(GONE)
    watched.clock.now += 1

    watched.breaker.reachable()

    assert watched.state is State.HALF_OPEN
    assert watched.breaker.wait() == 0
    assert [(each.before, each.after) for each in watched.changes[1:]] == [(State.OPEN, State.HALF_OPEN)]
    # The calls decide, and there are as many as ever.
    assert [watched.breaker.admit() is not None for _ in range(4)] == [True, True, True, False]


def test_after_that_a_failure_opens_it_for_twice_as_long_and_three_successes_close_it() -> None:
    watched = Watched()
    watched.open(GONE)
    watched.breaker.reachable()
    watched.ends(GONE)
    assert watched.breaker.wait() == 10

    watched.breaker.reachable()
    watched.ends(GOOD, GOOD, GOOD)
    assert watched.state is State.CLOSED


@pytest.mark.parametrize("later", [0.0, 4.9, 5.0, 1000.0])
def test_a_check_ends_no_ejection_for_another_reason(later: float) -> None:
    watched = Watched()
    watched.ends(*[GONE] * 4, BAD)
    watched.clock.now += later

    watched.breaker.reachable()

    assert watched.state is State.OPEN
    assert len(watched.changes) == 1


def test_what_counts_is_what_opened_it_last() -> None:
    watched = Watched()
    watched.open(GONE)
    watched.reopen()
    watched.breaker.reachable()
    assert watched.state is State.OPEN

    watched.wait_out()
    watched.ends(GONE)
    assert watched.state is State.OPEN
    watched.breaker.reachable()
    assert watched.state is State.HALF_OPEN


def test_a_check_changes_nothing_while_it_is_closed_or_half_open() -> None:
    watched = Watched()
    watched.ends(*[GONE] * 4)
    watched.breaker.reachable()
    assert watched.state is State.CLOSED
    watched.ends(GONE)
    watched.breaker.reachable()
    for _ in range(3):
        watched.breaker.admit()
    watched.breaker.reachable()

    assert watched.state is State.HALF_OPEN
    assert watched.breaker.admit() is None
    assert len(watched.changes) == 2


def test_a_call_of_before_the_check_is_dropped() -> None:
    watched = Watched()
    early = watched.breaker.admit()
    watched.open(GONE)
    watched.breaker.reachable()

    assert early is not None
    watched.breaker.record(early, BAD)

    assert watched.state is State.HALF_OPEN


def test_a_success_breaks_the_row_and_what_is_not_its_business_does_not() -> None:
    watched = Watched()

    watched.ends(*[BAD] * 4, GOOD, *[BAD] * 4, NEITHER)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_a_row_is_a_row_however_long_it_takes() -> None:
    watched = Watched()

    for _ in range(4):
        watched.ends(BAD)
        watched.clock.now += 100
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_it_opens_at_exactly_the_twentieth_call_of_which_half_failed() -> None:
    watched = Watched()

    watched.ends(*[GOOD, BAD] * 9, GOOD)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN
    assert [each.reason for each in watched.changes] == ["10 of 20 calls failed"]


def test_below_the_least_number_of_calls_it_never_opens_by_the_share() -> None:
    watched = Watched(failures_in_a_row=1000)

    watched.ends(*[BAD] * 19)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_a_call_that_succeeded_opens_nothing_whatever_the_share() -> None:
    watched = Watched()

    watched.ends(*[BAD, GOOD] * 10)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_below_half_it_does_not_open() -> None:
    watched = Watched()

    watched.ends(GOOD, GOOD, *[BAD, GOOD] * 200)

    assert watched.state is State.CLOSED


@pytest.mark.parametrize(
    ("rate", "failures", "calls"), [(0.5, 10, 20), (0.55, 11, 20), (0.07, 7, 100), (0.28, 7, 25)]
)
def test_it_opens_at_exactly_the_share(rate: float, failures: int, calls: int) -> None:
    watched = Watched(failure_rate=rate, minimum_calls=calls, failures_in_a_row=1000)

    watched.ends(*[GOOD] * (calls - failures), *[BAD] * (failures - 1))
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_what_is_not_its_business_does_not_count_as_a_call() -> None:
    watched = Watched()

    watched.ends(*[NEITHER] * 100, *[GOOD, BAD] * 9, NEITHER, GOOD)
    assert watched.state is State.CLOSED
    watched.ends(BAD)

    assert watched.state is State.OPEN


def test_what_is_older_than_the_window_does_not_count() -> None:
    watched = Watched()

    watched.ends(*[GOOD, BAD] * 9)
    watched.clock.now += 10
    watched.ends(GOOD, BAD)
    assert watched.state is State.CLOSED

    # The same within the window.
    watched = Watched()
    watched.ends(*[GOOD, BAD] * 9)
    watched.clock.now += 9
    watched.ends(GOOD, BAD)
    assert watched.state is State.OPEN


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 5.0), (0.5, 4.75), (ALMOST_ONE, 4.5)])
def test_it_is_open_for_five_seconds_less_up_to_a_tenth(random: float, seconds: float) -> None:
    watched = Watched(random=random)

    assert watched.open() == pytest.approx(seconds)
    assert watched.changes[0].open_for == pytest.approx(seconds)
    begun = watched.clock.now
    watched.clock.now = begun + seconds - 0.001
    assert watched.breaker.admit() is None
    assert watched.breaker.wait() > 0
    watched.clock.now = begun + seconds + 0.001
    assert watched.breaker.wait() == 0
    assert watched.breaker.admit() is not None


def test_the_moment_it_is_over_a_call_goes_through() -> None:
    watched = Watched()
    watched.open()

    watched.clock.now += 5

    assert watched.breaker.wait() == 0
    assert watched.state is State.OPEN
    assert watched.breaker.admit() is not None
    assert watched.state is State.HALF_OPEN


@pytest.mark.parametrize("random", [0.0, ALMOST_ONE])
def test_each_time_it_opens_again_it_is_for_twice_as_long_and_a_minute_at_most(random: float) -> None:
    watched = Watched(random=random)
    share = 1 - 0.1 * random

    seconds = [watched.open(), *(watched.reopen() for _ in range(6))]

    assert seconds == pytest.approx([each * share for each in (5, 10, 20, 40, 60, 60, 60)])


def test_it_never_grows_beyond_all_bounds() -> None:
    watched = Watched(open_most=1e300)
    watched.open()

    for _ in range(2000):
        watched.reopen()

    assert watched.breaker.wait() <= 1e300


@pytest.mark.parametrize(("closed_for", "seconds"), [(0.0, 10.0), (59.9, 10.0), (60.0, 5.0), (1000.0, 5.0)])
def test_after_a_healthy_minute_it_begins_with_five_seconds_again(closed_for: float, seconds: float) -> None:
    watched = Watched()
    watched.open()
    watched.come_back()

    watched.clock.now += closed_for

    assert watched.open() == seconds


def test_the_healthy_minute_counts_from_when_it_closed_and_not_from_the_failure() -> None:
    watched = Watched()
    watched.open()
    watched.clock.now += 1000
    watched.come_back()
    watched.clock.now += 59
    watched.ends(GOOD, NEITHER, BAD, GOOD)

    assert watched.open() == 10
    assert watched.reopen() == 20


def test_one_that_opened_anew_after_a_healthy_minute_doubles_from_there() -> None:
    watched = Watched()
    watched.open()
    watched.reopen()
    watched.come_back()
    watched.clock.now += 60

    assert [watched.open(), watched.reopen()] == [5, 10]


def test_half_open_it_lets_exactly_three_through() -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()

    tickets = [watched.breaker.admit() for _ in range(5)]

    assert [each is not None for each in tickets] == [True, True, True, False, False]
    assert watched.breaker.wait() == 1


def test_it_closes_when_all_three_have_succeeded_and_not_before() -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()

    watched.ends(GOOD, GOOD)
    assert watched.state is State.HALF_OPEN
    watched.ends(GOOD)

    assert watched.state is State.CLOSED
    assert watched.breaker.wait() == 0
    assert watched.turns() == [
        (State.CLOSED, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.CLOSED),
    ]


def test_two_that_succeeded_make_no_room_for_more_than_the_third() -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()
    watched.ends(GOOD, GOOD)

    assert watched.breaker.admit() is not None
    assert watched.breaker.admit() is None


@pytest.mark.parametrize("before", [(), (GOOD,), (GOOD, GOOD), (NEITHER, GOOD)])
def test_the_first_failure_while_half_open_opens_it(before: tuple[Verdict, ...]) -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()

    watched.ends(*before, BAD)

    assert watched.state is State.OPEN
    assert watched.breaker.admit() is None


def test_what_is_not_its_business_gives_its_place_back_and_decides_nothing() -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()

    watched.ends(*[NEITHER] * 50)
    assert watched.state is State.HALF_OPEN
    tickets = [watched.breaker.admit() for _ in range(4)]
    assert [each is not None for each in tickets] == [True, True, True, False]
    assert tickets[0] is not None
    watched.breaker.record(tickets[0], NEITHER)
    assert watched.breaker.wait() == 0
    assert watched.breaker.admit() is not None
    assert watched.breaker.admit() is None


def test_closed_again_it_remembers_no_failure_of_before() -> None:
    watched = Watched()
    watched.open()
    watched.come_back()

    watched.ends(*[BAD] * 4)

    assert watched.state is State.CLOSED


def test_closed_again_it_counts_no_call_of_before() -> None:
    watched = Watched(half_open_calls=1)
    watched.ends(*[GOOD, BAD] * 10)
    watched.wait_out()
    watched.ends(GOOD)
    assert watched.state is State.CLOSED

    watched.ends(BAD)

    assert watched.state is State.CLOSED


def test_a_success_of_before_the_opening_does_not_close_it() -> None:
    watched = Watched(half_open_calls=1)
    early = watched.breaker.admit()
    assert early is not None
    watched.open()
    watched.breaker.record(early, GOOD)
    assert watched.state is State.OPEN

    watched.wait_out()
    ticket = watched.breaker.admit()
    watched.breaker.record(early, GOOD)
    assert watched.state is State.HALF_OPEN
    assert ticket is not None
    watched.breaker.record(ticket, GOOD)
    assert watched.state is State.CLOSED


def test_a_failure_of_before_neither_lengthens_nor_reopens() -> None:
    watched = Watched()
    early = [watched.breaker.admit() for _ in range(20)]
    watched.open()
    watched.clock.now += 1
    for each in early[:10]:
        assert each is not None
        watched.breaker.record(each, BAD)
    assert watched.breaker.wait() == 4

    watched.wait_out()
    assert watched.breaker.admit() is not None
    for each in early[10:]:
        assert each is not None
        watched.breaker.record(each, BAD)

    assert watched.state is State.HALF_OPEN
    assert len(watched.changes) == 2


def test_what_is_not_its_business_of_before_gives_back_no_place_of_now() -> None:
    watched = Watched()
    early = watched.breaker.admit()
    watched.open()
    watched.wait_out()
    for _ in range(3):
        watched.breaker.admit()

    assert early is not None
    watched.breaker.record(early, NEITHER)

    assert watched.breaker.admit() is None


def test_a_half_open_call_that_ends_after_the_next_opening_is_dropped() -> None:
    watched = Watched(half_open_calls=2)
    watched.open()
    watched.wait_out()
    late, failed = watched.breaker.admit(), watched.breaker.admit()
    assert late is not None
    assert failed is not None
    watched.breaker.record(failed, BAD)
    seconds = watched.breaker.wait()
    watched.breaker.record(late, BAD)
    assert watched.breaker.wait() == seconds

    watched.wait_out()
    watched.breaker.admit()
    watched.breaker.record(late, GOOD)
    watched.breaker.record(late, NEITHER)
    assert watched.breaker.admit() is not None
    assert watched.breaker.admit() is None
    assert watched.state is State.HALF_OPEN


def test_while_the_clock_stands_still_it_stays_open_and_works_otherwise() -> None:
    watched = Watched()
    watched.ends(*[GOOD] * 15)
    watched.open()

    assert [watched.breaker.admit() for _ in range(3)] == [None, None, None]
    assert watched.breaker.wait() == 5
    assert watched.state is State.OPEN


@pytest.mark.parametrize("late", [0.0, 0.5, 1e6, 1e12])
def test_the_wait_is_never_negative(late: float) -> None:
    watched = Watched()
    watched.open()
    watched.clock.now += 5 + late

    assert watched.breaker.wait() == 0


def test_a_glance_changes_nothing() -> None:
    watched = Watched()
    watched.open()
    watched.wait_out()

    for _ in range(10):
        watched.breaker.wait()

    assert watched.state is State.OPEN
    assert [watched.breaker.admit() is not None for _ in range(4)] == [True, True, True, False]


def test_every_change_is_told_once_and_outside_the_lock() -> None:
    asked: list[tuple[State, State, float, bool]] = []
    clock = Clock()

    def changed(change: Change) -> None:
        # From another thread: it would wait for ever for a lock that is held.
        admitted: list[int | None] = []
        thread = threading.Thread(target=lambda: admitted.append(breaker.admit()), daemon=True)
        thread.start()
        thread.join(5)
        assert admitted, "the lock was held"
        breaker.record(-1, BAD)
        breaker.reachable()
        asked.append((change.after, breaker.state, breaker.wait(), admitted != [None]))

    breaker = Breaker(BreakerSettings(), changed, clock=clock, random=lambda: 0.0)

    def ends(verdict: Verdict, times: int) -> None:
        for _ in range(times):
            ticket = breaker.admit()
            assert ticket is not None
            breaker.record(ticket, verdict)

    ends(BAD, 5)
    clock.now += 5
    # The one that asked from within has a place too.
    ticket = breaker.admit()
    assert ticket is not None
    breaker.record(ticket, BAD)
    assert asked == [
        (State.OPEN, State.OPEN, 5.0, False),
        (State.HALF_OPEN, State.HALF_OPEN, 0.0, True),
        (State.OPEN, State.OPEN, 10.0, False),
    ]


def test_that_a_check_reached_it_is_told_outside_the_lock_too() -> None:
    told: list[State] = []

    def changed(change: Change) -> None:
        told.append(change.after)
        thread = threading.Thread(target=breaker.reachable, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), "the lock was held"

    breaker = Breaker(BreakerSettings(failures_in_a_row=1), changed, clock=Clock(), random=lambda: 0.0)
    ticket = breaker.admit()
    assert ticket is not None
    breaker.record(ticket, GONE)

    # The one that the listener itself let back is told of first, from its own thread.
    assert told == [State.OPEN, State.HALF_OPEN]


def test_a_listener_that_breaks_costs_no_place_for_ever() -> None:
    clock = Clock()

    def changed(change: Change) -> None:
        if change.after is State.HALF_OPEN:
            raise OSError("no space left on device")

    breaker = Breaker(BreakerSettings(), changed, clock=clock, random=lambda: 0.0)
    for _ in range(5):
        ticket = breaker.admit()
        assert ticket is not None
        breaker.record(ticket, BAD)
    clock.now += 5
    with suppress(OSError):
        ticket = breaker.admit()
        assert ticket is not None
        breaker.record(ticket, GOOD)

    for _ in range(3):
        clock.now += 100
        ticket = breaker.admit()
        if ticket is not None:
            breaker.record(ticket, GOOD)

    assert breaker.state is State.CLOSED


@pytest.mark.usefixtures("switching")
def test_there_is_never_a_fourth_call_while_half_open() -> None:
    watched = Watched()
    watched.open()
    admitted: list[int] = []
    rounds: list[int] = []

    def next_round() -> None:
        if admitted:
            rounds.append(len(admitted))
            watched.breaker.record(admitted[0], BAD)
            admitted.clear()
        watched.wait_out()

    together = threading.Barrier(16, action=next_round)

    def ask() -> None:
        for _ in range(300):
            together.wait(10)
            ticket = watched.breaker.admit()
            if ticket is not None:
                admitted.append(ticket)
        together.wait(10)

    with ThreadPoolExecutor(16) as threads:
        for each in [threads.submit(ask) for _ in range(16)]:
            each.result(30)

    assert rounds == [3] * 300
    assert len(watched.changes) == 1 + 2 * 300


def test_what_is_shown_of_a_breaker_follows_it_from_its_making_to_its_return() -> None:
    watched = Watched(random=0.5)
    made = watched.clock.now
    assert watched.breaker.snapshot() == Snapshot(State.CLOSED, None, made, 0, 0, 0, 0, None)

    watched.ends(GOOD, BAD, NEITHER, BAD)
    assert watched.breaker.snapshot() == Snapshot(State.CLOSED, None, made, 2, 3, 2, 0, None)

    watched.clock.now += 1
    opened = watched.clock.now
    watched.ends(BAD, BAD, GONE)
    why = "5 failures in a row"
    shown = Snapshot(State.OPEN, why, opened, 5, 6, 5, 1, opened + 4.75)
    assert watched.breaker.snapshot() == shown

    # Nobody has asked it since: it is open, and its next attempt is in the past.
    watched.clock.now += 100
    assert watched.breaker.snapshot() == shown

    tried = watched.clock.now
    watched.ends(BAD)
    why = "a call failed while half-open"
    assert watched.breaker.snapshot() == Snapshot(State.OPEN, why, tried, 6, 1, 1, 2, tried + 9.5)

    watched.wait_out()
    half_open = watched.clock.now
    watched.ends(GOOD, GOOD)
    shown = Snapshot(State.HALF_OPEN, "its time is over", half_open, 0, 2, 0, 2, None)
    assert watched.breaker.snapshot() == shown

    watched.clock.now += 1
    watched.ends(GOOD)
    closed = watched.clock.now
    shown = Snapshot(State.CLOSED, "3 calls succeeded", closed, 0, 0, 0, 2, None)
    assert watched.breaker.snapshot() == shown


def test_that_a_check_reached_it_is_shown_as_the_reason() -> None:
    watched = Watched()
    watched.open(GONE)
    watched.clock.now += 2

    watched.breaker.reachable()

    shown = watched.breaker.snapshot()
    assert (shown.state, shown.why) == (State.HALF_OPEN, "a health check reached it")
    assert (shown.since, shown.failures_in_a_row, shown.next_attempt) == (watched.clock.now, 5, None)


def test_what_left_the_window_is_no_longer_shown() -> None:
    watched = Watched()
    watched.ends(GOOD, BAD)
    watched.clock.now += 60

    shown = watched.breaker.snapshot()

    assert (shown.calls, shown.failures, shown.failures_in_a_row) == (0, 0, 1)


class Model:
    """What a breaker is to do, in the plainest words: everything is kept and counted anew each time."""

    def __init__(self, numbers: BreakerSettings, now: float) -> None:
        self.numbers = numbers
        self.state = State.CLOSED
        self.age = 0
        self.ended: list[tuple[float, bool]] = []
        self.places: list[str] = []
        self.closed_since = now
        self.times_opened = 0
        self.until = 0.0
        self.gone = False
        self.turns: list[State] = []
        self.since = now
        self.row = 0
        self.opened_by: tuple[int, int] = (0, 0)

    def turn(self, state: State, now: float) -> None:
        self.state = state
        self.turns.append(state)
        self.since = now
        self.age += 1
        self.ended = []
        self.places = []

    def open(self, now: float, random: float, gone: bool) -> None:
        if self.state is State.CLOSED and now - self.closed_since >= self.numbers.healthy_seconds:
            self.times_opened = 0
        seconds = self.numbers.open_seconds
        for _ in range(self.times_opened):
            seconds = min(seconds * 2, self.numbers.open_most)
        self.times_opened += 1
        self.until = now + seconds * (1 - random / 10)
        self.gone = gone
        if self.state is State.CLOSED:
            self.opened_by = self.counted(now)
        else:
            self.opened_by = self.places.count("succeeded") + 1, 1
        self.turn(State.OPEN, now)

    def reachable(self, now: float) -> None:
        if self.state is State.OPEN and self.gone:
            self.turn(State.HALF_OPEN, now)

    def counted(self, now: float) -> tuple[int, int]:
        if self.state is State.OPEN:
            return self.opened_by
        if self.state is State.HALF_OPEN:
            return self.places.count("succeeded"), 0
        step = self.numbers.window / 10
        recent = [failed for when, failed in self.ended if int(now / step) - int(when / step) < 10]
        return len(recent), sum(recent)

    def admit(self, now: float) -> int | None:
        if self.state is State.OPEN and now >= self.until:
            self.turn(State.HALF_OPEN, now)
        if self.state is State.OPEN:
            return None
        if self.state is State.HALF_OPEN:
            if len(self.places) == self.numbers.half_open_calls:
                return None
            self.places.append("under way")
        return self.age

    def record(self, ticket: int, verdict: Verdict, now: float, random: float) -> None:
        if ticket != self.age:
            return
        if verdict is not NEITHER:
            self.row = 0 if verdict is GOOD else self.row + 1
        if self.state is State.HALF_OPEN:
            self.places.remove("under way")
            if verdict in (BAD, GONE):
                self.open(now, random, verdict is GONE)
            elif verdict is GOOD:
                self.places.append("succeeded")
                if self.places == ["succeeded"] * self.numbers.half_open_calls:
                    self.closed_since = now
                    self.turn(State.CLOSED, now)
        elif verdict is not NEITHER:
            self.ended.append((now, verdict in (BAD, GONE)))
            # A call that succeeded opens nothing.
            if verdict in (BAD, GONE) and self.ill(now):
                self.open(now, random, verdict is GONE)

    def ill(self, now: float) -> bool:
        row = self.numbers.failures_in_a_row
        if len(self.ended) >= row and all(failed for _, failed in self.ended[-row:]):
            return True
        calls, failures = self.counted(now)
        return calls >= self.numbers.minimum_calls and failures / calls >= self.numbers.failure_rate


SETTINGS = (
    BreakerSettings(),
    BreakerSettings(minimum_calls=4, failures_in_a_row=100, half_open_calls=2),
    BreakerSettings(minimum_calls=2, failures_in_a_row=3, half_open_calls=1, failure_rate=0.75),
    BreakerSettings(minimum_calls=100, failures_in_a_row=2, open_most=20.0),
)


class BreakerMachine(RuleBasedStateMachine):
    """The breaker against the model, calls beginning and ending in any order."""

    @initialize(numbers=st.sampled_from(SETTINGS))
    def begin(self, numbers: BreakerSettings) -> None:
        self.clock = Clock()
        self.random = 0.0
        self.told: list[Change] = []
        self.breaker = Breaker(numbers, self.told.append, clock=self.clock, random=lambda: self.random)
        self.model = Model(numbers, self.clock.now)
        self.under_way: list[tuple[int, int]] = []

    @rule(times=st.integers(1, 6))
    def calls_begin(self, times: int) -> None:
        for _ in range(times):
            ticket, expected = self.breaker.admit(), self.model.admit(self.clock.now)
            assert (ticket is None) == (expected is None)
            if ticket is not None and expected is not None:
                self.under_way.append((ticket, expected))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 30), verdict=st.sampled_from(Verdict), random=st.floats(0, 0.999))
    def a_call_ends(self, which: int, verdict: Verdict, random: float) -> None:
        self.ends(self.under_way.pop(which % len(self.under_way)), verdict, random)

    @precondition(lambda self: self.under_way)
    @rule(verdict=st.sampled_from(Verdict))
    def all_end(self, verdict: Verdict) -> None:
        while self.under_way:
            self.ends(self.under_way.pop(0), verdict, 0.5)

    @rule(verdicts=st.lists(st.sampled_from([GOOD, BAD, GONE]), min_size=1, max_size=12))
    def calls_one_after_the_other(self, verdicts: list[Verdict]) -> None:
        for each in verdicts:
            ticket, expected = self.breaker.admit(), self.model.admit(self.clock.now)
            assert (ticket is None) == (expected is None)
            if ticket is not None and expected is not None:
                self.ends((ticket, expected), each, 0.0)

    def ends(self, tickets: tuple[int, int], verdict: Verdict, random: float) -> None:
        self.random = random
        self.breaker.record(tickets[0], verdict)
        self.model.record(tickets[1], verdict, self.clock.now, random)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 9.0, 10.0, 59.5, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.model.state is State.OPEN)
    @rule(early=st.sampled_from([0.0, 0.001]))
    def its_time_is_over_or_nearly(self, early: float) -> None:
        self.clock.now = max(self.clock.now, self.model.until - early)

    @rule()
    def a_check_reaches_it(self) -> None:
        self.breaker.reachable()
        self.model.reachable(self.clock.now)

    @invariant()
    def what_is_shown_is_what_happened(self) -> None:
        if not hasattr(self, "model"):
            return
        shown, model = self.breaker.snapshot(), self.model
        assert shown.state is model.state
        assert shown.since == model.since
        assert shown.why == (self.told[-1].reason if self.told else None)
        assert shown.failures_in_a_row == model.row
        assert (shown.calls, shown.failures) == model.counted(self.clock.now)
        assert shown.opened == model.turns.count(State.OPEN)
        expected = pytest.approx(model.until) if model.state is State.OPEN else None
        assert shown.next_attempt == expected

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.breaker.state is self.model.state
        assert [each.after for each in self.told] == self.model.turns
        assert all(a.after is b.before for a, b in zip(self.told, self.told[1:], strict=False))
        wait = self.breaker.wait()
        if self.model.state is State.OPEN:
            assert wait == pytest.approx(max(0.0, self.model.until - self.clock.now))
        elif self.model.state is State.HALF_OPEN:
            assert (wait > 0) == (len(self.model.places) == self.model.numbers.half_open_calls)
        else:
            assert wait == 0


TestBreakerAgainstAModel = BreakerMachine.TestCase
TestBreakerAgainstAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
