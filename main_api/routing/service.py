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
from main_api.policies.circuit_breaker import Breaker, BreakerSettings, Change
from main_api.policies.coalescing import Flights
from main_api.policies.ejection import CircuitBreakers
from main_api.policies.instance_health import HealthThresholds, InstanceHealth
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
        self._numbers = numbers
        self._telemetry = telemetry
        self._flights: Flights[Fetched] = Flights()
        self._invalidation = Invalidation()
        try:
            self._make()
        except ValueError as error:
            raise ValueError(f"service {name}: {error}") from None
        for each in instances():
            self.joined(each)

    def _make(self) -> None:
        name, numbers, telemetry = self.name, self._numbers, self._telemetry
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
        """Take in what an active health check found; ``cause`` is for the log."""
        self.health.record(instance, ok, cause)
        if ok:
            self.breakers.of(instance).reachable()

    def joined(self, instance: Instance) -> None:
        """Take in an instance that is new."""
        self._telemetry.listed(self.name, instance.url)

    def gone(self, instance: Instance) -> None:
        """Let go of what is known of an instance that is no more."""
        self.breakers.forget(instance)
        self.health.forget(instance)

    def retry(self, *, whole_list: bool) -> Retry:
        """Make the retry link of a route; an attempt of a ``whole_list`` has the whole request's time."""
        numbers = self._numbers
        return Retry(
            numbers.retry,
            self.throttle,
            attempt_timeout=numbers.request_timeout if whole_list else numbers.attempt_timeout,
            retried=lambda reason: self._telemetry.retried(self.name, reason),
            throttled=lambda: self._telemetry.throttled(self.name),
        )

    def _algorithm(self, in_flight: InFlight) -> Algorithm:
        numbers = self._numbers
        made: dict[str, Callable[[], Algorithm]] = {
            "round_robin": RoundRobin,
            "least_connections": lambda: LeastConnections(in_flight),
            "weighted": Weighted,
            "random": Random,
            "consistent_hash": lambda: ConsistentHash(hash_key(numbers.hash_by)),
        }
        return made[numbers.algorithm]()

    def _breaker_changed(self, instance: Instance, change: Change) -> None:
        now = self.breakers.of(instance).state
        self._telemetry.breaker(self.name, instance.url, change.after.value, now.value)
