"""Every policy passes a streamed reply on unread, and its close() through, exactly once."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

import main_api.policies
from chassis.errors import ServiceError
from main_api.errors import BrokenOff
from main_api.exchange import Call, Caller, Instance, Policy, Reply, Stream
from main_api.policies.balance import Balance
from main_api.policies.scopes import RequireScopes

# One maker per policy, with settings under which the call of `call()` passes.
MAKERS: dict[str, Callable[[], Policy]] = {
    "balance.Balance": lambda: Balance([Instance("s", "http://a.test"), Instance("s", "http://b.test")]),
    "scopes.RequireScopes": lambda: RequireScopes({("decrypt", "true"): "parameters:decrypt"}),
}


def policies() -> set[str]:
    """Find every class in the policies' rooms that is called as a link is."""
    found = set()
    for room in pkgutil.iter_modules(main_api.policies.__path__):
        module = importlib.import_module(f"main_api.policies.{room.name}")
        for name, each in inspect.getmembers(module, inspect.isclass):
            own = each.__module__ == module.__name__ and "__call__" in vars(each)
            if own and list(inspect.signature(each.__call__).parameters) == ["self", "call", "proceed"]:
                found.add(f"{room.name}.{name}")
    return found


class Body:
    """A body that never ends, and that tells how much of it was read and how often it was closed.

    ``given_back`` counts how often its reply was closed, whoever wrapped it on the way.
    """

    def __init__(self) -> None:
        self.read = 0
        self.closed = 0
        self.given_back = 0

    def pieces(self) -> Iterator[bytes]:
        while True:
            self.read += 1
            yield b"x"

    def close(self) -> None:
        self.closed += 1

    def give_back(self) -> None:
        self.given_back += 1


def call() -> Call:
    return Call(
        method="GET",
        path="/p",
        query=(("decrypt", "true"),),
        deadline=monotonic() + 5,
        caller=Caller("192.0.2.1", "subject", frozenset({"parameters:decrypt"})),
        request_id="an-id",
    )


def through(policy: Policy, body: Body) -> Reply:
    reply = Reply(200, body=Stream(body.pieces(), body.close))
    reply.on_close(body.give_back)
    return policy(call(), lambda _: reply)


def test_no_policy_is_forgotten() -> None:
    assert policies() == set(MAKERS)


EVERY_POLICY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@EVERY_POLICY
def test_the_body_is_not_read_and_not_closed_on_its_way(make: Callable[[], Policy]) -> None:
    body = Body()

    reply = through(make(), body)

    assert isinstance(reply.body, Stream)
    assert (body.read, body.closed, body.given_back) == (0, 0, 0)
    reply.close()


@EVERY_POLICY
@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_close_goes_through_exactly_once_however_much_was_read(
    make: Callable[[], Policy], pieces: int
) -> None:
    body = Body()
    reply = through(make(), body)
    assert isinstance(reply.body, Stream)
    stream = iter(reply.body)
    for _ in range(pieces):
        assert next(stream) == b"x"

    reply.close()
    reply.close()

    assert (body.read, body.closed, body.given_back) == (pieces, 1, 1)


@EVERY_POLICY
def test_replies_do_not_close_one_another(make: Callable[[], Policy]) -> None:
    policy, first, second = make(), Body(), Body()
    replies = [through(policy, body) for body in (first, second)]

    replies[0].close()

    assert (first.closed, second.closed) == (1, 0)
    replies[1].close()


@EVERY_POLICY
def test_an_error_goes_through_and_the_policy_serves_on(make: Callable[[], Policy]) -> None:
    policy, body = make(), Body()

    def fail(_: Call) -> Reply:
        raise BrokenOff

    with pytest.raises(ServiceError):
        policy(call(), fail)
    through(policy, body).close()

    assert body.closed == 1
