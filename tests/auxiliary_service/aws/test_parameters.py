"""Parameters: always below the project, complete, and without the value of a secret."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws
from prometheus_client import CollectorRegistry

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import connect
from auxiliary_service.aws.parameters import ParameterStore
from auxiliary_service.errors import InvalidRequest, ParameterNotFound

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
    page = emulated.list_parameters(None, None, None, Forever(), decrypt=False)
    assert len(page.items) == 14
    assert all(each.name.startswith("/myproject/") for each in page.items)
    assert [each.value for each in page.items if each.type == "SecureString"] == [None]


def test_a_prefix_is_whole_segments(emulated: ParameterStore) -> None:
    assert len(emulated.list_parameters("database", None, None, Forever(), decrypt=False).items) == 12
    assert emulated.list_parameters("data", None, None, Forever(), decrypt=False).items == ()


def test_what_ssm_is_asked(aws: Any) -> None:
    store_on(aws).list_parameters("a", "token", 3, Forever(), decrypt=True)
    store_on(aws).list_parameters(None, None, None, Forever(), decrypt=False)
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
    page = store_on(aws).list_parameters(None, None, None, Forever(), decrypt=False)
    assert [each.name for each in page.items] == names


def test_an_empty_page_of_the_real_client() -> None:
    client = connect("us-west-2", None, threads=1).ssm
    found = {"Name": "/myproject/a", "Type": "String", "Value": "v", "Version": 3}
    found["LastModifiedDate"] = datetime(2023, 12, 1, tzinfo=UTC)
    with Stubber(client) as stub:
        stub.add_response("get_parameters_by_path", {"Parameters": [], "NextToken": "on"})
        stub.add_response("get_parameters_by_path", {"Parameters": [found]})
        page = store_on(client).list_parameters(None, None, None, Forever(), decrypt=False)
        stub.assert_no_pending_responses()
    assert [(each.name, each.version) for each in page.items] == [("/myproject/a", 3)]


@pytest.mark.parametrize("code", ["InvalidNextToken", "ValidationException"])
def test_a_token_that_aws_refuses_is_the_callers_fault(code: str) -> None:
    client = connect("us-west-2", None, threads=1).ssm
    stub = Stubber(client)
    stub.add_client_error("get_parameters_by_path", code, http_status_code=400)
    with stub, pytest.raises(InvalidRequest):
        store_on(client).list_parameters(None, "old", 10, Forever(), decrypt=False)
