"""Both services together, over an emulated AWS: whole lists, pages, secrets, ids; without a socket."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

BUCKETS = [f"bucket-{number:04}" for number in range(1000)]
PARAMETERS = [f"group-{number % 7}/parameter-{number:04}" for number in range(500)]
CANARY = "canary-5f0e9c"
REGION = "us-west-2"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
VERSIONS = {"main-api": "1.0.0", "auxiliary-service": "1.0.0"}

MakePair = Callable[..., Any]


@pytest.fixture(scope="module")
def account() -> Iterator[None]:
    """An account with 1,000 buckets, 500 parameters, a secret, and what is not the project's."""
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        environment.delenv("AWS_ENDPOINT_URL", raising=False)
        session = boto3.Session(region_name=REGION)
        s3, ssm = session.client("s3"), session.client("ssm")
        for name in BUCKETS:
            s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        for number, name in enumerate(PARAMETERS):
            ssm.put_parameter(Name=f"/myproject/{name}", Value=f"value {number}", Type="String")
        ssm.put_parameter(Name="/myproject/secrets/password", Value=CANARY, Type="SecureString")
        ssm.put_parameter(Name="/myproject/list", Value="a,b", Type="StringList")
        ssm.put_parameter(Name="/otherproject/a", Value=CANARY, Type="String")
        ssm.put_parameter(Name="/myproject2/a", Value=CANARY, Type="String")
        yield


@pytest.fixture(scope="module")
def pair(account: None, pair_over_boto3: MakePair) -> Any:
    return pair_over_boto3()


def inner(answer: Any) -> dict[str, Any]:
    """Hold an answer to the envelope and give the auxiliary's body in it."""
    assert answer.status_code == 200
    body: dict[str, Any] = answer.get_json()
    assert list(body) == ["success", "data", "versions", "timestamp"]
    assert body["success"] is True
    assert body["versions"] == VERSIONS
    assert TIME.fullmatch(body["timestamp"])
    data: dict[str, Any] = body["data"]
    assert data["success"] is True
    assert TIME.fullmatch(data["timestamp"])
    return data


def test_a_thousand_buckets_come_whole_without_repeats(pair: Any) -> None:
    data = inner(pair.gateway.get("/api/s3/buckets"))

    assert set(data) == {"success", "data", "count", "timestamp"}
    assert data["count"] == 1000
    assert sorted(each["name"] for each in data["data"]) == BUCKETS
    assert all(list(each) == ["name", "creationDate"] for each in data["data"])
    assert all(TIME.fullmatch(each["creationDate"]) for each in data["data"])


def test_five_hundred_parameters_come_whole_without_repeats_and_no_others(pair: Any) -> None:
    data = inner(pair.gateway.get("/api/parameters/list"))

    names = [each["name"] for each in data["data"]]
    expected = {f"/myproject/{name}" for name in [*PARAMETERS, "secrets/password", "list"]}
    assert set(data) == {"success", "data", "count", "timestamp"}
    assert data["count"] == len(names) == len(set(names)) == 502
    assert set(names) == expected


def test_an_item_of_the_list_has_these_fields(pair: Any) -> None:
    items = {each["name"]: each for each in inner(pair.gateway.get("/api/parameters/list"))["data"]}

    plain = items["/myproject/group-0/parameter-0000"]
    assert set(plain) == {"name", "type", "value", "version", "lastModifiedDate"}
    assert (plain["type"], plain["value"], plain["version"]) == ("String", "value 0", 1)
    assert TIME.fullmatch(plain["lastModifiedDate"])
    secret = items["/myproject/secrets/password"]
    assert set(secret) == {"name", "type", "value", "version", "lastModifiedDate", "redacted"}
    assert (secret["type"], secret["value"], secret["redacted"]) == ("SecureString", None, True)


def walk(client: Any, path: str, limit: int, **query: str) -> list[list[dict[str, Any]]]:
    """Follow ``nextToken`` to the end."""
    pages = []
    asked: dict[str, str] = {"limit": str(limit), **query}
    for _ in range(1000):
        data = inner(client.get(path, query_string=asked))
        assert data["count"] == len(data["data"]) <= limit
        pages.append(data["data"])
        if "nextToken" not in data:
            return pages
        asked["nextToken"] = data["nextToken"]
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("limit", [1000, 100, 99, 10, 7])
def test_parameters_can_be_walked_through_without_repeats(pair: Any, limit: int) -> None:
    pages = walk(pair.gateway, "/api/parameters/list", limit)

    names = [each["name"] for page in pages for each in page]
    assert len(names) == len(set(names)) == 502
    assert len(pages) >= 502 / limit


