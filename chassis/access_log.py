"""The access log: one line per request, written when its answer is complete.

Never a query string and never a parameter's value: a path is all that is told of what was asked.
"""

import logging
from collections.abc import Collection

from flask import Flask, Response, g, request

from chassis.client_address import ClientAddress
from chassis.metrics import bodiless, elapsed, route_label, when_done

log = logging.getLogger(__name__)

PATH_MOST = 512


def length(response: Response) -> int | None:
    """Give the bytes of the body; of one that streams what it announced."""
    return response.content_length if response.is_streamed else response.calculate_content_length()


def install(app: Flask, client_address: ClientAddress, probes: Collection[str]) -> None:
    """Log every request of ``app``; those to the rules in ``probes`` at DEBUG, the others at INFO.

    A view may leave ``g.upstream_seconds``, the time it spent waiting for its upstream, and
    ``g.upstream_attempts``, how often it asked.
    """

    def write(response: Response) -> Response:
        route = route_label()
        level = logging.DEBUG if route in probes else logging.INFO
        if not log.isEnabledFor(level):
            return response
        parsed = "chassis.refusal" not in request.environ
        fields: dict[str, object] = {
            "method": request.method[:32] if parsed else None,
            "route": route,
            "path": request.path[:PATH_MOST] if parsed else None,
            "status": response.status_code,
            "clientAddress": client_address(
                request.remote_addr or "", request.headers.get("X-Forwarded-For", "")
            ),
        }
        if (attempts := g.get("upstream_attempts")) is not None:
            fields["attempts"] = attempts
        upstream = g.get("upstream_seconds")

        def finish() -> None:
            fields["durationMs"] = round(elapsed() * 1000, 2)
            fields["upstreamMs"] = None if upstream is None else round(upstream * 1000, 2)
            fields["bytes"] = 0 if bodiless(response) else length(response)
            log.log(
                level, "%s %s %s", fields["method"], route, response.status_code, extra={"fields": fields}
            )

        when_done(response, finish)
        return response

    app.after_request(write)
