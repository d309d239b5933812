"""Tokens of our own: access tokens as RFC 9068 has them."""

import secrets
import time
from collections.abc import Callable

import jwt

from main_api.accounts.reading import Claimed, check_signature, check_times, invalid, printable, read
from main_api.accounts.signing import SigningKeys
from main_api.accounts.verified import Verified

# Seconds that a token may last.
LIFETIME_MOST = 86400
_TYPE = "at+jwt"
_ROLE_MOST = 128
_JTI_BYTES = 16


class OwnTokens:
    """Issues tokens for users of ours, and verifies them.

    The key, and with it the algorithm, is the one that ``kid`` names among ``keys``. No leeway is given to
    ``exp``, which our own clocks have set; ``iat`` may be a little ahead, by as much as the clocks of two
    replicas differ. ``lifetime`` is in seconds. Raises :class:`ValueError`.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str = "main-api",
        audience: str = "main-api",
        lifetime: int = 3600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 1 <= lifetime <= LIFETIME_MOST:
            raise ValueError(f"lifetime: 1 to {LIFETIME_MOST} seconds needed, got {lifetime}")
        self.issuer = issuer
        self._keys = keys
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock

    def issue(self, user_id: str, role: str) -> tuple[str, int]:
        """Make a token; give it and the seconds until it expires."""
        # In milliseconds: a login right after all tokens of a user were revoked is not one of them.
        now = int(self._clock() * 1000) / 1000
        claims = {
            "iss": self.issuer,
            "aud": self._audience,
            "sub": user_id,
            "iat": now,
            "exp": now + self._lifetime,
            "jti": secrets.token_urlsafe(_JTI_BYTES),
            "role": role,
        }
        key = self._keys.current
        headers = {"kid": key.kid, "typ": _TYPE}
        # The first key is one that signs.
        return jwt.encode(claims, key.signing or b"", key.algorithm, headers), self._lifetime

    def verify(self, token: str) -> Verified:
        """Give what the token says, if it is one of ours and good.

        Raises :class:`Unauthenticated`, or :class:`main_api.errors.TokenExpired` for one that was good.
        """
        return self.check(read(token))

    def check(self, claimed: Claimed) -> Verified:
        """Do as :meth:`verify` with a token that was read."""
        key = self._keys.key(claimed.kid)
        if key is None or claimed.issuer != self.issuer or claimed.kind != _TYPE:
            raise invalid()
        check_signature(claimed, key.verifying, key.algorithm)
        if self._audience not in claimed.audiences:
            raise invalid()
        try:
            role = printable(claimed.claims.get("role"), _ROLE_MOST)
        except ValueError:
            raise invalid() from None
        return Verified(
            subject=f"user:{claimed.subject}",
            scopes=None,
            issued=claimed.issued,
            expires=check_times(claimed, self._clock(), most=LIFETIME_MOST, leeway=0.0),
            revocation_id=claimed.revocation_id,
            user_id=claimed.subject,
            role=role,
        )
