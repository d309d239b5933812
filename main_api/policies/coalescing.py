"""Many who ask the same at the same time make one call."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from chassis.errors import ServiceError
from main_api.errors import GatewayTimeout

T = TypeVar("T")

# One that fails may have failed by itself (a lost connection, an end of its thread); two have not.
_FAILURES_MOST = 2
_COUNTERS = 256


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
    a second one fails with, all of them get. A leader that had less time than it took has failed for
    itself alone. Each waits no longer than its own deadline. (Go's ``singleflight``, with these added.)
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight[T]] = {}
        self._landings = [0] * _COUNTERS

    def __len__(self) -> int:
        """Give the number of calls under way that others may join."""
        return len(self._flights)

    def landings(self, key: str) -> int:
        """Give a number that is another one after a call for ``key`` has succeeded."""
        return self._landings[hash(key) % _COUNTERS]

    def part(self, wanted: Callable[[str], bool]) -> None:
        """Have nobody else join what is under way for a ``wanted`` key: it may be from before a change."""
        with self._lock:
            for key in [key for key in self._flights if wanted(key)]:
                del self._flights[key]

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
        if not leads and not self._wait(key, flight, deadline):
            if flight.error is not None:
                raise _own(flight.error)
            return flight.landed[0], True
        return self._lead(key, flight, deadline, ask), False

    def _wait(self, key: str, flight: _Flight[T], deadline: float) -> bool:
        """Wait for the outcome; True when this one is to lead instead."""
        with flight.turned:
            while not flight.landed and flight.error is None:
                left = deadline - self._clock()
                if left <= 0:
                    break
                if not flight.led:
                    flight.led = True
                    flight.waiting -= 1
                    return True
                flight.turned.wait(left)
            else:
                flight.waiting -= 1
                return False
        with self._lock, flight.turned:
            flight.waiting -= 1
            if not flight.led and not flight.waiting:
                # Its leader failed, and nobody is left to take its place.
                self._end(key, flight)
        raise GatewayTimeout(cause="another request's call took too long")

    def _lead(self, key: str, flight: _Flight[T], deadline: float, ask: Callable[[], T]) -> T:
        try:
            found = ask()
        except BaseException as error:
            counts = not (isinstance(error, GatewayTimeout) and self._clock() >= deadline)
            self._failed(key, flight, error, counts)
            raise
        with self._lock, flight.turned:
            self._landings[hash(key) % _COUNTERS] += 1
            flight.landed.append(found)
            self._end(key, flight)
        return found

    def _failed(self, key: str, flight: _Flight[T], error: BaseException, counts: bool) -> None:
        with self._lock, flight.turned:
            flight.failures += counts
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


def _own(error: Exception) -> Exception:
    """Copy an error: raised in several threads at once, one object would collect all their tracebacks.

    What is none of ours is a bug, and may be made in any way: it stays the one that it is.
    """
    if not isinstance(error, ServiceError):
        return error
    made = error.__class__.__new__(error.__class__, *error.args)
    made.__dict__.update(error.__dict__)
    return made
