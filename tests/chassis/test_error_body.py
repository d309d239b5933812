"""One body for every error, on every path."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, Response, abort, g, request
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from chassis import errors
from chassis.error_body import nowhere
from chassis.errors import BadRequest, ServiceError, UriTooLong, ValidationFailed

Logged = Callable[..., list[dict[str, Any]]]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
PROBLEM = "application/problem+json"
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)
]
VERSIONS = {"main-api": "1.0.0", "auxiliary-service": "unknown"}


def raising(make_app: Callable[..., Flask], error: Exception, **more: Any) -> FlaskClient:
    def view() -> str:
        raise error

    return make_app({"/raise": view}, **more).test_client()


def is_the_one_body(answer: TestResponse, status: int, code: str, *more: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.get_json()
    assert answer.status_code == status
    assert answer.content_type == "application/json"
    assert set(body) == {"success", "error", "code", "requestId", "timestamp", *more}
    assert (body["success"], body["code"]) == (False, code)
    assert body["error"]
    assert body["requestId"] == answer.headers["X-Request-ID"]
    assert TIME.match(body["timestamp"])
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Accept" in answer.headers["Vary"]
    return body


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_answered_with_the_one_body(
    make_app: Callable[..., Flask], kind: type[ServiceError]
) -> None:
    body = is_the_one_body(raising(make_app, kind()).get("/raise"), kind.status, kind.code)

    assert body["error"] == kind.sentence


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_answered_as_a_problem_to_who_asks_for_one(
    make_app: Callable[..., Flask], kind: type[ServiceError]
) -> None:
    answer = raising(make_app, kind()).get("/raise", headers={"Accept": PROBLEM})

    body = json.loads(answer.data)
    assert (answer.status_code, answer.content_type) == (kind.status, PROBLEM)
    assert set(body) == {"type", "title", "status", "detail", "code", "requestId", "timestamp"}
    assert (body["type"], body["status"], body["code"]) == ("about:blank", kind.status, kind.code)
    assert body["title"]
    assert body["detail"] == kind.sentence
    assert body["requestId"] == answer.headers["X-Request-ID"]


def test_the_body_carries_details_versions_and_the_seconds_to_wait(make_app: Callable[..., Flask]) -> None:
    detail = {"field": "name", "message": "Missing", "value": None}
    error = ValidationFailed("Say it better", details=[detail], retry_after=7, headers={"X-Own": "1"})  # type: ignore[list-item]
    answer = raising(make_app, error, versions=lambda _: VERSIONS).get("/raise")

    body = is_the_one_body(answer, 400, "validation_failed", "details", "retryAfter", "versions")
    assert body["error"] == "Say it better"
    assert body["details"] == [detail]
    assert body["versions"] == VERSIONS
    assert body["retryAfter"] == 7
    assert (answer.headers["Retry-After"], answer.headers["X-Own"]) == ("7", "1")


def test_a_problem_tells_the_same_facts(make_app: Callable[..., Flask]) -> None:
    error = BadRequest(details=[{"field": "a", "message": "b", "value": "c"}], retry_after=0)
    client = raising(make_app, error, versions=lambda _: VERSIONS)
    as_json = client.get("/raise", headers={"X-Request-ID": "same"})
    as_problem = client.get("/raise", headers={"X-Request-ID": "same", "Accept": PROBLEM})

    facts = json.loads(as_problem.data)
    own = {"type", "title", "status", "detail", "timestamp"}
    assert {name: facts[name] for name in facts.keys() - own} == {
        name: as_json.json[name]  # type: ignore[index]
        for name in as_json.json.keys() - {"success", "error", "timestamp"}  # type: ignore[union-attr]
    }
    assert as_problem.headers["Retry-After"] == as_json.headers["Retry-After"] == "0"


def test_versions_are_asked_for_the_error_at_hand(make_app: Callable[..., Flask]) -> None:
    client = raising(make_app, UriTooLong(), versions=lambda error: {"code": error.code})

    assert client.get("/raise").json["versions"] == {"code": "too_large"}  # type: ignore[index]


@pytest.mark.parametrize("path", ["/nowhere", "/plain/", "/sized/word"])
def test_an_unknown_path_is_no_endpoint(client: FlaskClient, path: str) -> None:
    body = is_the_one_body(client.get(path), 404, "not_found")

    assert body["error"] == "Endpoint not found"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_a_wrong_method_is_told_which_would_do(client: FlaskClient, method: str) -> None:
    answer = client.open("/plain", method=method)

    is_the_one_body(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("status", "answered", "code"),
    [
        (400, 400, "bad_request"),
        (404, 404, "not_found"),
        (413, 413, "too_large"),
        (415, 400, "bad_request"),
        (418, 400, "bad_request"),
        (500, 500, "internal_error"),
        (503, 500, "internal_error"),
    ],
)
def test_what_flask_aborts_with_becomes_one_of_ours(
    make_app: Callable[..., Flask], logged: Logged, status: int, answered: int, code: str
) -> None:
    client = make_app({"/abort": lambda: abort(status, "the framework's own text")}).test_client()
    answer = client.get("/abort")

    is_the_one_body(answer, answered, code)
    assert "framework" not in answer.text
    assert bool(logged("chassis.error_body")) is (answered == 500)


def test_a_body_that_is_no_json_is_a_bad_request(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    app.add_url_rule("/read", view_func=lambda: request.get_json(), methods=["POST"], endpoint="read")
    answer = app.test_client().post("/read", data="{", content_type="application/json")

    is_the_one_body(answer, 400, "bad_request")


@pytest.mark.parametrize("accept", ["application/json", PROBLEM, "text/html"])
def test_the_text_of_a_bug_is_in_the_log_alone(client: FlaskClient, logged: Logged, accept: str) -> None:
    answer = client.get("/bug", headers={"Accept": accept})

    assert answer.status_code == 500
    assert "Internal server error" in answer.text
    assert "the text of a bug" not in answer.text
    assert "RuntimeError" not in answer.text
    [line] = logged("chassis.error_body")
    assert line["level"] == "error"
    assert "RuntimeError: the text of a bug" in line["exception"]
    assert line["requestId"] == answer.headers["X-Request-ID"]


def test_a_known_error_is_no_fault_of_ours_to_be_logged(
    make_app: Callable[..., Flask], logged: Logged
) -> None:
    raising(make_app, BadRequest()).get("/raise")

    assert logged("chassis.error_body") == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_hook_may_answer_as_if_there_were_no_such_path(
    make_app: Callable[..., Flask], method: str, counted: Callable[..., float], service: str
) -> None:
    app = make_app(service=service)
    app.before_request(nowhere)
    before = counted(route="<unmatched>", method=method, status_code="404")

    answer = app.test_client().open("/plain", method=method)

    is_the_one_body(answer, 404, "not_found")
    assert "Allow" not in answer.headers
    assert counted(route="<unmatched>", method=method, status_code="404") == before + 1


def test_a_path_that_is_not_written_as_it_is_meant_is_counted_for_no_rule_in_any_method(
    fresh: FlaskClient, counted: Callable[..., float]
) -> None:
    before = counted(route="<unmatched>", method="POST", status_code="404")

    fresh.post("/", environ_overrides={"PATH_INFO": "//plain"})

    assert counted(route="<unmatched>", method="POST", status_code="404") == before + 1


def test_the_code_of_an_error_is_left_for_those_who_count(make_app: Callable[..., Flask]) -> None:
    left: list[str | None] = []
    app = make_app()

    def look(response: Response) -> Response:
        left.append(g.get("error_code"))
        return response

    app.after_request(look)
    for path in ("/nowhere", "/plain", "/bug"):
        app.test_client().get(path)

    assert left == ["not_found", None, "internal_error"]


def test_head_of_an_error_has_its_headers_and_no_body(client: FlaskClient) -> None:
    answer = client.head("/nowhere")

    assert (answer.status_code, answer.data) == (404, b"")
    assert answer.content_type == "application/json"


@pytest.mark.parametrize("path", ["/", "/plain", "/nowhere"])
def test_what_the_server_refused_is_answered_like_any_other_error(client: FlaskClient, path: str) -> None:
    answer = client.get(path, environ_overrides={"chassis.refusal": UriTooLong()})

    body = is_the_one_body(answer, 414, "too_large")
    assert body["error"] == "Request line too long"


ACCEPTED = [PROBLEM, "application/json", "text/html", "application/*", "*/*", "Application/Problem+JSON"]
QUALITIES = [None, "0", "0.1", "0.5", "0.9", "1", "1.0"]


def quality_of(name: str, header: list[tuple[str, str | None]]) -> float:
    return max((float(q or "1") for value, q in header if value.lower() == name), default=0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(ACCEPTED), st.sampled_from(QUALITIES)),
        unique_by=lambda item: item[0].lower(),
    )
)
def test_a_problem_is_for_who_names_it_and_does_not_prefer_json(
    client: FlaskClient, header: list[tuple[str, str | None]]
) -> None:
    text = ", ".join(value if quality is None else f"{value};q={quality}" for value, quality in header)
    problem = quality_of(PROBLEM, header)
    # Wildcards below are no statement about either; those that favour JSON are left to the server.
    wanted = problem > 0 and problem >= quality_of("application/json", header)
    named = any(value.lower() == "application/json" for value, _ in header)
    wild = max((float(q or "1") for value, q in header if "*" in value), default=0)
    answer = client.get("/nowhere", headers={"Accept": text})

    assert answer.status_code == 404
    if named or wild <= problem:
        assert answer.content_type == (PROBLEM if wanted else "application/json")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=60), st.booleans())
def test_no_accept_header_breaks_an_error(client: FlaskClient, text: str, named: bool) -> None:
    header = f"{PROBLEM}{text}" if named else text
    answer = client.get("/nowhere", environ_overrides={"HTTP_ACCEPT": header})

    assert answer.status_code == 404
    assert json.loads(answer.data)["code"] == "not_found"
    assert answer.content_type in (PROBLEM, "application/json")
