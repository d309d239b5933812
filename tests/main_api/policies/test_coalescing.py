"""Many who ask the same: one call, everyone's own deadline, one more try, and nothing left behind."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from main_api.errors import BrokenOff, GatewayTimeout, UpstreamUnavailable
from main_api.policies.coalescing import Flights
from tests.main_api.policies.fakes import Clock, until, waiting

# Longer than any test takes; where the clock is the real one, what hangs fails by it.
LONG = 20.0


class Asking:
    """The call of each asker: it ends when the test says so, and is counted."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._lock = threading.Lock()
        self._ends: dict[str, tuple[threading.Event, list[object]]] = {}

    def of(self, name: str) -> Callable[[], str]:
        event, outcome = self._ends.setdefault(name, (threading.Event(), []))

        def ask() -> str:
            with self._lock:
                self.begun.append(name)
            assert event.wait(10)
            if isinstance(outcome[0], BaseException):
                raise outcome[0]
            return str(outcome[0])

        return ask

    def end(self, name: str, outcome: object) -> None:
        event, outcomes = self._ends[name]
        outcomes.append(outcome)
        event.set()


class Party:
    """Askers of one key in threads of their own, who come one after the other."""

    def __init__(self, threads: ThreadPoolExecutor, clock: Callable[[], float]) -> None:
        self.flights: Flights[str] = Flights(clock)
        self.asking = Asking()
        self._threads = threads
        self._clock = clock

    def leads(self, name: str, deadline: float | None = None) -> "Future[tuple[str, bool]]":
        asked = self._come(name, deadline)
        until(lambda: name in self.asking.begun)
        return asked

    def waits(self, name: str, deadline: float | None = None) -> "Future[tuple[str, bool]]":
        before = waiting(self.flights)
        asked = self._come(name, deadline)
        until(lambda: waiting(self.flights) == before + 1)
        return asked

    def _come(self, name: str, deadline: float | None) -> "Future[tuple[str, bool]]":
        end = self._clock() + LONG if deadline is None else deadline
        return self._threads.submit(self.flights.share, "key", end, self.asking.of(name))


@contextmanager
def party(clock: Callable[[], float] | None = None) -> Iterator[Party]:
    with ThreadPoolExecutor(64) as threads:
        made = Party(threads, clock or monotonic)
        yield made
        assert len(made.flights) == 0


def test_who_asks_alone_gets_what_it_asked_for() -> None:
    flights: Flights[int] = Flights()

    assert flights.share("key", monotonic() + LONG, lambda: 1) == (1, False)
    assert flights.share("key", monotonic() + LONG, lambda: 2) == (2, False)
    assert len(flights) == 0


def test_a_call_that_gave_nothing_is_an_answer_too() -> None:
    with party() as all_:
        flights: Flights[str | None] = Flights()
        assert flights.share("key", monotonic() + LONG, lambda: None) == (None, False)
        first = all_.leads("a")
        second = all_.waits("b")
        all_.asking.end("a", "")
        assert (first.result(10), second.result(10)) == (("", False), ("", True))


@pytest.mark.parametrize("error", [BrokenOff(), ValueError("x"), KeyboardInterrupt(), SystemExit()])
def test_an_exception_of_who_asks_alone_goes_through_and_leaves_nothing(error: BaseException) -> None:
    flights: Flights[int] = Flights()

    def ask() -> int:
        raise error

    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            flights.share("key", monotonic() + LONG, ask)
        assert caught.value is error
        assert len(flights) == 0
    assert flights.share("key", monotonic() + LONG, lambda: 1) == (1, False)


def test_other_keys_do_not_wait() -> None:
    flights: Flights[int] = Flights()

    assert flights.share("a", monotonic() + LONG, lambda: 1 + flights.share("b", 0.0, lambda: 1)[0]) == (
        2,
        False,
    )
    assert len(flights) == 0


