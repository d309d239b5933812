"""Connections to a registry that can be ended under a read that waits."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

from main_api.upstream.connections import Pool, TLSPool

_ENDPOINTS_MOST = 16


class _TellsSocket(HTTPConnectionPool):
    def _validate_conn(self, conn: Any) -> None:
        # Called for each request, before it is sent.
        if conn.is_closed:
            conn.connect()
        super()._validate_conn(conn)
        _endable.get().sends_on(conn.sock)


class _EndablePool(_TellsSocket, Pool):
    pass


class _EndableTLSPool(_TellsSocket, TLSPool):
    pass


class EndableAdapter(HTTPAdapter):
    """Knows the sockets that it sends on: ``close``, from any thread, ends what waits for an answer too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._sockets: WeakSet[socket.socket] = WeakSet()
        super().__init__(pool_connections=_ENDPOINTS_MOST, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Have urllib3 make connections of ours."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _EndablePool, "https": _EndableTLSPool}

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send as :class:`requests.adapters.HTTPAdapter` does."""
        token = _endable.set(self)
        try:
            return super().send(*args, **kwargs)
        finally:
            _endable.reset(token)

    def sends_on(self, sock: socket.socket) -> None:
        """Take note of a socket. Raises :class:`ConnectionAbortedError` once it is closed."""
        with self._lock:
            self._sockets.add(sock)
            if self._closed:
                # It was connecting while it was closed.
                raise ConnectionAbortedError("closed")

    def close(self) -> None:
        """End every connection; whatever is sent from now on fails."""
        with self._lock:
            self._closed = True
            open_now = list(self._sockets)
        for sock in open_now:
            # Shut down and not closed: that is for whoever reads from it, and of TLS only the socket.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for pool in self._pools():
            pool.close()
        super().close()

    def _pools(self) -> Iterable[HTTPConnectionPool]:
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - it cannot be iterated over
            with suppress(KeyError):
                yield pools[key]


# Set for the length of one send, in the thread that sends: urllib3 hands nothing of ours down to the socket.
_endable: ContextVar[EndableAdapter] = ContextVar("endable")
