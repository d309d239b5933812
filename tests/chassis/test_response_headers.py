"""Headers of every answer: security, CORS, compression."""

import gzip
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response as WerkzeugResponse

from chassis.errors import BadRequest
from chassis.response_headers import Cors

HSTS = "max-age=31536000; includeSubDomains"
PAGE = "https://page.example"
OTHER = "https://other.example"
LISTED = Cors((PAGE, OTHER), allow_headers="Authorization", expose_headers="ETag")
REFUSED = {"chassis.refusal": BadRequest()}


def vary(answer: TestResponse) -> list[str]:
    return [name.strip() for line in answer.headers.getlist("Vary") for name in line.split(",")]


def asked(client: FlaskClient, kind: str, **more: Any) -> TestResponse:
    """Ask for an answer of a kind: every way by which one can leave."""
    if kind == "refused":
        return client.get("/", environ_overrides=REFUSED | more.pop("environ_overrides", {}), **more)
    method, path = kind.split(" ")
    return client.open(path, method=method, **more)


KINDS = ["GET /plain", "HEAD /plain", "OPTIONS /plain", "GET /nowhere", "POST /plain", "GET /bug", "refused"]


@pytest.mark.parametrize("kind", [*KINDS, "GET /metrics", "GET /probe"])
def test_every_answer_has_the_security_headers(client: FlaskClient, kind: str) -> None:
    headers = asked(client, kind).headers

    assert headers.getlist("Content-Security-Policy") == ["default-src 'none'; frame-ancestors 'none'"]
    assert headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert headers.getlist("Referrer-Policy") == ["no-referrer"]
    assert "Server" not in headers
    assert "Strict-Transport-Security" not in headers


def test_a_page_keeps_its_own_policy(make_app: Callable[..., Flask]) -> None:
    view = lambda: Response("page", headers={"Content-Security-Policy": "default-src 'self'"})  # noqa: E731
    answer = make_app({"/page": view}).test_client().get("/page")

    assert answer.headers.getlist("Content-Security-Policy") == ["default-src 'self'"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("kind", KINDS)
def test_over_tls_browsers_are_told_to_stay_there(client: FlaskClient, kind: str) -> None:
    answer = asked(client, kind, environ_overrides={"wsgi.url_scheme": "https"})

    assert answer.headers.getlist("Strict-Transport-Security") == [HSTS]


@pytest.mark.parametrize(
    ("peer", "proto", "told"),
    [
        ("10.0.0.1", "https", True),
        ("10.0.0.1", "http", False),
        ("10.0.0.1", "", False),
        ("203.0.113.9", "https", False),
        ("", "https", False),
    ],
)
def test_tls_before_a_proxy_counts_only_when_the_proxy_is_trusted(
    make_app: Callable[..., Flask], peer: str, proto: str, told: bool
) -> None:
    client = make_app(trusted=[ipaddress.ip_network("10.0.0.0/8")]).test_client()
    answer = client.get(
        "/plain", headers={"X-Forwarded-Proto": proto}, environ_overrides={"REMOTE_ADDR": peer}
    )

    assert ("Strict-Transport-Security" in answer.headers) is told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("origin", [None, PAGE, "null"])
def test_with_a_star_every_page_may_read_every_answer(
    client: FlaskClient, kind: str, origin: str | None
) -> None:
    answer = asked(client, kind, headers={} if origin is None else {"Origin": origin})

    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]
    assert answer.headers["Access-Control-Expose-Headers"] == "ETag, X-Request-ID"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" not in vary(answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (PAGE, True),
        (OTHER, True),
        ("https://evil.example", False),
        (PAGE + ".evil.example", False),
        (PAGE.upper(), False),
        ("null", False),
        (None, False),
    ],
)
def test_with_a_list_only_its_pages_may_read_and_caches_are_told(
    make_app: Callable[..., Flask], kind: str, origin: str | None, allowed: bool
) -> None:
    client = make_app(cors=LISTED).test_client()
    answer = asked(client, kind, headers={} if origin is None else {"Origin": origin})

    assert answer.headers.getlist("Access-Control-Allow-Origin") == ([origin] if allowed else [])
    assert ("Access-Control-Expose-Headers" in answer.headers) is allowed
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert vary(answer).count("Origin") == 1


