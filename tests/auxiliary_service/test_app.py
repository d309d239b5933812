"""What holds on every path of the service."""

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from flask.testing import FlaskClient

from auxiliary_service.app import create_app
from auxiliary_service.aws.clients import Clients
from auxiliary_service.settings import Settings
from chassis.json_logs import JsonFormatter
from chassis.settings import load

Start = Callable[..., FlaskClient]


def test_health_tells_of_the_process_alone(start: Start, aws: Any) -> None:
    aws.answer = lambda *_: pytest.fail("health asked AWS")
    answer = start(SERVICE_VERSION="1.2.3").get("/health?whatever=1")
    assert answer.status_code == 200
    timestamp = answer.json.pop("timestamp")
    assert answer.json == {
        "status": "healthy",
        "service": "auxiliary-service",
        "version": "1.2.3",
        "timestamp": timestamp,
    }
    assert timestamp.endswith("Z")
    assert len(timestamp) == len("2023-12-01T12:00:00.000Z")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/aws/s3/buckets/", 404, "not_found"),
        ("GET", "//aws/s3/buckets", 404, "not_found"),
        ("POST", "/aws/s3/buckets", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/aws/s3/buckets?x=1", 400, "invalid_request"),
        ("GET", "/aws/parameters", 400, "invalid_request"),
    ],
)
def test_every_error_has_the_one_body_and_the_version(
    start: Start, method: str, path: str, status: int, code: str
) -> None:
    answer = start(SERVICE_VERSION="1.2.3").open(path, method=method, headers={"X-Request-ID": "me"})
    assert answer.status_code == status
    assert answer.json["success"] is False
    assert (answer.json["code"], answer.json["requestId"]) == (code, "me")
    assert "versions" not in answer.json
    assert answer.headers["X-Service-Version"] == "1.2.3"
    assert answer.headers["X-Request-ID"] == "me"
    if status == 405:
        assert "GET" in answer.headers["Allow"]


def test_a_fault_of_our_own_says_nothing_and_has_the_version(start: Start, aws: Any) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("canary")

    aws.answer = fail
    answer = start().get("/aws/s3/buckets")
    assert answer.status_code == 500
    assert (answer.json["code"], answer.json["error"]) == ("internal_error", "Internal server error")
    assert "canary" not in answer.text
    assert answer.headers["X-Service-Version"] == "1.0.0"


@pytest.mark.parametrize("path", ["/aws/s3/buckets", "/aws/parameters/list", "/aws/parameters?name=a"])
def test_a_body_on_get_is_refused_before_aws_is_asked(start: Start, aws: Any, path: str) -> None:
    client = start()
    answer = client.get(path, data=b"{}")
    assert (answer.status_code, answer.json["code"]) == (400, "bad_request")
    chunked = client.get(path, headers={"Transfer-Encoding": "chunked"})
    assert (chunked.status_code, chunked.json["code"]) == (400, "bad_request")
    assert aws.calls == []


def test_the_settings_reach_their_places(start: Start, aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[Any] = []

    def connect(*arguments: Any) -> Clients:
        connected.extend(arguments)
        return Clients(s3=aws, ssm=aws)

    monkeypatch.setattr("auxiliary_service.app.connect", connect)
    environ = {
        "AWS_REGION": "eu-west-3",
        "AWS_ENDPOINT_URL": "http://localhost:4566",
        "GUNICORN_THREADS": "5",
        "PROJECT_NAME": "shop",
    }
    client = create_app(load(Settings, environ)).test_client()
    client.get("/aws/parameters/list")
    assert connected == ["eu-west-3", "http://localhost:4566", 5]
    assert aws.calls[0][1]["Path"] == "/shop"
    assert client.get("/aws/parameters?name=/myproject/a").status_code == 400


def test_head_is_get_without_the_body(start: Start) -> None:
    client = start()
    head, get = client.head("/aws/s3/buckets"), client.get("/aws/s3/buckets")
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == get.headers["ETag"]
    assert head.headers["Cache-Control"] == get.headers["Cache-Control"]


def test_errors_come_as_a_problem_to_who_prefers_that(start: Start) -> None:
    answer = start().get("/aws/parameters?name=%00", headers={"Accept": "application/problem+json"})
    assert answer.content_type == "application/problem+json"
    assert (answer.json["status"], answer.json["code"]) == (400, "invalid_request")


def test_what_aws_said_is_in_the_log_under_the_request_id_and_nowhere_else(start: Start, aws: Any) -> None:
    def fail(*_: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="https://ssm.example.org/")

    aws.answer = fail
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("auxiliary-service", "test", "1.0.0"))
    logger = logging.getLogger("auxiliary_service")
    logger.addHandler(handler)
    try:
        answer = start().get("/aws/parameters?name=a", headers={"X-Request-ID": "this-one"})
    finally:
        logger.removeHandler(handler)
    assert (answer.status_code, answer.json["code"]) == (502, "aws_unreachable")
    assert "example" not in answer.text + str(answer.headers)
    (line,) = map(json.loads, written.getvalue().splitlines())
    assert line["requestId"] == "this-one"
    assert "ssm.example.org" in line["text"]
