"""One id per request: the client's own when it is fit for it, and everywhere the same."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import BadRequest

Logged = Callable[..., list[dict[str, Any]]]

FIT = re.compile(r"[A-Za-z0-9._-]{1,64}")
fit = st.from_regex(FIT, fullmatch=True)
# Whatever a WSGI server can hand on, a trailing line feed included.
unfit = st.text(st.characters(max_codepoint=255), max_size=80).filter(lambda text: not FIT.fullmatch(text))


@settings(deadline=None)
@given(fit)
def test_a_fit_id_of_the_client_is_kept(client: FlaskClient, text: str) -> None:
    answer = client.get("/nowhere", headers={"X-Request-ID": text})

    assert answer.headers.getlist("X-Request-ID") == [text]
    assert answer.json["requestId"] == text  # type: ignore[index]
    assert "X-Correlation-ID" not in answer.headers


@settings(deadline=None)
@given(unfit | fit.map(lambda text: text + "\n") | fit.map(lambda text: text + "," + text))
def test_any_other_id_is_replaced_by_a_fit_one(client: FlaskClient, text: str) -> None:
    answer = client.get(
        "/nowhere", environ_overrides={"HTTP_X_REQUEST_ID": text, "HTTP_X_CORRELATION_ID": text}
    )

    [made] = answer.headers.getlist("X-Request-ID")
    assert FIT.fullmatch(made)
    assert made != text
    assert answer.json["requestId"] == made  # type: ignore[index]
    assert "X-Correlation-ID" not in answer.headers


@pytest.mark.parametrize(("length", "kept"), [(1, True), (64, True), (65, False)])
def test_an_id_has_1_to_64_characters(client: FlaskClient, length: int, kept: bool) -> None:
    text = "a" * length

    assert (client.get("/plain", headers={"X-Request-ID": text}).headers["X-Request-ID"] == text) is kept


@pytest.mark.parametrize("own", [None, "not fit", ""])
def test_a_correlation_id_stands_in_and_is_echoed(client: FlaskClient, own: str | None) -> None:
    headers = {"X-Correlation-ID": "from-the-proxy"} | ({} if own is None else {"X-Request-ID": own})
    answer = client.get("/plain", headers=headers)

    assert answer.headers["X-Request-ID"] == "from-the-proxy"
    assert answer.headers["X-Correlation-ID"] == "from-the-proxy"


def test_with_both_the_request_id_counts_and_the_other_is_echoed(client: FlaskClient) -> None:
    answer = client.get("/plain", headers={"X-Request-ID": "own", "X-Correlation-ID": "other"})

    assert answer.headers["X-Request-ID"] == "own"
    assert answer.headers["X-Correlation-ID"] == "other"


def test_every_request_without_an_id_gets_one_of_its_own(client: FlaskClient) -> None:
    made = {client.get("/plain").headers["X-Request-ID"] for _ in range(50)}

    assert len(made) == 50


def test_a_view_finds_the_id_that_goes_upstream(make_app: Callable[..., Flask]) -> None:
    client = make_app({"/id": lambda: g.request_id}).test_client()

    assert client.get("/id", headers={"X-Request-ID": "abc"}).text == "abc"


def test_every_line_of_a_request_carries_its_id(make_app: Callable[..., Flask], logged: Logged) -> None:
    app = make_app()

    @app.get("/line")
    def line() -> str:
        app.logger.warning("hello")
        return "done"

    for name in ("first", "second"):
        app.test_client().get("/line", headers={"X-Request-ID": name})

    assert [line["requestId"] for line in logged("test_service")] == ["first", "second"]
    assert [line["requestId"] for line in logged()] == ["first", "second"]


@pytest.mark.parametrize("path", ["/plain", "/nowhere", "/bug", "/metrics"])
def test_every_answer_has_an_id(client: FlaskClient, path: str) -> None:
    assert FIT.fullmatch(client.get(path).headers["X-Request-ID"])


def test_a_refused_request_has_an_id(client: FlaskClient) -> None:
    answer = client.get("/", environ_overrides={"chassis.refusal": BadRequest()})

    assert FIT.fullmatch(answer.headers["X-Request-ID"])
    assert answer.json["requestId"] == answer.headers["X-Request-ID"]  # type: ignore[index]
