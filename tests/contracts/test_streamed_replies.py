"""Every policy passes a streamed reply on unread, and its close() through, exactly once."""

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Any

import pytest
from limits.strategies import SlidingWindowCounterRateLimiter

import main_api.policies
from chassis.errors import ServiceError
from main_api.audit import Audit
from main_api.errors import BrokenOff, CircuitOpen, Overloaded
from main_api.exchange import Call, Caller, Instance, Policy, Proceed, Reply, Stream, Window
from main_api.policies.admission import Admission, AdmissionSettings
from main_api.policies.algorithms import LeastConnections
from main_api.policies.authentication import Authentication
from main_api.policies.balance import Balance, InFlight
from main_api.policies.bulkhead import Bulkhead
from main_api.policies.cache import Cache, CacheSettings
from main_api.policies.circuit_breaker import Breaker, BreakerSettings, State
from main_api.policies.coalescing import Flights
from main_api.policies.ejection import CircuitBreakers
from main_api.policies.invalidation import Invalidation
from main_api.policies.query import CheckQuery
from main_api.policies.rate_limit import RateLimit
from main_api.policies.retry import Retry, RetrySettings, Throttle
from main_api.policies.scopes import RequireScopes, WithinPaths
from main_api.schemas.query import ParametersQuery
from main_api.state import limits_memory
from main_api.state.limits import LocalLimits, Taken
from main_api.state.memory import MemoryStore
from tests.main_api.policies.fakes import until, waiting

A, B = Instance("s", "http://a.test"), Instance("s", "http://b.test")


def breakers(**settings: Any) -> CircuitBreakers:
    made = BreakerSettings(**settings)
    return CircuitBreakers(lambda changed: Breaker(made, changed), fair_seconds=1)


def retry(throttle: Throttle | None = None, attempts: int = 3) -> Retry:
    settings = RetrySettings(attempts=attempts, backoff=0, backoff_most=0)
    return Retry(settings, throttle or Throttle(), attempt_timeout=1)


def cache(store: MemoryStore) -> Cache:
    # What a route says is fresh would be stored, if only it were whole.
    return Cache(CacheSettings(lifetime=60), "s", store, Flights(), Invalidation())


