"""Probes: alive, and taking work or not."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from chassis import health


class Drain:
    """A drain that a test begins and ends."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self) -> bool:
        return self.on


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
def probed(make_app: Callable[..., Flask], drain: Drain) -> FlaskClient:
    app = make_app(probes={"/live", "/serving"})
    health.install(app, liveness="/live", alive=lambda: "I am", serving="/serving", draining=drain)
    return app.test_client()


def test_liveness_is_what_the_service_says(probed: FlaskClient, drain: Drain) -> None:
    assert (probed.get("/live").status_code, probed.get("/live").text) == (200, "I am")
    drain.on = True
    assert (probed.get("/live").status_code, probed.get("/live").text) == (200, "I am")


def test_serving_follows_the_drain_and_back(probed: FlaskClient, drain: Drain) -> None:
    told = []
    for drain.on in (False, True, False):
        answer = probed.get("/serving")
        told.append((answer.status_code, answer.text))
        assert answer.content_type == "text/plain; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"

    assert told == [(200, "OK"), (503, "draining"), (200, "OK")]


def test_a_drain_is_nobodys_error(
    probed: FlaskClient, drain: Drain, logged: Callable[..., list[dict[str, Any]]]
) -> None:
    drain.on = True
    probed.get("/serving", headers={"Accept": "application/problem+json"})
    [line] = logged()

    assert (line["level"], line["status"]) == ("debug", 503)
    assert logged("chassis.error_body") == []


@pytest.mark.parametrize("path", ["/live", "/serving"])
def test_a_probe_takes_head_and_no_post(probed: FlaskClient, path: str) -> None:
    assert (probed.head(path).status_code, probed.head(path).data) == (200, b"")
    assert probed.post(path).status_code == 405


def test_a_service_without_a_serving_probe_has_none(make_app: Callable[..., Flask], drain: Drain) -> None:
    app = make_app()
    health.install(app, liveness="/live", alive=lambda: "I am", draining=drain)

    assert app.test_client().get("/live").status_code == 200
    assert app.test_client().get("/serving").status_code == 404