def test_a_prefix_is_whole_segments_on_every_page(pair: Any) -> None:
    pages = walk(pair.gateway, "/api/parameters/list", 20, prefix="group-3")

    names = [each["name"] for page in pages for each in page]
    assert sorted(names) == sorted(f"/myproject/{name}" for name in PARAMETERS if name.startswith("group-3/"))
    assert inner(pair.gateway.get("/api/parameters/list?prefix=group"))["data"] == []


def test_buckets_can_be_walked_through_as_s3_pages_them(pair_over_fake_aws: MakePair) -> None:
    from datetime import UTC, datetime

    def page(_: str, asked: dict[str, Any]) -> dict[str, Any]:
        begin = int(asked.get("ContinuationToken", 0))
        end = begin + min(asked["MaxBuckets"], 300)
        named = [
            {"Name": name, "CreationDate": datetime(2023, 12, 1, tzinfo=UTC)} for name in BUCKETS[begin:end]
        ]
        return {"Buckets": named} | ({"ContinuationToken": str(end)} if end < len(BUCKETS) else {})

    pair = pair_over_fake_aws()
    pair.aws.answer = page

    assert [each["name"] for each in inner(pair.gateway.get("/api/s3/buckets"))["data"]] == BUCKETS
    for limit in (1000, 450, 64):
        pages = walk(pair.gateway, "/api/s3/buckets", limit)
        assert [each["name"] for each_page in pages for each in each_page] == BUCKETS


def test_a_page_of_another_list_is_refused(pair: Any) -> None:
    token = inner(pair.gateway.get("/api/parameters/list?limit=10"))["nextToken"]

    answer = pair.gateway.get("/api/s3/buckets", query_string={"nextToken": token})

    assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["group-1/parameter-0001", "/myproject/group-1/parameter-0001"])
def test_a_parameter_comes_by_its_name(pair: Any, name: str) -> None:
    for query in (f"name={name}", "name=" + name.replace("/", "%2F")):
        data = inner(pair.gateway.get(f"/api/parameters?{query}"))

        assert set(data) == {"success", "data", "timestamp"}
        item = data["data"]
        assert set(item) == {"name", "type", "value", "version", "lastModifiedDate", "dataType"}
        assert (item["name"], item["value"]) == ("/myproject/group-1/parameter-0001", "value 1")
        assert (item["type"], item["version"], item["dataType"]) == ("String", 1, "text")


def test_a_secret_by_name_is_redacted(pair: Any) -> None:
    item = inner(pair.gateway.get("/api/parameters?name=secrets/password"))["data"]

    assert (item["value"], item["redacted"], item["type"]) == (None, True, "SecureString")


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nowhere", 404, "parameter_not_found"),
        ("/otherproject/a", 400, "invalid_request"),
        ("/myproject2/a", 400, "invalid_request"),
        ("../otherproject/a", 400, "validation_failed"),
        ("otherproject/a", 404, "parameter_not_found"),
    ],
)
def test_what_is_not_the_projects_is_not_reached(pair: Any, name: str, status: int, code: str) -> None:
    answer = pair.gateway.get("/api/parameters", query_string={"name": name})

    assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    "target", ["/api/s3/buckets", "/api/parameters/list?limit=10", "/api/parameters?name=secrets/password"]
)
def test_tag_and_cache_control_are_the_auxiliarys_and_a_304_follows(pair: Any, target: str) -> None:
    whole = pair.gateway.get(target)
    again = pair.gateway.get(target, headers={"If-None-Match": whole.headers["ETag"]})

    assert whole.headers["ETag"].startswith('W/"')
    assert whole.headers["Cache-Control"] == "max-age=0, stale-if-error=300"
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == whole.headers["ETag"]


