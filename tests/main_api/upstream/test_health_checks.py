"""Active checks: what is well, that nothing ends them, and when each instance's turn comes."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from urllib3 import HTTPConnectionPool
from urllib3 import exceptions as urllib3_errors

from main_api.exchange import Instance
from main_api.upstream import health_checks
from main_api.upstream.health_checks import Check, HealthChecks, HealthCheckSettings
from main_api.upstream.session import KeptConnectionEnded, NeverConnected, Session
from tests.main_api.policies.fakes import ALMOST_ONE, Clock, letter, named
from tests.main_api.support import INSTANCE

A, B, C = named("abc")


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ({"path": "health"}, "path"),
        ({"path": ""}, "path"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_a_wrong_number_is_named(numbers: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        HealthCheckSettings(**{"path": "/health", "timeout": 1.0, **numbers})


class Raw:
    """A body that is read, or breaks."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked: list[tuple[int, bool]] = []

    def read(self, most: int, *, decode_content: bool) -> bytes:
        self.asked.append((most, decode_content))
        if self.error:
            raise self.error
        return b"ok"


class FakeSession:
    """A session that answers with a status, or fails when sending or reading."""

    def __init__(
        self, status: int = 200, send: Exception | None = None, read: Exception | None = None
    ) -> None:
        self.status = status
        self.error = send
        self.raw = Raw(read)
        self.sent: list[tuple[requests.PreparedRequest, float, bool]] = []
        self.closed = 0

    def prepare(self, method: str, url: str) -> requests.PreparedRequest:
        return requests.Session().prepare_request(requests.Request(method, url))

    def send(self, request: requests.PreparedRequest, deadline: float, *, fresh: bool = False) -> Any:
        self.sent.append((request, deadline, fresh))
        if self.error:
            raise self.error
        return SimpleNamespace(status_code=self.status, raw=self.raw, close=self.close)

    def close(self) -> None:
        self.closed += 1


def fault(session: FakeSession, instance: Instance = INSTANCE, timeout: float = 2.0) -> str | None:
    return Check(cast("Session", session), HealthCheckSettings(path="/health", timeout=timeout))(instance)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_2xx_is_well(status: int) -> None:
    assert fault(FakeSession(status)) is None


@pytest.mark.parametrize("status", [101, 199, 300, 301, 304, 404, 429, 500, 503, 599])
def test_anything_else_is_not_and_says_its_status(status: int) -> None:
    assert fault(FakeSession(status)) == f"status {status}"


def test_what_is_asked_is_the_path_of_the_instance_on_a_new_connection_within_the_timeout() -> None:
    session = FakeSession()
    before = monotonic()

    fault(session, timeout=2.0)

    [(request, deadline, fresh)] = session.sent
    assert (request.method, request.url) == ("GET", f"{INSTANCE.url}/health")
    assert request.headers["Connection"] == "close"
    assert fresh is True
    assert before + 2 <= deadline <= monotonic() + 2


def test_the_body_is_read_to_a_bound_and_the_answer_closed() -> None:
    session = FakeSession()

    fault(session)

    [(most, decoded)] = session.raw.asked
    assert 0 < most <= 1024**2
    assert decoded is False
    assert session.closed == 1


FAULTS = [
    (requests.ConnectionError(), "ConnectionError"),
    (requests.ReadTimeout(), "ReadTimeout"),
    (requests.exceptions.ChunkedEncodingError(), "ChunkedEncodingError"),
    (requests.exceptions.InvalidURL(), "InvalidURL"),
    (urllib3_errors.ProtocolError(), "ProtocolError"),
    (urllib3_errors.ReadTimeoutError(HTTPConnectionPool("h"), "/", "late"), "ReadTimeoutError"),
    (TimeoutError(), "TimeoutError"),
    (ConnectionResetError(), "ConnectionResetError"),
    (NeverConnected(), "NeverConnected"),
    (NeverConnected(requests.ConnectTimeout()), "ConnectTimeout"),
    (KeptConnectionEnded(requests.ConnectionError()), "ConnectionError"),
]


