"""The link that gives answers again: when, to whom, for what failure, and what it says about it."""

import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from chassis.errors import ServiceError
from main_api import errors
from main_api.errors import (
    BadGateway,
    BareServerError,
    BrokenOff,
    Busy,
    CircuitOpen,
    GatewayTimeout,
    Malformed,
    Overloaded,
    ServiceRefused,
    Unexpected,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Caller, Headers, Proceed, Reply
from main_api.policies.cache import Cache, CacheSettings, Fetched
from main_api.policies.coalescing import Flights
from main_api.policies.invalidation import Invalidation
from main_api.state.entries import Entry, pack
from main_api.state.memory import MemoryStore
from tests.main_api.policies.fakes import Clock, failing, streaming, until, waiting
from tests.main_api.support import call

CANARY = "canary-5f0e9c"
PASSING = ["aws_throttled", "aws_timeout", "aws_unreachable", "aws_error"]
NOT_PASSING = ["aws_access_denied", "aws_credentials", "aws_of_tomorrow"]
OUR_OWN: list[ServiceError] = [
    BadGateway(),
    BrokenOff(),
    Malformed(),
    BareServerError(),
    Busy(),
    Unexpected(),
    CircuitOpen(),
    GatewayTimeout(),
    Overloaded(),
    UpstreamUnavailable(),
]
REFUSED = [(400, "invalid_request"), (403, "forbidden"), (404, "parameter_not_found")]


def aws(code: str) -> ServiceRefused:
    return ServiceRefused(503 if code == "aws_throttled" else 502, code, "AWS failed")


class Origin:
    """The rest of the chain: gives ``says`` or raises it, 304 for its tag, and keeps what it was asked."""

    def __init__(self, *fields: tuple[str, str], body: bytes = b'{"n":1}', status: int = 200) -> None:
        self.says: Reply | Exception | None = None
        self.fields: Headers = fields
        self.body = body
        self.status = status
        self.meanwhile: Callable[[], object] = lambda: None
        self.asked: list[Call] = []
        self.closed = 0
        self.not_modified: Headers = ()

    def __call__(self, asked: Call) -> Reply:
        self.asked.append(asked)
        self.meanwhile()
        if isinstance(self.says, Exception):
            raise self.says
        reply = self.says or self._answer(dict(asked.headers).get("If-None-Match"))
        reply.on_close(self._close)
        return reply

    def _answer(self, tag: str | None) -> Reply:
        own = dict(self.fields).get("ETag")
        if own is not None and own == tag:
            return Reply(304, self.not_modified or self.fields)
        return Reply(self.status, self.fields, self.body)

    def _close(self) -> None:
        self.closed += 1


class Made:
    """A cache over a store of its own, and all that it told."""

    def __init__(self, *, lifetime: float | None = None, size: int = 1 << 20) -> None:
        self.clock = Clock()
        self.store = MemoryStore(size, self.clock)
        self.flights: Flights[Fetched] = Flights(self.clock)
        self.invalidation = Invalidation()
        self.told: list[str] = []
        self.cache = self.of("s", lifetime)

    def of(
        self, service: str, lifetime: float | None = None, bypass: Iterable[tuple[str, str]] = ()
    ) -> Cache:
        settings = CacheSettings(lifetime=lifetime, bypass=frozenset(bypass))
        return Cache(settings, service, self.store, self.flights, self.invalidation, told=self.told.append)

    def ask(
        self,
        proceed: Proceed,
        control: str | None = None,
        *,
        path: str = "/p",
        query: Iterable[tuple[str, str]] = (),
        scopes: Iterable[str] = (),
        method: str = "GET",
        seconds: float = 10.0,
    ) -> Reply:
        made = replace(
            call(path, query=query),
            method=method,
            deadline=self.clock.now + seconds,
            caller=Caller("192.0.2.1", scopes=frozenset(scopes)),
            client_header={"Cache-Control": control}.get,
        )
        return self.cache(made, proceed)


def said(reply: Reply) -> str:
    """Give what ``Cache-Status`` says of our cache; it says it once."""
    [value] = [value for name, value in reply.headers if name == "Cache-Status"]
    name, _, parameters = value.partition("; ")
    assert name == "main-api"
    return parameters


def control(value: str, **fields: str) -> tuple[tuple[str, str], ...]:
    return (("Cache-Control", value), *((name.replace("_", "-"), each) for name, each in fields.items()))


FRESH = control("max-age=60, stale-if-error=300", ETag='W/"a"')
BARE = control("max-age=60, stale-if-error=300")


# Stored and given again.


def test_a_fresh_answer_is_given_again_with_its_age_and_nobody_is_asked() -> None:
    made, origin = Made(), Origin(*FRESH)
    first = made.ask(origin)
    made.clock.now += 12.5

    second = made.ask(failing(AssertionError("it was asked")))

    assert said(first) == "fwd=uri-miss; fwd-status=200; stored; ttl=60"
    assert first.header("Age") is None
    assert (second.status, second.body) == (200, b'{"n":1}')
    assert said(second) == "hit; ttl=47"
    assert second.header("Age") == "12"
    assert second.header("ETag") == 'W/"a"'
    assert second.header("Cache-Control") == "max-age=60, stale-if-error=300"
    assert made.told == ["miss", "hit"]
    assert origin.closed == 1


def test_a_stale_answer_is_not_given_and_the_new_one_takes_its_place() -> None:
    made, origin = Made(), Origin(*BARE)
    made.ask(origin)
    made.clock.now += 60
    origin.body = b'{"n":2}'

    assert made.ask(origin).body == b'{"n":2}'
    last = made.ask(origin)

    assert (last.body, said(last), last.header("Age")) == (b'{"n":2}', "hit; ttl=60", "0")
    assert made.told == ["miss", "miss", "hit"]


def test_a_stale_answer_that_is_confirmed_is_fresh_again_with_the_new_fields() -> None:
    """RFC 9111, 4.3.4 and 3.2."""
    made = Made()
    origin = Origin(
        *control("max-age=60, stale-if-error=300", ETag='W/"a"', X_Service_Version="1", X_Kept="k")
    )
    made.ask(origin)
    made.clock.now += 100
    origin.not_modified = control("max-age=30", ETag='W/"a"', X_Service_Version="2", Set_Cookie="a=b")

    confirmed = made.ask(origin)
    made.clock.now += 29
    again = made.ask(origin)
    made.clock.now += 1
    later = made.ask(origin)

    assert [dict(each.headers).get("If-None-Match") for each in origin.asked] == [None, 'W/"a"', 'W/"a"']
    assert (confirmed.status, confirmed.body) == (200, b'{"n":1}')
    assert said(confirmed) == "fwd=stale; fwd-status=304; stored; ttl=30"
    assert said(again) == "hit; ttl=1"
    assert again.header("Age") == "29"
    assert said(later).startswith("fwd=stale; fwd-status=304")
    for reply in (confirmed, again, later):
        fields = {name: value for name, value in reply.headers if name not in ("Age", "Cache-Status")}
        assert fields == {
            "Cache-Control": "max-age=30",
            "ETag": 'W/"a"',
            "X-Service-Version": "2",
            "X-Kept": "k",
        }
    assert made.told == ["miss", "validated", "hit", "validated"]
    assert origin.closed == 3


def test_a_confirmation_of_another_tag_leads_to_one_unconditional_call() -> None:
    """RFC 9111, 4.3.4: it says nothing of what we have, so that the answer has to be asked for."""
    made = Made()
    made.ask(Origin(*control("max-age=60", ETag='"a"')))
    made.clock.now += 100
    stati, tags, closed = [304, 200], list[str | None](), list[int]()

    def proceed(asked: Call) -> Reply:
        tags.append(dict(asked.headers).get("If-None-Match"))
        # What the first holds, a slot of the bulkhead for one, is free for the second.
        assert len(closed) == len(tags) - 1
        status = stati.pop(0)
        reply = Reply(status, control("max-age=60", ETag='"b"'), b"" if status == 304 else b"new")
        reply.on_close(lambda: closed.append(status))
        return reply

    reply = made.ask(proceed)
    again = made.ask(failing(AssertionError("it was asked")))

    assert tags == ['"a"', None]
    assert closed == [304, 200]
    assert (reply.status, reply.body, reply.header("ETag")) == (200, b"new", '"b"')
    assert said(reply) == "fwd=stale; fwd-status=200; stored; ttl=60"
    assert (again.body, again.header("ETag"), said(again)) == (b"new", '"b"', "hit; ttl=60")
    assert made.told == ["miss", "miss", "hit"]


def test_a_failure_of_the_call_after_a_confirmation_of_another_tag_is_one_of_asking() -> None:
    made, closed = kept(ETag='"a"'), list[int]()

    def proceed(asked: Call) -> Reply:
        if "If-None-Match" not in dict(asked.headers):
            raise BrokenOff
        reply = Reply(304, (("ETag", '"b"'),))
        reply.on_close(lambda: closed.append(304))
        return reply

    reply = made.ask(proceed)

    assert (reply.header("ETag"), said(reply)) == ('"a"', "fwd=stale; detail=bad_gateway; ttl=-1")
    assert closed == [304]


@pytest.mark.parametrize("ours", ['W/"a"', '"a"'])
@pytest.mark.parametrize("theirs", ['W/"a"', '"a"'])
def test_a_weak_tag_and_a_strong_one_of_the_same_name_confirm_each_other(ours: str, theirs: str) -> None:
    """RFC 9110, 13.1.2: If-None-Match compares weakly."""
    made, origin = Made(), Origin(*control("max-age=60", ETag=ours))
    made.ask(origin)
    made.clock.now += 100
    origin.says = Reply(304, (("ETag", theirs),))

    reply = made.ask(origin)

    assert [dict(each.headers).get("If-None-Match") for each in origin.asked] == [None, ours]
    assert (reply.status, reply.body, reply.header("ETag")) == (200, b'{"n":1}', theirs)
    assert said(reply) == "fwd=stale; fwd-status=304; stored; ttl=60"
    assert said(made.ask(origin)) == "hit; ttl=60"


def test_a_confirmation_without_fields_starts_the_same_time_anew() -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)
    made.clock.now += 100
    origin.says = Reply(304)

    assert said(made.ask(origin)) == "fwd=stale; fwd-status=304; stored; ttl=60"
    assert said(made.ask(origin)) == "hit; ttl=60"


