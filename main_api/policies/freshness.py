"""What may be stored, and what may be done with it: RFC 9111 as functions of facts, apart from any store.

Shared cache; explicit freshness only, no heuristics (4.2.2 allows them and does not ask for them).
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from main_api.exchange import Headers, Reply
from main_api.state.entries import Entry

# RFC 9110, 15.1: cacheable statuses whose meaning needs nothing else of the request.
_STORABLE = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
# Between two hops, or of one request alone (RFC 9111, 3.1, and our own ids).
_NOT_STORED = frozenset(
    (
        "age",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    )
)
# An answer may vary by these: they are in the key, or the same in every request of ours.
_IN_KEY = frozenset(("x-internal-scopes", "authorization", "accept", "accept-encoding"))
_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=("(?:[^"\\]|\\.)*"|[^,\s]*))?')
# RFC 9111, 1.2.2: what is longer counts as this much.
_SECONDS_MOST = 2**31


def directives(value: str | None) -> Mapping[str, str]:
    """Read a ``Cache-Control``: names in small letters, arguments without quotes, the first of each name."""
    found: dict[str, str] = {}
    for name, argument in _DIRECTIVE.findall(value or ""):
        found.setdefault(name.lower(), argument.strip('"'))
    return found


def seconds(argument: str | None) -> float | None:
    """Read delta-seconds; None for none, 0 for what is not a number (4.2.1: invalid is stale)."""
    if argument is None:
        return None
    if not (argument.isascii() and argument.isdigit()):
        return 0.0
    digits = argument.lstrip("0") or "0"
    return float(_SECONDS_MOST if len(digits) > 10 else min(int(digits), _SECONDS_MOST))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client's ``Cache-Control`` asks of a cache (5.2.1)."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None

    @classmethod
    def of(cls, value: str | None) -> "Asked":
        """Read the header."""
        if not value:
            return _NOTHING
        found = directives(value)
        return cls(
            no_cache="no-cache" in found,
            no_store="no-store" in found,
            only_if_cached="only-if-cached" in found,
            max_age=seconds(found.get("max-age")),
        )


_NOTHING = Asked()


class Use(enum.Enum):
    """What is to be done for a request."""

    STORED = "give the stored answer"
    ASK = "ask the service"
    REFUSE = "only what is stored was wanted"


@dataclass(frozen=True, slots=True)
class Decision:
    """``reason`` is RFC 9211's ``fwd``: why the service is to be asked."""

    use: Use
    reason: str = ""


def decide(asked: Asked, entry: Entry | None, now: float) -> Decision:
    """Decide by what was asked, what is stored and the time (4)."""
    reason = _why_not(asked, entry, now)
    if reason is None:
        return Decision(Use.STORED)
    return Decision(Use.REFUSE if asked.only_if_cached else Use.ASK, reason)


def _why_not(asked: Asked, entry: Entry | None, now: float) -> str | None:
    if asked.no_store or asked.no_cache:
        return "request"
    if entry is None:
        return "uri-miss"
    old = age(entry, now)
    if entry.validate_always or old >= entry.lifetime:
        return "stale"
    return "request" if asked.max_age is not None and old > asked.max_age else None


def may_stand_in(asked: Asked, entry: Entry | None, now: float) -> bool:
    """Whether ``entry`` may be given for a failure (RFC 5861, 4)."""
    if entry is None or asked.no_cache or asked.no_store or entry.never_stale or entry.validate_always:
        return False
    return age(entry, now) <= entry.lifetime + entry.stale_if_error


def age(entry: Entry, now: float) -> float:
    """Give an entry's age in seconds; a clock that went back makes it 0 and never negative."""
    return max(0.0, now - entry.born)


def storable(reply: Reply, asked_at: float, now: float, lifetime: float | None = None) -> Entry | None:
    """Make the entry of an answer to a GET, or give None when it may not be stored (3).

    ``asked_at`` and ``now``: when the request went out and when the answer was complete. ``lifetime``:
    a time of the route's own in the place of what the service says about freshness.
    """
    if reply.status not in _STORABLE or not isinstance(reply.body, bytes) or _varies(reply):
        return None
    found = directives(_joined(reply, "cache-control"))
    fresh = lifetime if lifetime is not None else _lifetime(found)
    if fresh is None or "no-store" in found or "private" in found:
        return None
    # 4.2.3, without comparing the clocks of two machines: what its sender said, and the time on the way,
    # which a clock that was set back meanwhile makes 0.
    initial = _said_age(reply) + max(0.0, now - asked_at)
    return Entry(
        status=reply.status,
        headers=kept_headers(reply.headers),
        body=reply.body,
        born=now - initial,
        lifetime=fresh,
        stale_if_error=seconds(found.get("stale-if-error")) or 0.0,
        validate_always="no-cache" in found,
        never_stale=not found.keys().isdisjoint(("must-revalidate", "proxy-revalidate", "s-maxage")),
    )


def kept_headers(headers: Headers) -> Headers:
    """Leave out what belongs to one hop or to one request."""
    hop = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == "connection"
        for name in value.split(",")
    }
    return tuple((key, value) for key, value in headers if key.lower() not in _NOT_STORED | hop)


def _said_age(reply: Reply) -> float:
    """Give the sender's ``Age``: of a list the first, and 0 for what is no number (5.1)."""
    return seconds((reply.header("Age") or "0").partition(",")[0].strip()) or 0.0


def _lifetime(found: Mapping[str, str]) -> float | None:
    shared = seconds(found.get("s-maxage"))
    return shared if shared is not None else seconds(found.get("max-age"))


def _varies(reply: Reply) -> bool:
    names = {name.strip().lower() for name in (_joined(reply, "vary") or "").split(",")} - {""}
    return bool(names - _IN_KEY)


def _joined(reply: Reply, name: str) -> str | None:
    values = [value for key, value in reply.headers if key.lower() == name]
    return ",".join(values) if values else None
