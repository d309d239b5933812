"""Who is let pass, who is told what is missing, who is counted, and what is written down of it."""

import re
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from chassis.errors import BadRequest, Forbidden, NotFound, ServiceError, Unauthenticated
from main_api.errors import (
    NoCredential,
    QuotaExceeded,
    RateLimited,
    ServiceRefused,
    TokenExpired,
    TokenRevoked,
    UpstreamUnavailable,
)
from main_api.exchange import Call, Caller, Plan, Reply
from main_api.policies.authentication import Authentication, challenge
from tests.main_api.policies.fakes import failing
from tests.main_api.support import call

ANN = Caller("192.0.2.1", "user:u_ann", frozenset({"buckets:read"}), Plan("small"))


class Taken(NamedTuple):
    """What a count led to."""

    allowed: bool
    retry_after: int


class Door:
    """The link with fakes around it, and all that was told to them."""

    def __init__(
        self, found: Caller | ServiceError = ANN, scope: str | None = None, room: int = 1000
    ) -> None:
        self.found = found
        self.room = room
        self.asked: list[Call] = []
        self.counted: list[str] = []
        self.written: list[tuple[str, Call, Caller | None, dict[str, object]]] = []
        self.passed: list[Call] = []
        self.call = call(query=[("name", "a")], headers=(("traceparent", "t"),))
        self.policy = Authentication(self.identify, self.count, self.write, scope=scope)  # type: ignore[arg-type]

    def identify(self, asked: Call) -> Caller:
        self.asked.append(asked)
        if isinstance(self.found, ServiceError):
            raise self.found
        return self.found

    def count(self, address: str) -> Taken:
        self.counted.append(address)
        return Taken(len(self.counted) <= self.room, 17)

    def write(self, event: str, about: Call, caller: Caller | None, **facts: object) -> None:
        self.written.append((event, about, caller, facts))

    def ask(self, reply: Reply | ServiceError | None = None) -> Reply:
        def proceed(passed: Call) -> Reply:
            self.passed.append(passed)
            if isinstance(reply, ServiceError):
                raise reply
            return reply or Reply(200)

        return self.policy(self.call, proceed)

    def refused(self, reply: ServiceError | None = None) -> ServiceError:
        with pytest.raises(ServiceError) as raised:
            self.ask(reply)
        return raised.value


# RFC 9110, 11.6.1 and 5.6.4; RFC 6750, 3: what the texts may be made of.
_PARAMETER = r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)="((?:[\t !#-\[\]-~]|\\[\t -~])*)"'
_TEXT = re.compile(r"[ !#-\[\]-~]+")


def read(value: str) -> tuple[str, dict[str, str]]:
    """Read a challenge: its scheme and its parameters."""
    scheme, space, rest = value.partition(" ")
    assert re.fullmatch("[A-Za-z]+", scheme)
    assert space
    found = re.findall(_PARAMETER, rest)
    assert ", ".join(f'{name}="{text}"' for name, text in found) == rest
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    assert all(_TEXT.fullmatch(text) for _, text in found)
    return scheme, dict(found)


def challenge_of(error: ServiceError) -> dict[str, str]:
    scheme, parameters = read(error.headers["WWW-Authenticate"])
    assert scheme == "Bearer"
    assert parameters.pop("realm") == "main-api"
    return parameters


# Who passes.


def test_a_call_passes_with_its_caller_and_is_the_same_besides() -> None:
    door, reply = Door(), Reply(200)

    assert door.ask(reply) is reply
    assert door.asked == [door.call]
    [passed] = door.passed
    assert passed.caller is ANN
    assert replace(passed, caller=door.call.caller) == door.call
    # The log and the answer are told through the trail that the call came with.
    assert passed.trail is door.call.trail
    assert door.call.trail.caller is ANN
    assert (door.counted, door.written) == ([], [])


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        (None, []),
        ("buckets:read", ["buckets:read"]),
        ("gateway:operate", ["buckets:read", "gateway:operate"]),
        ("parameters:read", ["parameters:read:/database/**"]),
    ],
)
def test_who_holds_the_scope_passes(scope: str | None, scopes: list[str]) -> None:
    door = Door(replace(ANN, scopes=frozenset(scopes)), scope)

    assert door.ask().status == 200
    assert len(door.passed) == 1


@pytest.mark.parametrize("status", [200, 304, 401, 403, 500])
def test_what_is_answered_is_not_looked_at(status: int) -> None:
    door, reply = Door(), Reply(status, (("WWW-Authenticate", "Basic"),))

    assert door.ask(reply) is reply
    assert reply.headers == (("WWW-Authenticate", "Basic"),)
    assert door.written == []


# Who does not.


def test_who_shows_nothing_is_told_what_to_show_and_neither_counted_nor_written_down() -> None:
    error = NoCredential()
    door = Door(error)

    assert door.refused() is error
    # RFC 6750, 3.1: no error code where no credential was tried.
    assert challenge_of(error) == {}
    assert (door.passed, door.counted, door.written) == ([], [], [])
    assert door.call.trail.caller is None


