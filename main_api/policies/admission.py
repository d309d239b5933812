"""Who is let in: as many requests as this process can serve, and a short queue before it.

Without it a burst, or an upstream that hangs, takes every thread of the server, and nobody is told
anything until it is over. With it whoever does not fit is told at once, and a probe always finds a
thread.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from main_api.errors import GatewayTimeout, Overloaded
from main_api.exchange import Call, Proceed, Reply
from main_api.policies.slots import Slots, Wait, wait_for

Count = Callable[[int], object]


def _not_counted(_: int) -> None: ...


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """``slots`` requests at once; ``waiters`` more wait for ``seconds`` at most.

    Raises :class:`ValueError`, naming the field.
    """

    slots: int
    waiters: int
    seconds: float = 0.1

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots: at least 1 needed, got {self.slots}")
        if self.waiters < 0:
            raise ValueError(f"waiters: cannot be below 0, got {self.waiters}")
        if not self.seconds >= 0:
            raise ValueError(f"seconds: cannot be below 0, got {self.seconds}")


class Admission:
    """Holds a slot of the process from before anything that can wait until the reply is closed.

    Raises :class:`Overloaded` when there is no room to wait or no slot came free in time, and
    :class:`GatewayTimeout` when the call's deadline passed in the queue. ``in_service``
    and ``waiting`` are called with 1 and -1 as these numbers change, ``refused`` for each turned away.
    """

    def __init__(
        self,
        settings: AdmissionSettings,
        *,
        in_service: Count = _not_counted,
        waiting: Count = _not_counted,
        refused: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = monotonic,
        wait: Wait = wait_for,
    ) -> None:
        self.settings = settings
        self._seconds = settings.seconds
        self._slots = Slots(settings.slots, settings.waiters, partial(_counted, wait, waiting))
        self._in_service = in_service
        self._refused = refused
        self._clock = clock

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer within a slot."""
        if not self._slots.take():
            self._queue(call)
        try:
            self._in_service(1)
            reply = proceed(call)
        except BaseException:
            self._leave()
            raise
        reply.on_close(self._leave)
        return reply

    def state(self) -> tuple[int, int]:
        """Give how many requests are in service, and how many wait."""
        return self._slots.state()

    def _queue(self, call: Call) -> None:
        left = call.deadline - self._clock()
        if self._slots.take(min(self._seconds, left)):
            return
        if left <= self._seconds and self._clock() >= call.deadline:
            raise GatewayTimeout(cause="no slot came free before the deadline")
        self._refused()
        raise Overloaded(cause="no slot came free")

    def _leave(self) -> None:
        try:
            self._in_service(-1)
        finally:
            self._slots.give_back()


def _counted(wait: Wait, waiting: Count, turn: threading.Lock, seconds: float) -> bool:
    waiting(1)
    try:
        return wait(turn, seconds)
    finally:
        waiting(-1)
