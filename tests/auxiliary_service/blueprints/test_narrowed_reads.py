"""What the caller's scopes let be read: buckets, all parameters, or those below certain paths."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from flask.testing import FlaskClient
from hypothesis import given as given_examples
from hypothesis import settings
from hypothesis import strategies as st
from moto import mock_aws

from auxiliary_service.app import create_app
from auxiliary_service.aws.clients import Clients
from auxiliary_service.schemas.next_token import LABEL, Listing, NextTokens
from auxiliary_service.settings import Settings
from chassis.settings import load
from tests.auxiliary_service.paged_ssm import PagedSsm, is_below, relative, said

Start = Callable[..., FlaskClient]
LIST = "/aws/parameters/list"
BUCKETS = "/aws/s3/buckets"
SINGLE = "/aws/parameters?name=a/b"
TOKEN = "internal-token-0123456789"
NAMES = [
    *(
        f"{path}/p{number:02}"
        for path in ("database", "database/replica", "queue/in")
        for number in range(13)
    ),
    *("database", "databases/host", "queue/out/host", "queue/host", "password", "web/host"),
]


def narrowed(*paths: str) -> str:
    return " ".join(f"parameters:read:/{path}/**" for path in paths)


def headers(scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", "X-Internal-Scopes": scopes}


@pytest.fixture(scope="module")
def emulated() -> Iterator[FlaskClient]:
    with mock_aws():
        client = boto3.client("ssm", "us-west-2")
        for name in NAMES:
            client.put_parameter(Name=f"/myproject/{name}", Value="v", Type="String")
        client.put_parameter(Name="/elsewhere/database/host", Value="no", Type="String")
        yield create_app(load(Settings, {"INTERNAL_TOKEN": TOKEN})).test_client()


@pytest.mark.parametrize(
    ("path", "scopes", "missing"),
    [
        (BUCKETS, "", "buckets:read"),
        (BUCKETS, "parameters:read parameters:decrypt", "buckets:read"),
        (BUCKETS, "BUCKETS:READ", "buckets:read"),
        (BUCKETS, "buckets:read,buckets:read", "buckets:read"),
        (BUCKETS, "x buckets:read y,z", "buckets:read"),
        (BUCKETS, "buckets:read\tx", "buckets:read"),
        (f"{BUCKETS}?unknown=1", "", "buckets:read"),
        (f"{LIST}?unknown=1", "", "parameters:read"),
        (f"{SINGLE}&unknown=1", "buckets:read", "parameters:read"),
        *(
            (path, scopes, "parameters:read")
            for path in (LIST, SINGLE, f"{LIST}?prefix=a")
            for scopes in (
                *("", " ", "buckets:read parameters:decrypt", "parameters:reader", "gateway:operate"),
                *("parameters:read,", ",parameters:read", "x, parameters:read", "parameters:read:/**"),
                *("parameters:read:/c/**", "parameters:read:/a", "parameters:read:/a/../**"),
                *("parameters:read:/c/** parameters:read:/a/**,parameters:read", "parameters:read:/aa/**"),
            )
            # A list of the whole project is narrowed, and not refused.
            if path != LIST or scopes not in ("parameters:read:/c/**", "parameters:read:/aa/**")
        ),
    ],
)
def test_without_the_scope_it_is_403_which_names_it_and_aws_is_not_asked(
    start: Start, aws: Any, path: str, scopes: str, missing: str
) -> None:
    answer = start(INTERNAL_TOKEN=TOKEN).get(path, headers=headers(scopes))
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    assert f"the scope {missing}" in answer.json["error"]
    assert "X-Internal-Scopes" in answer.headers["Vary"]
    assert aws.calls == []


@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        (BUCKETS, "buckets:read"),
        (BUCKETS, "  x   buckets:read "),
        (LIST, "parameters:read"),
        (SINGLE, "parameters:read"),
        (LIST, "parameters:read:/c/**"),
        (SINGLE, "parameters:read:/a/**"),
        (SINGLE, "parameters:read:/c/** parameters:read:/a/**"),
        (SINGLE.replace("a/b", "/myproject/a/b"), "parameters:read:/a/**"),
    ],
)
def test_with_the_scope_it_is_read(
    start: Start, aws: Any, parameter: Callable[..., Any], path: str, scopes: str
) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a/b")}
    assert start(INTERNAL_TOKEN=TOKEN).get(path, headers=headers(scopes)).status_code == 200
    assert len(aws.calls) == 1


@pytest.mark.parametrize("path", [BUCKETS, LIST, SINGLE])
def test_an_operator_with_the_token_alone_reads_everything_and_decrypts_nothing(
    start: Start, aws: Any, given: Any, parameter: Callable[..., Any], path: str
) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a/b")}
    client = start(INTERNAL_TOKEN=TOKEN, ALLOW_DECRYPTION="true")
    assert client.get(path, headers=given.headers()).status_code == 200
    if path != BUCKETS:
        answer = client.get(f"{path}{'&' if '?' in path else '?'}decrypt=true", headers=given.headers())
        assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", [BUCKETS, LIST, SINGLE])
@pytest.mark.parametrize("scopes", ["", "x", "parameters:read:/c/**"])
def test_where_nothing_is_believed_nothing_is_restricted(
    start: Start, aws: Any, parameter: Callable[..., Any], path: str, scopes: str
) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a/b")}
    assert start().get(path, headers=headers(scopes)).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        ("parameters:read parameters:decrypt", 200),
        ("parameters:read:/a/** parameters:decrypt", 200),
        ("parameters:read:/c/** parameters:decrypt", 403),
        ("parameters:decrypt", 403),
        ("parameters:read", 403),
        ("parameters:read:/a/**", 403),
        ("parameters:read parameters:decrypt:/a/**", 403),
    ],
)
def test_decryption_takes_both_scopes(
    start: Start, aws: Any, parameter: Callable[..., Any], scopes: str, status: int
) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a/b", Type="SecureString", Value="plain")}
    client = start(INTERNAL_TOKEN=TOKEN, ALLOW_DECRYPTION="true")
    answer = client.get(f"{SINGLE}&decrypt=true", headers=headers(scopes))
    assert answer.status_code == status
    assert ("plain" in answer.text) == (status == 200)
    assert len(aws.calls) == (status == 200)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("database/p00", 200),
        ("/myproject/database/replica/p12", 200),
        ("queue/in/p01", 200),
        ("database/missing", 404),
        ("database", 403),
        ("/myproject/database", 403),
        ("databases/host", 403),
        ("queue/host", 403),
        ("queue/out/host", 403),
        ("password", 403),
        ("nowhere/at/all", 403),
        ("myproject/database/p00", 403),
        ("/elsewhere/database/host", 400),
        ("database/../password", 400),
        ("database//p00", 400),
        ("/", 400),
    ],
)
def test_a_name_outside_the_paths_is_forbidden_whether_it_exists_or_not(
    emulated: FlaskClient, name: str, status: int
) -> None:
    answer = emulated.get(
        "/aws/parameters", query_string={"name": name}, headers=headers(narrowed("database", "queue/in"))
    )
    assert answer.status_code == status
    if status == 200:
        assert relative([answer.json["data"]["name"]]) == [name.removeprefix("/myproject/")]


def walk(client: FlaskClient, scopes: str, limit: int | None = None, **query: str) -> list[str]:
    """Follow ``nextToken`` to the end."""
    found: list[str] = []
    asked = {**query, **({"limit": str(limit)} if limit else {})}
    for _ in range(1000):
        answer = client.get(LIST, query_string=asked, headers=headers(scopes))
        assert answer.status_code == 200, answer.text
        assert answer.json["count"] == len(answer.json["data"]) <= (limit or 10_000)
        found += relative(item["name"] for item in answer.json["data"])
        if "nextToken" not in answer.json:
            return found
        asked["nextToken"] = answer.json["nextToken"]
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("limit", [None, 1, 5, 10, 12, 1000])
@pytest.mark.parametrize(
    "prefix", [None, "database", "database/replica", "queue", "queue/in", "/myproject/queue"]
)
def test_a_narrowed_list_is_what_is_below_the_paths(
    emulated: FlaskClient, limit: int | None, prefix: str | None
) -> None:
    paths = ("database/replica", "queue/in", "web", "database")
    found = walk(emulated, narrowed(*paths), limit, **({"prefix": prefix} if prefix else {}))
    asked = (prefix or "").removeprefix("/myproject/")
    expected = {
        name for name in NAMES if is_below(name, asked) and any(is_below(name, path) for path in paths)
    }
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert found == walk(emulated, narrowed(*paths), **({"prefix": prefix} if prefix else {}))


@pytest.mark.parametrize(
    "prefix", ["password", "databases", "data", "queue/out", "queue/i", "/myproject/web"]
)
def test_a_prefix_that_meets_no_path_is_forbidden(start: Start, aws: Any, prefix: str) -> None:
    answer = start(INTERNAL_TOKEN=TOKEN).get(
        LIST, query_string={"prefix": prefix}, headers=headers(narrowed("database", "queue/in"))
    )
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    assert "the scope parameters:read" in answer.json["error"]
    assert aws.calls == []


def test_ssm_is_asked_for_the_paths_alone_in_their_order(start: Start, aws: Any) -> None:
    start(INTERNAL_TOKEN=TOKEN).get(LIST, headers=headers(narrowed("z/y", "b", "b/c", "a-", "a")))
    asked = [arguments["Path"] for _, arguments in aws.calls]
    assert asked == ["/myproject/a", "/myproject/a-", "/myproject/b", "/myproject/z/y"]


def test_a_path_whose_pages_are_all_empty_is_passed_by() -> None:
    ssm = PagedSsm(["a/1", *(f"c/{number}" for number in range(25))], empty_every=2)
    client = create_app(load(Settings, {"INTERNAL_TOKEN": TOKEN}), Clients(s3=ssm, ssm=ssm)).test_client()
    expected = ["a/1", *sorted(f"c/{number}" for number in range(25))]
    for limit in (None, 1, 10, 40):
        assert walk(client, narrowed("a", "b", "c", "d"), limit) == expected


def more(_: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer with one parameter, and a token."""
    return {"Parameters": [said(f"{asked['Path']}/1")], "NextToken": "next"}


