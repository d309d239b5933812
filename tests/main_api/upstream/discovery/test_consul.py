"""Consul's lists: what is asked, waited for and taken, and that nonsense is one fault and no other."""

import ipaddress
import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from main_api.upstream.discovery.consul import BODY_MOST, WAIT, ConsulSource, following, listed
from main_api.upstream.discovery.source import Address, Listing, SourceFailed
from tests.main_api.policies.fakes import Clock
from tests.main_api.support import Answer, Upstream

TOKEN = "b1gs33cr3t-9f3c-4d1e-8a7b-000000000000"


def entry(
    address: object = "10.0.0.1", port: object = 3001, weights: object = None, node: object = "192.0.2.7"
) -> dict[str, Any]:
    """Make an instance as the documentation shows it, cut down to what could matter."""
    service = {"ID": "a", "Service": "auxiliary-service", "Tags": ["blue"], "Address": address, "Port": port}
    if weights is not None:
        service["Weights"] = weights
    return {"Node": {"Node": "n", "Address": node, "Datacenter": "dc1"}, "Service": service, "Checks": []}


def answer(*entries: object, index: str | None = "7", status: int = 200, **headers: str) -> Answer:
    body = json.dumps(entries).encode()
    more = {} if index is None else {"X-Consul-Index": index}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(body, status, tuple({"Content-Length": str(len(body)), **more, **named}.items()))


class Made:
    """A source, the Consul that it asks, and a clock; each answer is the next of ``says``, then the last."""

    def __init__(self, *says: Answer | Exception, token: str | None = TOKEN, **options: str) -> None:
        self.says = list(says)
        self.consul = Upstream(lambda _: self.says.pop(0) if len(self.says) > 1 else self.says[0])
        self.clock = Clock()
        self.source = ConsulSource(
            "consul://auxiliary",
            "auxiliary-service",
            "http://consul.test:8500",
            token,
            adapter=self.consul,
            clock=self.clock,
            **options,
        )

    def read(self, after: float = 10.0) -> Listing:
        self.clock.now += after
        return self.source.read()

    def fails(self) -> str:
        with pytest.raises(SourceFailed) as caught:
            self.read()
        return str(caught.value)

    def queries(self) -> list[dict[str, str]]:
        return [
            {name: "&".join(values) for name, values in parse_qs(urlsplit(str(each.url)).query).items()}
            for each in self.consul.sent
        ]


# What is asked.


def test_the_first_read_asks_for_what_passes_and_does_not_wait() -> None:
    made = Made(answer(entry()))

    assert made.read() == Listing((Address("10.0.0.1", 3001),), again=0.0)

    [sent] = made.consul.sent
    assert (sent.method, sent.url) == (
        "GET",
        "http://consul.test:8500/v1/health/service/auxiliary-service?passing=1",
    )
    assert sent.body is None


def test_what_is_configured_is_asked_for() -> None:
    made = Made(answer(), datacenter="eu", tag="blue", namespace="team")
    made.read()

    assert made.queries() == [{"passing": "1", "dc": "eu", "tag": "blue", "ns": "team"}]


def test_a_name_cannot_leave_its_place_in_the_url() -> None:
    consul = Upstream(answer())
    ConsulSource("n", "a/../b?c#d é", "https://consul.test/", None, tag="x&dc=y", adapter=consul).read()

    assert [each.url for each in consul.sent] == [
        "https://consul.test/v1/health/service/a%2F..%2Fb%3Fc%23d%20%C3%A9?passing=1&tag=x%26dc%3Dy"
    ]


@pytest.mark.parametrize("token", [None, "", TOKEN])
def test_the_token_is_sent_in_its_header_and_nowhere_else(token: str | None) -> None:
    made = Made(answer(), token=token)
    made.read()

    headers = dict(made.consul.headers)
    assert headers.pop("x-consul-token", "") == (token or "")
    assert not token or token not in f"{headers}{made.consul.sent[0].url}{made.source!r}"


def test_the_second_read_waits_by_the_index_of_the_first() -> None:
    made = Made(answer(entry(), index="7"), answer(entry(), index="9"), answer())
    made.read()
    made.read()
    made.read()

    waits = [(each.get("index"), each.get("wait")) for each in made.queries()]
    assert waits == [(None, None), ("7", f"{WAIT}s"), ("9", f"{WAIT}s")]


def test_more_is_waited_for_than_consul_takes_and_less_than_half_a_minute() -> None:
    made = Made(answer())
    made.read()
    made.read()

    [(connect, at_once), (connect_too, waiting)] = made.consul.timeouts
    assert connect == connect_too == 1.0
    assert at_once <= 5.0
    assert WAIT * (1 + 1 / 16) + 1 < waiting < 30 - connect


# The index.


