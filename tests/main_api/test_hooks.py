"""Which port serves what, and that every request is counted once."""

import itertools
import os
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from werkzeug.test import TestResponse

from chassis.errors import UriTooLong
from main_api.app import PROBES
from main_api.blueprints.operations import reserved
from tests.main_api.support import Answer, Upstream, app_of

PUBLIC, OPERATIONS = "3000", "9000"
APP = app_of(Upstream(Answer()), OPERATIONS_PORT=OPERATIONS)
ALONE = app_of(Upstream(Answer()))
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "INVENTED"]
OPERATORS = [
    "/health",
    "/health/auxiliary-service",
    "/services",
    "/services/auxiliary-service",
    "/circuit-breakers",
    "/routes",
    "/gateway/stats",
    "/metrics",
]
CLIENTS = ["/", "/docs", "/openapi.json", "/console/page.js", "/api/s3/buckets", "/api/parameters/list"]


def ask(
    path: str, port: str, method: str = "GET", app: Flask = APP, written: str | None = None, **options: Any
) -> TestResponse:
    """Ask as the server passes a request on: PATH_INFO decoded, RAW_URI as it was written."""
    overrides = {"PATH_INFO": path, "RAW_URI": written or path, "SERVER_PORT": port}
    environ = {**overrides, **options.pop("environ", {})}
    return app.test_client().open("/", method=method, environ_overrides=environ, **options)


@pytest.mark.parametrize("path", OPERATORS)
@pytest.mark.parametrize("method", METHODS)
def test_on_the_public_port_the_operations_endpoints_do_not_exist_in_any_method(
    path: str, method: str
) -> None:
    found = ask(path, PUBLIC, method)

    assert found.status_code == 404
    assert "Allow" not in found.headers
    if method != "HEAD":
        body = found.get_json()
        assert (body["code"], body["error"]) == ("not_found", "Endpoint not found")


@pytest.mark.parametrize("path", OPERATORS)
def test_they_are_on_their_own_port_and_say_which_methods_they_have(path: str) -> None:
    assert ask(path, OPERATIONS).status_code == 200
    assert ask(path, OPERATIONS, "HEAD").status_code == 200
    refused = ask(path, OPERATIONS, "POST")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize("method", METHODS)
def test_on_their_port_nothing_of_the_clients_exists_in_any_method(path: str, method: str) -> None:
    assert ask(path, OPERATIONS, method).status_code == 404


@pytest.mark.parametrize("path", CLIENTS)
def test_on_the_public_port_the_clients_find_what_is_theirs(path: str) -> None:
    assert ask(path, PUBLIC).status_code == 200


@pytest.mark.parametrize("port", [PUBLIC, OPERATIONS])
@pytest.mark.parametrize("path", sorted(PROBES))
def test_probes_are_answered_on_both_ports(port: str, path: str) -> None:
    assert ask(path, port).status_code == 200


@pytest.mark.parametrize("path", [*OPERATORS, *CLIENTS, *sorted(PROBES)])
def test_without_a_port_of_their_own_all_are_on_the_one(path: str) -> None:
    for port in (PUBLIC, OPERATIONS, "80"):
        assert ask(path, port, app=ALONE).status_code == 200
    assert ask(path, PUBLIC, "POST", app=ALONE).status_code == 405


HEADERS = [
    {"Host": "127.0.0.1:9000"},
    {"Host": "localhost:9000", "X-Forwarded-Host": "localhost:9000", "X-Forwarded-Port": "9000"},
    {"X-Forwarded-Port": "9000", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http"},
    {"Forwarded": "for=127.0.0.1;host=localhost:9000"},
    {"X-Original-URL": "/services", "X-Rewrite-URL": "/services"},
    {"X-HTTP-Method-Override": "GET"},
    {"Server-Port": "9000", "SERVER_PORT": "9000"},
]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: next(iter(headers)))
def test_no_header_makes_one_port_the_other(headers: dict[str, str]) -> None:
    turned = {name: value.replace("9000", "3000") for name, value in headers.items()}
    for path in OPERATORS:
        assert ask(path, PUBLIC, headers=headers).status_code == 404
    for path in CLIENTS:
        assert ask(path, OPERATIONS, headers=turned).status_code == 404


@pytest.mark.parametrize("port", [PUBLIC, OPERATIONS])
@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("//services", None),
        ("///metrics", None),
        ("/services/", None),
        ("/services//", None),
        ("//health//auxiliary-service", None),
        ("/./services", None),
        ("/x/../services", None),
        ("/Services", None),
        ("/METRICS", None),
        ("/services", "/%73ervices"),
        ("/health/auxiliary-service", "/health%2Fauxiliary-service"),
        ("/services\0", "/services%00"),
        ("/services\n", "/services%0A"),
        ("/services;a=b", None),
        ("/services ", "/services%20"),
        ("\\services", None),
    ],
)
def test_another_spelling_of_a_path_is_404_on_either_port(path: str, written: str | None, port: str) -> None:
    assert ask(path, port, written=written).status_code == 404


