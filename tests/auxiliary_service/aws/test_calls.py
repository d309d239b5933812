"""One call: measured by operation and outcome, translated."""

from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from prometheus_client import CollectorRegistry

from auxiliary_service.aws.calls import AwsCalls
from auxiliary_service.errors import AwsCredentials


def seen(registry: CollectorRegistry, operation: str, outcome: str) -> tuple[float | None, float | None]:
    labels = {"operation": operation, "outcome": outcome}
    name = "aws_request_duration_seconds"
    return registry.get_sample_value(f"{name}_count", labels), registry.get_sample_value(
        f"{name}_sum", labels
    )


def test_a_call_is_measured(clock: Any) -> None:
    registry = CollectorRegistry()

    def send(**arguments: Any) -> Any:
        clock.now += 0.25
        return arguments

    assert AwsCalls(registry, clock)("MeasuredOperation", send, Name="a") == {"Name": "a"}
    assert seen(registry, "MeasuredOperation", "success") == (1, 0.25)


def test_a_failure_is_counted_under_its_code(clock: Any) -> None:
    registry = CollectorRegistry()

    def send() -> Any:
        clock.now += 2
        raise NoCredentialsError

    with pytest.raises(AwsCredentials):
        AwsCalls(registry, clock)("FailedOperation", send)
    assert seen(registry, "FailedOperation", "aws_credentials") == (1, 2)


def test_a_fault_of_our_own_stays_what_it_is(clock: Any) -> None:
    registry = CollectorRegistry()

    def send() -> Any:
        raise KeyError("Parameters")

    with pytest.raises(KeyError):
        AwsCalls(registry, clock)("FaultyOperation", send)
    assert seen(registry, "FaultyOperation", "internal_error") == (1, 0)