@pytest.mark.parametrize(
    ("before", "told", "next_index"),
    [
        (0, "7", 7),
        (7, "7", 7),
        (7, "8", 8),
        (7, str(2**64 - 1), 2**64 - 1),
        (7, "6", 0),  # gone back: begin anew
        (7, "0", 0),
        (0, "0", 1),  # with 0 Consul would not wait
        (1, "0", 1),
        (0, "1", 1),
    ],
)
def test_the_index_follows_the_documented_rules(before: int, told: str, next_index: int) -> None:
    assert following(before, told) == next_index


@pytest.mark.parametrize("told", ["", "-1", "1.5", "x", "²", "1, 2", "9" * 21, "7\n"])
def test_an_index_that_is_no_number_is_a_fault(told: str) -> None:
    with pytest.raises(SourceFailed, match="X-Consul-Index"):
        following(0, told)


def test_an_index_that_went_back_is_taken_and_then_asked_at_once() -> None:
    made = Made(*(answer(entry(port=port), index=index) for port, index in ((1, "50"), (2, "3"), (3, "3"))))
    lists = [made.read().addresses[0].port for _ in range(3)]
    made.read()

    assert lists == [1, 2, 3]
    assert [each.get("index") for each in made.queries()] == [None, "50", None, "3"]


@pytest.mark.parametrize("index", ["0", None])
def test_an_index_that_is_missing_never_becomes_a_zero(index: str | None) -> None:
    made = Made(answer(entry(), index=index))
    for _ in range(3):
        assert made.read().addresses

    assert [each.get("index") for each in made.queries()] == [None, "1", "1"]


@pytest.mark.parametrize(
    "spoiled",
    [
        answer(status=500),
        answer(entry(port="http")),
        answer(entry(), index="x"),
        requests.ConnectionError("no"),
    ],
    ids=("status", "body", "index", "connection"),
)
def test_after_a_failure_it_begins_anew(spoiled: Answer | Exception) -> None:
    made = Made(answer(entry(), index="7"), spoiled, answer(entry(), index="7"))
    made.read()
    made.fails()
    made.read()

    assert [each.get("index") for each in made.queries()] == [None, "7", None]


# How often.


def reads(made: Made, seconds: float, takes: Callable[[], float] = lambda: 0.0) -> list[float]:
    """Read as often as the source wants for so long, each taking ``takes``; give when each began."""
    begun: list[float] = []
    end = made.clock.now + seconds
    while made.clock.now < end and len(begun) < 1000:
        begun.append(made.clock.now)
        again = made.read(after=0.0).again
        assert again <= 0.5
        made.clock.now += again + takes()
    return begun


@pytest.mark.parametrize("index", ["0", None, "7"])
def test_answers_at_once_without_end_are_asked_for_twice_a_second(index: str | None) -> None:
    begun = reads(Made(answer(entry(), index=index)), 10.0)

    assert begun[:2] == [1000.0, 1000.0]
    assert len(begun) <= 2 + 2 * 10
    assert len(begun) >= 2 * 10  # and it is not held back longer than half a second


def test_an_index_that_rises_without_end_is_read_twice_a_second() -> None:
    made = Made(*(answer(entry(), index=str(each)) for each in range(1, 500)))

    assert 20 <= len(reads(made, 10.0)) <= 22


def test_who_waits_for_changes_is_never_held_back() -> None:
    made = Made(answer(entry()))
    made.read()
    for _ in range(5):
        made.source._index = 7
        made.clock.now += 0.5
        assert made.read(after=0.0).again == 0.0


def test_two_changes_after_a_quiet_time_come_without_a_pause() -> None:
    made = Made(answer(entry()))

    assert [made.read(after=after).again for after in (0.0, 10.0, 0.0, 0.0)] == [0.0, 0.0, 0.5, 0.5]


def test_failures_do_not_add_up_to_a_long_pause() -> None:
    made = Made(*[answer(status=500)] * 20, answer(entry()))
    for _ in range(20):
        with pytest.raises(SourceFailed):
            made.read(after=0.2)

    assert made.read(after=0.2).again <= 0.5


# What is taken.


@pytest.mark.parametrize(
    ("written", "ip"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:0DB8:0:0::0001", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("fd00:0:0:0:1::", "fd00::1:0:0:0"),
    ],
)
def test_an_address_is_in_its_shortest_form(written: str, ip: str) -> None:
    addresses, left_out = listed(json.dumps([entry(written)]).encode())

    assert addresses == (Address(ip, 3001),)
    assert left_out == ()


@pytest.mark.parametrize(
    "address",
    [
        "host.test",
        "10.0.0.256",
        "10.0.0.01",
        "10.0.0.1:80",
        " 10.0.0.1",
        "[::1]",
        "fe80::1%eth0",
        "1",
        "٣.1.1.1",
    ],
)
def test_what_is_no_ip_address_is_left_out_alone(address: str) -> None:
    addresses, [left_out] = listed(json.dumps([entry(address), entry()]).encode())

    assert addresses == (Address("10.0.0.1", 3001),)
    assert left_out.endswith("is no IP address")
    assert left_out.isascii()


