"""Flask's door: what of a request goes in, what of a reply comes out, and that each reply is closed."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
import requests
from flask import Flask, Response
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder, TestResponse

from chassis.client_address import ClientAddress
from chassis.install import install
from main_api.exchange import Call, Reply, Stream
from main_api.routing.forward import Door, let_go, view
from main_api.routing.pipeline import build
from main_api.routing.route import Documentation, Route, ToFunction, ToService
from tests.main_api.support import (
    BODY,
    Answer,
    Upstream,
    error_answer,
    gateway,
    parts,
    service,
    settings,
)

DATA = ["/api/s3/buckets", "/api/parameters/list", "/api/parameters"]
ASKED = ["/api/s3/buckets", "/api/parameters/list", "/api/parameters?name=database/host"]
PAGES = ["/", "/docs", "/openapi.json", "/console/page.js", "/docs/swagger-ui.css"]


def sent_query(upstream: Upstream) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(str(upstream.sent[-1].url)).query, keep_blank_values=True)


def raw(client: FlaskClient, target: str, **options: Any) -> TestResponse:
    """Ask for a target exactly as written, as it stands in a request line."""
    path, _, query = target.partition("?")
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), path.encode())
    environ = {"PATH_INFO": decoded.decode("latin-1"), "QUERY_STRING": query, "RAW_URI": target}
    return client.open("/", environ_overrides=environ, **options)


# What is asked.


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("/api/s3/buckets", "/aws/s3/buckets"),
        (
            "/api/s3/buckets?prefix=a&limit=10&nextToken=abc=",
            "/aws/s3/buckets?prefix=a&limit=10&nextToken=abc%3D",
        ),
        ("/api/parameters/list", "/aws/parameters/list"),
        ("/api/parameters/list?decrypt=false&prefix=a/b", "/aws/parameters/list?decrypt=false&prefix=a%2Fb"),
        ("/api/parameters?name=database/host", "/aws/parameters?name=database%2Fhost"),
        ("/api/parameters?name=%2Fmyproject%2Fa", "/aws/parameters?name=%2Fmyproject%2Fa"),
    ],
)
def test_one_call_goes_out_with_path_and_query(asked: str, sent: str) -> None:
    client, upstream = gateway()

    assert client.get(asked).status_code == 200
    urls = [urlsplit(str(each.url)) for each in upstream.sent]
    assert [each.path for each in urls] == [urlsplit(sent).path]
    assert sorted(parse_qsl(urls[0].query)) == sorted(parse_qsl(urlsplit(sent).query))


CLIENTS = {
    "Cookie": "session=canary",
    "Authorization": "Bearer canary",
    "X-API-Key": "canary",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "canary.test",
    "X-Internal-Scopes": "parameters:decrypt",
    "X-User-Id": "canary",
    "Accept": "text/html",
    "Accept-Encoding": "gzip",
    "Accept-Language": "de",
    "User-Agent": "canary",
    "If-None-Match": '"canary"',
    "If-Modified-Since": "Wed, 21 Oct 2015 07:28:00 GMT",
    "Cache-Control": "no-cache",
    "Range": "bytes=0-1",
    "Connection": "X-Hop",
    "X-Hop": "canary",
    "X-Request-Timeout-Ms": "60000",
    "Traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    "Tracestate": "vendor=1",
    "X-Request-ID": "the-clients.id_1",
}


def test_none_of_the_clients_headers_goes_out_but_id_and_trace() -> None:
    client, upstream = gateway()

    assert client.get("/api/s3/buckets", headers=CLIENTS).status_code == 200

    sent = dict(upstream.headers)
    assert 9000 < int(sent.pop("x-request-timeout-ms")) <= 9900
    span = re.fullmatch("00-" + "a" * 32 + "-([0-9a-f]{16})-01", sent.pop("traceparent"))
    assert span is not None
    assert span[1] != "b" * 16
    assert sent == {
        "accept": "application/json",
        "x-request-id": "the-clients.id_1",
        "tracestate": "vendor=1",
    }


def test_token_and_scopes_go_out_only_where_the_token_is_set() -> None:
    client, upstream = gateway(INTERNAL_TOKEN="0123456789abcdef")

    client.get("/api/s3/buckets", headers=CLIENTS)

    assert upstream.headers["authorization"] == "Bearer 0123456789abcdef"
    assert upstream.headers["x-internal-scopes"] == "buckets:read parameters:read"


def test_the_id_that_goes_out_is_the_one_that_comes_back() -> None:
    client, upstream = gateway()

    answer = client.get("/api/s3/buckets", headers={"X-Request-ID": "not acceptable!"})

    assert answer.headers["X-Request-ID"] == upstream.headers["x-request-id"]


@pytest.mark.parametrize(("seconds", "most"), [("10", 9900), ("0.5", 400), ("2.5", 2400)])
def test_the_deadline_goes_out_as_what_is_left(seconds: str, most: int) -> None:
    client, upstream = gateway(REQUEST_TIMEOUT=seconds)

    client.get("/api/s3/buckets")

    assert most - 300 < int(upstream.headers["x-request-timeout-ms"]) <= most


def test_a_request_without_time_is_504_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    client, upstream = gateway()
    monkeypatch.setattr("main_api.routing.forward.monotonic", lambda: -1000.0)

    answer = client.get("/api/s3/buckets")

    assert (answer.status_code, answer.get_json()["code"]) == (504, "gateway_timeout")
    assert upstream.sent == []


SINGLE = "/api/parameters?name=a"
LIST = "/api/parameters/list"


@pytest.mark.parametrize(
    ("target", "asked", "most"),
    [
        (LIST, "2000", 1900),
        (LIST, "000000000002000", 1900),
        (LIST, "60000", 9900),
        (LIST, "9" * 15, 9900),
        (SINGLE, "2000", 1900),
        (SINGLE, "5000", 2900),
        (SINGLE, "60000", 2900),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_client_may_ask_for_less_time_and_not_for_more(
    target: str, asked: str, most: int, method: str
) -> None:
    client, upstream = gateway()

    assert client.open(target, method=method, headers={"X-Request-Timeout-Ms": asked}).status_code == 200
    assert most - 300 < int(upstream.headers["x-request-timeout-ms"]) <= most
    [(_, read)] = upstream.timeouts
    assert read == pytest.approx((most + 100) / 1000, abs=0.3)


@pytest.mark.parametrize(("target", "most"), [(LIST, 9900), (SINGLE, 2900)])
def test_a_whole_list_has_all_of_the_time_and_a_single_read_that_of_an_attempt(
    target: str, most: int
) -> None:
    client, upstream = gateway()

    client.get(target)

    assert most - 300 < int(upstream.headers["x-request-timeout-ms"]) <= most


def test_each_further_attempt_has_what_is_left_of_the_request() -> None:
    client, upstream = gateway(
        requests.ConnectionError("reset"), REQUEST_TIMEOUT="4", ATTEMPT_TIMEOUT="300", RETRY_BACKOFF="0"
    )

    client.get(SINGLE)

    told = [int(each.headers["X-Request-Timeout-Ms"]) for each in upstream.sent]
    assert len(told) == 3
    assert told == sorted(told, reverse=True)
    assert 3400 < told[-1] <= told[0] <= 3900


@pytest.mark.parametrize("asked", [{}, {"X-Request-Timeout-Ms": "60000"}], ids=["unasked", "asked"])
def test_a_client_gets_no_more_time_for_all_attempts_either(asked: dict[str, str]) -> None:
    client, upstream = gateway(Answer(b"", 503).with_headers(Retry_After="5"), REQUEST_TIMEOUT="4")

    # Five seconds, after which another attempt would be made, are more than the request has.
    assert client.get(SINGLE, headers=asked).status_code == 502
    assert len(upstream.sent) == 1


@pytest.mark.parametrize("target", ASKED)
def test_a_client_that_gives_no_time_is_504_at_once(target: str) -> None:
    client, upstream = gateway()

    answer = client.get(target, headers={"X-Request-Timeout-Ms": "0"})

    assert (answer.status_code, answer.get_json()["code"]) == (504, "gateway_timeout")
    assert upstream.sent == []


# What is refused.


@pytest.mark.parametrize("target", ASKED)
@pytest.mark.parametrize(
    "asked",
    ["1.5", "-1", "+1", "1e3", "1s", "soon", "", "1,2", "1 2", "0x10", "²", "١٢", "1" * 16, "1" * 300],
)
def test_a_time_that_is_no_whole_milliseconds_is_400_and_named(target: str, asked: str) -> None:
    client, upstream = gateway()
    # As it stands in a request: bytes, which WSGI hands over as latin-1.
    value = asked.encode("latin-1" if asked == "²" else "utf-8").decode("latin-1")

    answer = client.get(target, environ_overrides={"HTTP_X_REQUEST_TIMEOUT_MS": value})

    assert details(answer) == {"X-Request-Timeout-Ms": ("Must be whole milliseconds", value[:200])}
    assert upstream.sent == []


def details(answer: TestResponse) -> dict[str, tuple[str, str | None]]:
    assert answer.status_code == 400
    body = answer.get_json()
    assert (body["error"], body["code"]) == ("Validation failed", "validation_failed")
    return {each["field"]: (each["message"], each["value"]) for each in body["details"]}


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("", "name", None),
        ("name=", "name", ""),
        ("name", "name", ""),
        ("Name=a", "Name", "a"),
        ("name=a&name=a", "name", "a,a"),
        ("name=a&name=b", "name", "a,b"),
        ("name=/", "name", "/"),
        ("name=//a", "name", "//a"),
        ("name=a/", "name", "a/"),
        ("name=a//b", "name", "a//b"),
        ("name=..", "name", ".."),
        ("name=a/../b", "name", "a/../b"),
        ("name=%2e%2e/b", "name", "../b"),
        ("name=%2e%2e%2fb", "name", "../b"),
        ("name=./b", "name", "./b"),
        ("name=a%00b", "name", "a\0b"),
        ("name=a%252fb", "name", "a%2fb"),
        ("name=a%0Ab", "name", "a\nb"),
        ("name=a%0A", "name", "a\n"),
        ("name=a+b", "name", "a b"),
        ("name=%20", "name", " "),
        ("name=b%C3%BCcher", "name", "bücher"),
        ("name=%EF%BC%8E%EF%BC%8E", "name", "\uff0e\uff0e"),
        ("name=%D9%A3", "name", "٣"),
        ("name=a%FFb", "name", "a%FFb"),
        ("name=http://evil.test/", "name", "http://evil.test/"),
        ("name=a?b", "name", "a?b"),
        ("name=a%26decrypt%3Dtrue", "name", "a&decrypt=true"),
        ("name=a%23b", "name", "a#b"),
        ("name=a;b", "name", "a;b"),
        ("name=a\\b", "name", "a\\b"),
        ("name=" + "/".join("a" * 16), "name", "/".join("a" * 16)),
        ("name=" + "a" * 1012, "name", "a" * 200),
        ("name=a&decrypt=TRUE", "decrypt", "TRUE"),
        ("name=a&decrypt=1", "decrypt", "1"),
        ("name=a&decrypt=", "decrypt", ""),
        ("name=a&limit=1", "limit", "1"),
        ("name=a&x=y", "x", "y"),
        ("name=a&=y", "", "y"),
    ],
)
def test_a_bad_query_is_named_with_field_and_value_and_asks_nobody(
    query: str, field: str, value: str | None
) -> None:
    client, upstream = gateway()

    faults = details(raw(client, f"/api/parameters?{query}"))

    assert faults[field][1] == value
    assert faults[field][0]
    assert upstream.sent == []


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "/a",
        "database/host",
        "/myproject/database/host",
        "..a",
        "a..b/...",
        "A-Z_a.z/0-9",
        "a" * 1011,
        "/" + "a" * 1011,
        "/".join("a" * 15),
        "/" + "/".join("a" * 15),
    ],
)
@pytest.mark.parametrize("safe", ["/", ""], ids=["plain slashes", "encoded slashes"])
def test_a_lawful_name_is_decoded_once_and_sent_as_it_is(name: str, safe: str) -> None:
    client, upstream = gateway()

    assert raw(client, f"/api/parameters?name={quote(name, safe=safe)}").status_code == 200
    assert sent_query(upstream) == [("name", name)]


SEGMENT = re.compile(r"(?=.*[a-zA-Z0-9_-]|\.{3,})[a-zA-Z0-9_.-]+", re.ASCII)


def lawful(name: str) -> bool:
    """The contract's rule, put another way: segments, each with something else than one or two dots."""
    first, *rest = name.split("/")
    segments = rest if first == "" and rest else [first, *rest]
    return (
        len(segments) <= 15
        and all(SEGMENT.fullmatch(segment) for segment in segments)
        and sum(map(len, segments)) + len(segments) - 1 <= 1011
    )


