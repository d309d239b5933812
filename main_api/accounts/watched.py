"""The accounts file, read again whenever it has changed."""

import hashlib
import logging
import os
import threading
from collections.abc import Callable

from main_api.accounts.file import Accounts, AccountsFault, parse, read

log = logging.getLogger(__name__)

# Seconds between two looks. What was written in place is taken at the second one: within 5 s all the same.
_INTERVAL = 2.0
_LOGGED_MOST = 5

_Stamp = tuple[int, int, int, int]


class WatchedAccounts:
    """Gives the accounts of the file at ``path`` as it last was without a fault.

    A file that is absent, unreadable or wrong leaves what was known, with one warning for each new fault.
    ``changed`` is called with the accounts before and after, once for each change, by the thread that looks.
    ``at_first`` is what there is until the file has been good once; without it, a file that is not raises
    :class:`AccountsFault` or :class:`OSError`. Start it after the fork.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        interval: float = _INTERVAL,
        at_first: Accounts | None = None,
        changed: Callable[[Accounts, Accounts], object] = lambda _, __: None,
    ) -> None:
        self._path = os.fspath(path)
        self._interval = interval
        self._changed = changed
        self._fault: str | None = None
        self._seen: _Stamp | None = None
        self._unsettled: _Stamp | None = None
        self._digest = b""
        try:
            self._current = self._first()
        except (AccountsFault, OSError) as error:
            if at_first is None:
                raise
            self._current = at_first
            self._failed(_reason(error))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="accounts", daemon=True)

    @property
    def current(self) -> Accounts:
        """The accounts; a new object after each change, never changed itself."""
        return self._current

    @property
    def fault(self) -> str | None:
        """What is wrong with the file now, None for nothing; for the log, for it may name paths."""
        return self._fault

    def start(self) -> None:
        """Begin to look, every two seconds."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the look that is under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Look once, and take what is new."""
        try:
            stamp = self._stamp()
            if stamp == self._seen or not self._settled(stamp):
                return
            text = read(self._path)
            digest = _digest(text)
            # Before it is parsed: the same fault is not looked for every two seconds.
            self._seen = stamp
            accounts = self._current if digest == self._digest else parse(text)
        except AccountsFault as error:
            self._failed(_reason(error))
        except OSError as error:
            self._seen = None
            self._failed(_reason(error))
        else:
            self._take(accounts, digest)

    def _first(self) -> Accounts:
        # Before the file is read: what changes in between is found by the next look.
        seen = self._stamp()
        text = read(self._path)
        accounts = parse(text)
        self._seen, self._digest = seen, _digest(text)
        return accounts

    def _settled(self, stamp: _Stamp) -> bool:
        """Whether a file can be taken to be whole: it replaced another one, or is the same for two looks.

        The first half of a file that is being written in place may well be YAML, without half of the users.
        """
        replaced = self._seen is not None and stamp[:2] != self._seen[:2]
        if replaced or stamp == self._unsettled:
            self._unsettled = None
            return True
        self._unsettled = stamp
        return False

    def _take(self, accounts: Accounts, digest: bytes) -> None:
        before, self._current, self._digest = self._current, accounts, digest
        again, self._fault = self._fault is not None, None
        if again or accounts is not before:
            log.info(
                "accounts in %s: %s, %d users, %d keys",
                self._path,
                "good again" if again else "changed",
                len(accounts.users),
                len(accounts.keys),
            )
        if accounts is not before:
            self._changed(before, accounts)

    def _failed(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            log.warning("accounts in %s are not taken, the last good ones stay: %s", self._path, fault)

    def _stamp(self) -> _Stamp:
        # Through symlinks: a ConfigMap or a Secret changes by one that points to another folder.
        found = os.stat(self._path)
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self.look()
            except Exception:
                log.exception("looking at the accounts failed")


def _reason(error: AccountsFault | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    more = len(error.faults) - _LOGGED_MOST
    return "; ".join([*error.faults[:_LOGGED_MOST], *([f"and {more} more"] if more > 0 else [])])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
