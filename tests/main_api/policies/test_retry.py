"""Asking again: what, how often, how soon, and what the throttle allows."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from main_api.exchange import Call, Reply
from main_api.policies.retry import Retry, RetrySettings, Throttle
from tests.main_api.policies.fakes import ALMOST_ONE, Clock, call_at, error_of, kinds_of_error, streaming

RETRIED: dict[type[GatewayError], bool] = {
    GatewayError: False,
    Overloaded: False,
    CircuitOpen: False,
    UpstreamUnavailable: True,
    BadGateway: False,
    BrokenOff: True,
    KeptConnectionClosed: True,
    Misdelivered: True,
    Malformed: False,
    BareServerError: True,
    Busy: True,
    Unexpected: False,
    GatewayTimeout: True,
    ServiceRefused: False,
}
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
OTHERS = ("POST", "PATCH", "CONNECT", "get", "PROPFIND", "")
REFUSED = ServiceRefused(404, "parameter_not_found", "none")


class Asked:
    """A retry link, and a service that ends its attempts one after the other as told, the last one again."""

    def __init__(
        self,
        *ends: BaseException | Reply,
        takes: float = 0.0,
        oversleeps: float = 0.0,
        random: float = 0.0,
        attempt_timeout: float = 3.0,
        throttle: Throttle | None = None,
        **numbers: Any,
    ) -> None:
        self.clock = Clock()
        self.ends = list(ends)
        self.takes = takes
        self.oversleeps = oversleeps
        self.calls: list[Call] = []
        self.begun: list[float] = []
        self.slept: list[float] = []
        self.reasons: list[str] = []
        self.throttled = 0
        self.throttle = throttle or Throttle()
        self.retry = Retry(
            RetrySettings(**numbers),
            self.throttle,
            attempt_timeout=attempt_timeout,
            retried=self.reasons.append,
            throttled=self.forbidden,
            clock=self.clock,
            sleep=self.sleep,
            random=lambda: random,
        )

    def forbidden(self) -> None:
        self.throttled += 1

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.clock.now += seconds + self.oversleeps

    def proceed(self, call: Call) -> Reply:
        self.calls.append(call)
        self.begun.append(self.clock.now)
        self.clock.now += self.takes
        end = self.ends[min(len(self.calls), len(self.ends)) - 1]
        if isinstance(end, BaseException):
            raise end
        return end

    def __call__(self, seconds: float = 10.0, method: str = "GET") -> Reply:
        return self.retry(call_at(self.clock, seconds, method=method), self.proceed)

    def fails(self, seconds: float = 10.0, method: str = "GET") -> BaseException:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            self(seconds, method)
        return caught.value


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ({"attempts": 0}, "attempts"),
        ({"backoff": -0.1}, "backoff"),
        ({"backoff": float("nan")}, "backoff"),
        ({"backoff": 0.3, "backoff_most": 0.2}, "backoff_most"),
        ({"backoff_most": float("nan")}, "backoff_most"),
    ],
)
def test_a_wrong_number_is_named(numbers: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        RetrySettings(**numbers)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_an_attempt_without_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^attempt_timeout: "):
        Retry(RetrySettings(), Throttle(), attempt_timeout=seconds)


def test_every_class_of_error_is_in_the_table() -> None:
    assert kinds_of_error() == set(RETRIED)


@pytest.mark.parametrize("method", IDEMPOTENT)
@pytest.mark.parametrize("kind", sorted(RETRIED, key=lambda each: each.__name__))
def test_an_idempotent_call_is_asked_again_by_the_table_three_times_in_all(
    kind: type[GatewayError], method: str
) -> None:
    error = error_of(kind)
    asked = Asked(error)

    assert asked.fails(method=method) is error
    assert len(asked.calls) == (3 if RETRIED[kind] else 1)
    assert asked.reasons == [error.code] * (len(asked.calls) - 1)
    assert all(each.method == method for each in asked.calls)


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("kind", sorted(RETRIED, key=lambda each: each.__name__))
def test_no_other_call_is_ever_asked_again(kind: type[GatewayError], method: str) -> None:
    error = error_of(kind)
    asked = Asked(error)

    assert asked.fails(method=method) is error
    assert len(asked.calls) == 1
    assert asked.throttle.left == 50


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), GeneratorExit(), OSError()])
def test_foreign_exceptions_pass_through_untouched(error: BaseException) -> None:
    throttle = Throttle()
    throttle.take()
    asked = Asked(error, throttle=throttle)

    assert asked.fails() is error
    assert len(asked.calls) == 1
    assert throttle.left == 49


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_there_are_as_many_attempts_as_set(attempts: int) -> None:
    asked = Asked(BrokenOff(), attempts=attempts)

    asked.fails()

    assert len(asked.calls) == attempts


def test_the_last_error_stands() -> None:
    errors = [BrokenOff(), Busy(), UpstreamUnavailable()]

    assert Asked(*errors).fails() is errors[2]


def test_the_first_answer_ends_it_and_is_passed_on() -> None:
    reply = Reply(200)
    asked = Asked(BrokenOff(), reply)

    assert asked() is reply
    assert len(asked.calls) == 2


def test_all_of_the_call_goes_on_but_its_deadline() -> None:
    asked = Asked(BrokenOff())
    call = call_at(asked.clock)

    with pytest.raises(BrokenOff):
        asked.retry(call, asked.proceed)

    for each in asked.calls:
        assert (each.path, each.query, each.headers, each.request_id) == (
            call.path,
            call.query,
            call.headers,
            call.request_id,
        )
        assert each.trail is call.trail


# Waiting.


@pytest.mark.parametrize(
    ("random", "waits"), [(0.0, []), (0.5, [0.0125, 0.025]), (ALMOST_ONE, [0.025, 0.05])]
)
def test_each_wait_is_a_random_part_of_one_that_doubles(random: float, waits: list[float]) -> None:
    asked = Asked(BrokenOff(), random=random)

    asked.fails()

    assert asked.slept == pytest.approx(waits)


@pytest.mark.parametrize("random", [0.5, ALMOST_ONE])
def test_no_wait_is_longer_than_the_longest(random: float) -> None:
    asked = Asked(BrokenOff(), random=random, attempts=6, backoff=0.1, backoff_most=0.25)

    asked.fails()

    assert asked.slept == pytest.approx([random * each for each in (0.1, 0.2, 0.25, 0.25, 0.25)])


def test_without_backoff_there_is_no_wait() -> None:
    asked = Asked(BrokenOff(), random=ALMOST_ONE, backoff=0.0)

    asked.fails()

    assert asked.slept == []
    assert len(asked.calls) == 3


def test_what_the_instance_asked_for_is_waited() -> None:
    asked = Asked(Busy(pushback=2), random=0.5)

    asked.fails()

    assert asked.slept == [2, 2]


def test_the_longer_one_of_the_two_waits_is_waited() -> None:
    asked = Asked(Busy(pushback=1), random=0.5, backoff=4.0, backoff_most=4.0)

    asked.fails()

    assert asked.slept == [2, 2]


@pytest.mark.parametrize(("left", "attempts"), [(2.0, 1), (1.0, 1), (2.001, 2)])
def test_a_wait_asked_for_that_does_not_fit_ends_it(left: float, attempts: int) -> None:
    asked = Asked(Busy(pushback=2))

    assert isinstance(asked.fails(left), Busy)
    assert len(asked.calls) == attempts
    assert len(asked.slept) == attempts - 1
    # What is not made costs no token and is not told of.
    assert asked.throttle.left == 50 - (attempts - 1)
    assert len(asked.reasons) == attempts - 1
    assert asked.throttled == 0


# The deadline.


@pytest.mark.parametrize(("takes", "attempts"), [(5.0, 2), (4.999, 3), (10.0, 1), (11.0, 1), (3.0, 3)])
def test_no_attempt_begins_at_or_after_the_deadline(takes: float, attempts: int) -> None:
    asked = Asked(GatewayTimeout(), takes=takes)

    asked.fails(10.0)

    assert len(asked.calls) == attempts


@pytest.mark.parametrize(("left", "attempts"), [(0.5, 1), (0.75, 2)])
def test_a_wait_that_would_end_at_the_deadline_is_not_begun(left: float, attempts: int) -> None:
    asked = Asked(BrokenOff(), random=0.5, backoff=1.0, backoff_most=1.0)

    asked.fails(left)

    assert len(asked.calls) == attempts


@pytest.mark.parametrize("oversleeps", [0.5, 1.0])
def test_a_sleep_that_took_longer_than_it_should_begins_nothing_after_the_deadline(oversleeps: float) -> None:
    error = BrokenOff()
    asked = Asked(error, random=0.5, backoff=1.0, backoff_most=1.0, oversleeps=oversleeps)

    assert asked.fails(1.0) is error
    assert asked.begun == [1000.0]


def test_each_attempt_has_its_own_time_and_never_more_than_the_call() -> None:
    asked = Asked(GatewayTimeout(), takes=2.0, attempt_timeout=3.0)

    asked.fails(5.5)

    assert [each.deadline for each in asked.calls] == [1003.0, 1005.0, 1005.5]


def test_the_call_that_came_in_keeps_its_deadline() -> None:
    asked = Asked(BrokenOff(), attempt_timeout=1.0)
    call = call_at(asked.clock, 10)
    with pytest.raises(BrokenOff):
        asked.retry(call, asked.proceed)

    assert call.deadline == 1010


# A kept connection that turned out closed.


def test_a_closed_connection_is_asked_again_at_once_without_a_token_on_a_new_one() -> None:
    reply = Reply(200)
    asked = Asked(KeptConnectionClosed(), reply, random=0.5)

    assert asked() is reply
    assert asked.slept == []
    assert [each.fresh for each in asked.calls] == [False, True]
    assert asked.throttle.left == 50
    assert asked.reasons == ["bad_gateway"]


def test_once_fresh_all_later_attempts_are() -> None:
    asked = Asked(KeptConnectionClosed(), BrokenOff(), Reply(200), random=0.5)

    asked()

    assert [each.fresh for each in asked.calls] == [False, True, True]
    assert len(asked.slept) == 1
    assert asked.throttle.left == pytest.approx(49.1)


def test_the_second_closed_one_is_an_ordinary_failure() -> None:
    asked = Asked(KeptConnectionClosed(), random=0.5)

    asked.fails()

    assert len(asked.calls) == 3
    assert asked.slept == pytest.approx([0.025])
    assert asked.throttle.left == 49


def test_a_closed_one_after_another_failure_is_free_too() -> None:
    asked = Asked(BrokenOff(), KeptConnectionClosed(), Reply(200), random=0.5)

    asked()

    assert [each.fresh for each in asked.calls] == [False, False, True]
    assert len(asked.slept) == 1
    assert asked.throttle.left == pytest.approx(49.1)


def test_the_free_attempt_is_made_when_the_bucket_is_empty() -> None:
    throttle = Throttle()
    while throttle.take():
        pass
    asked = Asked(KeptConnectionClosed(), BrokenOff(), throttle=throttle)

    assert isinstance(asked.fails(), BrokenOff)
    assert len(asked.calls) == 2
    assert asked.throttled == 1


def test_without_retries_a_closed_one_is_asked_again_all_the_same_and_once() -> None:
    asked = Asked(KeptConnectionClosed(), attempts=1)

    asked.fails()

    assert len(asked.calls) == 2
    assert asked.slept == []
    assert asked.throttle.left == 50


@pytest.mark.parametrize(("takes", "attempts"), [(10.0, 1), (9.99, 2)])
def test_the_free_attempt_too_begins_before_the_deadline(takes: float, attempts: int) -> None:
    asked = Asked(KeptConnectionClosed(), takes=takes)

    asked.fails(10.0)

    assert len(asked.calls) == attempts


# Ejected instances.


def test_when_all_are_ejected_at_first_it_passes_through_at_once() -> None:
    error = CircuitOpen(retry_after=7)
    asked = Asked(error)

    assert asked.fails() is error
    assert len(asked.calls) == 1
    assert asked.throttle.left == 50


def test_when_all_are_ejected_later_the_error_of_before_stands() -> None:
    error = BrokenOff()
    asked = Asked(BrokenOff(), error, CircuitOpen())

    assert asked.fails() is error
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert len(asked.calls) == 3


# The throttle.


@pytest.mark.parametrize("error", [REFUSED, Unexpected()])
def test_what_the_service_said_is_a_success_for_the_throttle(error: GatewayError) -> None:
    throttle = Throttle()
    throttle.take()
    asked = Asked(error, throttle=throttle)

    asked.fails()

    assert throttle.left == pytest.approx(49.1)


@pytest.mark.parametrize("error", [Malformed(), Overloaded(), CircuitOpen(), BadGateway()])
def test_what_is_neither_answered_nor_retried_returns_nothing(error: GatewayError) -> None:
    throttle = Throttle()
    throttle.take()
    asked = Asked(error, throttle=throttle)

    asked.fails()

    assert throttle.left == 49


def test_an_answer_returns_a_part_of_a_token_streamed_or_not() -> None:
    throttle = Throttle()
    throttle.take()

    Asked(Reply(200), throttle=throttle)()
    assert throttle.left == pytest.approx(49.1)
    Asked(streaming(b"a"), throttle=throttle)()
    assert throttle.left == pytest.approx(49.2)


def test_with_too_few_tokens_left_there_is_no_retry_and_it_is_told() -> None:
    throttle = Throttle(3.0)
    error = BrokenOff()
    asked = Asked(error, throttle=throttle, attempts=5)

    assert asked.fails() is error
    assert len(asked.calls) == 3
    assert asked.throttled == 1
    assert len(asked.reasons) == 2
    asked.fails()
    assert len(asked.calls) == 4
    assert asked.throttled == 2


def test_from_full_there_are_exactly_26_retries_without_a_success() -> None:
    throttle = Throttle()

    assert [throttle.take() for _ in range(30)] == [True] * 26 + [False] * 4
    assert throttle.left == 24


def test_the_whole_of_a_dead_service_gets_26_retries() -> None:
    throttle = Throttle()

    calls = 0
    for _ in range(100):
        asked = Asked(UpstreamUnavailable(), throttle=throttle)
        asked.fails()
        calls += len(asked.calls)

    assert calls == 126


@pytest.mark.parametrize("tokens", [50.0, 20.0, 10.0, 100.0])
def test_ten_successes_return_one_token(tokens: float) -> None:
    throttle = Throttle(tokens)
    while throttle.take():
        pass

    for _ in range(9):
        throttle.succeeded()
    assert not throttle.take()
    throttle.succeeded()

    assert throttle.take()
    assert not throttle.take()


def test_successes_never_fill_it_above_the_brim() -> None:
    told: list[float] = []
    throttle = Throttle(50.0, 0.75, told.append)

    throttle.succeeded()
    assert throttle.left == 50
    throttle.take()
    throttle.succeeded()
    throttle.succeeded()
    throttle.succeeded()

    assert throttle.left == 50
    assert told == [49, 49.75, 50]


def test_it_never_falls_below_nothing() -> None:
    throttle = Throttle(0.5, 0.1)

    assert throttle.take()
    assert throttle.left == 0
    assert not throttle.take()


@pytest.mark.parametrize(
    ("tokens", "returned", "field"),
    [(0.0, 0.0, "tokens"), (-1.0, 0.0, "tokens"), (1.0, -0.1, "returned"), (1.0, 1.1, "returned")],
)
def test_a_wrong_number_of_the_throttle_is_named(tokens: float, returned: float, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        Throttle(tokens, returned)


@given(
    st.sampled_from([1.0, 5.0, 50.0]),
    st.sampled_from([0.0, 0.125, 0.5, 1.0]),
    st.lists(st.sampled_from(["take", "succeed"]), max_size=200),
)
@settings(max_examples=150, deadline=None)
def test_the_throttle_is_a_bucket(tokens: float, returned: float, steps: list[str]) -> None:
    told: list[float] = []
    throttle = Throttle(tokens, returned, told.append)
    left = tokens
    for step in steps:
        if step == "take":
            allowed = left >= tokens / 2
            assert throttle.take() is allowed
            left = max(0.0, left - 1) if allowed else left
        else:
            throttle.succeeded()
            left = min(tokens, left + returned)
        assert 0 <= throttle.left <= tokens
        assert throttle.left == left
        assert not told or told[-1] == left


def in_threads(work: Callable[[], int]) -> int:
    begin = threading.Barrier(16)

    def one(_: int) -> int:
        begin.wait(10)
        return work()

    with ThreadPoolExecutor(16) as threads:
        return sum(threads.map(one, range(16)))


@pytest.mark.usefixtures("switching")
def test_under_threads_no_token_is_lost_or_doubled() -> None:
    throttle = Throttle(4096.0, 0.5)

    assert in_threads(lambda: sum(throttle.take() for _ in range(128))) == 2048
    assert throttle.left == 2048

    in_threads(lambda: sum(throttle.succeeded() is None for _ in range(128)))
    assert throttle.left == 2048 + 16 * 128 / 2


@given(
    st.lists(
        st.sampled_from([*(kind for kind, again in RETRIED.items() if again), CircuitOpen, REFUSED, None]),
        min_size=1,
        max_size=6,
    ),
    st.floats(0, 5),
    st.floats(0.1, 12),
    st.floats(0, ALMOST_ONE),
    st.one_of(st.none(), st.integers(1, 4)),
)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_the_bounds_are_kept(
    ends: list[Any], takes: float, seconds: float, random: float, pushback: int | None
) -> None:
    errors: list[BaseException | Reply] = [
        Reply(200)
        if each is None
        else each
        if isinstance(each, GatewayError)
        else error_of(each)
        if each is CircuitOpen or each is UpstreamUnavailable
        else error_of(each, pushback=pushback)
        for each in ends
    ]
    asked = Asked(*errors, takes=takes, random=random, backoff=1.0, backoff_most=1.5)
    deadline = asked.clock.now + seconds
    with suppress(GatewayError):
        asked(seconds)

    assert 1 <= len(asked.calls) <= 3
    assert all(begun < deadline for begun in asked.begun)
    for begun, each in zip(asked.begun, asked.calls, strict=True):
        assert each.deadline == min(deadline, begun + 3.0)
    assert all(0 < each <= max(1.5, pushback or 0) for each in asked.slept)
    taken = len(asked.calls) - 1 - any(each.fresh for each in asked.calls)
    assert 50 - taken <= asked.throttle.left <= 50