NAMES = st.one_of(
    st.text(alphabet="ab.-_/", max_size=12),
    st.text(alphabet="a./%\0\n ü", max_size=8),
    st.text(max_size=8),
    st.lists(st.sampled_from(["a", "b.c", "..", ".", "...", "", "x" * 70]), max_size=18).map("/".join),
)
HYPOTHESIS_CLIENT, HYPOTHESIS_UPSTREAM = gateway()


@given(NAMES)
@hypothesis_settings(deadline=None, database=None, max_examples=300)
def test_a_name_passes_exactly_when_it_is_lawful(name: str) -> None:
    encoded = quote(name.encode("utf-8", "surrogatepass"), safe="")
    HYPOTHESIS_UPSTREAM.sent.clear()

    answer = raw(HYPOTHESIS_CLIENT, f"/api/parameters?name={encoded}")

    assert answer.status_code == (200 if lawful(name) else 400)
    assert len(HYPOTHESIS_UPSTREAM.sent) == lawful(name)
    if lawful(name):
        assert sent_query(HYPOTHESIS_UPSTREAM) == [("name", name)]


@given(NAMES.filter(bool))
@hypothesis_settings(deadline=None, database=None, max_examples=100)
def test_a_prefix_of_parameters_is_judged_as_a_name(prefix: str) -> None:
    encoded = quote(prefix.encode("utf-8", "surrogatepass"), safe="")

    answer = raw(HYPOTHESIS_CLIENT, f"/api/parameters/list?prefix={encoded}")

    assert answer.status_code == (200 if lawful(prefix) else 400)


