"""Many who ask the same at the same time make one call."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from main_api.errors import GatewayTimeout

T = TypeVar("T")

# One that fails may have failed by itself (its deadline, a lost connection); two have not.
_FAILURES_MOST = 2


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.turned = threading.Condition()
        self.led = True
        self.waiting = 0
        self.failures = 0
        self.landed: list[T] = []
        self.error: Exception | None = None


class Flights(Generic[T]):
    """One call per key at a time: the first asker leads, the others wait for what it gets.

    When the leader fails, exactly one of the waiting leads in its place, the others go on waiting; what
    a second one fails with, all of them get. Each waits no longer than its own deadline.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight[T]] = {}

    def __len__(self) -> int:
        """Give the number of calls under way."""
        return len(self._flights)

    def share(self, key: str, deadline: float, ask: Callable[[], T]) -> tuple[T, bool]:
        """Give what ``ask`` gives, and whether another one asked.

        Raises what ``ask`` raises, another's failure, or :class:`GatewayTimeout` at ``deadline``, a
        moment of the clock.
        """
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
            else:
                with flight.turned:
                    flight.waiting += 1
        if not leads and not self._wait(flight, deadline):
            if flight.error is not None:
                raise flight.error
            return flight.landed[0], True
        return self._lead(key, flight, ask), False

    def _wait(self, flight: _Flight[T], deadline: float) -> bool:
        """Wait for the outcome; True when this one is to lead instead."""
        with flight.turned:
            try:
                while not flight.landed and flight.error is None:
                    if not flight.led:
                        flight.led = True
                        return True
                    left = deadline - self._clock()
                    if left <= 0:
                        raise GatewayTimeout(cause="another request's call took too long")
                    flight.turned.wait(left)
                return False
            finally:
                flight.waiting -= 1

    def _lead(self, key: str, flight: _Flight[T], ask: Callable[[], T]) -> T:
        try:
            found = ask()
        except BaseException as error:
            self._failed(key, flight, error)
            raise
        with self._lock, flight.turned:
            flight.landed.append(found)
            self._end(key, flight)
        return found

    def _failed(self, key: str, flight: _Flight[T], error: BaseException) -> None:
        with self._lock, flight.turned:
            flight.failures += 1
            flight.led = False
            if not flight.waiting:
                self._end(key, flight)
            elif flight.failures >= _FAILURES_MOST:
                flight.error = error if isinstance(error, Exception) else GatewayTimeout(cause="nobody asked")
                self._end(key, flight)
            flight.turned.notify_all()

    def _end(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.turned.notify_all()
