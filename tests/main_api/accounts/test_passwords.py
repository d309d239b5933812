"""Passwords: what is hashed, that every answer costs the same work, and how many are hashed at once."""

import logging
import threading
import unicodedata

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from main_api.accounts.file import parse
from main_api.accounts.passwords import PASSWORD_MOST, Passwords
from main_api.errors import Overloaded
from tests.main_api.policies.fakes import Clock

GOOD = "correct horse battery staple"


class Hasher:
    """Counts; a hash is the password with a mark."""

    def __init__(self) -> None:
        self.hashed: list[str] = []
        self.verified: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def hash(self, password: str) -> str:
        self.hashed.append(password)
        return f"hash of {password}"

    def verify(self, hash: str, password: str) -> bool:  # noqa: A002 - the library's name
        self.verified.append((hash, password))
        if self.error is not None:
            raise self.error
        if hash != f"hash of {password}":
            raise VerifyMismatchError
        return True

    def check_needs_rehash(self, hash: str) -> bool:  # noqa: A002 - the library's name
        if not hash.startswith("hash of "):
            raise InvalidHashError
        return False


def made(at_once: int = 2) -> tuple[Passwords, Hasher, Clock]:
    hasher, clock = Hasher(), Clock()
    return Passwords(at_once, hasher=hasher, clock=clock), hasher, clock


def verify(passwords: Passwords, stored: str | None, password: str) -> bool:
    return passwords.verify(stored, password, 1010.0)


def test_a_hash_is_argon2id_with_costs_that_a_pod_can_bear() -> None:
    stored = Passwords().hash(GOOD)

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert GOOD not in stored
    entry = f'{{id: a, email: a@b, role: r, password: "{stored}"}}'
    assert parse(f"roles: {{r: []}}\nusers: [{entry}]").users[0].password == stored


def test_a_password_is_verified_by_its_hash_alone() -> None:
    passwords = Passwords()
    stored = passwords.hash(GOOD)

    assert passwords.verify(stored, GOOD, 1e12) is True
    assert passwords.verify(stored, GOOD + " ", 1e12) is False
    assert passwords.verify(None, GOOD, 1e12) is False
    assert passwords.hash(GOOD) != stored
    assert passwords.needs_rehash(stored) is False


@pytest.mark.parametrize(
    ("stored", "password", "right"),
    [
        (f"hash of {GOOD}", GOOD, True),
        (f"hash of {GOOD}", "wrong", False),
        (f"hash of {GOOD}", "", False),
        (None, GOOD, False),
        (None, "", False),
        (None, 2000 * "x", False),
        (f"hash of {2000 * 'x'}", 2000 * "x", False),
        (f"hash of {GOOD}", (PASSWORD_MOST + 1) * "x", False),
        (f"hash of {GOOD}", "\ud800", False),
        (None, "\ud800", False),
    ],
)
def test_every_answer_costs_one_verification(stored: str | None, password: str, right: bool) -> None:
    passwords, hasher, _ = made()
    [nobody] = hasher.hashed

    assert verify(passwords, stored, password) is right

    assert len(hasher.verified) == 1
    assert hasher.hashed == [nobody]
    [(against, given)] = hasher.verified
    assert len(given) <= PASSWORD_MOST
    assert against == (
        stored
        if stored is not None and len(password) <= PASSWORD_MOST and password.isprintable()
        else f"hash of {nobody}"
    )


def test_nobodys_password_is_another_one_each_time_and_nobodys() -> None:
    (one, hasher, _), (_, other, _) = made(), made()

    assert hasher.hashed != other.hashed
    [nobody] = hasher.hashed
    assert len(nobody) >= 32
    assert verify(one, None, nobody) is False


def test_the_longest_password_is_verified_and_a_longer_one_never_hashed() -> None:
    passwords, hasher, _ = made()
    longest = PASSWORD_MOST * "x"

    assert verify(passwords, passwords.hash(longest), longest)
    with pytest.raises(ValueError, match="1024"):
        passwords.hash(longest + "x")
    assert max(map(len, hasher.hashed)) == PASSWORD_MOST


def test_half_a_surrogate_pair_is_not_hashed() -> None:
    with pytest.raises(ValueError, match="Unicode") as raised:
        made()[0].hash("canary\ud800")

    assert "canary" not in str(raised.value)


def test_a_password_is_the_same_however_its_letters_are_composed() -> None:
    passwords, hasher, _ = made()
    composed, decomposed = (unicodedata.normalize(form, "Sm\u00f6rg\u00e5sbord!!") for form in ("NFC", "NFD"))
    assert composed != decomposed

    assert verify(passwords, passwords.hash(composed), decomposed)
    assert verify(passwords, passwords.hash(decomposed), composed)
    assert hasher.hashed[1:] == [composed, composed]


def test_letters_that_only_look_alike_are_not_the_same() -> None:
    passwords, _, _ = made()

    assert not verify(passwords, passwords.hash("\uff41" * 12), "a" * 12)
    assert not verify(passwords, passwords.hash("A" * 12), "a" * 12)


@pytest.mark.parametrize("error", [VerificationError("Memory allocation error"), InvalidHashError()])
def test_what_cannot_be_verified_is_wrong_and_told_to_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    passwords, hasher, _ = made()
    hasher.error = error

    assert verify(passwords, "hash of canary", "canary") is False

    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert "canary" not in line.getMessage()
    assert (str(error) or "InvalidHashError") in line.getMessage()


class Slow(Hasher):
    """Verifies when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.now = self.most = 0

    def verify(self, hash: str, password: str) -> bool:  # noqa: A002 - the library's name
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.entered.release()
        assert self.go.wait(5)
        with self.lock:
            self.now -= 1
        return super().verify(hash, password)


def test_two_are_hashed_at_a_time_and_the_others_wait() -> None:
    hasher = Slow()
    passwords = Passwords(hasher=hasher, clock=Clock())
    threads = [threading.Thread(target=verify, args=(passwords, None, GOOD)) for _ in range(6)]
    for each in threads:
        each.start()
    for _ in range(2):
        assert hasher.entered.acquire(timeout=5)
    assert not hasher.entered.acquire(blocking=False)
    hasher.go.set()
    for each in threads:
        each.join()

    assert hasher.most == 2
    assert len(hasher.verified) == 6


def test_who_has_no_turn_by_the_deadline_is_told_so_and_costs_nothing() -> None:
    hasher, clock = Slow(), Clock()
    passwords = Passwords(1, hasher=hasher, clock=clock)
    first = threading.Thread(target=verify, args=(passwords, None, GOOD))
    first.start()
    assert hasher.entered.acquire(timeout=5)

    for deadline in (clock.now, clock.now - 5, clock.now + 0.001):
        with pytest.raises(Overloaded):
            passwords.verify(None, GOOD, deadline)
    hasher.go.set()
    first.join()

    assert len(hasher.verified) == 1
    assert passwords.verify(f"hash of {GOOD}", GOOD, clock.now) is True


def test_a_turn_is_given_back_whatever_happens() -> None:
    passwords, hasher, clock = made(1)
    hasher.error = MemoryError()
    for _ in range(3):
        with pytest.raises(MemoryError):
            passwords.verify(None, GOOD, clock.now)
    hasher.error = None

    assert passwords.verify(None, GOOD, clock.now) is False


def test_a_hash_with_other_costs_is_to_be_made_again() -> None:
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(GOOD)
    passwords = Passwords()

    assert passwords.needs_rehash(cheap)
    assert passwords.needs_rehash("nonsense")
    assert passwords.verify(cheap, GOOD, 1e12)
