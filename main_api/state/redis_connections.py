"""Connections to Redis whose waits are bounded together, so that a request pays no more than it can bear."""

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from redis import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

# Seconds for all of connecting, and for each command. Redis is a help, and no help if a request pays more
# than 60 ms for it: who connects, looks and keeps waits three times this, and _LEAST for each further step of
# connecting. With less, a healthy Redis that waits for a core of a busy machine would count as away.
TIMEOUT = 0.016
# Seconds that Redis has from the moment at which an answer is first waited for: a thread that is late itself,
# because others had the interpreter, says nothing of Redis.
_LEAST = 0.004


class _Socket:
    """The socket of a :class:`_Bounded` connection, which sets the time of each wait anew."""

    def __init__(self, wrapped: socket.socket, connection: "_Bounded") -> None:
        self._wrapped = wrapped
        self._connection = connection
        self._sent = self._only_looks = False

    def settimeout(self, seconds: float | None) -> None:
        """Set what holds until something is sent; 0 is for a look whether there is something to read."""
        self._only_looks = seconds == 0
        self._wrapped.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        """Send a command, or a part of one."""
        if not self._sent:
            self._sent = True
            self._connection.sends()
        self._wrapped.settimeout(self._connection.left(_LEAST))
        self._wrapped.sendall(data)

    def recv(self, size: int) -> bytes:
        """Read a piece of an answer; when no time is left, one that has come already."""
        if not self._only_looks:
            # Not for the pieces behind the first: an answer of many pieces would take any time.
            self._wrapped.settimeout(self._connection.left(_LEAST if self._sent else 0.0))
            self._sent = False
        return self._wrapped.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class _Bounded(AbstractConnection):
    """A connection whose waits end together: all those of connecting, and all those of one command.

    redis-py bounds each wait by itself, and each piece of an answer is one. The kernel counts a wait from
    when it begins: however late a thread gets the interpreter back, what has come in time is taken.
    """

    _end = 0.0
    _connected = False

    def sends(self) -> None:
        """Let the time of a command begin; those of connecting have what is left of it."""
        if self._connected:
            self._begin(self._socket_timeout)

    def left(self, least: float) -> float:
        """Give the seconds that are left, and no less than ``least``."""
        return max(self._end - monotonic(), least)

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Say who we are, the last step of connecting."""
        super().on_connect_check_health(check_health)
        self._connected = True

    def _connect(self) -> _Socket:
        self._connected = False
        self._begin(self._socket_connect_timeout)
        return _Socket(super()._connect(), self)  # type: ignore[no-untyped-call, safe-super]  # its gaps

    def _begin(self, seconds: float | None) -> None:
        self._end = monotonic() + (seconds or 0.0)

    @property
    def socket_timeout(self) -> float:
        """What is left; redis-py sets it on a new socket, and TLS begins with it."""
        return self.left(_LEAST)

    @socket_timeout.setter
    def socket_timeout(self, seconds: float | None) -> None:
        self._socket_timeout = seconds

    @property
    def socket_connect_timeout(self) -> float:
        """What is left; redis-py sets it for each address of a name."""
        return self.left(_LEAST)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        self._socket_connect_timeout = seconds


class _Tcp(_Bounded, Connection):
    """``redis://``."""


class _Unix(_Bounded, UnixDomainSocketConnection):
    """``unix://``."""


class _Tls(_Bounded, SSLConnection):
    """``rediss://``, with one context for all: redis-py makes one a connection, for 30 ms of a core each."""

    def context(self) -> ssl.SSLContext:
        """Give what all connections share; made anew when one of the files was."""
        files = (self.ca_certs, self.certfile, self.keyfile)
        stamps = tuple(os.stat(file).st_mtime_ns if file else 0 for file in files)
        return _tls_context(*files, self.cert_reqs, self.check_hostname, stamps)

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self.context().wrap_socket(sock, server_hostname=self.host)


@lru_cache(maxsize=1)
def _tls_context(
    authorities: str | None,
    certificate: str | None,
    key: str | None,
    requirement: ssl.VerifyMode,
    check_name: bool,
    _stamps: tuple[int, ...],
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities)
    context.check_hostname = check_name
    context.verify_mode = requirement
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


_CONNECTIONS: dict[str, Callable[..., _Bounded]] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


def connect(url: str, connections: int, timeout: float = TIMEOUT) -> Redis:
    """Make a client of ``url``; nothing is connected before its first command, so after the fork.

    ``connections`` is how many threads may use it at once; ``timeout``, in seconds, bounds connecting, and
    each command.
    """
    pool = ConnectionPool.from_url(
        url,
        connection_class=_CONNECTIONS[urlsplit(url).scheme],
        # One for each thread: nobody can want more, so there is nothing to wait for, and the pool need not
        # be a blocking one, whose wait would be added to what a request pays.
        max_connections=connections,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        # redis-py's clients ask ten times unless they are told: 3 s in the place of 60 ms.
        retry=Retry(NoBackoff(), 0),
        # A ping before the command would be a second wait on the way of the request.
        health_check_interval=0,
        client_name="main-api",
        # RESP3's HELLO, and the library's name and version, would be three more waits for each connection;
        # nothing here needs what RESP3 adds.
        protocol=2,
        driver_info=None,
    )
    if pool.connection_class is _Tls:
        # Now, rather than when the first request waits; without its files it is a Redis that is away.
        with suppress(OSError):
            _Tls(**pool.connection_kwargs).context()
    return Redis(connection_pool=pool)
