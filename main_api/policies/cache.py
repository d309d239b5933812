"""Answers given again: by RFC 9111, said by RFC 9211, and standing in for failures by RFC 5861."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol
from urllib.parse import quote, urlencode

from chassis.errors import ServiceError
from main_api.errors import (
    BadGateway,
    CircuitOpen,
    GatewayTimeout,
    Overloaded,
    ServiceRefused,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Proceed, Reply
from main_api.policies.coalescing import Flights
from main_api.policies.freshness import Asked, Use, age, decide, kept_headers, may_stand_in, storable
from main_api.policies.invalidation import Invalidation, Reading
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
    """``lifetime``: seconds that a route's answers are fresh, in the place of what the service says.

    A call with one of the ``bypass`` parameters, name and value, never meets the cache. Raises
    :class:`ValueError`, naming the field.
    """

    lifetime: float | None = None
    bypass: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        if self.lifetime is not None and not (self.lifetime >= 0 and math.isfinite(self.lifetime)):
            raise ValueError(f"lifetime: a number of seconds, not below 0, needed, got {self.lifetime}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the service answered: an entry that others may have too, or a reply for one alone.

    ``status`` is the service's own, ``aged``: its answer came with an ``Age``; ``hit``: it was not asked,
    for an answer had been stored meanwhile.
    """

    status: int
    entry: Entry | None = None
    stored: bool = False
    hit: bool = False
    aged: bool = False
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    """One request as the cache sees it."""

    call: Call
    proceed: Proceed
    asked: Asked
    key: str