def test_a_path_without_its_slash_is_read_as_the_framework_reads_it() -> None:
    assert ask("services", PUBLIC).status_code == 404
    assert ask("services", OPERATIONS).status_code == 200
    assert ask("api/s3/buckets", OPERATIONS).status_code == 404


PIECES = st.lists(
    st.sampled_from(
        ["/", "//", "services", "health", "metrics", "gateway", "stats", "routes", "api", ".", "S"]
    ),
    max_size=6,
).map("".join)


@given(PIECES)
def test_no_path_whatever_shows_an_operations_endpoint_on_the_public_port(path: str) -> None:
    found = ask(f"/{path}", PUBLIC)

    assert found.status_code in (200, 404)
    assert "worker" not in (found.get_json(silent=True) or {})
    assert found.status_code == 404 or f"/{path}" in ("/", *CLIENTS)


@given(PIECES)
def test_no_path_whatever_reaches_a_service_or_a_page_from_their_port(path: str) -> None:
    found = ask(f"/{path}", OPERATIONS)

    assert found.status_code == 404 or reserved(f"/{path}") or f"/{path}" in PROBES


def counted(status: str) -> dict[str, float]:
    """Give how often each rule was counted with ``status``, as ``/metrics`` has it."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, os.environ["PROMETHEUS_MULTIPROC_DIR"])  # type: ignore[no-untyped-call]
    found: dict[str, float] = {}
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith("http_requests_total{") and f'status_code="{status}"' in line:
            route = re.findall('route="([^"]*)"', line)[0]
            found[route] = found.get(route, 0) + float(line.rpartition(" ")[2])
    return found


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_is_not_there_is_counted_as_unmatched_in_every_method(method: str) -> None:
    before = counted("404")

    for path, port in (*itertools.product(OPERATORS, [PUBLIC]), *itertools.product(CLIENTS, [OPERATIONS])):
        ask(path, port, method)

    after = counted("404")
    grown = {
        route: after[route] - before.get(route, 0) for route in after if after[route] != before.get(route)
    }
    assert grown == {"<unmatched>": len(OPERATORS) + len(CLIENTS)}


@pytest.mark.parametrize("port", [PUBLIC, OPERATIONS])
def test_what_the_server_refuses_is_told_as_such_on_either_port(port: str) -> None:
    refused = ask("/", port, environ={"chassis.refusal": UriTooLong()})

    assert refused.status_code == 414


def test_an_answer_of_404_is_that_of_a_path_that_never_was() -> None:
    def told(path: str) -> tuple[Any, ...]:
        found = ask(path, PUBLIC, headers={"X-Request-ID": "same"})
        body = found.get_json()
        headers = {name: value for name, value in found.headers.items() if name != "Content-Length"}
        return {**body, "timestamp": ""}, headers  # type: ignore[return-value]

    assert told("/services") == told("/nowhere")


# Counting.


def counts(client: FlaskClient) -> dict[str, Any]:
    return {each["route"]: each for each in client.get("/gateway/stats").get_json()["routes"]}


def test_each_request_is_counted_once_by_its_rule_whatever_became_of_it() -> None:
    app = app_of(Upstream(Answer()))
    client = app.test_client()
    client.get("/api/s3/buckets")
    client.get("/api/s3/buckets")
    client.get("/api/health")
    client.get("/docs", headers={"If-None-Match": "*"})
    client.get("/nowhere")
    client.put("/api/s3/buckets")
    client.get("/", environ_overrides={"chassis.refusal": UriTooLong()})

    found = counts(client)

    assert {route: each["classes"] for route, each in found.items()} == {
        "/api/s3/buckets": {"2xx": 2, "4xx": 1},
        "/api/health": {"2xx": 1},
        "/docs": {"3xx": 1},
        "<unmatched>": {"4xx": 1},
        "<unparsed>": {"4xx": 1},
    }
    assert found["<unparsed>"]["errors"] == {"too_large": 1}
    assert found["/api/s3/buckets"]["attempts"] == 2
    # And the one that asked, by the next that asks.
    assert counts(client)["/gateway/stats"]["requests"] == 1


def test_the_code_of_one_request_is_not_that_of_the_next() -> None:
    client = app_of(Upstream(Answer())).test_client()
    client.get("/nowhere")
    client.get("/api/s3/buckets")

    found = counts(client)

    assert found["/api/s3/buckets"]["errors"] == {}
    assert found["<unmatched>"]["attempts"] == 0
