"""The access log: one line per request, and never what was asked with it."""

import ipaddress
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, g, request
from flask.testing import FlaskClient
from werkzeug.wrappers import Response as WerkzeugResponse

from chassis.errors import BadRequest

Logged = Callable[..., list[dict[str, Any]]]

EVERY_LINE = {"timestamp", "level", "service", "version", "environment", "logger", "message"}
OF_REQUESTS = {"requestId", "traceId", "method", "route", "path", "status"}
OF_ANSWERS = {"durationMs", "clientAddress", "upstreamMs", "bytes"}


def test_a_request_is_one_line_with_exactly_these_fields(client: FlaskClient, logged: Logged) -> None:
    answer = client.get("/sized/100", headers={"X-Request-ID": "an-id"})
    [line] = logged()

    assert set(line) == EVERY_LINE | OF_REQUESTS | OF_ANSWERS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert (line["level"], line["service"]) == ("info", "test-service")
    assert line["requestId"] == "an-id"
    assert re.fullmatch(r"[0-9a-f]{32}", line["traceId"])
    assert (line["method"], line["route"], line["path"]) == ("GET", "/sized/<int:size>", "/sized/100")
    assert line["status"] == 200
    assert 0 <= line["durationMs"] < 60_000
    assert line["clientAddress"] == "127.0.0.1"
    assert line["upstreamMs"] is None
    assert line["bytes"] == len(answer.data) == 100
    assert line["message"] == "GET /sized/<int:size> 200"


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/nowhere", "<unmatched>", 404),
        ("POST", "/plain", "/plain", 405),
        ("POST", "/sized/3", "/sized/<int:size>", 405),
        ("PROPFIND", "/plain", "/plain", 405),
        ("GET", "/bug", "/bug", 500),
        ("OPTIONS", "/plain", "/plain", 200),
        ("HEAD", "/plain", "/plain", 200),
    ],
)
def test_every_kind_of_answer_is_logged(
    client: FlaskClient, logged: Logged, method: str, path: str, route: str, status: int
) -> None:
    answer = client.open(path, method=method)
    [line] = logged()

    assert (line["method"], line["path"], line["route"]) == (method, path, route)
    assert line["status"] == answer.status_code == status
    assert line["bytes"] == len(answer.data)


@pytest.mark.parametrize("path", ["/plain", "/nowhere", "/bug", "/sized/x", "/metrics"])
def test_no_line_tells_the_query(client: FlaskClient, logged: Logged, path: str) -> None:
    client.get(f"{path}?name=hidden/value&token=hidden", headers={"Referer": "http://x/?hidden"})

    [line] = logged()
    assert line["path"] == path
    everything = [*logged(), *logged("chassis.error_body"), *logged("test_service")]
    assert "hidden" not in str(everything)


@pytest.mark.parametrize("path", ["/probe", "/metrics"])
def test_probes_are_logged_at_debug(client: FlaskClient, logged: Logged, path: str) -> None:
    client.get(path)
    client.head(path)

    assert [(line["path"], line["level"]) for line in logged()] == [(path, "debug")] * 2


def test_above_debug_probes_are_not_logged(client: FlaskClient, logged: Logged) -> None:
    logging.getLogger().setLevel(logging.INFO)
    client.get("/probe")
    client.get("/plain")

    assert [line["path"] for line in logged()] == ["/plain"]


def test_the_time_spent_upstream_is_what_the_view_says(
    make_app: Callable[..., Flask], logged: Logged
) -> None:
    def view() -> str:
        g.upstream_seconds = 0.25
        return "done"

    make_app({"/up": view}).test_client().get("/up")

    assert logged()[0]["upstreamMs"] == 250


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_how_often_was_asked_is_what_the_view_says(
    make_app: Callable[..., Flask], logged: Logged, attempts: int
) -> None:
    def view() -> str:
        g.upstream_attempts = attempts
        return "done"

    make_app({"/up": view}).test_client().get("/up")

    [line] = logged()
    assert line["attempts"] == attempts
    assert set(line) == EVERY_LINE | OF_REQUESTS | OF_ANSWERS | {"attempts"}


