"""What may be stored and given again, by RFC 9111; the numbers in the names of cases are its sections."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from main_api.exchange import Reply
from main_api.policies.freshness import (
    Asked,
    Use,
    age,
    decide,
    directives,
    kept_headers,
    may_stand_in,
    seconds,
    storable,
)
from main_api.state.entries import Entry
from tests.main_api.policies.fakes import streaming

NOW = 1000.0


def entry(**facts: Any) -> Entry:
    """Make an entry that was born now and is fresh for a minute."""
    ordinary: dict[str, Any] = {"status": 200, "headers": (), "body": b"{}", "born": NOW, "lifetime": 60.0}
    return Entry(**{**ordinary, **facts})


def reply(*cache_control: str, status: int = 200, **headers: str) -> Reply:
    """Make an answer with these ``Cache-Control`` fields; ``_`` in another's name is ``-``."""
    fields = [("Cache-Control", each) for each in cache_control]
    fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Reply(status, tuple(fields), b"{}")


def stored(*cache_control: str, **facts: Any) -> Entry | None:
    return storable(reply(*cache_control, **facts), NOW, NOW)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param(None, {}, id="none"),
        pytest.param("", {}, id="empty"),
        pytest.param(" ,, ,", {}, id="empty members (RFC 9110, 5.6.1.2)"),
        pytest.param("no-store", {"no-store": ""}, id="5.2 without an argument"),
        pytest.param("No-Store", {"no-store": ""}, id="5.2 names in any case"),
        pytest.param("max-age=60", {"max-age": "60"}, id="5.2 token form"),
        pytest.param('max-age="60"', {"max-age": "60"}, id="5.2 quoted form"),
        pytest.param(
            "max-age=5,no-cache ,\tprivate", {"max-age": "5", "no-cache": "", "private": ""}, id="a list"
        ),
        pytest.param("max-age=1, max-age=2", {"max-age": "1"}, id="4.2.1 the first of two"),
        pytest.param('private="a, no-store"', {"private": "a, no-store"}, id="5.2.2.7 a list in quotes"),
        pytest.param('x="\\", no-store", max-age=1', {"x": '\\", no-store', "max-age": "1"}, id="escaped"),
        pytest.param('x="", max-age=1', {"x": "", "max-age": "1"}, id="empty quotes"),
        pytest.param("max-age=", {"max-age": ""}, id="no argument after ="),
        pytest.param("max-age=-1", {"max-age": "-1"}, id="a sign"),
        pytest.param("x=é, max-age=1", {"x": "é", "max-age": "1"}, id="not ASCII"),
    ],
)
def test_directives_are_read(value: str | None, found: Mapping[str, str]) -> None:
    assert directives(value) == found


@pytest.mark.parametrize("quoted", ['x="no-store"', 'x="a, no-store, b"', 'x="\\"no-store\\""'])
def test_what_stands_in_quotes_is_no_directive(quoted: str) -> None:
    assert "no-store" not in directives(quoted)


@given(st.text())
def test_no_field_is_an_exception(value: str) -> None:
    assert all(name == name.lower() for name in directives(value))
    Asked.of(value)
    storable(reply(value, Age=value, Vary=value), NOW, NOW)


@pytest.mark.parametrize(
    ("argument", "number"),
    [
        (None, None),
        ("0", 0),
        ("60", 60),
        ("007", 7),
        ("00000000000060", 60),
        ("2147483647", 2**31 - 1),
        ("2147483648", 2**31),
        ("2147483649", 2**31),
        ("9" * 10_000, 2**31),
        ("", 0),
        ("abc", 0),
        ("-1", 0),
        ("+1", 0),
        ("1.5", 0),
        ("1e3", 0),
        ("1_000", 0),
        ("0x10", 0),
        (" 1", 0),
        ("٣", 0),
        ("²", 0),
    ],
)
def test_seconds_are_plain_digits_and_all_else_is_none_left(
    argument: str | None, number: float | None
) -> None:
    """1.2.2 (2^31 for what is larger), 4.2.1 (what is invalid is stale)."""
    assert seconds(argument) == number


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (None, Asked()),
        ("", Asked()),
        ("unknown, max-stale=5, min-fresh=3, no-transform", Asked()),
        ("no-cache", Asked(no_cache=True)),
        ("NO-STORE", Asked(no_store=True)),
        ("only-if-cached, max-age=5", Asked(only_if_cached=True, max_age=5.0)),
        ("max-age=abc", Asked(max_age=0.0)),
        ("max-age=0", Asked(max_age=0.0)),
        ("max-age", Asked(max_age=0.0)),
        ('max-age="7", no-cache', Asked(max_age=7.0, no_cache=True)),
    ],
)
def test_what_a_client_asks(value: str | None, asked: Asked) -> None:
    assert Asked.of(value) == asked


