"""The worker class: the pool's threads, which serve one request at a time and wait for nobody for long."""

import socket
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from gunicorn.http import wsgi

from chassis.errors import BadRequest, ServiceError
from chassis.json_logs import request_context
from chassis.worker.connections import Connection
from chassis.worker.poller import PollingWorker
from chassis.worker.reading import ReadTimeout
from chassis.worker.writing import ClientGone, Refused, Response, Sender, refusal


class Worker(PollingWorker):
    """gthread whose threads cannot be held by clients; all times in seconds."""

    BODY_SECONDS = 30.0
    UNREAD_SECONDS = 0.05
    UNREAD_BYTES = 64 * 1024
    WRITE_IDLE_SECONDS = 10.0
    WRITE_SECONDS = 60.0

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
        """Whether the rest of the body is here or comes at once: nobody waits for what nobody reads.

        By waiting alone and not by the clock, as gunicorn would: on a busy machine a thread rests for longer
        than this between two lines, and the client has been promised that the connection stays.
        """
        if not keepalive:
            return False
        conn.parser.unreader.patience = self.UNREAD_SECONDS
        try:
            return bool(conn.parser.finish_body(max_bytes=self.UNREAD_BYTES))
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
