"""The document is valid, names what the app serves and nothing else, and real answers are as it says."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator
from requests.adapters import HTTPAdapter
from werkzeug.test import TestResponse

from chassis.errors import BadRequest, HeadersTooLarge, NotImplementedHere, ServiceError, UriTooLong
from chassis.settings import load
from main_api.app import create_app
from main_api.settings import Settings
from main_api.upstream.session import Session
from tests.contracts.accounts import write

APP = create_app(Settings(service_version="7.8.9"))
DOCUMENT: dict[str, Any] = json.loads(APP.test_client().get("/openapi.json").data)
# Parts of a page, which nobody asks for by hand: the only rules that are not described.
UNDESCRIBED = ("/console/", "/docs/")

EVERYWHERE = {400, 405, 414, 431, 500, 501}
SERVED = {
    "/api/s3/buckets": {200, 304, 429, 502, 503, 504},
    "/api/parameters/list": {200, 304, 403, 429, 502, 503, 504},
    "/api/parameters": {200, 304, 403, 404, 429, 502, 503, 504},
    "/api/health": {200},
    "/api/health/ready": {200, 503},
    "/api/health/serving": {200, 503},
    "/metrics": {200},
    "/health": {200},
    "/health/{service}": {200, 404, 503},
    "/services": {200},
    "/services/{name}": {200, 404},
    "/circuit-breakers": {200},
    "/routes": {200},
    "/gateway/stats": {200},
    "/": {200, 304},
    "/docs": {200, 304},
    "/openapi.json": {200},
}


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def described(rule: str) -> str:
    """Write a rule of Flask's as OpenAPI does."""
    return rule.replace("<", "{").replace(">", "}")


def test_every_rule_of_the_app_is_described_but_for_the_parts_of_pages() -> None:
    rules = {described(rule.rule) for rule in APP.url_map.iter_rules()}

    assert {rule for rule in rules if not rule.startswith(UNDESCRIBED)} - set(DOCUMENT["paths"]) == set()


def test_every_path_that_is_described_is_served_by_its_methods() -> None:
    methods = {described(rule.rule): rule.methods for rule in APP.url_map.iter_rules()}

    for path, operations in DOCUMENT["paths"].items():
        assert {each.upper() for each in operations} == {"GET"}
        assert "GET" in (methods[path] or ())


@pytest.mark.parametrize("path", SERVED)
def test_every_status_of_the_contract_is_described_and_no_other(path: str) -> None:
    found = {int(status) for status in DOCUMENT["paths"][path]["get"]["responses"]}

    assert found == SERVED[path] | EVERYWHERE


