"""A fixed upstream in a process of its own: it answers what the gateway accepts of the auxiliary, and fast.

    python -m tests.faults.upstream --port 3001 --journal attempts --delay 0.05 --answer overloaded

``GET /health`` is always 200 at once and is never journaled. Anything else is written into the
journal, waits ``--delay`` seconds and gets the answer that was chosen. ``--cache-control`` gives data that
header, and a weak ``ETag`` of its target. Every answer carries the
``X-Request-ID`` that came, as the auxiliary's do.
"""

import argparse
import json
import os
import re
import signal
import socket
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

HOST = "127.0.0.1"
ANSWERS = ("data", "503", "overloaded")
VERSION = "9.9.9"
BACKLOG = 512

_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^ \t\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class Behaviour:
    """What the process does with a request: journal, delay in seconds, one of :data:`ANSWERS`.

    ``cache_control`` is what data may be kept for; without it nothing is said.
    """

    def __init__(
        self, answer: str = "data", delay: float = 0.0, journal: int | None = None, cache_control: str = ""
    ) -> None:
        if answer not in ANSWERS:
            raise ValueError(f"answer is one of {', '.join(ANSWERS)}, not {answer}")
        self._answer = answer
        self._delay = delay
        self._journal = journal
        self._cache_control = cache_control.encode()

    def __call__(self, head: bytes) -> bytes:
        """Give the whole answer to the request with this head; return when it is to be sent."""
        method, target = head.split(b" ", 2)[:2]
        found = _REQUEST_ID.search(head)
        request_id = found[1] if found else b""
        if method == b"GET" and target == b"/health":
            return _answer(b"200 OK", request_id, b'{"status":"healthy"}')
        if self._journal is not None:
            # On arrival, before the delay: who is killed while the answer waits has been asked nevertheless.
            # In one write to an O_APPEND descriptor, which neither a kill nor another process can split.
            os.write(self._journal, b"%s %s %s\n" % (request_id or b"-", method, target))
        if self._delay:
            time.sleep(self._delay)
        answer = self._chosen(request_id, method, target)
        return answer[: answer.index(b"\r\n\r\n") + 4] if method == b"HEAD" else answer

    def _chosen(self, request_id: bytes, method: bytes, target: bytes) -> bytes:
        if self._answer == "503":
            return _answer(b"503 Service Unavailable", request_id, b"busy", b"text/plain")
        facts: dict[str, object]
        more = b""
        if self._answer == "overloaded":
            facts = {"success": False, "error": "Busy", "code": "overloaded", "requestId": "x"}
            status = b"503 Service Unavailable"
        else:
            asked = {"id": request_id, "target": target, "method": method}
            facts = {"success": True, "data": {name: text.decode("latin-1") for name, text in asked.items()}}
            status = b"200 OK"
            if self._cache_control:
                more = b'Cache-Control: %s\r\nETag: W/"%x"\r\n' % (self._cache_control, zlib.crc32(target))
        facts["timestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        return _answer(status, request_id, json.dumps(facts, separators=(",", ":")).encode(), more=more)


def _answer(
    status: bytes, request_id: bytes, body: bytes, kind: bytes = b"application/json", more: bytes = b""
) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (status, kind, len(body))
    own = b"X-Service-Version: %s\r\nX-Request-ID: %s\r\n\r\n" % (VERSION.encode(), request_id)
    return head + more + own + body


def serve_connection(connection: socket.socket, behave: Behaviour) -> None:
    """Answer the requests of one connection, one after another, until either side is done with it."""
    data = b""
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while (end := data.find(b"\r\n\r\n")) < 0:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            head, data = data[: end + 2], data[end + 4 :]
            length = _LENGTH.search(head)
            body = int(length[1]) if length else 0
            while len(data) < body:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            data = data[body:]
            connection.sendall(behave(head))
            if _CLOSE.search(head):
                return


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then exit with 0 at once, whatever is under way."""
    options = arguments(argv)
    for signum in (signal.SIGINT, signal.SIGTERM):
        # Not sys.exit: nothing of a connection's thread is worth waiting for.
        signal.signal(signum, lambda *_: os._exit(0))
    journal = None
    if options.journal:
        journal = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    behave = Behaviour(options.answer, options.delay, journal, options.cache_control)
    # create_server sets SO_REUSEADDR: a restarted instance takes its port back at once.
    with socket.create_server((HOST, options.port), backlog=BACKLOG) as listener:
        print(f"listening on {HOST}:{listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve_connection, args=(connection, behave), daemon=True).start()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.upstream",
        description="A fixed upstream on 127.0.0.1 that answers as the auxiliary may.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", required=True, type=int, help="port to listen on; 0 takes any free one")
    parser.add_argument(
        "--journal", help="file that gets a line '<X-Request-ID> <method> <target>' a request"
    )
    parser.add_argument("--delay", default=0.0, type=float, help="seconds before each answer")
    parser.add_argument("--answer", default="data", choices=ANSWERS, help="what is answered")
    parser.add_argument("--cache-control", default="", help="what data says of being kept; adds an ETag too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