@pytest.mark.parametrize("path", ["/api/s3/buckets", "/api/parameters/list"])
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=01", "limit"),
        ("limit=", "limit"),
        ("limit=10%0A", "limit"),
        ("limit=1&limit=1", "limit"),
        ("nextToken=", "nextToken"),
        ("nextToken=a%20b", "nextToken"),
        ("nextToken=%00", "nextToken"),
        ("nextToken=" + "a" * 4097, "nextToken"),
        ("prefix=", "prefix"),
        ("prefix=a%00", "prefix"),
        ("prefix=%C3%BC", "prefix"),
        ("prefix=a%0A", "prefix"),
        ("name=a", "name"),
        ("Limit=1", "Limit"),
        ("next_token=a", "next_token"),
    ],
)
def test_lists_refuse_a_bad_query(path: str, query: str, field: str) -> None:
    client, upstream = gateway()

    assert set(details(raw(client, f"{path}?{query}"))) == {field}
    assert upstream.sent == []


@pytest.mark.parametrize("limit", ["1", "9", "10", "999", "1000"])
def test_every_lawful_limit_passes(limit: str) -> None:
    client, upstream = gateway()

    assert client.get(f"/api/s3/buckets?limit={limit}").status_code == 200
    assert sent_query(upstream) == [("limit", limit)]


