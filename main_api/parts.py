"""The parts that the pipelines are built of, made from the settings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from chassis.settings import WAITING_ROOM
from main_api.blueprints import AUXILIARY
from main_api.exchange import Instance, Policy, Window
from main_api.policies.admission import Admission, AdmissionSettings
from main_api.policies.cache import Store
from main_api.policies.circuit_breaker import BreakerSettings
from main_api.policies.instance_health import HealthThresholds
from main_api.policies.rate_limit import RateLimit
from main_api.policies.retry import RetrySettings
from main_api.policies.scopes import WithinPaths
from main_api.routing.pipeline import Guards, Parts
from main_api.routing.service import Service, ServiceNumbers
from main_api.setting_fields import Registered
from main_api.settings import Settings
from main_api.state.limits import Limits
from main_api.state.memory import MemoryStore
from main_api.telemetry import Telemetry
from main_api.upstream import headers
from main_api.upstream.answers import Checked
from main_api.upstream.client import Client
from main_api.upstream.discovery.choice import source
from main_api.upstream.discovery.discovered import Discovered
from main_api.upstream.health_checks import Check, HealthChecks, HealthCheckSettings
from main_api.upstream.instances import InstanceList, Static, static
from main_api.upstream.session import Session
from main_api.upstream.versions import Versions

if TYPE_CHECKING:
    from main_api.access import Gatekeeper
    from main_api.state.redis_guard import RedisGuard
    from main_api.state.redis_revocations import RedisRevocations
    from main_api.state.redis_store import RedisStore

# Seconds that what no request waits for may wait for Redis.
_UNHURRIED = 1.0


@dataclass(frozen=True, slots=True)
class SharedRedis:
    """The one Redis of a process for all who use it: its connections, and its guard."""

    connections: object
    guard: "RedisGuard"


def shared_redis(settings: Settings, told: Callable[[str], object]) -> SharedRedis | None:
    """Make the guarded client of ``REDIS_URL``; ``told`` is called when it is ``away`` and ``back``."""
    return _redis(settings.redis_url, settings, told=told) if settings.redis_url else None


def make_parts(
    settings: Settings,
    session: Session,
    telemetry: Telemetry,
    versions: Versions,
    *,
    redis: SharedRedis | None = None,
    guards: Guards | None = None,
) -> Parts:
    """Make what all routes share: admission, and the services by name."""
    admission = Admission(
        AdmissionSettings(settings.gunicorn_threads, WAITING_ROOM),
        in_service=telemetry.in_service,
        waiting=telemetry.waiting,
        refused=lambda: telemetry.refused("process"),
    )
    client = Client(
        session,
        partial(headers.for_auxiliary, internal_token=settings.internal_token),
        telemetry,
        max_body=settings.upstream_max_body,
        echoes_id=True,
    )

    def gone(instance: Instance) -> None:
        auxiliary.gone(instance)
        client.forget(instance)

    def joined(instance: Instance) -> None:
        # Without checks there is nothing to wait for.
        (auxiliary.found if settings.health_check_interval else auxiliary.joined)(instance)

    listed = _instances(settings, joined=joined, gone=gone)
    auxiliary = Service(
        AUXILIARY, listed, Checked(client, AUXILIARY, versions), _numbers(settings), telemetry
    )
    return Parts(
        admission, _store(settings, redis), {AUXILIARY: auxiliary}, {AUXILIARY: listed}, guards or Guards()
    )


def _instances(
    settings: Settings, *, joined: Callable[[Instance], object], gone: Callable[[Instance], object]
) -> InstanceList:
    where = settings.auxiliary_service_url
    if not isinstance(where, Registered):
        return Static(static(AUXILIARY, where))
    found = source(
        where,
        consul_url=settings.consul_http_addr,
        consul_token=settings.consul_http_token,
        etcd_endpoints=settings.etcd_endpoints,
        dns_servers=settings.dns_servers,
    )
    return Discovered(AUXILIARY, found, networks=settings.upstream_networks, joined=joined, gone=gone)


def _store(settings: Settings, redis: SharedRedis | None) -> Store | None:
    if not settings.cache_bytes:
        return None
    return MemoryStore(settings.cache_bytes) if redis is None else _redis_store(redis, settings)


def redis_store(url: str, settings: Settings, *, timeout: float) -> "RedisStore":
    """Make the store of the answers in the Redis at ``url``; ``timeout`` bounds each wait, in seconds."""
    return _redis_store(_redis(url, settings, timeout=timeout), settings)


def _redis_store(redis: SharedRedis, settings: Settings) -> "RedisStore":
    from main_api.state.redis_store import RedisStore  # noqa: PLC0415 - see below

    return RedisStore(redis.guard, redis_prefix(settings, "cache"))


def redis_prefix(settings: Settings, kind: str) -> str:
    """Give what all names of a ``kind`` begin with: another environment may be another account."""
    return f"main-api:{settings.app_env}:{kind}"


def shared_revocations(settings: Settings, redis: SharedRedis | None) -> "RedisRevocations | None":
    """Make the list of what was revoked that all processes share, if they share a Redis.

    It is read by a client of its own, for a page of it takes longer than a request may wait; ``redis`` is for
    what requests add to it.
    """
    if settings.redis_url is None:
        return None
    from main_api.state.redis_revocations import RedisRevocations  # noqa: PLC0415 - see below

    reader = _redis(settings.redis_url, settings, timeout=_UNHURRIED)
    return RedisRevocations(
        reader.guard, redis_prefix(settings, "revocations"), requests=redis.guard if redis else None
    )


def _redis(
    url: str,
    settings: Settings,
    *,
    timeout: float | None = None,
    told: Callable[[str], object] = lambda _: None,
) -> SharedRedis:
    # Only here: who has no Redis need not hold its library, some 6 MB a worker.
    from main_api.state import redis_connections, redis_guard  # noqa: PLC0415 - see above

    # All threads, and not only those in service: what comes before admission asks Redis too.
    client = redis_connections.connect(url, settings.server_threads, timeout or redis_connections.TIMEOUT)
    return SharedRedis(
        client.connection_pool, redis_guard.RedisGuard(client, redis_guard.address(url), told=told)
    )


def gatekeeper(settings: Settings, limits: Limits, redis: SharedRedis | None) -> "Gatekeeper | None":
    """Make what decides who may call; None where nobody is asked."""
    if settings.authentication != "required":
        return None
    # Only here: who asks nobody need not hold what reads tokens and passwords, some 15 MB a worker.
    from main_api.access import Gatekeeper  # noqa: PLC0415 - see above

    return Gatekeeper(settings, limits, shared_revocations(settings, redis))


def guards(settings: Settings, limits: Limits, gate: "Gatekeeper | None") -> Guards:
    """Give what stands before the routes."""
    rate = settings.rate_limit if settings.rate_limit_enabled else None
    return Guards(
        authentication=gate.authentication if gate else None,
        rate_limit=partial(_rate_limit, limits, rate) if rate else None,
        rate=rate,
        within_paths=WithinPaths() if gate else None,
        decryption=gate.decryption if gate else lambda _: None,
    )


def _rate_limit(limits: Limits, rate: Window, route: str) -> Policy:
    return RateLimit(limits, route, rate)


def background(settings: Settings, session: Session, parts: Parts) -> Iterator[HealthChecks | Discovered]:
    """Make what goes on beside the requests, to be started after the fork."""
    yield from (each for each in parts.lists.values() if isinstance(each, Discovered))
    yield from _health_checks(settings, session, parts)


def _health_checks(settings: Settings, session: Session, parts: Parts) -> Iterator[HealthChecks]:
    if not settings.health_check_interval:
        return
    asked = HealthCheckSettings(path=settings.health_check_path, timeout=settings.health_check_timeout)
    for service in parts.services.values():
        checks = HealthChecks(
            service.instances,
            Check(session, asked),
            service.checked,
            interval=settings.health_check_interval,
            ejected=service.breakers.ejected,
            new=service.health.unproven,
            ejected_interval=settings.health_check_ejected_interval,
        )
        service.on_found = checks.soon
        yield checks


def _numbers(settings: Settings) -> ServiceNumbers:
    return ServiceNumbers(
        request_timeout=settings.request_timeout,
        attempt_timeout=settings.attempt_timeout,
        bulkhead=settings.bulkhead,
        algorithm=settings.balance,
        hash_by=settings.balance_hash_by,
        retry=RetrySettings(
            attempts=settings.retry_attempts,
            backoff=settings.retry_backoff,
            backoff_most=settings.retry_backoff_max,
        ),
        retry_tokens=settings.retry_tokens,
        retry_tokens_returned=settings.retry_tokens_per_success,
        breaker=BreakerSettings(
            failure_rate=settings.breaker_failure_rate,
            minimum_calls=settings.breaker_minimum_calls,
            window=settings.breaker_window,
            failures_in_a_row=settings.breaker_failures_in_a_row,
            open_seconds=settings.breaker_open_seconds,
            open_most=settings.breaker_open_seconds_max,
            half_open_calls=settings.breaker_half_open_calls,
            healthy_seconds=settings.breaker_healthy_seconds,
        ),
        health=HealthThresholds(
            unhealthy_after=settings.health_check_unhealthy_after,
            healthy_after=settings.health_check_healthy_after,
        ),
    )
