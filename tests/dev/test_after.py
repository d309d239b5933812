"""Waiting for a port, without one."""

import socket

import pytest

from dev import after


class Probe:
    """A socket whose first connections are refused."""

    refusals = 0

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect_ex(self, address: tuple[str, int]) -> int:
        assert address == ("127.0.0.1", 4566)
        type(self).refusals -= 1
        return 0 if self.refusals < 0 else 111


@pytest.fixture(autouse=True)
def no_socket_and_no_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(socket, "socket", Probe)
    monkeypatch.setattr(after.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(after.time, "sleep", sleep)
    return clock


def test_it_ends_well_once_the_port_is_open(no_socket_and_no_sleep: list[float]) -> None:
    Probe.refusals = 3

    assert after.main(["4566"]) == 0
    assert no_socket_and_no_sleep[0] == pytest.approx(0.15)


def test_it_gives_up_after_a_minute(no_socket_and_no_sleep: list[float]) -> None:
    Probe.refusals = 10**6

    assert after.main(["4566"]) == 1
    assert no_socket_and_no_sleep[0] == pytest.approx(60, abs=1)
