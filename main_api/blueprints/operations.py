"""What operators look at: services, instances, breakers, routes and counts, of the worker that answers.

Unlike every other answer these may name addresses.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

from chassis import timestamp
from chassis.errors import NotFound
from main_api.exchange import Call, Instance, Reply
from main_api.policies.circuit_breaker import Snapshot
from main_api.policies.instance_health import LastCheck
from main_api.routing.pipeline import Parts, Pipeline
from main_api.routing.route import Access, Documentation, Route, ToFunction
from main_api.routing.service import InstanceState, Service
from main_api.schemas import operations as schemas
from main_api.scopes import GATEWAY_OPERATE
from main_api.tally import AttemptCounts, ServiceCounts, Tally, percentiles
from main_api.upstream.instances import InstanceList, ListState

# These paths, and all below them, are of this room: nothing else may be served there.
RESERVED = ("/health", "/services", "/circuit-breakers", "/routes", "/gateway", "/metrics")
_CACHED = ("hit", "miss", "validated", "collapsed", "stale", "uncacheable")
_WORST_FIRST = ("unhealthy", "degraded", "healthy")

ACCESS = Access(GATEWAY_OPERATE)
_TAG = "operations"
WHERE = "With `OPERATIONS_PORT` set it is there, and 404 here."
_SERVICE = "The name of a service, as `/services` lists it."

Facts = dict[str, object]


def reserved(path: str) -> bool:
    """Whether ``path`` belongs to the operations endpoints."""
    return f"{path}/".startswith(tuple(f"{each}/" for each in RESERVED))


class _Moments:
    """Moments of the monotonic clock, written as those of the wall clock as it is set now."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], datetime]) -> None:
        # The wall first: what comes between the two makes a moment too early, never one of the future.
        self._wall, self._now = wall(), clock()

    def __call__(self, moment: float) -> str:
        return timestamp(self._wall + timedelta(seconds=moment - self._now))

    def maybe(self, moment: float | None) -> str | None:
        """Write a moment that need not be there."""
        return None if moment is None else self(moment)


@dataclass(frozen=True, slots=True)
class _Condition:
    """How a service is: its instances, their list, and what follows from both."""

    instances: Sequence[InstanceState]
    listed: ListState

    @property
    def available(self) -> int:
        return sum(each.state == "available" for each in self.instances)

    @property
    def status(self) -> str:
        if not any(each.askable for each in self.instances):
            return "unhealthy"
        well = self.available == len(self.instances) and self.listed.fault is None
        return "healthy" if well else "degraded"

    def why(self, moments: _Moments) -> str | None:
        missing = len(self.instances) - self.available
        said = []
        if not self.instances:
            said.append("no instance is known")
        elif missing:
            said.append(f"{missing} of {len(self.instances)} instances not available")
        if self.listed.fault is not None:
            since = moments.maybe(self.listed.listed_at)
            said.append(f"its list is {f'of {since}' if since else 'not there yet'}: {self.listed.fault}")
        return "; ".join(said) or None


