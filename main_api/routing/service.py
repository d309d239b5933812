"""What all routes to one service share, and the numbers it is made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from main_api.exchange import Instance, Proceed
from main_api.policies.algorithms import (
    Algorithm,
    ConsistentHash,
    LeastConnections,
    Random,
    RoundRobin,
    Weighted,
    hash_key,
)
from main_api.policies.balance import Balance, InFlight
from main_api.policies.bulkhead import Bulkhead
from main_api.policies.cache import Cache, CacheSettings, Fetched, Store
from main_api.policies.circuit_breaker import Breaker, BreakerSettings, Change, Snapshot, State
from main_api.policies.coalescing import Flights
from main_api.policies.ejection import CircuitBreakers
from main_api.policies.instance_health import HealthThresholds, InstanceHealth, LastCheck
from main_api.policies.invalidation import Invalidation
from main_api.policies.retry import Retry, RetrySettings, Throttle
from main_api.telemetry import Telemetry

ALGORITHMS = ("round_robin", "least_connections", "weighted", "random", "consistent_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceNumbers:
    """The numbers of one service; times in seconds.

    ``bulkhead`` is the service's share of the process, None for all of it. ``attempt_timeout`` bounds
    an attempt of a single read, ``request_timeout`` all of a request. ``algorithm`` is one of
    :data:`ALGORITHMS`, ``hash_by`` as :func:`main_api.policies.algorithms.hash_key` reads it.
    """

    request_timeout: float
    attempt_timeout: float
    bulkhead: int | None = None
    algorithm: str = "round_robin"
    hash_by: str = "path"
    retry: RetrySettings = field(default_factory=RetrySettings)
    retry_tokens: float = 50.0
    retry_tokens_returned: float = 0.1
    breaker: BreakerSettings = field(default_factory=BreakerSettings)
    health: HealthThresholds = field(default_factory=HealthThresholds)

    def check(self) -> None:
        """Raise :class:`ValueError`, naming the field, for what cannot be."""
        for name in ("request_timeout", "attempt_timeout", "retry_tokens"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if self.bulkhead is not None and self.bulkhead < 1:
            raise ValueError(f"bulkhead: at least 1 needed, got {self.bulkhead}")
        if not 0 <= self.retry_tokens_returned <= self.retry_tokens:
            raise ValueError(f"retry_tokens_returned: from 0 to retry_tokens ({self.retry_tokens:g}) needed")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm: one of {', '.join(ALGORITHMS)} needed, got {self.algorithm!r}")
        try:
            hash_key(self.hash_by)
        except ValueError as error:
            raise ValueError(f"hash_by: {error}") from None


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What is known of one instance at one moment.

    ``state`` is ``available``, ``half_open``, ``new`` (no check has succeeded yet), ``unhealthy`` (the checks
    say so) or ``ejected`` (its breaker does); ``why`` what led to it, None for an instance that nothing
    speaks against. ``askable``: neither breaker nor checks keep calls from it; an ejected one is so once its
    time is over, a new one while there are no others.
    """

    instance: Instance
    state: str
    why: str | None
    askable: bool
    breaker: Snapshot
    in_flight: int
    last_check: LastCheck | None