def test_with_authentication_the_document_says_what_each_route_takes(tmp_path: Path) -> None:
    people = write(tmp_path / "accounts.yaml")
    app = create_app(load(Settings, people.environment(RATE_LIMIT_ENABLED="false")))
    document = json.loads(app.test_client().get("/openapi.json").data)

    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    found = {
        (path, method): (set(operation["responses"]) & {"401", "403", "429"}, "security" in operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found["/api/s3/buckets", "get"] == ({"401", "403", "429"}, True)
    assert found["/health", "get"] == found["/metrics", "get"] == ({"401", "403", "429"}, True)
    assert found["/auth/me", "get"] == found["/auth/logout", "post"] == ({"401", "429"}, True)
    assert found["/auth/login", "post"] == ({"401", "429"}, False)
    assert found["/api/health", "get"] == found["/docs", "get"] == (set(), False)
    login = document["paths"]["/auth/login"]["post"]["requestBody"]["content"]["application/json"]
    assert login["schema"] == {"$ref": "#/components/schemas/Login"}
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}


def test_every_operation_has_its_own_name_and_a_summary() -> None:
    operations = [operations["get"] for operations in DOCUMENT["paths"].values()]

    assert len({each["operationId"] for each in operations}) == len(operations)
    assert all(each["summary"] and each["tags"] for each in operations)


def test_the_version_is_the_services() -> None:
    assert DOCUMENT["info"]["version"] == "7.8.9"


def test_the_query_is_described_as_it_is_checked() -> None:
    queries = {
        path: {
            (each["name"], each["required"])
            for each in operations["get"].get("parameters", ())
            if each["in"] == "query"
        }
        for path, operations in DOCUMENT["paths"].items()
    }

    page = {("limit", False), ("nextToken", False), ("prefix", False)}
    assert queries["/api/s3/buckets"] == page
    assert queries["/api/parameters/list"] == page | {("decrypt", False)}
    assert queries["/api/parameters"] == {("name", True), ("decrypt", False)}
    assert not any(queries[path] for path in queries if path not in SERVED or not path.startswith("/api/"))


def test_every_variable_of_a_path_is_described_and_no_other() -> None:
    for path, operations in DOCUMENT["paths"].items():
        named = [
            (each["name"], each["required"], bool(each["description"]))
            for each in operations["get"].get("parameters", ())
            if each["in"] == "path"
        ]
        assert named == [(name, True, True) for name in re.findall(r"\{([a-z]+)\}", path)]


def test_what_asks_the_auxiliary_may_be_asked_to_hurry() -> None:
    hurried = {
        path
        for path, operations in DOCUMENT["paths"].items()
        for each in operations["get"].get("parameters", ())
        if (each["in"], each["name"]) == ("header", "X-Request-Timeout-Ms")
    }

    assert hurried == {"/api/s3/buckets", "/api/parameters/list", "/api/parameters"}


def pattern(path: str, name: str) -> str:
    parameters = DOCUMENT["paths"][path]["get"]["parameters"]
    return str(next(each["schema"]["pattern"] for each in parameters if each["name"] == name))


@pytest.mark.parametrize(
    ("name", "lawful", "unlawful"),
    [
        ("limit", ["1", "1000"], ["0", "1001", "x1", "1x"]),
        ("nextToken", ["a-b_c="], ["", "a b", " a"]),
        ("prefix", ["logs-2023"], ["", "a/b", "/a"]),
    ],
)
def test_a_pattern_of_the_query_means_the_same_to_every_reader(
    name: str, lawful: list[str], unlawful: list[str]
) -> None:
    """JSON Schema's patterns are ECMAScript's: searched for, not matched, and ``\\Z`` is the letter Z."""
    found = pattern("/api/s3/buckets", name)

    assert not re.search(r"\\[AZz]|\(\?P", found)
    assert all(re.search(found, each) for each in lawful)
    assert not any(re.search(found, each) for each in unlawful)


# Real answers.


def closed(schema: Any) -> Any:
    """Give the schemas with every object closed, so that what is answered and not described is a fault."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in schema.items()}
    return {"additionalProperties": False, **made} if schema.get("type") == "object" else made


def assert_as_described(path: str, answer: TestResponse) -> None:
    """Hold an answer to what the document says of this path and status: type, body, headers."""
    response = DOCUMENT["paths"][path]["get"]["responses"][str(answer.status_code)]
    for name in response.get("headers", {}):
        assert name in answer.headers
    if answer.status_code == 304:
        assert answer.data == b""
        assert "content" not in response
        return
    assert answer.mimetype in response["content"]
    schema = response["content"][answer.mimetype].get("schema")
    if schema is None:
        assert answer.mimetype != "application/problem+json"
        return
    components = closed(DOCUMENT["components"])
    jsonschema.Draft202012Validator({**schema, "components": components}).validate(
        answer.get_json(force=True)
    )


DATE = datetime(2023, 12, 1, 12, tzinfo=UTC)
PARAMETER = {
    "Name": "/myproject/a",
    "Type": "String",
    "Value": "v",
    "Version": 1,
    "LastModifiedDate": DATE,
    "DataType": "text",
    "ARN": "arn:aws:ssm:us-west-2:1:parameter/myproject/a",
}
SECRET = {**PARAMETER, "Name": "/myproject/b", "Type": "SecureString", "Value": "kms:cipher"}
AWS_ANSWERS = {
    "ListBuckets": {"Buckets": [{"Name": "b", "CreationDate": DATE}], "ContinuationToken": "more"},
    "GetParametersByPath": {"Parameters": [PARAMETER, SECRET], "NextToken": "more"},
    "GetParameter": {"Parameter": SECRET},
}


def answering(operation: str, _: dict[str, Any]) -> Any:
    return AWS_ANSWERS[operation]


TARGETS = {
    "/api/s3/buckets": "/api/s3/buckets?limit=1",
    "/api/parameters/list": "/api/parameters/list?limit=10",
    "/api/parameters": "/api/parameters?name=b",
}
OPERATIONS = {
    "/health": "/health",
    "/health/{service}": "/health/auxiliary-service",
    "/services": "/services",
    "/services/{name}": "/services/auxiliary-service",
    "/circuit-breakers": "/circuit-breakers",
    "/routes": "/routes",
    "/gateway/stats": "/gateway/stats",
}
PROBLEM = {"Accept": "application/problem+json"}


@pytest.mark.parametrize("path", SERVED)
def test_what_succeeds_is_as_described(path: str, pair_over_fake_aws: Callable[..., Any]) -> None:
    pair = pair_over_fake_aws()
    pair.aws.answer = answering

    answer = pair.gateway.get({**TARGETS, **OPERATIONS}.get(path, path))

    assert answer.status_code == 200
    assert_as_described(path, answer)


@pytest.mark.parametrize("path", [path for path, statuses in SERVED.items() if 304 in statuses])
def test_a_304_is_as_described(path: str, pair_over_fake_aws: Callable[..., Any]) -> None:
    pair = pair_over_fake_aws()
    pair.aws.answer = answering

    answer = pair.gateway.get(TARGETS.get(path, path), headers={"If-None-Match": "*"})

    assert answer.status_code == 304
    assert_as_described(path, answer)


AWS_CODES = {502: "InternalServerError", 503: "SlowDown", 504: "RequestTimeout", 404: "ParameterNotFound"}


@pytest.mark.parametrize("headers", [{}, PROBLEM], ids=["plain", "problem"])
@pytest.mark.parametrize(
    ("path", "status"),
    [(path, status) for path in TARGETS for status in sorted(SERVED[path] & set(AWS_CODES))],
)
def test_what_aws_fails_at_is_as_described(
    path: str, status: int, headers: dict[str, str], pair_over_fake_aws: Callable[..., Any]
) -> None:
    pair = pair_over_fake_aws()
    pair.aws.fail(AWS_CODES[status])

    answer = pair.gateway.get(TARGETS[path], headers=headers)

    assert answer.status_code == status
    assert_as_described(path, answer)


@pytest.mark.parametrize("headers", [{}, PROBLEM], ids=["plain", "problem"])
@pytest.mark.parametrize("path", TARGETS)
def test_what_is_refused_is_as_described(
    path: str, headers: dict[str, str], pair_over_fake_aws: Callable[..., Any]
) -> None:
    client = pair_over_fake_aws().gateway
    answers = [
        client.get(f"{path}?x=1&x=2", headers=headers),
        client.post(path, headers=headers),
        client.get(TARGETS[path], headers=headers, data=b"x"),
    ]
    if 403 in SERVED[path]:
        answers.append(
            client.get(
                f"{path}?decrypt=true&name=a".replace("list?decrypt=true&name=a", "list?decrypt=true"),
                headers=headers,
            )
        )

    assert [each.status_code for each in answers] == [400, 405, 400, 403][: len(answers)]
    for answer in answers:
        assert_as_described(path, answer)


@pytest.mark.parametrize(
    "refusal",
    [BadRequest(), UriTooLong(), HeadersTooLarge(), NotImplementedHere(), ServiceError()],
    ids=lambda refusal: str(refusal.status),
)
def test_what_the_server_refuses_is_as_described(
    refusal: ServiceError, pair_over_fake_aws: Callable[..., Any]
) -> None:
    answer = pair_over_fake_aws().gateway.get("/", environ_overrides={"chassis.refusal": refusal})

    for path in SERVED:
        assert_as_described(path, answer)


class Failing(HTTPAdapter):
    def send(self, *_: Any, **__: Any) -> requests.Response:
        raise requests.ConnectionError


def test_not_ready_is_as_described() -> None:
    session = Session(pool_size=1, connect_timeout=1)
    session.mount("http://", Failing())

    answer = create_app(Settings(), session).test_client().get("/api/health/ready")

    assert answer.status_code == 503
    assert_as_described("/api/health/ready", answer)


@pytest.mark.parametrize("path", OPERATIONS)
def test_what_operators_are_told_of_trouble_is_as_described(path: str) -> None:
    """Every field that may be null or have a name of its own is filled: checks, changes, retries, errors."""
    session = Session(pool_size=1, connect_timeout=1)
    session.mount("http://", Failing())
    asked = {"retry_backoff": 0.0, "bulkhead": 1, "breaker_failures_in_a_row": 2, "retry_attempts": 2}
    app = create_app(
        Settings(health_check_interval=0.000001, health_check_unhealthy_after=1, **asked), session
    )
    [checks] = app.extensions["background"]
    with ThreadPoolExecutor(1) as pool:
        checks.round(pool)
    client = app.test_client()
    statuses = [client.get(target).status_code for target in ("/api/s3/buckets", "/api/s3/buckets", "/none")]
    assert statuses == [502, 503, 404]

    answer = client.get(OPERATIONS[path])

    assert answer.status_code == (503 if path == "/health/{service}" else 200)
    assert_as_described(path, answer)


@pytest.mark.parametrize("headers", [{}, PROBLEM], ids=["plain", "problem"])
@pytest.mark.parametrize("path", [path for path in OPERATIONS if "{" in path])
def test_a_service_that_is_not_there_is_as_described(
    path: str, headers: dict[str, str], pair_over_fake_aws: Callable[..., Any]
) -> None:
    client = pair_over_fake_aws().gateway

    answer = client.get(OPERATIONS[path].replace("auxiliary-service", "another"), headers=headers)

    assert answer.status_code == 404
    assert_as_described(path, answer)


@pytest.mark.parametrize("path", OPERATIONS)
def test_what_operators_may_not_do_is_as_described(path: str, pair_over_fake_aws: Callable[..., Any]) -> None:
    client = pair_over_fake_aws().gateway
    answers = [client.post(OPERATIONS[path]), client.get(OPERATIONS[path], data=b"x")]

    assert [each.status_code for each in answers] == [405, 400]
    for answer in answers:
        assert_as_described(path, answer)


def test_draining_is_as_described(tmp_path: Any) -> None:
    file = tmp_path / "draining"
    file.touch()

    answer = create_app(Settings(drain_file=str(file))).test_client().get("/api/health/serving")

    assert answer.status_code == 503
    assert_as_described("/api/health/serving", answer)


def test_the_phrases_are_those_of_http() -> None:
    for path in TARGETS:
        for status, response in DOCUMENT["paths"][path]["get"]["responses"].items():
            assert response["description"] == HTTPStatus(int(status)).phrase
