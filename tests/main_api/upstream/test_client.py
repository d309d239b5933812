"""The client of the services: what goes out, and that each failure comes back as exactly one of ours."""

import http.client
import io
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
import responses
import urllib3.exceptions
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from requests import exceptions as requests_errors
from urllib3 import HTTPConnectionPool
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection

from main_api.errors import (
    BrokenOff,
    GatewayError,
    GatewayTimeout,
    KeptConnectionClosed,
    Malformed,
    Misdelivered,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Instance, Reply
from main_api.telemetry import Telemetry
from main_api.upstream import client as client_module
from main_api.upstream import connections, headers, session
from main_api.upstream.client import Client
from main_api.upstream.session import Session
from tests.main_api.support import BODY, INSTANCE, Answer, Respond, Upstream, call, joined, telemetry

POOL = HTTPConnectionPool("upstream.test", 3001)
CONNECTION = HTTPConnection("upstream.test", 3001)
URL = "/aws/parameters?name=canary"
DEFAULT_MOST = 16 * 1024**2


def client_of(sessions: Session, most: int = DEFAULT_MOST, token: str | None = None) -> Client:
    outgoing = partial(headers.for_auxiliary, internal_token=token)
    return Client(sessions, outgoing, telemetry(), max_body=most, echoes_id=True)


def client_and_upstream(
    respond: Respond | Answer | Exception, most: int = DEFAULT_MOST, token: str | None = None
) -> tuple[Client, Upstream]:
    upstream = Upstream(respond)
    return client_of(joined(("http://", upstream)), most, token), upstream


def failure_of(error: Exception, **options: Any) -> GatewayError:
    client, _ = client_and_upstream(error)
    with pytest.raises(GatewayError) as caught:
        client(call("/aws/parameters", query=[("name", "canary")], **options))
    return caught.value


# As HTTPAdapter.send raises them, each around what urllib3 met.
FAILURES = [
    (
        requests.ConnectionError(
            urllib3_errors.MaxRetryError(POOL, URL, urllib3_errors.NewConnectionError(CONNECTION, "refused"))
        ),
        UpstreamUnavailable,
    ),
    (
        requests.ConnectionError(
            urllib3_errors.MaxRetryError(
                POOL, URL, urllib3_errors.NameResolutionError("upstream.test", CONNECTION, socket.gaierror())
            )
        ),
        UpstreamUnavailable,
    ),
    (
        requests.ConnectTimeout(
            urllib3_errors.MaxRetryError(POOL, URL, urllib3_errors.ConnectTimeoutError(CONNECTION, "late"))
        ),
        UpstreamUnavailable,
    ),
    (requests.ReadTimeout(urllib3_errors.ReadTimeoutError(POOL, URL, "late")), GatewayTimeout),
    (requests.Timeout(), GatewayTimeout),
    (TimeoutError("the deadline of the call has passed"), GatewayTimeout),
    (requests.ConnectionError(urllib3_errors.ProtocolError("aborted", ConnectionResetError())), BrokenOff),
    (
        requests.ConnectionError(
            urllib3_errors.ProtocolError("aborted", http.client.RemoteDisconnected("no answer"))
        ),
        BrokenOff,
    ),
    (
        requests.ConnectionError(urllib3_errors.ProtocolError("bad", http.client.BadStatusLine("x"))),
        BrokenOff,
    ),
    (requests.exceptions.ChunkedEncodingError(urllib3_errors.ProtocolError("broken")), BrokenOff),
    (ConnectionResetError(104, "reset"), BrokenOff),
    (BrokenPipeError(32, "pipe"), BrokenOff),
]


@pytest.mark.parametrize(("error", "ours"), FAILURES, ids=lambda value: getattr(value, "__name__", None))
def test_each_failure_of_sending_is_exactly_one_of_ours(error: Exception, ours: type[GatewayError]) -> None:
    assert type(failure_of(error)) is ours


def test_a_connection_that_never_came_about_was_not_sent_and_the_others_may_have_been() -> None:
    sent = {
        ours: {type(failure_of(error)).sent for error, o in FAILURES if o is ours} for _, ours in FAILURES
    }

    assert sent == {UpstreamUnavailable: {False}, GatewayTimeout: {None}, BrokenOff: {True}}


def test_not_having_connected_by_the_deadline_is_the_times_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = call()

    def failing_at(moment: float) -> GatewayError:
        moments = iter([asked.deadline - 5, moment, moment])  # begun, failed, done
        monkeypatch.setattr(client_module, "monotonic", lambda: next(moments))
        client, _ = client_and_upstream(FAILURES[2][0])
        with pytest.raises(GatewayError) as caught:
            client(asked)
        return caught.value

    assert type(failing_at(asked.deadline - 0.01)) is UpstreamUnavailable
    assert type(failing_at(asked.deadline)) is GatewayTimeout


def every_class(module: ModuleType) -> list[type[Exception]]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__
    ]
    return [value for value in own if not issubclass(value, Warning)]