def test_a_confirmation_has_the_age_of_its_sender() -> None:
    """RFC 9111, 4.2.3: the age is that of the 304."""
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)
    made.clock.now += 100
    origin.says = Reply(304, (("ETag", 'W/"a"'), ("Age", "50")))

    made.ask(origin)
    again = made.ask(origin)

    assert (again.header("Age"), said(again)) == ("50", "hit; ttl=10")


def test_a_confirmation_of_another_tag_confirms_nothing() -> None:
    """RFC 9111, 4.3.4: it freshens only what it has the validator of; the body is another's."""
    made, origin = Made(), Origin(*control("max-age=60", ETag='"a"'))
    made.ask(origin)
    made.clock.now += 100
    origin.says = Reply(304, control("max-age=60", ETag='"b"'))

    try:
        found: Reply | None = made.ask(origin)
    except ServiceError:
        found = None

    assert found is None or (found.body, found.header("ETag")) != (b'{"n":1}', '"b"')
    kept = made.store.get("s /p?#")
    assert kept is None or kept.header("ETag") != '"b"'


@pytest.mark.parametrize("forbidden", ["no-store", "private", "no-store, max-age=60"])
def test_a_confirmation_that_forbids_to_keep_it_is_given_once_and_the_copy_is_gone(forbidden: str) -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)
    made.clock.now += 100
    origin.not_modified = control(forbidden, ETag='W/"a"')

    last = made.ask(origin)

    assert (last.status, last.body, last.header("Cache-Control")) == (200, b'{"n":1}', forbidden)
    assert said(last) == "fwd=stale; fwd-status=304"
    assert made.store.used == 0
    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()))
    assert origin.closed == 2


def test_an_answer_that_may_not_be_kept_takes_away_the_one_before() -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)
    made.clock.now += 60
    origin.fields = control("no-store", ETag='W/"b"')

    reply = made.ask(origin)

    assert said(reply) == "fwd=stale; fwd-status=200"
    assert made.store.used == 0
    assert made.told == ["miss", "uncacheable"]
    assert origin.closed == 1
    reply.close()
    assert origin.closed == 2


@pytest.mark.parametrize("value", ["no-store", "private", "max-age=60, private", "public", ""])
def test_what_may_not_be_stored_is_not(value: str) -> None:
    made, origin = Made(), Origin(*control(value))

    replies = [made.ask(origin) for _ in range(3)]

    assert len(origin.asked) == 3
    assert made.store.used == 0
    assert {said(each) for each in replies} == {"fwd=uri-miss; fwd-status=200"}
    assert made.told == ["uncacheable"] * 3


