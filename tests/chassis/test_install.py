"""The chassis as a whole: what one request gets from all its rooms together."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, Gauge

from chassis.errors import HeadersTooLarge, UriTooLong
from chassis.response_headers import Cors

Logged = Callable[..., list[dict[str, Any]]]


# Given as the server does, raw: a client of tests would read `//plain` as a host.
@pytest.mark.parametrize(
    "path",
    [
        "//",
        "//plain",
        "/plain//",
        "/plain/",
        "///",
        "/sized//12",
        "/sized/12/",
        "/metrics/",
        "/PLAIN",
        "/plain/..",
    ],
)
def test_only_paths_as_they_are_written_down_exist_and_nothing_is_redirected(
    client: FlaskClient, path: str
) -> None:
    answer = client.get("/", environ_overrides={"PATH_INFO": path})

    assert answer.status_code == 404
    assert "Location" not in answer.headers
    assert answer.json["error"] == "Endpoint not found"  # type: ignore[index]


def test_the_registry_is_for_the_services_own_metrics(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    registry = app.extensions["registry"]

    assert isinstance(registry, CollectorRegistry)
    Gauge("of_this_service", "A figure.", registry=registry, multiprocess_mode="livesum").set(7)
    assert "of_this_service 7.0" in app.test_client().get("/metrics").text


def test_every_room_has_its_say_about_one_error(
    fresh: FlaskClient, logged: Logged, counted: Callable[..., float]
) -> None:
    before = counted(route="<unmatched>", status_code="404", method="GET")
    answer = fresh.get(
        "/nowhere?secret=1",
        headers={"X-Request-ID": "the-id", "Origin": "https://x", "Accept-Encoding": "gzip"},
    )
    [line] = [line for line in logged() if line["route"] == "<unmatched>"]

    assert answer.json["requestId"] == answer.headers["X-Request-ID"] == line["requestId"] == "the-id"  # type: ignore[index]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert line["bytes"] == len(answer.data)
    assert counted(route="<unmatched>", status_code="404", method="GET") == before + 1


@pytest.mark.parametrize("refusal", [UriTooLong(), HeadersTooLarge("Too many of them")])
def test_a_refusal_of_the_server_passes_all_rooms_too(
    fresh: FlaskClient, logged: Logged, counted: Callable[..., float], refusal: UriTooLong | HeadersTooLarge
) -> None:
    labels = {"route": "<unparsed>", "method": "<other>", "status_code": str(refusal.status)}
    before = counted(**labels)
    answer = fresh.get("/plain", environ_overrides={"chassis.refusal": refusal})
    [line] = [line for line in logged() if line["route"] == "<unparsed>"]

    body = json.loads(answer.data)
    assert answer.status_code == refusal.status
    assert (body["code"], body["error"]) == ("too_large", refusal.message)
    assert body["requestId"] == answer.headers["X-Request-ID"] == line["requestId"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (line["method"], line["path"], line["status"]) == (None, None, refusal.status)
    assert counted(**labels) == before + 1


def test_a_refused_request_never_reaches_its_view(make_app: Callable[..., Flask]) -> None:
    reached: list[str] = []

    def view() -> str:
        reached.append("view")
        return "done"

    client = make_app({"/view": view}).test_client()
    client.get("/view", environ_overrides={"chassis.refusal": UriTooLong()})

    assert reached == []


def test_compression_cors_and_negotiation_all_stand_in_vary(make_app: Callable[..., Flask]) -> None:
    client = make_app(cors=Cors(("https://page.example",))).test_client()
    answer = client.get("/sized/2000", headers={"Accept-Encoding": "gzip"})
    error = client.get("/nowhere")

    assert len(gzip.decompress(answer.data)) == 2000
    assert answer.headers["Vary"] == "Origin, Accept-Encoding"
    assert error.headers["Vary"] == "Accept, Origin"


def test_two_apps_know_nothing_of_each_other(make_app: Callable[..., Flask]) -> None:
    first = make_app({"/only-here": lambda: "here"}).test_client()
    second = make_app().test_client()

    assert first.get("/only-here").status_code == 200
    assert second.get("/only-here").status_code == 404
