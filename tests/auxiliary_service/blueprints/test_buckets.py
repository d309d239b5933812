"""``GET /aws/s3/buckets``."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from flask.testing import FlaskClient
from moto import mock_aws

from auxiliary_service.app import create_app
from auxiliary_service.errors import AwsCredentials
from auxiliary_service.settings import Settings
from chassis.settings import load

Start = Callable[..., FlaskClient]
WHEN = datetime(2023, 12, 1, 12, tzinfo=UTC)
PATH = "/aws/s3/buckets"


def test_the_envelope_on_an_emulated_aws() -> None:
    with mock_aws():
        boto3.client("s3", "us-east-1").create_bucket(Bucket="first-bucket")
        client = create_app(load(Settings, {})).test_client()
        body = client.get(PATH).json
    assert list(body) == ["success", "data", "count", "timestamp"]
    assert (body["success"], body["count"]) == (True, 1)
    assert body["data"][0]["name"] == "first-bucket"
    assert datetime.strptime(body["data"][0]["creationDate"], "%Y-%m-%dT%H:%M:%S.000Z").replace(tzinfo=UTC)


def test_pages_joined_by_the_token_are_the_list(start: Start, aws: Any) -> None:
    names = [f"bucket-{number}" for number in range(25)]

    def answer(_: str, arguments: dict[str, Any]) -> Any:
        begin = int(arguments.get("ContinuationToken", "0"))
        end = begin + arguments["MaxBuckets"]
        buckets = [{"Name": name, "CreationDate": WHEN} for name in names[begin:end]]
        return {"Buckets": buckets} | ({"ContinuationToken": str(end)} if end < len(names) else {})

    aws.answer = answer
    client, found, token = start(), [], None
    for limit in (10, 7, 100):
        query = {"limit": str(limit)} | ({"nextToken": token} if token else {})
        body = client.get(PATH, query_string=query).json
        found += [bucket["name"] for bucket in body["data"]]
        assert body["count"] == len(body["data"]) <= limit
        token = body.get("nextToken")
    assert found == names
    assert token is None


def test_the_prefix_goes_to_s3(start: Start, aws: Any) -> None:
    start().get(f"{PATH}?prefix=logs-")
    assert aws.calls == [("ListBuckets", {"MaxBuckets": 10_000, "Prefix": "logs-"})]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("prefix=", "prefix"),
        ("prefix=a%2Fb", "prefix"),
        ("nextToken=guessed", "nextToken"),
        ("decrypt=true", "decrypt"),
        ("prefix=a&prefix=b", "prefix"),
    ],
)
def test_what_is_refused_is_named_and_aws_not_asked(start: Start, aws: Any, query: str, field: str) -> None:
    answer = start().get(f"{PATH}?{query}")
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert [detail["field"] for detail in answer.json["details"]] == [field]
    assert aws.calls == []


def test_a_token_of_another_prefix_is_refused(start: Start, aws: Any) -> None:
    bucket = {"Name": "a", "CreationDate": WHEN}
    aws.answer = lambda *_: {"Buckets": [bucket], "ContinuationToken": "next"}
    client = start()
    token = client.get(f"{PATH}?prefix=a&limit=1").json["nextToken"]
    assert client.get(f"{PATH}?prefix=b&limit=1&nextToken={token}").status_code == 400
    assert client.get(f"{PATH}?limit=1&nextToken={token}").status_code == 400
    assert client.get(f"/aws/parameters/list?prefix=a&nextToken={token}").status_code == 400


def test_a_failure_of_aws_has_its_code(start: Start, aws: Any) -> None:
    def fail(*_: Any) -> Any:
        raise AwsCredentials

    aws.answer = fail
    answer = start().get(PATH)
    assert (answer.status_code, answer.json["code"]) == (502, "aws_credentials")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers


def test_a_thousand_buckets_are_complete(start: Start, aws: Any) -> None:
    aws.answer = lambda *_: {
        "Buckets": [{"Name": f"b-{number}", "CreationDate": WHEN} for number in range(1000)]
    }
    body = start().get(PATH).json
    assert (body["count"], len({bucket["name"] for bucket in body["data"]})) == (1000, 1000)
