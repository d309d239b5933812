"""Users, API keys, and all of them together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from main_api.accounts.fields import EMAIL_MOST, folded
from main_api.exchange import Plan


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a password.

    ``password`` is its hash. Tokens that were issued before ``tokens_after``, in seconds of the wall clock,
    are revoked.
    """

    id: str
    email: str
    role: str
    password: str = field(repr=False)
    disabled: bool = False
    tokens_after: float = 0.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that was given to ``owner``: ``digest`` is its SHA-256 in lower-case hexadecimal digits.

    From ``expires`` on, in seconds of the wall clock, it is refused; it stays, so that this can be told.
    """

    id: str
    owner: str
    digest: str = field(repr=False)
    scopes: frozenset[str] = frozenset()
    plan: Plan | None = None
    expires: float | None = None
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Accounts:
    """All that an accounts file says, by id, address and digest."""

    users: tuple[User, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    _by_id: dict[str, User] = field(init=False, repr=False, compare=False)
    _by_email: dict[str, User] = field(init=False, repr=False, compare=False)
    _by_digest: dict[str, ApiKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {user.id: user for user in self.users})
        object.__setattr__(self, "_by_email", {folded(user.email): user for user in self.users})
        object.__setattr__(self, "_by_digest", {key.digest: key for key in self.keys})

    def user(self, user_id: str) -> User | None:
        """Find a user by id, disabled ones too."""
        return self._by_id.get(user_id)

    def user_by_email(self, email: str) -> User | None:
        """Find a user by address, in any case of letters, disabled ones too."""
        return self._by_email.get(folded(email)) if len(email) <= EMAIL_MOST else None

    def key(self, digest: str) -> ApiKey | None:
        """Find a key by its digest, disabled and expired ones too."""
        return self._by_digest.get(digest)

    def scopes_of(self, user: User) -> frozenset[str]:
        """Give what the role of ``user`` may; nothing when there is no such role."""
        return self.roles.get(user.role, frozenset())
