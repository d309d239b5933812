"""Redis for all its users in a process: asked while it is there, and not waited for while it is away."""

import logging
import threading
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds after a failure in which nobody asks.
AWAY_SECONDS = 1.0
# Seconds between two log lines that say that Redis refuses.
_REFUSED_SECONDS = 60.0
_REASON_MOST = 200


def address(url: str) -> str:
    """Give of ``url`` what may be logged: host and port, or the path of the socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    host = parts.hostname or "localhost"
    return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"


class RedisGuard:
    """Runs work with Redis, and something else in its place while Redis is away.

    After one failure it is away for :data:`AWAY_SECONDS`: nobody tries. Then one call tries, and for all
    others it stays away until that one has succeeded. So an outage costs a request one wait at most, and
    nearly all requests nothing. ``told`` is called with ``away`` and ``back``, once for each change, by
    the thread that found it; ``address`` is what the log says of Redis.
    """

    def __init__(
        self,
        client: Redis,
        address: str,
        *,
        clock: Callable[[], float] = monotonic,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.address = address
        self._client = client
        self._clock = clock
        self._told = told
        self._lock = threading.Lock()
        self._away = False
        self._trying = False
        self._try_at = 0.0
        # Counts the changes. A call carries the number that it began with; when it ends under another one,
        # what it met is of an earlier time and says nothing of now.
        self._changes = 0
        self._refused_at = -inf

    def call(self, work: Callable[[Redis], T], otherwise: T) -> T:
        """Give what ``work`` gives, or ``otherwise`` when Redis is away, fails, refuses or is too slow.

        Errors that are not of Redis pass through.
        """
        turn = self._turn()
        if turn is None:
            return otherwise
        try:
            done = work(self._client)
        except ResponseError as error:
            # It refuses this command (no memory, no right, a value of another kind), so it is there.
            self._answered(turn)
            self._refused(error)
            return otherwise
        except (RedisError, OSError) as error:
            self._failed(turn, error)
            return otherwise
        except BaseException:
            self._undecided(turn)
            raise
        self._answered(turn)
        return done

    def _turn(self) -> int | None:
        with self._lock:
            if self._away:
                if self._trying or self._clock() < self._try_at:
                    return None
                self._trying = True
            return self._changes

    def _answered(self, turn: int) -> None:
        with self._lock:
            if not self._away or turn != self._changes:
                return
            self._away = self._trying = False
            self._changes += 1
        log.info("Redis at %s is back", self.address)
        self._told("back")

    def _failed(self, turn: int, error: Exception) -> None:
        with self._lock:
            if turn != self._changes:
                return
            self._try_at = self._clock() + AWAY_SECONDS
            self._trying = False
            if self._away:
                return
            self._away = True
            self._changes += 1
        log.warning("Redis at %s is away: %s", self.address, _reason(error))
        self._told("away")

    def _undecided(self, turn: int) -> None:
        with self._lock:
            if self._away and turn == self._changes:
                self._trying = False

    def _refused(self, error: ResponseError) -> None:
        with self._lock:
            now = self._clock()
            if now < self._refused_at + _REFUSED_SECONDS:
                return
            self._refused_at = now
        # Its text may repeat the command, and with it a key.
        log.warning("Redis at %s refuses: %s", self.address, type(error).__name__)


def _reason(error: Exception) -> str:
    """Write an error; the text of others than these may hold what Redis sent."""
    name = type(error).__name__
    return f"{name}: {error}"[:_REASON_MOST] if isinstance(error, Unconnected | TimedOut | OSError) else name
