"""An auxiliary service that misbehaves: a bare socket on the loopback that does what a test tells it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.end_to_end.processes import Server, servers

Behaviour = Callable[[socket.socket, threading.Event], None]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Service-Version: 9.9.9\r\n"


def read_head(client: socket.socket) -> bytes:
    """Read a request to the end of its head; empty when the peer left."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return b""
        data += piece
    return data


def answering(answer: bytes) -> Behaviour:
    """Answer every request of a connection with the same bytes."""

    def behave(client: socket.socket, _: threading.Event) -> None:
        while read_head(client):
            client.sendall(answer)

    return behave


def then_closing(answer: bytes) -> Behaviour:
    """Send the bytes and close."""

    def behave(client: socket.socket, _: threading.Event) -> None:
        read_head(client)
        client.sendall(answer)

    return behave


def hanging(_client: socket.socket, over: threading.Event) -> None:
    """Take the request and never answer."""
    over.wait(60)


def dripping(data: bytes, before: bytes = b"") -> Behaviour:
    """Send ``before`` at once and ``data`` a byte every tenth of a second."""

    def behave(client: socket.socket, over: threading.Event) -> None:
        read_head(client)
        client.sendall(before)
        for byte in data:
            if over.wait(0.1):
                return
            client.sendall(bytes([byte]))

    return behave


def body(content: bytes, head: bytes = HEAD) -> bytes:
    """Write an answer with its length."""
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


@contextmanager
def stand_in(behave: Behaviour, port: int = 0) -> Iterator[int]:
    """Serve ``behave`` to every connection, each in a thread of its own, on ``port`` or any free one."""
    over = threading.Event()
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            behave(client, over)

    def accept(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            clients.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        acceptor = threading.Thread(target=accept, args=(listener,), daemon=True)
        acceptor.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            over.set()
            # Wakes the accept, which closing alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(5)
            for client in clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


@contextmanager
def gateway_before(behave: Behaviour, **settings: str) -> Iterator[Server]:
    """Run a gateway whose auxiliary is a stand-in, which no health check disturbs."""
    with (
        stand_in(behave) as port,
        servers(
            "gateway", ports={"auxiliary": port}, **{"HEALTH_CHECK_INTERVAL": "0", **settings}
        ) as running,
    ):
        yield running["gateway"]
