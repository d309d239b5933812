"""Weak tags, 304, and what may be stored."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

from chassis import timestamp

Start = Callable[..., FlaskClient]
LIST = "/aws/parameters/list"


@pytest.fixture
def tag(start: Start, aws: Any, given: Any, parameter: Callable[..., Any]) -> Callable[..., str]:
    """Give the tag of an answer with one parameter, by path, scopes and what differs."""
    client = start(INTERNAL_TOKEN=given.token, ALLOW_DECRYPTION="true")

    def of(path: str = LIST, scopes: str | None = "parameters:read", **changes: Any) -> str:
        found = parameter(changes.pop("name", "/myproject/a"), **changes)
        aws.answer = lambda *_: {"Parameters": [found], "Parameter": found}
        answer = client.get(path, headers=given.headers(scopes))
        assert answer.status_code == 200
        assert answer.headers["ETag"].startswith('W/"')
        return answer.headers["ETag"]

    return of


def test_the_same_state_has_the_same_tag(tag: Callable[..., str]) -> None:
    assert tag() == tag()
    assert tag(scopes="parameters:read b") == tag(scopes="b  parameters:read")


def test_a_value_is_no_part_of_a_tag(tag: Callable[..., str]) -> None:
    assert tag(Value="one") == tag(Value="two")


def test_whatever_differs_has_another_tag(tag: Callable[..., str], parameter: Callable[..., Any]) -> None:
    later = parameter("x")["LastModifiedDate"] + timedelta(milliseconds=1)
    tags = [
        tag(),
        tag(name="/myproject/b"),
        tag(Type="StringList"),
        tag(Version=2),
        tag(LastModifiedDate=later),
        tag(f"{LIST}?limit=5"),
        tag(f"{LIST}?limit=6"),
        tag(f"{LIST}?decrypt=true", scopes="parameters:read parameters:decrypt"),
        tag(scopes="parameters:read parameters:decrypt"),
        tag(scopes=None),
        tag("/aws/parameters?name=a"),
    ]
    assert len(set(tags)) == len(tags)


def test_redacted_and_decrypted_are_told_apart(tag: Callable[..., str]) -> None:
    path, scopes = "/aws/parameters?name=a", "parameters:read parameters:decrypt"
    redacted = tag(path, scopes, Type="SecureString")
    assert tag(f"{path}&decrypt=true", scopes, Type="SecureString") != redacted


def test_pages_are_told_apart(start: Start, aws: Any, parameter: Callable[..., Any]) -> None:
    client, tokens = start(), iter(["1", "2", "3", None])
    aws.answer = lambda *_: {"Parameters": [parameter("/myproject/a")], "NextToken": next(tokens)}
    tags, token = [], None
    for _ in range(4):
        answer = client.get(LIST, query_string={"limit": "1"} | ({"nextToken": token} if token else {}))
        tags.append(answer.headers["ETag"])
        token = answer.json.get("nextToken")
    assert len(set(tags)) == 4


@pytest.mark.parametrize(("path", "item"), [("/aws/s3/buckets", "Buckets"), (LIST, "Parameters")])
def test_the_same_items_from_another_token_or_with_more_to_come_are_told_apart(
    start: Start, aws: Any, parameter: Callable[..., Any], path: str, item: str
) -> None:
    found = parameter("/myproject/a") | {"CreationDate": parameter("/myproject/a")["LastModifiedDate"]}
    client, query = start(), {"limit": "1"}
    aws.answer = lambda *_: {item: [found], "NextToken": "1", "ContinuationToken": "1"}
    with_more = client.get(path, query_string=query)
    aws.answer = lambda *_: {item: [found]}
    last = client.get(path, query_string=query)
    continued = client.get(path, query_string=query | {"nextToken": with_more.json["nextToken"]})
    assert len({answer.headers["ETag"] for answer in (with_more, last, continued)}) == 3


@pytest.mark.parametrize("path", ["/aws/s3/buckets", LIST, "/aws/parameters?name=a"])
@pytest.mark.parametrize("written", ["{0}", "*", '"x", {0}', 'W/"x",{0}', "{1}", '"a,b", {1} , "c"'])
def test_who_has_it_gets_304(
    start: Start, aws: Any, parameter: Callable[..., Any], path: str, written: str
) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a")}
    client = start(PARAMETERS_MAX_AGE="7", BUCKETS_MAX_AGE="7")
    first = client.get(path)
    weak = first.headers["ETag"]
    again = client.get(path, headers={"If-None-Match": written.format(weak, weak.removeprefix("W/"))})
    assert (again.status_code, again.data) == (304, b"")
    for name in ("ETag", "Cache-Control", "X-Service-Version"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["Cache-Control"] == "max-age=7, stale-if-error=300"
    assert "Content-Type" not in again.headers


@given_examples(
    st.lists(
        st.tuples(st.booleans(), st.text("abcdef0123456789!#,*", max_size=8) | st.just("<own>")), max_size=5
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_if_none_match_is_a_weak_comparison(start: Start, tags: list[tuple[bool, str]]) -> None:
    client = start()
    own = client.get("/aws/s3/buckets").headers["ETag"].removeprefix('W/"').removesuffix('"')
    header = ", ".join(f'{"W/" if weak else ""}"{own if text == "<own>" else text}"' for weak, text in tags)
    answer = client.get("/aws/s3/buckets", headers={"If-None-Match": header})
    assert answer.status_code == (304 if any(text == "<own>" for _, text in tags) else 200)


def test_a_changed_parameter_is_sent_again(start: Start, aws: Any, parameter: Callable[..., Any]) -> None:
    client = start()
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a")}
    before = client.get("/aws/parameters?name=a").headers["ETag"]
    # Deleted and made anew: the version is 1 again, the date is not.
    made_anew = parameter("/myproject/a")
    made_anew["LastModifiedDate"] += timedelta(seconds=1)
    aws.answer = lambda *_: {"Parameter": made_anew}
    answer = client.get("/aws/parameters?name=a", headers={"If-None-Match": before})
    assert answer.status_code == 200
    assert answer.json["data"]["lastModifiedDate"] == timestamp(made_anew["LastModifiedDate"])


def test_each_kind_of_data_has_its_own_age(start: Start, aws: Any, parameter: Callable[..., Any]) -> None:
    aws.answer = lambda *_: {"Parameter": parameter("/myproject/a")}
    client = start(BUCKETS_MAX_AGE="5", PARAMETERS_MAX_AGE="6")
    ages = {path: client.get(path).headers["Cache-Control"] for path in ("/aws/s3/buckets", LIST)}
    assert ages == {
        "/aws/s3/buckets": "max-age=5, stale-if-error=300",
        LIST: "max-age=6, stale-if-error=300",
    }
    assert start().get(LIST).headers["Cache-Control"] == "max-age=0, stale-if-error=300"


def test_a_decrypted_secret_is_never_stored(
    start: Start, aws: Any, given: Any, parameter: Callable[..., Any]
) -> None:
    secret = parameter("/myproject/a", Type="SecureString")
    aws.answer = lambda *_: {"Parameter": secret, "Parameters": [parameter("/myproject/b"), secret]}
    client = start(INTERNAL_TOKEN=given.token, ALLOW_DECRYPTION="true", PARAMETERS_MAX_AGE="6")
    headers = given.headers("parameters:read parameters:decrypt")
    for path in (f"{LIST}?", "/aws/parameters?name=a&"):
        opened = client.get(f"{path}decrypt=true", headers=headers)
        assert opened.headers["Cache-Control"] == "no-store"
        again = client.get(f"{path}decrypt=true", headers=headers | {"If-None-Match": opened.headers["ETag"]})
        assert (again.status_code, again.headers["Cache-Control"]) == (304, "no-store")
        assert client.get(path, headers=headers).headers["Cache-Control"].startswith("max-age=6")
