"""The cache's store of this process."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from main_api.state.entries import Entry, pack, unpack

# What the dictionary holds beside key and value: its slot, a link of the order, the value's reference.
_PLACE_BYTES = 320
# A larger share would let one answer push out all others.
_SHARE = 8


class MemoryStore:
    """Answers by key, ``size`` bytes of them at most, all that they cost included.

    The least recently used go first; an answer of more than an eighth of the room is not kept.
    """

    def __init__(self, size: int, clock: Callable[[], float] = monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    def now(self) -> float:
        """Give the moment that entries are counted from."""
        return self._clock()

    def get(self, key: str) -> Entry | None:
        """Give the answer kept for ``key``."""
        with self._lock:
            data = self._kept.get(key)
            if data is None:
                return None
            self._kept.move_to_end(key)
        return unpack(data)

    def put(self, key: str, entry: Entry) -> bool:
        """Keep ``entry`` in the place of what there was; whether it is small enough."""
        data = pack(entry)
        cost = _cost(key, data)
        with self._lock:
            self._drop(key)
            if cost > self._size // _SHARE:
                return False
            self._kept[key] = data
            self._used += cost
            while self._used > self._size:
                self._drop(next(iter(self._kept)))
        return True

    def drop(self, key: str) -> None:
        """Forget ``key``."""
        with self._lock:
            self._drop(key)

    def drop_all(self, prefix: str) -> int:
        """Forget every key that begins with ``prefix``; give how many there were."""
        with self._lock:
            keys = [key for key in self._kept if key.startswith(prefix)]
            for key in keys:
                self._drop(key)
        return len(keys)

    def _drop(self, key: str) -> None:
        data = self._kept.pop(key, None)
        if data is not None:
            self._used -= _cost(key, data)


def _cost(key: str, data: bytes) -> int:
    return sys.getsizeof(key) + sys.getsizeof(data) + _PLACE_BYTES
