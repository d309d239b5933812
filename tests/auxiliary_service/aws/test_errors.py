"""The tables: complete, and never by an error's text."""

import logging
import re
from collections.abc import Iterator

import botocore.exceptions
import botocore.session
import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError
from botocore.parsers import ResponseParserError
from botocore.retries.standard import ThrottledRetryableChecker

from auxiliary_service import errors
from auxiliary_service.aws.errors import CODES, EXCEPTIONS, FOREIGN, translate
from auxiliary_service.errors import (
    AwsAccessDenied,
    AwsCredentials,
    AwsError,
    AwsThrottled,
    AwsTimeout,
    AwsUnreachable,
    InvalidRequest,
    ParameterNotFound,
)
from chassis.errors import ServiceError

SECRETS = (
    "arn:aws:ssm:us-west-2:123456789012:parameter/x AKIAIOSFODNN7EXAMPLE https://ssm.example.org 10.0.0.7"
)


def refused(code: str, status: int = 400, operation: str = "GetParameter") -> ClientError:
    response = {
        "Error": {"Code": code, "Message": SECRETS},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "aws-1"},
    }
    return ClientError(response, operation)


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith("botocore."):
            yield from tree(child)


def ours(error: type[Exception]) -> type[ServiceError]:
    made = error.__new__(error)
    return type(translate(made, "GetParameter"))


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("ParameterNotFound", 400, ParameterNotFound),
        ("ParameterVersionNotFound", 400, ParameterNotFound),
        ("ValidationException", 400, InvalidRequest),
        ("InvalidNextToken", 400, InvalidRequest),
        ("InvalidArgument", 400, InvalidRequest),
        ("ThrottlingException", 400, AwsThrottled),
        ("RequestLimitExceeded", 503, AwsThrottled),
        ("SlowDown", 503, AwsThrottled),
        ("AccessDenied", 403, AwsAccessDenied),
        ("AccessDeniedException", 400, AwsAccessDenied),
        ("InvalidKeyId", 400, AwsAccessDenied),
        ("UnrecognizedClientException", 400, AwsCredentials),
        ("InvalidSignatureException", 400, AwsCredentials),
        ("SignatureDoesNotMatch", 403, AwsCredentials),
        ("ExpiredToken", 400, AwsCredentials),
        ("ExpiredTokenException", 400, AwsCredentials),
        ("RequestTimeout", 400, AwsTimeout),
        ("InternalServerError", 500, AwsError),
        ("ServiceUnavailable", 503, AwsError),
        ("SomethingNew", 418, AwsError),
        ("SomethingNew", 500, AwsError),
    ],
)
def test_codes(code: str, status: int, expected: type[ServiceError]) -> None:
    assert type(translate(refused(code, status), "GetParameter")) is expected


def test_an_error_without_a_code_is_an_aws_error() -> None:
    assert type(translate(ClientError({}, "GetParameter"), "GetParameter")) is AwsError


def test_whatever_the_models_declare_has_a_row() -> None:
    session = botocore.session.get_session()
    for service, operations in {
        "ssm": ("GetParameter", "GetParametersByPath"),
        "s3": ("ListBuckets",),
    }.items():
        model = session.get_service_model(service)
        for operation in operations:
            declared = {
                shape.error_code or shape.name for shape in model.operation_model(operation).error_shapes
            }
            assert declared <= set(CODES)


def test_whatever_botocore_takes_for_throttling_is_throttling() -> None:
    for code in ThrottledRetryableChecker._THROTTLED_ERROR_CODES:
        assert CODES[code] is AwsThrottled


def test_every_class_of_botocore_has_a_translation() -> None:
    known = set(tree(BotoCoreError)) | set(tree(ResponseParserError))
    assert len(known) > 60
    for error in known:
        assert issubclass(error, FOREIGN)
        assert any(ancestor in EXCEPTIONS for ancestor in error.__mro__)