@pytest.mark.parametrize("value", ["no-cache, max-age=60", "max-age=60, no-cache", 'max-age=9, no-cache="x"'])
def test_no_cache_of_the_service_means_ask_each_time(value: str) -> None:
    """RFC 9111, 5.2.2.4."""
    made, origin = Made(), Origin(*control(value, ETag='"a"'))

    replies = [made.ask(origin) for _ in range(3)]

    assert [dict(each.headers).get("If-None-Match") for each in origin.asked] == [None, '"a"', '"a"']
    assert [each.body for each in replies] == [b'{"n":1}'] * 3
    assert made.told == ["miss", "validated", "validated"]


def test_an_answer_that_brings_its_age_is_fresh_for_what_is_left() -> None:
    made, origin = Made(), Origin(*control("max-age=60", Age="50"))
    made.ask(origin)
    made.clock.now += 9

    hit = made.ask(origin)
    made.clock.now += 1
    made.ask(origin)

    assert (hit.header("Age"), said(hit)) == ("59", "hit; ttl=1")
    assert len(origin.asked) == 2


def test_an_age_that_the_service_gives_is_passed_on() -> None:
    """RFC 9111, 5.1: a cache behind us must not take an answer for younger than it is."""
    made, origin = Made(), Origin(*control("max-age=60", Age="50"))

    first = made.ask(origin)

    assert first.header("Age") == "50"


def test_what_was_answered_or_confirmed_for_this_request_has_an_age_only_if_its_sender_said_one() -> None:
    """RFC 9111, 5.1: an Age implies that it was not made for this request."""
    made, origin = Made(), Origin(*FRESH)

    def take_long() -> None:
        made.clock.now += 2

    origin.meanwhile = take_long
    ages = [made.ask(origin).header("Age"), made.ask(origin, "no-cache").header("Age")]
    origin.not_modified = (*FRESH, ("Age", "5"))
    ages.append(made.ask(origin, "no-cache").header("Age"))
    origin.fields = control("max-age=60", Age="7")
    ages.append(made.ask(origin, "no-cache").header("Age"))

    # What is kept has the time on its way in its age.
    assert ages == [None, None, "7", "9"]
    assert made.told == ["miss", "validated", "validated", "miss"]


def test_the_way_counts_for_the_age() -> None:
    made, origin = Made(), Origin(*control("max-age=60"))

    def take_long() -> None:
        made.clock.now += 8

    origin.meanwhile = take_long
    made.ask(origin)

    assert made.ask(origin).header("Age") == "8"


def test_a_clock_that_goes_back_makes_no_age_below_zero_and_nothing_older_than_it_is() -> None:
    made, origin = Made(), Origin(*BARE)
    made.ask(origin)
    made.clock.now -= 500

    hit = made.ask(origin)

    assert (hit.header("Age"), said(hit)) == ("0", "hit; ttl=60")


def test_a_clock_that_goes_back_meanwhile_does_not_make_an_answer_live_longer() -> None:
    made, origin = Made(), Origin(*BARE)

    def go_back() -> None:
        made.clock.now -= 500

    origin.meanwhile = go_back
    made.ask(origin)
    made.clock.now += 61

    made.ask(origin)
    assert len(origin.asked) == 2


def test_two_fields_of_cache_control_are_one_list() -> None:
    made, origin = Made(), Origin(("Cache-Control", "max-age=60"), ("cache-control", "no-store"))

    made.ask(origin)

    assert made.store.used == 0


@pytest.mark.parametrize("lifetime", [-1.0, float("nan"), float("inf")])
def test_a_lifetime_that_is_no_time_is_refused(lifetime: float) -> None:
    with pytest.raises(ValueError, match=r"^lifetime: "):
        CacheSettings(lifetime=lifetime)


def test_a_lifetime_of_the_route_takes_the_place_of_the_services() -> None:
    made = Made(lifetime=5)
    origin = Origin(*control("max-age=60"))
    made.ask(origin)
    made.clock.now += 4
    assert said(made.ask(origin)) == "hit; ttl=1"
    made.clock.now += 1
    made.ask(origin)

    assert len(origin.asked) == 2


def test_what_is_too_large_is_given_and_said_not_to_be_stored() -> None:
    made, origin = Made(size=8 * 700), Origin(*FRESH, body=b"x" * 700)

    assert said(made.ask(origin)) == "fwd=uri-miss; fwd-status=200; ttl=60"
    assert made.store.used == 0


def test_a_stream_is_passed_unread_and_its_predecessor_is_gone() -> None:
    made, origin = Made(lifetime=60), Origin()
    made.ask(origin)
    made.clock.now += 60
    origin.says = streamed = streaming(b"a", b"b")

    reply = made.ask(origin)

    assert reply is streamed
    assert list(reply.body) == [b"a", b"b"]
    assert made.store.used == 0


# What a client asks.


def test_no_cache_asks_always_and_what_comes_is_for_the_next() -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)

    second = made.ask(origin, "no-cache")
    origin.body, origin.fields = b'{"n":2}', control("max-age=60", ETag='"b"')
    third = made.ask(origin, "no-cache")

    assert said(second) == "fwd=request; fwd-status=304; stored; ttl=60"
    assert said(third) == "fwd=request; fwd-status=200; stored; ttl=60"
    assert made.ask(origin).body == b'{"n":2}'
    assert len(origin.asked) == 3


def test_no_store_asks_always_unconditionally_and_leaves_no_trace() -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin, "no-store")
    assert made.store.used == 0

    made.ask(origin)
    before = made.store.get("s /p?#")
    made.clock.now += 5
    reply = made.ask(origin, "no-store")

    assert dict(origin.asked[-1].headers).get("If-None-Match") is None
    assert said(reply) == "fwd=request; fwd-status=200"
    assert reply.header("Age") is None
    assert made.store.get("s /p?#") == before
    assert made.told == ["uncacheable", "miss", "uncacheable"]


@pytest.mark.parametrize(
    ("value", "calls"), [("max-age=10", 1), ("max-age=9", 2), ("max-age=0", 2), ("max-age=abc", 2), ("x", 1)]
)
def test_max_age_of_the_client_is_the_age_it_takes(value: str, calls: int) -> None:
    made, origin = Made(), Origin(*BARE)
    made.ask(origin)
    made.clock.now += 10

    made.ask(origin, value)

    assert len(origin.asked) == calls


