"""What of who may call stands in files and secrets: made in one way by each worker, and before the fork."""

from collections.abc import Callable, Iterator

from main_api.accounts.file import Accounts, AccountsFault
from main_api.accounts.signing import SigningKeys
from main_api.accounts.tokens import OwnTokens
from main_api.accounts.watched import WatchedAccounts
from main_api.settings import Settings


def watched_accounts(
    settings: Settings,
    at_first: Accounts | None = None,
    changed: Callable[[Accounts, Accounts], object] = lambda _, __: None,
) -> WatchedAccounts | None:
    """Read the accounts; None without a file. Raises as :class:`WatchedAccounts` does."""
    if settings.accounts_file is None:
        return None
    return WatchedAccounts(settings.accounts_file, at_first=at_first, changed=changed)


def own_tokens(settings: Settings) -> OwnTokens | None:
    """Make what issues and verifies our own tokens; None without a key. Raises :class:`ValueError`."""
    if settings.jwt_secret:
        keys = SigningKeys.from_secrets((settings.jwt_secret, *settings.jwt_previous_secrets))
    elif settings.jwt_key_file:
        keys = SigningKeys.from_files((settings.jwt_key_file, *settings.jwt_previous_key_files))
    else:
        return None
    return OwnTokens(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        lifetime=settings.jwt_lifetime,
    )


def faults(settings: Settings) -> list[str]:
    """Give a sentence for each fault of the files and secrets; each begins with the setting that names it.

    For whoever starts workers: of a worker that fails, only a traceback is seen.
    """
    return [*_of_accounts(settings), *_of_keys(settings)] if settings.authentication == "required" else []


def _of_accounts(settings: Settings) -> Iterator[str]:
    where = f"ACCOUNTS_FILE: {settings.accounts_file}"
    try:
        watched_accounts(settings)
    except AccountsFault as error:
        yield from (f"{where}: {fault}" for fault in error.faults)
    except OSError as error:
        yield f"{where}: {error.strerror or type(error).__name__}"


def _of_keys(settings: Settings) -> Iterator[str]:
    kind = "SECRET" if settings.jwt_secret else "KEY_FILE"
    try:
        own_tokens(settings)
    except ValueError as error:
        yield f"JWT_{kind}, JWT_PREVIOUS_{kind}S: {error}"
