"""The gateway's own metrics, beside those of the chassis.

Every series has one value per worker process; ``/metrics`` gives their sum, or what the name of the
gauge says.
"""

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from main_api.tally import OTHER, Tally

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STATES = {"closed": 0, "half_open": 1, "open": 2}
# prometheus_client cannot remove a series of several processes: their files only grow, and each scrape reads
# them whole. Instances that come and go with every deployment would fill them, so those beyond this number
# share one label, until the worker ends. Of their gauges the last that was told is shown.
INSTANCES_MOST = 1000


class Telemetry:
    """Counts and times on the registry that the app hands in, and in the ``tally`` of this process."""

    def __init__(self, registry: CollectorRegistry, tally: Tally | None = None) -> None:
        self.tally = tally or Tally()
        self._labelling = threading.Lock()
        self._labelled: set[tuple[str, str]] = set()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, mode: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]  # its literals

        self._upstream = Histogram(
            "upstream_request_duration_seconds",
            "Time of one attempt, from sending it to the end of its answer.",
            ("service", "outcome"),
            buckets=SECONDS,
            registry=registry,
        )
        self._in_service = gauge("admission_in_service", "Requests that hold a slot.", "livesum")
        self._waiting = gauge("admission_waiting", "Requests that wait for a slot.", "livesum")
        self._refused = counter("admission_refused", "Requests turned away for want of room.", "place")
        self._retries = counter(
            "upstream_retries", "Further attempts, by what the one before ended in.", "service", "reason"
        )
        self._throttled = counter(
            "upstream_retries_throttled", "Retries that the throttle forbade.", "service"
        )
        self._tokens = gauge(
            "upstream_retry_tokens", "Tokens left for retries, in the worst worker.", "livemin", "service"
        )
        self._cached = counter("cache_answers", "Answers of routes with a cache.", "service", "result")
        self._redis = counter("redis_changes", "How often Redis went away and came back.", "state")
        labels = ("service", "instance")
        self._in_flight = gauge("upstream_in_flight", "Attempts under way.", "livesum", *labels)
        self._breaker = gauge(
            "circuit_breaker_state", "0 closed, 1 half-open, 2 open; the worst worker.", "livemax", *labels
        )
        self._changes = counter("circuit_breaker_changes", "Changes of state.", *labels, "state")
        self._healthy = gauge(
            "upstream_instance_healthy", "1 while active checks find it well.", "livemin", *labels
        )

    def upstream(self, service: str, instance: str, outcome: str, seconds: float) -> None:
        """Record one attempt: ``outcome`` is ``2xx`` to ``5xx``, or the code of the error it ended in."""
        self._upstream.labels(service, outcome).observe(seconds)
        self.tally.attempt(service, instance, outcome, seconds)

    def in_service(self, change: int) -> None:
        """Count one slot more or less that is held."""
        self._in_service.inc(change)

    def waiting(self, change: int) -> None:
        """Count one request more or less that waits for a slot."""
        self._waiting.inc(change)

    def refused(self, place: str) -> None:
        """Count a request turned away: ``place`` is ``process``, or the service whose share was taken."""
        self._refused.labels(place).inc()
        self.tally.refused(place)

    def retried(self, service: str, reason: str) -> None:
        """Count a further attempt."""
        self._retries.labels(service, reason).inc()
        self.tally.retried(service, reason)

    def throttled(self, service: str) -> None:
        """Count a retry that the throttle forbade."""
        self._throttled.labels(service).inc()
        self.tally.throttled(service)

    def tokens(self, service: str, left: float) -> None:
        """Show what is left in the throttle's bucket."""
        self._tokens.labels(service).set(left)

    def cached(self, service: str, result: str) -> None:
        """Count an answer by what the cache did; :class:`main_api.policies.cache.Cache` has the words."""
        self._cached.labels(service, result).inc()
        self.tally.cached(service, result)

    def redis(self, state: str) -> None:
        """Count that Redis turned ``away``, or ``back``."""
        self._redis.labels(state).inc()

    def in_flight(self, service: str, instance: str, change: int) -> None:
        """Count one attempt more or less under way."""
        self._in_flight.labels(service, self._label(service, instance)).inc(change)

    def breaker(self, service: str, instance: str, turned: str, state: str) -> None:
        """Record that a breaker ``turned``, and the ``state`` that it has now; both of :data:`STATES`.

        They differ when it has turned again meanwhile: threads may tell of two changes in any order.
        """
        label = self._label(service, instance)
        self._breaker.labels(service, label).set(STATES[state])
        self._changes.labels(service, label, turned).inc()

    def listed(self, service: str, instance: str) -> None:
        """Show an instance whose breaker has not turned yet."""
        self._breaker.labels(service, self._label(service, instance)).set(STATES["closed"])

    def healthy(self, service: str, instance: str, healthy: bool) -> None:
        """Show what the active checks say."""
        self._healthy.labels(service, self._label(service, instance)).set(healthy)

    def forget(self, service: str, instance: str) -> None:
        """Let go of an instance that is no more; its gauges stay, and say nothing against it."""
        self.tally.forget(service, instance)
        if (service, instance) in self._labelled:
            self.listed(service, instance)
            self.healthy(service, instance, True)

    def _label(self, service: str, instance: str) -> str:
        """Give what an instance is called in the metrics: always the same, for gauges go up and down."""
        if (service, instance) in self._labelled:
            return instance
        with self._labelling:
            if (service, instance) not in self._labelled:
                if len(self._labelled) >= INSTANCES_MOST:
                    return OTHER
                self._labelled.add((service, instance))
        return instance
