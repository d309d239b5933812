"""A service's own share of the process: one that hangs cannot take the slots of all others."""

from collections.abc import Callable

from main_api.errors import Overloaded
from main_api.exchange import Call, Proceed, Reply
from main_api.policies.slots import Slots


class Bulkhead:
    """At most ``size`` calls to one service at once, all attempts and waits included; nobody waits here.

    Raises :class:`Overloaded` for one more, and :class:`ValueError` for a size below 1. ``refused`` is
    called for each that is turned away. (The pattern and its name: Nygard, "Release It!", 2007.)
    """

    def __init__(self, size: int, *, refused: Callable[[], object] = lambda: None) -> None:
        if size < 1:
            raise ValueError(f"size: at least 1 needed, got {size}")
        self._slots = Slots(size)
        self._refused = refused

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Answer within the service's share."""
        if not self._slots.take():
            self._refused()
            raise Overloaded(cause="the service's share of this process is taken")
        try:
            reply = proceed(call)
        except BaseException:
            self._slots.give_back()
            raise
        reply.on_close(self._slots.give_back)
        return reply
