"""One error body on every path of both services, told by one assert."""

import re
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest
import requests
from flask.testing import FlaskClient
from requests.adapters import HTTPAdapter
from werkzeug.test import TestResponse

from chassis.errors import BadRequest, HeadersTooLarge, NotImplementedHere, ServiceError, UriTooLong
from main_api.app import create_app
from main_api.errors import GatewayError
from main_api.settings import Settings
from main_api.upstream.session import Session

PROBLEM = "application/problem+json"
GATEWAY = "main-api"
AUXILIARY = "auxiliary-service"
TOKEN = "0123456789abcdef"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
WITH_RETRY_AFTER = {"upstream_unavailable", "aws_throttled", "overloaded", "circuit_open"}
WITH_DETAILS = {"validation_failed"}
DETAILS_POSSIBLE = {"invalid_request"}
TITLES = {400: "Bad Request", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}
NEVER_SHOWN = ("secret-host", "arn:aws", "localhost", "Traceback", "boto", "urllib3", "canary")


def assert_is_the_error_body(
    answer: TestResponse, service: str, status: int, code: str, *, problem: bool = False
) -> dict[str, Any]:
    """Hold an answer to the one error body: its fields and no others, its headers, its form."""
    body: dict[str, Any] = answer.get_json(force=True)
    assert (answer.status_code, body["code"]) == (status, code)
    assert answer.content_type == (PROBLEM if problem else "application/json")

    head = {"type", "title", "status", "detail"} if problem else {"success", "error"}
    extra = {"details"} if code in WITH_DETAILS or (code in DETAILS_POSSIBLE and "details" in body) else set()
    extra |= {"retryAfter"} if code in WITH_RETRY_AFTER else set()
    extra |= {"versions"} if service == GATEWAY else set()
    assert set(body) == head | {"code", "requestId", "timestamp"} | extra

    sentence = body["detail"] if problem else body["error"]
    assert isinstance(sentence, str)
    assert sentence
    assert "\n" not in sentence
    if problem:
        assert (body["type"], body["status"]) == ("about:blank", status)
        assert body["title"]
        assert TITLES.get(status, body["title"]) == body["title"]
    else:
        assert body["success"] is False
    assert re.fullmatch("[a-z]+(_[a-z]+)*", code)
    assert TIME.fullmatch(body["timestamp"])
    assert body["requestId"] == answer.headers["X-Request-ID"]
    assert answer.headers.get("Retry-After") == (str(body["retryAfter"]) if "retryAfter" in body else None)
    for detail in body.get("details", ()):
        assert set(detail) == {"field", "message", "value"}
        assert detail["message"]
    if service == GATEWAY:
        assert set(body["versions"]) == {"main-api", "auxiliary-service"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "Server" not in answer.headers
    assert "ETag" not in answer.headers
    assert "Accept" in str(answer.headers["Vary"]).split(", ")
    assert not [word for word in NEVER_SHOWN if word in answer.text]
    return body


Prepare = Callable[[Any], None]


def nothing(_: Any) -> None:
    """Leave AWS as it is: empty."""


def aws(code: str) -> Prepare:
    return lambda pair: pair.aws.fail(code)


def raising(error: Exception) -> Prepare:
    def prepare(pair: Any) -> None:
        pair.aws.answer = error

    return prepare


CONNECTION = botocore.exceptions.EndpointConnectionError(endpoint_url="https://secret-host")
SLOW = botocore.exceptions.ReadTimeoutError(endpoint_url="https://secret-host")
KEYLESS = botocore.exceptions.NoCredentialsError()

# What both services answer alike when AWS fails: the gateway with its prefix, the status and code kept.
AWS_FAILS = [
    (404, "parameter_not_found", aws("ParameterNotFound")),
    (400, "invalid_request", aws("ValidationException")),
    (503, "aws_throttled", aws("ThrottlingException")),
    (503, "aws_throttled", aws("SlowDown")),
    (502, "aws_access_denied", aws("AccessDeniedException")),
    (502, "aws_credentials", aws("ExpiredToken")),
    (502, "aws_credentials", raising(KEYLESS)),
    (502, "aws_unreachable", raising(CONNECTION)),
    (502, "aws_error", aws("InternalServerError")),
    (502, "aws_error", aws("NeverHeardOf")),
    (504, "aws_timeout", raising(SLOW)),
]
GATEWAY_PATHS: list[tuple[int, str, str, dict[str, Any], Prepare]] = [
    (400, "validation_failed", "/api/parameters", {}, nothing),
    (400, "validation_failed", "/api/parameters?name=a&x=1&x=2", {}, nothing),
    (400, "validation_failed", "/api/s3/buckets?limit=0", {}, nothing),
    (400, "invalid_request", "/api/parameters?name=/otherproject/a", {}, nothing),
    (400, "invalid_request", "/api/s3/buckets?nextToken=abcd", {}, nothing),
    (400, "validation_failed", "/api/s3/buckets", {"headers": {"X-Request-Timeout-Ms": "soon"}}, nothing),
    (400, "bad_request", "/api/s3/buckets", {"data": b"canary"}, nothing),
    (403, "forbidden", "/api/parameters?name=a&decrypt=true", {}, nothing),
    (404, "not_found", "/nowhere", {}, nothing),
    (404, "not_found", "/api/s3/buckets/", {}, nothing),
    (404, "not_found", "/nowhere", {"method": "POST"}, nothing),
    (404, "not_found", "/health/another", {}, nothing),
    (404, "not_found", "/services/another", {}, nothing),
    (405, "method_not_allowed", "/circuit-breakers", {"method": "POST"}, nothing),
    (405, "method_not_allowed", "/api/s3/buckets", {"method": "POST"}, nothing),
    (405, "method_not_allowed", "/metrics", {"method": "DELETE"}, nothing),
    (405, "method_not_allowed", "/", {"method": "PUT"}, nothing),
    (504, "gateway_timeout", "/api/s3/buckets", {"headers": {"X-Request-Timeout-Ms": "0"}}, nothing),
    (502, "bad_gateway", "/api/s3/buckets", {}, raising(RuntimeError("canary"))),  # the auxiliary's own 500
]
AUXILIARY_PATHS: list[tuple[int, str, str, dict[str, Any], Prepare]] = [
    (400, "invalid_request", "/aws/parameters", {}, nothing),
    (400, "invalid_request", "/aws/parameters?name=..", {}, nothing),
    (400, "invalid_request", "/aws/s3/buckets?limit=0&x=1", {}, nothing),
    (400, "invalid_request", "/aws/s3/buckets", {"headers": {"X-Request-Timeout-Ms": "soon"}}, nothing),
    (400, "bad_request", "/aws/s3/buckets", {"data": b"canary"}, nothing),
    (403, "forbidden", "/aws/parameters?name=a&decrypt=true", {}, nothing),
    (404, "not_found", "/nowhere", {}, nothing),
    (404, "not_found", "/aws/parameters/", {}, nothing),
    (405, "method_not_allowed", "/aws/s3/buckets", {"method": "POST"}, nothing),
    (405, "method_not_allowed", "/health", {"method": "POST"}, nothing),
    (500, "internal_error", "/aws/s3/buckets", {}, raising(RuntimeError("canary"))),
    (504, "aws_timeout", "/aws/s3/buckets", {"headers": {"X-Request-Timeout-Ms": "0"}}, nothing),
]
PATHS = (
    [(GATEWAY, *each) for each in GATEWAY_PATHS]
    + [(AUXILIARY, *each) for each in AUXILIARY_PATHS]
    + [(GATEWAY, status, code, "/api/parameters?name=a", {}, prepare) for status, code, prepare in AWS_FAILS]
    + [
        (AUXILIARY, status, code, "/aws/parameters?name=a", {}, prepare)
        for status, code, prepare in AWS_FAILS
    ]
)
FORMS = pytest.mark.parametrize("problem", [False, True], ids=["plain", "problem"])


def ask(client: FlaskClient, path: str, *, problem: bool, **options: Any) -> TestResponse:
    headers = {**options.pop("headers", {}), "Accept": PROBLEM if problem else "*/*"}
    return client.open(path, headers=headers, **options)


@FORMS
@pytest.mark.parametrize(
    ("service", "status", "code", "path", "options", "prepare"),
    PATHS,
    ids=[f"{each[0]} {each[1]} {each[2]} {each[3]}" for each in PATHS],
)
def test_every_path_that_fails_answers_the_one_body(
    service: str,
    status: int,
    code: str,
    path: str,
    options: dict[str, Any],
    prepare: Prepare,
    problem: bool,
    pair_over_fake_aws: Callable[..., Any],
) -> None:
    pair = pair_over_fake_aws()
    prepare(pair)

    answer = ask(pair.gateway if service == GATEWAY else pair.auxiliary, path, problem=problem, **options)

    assert_is_the_error_body(answer, service, status, code, problem=problem)


def test_of_the_auxiliarys_errors_the_sentence_is_prefixed_and_the_id_is_ours(
    pair_over_fake_aws: Callable[..., Any],
) -> None:
    pair = pair_over_fake_aws()
    pair.aws.fail("ParameterNotFound")

    own = pair.auxiliary.get("/aws/parameters?name=a").get_json()
    answer = pair.gateway.get("/api/parameters?name=a", headers={"X-Request-ID": "ours"})

    body = assert_is_the_error_body(answer, GATEWAY, 404, "parameter_not_found")
    assert body["error"] == f"Auxiliary service error: {own['error']}"
    assert body["requestId"] == "ours"
    assert body["versions"] == {"main-api": "1.0.0", "auxiliary-service": "1.0.0"}


@FORMS
def test_who_does_not_show_the_token_is_401(problem: bool, pair_over_fake_aws: Callable[..., Any]) -> None:
    pair = pair_over_fake_aws(INTERNAL_TOKEN=TOKEN)

    answer = ask(pair.auxiliary, "/aws/s3/buckets", problem=problem)

    assert_is_the_error_body(answer, AUXILIARY, 401, "unauthenticated", problem=problem)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert pair.gateway.get("/api/s3/buckets").status_code == 200


@FORMS
def test_the_auxiliarys_401_is_our_fault_and_not_the_clients(
    problem: bool, pair_over_fake_aws: Callable[..., Any]
) -> None:
    with_token = pair_over_fake_aws(INTERNAL_TOKEN=TOKEN)
    session = Session(pool_size=1, connect_timeout=1)
    session.mount("http://", with_token.wire)
    without_token = create_app(Settings(), session).test_client()

    answer = ask(without_token, "/api/s3/buckets", problem=problem)

    assert_is_the_error_body(answer, GATEWAY, 502, "bad_gateway", problem=problem)
    assert "WWW-Authenticate" not in answer.headers


class Failing(HTTPAdapter):
    """A network that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def send(self, *_: Any, **__: Any) -> requests.Response:
        raise self._error


def refused() -> Exception:
    from urllib3.connection import HTTPConnection
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    connection = HTTPConnection("secret-host")
    return requests.ConnectionError(MaxRetryError(None, "/", NewConnectionError(connection, "refused")))  # type: ignore[arg-type]


NETWORK_FAILS: list[tuple[Exception, int, str]] = [
    (refused(), 503, "upstream_unavailable"),
    (requests.ConnectionError("reset by secret-host"), 502, "bad_gateway"),
    (requests.ReadTimeout("secret-host is slow"), 504, "gateway_timeout"),
    (RuntimeError("canary"), 500, "internal_error"),
]


def before(error: Exception, **settings: int) -> FlaskClient:
    """Make a client of a gateway whose network fails; nothing is tried twice."""
    session = Session(pool_size=1, connect_timeout=1)
    session.mount("http://", Failing(error))
    return create_app(Settings(retry_attempts=1, **settings), session).test_client()


@FORMS
@pytest.mark.parametrize(("error", "status", "code"), NETWORK_FAILS)
def test_a_network_that_fails_is_the_one_body(
    error: Exception, status: int, code: str, problem: bool
) -> None:
    answer = ask(before(error), "/api/s3/buckets", problem=problem)

    body = assert_is_the_error_body(answer, GATEWAY, status, code, problem=problem)
    assert body["versions"] == {"main-api": "1.0.0", "auxiliary-service": "unknown"}
    if status == 500:
        assert body["detail" if problem else "error"] == "Internal server error"


@FORMS
@pytest.mark.parametrize("path", ["/api/s3/buckets", "/api/parameters/list", "/api/parameters?name=a"])
@pytest.mark.parametrize(("error", "_", "__"), NETWORK_FAILS[:3])
def test_an_instance_that_is_ejected_is_the_one_body_and_says_when_to_come_back(
    error: Exception, _: int, __: str, path: str, problem: bool
) -> None:
    client = before(error, breaker_failures_in_a_row=1)
    assert client.get("/api/s3/buckets").status_code != 200

    answer = ask(client, path, problem=problem)

    body = assert_is_the_error_body(answer, GATEWAY, 503, "circuit_open", problem=problem)
    assert body["retryAfter"] == 5
    assert body["versions"] == {"main-api": "1.0.0", "auxiliary-service": "unknown"}


@FORMS
@pytest.mark.parametrize("path", ["/api/s3/buckets", "/api/parameters/list", "/api/parameters?name=a"])
@pytest.mark.parametrize("room", [{"GUNICORN_THREADS": "1"}, {"BULKHEAD": "1"}], ids=["process", "share"])
def test_who_finds_no_room_is_told_by_the_one_body(
    room: dict[str, str],
    path: str,
    problem: bool,
    pair_over_fake_aws: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("main_api.parts.WAITING_ROOM", 0)
    pair = pair_over_fake_aws(**room)
    answers: list[TestResponse] = []

    def ask_meanwhile(*_: Any) -> dict[str, Any]:
        answers.append(ask(pair.gateway_app.test_client(), path, problem=problem))
        return {"Buckets": []}

    pair.aws.answer = ask_meanwhile
    # Another query than any of the paths: who asks for the same joins, and needs no room of the share.
    assert pair.gateway.get("/api/s3/buckets?prefix=outer").status_code == 200

    [answer] = answers
    body = assert_is_the_error_body(answer, GATEWAY, 503, "overloaded", problem=problem)
    assert body["retryAfter"] == 1
    assert len(pair.wire.sent) == 1


REFUSALS: list[tuple[ServiceError, int, str]] = [
    (BadRequest(), 400, "bad_request"),
    (BadRequest("The request's body is malformed or incomplete"), 400, "bad_request"),
    (UriTooLong(), 414, "too_large"),
    (HeadersTooLarge(), 431, "too_large"),
    (NotImplementedHere(), 501, "not_implemented"),
    (ServiceError(), 500, "internal_error"),
]


@FORMS
@pytest.mark.parametrize("service", [GATEWAY, AUXILIARY])
@pytest.mark.parametrize(("refusal", "status", "code"), REFUSALS, ids=lambda value: str(value)[:30])
def test_what_the_server_refuses_is_the_one_body(
    refusal: ServiceError,
    status: int,
    code: str,
    service: str,
    problem: bool,
    pair_over_fake_aws: Callable[..., Any],
) -> None:
    pair = pair_over_fake_aws()
    client = pair.gateway if service == GATEWAY else pair.auxiliary

    answer = ask(client, "/", problem=problem, environ_overrides={"chassis.refusal": refusal})

    assert_is_the_error_body(answer, service, status, code, problem=problem)


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        ("*/*", False),
        ("application/json", False),
        ("text/html", False),
        ("application/problem+json", True),
        ("APPLICATION/PROBLEM+JSON", True),
        ("application/json, application/problem+json", True),
        ("application/json;q=0.5, application/problem+json", True),
        ("application/json, application/problem+json;q=0.5", False),
        ("application/problem+json;q=0", False),
    ],
)
def test_problem_comes_to_who_names_it_and_not_below_json(
    accept: str, problem: bool, pair_over_fake_aws: Callable[..., Any]
) -> None:
    answer = pair_over_fake_aws().gateway.get("/nowhere", headers={"Accept": accept})

    assert_is_the_error_body(answer, GATEWAY, 404, "not_found", problem=problem)


def test_every_status_of_the_contract_is_driven() -> None:
    driven = {each[1] for each in PATHS} | {status for _, status, _ in REFUSALS} | {401, 500, 503}

    assert {400, 401, 403, 404, 405, 414, 431, 500, 501, 502, 503, 504} <= driven


def codes(kind: type[ServiceError]) -> set[str]:
    return {kind.code}.union(*(codes(each) for each in kind.__subclasses__()))


def test_every_code_of_the_gateways_own_is_driven() -> None:
    driven = {each[2] for each in PATHS if each[0] == GATEWAY} | {code for _, _, code in REFUSALS}
    driven |= {code for _, _, code in NETWORK_FAILS} | {"circuit_open", "overloaded"}

    assert codes(GatewayError) <= driven
