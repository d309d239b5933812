"""``nextToken``: AWS's continuation token, bound to the list that it continues.

``base64url(HMAC-SHA256 ‖ token)`` without padding. The key is derived from ``INTERNAL_TOKEN`` under a
label of its own, so that the secret itself signs nothing. Without it the key is known to everybody:
the token is then merely encoded, and the check finds mistakes, not forgeries; no scopes are believed
then either.
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass

from auxiliary_service.errors import InvalidRequest
from auxiliary_service.schemas.query import fault

LABEL = b"auxiliary-service nextToken v1"
TOKEN_MOST = 4096
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Listing:
    """What a token belongs to; ``limit`` is not part of it and may change from page to page."""

    kind: str
    prefix: str | None
    scopes: frozenset[str]
    decrypted: bool = False


class NextTokens:
    """Seals AWS's tokens for clients, and opens what clients send back."""

    def __init__(self, secret: str | None) -> None:
        self._key = hmac.digest((secret or "").encode(), LABEL, hashlib.sha256)

    def seal(self, token: str | None, listing: Listing) -> str | None:
        """Give what a client is shown of AWS's ``token``; None stays None."""
        if token is None:
            return None
        payload = token.encode()
        return _encode(self._mac(payload, listing) + payload)

    def open(self, sealed: str | None, listing: Listing) -> str | None:
        """Give AWS's token for what a client sent.

        One that is too long, damaged, or was given for another list, prefix, scope set or kind of
        values is :class:`InvalidRequest`, without saying which.
        """
        if sealed is None:
            return None
        raw = _decode(sealed)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not payload or not hmac.compare_digest(mac, self._mac(payload, listing)):
            raise _refusal(sealed)
        # Where the key is known to everybody, whoever wrote this need not have written text.
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise _refusal(sealed) from None

    def _mac(self, payload: bytes, listing: Listing) -> bytes:
        bound = json.dumps([listing.kind, listing.prefix, sorted(listing.scopes), listing.decrypted])
        return hmac.digest(self._key, bound.encode() + b"\0" + payload, hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(sealed: str) -> bytes:
    if len(sealed) > TOKEN_MOST or not sealed.isascii():
        raise _refusal(sealed)
    try:
        raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    except binascii.Error:
        raise _refusal(sealed) from None
    # The decoder skips foreign characters and spare bits: only the one true spelling is taken.
    if _encode(raw) != sealed:
        raise _refusal(sealed)
    return raw


def _refusal(sealed: str) -> InvalidRequest:
    return InvalidRequest(
        details=[fault("nextToken", "is not the nextToken of an answer to this list and prefix", sealed)]
    )