def test_who_comes_during_a_call_gets_its_outcome_and_who_comes_after_asks_anew() -> None:
    with party() as all_:
        first, others = all_.leads("a"), [all_.waits(name) for name in "bcd"]

        assert len(all_.flights) == 1
        all_.asking.end("a", "one")

        assert first.result(10) == ("one", False)
        assert [each.result(10) for each in others] == [("one", True)] * 3
        assert all_.asking.begun == ["a"]
        later = all_.leads("e")
        all_.asking.end("e", "two")
        assert later.result(10) == ("two", False)


@pytest.mark.parametrize("error", [BrokenOff(), GatewayTimeout(), ValueError("x"), SystemExit()])
def test_where_the_leader_fails_exactly_one_other_asks_and_all_have_its_answer(error: BaseException) -> None:
    with party() as all_:
        first = all_.leads("a")
        others = {name: all_.waits(name) for name in "bcde"}

        for name in others:
            all_.asking.end(name, name)
        all_.asking.end("a", error)

        with pytest.raises(type(error)) as caught:
            first.result(10)
        assert caught.value is error
        found = {name: each.result(10) for name, each in others.items()}
        [first_name, second_name] = all_.asking.begun
        assert first_name == "a"
        assert found == {name: (second_name, name != second_name) for name in "bcde"}


def test_where_the_second_fails_too_all_have_its_failure_and_nobody_asks_a_third_time() -> None:
    with party() as all_:
        first = all_.leads("a")
        others = {name: all_.waits(name) for name in "bcde"}

        failures = {name: UpstreamUnavailable(cause=name) for name in others}
        for name, failure in failures.items():
            all_.asking.end(name, failure)
        all_.asking.end("a", BrokenOff())

        with pytest.raises(BrokenOff):
            first.result(10)
        for each in others.values():
            with pytest.raises(UpstreamUnavailable) as caught:
                each.result(10)
            assert caught.value.cause == all_.asking.begun[1]
        assert len(all_.asking.begun) == 2


def test_an_end_of_the_process_as_the_second_failure_ends_only_the_second() -> None:
    with party() as all_:
        first = all_.leads("a")
        others = {name: all_.waits(name) for name in "bc"}
        for name in others:
            all_.asking.end(name, SystemExit())
        all_.asking.end("a", SystemExit())

        ends = [type(each.exception(10)) for each in (first, *others.values())]

    assert sorted(each.__name__ for each in ends) == ["GatewayTimeout", "SystemExit", "SystemExit"]


def test_who_comes_between_two_failures_has_the_outcome_of_the_second() -> None:
    with party() as all_:
        first, second = all_.leads("a"), all_.waits("b")
        all_.asking.end("a", BrokenOff())
        until(lambda: "b" in all_.asking.begun)
        third = all_.waits("c")
        all_.asking.end("b", "two")

        assert isinstance(first.exception(10), BrokenOff)
        assert (second.result(10), third.result(10)) == (("two", False), ("two", True))


def test_after_two_failures_the_next_asks_anew() -> None:
    with party() as all_:
        first, second = all_.leads("a"), all_.waits("b")
        all_.asking.end("a", BrokenOff())
        all_.asking.end("b", BrokenOff())
        assert [type(each.exception(10)) for each in (first, second)] == [BrokenOff, BrokenOff]

        third, fourth = all_.leads("c"), all_.waits("d")
        all_.asking.end("c", BrokenOff())
        all_.asking.end("d", "two")
        assert isinstance(third.exception(10), BrokenOff)
        assert fourth.result(10) == ("two", False)


def test_a_waiter_waits_to_its_own_deadline_and_the_call_goes_on() -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a")
        patient, hurried = all_.waits("b"), all_.waits("c", clock.now + 0.01)
        clock.now += 0.01

        assert isinstance(hurried.exception(10), GatewayTimeout)
        assert waiting(all_.flights) == 1
        all_.asking.end("a", "one")
        assert (first.result(10), patient.result(10)) == (("one", False), ("one", True))


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_who_comes_without_time_does_not_wait(late: float) -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a")
        with pytest.raises(GatewayTimeout):
            all_.flights.share("key", clock.now - late, all_.asking.of("b"))
        all_.asking.end("a", "one")
        assert first.result(10) == ("one", False)


