"""Waiting for AWS: one call for concurrent identical reads, and for each reader its own end of patience.

boto3's timeouts are fixed in its clients, so the *wait* is bounded instead: reads run on a small
executor, and who waits leaves when the own time is over, while the read may go on for the others.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

from auxiliary_service.aws.pages import Patience
from auxiliary_service.errors import AwsTimeout

T = TypeVar("T")

# Seconds: with less than this left for everybody, no call is begun; its answer would come too late.
LEAST = 0.05

log = logging.getLogger(__name__)


class ReadKey(NamedTuple):
    """What makes two reads identical: the operation and everything that its result depends on."""

    operation: str
    arguments: tuple[Hashable, ...]


class _Flight:
    """One read under way: who joins before it ends gets its result."""

    __slots__ = ("deadline", "future", "so_far")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.so_far: Any = None
        self.future: Future[Any] = Future()


class SharedReads:
    """Runs reads on ``threads`` threads and shares each among those who want the same at the same time.

    Nothing is kept after a read is complete; an error is shared like a result. A read that still
    queues when its last waiter has left is never begun, so hanging calls (some 8 s at most, by the
    clients' limits) hold up the threads but what queued behind them is dropped, not worked off. The
    threads are joined at interpreter exit: with nobody waiting that is at most the call under way.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="aws")
        # Guards the bookkeeping below and every flight's fields; never held during a call.
        self._lock = threading.Lock()
        self._flights: dict[ReadKey, _Flight] = {}

    def read(self, key: ReadKey, work: Callable[[Patience], T], seconds: float, late: str | None = None) -> T:
        """Give the result of ``work``, begun for this reader or under way for another.

        Waits at most ``seconds``; then gives what the work has offered so far, or raises
        :class:`AwsTimeout` with the sentence ``late``. A reader with more time than those before
        extends the patience of the work.
        """
        flight = self._join(key, work, seconds, late)
        result: T
        try:
            result = flight.future.result(timeout=max(seconds, 0))
        except TimeoutError:
            # The wait is over, unless the result came this very instant or the work itself raised this.
            done = flight.future.done()
            result = flight.future.result() if done else self._leave(key, flight, late)
        return result

    def _join(self, key: ReadKey, work: Callable[[Patience], T], seconds: float, late: str | None) -> _Flight:
        with self._lock:
            deadline = self._clock() + seconds
            flight = self._flights.get(key)
            if flight is not None:
                flight.deadline = max(flight.deadline, deadline)
                return flight
            if seconds < LEAST:
                raise AwsTimeout(late)
            flight = _Flight(deadline)
            # The context carries the request id of the request that begins the read into its log lines.
            flight.future = self._executor.submit(copy_context().run, self._run, key, flight, work, late)
            self._flights[key] = flight
            return flight

    def _run(self, key: ReadKey, flight: _Flight, work: Callable[[Patience], T], late: str | None) -> T:
        patience = _Patience(self, key, flight)
        try:
            if not patience.lasts():
                raise AwsTimeout(late)
            return work(patience)
        finally:
            self._end(key, flight)

    def _end(self, key: ReadKey, flight: _Flight) -> None:
        with self._lock:
            # Another flight may have begun under this key after this one gave up.
            if self._flights.get(key) is flight:
                del self._flights[key]

    def _leave(self, key: ReadKey, flight: _Flight, late: str | None) -> Any:
        if flight.so_far is not None:
            return flight.so_far
        log.warning(
            "the wait for AWS ended before its answer", extra={"fields": {"operation": key.operation}}
        )
        raise AwsTimeout(late)

    def lasts(self, key: ReadKey, flight: _Flight) -> bool:
        """Whether some waiter of ``flight`` has time for another call; if not, nobody joins it any more."""
        with self._lock:
            if flight.deadline - self._clock() >= LEAST:
                return True
            if self._flights.get(key) is flight:
                del self._flights[key]
            return False


class _Patience:
    """The patience of a flight's waiters together, as its work sees it."""

    def __init__(self, reads: SharedReads, key: ReadKey, flight: _Flight) -> None:
        self._reads = reads
        self._key = key
        self._flight = flight

    def lasts(self) -> bool:
        return self._reads.lasts(self._key, self._flight)

    def offer(self, so_far: object) -> None:
        self._flight.so_far = so_far
