"""A load generator on bare sockets: one thread, bounded in count and in time, and strict about answers.

    python -m tests.faults.load --port 3000 --target /api/health --connections 8 --count 2000

``closed`` keeps a number of requests under way, ``open_loop`` sends at a rate whatever comes back.
Nothing is ever asked twice. Both call ``each`` some twenty times a second with the seconds since the
start, and stop sending soon after ``until`` is true; both run in the loop, so that what they take is
missing from the load.
"""

import argparse
import errno
import itertools
import json
import math
import selectors
import socket
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

HOST = "127.0.0.1"
# Seconds that requests under way are waited for when nothing is sent any more.
PATIENCE = 15.0
_TICK = 0.05
_AT_ONCE = 1 << 18

Targets = str | Iterator[str] | Callable[[int], str]
Check = Callable[[str, str, bytes], bool]


class Message(NamedTuple):
    """One complete HTTP message: its head with the empty line, its body unchunked, its length in bytes."""

    head: bytes
    body: bytes
    end: int

    @property
    def status(self) -> int:
        """The status of an answer; ValueError when it has none."""
        return int(self.head[9:12])

    @property
    def last(self) -> bool:
        """Whether its sender will close the connection."""
        return self.head.startswith(b"HTTP/1.0") or _field(self.head, b"connection").lower() == b"close"

    def field(self, name: str) -> str:
        """Give the value of a header, or an empty text."""
        return _field(self.head, name.lower().encode()).decode("latin-1")


def _field(head: bytes, name: bytes) -> bytes:
    begin = head.lower().find(b"\r\n" + name + b":")
    if begin < 0:
        return b""
    begin += len(name) + 3
    return head[begin : head.index(b"\r\n", begin)].strip()


def message(data: bytes, *, over: bool = False, bodiless: bool = False) -> Message | None:
    """Find the request or answer that ``data`` begins with; None while it is not complete.

    ``over`` says that no more will come, ``bodiless`` that this answers a HEAD. ValueError when the
    bytes are no HTTP.
    """
    start = data.find(b"\r\n\r\n") + 4
    if start < 4:
        return None
    head = data[:start]
    answer = head.startswith(b"HTTP/1.")
    if bodiless or (answer and head[9:12] in (b"204", b"304")):
        return Message(head, b"", start)
    length = _field(head, b"content-length")
    if length:
        if not length.isdigit():
            raise ValueError(f"Content-Length {length!r:.80}")
        end = start + int(length)
        return Message(head, data[start:end], end) if len(data) >= end else None
    if b"chunked" in _field(head, b"transfer-encoding").lower():
        return _chunked(head, data)
    if not answer:
        return Message(head, b"", start)
    return Message(head, data[start:], len(data)) if over else None


def _chunked(head: bytes, data: bytes) -> Message | None:
    at, body = len(head), b""
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].partition(b";")[0], 16)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return Message(head, body, at)
        body += data[line + 2 : at - 2]
    return None