SPOKEN = re.compile(
    r"Timeout|Connect|Credential|Token|SSO|Login|Metadata|Auth|MFA|Profile|SSL|Proxy|Http|HTTP"
)
# Faults of the configuration of a client or proxy, which only this service's own code can make.
PLAIN = {"InvalidProxiesConfigError", "UnknownTokenProviderError", "AwsChunkedWrapperError"}


def test_a_class_that_speaks_of_connections_or_credentials_is_no_plain_aws_error() -> None:
    for error in tree(BotoCoreError):
        if SPOKEN.search(error.__name__) and error.__name__ not in PLAIN:
            assert ours(error) is not AwsError, error.__name__
        if "Timeout" in error.__name__:
            assert ours(error) is AwsTimeout, error.__name__


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (botocore.exceptions.EndpointConnectionError, AwsUnreachable),
        (botocore.exceptions.ConnectionClosedError, AwsUnreachable),
        (botocore.exceptions.SSLError, AwsUnreachable),
        (botocore.exceptions.ProxyConnectionError, AwsUnreachable),
        (botocore.exceptions.HTTPClientError, AwsUnreachable),
        (botocore.exceptions.ConnectTimeoutError, AwsTimeout),
        (botocore.exceptions.ReadTimeoutError, AwsTimeout),
        (botocore.exceptions.NoCredentialsError, AwsCredentials),
        (botocore.exceptions.PartialCredentialsError, AwsCredentials),
        (botocore.exceptions.UnauthorizedSSOTokenError, AwsCredentials),
        (botocore.exceptions.ParamValidationError, InvalidRequest),
        (botocore.exceptions.NoRegionError, AwsError),
        (ResponseParserError, AwsError),
        (FileNotFoundError, AwsCredentials),
    ],
)
def test_classes(error: type[Exception], expected: type[ServiceError]) -> None:
    assert ours(error) is expected


def test_a_refusal_of_the_role_is_about_credentials() -> None:
    error = refused("AccessDenied", 403, operation="AssumeRoleWithWebIdentity")
    assert type(translate(error, "GetParameter")) is AwsCredentials


@pytest.mark.parametrize("error", [refused("AccessDenied"), EndpointConnectionError(endpoint_url=SECRETS)])
def test_the_sdks_words_go_to_the_log_alone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "auxiliary_service"):
        translated = translate(error, "GetParameter")
    assert not any(word in translated.message for word in SECRETS.split())
    assert (translated.details, translated.headers) == ((), {})
    (record,) = caplog.records
    assert SECRETS in record.fields["text"]
    assert record.fields["operation"] == "GetParameter"


def test_the_log_names_the_call_for_awss_support(caplog: pytest.LogCaptureFixture) -> None:
    translate(refused("AccessDenied", 403), "GetParameter")
    fields = caplog.records[0].fields
    assert (fields["awsCode"], fields["awsStatus"], fields["awsRequestId"]) == ("AccessDenied", 403, "aws-1")
    assert "ssm:GetParametersByPath" in fields["hint"]


def test_credentials_errors_say_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    translate(NoCredentialsError(), "ListBuckets")
    assert "AWS_SECRET_ACCESS_KEY" in caplog.records[0].fields["hint"]
    assert "role" in caplog.records[0].fields["hint"]


CONTRACT = {
    "InvalidRequest": (400, "invalid_request"),
    "ParameterNotFound": (404, "parameter_not_found"),
    "AwsThrottled": (503, "aws_throttled"),
    "AwsAccessDenied": (502, "aws_access_denied"),
    "AwsCredentials": (502, "aws_credentials"),
    "AwsUnreachable": (502, "aws_unreachable"),
    "AwsTimeout": (504, "aws_timeout"),
    "AwsError": (502, "aws_error"),
}


def test_the_errors_are_those_of_the_contract() -> None:
    own = {
        name: (each.status, each.code)
        for name, each in vars(errors).items()
        if isinstance(each, type) and each.__module__ == errors.__name__
    }
    assert own == CONTRACT
    assert {each.__name__ for each in CODES.values()} | {
        each.__name__ for each in EXCEPTIONS.values()
    } == set(CONTRACT)