MAKE: dict[type[Exception], Callable[[], Exception]] = {
    requests_errors.JSONDecodeError: lambda: requests_errors.JSONDecodeError("text", "doc", 0),
    urllib3_errors.PoolError: lambda: urllib3_errors.PoolError(POOL, "text"),
    urllib3_errors.RequestError: lambda: urllib3_errors.RequestError(POOL, URL, "text"),
    urllib3_errors.ProxyError: lambda: urllib3_errors.ProxyError("text", OSError("refused")),
    urllib3_errors.MaxRetryError: lambda: urllib3_errors.MaxRetryError(POOL, "/", OSError("reset")),
    urllib3_errors.HostChangedError: lambda: urllib3_errors.HostChangedError(POOL, "/"),
    urllib3_errors.ReadTimeoutError: lambda: urllib3_errors.ReadTimeoutError(POOL, URL, "text"),
    urllib3_errors.NewConnectionError: lambda: urllib3_errors.NewConnectionError(CONNECTION, "text"),
    urllib3_errors.NameResolutionError: lambda: urllib3_errors.NameResolutionError(
        "upstream.test", CONNECTION, socket.gaierror()
    ),
    urllib3_errors.EmptyPoolError: lambda: urllib3_errors.EmptyPoolError(POOL, "text"),
    urllib3_errors.FullPoolError: lambda: urllib3_errors.FullPoolError(POOL, "text"),
    urllib3_errors.ClosedPoolError: lambda: urllib3_errors.ClosedPoolError(POOL, "text"),
    urllib3_errors.IncompleteRead: lambda: urllib3_errors.IncompleteRead(1, 2),
    urllib3_errors.InvalidChunkLength: lambda: urllib3_errors.InvalidChunkLength(
        urllib3.HTTPResponse(b""), b"zz"
    ),
    urllib3_errors.HeaderParsingError: lambda: urllib3_errors.HeaderParsingError([], b""),
}
# No plain ValueError of theirs is met: the session speaks to no proxy.
UNMET = {urllib3_errors.ProxySchemeUnsupported}
TREES = sorted({*every_class(requests_errors), *every_class(urllib3_errors)} - UNMET, key=str)


def made(kind: type[Exception]) -> Exception:
    return MAKE.get(kind, partial(kind, "text"))()


@pytest.mark.parametrize("kind", TREES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_nothing_of_the_libraries_trees_leaks_while_sending(kind: type[Exception]) -> None:
    error = failure_of(made(kind))

    assert type(error) in (UpstreamUnavailable, GatewayTimeout, BrokenOff)
    if issubclass(kind, (urllib3_errors.NewConnectionError, urllib3_errors.ConnectTimeoutError)):
        assert type(error) is UpstreamUnavailable
    elif issubclass(kind, (requests.Timeout, urllib3_errors.TimeoutError)):
        assert type(error) is GatewayTimeout


class Breaking(io.RawIOBase):
    """A body that raises when it is read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> int:
        raise self._error


class BreakingUpstream(Upstream):
    """Answers with a head, and a body that raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Answer())
        self._error = error

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        response = super().send(*arguments, **options)
        response.raw._fp = Breaking(self._error)
        return response


@pytest.mark.parametrize(
    "kind",
    [each for each in TREES if issubclass(each, (urllib3_errors.HTTPError, OSError))],
    ids=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
def test_nothing_of_the_libraries_trees_leaks_while_reading(kind: type[Exception]) -> None:
    upstream = BreakingUpstream(made(kind))
    with pytest.raises(GatewayError) as caught:
        client_of(joined(("http://", upstream)))(call())

    assert type(caught.value) in (UpstreamUnavailable, GatewayTimeout, BrokenOff)
    assert upstream.raws[0].closed


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (TimeoutError("the deadline of the call has passed"), GatewayTimeout),
        (ConnectionResetError(104, "reset"), BrokenOff),
        (http.client.IncompleteRead(b"x"), BrokenOff),
    ],
)
def test_a_body_that_fails_is_one_of_ours_and_its_connection_is_not_used_again(
    error: Exception, ours: type[GatewayError]
) -> None:
    upstream = BreakingUpstream(error)
    with pytest.raises(ours):
        client_of(joined(("http://", upstream)))(call())

    assert upstream.raws[0].closed


