"""Which instance gets the call."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from main_api.errors import CircuitOpen, UpstreamUnavailable
from main_api.exchange import Call, Instance, Proceed, Reply
from main_api.policies.algorithms import Algorithm, RoundRobin

log = logging.getLogger(__name__)

Instances = Callable[[], Sequence[Instance]]


class InFlight:
    """How many calls each instance has under way; ``changed`` is called with 1 and -1."""

    def __init__(self, changed: Callable[[Instance, int], object] = lambda _, __: None) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._calls: dict[Instance, int] = {}

    def __call__(self, instance: Instance) -> int:
        """Give the number of ``instance``'s."""
        return self._calls.get(instance, 0)

    def add(self, instance: Instance, change: int) -> None:
        """Count one more or one less."""
        with self._lock:
            calls = self._calls.pop(instance, 0) + change
            if calls:
                self._calls[instance] = calls
        try:
            self._changed(instance, change)
        except Exception:
            # It must not cost an instance its true number.
            log.exception("telling of a call under way failed")


class Balance:
    """Sends each attempt to an instance that can be asked and that this call has not tried yet.

    When all have been tried, they may be tried again. ``usable`` leaves out what health checks have
    found, ``wait`` gives the seconds until an instance's breaker lets a call through. Raises
    :class:`CircuitOpen` when none does, nothing being sent, and :class:`UpstreamUnavailable` when there
    are no instances at all.
    """

    def __init__(
        self,
        instances: Instances,
        algorithm: Algorithm | None = None,
        *,
        usable: Callable[[Sequence[Instance]], Sequence[Instance]] = lambda instances: instances,
        wait: Callable[[Instance], float] = lambda _: 0.0,
        in_flight: InFlight | None = None,
    ) -> None:
        self._instances = instances
        self._algorithm = algorithm or RoundRobin()
        self._usable = usable
        self._wait = wait
        self._in_flight = in_flight or InFlight()

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Send ``call`` to the instance whose turn it is."""
        instances = self._instances()
        if not instances:
            raise UpstreamUnavailable(cause="the service has no instance")
        usable = self._usable(instances)
        tried = call.trail.asked
        if tried:
            for some in ([each for each in usable if each not in tried], [e for e in usable if e in tried]):
                if reply := self._first(some, call, proceed):
                    return reply
        elif reply := self._first(usable, call, proceed):
            return reply
        wait = min(self._wait(each) for each in usable)
        raise CircuitOpen(cause="every instance is ejected", retry_after=max(1, math.ceil(wait)))

    def _first(self, instances: Sequence[Instance], call: Call, proceed: Proceed) -> Reply | None:
        """Ask one of ``instances`` whose breaker lets it; None when there is none."""
        candidates = [each for each in instances if self._wait(each) <= 0]
        while candidates:
            chosen = self._algorithm.pick(candidates, call)
            try:
                return self._ask(replace(call, instance=chosen), chosen, proceed)
            except CircuitOpen:
                # It was half-open at our glance, and others were quicker.
                candidates.remove(chosen)
        return None

    def _ask(self, call: Call, chosen: Instance, proceed: Proceed) -> Reply:
        call.trail.asked.append(chosen)
        self._in_flight.add(chosen, 1)
        try:
            reply = proceed(call)
        except BaseException as error:
            if isinstance(error, CircuitOpen):
                call.trail.asked.pop()
            self._in_flight.add(chosen, -1)
            raise
        reply.on_settled(lambda: self._in_flight.add(chosen, -1))
        return reply