def first_token(client: FlaskClient, scopes: str | None, given: Any, **query: str) -> str:
    answer = client.get(LIST, query_string={"limit": "1", **query}, headers=given.headers(scopes))
    token: str = answer.json["nextToken"]
    return token


def test_a_token_is_good_under_its_own_scopes_alone(start: Start, aws: Any, given: Any) -> None:
    aws.answer = more
    client = start(INTERNAL_TOKEN=TOKEN)
    sets = [None, "parameters:read", *map(narrowed, "ab"), narrowed("a", "b"), narrowed("a") + " x"]
    tokens = {scopes: first_token(client, scopes, given) for scopes in sets}
    aws.answer = lambda *_: {}

    for made_under, token in tokens.items():
        for scopes in sets:
            answer = client.get(f"{LIST}?nextToken={token}", headers=given.headers(scopes))
            assert answer.status_code == (200 if scopes == made_under else 400), (made_under, scopes)
            assert answer.status_code == 200 or answer.json["code"] == "invalid_request"


def test_a_token_is_good_for_its_own_prefix_alone(start: Start, aws: Any, given: Any) -> None:
    aws.answer = more
    client, scopes = start(INTERNAL_TOKEN=TOKEN), narrowed("a/x", "a/y", "b")
    token = first_token(client, scopes, given, prefix="a")
    asked = len(aws.calls)
    for query in ({}, {"prefix": "a/x"}, {"prefix": "a/y"}, {"prefix": "b"}):
        answer = client.get(LIST, query_string={**query, "nextToken": token}, headers=headers(scopes))
        assert answer.status_code == 400
    assert len(aws.calls) == asked


