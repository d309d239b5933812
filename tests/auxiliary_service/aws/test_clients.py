"""The clients' limits, measured on the wire's side of botocore."""

import logging
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError
from prometheus_client import CollectorRegistry

from auxiliary_service.aws import clients as module
from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.aws.clients import Clients, connect
from auxiliary_service.aws.parameters import ParameterStore
from auxiliary_service.errors import AwsThrottled, AwsTimeout


@pytest.fixture(scope="module")
def connected() -> Clients:
    return connect("eu-west-3", "http://localhost:9", threads=7)


@pytest.fixture
def answered_with(connected: Clients, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answer every request of the SSM client with one response or exception; count the requests."""
    events = connected.ssm.meta.events
    requests: list[Any] = []
    naps: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", naps.append)
    hooks: list[Any] = []

    def use(status: int = 200, body: bytes = b"{}", error: Exception | None = None) -> list[Any]:
        def respond(request: Any, **_: Any) -> AWSResponse:
            requests.append(request)
            if error is not None:
                raise error
            response = AWSResponse(request.url, status, {"Content-Type": "application/x-amz-json-1.1"}, None)
            response._content = body
            return response

        events.register_first("before-send.ssm", respond)
        hooks.append(respond)
        return requests

    yield use
    for hook in hooks:
        events.unregister("before-send.ssm", hook)


def test_the_limits_are_the_contracts(connected: Clients) -> None:
    for client in (connected.s3, connected.ssm):
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (1, 3)
        assert config.max_pool_connections == 7
        assert config.retries == {"total_max_attempts": 2, "mode": "standard"}
        assert client.meta.region_name == "eu-west-3"
        assert client.meta.endpoint_url == "http://localhost:9"


def test_without_an_endpoint_amazons_own_is_asked() -> None:
    assert (
        connect("eu-west-3", None, threads=1).ssm.meta.endpoint_url == "https://ssm.eu-west-3.amazonaws.com"
    )


def test_throttling_comes_as_http_400_and_is_tried_twice(connected: Clients, answered_with: Any) -> None:
    requests = answered_with(400, b'{"__type":"ThrottlingException","message":"Rate exceeded"}')
    store = ParameterStore(connected.ssm, AwsCalls(CollectorRegistry()), "myproject")
    with pytest.raises(AwsThrottled) as caught:
        store.get_parameter("a", decrypt=False)
    assert caught.value.retry_after == 1
    assert len(requests) == 2


def test_a_silent_aws_is_a_timeout(connected: Clients, answered_with: Any) -> None:
    requests = answered_with(error=ReadTimeoutError(endpoint_url="https://ssm.example.org/"))
    store = ParameterStore(connected.ssm, AwsCalls(CollectorRegistry()), "myproject")
    with pytest.raises(AwsTimeout) as caught:
        store.get_parameter("a", decrypt=False)
    assert "example" not in str(caught.value)
    assert len(requests) == 2


def test_without_credentials_the_log_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.Session, "get_credentials", lambda self: None)
    with caplog.at_level(logging.WARNING, "auxiliary_service"):
        connect("us-west-2", None, threads=1)
    assert "AWS_ACCESS_KEY_ID" in caplog.text
    assert "role" in caplog.text