@dataclass
class Result:
    """What a run has seen. Times are in seconds; a latency of an open loop counts from when it was due."""

    statuses: Counter[int] = field(default_factory=Counter)
    # The `code` of every JSON error body.
    codes: Counter[str] = field(default_factory=Counter)
    latencies: defaultdict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    # A sentence for each answer that is not the request's own, fails the check or has bytes behind it.
    wrong: list[str] = field(default_factory=list)
    # Why requests got no complete answer; each of them counts as done.
    broken: Counter[str] = field(default_factory=Counter)
    # Requests of an open loop that found no connection free.
    unsent: int = 0
    # Connections made, and those of them that were made for one which the server had closed between answers.
    opened: int = 0
    replaced: int = 0
    seconds: float = 0.0
    # CPU time of the calling thread, `each` and `until` included.
    cpu: float = 0.0
    # How many 200s came in each second of the run; the last one is not a whole second.
    timeline: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many requests were sent, or would have been had they got a connection."""
        return self.statuses.total() + self.broken.total()

    def rate(self) -> float:
        """Answers a second, of any status."""
        return self.statuses.total() / self.seconds if self.seconds else 0.0

    def median(self, status: int = 200) -> float:
        """Half of the answers of this status came within it; StatisticsError when there are none."""
        return statistics.median(self.latencies.get(status, []))

    def percentile(self, status: int, percent: float) -> float:
        """So many of a hundred answers of this status came within it; StatisticsError when there are none."""
        ordered = sorted(self.latencies.get(status, []))
        if not ordered:
            raise statistics.StatisticsError(f"no answer of status {status}")
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    def table(self) -> str:
        """Write a few lines for people."""
        lines = [
            f"{self.done} requests in {self.seconds:.2f} s, {self.rate():.0f} answers a second, "
            f"{self.cpu / max(1, self.done) * 1e6:.0f} us of CPU here for each"
        ]
        for status, count in sorted(self.statuses.items()):
            shown = (self.median(status), self.percentile(status, 99), self.percentile(status, 100))
            times = "  ".join(f"{seconds * 1000:8.2f}" for seconds in shown)
            lines.append(f"{status}  {count:8}  ms: median, 99 %, most  {times}")
        lines += [f"{code}  {count}" for code, count in self.codes.most_common()]
        lines += [f"broken: {reason}  {count}" for reason, count in self.broken.most_common()]
        lines += [f"wrong: {len(self.wrong)}, the first: {self.wrong[0]}"] if self.wrong else []
        lines += [f"unsent: {self.unsent}"] if self.unsent else []
        return "\n".join(lines)


class _Connection:
    """A connection and, while ``begun`` is set, the request that is under way on it."""

    __slots__ = ("begun", "connected", "data", "request_id", "socket", "target", "to_send")

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connected = False
        self.begun: float | None = None
        self.data = self.to_send = b""
        self.request_id = self.target = ""


class _Run:
    """The connections and the books of one run; both loops are made of ``ask`` and ``turn``."""

    def __init__(
        self, port: int, targets: Targets, prefix: str, check: Check | None, headers: Mapping[str, str]
    ) -> None:
        self.result = Result()
        self.begun = time.monotonic()
        self.sent = 0
        self.over = False
        # Until when a closed loop holds back, because nobody listens.
        self.pause = 0.0
        self.under_way: set[_Connection] = set()
        self._free: deque[_Connection] = deque()
        self._address = (HOST, port)
        if isinstance(targets, str):
            targets = itertools.repeat(targets)
        self._targets = map(targets, itertools.count()) if callable(targets) else targets
        self._prefix = prefix
        self._check = check
        fields = {"Host": f"{HOST}:{port}", **headers}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._selector = selectors.DefaultSelector()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self.under_way) + len(self._free)

    def kept(self) -> _Connection | None:
        """Take the kept connection that has been free for longest, silently dropping those closed since."""
        while self._free:
            connection = self._free.popleft()
            try:
                connection.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return connection
            except OSError:
                pass
            self._drop_idle(connection)
        return None

    def ask(self, due: float, connection: _Connection | None = None) -> None:
        """Send the next request, on a new connection unless one is given; no target left is the end."""
        target = next(self._targets, None)
        if target is None:
            self.over = True
            if connection is not None:
                self._free.append(connection)
            return
        connection = connection or _Connection()
        connection.begun, connection.data, connection.target = due, b"", target
        connection.request_id = f"{self._prefix}-{self.sent}"
        self.sent += 1
        connection.to_send = (
            f"GET {target} HTTP/1.1\r\nX-Request-ID: {connection.request_id}\r\n{self._fields}\r\n"
        ).encode("latin-1")
        self.under_way.add(connection)
        if connection.connected:
            self._send(connection)
        else:
            self._connect(connection)

    def _connect(self, connection: _Connection) -> None:
        self.result.opened += 1
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        error = connection.socket.connect_ex(self._address)
        if error not in (0, errno.EINPROGRESS):
            self._not_connected(connection, error)

    def turn(self, timeout: float) -> None:
        """Wait for the sockets, ``timeout`` seconds at most, and deal with what has come."""
        for key, _ in self._selector.select(timeout):
            connection: _Connection = key.data
            if not connection.connected:
                self._connected(connection)
            elif connection.begun is None:
                self._free.remove(connection)
                self._drop_idle(connection)
            else:
                self._read(connection)

    def _connected(self, connection: _Connection) -> None:
        error = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._not_connected(connection, error)
            return
        connection.connected = True
        self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
        self._send(connection)

    def _not_connected(self, connection: _Connection, error: int) -> None:
        self.pause = time.monotonic() + _TICK
        self._break(connection, f"not connected: {errno.errorcode[error]}")

    def _send(self, connection: _Connection) -> None:
        try:
            # A request is smaller than any send buffer, and on its connection nothing else is under way.
            sent = connection.socket.send(connection.to_send)
        except OSError as error:
            self._break(connection, f"not sent: {_name(error)}")
            return
        if sent < len(connection.to_send):
            self._break(connection, "not sent whole")

    def _read(self, connection: _Connection) -> None:
        try:
            piece = connection.socket.recv(_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            where = "within" if connection.data else "before"
            self._break(connection, f"{_name(error)} {where} the answer")
            return
        connection.data = data = connection.data + piece if connection.data else piece
        try:
            answer = message(data, over=not piece)
            if answer is not None:
                self._answered(connection, answer, over=not piece)
                return
        except ValueError:
            self._break(connection, "not HTTP")
            return
        if not piece:
            self._break(connection, f"closed {'within' if data else 'before'} the answer")

    def _answered(self, connection: _Connection, answer: Message, *, over: bool) -> None:
        now, status, result = time.monotonic(), answer.status, self.result
        assert connection.begun is not None
        result.statuses[status] += 1
        result.latencies[status].append(now - connection.begun)
        if status == 200:
            second = int(now - self.begun)
            result.timeline.extend([0] * (second + 1 - len(result.timeline)))
            result.timeline[second] += 1
        elif status >= 400:
            result.codes.update(_code(answer.body))
        surplus = len(connection.data) - answer.end
        fault = self._fault(connection, answer, surplus)
        if fault:
            result.wrong.append(f"{connection.request_id} {connection.target}: {fault}")
        connection.begun = None
        self.under_way.discard(connection)
        if over or surplus or answer.last:
            self._close(connection)
        else:
            self._free.append(connection)

    def _fault(self, connection: _Connection, answer: Message, surplus: int) -> str:
        shown = answer.field("X-Request-ID")
        if shown != connection.request_id:
            return f"answered with the id {shown!r:.80}"
        if surplus:
            return f"{surplus} bytes behind the answer"
        if answer.status != 200 or self._check is None:
            return ""
        if self._check(connection.request_id, connection.target, answer.body):
            return ""
        return f"answered with {answer.body!r:.300}"

    def _drop_idle(self, connection: _Connection) -> None:
        try:
            unasked = connection.socket.recv(_AT_ONCE)
        except OSError:
            unasked = b""
        if unasked:
            last = f"{connection.request_id} {connection.target}"
            self.result.wrong.append(f"{last}: {len(unasked)} bytes some time after the answer")
        else:
            self.result.replaced += 1
        self._close(connection)

    def _break(self, connection: _Connection, reason: str) -> None:
        self.result.broken[reason] += 1
        connection.begun = None
        self.under_way.discard(connection)
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def close(self) -> None:
        """Give up what is under way, which counts as broken, and close everything."""
        for connection in list(self.under_way):
            self._break(connection, f"no answer within {PATIENCE:.0f} s after the last request")
        while self._free:
            self._close(self._free.pop())
        self._selector.close()


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _code(body: bytes) -> list[str]:
    try:
        facts = json.loads(body)
    except ValueError:
        return []
    return [facts["code"]] if isinstance(facts, dict) and isinstance(facts.get("code"), str) else []


def closed(
    port: int,
    targets: Targets,
    connections: int,
    count: int,
    seconds: float,
    *,
    prefix: str = "load",
    check: Check | None = None,
    headers: Mapping[str, str] | None = None,
    until: Callable[[], bool] | None = None,
    each: Callable[[float], None] | None = None,
) -> Result:
    """Keep ``connections`` requests under way until ``count`` were sent or ``seconds`` have passed.

    Then wait for those under way, :data:`PATIENCE` at most. While nobody listens it asks less often, or
    the requests would all be spent on that. A target is a text, the next of an
    iterator, whose end is the end, or made of the request's number, which is also in its id.
    """
    run = _Run(port, targets, prefix, check, headers or {})

    def feed(now: float) -> float:
        if now < run.pause:
            return run.pause
        for _ in range(min(connections - len(run.under_way), count - run.sent)):
            run.ask(time.monotonic(), run.kept())
        run.over = run.over or run.sent >= count
        return now + _TICK

    return _drive(run, seconds, feed, until, each)


def open_loop(
    port: int,
    target: Targets,
    rate: float,
    seconds: float,
    connections_most: int,
    *,
    prefix: str = "load",
    check: Check | None = None,
    headers: Mapping[str, str] | None = None,
    until: Callable[[], bool] | None = None,
    each: Callable[[float], None] | None = None,
) -> Result:
    """Send ``rate`` requests a second for ``seconds``, whatever becomes of them; else as :func:`closed`.

    A request takes a free connection or makes one; when ``connections_most`` are busy it is unsent.
    """
    run = _Run(port, target, prefix, check, headers or {})
    numbers = itertools.count(1)
    due = run.begun

    def feed(now: float) -> float:
        nonlocal due
        while due <= now and due < run.begun + seconds and not run.over:
            connection = run.kept()
            if connection is not None or run.connections < connections_most:
                run.ask(due, connection)
            else:
                run.result.unsent += 1
            due = run.begun + next(numbers) / rate
        return due

    return _drive(run, seconds, feed, until, each)


def _drive(
    run: _Run,
    seconds: float,
    feed: Callable[[float], float],
    until: Callable[[], bool] | None,
    each: Callable[[float], None] | None,
) -> Result:
    """Turn until all is done; ``feed`` sends what is due at a moment and names the next one."""
    cpu, now = time.thread_time(), run.begun
    tick, end = run.begun, run.begun + seconds
    give_up = end + PATIENCE
    try:
        while not (run.over and not run.under_way) and now < give_up:
            sending = not run.over
            if now >= tick:
                tick = now + _TICK
                if each is not None:
                    each(now - run.begun)
                run.over = run.over or (until is not None and until())
            wake = tick
            if not run.over:
                # Before the look at the clock: what was due before the end is sent.
                wake = min(tick, feed(now))
                if now >= end:
                    run.over = True
            if sending and run.over:
                give_up = now + PATIENCE
            run.turn(max(0.0, wake - time.monotonic()))
            now = time.monotonic()
    finally:
        run.close()
    result = run.result
    result.seconds, result.cpu = now - run.begun, time.thread_time() - cpu
    result.timeline.extend([0] * (int(result.seconds) + 1 - len(result.timeline)))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run one load and print its table."""
    options = arguments(argv)
    target = partial(_numbered, options.target) if "{}" in options.target else options.target
    if options.rate:
        result = open_loop(options.port, target, options.rate, options.seconds, options.connections)
    else:
        result = closed(options.port, target, options.connections, options.count, options.seconds)
    print(result.table())


def _numbered(target: str, number: int) -> str:
    return target.replace("{}", str(number))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.load",
        description="Load a port of 127.0.0.1 and print what came back.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", required=True, type=int, help="port to ask")
    parser.add_argument("--target", default="/api/health", help="path and query to ask for; {} is its number")
    parser.add_argument("--connections", default=8, type=int, help="connections, with --rate at most")
    parser.add_argument("--count", default=2000, type=int, help="requests; not with --rate")
    parser.add_argument("--seconds", default=60.0, type=float, help="stop sending after so long")
    parser.add_argument("--rate", type=float, help="send so many requests a second whatever comes back")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
