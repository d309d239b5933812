"""The fault proxy: it stands before one upstream and spoils requests, each in a way that is known exactly.

A :class:`Fault` is a kind and the phase in which it strikes. These are all that there are:

============ ======= ====================================================================================
kind         phase   what the client meets
============ ======= ====================================================================================
none         connect the upstream's answer
refuse       connect ECONNREFUSED: nobody listens, and the connections there were have been reset
reset        connect a reset; nothing of the request was read
hang         connect silence; what it sends is thrown away and never reaches the upstream
reset        headers a reset before the answer's first byte
hang         headers silence; the upstream has answered
drip         headers the whole answer, a byte each 100 ms from its first byte
half_headers headers half of the answer's head, then the end of the connection (FIN)
reset        body    the head and half of the body, then a reset
hang         body    the head and half of the body, then silence
drip         body    the head at once, the body a byte each 100 ms
half_body    body    the head and half of the body, then the end of the connection (FIN)
extra_bytes  body    the whole answer and :data:`FOREIGN`, in one segment or ``after`` seconds later
============ ======= ====================================================================================

``connect`` strikes before anything is read: on a new connection when it is accepted, on a kept one when
the next request's first byte is there. In ``headers`` and ``body`` the request is read whole and the
upstream has done its work; only the answer suffers. Silence lasts until the client leaves or the
connection is reset. An upstream that is not there or breaks off is a reset for the client.

Each request of a kept connection meets its own fault. ``refuse`` is a state of the port and not of a
request: when a callable draws it, the connection it was drawn for is reset and nobody listens for
:data:`REFUSED` seconds.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from tests.end_to_end.processes import HOST, free_port
from tests.faults.load import Message, message

DRIP = 0.1
REFUSED = 0.2
FOREIGN_BODY = (
    b'{"success":true,"data":{"id":"foreign","target":"/foreign","method":"GET"},'
    b'"timestamp":"2000-01-01T00:00:00.000Z"}'
)
# A second answer that nobody asked for: whoever takes it for the next request's has mixed two up.
FOREIGN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"X-Service-Version: 9.9.9\r\nX-Request-ID: foreign\r\n\r\n%s"
) % (len(FOREIGN_BODY), FOREIGN_BODY)

_AT_ONCE = 1 << 18


class Plan(NamedTuple):
    """How much of the answer is sent as usual, and what follows."""

    sent: str
    then: str


PLANS = {
    ("none", "connect"): Plan("all", "keep"),
    ("refuse", "connect"): Plan("nothing", "refuse"),
    ("reset", "connect"): Plan("nothing", "reset"),
    ("hang", "connect"): Plan("nothing", "hang"),
    ("reset", "headers"): Plan("nothing", "reset"),
    ("hang", "headers"): Plan("nothing", "hang"),
    ("drip", "headers"): Plan("nothing", "drip"),
    ("half_headers", "headers"): Plan("half head", "fin"),
    ("reset", "body"): Plan("half body", "reset"),
    ("hang", "body"): Plan("half body", "hang"),
    ("drip", "body"): Plan("head", "drip"),
    ("half_body", "body"): Plan("half body", "fin"),
    ("extra_bytes", "body"): Plan("all", "extra"),
}


@dataclass(frozen=True)
class Fault:
    """One row of the table; ValueError for what is none. ``after`` (seconds) is for extra_bytes alone."""

    kind: str = "none"
    phase: str = "connect"
    after: float = 0.0

    def __post_init__(self) -> None:
        if (self.kind, self.phase) not in PLANS:
            raise ValueError(f"there is no fault {self.kind} in phase {self.phase}")

    @property
    def unread(self) -> bool:
        """Whether it strikes before anything is read."""
        return self.phase == "connect" and self.kind != "none"

    @property
    def plan(self) -> Plan:
        """What is done."""
        return PLANS[self.kind, self.phase]


NONE = Fault()
Faults = Fault | Callable[[], Fault]


class FaultProxy:
    """A port of the loopback that forwards to ``upstream`` (a port) and injects ``fault``.

    A context manager. All connections are served by one thread, which ends with the block, and so do
    they. What goes wrong in the proxy itself is raised at the end of the block.
    """

    def __init__(self, upstream: int, fault: Faults = NONE, port: int | None = None) -> None:
        self.port = port or free_port()
        # By method: complete requests that were read, and those of them that the upstream was sent.
        self.requests: Counter[str] = Counter()
        self.forwarded: Counter[str] = Counter()
        # How often each fault has struck.
        self.injected: Counter[Fault] = Counter()
        self._upstream = upstream
        self._fault = fault
        self._listener: socket.socket | None = None
        self._live: dict[asyncio.Task[None], socket.socket] = {}
        self._reopening: asyncio.TimerHandle | None = None
        self._failures: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    @property
    def fault(self) -> Faults:
        """The fault of every request, or what draws one for each; it holds from when the setting returns.

        A new setting counts for kept connections too, from their next request on.
        """
        return self._fault

    @fault.setter
    def fault(self, fault: Faults) -> None:
        self._fault = fault
        self._do(self._apply())

    @property
    def connections(self) -> int:
        """How many connections are live."""
        return len(self._live)

    def reset_kept(self) -> None:
        """Reset every live connection, whatever is under way on it; return when it is done."""
        self._do(self._reset_live())

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._do(self._apply())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._end()
        if self._failures:
            raise self._failures[0]

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _apply(self) -> None:
        if isinstance(self._fault, Fault) and self._fault.kind == "refuse":
            self._shut()
            await self._reset_live()
        else:
            self._open()

    async def _close(self) -> None:
        self._shut()
        await self._reset_live()

    def _open(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=512)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _shut(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _reset_live(self) -> None:
        tasks = dict(self._live)
        for task, client in tasks.items():
            _reset_at_close(client)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # It left again.
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._serve(client))
        self._live[task] = client
        # Not in the task, which does not even begin when it is cancelled early.
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        client = self._live.pop(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            _reset_at_close(client)
        elif error is not None:
            self._failures.append(error)
        client.close()

    async def _serve(self, client: socket.socket) -> None:
        leg = _Leg(self._upstream, self._loop)
        data, keep, fresh = b"", True, True
        try:
            while keep:
                fault = await self._next_fault(client, fresh, pending=bool(data))
                if fault is None:
                    return
                fresh = False
                if fault.unread:
                    keep = await self._spoil(client, b"", b"", fault)
                    continue
                while (request := message(data)) is None:
                    piece = await self._loop.sock_recv(client, _AT_ONCE)
                    if not piece:
                        return
                    data += piece
                method = request.head.split(b" ", 1)[0].decode("latin-1")
                self.requests[method] += 1
                await leg.send(data[: request.end])
                self.forwarded[method] += 1
                answer, head, body = await leg.answer(method)
                data = data[request.end :]
                keep = await self._spoil(client, head, body, fault)
                keep = keep and not (request.last or answer.last)
        finally:
            leg.close()

    async def _next_fault(self, client: socket.socket, fresh: bool, *, pending: bool) -> Fault | None:
        """Draw the next request's fault, at the moment that the module's text says; None: the client left."""
        setting, fault = self._fault, self._draw() if fresh else NONE
        if fault.unread:
            return fault
        if not pending and not await _arrived(client, self._loop):
            return None
        return fault if fresh and setting is self._fault else self._draw()

    def _draw(self) -> Fault:
        return self._fault if isinstance(self._fault, Fault) else self._fault()

    async def _spoil(self, client: socket.socket, head: bytes, body: bytes, fault: Fault) -> bool:
        """Send what ``fault`` leaves of an answer; say whether the connection goes on."""
        sent, then = fault.plan
        if fault != NONE:
            self.injected[fault] += 1
        whole = head + body
        cuts = {
            "nothing": 0,
            "half head": len(head) // 2,
            "head": len(head),
            "half body": len(head) + len(body) // 2,
            "all": len(whole),
        }
        now, rest = whole[: cuts[sent]], whole[cuts[sent] :]
        at_once = then == "extra" and not fault.after
        await self._loop.sock_sendall(client, now + FOREIGN if at_once else now)
        if then == "drip":
            for byte in rest:
                await asyncio.sleep(DRIP)
                await self._loop.sock_sendall(client, bytes([byte]))
        elif then == "extra" and not at_once:
            await asyncio.sleep(fault.after)
            await self._loop.sock_sendall(client, FOREIGN)
        elif then == "hang":
            while await self._loop.sock_recv(client, _AT_ONCE):
                pass
        elif then in ("reset", "refuse"):
            if then == "refuse":
                self._shut()
                self._reopening = self._loop.call_later(REFUSED, self._open)
            _reset_at_close(client)
        return then in ("keep", "drip", "extra")


class _Leg:
    """The proxy's own connection to the upstream for one client connection, made anew when it has ended."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._loop = loop
        self._socket: socket.socket | None = None

    async def send(self, request: bytes) -> None:
        """Send a request; OSError when the upstream does not take it."""
        if self._socket is not None:
            try:
                self._socket.recv(1, socket.MSG_PEEK)
                self.close()
            except BlockingIOError:
                pass
            except OSError:
                self.close()
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(self._socket, (HOST, self._port))
        await self._loop.sock_sendall(self._socket, request)

    async def answer(self, method: str) -> tuple[Message, bytes, bytes]:
        """Read the answer whole: what it says, and its head and body as they came."""
        assert self._socket is not None
        data, over = b"", False
        while (found := message(data, over=over, bodiless=method == "HEAD")) is None:
            if over:
                raise ConnectionError("the upstream broke off")
            piece = await self._loop.sock_recv(self._socket, _AT_ONCE)
            data, over = data + piece, not piece
        if over or found.last:
            self.close()
        return found, found.head, data[len(found.head) : found.end]

    def close(self) -> None:
        """Let go of the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _arrived(client: socket.socket, loop: asyncio.AbstractEventLoop) -> bool:
    """Wait until there is something to read, and leave it unread; false when the client has left."""
    while True:
        try:
            return bool(client.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(client, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(client)


def _reset_at_close(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
