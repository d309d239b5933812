"""The worker's promises, shown by real gunicorn processes on loopback; clients are bare sockets."""

import http.client
import itertools
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chassis.settings import RUNTIME_DIR, ServiceSettings
from chassis.worker import Worker, gunicorn_settings
from chassis.worker.connections import Connection
from chassis.worker.reading import HEADERS_BYTES, Parser, ReadTimeout, decidable
from chassis.worker.writing import ClientGone, Sender
from tests.end_to_end.processes import free_port

ROOT = Path(__file__).parents[2]
PROMISED = 0.25
PATIENCE = 15.0

Connect = Callable[..., socket.socket]


class Gunicorn:
    """One gunicorn with one worker of four threads that serves worker_app/demo.py."""

    def __init__(self, folder: Path, **environment: object) -> None:
        self.port = free_port()
        self.log = folder / f"log-{self.port}"
        self.metrics = RUNTIME_DIR / f"demo-{self.port}.metrics"
        self.drain_file = folder / f"draining-{self.port}"
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            "HOST": "127.0.0.1",
            "PORT": self.port,
            "GUNICORN_THREADS": 4,
            "DRAIN_SECONDS": 10,
            "DRAIN_FILE": self.drain_file,
            **environment,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gunicorn_conf.py"],
                cwd=Path(__file__).parent / "worker_app",
                env={name: str(value) for name, value in variables.items()},
                stderr=log,
                stdout=log,
            )
        wait_for(self._answers)
        self.worker = int(self.get("/pid")[1])

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return not self.refuses()

    def refuses(self) -> bool:
        """Whether nobody listens any more."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) != 0

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Ask on a connection of its own."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            client.request(method, path)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def probe(self) -> float:
        """Ask the same worker as ever; give the seconds that it took."""
        began = time.monotonic()
        assert self.get("/pid") == (200, str(self.worker).encode())
        return time.monotonic() - began

    def lines(self) -> list[dict[str, Any]]:
        """Read the log; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> None:
        """End it, the hard way if need be, and what it left behind."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.metrics, ignore_errors=True)


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gunicorn")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Gunicorn]:
    """One whose times are short; every test leaves it idle."""
    started = Gunicorn(
        folder,
        DEMO_READ_SECONDS=1,
        DEMO_LINGER_SECONDS=0.5,
        DEMO_WRITE_IDLE_SECONDS=1,
        DEMO_WRITE_SECONDS=1.5,
    )
    yield started
    started.stop()


@pytest.fixture
def own(folder: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Start one for this test alone."""
    started: list[Gunicorn] = []

    def start(**environment: object) -> Gunicorn:
        started.append(Gunicorn(folder, **environment))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Open a connection, send something on it, and close it only at the end of the test."""
    opened = []

    def open_one(server: Gunicorn, data: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        opened.append(sock)
        sock.settimeout(PATIENCE)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(data)
        return sock

    yield open_one
    for sock in opened:
        sock.close()


def request(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: demo", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def rest(sock: socket.socket) -> bytes:
    """Read to the end of the stream."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer."""
    with http.client.HTTPResponse(sock) as response:
        response.begin()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )


# What it answers


def test_an_answer_has_date_and_connection_and_no_server(server: Gunicorn, connect: Connect) -> None:
    status, headers, body = answer(connect(server, request("/")))
    assert (status, body, headers["connection"]) == (200, b"hello", "keep-alive")
    assert "date" in headers
    assert "server" not in headers


def test_a_connection_is_kept_for_the_next_request(server: Gunicorn, connect: Connect) -> None:
    sock = connect(server)
    for _ in range(3):
        sock.sendall(request("/"))
        assert answer(sock)[2] == b"hello"


def test_requests_sent_at_once_are_answered_in_their_order(server: Gunicorn, connect: Connect) -> None:
    body = request("/body", "Content-Length: 3", method="POST", body=b"abc")
    last = request("/pid", "Connection: close")
    found = rest(connect(server, request("/") + body + request("/", method="HEAD") + last))
    assert found.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert [part.split(b"HTTP/1.1")[0] for part in found.split(b"\r\n\r\n")[1:]] == [
        b"hello",
        b"3",
        b"",
        str(server.worker).encode(),
    ]


