"""The link that asks each instance's circuit breaker and tells it how the call ended."""

import logging
import math
import threading
from collections.abc import Callable
from time import monotonic

from main_api.errors import (
    BrokenOff,
    CircuitOpen,
    GatewayTimeout,
    KeptConnectionClosed,
    Malformed,
    ServiceRefused,
    Unexpected,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Instance, Proceed, Reply, Stream
from main_api.policies.circuit_breaker import Breaker, Change, Snapshot, State, Verdict

log = logging.getLogger(__name__)

Changed = Callable[[Instance, Change], object]

# The first that fits decides. A well-formed answer, even an error, shows that the instance works; what
# is not here, such as a fault of our own, says nothing of it.
_VERDICTS: tuple[tuple[type[BaseException], Verdict], ...] = (
    (KeptConnectionClosed, Verdict.NOT_ITS_BUSINESS),
    (UpstreamUnavailable, Verdict.UNREACHABLE),
    (BrokenOff, Verdict.FAILURE),
    (Malformed, Verdict.FAILURE),
    (GatewayTimeout, Verdict.FAILURE),
    (ServiceRefused, Verdict.SUCCESS),
    (Unexpected, Verdict.SUCCESS),
)


def verdict(error: BaseException) -> Verdict:
    """Judge what a call ended in; the clock is not looked at."""
    return next((each for kind, each in _VERDICTS if isinstance(error, kind)), Verdict.NOT_ITS_BUSINESS)


class CircuitBreakers:
    """One breaker per instance, shared by all routes; raises :class:`CircuitOpen` for an ejected one.

    ``make`` makes the breaker of an instance that is new, and is given what to call at its changes.
    A timeout counts only when the attempt had ``fair_seconds``: a client that asks for ten
    milliseconds must not be able to eject an instance for all others.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Change], object]], Breaker],
        changed: Changed = lambda _, __: None,
        *,
        fair_seconds: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._make = make
        self._changed = changed
        self._fair_seconds = fair_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._breakers: dict[Instance, Breaker] = {}

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Send ``call`` to its instance, if that one's breaker lets it."""
        if call.instance is None:
            raise UpstreamUnavailable(cause="no instance was chosen")
        breaker = self.of(call.instance)
        ticket = breaker.admit()
        if ticket is None:
            raise CircuitOpen(cause="ejected", retry_after=max(1, math.ceil(breaker.wait())))
        given = call.deadline - self._clock()
        try:
            reply = proceed(call)
        except BaseException as error:
            breaker.record(ticket, self._judge(error, given))
            raise
        reply.on_settled(lambda: breaker.record(ticket, self._judge_reply(reply, given)))
        return reply

    def of(self, instance: Instance) -> Breaker:
        """Give the breaker of ``instance``."""
        breaker = self._breakers.get(instance)
        if breaker is None:
            with self._lock:
                breaker = self._breakers.get(instance)
                if breaker is None:
                    breaker = self._make(lambda change: self._tell(instance, change))
                    self._breakers[instance] = breaker
        return breaker

    def forget(self, instance: Instance) -> None:
        """Drop the breaker of an instance that is no more; should it come back, it begins closed."""
        with self._lock:
            self._breakers.pop(instance, None)

    def snapshots(self) -> list[tuple[Instance, Snapshot]]:
        """Give each breaker as it is now, in the order of their making."""
        with self._lock:
            breakers = list(self._breakers.items())
        return [(instance, breaker.snapshot()) for instance, breaker in breakers]

    def wait(self, instance: Instance) -> float:
        """Give the seconds until ``instance`` may be asked again, 0 for now."""
        breaker = self._breakers.get(instance)
        return breaker.wait() if breaker else 0.0

    def ejected(self, instance: Instance) -> bool:
        """Whether the breaker of ``instance`` is open."""
        breaker = self._breakers.get(instance)
        return breaker is not None and breaker.state is State.OPEN

    def _judge(self, error: BaseException, given: float) -> Verdict:
        if isinstance(error, GatewayTimeout) and given < self._fair_seconds:
            return Verdict.NOT_ITS_BUSINESS
        return verdict(error)

    def _judge_reply(self, reply: Reply, given: float) -> Verdict:
        if not isinstance(reply.body, Stream) or reply.body.complete:
            return Verdict.SUCCESS
        # Without an error it was the client that left.
        return self._judge(reply.body.error, given) if reply.body.error else Verdict.NOT_ITS_BUSINESS

    def _tell(self, instance: Instance, change: Change) -> None:
        level = logging.WARNING if change.after is State.OPEN else logging.INFO
        lasts = f", open for {change.open_for:.1f} s" if change.after is State.OPEN else ""
        log.log(
            level,
            "breaker of %s: %s -> %s: %s%s",
            instance.url,
            change.before.value,
            change.after.value,
            change.reason,
            lasts,
        )
        self._changed(instance, change)
