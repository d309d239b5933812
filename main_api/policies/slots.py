"""A number of slots, and a bounded queue before them."""

import threading
from collections import deque
from collections.abc import Callable

Wait = Callable[[threading.Lock, float], bool]


def wait_for(lock: threading.Lock, seconds: float) -> bool:
    """Wait until ``lock`` is released, ``seconds`` at most; whether it was."""
    return lock.acquire(timeout=seconds)


class Slots:
    """``size`` slots for which at most ``waiters`` threads wait, first come, first served.

    A slot that is given back goes straight to whoever waits longest: nobody who comes later overtakes.
    """

    def __init__(self, size: int, waiters: int = 0, wait: Wait = wait_for) -> None:
        self._size = self._free = size
        self._waiters_most = waiters
        self._wait = wait
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def state(self) -> tuple[int, int]:
        """Give how many slots are taken, and how many threads wait for one."""
        with self._lock:
            return self._size - self._free, len(self._waiting)

    def take(self, seconds: float = 0.0) -> bool:
        """Take a slot, waiting ``seconds`` at most where there is room to wait; whether there was one."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            if seconds <= 0 or len(self._waiting) >= self._waiters_most:
                return False
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            came = self._wait(turn, seconds)
        except BaseException:
            if not self._withdraw(turn):
                self.give_back()
            raise
        # Between the end of the wait and the lock, the slot may have come after all.
        return came or not self._withdraw(turn)

    def _withdraw(self, turn: threading.Lock) -> bool:
        """Leave the queue; False when the turn has come already, and a slot with it."""
        with self._lock:
            if turn not in self._waiting:
                return False
            self._waiting.remove(turn)
            return True

    def give_back(self) -> None:
        """Give a slot back, once for each :meth:`take` that said yes."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