def test_a_next_request_that_comes_in_pieces_is_answered(server: Gunicorn, connect: Connect) -> None:
    both = request("/") + request("/pid", "Connection: close")
    sock = connect(server, both[:-20])
    assert answer(sock)[2] == b"hello"
    sock.sendall(both[-20:])
    assert rest(sock).endswith(str(server.worker).encode())


def test_head_has_no_body(server: Gunicorn, connect: Connect) -> None:
    found = rest(connect(server, request("/", "Connection: close", method="HEAD")))
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 5\r\n" in found
    assert found.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("length", [0, 5, 3_000_000])
def test_a_body_is_read_whole(server: Gunicorn, connect: Connect, length: int) -> None:
    sock = connect(server, request("/body", f"Content-Length: {length}", method="POST", body=b"x" * length))
    assert answer(sock)[2] == str(length).encode()


def test_a_chunked_body_is_read_whole(server: Gunicorn, connect: Connect) -> None:
    chunked = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Trailer: a\r\n\r\n"
    head = request("/body", "Transfer-Encoding: chunked", method="POST")
    sock = connect(server)
    for _ in range(2):
        sock.sendall(head + chunked)
        assert answer(sock)[2] == b"11"


def test_a_client_that_waits_for_100_is_told_to_continue(server: Gunicorn, connect: Connect) -> None:
    sock = connect(server, request("/body", "Expect: 100-continue", "Content-Length: 3", method="POST"))
    assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"abc")
    assert answer(sock)[2] == b"3"


# What it refuses

LONG = "a" * 9000
FIELDS_IN_SUM = [f"X-{number}: {'a' * 8000}" for number in range(5)]


@pytest.mark.parametrize(
    ("status", "code", "sent"),
    [
        (414, "too_large", request(f"/{LONG}")),
        (414, "too_large", b"GET /" + LONG.encode()),
        (414, "too_large", b"a" * 20_000),
        (431, "too_large", request("/", f"X-Large: {'a' * 16380}")),
        (431, "too_large", request("/", *(f"X-{number}: a" for number in range(100)))),
        (431, "too_large", request("/", *FIELDS_IN_SUM)),
        (431, "too_large", request("/", *FIELDS_IN_SUM)[:-4]),
        (400, "bad_request", b"GET / HTTP/1.1\r\n\r\n"),
        (400, "bad_request", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (400, "bad_request", b"GET / HTTP/1.1\r\nHost: secret\r\nHost: secret\r\n\r\n"),
        (400, "bad_request", b"GET / HTTP/1.1\r\nHost: sec ret\r\n\r\n"),
        (400, "bad_request", b"GET / HTTP/1.1\r\nHost: user@secret\r\n\r\n"),
        (400, "bad_request", b"GET / HTTP/1.0\r\nHost: secret/path\r\n\r\n"),
        (400, "bad_request", b"secret\r\n"),
        (400, "bad_request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n"),
        (400, "bad_request", b"GET / HTTP/2.0\r\n"),
        (400, "bad_request", b"GET / HTTP/1.1\nHost: secret\n\n"),
        (400, "bad_request", request("/", "secret")),
        (400, "bad_request", request("/", "X-A: a", " secret")),
        (400, "bad_request", request("/", "Expect: secret")),
        (400, "bad_request", request("/", "Content-Length: secret")),
        (
            400,
            "bad_request",
            request("/body", "Transfer-Encoding: chunked", method="POST", body=b"secret\r\n"),
        ),
        (501, "not_implemented", request("/", "Transfer-Encoding: secret")),
    ],
)
def test_a_refusal_is_answered_by_the_application(
    server: Gunicorn, connect: Connect, status: int, code: str, sent: bytes
) -> None:
    before = len(server.lines())
    found = rest(connect(server, sent))
    head, _, body = found.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} ") or lines[0].startswith(f"http/1.0 {status} ")
    assert "connection: close" in lines
    assert not [line for line in lines if line.startswith("server:")]
    assert json.loads(body)["code"] == code
    assert b"secret" not in found
    for line in server.lines()[before:]:
        assert line["level"] == "info"
        assert "secret" not in str(line)
        assert "exception" not in line


