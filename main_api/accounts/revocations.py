"""What was revoked: looked up in this process, and shared with the others off the way of requests."""

import logging
import math
import random as random_module
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from main_api.accounts.listed import Listed
from main_api.accounts.verified import Verified

log = logging.getLogger(__name__)

T = TypeVar("T")

# Kind, digest or name, and two moments of the wall clock: tokens of a user are revoked that were issued until
# the first, and the second is when all that is over.
Item = tuple[str, str, float, float]

TOKEN, USER, KEY = "token", "user", "key"
# As a user: whoever shows a token.
EVERYBODY = "*"

# Seconds for which anything that is said of tokens can matter: a little more than the 24 h that one may live,
# and less than the 25 h for which Redis keeps it.
LIFETIME_MOST = 24.5 * 3600
# Seconds after the last good reading at which the list counts as out of date.
CURRENT_SECONDS = 2.0
# Bytes of a name.
NAME_MOST = 1024

_PAUSE = 0.4
_JITTER = 0.1
_FORGET_AFTER = 120.0
# Seconds that the clock of who issues may be ahead of the clock of who revokes, and that a revocation may
# reach into the future.
_CLOCKS_APART = 60.0
_AHEAD = 300.0
_KEY_UNTIL_MOST = 1e11
_TOKENS_MOST = 1_000_000
_USERS_MOST = _KEYS_MOST = 100_000
# How many are looked at in a round for whether they are over; a list of a million takes 100 s.
_LOOKED_AT = 4096
_BATCH = 1000
_SENT_A_ROUND = 50_000
# Of what this process has sent and read again, so many are sent at once when they are lost: who else has read
# them is not known.
_OWN_MOST = 1000
# Seconds after which what was lost is written back by everybody who knows it, whoever has the lock.
_RESTORE_ANYWAY = 10.0
# In the place of the round in which something was sent: not sent yet; there once, and lost.
_UNSENT, _LOST = -1, -2


class Shared(Protocol):
    """The list of all processes, such as :class:`main_api.state.redis_revocations.RedisRevocations`."""

    def read(self) -> tuple[Sequence[Item], bool, bool, bool] | None:
        """Give what is new and whether the list lost what it had, goes on, and is whole; None: no answer."""

    def publish(self, items: Sequence[Item], *, waited_for: bool = False) -> bool:
        """Add ``items``; whether they are there now. ``waited_for``: by a request."""

    def claim(self) -> bool:
        """Whether this process is to write back what was lost."""


