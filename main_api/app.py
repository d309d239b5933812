"""The gateway, put together."""

from collections.abc import Iterator
from functools import partial

from flask import Flask, Response

from chassis import health
from chassis.client_address import ClientAddress
from chassis.drain import draining
from chassis.install import install
from chassis.response_headers import Cors
from main_api.blueprints import AUXILIARY, buckets, console, parameters
from main_api.blueprints import health as ready
from main_api.console import openapi
from main_api.policies.balance import Balance
from main_api.routing.forward import Door, let_go, view
from main_api.routing.pipeline import Parts, Service, build
from main_api.routing.route import Documentation, Route
from main_api.settings import Settings
from main_api.telemetry import Telemetry
from main_api.upstream import headers, instances
from main_api.upstream.answers import Checked, service_version
from main_api.upstream.client import Client
from main_api.upstream.session import Session
from main_api.upstream.versions import Versions

LIVENESS = "/api/health"
SERVING = "/api/health/serving"
# What the document describes besides routes: plain views, and itself.
PLAIN = {
    LIVENESS: Documentation("Whether this process is alive", "text/plain", tag="health"),
    SERVING: Documentation(
        "Whether this process takes work", "text/plain", "503 while it drains.", (503,), "health"
    ),
    "/openapi.json": Documentation("This document", "application/json", tag="console"),
    "/metrics": Documentation("Metrics for Prometheus", "text/plain", tag="operations"),
}
CORS_ALLOW = "Authorization, X-API-Key, Content-Type, If-None-Match, X-Request-ID"
CORS_EXPOSE = "ETag, X-Request-ID, Retry-After, RateLimit, Cache-Status, Age"


def create_app(settings: Settings, session: Session | None = None) -> Flask:
    """Put the gateway together; nothing is shared between two apps of one process.

    ``session`` is given where the pair is joined in one process. Raises :class:`ValueError` for
    routes that do not fit together.
    """
    app = Flask(__name__, static_folder=None)
    versions = Versions(settings.SERVICE, settings.service_version, [AUXILIARY])
    find_client = ClientAddress(settings.trusted_proxies)
    registry = install(
        app,
        settings,
        probes={LIVENESS, SERVING, ready.READY},
        client_address=find_client,
        versions=lambda error: versions.shown(AUXILIARY, getattr(error, "service_version", None)),
        cors=Cors(settings.cors_origins, CORS_ALLOW, CORS_EXPOSE),
    )
    health.install(
        app, liveness=LIVENESS, alive=_alive, serving=SERVING, draining=partial(draining, settings.drain_path)
    )
    session = session or Session(pool_size=settings.pool_size, connect_timeout=settings.connect_timeout)
    parts = _parts(settings, session, Telemetry(registry), versions)
    door = Door(
        settings.request_timeout, find_client, lambda reply: versions.shown(AUXILIARY, service_version(reply))
    )
    app.teardown_request(let_go)
    table = []
    for route in _routes(settings, parts, versions):
        pipeline = build(route, parts)
        table.append((route, pipeline))
        app.add_url_rule(route.rule, route.name, view(route, pipeline, door), methods=list(route.methods))
    app.extensions["routes"] = table
    return app


def _parts(settings: Settings, session: Session, telemetry: Telemetry, versions: Versions) -> Parts:
    client = Client(
        session,
        partial(headers.for_auxiliary, internal_token=settings.internal_token),
        telemetry,
        max_body=settings.upstream_max_body,
    )
    auxiliary = instances.static(AUXILIARY, settings.auxiliary_service_url)
    return Parts({AUXILIARY: Service(auxiliary, Balance(auxiliary), Checked(client, AUXILIARY, versions))})


def _routes(settings: Settings, parts: Parts, versions: Versions) -> Iterator[Route]:
    auxiliary = parts.services[AUXILIARY]
    # Turns of its own: between two of its tries no other request takes one.
    ask = partial(Balance(auxiliary.instances), proceed=auxiliary.send)
    readiness = ready.Readiness(ask, len(auxiliary.instances), versions.shown)
    described = (*buckets.ROUTES, *parameters.ROUTES, *ready.routes(readiness), *console.PAGES)
    yield from described
    yield from console.ASSETS
    yield console.document_route(openapi.document(settings.service_version, described, PLAIN))


def _alive() -> Response:
    return Response("OK", content_type="text/plain; charset=utf-8", headers=health.NO_STORE)
