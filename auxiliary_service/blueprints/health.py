"""Who is this, and is it alive? Nothing here ever asks AWS."""

import json
from collections.abc import Callable, Mapping

from flask import Blueprint, Flask, Response
from flask.typing import ResponseReturnValue

from chassis import timestamp
from chassis.health import NO_STORE


def show_version(app: Flask, version: str) -> None:
    """Put ``X-Service-Version`` on every answer of ``app``, errors included."""

    def show(response: Response) -> Response:
        response.headers["X-Service-Version"] = version
        return response

    app.after_request(show)


def alive(service: str, version: str) -> Callable[[], ResponseReturnValue]:
    """Make the view of ``GET /health``: 200 as long as this process answers at all."""

    def health() -> ResponseReturnValue:
        body = {"status": "healthy", "service": service, "version": version, "timestamp": timestamp()}
        return _answer(body)

    return health


def blueprint(service: str, version: str) -> Blueprint:
    """Make the blueprint of ``GET /version``."""
    routes = Blueprint("version", __name__)

    @routes.get("/version")
    def show() -> ResponseReturnValue:
        """Name service and version."""
        return _answer({"service": service, "version": version})

    return routes


def _answer(body: Mapping[str, str]) -> Response:
    return Response(json.dumps(body), content_type="application/json", headers=NO_STORE)
