"""Hangs the chassis on a Flask app: every hook of both services, in one visible order."""

from collections.abc import Callable, Collection

from flask import Flask, request
from prometheus_client import CollectorRegistry

from chassis import access_log, error_body, metrics, request_id, response_headers, tracing
from chassis.client_address import ClientAddress
from chassis.error_body import Versions
from chassis.response_headers import Cors
from chassis.settings import ServiceSettings


def install(
    app: Flask,
    settings: ServiceSettings,
    *,
    probes: Collection[str],
    client_address: ClientAddress,
    versions: Versions | None = None,
    cors: Cors | None = None,
    counted: Callable[[str, int, float], object] | None = None,
) -> CollectorRegistry:
    """Give ``app`` everything that both services do alike; return the registry for its own metrics.

    ``probes`` are the rules that are logged at DEBUG only; ``counted`` is called with the rule, status and
    seconds of each request. Flask runs hooks before a request in this
    order and those after it in the opposite one: metrics see the whole of a request, and headers are
    complete when the access log counts the bytes.
    """
    # Exactly the paths that are written down: no redirect is ever made of `//` or a trailing slash.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True

    def over_tls() -> bool:
        if request.environ.get("wsgi.url_scheme") == "https":
            return True
        forwarded = request.headers.get("X-Forwarded-Proto", "") == "https"
        return forwarded and client_address.trusts(request.remote_addr or "")

    registry = metrics.install(app, settings.SERVICE, settings.metrics_path, counted)
    access_log.install(app, client_address, {*probes, "/metrics"})
    request_id.install(app)
    tracing.install(app)
    response_headers.install(app, over_tls, cors)
    error_body.install(app, versions)
    return registry
