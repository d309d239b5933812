"""Active health checks: instances are asked off the way of requests, so that no request has to find out."""

import logging
import random as random_module
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import sample
from time import monotonic

from urllib3.util import SKIP_HEADER

from main_api.exchange import Instance
from main_api.upstream.session import FAILURES, Session, met

log = logging.getLogger(__name__)

# So many instances are asked at the same time; one that hangs holds up its share of the others only.
_AT_ONCE = 8
_NEW_AT_ONCE = 16
_JITTER = 0.1
_READ_MOST = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheckSettings:
    """What is asked, and how many seconds the answer may take. Raises :class:`ValueError`."""

    path: str
    timeout: float

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path: must begin with /, got {self.path!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout: must be above 0, got {self.timeout}")


class Check:
    """Asks one instance whether it is well: ``GET path``, a 2xx within ``timeout``.

    The connection is new each time: a kept one would not show that new ones are still taken.
    """

    def __init__(self, session: Session, settings: HealthCheckSettings) -> None:
        self._session = session
        self._settings = settings

    def __call__(self, instance: Instance) -> str | None:
        """Give None for a well instance, else in a few words what is wrong; the log alone may see it."""
        deadline = monotonic() + self._settings.timeout
        try:
            request = self._session.prepare("GET", instance.url + self._settings.path)
            request.headers.update({"Accept": "*/*", "User-Agent": SKIP_HEADER, "Connection": "close"})
            response = self._session.send(request, deadline, fresh=True)
            try:
                response.raw.read(_READ_MOST, decode_content=False)
            finally:
                response.close()
        except FAILURES as error:
            return type(met(error)).__name__
        return None if response.status_code // 100 == 2 else f"status {response.status_code}"


class HealthChecks:
    """A thread that checks every instance every ``interval`` seconds, and tells ``record`` what was found.

    Those that are ``ejected`` are checked every ``ejected_interval``, and of those that are ``new`` so many
    that a registry which lists what is not there does not hold up the others; :meth:`soon` has it begin at
    once. ``instances`` is asked anew each time. Start it after the fork.
    """

    def __init__(
        self,
        instances: Callable[[], Sequence[Instance]],
        check: Callable[[Instance], str | None],
        record: Callable[[Instance, bool, str], object],
        *,
        interval: float,
        ejected: Callable[[Instance], bool] = lambda _: False,
        new: Callable[[Instance], bool] = lambda _: False,
        ejected_interval: float = 1.0,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._instances = instances
        self._check = check
        self._record = record
        self._interval = interval
        self._ejected = ejected
        self._new = new
        self._pause = min(interval, ejected_interval)
        self._clock = clock
        self._random = random
        self._everybody_at = clock() + interval * random()  # not all workers at the same moment
        self._over = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-checks", daemon=True)

    def start(self) -> None:
        """Begin; the first round comes within one interval."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the round that is under way."""
        self._over.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def soon(self) -> None:
        """Begin the next round now: there is an instance that waits for its first check."""
        self._wake.set()

    def round(self, pool: ThreadPoolExecutor) -> None:
        """Check whoever is due."""
        now = self._clock()
        due: Sequence[Instance] = tuple(self._instances())
        if now >= self._everybody_at:
            self._everybody_at = now + self._jittered(self._interval)
        else:
            ejected = [each for each in due if self._ejected(each)]
            new = [each for each in due if self._new(each) and each not in ejected]
            due = [*ejected, *sample(new, min(len(new), _NEW_AT_ONCE))]
        for instance, asked in [(each, pool.submit(self._check, each)) for each in due]:
            try:
                fault = asked.result()
                self._record(instance, fault is None, fault or "")
            except Exception:
                log.exception("the health check of %s failed", instance.url)

    def _run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="health-check") as pool:
            while True:
                self._wake.wait(self._jittered(self._pause))
                self._wake.clear()
                if self._over.is_set():
                    return
                try:
                    self.round(pool)
                except Exception:
                    if not threading.main_thread().is_alive():
                        return  # the interpreter is ending, and its pools take no more work
                    log.exception("a round of health checks failed")

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * (2 * self._random() - 1))
