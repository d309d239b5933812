"""Connections to Redis: what their waits add up to, and what they share of TLS."""

import os
import ssl
from math import inf
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionPool

from main_api.state import redis_connections
from main_api.state.redis_connections import TIMEOUT, connect
from main_api.state.redis_guard import AWAY_SECONDS, RedisGuard


def test_a_client_waits_shortly_and_once_and_connects_to_nobody_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("socket.socket.connect", lambda *_: made.append("connected"))

    pool = connect("redis://user:word@127.0.0.1:1/2", 7).connection_pool

    assert made == []
    assert isinstance(pool, ConnectionPool)
    assert pool.max_connections == 7
    bounds = pool.connection_kwargs
    assert (bounds["socket_timeout"], bounds["socket_connect_timeout"]) == (TIMEOUT, TIMEOUT)
    connection = pool.make_connection()
    assert (connection.retry.get_retries(), connection.health_check_interval) == (0, 0)
    assert (connection.client_name, connection.protocol, connection.driver_info) == ("main-api", 2, None)
    assert connect("redis://h", 1, 5.0).connection_pool.connection_kwargs["socket_timeout"] == 5.0


def test_the_url_cannot_undo_what_bounds_the_waits() -> None:
    from chassis.settings import SettingsError, load
    from main_api.settings import Settings

    for option in ("socket_timeout=9", "socket_connect_timeout=9", "retry_on_error=x", "protocol=3"):
        with pytest.raises(SettingsError):
            load(Settings, {"REDIS_URL": f"redis://h?{option}"})


# What the waits add up to. A wire that is none: its clock goes on by what a wait takes, and by nothing else.

MOST = 0.060
PLAIN, ALL_STEPS = "redis://127.0.0.1:1/0", "redis://user:word@127.0.0.1:1/2"


class Wire:
    """Redis behind a network: ``delay`` before each piece of an answer, or before a connection is there."""

    def __init__(self) -> None:
        self.now = 100.0
        self.addresses = 1
        self.connecting = 0.0
        self.delay = 0.0
        # In its place for what is asked in connecting.
        self.step: float | None = None
        self.pieces = 1
        # Seconds until the network has taken a part of a command.
        self.sending = 0.0
        # Seconds that a thread waits for the interpreter before it sends and after it has sent.
        self.late_before = self.late_after = 0.0
        self.commands: list[bytes] = []

    def request(self, guard: RedisGuard) -> tuple[bytes | None, float]:
        """Look and keep, as a request does that finds nothing; give what was found, and the time for both."""
        begun = self.now
        found = guard.call(lambda client: client.getrange(b"name", 0, 99), None)
        guard.call(lambda client: client.set(b"name", b"value", ex=1), None)
        return found, self.now - begun  # type: ignore[return-value]


