"""A pooled ``requests`` session whose calls keep to a deadline.

``requests`` bounds each read and not the whole: an instance that drips a byte a second, header or
body, holds a thread for as long as it likes. Here the socket's timeout is set to what is left of
the call's deadline before every ``recv``.
"""

import http.client
import io
import socket
from contextvars import ContextVar
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Set for the length of one send, in the thread that sends: urllib3 hands nothing of ours down to the socket.
_deadline: ContextVar[float] = ContextVar("deadline")


class _DeadlineReader(io.RawIOBase):
    """What the answer is read from: each read waits for what is left, at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        super().close()
        self._raw.close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock, _deadline.get()))


class _Connection(HTTPConnection):
    response_class = _DeadlineResponse


class _TLSConnection(HTTPSConnection):
    response_class = _DeadlineResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _DeadlineAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}


class Session:
    """Connections to the instances of every service, shared by the threads of a process.

    Make it after the fork. Nothing of the environment is believed (proxies, ``~/.netrc``), no cookie
    is kept, no redirect followed, nothing sent twice: repeating is a policy's business.
    """

    def __init__(self, *, pool_size: int, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(
                scheme, _DeadlineAdapter(pool_maxsize=pool_size, pool_block=False, max_retries=0)
            )

    def prepare(self, method: str, url: str) -> requests.PreparedRequest:
        """Do once per method and instance what costs half of a call; copy what it gives for each."""
        return self._session.prepare_request(requests.Request(method, url))

    def mount(self, prefix: str, adapter: HTTPAdapter) -> None:
        """Send what begins with ``prefix`` through another adapter (a service joined in-process, say)."""
        self._session.mount(prefix, adapter)

    def send(self, prepared: requests.PreparedRequest, deadline: float) -> requests.Response:
        """Send, and give the answer with its body unread; reading it keeps to ``deadline`` too.

        ``deadline`` is a moment of the monotonic clock, still to come. Raises requests' exceptions.
        """
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        token = _deadline.set(deadline)
        try:
            return self._session.get_adapter(str(prepared.url)).send(
                prepared, stream=True, timeout=(min(self._connect_timeout, left), left)
            )
        finally:
            _deadline.reset(token)
