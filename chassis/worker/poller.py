"""The worker's main thread: it owns the poller and must never wait for anything else."""

import errno
import selectors
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from chassis.worker.connections import Connection, Watch
from chassis.worker.reading import RECEIVE_BYTES, decidable

_LINGER_BYTES = 1024 * 1024


class PollingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gthread whose connections wait in the poller for everything that a client may hold back, in seconds."""

    alive: bool
    # More than ask at once: one that has been answered counts until its thread has come to its end.
    PROBE_THREADS = 4
    # How the requests begin that are served in threads of their own; set by the configuration's hook.
    probes: tuple[bytes, ...] = ()
    FIRST_BYTE_SECONDS = 10.0
    READ_SECONDS = 5.0
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
        self._probing = 0

    def init_process(self) -> None:
        """Make the threads for probes, and go on as gthread does; never returns."""
        self._probe_pool = ThreadPoolExecutor(self.PROBE_THREADS, thread_name_prefix="probe")
        super().init_process()

    def enqueue_req(self, conn: Connection) -> None:
        """Have a thread serve the request: a probe does not queue behind those that are to be refused."""
        if conn.probes and self._probing >= self.PROBE_THREADS:
            conn.probes = False
        self._probing += conn.probes
        served = (self._probe_pool if conn.probes else self.tpool).submit(self.handle, conn)
        served.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

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
        piece = self._receive(conn, RECEIVE_BYTES)
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
        conn.probes = bool(self.probes) and conn.head.startswith(self.probes)
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head.clear()
        self.enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Take the connection back from its thread: next request, wait for one, or close."""
        self._probing -= conn.probes
        conn.probes = False
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
        piece = self._receive(conn, 8 * RECEIVE_BYTES)
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
