"""What the tests of the policies share: a clock that stands still, calls by it, and ends for a chain."""

import select
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

from main_api import errors
from main_api.errors import GatewayError, ServiceRefused
from main_api.exchange import Call, Caller, Instance, Proceed, Reply, Stream
from main_api.policies.coalescing import Flights
from tests.main_api.support import call

ALMOST_ONE = 1 - 2**-53


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def call_at(
    clock: Callable[[], float],
    seconds: float = 10.0,
    *,
    method: str = "GET",
    instance: Instance | None = None,
    caller: Caller | None = None,
    client_header: Callable[[str], str | None] = lambda _: None,
) -> Call:
    """Make a call with ``seconds`` left by ``clock``."""
    made = call(instance=instance)
    return replace(
        made,
        method=method,
        deadline=clock() + seconds,
        caller=caller or made.caller,
        client_header=client_header,
    )


def named(names: str, weights: Iterable[int] = ()) -> tuple[Instance, ...]:
    """Make an instance of each letter."""
    given = list(weights) or [1] * len(names)
    return tuple(Instance("s", f"http://{name}:1", weight) for name, weight in zip(names, given, strict=True))


def letter(instance: Instance | None) -> str:
    """Give the letter that :func:`named` made an instance of."""
    assert instance is not None
    return instance.url[len("http://")]


def streaming(*pieces: bytes, error: Exception | None = None) -> Reply:
    """Make a reply that streams ``pieces`` and then ends, or breaks off by ``error``."""

    def arrive() -> Iterator[bytes]:
        yield from pieces
        if error is not None:
            raise error

    return Reply(200, body=Stream(arrive(), lambda: None))


def answer(_: Call) -> Reply:
    """Answer."""
    return Reply(200)


def failing(error: BaseException) -> Proceed:
    """Make the rest of a chain that ends in ``error``."""

    def fail(_: Call) -> Reply:
        raise error

    return fail


def kinds_of_error() -> set[type[GatewayError]]:
    """Give every class of the gateway's errors."""
    return {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, GatewayError)
    }


def error_of(kind: type[GatewayError], **facts: Any) -> GatewayError:
    """Make an error of ``kind``."""
    return ServiceRefused(404, "parameter_not_found", "none") if kind is ServiceRefused else kind(**facts)


def waiting(flights: Flights[Any]) -> int:
    """Count who waits for another's call."""
    return sum(each.waiting for each in list(flights._flights.values()))


def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Let the other threads run until ``done``."""
    end = monotonic() + seconds
    while not done():
        assert monotonic() < end, "it never came to that"
        select.select((), (), (), 0.0005)
