"""Probes: is this process alive, does it take work? They touch nothing and depend on nobody."""

from collections.abc import Callable

from flask import Flask, Response
from flask.typing import ResponseReturnValue


def install(
    app: Flask,
    *,
    liveness: str,
    alive: Callable[[], ResponseReturnValue],
    serving: str | None = None,
    draining: Callable[[], bool],
) -> None:
    """Serve ``alive()`` at the path ``liveness``, and at ``serving`` 200, or 503 while ``draining()``.

    A drain is no error of anybody, so its 503 is plain text and not the error body.
    """

    def serve() -> Response:
        status, word = (503, "draining") if draining() else (200, "OK")
        return Response(word, status=status, content_type="text/plain; charset=utf-8", headers=NO_STORE)

    app.add_url_rule(liveness, "liveness", alive)
    if serving is not None:
        app.add_url_rule(serving, "serving", serve)


NO_STORE = {"Cache-Control": "no-store"}
