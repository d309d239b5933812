"""The demonstration data: what the README and the end-to-end tests count on."""

from collections import Counter

import boto3
import pytest
from moto import mock_aws

from dev import demonstration_data


@pytest.fixture(params=["us-west-2", "us-east-1"])
def account(request, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        session = boto3.Session(region_name=request.param)
        s3, ssm = session.client("s3"), session.client("ssm")
        demonstration_data.load(s3, ssm, "myproject")
        yield s3, ssm


def below(ssm, path):
    pages = ssm.get_paginator("get_parameters_by_path").paginate(
        Path=path, Recursive=True, WithDecryption=True
    )
    return [parameter for page in pages for parameter in page["Parameters"]]


def test_three_buckets(account):
    s3, _ = account
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == sorted(demonstration_data.BUCKETS)
    assert len(demonstration_data.BUCKETS) == 3


def test_thirty_parameters_of_all_types_below_the_project(account):
    _, ssm = account
    found = below(ssm, "/myproject/")
    assert len(found) == len({parameter["Name"] for parameter in found}) == 30
    assert Counter(parameter["Type"] for parameter in found) == {
        "String": 22,
        "StringList": 3,
        "SecureString": 5,
    }


def test_values_and_paths_worth_showing(account):
    _, ssm = account
    values = {parameter["Name"]: parameter["Value"] for parameter in below(ssm, "/myproject/")}
    assert values["/myproject/database/host"] == "db.internal.example"
    assert values["/myproject/database/password"] == "demonstration-database-password"
    assert values["/myproject/mail/signature"] == "Grüße aus Zürich 🏔"
    assert max(name.count("/") for name in values) >= 5


def test_another_project_has_parameters_too(account):
    _, ssm = account
    assert {parameter["Name"] for parameter in below(ssm, "/otherproject/")} == {
        "/otherproject/database/host",
        "/otherproject/secret",
    }


def test_every_secure_value_says_that_it_is_for_demonstration():
    everything = demonstration_data.PARAMETERS + demonstration_data.OTHER_PARAMETERS
    assert all(
        "demonstration" in parameter.value for parameter in everything if parameter.type == "SecureString"
    )
