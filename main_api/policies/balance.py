"""Which instance gets the call."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from main_api.errors import UpstreamUnavailable
from main_api.exchange import Call, Instance, Proceed, Reply


class Balance:
    """Round robin over a service's instances; raises :class:`UpstreamUnavailable` when there are none."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = tuple(instances)
        # next() on a counter is one step of the interpreter: threads never get the same number.
        self._turn = itertools.count()

    def __call__(self, call: Call, proceed: Proceed) -> Reply:
        """Send ``call`` to the next instance."""
        if not self._instances:
            raise UpstreamUnavailable(cause="the service has no instance")
        instance = self._instances[next(self._turn) % len(self._instances)]
        return proceed(replace(call, instance=instance))
