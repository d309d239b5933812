"""gunicorn's worker class, settings and hooks, the same for both services.

gthread gives a thread to whoever connects and lets its owner keep it by doing nothing. Here a thread
is given only to work that can go on, and everything that waits for a client has an end:

==========================  ======  =================================================================
first byte of a connection  poller  ``FIRST_BYTE_SECONDS``
head (line and fields)      poller  ``READ_SECONDS`` from its first byte, in total
body                        thread  ``READ_SECONDS`` without a byte, ``BODY_SECONDS`` in all
what nobody read of a body  thread  ``UNREAD_SECONDS``
answer                      thread  ``WRITE_IDLE_SECONDS`` without progress, ``WRITE_SECONDS`` in all
the next request            poller  gunicorn's ``keepalive``
the client's close          poller  ``LINGER_SECONDS`` after ours (RFC 9112, 9.6: lingering close)
==========================  ======  =================================================================

The seconds of bodies and answers are those spent waiting for the client, never those of the application.
What gunicorn itself refuses is answered by the loaded application, which finds the
:class:`chassis.errors.ServiceError` in ``environ["chassis.refusal"]``: bodies have one maker.

HTTP/1 without TLS only. No Flask here.
"""

import errno
import os
import re
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from gunicorn.http import errors as http_errors
from gunicorn.http import message, wsgi
from gunicorn.http.body import Body
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from chassis.errors import BadRequest, HeadersTooLarge, NotImplementedHere, ServiceError, UriTooLong
from chassis.json_logs import configuration, request_context
from chassis.settings import RUNTIME_DIR, ServiceSettings

REQUEST_LINE_BYTES = 8190
HEADER_FIELD_BYTES = 16380
HEADER_FIELDS = 100
HEADERS_BYTES = 32 * 1024

_RECEIVE_BYTES = 8192
_SEND_BYTES = 256 * 1024
_LINGER_BYTES = 1024 * 1024

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


class ClientGone(OSError):
    """The client does not take its answer: it left, or (a :class:`TimeoutError` as cause) is too slow."""


class InvalidHost(http_errors.ParseException):  # type: ignore[misc]  # gunicorn has no types
    """HTTP/1.1 without exactly one Host, or any request with an invalid one (RFC 9112, 3.2)."""


