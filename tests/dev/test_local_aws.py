"""The emulated AWS, without its port."""

import os

import boto3
import pytest
from moto import mock_aws

from dev import local_aws


def test_defaults():
    options = local_aws.arguments([])
    assert (options.host, options.port, options.project, options.empty) == (
        "127.0.0.1",
        4566,
        "myproject",
        False,
    )


def test_filled_backends_stay_filled_whatever_the_user_configured(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    # Set here so that monkeypatch takes back what the function sets.
    monkeypatch.setenv("AWS_CONFIG_FILE", "")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "")
    local_aws.forget_aws_configuration()
    local_aws.fill("eu-central-2", "orders")
    mock = mock_aws()
    mock.start(reset=False)
    try:
        ssm = boto3.Session(region_name="eu-central-2").client("ssm")
        assert ssm.get_parameter(Name="/orders/database/port")["Parameter"]["Value"] == "5432"
    finally:
        mock.stop()


def test_a_signal_ends_it_with_success():
    with pytest.raises(SystemExit) as ended:
        local_aws._end(15, None)
    assert ended.value.code == 0
