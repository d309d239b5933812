"""What this worker has counted, for ``/gateway/stats`` and ``/services``: plain numbers of one process.

``/metrics`` sums all workers up, cannot forget an instance, and knows no percentile. Here is what it lacks.
"""

import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import time

# So many durations are kept: of a route or a service, and of an instance.
_ROUTE_DURATIONS = 1024
_INSTANCE_DURATIONS = 128
# Codes and outcomes are ours and few; but what the auxiliary says (`aws_...`) goes through as it is.
_NAMES_MOST = 64
# More than a service can have, with those that left lately: an attempt that ends after its instance was
# forgotten would else leave it here for good.
_INSTANCES_MOST = 2048
OTHER = "other"
_CLASSES = {number: f"{number}xx" for number in range(1, 6)}


class Durations:
    """The last ``size`` durations, in constant room. Not locked: its owner holds a lock."""

    __slots__ = ("_count", "_kept")

    def __init__(self, size: int) -> None:
        self._kept = array("d", bytes(8 * size))
        self._count = 0

    def add(self, seconds: float) -> None:
        """Keep one, in the place of the oldest when there is no other."""
        self._kept[self._count % len(self._kept)] = seconds
        self._count += 1

    def kept(self) -> Sequence[float]:
        """Give those that are kept, in no order: sorting them is for whoever has let go of the lock."""
        return self._kept[: self._count]


def percentiles(durations: Sequence[float], *percents: int) -> list[float | None]:
    """Give for each of ``percents`` the shortest duration that so many of 100 do not exceed (nearest rank).

    None when there are no durations.
    """
    ranked = sorted(durations)
    return [ranked[max(0, -(-each * len(ranked) // 100) - 1)] if ranked else None for each in percents]


@dataclass(frozen=True, slots=True)
class RouteCounts:
    """Requests by one rule: ``classes`` are ``2xx`` and so on, ``errors`` go by code."""

    requests: int
    classes: Mapping[str, int]
    errors: Mapping[str, int]
    attempts: int
    durations: Sequence[float]


@dataclass(frozen=True, slots=True)
class AttemptCounts:
    """Attempts at a service or an instance: ``outcomes`` are ``2xx`` and so on, or an error's code."""

    attempts: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    durations: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """What was counted of one service; ``retries`` go by what the attempt before ended in."""

    attempts: AttemptCounts = AttemptCounts()
    instances: Mapping[str, AttemptCounts] = field(default_factory=dict)
    retries: Mapping[str, int] = field(default_factory=dict)
    throttled: int = 0
    cached: Mapping[str, int] = field(default_factory=dict)


class _Names:
    """Counts by name; beyond a number of names all others are one."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str) -> None:
        try:
            self.counts[name] += 1
        except KeyError:
            name = name if len(self.counts) < _NAMES_MOST else OTHER
            self.counts[name] = self.counts.get(name, 0) + 1


class _Route:
    __slots__ = ("attempts", "classes", "durations", "errors")

    def __init__(self) -> None:
        self.classes = _Names()
        self.errors = _Names()
        self.attempts = 0
        self.durations = Durations(_ROUTE_DURATIONS)

    def counts(self) -> RouteCounts:
        classes = dict(self.classes.counts)
        return RouteCounts(
            sum(classes.values()), classes, dict(self.errors.counts), self.attempts, self.durations.kept()
        )


class _Attempts:
    __slots__ = ("durations", "outcomes")

    def __init__(self, durations: int) -> None:
        self.outcomes = _Names()
        self.durations = Durations(durations)

    def add(self, outcome: str, seconds: float) -> None:
        self.outcomes.add(outcome)
        self.durations.add(seconds)

    def counts(self) -> AttemptCounts:
        outcomes = dict(self.outcomes.counts)
        return AttemptCounts(sum(outcomes.values()), outcomes, self.durations.kept())


class _Service:
    __slots__ = ("all", "cached", "instances", "retries", "throttled")

    def __init__(self) -> None:
        self.all = _Attempts(_ROUTE_DURATIONS)
        self.instances: dict[str, _Attempts] = {}
        self.retries = _Names()
        self.throttled = 0
        self.cached = _Names()

    def counts(self) -> ServiceCounts:
        return ServiceCounts(
            self.all.counts(),
            {url: each.counts() for url, each in self.instances.items()},
            dict(self.retries.counts),
            self.throttled,
            dict(self.cached.counts),
        )


class Tally:
    """Counts of one process since ``since``, a moment of the wall clock; safe under threads.

    It holds as much as there are routes, services and instances; :meth:`forget` lets go of an instance.
    """

    def __init__(self) -> None:
        self.since = time()
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}
        self._services: dict[str, _Service] = {}
        self._refused = _Names()

    def request(self, route: str, status: int, code: str | None, attempts: int, seconds: float) -> None:
        """Count an answer: ``code`` is its error's, ``attempts`` how often a service was asked for it."""
        with self._lock:
            found = self._routes.get(route)
            if found is None:
                found = self._routes[route] = _Route()
            found.classes.add(_CLASSES.get(status // 100, OTHER))
            if code is not None:
                found.errors.add(code)
            found.attempts += attempts
            found.durations.add(seconds)

    def attempt(self, service: str, instance: str, outcome: str, seconds: float) -> None:
        """Count one attempt at an instance."""
        with self._lock:
            found = self._service(service)
            found.all.add(outcome, seconds)
            attempts = found.instances.get(instance)
            if attempts is None:
                if len(found.instances) >= _INSTANCES_MOST:
                    del found.instances[next(iter(found.instances))]
                attempts = found.instances[instance] = _Attempts(_INSTANCE_DURATIONS)
            attempts.add(outcome, seconds)

    def retried(self, service: str, reason: str) -> None:
        """Count a further attempt."""
        with self._lock:
            self._service(service).retries.add(reason)

    def throttled(self, service: str) -> None:
        """Count a retry that the throttle forbade."""
        with self._lock:
            self._service(service).throttled += 1

    def cached(self, service: str, result: str) -> None:
        """Count what the cache did for an answer."""
        with self._lock:
            self._service(service).cached.add(result)

    def refused(self, place: str) -> None:
        """Count a request turned away for want of room."""
        with self._lock:
            self._refused.add(place)

    def forget(self, service: str, instance: str) -> None:
        """Let go of an instance that is no more; what its service has counted stays."""
        with self._lock:
            found = self._services.get(service)
            if found is not None:
                found.instances.pop(instance, None)

    def routes(self) -> dict[str, RouteCounts]:
        """Give the counts of each rule that was asked for."""
        with self._lock:
            return {route: each.counts() for route, each in self._routes.items()}

    def service(self, service: str) -> ServiceCounts:
        """Give the counts of one service; nothing but zeros when it was never asked."""
        with self._lock:
            found = self._services.get(service)
            return found.counts() if found else ServiceCounts()

    def turned_away(self) -> dict[str, int]:
        """Give how many were turned away, by the place that had no room."""
        with self._lock:
            return dict(self._refused.counts)

    def _service(self, service: str) -> _Service:
        found = self._services.get(service)
        if found is None:
            found = self._services[service] = _Service()
        return found