@pytest.mark.parametrize(("address", "node"), [("", "192.0.2.7"), (None, "192.0.2.7")])
def test_without_an_address_it_is_at_its_nodes(address: str | None, node: str) -> None:
    assert listed(json.dumps([entry(address, node=node)]).encode())[0] == (Address(node, 3001),)


def test_an_address_of_its_own_is_taken_before_its_nodes() -> None:
    [address] = listed(json.dumps([entry("10.0.0.1", node=5)]).encode())[0]

    assert address.ip == "10.0.0.1"


@pytest.mark.parametrize("port", [0, -1, 65536, pytest.param(10**4000, id="huge"), None])
def test_what_has_no_port_is_left_out_alone(port: int | None) -> None:
    addresses, [left_out] = listed(json.dumps([entry(port=port), entry(port=65535)]).encode())

    assert addresses == (Address("10.0.0.1", 65535),)
    assert len(left_out) < 120


@pytest.mark.parametrize(
    ("weights", "weight"),
    [
        (None, 1),
        ({}, 1),
        ({"Warning": 5}, 1),
        ({"Passing": None}, 1),
        ({"Passing": 10, "Warning": 1}, 10),
        ({"Passing": 0}, 1),
        ({"Passing": -3}, 1),
        ({"Passing": 1000}, 1000),
        ({"Passing": 65535}, 1000),
        ({"Passing": 10**4000}, 1000),
    ],
)
def test_the_weight_is_that_of_passing_within_bounds(weights: dict[str, Any] | None, weight: int) -> None:
    [address] = listed(json.dumps([entry(weights=weights)]).encode())[0]

    assert address.weight == weight


def test_what_is_left_out_is_said_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    bad, worse, good = entry("host.test"), entry(port=0), entry()
    made = Made(
        *(answer(*each) for each in ([bad, good], [good, bad], [bad, worse], [worse], [good], [bad, good]))
    )
    with caplog.at_level(logging.INFO):
        said = []
        for _ in range(6):
            made.read()
            said.append(len(caplog.messages))

    assert said == [1, 1, 2, 2, 2, 3]
    assert caplog.messages[0] == "consul://auxiliary: left out: 'host.test' is no IP address"
    assert "10.0.0.1 with 0 as its port" in caplog.messages[1]


def test_many_that_are_left_out_make_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    made = Made(answer(*(entry("\ud800\n" + "x" * 5000 + str(each)) for each in range(9))))
    made.read()
    made = Made(answer(*(entry(f"host-{each}.test") for each in range(9))))
    made.read()

    first, second = caplog.messages
    assert len(first) < 150
    assert first.isascii()
    assert "\n" not in first
    assert len(second) < 300
    assert second.endswith("; and 4 more")


# What is not.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'"x"',
        b"[1]",
        b"[null]",
        b"[[]]",
        b"[{}]",
        b'[{"Service":null}]',
        b'[{"Service":[]}]',
        b'[{"Service":{"Address":1,"Port":1}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":"1"}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":true}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":1.0}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":1e999}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":NaN}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":1,"Weights":[]}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":1,"Weights":{"Passing":"1"}}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":1,"Weights":{"Passing":true}}}]',
        b'[{"Service":{"Address":"","Port":1}}]',
        b'[{"Service":{"Address":"","Port":1},"Node":{"Address":1}}]',
        b'[{"Service":{"Address":"10.0.0.1","Port":' + b"9" * 5000 + b"}}]",
        b"[NaN]",
        b'[{"Service":{"Address":"10.0.0.1","Port":1},"Checks":NaN}]',
        b"[" * 100_000,
        b'[{"Service":' * 50_000,
        b"\xff\xfe[]",
        b"[]x",
        "[]".encode("utf-16"),
        b"<html>",
    ],
)
def test_what_consul_would_not_write_is_a_fault(body: bytes) -> None:
    with pytest.raises(SourceFailed, match=r"^the answer is no "):
        listed(body)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, "403: permission denied"),
        (404, "404: not found"),
        (429, "429: rate limited"),
        (500, "500: internal error"),
        (503, "503: unavailable"),
        (204, "204: unexpected"),
        (400, "400: unexpected"),
    ],
)
def test_a_status_is_a_fault_with_a_short_text(status: int, text: str) -> None:
    assert Made(answer(entry(), status=status)).fails() == text


def test_a_redirect_is_not_followed() -> None:
    made = Made(answer(status=302, Location="http://elsewhere.test/"))

    assert made.fails() == "302: unexpected"
    assert len(made.consul.sent) == 1