@pytest.mark.parametrize("host", ["demo", "demo:80", "127.0.0.1:", "[::1]:3000", "a_b-c.d~e", "%61"])
def test_a_host_by_the_rules_is_taken(server: Gunicorn, connect: Connect, host: str) -> None:
    sock = connect(server, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert rest(sock).startswith(b"HTTP/1.1 200 ")


def test_http_1_0_needs_no_host(server: Gunicorn, connect: Connect) -> None:
    assert rest(connect(server, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 ")


def test_32_kib_of_fields_are_taken(server: Gunicorn, connect: Connect) -> None:
    fields = [f"X-{number}: {'a' * 8000}" for number in range(4)]
    fields.append(f"X-Last: {'a' * (HEADERS_BYTES - sum(len(field) + 2 for field in fields) - 22)}")
    whole = request("/", *fields, "Connection: close")
    assert len(whole) - len("GET / HTTP/1.1\r\n") - len("\r\n") > HEADERS_BYTES
    taken = whole.replace(b"Connection: close\r\n", b"")
    assert len(taken) - len("GET / HTTP/1.1\r\n") - len("\r\n") == HEADERS_BYTES
    assert rest(connect(server, whole)).startswith(b"HTTP/1.1 431 ")
    sock = connect(server, taken + request("/", "Connection: close") + b"body of what comes after" * 400)
    assert rest(sock).count(b"HTTP/1.1 200 ") == 2


def test_a_fault_outside_the_framework_is_one_500_with_its_traceback_in_the_log(
    server: Gunicorn, connect: Connect
) -> None:
    before = len(server.lines())
    assert rest(connect(server, request("/raise"))).startswith(b"HTTP/1.1 500 ")
    (line,) = server.lines()[before:]
    assert "raised on purpose" in line["exception"]


def test_an_answer_that_breaks_off_ends_the_connection(
    own: Callable[..., Gunicorn], connect: Connect
) -> None:
    server = own()
    for path, written in (("/broken", b"x" * 10), ("/short", b"x")):
        for _ in range(3):
            with connect(server, request(path)) as sock:
                found = rest(sock)
            assert found.count(b"HTTP/1.1") == 1
            assert found.endswith(b"\r\n\r\n" + written)
    assert [line["level"] for line in server.lines() if "exception" in line] == ["error"] * 3
    # Each connection was counted off once: else the worker would stop without waiting for this one.
    sock = connect(server)
    server.probe()
    server.process.terminate()
    wait_for(server.refuses)
    sock.sendall(request("/"))
    assert answer(sock)[0] == 200


# What clients cannot hold


def test_clients_that_do_not_close_delay_nobody(server: Gunicorn, connect: Connect) -> None:
    for _ in range(5):
        assert answer(connect(server, request("/", "Connection: close")))[0] == 200
        assert answer(connect(server, b"broken\r\n\r\n"))[0] == 400
        assert server.probe() < PROMISED
    assert server.probe() < PROMISED


def test_a_client_that_does_not_close_is_closed_after_a_while(server: Gunicorn, connect: Connect) -> None:
    sock = connect(server, request("/", "Connection: close"))
    assert rest(sock).endswith(b"hello")

    def reset() -> bool:
        try:
            sock.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(0.1)
        return False

    began = time.monotonic()
    wait_for(reset)
    assert time.monotonic() - began > 0.4


def test_the_answer_reaches_a_client_that_is_still_sending(server: Gunicorn, connect: Connect) -> None:
    unread = 500_000
    sock = connect(server, request("/", f"Content-Length: {unread}", "Connection: close", body=b"x" * unread))
    assert rest(sock).endswith(b"hello")


def test_connections_without_a_byte_hold_no_thread(server: Gunicorn, connect: Connect) -> None:
    for _ in range(8):
        connect(server)
    assert server.probe() < PROMISED


def ends(socks: list[socket.socket], began: float) -> list[tuple[float, bytes]]:
    """Read all of them to the end; the seconds after which each was over, and what it got."""

    def end(sock: socket.socket) -> tuple[float, bytes]:
        found = rest(sock)
        return time.monotonic() - began, found

    with ThreadPoolExecutor(len(socks)) as pool:
        return list(pool.map(end, socks))


def test_half_a_head_is_closed_in_time_and_holds_no_thread(server: Gunicorn, connect: Connect) -> None:
    began = time.monotonic()
    halves = [connect(server, b"GET / HTTP/1.1\r\nHost: de") for _ in range(8)]
    assert server.probe() < PROMISED
    for seconds, found in ends(halves, began):
        assert found == b""
        assert 0.9 < seconds < 2.0
    assert server.probe() < PROMISED


def test_a_head_that_drips_is_closed_in_time(server: Gunicorn, connect: Connect) -> None:
    sock = connect(server, b"GET / HTTP/1.1\r\nHost: demo\r\nX: ")
    began = time.monotonic()
    sock.settimeout(0.1)

    def is_closed() -> bool:
        try:
            sock.sendall(b"a")
            return sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    wait_for(is_closed)
    assert 0.9 < time.monotonic() - began < 1.7


def test_half_a_body_is_400_in_time_also_when_it_waited_for_a_thread(
    server: Gunicorn, connect: Connect
) -> None:
    began = time.monotonic()
    sized = request("/body", "Content-Length: 9", method="POST", body=b"abc")
    chunked = request("/body", "Transfer-Encoding: chunked", method="POST", body=b"5\r\nab")
    halves = [connect(server, half) for half in (sized, chunked) * 4]
    for seconds, found in ends(halves, began):
        assert found.startswith(b"HTTP/1.1 400 ")
        assert b"Connection: close" in found
        assert 0.9 < seconds < 1.9
    assert server.probe() < PROMISED


def test_a_body_that_nobody_reads_holds_no_thread(server: Gunicorn, connect: Connect) -> None:
    socks = [connect(server, request("/", "Content-Length: 9")) for _ in range(4)]
    assert {answer(sock)[2] for sock in socks} == {b"hello"}
    assert server.probe() < PROMISED
    assert {rest(sock) for sock in socks} == {b""}


def test_a_request_that_waits_long_for_a_thread_is_served(server: Gunicorn, connect: Connect) -> None:
    slow = [connect(server, request("/slow?seconds=1.5")) for _ in range(4)]
    late = connect(server, request("/body", "Content-Length: 2", method="POST"))
    waiting = connect(server, request("/body", "Expect: 100-continue", "Content-Length: 2", method="POST"))
    time.sleep(0.1)  # until both heads have been read
    late.sendall(b"ab")
    assert waiting.recv(100).startswith(b"HTTP/1.1 100 ")
    time.sleep(0.1)  # longer than it would read on, if its silence counted
    waiting.sendall(b"ab")
    assert answer(waiting)[2] == b"2"
    assert answer(late)[2] == b"2"
    assert {answer(sock)[0] for sock in slow} == {200}


def test_the_real_times(own: Callable[..., Gunicorn], connect: Connect) -> None:
    server = own()
    began = time.monotonic()
    heads = [connect(server, b"GET / HTTP/1.1\r\nHost: demo") for _ in range(8)]
    body = request("/body", "Content-Length: 9", method="POST")
    bodies = [connect(server, body) for _ in range(8)]
    for seconds, found in ends(heads + bodies, began):
        assert 4.5 < seconds < 7
        assert found == b"" or found.startswith(b"HTTP/1.1 400 ")
    assert server.probe() < PROMISED


def test_who_never_reads_a_large_answer_is_cut_off(server: Gunicorn, connect: Connect) -> None:
    before = len(server.lines())
    already = int(server.get("/closed")[1])
    for path in ("/large?size=50000000", "/large?pieces=50"):
        for _ in range(2):
            connect(server, request(path), receive_buffer=65536)
    wait_for(lambda: len(server.lines()) - before >= 4)
    assert server.probe() < PROMISED
    warnings = server.lines()[before:]
    assert [line["level"] for line in warnings] == ["warning"] * 4
    assert not [line for line in warnings if "exception" in line]
    assert int(server.get("/closed")[1]) == already + 2


def test_who_reads_slowly_but_steadily_is_served(server: Gunicorn, connect: Connect) -> None:
    sock = connect(server, request("/large?size=20000000", "Connection: close"), receive_buffer=65536)
    found = 0
    while piece := sock.recv(200_000):
        found += len(piece)
        time.sleep(0.001)
    assert found > 20_000_000


def test_who_reads_steadily_but_too_slowly_is_cut_off(server: Gunicorn, connect: Connect) -> None:
    before = len(server.lines())
    sock = connect(server, request("/large?size=50000000"), receive_buffer=65536)
    began = time.monotonic()

    def is_reset() -> bool:
        try:
            assert sock.recv(65536)
        except ConnectionResetError:
            return True
        return False

    wait_for(is_reset)
    assert time.monotonic() - began > 1.2
    assert [line["level"] for line in server.lines()[before:]] == ["warning"]


def test_a_streamed_body_is_closed_once_whatever_happens(server: Gunicorn, connect: Connect) -> None:
    already = int(server.get("/closed")[1])
    assert server.get("/large?pieces=3")[0] == 200
    # It is closed behind the last byte, which the client may have a moment before.
    wait_for(lambda: int(server.get("/closed")[1]) == already + 1)
    sock = connect(server, request("/large?pieces=50"), receive_buffer=65536)
    assert sock.recv(100)
    sock.close()
    wait_for(lambda: int(server.get("/closed")[1]) == already + 2)


def test_without_file_descriptors_it_waits_and_lives(own: Callable[..., Gunicorn], connect: Connect) -> None:
    server = own()
    used = len(os.listdir(f"/proc/{server.worker}/fd"))
    resource.prlimit(server.worker, resource.RLIMIT_NOFILE, (used + 3, used + 3))
    socks = [connect(server) for _ in range(5)]
    wait_for(lambda: "cannot accept" in server.log.read_text())
    for sock in socks:
        sock.close()
    server.probe()
    assert len([line for line in server.lines() if line["level"] == "warning"]) <= 2


# How it stops


def in_flight(server: Gunicorn, connect: Connect, count: int, seconds: float) -> list[socket.socket]:
    socks = [connect(server, request(f"/slow?seconds={seconds}")) for _ in range(count)]
    with connect(server) as last:  # accepted after them
        last.shutdown(socket.SHUT_WR)
        assert rest(last) == b""
    return socks


@pytest.mark.parametrize(("threads", "seconds"), [(24, 1.0), (4, 0.2)])
def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(
    own: Callable[..., Gunicorn], connect: Connect, threads: int, seconds: float
) -> None:
    server = own(GUNICORN_THREADS=threads)
    socks = in_flight(server, connect, 20, seconds)
    server.process.terminate()

    wait_for(server.refuses)
    assert not select.select(socks[-1:], [], [], 0)[0], "it refuses only after the last answer"
    for sock in socks:
        status, headers, body = answer(sock)
        assert (status, body, headers["connection"]) == (200, b"done", "close")
        sock.close()
    assert server.process.wait(5) == 0


def test_sigterm_answers_who_was_in_the_backlog_or_had_sent_nothing_yet(
    own: Callable[..., Gunicorn], connect: Connect
) -> None:
    server = own(DEMO_LINGER_SECONDS=0.5)
    silent, never = connect(server), connect(server)
    kept = connect(server, request("/"))
    assert answer(kept)[0] == 200
    # Nobody accepts now; SIGTERM comes first when the worker goes on.
    os.kill(server.worker, signal.SIGSTOP)
    wait_for(lambda: "State:\tT" in status_of(server.worker))
    backlog = [connect(server, request("/")) for _ in range(20)]
    late = connect(server)
    server.process.terminate()
    wait_for(lambda: "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000" not in status_of(server.worker))
    os.kill(server.worker, signal.SIGCONT)
    wait_for(server.refuses)
    for sock in (silent, kept, late):
        sock.sendall(request("/"))
    for sock in [*backlog, silent, kept, late]:
        status, headers, _ = answer(sock)
        assert (status, headers["connection"]) == (200, "close")
    # None of them closes, and one says nothing: the worker does not wait for that.
    assert server.process.wait(6) == 0
    assert rest(never) == b""


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


# How it starts


def test_its_log_is_json_and_says_everything_once(server: Gunicorn) -> None:
    messages = [line["message"] for line in server.lines()]
    assert len([text for text in messages if text.startswith("Starting gunicorn")]) == 1
    assert len([text for text in messages if text.startswith("Booting worker")]) == 1


def test_a_killed_worker_is_replaced_and_forgotten(own: Callable[..., Gunicorn]) -> None:
    server = own()
    pid_file = server.metrics / f"worker_{server.worker}.pid"
    assert pid_file.read_text() == f"{server.worker}\n"
    gauge = server.metrics / f"gauge_livesum_{server.worker}.db"
    gauge.touch()
    os.kill(server.worker, signal.SIGKILL)
    wait_for(lambda: not pid_file.exists())
    wait_for(lambda: list(server.metrics.glob("worker_*.pid")))
    assert not gauge.exists()


class Settings(ServiceSettings):
    SERVICE: ClassVar[str] = "demo"


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.setattr("chassis.settings.RUNTIME_DIR", tmp_path)

    def start(master_pid: int = 0) -> None:
        hook: Any = gunicorn_settings(Settings(), "demo:wsgi")["when_ready"]
        hook(SimpleNamespace(master_pid=master_pid))

    return start


def test_starting_removes_what_the_last_run_left_and_nothing_else(
    starting: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "demo-3000.draining").touch()
    folder = tmp_path / "demo-3000.metrics"
    folder.mkdir()
    for name in ("counter_1.db", "worker_1.pid", "mine.txt"):
        (folder / name).touch()
    starting(master_pid=1)  # re-executed: the old master's are in use
    assert (tmp_path / "demo-3000.draining").exists()
    assert len(list(folder.iterdir())) == 3
    starting()
    assert not (tmp_path / "demo-3000.draining").exists()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_starting_makes_the_folder(starting: Callable[..., None], tmp_path: Path) -> None:
    starting()
    assert stat.S_IMODE((tmp_path / "demo-3000.metrics").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["file", "symbolic link", "somebody else's"])
def test_starting_refuses_a_folder_that_is_not_ours(
    starting: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "demo-3000.metrics"
    if kind == "file":
        folder.touch()
    elif kind == "symbolic link":
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "kept.db").touch()
        folder.symlink_to(tmp_path / "theirs")
    else:
        folder.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(RuntimeError, match=r"demo-3000\.metrics is not a directory of our own"):
        starting()
    assert kind != "symbolic link" or (tmp_path / "theirs" / "kept.db").exists()


@pytest.mark.parametrize(
    ("package", "name"), [("main_api", "main-api"), ("auxiliary_service", "auxiliary-service")]
)
def test_a_wrong_setting_ends_the_start_with_the_list_of_faults(package: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", f"{package}/gunicorn_conf.py", f"{package}.wsgi:app"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PORT": "abc", "WEB_CONCURRENCY": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    headline, *faults = done.stderr.splitlines()
    assert done.returncode == 1
    assert headline == f"{name} cannot start:"
    assert sorted(fault.partition(":")[0] for fault in faults) == ["PORT", "WEB_CONCURRENCY"]


def test_the_settings_that_clients_and_load_balancers_rely_on() -> None:
    found = gunicorn_settings(Settings(host="::", gunicorn_threads=7, drain_seconds=0), "demo:wsgi")
    assert found["bind"] == ["[::]:3000"]
    assert found["threads"] == 7 + 64 + 2
    assert found["graceful_timeout"] == 1
    assert found["keepalive"] == 75
    assert Worker.READ_SECONDS == 5.0


def test_the_configuration_loads_no_flask() -> None:
    code = (
        "import chassis.worker, sys; sys.exit('flask' in sys.modules or 'prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# What needs no process

WORDS = b"GET / HTTP/1.1|GET| |/|HTTP/1.1|HTTP/1.7|\r\n|\r|\n|Host: a|X: b|\0|:|Expect: 100-continue".split(
    b"|"
)
PIECES = st.lists(st.sampled_from([*WORDS, b"a" * 9000]), max_size=12).map(b"".join)


def held(server: Gunicorn, path: str, times: int) -> list[socket.socket]:
    """Have ``times`` requests for ``path`` under way."""
    clients = []
    for _ in range(times):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        clients.append(client)
    time.sleep(0.2)
    return clients


def quickest(ask: Callable[[], tuple[int, bytes]]) -> float:
    """Give the seconds of a 200 that came in time, of the quickest of three otherwise.

    A busy machine is late once; who queues is late each time, for a second.
    """
    took: list[float] = []
    while len(took) < 3 and not (took and took[-1] < PROMISED):
        began = time.monotonic()
        assert ask()[0] == 200
        took.append(time.monotonic() - began)
    return min(took)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_probe_does_not_queue_behind_anybody(server: Gunicorn, method: str) -> None:
    clients = held(server, "/slow?seconds=1", 16)
    try:
        for _ in range(5):
            assert quickest(lambda: server.get("/alive", method)) < PROMISED
        began = time.monotonic()
        assert server.get("/")[0] == 200
        assert time.monotonic() - began > 2 * PROMISED, "the threads were not held"
    finally:
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()


def test_probes_that_are_held_do_not_hold_up_others(server: Gunicorn) -> None:
    for _ in range(2):
        clients = held(server, "/alive-slowly", Worker.PROBE_THREADS)
        try:
            assert quickest(lambda: server.get("/alive")) < PROMISED
        finally:
            for client in clients:
                assert client.recv(12) == b"HTTP/1.1 200"
                client.close()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", False),
        (b"GET / HTT", False),
        (b"GET / HTTP/1.1\r\nHost: a", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"\r\nGET / HTTP/1.7\r\nHost: a", False),
        (b"GET / HTTP/2.0\r\n", True),
        (b"GET /\r\n", True),
        (b"GET / HTTP/1.1\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\n", True),
        (b"a" * 8190, False),
        (b"a" * 9000, True),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 32000, False),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 33000, True),
    ],
)
def test_a_head_can_be_judged_at_its_end_or_at_its_fault(head: bytes, expected: bool) -> None:
    assert decidable(bytearray(head)) is expected


@settings(max_examples=300, deadline=None)
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1)
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2)
@given(PIECES, st.integers(1, 9))
def test_a_thread_is_given_only_to_a_head_that_can_be_judged(head: bytes, step: int) -> None:
    # Long words make many small steps slow, and add nothing.
    head = head if step > 6 else head.replace(b"a" * 9000, b"")
    searched = 0
    grown = bytearray()
    while not (done := decidable(grown, searched)) and len(grown) < len(head):
        searched = len(grown)
        grown += head[searched : searched + step]
    assert done == decidable(grown)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parser = Parser(CONFIG, ours, ("127.0.0.1", 1), 5.0)
        parser.unreader.unread(bytes(grown))
        waits = False
        try:
            next(parser)
        except ReadTimeout:
            waits = True
        except (ParseException, StopIteration):
            pass
    assert not (done and waits)


def config() -> Any:
    made = Config()
    for name, value in gunicorn_settings(Settings(), "demo:wsgi").items():
        made.set(name, value)
    return made


CONFIG = config()


def test_sending_has_an_end_for_each_wait_and_for_all_together() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        began = time.monotonic()
        with pytest.raises(ClientGone) as caught:
            Sender(ours, 0.2, 10).sendall(bytes(50_000_000))
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert 0.2 < time.monotonic() - began < 5
        with pytest.raises(ClientGone):
            Sender(ours, 10, 0.2).sendall(bytes(50_000_000))


def test_a_thread_that_rests_too_long_does_not_cost_the_client_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = Connection(CONFIG, ours, ("127.0.0.1", 1), ("127.0.0.1", 2), 5.0)
        conn.parser.unreader.unread(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        next(conn.parser)
        worker = Worker.__new__(Worker)

        # Each look at the clock finds it an hour later.
        monkeypatch.setattr(time, "monotonic", itertools.count(time.monotonic(), 3600).__next__)

        assert worker._keepalive_after(conn, keepalive=True)