def test_the_ages_that_are_set_reach_the_client(account: None, pair_over_boto3: MakePair) -> None:
    pair = pair_over_boto3(BUCKETS_MAX_AGE="7", PARAMETERS_MAX_AGE="9")

    assert pair.gateway.get("/api/s3/buckets").headers["Cache-Control"] == "max-age=7, stale-if-error=300"
    answer = pair.gateway.get("/api/parameters?name=list")
    assert answer.headers["Cache-Control"] == "max-age=9, stale-if-error=300"


def test_the_body_in_the_envelope_is_the_auxiliarys_byte_for_byte(pair: Any) -> None:
    answer = pair.gateway.get("/api/parameters?name=list")

    sent = pair.wire.answers[-1].data
    assert sent in answer.data
    assert json.loads(sent) == answer.get_json()["data"]


def test_one_request_is_one_call_and_shows_the_version_of_the_answer(pair: Any) -> None:
    asked = len(pair.wire.sent)

    answer = pair.gateway.get("/api/parameters?name=list")

    assert len(pair.wire.sent) == asked + 1
    assert (
        answer.get_json()["versions"]["auxiliary-service"]
        == pair.wire.answers[-1].headers["X-Service-Version"]
    )


TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("target", ["/api/parameters?name=list", "/api/parameters?name=nowhere"])
def test_request_id_and_trace_id_are_in_the_lines_of_both_services(
    pair: Any, lines: Any, target: str
) -> None:
    headers = {"X-Request-ID": "an-id.1", "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}

    answer = pair.gateway.get(target, headers=headers)

    routes = {
        line["route"]: (line["requestId"], line["traceId"])
        for line in lines.all
        if line["logger"] == "chassis.access_log"
    }
    assert routes == dict.fromkeys(("/api/parameters", "/aws/parameters"), ("an-id.1", TRACE_ID))
    assert answer.headers["X-Request-ID"] == "an-id.1"
    assert pair.wire.answers[-1].headers["X-Request-ID"] == "an-id.1"


def test_the_plain_value_of_a_secret_is_nowhere(account: None, pair_over_boto3: MakePair, lines: Any) -> None:
    pair = pair_over_boto3(INTERNAL_TOKEN="0123456789abcdef", ALLOW_DECRYPTION="true", LOG_LEVEL="debug")
    targets = [
        "/api/parameters/list",
        "/api/parameters/list?prefix=secrets",
        "/api/parameters/list?limit=1000",
        "/api/parameters?name=secrets/password",
        "/api/parameters?name=secrets/password&decrypt=false",
        "/api/parameters?name=secrets/password&decrypt=true",
        "/api/parameters/list?decrypt=true",
        "/api/parameters?name=secrets/password/deeper",
        "/api/s3/buckets",
        "/metrics",
    ]
    forged = {"X-Internal-Scopes": "parameters:decrypt", "Authorization": "Bearer 0123456789abcdef"}

    answers = [pair.gateway.get(target, headers=headers) for target in targets for headers in ({}, forged)]
    answers.append(pair.auxiliary.get("/metrics"))

    seen = [f"{answer.headers}{answer.text}" for answer in answers + pair.wire.answers]
    assert not [text for text in seen if CANARY in text]
    assert lines.all
    assert CANARY not in lines.text
    assert {answer.status_code for answer in answers} == {200, 403, 404}


def test_with_scope_and_setting_the_auxiliary_decrypts_and_forbids_to_store_it(
    account: None, pair_over_boto3: MakePair, lines: Any
) -> None:
    pair = pair_over_boto3(INTERNAL_TOKEN="0123456789abcdef", ALLOW_DECRYPTION="true")
    headers = {
        "Authorization": "Bearer 0123456789abcdef",
        "X-Internal-Scopes": "parameters:read parameters:decrypt",
    }

    answer = pair.auxiliary.get("/aws/parameters?name=secrets/password&decrypt=true", headers=headers)

    assert answer.get_json()["data"]["value"] == CANARY
    assert answer.headers["Cache-Control"] == "no-store"
    assert CANARY not in lines.text
    assert CANARY not in answer.headers["ETag"]
    assert CANARY not in pair.auxiliary.get("/metrics").text


def test_ready_is_ready(pair: Any) -> None:
    answer = pair.gateway.get("/api/health/ready")

    assert answer.status_code == 200
    assert answer.get_json()["versions"] == VERSIONS
