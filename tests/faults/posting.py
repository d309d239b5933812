"""The gateway with one route more, `/tagged`, by GET and by POST: its own routes are all GET."""

import os

from prometheus_client import CollectorRegistry

from chassis.client_address import ClientAddress
from chassis.settings import load
from main_api.app import create_app
from main_api.blueprints import AUXILIARY
from main_api.parts import make_parts
from main_api.routing.forward import Door, view
from main_api.routing.pipeline import build
from main_api.routing.route import Documentation, Route, ToService
from main_api.settings import Settings
from main_api.telemetry import Telemetry
from main_api.upstream.session import Session
from main_api.upstream.versions import Versions

settings = load(Settings, os.environ)
app = create_app(settings)
versions = Versions(settings.SERVICE, settings.service_version, [AUXILIARY])
parts = make_parts(
    settings,
    Session(pool_size=settings.pool_size, connect_timeout=settings.connect_timeout),
    Telemetry(CollectorRegistry()),
    versions,
)
route = Route(
    name="tagged",
    rule="/tagged",
    methods=("GET", "POST"),
    end=ToService(AUXILIARY, "/tagged"),
    documentation=Documentation("A call that is not idempotent", "application/json"),
)
door = Door(settings.request_timeout, ClientAddress(()), lambda _: versions.shown(AUXILIARY))
app.add_url_rule(route.rule, route.name, view(route, build(route, parts), door), methods=list(route.methods))
