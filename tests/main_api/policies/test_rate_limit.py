"""Who may ask how often: by route or by plan, what is said of it, and that threads change nothing of it."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.strategies import SlidingWindowCounterRateLimiter

from chassis.errors import Forbidden
from main_api.errors import QuotaExceeded, RateLimited
from main_api.exchange import Call, Caller, Plan, Quota, Reply, Window
from main_api.policies.rate_limit import Counted, RateLimit, counted_as
from main_api.state.limits import LocalLimits
from main_api.state.limits_memory import MemoryLimits
from tests.main_api.policies.fakes import Clock, answer, call_at, failing

WINDOW = Window(3, 900)
SOMEBODY = Caller("192.0.2.1")


class Gateway:
    """Routes with a limit, and a clock for all of it."""

    def __init__(self, default: Window | None = WINDOW, wall: float = 0.0) -> None:
        self.clock = Clock(1000.25)
        strategy = SlidingWindowCounterRateLimiter(MemoryLimits(clock=self.clock))
        self.limits = LocalLimits(strategy, wall=lambda: wall + self.clock.now - 1000.25)
        self._default = default
        self.headers: dict[str, str] = {}
        self.error: RateLimited | None = None

    def ask(self, caller: Caller = SOMEBODY, route: str = "buckets-list") -> bool:
        """Whether a request passes; keeps the headers that its answer gets, and the error."""
        call = call_at(self.clock, caller=caller)
        self.error = None
        passed: list[Call] = []

        def proceed(each: Call) -> Reply:
            passed.append(each)
            return Reply(200)

        try:
            RateLimit(self.limits, route, self._default)(call, proceed)
        except RateLimited as error:
            self.error = error
        assert passed == ([] if self.error else [call])
        self.headers = dict(call.trail.headers)
        assert len(self.headers) == len(call.trail.headers)
        return self.error is None

    def many(self, count: int, caller: Caller = SOMEBODY, route: str = "buckets-list") -> int:
        return sum(self.ask(caller, route) for _ in range(count))


# By route.


def test_so_many_pass_and_the_rest_is_429_until_there_is_room_again() -> None:
    gateway = Gateway()

    assert gateway.many(10) == 3
    assert gateway.error is not None
    assert (gateway.error.status, gateway.error.code, gateway.error.retry_after) == (429, "rate_limited", 901)
    gateway.clock.now += 900
    assert not gateway.ask()
    gateway.clock.now += 1
    assert gateway.ask()


def test_each_route_and_each_caller_has_its_own() -> None:
    gateway = Gateway()
    others = [
        Caller("192.0.2.2"),
        Caller("2001:db8::1"),
        Caller("192.0.2.1", "user:1"),
        Caller("192.0.2.1", ""),
    ]

    assert gateway.many(4) == 3
    assert gateway.many(4, route="parameters-list") == 3
    for other in others:
        assert gateway.many(4, other) == 3
    # Whoever has a subject is that one wherever he asks from.
    assert gateway.many(4, Caller("198.51.100.7", "user:1")) == 0


def test_a_subject_that_is_called_like_an_address_is_not_counted_with_it() -> None:
    gateway = Gateway()

    assert gateway.many(4, Caller("192.0.2.9", "192.0.2.1")) == 3
    assert gateway.many(4) == 3


def test_an_ipv6_customer_has_one_count_whatever_address_he_takes() -> None:
    gateway = Gateway()

    passed = sum(gateway.ask(Caller(f"2001:db8:1:2:{number:x}::{number:x}")) for number in range(50))

    assert passed == 3
    assert gateway.ask(Caller("2001:db8:1:3::1"))


def test_the_answer_says_what_is_left() -> None:
    gateway = Gateway(Window(100, 900))
    gateway.ask()

    assert gateway.headers == {
        "RateLimit-Policy": '"default";q=100;w=900',
        "RateLimit": '"default";r=99;t=900',
    }
    gateway.clock.now += 100.5
    gateway.ask()
    assert gateway.headers["RateLimit"] == '"default";r=98;t=800'
    gateway.many(98)
    assert gateway.headers["RateLimit"] == '"default";r=0;t=800'
    assert not gateway.ask()
    assert gateway.headers["RateLimit"] == '"default";r=0;t=800'


def test_an_error_behind_it_says_so_too_and_other_headers_stay() -> None:
    gateway = Gateway()
    call = call_at(gateway.clock)
    call.trail.headers = (("X-Other", "kept"),)

    with pytest.raises(Forbidden):
        RateLimit(gateway.limits, "r", WINDOW)(call, failing(Forbidden()))

    assert [name for name, _ in call.trail.headers] == ["X-Other", "RateLimit-Policy", "RateLimit"]


def test_without_a_limit_all_pass_and_nothing_is_said() -> None:
    gateway = Gateway(default=None)

    assert gateway.many(100) == 100
    assert gateway.headers == {}


# By plan.


def planned(plan: Plan, subject: str = "key:1") -> Caller:
    return Caller("192.0.2.1", subject, plan=plan)


def test_a_plan_counts_over_all_routes_and_the_default_does_not() -> None:
    gateway, caller = Gateway(), planned(Plan("p", rate=Window(5, 60)))

    assert gateway.many(4, caller, "one") + gateway.many(4, caller, "other") == 5
    assert gateway.many(4, planned(Plan("p", rate=Window(5, 60)), "key:2")) == 4
    assert gateway.headers["RateLimit-Policy"] == '"rate";q=5;w=60'


def test_a_plan_without_bounds_has_none() -> None:
    gateway = Gateway()

    assert gateway.many(100, planned(Plan("p"))) == 100
    assert gateway.headers == {}


def test_all_that_a_plan_bounds_is_told() -> None:
    gateway = Gateway(wall=86_400 * 10 + 3600.5)
    gateway.ask(planned(Plan("p", Window(100, 60), Window(5, 1), Quota(1000, "day"))))

    assert gateway.headers == {
        "RateLimit-Policy": '"burst";q=5;w=1, "rate";q=100;w=60, "quota";q=1000;w=86400',
        "RateLimit": '"burst";r=4;t=1, "rate";r=99;t=60, "quota";r=999;t=82800',
    }


def test_what_the_burst_refuses_the_rate_does_not_count_nor_what_the_rate_refuses_the_quota() -> None:
    gateway, caller = Gateway(), planned(Plan("p", Window(4, 60), Window(2, 1), Quota(10, "day")))

    assert gateway.many(9, caller) == 2
    assert gateway.headers["RateLimit"].split(", ")[1:] == ['"rate";r=2;t=60', '"quota";r=8;t=86400']
    gateway.clock.now += 3
    assert gateway.many(9, caller) == 2
    gateway.clock.now += 3
    assert gateway.many(1, caller) == 0
    assert gateway.headers["RateLimit"].split(", ")[2] == '"quota";r=6;t=86394'


def test_a_burst_and_a_rate_that_are_alike_are_two_counts() -> None:
    assert Gateway().many(9, planned(Plan("p", Window(4, 60), Window(4, 60)))) == 4


def test_a_quota_that_is_used_up_lasts_to_the_end_of_its_period() -> None:
    gateway, caller = Gateway(wall=86_400 - 50.5), planned(Plan("p", quota=Quota(2, "day")))

    assert gateway.many(5, caller) == 2
    assert isinstance(gateway.error, QuotaExceeded)
    assert (gateway.error.status, gateway.error.code, gateway.error.retry_after) == (
        429,
        "quota_exceeded",
        51,
    )
    gateway.clock.now += 50
    assert not gateway.ask(caller)
    gateway.clock.now += 1
    assert gateway.ask(caller)


def test_what_lasts_longest_is_what_the_refusal_says() -> None:
    gateway, caller = Gateway(), planned(Plan("p", None, Window(2, 5), Quota(2, "day")))
    gateway.many(2, caller)

    # The burst refuses first; but when it is over the quota still does.
    assert not gateway.ask(caller)
    assert isinstance(gateway.error, QuotaExceeded)
    assert gateway.error.retry_after == 86_400


def test_what_was_just_used_up_counts_for_when_to_come_back_too() -> None:
    gateway, caller = Gateway(), planned(Plan("p", Window(1, 2), Window(2, 10)))
    gateway.ask(caller)
    gateway.clock.now += 0.1

    # Two seconds later the rate has room again, and the burst, whose last one this was, has none.
    assert not gateway.ask(caller)
    assert gateway.error is not None
    assert gateway.error.retry_after == 10
    gateway.clock.now += 9
    assert not gateway.ask(caller)


PLANS = st.builds(
    Plan,
    st.just("p"),
    st.builds(Window, st.integers(1, 8), st.integers(2, 20)) | st.none(),
    st.builds(Window, st.integers(1, 4), st.integers(1, 4)) | st.none(),
    st.builds(Quota, st.integers(1, 30), st.just("day")) | st.none(),
)


@given(PLANS, st.lists(st.sampled_from((0.0, 0.0, 0.0, 0.1, 0.7, 1.0, 3.3)), max_size=40))
def test_after_retry_after_one_passes_and_a_second_before_none(plan: Plan, gaps: list[float]) -> None:
    def played() -> Gateway:
        gateway = Gateway(wall=86_400 - 100)
        for gap in gaps:
            gateway.clock.now += gap
            gateway.ask(planned(plan))
        return gateway

    gateway = played()
    if gateway.error is None or gateway.error.retry_after is None:
        return
    wait = gateway.error.retry_after
    gateway.clock.now += wait
    assert gateway.ask(planned(plan))
    gateway = played()
    gateway.clock.now += wait - 1
    assert not gateway.ask(planned(plan))


POLICY = re.compile(r'"[a-z]+";q=[1-9]\d*;w=[1-9]\d*(, "[a-z]+";q=[1-9]\d*;w=[1-9]\d*)*')
LEFT = re.compile(r'"[a-z]+";r=\d+;t=\d+(, "[a-z]+";r=\d+;t=\d+)*')


@given(PLANS, st.lists(st.sampled_from((0.0, 0.3, 5.0)), min_size=1, max_size=20))
def test_the_headers_are_lists_of_the_drafts_syntax(plan: Plan, gaps: list[float]) -> None:
    gateway = Gateway()
    for gap in gaps:
        gateway.clock.now += gap
        passed = gateway.ask(planned(plan))
        if (plan.rate, plan.burst, plan.quota) == (None, None, None):
            continue
        assert POLICY.fullmatch(gateway.headers["RateLimit-Policy"])
        assert LEFT.fullmatch(gateway.headers["RateLimit"])
        if not passed:
            assert ";r=0;" in gateway.headers["RateLimit"]


# Addresses.


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:", "unix:"),
        ("192.0.2.1:80", "192.0.2.1:80"),
    ],
)
def test_what_an_address_counts_for(address: str, counted: str) -> None:
    assert counted_as(address) == counted


@given(st.ip_addresses(v=6).filter(lambda each: each.ipv4_mapped is None), st.integers(0, 2**64 - 1))
def test_all_of_a_64_count_for_one(address: object, host: int) -> None:
    other = type(address)((int(address) >> 64 << 64) + host)  # type: ignore[call-overload]

    assert counted_as(str(address)) == counted_as(str(other)) or other.ipv4_mapped


@given(st.text())
def test_what_is_no_address_counts_as_something(text: str) -> None:
    assert isinstance(counted_as(text), str)


# What is no request of a route.


def test_what_is_counted_apart_touches_no_route() -> None:
    gateway = Gateway()
    login, refused = Counted(gateway.limits, WINDOW, "login"), Counted(gateway.limits, WINDOW, "refused")

    assert [login.take("192.0.2.1").allowed for _ in range(4)] == [True] * 3 + [False]
    assert login.take("192.0.2.1").retry_after == 901
    assert refused.take("192.0.2.1").allowed
    assert login.take("192.0.2.2").allowed
    assert gateway.many(4) == 3


# Threads.


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize(
    ("caller", "most"),
    [(SOMEBODY, 3), (planned(Plan("p", Window(3, 900), Window(5, 900), Quota(4, "day"))), 3)],
    ids=["default", "plan"],
)
def test_of_ten_times_the_limit_at_once_exactly_the_limit_passes(caller: Caller, most: int) -> None:
    rounds = 12
    gateways = [Gateway() for _ in range(rounds)]
    together = threading.Barrier(16)

    def ask(_: int) -> list[int]:
        passed = []
        for gateway in gateways:
            policy, count = RateLimit(gateway.limits, "r", WINDOW), 0
            together.wait(20)
            for _ in range(2):
                with suppress(RateLimited):
                    policy(call_at(gateway.clock, caller=caller), answer)
                    count += 1
            passed.append(count)
        return passed

    with ThreadPoolExecutor(16) as threads:
        passed = [sum(each) for each in zip(*threads.map(ask, range(16)), strict=True)]

    assert passed == [most] * rounds
