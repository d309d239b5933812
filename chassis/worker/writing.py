"""What a client is sent: answers under a deadline, and what stands for a request that was refused."""

import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi

from chassis.errors import BadRequest, HeadersTooLarge, NotImplementedHere, ServiceError, UriTooLong
from chassis.worker.reading import InvalidHost

_SEND_BYTES = 256 * 1024


class ClientGone(OSError):
    """The client does not take its answer: it left, or (a :class:`TimeoutError` as cause) is too slow."""


class Sender:
    """The socket as a response sees it: every wait for the client is counted. Raises :class:`ClientGone`."""

    def __init__(self, sock: socket.socket, idle: float, total: float) -> None:
        self._sock = sock
        self._idle = idle
        self._patience = total

    def sendall(self, data: bytes) -> None:
        """Send everything; piece by piece, because Python's own ``sendall`` has one timeout for the whole."""
        left = memoryview(data)
        while left:
            began = time.monotonic()
            try:
                # Not zero, whose failure is no TimeoutError.
                self._sock.settimeout(max(0.001, min(self._idle, self._patience)))
                left = left[self._sock.send(left[:_SEND_BYTES]) :]
            except OSError as error:
                raise ClientGone from error
            self._patience -= time.monotonic() - began


class Response(wsgi.Response):  # type: ignore[misc]  # gunicorn has no types
    """An answer without ``Server``, written under a deadline of its own.

    ``last`` says, when the head is written, whether to announce that the connection ends with it.
    """

    def __init__(
        self, req: Any, sock: socket.socket, cfg: Any, sender: Sender, last: Callable[[], bool]
    ) -> None:
        super().__init__(req, sender, cfg)
        self._last = last

    def default_headers(self) -> list[str]:
        """Give status line, ``Date``, ``Connection`` and the framing."""
        if self._last():
            self.force_close()
        return [line for line in super().default_headers() if not line.startswith("Server:")]

    def should_close(self) -> bool:
        """Whether the connection ends here: where the next request begins must be known."""
        return bool(self.must_close or super().should_close() or self.req.body.failed)

    def send(self, body: Iterable[bytes]) -> bool:
        """Write the whole answer and close ``body``, once, whatever happens; whether it was complete."""
        try:
            for piece in body:
                self.write(piece)
            self.close()
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return self._omits_body or self.response_length in (None, self.sent)


class Refused:
    """What :class:`Response` asks of a request, for one that could not be read."""

    method = "GET"
    version = (1, 1)


_REFUSALS: tuple[tuple[Any, Callable[[], ServiceError]], ...] = (
    # These two are kinds of an invalid header to gunicorn, but it is the application's.
    ((http_errors.InvalidResponseHeader, http_errors.InvalidResponseHeaderName), ServiceError),
    (http_errors.ConfigurationProblem, ServiceError),
    (http_errors.LimitRequestLine, UriTooLong),
    (http_errors.LimitRequestHeaders, HeadersTooLarge),
    (http_errors.UnsupportedTransferCoding, NotImplementedHere),
    (InvalidHost, partial(BadRequest, "A request needs exactly one valid Host header field")),
    (http_errors.InvalidHTTPVersion, partial(BadRequest, "HTTP version not supported")),
    (http_errors.ExpectationFailed, partial(BadRequest, "Expectation not supported")),
    (
        (http_errors.InvalidHeader, http_errors.InvalidHeaderName, http_errors.ObsoleteFolding),
        partial(BadRequest, "Malformed header field"),
    ),
    (
        (http_errors.InvalidRequestLine, http_errors.InvalidRequestMethod),
        partial(BadRequest, "Malformed request line"),
    ),
    (http_errors.ParseException, BadRequest),
)


def refusal(fault: BaseException) -> ServiceError:
    """Translate what gunicorn or the application raised; never with the client's bytes."""
    if isinstance(fault, ServiceError):
        return fault
    return next((make() for kinds, make in _REFUSALS if isinstance(fault, kinds)), ServiceError())