def test_without_cors_no_answer_speaks_of_it(make_app: Callable[..., Flask]) -> None:
    client = make_app(cors=None).test_client()
    answer = client.options("/plain", headers={"Origin": PAGE, "Access-Control-Request-Method": "GET"})

    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118
    assert "Origin" not in vary(answer)


def preflight(client: FlaskClient, path: str, origin: str = PAGE) -> TestResponse:
    return client.options(path, headers={"Origin": origin, "Access-Control-Request-Method": "GET"})


def test_a_preflight_is_told_methods_headers_and_how_long(client: FlaskClient) -> None:
    answer = preflight(client, "/plain")

    assert answer.status_code == 200
    methods = {name.strip() for name in answer.headers["Access-Control-Allow-Methods"].split(",")}
    assert methods == {"GET", "HEAD", "OPTIONS"}
    assert answer.headers["Access-Control-Allow-Headers"] == "X-API-Key"
    assert int(answer.headers["Access-Control-Max-Age"]) > 0


def told_by_a_preflight(answer: TestResponse) -> set[str]:
    names = {"Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age"}
    return {name for name in names if name in answer.headers}


def test_a_preflight_on_an_unknown_path_is_the_one_404_that_the_page_may_read(client: FlaskClient) -> None:
    answer = preflight(client, "/nowhere")

    assert answer.status_code == 404
    assert answer.json["code"] == "not_found"  # type: ignore[index]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert told_by_a_preflight(answer) == set()


def test_a_preflight_of_a_page_that_is_not_listed_is_told_nothing(make_app: Callable[..., Flask]) -> None:
    client = make_app(cors=LISTED).test_client()

    assert len(told_by_a_preflight(preflight(client, "/plain"))) == 3
    assert told_by_a_preflight(preflight(client, "/plain", "https://evil.example")) == set()


def test_options_without_a_method_to_ask_for_is_no_preflight(client: FlaskClient) -> None:
    answer = client.options("/plain", headers={"Origin": PAGE})

    assert answer.status_code == 200
    assert told_by_a_preflight(answer) == set()


@pytest.mark.parametrize(("size", "compressed"), [(2, False), (1023, False), (1024, True), (100_000, True)])
def test_a_body_of_1_kib_and_more_is_compressed(client: FlaskClient, size: int, compressed: bool) -> None:
    answer = client.get(f"/sized/{size}", headers={"Accept-Encoding": "br, gzip;q=0.5"})

    assert (answer.headers.get("Content-Encoding") == "gzip") is compressed
    assert ("Accept-Encoding" in vary(answer)) is compressed
    body = gzip.decompress(answer.data) if compressed else answer.data
    assert body == b'"' + b"x" * (size - 2) + b'"'
    assert int(answer.headers["Content-Length"]) == len(answer.data)


CODINGS = ["gzip", "GZIP", "br", "identity", "*", "x-gzip", "gzippy"]
coding = st.tuples(
    st.sampled_from(CODINGS),
    st.sampled_from(["", ";q=0", ";q=0.0", ";q=0.001", "; q=0.5", ";q=1", ";q=1.000"]),
)


@settings(deadline=None)
@given(st.integers(2, 4096), st.lists(coding, unique_by=lambda item: item[0].lower(), max_size=4))
def test_a_body_is_compressed_only_for_who_takes_gzip(
    client: FlaskClient, size: int, header: list[tuple[str, str]]
) -> None:
    text = ", ".join(name + quality for name, quality in header)
    answer = client.get(f"/sized/{size}", headers={"Accept-Encoding": text})

    encoded = "Content-Encoding" in answer.headers
    qualities = {name.lower(): float(quality.partition("q=")[2] or 1) for name, quality in header}
    if size < 1024 or not qualities.get("gzip", qualities.get("*")):
        assert not encoded
    elif ("gzip", "") in header or ("gzip", ";q=0.001") in header:
        assert encoded
    assert vary(answer).count("Accept-Encoding") == (1 if size >= 1024 else 0)
    assert len(gzip.decompress(answer.data) if encoded else answer.data) == size


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=40), st.booleans())
def test_no_accept_encoding_breaks_an_answer(client: FlaskClient, text: str, named: bool) -> None:
    header = f"gzip{text}" if named else text
    answer = client.get("/sized/2000", environ_overrides={"HTTP_ACCEPT_ENCODING": header})

    encoded = answer.headers.get("Content-Encoding")
    assert answer.status_code == 200
    assert len(gzip.decompress(answer.data) if encoded else answer.data) == 2000