DECISIONS = [
    ("4 nothing stored", "", None, 0, "uri-miss"),
    ("4.2 fresh", "", {}, 0, None),
    ("4.2 fresh to the last moment", "", {}, 59.999, None),
    ("4.2 stale: freshness must be more than age", "", {}, 60, "stale"),
    ("4.2 a lifetime of nothing", "", {"lifetime": 0.0}, 0, "stale"),
    ("4.2.3 born with an age", "", {"born": NOW - 59}, 1, "stale"),
    ("5.2.2.4 no-cache of the answer", "", {"validate_always": True}, 0, "stale"),
    ("5.2.2.2 must-revalidate, fresh", "", {"never_stale": True}, 59, None),
    ("5.2.2.2 must-revalidate, stale", "", {"never_stale": True}, 60, "stale"),
    ("5.2.1.4 no-cache", "no-cache", {}, 0, "request"),
    ("5.2.1.4 no-cache with nothing stored", "no-cache", None, 0, "request"),
    ("5.2.1.5 no-store", "no-store", {}, 0, "request"),
    ("5.2.1.1 max-age reached and not passed", "max-age=10", {}, 10, None),
    ("5.2.1.1 max-age passed", "max-age=10", {}, 10.5, "request"),
    ("5.2.1.1 max-age beyond freshness", "max-age=1000", {}, 61, "stale"),
    ("5.2.1.1 max-age=0 at its birth", "max-age=0", {}, 0, None),
    ("5.2.1.1 max-age=0 later", "max-age=0", {}, 0.001, "request"),
    ("5.2.1.1 max-age that is no number", "max-age=abc", {}, 1, "request"),
    ("a clock that went back", "", {}, -500, None),
]


@pytest.mark.parametrize("only", [False, True], ids=["", "only-if-cached"])
@pytest.mark.parametrize(
    ("asked", "facts", "later", "reason"),
    [case[1:] for case in DECISIONS],
    ids=[case[0] for case in DECISIONS],
)
def test_what_is_done(
    asked: str, facts: dict[str, Any] | None, later: float, reason: str | None, only: bool
) -> None:
    """5.2.1.7: who wants only what is stored gets that or a refusal."""
    kept = None if facts is None else entry(**facts)
    decision = decide(Asked.of(asked + (", only-if-cached" if only else "")), kept, NOW + later)

    if reason is None:
        assert decision.use is Use.STORED
    else:
        assert (decision.use, decision.reason) == (Use.REFUSE if only else Use.ASK, reason)


STAND_INS = [
    ("nothing stored", "", None, 0, False),
    ("RFC 5861, 4: within stale-if-error", "", {"stale_if_error": 300.0}, 61, True),
    ("RFC 5861, 4: to its last moment", "", {"stale_if_error": 300.0}, 360, True),
    ("RFC 5861, 4: beyond it", "", {"stale_if_error": 300.0}, 360.001, False),
    ("4.2.4 stale without leave", "", {}, 61, False),
    ("still fresh, the client wanted a newer one", "max-age=0", {}, 30, True),
    ("5.2.2.2 must-revalidate", "", {"stale_if_error": 300.0, "never_stale": True}, 61, False),
    ("5.2.2.4 no-cache of the answer", "", {"stale_if_error": 300.0, "validate_always": True}, 1, False),
    ("5.2.1.4 no-cache", "no-cache", {"stale_if_error": 300.0}, 61, False),
    ("5.2.1.5 no-store", "no-store", {"stale_if_error": 300.0}, 61, False),
    ("a clock that went back", "", {}, -500, True),
]


@pytest.mark.parametrize(
    ("asked", "facts", "later", "may"), [case[1:] for case in STAND_INS], ids=[case[0] for case in STAND_INS]
)
def test_what_stands_in(asked: str, facts: dict[str, Any] | None, later: float, may: bool) -> None:
    kept = None if facts is None else entry(**facts)

    assert may_stand_in(Asked.of(asked), kept, NOW + later) is may