def test_no_instance_and_no_time_are_errors_before_anything_is_sent() -> None:
    client, upstream = client_and_upstream(Answer())

    with pytest.raises(UpstreamUnavailable):
        client(call(instance=None))
    with pytest.raises(GatewayTimeout):
        client(call(seconds=0.0))
    assert upstream.sent == []


def test_a_deadline_that_passes_between_two_looks_at_the_clock_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = call()
    monkeypatch.setattr(session, "monotonic", lambda: asked.deadline + 0.001)

    with pytest.raises(GatewayTimeout):
        client_of(joined())(asked)


@pytest.mark.parametrize("host", [".upstream.test", "a..b", "*.upstream.test"])
def test_an_instance_whose_address_the_library_refuses_is_unavailable(host: str) -> None:
    client = client_of(joined())

    with pytest.raises(UpstreamUnavailable):
        client(call(instance=Instance("auxiliary-service", f"http://{host}:3001")))


@pytest.mark.parametrize("length", ["1025", "9" * 30, "9" * 5000])
def test_too_large_by_content_length_is_malformed_and_not_read(length: str) -> None:
    client, upstream = client_and_upstream(Answer().with_headers(Content_Length=length), most=1024)

    with pytest.raises(Malformed):
        client(call())
    assert upstream.raws[0].closed


def test_too_large_by_bytes_is_malformed_whatever_was_announced() -> None:
    chunked = (("Content-Type", "application/json"), ("X-Made", "of chunks"))
    client, upstream = client_and_upstream(Answer(b"x" * 1025, headers=chunked), most=1024)

    with pytest.raises(Malformed):
        client(call())
    assert upstream.raws[0].closed


def test_an_answer_of_exactly_the_most_bytes_is_read_whole() -> None:
    client, _ = client_and_upstream(Answer(b"x" * 1024), most=1024)

    assert client(call()).body == b"x" * 1024


@pytest.mark.parametrize("named", ["theirs", "AN-ID", "an-id, an-id", "an-idx", ""])
def test_an_answer_that_names_another_request_is_misdelivered_and_not_read(named: str) -> None:
    answer = Answer(headers=(*Answer().all_headers, ("x-request-id", named)))
    client, upstream = client_and_upstream(answer)

    with pytest.raises(GatewayError) as caught:
        client(call())

    assert type(caught.value) is Misdelivered
    assert caught.value.sent is True
    assert upstream.raws[0].closed


def test_an_answer_that_names_this_request_or_none_is_taken() -> None:
    named = Answer().with_headers(X_Request_ID="an-id")

    assert [client_and_upstream(each)[0](call()).body for each in (named, Answer())] == [BODY, BODY]


def test_of_a_service_that_gives_answers_ids_of_its_own_they_are_not_looked_at() -> None:
    upstream = Upstream(Answer().with_headers(X_Request_ID="theirs"))
    outgoing = partial(headers.for_auxiliary, internal_token=None)
    client = Client(
        joined(("http://", upstream)), outgoing, telemetry(), max_body=DEFAULT_MOST, echoes_id=False
    )

    assert client(call()).body == BODY


def test_a_reply_has_status_headers_and_the_bytes_as_they_came() -> None:
    client, _ = client_and_upstream(
        Answer(b"\x1f\x8b", 418, (("Content-Encoding", "gzip"), ("ETag", 'W/"1"')))
    )

    reply = client(call())

    assert (reply.status, reply.body, reply.header("etag")) == (418, b"\x1f\x8b", 'W/"1"')


@given(st.lists(st.tuples(st.text(min_size=1, max_size=20), st.text(max_size=60)), max_size=4))
@hypothesis_settings(deadline=None, database=None, max_examples=80)
def test_a_query_arrives_as_it_was_meant(query: list[tuple[str, str]]) -> None:
    client, upstream = client_and_upstream(Answer())

    client(call("/aws/parameters", query=query))

    parts = urlsplit(str(upstream.sent[0].url))
    assert parts.path == "/aws/parameters"
    assert parts.fragment == ""
    assert str(upstream.sent[0].url).isascii()
    assert parse_qsl(parts.query, keep_blank_values=True) == query