def test_all_faults_of_a_query_are_named_at_once() -> None:
    client, _ = gateway()

    faults = details(client.get("/api/parameters?decrypt=x&b=1&a=2&a=3"))

    assert set(faults) == {"name", "decrypt", "a", "b"}
    assert faults["name"][1] is None
    assert faults["a"] == ("Repeated", "2,3")
    assert faults["b"] == ("Unknown parameter", "1")


def test_what_is_repeated_to_the_client_is_short() -> None:
    client, _ = gateway()

    faults = details(client.get(f"/api/s3/buckets?{'x' * 1000}={'y' * 1000}"))

    assert faults == {"x" * 200: ("Unknown parameter", "y" * 200)}


def test_buckets_take_no_decrypt() -> None:
    client, _ = gateway()

    assert "decrypt" in details(client.get("/api/s3/buckets?decrypt=false"))


@pytest.mark.parametrize("path", ["/api/parameters?name=a&decrypt=true", "/api/parameters/list?decrypt=true"])
def test_decryption_without_a_scope_is_403_and_asks_nobody(path: str) -> None:
    client, upstream = gateway(INTERNAL_TOKEN="0123456789abcdef")

    answer = client.get(path, headers={"X-Internal-Scopes": "parameters:decrypt"})

    assert (answer.status_code, answer.get_json()["code"]) == (403, "forbidden")
    assert upstream.sent == []


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/api/health", "/api/health/serving", "/metrics"]
)
def test_pages_and_probes_ignore_the_query(path: str) -> None:
    client, _ = gateway()

    assert client.get(f"{path}?x=1&x=2&name=%00").status_code == 200


