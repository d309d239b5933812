"""Who may call: put together from the settings."""

from collections.abc import Iterator
from typing import Protocol

from main_api.access_files import own_tokens, watched_accounts
from main_api.accounts.credentials import Credentials
from main_api.accounts.file import Accounts, ApiKey
from main_api.accounts.issuers import OthersTokens, Tokens
from main_api.accounts.passwords import Passwords
from main_api.accounts.revocations import Revocations, Shared
from main_api.audit import Audit
from main_api.blueprints.accounts import Login, LoginLimits, Sessions, routes
from main_api.errors import UpstreamUnavailable
from main_api.exchange import Call, Caller, Policy, Window
from main_api.policies.authentication import Authentication
from main_api.policies.rate_limit import Counted, counted_as
from main_api.routing.route import Access, Route
from main_api.settings import Settings
from main_api.state.limits import Limits, Taken
from main_api.upstream.key_sets import KeySets

# Refused credentials of one address; beyond them it is 429 instead of 401.
REFUSED = Window(20, 60)
_NOBODY = Accounts()
# Of a file that has not been good yet.
_UNKNOWN = Accounts()


class Background(Protocol):
    """What goes on beside the requests."""

    def start(self) -> None:
        """Begin; after the fork."""

    def stop(self) -> None:
        """End."""


class Gatekeeper:
    """Decides who may call: with ``AUTHENTICATION=required``, the one of the process.

    An accounts file that has a fault now does not end it, for a worker that takes the place of another one
    must not take the gateway down: until the file is good, who is in it is answered 503. Raises
    :class:`ValueError` for keys that cannot be used.
    """

    def __init__(self, settings: Settings, limits: Limits, shared: Shared | None) -> None:
        self._settings = settings
        self._limits = limits
        self._audit = Audit()
        self._watched = watched_accounts(settings, _UNKNOWN, self._changed)
        self._own = own_tokens(settings)
        self._key_sets = KeySets(settings.jwt_issuers)
        self._revocations = Revocations(shared)
        others = OthersTokens(settings.jwt_issuers, self._key_sets) if settings.jwt_issuers else None
        self.credentials = Credentials(
            self.accounts,
            Tokens(self._own, others),
            self._revocations,
            deny_stale=settings.revocation_unavailable == "deny",
            first_used=self._first_used,
        )
        self._refused = Counted(limits, REFUSED, "refused")

    def accounts(self) -> Accounts:
        """Give the accounts as they are now, or raise 503 while the file has never been good."""
        found = self._watched.current if self._watched else _NOBODY
        if found is _UNKNOWN:
            raise UpstreamUnavailable("The accounts are not known at the moment")
        return found

    def authentication(self, access: Access) -> Policy:
        """Make the link that lets pass only whom ``access`` means."""
        return Authentication(self.credentials.identify, self._count_refused, self._audit, scope=access.scope)

    def decryption(self, call: Call) -> None:
        """Write down that a call may decrypt; raise 503 while it is not known what has been revoked."""
        if self._settings.revocation_unavailable is None:
            self.credentials.check_current()
        name = next((value for field, value in call.query if field in ("name", "prefix")), None)
        self._audit("decryption", call, call.caller, parameter=name)

    def routes(self) -> Iterator[Route]:
        """Give ``/auth/*``."""
        sessions = Sessions(self.accounts, self.credentials, self._revocations, self._audit)
        if self._own is None or self._watched is None:
            return routes(None, sessions)
        window = self._settings.login_rate_limit
        counted = LoginLimits(
            Counted(self._limits, window, "login-address"), Counted(self._limits, window, "login-account")
        )
        return routes(Login(self.accounts, self._own, Passwords(), counted, self._audit), sessions)

    def background(self) -> Iterator[Background]:
        """Give what is to be started after the fork."""
        if self._watched:
            yield self._watched
        yield self._key_sets
        yield self._revocations

    def _count_refused(self, address: str) -> Taken:
        return self._refused.take(counted_as(address))

    def _first_used(self, key: ApiKey, call: Call) -> None:
        # In this process: each worker says it once.
        self._audit("key first used", call, Caller(call.caller.address, f"key:{key.id}"), owner=key.owner)

    def _changed(self, before: Accounts, after: Accounts) -> None:
        known = {key.id: key for key in before.keys}
        for key in after.keys:
            if key.id not in known:
                self._audit.write("key made", key=key.id, owner=key.owner, scopes=sorted(key.scopes))
            elif key.disabled and not known[key.id].disabled:
                self._audit.write("key revoked", key=key.id, owner=key.owner)
        users = {user.id: user for user in before.users}
        for user in after.users:
            if user.id in users and user.tokens_after > users[user.id].tokens_after:
                self._audit.write("tokens of a user revoked", user=user.id)