@pytest.mark.parametrize(
    "value", ["only-if-cached", "only-if-cached, max-age=60", "max-age=10, Only-If-Cached"]
)
def test_only_if_cached_gives_what_is_fresh_and_else_504(value: str) -> None:
    made, origin = Made(), Origin(*FRESH)
    nobody = failing(AssertionError("it was asked"))
    with pytest.raises(GatewayTimeout):
        made.ask(nobody, value)
    made.ask(origin)
    made.clock.now += 10

    assert said(made.ask(nobody, value)) == "hit; ttl=50"
    made.clock.now += 50
    with pytest.raises(GatewayTimeout):
        made.ask(nobody, value)


@pytest.mark.parametrize("value", ["no-cache", "no-store", "max-age=0"])
def test_only_if_cached_with_what_forbids_the_stored_is_504(value: str) -> None:
    made = Made()
    made.ask(Origin(*FRESH))
    made.clock.now += 1

    with pytest.raises(GatewayTimeout):
        made.ask(failing(AssertionError("it was asked")), f"{value}, only-if-cached")


# What never meets the cache.


SECRET = ("withDecryption", "true")
SECRETS = [
    [SECRET],
    [("name", "/p"), SECRET],
    [SECRET, ("name", "/p")],
    [("withDecryption", "false"), SECRET],
]


def bypassing(lifetime: float | None = None) -> Made:
    made = Made()
    made.cache = made.of("s", lifetime, [SECRET, ("x", "y")])
    return made


def filled(query: list[tuple[str, str]]) -> Made:
    """Make a bypassing cache in whose store there is an answer for ``query`` all the same."""
    made = bypassing()
    cache, made.cache = made.cache, made.of("s")
    made.ask(Origin(*FRESH), query=query)
    assert made.store.used > 0
    made.told.clear()
    made.cache = cache
    return made


@pytest.mark.parametrize("query", SECRETS)
@pytest.mark.parametrize("lifetime", [None, 60.0])
def test_what_bypasses_is_never_stored(query: list[tuple[str, str]], lifetime: float | None) -> None:
    made, origin = bypassing(lifetime), Origin(*FRESH)

    replies = [made.ask(origin, query=query) for _ in range(3)]

    assert len(origin.asked) == 3
    assert made.store.used == 0
    assert [said(each) for each in replies] == ["fwd=bypass"] * 3
    assert {each.header("Age") for each in replies} == {None}
    # It is the service's own reply, which whoever gets it closes.
    assert origin.closed == 0


@pytest.mark.parametrize("query", SECRETS)
def test_what_bypasses_is_never_answered_from_the_store_and_never_conditional(
    query: list[tuple[str, str]],
) -> None:
    made, origin = filled(query), Origin(*FRESH, body=b"new")
    used = made.store.used

    fresh = made.ask(origin, query=query)
    made.clock.now += 100
    stale = made.ask(origin, query=query)

    assert [fresh.body, stale.body] == [b"new", b"new"]
    assert [said(fresh), said(stale)] == ["fwd=bypass"] * 2
    assert [dict(each.headers).get("If-None-Match") for each in origin.asked] == [None, None]
    assert made.store.used == used


@pytest.mark.parametrize("query", SECRETS)
def test_what_bypasses_shares_no_call(query: list[tuple[str, str]]) -> None:
    made, origin = bypassing(), Origin(*FRESH)
    found: list[bytes | object] = []

    def come_too() -> None:
        assert (len(made.flights), len(made.invalidation)) == (0, 0)
        # Who has no time to wait cannot have joined.
        found.append(made.ask(Origin(*FRESH, body=b"other"), query=query, seconds=0).body)

    origin.meanwhile = come_too

    assert made.ask(origin, query=query).body == b'{"n":1}'
    assert found == [b"other"]


@pytest.mark.parametrize("error", [BrokenOff(), aws("aws_throttled")])
@pytest.mark.parametrize("query", SECRETS)
def test_for_what_bypasses_nothing_stands_in(query: list[tuple[str, str]], error: ServiceError) -> None:
    made = filled(query)
    made.clock.now += 61

    with pytest.raises(type(error)) as caught:
        made.ask(failing(error), query=query)

    assert caught.value is error


@pytest.mark.parametrize(
    "query",
    [
        [],
        [("withDecryption", "false")],
        [("withDecryption", "TRUE")],
        [("withDecryption", "")],
        [("withdecryption", "true")],
        [("true", "withDecryption")],
        [("x", "true"), ("withDecryption", "y")],
    ],
)
def test_other_parameters_and_other_values_do_not_bypass(query: list[tuple[str, str]]) -> None:
    made, origin = bypassing(), Origin(*FRESH)

    assert said(made.ask(origin, query=query)) == "fwd=uri-miss; fwd-status=200; stored; ttl=60"
    assert said(made.ask(origin, query=query)) == "hit; ttl=60"


def test_a_change_with_a_bypassing_parameter_is_a_change() -> None:
    made = bypassing()
    made.ask(Origin(*FRESH))

    changed = made.ask(lambda _: Reply(204), method="PUT", query=[SECRET])

    assert changed.header("Cache-Status") is None
    assert not _is_stored(made, {})


# Whose is what.


KEYS: list[dict[str, Any]] = [
    {},
    {"path": "/q"},
    {"query": [("a", "1")]},
    {"query": [("a", "2")]},
    {"query": [("a", "1"), ("b", "2")]},
    {"query": [("a", "1&b=2")]},
    {"query": [("a", "1#parameters:decrypt")]},
    {"query": [("a", "1")], "scopes": ["parameters:decrypt"]},
    {"scopes": ["parameters:decrypt"]},
    {"scopes": ["a"]},
    {"scopes": ["a", "b"]},
    {"scopes": ["ab"]},
    {"scopes": ["a b"]},
    {"scopes": ["a&b"]},
    {"scopes": ["a,b"]},
    {"scopes": ["a%20b"]},
]


def test_path_query_and_scopes_are_the_key() -> None:
    made = Made()

    for number, key in enumerate(KEYS):
        made.ask(Origin(*FRESH, body=str(number).encode()), **key)

    found = [made.ask(failing(AssertionError("it was asked")), **key).body for key in KEYS]
    assert found == [str(number).encode() for number in range(len(KEYS))]


def test_the_service_is_part_of_the_key() -> None:
    made = Made()
    made.ask(Origin(*FRESH, body=b"one"))
    made.cache = made.of("other")

    assert made.ask(Origin(*FRESH, body=b"two")).body == b"two"