class WireSocket:
    """One end of it, with what a socket does of timeouts."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._timeout: float | None = None
        self._coming: list[tuple[float, bytes]] = []

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def connect(self, _: object) -> None:
        self._wait(self._wire.now + self._wire.connecting)

    def sendall(self, data: bytes) -> None:
        wire = self._wire
        wire.now += wire.late_before
        self._wait(wire.now + wire.sending)
        if not data.startswith(b"*"):
            return  # A part behind the first one.
        wire.commands.append(data.split(b"\r\n")[2])
        of_connecting = wire.commands[-1] in (b"AUTH", b"CLIENT", b"SELECT")
        delay = wire.step if of_connecting and wire.step is not None else wire.delay
        answer = b"$200\r\n" + b"x" * 200 + b"\r\n" if b"GETRANGE" in data else b"+OK\r\n"
        size = -(-len(answer) // wire.pieces)
        parts = [answer[at : at + size] for at in range(0, len(answer), size)]
        self._coming += [(wire.now + delay * count, part) for count, part in enumerate(parts, 1)]
        wire.now += wire.late_after

    def recv(self, _: int) -> bytes:
        self._wait(self._coming[0][0] if self._coming else inf)
        there = [part for at, part in self._coming if at <= self._wire.now]
        del self._coming[: len(there)]
        return b"".join(there)

    def _wait(self, moment: float) -> None:
        if moment <= self._wire.now:
            return
        if self._timeout == 0:
            raise BlockingIOError(11, "nothing there")
        assert self._timeout is not None
        assert self._timeout > 0
        self._wire.now = min(moment, self._wire.now + self._timeout)
        if self._wire.now < moment:
            raise TimeoutError("timed out")

    def setsockopt(self, *_: object) -> None:
        pass

    shutdown = setsockopt

    def close(self) -> None:
        pass


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr("socket.socket", lambda *_: WireSocket(wire))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(0, 0, 0, "", ("", 0))] * wire.addresses)
    monkeypatch.setattr(redis_connections, "monotonic", lambda: wire.now)
    return wire


def guard_of(wire: Wire, url: str = PLAIN) -> RedisGuard:
    return RedisGuard(connect(url, 1), "cache.example:6379", clock=lambda: wire.now)


@pytest.mark.parametrize("url", [PLAIN, ALL_STEPS])
@pytest.mark.parametrize("pieces", [1, 2, 40])
@pytest.mark.parametrize("milliseconds", [0.5, 1, 3, 3.9, 5, 8, 10, 13, 15.9, 16.1, 24, 30, 40, 45, 60, inf])
def test_all_waits_of_a_request_are_60_ms_at_most(
    wire: Wire, milliseconds: float, pieces: int, url: str
) -> None:
    wire.pieces = pieces
    guard = guard_of(wire, url)
    took = []
    for delay in (milliseconds / 1000, 0.0, milliseconds / 1000):
        wire.delay = delay
        # The first one connects, and so does who finds Redis away; the last one has a connection.
        took.append(wire.request(guard)[1])
        wire.now += AWAY_SECONDS

    assert max(took) <= MOST


def test_the_longest_request_of_all_is_one_of_60_ms(wire: Wire) -> None:
    wire.connecting = wire.delay = TIMEOUT - 0.0001
    wire.step = 0.0039
    guard = guard_of(wire, ALL_STEPS)

    found, took = wire.request(guard)

    assert found == b"x" * 200
    assert 0.055 < took <= MOST
    assert wire.commands == [b"AUTH", b"CLIENT", b"SELECT", b"GETRANGE", b"SET"]


@pytest.mark.parametrize("url", [PLAIN, ALL_STEPS])
def test_a_redis_that_is_a_little_away_is_used(wire: Wire, url: str) -> None:
    wire.connecting = wire.delay = 0.003
    guard = guard_of(wire, url)

    assert wire.request(guard)[0] == b"x" * 200
    assert wire.commands[-2:] == [b"GETRANGE", b"SET"]


def test_what_is_kept_after_a_look_that_failed_costs_nothing(wire: Wire) -> None:
    guard = guard_of(wire)
    wire.request(guard)
    wire.delay, wire.commands = inf, []

    assert wire.request(guard) == (None, pytest.approx(TIMEOUT))
    assert wire.commands == [b"GETRANGE"]


def test_a_large_value_is_sent_in_the_time_of_one_command(wire: Wire) -> None:
    guard = guard_of(wire)
    wire.request(guard)
    wire.sending, begun = TIMEOUT - 0.0001, wire.now

    guard.call(lambda client: client.set(b"name", b"x" * 10_000, ex=1), None)

    assert wire.now - begun <= 0.020


@pytest.mark.parametrize("addresses", [1, 2, 3])
def test_connecting_ends_however_many_addresses_there_are(wire: Wire, addresses: int) -> None:
    wire.connecting, wire.addresses = inf, addresses

    found, took = wire.request(guard_of(wire))

    assert found is None
    assert took <= 0.030
    assert wire.commands == []


@pytest.mark.parametrize("url", [PLAIN, ALL_STEPS])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_thread_that_is_late_itself_does_not_send_a_healthy_redis_away(
    wire: Wire, url: str, pieces: int
) -> None:
    wire.connecting = wire.delay = 0.001
    wire.pieces = pieces
    guard = guard_of(wire, url)
    for wire.late_before, wire.late_after in ((0.0, 1.0), (0.0, 0.0), (0.0, 1.0)):
        assert wire.request(guard)[0] == b"x" * 200
    if pieces == 1:
        # Between the look at the clock and the sending; a piece behind the first one is then not waited for.
        wire.late_before = 1.0
        assert wire.request(guard)[0] == b"x" * 200


# TLS.


class Context:
    """What connections share for TLS, and what was loaded into it."""

    made: list[dict[str, Any]]
    check_hostname = True
    verify_mode = ssl.CERT_REQUIRED

    def load_cert_chain(self, *files: str | None) -> None:
        self.made[-1]["chain"] = files


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Give what contexts were made of."""
    made: list[dict[str, Any]] = []

    def make(**options: Any) -> Context:
        made.append(options)
        context = Context()
        context.made = made
        return context

    monkeypatch.setattr("ssl.create_default_context", make)
    return made


def test_connections_share_what_is_costly_of_tls_until_a_file_is_another(
    contexts: list[dict[str, Any]], tmp_path: Path
) -> None:
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    for name in names:
        (tmp_path / name).write_text("")
    query = "&".join(f"{name}={tmp_path / name}" for name in names)

    pool = connect(f"rediss://h?{query}", 2).connection_pool
    assert contexts == [
        {"cafile": f"{tmp_path}/ssl_ca_certs", "chain": tuple(f"{tmp_path}/{name}" for name in names[1:])}
    ]
    one, other = pool.make_connection(), pool.make_connection()
    assert one.context() is other.context()
    for count, name in enumerate(names, 2):
        os.utime(tmp_path / name, ns=(1, 1))
        assert one.context() is other.context()
        assert len(contexts) == count


def test_who_asks_not_to_check_is_not_given_the_context_of_who_does(contexts: list[dict[str, Any]]) -> None:
    def shown(query: str) -> tuple[bool, ssl.VerifyMode]:
        context = connect(f"rediss://h?{query}", 1).connection_pool.make_connection().context()
        return context.check_hostname, context.verify_mode

    assert shown("") == (True, ssl.CERT_REQUIRED)
    assert shown("ssl_check_hostname=false") == (False, ssl.CERT_REQUIRED)
    assert shown("ssl_cert_reqs=none") == (False, ssl.CERT_NONE)
    assert shown("") == (True, ssl.CERT_REQUIRED)


def test_files_of_tls_that_are_missing_are_a_redis_that_is_away(tmp_path: Path) -> None:
    connection = connect(f"rediss://h?ssl_ca_certs={tmp_path}/none", 1).connection_pool.make_connection()

    with pytest.raises(FileNotFoundError):
        connection.context()