def test_readiness_ignores_the_query_and_does_not_pass_it_on() -> None:
    client, upstream = gateway(Answer(b'{"status":"healthy"}'))

    assert client.get("/api/health/ready?x=1&x=2").status_code == 200
    assert upstream.sent[0].url == "http://localhost:3001/health"


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    "options",
    [
        {"data": b"x"},
        {"json": {}},
        {"environ_overrides": {"CONTENT_LENGTH": "5"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
    ],
)
def test_a_body_is_400_bad_request(path: str, options: dict[str, Any]) -> None:
    client, upstream = gateway()

    answer = client.get(path, **options)

    assert (answer.status_code, answer.get_json()["code"]) == (400, "bad_request")
    assert upstream.sent == []


def test_a_body_of_no_bytes_is_none() -> None:
    client, _ = gateway()

    assert client.get("/api/s3/buckets", headers={"Content-Length": "0"}).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "/api%2Fs3%2Fbuckets",
        "/api/s3%2fbuckets",
        "/api%2Fparameters?name=a",
        "/api/health%2Fready",
        "/docs%2Fswagger-ui.css",
        "/api%2Fhealth",
        "/api/health%2Fserving",
        "%2Fmetrics",
        "//api/s3/buckets",
        "/api//s3/buckets",
        "/api/s3//buckets",
        "//",
        "//docs",
        "//evil.test/",
        "/api/s3/buckets/",
        "/api/parameters/",
        "/api/health/",
        "/docs/",
        "/metrics/",
        "/openapi.json/",
        "/api/s3/buckets/../../health",
        "/API/s3/buckets",
        "/api/s3/buckets%00",
        "/api/s3/buckets%0A",
        "/api",
        "/favicon.ico",
        "/console/../app.py",
        "/console/files.py",
        "/static/x",
    ],
)
def test_any_other_spelling_of_a_path_is_404_and_never_a_redirect(target: str) -> None:
    client, upstream = gateway()

    answer = raw(client, target)

    assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
    assert answer.get_json()["error"] == "Endpoint not found"
    assert "Location" not in answer.headers
    assert upstream.sent == []


# Methods.


@pytest.mark.parametrize("path", [*ASKED, *PAGES, "/api/health", "/api/health/serving"])
def test_head_is_answered_as_get_without_the_body(path: str) -> None:
    client, upstream = gateway()
    by_get, by_head = client.get(path), client.head(path)

    assert by_head.status_code == by_get.status_code == 200
    assert by_head.data == b""
    varying = ("X-Request-ID",)
    assert {k: v for k, v in by_head.headers if k not in varying} == {
        k: v for k, v in by_get.headers if k not in varying
    }
    assert {each.method for each in upstream.sent} <= {"GET"}


@pytest.mark.parametrize("path", DATA + PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND"])
def test_any_other_method_is_405_with_allow(path: str, method: str) -> None:
    client, upstream = gateway()

    answer = client.open(path, method=method)

    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert answer.get_json()["code"] == "method_not_allowed"
    assert upstream.sent == []


@pytest.mark.parametrize("path", DATA + PAGES)
def test_options_says_what_is_allowed_and_asks_nobody(path: str) -> None:
    client, upstream = gateway()

    answer = client.options(path)

    assert answer.status_code == 200
    assert answer.data == b""
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert upstream.sent == []


@pytest.mark.parametrize("path", DATA)
def test_a_preflight_is_answered(path: str) -> None:
    client, upstream = gateway()
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "if-none-match",
    }

    answer = client.options(path, headers=asked)

    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "GET" in answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert set(answer.headers["Access-Control-Allow-Headers"].split(", ")) == {
        "Authorization",
        "X-API-Key",
        "Content-Type",
        "If-None-Match",
        "X-Request-ID",
    }
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert upstream.sent == []


@pytest.mark.parametrize("path", ["/api/s3/buckets", "/nowhere", "/api/parameters"])
def test_cors_is_on_every_answer_errors_included(path: str) -> None:
    client, _ = gateway()

    answer = client.get(path, headers={"Origin": "https://app.example"})

    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) == {
        "ETag",
        "X-Request-ID",
        "Retry-After",
        "RateLimit",
        "Cache-Status",
        "Age",
    }


def test_only_the_origins_that_are_listed_are_allowed() -> None:
    client, _ = gateway(CORS_ORIGINS="https://app.example")

    allowed = client.get("/api/s3/buckets", headers={"Origin": "https://app.example"})
    other = client.get("/api/s3/buckets", headers={"Origin": "https://evil.example"})

    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Access-Control-Allow-Origin" not in other.headers
    assert "Origin" in str(allowed.headers["Vary"])
    assert "Origin" in str(other.headers["Vary"])


# What comes back.


