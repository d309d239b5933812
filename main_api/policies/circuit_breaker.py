"""When an instance is ejected, and how it comes back: one state machine per instance.

The states and the generation that drops late answers are those of gobreaker, the ejection times that
grow those of Envoy's outlier detection. Only the bookkeeping is under the lock, never a call.

::

    closed ── 50 % of at least 20 calls in 10 s failed, or 5 in a row ──> open
    open ── its time is over ──> half-open ── 3 of 3 calls succeeded ──> closed
                                 half-open ── one failed ──> open, for twice as long
    open, because it could not be reached ── a health check reached it ──> half-open
"""

import enum
import logging
import random as random_module
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from main_api.policies.window import Window

log = logging.getLogger(__name__)

_JITTER = 0.1
_ROUNDING = 1e-9
# Beyond, doubling is past every `open_most` that anybody sets.
_DOUBLINGS_MOST = 30


class State(enum.Enum):
    """Where a breaker is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(enum.Enum):
    """What a call says of its instance: it works, it is ill, it is not there (and so ill), or nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNREACHABLE = "unreachable"
    NOT_ITS_BUSINESS = "not its business"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens and for how long, in seconds. Raises :class:`ValueError`, naming the field."""

    failure_rate: float = 0.5
    minimum_calls: int = 20
    window: float = 10.0
    failures_in_a_row: int = 5
    open_seconds: float = 5.0
    open_most: float = 60.0
    half_open_calls: int = 3
    healthy_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.failure_rate <= 1:
            raise ValueError(f"failure_rate: above 0, at most 1 needed, got {self.failure_rate}")
        for name in ("minimum_calls", "failures_in_a_row", "half_open_calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 needed, got {getattr(self, name)}")
        for name in ("window", "open_seconds", "healthy_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if not self.open_most >= self.open_seconds:
            raise ValueError(f"open_most: at least open_seconds ({self.open_seconds:g}) needed")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state: ``reason`` for the log; ``open_for`` seconds when it opened."""

    before: State
    after: State
    reason: str
    open_for: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A breaker as it is at one moment; moments are of its clock.

    ``why`` is the reason of its last change, None before the first, ``since`` when that was.
    ``calls`` and ``failures`` are those that count: while it is closed those of the window, while it is
    half-open those since it is, while it is open those that opened it. ``failures_in_a_row`` goes on over
    such changes until a call succeeds. ``opened`` counts all times since it was made. ``next_attempt`` is
    when an open one lets a call through; it may be over, for an open one stays so until it is asked.
    """

    state: State
    why: str | None
    since: float
    failures_in_a_row: int
    calls: int
    failures: int
    opened: int
    next_attempt: float | None


class Breaker:
    """One instance's breaker: ask :meth:`admit`, make the call, tell :meth:`record` how it ended.

    ``changed`` is called with every change, outside the lock.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        changed: Callable[[Change], object] = lambda _: None,
        *,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._generation = 0
        self._window = Window(settings.window)
        self._in_a_row = 0
        self._opened = 0  # times since the last healthy minute
        self._unreachable = False
        self._until = 0.0
        self._closed_since = self._since = clock()
        self._admitted = self._succeeded = 0
        # What is only shown.
        self._why: str | None = None
        self._opened_by = (0, 0)
        self._opened_ever = 0

    @property
    def state(self) -> State:
        """Where it is; an open one whose time is over stays open until it is asked."""
        return self._state

    def snapshot(self) -> Snapshot:
        """Give all that it knows, of one moment."""
        with self._lock:
            calls, failures = self._counted()
            return Snapshot(
                state=self._state,
                why=self._why,
                since=self._since,
                failures_in_a_row=self._in_a_row,
                calls=calls,
                failures=failures,
                opened=self._opened_ever,
                next_attempt=self._until if self._state is State.OPEN else None,
            )

    def wait(self) -> float:
        """Give the seconds until a call may be admitted, 0 for now: a glance, without the lock."""
        state = self._state
        if state is State.CLOSED:
            return 0.0
        if state is State.OPEN:
            return max(0.0, self._until - self._clock())
        # How long the calls under way take, nobody knows.
        return 0.0 if self._admitted < self._settings.half_open_calls else 1.0

    def admit(self) -> int | None:
        """Let a call through and give its ticket, or give None."""
        change = None
        with self._lock:
            if self._state is State.OPEN:
                now = self._clock()
                if now < self._until:
                    return None
                change = self._turn(now, State.HALF_OPEN, "its time is over")
            if self._state is State.HALF_OPEN:
                if self._admitted >= self._settings.half_open_calls:
                    return None
                self._admitted += 1
            ticket = self._generation
        self._tell(change)
        return ticket

    def record(self, ticket: int, verdict: Verdict) -> None:
        """Count how an admitted call ended; one of an earlier state is dropped."""
        with self._lock:
            if ticket != self._generation:
                return
            change = (
                self._judge_half_open(verdict) if self._state is State.HALF_OPEN else self._judge(verdict)
            )
        self._tell(change)

    def reachable(self) -> None:
        """Let calls decide at once if it is open because the instance could not be reached: now it can.

        A check that reached it disproves that reason and no other: one that times out or answers nonsense
        stays out for its time, however well its health check looks. (Envoy's
        ``successful_active_health_check_uneject_host`` makes no such difference.)
        """
        with self._lock:
            if self._state is not State.OPEN or not self._unreachable:
                return
            change = self._turn(self._clock(), State.HALF_OPEN, "a health check reached it")
        self._tell(change)

    def _tell(self, change: Change | None) -> None:
        try:
            if change is not None:
                self._changed(change)
        except Exception:
            # It must not cost an admitted call its ticket, for which a place is kept.
            log.exception("telling of a breaker's change failed")

    def _judge(self, verdict: Verdict) -> Change | None:
        if verdict is Verdict.NOT_ITS_BUSINESS:
            return None
        failed = verdict is not Verdict.SUCCESS
        now = self._clock()
        self._window.add(now, failed)
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if not failed:
            return None
        calls, failures = self._window.totals(now)
        if self._in_a_row >= self._settings.failures_in_a_row:
            return self._open(now, f"{self._in_a_row} failures in a row", verdict, (calls, failures))
        if (
            calls >= self._settings.minimum_calls
            and failures >= self._settings.failure_rate * calls - _ROUNDING
        ):
            return self._open(now, f"{failures} of {calls} calls failed", verdict, (calls, failures))
        return None

    def _judge_half_open(self, verdict: Verdict) -> Change | None:
        if verdict is Verdict.NOT_ITS_BUSINESS:
            self._admitted -= 1
            return None
        now = self._clock()
        if verdict is not Verdict.SUCCESS:
            self._in_a_row += 1
            return self._open(now, "a call failed while half-open", verdict, (self._succeeded + 1, 1))
        self._succeeded += 1
        self._in_a_row = 0
        if self._succeeded < self._settings.half_open_calls:
            return None
        self._closed_since = now
        return self._turn(now, State.CLOSED, f"{self._succeeded} calls succeeded")

    def _open(self, now: float, reason: str, last: Verdict, counted: tuple[int, int]) -> Change:
        settings = self._settings
        if self._state is State.CLOSED and now - self._closed_since >= settings.healthy_seconds:
            self._opened = 0
        seconds = min(settings.open_most, settings.open_seconds * 2 ** min(self._opened, _DOUBLINGS_MOST))
        # Earlier, never later than it was set; not all workers knock at the same moment.
        seconds *= 1 - _JITTER * self._random()
        self._opened += 1
        self._opened_ever += 1
        self._opened_by = counted
        self._unreachable = last is Verdict.UNREACHABLE
        self._until = now + seconds
        return self._turn(now, State.OPEN, reason, seconds)

    def _counted(self) -> tuple[int, int]:
        """Give calls and failures of the state that it is in."""
        if self._state is State.OPEN:
            return self._opened_by
        return (self._succeeded, 0) if self._state is State.HALF_OPEN else self._window.totals(self._clock())

    def _turn(self, now: float, state: State, reason: str, open_for: float = 0.0) -> Change:
        change = Change(self._state, state, reason, open_for)
        self._state, self._why, self._since = state, reason, now
        self._generation += 1
        self._window.clear()
        self._admitted = self._succeeded = 0
        return change
