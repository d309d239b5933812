"""One call to AWS: measured, its failure translated."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Histogram

from auxiliary_service.aws.errors import FOREIGN, translate
from chassis.metrics import SECONDS


class AwsCalls:
    """Makes calls and observes ``aws_request_duration_seconds`` for each, by operation and outcome.

    The outcome is ``success`` or the code of the error; a duration includes botocore's own retry.
    The histogram goes to ``registry``; one instance serves all stores.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._duration = Histogram(
            "aws_request_duration_seconds",
            "Time that a call to AWS took, with the SDK's retry.",
            ("operation", "outcome"),
            buckets=(0.01, 0.03, 0.05, *SECONDS),
            registry=registry,
        )

    def __call__(self, operation: str, send: Callable[..., Any], **arguments: Any) -> Any:
        """Give what ``send(**arguments)`` answers; raise a :class:`~chassis.errors.ServiceError`."""
        began = self._clock()
        outcome = "internal_error"
        try:
            answer = send(**arguments)
            outcome = "success"
        except FOREIGN as error:
            translated = translate(error, operation)
            outcome = translated.code
            raise translated from None
        finally:
            self._duration.labels(operation, outcome).observe(self._clock() - began)
        return answer
