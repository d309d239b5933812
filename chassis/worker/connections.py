"""Connections, and what they wait for in the poller."""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import TConn

from chassis.worker.reading import Parser


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
        self.probes = False  # its request is served in the threads for probes

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
