"""What the verifiers of tokens share: a strict look before any cryptography, the signature, the times.

RFC 7515 (JWS), RFC 7519 (JWT) and RFC 8725 (how both are attacked). Whatever is wrong, the caller is told
the same sentence; that a token has expired is told only of one that is good in every other way.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Never

from jwt import PyJWS, PyJWTError
from jwt.algorithms import AllowedPublicKeys

from chassis.errors import Unauthenticated
from main_api.errors import TokenExpired

# Bytes that a token may have.
TOKEN_MOST = 8 * 1024
# Seconds that the clocks of those who issue may be ahead of ours.
SKEW = 30.0

_SENTENCE = "The token is not valid"
_PARTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# Whoever believes the first five lets the token choose its own key; the others change what was signed.
_REFUSED = frozenset(("jku", "jwk", "x5u", "x5c", "crit", "b64", "zip"))
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_CLAIMS_MOST = 100
_DEPTH_MOST = 8
_KID_MOST = 128
_SUBJECT_MOST = 256
_ISSUER_MOST = 512
# "none" is not among them.
_JWS = PyJWS(("HS256", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"))


def invalid() -> Unauthenticated:
    """Make the one error for all that may be wrong with a token."""
    return Unauthenticated(_SENTENCE)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A well-formed token, and what it says of itself: nobody has looked yet at who wrote it.

    ``kid`` and ``kind`` (its ``typ``) are None, and ``audiences`` is empty, where it says nothing of them.
    ``issued``, ``expires`` and ``not_before`` are moments of the wall clock, in seconds.
    """

    token: str = field(repr=False)
    kid: str | None
    kind: str | None
    issuer: str
    subject: str
    audiences: frozenset[str]
    issued: float
    expires: float
    not_before: float
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def revocation_id(self) -> str:
        """See :class:`main_api.accounts.verified.Verified`."""
        return hashlib.sha256(self.token.rpartition(".")[0].encode()).hexdigest()


def read(token: str) -> Claimed:
    """Take a token apart. Raises :class:`Unauthenticated` for whatever is not as it must be."""
    try:
        return _read(token)
    except (ValueError, OverflowError, RecursionError):
        raise invalid() from None


def check_signature(claimed: Claimed, key: AllowedPublicKeys | bytes, algorithm: str) -> None:
    """Raise :class:`Unauthenticated` unless ``key`` has signed the token by ``algorithm``.

    Both come from our configuration; the token's own ``alg`` must be the same.
    """
    try:
        _JWS.decode(claimed.token, key, algorithms=[algorithm])
    except (PyJWTError, ValueError, TypeError):
        raise invalid() from None


def check_times(claimed: Claimed, now: float, *, most: float, leeway: float) -> float:
    """Give the moment until which the token is taken: its ``exp`` and ``leeway``.

    It may last ``most`` seconds. Raises :class:`Unauthenticated`, or :class:`TokenExpired`: ask it last.
    """
    begins = max(claimed.issued, claimed.not_before)
    if begins > now + SKEW or not 0 < claimed.expires - claimed.issued <= most:
        raise invalid()
    expires = claimed.expires + leeway
    if now >= expires:
        raise TokenExpired
    return expires


def texts(value: object) -> frozenset[str]:
    """Read a text or a list of texts, at least one. Raises :class:`ValueError`."""
    listed = value if isinstance(value, list) else [value]
    found = frozenset(each for each in listed if isinstance(each, str) and each)
    if not listed or not all(isinstance(each, str) and each for each in listed):
        raise ValueError
    return found


def printable(value: object, most: int) -> str:
    """Read a text of 1 to ``most`` characters, all printable. Raises :class:`ValueError`."""
    if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
        raise ValueError
    return value


def _read(token: str) -> Claimed:
    parts = _PARTS.fullmatch(token) if len(token) <= TOKEN_MOST else None
    if parts is None:
        raise ValueError
    header, claims = _object(parts[1]), _object(parts[2])
    _decoded(parts[3])
    kind = header.get("typ")
    if _REFUSED & header.keys() or not isinstance(header.get("alg"), str):
        raise ValueError
    if "typ" in header and (not isinstance(kind, str) or kind.lower() not in _TYPES):
        raise ValueError
    return Claimed(
        token=token,
        kid=printable(header["kid"], _KID_MOST) if "kid" in header else None,
        kind=kind,
        issuer=printable(claims.get("iss"), _ISSUER_MOST),
        subject=printable(claims.get("sub"), _SUBJECT_MOST),
        audiences=texts(claims["aud"]) if "aud" in claims else frozenset(),
        issued=_moment(claims.get("iat")),
        expires=_moment(claims.get("exp")),
        not_before=_moment(claims.get("nbf", 0)),
        claims=claims,
    )


def _decoded(part: str) -> bytes:
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    # The last character may have bits that stand for nothing: another text for the same bytes.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise ValueError
    return data


def _object(part: str) -> dict[str, Any]:
    # Decoded here: given bytes, the parser takes UTF-16 and UTF-32 too.
    read = json.loads(_decoded(part).decode(), object_pairs_hook=_once, parse_constant=_refuse)
    if not isinstance(read, dict) or len(read) > _CLAIMS_MOST or _deeper(read, _DEPTH_MOST):
        raise ValueError
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two with the same name the parser takes the last, another reader the first.
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made


def _refuse(_: str) -> Never:
    raise ValueError


def _deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_deeper(each, levels - 1) for each in value))


def _moment(value: object) -> float:
    # True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    seconds = float(value)
    if not 0 <= seconds < inf:
        raise ValueError
    return seconds
