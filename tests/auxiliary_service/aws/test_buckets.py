"""Buckets: what S3 is asked, and what comes of its answers."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from prometheus_client import CollectorRegistry

from auxiliary_service.aws.buckets import BucketStore
from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import connect


class Forever:
    def lasts(self) -> bool:
        return True

    def offer(self, so_far: object) -> None:
        pass


def store_on(client: Any) -> BucketStore:
    return BucketStore(client, AwsCalls(CollectorRegistry()))


@pytest.fixture(scope="module")
def emulated() -> Iterator[BucketStore]:
    with mock_aws():
        client = boto3.client("s3", "us-east-1")
        for name in ("logs-a", "logs-b", "media"):
            client.create_bucket(Bucket=name)
        yield store_on(connect("us-west-2", None, threads=2).s3)


def test_buckets_have_name_and_date(emulated: BucketStore) -> None:
    page = emulated.list_buckets(None, None, None, Forever())
    assert [bucket.name for bucket in page.items] == ["logs-a", "logs-b", "media"]
    assert page.items[0].creation_date.tzinfo is not None
    assert page.next_token is None


def test_the_prefix_is_s3s_own(emulated: BucketStore) -> None:
    page = emulated.list_buckets("logs-", None, None, Forever())
    assert [bucket.name for bucket in page.items] == ["logs-a", "logs-b"]


def test_all_pages_are_read_with_s3s_most(aws: Any) -> None:
    pages = {None: ("a", "1"), "1": ("b", ""), "x": ("c", None)}

    def answer(_: str, arguments: dict[str, Any]) -> Any:
        name, token = pages[arguments.get("ContinuationToken")]
        return {"Buckets": [{"Name": name, "CreationDate": None}], "ContinuationToken": token}

    aws.answer = answer
    page = store_on(aws).list_buckets(None, None, None, Forever())
    assert [bucket.name for bucket in page.items] == ["a", "b"]
    # An empty token is none.
    assert page.next_token is None
    assert [arguments for _, arguments in aws.calls] == [
        {"MaxBuckets": 10_000},
        {"MaxBuckets": 10_000, "ContinuationToken": "1"},
    ]


def test_with_a_limit_that_many_are_asked_for(aws: Any) -> None:
    aws.answer = lambda *_: {"Buckets": [{"Name": "a", "CreationDate": None}], "ContinuationToken": "next"}
    page = store_on(aws).list_buckets("a", "before", 7, Forever())
    assert page.next_token == "next"
    assert aws.calls == [("ListBuckets", {"MaxBuckets": 7, "Prefix": "a", "ContinuationToken": "before"})]


def test_an_account_without_buckets_is_an_empty_list(aws: Any) -> None:
    assert store_on(aws).list_buckets(None, None, None, Forever()) == ((), None)