@pytest.mark.parametrize(
    "error",
    [
        Unauthenticated("The API key is not valid"),
        Unauthenticated(),
        TokenExpired(),
        TokenExpired("The API key has expired"),
        TokenRevoked(),
    ],
)
def test_a_credential_that_is_no_good_is_counted_and_written_down_once(error: Unauthenticated) -> None:
    door = Door(error)

    assert door.refused() is error
    assert challenge_of(error) == {"error": "invalid_token", "error_description": error.message}
    assert door.counted == ["192.0.2.1"]
    assert door.written == [("refused", door.call, None, {"reason": error.code})]
    assert door.passed == []
    # Nobody is known, so nothing says that the answer is somebody's.
    assert door.call.trail.caller is None


def test_whoever_guesses_too_often_is_told_no_more() -> None:
    door = Door(Unauthenticated("The API key is not valid"), room=2)
    told = [door.refused() for _ in range(4)]

    assert [each.status for each in told] == [401, 401, 429, 429]
    assert type(told[-1]) is RateLimited
    assert told[-1].retry_after == 17
    assert "WWW-Authenticate" not in told[-1].headers
    # What it was that was wrong is not in what a log would write of it.
    assert told[-1].__suppress_context__
    # It goes on to be written down.
    assert len(door.written) == 4
    door.found = ANN
    assert door.ask().status == 200
    assert len(door.counted) == 4


@pytest.mark.parametrize("error", [UpstreamUnavailable(), BadRequest(), RateLimited()])
def test_what_else_goes_wrong_in_finding_out_says_nothing_of_the_credential(error: ServiceError) -> None:
    door = Door(error)

    assert door.refused() is error
    assert error.headers == {}
    assert (door.passed, door.counted, door.written) == ([], [], [])


@pytest.mark.parametrize("scopes", [[], ["buckets:read"], ["GATEWAY:OPERATE"], ["gateway:operate "]])
def test_a_known_caller_without_the_scope_is_told_which_and_written_down_once(scopes: list[str]) -> None:
    caller = replace(ANN, scopes=frozenset(scopes))
    door = Door(caller, "gateway:operate")
    error = door.refused()

    assert type(error) is Forbidden
    assert error.message == "This takes the scope gateway:operate"
    assert challenge_of(error) == {"error": "insufficient_scope", "error_description": error.message}
    assert door.written == [("forbidden", door.call, caller, {"reason": error.message})]
    assert (door.passed, door.counted) == ([], [])
    # It is an answer to somebody known, and private.
    assert door.call.trail.caller is caller


def test_what_an_inner_link_forbids_is_written_down_once_and_told_in_the_same_way() -> None:
    door = Door(scope="buckets:read")
    error = Forbidden("decrypt=true takes the scope parameters:decrypt")

    assert door.refused(error) is error
    assert challenge_of(error) == {"error": "insufficient_scope", "error_description": error.message}
    assert door.written == [("forbidden", door.call, ANN, {"reason": error.message})]
    assert len(door.passed) == 1
    assert door.counted == []


@pytest.mark.parametrize(
    "error",
    [
        ServiceRefused(403, "forbidden", "Not for you"),
        ServiceRefused(404, "parameter_not_found", "none"),
        UpstreamUnavailable(),
        QuotaExceeded(retry_after=5),
        BadRequest(),
        NotFound(headers={"X-Own": "1"}),
        Unauthenticated(headers={"WWW-Authenticate": "Bearer"}),
        ServiceError(),
    ],
    ids=lambda error: f"{error.status} {type(error).__name__}",
)
def test_other_errors_of_what_lies_behind_are_left_as_they_are(error: ServiceError) -> None:
    door = Door()
    before = (error.message, dict(error.headers))

    assert door.refused(error) is error
    assert (error.message, error.headers) == before
    assert (door.counted, door.written) == ([], [])
    assert door.call.trail.caller is ANN


def test_a_bug_behind_it_is_nobodys_fault() -> None:
    door = Door()
    with pytest.raises(ZeroDivisionError):
        door.policy(door.call, failing(ZeroDivisionError()))

    assert (door.counted, door.written) == ([], [])


def test_each_call_is_looked_at_anew() -> None:
    door = Door()
    door.ask()
    other = replace(ANN, subject="user:u_bob")
    door.found = other
    door.ask()
    door.found = NoCredential()
    door.refused()

    assert [each.caller for each in door.passed] == [ANN, other]
    assert len(door.asked) == 3


# The challenge.


@given(st.text("".join(map(chr, (*range(0x20, 0x22), *range(0x23, 0x5C), *range(0x5D, 0x7F)))), max_size=60))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_challenge_reads_as_it_was_meant(description: str) -> None:
    expected: dict[str, Any] = {"realm": "main-api", "error": "invalid_token"}
    if description:
        expected["error_description"] = description

    assert read(challenge("invalid_token", description)) == ("Bearer", expected)
    assert challenge() == 'Bearer realm="main-api"'
