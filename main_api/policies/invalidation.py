"""An answer that is on its way while its thing is changed is given, and not kept."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Readings:
    """Those of one key that are under way; ``storing`` is held while one of them is kept."""

    __slots__ = ("storing", "under_way")

    def __init__(self) -> None:
        self.storing = threading.Lock()
        self.under_way: set[Reading] = set()


class Reading:
    """One call that reads a key, from before it is sent; ``overtaken``: its answer may be an old one."""

    __slots__ = ("number", "of_key", "overtaken")

    def __init__(self, of_key: _Readings, number: int) -> None:
        self.of_key = of_key
        self.number = number
        self.overtaken = False


class Invalidation:
    """Orders what is kept and what is forgotten, by when it was asked for and not by when it came.

    Two calls for the same thing can end in the other order than they began, and a change can come between.
    (RFC 9111, 4: the most recent response; 4.4: what was invalidated.) It knows the calls of this process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._keys: dict[str, _Readings] = {}

    def __len__(self) -> int:
        """Give the number of keys that are being read."""
        return len(self._keys)

    @contextmanager
    def reading(self, key: str) -> Iterator[Reading]:
        """Note that ``key`` is being asked for, as long as the block lasts."""
        with self._lock:
            of_key = self._keys.get(key)
            if of_key is None:
                of_key = self._keys[key] = _Readings()
            reading = Reading(of_key, next(self._numbers))
            of_key.under_way.add(reading)
        try:
            yield reading
        finally:
            with self._lock:
                of_key.under_way.discard(reading)
                if not of_key.under_way:
                    del self._keys[key]

    def keep(self, reading: Reading, store: Callable[[], bool | None]) -> bool:
        """Do ``store`` unless ``reading`` was overtaken; all that began before it are overtaken by it.

        Gives whether it was done and gave True.
        """
        with reading.of_key.storing:
            if reading.overtaken:
                return False
            kept = store() is True
            self._overtake(reading.of_key, before=reading.number)
            return kept

    def change(self, wanted: Callable[[str], bool], forget: Callable[[], object]) -> None:
        """Do ``forget``: whatever is under way for a ``wanted`` key is overtaken, and not kept after it."""
        with self._lock:
            changed = [of_key for key, of_key in self._keys.items() if wanted(key)]
        for of_key in changed:
            # Who is storing ends first, and what it stored is forgotten below.
            with of_key.storing:
                self._overtake(of_key)
        forget()

    def _overtake(self, of_key: _Readings, before: int | None = None) -> None:
        with self._lock:
            for each in of_key.under_way:
                if before is None or each.number < before:
                    each.overtaken = True
