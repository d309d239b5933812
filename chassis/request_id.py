"""Request ids: one per request, into every log line, error body and upstream call, and back to the client."""

import re
import secrets

from flask import Flask, Response, g, request

from chassis.json_logs import request_context

ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def install(app: Flask) -> None:
    """Give every request an id in ``g.request_id`` and every answer the header ``X-Request-ID``.

    The client's own ``X-Request-ID``, else its ``X-Correlation-ID``, is kept when it is 1 to 64 of
    ``A-Za-z0-9._-``; anything else (a repeated header arrives joined by a comma) gets a new one.
    A ``X-Correlation-ID`` that is accepted is echoed too.
    """
    app.before_request(_take)
    app.after_request(_show)


def _take() -> None:
    headers = request.headers
    own = headers.get("X-Request-ID", "")
    correlation = headers.get("X-Correlation-ID", "")
    g.correlation_id = correlation if ACCEPTED.match(correlation) else None
    g.request_id = own if ACCEPTED.match(own) else g.correlation_id or secrets.token_hex(16)
    request_context.set({"requestId": g.request_id})


def _show(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if g.correlation_id:
        response.headers["X-Correlation-ID"] = g.correlation_id
    return response