def test_the_order_of_the_scopes_is_not() -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin, scopes=["b", "a", "c"])
    made.ask(origin, scopes=["c", "b", "a"])

    assert len(origin.asked) == 1


def test_an_entry_holds_nothing_of_the_request_or_of_its_caller() -> None:
    made = Made()
    kept: list[Entry] = []
    put = made.store.put

    def note(key: str, entry: Entry) -> bool:
        kept.append(entry)
        return put(key, entry)

    made.store.put = note  # type: ignore[method-assign]
    fields = control("max-age=60", Set_Cookie=CANARY, X_Request_ID=CANARY, Connection=f"x-{CANARY}, close")
    origin = Origin(*fields, (f"X-{CANARY}", "1"), ("Proxy-Authenticate", CANARY))
    asked = replace(
        call("/p", headers=(("traceparent", CANARY),)),
        deadline=made.clock.now + 5,
        request_id=CANARY,
        caller=Caller(CANARY, CANARY, frozenset({"scope-of-canary"})),
        client_header={"Authorization": CANARY, "Cookie": CANARY}.get,
    )

    made.cache(asked, origin)
    again = made.cache(asked, failing(AssertionError("it was asked")))

    [entry] = kept
    assert CANARY.encode() not in pack(entry)
    assert b"scope-of-canary" not in pack(entry)
    assert CANARY not in str(again.headers)


# What was changed.


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [200, 201, 204, 302, 303, 304])
def test_a_change_takes_away_all_answers_of_its_path(method: str, status: int) -> None:
    """RFC 9111, 4.4."""
    made = Made()
    for key in KEYS:
        made.ask(Origin(*FRESH), **key)

    changed = made.ask(lambda _: Reply(status), method=method, query=[("x", "y")])

    assert changed.status == status
    assert changed.header("Cache-Status") is None
    left = [key for key in KEYS if _is_stored(made, key)]
    assert left == [{"path": "/q"}]


def _is_stored(made: Made, key: dict[str, Any]) -> bool:
    try:
        made.ask(failing(BrokenOff()), "only-if-cached", **key)
    except GatewayTimeout:
        return False
    return True


@pytest.mark.parametrize("status", [400, 404, 409, 500, 503])
def test_a_change_that_failed_takes_away_nothing(status: int) -> None:
    made = Made()
    made.ask(Origin(*FRESH))

    made.ask(lambda _: Reply(status), method="DELETE")
    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()), method="DELETE")

    assert _is_stored(made, {})


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
def test_a_safe_method_is_passed_and_takes_away_nothing(method: str) -> None:
    made, origin = Made(), Origin(*FRESH)
    made.ask(origin)

    made.ask(origin, method=method)

    assert len(origin.asked) == 2
    assert _is_stored(made, {})


@pytest.mark.parametrize("path", ["/pp", "/p/q", "/", "/P"])
def test_a_change_of_another_path_takes_away_nothing(path: str) -> None:
    made = Made()
    made.ask(Origin(*FRESH))

    made.ask(lambda _: Reply(204), method="PUT", path=path)

    assert _is_stored(made, {})


# For failures.


def kept(value: str = "max-age=60, stale-if-error=300", **fields: str) -> Made:
    """Make a cache that has an answer, and is a second past its freshness."""
    made = Made()
    made.ask(Origin(*control(value, **fields)))
    made.clock.now += 61
    made.told.clear()
    return made


@pytest.mark.parametrize(
    "error", [*OUR_OWN, *map(aws, PASSING)], ids=lambda each: f"{type(each).__name__}-{each.code}"
)
def test_for_a_failure_that_passes_the_stale_answer_stands_in(error: ServiceError) -> None:
    made = kept()

    reply = made.ask(failing(error))

    assert (reply.status, reply.body, reply.header("Age")) == (200, b'{"n":1}', "61")
    assert said(reply) == f"fwd=stale; detail={error.code}; ttl=-1"
    assert made.told == ["stale"]


@pytest.mark.parametrize("error", [*map(aws, NOT_PASSING), ServiceError(), ValueError("x")], ids=repr)
def test_for_what_does_not_pass_nothing_stands_in(error: Exception) -> None:
    made = kept()

    with pytest.raises(type(error)) as caught:
        made.ask(failing(error))

    assert caught.value is error
    assert made.told == []


def test_every_error_of_the_gateway_is_decided_upon() -> None:
    kinds = {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ServiceError)
    }
    # What is not the gateway's is said before the cache is asked.
    own = {kind for kind in kinds if issubclass(kind, errors.GatewayError)} - {
        ServiceRefused,
        errors.GatewayError,
    }

    for kind in own:
        assert made_status(kind) in (502, 503, 504)
        assert made_for(kind).status == 200


def made_status(kind: type[ServiceError]) -> int:
    return kind().status


def made_for(kind: type[ServiceError]) -> Reply:
    return kept().ask(failing(kind()))


@pytest.mark.parametrize(("status", "code"), REFUSED)
def test_what_the_service_refuses_is_said_and_the_copy_never_comes_back(status: int, code: str) -> None:
    made = kept()
    error = ServiceRefused(status, code, "no")

    with pytest.raises(ServiceRefused) as caught:
        made.ask(failing(error))
    with pytest.raises(ServiceRefused) as later:
        made.ask(failing(aws("aws_throttled")))

    assert (caught.value, later.value.code) == (error, "aws_throttled")
    assert made.store.used == 0


@pytest.mark.parametrize("value", ["no-cache", "no-store", "max-age=0, no-cache"])
def test_a_deleted_thing_is_gone_however_its_end_was_learnt(value: str) -> None:
    made = kept()

    with pytest.raises(ServiceRefused):
        made.ask(failing(ServiceRefused(404, "parameter_not_found", "no")), value)
    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()))


@pytest.mark.parametrize(("later", "stands"), [(0, True), (300, True), (300.5, False), (10_000, False)])
def test_it_stands_in_as_long_as_it_may(later: float, stands: bool) -> None:
    made = Made()
    made.ask(Origin(*BARE))
    made.clock.now += 60 + later

    if stands:
        assert made.ask(failing(BrokenOff())).body == b'{"n":1}'
    else:
        with pytest.raises(BrokenOff):
            made.ask(failing(BrokenOff()))


@pytest.mark.parametrize(
    "value",
    [
        "max-age=60",
        "max-age=60, stale-if-error=300, must-revalidate",
        "max-age=60, stale-if-error=300, proxy-revalidate",
        "s-maxage=60, stale-if-error=300",
        "max-age=60, stale-if-error=300, no-cache",
        "max-age=60, stale-if-error=abc",
    ],
)
def test_without_the_services_leave_nothing_stands_in(value: str) -> None:
    made = kept(value)

    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()))


