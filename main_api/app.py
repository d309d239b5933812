"""The gateway, put together."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits.strategies import RateLimiter

from chassis import health
from chassis.client_address import ClientAddress
from chassis.drain import draining
from chassis.install import install
from chassis.response_headers import Cors
from main_api import hooks
from main_api.blueprints import AUXILIARY, buckets, console, operations, parameters
from main_api.blueprints import health as ready
from main_api.blueprints.operations import Operations
from main_api.console import openapi
from main_api.parts import SharedRedis, background, gatekeeper, guards, make_parts, redis_prefix, shared_redis
from main_api.policies.balance import Balance
from main_api.routing.forward import Door, add_trail, behind, let_go, view
from main_api.routing.pipeline import Parts, Pipeline, build
from main_api.routing.route import Documentation, Route
from main_api.scopes import ANYBODY
from main_api.settings import Settings
from main_api.state import limits_memory
from main_api.state.limits import Limits, LocalLimits, SharedLimits
from main_api.tally import Tally
from main_api.telemetry import Telemetry
from main_api.upstream.answers import service_version
from main_api.upstream.session import Session
from main_api.upstream.versions import Versions

if TYPE_CHECKING:
    from main_api.access import Gatekeeper

LIVENESS, SERVING = Settings.PROBES
PROBES = frozenset((LIVENESS, SERVING, ready.READY))
# What the document describes besides routes: plain views, and itself.
PLAIN = {
    LIVENESS: Documentation("Whether this process is alive", "text/plain", tag="health"),
    SERVING: Documentation(
        "Whether this process takes work", "text/plain", "503 while it drains.", (503,), "health"
    ),
    "/openapi.json": Documentation("This document", "application/json", tag="console"),
    "/metrics": Documentation("Metrics for Prometheus", "text/plain", operations.WHERE, tag="operations"),
}
# Bytes of a request's body; only JSON of our own routes has one.
BODY_MOST = 64 * 1024
# Neither twice a limit at the edge of a window, nor more to keep the larger the limit is.
STRATEGY = "sliding-window-counter"
CORS_ALLOW = "Authorization, X-API-Key, Content-Type, If-None-Match, X-Request-ID"
CORS_EXPOSE = "ETag, X-Request-ID, Retry-After, RateLimit, Cache-Status, Age"


def create_app(settings: Settings, session: Session | None = None) -> Flask:
    """Put the gateway together; nothing is shared between two apps of one process.

    ``session`` is given where the pair is joined in one process. What goes on beside requests is in
    ``app.extensions["background"]``, for the worker to ``start()``. Raises :class:`ValueError` for
    routes that do not fit together.
    """
    app = Flask(__name__, static_folder=None)
    versions = Versions(settings.SERVICE, settings.service_version, [AUXILIARY])
    find_client = ClientAddress(settings.trusted_proxies)
    tally = Tally()
    registry = install(
        app,
        settings,
        probes=PROBES,
        client_address=find_client,
        versions=lambda error: versions.shown(AUXILIARY, getattr(error, "service_version", None)),
        cors=Cors(settings.cors_origins, CORS_ALLOW, CORS_EXPOSE),
        counted=hooks.counting(tally),
    )
    health.install(
        app, liveness=LIVENESS, alive=_alive, serving=SERVING, draining=partial(draining, settings.drain_path)
    )
    if settings.operations_port is not None:
        hooks.keep_apart(app, settings.operations_port, operations.reserved, PROBES)
    session = session or Session(pool_size=settings.pool_size, connect_timeout=settings.connect_timeout)
    telemetry = Telemetry(registry, tally)
    redis = shared_redis(settings, telemetry.redis)
    counts = _limits(app, settings, redis)
    gate = gatekeeper(settings, counts, redis)
    parts = make_parts(
        settings, session, telemetry, versions, redis=redis, guards=guards(settings, counts, gate)
    )
    door = Door(
        settings.request_timeout,
        find_client,
        lambda reply: versions.shown(AUXILIARY, service_version(reply)),
        everybody=frozenset() if gate else ANYBODY,
    )
    app.config["MAX_CONTENT_LENGTH"] = BODY_MOST
    app.after_request(add_trail)
    app.teardown_request(let_go)
    table: list[tuple[Route, Pipeline]] = []
    for route in _routes(settings, parts, versions, Operations(parts, tally, table), gate):
        pipeline = build(route, parts)
        table.append((route, pipeline))
        app.add_url_rule(route.rule, route.name, view(route, pipeline, door), methods=list(route.methods))
    app.extensions["routes"] = table
    if gate and settings.operations_port is None:
        policy = gate.authentication(operations.ACCESS)
        app.view_functions["metrics"] = behind(policy, door, app.view_functions["metrics"])
    app.extensions["background"] = [
        *background(settings, session, parts),
        *(gate.background() if gate else ()),
    ]
    return app


def _limits(app: Flask, settings: Settings, redis: SharedRedis | None) -> Limits:
    """Make what counts requests: Flask-Limiter's strategy, in Redis where there is one."""
    local = LocalLimits(_strategy(app, limits_memory.URI))
    if redis is None:
        return local
    options = {
        "connection_pool": redis.connections,
        "key_prefix": redis_prefix(settings, "limits"),
    }
    share = settings.web_concurrency * settings.rate_limit_replicas
    # The address is that of the pool.
    return SharedLimits(redis.guard, _strategy(app, "redis://", options), local, share)


def _strategy(app: Flask, where: str, options: Mapping[str, Any] | None = None) -> RateLimiter:
    limiter = Limiter(
        get_remote_address, storage_uri=where, storage_options=dict(options or {}), strategy=STRATEGY
    )
    # An app that has it already gets no hooks of it: they would count before anybody is known, and answer in
    # their own way. The policy counts, where the pipeline has it.
    app.extensions.setdefault("limiter", set()).add(limiter)
    limiter.init_app(app)
    return limiter.limiter


def _routes(
    settings: Settings, parts: Parts, versions: Versions, shown: Operations, gate: "Gatekeeper | None"
) -> Iterator[Route]:
    auxiliary = parts.services[AUXILIARY]
    # Past breakers and health checks: it shows what is, not what the gateway thinks. Turns of its own.
    ask = partial(Balance(auxiliary.instances), proceed=auxiliary.send)
    readiness = ready.Readiness(ask, lambda: len(auxiliary.instances()), versions.shown)
    described = (
        *buckets.ROUTES,
        *parameters.ROUTES,
        *ready.routes(readiness),
        *operations.routes(shown, None if settings.operations_port else operations.ACCESS),
        *(gate.routes() if gate else ()),
        *console.PAGES,
    )
    yield from described
    yield from console.ASSETS
    yield console.document_route(
        partial(
            openapi.document,
            settings.service_version,
            described,
            PLAIN,
            authenticated=gate is not None,
            limited=settings.rate_limit_enabled,
            guarded={"/metrics": operations.ACCESS} if gate and not settings.operations_port else None,
        )
    )


def _alive() -> Response:
    return Response("OK", content_type="text/plain; charset=utf-8", headers=health.NO_STORE)
