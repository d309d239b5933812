"""What travels through the pipeline: a call down, a reply up. No Flask, no requests, no I/O here."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """One address of a service: ``url`` is scheme, host and port, without a trailing slash.

    ``weight`` is its share of the calls, as far as the algorithm looks at it; an instance stays the
    same when its weight changes.
    """

    service: str
    url: str
    weight: int = field(default=1, compare=False)


_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class Window:
    """So many requests in so many seconds."""

    amount: int
    seconds: int

    def __str__(self) -> str:
        length, unit = next((size, name) for size, name in _UNITS if self.seconds % size == 0)
        count = self.seconds // length
        return f"{self.amount} per {unit}" if count == 1 else f"{self.amount} per {count} {unit}s"


@dataclass(frozen=True, slots=True)
class Quota:
    """So many requests in a ``period`` of the calendar, UTC: ``day`` or ``month``."""

    amount: int
    period: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller may use in all, whatever routes it asks; None is without a bound."""

    name: str
    rate: Window | None = None
    burst: Window | None = None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the client's address and, once authenticated, its subject, scopes and plan.

    ``subject`` is unique over all kinds of credentials (``user:...``, ``key:...``, or an issuer's). A
    credential without a ``plan`` has the limits that everybody has.
    """

    address: str
    subject: str | None = None
    scopes: frozenset[str] = frozenset()
    plan: Plan | None = None


@dataclass(slots=True)
class Trail:
    """What a call leaves behind for the log, whether it succeeds or not.

    ``upstream_seconds`` is the time spent waiting for instances, all attempts together; ``None``
    when none was asked. ``asked`` are the instances that were sent it, in their order, once per attempt.
    ``caller`` is who asks, once known; ``headers`` are for the answer, whatever it is.
    """

    upstream_seconds: float | None = None
    asked: list[Instance] = field(default_factory=list)
    caller: Caller | None = None
    headers: Headers = ()

    def waited(self, seconds: float) -> None:
        """Add the time of one attempt."""
        self.upstream_seconds = (self.upstream_seconds or 0.0) + seconds


def _no_header(_: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request on its way to a service or a local function.

    ``path`` and ``query`` are as the upstream is to see them, ``query`` decoded. ``deadline`` is a
    moment of the monotonic clock, in seconds, before which the whole answer must be there; one attempt
    may get an earlier one. ``headers`` go upstream, ``client_header`` gives one of the client's own by
    its name. Set once per attempt: ``instance``, by whoever chooses one, and ``fresh``, which forbids a
    kept connection.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Headers = ()
    body: bytes = b""
    deadline: float
    caller: Caller
    request_id: str
    client_header: Callable[[str], str | None] = _no_header
    instance: Instance | None = None
    fresh: bool = False
    trail: Trail = field(default_factory=Trail)


class Stream:
    """A body that is passed on while it arrives: an iterator of pieces, and a way to end it early.

    ``complete`` once the last piece was taken, ``error`` what broke it off; neither when the client left.
    """

    def __init__(self, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self._close = close
        self.complete = False
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces
        except Exception as error:
            self.error = error
            raise
        self.complete = True

    def close(self) -> None:
        """Let go of what the body comes from, whether it was read to its end or not."""
        self._close()


class Reply:
    """An answer on its way back: a status, headers, and a body that is whole or streams.

    Whatever a policy holds for the call it gives back in :meth:`close`, by :meth:`on_close`.
    Whoever receives a reply either passes it on or closes it.
    """

    __slots__ = ("_closed", "_finishers", "body", "headers", "status")

    def __init__(self, status: int, headers: Headers = (), body: bytes | Stream = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._finishers: list[Callable[[], None]] = [body.close] if isinstance(body, Stream) else []
        self._closed = False

    def header(self, name: str) -> str | None:
        """Give the first header of that name, in any case of letters."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), None)

    def on_close(self, finish: Callable[[], None]) -> None:
        """Have ``finish`` called when the reply is closed, the last one added first; at once if it is."""
        if self._closed:
            finish()
        else:
            self._finishers.append(finish)

    def on_settled(self, finish: Callable[[], None]) -> None:
        """Have ``finish`` called when the instance is done: at once, or at a stream's close."""
        if isinstance(self.body, Stream):
            self.on_close(finish)
        else:
            finish()

    def close(self) -> None:
        """Call every finisher exactly once, however often this is called and whatever one of them raises."""
        self._closed = True
        while self._finishers:
            finish = self._finishers.pop()
            try:
                finish()
            except Exception:
                log.exception("closing a reply failed")


class Proceed(Protocol):
    """The rest of the pipeline, seen from one of its links."""

    def __call__(self, call: Call, /) -> Reply:
        """Answer the call, or raise a :class:`chassis.errors.ServiceError`."""


class Policy(Protocol):
    """One link: it answers itself, or has ``proceed`` answer, as often as it likes."""

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer the call, or raise a :class:`chassis.errors.ServiceError`."""