def test_the_envelope_holds_the_bytes_and_the_version_at_hand() -> None:
    client, _ = gateway(Answer(b'{"success" : true, "data":[ 1.50 ]}\n'))

    answer = client.get("/api/s3/buckets")

    assert answer.data.startswith(b'{"success":true,"data":{"success" : true, "data":[ 1.50 ]}\n,"versions":')
    assert answer.get_json()["versions"] == {"main-api": "1.0.0", "auxiliary-service": "2.3.4"}
    assert answer.content_type == "application/json"


def test_an_error_shows_the_version_at_hand_else_the_last_one_learnt_else_unknown() -> None:
    client, upstream = gateway(error_answer(404, "parameter_not_found", X_Service_Version=""))

    def shown() -> str:
        return str(client.get("/api/s3/buckets").get_json()["versions"]["auxiliary-service"])

    assert shown() == "unknown"
    upstream.respond = lambda _: error_answer(404, "parameter_not_found", X_Service_Version="3.0.0")
    assert shown() == "3.0.0"
    upstream.respond = lambda _: error_answer(404, "parameter_not_found", X_Service_Version="")
    assert shown() == "3.0.0"


def test_of_the_auxiliarys_headers_only_those_for_caches_are_passed() -> None:
    headers = {
        "ETag": 'W/"abc"',
        "Cache-Control": "max-age=5, stale-if-error=300",
        "Set-Cookie": "a=b",
        "Server": "auxiliary",
        "X-Request-ID": "ours",
        "X-Secret": "canary",
        "Vary": "X-Internal-Scopes",
        "Location": "/elsewhere",
        "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
        "WWW-Authenticate": "Bearer",
        "Access-Control-Allow-Origin": "https://theirs.example",
        "Content-Security-Policy": "default-src *",
        "Connection": "close",
        "Keep-Alive": "timeout=5",
    }
    client, _ = gateway(Answer(headers=(*Answer().all_headers, *headers.items())))

    answer = client.get("/api/s3/buckets", headers={"X-Request-ID": "ours"})

    assert answer.headers["ETag"] == 'W/"abc"'
    assert answer.headers["Cache-Control"] == "max-age=5, stale-if-error=300"
    assert set(answer.headers.keys()) == {
        "Content-Type",
        "Content-Length",
        "ETag",
        "Cache-Control",
        "Cache-Status",
        "Content-Security-Policy",
        "X-Content-Type-Options",
        "Referrer-Policy",
        "Access-Control-Allow-Origin",
        "Access-Control-Expose-Headers",
        "X-Request-ID",
    }
    assert answer.headers["X-Request-ID"] == "ours"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_an_answer_that_is_another_requests_is_502_and_nothing_of_it_is_shown() -> None:
    client, upstream = gateway(
        Answer(b'{"canary":1}').with_headers(X_Request_ID="theirs", ETag='"canary"'), RETRY_ATTEMPTS="1"
    )

    answer = client.get("/api/s3/buckets", headers={"X-Request-ID": "ours"})

    assert (answer.status_code, answer.get_json()["code"]) == (502, "bad_gateway")
    assert answer.headers["X-Request-ID"] == answer.get_json()["requestId"] == "ours"
    assert "canary" not in answer.text + str(answer.headers)
    assert upstream.raws[0].closed


TAGGED = Answer().with_headers(ETag='W/"abc"', Cache_Control="max-age=5")


