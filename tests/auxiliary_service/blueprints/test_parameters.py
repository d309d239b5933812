"""``GET /aws/parameters/list`` and ``GET /aws/parameters``."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from flask.testing import FlaskClient
from moto import mock_aws

from auxiliary_service.app import create_app
from auxiliary_service.settings import Settings
from chassis.settings import load

Start = Callable[..., FlaskClient]
LIST = "/aws/parameters/list"


@pytest.fixture(scope="module")
def emulated() -> Iterator[FlaskClient]:
    with mock_aws():
        client = boto3.client("ssm", "us-west-2")
        for number in range(23):
            client.put_parameter(Name=f"/myproject/n/p{number:02}", Value=str(number), Type="String")
        client.put_parameter(Name="/myproject/database/host", Value="db.internal", Type="String")
        client.put_parameter(Name="/myproject/password", Value="canary", Type="SecureString")
        client.put_parameter(Name="/elsewhere/a", Value="no", Type="String")
        yield create_app(load(Settings, {})).test_client()


def test_one_parameter(emulated: FlaskClient) -> None:
    for name in ("database/host", "/myproject/database/host", "database%2Fhost"):
        body = emulated.get(f"/aws/parameters?name={name}").json
        assert list(body) == ["success", "data", "timestamp"]
        dated = body["data"].pop("lastModifiedDate")
        assert dated.endswith("Z")
        assert body["data"] == {
            "name": "/myproject/database/host",
            "type": "String",
            "value": "db.internal",
            "version": 1,
            "dataType": "text",
        }


def test_a_secret_is_shown_as_redacted(emulated: FlaskClient) -> None:
    item = emulated.get("/aws/parameters?name=password").json["data"]
    assert item["value"] is None
    assert item["redacted"] is True


def test_a_missing_parameter_is_404(emulated: FlaskClient) -> None:
    answer = emulated.get("/aws/parameters?name=missing")
    assert (answer.status_code, answer.json["code"]) == (404, "parameter_not_found")


def test_the_whole_list(emulated: FlaskClient) -> None:
    body = emulated.get(LIST).json
    assert body["count"] == len(body["data"]) == 25
    assert "nextToken" not in body
    by_name = {item["name"]: item for item in body["data"]}
    assert set(by_name["/myproject/n/p00"]) == {"name", "type", "value", "version", "lastModifiedDate"}
    assert by_name["/myproject/password"]["redacted"] is True


def test_a_list_by_pages_is_the_same_list(emulated: FlaskClient) -> None:
    found: list[str] = []
    token = None
    for limit in (5, 12, 1, 1000):
        query = {"limit": str(limit)} | ({"nextToken": token} if token else {})
        body = emulated.get(LIST, query_string=query).json
        assert body["count"] <= limit
        found += [item["name"] for item in body["data"]]
        token = body.get("nextToken")
    assert token is None
    assert found == [item["name"] for item in emulated.get(LIST).json["data"]]


def test_a_prefix_narrows_the_list(emulated: FlaskClient) -> None:
    assert emulated.get(f"{LIST}?prefix=n").json["count"] == 23
    assert emulated.get(f"{LIST}?prefix=database").json["count"] == 1
    assert emulated.get(f"{LIST}?prefix=data").json["count"] == 0


@pytest.mark.parametrize(
    "query",
    ["", "name=", "name=a&name=b", "name=/elsewhere/a", "name=a%252Fb", "name=%00", "name=%FF", "name=../x"],
)
def test_bad_names_are_400_and_aws_is_not_asked(start: Start, aws: Any, query: str) -> None:
    answer = start().get(f"/aws/parameters?{query}")
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert [detail["field"] for detail in answer.json["details"]] == ["name"]
    assert aws.calls == []


def test_two_ways_to_write_a_prefix_share_a_token(
    start: Start, aws: Any, parameter: Callable[..., Any]
) -> None:
    aws.answer = lambda *_: {"Parameters": [parameter("/myproject/a/b")], "NextToken": "next"}
    client = start()
    token = client.get(f"{LIST}?prefix=a&limit=1").json["nextToken"]
    aws.answer = lambda *_: {}
    assert client.get(f"{LIST}?prefix=/myproject/a&limit=1&nextToken={token}").status_code == 200


def test_a_token_is_refused_under_other_scopes_or_with_other_values(
    start: Start, aws: Any, given: Any, parameter: Callable[..., Any]
) -> None:
    aws.answer = lambda _, arguments: {
        "Parameters": [parameter("/myproject/a")],
        "NextToken": arguments.get("NextToken", "") + "x",
    }
    client = start(INTERNAL_TOKEN=given.token, ALLOW_DECRYPTION="true")
    own = given.headers("parameters:read parameters:decrypt")
    token = client.get(f"{LIST}?limit=1", headers=own).json["nextToken"]

    def status(headers: dict[str, str], more: str = "") -> int:
        return client.get(f"{LIST}?limit=2&nextToken={token}{more}", headers=headers).status_code

    assert status(own) == 200
    assert status(given.headers("parameters:decrypt parameters:read")) == 200
    assert status(given.headers("parameters:read")) == 400
    assert status(given.headers()) == 400
    assert status(own, "&decrypt=true") == 400


@pytest.mark.parametrize("path", [f"{LIST}?decrypt=true", "/aws/parameters?name=a&decrypt=true"])
@pytest.mark.parametrize(
    ("allowed", "scopes", "status"),
    [
        ("true", "parameters:read parameters:decrypt", 200),
        ("true", "a parameters:decrypt b parameters:read", 200),
        ("true", "parameters:decrypt", 403),
        ("true", "parameters:read parameters:decrypts", 403),
        ("true", "parameters:read,parameters:decrypt", 403),
        ("true", "parameters:read PARAMETERS:DECRYPT", 403),
        ("true", "", 403),
        ("true", None, 403),
        ("false", "parameters:read parameters:decrypt", 403),
    ],
)
def test_decryption_needs_the_setting_and_the_scope(
    start: Start,
    aws: Any,
    given: Any,
    parameter: Callable[..., Any],
    path: str,
    allowed: str,
    scopes: str | None,
    status: int,
) -> None:
    secret = parameter("/myproject/a", Type="SecureString", Value="plain")
    aws.answer = lambda *_: {"Parameter": secret, "Parameters": [secret]}
    client = start(INTERNAL_TOKEN=given.token, ALLOW_DECRYPTION=allowed)
    answer = client.get(path, headers=given.headers(scopes))
    assert answer.status_code == status
    if status == 403:
        assert answer.json["code"] == "forbidden"
        assert aws.calls == []
    else:
        assert aws.calls[0][1]["WithDecryption"] is True
        assert '"plain"' in answer.text
        assert "redacted" not in answer.text


def refuse(code: str) -> Callable[..., Any]:
    def answer(operation: str, _: Any) -> Any:
        text = "arn:aws:ssm:us-west-2:123456789012:parameter/a AKIAIOSFODNN7EXAMPLE"
        raise ClientError({"Error": {"Code": code, "Message": text}}, operation)

    return answer


@pytest.mark.parametrize(
    ("code", "status", "ours"),
    [
        ("ParameterNotFound", 404, "parameter_not_found"),
        ("InvalidNextToken", 400, "invalid_request"),
        ("ValidationException", 400, "invalid_request"),
        ("ThrottlingException", 503, "aws_throttled"),
        ("AccessDeniedException", 502, "aws_access_denied"),
        ("ExpiredTokenException", 502, "aws_credentials"),
        ("InternalServerError", 502, "aws_error"),
        ("NeverHeardOf", 502, "aws_error"),
    ],
)
def test_failures_of_aws(start: Start, aws: Any, code: str, status: int, ours: str) -> None:
    aws.answer = refuse(code)
    answer = start().get("/aws/parameters?name=a")
    assert (answer.status_code, answer.json["code"]) == (status, ours)
    assert "123456789012" not in answer.text
    assert "AKIA" not in answer.text
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert answer.json.get("retryAfter") == (1 if status == 503 else None)
