"""Connecting within a time: the name's lookup and all addresses behind it together.

The system's resolver cannot be told a time: while a name server is silent it blocks for many seconds.
And urllib3 gives each address of a name its timeout anew.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

# As getaddrinfo gives them: family, kind, protocol, canonical name, address.
Found = tuple[Any, Any, int, str, Any]
_LEAST_SECONDS = 0.05

LookUp = Callable[..., list[Found]]


class _Lookup:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: list[Found] = []
        self.error: Exception | None = None


class Resolver:
    """Looks names up in threads of their own, one per name however many ask; no wait is longer than told."""

    def __init__(self, look_up: LookUp = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], _Lookup] = {}

    def __call__(self, host: str, port: int, seconds: float) -> list[Found]:
        """Give the addresses of ``host``. Raises :class:`OSError`, a :class:`TimeoutError` if it is late."""
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            pass  # a name, then, or nothing that could be one
        lookup = self._ask(host, port)
        if not lookup.done.wait(seconds):
            raise TimeoutError(f"the name {host} was not found in time")
        if lookup.error is not None:
            raise OSError(f"the name {host} was not found") from lookup.error
        return lookup.found

    def _ask(self, host: str, port: int) -> _Lookup:
        with self._lock:
            lookup = self._under_way.get((host, port))
            if lookup is None:
                lookup = self._under_way[host, port] = _Lookup()
                threading.Thread(
                    target=self._run, args=(lookup, host, port), name="look-up", daemon=True
                ).start()
        return lookup

    def _run(self, lookup: _Lookup, host: str, port: int) -> None:
        try:
            lookup.found = self._look_up(host, port, type=socket.SOCK_STREAM)
        except Exception as error:
            lookup.error = error
        with self._lock:
            del self._under_way[host, port]
        lookup.done.set()


def connect(
    resolver: Resolver,
    host: str,
    port: int,
    seconds: float,
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> socket.socket:
    """Connect to the first address of ``host`` that takes it, ``seconds`` for all together.

    Raises :class:`OSError`: the last address's, or :class:`TimeoutError`.
    """
    deadline = monotonic() + seconds
    error: OSError | None = None
    for family, kind, protocol, _, address in resolver(host, port, seconds):
        left = deadline - monotonic()
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(left)
            sock.connect(address)
            # For TLS's handshake; a moment is left though connecting took it all.
            sock.settimeout(max(deadline - monotonic(), _LEAST_SECONDS))
        except OSError as failed:
            error = failed
            sock.close()
        else:
            return sock
    raise error or TimeoutError(f"no connection to {host} in time")
