"""The tree of errors: what a class promises to a client."""

from collections.abc import Iterator

import pytest

from chassis.errors import (
    BadRequest,
    Forbidden,
    HeadersTooLarge,
    MethodNotAllowed,
    NotFound,
    NotImplementedHere,
    ServiceError,
    TooLarge,
    Unauthenticated,
    UriTooLong,
    ValidationFailed,
)

PROMISED = {
    ServiceError: (500, "internal_error", "Internal server error"),
    BadRequest: (400, "bad_request", "Bad request"),
    ValidationFailed: (400, "validation_failed", "Validation failed"),
    Unauthenticated: (401, "unauthenticated", "Authentication required"),
    Forbidden: (403, "forbidden", "Forbidden"),
    NotFound: (404, "not_found", "Endpoint not found"),
    MethodNotAllowed: (405, "method_not_allowed", "Method not allowed"),
    TooLarge: (413, "too_large", "Request body too large"),
    UriTooLong: (414, "too_large", "Request line too long"),
    HeadersTooLarge: (431, "too_large", "Request header fields too large"),
    NotImplementedHere: (501, "not_implemented", "Transfer coding not implemented"),
}


def descendants(of: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield of
    for below in of.__subclasses__():
        yield from descendants(below)


def test_every_class_has_the_status_code_and_sentence_that_are_promised() -> None:
    told = {
        each: (each.status, each.code, each.sentence)
        for each in descendants(ServiceError)
        if each.__module__ == "chassis.errors"
    }

    assert told == PROMISED


@pytest.mark.parametrize("kind", PROMISED)
def test_an_error_says_its_class_sentence_unless_it_is_given_one(kind: type[ServiceError]) -> None:
    assert str(kind()) == kind().message == kind.sentence
    assert str(kind("Another sentence")) == kind("Another sentence").message == "Another sentence"


def test_an_error_adds_nothing_of_its_own() -> None:
    error = ServiceError()

    assert (error.details, error.retry_after, error.headers) == ((), None, {})


def test_what_an_error_was_given_is_its_own_and_not_its_makers() -> None:
    headers = {"Allow": "GET"}
    error = MethodNotAllowed(headers=headers)
    headers["Allow"] = "POST"

    assert error.headers == {"Allow": "GET"}
    assert MethodNotAllowed().headers == {}


def test_whoever_catches_bad_requests_catches_failed_validation() -> None:
    with pytest.raises(BadRequest):
        raise ValidationFailed(details=[{"field": "name", "message": "Missing", "value": None}])