@pytest.mark.parametrize(("later", "old"), [(0, 0.0), (12.5, 12.5), (-5, 0.0)])
def test_an_age_is_never_below_zero(later: float, old: float) -> None:
    assert age(entry(), NOW + later) == old


@pytest.mark.parametrize(
    "status", [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501], ids="RFC 9110, 15.1: {}".format
)
def test_these_statuses_are_stored(status: int) -> None:
    found = stored("max-age=60", status=status)

    assert found is not None
    assert found.status == status


@pytest.mark.parametrize("status", [201, 206, 302, 303, 304, 307, 400, 401, 403, 429, 500, 502, 503, 504])
def test_other_statuses_are_not_stored(status: int) -> None:
    assert stored("max-age=60", status=status) is None


def test_a_stream_is_not_stored() -> None:
    streamed = streaming(b"x")
    streamed.headers = (("Cache-Control", "max-age=60"),)

    assert storable(streamed, NOW, NOW) is None


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="4.2.2 no heuristics"),
        pytest.param(("public",), id="4.2.2 public says no time"),
        pytest.param(("stale-if-error=300",), id="RFC 5861 says no freshness"),
        pytest.param(("no-store, max-age=60",), id="5.2.2.5"),
        pytest.param(("max-age=60, No-Store",), id="5.2.2.5 in any case"),
        pytest.param(("max-age=60", "no-store"), id="5.2.2.5 in a second field"),
        pytest.param(("private, max-age=60",), id="5.2.2.7"),
        pytest.param(("private, s-maxage=60",), id="5.2.2.7 with s-maxage"),
        pytest.param(('max-age=60, private="x-a"',), id="5.2.2.7 qualified, as if it were not"),
    ],
)
def test_what_may_not_be_stored_is_not(fields: tuple[str, ...]) -> None:
    assert stored(*fields) is None


@pytest.mark.parametrize("fields", [("no-store",), ("private",), ("max-age=5, no-store",)])
def test_a_lifetime_of_the_route_stores_nothing_that_is_forbidden(fields: tuple[str, ...]) -> None:
    assert storable(reply(*fields), NOW, NOW, 60.0) is None


@pytest.mark.parametrize("fields", [(), ("max-age=5",), ("s-maxage=7, max-age=5",), ("max-age=abc",)])
@pytest.mark.parametrize("lifetime", [0.0, 90.0])
def test_a_lifetime_of_the_route_takes_the_place_of_the_services(
    fields: tuple[str, ...], lifetime: float
) -> None:
    found = storable(reply(*fields), NOW, NOW, lifetime)

    assert found is not None
    assert found.lifetime == lifetime


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        pytest.param(("max-age=60",), {"lifetime": 60}, id="5.2.2.1 max-age"),
        pytest.param(("max-age=0",), {"lifetime": 0}, id="5.2.2.1 max-age=0 is stored"),
        pytest.param(('max-age="60"',), {"lifetime": 60}, id="5.2 quoted"),
        pytest.param(("max-age=abc",), {"lifetime": 0}, id="4.2.1 invalid is stale"),
        pytest.param(("max-age=60, max-age=5",), {"lifetime": 60}, id="4.2.1 twice: the first"),
        pytest.param(("max-age=60", "max-age=5"), {"lifetime": 60}, id="4.2.1 in two fields: the first"),
        pytest.param(("public", "max-age=60"), {"lifetime": 60}, id="in a second field"),
        pytest.param(
            ("max-age=60, s-maxage=5",), {"lifetime": 5, "never_stale": True}, id="5.2.2.10 goes before"
        ),
        pytest.param(
            ("s-maxage=abc, max-age=60",), {"lifetime": 0, "never_stale": True}, id="5.2.2.10 invalid"
        ),
        pytest.param(("max-age=60, must-revalidate",), {"never_stale": True}, id="5.2.2.2"),
        pytest.param(("max-age=60, proxy-revalidate",), {"never_stale": True}, id="5.2.2.8"),
        pytest.param(("max-age=60, no-cache",), {"validate_always": True}, id="5.2.2.4"),
        pytest.param(
            ('max-age=60, no-cache="x-a"',), {"validate_always": True}, id="5.2.2.4 qualified, as if not"
        ),
        pytest.param(("max-age=60, stale-if-error=300",), {"stale_if_error": 300}, id="RFC 5861, 4"),
        pytest.param(("max-age=60, stale-if-error",), {"stale_if_error": 0}, id="RFC 5861, 4 without time"),
        pytest.param(("max-age=60, stale-if-error=x",), {"stale_if_error": 0}, id="RFC 5861, 4 invalid"),
    ],
)
def test_what_the_service_says_is_kept(fields: tuple[str, ...], facts: dict[str, Any]) -> None:
    found = stored(*fields)

    ordinary = {"stale_if_error": 0.0, "validate_always": False, "never_stale": False}
    assert found is not None
    for name, value in {**ordinary, **facts}.items():
        assert getattr(found, name) == value, name