def test_a_name_is_url_encoded_slash_and_all() -> None:
    client, upstream = client_and_upstream(Answer())

    client(call("/aws/parameters", query=[("name", "a/b c&d=e?f#g%2F")]))

    assert upstream.sent[0].url == f"{INSTANCE.url}/aws/parameters?name=a%2Fb%20c%26d%3De%3Ff%23g%252F"


TRACE = (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("tracestate", "a=b"))


def test_exactly_these_headers_go_out() -> None:
    client, upstream = client_and_upstream(Answer())

    client(call(headers=TRACE, scopes=["parameters:decrypt"], seconds=5))

    milliseconds = int(upstream.headers["x-request-timeout-ms"])
    expected = {"accept": "application/json", "x-request-id": "an-id", **dict(TRACE)}
    assert {k: v for k, v in upstream.headers.items() if k != "x-request-timeout-ms"} == expected
    assert 4000 < milliseconds <= 4900


def test_token_and_scopes_go_out_only_together() -> None:
    client, upstream = client_and_upstream(Answer(), token="0123456789abcdef")

    client(call(headers=TRACE, scopes=["parameters:read", "buckets:read"]))

    assert upstream.headers["authorization"] == "Bearer 0123456789abcdef"
    assert upstream.headers["x-internal-scopes"] == "buckets:read parameters:read"


def test_the_remaining_time_is_told_less_a_margin_and_never_as_nothing() -> None:
    def told(left: float) -> str:
        return dict(headers.for_auxiliary(call(), left, None))["X-Request-Timeout-Ms"]

    assert [told(left) for left in (10.0, 0.2, 0.1, 0.01)] == ["9900", "100", "1", "1"]


def test_waiting_is_bounded_by_connect_timeout_and_deadline() -> None:
    client, upstream = client_and_upstream(Answer())
    client(call(seconds=5))
    client(call(seconds=0.3))

    (connect, read), (short_connect, short_read) = upstream.timeouts
    assert connect == 0.5
    assert 4 < read <= 5
    assert 0 < short_connect == short_read <= 0.3


def test_nothing_of_one_request_is_left_in_the_next() -> None:
    client, upstream = client_and_upstream(Answer().with_headers(Set_Cookie="session=1; Path=/"))

    client(call("/aws/parameters", query=[("name", "a")], headers=TRACE))
    client(call("/aws/s3/buckets"))

    second = upstream.sent[1]
    assert second.url == f"{INSTANCE.url}/aws/s3/buckets"
    assert not {"cookie", "traceparent", "tracestate"} & {name.lower() for name in second.headers}


@responses.activate
def test_a_cookie_is_not_kept_and_a_redirect_not_followed() -> None:
    responses.get(
        f"{INSTANCE.url}/aws/s3/buckets",
        status=302,
        headers={"Location": "http://elsewhere.test/", "Set-Cookie": "session=1"},
    )
    client = client_of(joined())

    replies = [client(call()) for _ in range(2)]

    assert [reply.status for reply in replies] == [302, 302]
    assert len(responses.calls) == 2
    assert all("Cookie" not in each.request.headers for each in responses.calls)


@responses.activate
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_nothing_is_sent_twice(status: int) -> None:
    responses.get(f"{INSTANCE.url}/aws/s3/buckets", status=status, headers={"Retry-After": "0"})

    assert client_of(joined())(call()).status == status
    assert len(responses.calls) == 1


def test_the_environment_of_the_process_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine upstream.test login a password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")
    client, upstream = client_and_upstream(Answer())

    client(call())

    assert "authorization" not in upstream.headers


