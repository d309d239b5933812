"""The list of a service's instances, as its registry last gave it."""

import ipaddress
import logging
import random as random_module
import threading
from collections.abc import Callable, Iterable, Sequence
from time import monotonic

from main_api.exchange import Instance
from main_api.upstream.discovery.source import Address, Listing, Source, SourceFailed
from main_api.upstream.instances import ListState

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# More are no service of ours but a mistake, or an attack on whoever would keep them all.
LISTED_MOST = 256
# Seconds after a failure until the registry is asked again: at first, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 0.25, 1.0
_JITTER = 0.2
# Seconds for which what is known of an instance outlives it: a registry that forgets and remembers must not
# make an ill instance a new one.
_REMEMBERED = 60.0
_GONE_MOST = 1024


class Discovered:
    """Asks a source in a thread of its own, and gives the instances of its last good list.

    A list is not good that is empty after one that was not, that has more than ``most`` instances, or of
    which nothing is allowed by ``networks``: the one before is kept, as it is when the registry fails.
    ``joined`` is called for each instance that is new, ``gone`` a minute after one has left and not come
    back. Start it after the fork.
    """

    def __init__(
        self,
        service: str,
        source: Source,
        *,
        networks: Iterable[Network],
        most: int = LISTED_MOST,
        joined: Callable[[Instance], object] = lambda _: None,
        gone: Callable[[Instance], object] = lambda _: None,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._service = service
        self._source = source
        self._networks = tuple(networks)
        self._most = most
        self._joined = joined
        self._gone = gone
        self._clock = clock
        self._random = random
        self._instances: tuple[Instance, ...] = ()
        self._left: dict[Instance, float] = {}
        self._seen: dict[Instance, float] = {}
        self._refused: frozenset[str] = frozenset()
        self._fault: str | None = "not asked yet"
        self._listed_at: float | None = None
        self._pause = _FIRST_PAUSE
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"discovery-{service}", daemon=True)

    def __call__(self) -> Sequence[Instance]:
        """Give the instances; none before the first list."""
        return self._instances

    @property
    def state(self) -> ListState:
        """What is known of the source."""
        return ListState(self._source.name, self._fault, self._listed_at)

    def seen(self, instance: Instance) -> float | None:
        """Give the moment at which the source last listed ``instance``."""
        return self._seen.get(instance)

    def start(self) -> None:
        """Begin; the registry is asked at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the registry; not waited for."""
        self._over.set()
        self._source.close()

    def refresh(self) -> float:
        """Ask the source once and take what it gives; give the seconds until it is to be asked again."""
        try:
            listing = self._source.read()
            refused = self._take(listing)
        except SourceFailed as error:
            # Of one that was closed there is nothing to tell.
            return 0.0 if self._over.is_set() else self._failed(str(error))
        except Exception as error:
            log.exception("asking %s failed", self._source.name)
            return self._failed(type(error).__name__)
        self._pause = _FIRST_PAUSE
        if refused:
            # The registry works; it is asked for what comes next as if the list had been taken.
            self._keep(refused)
        return listing.again

    def _take(self, listing: Listing) -> str | None:
        """Take a list, or say why it cannot be right."""
        now = self._clock()
        if len(listing.addresses) > self._most:
            return f"a list of more than {self._most} instances"
        allowed = self._allowed(listing.addresses)
        if not allowed and (self._instances or listing.addresses):
            return "none of its addresses is allowed" if listing.addresses else "an empty list"
        made: dict[str, Instance] = {}
        for each in allowed:
            made.setdefault(each.url, Instance(self._service, each.url, each.weight))
        self._change(tuple(made.values()), now)
        if self._fault is not None and self._listed_at is not None:
            log.info("%s: answers again, %d instances", self._source.name, len(made))
        self._fault, self._listed_at = None, now
        return None

    def _allowed(self, addresses: Iterable[Address]) -> list[Address]:
        allowed, refused = [], set()
        for each in sorted(addresses):
            ip = ipaddress.ip_address(each.ip)
            if any(ip in network for network in self._networks if network.version == ip.version):
                allowed.append(each)
            else:
                refused.add(each.ip)
        for ip_text in sorted(refused - self._refused):
            log.warning("%s: %s is outside UPSTREAM_NETWORKS and not asked", self._source.name, ip_text)
        self._refused = frozenset(refused)
        return allowed

    def _change(self, listed: tuple[Instance, ...], now: float) -> None:
        before = frozenset(self._instances)
        self._instances = listed
        for each in listed:
            self._left.pop(each, None)
            self._seen[each] = now
        for each in before.difference(listed):
            log.info("%s: %s left", self._source.name, each.url)
            self._left[each] = now
        for each in listed:
            if each not in before:
                log.info("%s: %s joined", self._source.name, each.url)
                self._joined(each)
        self._forget(now)

    def _forget(self, now: float) -> None:
        over = len(self._left) - _GONE_MOST
        for number, (each, left_at) in enumerate(list(self._left.items())):
            if number >= over and now - left_at < _REMEMBERED:
                break
            del self._left[each]
            self._seen.pop(each, None)
            self._gone(each)

    def _failed(self, fault: str) -> float:
        self._keep(fault)
        pause = self._pause
        self._pause = min(_LAST_PAUSE, 2 * pause)
        return pause * (1 - _JITTER * self._random())

    def _keep(self, fault: str) -> None:
        """Go on with the last list, and say why."""
        if fault != self._fault:
            log.warning(
                "%s: %s; %d instances of its last list are kept",
                self._source.name,
                fault,
                len(self._instances),
            )
        self._fault = fault

    def _run(self) -> None:
        while not self._over.is_set():
            again = self.refresh()
            if self._over.wait(again):
                return
