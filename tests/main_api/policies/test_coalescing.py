"""Many who ask the same: one call, everyone's own deadline, one more try, and nothing left behind."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from main_api.errors import BrokenOff, GatewayError, GatewayTimeout, ServiceRefused, UpstreamUnavailable
from main_api.policies.coalescing import Flights
from tests.main_api.policies.fakes import Clock, error_of, kinds_of_error, until, waiting

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

    def give_up(self) -> None:
        for name in list(self._ends):
            self.end(name, AssertionError("the test has failed"))


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
        try:
            yield made
        except BaseException:
            # Else it would be known only when all threads have waited for as long as they may.
            made.asking.give_up()
            raise
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


def test_who_comes_after_a_parting_asks_anew_and_who_waits_already_gets_the_older_outcome() -> None:
    with party() as all_:
        first, second = all_.leads("a"), all_.waits("b")
        all_.flights.part("key".__eq__)
        third, fourth = all_.leads("c"), all_.waits("d")
        all_.asking.end("c", "new")
        all_.asking.end("a", "old")

        assert (third.result(10), fourth.result(10)) == (("new", False), ("new", True))
        assert (first.result(10), second.result(10)) == (("old", False), ("old", True))
        assert all_.asking.begun == ["a", "c"]


def test_who_waits_for_what_was_parted_leads_in_a_failed_ones_place() -> None:
    with party() as all_:
        first, second = all_.leads("a"), all_.waits("b")
        all_.flights.part("key".__eq__)
        all_.asking.end("a", BrokenOff())
        until(lambda: "b" in all_.asking.begun)
        assert len(all_.flights) == 0
        all_.asking.end("b", "two")

        assert isinstance(first.exception(10), BrokenOff)
        assert second.result(10) == ("two", False)


@pytest.mark.parametrize(
    "outcomes",
    [
        ["one"],
        [BrokenOff()],
        [BrokenOff(), "two"],
        [BrokenOff(), BrokenOff()],
        [BrokenOff(), BrokenOff(), "for which nobody asks"],
    ],
    ids=["success", "failure", "failure, success", "two failures", "two failures, and another waits"],
)
def test_the_end_of_what_was_parted_does_not_end_the_newer_one(outcomes: list[object]) -> None:
    with party() as all_:
        older = [all_.leads("a")] + [all_.waits("b") for _ in outcomes[1:]]
        all_.flights.part("key".__eq__)
        newer = all_.leads("c")
        for name, outcome in zip("ab", outcomes, strict=False):
            all_.asking.end(name, outcome)
        for each in older:
            each.exception(10)

        assert len(all_.flights) == 1
        joined = all_.waits("d")
        all_.asking.end("c", "new")
        assert (newer.result(10), joined.result(10)) == (("new", False), ("new", True))


def test_the_last_to_give_up_what_was_parted_does_not_end_the_newer_one() -> None:
    clock = Clock()
    with party(clock) as all_:
        first, hurried = all_.leads("a"), all_.waits("b", clock.now + 5)
        all_.flights.part("key".__eq__)
        newer = all_.leads("c")
        clock.now += 5
        all_.asking.end("a", BrokenOff())
        assert [type(each.exception(10)) for each in (first, hurried)] == [BrokenOff, GatewayTimeout]

        assert len(all_.flights) == 1
        all_.asking.end("c", "new")
        assert newer.result(10) == ("new", False)


def test_only_the_wanted_keys_are_parted() -> None:
    flights: Flights[str] = Flights()

    def inside() -> str:
        flights.part(lambda key: key.startswith("/p?"))
        assert len(flights) == 1
        # Who has no time to wait shows whether there is something to wait for.
        assert flights.share("/p?1", 0.0, lambda: "new") == ("new", False)
        assert flights.share("/p?2", 0.0, lambda: "new") == ("new", False)
        with pytest.raises(GatewayTimeout):
            flights.share("/pp?", 0.0, lambda: "new")
        return "old"

    end = monotonic() + LONG
    found = flights.share(
        "/p?1",
        end,
        lambda: flights.share("/p?2", end, lambda: flights.share("/pp?", end, inside)[0])[0],
    )

    assert found == ("old", False)
    assert len(flights) == 0


def test_landings_are_another_number_after_a_success_and_the_same_after_a_failure() -> None:
    flights: Flights[int] = Flights()

    def ask() -> int:
        return flights.landings("key")

    before = flights.landings("key")
    for error in (BrokenOff(), SystemExit()):
        with pytest.raises(type(error)):
            flights.share("key", monotonic() + LONG, failing_with(error))
    assert flights.landings("key") == before

    numbers = [before]
    for _ in range(3):
        # It is the same one until the end.
        assert flights.share("key", monotonic() + LONG, ask) == (numbers[-1], False)
        numbers.append(flights.landings("key"))
    assert len(set(numbers)) == 4


def failing_with(error: BaseException) -> Callable[[], int]:
    def ask() -> int:
        raise error

    return ask


def test_the_landing_of_a_second_and_of_what_was_parted_counts_too() -> None:
    with party() as all_:
        numbers = [all_.flights.landings("key")]
        first, second = all_.leads("a"), all_.waits("b")
        all_.asking.end("a", BrokenOff())
        assert isinstance(first.exception(10), BrokenOff)
        assert all_.flights.landings("key") == numbers[0]
        all_.asking.end("b", "two")
        second.result(10)
        numbers.append(all_.flights.landings("key"))

        third = all_.leads("c")
        all_.flights.part("key".__eq__)
        all_.asking.end("c", "three")
        third.result(10)
        numbers.append(all_.flights.landings("key"))

    assert len(set(numbers)) == 3


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_a_leader_that_ran_out_of_time_has_failed_for_itself_alone(late: float) -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a", clock.now + 5)
        others = {name: all_.waits(name) for name in "bc"}
        clock.now += 5 + late
        all_.asking.end("a", GatewayTimeout())
        until(lambda: len(all_.asking.begun) == 2)
        all_.asking.end(all_.asking.begun[1], BrokenOff())
        until(lambda: len(all_.asking.begun) == 3)
        all_.asking.end(all_.asking.begun[2], "three")

        assert isinstance(first.exception(10), GatewayTimeout)
        assert isinstance(others[all_.asking.begun[1]].exception(10), BrokenOff)
        assert others[all_.asking.begun[2]].result(10) == ("three", False)


def test_however_many_run_out_of_time_it_takes_two_other_failures_to_end_it_for_all() -> None:
    clock = Clock()
    with party(clock) as all_:
        first, second = all_.leads("a", clock.now + 5), all_.waits("b", clock.now + 6)
        clock.now += 5
        all_.asking.end("a", GatewayTimeout())
        until(lambda: "b" in all_.asking.begun)
        others = {name: all_.waits(name) for name in "cde"}
        clock.now += 1
        for name in others:
            all_.asking.end(name, UpstreamUnavailable(cause=name))
        all_.asking.end("b", GatewayTimeout())

        assert [type(each.exception(10)) for each in (first, second)] == [GatewayTimeout] * 2
        failures = {name: each.exception(10) for name, each in others.items()}
        third, fourth = all_.asking.begun[2:]
        causes = {
            name: each.cause for name, each in failures.items() if isinstance(each, UpstreamUnavailable)
        }
        assert causes == dict.fromkeys(others, fourth) | {third: third}


@pytest.mark.parametrize(
    ("error", "passed"),
    [(GatewayTimeout(), 4.75), (BrokenOff(), 5.0), (ValueError("x"), 6.0)],
    ids=["a timeout before its deadline", "another failure at its deadline", "another after it"],
)
def test_any_other_failure_of_a_leader_counts(error: Exception, passed: float) -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a", clock.now + 5)
        others = {name: all_.waits(name) for name in "bc"}
        clock.now += passed
        for name in others:
            all_.asking.end(name, UpstreamUnavailable(cause=name))
        all_.asking.end("a", error)

        assert first.exception(10) is error
        assert [type(each.exception(10)) for each in others.values()] == [UpstreamUnavailable] * 2
        assert len(all_.asking.begun) == 2


def test_where_a_waiter_ran_out_of_time_before_its_leader_failed_nothing_is_left_for_the_next_to_join() -> (
    None
):
    clock = Clock()
    with party(clock) as all_:
        first, hurried = all_.leads("a"), all_.waits("b", clock.now + 5)
        clock.now += 5
        all_.asking.end("a", BrokenOff())
        assert [type(each.exception(10)) for each in (first, hurried)] == [BrokenOff, GatewayTimeout]
        assert len(all_.flights) == 0

        later = all_.leads("c")
        all_.asking.end("c", "three")
        assert later.result(10) == ("three", False)


@pytest.mark.parametrize("order", ["bcd", "cbd", "cdb"])
def test_where_some_ran_out_of_time_before_their_leader_failed_a_patient_one_leads(order: str) -> None:
    clock = Clock()
    with party(clock) as all_:
        first = all_.leads("a")
        others = {name: all_.waits(name, clock.now + (LONG if name == "b" else 5)) for name in order}
        clock.now += 5
        all_.asking.end("a", BrokenOff())
        until(lambda: "b" in all_.asking.begun)
        assert [type(others[name].exception(10)) for name in "cd"] == [GatewayTimeout] * 2
        assert len(all_.flights) == 1
        later = all_.waits("e")
        all_.asking.end("b", "two")

        assert isinstance(first.exception(10), BrokenOff)
        assert (others["b"].result(10), later.result(10)) == (("two", False), ("two", True))
        assert all_.asking.begun == ["a", "b"]


ERRORS: list[GatewayError] = [
    *(
        error_of(kind, cause="why", retry_after=7)
        for kind in sorted(kinds_of_error(), key=lambda kind: kind.__name__)
    ),
    ServiceRefused(
        503,
        "aws_throttled",
        "Slow down",
        details=[{"field": "name", "message": "wrong", "value": 1}],
        retry_after=3,
        service_version="2.3.4",
    ),
]


def facts_of(error: BaseException) -> dict[str, object]:
    """Give all that a handler or a log may read of ``error``."""
    names = (name for name in dir(error) if not name.startswith("__"))
    facts = {name: getattr(error, name, None) for name in names}
    return {"": str(error), **{name: fact for name, fact in facts.items() if not callable(fact)}}


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: f"{type(each).__name__}-{each}")
def test_each_that_has_anothers_failure_raises_an_object_of_its_own_with_the_same_facts(
    error: GatewayError,
) -> None:
    """One that is raised in several threads would collect the tracebacks of them all."""
    with party() as all_:
        first = all_.leads("a")
        others = {name: all_.waits(name) for name in "bcd"}
        for name in others:
            all_.asking.end(name, error)
        all_.asking.end("a", BrokenOff())
        assert isinstance(first.exception(10), BrokenOff)
        raised = {name: each.exception(10) for name, each in others.items()}

    assert raised.pop(all_.asking.begun[1]) is error
    one, other = raised.values()
    assert one is not None
    assert other is not None
    assert len({id(each) for each in (error, one, other)}) == 3
    assert len({id(each.__traceback__) for each in (error, one, other)}) == 3
    for each in (one, other):
        assert type(each) is type(error)
        assert facts_of(each) == facts_of(error)
