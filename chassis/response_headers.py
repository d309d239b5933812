"""Headers of every answer: security, CORS, compression.

Own code rather than flask-cors and flask-talisman: these few lines stand on the way of every request,
where the libraries decide anew what the configuration has decided already.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask, Response, request

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
HSTS = "max-age=31536000; includeSubDomains"
GZIP_FROM = 1024
# The default of 9 takes several times the CPU of 6 and gives the same size on lists of JSON objects.
GZIP_LEVEL = 6
_COMPRESSIBLE = (
    "application/json",
    "application/problem+json",
    "text/",
    "application/javascript",
    "image/svg",
)


@dataclass(frozen=True, slots=True)
class Cors:
    """Which browsers' pages may read the answers (Fetch standard, "CORS protocol").

    ``origins`` is ``("*",)`` for all of them, or the allowed origins; credentials are never allowed,
    so a page sends its token itself.
    """

    origins: tuple[str, ...]
    allow_headers: str = ""
    expose_headers: str = ""
    max_age: int = 600

    def allowed(self, origin: str) -> str | None:
        """Give the value of ``Access-Control-Allow-Origin`` for a request from ``origin``."""
        if "*" in self.origins:
            return "*"
        return origin if origin in self.origins else None


def install(app: Flask, over_tls: Callable[[], bool], cors: Cors | None = None) -> None:
    """Put security headers on every answer of ``app``, CORS headers with ``cors``, and compress bodies.

    ``over_tls`` says whether the client's request came over TLS, also where a proxy ended it. An
    answer that brings its own ``Content-Security-Policy`` (a page) keeps it.
    """

    def finish(response: Response) -> Response:
        headers = response.headers
        headers.setdefault("Content-Security-Policy", API_POLICY)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        if over_tls():
            headers["Strict-Transport-Security"] = HSTS
        if cors is not None:
            _allow(response, cors)
        _compress(response)
        return response

    app.after_request(finish)


def _allow(response: Response, cors: Cors) -> None:
    origin = request.headers.get("Origin", "")
    if "*" not in cors.origins:
        _vary(response, "Origin")
    allowed = cors.allowed(origin)
    if allowed is None:
        return
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = allowed
    headers["Access-Control-Expose-Headers"] = cors.expose_headers
    if (
        request.method == "OPTIONS"
        and "Access-Control-Request-Method" in request.headers
        and response.status_code < 400
    ):
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "")
        headers["Access-Control-Allow-Headers"] = cors.allow_headers
        headers["Access-Control-Max-Age"] = str(cors.max_age)


def _vary(response: Response, name: str) -> None:
    before = response.headers.get("Vary")
    response.headers["Vary"] = f"{before}, {name}" if before else name


def _compress(response: Response) -> None:
    if response.status_code == 304:
        _vary(response, "Accept-Encoding")
        return
    if not _compressible(response):
        return
    _vary(response, "Accept-Encoding")
    if not _accepts_gzip():
        return
    # HEAD too: Werkzeug would tell the length of the plain body (RFC 9110, 8.6).
    response.set_data(gzip.compress(response.get_data(), GZIP_LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"


def _compressible(response: Response) -> bool:
    """Whether the body is whole, large enough, text, and nobody has forbidden to touch it."""
    headers = response.headers
    return (
        not response.is_streamed
        and (response.calculate_content_length() or 0) >= GZIP_FROM
        and str(response.content_type).startswith(_COMPRESSIBLE)
        and "Content-Encoding" not in headers
        and "no-transform" not in headers.get("Cache-Control", "")
    )


def _accepts_gzip() -> bool:
    return "gzip" in request.headers.get("Accept-Encoding", "") and request.accept_encodings["gzip"] > 0