@pytest.mark.parametrize("value", ["no-cache", "no-store", "no-cache, max-age=1000"])
def test_who_wants_no_copy_gets_none_for_a_failure_either(value: str) -> None:
    made = kept()

    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()), value)


def test_for_a_newer_one_that_failed_a_fresh_one_stands_in_and_it_is_not_called_stale() -> None:
    """RFC 9211, 2.2: the request was the reason to go forward."""
    made = Made()
    made.ask(Origin(*BARE))
    made.clock.now += 10

    reply = made.ask(failing(BrokenOff()), "max-age=5")

    assert said(reply) == "fwd=request; detail=bad_gateway; ttl=50"


def test_a_copy_that_stood_in_is_asked_for_again_the_next_time() -> None:
    made, origin = kept(ETag='"a"'), Origin(*control("max-age=60", ETag='"a"'))
    made.ask(failing(BrokenOff()))

    assert said(made.ask(origin)) == "fwd=stale; fwd-status=304; stored; ttl=60"


def test_with_nothing_stored_the_failure_is_said() -> None:
    made = Made()

    with pytest.raises(BrokenOff):
        made.ask(failing(BrokenOff()))

    assert made.told == []
    assert len(made.flights) == 0


def test_what_went_away_while_it_was_asked_for_does_not_stand_in() -> None:
    """Another has learnt meanwhile that it was deleted."""
    made = kept()

    def fail(_: Call) -> Reply:
        with pytest.raises(ServiceRefused):
            made.ask(failing(ServiceRefused(404, "parameter_not_found", "no")), "no-cache")
        raise aws("aws_throttled")

    with pytest.raises(ServiceRefused) as caught:
        made.ask(fail)
    assert caught.value.code == "aws_throttled"


def test_what_was_changed_while_it_was_asked_for_does_not_stand_in() -> None:
    made = kept()

    def fail(_: Call) -> Reply:
        made.ask(lambda _: Reply(204), method="DELETE")
        raise BrokenOff

    with pytest.raises(BrokenOff):
        made.ask(fail)


def test_an_answer_from_before_a_change_is_not_stored_after_it() -> None:
    """RFC 9111, 4.4: what was invalidated while it was under way."""
    made, origin = Made(), Origin(*FRESH)
    origin.meanwhile = lambda: made.ask(lambda _: Reply(204), method="DELETE")

    made.ask(origin)

    assert not _is_stored(made, {})


def test_an_answer_from_before_a_404_is_not_stored_after_it() -> None:
    """A deleted thing never comes back."""
    made, origin = Made(), Origin(*FRESH)

    def learn() -> None:
        with pytest.raises(ServiceRefused):
            made.ask(failing(ServiceRefused(404, "parameter_not_found", "no")), "no-cache")

    origin.meanwhile = learn
    made.ask(origin)

    assert not _is_stored(made, {})


@pytest.mark.parametrize("value", [None, "no-cache"])
def test_a_404_of_an_older_call_does_not_take_away_a_newer_answer(value: str | None) -> None:
    made = Made()

    def learn(_: Call) -> Reply:
        made.ask(Origin(*BARE, body=b"new"), "no-cache")
        raise ServiceRefused(404, "parameter_not_found", "no")

    with pytest.raises(ServiceRefused):
        made.ask(learn, value)

    assert made.ask(failing(AssertionError("it was asked"))).body == b"new"


def test_an_older_answer_that_may_not_be_kept_does_not_take_away_a_newer_one() -> None:
    made = kept()
    origin = Origin(*control("no-store"))
    origin.meanwhile = lambda: made.ask(Origin(*BARE, body=b"new"), "no-cache")

    made.ask(origin)

    assert made.ask(failing(AssertionError("it was asked"))).body == b"new"


def test_a_listener_that_fails_leaves_no_reply_unclosed() -> None:
    """What the bulkhead holds for it would stay held."""
    made, origin = Made(), Origin(*control("no-store"))

    def tell(_: str) -> None:
        raise OSError("no space left on device")

    cache = Cache(CacheSettings(), "s", made.store, made.flights, made.invalidation, told=tell)
    with pytest.raises(OSError, match="space"):
        cache(replace(call("/p"), deadline=made.clock.now + 5), origin)

    assert origin.closed == 1


def test_a_store_that_fails_leaves_no_reply_unclosed() -> None:
    made, origin = Made(), Origin(*FRESH)

    def put(key: str, entry: Entry) -> bool:
        raise OSError("gone")

    made.store.put = put  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        made.ask(origin)

    assert origin.closed == 1
    assert len(made.flights) == 0


# Many at once.


class Crowd:
    """One asker whose call is held until ``go``, and others who came meanwhile."""

    def __init__(self, made: Made, origin: Proceed, threads: ThreadPoolExecutor) -> None:
        self.made = made
        self.go = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()
        self._origin = origin
        self._threads = threads
        self._come(None)
        until(lambda: self.calls == 1)

    def proceed(self, asked: Call) -> Reply:
        with self._lock:
            self.calls += 1
        assert self.go.wait(10)
        return self._origin(asked)

    def _come(self, value: str | None, **options: Any) -> None:
        self.asked = [
            *getattr(self, "asked", ()),
            self._threads.submit(self.made.ask, self.proceed, value, **options),
        ]

    def join(self, number: int, value: str | None = None, **options: Any) -> None:
        before = waiting(self.made.flights)
        for _ in range(number):
            self._come(value, **options)
        until(lambda: waiting(self.made.flights) == before + number)

    def ends(self) -> list[Reply | BaseException]:
        self.go.set()
        return [each.exception(10) or each.result() for each in self.asked]


def test_fifty_who_miss_at_once_make_one_call_and_have_fifty_answers_of_their_own() -> None:
    made, origin = Made(), Origin(*FRESH)
    with ThreadPoolExecutor(50) as threads:
        crowd = Crowd(made, origin, threads)
        crowd.join(49)
        replies = crowd.ends()

    assert crowd.calls == 1
    assert len({id(each) for each in replies}) == 50
    assert {each.body for each in replies if isinstance(each, Reply)} == {b'{"n":1}'}
    told = sorted(said(each) for each in replies if isinstance(each, Reply))
    assert told == ["fwd=uri-miss; collapsed; stored; ttl=60"] * 49 + [
        "fwd=uri-miss; fwd-status=200; stored; ttl=60"
    ]
    assert sorted(made.told) == ["collapsed"] * 49 + ["miss"]
    assert len(made.flights) == 0
    assert origin.closed == 1