class Unreader(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads the socket as long as there is ``patience``, seconds of waiting left.

    Each wait ends ``idle`` seconds after the last byte was ``heard`` of. What is in the kernel's
    buffer already is always read, so a request that stood long in the queue loses nothing by it.
    Raises :class:`ReadTimeout`.
    """

    def __init__(self, sock: socket.socket, idle: float) -> None:
        super().__init__(sock, _RECEIVE_BYTES)
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


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection. It is in one watch of the poller or with one thread, never both."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, idle: float) -> None:
        super().__init__(cfg, sock, client, server)
        self.parser = Parser(cfg, sock, client, idle)
        self.watch: Watch | None = None
        self.head = bytearray()
        self.head_deadline = 0.0
        self.discarded = 0
        self.lingers = True

    def abort(self) -> None:
        """Drop what the client did not read: close() is then a reset and frees the kernel's buffers."""
        self.lingers = False
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Watch:
    """Connections that wait in the poller for the same thing and as long, so the first also expires first."""

    def __init__(
        self, seconds: float, readable: Callable[[Connection], None], expired: Callable[[Connection], None]
    ) -> None:
        self.seconds = seconds
        self.readable = readable
        self.expired = expired
        self.deadlines: dict[Connection, float] = {}

    def first(self) -> tuple[Connection, float] | None:
        """Give the connection that expires first, and when."""
        return next(iter(self.deadlines.items()), None)


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


def decidable(head: bytearray, searched: int = 0) -> bool:
    """Whether the parser can accept or refuse ``head`` as it is; its first ``searched`` bytes did not do."""
    if _END_OR_BARE_LF.search(head, max(0, searched - 3)):
        return True
    line_end = head.find(b"\r\n", 2)  # an empty line may come before it (RFC 9112, 2.2)
    if line_end < 0:
        return len(head) > REQUEST_LINE_BYTES + 4
    return len(head) - line_end > HEADERS_BYTES + 2 or not _VERSION.fullmatch(head, line_end - 9, line_end)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gthread whose threads cannot be held by clients; all times in seconds."""

    alive: bool
    FIRST_BYTE_SECONDS = 10.0
    READ_SECONDS = 5.0
    BODY_SECONDS = 30.0
    UNREAD_SECONDS = 0.05
    WRITE_IDLE_SECONDS = 10.0
    WRITE_SECONDS = 60.0
    LINGER_SECONDS = 2.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.silent = Watch(self.FIRST_BYTE_SECONDS, self._receive_head, self._release)
        self.kept = Watch(self.cfg.keepalive, self._receive_head, self._release)
        # A head that expires goes to the parser after all: a broken one gets its 400, half a one is closed.
        self.heads = Watch(self.READ_SECONDS, self._receive_head, self._submit)
        self.lingering = Watch(self.LINGER_SECONDS, self._discard, self._release)
        self.watches = (self.silent, self.kept, self.heads, self.lingering)
        self._accept_from = 0.0

    # On the main thread: it owns the poller and must never wait for anything else.

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept or not; never while the process is out of file descriptors."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_from)

    def accept(self, listener: Any) -> bool:
        """Accept one connection and wait in the poller for its first byte; whether there may be more."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
                return False
            if error.errno != errno.ECONNABORTED:
                # gthread dies of this, and all its requests with it.
                self.log.warning("cannot accept connections for a second: %s", error.strerror)
                self._accept_from = time.monotonic() + 1
                self.set_accept_enabled(False)
                return False
            return True
        self.nr_conns += 1
        conn = Connection(self.cfg, sock, client, listener.getsockname(), self.READ_SECONDS)
        self._watch(conn, self.silent)
        return True

    def _watch(self, conn: Connection, watch: Watch) -> None:
        if conn.watch is None:
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        else:
            del conn.watch.deadlines[conn]
        conn.watch = watch
        idle = watch in (self.silent, self.kept)
        seconds = watch.seconds if self.alive or not idle else min(watch.seconds, STOP_KEEPALIVE_LINGER)
        watch.deadlines[conn] = time.monotonic() + seconds

    def _unwatch(self, conn: Connection) -> None:
        if conn.watch is not None:
            self.poller.unregister(conn.sock)
            del conn.watch.deadlines[conn]
            conn.watch = None

    def _on_readable(self, conn: Connection, _sock: socket.socket) -> None:
        if conn.watch is not None:
            conn.watch.readable(conn)

    def _release(self, conn: Connection) -> None:
        """Close now and forget; the only place where a connection stops to count."""
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close()

    def _receive_head(self, conn: Connection) -> None:
        piece = self._receive(conn, _RECEIVE_BYTES)
        if piece == b"":
            self._release(conn)
        elif piece is not None:
            self._add_to_head(conn, piece)

    def _receive(self, conn: Connection, most: int) -> bytes | None:
        """Give what is there, ``None`` for nothing yet, empty for the end."""
        try:
            piece: bytes = conn.sock.recv(most)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""
        return piece

    def _add_to_head(self, conn: Connection, piece: bytes) -> None:
        now = time.monotonic()
        if not conn.head:
            conn.head_deadline = now + self.READ_SECONDS
        searched = len(conn.head)
        conn.head += piece
        conn.parser.unreader.heard = now
        if decidable(conn.head, searched):
            self._submit(conn)
        elif conn.watch is not self.heads:
            self._watch(conn, self.heads)

    def _submit(self, conn: Connection) -> None:
        self._unwatch(conn)
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head.clear()
        self.enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Take the connection back from its thread: next request, wait for one, or close."""
        try:
            if fs.result():
                ahead = conn.parser.unreader.take_buffered()
                if ahead:
                    self._add_to_head(conn, ahead)
                else:
                    self._watch(conn, self.kept)
            elif conn.lingers:
                self._linger(conn)
            else:
                self._release(conn)
        except Exception:
            self.log.exception("A connection was lost")
            self._release(conn)

    def _linger(self, conn: Connection) -> None:
        """Close our direction and wait for the client's: a reset would take the answer from it."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._release(conn)
        else:
            self._watch(conn, self.lingering)

    def _discard(self, conn: Connection) -> None:
        piece = self._receive(conn, 8 * _RECEIVE_BYTES)
        if piece is None:
            return
        conn.discarded += len(piece)
        if not piece or conn.discarded > _LINGER_BYTES:
            self._release(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, not beyond the first deadline."""
        now = time.monotonic()
        left = [found[1] - now for watch in self.watches if (found := watch.first())]
        super().wait_for_and_dispatch_events(max(0.0, min([timeout, *left])))

    def murder_pending(self) -> None:
        """End every wait in the poller that is over; ``run`` calls this in each of its rounds."""
        now = time.monotonic()
        for watch in self.watches:
            while (found := watch.first()) and found[1] <= now:
                watch.expired(found[0])

    def _cap_keepalive(self, deadline: float) -> None:
        """Begin to stop; ``run`` calls this once, when it has ceased to accept.

        Who stands in the backlog was told by the kernel that it is connected: it is served. After that
        new connections are refused at once rather than left unanswered until the process ends.
        Idle connections have until ``deadline`` to send something.
        """
        for listener in self.sockets:
            while self.accept(listener):
                pass
            listener.close()
        for watch in (self.silent, self.kept):
            watch.deadlines.update({conn: min(at, deadline) for conn, at in watch.deadlines.items()})

    # On a thread of the pool.

    def handle(self, conn: Connection) -> bool:
        """Serve one request; whether the connection can be kept."""
        request_context.set({})  # the thread's previous request left its id here
        unreader = conn.parser.unreader
        unreader.patience = conn.head_deadline - time.monotonic()
        try:
            req = next(conn.parser)
        except ReadTimeout:
            conn.lingers = False
            return False
        except (OSError, StopIteration):
            return False
        except Exception as fault:
            self.handle_error(None, conn.sock, conn.client, fault)
            return False
        unreader.patience = self.BODY_SECONDS
        if ("EXPECT", "100-continue") in ((name, value.lower()) for name, value in req.headers):
            unreader.heard = time.monotonic()  # it is silent because it waits for wsgi.create's 100
        return self._keepalive_after(conn, self.handle_request(req, conn))

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """Call the application and write its answer; whether the connection can be kept."""
        environ: dict[str, Any] = {}
        resp = None
        try:
            self.cfg.pre_request(self, req)
            conn.sock.settimeout(self.WRITE_IDLE_SECONDS)
            resp, environ = wsgi.create(
                req, conn.sock, conn.client, conn.server, self.cfg, Response, self._manner(conn.sock)
            )
            environ["wsgi.multithread"] = True
            self._count(resp)
            complete = resp.send(self.wsgi(environ, resp.start_response))
            return complete and not resp.should_close()
        except ClientGone as error:
            if isinstance(error.__cause__, TimeoutError):
                self.log.warning("The client %s did not read its answer in time", _address(conn.client))
                conn.abort()
        except (Exception, SystemExit) as fault:
            if resp is None and isinstance(fault, OSError):
                self.log.debug("The client left before its 100 Continue")
            elif resp is not None and resp.headers_sent:
                self.log.exception("An answer broke off")
            else:
                self.handle_error(req, conn.sock, conn.client, fault)
        finally:
            try:
                self.cfg.post_request(self, req, environ, resp)
            except Exception:
                self.log.exception("The post_request hook failed")
        return False

    def _manner(self, sock: socket.socket) -> tuple[Sender, Callable[[], bool]]:
        return Sender(sock, self.WRITE_IDLE_SECONDS, self.WRITE_SECONDS), lambda: not self.alive

    def _count(self, resp: Response) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.cfg.keepalive or len(self.kept.deadlines) >= self.max_keepalived:
            resp.force_close()

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Whether the rest of the body is here or comes at once: nobody waits for what nobody reads."""
        if not keepalive:
            return False
        conn.parser.unreader.patience = self.UNREAD_SECONDS
        try:
            return bool(conn.parser.finish_body(deadline=time.monotonic() + self.UNREAD_SECONDS))
        except BadRequest:
            return False

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Let the application answer ``exc``, a fault of a request that it never saw or did not answer."""
        error = refusal(exc)
        if type(error) is ServiceError:
            self.log.error("A request failed", exc_info=exc)
        else:
            self.log.info("Refused a request of %s: %s", _address(addr), type(exc).__name__)
        resp = Response(req or Refused(), client, self.cfg, *self._manner(client))
        resp.force_close()
        try:
            resp.send(self.wsgi(self._minimal_environ(client, addr, error), resp.start_response))
        except ClientGone:
            pass
        except (Exception, SystemExit):
            self.log.exception("The application cannot answer an error")

    def _minimal_environ(self, client: socket.socket, addr: Any, error: ServiceError) -> dict[str, Any]:
        """Make what PEP 3333 asks for, of a request of which nothing is known."""
        host, port = (addr[0], addr[1]) if isinstance(addr, tuple) else (addr or "", "")
        try:
            server = client.getsockname()
        except OSError:
            server = ("", 0)
        name, number = (server[0], server[1]) if isinstance(server, tuple) else (server, "")
        return {
            **wsgi.base_environ(self.cfg),
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "RAW_URI": "/",
            "SERVER_NAME": str(name),
            "SERVER_PORT": str(number),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": str(host),
            "REMOTE_PORT": str(port),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.multithread": True,
            "chassis.refusal": error,
        }


def _address(client: Any) -> str:
    return str(client[0]) if isinstance(client, tuple) else "a local socket"


def gunicorn_settings(settings: ServiceSettings, app: str) -> dict[str, object]:
    """Give gunicorn's whole configuration for the WSGI application ``app`` (``module:name``).

    ``PROMETHEUS_MULTIPROC_DIR`` must be ``settings.metrics_path`` before anything imports
    prometheus_client.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "wsgi_app": app,
        "proc_name": settings.SERVICE,
        "bind": f"{host}:{settings.port}",
        "workers": settings.web_concurrency,
        "threads": settings.gunicorn_threads,
        "worker_class": "chassis.worker.Worker",
        # Small, it loses at SIGTERM what is queued beyond it.
        "worker_connections": 1000,
        # Longer than the 60 s of a load balancer, which else sends on a connection that we just closed.
        "keepalive": 75,
        # The heartbeat of the main thread, which waits for nobody; no limit for a request.
        "timeout": 30,
        "graceful_timeout": max(1, settings.drain_seconds),
        "worker_tmp_dir": str(RUNTIME_DIR),
        "control_socket_disable": True,
        "http_protocols": "h1",
        # The C parser refuses other requests than this one, for which the tests speak.
        "http_parser": "python",
        "limit_request_line": REQUEST_LINE_BYTES,
        "limit_request_fields": HEADER_FIELDS,
        "limit_request_field_size": HEADER_FIELD_BYTES,
        "header_map": "drop",
        # By default any process on this host may set SCRIPT_NAME and PATH_INFO by a header.
        "forwarder_headers": "",
        "accesslog": None,
        "loglevel": settings.log_level,
        "logconfig_dict": configuration(
            settings.SERVICE, settings.app_env, settings.service_version, settings.log_level
        ),
        **_hooks(settings),
    }


def _hooks(settings: ServiceSettings) -> dict[str, object]:
    folder = settings.metrics_path

    def on_starting(server: Any) -> None:
        if server.master_pid:  # made by USR2: the old master's workers still use all of this
            return
        try:
            settings.drain_path.unlink(missing_ok=True)
            _empty_folder(folder)
        except OSError as error:
            # gunicorn ends with the text of a RuntimeError, and with the traceback of anything else.
            raise RuntimeError(f"{error.filename}: {error.strerror}") from error

    def post_fork(server: Any, worker: Any) -> None:
        _pid_file(folder, worker.pid).write_text(f"{worker.pid}\n")

    def child_exit(server: Any, worker: Any) -> None:
        # Not at the top: it reads PROMETHEUS_MULTIPROC_DIR when it is imported.
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

        with suppress(OSError):  # the arbiter would die of it
            mark_process_dead(worker.pid, str(folder))  # type: ignore[no-untyped-call]
            _pid_file(folder, worker.pid).unlink(missing_ok=True)

    return {"on_starting": on_starting, "post_fork": post_fork, "child_exit": child_exit}


def _pid_file(folder: Path, pid: int) -> Path:
    return folder / f"worker_{pid}.pid"


def _empty_folder(folder: Path) -> None:
    """Make ``folder`` a directory of our own without metrics in it.

    Its name in a directory that all may write to is no secret: what somebody else put there is not used.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RuntimeError(
            f"{folder} is not a directory of our own: remove it, it is for this port's metrics"
        )
    folder.chmod(0o700)
    for file in folder.iterdir():
        if file.suffix in (".db", ".pid") and file.lstat().st_uid == os.geteuid():
            file.unlink()
