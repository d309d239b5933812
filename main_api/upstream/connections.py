"""Connections that keep to a deadline, read strictly, and know whether they were kept.

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
from time import monotonic
from typing import Any

from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from main_api.upstream.connecting import Resolver, connect


@dataclass(slots=True)
class Sending:
    """One send, and how far it has come."""

    resolver: Resolver
    deadline: float
    fresh: bool
    kept: bool = False
    connecting: bool = False
    heard: bool = False


# Set for the length of one send, in the thread that sends: urllib3 hands nothing of ours down to the socket.
current: ContextVar[Sending] = ContextVar("sending")


class _DeadlineReader(io.RawIOBase):
    """What the answer is read from: each read waits for what is left, at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, sending: Sending) -> None:
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
        self._reader = _DeadlineReader(self.fp.detach(), sock, current.get())
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
        sending = current.get()
        sending.connecting = True
        super().connect()
        sending.connecting = False

    def _new_conn(self) -> socket.socket:
        sending = current.get()
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
        sending = current.get()
        connection = super()._get_conn(timeout)
        if sending.fresh:
            # In the kept one's place: it would be in the way when this one is put back.
            connection.close()
        sending.kept = not connection.is_closed
        return connection


class Pool(_ChoosesConnections):
    """The connections to one instance."""

    ConnectionCls = _Connection


class TLSPool(_ChoosesConnections, HTTPSConnectionPool):
    """The connections to one instance over TLS."""

    ConnectionCls = _TLSConnection