class Service:
    """One service: its instances, the state that is kept of them, and how it is spoken to.

    Raises :class:`ValueError` for numbers that are wrong, naming service and field.
    """

    def __init__(
        self,
        name: str,
        instances: Callable[[], Sequence[Instance]],
        send: Proceed,
        numbers: ServiceNumbers,
        telemetry: Telemetry,
    ) -> None:
        self.name = name
        self.instances = instances
        self.send = send
        self.numbers = numbers
        self._telemetry = telemetry
        # Called when an instance waits for its first check.
        self.on_found: Callable[[], object] = lambda: None
        self._flights: Flights[Fetched] = Flights()
        self._invalidation = Invalidation()
        try:
            self._make()
        except ValueError as error:
            raise ValueError(f"service {name}: {error}") from None
        for each in instances():
            self.joined(each)

    def _make(self) -> None:
        name, numbers, telemetry = self.name, self.numbers, self._telemetry
        numbers.check()
        self.bulkhead = (
            Bulkhead(numbers.bulkhead, refused=lambda: telemetry.refused(name)) if numbers.bulkhead else None
        )
        self.throttle = Throttle(
            numbers.retry_tokens,
            numbers.retry_tokens_returned,
            changed=lambda left: telemetry.tokens(name, left),
        )
        telemetry.tokens(name, self.throttle.left)
        self.breakers = CircuitBreakers(
            lambda changed: Breaker(numbers.breaker, changed),
            self._breaker_changed,
            # Half of what a full attempt has: a later attempt may have less, and is fair all the same.
            fair_seconds=min(numbers.attempt_timeout, numbers.request_timeout) / 2,
        )
        self.health = InstanceHealth(
            numbers.health, lambda instance, healthy: telemetry.healthy(name, instance.url, healthy)
        )
        self.in_flight = in_flight = InFlight(
            lambda instance, change: telemetry.in_flight(name, instance.url, change)
        )
        self.balance = Balance(
            self.instances,
            self._algorithm(in_flight),
            usable=self.health.usable,
            wait=self.breakers.wait,
            in_flight=in_flight,
        )

    def cache(self, settings: CacheSettings, store: Store) -> Cache:
        """Make the cache link of a route; all routes of the service share its calls under way."""
        return Cache(
            settings,
            self.name,
            store,
            self._flights,
            self._invalidation,
            told=lambda result: self._telemetry.cached(self.name, result),
        )

    def checked(self, instance: Instance, ok: bool, cause: str) -> None:
        """Take in what an active health check found; ``cause`` is for operators."""
        self.health.record(instance, ok, cause)
        if ok:
            self.breakers.of(instance).reachable()

    def joined(self, instance: Instance) -> None:
        """Take in an instance that is new."""
        self._telemetry.listed(self.name, instance.url)
        # Made now and not at the first call, so that it is shown, and since when it is closed.
        self.breakers.of(instance)

    def found(self, instance: Instance) -> None:
        """Take in an instance that a registry has added; calls go to it once a health check has succeeded."""
        self.health.joined(instance)
        self.joined(instance)
        self.on_found()

    def gone(self, instance: Instance) -> None:
        """Let go of what is known of an instance that is no more."""
        self.breakers.forget(instance)
        self.health.forget(instance)
        self._telemetry.forget(self.name, instance.url)

    def states(self) -> list[InstanceState]:
        """Give what is known of each instance that is listed now."""
        instances = self.instances()
        usable = frozenset(self.health.usable(instances))
        return [self._state(each, usable) for each in instances]

    def panics(self) -> bool:
        """Whether so many are unhealthy that the checks are not believed, and the unhealthy are asked too."""
        return not all(map(self.health.healthy, self.health.usable(self.instances())))

    def attempt_timeout(self, *, whole_list: bool) -> float:
        """Give the seconds of one attempt; that of a ``whole_list`` has the whole request's time."""
        return self.numbers.request_timeout if whole_list else self.numbers.attempt_timeout

    def retry(self, *, whole_list: bool) -> Retry:
        """Make the retry link of a route."""
        return Retry(
            self.numbers.retry,
            self.throttle,
            attempt_timeout=self.attempt_timeout(whole_list=whole_list),
            retried=lambda reason: self._telemetry.retried(self.name, reason),
            throttled=lambda: self._telemetry.throttled(self.name),
        )

    def _algorithm(self, in_flight: InFlight) -> Algorithm:
        numbers = self.numbers
        made: dict[str, Callable[[], Algorithm]] = {
            "round_robin": RoundRobin,
            "least_connections": lambda: LeastConnections(in_flight),
            "weighted": Weighted,
            "random": Random,
            "consistent_hash": lambda: ConsistentHash(hash_key(numbers.hash_by)),
        }
        return made[numbers.algorithm]()

    def _state(self, instance: Instance, usable: frozenset[Instance]) -> InstanceState:
        breaker, check = self.breakers.of(instance).snapshot(), self.health.last(instance)
        healthy = self.health.healthy(instance)
        state, why = "available", None
        if breaker.state is State.OPEN:
            state, why = "ejected", breaker.why
        elif not healthy:
            state, why = "unhealthy", f"health checks failed: {check.failed if check else 'unknown'}"
        elif self.health.unproven(instance):
            state, why = "new", "no health check of it has succeeded yet"
        elif breaker.state is State.HALF_OPEN:
            state, why = "half_open", breaker.why
        return InstanceState(
            instance,
            state,
            why,
            # Not the unhealthy ones that are asked only because the checks are not believed.
            healthy
            and instance in usable
            and (breaker.state is not State.OPEN or self.breakers.wait(instance) <= 0),
            breaker,
            self.in_flight(instance),
            check,
        )

    def _breaker_changed(self, instance: Instance, change: Change) -> None:
        now = self.breakers.of(instance).state
        self._telemetry.breaker(self.name, instance.url, change.after.value, now.value)
