"""Admission: a bounded number inside, a short bounded queue, and every slot comes back exactly once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from main_api.errors import GatewayTimeout, Overloaded
from main_api.exchange import Call, Reply
from main_api.policies.admission import Admission, AdmissionSettings
from main_api.policies.slots import Wait
from tests.main_api.policies.fakes import Clock, answer, call_at, failing, streaming


class Counted:
    """What admission tells: two numbers as they stand, and how many were turned away."""

    def __init__(self) -> None:
        self.in_service = self.waiting = self.refused = self.most = 0
        self._lock = threading.Lock()

    def serve(self, change: int) -> None:
        with self._lock:
            self.in_service += change
            self.most = max(self.most, self.in_service)

    def wait(self, change: int) -> None:
        with self._lock:
            self.waiting += change

    def refuse(self) -> None:
        with self._lock:
            self.refused += 1


def admission_of(
    slots: int = 1,
    waiters: int = 64,
    seconds: float = 0.1,
    *,
    clock: Clock | None = None,
    wait: Wait = lambda _, __: False,
) -> tuple[Admission, Counted, Clock]:
    counted, clock = Counted(), clock or Clock()
    admission = Admission(
        AdmissionSettings(slots, waiters, seconds),
        in_service=counted.serve,
        waiting=counted.wait,
        refused=counted.refuse,
        clock=clock,
        wait=wait,
    )
    return admission, counted, clock


def is_full(admission: Admission, clock: Clock) -> bool:
    """Whether a call that cannot wait is turned away."""
    try:
        reply = admission(call_at(clock, 0), answer)
    except (Overloaded, GatewayTimeout):
        return True
    reply.close()
    return False


def test_what_is_held_and_waited_for_is_shown() -> None:
    shown: list[tuple[int, int]] = []

    def look(*_: object) -> bool:
        shown.append(admission.state())
        return False

    admission, _, clock = admission_of(slots=2, wait=look)
    assert admission.state() == (0, 0)
    one = admission(call_at(clock), lambda _: streaming(b"x"))
    assert admission.state() == (1, 0)
    other = admission(call_at(clock), lambda _: streaming(b"x"))
    with pytest.raises(Overloaded):
        admission(call_at(clock), answer)
    assert shown == [(2, 1)]
    for each in (one, other):
        each.close()
    assert admission.state() == (0, 0)


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ((0, 1, 0.1), "slots"),
        ((-1, 1, 0.1), "slots"),
        ((1, -1, 0.1), "waiters"),
        ((1, 0, -0.1), "seconds"),
        ((1, 0, float("nan")), "seconds"),
    ],
)
def test_a_wrong_number_is_named(numbers: tuple[int, int, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        AdmissionSettings(*numbers)


def test_the_least_numbers_are_allowed() -> None:
    assert AdmissionSettings(1, 0, 0).waiters == 0


def test_a_slot_is_held_until_the_reply_is_closed() -> None:
    admission, counted, clock = admission_of()

    reply = admission(call_at(clock), answer)
    assert is_full(admission, clock)
    assert counted.in_service == 1
    reply.close()

    assert counted.in_service == 0
    assert not is_full(admission, clock)


def test_a_stream_holds_its_slot_until_it_is_closed() -> None:
    admission, counted, clock = admission_of()

    reply = admission(call_at(clock), lambda _: streaming(b"a"))
    assert list(reply.body) == [b"a"]
    assert counted.in_service == 1
    reply.close()

    assert counted.in_service == 0
    assert not is_full(admission, clock)


def test_closed_twice_gives_one_slot_back() -> None:
    admission, counted, clock = admission_of(2)

    first, second = admission(call_at(clock), answer), admission(call_at(clock), answer)
    first.close()
    first.close()

    assert counted.in_service == 1
    third = admission(call_at(clock), answer)
    assert is_full(admission, clock)
    second.close()
    third.close()
    assert counted.in_service == 0


@pytest.mark.parametrize("error", [Overloaded(), ValueError("x"), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_passes_through_and_gives_the_slot_back(error: BaseException) -> None:
    admission, counted, clock = admission_of()

    with pytest.raises(type(error)) as caught:
        admission(call_at(clock), failing(error))

    assert caught.value is error
    assert counted.in_service == 0
    assert counted.refused == 0
    assert not is_full(admission, clock)


def test_the_call_goes_on_as_it_is() -> None:
    admission, _, clock = admission_of()
    sent: list[Call] = []
    asked = call_at(clock)

    admission(asked, lambda each: (sent.append(each), Reply(200))[1])

    assert sent == [asked]


def test_without_a_slot_in_time_it_is_overloaded_and_says_when_to_come_again() -> None:
    waits: list[float] = []

    def wait(_: threading.Lock, seconds: float) -> bool:
        waits.append(seconds)
        clock.now += seconds
        assert counted.waiting == 1
        return False

    admission, counted, clock = admission_of(wait=wait)
    admission(call_at(clock), answer)
    with pytest.raises(Overloaded) as caught:
        admission(call_at(clock), failing(AssertionError("it was sent")))

    assert caught.value.retry_after == 1
    assert caught.value.sent is False
    assert waits == [0.1]
    assert (counted.in_service, counted.waiting, counted.refused) == (1, 0, 1)


@pytest.mark.parametrize("left", [0.0625, 0.125])
def test_a_wait_ends_with_the_deadline_and_then_it_is_a_timeout(left: float) -> None:
    waits: list[float] = []

    def wait(_: threading.Lock, seconds: float) -> bool:
        waits.append(seconds)
        clock.now += seconds
        return False

    admission, counted, clock = admission_of(seconds=0.125, wait=wait)
    admission(call_at(clock), answer)
    with pytest.raises(GatewayTimeout):
        admission(call_at(clock, left), failing(AssertionError("it was sent")))

    assert waits == [left]
    assert counted.waiting == 0


@pytest.mark.parametrize("left", [0.0, -1.0])
def test_past_the_deadline_nobody_waits(left: float) -> None:
    def wait(_: threading.Lock, __: float) -> bool:
        raise AssertionError("it waited")

    admission, _, clock = admission_of(wait=wait)
    admission(call_at(clock), answer)

    with pytest.raises(GatewayTimeout):
        admission(call_at(clock, left), answer)


def test_where_there_is_no_room_to_wait_it_is_overloaded_however_little_time_is_left() -> None:
    admission, counted, clock = admission_of(waiters=0)
    admission(call_at(clock), answer)

    with pytest.raises(Overloaded) as caught:
        admission(call_at(clock, 0.01), answer)

    assert caught.value.retry_after == 1
    assert counted.refused == 1


def test_the_65th_waiter_is_refused_at_once_and_the_64_before_are_not() -> None:
    ends: list[str] = []

    def wait(_: threading.Lock, __: float) -> bool:
        most.append(counted.waiting)
        come()
        return False

    def come() -> None:
        try:
            admission(call_at(clock), answer)
        except Overloaded:
            ends.append("refused")

    most: list[int] = []
    admission, counted, clock = admission_of(wait=wait)
    admission(call_at(clock), answer)
    come()

    assert most == list(range(1, 65))
    assert len(ends) == 65
    assert (counted.waiting, counted.refused) == (0, 65)


def test_a_slot_that_comes_in_the_last_moment_is_used_and_comes_back() -> None:
    def wait(_: threading.Lock, seconds: float) -> bool:
        held.close()
        clock.now += seconds
        return False

    admission, counted, clock = admission_of(wait=wait)
    held = admission(call_at(clock), answer)

    reply = admission(call_at(clock, 0.05), answer)

    assert (counted.in_service, counted.waiting, counted.refused) == (1, 0, 0)
    assert is_full(admission, clock)
    reply.close()
    assert not is_full(admission, clock)


@pytest.mark.usefixtures("switching")
def test_never_more_are_in_service_than_there_are_slots() -> None:
    counted = Counted()
    admission = Admission(
        AdmissionSettings(4, 32, 10.0),
        in_service=counted.serve,
        waiting=counted.wait,
        refused=counted.refuse,
    )
    clock = Clock(1e9)
    together = threading.Barrier(32)

    def fail(_: Call) -> Reply:
        raise ValueError

    def many(number: int) -> int:
        together.wait(10)
        served = 0
        for turn in range(50):
            with suppress(ValueError):
                admission(call_at(clock), fail if (turn + number) % 3 == 0 else answer).close()
            served += 1
        return served

    with ThreadPoolExecutor(32) as threads:
        assert sum(threads.map(many, range(32))) == 1600

    assert counted.most <= 4
    assert (counted.in_service, counted.waiting, counted.refused) == (0, 0, 0)


def breaking_once(at: int) -> Callable[[int], None]:
    """Make a listener that breaks at its first ``at``, as one does whose file system is full."""
    changes: list[int] = []

    def tell(change: int) -> None:
        changes.append(change)
        if change == at and changes.count(at) == 1:
            raise OSError("no space left on device")

    return tell


@pytest.mark.parametrize("at", [1, -1])
def test_what_listens_to_the_number_in_service_cannot_cost_a_slot(at: int) -> None:
    clock = Clock()
    admission = Admission(AdmissionSettings(1, 0), in_service=breaking_once(at), clock=clock)

    with suppress(OSError):
        admission(call_at(clock), answer).close()

    assert not is_full(admission, clock)


@pytest.mark.parametrize("at", [1, -1])
def test_what_listens_to_the_number_waiting_cannot_cost_a_slot(at: int) -> None:
    clock = Clock()
    admission = Admission(
        AdmissionSettings(1, 1), waiting=breaking_once(at), clock=clock, wait=lambda _, __: False
    )
    held = admission(call_at(clock), answer)

    with pytest.raises((OSError, Overloaded)):
        admission(call_at(clock), answer)
    held.close()

    assert not is_full(admission, clock)