@pytest.mark.parametrize(
    "if_none_match",
    ['W/"abc"', '"abc"', '"x", W/"abc"', 'W/"x","abc" , "y"', "*", ' W/"abc" '],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_tag_that_matches_is_304_with_tag_and_cache_control(if_none_match: str, method: str) -> None:
    client, upstream = gateway(TAGGED)

    answer = client.open("/api/s3/buckets", method=method, headers={"If-None-Match": if_none_match})

    assert answer.status_code == 304
    assert answer.data == b""
    assert answer.headers["ETag"] == 'W/"abc"'
    assert answer.headers["Cache-Control"] == "max-age=5"
    assert "Content-Type" not in answer.headers
    assert "Content-Length" not in answer.headers
    assert answer.headers["X-Request-ID"]
    assert len(upstream.sent) == 1


@pytest.mark.parametrize("if_none_match", ['"x"', 'W/"abcd"', '"a", "b"', '"ABC"', "", '"*"'])
def test_a_tag_that_does_not_match_is_the_answer(if_none_match: str) -> None:
    client, _ = gateway(TAGGED)

    answer = client.get("/api/s3/buckets", headers={"If-None-Match": if_none_match})

    assert answer.status_code == 200
    assert answer.get_json()["data"] == json.loads(BODY)


def test_an_error_is_never_304() -> None:
    client, _ = gateway(error_answer(404, "parameter_not_found", ETag='W/"abc"'))

    assert client.get("/api/s3/buckets", headers={"If-None-Match": "*"}).status_code == 404


@pytest.mark.parametrize("status", [201, 206, 404, 503])
def test_only_a_200_becomes_a_304(status: int) -> None:
    reply, _ = watched(status, (("ETag", '"a"'),))

    assert app_around(reply).test_client().get("/r", headers={"If-None-Match": "*"}).status_code == status


def test_an_answer_without_a_tag_is_never_304() -> None:
    client, _ = gateway()

    assert client.get("/api/s3/buckets", headers={"If-None-Match": "*"}).status_code == 200


def test_a_bug_is_500_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    client, _ = gateway(RuntimeError("canary"))

    answer = client.get("/api/s3/buckets")

    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    assert answer.get_json()["error"] == "Internal server error"
    assert "canary" not in answer.text
    assert "canary" in caplog.text


def test_the_access_log_tells_the_upstreams_time_also_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client, _ = gateway(Answer(b"[]"))

    client.get("/api/s3/buckets")
    client.get("/api/parameters")

    served, refused = [
        record.fields["upstreamMs"]  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "chassis.access_log"
    ]
    assert served >= 0
    assert refused is None


def attempts_logged(caplog: pytest.LogCaptureFixture) -> list[int | None]:
    return [
        record.fields.get("attempts")  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "chassis.access_log"
    ]


def test_the_access_log_tells_how_often_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answers: list[Answer | Exception] = [Answer(), requests.ConnectionError("reset"), Answer()]
    client, _ = gateway(lambda _: answers.pop(0), RETRY_BACKOFF="0")

    assert [client.get("/api/s3/buckets").status_code for _ in range(2)] == [200, 200]
    client.get("/api/parameters?name=a&decrypt=true")
    client.get("/api/parameters")
    client.get("/nowhere")

    # Asked once; twice; refused on the way; refused for its query; no route.
    assert attempts_logged(caplog) == [1, 2, 0, 0, None]


def test_the_access_log_tells_all_attempts_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client, upstream = gateway(
        requests.ConnectionError("reset"),
        RETRY_BACKOFF="0",
        AUXILIARY_SERVICE_URL="http://a.test,http://b.test",
    )

    assert client.get("/api/s3/buckets").status_code == 502
    assert attempts_logged(caplog) == [3] == [len(upstream.sent)]


# Whatever comes back is closed, once.


class Watched:
    """A streamed body that tells how much of it was read and how often it was closed."""

    def __init__(self, pieces: int = 3) -> None:
        self.read = 0
        self.closed = 0
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        for _ in range(self._pieces):
            self.read += 1
            yield b"piece"

    def close(self) -> None:
        self.closed += 1

    def stream(self) -> Stream:
        return Stream(self.pieces(), self.close)


def app_around(
    reply: Reply, *, to_service: bool = False, versions: Any = lambda _: {"main-api": "1"}
) -> Flask:
    """Make an app with one route, ``/r``, which is answered with ``reply``."""

    def answer(_: Call) -> Reply:
        return reply

    app = Flask("one-route", static_folder=None)
    find = ClientAddress(())
    install(app, settings(), probes=(), client_address=find)
    route = Route(
        name="r",
        rule="/r",
        end=ToService("s", "/r") if to_service else ToFunction(answer),
        documentation=Documentation("", "text/plain"),
    )
    pipeline = build(route, parts(service(answer)))
    app.add_url_rule("/r", "r", view(route, pipeline, Door(10, find, versions)))
    app.teardown_request(let_go)
    return app


def watched(status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> tuple[Reply, Watched]:
    body = Watched()
    reply = Reply(status, (("Content-Type", "text/plain"), *headers), b"whole")
    reply.on_close(body.close)
    return reply, body


def run(app: Flask, method: str = "GET", **headers: str) -> tuple[list[bytes], Any]:
    """Call ``app`` as a WSGI server does: read the body to its end, then close it."""
    environ = EnvironBuilder("/r", method=method, headers=headers).get_environ()
    statuses: list[str] = []
    body = app(environ, lambda status, _: statuses.append(status))  # type: ignore[arg-type,func-returns-value]
    pieces = list(body)
    body.close()  # type: ignore[attr-defined]
    return pieces, statuses[0]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("to_service", [True, False], ids=["service", "function"])
@pytest.mark.parametrize("conditional", [True, False], ids=["304", "200"])
def test_a_reply_is_closed_exactly_once(method: str, to_service: bool, conditional: bool) -> None:
    reply, body = watched(headers=(("ETag", 'W/"a"'),))
    headers = {"If-None-Match": '"a"'} if conditional else {}

    _, status = run(app_around(reply, to_service=to_service), method, **headers)

    assert status[:3] == ("304" if conditional else "200")
    assert body.closed == 1


@pytest.mark.parametrize("status", [204, 404, 500])
def test_a_reply_of_any_status_is_closed_exactly_once(status: int) -> None:
    reply, body = watched(status)

    run(app_around(reply))

    assert body.closed == 1


def test_a_reply_is_not_closed_before_its_body_is_sent() -> None:
    body = Watched()
    app = app_around(Reply(200, (("Content-Type", "text/plain"),), body.stream()))
    environ = EnvironBuilder("/r").get_environ()

    answer = app(environ, lambda *_: None)  # type: ignore[arg-type,return-value]
    assert (next(iter(answer)), body.read, body.closed) == (b"piece", 1, 0)
    list(answer)
    assert (body.read, body.closed) == (3, 0)
    answer.close()  # type: ignore[attr-defined]
    assert body.closed == 1


def test_a_stream_that_the_client_left_is_closed_once_and_not_read_on() -> None:
    body = Watched(1000)
    reply = Reply(200, (("Content-Type", "text/plain"),), body.stream())
    app = app_around(reply)

    answer = app(EnvironBuilder("/r").get_environ(), lambda *_: None)  # type: ignore[arg-type,return-value]
    next(iter(answer))
    answer.close()  # type: ignore[attr-defined]
    reply.close()

    assert (body.read, body.closed) == (1, 1)


@pytest.mark.parametrize(("method", "headers"), [("HEAD", {}), ("GET", {"If-None-Match": "*"})])
def test_a_stream_that_nobody_wants_is_closed_once_and_not_read(method: str, headers: dict[str, str]) -> None:
    body = Watched()
    reply = Reply(200, (("Content-Type", "text/plain"), ("ETag", '"a"')), body.stream())

    run(app_around(reply), method, **headers)

    assert (body.read, body.closed) == (0, 1)


def test_a_stream_is_sent_as_it_comes() -> None:
    body = Watched()

    pieces, _ = run(app_around(Reply(200, (("Content-Type", "text/plain"),), body.stream())))

    assert b"".join(pieces) == b"piecepiecepiece"
    assert body.closed == 1


def test_a_stream_that_breaks_is_closed_once() -> None:
    closed: list[int] = []

    def breaking() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("broken")

    app = app_around(
        Reply(200, (("Content-Type", "text/plain"),), Stream(breaking(), lambda: closed.append(1)))
    )
    answer = app(EnvironBuilder("/r").get_environ(), lambda *_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(RuntimeError):
        list(answer)
    answer.close()  # type: ignore[attr-defined]

    assert closed == [1]


def test_a_stream_where_a_whole_body_is_needed_is_500_and_closed_once() -> None:
    body = Watched()

    _, status = run(app_around(Reply(200, (), body.stream()), to_service=True))

    assert status[:3] == "500"
    assert (body.read, body.closed) == (0, 1)


def test_a_failure_while_building_the_response_closes_the_reply_once() -> None:
    def fail(_: Reply) -> dict[str, str]:
        raise RuntimeError("a bug")

    reply, body = watched()
    _, status = run(app_around(reply, to_service=True, versions=fail))

    assert status[:3] == "500"
    assert body.closed == 1


def test_a_hook_that_fails_after_the_response_was_made_closes_the_reply_once() -> None:
    reply, body = watched()
    app = app_around(reply)

    @app.after_request
    def fail(response: Response) -> Response:
        if response.status_code == 200:
            raise RuntimeError("a bug")
        return response

    _, status = run(app)

    assert status[:3] == "500"
    assert body.closed == 1


@pytest.mark.parametrize("headers", [{}, {"If-None-Match": "*"}])
def test_what_a_function_answers_keeps_its_own_policy(headers: dict[str, str]) -> None:
    policy = "default-src 'self'"
    reply, _ = watched(headers=(("ETag", '"a"'), ("Content-Security-Policy", policy)))

    answer = app_around(reply).test_client().get("/r", headers=headers)

    # A 304 brings the stored copy's fields up to date (RFC 9111, 4.3.4): another policy would break it.
    assert answer.headers["Content-Security-Policy"] == policy
