"""Passwords, hashed by argon2id (RFC 9106)."""

import logging
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from time import monotonic
from typing import Protocol

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from main_api.errors import Overloaded

log = logging.getLogger(__name__)

# OWASP's second choice: argon2-cffi's own 64 MiB a hash would be a way to fill the memory.
_MEMORY = 19_456  # KiB
_TIME = 2
_THREADS = 1
# Characters of a password that are looked at.
PASSWORD_MOST = 1024


class Hasher(Protocol):
    """What argon2-cffi's ``PasswordHasher`` does."""

    def hash(self, password: str) -> str:
        """Make a hash with a salt of its own."""

    def verify(self, hash: str, password: str) -> bool:  # noqa: A002 - the library's name
        """Give True, or raise :class:`argon2.exceptions.VerificationError`."""

    def check_needs_rehash(self, hash: str) -> bool:  # noqa: A002 - the library's name
        """Whether the hash has other costs than new ones have."""


class Passwords:
    """Hashes passwords and verifies them, ``at_once`` of them at the same time: each takes 19 MiB and a core.

    A password is normalised (NFC, as RFC 8265 does): systems compose the same letters differently, and one
    has typed the same.
    """

    def __init__(
        self,
        at_once: int = 2,
        *,
        hasher: Hasher | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=_TIME, memory_cost=_MEMORY, parallelism=_THREADS)
        self._clock = clock
        self._turns = BoundedSemaphore(at_once)
        # Whichever thread makes a hash, the allocator keeps the memory for it: all those of a server would
        # come to more than a gigabyte.
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="password")
        # Nobody's: what is verified when there is nothing to verify, so that this takes as long.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    def hash(self, password: str) -> str:
        """Make a hash to store. Raises :class:`ValueError` for a password that would never be verified."""
        secret = _normalised(password)
        if secret is None:
            raise ValueError(f"a password has at most {PASSWORD_MOST} characters, all of them Unicode")
        with self._turns:
            return self._threads.submit(self._hasher.hash, secret).result()

    def verify(self, stored: str | None, password: str, deadline: float) -> bool:
        """Whether ``stored`` is a hash of ``password``; always one verification, also when None is stored.

        Waits for its turn until ``deadline``, a moment of the monotonic clock; then raises
        :class:`main_api.errors.Overloaded`.
        """
        secret = _normalised(password)
        if not self._turns.acquire(timeout=max(0.0, deadline - self._clock())):
            raise Overloaded(cause="no turn to verify a password before the deadline")
        try:
            if stored is None or secret is None:
                self._threads.submit(self._matches, self._nobody, secret or "").result()
                return False
            return self._threads.submit(self._matches, stored, secret).result()
        finally:
            self._turns.release()

    def needs_rehash(self, stored: str) -> bool:
        """Whether ``stored`` has other costs than new hashes have."""
        try:
            return self._hasher.check_needs_rehash(stored)
        except InvalidHashError:
            return True

    def _matches(self, stored: str, secret: str) -> bool:
        try:
            return self._hasher.verify(stored, secret)
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError) as error:
            # Not enough memory, or no hash: the library's sentence has nothing of either.
            log.warning("a password could not be verified: %s", str(error) or type(error).__name__)
            return False


def _normalised(password: str) -> str | None:
    """Give what is hashed, None for what never is."""
    if len(password) > PASSWORD_MOST:
        return None
    try:
        password.encode()
    except UnicodeEncodeError:
        return None  # half of a surrogate pair, as JSON can write it
    return unicodedata.normalize("NFC", password)
