"""Asking again: only what may be asked twice, only when it can help, and never so much that it harms."""

import random as random_module
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from main_api.errors import (
    BareServerError,
    BrokenOff,
    Busy,
    CircuitOpen,
    GatewayError,
    GatewayTimeout,
    KeptConnectionClosed,
    ServiceRefused,
    Unexpected,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Proceed, Reply

# RFC 9110, 9.2.2.
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
# Never what AWS said (ServiceRefused): the auxiliary's own client has asked it twice already.
RETRIED = (UpstreamUnavailable, BrokenOff, BareServerError, Busy, GatewayTimeout)
# The service works, whatever it said.
_ANSWERED = (ServiceRefused, Unexpected)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How often and how fast; times in seconds. Raises :class:`ValueError`, naming the field.

    ``attempts`` counts the first one. The n-th retry waits a random time between 0 and
    ``backoff`` · 2ⁿ⁻¹, ``backoff_most`` at most ("full jitter", Brooker, AWS Architecture Blog, 2015).
    """

    attempts: int = 3
    backoff: float = 0.025
    backoff_most: float = 0.25

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: at least 1 needed, got {self.attempts}")
        if not self.backoff >= 0:
            raise ValueError(f"backoff: cannot be below 0, got {self.backoff}")
        if not self.backoff_most >= self.backoff:
            raise ValueError(f"backoff_most: at least backoff ({self.backoff:g}) needed")


class Throttle:
    """Ends retries while most calls fail: gRPC's retry throttling (gRFC A6), one per service.

    A bucket of ``tokens``, full at the start. A retry takes one, a success returns ``returned``, and
    there is no retry while less than half are left: a service that answers nobody is asked hardly more
    than once a call. ``changed`` is called with what is left.
    """

    def __init__(
        self,
        tokens: float = 50.0,
        returned: float = 0.1,
        changed: Callable[[float], object] = lambda _: None,
    ) -> None:
        if not tokens > 0:
            raise ValueError(f"tokens: must be above 0, got {tokens}")
        if not 0 <= returned <= tokens:
            raise ValueError(f"returned: from 0 to tokens ({tokens:g}) needed, got {returned}")
        self._most = self._left = float(tokens)
        self._returned = returned
        self._changed = changed
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """The tokens in the bucket."""
        return self._left

    def take(self) -> bool:
        """Take the token of a retry; whether there was one to be had."""
        with self._lock:
            if self._left < self._most / 2:
                return False
            self._left = max(0.0, self._left - 1)
            left = self._left
        self._changed(left)
        return True

    def succeeded(self) -> None:
        """Return what a success returns."""
        if self._left >= self._most:
            return
        with self._lock:
            # Rounded, so that ten tenths are one.
            left = self._left = min(self._most, round(self._left + self._returned, 9))
        self._changed(left)


class Retry:
    """Makes attempts until one is answered, ``settings.attempts`` of them or the deadline are spent.

    Asked again: an idempotent call that ended in one of :data:`RETRIED`. ``Balance`` gives each
    attempt another instance; when it has none, the last attempt's error stands. A kept connection that
    turned out closed is asked again at once, on a new connection and without a token, once a call, and
    also when ``attempts`` is 1. A
    ``Retry-After`` that does not fit into what is left of the deadline ends it. Each attempt has
    ``attempt_timeout`` seconds, and never more than the call.

    ``retried`` is called with the error's code before each further attempt, ``throttled`` for each that
    the bucket forbade.
    """

    def __init__(
        self,
        settings: RetrySettings,
        throttle: Throttle,
        *,
        attempt_timeout: float,
        retried: Callable[[str], object] = lambda _: None,
        throttled: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        if not attempt_timeout > 0:
            raise ValueError(f"attempt_timeout: must be above 0, got {attempt_timeout}")
        self._settings = settings
        self._throttle = throttle
        self._attempt_timeout = attempt_timeout
        self._retried = retried
        self._throttled = throttled
        self._clock = clock
        self._sleep = sleep
        self._random = random

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer ``call``, asking again where that is right."""
        attempt, fresh, last = 1, False, None
        while True:
            now = self._clock()
            if now >= call.deadline:
                raise last or GatewayTimeout(cause="no time left for an attempt")
            deadline = min(call.deadline, now + self._attempt_timeout)
            try:
                reply = proceed(replace(call, deadline=deadline, fresh=fresh))
            except CircuitOpen:
                if last is not None:
                    raise last from None
                raise
            except RETRIED as error:
                closed = isinstance(error, KeptConnectionClosed)
                self._pause(call, error, attempt, free=closed and not fresh)
                attempt, fresh, last = attempt + 1, fresh or closed, error
            except _ANSWERED:
                self._throttle.succeeded()
                raise
            else:
                self._throttle.succeeded()
                return reply

    def _pause(self, call: Call, error: GatewayError, attempt: int, *, free: bool) -> None:
        """Wait before the next attempt, or raise ``error`` when there is to be none."""
        # Who wants no retries still wants no error for a connection that the instance found too old.
        most = max(self._settings.attempts, 2) if free else self._settings.attempts
        if call.method not in IDEMPOTENT or attempt >= most:
            raise error
        wait = 0.0 if free else self._backoff(attempt, error)
        if self._clock() + wait >= call.deadline:
            raise error
        if not free and not self._throttle.take():
            self._throttled()
            raise error
        self._retried(error.code)
        if wait > 0:
            self._sleep(wait)

    def _backoff(self, attempt: int, error: GatewayError) -> float:
        most = min(self._settings.backoff_most, self._settings.backoff * float(2 ** (attempt - 1)))
        return max(self._random() * most, error.pushback or 0.0)
