"""Answers of a registry that is not to be trusted, over a pair of sockets; nothing is connected."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from auxiliary_service.registration import session as module
from auxiliary_service.registration.registry import RegistryFailed
from auxiliary_service.registration.session import ANSWER_BYTES, Answer, Session

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
URL = "http://registry.example:8500/v1/things"


class Peer:
    """The other end: it keeps the request and lets ``serve`` answer, in a thread."""

    def __init__(self) -> None:
        self.request = b""
        self.connections = 0
        self.timeouts: list[float | None] = []
        self.serve: Callable[[socket.socket], object] = lambda sock: None
        self.threads: list[threading.Thread] = []

    def connect(self, connection: Any) -> socket.socket:
        self.connections += 1
        self.timeouts.append(connection.timeout)
        near, far = socket.socketpair()
        near.settimeout(connection.timeout)
        self.threads.append(threading.Thread(target=self._run, args=(far,), daemon=True))
        self.threads[-1].start()
        return near

    def _run(self, far: socket.socket) -> None:
        with far:
            far.settimeout(10)
            while not self._whole():
                self.request += far.recv(65536)
            try:
                self.serve(far)
            except OSError:
                return

    def _whole(self) -> bool:
        """Whether the request has come with its body, which is sent behind its head."""
        head, found, body = self.request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
        return bool(found) and len(body) >= (int(length[1]) if length else 0)

    def answers(self, *pieces: bytes) -> None:
        self.serve = lambda sock: [sock.sendall(piece) for piece in pieces]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    peer = Peer()
    monkeypatch.setattr(module._Connection, "_new_conn", lambda connection: peer.connect(connection))
    yield peer
    for each in peer.threads:
        each.join(10)
        assert not each.is_alive()


def test_an_answer_is_given_with_its_status_and_body(peer: Peer) -> None:
    peer.answers(HEAD + b"Content-Length: 9\r\n\r\n", b'{"a": 1}\n')
    answer = Session().call("GET", URL)
    assert (answer.status, answer.document()) == (200, {"a": 1})


def test_an_answer_in_chunks_is_put_together(peer: Peer) -> None:
    peer.answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\n{}\n\r\n", b"0\r\n\r\n")
    assert Session().call("GET", URL).document() == {}


def test_a_request_has_what_it_needs_and_no_more(peer: Peer) -> None:
    peer.answers(HEAD + b"Content-Length: 2\r\n\r\n{}")
    Session({"X-Consul-Token": "the-token"}).call("PUT", URL + "?a=b", {"x": 1})
    head, _, body = peer.request.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    named = dict(each.split(": ", 1) for each in fields)
    assert line == "PUT /v1/things?a=b HTTP/1.1"
    assert named["Host"] == "registry.example:8500"
    assert named["X-Consul-Token"] == "the-token"
    assert (named["Connection"], named["Accept-Encoding"]) == ("close", "identity")
    assert named["Content-Type"] == "application/json"
    assert body == b'{"x": 1}'


def test_each_request_has_a_connection_of_its_own(peer: Peer) -> None:
    peer.answers(HEAD + b"Content-Length: 2\r\n\r\n{}")
    session = Session()
    for _ in range(2):
        peer.request = b""
        session.call("GET", URL)
    assert peer.connections == 2
    assert peer.timeouts == [0.5, 0.5]


def test_the_environment_is_not_believed(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    peer.answers(HEAD + b"Content-Length: 2\r\n\r\n{}")
    Session().call("GET", URL)
    assert peer.request.startswith(b"GET /v1/things ")


def test_a_redirect_is_not_followed_and_a_cookie_not_kept(peer: Peer) -> None:
    peer.answers(
        b"HTTP/1.1 307 Go\r\nLocation: http://elsewhere.example/\r\nSet-Cookie: a=b\r\n",
        b"Content-Length: 0\r\n\r\n",
    )
    session = Session()
    assert session.call("GET", URL).status == 307
    assert peer.connections == 1
    peer.request = b""
    session.call("GET", URL)
    assert b"Cookie" not in peer.request


def refused(session: Session) -> str:
    with pytest.raises(RegistryFailed) as caught:
        session.call("GET", URL)
    return str(caught.value)


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"Content-Length: 100000\r\n\r\n", b"x" * 100_000],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 20],
        [HEAD + b"\r\n", b"x" * (ANSWER_BYTES + 1)],
        [HEAD, *[b"X: " + b"y" * 1000 + b"\r\n"] * 90],
    ],
    ids=["with its length", "in chunks", "until the end", "head"],
)
def test_no_more_is_read_of_an_answer_than_its_bound(peer: Peer, pieces: list[bytes]) -> None:
    peer.answers(*pieces)
    assert refused(Session()) == "does not answer (OSError)"


def test_a_packed_answer_is_not_unpacked(peer: Peer) -> None:
    import gzip

    packed = gzip.compress(b" " * 10_000_000)
    peer.answers(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed)
    answer = Session().call("GET", URL)
    assert answer.body == packed


@pytest.mark.parametrize(
    "begin", [b"", HEAD, HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["", "head", "body"]
)
def test_who_drips_has_no_more_time_than_who_is_silent(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    gone = threading.Event()

    def drip(sock: socket.socket) -> None:
        sock.sendall(begin)
        while not gone.wait(0.02):
            sock.sendall(b"H")

    peer.serve = drip
    begun = monotonic()
    try:
        assert refused(Session()) == "does not answer (TimeoutError)"
    finally:
        gone.set()
    assert monotonic() - begun < 2


def test_each_read_has_what_the_ones_before_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.25, 100.75, 101.0])
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    near, far = socket.socketpair()
    with near, far, module._AnswerReader(near.makefile("rb", buffering=0), near) as reader:
        far.sendall(b"abcd")
        left = []
        for _ in range(2):
            assert reader.readinto(bytearray(1)) == 1
            left.append(near.gettimeout())
        assert left == [0.75, 0.25]
        with pytest.raises(TimeoutError):
            reader.readinto(bytearray(1))


def test_the_silent_are_left_after_a_second(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (module.CONNECT_SECONDS, module.READ_SECONDS) == (0.5, 1.0)
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    gone = threading.Event()
    peer.serve = lambda sock: gone.wait(10)
    try:
        assert refused(Session()) == "does not answer (TimeoutError)"
    finally:
        gone.set()


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", HEAD + b"Content-Length: 5\r\n\r\n{}"],
    ids=["nothing", "no HTTP", "half"],
)
def test_what_is_no_answer_is_a_failure(peer: Peer, answer: bytes) -> None:
    peer.answers(answer)
    assert refused(Session()).startswith("does not answer (")


def test_a_refused_connection_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib3.util import connection

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(connection, "create_connection", refuse)
    assert refused(Session()) == "does not answer (ConnectionRefusedError)"


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 60_000, b"null"])
def test_only_an_object_is_a_document(body: bytes) -> None:
    with pytest.raises(RegistryFailed, match="JSON object"):
        Answer(200, body).document()


def test_a_refusal_says_the_status_and_nothing_of_the_body() -> None:
    assert str(Answer(403, b"canary").refusal()) == "answers with status 403"
