"""Names are looked up within a time, and the addresses behind them tried within what is left of it."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from main_api.upstream import connecting
from main_api.upstream.connecting import Found, Resolver, connect

HERE: Found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))
THERE: Found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.2", 80))


def finding(*found: Found) -> Callable[..., list[Found]]:
    return lambda *_, **__: list(found)


def test_an_address_needs_no_lookup() -> None:
    def look_up(*_: Any, **__: Any) -> list[Found]:
        raise AssertionError("looked up")

    resolver = Resolver(look_up)

    assert [each[4] for each in resolver("192.0.2.7", 80, 1)] == [("192.0.2.7", 80)]
    assert [each[4][:2] for each in resolver("::1", 80, 1)] == [("::1", 80)]


def test_a_name_is_found() -> None:
    assert Resolver(finding(HERE, THERE))("a.test", 80, 10) == [HERE, THERE]


def test_a_name_that_is_none_is_an_os_error_and_no_timeout() -> None:
    def look_up(*_: Any, **__: Any) -> list[Found]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(OSError, match=r"a\.test") as caught:
        Resolver(look_up)("a.test", 80, 10)
    assert not isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64 + ".test"])
def test_what_cannot_be_a_name_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError, match="not found"):
        Resolver()(host, 80, 10)


def test_a_silent_name_server_is_waited_for_no_longer_than_told_and_asked_once() -> None:
    asked: list[str] = []
    answer = threading.Event()

    def look_up(host: str, *_: Any, **__: Any) -> list[Found]:
        asked.append(host)
        assert answer.wait(10)
        return [HERE]

    resolver = Resolver(look_up)
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"a\.test"):
            resolver("a.test", 80, 0.001)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(resolver, "a.test", 80, 10) for _ in range(4)]
        answer.set()
        assert [each.result(10) for each in found] == [[HERE]] * 4

    # Those who came while it was silent shared one lookup; who came after its answer may have made one more.
    assert 1 <= len(asked) <= 5
    assert set(asked) == {"a.test"}


def test_a_name_is_looked_up_anew_each_time_and_a_failure_is_not_kept() -> None:
    answers: list[Any] = [OSError("away"), [HERE], [THERE]]

    def look_up(*_: Any, **__: Any) -> list[Found]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    resolver = Resolver(look_up)

    with pytest.raises(OSError, match="not found"):
        resolver("a.test", 80, 10)
    assert resolver("a.test", 80, 10) == [HERE]
    assert resolver("a.test", 80, 10) == [THERE]


class FakeSocket:
    """A socket that connects by ``outcomes``: address to what is raised, and how long it takes."""

    clock = 0.0
    outcomes: ClassVar[dict[str, tuple[float, Exception | None]]] = {}
    made: ClassVar[list["FakeSocket"]] = []

    def __init__(self, *_: Any) -> None:
        self.timeouts: list[float] = []
        self.options: list[tuple[Any, ...]] = []
        self.closed = False
        FakeSocket.made.append(self)

    def setsockopt(self, *option: Any) -> None:
        self.options.append(option)

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def connect(self, address: tuple[str, int]) -> None:
        seconds, error = FakeSocket.outcomes[address[0]]
        FakeSocket.clock += seconds
        if error:
            raise error

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> type[FakeSocket]:
    FakeSocket.clock, FakeSocket.outcomes, FakeSocket.made = 0.0, {}, []
    monkeypatch.setattr(connecting.socket, "socket", FakeSocket)
    monkeypatch.setattr(connecting, "monotonic", lambda: FakeSocket.clock)
    return FakeSocket


def test_the_first_address_that_takes_it_is_taken(sockets: type[FakeSocket]) -> None:
    sockets.outcomes = {"192.0.2.1": (0.1, ConnectionRefusedError()), "192.0.2.2": (0.1, None)}

    found = connect(Resolver(finding(HERE, THERE)), "a.test", 80, 0.5, [(6, 1, 1)])

    first, second = sockets.made
    assert found is second  # type: ignore[comparison-overlap]
    assert (first.closed, second.closed) == (True, False)
    assert (first.options, second.options) == ([(6, 1, 1)], [(6, 1, 1)])


def test_all_addresses_share_one_time(sockets: type[FakeSocket]) -> None:
    sockets.outcomes = {"192.0.2.1": (0.3, ConnectionRefusedError()), "192.0.2.2": (0.1, None)}

    connect(Resolver(finding(HERE, THERE)), "a.test", 80, 0.5)

    assert [each.timeouts[0] for each in sockets.made] == pytest.approx([0.5, 0.2])
    # What is left is for TLS's handshake.
    assert sockets.made[1].timeouts[1] == pytest.approx(0.1)


def test_when_the_time_is_over_no_further_address_is_tried(sockets: type[FakeSocket]) -> None:
    sockets.outcomes = {"192.0.2.1": (0.5, TimeoutError("late")), "192.0.2.2": (0.1, None)}

    with pytest.raises(TimeoutError, match="late"):
        connect(Resolver(finding(HERE, THERE)), "a.test", 80, 0.5)
    assert len(sockets.made) == 1
    assert sockets.made[0].closed


def test_a_handshake_has_a_moment_though_connecting_took_it_all(sockets: type[FakeSocket]) -> None:
    sockets.outcomes = {"192.0.2.1": (0.6, None)}

    connect(Resolver(finding(HERE)), "a.test", 80, 0.5)

    assert sockets.made[0].timeouts[1] > 0


def test_the_last_addresss_error_is_told_and_no_address_is_a_timeout(sockets: type[FakeSocket]) -> None:
    sockets.outcomes = {
        "192.0.2.1": (0.1, ConnectionRefusedError("first")),
        "192.0.2.2": (0.1, OSError("second")),
    }

    with pytest.raises(OSError, match="second"):
        connect(Resolver(finding(HERE, THERE)), "a.test", 80, 0.5)
    with pytest.raises(TimeoutError):
        connect(Resolver(finding()), "a.test", 80, 0.5)
