"""Parameters: always below the project, complete, and without the value of a secret."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import cycle, repeat
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws
from prometheus_client import CollectorRegistry

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import connect
from auxiliary_service.aws.pages import Page, Patience
from auxiliary_service.aws.parameters import Parameter, ParameterStore
from auxiliary_service.errors import AwsError, AwsTimeout, InvalidRequest, ParameterNotFound
from tests.auxiliary_service.paged_ssm import PagedSsm, is_below, relative, said

SECRET = "canary-5ecret"


class Forever:
    def lasts(self) -> bool:
        return True

    def offer(self, so_far: object) -> None:
        pass


def store_on(client: Any) -> ParameterStore:
    return ParameterStore(client, AwsCalls(CollectorRegistry()), "myproject")


@pytest.fixture(scope="module")
def emulated() -> Iterator[ParameterStore]:
    with mock_aws():
        client = boto3.client("ssm", "us-west-2")
        for number in range(12):
            client.put_parameter(Name=f"/myproject/database/p{number:02}", Value=str(number), Type="String")
        client.put_parameter(Name="/myproject/hosts", Value="a,b", Type="StringList")
        client.put_parameter(Name="/myproject/password", Value=SECRET, Type="SecureString")
        client.put_parameter(Name="/other/p", Value="foreign", Type="String")
        yield store_on(connect("us-west-2", None, threads=2).ssm)


def test_one_parameter(emulated: ParameterStore) -> None:
    found = emulated.get_parameter("database/p03", decrypt=False)
    assert (found.name, found.type, found.value) == ("/myproject/database/p03", "String", "3")
    assert (found.version, found.data_type, found.redacted) == (1, "text", False)
    assert found.last_modified_date.tzinfo is not None


def test_a_list_of_strings_is_as_ssm_gives_it(emulated: ParameterStore) -> None:
    assert emulated.get_parameter("hosts", decrypt=False).value == "a,b"


def test_a_missing_parameter_is_not_found(emulated: ParameterStore) -> None:
    with pytest.raises(ParameterNotFound):
        emulated.get_parameter("missing", decrypt=False)


def test_a_secret_has_no_value_unless_decrypted(emulated: ParameterStore) -> None:
    sealed = emulated.get_parameter("password", decrypt=False)
    assert (sealed.value, sealed.redacted, sealed.secret) == (None, True, False)
    opened = emulated.get_parameter("password", decrypt=True)
    assert (opened.value, opened.redacted, opened.secret) == (SECRET, False, True)
    assert SECRET not in repr(opened)


def test_decrypting_changes_nothing_for_what_is_no_secret(emulated: ParameterStore) -> None:
    opened = emulated.get_parameter("hosts", decrypt=True)
    assert (opened.value, opened.redacted, opened.secret) == ("a,b", False, False)


def test_the_list_is_everything_below_the_project_and_nothing_else(emulated: ParameterStore) -> None:
    page = emulated.list_parameters(("",), None, None, Forever(), decrypt=False)
    assert len(page.items) == 14
    assert all(each.name.startswith("/myproject/") for each in page.items)
    assert [each.value for each in page.items if each.type == "SecureString"] == [None]


def test_a_prefix_is_whole_segments(emulated: ParameterStore) -> None:
    assert len(emulated.list_parameters(("database",), None, None, Forever(), decrypt=False).items) == 12
    assert emulated.list_parameters(("data",), None, None, Forever(), decrypt=False).items == ()


def test_what_ssm_is_asked(aws: Any) -> None:
    store_on(aws).list_parameters(("a",), "a:token", 3, Forever(), decrypt=True)
    store_on(aws).list_parameters(("",), None, None, Forever(), decrypt=False)
    asked = [arguments for _, arguments in aws.calls]
    assert asked[0] == {
        "Path": "/myproject/a",
        "Recursive": True,
        "MaxResults": 3,
        "WithDecryption": True,
        "NextToken": "token",
    }
    assert asked[1] == {
        "Path": "/myproject",
        "Recursive": True,
        "MaxResults": 10,
        "WithDecryption": False,
    }


def test_2500_parameters_come_complete_and_once(aws: Any, parameter: Callable[..., dict[str, Any]]) -> None:
    names = [f"/myproject/p{number:04}" for number in range(2500)]

    def answer(_: str, arguments: dict[str, Any]) -> Any:
        begin = int(arguments.get("NextToken", "0"))
        # Every third page is empty, as SSM's may be.
        if begin % 30 == 0 and not arguments.get("NextToken", "").startswith("0"):
            return {"Parameters": [], "NextToken": f"0{begin}"}
        end = begin + arguments["MaxResults"]
        page = {"Parameters": [parameter(name) for name in names[begin:end]]}
        return page | ({"NextToken": str(end)} if end < len(names) else {})

    aws.answer = answer
    page = store_on(aws).list_parameters(("",), None, None, Forever(), decrypt=False)
    assert [each.name for each in page.items] == names


def test_an_empty_page_of_the_real_client() -> None:
    client = connect("us-west-2", None, threads=1).ssm
    found = {"Name": "/myproject/a", "Type": "String", "Value": "v", "Version": 3}
    found["LastModifiedDate"] = datetime(2023, 12, 1, tzinfo=UTC)
    with Stubber(client) as stub:
        stub.add_response("get_parameters_by_path", {"Parameters": [], "NextToken": "on"})
        stub.add_response("get_parameters_by_path", {"Parameters": [found]})
        page = store_on(client).list_parameters(("",), None, None, Forever(), decrypt=False)
        stub.assert_no_pending_responses()
    assert [(each.name, each.version) for each in page.items] == [("/myproject/a", 3)]


@pytest.mark.parametrize("code", ["InvalidNextToken", "ValidationException"])
def test_a_token_that_aws_refuses_is_the_callers_fault(code: str) -> None:
    client = connect("us-west-2", None, threads=1).ssm
    stub = Stubber(client)
    stub.add_client_error("get_parameters_by_path", code, http_status_code=400)
    with stub, pytest.raises(InvalidRequest):
        store_on(client).list_parameters(("",), ":old", 10, Forever(), decrypt=False)


MANY = ("a", "b/c", "d", "e", "z")


def many() -> list[str]:
    """2,500 names below five paths (one of them is empty), and as many elsewhere."""
    return [
        f"{path}/{deeper}p{number:03}"
        for path in ("a", "aa", "b", "b/c", "b/cc", "d", "e", "f")
        for deeper in ("", "x/")
        for number in range(312 + (path == "e") * 2)
    ]


def walk(
    store: ParameterStore, paths: tuple[str, ...], limits: Iterator[int | None]
) -> Iterator[Page[Parameter]]:
    token = None
    for limit in limits:
        page = store.list_parameters(paths, token, limit, Forever(), decrypt=False)
        assert limit is None or len(page.items) <= limit
        yield page
        token = page.next_token
        if token is None:
            return
    raise AssertionError("the pages never end")


def found(pages: Iterator[Page[Parameter]]) -> list[str]:
    return relative(each.name for page in pages for each in page.items)


@pytest.mark.parametrize(("limit", "empty_every"), [(None, 2), (1000, 3), (64, 0), (7, 3)])
def test_2500_parameters_below_several_paths_come_complete_and_once(
    limit: int | None, empty_every: int
) -> None:
    ssm = PagedSsm(many(), empty_every)
    expected = sorted(name for name in ssm.names if any(is_below(*relative([name]), path) for path in MANY))
    assert len(expected) == 2500

    assert found(walk(store_on(ssm), MANY, repeat(limit))) == relative(expected)
    assert list(dict.fromkeys(ssm.asked)) == [f"/myproject/{path}" for path in MANY]


segments = st.sampled_from(["a", "b", "ab", "a-"])
some_names = st.lists(segments, min_size=1, max_size=3).map("/".join)


@settings(deadline=None)
@given(
    st.sets(some_names, max_size=40),
    st.lists(some_names, min_size=1, max_size=5),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.sampled_from([0, 2, 3]),
)
def test_the_answers_joined_are_what_is_below_the_paths(
    names: set[str], wanted: list[str], limits: list[int], empty_every: int
) -> None:
    paths = tuple(sorted({one for one in wanted if not any(is_below(one, other) for other in wanted)}))
    expected = [name for path in paths for name in sorted(names) if is_below(name, path)]

    walked = found(walk(store_on(PagedSsm(names, empty_every)), paths, cycle(limits)))

    assert walked == expected
    assert found(walk(store_on(PagedSsm(names, empty_every)), paths, repeat(None))) == expected


def test_a_limit_goes_on_from_path_to_path_while_a_whole_page_fits() -> None:
    ssm = PagedSsm([f"{path}/{number}" for path in "abc" for number in range(8)])
    page = store_on(ssm).list_parameters(("a", "b", "c"), None, 20, Forever(), decrypt=False)
    assert (len(page.items), page.next_token) == (16, "c:")
    assert ssm.asked == ["/myproject/a", "/myproject/b"]


class Some(Patience):
    """Patience that ends after a number of pages."""

    def __init__(self, pages: int) -> None:
        self.left = pages
        self.offered: list[Any] = []

    def lasts(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def offer(self, so_far: object) -> None:
        self.offered.append(so_far)


def test_when_the_time_ends_between_two_paths_the_whole_pages_are_the_answer() -> None:
    ssm, paths = PagedSsm([f"{path}/{number}" for path in "abc" for number in range(8)]), ("a", "b", "c")
    some = Some(2)
    page = store_on(ssm).list_parameters(paths, None, 1000, some, decrypt=False)
    assert (len(page.items), page.next_token) == (16, "c:")
    assert [len(each.items) for each in some.offered] == [8, 16]
    with pytest.raises(AwsTimeout):
        store_on(ssm).list_parameters(paths, None, None, Some(2), decrypt=False)
    with pytest.raises(AwsTimeout):
        store_on(ssm).list_parameters(paths, "c:", 1000, Some(0), decrypt=False)


@pytest.mark.parametrize("start", ["", "a", "c:", "c:x", "a/b:x", "/a:x", "A:x", ":x", " a:x", "a b:x", "b"])
def test_a_token_in_none_of_the_paths_is_refused_and_aws_not_asked(aws: Any, start: str) -> None:
    with pytest.raises(InvalidRequest):
        store_on(aws).list_parameters(("a", "b"), start, 10, Forever(), decrypt=False)
    assert aws.calls == []


@settings(deadline=None)
@given(st.text(max_size=20))
def test_whatever_a_token_says_no_other_path_is_asked(start: str) -> None:
    ssm = PagedSsm(["a/1", "b/1", "c/1"])
    with suppress(InvalidRequest):
        store_on(ssm).list_parameters(("a", "b"), start, 10, Forever(), decrypt=False)
    assert set(ssm.asked) <= {"/myproject/a", "/myproject/b"}


def test_a_token_with_colons_is_aws_own(aws: Any) -> None:
    aws.answer = lambda *_: {"Parameters": [said("/myproject/a/1")], "NextToken": "x:y::z"}
    page = store_on(aws).list_parameters(("a",), "a:p:q", 1, Forever(), decrypt=False)
    assert (aws.calls[0][1]["NextToken"], page.next_token) == ("p:q", "a:x:y::z")


def test_one_token_of_aws_in_two_paths_is_no_repetition_and_twice_in_one_is(aws: Any) -> None:
    turns = iter(["x", None, "x", None, "x", "y", "x"])
    aws.answer = lambda *_: {"NextToken": next(turns)}
    store = store_on(aws)
    assert store.list_parameters(("a", "b"), None, None, Forever(), decrypt=False) == ((), None)
    with pytest.raises(AwsError):
        store.list_parameters(("a", "b"), None, None, Forever(), decrypt=False)


@pytest.mark.parametrize("paths", [("",), ("a",), ("a", "b")])
def test_what_was_not_asked_for_is_left_out_and_told_once(
    aws: Any, paths: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    own = "/myproject/a/1"
    foreign = ["/myproject", "/other/a/1", "/myproject2/a/1", "/myproject-x", "", "a/1", "myproject/a/1"]
    if "" not in paths:
        foreign += ["/myproject/a", "/myproject/ab/1", "/myproject/c/1", "/myproject/A/1"]
    aws.answer = lambda *_: {"Parameters": [said(name) for name in (*foreign, own)]}
    store = store_on(aws)
    for _ in range(2):
        page = store.list_parameters(paths, None, None, Forever(), decrypt=True)
        assert [each.name for each in page.items] == [own]
    [record] = caplog.records
    assert (record.levelname, record.fields) == ("WARNING", {"operation": "GetParametersByPath"})


def test_another_parameter_than_the_one_asked_for_is_shown_to_nobody(aws: Any, caplog: Any) -> None:
    aws.answer = lambda *_: {"Parameter": said("/myproject/b")}
    store = store_on(aws)
    for _ in range(2):
        with pytest.raises(AwsError):
            store.get_parameter("a", decrypt=True)
    [record] = caplog.records
    assert "/myproject/b" not in record.getMessage() + str(record.fields)