def test_many_who_find_it_stale_share_one_confirmation() -> None:
    made, origin = kept(ETag='"a"'), Origin(*control("max-age=60", ETag='"a"'))
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, origin, threads)
        crowd.join(9)
        replies = crowd.ends()

    assert crowd.calls == 1
    assert {each.body for each in replies if isinstance(each, Reply)} == {b'{"n":1}'}
    assert sorted(made.told) == ["collapsed"] * 9 + ["validated"]


@pytest.mark.parametrize("value", ["no-store", "private, max-age=60", ""])
def test_what_may_not_be_shared_is_given_to_its_asker_alone(value: str) -> None:
    made, origin = Made(), Origin(*control(value))
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, origin, threads)
        crowd.join(9)
        replies = crowd.ends()

    assert crowd.calls == 10
    assert len({id(each) for each in replies}) == 10
    assert {said(each) for each in replies if isinstance(each, Reply)} == {"fwd=uri-miss; fwd-status=200"}
    assert made.told == ["uncacheable"] * 10


def test_what_must_be_asked_for_each_time_is_not_given_to_who_did_not_ask() -> None:
    """RFC 9111, 5.2.2.4 and 4: a response of ``no-cache`` satisfies no other request unvalidated."""
    made, origin = Made(), Origin(*control("no-cache, max-age=60", ETag='"a"'))
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, origin, threads)
        crowd.join(9)
        crowd.ends()

    assert crowd.calls == 10
    assert "collapsed" not in made.told


@pytest.mark.parametrize("value", ["no-cache", "no-store"])
def test_who_wants_no_copy_joins_nobody_and_nobody_joins_it(value: str) -> None:
    made, origin = Made(), Origin(*FRESH)
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, origin, threads)
        crowd._come(value)
        crowd._come(value)
        until(lambda: crowd.calls == 3)
        crowd.join(2)
        replies = crowd.ends()

    assert crowd.calls == 3
    stati = [said(each) for each in replies if isinstance(each, Reply)]
    assert all(each.startswith("fwd=request; fwd-status=200") for each in stati[1:3])
    assert all("collapsed" in each for each in stati[3:])


def test_callers_with_other_scopes_do_not_share_a_call() -> None:
    made, origin = Made(), Origin(*FRESH)
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, origin, threads)
        crowd._come(None, scopes=["a"])
        crowd._come(None, scopes=["a", "b"])
        until(lambda: crowd.calls == 3)
        replies = crowd.ends()

    assert crowd.calls == 3
    assert not any("collapsed" in said(each) for each in replies if isinstance(each, Reply))


def test_each_waits_for_no_longer_than_it_has_and_a_copy_may_stand_in_for_it() -> None:
    for made, stands in ((Made(), False), (kept(), True)):
        with ThreadPoolExecutor(10) as threads:
            crowd = Crowd(made, Origin(*FRESH), threads)
            crowd.join(1, seconds=0.01)
            made.clock.now += 0.02
            hurried = crowd.asked[1].exception(10) or crowd.asked[1].result()
            crowd.ends()

        if stands:
            assert isinstance(hurried, Reply)
            assert said(hurried).startswith("fwd=stale; detail=gateway_timeout")
        else:
            assert isinstance(hurried, GatewayTimeout)


def test_where_asking_fails_twice_all_have_the_failure_and_two_calls_were_made() -> None:
    made = Made()
    with ThreadPoolExecutor(50) as threads:
        crowd = Crowd(made, failing(BrokenOff()), threads)
        crowd.join(49)
        ends = crowd.ends()

    assert crowd.calls == 2
    assert all(isinstance(each, BrokenOff) for each in ends)
    assert len(made.flights) == 0


def test_where_asking_fails_twice_the_stale_answer_stands_in_for_all() -> None:
    made = kept()
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, failing(aws("aws_throttled")), threads)
        crowd.join(9)
        replies = crowd.ends()

    assert crowd.calls == 2
    assert [said(each) for each in replies if isinstance(each, Reply)] == [
        "fwd=stale; detail=aws_throttled; ttl=-1"
    ] * 10
    assert made.told == ["stale"] * 10


def test_what_the_leader_found_deleted_stands_in_for_nobody_when_the_second_fails() -> None:
    made = kept()
    outcomes: list[ServiceError] = [aws("aws_throttled"), ServiceRefused(404, "parameter_not_found", "no")]

    def fail(_: Call) -> Reply:
        raise outcomes.pop()

    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, fail, threads)
        crowd.join(9)
        ends = crowd.ends()

    assert crowd.calls == 2
    assert [each for each in ends if isinstance(each, Reply)] == []


def test_who_looked_before_an_answer_landed_and_comes_after_it_does_not_ask_again() -> None:
    """It found nothing, another's call ended meanwhile: what that one stored is there to be given."""
    made, origin = Made(), Origin(*FRESH)
    get = made.store.get
    raced: list[bool] = []

    def get_late(key: str) -> Entry | None:
        found = get(key)
        if not raced:
            raced.append(True)
            made.ask(origin)
        return found

    made.store.get = get_late  # type: ignore[method-assign]
    reply = made.ask(origin)

    assert reply.body == b'{"n":1}'
    assert len(origin.asked) == 1


def landing_meanwhile(made: Made, origin: Proceed, seconds: float) -> None:
    """Have an answer land, and ``seconds`` pass, between the next look into the store and what follows."""
    get = made.store.get

    def get_late(key: str) -> Entry | None:
        found = get(key)
        made.store.get = get  # type: ignore[method-assign]
        made.ask(origin)
        made.clock.now += seconds
        return found

    made.store.get = get_late  # type: ignore[method-assign]


def test_what_is_found_at_the_second_look_is_a_hit() -> None:
    made = Made()
    landing_meanwhile(made, Origin(*FRESH), 12.5)

    reply = made.ask(failing(AssertionError("it was asked")))

    assert (reply.status, reply.body) == (200, b'{"n":1}')
    assert (said(reply), reply.header("Age")) == ("hit; ttl=47", "12")
    assert made.told == ["miss", "hit"]