@pytest.mark.parametrize(
    "error",
    [error for error, _ in FAILURES]
    + [
        requests.ConnectionError(urllib3_errors.MaxRetryError(POOL, URL, None)),
        urllib3_errors.LocationParseError(f"http://upstream.test{URL}"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_log_lines_never_have_the_query_string(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    ours = failure_of(error)

    assert caplog.records
    assert "canary" not in caplog.text
    assert "canary" not in ours.message


def test_the_sentence_names_no_address() -> None:
    assert all("upstream.test" not in failure_of(error).message for error, _ in FAILURES)


def test_each_attempt_is_timed_and_counted_by_its_outcome() -> None:
    registry = CollectorRegistry()
    asked = call()
    outgoing = partial(headers.for_auxiliary, internal_token=None)
    upstream = Upstream(lambda _: FAILURES[0][0])
    client = Client(joined(("http://", upstream)), outgoing, Telemetry(registry), max_body=DEFAULT_MOST)
    with pytest.raises(UpstreamUnavailable):
        client(asked)
    upstream.respond = lambda _: Answer(status=404)
    client(asked)

    counted = {
        sample.labels["outcome"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "upstream_request_duration_seconds_count"
    }
    assert set(counted) == {"upstream_unavailable", "4xx"}
    assert asked.trail.upstream_seconds is not None


# Below: urllib3 itself, on a socket that is none.


class Wire:
    """What a connected socket is to http.client: takes bytes, gives pieces, each in a segment of its own.

    Behind it is a file descriptor for urllib3, which looks whether a kept connection was dropped.
    """

    def __init__(self, *pieces: bytes, elapse: Callable[[], None] = lambda: None) -> None:
        self.pieces = list(pieces)
        self.elapse = elapse
        self.sent = b""
        self.timeouts: list[float] = []
        self.closed = False
        self.breaks: Exception | None = None
        self._pair: tuple[socket.socket, ...] = ()

    def sendall(self, data: bytes) -> None:
        if self.breaks:
            raise self.breaks
        self.sent += data

    def fileno(self) -> int:
        self._pair = self._pair or socket.socketpair()
        return self._pair[0].fileno()

    def drop(self) -> None:
        """Close it from the other side."""
        self._pair = self._pair or socket.socketpair()
        self._pair[1].close()

    def settimeout(self, seconds: float | None) -> None:
        if seconds is not None:
            self.timeouts.append(seconds)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Pieces(self))

    def shutdown(self, _: int) -> None:
        self.drop()

    def close(self) -> None:
        self.closed = True
        for each in self._pair:
            each.close()

    @property
    def requests(self) -> int:
        return self.sent.count(b" HTTP/1.1\r\n")


class _Pieces(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.elapse()
        piece = self._wire.pieces.pop(0) if self._wire.pieces else b""
        if len(piece) > len(buffer):
            self._wire.pieces.insert(0, piece[len(buffer) :])
            piece = piece[: len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Wire], Client]]:
    """Make clients whose next connection is a given wire."""

    def client(wire: Wire) -> Client:
        monkeypatch.setattr(connections._Connection, "_new_conn", lambda _: wire)
        return client_of(joined())

    return client  # type: ignore[return-value]


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *lines, "", ""]).encode()


Over = Callable[[Wire], Client]


def test_the_wire_carries_these_header_fields_and_no_others(over: Over) -> None:
    wire = Wire(head(f"Content-Length: {len(BODY)}") + BODY)

    over(wire)(call("/aws/parameters", query=[("name", "a/b")], headers=TRACE))

    line, *fields = wire.sent.decode().rstrip("\r\n").split("\r\n")
    named = dict(field.lower().split(": ", 1) for field in fields)
    named.pop("x-request-timeout-ms")
    assert line == "GET /aws/parameters?name=a%2Fb HTTP/1.1"
    assert named == {
        "host": "upstream.test:3001",
        "accept-encoding": "identity",
        "accept": "application/json",
        "x-request-id": "an-id",
        **dict(TRACE),
    }


@pytest.mark.parametrize(
    "pieces",
    [
        (head("Content-Length: 11") + b'{"a":"bcd"}',),
        (head("Content-Length: 11"), b'{"a"', b':"bcd"', b"}"),
        (head("Transfer-Encoding: chunked"), b"4\r\n", b'{"a"\r\n', b'7\r\n:"bcd"}\r\n', b"0\r\n\r\n"),
    ],
)
def test_a_complete_answer_is_read_however_it_is_cut(over: Over, pieces: tuple[bytes, ...]) -> None:
    assert over(Wire(*pieces))(call()).body == b'{"a":"bcd"}'


TRUNCATED = {
    "nothing at all": b"",
    "a length and no body": head("Content-Length: 40"),
    "a body that is shorter than its length": head("Content-Length: 40") + b'{"data":[{"a":',
    "a body that is cut where it looks whole": head("Content-Length: 40") + b'{"data":{"a":1}',
    "a chunk that is cut": head("Transfer-Encoding: chunked") + b'40\r\n{"a":1}',
    "chunks without the last one": head("Transfer-Encoding: chunked") + b'7\r\n{"a":1}\r\n',
    "a chunk without a size": head("Transfer-Encoding: chunked") + b'zz\r\n{"a":1}\r\n0\r\n\r\n',
}


@pytest.mark.parametrize("answer", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_an_answer_that_ends_early_is_broken_off_and_its_connection_closed(over: Over, answer: bytes) -> None:
    wire = Wire(answer)

    with pytest.raises(BrokenOff):
        over(wire)(call())
    assert wire.closed


@pytest.mark.parametrize(
    "nonsense", [b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01" * 20, b"HTTP/1.1 abc OK\r\n\r\n"]
)
def test_what_is_no_http_is_broken_off(over: Over, nonsense: bytes) -> None:
    with pytest.raises(BrokenOff):
        over(Wire(nonsense))(call())


def test_a_head_with_too_many_lines_is_broken_off(over: Over) -> None:
    with pytest.raises(BrokenOff):
        over(Wire(head(*(f"X-{n}: 1" for n in range(200)))))(call())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (connections, session, client_module):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


def at(clock: Clock, seconds: float) -> Call:
    asked = call()
    return Call(
        method=asked.method,
        path=asked.path,
        deadline=clock.now + seconds,
        caller=asked.caller,
        request_id=asked.request_id,
        instance=asked.instance,
    )


@pytest.mark.parametrize("before", [b"", head(f"Content-Length: {len(BODY)}")], ids=["head", "body"])
def test_an_answer_that_drips_ends_at_the_deadline(over: Over, clock: Clock, before: bytes) -> None:
    def elapse() -> None:
        clock.now += 1

    dripping = head(f"Content-Length: {len(BODY)}") + BODY
    pieces = [before] if before else []
    wire = Wire(*pieces, *(bytes([byte]) for byte in (BODY if before else dripping)), elapse=elapse)

    with pytest.raises(GatewayTimeout):
        over(wire)(at(clock, 5))
    assert clock.now == 105.0
    # urllib3 itself sets connect's and read's; the reader sets what is left before each piece.
    assert wire.timeouts[-5:] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert wire.closed


def sending(deadline: float) -> connections.Sending:
    return connections.Sending(resolver=session.Resolver(), deadline=deadline, fresh=False)


def test_the_reader_does_not_read_after_the_deadline(clock: Clock) -> None:
    wire = Wire(b"never read")
    reader = connections._DeadlineReader(_Pieces(wire), wire, sending(clock.now))  # type: ignore[arg-type]

    with pytest.raises(TimeoutError):
        reader.readinto(bytearray(10))
    assert wire.pieces == [b"never read"]


def test_closing_the_reader_closes_what_it_reads(clock: Clock) -> None:
    raw = _Pieces(Wire())
    connections._DeadlineReader(raw, Wire(), sending(clock.now)).close()  # type: ignore[arg-type]

    assert raw.closed


# One connection after the other.

WHOLE = head(f"Content-Length: {len(BODY)}") + BODY


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Make clients whose connections are the given wires, one after the other."""
    given: list[Wire] = []
    left: list[Wire] = []

    def client(*wires: Wire) -> Client:
        given.extend(wires)
        left.extend(wires)
        return client_of(joined())

    monkeypatch.setattr(connections._Connection, "_new_conn", lambda _: left.pop(0))
    yield client
    for wire in given:
        wire.close()  # of those that were kept


Wired = Callable[..., Client]


def test_a_connection_is_used_again_after_a_complete_answer_and_only_then(wired: Wired) -> None:
    first, second = Wire(WHOLE, WHOLE, head("Content-Length: 40") + b"{"), Wire(WHOLE)
    client = wired(first, second)

    assert [client(call()).body, client(call()).body] == [BODY, BODY]
    with pytest.raises(BrokenOff):
        client(call())
    assert (first.requests, second.requests) == (3, 0)
    assert client(call()).body == BODY
    assert (first.requests, second.requests) == (3, 1)


def test_a_kept_connection_that_was_dropped_is_replaced_before_anything_is_sent(wired: Wired) -> None:
    first, second = Wire(WHOLE), Wire(WHOLE)
    client = wired(first, second)
    client(call())
    first.drop()

    assert client(call()).body == BODY
    assert (first.requests, second.requests) == (1, 1)


BREAKS = [None, ConnectionResetError(104, "reset"), BrokenPipeError(32, "pipe"), OSError(113, "no route")]


@pytest.mark.parametrize("breaks", BREAKS, ids=["reading", "reset", "pipe", "route"])
def test_a_kept_connection_that_ended_before_a_byte_came_is_told_from_all_else(
    wired: Wired, breaks: Exception | None
) -> None:
    first, second = Wire(WHOLE), Wire(WHOLE)
    client = wired(first, second)
    client(call())
    first.breaks = breaks

    with pytest.raises(BrokenOff) as caught:
        client(call())

    assert type(caught.value) is KeptConnectionClosed
    assert caught.value.sent is True
    assert first.closed
    assert second.requests == 0
    assert client(call()).body == BODY


def reset_while_reading() -> None:
    raise ConnectionResetError(104, "reset")


def test_a_reset_before_a_byte_came_is_the_same_as_an_end(wired: Wired) -> None:
    wire = Wire(WHOLE)
    client = wired(wire)
    client(call())
    wire.elapse = reset_while_reading

    with pytest.raises(KeptConnectionClosed):
        client(call())


@pytest.mark.parametrize("breaks", BREAKS, ids=["reading", "reset", "pipe", "route"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_new_connection_that_ended_before_a_byte_came_is_broken_off(
    wired: Wired, breaks: Exception | None, fresh: bool
) -> None:
    wire = Wire()
    wire.breaks = breaks

    with pytest.raises(GatewayError) as caught:
        wired(wire)(replace(call(), fresh=fresh))

    assert type(caught.value) is BrokenOff
    assert wire.closed


@pytest.mark.parametrize(
    "begun",
    [b"H", b"HTTP/1.1", head("Content-Length: 40"), head("Content-Length: 40") + b"{", b"\r\n"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["ends", "is reset"])
def test_after_a_first_byte_it_is_broken_off_also_on_a_kept_connection(
    wired: Wired, begun: bytes, reset: bool
) -> None:
    wire = Wire(WHOLE)
    client = wired(wire)
    client(call())
    wire.pieces = [begun]
    if reset:
        wire.elapse = lambda: None if wire.pieces else reset_while_reading()

    with pytest.raises(GatewayError) as caught:
        client(call())

    assert type(caught.value) is BrokenOff
    assert wire.closed


def late() -> None:
    raise TimeoutError("timed out")


def test_a_kept_connection_that_stays_silent_is_a_timeout(wired: Wired) -> None:
    wire = Wire(WHOLE)
    client = wired(wire)
    client(call())
    wire.elapse = late

    with pytest.raises(GatewayTimeout):
        client(call())
    assert wire.closed


def test_the_deadline_on_a_kept_connection_is_a_timeout(wired: Wired, clock: Clock) -> None:
    wire = Wire(WHOLE)
    client = wired(wire)
    client(at(clock, 5))

    def pass_by() -> None:
        clock.now += 3

    wire.elapse, wire.pieces = pass_by, [b"H", b"T", b"T", b"P"]

    with pytest.raises(GatewayTimeout):
        client(at(clock, 5))


def test_a_timeout_while_sending_on_a_kept_connection_is_a_timeout(wired: Wired) -> None:
    wire = Wire(WHOLE)
    client = wired(wire)
    client(call())
    wire.breaks = TimeoutError("timed out")

    with pytest.raises(GatewayTimeout):
        client(call())


def test_a_fresh_call_takes_a_kept_connections_place_and_not_the_connection(wired: Wired) -> None:
    kept, new = Wire(WHOLE, WHOLE), Wire(WHOLE, WHOLE)
    client = wired(kept, new)
    client(call())

    assert client(replace(call(), fresh=True)).body == BODY
    assert (kept.requests, new.requests) == (1, 1)
    assert kept.closed

    assert client(call()).body == BODY
    assert (kept.requests, new.requests) == (1, 2)


BEHIND = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\ncanary"
CHUNKS = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
CHUNKED = head("Transfer-Encoding: chunked") + CHUNKS


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((WHOLE + BEHIND,), BODY),
        ((WHOLE + b"x",), BODY),
        ((head(f"Content-Length: {len(BODY)}"), BODY + BEHIND), BODY),
        ((head("Content-Length: 0") + BEHIND,), b""),
        ((CHUNKED + b"\r\n" + BEHIND,), BODY),
        ((CHUNKED + b"\r\n\r\n",), BODY),
        ((CHUNKED, b"\r\n" + BEHIND), BODY),
        ((CHUNKED + b"X-Trailer: 1\r\n\r\n" + BEHIND,), BODY),
    ],
    ids=[
        "length",
        "one byte",
        "beside the body",
        "no body",
        "chunks",
        "a blank line",
        "the last piece",
        "trailer",
    ],
)
def test_bytes_behind_an_answer_do_no_harm_to_it_nor_to_the_next(
    wired: Wired, pieces: tuple[bytes, ...], body: bytes
) -> None:
    spoilt, second = Wire(*pieces), Wire(WHOLE)
    client = wired(spoilt, second)

    assert client(call()).body == body
    assert client(call()).body == BODY

    assert (spoilt.requests, second.requests) == (1, 1)
    assert spoilt.closed


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED + b"\r\n"], ids=["length", "chunks"])
def test_an_answer_with_nothing_behind_it_leaves_its_connection_to_the_next(
    wired: Wired, answer: bytes
) -> None:
    wire = Wire(answer, answer)
    client = wired(wire)

    assert [client(call()).body, client(call()).body] == [BODY, BODY]
    assert wire.requests == 2


# Connecting.

SCHEMES = pytest.mark.parametrize("scheme", ["http", "https"])


def connecting_fails(error: Exception, scheme: str, monkeypatch: pytest.MonkeyPatch) -> GatewayError:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(connections, "connect", fail)
    instance = Instance("auxiliary-service", f"{scheme}://upstream.test:3001")
    with pytest.raises(GatewayError) as caught:
        client_of(joined())(call(instance=instance))
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        BrokenPipeError(32, "pipe"),
        TimeoutError("late"),
        OSError(113, "no route to host"),
        OSError("the name upstream.test was not found"),
        socket.gaierror(-2, "Name or service not known"),
    ],
    ids=str,
)
@SCHEMES
def test_whatever_connecting_ends_in_was_never_sent(
    error: Exception, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = connecting_fails(error, scheme, monkeypatch)

    assert type(found) is UpstreamUnavailable
    assert found.sent is False


@SCHEMES
def test_a_reset_while_connecting_is_one_of_ours(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux reports so a peer that took the connection and reset it before we looked."""
    found = connecting_fails(ConnectionResetError(104, "reset"), scheme, monkeypatch)

    assert type(found) is BrokenOff


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\x15\x03\x01\x00\x02\x02\x28"],
    ids=["HTTP", "end", "alert"],
)
def test_a_handshake_that_fails_is_unavailable_and_nothing_was_sent(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(connections._Connection, "_new_conn", lambda _: ours)

    with theirs, pytest.raises(UpstreamUnavailable) as caught:
        client_of(joined())(call(instance=Instance("auxiliary-service", "https://upstream.test:3001")))

    assert caught.value.sent is False
    assert isinstance(caught.value.__cause__, session.NeverConnected)


def test_a_certificate_that_is_not_believed_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def disbelieve(*_: Any, **__: Any) -> None:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed")

    wire = Wire()
    monkeypatch.setattr(connections._Connection, "_new_conn", lambda _: wire)
    monkeypatch.setattr("urllib3.connection._ssl_wrap_socket_and_match_hostname", disbelieve)

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(joined())(call(instance=Instance("auxiliary-service", "https://upstream.test:3001")))
    assert caught.value.sent is False
    assert wire.sent == b""


# Bodies.


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
@pytest.mark.parametrize("body", [b'{"a":1}', b"\x00\xff" * 5000])
def test_a_body_goes_out_with_its_length(wired: Wired, method: str, body: bytes) -> None:
    wire = Wire(WHOLE)

    wired(wire)(replace(call("/aws/p"), method=method, body=body))

    sent, _, sent_body = wire.sent.partition(b"\r\n\r\n")
    line, *fields = sent.decode().lower().split("\r\n")
    assert line == f"{method} /aws/p HTTP/1.1".lower()
    assert sent_body == body
    assert [each for each in fields if each.startswith("content-length")] == [f"content-length: {len(body)}"]
    assert not [each for each in fields if each.startswith("transfer-encoding")]


def test_a_body_is_not_left_in_the_next_request(wired: Wired) -> None:
    wire = Wire(WHOLE, WHOLE)
    client = wired(wire)
    client(replace(call(), body=b"canary"))
    wire.sent = b""

    client(call())

    assert b"canary" not in wire.sent
    assert b"content-length" not in wire.sent.lower()


def test_a_bug_of_our_own_is_not_taken_for_the_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = client_and_upstream(RuntimeError("a bug"))

    with pytest.raises(RuntimeError):
        client(call())


def test_a_whole_reply_closes_without_harm() -> None:
    client, _ = client_and_upstream(Answer(json.dumps({}).encode()))
    reply = client(call())

    reply.close()

    assert isinstance(reply, Reply)