@pytest.mark.parametrize(
    ("vary", "may"),
    [
        pytest.param(("X-Internal-Scopes",), True, id="4.1 in the key"),
        pytest.param(("accept, Accept-Encoding, AUTHORIZATION",), True, id="4.1 ours, always the same"),
        pytest.param(("",), True, id="4.1 nothing"),
        pytest.param((" , ",), True, id="4.1 empty members"),
        pytest.param(("*",), False, id="4.1 *"),
        pytest.param(("Accept, *",), False, id="4.1 * among others"),
        pytest.param(("Cookie",), False, id="4.1 the client's"),
        pytest.param(("Accept", "Cookie"), False, id="4.1 in a second field"),
    ],
)
def test_what_varies_by_what_is_not_in_the_key_is_not_stored(vary: tuple[str, ...], may: bool) -> None:
    fields = (("Cache-Control", "max-age=60"), *(("Vary", each) for each in vary))

    assert (storable(Reply(200, fields, b"{}"), NOW, NOW) is not None) is may


@pytest.mark.parametrize(
    ("fields", "delay", "old"),
    [
        pytest.param((), 0.0, 0.0, id="4.2.3 made for us"),
        pytest.param((), 2.5, 2.5, id="4.2.3 the way counts"),
        pytest.param(("100",), 0.0, 100.0, id="5.1"),
        pytest.param(("100",), 2.5, 102.5, id="4.2.3 both"),
        pytest.param(("abc",), 0.0, 0.0, id="5.1 invalid is ignored"),
        pytest.param(("-5",), 0.0, 0.0, id="5.1 negative is ignored"),
        pytest.param(("100", "5"), 0.0, 100.0, id="5.1 the first of two fields"),
        pytest.param(("100, 5",), 0.0, 100.0, id="5.1 the first of a list"),
        pytest.param((), -50.0, 0.0, id="a clock that went back meanwhile"),
        pytest.param(("100",), -50.0, 100.0, id="a clock that went back meanwhile, of an old answer"),
    ],
)
def test_an_answer_has_the_age_of_its_sender_and_of_its_way(
    fields: tuple[str, ...], delay: float, old: float
) -> None:
    headers = (("Cache-Control", "max-age=1000"), *(("Age", each) for each in fields))

    found = storable(Reply(200, headers, b"{}"), NOW, NOW + delay)

    assert found is not None
    assert age(found, NOW + delay) == old
    assert age(found, NOW + delay + 7) == old + 7


HOP = ("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection")
PROXY = ("Proxy-Authenticate", "Proxy-Authentication-Info")


@pytest.mark.parametrize("name", [*HOP, *PROXY, "Set-Cookie", "X-Request-ID", "Age", "Content-Length"])
@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_what_is_of_one_hop_or_of_one_request_is_not_kept(name: str, case: Any) -> None:
    """3.1, and our own ids."""
    assert kept_headers(((case(name), "x"), ("ETag", '"a"'))) == (("ETag", '"a"'),)


def test_what_connection_names_is_not_kept() -> None:
    """RFC 9110, 7.6.1."""
    fields = (("X-A", "1"), ("connection", "close, x-a"), ("Connection", "X-B"), ("x-b", "2"), ("X-C", "3"))

    assert kept_headers(fields) == (("X-C", "3"),)


def test_other_fields_are_kept_in_their_order_twice_if_they_came_twice() -> None:
    fields = (("ETag", '"a"'), ("X-Service-Version", "1"), ("Vary", "Accept"), ("Vary", "Accept-Encoding"))

    assert kept_headers(fields) == fields
    found = storable(
        Reply(200, (*fields, ("Cache-Control", "max-age=5"), ("Set-Cookie", "a=b")), b"{}"), 0, 0
    )
    assert found is not None
    assert found.headers == (*fields, ("Cache-Control", "max-age=5"))