@pytest.mark.parametrize(("error", "name"), FAULTS, ids=lambda each: type(each).__name__)
def test_an_exception_gives_the_name_of_its_class(error: Exception, name: str) -> None:
    assert fault(FakeSession(send=error)) == name


@pytest.mark.parametrize(
    "error",
    [
        urllib3_errors.ReadTimeoutError(HTTPConnectionPool("h"), "/", "late"),
        urllib3_errors.IncompleteRead(1, 2),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_body_that_breaks_is_a_fault_and_the_answer_is_closed(error: Exception) -> None:
    session = FakeSession(read=error)

    assert fault(session) == type(error).__name__
    assert session.closed == 1


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://a b:1", "http://[::1", "http://a:99999"])
def test_an_address_that_is_none_is_a_fault_too(url: str) -> None:
    session = Session(pool_size=1, connect_timeout=0.1)
    check = Check(session, HealthCheckSettings(path="/health", timeout=0.1))

    assert check(Instance("s", url))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


class Rounds:
    """Checks of a, b and c by a clock, and what was recorded."""

    def __init__(
        self,
        faults: dict[str, str | Exception] | None = None,
        *,
        random: float = 0.0,
        interval: float = 5.0,
        ejected_interval: float = 1.0,
    ) -> None:
        self.clock = Clock()
        self.random = random
        self.faults = faults or {}
        self.listed: Sequence[Instance] = (A, B, C)
        self.ejected: set[str] = set()
        self.new: set[str] = set()
        self.recorded: list[tuple[str, bool, str]] = []
        self.checks = HealthChecks(
            lambda: self.listed,
            self.check,
            lambda instance, ok, cause: self.recorded.append((letter(instance), ok, cause)),
            interval=interval,
            ejected=lambda instance: letter(instance) in self.ejected,
            new=lambda instance: letter(instance) in self.new,
            ejected_interval=ejected_interval,
            clock=self.clock,
            random=lambda: self.random,
        )

    def check(self, instance: Instance) -> str | None:
        found = self.faults.get(letter(instance))
        if isinstance(found, Exception):
            raise found
        return found

    def round(self, pool: ThreadPoolExecutor) -> str:
        """Make a round; give the letters of whom it checked."""
        self.recorded.clear()
        self.checks.round(pool)
        return "".join(each for each, _, _ in self.recorded)


def test_a_round_tells_of_each_what_was_found(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds({"b": "status 500"})

    rounds.round(pool)

    assert rounds.recorded == [("a", True, ""), ("b", False, "status 500"), ("c", True, "")]


def test_instances_are_asked_for_anew_each_round(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds()
    assert rounds.round(pool) == "abc"

    rounds.listed = named("xy")
    rounds.clock.now += 100
    assert rounds.round(pool) == "xy"

    rounds.listed = ()
    rounds.clock.now += 100
    assert rounds.round(pool) == ""


def test_everybody_is_checked_once_an_interval_and_not_before(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds(random=0.5)
    begun = rounds.clock.now

    # Not all workers at the same moment: the first one comes after a random part of the interval.
    assert rounds.round(pool) == ""
    rounds.clock.now = begun + 2.499
    assert rounds.round(pool) == ""
    rounds.clock.now = begun + 2.5
    assert rounds.round(pool) == "abc"
    rounds.clock.now = begun + 7.499
    assert rounds.round(pool) == ""
    rounds.clock.now = begun + 7.5
    assert rounds.round(pool) == "abc"


@pytest.mark.parametrize(("random", "begin", "pause"), [(0.0, 0.0, 4.5), (ALMOST_ONE, 5.0, 5.5)])
def test_the_interval_is_a_tenth_more_or_less(
    pool: ThreadPoolExecutor, random: float, begin: float, pause: float
) -> None:
    rounds = Rounds(random=random)
    first = rounds.clock.now + begin

    rounds.clock.now = first
    assert rounds.round(pool) == "abc"
    rounds.clock.now = first + pause - 0.001
    assert rounds.round(pool) == ""
    rounds.clock.now = first + pause + 0.001
    assert rounds.round(pool) == "abc"


def test_rounds_that_were_missed_are_not_made_up_for(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds()
    rounds.round(pool)
    rounds.clock.now += 100
    assert rounds.round(pool) == "abc"

    rounds.clock.now += 1

    assert rounds.round(pool) == ""


def test_between_them_only_the_ejected_are_checked(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds()
    rounds.round(pool)
    rounds.ejected = set("bc")

    rounds.clock.now += 1
    assert rounds.round(pool) == "bc"
    rounds.clock.now += 1
    rounds.ejected = {"c"}
    assert rounds.round(pool) == "c"
    rounds.clock.now += 10
    assert rounds.round(pool) == "abc"


def test_several_are_asked_at_the_same_time(pool: ThreadPoolExecutor) -> None:
    both = threading.Barrier(3)

    def check(_: Instance) -> str | None:
        both.wait(5)
        return None

    recorded: list[Instance] = []
    checks = HealthChecks(
        lambda: (A, B, C),
        check,
        lambda instance, _, __: recorded.append(instance),
        interval=1.0,
        clock=Clock(),
        random=lambda: 0.0,
    )
    checks.round(pool)

    assert recorded == [A, B, C]


def test_a_check_that_raises_does_not_hide_what_the_others_found(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds({"a": ValueError("x"), "b": "status 500"})

    with suppress(ValueError):
        rounds.round(pool)

    assert ("b", False, "status 500") in rounds.recorded
    assert ("c", True, "") in rounds.recorded


def test_between_them_new_ones_are_checked_too(pool: ThreadPoolExecutor) -> None:
    rounds = Rounds()
    rounds.round(pool)
    rounds.new, rounds.ejected = {"b", "c"}, {"c"}

    assert sorted(rounds.round(pool)) == ["b", "c"]
    rounds.new.clear()
    assert rounds.round(pool) == "c"


def test_new_ones_that_are_many_do_not_hold_up_the_others(pool: ThreadPoolExecutor) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    rounds = Rounds()
    rounds.round(pool)
    rounds.listed, rounds.new, rounds.ejected = named(letters), set(letters), {"z"}
    seen = set()

    for _ in range(200):
        found = rounds.round(pool)
        assert len(found) == 17
        assert found[0] == "z"
        seen |= set(found)

    assert seen == set(letters)


def test_a_first_check_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By real threads: the pause would be an hour."""
    found: list[Instance] = []
    checked = threading.Event()
    listed: list[Instance] = []

    def record(instance: Instance, ok: bool, cause: str) -> None:
        found.append(instance)
        checked.set()

    checks = HealthChecks(
        lambda: listed,
        lambda _: None,
        record,
        interval=3600.0,
        ejected_interval=3600.0,
        new=lambda instance: instance not in found,
        random=lambda: 1.0,
    )
    checks.start()
    try:
        listed.append(A)
        checks.soon()
        assert checked.wait(10)
        assert found == [A]
    finally:
        checks.stop()


class FakeEvent:
    """Stands in for the event that the thread pauses on: each pause is over at once, the last one ends it."""

    pauses: list[float]
    rounds: int
    between: Callable[[], object]

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.between()

    def is_set(self) -> bool:
        return len(self.pauses) > self.rounds

    def clear(self) -> None: ...

    def set(self) -> None: ...


def run(
    monkeypatch: pytest.MonkeyPatch,
    rounds: int,
    make: Callable[[], HealthChecks],
    main_thread: Callable[[], Any] = threading.main_thread,
) -> list[float]:
    """Have the thread make so many rounds without a pause; give the pauses that it would have made."""

    class Event(FakeEvent):
        pauses: list[float] = []  # noqa: RUF012  # one for this run
        between = staticmethod(lambda: None)

    Event.rounds = rounds
    threads: list[threading.Thread] = []

    def thread(**facts: Any) -> threading.Thread:
        threads.append(threading.Thread(**facts))
        return threads[0]

    # The thread's pause is the only thing here that takes time, and it cannot be handed in.
    monkeypatch.setattr(
        health_checks,
        "threading",
        SimpleNamespace(Event=Event, Thread=thread, main_thread=main_thread),
    )
    make().start()
    threads[0].join(10)
    assert not threads[0].is_alive()
    return Event.pauses


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("dictionary changed size"), RecursionError()]
)
@pytest.mark.parametrize("where", ["instances", "check", "record"])
def test_whatever_raises_the_rounds_go_on_and_it_is_logged(
    error: Exception, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[int] = []

    def fails_at_first(place: str) -> None:
        if place == where and len(rounds) < 3:
            rounds.append(1)
            raise error

    recorded: list[Instance] = []

    def instances() -> Sequence[Instance]:
        fails_at_first("instances")
        return (A,)

    def check(_: Instance) -> str | None:
        fails_at_first("check")
        return None

    def record(instance: Instance, _: bool, __: str) -> None:
        fails_at_first("record")
        recorded.append(instance)

    def make() -> HealthChecks:
        now = iter(range(0, 1000, 100))
        return HealthChecks(
            instances, check, record, interval=1.0, clock=lambda: float(next(now)), random=lambda: 0.0
        )

    pauses = run(monkeypatch, 5, make)

    assert len(pauses) == 6
    assert recorded == [A, A]
    told = (
        "the health check of http://a:1 failed" if where != "instances" else "a round of health checks failed"
    )
    assert [each.getMessage() for each in caplog.records] == [told] * 3
    assert {each.levelno for each in caplog.records} == {logging.ERROR}


@pytest.mark.parametrize(
    ("interval", "ejected_interval", "random", "pause"),
    [
        (5.0, 1.0, 0.0, 0.9),
        (5.0, 1.0, 0.5, 1.0),
        (5.0, 1.0, ALMOST_ONE, 1.1),
        (0.5, 1.0, 0.5, 0.5),
    ],
)
def test_the_pause_is_the_shorter_interval_a_tenth_more_or_less(
    interval: float, ejected_interval: float, random: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = run(
        monkeypatch,
        3,
        lambda: HealthChecks(
            lambda: (),
            lambda _: None,
            lambda *_: None,
            interval=interval,
            ejected_interval=ejected_interval,
            clock=Clock(),
            random=lambda: random,
        ),
    )

    assert pauses == pytest.approx([pause] * 4)


def test_when_the_interpreter_ends_so_do_the_rounds_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def instances() -> Sequence[Instance]:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    pauses = run(
        monkeypatch,
        5,
        lambda: HealthChecks(instances, lambda _: None, lambda *_: None, interval=1.0),
        main_thread=lambda: SimpleNamespace(is_alive=lambda: False),
    )

    assert len(pauses) == 1
    assert caplog.records == []


def test_stopped_it_ends_at_once_whatever_the_pause() -> None:
    before = set(threading.enumerate())
    checks = HealthChecks(
        lambda: (A,), lambda _: None, lambda *_: None, interval=3600.0, ejected_interval=3600.0
    )
    checks.start()
    assert any(each.name == "health-checks" for each in set(threading.enumerate()) - before)
    checks.stop()

    assert not set(threading.enumerate()) - before


def test_stopped_before_it_was_started_nothing_happens() -> None:
    HealthChecks(lambda: (), lambda _: None, lambda *_: None, interval=1.0).stop()


def test_nothing_is_asked_before_the_start() -> None:
    def instances() -> Sequence[Instance]:
        raise AssertionError("it asked")

    HealthChecks(instances, lambda _: None, lambda *_: None, interval=0.001).stop()
