"""Ejection: what each end of a call says of its instance, when, and what an ejected one answers."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from main_api.errors import (
    BadGateway,
    BareServerError,
    BrokenOff,
    Busy,
    CircuitOpen,
    GatewayError,
    GatewayTimeout,
    KeptConnectionClosed,
    Malformed,
    Misdelivered,
    Overloaded,
    ServiceRefused,
    Unexpected,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Instance, Reply
from main_api.policies.circuit_breaker import Breaker, BreakerSettings, Change, State, Verdict
from main_api.policies.ejection import CircuitBreakers, verdict
from tests.main_api.policies.fakes import (
    Clock,
    answer,
    call_at,
    error_of,
    failing,
    kinds_of_error,
    named,
    streaming,
)

A, B = named("ab")

VERDICTS: dict[type[GatewayError], Verdict] = {
    GatewayError: Verdict.NOT_ITS_BUSINESS,
    Overloaded: Verdict.NOT_ITS_BUSINESS,
    CircuitOpen: Verdict.NOT_ITS_BUSINESS,
    UpstreamUnavailable: Verdict.UNREACHABLE,
    BadGateway: Verdict.NOT_ITS_BUSINESS,
    BrokenOff: Verdict.FAILURE,
    KeptConnectionClosed: Verdict.NOT_ITS_BUSINESS,
    Misdelivered: Verdict.FAILURE,
    Malformed: Verdict.FAILURE,
    BareServerError: Verdict.FAILURE,
    Busy: Verdict.NOT_ITS_BUSINESS,
    Unexpected: Verdict.SUCCESS,
    GatewayTimeout: Verdict.FAILURE,
    ServiceRefused: Verdict.SUCCESS,
}
FOREIGN = (ValueError("x"), KeyboardInterrupt(), GeneratorExit(), MemoryError())


class Judged:
    """Breakers of real make, on a clock, that keep each verdict they are told."""

    def __init__(self, fair_seconds: float = 2.0) -> None:
        self.clock = Clock()
        self.made = 0
        self.verdicts: list[Verdict] = []
        self.changes: list[tuple[Instance, Change]] = []
        self.breakers = CircuitBreakers(
            self.make,
            lambda instance, change: self.changes.append((instance, change)),
            fair_seconds=fair_seconds,
            clock=self.clock,
        )

    def make(self, changed: Callable[[Change], object]) -> Breaker:
        self.made += 1
        verdicts = self.verdicts

        class Told(Breaker):
            def record(self, ticket: int, verdict: Verdict) -> None:
                verdicts.append(verdict)
                super().record(ticket, verdict)

        return Told(BreakerSettings(), changed, clock=self.clock, random=lambda: 0.0)

    def call(self, seconds: float = 10.0, instance: Instance | None = A) -> Call:
        return call_at(self.clock, seconds, instance=instance)

    def fails(self, error: BaseException, seconds: float = 10.0, instance: Instance = A) -> None:
        with suppress(type(error)):
            self.breakers(self.call(seconds, instance), failing(error))

    def eject(self, instance: Instance = A) -> None:
        for _ in range(5):
            self.fails(BrokenOff(), instance=instance)
        assert self.breakers.of(instance).state is State.OPEN

    def half_open(self, places_left: int = 3) -> None:
        """Eject A, let its time be over, and leave so many of its places."""
        self.eject()
        self.clock.now += 5
        for _ in range(3 - places_left):
            self.breakers.of(A).admit()
        self.verdicts.clear()


def test_every_class_of_error_has_a_verdict_here() -> None:
    assert kinds_of_error() == set(VERDICTS)


@pytest.mark.parametrize("kind", sorted(kinds_of_error(), key=lambda each: each.__name__))
def test_each_error_says_of_the_instance_what_the_table_says(kind: type[GatewayError]) -> None:
    judged = Judged()
    error = error_of(kind)

    assert verdict(error) is VERDICTS[kind]
    with pytest.raises(kind) as caught:
        judged.breakers(judged.call(), failing(error))
    assert caught.value is error
    assert judged.verdicts == [VERDICTS[kind]]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda each: type(each).__name__)
def test_a_fault_of_our_own_says_nothing_of_the_instance(error: BaseException) -> None:
    judged = Judged()

    with pytest.raises(type(error)) as caught:
        judged.breakers(judged.call(), failing(error))

    assert caught.value is error
    assert judged.verdicts == [Verdict.NOT_ITS_BUSINESS]


def test_an_answer_is_a_success_at_once_and_the_call_goes_on_as_it_is() -> None:
    judged = Judged()
    sent: list[Call] = []
    asked = judged.call()

    reply = judged.breakers(asked, lambda each: (sent.append(each), Reply(200))[1])

    assert sent == [asked]
    assert judged.verdicts == [Verdict.SUCCESS]
    reply.close()
    assert judged.verdicts == [Verdict.SUCCESS]


def test_without_an_instance_nothing_is_sent() -> None:
    judged = Judged()

    with pytest.raises(UpstreamUnavailable):
        judged.breakers(judged.call(instance=None), failing(AssertionError("it was sent")))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (1.999, Verdict.NOT_ITS_BUSINESS),
        (0.01, Verdict.NOT_ITS_BUSINESS),
        (-1.0, Verdict.NOT_ITS_BUSINESS),
        (2.0, Verdict.FAILURE),
        (10.0, Verdict.FAILURE),
    ],
)
def test_a_timeout_counts_only_of_an_attempt_that_had_a_fair_time(given: float, said: Verdict) -> None:
    judged = Judged()

    judged.fails(GatewayTimeout(), given)

    assert judged.verdicts == [said]


def test_the_time_of_an_attempt_is_what_it_had_when_it_began() -> None:
    judged = Judged()

    def time_out(_: Call) -> Reply:
        judged.clock.now += 2
        raise GatewayTimeout

    with pytest.raises(GatewayTimeout):
        judged.breakers(judged.call(2.0), time_out)

    assert judged.verdicts == [Verdict.FAILURE]


@pytest.mark.parametrize("error", [BrokenOff(), UpstreamUnavailable(), Malformed()])
def test_what_is_not_a_timeout_counts_however_little_time_there_was(error: GatewayError) -> None:
    judged = Judged()

    judged.fails(error, 0.01)

    assert judged.verdicts == [VERDICTS[type(error)]]


def test_a_stream_that_came_to_its_end_is_a_success_at_its_close() -> None:
    judged = Judged()

    reply = judged.breakers(judged.call(), lambda _: streaming(b"a", b"b"))
    assert list(reply.body) == [b"a", b"b"]
    assert judged.verdicts == []
    reply.close()
    reply.close()

    assert judged.verdicts == [Verdict.SUCCESS]


@pytest.mark.parametrize(
    ("error", "given", "said"),
    [
        (BrokenOff(), 10.0, Verdict.FAILURE),
        (GatewayTimeout(), 10.0, Verdict.FAILURE),
        (GatewayTimeout(), 1.0, Verdict.NOT_ITS_BUSINESS),
        (Malformed(), 10.0, Verdict.FAILURE),
        (ValueError("a fault of ours"), 10.0, Verdict.NOT_ITS_BUSINESS),
    ],
)
def test_a_stream_that_broke_off_is_judged_by_its_error(
    error: Exception, given: float, said: Verdict
) -> None:
    judged = Judged()

    reply = judged.breakers(judged.call(given), lambda _: streaming(b"a", error=error))
    with pytest.raises(type(error)):
        list(reply.body)
    reply.close()

    assert judged.verdicts == [said]


@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_the_client_left_says_nothing(read: int) -> None:
    judged = Judged()

    reply = judged.breakers(judged.call(), lambda _: streaming(b"a", b"b"))
    pieces = iter(reply.body)
    for _ in range(read):
        next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    reply.close()

    assert judged.verdicts == [Verdict.NOT_ITS_BUSINESS]


def test_a_stream_holds_its_half_open_place_until_it_is_closed() -> None:
    judged = Judged()
    judged.half_open(places_left=1)

    reply = judged.breakers(judged.call(), lambda _: streaming(b"a"))
    with pytest.raises(CircuitOpen):
        judged.breakers(judged.call(), answer)
    reply.close()

    # The client left, so the place is free again, and nothing was decided.
    judged.breakers(judged.call(), answer)
    assert judged.breakers.of(A).state is State.HALF_OPEN


@pytest.mark.parametrize("error", [Busy(), KeptConnectionClosed(), ValueError("x"), KeyboardInterrupt()])
def test_a_half_open_place_comes_back_after_what_says_nothing(error: BaseException) -> None:
    judged = Judged()
    judged.half_open(places_left=1)

    for _ in range(4):
        judged.fails(error)

    assert judged.verdicts == [Verdict.NOT_ITS_BUSINESS] * 4
    judged.breakers(judged.call(), answer)


def test_an_ejected_instance_is_not_asked_and_another_is() -> None:
    judged = Judged()
    judged.eject()

    with pytest.raises(CircuitOpen):
        judged.breakers(judged.call(), failing(AssertionError("it was sent")))

    assert judged.breakers(judged.call(instance=B), answer).status == 200


@pytest.mark.parametrize(
    ("later", "seconds"), [(0.0, 5), (0.001, 5), (0.999, 5), (1.0, 4), (3.5, 2), (4.001, 1), (4.999, 1)]
)
def test_retry_after_is_what_is_left_in_whole_seconds(later: float, seconds: int) -> None:
    judged = Judged()
    judged.eject()
    judged.clock.now += later

    with pytest.raises(CircuitOpen) as caught:
        judged.breakers(judged.call(), answer)

    assert caught.value.retry_after == seconds
    assert type(caught.value.retry_after) is int


def test_retry_after_is_a_second_when_the_time_is_over_the_moment_after() -> None:
    class Going(Clock):
        """Goes on by two seconds with each look."""

        def __call__(self) -> float:
            self.now += 2
            return self.now

    going = Going()
    breakers = CircuitBreakers(
        lambda changed: Breaker(
            BreakerSettings(failures_in_a_row=1, open_seconds=3), changed, clock=going, random=lambda: 0.0
        ),
        fair_seconds=2.0,
        clock=Clock(),
    )
    asked = call_at(Clock(), instance=A)
    with suppress(BrokenOff):
        breakers(asked, failing(BrokenOff()))

    with pytest.raises(CircuitOpen) as caught:
        breakers(asked, answer)

    assert caught.value.retry_after == 1


def test_retry_after_is_a_second_while_all_half_open_places_are_taken() -> None:
    judged = Judged()
    judged.half_open(places_left=0)

    with pytest.raises(CircuitOpen) as caught:
        judged.breakers(judged.call(), answer)

    assert caught.value.retry_after == 1


def test_it_comes_back_after_three_answers() -> None:
    judged = Judged()
    judged.half_open()

    for _ in range(3):
        judged.breakers(judged.call(), answer)

    assert judged.breakers.of(A).state is State.CLOSED
    assert [(instance, change.after) for instance, change in judged.changes] == [
        (A, State.OPEN),
        (A, State.HALF_OPEN),
        (A, State.CLOSED),
    ]


def test_only_one_that_is_open_is_ejected() -> None:
    judged = Judged()
    assert not judged.breakers.ejected(A)
    judged.eject()
    assert judged.breakers.ejected(A)
    assert not judged.breakers.ejected(B)

    judged.clock.now += 5
    judged.breakers(judged.call(), answer)
    assert not judged.breakers.ejected(A)


def test_one_that_could_not_be_reached_is_let_back_by_a_check() -> None:
    judged = Judged()
    for _ in range(5):
        judged.fails(UpstreamUnavailable())
    assert judged.breakers.ejected(A)

    judged.breakers.of(A).reachable()

    assert judged.breakers(judged.call(), answer).status == 200


def test_the_wait_is_each_instances_own() -> None:
    judged = Judged()
    assert judged.breakers.wait(A) == 0
    judged.eject()
    judged.clock.now += 1

    assert judged.breakers.wait(A) == 4
    assert judged.breakers.wait(B) == 0
    judged.clock.now += 4
    assert judged.breakers.wait(A) == 0


def test_an_instance_has_one_breaker_whatever_route_asks_and_whatever_its_weight() -> None:
    judged = Judged()

    judged.breakers(judged.call(), answer)
    judged.breakers(judged.call(instance=Instance(A.service, A.url, 7)), answer)
    assert judged.made == 1
    assert judged.breakers.of(A) is judged.breakers.of(Instance(A.service, A.url, 3))

    judged.breakers(judged.call(instance=B), answer)
    assert judged.made == 2


def test_threads_that_meet_a_new_instance_together_make_one_breaker() -> None:
    both = threading.Barrier(2)

    def make(changed: Callable[[Change], object]) -> Breaker:
        # A second maker would meet the first one here.
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        made.append(1)
        return Breaker(BreakerSettings(), changed)

    made: list[int] = []
    breakers = CircuitBreakers(make, fair_seconds=1)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(breakers.of, [A, A])

    assert first is second
    assert made == [1]


def test_an_opening_is_logged_as_a_warning_with_instance_reason_and_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    judged = Judged()
    with caplog.at_level(logging.INFO, "main_api.policies.ejection"):
        judged.eject()

    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "breaker of http://a:1: closed -> open: 5 failures in a row, open for 5.0 s"
    )


def test_coming_back_is_logged_without_alarm_and_without_seconds(caplog: pytest.LogCaptureFixture) -> None:
    judged = Judged()
    judged.eject()
    judged.clock.now += 5
    caplog.clear()
    with caplog.at_level(logging.INFO, "main_api.policies.ejection"):
        for _ in range(3):
            judged.breakers(judged.call(), answer)

    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.INFO, "breaker of http://a:1: open -> half_open: its time is over"),
        (logging.INFO, "breaker of http://a:1: half_open -> closed: 3 calls succeeded"),
    ]


@pytest.mark.usefixtures("switching")
def test_never_more_than_three_calls_are_at_a_half_open_instance() -> None:
    judged = Judged()
    judged.half_open()
    lock = threading.Lock()
    inside = most = 0

    def stay(_: Call) -> Reply:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        raise Busy

    def many(_: int) -> None:
        together.wait(10)
        for _ in range(40):
            with suppress(Busy, CircuitOpen):
                judged.breakers(judged.call(), stay)

    together = threading.Barrier(16)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(many, range(16)))

    assert most <= 3
    # No place was lost.
    for _ in range(3):
        judged.breakers(judged.call(), answer)
    assert judged.breakers.of(A).state is State.CLOSED


def test_every_breaker_is_shown_until_its_instance_is_forgotten() -> None:
    judged = Judged()
    assert judged.breakers.snapshots() == []
    judged.breakers.of(B)
    judged.fails(BrokenOff())

    assert [(each, shown.state, shown.failures) for each, shown in judged.breakers.snapshots()] == [
        (B, State.CLOSED, 0),
        (A, State.CLOSED, 1),
    ]
    judged.breakers.forget(B)
    assert [each for each, _ in judged.breakers.snapshots()] == [A]


def test_who_is_forgotten_begins_anew_and_its_late_answers_do_no_harm() -> None:
    judged = Judged()
    for _ in range(5):
        judged.fails(BrokenOff())
    assert judged.breakers.ejected(A)
    late = judged.breakers.of(A)

    judged.breakers.forget(A)
    judged.breakers.forget(B)

    assert not judged.breakers.ejected(A)
    assert judged.breakers.wait(A) == 0.0
    assert judged.breakers.of(A) is not late
    judged.breakers(judged.call(), answer)
