"""The one maker of error bodies: every error of either service, on every path, leaves through here."""

import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NoReturn

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.routing import RequestRedirect

from chassis import timestamp
from chassis.errors import BadRequest, MethodNotAllowed, NotFound, ServiceError, TooLarge

Versions = Callable[[ServiceError], Mapping[str, str]]

PROBLEM = "application/problem+json"

log = logging.getLogger(__name__)

_BY_STATUS: dict[int, type[ServiceError]] = {404: NotFound, 413: TooLarge}


def install(app: Flask, versions: Versions | None = None) -> None:
    """Answer every error of ``app`` with the one body, and leave its code in ``g.error_code``.

    ``versions`` gives what the body's ``versions`` says; without it the body has none.
    What gunicorn refused (see :mod:`chassis.worker`) arrives as ``environ["chassis.refusal"]`` and is
    raised here, so that it is logged, counted and answered like any other error.
    """

    def answer(error: Exception) -> Response:
        known = _known(error)
        g.error_code = known.code
        return render(known, versions(known) if versions else None)

    app.before_request(_refuse_early)
    app.register_error_handler(Exception, answer)


def _refuse_early() -> None:
    refusal = request.environ.get("chassis.refusal")
    if refusal is not None:
        raise refusal
    written = request.environ.get("RAW_URI", "").partition("?")[0]
    if request.environ.get("PATH_INFO", "").startswith("//") or "%" in written:
        # Werkzeug drops leading slashes and WSGI decodes `%2F`, which is no slash (RFC 3986, 2.2), so that
        # a rule matched a path that nobody wrote down.
        nowhere()
    if isinstance(request.routing_exception, RequestRedirect):
        # Of a URL without a path: Werkzeug would make a Location out of whatever is in Host.
        nowhere()


def nowhere() -> NoReturn:
    """Answer the current request as if no rule had matched, whatever its method: 404, also in the metrics."""
    request.url_rule = request.routing_exception = None
    raise NotFound


def _known(error: Exception) -> ServiceError:
    """Translate what Flask, Werkzeug or a bug raised; a bug's text goes to the log alone."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, WerkzeugMethodNotAllowed):
        return MethodNotAllowed(headers={"Allow": ", ".join(sorted(error.valid_methods or ()))})
    if isinstance(error, HTTPException) and error.code is not None and 400 <= error.code < 500:
        return _BY_STATUS.get(error.code, BadRequest)()
    log.error("unhandled error", exc_info=error)
    return ServiceError()


def render(error: ServiceError, versions: Mapping[str, str] | None) -> Response:
    """Write an error as the one body, or as RFC 9457 for a client that prefers ``problem+json``."""
    facts: dict[str, object] = {"code": error.code, "requestId": g.get("request_id", "unknown")}
    if error.details:
        facts["details"] = list(error.details)
    if error.retry_after is not None:
        facts["retryAfter"] = error.retry_after
    if versions is not None:
        facts["versions"] = dict(versions)
    facts["timestamp"] = timestamp()
    head: dict[str, object]
    if _prefers_problem():
        title = HTTPStatus(error.status).phrase
        head = {"type": "about:blank", "title": title, "status": error.status, "detail": error.message}
        content_type = PROBLEM
    else:
        head = {"success": False, "error": error.message}
        content_type = "application/json"
    response = Response(json.dumps(head | facts) + "\n", status=error.status, content_type=content_type)
    # An error says nothing about the next request: 404, 405, 414 and 501 are cacheable by default.
    response.headers["Cache-Control"] = "no-store"
    response.headers["Vary"] = "Accept"
    response.headers.update(error.headers)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _prefers_problem() -> bool:
    """Whether the client names problem+json at all, and not below plain JSON (RFC 9110, 12.5.1)."""
    header = request.headers.get("Accept", "")
    if PROBLEM not in header.lower():
        return False
    accept = request.accept_mimetypes
    named = {
        value.lower(): quality for value, quality in accept if value.lower() in (PROBLEM, "application/json")
    }
    return named.get(PROBLEM, 0) > 0 and named[PROBLEM] >= named.get("application/json", 0)
