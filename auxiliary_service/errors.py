"""The errors of this service; :mod:`chassis.errors` has those that both services share.

::

    ServiceError
    ├── InvalidRequest 400 invalid_request (a BadRequest, with details)
    ├── ParameterNotFound 404 parameter_not_found
    ├── AwsThrottled 503 aws_throttled
    ├── AwsAccessDenied 502 aws_access_denied
    ├── AwsCredentials 502 aws_credentials
    ├── AwsUnreachable 502 aws_unreachable
    ├── AwsTimeout 504 aws_timeout
    └── AwsError 502 aws_error

Every sentence is fixed text for clients: what AWS or its SDK said is in the log, under the request id.
"""

from chassis.errors import BadRequest, ServiceError

RETRY_AFTER = 1
"""Seconds: SSM's and S3's rate limits are refilled every second."""


class InvalidRequest(BadRequest):
    """A query parameter or header is wrong, or AWS refuses what was asked as invalid."""

    code = "invalid_request"
    sentence = "Validation failed"


class ParameterNotFound(ServiceError):
    """No such parameter below this project, or it was deleted."""

    status = 404
    code = "parameter_not_found"
    sentence = "Parameter not found"


class AwsThrottled(ServiceError):
    """AWS says that the account asks too often; says after how many seconds to come back."""

    status = 503
    code = "aws_throttled"
    sentence = "AWS is limiting the rate of requests, try again shortly"

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence, retry_after=RETRY_AFTER)


class AwsAccessDenied(ServiceError):
    """The service's own identity is known to AWS and may not do this."""

    status = 502
    code = "aws_access_denied"
    sentence = "AWS denied this service the permission to read what was asked for"


class AwsCredentials(ServiceError):
    """The service has no AWS credentials, or AWS does not accept them."""

    status = 502
    code = "aws_credentials"
    sentence = "This service has no valid AWS credentials"


class AwsUnreachable(ServiceError):
    """No connection to AWS came about, or it broke: DNS, routing, TLS, a proxy."""

    status = 502
    code = "aws_unreachable"
    sentence = "AWS could not be reached"


class AwsTimeout(ServiceError):
    """AWS did not answer in time: in the SDK's own, or in what the caller was willing to wait."""

    status = 504
    code = "aws_timeout"
    sentence = "AWS did not answer in time"


class AwsError(ServiceError):
    """AWS failed, or answered something that this service does not know."""

    status = 502
    code = "aws_error"
    sentence = "AWS could not fulfil the request"