# One maker per policy, with settings under which the call of `call()` passes, and a second one beside it.
MAKERS: dict[str, Callable[[], Policy]] = {
    "admission.Admission": lambda: Admission(AdmissionSettings(2, 0)),
    "authentication.Authentication": lambda: Authentication(
        lambda call: call.caller, lambda _: Taken(True, 1, 0, 0, 1, 1), Audit()
    ),
    "balance.Balance": lambda: Balance(lambda: (A, B)),
    "bulkhead.Bulkhead": lambda: Bulkhead(2),
    "cache.Cache": lambda: cache(MemoryStore(1 << 20)),
    "ejection.CircuitBreakers": breakers,
    "query.CheckQuery": lambda: CheckQuery(ParametersQuery),
    "rate_limit.RateLimit": lambda: RateLimit(
        LocalLimits(SlidingWindowCounterRateLimiter(limits_memory.MemoryLimits())), "route", Window(10, 60)
    ),
    "retry.Retry": retry,
    "scopes.RequireScopes": lambda: RequireScopes({("decrypt", "true"): "parameters:decrypt"}),
    "scopes.WithinPaths": WithinPaths,
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
        caller=Caller("192.0.2.1", "subject", frozenset({"parameters:read", "parameters:decrypt"})),
        request_id="an-id",
        instance=A,
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


# What a policy holds for a call, it holds until the stream is closed, and gives back once.


class Short:
    """A body of so many pieces, the last of which may break it off."""

    def __init__(self, pieces: int = 1, error: Exception | None = None) -> None:
        self.closed = 0
        self._left = pieces
        self._error = error

    def pieces(self) -> Iterator[bytes]:
        for _ in range(self._left):
            yield b"x"
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed += 1


def streamed(policy: Policy, body: Short) -> Reply:
    return policy(call(), lambda _: Reply(200, body=Stream(body.pieces(), body.close)))


def read(reply: Reply) -> None:
    assert isinstance(reply.body, Stream)
    for _ in reply.body:
        pass


def read_all(reply: Reply) -> None:
    read(reply)
    reply.close()


def broken_off(reply: Reply) -> None:
    with pytest.raises(BrokenOff):
        read(reply)
    reply.close()


def left_at_once(reply: Reply) -> None:
    reply.close()


def left_in_the_middle(reply: Reply) -> None:
    assert isinstance(reply.body, Stream)
    assert next(iter(reply.body)) == b"x"
    reply.close()


ENDS = pytest.mark.parametrize(
    ("pieces", "error", "end"),
    [
        (3, None, read_all),
        (3, BrokenOff(), broken_off),
        (3, None, left_at_once),
        (3, None, left_in_the_middle),
    ],
    ids=["read", "broken off", "left at once", "left in the middle"],
)
End = Callable[[Reply], None]


@ENDS
@pytest.mark.parametrize(
    "make", [lambda: Admission(AdmissionSettings(1, 0)), lambda: Bulkhead(1)], ids=["admission", "bulkhead"]
)
def test_a_streamed_reply_keeps_its_slot_until_it_is_closed(
    make: Callable[[], Policy], pieces: int, error: Exception | None, end: End
) -> None:
    policy = make()
    reply = streamed(policy, Short(pieces, error))
    with pytest.raises(Overloaded):
        streamed(policy, Short())

    end(reply)
    reply.close()

    # Exactly one slot came back: one call has room, and a second beside it has none.
    after = streamed(policy, Short())
    with pytest.raises(Overloaded):
        streamed(policy, Short())
    after.close()


@ENDS
def test_a_streamed_reply_is_in_service_until_it_is_closed(
    pieces: int, error: Exception | None, end: End
) -> None:
    changes: list[int] = []
    reply = streamed(Admission(AdmissionSettings(1, 0), in_service=changes.append), Short(pieces, error))
    assert changes == [1]

    end(reply)
    reply.close()

    assert changes == [1, -1]


@ENDS
def test_a_streamed_reply_is_in_flight_until_it_is_closed(
    pieces: int, error: Exception | None, end: End
) -> None:
    changes: list[tuple[Instance, int]] = []
    in_flight = InFlight(lambda instance, change: changes.append((instance, change)))
    balance = Balance(lambda: (A, B), LeastConnections(in_flight), in_flight=in_flight)

    reply = streamed(balance, Short(pieces, error))
    assert (in_flight(A), in_flight(B)) == (1, 0)
    other = streamed(balance, Short())
    assert (in_flight(A), in_flight(B)) == (1, 1)
    other.close()
    end(reply)
    reply.close()

    assert (in_flight(A), in_flight(B)) == (0, 0)
    assert [change for instance, change in changes if instance == A] == [1, -1]


@pytest.mark.parametrize(
    ("pieces", "error", "end", "verdicts"),
    [
        (3, None, read_all, "success"),
        (0, None, read_all, "success"),
        (3, BrokenOff(), broken_off, "failure"),
        (0, BrokenOff(), broken_off, "failure"),
        (3, None, left_at_once, "nothing"),
        (3, None, left_in_the_middle, "nothing"),
    ],
)
def test_a_breaker_hears_of_a_stream_at_its_close_and_once(
    pieces: int, error: Exception | None, end: End, verdicts: str
) -> None:
    """Told while it is half-open, where a breaker shows what it was told."""
    clock = [0.0]
    made = BreakerSettings(failures_in_a_row=1, half_open_calls=2, open_seconds=5.0)
    links = CircuitBreakers(
        lambda changed: Breaker(made, changed, clock=lambda: clock[0], random=lambda: 0.0), fair_seconds=0.001
    )
    broken_off(streamed(links, Short(0, BrokenOff())))
    breaker = links.of(A)
    assert breaker.state is State.OPEN
    clock[0] = 5.0

    reply = streamed(links, Short(pieces, error))
    assert breaker.state is State.HALF_OPEN
    end(reply)
    reply.close()

    if verdicts == "failure":
        assert breaker.state is State.OPEN
        return
    assert breaker.state is State.HALF_OPEN
    # Two places: a success has taken one for good, a client that left has given its place back.
    held = [streamed(links, Short()) for _ in range(1 if verdicts == "success" else 2)]
    with pytest.raises(CircuitOpen):
        streamed(links, Short())
    for each in held:
        read_all(each)
    assert breaker.state is State.CLOSED


def test_a_stream_that_is_read_and_not_yet_closed_has_told_the_breaker_nothing() -> None:
    links = breakers(failures_in_a_row=1)
    reply = streamed(links, Short(1, BrokenOff()))

    with pytest.raises(BrokenOff):
        read(reply)
    assert links.of(A).state is State.CLOSED
    reply.close()

    assert links.of(A).state is State.OPEN


def test_a_stream_that_broke_off_is_not_asked_for_again() -> None:
    """Bytes of it are with the client already."""
    asked: list[Call] = []
    body = Short(1, BrokenOff())

    def send(each: Call) -> Reply:
        asked.append(each)
        return Reply(200, body=Stream(body.pieces(), body.close))

    broken_off(retry()(call(), send))

    assert len(asked) == 1
    assert body.closed == 1


def test_through_the_whole_chain_a_stream_gives_all_back_once() -> None:
    in_service: list[int] = []
    in_flight = InFlight()
    chain: list[Policy] = [
        Admission(AdmissionSettings(1, 0), in_service=in_service.append),
        Bulkhead(1),
        retry(),
        Balance(lambda: (A, B), in_flight=in_flight),
        breakers(),
    ]
    body = Body()

    def ask() -> Reply:
        reply = Reply(200, body=Stream(body.pieces(), body.close))
        reply.on_close(body.give_back)
        answer: Proceed = lambda _: reply  # noqa: E731
        for policy in reversed(chain):
            answer = partial(policy, proceed=answer)
        return answer(call())

    for time in range(1, 4):
        reply = ask()
        assert isinstance(reply.body, Stream)
        assert next(iter(reply.body)) == b"x"
        assert in_flight(A) + in_flight(B) == 1
        with pytest.raises(Overloaded):
            ask()

        reply.close()
        reply.close()
        assert (body.closed, body.given_back) == (time, time)
        assert (in_flight(A), in_flight(B)) == (0, 0)
    assert in_service == [1, -1] * 3


def test_a_streamed_reply_is_not_kept_and_the_next_one_asks_anew() -> None:
    store = MemoryStore(1 << 20)
    policy, bodies = cache(store), [Body(), Body()]

    replies = [through(policy, body) for body in bodies]

    assert store.used == 0
    for reply, body in zip(replies, bodies, strict=True):
        assert isinstance(reply.body, Stream)
        reply.close()
        assert (body.read, body.closed, body.given_back) == (0, 1, 1)


def test_a_streamed_reply_is_for_its_asker_alone() -> None:
    """Who joined the call that ended in a stream asks for one of its own."""
    flights: Flights[Any] = Flights()
    policy = Cache(CacheSettings(lifetime=60), "s", MemoryStore(1 << 20), flights, Invalidation())
    joined, go = threading.Event(), threading.Event()
    asked: list[Body] = []
    lock = threading.Lock()

    def proceed(_: Call) -> Reply:
        body = Body()
        with lock:
            asked.append(body)
        joined.set()
        assert go.wait(10)
        return Reply(200, body=Stream(body.pieces(), body.close))

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(policy, call(), proceed)
        assert joined.wait(10)
        second = threads.submit(policy, call(), proceed)
        until(lambda: waiting(flights) == 1 or second.done())
        go.set()
        replies = [first.result(10), second.result(10)]

    assert len(asked) == 2
    for reply in replies:
        assert isinstance(reply.body, Stream)
        reply.close()
    assert [(body.read, body.closed) for body in asked] == [(0, 1), (0, 1)]
