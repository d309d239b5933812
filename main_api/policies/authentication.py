"""Who asks, and whether he may: the outermost link of every route that is not for everybody."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from chassis.errors import Forbidden, Unauthenticated
from main_api.audit import Audit
from main_api.errors import NoCredential, RateLimited
from main_api.exchange import Call, Caller, Proceed, Reply
from main_api.scopes import holds

REALM = "main-api"


class Taken(Protocol):
    """What one more count of an address led to; see :class:`main_api.state.limits.Taken`."""

    @property
    def allowed(self) -> bool:
        """Whether it was within the limit."""

    @property
    def retry_after(self) -> int:
        """Seconds until there is room again."""


class Authentication:
    """Let a call pass with its caller known; 401 without a good credential, 403 without the ``scope``.

    ``identify`` gives the caller of a call or raises :class:`chassis.errors.Unauthenticated`. Each refused
    credential is ``counted`` by its address, and beyond the limit answered with 429: whoever guesses learns
    no more, and a good credential from the same address passes all the same. ``WWW-Authenticate`` is by
    RFC 6750.
    """

    def __init__(
        self,
        identify: Callable[[Call], Caller],
        counted: Callable[[str], Taken],
        audit: Audit,
        *,
        scope: str | None = None,
    ) -> None:
        self._identify = identify
        self._counted = counted
        self._audit = audit
        self._scope = scope

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer by ``proceed``, or raise."""
        try:
            caller = self._identify(call)
        except Unauthenticated as error:
            self._refused(call, error)
            raise
        call.trail.caller = caller
        try:
            if self._scope is not None and not holds(caller.scopes, self._scope):
                raise Forbidden(f"This takes the scope {self._scope}")
            return proceed(replace(call, caller=caller))
        except Forbidden as error:
            # Also of the links behind: a query, or a path, may take more than the route.
            self._audit("forbidden", call, caller, reason=error.message)
            error.headers["WWW-Authenticate"] = challenge("insufficient_scope", error.message)
            raise

    def _refused(self, call: Call, error: Unauthenticated) -> None:
        if isinstance(error, NoCredential):
            # Nothing was shown, so nothing was wrong with it (RFC 6750, 3.1).
            error.headers["WWW-Authenticate"] = challenge()
            return
        self._audit("refused", call, None, reason=error.code)
        taken = self._counted(call.caller.address)
        if not taken.allowed:
            raise RateLimited(
                "Too many credentials were refused from this address", retry_after=taken.retry_after
            ) from None
        error.headers["WWW-Authenticate"] = challenge("invalid_token", error.message)


def challenge(error: str = "", description: str = "") -> str:
    """Write a ``WWW-Authenticate`` value; the texts are ours and hold no quote."""
    given = (("realm", REALM), ("error", error), ("error_description", description))
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in given if value)
