"""Answers given again: by RFC 9111, said by RFC 9211, and standing in for failures by RFC 5861."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlencode

from chassis.errors import ServiceError
from main_api.errors import (
    BadGateway,
    CircuitOpen,
    GatewayTimeout,
    Overloaded,
    ServiceRefused,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Headers, Proceed, Reply
from main_api.policies.coalescing import Flights
from main_api.policies.freshness import Asked, Use, age, decide, kept_headers, may_stand_in, storable
from main_api.state.entries import Entry

CACHE = "main-api"
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
# What a stored answer may stand in for: failures, and of those that AWS tells the ones that pass.
_PASSING = frozenset(("aws_throttled", "aws_timeout", "aws_unreachable", "aws_error"))
_OUR_OWN = (BadGateway, CircuitOpen, GatewayTimeout, Overloaded, UpstreamUnavailable)


class Store(Protocol):
    """Where answers are kept; see :class:`main_api.state.memory.MemoryStore`."""

    def now(self) -> float:
        """Give the moment that entries are counted from, in seconds."""

    def get(self, key: str) -> Entry | None:
        """Give the answer kept for ``key``."""

    def put(self, key: str, entry: Entry) -> bool:
        """Keep an answer; whether it was kept."""

    def drop(self, key: str) -> None:
        """Forget ``key``."""

    def drop_all(self, prefix: str) -> int:
        """Forget every key that begins with ``prefix``; give how many there were."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """``lifetime``: seconds that a route's answers are fresh, in the place of what the service says."""

    lifetime: float | None = None

    def __post_init__(self) -> None:
        if self.lifetime is not None and not self.lifetime >= 0:
            raise ValueError(f"lifetime: cannot be below 0, got {self.lifetime}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the service answered: an entry that others may have too, or a reply for one alone."""

    status: int
    entry: Entry | None = None
    stored: bool = False
    reply: Reply | None = None


class Cache:
    """Gives stored answers to GET as long as they may be given, and asks once for many.

    One key is asked for by one call at a time, whatever number of requests want it; who sends ``no-cache``
    or ``no-store`` asks alone. When asking fails, the last answer stands in if its service allowed it.
    What was done is in ``Cache-Status``. ``told`` is called with ``hit``, ``miss``, ``validated``,
    ``collapsed``, ``stale`` or ``uncacheable``, once for each answer.
    """

    def __init__(
        self,
        settings: CacheSettings,
        service: str,
        store: Store,
        flights: Flights[Fetched],
        *,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._store = store
        self._flights = flights
        self._told = told

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer from the store or by ``proceed``."""
        if call.method != "GET":
            return self._pass(call, proceed)
        asked = Asked.of(call.client_header("Cache-Control"))
        key = self._key(call)
        entry = None if asked.no_store else self._store.get(key)
        now = self._store.now()
        decision = decide(asked, entry, now)
        if decision.use is Use.STORED and entry is not None:
            self._told("hit")
            return _given(entry, now, "hit")
        if decision.use is Use.REFUSE:
            raise GatewayTimeout("Nothing is stored that may be given")
        try:
            return self._ask(call, asked, key, entry, decision.reason, proceed)
        except ServiceError as error:
            return self._stand_in(asked, key, entry, error)

    def _ask(
        self, call: Call, asked: Asked, key: str, entry: Entry | None, reason: str, proceed: Proceed
    ) -> Reply:
        def fetch() -> Fetched:
            return self._fetch(call, asked, key, entry, proceed)

        if asked.no_cache or asked.no_store:
            found, collapsed = fetch(), False
        else:
            found, collapsed = self._flights.share(key, call.deadline, fetch)
            if collapsed and found.reply is not None:
                # The answer was for its asker alone, so each of the others asks for its own.
                found, collapsed = fetch(), False
        status = f"fwd={reason}" + ("; collapsed" if collapsed else f"; fwd-status={found.status}")
        if found.entry is None:
            assert found.reply is not None  # noqa: S101 - one of the two is there
            self._told("uncacheable")
            found.reply.headers += (("Cache-Status", f"{CACHE}; {status}"),)
            return found.reply
        self._told("collapsed" if collapsed else "validated" if found.status == 304 else "miss")
        did = status + ("; stored" if found.stored else "")
        return _given(found.entry, self._store.now(), did, first_hand=not collapsed)

    def _fetch(self, call: Call, asked: Asked, key: str, entry: Entry | None, proceed: Proceed) -> Fetched:
        tag = entry.header("ETag") if entry else None
        asked_at = self._store.now()
        if tag is not None:
            call = replace(call, headers=(*call.headers, ("If-None-Match", tag)))
        reply = proceed(call)
        validated = reply.status == 304 and tag is not None and entry is not None
        answer = Reply(entry.status, _merged(entry, reply), entry.body) if validated and entry else reply
        made = (
            None if asked.no_store else storable(answer, asked_at, self._store.now(), self._settings.lifetime)
        )
        if made is None:
            if entry is not None:
                self._store.drop(key)
            # A validated answer that may not be kept any longer may still be given, this once.
            if validated:
                reply.close()
            return Fetched(reply.status, reply=answer)
        reply.close()
        return Fetched(reply.status, made, self._store.put(key, made))

    def _stand_in(self, asked: Asked, key: str, entry: Entry | None, error: ServiceError) -> Reply:
        """Give the stored answer for a failure, or raise ``error``."""
        if isinstance(error, ServiceRefused) and error.status < 500:
            # The service knows better: what was deleted must not come back when AWS fails later.
            self._store.drop(key)
            raise error
        passing = isinstance(error, _OUR_OWN) or error.code in _PASSING
        now = self._store.now()
        if entry is None or not passing or not may_stand_in(asked, entry, now):
            raise error
        self._told("stale")
        return _given(entry, now, f"fwd=stale; detail={error.code}")

    def _pass(self, call: Call, proceed: Proceed) -> Reply:
        reply = proceed(call)
        if call.method not in _SAFE and reply.status < 400:
            # RFC 9111, 4.4: what was changed is not given from before the change.
            self._store.drop_all(f"{self._service} {call.path}?")
        return reply

    def _key(self, call: Call) -> str:
        scopes = " ".join(sorted(call.caller.scopes))
        return f"{self._service} {call.path}?{urlencode(call.query)}#{scopes}"


def _given(entry: Entry, now: float, did: str, *, first_hand: bool = False) -> Reply:
    old = age(entry, now)
    said = ("Cache-Status", f"{CACHE}; {did}; ttl={int(entry.lifetime - old)}")
    # RFC 9111, 5.1: an Age says that the answer was not made or confirmed for this request.
    aged = () if first_hand else (("Age", str(int(old))),)
    return Reply(entry.status, (*entry.headers, *aged, said), entry.body)


def _merged(entry: Entry, reply: Reply) -> Headers:
    """Take over the fields of a 304 (RFC 9111, 3.2)."""
    newer = kept_headers(reply.headers)
    names = {name.lower() for name, _ in newer}
    return (*(pair for pair in entry.headers if pair[0].lower() not in names), *newer)
