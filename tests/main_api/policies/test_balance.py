"""Which instance gets the call: not twice the same while others can be asked, and none that is ejected."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from main_api.errors import BrokenOff, Busy, CircuitOpen, UpstreamUnavailable
from main_api.exchange import Call, Instance, Reply
from main_api.policies.algorithms import Algorithm, LeastConnections, Weighted
from main_api.policies.balance import Balance, InFlight
from main_api.policies.circuit_breaker import Breaker, BreakerSettings
from main_api.policies.ejection import CircuitBreakers
from main_api.policies.instance_health import HealthThresholds, InstanceHealth
from main_api.policies.retry import Retry, RetrySettings, Throttle
from tests.main_api.policies.fakes import Clock, answer, call_at, failing, letter, named, streaming
from tests.main_api.support import call

THREE = named("abc")


def asked_of(balance: Balance, asked: Call | None = None) -> str:
    """Give the letter of the instance that the call was sent to."""
    sent: list[str] = []

    def proceed(each: Call) -> Reply:
        sent.append(letter(each.instance))
        return Reply(200)

    balance(asked or call(instance=None), proceed)
    [one] = sent
    return one


def of(instances: Sequence[Instance], **options: object) -> Balance:
    return Balance(lambda: instances, **options)  # type: ignore[arg-type]


def test_instances_take_turns_exactly() -> None:
    balance = of(THREE)

    assert "".join(asked_of(balance) for _ in range(7)) == "abcabca"


def test_turns_are_fair_under_threads() -> None:
    balance = of(THREE)
    together = threading.Barrier(8)

    def many(_: int) -> list[str]:
        together.wait(10)
        return [asked_of(balance) for _ in range(300)]

    with ThreadPoolExecutor(8) as threads:
        counted = Counter(each for letters in threads.map(many, range(8)) for each in letters)

    assert set(counted.values()) == {800}


def test_the_algorithm_that_is_given_chooses() -> None:
    balance = of(named("abc", (5, 1, 1)), algorithm=Weighted())

    assert "".join(asked_of(balance) for _ in range(7)) == "aabacaa"


def test_instances_are_asked_for_anew_each_time() -> None:
    instances = list(named("a"))
    balance = Balance(lambda: instances)
    assert asked_of(balance) == "a"

    instances[:] = named("z")

    assert asked_of(balance) == "z"


def test_no_instance_is_unavailable_and_nothing_is_sent() -> None:
    with pytest.raises(UpstreamUnavailable):
        of(())(call(), failing(AssertionError("it was sent")))


def test_the_call_itself_is_not_changed_and_all_else_goes_on() -> None:
    asked = call("/p", query=[("a", "b")], instance=None, headers=(("h", "v"),))
    seen: list[Call] = []

    of(THREE)(asked, lambda each: (seen.append(each), Reply(200))[1])

    assert asked.instance is None
    assert seen[0].instance == THREE[0]
    assert (seen[0].path, seen[0].query, seen[0].deadline) == (asked.path, asked.query, asked.deadline)
    assert seen[0].trail is asked.trail


def test_the_reply_is_passed_on() -> None:
    reply = Reply(200)

    assert of(THREE)(call(), lambda _: reply) is reply


def test_an_error_passes_through_and_the_next_turn_is_the_next_instances() -> None:
    balance = of(THREE)
    error = BrokenOff()

    with pytest.raises(BrokenOff) as caught:
        balance(call(), failing(error))

    assert caught.value is error
    assert asked_of(balance) == "b"


def test_whom_the_call_has_tried_is_skipped_while_others_can_be_asked() -> None:
    for _ in range(20):
        balance, asked = of(THREE), call(instance=None)
        for _ in range(3):
            with suppress(BrokenOff):
                balance(asked, failing(BrokenOff()))
        assert sorted(map(letter, asked.trail.asked)) == ["a", "b", "c"]


def test_when_all_were_tried_they_may_be_tried_again() -> None:
    balance, asked = of(named("ab")), call(instance=None)

    for _ in range(6):
        with suppress(BrokenOff):
            balance(asked, failing(BrokenOff()))

    assert sorted(map(letter, asked.trail.asked[:2])) == ["a", "b"]
    assert len(asked.trail.asked) == 6


def test_one_that_was_tried_is_better_than_one_that_is_ejected() -> None:
    balance = of(named("ab"), wait=lambda each: 3.0 if letter(each) == "b" else 0.0)
    asked = call(instance=None)

    assert [asked_of(balance, asked) for _ in range(3)] == ["a", "a", "a"]


def test_an_instance_is_tried_again_when_its_breaker_is_the_only_one_that_lets() -> None:
    lost: list[str] = []

    def proceed(each: Call) -> Reply:
        if letter(each.instance) == "b":
            lost.append("b")
            raise CircuitOpen
        return Reply(200)

    asked = call(instance=None)
    asked.trail.asked.append(named("a")[0])

    assert of(named("ab"))(asked, proceed).status == 200
    assert lost == ["b"]
    assert [letter(each) for each in asked.trail.asked] == ["a", "a"]


def test_whoever_is_ejected_is_not_asked() -> None:
    balance = of(THREE, wait=lambda each: 0.001 if letter(each) == "b" else 0.0)

    assert {asked_of(balance) for _ in range(6)} == {"a", "c"}


def test_one_whose_breaker_refuses_after_all_was_not_asked_and_another_is() -> None:
    asked = call(instance=None)
    flights: list[tuple[str, int]] = []

    def proceed(each: Call) -> Reply:
        if letter(each.instance) == "a":
            raise CircuitOpen
        return Reply(200)

    balance = of(THREE, in_flight=InFlight(lambda each, change: flights.append((letter(each), change))))
    assert balance(asked, proceed).status == 200

    [other] = map(letter, asked.trail.asked)
    assert other != "a"
    assert flights == [("a", 1), ("a", -1), (other, 1), (other, -1)]


def test_when_all_breakers_refuse_after_all_it_is_circuit_open_and_none_was_asked() -> None:
    asked = call(instance=None)
    refused: list[str] = []

    def proceed(each: Call) -> Reply:
        refused.append(letter(each.instance))
        raise CircuitOpen

    with pytest.raises(CircuitOpen) as caught:
        of(THREE)(asked, proceed)

    assert sorted(refused) == ["a", "b", "c"]
    assert asked.trail.asked == []
    assert caught.value.retry_after == 1


@pytest.mark.parametrize(
    ("waits", "retry_after"),
    [((9.0, 4.2, 7.0), 5), ((0.01, 3, 3), 1), ((2.0, 60.0, 60.0), 2), ((30.0, 30.0, 29.5), 30)],
)
def test_when_all_are_ejected_nothing_is_sent_and_the_smallest_wait_is_told(
    waits: tuple[float, ...], retry_after: int
) -> None:
    waiting = dict(zip(THREE, waits, strict=True))
    asked = call(instance=None)

    with pytest.raises(CircuitOpen) as caught:
        of(THREE, wait=waiting.__getitem__)(asked, failing(AssertionError("it was sent")))

    assert caught.value.retry_after == retry_after
    assert type(caught.value.retry_after) is int
    assert asked.trail.asked == []


def test_whom_health_checks_took_out_is_not_asked() -> None:
    balance = of(THREE, usable=lambda some: [each for each in some if letter(each) != "a"])

    assert {asked_of(balance) for _ in range(6)} == {"b", "c"}


@pytest.mark.parametrize(("ill", "asked"), [("a", "bc"), ("ab", "abc")])
def test_panic_overrides_health(ill: str, asked: str) -> None:
    health = InstanceHealth(HealthThresholds(unhealthy_after=1))
    for each in named(ill):
        health.record(each, False)

    balance = of(THREE, usable=health.usable)
    assert {asked_of(balance) for _ in range(9)} == set(asked)


def test_panic_does_not_override_breakers() -> None:
    health = InstanceHealth(HealthThresholds(unhealthy_after=1))
    for each in named("bc"):
        health.record(each, False)
    balance = of(THREE, usable=health.usable, wait=lambda each: 2.0 if letter(each) == "b" else 0.0)

    assert {asked_of(balance) for _ in range(9)} == {"a", "c"}


def test_half_of_whom_a_breaker_ejected_means_no_panic() -> None:
    health = InstanceHealth(HealthThresholds(unhealthy_after=1))
    health.record(named("a")[0], False)
    balance = of(named("ab"), usable=health.usable, wait=lambda each: 2.0 if letter(each) == "b" else 0.0)

    with pytest.raises(CircuitOpen):
        balance(call(), answer)


def flying(count: InFlight) -> list[int]:
    return [count(each) for each in THREE]


def test_a_call_is_in_flight_while_its_instance_answers() -> None:
    seen: list[list[int]] = []
    count = InFlight()

    def proceed(_: Call) -> Reply:
        seen.append(flying(count))
        return Reply(200)

    reply = of(THREE, in_flight=count)(call(), proceed)

    assert seen == [[1, 0, 0]]
    assert flying(count) == [0, 0, 0]
    reply.close()
    assert flying(count) == [0, 0, 0]


@pytest.mark.parametrize("error", [BrokenOff(), CircuitOpen(), ValueError("x"), KeyboardInterrupt()])
def test_an_exception_ends_a_flight(error: BaseException) -> None:
    count = InFlight()

    with pytest.raises(type(error)):
        of(THREE, in_flight=count)(call(), failing(error))

    assert flying(count) == [0, 0, 0]


def test_a_stream_flies_until_it_is_closed() -> None:
    count = InFlight()

    reply = of(THREE, in_flight=count)(call(), lambda _: streaming(b"a"))
    list(reply.body)
    assert flying(count) == [1, 0, 0]
    reply.close()
    reply.close()

    assert flying(count) == [0, 0, 0]


def test_what_listens_is_told_of_each_beginning_and_end() -> None:
    told: list[tuple[str, int]] = []
    balance = of(THREE, in_flight=InFlight(lambda each, change: told.append((letter(each), change))))

    balance(call(), answer)
    with suppress(BrokenOff):
        balance(call(), failing(BrokenOff()))

    assert told == [("a", 1), ("a", -1), ("b", 1), ("b", -1)]


@pytest.mark.parametrize("at", [1, -1])
def test_what_listens_to_the_flights_cannot_keep_one_in_the_air(at: int) -> None:
    def changed(_: Instance, change: int) -> None:
        if change == at:
            raise OSError("no space left on device")

    count = InFlight(changed)
    with suppress(OSError):
        of(THREE, in_flight=count)(call(), answer)

    assert flying(count) == [0, 0, 0]


@pytest.mark.usefixtures("switching")
def test_flights_are_counted_right_under_threads() -> None:
    count = InFlight()
    balance = of(THREE, algorithm=LeastConnections(count), in_flight=count)
    together = threading.Barrier(8)

    def many(_: int) -> None:
        together.wait(10)
        for _ in range(40):
            with suppress(BrokenOff):
                balance(call(), failing(BrokenOff()))
            balance(call(), lambda _: streaming(b"a")).close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(many, range(8)))

    assert flying(count) == [0, 0, 0]


def test_long_calls_go_to_whoever_has_fewest() -> None:
    count = InFlight()
    balance = of(THREE, algorithm=LeastConnections(count), in_flight=count)

    held = [balance(call(), lambda _: streaming(b"a")) for _ in range(6)]
    assert flying(count) == [2, 2, 2]
    held[4].close()
    freed = flying(count).index(1)
    held.append(balance(call(), lambda _: streaming(b"a")))

    assert flying(count)[freed] == 2


def chained(balance: Balance, ill: str, clock: Clock) -> tuple[list[str], list[str]]:
    """Make 40 calls through retry and balance, the ``ill`` being busy; give whom was asked first, and all."""
    retry = Retry(
        RetrySettings(backoff=0), Throttle(1000), attempt_timeout=1, clock=clock, sleep=lambda _: None
    )
    first: list[str] = []
    every: list[str] = []

    def proceed(each: Call) -> Reply:
        every.append(letter(each.instance))
        if letter(each.instance) in ill:
            raise Busy
        return Reply(200)

    for _ in range(40):
        asked = call_at(clock)
        retry(asked, lambda each: balance(each, proceed))
        first.append(letter(asked.trail.asked[0]))
    return first, every


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
@pytest.mark.parametrize("algorithm", ["round_robin", "least_connections", "weighted"])
def test_a_retry_does_not_bring_the_next_call_to_the_busy_one_again(names: str, algorithm: str) -> None:
    count = InFlight()
    made: dict[str, Algorithm | None] = {
        "round_robin": None,
        "least_connections": LeastConnections(count),
        "weighted": Weighted(),
    }
    balance = of(named(names), algorithm=made[algorithm], in_flight=count)

    first, _ = chained(balance, "a", Clock())

    # Its share, and no more than that.
    assert first.count("a") <= 40 / len(names) + 3


def test_behind_real_breakers_an_ejected_instance_is_left_alone_and_comes_back() -> None:
    clock = Clock()
    breakers = CircuitBreakers(
        lambda changed: Breaker(BreakerSettings(), changed, clock=clock, random=lambda: 0.0),
        fair_seconds=1,
        clock=clock,
    )
    balance = of(named("ab"), wait=breakers.wait)
    ill = {"a"}
    asked: list[str] = []

    def send(each: Call) -> Reply:
        asked.append(letter(each.instance))
        if asked[-1] in ill:
            raise BrokenOff
        return Reply(200)

    def come(times: int) -> str:
        asked.clear()
        for _ in range(times):
            with suppress(BrokenOff, CircuitOpen):
                balance(call_at(clock), lambda each: breakers(each, send))
        return "".join(asked)

    assert come(10) == "ab" * 5
    assert come(4) == "bbbb"
    ill.add("b")
    come(5)
    assert come(3) == ""
    ill.clear()
    clock.now += 5
    assert Counter(come(20)) == {"a": 10, "b": 10}


def test_who_has_no_call_is_not_remembered() -> None:
    """Instances come and go; what counts them must not grow with all that ever were."""
    count = InFlight()
    for number in range(100):
        one = Instance("s", f"http://a:{number + 1}")
        count.add(one, 1)
        count.add(one, -1)

    assert count._calls == {}