def test_a_wait_ends_no_earlier_than_its_deadline() -> None:
    clock = Clock()
    with party(clock) as all_:
        first, second = all_.leads("a"), all_.waits("b", clock.now + 0.002)
        with pytest.raises(TimeoutError):
            # By its own clock there is time left, whatever the real one says.
            second.result(0.1)
        all_.asking.end("a", "one")
        assert (first.result(10), second.result(10)) == (("one", False), ("one", True))


def test_a_leader_that_fails_after_all_others_left_leaves_nothing() -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a")
        others = [all_.waits(name, clock.now + 0.01) for name in "bc"]
        clock.now += 1
        assert [type(each.exception(10)) for each in others] == [GatewayTimeout] * 2
        all_.asking.end("a", BrokenOff())
        assert isinstance(first.exception(10), BrokenOff)


def test_who_has_no_time_left_does_not_take_a_failed_leaders_place() -> None:
    """It could only fail at once, and as the second failure that would be everyone's."""
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a")
        hurried = all_.waits("b", clock.now + 500)
        # It wakes up by the failure, and its deadline has passed meanwhile.
        clock.now += 500
        all_.asking.end("b", "too late")
        all_.asking.end("a", BrokenOff())

        assert isinstance(first.exception(10), BrokenOff)
        assert isinstance(hurried.exception(10), GatewayTimeout)
        assert all_.asking.begun == ["a"]


@pytest.mark.usefixtures("switching")
def test_fifty_at_once_make_one_call_and_have_fifty_answers() -> None:
    flights: Flights[str] = Flights()
    together = threading.Barrier(50)
    calls: list[str] = []

    def ask() -> str:
        until(lambda: waiting(flights) == 49)
        calls.append("called")
        return "one"

    def come(_: int) -> tuple[str, bool]:
        together.wait(10)
        return flights.share("key", monotonic() + LONG, ask)

    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(come, range(50)))

    assert calls == ["called"]
    assert sorted(found) == [("one", False)] + [("one", True)] * 49
    assert len(flights) == 0


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("failures", [1, 2])
def test_fifty_at_once_make_two_calls_at_most_where_asking_fails(failures: int) -> None:
    flights: Flights[str] = Flights()
    together = threading.Barrier(50)
    calls: list[str] = []

    def ask() -> str:
        calls.append("called")
        until(lambda: waiting(flights) == 50 - len(calls))
        if len(calls) <= failures:
            raise BrokenOff
        return "one"

    def come(_: int) -> str:
        together.wait(10)
        try:
            return flights.share("key", monotonic() + LONG, ask)[0]
        except BrokenOff:
            return "failed"

    with ThreadPoolExecutor(50) as threads:
        found = sorted(threads.map(come, range(50)))

    assert len(calls) == 2
    assert found == (["failed"] + ["one"] * 49 if failures == 1 else ["failed"] * 50)
    assert len(flights) == 0


@pytest.mark.usefixtures("switching")
def test_whatever_comes_and_goes_at_once_nobody_is_left_waiting_and_nothing_is_left_behind() -> None:
    flights: Flights[str] = Flights()
    together = threading.Barrier(16)
    lock = threading.Lock()
    inside: dict[str, int] = {}
    most = 0

    def come(thread: int) -> int:
        nonlocal most
        ended = 0
        together.wait(10)
        for turn in range(25):
            key = f"key-{(thread + turn) % 2}"

            def ask(key: str = key, bad: bool = (thread * 5 + turn) % 3 == 0) -> str:
                nonlocal most
                with lock:
                    inside[key] = inside.get(key, 0) + 1
                    most = max(most, inside[key])
                with lock:
                    inside[key] -= 1
                if bad:
                    raise BrokenOff
                return key

            # Every fifth has no time to wait.
            with suppress(BrokenOff, GatewayTimeout):
                assert flights.share(key, 0.0 if turn % 5 == 0 else monotonic() + LONG, ask)[0] == key
            ended += 1
        return ended

    with ThreadPoolExecutor(16) as threads:
        coming = [threads.submit(come, number) for number in range(16)]
        assert [each.result(60) for each in coming] == [25] * 16

    assert most == 1
    assert len(flights) == 0