def test_a_token_goes_on_in_its_path(start: Start, aws: Any, given: Any) -> None:
    client, scopes = start(INTERNAL_TOKEN=TOKEN), narrowed("a", "b")
    ends = {"/myproject/a": {}, "/myproject/b": {"NextToken": "of b"}}
    aws.answer = lambda _, asked: {"Parameters": [said(f"{asked['Path']}/1")], **ends[asked["Path"]]}
    in_b = first_token(client, scopes, given)
    assert [asked["Path"] for _, asked in aws.calls] == ["/myproject/a"]
    aws.calls.clear()
    answer = client.get(f"{LIST}?limit=1&nextToken={in_b}", headers=headers(scopes))
    client.get(f"{LIST}?limit=1&nextToken={answer.json['nextToken']}", headers=headers(scopes))
    assert [(asked["Path"], asked.get("NextToken")) for _, asked in aws.calls] == [
        ("/myproject/b", None),
        ("/myproject/b", "of b"),
    ]


def forged(payload: bytes, scopes: frozenset[str] = frozenset()) -> str:
    """Seal ``payload`` by the key that everybody knows where there is no INTERNAL_TOKEN."""
    key = hmac.digest(b"", LABEL, hashlib.sha256)
    bound = json.dumps(["parameters", None, sorted(scopes), False]).encode()
    mac = hmac.digest(key, bound + b"\0" + payload, hashlib.sha256)
    return base64.urlsafe_b64encode(mac + payload).rstrip(b"=").decode()


