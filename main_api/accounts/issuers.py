"""Tokens of others: of the issuers that the configuration names, such as Cognito, Auth0 and Keycloak."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from jwt.algorithms import AllowedPublicKeys

from main_api import scopes
from main_api.accounts.reading import SKEW, Claimed, check_signature, check_times, invalid, read, texts
from main_api.accounts.tokens import OwnTokens
from main_api.accounts.verified import Verified
from main_api.issuer_fields import Issuer

# What Keycloak writes into the claim `typ` of its tokens that are no access tokens.
_OTHER_KINDS = ("ID", "Refresh", "Offline", "Logout")


class KeySet(Protocol):
    """The public keys of one issuer."""

    def key(self, kid: str | None) -> AllowedPublicKeys | None:
        """Give the key of that name, or the only one for no name; None if there is none.

        Raises :class:`main_api.errors.UpstreamUnavailable` while no key is known at all.
        """


class OthersTokens:
    """Verifies the tokens of ``issuers``, by the keys that ``keys_of`` gives for each issuer's name."""

    def __init__(
        self,
        issuers: Iterable[Issuer],
        keys_of: Callable[[str], KeySet],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {each.issuer: each for each in issuers}
        self._keys_of = keys_of
        self._clock = clock

    def __contains__(self, issuer: object) -> bool:
        return issuer in self._issuers

    def verify(self, token: str) -> Verified:
        """Give what the token says, if it is good.

        Raises :class:`Unauthenticated`, :class:`main_api.errors.TokenExpired` for one that was good, or
        :class:`main_api.errors.UpstreamUnavailable` when the issuer's keys are not known yet.
        """
        return self.check(read(token))

    def check(self, claimed: Claimed) -> Verified:
        """Do as :meth:`verify` with a token that was read."""
        issuer = self._issuers.get(claimed.issuer)
        # Before the key is looked up: a token that is not for us is no reason to ask for the key set.
        if issuer is None or not _is_for_us(claimed, issuer):
            raise invalid()
        key = self._keys_of(issuer.issuer).key(claimed.kid)
        if key is None:
            raise invalid()
        check_signature(claimed, key, issuer.algorithm)
        return Verified(
            subject=f"{issuer.issuer}|{claimed.subject}",
            scopes=granted(claimed.claims, issuer),
            issued=claimed.issued,
            expires=check_times(claimed, self._clock(), most=issuer.max_lifetime, leeway=SKEW),
            revocation_id=claimed.revocation_id,
        )


class Tokens:
    """Has each token verified by whoever it says that it is from; that one then checks whether it is so."""

    def __init__(self, own: OwnTokens | None, others: OthersTokens | None) -> None:
        if own is not None and others is not None and own.issuer in others:
            raise ValueError(f"{own.issuer} is our own name, and no other issuer's")
        self._own = own
        self._others = others

    def verify(self, token: str) -> Verified:
        """Do as :meth:`OwnTokens.verify` and :meth:`OthersTokens.verify`; raises what they raise."""
        claimed = read(token)
        if self._own is not None and claimed.issuer == self._own.issuer:
            return self._own.check(claimed)
        if self._others is not None:
            return self._others.check(claimed)
        raise invalid()


def granted(claims: Mapping[str, Any], issuer: Issuer) -> frozenset[str]:
    """Give the scopes that the claims come to; values that mean nothing to us are passed over."""
    value = next(_found(claims, issuer.scopes_claim), None)
    listed = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    named = [each for each in listed if isinstance(each, str)]
    if issuer.scopes_map is None:
        return frozenset(filter(scopes.valid, named))
    return frozenset(scope for each in named for scope in issuer.scopes_map.get(each, ()))


def _found(claims: object, name: str) -> Iterator[object]:
    """Find a claim by its name, or by names of objects within objects with dots between them."""
    if not isinstance(claims, Mapping):
        return
    if name in claims:
        yield claims[name]
    # The names have dots themselves: `https://example.com/roles`, a client's within `resource_access`.
    dots = (at for at, each in enumerate(name) if each == ".")
    for at in dots:
        yield from _found(claims.get(name[:at]), name[at + 1 :])


def _is_for_us(claimed: Claimed, issuer: Issuer) -> bool:
    claims = claimed.claims
    try:
        audiences = texts(claims.get(issuer.audience_claim))
    except ValueError:
        return False
    # RFC 7519, 4.1.3: where there is an `aud` it counts, whichever claim stands in for one that is missing.
    if not audiences & issuer.audiences or ("aud" in claims and not claimed.audiences & issuer.audiences):
        return False
    clients = [claims[name] for name in ("azp", "client_id") if name in claims]
    if issuer.client is not None and (not clients or any(each != issuer.client for each in clients)):
        return False
    return claims.get("typ") not in _OTHER_KINDS
