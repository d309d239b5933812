"""``/auth/*``: a token for a password, the end of a token, and who one is."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from marshmallow import Schema, ValidationError

from chassis.errors import BadRequest, Detail, Unauthenticated, ValidationFailed
from main_api.accounts.credentials import Credentials
from main_api.accounts.fields import folded
from main_api.accounts.file import Accounts, User
from main_api.accounts.passwords import Passwords
from main_api.accounts.revocations import Revocations
from main_api.accounts.tokens import OwnTokens
from main_api.audit import Audit
from main_api.errors import RateLimited, UpstreamUnavailable
from main_api.exchange import Call, Caller, Reply
from main_api.policies.authentication import challenge
from main_api.policies.bulkhead import Bulkhead
from main_api.policies.rate_limit import Counted, counted_as
from main_api.routing.route import Access, Documentation, Route, ToFunction
from main_api.schemas import accounts as schemas

_TAG = "accounts"
_USER = "user:"
# Logins at once, those that wait for their hash included: the other threads are not for them.
_LOGINS_MOST = 8
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LoginLimits:
    """What one address, and what one account, has left."""

    by_address: Counted
    by_account: Counted


class Login:
    """Gives tokens of our own for passwords."""

    def __init__(
        self,
        accounts: Callable[[], Accounts],
        tokens: OwnTokens,
        passwords: Passwords,
        limits: LoginLimits,
        audit: Audit,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._passwords = passwords
        self._limits = limits
        self._audit = audit
        self._room = Bulkhead(_LOGINS_MOST)
        self._schema = schemas.Login()

    def __call__(self, call: Call) -> Reply:
        """Give a token for an address and a password; 401 in the same time whichever of them is wrong."""
        return self._room(call, self._answer)

    def _answer(self, call: Call) -> Reply:
        given = _loaded(self._schema, call.body)
        email = folded(given["email"])
        # Before any hashing: that is what a flood would want.
        self._count(call, email)
        user = self._accounts().user_by_email(email)
        stored = user.password if user is not None and not user.disabled else None
        good = self._passwords.verify(stored, given["password"], min(call.deadline, monotonic() + _SECONDS))
        if user is None or not good:
            self._audit("login refused", call, None, account=_digest(email))
            raise Unauthenticated("Invalid credentials", headers={"WWW-Authenticate": challenge()})
        token, seconds = self._tokens.issue(user.id, user.role)
        self._audit("login", call, Caller(call.caller.address, f"{_USER}{user.id}"))
        return _reply({"token": token, "user": _shown(user), "expiresIn": seconds})

    def _count(self, call: Call, email: str) -> None:
        for counted, name in (
            (self._limits.by_address, counted_as(call.caller.address)),
            (self._limits.by_account, _digest(email)),
        ):
            taken = counted.take(name)
            if not taken.shared:
                raise UpstreamUnavailable("Logins cannot be counted at the moment: Redis is away")
            if not taken.allowed:
                self._audit("login limited", call, None, account=_digest(email))
                raise RateLimited("Too many login attempts", retry_after=taken.retry_after)


class Sessions:
    """Answers the rest of ``/auth/*``."""

    def __init__(
        self,
        accounts: Callable[[], Accounts],
        credentials: Credentials,
        revocations: Revocations,
        audit: Audit,
    ) -> None:
        self._accounts = accounts
        self._credentials = credentials
        self._revocations = revocations
        self._audit = audit

    def logout(self, call: Call) -> Reply:
        """Revoke the token that is shown until it expires."""
        token = self._credentials.token(call)
        if token is None:
            raise BadRequest("An API key has no session; `main-api accounts revoke` takes it back")
        everywhere = self._revocations.revoke_token(token.revocation_id, token.expires)
        self._audit("logout", call, call.caller)
        if not everywhere:
            raise UpstreamUnavailable(
                "The token is revoked here, and elsewhere as soon as that can be told: Redis is away"
            )
        return _reply({"message": "Logged out successfully"})

    def me(self, call: Call) -> Reply:
        """Say who the caller is."""
        caller, subject = call.caller, call.caller.subject or ""
        user = self._accounts().user(subject.removeprefix(_USER)) if subject.startswith(_USER) else None
        return _reply(
            {
                "subject": subject,
                "user": _shown(user) if user else None,
                "scopes": sorted(caller.scopes),
                "plan": caller.plan.name if caller.plan else None,
            }
        )


def routes(login: Login | None, sessions: Sessions) -> Iterator[Route]:
    """Give the routes of this room; without a ``login``, users are another issuer's."""
    if login is not None:
        yield Route(
            name="login",
            rule="/auth/login",
            methods=("POST",),
            end=ToFunction(login),
            body=schemas.Login,
            documentation=Documentation(
                "Get a token for a password",
                schemas.LoggedIn,
                "Wrong passwords and unknown addresses are answered alike.",
                errors=(401, 413, 429, 503),
                tag=_TAG,
            ),
        )
    yield Route(
        name="logout",
        rule="/auth/logout",
        methods=("POST",),
        end=ToFunction(sessions.logout),
        access=Access(),
        documentation=Documentation(
            "Revoke the token that is shown",
            schemas.LoggedOut,
            "503 when Redis is away: it is revoked here, and elsewhere when Redis is back.",
            errors=(401, 503),
            tag=_TAG,
        ),
    )
    yield Route(
        name="me",
        rule="/auth/me",
        end=ToFunction(sessions.me),
        access=Access(),
        documentation=Documentation("Who one is", schemas.Me, errors=(401,), tag=_TAG),
    )


def _loaded(schema: Schema, body: bytes) -> Mapping[str, Any]:
    try:
        written = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON") from None
    try:
        loaded: Mapping[str, Any] = schema.load(written)
    except ValidationError as error:
        messages: dict[str, list[str]] = error.normalized_messages()  # type: ignore[no-untyped-call]  # marshmallow's own gap
        # Never with the values: one of them is the password.
        details: list[Detail] = [
            {"field": name[:200], "message": " ".join(map(str, told)), "value": None}
            for name, told in sorted(messages.items())
        ]
        raise ValidationFailed(details=details) from None
    return loaded


def _digest(email: str) -> str:
    """Give what stands for an account where anybody may look: in Redis and in the log."""
    return hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _shown(user: User) -> dict[str, str]:
    return {"id": user.id, "email": user.email, "role": user.role}


def _reply(facts: Mapping[str, object]) -> Reply:
    headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
    return Reply(200, headers, f"{json.dumps(facts)}\n".encode())