@pytest.mark.parametrize(("value", "seconds"), [(None, 60.0), ("max-age=5", 6.0)])
def test_what_may_not_be_given_at_the_second_look_is_confirmed(value: str | None, seconds: float) -> None:
    made, origin = Made(), Origin(*FRESH)
    landing_meanwhile(made, origin, seconds)

    reply = made.ask(origin, value)

    assert [dict(each.headers).get("If-None-Match") for each in origin.asked] == [None, 'W/"a"']
    assert said(reply).endswith("; fwd-status=304; stored; ttl=60")
    assert made.told == ["miss", "validated"]


def test_what_is_found_at_the_second_look_is_given_to_those_alone_who_take_its_age() -> None:
    """For who came meanwhile and wants a younger one the service is still to be asked."""
    made = Made()
    get = made.store.get
    looking, go = threading.Event(), threading.Event()

    def look_slowly(key: str) -> Entry | None:
        made.store.get = get  # type: ignore[method-assign]
        looking.set()
        assert go.wait(10)
        return get(key)

    def look_first(key: str) -> Entry | None:
        found = get(key)
        made.store.get = get  # type: ignore[method-assign]
        made.ask(Origin(*control("max-age=60", Age="50")))
        made.store.get = look_slowly  # type: ignore[method-assign]
        return found

    made.store.get = look_first  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(made.ask, failing(AssertionError("it was asked")))
        assert looking.wait(10)
        second = threads.submit(made.ask, Origin(*BARE, body=b"younger"), "max-age=5")
        until(lambda: waiting(made.flights) == 1)
        go.set()

        assert said(first.result(10)) == "hit; ttl=10"
        assert (second.result(10).body, second.result(10).header("Age")) == (b"younger", None)


@pytest.mark.parametrize(("fields", "age"), [((), None), ((("Age", "5"),), "8")])
def test_who_shares_anothers_answer_is_told_its_age(fields: Headers, age: str | None) -> None:
    made = Made()
    with ThreadPoolExecutor(10) as threads:
        crowd = Crowd(made, Origin(*FRESH, *fields), threads)
        crowd.join(2)
        made.clock.now += 3
        replies = crowd.ends()

    ages = [each.header("Age") for each in replies if isinstance(each, Reply)]
    assert ages == [age, age or "3", age or "3"]


def test_who_comes_after_a_no_cache_answer_does_not_join_the_older_call() -> None:
    made, origin = Made(), Origin(*control("max-age=60"), body=b"old")
    found: list[bytes | object] = []

    def overtake() -> None:
        made.ask(Origin(*control("max-age=60"), body=b"newer"), "no-cache")
        made.clock.now += 60
        # It is stale by now; who has no time to wait cannot have joined.
        found.append(made.ask(Origin(*control("max-age=60"), body=b"newest"), seconds=0).body)

    origin.meanwhile = overtake

    assert made.ask(origin).body == b"old"
    assert found == [b"newest"]
    assert made.ask(failing(AssertionError("it was asked"))).body == b"newest"
    assert len(made.flights) == 0


@pytest.mark.parametrize("key", KEYS)
def test_who_comes_after_a_change_does_not_join_the_call_from_before_it(key: dict[str, Any]) -> None:
    made, origin = Made(), Origin(*FRESH, body=b"old")
    path = key.get("path", "/p")
    found: list[bytes | object] = []

    def change() -> None:
        made.ask(lambda _: Reply(204), method="DELETE", path=path)
        found.append(made.ask(Origin(*FRESH, body=b"new"), seconds=0, **key).body)

    origin.meanwhile = change

    assert made.ask(origin, **key).body == b"old"
    assert found == [b"new"]
    assert made.ask(failing(AssertionError("it was asked")), **key).body == b"new"


@pytest.mark.parametrize("status", [204, 404])
def test_only_a_change_that_worked_and_only_of_its_own_path_parts_a_call(status: int) -> None:
    made, origin = Made(), Origin(*FRESH)

    def change() -> None:
        made.ask(lambda _: Reply(status), method="DELETE", path="/p" if status == 404 else "/pp")
        with pytest.raises(GatewayTimeout):
            made.ask(failing(AssertionError("it was asked")), seconds=0)

    origin.meanwhile = change

    made.ask(origin)
    assert _is_stored(made, {})


def test_an_older_answer_does_not_take_the_place_of_a_newer_one() -> None:
    """RFC 9111, 4: the most recent. One asks alone (no-cache) and is faster than who asked before it."""
    made, origin = Made(), Origin(*BARE, body=b"old")

    def overtake() -> None:
        made.ask(Origin(*BARE, body=b"new"), "no-cache")

    origin.meanwhile = overtake
    made.ask(origin)

    assert made.ask(origin).body == b"new"


@pytest.mark.parametrize("value", ["no-store", "private", ""])
def test_an_older_answer_is_not_kept_after_a_newer_one_that_may_not_be(value: str) -> None:
    """Had they come in their order, the newer one would have taken it away."""
    made, origin = Made(), Origin(*BARE, body=b"old")
    origin.meanwhile = lambda: made.ask(Origin(*control(value), body=b"new"), "no-cache")

    made.ask(origin)

    assert not _is_stored(made, {})


def test_who_comes_after_a_404_that_another_learnt_alone_does_not_join_the_older_call() -> None:
    made, origin = Made(), Origin(*FRESH, body=b"old")
    found: list[bytes | object] = []

    def learn() -> None:
        with pytest.raises(ServiceRefused):
            made.ask(failing(ServiceRefused(404, "parameter_not_found", "no")), "no-cache")
        found.append(made.ask(Origin(*FRESH, body=b"new"), seconds=0).body)

    origin.meanwhile = learn

    assert made.ask(origin).body == b"old"
    assert found == [b"new"]


def test_no_parameter_of_cache_status_is_out_of_form() -> None:
    """RFC 9211, 2, and RFC 9651: a token, then parameters of integers, tokens and flags."""
    made = kept(ETag='"a"')
    origin = Origin(*control("max-age=60, stale-if-error=300", ETag='"a"'))
    replies = [
        made.ask(failing(aws("aws_unreachable"))),
        made.ask(origin),
        made.ask(origin),
        made.ask(origin, "no-cache"),
        made.ask(origin, "no-store"),
        made.ask(origin, query=[("a", "b")]),
    ]

    form = re.compile(
        r"main-api(; (hit|stored|collapsed|ttl=-?\d+|fwd-status=\d{3}|detail=[a-z_]+"
        r"|fwd=(uri-miss|stale|request)))+\Z"
    )
    for reply in replies:
        [value] = [value for name, value in reply.headers if name == "Cache-Status"]
        assert form.match(value)
        assert ("hit" in said(reply)) != ("fwd=" in said(reply))