class Revocations:
    """Says of a token or key whether it was revoked, by a look into a dictionary and nothing else.

    What is revoked here holds here at once, and in all processes with the same ``shared`` list within a
    second. While that is out of reach, what is known goes on to hold, :attr:`stale_since` says since when
    there may be more, and what was revoked here waits to be published; when the process ends first, that is
    lost. Without a ``shared`` list this process is the only one.

    A token is forgotten when it has expired, with two minutes for clocks that differ. Of more than
    ``tokens_most`` tokens the oldest tenth is let go, and in its place every token is refused that was issued
    before the last of those was revoked: whoever has such an old one logs in again. Likewise of users. Keys
    have no age: beyond 100,000 those that others revoke are not taken, and the list counts as out of date.
    Start it after the fork.
    """

    def __init__(
        self,
        shared: Shared | None,
        *,
        tokens_most: int = _TOKENS_MOST,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._monotonic = monotonic
        self._random = random
        self._tokens, self._users, self._keys = map(Listed, (tokens_most, _USERS_MOST, _KEYS_MOST))
        self._lists = {USER: self._users, KEY: self._keys, TOKEN: self._tokens}
        # Held to change a list; who looks into one takes no lock.
        self._lock = threading.Lock()
        self._number = 0
        self._begun = (clock(), monotonic())
        self._read_at: float | None = None
        self._keys_left_out = False
        self._restore_at = 0.0
        self._own: deque[tuple[Listed, str]] = deque(maxlen=_OWN_MOST)
        self._told_current = True
        self._told: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="revocations", daemon=True)

    def revoked(self, token: Verified) -> bool:
        """Whether ``token``, or all of its user's that are as old, were revoked."""
        if token.revocation_id in self._tokens.names:
            return True
        users = self._users.names
        if not users:
            return False
        for name in (EVERYBODY, token.subject, token.user_id):
            said = users.get(name) if name else None
            # Not `issued <= before`, which is false of what is no number.
            if said is not None and not token.issued > said[0]:
                return True
        return False

    def key_revoked(self, key_id: str) -> bool:
        """Whether the key was revoked."""
        return key_id in self._keys.names

    def revoke_token(self, revocation_id: str, until: float) -> bool:
        """Refuse a token until it expires, here at once; whether all processes are told.

        False when the shared list is out of reach: it is told later. Raises :class:`ValueError` for a name
        that is empty or too long.
        """
        return self._revoke(TOKEN, revocation_id, self._clock(), until)

    def revoke_user(self, name: str, before: float, until: float) -> bool:
        """Refuse the tokens of a subject or user id that were issued at ``before`` or earlier.

        Ours say in milliseconds when they were issued. Where an ``iat`` has no fractions, a token of later in
        the same second is refused as well: if it were not, one of earlier in that second would pass. For
        an issuer whose clock may be ahead, add as much to ``before``. :data:`EVERYBODY` is all users. The
        last of those tokens has expired at ``until``. Else as :meth:`revoke_token`.
        """
        return self._revoke(USER, name, before, until)

    def revoke_key(self, key_id: str, until: float | None = None) -> bool:
        """Refuse a key, until it expires or for good; else as :meth:`revoke_token`."""
        return self._revoke(KEY, key_id, 0.0, math.inf if until is None else until)

    @property
    def current(self) -> bool:
        """Whether the shared list was read within the last two seconds."""
        return self.stale_since is None

    @property
    def stale_since(self) -> float | None:
        """The moment of the wall clock since which something may be missing here; None when nothing is."""
        if self._shared is None:
            return None
        read_at = self._read_at
        if read_at is None:
            return self._begun[0]
        age = self._monotonic() - read_at
        return None if age <= CURRENT_SECONDS and not self._keys_left_out else self._clock() - age

    @property
    def pending(self) -> int:
        """How many the shared list is not known to have."""
        return sum(len(listed.lacking) for listed in self._lists.values())

    def start(self) -> None:
        """Begin; the shared list is read at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, wait for the round that is under way, and try once more to publish what is pending."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._shared is None:
            return
        self._send(self._shared, lambda sent: sent == _UNSENT)
        if any(_UNSENT in listed.lacking.values() for listed in self._lists.values()):
            log.warning("revocations: some could not be published, and end with this process")

    def round(self) -> None:
        """Read what is new, publish what is pending, and forget what is over."""
        self._number += 1
        shared = self._shared
        if shared is not None:
            # First, for a key has one value there: it is written with what others know of it.
            if self._read(shared):
                # What was sent before this reading began and was not found by it, too.
                self._send(shared, lambda sent: _UNSENT <= sent < self._number)
                self._restore(shared)
            else:
                self._send(shared, lambda sent: sent == _UNSENT)
            self._tell()
        with self._lock:
            for listed in self._lists.values():
                listed.look(self._forgotten_until(), _LOOKED_AT)

    def _revoke(self, kind: str, name: str, before: float, until: float) -> bool:
        if not 0 < len(name.encode("utf-8", "surrogatepass")) <= NAME_MOST:
            raise ValueError(f"{kind}: a name of 1 to {NAME_MOST} bytes is needed")
        before, until = self._bounded(kind, before, until)
        listed = self._lists[kind]
        with self._lock:
            if until < self._forgotten_until():
                return True
            new = listed.put(name, before, until)
            if self._shared is not None and new:
                listed.lacking[name] = _UNSENT
            self._make_room(listed)
            if self._shared is None or name not in listed.lacking:
                return True
        return self._deliver(self._shared, kind, [name], waited_for=True)

    def _bounded(self, kind: str, before: float, until: float) -> tuple[float, float]:
        """Give moments that are possible; what is no number becomes the latest one."""
        now = self._clock()
        if kind == KEY:
            return 0.0, until if until < _KEY_UNTIL_MOST else math.inf
        before = max(0.0, before if before < now + _AHEAD else now + _AHEAD)
        until = max(0.0, until if until < now + LIFETIME_MOST else now + LIFETIME_MOST)
        if kind == TOKEN:
            before = math.ceil(before / 60) * 60.0
        # Redis is written no exponents.
        return before if before >= 1 else 0.0, math.ceil(until / 60) * 60.0

    def _forgotten_until(self) -> float:
        wall, monotonic = self._begun
        # A wall clock that has jumped ahead must not make anything forgotten.
        return min(self._clock(), wall + self._monotonic() - monotonic) - _FORGET_AFTER

    def _make_room(self, listed: Listed) -> None:
        if len(listed.names) <= listed.most or listed is self._keys:
            return
        let_go = listed.shorten(self._forgotten_until())
        if let_go is None:
            return
        log.warning(
            "revocations: more than %d at a time; whoever has an old token logs in again", listed.most
        )
        before, until = let_go
        before += _CLOCKS_APART if listed is self._tokens else 0.0
        if self._users.put(EVERYBODY, before, until) and self._shared is not None:
            self._users.lacking[EVERYBODY] = _UNSENT

    def _read(self, shared: Shared) -> bool:
        """Read up to the end of the shared list; whether that succeeded."""
        begun_anew = False
        while not self._over.is_set():
            began = self._monotonic()
            page = self._asked(shared.read)
            if page is None:
                return False
            items, lost, more, whole = page
            if lost:
                if begun_anew:
                    return False
                begun_anew = True
                self._lose()
            self._take(items)
            if not more:
                self._read_at = began if whole else self._read_at
                return True
        return False

    def _take(self, items: Sequence[Item]) -> None:
        with self._lock:
            forgotten = self._forgotten_until()
            for kind, name, before, until in items:
                before, until = self._bounded(kind, before, until)
                if kind not in self._lists:
                    continue
                listed = self._lists[kind]
                if until >= forgotten and not (kind == TOKEN and self._covered(before, until)):
                    self._add(listed, name, before, until)
                if listed.says(name, before, until):
                    if listed.lacking.pop(name, _LOST) >= 0:
                        self._own.append((listed, name))
                elif kind == KEY:
                    # There is one value for a key, and somebody else's is in the place of a later one.
                    listed.lacking.setdefault(name, _UNSENT)

    def _covered(self, before: float, until: float) -> bool:
        """Whether a token that was revoked at ``before`` is refused with everybody's."""
        said = self._users.names.get(EVERYBODY)
        return said is not None and before + _CLOCKS_APART <= said[0] and until <= said[1]

    def _add(self, listed: Listed, name: str, before: float, until: float) -> None:
        if listed is self._keys and len(listed.names) >= listed.most and name not in listed.names:
            if not self._keys_left_out:
                log.error("revocations: more than %d keys, not all are known here", listed.most)
            self._keys_left_out = True
            return
        listed.put(name, before, until)
        self._make_room(listed)

    def _lose(self) -> None:
        """Take nothing for granted that the shared list was known to have."""
        with self._lock:
            for listed in self._lists.values():
                listed.lacking = {**dict.fromkeys(listed.names, _LOST), **listed.lacking}
            for listed, name in self._own:
                if name in listed.names:
                    listed.lacking[name] = _UNSENT
            self._own.clear()
        self._restore_at = self._monotonic() + _RESTORE_ANYWAY * (1 + self._random())

    def _restore(self, shared: Shared) -> None:
        if not any(_LOST in listed.lacking.values() for listed in self._lists.values()):
            return
        # What another one writes back is read meanwhile, and lacks no more.
        if self._monotonic() >= self._restore_at or self._asked(shared.claim):
            self._send(shared, lambda sent: sent == _LOST)

    def _send(self, shared: Shared, due: Callable[[int], bool]) -> None:
        for kind, listed in self._lists.items():
            with self._lock:
                names = (name for name, sent in listed.lacking.items() if due(sent))
                some = list(islice(names, _SENT_A_ROUND))
            for at in range(0, len(some), _BATCH):
                if not self._deliver(shared, kind, some[at : at + _BATCH]):
                    return

    def _deliver(self, shared: Shared, kind: str, names: Sequence[str], *, waited_for: bool = False) -> bool:
        listed = self._lists[kind]
        with self._lock:
            items = [(kind, name, *listed.names[name]) for name in names if name in listed.names]
        if not self._asked(lambda: shared.publish(items, waited_for=waited_for)):
            return False
        with self._lock:
            # It lacks until it was read: what was sent may have been lost before anybody read it.
            listed.lacking.update((name, self._number) for name in names if name in listed.lacking)
        return True

    def _asked(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except Exception as error:
            if type(error).__name__ not in self._told:
                self._told.add(type(error).__name__)
                log.exception("asking for the shared list of revocations failed")
            return None

    def _tell(self) -> None:
        current = self.current
        if current != self._told_current and not self._over.is_set():
            self._told_current = current
            level, what = (
                (logging.INFO, "known again") if current else (logging.WARNING, "perhaps not all known")
            )
            log.log(level, "revocations of other processes: %s", what)

    def _run(self) -> None:
        while True:
            try:
                self.round()
            except Exception:
                log.exception("a round of revocations failed")
            if self._over.wait(_PAUSE * (1 + _JITTER * (2 * self._random() - 1))):
                return
