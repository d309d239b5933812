"""Keeps this instance on a registry's list as long as it takes work: once per pod, whatever fails."""

import logging
import random as random_module
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic

from auxiliary_service.registration.registry import Registry, RegistryFailed

log = logging.getLogger(__name__)

# Seconds between two looks at the drain file and at the lock.
LOOK_SECONDS = 0.2
# Seconds after a failure until the registry is asked again: at first, and at most.
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0
_JITTER = 0.2


class Keeper:
    """Decides what is due and has ``registry`` do it, in a thread of its own. Start it after the fork.

    Only the worker for which ``leads()`` is true does anything; it is asked again and again, for that
    worker may die. ``draining()`` takes the instance off the list. ``gate`` is held while the instance is
    put on the list: who takes it and keeps it, as the arbiter does when it stops, knows that nobody does
    so any more.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        leads: Callable[[], bool],
        draining: Callable[[], bool],
        gate: AbstractContextManager[object] | None = None,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], bool] | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._registry = registry
        self._leads = leads
        self._draining = draining
        self._gate = gate or nullcontext()
        self._clock = clock
        self._random = random
        self._listed = False
        self._drained = False
        self._due = clock()
        self._pause = FIRST_PAUSE
        self._fault: str | None = None
        self._over = threading.Event()
        self._wait = wait or self._over.wait
        self._thread = threading.Thread(target=self.run, name="registration", daemon=True)

    def start(self) -> None:
        """Begin; the worker that leads registers at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, without a word to the registry; not waited for."""
        self._over.set()

    def run(self) -> None:
        """Take turns until ``wait`` says that it is over."""
        while not self._wait(self.turn()):
            pass

    def turn(self) -> float:
        """Do what is due, if anything is; give the seconds until the next turn."""
        try:
            if not self._leads():
                return LOOK_SECONDS
            self._lead()
        except RegistryFailed as error:
            self._failed(str(error))
        except OSError as error:
            self._failed(f"is not asked: {error}")
        except Exception as error:
            log.exception("registering with %s failed", self._registry.name)
            self._failed(type(error).__name__)
        return min(max(self._due - self._clock(), 0.0), LOOK_SECONDS)

    def _lead(self) -> None:
        draining = self._draining()
        if draining != self._drained:
            self._drained = draining
            self._due = self._clock()
        if self._clock() < self._due:
            return
        if draining:
            self._leave()
        else:
            self._stay()
        self._due = self._clock() + self._registry.interval * (1 - _JITTER * self._random())
        if self._fault is not None:
            log.info("%s answers again", self._registry.name)
        self._fault, self._pause = None, FIRST_PAUSE

    def _leave(self) -> None:
        # Whatever is known, and again and again: the worker that led before may have registered, and a
        # registry that hung may do late what it was asked for.
        self._registry.deregister()
        if self._listed:
            log.info("deregistered from %s", self._registry.name)
        self._listed = False

    def _stay(self) -> None:
        if not self._listed or not self._registry.renew():
            self._join()

    def _join(self) -> None:
        if self._listed:
            log.warning("%s has forgotten this instance", self._registry.name)
        self._listed = False
        with self._gate:
            if self._draining():
                return
            self._registry.register()
        self._listed = True
        log.info("registered with %s", self._registry.name)

    def _failed(self, fault: str) -> None:
        if fault != self._fault:
            log.warning("%s %s; trying again", self._registry.name, fault)
        self._fault = fault
        self._due = self._clock() + self._pause * (1 - _JITTER * self._random())
        self._pause = min(LAST_PAUSE, 2 * self._pause)
