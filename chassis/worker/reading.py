"""What a client sends: the limits of a request, and the patience with which it is read."""

import re
import socket
import time
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http import message
from gunicorn.http.body import Body
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

from chassis.errors import BadRequest

REQUEST_LINE_BYTES = 8190
HEADER_FIELD_BYTES = 16380
HEADER_FIELDS = 100
HEADERS_BYTES = 32 * 1024

RECEIVE_BYTES = 8192

# The end of a head, or a line ended by a bare LF, which the parser refuses on sight.
_END_OR_BARE_LF = re.compile(rb"\r\n\r\n|(?<!\r)\n")
_VERSION = re.compile(rb" HTTP/1\.[0-9]")
# RFC 9110, 7.2 and RFC 3986, 3.2.2; an empty Host is legal there and of no use here.
_HOST = re.compile(
    r"(?:\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
    r"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)


class ReadTimeout(TimeoutError):
    """The client did not send the rest of its request in time."""


class InvalidHost(http_errors.ParseException):  # type: ignore[misc]  # gunicorn has no types
    """HTTP/1.1 without exactly one Host, or any request with an invalid one (RFC 9112, 3.2)."""


class Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads the socket as long as there is ``patience``, seconds of waiting left.

    Each wait ends ``idle`` seconds after the last byte was ``heard`` of. What is in the kernel's
    buffer already is always read, so a request that stood long in the queue loses nothing by it.
    Raises :class:`ReadTimeout`.
    """

    def __init__(self, sock: socket.socket, idle: float) -> None:
        super().__init__(sock, RECEIVE_BYTES)
        self.idle = idle
        self.patience = 0.0
        self.heard = 0.0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive what is there or comes in time; empty at the end of the stream."""
        began = time.monotonic()
        self.sock.settimeout(max(0.0, min(self.patience, self.heard + self.idle - began)))
        try:
            data: bytes = super().chunk(size_hint)
        except (TimeoutError, BlockingIOError) as error:
            raise ReadTimeout from error
        self.heard = time.monotonic()
        self.patience -= self.heard - began
        return data


class RequestBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """A request's body whose every failure to arrive is a :class:`BadRequest` for the application."""

    def _read_reader(self, size: int) -> bytes:
        try:
            data: bytes = super()._read_reader(size)
        except ReadTimeout as error:
            raise BadRequest("The request's body did not arrive in time") from error
        except (OSError, http_errors.ParseException) as error:
            raise BadRequest("The request's body is malformed or incomplete") from error
        return data


class Request(message.Request):  # type: ignore[misc]  # gunicorn has no types
    """A request's head: at most ``HEADERS_BYTES`` of fields, and a Host."""

    body: Any

    def parse(self, unreader: Unreader) -> bytes:
        """Read and check the head; give what was read beyond it."""
        self.max_buffer_headers = HEADERS_BYTES  # else fields x size, 1.6 MB; of trailers, too
        unused: bytes = super().parse(unreader)
        hosts = [value for name, value in self.headers if name == "HOST"]
        if not all(map(_HOST.fullmatch, hosts)) or (not hosts and self.version >= (1, 1)):
            raise InvalidHost
        return unused

    def read_into(self, unreader: Unreader, buf: bytearray, stop: bool = False) -> None:
        """Read on, unless what is there is too much already."""
        if len(buf) > HEADERS_BYTES:
            raise http_errors.LimitRequestHeaders("sum of header fields")
        super().read_into(unreader, buf, stop)

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        """Parse the fields, as sent at most ``HEADERS_BYTES`` with colons, spaces and line ends."""
        if len(data) + len(b"\r\n") > HEADERS_BYTES:
            raise http_errors.LimitRequestHeaders("sum of header fields")
        headers: list[tuple[str, str]] = super().parse_headers(data, from_trailer)
        return headers

    def set_body_reader(self) -> None:
        """Choose the reader by the framing, behind a body that raises our errors."""
        super().set_body_reader()
        self.body = RequestBody(self.body.reader)


class Parser(RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """The requests of one connection, read with patience."""

    mesg_class = Request

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, idle: float) -> None:
        super().__init__(cfg, sock, client)
        self.unreader = Unreader(sock, idle)


def decidable(head: bytearray, searched: int = 0) -> bool:
    """Whether the parser can accept or refuse ``head`` as it is; its first ``searched`` bytes did not do."""
    if _END_OR_BARE_LF.search(head, max(0, searched - 3)):
        return True
    line_end = head.find(b"\r\n", 2)  # an empty line may come before it (RFC 9112, 2.2)
    if line_end < 0:
        return len(head) > REQUEST_LINE_BYTES + 4
    return len(head) - line_end > HEADERS_BYTES + 2 or not _VERSION.fullmatch(head, line_end - 9, line_end)
