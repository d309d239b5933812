"""Leaving the registries before gunicorn stops, in the arbiter.

From the moment that gunicorn handles SIGTERM connections are refused, before any of its hooks runs. So its
handler is called only when the registries have been told, or have had their time.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from auxiliary_service.registration.locks import FileLock
from auxiliary_service.registration.registry import RegistryFailed

log = logging.getLogger(__name__)

# Seconds that all registries together may delay the stop, and that the line about it may.
LEAVE_SECONDS = 0.9
_TELL_SECONDS = 0.05
# Seconds, of those, between an answer and the stop: Consul's agent tells its servers after it has answered
# us, and they tell whoever watches the list.
SETTLE_SECONDS = 0.15
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def leave_before_stopping(server: Any, leave: Callable[[], object]) -> None:
    """Have ``leave`` called in ``server``, gunicorn's arbiter, before gunicorn's own handler of a stop."""
    for number in SIGNALS:
        signal.signal(number, _handler(server, leave, signal.getsignal(number)))


def _handler(server: Any, leave: Callable[[], object], own: Any) -> Callable[[int, Any], None]:
    def handle(number: int, frame: Any) -> None:
        # A worker that has just been forked still has this handler. And of two arbiters, as there are after
        # USR2, the other one goes on serving under the same id.
        if os.getpid() == server.pid and not server.master_pid and not server.reexec_pid:
            leave()
        own(number, frame)

    return handle


class Departure:
    """One registry to leave: any of the ``ways`` will do, all are tried at once.

    Holding ``gate`` it knows that no worker registers meanwhile; it keeps it for good.
    """

    def __init__(self, name: str, gate: FileLock, ways: Sequence[Callable[[], object]]) -> None:
        self.name = name
        self.left = False
        self.fault = "does not answer in time"
        self.over = threading.Event()
        self._gate = gate
        self._ways = ways
        self._lock = threading.Lock()
        self._failed = 0

    def begin(self) -> None:
        """Begin, in threads that nobody waits for: a look-up of a name cannot be told to end."""
        for way in self._ways:
            threading.Thread(target=self._go, args=(way,), name="leaving", daemon=True).start()

    def _go(self, way: Callable[[], object]) -> None:
        try:
            with suppress(OSError):
                self._gate.take(wait=True)
            way()
            self.left = True
        except Exception as error:
            with self._lock:
                self.fault = str(error) if isinstance(error, RegistryFailed) else type(error).__name__
                self._failed += 1
                if self._failed < len(self._ways):
                    return
        self.over.set()


class Leaving:
    """Leaves all registries, once, within ``seconds``; called from a signal handler, so it raises nothing.

    The drain file comes first: a worker that is just registering sees it afterwards, and for as long as
    requests are still answered the workers try what could not be done here.
    """

    def __init__(
        self,
        drain_path: Path,
        departures: Sequence[Departure],
        seconds: float = LEAVE_SECONDS,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self._drain_path = drain_path
        self._departures = departures
        self._seconds = seconds
        self._settle = settle
        self._begun = False

    def __call__(self) -> None:
        """Leave; a second call returns at once."""
        if self._begun:
            return
        self._begun = True
        until = monotonic() + self._seconds
        with suppress(OSError):
            self._drain_path.touch(mode=0o600)
        with suppress(RuntimeError):  # no thread to be had
            for each in self._departures:
                each.begin()
            for each in self._departures:
                each.over.wait(max(0.0, until - monotonic()))
            # What was interrupted may hold the log's locks.
            teller = threading.Thread(target=self._tell, name="leaving", daemon=True)
            teller.start()
            teller.join(_TELL_SECONDS)
            if any(each.left for each in self._departures):
                threading.Event().wait(max(0.0, min(self._settle, until - monotonic())))

    def _tell(self) -> None:
        for each in self._departures:
            if each.left:
                log.info("deregistered from %s", each.name)
            else:
                log.warning("not deregistered before stopping: %s %s", each.name, each.fault)
