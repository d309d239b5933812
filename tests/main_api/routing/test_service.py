"""A service: wrong numbers stop the start by name, and the parts are made of the right ones."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any, cast

import pytest

from main_api.errors import BrokenOff, CircuitOpen, GatewayTimeout, Overloaded, UpstreamUnavailable
from main_api.exchange import Call, Instance, Reply
from main_api.policies.circuit_breaker import BreakerSettings, State
from main_api.policies.instance_health import HealthThresholds
from main_api.policies.retry import RetrySettings
from main_api.routing.service import ALGORITHMS, Service, ServiceNumbers
from main_api.telemetry import Telemetry
from tests.main_api.policies.fakes import answer, failing, letter, named, streaming
from tests.main_api.support import call

THREE = named("abc", (5, 1, 1))


class Told:
    """Stands in for the telemetry and keeps what it is told."""

    def __init__(self) -> None:
        self.of: dict[str, list[tuple[Any, ...]]] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *facts: self.of.setdefault(name, []).append(facts)


def service_of(
    instances: tuple[Instance, ...] = THREE, send: Callable[[Call], Reply] = answer, **numbers: Any
) -> tuple[Service, Told]:
    told = Told()
    made = ServiceNumbers(**{"request_timeout": 10.0, "attempt_timeout": 3.0, **numbers})
    return Service("aux", lambda: instances, send, made, cast("Telemetry", told)), told


def order(service: Service, times: int, **facts: Any) -> str:
    """Give the letters of those that are asked, one call after the other."""
    asked: list[str] = []
    for _ in range(times):
        service.balance(call(**facts), lambda each: (asked.append(letter(each.instance)), Reply(200))[1])
    return "".join(asked)


@pytest.mark.parametrize(
    ("field", "numbers"),
    [
        ("bulkhead", {"bulkhead": -1}),
        ("bulkhead", {"bulkhead": 0}),
        ("algorithm", {"algorithm": "fastest"}),
        ("algorithm", {"algorithm": ""}),
        ("hash_by", {"algorithm": "consistent_hash", "hash_by": "colour"}),
        ("retry_tokens", {"retry_tokens": 0.0}),
        ("retry_tokens_returned", {"retry_tokens_returned": -0.1}),
        ("retry_tokens_returned", {"retry_tokens_returned": 51.0}),
        ("attempt_timeout", {"attempt_timeout": 0.0}),
        ("request_timeout", {"request_timeout": 0.0}),
    ],
)
def test_a_wrong_number_is_named_with_its_service(field: str, numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^service aux: {field}: "):
        service_of(**numbers)


@pytest.mark.parametrize(
    "numbers",
    [
        {"bulkhead": -1},
        {"algorithm": "fastest"},
        {"algorithm": "consistent_hash", "hash_by": "colour"},
        {"retry_tokens": 0.0},
        {"retry_tokens_returned": -0.1},
    ],
)
def test_a_wrong_number_stops_the_start_and_names_the_service(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^service aux: ."):
        service_of(**numbers)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_that_can_be_named_can_be_made(algorithm: str) -> None:
    service, _ = service_of(algorithm=algorithm)

    assert set(order(service, 300)) <= set("abc")


def test_round_robin_is_what_there_is_without_a_word() -> None:
    assert order(service_of()[0], 6) == "abcabc"
    assert order(service_of(algorithm="round_robin")[0], 6) == "abcabc"


def test_weighted_looks_at_weights() -> None:
    assert order(service_of(algorithm="weighted")[0], 7) == "aabacaa"


def test_random_is_no_turn() -> None:
    letters = order(service_of(algorithm="random")[0], 300)

    assert set(letters) == set("abc")
    assert letters != "abc" * 100


def test_least_connections_counts_what_is_under_way() -> None:
    service, told = service_of(algorithm="least_connections")

    held = [service.balance(call(), lambda _: streaming(b"x")) for _ in range(3)]
    assert Counter(told.of["in_flight"]) == {("aux", each.url, 1): 1 for each in THREE}
    held[1].close()
    freed = told.of["in_flight"][-1]
    assert freed[2] == -1
    assert f"http://{order(service, 1)}:1" == freed[1]


def test_a_consistent_hash_goes_by_what_is_set() -> None:
    by_path, _ = service_of(algorithm="consistent_hash")
    for number in range(20):
        assert len(set(order(by_path, 4, query=[("name", str(number))]))) == 1
    assert len({order(by_path, 1, query=[("name", str(number))]) for number in range(50)}) > 1

    by_caller, _ = service_of(algorithm="consistent_hash", hash_by="caller")
    assert len({order(by_caller, 1, query=[("name", str(number))]) for number in range(50)}) == 1


def attempts(service: Service, *, whole_list: bool, seconds: float) -> list[Call]:
    seen: list[Call] = []

    def proceed(each: Call) -> Reply:
        seen.append(each)
        return Reply(200)

    asked = call(seconds=seconds)
    service.retry(whole_list=whole_list)(asked, proceed)
    return seen


@pytest.mark.parametrize(("whole_list", "seconds"), [(True, 10.0), (False, 3.0)])
def test_an_attempt_of_a_whole_list_has_the_whole_requests_time(whole_list: bool, seconds: float) -> None:
    service, _ = service_of()

    before = monotonic()
    [attempt] = attempts(service, whole_list=whole_list, seconds=1000)

    assert before + seconds <= attempt.deadline <= monotonic() + seconds


def test_no_attempt_has_more_than_the_call() -> None:
    service, _ = service_of()

    [attempt] = attempts(service, whole_list=True, seconds=0.5)

    assert attempt.deadline <= monotonic() + 0.5


def test_retries_are_as_set_and_told() -> None:
    service, told = service_of(retry=RetrySettings(attempts=4, backoff=0.0))
    sent: list[Call] = []

    def proceed(each: Call) -> Reply:
        sent.append(each)
        raise BrokenOff

    with pytest.raises(BrokenOff):
        service.retry(whole_list=False)(call(), proceed)

    assert len(sent) == 4
    assert told.of["retried"] == [("aux", "bad_gateway")] * 3
    assert told.of["tokens"] == [("aux", left) for left in (50.0, 49.0, 48.0, 47.0)]


def test_the_routes_of_a_service_share_one_bucket() -> None:
    service, told = service_of(retry=RetrySettings(backoff=0.0), retry_tokens=4.0, retry_tokens_returned=0.5)
    one, other = service.retry(whole_list=False), service.retry(whole_list=True)

    for link in (one, other):
        with pytest.raises(BrokenOff):
            link(call(), failing(BrokenOff()))

    # Three in all: two of the one, one of the other, whose second one was forbidden.
    assert service.throttle.left == 1
    assert told.of["throttled"] == [("aux",)]
    one(call(), answer)
    assert service.throttle.left == 1.5


def test_without_a_share_there_is_no_bulkhead_and_with_one_it_is_told_who_was_turned_away() -> None:
    assert service_of()[0].bulkhead is None
    service, told = service_of(bulkhead=1)
    assert service.bulkhead is not None

    service.bulkhead(call(), answer)
    with pytest.raises(Overloaded):
        service.bulkhead(call(), answer)

    assert told.of["refused"] == [("aux",)]


def ask(service: Service, error: Exception | None = None, seconds: float = 5.0) -> None:
    with suppress(BrokenOff, UpstreamUnavailable, GatewayTimeout):
        service.balance(
            call(seconds=seconds),
            lambda each: service.breakers(each, failing(error) if error else answer),
        )


def test_breakers_open_as_set_are_told_of_and_the_balance_goes_round_them() -> None:
    service, told = service_of(named("a"), breaker=BreakerSettings(failures_in_a_row=2))

    ask(service, BrokenOff())
    ask(service, BrokenOff())

    assert told.of["breaker"] == [("aux", "http://a:1", "open", "open")]
    with pytest.raises(CircuitOpen) as caught:
        ask(service)
    assert caught.value.retry_after in (4, 5)


@pytest.mark.parametrize(
    ("numbers", "seconds", "state"),
    [
        ({}, 1.4, State.CLOSED),
        ({}, 1.6, State.OPEN),
        ({"request_timeout": 1.0}, 0.4, State.CLOSED),
        ({"request_timeout": 1.0}, 0.6, State.OPEN),
    ],
)
def test_half_of_an_attempts_time_is_fair(numbers: dict[str, Any], seconds: float, state: State) -> None:
    service, _ = service_of(named("a"), breaker=BreakerSettings(failures_in_a_row=1), **numbers)

    ask(service, GatewayTimeout(), seconds)

    assert service.breakers.of(named("a")[0]).state is state


def test_every_instance_is_shown_before_anything_happens_to_it() -> None:
    _, told = service_of()

    assert told.of["listed"] == [("aux", each.url) for each in THREE]


def test_checks_take_instances_out_as_set_and_are_told_of() -> None:
    service, told = service_of(health=HealthThresholds(unhealthy_after=2, healthy_after=1))

    service.checked(THREE[1], False, "status 500")
    assert "b" in order(service, 3)
    service.checked(THREE[1], False, "status 500")
    assert "b" not in order(service, 6)
    service.checked(THREE[1], True, "")
    assert "b" in order(service, 3)

    assert told.of["healthy"] == [
        ("aux", "http://b:1", True),
        ("aux", "http://b:1", False),
        ("aux", "http://b:1", True),
    ]


@pytest.mark.parametrize(
    ("error", "ok", "state"),
    [
        (UpstreamUnavailable(), True, State.HALF_OPEN),
        (UpstreamUnavailable(), False, State.OPEN),
        (BrokenOff(), True, State.OPEN),
    ],
)
def test_a_good_check_lets_back_only_whom_nobody_could_reach(
    error: Exception, ok: bool, state: State
) -> None:
    service, told = service_of(named("a"))
    for _ in range(5):
        ask(service, error)
    assert service.breakers.ejected(named("a")[0])

    service.checked(named("a")[0], ok, "")

    assert service.breakers.of(named("a")[0]).state is state
    assert [each[2] for each in told.of["breaker"]] == ["open", "half_open"][
        : 2 if state is not State.OPEN else 1
    ]


def shown(service: Service) -> list[tuple[str, str, str | None, bool]]:
    return [(letter(each.instance), each.state, each.why, each.askable) for each in service.states()]


def test_an_instance_that_nothing_speaks_against_is_available() -> None:
    service, _ = service_of(named("ab"))

    assert shown(service) == [("a", "available", None, True), ("b", "available", None, True)]
    assert [each.last_check for each in service.states()] == [None, None]
    service.checked(named("a")[0], True, "")
    assert shown(service)[0] == ("a", "available", None, True)


def test_one_whose_breaker_is_open_is_ejected_for_its_reason_whatever_the_checks_say() -> None:
    service, _ = service_of(named("a"), breaker=BreakerSettings(failures_in_a_row=2))
    for _ in range(2):
        ask(service, BrokenOff())

    assert shown(service) == [("a", "ejected", "2 failures in a row", False)]
    for _ in range(3):
        service.checked(named("a")[0], False, "status 503")
    assert shown(service) == [("a", "ejected", "2 failures in a row", False)]


def test_one_whose_time_is_over_is_still_ejected_and_can_be_asked() -> None:
    """Else a service that nobody asks, because it is said to be ill, would be ill for ever."""
    numbers = BreakerSettings(failures_in_a_row=1, open_seconds=1e-9)
    service, _ = service_of(named("a"), breaker=numbers)

    ask(service, BrokenOff())

    assert shown(service) == [("a", "ejected", "1 failures in a row", True)]


def test_one_that_the_checks_take_out_is_unhealthy_for_what_the_last_bad_one_found() -> None:
    service, _ = service_of(named("abc"))
    [b] = named("b")
    for cause in ("status 500", "status 503", "TimeoutError"):
        service.checked(b, False, cause)

    assert shown(service)[1] == ("b", "unhealthy", "health checks failed: TimeoutError", False)
    service.checked(b, True, "")
    assert shown(service)[1] == ("b", "unhealthy", "health checks failed: TimeoutError", False)
    service.checked(b, True, "")
    assert shown(service)[1] == ("b", "available", None, True)


def test_one_that_a_few_calls_decide_on_is_half_open() -> None:
    service, _ = service_of(named("a"), breaker=BreakerSettings(failures_in_a_row=1))
    ask(service, UpstreamUnavailable())
    service.checked(named("a")[0], True, "")

    assert shown(service) == [("a", "half_open", "a health check reached it", True)]
    for _ in range(3):
        service.checked(named("a")[0], False, "status 503")
    assert shown(service) == [("a", "unhealthy", "health checks failed: status 503", False)]


def test_one_that_a_registry_has_added_is_new_until_a_check_succeeds() -> None:
    """It is asked all the same while there is no other."""
    service, _ = service_of(())
    a, b = named("ab")
    why = "no health check of it has succeeded yet"
    service.found(a)
    service.instances = lambda: (a,)
    assert shown(service) == [("a", "new", why, True)]

    service.joined(b)
    service.instances = lambda: (a, b)
    assert shown(service) == [("a", "new", why, False), ("b", "available", None, True)]
    service.checked(a, True, "")
    assert shown(service)[0] == ("a", "available", None, True)


def test_what_is_under_way_is_shown_by_instance() -> None:
    service, _ = service_of(named("ab"))
    held = [service.balance(call(), lambda _: streaming(b"x")) for _ in range(3)]

    assert [each.in_flight for each in service.states()] == [2, 1]
    for each in held:
        each.close()
    assert [each.in_flight for each in service.states()] == [0, 0]


def test_checks_that_are_not_believed_are_told() -> None:
    service, _ = service_of(named("abc"), health=HealthThresholds(unhealthy_after=1))
    service.checked(named("a")[0], False, "x")
    assert not service.panics()

    service.checked(named("b")[0], False, "x")
    assert service.panics()
    assert not service_of(())[0].panics()


def test_of_an_instance_that_is_gone_nothing_is_left() -> None:
    service, told = service_of(named("ab"), breaker=BreakerSettings(failures_in_a_row=1))
    [a] = named("a")
    ask(service, BrokenOff())
    for _ in range(3):
        service.checked(a, False, "status 503")

    service.gone(a)

    assert [each for each, _ in service.breakers.snapshots()] == list(named("b"))
    assert service.health.last(a) is None
    assert told.of["forget"] == [("aux", a.url)]


def test_a_new_instance_has_a_breaker_before_it_is_asked() -> None:
    service, _ = service_of(())
    assert service.breakers.snapshots() == []

    service.joined(named("a")[0])

    assert [(each, found.state) for each, found in service.breakers.snapshots()] == [
        (named("a")[0], State.CLOSED)
    ]


def test_the_name_the_instances_and_the_end_are_as_given() -> None:
    service, _ = service_of()

    assert service.name == "aux"
    assert service.instances() == THREE
    assert service.send is answer


def test_the_numbers_are_not_changed() -> None:
    numbers = ServiceNumbers(request_timeout=1.0, attempt_timeout=1.0)

    assert replace(numbers) == numbers
    assert numbers.algorithm in ALGORITHMS
