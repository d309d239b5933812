"""etcd from memory: what is asked, what comes of answers however they are cut, and when it begins anew."""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import NewConnectionError

from main_api.upstream.discovery.etcd import (
    BODY_MOST,
    EVENTS_MOST,
    KEYS_MOST,
    WATCH_SECONDS,
    Entry,
    EtcdSource,
    Lines,
    entry,
    parsed,
    ranged,
)
from main_api.upstream.discovery.source import Address, Listing, SourceFailed
from tests.main_api.policies.fakes import Clock

ONE, TWO, THREE = (Address(f"10.0.0.{number}", 3001) for number in (1, 2, 3))
HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"5",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"header":' * 50_000,
    b'{"header":{"revision":' + b"9" * 5000 + b"}}",
    b'{"header":{"revision":-1}}',
    b'{"header":{"revision":1e9}}',
    b'{"header":{"revision":true}}',
    b'{"header":{"revision":"1.0"}}',
    b'{"header":{"revision":"\xd9\xa1"}}',
    b'{"header":null}',
    b'{"kvs":{}}',
    b'{"kvs":[5]}',
    b'{"kvs":[{"value":""}]}',
    b'{"kvs":[{"key":5,"value":""}]}',
    b'{"kvs":[{"key":"*","value":""}]}',
    b'{"kvs":[{"key":"YQ==","value":"\\ud800"}]}',
    b'{"kvs":[{"key":"YQ==","value":NaN}]}',
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["YQ==", "7"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["header", "revision", "kvs", "kv", "key", "value", "more", "result", "events", "type"]
            )
            | st.sampled_from(
                ["error", "canceled", "fragment", "mod_revision", "compact_revision", "created"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


def b64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def written(address: Address) -> str:
    """Write an instance as client/v3/naming/endpoints does."""
    host = f"[{address.ip}]" if ":" in address.ip else address.ip
    metadata = {"weight": address.weight} if address.weight != 1 else None
    return json.dumps({"Op": 0, "Addr": f"{host}:{address.port}", "Metadata": metadata})


def a_range(revision: int, *values: str | Address, more: bool = False) -> bytes:
    """Write the answer to a range, as etcd does: the keys are s/0, s/1 and so on."""
    kvs = [
        {"key": b64(f"s/{number}"), "mod_revision": "1", "value": b64(as_text(value))}
        for number, value in enumerate(values)
    ]
    return json.dumps(
        {"header": {"revision": str(revision)}}
        | ({"kvs": kvs, "count": str(len(kvs))} if kvs else {})
        | ({"more": True} if more else {})
    ).encode()


def as_text(value: str | Address) -> str:
    return value if isinstance(value, str) else written(value)


def message(revision: int, *events: dict[str, Any], **more: Any) -> bytes:
    """Write one message of a watch."""
    header = {"revision": str(revision)} if revision else {}
    result = {"header": header} | ({"events": list(events)} if events else {}) | more
    return json.dumps({"result": result}).encode() + b"\n"


def put(revision: int, number: int, value: str | Address) -> dict[str, Any]:
    kv = {"key": b64(f"s/{number}"), "mod_revision": str(revision), "value": b64(as_text(value))}
    return {"kv": kv}


def delete(revision: int, number: int) -> dict[str, Any]:
    return {"type": "DELETE", "kv": {"key": b64(f"s/{number}"), "mod_revision": str(revision)}}


CREATED = message(1000, created=True)
ENDED = b""


class Stream(io.RawIOBase):
    """The body of a watch: pieces as they arrive, errors, and then silence until the deadline."""

    def __init__(self, pieces: Iterable[bytes | Exception], silence: Callable[[], None]) -> None:
        self.pieces = list(pieces)
        self.silence = silence

    def readable(self) -> bool:
        return True

    def read1(self, most: int = -1) -> bytes:
        if not self.pieces:
            self.silence()
            raise TimeoutError("the deadline of the call has passed")
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        if 0 <= most < len(piece):
            self.pieces.insert(0, piece[most:])
        return piece[:most] if most >= 0 else piece


class Etcd(HTTPAdapter):
    """Stands in for the endpoints: ranges and watches are answered from lists, and what was sent is kept."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.ranges: list[bytes | int | Exception] = []
        self.watches: list[Iterable[bytes | Exception] | int | Exception] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.requests: list[requests.PreparedRequest] = []
        self.timeouts: list[Any] = []
        self.streams: list[Stream] = []
        # Whatever is not closed stays open.
        self.responses: list[requests.Response] = []

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        assert isinstance(request.body, bytes)
        self.requests.append(request)
        self.sent.append((str(request.url), json.loads(request.body)))
        self.timeouts.append(options["timeout"])
        watch = str(request.url).endswith("/v3/watch")
        answer = (self.watches if watch else self.ranges).pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return self.answer(request, io.BytesIO(b'{"error":"no\\nsuch luck","code":5}'), answer)
        if isinstance(answer, bytes):
            return self.answer(request, io.BytesIO(answer), 200)
        self.streams.append(Stream(answer, self.silence))
        return self.answer(request, self.streams[-1], 200)

    def silence(self) -> None:
        self.clock.now += WATCH_SECONDS

    def answer(self, request: requests.PreparedRequest, body: Any, status: int) -> requests.Response:
        raw = HTTPResponse(body, status=status, preload_content=False, decode_content=False)
        self.responses.append(self.build_response(request, raw))
        return self.responses[-1]

    @property
    def asked(self) -> list[str]:
        """Of each question the host and what was asked."""
        return [url.removeprefix("http://").replace("/v3/", " ").replace("kv/", "") for url, _ in self.sent]


class Setting:
    """A source before an etcd from memory."""

    def __init__(self, *endpoints: str, prefix: str = "s") -> None:
        self.clock = Clock()
        self.etcd = Etcd(self.clock)
        self.source = EtcdSource(
            "etcd://s", prefix, endpoints or ("http://a:1",), adapter=self.etcd, clock=self.clock
        )

    def listed(self, *values: str | Address, revision: int = 7) -> Listing:
        """Let the source read what a range gives."""
        self.etcd.ranges.append(a_range(revision, *values))
        return self.source.read()

    def watched(self, *pieces: bytes | Exception) -> Listing:
        """Let the source read what a watch gives, or the range after it; its list must be set before."""
        self.etcd.watches.append(pieces)
        return self.source.read()


# One value.


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ('{"Op":0,"Addr":"10.0.0.1:3001","Metadata":null}', Address("10.0.0.1", 3001)),
        ('{"Addr":"10.0.0.1:1"}', Address("10.0.0.1", 1)),
        ('{"Addr":"10.0.0.1:65535"}', Address("10.0.0.1", 65535)),
        ('{"Op":1,"Addr":"10.0.0.1:3001"}', Address("10.0.0.1", 3001)),
        ('{"Addr":"[2001:DB8:0::1]:3001"}', Address("2001:db8::1", 3001)),
        ('{"Addr":"[::ffff:10.0.0.1]:3001"}', Address("10.0.0.1", 3001)),
        ('{"Addr":"10.0.0.1:3001","Metadata":{"weight":2,"zone":"a"}}', Address("10.0.0.1", 3001, 2)),
        ('{"Addr":"10.0.0.1:3001","Metadata":{"weight":1000}}', Address("10.0.0.1", 3001, 1000)),
        ('{"Addr":"10.0.0.1:3001","Metadata":{"weight":1001}}', Address("10.0.0.1", 3001, 1000)),
        ('{"Addr":"10.0.0.1:3001","Metadata":"weight"}', Address("10.0.0.1", 3001)),
    ],
)
def test_an_instance_is_read_as_the_naming_package_writes_it(value: str, address: Address) -> None:
    assert entry(value.encode()) == Entry(address)


@pytest.mark.parametrize("weight", ["0", "-1", "1.5", "2.0", "true", '"2"', "null", "NaN", "1e999", "[]"])
def test_a_weight_that_is_none_counts_as_one(weight: str) -> None:
    said = entry(f'{{"Addr":"10.0.0.1:3001","Metadata":{{"weight":{weight}}}}}'.encode())

    assert said == Entry(ONE, "weight is no whole number above 0")


@pytest.mark.parametrize(
    "value",
    [
        *HOSTILE,
        b"{}",
        b'{"Addr":5}',
        b'{"addr":"10.0.0.1:1"}',
        *(
            b'{"Addr":"' + addr.encode() + b'"}'
            for addr in [
                "",
                "10.0.0.1",
                "10.0.0.1:",
                "10.0.0.1:0",
                "10.0.0.1:01",
                "10.0.0.1:65536",
                "10.0.0.1:+1",
                "10.0.0.1:٣",
                "10.0.0.01:1",
                "10.0.0:1",
                "10.0.0.1:1 ",
                "10.0.0.1:1\\n",
                "host:1",
                "http://10.0.0.1:1",
                "::1:1",
                "[::1]",
                "[::1:1",
                "[10.0.0.1]:1",
                "[fe80::1%eth0]:1",
                "[fe80::1%25eth0]:1",
            ]
        ),
    ],
)
def test_what_is_no_instance_is_said_to_be_none(value: bytes) -> None:
    said = entry(value)

    assert said.address is None
    assert said.fault


@settings(deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_value_is_an_instance_or_is_not(value: bytes) -> None:
    said = entry(value)

    assert said.address is not None or said.fault


@settings(deadline=None)
@given(st.ip_addresses(), st.integers(1, 65535), st.integers(1, 1000))
def test_what_is_written_is_read(ip: Any, port: int, weight: int) -> None:
    mapped = getattr(ip, "ipv4_mapped", None)

    said = entry(written(Address(str(ip), port, weight)).encode())

    assert said == Entry(Address(str(mapped or ip), port, weight))


# A range.


def test_all_below_the_prefix_is_asked_for_and_nothing_beside_it() -> None:
    setting = Setting(prefix="/services/s/")
    setting.listed(ONE)

    [(url, question)] = setting.etcd.sent
    assert url == "http://a:1/v3/kv/range"
    assert question == {
        "key": b64("/services/s/"),
        "range_end": b64("/services/s0"),
        "limit": str(KEYS_MOST),
    }
    [request] = setting.etcd.requests
    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/json"


def test_the_first_read_gives_the_list_at_once() -> None:
    assert Setting().listed(TWO, ONE, ONE) == Listing((ONE, TWO), 0.0)


def test_the_list_is_in_order() -> None:
    many = [Address(f"10.0.0.{number}", 3001) for number in range(100, 200)]

    assert Setting().listed(*reversed(many)).addresses == tuple(many)


def test_no_instance_is_a_list_too() -> None:
    assert Setting().listed() == Listing(())


def test_more_keys_than_a_service_has_are_a_fault() -> None:
    setting = Setting()
    setting.etcd.ranges.append(a_range(7, ONE, more=True))

    with pytest.raises(SourceFailed, match=r"^more than 1024 keys$"):
        setting.source.read()


def test_a_limit_that_is_not_kept_is_a_fault() -> None:
    setting = Setting()

    with pytest.raises(SourceFailed, match=r"^more than 1024 keys$"):
        setting.listed(*["{}"] * (KEYS_MOST + 1))


@pytest.mark.parametrize("body", HOSTILE)
def test_an_answer_that_is_none_is_a_fault(body: bytes) -> None:
    setting = Setting()
    setting.etcd.ranges.append(body)

    with pytest.raises(SourceFailed, match=r"^a:1: not understood: "):
        setting.source.read()


@settings(deadline=None)
@given(JSON)
def test_any_answer_is_a_list_or_a_fault(value: Any) -> None:
    setting = Setting()
    setting.etcd.ranges.append(json.dumps(value).encode())
    with suppress(SourceFailed):
        assert isinstance(setting.source.read(), Listing)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_are_an_object_or_a_fault(body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(ranged(parsed(body)), tuple)


def test_an_answer_without_end_is_read_to_a_bound() -> None:
    setting = Setting()
    setting.etcd.ranges.append(b" " * (BODY_MOST + 2))

    with pytest.raises(SourceFailed, match=r"^a:1: an answer that is too long$"):
        setting.source.read()


@pytest.mark.parametrize("status", [201, 301, 302, 401, 404, 500, 503])
def test_another_status_is_a_fault_and_is_explained(status: int) -> None:
    setting = Setting()
    setting.etcd.ranges.append(status)

    with pytest.raises(SourceFailed, match=rf"^a:1: status {status}: no\?such luck$"):
        setting.source.read()
    assert len(setting.etcd.sent) == 1


@pytest.mark.parametrize("address", ["http://a:1/", "http://user:secret@a:1"])
def test_an_endpoint_is_named_without_what_is_secret(address: str) -> None:
    setting = Setting(address)
    setting.etcd.ranges.append(404)

    with pytest.raises(SourceFailed, match=r"^a:1: "):
        setting.source.read()


def test_the_next_endpoint_is_asked_in_the_same_read_and_kept() -> None:
    setting = Setting("http://a:1", "http://b:2", "http://c:3")
    setting.etcd.ranges += [requests.ConnectionError(), 503]

    assert setting.listed(ONE) == Listing((ONE,))
    setting.watched(message(8, put(8, 1, TWO)))

    assert setting.etcd.asked == ["a:1 range", "b:2 range", "c:3 range", "c:3 watch"]


def test_the_same_fault_is_the_same_text_whoever_was_asked_first() -> None:
    text = "^a:1: status 503: no.such luck; b:2: ConnectionError$"
    setting = Setting("http://a:1", "http://b:2")
    setting.etcd.ranges += [503, requests.ConnectionError()]
    with pytest.raises(SourceFailed, match=text):
        setting.source.read()

    setting.listed(ONE)
    setting.etcd.ranges += [requests.ConnectionError(), 503]
    with pytest.raises(SourceFailed, match=text):
        setting.watched(ENDED)
    # The watch at a had failed, so b was asked first.
    assert setting.etcd.asked[-3:] == ["a:1 watch", "b:2 range", "a:1 range"]


def test_what_went_wrong_is_told_in_few_words() -> None:
    refused = NewConnectionError(None, "text")  # type: ignore[arg-type]  # there is no connection
    refused.__cause__ = ConnectionRefusedError(111, "Connection refused")
    unanswered = NewConnectionError(None, "text")  # type: ignore[arg-type]
    unanswered.__cause__ = TimeoutError("timed out")
    for error, text in [
        (requests.ConnectionError(refused), "Connection refused"),
        (requests.ConnectionError(unanswered), "no answer in time"),
        (requests.ReadTimeout(TimeoutError()), "no answer in time"),
        (OSError("the name a was not found"), "the name a was not found"),
        (requests.exceptions.InvalidURL("http://secret"), "InvalidURL"),
    ]:
        setting = Setting()
        setting.etcd.ranges.append(error)
        with pytest.raises(SourceFailed) as caught:
            setting.source.read()
        assert str(caught.value) == f"a:1: {text}"


@pytest.mark.parametrize(("count", "seconds"), [(1, 2.0), (6, 2.0), (24, 0.5)])
def test_all_endpoints_together_have_twelve_seconds(count: int, seconds: float) -> None:
    setting = Setting(*(f"http://a{number}:1" for number in range(count)))
    setting.etcd.ranges += [requests.ConnectionError()] * count

    with pytest.raises(SourceFailed):
        setting.source.read()
    assert setting.etcd.timeouts == [(min(1.0, seconds), seconds)] * count


def test_an_endpoint_is_needed() -> None:
    with pytest.raises(ValueError, match=r"^endpoints: "):
        EtcdSource("etcd://s", "s", ())


# A watch.


def test_the_second_read_watches_from_the_next_revision() -> None:
    setting = Setting(prefix="/services/s")
    setting.listed(ONE, revision=7)
    setting.watched(CREATED, message(8, put(8, 1, TWO)))

    url, question = setting.etcd.sent[1]
    assert url == "http://a:1/v3/watch"
    assert question == {
        "create_request": {
            "key": b64("/services/s/"),
            "range_end": b64("/services/s0"),
            "start_revision": "8",
            "progress_notify": True,
            "fragment": True,
        }
    }
    assert setting.etcd.timeouts[1] == (1.0, WATCH_SECONDS)


def test_what_joins_and_leaves_is_told_with_the_whole_list() -> None:
    setting = Setting()
    setting.listed(ONE, TWO)

    assert setting.watched(
        CREATED,
        message(8, put(8, 2, THREE)),
        message(9, delete(9, 0)),
        message(10, put(10, 1, ONE)),
    ) == Listing((ONE, TWO, THREE), 0.0)
    # The watch goes on: no other one was asked for.
    assert setting.source.read() == Listing((TWO, THREE), 0.0)
    assert setting.source.read() == Listing((ONE, THREE), 0.0)
    assert setting.etcd.asked == ["a:1 range", "a:1 watch"]


def test_a_read_waits_on_while_the_list_stays_the_same() -> None:
    setting = Setting()
    setting.listed(ONE)

    assert setting.watched(
        CREATED,
        message(8, put(8, 0, ONE)),
        message(9, put(9, 1, "junk")),
        message(10, delete(10, 77)),
        message(11),
        b" \n",
        message(12, put(12, 2, TWO)),
    ).addresses == (ONE, TWO)


def test_a_weight_is_a_change_too() -> None:
    setting = Setting()
    setting.listed(ONE)

    heavier = Address(ONE.ip, ONE.port, 5)
    assert setting.watched(message(8, put(8, 0, heavier))).addresses == (heavier,)


def test_what_the_range_had_already_is_not_told_again() -> None:
    setting = Setting()
    setting.listed(ONE, revision=7)

    assert setting.watched(message(8, delete(7, 0), put(8, 1, TWO))).addresses == (ONE, TWO)


def test_fragments_are_told_when_the_last_one_is_there() -> None:
    setting = Setting()
    setting.listed(ONE)

    assert setting.watched(
        message(8, delete(8, 0), fragment=True),
        message(8, put(8, 1, TWO), fragment=True),
        message(8, put(8, 2, THREE)),
    ).addresses == (TWO, THREE)


def test_fragments_without_end_are_read_to_a_bound() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.etcd.ranges.append(a_range(9, TWO))
    many = message(8, *[delete(8, 5)] * 1024, fragment=True)
    began = setting.clock.now

    assert setting.watched(*[many] * (EVENTS_MOST // 1024 + 1)).addresses == (TWO,)
    assert setting.clock.now == began


def test_only_what_is_held_back_counts_for_the_bound() -> None:
    setting = Setting()
    setting.listed(ONE)
    many = message(8, *[delete(8, 5)] * 1024)

    assert setting.watched(*[many] * (EVENTS_MOST // 1024 + 1), message(9, put(9, 1, TWO))).addresses == (
        ONE,
        TWO,
    )
    assert setting.etcd.asked == ["a:1 range", "a:1 watch"]


def test_an_uproar_is_ranged_over_after_a_pause() -> None:
    setting = Setting()
    setting.listed(ONE)
    messages = [message(8 + each, put(8 + each, 1, Address("10.0.0.9", 1 + each))) for each in range(30)]
    setting.etcd.watches.append(messages)
    began = setting.clock.now

    pauses = [setting.source.read().again for _ in range(21)]

    assert setting.clock.now == began
    assert pauses == [0.0] * 20 + [0.25]
    assert setting.etcd.streams[0].closed
    # What was not read any more is in the range.
    assert setting.listed(ONE, THREE) == Listing((ONE, THREE), 0.0)
    assert setting.etcd.asked == ["a:1 range", "a:1 watch", "a:1 range"]


def test_twenty_changes_a_second_are_no_uproar() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.etcd.watches.append(
        [message(8 + each, put(8 + each, 1, Address("10.0.0.9", 1 + each))) for each in range(100)]
    )
    for _ in range(100):
        assert setting.source.read().again == 0.0
        setting.clock.now += 0.0501


@pytest.mark.parametrize("silence", [(), (CREATED,), (CREATED, message(9))])
def test_a_watch_without_news_is_confirmed_by_a_range(silence: tuple[bytes, ...]) -> None:
    setting = Setting()
    setting.listed(ONE, revision=7)
    setting.etcd.ranges.append(a_range(30, ONE, TWO))
    began = setting.clock.now

    # Not told by the watch: its connection was dead.
    assert setting.watched(*silence) == Listing((ONE, TWO), 0.0)
    assert setting.clock.now - began <= 2 * WATCH_SECONDS
    setting.etcd.ranges.append(a_range(30, ONE, TWO))
    setting.watched()

    assert setting.etcd.asked == ["a:1 range", "a:1 watch", "a:1 range", "a:1 watch", "a:1 range"]
    assert setting.etcd.sent[3][1]["create_request"]["start_revision"] == "31"


def test_a_watch_that_outlives_a_read_keeps_its_deadline() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.watched(message(8, put(8, 1, TWO)))
    setting.etcd.ranges.append(a_range(9, TWO))

    assert setting.source.read() == Listing((TWO,), 0.0)
    assert setting.etcd.streams[0].closed


def test_a_late_connection_is_a_failure_of_the_endpoint() -> None:
    setting = Setting("http://a:1", "http://b:2")
    setting.listed(ONE)
    setting.etcd.watches.append(requests.ConnectTimeout())

    assert setting.listed(TWO).addresses == (TWO,)
    assert setting.etcd.asked == ["a:1 range", "a:1 watch", "b:2 range"]


BROKEN: dict[str, tuple[bytes | Exception, ...]] = {
    "ended": (CREATED, ENDED),
    "reset": (CREATED, ConnectionResetError(104, "Connection reset by peer")),
    "refused": (message(0, canceled=True, cancel_reason="etcdserver: permission denied"),),
    "no reason": (message(8, canceled=True),),
    "error": (json.dumps({"error": {"grpc_code": 14, "message": "no leader"}}).encode() + b"\n",),
    "error, newer": (json.dumps({"error": {"code": 14, "message": "no leader"}}).encode() + b"\n",),
    "a long line": (b" " * (BODY_MOST + 1),),
    "another event": (message(8, {"type": "MOVE", "kv": {"key": "YQ==", "mod_revision": "8"}}),),
    "no key": (message(8, {"kv": {"mod_revision": "8"}}),),
    "no revision": (message(8, {"kv": {"key": "YQ=="}}),),
}
ANEW: dict[str, tuple[bytes | Exception, ...]] = {
    "compacted": (CREATED, message(0, canceled=True, compact_revision="40")),
    "data lost": (message(3, created=True),),
    "data lost later": (CREATED, message(3)),
    "too many": (message(8, *(put(8, number, "{}") for number in range(KEYS_MOST + 1))),),
}


@pytest.mark.parametrize("pieces", (BROKEN | ANEW).values(), ids=(BROKEN | ANEW).keys())
def test_whatever_ends_a_watch_the_truth_is_a_range(pieces: tuple[bytes | Exception, ...]) -> None:
    setting = Setting()
    setting.listed(ONE, revision=7)
    setting.etcd.ranges.append(a_range(41, TWO))

    assert setting.watched(*pieces) == Listing((TWO,), 0.0)
    assert setting.watched(message(42, put(42, 1, ONE))).addresses == (ONE, TWO)
    assert setting.etcd.asked == ["a:1 range", "a:1 watch", "a:1 range", "a:1 watch"]
    assert setting.etcd.sent[3][1]["create_request"]["start_revision"] == "42"
    assert setting.etcd.streams[0].closed


@pytest.mark.parametrize("line", HOSTILE)
def test_nonsense_in_a_watch_ends_it(line: bytes) -> None:
    setting = Setting()
    setting.listed(ONE)

    for piece in (line + b"x\n", b'{"result":' + line + b"}\n"):
        setting.etcd.ranges.append(a_range(41, TWO))
        setting.watched(piece)
    assert setting.etcd.asked.count("a:1 range") == 3


@settings(deadline=None)
@given(JSON)
def test_any_message_is_a_list_or_a_range(value: Any) -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.etcd.ranges.append(a_range(41, TWO))

    assert isinstance(setting.watched(json.dumps({"result": value}).encode() + b"\n"), Listing)


@pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN.keys())
def test_a_watch_that_fails_again_is_told_of_once_and_not_asked_for_without_end(
    pieces: tuple[bytes | Exception, ...], caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting("http://a:1", "http://a:1")
    setting.listed(ONE)
    setting.etcd.ranges += [a_range(7, ONE)] * 3
    pauses = [setting.watched(*pieces).again for _ in range(3)]

    # It may be a restart; when it is not, the list is asked for as often as is good for etcd.
    assert pauses == [0.0, 1.0, 1.0]
    assert [each.getMessage().partition(" over")[0] for each in caplog.records] == [
        "etcd://s: the watch at a:1 is"
    ]


def test_why_a_watch_is_over_is_told(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    setting.listed(ONE)
    for pieces in BROKEN.values():
        setting.etcd.ranges.append(a_range(7, ONE))
        setting.watched(*pieces)
    setting.etcd.watches.append(404)
    setting.listed(ONE)

    assert [each.getMessage().rpartition(" is over: ")[2] for each in caplog.records] == [
        "the connection ended",
        "Connection reset by peer",
        "canceled: etcdserver: permission denied",
        "canceled: no reason given",
        "no leader",
        # "error, newer" says the same.
        "not understood: a message that is too long",
        "not understood: an unknown event",
        "not understood: no text",
        "not understood: no number",
        "status 404",
    ]


@pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN.keys())
def test_after_a_broken_watch_the_next_endpoint_is_asked(pieces: tuple[bytes | Exception, ...]) -> None:
    setting = Setting("http://a:1", "http://b:2")
    setting.listed(ONE)
    setting.etcd.ranges.append(a_range(7, TWO))
    setting.watched(*pieces)

    assert setting.etcd.asked == ["a:1 range", "a:1 watch", "b:2 range"]


@pytest.mark.parametrize("pieces", ANEW.values(), ids=ANEW.keys())
def test_what_begins_anew_stays_at_its_endpoint(pieces: tuple[bytes, ...]) -> None:
    setting = Setting("http://a:1", "http://b:2")
    setting.listed(ONE)
    setting.etcd.ranges += [a_range(7, ONE)] * 2

    assert [setting.watched(*pieces).again for _ in range(2)] == [0.0, 1.0]
    assert {each[:3] for each in setting.etcd.asked} == {"a:1"}


def test_a_watch_that_tells_something_ends_the_row_of_failures() -> None:
    setting = Setting()
    setting.listed(ONE)
    for _ in range(2):
        setting.etcd.ranges.append(a_range(7, ONE))
        assert setting.watched(ENDED).again == 0.0
        setting.watched(message(8, put(8, 1, TWO)), ENDED)
        setting.etcd.ranges.append(a_range(8, ONE))
        assert setting.source.read().again == 0.0
        setting.etcd.ranges.append(a_range(8, ONE))
        setting.watched()


def test_a_status_refuses_a_watch() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.etcd.watches.append(404)

    assert setting.listed(TWO).addresses == (TWO,)


def test_after_a_failure_it_begins_anew() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.etcd.ranges.append(503)
    with pytest.raises(SourceFailed):
        setting.watched(ENDED)

    assert setting.listed(ONE, revision=3) == Listing((ONE,))
    assert setting.etcd.asked[-1] == "a:1 range"


def test_what_is_of_no_use_is_told_once_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    light = '{"Addr":"10.0.0.1:3001","Metadata":{"weight":0}}'

    def told(*values: str | Address) -> list[str]:
        caplog.clear()
        setting.etcd.ranges.append(a_range(7, *values))
        # The first read asks for no watch, the others' tell nothing.
        setting.etcd.watches = [[]]
        setting.source.read()
        return [each.getMessage() for each in caplog.records]

    assert told(TWO) == []
    assert told(light, "x\n") == [
        "etcd://s: 2 keys are of no use, such as 's/0' (weight is no whole number above 0), "
        "'s/1' (neither UTF-8 nor JSON nor base64)"
    ]
    assert told(light, "x\n") == []
    assert len(told(light, "{}")) == 1
    assert told(light) != []
    assert told(light) == []
    assert told(ONE) == []
    assert told(light) != []
    assert told(*["{}"] * 10)[0].count("no address") == 5


# However the stream is cut.

CHANGES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 4), st.sampled_from([ONE, TWO, THREE, "junk"]), st.booleans()),
    max_size=12,
)


def lists(setting: Setting, pieces: Iterable[bytes], last: bytes) -> list[tuple[Address, ...]]:
    """Give the lists that are read until the watch is silent."""
    setting.etcd.watches.append(list(pieces))
    setting.etcd.ranges.append(last)
    found: list[tuple[Address, ...]] = []
    while not found or setting.etcd.ranges:
        found.append(setting.source.read().addresses)
    return found[:-1]


@settings(deadline=None)
@given(CHANGES, st.data())
def test_a_stream_is_the_same_however_it_is_cut(changes: list[Any], data: st.DataObject) -> None:
    model: dict[int, Address | str] = {0: ONE}
    expected: list[tuple[Address, ...]] = [(ONE,)]
    messages = [CREATED]
    for revision, (gone, key, value, notified) in enumerate(changes, 8):
        if gone:
            model.pop(key, None)
            messages.append(message(revision, delete(revision, key)))
        else:
            # Nonsense in the place of an address leaves the address.
            if isinstance(value, Address) or not isinstance(model.get(key), Address):
                model[key] = value
            messages.append(message(revision, put(revision, key, value)))
        if notified:
            messages.append(message(revision))
        now = tuple(sorted({each for each in model.values() if isinstance(each, Address)}))
        if now != expected[-1]:
            expected.append(now)
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=30)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    one_by_one, cut = Setting(), Setting()
    one_by_one.listed(ONE)
    cut.listed(ONE)

    assert lists(one_by_one, messages, a_range(99)) == expected[1:]
    # What is complete at once is told at once: a list between may be missing, but none is another one.
    told = lists(cut, pieces, a_range(99))
    rest = iter(expected)
    assert all(each in rest for each in told)
    assert [(ONE,), *told][-1] == expected[-1]


@settings(deadline=None)
@given(st.binary(max_size=200), st.data())
def test_lines_are_the_same_however_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    lines = Lines(1000)

    found = [
        line
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in lines.feed(stream[begin:end])
    ]

    assert found == [line for line in stream.split(b"\n")[:-1] if line.strip()]


# The end.


def test_after_close_each_read_fails_at_once() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.source.close()
    for _ in range(2):
        with pytest.raises(SourceFailed, match=r"^closed$"):
            setting.source.read()
    assert setting.etcd.asked == ["a:1 range"]


def test_close_lets_go_of_the_watch_that_nobody_reads() -> None:
    setting = Setting()
    setting.listed(ONE)
    setting.watched(message(8, put(8, 1, TWO)))
    assert not setting.etcd.streams[0].closed

    setting.source.close()

    assert setting.etcd.streams[0].closed


def test_a_watch_that_was_read_while_close_came_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting()
    setting.listed(ONE)

    def closing() -> Iterable[bytes]:
        yield CREATED
        setting.source.close()
        yield message(8, put(8, 1, TWO))

    class Late(Stream):
        def read1(self, most: int = -1) -> bytes:
            return next(pieces)

    pieces = iter(closing())
    setting.etcd.watches.append([])
    made = setting.etcd.answer

    def answer(request: requests.PreparedRequest, body: Any, status: int) -> requests.Response:
        setting.etcd.streams[-1] = Late([], setting.etcd.silence)
        return made(request, setting.etcd.streams[-1], status)

    setting.etcd.answer = answer  # type: ignore[method-assign]
    setting.source.read()

    assert setting.etcd.streams[-1].closed
    with pytest.raises(SourceFailed, match=r"^closed$"):
        setting.source.read()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
