"""The gateway, put together."""

from collections.abc import Iterator
from functools import partial

from flask import Flask, Response

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
from main_api.parts import background, make_parts
from main_api.policies.balance import Balance
from main_api.routing.forward import Door, let_go, view
from main_api.routing.pipeline import Parts, Pipeline, build
from main_api.routing.route import Documentation, Route
from main_api.settings import Settings
from main_api.tally import Tally
from main_api.telemetry import Telemetry
from main_api.upstream.answers import service_version
from main_api.upstream.session import Session
from main_api.upstream.versions import Versions

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
    parts = make_parts(settings, session, Telemetry(registry, tally), versions)
    door = Door(
        settings.request_timeout, find_client, lambda reply: versions.shown(AUXILIARY, service_version(reply))
    )
    app.teardown_request(let_go)
    table: list[tuple[Route, Pipeline]] = []
    for route in _routes(settings, parts, versions, Operations(parts, tally, table)):
        pipeline = build(route, parts)
        table.append((route, pipeline))
        app.add_url_rule(route.rule, route.name, view(route, pipeline, door), methods=list(route.methods))
    app.extensions["routes"] = table
    app.extensions["background"] = list(background(settings, session, parts))
    return app


def _routes(settings: Settings, parts: Parts, versions: Versions, shown: Operations) -> Iterator[Route]:
    auxiliary = parts.services[AUXILIARY]
    # Past breakers and health checks: it shows what is, not what the gateway thinks. Turns of its own.
    ask = partial(Balance(auxiliary.instances), proceed=auxiliary.send)
    readiness = ready.Readiness(ask, lambda: len(auxiliary.instances()), versions.shown)
    described = (
        *buckets.ROUTES,
        *parameters.ROUTES,
        *ready.routes(readiness),
        *operations.routes(shown),
        *console.PAGES,
    )
    yield from described
    yield from console.ASSETS
    yield console.document_route(partial(openapi.document, settings.service_version, described, PLAIN))


def _alive() -> Response:
    return Response("OK", content_type="text/plain; charset=utf-8", headers=health.NO_STORE)
