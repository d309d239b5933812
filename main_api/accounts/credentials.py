"""What a request shows of who sends it: one token or one key, and what becomes of it."""

import hashlib
import re
import threading
from collections.abc import Callable
from time import time
from typing import Protocol

from cachetools import LRUCache

from chassis.errors import Unauthenticated
from main_api.accounts.api_keys import digest
from main_api.accounts.file import Accounts, ApiKey
from main_api.accounts.revocations import Revocations
from main_api.accounts.verified import Verified
from main_api.errors import NoCredential, TokenExpired, TokenRevoked, UpstreamUnavailable
from main_api.exchange import Call, Caller

KEY_HEADER = "X-API-Key"
# As names of query parameters: an address is written into logs and histories (RFC 6750, 5.3).
IN_QUERY = frozenset(
    (
        "access_token",
        "token",
        "id_token",
        "jwt",
        "bearer",
        "authorization",
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
    )
)
_SCHEME = re.compile(r"(bearer|apikey) +([!-~]+)\Z", re.IGNORECASE)
# Tokens that are remembered, some 1 KB each.
_REMEMBERED = 10_000


class Verifier(Protocol):
    """Checks tokens of one kind."""

    def verify(self, token: str) -> Verified:
        """Give what a good token says, or raise :class:`chassis.errors.Unauthenticated`."""


class Credentials:
    """Finds the caller of a call by the one credential that it shows.

    A token is verified once and remembered until it expires; whether it, its user or a key has been revoked,
    disabled or has expired is looked at each time. ``deny_stale``: nobody passes while it is not known what
    has been revoked lately.
    """

    def __init__(
        self,
        accounts: Callable[[], Accounts],
        verifier: Verifier | None,
        revocations: Revocations,
        *,
        deny_stale: bool = False,
        first_used: Callable[[ApiKey, Call], object] = lambda *_: None,
        clock: Callable[[], float] = time,
    ) -> None:
        self._accounts = accounts
        self._verifier = verifier
        self._revocations = revocations
        self._deny_stale = deny_stale
        self._first_used = first_used
        self._clock = clock
        self._lock = threading.Lock()
        self._remembered: LRUCache[bytes, Verified] = LRUCache(_REMEMBERED)
        self._used: set[str] = set()

    def identify(self, call: Call) -> Caller:
        """Give the caller, or raise :class:`chassis.errors.Unauthenticated`."""
        kind, shown = self._shown(call)
        caller = self._by_key(call, shown) if kind == "apikey" else self._by_token(call, self.verified(shown))
        if self._deny_stale:
            self.check_current()
        return caller

    def token(self, call: Call) -> Verified | None:
        """Give the token of a call that has been let pass; None when it showed a key."""
        kind, shown = self._shown(call)
        return None if kind == "apikey" else self.verified(shown)

    def verified(self, token: str) -> Verified:
        """Check signature and claims of a token, or remember that both were good."""
        name = hashlib.sha256(token.encode()).digest()
        with self._lock:
            found = self._remembered.get(name)
        if found is None:
            if self._verifier is None:
                raise Unauthenticated("Tokens are not accepted here")
            found = self._verifier.verify(token)
            with self._lock:
                self._remembered[name] = found
        if self._clock() >= found.expires:
            raise TokenExpired
        return found

    def check_current(self) -> None:
        """Raise 503 while it is not known what has been revoked lately."""
        if not self._revocations.current:
            raise UpstreamUnavailable("Revoked credentials cannot be told from good ones at the moment")

    def _shown(self, call: Call) -> tuple[str, str]:
        if any(name.lower() in IN_QUERY for name, _ in call.query):
            raise Unauthenticated("A credential belongs into a header, not into the query")
        written, key = call.client_header("Authorization"), call.client_header(KEY_HEADER)
        if key is not None and written is not None:
            raise Unauthenticated("Two credentials were shown where one is needed")
        if key is not None:
            return "apikey", key
        if written is None:
            raise NoCredential
        found = _SCHEME.match(written)
        if found is None:
            raise Unauthenticated("The scheme must be Bearer or ApiKey, with one credential behind it")
        return found[1].lower(), found[2]

    def _by_key(self, call: Call, shown: str) -> Caller:
        name = digest(shown)
        key = self._accounts().key(name) if name else None
        if key is None:
            raise Unauthenticated("The API key is not valid")
        if key.disabled or self._revocations.key_revoked(key.id):
            raise TokenRevoked("The API key has been revoked")
        if key.expires is not None and self._clock() >= key.expires:
            raise TokenExpired("The API key has expired")
        if key.id not in self._used:
            with self._lock:
                first = key.id not in self._used
                self._used.add(key.id)
            if first:
                self._first_used(key, call)
        return Caller(call.caller.address, f"key:{key.id}", key.scopes, key.plan)

    def _by_token(self, call: Call, token: Verified) -> Caller:
        if self._revocations.revoked(token):
            raise TokenRevoked
        scopes = token.scopes
        if token.user_id is not None:
            accounts = self._accounts()
            user = accounts.user(token.user_id)
            if user is None or user.disabled or token.issued < user.tokens_after:
                raise TokenRevoked
            scopes = accounts.scopes_of(user)
        return Caller(call.caller.address, token.subject, scopes or frozenset())
