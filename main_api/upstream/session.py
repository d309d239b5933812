"""A pooled ``requests`` session whose calls keep to a deadline.

``requests`` bounds each read and not the whole: an instance that drips a byte a second, header or
body, holds a thread for as long as it likes. Here the socket's timeout is set to what is left of
the call's deadline before every ``recv``.
"""

import http.client
import io
import socket
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from main_api.upstream.connecting import Resolver, connect

# Beyond it the connections to whoever was not asked for longest are closed; requests' own ten is too few.
INSTANCES_MOST = 1024


@dataclass(slots=True)
class _Sending:
    """One send, and how far it has come."""

    resolver: Resolver
    deadline: float
    fresh: bool
    kept: bool = False
    connecting: bool = False
    heard: bool = False


# Set for the length of one send, in the thread that sends: urllib3 hands nothing of ours down to the socket.
_sending: ContextVar[_Sending] = ContextVar("sending")


_LATE = (TimeoutError, requests.Timeout, urllib3_errors.TimeoutError)


def innermost(error: BaseException) -> BaseException:
    """Find what urllib3 met first: requests and urllib3 wrap it as an argument or as ``reason``."""
    while True:
        held = (getattr(error, "reason", None), *error.args)
        inner = next((each for each in held if isinstance(each, Exception)), None)
        if inner is None:
            return error
        error = inner


class NeverConnected(Exception):
    """Connecting failed, TLS included, so nothing of the request was sent; its argument says why."""


class KeptConnectionEnded(Exception):
    """A connection kept from an earlier call ended without a byte of an answer; so may the request have."""


class _DeadlineReader(io.RawIOBase):
    """What the answer is read from: each read waits for what is left, at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, sending: _Sending) -> None:
        self._raw = raw
        self._sock = sock
        self._sending = sending
        self.over = self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self.over:
            return 0
        left = self._sending.deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        self._sock.settimeout(left)
        count = self._raw.readinto(buffer)
        self._sending.heard = self._sending.heard or bool(count)
        self.ended = count == 0
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._sock = sock
        self._reader = _DeadlineReader(self.fp.detach(), sock, _sending.get())
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        # The library takes the end of the connection for the end of the head: fields would be missing.
        if self._reader.ended:
            raise http.client.IncompleteRead(b"")

    def _close_conn(self) -> None:
        # Bytes behind the end of an answer are nobody's: on a kept connection they would be read as the
        # beginning of the next one. Shut down, the connection is found dropped before it is used again.
        self._reader.over = True
        if not self.fp.closed and self.fp.peek(1):
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        super()._close_conn()  # type: ignore[misc]  # private, so not in the stubs


class _Connection(HTTPConnection):
    response_class = _DeadlineResponse

    def connect(self) -> None:
        sending = _sending.get()
        sending.connecting = True
        super().connect()
        sending.connecting = False

    def _new_conn(self) -> socket.socket:
        sending = _sending.get()
        # urllib3 has set the timeout of this send; it is never None here.
        timeout = float(self.timeout or 0)
        try:
            return connect(sending.resolver, self.host, self.port, timeout, self.socket_options or ())
        except ConnectionResetError as error:
            # Who resets has accepted first; a port where nobody listens refuses.
            sending.connecting = False
            raise urllib3_errors.ProtocolError("Connection aborted.", error) from error
        except OSError as error:
            # Not as it is: of some kinds urllib3 believes that they came while sending, and reads on.
            raise urllib3_errors.NewConnectionError(self, str(error)) from error


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _ChoosesConnections(HTTPConnectionPool):
    def _get_conn(self, timeout: float | None = None) -> Any:
        sending = _sending.get()
        connection = super()._get_conn(timeout)
        if sending.fresh:
            # In the kept one's place: it would be in the way when this one is put back.
            connection.close()
        sending.kept = not connection.is_closed
        return connection


class _Pool(_ChoosesConnections):
    ConnectionCls = _Connection


class _TLSPool(_ChoosesConnections, HTTPSConnectionPool):
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
        self._resolver = Resolver()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(
                scheme,
                _DeadlineAdapter(
                    pool_connections=INSTANCES_MOST, pool_maxsize=pool_size, pool_block=False, max_retries=0
                ),
            )

    def prepare(self, method: str, url: str) -> requests.PreparedRequest:
        """Do once per method and instance what costs half of a call; copy what it gives for each."""
        return self._session.prepare_request(requests.Request(method, url))

    def mount(self, prefix: str, adapter: HTTPAdapter) -> None:
        """Send what begins with ``prefix`` through another adapter (a service joined in-process, say)."""
        self._session.mount(prefix, adapter)

    def send(
        self, prepared: requests.PreparedRequest, deadline: float, *, fresh: bool = False
    ) -> requests.Response:
        """Send, and give the answer with its body unread; reading it keeps to ``deadline`` too.

        ``deadline`` is a moment of the monotonic clock, still to come; ``fresh`` forbids a kept
        connection. Raises :class:`NeverConnected`, :class:`KeptConnectionEnded`, or requests' exceptions.
        """
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        sending = _Sending(self._resolver, deadline, fresh)
        token = _sending.set(sending)
        try:
            return self._session.get_adapter(str(prepared.url)).send(
                prepared, stream=True, timeout=(min(self._connect_timeout, left), left)
            )
        except (requests.RequestException, urllib3_errors.HTTPError, OSError) as error:
            if sending.connecting:
                raise NeverConnected(error) from error
            if sending.kept and not sending.heard and not isinstance(innermost(error), _LATE):
                raise KeptConnectionEnded(error) from error
            raise
        finally:
            _sending.reset(token)