class Operations:
    """Answers with what this process knows; ``routes`` are all that it serves.

    A status is what a client would meet: an instance whose breaker is open counts as one that can be
    asked as soon as its time is over, or whoever sends no requests to an unhealthy service would never
    see it well again.
    """

    def __init__(
        self,
        parts: Parts,
        tally: Tally,
        routes: Iterable[tuple[Route, Pipeline]],
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._parts = parts
        self._tally = tally
        self._routes = routes
        self._clock = clock
        self._wall = wall

    def health(self, _: Call) -> Reply:
        """Answer 200 with the status of every service."""
        moments = self._moments()
        services = [self._health(each, moments) for each in self._parts.services.values()]
        statuses = [each["status"] for each in services]
        worst = next((each for each in _WORST_FIRST if each in statuses), "healthy")
        return self._reply({"status": worst, "services": services})

    def service_health(self, call: Call) -> Reply:
        """Answer 200 with the status of one service, 503 when it is unhealthy."""
        facts = self._health(self._asked(call), self._moments())
        return self._reply(facts, 503 if facts["status"] == "unhealthy" else 200)

    def services(self, _: Call) -> Reply:
        """Answer with every service in few words."""
        return self._reply({"services": [self._summary(each) for each in self._parts.services.values()]})

    def service(self, call: Call) -> Reply:
        """Answer with one service and all its instances."""
        service, moments = self._asked(call), self._moments()
        found, listed = self._condition(service), self._parts.lists[service.name]
        counts = self._tally.service(service.name).instances
        return self._reply(
            {
                "name": service.name,
                "status": found.status,
                "why": found.why(moments),
                "source": {
                    "name": found.listed.source,
                    "fault": found.listed.fault,
                    "listedAt": moments.maybe(found.listed.listed_at),
                },
                "panic": service.panics(),
                "instances": [
                    _instance(each, listed, counts.get(each.instance.url, AttemptCounts()), moments)
                    for each in found.instances
                ],
            }
        )

    def circuit_breakers(self, _: Call) -> Reply:
        """Answer with every breaker."""
        moments = self._moments()
        listed = {each for service in self._parts.services.values() for each in service.instances()}
        breakers = [
            _breaker(instance, instance in listed, snapshot, moments)
            for service in self._parts.services.values()
            for instance, snapshot in service.breakers.snapshots()
        ]
        return self._reply({"circuitBreakers": breakers})

    def routes(self, _: Call) -> Reply:
        """Answer with every route and what its requests pass."""
        routes = [
            {
                "name": route.name,
                "rule": route.rule,
                "methods": list(route.methods),
                "links": [{"name": link.name, "settings": link.settings} for link in pipeline.chain],
            }
            for route, pipeline in self._routes
        ]
        return self._reply({"routes": routes})

    def stats(self, _: Call) -> Reply:
        """Answer with what this worker has counted."""
        routes, away = self._tally.routes(), self._tally.turned_away()
        in_service, waiting = self._parts.admission.state()
        settings = self._parts.admission.settings
        return self._reply(
            {
                "since": timestamp(datetime.fromtimestamp(self._tally.since, UTC)),
                "requests": sum(each.requests for each in routes.values()),
                "errors": sum(sum(each.errors.values()) for each in routes.values()),
                "admission": {
                    "slots": settings.slots,
                    "inService": in_service,
                    "waitersMost": settings.waiters,
                    "waiting": waiting,
                    "turnedAway": away.get("process", 0),
                },
                "routes": [
                    {
                        "route": route,
                        "requests": each.requests,
                        "classes": each.classes,
                        "errors": each.errors,
                        "attempts": each.attempts,
                        "latency": _latency(each.durations),
                    }
                    for route, each in sorted(routes.items())
                ],
                "services": [
                    _service_stats(service, self._tally.service(name), away.get(name, 0))
                    for name, service in self._parts.services.items()
                ],
            }
        )

    def _moments(self) -> _Moments:
        return _Moments(self._clock, self._wall)

    def _asked(self, call: Call) -> Service:
        service = self._parts.services.get(call.path.rpartition("/")[2])
        if service is None:
            raise NotFound("There is no such service")
        return service

    def _condition(self, service: Service) -> _Condition:
        return _Condition(service.states(), self._parts.lists[service.name].state)

    def _health(self, service: Service, moments: _Moments) -> Facts:
        found = self._condition(service)
        checks = [(each.last_check, each.instance.url) for each in found.instances if each.last_check]
        check, url = max(checks, key=lambda each: each[0].at, default=(None, None))
        return {
            "name": service.name,
            "status": found.status,
            "why": found.why(moments),
            "instances": len(found.instances),
            "available": found.available,
            "lastCheck": {"instance": url, **_check(check, moments)} if check else None,
        }

    def _summary(self, service: Service) -> Facts:
        found = self._condition(service)
        return {
            "name": service.name,
            "status": found.status,
            "source": found.listed.source,
            "instances": len(found.instances),
            "available": found.available,
        }

    def _reply(self, facts: Mapping[str, object], status: int = 200) -> Reply:
        body = json.dumps({**facts, "worker": os.getpid(), "timestamp": timestamp(self._wall())})
        headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
        return Reply(status, headers, f"{body}\n".encode())


def _instance(each: InstanceState, listed: InstanceList, counts: AttemptCounts, moments: _Moments) -> Facts:
    return {
        "url": each.instance.url,
        "weight": each.instance.weight,
        "state": each.state,
        "why": each.why,
        "breaker": each.breaker.state.value,
        "inFlight": each.in_flight,
        "latency": _recent(counts.durations),
        "lastCheck": _check(each.last_check, moments) if each.last_check else None,
        "lastSeen": {"at": moments.maybe(listed.seen(each.instance)), "source": listed.state.source},
    }


def _check(check: LastCheck, moments: _Moments) -> Facts:
    return {"at": moments(check.at), "ok": check.ok, "cause": check.cause}


def _breaker(instance: Instance, listed: bool, found: Snapshot, moments: _Moments) -> Facts:
    return {
        "name": instance.url,
        "service": instance.service,
        "listed": listed,
        "state": found.state.value,
        "why": found.why,
        "since": moments(found.since),
        "calls": found.calls,
        "failures": found.failures,
        "failuresInARow": found.failures_in_a_row,
        "opened": found.opened,
        "nextAttempt": moments.maybe(found.next_attempt),
    }


def _service_stats(service: Service, counts: ServiceCounts, away: int) -> Facts:
    return {
        "name": service.name,
        "attempts": counts.attempts.attempts,
        "outcomes": counts.attempts.outcomes,
        "latency": _latency(counts.attempts.durations),
        "retries": counts.retries,
        "retriesThrottled": counts.throttled,
        "retryTokens": {"left": service.throttle.left, "size": service.numbers.retry_tokens},
        "turnedAway": away,
        "cache": {each: counts.cached.get(each, 0) for each in _CACHED},
        "instances": [
            {
                "url": url,
                "attempts": each.attempts,
                "outcomes": each.outcomes,
                "latency": _recent(each.durations),
            }
            for url, each in sorted(counts.instances.items())
        ],
    }


def _recent(durations: Sequence[float]) -> Facts:
    median, p95 = map(_ms, percentiles(durations, 50, 95))
    return {"count": len(durations), "medianMs": median, "p95Ms": p95}


def _latency(durations: Sequence[float]) -> Facts:
    median, p95, p99 = map(_ms, percentiles(durations, 50, 95, 99))
    return {"count": len(durations), "medianMs": median, "p95Ms": p95, "p99Ms": p99}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def routes(operations: Operations, access: Access | None) -> tuple[Route, ...]:
    """Give the routes of this room; ``access`` says who may, where it is asked at all."""
    return (
        Route(
            name="health",
            rule="/health",
            access=access,
            end=ToFunction(operations.health),
            documentation=Documentation(
                "How every service is", schemas.Health, f"200 whatever it says. {WHERE}", tag=_TAG
            ),
        ),
        Route(
            name="service-health",
            rule="/health/<service>",
            access=access,
            end=ToFunction(operations.service_health),
            documentation=Documentation(
                "How one service is",
                schemas.ServiceHealth,
                f"503 when it is unhealthy. {WHERE}",
                errors=(404, 503),
                tag=_TAG,
                variables={"service": _SERVICE},
                unwell=schemas.ServiceHealth,
            ),
        ),
        Route(
            name="services",
            rule="/services",
            access=access,
            end=ToFunction(operations.services),
            documentation=Documentation("Every service", schemas.Services, WHERE, tag=_TAG),
        ),
        Route(
            name="service",
            rule="/services/<name>",
            access=access,
            end=ToFunction(operations.service),
            documentation=Documentation(
                "One service and its instances",
                schemas.ServiceDetail,
                WHERE,
                errors=(404,),
                tag=_TAG,
                variables={"name": _SERVICE},
            ),
        ),
        Route(
            name="circuit-breakers",
            rule="/circuit-breakers",
            access=access,
            end=ToFunction(operations.circuit_breakers),
            documentation=Documentation("Every circuit breaker", schemas.CircuitBreakers, WHERE, tag=_TAG),
        ),
        Route(
            name="routes",
            rule="/routes",
            access=access,
            end=ToFunction(operations.routes),
            documentation=Documentation(
                "Every route, its links and their settings", schemas.Routes, WHERE, tag=_TAG
            ),
        ),
        Route(
            name="gateway-stats",
            rule="/gateway/stats",
            access=access,
            end=ToFunction(operations.stats),
            documentation=Documentation(
                "What the worker that answers has counted", schemas.GatewayStats, WHERE, tag=_TAG
            ),
        ),
    )
