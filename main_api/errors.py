"""The gateway's own errors: what can go wrong between it and a service. No Flask here.

::

    ServiceError (chassis)
    ├── Unauthenticated (chassis)
    │   ├── NoCredential    401 unauthenticated
    │   ├── TokenExpired    401 token_expired
    │   └── TokenRevoked    401 token_revoked
    ├── RateLimited         429 rate_limited
    │   └── QuotaExceeded   429 quota_exceeded
    └── GatewayError
        ├── Overloaded          503 overloaded             never sent: no room in this process
        ├── CircuitOpen         503 circuit_open           never sent: every instance is ejected
        ├── UpstreamUnavailable 503 upstream_unavailable   never sent: no connection came about
        ├── BadGateway          502 bad_gateway            sent
        │   ├── BrokenOff         the connection ended before the answer was complete
        │   │   ├── KeptConnectionClosed  it had been kept, and not a byte came back
        │   │   └── Misdelivered          what came back is another request's answer
        │   ├── Malformed         an answer that is not by the contract
        │   │   └── BareServerError       502, 503 or 504 without the contract's body
        │   ├── Busy              by the contract: the instance has no room, or no upstream of its own
        │   └── Unexpected        by the contract, and none of the client's business
        ├── GatewayTimeout      504 gateway_timeout        perhaps sent
        └── ServiceRefused      the service's own error, its status and code kept

A policy reads the type and :attr:`GatewayError.sent`, never the text.
"""

from collections.abc import Sequence
from typing import ClassVar

from chassis.errors import Detail, ServiceError, Unauthenticated


class NoCredential(Unauthenticated):
    """Nothing was shown."""


class TokenExpired(Unauthenticated):
    """A token that was good until its ``exp``."""

    code = "token_expired"
    sentence = "The token has expired"


class TokenRevoked(Unauthenticated):
    """A token or key that was good until somebody took it back."""

    code = "token_revoked"
    sentence = "The credential has been revoked"


class RateLimited(ServiceError):
    """More requests than the caller may send in this time; ``retry_after`` says when there is room again."""

    status = 429
    code = "rate_limited"
    sentence = "Too many requests"


class QuotaExceeded(RateLimited):
    """The plan's requests of this day or month are used up."""

    code = "quota_exceeded"
    sentence = "The quota of this period is used up"


class GatewayError(ServiceError):
    """A call that did not end in an answer for the client.

    ``sent``: whether the request reached an instance (``None``: not known). ``cause`` is for the
    log alone, it may name addresses. ``service_version`` is what the answer at hand said of itself,
    ``pushback`` the whole seconds that it asked to be left alone (its ``Retry-After``).
    """

    sent: ClassVar[bool | None] = None

    def __init__(
        self,
        sentence: str | None = None,
        *,
        cause: str = "",
        details: Sequence[Detail] = (),
        retry_after: int | None = None,
        service_version: str | None = None,
        pushback: int | None = None,
    ) -> None:
        super().__init__(sentence, details=details, retry_after=retry_after)
        self.cause = cause
        self.service_version = service_version
        self.pushback = pushback


class Overloaded(GatewayError):
    """This process, or a service's share of it, has no room for the request."""

    status = 503
    code = "overloaded"
    sentence = "Too many requests are being answered at the moment"
    sent = False

    def __init__(self, sentence: str | None = None, *, cause: str = "", retry_after: int = 1) -> None:
        super().__init__(sentence, cause=cause, retry_after=retry_after)


class CircuitOpen(GatewayError):
    """The breaker of the instance, or of all that there are, is open; ``retry_after`` says how long."""

    status = 503
    code = "circuit_open"
    sentence = "Auxiliary service is failing and not asked for the moment"
    sent = False

    def __init__(self, sentence: str | None = None, *, cause: str = "", retry_after: int = 1) -> None:
        super().__init__(sentence, cause=cause, retry_after=retry_after)


class UpstreamUnavailable(GatewayError):
    """No instance took the request: refused, unreachable, or none is known."""

    status = 503
    code = "upstream_unavailable"
    sentence = "Auxiliary service not available"
    sent = False

    def __init__(self, sentence: str | None = None, *, cause: str = "", retry_after: int = 1) -> None:
        super().__init__(sentence, cause=cause, retry_after=retry_after)


class BadGateway(GatewayError):
    """The instance took the request and did not answer it properly."""

    status = 502
    code = "bad_gateway"
    sentence = "Auxiliary service gave no valid answer"
    sent = True


class BrokenOff(BadGateway):
    """The connection ended before the answer was complete."""


class KeptConnectionClosed(BrokenOff):
    """A connection kept from an earlier call ended before a byte of the answer came.

    Says nothing of the instance's health: it may close what is idle whenever it likes.
    """


class Misdelivered(BrokenOff):
    """The answer names another request as its own: bytes that nobody asked for came before it."""


class Malformed(BadGateway):
    """The answer is complete, and not what the contract allows."""


class BareServerError(Malformed):
    """502, 503 or 504 without the contract's body: something before the service, or its remains, speaks."""


class Busy(BadGateway):
    """A well-formed error that says: not now, not this instance."""


class Unexpected(BadGateway):
    """A well-formed error that is none of the client's business, such as 401: the fault is the gateway's."""


class GatewayTimeout(GatewayError):
    """The deadline passed before the answer was complete."""

    status = 504
    code = "gateway_timeout"
    sentence = "Auxiliary service did not answer in time"


class ServiceRefused(GatewayError):
    """An error of the service that the client is told of: the service's status and code, our body.

    The instance works: it has answered by the contract.
    """

    sent = True

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        *,
        details: Sequence[Detail] = (),
        retry_after: int | None = None,
        service_version: str | None = None,
    ) -> None:
        super().__init__(
            f"Auxiliary service error: {sentence}",
            details=details,
            retry_after=retry_after,
            service_version=service_version,
        )
        self.status = status  # type: ignore[misc]  # the one class whose status is the answer's, not the type's
        self.code = code  # type: ignore[misc]  # likewise