def test_a_long_path_is_cut(client: FlaskClient, logged: Logged) -> None:
    client.get("/" + "p" * 2000)

    assert logged()[0]["path"] == "/" + "p" * 511


def test_a_long_method_is_cut(client: FlaskClient, logged: Logged) -> None:
    client.open("/plain", method="M" * 500)

    assert logged()[0]["method"] == "M" * 32


def test_the_client_is_the_one_behind_the_trusted_proxy(
    make_app: Callable[..., Flask], logged: Logged
) -> None:
    client = make_app(trusted=[ipaddress.ip_network("127.0.0.0/8")]).test_client()
    client.get("/plain", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.7"})

    assert logged()[0]["clientAddress"] == "203.0.113.7"


def test_a_compressed_body_is_counted_as_it_is_sent(client: FlaskClient, logged: Logged) -> None:
    answer = client.get("/sized/5000", headers={"Accept-Encoding": "gzip"})

    assert answer.headers["Content-Encoding"] == "gzip"
    assert logged()[0]["bytes"] == len(answer.data) < 5000


def test_what_the_server_refused_is_a_line_without_method_and_path(
    client: FlaskClient, logged: Logged
) -> None:
    client.get("/plain", environ_overrides={"chassis.refusal": BadRequest()})
    [line] = logged()

    assert set(line) == EVERY_LINE | OF_REQUESTS | OF_ANSWERS
    assert (line["method"], line["path"], line["route"]) == (None, None, "<unparsed>")
    assert (line["status"], line["level"]) == (400, "info")


def not_modified_by_flask() -> WerkzeugResponse:
    response = Response("a body that is not sent")
    response.set_etag("a", weak=True)
    return response.make_conditional(request)


@pytest.mark.parametrize("view", [not_modified_by_flask, lambda: Response(status=304), lambda: ("", 204)])
def test_an_answer_that_has_no_body_has_0_bytes(
    make_app: Callable[..., Flask], logged: Logged, view: Callable[[], Any]
) -> None:
    answer = make_app({"/bodiless": view}).test_client().get("/bodiless", headers={"If-None-Match": 'W/"a"'})
    [line] = logged()

    assert answer.status_code in (204, 304)
    assert answer.data == b""
    assert line["bytes"] == 0


def streaming(make_app: Callable[..., Flask], headers: dict[str, str] | None = None) -> FlaskClient:
    def parts() -> Iterator[bytes]:
        yield b"one"
        yield b"two"

    return make_app({"/stream": lambda: Response(parts(), headers=headers)}).test_client()


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_streamed_answer_is_logged_when_it_is_closed_also_in_its_middle(
    make_app: Callable[..., Flask], logged: Logged, read: int
) -> None:
    answer = streaming(make_app).get("/stream", headers={"X-Request-ID": "streamed"}, buffered=False)
    body = iter(answer.response)
    for _ in range(read):
        next(body)
    assert logged() == []

    answer.close()
    [line] = logged()
    assert set(line) == EVERY_LINE | OF_REQUESTS | OF_ANSWERS
    assert (line["requestId"], line["route"], line["status"]) == ("streamed", "/stream", 200)
    assert line["durationMs"] >= 0
    assert line["bytes"] is None


def test_a_streamed_answer_of_known_length_tells_it(make_app: Callable[..., Flask], logged: Logged) -> None:
    streaming(make_app, {"Content-Length": "6"}).get("/stream", buffered=True)

    assert [line["bytes"] for line in logged()] == [6]


def test_head_of_a_streamed_answer_is_one_line(make_app: Callable[..., Flask], logged: Logged) -> None:
    streaming(make_app).head("/stream").close()

    assert [(line["method"], line["bytes"]) for line in logged()] == [("HEAD", 0)]