def test_the_forgery_of_these_tests_is_a_real_one(start: Start, aws: Any) -> None:
    assert forged(b":next") == NextTokens(None).seal(":next", Listing("parameters", None, frozenset()))
    assert start().get(f"{LIST}?nextToken={forged(b':next')}").status_code == 200
    assert aws.calls[0][1] == {
        "Path": "/myproject",
        "Recursive": True,
        "MaxResults": 10,
        "WithDecryption": False,
        "NextToken": "next",
    }


@pytest.mark.parametrize(
    "payload", [b"next", b"a:next", b"../x:next", b"/:next", b"\xff", b":\xff\xfe", b"\xed\xa0\x80:", b"\0"]
)
def test_a_forged_token_is_400_and_no_other_path_is_asked(start: Start, aws: Any, payload: bytes) -> None:
    answer = start().get(f"{LIST}?nextToken={forged(payload)}")
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert aws.calls == []


@pytest.fixture(scope="module")
def paged() -> tuple[FlaskClient, FlaskClient, PagedSsm]:
    """A service that believes scopes, one that does not, and the SSM of both."""
    ssm = PagedSsm(["a/1", "b/1", "c/1"])
    clients = Clients(s3=ssm, ssm=ssm)
    believing = create_app(load(Settings, {"INTERNAL_TOKEN": TOKEN}), clients).test_client()
    return believing, create_app(load(Settings, {}), clients).test_client(), ssm


@settings(deadline=None)
@given_examples(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_whatever_is_forged_is_400_or_the_own_paths(
    paged: tuple[FlaskClient, FlaskClient, PagedSsm], payload: bytes
) -> None:
    believing, open_to_all, ssm = paged
    ssm.asked.clear()
    scopes = narrowed("a", "b")
    answer = believing.get(
        LIST, query_string={"nextToken": forged(payload, frozenset(scopes.split()))}, headers=headers(scopes)
    )
    assert answer.status_code == 400
    assert ssm.asked == []
    assert open_to_all.get(LIST, query_string={"nextToken": forged(payload)}).status_code in (200, 400)
    assert set(ssm.asked) <= {"/myproject"}


def test_a_path_that_a_token_is_in_and_that_is_no_longer_read_is_400(start: Start, aws: Any) -> None:
    scopes = narrowed("a", "b")
    listing = Listing("parameters", None, frozenset(scopes.split()))
    for payload in ("c:next", "a/x:next", ":next", "next"):
        sealed = NextTokens(TOKEN).seal(payload, listing)
        answer = start(INTERNAL_TOKEN=TOKEN).get(f"{LIST}?nextToken={sealed}", headers=headers(scopes))
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert aws.calls == []


def test_tags_are_other_under_other_scopes(start: Start, given: Any) -> None:
    client = start(INTERNAL_TOKEN=TOKEN)
    sets = [None, "parameters:read", narrowed("a"), narrowed("a", "b"), narrowed("a") + " x"]
    answers = [client.get(LIST, headers=given.headers(scopes)) for scopes in sets]
    assert len({answer.headers["ETag"] for answer in answers}) == len(sets)
    assert all("X-Internal-Scopes" in answer.headers["Vary"] for answer in answers)
    again = client.get(LIST, headers={**headers(narrowed("a")), "If-None-Match": answers[3].headers["ETag"]})
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "calls"),
    [
        ((narrowed("a"), ""), (narrowed("b"), ""), 2),
        ((narrowed("a"), ""), ("parameters:read", ""), 2),
        ((narrowed("a"), "?prefix=a"), ("parameters:read", "?prefix=a"), 1),
        ((narrowed("a"), ""), (narrowed("a", "a/b") + " x", ""), 1),
        ((narrowed("a"), ""), ("parameters:read", "?prefix=a"), 1),
        ((narrowed("a/b", "a/c"), "?prefix=a"), (narrowed("a"), "?prefix=a"), 3),
    ],
)
def test_reads_at_the_same_time_are_shared_among_equal_paths(
    start: Start,
    aws: Any,
    joined: threading.Semaphore,
    one: tuple[str, str],
    other: tuple[str, str],
    calls: int,
) -> None:
    go = threading.Event()

    def answer(*_: Any) -> dict[str, Any]:
        assert go.wait(5)
        return {}

    aws.answer = answer
    app = start(INTERNAL_TOKEN=TOKEN).application

    def ask(scopes: str, query: str) -> int:
        return app.test_client().get(f"{LIST}{query}", headers=headers(scopes)).status_code

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, *each) for each in (one, other)]
        for _ in asked:
            assert joined.acquire(timeout=5)
        go.set()
        assert [each.result(5) for each in asked] == [200, 200]
    assert len(aws.calls) == calls