class Cache:
    """Gives stored answers to GET as long as they may be given, and asks once for many.

    One key is asked for by one call at a time, whatever number of requests want it; who sends ``no-cache``
    or ``no-store`` asks alone. When asking fails, the last answer stands in if its service allowed it.
    What was done is in ``Cache-Status``. ``told`` is called with ``hit``, ``miss``, ``validated``,
    ``collapsed``, ``stale``, ``uncacheable`` or ``bypass``, once for each answer.
    """

    def __init__(
        self,
        settings: CacheSettings,
        service: str,
        store: Store,
        flights: Flights[Fetched],
        invalidation: Invalidation,
        *,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._store = store
        self._flights = flights
        self._invalidation = invalidation
        self._told = told

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer from the store or by ``proceed``."""
        if call.method != "GET":
            return self._pass(call, proceed)
        asked = Asked.of(call.client_header("Cache-Control"))
        if not self._settings.bypass.isdisjoint(call.query):
            return self._bypass(call, asked, proceed)
        wish = _Wish(call, proceed, asked, self._key(call))
        # Before looking: who finds nothing, and then finds that an answer came meanwhile, looks again.
        landings = self._flights.landings(wish.key)
        entry, now = self._look(wish), self._store.now()
        decision = decide(wish.asked, entry, now)
        if decision.use is Use.STORED and entry is not None:
            self._told("hit")
            return _given(entry, now, "hit")
        if decision.use is Use.REFUSE:
            raise _nothing_stored()
        try:
            if wish.asked.no_cache or wish.asked.no_store:
                return self._answer(self._fetch(wish, entry, alone=True), decision.reason)
            return self._share(wish, entry, decision.reason, landings)
        except ServiceError as error:
            return self._stand_in(wish, decision.reason, error)

    def _bypass(self, call: Call, asked: Asked, proceed: Proceed) -> Reply:
        if asked.only_if_cached:
            raise _nothing_stored()
        reply = proceed(call)
        self._tell_of(reply, "bypass")
        return _said(reply, "fwd=bypass")

    def _tell_of(self, reply: Reply, result: str) -> None:
        """Tell, and let go of ``reply`` should that fail: what is held for it would stay held."""
        try:
            self._told(result)
        except BaseException:
            reply.close()
            raise

    def _look(self, wish: _Wish) -> Entry | None:
        return None if wish.asked.no_store else self._store.get(wish.key)

    def _share(self, wish: _Wish, entry: Entry | None, reason: str, landings: int) -> Reply:
        def fetch() -> Fetched:
            if self._flights.landings(wish.key) == landings:
                return self._fetch(wish, entry)
            newer = self._look(wish)
            if newer is not None and decide(wish.asked, newer, self._store.now()).use is Use.STORED:
                return Fetched(newer.status, newer, hit=True)
            return self._fetch(wish, newer)

        found, collapsed = self._flights.share(wish.key, wish.call.deadline, fetch)
        if collapsed and not self._for_others(wish, found):
            # The answer was for its asker alone, so each of the others asks for its own.
            found, collapsed = self._fetch(wish, self._look(wish)), False
        return self._answer(found, reason, collapsed=collapsed)

    def _for_others(self, wish: _Wish, found: Fetched) -> bool:
        """Whether what another request got may be given for ``wish`` too."""
        if found.entry is None or found.entry.validate_always:
            return False
        return not found.hit or decide(wish.asked, found.entry, self._store.now()).use is Use.STORED

    def _answer(self, found: Fetched, reason: str, *, collapsed: bool = False) -> Reply:
        """Make the answer of what was fetched; ``collapsed``: by another request."""
        now = self._store.now()
        if found.entry is not None and found.hit:
            self._told("hit")
            return _given(found.entry, now, "hit")
        did = f"fwd={reason}; " + ("collapsed" if collapsed else f"fwd-status={found.status}")
        if found.reply is not None:
            self._tell_of(found.reply, "uncacheable")
            return _said(found.reply, did)
        assert found.entry is not None  # noqa: S101 - one of the two is there
        self._told("collapsed" if collapsed else "validated" if found.status == 304 else "miss")
        did += "; stored" if found.stored else ""
        # RFC 9111, 5.1: an Age says that the answer was not made or confirmed for this request.
        return _given(found.entry, now, did, aged=collapsed or found.aged)

    def _fetch(self, wish: _Wish, entry: Entry | None, *, alone: bool = False) -> Fetched:
        """Ask the service; ``alone``: while others may be under way."""
        with self._invalidation.reading(wish.key) as reading:
            asked_at = self._store.now()
            try:
                reply, confirmed = _ask(wish, entry)
            except ServiceRefused as error:
                if error.status < 500 and not reading.overtaken:
                    # The service knows better: what was deleted must not come back when AWS fails later.
                    self._changed(wish.key.__eq__, lambda: self._store.drop(wish.key), part=alone)
                raise
            try:
                found = self._take(wish, reply, confirmed, asked_at, reading, predecessor=entry is not None)
            except BaseException:
                reply.close()
                raise
        if alone and not wish.asked.no_store:
            # Newer than what others may be waiting for: whoever comes now is not to join them.
            self._flights.part(wish.key.__eq__)
        return found

    def _take(
        self,
        wish: _Wish,
        reply: Reply,
        confirmed: Entry | None,
        asked_at: float,
        reading: Reading,
        *,
        predecessor: bool,
    ) -> Fetched:
        """Keep what the service answered, if it may be kept, and close what need not go on."""
        answer = reply if confirmed is None else _merged(confirmed, reply)
        lifetime = self._settings.lifetime
        made = None if wish.asked.no_store else storable(answer, asked_at, self._store.now(), lifetime)
        if made is None:
            if not wish.asked.no_store:
                # Without one before it there is nothing to forget, and still an older one not to be kept.
                forget = partial(self._store.drop, wish.key) if predecessor else _nothing
                self._invalidation.keep(reading, forget)
            if confirmed is not None:
                # Not to be kept any longer; it may still be given, this once.
                reply.close()
            return Fetched(reply.status, reply=answer)
        reply.close()
        stored = self._invalidation.keep(reading, partial(self._store.put, wish.key, made))
        return Fetched(reply.status, made, stored, aged=reply.header("Age") is not None)

    def _stand_in(self, wish: _Wish, reason: str, error: ServiceError) -> Reply:
        """Give the stored answer for a failure, or raise ``error``."""
        if not isinstance(error, _OUR_OWN) and error.code not in _PASSING:
            raise error
        # As it is now: what another has found deleted meanwhile does not stand in.
        entry, now = self._look(wish), self._store.now()
        if entry is None or not may_stand_in(wish.asked, entry, now):
            raise error
        self._told("stale")
        if age(entry, now) >= entry.lifetime:
            reason = "stale"
        return _given(entry, now, f"fwd={reason}; detail={error.code}")

    def _pass(self, call: Call, proceed: Proceed) -> Reply:
        reply = proceed(call)
        if call.method not in _SAFE and reply.status < 400:
            # RFC 9111, 4.4: what was changed is not given from before the change.
            prefix = f"{self._service} {call.path}?"
            self._changed(lambda key: key.startswith(prefix), lambda: self._store.drop_all(prefix))
        return reply

    def _changed(
        self, wanted: Callable[[str], bool], forget: Callable[[], object], *, part: bool = True
    ) -> None:
        self._invalidation.change(wanted, forget)
        if part:
            self._flights.part(wanted)

    def _key(self, call: Call) -> str:
        # Each scope by itself, for one with a space in it is not two.
        scopes = "&".join(sorted(quote(each, safe="") for each in call.caller.scopes))
        return f"{self._service} {call.path}?{urlencode(call.query)}#{scopes}"


def _ask(wish: _Wish, entry: Entry | None) -> tuple[Reply, Entry | None]:
    """Ask the service, with the tag of ``entry`` if it has one; give its answer, and what that confirms."""
    tag = entry.header("ETag") if entry else None
    if tag is None:
        return wish.proceed(wish.call), None
    conditional = replace(wish.call, headers=(*wish.call.headers, ("If-None-Match", tag)))
    reply = wish.proceed(conditional)
    if reply.status != 304:
        return reply, None
    if _bare(reply.header("ETag") or tag) == _bare(tag):
        return reply, entry
    # RFC 9111, 4.3.4: it speaks of another answer than we have.
    reply.close()
    return wish.proceed(wish.call), None


def _nothing() -> None: ...


def _nothing_stored() -> GatewayTimeout:
    return GatewayTimeout("Nothing is stored that may be given")


def _bare(tag: str) -> str:
    return tag.removeprefix("W/")


def _said(reply: Reply, did: str) -> Reply:
    reply.headers += (("Cache-Status", f"{CACHE}; {did}"),)
    return reply


def _given(entry: Entry, now: float, did: str, *, aged: bool = True) -> Reply:
    old = age(entry, now)
    fields = (("Age", str(int(old))),) if aged else ()
    return _said(
        Reply(entry.status, (*entry.headers, *fields), entry.body), f"{did}; ttl={int(entry.lifetime - old)}"
    )


def _merged(entry: Entry, reply: Reply) -> Reply:
    """Make the answer that a 304 confirms, with the fields that it brings (RFC 9111, 3.2)."""
    newer = kept_headers(reply.headers)
    names = {name.lower() for name, _ in newer}
    older = (pair for pair in entry.headers if pair[0].lower() not in names)
    said_age = (pair for pair in reply.headers if pair[0].lower() == "age")
    return Reply(entry.status, (*older, *newer, *said_age), entry.body)