def test_the_same_body_is_the_same_bytes_each_time(client: FlaskClient) -> None:
    first, second = (client.get("/sized/5000", headers={"Accept-Encoding": "gzip"}).data for _ in range(2))

    assert first == second


@pytest.mark.parametrize("size", [1023, 1024])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_head_tells_what_get_would_and_no_wrong_length(client: FlaskClient, size: int, coding: str) -> None:
    get, head = (
        client.open(f"/sized/{size}", method=method, headers={"Accept-Encoding": coding})
        for method in ("GET", "HEAD")
    )

    assert head.data == b""
    for name in ("Content-Type", "Content-Encoding", "Vary"):
        assert head.headers.get(name) == get.headers.get(name)
    # RFC 9110, 8.6: the length that GET would tell, or none.
    assert head.headers.get("Content-Length") in (None, get.headers["Content-Length"])


def one(make_app: Callable[..., Flask], view: Callable[[], Any], **headers: str) -> TestResponse:
    client: FlaskClient = make_app({"/one": view}).test_client()
    return client.get("/one", headers={"Accept-Encoding": "gzip", **headers})


def test_a_304_varies_like_the_200_and_has_no_body(make_app: Callable[..., Flask]) -> None:
    def view() -> WerkzeugResponse:
        response = Response("x" * 2000, content_type="application/json")
        response.set_etag("tag", weak=True)
        return response.make_conditional(request)

    full = one(make_app, view)
    answer = one(make_app, view, **{"If-None-Match": full.headers["ETag"]})

    assert (full.status_code, full.headers["Content-Encoding"]) == (200, "gzip")
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == full.headers["ETag"] == 'W/"tag"'
    assert "Accept-Encoding" in vary(answer)
    assert "Accept-Encoding" in vary(full)
    assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/problem+json",
        "text/html; charset=utf-8",
        "text/plain",
        "text/css",
        "text/javascript",
        "application/javascript",
        "image/svg+xml",
    ],
)
def test_text_is_compressed(make_app: Callable[..., Flask], kind: str) -> None:
    answer = one(make_app, lambda: Response("x" * 2000, content_type=kind))

    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"] == kind


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/gzip"])
def test_what_is_no_text_is_left_alone(make_app: Callable[..., Flask], kind: str) -> None:
    answer = one(make_app, lambda: Response("x" * 2000, content_type=kind))

    assert (answer.text, "Content-Encoding" in answer.headers) == ("x" * 2000, False)


@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "br"}, {"Cache-Control": "public, no-transform"}],
    ids=["br", "no-transform"],
)
def test_what_is_encoded_or_not_to_be_touched_is_left_alone(
    make_app: Callable[..., Flask], headers: dict[str, str]
) -> None:
    answer = one(make_app, lambda: Response("x" * 2000, content_type="application/json", headers=headers))

    assert answer.data == b"x" * 2000
    assert answer.headers.get("Content-Encoding") == headers.get("Content-Encoding")


def test_a_stream_is_not_gathered_to_be_compressed(make_app: Callable[..., Flask]) -> None:
    parts = (b"x" * 1000 for _ in range(3))
    view = lambda: Response(parts, content_type="application/json", headers={"Content-Length": "3000"})  # noqa: E731
    with make_app({"/one": view}).test_client() as client:
        answer = client.get("/one", headers={"Accept-Encoding": "gzip"})

        assert answer.data == b"x" * 3000
        assert "Content-Encoding" not in answer.headers


def test_a_body_in_parts_that_are_all_there_is_compressed_like_any_other(
    make_app: Callable[..., Flask],
) -> None:
    answer = one(make_app, lambda: Response([b"x" * 1000, b"y" * 1000], content_type="application/json"))

    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.data) == b"x" * 1000 + b"y" * 1000


def test_an_error_is_compressed_when_it_is_long(make_app: Callable[..., Flask]) -> None:
    details: Any = [{"field": "f" * 100, "message": "wrong", "value": None}] * 20

    def view() -> str:
        raise BadRequest(details=details)

    answer = one(make_app, view)
    assert (answer.status_code, answer.headers["Content-Encoding"]) == (400, "gzip")
    assert b'"bad_request"' in gzip.decompress(answer.data)
    assert {"Accept", "Accept-Encoding"} <= set(vary(answer))