def test_what_a_token_may_not_read_is_a_fault_and_no_empty_list() -> None:
    def filtered(*entries: object) -> Made:
        return Made(answer(*entries, X_Consul_Results_Filtered_By_ACLs="true"))

    assert filtered().fails() == "the token may not read it"
    assert filtered(entry()).read().addresses
    assert Made(answer()).read().addresses == ()


def test_an_answer_is_read_up_to_its_bound() -> None:
    fits = b"[" + b" " * (BODY_MOST - 2) + b"]"
    headers = (("X-Consul-Index", "7"),)

    assert Made(Answer(fits, headers=headers)).read().addresses == ()
    made = Made(Answer(fits + b" " * 10_000, headers=headers))
    assert made.fails() == f"the answer has more than {BODY_MOST} bytes"
    [raw] = made.consul.raws
    assert raw.tell() <= BODY_MOST + 1
    assert raw.closed


def test_an_answer_whose_end_is_missing_is_a_fault() -> None:
    assert "broken off" in Made(Answer(b"[]", headers=(("Content-Length", "5"),))).fails()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (requests.ReadTimeout("of b1gs33cr3t"), "no answer in time"),
        (TimeoutError("the deadline"), "no answer in time"),
        (requests.ConnectionError("to b1gs33cr3t"), "broken off: ConnectionError"),
        (ConnectionResetError("by b1gs33cr3t"), "broken off: ConnectionResetError"),
        (ValueError("Invalid header value b1gs33cr3t"), "broken off: ValueError"),
        (requests.exceptions.InvalidURL("http://?b1gs33cr3t"), "broken off: InvalidURL"),
    ],
)
def test_no_answer_is_a_fault_and_its_text_without_secrets(error: Exception, text: str) -> None:
    made = Made(error)

    with pytest.raises(SourceFailed) as caught:
        made.read()

    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_after_close_it_asks_nobody() -> None:
    made = Made(answer(entry()))
    made.read()
    made.source.close()
    made.source.close()

    assert made.fails() == "closed"
    assert len(made.consul.sent) == 1


# Whatever comes.

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.ip_addresses().map(str)
names = st.sampled_from(["Service", "Node", "Address", "Port", "Weights", "Passing", "Checks"]) | st.text()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)
ips = st.ip_addresses().map(str) | st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}")
addresses = ips | st.just("") | st.text(max_size=5) | st.sampled_from(["fe80::1%1", "host.test"])
ports = st.integers(-2, 70_000)
weights = st.none() | st.fixed_dictionaries({}, optional={"Passing": st.integers(-5, 2000) | st.none()})
entries = st.builds(entry, addresses, ports, weights, addresses)
nearly = st.builds(entry, addresses | anything, ports | anything, weights | anything, addresses | anything)


def held(body: bytes) -> None:
    """Read ``body``: a list of addresses that can be asked, or our one exception."""
    try:
        found, left_out = listed(body)
    except SourceFailed:
        return
    for each in found:
        ip = ipaddress.ip_address(each.ip)
        assert str(ip) == each.ip
        assert "%" not in each.ip
        assert getattr(ip, "ipv4_mapped", None) is None
        assert type(each.port) is type(each.weight) is int
        assert 1 <= each.port <= 65535
        assert 1 <= each.weight <= 1000
        assert urlsplit(each.url).port == each.port
    for text in left_out:
        assert text.isascii()
        assert len(text) < 500


@given(st.binary() | anything.map(lambda value: json.dumps(value).encode()))
@hypothesis_settings(deadline=None, database=None)
def test_anything_is_a_list_or_a_fault(body: bytes) -> None:
    held(body)


@given(st.lists(nearly | entries, max_size=4))
@hypothesis_settings(deadline=None, database=None, max_examples=300)
def test_nearly_a_list_is_a_list_or_a_fault(given_entries: list[Any]) -> None:
    held(json.dumps(given_entries).encode())


@given(st.lists(entries, max_size=6))
@hypothesis_settings(deadline=None, database=None)
def test_of_a_list_nothing_gets_lost(given_entries: list[dict[str, Any]]) -> None:
    body = json.dumps(given_entries).encode()
    held(body)
    found, left_out = listed(body)

    assert len(found) + len(left_out) == len(given_entries)
    for each in given_entries:
        one, _ = listed(json.dumps([each]).encode())
        assert set(one) <= set(found)


@given(st.text(max_size=30), st.integers(0, 2**64))
@hypothesis_settings(deadline=None, database=None)
def test_an_index_never_lets_consul_spin_and_never_hides_a_change(told: str, before: int) -> None:
    try:
        index = following(before, told)
    except SourceFailed:
        assert not (told.isascii() and told.isdigit() and len(told) <= 20)
        return
    assert index == 0 or index == max(1, int(told)) >= before
