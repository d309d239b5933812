"""The guard before Redis: who tries when, what is given in its place, what the log says; no socket here."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Unconnected
from redis.exceptions import TimeoutError as TimedOut

from main_api.state.redis_guard import AWAY_SECONDS, RedisGuard, address

WHERE = "cache.example:6379"
AWAY = [
    Unconnected("Error 111 connecting to cache.example:6379. Connection refused."),
    TimedOut("Timeout reading from socket"),
    AuthenticationError("invalid username-password pair"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    InvalidResponse("Protocol Error: b'canary'"),
    RedisError("something else"),
    OSError(104, "reset"),
    TimeoutError("of the system"),
]
REFUSED = [OutOfMemoryError("canary"), NoPermissionError("canary"), ResponseError("WRONGTYPE canary")]


class Guarded:
    """A guard with a clock to be moved, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[str] = []
        self.client: Any = object()
        self.guard = RedisGuard(self.client, WHERE, clock=lambda: self.now, told=self.told.append)
        self.asked = 0

    def ask(self, error: BaseException | None = None) -> str:
        """Do some work, which fails with ``error``; tell what became of it."""

        def work(client: Redis) -> str:
            assert client is self.client
            self.asked += 1
            if error is not None:
                raise error
            return "done"

        return self.guard.call(work, "otherwise")


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def test_while_redis_is_there_all_work_is_done(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    assert [guarded.ask() for _ in range(3)] == ["done"] * 3
    assert guarded.asked == 3
    assert guarded.told == []
    assert caplog.records == []


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_after_one_failure_nobody_tries_for_a_second_and_then_one_does(
    guarded: Guarded, error: Exception
) -> None:
    assert guarded.ask(error) == "otherwise"
    guarded.now += AWAY_SECONDS - 0.001
    assert guarded.ask() == "otherwise"
    assert guarded.asked == 1

    guarded.now += 0.001
    assert [guarded.ask(), guarded.ask()] == ["done", "done"]
    assert guarded.asked == 3
    assert guarded.told == ["away", "back"]


def test_a_trial_that_fails_is_one_more_second(guarded: Guarded) -> None:
    guarded.ask(AWAY[0])
    for _ in range(3):
        guarded.now += AWAY_SECONDS
        asked = guarded.asked
        assert [guarded.ask(AWAY[1]), guarded.ask()] == ["otherwise", "otherwise"]
        assert guarded.asked == asked + 1

    assert guarded.told == ["away"]


def test_while_one_tries_the_others_count_it_as_away_however_long_that_takes(guarded: Guarded) -> None:
    guarded.ask(AWAY[0])
    guarded.now += AWAY_SECONDS
    meanwhile: list[str] = []

    def long(_: Redis) -> str:
        guarded.now += 10 * AWAY_SECONDS
        meanwhile.append(guarded.ask())
        return "tried"

    assert guarded.guard.call(long, "otherwise") == "tried"
    assert meanwhile == ["otherwise"]
    assert guarded.ask() == "done"


def test_of_many_threads_exactly_one_tries(guarded: Guarded) -> None:
    guarded.ask(AWAY[0])
    guarded.now += AWAY_SECONDS
    go, over = threading.Barrier(8), threading.Event()
    tried: list[bool] = []
    given: list[str] = []

    def work(_: Redis) -> str:
        tried.append(True)
        over.wait(10)
        return "done"

    def ask() -> None:
        go.wait(10)
        given.append(guarded.guard.call(work, "otherwise"))
        if len(given) == 7:
            over.set()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(tried) == 1
    assert sorted(given) == ["done"] + ["otherwise"] * 7


def within(guarded: Guarded, happens: Callable[[], object], end: Exception | None) -> None:
    """Let ``happens`` happen while some work is under way that then ends with ``end``."""

    def work(_: Redis) -> str:
        happens()
        if end is not None:
            raise end
        return "done"

    guarded.guard.call(work, "otherwise")


def test_a_failure_of_before_it_came_back_does_not_send_it_away_again(guarded: Guarded) -> None:
    def away_and_back() -> None:
        guarded.ask(AWAY[0])
        guarded.now += AWAY_SECONDS
        guarded.ask()

    within(guarded, away_and_back, AWAY[1])

    assert guarded.ask() == "done"
    assert guarded.told == ["away", "back"]


def test_a_failure_of_before_it_went_away_does_not_make_that_longer(guarded: Guarded) -> None:
    def away() -> None:
        guarded.ask(AWAY[0])
        guarded.now += AWAY_SECONDS / 2

    within(guarded, away, AWAY[1])

    guarded.now += AWAY_SECONDS / 2
    assert guarded.ask() == "done"


def test_a_success_of_before_it_went_away_does_not_bring_it_back(guarded: Guarded) -> None:
    within(guarded, lambda: guarded.ask(AWAY[0]), None)

    assert guarded.ask() == "otherwise"
    assert guarded.told == ["away"]


@pytest.mark.parametrize("error", REFUSED, ids=repr)
def test_a_refusal_sends_nobody_away_and_is_told_once_a_minute_without_its_text(
    guarded: Guarded, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert [guarded.ask(error), guarded.ask(error), guarded.ask()] == ["otherwise", "otherwise", "done"]
    assert guarded.asked == 3
    guarded.now += 60
    guarded.ask(error)

    assert [record.getMessage() for record in caplog.records] == [
        f"Redis at {WHERE} refuses: {type(error).__name__}"
    ] * 2
    assert guarded.told == []


def test_a_refusal_is_an_answer_so_a_trial_that_meets_one_brings_it_back(guarded: Guarded) -> None:
    guarded.ask(AWAY[0])
    guarded.now += AWAY_SECONDS

    assert [guarded.ask(REFUSED[0]), guarded.ask()] == ["otherwise", "done"]
    assert guarded.told == ["away", "back"]


def test_what_is_not_of_redis_passes_through_and_says_nothing_of_it(guarded: Guarded) -> None:
    with pytest.raises(ZeroDivisionError):
        guarded.ask(ZeroDivisionError())
    assert guarded.ask() == "done"

    guarded.ask(AWAY[0])
    guarded.now += AWAY_SECONDS
    with pytest.raises(KeyboardInterrupt):
        guarded.ask(KeyboardInterrupt())
    # That one had its turn and used it for nothing; the next one has it.
    assert guarded.ask() == "done"


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_one_warning_says_that_it_is_away_and_one_line_that_it_is_back(
    guarded: Guarded, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for failure in (error, error, None, None):
        guarded.ask(failure)
        guarded.now += AWAY_SECONDS

    away, back = caplog.records
    assert (away.levelname, back.levelname) == ("WARNING", "INFO")
    assert away.getMessage().startswith(f"Redis at {WHERE} is away: {type(error).__name__}")
    assert back.getMessage() == f"Redis at {WHERE} is back"
    assert "canary" not in caplog.text


def test_the_reason_is_in_the_log_and_not_all_of_it(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.ask(Unconnected("refused " + "x" * 1000))

    assert "refused" in caplog.text
    assert len(caplog.records[0].getMessage()) < 300


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache", "cache:6379"),
        ("redis://user:canary@cache:6380/1", "cache:6380"),
        ("rediss://:canary@[fd00::1]/0", "[fd00::1]:6379"),
        ("redis://", "localhost:6379"),
        ("unix://user:canary@/run/my%20redis.sock?password=canary", "/run/my redis.sock"),
    ],
)
def test_of_an_address_only_host_and_port_are_shown(url: str, shown: str) -> None:
    assert address(url) == shown
