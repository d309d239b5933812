"""The errors that a client of either service may be shown. No Flask here.

::

    ServiceError 500 internal_error
    ├── BadRequest 400 bad_request
    │   └── ValidationFailed 400 validation_failed (with details)
    ├── Unauthenticated 401 unauthenticated
    ├── Forbidden 403 forbidden
    ├── NotFound 404 not_found
    ├── MethodNotAllowed 405 method_not_allowed
    ├── TooLarge 413 too_large
    │   ├── UriTooLong 414 too_large
    │   └── HeadersTooLarge 431 too_large
    ├── NotImplementedHere 501 not_implemented
    └── (each service's own, in its errors.py)

A class carries what never changes (status, code, sentence); an instance what this request adds.
:mod:`chassis.error_body` alone turns one into a body.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class Detail(TypedDict):
    """One fault of one field: where, what is wrong, and what was sent."""

    field: str
    message: str
    value: object


class ServiceError(Exception):
    """An answer that is an error: HTTP status, stable code, one sentence.

    ``retry_after`` is whole seconds; ``headers`` go onto the answer as they are.
    The sentence is for clients: no host name, address or library text belongs in it.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Internal server error"

    def __init__(
        self,
        sentence: str | None = None,
        *,
        details: Sequence[Detail] = (),
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = sentence or self.sentence
        self.details = tuple(details)
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        super().__init__(self.message)


class BadRequest(ServiceError):
    """The request as a whole cannot be understood."""

    status = 400
    code = "bad_request"
    sentence = "Bad request"


class ValidationFailed(BadRequest):
    """Fields of the request are wrong; ``details`` names each of them."""

    code = "validation_failed"
    sentence = "Validation failed"


class Unauthenticated(ServiceError):
    """No credential, or one that is not accepted (RFC 6750: say which scheme would be)."""

    status = 401
    code = "unauthenticated"
    sentence = "Authentication required"


class Forbidden(ServiceError):
    """The caller is known and may not do this."""

    status = 403
    code = "forbidden"
    sentence = "Forbidden"


class NotFound(ServiceError):
    """No rule matches the path."""

    status = 404
    code = "not_found"
    sentence = "Endpoint not found"


class MethodNotAllowed(ServiceError):
    """The path exists, the method on it does not; ``Allow`` names those that do."""

    status = 405
    code = "method_not_allowed"
    sentence = "Method not allowed"


class TooLarge(ServiceError):
    """The request's body is larger than the endpoint takes."""

    status = 413
    code = "too_large"
    sentence = "Request body too large"


class UriTooLong(TooLarge):
    """The request line is longer than the server reads."""

    status = 414
    sentence = "Request line too long"


class HeadersTooLarge(TooLarge):
    """A header field, their number or their sum is over the limit (RFC 6585)."""

    status = 431
    sentence = "Request header fields too large"


class NotImplementedHere(ServiceError):
    """The request uses a transfer coding that this server does not speak (RFC 9112, 6.1)."""

    status = 501
    code = "not_implemented"
    sentence = "Transfer coding not implemented"
