"""The border where AWS's errors end: one table of codes, one of botocore's classes, never a text.

The SDK's words (they name hosts, ARNs, account numbers, key ids) go into one log line under the
request id; the error that leaves here carries a fixed sentence.
"""

import logging
from collections.abc import Mapping

from botocore import exceptions as botocore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

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

log = logging.getLogger(__name__)

CREDENTIALS_HINT = (
    "sign in (`aws configure`, or `aws sso login` with AWS_PROFILE), or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary ones), or give the process a role (EKS: "
    "service account or Pod Identity, ECS: task role, EC2: instance profile), then restart; "
    "with a wrong signature also check the clock"
)
ACCESS_HINT = (
    "allow this service's identity s3:ListAllMyBuckets, ssm:GetParameter and ssm:GetParametersByPath on "
    "parameter/<PROJECT_NAME>/*, and, for decryption, kms:Decrypt on the key"
)
HINTS: Mapping[type[ServiceError], str] = {AwsCredentials: CREDENTIALS_HINT, AwsAccessDenied: ACCESS_HINT}
REFUSED = "AWS refused the request as invalid: check name, prefix and nextToken"
TEXT_MOST = 2000
# What a client asked wrongly, or what passes by itself, wakes nobody up.
_LEVELS: Mapping[type[ServiceError], int] = {
    ParameterNotFound: logging.INFO,
    InvalidRequest: logging.INFO,
    AwsThrottled: logging.WARNING,
}

# Error codes as AWS sends them: S3's and SSM's own, those common to all services, those of STS (roles)
# and KMS (SecureString) that come through. SSM sends throttling as HTTP 400, so the status says little.
CODES: Mapping[str, type[ServiceError]] = {
    code: error
    for error, codes in {
        ParameterNotFound: ("ParameterNotFound", "ParameterVersionNotFound"),
        InvalidRequest: (
            *("ValidationException", "ValidationError", "InvalidNextToken", "InvalidArgument"),
            *("InvalidFilterKey", "InvalidFilterOption", "InvalidFilterValue", "InvalidParameterValue"),
        ),
        AwsThrottled: (
            *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
            *("RequestThrottledException", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"),
            *("BandwidthLimitExceeded", "LimitExceededException", "PriorRequestNotComplete"),
            *("ProvisionedThroughputExceededException", "TransactionInProgressException"),
            *("EC2ThrottledException", "429"),
        ),
        AwsAccessDenied: (
            *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"),
            *("AllAccessDisabled", "AccountProblem", "NotSignedUp", "OptInRequired", "InvalidKeyId", "403"),
        ),
        AwsCredentials: (
            *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "AuthFailure"),
            *("SignatureDoesNotMatch", "InvalidSignatureException", "InvalidSignature"),
            *("IncompleteSignature", "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
            *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"),
            *("RequestExpired", "RequestTimeTooSkewed", "InvalidIdentityToken", "IDPRejectedClaim"),
            *("InvalidSecurity", "UnrecognizedClient", "MissingSecurityHeader", "401"),
        ),
        AwsTimeout: ("RequestTimeout", "RequestTimeoutException", "408"),
        AwsError: (
            *("InternalServerError", "InternalFailure", "InternalError", "ServiceUnavailable"),
            *("ServiceUnavailableException", "IDPCommunicationError"),
        ),
    }.items()
    for code in codes
}

# The nearest class in an exception's own line of ancestors decides.
EXCEPTIONS: Mapping[type[Exception], type[ServiceError]] = {
    BotoCoreError: AwsError,
    ResponseParserError: AwsError,
    botocore.ConnectionError: AwsUnreachable,
    botocore.HTTPClientError: AwsUnreachable,
    botocore.ConnectTimeoutError: AwsTimeout,
    botocore.ReadTimeoutError: AwsTimeout,
    botocore.CapacityNotAvailableError: AwsThrottled,
    botocore.ParamValidationError: InvalidRequest,
    botocore.NoCredentialsError: AwsCredentials,
    botocore.PartialCredentialsError: AwsCredentials,
    botocore.CredentialRetrievalError: AwsCredentials,
    botocore.UnknownCredentialError: AwsCredentials,
    botocore.TokenRetrievalError: AwsCredentials,
    botocore.UnknownTokenProviderError: AwsCredentials,
    botocore.NoAuthTokenError: AwsCredentials,
    botocore.MetadataRetrievalError: AwsCredentials,
    botocore.RefreshWithMFAUnsupportedError: AwsCredentials,
    botocore.ProfileNotFound: AwsCredentials,
    botocore.InvalidConfigError: AwsCredentials,
    botocore.SSOError: AwsCredentials,
    botocore.LoginError: AwsCredentials,
    # Not botocore's: a web identity token file that cannot be read; every socket's error is wrapped.
    OSError: AwsCredentials,
}

FOREIGN: tuple[type[Exception], ...] = (ClientError, *EXCEPTIONS)
"""Everything that a boto3 call may raise; anything else is a fault of our own."""


def translate(error: Exception, operation: str) -> ServiceError:
    """Give our error for one of ``FOREIGN`` that ``operation`` ended in, and log what AWS said."""
    found = _of_client_error(error, operation) if isinstance(error, ClientError) else _of_class(type(error))
    _tell(error, operation, found)
    return found(REFUSED) if found is InvalidRequest else found()


def _of_client_error(error: ClientError, operation: str) -> type[ServiceError]:
    found = CODES.get(error.response.get("Error", {}).get("Code", ""), AwsError)
    # A refusal to another operation than ours was one to fetch the role's credentials.
    if found is AwsAccessDenied and error.operation_name != operation:
        return AwsCredentials
    return found


def _of_class(error: type[Exception]) -> type[ServiceError]:
    return next(EXCEPTIONS[ancestor] for ancestor in error.__mro__ if ancestor in EXCEPTIONS)


def _tell(error: Exception, operation: str, found: type[ServiceError]) -> None:
    fields: dict[str, object] = {
        "operation": operation,
        "code": found.code,
        "exception": type(error).__name__,
        "text": str(error)[:TEXT_MOST],
    }
    if isinstance(error, ClientError):
        metadata = error.response.get("ResponseMetadata", {})
        fields["awsCode"] = error.response.get("Error", {}).get("Code")
        fields["awsStatus"] = metadata.get("HTTPStatusCode")
        fields["awsRequestId"] = metadata.get("RequestId")
    if found in HINTS:
        fields["hint"] = HINTS[found]
    log.log(
        _LEVELS.get(found, logging.ERROR),
        "AWS %s failed: %s",
        operation,
        found.code,
        extra={"fields": fields},
    )
