"""Who asks: the internal token that the gateway shows, and the scopes that it vouches for.

Only ``/aws/*`` is guarded: probes and metrics tell nothing of AWS.
"""

import hmac
import re
from typing import NamedTuple

from flask import Flask, Response, g, request

from auxiliary_service import scopes
from chassis.errors import BadRequest, Forbidden, Unauthenticated

GUARDED = "/aws/"
SCOPES = "X-Internal-Scopes"

_BEARER = re.compile(r"bearer +([!-~]+)\Z", re.IGNORECASE)


class Caller(NamedTuple):
    """The gateway (``trusted``: it showed the token) and what it says of its own caller.

    ``restricted``: it said what that caller may do, if only that it is nothing. Whoever shows the token
    alone is an operator at a console.
    """

    trusted: bool = False
    restricted: bool = False
    scopes: frozenset[str] = frozenset()


def install(app: Flask, internal_token: str | None) -> None:
    """Refuse requests to ``/aws/*`` without ``internal_token``, if there is one, and read the scopes.

    401 comes before 404 and 405, so that nothing below ``/aws/`` is told to strangers (RFC 6750).
    ``X-Internal-Scopes`` is a space-separated list as OAuth's is (RFC 6749, 3.3), and is believed
    only together with the token; where it is, nothing may be read that it does not name. Without it
    everything may be read, and nothing decrypted. A GET with a body is 400.
    """
    expected = None if internal_token is None else internal_token.encode()

    def identify() -> None:
        g.caller = Caller()
        if not request.path.startswith(GUARDED):
            return
        if expected is not None:
            if not hmac.compare_digest(_shown_token(), expected):
                raise Unauthenticated(headers={"WWW-Authenticate": "Bearer"})
            said = request.headers.get(SCOPES)
            g.caller = Caller(True, said is not None, scopes.listed(said or ""))
        if request.method in ("GET", "HEAD") and _has_body():
            raise BadRequest("A request to read takes no body")

    def vary(response: Response) -> Response:
        if current().trusted:
            response.vary.add(SCOPES)
        return response

    app.before_request(identify)
    app.after_request(vary)


def current() -> Caller:
    """Give the current request's caller."""
    caller: Caller = g.get("caller", Caller())
    return caller


def require(scope: str) -> None:
    """Raise :class:`Forbidden` unless the current caller may do what takes ``scope``."""
    caller = current()
    if caller.restricted and scope not in caller.scopes:
        raise Forbidden(f"This takes the scope {scope}")


def readable_paths() -> tuple[str, ...] | None:
    """Give the paths whose parameters the current caller may read, None for all there are.

    Raises :class:`Forbidden` where there is no path.
    """
    caller = current()
    if not caller.restricted:
        return None
    found = scopes.paths(caller.scopes)
    if found == ():
        raise Forbidden(f"This takes the scope {scopes.PARAMETERS_READ}")
    return found


def require_decryption(allowed: bool) -> None:
    """Raise :class:`Forbidden` unless decryption is ``allowed`` here and the caller holds the scope."""
    caller = current()
    if not (allowed and caller.trusted and scopes.PARAMETERS_DECRYPT in caller.scopes):
        raise Forbidden(
            f"decrypt=true needs the scope {scopes.PARAMETERS_DECRYPT}, "
            "and a service that is set up to decrypt",
        )


def _shown_token() -> bytes:
    found = _BEARER.match(request.headers.get("Authorization", ""))
    return found[1].encode() if found else b""


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers
